"""Contenders of a measurement in turn, and what their times come to."""

import collections
import json
import os
import statistics
import subprocess
import sys

from demo import latency_helpers


class Contender(collections.namedtuple(
    "Contender", ["name", "program", "spec", "python", "env", "missing"],
    defaults=[sys.executable, {}, None])):
  """One who does the work of a group.

  Attributes:
    name: string.
    program: list of string, arguments of Python: a file, or -m and a module.
    spec: dict, what the program is to do; see peers/turns.py.
    python: string, the interpreter.
    env: dict, environment variables to add.
    missing: string or None, why it can't be had here.
  """

  __slots__ = ()


class Group(collections.namedtuple("Group", ["case", "contenders", "rounds"])):
  """Contenders with the same work; ratios are to the first of them.

  Attributes:
    case: string, what the work is.
    contenders: list of Contender.
    rounds: int, turns of each.
  """

  __slots__ = ()


class ContenderError(Exception):
  """A contender can't do its work; the message is its reason."""


class Worker(object):
  """A contender's process.

  Attributes:
    facts: dict, what it says of itself.
  """

  def __init__(self, contender, log_file, threads):
    """Starts it, and waits until it is ready.

    Args:
      contender: Contender.
      log_file: string, gets what the program prints.
      threads: int, that it may compute with.

    Raises:
      ContenderError: it can't do this.
    """
    env = {**os.environ, "OMP_NUM_THREADS": str(threads),
           "TF_NUM_INTRAOP_THREADS": str(threads),
           "TF_NUM_INTEROP_THREADS": str(threads),
           "TF_ENABLE_ONEDNN_OPTS": os.environ.get(
               "TF_ENABLE_ONEDNN_OPTS", "1"),
           "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1",
           "TOKENIZERS_PARALLELISM": "false", **contender.env}
    self._log_file = log_file
    with open(log_file, "a", encoding="utf-8") as log:
      self._process = subprocess.Popen(
          [contender.python, *contender.program,
           json.dumps({**contender.spec, "threads": threads})],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
          env=env)
    try:
      self.facts = self._read()["facts"]
    except BaseException:
      self.stop()
      raise

  def turn(self):
    """Lets it work; returns its line (dict)."""
    self._process.stdin.write("\n")
    self._process.stdin.flush()
    return self._read()

  def _read(self):
    line = self._process.stdout.readline()
    found = json.loads(line) if line else {
        "error": f"ended with status {self._process.wait()}, see "
                 f"{self._log_file}"}
    if "error" in found:
      raise ContenderError(found["error"])
    return found

  def stop(self):
    """Ends it."""
    self._process.stdin.close()
    self._process.stdout.close()
    try:
      self._process.wait(20)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


def run_group(group, start, say):
  """Measures the contenders of a group in turn.

  Args:
    group: Group.
    start: function of a Contender that returns a Worker; it may raise
      ContenderError.
    say: function of a line, for progress.

  Returns:
    List of rows for the report, see `summary`; of a contender that is not
    there, or fails, "missing" says why.
  """
  workers, missing, turns = {}, {}, {}
  try:
    for contender in group.contenders:
      if contender.missing:
        missing[contender.name] = contender.missing
        continue
      try:
        workers[contender.name] = start(contender)
        turns[contender.name] = []
      except ContenderError as error:
        missing[contender.name] = str(error)
    for number in range(group.rounds):
      _take_turns(workers, turns, missing, number)
    facts = {name: worker.facts for name, worker in workers.items()}
  finally:
    for worker in workers.values():
      worker.stop()
  first = next((turns[one.name] for one in group.contenders
                if one.name not in missing), None)
  rows = []
  for contender in group.contenders:
    name = contender.name
    row = {"case": group.case, "who": name}
    if name in missing:
      row["missing"] = missing[name]
    else:
      row.update(summary(turns[name], first), facts=facts[name])
    say(f"{group.case}, {name}: " + (
        row.get("missing") or f"{row['cpu_ms_per_row']:.3g} CPU ms a row, "
        f"{row['cpu_ratio']:.2f} times as fast"))
    rows.append(row)
  return rows


def _take_turns(workers, turns, missing, number):
  """One turn of each that is still there."""
  def take(name):
    try:
      turns[name].append(workers[name].turn())
    except ContenderError as error:
      missing[name] = str(error)

  latency_helpers.time_in_turn(
      {name: lambda name=name: take(name)
       for name in workers if name not in missing}, number)


def summary(turns, first):
  """What the turns of a contender come to.

  Args:
    turns: list of dict, a turn each: "wall_s", "cpu_s" (seconds), "rows",
      and, where there are such, "tokens" (without padding), "flops",
      "beside_flops_per_cpu_s", "peak_bytes".
    first: the same of whom it is compared with.

  Returns:
    Dict of medians: "wall_ms_per_row", "cpu_ms_per_row", "rows_per_s",
    "rows_per_cpu_s", "tokens_per_s", "gflops_per_s", "gflops_per_cpu_s",
    "share" (of the speed of what was timed beside it); "wall_ratio" and
    "cpu_ratio", how many times as fast as `first`; "peak_mib", the largest;
    and "turns" themselves.
  """
  def median(value):
    return statistics.median(value(turn) for turn in turns)

  found = {
      "wall_ms_per_row": median(lambda x: 1e3 * x["wall_s"] / x["rows"]),
      "cpu_ms_per_row": median(lambda x: 1e3 * x["cpu_s"] / x["rows"]),
      "rows_per_s": median(lambda x: x["rows"] / x["wall_s"]),
      "rows_per_cpu_s": median(lambda x: x["rows"] / x["cpu_s"])}
  for kind in ("wall", "cpu"):
    found[f"{kind}_ratio"] = median_ratio(
        [turn["rows"] / turn[f"{kind}_s"] for turn in turns],
        [turn["rows"] / turn[f"{kind}_s"] for turn in first])
  if "tokens" in turns[0]:
    found["tokens_per_s"] = median(lambda x: x["tokens"] / x["wall_s"])
    found["tokens_per_cpu_s"] = median(lambda x: x["tokens"] / x["cpu_s"])
  if "flops" in turns[0]:
    found["gflops_per_s"] = median(lambda x: x["flops"] / x["wall_s"] / 1e9)
    found["gflops_per_cpu_s"] = median(lambda x: x["flops"] / x["cpu_s"] / 1e9)
  if "beside_flops_per_cpu_s" in turns[0]:
    # Per turn, since the machine's speed may drift.
    found["share"] = median(
        lambda x: x["flops"] / x["cpu_s"] / x["beside_flops_per_cpu_s"])
  if "peak_bytes" in turns[0]:
    found["peak_mib"] = max(turn["peak_bytes"] for turn in turns) / 2 ** 20
  return {**found, "turns": turns}


def median_ratio(values, others):
  """The median of the ratios (float) of pairs: one measured beside the other."""
  return statistics.median(
      value / other for value, other in zip(values, others))
