# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""INT8 models by Intel's neural-compressor; see demo/int8_backends.py.

The library gets the frozen graph and rows to calibrate with, and is asked for
one configuration at a time: searching and scoring is demo.tune_int8's. (What
its own search calls may raise what it likes, and is passed over.)
"""

import collections
import contextlib
import logging as python_logging
from logging import handlers as handlers_of_logging
import os
import signal
import sys
import tempfile

import tensorflow as tf

from demo import compile_graph
from demo import compile_model
from demo import export_helpers
from demo import horovod_helpers
from demo import int8_backends
from demo import int8_config
from demo import script_helpers

_INSTALL = ("pip install neural-compressor==2.6 pandas==2.2.3 "
            "opencv-python-headless==4.11.0.86")
_INT8_PRODUCT = "QuantizedMatMul"
_BATCH = 8


class TensorFlowBackend(int8_backends.Backend):
  """TensorFlow's quantized products, weights and activations in 8 bits."""

  framework = int8_config.TENSORFLOW

  def __init__(self, source, rows, workspace):
    """See the base class."""
    compressor = _import_compressor()
    self._source, self._rows = source, rows
    self._workspace = os.path.join(workspace, "neural_compressor")
    self.versions = {"neural-compressor": compressor.__version__,
                     "tensorflow": tf.__version__}
    self._graph_def, self._inputs, self._outputs = _frozen(source)
    products = [int8_backends.layer_of(node.name)
                for node in self._graph_def.node if node.op == "MatMul"]
    # The library passes over products of a transposed matrix.
    self.never = [layer for layer in products if layer == "output_layer"]
    self.layers = [layer for layer in products
                   if layer and layer not in self.never]

  def quantize(self, folder, setting, fallbacks):
    """See the base class."""
    graph_def = self._quantized(setting, fallbacks)
    model = _Int8Model(graph_def, self._source.sizes)
    shape = self._source.inputs["input_ids"]
    with tf.Graph().as_default(), tempfile.TemporaryDirectory() as staging:
      signatures = compile_model.make_signatures(self._source, model, shape)
      compile_model.add_assets(staging, self._source, int8_backends.new_info(
          self._source, self.framework, setting, fallbacks, self.versions,
          is_onnx=False))
      export_helpers.write(folder, signatures, tf.compat.v1.train.Saver(
          [], allow_empty=True), lambda session: None)

  def _quantized(self, setting, fallbacks):
    """The quantized graph (tf.compat.v1.GraphDef)."""
    # pylint: disable=import-outside-toplevel
    from neural_compressor import PostTrainingQuantConfig
    from neural_compressor import quantization
    from neural_compressor.config import TuningCriterion
    from neural_compressor.config import options
    options.workspace = self._workspace
    size = setting.values["sampling_size"]
    loader = _Loader(self._rows(size))
    float_layer = {side: {"dtype": ["fp32"]}
                   for side in ("weight", "activation")}
    config = PostTrainingQuantConfig(
        approach="static", inputs=self._inputs, outputs=self._outputs,
        calibration_sampling_size=[len(loader)], excluded_precisions=["bf16"],
        quant_level=1, tuning_criterion=TuningCriterion(
            timeout=0, max_trials=1),
        recipes=_recipes(setting.values[int8_config.SMOOTH_QUANT]),
        op_name_dict={int8_backends.operation_of(layer): float_layer
                      for layer in fallbacks} or None)
    # The library passes over what is raised meanwhile, also by Ctrl-C. Without
    # a score it would put what is not quantized into bfloat16.
    with script_helpers.deferred_stop(), _deferred_interrupt(), (
        _quiet()) as errors:
      model = quantization.fit(
          model=self._graph_def, conf=config, calib_dataloader=loader,
          eval_func=lambda graph: 1.0)
    if model is None:
      said = errors[0].getMessage().strip() if errors else ""
      raise ValueError(
          f"neural-compressor gave no model for {setting.name}: "
          f"{said.partition(chr(10))[0] or 'it did not say why'}")
    return model.graph_def

  def kernels(self, folder):
    """See the base class."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
      tf.compat.v1.saved_model.load(
          session, [tf.saved_model.SERVING], folder)
      products = [operation for operation in graph.get_operations()
                  if operation.type.startswith(_INT8_PRODUCT)]
      floats = [operation.name for operation in graph.get_operations()
                if operation.type == "MatMul"]
    counts = collections.Counter(operation.type for operation in products)
    int8 = {_layer_in(operation.name) for operation in products}
    other = {_layer_in(name) for name in floats}
    known = self.layers + self.never
    return {"int8": [layer for layer in known if layer in int8],
            "float": [layer for layer in known if layer in other],
            "operations": dict(counts)}


def _layer_in(name):
  """The linear layer that an operation's name says, however it was renamed."""
  start = name.find(f"{compile_graph.SCOPE}/")
  end = name.find(f"/{compile_graph.PRODUCT}")
  return name[start + len(compile_graph.SCOPE) + 1:end]


