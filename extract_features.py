# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Writes what BERT's layers make of each token: fixed vectors of a text.

  python extract_features.py --input_file=sentences.txt \
    --output_file=features.jsonl --vocab_file=vocab.txt \
    --bert_config_file=bert_config.json --init_checkpoint=bert_model.ckpt

A line of the input is a sentence, or a pair: `first ||| second`.

The way of a line: InputExample -> InputFeatures -> input_fn -> model_fn ->
a line of JSON (or the rows of an .npz file).

Source: google-research/bert (commit cc7051dc).
"""

import collections
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
import zipfile

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from demo import checkpoint_helpers
from demo import flag_helpers
from demo import horovod_helpers
from demo import record_helpers
from demo import script_helpers
import modeling
import tokenization

FLAGS = flags.FLAGS

_STANDARD_STREAM = "-"  # As a file name: stdin or stdout.

# Lines are sorted by length, and their results held, in windows whose results
# take about as much as this.
_WINDOW_BYTES = 1 << 28


def init_extract_features_flags():
  """Defines the script's flags: upstream's, then those added here."""
  flags.DEFINE_string(
      "input_file", None,
      "Text, a sentence or a pair (first ||| second) a line; - reads stdin.")
  flags.DEFINE_string(
      "output_file", None, "Where the features go; - writes to stdout.")
  flags.DEFINE_string(
      "layers", "-1,-2,-3,-4",
      "Layers whose outputs are wanted: 0 is the first one, -1 the last.")
  flags.DEFINE_string(
      "bert_config_file", None,
      "JSON file with the model's sizes (bert_config.json).")
  flags.DEFINE_integer(
      "max_seq_length", 128, "Tokens of a line; longer ones are cut.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint of the model (.../bert_model.ckpt), pretrained or "
      "fine-tuned.")
  flag_helpers.define_text_flags()
  flags.DEFINE_integer("batch_size", 32, "Lines per step.")
  flags.DEFINE_bool("use_tpu", False, "Run on a TPU instead of CPU or GPU.")
  flags.DEFINE_string("master", None, "TensorFlow master address of the TPU.")
  flags.DEFINE_integer("num_tpu_cores", 8, "Cores of the TPU.")
  flags.DEFINE_bool(
      "use_one_hot_embeddings", False,
      "Look embeddings up by a matrix product, which is faster on a TPU.")

  # Not in upstream.
  flags.DEFINE_bool(
      "cpu_only", False,
      "Use no accelerator: neither a GPU nor the Gaudi device library.")
  flags.DEFINE_enum(
      "output_format", "jsonl", ["jsonl", "npz"],
      "jsonl: a line of JSON per line of the input, values rounded to six "
      "decimals. npz: NumPy arrays with a row per token, exact and a fourth of "
      "the size.")


class InputExample(object):
  """One line of the input, as text.

  Source: upstream symbol, unchanged.
  """

  def __init__(self, unique_id, text_a, text_b):
    """Takes the values as they are.

    Args:
      unique_id: int, number of the line from 0.
      text_a: string, the sentence, or the first of a pair.
      text_b: string or None, the second of a pair.
    """
    self.unique_id = unique_id
    self.text_a, self.text_b = text_a, text_b


class InputFeatures(object):
  """One line of the input, as numbers.

  Source: upstream symbol, unchanged.
  """

  def __init__(self, unique_id, tokens, input_ids, input_mask, input_type_ids):
    """Takes the values as they are.

    Args:
      unique_id: int, number of the line from 0.
      tokens: list of string, without padding.
      input_ids: list of S int, token ids, padded with 0.
      input_mask: list of S int, 1 for tokens, 0 for padding.
      input_type_ids: list of S int, 0 for the first sentence and padding, 1
        for the second.
    """
    self.unique_id, self.tokens = unique_id, tokens
    self.input_ids, self.input_mask = input_ids, input_mask
    self.input_type_ids = input_type_ids


def input_fn_builder(features, seq_length, trim_batches=False):
  """Makes the input_fn that gives features in their order.

  Args:
    features: list of InputFeatures; any other iterable of them is gone through
      as its features are needed.
    seq_length: int, S, the length that they are padded to.
    trim_batches: bool, cut the padding that all lines of a batch have.

  Returns:
    Function of params (dict with "batch_size", B) that returns a tf.data
    Dataset of dicts of int32 tensors: unique_ids [B], input_ids, input_mask and
    input_type_ids [B, S] (trimmed: [B, length of the longest]).

  Source: upstream symbol; see CHANGES.
  """
  shapes = {"unique_ids": (), "input_ids": (seq_length,),
            "input_mask": (seq_length,), "input_type_ids": (seq_length,)}

  def row(feature):
    return {"unique_ids": feature.unique_id, "input_ids": feature.input_ids,
            "input_mask": feature.input_mask,
            "input_type_ids": feature.input_type_ids}

  def trim(batch):
    length = tf.reduce_max(tf.reduce_sum(batch["input_mask"], axis=-1))
    return {name: value[:, :length] if shapes[name] else value
            for name, value in batch.items()}

  def input_fn(params):
    """See the builder."""
    if isinstance(features, list):  # The only way that a TPU takes.
      rows = [row(feature) for feature in features]
      d = tf.data.Dataset.from_tensor_slices({
          name: np.array([r[name] for r in rows], np.int32).reshape(
              (-1,) + shape) for name, shape in shapes.items()})
    else:
      d = tf.data.Dataset.from_generator(
          lambda: map(row, features), output_signature={
              name: tf.TensorSpec(shape, tf.int32)
              for name, shape in shapes.items()})
    d = d.batch(params["batch_size"], drop_remainder=False)
    return d.map(trim).prefetch(2) if trim_batches else d

  return input_fn


def model_fn_builder(bert_config, init_checkpoint, layer_indexes, use_tpu,
                     use_one_hot_embeddings):
  """Makes the model_fn of the Estimator.

  Args:
    bert_config: BertConfig.
    init_checkpoint: string, checkpoint of the model.
    layer_indexes: list of int, layers in Python's way of counting.
    use_tpu: bool.
    use_one_hot_embeddings: bool, see `modeling.embedding_lookup`.

  Returns:
    Function (features, labels, mode, params) -> TPUEstimatorSpec. It predicts
    `unique_id` [B] and, for the i-th of the layers, `layer_output_<i>`
    [B, S, W].

  Source: upstream symbol; see CHANGES.
  """

  def model_fn(features, labels, mode, params):
    """See the builder; labels and params are not used."""
    del labels, params
    if mode != tf.estimator.ModeKeys.PREDICT:
      raise ValueError(f"This model only predicts; its mode is {mode!r}.")
    model = modeling.BertModel(
        bert_config, False, features["input_ids"], features["input_mask"],
        features["input_type_ids"], use_one_hot_embeddings)
    scaffold_fn = checkpoint_helpers.warm_start(
        modeling.get_assignment_map_from_checkpoint, init_checkpoint, use_tpu)
    layers = model.get_all_encoder_layers()
    predictions = {f"layer_output_{i}": layers[index]
                   for i, index in enumerate(layer_indexes)}
    return tf.compat.v1.estimator.tpu.TPUEstimatorSpec(
        mode=mode, scaffold_fn=scaffold_fn,
        predictions={"unique_id": features["unique_ids"], **predictions})

  return model_fn


def convert_examples_to_features(examples, seq_length, tokenizer):
  """Turns examples into padded token ids.

  A sentence becomes `[CLS] a [SEP]`, all of type 0; a pair becomes
  `[CLS] a [SEP] b [SEP]`, where `b [SEP]` is of type 1.

  Args:
    examples: list of InputExample.
    seq_length: int, S, tokens.
    tokenizer: FullTokenizer.

  Returns:
    List of InputFeatures.

  Source: upstream symbol, unchanged.
  """
  features = []
  for example in examples:
    tokens_a = tokenizer.tokenize(example.text_a)
    tokens_b = tokenizer.tokenize(example.text_b) if example.text_b else []
    if tokens_b:
      _truncate_seq_pair(tokens_a, tokens_b, seq_length - 3)
      tokens_b.append("[SEP]")
    tokens_a = ["[CLS]", *tokens_a[:max(seq_length - 2, 0)], "[SEP]"]
    tokens = tokens_a + tokens_b
    padding = [0] * (seq_length - len(tokens))
    features.append(InputFeatures(
        example.unique_id, tokens,
        input_ids=tokenizer.convert_tokens_to_ids(tokens) + padding,
        input_mask=[1] * len(tokens) + padding,
        input_type_ids=[0] * len(tokens_a) + [1] * len(tokens_b) + padding))
    if example.unique_id < 5:
      logging.debug("Line %d: %s", example.unique_id, " ".join(tokens))
  return features


def _truncate_seq_pair(tokens_a, tokens_b, max_length):
  """See `script_helpers.shorten_pair`.

  Source: upstream symbol, unchanged.
  """
  script_helpers.shorten_pair(tokens_a, tokens_b, max_length)


def read_examples(input_file):
  """Reads a text file, a sentence or a pair a line.

  Spaces around a line are dropped. A pair is what has ` ||| ` in it; the last
  one counts. An empty line is an example too.

  Args:
    input_file: string; "-" is stdin, names that end with .gz are unpacked.

  Returns:
    List of InputExample, numbered from 0.

  Raises:
    ValueError: a line is not UTF-8 (names the line).

  Source: upstream symbol; see CHANGES.
  """
  examples = []
  lines = (sys.stdin.buffer if input_file == _STANDARD_STREAM else
           script_helpers.raw_lines(input_file))
  for number, line in enumerate(lines):
    try:
      line = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
      raise ValueError(
          f"--input_file={input_file}:{number + 1}: not UTF-8: byte "
          f"0x{error.object[error.start]:02x} at column {error.start + 1}. "
          f"Convert the file, for example with iconv -f LATIN1 -t UTF-8."
      ) from None
    first, separator, second = line.rpartition(" ||| ")
    examples.append(InputExample(
        number, *((first, second) if separator else (line, None))))
  return examples


def main(_):
  """Reads the lines, runs the model, writes the features.

  Source: upstream symbol; see CHANGES.
  """
  tf.compat.v1.enable_resource_variables()
  script_helpers.check_one_process()
  horovod_helpers.start_ranks(use_horovod=False, cpu_only=FLAGS.cpu_only)
  flag_helpers.check_input_files(FLAGS)
  bert_config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  _check_flags(FLAGS, bert_config)
  layer_indexes = _parse_layers(FLAGS.layers, bert_config.num_hidden_layers)
  tokenizer = tokenization.FullTokenizer(
      vocab_file=FLAGS.vocab_file, do_lower_case=FLAGS.do_lower_case)
  flag_helpers.check_vocabulary(FLAGS, tokenizer.vocab, bert_config)
  _check_checkpoint(FLAGS.init_checkpoint, bert_config)
  examples = read_examples(FLAGS.input_file)
  if not examples:
    raise ValueError(f"--input_file={FLAGS.input_file} holds no line.")

  estimator = _make_estimator(FLAGS, model_fn_builder(
      bert_config, FLAGS.init_checkpoint, layer_indexes, FLAGS.use_tpu,
      FLAGS.use_one_hot_embeddings))
  if FLAGS.use_tpu:
    features = convert_examples_to_features(
        examples, FLAGS.max_seq_length, tokenizer)
  else:
    features = _features_by_length(
        examples, FLAGS.max_seq_length, tokenizer, FLAGS.batch_size,
        bytes_per_token=4 * bert_config.hidden_size * len(layer_indexes))
  make_writer = {"jsonl": _jsonl_writer, "npz": _npz_writer}
  with make_writer[FLAGS.output_format](
      FLAGS.output_file, layer_indexes, bert_config.hidden_size) as write:
    _extract(estimator, features, FLAGS.max_seq_length, len(examples),
             not FLAGS.use_tpu, write)


def _check_flags(args, bert_config):
  """Refuses what can't work before anything is read."""
  flag_helpers.check_bert_config(args.bert_config_file, bert_config)
  flag_helpers.check_max_seq_length(args, bert_config, smallest=3)
  if args.batch_size < 1:
    raise ValueError(f"--batch_size={args.batch_size} has to be 1 or more.")
  try:
    tokenization.validate_case_matches_checkpoint(
        args.do_lower_case, args.init_checkpoint)
  except ValueError as error:  # Upstream goes on in this script.
    logging.warning("%s", error)
  if args.input_file != _STANDARD_STREAM and (
      not tf.io.gfile.exists(args.input_file) or
      tf.io.gfile.isdir(args.input_file)):
    raise ValueError(f"--input_file={args.input_file} is not there: give a "
                     f"text file, or - for stdin.")
  if args.output_file == _STANDARD_STREAM:
    if args.output_format != "jsonl":
      raise ValueError(f"--output_format={args.output_format} can't be written "
                       f"to stdout: give --output_file a name.")
    return
  folder = os.path.dirname(args.output_file) or "."
  if not tf.io.gfile.isdir(folder):
    raise ValueError(f"--output_file={args.output_file}: there is no folder "
                     f"{folder}. Make it first.")
  if os.path.abspath(args.input_file) in map(os.path.abspath, (
      args.output_file, script_helpers.temporary_name(args.output_file))):
    raise ValueError(f"--output_file={args.output_file} is the input: give it "
                     f"another name.")
  if tf.io.gfile.isdir(args.output_file):
    raise ValueError(f"--output_file={args.output_file} is a folder: name a "
                     f"file in it.")


