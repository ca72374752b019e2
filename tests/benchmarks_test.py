"""Tests of tests/benchmarks/: what is made of times, on times that are given."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests import conftest
from tests.benchmarks import bench
from tests.benchmarks import measure
from tests.benchmarks import model
from tests.benchmarks import report
from tests.benchmarks import sections
from tests.benchmarks import step_profile
from tests.benchmarks import texts
from tests.benchmarks.peers import environments
from tests.benchmarks.peers import turns

MACHINE = {"processor": {"name": "Abacus", "bf16": False, "onednn": True},
           "threads": 2, "versions": {"python": "3.11"}}


class FakeWorker:
  """Gives the turns that a contender's spec has."""

  order = []
  stopped = []

  def __init__(self, contender):
    if "error" in contender.spec:
      raise measure.ContenderError(contender.spec["error"])
    self._name, self._turns = contender.name, iter(contender.spec["turns"])
    self.facts = {"versions": {contender.name: "1"}}

  def turn(self):
    self.order.append(self._name)
    turn = next(self._turns)
    if isinstance(turn, str):
      raise measure.ContenderError(turn)
    return turn

  def stop(self):
    self.stopped.append(self._name)


@pytest.fixture(name="fake")
def _fake():
  FakeWorker.order, FakeWorker.stopped = [], []
  return FakeWorker


def turn(cpu, wall=1.0, rows=1, **values):
  return dict(cpu_s=cpu, wall_s=wall, rows=rows, **values)


def contender(name, *values, **more):
  return measure.Contender(name, [], {"turns": values, **more})


def run(fake, *contenders, rounds=3):
  rows = measure.run_group(
      measure.Group("work", contenders, rounds), fake, lambda line: None)
  assert sorted(fake.stopped) == sorted(set(fake.stopped))
  return {row["who"]: row for row in rows}


class RunGroupTest:

  def test_ratios_are_medians_of_pairs(self, fake):
    # The machine gets slower: the medians alone would say 2.
    found = run(fake, contender("a", turn(1), turn(10), turn(100)),
                contender("b", turn(0.25), turn(5), turn(25)))
    assert found["a"]["cpu_ratio"] == 1
    assert found["b"]["cpu_ratio"] == 4
    assert found["a"]["cpu_ms_per_row"] == 10000
    assert found["b"]["wall_ratio"] == 1
    assert found["b"]["facts"] == {"versions": {"b": "1"}}

  def test_rows_of_a_turn_count(self, fake):
    found = run(fake, contender("a", turn(1, rows=2)),
                contender("b", turn(1, 0.5, rows=8)), rounds=1)
    assert found["b"]["cpu_ratio"] == 4
    assert found["b"]["wall_ratio"] == 8
    assert found["b"]["rows_per_s"] == 16

  def test_who_comes_first_changes(self, fake):
    run(fake, *(contender(name, *[turn(1)] * 3) for name in "ab"))
    assert fake.order in (list("baabba"), list("abbaab"))

  def test_share_is_that_of_the_turn(self, fake):
    found = run(fake, contender("a", *(
        turn(1, flops=flops, beside_flops_per_cpu_s=beside, tokens=5,
             peak_bytes=beside * 2 ** 20)
        for flops, beside in ((1, 4), (20, 40), (300, 400)))))["a"]
    assert found["share"] == 0.5
    assert found["tokens_per_s"] == 5
    assert found["peak_mib"] == 400

  def test_missing_and_failing_contenders_say_why(self, fake):
    found = run(
        fake, contender("a", turn(1), "died"),
        contender("b")._replace(missing="not for this machine"),
        contender("c", error="no such module"),
        contender("d", *[turn(2)] * 3), contender("e", *[turn(1)] * 3))
    assert {name: row.get("missing") for name, row in found.items()} == {
        "a": "died", "b": "not for this machine", "c": "no such module",
        "d": None, "e": None}
    # The first one that is left is what others are compared with.
    assert found["e"]["cpu_ratio"] == 2
    assert sorted(fake.stopped) == ["a", "d", "e"]


