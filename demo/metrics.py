# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Scores of the GLUE tasks, by scikit-learn and SciPy.

Source: Wang et al. 2018, "GLUE", table 1, for which task has which score.
"""

import numpy as np
from scipy import stats
from sklearn import metrics

# Scores beside accuracy, the one that GLUE reports first.
_TASK_SCORES = {
    "cola": ("matthews_correlation",),
    "mrpc": ("f1",),
    "qqp": ("f1",),
}


def classification_scores(task, label_ids, predicted_ids):
  """The scores of a classification task.

  Args:
    task: string, canonical name of the task ("mrpc").
    label_ids: int [n], true classes.
    predicted_ids: int [n], classes found.

  Returns:
    Dict score name -> float: GLUE's first score of the task, then accuracy.
    F1 is that of class 1.
  """
  functions = {"matthews_correlation": metrics.matthews_corrcoef,
               "f1": lambda true, found: metrics.f1_score(
                   true, found, pos_label=1, zero_division=0.0)}
  scores = {name: float(functions[name](label_ids, predicted_ids))
            for name in _TASK_SCORES.get(task, ())}
  scores["accuracy"] = float(metrics.accuracy_score(label_ids, predicted_ids))
  return scores


def regression_scores(targets, predictions):
  """Pearson and Spearman correlation and the mean squared error.

  Args:
    targets: float [n].
    predictions: float [n].

  Returns:
    Dict score name -> float. A correlation is 0 where one side is constant
    and it is therefore not defined.
  """
  def correlation(function):
    if np.ptp(targets) == 0 or np.ptp(predictions) == 0:
      return 0.0
    return float(function(targets, predictions).statistic)

  return {"pearson": correlation(stats.pearsonr),
          "spearman": correlation(stats.spearmanr),
          "mean_squared_error": float(
              metrics.mean_squared_error(targets, predictions))}


def class_report(label_ids, predicted_ids, label_names):
  """Precision, recall and F1 of each class, and the confusion matrix.

  Args:
    label_ids: int [n], true classes.
    predicted_ids: int [n], classes found.
    label_names: list of string, name of each class.

  Returns:
    Dict with "per_class": label name -> {precision, recall, f1, examples},
    and "confusion_matrix": rows are true labels, columns the found ones, in
    the order of "labels".
  """
  classes = list(range(len(label_names)))
  columns = metrics.precision_recall_fscore_support(
      label_ids, predicted_ids, labels=classes, zero_division=0.0)
  return {
      "labels": list(label_names),
      "per_class": {
          name: {"precision": float(precision), "recall": float(recall),
                 "f1": float(f1), "examples": int(examples)}
          for name, precision, recall, f1, examples in zip(
              label_names, *columns)},
      "confusion_matrix": metrics.confusion_matrix(
          label_ids, predicted_ids, labels=classes).tolist(),
  }
