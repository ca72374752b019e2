# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What `demo.runs` reads of one run."""

import json
import math
import os
import re

import tensorflow as tf
import yaml

from demo import curve_helpers

# Files by which a folder is known as a run.
MARKS = re.compile(
    r"checkpoint|events\.out\.tfevents\..*|eval_results.*\.(txt|json)|"
    r"eval_metrics\.json|evaluations\.json")

# Files written when a run has nothing left to do.
_LAST_FILES = re.compile(
    r"learning_curve\.png|eval_results.*\.(txt|json)|predictions.*|"
    r"test_results.*\.tsv")

# What was written since is at work.
_ALIVE_SECONDS = 600


class RunReader(object):
  """Reads one run; what is damaged is noted and passed over."""

  def __init__(self, path):
    """Takes the run's folder."""
    self._path = path
    self._names = sorted(os.listdir(path))
    self._notes = []

  def read(self, now):
    """Reads all.

    Args:
      now: float, seconds since the epoch.

    Returns:
      (run, curves, params): dict for the report, Curves, and dict
      "section.flag" -> value.
    """
    curves = curve_helpers.read_curves(self._path)
    self._notes += curves.notes
    params = self._params()
    final_step, final = self._final()
    evaluations = self._content("evaluations.json")
    curves = curves._replace(scores=self._all_scores(
        curves.scores, evaluations, final_step, final))
    steps = self._steps(curves, final_step)
    best = self._best(curves.scores, final, _text(evaluations.get("metric")))
    state = self._state(
        params, steps, final_step, curves.train.get("learning_rate", []),
        _number(evaluations.get("stopped_early_at")), now)
    if not final:  # Of the last evaluation then.
      final_step = max((points[-1][0] for points in curves.scores.values()
                        if points), default=None)
    if final_step is not None:  # The text file may not have all.
      final = {**_scores_at(curves.scores, final_step), **final}
    perf = _dict(_dict(self._content("perf.json")).get("train"))
    run = {
        "path": self._path,
        "experiment": _text(params.get("experiment")),
        "task": self._task(params),
        "state": state,
        "steps": steps,
        "best": best,
        "final": {"step": final_step, "scores": final},
        "examples_per_second": _number(perf.get("throughput_without_first")),
        "seconds": (_number(perf.get("seconds")) if curves.seconds is None
                    else curves.seconds),
        "notes": list(map(curve_helpers.printable, self._notes))}
    return run, curves, params

  def _content(self, name, parse=json.loads):
    """A file's content (dict); {} if there is none, or it is damaged."""
    if name not in self._names:
      return {}
    path = os.path.join(self._path, name)
    try:
      with open(path, encoding="utf-8") as reader:
        content = parse(reader.read())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
      self._note(path, str(error).splitlines()[0])
      return {}
    if not isinstance(content, dict):
      self._note(path, "no table of names and values")
      return {}
    return content

  def _note(self, path, why):
    self._notes.append(f"{path} can't be read ({why}).")

  def _params(self):
    """params.yaml as dict "section.flag" -> value."""
    found = {}
    for key, value in self._content("params.yaml", yaml.safe_load).items():
      if isinstance(value, dict):
        found.update({f"{key}.{flag}": x for flag, x in value.items()})
      else:
        found[str(key)] = value
    # What JSON has no form of, such as a date, is shown as it is printed.
    return {key: value if _number(value) is not None or
            isinstance(value, (bool, str, type(None))) else str(value)
            for key, value in found.items()}

  def _task(self, params):
    name = _text(params.get("data.task_name"))
    name = name or _text(self._content("eval_metrics.json").get("task"))
    if name is None and "nbest_predictions.json" in self._names:
      return "squad"
    return name

  def _final(self):
    """(step or None, dict of scores) of the result files."""
    step, scores = None, {}
    for name in self._names:
      found = re.fullmatch(r"eval_results(.*)\.txt", name)
      if found:
        results = self._content(name, _parse_results)
        step = results.pop("global_step", step)
        scores.update(curve_helpers.score_names(results, found[1]))
    detailed = self._content("eval_metrics.json")
    if step in (None, detailed.get("global_step")):
      step = _whole(detailed.get("global_step"))
      for name, content in _dict(detailed.get("sets")).items():
        content = _dict(content)
        scores.update(_finite(curve_helpers.score_names(
            {"loss": content.get("loss"), **_dict(content.get("scores"))},
            "" if name == "dev" else f"_{name}")))
    scores.update(_finite(curve_helpers.score_names(
        self._content("eval_results.json"))))
    return _whole(step), scores

  def _all_scores(self, scores, evaluations, final_step, final):
    """Points of evaluations: of TensorBoard, evaluations.json and the end."""
    found = {name: dict(points) for name, points in scores.items()}
    entries = evaluations.get("evaluations", [])
    for entry in entries if isinstance(entries, list) else []:
      step = _whole(_dict(entry).get("step"))
      if step is None:
        self._note(os.path.join(self._path, "evaluations.json"),
                   "an evaluation without its step")
        continue
      for name, value in _finite(curve_helpers.score_names(
          _dict(entry.get("scores")))).items():
        found.setdefault(name, {})[step] = value
    if final_step is not None:
      for name, value in final.items():
        found.setdefault(name, {})[final_step] = value
    return {name: sorted(points.items()) for name, points in found.items()}

  def _steps(self, curves, final_step):
    """Steps of the newest checkpoint, or else the last that is known of."""
    state = None
    if "checkpoint" in self._names:
      try:
        state = tf.train.get_checkpoint_state(self._path)
      except UnicodeDecodeError:  # TensorFlow takes other damage as no state.
        state = None
      path = state.model_checkpoint_path if state else ""
      found = re.search(r"-(\d+)$", path)
      if found and os.path.exists(f"{path}.index"):
        return int(found[1])
      self._note(os.path.join(self._path, "checkpoint"),
                 f"it names {path or 'no checkpoint'}, which isn't there"
                 if path else "it names no checkpoint")
    return max(curves.last_step, final_step or 0)

  def _best(self, scores, final, metric):
    """The best score: dict with metric, score and step; None without one.

    Args:
      scores: dict name -> points.
      final: dict name -> value, of result files.
      metric: string, the score by which the run was judged, or None.
    """
    try:
      best = curve_helpers.kept_best(self._path)
    except ValueError as error:
      self._notes.append(str(error))
      best = None
    if best is not None:
      return best
    names = {**scores, **final}
    if metric not in names:
      metric = curve_helpers.main_metric(names)
    if metric is None:
      return None
    # SQuAD's result file does not say of which step it is.
    point = curve_helpers.best_point(
        metric, scores.get(metric) or [(None, final[metric])])
    return point and {"step": point[0], "metric": metric, "score": point[1]}

  def _state(self, params, steps, final_step, rates, stopped_early_at, now):
    """In words: finished, running? or where it stopped.

    Nothing says how many steps a training was to do; what it leaves when it
    has done them does.

    Args:
      params: dict "section.flag" -> value.
      steps: int, of the newest checkpoint.
      final_step: int or None, the step of the result files.
      rates: list of (step, learning rate).
      stopped_early_at: number or None.
      now: float, seconds since the epoch.
    """
    if stopped_early_at is not None and steps <= stopped_early_at:
      return f"finished, stopped early at step {stopped_early_at:g}"
    max_steps = _number(params.get("trainer.max_steps"))
    if max_steps is not None and steps >= max_steps > 0:
      return "finished"
    if final_step == steps or _is_spent(rates, steps):
      return "finished"
    saved = self._written(re.compile("checkpoint"))
    ended = self._written(_LAST_FILES)
    if ended is not None and (saved is None or ended >= saved):
      return "finished"
    if now - (self._written(MARKS) or 0) < _ALIVE_SECONDS:
      return "running?"
    return f"stopped at step {steps}" if steps else "nothing done"

  def _written(self, pattern):
    """When the newest file of such a name was written; None without one."""
    times = []
    for name in self._names:
      try:
        if pattern.fullmatch(name):
          times.append(os.path.getmtime(os.path.join(self._path, name)))
      except OSError:  # It went while this looked.
        continue
    return max(times, default=None)


