# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Runs an export's signature on arrays, whatever it is stored as.

  runner = runner_helpers.load_runner("/tmp/mrpc/export/1700000000")
  runner.run({"input_ids": ..., "input_mask": ..., "segment_ids": ...})
"""

import os

import numpy as np
import tensorflow as tf

from demo import export_helpers

DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
_INSTALL_ONNXRUNTIME = (
    "pip install onnxruntime==1.23.2 (1.19.2 for Python 3.9)")


def load_runner(path, signature=DEFAULT, num_threads=0):
  """Loads a model.

  Args:
    path: string, folder with saved_model.pb or model.onnx.
    signature: string; an ONNX model has DEFAULT alone.
    num_threads: int, threads of one call of an ONNX model; 0: as many as there
      are cores. A SavedModel has those of the process.

  Returns:
    SavedModelRunner or OnnxRunner; both have `specs` and `run`.

  Raises:
    ValueError: the model has no such signature, or a package is missing.
  """
  if export_helpers.is_onnx(path):
    if signature != DEFAULT:
      raise ValueError(f"{path} is an ONNX model: it has no signature "
                       f"{signature}.")
    return OnnxRunner(path, num_threads)
  return SavedModelRunner(path, signature)


class SavedModelRunner(object):
  """A signature of a SavedModel.

  Attributes:
    specs: dict name -> tf.TensorSpec of the inputs.
    outputs: dict name -> tf.TensorSpec.
  """

  def __init__(self, path, signature=DEFAULT):
    """See `load_runner`."""
    # The loaded object owns the variables of its signatures.
    self._model = export_helpers.load_export(path)
    if signature not in self._model.signatures:
      raise ValueError(f"{path} has no signature {signature}.")
    self._serve = self._model.signatures[signature]
    self.specs = self._serve.structured_input_signature[1]
    self.outputs = self._serve.structured_outputs

  def run(self, feed):
    """Runs the model.

    Args:
      feed: dict name -> array.

    Returns:
      Dict name -> array.
    """
    outputs = self._serve(**{
        name: tf.constant(array, self.specs[name].dtype)
        for name, array in feed.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


class OnnxRunner(object):
  """A model that onnxruntime runs; see `SavedModelRunner`."""

  def __init__(self, path, num_threads=0):
    """See `load_runner`."""
    onnxruntime = import_onnxruntime(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    # Threads that wait for work leave their cores to others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # Errors.
    self._session = onnxruntime.InferenceSession(
        os.path.join(path, export_helpers.ONNX_MODEL), options,
        providers=["CPUExecutionProvider"])
    self.specs = _specs(self._session.get_inputs(), tf.int32)
    self.outputs = _specs(self._session.get_outputs(), tf.float32)

  def run(self, feed):
    """Runs the model; see `SavedModelRunner.run`."""
    names = list(self.outputs)
    return dict(zip(names, self._session.run(
        names, {name: np.asarray(array, np.int32)
                for name, array in feed.items()})))


def _specs(arguments, dtype):
  """dict name -> tf.TensorSpec of inputs or outputs of onnxruntime."""
  return {argument.name: tf.TensorSpec(
      [size if isinstance(size, int) else None for size in argument.shape],
      dtype, argument.name) for argument in arguments}


def import_onnxruntime(what):
  """Imports onnxruntime.

  Args:
    what: string, names what needs it.

  Returns:
    The module.

  Raises:
    ValueError: it is not installed.
  """
  try:
    import onnxruntime  # pylint: disable=import-outside-toplevel
  except ImportError as error:
    raise ValueError(f"{what} needs onnxruntime, which can't be imported "
                     f"({error}): {_INSTALL_ONNXRUNTIME}") from None
  return onnxruntime
