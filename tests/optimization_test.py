"""Tests of optimization.py against NumPy and by property."""

import inspect
import logging

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

import optimization
from demo import option_helpers


def expected_rate(step, peak, steps, warmup, schedule="linear"):
  """The schedule in plain numbers."""
  if step < warmup:
    return peak * step / warmup
  if schedule == "constant":
    return peak
  if schedule == "cosine":
    done = min((step - warmup) / (steps - warmup), 1)
    return peak * (1 + np.cos(np.pi * done)) / 2
  return peak * (1 - min(step, steps) / steps)


class LearningRateTest:

  @settings(max_examples=25, deadline=None)
  @given(st.floats(1e-6, 1e-2), st.integers(1, 3000), st.floats(0, 0.9),
         st.sampled_from(["linear", "constant", "cosine"]), st.data())
  def test_warm_up_then_the_schedule(self, peak, steps, share, schedule, data):
    warmup = int(steps * share)
    wanted = data.draw(st.lists(
        st.integers(0, steps + 50), min_size=1, max_size=4))
    with tf.Graph().as_default():
      global_step = tf.compat.v1.train.get_or_create_global_step()
      rate = optimization._learning_rate(
          global_step, peak, steps, warmup, schedule)
      with tf.compat.v1.Session() as session:
        session.run(global_step.initializer)
        for step in wanted:
          global_step.load(step, session)
          np.testing.assert_allclose(
              session.run(rate),
              expected_rate(step, peak, steps, warmup, schedule),
              rtol=1e-4, atol=peak * 1e-6)

  def test_cosine_of_a_training_that_is_all_warm_up(self):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      rate = optimization._learning_rate(
          tf.constant(4, tf.int64), 1.0, 5, 5, "cosine")
      assert session.run(rate) == pytest.approx(0.8)


class CreateOptimizerTest:

  def test_update_uses_the_rate_of_the_step_before_it_is_raised(self):
    # Variable 0, slots m = v = 1, gradient clipped to 1: the variable becomes
    # minus the rate. Many times, since a race shows now and then only.
    with tf.Graph().as_default():
      w = tf.compat.v1.get_variable("w_bias", [], initializer=tf.zeros_initializer())
      op = optimization.create_optimizer(w * 1.0, 1e-2, 100, 10, False)
      global_step = tf.compat.v1.train.get_global_step()
      by_name = {v.op.name: v for v in tf.compat.v1.global_variables()}
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        for step in list(range(60)) * 3:
          w.load(0.0, session)
          by_name["w_bias/adam_m"].load(1.0, session)
          by_name["w_bias/adam_v"].load(1.0, session)
          global_step.load(step, session)
          session.run(op)
          np.testing.assert_allclose(
              -session.run(w), expected_rate(step, 1e-2, 100, 10), rtol=1e-4,
              atol=1e-9)
          assert session.run(global_step) == step + 1

  def test_estimator_sees_every_step_raised(self, tmp_path, caplog):
    def model_fn(features, labels, mode):
      w = tf.compat.v1.get_variable("w", [4])
      loss = tf.reduce_sum(tf.square(w - features))
      return tf.estimator.EstimatorSpec(
          mode, loss=loss,
          train_op=optimization.create_optimizer(loss, 1e-2, 60, 6, False))

    estimator = tf.estimator.Estimator(
        model_fn, config=tf.estimator.RunConfig(
            str(tmp_path), log_step_count_steps=1, save_checkpoints_steps=7))
    with caplog.at_level(logging.WARNING, logger="tensorflow"):
      estimator.train(
          lambda: tf.data.Dataset.from_tensors(tf.ones([4])).repeat(),
          max_steps=60)
    assert "has not been increased" not in caplog.text
    assert tf.train.load_variable(
        tf.train.latest_checkpoint(str(tmp_path)), "global_step") == 60

  @pytest.mark.parametrize("options", [{}, dict(fused_ops=True)])
  @pytest.mark.parametrize("scale, expected", [
      (1000.0, 0.1 / np.sqrt(3)), (0.01, 0.001), (np.inf, np.nan)])
  def test_gradients_are_clipped_to_norm_one(self, options, scale, expected):
    with tf.Graph().as_default():
      w = tf.compat.v1.get_variable(
          "w_bias", [3], initializer=tf.zeros_initializer())
      op = optimization.create_optimizer(
          scale * tf.reduce_sum(w), 1.0, 10, 0, False,
          option_helpers.Options(**options))
      m = next(v for v in tf.compat.v1.global_variables()
               if v.op.name == "w_bias/adam_m")
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(op)
        np.testing.assert_allclose(session.run(m), [expected] * 3, rtol=1e-5)

  @pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
  def test_rates_layer_by_layer_and_frozen_layers(self, optimizer):
    names = ["embeddings/w", "layer_0/w", "layer_1/w", "head/w"]
    with tf.Graph().as_default():
      loss = tf.add_n([
          tf.reduce_sum(tf.compat.v1.get_variable(
              name, initializer=tf.ones([2]))) for name in names])
      op = optimization.create_optimizer(
          loss, 0.1, 10, 0, False, option_helpers.Options(
              optimizer=optimizer, freeze_layers=1, layerwise_lr_decay=0.5))
      by_name = {v.op.name: v for v in tf.compat.v1.global_variables()}
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(op)
        found = session.run(by_name)
    assert {name for name in found if name.endswith("_m")} == {
        f"{name}/{optimizer.rstrip('w')}_m" for name in names[2:]}
    moved = [1.0 - found[name][0] for name in names]
    assert moved[:2] == [0.0, 0.0] and moved[3] > 0.01
    # One layer and the output above it: ELECTRA counts two more than layers.
    assert moved[2] == pytest.approx(moved[3] * 0.5 ** 2, rel=1e-4)


