"""Tests of demo/int8_report.py; the reports are made up."""

import copy
import io
import json
import os
import re

import numpy as np
from PIL import Image
import pytest

from demo import int8_report
from demo import int8_search

ORANGE, BLUE, GREY = (217, 95, 2), (31, 119, 180), (119, 119, 119)


def trial(number, score, latency, meets_goal, **changes):
  """A trial of a report."""
  return {
      "trial": number, "setting": f"weight.dtype int{number}", "fallbacks": [],
      "meets_goal": meets_goal, "score": score,
      "scores": {"f1": score, "accuracy": score - 0.125},
      "difference": 0.0123, "flips": 10 + number, "latency_ms": latency,
      "scored": "row by row", "latency_ratio": latency / 80,
      "bytes": 110_000_000 + number,
      "kernels": {"int8": ["pooler", "layer_0/output"],
                  "float": ["layer_0/query"],
                  "operations": {"MatMulInteger": 73, "DynamicQuant": 49}},
      **changes}


def report(**changes):
  """A report of two trials, the second of which is taken."""
  return {
      "task": "mrpc", "metric": "f1", "name": "bert_mrpc",
      "framework": "onnxrt_integerops",
      "versions": {"onnxruntime": "1.17.3", "onnx": "1.15.0"},
      "processor": {"name": "Xeon 8481C", "bf16": False, "vnni": True,
                    "onednn": True},
      "threads": 3, "input_model": "/tmp/export", "rows": 408, "length": 128,
      "trial_batch": 8, "criterion": {"relative": 0.01}, "goal": 0.8712,
      "objective": "performance", "random_seed": 9527,
      "calibration_rows": {},
      "baseline": {"score": 0.88, "scores": {"f1": 0.88, "accuracy": 0.75},
                   "latency_ms": 80.0, "bytes": 440_000_000},
      "trials": [trial(1, 0.85, 31.25, False), trial(2, 0.8756, 43.75, True)],
      "winner": 2, "stopped_by": "the goal holds, and timeout is 0",
      "comparison": {
          "1": {"fp32": {"latency_ms": 20.04, "ratio": 1.0},
                "INT8": {"latency_ms": 8.02, "ratio": 0.4}},
          "32": {"fp32": {"latency_ms": 640.0, "ratio": 1.0},
                 "INT8": {"latency_ms": 512.0, "ratio": 0.8}}},
      "notes": ["No bf16 was measured: it is emulated."], **changes}


def without_winner():
  """A report of which no trial meets the goal."""
  trials = [trial(1, 0.85, 31.25, False), trial(2, 0.86, 43.75, False)]
  return report(trials=trials, winner=None, comparison=None, notes=[])


def of_regression():
  """A report of STS-B, whose answers are numbers."""
  scores = {"spearman": 0.5, "pearson": 0.0}
  return report(
      task="stsb", metric="spearman", goal=0.495, criterion={"absolute": 0.005},
      baseline={**report()["baseline"], "score": 0.5, "scores": scores},
      trials=[trial(1, 0.498, 40.0, True, flips=None, scores={
          "spearman": 0.498, "pearson": 0.1})], winner=1)


def searched(entry):
  """The int8_search.Trial of a trial of a report."""
  return int8_search.Trial(
      entry["trial"], entry["setting"], tuple(entry["fallbacks"]), entry,
      entry["meets_goal"])


def rows(content, colour):
  """How many pixels of each row of a picture have nearly this colour."""
  with Image.open(io.BytesIO(content)) as image:
    return np.sum(np.all(abs(np.asarray(
        image.convert("RGB"), int) - colour) < 8, axis=-1), axis=-1)


def pixels(content, colour):
  """How many pixels of a picture have nearly this colour."""
  return int(np.sum(rows(content, colour)))


