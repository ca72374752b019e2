# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Exported models in a graph and a session of their own.

A call of a signature that tf.saved_model.load returns leaves a Python object
behind, hundreds of megabytes in a server's day; a session does not. Each
version of a model has its own, with which its variables and queues go.
"""

import tensorflow as tf

from demo import export_helpers
from demo import runner_helpers


class SignatureGraph(object):
  """A signature that can be made part of a graph.

  Attributes:
    inputs: dict name -> tf.TensorSpec.
    outputs: dict name -> tf.TensorSpec.
  """

  def __init__(self, inputs, outputs, build):
    """Takes the specs, and the function of the input tensors by name.

    None for one that does not take token ids: the server feeds it by others.
    """
    self.inputs, self.outputs = inputs, outputs
    self._build = build

  def __call__(self, **inputs):
    """Adds the operations; dict name -> tensor of the outputs."""
    # Within a batched function TensorFlow optimizes, as by fused operations,
    # only what is a call of its own: compiled models would take 1.8 times as
    # long.
    return tf.function(
        self._build, autograph=False,
        experimental_attributes={"_noinline": True})(**inputs)


class ModelGraph(object):
  """A graph with a model's variables, and the session that holds them.

  Attributes:
    graph: tf.Graph.
    session: tf.compat.v1.Session.
    signatures: dict name -> SignatureGraph, to be called within the graph.
    tables: dict, "word", "token_type", "position" -> int, rows of the tables of
      embeddings; of those that are variables.
  """

  def __init__(self, path, threads=0):
    """Loads an export.

    Args:
      path: string, folder with saved_model.pb or model.onnx.
      threads: int, of a run of the model; 0 for one of each core.

    Raises:
      ValueError: it can't be loaded, or lacks a package.
    """
    self.graph = tf.Graph()
    self.tables = {}
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
    self.session = tf.compat.v1.Session(graph=self.graph, config=config)
    if export_helpers.is_onnx(path):
      self._load_onnx(path, threads)
    else:
      self._load_saved_model(path)

  def _load_onnx(self, path, threads):
    """The one signature of an ONNX model, which onnxruntime runs."""
    runner = runner_helpers.load_runner(path, num_threads=threads)
    names = sorted(runner.outputs)

    def build(**inputs):
      def run(*arrays):
        outputs = runner.run(dict(zip(inputs, arrays)))
        return [outputs[name] for name in names]

      found = tf.numpy_function(
          run, list(inputs.values()),
          [runner.outputs[name].dtype for name in names])
      for name, tensor in zip(names, found):
        tensor.set_shape(runner.outputs[name].shape)
      return dict(zip(names, found))

    self.signatures = {runner_helpers.DEFAULT: SignatureGraph(
        runner.specs, runner.outputs, build)}

  def _load_saved_model(self, path):
    """Copies signatures and variables out of what TensorFlow loads."""
    # Owns the variables of its signatures.
    loaded = export_helpers.load_export(path)
    variables = {
        id(variable.handle): variable
        for function in loaded.signatures.values()
        for variable in function.variables}
    handles, values = {}, []
    with self.graph.as_default():
      for key, variable in variables.items():
        copy = tf.compat.v1.get_variable(
            f"{len(handles)}/{variable.name.partition(':')[0]}",
            variable.shape, variable.dtype, tf.zeros_initializer(),
            use_resource=True)
        handles[key] = copy.handle
        values.append((copy, variable))
    for copy, variable in values:
      self.session.run(
          copy.initializer, {copy.initializer.inputs[1]: variable.numpy()})
      for key in ("word", "token_type", "position"):
        if variable.name.endswith(f"embeddings/{key}_embeddings:0"):
          self.tables[key] = int(variable.shape[0])
    self.signatures = {}
    for name, function in loaded.signatures.items():
      inputs = function.structured_input_signature[1]
      self.signatures[name] = SignatureGraph(
          inputs, function.structured_outputs,
          _importer(path, function, handles) if "input_ids" in inputs else None)


def _importer(path, function, handles):
  """A function that copies a signature into the graph it is called in.

  Args:
    path: string, for errors.
    function: a concrete function of tf.saved_model.load.
    handles: dict id of a variable's handle -> its copy's handle.

  Returns:
    Function of tensors by name, which returns a dict name -> tensor.
  """
  # The signature's names of its inputs, in their order; the operations may
  # have others.
  keys = function._arg_keywords  # pylint: disable=protected-access
  fed = {tensor.op.name: key for key, tensor in zip(keys, function.inputs)}
  captured = {inner.op.name: handles.get(id(outer))
              for outer, inner in function.graph.captures}
  body = function.graph.as_graph_def()
  for node in body.node:
    # An input may have a source of its own, as token ids have in records.
    if node.name in fed:
      dtype = function.graph.get_operation_by_name(
          node.name).outputs[0].dtype
      node.op = "Placeholder"
      del node.input[:]
      node.attr.clear()
      node.attr["dtype"].type = dtype.as_datatype_enum
    # No value comes from an input that is waited for and not read.
    node.input[:] = [name for name in node.input
                     if not (name[0] == "^" and name[1:] in fed)]
  outputs = {key: tensor.name
             for key, tensor in function.structured_outputs.items()}
  body = tf.compat.v1.graph_util.extract_sub_graph(
      body, [name.partition(":")[0] for name in outputs.values()])
  used = {node.name for node in body.node}
  if any(handle is None for name, handle in captured.items() if name in used):
    raise ValueError(f"{path} holds something else than variables, which the "
                     f"server can't load.")

  def build(**inputs):
    # Within a function, which reaches variables outside by captures.
    function_graph = tf.compat.v1.get_default_graph()
    tensors = {f"{name}:0": function_graph.capture(handle)
               for name, handle in captured.items() if name in used}
    tensors.update({f"{name}:0": inputs[key]
                    for name, key in fed.items() if name in used})
    return dict(zip(outputs, tf.import_graph_def(
        body, tensors, list(outputs.values()), name="model")))

  return build
