"""Tests of demo/runs.py, and of its reader and report on made-up runs."""

import html.parser
import json
import os
import types

import numpy as np
from PIL import Image
import pytest
import yaml

from demo import curve_helpers
from demo import runs
from demo import runs_report
from tests import conftest

NOW = 1e9
NASTY = "<b>&\"'$x^$<b>"


def set_times(folder, when):
  """Makes all files look as if they were written then."""
  for path in folder.rglob("*"):
    os.utime(path, (when, when))


def save_step(folder, step):
  """What a saved checkpoint leaves, as far as it is looked at."""
  (folder / "checkpoint").write_text(
      f'model_checkpoint_path: "model.ckpt-{step}"\n')
  (folder / f"model.ckpt-{step}.index").write_text("")


def make_run(folder, seed=1, rate=1e-4, steps=40, accuracy=0.5, params=True,
             kept=True, final=True):
  """A run of demo.train, evaluated every 20 steps, best in the middle."""
  conftest.write_events(folder, {
      "loss": {step: 1.0 / step for step in range(1, steps + 1)},
      "learning_rate": {step: rate for step in range(1, steps + 1)}})
  scores = {step: accuracy - abs(step - 20) / 100
            for step in range(10, steps + 1, 10)}
  conftest.write_events(
      folder / "eval", {"eval_accuracy": scores}, 10, begun=1000.5)
  save_step(folder, steps)
  if params:
    (folder / "params.yaml").write_text(yaml.safe_dump({
        "experiment": "bert/sentence_prediction", "mode": "train_and_eval",
        "data": {"task_name": "SST-2"},
        "trainer": {"learning_rate": rate, "random_seed": seed},
        "runtime": {"output_dir": str(folder)}}))
  if kept:
    (folder / "best").mkdir()
    (folder / "best" / "checkpoint").write_text("")
    (folder / "best" / "info.json").write_text(json.dumps(
        {"step": 20, "metric": "accuracy", "score": accuracy}))
  if final:
    (folder / "eval_results.txt").write_text(
        f"eval_accuracy = {accuracy}\neval_loss = 0.25\n"
        f"global_step = {20 if kept else steps}\nloss = 0.3\n")
    (folder / "perf.json").write_text(json.dumps(
        {"train": {"throughput_without_first": 12.5, "seconds": 9.0}}))
  set_times(folder, NOW - 3600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Seeds of two settings, a run without params.yaml, one that was stopped."""
  folder = tmp_path_factory.mktemp("runs")
  for rate, accuracies in ((1e-4, (0.5, 0.75, 1.0)), (2e-4, (0.25, 0.875))):
    for seed, accuracy in enumerate(accuracies, 9):
      make_run(folder / f"rate_{rate:g}" / f"seed_{seed}", seed, rate,
               accuracy=accuracy)
  make_run(folder / "by_script", params=False, kept=False, accuracy=0.375)
  make_run(folder / NASTY, kept=False, final=False, steps=30)
  (folder / "no_run").mkdir()
  (folder / "no_run" / "bert_config.json").write_text("{}")
  return folder


@pytest.fixture(scope="module")
def compared(folder):
  return runs.compare([str(folder)], NOW)


def call_main(*folders, **flags):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runs, "FLAGS", types.SimpleNamespace(
        **{"output": "", "json": False, **flags}))
    runs.main(["runs", *map(str, folders)])


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
  """The folder that the tool wrote its page and picture to."""
  output = tmp_path_factory.mktemp("written") / "new" / "page.html"
  call_main(folder, output=str(output))
  return output.parent


class FindRunsTest:

  def test_runs_are_found_and_their_parts_are_none(self, folder):
    found = [os.path.relpath(path, folder)
             for path in runs.find_runs([str(folder), str(folder / NASTY)])]
    assert sorted(found) == sorted([
        NASTY, "by_script",
        *(f"rate_0.0001/seed_{i}" for i in (9, 10, 11)),
        *(f"rate_0.0002/seed_{i}" for i in (9, 10))])
    seeds = [path for path in found if path.startswith("rate_0.0001")]
    assert seeds == [f"rate_0.0001/seed_{i}" for i in (9, 10, 11)]

  def test_a_run_itself_is_found(self, folder):
    assert len(runs.find_runs([str(folder / "by_script")])) == 1
    (run,) = runs.compare([str(folder / "by_script")], NOW)[0]["runs"]
    assert run["name"] == "by_script" and not run["is_best"]

  def test_folders_without_runs_are_refused(self, folder):
    for path, message in ((folder / "no_run", "No run below"),
                          (folder / "missing", "is not a folder")):
      with pytest.raises(ValueError, match=message):
        runs.find_runs([str(path)])


class CompareTest:

  def test_what_is_known_of_a_run(self, compared):
    report, curves = compared
    run = {run["name"]: run for run in report["runs"]}["rate_0.0001/seed_11"]
    assert {**run, "path": ""} == {
        "name": "rate_0.0001/seed_11", "path": "", "task": "SST-2",
        "experiment": "bert/sentence_prediction", "state": "finished",
        "steps": 40, "is_best": True, "examples_per_second": 12.5,
        "best": {"step": 20, "metric": "accuracy", "score": 1.0},
        "final": {"step": 20, "scores": {"accuracy": 1.0, "loss": 0.25}},
        "params": {"trainer.learning_rate": 1e-4, "trainer.random_seed": 11},
        "seconds": 40.0, "notes": []}
    assert curves["rate_0.0001/seed_11"].train["loss"][1] == (2, 0.5)
    assert report["differing"] == [
        "trainer.learning_rate", "trainer.random_seed"]

  def test_a_run_of_a_script_shows_what_its_files_tell(self, compared):
    run = {run["name"]: run for run in compared[0]["runs"]}["by_script"]
    assert (run["task"], run["params"], run["state"]) == (None, {}, "finished")
    assert run["best"] == {"step": 20, "metric": "accuracy", "score": 0.375}
    assert run["final"]["scores"] == {"accuracy": 0.375, "loss": 0.25}
    assert not run["is_best"]  # Nothing to compare it with.

  def test_a_run_that_was_stopped_says_where(self, compared):
    (run,) = [run for run in compared[0]["runs"] if run["name"] == NASTY]
    assert run["state"] == "stopped at step 30"
    assert run["best"]["step"] == 20 and run["final"]["step"] == 30

  def test_seeds_are_summed_up(self, compared):
    first, second = compared[0]["groups"]
    assert (first["name"], second["name"]) == ("rate_0.0001", "rate_0.0002")
    assert first["scores"]["accuracy"] == pytest.approx(
        {"n": 3, "mean": 0.75, "sd": 0.25})
    assert second["scores"]["accuracy"] == pytest.approx(
        {"n": 2, "mean": 0.5625, "sd": np.std([0.25, 0.875], ddof=1)})
    assert first["best"] == "rate_0.0001/seed_11"
    # That of the best checkpoints is the final one here.
    assert set(first["scores"]) == {"accuracy", "loss"}

  def test_one_seed_has_no_deviation(self, tmp_path):
    make_run(tmp_path / "seed_1")
    (group,) = runs.compare([str(tmp_path / "seed_1")], NOW)[0]["groups"]
    assert group["scores"]["accuracy"] == {"n": 1, "mean": 0.5, "sd": None}

  def test_json_has_no_values_that_json_lacks(self, tmp_path):
    make_run(tmp_path / "run", kept=False)
    (tmp_path / "run" / "eval_results.txt").write_text(
        "eval_accuracy = nan\nglobal_step = 40\n")
    report, _ = runs.compare([str(tmp_path)], NOW)
    found = json.loads(runs_report.as_json(report), parse_constant=pytest.fail)
    assert found["runs"][0]["final"]["scores"] == {
        "accuracy": pytest.approx(0.3)}  # That of TensorBoard.


class Page(html.parser.HTMLParser):
  """What a browser would make of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.links, self.cells, self.texts = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [value for name, value in attrs
                   if name in ("src", "href", "srcset", "action", "data")]
    if tag == "td":
      self.cells.append(dict(attrs))

  def handle_data(self, data):
    self.texts.append(data)


class ReportTest:

  def test_terminal_has_a_line_per_run(self, compared):
    text = runs_report.terminal(compared[0])
    lines = text.split("\n\n")[0].splitlines()
    assert len(lines) == 1 + 7
    for run, line in zip(compared[0]["runs"], lines[1:]):
      assert line.startswith(run["name"]) and run["state"] in line
    assert "learning_rate=0.0001 random_seed=11" in text
    assert "accuracy 0.7500 +/- 0.2500 (3)" in text
    assert [line for line in lines if " * " in line] == [
        line for line in lines if line.startswith("rate_0.0001/seed_11")]

  def test_page_needs_nothing_else_and_shows_every_run(
      self, compared, written):
    report, _ = compared
    text = (written / "page.html").read_text(encoding="utf-8")
    for kind in ("prefers-color-scheme:dark", "max-width:600px"):
      assert kind in text
    page = Page(text)
    assert page.links and all(
        link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"b>", "iframe", "link", "object"} & set(page.tags)
    assert page.tags.count("b") == 1  # The star of the best, no user's.
    assert page.tags.count("script") == 1
    for run in report["runs"]:
      # Legend and table; some also in the table of seeds.
      assert page.texts.count(run["name"]) >= 1
      assert f" {run['name']}" in page.texts
    titles = {cell["data-title"] for cell in page.cells}
    assert {"run", "state", "best", "learning_rate", "random_seed"} <= titles
    assert "output_dir" not in titles
    best = [cell["data-value"] for cell in page.cells
            if cell["data-title"] == "best" and "class" in cell]
    assert sorted(map(float, best)) == [
        0.25, 0.375, 0.5, 0.5, 0.75, 0.875, 1.0]
    assert "7 runs: 6 finished, 1 stopped." in page.texts

  def test_picture_has_all_lines(self, written):
    assert sorted(os.listdir(written)) == ["page.html", "page.png"]
    with Image.open(written / "page.png") as image:
      assert image.size[0] == 1200
      pixels = np.asarray(image.convert("RGB"), int)
    for colour in curve_helpers.COLOURS[:4]:  # Two runs and two groups.
      wanted = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
      assert np.sum(np.all(abs(pixels - wanted) < 8, axis=-1)) > 100, colour

  def test_thirty_runs_have_thirty_lines(self):
    report = {"runs": [{"name": str(i)} for i in range(30)], "groups": []}
    # pylint: disable=protected-access
    assert len(set(runs_report._styles(report).values())) == 30

  def test_runs_without_curves_have_a_page_too(self, tmp_path):
    (tmp_path / "eval_results.json").write_text(
        '{"exact_match": 80.0, "f1": 87.5, "total": 10}')
    (tmp_path / "nbest_predictions.json").write_text("{}")
    report, curves = runs.compare([str(tmp_path)], NOW)
    (run,) = report["runs"]
    assert (run["task"], run["state"]) == ("squad", "finished")
    assert run["best"] == {"step": None, "metric": "f1", "score": 87.5}
    assert run["final"]["scores"] == {"exact_match": 80.0, "f1": 87.5}
    page = runs_report.page(report, curves)
    assert "No curves" in page and not Page(page).links
    assert runs_report.picture(report, curves).startswith(b"\x89PNG")


class MainTest:

  def test_wrong_output_is_refused_before_reading(self, tmp_path):
    with pytest.raises(ValueError, match="--output=.*end with .html"):
      call_main(tmp_path / "missing", output=str(tmp_path / "runs.txt"))

  def test_table_or_json_is_printed(self, folder, capsys):
    call_main(folder)
    assert capsys.readouterr().out.split()[:3] == ["run", "task", "state"]
    call_main(folder, json=True)
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 7
