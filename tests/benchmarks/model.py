"""What the benchmarks measure: models by size, steps by configuration."""

import collections

import numpy as np
import tensorflow as tf

import modeling
import optimization
import run_classifier
from demo import option_helpers
from demo import record_helpers

VOCAB_SIZE = 30522


class Size(collections.namedtuple("Size", ["layers", "width", "heads"])):
  """Layers (int), hidden width (int) and heads (int) of an encoder."""

  __slots__ = ()


SIZES = {"tiny": Size(2, 128, 2), "MiniLM": Size(6, 384, 12),
         "base": Size(12, 768, 12)}
# Tokens of a row -> rows of a batch.
BATCHES = {64: 32, 128: 32, 384: 8}


class Configuration(collections.namedtuple(
    "Configuration", ["options", "use_xla", "env", "length_step"],
    defaults=[{}, False, {}, None])):
  """A way to compute the training step.

  Attributes:
    options: dict, values of option_helpers.Options.
    use_xla: bool, as --use_xla.
    env: dict, environment variables.
    length_step: int or None, see `padding_helpers.length_step`.
  """

  __slots__ = ()

  def made_options(self):
    """The option_helpers.Options."""
    return option_helpers.Options(**self.options)


# All that is measured; another option of the step is another line.
CONFIGURATIONS = {
    "fp32": Configuration(),
    "bf16": Configuration(dict(precision="bf16")),
    "fp32, fused": Configuration(dict(fused_ops=True)),
    "bf16, fused": Configuration(dict(precision="bf16", fused_ops=True)),
    "fp32, recomputed": Configuration(dict(recompute_layers=True)),
    "bf16, recomputed": Configuration(dict(
        precision="bf16", recompute_layers=True)),
    "fp32, fused, recomputed": Configuration(
        dict(fused_ops=True, recompute_layers=True)),
    "bf16, fused, recomputed": Configuration(dict(
        precision="bf16", fused_ops=True, recompute_layers=True)),
    "bf16, fused, unpadded": Configuration(
        dict(precision="bf16", fused_ops=True), length_step=8),
    "fp32, fused, unpadded": Configuration(
        dict(fused_ops=True), length_step=8),
    "fp32, XLA": Configuration(use_xla=True),
    "bf16, XLA": Configuration(dict(precision="bf16"), True),
    "fp32, oneDNN off": Configuration(env={"TF_ENABLE_ONEDNN_OPTS": "0"}),
}


def config_of_size(size):
  """The BertConfig of a Size, with Google's number of words."""
  return modeling.BertConfig(
      VOCAB_SIZE, hidden_size=size.width, num_hidden_layers=size.layers,
      num_attention_heads=size.heads, intermediate_size=4 * size.width,
      type_vocab_size=2)


def flops(size, lengths):
  """Multiplications and additions of the matrix products of rows, forward.

  Args:
    size: Size.
    lengths: int array [B], tokens of each row without padding.

  Returns:
    int. Forward and backward are three times as many.
  """
  lengths = np.asarray(lengths, np.int64)
  inner = 4 * size.width
  layer = 2 * (4 * size.width ** 2 + 2 * size.width * inner) * lengths
  attention = 4 * size.width * lengths ** 2
  return int(size.layers * np.sum(layer + attention))


def model_fn(size, options=option_helpers.UPSTREAM):
  """run_classifier.py's model_fn of two labels, with random weights."""
  return run_classifier.model_fn_builder(
      config_of_size(size), 2, None, 1e-5, 1000, 100, False, False,
      options=options)


def train_op(config, batch_size, seq_length, seed):
  """A training step on constant ids in the default graph; for ranks."""
  rng = np.random.RandomState(seed)
  ids = tf.constant(
      rng.randint(1000, 30000, [batch_size, seq_length]), tf.int32)
  loss, _, _, _ = run_classifier.create_model(
      config, True, ids, tf.ones_like(ids), tf.zeros_like(ids),
      tf.zeros([batch_size], tf.int32), 2, False)
  return optimization.create_optimizer(loss, 1e-5, 1000, 100, False)


def make_rows(count, length, is_mixed, seed=1):
  """Random ids, as a file of rows has them.

  Args:
    count: int, N.
    length: int, S.
    is_mixed: bool: rows have the lengths of sentence pairs, a median of 0.4 of
      `length`, instead of all S tokens.
    seed: int.

  Returns:
    Dict: "input_ids", "input_mask", "segment_ids" int32 [N, S], "label_ids"
    int32 [N].
  """
  rng = np.random.RandomState(seed)
  lengths = np.full([count], length)
  if is_mixed:
    lengths = np.clip(rng.lognormal(np.log(0.4 * length), 0.35, count), 8,
                      length).astype(np.int64)
  mask = (np.arange(length)[None] < lengths[:, None]).astype(np.int32)
  second = np.arange(length)[None] >= lengths[:, None] // 2
  ids = rng.randint(1000, VOCAB_SIZE - 500, [count, length])
  return {"input_ids": (ids * mask).astype(np.int32), "input_mask": mask,
          "segment_ids": (second * mask).astype(np.int32),
          "label_ids": rng.randint(0, 2, [count]).astype(np.int32)}


def write_records(rows, path):
  """Writes rows as run_classifier.py's records.

  Args:
    rows: dict, see `make_rows`.
    path: string.
  """
  with tf.io.TFRecordWriter(path) as writer:
    for number, label in enumerate(rows["label_ids"]):
      writer.write(record_helpers.serialized_example(
          *(record_helpers.int_entry(name, rows[name][number].tolist())
            for name in ("input_ids", "input_mask", "segment_ids")),
          record_helpers.int_entry("label_ids", [int(label)]),
          record_helpers.int_entry("is_real_example", [1])))


def read_batches(path, batch_size, length, is_training, length_step=None):
  """run_classifier.py's batches of a record file, without end.

  Returns:
    Dict name -> int32 tensor, see run_classifier.file_based_input_fn_builder.
  """
  batches = run_classifier.file_based_input_fn_builder(
      path, length, is_training, drop_remainder=True,
      length_step=length_step)(
          {"batch_size": batch_size})
  if not is_training:
    batches = batches.repeat()
  return tf.compat.v1.data.make_one_shot_iterator(batches).get_next()
