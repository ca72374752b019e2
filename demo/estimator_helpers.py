# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What the Estimator scripts share: run configuration and training."""

import collections
import contextlib
import json
import math
import os
import signal
import tempfile
import time
import uuid

from absl import logging
import numpy as np
import tensorflow as tf
from tensorflow.python.training import monitored_session
from tensorflow.python.training import training_util
from tensorflow_estimator.python.estimator.tpu import error_handling
from tensorflow_estimator.python.estimator.tpu import tpu_config

from demo import checkpoint_helpers
from demo import gradient_helpers
from demo import horovod_helpers
from demo import padding_helpers
from demo import perf_helpers
from demo import record_helpers
from demo import script_helpers
from demo import xla_helpers

# Prefix of the graph collections through which a model_fn shows scores to
# ProgressHook.
_SHOWN_SCORES = "shown_scores/"


def run_config(args, keep_checkpoint_max=5):
  """The RunConfig of a script.

  Rank 0 saves checkpoints and summaries in the output folder, the other ranks
  save nothing.

  Args:
    args: the parsed flags (output_dir, save_checkpoints_steps,
      random_seed, log_steps and those of `define_tpu_flags`).
    keep_checkpoint_max: int, checkpoints to keep.

  Returns:
    tf.compat.v1.estimator.tpu.RunConfig.
  """
  tpu = tf.compat.v1.estimator.tpu
  resolver = None
  if args.use_tpu and args.tpu_name:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
        args.tpu_name, zone=args.tpu_zone,
        project=args.gcp_project)
  chief = horovod_helpers.is_chief()
  seed = args.random_seed
  # The Estimator makes a temporary folder where it is given none; one that is
  # only named is never made, since nothing is saved.
  model_dir = args.output_dir if chief else os.path.join(
      tempfile.gettempdir(), f"bert_saves_nothing_{uuid.uuid4().hex}")
  return tpu.RunConfig(
      cluster=resolver,
      master=args.master,
      model_dir=model_dir,
      save_checkpoints_steps=(
          args.save_checkpoints_steps if chief else None),
      save_summary_steps=args.log_steps if chief else None,
      log_step_count_steps=args.log_steps if chief else None,
      keep_checkpoint_max=keep_checkpoint_max,
      # Ranks must not drop out the same units or shuffle alike.
      tf_random_seed=(
          None if seed is None else seed + horovod_helpers.hvd_rank()),
      session_config=horovod_helpers.session_config(),
      # Under the name tpu.TPUConfig it comes with a warning, for which
      # TensorFlow reads the sources of all callers: a quarter of a second.
      tpu_config=tpu_config.TPUConfig(
          iterations_per_loop=args.iterations_per_loop,
          num_shards=args.num_tpu_cores,
          per_host_input_for_training=(
              tpu_config.InputPipelineConfig.PER_HOST_V2)))


def make_estimator(args, model_fn, keep_checkpoint_max=5, eval_batch_size=None,
                   predict_batch_size=None):
  """The Estimator of a script.

  Args:
    args: the parsed flags (those of `run_config`, of `update_batch_size` and
      predict_batch_size).
    model_fn: function of features, labels, mode and params.
    keep_checkpoint_max: int, checkpoints to keep, unless the flag says it.
    eval_batch_size: int or None, where the script evaluates with it.
    predict_batch_size: int; None takes the flag.

  Returns:
    TPUEstimator; it runs on CPU and GPU too.
  """
  if not args.use_tpu:
    _end_on_any_error()
  training_util.write_graph = _write_graph
  return tf.compat.v1.estimator.tpu.TPUEstimator(
      model_fn=model_fn,
      config=run_config(args, args.keep_checkpoint_max or keep_checkpoint_max),
      use_tpu=args.use_tpu,
      eval_on_tpu=args.use_tpu,
      train_batch_size=update_batch_size(args),
      eval_batch_size=eval_batch_size,
      predict_batch_size=predict_batch_size or args.predict_batch_size)