class _Int8Model(object):
  """A quantized graph in place of a compile_graph.InferenceModel.

  Attributes:
    logits: float32 [B, L] of a classifier, after `build`.
  """

  def __init__(self, graph_def, sizes):
    """Takes the graph and compile_reader.Sizes."""
    self._graph_def, self._sizes = graph_def, sizes
    self.logits = None

  def build(self, **inputs):
    """See `compile_graph.InferenceModel.build`."""
    names = _output_names(self._sizes)
    # The name keeps a layer's apart from those of the signatures.
    tensors = tf.graph_util.import_graph_def(
        self._graph_def, {f"{name}:0": tensor
                          for name, tensor in inputs.items()},
        [f"{name}:0" for name in names], name="int8")
    if self._sizes.kind == "squad":
      return dict(zip(names, tensors))
    self.logits = tensors[0]
    return self.outputs_of(self.logits)

  def outputs_of(self, logits):
    """See `compile_graph.InferenceModel.outputs_of`."""
    return compile_graph.classifier_outputs(self._sizes, logits)


def _output_names(sizes):
  """Names of what the frozen graph gives."""
  return (["start_logits", "end_logits"] if sizes.kind == "squad"
          else ["logits"])


def _frozen(source):
  """The rebuilt model with its weights as constants.

  Args:
    source: compile_reader.Source.

  Returns:
    (tf.compat.v1.GraphDef, names of inputs, names of outputs).
  """
  model = compile_graph.InferenceModel(
      source.sizes, compile_graph.Settings("float32", False, False, False),
      source.read)
  names = _output_names(source.sizes)
  with tf.Graph().as_default() as graph:
    inputs = {name: tf.compat.v1.placeholder(
        tf.int32, source.inputs["input_ids"], name)
              for name in export_helpers.ROW_INPUTS}
    outputs = model.build(**inputs)
    for name in names:
      tf.identity(outputs.get(name, model.logits), name)
    with tf.compat.v1.Session(
        config=horovod_helpers.session_config()) as session:
      model.load(session)
      graph_def = tf.compat.v1.graph_util.convert_variables_to_constants(
          session, graph.as_graph_def(), names)
  return (tf.compat.v1.graph_util.remove_training_nodes(graph_def, names),
          list(inputs), names)


def _recipes(alpha):
  """neural-compressor's recipes for a value of SMOOTH_QUANT (string)."""
  if alpha == int8_config.OFF:
    return {}
  return {"smooth_quant": True, "smooth_quant_args": {"alpha": float(alpha)}}


class _Loader(object):
  """Rows in batches, as neural-compressor reads them."""

  def __init__(self, rows):
    """Takes a list of predictor.Row; those of the last, short batch go."""
    self.batch_size = min(_BATCH, len(rows))
    self._rows = rows[:len(rows) // self.batch_size * self.batch_size]

  def __len__(self):
    return len(self._rows)

  def __iter__(self):
    for start in range(0, len(self), self.batch_size):
      yield int8_backends.batch_of_rows(
          self._rows[start:start + self.batch_size]), None


@contextlib.contextmanager
def _deferred_interrupt():
  """Within it Ctrl-C is noted; KeyboardInterrupt is raised at its end."""
  came = []
  before = signal.signal(signal.SIGINT, lambda *unused: came.append(True))
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)
  if came:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _quiet():
  """Within it neural-compressor prints nothing.

  Yields:
    List of logging.LogRecord, the errors that it reports.
  """
  logger = python_logging.getLogger("neural_compressor")
  handlers = logger.handlers[:]
  keeper = handlers_of_logging.BufferingHandler(sys.maxsize)
  keeper.setLevel(python_logging.ERROR)
  logger.handlers[:] = [keeper]
  try:
    yield keeper.buffer
  finally:
    logger.handlers[:] = handlers


def _import_compressor():
  """Imports neural-compressor.

  Raises:
    ValueError: it is not installed.
  """
  try:
    import neural_compressor  # pylint: disable=import-outside-toplevel
  except ImportError as error:
    raise ValueError(
        f"model.framework: {int8_config.TENSORFLOW} needs neural-compressor, "
        f"which can't be imported ({error}): {_INSTALL}. Or take "
        f"{int8_config.INTEGER_OPS}.") from None
  return neural_compressor
