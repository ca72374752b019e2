# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Hooks that measure a run: throughput, step times, a timeline."""

import time

from absl import logging
import numpy as np
import tensorflow as tf


class PerfLoggingHook(tf.estimator.SessionRunHook):
  """Logs how fast steps were, when all are done.

  The first step also prepares the graph and is left out of everything but
  `Time` and the first of the two averages.

  Attributes:
    statistics: dict, after the run; see `statistics_of`.

  Source: Habana's hook of this name (its five lines); see CHANGES.
  """

  def __init__(self, batch_size, mode):
    """Takes what the lines are about.

    Args:
      batch_size: int, examples per step of all ranks together.
      mode: string, "train" or "eval".
    """
    self._batch_size = batch_size
    self._mode = mode
    self.statistics = None

  def begin(self):
    self._start_time = time.time()
    self._step_times, self._input_times = [], []
    self._input_span = None
    batches = [op for op in tf.compat.v1.get_default_graph().get_operations()
               if op.type == "IteratorGetNext"]
    if len(batches) == 1:
      self._input_span = self._clocks_around(batches[0])

  @staticmethod
  def _clocks_around(batch):
    """Seconds that a step waits for its batch (float64 scalar tensor).

    On a busy machine an operation that may run at any time comes late, so the
    clocks are read before and after with nothing in between.
    """
    # pylint: disable=protected-access
    consumers = [op for x in batch.outputs for op in x.consumers()]
    with tf.device("CPU:0"):
      before = tf.timestamp(name="before_input")
      batch._add_control_input(before.op)
      with tf.control_dependencies([batch]):
        after = tf.timestamp(name="after_input")
      for op in consumers:
        op._add_control_input(after.op)
      return after - before

  def before_run(self, run_context):
    self._step_start = time.time()
    if self._input_span is not None:
      return tf.estimator.SessionRunArgs(self._input_span)

  def after_run(self, run_context, run_values):
    self._step_times.append(time.time() - self._step_start)
    if run_values.results is not None:
      self._input_times.append(run_values.results)

  def end(self, session):
    self.statistics = statistics_of(
        time.time() - self._start_time, self._step_times, self._input_times,
        self._batch_size)
    for line in report_lines(self._mode, self.statistics):
      logging.info("%s", line)


def statistics_of(seconds, step_times, input_times, batch_size):
  """Sums up how fast a run was.

  Args:
    seconds: float, the whole run, with what happened between steps.
    step_times: list of float, seconds of each step.
    input_times: list of float, seconds that each step waited for its batch;
      empty where that was not measured.
    batch_size: int, examples per step.

  Returns:
    Dict with `seconds`, `steps`, `batch_size`, `first_step_seconds`,
    `throughput` (examples/s of the steps), `throughput_without_first`,
    `total_throughput` (examples/s of the whole run), `step_seconds` (dict of
    percentiles, without the first step) and `input_share` (0 to 1, without the
    first step). None stands for what there is no number of.
  """
  rest = step_times[1:]
  return {
      "seconds": seconds,
      "steps": len(step_times),
      "batch_size": batch_size,
      "first_step_seconds": step_times[0] if step_times else None,
      "throughput": _rate(len(step_times) * batch_size, sum(step_times)),
      "throughput_without_first": _rate(len(rest) * batch_size, sum(rest)),
      "total_throughput": _rate(len(step_times) * batch_size, seconds),
      "step_seconds": {
          f"p{percent}": float(np.percentile(rest, percent))
          for percent in (50, 90, 99, 100)} if rest else None,
      "input_share": (float(np.sum(input_times[1:]) / np.sum(rest))
                      if rest and len(input_times) == len(step_times)
                      else None)}


def _rate(count, seconds):
  return count / seconds if count and seconds > 0 else None


def report_lines(mode, statistics):
  """The lines of `PerfLoggingHook`, from `statistics_of`."""
  def number(value):
    return "n/a" if value is None else f"{value:0.2f}"

  lines = [
      f"***** {mode} statistics *****",
      f"  Time = {number(statistics['seconds'])} [s]",
      f"  First iteration time = {number(statistics['first_step_seconds'])} ",
      f"  Total batch size = {statistics['batch_size']}",
      f"  Avg total throughput = {number(statistics['throughput'])} "
      f"[examples/sec]",
      f"  Avg total (first ommited) = "
      f"{number(statistics['throughput_without_first'])} [examples/sec]",
      f"  Examples / time = {number(statistics['total_throughput'])} "
      f"[examples/sec], {statistics['steps']} steps"]
  if statistics["step_seconds"]:
    lines.append("  Step time = " + ", ".join(
        f"{'max' if name == 'p100' else name} {value:0.4f}"
        for name, value in statistics["step_seconds"].items()) + " [s]")
  if statistics["input_share"] is not None:
    lines.append(
        f"  Waiting for input = {100 * statistics['input_share']:0.1f} %")
  return lines


class ProfilerHook(tf.estimator.SessionRunHook):
  """Records a timeline of some training steps for TensorBoard.

  TensorBoard's profile tab (pip install tensorboard-plugin-profile) shows what
  lies under `plugins/profile/` of the output folder.
  """

  def __init__(self, first_step, last_step, output_dir):
    """Takes the window.

    Args:
      first_step: int, from 1; the global step that the window starts with.
      last_step: int, the last step in the window.
      output_dir: string.
    """
    self._first_step, self._last_step = first_step, last_step
    self._output_dir = output_dir
    self._is_on = False
    self._is_done = False

  def begin(self):
    self._global_step = tf.compat.v1.train.get_global_step()

  def after_create_session(self, session, coord):
    self._step = int(session.run(self._global_step))

  def before_run(self, run_context):
    self._step += 1
    if not self._is_done and not self._is_on and (
        self._first_step <= self._step <= self._last_step):
      tf.profiler.experimental.start(self._output_dir)
      self._is_on = True

  def after_run(self, run_context, run_values):
    if self._is_on and self._step >= self._last_step:
      self._stop()

  def end(self, session):
    if self._is_on:
      self._stop()
    elif not self._is_done:
      logging.warning(
          "--profile_steps=%d,%d: the training did none of these steps, so "
          "there is no timeline.", self._first_step, self._last_step)

  def _stop(self):
    tf.profiler.experimental.stop()
    self._is_on, self._is_done = False, True
    logging.info("Timeline of steps %d to %d: tensorboard --logdir=%s",
                 self._first_step, min(self._step, self._last_step),
                 self._output_dir)


def parse_profile_steps(text):
  """"20,30" -> (20, 30).

  Raises:
    ValueError: not two step numbers, the first no larger.
  """
  try:
    first, last = (int(part) for part in text.split(","))
  except ValueError:
    first = last = 0
  if not 1 <= first <= last:
    raise ValueError(
        f"--profile_steps={text} has to be the first and the last step of a "
        f"window, such as 20,30.")
  return first, last
