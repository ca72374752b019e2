"""Runs run_classifier.py, but reads what its training would read instead.

  python read_stream.py FOLDER,FOLDER... FLAG...

Each FOLDER is a --data_dir in which FOLDER/<rank>.npz then holds the rank's
"steps", and token ids of rows: "read" in the batches of those steps, "pass" in
one pass over its share of the records.
"""

import os
import sys

import numpy as np
import tensorflow as tf

import run_classifier
from demo import estimator_helpers
from demo import horovod_helpers


def read(args, estimator, input_fn, num_examples, num_train_steps, *_, **__):
  """Takes the place of estimator_helpers.train."""
  del estimator, num_examples
  batches = input_fn({"batch_size": args.train_batch_size})
  one_pass = horovod_helpers.shard(tf.data.TFRecordDataset(
      horovod_helpers.server_record_files(
          os.path.join(args.output_dir, "train.tf_record"))))
  np.savez(
      os.path.join(args.data_dir, f"{horovod_helpers.hvd_rank()}.npz"),
      steps=num_train_steps,
      read=np.concatenate([
          batch["input_ids"] for batch in
          batches.take(num_train_steps).as_numpy_iterator()]),
      **{"pass": [
          tf.train.Example.FromString(record).features.feature[
              "input_ids"].int64_list.value
          for record in one_pass.as_numpy_iterator()]})


def main(folders, *flags):
  run_classifier.init_classifier_flags()
  args = run_classifier.FLAGS
  args(["read_stream.py", *flags])
  estimator_helpers.train = read
  for folder in folders.split(","):
    args.data_dir = folder
    args.output_dir = os.path.join(folder, "out")
    run_classifier.main([])


if __name__ == "__main__":
  main(*sys.argv[1:])
