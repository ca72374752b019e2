# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The search of demo.tune_int8: which settings hold the score.

1. Every setting for the whole model.
2. With the most accurate of them, each linear layer alone in float32, the last
   one first: what it brings is its effect.
3. More and more layers in float32, in the order of their effect: first those
   that help, then the others, until the goal holds.

What comes next depends on earlier scores alone, never on a time, so a search
that is repeated makes the same trials. Each is a line of the history; a search
that was ended reads them and goes on.

Source: the basic strategy of Intel's Low Precision Optimization Tool.
"""

import collections
import json
import os
import time

from demo import script_helpers

HISTORY = "history.jsonl"
# What the search itself reads of a result.
_NEEDED = ("score", "difference", "latency_ms", "fp32_latency_ms",
           "latency_ratio", "bytes", "seconds")


class Trial(collections.namedtuple("Trial", [
    "number", "setting", "fallbacks", "result", "meets_goal"])):
  """A model that was made and measured.

  Attributes:
    number: int, from 1.
    setting: string, name of what all layers have.
    fallbacks: tuple of string, layers in float32 beside those of the setting.
    result: dict: "score" and "difference" (of the outputs to those of the fp32
      model, mean), "latency_ms", "bytes" and what else was measured.
    meets_goal: bool.
  """

  __slots__ = ()

  @property
  def accuracy(self):
    """What orders trials by how good they are; more is better."""
    return self.result["score"], -self.result["difference"]


class History(object):
  """The results of trials in a file, one JSON object in a line.

  The first line says what the search is about. A result of a search about
  something else is none of this one.
  """

  def __init__(self, path, about):
    """Opens a history.

    Args:
      path: string; made where it is missing.
      about: dict, of what can be written as JSON.

    Raises:
      ValueError: the file is of another search, or damaged.
    """
    self._path = path
    self._results = {}
    about = json.loads(json.dumps(about))
    entries = _entries(path) if os.path.exists(path) else []
    if not entries:
      script_helpers.write_text(path, json.dumps({"about": about}) + "\n")
      return
    found = entries[0].get("about")
    if not isinstance(found, dict):
      raise ValueError(f"{path}, line 1: this is no history of "
                       f"demo.tune_int8. Remove it or name another workspace.")
    for name in sorted({*about, *found}):
      if about.get(name) != found.get(name):
        raise ValueError(
            f"{path} is the history of a search with another {name} "
            f"({_shown(found.get(name))}, not {_shown(about.get(name))}). "
            f"Remove it, or name another tuning.workspace.path.")
    for number, entry in enumerate(entries[1:], 2):
      try:
        key = _key(entry["setting"], entry["fallbacks"])
        result = entry["result"]
        if not all(isinstance(result[name], (int, float)) for name in _NEEDED):
          raise TypeError
        self._results[key] = result
      except (KeyError, TypeError):
        raise ValueError(f"{path}, line {number}: this is no trial. Remove "
                         f"the line.") from None

  def __len__(self):
    return len(self._results)

  def find(self, setting, fallbacks):
    """The result (dict) of a trial, None where there was none."""
    return self._results.get(_key(setting, fallbacks))

  def add(self, number, setting, fallbacks, result):
    """Writes a result; it is on the disk when this returns."""
    self._results[_key(setting, fallbacks)] = result
    line = json.dumps({"trial": number, "setting": setting,
                       "fallbacks": list(fallbacks), "result": result})
    with open(self._path, "a", encoding="utf-8") as writer:
      writer.write(line + "\n")
      writer.flush()
      os.fsync(writer.fileno())


def _key(setting, fallbacks):
  return setting, tuple(sorted(fallbacks))


def _entries(path):
  """The objects (list of dict) of a history, without what a kill cut off."""
  with open(path, encoding="utf-8", errors="replace") as reader:
    text = reader.read()
  whole, _, rest = text.rpartition("\n")
  if rest and not whole:  # The first line was written as a whole.
    raise ValueError(f"{path}, line 1: this is no history of demo.tune_int8. "
                     f"Remove it or name another workspace.")
  if rest:
    script_helpers.write_text(path, f"{whole}\n")
  entries = []
  for number, line in enumerate(whole.splitlines(), 1):
    try:
      entry = json.loads(line)
    except ValueError:
      entry = None
    if not isinstance(entry, dict):
      raise ValueError(f"{path}, line {number}: this is no JSON object. Remove "
                       f"the file, or the line.")
    entries.append(entry)
  return entries


def _shown(value):
  text = json.dumps(value)
  return text if len(text) <= 60 else text[:57] + "..."


class Search(object):
  """One search.

  Attributes:
    trials: list of Trial, in their order.
    stopped_by: string, what ended it.
  """

  def __init__(self, config, goal, settings, layers, measure, history,
               on_trial=lambda trial, best, is_old: None, clock=time.monotonic):
    """Takes what is searched.

    Args:
      config: int8_config.Config.
      goal: float, the least score.
      settings: list of string, for the whole model.
      layers: list of string, in the order of the model.
      measure: function of the number of the trial, a setting and layers in
        float32 (tuple of string) that returns the result, see Trial.
      history: History.
      on_trial: function that is called with each Trial, the best Trial so far
        that meets the goal, or None, and whether it stood in the history.
      clock: function that returns seconds.
    """
    self._config, self._goal = config, goal
    self._settings, self._layers = settings, layers
    self._measure, self._history = measure, history
    self._on_trial, self._clock = on_trial, clock
    self._start, self._earlier = clock(), 0.0
    self.stopped_by = None
    self._by_key = {}  # In their order.

  @property
  def trials(self):
    """See the class."""
    return list(self._by_key.values())

  def run(self):
    """Searches.

    Returns:
      The Trial whose model is taken; None where none meets the goal.
    """
    try:
      self._try_settings()
      if self.winner() is None:
        self._try_fallbacks()
      self.stopped_by = "all trials were made"
    except _Finished as finished:
      self.stopped_by = str(finished)
    return self.winner()

  def winner(self):
    """The best Trial so far that meets the goal, or None."""
    able = [trial for trial in self.trials if trial.meets_goal]
    measure = ("bytes" if self._config.objective == "modelsize"
               else "latency_ratio")
    # min() takes the first of equals.
    return min(able, key=lambda trial: trial.result[measure], default=None)

  def _try_settings(self):
    for setting in self._settings:
      self._try(setting, ())

  def _try_fallbacks(self):
    """Steps 2 and 3 of the module's text."""
    best = max(self.trials, key=lambda trial: trial.accuracy)
    setting = best.setting
    alone = {layer: self._try(setting, (layer,))
             for layer in reversed(self._layers)}
    order = sorted(alone, key=lambda layer: alone[layer].accuracy, reverse=True)
    kept, accuracy, rest = (), best.accuracy, []
    for layer in order:
      trial = self._try(setting, (*kept, layer))
      if trial.accuracy > accuracy:
        kept, accuracy = (*kept, layer), trial.accuracy
      else:
        rest.append(layer)
    # With all layers in float32 nothing would be quantized.
    for layer in rest[:len(self._layers) - 1 - len(kept)]:
      kept = (*kept, layer)
      self._try(setting, kept)

  def _try(self, setting, fallbacks):
    """Makes a trial, unless it was made; raises _Finished after the last."""
    key = _key(setting, fallbacks)
    if key in self._by_key:
      return self._by_key[key]
    if fallbacks and len(fallbacks) >= len(self._layers):
      return self.trials[-1]
    number = len(self.trials) + 1
    if number > self._config.max_trials:
      raise _Finished(f"max_trials: {self._config.max_trials}")
    timeout = self._config.timeout
    seconds = self._earlier + self._clock() - self._start
    # One trial is made however short the time: a report needs one.
    if timeout and self.trials and seconds >= timeout:
      raise _Finished(f"timeout: {timeout:g} s")
    result = self._history.find(setting, fallbacks)
    is_old = result is not None
    if is_old:
      # The time of an earlier run counts as well.
      self._earlier += result["seconds"]
    else:
      start = self._clock()
      result = self._measure(number, setting, fallbacks)
      result["seconds"] = self._clock() - start
      self._history.add(number, setting, fallbacks, result)
    trial = Trial(number, setting, tuple(fallbacks), result,
                  self._config.performance_only or
                  result["score"] >= self._goal)
    self._by_key[key] = trial
    self._on_trial(trial, self.winner(), is_old)
    if self._config.performance_only:
      raise _Finished("performance_only: one trial")
    if trial.meets_goal and not timeout:
      raise _Finished("the goal holds, and timeout is 0")
    return trial


class _Finished(Exception):
  """The search ends; its text says why."""
