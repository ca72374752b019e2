# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Record files of tf.train.Examples: how scripts write, reuse and read them."""

import collections
import functools
import itertools
import json
import operator
import os
import sys
import unicodedata
import zlib

from absl import logging
from google.protobuf import message
import tensorflow as tf

from demo import horovod_helpers
from demo import padding_helpers
from demo import script_helpers

# In the params of an input_fn: batches (int) that a training with --random_seed
# has read before it went on, for the data to go on too. Absent or 0 otherwise.
BATCHES_DONE = "batches_done"
_KEPT_NUMBERS = 1 << 17  # Ids of any vocabulary, say.
# Of each file so many records are looked at before anything is done.
_CHECKED_RECORDS = 100


def int_feature(values):
  """A list of ints as tf.train.Feature."""
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def int_entry(name, values):
  """One feature of an example, serialized.

  Written by hand, since protocol buffers' own way to a list of numbers is slow.

  Args:
    name: string.
    values: iterable of int.

  Returns:
    bytes, for `serialized_example`.

  Raises:
    OverflowError: a number doesn't fit into an int64.
  """
  return small_int_entry(name, b"".join(map(_VARINTS.__getitem__, values)))


def small_int_entry(name, values):
  """`int_entry` of numbers below 128, such as masks, which are as they are.

  Args:
    name: string.
    values: bytes.
  """
  int64_list = _field(1, values) if values else b""
  return _field(1, _field(1, name.encode()) + _field(2, _field(3, int64_list)))


def feature_entry(name, feature):
  """`int_entry` of a tf.train.Feature of any kind."""
  return tf.train.Features(feature={name: feature}).SerializeToString()


# For masks and the like, which repeat themselves; takes a tuple.
repeated_int_entry = functools.lru_cache(maxsize=4096)(int_entry)


def serialized_example(*entries):
  """Puts serialized features together to a serialized tf.train.Example.

  Args:
    *entries: bytes of `int_entry`, with different names.

  Returns:
    bytes.
  """
  return _field(1, b"".join(entries))  # A map is its entries one by one.


def _field(number, content):
  """A string or message inside a message, in protocol buffers' wire format."""
  return b"%c%b%b" % (number << 3 | 2, _VARINTS[len(content)], content)


class _Varints(dict):
  """Numbers as protocol buffers write them (bytes); small ones are kept."""

  def __missing__(self, number):
    encoded = self._encode(operator.index(number))
    if 0 <= number < _KEPT_NUMBERS:
      self[number] = encoded
    return encoded

  def _encode(self, number):
    """Seven bits a byte, the lowest first, the highest bit for "and so on"."""
    # Eight bytes, two's complement; checks the range too.
    number = int.from_bytes(number.to_bytes(8, "big", signed=True), "big")
    encoded = bytearray()
    while number > 127:
      encoded.append(number & 127 | 128)
      number >>= 7
    encoded.append(number)
    return bytes(encoded)


_VARINTS = _Varints()


def dataset(input_file, name_to_features, params, is_training, drop_remainder,
            length_step=None):
  """Reads batches of records.

  In training the records of all ranks of this server are shared out among
  them; see `training_batches`.

  Args:
    input_file: string or list of strings.
    name_to_features: dict name -> tf.io.FixedLenFeature.
    params: dict of an input_fn: "batch_size", B, and perhaps BATCHES_DONE.
    is_training: bool.
    drop_remainder: bool, leave an incomplete last batch out.
    length_step: see `padding_helpers.length_step`.

  Returns:
    tf.data.Dataset of dicts name -> tensor [B, ...]; int64 is cast to int32.
  """
  d = tf.data.TFRecordDataset(input_file)
  if not is_training:
    return batches(d, name_to_features, params["batch_size"], drop_remainder,
                   length_step)
  num_records = None
  if length_step:
    ranks = horovod_helpers.hvd_local_size()
    num_records = _num_records(input_file, ranks * (
        padding_helpers.records_looked_at(params["batch_size"]))) // ranks
  return training_batches(horovod_helpers.shard(d), name_to_features, params,
                          num_records, length_step)


def _num_records(input_file, most):
  """The number of records of a file or a list of them, or `most` (ints)."""
  files = [input_file] if isinstance(input_file, str) else input_file
  found = itertools.chain.from_iterable(map(records, files))
  return sum(1 for _ in itertools.islice(found, most))


