"""Whole runs of run_classifier.py by command line, on a tiny model."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from demo import predictor
from tests import conftest

pytestmark = pytest.mark.slow

SCRIPT = "run_classifier.py"
TRAINING = ["--train_batch_size=16", "--learning_rate=2e-3", "--cpu_only"]


def eval_results(folder):
  return dict(line.split(" = ") for line in (
      pathlib.Path(folder) / "eval_results.txt").read_text().splitlines())


def check_predictor(export_dir, output_dir, texts):
  """demo.predictor gives what --do_predict did, however texts are batched."""
  answers = predictor.load(str(export_dir), batch_size=4)(texts)
  np.testing.assert_allclose(
      [list(answer.get("probabilities", answer).values())
       for answer in answers],
      np.loadtxt(output_dir / "test_results.tsv", ndmin=2), rtol=0,
      atol=1e-5)


@pytest.fixture(scope="module")
def trained(tiny_model, sst2_dir, tmp_path_factory):
  """Output folder and log of train, eval and predict in one command."""
  output_dir = tmp_path_factory.mktemp("runs") / "trained"
  run = conftest.run_script(
      SCRIPT, "--task_name=SST-2", f"--data_dir={sst2_dir}",
      f"--output_dir={output_dir}", "--do_train", "--do_eval", "--do_predict",
      "--num_train_epochs=8", "--log_steps=20", "--random_seed=5",
      "--detailed_results", "--predict_batch_size=8", *TRAINING,
      *tiny_model.flags())
  assert run.returncode == 0, run.stdout
  return output_dir, run.stdout


class TrainedTest:

  def test_model_learns(self, trained):
    metrics = json.loads((trained[0] / "eval_metrics.json").read_text())
    assert metrics["task"] == "sst2" and metrics["global_step"] == 128
    dev = metrics["sets"]["dev"]
    assert dev["examples"] == 50 and dev["scores"]["accuracy"] > 0.8
    assert np.sum(dev["confusion_matrix"]) == 50
    assert sum(c["examples"] for c in dev["per_class"].values()) == 50

  def test_eval_results_have_upstreams_form(self, trained):
    found = eval_results(trained[0])
    assert list(found) == ["eval_accuracy", "eval_loss", "global_step", "loss"]
    assert found["global_step"] == "128"

  def test_one_prediction_per_test_row(self, trained):
    rows = [line.split("\t") for line in (
        trained[0] / "test_results.tsv").read_text().splitlines()]
    assert len(rows) == 21 and all(len(row) == 2 for row in rows)
    lines = (trained[0] / "predictions.tsv").read_text().splitlines()
    assert lines[0] == ("index\tid\tlabel\tprobability_0\tprobability_1\t"
                        "text_a\ttext_b")
    for i, (line, row) in enumerate(zip(lines[1:], rows)):
      index, guid, label, *probabilities, text_a, text_b = line.split("\t")
      assert text_a == conftest.sentiment_rows(21, 3)[i][0] and not text_b
      assert (index, guid) == (str(i), f"test-{i + 1}")
      assert probabilities == row
      assert label == str(int(np.argmax(np.array(row, float))))

  def test_progress_is_shown(self, trained):
    line = re.search(
        r"step 100/128 \(78 %\)  loss [\d.]+  learning rate [\d.e-]+  "
        r"[\d.]+ examples/s  remaining \d+", trained[1])
    assert line, trained[1]
    assert "fresh: output_bias, output_weights; not used: none" in trained[1]
    assert "deprecated" not in trained[1] and "Traceback" not in trained[1]

  def test_tensorboard_has_the_curves(self, trained):
    curves = conftest.events(trained[0])
    for tag in ("loss", "learning_rate", "examples/sec"):
      assert len(curves[tag]) >= 4, tag
    assert conftest.events(trained[0] / "eval")["eval_accuracy"][-1][0] == 128

  def test_eval_and_predict_alone_give_the_same(
      self, trained, tiny_model, sst2_dir):
    before = {name: (trained[0] / name).read_text()
              for name in ("eval_results.txt", "test_results.tsv")}
    for what, name in (("--do_eval", "eval_results.txt"),
                       ("--do_predict", "test_results.tsv")):
      run = conftest.run_script(
          SCRIPT, "--task_name=sst2", f"--data_dir={sst2_dir}", what,
          f"--output_dir={trained[0]}", "--cpu_only",
          *tiny_model.flags(init_checkpoint=None))
      assert run.returncode == 0, run.stdout
      assert (trained[0] / name).read_text() == before[name]
      assert re.search(r"(eval|predict).tf_record \(\d+ records\) again",
                       run.stdout), run.stdout

  def test_export_alone_needs_no_data_and_predicts_the_same(
      self, trained, tiny_model, tmp_path):
    run = conftest.run_script(
        SCRIPT, "--task_name=SST-2", "--do_export", f"--export_dir={tmp_path}",
        f"--output_dir={trained[0]}", "--cpu_only",
        *tiny_model.flags(init_checkpoint=None))
    assert run.returncode == 0, run.stdout
    assert f"model.ckpt-128: {tmp_path}/" in run.stdout
    assert "deprecated" not in run.stdout, run.stdout
    found = conftest.served(tmp_path, trained[0] / "predict.tf_record")
    np.testing.assert_allclose(
        found["probabilities"], np.loadtxt(trained[0] / "test_results.tsv"),
        rtol=0, atol=1e-5)
    info = conftest.model_info(tmp_path)
    assert (info["task"], info["kind"]) == ("sst2", "classification")
    assert info["labels"] == ["0", "1"] and info["do_lower_case"] is True
    assert info["max_seq_length"] == 32 and info["global_step"] == 128
    check_predictor(tmp_path, trained[0], [
        text for text, _ in conftest.sentiment_rows(21, 3)])

  def test_training_again_says_that_all_is_done(
      self, trained, tiny_model, sst2_dir):
    run = conftest.run_script(
        SCRIPT, "--task_name=sst2", f"--data_dir={sst2_dir}", "--do_train",
        "--num_train_epochs=8", f"--output_dir={trained[0]}", *TRAINING,
        *tiny_model.flags())
    assert run.returncode == 0, run.stdout
    assert "has all 128 steps already" in run.stdout

  def test_output_folder_of_another_model_is_refused(
      self, trained, tiny_model, tmp_path):
    (tmp_path / "train.tsv").write_text("a\tb\tc\n")
    (tmp_path / "diagnostic.tsv").write_text(
        "index\tsentence1\tsentence2\n0\ta\tb\n")
    run = conftest.run_script(
        SCRIPT, "--task_name=ax", f"--data_dir={tmp_path}", "--do_predict",
        f"--output_dir={trained[0]}", "--cpu_only", *tiny_model.flags())
    assert run.returncode == 1
    assert "output_bias is [2] there and [3] here" in run.stdout

  def test_damaged_checkpoint_in_the_output_folder_is_refused(
      self, trained, tiny_model, sst2_dir, tmp_path):
    (source,) = trained[0].glob("model.ckpt-128.data-*")
    for path in [*trained[0].glob("model.ckpt-128.*"),
                 trained[0] / "checkpoint"]:
      (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / source.name).write_bytes(source.read_bytes()[:5000])
    run = conftest.run_script(
        SCRIPT, "--task_name=sst2", f"--data_dir={sst2_dir}", "--do_eval",
        f"--output_dir={tmp_path}", "--cpu_only", *tiny_model.flags())
    assert run.returncode == 1 and "Traceback" not in run.stdout, run.stdout
    assert "the newest in --output_dir, is damaged" in run.stdout


class RecordsTest:

  def test_records_made_beforehand_train_the_same_model(
      self, trained, tiny_model, sst2_dir, tmp_path):
    """Made as Model Garden's document says."""
    run = conftest.run_script(
        "demo.create_finetuning_data", f"--input_data_dir={sst2_dir}/",
        f"--vocab_file={tiny_model.vocab_file}",
        f"--train_data_output_path={tmp_path}/new/SST-2_train.tf_record",
        f"--eval_data_output_path={tmp_path}/new/SST-2_eval.tf_record",
        f"--test_data_output_path={tmp_path}/new/SST-2_test.tf_record",
        f"--meta_data_file_path={tmp_path}/new/SST-2_meta_data",
        "--fine_tuning_task_type=classification", "--max_seq_length=32",
        "--classification_task_name=SST-2")
    assert run.returncode == 0, run.stdout
    assert "SST-2_train.tf_record: 256 records." in run.stdout
    run = conftest.run_script(
        SCRIPT, f"--train_records={tmp_path}/new/*_train.tf_record",
        f"--eval_records={tmp_path}/new/SST-2_eval.tf_record",
        f"--predict_records={tmp_path}/new/SST-2_test.tf_record",
        f"--meta_data_file={tmp_path}/new/SST-2_meta_data",
        f"--output_dir={tmp_path}/out", "--do_train", "--do_eval",
        "--do_predict", "--num_train_epochs=8", "--log_steps=20",
        "--random_seed=5", "--detailed_results", *TRAINING,
        *tiny_model.flags(vocab_file=None, max_seq_length=None))
    assert run.returncode == 0, run.stdout
    for name in ("eval_results.txt", "eval_metrics.json", "test_results.tsv"):
      assert (tmp_path / "out" / name).read_text() == (
          trained[0] / name).read_text(), name
    assert conftest.events(tmp_path / "out")["loss"] == conftest.events(
        trained[0])["loss"]
    lines = (tmp_path / "out" / "predictions.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [
        [str(i), str(i)] for i in range(21)]


