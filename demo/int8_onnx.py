# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""INT8 models by onnxruntime; see demo/int8_backends.py.

The embeddings are int8 too, so that a model has about a quarter of the size.
"""

import collections
import contextlib
import io
import logging as python_logging
import os
import shutil
import tempfile

import tensorflow as tf

from demo import compile_model
from demo import compile_onnx
from demo import export_helpers
from demo import int8_backends
from demo import int8_config
from demo import runner_helpers

_TABLE = "word_embeddings"
_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "kl": "Entropy"}
_INT8_PRODUCTS = ("MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat",
                  "DynamicQuantizeMatMul", "QGemm")


class _OnnxBackend(int8_backends.Backend):
  """What both ways have in common."""

  def __init__(self, source, rows, workspace):
    """See the base class."""
    settings = compile_model.settings(format="onnx")
    compile_onnx.check_packages(settings)
    self._source, self._rows = source, rows
    if source.info.get("one_output_per"):
      raise ValueError(
          f"{source.path} pools windows of texts, which an ONNX model can't: "
          f"take model.framework: {int8_config.TENSORFLOW}.")
    onnxruntime = runner_helpers.import_onnxruntime("INT8 by onnxruntime")
    # What lies there may be of another model, whose history was removed.
    shutil.rmtree(workspace, ignore_errors=True)
    tf.io.gfile.makedirs(workspace)
    self._workspace = workspace
    self._float = self._write_float(settings)
    import onnx  # pylint: disable=import-outside-toplevel
    self.versions = {"onnxruntime": onnxruntime.__version__,
                     "onnx": onnx.__version__}
    model = onnx.load(self._float)
    self._left_out = _others(model)
    int8, self.layers = _layers(model)
    assert not int8
    self.never = []

  def _write_float(self, settings):
    """Writes the model in float32 with its types and shapes (path)."""
    # pylint: disable-next=import-outside-toplevel
    from onnxruntime.quantization import shape_inference
    path = os.path.join(self._workspace, "float.onnx")
    with tempfile.TemporaryDirectory(dir=self._workspace) as staging, _quiet():
      folder = os.path.join(staging, "float")
      compile_model.write_onnx(folder, self._source, settings)
      shape_inference.quant_pre_process(
          os.path.join(folder, export_helpers.ONNX_MODEL), path,
          skip_optimization=True, skip_symbolic_shape=True)
    return path

  def quantize(self, folder, setting, fallbacks):
    """See the base class."""
    tf.io.gfile.makedirs(folder)
    with _quiet():
      self._quantize(
          self._float, os.path.join(folder, export_helpers.ONNX_MODEL),
          setting.values,
          dict(per_channel=setting.values["weight.granularity"] ==
               "per_channel", op_types_to_quantize=["MatMul", "Gather"],
               nodes_to_exclude=[*map(int8_backends.operation_of, fallbacks),
                                 *self._left_out]))
    compile_onnx.copy_assets(
        folder, self._source.assets(), int8_backends.new_info(
            self._source, self.framework, setting, fallbacks, self.versions,
            is_onnx=True))

  def _quantize(self, path, new_path, values, options):
    """Writes the quantized model.

    Args:
      path: string, the float model.
      new_path: string.
      values: dict, see int8_backends.Setting.
      options: dict, arguments of onnxruntime's functions.
    """
    raise NotImplementedError

  def kernels(self, folder):
    """See the base class."""
    int8, other = _layers(_read(folder))
    with tempfile.TemporaryDirectory() as staging:
      path = os.path.join(staging, export_helpers.ONNX_MODEL)
      runner_helpers.onnx_session(folder, optimized_path=path)
      nodes = _read(staging).graph.node
    counts = collections.Counter(
        node.op_type for node in nodes if node.op_type in _INT8_PRODUCTS)
    return {"int8": int8, "float": other, "operations": dict(counts)}


class IntegerOpsBackend(_OnnxBackend):
  """Activations are quantized as the model runs, each tensor by its range."""

  framework = int8_config.INTEGER_OPS
  depends_on_batch = True  # A tensor has one range, for all rows.

  def _quantize(self, path, new_path, values, options):
    """See the base class."""
    # pylint: disable-next=import-outside-toplevel
    from onnxruntime import quantization
    quantization.quantize_dynamic(
        path, new_path, weight_type=_type(quantization, values["weight.dtype"]),
        extra_options={
            "WeightSymmetric": values["weight.scheme"] == "sym"}, **options)


class QLinearOpsBackend(_OnnxBackend):
  """Activations are quantized by ranges that training rows have shown."""

  framework = int8_config.QLINEAR_OPS

  def _quantize(self, path, new_path, values, options):
    """See the base class."""
    # pylint: disable-next=import-outside-toplevel
    from onnxruntime import quantization
    rows = self._rows(values["sampling_size"])

    class Reader(quantization.CalibrationDataReader):
      """Gives one row after the other."""

      def __init__(self):
        self.set_range(0, len(rows))

      def __len__(self):
        return len(rows)

      def set_range(self, start_index, end_index):
        """From here on gives these rows alone."""
        self._left = iter(rows[start_index:end_index])

      def get_next(self):
        """The inputs of a row, None after the last."""
        row = next(self._left, None)
        return row and int8_backends.batch_of_rows([row])

    method = values["activation.algorithm"]
    # Histograms are made of outputs, which would all be kept and joined to one
    # array, though rows differ in length: they get one row at a time.
    stride = {} if method == "minmax" else {"CalibStridedMinMax": 1}
    quantization.quantize_static(
        path, new_path, Reader(),
        activation_type=_type(quantization, values["activation.dtype"]),
        weight_type=_type(quantization, values["weight.dtype"]),
        calibrate_method=getattr(
            quantization.CalibrationMethod, _METHODS[method]),
        extra_options={
            **stride,
            "WeightSymmetric": values["weight.scheme"] == "sym",
            "ActivationSymmetric": values["activation.scheme"] == "sym"},
        **options)


def _type(quantization, dtype):
  """onnxruntime's name of a type."""
  return {"int8": quantization.QuantType.QInt8,
          "uint8": quantization.QuantType.QUInt8}[dtype]


def _read(folder):
  """The onnx.ModelProto of a folder."""
  import onnx  # pylint: disable=import-outside-toplevel
  return onnx.load(os.path.join(folder, export_helpers.ONNX_MODEL))


def _others(model):
  """The names of what is no linear layer and not the table of words."""
  return [
      node.name for node in model.graph.node
      if node.op_type == "Gather" and _TABLE not in node.input[0] or
      node.op_type == "MatMul" and int8_backends.layer_of(node.name) is None]


def _layers(model):
  """The linear layers of a model by what computes them.

  Args:
    model: onnx.ModelProto.

  Returns:
    (layers, layers): lists of string, in int8 and in float32.
  """
  weights = {tensor.name for tensor in model.graph.initializer}
  scaled = {name for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in weights
            for name in node.output}
  int8, other = [], []
  for node in model.graph.node:
    name = node.name[:-len("_quant")] if node.name.endswith(
        "_quant") else node.name
    layer = int8_backends.layer_of(name)
    if layer is None or not node.op_type.startswith(("MatMul", "QLinear")):
      continue
    is_int8 = node.op_type in _INT8_PRODUCTS or node.input[1] in scaled
    (int8 if is_int8 else other).append(layer)
  return int8, other


@contextlib.contextmanager
def _quiet():
  """Within it onnxruntime's advice is not logged, nor its progress printed."""
  logger = python_logging.getLogger()
  level = logger.level
  logger.setLevel(python_logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logger.setLevel(level)