def untuned(input_fn):
  """An input_fn whose data are read without tf.data's tuning thread.

  The end of a session waits for that thread, and TensorFlow 2.15 does not
  always wake it: it sleeps for up to a minute, and so does the rank, for which
  the others wait. Nothing is lost: batches are made in parallel on all cores.

  Args:
    input_fn: function of params that gives a tf.data.Dataset.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return lambda params: input_fn(params).with_options(options)


def training_batches(d, name_to_features, params, num_records, length_step):
  """Batches of a training, without end.

  The records are repeated and shuffled in a buffer of 100. With `length_step`
  those that come into a batch together are of like length.

  Args:
    d: tf.data.Dataset of serialized records, those of this rank.
    name_to_features: see `dataset`, as params.
    params: dict.
    num_records: int, records of this rank; not looked at without length_step.
    length_step: see `padding_helpers.length_step`.

  Returns:
    tf.data.Dataset, see `dataset`.
  """
  batch_size = params["batch_size"]
  if not length_step:
    return batches(shuffled(d, params), name_to_features, batch_size, True)
  done = params.get(BATCHES_DONE, 0)
  size = padding_helpers.group_size(num_records, batch_size)
  # Groups that are done need not be decoded to be passed over.
  d = shuffled(d, {**params, BATCHES_DONE: done - done % size})
  d = padding_helpers.by_length(
      _decoded(d.batch(size * batch_size, drop_remainder=True),
               name_to_features), size, done)
  return d.map(lambda batch: padding_helpers.cut(batch, length_step)).prefetch(
      tf.data.AUTOTUNE)


def shuffled(d, params):
  """The records of a training, repeated without end, in a buffer of 100.

  Args:
    d: tf.data.Dataset of serialized records.
    params: see `dataset`.
  """
  return unread(d.repeat().shuffle(buffer_size=100), params)


def unread(d, params):
  """Leaves out the records that a training has read; see `shuffled`.

  They are not decoded yet, which would take most of the time.
  """
  return d.skip(params.get(BATCHES_DONE, 0) * params["batch_size"])


def batches(d, name_to_features, batch_size, drop_remainder, length_step=None):
  """Makes batches of a dataset of records, in their order; see `dataset`."""
  d = _decoded(d.batch(batch_size, drop_remainder=drop_remainder),
               name_to_features)
  if length_step:
    d = d.map(lambda batch: padding_helpers.cut(batch, length_step))
  return d.prefetch(tf.data.AUTOTUNE)


def _decoded(d, name_to_features):
  """Decodes batches of records; row by row would take several times as long."""
  return d.map(lambda records: decode(records, name_to_features),
               num_parallel_calls=tf.data.AUTOTUNE)


def decode(records, name_to_features):
  """Takes serialized examples apart.

  Args:
    records: string tensor, [] or [B].
    name_to_features: dict name -> tf.io.FixedLenFeature.

  Returns:
    Dict name -> tensor [...] or [B, ...]; int64 is cast to int32, since TPUs
    have no other.
  """
  batch = tf.io.parse_example(records, name_to_features)
  return {name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
          for name, value in batch.items()}


def find_files(flag, value, made_by):
  """The record files that a flag names.

  Args:
    flag: string, its name.
    value: string, names, patterns and folders, with commas between.
    made_by: string, the program that makes such files.

  Returns:
    List of string.

  Raises:
    ValueError: one of them is not there.
  """
  found = []
  for pattern in value.split(","):
    if tf.io.gfile.isdir(pattern):
      pattern = os.path.join(pattern, "*")
    paths = [path for path in sorted(tf.io.gfile.glob(pattern))
             if not tf.io.gfile.isdir(path)]
    if not paths:
      raise ValueError(
          f"--{flag}={value}: there is no file {pattern}. Give the records of "
          f"{made_by}.")
    found += paths
  logging.info("--%s: %d file(s).", flag, len(found))
  return found


def compression(path):
  """How a record file is compressed, in TensorFlow's words."""
  with tf.io.gfile.GFile(path, "rb") as reader:
    return "GZIP" if reader.read(3) == b"\x1f\x8b\x08" else ""


def records(path):
  """Yields the records (bytes) of a file, plain or gzip."""
  return tf.compat.v1.io.tf_record_iterator(
      path, tf.io.TFRecordOptions(compression(path)))


def check_records(path, name_to_features, made_by, length_flag, bounds):
  """Refuses a file without records, or with such as other flags make.

  The first records are looked at.

  Args:
    path: string.
    name_to_features: dict name -> tf.io.FixedLenFeature; what has a default
      value may be missing.
    made_by: string, the program that makes such files.
    length_flag: function of a feature's name that returns the flag (string)
      which says how many values it has; None if no flag does.
    bounds: dict name -> int that the ids of this feature have to be below.

  Raises:
    ValueError: names what doesn't fit, and the flag.
  """
  found = None
  try:
    for found in itertools.islice(records(path), _CHECKED_RECORDS):
      features = tf.train.Example.FromString(found).features.feature
      for name, feature in name_to_features.items():
        if name in features:
          values = _values(path, name, features[name], feature.dtype)
          _check_values(path, name, values, (feature.shape or [1])[0],
                        length_flag(name), bounds.get(name))
        elif feature.default_value is None:
          raise ValueError(
              f"{path}: its records have no {name} but "
              f"{', '.join(sorted(features)) or 'nothing'}. Make them with "
              f"{made_by}.")
  except (tf.errors.DataLossError, message.DecodeError) as error:
    raise ValueError(f"{path} is no record file of {made_by}, or damaged "
                     f"({error}).") from error
  if found is None:
    raise ValueError(f"{path} holds no whole record: it is empty, cut short or "
                     f"something else.")


