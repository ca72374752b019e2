# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What makes INT8 models for demo.tune_int8: a small interface, two libraries.

  tensorflow         Intel's neural-compressor: TensorFlow's quantized products
  onnxrt_integerops  onnxruntime: weights quantized before, activations as the
                     model runs; needs no rows to calibrate with
  onnxrt_qlinearops  onnxruntime: activations by ranges of calibration

A back-end gets the float32 model rebuilt by demo/compile_graph.py, in which a
linear layer has a name of its own ("layer_0/intermediate"), and writes a folder
that is served and read like any export.
"""

import collections
import itertools

import tensorflow as tf

from demo import compile_graph
from demo import compile_model
from demo import int8_config
from demo import predictor

_FREE = {"input_ids": tf.TensorSpec([None, None], tf.int32)}
_START, _END = f"{compile_graph.SCOPE}/", f"/{compile_graph.PRODUCT}"


class Setting(collections.namedtuple("Setting", ["name", "values"])):
  """What all layers of a model have.

  Attributes:
    name: string, of all values that differ between settings.
    values: dict key of int8_config.CAPABILITIES -> string, and "sampling_size"
      -> int.
  """

  __slots__ = ()


class Backend(object):
  """What demo.tune_int8 asks of a library.

  Attributes:
    versions: dict package -> version.
    layers: list of string, the linear layers that it can quantize, in the order
      of the model.
    never: list of string, those that it can't.
    depends_on_batch: bool, what a row gives depends on what is computed with
      it.
  """

  framework = None
  depends_on_batch = False

  def __init__(self, source, rows, workspace):
    """Rebuilds the model in float32.

    Args:
      source: compile_reader.Source, the export.
      rows: function of a number of rows that returns the rows to calibrate
        with, list of predictor.Row.
      workspace: string, folder for what may go afterwards.

    Raises:
      ValueError: the model or the machine is none for this library.
    """
    raise NotImplementedError

  def quantize(self, folder, setting, fallbacks):
    """Writes an INT8 model.

    Args:
      folder: string; it must not exist.
      setting: Setting.
      fallbacks: tuple of string, layers that stay in float32.
    """
    raise NotImplementedError

  def kernels(self, folder):
    """What a model that `quantize` wrote computes with.

    Args:
      folder: string.

    Returns:
      Dict: "int8" and "float" (list of string, linear layers), and "operations"
      (dict name of a quantized operation -> int, as they run).
    """
    raise NotImplementedError


def settings(config):
  """What conf.yaml leaves open, each way to choose it (list of Setting)."""
  keys = list(config.wise)
  sizes = config.sampling_sizes
  if config.framework == int8_config.INTEGER_OPS:
    sizes = (0,)  # Nothing is calibrated.
  # A type has one scheme, which needs no saying.
  varied = {key for key in keys if len(config.wise[key]) > 1 and
            not key.endswith("scheme")}
  if len(sizes) > 1:
    varied.add("sampling_size")
  # The first keys change last: the granularity decides more than the rest.
  keys = sorted(keys, key=lambda key: (
      key != int8_config.SMOOTH_QUANT, "granularity" not in key,
      "algorithm" in key, key))
  found = []
  for chosen in itertools.product(*(config.wise[key] for key in keys), sizes):
    values = dict(zip([*keys, "sampling_size"], chosen))
    if _fits(values):
      found.append(Setting(", ".join(
          f"{key.replace('recipes.', '')} {value}"
          for key, value in values.items() if key in varied)
                           or "the only setting", values))
  if not found:
    raise ValueError(
        "quantization.model_wise leaves no setting: int8 goes with sym, and "
        "uint8 with asym.")
  return found


def _fits(values):
  """Whether types and schemes go together, as the libraries have them."""
  return all(
      values[f"{side}.scheme"] == ("sym" if values[f"{side}.dtype"] == "int8"
                                   else "asym")
      for side in ("weight", "activation"))


def batch_of_rows(rows):
  """Rows to calibrate with, as the rebuilt model takes them.

  Args:
    rows: list of predictor.Row.

  Returns:
    Dict name -> int32 [B, S].
  """
  return predictor.batch_of_rows(rows, _FREE)


def layer_of(operation):
  """The linear layer (string) of a product's name; None for another one."""
  if operation.startswith(_START) and operation.endswith(_END):
    return operation[len(_START):-len(_END)]
  return None


def operation_of(layer):
  """The name (string) of a linear layer's product."""
  return f"{_START}{layer}{_END}"


def new_info(source, framework, setting, fallbacks, versions, is_onnx):
  """model_info.json of an INT8 model (dict)."""
  return {
      **compile_model.new_info(compile_model.settings(
          format="onnx" if is_onnx else "saved_model"), source),
      "precision": "int8",
      "quantized": {"framework": framework, **setting.values,
                    "fallbacks": list(fallbacks), "versions": versions}}
