"""Tests of demo/horovod_helpers.py, the last ones with real ranks."""

import json
import os
import re
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
import pytest
import tensorflow as tf

from demo import horovod_helpers
from tests import conftest


class ExampleSliceTest:

  @given(st.integers(0, 50), st.integers(1, 9))
  def test_slices_partition_the_examples(self, total, size):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(horovod_helpers, "hvd_size", lambda: size)
      slices = []
      for rank in range(size):
        patch.setattr(horovod_helpers, "hvd_rank", lambda r=rank: r)
        slices.append(horovod_helpers.example_slice(total))
    assert [i for start, end in slices for i in range(start, end)] == list(
        range(total))
    lengths = [end - start for start, end in slices]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


class ConditionEnvVarTest:

  @pytest.mark.parametrize("word, expected", [
      ("1", True), ("True", True), ("ENABLED", True), ("y", True),
      ("0", False), ("no", False), ("Disable", False), ("f", False)])
  def test_words(self, word, expected, monkeypatch):
    monkeypatch.setenv("X_TEST", word)
    assert horovod_helpers.condition_env_var("X_TEST") is expected

  def test_default_and_other_words(self, monkeypatch):
    monkeypatch.delenv("X_TEST", raising=False)
    assert horovod_helpers.condition_env_var("X_TEST", default=True) is True
    for word in ("", "maybe"):
      monkeypatch.setenv("X_TEST", word)
      with pytest.raises(ValueError, match=f"X_TEST={word} "):
        horovod_helpers.condition_env_var("X_TEST")


class SessionConfigTest:

  def test_scoped_allocator_is_on_for_allreduce(self, monkeypatch):
    monkeypatch.delenv("TF_DISABLE_SCOPED_ALLOCATOR", raising=False)
    config = horovod_helpers.session_config()
    rewrite = config.graph_options.rewrite_options
    assert rewrite.scoped_allocator_optimization == 1  # RewriterConfig.ON
    assert list(rewrite.scoped_allocator_opts.enable_op) == [
        "HorovodAllreduce"]
    assert config.allow_soft_placement

  def test_can_be_turned_off(self, monkeypatch):
    monkeypatch.setenv("TF_DISABLE_SCOPED_ALLOCATOR", "true")
    assert horovod_helpers.session_config() is None


class ShareOfCoresTest:

  def test_ranks_of_a_server_share_its_cores(self, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert horovod_helpers.share_of_cores() == 8
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "16")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "3")
    assert horovod_helpers.share_of_cores() == 2
    # mpirun may have given each rank its own cores already.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5})
    assert horovod_helpers.share_of_cores() == 2
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "16")
    assert horovod_helpers.share_of_cores() == 1