def _end_on_any_error():
  """Makes sessions end with an error that they would start anew after.

  Where a network disk or a rank does not answer, TensorFlow makes a new session
  without a word, and the TPUEstimator drops the error if that fails: rows would
  be predicted twice, a training end early, a rank wait for others that have
  gone on.
  """
  # pylint: disable=protected-access
  monitored_session._PREEMPTION_ERRORS = ()
  error_handling._IGNORED_ERRORS = ()


def _write_graph(graph_def, folder, name):
  """Writes graph.pbtxt, of which a training's first step waits for the end.

  TensorFlow makes the text in Python; what makes the message's `str` takes a
  tenth of the time, most of a second for a small model.

  Args:
    graph_def: GraphDef.
    folder: string.
    name: string, of the file.
  """
  script_helpers.write_text(os.path.join(folder, name), str(graph_def))


def update_batch_size(args):
  """The training examples of a rank from one update to the next (int).

  Args:
    args: the parsed flags (train_batch_size and num_accumulation_steps).
  """
  return args.train_batch_size * args.num_accumulation_steps


def training_steps(num_examples, args):
  """Steps of the training and of its warm-up.

  The flags' batch is that of one rank, so the steps of one rank alone are
  divided by the number of ranks, once.

  Args:
    num_examples: int, training examples of all ranks together.
    args: the parsed flags.

  Returns:
    (num_train_steps, num_warmup_steps), ints.

  Raises:
    ValueError: not even one step.
  """
  size = horovod_helpers.hvd_size()
  if num_examples < size:
    raise ValueError(
        f"{num_examples} training examples are not enough for {size} ranks: "
        f"each needs one at least.")
  if args.max_steps:
    return args.max_steps, int(args.max_steps * args.warmup_proportion)
  steps = int(num_examples / update_batch_size(args) *
              args.num_train_epochs)
  if steps // size < 1:
    accumulation = (
        f"--num_accumulation_steps={args.num_accumulation_steps}, "
        if args.num_accumulation_steps > 1 else "")
    raise ValueError(
        f"{num_examples} training examples make less than one step with "
        f"--train_batch_size={args.train_batch_size}, {accumulation}"
        f"--num_train_epochs={args.num_train_epochs} and {size} "
        f"rank(s). Use a smaller batch or more epochs.")
  return steps // size, int(steps * args.warmup_proportion) // size


def effective_learning_rate(args):
  """The learning rate times the number of ranks, unless that is turned off."""
  size = horovod_helpers.hvd_size()
  rate = args.learning_rate
  if args.scale_learning_rate:
    rate *= size
  if size > 1:
    logging.info("Learning rate %g: --learning_rate=%g%s.", rate,
                 args.learning_rate,
                 f" times {size} ranks" if args.scale_learning_rate
                 else " as it is")
  return rate


def _log_begin(args, steps_done):
  """Says that a training begins with random weights, where it does."""
  if not steps_done and not any(getattr(args, flag, None) for flag in (
      "init_checkpoint", "bert_hub_module_handle")):
    logging.info("  Weights = random, for there is no --init_checkpoint")