class SeedTest:

  def run(self, tiny_model, sst2_dir, output_dir, seed):
    run = conftest.run_script(
        SCRIPT, "--task_name=sst2", f"--data_dir={sst2_dir}", "--do_train",
        "--do_eval", "--num_train_epochs=2", "--log_steps=1",
        f"--random_seed={seed}", f"--output_dir={output_dir}", *TRAINING,
        *tiny_model.flags())
    assert run.returncode == 0, run.stdout
    return conftest.events(output_dir)["loss"], eval_results(output_dir)

  def test_same_seed_same_losses_and_scores(
      self, tiny_model, sst2_dir, tmp_path):
    first, again, other = (
        self.run(tiny_model, sst2_dir, tmp_path / name, seed)
        for name, seed in (("first", 7), ("again", 7), ("other", 8)))
    assert first == again
    assert first != other


class KillTest:

  def test_killed_training_goes_on_from_its_checkpoint(
      self, tiny_model, sst2_dir, tmp_path):
    command = [
        sys.executable, str(conftest.PROJECT / SCRIPT), "--task_name=sst2",
        f"--data_dir={sst2_dir}", f"--output_dir={tmp_path}", "--do_train",
        "--do_eval", "--do_predict", "--num_train_epochs=25",
        "--save_checkpoints_steps=50", "--log_steps=10", "--random_seed=1",
        *TRAINING, *tiny_model.flags()]
    log = tmp_path / "log.txt"
    with open(log, "w", encoding="utf-8") as writer:
      process = subprocess.Popen(command, stdout=writer, stderr=writer)
      deadline = time.monotonic() + 300
      while conftest.saved_step(tmp_path) < 100:
        assert process.poll() is None and time.monotonic() < deadline, (
            log.read_text())
        time.sleep(0.05)
      os.kill(process.pid, signal.SIGKILL)
      process.wait()
    assert not (tmp_path / "eval_results.txt").exists()
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=600)
    assert run.returncode == 0, run.stdout
    step = int(re.search(r"Going on from step (\d+)", run.stdout)[1])
    assert step >= 100
    assert f"Passing over the {step} batches" in run.stdout
    assert eval_results(tmp_path)["global_step"] == "400"
    assert len((tmp_path / "test_results.tsv").read_text().splitlines()) == 21
    assert not list(tmp_path.glob("*.tmp*"))
    self.check_is_that_of_a_run_without_a_break(command, tmp_path, step)

  def check_is_that_of_a_run_without_a_break(self, command, folder, step):
    """To the last bit, whatever dropped out and however rows were shuffled."""
    whole = folder / "whole"
    run = subprocess.run(
        [*command, f"--output_dir={whole}"], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stdout
    expected = [event for event in conftest.events(whole)["loss"]
                if event[0] > step]
    assert len(expected) >= 20
    assert set(expected) <= set(conftest.events(folder)["loss"])
    for name in ("eval_results.txt", "test_results.tsv"):
      assert (folder / name).read_text() == (whole / name).read_text()
    broken, unbroken = (
        tf.train.load_checkpoint(str(path)) for path in (folder, whole))
    names = unbroken.get_variable_to_shape_map()
    assert len(names) > 100  # Slots too.
    for name in names:
      np.testing.assert_array_equal(
          broken.get_tensor(name), unbroken.get_tensor(name), name)


@pytest.fixture(scope="module")
def mixed_dir(tmp_path_factory):
  """An SST-2 folder of rows of 9 to 26 tokens."""
  folder = tmp_path_factory.mktemp("mixed")
  for name, count in (("train", 256), ("dev", 50), ("test", 21)):
    (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(
        f"{text}{' film' * (i * 7 % 18)}\t{label}\n" for i, (text, label)
        in enumerate(conftest.sentiment_rows(count, count))))
  return folder


class DynamicPaddingTest:

  def flags(self, model, data_dir, output_dir, *more):
    return ["--task_name=SST-2", f"--data_dir={data_dir}",
            f"--output_dir={output_dir}", "--do_train", "--do_eval",
            "--do_predict", "--dynamic_padding", "--random_seed=1", *TRAINING,
            *model.flags(), *more]

  @pytest.fixture(scope="class")
  def padded(self, tiny_model, mixed_dir, tmp_path_factory):
    """Output folder of a training in two parts, which cuts batches."""
    output_dir = tmp_path_factory.mktemp("runs") / "padded"
    run = conftest.run_script(SCRIPT, *self.flags(
        tiny_model, mixed_dir, output_dir, "--num_train_epochs=12",
        "--save_checkpoints_steps=45", "--keep_checkpoint_max=20",
        "--eval_every_steps=64",
        "--train_batch_size=8", "--num_accumulation_steps=2", "--log_steps=1"))
    assert run.returncode == 0, run.stdout
    return output_dir, run.args[1:]

  def test_model_learns(self, padded):
    found = eval_results(padded[0])
    assert conftest.saved_step(padded[0]) == 192
    assert float(found["eval_accuracy"]) > 0.8

  def test_results_are_those_of_full_batches(
      self, padded, tiny_model, mixed_dir, tmp_path):
    run = conftest.run_script(
        SCRIPT, *self.flags(
            tiny_model, mixed_dir, tmp_path, "--nodo_train",
            f"--checkpoint_path={padded[0]}/best", "--nodynamic_padding"))
    assert run.returncode == 0, run.stdout
    one, other = eval_results(padded[0]), eval_results(tmp_path)
    assert one["eval_accuracy"] == other["eval_accuracy"]
    assert float(one["eval_loss"]) == pytest.approx(
        float(other["eval_loss"]), abs=1e-5)
    one, other = (np.loadtxt(folder / "test_results.tsv")
                  for folder in (padded[0], tmp_path))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)

  def test_a_run_that_goes_on_is_as_one_without_a_break(
      self, padded, tmp_path):
    for path in padded[0].glob("model.ckpt-45.*"):
      shutil.copy(path, tmp_path)
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-45"\n')
    run = conftest.run_script(
        SCRIPT, *padded[1], f"--output_dir={tmp_path}", "--eval_every_steps=0")
    assert run.returncode == 0, run.stdout
    assert "Passing over the 45 batches" in run.stdout
    assert set(conftest.events(tmp_path)["loss"]) <= set(
        conftest.events(padded[0])["loss"])
    one, other = (tf.train.load_checkpoint(str(folder / "model.ckpt-192"))
                  for folder in (padded[0], tmp_path))
    for name in one.get_variable_to_shape_map():
      np.testing.assert_array_equal(
          one.get_tensor(name), other.get_tensor(name), name)

  @conftest.needs_mpirun
  def test_ranks_do_the_same_number_of_steps(
      self, tiny_model, mixed_dir, tmp_path):
    run = conftest.run_script(
        SCRIPT, *self.flags(
            tiny_model, mixed_dir, tmp_path, "--num_train_epochs=2",
            "--distributed_predict"),
        launcher=[*conftest.MPIRUN, "2"])
    assert run.returncode == 0, run.stdout
    assert conftest.saved_step(tmp_path) == 16
    assert len((tmp_path / "test_results.tsv").read_text().splitlines()) == 21

  def test_long_texts(self, tiny_model, mixed_dir, tmp_path):
    flags = self.flags(
        tiny_model, mixed_dir, tmp_path, "--num_train_epochs=1",
        "--max_seq_length=12", "--doc_stride=6")
    run = conftest.run_script(SCRIPT, *flags)
    assert run.returncode == 0, run.stdout
    cut = np.loadtxt(tmp_path / "test_results.tsv")
    run = conftest.run_script(SCRIPT, *flags, "--nodynamic_padding")
    assert "nothing is trained" in run.stdout
    np.testing.assert_allclose(
        cut, np.loadtxt(tmp_path / "test_results.tsv"), rtol=0, atol=1e-5)

  def test_synthetic_records(self, tiny_model, tmp_path):
    run = conftest.run_script(
        SCRIPT, "--task_name=SST-2", f"--output_dir={tmp_path}", "--do_train",
        "--train_records=dummy", "--dynamic_padding", "--max_steps=3",
        *TRAINING, *tiny_model.flags())
    assert run.returncode == 0, run.stdout
    assert conftest.saved_step(tmp_path) == 3


