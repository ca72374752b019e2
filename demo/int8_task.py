# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The rows of demo.tune_int8: what is calibrated with, scored and timed.

Calibration takes rows of the training set, scoring those of the dev set.
"""

import collections
import functools
import hashlib
import json
import os
import statistics
import time
import types

import numpy as np

from demo import answer_scores
from demo import client_rows
from demo import latency_helpers
from demo import predictor
import run_classifier
import tokenization

# What a task's score is, as Intel's tuner chooses it for the tasks of GLUE;
# accuracy where nothing is said.
MAIN_SCORES = {"cola": "matthews_correlation", "mrpc": "f1", "qqp": "f1",
               "stsb": "spearman", "squad": "f1", "squad_v2": "f1"}
_MOST_SECONDS, _FEWEST_CALLS = 60.0, 5
_SQUAD_TRAIN, _SQUAD_DEV = "train-v1.1.json", "dev-v1.1.json"


class Outcome(collections.namedtuple("Outcome", ["scores", "answers"])):
  """What a model answers to the dev set.

  Attributes:
    scores: dict score name -> float.
    answers: list of dict, see `predictor.Predictor`.
  """

  __slots__ = ()


class Task(object):
  """A task's rows, as an export takes them.

  Attributes:
    name: string, canonical name of the task.
    metric: string, the score that is held.
    length: int, the most tokens of a row.
    rows: list of dict of the dev set, see `client_rows.read`.
  """

  def __init__(self, args, metric, model):
    """Reads the dev set.

    Args:
      args: the parsed flags.
      metric: string, see int8_config.Config.
      model: predictor.Predictor of the export.

    Raises:
      ValueError: there are no labelled rows, or the model is of another task.
    """
    self._args, self._codec = args, model.codec
    self.length = model.info["max_seq_length"]
    self._is_squad = model.info["kind"] == "squad"
    self.name, self.rows = self._read("dev", args.predict_file)
    self._check(model)
    self._labels = model.info["labels"]
    self.metric = metric or MAIN_SCORES.get(self.name, "accuracy")
    self._encoded = [self._codec.encode(client_rows.item_of(row))
                     for row in self.rows]
    self._others = self._read_mismatched()
    self._train = None

  def _read(self, split, file):
    """(task, rows) of a set; `file`: string, of SQuAD."""
    args = self._args
    if self._is_squad:
      path = file or os.path.join(args.data_dir or ".", {
          "train": _SQUAD_TRAIN, "dev": _SQUAD_DEV}[split])
      flag = {"train": "train_file", "dev": "predict_file"}[split]
      if not os.path.isfile(path):
        raise ValueError(f"--{flag}={path} is no file. Name the SQuAD file, or "
                         f"a --data_dir that has it.")
      options = dict(squad=True, task_name=None, data_dir=None, data_file=path)
    else:
      options = dict(squad=False, task_name=args.task_name,
                     data_dir=args.data_dir, data_file=None)
    return client_rows.read(types.SimpleNamespace(split=split, **options))

  def _read_mismatched(self):
    """(rows, encoded) of MNLI's other dev set, where it is there."""
    processor = run_classifier.MnliMismatchedProcessor()
    folder = self._args.data_dir or ""
    if self.name != "mnli" or not os.path.exists(
        os.path.join(folder, processor.files["dev"])):
      return [], []
    rows = client_rows.rows_of(processor.get_dev_examples(folder), True)
    return rows, [self._codec.encode(client_rows.item_of(row)) for row in rows]

  def _check(self, model):
    """Refuses a model of something else than the data."""
    key = "answers" if self._is_squad else "label"
    if not all(key in row for row in self.rows):
      raise ValueError(f"The dev set has rows without {key}: there is nothing "
                       f"to score with.")
    task = model.info["task"]
    labels = sorted({row["label"] for row in self.rows}
                    if not self._is_squad else ())
    if model.info["labels"]:
      unknown = sorted(set(labels) - set(model.info["labels"]))
      if unknown:
        raise ValueError(
            f"--input_model={model.path} is of another task than "
            f"--task_name={self._args.task_name}: the data has the label "
            f"{unknown[0]!r}, the model {', '.join(model.info['labels'])}.")
    if not self._is_squad and task in run_classifier.PROCESSORS and (
        task != self.name):
      raise ValueError(f"--task_name={self._args.task_name}: {model.path} is a "
                       f"model for {task}, which has the same labels.")

  def evaluate(self, model, batch_size=None):
    """Answers the dev set.

    Args:
      model: predictor.Predictor.
      batch_size: int, see `predictor.Predictor.answers`.

    Returns:
      Outcome. Of MNLI its scores have "mismatched_accuracy" too, where that
      set is there.
    """
    answers = model.answers(self._encoded, batch_size)
    scores = self._scores(self.rows, answers)
    rows, encoded = self._others
    if rows:
      scores.update({
          f"mismatched_{name}": value for name, value in self._scores(
              rows, model.answers(encoded, batch_size)).items()})
    if self.metric not in scores:
      raise ValueError(f"evaluation.accuracy.metric: {self.metric} is no score "
                       f"of {self.name}, which has {', '.join(scores)}.")
    return Outcome(scores, answers)

  def _scores(self, rows, answers):
    found, _ = answer_scores.scores(
        "questions" if self._is_squad else "texts", self.name, rows,
        dict(enumerate(answers)), self._labels)
    return {name: value for name, value in found.items()
            if isinstance(value, (int, float)) and name != "total"}

  def calibration_rows(self, count, seed):
    """Rows of the training set, drawn without putting back.

    Args:
      count: int.
      seed: int.

    Returns:
      List of predictor.Row; of a training set with fewer rows all of them.

    Raises:
      ValueError: the training set can't be read.
    """
    rows = self.train_rows()
    order = np.random.RandomState(seed).permutation(len(rows))
    found = []
    for number in order:
      if len(found) >= count:
        break
      # Texts of several windows give the first: each question a row.
      found.append(self._codec.encode(
          client_rows.item_of(rows[number])).rows[0])
    return found

  def checksum(self):
    """What tells the rows from others (string): sha256 of those in use."""
    found = hashlib.sha256()
    for rows in (self.rows, self._train or []):
      found.update(json.dumps(rows, ensure_ascii=False).encode())
    return found.hexdigest()

  def train_rows(self):
    """The rows (list of dict) of the training set, read once.

    Raises:
      ValueError: it can't be read.
    """
    if self._train is None:
      _, self._train = self._read("train", self._args.train_file)
    return self._train

  def full_rows(self, count):
    """Rows of as many tokens as the model takes, of the dev set's tokens.

    Args:
      count: int.

    Returns:
      List of predictor.Row of max_seq_length tokens.
    """
    tokens = [token for encoded in self._encoded[:8 * count]
              for token in encoded.rows[0].input_ids]
    tokens = np.resize(tokens, count * self.length).reshape(count, -1)
    return [_full_row(row.tolist()) for row in tokens]


