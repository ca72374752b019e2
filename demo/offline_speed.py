# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""How fast exported models are without a server, on the same rows in turn.

  python -m demo.bert_client --task_name=MRPC --data_dir=glue/MRPC \
    --save_rows=/tmp/mrpc.rows
  python -m demo.offline_speed --rows=/tmp/mrpc.rows --batch=32 \
    --dir=export=/tmp/mrpc/export,compiled=/tmp/mrpc_bf16

Rows are computed in batches, in the order of the file, each padded to the
longest of its batch; tokens are ready before the clock starts. All models get a
batch before the next one is taken, so that they see the same machine. The
answers of the first model are what those of the others are compared with.
"""

import functools
import json
import os
import time

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags

from demo import answer_scores
from demo import bert_client
from demo import client_rows
from demo import compile_check
from demo import latency_helpers
from demo import predictor
from demo import script_helpers
from demo import serving_models

FLAGS = flags.FLAGS


def init_offline_flags():
  """Defines the tool's flags."""
  flags.DEFINE_list(
      "dir", None,
      "Models, with commas between them: NAME=FOLDER, as for demo.bert_server.")
  flags.DEFINE_string(
      "rows", None, "Rows to predict, written by demo.bert_client --save_rows.")
  flags.DEFINE_integer(
      "batch", 32, "Rows that are computed together.", lower_bound=1)
  flags.DEFINE_float(
      "seconds", 10.0, "Time that each model is measured, after all rows were "
      "predicted once.", lower_bound=0.0)
  flags.DEFINE_string("report", None, "Write the figures as JSON.")


def main(_):
  """Measures, as the flags say."""
  for flag in ("rows", "report"):
    _check_file(flag, getattr(FLAGS, flag))
  models = {name: predictor.load(folder, FLAGS.batch) for name, folder in
            serving_models.parse_folders(FLAGS.dir).items()}
  rows = bert_client.Rows.load(FLAGS.rows)
  report = measure(models, [client_rows.item_of(row) for row in rows.items],
                   FLAGS.batch, FLAGS.seconds)
  for line in lines(report):
    print(line)
  if FLAGS.report:
    script_helpers.write_text(
        FLAGS.report, json.dumps(report, indent=2) + "\n")


def _check_file(flag, path):
  """Refuses rows that aren't there, and a report that can't be written."""
  if flag == "rows" and not os.path.isfile(path):
    raise ValueError(f"--rows={path} is no file. python -m demo.bert_client "
                     f"--save_rows writes one.")
  if flag == "report" and path:
    script_helpers.check_output_dir(os.path.dirname(path) or ".", flag)


def measure(models, items, batch_size, seconds):
  """Predicts all items with each model, then takes the time.

  Args:
    models: dict name -> predictor.Predictor.
    items: list, see `predictor.Predictor`.
    batch_size: int, items that are computed together; the last batch is filled
      up with the first items.
    seconds: float, how long each model is measured, on average.

  Returns:
    Dict for the report.
  """
  batches = [[(start + number) % len(items) for number in range(batch_size)]
             for start in range(0, len(items), batch_size)]
  encoded = {name: [model.codec.encode(item) for item in items]
             for name, model in models.items()}
  answers = {name: {} for name in models}
  for batch in batches:  # Prepares each model for each shape, too.
    for name, model in models.items():
      chosen = [encoded[name][number] for number in batch]
      outputs = model.run([item.rows for item in chosen])
      for number, item, output in zip(batch, chosen, outputs):
        answers[name][number] = model.codec.answer(item, output)
  taken = _take_time(models, encoded, batches, seconds)
  first = next(iter(models))
  return {
      "rows": len(items), "batch": batch_size,
      "models": {
          name: {
              "path": model.path, "batches_measured": len(taken[name]),
              "rows_per_second":
                  batch_size * len(taken[name]) / sum(taken[name]),
              **compare(answers[first], answers[name])}
          for name, model in models.items()},
      "compared_with": first, "processor": compile_check.processor()}


def _take_time(models, encoded, batches, seconds):
  """The seconds (dict name -> list of float) of batches in turn."""
  taken = {name: [] for name in models}
  until, count = time.monotonic() + seconds * len(models), 0
  while not count or time.monotonic() < until:
    batch = batches[count % len(batches)]
    turn = latency_helpers.time_in_turn({
        name: functools.partial(model.run, [
            encoded[name][number].rows for number in batch])
        for name, model in models.items()}, count)
    for name, spent in turn.items():
      taken[name].append(spent)
    count += 1
  return taken


def compare(expected, found):
  """How far a model's answers are from another one's.

  Args:
    expected: dict number -> dict, see `predictor.TextCodec.answer` and
      `predictor.QuestionCodec.answer`.
    found: the same of the other model.

  Returns:
    Dict with "label_agreement", the part of the labels (or answers) that are
    the same, None for numbers; and "largest_difference" of two probabilities
    (or numbers), of questions where the answer is the same.
  """
  agreed, largest = [], 0.0
  for number, one in expected.items():
    is_same, differences = answer_scores.differences(one, found[number])
    if is_same is not None:
      agreed.append(is_same)
    # NaN is no difference that max() would see.
    largest = max([largest, *(x if x == x else float("inf")
                              for x in differences)])
  return {"label_agreement": sum(agreed) / len(agreed) if agreed else None,
          "largest_difference": largest if largest < float("inf") else None}


def lines(report):
  """The report as lines to print."""
  yield f"{report['rows']} rows, in batches of {report['batch']}"
  width = max(map(len, report["models"]))
  for name, model in report["models"].items():
    line = f"{name:{width}}  {model['rows_per_second']:.1f} rows/s"
    if name != report["compared_with"]:
      difference = model["largest_difference"]
      line += (f", largest difference to {report['compared_with']} " + (
          "infinite" if difference is None else f"{difference:.2g}"))
      if model["label_agreement"] is not None:
        line += f", same answers {100 * model['label_agreement']:.2f} %"
    yield line


if __name__ == "__main__":
  init_offline_flags()
  script_helpers.run(main, ["dir", "rows"], script_helpers.NOTHING_FINISHED)