def train(args, estimator, input_fn, num_examples, num_train_steps,
          rate_collection, first_synapse_step, evaluation=None):
  """Trains up to a step, unless the newest checkpoint is already there.

  Args:
    args: the parsed flags.
    estimator: TPUEstimator.
    input_fn: function of params, the records of this rank.
    num_examples: int, training examples of all ranks, for the log; None
      where nobody has counted them.
    num_train_steps: int, step at which the training ends.
    rate_collection: string, graph collection with the learning rate.
    first_synapse_step: int, see `horovod_helpers.synapse_hooks`.
    evaluation: evaluation_helpers.Evaluation, or None.

  Raises:
    script_helpers.Stopped: SIGTERM or SIGUSR1 came; a checkpoint is saved.
    script_helpers.AgreedError: the loss went above --loss_upper_bound.
  """
  batch_size = update_batch_size(args)
  total_batch_size = batch_size * horovod_helpers.hvd_size()
  logging.info("***** Running training *****")
  if num_examples is not None:
    logging.info("  Num examples = %d", num_examples)
  logging.info("  Batch size = %d per rank, %d in total", batch_size,
               total_batch_size)
  if args.num_accumulation_steps > 1:
    logging.info("  An update = %d batches of %d",
                 args.num_accumulation_steps, args.train_batch_size)
  logging.info("  Num steps = %d", num_train_steps)
  # Rank 0's word counts: were one rank to train and another not, they would
  # wait for each other.
  steps_done = horovod_helpers.gather(
      checkpoint_helpers.steps_done(args.output_dir))
  if max(steps_done) > steps_done[0]:
    rank = steps_done.index(max(steps_done))
    logging.warning(
        "Rank %d has a checkpoint of step %d in its --output_dir, rank 0 one "
        "of step %d, which counts. Was another server the first one before?",
        rank, steps_done[rank], steps_done[0])
  is_over = evaluation and evaluation.decide(
      lambda: evaluation.catch_up(steps_done[0], num_train_steps),
      lambda word: horovod_helpers.gather(word)[0])
  if is_over:
    logging.warning(
        "The training in %s ended early, at step %d: nothing is trained. Give "
        "a higher --early_stopping_patience to go on.", args.output_dir,
        steps_done[0])
  elif steps_done[0] >= num_train_steps:
    logging.warning(
        "The newest checkpoint in %s has all %d steps already: nothing is "
        "trained. Give a new run another --output_dir.", args.output_dir,
        num_train_steps)
  if is_over or steps_done[0] >= num_train_steps:
    if evaluation:  # The run that trained may have died before.
      evaluation.finish()
    return
  _log_begin(args, steps_done[0])
  if args.random_seed is not None and steps_done[0]:
    input_fn = _going_on(input_fn, steps_done[0])
  perf_hook = horovod_helpers.PerfLoggingHook(total_batch_size, "train")
  hooks = [perf_hook, *horovod_helpers.broadcast_hooks()]
  hooks += horovod_helpers.synapse_hooks(first_synapse_step)
  listeners = []
  hooks += _loss_bound_hooks(args, listeners)
  if horovod_helpers.is_chief():
    if args.use_xla:
      if getattr(args, "dynamic_padding", False):
        logging.info("The training step is compiled for each length of batches "
                     "(--dynamic_padding), up to %d.",
                     padding_helpers.XLA_LENGTHS)
      hooks.append(xla_helpers.FirstStepsHook())
    if args.profile_steps:
      hooks.append(perf_helpers.ProfilerHook(
          *perf_helpers.parse_profile_steps(args.profile_steps),
          args.output_dir))
    hooks.append(ProgressHook(num_train_steps, batch_size,
                              args.log_steps, rate_collection))
    if estimator.config.keep_checkpoint_max == 1:
      listeners.append(
          _FirstCheckpointListener(args.output_dir, num_train_steps))
  compiling = (xla_helpers.compiling(estimator) if args.use_xla
               else contextlib.nullcontext())
  with script_helpers.deferred_stop() as stop, compiling:
    stop_hook = _StopTogetherHook(stop)
    hooks.append(stop_hook)
    if evaluation:
      hooks += evaluation.hooks(num_train_steps, stop_hook.largest)
    estimator.train(
        input_fn=record_helpers.untuned(input_fn), max_steps=num_train_steps,
        hooks=hooks, saving_listeners=listeners)
    horovod_helpers.barrier()  # Until rank 0 has saved the last checkpoint.
    if stop_hook.signal is not None:
      raise script_helpers.Stopped(
          stop_hook.signal,
          f"stopped by {signal.Signals(stop_hook.signal).name}. "
          f"The checkpoint of step "
          f"{checkpoint_helpers.steps_done(args.output_dir)} is saved in "
          f"{args.output_dir}; the same command goes on from there.")
  write_perf(args, perf_hook, "train", horovod_helpers.hvd_size())
  if evaluation:
    evaluation.finish()


