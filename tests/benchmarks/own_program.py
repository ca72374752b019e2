"""This project's side of the measurements; see peers/turns.py."""

import itertools
import os
import platform
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from demo import compile_check
from demo import compile_model
from demo import compile_reader
from demo import compute_helpers
from demo import config_helpers
from demo import horovod_helpers
from demo import int8_backends
from demo import int8_config
from demo import int8_onnx
from demo import predictor
from demo import runner_helpers
from demo import xla_helpers
import run_classifier
import tokenization
from tests.benchmarks import model
from tests.benchmarks import texts
from tests.benchmarks.peers import turns

_PRODUCTS_SECONDS = 0.2
_MODES = tf.estimator.ModeKeys
# Flags of demo.compile_model for a model; others are named by their --dtype.
_COMPILED = {"onnx": dict(format="onnx"),
             "aggressive": dict(dtype="bfloat16",
                                aggressive_optimizations=True)}


def _versions(*names):
  """name -> version of TensorFlow and more modules."""
  return {"tensorflow": tf.__version__, **{
      name: getattr(sys.modules[name], "__version__", "?") for name in names}}


def machine(spec):
  """What the measurements run on: facts alone."""
  return turns.Case(lambda: None, {
      "processor": compile_check.processor(), "threads": spec["threads"],
      "versions": {"python": platform.python_version(), **_versions()}})


def _product(shape, dtype):
  """(operation, its number of operations) of a matrix product.

  Args:
    shape: (int, int, int): rows, inner size and columns.
    dtype: tf.DType.
  """
  rows, inner, columns = shape
  return (compute_helpers.product(*shape, dtype), 2 * rows * inner * columns)


def _session(config=None):
  """A session with its variables set."""
  session = tf.compat.v1.Session(config=config)
  session.run(tf.compat.v1.global_variables_initializer())
  return session


def product(spec):
  """A matrix product of spec["shape"] in spec["dtype"]."""
  operation, flops = _product(spec["shape"], tf.as_dtype(spec["dtype"]))
  session = _session()

  def run():
    session.run(operation)
    return {"rows": spec["shape"][0], "flops": flops}
  return turns.Case(run, {"versions": _versions()})


def _read_rows(spec):
  """The dict of arrays in spec["rows_file"], see model.make_rows."""
  with np.load(spec["rows_file"]) as reader:
    return dict(reader)


def _record_batches(spec, is_training, length_step=None):
  """(batches, number of rows, length) of spec["rows_file"] as records."""
  rows = _read_rows(spec)
  count, length = rows["input_ids"].shape
  path = os.path.join(spec["folder"], f"rows_{os.getpid()}.tf_record")
  model.write_records(rows, path)
  return (model.read_batches(path, spec["batch"], length, is_training,
                             length_step), count, length)