def _full_row(tokens):
  """The Row of tokens (list of int) in two segments of equal length."""
  second = len(tokens) // 2
  return predictor.Row(tokens, [1] * len(tokens),
                       [0] * second + [1] * (len(tokens) - second))


def vocabulary_size(model):
  """How many tokens (int) a predictor.Predictor's vocabulary has."""
  return len(tokenization.load_vocab(
      os.path.join(model.path, "assets", "vocab.txt")))


def random_rows(count, length, vocabulary):
  """Rows of random tokens: what a model takes does not depend on them.

  Args:
    count: int.
    length: int, tokens of a row.
    vocabulary: int, the tokens that there are.

  Returns:
    List of predictor.Row.
  """
  tokens = np.random.RandomState(count).randint(
      0, vocabulary, [count, length])
  return [_full_row(row.tolist()) for row in tokens]


def differences(expected, found):
  """How far answers are from those of the fp32 model.

  Args:
    expected: list of dict, see `predictor.Predictor`.
    found: the same of another model.

  Returns:
    Dict: "flips", int, answers that are others, None for numbers; and
    "difference", the mean absolute difference of a probability (of questions
    that of the answer, 1 where it is another) or number.
  """
  flips, sizes = 0, []
  for one, other in zip(expected, found):
    is_same, apart = answer_scores.differences(one, other)
    flips += is_same is False
    sizes.append(float(np.mean(apart or [1.0])))
  return {"flips": None if "value" in expected[0] else flips,
          "difference": float(np.mean(sizes))}


def measure_speed(models, rows, warmup, iterations):
  """Times calls of several models in turn, so that all see the same machine.

  Args:
    models: dict name -> predictor.Predictor.
    rows: list of predictor.Row, computed in one call.
    warmup: int, calls before.
    iterations: int, calls that count; fewer of them, but five at least, if
      they would take more than a minute.

  Returns:
    Dict name -> dict: "latency_ms", median of a call; "rows_per_second"; and
    "ratio", median of how many times as long as the first model's call before
    or after it this one's took.
  """
  calls = {name: functools.partial(model.run, [[row] for row in rows])
           for name, model in models.items()}
  taken = []
  until = time.monotonic() + _MOST_SECONDS
  for number in range(warmup + iterations):
    if number >= warmup + _FEWEST_CALLS and time.monotonic() > until:
      break
    taken.append(latency_helpers.time_in_turn(calls, number))
  first, found = next(iter(models)), {}
  for name in models:
    middle = statistics.median(turn[name] for turn in taken[warmup:])
    found[name] = {
        "latency_ms": 1e3 * middle, "rows_per_second": len(rows) / middle,
        "ratio": statistics.median(
            turn[name] / turn[first] for turn in taken[warmup:])}
  return found
