# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Scores of the GLUE tasks, by scikit-learn and SciPy, and of SQuAD.

These libraries are loaded when something is scored, which a training may never
come to: it takes them half a second.

Source: Wang et al. 2018, "GLUE", table 1, for which task has which score;
Rajpurkar et al. 2016 and 2018 for SQuAD's, whose official evaluation these
agree with on every question.
"""

import collections
import re
import string

import numpy as np

# Scores beside accuracy, the one that GLUE reports first.
_TASK_SCORES = {
    "cola": ("matthews_correlation",),
    "mrpc": ("f1",),
    "qqp": ("f1",),
    "custom": ("macro_f1", "matthews_correlation"),
}


def score_names(task, is_regression):
  """The names of a task's scores, the main one first.

  Args:
    task: string, canonical name of the task ("mrpc").
    is_regression: bool.

  Returns:
    Tuple of string, the keys that `regression_scores` or
    `classification_scores` gives.
  """
  if is_regression:
    return ("pearson", "spearman", "mean_squared_error")
  return _TASK_SCORES.get(task, ()) + ("accuracy",)


def classification_scores(task, label_ids, predicted_ids):
  """The scores of a classification task.

  Args:
    task: string, canonical name of the task ("mrpc").
    label_ids: int [n], true classes.
    predicted_ids: int [n], classes found.

  Returns:
    Dict score name -> float: GLUE's first score of the task, then accuracy.
    F1 is that of class 1, macro_f1 the mean of all classes'. Any task that GLUE
    does not have is called "custom".
  """
  from sklearn import metrics  # pylint: disable=import-outside-toplevel
  functions = {"accuracy": metrics.accuracy_score,
               "matthews_correlation": metrics.matthews_corrcoef,
               "f1": lambda true, found: metrics.f1_score(
                   true, found, pos_label=1, zero_division=0.0),
               "macro_f1": lambda true, found: metrics.f1_score(
                   true, found, average="macro", zero_division=0.0)}
  return {name: float(functions[name](label_ids, predicted_ids))
          for name in score_names(task, is_regression=False)}


def regression_scores(targets, predictions):
  """Pearson and Spearman correlation and the mean squared error.

  Args:
    targets: float [n].
    predictions: float [n].

  Returns:
    Dict score name -> float. A correlation is 0 where one side is constant
    and it is therefore not defined.
  """
  from scipy import stats  # pylint: disable=import-outside-toplevel
  from sklearn import metrics  # pylint: disable=import-outside-toplevel

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
  from sklearn import metrics  # pylint: disable=import-outside-toplevel
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


_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized_answer(text):
  """Lower-cases, drops ASCII punctuation and articles, and squeezes blanks."""
  text = text.lower().translate(_PUNCTUATION)
  return " ".join(_ARTICLE.sub(" ", text).split())


def squad_question_scores(truths, prediction, version_2=False):
  """Scores the answer to one question: the best over the true answers.

  Args:
    truths: list of string; empty where the text has no answer (2.0).
    prediction: string; "" says that there is no answer.
    version_2: bool, by the rules of SQuAD 2.0: true answers that normalize to
      nothing don't count, and nothing equals nothing in F1 too.

  Returns:
    (exact, f1): int 0 or 1, and float 0 to 1, of words.
  """
  truths = [normalized_answer(truth) for truth in truths]
  if version_2:
    truths = [truth for truth in truths if truth] or [""]
  found = normalized_answer(prediction)
  exact = max(int(found == truth) for truth in truths)
  return exact, max(_word_f1(found.split(), truth.split(), version_2)
                    for truth in truths)


def _word_f1(found, truth, version_2):
  """F1 of two lists of words."""
  if version_2 and not (found and truth):
    return float(found == truth)
  same = sum((collections.Counter(found) & collections.Counter(truth)).values())
  if not same:
    return 0.0
  precision, recall = same / len(found), same / len(truth)
  return 2 * precision * recall / (precision + recall)


def _scores_by_id(answers, predictions, version_2):
  """id -> (exact, f1)."""
  return {qas_id: squad_question_scores(truths, predictions[qas_id], version_2)
          for qas_id, truths in answers.items()}


def _percentage(values):
  return 100.0 * sum(values) / len(values)


def squad_scores(answers, predictions):
  """The scores of SQuAD 1.1.

  Args:
    answers: dict id -> list of string, at least one.
    predictions: dict id -> string.

  Returns:
    Dict: `exact_match` and `f1`, percentages, and `total`, questions.

  Raises:
    KeyError: a prediction is missing.
  """
  scores = _scores_by_id(answers, predictions, version_2=False).values()
  return {"exact_match": _percentage([exact for exact, _ in scores]),
          "f1": _percentage([f1 for _, f1 in scores]),
          "total": len(scores)}


def squad_v2_scores(answers, predictions, null_odds=None, nbest=None):
  """The scores of SQuAD 2.0.

  Args:
    answers: dict id -> list of string, empty where there is no answer.
    predictions: dict id -> string, "" for no answer.
    null_odds: dict id -> float or None, how sure "no answer" is.
    nbest: dict id -> list of dicts with "text", or None.

  Returns:
    Dict in the names of the official evaluation: `exact`, `f1`, `total`, the
    same of the questions with (`HasAns_`) and without an answer (`NoAns_`);
    with `null_odds` the best scores that another threshold would give,
    `best_exact`, `best_f1`, and the thresholds, `..._thresh`. The official
    evaluation takes the best threshold over `predictions`, in which some
    answers have given way to "" already. With `nbest` the same over the best
    answer of each question: `nbest_best_exact` and so on.

  Raises:
    KeyError: a prediction, odds or n-best list is missing.
  """
  scores = _scores_by_id(answers, predictions, version_2=True)
  has_answer = {qas_id: bool(truths) for qas_id, truths in answers.items()}
  results = {}
  for prefix, wanted in (("", (True, False)), ("HasAns_", (True,)),
                         ("NoAns_", (False,))):
    group = [scores[x] for x in answers if has_answer[x] in wanted]
    if group:
      results[prefix + "exact"] = _percentage([exact for exact, _ in group])
      results[prefix + "f1"] = _percentage([f1 for _, f1 in group])
      results[prefix + "total"] = len(group)
  if null_odds:
    results.update(_best_thresholds(
        "", scores, predictions, null_odds, has_answer))
    if nbest:
      best = {qas_id: next((entry["text"] for entry in nbest[qas_id]
                            if entry["text"]), "") for qas_id in answers}
      results.update(_best_thresholds(
          "nbest_", _scores_by_id(answers, best, version_2=True), best,
          null_odds, has_answer))
  return results


def _best_thresholds(prefix, scores, predictions, null_odds, has_answer):
  """The best scores over all thresholds of `null_odds`, and the thresholds."""
  results = {}
  order = sorted(scores, key=lambda qas_id: null_odds[qas_id])
  for number, name in enumerate(("exact", "f1")):
    # With a threshold below all odds, no question gets an answer. Raising it
    # gives them theirs one by one.
    points = best = sum(not has_answer[qas_id] for qas_id in scores)
    threshold = 0.0
    for qas_id in order:
      if has_answer[qas_id]:
        points += scores[qas_id][number]
      elif predictions[qas_id]:
        points -= 1
      if points > best:
        best, threshold = points, null_odds[qas_id]
    results[f"{prefix}best_{name}"] = 100.0 * best / len(scores)
    results[f"{prefix}best_{name}_thresh"] = threshold
  return results
