"""Runs scripts in processes forked off one that has imported TensorFlow.

Most of a short run's time is that import, and a test suite has hundreds of
runs. A fork begins where the import ended and does all else as `python script`
would: arguments, folder, output, exit status and signals are its own.
"""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading


class Forker(object):
  """Starts runs one after the other; the process it forks from ends with it."""

  def __init__(self):
    self._process = None

  def run(self, target, flags, path, timeout):
    """Runs a script or module with the folder / as its working folder.

    Args:
      target: string, path of a script, or name of a module.
      flags: list of string.
      path: string, PYTHONPATH of the runs.
      timeout: float, seconds.

    Returns:
      subprocess.CompletedProcess; stdout holds stderr too.
    """
    if self._process is None:
      # A session of its own, so that keys pressed here don't reach it.
      self._process = subprocess.Popen(
          [sys.executable, __file__], stdin=subprocess.PIPE,
          stdout=subprocess.PIPE, text=True, cwd="/", start_new_session=True)
      atexit.register(self._process.kill)
    with tempfile.NamedTemporaryFile() as output:
      self._tell({"target": target, "flags": flags, "output": output.name,
                  "environment": {**os.environ, "PYTHONPATH": path}})
      pid = self._hear()
      clock = threading.Timer(timeout, os.killpg, (pid, signal.SIGKILL))
      clock.start()
      status = self._hear()
      is_over = not clock.is_alive()
      clock.cancel()
      stdout = output.read().decode("utf-8", "replace")
    arguments = [target, *flags]
    if is_over:
      raise subprocess.TimeoutExpired(arguments, timeout, stdout)
    return subprocess.CompletedProcess(arguments, status, stdout)

  def _tell(self, request):
    self._process.stdin.write(json.dumps(request) + "\n")
    self._process.stdin.flush()

  def _hear(self):
    line = self._process.stdout.readline()
    assert line, "the process that forks ended"
    return int(line)


def wait_for_request():
  """Forks for each request; returns it in the child, None when all is done."""
  # pylint: disable=import-outside-toplevel,unused-import
  import tensorflow as tf
  tf.estimator.Estimator  # These names load it.  pylint: disable=pointless-statement
  for line in sys.stdin:
    pid = os.fork()
    if not pid:
      os.setpgid(0, 0)
      return json.loads(line)
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
  return None


def become(target, flags, output, environment):
  """Turns this process into a run; see `Forker.run`."""
  os.environ.clear()
  os.environ.update(environment)
  with open(os.devnull, "rb") as nothing, open(output, "wb") as writer:
    os.dup2(nothing.fileno(), 0)
    os.dup2(writer.fileno(), 1)
    os.dup2(writer.fileno(), 2)
  sys.argv = [target, *flags]
  sys.path[1:1] = environment["PYTHONPATH"].split(os.pathsep)
  if target.endswith(".py"):
    sys.path[0] = os.path.dirname(target)
    runpy.run_path(target, run_name="__main__")
  else:
    sys.path[0] = ""
    runpy.run_module(target, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  found = wait_for_request()
  if found:
    become(**found)