class TasksTest:

  @pytest.mark.parametrize("task", ["stsb", "mnli"])
  def test_regression_and_two_dev_sets(self, task, tiny_model, tmp_path):
    rng = np.random.RandomState(1)
    rows = conftest.sentiment_rows(48, 4)
    if task == "stsb":
      header, names = "index\tsentence1\tsentence2\tscore", [
          "train", "dev", "test"]
      lines = [f"{i}\t{a}\t{a}\t{rng.uniform(0, 5):.2f}"
               for i, (a, _) in enumerate(rows)]
    else:
      header = "\t".join(["index"] + ["x"] * 7 + ["a", "b", "gold_label"])
      names = ["train", "dev_matched", "dev_mismatched", "test_matched",
               "test_mismatched"]
      labels = ["contradiction", "entailment", "neutral"]
      lines = ["\t".join([str(i)] + ["n/a"] * 7 + [a, a, labels[i % 3]])
               for i, (a, _) in enumerate(rows)]
    for name in names:
      (tmp_path / f"{name}.tsv").write_text("\n".join([header] + lines) + "\n")
    output_dir = tmp_path / "out"
    run = conftest.run_script(
        SCRIPT, f"--task_name={task}", f"--data_dir={tmp_path}", "--do_train",
        "--do_eval", "--do_predict", "--num_train_epochs=1",
        f"--output_dir={output_dir}", "--detailed_results",
        "--eval_every_steps=4", "--do_export", *TRAINING, *tiny_model.flags())
    assert run.returncode == 0, run.stdout
    sets = json.loads((output_dir / "eval_metrics.json").read_text())["sets"]
    results = eval_results(output_dir)
    best = json.loads((output_dir / "best" / "info.json").read_text())
    assert results["global_step"] == str(best["step"])
    for name, value in sets["dev"]["scores"].items():
      assert best["scores"][name] == pytest.approx(value, abs=1e-6)
    assert best["metric"] == {"stsb": "pearson", "mnli": "accuracy"}[task]
    if task == "stsb":
      assert set(sets["dev"]["scores"]) == {
          "pearson", "spearman", "mean_squared_error"}
      assert "eval_pearson" in results and "eval_accuracy" not in results
      np.testing.assert_allclose(
          float(results["eval_loss"]),
          sets["dev"]["scores"]["mean_squared_error"], rtol=1e-4)
      columns = 1
    else:
      assert sets["dev"] == sets["mismatched"]  # The files are the same.
      assert (best["scores"]["accuracy_mismatched"] ==
              best["scores"]["accuracy"])
      for name in ("eval_results_mismatched.txt", "eval_mismatched.tf_record",
                   "test_results_mismatched.tsv",
                   "predict_mismatched.tf_record"):
        assert (output_dir / name).exists()
      assert len((output_dir / "predictions_mismatched.tsv").read_text()
                 .splitlines()) == 49
      columns = 3
    rows = (output_dir / "test_results.tsv").read_text().splitlines()
    assert len(rows) == 48
    assert all(len(row.split("\t")) == columns for row in rows)
    found = conftest.served(
        output_dir / "export", output_dir / "predict.tf_record")
    np.testing.assert_allclose(
        found["probabilities"],
        np.loadtxt(output_dir / "test_results.tsv", ndmin=2), rtol=0, atol=1e-5)
    info = conftest.model_info(output_dir / "export")
    assert info["global_step"] == best["step"] and info["task"] == task
    assert info["kind"] == (
        "regression" if task == "stsb" else "classification")
    assert len(info["labels"]) == (0 if task == "stsb" else 3)