def _parse_layers(text, num_layers):
  """The layers that --layers names.

  Args:
    text: string, such as "-1,-2".
    num_layers: int, layers of the model.

  Returns:
    List of int.

  Raises:
    ValueError: a part is no number, or no layer of the model.
  """
  layers = []
  for part in text.split(","):
    try:
      layers.append(int(part))
    except ValueError:
      raise ValueError(f"--layers={text}: {part!r} is not a whole number. Name "
                       f"layers as in -1,-2.") from None
    if not -num_layers <= layers[-1] < num_layers:
      raise ValueError(
          f"--layers={text}: the model has {num_layers} layers, which are "
          f"counted 0 to {num_layers - 1} or, from the last one, -1 to "
          f"{-num_layers}; there is no {layers[-1]}.")
  return layers


def _check_checkpoint(init_checkpoint, bert_config):
  """Refuses a checkpoint that is damaged or doesn't give the whole encoder."""
  checkpoint_helpers.check_checkpoint(init_checkpoint, bert_config)
  with tf.Graph().as_default():
    modeling.BertModel(bert_config, False, tf.zeros([1, 2], tf.int32))
    tvars = tf.compat.v1.trainable_variables()
    assignment_map, _ = modeling.get_assignment_map_from_checkpoint(
        tvars, init_checkpoint)
    _, fresh, _ = checkpoint_helpers.check_warm_start(
        tvars, assignment_map, init_checkpoint)
  # The pooler comes after what is extracted.
  missing = [name for name in fresh if not name.startswith("bert/pooler/")]
  if missing:
    raise ValueError(
        f"--init_checkpoint={init_checkpoint} has no {missing[0]} (of "
        f"{len(missing)} variables that it lacks): its features would be "
        f"random. Use the bert_config.json of the same model.")


