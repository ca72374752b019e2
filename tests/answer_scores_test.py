"""Tests of demo/answer_scores.py."""

import json
import subprocess
import sys

import pytest

from demo import answer_scores
from demo import metrics
from tests import conftest


def texts(*labels):
  return [{"text_a": "a", **({} if label is None else {"label": label})}
          for label in labels]


class TextsTest:

  ANSWERS = {number: {"label": label} for number, label in enumerate(
      ["no", "yes", "yes", "no"])}

  def test_two_classes_have_the_scores_of_their_task(self):
    rows = texts("no", "yes", "no", "yes")
    for task, labels, expected_task in (
        ("mrpc", ["no", "yes"], "mrpc"), (None, ["no", "yes"], "custom"),
        # Without labels those of rows and answers are the classes.
        ("mrpc", [], "mrpc"), ("mrpc", ["no", "yes", "maybe"], "custom")):
      assert answer_scores.scores(
          "texts", task, rows, self.ANSWERS, labels) == (
              metrics.classification_scores(
                  expected_task, [0, 1, 0, 1], [0, 1, 1, 0]), 4)

  def test_rows_without_label_or_answer_do_not_count(self):
    rows = texts("no", None, "yes", "no", "yes")
    found, count = answer_scores.scores(
        "texts", None, rows, self.ANSWERS, ["no", "yes"])
    assert count == 3
    assert found["accuracy"] == 1.0
    for answers in {}, {1: {"label": "no"}}:
      assert answer_scores.scores(
          "texts", None, rows, answers, ["no", "yes"]) == ({}, 0)

  def test_label_that_the_model_lacks_is_named(self):
    with pytest.raises(ValueError, match="the label 'x' is none of the model's,"
                       " no, yes"):
      answer_scores.scores("texts", None, texts("no", "x", "no", "no"),
                           self.ANSWERS, ["no", "yes"])

  def test_numbers(self):
    answers = {number: {"value": value}
               for number, value in enumerate([1.0, 2.5, 4.0])}
    found, count = answer_scores.scores(
        "texts", "stsb", texts("0.5", "3", "5"), answers, [])
    assert count == 3
    assert found == metrics.regression_scores([0.5, 3.0, 5.0], [1.0, 2.5, 4.0])
    with pytest.raises(ValueError, match="which the label 'good' is not"):
      answer_scores.scores(
          "texts", None, texts("0.5", "good", "5"), answers, [])


class QuestionsTest:

  ROWS = [{"question": "q", "context": "c", "answers": answers}
          for answers in (["the room"], ["a", "b"], [])]
  FOUND = {0: "Room", 1: "c", 2: ""}

  def test_first_version(self):
    answers = {number: {"answer": self.FOUND[number]} for number in (0, 1)}
    found, count = answer_scores.scores(
        "questions", "squad", self.ROWS, answers, [])
    assert count == 2
    assert found == metrics.squad_scores(
        {0: ["the room"], 1: ["a", "b"]}, {0: "Room", 1: "c"})

  @pytest.mark.parametrize("dump", [list, json.dumps])
  def test_second_version_has_thresholds_where_the_odds_are_known(self, dump):
    right = {number: row["answers"] for number, row in enumerate(self.ROWS)}
    odds = {0: -2.0, 1: -1.0, 2: 3.0}
    nbest = {number: [{"text": text, "probability": 1.0}]
             for number, text in self.FOUND.items()}
    answers = {number: {"answer": text, "null_odds": odds[number],
                        "nbest": dump(nbest[number])}
               for number, text in self.FOUND.items()}
    found, count = answer_scores.scores(
        "questions", "squad_v2", self.ROWS, answers, [])
    assert count == 3
    assert found == metrics.squad_v2_scores(right, self.FOUND, odds, nbest)
    assert any(name.startswith("best") for name in found)
    del answers[1]["null_odds"]
    assert answer_scores.scores(
        "questions", "squad_v2", self.ROWS, answers, [])[
            0] == metrics.squad_v2_scores(right, self.FOUND)


def test_tensorflow_is_not_loaded():
  run = subprocess.run(
      [sys.executable, "-c", "import sys; from demo import answer_scores; "
       "print([x for x in ('tensorflow', 'sklearn', 'demo.metrics') "
       "if x in sys.modules])"],
      check=True, stdout=subprocess.PIPE, text=True, cwd=conftest.PROJECT)
  assert run.stdout == "[]\n"
