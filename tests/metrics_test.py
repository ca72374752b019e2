"""Tests of demo/metrics.py against formulas written out."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from demo import metrics

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2,
                 max_size=60)


class ClassificationScoresTest:

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
