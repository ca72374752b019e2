# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Evaluation of many checkpoints: within a training, or of a folder.

One graph and one session serve all checkpoints. What was found stands in
`evaluations.json` beside the checkpoints, the best model in `best/`. A
checkpoint is saved before it is evaluated, and its scores are written after the
best model was, so a run that dies anywhere goes on as if it hadn't.
"""

import json
import math
import os
import time

from absl import logging
import tensorflow as tf

from demo import checkpoint_helpers
from demo import curve_helpers
from demo import horovod_helpers
from demo import prediction_helpers
from demo import record_helpers
from demo import script_helpers

_POLL_SECONDS = 2.0
# Seconds between two words of rank 0 to the ranks that wait for its evaluation:
# Horovod warns of a rank that is late after 60.
_WORD_SECONDS = 20.0
_AT_WORK = 2  # That word; others are 0 and 1, whether the training ends.


def check_flags(args, metrics):
  """Refuses flags of evaluation that can't work together.

  Args:
    args: the parsed flags.
    metrics: tuple of string, the scores of the task, the main one first.

  Raises:
    ValueError: names the flags.
  """
  several = [flag for flag in ("eval_all_checkpoints", "continuous_eval")
             if getattr(args, flag)]
  if args.early_stopping_patience and not args.eval_every_steps:
    raise ValueError(
        f"--early_stopping_patience={args.early_stopping_patience} counts "
        f"evaluations: pass --eval_every_steps.")
  if args.best_metric and not (args.eval_every_steps or several):
    raise ValueError(
        f"--best_metric={args.best_metric} picks one of several evaluations: "
        f"pass --eval_every_steps or --eval_all_checkpoints.")
  if args.eval_every_steps and args.use_tpu:
    raise ValueError("--eval_every_steps works on CPUs and GPUs: leave it out "
                     "with --use_tpu.")
  if several and not args.do_eval:
    raise ValueError(f"--{several[0]} goes with --do_eval.")
  if args.continuous_eval and (args.do_train or args.eval_all_checkpoints):
    raise ValueError(
        "--continuous_eval waits for the checkpoints of another process: leave "
        "out --do_train and --eval_all_checkpoints.")
  metric = _metric(args, metrics)
  if horovod_helpers.is_chief() and (
      args.eval_every_steps and args.do_train or args.continuous_eval):
    _check_same_metric(args.output_dir, metric)


def _check_same_metric(output_dir, metric):
  """Refuses to go on with another score than the one that best/ went by."""
  before = EvaluationLog(output_dir, metric).metric_before
  if before not in (None, metric) and tf.train.latest_checkpoint(output_dir):
    raise ValueError(
        f"--best_metric={metric}: the best model in --output_dir={output_dir} "
        f"was chosen by {before}, and the others are gone. Give "
        f"--best_metric={before}, or another --output_dir.")


def is_wanted(args):
  """Whether the flags ask for the scores of several checkpoints."""
  return bool(args.eval_every_steps and args.do_train or
              args.eval_all_checkpoints or args.continuous_eval)


def within_training(args, metrics, scorer):
  """The Evaluation of a training; None without --eval_every_steps.

  Args:
    args: the parsed flags.
    metrics: tuple of string, see `Evaluation`, as `scorer`.
  """
  return Evaluation(args, metrics, scorer) if args.eval_every_steps else None


def evaluate_several(args, metrics, scorer):
  """What --eval_all_checkpoints and --continuous_eval ask for, on rank 0."""
  if scorer and args.eval_all_checkpoints:
    evaluate_all(args, metrics, scorer)
  elif scorer and args.continuous_eval:
    evaluate_as_they_come(args, Evaluation(args, metrics, scorer))


def _metric(args, metrics):
  """The score that tells the best checkpoint (string)."""
  if not args.best_metric:
    return metrics[0]
  metric = args.best_metric
  for name in (metric, metric.replace("eval_", "", 1)):
    if name in metrics:
      return name
  raise ValueError(f"--best_metric={metric}: this task's scores are "
                   f"{', '.join(metrics)}.")


def _nothing():
  """What comes after a batch that nobody waits for."""


class CheckpointScorer(object):
  """Gives the scores of checkpoints, one graph and session for all.

  Attributes:
    after_batch: function that is called after each batch.
  """

  def __init__(self, model_fn, mode, input_fns, batch_size, score):
    """Takes what to evaluate; the graph is built when it is first needed.

    Args:
      model_fn: function of features, labels, mode and params.
      mode: tf.estimator.ModeKeys, EVAL or PREDICT.
      input_fns: dict name of a data set ("" for the main one) -> function of
        params, whose Datasets end and have the same elements.
      batch_size: int.
      score: function of (name, result, outputs) that returns a dict score ->
        float: `result` has the means of the model_fn's metrics and `loss`,
        `outputs` what it shows with `prediction_helpers.show_to_eval_hook`,
        or its predictions, name -> array [rows, ...], or what else
        `prediction_helpers.rows_of` makes of them.
    """
    self._model_fn, self._mode = model_fn, mode
    self._input_fns, self._batch_size = input_fns, batch_size
    self._score = score
    self._session = None
    self.after_batch = _nothing

  def __call__(self, path):
    """Returns the scores of a checkpoint.

    Args:
      path: string, its prefix.

    Returns:
      Dict score -> float; those of the data set `mismatched` have its name at
      their end.
    """
    if self._session is None:
      self._build()
    with self._session.graph.as_default():  # Else the Saver is eager.
      self._saver.restore(self._session, path)
    scores = {}
    for name in self._input_fns:
      result, outputs = self._run(name)
      scores.update({
          f"{key}_{name}" if name else key: float(value)
          for key, value in self._score(name, result, outputs).items()})
    return scores

  def save(self, path):
    """Saves the model that was scored last, without optimizer slots.

    Args:
      path: string, prefix of the checkpoint.
    """
    with self._session.graph.as_default():
      self._saver.save(self._session, path, write_meta_graph=False,
                       write_state=False)

  def _build(self):
    params = {"batch_size": self._batch_size}
    data = tf.compat.v1.data
    with tf.Graph().as_default() as graph:
      tf.compat.v1.train.get_or_create_global_step()
      datasets = {name: record_helpers.untuned(input_fn)(params)
                  for name, input_fn in self._input_fns.items()}
      main = next(iter(datasets.values()))
      iterator = data.Iterator.from_structure(
          data.get_output_types(main), data.get_output_shapes(main))
      self._starts = {name: iterator.make_initializer(dataset)
                      for name, dataset in datasets.items()}
      spec = self._model_fn(iterator.get_next(), None, self._mode, params)
      metrics = {}
      if self._mode == tf.estimator.ModeKeys.EVAL:
        metric_fn, inputs = spec.eval_metrics
        metrics = metric_fn(*inputs)
        metrics["loss"] = tf.compat.v1.metrics.mean(spec.loss)
        outputs = {key.rsplit("/", 1)[1]: tensor for key, tensor in
                   prediction_helpers.shown_tensors().items()}
      else:
        outputs = spec.predictions
      self._fetches = (outputs, [update for _, update in metrics.values()])
      self._values = {name: value for name, (value, _) in metrics.items()}
      self._local = tf.compat.v1.local_variables_initializer()
      self._saver = tf.compat.v1.train.Saver(
          tf.compat.v1.global_variables(), max_to_keep=None)
      tables = tf.compat.v1.tables_initializer()
    self._session = tf.compat.v1.Session(
        graph=graph, config=horovod_helpers.session_config())
    self._session.run(tables)

  def _run(self, name):
    """(result, outputs) of one data set, see `__init__`."""
    self._session.run([self._local, self._starts[name]])
    batches = []
    with script_helpers.progress_bar(
        desc=f"Evaluating {name}".strip(), unit="batch") as bar:
      try:
        while True:
          batches.append(self._session.run(self._fetches)[0])
          bar.update()
          self.after_batch()
      except tf.errors.OutOfRangeError:
        pass
    outputs = {
        key: prediction_helpers.rows_of([batch[key] for batch in batches])
        for key in (batches[0] if batches else {})}
    return self._session.run(self._values), outputs


class EvaluationLog(object):
  """The evaluations of a run, and which is the best.

  Attributes:
    output_dir: string.
    metric: string, the score that counts.
    metric_before: string or None, the one that counted in an earlier run.
    entries: list of dicts {"step": int, "scores": dict}, by step.
    stopped_early_at: int or None, the step at which patience ended.
  """

  def __init__(self, output_dir, metric, patience=0,
               name="evaluations.json"):
    """Reads what an earlier run left.

    Args:
      output_dir: string.
      metric: string.
      patience: int, evaluations without a better score; 0 has no end.
      name: string, the file.
    """
    self.output_dir, self._patience = output_dir, patience
    self._path = os.path.join(output_dir, name)
    self.metric = metric
    saved = checkpoint_helpers.read_json(self._path) or {}
    self.entries = list(saved.get("evaluations", []))
    self.stopped_early_at = saved.get("stopped_early_at")
    self.metric_before = saved.get("metric")

  def forget_after(self, step):
    """Drops what lies beyond the step (int) that a training goes on from."""
    self.entries = [x for x in self.entries if x["step"] <= step]
    if self.stopped_early_at is not None and self.stopped_early_at > step:
      self.stopped_early_at = None

  def has(self, step):
    """Whether there are scores of a step."""
    return any(entry["step"] == step for entry in self.entries)

  def add(self, step, scores):
    """Adds an evaluation; returns whether it is the best so far."""
    self.entries = sorted(
        [x for x in self.entries if x["step"] != step] +
        [{"step": step, "scores": scores}], key=lambda x: x["step"])
    return self.best()["step"] == step

  def best(self):
    """The best of the entries, the first one of equals; None without any."""
    return max(self.entries, default=None, key=self._goodness)

  def out_of_patience(self):
    """Whether the last evaluations were all worse than one before."""
    if not self._patience or not self.entries:
      return False
    since = sum(x["step"] > self.best()["step"] for x in self.entries)
    return since >= self._patience

  def save(self):
    """Writes the file."""
    script_helpers.write_text(self._path, json.dumps({
        "metric": self.metric, "best_step": self.best()["step"],
        "stopped_early_at": self.stopped_early_at,
        "evaluations": self.entries}, indent=2) + "\n")

  def _goodness(self, entry):
    value = entry["scores"].get(self.metric)
    if value is None or math.isnan(value):
      return -math.inf
    return -value if curve_helpers.is_loss(self.metric) else value


class Evaluation(object):
  """Scores checkpoints of a run, keeps the best one, ends a training early.

  Every rank of a training has one, and that of rank 0 works.
  """

  def __init__(self, args, metrics, scorer):
    """Takes what belongs to the run.

    Args:
      args: the parsed flags.
      metrics: tuple of string, the scores of the task, the main one first.
      scorer: CheckpointScorer; None on ranks other than 0.
    """
    self._args, self._output_dir = args, args.output_dir
    self._scorer = scorer
    self.log = EvaluationLog(
        args.output_dir, _metric(args, metrics), args.early_stopping_patience)

  def is_due(self, step, num_train_steps):
    """Whether a training's step (int) ends with an evaluation."""
    return (step % self._args.eval_every_steps == 0 or
            step == num_train_steps)

  def hooks(self, num_train_steps, agree):
    """The hooks of a training.

    Args:
      num_train_steps: int, step at which the training ends.
      agree: function of a session and an int, which all ranks call, that gives
        the largest int of all.
    """
    hooks = [EvaluationHook(self, num_train_steps, agree)]
    if horovod_helpers.is_chief():
      hooks.insert(0, SaverHook(
          self._output_dir, self._args.save_checkpoints_steps,
          lambda step: self.is_due(step, num_train_steps)))
    return hooks

  def decide(self, work, exchange):
    """Rank 0 works, the others wait for what comes of it.

    Horovod ends a job in which a rank lets others wait for half an hour, and an
    evaluation may take longer. So rank 0 says now and then that it is at work.

    Args:
      work: function that evaluates and returns a bool, called on rank 0.
      exchange: function of an int, which all ranks call, that gives rank 0's;
        the others call it with 0.

    Returns:
      What `work` returned, on all ranks.
    """
    if not horovod_helpers.is_chief():
      word = _AT_WORK
      while word == _AT_WORK:
        word = exchange(0)
      return bool(word)
    last = time.monotonic()

    def say_at_work():
      nonlocal last
      if time.monotonic() - last >= _WORD_SECONDS:
        exchange(_AT_WORK)
        last = time.monotonic()

    self._scorer.after_batch = say_at_work
    try:
      is_over = work()
    finally:  # Later evaluations may be rank 0's alone.
      self._scorer.after_batch = _nothing
    return bool(exchange(int(is_over)))

  def catch_up(self, step, num_train_steps):
    """Goes on where an earlier run stopped, before the training starts.

    A run that died between a checkpoint and its scores gets them now.

    Args:
      step: int, that of the newest checkpoint.
      num_train_steps: int.

    Returns:
      bool, whether patience has ended the training.
    """
    self.log.forget_after(step)
    if step and self.is_due(step, num_train_steps):
      self.evaluate(tf.train.latest_checkpoint(self._output_dir), step)
    is_over = self._is_over(step, num_train_steps)
    # The earlier run may have died before it wrote that, or this one goes on.
    stopped_early_at = step if is_over else None
    if self.log.entries and self.log.stopped_early_at != stopped_early_at:
      self.log.stopped_early_at = stopped_early_at
      self.log.save()
    return is_over

  def evaluate_within(self, step, num_train_steps):
    """Evaluates at a training's step; returns whether it ends the training."""
    self.evaluate(os.path.join(self._output_dir, f"model.ckpt-{step}"), step)
    if not self._is_over(step, num_train_steps):
      return False
    self.log.stopped_early_at = step
    self.log.save()
    logging.info(
        "%d evaluations brought no better %s: the training ends at step %d of "
        "%d.", self._args.early_stopping_patience, self.log.metric, step,
        num_train_steps)
    return True

  def finish(self):
    """Draws the learning curve of the training."""
    if horovod_helpers.is_chief():
      curve_helpers.write_learning_curve(self._output_dir)

  def _is_over(self, step, num_train_steps):
    return step < num_train_steps and self.log.out_of_patience()

  def evaluate(self, path, step):
    """Scores one checkpoint, unless that is done.

    Args:
      path: string, its prefix.
      step: int, its step.
    """
    if not self.log.has(step):
      scores, is_best = _score(self._scorer, self.log, path, step)
      if is_best:
        self._keep(step, scores)
      self.log.save()

  def _keep(self, step, scores):
    """Saves the model that was scored last as the best."""
    folder = checkpoint_helpers.best_dir(self._output_dir)
    tf.io.gfile.makedirs(folder)
    path = checkpoint_helpers.best_prefix(self._output_dir, step)
    self._scorer.save(path)
    script_helpers.write_text(
        os.path.join(folder, "info.json"), json.dumps(
            {"step": step, "metric": self.log.metric,
             "score": scores[self.log.metric], "scores": scores},
            indent=2) + "\n")
    tf.compat.v1.train.update_checkpoint_state(
        folder, os.path.basename(path), [os.path.basename(path)])
    kept = [f"{os.path.basename(path)}.{part}"
            for part in ("index", "data-00000-of-00001")]
    # Those before, and what a killed run left.
    for name in tf.io.gfile.listdir(folder):
      if name.startswith("model.ckpt-") and name not in kept:
        tf.io.gfile.remove(os.path.join(folder, name))