class TrialLineTest:

  def test_has_what_was_measured_and_the_best_so_far(self):
    first, second = map(searched, report()["trials"])
    assert int8_report.trial_line(first, None) == (
        "trial 1: weight.dtype int1; score 0.8500 (below the goal), 31.2 ms, "
        "11 answer(s) changed; best so far: none")
    assert int8_report.trial_line(second, second) == (
        "trial 2: weight.dtype int2; score 0.8756, 43.8 ms, 12 answer(s) "
        "changed; best so far: trial 2 (0.8756, 43.8 ms)")
    assert int8_report.trial_line(first, second, True).endswith(
        "best so far: trial 2 (0.8756, 43.8 ms) [from the history]")

  @pytest.mark.parametrize("layers, shown", [
      (["a"], "a"), (["a", "b", "c"], "a, b, c"),
      (["a", "b", "c", "d"], "a, b and 2 more"),
      ([f"layer_{i}" for i in range(70)], "layer_0, layer_1 and 68 more")])
  def test_names_few_layers(self, layers, shown):
    line = int8_report.trial_line(
        searched(trial(3, 0.5, 1.0, True, fallbacks=layers)), None)
    assert line.startswith(
        f"trial 3: weight.dtype int3; float32: {shown}; score 0.5000, ")

  def test_numbers_differ_by_a_mean(self):
    line = int8_report.trial_line(searched(of_regression()["trials"][0]), None)
    assert ", mean difference 0.012; best" in line
    assert "answer" not in line


class TableTest:

  def test_has_each_score_before_and_after(self):
    assert list(int8_report.table(report())) == [
        "| score of the dev set | fp32 | INT8 | change |",
        "| --- | --- | --- | --- |",
        "| f1 (held) | 0.8800 | 0.8756 | -0.50 % |",
        "| accuracy | 0.7500 | 0.7506 | +0.08 % |"]

  def test_without_a_winner_has_those_of_before(self):
    assert list(int8_report.table(without_winner()))[2:] == [
        "| f1 | 0.8800 | - | - |", "| accuracy | 0.7500 | - | - |"]

  def test_a_score_of_nothing_changes_by_no_share(self):
    assert list(int8_report.table(of_regression()))[2:] == [
        "| spearman (held) | 0.5000 | 0.4980 | -0.40 % |",
        "| pearson | 0.0000 | 0.1000 | - |"]

  def test_less_than_a_score_below_0_is_a_loss(self):
    found = of_regression()
    found["baseline"]["scores"]["pearson"] = -0.1
    found["trials"][0]["scores"]["pearson"] = -0.2
    assert list(int8_report.table(found))[3] == (
        "| pearson | -0.1000 | -0.2000 | -100.00 % |")


class ChosenTest:

  def test_is_the_trial_of_that_number(self):
    found = report()
    assert int8_report.chosen(found) is found["trials"][1]
    assert int8_report.chosen({**found, "winner": 1}) is found["trials"][0]
    assert int8_report.chosen(without_winner()) is None


class ComparisonLinesTest:

  def test_has_a_row_for_each_batch_and_how_many_times_as_fast(self):
    assert list(int8_report.comparison_lines(
        report()["comparison"], 128)) == [
            "| rows of 128 tokens | fp32 | INT8 |", "| --- | --- | --- |",
            "| batch of 1 | 20.0 ms | 8.0 ms (2.50x) |",
            "| batch of 32 | 640.0 ms | 512.0 ms (1.25x) |"]

  def test_compares_each_model_with_the_first(self):
    found = {"8": {name: {"latency_ms": 100 * ratio, "ratio": ratio}
                   for name, ratio in (("fp32", 1), ("fp32 compiled", 0.8),
                                       ("bf16 compiled", 2), ("INT8", 0.5))}}
    lines = list(int8_report.comparison_lines(found, 384))
    assert lines == [
        "| rows of 384 tokens | fp32 | fp32 compiled | bf16 compiled | INT8 |",
        "| --- | --- | --- | --- | --- |",
        "| batch of 8 | 100.0 ms | 80.0 ms (1.25x) | 200.0 ms (0.50x) "
        "| 50.0 ms (2.00x) |"]


class MachineLineTest:

  def test_names_libraries_processor_and_threads(self):
    assert int8_report.machine_line(report()) == (
        "onnxrt_integerops (onnx 1.15.0, onnxruntime 1.17.3) on Xeon 8481C "
        "with VNNI, 3 thread(s), oneDNN on")

  def test_no_threads_are_one_of_each_core(self):
    found = report(threads=0)
    found["processor"]["onednn"] = False
    assert int8_report.machine_line(found).endswith(
        f"Xeon 8481C with VNNI, {os.cpu_count()} thread(s), oneDNN off")


