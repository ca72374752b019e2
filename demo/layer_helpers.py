# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Which layer a variable belongs to: layers that stay, rates layer by layer."""

import re

import tensorflow as tf

_LAYER = re.compile(r"(?:^|/)layer_(\d+)(?:/|$)")
_EMBEDDINGS = re.compile(r"(?:^|/)\w*embedding\w*(?:/|$)")


def layer_of(name):
  """The place of a variable between the text and the output layer.

  Args:
    name: string, of a checkpoint or of a module of TensorFlow Hub.

  Returns:
    int, 0 for the embeddings, i + 1 for `layer_i`; None for pooler and heads.
  """
  found = _LAYER.search(name)
  if found:
    return int(found[1]) + 1
  return 0 if _EMBEDDINGS.search(name) else None


def num_layers(names):
  """The layers that variables of these names (strings) make."""
  return max((layer_of(name) or 0 for name in names), default=0)


def is_frozen(name, freeze_layers):
  """Whether a variable belongs to what `freeze_layers` (int) leaves as it is.
  """
  layer = layer_of(name)
  return freeze_layers > 0 and layer is not None and layer <= freeze_layers


def trained_variables(freeze_layers):
  """The graph's trainable variables, without those that are frozen.

  Nothing is computed backwards below the lowest of them.

  Args:
    freeze_layers: int, see `option_helpers.Options`.
  """
  return [var for var in tf.compat.v1.trainable_variables()
          if not is_frozen(var.op.name, freeze_layers)]


def rate_factors(names, decay):
  """What the learning rate of each variable is multiplied by.

  Pooler and heads have 1, layer i of n has decay^(n + 1 - i), the embeddings
  decay^(n + 2): of 12 layers with 0.8, the top one 0.64, the embeddings 0.044.

  Args:
    names: list of variable names.
    decay: float.

  Returns:
    Dict name -> float.

  Source: Clark et al. 2020, "ELECTRA", appendix B, with the exponents of its
  published program.
  """
  top = num_layers(names) + 2
  layers = {name: layer_of(name) for name in names}
  return {name: 1.0 if layer is None else decay ** (top - layer)
          for name, layer in layers.items()}


def check_layers(args, names):
  """Refuses layers that a model hasn't, or whose names don't tell.

  Args:
    args: the parsed flags.
    names: list of the names of the model's trainable variables.

  Raises:
    ValueError: names flag and layers.
  """
  layers = num_layers(names)
  for flag, is_on in (("freeze_layers", args.freeze_layers > 0),
                      ("layerwise_lr_decay", args.layerwise_lr_decay != 1.0)):
    if is_on and not layers:
      raise ValueError(
          f"--{flag}={getattr(args, flag)}: the model's variables don't say "
          f"which layer they are of ({names[0]}). Leave the flag out.")
  if args.freeze_layers > layers:
    raise ValueError(f"--freeze_layers={args.freeze_layers}: the model has "
                     f"{layers} layers.")