def _going_on(input_fn, batches_done):
  """An input_fn without the first batches, which a run has trained on."""
  def rest(params):
    logging.info("Passing over the %d batches that this run has trained on.",
                 batches_done)
    return input_fn({**params, record_helpers.BATCHES_DONE: batches_done})

  return rest


def write_perf(args, hook, name, ranks):
  """Adds what a PerfLoggingHook measured to perf.json, if that is wanted.

  Args:
    args: the parsed flags.
    hook: PerfLoggingHook, after its run.
    name: string, key in the file.
    ranks: int, how many worked.
  """
  if not (args.write_perf and horovod_helpers.is_chief()):
    return
  path = os.path.join(args.output_dir, "perf.json")
  content = checkpoint_helpers.read_json(path) or {}
  content[name] = {"ranks": ranks, **hook.statistics}
  script_helpers.write_text(path, json.dumps(content, indent=2) + "\n")


class _StopTogetherHook(tf.estimator.SessionRunHook):
  """Ends a training on all ranks after the same step, when one is asked to.

  Attributes:
    signal: int or None, the signal that ended it, on every rank.
  """

  def __init__(self, stop):
    """`stop`: what `script_helpers.deferred_stop` gives."""
    self._stop = stop
    self.signal = None

  def begin(self):
    self._own = tf.compat.v1.placeholder_with_default(
        tf.constant(0, tf.int32), [], name="stop_request")
    with tf.device("CPU:0"):
      self._all = horovod_helpers.max_of_ranks(self._own)

  def largest(self, session, value):
    """The largest of the ranks' values (int); all ranks have to call it."""
    return int(session.run(self._all, {self._own: value}))

  def before_run(self, run_context):
    return tf.estimator.SessionRunArgs(
        self._all, feed_dict={self._own: self._stop.signal or 0})

  def after_run(self, run_context, run_values):
    if run_values.results:
      self.signal = int(run_values.results)
      run_context.request_stop()


def _loss_bound_hooks(args, listeners):
  """The hook of --loss_upper_bound, in a list; it gets its listener."""
  if args.loss_upper_bound is None:
    return []
  hook = _LossBoundHook(args.loss_upper_bound, args.output_dir)
  if horovod_helpers.is_chief():  # The others save none.
    listeners.append(_LossBoundListener(hook))
  return [hook]


class _LossBoundHook(tf.estimator.SessionRunHook):
  """Ends a training on all ranks when the loss of one goes above a bound."""

  def __init__(self, bound, output_dir):
    """Takes the bound (float) and the folder of the checkpoints."""
    self._bound = bound
    self._output_dir = output_dir

  def begin(self):
    loss = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.LOSSES)[-1]
    # A scope of its own, see `horovod_helpers.max_of_ranks`.
    with tf.name_scope("loss_bound"), tf.device("CPU:0"):
      loss = horovod_helpers.max_of_ranks(
          tf.where(tf.math.is_nan(loss), math.inf, tf.cast(loss, tf.float32)))
      # Checkpoints are saved before this hook is given what it fetches.
      self._last = tf.compat.v1.get_local_variable(
          "last_loss", [], initializer=tf.zeros_initializer())
      self._update = self._last.assign(loss)
    self._global_step = tf.compat.v1.train.get_global_step()

  def before_run(self, run_context):
    return tf.estimator.SessionRunArgs(self._update)

  def after_run(self, run_context, run_values):
    self.check(run_context.session, run_values.results)

  def check(self, session, loss=None):
    """Raises AgreedError if the last loss (float32) is above the bound."""
    loss = session.run(self._last) if loss is None else loss
    if loss <= self._bound:
      return
    step = int(session.run(self._global_step))
    words = f"is {loss:g}" if np.isfinite(loss) else "became infinite or NaN"
    raise script_helpers.AgreedError(
        f"the loss {words} at step {step}, --loss_upper_bound={self._bound:g}: "
        f"try a smaller --learning_rate or a longer warm-up. "
        f"{self._what_is_left(step)}")

  def _what_is_left(self, step):
    """Which checkpoint is good, in words; that of `step` - 1 gave the loss."""
    saved = checkpoint_helpers.saved_steps(self._output_dir)
    good = [path for saved_step, path in saved if saved_step < step - 1]
    found = (f"The last good checkpoint is kept: {good[-1]}." if good else
             f"No good checkpoint is kept in {self._output_dir}.")
    if saved and saved[-1][0] == step - 1:
      found += (f" {os.path.basename(saved[-1][1])} has the weights of this "
                f"loss, so start anew, with another --output_dir"
                f"{' and the good one as --init_checkpoint' if good else ''}.")
    return found