class OneProcessTest:

  def test_is_rank_zero_of_one(self):
    assert not horovod_helpers.horovod_enabled()
    assert horovod_helpers.hvd_size() == horovod_helpers.hvd_local_size() == 1
    assert horovod_helpers.hvd_rank() == horovod_helpers.hvd_local_rank() == 0
    assert horovod_helpers.is_chief()
    assert horovod_helpers.record_file("a/train.tf_record") == (
        "a/train.tf_record")
    assert horovod_helpers.server_record_files("t") == ["t"]
    assert horovod_helpers.broadcast_hooks() == []
    assert horovod_helpers.hvd_rank_prefix() == ""
    assert horovod_helpers.gather(5) == [5]
    assert horovod_helpers.gather_to_chief([1, 2]) == [[1, 2]]
    assert horovod_helpers.last_words("a line") == "a line"
    horovod_helpers.barrier()
    horovod_helpers.check_agreement({"a flag": "1"})

  def test_importing_the_scripts_does_not_import_horovod(self):
    # With the import blocked: None in sys.modules raises ImportError.
    code = ("import sys; sys.modules['horovod'] = None; "
            "import run_classifier; from absl import flags; "
            "print([m for m in sys.modules if m.startswith('horovod.')], "
            "'task_name' in flags.FLAGS)")
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=conftest.PROJECT, check=True,
        stdout=subprocess.PIPE, text=True)
    assert run.stdout.strip() == "[] False"

  def test_dunder_names_start_nothing(self):
    with pytest.raises(AttributeError):
      horovod_helpers.hvd.__wrapped__
    assert not horovod_helpers.hvd.is_loaded

  @pytest.mark.parametrize("variables, place", [
      ({}, (1, 0, 1, 0)),
      ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
       (8, 5, 4, 1)),
      ({"HOROVOD_SIZE": "2", "HOROVOD_RANK": "1", "HOROVOD_LOCAL_SIZE": "2",
        "HOROVOD_LOCAL_RANK": "1"}, (2, 1, 2, 1)),
      ({"PMI_SIZE": "6", "PMI_RANK": "4", "MPI_LOCALNRANKS": "3",
        "MPI_LOCALRANKID": "1"}, (6, 4, 3, 1)),
      # srun; node 2 of three with 4, 4 and 1 tasks.
      ({"SLURM_STEP_NUM_TASKS": "9", "SLURM_PROCID": "8", "SLURM_NODEID": "2",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2),1", "SLURM_LOCALID": "0"},
       (9, 8, 1, 0)),
      # The batch script of a Slurm job of eight tasks is no rank.
      ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
       (1, 0, 1, 0)),
      # mpirun within a step of Slurm.
      ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0",
        "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
       (8, 5, 4, 1))])
  def test_place_by_the_launchers_variables(
      self, variables, place, monkeypatch):
    for names in horovod_helpers._LAUNCHERS:
      for name in names.values():
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
      monkeypatch.setenv(name, value)
    assert place == (
        horovod_helpers.comm_size(), horovod_helpers.comm_rank(),
        horovod_helpers.comm_local_size(), horovod_helpers.comm_local_rank())

  def test_what_a_lost_rank_looks_like(self, monkeypatch):
    monkeypatch.setattr(horovod_helpers.hvd, "_module", object())
    lost = horovod_helpers.is_lost_rank
    assert lost(tf.errors.UnknownError(
        None, None, "Node: 'x/HorovodAllreduce_x_0'\nConnection reset by peer"))
    assert lost(RuntimeError("Horovod has been shut down. This was caused"))
    assert not lost(tf.errors.NotFoundError(
        None, None, "/home/me/horovod/train.tsv; No such file or directory"))

  def test_messages_name_the_rank_where_there_are_several(self, monkeypatch):
    assert horovod_helpers.on_this_rank("a line") == "a line"
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    assert re.fullmatch(r"rank 3 of 4 on \S+: a line",
                        horovod_helpers.last_words("a line"))

  def test_agreement_names_what_differs(self, monkeypatch):
    ranks = [("a", {"--x": "1", "--output_dir on a": "/o"}),
             ("b", {"--x": "1", "--output_dir on b": "/p"})]
    monkeypatch.setattr(
        horovod_helpers, "gather",
        lambda value, name="gather": [None] if name == "barrier" else ranks)
    horovod_helpers.check_agreement({})
    ranks.append(("b", {"--x": "2", "--output_dir on b": "/p"}))
    with pytest.raises(ValueError, match=(
        r"--x differs between ranks: 1 on rank 0 \(a\), 2 on rank 2 \(b\)")):
      horovod_helpers.check_agreement({})

  def test_a_launchers_variable_that_is_no_number_is_named(self, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "many")
    with pytest.raises(ValueError, match="OMPI_COMM_WORLD_SIZE=many"):
      horovod_helpers.comm_size()


@pytest.mark.slow
class HorovodMissingTest:

  def test_says_how_to_install_it(self, tiny_model, sst2_dir, tmp_path):
    (tmp_path / "horovod.py").write_text("raise ImportError('none here')\n")
    run = conftest.run_script(
        "run_classifier.py", "--task_name=sst2", "--do_train",
        f"--data_dir={sst2_dir}", f"--output_dir={tmp_path}/out",
        "--use_horovod", "--cpu_only", *tiny_model.flags(),
        env={"PYTHONPATH": f"{tmp_path}:{conftest.PROJECT}"})
    assert run.returncode == 1 and "Traceback" not in run.stdout
    assert "pip install --no-build-isolation horovod==0.28.1" in run.stdout


# Run by each rank: what it sees of the data, and its variables after a step on
# a gradient of its own.
RANK_PROGRAM = """
import json, os, sys
import numpy as np
import tensorflow as tf
import optimization
from demo import horovod_helpers as helpers

helpers.start_ranks(use_horovod=False, cpu_only=True)
rank, size = helpers.hvd_rank(), helpers.hvd_size()
helpers.barrier()
seen = {"rank": rank, "size": size,
        "threads": os.environ["TF_NUM_INTRAOP_THREADS"],
        "slice": helpers.example_slice(11),
        "own": helpers.record_file("t"),
        "server": helpers.server_record_files("t"),
        "shard": list(helpers.shard(
            tf.data.Dataset.range(10)).as_numpy_iterator()),
        "all": helpers.gather(7 + rank),
        "chief": helpers.gather_to_chief(list(range(100 * rank, 101 * rank + 70)))}
with tf.Graph().as_default():
  used = tf.compat.v1.get_variable("used", [3], initializer=tf.zeros_initializer())
  table = tf.compat.v1.get_variable("table", [4, 2], initializer=tf.zeros_initializer())
  tf.compat.v1.get_variable("unused", [2])
  loss = 0.1 * (rank + 1) * (tf.reduce_sum(used) + tf.reduce_sum(tf.gather(table, [rank, 3])))
  op = optimization.create_optimizer(loss, 1e-2, 10, 0, False)
  by_name = {v.op.name: v for v in tf.compat.v1.global_variables()}
  with tf.compat.v1.Session(config=helpers.session_config()) as session:
    session.run(tf.compat.v1.global_variables_initializer())
    session.run(op)
    seen["m"] = session.run(by_name["used/adam_m"]).tolist()
    seen["m_table"] = session.run(by_name["table/adam_m"]).tolist()
    seen["names"] = sorted(by_name)

def sent():  # Horovod puts each exchange into a function of its own.
  library = tf.compat.v1.get_default_graph().as_graph_def().library
  return sorted(tf.dtypes.as_dtype(node.attr["T"].type).name
                for function in library.function for node in function.node_def
                if node.op == "HorovodAllreduce")

helpers.start_ranks(use_horovod=False, cpu_only=True, fp16_allreduce=True)
with tf.Graph().as_default():
  weight = tf.compat.v1.get_variable("weight", [2], initializer=tf.zeros_initializer())
  op = optimization.create_optimizer(0.1 * (rank + 1) * tf.reduce_sum(weight), 1e-2, 10, 0, False)
  seen["sent"] = sent()
  by_name = {v.op.name: v for v in tf.compat.v1.global_variables()}
  with tf.compat.v1.Session(config=helpers.session_config()) as session:
    session.run(tf.compat.v1.global_variables_initializer())
    session.run(op)
    seen["m_fp16"] = session.run(by_name["weight/adam_m"]).tolist()
json.dump(seen, open(sys.argv[1] + "/" + str(rank) + ".json", "w"), default=int)
"""


