"""Tests of demo/estimator_helpers.py."""

import types

import numpy as np
import pytest
import tensorflow as tf

from demo import checkpoints
from demo import estimator_helpers
from demo import horovod_helpers
import modeling


def flag_values(**values):
  return types.SimpleNamespace(**dict(
      dict(train_batch_size=32, num_train_epochs=3.0, warmup_proportion=0.1,
           learning_rate=2e-5, scale_learning_rate=True), **values))


@pytest.fixture
def ranks(monkeypatch):
  """Sets the number of ranks that the helpers see."""
  def set_size(size):
    monkeypatch.setattr(horovod_helpers, "hvd_size", lambda: size)
  return set_size


class TrainingStepsTest:

  @pytest.mark.parametrize("examples, batch, epochs, size, expected", [
      (3668, 32, 3.0, 1, (343, 34)),
      (3668, 64, 3.0, 8, (21, 2)),
      (87599, 24, 2.0, 8, (912, 91)),
      (7, 4, 2.5, 1, (4, 0)),
  ])
  def test_divided_by_ranks_once(
      self, ranks, examples, batch, epochs, size, expected):
    ranks(size)
    flags = flag_values(train_batch_size=batch, num_train_epochs=epochs)
    assert estimator_helpers.training_steps(examples, flags) == expected

  def test_no_step_is_refused(self, ranks):
    ranks(8)
    with pytest.raises(ValueError, match="40 training examples.*8 rank"):
      estimator_helpers.training_steps(40, flag_values())


class LearningRateTest:

  @pytest.mark.parametrize("size, scale, expected", [
      (1, True, 2e-5), (8, True, 1.6e-4), (8, False, 2e-5)])
  def test_is_scaled_by_ranks(self, ranks, size, scale, expected):
    ranks(size)
    assert estimator_helpers.effective_learning_rate(
        flag_values(scale_learning_rate=scale)) == pytest.approx(expected)


class KeptCheckpointsTest:

  def train(self, folder, num_steps, save_steps):
    """Trains one weight, one checkpoint kept; the steps of the files left."""
    def model_fn(features, labels, mode, params):
      del labels, params
      weight = tf.compat.v1.get_variable(
          "weight", [], initializer=tf.zeros_initializer())
      loss = tf.reduce_mean(tf.square(weight - features["x"]))
      tf.compat.v1.losses.add_loss(loss)
      step = tf.compat.v1.train.get_or_create_global_step()
      tf.compat.v1.add_to_collection("rate", tf.constant(0.1))
      train_op = tf.compat.v1.train.GradientDescentOptimizer(0.1).minimize(
          loss, global_step=step)
      return tf.compat.v1.estimator.tpu.TPUEstimatorSpec(
          mode, loss=loss, train_op=train_op)

    args = flag_values(
        output_dir=str(folder), save_checkpoints_steps=save_steps, log_steps=5,
        random_seed=1, use_tpu=False, tpu_name=None, master=None,
        iterations_per_loop=1000, num_tpu_cores=8, train_batch_size=4,
        predict_batch_size=4)
    with tf.Graph().as_default():
      estimator = estimator_helpers.make_estimator(
          args, model_fn, keep_checkpoint_max=1)
      estimator_helpers.train(
          args, estimator, lambda params: tf.data.Dataset.from_tensors(
              {"x": tf.ones([4])}).repeat(), 4, num_steps, "rate")
    return sorted(int(path.stem.split("-")[1])
                  for path in folder.glob("model.ckpt-*.index"))

  def test_one_is_left(self, tmp_path):
    assert self.train(tmp_path, 7, 3) == [7]

  def test_short_run_leaves_its_first_until_it_goes_on(self, tmp_path):
    assert self.train(tmp_path, 4, 100) == [0, 4]
    assert self.train(tmp_path, 4, 100) == [0, 4]  # Nothing is trained.
    assert self.train(tmp_path, 6, 100) == [6]


