# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What the Estimator scripts share: run configuration, warm start, hooks."""

import os
import time

from absl import logging
import numpy as np
import tensorflow as tf

from demo import horovod_helpers
from demo import script_helpers

# Prefix of the graph collections through which a model_fn shows tensors to
# EvalOutputsHook.
_EVAL_OUTPUTS = "eval_outputs/"

# TensorFlow's checkpoint reader turns its errors into Python's, not always.
_READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)


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
  return tpu.RunConfig(
      cluster=resolver,
      master=args.master,
      model_dir=args.output_dir if chief else None,
      save_checkpoints_steps=(
          args.save_checkpoints_steps if chief else None),
      save_summary_steps=args.log_steps if chief else None,
      log_step_count_steps=args.log_steps,
      keep_checkpoint_max=keep_checkpoint_max,
      # Ranks must not drop out the same units or shuffle alike.
      tf_random_seed=(
          None if seed is None else seed + horovod_helpers.hvd_rank()),
      session_config=horovod_helpers.session_config(),
      tpu_config=tpu.TPUConfig(
          iterations_per_loop=args.iterations_per_loop,
          num_shards=args.num_tpu_cores,
          per_host_input_for_training=(
              tpu.InputPipelineConfig.PER_HOST_V2)))


def make_estimator(args, model_fn, keep_checkpoint_max=5, eval_batch_size=None):
  """The Estimator of a script.

  Args:
    args: the parsed flags (those of `run_config`, train_batch_size and
      predict_batch_size).
    model_fn: function of features, labels, mode and params.
    keep_checkpoint_max: int, checkpoints to keep.
    eval_batch_size: int or None, where the script evaluates with it.

  Returns:
    TPUEstimator; it runs on CPU and GPU too.
  """
  return tf.compat.v1.estimator.tpu.TPUEstimator(
      model_fn=model_fn,
      config=run_config(args, keep_checkpoint_max),
      use_tpu=args.use_tpu,
      eval_on_tpu=args.use_tpu,
      train_batch_size=args.train_batch_size,
      eval_batch_size=eval_batch_size,
      predict_batch_size=args.predict_batch_size)


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
  steps = int(num_examples / args.train_batch_size *
              args.num_train_epochs)
  warmup = int(steps * args.warmup_proportion)
  if steps // size < 1:
    raise ValueError(
        f"{num_examples} training examples make less than one step with "
        f"--train_batch_size={args.train_batch_size}, "
        f"--num_train_epochs={args.num_train_epochs} and {size} "
        f"rank(s). Use a smaller batch or more epochs.")
  return steps // size, warmup // size


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


def check_checkpoint(init_checkpoint, bert_config):
  """Reads an initial checkpoint through before any work is done.

  Args:
    init_checkpoint: string, checkpoint prefix.
    bert_config: BertConfig that it has to fit.

  Raises:
    ValueError: it is missing, cut short, or of another vocabulary or width.
  """
  shapes = _read_through(
      init_checkpoint, f"--init_checkpoint={init_checkpoint}")
  for name, rows, key in (
      ("bert/embeddings/word_embeddings", bert_config.vocab_size,
       "vocab_size"),
      ("bert/embeddings/position_embeddings",
       bert_config.max_position_embeddings, "max_position_embeddings")):
    if name in shapes and shapes[name] != [rows, bert_config.hidden_size]:
      raise ValueError(
          f"--init_checkpoint={init_checkpoint} does not fit "
          f"--bert_config_file: {name} has shape {shapes[name]}, {key} "
          f"and hidden_size say {[rows, bert_config.hidden_size]}. Use the "
          f"vocab.txt and bert_config.json of the same model.")


def check_output_checkpoint(output_dir, tvars):
  """Makes sure that a run can go on from what its output folder holds.

  TensorFlow restores a variable of another shape without a word, and leaves
  layers out that the model hasn't.

  Args:
    output_dir: string.
    tvars: list of the model's trainable variables.

  Returns:
    string, prefix of the newest checkpoint, or None.

  Raises:
    ValueError: it is damaged, or of another model.
  """
  path = tf.train.latest_checkpoint(output_dir)
  if path is None:
    return None
  saved = _read_through(path, f"{path}, the newest in --output_dir,")
  wanted = {var.op.name: var.shape.as_list() for var in tvars}
  layers = [name for name in saved
            if name.startswith("bert/") and "/adam_" not in name]
  for name in sorted(set(wanted) | set(layers)):
    if saved.get(name) != wanted.get(name):
      raise ValueError(
          f"{path} is of another model: {name} is {saved.get(name, 'missing')} "
          f"there and {wanted.get(name, 'missing')} here. Give this run "
          f"another --output_dir, or the flags of the run that wrote it.")
  return path


