"""What serving costs: a server under load against the model alone.

  python -m tests.benchmarks.serving --export_dir=DIR --data_file=FILE
    [--task_name=MRPC] [--clients=96] [--cycle=128] [--batch=32]

In turn, some rounds long: the rows of a file as batches of --batch in this
process, which is what the machine can do; and as requests of one row by
--clients clients to demo.bert_server, whose answers are all compared with those
of the model alone. Then one client alone, against calls of one row. Prints
rows per second and milliseconds, and their ratios.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app
from absl import flags
import numpy as np

from demo import client_rows
from demo import predictor
from tests import conftest
from tests import served_models
from tests.benchmarks import measure

FLAGS = flags.FLAGS
ONE_CLIENT_REQUESTS = 200


def define_flags():
  flags.DEFINE_string("export_dir", None, "The model.", required=True)
  flags.DEFINE_string("data_file", None, "Rows to send.", required=True)
  flags.DEFINE_string("task_name", None, "Their task, of GLUE.")
  flags.DEFINE_integer("clients", 96, "Clients at the same time.")
  flags.DEFINE_integer("cycle", 128, "Requests of each client, in all rounds.")
  flags.DEFINE_integer("batch", 32, "Rows of a batch.")
  flags.DEFINE_float("max_wait_ms", 2.0, "Of the server.")
  flags.DEFINE_integer("rounds", 4, "Pairs of measurements.")
  flags.DEFINE_bool("rest", False, "REST instead of gRPC.")


def run_client(server, folder, *more):
  """The report of a run of demo.bert_client."""
  report = folder / "report.json"
  run = subprocess.run(
      [sys.executable, "-m", "demo.bert_client", *server.client_flags(),
       f"--rows={folder / 'rows'}", f"--save_accuracy={report}",
       "--no_scores", *(["--rest"] if FLAGS.rest else []), *more],
      cwd=conftest.PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      text=True, check=False)
  if run.returncode:
    sys.exit(run.stdout)
  return json.loads(report.read_text())


def offline(model, encoded, total):
  """Rows per second of batches in the order of the rows.

  Args:
    model: predictor.Predictor.
    encoded: list of predictor.Encoded.
    total: int, rows to run; from the first one again at the end.
  """
  items = [encoded[i % len(encoded)].rows for i in range(total)]
  begin = time.perf_counter()
  for start in range(0, total, FLAGS.batch):
    model.run(items[start:start + FLAGS.batch])
  return total / (time.perf_counter() - begin)


def one_by_one(model, encoded):
  """Milliseconds of each of some calls of one row."""
  found = []
  for i in range(ONE_CLIENT_REQUESTS):
    begin = time.perf_counter()
    model.run([encoded[i % len(encoded)].rows])
    found.append(1e3 * (time.perf_counter() - begin))
  return found


def main(_):
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    rows_flags = [f"--data_file={os.path.abspath(FLAGS.data_file)}"]
    if FLAGS.task_name:
      rows_flags.append(f"--task_name={FLAGS.task_name}")
    server = served_models.Server(
        os.path.abspath(FLAGS.export_dir), f"--batch={FLAGS.batch}",
        f"--max_wait_ms={FLAGS.max_wait_ms}")
    with server:
      subprocess.run(
          [sys.executable, "-m", "demo.bert_client", *server.client_flags(),
           *rows_flags, f"--save_rows={folder / 'rows'}"],
          cwd=conftest.PROJECT, check=True)
      model = predictor.load(FLAGS.export_dir, FLAGS.batch)
      with open(folder / "rows", encoding="utf-8") as reader:
        rows = [json.loads(line) for line in reader][1:]  # After a head.
      encoded = [model.codec.encode(client_rows.item_of(row)) for row in rows]
      per_round = max(1, FLAGS.cycle // FLAGS.rounds)
      total = FLAGS.clients * per_round
      offline(model, encoded, 4 * FLAGS.batch)
      pairs = []
      for _ in range(FLAGS.rounds):
        alone = offline(model, encoded, total)
        report = run_client(
            server, folder, f"--clients={FLAGS.clients}",
            f"--cycle={per_round}", f"--check={FLAGS.export_dir}")
        print(f"alone {alone:.1f} rows/s, served "
              f"{report['rows_per_second']:.1f} rows/s, "
              f"{sum(report['errors'].values())} errors, p99 {report['latency_ms']['p99']:.0f} ms, largest "
              f"difference {report['check']['largest_difference']:.1g}",
              flush=True)
        pairs.append((report["rows_per_second"], alone))
      print(f"served / alone: "
            f"{measure.median_ratio(*zip(*pairs)):.3f}, the median of "
            f"{len(pairs)} pairs; {FLAGS.clients} clients, {total} requests "
            f"each round", flush=True)
      calls, reports = [], []
      for _ in range(FLAGS.rounds):
        calls += one_by_one(model, encoded)
        reports.append(run_client(
            server, folder, "--clients=1",
            f"--cycle={ONE_CLIENT_REQUESTS}")["latency_ms"]["p99"])
      call = float(np.percentile(calls, 99))
      p99 = statistics.median(reports)
      print(f"one client: p99 {p99:.1f} ms; a call alone: p99 {call:.1f} ms; "
            f"ratio to the call and --max_wait_ms: "
            f"{p99 / (call + FLAGS.max_wait_ms):.2f}")
      print("".join(server.stop()[1].splitlines(keepends=True)[-4:]), end="")


if __name__ == "__main__":
  define_flags()
  app.run(main)
