"""Tests of demo/perf_helpers.py."""

import glob
import time

import numpy as np
import pytest
import tensorflow as tf

from demo import perf_helpers


def run_steps(steps, hook, delay=0.0):
  """Runs a hook for some steps on a dataset whose rows take `delay` s."""

  def slowly(x):
    time.sleep(delay)
    return x

  with tf.Graph().as_default():
    data = tf.data.Dataset.range(100).map(
        lambda x: tf.numpy_function(slowly, [x], tf.int64))
    x = tf.compat.v1.data.make_one_shot_iterator(data).get_next()
    step = tf.compat.v1.train.get_or_create_global_step()
    with tf.control_dependencies([tf.identity(x)]):
      op = step.assign_add(1)
    with tf.compat.v1.train.MonitoredSession(hooks=[hook]) as session:
      for _ in range(steps):
        session.run(op)


class PerfLoggingHookTest:

  @pytest.mark.parametrize("steps", [0, 1, 3])
  def test_any_number_of_steps(self, steps, caplog):
    caplog.set_level("INFO", "absl")
    hook = perf_helpers.PerfLoggingHook(batch_size=16, mode="train")
    run_steps(steps, hook)
    lines = [record.getMessage() for record in caplog.records
             if record.name == "absl"]
    assert lines[0] == "***** train statistics *****"
    for line, start in zip(lines[1:], [
        "  Time = ", "  First iteration time = ", "  Total batch size = 16",
        "  Avg total throughput = ", "  Avg total (first ommited) = "]):
      assert line.startswith(start)
    assert not any("nan" in line for line in lines)
    assert hook.statistics["steps"] == steps
    assert (hook.statistics["throughput"] is None) == (steps == 0)
    assert (hook.statistics["throughput_without_first"] is None) == (steps < 2)

  def test_time_in_input_is_seen(self):
    slow = perf_helpers.PerfLoggingHook(8, "train")
    run_steps(6, slow, delay=0.05)
    assert slow.statistics["input_share"] > 0.5
    assert slow.statistics["step_seconds"]["p50"] > 0.04

  def test_numbers(self):
    found = perf_helpers.statistics_of(
        10.0, [4.0, 1.0, 1.0, 2.0], [3.0, 0.1, 0.1, 0.2], batch_size=4)
    assert found["throughput"] == 2.0  # 16 examples in 8 s of steps.
    assert found["throughput_without_first"] == 3.0
    assert found["total_throughput"] == 1.6
    assert found["input_share"] == pytest.approx(0.1)
    assert found["step_seconds"]["p50"] == 1.0
    assert found["step_seconds"]["p100"] == 2.0
    assert found["step_seconds"]["p90"] == pytest.approx(
        np.percentile([1, 1, 2], 90))

  def test_not_the_mean_of_rates(self):
    # A step of 1 s and one of 3 s: 2 steps in 4 s.
    found = perf_helpers.statistics_of(4.0, [1.0, 3.0], [], batch_size=2)
    assert found["throughput"] == 1.0
    assert found["input_share"] is None


class ProfilerHookTest:

  def test_timeline_of_a_window(self, tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    run_steps(5, perf_helpers.ProfilerHook(2, 3, str(tmp_path)))
    assert glob.glob(str(tmp_path / "plugins/profile/*/*.xplane.pb"))
    assert "Timeline of steps 2 to 3" in caplog.text

  def test_window_behind_the_end(self, tmp_path, caplog):
    run_steps(3, perf_helpers.ProfilerHook(10, 12, str(tmp_path)))
    assert "--profile_steps=10,12: the training did none" in caplog.text
    run_steps(3, perf_helpers.ProfilerHook(3, 12, str(tmp_path)))
    assert glob.glob(str(tmp_path / "plugins/profile/*/*.xplane.pb"))

  @pytest.mark.parametrize("text", ["", "5", "a,b", "5,4", "0,3", "1,2,3"])
  def test_wrong_windows(self, text):
    with pytest.raises(ValueError, match="--profile_steps="):
      perf_helpers.parse_profile_steps(text)

  def test_right_window(self):
    assert perf_helpers.parse_profile_steps("20,30") == (20, 30)
