# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""--validate_only and --compile_only: whether a run can be made, without it."""

import resource
import time

from absl import logging
import tensorflow as tf

from demo import horovod_helpers
from demo import record_helpers
from demo import xla_helpers

# Rows of each data set that are converted and looked at.
NUM_ROWS = 100
_MEGABYTE = 1024 * 1024


def check_flags(args):
  """Refuses both flags together, and on a TPU (ValueError)."""
  if args.use_tpu and is_wanted(args):
    raise ValueError("--validate_only and --compile_only work on CPUs and "
                     "GPUs: leave --use_tpu out.")
  if args.validate_only and args.compile_only:
    raise ValueError("--compile_only does what --validate_only does, and more: "
                     "pass one of them.")


def is_wanted(args):
  """Whether the run is to be tried out, not made."""
  return args.validate_only or args.compile_only


def try_out(args, parts):
  """Builds the graphs of a run; with --compile_only runs a step of each.

  What a script has checked before that (flags, files, labels, checkpoint,
  output folder) is part of the trial.

  Args:
    args: the parsed flags.
    parts: list of (tf.estimator.ModeKeys, model_fn, input_fn, batch size):
      function of features, labels, mode and params, function of params that
      gives the first rows of the data, and int.
  """
  for mode, model_fn, input_fn, batch_size in parts:
    params = {"batch_size": batch_size}
    with tf.Graph().as_default():
      tf.compat.v1.set_random_seed(args.random_seed or 0)
      tf.compat.v1.train.get_or_create_global_step()
      iterator = tf.compat.v1.data.make_initializable_iterator(
          record_helpers.untuned(input_fn)(params))
      spec = model_fn(iterator.get_next(), None, mode, params)
      fetches = _fetches(spec, mode)
      weights = sum(var.shape.num_elements()
                    for var in tf.compat.v1.trainable_variables())
      _say("%s: the graph is built, batch size %d, %.1f million parameters.",
           mode, batch_size, weights / 1e6)
      if args.compile_only:
        _run_step(mode, iterator, fetches, args.use_xla)
  _say("%s: the run can be made.",
       "--compile_only" if args.compile_only else "--validate_only")


def _fetches(spec, mode):
  """What a step of a mode computes."""
  if mode == tf.estimator.ModeKeys.TRAIN:
    return [spec.train_op, spec.loss]
  if mode == tf.estimator.ModeKeys.PREDICT:
    return spec.predictions
  metric_fn, inputs = spec.eval_metrics
  return [spec.loss] + [
      update for _, update in metric_fn(*inputs).values()]


def _run_step(mode, iterator, fetches, use_xla):
  """Runs a step and says what it took."""
  config = horovod_helpers.session_config()
  if use_xla and mode == tf.estimator.ModeKeys.TRAIN:
    config = xla_helpers.compiling_config(config)
  with tf.compat.v1.Session(config=config) as session:
    session.run([tf.compat.v1.global_variables_initializer(),
                 tf.compat.v1.local_variables_initializer(),
                 tf.compat.v1.tables_initializer(), iterator.initializer])
    start = time.monotonic()
    session.run(fetches)
    seconds = time.monotonic() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  _say("%s: one step with compilation took %.1f s; peak memory of the process "
       "%.0f MB.", mode, seconds, peak / _MEGABYTE)


def _say(message, *values):
  if horovod_helpers.is_chief():
    logging.info(message, *values)
