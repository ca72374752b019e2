# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Rows for demo.bert_client: read, tokenized, predicted by the scripts' code.

Imports TensorFlow. The client imports this only where it has to.
"""

import json

from demo import export_helpers
from demo import predictor
from demo import table_helpers
from demo import task_helpers
import run_classifier
import run_squad

# `read` finds a row's texts and what is right in these.
TEXTS, QUESTIONS = ("text_a", "text_b"), ("question", "context")


def read(options):
  """Reads the rows that the flags name.

  Args:
    options: argparse.Namespace of demo.bert_client.

  Returns:
    (task, rows): the canonical name of the task, "custom", "squad" or
    "squad_v2"; and list
    of dict: "text_a", of pairs "text_b", and "label" where one is known; or
    "id", "question", "context", and "answers" (list of string) where they are
    known.

  Raises:
    ValueError: there are none, or they can't be read.
  """
  if options.squad:
    return _questions(options.data_file)
  if options.task_name and task_helpers.canonical(
      options.task_name) != "custom":
    return _of_task(options)
  if options.data_dir:
    raise ValueError(f"--data_dir={options.data_dir} needs --task_name; a file "
                     f"of your own is --data_file.")
  return "custom", _of_table(options)


def _of_task(options):
  """`read` of a GLUE task's folder, or of a file in it."""
  task, processor = run_classifier.find_processor(options.task_name)
  folder, split = options.data_dir, options.split
  if options.data_file:
    files = getattr(processor, "files", {})
    folder, _, name = options.data_file.rpartition("/")
    folder, split = folder or ".", {
        file: split for split, file in files.items()}.get(name)
    if split is None:
      raise ValueError(
          f"--data_file={options.data_file} is none of the files of "
          f"--task_name={options.task_name} ({', '.join(files.values())}). "
          f"For another table leave --task_name out.")
  if not folder:
    raise ValueError(f"--task_name={options.task_name} needs --data_dir or "
                     f"--data_file.")
  read_split = {"train": processor.get_train_examples,
                "dev": processor.get_dev_examples,
                "test": processor.get_test_examples}[split]
  try:
    examples = read_split(folder)
  except NotImplementedError:
    raise ValueError(f"--split={split}: the task {options.task_name} has no "
                     f"such set.") from None
  rows = rows_of(examples, split != "test")
  if not rows:
    raise ValueError(f"{folder}: the {split} set has no row.")
  return task, rows


def rows_of(examples, are_labelled):
  """The rows of a task's examples.

  Args:
    examples: list of run_classifier.InputExample.
    are_labelled: bool, their labels are true ones.

  Returns:
    List of dict, see `read`.
  """
  return [_row(example.text_a, example.text_b,
               example.label if are_labelled else None)
          for example in examples]


def _of_table(options):
  """`read` of a TSV, CSV or JSON Lines file."""
  given = {role: getattr(options, role) for role in (*TEXTS, "label")}
  table = table_helpers.read_table(
      options.data_file, options.has_header,
      [column for column in given.values() if column is not None])
  columns = table_helpers.choose_columns(table, **given)
  places = [None if columns[role] is None else table.find(columns[role])
            for role in (*TEXTS, "label")]
  rows = []
  for index, values in enumerate(table.rows):
    row = _row(*(None if place is None else values[place] for place in places))
    if row["text_a"] is None or (
        places[1] is not None and "text_b" not in row):
      raise ValueError("{}:{}: a text is missing.".format(*table.place(index)))
    rows.append(row)
  return rows


def _row(text_a, text_b, label):
  row = {"text_a": text_a, "text_b": text_b,
         "label": label and label.strip()}
  return {name: value for name, value in row.items()
          if value is not None or name == "text_a"}


def _questions(path):
  """`read` of a SQuAD file."""
  if not path:
    raise ValueError("--squad needs --data_file, a SQuAD JSON file.")
  run_squad.read_squad_examples(path, False, True)  # Checks the file.
  with open(path, encoding="utf-8-sig") as reader:
    articles = json.load(reader)["data"]
  paragraphs = [paragraph for article in articles
                for paragraph in article["paragraphs"]]
  is_v2 = any("is_impossible" in qa for paragraph in paragraphs
              for qa in paragraph["qas"])
  rows = []
  for paragraph in paragraphs:
    for qa in paragraph["qas"]:
      row = {"id": qa["id"], "question": qa["question"],
             "context": paragraph["context"]}
      # In 2.0 there may be none; in 1.1 that is a question to predict.
      if qa.get("answers") or (is_v2 and "answers" in qa):
        row["answers"] = [answer["text"] for answer in qa["answers"]]
      rows.append(row)
  if not rows:
    raise ValueError(f"{path} has no question.")
  return "squad_v2" if is_v2 else "squad", rows


def item_of(row):
  """A row as the predictor takes it (dict)."""
  return {name: row[name] for name in (*TEXTS, *QUESTIONS) if name in row}


class Codec(object):
  """Token ids of rows, and answers from what a model gives for them.

  Attributes:
    info: dict, what the export says of its model.
  """

  def __init__(self, export_dir):
    """Takes the folder of an export (string), or of several."""
    path = export_helpers.find_export(export_dir)
    self.info = export_helpers.read_info(path)
    self._codec = predictor.make_codec(path, self.info)
    if self._codec.has_windows:
      raise ValueError(
          f"--send=ids: the model of {path} pools windows (--doc_stride), "
          f"which the server cuts: leave --send out.")

  def ids(self, rows):
    """The token ids of rows.

    Args:
      rows: list of dict, see `read`.

    Returns:
      List of list of predictor.Row: one for a text, one for each window of a
      question.
    """
    return [self._codec.encode(item_of(row)).rows for row in rows]

  def answer(self, row, outputs):
    """The answer that a model's outputs say.

    Args:
      row: dict, see `read`.
      outputs: dict output name -> values of a row, or list of such, for each
        window.

    Returns:
      Dict, as the predictor's.
    """
    windows = outputs if isinstance(outputs, list) else [outputs]
    return self._codec.answer(self._codec.encode(item_of(row)), {
        name: [window[name] for window in windows] for name in windows[0]})


def predict(export_dir, rows):
  """The answers of a model in this process.

  Args:
    export_dir: string, folder of an export, or of several.
    rows: list of dict, see `read`.

  Returns:
    List of dict, see `predictor.Predictor`.
  """
  return predictor.load(export_dir)([item_of(row) for row in rows])
