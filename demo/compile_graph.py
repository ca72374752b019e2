# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The inference model of demo.compile_model: BERT without what training needs.

It gives what modeling.BertModel and the scripts' output layers give, by fewer
operations:

- Query, key and value come out of one matrix product, and 1/sqrt(head size) is
  in the query's weights.
- Padding is left out of everything but the attention: the tokens of all rows
  stand in one matrix [T, W]. (Not where both dimensions are fixed.)
- Of the last layer a classifier reads the first token, so that is all that is
  computed of it.
- The layer norm takes each tensor through memory less often; gelu is written
  as TensorFlow's graph optimizer knows it, which fuses it with the product.

Letters of the shape comments are those of modeling.py, and T, the tokens of all
rows together.
"""

import collections
import math

import numpy as np
import tensorflow as tf

SCOPE = "compiled"
# The product of a linear layer is called so within the layer's name scope.
PRODUCT = "product"
# For positions of padding, which no reader takes for the best one.
PADDING_LOGIT = -10000.0
_MASKED_SCORE = -10000.0
_LAYER_NORM_EPSILON = 1e-12
_CRUDE_SCALE = 1.702


class Settings(collections.namedtuple("Settings", [
    "dtype", "crude_gelu", "aggressive_optimizations", "keeps_padding"])):
  """How a model is rebuilt.

  Attributes:
    dtype: string, "float32", "bfloat16" or "float16", the format of the
      encoder's matrices. Products are computed in it too, but for float16,
      which TensorFlow has no fast product of on CPUs: it halves the size.
    crude_gelu: bool, x sigmoid(1.702 x) for gelu.
    aggressive_optimizations: bool, crude gelu, and with bfloat16 layer norm
      and residuals in that.
    keeps_padding: bool, padding is computed too, and shapes are static.
  """

  __slots__ = ()

  @property
  def is_crude(self):
    """Whether gelu is replaced."""
    return self.crude_gelu or self.aggressive_optimizations

  @property
  def compute_dtype(self):
    """tf.DType of the encoder's products."""
    return tf.bfloat16 if self.dtype == "bfloat16" else tf.float32

  @property
  def norm_dtype(self):
    """tf.DType of layer norms and residuals."""
    return (self.compute_dtype if self.aggressive_optimizations
            else tf.float32)


