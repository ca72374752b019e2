"""Tests of demo/evaluation_helpers.py."""

import json

import pytest
import tensorflow as tf

from demo import checkpoint_helpers
from demo import estimator_helpers
from demo import evaluation_helpers
from demo import horovod_helpers
from demo import script_helpers
from tests import estimator_helpers_test

METRICS = ("closeness", "loss")


def run_flags(folder, **values):
  return estimator_helpers_test.run_flags(
      folder, **{"eval_every_steps": 2, "save_checkpoints_steps": 3, **values})


def model_fn(features, labels, mode, params):
  """One weight that goes from 0 to 1 in steps of 0.1."""
  del labels, params
  weight = tf.compat.v1.get_variable(
      "weight", [], initializer=tf.zeros_initializer())
  step = tf.compat.v1.train.get_or_create_global_step()
  spec = tf.compat.v1.estimator.tpu.TPUEstimatorSpec
  if mode == tf.estimator.ModeKeys.PREDICT:
    return spec(mode, predictions={"found": weight + 0.0 * features["x"]})
  loss = tf.reduce_mean(tf.square(weight - features["x"]))
  tf.compat.v1.losses.add_loss(loss)
  tf.compat.v1.add_to_collection("rate", tf.constant(0.1))
  slot = tf.compat.v1.get_variable(
      "weight/adam_m", [], initializer=tf.zeros_initializer(), trainable=False)
  return spec(mode, loss=loss, train_op=tf.group(
      step.assign_add(1), slot.assign_add(1.0), weight.assign_add(0.1)))


class Scorer(evaluation_helpers.CheckpointScorer):
  """Scores how close the weight is to 0.35; may fail at a step, once."""

  def __init__(self, model_fn=model_fn):
    self.calls = []
    self.fails_at = None

    def input_fn(params):
      return tf.data.Dataset.from_tensors({"x": tf.ones([3])}).repeat(2).batch(
          params["batch_size"]).unbatch()

    def score(name, result, outputs):
      del name, result
      assert outputs["found"].shape == (6,)
      return {"closeness": -abs(outputs["found"][0] - 0.35), "loss": 1.0}

    super().__init__(model_fn, tf.estimator.ModeKeys.PREDICT,
                     {"": input_fn}, 2, score)

  def __call__(self, path):
    self.calls.append(int(path.rsplit("-", 1)[1]))
    if self.calls[-1] == self.fails_at:
      raise KeyboardInterrupt
    return super().__call__(path)


def train(args, num_steps, scorer, model_fn=model_fn):
  """Trains the one weight; returns the step where it ended."""
  with tf.Graph().as_default():
    estimator = estimator_helpers.make_estimator(args, model_fn)
    estimator_helpers.train(
        args, estimator, lambda params: tf.data.Dataset.from_tensors(
            {"x": tf.ones([4])}).repeat(), 4, num_steps, "rate",
        first_synapse_step=30,
        evaluation=evaluation_helpers.within_training(args, METRICS, scorer))
  return checkpoint_helpers.steps_done(args.output_dir)


def found(folder):
  """(steps evaluated, step of the best, whether stopped early) of a run."""
  log = json.loads((folder / "evaluations.json").read_text())
  return ([entry["step"] for entry in log["evaluations"]], log["best_step"],
          log["stopped_early_at"])


def left(folder):
  """What a run has left of its evaluations."""
  return (json.loads((folder / "evaluations.json").read_text()),
          json.loads((folder / "best" / "info.json").read_text()),
          sorted(path.name for path in (folder / "best").iterdir()),
          (folder / "learning_curve.png").exists())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """`left` of a run that patience has ended."""
  folder = tmp_path_factory.mktemp("unbroken")
  assert train(run_flags(folder, early_stopping_patience=2), 20, Scorer()) == 8
  return left(folder)


