# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Compares a compiled model with what it was made of: outputs and speed."""

import json
import os
import statistics
import time

import numpy as np
import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port

from demo import predictor
from demo import runner_helpers

# Rows of the built-in sample and of a batch, and pairs of calls to time.
_NUM_ROWS, _BATCH, _ROUNDS = 64, 8, 12
_SEED = 20
# A float32 model that is further off than this is not the same model.
_LARGEST_DIFFERENCE = 1e-3
_PROCESSOR_FILE = "/proc/cpuinfo"


class Samples(object):
  """Rows to compare models on.

  Attributes:
    rows: list of predictor.Row.
    source: string, where they are from.
  """

  def __init__(self, rows, source):
    """See the class."""
    self.rows, self.source = rows, source


def read_samples(path, source):
  """Reads texts, or makes random rows.

  Args:
    path: string, see --sample_file; None for random rows.
    source: compile_reader.Source.

  Returns:
    Samples.

  Raises:
    ValueError: the file has no text that fits the model.
  """
  if not path:
    return Samples(_random_rows(source), "random tokens")
  if source.info is None:
    raise ValueError(
        f"--sample_file={path}: {source.path} has no vocabulary in its assets "
        f"to read texts with. Leave it out.")
  codec = predictor.make_codec(source.path, source.info)
  rows = []
  for number, item in _items(path):
    try:
      rows += codec.encode(item).rows
    except ValueError as error:
      raise ValueError(
          f"--sample_file={path}, line {number}: {error}") from None
  if not rows:
    raise ValueError(f"--sample_file={path} has no text.")
  return Samples(rows, path)


def _items(path):
  """Yields (number, item) of the lines of a file, as codecs take them."""
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise ValueError(f"--sample_file={path} is not there.")
  with tf.io.gfile.GFile(path, "rb") as reader:
    for number, raw in enumerate(reader, 1):
      try:
        line = raw.decode("utf-8").rstrip("\r\n")
        if not line:
          continue
        yield number, (json.loads(line) if path.endswith(".jsonl")
                       else tuple(line.split("\t")))
      except ValueError as error:
        raise ValueError(f"--sample_file={path}, line {number}: {error}. "
                         f"Lines are UTF-8 text, of .jsonl files JSON."
                         ) from None


def _random_rows(source):
  """Rows of lengths as sentences have them, with two segments."""
  rng = np.random.RandomState(_SEED)
  sizes = source.sizes
  longest = source.inputs["input_ids"][1] or (source.info or {}).get(
      "max_seq_length") or min(128, sizes.positions)
  rows = []
  for _ in range(_NUM_ROWS):
    length = int(np.clip(rng.lognormal(np.log(0.35 * longest), 0.5), 2,
                         longest))
    second = rng.randint(1, length + 1)
    # The first thousand of a real vocabulary are marks and characters.
    low = 1000 if sizes.vocabulary > 2000 else 0
    rows.append(predictor.Row(
        rng.randint(low, sizes.vocabulary, length).tolist(), [1] * length,
        [0] * second + [min(1, sizes.types - 1)] * (length - second)))
  return rows


def compare(source, folder, samples, is_exact):
  """Runs the old and the new model on the same rows.

  Args:
    source: compile_reader.Source.
    folder: string, the new model.
    samples: Samples.
    is_exact: bool, the outputs should be the same but for rounding.

  Returns:
    Dict for the report.

  Raises:
    ValueError: they are not.
  """
  original = runner_helpers.load_runner(source.path)
  compiled = runner_helpers.load_runner(folder)
  fixed = compiled.specs["input_ids"].shape[0]
  batch_size = fixed or original.specs["input_ids"].shape[0] or _BATCH
  length = compiled.specs["input_ids"].shape[1]
  rows = [predictor.Row(*(column[:length] for column in row))
          for row in samples.rows]
  batches = [rows[start:start + batch_size]
             for start in range(0, len(rows), batch_size)]
  difference, agreed, count = 0.0, 0, 0
  for batch in batches:
    outputs = [runner.run(predictor.batch_of_rows(batch, runner.specs))
               for runner in (original, compiled)]
    of_batch = _compare_outputs(source.sizes.kind, batch, *outputs)
    difference = max(difference, of_batch[0])
    agreed, count = agreed + of_batch[1], count + of_batch[2]
  if not np.isfinite(difference) or (
      is_exact and difference > _LARGEST_DIFFERENCE):
    raise ValueError(
        f"The outputs of the new model are up to {difference:.2g} off, more "
        f"than rounding explains: nothing was written. {source.path} is not "
        f"the BERT that its variables say, or this is a fault of "
        f"demo.compile_model.")
  return {
      "rows": len(rows), "rows_from": samples.source,
      "largest_difference": difference,
      "label_agreement": agreed / count if count else None,
      "batch_size": batch_size, **_speeds(original, compiled, batches),
      "bytes": {"input": size(source.path), "output": size(folder)},
      "processor": processor()}


