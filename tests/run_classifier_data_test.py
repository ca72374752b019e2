"""Tests of run_classifier.py on own files and TensorFlow Datasets."""

import json

import numpy as np
import pytest

from demo import label_helpers
from demo import metrics
import run_classifier
from tests import conftest
from tests import tfds_helpers_test


def run(*argv):
  """The script's `main` in this process."""
  with conftest.parsed(run_classifier.init_classifier_flags, "--cpu_only",
                       *argv):
    run_classifier.main(None)


@pytest.mark.slow
class WholeRunTest:

  @pytest.fixture(scope="class")
  def trained(self, tiny_model, tmp_path_factory):
    """Flags, output folder and test texts of a trained model."""
    folder = tmp_path_factory.mktemp("custom")
    names = {"0": "neg", "1": "pos"}
    for name, count, seed in (("train", 256, 1), ("dev", 50, 2)):
      (folder / f"{name}.jsonl").write_text("".join(
          json.dumps({"label": names[label], "sentence": text}) + "\n"
          for text, label in conftest.sentiment_rows(count, seed)))
    texts = [text for text, _ in conftest.sentiment_rows(9, 3)]
    texts[4] = texts[4].replace(" ", "\n", 1).replace(" ", "\t", 1)
    (folder / "test.csv").write_text("sentence\n" + "".join(
        f'"{text}"\n' for text in texts))
    argv = ["--task_name=custom", f"--output_dir={folder}/out",
            *tiny_model.flags(max_seq_length=16)]
    run(*argv, "--do_train", "--do_eval", f"--train_file={folder}/train.jsonl",
        f"--dev_file={folder}/dev.jsonl", "--do_predict",
        f"--test_file={folder}/test.csv", "--num_train_epochs=6",
        "--learning_rate=2e-3", "--train_batch_size=16", "--random_seed=1",
        "--detailed_results", "--write_submission")
    return argv, folder, texts

  def test_scores_and_label_map(self, trained):
    folder = trained[1] / "out"
    assert json.loads((folder / "label_map.json").read_text()) == {
        "task": "custom", "kind": "classification", "labels": ["neg", "pos"],
        "columns": {"text_a": "sentence", "text_b": None, "label": "label"}}
    dev = json.loads((folder / "eval_metrics.json").read_text())["sets"]["dev"]
    scores = dev["scores"]
    assert scores["accuracy"] > 0.8 and scores["macro_f1"] > 0.8
    assert scores["matthews_correlation"] > 0.6
    assert set(dev["per_class"]) == {"neg", "pos"}
    results = dict(line.split(" = ") for line in (
        folder / "eval_results.txt").read_text().splitlines())
    assert float(results["eval_macro_f1"]) == scores["macro_f1"]

  def test_predictions_are_joined_to_their_rows(self, trained):
    _, folder, texts = trained
    header, *lines = [line.split("\t") for line in (
        folder / "out" / "predictions.tsv").read_text().splitlines()]
    assert header == ["index", "id", "label", "probability_neg",
                      "probability_pos", "text_a", "text_b"]
    assert [line[5] for line in lines] == [
        " ".join(text.split()) for text in texts]
    assert {line[2] for line in lines} == {"neg", "pos"}
    submission = (folder / "out" / "submission.tsv").read_text().splitlines()
    assert submission == ["index\tprediction"] + [
        f"{i}\t{line[2]}" for i, line in enumerate(lines)]

  def test_predicts_and_evaluates_with_the_stored_labels(self, trained):
    argv, folder, _ = trained
    kept = {name: (folder / "out" / name).read_text() for name in (
        "test_results.tsv", "predictions.tsv", "eval_results.txt")}
    for name in kept:
      (folder / "out" / name).unlink()
    run(*argv, "--do_predict", f"--test_file={folder}/test.csv", "--do_eval",
        f"--dev_file={folder}/dev.jsonl", "--detailed_results")
    for name, text in kept.items():
      assert (folder / "out" / name).read_text() == text
    with pytest.raises(ValueError, match="--labels=pos,neg: the model was"):
      run(*argv, "--do_predict", f"--test_file={folder}/test.csv",
          "--labels=pos,neg")

  def test_exports_with_the_stored_labels(self, trained):
    argv, folder, _ = trained
    run(*argv, "--do_export")
    info = conftest.model_info(folder / "out" / "export")
    assert (info["task"], info["kind"]) == ("custom", "classification")
    assert info["labels"] == ["neg", "pos"] and info["max_seq_length"] == 16
    found = conftest.served(
        folder / "out" / "export", folder / "out" / "predict.tf_record")
    np.testing.assert_allclose(
        found["probabilities"], np.loadtxt(folder / "out" / "test_results.tsv"),
        rtol=0, atol=1e-5)

  def test_glue_from_tfds_without_task_name(self, tiny_model, tmp_path):
    rows = [(text, int(label))
            for text, label in conftest.sentiment_rows(40, 1)]
    tfds_helpers_test.prepare(
        tmp_path, "glue/sst2", ["negative", "positive"], ["sentence"],
        train=rows, validation=rows, test=[(text, -1) for text, _ in rows])
    output_dir = tmp_path / "out"
    run("--use_tfds=glue/sst2", f"--tfds_dir={tmp_path}", "--do_train",
        "--do_predict", "--num_train_epochs=1", "--train_batch_size=16",
        "--write_submission", f"--output_dir={output_dir}",
        *tiny_model.flags(max_seq_length=16))
    label_map = label_helpers.read_label_map(str(output_dir))
    assert label_map["task"] == "sst2" and label_map["labels"] == ["0", "1"]
    lines = (output_dir / "SST-2.tsv").read_text().splitlines()
    assert len(lines) == 41 and lines[40][:3] == "39\t"
    assert lines[40][3:] in ("0", "1")


class ScoresTest:

  def test_custom_task(self):
    labels, found = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    scores = metrics.classification_scores("custom", labels, found)
    assert list(scores) == ["macro_f1", "matthews_correlation", "accuracy"]
    assert scores["accuracy"] == 0.5
    # F1 of the classes: 2/3, 1/2 and 0.
    np.testing.assert_allclose(scores["macro_f1"], (2 / 3 + 1 / 2) / 3)