class EvaluationTest:

  def test_evaluates_at_steps_and_keeps_the_best(self, tmp_path):
    (tmp_path / "best").mkdir()  # As a run leaves it that is killed there.
    (tmp_path / "best" / "model.ckpt-4.data-00000-of-00001.tempstate1"
     ).write_bytes(b"half")
    scorer = Scorer()
    assert train(run_flags(tmp_path), 7, scorer) == 7
    assert found(tmp_path) == ([2, 4, 6, 7], 4, None)
    info = json.loads((tmp_path / "best" / "info.json").read_text())
    assert info["step"] == 4 and info["metric"] == "closeness"
    assert info["score"] == pytest.approx(-0.05, abs=1e-6)
    names = {path.name for path in (tmp_path / "best").iterdir()}
    assert names == {"checkpoint", "info.json", "model.ckpt-4.index",
                     "model.ckpt-4.data-00000-of-00001"}
    best = tf.train.latest_checkpoint(str(tmp_path / "best"))
    assert dict(tf.train.list_variables(best)) == {
        "weight": [], "global_step": []}  # No slots.
    assert tf.train.load_variable(best, "weight") == pytest.approx(0.4)
    chosen = checkpoint_helpers.chosen_checkpoint(run_flags(tmp_path))
    assert chosen == str(tmp_path / "best" / "model.ckpt-4")
    assert checkpoint_helpers.chosen_checkpoint(
        run_flags(tmp_path, eval_every_steps=0)) is None

  def test_graphs_are_built_once_each(self, tmp_path):
    modes = []

    def counted(features, labels, mode, params):
      modes.append(mode)
      return model_fn(features, labels, mode, params)

    args, scorer = run_flags(tmp_path), Scorer(counted)
    train(args, 7, scorer, counted)
    evaluation_helpers.evaluate_all(args, METRICS, scorer)
    assert len(scorer.calls) > 4
    assert sorted(modes) == [
        tf.estimator.ModeKeys.PREDICT, tf.estimator.ModeKeys.TRAIN]

  def test_patience_ends_it_and_the_same_command_does_not_go_on(
      self, tmp_path):
    args = run_flags(tmp_path, early_stopping_patience=2)
    assert train(args, 20, Scorer()) == 8
    assert found(tmp_path) == ([2, 4, 6, 8], 4, 8)
    again = Scorer()
    assert train(args, 20, again) == 8 and not again.calls
    args = run_flags(tmp_path, early_stopping_patience=3)
    assert train(args, 20, again) == 10 and again.calls == [10]

  @pytest.mark.parametrize("fails_at", [2, 4, 6])
  def test_run_that_dies_in_an_evaluation_ends_as_an_unbroken_one(
      self, fails_at, tmp_path):
    args = run_flags(tmp_path, early_stopping_patience=2)
    scorer = Scorer()
    scorer.fails_at = fails_at
    with pytest.raises(KeyboardInterrupt):
      train(args, 20, scorer)
    assert checkpoint_helpers.steps_done(str(tmp_path)) == fails_at
    again = Scorer()
    assert train(args, 20, again) == 8
    assert again.calls == list(range(fails_at, 9, 2))
    assert found(tmp_path) == ([2, 4, 6, 8], 4, 8)
    assert json.loads(
        (tmp_path / "best" / "info.json").read_text())["step"] == 4

  @pytest.mark.parametrize("name, number", [
      ("info.json", 1), ("evaluations.json", 1),  # Of the first evaluation.
      ("info.json", 2), ("evaluations.json", 2),  # Of the best one.
      ("evaluations.json", 4), ("evaluations.json", 5),  # Decided, not written.
      ("learning_curve.png", 1)])
  def test_run_that_dies_while_it_writes_ends_as_an_unbroken_one(
      self, name, number, unbroken, tmp_path, monkeypatch):
    args = run_flags(tmp_path / "broken", early_stopping_patience=2)
    write, writes = script_helpers.finished_file, []

    def die(path):
      if path.endswith(f"/{name}"):
        writes.append(path)
        if len(writes) == number:
          raise KeyboardInterrupt
      return write(path)

    with monkeypatch.context() as patch:
      patch.setattr(script_helpers, "finished_file", die)
      with pytest.raises(KeyboardInterrupt):
        train(args, 20, Scorer())
    assert train(args, 20, Scorer()) == 8
    assert left(tmp_path / "broken") == unbroken

  def test_patience_that_ends_with_the_training_ends_nothing_early(
      self, tmp_path):
    args = run_flags(tmp_path, early_stopping_patience=2)
    assert train(args, 8, Scorer()) == 8
    assert found(tmp_path) == ([2, 4, 6, 8], 4, None)

  def test_run_that_goes_on_did_not_end_early(self, tmp_path):
    train(run_flags(tmp_path, early_stopping_patience=2), 20, Scorer())
    assert found(tmp_path)[2] == 8
    assert train(run_flags(tmp_path), 12, Scorer()) == 12
    assert found(tmp_path) == ([2, 4, 6, 8, 10, 12], 4, None)

  def test_waiting_ranks_hear_of_a_long_evaluation(
      self, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_helpers, "_WORD_SECONDS", 0.0)
    said = []
    scorer = Scorer()
    evaluation = evaluation_helpers.Evaluation(
        run_flags(tmp_path), METRICS, scorer)

    def work():
      scorer.after_batch()
      scorer.after_batch()
      return True

    assert evaluation.decide(work, lambda word: said.append(word) or word)
    scorer.after_batch()  # Of an evaluation that nobody waits for.
    assert said == [2, 2, 1]  # At work, at work, the training ends.
    monkeypatch.setattr(horovod_helpers, "is_chief", lambda: False)
    for ends in (0, 1):
      heard = iter([2, 2, ends])
      assert evaluation.decide(None, lambda word: next(heard)) == bool(ends)
      assert not list(heard)

  def test_scores_beyond_the_checkpoint_are_forgotten(self, tmp_path):
    args = run_flags(tmp_path)
    train(args, 4, Scorer())
    log = json.loads((tmp_path / "evaluations.json").read_text())
    log["evaluations"].append({"step": 30, "scores": {"closeness": 1.0}})
    (tmp_path / "evaluations.json").write_text(json.dumps(log))
    train(args, 6, Scorer())
    assert found(tmp_path) == ([2, 4, 6], 4, None)


  def test_so_many_checkpoints_are_kept_and_the_best(self, tmp_path):
    train(run_flags(tmp_path, keep_checkpoint_max=2), 10, Scorer())
    steps = [step for step, _ in checkpoint_helpers.saved_steps(str(tmp_path))]
    assert steps == [8, 10]
    assert checkpoint_helpers.step_of(
        checkpoint_helpers.chosen_checkpoint(run_flags(tmp_path))) == 4


