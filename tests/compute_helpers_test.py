"""Tests of demo/compute_helpers.py."""

import types

import pytest
import tensorflow as tf

from demo import compute_helpers
from demo import horovod_helpers


def flags(**values):
  """What `prepare` reads of the flags."""
  return types.SimpleNamespace(**{
      "use_xla": False, "use_tpu": False, "precision": "auto",
      "fused_ops": True, "bf16_config_path": None, **values})


class PrepareTest:

  @pytest.mark.parametrize("fp32, bf16, expected", [
      (0.02, 0.01, "bf16"), (0.02, 0.018, "fp32"), (0.02, 0.2, "fp32")])
  def test_auto_takes_what_is_clearly_faster(self, fp32, bf16, expected,
                                             monkeypatch):
    monkeypatch.setattr(compute_helpers, "product_seconds",
                        lambda: {tf.float32: fp32, tf.bfloat16: bf16})
    args = flags()
    compute_helpers.prepare(args)
    assert (args.precision, args.fused_ops) == (expected, True)

  @pytest.mark.parametrize("values, has_device", [
      (dict(use_tpu=True), False), ({}, True)])
  def test_devices_with_a_compiler_are_left_alone(self, values, has_device,
                                                  monkeypatch):
    monkeypatch.setattr(compute_helpers, "product_seconds", None)
    monkeypatch.setattr(horovod_helpers, "has_device", lambda: has_device)
    args = flags(**values)
    compute_helpers.prepare(args)
    assert (args.precision, args.fused_ops) == ("fp32", False)

  def test_lists_for_bf16_decide_where_they_are_given(self, monkeypatch):
    monkeypatch.setattr(compute_helpers, "product_seconds", None)
    args = flags(bf16_config_path="basic.json")
    compute_helpers.prepare(args)
    assert args.precision == "fp32"

  def test_what_the_user_chose_stays(self, monkeypatch):
    monkeypatch.setattr(compute_helpers, "product_seconds", None)
    args = flags(precision="fp16", fused_ops=False)
    compute_helpers.prepare(args)
    assert (args.precision, args.fused_ops) == ("fp16", False)

  def test_both_products_are_timed(self):
    seconds = compute_helpers.product_seconds()
    assert seconds.keys() == {tf.float32, tf.bfloat16}
    assert all(value > 0 for value in seconds.values())
