"""Tests of demo/estimator_helpers.py."""

import types

from google.protobuf import text_format
import pytest
import tensorflow as tf
from tensorflow.python.framework import graph_io

from demo import checkpoint_helpers
from demo import estimator_helpers
from demo import horovod_helpers
from demo import script_helpers


def flag_values(**values):
  return types.SimpleNamespace(**dict(
      dict(train_batch_size=32, num_accumulation_steps=1, num_train_epochs=3.0,
           warmup_proportion=0.1, learning_rate=2e-5, scale_learning_rate=True,
           max_steps=None), **values))


def run_flags(folder, **values):
  """The flags that an Estimator and its training ask for."""
  return flag_values(**dict(
      dict(output_dir=str(folder), save_checkpoints_steps=100, log_steps=5,
           random_seed=1, use_tpu=False, tpu_name=None, master=None,
           iterations_per_loop=1000, num_tpu_cores=8, train_batch_size=4,
           predict_batch_size=4, profile_steps=None, write_perf=False,
           keep_checkpoint_max=None, checkpoint_path=None, eval_every_steps=0,
           best_metric=None, early_stopping_patience=0, do_train=True,
           do_eval=False, eval_all_checkpoints=False, continuous_eval=False,
           continuous_eval_timeout=1, loss_upper_bound=None, use_xla=False),
      **values))


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

  def test_max_steps_are_those_of_each_rank(self, ranks):
    ranks(8)
    flags = flag_values(max_steps=25, num_train_epochs=0.001)
    assert estimator_helpers.training_steps(40, flags) == (25, 2)

  def test_no_step_is_refused(self, ranks):
    ranks(8)
    with pytest.raises(ValueError, match="40 training examples.*8 rank"):
      estimator_helpers.training_steps(40, flag_values())


  def test_fewer_examples_than_ranks_are_refused(self, ranks):
    ranks(8)
    with pytest.raises(ValueError, match="7 training examples.*8 ranks"):
      estimator_helpers.training_steps(7, flag_values(num_train_epochs=1e3))


class LearningRateTest:

  @pytest.mark.parametrize("size, scale, expected", [
      (1, True, 2e-5), (8, True, 1.6e-4), (8, False, 2e-5)])
  def test_is_scaled_by_ranks(self, ranks, size, scale, expected):
    ranks(size)
    assert estimator_helpers.effective_learning_rate(
        flag_values(scale_learning_rate=scale)) == pytest.approx(expected)


class RecoveryTest:

  def test_lost_disk_ends_the_prediction(self, tmp_path):
    """A row must not come twice because a session started anew."""
    failures = []

    def model_fn(features, labels, mode, params):
      del labels, params
      tf.compat.v1.train.get_or_create_global_step()
      return tf.compat.v1.estimator.tpu.TPUEstimatorSpec(
          mode, predictions={"row": features["x"]})

    class StaleHook(tf.estimator.SessionRunHook):
      """Fails once as a network disk does."""

      def after_run(self, run_context, run_values):
        if not failures:
          failures.append(1)
          raise tf.errors.AbortedError(None, None, "Stale file handle")

    args = run_flags(tmp_path)
    estimator = estimator_helpers.make_estimator(args, model_fn)
    with pytest.raises(tf.errors.AbortedError, match="Stale file handle"):
      list(estimator.predict(
          lambda params: tf.data.Dataset.from_tensors(
              {"x": tf.ones([4])}).repeat(3), hooks=[StaleHook()]))


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
      tf.constant([float("nan"), float("-inf"), 1e-45, 0.1], name="constants")
      train_op = tf.compat.v1.train.GradientDescentOptimizer(0.1).minimize(
          loss, global_step=step)
      return tf.compat.v1.estimator.tpu.TPUEstimatorSpec(
          mode, loss=loss, train_op=train_op)

    args = run_flags(folder, save_checkpoints_steps=save_steps)
    with tf.Graph().as_default():
      estimator = estimator_helpers.make_estimator(
          args, model_fn, keep_checkpoint_max=1)
      estimator_helpers.train(
          args, estimator, lambda params: tf.data.Dataset.from_tensors(
              {"x": tf.ones([4])}).repeat(), 4, num_steps, "rate",
          first_synapse_step=30)
    return sorted(int(path.stem.split("-")[1])
                  for path in folder.glob("model.ckpt-*.index"))

  def test_one_is_left(self, tmp_path):
    assert self.train(tmp_path, 7, 3) == [7]

  def test_short_run_leaves_its_first_until_it_goes_on(self, tmp_path):
    assert self.train(tmp_path, 4, 100) == [0, 4]
    assert self.train(tmp_path, 4, 100) == [0, 4]  # Nothing is trained.
    assert self.train(tmp_path, 6, 100) == [6]

  def test_graph_is_written_as_text_that_gives_it_back(
      self, tmp_path, monkeypatch):
    # That would be TensorFlow's way, which is slow.
    monkeypatch.setattr(graph_io, "text_format", None)
    self.train(tmp_path, 1, 100)
    graph = text_format.Parse(
        (tmp_path / "graph.pbtxt").read_text(), tf.compat.v1.GraphDef())
    meta = tf.compat.v1.MetaGraphDef.FromString(
        (tmp_path / "model.ckpt-0.meta").read_bytes())
    assert {node.name for node in graph.node} == {
        node.name for node in meta.graph_def.node}
    assert [node.attr["value"] for node in graph.node
            if node.name == "constants"] == [
                tf.compat.v1.AttrValue(tensor=tf.make_tensor_proto(
                    [float("nan"), float("-inf"), 1e-45, 0.1]))]