def steps_done(output_dir):
  """The global step of the newest checkpoint (int), 0 without one."""
  path = tf.train.latest_checkpoint(output_dir)
  try:
    return int(tf.train.load_variable(path, "global_step")) if path else 0
  except _READ_ERRORS as error:
    logging.warning("%s can't be read (%s).", path, _first_line(error))
    return 0


def _read_through(path, what):
  """Reads every value of a checkpoint; returns dict name -> shape (list)."""
  try:
    reader = tf.train.load_checkpoint(path)
  except _READ_ERRORS as error:
    if not tf.io.gfile.glob(path + ".index"):
      message = (f"{what}: there is no {path}.index. Give the prefix of a "
                 f"TensorFlow checkpoint, such as "
                 f"uncased_L-12_H-768_A-12/bert_model.ckpt.")
    else:
      message = (f"{what} can't be opened ({_first_line(error)}). Copy or "
                 f"download it again.")
    raise ValueError(message) from error
  shapes = reader.get_variable_to_shape_map()
  for name in sorted(shapes):
    try:
      reader.get_tensor(name)
    except _READ_ERRORS as error:
      raise ValueError(
          f"{what} is damaged: {name} can't be read ({_first_line(error)}). "
          f"Copy or download it again, or remove it.") from error
  return {name: list(shape) for name, shape in shapes.items()}


def _first_line(error):
  return str(getattr(error, "message", None) or error).splitlines()[0]


def check_warm_start(tvars, assignment_map, init_checkpoint):
  """Says what a checkpoint gives to the model, and refuses what doesn't fit.

  Args:
    tvars: list of the graph's trainable variables.
    assignment_map: dict checkpoint name -> variable, of
      `modeling.get_assignment_map_from_checkpoint`.
    init_checkpoint: string, checkpoint prefix.

  Returns:
    (loaded, fresh, unused): lists of variable names, those that the
    checkpoint gives, those that keep their initial values, and those of the
    checkpoint that the model has no place for.

  Raises:
    ValueError: nothing matches, or a shape differs (names the variables).
  """
  names = {var.op.name: var for var in tvars}
  saved = dict(tf.train.list_variables(init_checkpoint))
  loaded = sorted(assignment_map)
  fresh = sorted(set(names) - set(loaded))
  unused = sorted(set(saved) - set(loaded))
  if not loaded:
    raise ValueError(
        f"--init_checkpoint={init_checkpoint} has no variable of this model. "
        f"It holds {_some(unused)}; the model has {_some(fresh)}.")
  misfits = [f"{name} {saved[name]} instead of {names[name].shape.as_list()}"
             for name in loaded
             if list(saved[name]) != names[name].shape.as_list()]
  if misfits:
    raise ValueError(
        f"--init_checkpoint={init_checkpoint} does not fit this model: "
        f"{_some(misfits)}. Check --bert_config_file and the task's labels.")
  # model_fn is called for training, evaluation and prediction; once will do.
  logging.log_first_n(
      logging.INFO,
      "Warm start from %s: %d variables loaded; fresh: %s; not used: %s.", 1,
      init_checkpoint, len(loaded), _some(fresh), _some(unused))
  return loaded, fresh, unused


def warm_start(get_assignment_map, init_checkpoint, use_tpu):
  """Takes the graph's initial values from a checkpoint that fits.

  Args:
    get_assignment_map: `modeling.get_assignment_map_from_checkpoint`.
    init_checkpoint: string, checkpoint prefix.
    use_tpu: bool.

  Returns:
    The scaffold_fn that a TPU needs for it, None elsewhere.

  Raises:
    ValueError: see `check_warm_start`.
  """
  tvars = tf.compat.v1.trainable_variables()
  assignment_map, _ = get_assignment_map(tvars, init_checkpoint)
  check_warm_start(tvars, assignment_map, init_checkpoint)

  def scaffold_fn():
    tf.compat.v1.train.init_from_checkpoint(init_checkpoint, assignment_map)
    return tf.compat.v1.train.Scaffold()

  if use_tpu:
    return scaffold_fn
  tf.compat.v1.train.init_from_checkpoint(init_checkpoint, assignment_map)
  return None


def check_checkpoints(args, bert_config, build_model, get_assignment_map):
  """Refuses checkpoints that don't fit, before the data are converted.

  Args:
    args: the parsed flags.
    bert_config: modeling.BertConfig.
    build_model: function of int32 ids [1, 2] that builds the script's model.
    get_assignment_map: `modeling.get_assignment_map_from_checkpoint`.

  Raises:
    ValueError: one doesn't fit, or there is none and no training.
  """
  with tf.Graph().as_default():
    build_model(tf.zeros([1, 2], tf.int32))
    trained = check_output_checkpoint(
        args.output_dir, tf.compat.v1.trainable_variables())
    if args.init_checkpoint:
      check_checkpoint(args.init_checkpoint, bert_config)
      warm_start(get_assignment_map, args.init_checkpoint, use_tpu=False)
  if not (trained or args.init_checkpoint or args.do_train):
    raise ValueError(
        f"There is no model to evaluate or predict with: "
        f"--output_dir={args.output_dir} has no checkpoint. Pass --do_train, "
        f"or --init_checkpoint.")


