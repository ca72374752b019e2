# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Tasks of data that upstream has no processor for: own files, and data sets of
TensorFlow Datasets. Their columns and labels are found or told by flags.
"""

import os

from absl import logging

from demo import label_helpers
from demo import table_helpers
from demo import tfds_helpers

# Classes of GLUE's data sets in TFDS that GLUE's own files write as digits.
_GLUE_DIGITS = {
    "unacceptable": "0", "acceptable": "1", "negative": "0", "positive": "1",
    "not_equivalent": "0", "equivalent": "1", "not_duplicate": "0",
    "duplicate": "1", "not_entailment": "0", "entailment": "1"}


class CustomProcessor(object):
  """A task of someone's own files.

  Its methods are those of `run_classifier.DataProcessor`.

  Attributes:
    is_regression: bool, whether labels are numbers instead of classes.
    columns: dict, which columns hold texts and label, see
      `table_helpers.choose_columns`; None before a set was read.
  """

  def __init__(self, args, make_example, label_map=None):
    """Takes the flags.

    Args:
      args: the parsed flags (train_file, dev_file, test_file and those of the
        columns and labels).
      make_example: function of id, two texts (the second one may be None),
        label and place (file, line) that returns an example with these as
        `guid`, `text_a`, `text_b`, `label` and `source`.
      label_map: dict, that of the model that goes on or is evaluated, see
        `label_helpers.read_label_map`.

    Raises:
      ValueError: flags contradict each other or the label map.
    """
    self.columns = None
    self._args, self._make_example = args, make_example
    self._files = {"train": args.train_file, "dev": args.dev_file,
                   "test": args.test_file}
    self.is_regression = args.regression
    self._labels = args.labels
    if args.labels is not None:
      label_helpers.check_label_list(args)
    self._given = {"text_a": args.text_a, "text_b": args.text_b,
                   "label": args.label}
    if label_map is not None:
      self._take(label_map)

  def _take(self, label_map):
    """Goes by what the model was trained with, where no flag says it."""
    args = self._args
    where = os.path.join(args.output_dir, label_helpers.LABEL_MAP)
    is_regression = label_map["kind"] == "regression"
    if args.regression and not is_regression:
      raise ValueError(f"--regression: {where} says that the model was trained "
                       f"to classify.")
    if args.labels is not None and args.labels != label_map["labels"]:
      raise ValueError(
          f"--labels={','.join(args.labels)}: the model was trained with "
          f"{','.join(label_map['labels']) or 'numbers'}, says {where}. Leave "
          f"--labels out.")
    self.is_regression = is_regression
    self._labels = label_map["labels"]
    columns = label_map["columns"]
    if args.text_a is None and args.text_b is None:
      self._given.update(text_a=columns["text_a"], text_b=columns["text_b"])
    if args.label is None:
      self._given.update(label=columns["label"])
    logging.info("Labels: %s (%s).",
                 ", ".join(self._labels) or "numbers", where)

  def get_train_examples(self, data_dir):
    """Returns the training examples; `data_dir` is not used."""
    examples = self._examples("train")
    if not self.is_regression and self._labels is None:
      self._labels = label_helpers.found_labels(examples)
    return examples

  def get_dev_examples(self, data_dir):
    """Returns the dev examples; `data_dir` is not used."""
    return self._examples("dev")

  def get_test_examples(self, data_dir):
    """Returns the test examples; `data_dir` is not used."""
    return self._examples("test")

  def get_labels(self):
    """Returns the label names; for a regression task there are none."""
    if self._labels is None and not self.is_regression:
      if not self._has_train():
        raise ValueError(
            f"Which labels are there? --output_dir={self._args.output_dir} has "
            f"no {label_helpers.LABEL_MAP}: pass --labels, or the "
            f"--train_file.")
      self.get_train_examples(None)
    return list(self._labels or [])

  def _has_train(self):
    return self._files["train"] is not None

  def _read(self, name):
    """Reads the Table of a set ("train", "dev" or "test")."""
    path = self._files[name]
    if path is None:
      raise ValueError(self._lacks(name))
    if name != "train":
      self.get_labels()  # The training set tells the columns, if it is read.
    return table_helpers.read_table(
        path, self._args.has_header,
        [column for column in self._given.values() if column is not None])

  def _lacks(self, split):
    flag = {"train": "do_train", "dev": "do_eval", "test": "do_predict"}[split]
    return f"--{flag} needs --{split}_file, the {split} set."

  def _examples(self, name):
    """Makes the examples of a set."""
    return self._examples_of(self._read(name), name)

  def _examples_of(self, table, name):
    """Makes the examples of a table; `name` is the set it is used as."""
    given, is_test = dict(self._given), name == "test"
    if given["label"] is not None and table.find(given["label"]) is None:
      if not is_test:
        table_helpers.column_place(
            table, given["label"], "the labels; only a test set needs none")
      given["label"] = None
    columns = table_helpers.choose_columns(table, **given)
    if columns["label"] is None and not is_test:
      raise ValueError(
          f"{table.path}: which column is the label? There are "
          f"{table.columns()}: say it with --label. Only a test set needs "
          f"none.")
    table_helpers.log_columns(table, columns)
    self._notice(table, columns)
    if self.columns is None:
      self.columns = self._given = columns
    unknown = [*self.get_labels(), "0"][0] if is_test else None
    places = {role: None if column is None else table.find(column)
              for role, column in columns.items()}
    examples = []
    for index in range(len(table.rows)):
      text_a, text_b = (
          self._value(table, index, places[role], columns[role])
          for role in ("text_a", "text_b"))
      label = unknown if is_test else self._label(self._value(
          table, index, places["label"], columns["label"]))
      source = table.place(index)
      if not (label or is_test):  # Blank is no class of its own.
        raise ValueError("{}:{}: no label in column {!r}; every row needs "
                         "one.".format(*source, columns["label"]))
      examples.append(
          self._make_example(
              f"{name}-{source[1]}", text_a, text_b, label, source))
    empty = [example for example in examples if not example.text_a.strip()]
    if empty:
      logging.warning("%s: %d of %d rows have no text; the first one is %s.",
                      table.path, len(empty), len(examples),
                      "{}:{}".format(*empty[0].source))
    if not is_test and self._labels is None and not self.is_regression:
      self._check_first(table, [example.label for example in examples])
    return examples

  def _notice(self, table, columns):
    """For classes that know more of the label than its column."""

  def _label(self, value):
    """Name of a label from what stands in the table."""
    return value.strip()

  def _value(self, table, index, place, column):
    """A value of a row; None where there is no such column."""
    if place is None:
      return None
    value = table.rows[index][place]
    if value is None:
      raise ValueError("{}:{}: no value in column {!r}.".format(
          *table.place(index), column))
    return value

  def _check_first(self, table, labels):
    """Refuses a first row that may as well be a header."""
    if (self._args.has_header == "auto" and table.names is None and
        labels.count(labels[0]) == 1 and len(labels) > 1):
      raise ValueError(
          "{}:{}: is this a row or a header? No other row has the label "
          "{!r}. Say it with --has_header=no or --has_header=yes.".format(
              *table.place(0), labels[0]))

  def label_map(self):
    """What has to be known of a model besides its checkpoint (dict).

    See `label_helpers.read_label_map`.
    """
    return {"kind": "regression" if self.is_regression else "classification",
            "labels": self.get_labels(), "columns": self.columns}


class TfdsProcessor(CustomProcessor):
  """A task whose data are in TensorFlow Datasets."""

  # Where the sets are; the first counts that is there.
  _splits = {"train": ("train",), "dev": ("validation", "validation_matched"),
             "test": ("test", "test_matched")}
  _mismatched = {"dev": "validation_mismatched", "test": "test_mismatched"}

  def __init__(self, args, make_example, label_map=None, glue=None):
    """Finds the data set.

    Args:
      args: the parsed flags.
      make_example: see `CustomProcessor`, as the label map.
      label_map: dict.
      glue: processor of the task where it is one of GLUE's, else None.

    Raises:
      ValueError: the data set isn't there, or see `CustomProcessor`.
    """
    super().__init__(args, make_example, label_map)
    self._dataset = tfds_helpers.PreparedDataset(args.use_tfds, args.tfds_dir)
    self._glue = glue
    if glue is None:
      return
    self.is_regression = glue.is_regression
    self._labels = glue.get_labels()
    self._given = dict.fromkeys(self._given)  # TFDS says how they are called.

  def mismatched_examples(self, name):
    """MNLI: the examples of a mismatched set; None if there is none.

    Args:
      name: string, "dev" or "test".
    """
    split = self._mismatched[name]
    if split not in self._dataset.splits:
      return None
    return self._examples_of(self._dataset.table(split), name)

  def _has_train(self):
    return "train" in self._dataset.splits

  def _read(self, name):
    for split in self._splits[name]:
      if split in self._dataset.splits:
        return self._dataset.table(split)
    if name == "dev" and "test" in self._dataset.splits and not self._glue:
      logging.warning("%s has no validation split: the test split is "
                      "evaluated. Choose no model by its scores.",
                      self._dataset.name)
      return self._dataset.table("test")
    raise ValueError(
        f"--use_tfds={self._dataset.name} has no split "
        f"{self._splits[name][0]}; it has {', '.join(self._dataset.splits)}.")

  def _notice(self, table, columns):
    """Takes the classes from the data set."""
    label = columns["label"]
    if self._labels is None and label is not None:
      self._labels = self._dataset.class_names(label)
      if self._labels is None and self._dataset.is_fraction(label):
        self.is_regression = True

  def _label(self, value):
    """Name of a class, for a task of GLUE that which its own files have."""
    if self._glue and value not in self._labels:
      return _GLUE_DIGITS.get(value, value)
    return value