def model_of_losses(losses):
  """A model_fn without weights whose loss (float) of each step is given."""
  def model_fn(features, labels, mode, params):
    del features, labels, params
    step = tf.compat.v1.train.get_or_create_global_step()
    loss = tf.gather(tf.constant(losses), step)
    tf.compat.v1.add_to_collection("rate", tf.constant(0.1))
    with tf.control_dependencies([loss]):  # It is this step's, not the next's.
      train_op = step.assign_add(1).op
    return tf.compat.v1.estimator.tpu.TPUEstimatorSpec(
        mode, loss=loss, train_op=train_op)

  return model_fn


class LogBeginTest:

  @pytest.mark.parametrize("flags, steps_done, line", [
      ({}, 0, "  Weights = random, for there is no --init_checkpoint"),
      ({"init_checkpoint": None}, 7, None),  # A hook says where it goes on.
      ({"init_checkpoint": "x"}, 0, None),  # Its coverage is said elsewhere.
      ({"init_checkpoint": None, "bert_hub_module_handle": "x"}, 0, None)])
  def test_where_the_weights_are_from(self, flags, steps_done, line,
                                      monkeypatch):
    lines = []
    monkeypatch.setattr(estimator_helpers.logging, "info",
                        lambda text, *args: lines.append(text % args))
    estimator_helpers._log_begin(run_flags("", **flags), steps_done)  # pylint: disable=protected-access
    assert lines == ([line] if line else [])


class LossBoundTest:

  def train(self, folder, losses, save_steps, bound=10.0):
    """Trains with these losses, one per step; the message it ends with."""
    args = run_flags(folder, save_checkpoints_steps=save_steps,
                     loss_upper_bound=bound)
    estimator = estimator_helpers.make_estimator(args, model_of_losses(losses))
    with pytest.raises(script_helpers.AgreedError) as error:
      estimator_helpers.train(
          args, estimator, lambda params: tf.data.Dataset.from_tensors(
              {"x": tf.ones([4])}).repeat(), 4, len(losses), "rate",
          first_synapse_step=30)
    return str(error.value)

  def saved(self, folder):
    return [step for step, _ in checkpoint_helpers.saved_steps(str(folder))]

  @pytest.mark.parametrize("loss, words", [
      (12.5, "is 12.5"), (float("nan"), "became infinite or NaN")])
  def test_nothing_is_saved_after_the_bad_step(self, loss, words, tmp_path):
    # A checkpoint would be due at the bad step, 6.
    message = self.train(tmp_path, [1.0] * 5 + [loss, 1.0, 1.0], 3)
    assert message == (
        f"the loss {words} at step 6, --loss_upper_bound=10: try a smaller "
        f"--learning_rate or a longer warm-up. The last good checkpoint is "
        f"kept: {tmp_path}/model.ckpt-3.")
    assert self.saved(tmp_path) == [0, 3]

  def test_last_step_counts_too(self, tmp_path):
    self.train(tmp_path, [1.0, 1.0, 10.5], 100)
    assert self.saved(tmp_path) == [0]

  def test_checkpoint_that_gave_the_loss_is_named(self, tmp_path):
    message = self.train(tmp_path, [1.0] * 6 + [11.0, 1.0], 3)
    assert self.saved(tmp_path) == [0, 3, 6]
    assert message.endswith(
        f"is kept: {tmp_path}/model.ckpt-3. model.ckpt-6 has the weights of "
        f"this loss, so start anew, with another --output_dir and the good one "
        f"as --init_checkpoint.")
    message = self.train(tmp_path / "first", [11.0, 1.0], 3)
    assert message.endswith(
        f"No good checkpoint is kept in {tmp_path}/first. model.ckpt-0 has the "
        f"weights of this loss, so start anew, with another --output_dir.")


class DurationTest:

  @pytest.mark.parametrize("seconds, words", [
      (0.4, "0s"), (59, "59s"), (61, "1m 01s"), (3725, "1h 02m 05s")])
  def test_words(self, seconds, words):
    assert estimator_helpers.duration(seconds) == words
