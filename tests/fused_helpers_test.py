"""Tests of demo/fused_helpers.py."""

import numpy as np
import pytest
import tensorflow as tf

from demo import fused_helpers
from demo import option_helpers
import modeling

CONFIG = dict(
    vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=40, max_position_embeddings=32, type_vocab_size=2)
ROWS, LENGTH = 5, 20


def batch(rng):
  """(ids, mask, segments) of rows of several lengths."""
  lengths = rng.randint(3, LENGTH + 1, ROWS)
  mask = (np.arange(LENGTH) < lengths[:, np.newaxis]).astype(np.int32)
  ids = rng.randint(1, CONFIG["vocab_size"], [ROWS, LENGTH]) * mask
  segments = rng.randint(0, 2, [ROWS, LENGTH]) * mask
  return ids.astype(np.int32), mask, segments.astype(np.int32)


def outputs_and_gradients(operations, dropout_prob=0.0):
  """Sequence and pooled output of a model, and gradients of all variables."""
  with tf.Graph().as_default() as graph:
    tf.compat.v1.set_random_seed(3)
    tf.compat.v1.train.get_or_create_global_step()
    ids, mask, segments = batch(np.random.RandomState(0))
    model = modeling.BertModel(
        modeling.BertConfig(
            **CONFIG, hidden_dropout_prob=dropout_prob,
            attention_probs_dropout_prob=dropout_prob),
        True, tf.constant(ids), tf.constant(mask), tf.constant(segments),
        operations=operations)
    rng = np.random.RandomState(1)
    target = tf.constant(rng.randn(ROWS, LENGTH, 24), tf.float32)
    loss = (tf.reduce_sum(tf.square(model.sequence_output - target)) +
            tf.reduce_sum(model.pooled_output))
    variables = tf.compat.v1.trainable_variables()
    gradients = [tf.convert_to_tensor(x)
                 for x in tf.gradients(loss, variables)]
    with tf.compat.v1.Session(graph=graph) as session:
      session.run(tf.compat.v1.global_variables_initializer())
      for var in variables:  # Neither zeros nor all alike.
        var.load(rng.normal(0.1, 0.4, var.shape), session)
      outputs = session.run(
          [model.sequence_output, model.pooled_output] + gradients)
  return dict(zip(["sequence", "pooled"] + [x.op.name for x in variables],
                  outputs))


class FusedOperationsTest:

  def test_outputs_and_gradients_are_those_of_plain_operations(self):
    plain = outputs_and_gradients(modeling.Operations())
    fused = outputs_and_gradients(fused_helpers.FusedOperations())
    assert plain.keys() == fused.keys()
    for name, value in plain.items():
      scale = max(np.abs(value).max(), 1.0)  # A key bias has none.
      np.testing.assert_allclose(
          fused[name], value, rtol=0, atol=2e-6 * scale, err_msg=name)

  @pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
  def test_lower_precision_is_as_near_as_plain_operations(self, dtype):
    exact = outputs_and_gradients(modeling.Operations())
    plain = outputs_and_gradients(modeling.Operations(dtype))
    fused = outputs_and_gradients(fused_helpers.FusedOperations(dtype))

    def error(found):
      return np.mean([np.abs(found[name] - value).mean() / np.abs(value).mean()
                      for name, value in exact.items()
                      if not name.endswith("key/bias")])  # It is 0.

    assert 0.0 < error(fused) < 1.5 * error(plain)

  @pytest.mark.parametrize("kind", [
      modeling.Operations, fused_helpers.FusedOperations])
  @pytest.mark.parametrize("dropout_prob", [0.0, 0.2])
  def test_layers_can_be_computed_again(self, kind, dropout_prob):
    kept = outputs_and_gradients(kind(), dropout_prob)
    again = outputs_and_gradients(
        kind(recomputes_layers=True), dropout_prob)
    assert kept.keys() == again.keys()
    for name, value in kept.items():
      np.testing.assert_allclose(
          again[name], value, rtol=0, err_msg=name,
          atol=1e-6 * max(np.abs(value).max(), 1.0))

  def test_query_key_and_value_are_one_product(self):
    with tf.Graph().as_default() as graph:
      ids, mask, segments = batch(np.random.RandomState(0))
      modeling.BertModel(
          modeling.BertConfig(**CONFIG), True, tf.constant(ids),
          tf.constant(mask), tf.constant(segments),
          operations=fused_helpers.FusedOperations())
    kinds = [op.type for op in graph.get_operations()]
    # A product for the three, two dense layers and the feed-forward's first,
    # in two layers; segment ids and pooler.
    assert kinds.count("MatMul") == 2 * 4 + 2

  def test_whatever_does_not_train_is_plain(self):
    options = option_helpers.UPSTREAM._replace(fused_ops=True)
    assert isinstance(fused_helpers.operations(options, True),
                      fused_helpers.FusedOperations)
    for case in ((options, False), (option_helpers.UPSTREAM, True)):
      assert type(fused_helpers.operations(*case)) is modeling.Operations

  def test_layers_are_computed_again_in_training(self):
    options = option_helpers.UPSTREAM._replace(
        fused_ops=True, recompute_layers=True)
    found = fused_helpers.operations(options, True)
    assert type(found) is fused_helpers.FusedOperations
    assert found.recomputes_layers
    assert not fused_helpers.operations(options, False).recomputes_layers


