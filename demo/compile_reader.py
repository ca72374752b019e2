# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What demo.compile_model has to know of a SavedModel, read from it alone.

Sizes are those of the variables; how many heads there are, which activation and
what comes last is in the graph. What can't be told is refused, not guessed.
"""

import collections
import math
import os
import re

import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

from demo import export_helpers

_IDS = export_helpers.ROW_INPUTS
_WORDS = "/embeddings/word_embeddings"
_DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
_OUTPUTS = {"classification": {"probabilities"},
            "regression": {"probabilities"},
            "squad": {"start_logits", "end_logits"}}
# Operations of an activation -> its name. Others than these say nothing.
_ACTIVATIONS = {
    frozenset(): "linear", frozenset(["Relu"]): "relu",
    frozenset(["Tanh"]): "tanh", frozenset(["Erf", "Mul"]): "gelu_erf",
    frozenset(["Tanh", "Mul", "Square"]): "gelu",
    frozenset(["Tanh", "Mul", "Pow"]): "gelu"}
_TELLING = {"Relu", "Relu6", "Tanh", "Erf", "Mul", "Square", "Pow", "Sigmoid",
            "Elu", "Selu", "Softplus", "Maximum", "LeakyRelu", "Erfc", "Sin",
            "Exp", "Log"}


class Sizes(collections.namedtuple("Sizes", [
    "scope", "vocabulary", "types", "positions", "width", "layers", "heads",
    "inner", "activation", "kind", "output_scope", "outputs"])):
  """What a model is made of.

  Attributes:
    scope: string, of the encoder's variables ("bert").
    vocabulary: int, V.
    types: int, segment ids.
    positions: int, the most tokens of a row.
    width: int, W.
    layers: int.
    heads: int, N.
    inner: int, width of the feed-forward layer.
    activation: string, a value of _ACTIVATIONS.
    kind: string, "classification", "regression" or "squad".
    output_scope: string, before `output_weights`: "" or "cls/squad/".
    outputs: int, L; 2 of "squad".
  """

  __slots__ = ()

  @property
  def head_size(self):
    """int, H."""
    return self.width // self.heads


class Source(object):
  """A SavedModel of BERT.

  Attributes:
    path: string, its folder.
    info: dict, the content of model_info.json; None without one.
    sizes: Sizes.
    inputs: dict name -> list of dimensions (None: free) of serving_default.
    outputs: set of names of its outputs.
    signatures: set of names of the model's signatures.
  """

  def __init__(self, path, flag="input_saved_model"):
    """Reads all but the weights.

    Args:
      path: string, folder of a SavedModel or a folder of exports.
      flag: string, the flag that names it.

    Raises:
      ValueError: it is none, or not of a BERT that can be rebuilt.
    """
    self._flag = f"--{flag}={path}"
    self.path = export_helpers.find_export(path, f"{self._flag}")
    if not loader_impl.contains_saved_model(self.path):
      self._refuse("is an ONNX model: take the export that it was made of")
    self.info = None
    if export_helpers.has_info(self.path):
      self.info = export_helpers.read_info(self.path)
      for key in ("quantized", "compiled"):
        if self.info.get(key):
          self._refuse(f"is {key} already: take the export that it was made "
                       f"of")
      export_helpers.import_text_ops(self.path, self.info)
    meta_graph = self._meta_graph()
    signature = meta_graph.signature_def.get(_DEFAULT)
    if signature is None or not set(_IDS) <= set(signature.inputs):
      self._refuse(f"has no signature {_DEFAULT} with the inputs "
                   f"{', '.join(_IDS)}")
    self.signatures = set(meta_graph.signature_def)
    self.inputs = {
        name: [dim.size if dim.size >= 0 else None
               for dim in tensor.tensor_shape.dim]
        for name, tensor in signature.inputs.items()}
    self.outputs = set(signature.outputs)
    self._reader = self._open_variables()
    self._shapes = self._reader.get_variable_to_shape_map()
    with tf.Graph().as_default() as graph:
      tf.graph_util.import_graph_def(meta_graph.graph_def, name="")
      self._operations = _operations_of(graph, signature)
      self.sizes = self._sizes(graph, signature)
    self._check_outputs()

  def read(self, name):
    """The value of a variable, float32 array."""
    return self._reader.get_tensor(name)

  def assets(self):
    """Dict name -> path of the model's files, without model_info.json."""
    folder = os.path.join(self.path, "assets")
    names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
    return {name: os.path.join(folder, name) for name in sorted(names)
            if name != export_helpers.INFO}

  def _refuse(self, what):
    raise ValueError(f"{self._flag} {what}.")

  def _meta_graph(self):
    """The MetaGraphDef for serving."""
    try:
      saved_model = loader_impl.parse_saved_model(self.path)
    except (OSError, tf.errors.OpError):
      self._refuse("is damaged: its saved_model.pb can't be read")
    for meta_graph in saved_model.meta_graphs:
      if tf.saved_model.SERVING in meta_graph.meta_info_def.tags:
        return meta_graph
    return self._refuse(f"has nothing with the tag {tf.saved_model.SERVING!r}")

  def _open_variables(self):
    """A CheckpointReader of the variables."""
    prefix = os.path.join(self.path, "variables", "variables")
    if not tf.io.gfile.exists(prefix + ".index"):
      self._refuse("has no variables: a frozen model can't be compiled, the "
                   "export that it was made of can")
    return tf.train.load_checkpoint(prefix)

  def _sizes(self, graph, signature):
    """Reads the Sizes."""
    scopes = [name[:-len(_WORDS)] for name in self._shapes
              if name.endswith(_WORDS)]
    if len(scopes) != 1:
      self._refuse(f"is not a BERT of this project or Google's scripts: it has "
                   f"no variable bert{_WORDS}")
    scope = scopes[0]
    (vocabulary, width), (types, _), (positions, _) = (
        self._shape(f"{scope}/embeddings/{name}") for name in (
            "word_embeddings", "token_type_embeddings", "position_embeddings"))
    layers = 1 + max((int(number) for number in re.findall(
        rf"^{re.escape(scope)}/encoder/layer_(\d+)/", "\n".join(self._shapes),
        re.M)), default=-1)
    if not layers:
      self._refuse("has no layer: no variable bert/encoder/layer_0/...")
    first = f"{scope}/encoder/layer_0"
    self._check_shapes(scope, layers, width)
    output_scope = next(
        (prefix for prefix in ("cls/squad/", "")
         if f"{prefix}output_weights" in self._shapes), None)
    if output_scope is None:
      self._refuse("has no output layer of run_classifier.py or run_squad.py: "
                   "no variable output_weights")
    return Sizes(
        scope, vocabulary, types, positions, width, layers,
        self._heads("encoder/layer_0/attention/self/", width),
        self._shape(f"{first}/intermediate/dense/kernel")[1],
        self._activation("encoder/layer_0/intermediate/"),
        self._kind(graph, signature, output_scope), output_scope,
        self._shape(f"{output_scope}output_weights")[0])

  def _shape(self, name):
    """Shape (list) of a variable."""
    if name not in self._shapes:
      self._refuse(f"has no variable {name}")
    return self._shapes[name]

  def _check_shapes(self, scope, layers, width):
    """Refuses an encoder that lacks something."""
    for layer in range(layers):
      start = f"{scope}/encoder/layer_{layer}"
      for name in ("query", "key", "value"):
        if self._shape(f"{start}/attention/self/{name}/kernel") != [
            width, width]:
          self._refuse(f"is not a BERT: {start}/attention/self/{name}/kernel "
                       f"is not {width} x {width}")
      self._shape(f"{start}/output/LayerNorm/gamma")

  def _heads(self, place, width):
    """Heads of the attention: what its matrices are split into."""
    found = set()
    for operation in self._below(place):
      shape = operation.outputs[0].shape if operation.outputs else None
      if (operation.type == "Reshape" and shape.rank == 4 and
          shape[2] and shape[3] and shape[2] * shape[3] == width):
        found.add((shape[2], shape[3]))
    if len(found) != 1:
      self._refuse("does not tell the number of heads: its graph splits "
                   f"{place} in {len(found)} ways")
    ((heads, head_size),) = found
    scale = 1.0 / math.sqrt(head_size)
    if head_size > 1 and not any(
        abs(value - scale) < 1e-4 * scale
        for value in self._constants(place)):
      self._refuse(f"has attention scores that are not scaled by 1/sqrt("
                   f"{head_size}), the size of its heads")
    return heads

  def _activation(self, place):
    """Name of the activation."""
    types = frozenset(
        operation.type for operation in self._below(place)) & _TELLING
    if types not in _ACTIVATIONS:
      self._refuse(f"has an activation that demo.compile_model doesn't know: "
                   f"{place} computes {', '.join(sorted(types))}")
    return _ACTIVATIONS[types]

  def _kind(self, graph, signature, output_scope):
    """What kind of model it is."""
    if output_scope:
      return "squad"
    if "probabilities" not in signature.outputs:
      self._refuse("has no output probabilities")
    operation = graph.get_tensor_by_name(
        signature.outputs["probabilities"].name).op
    while operation.type == "Identity":
      operation = operation.inputs[0].op
    return "classification" if operation.type == "Softmax" else "regression"

  def _check_outputs(self):
    """Refuses outputs that can't be rebuilt."""
    known = _OUTPUTS[self.sizes.kind] | set(self.inputs) - set(_IDS)
    unknown = sorted(self.outputs - known)
    if unknown:
      self._refuse(f"has an output {unknown[0]}; demo.compile_model gives "
                   f"{', '.join(sorted(known))}")
    if self.info and self.info["kind"] != self.sizes.kind:
      self._refuse(f"is of kind {self.sizes.kind} by its graph and "
                   f"{self.info['kind']} by its model_info.json")

  def _below(self, place):
    """The operations in a name scope of the encoder.

    What stands before it is not always that of the variables: a module of
    TensorFlow Hub has another name in the graph.
    """
    return [operation for operation in self._operations
            if f"/{place}" in operation.name]

  def _constants(self, place):
    """Values of the scalar float constants of a place of the graph."""
    for operation in self._below(place):
      if operation.type == "Const" and operation.outputs[0].dtype.is_floating:
        value = tf.get_static_value(operation.outputs[0])
        if value is not None and value.ndim == 0:
          yield float(value)


def _operations_of(graph, signature):
  """The operations that the outputs of a signature come from."""
  waiting = [graph.get_tensor_by_name(tensor.name).op
             for tensor in signature.outputs.values()]
  found = {}
  while waiting:
    operation = waiting.pop()
    if operation.name not in found:
      found[operation.name] = operation
      waiting += [tensor.op for tensor in operation.inputs]
      waiting += operation.control_inputs
  return list(found.values())