def train(args, estimator, input_fn, num_examples, num_train_steps,
          rate_collection):
  """Trains up to a step, unless the newest checkpoint is already there.

  Args:
    args: the parsed flags.
    estimator: TPUEstimator.
    input_fn: function of params, the records of this rank.
    num_examples: int, training examples of all ranks, for the log.
    num_train_steps: int, step at which the training ends.
    rate_collection: string, graph collection with the learning rate.
  """
  size = horovod_helpers.hvd_size()
  logging.info("***** Running training *****")
  logging.info("  Num examples = %d", num_examples)
  logging.info("  Batch size = %d per rank, %d in total",
               args.train_batch_size, args.train_batch_size * size)
  logging.info("  Num steps = %d", num_train_steps)
  # Rank 0's word counts: were one rank to train and another not, they would
  # wait for each other.
  if horovod_helpers.chief_value(
      steps_done(args.output_dir)) >= num_train_steps:
    logging.warning(
        "The newest checkpoint in %s has all %d steps already: nothing is "
        "trained. Give a new run another --output_dir.", args.output_dir,
        num_train_steps)
    return
  hooks = horovod_helpers.training_hooks()
  listeners = []
  if horovod_helpers.is_chief():
    hooks.append(ProgressHook(num_train_steps, args.train_batch_size,
                              args.log_steps, rate_collection))
    if estimator.config.keep_checkpoint_max == 1:
      listeners.append(
          _FirstCheckpointListener(args.output_dir, num_train_steps))
  estimator.train(input_fn=input_fn, max_steps=num_train_steps, hooks=hooks,
                  saving_listeners=listeners)


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


def _some(names):
  """The first few of a list of names, in words."""
  shown = ", ".join(names[:4]) or "none"
  return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


class ProgressHook(tf.estimator.SessionRunHook):
  """Shows loss, learning rate, examples/s and remaining time of a training.

  On a terminal a bar that moves with every step, and a line at the end;
  elsewhere a line after the first step, every `log_steps` steps and at the end.
  The loss of a line is the mean of the last `log_steps` steps at most.
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
    self._fetches = {
        "loss": tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.LOSSES)[-1],
        "rate": tf.compat.v1.get_collection(self._rate_collection)[-1]}
    self._global_step = tf.compat.v1.train.get_global_step()

  def after_create_session(self, session, coord):
    self._step = int(session.run(self._global_step))
    self._bar = script_helpers.progress_bar(
        total=self._num_train_steps, desc="Training", unit="step")
    self._bar.update(self._step)
    if self._step:
      logging.info("Going on from step %d.", self._step)
    self._losses = []
    self._first_step = self._step + 1
    self._last_time = time.monotonic()
    self._last_step = self._step

  def before_run(self, run_context):
    return tf.estimator.SessionRunArgs(self._fetches)

  def after_run(self, run_context, run_values):
    self._step += 1
    self._losses.append(float(run_values.results["loss"]))
    rate = float(run_values.results["rate"])
    if not self._bar.disable:
      self._bar.set_postfix_str(
          f"loss {self._losses[-1]:.4f}, rate {rate:.3g}, "
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

  def _log_line(self, rate):
    remaining = self._num_train_steps - self._step
    now = time.monotonic()
    seconds = (now - self._last_time) / max(self._step - self._last_step, 1)
    line = (f"step {self._step}/{self._num_train_steps} "
            f"({100.0 * self._step / self._num_train_steps:.0f} %)  "
            f"loss {np.mean(self._losses[-self._log_steps:]):.4f}  "
            f"learning rate {rate:.3g}")
    if self._step > self._first_step:
      line += (f"  {self._throughput()}  remaining "
               f"{duration(remaining * seconds)}")
    logging.info("%s", line)
    self._losses = []
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


def show_to_eval_hook(**tensors):
  """For a model_fn: names tensors [B, ...] that `EvalOutputsHook` collects."""
  for name, tensor in tensors.items():
    tf.compat.v1.add_to_collection(_EVAL_OUTPUTS + name, tensor)


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
    graph = tf.compat.v1.get_default_graph()
    self._fetches = {
        key[len(_EVAL_OUTPUTS):]: graph.get_collection(key)[-1]
        for key in graph.get_all_collection_keys()
        if isinstance(key, str) and key.startswith(_EVAL_OUTPUTS)}
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
    self.outputs = {
        name: np.concatenate([batch[name] for batch in self._batches])
        for name in self._fetches}


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
