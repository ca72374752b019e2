"""Runs run_classifier.py; each rank saves its first step's random numbers.

  python save_draws.py FOLDER FLAG...

FOLDER/<rank>.npy then holds what the first dropout of the model draws. With
the environment variable KILL_AFTER all ranks end by SIGKILL after that step.
"""

import os
import signal
import sys

import numpy as np
import tensorflow as tf

import run_classifier
from demo import horovod_helpers
from demo import script_helpers


class DrawsHook(tf.estimator.SessionRunHook):
  """Saves the numbers."""

  def __init__(self, folder):
    self._path = f"{folder}/{horovod_helpers.hvd_rank()}.npy"
    self._kill_after = int(os.environ.get("KILL_AFTER", "0"))
    self._steps = 0

  def begin(self):
    self._draws = next(
        op.outputs[0]
        for op in tf.compat.v1.get_default_graph().get_operations()
        if op.type == "StatelessRandomUniformV2" and "/stateless_dropout/" in
        op.name)

  def before_run(self, run_context):
    return tf.estimator.SessionRunArgs(self._draws)

  def after_run(self, run_context, run_values):
    if not os.path.exists(self._path):
      np.save(self._path, run_values.results)
    self._steps += 1
    if self._steps == self._kill_after:
      os.kill(os.getpid(), signal.SIGKILL)


def main(folder):
  broadcast_hooks = horovod_helpers.broadcast_hooks
  horovod_helpers.broadcast_hooks = (
      lambda: broadcast_hooks() + [DrawsHook(folder)])
  run_classifier.init_classifier_flags()
  script_helpers.run(run_classifier.main, [])


if __name__ == "__main__":
  main(sys.argv.pop(1))
