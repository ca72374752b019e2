"""Tests of demo/metrics.py: formulas written out, and recorded scores."""

import hashlib
import json
import random

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from demo import metrics
from tests import conftest

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2,
                 max_size=60)


class ClassificationScoresTest:

  @settings(deadline=None)  # The first scores load scikit-learn.
  @given(PAIRS)
  def test_formulas(self, pairs):
    true, found = np.array(pairs).T
    tp = int(((true == 1) & (found == 1)).sum())
    tn = int(((true == 0) & (found == 0)).sum())
    fp = int(((true == 0) & (found == 1)).sum())
    fn = int(((true == 1) & (found == 0)).sum())
    scores = metrics.classification_scores("mrpc", true, found)
    assert scores["accuracy"] == pytest.approx((tp + tn) / len(pairs))
    assert scores["f1"] == pytest.approx(
        2 * tp / (2 * tp + fp + fn) if tp else 0.0)
    root = np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    cola = metrics.classification_scores("cola", true, found)
    assert cola["matthews_correlation"] == pytest.approx(
        (tp * tn - fp * fn) / root if root else 0.0)

  @pytest.mark.parametrize("task, names", [
      ("cola", ["matthews_correlation", "accuracy"]),
      ("qqp", ["f1", "accuracy"]), ("mnli", ["accuracy"])])
  def test_first_score_is_that_of_glue(self, task, names):
    assert list(metrics.classification_scores(task, [0, 1], [0, 1])) == names
    assert list(metrics.score_names(task, is_regression=False)) == names


class RegressionScoresTest:

  def test_linear_and_monotone(self):
    x = np.array([1.0, 2.0, 3.0, 10.0])
    linear = metrics.regression_scores(x, 2 * x + 1)
    assert linear["pearson"] == pytest.approx(1.0)
    monotone = metrics.regression_scores(x, x ** 3)
    assert monotone["spearman"] == pytest.approx(1.0)
    assert monotone["pearson"] < 0.99
    assert linear["mean_squared_error"] == pytest.approx(
        np.mean((x + 1) ** 2))
    assert tuple(linear) == metrics.score_names("sts-b", is_regression=True)

  def test_constant_predictions_score_zero(self):
    scores = metrics.regression_scores(np.arange(4.0), np.ones(4))
    assert (scores["pearson"], scores["spearman"]) == (0.0, 0.0)


class ClassReportTest:

  def test_class_that_never_occurs_is_reported(self):
    report = metrics.class_report([0, 0, 1], [0, 1, 1], ["a", "b", "c"])
    assert report["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert report["per_class"]["a"] == {
        "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3),
        "examples": 2}
    assert report["per_class"]["c"]["examples"] == 0


def questions(path):
  """id -> true answers, and id -> text, of a SQuAD file."""
  data = json.loads(path.read_text(encoding="utf-8"))["data"]
  pairs = [(qa, paragraph["context"]) for article in data
           for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
  return ({qa["id"]: [answer["text"] for answer in qa["answers"]]
           for qa, _ in pairs}, {qa["id"]: text for qa, text in pairs})


def made_up_predictions(answers, contexts, kind):
  """Predictions of a known kind, the same each time."""
  ids = list(answers)
  first = {qas_id: (truths or [""])[0] for qas_id, truths in answers.items()}
  if kind == "perfect":
    return first
  if kind == "empty":
    return dict.fromkeys(ids, "")
  if kind == "shuffled":
    values = [first[qas_id] for qas_id in ids]
    random.Random(7).shuffle(values)
    return dict(zip(ids, values))
  found = {}
  for i, qas_id in enumerate(ids):
    truth, words = first[qas_id], contexts[qas_id].split()
    found[qas_id] = [
        truth, f"The {truth.upper()}!", " ".join(truth.split()[1:]),
        first[ids[i - 1]], truth + " " + " ".join(words[:2]),
        " ".join(words[3:7]), "a", ""][i % 8]
  return found


def made_up_odds(answers):
  """"No answer" is more likely where there is none, but not always."""
  draw = random.Random(11)
  return {qas_id: draw.gauss(-1.0 if truths else 1.0, 2.0)
          for qas_id, truths in answers.items()}


def digest(scores):
  """One value for the (exact, f1) of every question."""
  lines = sorted(f"{qas_id} {exact:.0f} {f1:.9f}"
                 for qas_id, (exact, f1) in scores.items())
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# Scores that tests/data/README.md says how to record.
RECORDED = json.loads((conftest.PROJECT / "tests" / "data" /
                       "squad_scores.json").read_text())


class SquadScoresTest:

  @pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["id"])
  def test_recorded_scores(self, case, request):
    folder = (conftest.PROJECT if case["file"].startswith("demo/") else
              request.getfixturevalue("shared"))
    answers, contexts = questions(folder / case["file"])
    predictions = made_up_predictions(answers, contexts, case["kind"])
    if case["version"] == 1:
      scores = metrics.squad_scores(answers, predictions)
    else:
      scores = metrics.squad_v2_scores(
          answers, predictions, made_up_odds(answers))
    assert scores.keys() >= case["scores"].keys()
    for name, value in case["scores"].items():
      assert scores[name] == pytest.approx(value, abs=1e-9), name
    assert digest({
        qas_id: metrics.squad_question_scores(
            truths, predictions[qas_id], case["version"] == 2)
        for qas_id, truths in answers.items()}) == case["digest"]

  @pytest.mark.parametrize("truths,found,version_2,expected", [
      (["Saint Bernadette"], "the  saint, Bernadette", False, (1, 1.0)),
      (["a b c d"], "b c x", False, (0, 2 / 3)),
      (["one two", "two"], "two", False, (1, 1.0)),
      (["the"], "an", False, (1, 0.0)),  # Nothing equals nothing, but no F1.
      (["the"], "an", True, (1, 1.0)),
      ([], "", True, (1, 1.0)), ([], "x", True, (0, 0.0)),
      (["x"], "", True, (0, 0.0))])
  def test_one_question(self, truths, found, version_2, expected):
    exact, f1 = metrics.squad_question_scores(truths, found, version_2)
    assert (exact, pytest.approx(f1)) == expected

  def test_threshold_over_the_n_best_list(self):
    # Both were answered with "" since 0.5 is above the threshold of 0; the
    # first should have been answered.
    scores = metrics.squad_v2_scores(
        {"a": ["x"], "b": []}, {"a": "", "b": ""}, {"a": 0.5, "b": 0.7},
        {"a": [{"text": ""}, {"text": "x"}], "b": [{"text": ""}]})
    assert scores["exact"] == 50.0 and scores["best_exact"] == 50.0
    assert scores["nbest_best_exact"] == 100.0
    assert scores["nbest_best_exact_thresh"] == 0.5
    assert scores["HasAns_total"] == scores["NoAns_total"] == 1