def _is_spent(rates, steps):
  """Whether a learning rate that falls in a line has come to its end.

  Args:
    rates: list of (step, learning rate).
    steps: int, of the last checkpoint.
  """
  if len(rates) < 2:
    return False
  (step, rate), (last_step, last_rate) = rates[-2:]
  if not 0 < last_rate < rate:
    return last_rate == 0 < rate
  zero = last_step + last_rate * (last_step - step) / (rate - last_rate)
  return zero < steps + 1.5  # The rate of the last step is not yet 0.


def _parse_results(text):
  """The lines `key = value` of an eval_results.txt as a dict of floats."""
  found = {}
  for line in text.splitlines():
    key, _, value = line.partition(" = ")
    found[key] = float(value)
  return _finite(found)


def _dict(value):
  return value if isinstance(value, dict) else {}


def _text(value):
  return None if value is None else curve_helpers.printable(value)


def _number(value):
  """A finite number, None for all else."""
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return value if is_number and math.isfinite(value) else None


def _whole(value):
  value = _number(value)
  return None if value is None else int(value)


def _finite(values):
  """What of a dict are finite numbers."""
  return {name: value for name, value in values.items()
          if _number(value) is not None}


def _scores_at(scores, step):
  """The scores of one step: dict name -> value."""
  return _finite({name: dict(points)[step] for name, points in scores.items()
                  if step in dict(points)})


