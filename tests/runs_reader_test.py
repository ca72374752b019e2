"""Tests of demo/runs_reader.py."""

import json
import os

import pytest

from demo import runs_reader
from tests import conftest
from tests.runs_test import NOW, make_run, save_step, set_times


def read(folder):
  run, _, _ = runs_reader.RunReader(str(folder)).read(NOW)
  return run


class StateTest:

  def stopped_run(self, folder, rates=None):
    """A run of 40 steps of which nothing says that it is finished."""
    make_run(folder, final=False, kept=False)
    if rates:
      for path in folder.glob("events*"):
        path.unlink()
      conftest.write_events(folder, {"learning_rate": rates})
    set_times(folder, NOW - 3600)
    return folder

  def test_written_to_lately(self, tmp_path):
    self.stopped_run(tmp_path)
    assert read(tmp_path)["state"] == "stopped at step 40"
    os.utime(tmp_path / "checkpoint", (NOW - 60, NOW - 60))
    assert read(tmp_path)["state"] == "running?"

  def test_evaluated_at_its_last_step(self, tmp_path):
    self.stopped_run(tmp_path)
    (tmp_path / "eval_results.txt").write_text("loss = 1.0\nglobal_step = 40\n")
    assert read(tmp_path)["state"] == "finished"
    save_step(tmp_path, 60)  # Somebody trains on.
    set_times(tmp_path, NOW - 3600)
    os.utime(tmp_path / "eval_results.txt", (NOW - 4000, NOW - 4000))
    assert read(tmp_path)["state"] == "stopped at step 60"

  @pytest.mark.parametrize("when, state", [
      (0, "finished"), (-60, "stopped at step 40")])
  def test_results_after_the_last_checkpoint(self, tmp_path, when, state):
    for name, content in (
        ("predictions.json", "{}"),  # Below: of the best step.
        ("eval_results.txt", "eval_accuracy = 0.5\nglobal_step = 20\n")):
      folder = self.stopped_run(tmp_path / name[:4])
      (folder / name).write_text(content)
      os.utime(folder / name, (NOW - 3600 + when,) * 2)
      assert read(folder)["state"] == state

  @pytest.mark.parametrize("total, state", [
      (40, "finished"), (60, "stopped at step 40")])
  def test_learning_rate_has_come_to_its_end(self, tmp_path, total, state):
    # A step's rate is written under the number of the next.
    self.stopped_run(tmp_path, {
        step: 5e-5 * (total - step + 1) / total for step in range(6, 37, 10)})
    assert read(tmp_path)["state"] == state

  def test_max_steps(self, tmp_path):
    self.stopped_run(tmp_path)
    for steps, state in ((40, "finished"), (41, "stopped at step 40")):
      (tmp_path / "params.yaml").write_text(
          f"trainer: {{max_steps: {steps}}}\n")
      set_times(tmp_path, NOW - 3600)
      assert read(tmp_path)["state"] == state

  def test_stopped_early(self, tmp_path):
    self.stopped_run(tmp_path)
    (tmp_path / "evaluations.json").write_text(json.dumps({
        "evaluations": [{"step": 40, "scores": {"f1": 0.5, "loss": 1.0}}],
        "stopped_early_at": 40}))
    run = read(tmp_path)
    assert run["state"] == "finished, stopped early at step 40"
    assert run["final"]["scores"]["f1"] == 0.5

  def test_nothing_but_parameters(self, tmp_path):
    (tmp_path / "params.yaml").write_text("mode: train\n")
    set_times(tmp_path, NOW - 3600)
    run = read(tmp_path)
    assert (run["state"], run["steps"], run["best"]) == (
        "nothing done", 0, None)


class FinalScoresTest:

  def test_two_sets_and_scores_of_the_detailed_results(self, tmp_path):
    make_run(tmp_path, kept=False)
    (tmp_path / "eval_results_mismatched.txt").write_text(
        "eval_accuracy = 0.25\nglobal_step = 40\n")
    (tmp_path / "eval_metrics.json").write_text(json.dumps({
        "task": "mrpc", "global_step": 40, "sets": {
            "dev": {"loss": 0.25, "scores": {"accuracy": 0.5, "f1": 0.75}}}}))
    run = read(tmp_path)
    assert run["final"] == {"step": 40, "scores": {
        "accuracy": 0.5, "accuracy_mismatched": 0.25, "f1": 0.75,
        "loss": 0.25}}
    assert run["best"] == {"metric": "f1", "step": 40, "score": 0.75}


class DamagedTest:

  def test_bytes_in_a_run_hide_nothing_of_others(self, tmp_path):
    make_run(tmp_path)
    (tmp_path / "checkpoint").write_bytes(b"\xff\xfe\x00{")
    (tmp_path / "best" / "info.json").write_text("[" * 100000)
    notes = " ".join(read(tmp_path)["notes"])
    assert "checkpoint can't be read (it names no checkpoint)" in notes
    assert "info.json can't be read (RecursionError" in notes

  @pytest.mark.parametrize("name, content", [
      ("params.yaml", "a: [1"), ("params.yaml", "- a list"),
      ("perf.json", '{"train":'), ("eval_metrics.json", "[]"),
      ("evaluations.json", '{"evaluations": [{"scores": {"f1": 1}}]}'),
      ("eval_results.txt", "eval_accuracy 1.0\n"),
      ("eval_results.json", "\x00\x01"), ("best/info.json", '{"step": "x"}'),
      ("best/info.json", '{"step": 1e999, "metric": "f1", "score": 1}'),
      ("checkpoint", 'model_checkpoint_path: "model.ckpt-99"\n'),
      ("checkpoint", "@@")])
  def test_is_named_and_the_rest_shown(self, tmp_path, name, content):
    make_run(tmp_path)
    (tmp_path / name).write_text(content)
    run = read(tmp_path)
    (note,) = run["notes"]
    assert str(tmp_path / name) in note
    assert run["steps"] == 40
    assert run["best"]["metric"] == "accuracy"
    assert run["best"]["score"] == pytest.approx(0.5)
    assert run["final"]["scores"]["accuracy"]
    assert run["seconds"] == 40.0

  def test_the_score_by_which_it_was_judged_is_known(self, tmp_path):
    make_run(tmp_path, kept=False, final=False)
    for metric, best in (("loss", (20, 0.5)), ("unknown", (40, 0.75))):
      (tmp_path / "evaluations.json").write_text(json.dumps({
          "metric": metric, "evaluations": [
              {"step": 20, "scores": {"f1": 0.25, "loss": 0.5}},
              {"step": 40, "scores": {"f1": 0.75, "loss": float("nan")}}]}))
      found = read(tmp_path)["best"]
      assert (found["step"], found["score"]) == best

  @pytest.mark.parametrize("name, content", [
      ("params.yaml", "trainer: {max_steps: many}\ndata: 2026-01-01\n3: []\n"),
      ("perf.json", '{"train": [1]}'),
      ("perf.json", '{"train": {"throughput_without_first": NaN}}'),
      ("eval_metrics.json", '{"sets": {"dev": 7}, "global_step": null}'),
      ("evaluations.json", '{"evaluations": 5, "stopped_early_at": "no"}'),
      ("eval_results.json", '{"f1": null, "exact_match": "a"}')])
  def test_other_kinds_of_values_are_passed_over(
      self, tmp_path, name, content):
    make_run(tmp_path)
    (tmp_path / name).write_text(content)
    run, _, params = runs_reader.RunReader(str(tmp_path)).read(NOW)
    assert run["best"]["score"] == 0.5
    json.dumps([run, params], allow_nan=False)