class WorkerTest:

  def start(self, tmp_path, **spec):
    return measure.Worker(
        measure.Contender("x", sections._COMMAND, dict(
            kind="command", rows=1, warm_up=0, **spec)),
        str(tmp_path / "log"), 1)

  def test_a_command_is_run_each_turn(self, tmp_path):
    target = tmp_path / "lines"
    worker = self.start(tmp_path, command=[
        sys.executable, "-c", f"open({str(target)!r}, 'a').write('x')"])
    try:
      found = [worker.turn(), worker.turn()]
    finally:
      worker.stop()
    assert target.read_text() == "xx"
    assert all(0 < x["cpu_s"] and 0 < x["wall_s"] and x["rows"] == 1 and
               2 ** 20 < x["peak_bytes"] < 2 ** 30 for x in found)

  def test_a_command_is_stopped_after_its_line(self, tmp_path):
    worker = self.start(tmp_path, until="now", command=[
        sys.executable, "-c",
        "import time; print('now', flush=True); time.sleep(600)"])
    try:
      assert worker.turn()["wall_s"] < 300
    finally:
      worker.stop()

  def test_a_failing_command_ends_with_its_output(self, tmp_path):
    worker = self.start(tmp_path, command=[
        sys.executable, "-c", "raise SystemExit('what went wrong')"])
    try:
      with pytest.raises(measure.ContenderError, match="log"):
        worker.turn()
    finally:
      worker.stop()
    assert "what went wrong" in (tmp_path / "log").read_text()

  def test_an_unknown_kind_is_said(self, tmp_path):
    with pytest.raises(measure.ContenderError, match="KeyError: 'x'"):
      measure.Worker(
          measure.Contender("x", sections._COMMAND, {"kind": "x"}),
          str(tmp_path / "log"), 1)


class TurnsTest:

  def test_calls_of_a_turn_are_summed_up(self):
    done = iter([{"rows": 2, "peak_bytes": 5}, {"rows": 3, "peak_bytes": 4},
                 {"rows": 4, "peak_bytes": 3}])
    found = turns._turn(turns.Case(lambda: next(done), {}), 3)
    assert found["rows"] == 9 and found["peak_bytes"] == 5

  def test_what_a_call_has_measured_counts(self):
    found = turns._turn(turns.Case(
        lambda: {"rows": 1, "wall_s": 70.0, "cpu_s": 30.0}, {}), 2)
    assert (found["wall_s"], found["cpu_s"]) == (140, 60)


class ReportTest:

  def section(self, **values):
    return dict(about="What it is.", commit="abc", date="2026-01-01",
                machine=MACHINE, **values)

  def test_table(self):
    lines = report.section_markdown("train", self.section(rows=[
        {"case": "tiny", "who": "here", "cpu_ms_per_row": 12.345,
         "cpu_ratio": 1.0},
        {"case": "tiny", "who": "theirs", "missing": "no | such\npackage"}]))
    assert lines.splitlines() == [
        "## train", "", "What it is.", "",
        "Commit abc, 2026-01-01; Abacus (2 threads, without bfloat16, oneDNN "
        "on); python 3.11.", "",
        "| case | who | CPU ms a row | times as fast, CPU |",
        "| --- | --- | --- | --- |",
        "| tiny | here | 12.3 | 1.00 |",
        "| tiny | theirs | not measured: no / such package |  |"]

  def test_all_missing(self):
    titles, rows = report.rows_table(
        [{"case": "tiny", "who": "theirs", "missing": "not there"}])
    assert titles == ["case", "who", "result"]
    assert rows == [["tiny", "theirs", "not measured: not there"]]

  def test_chosen_columns(self):
    titles, _ = report.rows_table(
        [{"case": "a", "who": "b", "peak_mib": 1.0, "cpu_ratio": 1.0}],
        ["peak_mib", "share"])
    assert titles == ["case", "who", "peak MiB"]

  def test_files(self, tmp_path):
    written = {}
    report.write("x", {"ranks": self.section(lines=["one"]),
                       "profile": self.section(tables=[
                           {"title": "Step", "columns": ["a"],
                            "rows": [[1]]}])}, written.__setitem__)
    assert set(written) == {"x/bench.json", "x/bench.md"}
    assert json.loads(written["x/bench.json"])["ranks"]["lines"] == ["one"]
    assert "```\none\n```" in written["x/bench.md"]
    assert "Step\n\n| a |\n| --- |\n| 1 |\n" in written["x/bench.md"]


