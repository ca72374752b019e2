"""Tests of demo/offline_speed.py."""

import json

import numpy as np
import pytest

from demo import bert_client
from demo import offline_speed
from demo import predictor
from tests import conftest
from tests import served_models

TEXTS = ["a good film", "bad", "the film was lovely and great", "dull", "so"]


class MeasureTest:

  def test_same_model_agrees_and_another_does_not(self, tiny_model, tmp_path):
    models = {
        name: predictor.load(str(served_models.make_exports(
            tiny_model, tmp_path / name, ["classification"], step)[
                "classification"][0]))
        for name, step in (("one", 7), ("same", 7), ("other", 8))}
    report = offline_speed.measure(models, TEXTS, 2, 0.05)
    assert report["rows"] == 5 and report["batch"] == 2
    found = report["models"]
    expected = [models[name](TEXTS) for name in ("one", "other")]
    labels = [[answer["label"] for answer in answers] for answers in expected]
    assert found["same"]["label_agreement"] == 1.0
    assert found["same"]["largest_difference"] < 1e-6
    assert found["other"]["label_agreement"] == np.mean(
        [x == y for x, y in zip(*labels)])
    assert found["other"]["largest_difference"] == pytest.approx(max(
        abs(value - other["probabilities"][label])
        for one, other in zip(*expected)
        for label, value in one["probabilities"].items()), abs=1e-6)
    assert found["other"]["largest_difference"] > 0.01
    counts = {model["batches_measured"] for model in found.values()}
    assert len(counts) == 1 and counts.pop() >= 1
    assert all(model["rows_per_second"] > 0 for model in found.values())


class CompareTest:

  def test_numbers(self):
    assert offline_speed.compare({0: {"value": 1.0}}, {0: {"value": 1.5}}) == {
        "label_agreement": None, "largest_difference": 0.5}

  def test_answers(self):
    answers = [{"answer": text, "probability": value}
               for text, value in (("a", 0.5), ("b", 0.25), ("b", 0.5))]
    assert offline_speed.compare(
        {0: answers[0], 1: answers[1]}, {0: answers[1], 1: answers[2]}) == {
            "label_agreement": 0.5, "largest_difference": 0.25}

  def test_nan_is_a_difference(self):
    found = offline_speed.compare(
        {0: {"value": 1.0}, 1: {"value": 1.0}},
        {0: {"value": float("nan")}, 1: {"value": 1.0}})
    assert found["largest_difference"] is None


class MainTest:

  def test_prints_and_writes(self, tiny_model, tmp_path):
    folder, _ = served_models.make_exports(
        tiny_model, tmp_path, ["squad"])["squad"]
    items = [{"id": str(number), "question": "what is good ?",
              "context": "the film was good and great"} for number in range(3)]
    bert_client.Rows("squad", items).save(str(tmp_path / "rows"))
    run = conftest.run_script(
        "demo.offline_speed", f"--dir=a={folder},b={folder}", "--batch=2",
        f"--rows={tmp_path}/rows", "--seconds=0.05",
        f"--report={tmp_path}/report.json")
    assert run.returncode == 0, run.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["compared_with"] == "a" and report["rows"] == 3
    assert report["models"]["b"]["label_agreement"] == 1.0
    assert "b  " in run.stdout and "same answers 100.00 %" in run.stdout

  def test_missing_rows_are_refused(self, tmp_path):
    run = conftest.run_script(
        "demo.offline_speed", f"--dir={tmp_path}", f"--rows={tmp_path}/none")
    assert run.returncode == 1 and "Traceback" not in run.stdout
    assert "none is no file" in run.stdout
