"""What happens to jobs of several ranks: killed ranks, full disks, SIGTERM,
ranks that were given different things, and all ranks predicting."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import tensorflow as tf

from tests import conftest
from tests import run_pretraining_test

MPIRUN, HOROVODRUN = conftest.MPIRUN, conftest.HOROVODRUN

pytestmark = [pytest.mark.slow, conftest.needs_mpirun]


def classifier(tiny_model, sst2_dir, output_dir, *flags):
  """The command line of a training that would take minutes."""
  return [sys.executable, str(conftest.PROJECT / "run_classifier.py"),
          "--task_name=sst2", "--do_train", f"--data_dir={sst2_dir}",
          f"--output_dir={output_dir}", "--cpu_only", "--train_batch_size=8",
          "--random_seed=1", "--num_train_epochs=2000",
          "--save_checkpoints_steps=20", "--log_steps=5", *tiny_model.flags(),
          *flags]


class Job(object):
  """A job that runs in the background, and its output."""

  def __init__(self, command, folder, env=None):
    self.log_path = folder / "job.log"
    self.output_dir = next(
        word.split("=", 1)[1] for word in command if "--output_dir=" in word)
    with open(self.log_path, "w", encoding="utf-8") as log:
      self.process = subprocess.Popen(
          command, stdout=log, stderr=subprocess.STDOUT, cwd=conftest.PROJECT,
          env={**os.environ, "PYTHONPATH": str(conftest.PROJECT),
               **(env or {})})

  def log(self):
    return self.log_path.read_text(encoding="utf-8", errors="replace")

  def wait_for(self, condition, seconds=240):
    """Waits until condition() is true while the job runs."""
    end = time.time() + seconds
    while not condition():
      assert self.process.poll() is None, self.log()
      assert time.time() < end, self.log()
      time.sleep(0.05)

  def wait_for_checkpoint(self, step):
    """Waits for a checkpoint of this step or a later one."""
    self.wait_for(lambda: latest_step(self.output_dir) >= step)

  def ranks(self):
    """rank -> psutil.Process of the job's Python processes."""
    found = {}
    for process in psutil.process_iter():
      try:
        if f"--output_dir={self.output_dir}" not in process.cmdline():
          continue
        environment = process.environ()
      except psutil.Error:
        continue
      for name in ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK"):
        if name in environment:
          found[int(environment[name])] = process
    return found

  def end(self, seconds=60):
    """Waits for the end; returns (status, output). No process may be left."""
    try:
      status = self.process.wait(seconds)
    finally:
      if self.process.poll() is None:
        self.process.kill()
    time.sleep(0.5)
    left = self.ranks()
    for process in left.values():
      process.kill()
    assert not left, self.log()
    return status, self.log()


def latest_step(output_dir):
  """Step of the newest checkpoint; -1 without one."""
  path = tf.train.latest_checkpoint(output_dir)
  return int(path.rsplit("-", 1)[1]) if path else -1


def assert_whole(output_dir):
  """The newest checkpoint can be read to the last byte."""
  reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(output_dir))
  for name in reader.get_variable_to_shape_map():
    reader.get_tensor(name)