def _values(path, name, feature, dtype):
  """The values of a tf.train.Feature, if they are of the right kind."""
  wanted = {tf.int64: "int64_list", tf.float32: "float_list"}[dtype]
  found = feature.WhichOneof("kind")
  if found not in (wanted, None):
    raise ValueError(f"{path}: {name} of its records is {found}, expected "
                     f"{wanted}. Were they made for another task?")
  return getattr(feature, wanted).value


def _check_values(path, name, values, length, flag, bound):
  """See `check_records`; `bound` is None for what is no id."""
  if len(values) != length:
    found = f"{path}: {name} of its records has {len(values)} values, "
    if not flag:
      raise ValueError(f"{found}expected {length}. Make them anew.")
    raise ValueError(
        f"{found}--{flag} says {length}. Pass --{flag}={len(values)}, as the "
        f"records were made, or make them anew.")
  if bound is not None and not 0 <= min(values) <= max(values) < bound:
    raise ValueError(
        f"{path}: {name} of its records has {min(values)} to {max(values)}, "
        f"the model takes 0 to {bound - 1}. Were they made with the vocabulary "
        f"of --bert_config_file?")


def name_damaged_file(files, error):
  """Raises ValueError with the file in which records can't be read, if any.

  Args:
    files: list of string.
    error: tf.errors.DataLossError that came while they were read.
  """
  for path in files:
    try:
      collections.deque(records(path), maxlen=0)
    except tf.errors.DataLossError:
      raise ValueError(
          f"{path} is damaged ({error.message.splitlines()[0]}). Make or copy "
          f"it anew; the training then goes on from the last checkpoint."
      ) from error


def sizes(files):
  """Names and sizes of files in words, for a comparison between ranks."""
  total = sum(tf.io.gfile.stat(path).length for path in files)
  names = ",".join(os.path.basename(path) for path in files)
  return (f"{len(files)} files, {total} bytes, names' checksum "
          f"{zlib.crc32(names.encode()):08x}")


def origin(files, values):
  """What a record file is made from, for `reusable` and `write_lock`.

  Args:
    files: dict name -> path; the files' contents count, not their names.
    values: dict name -> JSON value, the flags and whatever else matters.

  Returns:
    Dict that is equal for runs that would write the same records.
  """
  return {
      **values,
      **{f"{name}_sha256": script_helpers.sha256(path)
         for name, path in files.items()},
      # Unicode's tables decide what a letter or a mark is.
      "python": ".".join(map(str, sys.version_info[:3])),
      "unicode": unicodedata.unidata_version}


def lock_file(record_file):
  """Name of the file that says what a record file was made from."""
  return record_file + ".lock.json"


def reusable(record_file, made_from):
  """Whether a record file is whole and was made from just this.

  Args:
    record_file: string.
    made_from: dict of `origin`.

  Returns:
    int, the number of its records; None where it has to be written anew.
  """
  try:
    with tf.io.gfile.GFile(lock_file(record_file), "r") as reader:
      lock = json.load(reader)
    if (lock["made_from"] == made_from and
        lock["bytes"] == tf.io.gfile.stat(record_file).length and
        lock["records"] == _count_records(record_file)):
      logging.info(
          "Using %s (%d records) again: it was made from the same files and "
          "flags.", record_file, lock["records"])
      return lock["records"]
  except (tf.errors.OpError, OSError, ValueError, KeyError, TypeError):
    pass  # None, damaged, or of an older form.
  return None


def _count_records(path):
  """Reads a record file through, which checks each record's checksum."""
  return sum(1 for _ in tf.compat.v1.io.tf_record_iterator(path))


def forget(record_file):
  """Removes a record file's lock, before the file is written anew."""
  if tf.io.gfile.exists(lock_file(record_file)):
    tf.io.gfile.remove(lock_file(record_file))


def write_lock(record_file, made_from, num_records):
  """Says what a finished record file was made from.

  Args:
    record_file: string.
    made_from: dict of `origin`.
    num_records: int.
  """
  script_helpers.write_text(lock_file(record_file), json.dumps(
      {"records": num_records, "made_from": made_from,
       "bytes": tf.io.gfile.stat(record_file).length}, indent=2) + "\n")
  logging.info("%s: %d records.", os.path.basename(record_file), num_records)