def _make_estimator(args, model_fn):
  """The TPUEstimator of the script; it runs on CPU and GPU too."""
  tpu = tf.compat.v1.estimator.tpu
  return tpu.TPUEstimator(
      model_fn=model_fn, use_tpu=args.use_tpu, eval_on_tpu=args.use_tpu,
      predict_batch_size=args.batch_size,
      config=tpu.RunConfig(
          master=args.master,
          # Nothing is saved there, so it is never made.
          model_dir=os.path.join(tempfile.gettempdir(),
                                 f"bert_saves_nothing_{uuid.uuid4().hex}"),
          tpu_config=tpu.TPUConfig(num_shards=args.num_tpu_cores)))


def _features_by_length(examples, seq_length, tokenizer, batch_size,
                        bytes_per_token):
  """Gives features in the order that needs the least padding.

  Lines of like length come together within a window, the longest first. A
  window's results have to be held until the first line of it is done, so its
  size depends on theirs. It is made of whole batches.

  Args:
    examples: list of InputExample.
    seq_length: int, S.
    tokenizer: FullTokenizer.
    batch_size: int.
    bytes_per_token: int, size of a token's results.

  Yields:
    InputFeatures.
  """
  window, num_tokens = [], 0
  for start in range(0, len(examples), batch_size):
    batch = convert_examples_to_features(
        examples[start:start + batch_size], seq_length, tokenizer)
    window += batch
    num_tokens += sum(len(feature.tokens) for feature in batch)
    if (num_tokens * bytes_per_token >= _WINDOW_BYTES or
        start + batch_size >= len(examples)):
      yield from sorted(window, key=lambda f: len(f.tokens), reverse=True)
      window, num_tokens = [], 0


