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
      clients=4, cycle=20, offline_seconds=0.2), **values}
  return [*model.flags(), *(f"--{name}={value}"
                            for name, value in values.items())]


@pytest.fixture(scope="module")
def finished(tiny_model, sst2_dir, tmp_path_factory):
  """A whole run: (CompletedProcess, its output folder)."""
  folder = tmp_path_factory.mktemp("service") / "out"
  return conftest.run_script(
      "demo.serve_demo", *flags(tiny_model, sst2_dir, folder)), folder


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
      assert model["check"]["largest_difference"] < 1e-5
      log = (folder / "logs" / f"load_{name}_all.log").read_text()
      assert f"throughput   {model['served_rows_per_second']:.1f} rows/s" in log
      assert f"p99 {model['latency_ms']['p99']:.2f}" in log
      assert model["served_ratio"] == pytest.approx(
          model["served_rows_per_second"] / model["offline_rows_per_second"])
      log = (folder / "logs" / "offline.log").read_text()
      assert re.search(rf"^{name} +{model['offline_rows_per_second']:.1f} rows",
                       log, re.M)
    assert report["models"]["compiled"]["label_agreement"] == 1.0
    assert report["models"]["compiled"]["difference_to_export"] < 1e-5
    for line in serve_demo.table(report):
      assert line in run.stdout

  def test_each_step_is_shown_as_a_command_with_its_log(self, finished):
    run, folder = finished
    report = json.loads((folder / "serve_demo.json").read_text())
    names = [step["name"] for step in report["steps"]]
    assert names == [
        "rows", "fine_tune", "compile", "offline", "server",
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
        tiny_model, sst2_dir, folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd="/", env={**os.environ, "PYTHONPATH": str(conftest.PROJECT)},
        start_new_session=True) as process:
      said = []
      for line in process.stdout:
        said.append(line)
        if "load_export_one" in line:
          break
      (server,) = [number for number in processes_with("demo.bert_server")
                   if number in processes_with(f"--dir=export={folder}")]
      process.send_signal(signal.SIGINT)
      said.append(process.communicate(timeout=60)[0])
    said = "".join(said)
    assert process.returncode == 130, said
    assert "The same command goes on with what is finished." in said
    assert not pathlib.Path(f"/proc/{server}").exists()
    assert_ends(str(folder))
    assert f"{folder}/export has the export already" in said
    assert re.search(r"== compile: \S+ is there already", said)
    assert {path: path.stat().st_mtime_ns for path in folder.glob(
        "*/**/*.data-00000-of-00001")} == weights
    assert result.read_text() == before

  def test_folder_of_other_data_is_refused(self, finished, tiny_model):
    _, folder = finished
    before = (folder / "serve_demo.json").read_text()
    run = conftest.run_script("demo.serve_demo", *flags(
        tiny_model, "/elsewhere", folder))
    assert run.returncode == 1 and "Traceback" not in run.stdout
    assert "data_dir=" in run.stdout and "not of /elsewhere" in run.stdout
    assert (folder / "serve_demo.json").read_text() == before

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


class SettingsTest:

  def settings(self, *argv):
    with conftest.parsed(serve_demo.init_serve_demo_flags, *argv) as args:
      return serve_demo._settings(args)  # pylint: disable=protected-access

  def test_half_a_model_is_refused(self):
    with pytest.raises(ValueError, match="--vocab_file=v: a model has all of"):
      self.settings("--vocab_file=v")

  def test_task_without_its_data_is_refused(self):
    with pytest.raises(ValueError, match="go together"):
      self.settings("--task_name=MRPC")

  def test_folder_that_the_server_can_not_name_is_refused(self):
    with pytest.raises(ValueError, match="with a comma"):
      self.settings("--output_dir=a,b")

  def test_own_model_and_data(self, tiny_model):
    found = self.settings(
        *tiny_model.flags(max_seq_length=None), "--task_name=MRPC",
        "--data_dir=demo", "--output_dir=build/x")
    assert found["vocab_file"] == tiny_model.vocab_file
    assert found["max_seq_length"] == 128 and found["learning_rate"] == 5e-5
    assert found["dtype"] in ("float32", "bfloat16")


class CyclesTest:

  def cycles(self, speed, rows=100, clients=96, cycle=None):
    return serve_demo._cycles(  # pylint: disable=protected-access
        {"clients": clients, "cycle": cycle}, {"rows": rows, "models": {
            "export": {"rows_per_second": speed},
            "compiled": {"rows_per_second": 2 * speed}}})

  def test_as_many_as_the_document_has_where_that_is_quick(self, capsys):
    assert self.cycles(speed=1000.0) == {"one": 200, "all": 128}
    assert not capsys.readouterr().out

  def test_fewer_on_a_slow_machine_which_is_said(self, capsys):
    assert self.cycles(speed=8.0) == {"one": 80, "all": 10}
    assert ("send 10 requests each, not 128: that would take about 25m"
            in capsys.readouterr().out)

  def test_each_row_is_asked_for(self, capsys):
    assert self.cycles(speed=8.0, rows=9600)["all"] == 100
    assert "not 128" in capsys.readouterr().out
    assert self.cycles(speed=8.0, rows=96000)["all"] == 1000
    assert "each of the 96000 rows is answered" in capsys.readouterr().out

  def test_what_is_asked_for_is_done(self, capsys):
    assert self.cycles(speed=8.0, cycle=500)["all"] == 500
    assert not capsys.readouterr().out


class CheckTest:

  def report(self, errors=None, is_right=True):
    return {"models": {"export": {
        "errors": {"all": errors or {}}, "logs": {"all": "x.log"},
        "check": {"passed": is_right, "tolerance": 0.001}}}}

  def test_a_service_that_works(self):
    serve_demo.check(self.report())

  def test_requests_without_an_answer_are_refused(self):
    with pytest.raises(ValueError, match=(
        r"load_export_all had 3 error\(s\), UNAVAILABLE \(log: x.log\)")):
      serve_demo.check(self.report({"UNAVAILABLE": 3}))

  def test_wrong_answers_are_refused(self):
    with pytest.raises(ValueError, match=r"further .* 0.001 \(log: x.log\)"):
      serve_demo.check(self.report(is_right=False))


def assert_ends(text, seconds=20):
  """No process whose command line has a text is there for long.

  One that was being started gets SIGTERM as its parent ends, so it may end
  after it.
  """
  until = time.monotonic() + seconds
  while found := processes_with(text):
    assert time.monotonic() < until, found
    time.sleep(0.1)


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