class InferenceModel(object):
  """Builds the graph, once, in the default graph.

  Attributes:
    logits: float32 [B, L] of a classifier, after `build`.
  """

  def __init__(self, sizes, settings, read):
    """Takes what is to be built.

    Args:
      sizes: compile_reader.Sizes.
      settings: Settings.
      read: function of a variable's name in the original model that returns
        its value, float32 array.
    """
    self._sizes, self._settings, self._read = sizes, settings, read
    self._values = []
    self.logits = None

  def load(self, session):
    """Gives the variables their values.

    They are not in the graph, not even as initial values: it stays small, and
    nothing is folded into it when it is first called.

    Args:
      session: tf.compat.v1.Session.
    """
    for variable, value in self._values:
      variable.load(value(), session)

  def build(self, input_ids, input_mask, segment_ids):
    """Builds the model; the arguments are int32 [B, S].

    Returns:
      Dict name -> float32: "probabilities" [B, L] (of a regression model the
      values [B, 1]), or "start_logits" and "end_logits" [B, S], which are
      PADDING_LOGIT where the mask is 0.
    """
    with tf.compat.v1.variable_scope(SCOPE):
      tokens = _Tokens(input_ids, input_mask, self._sizes.positions,
                       self._settings.keeps_padding)
      hidden = self._embeddings(tokens, input_ids, segment_ids)  # [T, W]
      blocked = self._blocked_scores(input_mask)
      last = self._sizes.layers - 1
      for layer in range(self._sizes.layers):
        with tf.compat.v1.variable_scope(f"layer_{layer}"):
          is_pooled = layer == last and self._sizes.kind != "squad"
          hidden = self._layer(layer, hidden, tokens, blocked, is_pooled)
      hidden = tf.cast(hidden, tf.float32)
      if self._sizes.kind == "squad":
        return self._answer_logits(hidden, tokens)
      return self._probabilities(hidden)

  def _variable(self, name, value, shape, dtype=tf.float32):
    """A variable whose value, from a function, `load` gives it."""
    variable = tf.compat.v1.get_variable(
        name, shape, dtype, tf.zeros_initializer(), use_resource=True)
    self._values.append(
        (variable, lambda: value().astype(dtype.as_numpy_dtype)))
    return variable

  def _saved(self, name):
    """Function that returns a variable's value in the original model."""
    return lambda: self._read(name)

  def _embeddings(self, tokens, input_ids, segment_ids):
    """Words, segments and positions of the tokens, after layer norm: [T, W]."""
    sizes, scope = self._sizes, f"{self._sizes.scope}/embeddings"
    with tf.compat.v1.variable_scope("embeddings"):
      tables = [self._variable(name, self._saved(f"{scope}/{name}"),
                               [rows, sizes.width]) for name, rows in (
                                   ("word_embeddings", sizes.vocabulary),
                                   ("token_type_embeddings", sizes.types),
                                   ("position_embeddings", sizes.positions))]
      words, types, positions = (
          tf.gather(table, ids) for table, ids in zip(
              tables, (tokens.pack(input_ids), tokens.pack(segment_ids),
                       tokens.positions)))
      return self._layer_norm(
          "norm", words + types + positions, f"{scope}/LayerNorm")

  def _blocked_scores(self, input_mask):
    """What is added to scores: float32 [B, 1, 1, S]."""
    blocked = 1.0 - tf.cast(input_mask, tf.float32)
    return (blocked * _MASKED_SCORE)[:, tf.newaxis, tf.newaxis, :]

  def _layer(self, number, hidden, tokens, blocked, is_pooled):
    """A layer of the encoder.

    Args:
      number: int, from 0.
      hidden: [T, W].
      tokens: _Tokens.
      blocked: see `_blocked_scores`.
      is_pooled: bool, the first tokens alone are wanted.

    Returns:
      [T, W], or [B, W] of the first tokens.
    """
    sizes, compute = self._sizes, self._settings.compute_dtype
    scope = f"{sizes.scope}/encoder/layer_{number}"
    residual = tokens.firsts(hidden) if is_pooled else hidden
    context = self._attention(
        f"{scope}/attention/self", tf.cast(hidden, compute),
        tf.cast(residual, compute), tokens, blocked, is_pooled)
    output = self._dense("attention_output", context,
                         [f"{scope}/attention/output/dense"], sizes.width)
    hidden = self._add_and_norm(
        "attention_norm", output, residual,
        f"{scope}/attention/output/LayerNorm")
    scale = _CRUDE_SCALE if self._settings.is_crude else 1.0
    inner = self._activation(self._dense(
        "intermediate", tf.cast(hidden, compute),
        [f"{scope}/intermediate/dense"], sizes.inner, scales=[scale]))
    output = self._dense("output", inner, [f"{scope}/output/dense"],
                         sizes.width, kernel_scale=1.0 / scale)
    return self._add_and_norm(
        "output_norm", output, hidden, f"{scope}/output/LayerNorm")

  def _attention(self, scope, hidden, queried, tokens, blocked, is_pooled):
    """Self-attention, before its output layer.

    Args:
      scope: string, of its variables in the original model.
      hidden: [T, W].
      queried: the same, or [B, W] of the first tokens with `is_pooled`.
      tokens: _Tokens.
      blocked: see `_blocked_scores`.
      is_pooled: bool.

    Returns:
      [T, W] or [B, W].
    """
    sizes = self._sizes
    query_scale = 1.0 / math.sqrt(sizes.head_size)
    query, key, value = (f"{scope}/{name}" for name in (
        "query", "key", "value"))

    def heads(matrix, count):
      """[T, count * W] -> count tensors [B, N, S, H]."""
      split = tf.reshape(tokens.unpack(matrix), [
          *tokens.shape, count, sizes.heads, sizes.head_size])
      return tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]), num=count)

    if is_pooled:
      keys, values = heads(self._dense(
          "key_value", hidden, [key, value], sizes.width), 2)
      queries = tf.reshape(
          self._dense("query", queried, [query], sizes.width,
                      scales=[query_scale]),
          [-1, sizes.heads, 1, sizes.head_size])  # [B, N, 1, H]
    else:
      queries, keys, values = heads(self._dense(
          "query_key_value", hidden, [query, key, value], sizes.width,
          scales=[query_scale, 1.0, 1.0]), 3)
    scores = tf.matmul(queries, keys, transpose_b=True)  # [B, N, F, S]
    probabilities = tf.nn.softmax(tf.cast(scores, tf.float32) + blocked)
    context = tf.matmul(tf.cast(probabilities, values.dtype), values)
    context = tf.reshape(
        tf.transpose(context, [0, 2, 1, 3]), [-1, sizes.width])
    return context if is_pooled else tokens.pack(context)

  def _dense(self, name, matrix, scopes, units, scales=(1.0, 1.0, 1.0),
             kernel_scale=1.0):
    """One product for the dense layers of some scopes, side by side.

    Args:
      name: string, scope of the new variables.
      matrix: [n, m].
      scopes: list of string, of `kernel` and `bias` in the original model.
      units: int, width of each.
      scales: for each, what kernel and bias are multiplied by.
      kernel_scale: float, what the kernels alone are multiplied by.

    Returns:
      [n, units * len(scopes)] of the type of `matrix`.
    """
    def gathered(part, scale):
      return lambda: np.concatenate(
          [self._read(f"{scope}/{part}") * np.float32(factor * scale)
           for scope, factor in zip(scopes, scales)], axis=-1)

    width, dtype = units * len(scopes), tf.as_dtype(self._settings.dtype)
    with tf.compat.v1.variable_scope(name):
      kernel = self._variable("kernel", gathered("kernel", kernel_scale),
                              [matrix.shape[-1], width], dtype)
      bias = self._variable("bias", gathered("bias", 1.0), [width])
      product = tf.matmul(
          matrix, tf.cast(kernel, matrix.dtype), name=PRODUCT)
      return tf.nn.bias_add(product, tf.cast(bias, matrix.dtype))

  def _activation(self, inner):
    """The activation of the feed-forward layer."""
    if self._settings.is_crude:  # 1.702 is in the weights on both sides.
      return inner * tf.sigmoid(inner)
    return {
        "gelu": lambda x: tf.nn.gelu(x, approximate=True),
        "gelu_erf": tf.nn.gelu, "relu": tf.nn.relu, "tanh": tf.tanh,
        "linear": tf.identity}[self._sizes.activation](inner)

  def _add_and_norm(self, name, output, residual, scope):
    """Layer norm of a sum."""
    dtype = self._settings.norm_dtype
    return self._layer_norm(
        name, tf.cast(output, dtype) + tf.cast(residual, dtype), scope)

  def _layer_norm(self, name, matrix, scope):
    """modeling.layer_norm [n, W], reading the matrix fewer times."""
    matrix = tf.cast(matrix, self._settings.norm_dtype)
    with tf.compat.v1.variable_scope(name):
      gamma, beta = (tf.cast(self._variable(
          part, self._saved(f"{scope}/{part}"), [self._sizes.width]),
                             matrix.dtype) for part in ("gamma", "beta"))
    centered = matrix - tf.reduce_mean(matrix, axis=-1, keepdims=True)
    variance = tf.cast(tf.reduce_mean(
        tf.square(centered), axis=-1, keepdims=True), tf.float32)
    scale = tf.cast(
        tf.math.rsqrt(variance + _LAYER_NORM_EPSILON), matrix.dtype)
    return centered * scale * gamma + beta

  def _matrix_of(self, name, shape):
    """A variable of the output layers, as it is: float32."""
    return self._variable(name.replace("/", "_"), self._saved(name), shape)

  def _probabilities(self, hidden):
    """Pooler and output layer of a classifier on [B, W]."""
    sizes = self._sizes
    scope = f"{sizes.scope}/pooler/dense"
    with tf.compat.v1.name_scope("pooler"):
      pooled = tf.tanh(tf.nn.bias_add(
          tf.matmul(hidden, self._matrix_of(
              f"{scope}/kernel", [sizes.width, sizes.width]), name=PRODUCT),
          self._matrix_of(f"{scope}/bias", [sizes.width])))
    self.logits = self._output_layer(pooled)
    return self.outputs_of(self.logits)

  def outputs_of(self, logits):
    """See `classifier_outputs`."""
    return classifier_outputs(self._sizes, logits)

  def _output_layer(self, matrix):
    """The output layer: [n, W] -> [n, L]."""
    sizes = self._sizes
    weights = self._matrix_of(
        f"{sizes.output_scope}output_weights", [sizes.outputs, sizes.width])
    bias = self._matrix_of(
        f"{sizes.output_scope}output_bias", [sizes.outputs])
    with tf.compat.v1.name_scope("output_layer"):
      return tf.nn.bias_add(tf.matmul(
          matrix, weights, transpose_b=True, name=PRODUCT), bias)

  def _answer_logits(self, hidden, tokens):
    """Start and end logits of [T, W]."""
    logits = tf.reshape(tokens.unpack(self._output_layer(hidden)),
                        [*tokens.shape, 2])
    logits = tf.where(tokens.is_real[:, :, tf.newaxis], logits, PADDING_LOGIT)
    return {"start_logits": logits[:, :, 0], "end_logits": logits[:, :, 1]}