class EnvironmentsTest:

  def test_what_is_not_made_says_how(self, tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    for name in ("garden", "torch"):
      assert name in environments.NAMES
      assert "make bench-peers" in environments.missing(name)
    peer = sections._peer("torch", "fp32", "train", "tiny")
    assert peer.missing and peer.name == "transformers, PyTorch, fp32"

  def test_what_cannot_be_made_says_why(self, tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "FOLDER", tmp_path)

    def fail(command):
      raise subprocess.CalledProcessError(1, command, "one\nno such package\n")
    monkeypatch.setattr(environments, "_run", fail)
    assert environments.make("torch") == (
        "can't be installed here: no such package")
    assert environments.missing("torch") == environments.make("torch")

  def test_a_changed_list_is_made_anew(self, tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    commands = []

    def work(command):
      commands.append(command)
      (tmp_path / "torch").mkdir(exist_ok=True)
    monkeypatch.setattr(environments, "_run", work)
    assert environments.make("torch") is None
    count = len(commands)
    assert environments.make("torch") is None and len(commands) == count
    (tmp_path / "torch" / "finished").write_text("of another list")
    assert "make bench-peers" in environments.missing("torch")


class ModelTest:

  def test_flops_are_those_of_the_tokens(self):
    size = model.Size(2, 4, 1)
    # Projections and two layers of four times the width, scores and context.
    assert model.flops(size, [3]) == 2 * (
        3 * 2 * (4 * 16 + 2 * 4 * 16) + 4 * 9 * 4)
    assert model.flops(size, [3, 5]) == (
        model.flops(size, [3]) + model.flops(size, [5]))

  def test_configurations_are_options(self):
    for configuration in model.CONFIGURATIONS.values():
      assert configuration.made_options()

  def test_rows(self):
    full = model.make_rows(4, 16, False)
    mixed = model.make_rows(50, 64, True)
    assert full["input_mask"].all()
    lengths = mixed["input_mask"].sum(axis=1)
    assert 8 <= lengths.min() < np.median(lengths) < lengths.max() <= 64
    assert not mixed["input_ids"][mixed["input_mask"] == 0].any()


class TextsTest:

  def test_vocabulary_and_sentences_fit(self, tmp_path):
    path = str(tmp_path / "vocab.txt")
    texts.write_vocabulary(path)
    tokens = open(path, encoding="utf-8").read().split()
    assert len(tokens) == len(set(tokens)) == model.VOCAB_SIZE
    lines = texts.sentences(20, path)
    assert len(lines) == 20 and all(line.endswith(".") for line in lines)


class ProfileTest:

  def test_times_are_summed_by_kind(self):
    stats = step_profile.tf.compat.v1.StepStats() if hasattr(
        step_profile.tf.compat.v1, "StepStats") else (
            step_profile.tf.compat.v1.RunMetadata().step_stats)
    nodes = stats.dev_stats.add().node_stats
    for name, label, start, end in (
        ("x", "", 0, 2000), ("y", "y = Mul(x)", 500, 1500),
        ("z:z", "", 0, 500)):
      nodes.add(node_name=name, timeline_label=label, op_start_rel_micros=start,
                op_end_rel_micros=end)
    assert step_profile.by_kind(stats, {"x": "MatMul", "z": "Mul"}) == {
        "MatMul": (1, 2.0), "Mul": (2, 1.5)}


class CommandTest:

  def test_unknown_names_are_refused(self):
    with conftest.parsed(bench.define_flags, "--sizes=tiny,huge",
                         "--output_dir=/nowhere") as args:
      with pytest.raises(ValueError, match="--sizes: there is no huge, but "
                                           "tiny, MiniLM, base"):
        bench.make_settings(args, "/tmp")

  def test_quick_takes_less_but_what_was_asked_for(self):
    with conftest.parsed(bench.define_flags, "--quick",
                         "--lengths=64") as args:
      settings = bench.make_settings(args, "/tmp")
    assert settings.sizes == ["tiny", "MiniLM"]
    assert settings.lengths == [64]
    assert settings.configurations == ["fp32", "bf16"]
    assert settings.turns(7) == 3

  def test_each_section_says_what_it_is(self):
    document = (conftest.PROJECT / "docs" / "benchmarks.md").read_text(
        encoding="utf-8")
    for name, function in sections.SECTIONS.items():
      assert function.__doc__.strip().endswith((".", "."))
      assert f"`{name}`" in document, name
