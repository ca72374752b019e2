"""One side of a measurement in turns: does its work each time it is told to.

A program calls `serve` with what it can do. It is started with a JSON text as
its argument ({"kind": "train", ...}), prints a JSON line when it is ready, and
another for each line that it reads: the time of a turn. So programs that need
different environments are timed in turn, turn by turn, on the same machine.

Needs nothing but Python, since it runs in the environments of peers too.
"""

import collections
import json
import math
import os
import re
import subprocess
import sys
import time
import traceback

# A turn lasts so many seconds at least: short work is done several times.
SHORTEST_TURN = 0.3
_WARM_UP = 2
_TICKS = os.sysconf("SC_CLK_TCK")


class Case(collections.namedtuple(
    "Case", ["run", "facts", "beside"], defaults=[None])):
  """Work to be timed.

  Attributes:
    run: function without arguments. It returns a dict of what it has done
      ("rows", "tokens", "flops"; int) or has measured itself ("wall_s",
      "cpu_s": seconds, "peak_bytes": int).
    facts: dict for the report: "versions" and the like.
    beside: function or None, timed after each turn for itself; it returns the
      number of operations (int) that it has done.
  """

  __slots__ = ()


def timed(function):
  """Calls a function.

  Returns:
    (what it returns, seconds by the clock, CPU seconds of all threads).
  """
  wall, cpu = time.perf_counter(), time.process_time()
  result = function()
  return result, time.perf_counter() - wall, time.process_time() - cpu


def peak_bytes():
  """The most memory (int, bytes) that this process has had so far.

  getrusage would count what the process that started this one had, too.
  """
  with open("/proc/self/status", encoding="utf-8") as reader:
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", reader.read())[1])


def serve(kinds):
  """Does what the argument says, turn by turn, until the input ends.

  Args:
    kinds: dict kind -> function of the spec (dict) that returns a Case. What
      it raises ends the program with a line that says so.
  """
  # The lines have the output for themselves.
  lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)

  def say(**values):
    lines.write(json.dumps(values) + "\n")
    lines.flush()

  spec = json.loads(sys.argv[1])
  try:
    case = kinds[spec["kind"]](spec)
    calls = 1
    for _ in range(spec.get("warm_up", _WARM_UP)):
      _, seconds, _ = timed(case.run)
      calls = max(1, math.ceil(SHORTEST_TURN / max(seconds, 1e-6)))
  except Exception as error:  # pylint: disable=broad-except
    traceback.print_exc()
    say(error=f"{type(error).__name__}: {error}"[:300])
    return 1
  say(facts=case.facts)
  for _ in sys.stdin:
    say(**_turn(case, calls))
  return 0


def _turn(case, calls):
  """One turn: the sums of several calls."""
  done, wall, cpu = timed(lambda: [case.run() or {} for _ in range(calls)])
  # What was measured within comes after what was measured around it.
  found = {"wall_s": wall, "cpu_s": cpu, "peak_bytes": peak_bytes()}
  for name in {name for one in done for name in one}:
    values = [one[name] for one in done]
    found[name] = max(values) if name == "peak_bytes" else sum(values)
  if case.beside:
    flops, _, beside_cpu = timed(case.beside)
    found["beside_flops_per_cpu_s"] = flops / beside_cpu
  return found


def run_command(spec):
  """A Case that runs a command as a whole, or until it prints some line.

  Args:
    spec: dict: "command" (list of string), "until" (pattern of a line, after
      which it is stopped; None: to its end), "rows" (int), "remove" (list of
      files that go before it starts), "status" (int, the good one).
  """
  def run():
    """Takes times and memory of that process alone."""
    for path in spec.get("remove", []):
      subprocess.run(["rm", "-rf", path], check=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        spec["command"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True)
    found, last = {}, []
    for line in process.stdout:
      last = last[-20:] + [line]
      if not found and spec.get("until") and re.search(spec["until"], line):
        found = {"wall_s": time.perf_counter() - start,
                 "cpu_s": _cpu_seconds(process.pid)}
        process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    if not found:
      if (os.WEXITSTATUS(status) != spec.get("status", 0) or
          os.WIFSIGNALED(status) or spec.get("until")):
        raise RuntimeError(f"{spec['command']}: {''.join(last)}")
      found = {"wall_s": time.perf_counter() - start,
               "cpu_s": usage.ru_utime + usage.ru_stime}
    return {**found, "rows": spec["rows"],
            "peak_bytes": 1024 * usage.ru_maxrss}
  return Case(run, {})


def _cpu_seconds(pid):
  """CPU time of a running process and its children that have ended."""
  with open(f"/proc/{pid}/stat", encoding="utf-8") as reader:
    values = reader.read().rsplit(")", 1)[1].split()
  return sum(map(int, values[11:15])) / _TICKS


if __name__ == "__main__":
  sys.exit(serve({"command": run_command}))