def _compare_outputs(kind, rows, expected, found):
  """Compares the outputs of a batch.

  Returns:
    (largest absolute difference, answers that are the same, answers).
  """
  largest, agreed, count = 0.0, 0, 0
  names = (("start_logits", "end_logits") if kind == "squad"
           else ("probabilities",))
  for name in names:
    for number, row in enumerate(rows):
      one, other = expected[name][number], found[name][number]
      if kind == "squad":
        one, other = one[:len(row.input_ids)], other[:len(row.input_ids)]
      # NaN is no difference that max() would see.
      off = float(np.abs(one - other).max())
      largest = max(largest, off) if off == off else float("inf")
      if kind != "regression":
        agreed += int(np.argmax(one) == np.argmax(other))
        count += 1
  return largest, agreed, count


def _speeds(original, compiled, batches):
  """Times calls of both models in turn, so that both see the same machine."""
  seconds = ([], [])
  for number in range(_ROUNDS + 1):
    batch = batches[number % len(batches)]
    for runner, taken in zip((original, compiled), seconds):
      feed = predictor.batch_of_rows(batch, runner.specs)
      start = time.perf_counter()
      runner.run(feed)
      taken.append(time.perf_counter() - start)
  before, after = (taken[1:] for taken in seconds)  # Without the first call.
  return {
      "ms_per_batch": {
          "input": 1000 * statistics.median(before),
          "output": 1000 * statistics.median(after)},
      "speed_ratio": statistics.median(
          one / other for one, other in zip(before, after))}


def size(path):
  """Bytes (int) of a model with its variables, without its other files."""
  return sum(
      tf.io.gfile.stat(os.path.join(folder, name)).length
      for folder, _, names in tf.io.gfile.walk(path) for name in names
      if os.path.basename(folder) != "assets")


def processor():
  """What the machine computes with.

  Returns:
    Dict: "name" (string), "bf16" (bool: whether it multiplies bfloat16),
    "vnni" (bool: the same of 8 bit integers), "onednn" (bool: whether
    TensorFlow uses oneDNN's operations, which do).
  """
  name, found = "unknown", set()
  if os.path.exists(_PROCESSOR_FILE):
    with open(_PROCESSOR_FILE, encoding="utf-8") as reader:
      for line in reader:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
          name = value.strip()
        if key.strip() == "flags":
          found = set(value.split())
          break
  return {"name": name, "bf16": bool({"avx512_bf16", "amx_bf16"} & found),
          "vnni": bool({"avx512_vnni", "avx_vnni", "amx_int8"} & found),
          "onednn": bool(_pywrap_util_port.IsMklEnabled())}


def slow_bf16(computer):
  """Why bfloat16 is not fast here (string); None where it is.

  Args:
    computer: dict, see `processor`.
  """
  if not computer["bf16"]:
    return "bfloat16 is fast on processors that have it; this one doesn't."
  if not computer["onednn"]:
    return ("bfloat16 is fast on processors that have it, with oneDNN on: "
            "export TF_ENABLE_ONEDNN_OPTS=1")
  return None


def lines(report):
  """The report as lines to print."""
  spent, stored = report["ms_per_batch"], report["bytes"]
  yield (f"Rows: {report['rows']} ({report['rows_from']}), in batches of "
         f"{report['batch_size']}")
  yield f"Largest difference: {report['largest_difference']:.2g}"
  if report["label_agreement"] is not None:
    yield f"Same answers: {100 * report['label_agreement']:.2f} %"
  yield (f"Milliseconds per batch: {spent['input']:.1f} before, "
         f"{spent['output']:.1f} after: {report['speed_ratio']:.2f} times as "
         f"fast")
  yield (f"MB: {stored['input'] / 1e6:.1f} before, "
         f"{stored['output'] / 1e6:.1f} after")
  computer = report["processor"]
  yield (f"Processor: {computer['name']}, "
         f"{'with' if computer['bf16'] else 'without'} bfloat16; oneDNN is "
         f"{'on' if computer['onednn'] else 'off'}")
  if report["dtype"] == "bfloat16" and slow_bf16(computer):
    yield slow_bf16(computer)
