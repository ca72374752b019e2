"""Tests of demo/option_helpers.py, and of the check of its flags."""

import types

import pytest

from demo import flag_helpers
from demo import option_helpers


class ParseLossScaleTest:

  @pytest.mark.parametrize("text, value", [
      (None, None), ("dynamic", "dynamic"), ("128", 128.0), ("0.5", 0.5)])
  def test_numbers_and_dynamic(self, text, value):
    assert option_helpers.parse_loss_scale(text) == value
    assert option_helpers.from_flags(types.SimpleNamespace(
        loss_scale=text)) == option_helpers.Options(loss_scale=value)

  @pytest.mark.parametrize("text", ["0", "-8", "inf", "nan", "static", ""])
  def test_other_words_are_refused(self, text):
    with pytest.raises(ValueError, match=f"--loss_scale={text} has to be"):
      option_helpers.parse_loss_scale(text)


class CheckTrainingFlagsTest:

  def check(self, **values):
    flag_helpers.check_training_flags(types.SimpleNamespace(**{
        **dict(profile_steps=None, bf16_config_path=None, precision="fp32",
               loss_scale=None, use_tpu=False, num_accumulation_steps=1),
        **values}))

  def test_what_goes_together_passes(self):
    self.check()
    self.check(precision="fp16", loss_scale="dynamic", num_accumulation_steps=4)

  @pytest.mark.parametrize("values, message", [
      (dict(loss_scale="128", precision="bf16"),
       "--loss_scale=128 is for --precision=fp16, not bf16"),
      (dict(use_tpu=True, num_accumulation_steps=2),
       "--num_accumulation_steps=2 does not work with --use_tpu"),
      (dict(use_tpu=True, precision="fp16", loss_scale="8"),
       "--loss_scale=8 does not work with --use_tpu")])
  def test_what_does_not_is_refused(self, values, message):
    with pytest.raises(ValueError, match=message):
      self.check(**values)
