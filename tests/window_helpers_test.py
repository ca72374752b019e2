"""Tests of demo/window_helpers.py."""

import types

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from demo import script_helpers
from demo import window_helpers

tokens = st.integers(0, 60).map(lambda count: [f"t{i}" for i in range(count)])


class SplitTest:

  @given(tokens, st.integers(1, 12), st.integers(1, 12), st.integers(1, 6))
  def test_single_text_without_gaps(self, text, room, stride, most):
    stride = min(stride, room)
    parts, left_out = window_helpers.split(
        text, [], room + 2, window_helpers.Windows(stride, most))
    assert 1 <= len(parts) <= most and not any(b for _, b in parts)
    covered = set()
    for number, (part, _) in enumerate(parts):
      assert part == text[number * stride:number * stride + room]
      covered.update(part)
    assert len(text) - len(covered) == left_out
    assert text[:len(covered)] == sorted(covered, key=text.index)
    # No window stands after the one that reaches the end.
    assert all(part[-1] != text[-1] for part, _ in parts[:-1])
    assert not left_out or len(parts) == most

  @given(tokens, tokens.filter(bool), st.integers(1, 20), st.integers(1, 10))
  def test_longer_text_of_a_pair(self, text_a, text_b, room, stride):
    stride = min(stride, room - room // 2)
    text_b = [token.upper() for token in text_b]
    parts, left_out = window_helpers.split(
        text_a, text_b, room + 3, window_helpers.Windows(stride, 100))
    assert not left_out
    assert all(len(a) + len(b) <= room for a, b in parts)
    if len(text_a) + len(text_b) <= room:
      assert parts == [(text_a, text_b)]
      return
    short, long = sorted((text_a, text_b), key=len)
    order = 1 if long is text_b else 0
    for part in parts:
      assert part[1 - order] == short[:room // 2]
    assert list(dict.fromkeys(
        token for part in parts for token in part[order])) == long

  def test_end_is_left_out_beyond_the_most_windows(self):
    parts, left_out = window_helpers.split(
        list("abcdefghij"), [], 6, window_helpers.Windows(2, 3))
    assert ["".join(a) for a, _ in parts] == ["abcd", "cdef", "efgh"]
    assert left_out == 2


class CheckStrideTest:

  @pytest.mark.parametrize("length, has_pairs, most", [
      (16, False, 14), (16, True, 7), (15, True, 6), (3, False, 1)])
  def test_names_the_largest(self, length, has_pairs, most):
    def check(stride):
      window_helpers.check_stride(types.SimpleNamespace(
          doc_stride=stride, max_seq_length=length), has_pairs)
    check(most)
    with pytest.raises(ValueError, match=(
        f"--doc_stride={most + 1} .* --max_seq_length={length} it can be up "
        f"to {most}, ")) as error:
      check(most + 1)
    assert script_helpers._user_message(error.value)


class PoolTest:

  @pytest.mark.parametrize("pooling", ["mean", "max"])
  def test_windows_of_padding_count_for_nothing(self, pooling):
    rng = np.random.RandomState(1)
    counts = [2, 1, 3]
    ids = rng.randint(1, 9, [3, 3, 4])
    mask = np.zeros_like(ids)
    for text, count in enumerate(counts):
      mask[text, :count, :2] = 1
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      flat, flat_mask, segments, texts = window_helpers.unfold(
          tf.constant(ids), tf.constant(mask), tf.constant(ids + 9))
      numbers = tf.cast(flat[:, 1:3], tf.float32)
      numbers -= 5.0  # Padding, which is 0, would be seen.
      pooled = window_helpers.pool(numbers, texts, pooling)
      (gradient,) = tf.gradients(pooled, numbers)
      flat, flat_mask, segments, texts, pooled, gradient = session.run(
          (flat, flat_mask, segments, texts, pooled, gradient))
    real = np.concatenate([ids[text, :n] for text, n in enumerate(counts)])
    np.testing.assert_array_equal(flat, real)
    np.testing.assert_array_equal(segments, real + 9)
    assert flat_mask[:, 0].all() and texts.tolist() == [0, 0, 1, 2, 2, 2]
    expected = [getattr(np, pooling)(ids[text, :n, 1:3] - 5.0, axis=0)
                for text, n in enumerate(counts)]
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)
    # Each text gives its windows a gradient of 1 in all: shares or the winner.
    for text, count in enumerate(counts):
      own = gradient[texts == text]
      np.testing.assert_allclose(own.sum(axis=0), 1.0, rtol=1e-6)
      if pooling == "mean":
        np.testing.assert_allclose(own, 1.0 / count, rtol=1e-6)

  def test_rows_that_are_texts_stay(self):
    with tf.Graph().as_default() as graph:
      ids = tf.zeros([2, 4], tf.int32)
      before = len(graph.get_operations())
      assert window_helpers.unfold(ids, ids, ids) == (ids, ids, ids, None)
      assert len(graph.get_operations()) == before
