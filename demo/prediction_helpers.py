# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Evaluation and prediction with an Estimator, on one rank or on all.

On all ranks (`--distributed_predict`) the batches are those of one rank, dealt
out in turn. Every rank takes rank 0's variables, and rank 0 gathers what the
ranks give and puts it in order. So the results are the same to the last bit
where the ranks have as many threads as the one rank: another number of threads
may sum up a matrix product in another order.
"""

import itertools

from absl import logging
import numpy as np
import tensorflow as tf

from demo import checkpoint_helpers
from demo import estimator_helpers
from demo import horovod_helpers
from demo import record_helpers
from demo import script_helpers

# Prefix of the graph collections through which a model_fn shows tensors to
# EvalOutputsHook.
_EVAL_OUTPUTS = "eval_outputs/"


def is_distributed(args):
  """Whether all ranks evaluate and predict, not rank 0 alone.

  Args:
    args: the parsed flags.
  """
  return args.distributed_predict and horovod_helpers.horovod_enabled()


def takes_part(args):
  """Whether this rank evaluates and predicts."""
  return horovod_helpers.is_chief() or is_distributed(args)


def record_file(args, path):
  """The record file of this rank: `path`, or `path_<rank>` if distributed."""
  return horovod_helpers.record_file(path) if is_distributed(args) else path


def is_own_row(args, index, batch_size):
  """Whether this rank is given a row of the data.

  Args:
    args: the parsed flags.
    index: int, number of the row from 0.
    batch_size: int, rows of a batch.
  """
  return not is_distributed(args) or horovod_helpers.is_own_batch(
      index // batch_size)


def predict(args, estimator, input_fn, num_rows, unit, log_every, name=""):
  """Predicts all rows of the records.

  Args:
    args: the parsed flags.
    estimator: TPUEstimator.
    input_fn: function of params, the records of this rank (`record_file`).
    num_rows: int, of all ranks.
    unit: string, what a row is, for the progress.
    log_every: int, rows between two lines of progress.
    name: string, of the data where there are several sets.

  Returns:
    List of dicts name -> array, in the order of the rows; None on a rank other
    than 0.
  """
  batches = _predicted_batches(
      args, estimator, input_fn, args.predict_batch_size, num_rows,
      "Predicting", unit, log_every, _perf_name("predict", name))
  if batches is None:
    return None
  return [{name: column[i] for name, column in batch.items()}
          for batch in batches
          for i in range(len(next(iter(batch.values()))))]


def evaluate(args, estimator, model_fn, input_fn, num_rows, name):
  """Evaluates all rows of the records.

  Args:
    args: the parsed flags.
    estimator: TPUEstimator of `model_fn`.
    model_fn: function of features, labels, mode and params.
    input_fn: function of params, the records of this rank (`record_file`).
    num_rows: int, of all ranks.
    name: string or None, of the evaluation, for its TensorBoard folder.

  Returns:
    (result, outputs): what `Estimator.evaluate` gives, and a dict of what the
    model_fn has shown with `show_to_eval_hook`: name -> array [rows, ...].
    (None, None) on a rank other than 0.
  """
  if is_distributed(args):
    return _evaluate_on_all_ranks(
        args, estimator, model_fn, input_fn, num_rows, name)
  num_batches = -(-num_rows // args.eval_batch_size)
  outputs_hook = EvalOutputsHook(num_batches)
  perf_hook = horovod_helpers.PerfLoggingHook(args.eval_batch_size, "eval")
  result = estimator.evaluate(
      input_fn=record_helpers.untuned(input_fn), steps=num_batches,
      hooks=[perf_hook, outputs_hook], name=name,
      checkpoint_path=checkpoint_helpers.chosen_checkpoint(args))
  estimator_helpers.write_perf(
      args, perf_hook, _perf_name("eval", name), ranks=1)
  return result, outputs_hook.outputs


def _perf_name(what, name):
  return f"{what}_{name}" if name else what


def _evaluate_on_all_ranks(args, estimator, model_fn, input_fn, num_rows, name):
  """See `evaluate`: all ranks compute what the metrics need, rank 0 scores."""
  metric_fns = []

  def as_prediction(features, labels, mode, params):
    """A model_fn that predicts what `model_fn` would evaluate with."""
    spec = model_fn(features, labels, tf.estimator.ModeKeys.EVAL, params)
    metric_fn, inputs = spec.eval_metrics
    metric_fns.append(metric_fn)
    predictions = {f"metric_input_{i}": x for i, x in enumerate(inputs)}
    predictions.update(shown_tensors(), loss=spec.loss)
    return tf.compat.v1.estimator.tpu.TPUEstimatorSpec(
        mode=mode, predictions=predictions, scaffold_fn=spec.scaffold_fn)

  batches = _predicted_batches(
      args,
      estimator_helpers.make_estimator(
          args, as_prediction, predict_batch_size=args.eval_batch_size),
      input_fn, args.eval_batch_size, num_rows, "Evaluating", "examples",
      1000, _perf_name("eval", name))
  if batches is None:
    return None, None
  result = _metrics_over(batches, metric_fns[-1])
  step = checkpoint_helpers.step_of(
      checkpoint_helpers.chosen_checkpoint(args) or
      tf.train.latest_checkpoint(args.output_dir))
  write_summary(estimator.eval_dir(name), result, step)
  return {**result, "global_step": step}, _shown_arrays(batches)


def _metrics_over(batches, metric_fn):
  """The Estimator's metrics of batches, computed as the Estimator does.

  Args:
    batches: list of dicts with `metric_input_0` ... and `loss`.
    metric_fn: function of the inputs.

  Returns:
    Dict name -> number.
  """
  names = sorted((name for name in batches[0] if name.startswith("metric_")),
                 key=lambda name: int(name.rsplit("_", 1)[1]))
  with tf.Graph().as_default():
    fed = {
        name: tf.compat.v1.placeholder(
            batches[0][name].dtype, [None] * np.ndim(batches[0][name]))
        for name in names + ["loss"]}
    metrics = metric_fn(*(fed[name] for name in names))
    metrics["loss"] = tf.compat.v1.metrics.mean(fed["loss"])
    with tf.compat.v1.Session() as session:
      session.run(tf.compat.v1.local_variables_initializer())
      for batch in batches:
        session.run([update for _, update in metrics.values()],
                    {tensor: batch[name] for name, tensor in fed.items()})
      return session.run({name: value for name, (value, _) in metrics.items()})


def _predicted_batches(args, estimator, input_fn, batch_size, num_rows, what,
                       unit, log_every, perf_name):
  """Batches of predictions in order, on rank 0; None elsewhere."""
  ranks = horovod_helpers.hvd_size() if is_distributed(args) else 1
  perf_hook = horovod_helpers.PerfLoggingHook(batch_size * ranks, "eval")
  hooks = [perf_hook] + (
      horovod_helpers.broadcast_hooks() if ranks > 1 else [])
  # The other ranks take what rank 0 has.
  path = (checkpoint_helpers.chosen_checkpoint(args)
          if horovod_helpers.is_chief() else None)
  batches = []
  with script_helpers.Progress(num_rows, what, unit, log_every) as progress:
    for batch in estimator.predict(
        input_fn=record_helpers.untuned(input_fn), hooks=hooks,
        yield_single_examples=False, checkpoint_path=path):
      batches.append(batch)
      progress.update(batch_size * ranks)
  estimator_helpers.write_perf(args, perf_hook, perf_name, ranks)
  if ranks == 1:
    return batches
  by_rank = horovod_helpers.gather_to_chief(batches)
  if by_rank is None:
    return None
  in_turn = itertools.zip_longest(*by_rank)
  return [batch for turn in in_turn for batch in turn if batch is not None]


def show_to_eval_hook(**tensors):
  """For a model_fn: names tensors [B, ...] that `EvalOutputsHook` collects."""
  for name, tensor in tensors.items():
    tf.compat.v1.add_to_collection(_EVAL_OUTPUTS + name, tensor)


def shown_tensors():
  """Collection name -> tensor of what a model_fn has shown."""
  graph = tf.compat.v1.get_default_graph()
  return {key: graph.get_collection(key)[-1]
          for key in graph.get_all_collection_keys()
          if isinstance(key, str) and key.startswith(_EVAL_OUTPUTS)}


def rows_of(arrays):
  """The rows of batches.

  Args:
    arrays: list of arrays [B, ...].

  Returns:
    Array [rows, ...]; where the batches are not of one length, list of arrays.
  """
  if len({array.shape[1:] for array in arrays}) == 1:
    return np.concatenate(arrays)
  return [row for array in arrays for row in array]


def _shown_arrays(batches):
  """What `show_to_eval_hook` named, name -> array [rows, ...], of batches."""
  return {key[len(_EVAL_OUTPUTS):]: np.concatenate([b[key] for b in batches])
          for key in batches[0] if key.startswith(_EVAL_OUTPUTS)}


class EvalOutputsHook(tf.estimator.SessionRunHook):
  """Keeps what the model gave for every row of an evaluation.

  Scores such as F1 or a rank correlation need all rows at once; with this
  hook they cost no second pass.

  Attributes:
    outputs: dict name -> array [rows, ...], after the evaluation.
  """

  def __init__(self, num_batches):
    """`num_batches`: int, for the progress bar."""
    self._num_batches = num_batches
    self.outputs = {}

  def begin(self):
    self._fetches = shown_tensors()
    self._batches = []
    self._bar = script_helpers.progress_bar(
        total=self._num_batches, desc="Evaluating", unit="batch")

  def before_run(self, run_context):
    return tf.estimator.SessionRunArgs(self._fetches)

  def after_run(self, run_context, run_values):
    self._batches.append(run_values.results)
    self._bar.update()

  def end(self, session):
    self._bar.close()
    self.outputs = _shown_arrays(self._batches)


def write_eval_results(path, result, title):
  """Logs the results of an evaluation and writes them as `key = value` lines.

  Args:
    path: string, the file.
    result: dict name -> number.
    title: string, for the log.
  """
  logging.info("***** %s *****", title)
  lines = [f"{key} = {result[key]}" for key in sorted(result)]
  for line in lines:
    logging.info("  %s", line)
  script_helpers.write_text(path, "".join(line + "\n" for line in lines))


def write_summary(folder, scores, step):
  """Adds scores to the TensorBoard file of a folder.

  Args:
    folder: string.
    scores: dict tag -> float.
    step: int.
  """
  with tf.Graph().as_default():  # The writer refuses to work eagerly.
    writer = tf.compat.v1.summary.FileWriterCache.get(folder)
  writer.add_summary(tf.compat.v1.Summary(value=[
      tf.compat.v1.Summary.Value(tag=tag, simple_value=value)
      for tag, value in scores.items()]), step)
  writer.flush()