class _LossBoundListener(tf.estimator.CheckpointSaverListener):
  """Keeps a checkpoint from being saved after the step that ends the run."""

  def __init__(self, hook):
    """`hook`: _LossBoundHook of the same training."""
    self._hook = hook

  def before_save(self, session, global_step_value):
    self._hook.check(session)


class _FirstCheckpointListener(tf.estimator.CheckpointSaverListener):
  """Where one checkpoint is kept, lets that of step 0 go with the next but one.

  A run too short for a checkpoint on its way leaves those of its first and its
  last step, as upstream's does; any other leaves one.
  """

  def __init__(self, output_dir, num_train_steps):
    """Takes the folder, and the step (int) at which the training ends."""
    self._num_train_steps = num_train_steps
    first = os.path.join(output_dir, "model.ckpt-0")
    # Of an earlier run, which this one goes on with.
    self._kept = [first] if tf.io.gfile.exists(first + ".index") else []

  def begin(self):
    (self._saver,) = tf.compat.v1.get_collection(
        tf.compat.v1.GraphKeys.SAVERS)

  def before_save(self, session, global_step_value):
    if self._kept and global_step_value < self._num_train_steps:
      self._set_counted(self._kept + self._saver.last_checkpoints)
      self._kept = []

  def after_save(self, session, global_step_value):
    if global_step_value == 0:
      self._kept = self._saver.last_checkpoints
      self._set_counted([])

  def _set_counted(self, paths):
    """Sets the checkpoints that count, the oldest of which goes first."""
    now = time.time()
    self._saver.set_last_checkpoints_with_time([(path, now) for path in paths])


def show_in_progress(**scores):
  """For a model_fn: names scalars that TensorBoard and `ProgressHook` show.

  Args:
    **scores: float32 scalar tensors, of one batch.
  """
  for name, tensor in scores.items():
    tf.compat.v1.summary.scalar(name, tensor)
    tf.compat.v1.add_to_collection(_SHOWN_SCORES + name, tensor)