@pytest.mark.slow
@conftest.needs_mpirun
class RanksTest:

  def test_each_rank_has_its_share_and_the_mean_of_the_gradients(
      self, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(RANK_PROGRAM)
    run = conftest.run_script(
        str(program), tmp_path, launcher=[*conftest.MPIRUN, "2"])
    assert run.returncode == 0, run.stdout
    ranks = [json.loads((tmp_path / f"{r}.json").read_text()) for r in (0, 1)]
    for rank, seen in enumerate(ranks):
      assert (seen["rank"], seen["size"]) == (rank, 2)
      assert seen["own"] == f"t_{rank}"
      assert seen["server"] == ["t_0", "t_1"]
      assert seen["all"] == [7, 8]
      # Mean of 0.1 and 0.2, below the clipping norm, times 1 - beta_1.
      assert seen["m"] == pytest.approx([0.015] * 3)
      assert [row[0] for row in seen["m_table"]] == pytest.approx(
          [0.005, 0.01, 0.0, 0.015])
      assert "unused/adam_m" not in seen["names"]
      assert seen["sent"] == ["float16"]
      assert seen["m_fp16"] == pytest.approx([0.015] * 2, rel=1e-3)
    assert ranks[0]["chief"] == [list(range(70)), list(range(100, 171))]
    assert ranks[1]["chief"] is None
    assert [r["slice"] for r in ranks] == [[0, 6], [6, 11]]
    # Two ranks share the cores.
    assert all(1 <= int(r["threads"]) <= max(os.cpu_count() // 2, 1)
               for r in ranks)
    assert sorted(ranks[0]["shard"] + ranks[1]["shard"]) == list(range(10))


@pytest.mark.slow
@conftest.needs_mpirun
class TwoRanksTest:

  def test_classifier_trains_on_two_ranks(
      self, tiny_model, sst2_dir, tmp_path):
    output_dir = tmp_path / "out"
    run = conftest.run_script(
        "run_classifier.py", "--task_name=sst2", "--do_train", "--do_eval",
        f"--data_dir={sst2_dir}", f"--output_dir={output_dir}", "--cpu_only",
        "--train_batch_size=8", "--learning_rate=1e-3", "--random_seed=1",
        "--num_train_epochs=4", "--detailed_results", "--eval_every_steps=32",
        *tiny_model.flags(),
        launcher=[*conftest.MPIRUN, "2"])
    assert run.returncode == 0, run.stdout
    assert "Horovod runs 2 rank(s), 2 on this server: switched" in run.stdout
    assert run.stdout.count("***** Running training *****") == 1
    assert re.search(r"Learning rate 0.002: --learning_rate=0.001 times 2",
                     run.stdout)
    metrics = json.loads((output_dir / "eval_metrics.json").read_text())
    log = json.loads((output_dir / "evaluations.json").read_text())
    assert [x["step"] for x in log["evaluations"]] == [32, 64]
    assert tf.train.latest_checkpoint(str(output_dir)).endswith(
        "model.ckpt-64")  # 256 * 4 / 8 / 2
    assert metrics["global_step"] == log["best_step"]
    rows = [sum(1 for _ in tf.data.TFRecordDataset(
        str(output_dir / f"train.tf_record_{rank}"))) for rank in (0, 1)]
    assert rows == [128, 128]
    assert not (output_dir / "train.tf_record").exists()
    assert run.stdout.count("***** Eval results *****") == 1
