# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What a classifier predicts, joined to its rows and as gluebenchmark.com takes
it.
"""

import os

from absl import logging
import numpy as np

from demo import finetuning_helpers
from demo import script_helpers
from demo import table_helpers

# Task -> GLUE's name for the file of its test set.
_SUBMISSIONS = {
    "cola": "CoLA.tsv", "sst2": "SST-2.tsv", "mrpc": "MRPC.tsv",
    "stsb": "STS-B.tsv", "qqp": "QQP.tsv", "mnli": "MNLI-m.tsv",
    "mnli_mismatched": "MNLI-mm.tsv", "qnli": "QNLI.tsv", "rte": "RTE.tsv",
    "wnli": "WNLI.tsv", "ax": "AX.tsv", "custom": "submission.tsv"}


def check_flags(args, task):
  """Refuses a --write_submission that can't be.

  Args:
    args: the parsed flags.
    task: string, its canonical name.

  Raises:
    ValueError: nothing is predicted, or GLUE has no such task.
  """
  if args.write_submission:
    if not args.do_predict:
      raise ValueError("--write_submission writes predictions: pass "
                       "--do_predict too.")
    if task not in _SUBMISSIONS:
      raise ValueError(f"--write_submission: GLUE has no task "
                       f"{args.task_name}.")


def write_submission(args, task_set, rows, label_list):
  """Writes the file that gluebenchmark.com takes: row number, prediction.

  Args:
    args: the parsed flags.
    task_set: string, canonical name of the task, with "_mismatched" after it
      for this set of MNLI.
    rows: list of float [L], the probabilities of each row; for a regression
      task [1], the value.
    label_list: list of label names, empty for a regression task.
  """
  if label_list:
    values = [_named(label_list, row) for row in rows]
  elif task_set == "stsb":
    values = [f"{np.clip(row[0], 0, 5):.3f}" for row in rows]
  else:
    values = [str(row[0]) for row in rows]
  path = os.path.join(args.output_dir, _SUBMISSIONS[task_set])
  script_helpers.write_text(path, "index\tprediction\n" + "".join(
      f"{index}\t{value}\n" for index, value in enumerate(values)))
  logging.info("Submission: %s", path)


def _named(label_list, probabilities):
  """Name of the likeliest label."""
  return table_helpers.one_line(label_list[int(np.argmax(probabilities))])


def write_predictions(args, suffix, examples, rows, label_list):
  """predictions.tsv: row number, id, label, a probability per label, texts.

  Args:
    args: the parsed flags.
    suffix: string, of the name of the file: "" or "_mismatched".
    examples: list of `run_classifier.InputExample`, or a RecordSet, which has
      no texts.
    rows: see `write_submission`, as the list of labels.
    label_list: list of string.
  """
  if label_list:
    header = ["label"] + [table_helpers.one_line(f"probability_{name}")
                          for name in label_list]
    values = [[_named(label_list, row)] + [str(p) for p in row]
              for row in rows]
  else:
    header = ["value"]
    values = [[str(row[0])] for row in rows]
  if finetuning_helpers.is_record_set(examples):
    ids, texts = map(str, examples.ids), [[] for _ in examples.ids]
  else:
    header += ["text_a", "text_b"]
    ids = [example.guid for example in examples]
    texts = [[table_helpers.one_line(text or "")
              for text in (example.text_a, example.text_b)]
             for example in examples]
  lines = [["index", "id"] + header]
  lines += [[str(index), guid, *row, *text] for index, (guid, row, text)
            in enumerate(zip(ids, values, texts))]
  path = os.path.join(args.output_dir, f"predictions{suffix}.tsv")
  script_helpers.write_text(
      path, "".join("\t".join(line) + "\n" for line in lines))
  logging.info("Predictions with labels: %s", path)
