"""Trains on modules of TensorFlow Hub; each rank saves what they become.

  python train_hub.py FOLDER MODULE...

FOLDER/<rank>.npz then holds, for the i-th module, the trained variables before
and after some steps on this rank's own examples: "<i>/before/<name>" and
"<i>/after/<name>".
"""

import sys

import numpy as np
import tensorflow as tf

import run_classifier_with_tfhub
from demo import horovod_helpers

NUM_STEPS = 3


def train(handle):
  """Returns (before, after), dicts name -> array."""
  rng = np.random.RandomState(horovod_helpers.hvd_rank())
  ids = tf.constant(rng.randint(5, 100, [8, 16]), tf.int32)
  features = {"input_ids": ids, "input_mask": tf.ones_like(ids),
              "segment_ids": tf.zeros_like(ids),
              "label_ids": tf.constant(rng.randint(0, 2, [8]), tf.int32)}
  model_fn = run_classifier_with_tfhub.model_fn_builder(
      2, 1e-3, 2 * NUM_STEPS, 0, False, handle)
  spec = model_fn(features, None, tf.estimator.ModeKeys.TRAIN, {})
  variables = {var.op.name: var for var in tf.compat.v1.trainable_variables()}
  with tf.compat.v1.train.MonitoredTrainingSession(
      hooks=horovod_helpers.broadcast_hooks(),
      config=horovod_helpers.session_config()) as session:
    before = session.run(variables)
    for _ in range(NUM_STEPS):
      session.run(spec.train_op)
    return before, session.run(variables)


def main():
  """Trains on each module in turn."""
  folder, *handles = sys.argv[1:]
  tf.compat.v1.enable_resource_variables()
  horovod_helpers.start_ranks(use_horovod=True, cpu_only=True)
  found = {}
  for index, handle in enumerate(handles):
    with tf.Graph().as_default():
      for when, values in zip(("before", "after"), train(handle)):
        found.update({f"{index}/{when}/{name}": value
                      for name, value in values.items()})
  np.savez(f"{folder}/{horovod_helpers.hvd_rank()}.npz", **found)


if __name__ == "__main__":
  main()
