# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""--use_xla: the training step compiled by XLA, on CPU and GPU.

TensorFlow gathers the operations of a session's graph into clusters and
compiles each when it first runs with tensors of some shape; training steps all
have one. What XLA can't compile stays outside, Horovod's exchanges among it.
"""

import contextlib
import os
import time

from absl import logging
import tensorflow as tf

# TensorFlow reads the variable when the first session of a process runs.
_VARIABLE = "TF_XLA_FLAGS"
_ALSO_ON_CPU = "--tf_xla_cpu_global_jit"


def allow_cpu():
  """Lets XLA compile for CPUs too; call it before the first session."""
  given = os.environ.get(_VARIABLE, "")
  if _ALSO_ON_CPU not in given:
    os.environ[_VARIABLE] = f"{given} {_ALSO_ON_CPU}".strip()


def compiling_config(session_config):
  """A session's config with compilation on.

  Args:
    session_config: ConfigProto, which is left alone, or None.

  Returns:
    ConfigProto.
  """
  config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
  if session_config is not None:
    config.CopyFrom(session_config)
  config.graph_options.optimizer_options.global_jit_level = (
      tf.compat.v1.OptimizerOptions.ON_1)
  return config


@contextlib.contextmanager
def compiling(estimator):
  """Compiles what an Estimator runs meanwhile: for its training alone.

  An evaluation or prediction takes less time than its compilation, and its last
  batch, being smaller, would be compiled again.

  Args:
    estimator: Estimator.
  """
  # Its RunConfig has but one session config for all that it does.
  # pylint: disable=protected-access
  config = estimator._session_config
  estimator._session_config = compiling_config(config)
  try:
    yield
  finally:
    estimator._session_config = config


class FirstStepsHook(tf.estimator.SessionRunHook):
  """Says that the training step is compiled, and how long that took.

  It is compiled twice: with TensorBoard's summaries, which the first step and
  then one in --log_steps makes, and without them.
  """

  def __init__(self):
    self._seconds = []

  def before_run(self, run_context):
    if not self._seconds:
      logging.info("The training step is being compiled (XLA).")
    self._start = time.monotonic()

  def after_run(self, run_context, run_values):
    self._seconds.append(time.monotonic() - self._start)
    if len(self._seconds) == 2:
      logging.info("The first two steps took %.1f s and %.1f s, their "
                   "compilation included.", *self._seconds)