class LinesTest:

  def test_have_the_numbers_of_the_report(self):
    found = report()
    assert list(int8_report.lines(found)) == [
        "Goal: f1 of 0.8712 or more (relative 0.01; fp32 has 0.8800). 2 "
        "trial(s); ended by: the goal holds, and timeout is 0.",
        *int8_report.table(found),
        "Trial 2: weight.dtype int2; scored row by row. Linear layers in INT8: "
        "2 of 3; in "
        "float32: layer_0/query.",
        "Operations: 49 DynamicQuant, 73 MatMulInteger.",
        "Size: 440.0 MB before, 110.0 after (0.25), 12 answer(s) changed in "
        "408 rows.",
        *int8_report.comparison_lines(found["comparison"], 128),
        "No bf16 was measured: it is emulated.",
        int8_report.machine_line(found)]

  def test_without_a_winner_are_goal_scores_and_machine(self):
    found = without_winner()
    lines = list(int8_report.lines(found))
    assert lines[0].startswith("Goal: f1 of 0.8712 or more")
    assert lines[1:] == [
        *int8_report.table(found), int8_report.machine_line(found)]

  def test_of_numbers_have_their_mean_difference(self):
    lines = list(int8_report.lines(of_regression()))
    assert "(absolute 0.005; fp32 has 0.5000)" in lines[0]
    assert ("Size: 440.0 MB before, 110.0 after (0.25), mean difference 0.012 "
            "in 408 rows.") in lines

  def test_of_a_model_that_is_all_int8_name_no_layers(self):
    found = report()
    found["trials"][1]["kernels"]["float"] = []
    assert ("Trial 2: weight.dtype int2; scored row by row. Linear layers in "
            "INT8: 2 of 2."
            in list(int8_report.lines(found)))


class PictureTest:

  @pytest.mark.parametrize("make", [report, without_winner, of_regression])
  def test_is_a_png_that_shows_trials(self, make):
    content = int8_report.picture(make())
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert 10_000 < len(content) < 200_000
    with Image.open(io.BytesIO(content)) as image:
      assert image.size == (900, 550)
    assert pixels(content, ORANGE) > 100  # The goal's line.
    assert pixels(content, GREY) > 50  # The fp32 model.
    # A trial that meets the goal is in blue; the star of the one that is taken
    # too.
    assert (pixels(content, BLUE) > 150) == (make is not without_winner)

  def test_the_one_that_is_taken_has_a_star(self):
    starred = pixels(int8_report.picture(report()), BLUE)
    plain = pixels(int8_report.picture(report(winner=None)), BLUE)
    assert starred > plain + 50

  def test_the_line_is_at_the_goal(self):
    # A trial whose score is the goal lies on the line.
    content = int8_report.picture(report(winner=None, trials=[
        trial(1, 0.8, 20.0, False), trial(2, 0.8712, 30.0, True)]))
    line = int(np.argmax(rows(content, ORANGE)))
    assert rows(content, ORANGE)[line] > 200
    assert np.all(rows(content, BLUE)[line - 1:line + 2] > 0)

  def test_a_score_elsewhere_is_another_picture(self):
    found = report()
    one = int8_report.picture(found)
    assert int8_report.picture(copy.deepcopy(found)) == one
    found["trials"][0]["score"] = 0.86
    assert int8_report.picture(found) != one

  @pytest.mark.filterwarnings("error::UserWarning")
  @pytest.mark.parametrize("name", [
      "a$b", "$x_1$ and $", "$\\frac{$", "\\$", "$$", "中文 $", "a\nb\x07"])
  def test_any_name_is_shown_as_it_is(self, name):
    found = report(task=name, metric=name, framework=name)
    found["processor"]["name"] = name
    assert int8_report.picture(found)[:4] == b"\x89PNG"

  def test_many_trials_fit(self):
    found = report(trials=[
        trial(number, 0.8 + number / 1000, 40 + number % 7, number > 71)
        for number in range(1, 101)], winner=80)
    assert pixels(int8_report.picture(found), BLUE) > 300


class WriteTest:

  @pytest.mark.parametrize("make", [report, without_winner, of_regression])
  def test_leaves_the_report_and_the_picture(self, tmp_path, make):
    for _ in range(2):  # Also in place of those of an earlier run.
      int8_report.write(str(tmp_path), make())
      assert sorted(path.name for path in tmp_path.iterdir()) == [
          "tuning.png", "tuning_report.json"]
      text = (tmp_path / "tuning_report.json").read_text(encoding="utf-8")
      assert json.loads(text) == make() and text.endswith("}\n")
      assert (tmp_path / "tuning.png").read_bytes() == int8_report.picture(
          make())

  def test_report_can_be_read_line_by_line(self, tmp_path):
    int8_report.write(str(tmp_path), report())
    text = (tmp_path / "tuning_report.json").read_text(encoding="utf-8")
    assert re.search(r'^  "winner": 2,$', text, re.M)
