# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Fine-tuning on records that were made beforehand, and their meta data.

The records and the meta data are those of demo.create_finetuning_data, and of
Model Garden's program of that name.
"""

import json

from absl import logging
from google.protobuf import message
import numpy as np
import tensorflow as tf

from demo import horovod_helpers
from demo import padding_helpers
from demo import prediction_helpers
from demo import record_helpers

MADE_BY = "demo.create_finetuning_data"

# Instead of files: synthetic records, to try the speed of a model without data.
DUMMY = "dummy"
_NUM_DUMMY_RECORDS = 1024

# Files that training reads in turn, so that its buffer holds records of many.
_FILES_AT_A_TIME = 16
_SCANNED_AT_A_TIME = 1024  # Records.


def read_meta_data(path, task_types):
  """Reads the JSON file that says how records were made.

  Args:
    path: string, --meta_data_file.
    task_types: tuple of string, those that the script can work with.

  Returns:
    Dict; `task_type` and `max_seq_length` are there, and `num_labels` for
    bert_classification.

  Raises:
    ValueError: it is not such a file, or of another script's task.
  """
  where = f"--meta_data_file={path}"
  try:
    with tf.io.gfile.GFile(path, "r") as reader:
      content = json.load(reader)
  except (tf.errors.OpError, OSError):
    raise ValueError(f"{where} can't be read: give the file of "
                     f"{MADE_BY}'s --meta_data_file_path.") from None
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{where} is not JSON: {error}.") from None
  if not isinstance(content, dict) or "task_type" not in content:
    raise ValueError(f"{where} has no task_type: it is no meta data file of "
                     f"{MADE_BY}.")
  if content["task_type"] not in task_types:
    raise ValueError(
        f"{where}: its records are of task_type {content['task_type']!r}, this "
        f"script takes {' and '.join(task_types)}.")
  sizes = ["max_seq_length"]
  if content["task_type"] == "bert_classification":
    sizes.append("num_labels")
  else:  # Some programs write 1 or null there.
    content.pop("num_labels", None)
  for name in sizes:
    value = content.get(name)
    # type(): true is no number.
    if type(value) is not int or value < 1:
      raise ValueError(f"{where}: {name} is {value!r}, a whole number above 0 "
                       f"is needed.")
  return content


def take_flags(args, meta_data, names, must_agree):
  """Sets flags to how the records were made, where the user has not set them.

  Args:
    args: the parsed flags (absl FlagValues).
    meta_data: dict of `read_meta_data`.
    names: tuple of string, flags; those that the meta data lack stay.
    must_agree: tuple of string, of `names`, that can't be otherwise.

  Raises:
    ValueError: one of these was set to something else.
  """
  for name in names:
    if name not in meta_data or getattr(args, name) == meta_data[name]:
      continue
    if not args[name].present:
      setattr(args, name, meta_data[name])
      if horovod_helpers.comm_rank() == 0:
        logging.info("--%s=%s, by --meta_data_file.", name, meta_data[name])
    elif name in must_agree:
      raise ValueError(
          f"--{name}={getattr(args, name)}, but the records were made with "
          f"{meta_data[name]} (--meta_data_file={args.meta_data_file}). Pass "
          f"--{name}={meta_data[name]} or leave it out.")


def sequence_features(seq_length):
  """What every record of an example has: name -> tf.io.FixedLenFeature."""
  return {name: tf.io.FixedLenFeature([seq_length], tf.int64)
          for name in padding_helpers.SEQUENCES}


def classifier_features(seq_length, is_regression):
  """What a record of run_classifier has: name -> tf.io.FixedLenFeature."""
  return {
      **sequence_features(seq_length),
      "label_ids": tf.io.FixedLenFeature(
          [], tf.float32 if is_regression else tf.int64),
      # Not all of Model Garden's records say so.
      "is_real_example": tf.io.FixedLenFeature([], tf.int64, 1)}


class RecordSet(object):
  """Examples in record files that every rank sees, checked as a whole.

  Its length is the number of examples.

  Attributes:
    files: list of string; empty for synthetic records.
    ids: list of int, `example_id` of each record, or its place from 0.
    columns: dict name -> array [n], the values of its features that are a
      single number.
    max_input_id: int, the largest token id.
  """

  def __init__(self, flag, value, features_of, bounds, floats=()):
    """Finds and checks the files.

    Args:
      flag: string, the flag that names the files.
      value: string, see `record_helpers.find_files`; or DUMMY.
      features_of: function of a dict name -> kind ("int64_list" or
        "float_list") of what the first record has, which returns a dict name
        -> tf.io.FixedLenFeature of what is wanted.
      bounds: dict name -> int that the values of this feature have to be
        below; they can't be below 0 either.
      floats: tuple of string, features that are given as float32 however they
        are stored.

    Raises:
      ValueError: a file is not there or has other records; names the file.
    """
    self._flag = flag
    self._bounds = {"segment_ids": 2, **bounds}
    self._floats = floats
    self.files = [] if value == DUMMY else record_helpers.find_files(
        flag, value, MADE_BY)
    self._features = features_of(self._stored())
    for path in self.files:
      record_helpers.check_records(
          path, self._features, MADE_BY,
          lambda name: ("max_seq_length" if name in padding_helpers.SEQUENCES
                        else None), {})
    self._scan()

  def __len__(self):
    return len(self.ids)

  def check_ids(self, vocab_size):
    """Refuses records of a larger vocabulary than a model's (int)."""
    if self.max_input_id >= vocab_size:
      raise ValueError(
          f"--{self._flag}: its records have token ids up to "
          f"{self.max_input_id}, the model takes 0 to {vocab_size - 1}. Were "
          f"they made with the vocabulary of another model?")

  def content(self):
    """What it holds in words, for a comparison between ranks."""
    return record_helpers.sizes(self.files)

  def input_fn(self, args, is_training, is_alone=False):
    """Makes the input_fn of this rank.

    In training each record comes once in a pass over the data, on one of the
    ranks. Otherwise the records come in order, on all ranks or in batches that
    are dealt out (`--distributed_predict`).

    Args:
      args: the parsed flags.
      is_training: bool.
      is_alone: bool, this rank reads all records, whatever the flags say.

    Returns:
      Function of params (dict with "batch_size", B) that returns a tf.data
      Dataset of dicts name -> tensor [B, ...].
    """
    size, rank = horovod_helpers.hvd_size(), horovod_helpers.hvd_rank()
    length_step = padding_helpers.length_step(args)

    def input_fn(params):
      """See `input_fn`."""
      d = self._records(is_training)
      if is_training:
        if size > 1:
          d = d.shard(size, rank)
        d = record_helpers.training_batches(
            d, self._features, params, len(self) // size, length_step)
      elif args.use_tpu and len(self) % params["batch_size"]:
        raise ValueError(
            f"--{self._flag}: a TPU needs whole batches, and {len(self)} "
            f"records don't make batches of {params['batch_size']}.")
      else:
        d = record_helpers.batches(
            d, self._features, params["batch_size"],
            drop_remainder=args.use_tpu, length_step=length_step)
      if self._floats:
        d = d.map(lambda batch: {
            name: tf.cast(x, tf.float32) if name in self._floats else x
            for name, x in batch.items()})
      if not (is_training or is_alone) and (
          prediction_helpers.is_distributed(args)):
        d = d.shard(size, rank)
      return d

    return input_fn

  def _stored(self):
    """What the first record has: name -> kind. What is no record has nothing,
    and is refused later."""
    try:
      first = next(record_helpers.records(self.files[0]))
      features = tf.train.Example.FromString(first).features.feature
      return {name: x.WhichOneof("kind") for name, x in features.items()}
    except (IndexError, StopIteration, tf.errors.DataLossError,
            message.DecodeError):
      return {}

  def _records(self, is_training=False):
    """A dataset of the serialized records, in the same order on all ranks."""
    if not self.files:
      return tf.data.Dataset.from_tensors(
          self._dummy_record()).repeat(_NUM_DUMMY_RECORDS)
    if not is_training or len(self.files) == 1:
      return tf.data.TFRecordDataset(self.files)
    return tf.data.Dataset.from_tensor_slices(self.files).interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(len(self.files), _FILES_AT_A_TIME))

  def _dummy_record(self):
    """A record in which all is 0 but the mask, and what has a default."""
    features = {}
    for name, feature in self._features.items():
      if feature.default_value is not None:
        continue
      values = [int(name == "input_mask")] * (feature.shape or [1])[0]
      features[name] = (
          record_helpers.int_feature(values) if feature.dtype == tf.int64 else
          tf.train.Feature(float_list=tf.train.FloatList(value=values)))
    return tf.train.Example(
        features=tf.train.Features(feature=features)).SerializeToString()

  def _scan(self):
    """Reads all records once, and keeps what there is little of."""
    try:
      columns = self._read(self.files)
    except ValueError:
      for path in self.files[:-1]:  # Or it is the last.
        self._read([path])
      self._read(self.files[-1:])
      raise
    ids = columns.pop("example_id")
    self.ids = np.where(ids < 0, np.arange(len(ids)), ids).tolist()
    self.max_input_id = columns.pop("input_ids").max()
    self.columns = columns
    weights = columns.get("weight")
    if weights is not None and not weights.any():
      raise ValueError(f"--{self._flag}: all records have weight 0, so none of "
                       f"them counts.")

  def _read(self, files):
    """Columns of the records of files (none: synthetic), which are checked.

    Args:
      files: list of string; the last is named where something is wrong.

    Returns:
      Dict name -> array [n], of the features that are a single number; of
      `input_ids` the largest of each batch.
    """
    features = {**self._features,
                "example_id": tf.io.FixedLenFeature([], tf.int64, -1)}
    columns = {name: [] for name, feature in features.items()
               if not feature.shape}
    columns["input_ids"] = []
    d = tf.data.TFRecordDataset(files) if files else self._records()
    try:
      for batch in record_helpers.batches(
          d, features, _SCANNED_AT_A_TIME, False).as_numpy_iterator():
        self._check_batch(files[-1:], batch)
        batch["input_ids"] = batch["input_ids"].max(keepdims=True)[0]
        for name, values in columns.items():
          values.append(batch[name])
    except tf.errors.DataLossError as error:
      raise ValueError(
          f"{files[-1]} is damaged, or no record file ({error.message}). Make "
          f"or copy it anew; of a folder with other files in it name the "
          f"records, such as --{self._flag}=<folder>/*.tf_record.") from None
    except tf.errors.InvalidArgumentError as error:
      raise ValueError(
          f"{files[-1]}: not all of its records are like the first one "
          f"({error.message.splitlines()[0]}).") from None
    return {name: np.concatenate(values) for name, values in columns.items()}

  def _check_batch(self, files, batch):
    """Refuses numbers that are out of bounds."""
    if batch["input_ids"].min() < 0:
      raise ValueError(f"{files[0]}: its records have token ids below 0.")
    for name, bound in self._bounds.items():
      low, high = batch[name].min(), batch[name].max()
      if not 0 <= low <= high < bound:
        raise ValueError(
            f"{files[0]}: {name} of its records has {low} to {high}, 0 to "
            f"{bound - 1} is possible. Were they made for another task?")
    for name, values in batch.items():
      if values.dtype == np.float32 and not np.all(np.isfinite(values)):
        raise ValueError(f"{files[0]}: {name} of its records has a value that "
                         f"is no number.")
    if "weight" in batch and batch["weight"].min() < 0:
      raise ValueError(f"{files[0]}: its records have weights below 0.")


