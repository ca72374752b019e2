# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Record files of tf.train.Examples: how scripts write, reuse and read them."""

import functools
import json
import os
import sys
import unicodedata

from absl import logging
import tensorflow as tf

from demo import horovod_helpers
from demo import script_helpers

# In the params of an input_fn: batches (int) that a training with --random_seed
# has read before it went on, for the data to go on too. Absent or 0 otherwise.
BATCHES_DONE = "batches_done"


def int_feature(values):
  """A list of ints as tf.train.Feature."""
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def int_entry(name, values):
  """One feature of an example, serialized.

  Args:
    name: string.
    values: sequence of int.

  Returns:
    bytes, for `serialized_example`.
  """
  return feature_entry(name, int_feature(values))


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


def scalar_entry(name, value):
  """`int_entry` of a single number, 0 or above, in a third of the time.

  For what one process does for each record, gathering the work of others.
  """
  int64_list = _field(1, _varint(value))
  return _field(1, _field(1, name.encode()) + _field(2, _field(3, int64_list)))


def _field(number, content):
  """A string or message inside a message, in protocol buffers' wire format."""
  return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number):
  """A number above or equal to 0 as protocol buffers write it (bytes)."""
  encoded = bytearray()
  while number > 127:
    encoded.append(number & 127 | 128)
    number >>= 7
  encoded.append(number)
  return bytes(encoded)


def dataset(input_file, name_to_features, batch_size, is_training,
            drop_remainder, batches_done=0):
  """Reads batches of records.

  In training the records of all ranks of this server are shared out among
  them, repeated without end and shuffled in a buffer of 100.

  Args:
    input_file: string or list of strings.
    name_to_features: dict name -> tf.io.FixedLenFeature.
    batch_size: int, B.
    is_training: bool.
    drop_remainder: bool, leave an incomplete last batch out.
    batches_done: int, batches to leave out of a training, see BATCHES_DONE.

  Returns:
    tf.data.Dataset of dicts name -> tensor [B, ...]; int64 is cast to int32.
  """
  d = tf.data.TFRecordDataset(input_file)
  if is_training:
    d = horovod_helpers.shard(d).repeat().shuffle(buffer_size=100)
    # Before they are decoded, which would take most of the time.
    d = d.skip(batches_done * batch_size)
  d = d.batch(batch_size, drop_remainder=drop_remainder)
  # Decoded batch by batch, which takes a fraction of the time of row by row.
  return d.map(lambda records: decode(records, name_to_features)).prefetch(
      tf.data.AUTOTUNE)


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
