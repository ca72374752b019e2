"""The peers' environments below build/peers: one for each list of packages.

  python -m tests.benchmarks.peers.environments [NAME ...]

makes those that aren't there yet, as `make bench-peers` does. Lines of
peers/NAME.txt with "--no-deps" are installed without what they ask for: the
Model Garden asks for far more than its encoder needs.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

_LISTS = pathlib.Path(__file__).parent
_PROJECT = _LISTS.parent.parent.parent
FOLDER = _PROJECT / "build" / "peers"
NAMES = tuple(sorted(path.stem for path in _LISTS.glob("*.txt")))


def python(name):
  """The interpreter (string) of an environment, there or not."""
  return str(FOLDER / name / "bin" / "python")


def program(name):
  """The program (string) that runs in it."""
  return str(_LISTS / f"{name}_program.py")


def missing(name):
  """Why an environment can't be used (string); None if it can."""
  failure = FOLDER / f"{name}.failed"
  if failure.exists():
    return failure.read_text(encoding="utf-8")
  if _stamp(name).exists() and (
      _stamp(name).read_text(encoding="utf-8") == _fingerprint(name)):
    return None
  return f"make bench-peers makes build/peers/{name}"


def _stamp(name):
  return FOLDER / name / "finished"


def _fingerprint(name):
  """What an environment is made from (string)."""
  text = (_LISTS / f"{name}.txt").read_bytes()
  return f"{sys.version.split()[0]} {hashlib.sha256(text).hexdigest()}\n"


def make(name):
  """Makes an environment, or writes down why that failed.

  Args:
    name: string, of NAMES.

  Returns:
    string, the reason; None if it is there.
  """
  failure = FOLDER / f"{name}.failed"
  failure.unlink(missing_ok=True)
  if missing(name) is None:
    return None
  FOLDER.mkdir(parents=True, exist_ok=True)
  lines = (_LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
  alone = [line for line in lines if line.endswith("# --no-deps")]
  others = [line for line in lines if line not in alone]
  try:
    _run([sys.executable, "-m", "venv", "--clear", str(FOLDER / name)])
    for options, chosen in (([], others), (["--no-deps"], alone)):
      with tempfile.NamedTemporaryFile("w", suffix=".txt") as packages:
        packages.write("\n".join(chosen) + "\n")
        packages.flush()
        _run([python(name), "-m", "pip", "install", "--quiet",
              "--retries=1", *options, "-r",
              packages.name])
  except subprocess.CalledProcessError as error:
    reason = (error.stdout.strip().splitlines() or ["no word of why"])[-1]
    failure.write_text(f"can't be installed here: {reason}", encoding="utf-8")
    return missing(name)
  _stamp(name).write_text(_fingerprint(name), encoding="utf-8")
  return None


def _run(command):
  """Runs a command; raises subprocess.CalledProcessError with its output."""
  subprocess.run(
      command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      text=True, env={key: value for key, value in os.environ.items()
                      if key != "PYTHONPATH"})


def main(names):
  """Makes the environments of these names, or all."""
  for name in names or NAMES:
    print(f"{name}: being made or checked", flush=True)
    print(f"{name}: {make(name) or python(name)}", flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])