def _score(scorer, log, path, step):
  """Scores a checkpoint, logs it; returns (scores, whether it is the best)."""
  start = time.monotonic()
  scores = scorer(path)
  if log.metric not in scores:  # Such as those of questions without an answer.
    raise ValueError(
        f"--best_metric={log.metric}: the data that are evaluated give no such "
        f"score, they give {', '.join(scores)}.")
  is_best = log.add(step, scores)
  prediction_helpers.write_summary(
      os.path.join(log.output_dir, "eval"),
      {f"eval_{name}": value for name, value in scores.items()}, step)
  best = log.best()
  logging.info(
      "Evaluation at step %d (%.1f s): %s. Best %s: %.4f at step %d.", step,
      time.monotonic() - start,
      ", ".join(f"{name} {value:.4f}" for name, value in scores.items()),
      log.metric, best["scores"][log.metric], best["step"])
  return scores, is_best


class EvaluationHook(tf.estimator.SessionRunHook):
  """Evaluates within a training, and ends it when patience does.

  Every rank has one; rank 0 evaluates and all end after the same step.
  """

  def __init__(self, evaluation, num_train_steps, agree):
    """See `Evaluation.hooks`."""
    self._evaluation, self._agree = evaluation, agree
    self._num_train_steps = num_train_steps

  def begin(self):
    self._global_step = tf.compat.v1.train.get_global_step()

  def after_create_session(self, session, coord):
    self._step = int(session.run(self._global_step))

  def after_run(self, run_context, run_values):
    self._step += 1
    if not self._evaluation.is_due(self._step, self._num_train_steps):
      return
    if self._evaluation.decide(
        lambda: self._evaluation.evaluate_within(
            self._step, self._num_train_steps),
        lambda word: self._agree(run_context.session, word)):
      run_context.request_stop()


