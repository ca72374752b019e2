# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Runs an export's signature on arrays, whatever it is stored as.

  runner = runner_helpers.load_runner("/tmp/mrpc/export/1700000000")
  runner.run({"input_ids": ..., "input_mask": ..., "segment_ids": ...})
"""

import os

import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

from demo import export_helpers

DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
_INSTALL_ONNXRUNTIME = (
    "pip install onnxruntime==1.23.2 (1.19.2 for Python 3.9)")


def load_runner(path, signature=DEFAULT, num_threads=0):
  """Loads a model.

  Args:
    path: string, folder with saved_model.pb or model.onnx.
    signature: string; an ONNX model has DEFAULT alone.
    num_threads: int, threads that compute an operation of the model; 0: as
      many as there are cores. For a SavedModel it counts only if the first
      thing that TensorFlow ran in this process was a SavedModelRunner;
      otherwise all share the threads of what came first.

  Returns:
    SavedModelRunner or OnnxRunner; both have `specs`, `outputs`, `run` and
    `close`.

  Raises:
    ValueError: the model has no such signature, or a package is missing.
  """
  if export_helpers.is_onnx(path):
    if signature != DEFAULT:
      raise ValueError(f"{path} is an ONNX model: it has no signature "
                       f"{signature}.")
    return OnnxRunner(path, num_threads)
  return SavedModelRunner(path, signature, num_threads)


class SavedModelRunner(object):
  """A signature of a SavedModel, in a graph and a session of its own.

  A call of what tf.saved_model.load returns leaves something behind, and the
  constants of such a model are never freed.

  Attributes:
    specs: dict name -> tf.TensorSpec of the inputs.
    outputs: dict name -> tf.TensorSpec.
  """

  def __init__(self, path, signature=DEFAULT, num_threads=0):
    """See `load_runner`."""
    if export_helpers.has_info(path):
      export_helpers.import_text_ops(path, export_helpers.read_info(path))
    # What tf.compat.v1.saved_model.load does, without its warning that there
    # is a newer function.
    loader = loader_impl.SavedModelLoader(path)
    tags = [tf.saved_model.SERVING]
    signatures = loader.get_meta_graph_def_from_tags(tags).signature_def
    if signature not in signatures:
      raise ValueError(f"{path} has no signature {signature}.")
    self.specs, self._fed = _tensors(signatures[signature].inputs)
    self.outputs, self._fetched = _tensors(signatures[signature].outputs)
    self._session = _session(num_threads)
    try:
      loader.load(self._session, tags)
    except BaseException:
      self.close()
      raise

  def run(self, feed):
    """Runs the model.

    Args:
      feed: dict name -> array, for each of the inputs.

    Returns:
      Dict name -> array.

    Raises:
      ValueError: an input is missing, or none of the signature's; or `close`
        was called.
    """
    _check_open(self._session)
    # What isn't fed may have a source of its own, as token ids in records.
    if set(feed) != set(self.specs):
      raise ValueError(f"The model takes {', '.join(sorted(self.specs))}, not "
                       f"{', '.join(sorted(feed))}.")
    return self._session.run(self._fetched, {
        self._fed[name]: array for name, array in feed.items()})

  def close(self):
    """Frees the model; it can't be run any more."""
    if self._session is not None:
      self._session.close()
    self._session = None  # It holds the graph with its constants.


def _check_open(session):
  """Raises ValueError for a runner without a session."""
  if session is None:
    raise ValueError("The model was closed: it can't be run any more.")


def _session(num_threads):
  """A session of a graph of its own.

  Args:
    num_threads: int, see `load_runner`.
  """
  # Sessions share the threads of the first one unless this is set when it is
  # made. Later it says nothing.
  name = "TF_OVERRIDE_GLOBAL_THREADPOOL"
  before = os.environ.get(name)
  os.environ[name] = "1"
  try:
    return tf.compat.v1.Session(
        graph=tf.Graph(), config=tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=num_threads))
  finally:
    # Not for the processes that this one starts.
    del os.environ[name]
    if before is not None:
      os.environ[name] = before


def _tensors(definitions):
  """(dict name -> tf.TensorSpec, dict name -> the tensor's name in the graph).

  Args:
    definitions: dict name -> TensorInfo, of a SignatureDef.
  """
  specs = {name: tf.TensorSpec(
      tf.TensorShape(tensor.tensor_shape), tf.as_dtype(tensor.dtype), name)
           for name, tensor in definitions.items()}
  return specs, {name: tensor.name for name, tensor in definitions.items()}


class OnnxRunner(object):
  """A model that onnxruntime runs; see `SavedModelRunner`."""

  def __init__(self, path, num_threads=0):
    """See `load_runner`."""
    self._session = onnx_session(path, num_threads)
    self.specs = _specs(self._session.get_inputs(), tf.int32)
    self.outputs = _specs(self._session.get_outputs(), tf.float32)

  def run(self, feed):
    """Runs the model; see `SavedModelRunner.run`."""
    _check_open(self._session)
    names = list(self.outputs)
    return dict(zip(names, self._session.run(
        names, {name: np.asarray(array, np.int32)
                for name, array in feed.items()})))

  def close(self):
    """Frees the model; it can't be run any more."""
    self._session = None


def _specs(arguments, dtype):
  """dict name -> tf.TensorSpec of inputs or outputs of onnxruntime."""
  return {argument.name: tf.TensorSpec(
      [size if isinstance(size, int) else None for size in argument.shape],
      dtype, argument.name) for argument in arguments}


def onnx_session(path, num_threads=0, optimized_path=""):
  """Opens an ONNX model.

  Args:
    path: string, its folder.
    num_threads: int, see `load_runner`.
    optimized_path: string, file to write the model to as it is run on this
      machine; "" for none.

  Returns:
    onnxruntime.InferenceSession.

  Raises:
    ValueError: onnxruntime is not installed.
  """
  onnxruntime = import_onnxruntime(path)
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = num_threads
  options.optimized_model_filepath = optimized_path
  # Threads that wait for work leave their cores to others.
  options.add_session_config_entry("session.intra_op.allow_spinning", "0")
  options.log_severity_level = 3  # Errors.
  return onnxruntime.InferenceSession(
      os.path.join(path, export_helpers.ONNX_MODEL), options,
      providers=["CPUExecutionProvider"])


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