def _extract(estimator, features, seq_length, num_lines, trim_batches, write):
  """Runs the model and writes its results in the order of the lines.

  Args:
    estimator: TPUEstimator.
    features: iterable of InputFeatures; a list stays one (see
      `input_fn_builder`).
    seq_length: int, S.
    num_lines: int.
    trim_batches: bool, see `input_fn_builder`.
    write: function of a line's number, tokens and layers.
  """
  tokens = {}  # Line -> its tokens, from when the model is given it.

  def noted():
    for feature in features:
      tokens[feature.unique_id] = feature.tokens
      yield feature

  input_fn = input_fn_builder(
      list(noted()) if isinstance(features, list) else noted(), seq_length,
      trim_batches)
  waiting = {}  # Line -> its layers, until those before it are written.
  num_written = num_tokens = 0
  start = time.monotonic()
  logging.info("***** Extracting features *****")
  logging.info("  Num lines = %d", num_lines)
  with script_helpers.Progress(
      num_lines, "Extracting", "lines", log_every=1000) as progress:
    for result in estimator.predict(
        record_helpers.untuned(input_fn), yield_single_examples=True):
      line = int(result["unique_id"])
      length = len(tokens[line])
      waiting[line] = [  # Copies, or else whole batches would be held.
          result[f"layer_output_{i}"][:length].copy()
          for i in range(len(result) - 1)]
      while num_written in waiting:
        write(num_written, tokens.pop(num_written), waiting.pop(num_written))
        num_written += 1
      num_tokens += length
      progress.update(1)
  assert num_written == num_lines, (num_written, num_lines)
  seconds = time.monotonic() - start
  logging.info("%d lines, %d tokens in %.1f s: %.1f lines/s, %.0f tokens/s",
               num_lines, num_tokens, seconds, num_lines / seconds,
               num_tokens / seconds)