class KilledRankTest:

  @pytest.mark.parametrize("launcher", ["mpirun", "horovodrun"])
  def test_job_ends_and_the_next_start_goes_on(
      self, launcher, tiny_model, sst2_dir, tmp_path):
    output_dir = tmp_path / "out"
    start = ([*MPIRUN, "2"] if launcher == "mpirun"
             else [*HOROVODRUN, "2"])
    job = Job([*start, *classifier(tiny_model, sst2_dir, output_dir)], tmp_path)
    job.wait_for_checkpoint(20)
    job.ranks()[1].kill()
    status, log = job.end()
    assert status != 0
    assert re.search(r"process rank 1 with PID .* exited on signal 9"
                     if launcher == "mpirun" else
                     r"Process 1 exit with status code 137", log), log
    reached = latest_step(output_dir)
    assert_whole(output_dir)
    if launcher != "mpirun":
      return
    # Another number of ranks goes on at the same step.
    run = subprocess.run(
        classifier(
            tiny_model, sst2_dir, output_dir,
            f"--num_train_epochs={(reached + 30) * 8 / 256 + 0.01}"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False)
    assert run.returncode == 0, run.stdout
    assert f"Going on from step {reached}." in run.stdout
    assert latest_step(output_dir) == reached + 30
    losses = conftest.events(output_dir)["loss"]
    steps = sorted({step for step, _ in losses})
    assert steps[0] <= 1 and steps[-1] > reached
    assert not [step for step, value in losses if not 0 < value < 2]

  def test_launcher_starts_again(self, tiny_model, sst2_dir, tmp_path):
    output_dir = tmp_path / "out"
    job = Job([sys.executable, "-m", "demo.launch", "-np", "2", "--restarts",
               "1", "--",
               *classifier(tiny_model, sst2_dir, output_dir,
                           "--num_train_epochs=5")[1:]], tmp_path)
    job.wait_for_checkpoint(20)
    job.ranks()[1].kill()
    status, log = job.end(240)
    assert status == 0, log
    assert "launch: rank 1 on " in log and "(Killed)" in log
    assert re.search(r"Start 2 of 2, from model.ckpt-\d+", log), log
    assert re.search(r"Going on from step [1-9]\d*\.", log), log
    assert latest_step(output_dir) == 80  # 256 * 5 / 8 / 2


class StopTest:

  @pytest.mark.parametrize("launcher", ["mpirun", "horovodrun", None])
  def test_checkpoint_is_saved(self, launcher, tiny_model, sst2_dir, tmp_path):
    output_dir = tmp_path / "out"
    start = {"mpirun": [*MPIRUN, "2"], None: [],
             "horovodrun": [*HOROVODRUN, "2"]}[launcher]
    job = Job([*start, *classifier(tiny_model, sst2_dir, output_dir,
                                   "--save_checkpoints_steps=1000000")],
              tmp_path)
    job.wait_for(lambda: "step 10/" in job.log())
    # As a cluster does it: Slurm tells the ranks, or mpirun passes SIGUSR1 on.
    if launcher == "mpirun":
      job.process.send_signal(signal.SIGUSR1)
    elif launcher:
      job.ranks()[1].send_signal(signal.SIGTERM)
    else:
      job.process.send_signal(signal.SIGTERM)
    status, log = job.end()
    assert status == {"mpirun": 128 + signal.SIGUSR1, "horovodrun": 1,
                      None: 128 + signal.SIGTERM}[launcher], log
    saved = re.search(r"The checkpoint of step (\d+) is saved", log)
    assert saved and log.count("The checkpoint of step") == 1, log
    assert latest_step(output_dir) == int(saved[1]) >= 10
    assert_whole(output_dir)


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 8 MB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mounted = shutil.which("mount") and subprocess.run(
      ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
      stderr=subprocess.DEVNULL, check=False).returncode == 0
  if not mounted:
    pytest.skip("no right to mount a file system")
  yield folder
  subprocess.run(["umount", str(folder)], check=True)


class FullDiskTest:

  def test_message_names_rank_and_cause(
      self, tiny_model, sst2_dir, small_disk, tmp_path):
    output_dir = small_disk / "out"
    job = Job([*MPIRUN, "2", *classifier(tiny_model, sst2_dir, output_dir)],
              tmp_path)
    job.wait_for_checkpoint(0)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 40000))
    status, log = job.end()
    assert status != 0
    (line,) = [x for x in log.splitlines() if "run_classifier.py: error:" in x]
    assert "rank 0 of 2 on " in line and "o space left on device" in line
    assert "Traceback" not in log
    assert_whole(output_dir)
    filler.unlink()
    assert latest_step(output_dir) >= 0


