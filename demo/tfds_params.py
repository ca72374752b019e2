# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""--tfds_params: a task whose text is in TensorFlow Datasets, in one flag.

  --tfds_params="dataset=glue/mrpc,text_key=sentence1,text_b_key=sentence2"
  --tfds_params="{dataset: snli, text_key: premise, text_b_key: hypothesis,
                  skip_label: -1}"

The names are Model Garden's. Its records of such data have the numbers of the
data set's own classes, and so have these: the label is a number from 0, in the
order of the data set, not the name that GLUE's files have.
"""

import collections
import difflib
import math

from absl import logging
import yaml

from demo import tfds_helpers
import run_classifier
import tokenization

# Name -> what holds where it is not given.
_DEFAULTS = collections.OrderedDict(
    dataset="", data_dir="", module_import="", train_split="train",
    dev_split="validation", test_split="test", text_key="text", text_b_key="",
    test_text_key="", label_key="label", test_label="", label_type="int",
    weight_key="", is_regression="false", skip_label="")
_BOOLS = {"true": True, "yes": True, "1": True,
          "false": False, "no": False, "0": False}
_SPLITS = {"train": "train_split", "dev": "dev_split", "test": "test_split"}


class TfdsParams(collections.namedtuple("TfdsParams", _DEFAULTS)):
  """What the flag says; all are strings, empty where there is nothing.

  Attributes:
    dataset: "glue/sst2", "imdb_reviews:1.0.0".
    data_dir: folder of data sets; empty for the library's own.
    module_import: where Model Garden finds the code that makes the data set.
    train_split: part of it; a slice, such as "train[:90%]", will do.
    dev_split: likewise.
    test_split: likewise.
    text_key: column of the text.
    text_b_key: that of a pair's second text.
    test_text_key: that of the text in the test split, if it is another.
    label_key: that of the label.
    test_label: label of all rows of the test split.
    label_type: "int" or "float".
    weight_key: column of what a row counts.
    is_regression: bool.
    skip_label: label whose rows are left out of the other splits.
  """

  __slots__ = ()


def parse(text):
  """Reads the flag.

  Args:
    text: string, `name=value` with commas between, or a YAML mapping.

  Returns:
    TfdsParams.

  Raises:
    ValueError: it is neither, or a name or value is wrong; names the nearest
      right one.
  """
  given = {}
  for name, value in _pairs(text):
    if name not in _DEFAULTS:
      near = difflib.get_close_matches(name, _DEFAULTS, 1, 0.0)[0]
      raise ValueError(f"--tfds_params: no parameter {name!r}; did you mean "
                       f"{near}? There are {', '.join(_DEFAULTS)}.")
    if name in given:
      raise ValueError(f"--tfds_params: {name} is given twice.")
    given[name] = value
  params = TfdsParams(**{**_DEFAULTS, **given})
  if not params.dataset:
    raise ValueError("--tfds_params has to name the data set: "
                     "dataset=glue/sst2, for one.")
  if params.label_type not in ("int", "float"):
    raise ValueError(f"--tfds_params: label_type={params.label_type} has to be "
                     f"int or float.")
  is_regression = _BOOLS.get(params.is_regression.lower())
  if is_regression is None:
    raise ValueError(f"--tfds_params: is_regression={params.is_regression} has "
                     f"to be true or false.")
  if params.label_type == "float" and not is_regression:
    raise ValueError("--tfds_params: label_type=float is for numbers that are "
                     "to be met: add is_regression=true, or leave it out.")
  if params.module_import:
    logging.warning("--tfds_params: module_import=%s is not used, a prepared "
                    "data set is read without the code that made it.",
                    params.module_import)
  return params._replace(is_regression=is_regression)


def _pairs(text):
  """(name, value) of each parameter, strings."""
  try:
    content = yaml.safe_load(text)
  except yaml.YAMLError:
    content = None
  if isinstance(content, dict):
    for name, value in content.items():
      if isinstance(value, (dict, list)):
        raise ValueError(f"--tfds_params: {name} has to be a single value.")
      yield str(name), "" if value is None else str(value)
    return
  for part in text.split(","):
    name, separator, value = part.partition("=")
    if not separator:
      raise ValueError(
          f"--tfds_params: {part!r} is no name=value. Such pairs are expected, "
          f"with commas between, or a YAML mapping in braces.")
    yield name.strip(), value.strip()


class TfdsExample(run_classifier.InputExample):
  """A row of a data set.

  Attributes:
    number: int, that of the row in its split.
    weight: float or None, what it counts.
  """

  number = weight = None


class TfdsParamsProcessor(run_classifier.DataProcessor):
  """The task of --tfds_params.

  Attributes:
    params: TfdsParams.
  """

  def __init__(self, text):
    """Finds the data set.

    Args:
      text: string, the flag.

    Raises:
      ValueError: it is not on this machine, or not as the flag says.
    """
    self.params = parse(text)
    self.is_regression = self.params.is_regression
    self._called = f"--tfds_params: dataset={self.params.dataset}"
    self._dataset = tfds_helpers.PreparedDataset(
        self.params.dataset, self.params.data_dir or None, self._called,
        "data_dir")
    self._check_columns()
    self._classes = self._dataset.class_names(self.params.label_key)
    if self._classes is None and not self.is_regression:
      raise ValueError(
          f"--tfds_params: label_key={self.params.label_key} has no classes in "
          f"{self.params.dataset}. If it holds numbers to be met, add "
          f"is_regression=true.")
    if self.params.test_label:
      self._check_test_label()

  def get_train_examples(self, data_dir):
    """See base class; `data_dir` is not used."""
    return self._examples("train")

  def get_dev_examples(self, data_dir):
    """See base class; `data_dir` is not used."""
    return self._examples("dev")

  def get_test_examples(self, data_dir):
    """See base class; `data_dir` is not used."""
    return self._examples("test")

  def get_labels(self):
    """See base class."""
    return [] if self.is_regression else [
        str(number) for number in range(len(self._classes))]

  def _check_columns(self):
    """Refuses columns that the data set doesn't have, or not as such."""
    columns = self._dataset.columns()
    for name in ("text_key", "text_b_key", "test_text_key", "label_key",
                 "weight_key"):
      column = getattr(self.params, name)
      if not column:
        continue
      if column not in columns:
        raise ValueError(
            f"--tfds_params: {name}={column}: {self.params.dataset} has no "
            f"such column; it has {', '.join(sorted(columns))}.")
      is_text = self._dataset.is_text(column)
      if is_text != ("text" in name):
        raise ValueError(
            f"--tfds_params: {name}={column}: the column holds "
            f"{'text' if is_text else 'numbers'}, not "
            f"{'numbers' if is_text else 'text'}.")
    if self.is_regression and self.params.label_type == "int" and (
        self._dataset.is_fraction(self.params.label_key)):
      raise ValueError(
          f"--tfds_params: label_key={self.params.label_key} holds fractions, "
          f"which label_type=int would cut: pass label_type=float.")

  def _check_test_label(self):
    """Refuses a test_label that is none."""
    label = self.params.test_label
    if self.is_regression:
      try:
        is_right = math.isfinite(float(label)) and (
            self.params.label_type == "float" or float(label) % 1 == 0)
      except ValueError:
        is_right = False
      expected = "a number" if self.params.label_type == "float" else (
          "a whole number")
    else:
      is_right = self._number(label) is not None
      expected = (f"one of {', '.join(self._classes)} or a number up to "
                  f"{len(self._classes) - 1}")
    if not is_right:
      raise ValueError(f"--tfds_params: test_label={label} has to be "
                       f"{expected}.")

  def _number(self, label):
    """Number (in words) of a class by its name or number; None for neither."""
    if label in self._classes:
      return str(self._classes.index(label))
    return label if label in self.get_labels() else None

  def _examples(self, name):
    """The examples of a set ("train", "dev" or "test")."""
    params, is_test = self.params, name == "test"
    split = getattr(params, _SPLITS[name])
    if not split:
      raise ValueError(f"--tfds_params: {_SPLITS[name]} is empty, and records "
                       f"of that split are wanted.")
    if not self._dataset.has_split(split):
      raise ValueError(
          f"--tfds_params: {_SPLITS[name]}={split}: {params.dataset} has no "
          f"such split; it has {', '.join(self._dataset.splits)}.")
    table = self._dataset.table(split)
    text_key = is_test and params.test_text_key or params.text_key
    examples = []
    for index, row in enumerate(table.rows):
      row = dict(zip(table.names, row))
      path, number = table.place(index)
      label = (self._test_label() if is_test else
               self._label(row[params.label_key], path, number))
      if label is None:
        continue
      example = TfdsExample(
          f"{name}-{number}", tokenization.convert_to_unicode(row[text_key]),
          tokenization.convert_to_unicode(row[params.text_b_key])
          if params.text_b_key else None, label, (path, number))
      example.number = number
      if params.weight_key:
        example.weight = _weight(row[params.weight_key], path, number)
      examples.append(example)
    if not examples:
      raise ValueError(f"--tfds_params: skip_label={params.skip_label} leaves "
                       f"no row of {path}.")
    if len(examples) < len(table.rows):
      logging.info("%s: %d of %d rows are left out, by skip_label=%s.", path,
                   len(table.rows) - len(examples), len(table.rows),
                   params.skip_label)
    return examples

  def _test_label(self):
    """Label of each row of the test split."""
    label = self.params.test_label or "0"
    return label if self.is_regression else self._number(label)

  def _label(self, value, path, number):
    """Label of a row; None where the row is to be left out.

    Args:
      value: string or None, what `tfds_helpers` gives: a class is its name.
      path: string.
      number: int; path and number name the row.
    """
    skipped, name = self.params.skip_label, value
    if self._classes is not None:
      # TFDS has -1 where the class isn't known.
      value = "-1" if value is None else str(self._classes.index(value))
    if skipped and skipped in (value, name):
      return None
    if value == "-1" and self._classes is not None:
      raise ValueError(f"{path}:{number}: the label is -1, no class. "
                       f"skip_label=-1 leaves such rows out.")
    return value


def _weight(value, path, number):
  """What a row counts."""
  weight = float(value)
  if not 0.0 <= weight < math.inf:
    raise ValueError(f"{path}:{number}: the weight is {value}; it has to be a "
                     f"number, 0 or more.")
  return weight
