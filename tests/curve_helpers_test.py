"""Tests of demo/curve_helpers.py."""

import builtins
import json
import math
import os

import numpy as np
from PIL import Image
import pytest

from demo import curve_helpers
from tests import conftest


def steps(first, last, value):
  return {step: value for step in range(first, last + 1)}


def pixels_of(path, colour):
  """How many pixels of a picture have nearly this colour ("#0072B2")."""
  wanted = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
  with Image.open(path) as image:
    return int(np.sum(np.all(
        abs(np.asarray(image.convert("RGB"), int) - wanted) < 8, axis=-1)))


@pytest.fixture
def killed_run(tmp_path):
  """Killed after step 50, went on from 40 and ended at 60."""
  conftest.write_events(
      tmp_path, {"loss": steps(1, 50, 1.0), "loss_1": steps(1, 50, 1.0)}, 0)
  # Two evaluations of what was lost, one that was done again.
  conftest.write_events(tmp_path / "eval", {
      "eval_accuracy": {40: 0.5, 45: 0.75, 50: 0.875}}, 40, begun=1040.0)
  conftest.write_events(
      tmp_path, {"loss": steps(41, 60, 2.0),
                 "learning_rate": steps(41, 60, 1e-4)}, 40, begun=2000.0)
  conftest.write_events(tmp_path / "eval", {
      "eval_accuracy": {50: 0.25, 60: 0.5}, "eval_total": {60: 9.0},
      "eval_loss": {60: 3.0}, "loss": {60: 4.0}}, 50, begun=2010.0)
  conftest.write_events(
      tmp_path / "eval_mismatched", {"eval_accuracy": {60: 0.125}}, 60, 2100.0)
  return tmp_path


