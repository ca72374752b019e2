"""Tests of demo/quickstart.py and of the demo data."""

import collections
import json

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


class DemoQuestionsTest:

  def articles(self, name):
    return json.loads((DATA / name).read_text(encoding="utf-8"))["data"]

  @pytest.mark.parametrize("name, at_least", [("squad_train.json", 300),
                                              ("squad_dev.json", 100)])
  def test_answers_stand_where_they_say(self, name, at_least):
    questions, impossible = 0, 0
    for article in self.articles(name):
      for paragraph in article["paragraphs"]:
        for qa in paragraph["qas"]:
          questions += 1
          impossible += qa["is_impossible"]
          assert bool(qa["answers"]) != qa["is_impossible"]
          assert len(qa["answers"]) <= 1 or "dev" in name
          for answer in qa["answers"]:
            start, text = answer["answer_start"], answer["text"]
            assert paragraph["context"][start:start + len(text)] == text
    assert questions >= at_least
    assert 0.15 <= impossible / questions <= 0.3

  def test_ids_and_texts_are_all_different(self):
    paragraphs = [p for name in ("squad_train.json", "squad_dev.json")
                  for article in self.articles(name)
                  for p in article["paragraphs"]]
    for values in ([p["context"] for p in paragraphs],
                   [qa["id"] for p in paragraphs for qa in p["qas"]],
                   [qa["question"] for p in paragraphs for qa in p["qas"]]):
      assert len(set(values)) == len(values)


@pytest.mark.slow
class MainTest:

  def test_shows_scores_and_answers(self, tmp_path):
    weights = tmp_path / "minilm_l6_uncased"
    weights.mkdir()
    conftest.TinyModel(weights, max_position_embeddings=160)
    run = conftest.run_script(
        "demo.quickstart", f"--work_dir={tmp_path}", "--num_train_epochs=1",
        "--squad_epochs=0.2", env={"TF_CPP_MIN_LOG_LEVEL": "2"})
    assert run.returncode == 0, run.stdout
    assert "untrained  fine-tuned" in run.stdout
    assert (tmp_path / "demo" / "eval_metrics.json").exists()
    assert run.stdout.count("  Question: ") == 5
    assert run.stdout.count("  True:     ") == 5
    assert "without one" in run.stdout
    assert (tmp_path / "demo-squad" / "eval_results.json").exists()

  def test_missing_task_folder_is_refused(self, tmp_path):
    run = conftest.run_script(
        "demo.quickstart", f"--glue_dir={tmp_path}", "--task_name=mrpc")
    assert run.returncode == 1
    assert "has no folder MRPC" in run.stdout and "Traceback" not in run.stdout