class ProgressHook(tf.estimator.SessionRunHook):
  """Shows loss, learning rate, examples/s and remaining time of a training.

  On a terminal a bar that moves with every step, and a line at the end;
  elsewhere a line after the first step, every `log_steps` steps and at the end.
  The loss and other scores (`show_in_progress`) of a line are the means of the
  last `log_steps` steps at most; the loss scale is that of the last.
  """

  def __init__(self, num_train_steps, batch_size, log_steps, rate_collection):
    """Takes the size of the training.

    Args:
      num_train_steps: int, step at which the training ends.
      batch_size: int, examples per step and rank.
      log_steps: int, steps between two lines.
      rate_collection: string, graph collection with the learning rate.
    """
    self._rate_collection = rate_collection
    self._num_train_steps = num_train_steps
    self._batch_size = batch_size
    self._log_steps = log_steps

  def begin(self):
    graph = tf.compat.v1.get_default_graph()
    scores = collections.OrderedDict(
        loss=graph.get_collection(tf.compat.v1.GraphKeys.LOSSES)[-1])
    for key in graph.get_all_collection_keys():
      if isinstance(key, str) and key.startswith(_SHOWN_SCORES):
        scores[key[len(_SHOWN_SCORES):]] = graph.get_collection(key)[-1]
    self._fetches = {
        "rate": graph.get_collection(self._rate_collection)[-1],
        "scores": scores, "states": gradient_helpers.training_states()}
    self._global_step = tf.compat.v1.train.get_global_step()

  def after_create_session(self, session, coord):
    self._step = int(session.run(self._global_step))
    self._bar = script_helpers.progress_bar(
        total=self._num_train_steps, desc="Training", unit="step")
    self._bar.update(self._step)
    if self._step:
      logging.info("Going on from step %d.", self._step)
    self._scores = []  # Dicts, of the steps since the last line.
    self._states = {}  # Of the last step.
    self._first_step = self._step + 1
    self._last_time = time.monotonic()
    self._last_step = self._step

  def before_run(self, run_context):
    return tf.estimator.SessionRunArgs(self._fetches)

  def after_run(self, run_context, run_values):
    self._step += 1
    self._scores.append(run_values.results["scores"])
    self._states = run_values.results["states"]
    rate = float(run_values.results["rate"])
    if not self._bar.disable:
      self._bar.set_postfix_str(
          f"loss {self._scores[-1]['loss']:.4f}, rate {rate:.3g}, "
          f"{self._throughput()}", refresh=False)
      self._bar.update()
    is_due = (self._step == self._first_step or
              self._step % self._log_steps == 0)
    if self._step == self._num_train_steps or self._bar.disable and is_due:
      self._log_line(rate)
    elif self._step == self._first_step:
      # It also prepares the graph, so its speed means nothing.
      self._last_time, self._last_step = time.monotonic(), self._step

  def end(self, session):
    self._bar.close()
    if self._states:
      logging.info(
          "Steps without an update, since their gradients were not finite: %d. "
          "Loss scale %g.", self._states[gradient_helpers.SKIPPED_STEPS],
          self._states[gradient_helpers.LOSS_SCALE])

  def _log_line(self, rate):
    remaining = self._num_train_steps - self._step
    now = time.monotonic()
    seconds = (now - self._last_time) / max(self._step - self._last_step, 1)
    recent = self._scores[-self._log_steps:]
    scores = "  ".join(
        f"{name} {np.mean([scores[name] for scores in recent]):.4f}"
        for name in recent[-1])
    line = (f"step {self._step}/{self._num_train_steps} "
            f"({100.0 * self._step / self._num_train_steps:.0f} %)  "
            f"{scores}  learning rate {rate:.3g}")
    for name, value in self._states.items():
      line += f"  {name} {value:g}"
    if self._step > self._first_step:
      line += (f"  {self._throughput()}  remaining "
               f"{duration(remaining * seconds)}")
    logging.info("%s", line)
    self._scores = []
    self._last_time, self._last_step = now, self._step

  def _throughput(self):
    """Examples/s since the last line, or since the start on a terminal."""
    steps = self._step - self._last_step
    seconds = max(time.monotonic() - self._last_time, 1e-9)
    per_rank = steps * self._batch_size / seconds
    size = horovod_helpers.hvd_size()
    if size == 1:
      return f"{per_rank:.1f} examples/s"
    return (f"{per_rank:.1f} examples/s per rank, {per_rank * size:.1f} in "
            f"total")


def duration(seconds):
  """Seconds in words: 3725 -> "1h 02m 05s"."""
  seconds = int(round(seconds))
  hours, rest = divmod(seconds, 3600)
  minutes, seconds = divmod(rest, 60)
  if hours:
    return f"{hours}h {minutes:02d}m {seconds:02d}s"
  return f"{minutes}m {seconds:02d}s" if minutes else f"{seconds}s"