class CheckpointTest:

  def test_whole_checkpoint_passes(self, tiny_model):
    estimator_helpers.check_checkpoint(
        tiny_model.init_checkpoint, tiny_model.config)

  @pytest.mark.parametrize("key, name", [
      ("vocab_size", "word_embeddings"),
      ("max_position_embeddings", "position_embeddings")])
  def test_other_tables_are_refused(self, tiny_model, key, name):
    config = modeling.BertConfig.from_dict(dict(
        tiny_model.config.to_dict(), **{key: 999}))
    with pytest.raises(ValueError, match=f"{name} has shape.*999"):
      estimator_helpers.check_checkpoint(tiny_model.init_checkpoint, config)


def save_zeros(shapes, prefix):
  """Writes a checkpoint of variables (name -> shape) that are all 0."""
  checkpoints.save_checkpoint(
      {name: np.zeros(shape, np.float32) for name, shape in shapes.items()},
      prefix)


def make_variables(shapes):
  """Makes variables (name -> shape) in the default graph."""
  for name, shape in shapes.items():
    tf.compat.v1.get_variable(name, shape)
  return tf.compat.v1.trainable_variables()


class CheckOutputCheckpointTest:

  def check(self, tmp_path, saved, graph):
    save_zeros(saved, str(tmp_path / "model.ckpt-7"))
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-7"\n')
    with tf.Graph().as_default():
      return estimator_helpers.check_output_checkpoint(
          str(tmp_path), make_variables(graph))

  def test_nothing_there_is_none(self, tmp_path):
    assert estimator_helpers.check_output_checkpoint(str(tmp_path), []) is None
    assert estimator_helpers.steps_done(str(tmp_path)) == 0

  def test_the_same_model_passes_with_its_slots(self, tmp_path):
    assert self.check(
        tmp_path, {"bert/a": [2], "bert/a/adam_m": [2], "global_step": []},
        {"bert/a": [2]}) == str(tmp_path / "model.ckpt-7")

  @pytest.mark.parametrize("graph, message", [
      ({"bert/a": [3], "bert/b": [1]}, r"bert/a is \[2\] there and \[3\] here"),
      ({"bert/a": [2]}, r"bert/b is \[1\] there and missing here"),
      ({"bert/a": [2], "bert/b": [1], "x": [1]}, "x is missing there")])
  def test_another_model_is_refused(self, graph, message, tmp_path):
    with pytest.raises(ValueError, match=message):
      self.check(tmp_path, {"bert/a": [2], "bert/b": [1]}, graph)


class CheckWarmStartTest:

  def check(self, tmp_path, saved, graph):
    prefix = str(tmp_path / "x.ckpt")
    save_zeros(saved, prefix)
    with tf.Graph().as_default():
      tvars = make_variables(graph)
      assignment_map, _ = modeling.get_assignment_map_from_checkpoint(
          tvars, prefix)
      return estimator_helpers.check_warm_start(tvars, assignment_map, prefix)

  def test_tells_loaded_fresh_and_unused(self, tmp_path):
    assert self.check(tmp_path, {"a": [2], "b/adam_m": [2]},
                      {"a": [2], "head": [3]}) == (
                          ["a"], ["head"], ["b/adam_m"])

  def test_nothing_in_common_is_refused(self, tmp_path):
    with pytest.raises(ValueError, match="holds x; the model has a"):
      self.check(tmp_path, {"x": [2]}, {"a": [2]})

  def test_other_shapes_are_refused_by_name(self, tmp_path):
    with pytest.raises(ValueError, match=r"a \[3\] instead of \[2\]"):
      self.check(tmp_path, {"a": [3], "b": [1]}, {"a": [2], "b": [1]})


class DurationTest:

  @pytest.mark.parametrize("seconds, words", [
      (0.4, "0s"), (59, "59s"), (61, "1m 01s"), (3725, "1h 02m 05s")])
  def test_words(self, seconds, words):
    assert estimator_helpers.duration(seconds) == words