class DropoutTest:

  KEY = np.array([123456789, 4000000000], np.uint32)

  def dropped(self, shape, rate, key=KEY):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      return session.run(fused_helpers._dropped(
          tf.ones(shape), tf.constant(key), rate))

  @pytest.mark.parametrize("rate", [0.1, 0.5])
  def test_share_and_scale(self, rate):
    found = self.dropped([400, 1000], rate)
    kept = found > 0
    np.testing.assert_allclose(found[kept], 1.0 / (1.0 - rate), rtol=1e-6)
    spread = np.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) < 4 * spread / np.sqrt(kept.size)
    # Rows and columns are no rarer dropped than chance has it.
    for axis in (0, 1):
      means = kept.mean(axis)
      expected = spread / np.sqrt(kept.shape[axis])
      assert 0.9 < means.std() / expected < 1.1

  def test_neighbours_keys_and_lags_are_independent(self):
    first = self.dropped([1000000], 0.5) > 0
    for other in (self.dropped([1000000], 0.5, self.KEY + np.uint32([1, 0])) > 0,
                  self.dropped([1000000], 0.5, self.KEY ^ np.uint32([0, 1])) > 0,
                  *(np.roll(first, lag) for lag in (1, 2, 128, 384, 4096))):
      assert abs((first == other).mean() - 0.5) < 0.0025

  def test_compiled_functions_hold_no_tensor_of_places(self):
    tensor = tf.ones([1024, 256])
    compiled = fused_helpers._dropped_elements.__wrapped__
    program = compiled.experimental_get_compiler_ir(
        tensor, tf.constant(self.KEY), 0.1)(stage="optimized_hlo_serialized")
    assert len(program) < tensor.shape.num_elements()

  def test_gradient_drops_what_the_forward_pass_dropped(self):
    """Each of the three places, against plain operations with its mask."""
    rng = np.random.RandomState(0)
    rate, f32 = 0.3, tf.float32
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      key = tf.constant(self.KEY)
      layers = [tf.constant(rng.randn(2, 3, 4, 5), f32) for _ in range(3)]
      mask = tf.constant(np.tril(np.ones([4, 4]))[np.newaxis].repeat(2, 0), f32)
      up = tf.constant(rng.randn(2, 3, 4, 5), f32)
      fused = fused_helpers._attention(*layers, mask, key, rate)
      scores = tf.matmul(layers[0], layers[1], transpose_b=True)
      weights = tf.nn.softmax(
          scores / np.sqrt(5.0) + (1.0 - mask[:, tf.newaxis]) * -10000.0)
      plain = tf.matmul(weights * fused_helpers._dropped(
          tf.ones_like(weights), key, rate), layers[2])
      pairs = [(fused, plain), *zip(tf.gradients(fused, layers, up),
                                    tf.gradients(plain, layers, up))]

      inputs = [tf.constant(rng.randn(*shape), f32)
                for shape in ([6, 8], [6, 8], [8], [8])]
      output, residual, gamma, beta = inputs
      up = tf.constant(rng.randn(6, 8), f32)
      fused, _ = fused_helpers._dropout_and_norm(*inputs, key, rate)
      total = fused_helpers._dropped(
          tf.ones_like(output), key, rate) * output + residual
      mean, variance = tf.nn.moments(total, [-1], keepdims=True)
      plain = (total - mean) * tf.math.rsqrt(variance + 1e-12) * gamma + beta
      pairs += [(fused, plain), *zip(tf.gradients(fused, inputs, up),
                                     tf.gradients(plain, inputs, up))]
      for found, expected in session.run(pairs):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert np.abs(expected).max() > 0.01

  def test_seeded_steps_drop_the_same_again(self):
    def losses():
      with tf.Graph().as_default():
        tf.compat.v1.set_random_seed(5)
        step = tf.compat.v1.train.get_or_create_global_step()
        ids, mask, segments = batch(np.random.RandomState(0))
        model = modeling.BertModel(
            modeling.BertConfig(**CONFIG), True, tf.constant(ids),
            tf.constant(mask), tf.constant(segments),
            operations=fused_helpers.FusedOperations())
        with tf.compat.v1.Session() as session:
          session.run(tf.compat.v1.global_variables_initializer())
          found = [session.run(model.pooled_output)]
          found.append(session.run(model.pooled_output))
          session.run(step.assign_add(1))
          return found + [session.run(model.pooled_output)]

    first, again = losses(), losses()
    np.testing.assert_array_equal(first[0], first[1])
    assert np.abs(first[0] - first[2]).max() > 1e-3
    np.testing.assert_array_equal(first, again)
