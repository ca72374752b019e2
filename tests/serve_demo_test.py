"""Tests of demo/serve_demo.py."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from demo import serve_demo
from tests import conftest


def flags(model, data_dir, output_dir, **values):
  """A command line with a tiny model, and less of everything."""
  values = {**dict(
      task_name="SST-2", data_dir=data_dir, output_dir=output_dir,
      learning_rate=1e-3, num_train_epochs=3, dtype="float32", batch=8,
      clients=4, cycle=20, offline_seconds=0.5), **values}
  return [*model.flags(), *(f"--{name}={value}"
                            for name, value in values.items())]


@pytest.fixture(scope="module")
def finished(tiny_model, sst2_dir, tmp_path_factory):
  """A whole run: (CompletedProcess, its output folder)."""
  folder = tmp_path_factory.mktemp("service") / "out"
  return conftest.run_script(
      "demo.serve_demo", *flags(tiny_model, sst2_dir, folder)), folder


def newest(folder):
  return max(int(re.search(r"-(\d+)\.index", path.name)[1])
             for path in folder.glob("model.ckpt-*.index"))


@pytest.mark.slow
class MainTest:

  def test_figures_are_those_of_the_steps(self, finished):
    run, folder = finished
    assert run.returncode == 0, run.stdout
    report = json.loads((folder / "serve_demo.json").read_text())
    dev = json.loads((folder / "train" / "eval_metrics.json").read_text())[
        "sets"]["dev"]
    assert report["evaluation"]["sets"]["dev"] == dev
    assert report["rows"] == dev["examples"] == 50
    for name, model in report["models"].items():
      assert model["scored_rows"] == 50 and model["requests"] == 80
      assert model["scores"]["accuracy"] == dev["scores"]["accuracy"] > 0.7
      assert model["errors"] == {"one": {}, "all": {}}
      assert model["label_agreement"] == 1.0
      assert model["check"]["largest_difference"] < 1e-5
      assert model["difference_to_export"] < 1e-5
      log = (folder / "logs" / f"load_{name}_all.log").read_text()
      assert f"throughput   {model['served_rows_per_second']:.1f} rows/s" in log
      assert f"p99 {model['latency_ms']['p99']:.2f}" in log
      assert model["served_ratio"] == pytest.approx(
          model["served_rows_per_second"] / model["offline_rows_per_second"])
      log = (folder / "logs" / "offline.log").read_text()
      assert re.search(rf"^{name} +{model['offline_rows_per_second']:.1f} rows",
                       log, re.M)
    for line in serve_demo.table(report):
      assert line in run.stdout

  def test_each_step_is_shown_as_a_command_with_its_log(self, finished):
    run, folder = finished
    report = json.loads((folder / "serve_demo.json").read_text())
    names = [step["name"] for step in report["steps"]]
    assert names == [
        "rows", "fine_tune", "export", "compile", "offline", "server",
        "load_export_one", "load_compiled_one", "load_export_all",
        "load_compiled_all"]
    for step in report["steps"]:
      assert f"$ {step['command']}\n" in run.stdout
      assert os.path.getsize(step["log"]) > 0 and step["seconds"] > 0
    # The server was asked to end, and said what it had served.
    served = (folder / "logs" / "server.log").read_text()
    assert "stopping" in served and "p99" in served

  def test_second_call_goes_on_and_leaves_no_server(
      self, finished, tiny_model, sst2_dir):
    _, folder = finished
    result = folder / "serve_demo.json"
    before = result.read_text()
    weights = {path: path.stat().st_mtime_ns for path in folder.glob(
        "*/**/*.data-00000-of-00001")}
    command = [sys.executable, "-m", "demo.serve_demo", *flags(
        tiny_model, sst2_dir, folder, cycle=1000000)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd="/", env={**os.environ, "PYTHONPATH": str(conftest.PROJECT)},
        start_new_session=True) as process:
      said = []
      for line in process.stdout:
        said.append(line)
        if "load_export_all" in line:
          break
      (server,) = processes_with(f"--dir=export={folder}")
      time.sleep(1.0)
      process.send_signal(signal.SIGINT)
      said.append(process.communicate(timeout=60)[0])
    said = "".join(said)
    assert process.returncode == 130, said
    assert "The same command goes on with what is finished." in said
    assert not pathlib.Path(f"/proc/{server}").exists()
    assert not processes_with(str(folder))
    assert "== export: " in said and "== compile: " in said
    assert {path: path.stat().st_mtime_ns for path in folder.glob(
        "*/**/*.data-00000-of-00001")} == weights
    assert result.read_text() == before

  def test_step_that_fails_is_named_with_its_log(
      self, tiny_model, tmp_path):
    folder = tmp_path / "out"
    run = conftest.run_script(
        "demo.serve_demo", *flags(tiny_model, tmp_path, folder))
    assert run.returncode == 1 and "Traceback" not in run.stdout
    last = run.stdout.splitlines()[-1]
    assert "error: The step rows ended with status 1: " in last
    assert "dev.tsv" in last and last.endswith(
        f"(log: {folder}/logs/rows.log)")


def processes_with(text):
  """Numbers of the processes whose command line has a text."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
      line = path.read_bytes().decode(errors="replace")
    except OSError:  # It ended.
      continue
    if text in line:
      found.append(int(path.parent.name))
  return found
