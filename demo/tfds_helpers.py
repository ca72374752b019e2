# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Data sets of TensorFlow Datasets that are prepared on a disk.

Nothing is downloaded and nothing runs on a device: ranks would each take a
whole GPU for reading.
"""

import itertools
import os

import numpy as np
import tensorflow as tf

from demo import table_helpers

# GLUE's rows are numbered, since TFDS shuffles them.
_ROW_NUMBER = "idx"


class PreparedDataset(object):
  """A data set of TensorFlow Datasets.

  Attributes:
    name: string, as it is asked for: "glue/sst2", "imdb_reviews:1.0.0".
    splits: list of names.
  """

  def __init__(self, name, data_dir=None, called=None,
               folder_called="--tfds_dir"):
    """Finds it.

    Args:
      name: string.
      data_dir: string, folder of data sets; None takes the library's own.
      called: string, how the user named it, for messages; None is --use_tfds.
      folder_called: string, what the user calls the folder.

    Raises:
      ValueError: it is not there, or the library isn't.
    """
    self.name, self._called = name, called or f"--use_tfds={name}"
    try:
      import tensorflow_datasets as tfds
      from tensorflow_datasets.core import read_only_builder
    except ImportError as error:
      raise ValueError(
          f"{self._called} needs tensorflow-datasets, see requirements.txt "
          f"({error}).") from None
    data_dir = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
    try:
      builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except ValueError:  # It isn't there, or this is no name.
      raise ValueError(
          f"{self._called} is not prepared in {folder_called}={data_dir}. "
          f"Where there is a network, this prepares it: "
          f"tfds build {name} --data_dir={data_dir}") from None
    self._info, self._tfds = builder.info, tfds
    self._features = dict(builder.info.features.items())
    if self._info.file_format.value != "tfrecord":
      raise ValueError(
          f"{self._called}: the files in {self._info.data_dir} are "
          f"{self._info.file_format.value}, only tfrecord can be read.")
    self.splits = sorted(self._info.splits)

  def columns(self):
    """Names of the columns that hold one value (list)."""
    return [name for name, feature in self._features.items()
            if feature.shape == ()]

  def has_split(self, split):
    """Whether there is a split of this name, or the one that it is a slice of.

    Args:
      split: string, "train" or "train[:90%]", for example.
    """
    try:
      return bool(self._info.splits[split].file_instructions)
    except (KeyError, ValueError):  # No such one, or no slice.
      return False

  def class_names(self, column):
    """Names of the classes of a column (list); None if it has no classes."""
    feature = self._features.get(column)
    is_class = isinstance(feature, self._tfds.features.ClassLabel)
    return list(feature.names) if is_class else None

  def is_fraction(self, column):
    """Whether a column holds floats."""
    return column in self._features and np.issubdtype(
        self._features[column].np_dtype, np.floating)

  def is_text(self, column):
    """Whether a column holds text."""
    return self._features[column].tf_dtype == tf.string

  def table(self, split):
    """Reads a split.

    Args:
      split: string, one of `splits`, or a slice that `has_split`.

    Returns:
      table_helpers.Table of the columns that hold one value. A class is its
      name, None for -1, which says that it isn't known. Rows with a number of
      their own ("idx") stand in its order and have it as their line; others
      are counted from 0.

    Raises:
      ValueError: the split is empty.
    """
    features = self._features
    names = self.columns()
    classes = {name: self.class_names(name) for name in names}
    is_numbered = _ROW_NUMBER in names and np.issubdtype(
        features[_ROW_NUMBER].np_dtype, np.integer)
    rows, numbers = [], []
    for part in self._info.splits[split].file_instructions:
      end = None if part.take < 0 else part.skip + part.take
      for record in itertools.islice(
          tf.compat.v1.io.tf_record_iterator(str(part.filename)), part.skip,
          end):
        values = self._info.features.deserialize_example_np(record)
        numbers.append(int(values[_ROW_NUMBER]) if is_numbered else len(rows))
        rows.append([_as_text(values[name], features[name].np_dtype,
                              classes[name]) for name in names])
    if not rows:
      raise ValueError(f"{self._called}: {split} holds no row.")
    order = sorted(range(len(rows)), key=numbers.__getitem__)
    return table_helpers.Table(
        f"{self.name} {split}", names, [rows[i] for i in order],
        [numbers[i] for i in order])


def _as_text(value, dtype, class_names):
  """A value of a data set as text; floats as short as their type allows."""
  if class_names is not None:
    return class_names[int(value)] if value >= 0 else None
  if isinstance(value, bytes):
    return value.decode("utf-8")
  return str(np.dtype(dtype).type(value))
