"""Tests of demo/gradient_helpers.py: parts of a batch, and the loss scale."""

import logging
import types

import numpy as np
import pytest
import tensorflow as tf

import modeling
import optimization
import run_classifier
import run_classifier_with_tfhub
import run_pretraining
import run_squad
from demo import estimator_helpers
from demo import export_hub
from demo import gradient_helpers
from demo import option_helpers
from tests import conftest
from tests.estimator_helpers_test import run_flags

ROWS, LENGTH, VOCAB = 8, 16, 40
PREDICTIONS = 5
CONFIG = dict(conftest.TINY_CONFIG, vocab_size=VOCAB, hidden_dropout_prob=0.0,
              attention_probs_dropout_prob=0.0)


class ZerosTest:

  @staticmethod
  def largest_constant(tensor):
    """Elements of the largest constant of the graph that a session runs."""
    found = tf.compat.v1.RunMetadata()
    with tf.compat.v1.Session() as session:
      array = session.run(
          tensor, options=tf.compat.v1.RunOptions(output_partition_graphs=True),
          run_metadata=found)
    assert not array.any()
    return max(
        tf.make_ndarray(node.attr["value"].tensor).size
        for graph in found.partition_graphs for node in graph.node
        if node.op == "Const")

  def test_are_not_kept_as_a_constant(self):
    shape = tf.TensorShape([300, 200])
    with tf.Graph().as_default():
      made = gradient_helpers.zeros(shape)
      assert made.shape == shape
      assert self.largest_constant(made * 2.0) < 10
    with tf.Graph().as_default():  # As TensorFlow's own are.
      assert self.largest_constant(tf.zeros(shape) * 2.0) == 60000


def batch():
  """Features of all scripts; rows differ in length and masked words."""
  rng = np.random.RandomState(5)
  mask = np.arange(LENGTH) < rng.randint(4, LENGTH + 1, (ROWS, 1))
  ids = rng.randint(1, VOCAB, (ROWS, LENGTH)) * mask
  words = np.arange(PREDICTIONS) < rng.randint(0, PREDICTIONS + 1, (ROWS, 1))
  features = {
      "input_ids": ids, "input_mask": mask,
      "segment_ids": rng.randint(0, 2, (ROWS, LENGTH)) * mask,
      "label_ids": rng.randint(0, 2, ROWS), "unique_ids": np.arange(ROWS),
      "start_positions": rng.randint(0, 4, ROWS),
      "end_positions": rng.randint(0, 4, ROWS),
      "masked_lm_positions": rng.randint(0, 4, (ROWS, PREDICTIONS)),
      "masked_lm_ids": rng.randint(1, VOCAB, (ROWS, PREDICTIONS)),
      "next_sentence_labels": rng.randint(0, 2, (ROWS, 1))}
  features = {name: x.astype(np.int32) for name, x in features.items()}
  return {**features, "masked_lm_weights": words.astype(np.float32)}


def builder(script, options, hub_module=None):
  """The model_fn of a script in training."""
  config = modeling.BertConfig(**CONFIG)
  args = (1e-3, 100, 0, False)
  if script == "classifier":
    return run_classifier.model_fn_builder(
        config, 2, None, *args, False, dropout_before_logits=0.0,
        options=options)
  if script == "tfhub":
    return run_classifier_with_tfhub.model_fn_builder(
        2, *args, hub_module, dropout_before_logits=0.0, options=options)
  module = {"squad": run_squad, "pretraining": run_pretraining}[script]
  return module.model_fn_builder(config, None, *args, False, options=options)