def _step_case(spec, session, fetched, mask, count, passes, beside=None):
  """A Case of as many batches as there are rows.

  Args:
    spec: dict.
    session: Session.
    fetched: what a batch is for.
    mask: int32 tensor [B, S], 1 for tokens.
    count: int, rows.
    passes: int, 3 with the way back, 1 without.
    beside: see turns.Case.
  """
  lengths = tf.reduce_sum(mask, axis=1)
  size = model.SIZES[spec["size"]]

  def run():
    found = [session.run([fetched, lengths])[1]
             for _ in range(count // spec["batch"])]
    found = np.concatenate(found)
    return {"rows": len(found), "tokens": int(found.sum()),
            "flops": passes * model.flops(size, found)}
  return turns.Case(run, {"versions": _versions()}, beside)


def training(spec):
  """The training step of a spec, see `train`.

  Returns:
    (Session, operation, int32 tensor [B, S] that is 1 for tokens, number of
    rows, tf.DType that it computes in).
  """
  configuration = model.CONFIGURATIONS[spec["configuration"]]
  options = configuration.made_options()
  if spec.get("parts", 1) > 1:
    options = options._replace(num_accumulation_steps=spec["parts"])
  config = horovod_helpers.session_config()
  if configuration.use_xla:
    xla_helpers.allow_cpu()
    config = xla_helpers.compiling_config(config)
  tf.compat.v1.enable_resource_variables()
  features, count, _ = _record_batches(
      spec, True, configuration.length_step)
  tf.compat.v1.train.get_or_create_global_step()
  train_op = model.model_fn(model.SIZES[spec["size"]], options)(
      features, None, _MODES.TRAIN, {}).train_op
  return (_session(config), train_op, features["input_mask"], count,
          options.compute_dtype)


def train(spec):
  """Training steps of run_classifier.py on records.

  The spec has "size" and "configuration" (names, see model.py), "rows_file",
  "batch" (rows of a step) and "folder".
  """
  session, train_op, mask, count, dtype = training(spec)
  width = model.SIZES[spec["size"]].width
  with tf.Graph().as_default():
    operation, flops = _product((4096, width, 4 * width), dtype)
    beside = _session()

  def products():
    """Products for a while; returns their operations."""
    begin, done = time.perf_counter(), 0
    while time.perf_counter() < begin + _PRODUCTS_SECONDS:
      beside.run(operation)
      done += flops
    return done
  return _step_case(spec, session, train_op, mask, count, 3, products)


def evaluate(spec):
  """The graph of an evaluation (spec["mode"] "eval") or prediction."""
  features, count, _ = _record_batches(spec, is_training=False)
  tf.compat.v1.train.get_or_create_global_step()
  made = model.model_fn(model.SIZES[spec["size"]])(
      features, None, spec["mode"], {})
  fetched = made.loss if spec["mode"] == _MODES.EVAL else made.predictions
  return _step_case(spec, _session(), fetched, features["input_mask"], count, 1)


def read_records(spec):
  """The input pipeline alone: records read, parsed, shuffled and batched."""
  features, count, _ = _record_batches(spec, is_training=True)
  session = _session()

  def run():
    for _ in range(count // spec["batch"]):
      session.run(features)
    return {"rows": count // spec["batch"] * spec["batch"]}
  return turns.Case(run, {"versions": _versions()})


def _read_lines(path):
  with open(path, encoding="utf-8") as reader:
    return reader.read().splitlines()


def write_records(spec):
  """Sentences to a record file, as run_classifier.py does it."""
  lines = _read_lines(spec["sentences_file"])
  tokenizer = tokenization.FullTokenizer(spec["vocab_file"])
  examples = [run_classifier.InputExample(f"{number}", line, None, "0")
              for number, line in enumerate(lines)]
  path = os.path.join(spec["folder"], f"written_{os.getpid()}.tf_record")

  def run():
    run_classifier.file_based_convert_examples_to_features(
        examples, ["0", "1"], spec["length"], tokenizer, path)
    return {"rows": len(examples)}
  return turns.Case(run, {"versions": _versions()})


def tokenize(spec):
  """FullTokenizer.tokenize and convert_tokens_to_ids of sentences."""
  lines = _read_lines(spec["sentences_file"])
  tokenizer = tokenization.FullTokenizer(spec["vocab_file"])

  def run():
    tokens = sum(len(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(line)))
                 for line in lines)
    return {"rows": len(lines), "tokens": tokens}
  return turns.Case(run, {})


def tokenize_in_graph(spec):
  """tensorflow-text's tokenizer spec["tokenizer"] on all sentences."""
  import tensorflow_text  # pylint: disable=import-outside-toplevel
  lines = _read_lines(spec["sentences_file"])
  if spec["tokenizer"] == "FastBertTokenizer":
    tokenizer = tensorflow_text.FastBertTokenizer(
        _read_lines(spec["vocab_file"]), lower_case_nfd_strip_accents=True,
        token_out_type=tf.int32)
  else:
    tokenizer = tensorflow_text.BertTokenizer(
        spec["vocab_file"], lower_case=True, token_out_type=tf.int32)
  fed = tf.compat.v1.placeholder(tf.string, [None])
  tokens = tokenizer.tokenize(fed).flat_values
  session = tf.compat.v1.Session()
  session.run(tf.compat.v1.tables_initializer())

  def run():
    return {"rows": len(lines),
            "tokens": len(session.run(tokens, {fed: lines}))}
  return turns.Case(run, {"versions": _versions("tensorflow_text")})


def make_models(spec):
  """Exports a classifier and compiles it, below spec["folder"]: no turns.

  spec["models"] is a list of "export", "int8", "onnx", "aggressive" and values
  of --dtype.
  """
  # The tests have what makes an export of random weights.
  # pylint: disable=import-outside-toplevel
  import pathlib
  import types
  from tests import compile_model_test
  folder = spec["folder"]
  config = model.config_of_size(model.SIZES[spec["size"]])
  vocab_file = os.path.join(folder, "export_vocab.txt")
  texts.write_vocabulary(vocab_file)
  config_file = os.path.join(folder, "export_config.json")
  with open(config_file, "w", encoding="utf-8") as writer:
    writer.write(config.to_json_string())
  export = compile_model_test.export(
      types.SimpleNamespace(config=config, vocab_file=vocab_file,
                            bert_config_file=config_file),
      "classification", pathlib.Path(folder) / "run", max_seq_length=128)
  made = {"export": export}
  for name in set(spec["models"]) - {"export"}:
    made[name] = os.path.join(folder, name)
    if name == "int8":
      _quantize(export, made[name])
    else:
      compile_model.compile_model(compile_model_test.flags(
          export, made[name], **_COMPILED.get(name, dict(dtype=name))))
  return turns.Case(lambda: None, {"models": made})


def _quantize(export, folder):
  """The INT8 model that demo.tune_int8 would try first."""
  config = int8_config.parse(config_helpers.parse_config(
      f"model: {{name: bert, framework: {int8_config.INTEGER_OPS}}}", ""), "")
  with tempfile.TemporaryDirectory() as workspace:
    int8_onnx.IntegerOpsBackend(
        compile_reader.Source(export, "input_model"), None, workspace).quantize(
            folder, int8_backends.settings(config)[0], ())


def infer(spec):
  """The model in spec["path"] on batches of rows without their padding."""
  runner = runner_helpers.load_runner(
      spec["path"], num_threads=spec["threads"])
  rows = _read_rows(spec)
  lengths = rows["input_mask"].sum(axis=1)
  # They are padded again, to the longest of a batch.
  lists = [predictor.Row(*(rows[name][number][:length].tolist()
                           for name in predictor.Row._fields))
           for number, length in enumerate(lengths)]
  batches = itertools.cycle([
      predictor.batch_of_rows(lists[start:start + spec["batch"]], runner.specs)
      for start in range(0, len(lists), spec["batch"])])
  count = len(lists) // spec["batch"]
  flops = model.flops(model.SIZES[spec["size"]], lengths)

  def run():
    for _ in range(count):
      runner.run(next(batches))
    return {"rows": len(lists), "tokens": int(lengths.sum()), "flops": flops}
  return turns.Case(run, {"versions": _versions()})


KINDS = {function.__name__: function for function in (
    machine, product, train, evaluate, read_records, write_records, tokenize,
    tokenize_in_graph, make_models, infer)}


def in_graph(make):
  """The function, called in a graph of its own that stays the default one."""
  def made(spec):
    tf.compat.v1.disable_eager_execution()
    return make(spec)
  return made


if __name__ == "__main__":
  sys.exit(turns.serve({
      name: make if name == "make_models" else in_graph(make)
      for name, make in KINDS.items()}))
