# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""--dynamic_padding: batches no longer than their longest row.

Records stay as long as --max_seq_length says. What is cut off is padding, which
no token attends to, so that a row's outputs stay what they are.
"""

import tensorflow as tf

# Features that have a value for each token.
SEQUENCES = ("input_ids", "input_mask", "segment_ids")

# Lengths are multiples of it: vectors of a processor are whole (8 floats of
# AVX2, and tensor cores want multiples of 8), and there are few shapes to make
# kernels and plans for.
_STEP = 8
# XLA compiles a program for each length: so many at most.
XLA_LENGTHS = 4
# Batches whose rows are sorted together.
_GROUP = 16


def length_step(args):
  """Of what number the lengths of batches are multiples.

  Args:
    args: the parsed flags.

  Returns:
    int; None where all batches have --max_seq_length tokens.
  """
  if not args.dynamic_padding:
    return None
  if not args.use_xla:
    return _STEP
  return _STEP * -(-args.max_seq_length // (_STEP * XLA_LENGTHS))


def lengths(input_mask):
  """The place after the last token of each row.

  Args:
    input_mask: int32 [..., S], 1 for tokens.

  Returns:
    int32 [...], 0 to S.
  """
  places = tf.range(1, input_mask.shape[-1] + 1)
  return tf.reduce_max(tf.sign(input_mask) * places, axis=-1)


def cut(batch, step):
  """A batch without the padding that all of its rows have.

  Args:
    batch: dict name -> tensor [B, ...]; SEQUENCES are [B, S], or [B, N, S] of
      texts in windows.
    step: int, see `length_step`.

  Returns:
    The dict; the S of SEQUENCES is that of the longest row, rounded up to a
    multiple of `step`, and never more than it was.
  """
  longest = tf.reduce_max(lengths(batch["input_mask"]))
  length = tf.minimum(tf.maximum((longest + step - 1) // step, 1) * step,
                      batch["input_mask"].shape[-1])
  return {name: value[..., :length] if name in SEQUENCES else value
          for name, value in batch.items()}


def group_size(num_records, batch_size):
  """How many batches are formed together.

  They hold half of the records at most: else the same record, read in two
  passes over the data, would come twice in a batch, equal lengths being
  neighbours.

  Args:
    num_records: int, of this rank.
    batch_size: int.
  """
  return max(min(_GROUP, num_records // (2 * batch_size)), 1)


def records_looked_at(batch_size):
  """The `num_records` (int) from which on `group_size` is always the same."""
  return 2 * _GROUP * batch_size


def by_length(groups, size, batches_done):
  """Makes batches of rows of like length.

  The rows of a group are sorted by length, and its batches then come in a
  random order.

  Args:
    groups: tf.data.Dataset of dicts name -> tensor [size * B, ...], without
      those groups that are done.
    size: int, batches of a group.
    batches_done: int, batches to leave out, those of whole groups included.

  Returns:
    tf.data.Dataset of dicts name -> tensor [B, ...].
  """
  done = batches_done // size
  # A group's order goes by its number, so that it is the same after a restart.
  orders = tf.data.Dataset.random().batch(size).skip(done)

  def sort(group, order):
    keys = lengths(group["input_mask"])
    while keys.shape.rank > 1:  # Of texts in windows the longest one counts.
      keys = tf.reduce_max(keys, axis=-1)
    rows = tf.reshape(tf.argsort(keys, stable=True), [size, -1])  # [size, B]
    rows = tf.gather(rows, tf.argsort(order))
    return {name: tf.gather(value, rows) for name, value in group.items()}

  return tf.data.Dataset.zip((groups, orders)).map(
      sort, num_parallel_calls=tf.data.AUTOTUNE).unbatch().skip(
          batches_done % size)