def update(script, options, **kwargs):
  """Does one update from fixed values.

  Args:
    script: see `builder`.
    options: option_helpers.Options.
    **kwargs: of `builder`.

  Returns:
    Namespace of loss, norm (of the clipped gradients, as the clipping saw
    it), before and after (dicts name -> array) and graph.
  """
  with tf.Graph().as_default() as graph:
    features = {name: tf.constant(x) for name, x in batch().items()}
    spec = builder(script, options, **kwargs)(
        features, None, tf.estimator.ModeKeys.TRAIN, {})
    variables = {v.op.name: v for v in tf.compat.v1.global_variables()}
    rng = np.random.RandomState(2)
    # Those of a module begin with what it brings along.
    first = {v.initializer.inputs[1]: rng.normal(
        float(v.op.name.endswith("gamma")), 0.2, v.shape.as_list())
        for v in sorted(tf.compat.v1.trainable_variables(),
                        key=lambda v: v.op.name)
        if not v.op.name.startswith("module/")}
    with tf.compat.v1.Session() as session:
      session.run(tf.compat.v1.global_variables_initializer(), first)
      before = session.run(variables)
      loss, norms, _ = session.run(
          [spec.loss, graph.get_collection("norms"), spec.train_op])
      return types.SimpleNamespace(
          loss=loss, norm=norms[0] if norms else None, before=before,
          after=session.run(variables), graph=graph)


def options(**values):
  return option_helpers.Options(**values)


@pytest.fixture
def noted_norms(monkeypatch):
  """Lets `update` see the norm that clipping goes by."""
  clip = tf.clip_by_global_norm

  def clip_and_note(*args, **kwargs):
    clipped, norm = clip(*args, **kwargs)
    tf.compat.v1.add_to_collection("norms", norm)
    return clipped, norm

  monkeypatch.setattr(tf, "clip_by_global_norm", clip_and_note)


def assert_same_update(one, other, prefix=""):
  """Loss, variables and slots are equal, and have moved."""
  assert abs(one.loss - other.loss) < 1e-6
  assert set(one.after) == set(other.after)
  skipped = []
  for name, value in one.after.items():
    m = one.after.get(f"{name}/adam_m", one.after.get(f"{name}/lamb_m"))
    if m is not None and np.abs(m).max() < 1e-7:
      # What makes no difference to a softmax, as a key's bias, has a gradient
      # of rounding, of which Adam makes a step as long as any other.
      skipped.append(name)
      continue
    np.testing.assert_allclose(
        value, other.after[name], rtol=0, atol=1e-6, err_msg=name)
  assert len(skipped) <= 3, skipped
  name = f"{prefix}bert/encoder/layer_1/output/dense/kernel"
  assert np.abs(other.after[name] - other.before[name]).min() > 1e-6


@pytest.mark.usefixtures("noted_norms")
class InPartsTest:

  @pytest.mark.parametrize("script, count, others", [
      ("classifier", 4, {}), ("pretraining", 2, {}),
      ("classifier", 4, dict(class_weights=(0.2, 3.0), label_smoothing=0.2)),
      ("squad", 8, dict(optimizer="lamb", layerwise_lr_decay=0.8,
                        freeze_layers=1, lr_schedule="cosine"))])
  def test_update_is_that_of_the_whole_batch(self, script, count, others):
    whole = update(script, options(**others))
    parts = update(script, options(num_accumulation_steps=count, **others))
    assert whole.norm > 1.2  # Clipping acts.
    np.testing.assert_allclose(parts.norm, whole.norm, rtol=1e-5)
    assert_same_update(whole, parts)
    frozen = {name for name in parts.after
              if "embeddings" in name or "layer_0" in name}
    if "freeze_layers" in others:  # They stay, without slots and without a backward pass.
      assert len(frozen) == 21
      for name in frozen:
        np.testing.assert_array_equal(parts.before[name], parts.after[name])
      backwards = [op.name for op in whole.graph.get_operations()
                   if op.name.startswith("gradients/")]
      assert not [name for name in backwards
                  if "layer_0" in name or "/embeddings" in name]
      assert [name for name in backwards if "layer_1/attention" in name]

  def test_loss_scale_does_not_change_what_is_clipped(self):
    whole, parts = (
        update("classifier", options(
            precision="fp16", num_accumulation_steps=count))
        for count in (1, 4))
    plain = update("classifier", options())
    assert whole.norm > 1.2  # Clipping acts.
    for one in (whole, parts):
      np.testing.assert_allclose(one.norm, plain.norm, rtol=5e-3)
      for name in ("embeddings/word_embeddings",
                   "encoder/layer_1/output/dense/kernel"):
        slot = f"bert/{name}/adam_m"
        np.testing.assert_allclose(
            one.after[slot], plain.after[slot], rtol=0.1,
            atol=1e-2 * np.abs(plain.after[slot]).max(), err_msg=slot)

  def test_update_of_a_module_of_the_hub(self, tmp_path):
    model = conftest.TinyModel(tmp_path, hidden_dropout_prob=0.0,
                               attention_probs_dropout_prob=0.0)
    module = str(tmp_path / "module")
    export_hub.export(conftest.export_args(
        model, format="tf1", output_dir=module))
    whole, parts = (
        update("tfhub", options(num_accumulation_steps=count),
               hub_module=module) for count in (1, 2))
    assert tf.compat.v1.control_flow_v2_enabled()
    assert_same_update(whole, parts, "module/")

  def test_parts_draw_their_own_dropout(self):
    with tf.Graph().as_default():
      tf.compat.v1.set_random_seed(1)
      scalars = gradient_helpers.in_parts(
          lambda part: {"loss": part["sign"][0] * tf.reduce_sum(
              tf.random.uniform([100])) * tf.compat.v1.get_variable("w", [])},
          {"sign": tf.constant([1.0, -1.0])},
          options(num_accumulation_steps=2))
      with tf.compat.v1.Session() as session:
        (grad,) = session.run(scalars["loss"].gradients(
            tf.compat.v1.trainable_variables()))
    assert abs(grad) > 1e-3