@contextlib.contextmanager
def _jsonl_writer(path, layer_indexes, hidden_size):
  """Writes upstream's lines of JSON.

  Args:
    path: string; "-" is stdout.
    layer_indexes: list of int.
    hidden_size: int, W.

  Yields:
    Function of a line's number (int), tokens (list of n strings) and layers
    (list of float32 [n, W]).
  """
  del hidden_size
  with contextlib.ExitStack() as stack:
    if path == _STANDARD_STREAM:
      stream = sys.stdout
    else:
      stream = stack.enter_context(tf.io.gfile.GFile(
          stack.enter_context(script_helpers.finished_file(path)), "w"))

    def write(line, tokens, layers):
      # The nearest double of six decimals, as round() gives for each value.
      rounded = np.round(np.stack(layers).astype(np.float64), 6).tolist()
      stream.write(json.dumps(collections.OrderedDict(
          linex_index=line,
          features=[collections.OrderedDict(
              token=token,
              layers=[collections.OrderedDict(
                  index=index, values=values[position])
                      for index, values in zip(layer_indexes, rounded)])
                    for position, token in enumerate(tokens)])) + "\n")

    stream.write("")  # Fails here if it can't be written, not after a batch.
    yield write
    stream.flush()


@contextlib.contextmanager
def _npz_writer(path, layer_indexes, hidden_size):
  """Writes an .npz file whose arrays have a row for each token of all lines.

  `tokens` (string), `line_index` (int64, the token's line) and, for each
  layer, `layer_<index>` (float32 [tokens, W]); beside them `lengths` (int64,
  tokens of each line). Layers are kept in files until all lines are done.

  Args, Yields: see `_jsonl_writer`; the path is one of a local disk.
  """
  places = {f"layer_{index}": place for place, index in enumerate(
      layer_indexes)}  # A layer that is named twice is written once.
  all_tokens, lengths = [], []
  with tempfile.TemporaryDirectory(
      prefix=f"{os.path.basename(path)}.", suffix=".tmp",
      dir=os.path.dirname(path) or ".") as parts:
    with contextlib.ExitStack() as stack:
      files = {name: stack.enter_context(
          open(os.path.join(parts, name), "w+b")) for name in places}

      def write(line, tokens, layers):
        del line
        all_tokens.extend(tokens)
        lengths.append(len(tokens))
        for name, place in places.items():
          files[name].write(layers[place].astype("<f4").tobytes())

      yield write
      temporary = stack.enter_context(script_helpers.finished_file(path))
      with zipfile.ZipFile(temporary, "w") as archive:
        for name, array in (
            ("tokens", np.array(all_tokens)),
            ("line_index", np.repeat(np.arange(len(lengths)), lengths)),
            ("lengths", np.array(lengths))):
          with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, array, allow_pickle=False)
        for name, file in files.items():
          with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {
                "descr": "<f4", "fortran_order": False,
                "shape": (len(all_tokens), hidden_size)})
            file.seek(0)
            shutil.copyfileobj(file, member, 1 << 20)


if __name__ == "__main__":
  init_extract_features_flags()
  script_helpers.run(
      main, ["input_file", "vocab_file", "bert_config_file", "init_checkpoint",
             "output_file"], script_helpers.NOTHING_FINISHED)