class ReadCurvesTest:

  def test_what_was_done_again_counts_once(self, killed_run):
    curves = curve_helpers.read_curves(str(killed_run))
    assert curves.train["loss"] == (
        [(step, 1.0) for step in range(1, 41)] +
        [(step, 2.0) for step in range(41, 61)])
    assert curves.scores == {
        "accuracy": [(40, 0.5), (50, 0.25), (60, 0.5)], "loss": [(60, 3.0)],
        "accuracy_mismatched": [(60, 0.125)]}
    assert curves.last_step == 60
    assert curves.seconds == 50 + 20  # Without the pause.
    assert curves.notes == []

  def test_a_training_that_lost_steps_and_did_none_again_ends_there(
      self, tmp_path):
    conftest.write_events(tmp_path, {"loss": steps(1, 50, 1.0)}, 0)
    conftest.write_events(tmp_path, {}, 40, begun=2000.0)
    curves = curve_helpers.read_curves(str(tmp_path))
    assert curves.train["loss"][-1] == (40, 1.0)
    assert curves.last_step == 40

  def test_evaluating_an_old_checkpoint_drops_nothing(self, tmp_path):
    conftest.write_events(tmp_path, {"loss": steps(1, 9, 1.0)}, 0)
    for begun, points in ((2000.0, {5: 0.5, 9: 0.25}), (3000.0, {3: 0.75})):
      conftest.write_events(
          tmp_path / "eval", {"eval_f1": points}, min(points), begun)
    curves = curve_helpers.read_curves(str(tmp_path))
    assert curves.scores == {"f1": [(3, 0.75), (5, 0.5), (9, 0.25)]}

  @pytest.mark.parametrize("keep, notes", [(-7, 0), (8, 0)])
  def test_a_file_cut_off_is_read_as_far_as_it_goes(
      self, tmp_path, keep, notes):
    path = conftest.write_events(tmp_path, {"loss": steps(1, 9, 1.0)}, 0)
    content = open(path, "rb").read()
    open(path, "wb").write(content[:keep])
    curves = curve_helpers.read_curves(str(tmp_path))
    assert len(curves.train.get("loss", [])) == (8 if keep < 0 else 0)
    assert len(curves.notes) == notes

  def test_a_damaged_file_is_named(self, tmp_path):
    path = conftest.write_events(tmp_path, {"loss": steps(1, 9, 1.0)}, 0)
    content = bytearray(open(path, "rb").read())
    content[-20] ^= 255
    open(path, "wb").write(content)
    curves = curve_helpers.read_curves(str(tmp_path))
    assert len(curves.train["loss"]) == 8
    (note,) = curves.notes
    assert path in note

  def test_a_folder_without_files_has_no_points(self, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
      assert curve_helpers.read_curves(str(folder)) == (
          {}, {}, 0, None, [])

  def test_a_folder_with_the_signs_of_a_pattern_is_read(self, tmp_path):
    folder = tmp_path / "run[1]*"
    conftest.write_events(folder, {"loss": {1: 1.0}})
    assert curve_helpers.read_curves(str(folder)).train


class ScoreTest:

  def test_small_losses_and_large_scores_are_the_best(self):
    points = [(1, 0.5), (2, math.nan), (3, 0.25), (4, 0.5), (5, 0.25)]
    assert curve_helpers.best_point("f1", points) == (1, 0.5)
    for name in ("loss", "masked_lm_loss", "mean_squared_error"):
      assert curve_helpers.best_point(name, points) == (3, 0.25)
    assert curve_helpers.best_point("f1", [(1, math.nan)]) is None

  @pytest.mark.parametrize("names, expected", [
      (["accuracy", "f1", "loss"], "f1"),
      (["accuracy", "matthews_correlation"], "matthews_correlation"),
      (["spearman", "pearson", "mean_squared_error"], "pearson"),
      (["loss", "made_up"], "made_up"), (["loss"], "loss"), ([], None)])
  def test_main_metric(self, names, expected):
    assert curve_helpers.main_metric(names) == expected

  def test_smoothing_starts_at_the_first_value_and_keeps_a_constant(self):
    constant = [(step, 2.0) for step in range(100)]
    assert np.array(curve_helpers.smoothed(constant)) == pytest.approx(
        np.array(constant))
    few = [(1, 1.0), (2, 5.0)]
    assert curve_helpers.smoothed(few) == few
    jump = curve_helpers.smoothed([(0, 1.0)] * 50 + [(1, 0.0)] * 50)
    assert 0 < jump[52][1] < 0.9 and jump[-1][1] < 0.01


class RunNameTest:

  def test_a_seed_is_named_with_its_folder(self):
    assert curve_helpers.run_name("/a/base/seed_2/") == "base/seed_2"
    assert curve_helpers.run_name("/a/base/other") == "other"
    assert curve_helpers.run_name("/a/two\nlines") == "two?lines"


class WriteLearningCurveTest:

  def test_the_picture_shows_all(self, killed_run, caplog):
    killed_run.rename(folder := killed_run.with_name("$a^b_ $run$"))
    (folder / "best").mkdir()
    (folder / "best" / "info.json").write_text(json.dumps(
        {"step": 40, "metric": "accuracy", "score": 0.5, "scores": {}}))
    path = curve_helpers.write_learning_curve(str(folder))
    assert path == str(folder / "learning_curve.png")
    with Image.open(path) as image:
      assert image.size == (900, 880)
    for colour in curve_helpers.COLOURS[:3]:  # Score, loss, rate.
      assert pixels_of(path, colour) > 200, colour
    assert [x for x in os.listdir(folder) if x.endswith(".tmp")] == []
    assert not [x for x in caplog.records if x.levelname == "WARNING"]

  def test_lines_and_best_are_those_of_the_run(self, killed_run):
    curves = curve_helpers.read_curves(str(killed_run))
    figure = curve_helpers.learning_curve(
        "it", curves, {"step": 40, "metric": "accuracy", "score": 0.5})
    losses, rates, scores = figure.axes
    raw, smooth = losses.lines[:2]
    assert list(raw.get_ydata()) == [1.0] * 40 + [2.0] * 20
    assert raw.get_alpha() < 0.5 and 1 < smooth.get_ydata()[45] < 2
    assert list(losses.lines[2].get_ydata()) == [3.0]  # Of the evaluation.
    assert list(rates.lines[0].get_xdata()) == list(range(41, 61))
    shown = {line.get_label(): list(line.get_xdata()) for line in scores.lines}
    assert shown["accuracy"] == [40, 50, 60]
    assert [40] in [list(line.get_xdata()) for line in scores.lines
                    if line.get_marker() == "*"]
    assert "best accuracy 0.5000, step 40" in scores.get_title("right")
    assert figure.get_suptitle() == "it"

  def test_best_of_a_run_that_kept_none_is_found(self, tmp_path):
    conftest.write_events(tmp_path / "eval", {
        "eval_loss": {1: 3.0, 2: 1.0, 3: 2.0}})
    figure = curve_helpers.learning_curve(
        "it", curve_helpers.read_curves(str(tmp_path)))
    (axes,) = figure.axes
    assert "best loss 1.0000, step 2" in axes.get_title("right")

  def test_a_run_without_points_is_told_and_has_no_picture(
      self, tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    (tmp_path / "events.out.tfevents.1.vm").write_bytes(b"")
    assert curve_helpers.write_learning_curve(str(tmp_path)) is None
    (record,) = caplog.records
    assert "has no points" in record.getMessage()
    assert os.listdir(tmp_path) == ["events.out.tfevents.1.vm"]

  def test_nothing_in_the_way_ends_the_run(
      self, killed_run, caplog, monkeypatch):
    (killed_run / "best").mkdir()
    (killed_run / "best" / "info.json").write_text('{"step":')
    (killed_run / "learning_curve.png").mkdir()
    assert curve_helpers.write_learning_curve(str(killed_run)) is None
    real_import = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
      if name.startswith("matplotlib"):
        raise ImportError("No module named 'matplotlib'")
      return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    assert curve_helpers.write_learning_curve(str(killed_run)) is None
    said = " ".join(record.getMessage() for record in caplog.records)
    for part in ("info.json", "can't be written", "pip install matplotlib"):
      assert part in said