def is_record_set(examples):
  """Whether examples are ready records, not a list of text."""
  return isinstance(examples, RecordSet)


class RecordProcessor(object):
  """Sets in record files that flags name; other sets are text of a task.

  Its methods are those of `run_classifier.DataProcessor`. Where flags name
  record files, a set is a RecordSet instead of a list of examples.

  Attributes:
    text: processor of the other sets, or None.
    is_regression: bool, whether labels are numbers instead of classes.
  """

  def __init__(self, args, processor, labels, is_regression,
               has_sample_weights):
    """Takes how the records were made.

    Args:
      args: the parsed flags.
      processor: that of the sets that are text, or None.
      labels: list of label names.
      is_regression: bool.
      has_sample_weights: bool, the records have to have weights.
    """
    self._args, self.text = args, processor
    self._labels, self.is_regression = labels, is_regression
    self._has_sample_weights = has_sample_weights

  def get_train_examples(self, data_dir):
    """Returns the training examples; `data_dir` is for those of text."""
    return self._records("train_records") or self.text.get_train_examples(
        data_dir)

  def get_dev_examples(self, data_dir):
    """Returns the dev examples, likewise."""
    return self._records("eval_records") or self.text.get_dev_examples(
        data_dir)

  def get_test_examples(self, data_dir):
    """Returns the test examples, likewise."""
    return self._records("predict_records") or self.text.get_test_examples(
        data_dir)

  def get_labels(self):
    """Returns the label names; for a regression task there are none."""
    return list(self._labels)

  def label_map(self):
    """What has to be known of the model, see `label_helpers.read_label_map`."""
    return {"kind": "regression" if self.is_regression else "classification",
            "labels": self.get_labels(),
            "columns": {"text_a": None, "text_b": None, "label": None}}

  def _records(self, flag):
    """The RecordSet of a flag; None where it is not set."""
    value = getattr(self._args, flag)
    return value and RecordSet(
        flag, value, self._features_of,
        {} if self.is_regression else {"label_ids": len(self._labels)},
        floats=("label_ids",) if self.is_regression else ())

  def _features_of(self, stored):
    """What is read of a record; see RecordSet."""
    # Model Garden's numbers may be whole ones.
    is_float = self.is_regression and stored.get("label_ids") != "int64_list"
    features = classifier_features(self._args.max_seq_length, is_float)
    if "weight" in stored or (stored and self._has_sample_weights):
      features["weight"] = tf.io.FixedLenFeature([], tf.float32)
    return features