class SaverHook(tf.estimator.CheckpointSaverHook):
  """Saves checkpoints every so many steps, and where one is evaluated."""

  def __init__(self, output_dir, save_steps, is_due):
    """Takes the folder, the steps between two, and a function of a step."""
    super().__init__(output_dir, save_steps=save_steps)
    self._timer = _SaveTimer(save_steps, is_due)


class _SaveTimer(tf.estimator.SecondOrStepTimer):
  """Triggers where `is_due` says so too."""

  def __init__(self, every_steps, is_due):
    super().__init__(every_steps=every_steps)
    self._is_due = is_due

  def should_trigger_for_step(self, step):
    return super().should_trigger_for_step(step) or (
        step != self.last_triggered_step() and self._is_due(step))


def evaluate_all(args, metrics, scorer):
  """Scores every checkpoint of the output folder.

  Shows a table and writes it as eval_all_checkpoints.json.

  Args:
    args: the parsed flags.
    metrics: tuple of string, see `Evaluation`.
    scorer: CheckpointScorer.

  Raises:
    ValueError: there is none.
  """
  found = checkpoint_helpers.saved_steps(args.output_dir)
  if not found:
    raise ValueError(f"--eval_all_checkpoints: --output_dir="
                     f"{args.output_dir} has no checkpoint.")
  log = EvaluationLog(args.output_dir, _metric(args, metrics),
                      name="eval_all_checkpoints.json")
  log.forget_after(-1)  # Of another time, with other data maybe.
  for step, path in found:
    _score(scorer, log, path, step)
  log.save()
  logging.info("***** Scores of %d checkpoints *****", len(found))
  for entry in log.entries:
    logging.info("  step %d: %s", entry["step"], ", ".join(
        f"{name} {value:.4f}" for name, value in entry["scores"].items()))


