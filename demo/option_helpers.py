# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What a model and its training may have beyond upstream's, in one value."""

import collections
import math

import tensorflow as tf

_DEFAULTS = collections.OrderedDict(
    # The update, see `optimization.create_optimizer`.
    optimizer="adamw", lr_schedule="linear", layerwise_lr_decay=1.0,
    freeze_layers=0, num_accumulation_steps=1,
    # Number formats, see `modeling.BertModel`.
    precision="fp32", loss_scale=None,
    # How the encoder is computed, see `fused_helpers`.
    fused_ops=False, recompute_layers=False,
    # The classifier's loss and windows, see `run_classifier.create_model`.
    class_weights=None, label_smoothing=0.0, window_pooling="mean")


class Options(collections.namedtuple(
    "Options", _DEFAULTS, defaults=_DEFAULTS.values())):
  """The values of the flags of these names; the defaults are upstream's.

  Attributes:
    optimizer: "adamw" or "lamb".
    lr_schedule: "linear", "constant" or "cosine", after the warm-up.
    layerwise_lr_decay: float, factor of the rate from a layer to the one below.
    freeze_layers: int, 0 for none.
    num_accumulation_steps: int, batches of one update.
    precision: "fp32", "bf16" or "fp16".
    loss_scale: float, "dynamic" or None.
    fused_ops: bool, what lies between matrix products is compiled.
    recompute_layers: bool, gradients compute layers again.
    class_weights: tuple of float in the order of the labels, or None.
    label_smoothing: float, share of the target spread over all classes.
    window_pooling: "mean" or "max", of the logits of a long text's windows.
  """

  __slots__ = ()

  @property
  def compute_dtype(self):
    """The tf.DType that `precision` names."""
    return {"fp32": tf.float32, "bf16": tf.bfloat16,
            "fp16": tf.float16}[self.precision]


UPSTREAM = Options()


def from_flags(args):
  """The Options of the parsed flags; those that a script lacks are upstream's.

  Args:
    args: the parsed flags.
  """
  values = {
      name: getattr(args, name, default) for name, default in _DEFAULTS.items()
      if name != "class_weights"}
  values["loss_scale"] = parse_loss_scale(values["loss_scale"])
  return Options(**values)


def parse_loss_scale(text):
  """"128" -> 128.0; "dynamic" and None stay.

  Args:
    text: string or None, the flag.

  Raises:
    ValueError: neither, or a number that no loss can be multiplied by.
  """
  if text in (None, "dynamic"):
    return text
  try:
    scale = float(text)
  except ValueError:
    scale = 0.0
  if not 0.0 < scale < math.inf:
    raise ValueError(f"--loss_scale={text} has to be dynamic or a number above "
                     f"0, such as 128.")
  return scale
