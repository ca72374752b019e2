"""From text to a fine-tuned classifier, by command line, on a tiny model."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import tensorflow as tf

from tests import conftest

pytestmark = pytest.mark.slow

RECORDS = ["--max_seq_length=32", "--max_predictions_per_seq=5"]
SCORES = ["masked_lm_accuracy", "masked_lm_loss", "next_sentence_accuracy",
          "next_sentence_loss"]


def flags_of(model, **overrides):
  return [*RECORDS, "--cpu_only", "--random_seed=1", *model.flags(
      vocab_file=None, max_seq_length=None, **overrides)]


def run(script, *flags, **kwargs):
  """Runs a script that has to succeed; returns its log."""
  finished = conftest.run_script(script, *flags, **kwargs)
  assert finished.returncode == 0, finished.stdout
  return finished.stdout


def results(folder):
  return {key: float(value) for key, value in re.findall(
      r"(\w+) = (\S+)\n", (folder / "eval_results.txt").read_text())}


@pytest.fixture(scope="module")
def path(tiny_model, sst2_dir, tmp_path_factory):
  """Runs the commands of docs/pretraining.md, on small data.

  Returns:
    (folder, logs): the folder $OUT, and the output of each command.
  """
  folder = tmp_path_factory.mktemp("path")
  for name, num_documents in (("train", 120), ("held_out", 40)):
    (folder / name).mkdir()
    (folder / name / "text.txt").write_text(
        conftest.corpus(num_documents, seed=num_documents))
  (folder / "SST-2").symlink_to(sst2_dir)
  text = (conftest.PROJECT / "docs" / "pretraining.md").read_text()
  for documented, small in (
      ("--max_seq_length=128", RECORDS[0]), ("--max_seq_length=64", RECORDS[0]),
      ("--max_predictions_per_seq=20", RECORDS[1]),
      ("--num_train_steps=1000", "--num_train_steps=300 --log_steps=50"),
      ("--num_warmup_steps=100", "--num_warmup_steps=30"),
      ("model.ckpt-1000", "model.ckpt-300"),
      ("--train_batch_size=32", "--train_batch_size=16"),
      ("--learning_rate=5e-5", "--learning_rate=2e-3"),
      ("--learning_rate=2e-5", "--learning_rate=2e-3"),
      ("--num_train_epochs=3", "--num_train_epochs=8"),
      ("run_pretraining.py", "run_pretraining.py --cpu_only --random_seed=1 "
       "--max_eval_steps=10"),
      ("run_classifier.py", "run_classifier.py --cpu_only --random_seed=1"),
      (".venv/bin/python", shlex.quote(sys.executable))):
    assert documented in text, documented
    text = text.replace(documented, small)
  environment = {**os.environ, "OUT": str(folder), "TEXT": str(folder),
                 "GLUE": str(folder), "BERT": str(tiny_model.folder)}
  logs = []
  for block in re.findall(r"```\n(.*?)```", text, re.S):
    finished = subprocess.run(
        ["bash", "-e", "-c", block], cwd=conftest.PROJECT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=600)
    assert finished.returncode == 0, finished.stdout
    logs.append(finished.stdout)
  return folder, logs


class PathTest:

  def test_scores_on_other_text_improve(self, path):
    before = results(path[0] / "before")
    after = results(path[0] / "pretrained")
    assert list(after) == sorted(["global_step", "loss", *SCORES])
    assert after["global_step"] == 300 and before["global_step"] == 0
    assert before["masked_lm_accuracy"] < 0.2 < 0.5 < (
        after["masked_lm_accuracy"]), (before, after)
    assert after["next_sentence_accuracy"] > 0.6, (before, after)
    for name in ("loss", "masked_lm_loss", "next_sentence_loss"):
      assert after[name] < before[name], (before, after)

  def test_scores_of_both_tasks_are_shown_while_it_trains(self, path):
    number = r" [\d.]+  "
    (log,) = [log for log in path[1] if "step 150/300" in log]
    assert re.search(
        r"step 150/300 \(50 %\)  loss" + number + number.join([
            "masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss",
            "next_sentence_accuracy", "learning rate"]), log), log
    assert "Traceback" not in log and "Error" not in log
    curves = conftest.events(path[0] / "pretrained")
    after = results(path[0] / "pretrained")
    for name in SCORES:
      assert len(curves[name]) >= 3 and curves[name][-1][1] > 0.4, name
      ((step, value),) = conftest.events(path[0] / "pretrained/eval")[name]
      assert step == 300 and value == pytest.approx(after[name])

  def test_checkpoint_fine_tunes(self, path):
    assert "fresh: output_bias, output_weights; not used: bert/" in path[1][-1]
    assert results(path[0] / "sst2")["eval_accuracy"] > 0.9


@conftest.needs_mpirun
class TwoRanksTest:

  def test_trains_and_evaluates(self, tiny_model, path, tmp_path):
    log = run(
        "run_pretraining.py", "--do_train", "--do_eval",
        "--distributed_predict", f"--input_file={path[0]}/train-*.gz",
        "--num_train_steps=20", "--num_warmup_steps=4", "--max_eval_steps=3",
        "--eval_every_steps=5",
        "--learning_rate=1e-3", f"--output_dir={tmp_path}", "--log_steps=5",
        "--num_accumulation_steps=2", *flags_of(tiny_model),
        launcher=[*conftest.MPIRUN, "2"])
    assert "An update = 2 batches of" in log
    assert re.search(r"step 10/10 .*masked_lm_accuracy [\d.]+  next_", log), log
    assert "Learning rate 0.002: --learning_rate=0.001 times 2 ranks" in log
    assert "10 steps, 2 of them warm-up: --num_train_steps=20" in log
    assert tf.train.latest_checkpoint(str(tmp_path)).endswith("model.ckpt-10")
    log = json.loads((tmp_path / "evaluations.json").read_text())
    assert [x["step"] for x in log["evaluations"]] == [5, 10]
    best = log["evaluations"][log["best_step"] // 5 - 1]["scores"]
    # Rank 0 alone within the training, both ranks after it.
    assert results(tmp_path)["global_step"] == log["best_step"]
    for name in SCORES:
      assert best[name] == pytest.approx(results(tmp_path)[name], rel=1e-5)


class BadInputTest:

  @pytest.mark.parametrize("script, flags", [
      ("run_pretraining.py", ["--do_train"]),
      ("demo.train", ["--experiment=bert/pretraining", "--mode=train"])])
  def test_lengths_without_positions(
      self, script, flags, tiny_model, tmp_path):
    finished = conftest.run_script(
        script, *flags, f"--output_dir={tmp_path}",
        "--input_file=not_looked_at_yet", *flags_of(tiny_model),
        "--max_seq_length=65")
    assert finished.returncode == 1 and "Traceback" not in finished.stdout
    assert ("error: --max_seq_length=65: this model takes 5 to 64 tokens" in
            finished.stdout), finished.stdout
    # What the driver is asked for is kept.
    assert {path.name for path in tmp_path.iterdir()} <= {"params.yaml"}

  def test_one_clear_line_and_earlier_results_intact(
      self, tiny_model, path, tmp_path):
    (tmp_path / "eval_results.txt").write_text("earlier")
    finished = conftest.run_script(
        "run_pretraining.py", "--do_eval", f"--output_dir={tmp_path}",
        f"--input_file={path[0]}/held_out.tfrecord",
        *flags_of(tiny_model), "--max_predictions_per_seq=6")
    assert finished.returncode == 1 and "Traceback" not in finished.stdout
    assert re.search(
        r"^run_pretraining.py: error: .*held_out.tfrecord: masked_lm_\w+ of "
        r"its records has 5 values, --max_predictions_per_seq says 6. Pass "
        r"--max_predictions_per_seq=5", finished.stdout, re.M), finished.stdout
    assert (tmp_path / "eval_results.txt").read_text() == "earlier"
