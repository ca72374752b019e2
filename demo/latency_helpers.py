# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Percentiles of how long requests took, in memory that doesn't grow.

Imports neither TensorFlow nor NumPy: clients are started by the dozen.
"""

import collections
import math
import threading
import time

# A time is counted in a class with those that are within 0.5 % of the class's
# middle: 2,300 classes from a microsecond to three hours.
_SHORTEST, _LONGEST = 1e-6, 1e4  # Seconds.
_LOG_RATIO = math.log(1.01)

_PERCENTILES = (50, 90, 95, 99)


class Latencies(object):
  """Times of requests; threads may share it.

  Attributes:
    count: int, how many there were.
  """

  def __init__(self):
    self.count = 0
    self._sum = self._max = 0.0
    self._classes = collections.Counter()
    self._lock = threading.Lock()

  def add(self, seconds):
    """Takes the time (float, seconds) of a request."""
    number = _class_of(seconds)
    with self._lock:
      self.count += 1
      self._sum += seconds
      self._max = max(self._max, seconds)
      self._classes[number] += 1

  def summary(self):
    """What the times so far come to.

    Returns:
      Dict: "mean", "p50", "p90", "p95", "p99", "max" -> milliseconds (float);
      None each while there is no time. p90 is the time that 90 % of the
      requests did not exceed, within 0.5 %; mean and max are exact.
    """
    with self._lock:
      count, total, longest = self.count, self._sum, self._max
      classes = sorted(self._classes.items())
    if not count:
      return dict.fromkeys(("mean", *map("p{}".format, _PERCENTILES), "max"))
    found = {"mean": total / count}
    for percent in _PERCENTILES:
      found[f"p{percent}"] = min(
          _percentile(classes, math.ceil(count * percent / 100)), longest)
    found["max"] = longest
    return {name: 1e3 * seconds for name, seconds in found.items()}


def time_in_turn(calls, number):
  """Times calls one after the other, so that all see the same machine.

  Args:
    calls: dict name -> function without arguments.
    number: int, of the turn. Who comes first may find the caches cold: the
      order changes, so that each does as often.

  Returns:
    Dict name -> seconds (float).
  """
  taken = {}
  for name in list(calls) if number % 2 else list(calls)[::-1]:
    start = time.perf_counter()
    calls[name]()
    taken[name] = time.perf_counter() - start
  return taken


def _class_of(seconds):
  """The class (int) that a time is counted in."""
  return round(math.log(min(max(seconds, _SHORTEST), _LONGEST)) / _LOG_RATIO)


def _percentile(classes, rank):
  """The time (seconds) of a rank.

  Args:
    classes: list of (class, count), ascending.
    rank: int, 1 for the shortest time.
  """
  for number, count in classes:
    rank -= count
    if rank <= 0:
      return math.exp(number * _LOG_RATIO)
  raise AssertionError("There are fewer times than that.")