class EvaluateAllTest:

  def test_every_checkpoint_is_scored_and_the_run_left_alone(self, tmp_path):
    train(run_flags(tmp_path, eval_every_steps=0), 7, None)
    args = run_flags(tmp_path, eval_every_steps=0, do_train=False,
                     do_eval=True, eval_all_checkpoints=True)
    scorer = Scorer()
    evaluation_helpers.evaluate_several(args, METRICS, scorer)
    assert scorer.calls == [0, 3, 6, 7]
    log = json.loads((tmp_path / "eval_all_checkpoints.json").read_text())
    assert [x["step"] for x in log["evaluations"]] == [0, 3, 6, 7]
    assert log["best_step"] == 3
    assert not (tmp_path / "best").exists()

  def test_folder_without_any_is_refused(self, tmp_path):
    args = run_flags(tmp_path, eval_all_checkpoints=True)
    with pytest.raises(ValueError, match="has no checkpoint"):
      evaluation_helpers.evaluate_several(args, METRICS, Scorer())


class ContinuousTest:

  def test_scores_what_comes_until_the_last_step(self, tmp_path, caplog):
    train(run_flags(tmp_path, eval_every_steps=0), 7, None)
    args = run_flags(tmp_path, eval_every_steps=0, do_train=False,
                     do_eval=True, continuous_eval=True, max_steps=7,
                     continuous_eval_timeout=100)
    scorer = Scorer()
    evaluation_helpers.evaluate_several(args, METRICS, scorer)
    assert scorer.calls == [3, 6, 7]
    assert found(tmp_path)[:2] == ([3, 6, 7], 3)
    again = Scorer()
    evaluation_helpers.evaluate_several(args, METRICS, again)
    assert not again.calls

  def test_without_any_it_ends_with_an_error(self, tmp_path):
    args = run_flags(tmp_path, continuous_eval=True)
    with pytest.raises(ValueError, match="no checkpoint came"):
      evaluation_helpers.evaluate_several(args, METRICS, Scorer())