class AdamWeightDecayOptimizerTest:

  def test_reaches_a_minimum(self):
    with tf.Graph().as_default():
      w = tf.compat.v1.get_variable(
          "w", initializer=tf.constant([0.1, -0.2, -0.1]))
      loss = tf.reduce_mean(tf.square(tf.constant([0.4, 0.2, -0.5]) - w))
      optimizer = optimization.AdamWeightDecayOptimizer(learning_rate=0.2)
      op = optimizer.apply_gradients(optimizer.compute_gradients(loss, [w]))
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        for _ in range(100):
          session.run(op)
        np.testing.assert_allclose(
            session.run(w), [0.4, 0.2, -0.5], rtol=1e-2, atol=1e-2)

  @pytest.mark.parametrize("is_compiled", [False, True])
  def test_steps_equal_numpy(self, is_compiled):
    rng = np.random.RandomState(7)
    start = rng.normal(size=[6, 3])
    gradients = rng.normal(size=[5, 6, 3]) * 10.0 ** rng.randint(
        -8, 2, [5, 6, 3])
    param, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for grad in gradients:
      m = 0.9 * m + 0.1 * grad
      v = 0.999 * v + 0.001 * grad ** 2
      update = m / np.sqrt(v + 1e-6 ** 2) + 0.01 * param
      param = param - 0.003 * update
    with tf.Graph().as_default():
      w = tf.compat.v1.get_variable(
          "w", initializer=tf.constant(start, tf.float32))
      fed = tf.compat.v1.placeholder(tf.float32, [6, 3])
      op = optimization.AdamWeightDecayOptimizer(
          0.003, weight_decay_rate=0.01,
          is_compiled=is_compiled).apply_gradients([(fed, w)])
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        for grad in gradients:
          session.run(op, {fed: grad})
        np.testing.assert_allclose(session.run(w), param, atol=1e-5)

  def test_update_is_one_to_sqrt_two_times_the_published_form(self):
    gradients = np.concatenate([[1e-12], np.logspace(-9, 2, 200)])
    with tf.Graph().as_default():
      w = tf.compat.v1.get_variable(
          "w", [gradients.size], initializer=tf.zeros_initializer())
      op = optimization.AdamWeightDecayOptimizer(1.0).apply_gradients(
          [(tf.constant(gradients, tf.float32), w)])
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(op)
        found = -session.run(w)
    published = 0.1 * gradients / (np.sqrt(0.001) * gradients + 1e-6)
    ratio = found / published
    assert ratio.min() > 1 - 1e-5 and ratio.max() < np.sqrt(2) + 1e-5
    assert ratio.max() > 1.4  # Reached where sqrt(v) is epsilon.

  @given(st.text("abcdefgLNormybis_/", max_size=20))
  def test_names_that_do_not_decay(self, name):
    optimizer = optimization.AdamWeightDecayOptimizer(
        0.1, weight_decay_rate=0.01,
        exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"])
    excluded = any(x in name for x in ("LayerNorm", "layer_norm", "bias"))
    assert optimizer._do_use_weight_decay(name) == (not excluded)
    assert optimizer._get_variable_name(name + ":0") == name

  def test_variable_without_gradient_gets_no_slots(self):
    with tf.Graph().as_default():
      w = tf.compat.v1.get_variable("w", [2])
      optimization.AdamWeightDecayOptimizer(0.1).apply_gradients([(None, w)])
      assert [v.op.name for v in tf.compat.v1.global_variables()] == ["w"]

  @pytest.mark.parametrize("name, value", [
      ("gate_gradients", 0), ("aggregation_method", 1),
      ("colocate_gradients_with_ops", True), ("grad_loss", 1.0)])
  def test_what_is_not_supported_is_asserted(self, name, value):
    with tf.Graph().as_default():
      w = tf.compat.v1.get_variable("w", [2])
      with pytest.raises(AssertionError):
        optimization.AdamWeightDecayOptimizer(0.1).compute_gradients(
            tf.reduce_sum(w), [w], **{name: value})

  def test_compute_gradients_has_habanas_signature(self):
    parameters = inspect.signature(
        optimization.AdamWeightDecayOptimizer.compute_gradients).parameters
    assert list(parameters) == [
        "self", "loss", "var_list", "gate_gradients", "aggregation_method",
        "colocate_gradients_with_ops", "grad_loss"]


def lamb_in_numpy(params, gradients, rate, decays):
  """Algorithm 2 of the paper, in float64.

  Args:
    params: list of arrays.
    gradients: list (steps) of lists of arrays.
    rate: float.
    decays: list of bool, of params; the others take the plain step.
  """
  first = [np.zeros_like(x) for x in params]
  second = [np.zeros_like(x) for x in params]
  params = list(params)
  for t, step in enumerate(gradients, 1):
    for i, g in enumerate(step):
      first[i] = first[i] * 0.9 + g * 0.1
      second[i] = second[i] * 0.999 + g * g * 0.001
      r = first[i] / (1 - 0.9 ** t)
      r = r / (np.sqrt(second[i] / (1 - 0.999 ** t)) + 1e-6)
      if not decays[i]:
        params[i] = params[i] - rate * r
        continue
      r = r + 0.01 * params[i]
      norms = np.linalg.norm(params[i]), np.linalg.norm(r)
      trust = norms[0] / norms[1] if min(norms) > 0 else 1.0
      params[i] = params[i] - rate * trust * r
  return params


class LambOptimizerTest:

  @pytest.mark.parametrize("is_compiled", [False, True])
  def test_steps_equal_numpy(self, is_compiled):
    rng = np.random.RandomState(3)
    starts = [rng.normal(size=[6, 3]), rng.normal(size=[4]), np.zeros([5]),
              rng.normal(size=[3])]
    names = ["dense/kernel", "dense/bias", "zeros", "LayerNorm/gamma"]
    gradients = [[rng.normal(size=x.shape) * 10.0 ** rng.randint(-6, 2, x.shape)
                  for x in starts] for _ in range(7)]
    expected = lamb_in_numpy(starts, gradients, 0.02, [True, False, True, False])
    with tf.Graph().as_default():
      variables = [
          tf.compat.v1.get_variable(name, initializer=tf.constant(x, tf.float32))
          for name, x in zip(names, starts)]
      fed = [tf.compat.v1.placeholder(tf.float32, x.shape) for x in starts]
      op = optimization.LambOptimizer(
          0.02, weight_decay_rate=0.01, exclude_from_weight_decay=[
              "LayerNorm", "layer_norm", "bias"],
          is_compiled=is_compiled).apply_gradients(zip(fed, variables))
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        for step in gradients:
          session.run(op, dict(zip(fed, step)))
        for name, value, wanted in zip(
            names, session.run(variables), expected):
          np.testing.assert_allclose(value, wanted, atol=2e-6, err_msg=name)
      assert {v.op.name for v in tf.compat.v1.global_variables()} == {
          "optimizer/lamb_updates", *names,
          *(f"{name}/lamb_{slot}" for name in names for slot in "mv")}
