# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Commands of demo.serve_demo as a user could type them, each with its log."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time

from demo import launch

_WIDTH = 80  # Columns of a command that is shown.
_READY = re.compile(r"^bert_server: gRPC on \S+:(\d+), REST on \S+:(\d+)$",
                    re.M)
_READY_SECONDS, _POLL_SECONDS = 600.0, 0.1
# How long a process that was asked to end may take.
_GRACE_SECONDS = 40.0


class Steps(object):
  """Runs commands one after the other.

  Attributes:
    done: list of dict, what was run: "name", "command", "log", "seconds".
  """

  def __init__(self, log_dir):
    """Takes the folder of the logs (string); it is made."""
    self.done = []
    self._log_dir = log_dir
    os.makedirs(log_dir, exist_ok=True)

  def run(self, name, program, *arguments, environment=None, result=None):
    """Runs a command to its end.

    Args:
      name: string, of the step and of its log.
      program: string, a script (run_classifier.py) or a module (demo.x).
      *arguments: strings.
      environment: dict, variables that are set for it.
      result: string, a file that it writes; if it did, the step is none that
        failed, whatever its exit status says.

    Returns:
      Bool, whether the exit status is 0.

    Raises:
      ValueError: it failed; names the step and the log.
    """
    before = _identity(result)
    step = self._begin(name, program, arguments, environment)
    start = time.monotonic()
    with _process(program, arguments, environment, step["log"]) as process:
      status = process.wait()
    step["seconds"] = time.monotonic() - start
    if status and _identity(result) == before:
      raise _failed(step, f"ended with status {status}")
    print(f"  {step['seconds']:.1f} s", flush=True)
    return status == 0

  @contextlib.contextmanager
  def server(self, name, *arguments, environment=None):
    """Runs demo.bert_server for the time of a `with` statement.

    Args:
      name: string, see `run`.
      *arguments: strings; ports are added.
      environment: dict, see `run`.

    Yields:
      (port of gRPC, port of REST).

    Raises:
      ValueError: it did not start, or did not live until it was stopped.
    """
    program, arguments = "demo.bert_server", (
        *arguments, "--port=0", "--rest_port=0")
    step = self._begin(name, program, arguments, environment, " &")
    start = time.monotonic()
    with _process(program, arguments, environment, step["log"]) as process:
      ports = _wait_until_ready(process, step)
      step["seconds"] = time.monotonic() - start
      print(f"  ready after {step['seconds']:.1f} s", flush=True)
      yield ports
      if process.poll() is not None:
        raise _failed(step, f"ended with status {process.returncode}")

  def _begin(self, name, program, arguments, environment, end=""):
    """Shows a command; returns the dict of `done` for it."""
    log = os.path.join(self._log_dir, f"{name}.log")
    command = shown(program, arguments, environment) + end
    print(f"\n== {name} (log: {log})\n$ {command}", flush=True)
    self.done.append({"name": name, "command": command, "log": log,
                      "seconds": None})
    return self.done[-1]


def shown(program, arguments, environment=None):
  """A command as a shell takes it (string), in lines that fit a screen."""
  words = [*(f"{name}={shlex.quote(value)}"
             for name, value in (environment or {}).items()), "python",
           *([program] if program.endswith(".py") else ["-m", program]),
           *map(shlex.quote, arguments)]
  lines = [words[0]]
  for word in words[1:]:
    if len(lines[-1]) + len(word) + 3 <= _WIDTH:
      lines[-1] += " " + word
    else:
      lines.append("    " + word)
  return " \\\n".join(lines)


@contextlib.contextmanager
def _process(program, arguments, environment, log):
  """Runs a process, which does not outlive the `with` statement."""
  command = [sys.executable,
             *([program] if program.endswith(".py") else ["-m", program]),
             *arguments]
  # Python passes over a Ctrl-C that comes within what it does at a fork: it
  # waits until the process can be stopped.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

  def prepare():
    launch.end_with_parent()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)

  with open(log, "wb") as writer:
    try:
      process = subprocess.Popen(  # pylint: disable=subprocess-popen-preexec-fn
          command, stdin=subprocess.DEVNULL, stdout=writer,
          stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})},
          preexec_fn=prepare)
    except BaseException:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)
      raise
    try:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)
      yield process
    finally:
      _stop(process)


def _stop(process):
  """Ends a process if it is not at its end; with force should it not obey."""
  if process.poll() is not None:
    return
  try:
    process.terminate()
    process.wait(_GRACE_SECONDS)
  except subprocess.TimeoutExpired:
    pass
  finally:  # A second Ctrl-C as well.
    if process.poll() is None:
      process.kill()
      process.wait()


def _wait_until_ready(process, step):
  """Waits for a server; returns its ports, of gRPC and of REST."""
  until = time.monotonic() + _READY_SECONDS
  while time.monotonic() < until:
    with open(step["log"], encoding="utf-8", errors="replace") as reader:
      found = _READY.search(reader.read())
    if found:
      return int(found[1]), int(found[2])
    if process.poll() is not None:
      raise _failed(step, f"ended with status {process.returncode}")
    time.sleep(_POLL_SECONDS)
  raise _failed(step, f"is not ready after {_READY_SECONDS:g} s")


def _identity(path):
  """What tells a file (or None) from one written later."""
  if not path or not os.path.exists(path):
    return None
  found = os.stat(path)
  return found.st_ino, found.st_mtime_ns


def _failed(step, how):
  """The error (ValueError) of a step that failed."""
  with open(step["log"], encoding="utf-8", errors="replace") as reader:
    said = [line.strip() for line in reader if line.strip()]
  return ValueError(
      f"The step {step['name']} {how}: {(said or ['it said nothing'])[-1]} "
      f"(log: {step['log']})")