class LossScaleTest:

  def steps(self, gradients, loss_scale="dynamic", before=(), parts=1):
    """Does an update for each gradient (float) of a weight that begins with 2.

    Returns:
      List with the variables after each update, name -> value.
    """
    with tf.Graph().as_default():
      fed = tf.compat.v1.placeholder(tf.float32, [parts])

      def scalars_of(features):
        weight = tf.compat.v1.get_variable(
            "weight", [], initializer=tf.constant_initializer(2.0))
        return {"loss": tf.reduce_mean(features["x"] * weight)}

      chosen = options(precision="fp16", loss_scale=loss_scale,
                       num_accumulation_steps=parts)
      op = optimization.create_optimizer(
          gradient_helpers.in_parts(scalars_of, {"x": fed}, chosen)["loss"],
          0.1, 10000, 0, False, chosen)
      variables = {v.op.name: v for v in tf.compat.v1.global_variables()}
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        for name, value in before:
          variables[name].load(value, session)
        found = [session.run(variables)]
        for gradient in gradients:
          session.run(op, {fed: [0.5] * (parts - 1) + [gradient]})
          found.append(session.run(variables))
    return found

  @pytest.mark.parametrize("parts", [1, 2])
  @pytest.mark.parametrize("bad", [np.inf, np.nan])
  def test_step_without_finite_gradients_is_skipped_and_counted(
      self, bad, parts):
    start, skipped, good = self.steps([bad, 0.5], parts=parts)
    assert start["optimizer/loss_scale"] == 2.0 ** 15
    assert skipped == {
        **start, "global_step": 1, "optimizer/loss_scale": 2.0 ** 14,
        "optimizer/skipped_steps": 1, "optimizer/good_steps": 0}
    assert good["optimizer/skipped_steps"] == 1
    assert good["optimizer/loss_scale"] == 2.0 ** 14
    assert (good["global_step"], good["optimizer/good_steps"]) == (2, 1)
    # The gradient is 0.5, whatever it was multiplied by.
    np.testing.assert_allclose(good["weight/adam_m"], 0.05, rtol=1e-6)
    np.testing.assert_allclose(good["weight/adam_v"], 0.00025, rtol=1e-6)

  def test_doubles_after_2000_good_steps_and_stays_above_1(self):
    before = [("optimizer/good_steps", 1998)]
    scales = [values["optimizer/loss_scale"] / 2.0 ** 15
              for values in self.steps([1.0] * 3, before=before)]
    assert scales == [1.0, 1.0, 2.0, 2.0]
    last = self.steps([np.inf] * 2, before=[("optimizer/loss_scale", 1.5)])[-1]
    assert last["optimizer/loss_scale"] == 1.0

  def test_number_stays_and_skips_too(self):
    start, skipped, good = self.steps([np.inf, 0.5], loss_scale=128.0)
    assert set(start) == {"weight", "weight/adam_m", "weight/adam_v",
                          "global_step", "optimizer/skipped_steps"}
    assert skipped == {**start, "global_step": 1, "optimizer/skipped_steps": 1}
    np.testing.assert_allclose(good["weight/adam_m"], 0.05, rtol=1e-6)

  def test_state_names_are_those_of_the_graph(self):
    for scale in ("dynamic", 128.0):
      assert set(gradient_helpers.state_names(scale)) == {
          name for name in self.steps([], scale)[0] if "optimizer/" in name}