def evaluate_as_they_come(args, evaluation):
  """Scores each new checkpoint, until the last or for lack of another.

  Args:
    args: the parsed flags.
    evaluation: Evaluation.
  """
  deadline = time.monotonic() + args.continuous_eval_timeout
  while time.monotonic() < deadline:
    new = [(step, path) for step, path
           in checkpoint_helpers.saved_steps(args.output_dir)
           if step and not evaluation.log.has(step)]
    for step, path in new:
      try:
        evaluation.evaluate(path, step)
      except (tf.errors.NotFoundError, tf.errors.DataLossError, ValueError):
        if tf.io.gfile.exists(path + ".index"):
          raise
        logging.info("%s was removed before it could be evaluated.", path)
      deadline = time.monotonic() + args.continuous_eval_timeout
    done = max((entry["step"] for entry in evaluation.log.entries), default=0)
    if args.max_steps and done >= args.max_steps:
      logging.info("Step %d was the last.", done)
      return
    if not new:
      time.sleep(_POLL_SECONDS)
  if not evaluation.log.entries:
    raise ValueError(
        f"--continuous_eval: no checkpoint came to --output_dir="
        f"{args.output_dir} in {args.continuous_eval_timeout} s. Is it the "
        f"folder of the training? --continuous_eval_timeout waits longer.")
  logging.info("No new checkpoint for %d s: --continuous_eval_timeout.",
               args.continuous_eval_timeout)