class LongTextTest:

  @pytest.fixture(scope="class")
  def data_dir(self, tmp_path_factory):
    """An SST-2 folder whose texts decide with their 7th word or a later one."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.RandomState(1)
    for name, count in (("train", 256), ("dev", 48), ("test", 10)):
      lines = ["sentence\tlabel"]
      for i in range(count):
        start = rng.choice(conftest.WORDS[:12], rng.randint(6, 10))
        lines.append(f"{' '.join(start)} {('bad', 'good')[i % 2]}\t{i % 2}")
      (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder

  @pytest.mark.parametrize("flags, least, most", [
      (["--doc_stride=5", "--window_pooling=max", "--label_smoothing=0.1",
        "--class_weights=balanced"], 0.9, 1.0),
      ([], 0.25, 0.75)])
  def test_end_of_a_text_counts_with_windows_alone(
      self, flags, least, most, data_dir, tiny_model, tmp_path):
    run = conftest.run_script(
        SCRIPT, "--task_name=sst2", f"--data_dir={data_dir}", "--do_train",
        "--do_eval", "--do_predict", "--num_train_epochs=14", "--do_export",
        "--random_seed=1", f"--output_dir={tmp_path}", *TRAINING, *flags,
        *tiny_model.flags(max_seq_length=8))
    assert run.returncode == 0, run.stdout
    found = eval_results(tmp_path)
    assert found["global_step"] == "224"  # Texts are counted, not windows.
    assert least <= float(found["eval_accuracy"]) <= most
    rows = (tmp_path / "test_results.tsv").read_text().splitlines()
    assert len(rows) == 10
    if flags:
      self.check_export(tmp_path, "max", [2])
      lines = (data_dir / "test.tsv").read_text().splitlines()[1:]
      check_predictor(tmp_path / "export", tmp_path,
                      [line.split("\t")[0] for line in lines])
      return
    (path,) = (tmp_path / "export").iterdir()
    assert set(tf.saved_model.load(str(path)).signatures) == {
        "serving_default", "serve_examples"}
    assert "one_output_per" not in conftest.model_info(tmp_path / "export")

  def check_export(self, folder, pooling, counts):
    """Whole texts give what --do_predict did, windows or records as they are.

    Args:
      folder: path, the output folder.
      pooling: "mean" or "max".
      counts: list, the numbers of windows that texts have.
    """
    found, num_windows = conftest.served_texts(
        folder / "export", folder / "predict.tf_record", 8, pooling)
    assert sorted(set(num_windows)) == counts
    np.testing.assert_allclose(
        found, np.loadtxt(folder / "test_results.tsv", ndmin=2), rtol=0,
        atol=1e-5)
    info = conftest.model_info(folder / "export")
    assert info["one_output_per"] == {
        "serving_default": "window", "serve_examples": "text",
        "serve_windows": "text"}
    assert (info["doc_stride"], info["max_windows"], info["window_pooling"],
            info["max_seq_length"]) == (5, 8, pooling, 8)

  def test_numbers_of_long_texts_are_served_as_predicted(
      self, tiny_model, tmp_path):
    rng = np.random.RandomState(2)
    (tmp_path / "rows.tsv").write_text("text\tscore\n" + "".join(
        f"{' '.join(rng.choice(conftest.WORDS, count))}\t{count / 10}\n"
        for count in rng.randint(1, 24, 32)))
    run = conftest.run_script(
        SCRIPT, "--task_name=custom", "--regression", "--do_train",
        "--do_predict", "--do_export", f"--train_file={tmp_path}/rows.tsv",
        f"--test_file={tmp_path}/rows.tsv", "--doc_stride=5",
        "--num_train_epochs=2", f"--output_dir={tmp_path}/out", *TRAINING,
        *tiny_model.flags(max_seq_length=8))
    assert run.returncode == 0, run.stdout
    self.check_export(tmp_path / "out", "mean", [1, 2, 3, 4, 5])
    lines = (tmp_path / "rows.tsv").read_text().splitlines()[1:]
    check_predictor(tmp_path / "out" / "export", tmp_path / "out",
                    [line.split("\t")[0] for line in lines])
    assert conftest.model_info(tmp_path / "out" / "export")["labels"] == []


def cut_short(path, folder):
  """A copy of a checkpoint whose data lack their second half."""
  for source in pathlib.Path(path).parent.glob("bert_model.ckpt.*"):
    data = source.read_bytes()
    if ".data-" in source.name:
      data = data[:len(data) // 2]
    (folder / source.name).write_bytes(data)
  return folder / "bert_model.ckpt"


def bad_input_cases():
  """name -> (function of (model, data folder, folder) -> flags, message)."""
  def data(**files):
    def make(model, sst2_dir, folder):
      for name in ("train.tsv", "dev.tsv", "test.tsv"):
        content = files.get(name[:-4], (sst2_dir / name).read_bytes())
        if content is not None:
          (folder / name).write_bytes(content)
      return [f"--data_dir={folder}"]
    return make

  flag = conftest.flag_case

  def config(**changes):
    def make(model, sst2_dir, folder):
      values = dict(model.config.to_dict(), **changes)
      (folder / "config.json").write_text(json.dumps(values))
      return [f"--bert_config_file={folder}/config.json"]
    return make

  def text_file(flag_name, content):
    def make(model, sst2_dir, folder):
      (folder / "file").write_bytes(content)
      return [f"--{flag_name}={folder}/file"]
    return make

  def no_match(model, sst2_dir, folder):
    from demo import checkpoints
    checkpoints.save_checkpoint(
        {"other/kernel": np.ones([2], np.float32)}, str(folder / "x.ckpt"))
    return [f"--init_checkpoint={folder}/x.ckpt"]

  return {
      "padding on a TPU": (
          flag(dynamic_padding=True, use_tpu=True),
          "leave out --dynamic_padding or --use_tpu"),
      "missing folder": (flag(data_dir="/nowhere"),
                         "/nowhere/train.tsv does not exist: --data_dir"),
      "missing training file": (data(train=None), "train.tsv does not exist"),
      "missing column": (data(train=b"text\tlabel\nfine\t1\n"),
                         "train.tsv:1: no column 'sentence'"),
      "wrong column count": (data(train=b"sentence\tlabel\nfine\t1\ndull\n"),
                             "train.tsv:3: 1 column(s), but the first line"),
      "too many columns": (data(train=b"sentence\tlabel\nfine\t1\t2\n"),
                           "train.tsv:2: 3 column(s), but the first line"),
      "blank line": (data(train=b"sentence\tlabel\n\nfine\t1\n"),
                     "train.tsv:2: 0 column(s)"),
      "unknown task": (flag(task_name="squad"), "--task_name=squad: unknown"),
      "unknown label": (data(dev=b"sentence\tlabel\nfine\t1\ndull\t2\n"),
                        "dev.tsv:3: label '2', expected one of 0, 1"),
      "empty training file": (data(train=b""), "train.tsv:1: no column"),
      "training file of a header": (data(train=b"sentence\tlabel\n"),
                                    "holds no example"),
      "not UTF-8": (data(train=b"sentence\tlabel\nfine\t1\ncaf\xe9\t1\n"),
                    "train.tsv:3: not UTF-8: byte 0xe9 at column 4"),
      "enormous field": (
          data(train=b"sentence\tlabel\n" + b"x" * 200000 + b"\t1\n"),
          "train.tsv:2: not a line of tab-separated values"),
      "vocabulary too large": (config(vocab_size=50),
                               "tokens, but the model has 50 embeddings"),
      "vocabulary too small": (config(vocab_size=500),
                               "tokens, but the model has 500 embeddings"),
      "checkpoint of another vocabulary": (
          lambda model, sst2_dir, folder: config(
              vocab_size=model.vocab_size + 8)(model, sst2_dir, folder),
          "bert/embeddings/word_embeddings has shape"),
      "no vocabulary of BERT": (text_file("vocab_file", b"hello\nworld\n"),
                                "has no [CLS]"),
      "binary vocabulary": (text_file("vocab_file", b"a\n\xff\xfe\n"),
                            "file:2: the vocabulary is not UTF-8"),
      "missing vocabulary": (flag(vocab_file="/nowhere/vocab.txt"),
                             "--vocab_file=/nowhere/vocab.txt is not there"),
      "config is no JSON": (text_file("bert_config_file", b"{"),
                            "is not JSON"),
      "config without a size": (text_file("bert_config_file", b'{"a": 1}'),
                                "file: vocab_size is None"),
      "heads that do not divide": (config(num_attention_heads=5),
                                   "not a multiple of num_attention_heads 5"),
      "layers of another width": (
          config(intermediate_size=48),
          "does not fit this model: bert/encoder/layer_0/intermediate"),
      "case of the checkpoint": (
          flag(init_checkpoint="/m/cased_L-12_H-768_A-12/bert_model.ckpt"),
          "--do_lower_case=False"),
      "sequence too long": (flag(max_seq_length=65),
                            "--max_seq_length=65: this model takes 3 to 64"),
      "output folder not writable": (
          flag(output_dir="/dev/null/out"), "--output_dir=/dev/null/out can't"),
      "missing checkpoint": (flag(init_checkpoint="/nowhere/x.ckpt"),
                             "there is no /nowhere/x.ckpt.index"),
      "checkpoint cut short": (
          lambda model, sst2_dir, folder: [
              f"--init_checkpoint={cut_short(model.init_checkpoint, folder)}"],
          "is damaged"),
      "checkpoint without a match": (no_match, "has no variable of this model"),
      "nothing to do": (flag(do_train="false"), "Nothing to do"),
      "batch larger than the data": (flag(train_batch_size=1000),
                                     "make less than one step"),
      "bound that is no number": (flag(loss_upper_bound="nan"),
                                  "--loss_upper_bound=nan has to be above 0"),
      "rate of zero": (flag(learning_rate=0), "--learning_rate=0.0 has to be"),
      "long warm-up": (flag(warmup_proportion=2), "has to be 0 to 1"),
      "all dropped": (flag(dropout_before_logits=1), "has to be below 1"),
      "batch of zero": (flag(eval_batch_size=0), "--eval_batch_size=0"),
      "gaps between windows": (flag(doc_stride=31), "--doc_stride=31 would"),
  }


CASES = bad_input_cases()


class BadInputTest:

  @pytest.mark.parametrize("case", sorted(CASES))
  def test_one_clear_line_and_earlier_results_intact(
      self, case, tiny_model, sst2_dir, tmp_path):
    make, message = CASES[case]
    do_eval = ["--do_eval"] if case == "unknown label" else []
    conftest.assert_refused(
        SCRIPT, ["--task_name=sst2", "--do_train", "--num_train_epochs=1",
                 f"--data_dir={sst2_dir}", *TRAINING, *do_eval], make, message,
        tiny_model, sst2_dir, tmp_path, ["eval_results.txt", "train.tf_record"])

  def test_missing_flags_are_all_named(self):
    run = conftest.run_script(SCRIPT)
    assert run.returncode == 1
    for name in ("data_dir", "task_name", "vocab_file", "bert_config_file",
                 "output_dir"):
      assert f"--{name} must have a value" in run.stdout
    assert "Traceback" not in run.stdout
