"""Tests of habana/synapse_logger.py with a stand-in for the vendor's module."""

import sys

import pytest
import tensorflow as tf

from demo import horovod_helpers
from habana import synapse_logger

STAND_IN = """
calls = []
def command(text):
  calls.append(text)
def put_log(text):
  calls.append("log " + text)
"""


@pytest.fixture
def calls(monkeypatch, tmp_path):
  """What the stand-in was told; it lies in the folder of BUILD_ROOT_LATEST."""
  (tmp_path / "py_synapse_logger.py").write_text(STAND_IN)
  monkeypatch.setenv("BUILD_ROOT_LATEST", str(tmp_path))
  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.delitem(sys.modules, "py_synapse_logger", raising=False)
  synapse_logger._module.cache_clear()
  yield synapse_logger._module().calls
  synapse_logger._module.cache_clear()
  sys.modules.pop("py_synapse_logger", None)


@pytest.fixture
def absent(monkeypatch):
  monkeypatch.setitem(sys.modules, "py_synapse_logger", None)
  synapse_logger._module.cache_clear()
  yield
  synapse_logger._module.cache_clear()


def run_steps(count, hook):
  with tf.Graph().as_default():
    op = tf.constant(1.0)
    with tf.compat.v1.train.MonitoredSession(hooks=[hook]) as session:
      for _ in range(count):
        session.run(op)


class WantedTypeTest:

  @pytest.mark.parametrize("word, expected", [
      (None, "NONE"), ("False", "NONE"), ("range", "RANGE"), ("RANGE", "RANGE"),
      ("all", "ALL"), ("true", "ALL"), ("1", "ALL"), ("on", "ALL")])
  def test_words(self, word, expected, monkeypatch):
    monkeypatch.delenv("HABANA_SYNAPSE_LOGGER", raising=False)
    if word is not None:
      monkeypatch.setenv("HABANA_SYNAPSE_LOGGER", word)
    assert synapse_logger.wanted_type().name == expected

  def test_other_words_are_refused(self, monkeypatch):
    monkeypatch.setenv("HABANA_SYNAPSE_LOGGER", "sometimes")
    with pytest.raises(ValueError, match="HABANA_SYNAPSE_LOGGER=sometimes"):
      synapse_logger.wanted_type()


class SynapseLoggerHookTest:

  def test_records_a_window(self, calls, monkeypatch):
    monkeypatch.setenv("HABANA_SYNAPSE_LOGGER", "range")
    horovod_helpers.synapse_logger_init()
    assert calls == ["disable", "file_name=worker0.local.synapse_log",
                     "category_mask=0x3"]
    del calls[:]
    run_steps(6, horovod_helpers.SynapseLoggerHook([2, 3], False))
    assert calls == [
        "file_name=worker_0_step_2.local.synapse_log", "category_mask=0x3",
        "restart", "log B step 2", "log E step 2", "log B step 3",
        "log E step 3", "disable"]

  def test_training_may_end_within_the_window(self, calls):
    run_steps(3, horovod_helpers.SynapseLoggerHook(range(1, 9)))
    assert calls.count("restart") == calls.count("disable") == 1

  def test_all_records_from_the_start(self, calls, monkeypatch):
    monkeypatch.setenv("HABANA_SYNAPSE_LOGGER", "all")
    horovod_helpers.synapse_logger_init()
    assert calls[-1] == "restart"

  @pytest.mark.parametrize("first", [670, 30])
  def test_range_makes_the_hook_of_ten_steps(
      self, first, calls, monkeypatch, caplog):
    monkeypatch.setenv("HABANA_SYNAPSE_LOGGER", "range")
    caplog.set_level("INFO", "absl")
    assert horovod_helpers.synapse_hooks(first) == []  # There is no device.
    monkeypatch.setitem(horovod_helpers._state, "has_device", True)
    (hook,) = horovod_helpers.synapse_hooks(first)
    assert hook._steps == set(range(first, first + 10))
    assert f"Begin: {first} End: {first + 10}" in caplog.text
    monkeypatch.setenv("HABANA_SYNAPSE_LOGGER", "all")
    assert horovod_helpers.synapse_hooks(first) == []

  def test_without_the_logger_a_warning_says_so_once(
      self, absent, monkeypatch, caplog):
    monkeypatch.setenv("HABANA_SYNAPSE_LOGGER", "range")
    horovod_helpers.synapse_logger_init()
    run_steps(4, horovod_helpers.SynapseLoggerHook([1, 2]))
    assert caplog.text.count("there is no Synapse logger here") == 1

  def test_not_looked_for_unless_asked(self, monkeypatch):
    monkeypatch.delenv("HABANA_SYNAPSE_LOGGER", raising=False)
    synapse_logger._module.cache_clear()
    horovod_helpers.synapse_logger_init()
    assert synapse_logger._module.cache_info().misses == 0
