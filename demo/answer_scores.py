# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Scores of answers to rows of which it is known what is right.

It needs no TensorFlow, which takes 4 s and 400 MB to load.
"""

import json


def nbest_of(answer):
  """The n-best of an answer to a question.

  Args:
    answer: dict, whose "nbest" is a list, or JSON as gRPC has it.

  Returns:
    List of dict.
  """
  nbest = answer["nbest"]
  return json.loads(nbest) if isinstance(nbest, str) else nbest


def differences(one, other):
  """How far an answer is from another one to the same item.

  Args:
    one: dict, see `predictor.Predictor`.
    other: the same.

  Returns:
    (bool, list of float): whether label or answer is the same, None for
    numbers; and the absolute differences of the probabilities (of an answer to
    a question its own, none where it is another), or of the numbers.
  """
  if "value" in one:
    return None, [abs(one["value"] - other["value"])]
  if "answer" in one:
    if one["answer"] != other["answer"]:
      return False, []
    return True, [abs(one["probability"] - other["probability"])]
  return one["label"] == other["label"], [
      abs(value - other["probabilities"][label])
      for label, value in one["probabilities"].items()]


def scores(kind, task, items, answers, labels):
  """The scores of the answered rows of which it is known what is right.

  Args:
    kind: string, "texts" or "questions".
    task: string, as demo.metrics names it; None where it isn't known.
    items: list of dict, the rows, see `client_rows.read`. What is right stands
      in "label", a string, or "answers", a list of string; a row without is
      not scored.
    answers: dict number of a row -> dict with "label", "value" or "answer",
      as `predictor.Predictor` or the server gives it.
    labels: list of string, the model's; [] for numbers or if not known.

  Returns:
    (dict score -> float, number of rows).

  Raises:
    ValueError: a row's label is none that the model may find.
  """
  key = "answers" if kind == "questions" else "label"
  known = [number for number in sorted(answers) if key in items[number]]
  if not known:
    return {}, 0
  # scikit-learn takes a second to load.
  from demo import metrics  # pylint: disable=import-outside-toplevel
  right = {number: items[number][key] for number in known}
  answers = {number: answers[number] for number in known}
  if kind == "questions":
    found = _question_scores(metrics, task, right, answers)
  elif "value" in answers[known[0]]:
    found = metrics.regression_scores(
        [_number(right[number]) for number in known],
        [answers[number]["value"] for number in known])
  else:
    found = _label_scores(metrics, task, labels, right, answers)
  return found, len(known)


def _number(label):
  """A label as float; raises ValueError for one that is none."""
  try:
    return float(label)
  except ValueError:
    raise ValueError(f"the model finds numbers, which the label {label!r} is "
                     f"not") from None


def _label_scores(metrics, task, labels, right, answers):
  """`scores` of classes."""
  found = {number: answer["label"] for number, answer in answers.items()}
  unknown = sorted(set(right.values()) - set(labels))
  if labels and unknown:
    raise ValueError(f"the label {unknown[0]!r} is none of the model's, "
                     f"{', '.join(labels)}")
  names = labels or sorted({*right.values(), *found.values()})
  return metrics.classification_scores(
      # F1 of a task is that of the second of two classes.
      task if task and len(names) == 2 else "custom",
      [names.index(right[number]) for number in right],
      [names.index(found[number]) for number in right])


def _question_scores(metrics, task, right, answers):
  """`scores` of answers, as run_squad.py's."""
  found = {number: answer["answer"] for number, answer in answers.items()}
  if task != "squad_v2":
    return metrics.squad_scores(right, found)
  odds = nbest = None
  if all("null_odds" in answer for answer in answers.values()):
    odds = {number: answer["null_odds"] for number, answer in answers.items()}
    nbest = {number: nbest_of(answer) for number, answer in answers.items()}
  return metrics.squad_v2_scores(right, found, odds, nbest)