class SeededDropoutTest:

  def test_parts_of_a_batch_do_not_drop_the_same(self):
    with tf.Graph().as_default():
      tf.compat.v1.set_random_seed(1)
      tf.compat.v1.train.get_or_create_global_step()

      def scalars_of(features):
        del features
        weight = tf.compat.v1.get_variable("weight", [300])
        return {"loss": tf.reduce_sum(modeling.dropout(weight, 0.5))}

      # As the Estimator does, before a model is built.
      modeling.training_util._get_or_create_global_step_read()
      loss = gradient_helpers.in_parts(
          scalars_of, {"x": tf.zeros([2])},
          options(num_accumulation_steps=2))["loss"]
      (gradient,) = gradient_helpers.gradients_of(
          loss, tf.compat.v1.trainable_variables())
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        first, again = session.run(gradient), session.run(gradient)
    np.testing.assert_array_equal(first, again)
    # Dropped by both, by one of them, by none.
    assert np.unique(first).tolist() == [0.0, 1.0, 2.0]


class ResumeTest:

  def train(self, folder, *ends):
    """Trains a weight up to each of some steps; the values in the end."""
    chosen = options(precision="fp16", optimizer="lamb",
                     num_accumulation_steps=2)

    def model_fn(features, labels, mode, params):
      del labels, params

      def scalars_of(features):
        weight = tf.compat.v1.get_variable(
            "weight", [3], initializer=tf.ones_initializer())
        return {"loss": tf.reduce_sum(modeling.dropout(tf.square(
            weight - tf.reduce_mean(features["x"])), 0.5))}

      loss = gradient_helpers.in_parts(scalars_of, features, chosen)["loss"]
      return tf.compat.v1.estimator.tpu.TPUEstimatorSpec(
          mode, loss=gradient_helpers.loss_value(loss),
          train_op=optimization.create_optimizer(
              loss, 0.1, 10, 2, False, chosen))

    def input_fn(params):
      assert params["batch_size"] == 8
      return tf.data.Dataset.from_tensors(
          {"x": tf.range(8, dtype=tf.float32)}).repeat()

    args = run_flags(folder, num_accumulation_steps=2, log_steps=2)
    for end in ends:
      estimator_helpers.train(
          args, estimator_helpers.make_estimator(args, model_fn), input_fn, 8,
          end, optimization.LEARNING_RATE, first_synapse_step=30)
    reader = tf.train.load_checkpoint(str(folder))
    return {name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()}

  def test_gives_what_a_run_without_a_break_gives(self, tmp_path, caplog):
    whole = self.train(tmp_path / "whole", 5)
    with caplog.at_level(logging.INFO, logger="absl"):
      broken = self.train(tmp_path / "broken", 2, 5)
    assert set(whole) == set(broken) == {
        "weight", "weight/lamb_m", "weight/lamb_v", "global_step",
        "optimizer/lamb_updates", "optimizer/loss_scale",
        "optimizer/good_steps", "optimizer/skipped_steps"}
    for name, value in whole.items():
      np.testing.assert_array_equal(value, broken[name], name)
    assert whole["optimizer/good_steps"] == whole["global_step"] == 5
    assert "An update = 2 batches of 4" in caplog.text
    assert "loss_scale 32768  skipped_steps 0" in caplog.text
    assert "gradients were not finite: 0. Loss scale 32768." in caplog.text
