"""Tests of demo/quickstart.py and of the demo sentences."""

import collections
import shutil

import pytest

from tests import conftest

DATA = conftest.PROJECT / "demo" / "data"


def rows(name):
  header, *lines = (DATA / name).read_text(encoding="utf-8").splitlines()
  assert header == "sentence\tlabel"
  return [tuple(line.split("\t")) for line in lines]


class DemoDataTest:

  @pytest.mark.parametrize("name, at_least", [("train.tsv", 600),
                                              ("dev.tsv", 200)])
  def test_enough_balanced_rows(self, name, at_least):
    labels = collections.Counter(label for _, label in rows(name))
    assert set(labels) == {"0", "1"} and sum(labels.values()) >= at_least
    assert abs(labels["0"] - labels["1"]) <= 0.02 * sum(labels.values())

  def test_no_sentence_twice(self):
    sentences = [s.lower() for s, _ in rows("train.tsv") + rows("dev.tsv")]
    assert len(set(sentences)) == len(sentences)


@pytest.mark.slow
class MainTest:

  def test_shows_scores_before_and_after(self, tiny_model, tmp_path):
    weights = tmp_path / "minilm_l6_uncased"
    shutil.copytree(tiny_model.folder, weights)
    run = conftest.run_script(
        "demo.quickstart", f"--work_dir={tmp_path}", "--num_train_epochs=1",
        env={"TF_CPP_MIN_LOG_LEVEL": "2"})
    assert run.returncode == 0, run.stdout
    assert "untrained  fine-tuned" in run.stdout
    assert (tmp_path / "demo" / "eval_metrics.json").exists()

  def test_missing_task_folder_is_refused(self, tmp_path):
    run = conftest.run_script(
        "demo.quickstart", f"--glue_dir={tmp_path}", "--task_name=mrpc")
    assert run.returncode == 1
    assert "has no folder MRPC" in run.stdout and "Traceback" not in run.stdout
