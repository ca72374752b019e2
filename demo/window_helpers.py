# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Texts longer than the model takes, as overlapping windows.

A text is one row of the data however many windows it has: the windows stand in
its record one after the other, a batch of texts is padded to the most windows
that one of them has, and what the model makes of each window is pooled.
"""

import collections

import tensorflow as tf


class Windows(collections.namedtuple("Windows", ["stride", "max_windows"])):
  """How texts are split.

  Attributes:
    stride: int, tokens from the start of a window to that of the next.
    max_windows: int, windows of a text at most.
  """

  __slots__ = ()


def from_flags(args):
  """The Windows of the parsed flags, None where texts are cut instead.

  Args:
    args: the parsed flags.
  """
  return Windows(args.doc_stride, args.max_windows) if args.doc_stride else None


def check_stride(args, has_pairs):
  """Refuses a stride that would leave gaps between windows.

  Args:
    args: the parsed flags.
    has_pairs: bool, whether there are rows of two texts.

  Raises:
    ValueError: names the strides that fit.
  """
  if has_pairs:  # [CLS] a [SEP] b [SEP], the shorter text at most a half.
    room = args.max_seq_length - 3
    room -= room // 2
    what = "tokens of the longer text that a window of a pair always holds"
  else:
    room, what = args.max_seq_length - 2, "tokens of a text in a window"
  if args.doc_stride > room:
    raise ValueError(
        f"--doc_stride={args.doc_stride} would leave gaps between windows: "
        f"with --max_seq_length={args.max_seq_length} it can be up to {room}, "
        f"the {what}.")


def split(tokens_a, tokens_b, max_seq_length, windows):
  """Splits a text, or the longer of two, into windows.

  The last window is the first one to reach the end of the text. The shorter
  text of a pair stands in each window, cut to half of the room.

  Args:
    tokens_a: list of string.
    tokens_b: list of string, empty for a single text.
    max_seq_length: int, tokens of a window with [CLS] and [SEP].
    windows: Windows.

  Returns:
    (parts, num_left_out): a list with (tokens_a, tokens_b) of each window, and
    the number of tokens after the last window that is allowed.
  """
  room = max_seq_length - (3 if tokens_b else 2)
  if len(tokens_a) + len(tokens_b) <= room:
    return [(tokens_a, tokens_b)], 0
  a_is_whole = bool(tokens_b) and len(tokens_a) <= len(tokens_b)
  short, long = (tokens_a, tokens_b) if a_is_whole else (tokens_b, tokens_a)
  short = short[:room // 2]
  size = room - len(short)
  starts = range(0, max(len(long) - size, 0) + windows.stride, windows.stride)
  starts = starts[:windows.max_windows]
  parts = [(short, part) if a_is_whole else (part, short)
           for part in (long[start:start + size] for start in starts)]
  return parts, max(len(long) - starts[-1] - size, 0)


def sequence_features(names, seq_length):
  """What records of texts in windows have.

  Args:
    names: names of the features that have S values for each window.
    seq_length: int, S.

  Returns:
    Dict name -> tf.io.FixedLenSequenceFeature: int64 [N, S] of a text of N
    windows, and in a batch [B, N, S] with N those of the longest.
  """
  return {name: tf.io.FixedLenSequenceFeature(
      [seq_length], tf.int64, allow_missing=True) for name in names}


def unfold(input_ids, input_mask, segment_ids):
  """Takes the windows of a batch of texts apart, without those of padding.

  Args:
    input_ids: int32 [B, N, S], N the most windows of a text; what is [B, S]
      stays as it is.
    input_mask: int32 [B, N, S], 1 for the first token of each real window.
    segment_ids: int32 [B, N, S].

  Returns:
    (input_ids, input_mask, segment_ids, texts): int32 [R, S] of the R real
    windows, and int32 [R], the text (0 to B - 1) of each; None for [B, S].
  """
  if input_ids.shape.rank == 2:
    return input_ids, input_mask, segment_ids, None
  is_real = input_mask[:, :, 0] > 0  # [B, N]
  return (*(tf.boolean_mask(x, is_real)
            for x in (input_ids, input_mask, segment_ids)),
          tf.cast(tf.where(is_real)[:, 0], tf.int32))


def pool(logits, texts, pooling):
  """Makes one row of each text of those of its windows.

  Args:
    logits: float32 [R, L].
    texts: int32 [R], see `unfold`; each text has one window at least.
    pooling: "mean" or "max".

  Returns:
    float32 [B, L].
  """
  reduce = {"mean": tf.math.segment_mean, "max": tf.math.segment_max}[pooling]
  return reduce(logits, texts)


def rows_of_texts(texts):
  """Checks texts that a client numbers, and numbers them without gaps.

  Args:
    texts: int32 [R], the text of each window, in any numbers that don't fall.

  Returns:
    int32 [R], 0 to B - 1, as `pool` takes them.
  """
  # Not every device refuses others by itself.
  with tf.control_dependencies([tf.debugging.assert_non_negative(
      texts[1:] - texts[:-1], "The numbers of `texts` must not fall: the "
      "windows of a text stand one after the other.")]):
    return tf.unique(texts)[1]