def classifier_outputs(sizes, logits):
  """The outputs of a classifier or regression model.

  Args:
    sizes: compile_reader.Sizes.
    logits: float32 [B, L].

  Returns:
    Dict with "probabilities", float32 [B, L].
  """
  return {"probabilities": (logits if sizes.kind == "regression"
                            else tf.nn.softmax(logits))}


class _Tokens(object):
  """Which positions of a batch are worked on, and where they stand.

  Attributes:
    shape: [B, S], ints where they are fixed, else scalars.
    positions: int32 [T], the position of each in its row.
    is_real: bool [B, S], the mask.
  """

  def __init__(self, input_ids, input_mask, max_positions, keeps_padding):
    """`input_ids` and `input_mask`: int32 [B, S]."""
    sizes = tf.shape(input_ids)
    batch, length = self.shape = [
        static or sizes[axis]
        for axis, static in enumerate(input_ids.shape.as_list())]
    self.is_real = input_mask > 0
    self._places = None
    if keeps_padding:
      self.positions = tf.tile(tf.range(length), [batch])
      self._first_places = tf.range(batch) * length
      return
    with tf.control_dependencies([tf.debugging.assert_less_equal(
        length, max_positions,
        "The sequence is longer than the position embeddings.")]):
      # The first token is read whatever the mask says of it.
      is_kept = tf.reshape(tf.concat(
          [tf.ones_like(self.is_real[:, :1]), self.is_real[:, 1:]], 1), [-1])
    self._places = tf.cast(tf.where(is_kept)[:, 0], tf.int32)  # [T]
    # For padding the token before it: a masked one may be anything finite.
    self._numbers = tf.cumsum(tf.cast(is_kept, tf.int32)) - 1  # [B * S]
    self.positions = self._places % length
    self._first_places = tf.gather(self._numbers, tf.range(batch) * length)

  def pack(self, array):
    """[B, S] -> [T], or [B * S, n] -> [T, n]."""
    if array.shape.rank == 2 and array.dtype.is_integer:
      array = tf.reshape(array, [-1])
    return array if self._places is None else tf.gather(array, self._places)

  def unpack(self, matrix):
    """[T, n] -> [B * S, n]."""
    return matrix if self._places is None else tf.gather(
        matrix, self._numbers)

  def firsts(self, matrix):
    """[T, n] -> [B, n], the first token of each row."""
    return tf.gather(matrix, self._first_places)
