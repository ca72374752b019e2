"""Tests of demo/start_helpers.py: scripts start without needless work."""

import gc
import os
import pathlib
import re
import subprocess
import sys

import absl
import pytest

from demo import start_helpers
from tests import conftest

_PREPARED = re.compile(r"^start_helpers\.prepare\(__name__\)", re.M)
_RUNS = re.compile(r"^if __name__ == \"__main__\":", re.M)
# They define no flags of absl, and load nothing to show their help.
_WITHOUT_LIBRARIES = {
    "demo/bert_client.py", "demo/download.py", "demo/launch.py",
    "demo/review_upstream.py"}


def scripts():
  """The files that are run, with folder."""
  paths = [*conftest.PROJECT.glob("*.py"), *conftest.PROJECT.glob("demo/*.py")]
  return sorted(str(path.relative_to(conftest.PROJECT)) for path in paths
                if _RUNS.search(path.read_text(encoding="utf-8")))


def run(script, *arguments, libraries=True, env=None):
  """Runs a script; without libraries there is absl's and nothing more."""
  command = ([script] if "/" not in script else
             ["-m", script[:-len(".py")].replace("/", ".")])
  return subprocess.run(
      [sys.executable, *([] if libraries else ["-S"]), *command, *arguments],
      cwd=conftest.PROJECT, check=False, capture_output=True, text=True,
      env={**os.environ, **(env or {})})


@pytest.fixture
def only_absl(tmp_path):
  """Environment in which Python finds absl beside its own modules."""
  (tmp_path / "absl").symlink_to(pathlib.Path(absl.__file__).parent)
  return {"PYTHONPATH": str(tmp_path)}


class PrepareTest:

  def test_every_script_calls_it_before_it_imports_libraries(self):
    found = {script for script in scripts() if _PREPARED.search(
        (conftest.PROJECT / script).read_text(encoding="utf-8"))}
    assert found == set(scripts()) - _WITHOUT_LIBRARIES

  @pytest.mark.parametrize(
      "script", sorted(set(scripts()) - _WITHOUT_LIBRARIES))
  def test_help_needs_no_library(self, script, only_absl):
    for argument in ("--help", "-helpshort"):
      shown = run(script, argument, libraries=False, env=only_absl)
      # absl ends with 1 after its help, the driver has one of its own.
      assert shown.returncode == (script != "demo/train.py"), shown.stderr
      assert shown.stderr == ""
      assert re.search(r"^ +--\w+: ", shown.stdout, re.M), shown.stdout

  @pytest.mark.slow
  @pytest.mark.parametrize("script", ["run_squad.py", "demo/tune_int8.py"])
  def test_the_text_is_that_with_libraries(self, script):
    with_libraries = run(script, "--help", "--nohelpfull")
    assert "--" in with_libraries.stdout
    shown = run(script, "--help")
    assert (shown.returncode, shown.stdout, shown.stderr) == (
        with_libraries.returncode, with_libraries.stdout,
        with_libraries.stderr)

  @pytest.mark.parametrize("name, arguments", [
      ("run_classifier", ["--help"]),  # Another program imports it.
      ("__main__", []), ("__main__", ["--helpfull"]),
      ("__main__", ["--output_dir", "--help"]),  # That is the folder's name.
      ("__main__", ["--do_train", "--help"])])
  def test_in_every_other_case_libraries_are_loaded(
      self, monkeypatch, name, arguments):
    monkeypatch.setattr(sys, "argv", ["run_classifier.py", *arguments])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before, thresholds = list(sys.meta_path), gc.get_threshold()
    try:
      start_helpers.prepare(name)
      assert sys.meta_path == before
      assert (gc.get_threshold() == thresholds) == (name != "__main__")
    finally:
      gc.set_threshold(*thresholds)

  def test_a_training_script_loads_no_library_of_scores(self):
    code = ("import sys; import run_classifier, run_squad; "
            "sys.exit(str({'scipy.stats', 'sklearn', 'matplotlib'} & "
            "set(sys.modules)))")
    shown = subprocess.run([sys.executable, "-c", code], cwd=conftest.PROJECT,
                           check=False, capture_output=True, text=True)
    assert shown.stderr.splitlines()[-1] == "set()"