class DifferentRanksTest:

  @pytest.mark.parametrize("change, message", [
      ("flag", "--learning_rate differs between ranks: 5e-05 on rank 0 .* "
               "0.01 on rank 1"),
      ("data", "What --data_dir has to train on differs between ranks: 256 "
               "examples.* 255 examples"),
      ("checkpoint", "--init_checkpoint differs between ranks: sha256"),
      ("missing", "rank 1 of 2 on .*: --vocab_file=/none is not there")])
  def test_refused_before_the_first_step(
      self, change, message, tiny_model, sst2_dir, tmp_path):
    flags = []
    if change == "flag":
      flags = ["--learning_rate=0.01"]
    elif change == "data":
      other = tmp_path / "data"
      shutil.copytree(sst2_dir, other)
      lines = (other / "train.tsv").read_text().splitlines(True)
      (other / "train.tsv").write_text("".join(lines[:-1]))
      flags = [f"--data_dir={other}"]
    elif change == "checkpoint":
      (tmp_path / "model").mkdir()
      variables = conftest.random_variables(tiny_model.config, seed=2)
      path = str(tmp_path / "model" / "bert_model.ckpt")
      conftest.checkpoints.save_checkpoint(variables, path)
      flags = [f"--init_checkpoint={path}"]
    else:
      flags = ["--vocab_file=/none"]
    command = classifier(tiny_model, sst2_dir, tmp_path / "out")
    run = subprocess.run(
        [*MPIRUN, "1", *command, ":", "-np", "1", *command, *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=120, check=False)
    assert run.returncode == 1, run.stdout
    (line,) = [line for line in run.stdout.splitlines() if "error:" in line]
    assert re.search(message, line), line
    assert "Traceback" not in run.stdout
    assert not list((tmp_path / "out").glob("*.tf_record*"))

  def test_the_same_fault_is_said_once(self, tiny_model, sst2_dir, tmp_path):
    run = conftest.run_script(
        "run_classifier.py", "--task_name=nothing", f"--data_dir={sst2_dir}",
        f"--output_dir={tmp_path}", *tiny_model.flags(), "--cpu_only",
        launcher=[*MPIRUN, "3"])
    assert run.returncode == 1
    assert run.stdout.count("run_classifier.py: error: --task_name=nothing") == 1


class LossBoundTest:

  def test_other_ranks_loss_ends_all_without_a_checkpoint(self, tmp_path):
    run = conftest.run_script(
        "tests/rank_programs/train_losses.py", f"--output_dir={tmp_path}",
        launcher=[*MPIRUN, "2"], timeout=60)
    assert run.returncode == 1, run.stdout
    (line,) = [line for line in run.stdout.splitlines() if "error:" in line]
    assert line == (
        f"train_losses.py: error: the loss is 12.5 at step 6, "
        f"--loss_upper_bound=10: try a smaller --learning_rate or a longer "
        f"warm-up. The last good checkpoint is kept: {tmp_path}/model.ckpt-3.")
    assert latest_step(tmp_path) == 3
    assert "Traceback" not in run.stdout


class EvaluationTest:

  def test_ranks_wait_for_a_long_evaluation_and_end_at_the_same_step(
      self, tmp_path):
    run = conftest.run_script(
        "tests/rank_programs/evaluate_slowly.py", f"--output_dir={tmp_path}",
        launcher=[*MPIRUN, "2"], env={
            "HOROVOD_STALL_CHECK_TIME_SECONDS": "2",
            "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "15"})
    assert run.returncode == 0, run.stdout
    log = json.loads((tmp_path / "evaluations.json").read_text())
    assert [x["step"] for x in log["evaluations"]] == [2, 4, 6]
    assert (log["best_step"], log["stopped_early_at"]) == (4, 6)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == [
        "6", "6"]


def files(folder, names):
  return {name: (pathlib.Path(folder) / name).read_bytes() for name in names}


# Another number of threads may sum up matrix products in another order.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1"}


def assert_one_ranks_bytes(script, names, ranks, folder, *flags):
  """--distributed_predict leaves the files that one rank alone leaves.

  Args:
    script: string.
    names: list of string, the files to compare.
    ranks: int.
    folder: empty folder; the output folders are `one` and `many` in it.
    *flags: the command line.

  Returns:
    Dict name -> content.
  """
  found = []
  for name, launcher, more in (
      ("one", [], []),
      ("many", [*MPIRUN, str(ranks)], ["--distributed_predict"])):
    run = conftest.run_script(
        script, f"--output_dir={folder}/{name}", "--cpu_only",
        "--random_seed=1", *flags, *more, launcher=launcher, env=ONE_THREAD)
    assert run.returncode == 0, run.stdout
    found.append(files(folder / name, names))
  assert found[0] == found[1]
  return found[0]


class DistributedPredictTest:

  def test_classifier_gives_one_ranks_bytes(
      self, tiny_model, sst2_dir, tmp_path):
    # Texts are in one window or two, and stay together.
    assert_one_ranks_bytes(
        "run_classifier.py",
        ["eval_results.txt", "test_results.tsv", "predictions.tsv",
         "eval_metrics.json"], 3, tmp_path, "--task_name=sst2", "--do_eval",
        "--do_predict", "--detailed_results", f"--data_dir={sst2_dir}",
        "--doc_stride=4", *tiny_model.flags(max_seq_length=8))
    for name in ("one", "many"):
      scores = conftest.events(tmp_path / name / "eval")
      assert {"eval_loss", "loss", "eval_accuracy"} <= set(scores)
    counts = [sum(1 for _ in tf.data.TFRecordDataset(
        str(tmp_path / f"many/eval.tf_record_{rank}"))) for rank in range(3)]
    assert counts == [18, 16, 16]  # 50 rows, batches of 8 dealt out in turn.

  def test_squad_gives_one_ranks_bytes(self, tiny_model, squad_dir, tmp_path):
    found = assert_one_ranks_bytes(
        "run_squad.py",
        ["predictions.json", "nbest_predictions.json", "null_odds.json",
         "nbest_offsets.json", "eval_results.json"], 2, tmp_path,
        "--do_predict", "--do_eval", "--write_offsets", "--doc_stride=8",
        f"--predict_file={squad_dir}/dev2.json", "--version_2_with_negative",
        "--max_query_length=10", *tiny_model.flags())
    assert len(json.loads(found["predictions.json"])) == 80

  def test_pretraining_gives_one_ranks_bytes(self, tiny_model, tmp_path):
    records = run_pretraining_test.write(tmp_path / "records", range(50))
    found = assert_one_ranks_bytes(
        "run_pretraining.py", ["eval_results.txt"], 2, tmp_path, "--do_eval",
        f"--input_file={records}", "--max_eval_steps=5",
        *tiny_model.flags(
            vocab_file=None, max_seq_length=run_pretraining_test.LENGTH,
            max_predictions_per_seq=run_pretraining_test.PREDICTIONS))
    assert b"masked_lm_loss = " in found["eval_results.txt"]

