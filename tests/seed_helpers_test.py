"""Tests of demo/seed_helpers.py; the runs are stubbed, their files are not."""

import json
import pathlib

import pytest

from demo import seed_helpers

CONFIGURATION = ["mode: train_and_eval", "  max_steps: 3"]


class Runs(object):
  """Stands for trainings: seed -> accuracy, or an exit status."""

  def __init__(self, outcomes, write):
    self.outcomes, self.started, self._write = outcomes, [], write

  def __call__(self, seed, folder):
    self.started.append(seed)
    outcome = self.outcomes[seed]
    if isinstance(outcome, int):
      return outcome
    self._write(folder, outcome)
    return 0


def write_best(folder, accuracy):
  """What --eval_every_steps leaves."""
  write(folder, "best/info.json", json.dumps({
      "step": 40, "metric": "accuracy", "score": accuracy,
      "scores": {"accuracy": accuracy, "loss": 1 - accuracy}}))


def write(folder, name, text):
  path = pathlib.Path(folder) / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


class ParseSeedsTest:

  def test_takes_different_numbers_from_0_on(self):
    assert seed_helpers.parse_seeds(["1", " 20", "0"]) == [1, 20, 0]
    for words in ([], ["1", "x"], ["-1"], ["1.5"], [""]):
      with pytest.raises(ValueError, match="whole numbers from 0 on"):
        seed_helpers.parse_seeds(words)
    with pytest.raises(ValueError, match="twice"):
      seed_helpers.parse_seeds(["1", "01"])


class ReadScoresTest:

  def test_results_as_upstream_writes_them(self, tmp_path):
    write(tmp_path, "eval_results.txt",
          "eval_accuracy = 0.8\neval_loss = 0.5\nglobal_step = 7\nloss = 0.5\n")
    write(tmp_path, "eval_results_mismatched.txt", "eval_accuracy = 0.7\n")
    assert seed_helpers.read_scores(str(tmp_path)) == (None, {
        "accuracy": 0.8, "loss": 0.5, "accuracy_mismatched": 0.7})

  def test_all_scores_of_a_task(self, tmp_path):
    write(tmp_path, "eval_results.txt", "eval_accuracy = 0.8\n")
    write(tmp_path, "eval_metrics.json", json.dumps({"task": "mrpc", "sets": {
        "dev": {"scores": {"f1": 0.9, "accuracy": 0.8}, "loss": 0.5,
                "per_class": {}},
        "mismatched": {"scores": {"f1": 0.85}, "loss": 0.6}}}))
    assert seed_helpers.read_scores(str(tmp_path)) == (None, {
        "accuracy": 0.8, "f1": 0.9, "loss": 0.5, "f1_mismatched": 0.85,
        "loss_mismatched": 0.6})

  def test_answers(self, tmp_path):
    write(tmp_path, "eval_results.json", json.dumps(
        {"exact": 50.0, "f1": 60.0, "total": 9, "HasAns_total": 4,
         "HasAns_f1": 1.0}))
    assert seed_helpers.read_scores(str(tmp_path)) == (None, {
        "exact": 50.0, "f1": 60.0, "HasAns_f1": 1.0})

  def test_the_best_checkpoint_counts(self, tmp_path):
    write(tmp_path, "eval_results.txt", "eval_accuracy = 0.5\nextra = 1.0\n")
    write_best(tmp_path, 0.75)
    assert seed_helpers.read_scores(str(tmp_path)) == ("accuracy", {
        "accuracy": 0.75, "loss": 0.25, "extra": 1.0})

  def test_no_or_damaged_files(self, tmp_path):
    with pytest.raises(ValueError, match="has no scores"):
      seed_helpers.read_scores(str(tmp_path))
    for text in ("{", "[]"):
      write(tmp_path, "eval_results.json", text)
      with pytest.raises(ValueError, match="eval_results.json is damaged"):
        seed_helpers.read_scores(str(tmp_path))


class RunSeedsTest:

  def test_reports_mean_deviation_and_the_best(self, tmp_path, capsys):
    runs = Runs({3: 0.5, 1: 0.75, 2: 0.625}, write_best)
    status = seed_helpers.run_seeds(
        [3, 1, 2], str(tmp_path), CONFIGURATION, None, runs)
    assert status == 0 and runs.started == [3, 1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[0] for line in lines[:3]] == [
        "train: seed 3: accuracy 0.5000", "train: seed 1: accuracy 0.7500",
        "train: seed 2: accuracy 0.6250"]
    assert [line.split() for line in lines[3:9]] == [
        ["seed", "accuracy", "loss"], ["3", "0.5000", "0.5000"],
        ["1", "0.7500", "0.2500"], ["2", "0.6250", "0.3750"],
        ["mean", "0.6250", "0.3750"], ["std", "0.1250", "0.1250"]]
    assert lines[9:] == [
        f"best: seed 1, accuracy 0.7500, in {tmp_path}/seed_1"]
    report = json.loads((tmp_path / "seeds.json").read_text())
    assert report["best"] == {"seed": 1, "score": 0.75,
                              "folder": f"{tmp_path}/seed_1"}
    assert report["scores"]["accuracy"] == {
        "mean": 0.625, "standard_deviation": 0.125}
    assert set(report["seeds"]) == {"1", "2", "3"}

  def test_goes_on_with_those_not_finished(self, tmp_path, capsys):
    runs = Runs({1: 0.5, 2: 7, 3: 0.75}, write_best)
    start = [[1, 2, 3], str(tmp_path), CONFIGURATION, None, runs]
    assert seed_helpers.run_seeds(*start) == 7
    assert "seed 2 ended with status 7" in capsys.readouterr().out
    runs.outcomes[2] = 0.25
    assert seed_helpers.run_seeds(*start) == 0
    assert runs.started == [1, 2, 2, 3]
    assert "seed 1: accuracy 0.5000" in capsys.readouterr().out
    assert seed_helpers.run_seeds(*start) == 0
    assert runs.started == [1, 2, 2, 3]

  def test_refuses_another_configuration(self, tmp_path):
    runs = Runs({1: 0.5}, write_best)
    seed_helpers.run_seeds([1], str(tmp_path), CONFIGURATION, None, runs)
    with pytest.raises(ValueError, match=r"\(max_steps: [34]\): choose"):
      seed_helpers.run_seeds([1], str(tmp_path), [
          CONFIGURATION[0], "  max_steps: 4"], None, runs)
    assert runs.started == [1]

  def test_one_seed_has_no_deviation_and_a_loss_is_best_low(
      self, tmp_path, capsys):
    def write_loss(folder, loss):
      write(folder, "eval_results.txt", f"eval_accuracy = 0.5\nloss = {loss}\n")

    runs = Runs({1: 0.5, 2: 0.25}, write_loss)
    assert seed_helpers.run_seeds(
        [1], str(tmp_path), CONFIGURATION, None, runs) == 0
    out = capsys.readouterr().out
    assert "seed 1: accuracy" in out and "std" in out and "-" in out
    assert seed_helpers.run_seeds(
        [1, 2], str(tmp_path / "x"), CONFIGURATION, "loss", runs) == 0
    assert "best: seed 2, loss 0.2500" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--best_metric=f1: .* has accuracy"):
      seed_helpers.run_seeds(
          [1], str(tmp_path / "y"), CONFIGURATION, "f1", runs)
