"""Ranks against threads: the same cores, the same examples per step.

  python -m tests.benchmarks.scaling [--ranks=2] [--seq_length=128]

Times whole training steps of the classifier (MiniLM size, dropout on, clipping,
Adam) in turn with one rank that has all cores as threads and with several ranks
that share them, each started anew by demo.launch, and prints the medians and
their ratio. Beside it stands what a rank hands to Horovod per step.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app
from absl import flags
import tensorflow as tf

from demo import horovod_helpers
from demo import launch
from tests.benchmarks import measure
from tests.benchmarks import model

FLAGS = flags.FLAGS


def define_flags():
  flags.DEFINE_integer("ranks", 2, "Ranks to compare with one.")
  flags.DEFINE_integer("seq_length", 128, "Tokens per example.")
  flags.DEFINE_integer("batch_size", 32, "Examples per step of all ranks.")
  flags.DEFINE_integer("rounds", 3, "Pairs of runs.")
  flags.DEFINE_integer("steps", 8, "Steps of a run that are timed.")
  flags.DEFINE_bool("fp16_allreduce", False, "Send gradients as float16.")
  flags.DEFINE_string("result", None, "Set by the program for its ranks.")


def bytes_of_gradients(graph):
  """What a rank hands to Horovod in a step: variable -> bytes."""
  # Horovod puts each exchange into a function of its own.
  types = {node.attr["T"].type
           for function in graph.as_graph_def().library.function
           for node in function.node_def if node.op == "HorovodAllreduce"}
  size = max((tf.dtypes.as_dtype(x).size for x in types), default=0)
  trained = {var.op.name for var in tf.compat.v1.global_variables()}
  return {var.op.name: size * var.shape.num_elements()
          for var in tf.compat.v1.trainable_variables()
          if f"{var.op.name}/adam_m" in trained}


def run_rank():
  """Trains as one rank and writes what it measured."""
  horovod_helpers.start_ranks(False, cpu_only=True,
                              fp16_allreduce=FLAGS.fp16_allreduce)
  batch = FLAGS.batch_size // horovod_helpers.hvd_size()
  config = model.config_of_size(model.SIZES["MiniLM"])
  with tf.Graph().as_default() as graph:
    train_op = model.train_op(config, batch, FLAGS.seq_length,
                              seed=horovod_helpers.hvd_rank())
    with tf.compat.v1.train.MonitoredTrainingSession(
        hooks=horovod_helpers.broadcast_hooks(),
        config=horovod_helpers.session_config()) as session:
      for _ in range(3):
        session.run(train_op)
      start, cpu = time.perf_counter(), time.process_time()
      for _ in range(FLAGS.steps):
        session.run(train_op)
      seconds = time.perf_counter() - start
      cpu = time.process_time() - cpu
    if horovod_helpers.is_chief():
      sent = bytes_of_gradients(graph)
      pathlib.Path(FLAGS.result).write_text(json.dumps({
          "examples_per_second": FLAGS.steps * FLAGS.batch_size / seconds,
          "cpu_seconds_per_step_and_rank": cpu / FLAGS.steps,
          "bytes_per_step": sum(sent.values()),
          "bytes_of_the_word_table": sent[
              "bert/embeddings/word_embeddings"],
          "bytes_of_its_rows_unmerged": batch * FLAGS.seq_length * (
              config.hidden_size * 4 + 8),
          "bytes_of_trainable_variables": sum(
              4 * var.shape.num_elements()
              for var in tf.compat.v1.trainable_variables())}))


def run_ranks(ranks, threads):
  """One run by demo.launch; returns what rank 0 has measured."""
  with tempfile.TemporaryDirectory() as folder:
    result = os.path.join(folder, "result.json")
    subprocess.run(
        [sys.executable, "-m", "demo.launch", "-np", str(ranks), "--threads",
         str(threads), f"--log_dir={folder}", "--", __file__,
         f"--result={result}", f"--batch_size={FLAGS.batch_size}",
         f"--seq_length={FLAGS.seq_length}", f"--steps={FLAGS.steps}",
         f"--fp16_allreduce={FLAGS.fp16_allreduce}"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.getcwd()})
    return json.loads(pathlib.Path(result).read_text())


def main(_):
  if FLAGS.result:
    run_rank()
    return
  threads = launch.num_cores() // FLAGS.ranks
  alone, together = [], []
  for _ in range(FLAGS.rounds):
    alone.append(run_ranks(1, threads * FLAGS.ranks))
    together.append(run_ranks(FLAGS.ranks, threads))
  print(json.dumps({
      "one_rank": [round(x["examples_per_second"], 2) for x in alone],
      f"{FLAGS.ranks}_ranks": [
          round(x["examples_per_second"], 2) for x in together],
      # Per round, since the machine's speed may drift.
      "ratio": round(measure.median_ratio(
          *([run["examples_per_second"] for run in runs]
            for runs in (together, alone))), 3),
      **{name: value for name, value in together[0].items()
         if name.startswith("bytes")}}, indent=2))


if __name__ == "__main__":
  define_flags()
  app.run(main)