class EvaluationLogTest:

  def log(self, folder, scores, metric="loss", patience=2):
    log = evaluation_helpers.EvaluationLog(str(folder), metric, patience)
    for step, score in enumerate(scores, 1):
      log.add(step, {metric: score})
    return log

  @pytest.mark.parametrize("metric, scores, best, is_over", [
      ("f1", [0.5, 0.7, 0.7, 0.6], 2, True),
      ("f1", [0.5, 0.7, 0.7], 2, False),
      ("loss", [0.5, 0.2, 0.3, 0.1], 4, False),
      ("masked_lm_loss", [0.1, 0.2, 0.3], 1, True),
      ("mean_squared_error", [3.0, 2.0], 2, False),
      ("f1", [float("nan"), 0.1, float("nan")], 2, False),
  ])
  def test_best_and_patience(self, metric, scores, best, is_over, tmp_path):
    log = self.log(tmp_path, scores, metric)
    assert log.best()["step"] == best
    assert log.out_of_patience() == is_over

  def test_damaged_file_counts_as_none(self, tmp_path):
    (tmp_path / "evaluations.json").write_text('{"evaluations": [')
    assert self.log(tmp_path, []).entries == []


class CheckFlagsTest:

  @pytest.mark.parametrize("flags, message", [
      (dict(early_stopping_patience=2, eval_every_steps=0),
       "pass --eval_every_steps"),
      (dict(best_metric="f2"), "scores are closeness, loss"),
      (dict(best_metric="loss", eval_every_steps=0), "picks one of several"),
      (dict(eval_all_checkpoints=True), "goes with --do_eval"),
      (dict(continuous_eval=True, do_eval=True), "leave out --do_train"),
      (dict(use_tpu=True), "with --use_tpu"),
  ])
  def test_what_can_not_work_is_refused(self, flags, message, tmp_path):
    with pytest.raises(ValueError, match=message):
      evaluation_helpers.check_flags(run_flags(tmp_path, **flags), METRICS)

  def test_another_metric_than_before_is_refused(self, tmp_path):
    train(run_flags(tmp_path), 2, Scorer())
    evaluation_helpers.check_flags(run_flags(tmp_path), METRICS)
    other = dict(best_metric="loss")
    with pytest.raises(ValueError, match="chosen by closeness.*Give --best_met"):
      evaluation_helpers.check_flags(run_flags(tmp_path, **other), METRICS)
    # What doesn't write best/ may take any.
    evaluation_helpers.check_flags(run_flags(
        tmp_path, do_train=False, do_eval=True, eval_all_checkpoints=True,
        **other), METRICS)
    (tmp_path / "checkpoint").unlink()  # Training begins anew.
    evaluation_helpers.check_flags(run_flags(tmp_path, **other), METRICS)

  def test_score_that_the_data_do_not_give_is_named(self, tmp_path):
    args = run_flags(tmp_path, best_metric="other")
    train(run_flags(tmp_path, eval_every_steps=0), 2, None)
    evaluation = evaluation_helpers.Evaluation(
        args, (*METRICS, "other"), Scorer())
    with pytest.raises(ValueError, match="no such score, they give closeness, "):
      evaluation.catch_up(2, 4)

  def test_what_works_is_let_through(self, tmp_path):
    evaluation_helpers.check_flags(
        run_flags(tmp_path, best_metric="eval_loss"), METRICS)


class ChosenCheckpointTest:

  def test_flag_names_a_prefix_or_a_folder(self, tmp_path):
    train(run_flags(tmp_path, eval_every_steps=0), 4, None)
    for path, step in ((tmp_path, 4), (tmp_path / "model.ckpt-3", 3)):
      args = run_flags(tmp_path, checkpoint_path=str(path))
      chosen = checkpoint_helpers.chosen_checkpoint(args)
      assert chosen == str(tmp_path / f"model.ckpt-{step}")
      assert checkpoint_helpers.step_of(chosen) == step
    for path in (tmp_path / "none", tmp_path / "model.ckpt-5"):
      with pytest.raises(ValueError, match="there is no checkpoint"):
        checkpoint_helpers.chosen_checkpoint(
            run_flags(tmp_path, checkpoint_path=str(path)))
