# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""--fused_ops: what lies between the encoder's matrix products, compiled.

Between two products a training step drops elements, adds, normalises and
applies gelu or a softmax. As single operations each of them reads and writes
the activations again. Here XLA makes one pass of each such group, in the
forward and in the backward direction, and gradients recompute what is cheap
instead of keeping it. The products stay TensorFlow's own (oneDNN on CPUs).

Variables, their names and the results are those of `modeling.Operations`, but
for the order in which numbers are added up, and for which elements a dropout
drops: random bits for each element come from a hash of its place with a random
key, which is cheaper than a generator.

Source: Ba et al. 2016, "Layer Normalization", and Hendrycks and Gimpel 2016 for
gelu; for the hash, multiplications and shifts in turn, Steele et al. 2014,
"Fast Splittable Pseudorandom Number Generators".
"""

import functools
import math

import tensorflow as tf

import modeling

_GELU_SCALE = math.sqrt(2.0 / math.pi)
_GELU_CUBE = 0.044715


def _compiled(function):
  """Compiles a function, once for each shape; all layers share it."""
  compiled = tf.function(function, jit_compile=True, autograph=False)

  @functools.wraps(compiled)
  def call(*args):
    # Gradients are colocated with what they are of: with each layer's own
    # operation, for which there would be another function to compile.
    graph = tf.compat.v1.get_default_graph()
    with graph.colocate_with(None, ignore_existing=True):
      return compiled(*args)

  return call


def operations(options, is_training):
  """What a model's encoder is computed with.

  Args:
    options: option_helpers.Options.
    is_training: bool; whatever doesn't train is computed by plain operations.

  Returns:
    modeling.Operations.
  """
  kind = (FusedOperations if options.fused_ops and is_training else
          modeling.Operations)
  return kind(options.compute_dtype,
              is_training and options.recompute_layers)


class FusedOperations(modeling.Operations):
  """`modeling.Operations` for training, in as few passes as can be."""

  fuses_projections = True

  def __init__(self, compute_dtype=tf.float32, recomputes_layers=False):
    """See the base class."""
    super().__init__(compute_dtype, recomputes_layers)
    # Of a float32 tensor (its ref) the same in `compute_dtype`: where both are
    # needed, one pass writes both.
    self._casts = {}

  def to_compute_dtype(self, tensor):
    """See the base class."""
    if tensor.ref() in self._casts:
      return self._casts[tensor.ref()]
    return super().to_compute_dtype(tensor)

  def product(self, matrix, kernel, bias):
    """See the base class."""
    return _product(self.to_compute_dtype(matrix),
                    tf.cast(kernel, self.compute_dtype),
                    tf.cast(bias, self.compute_dtype))

  def activation(self, product, function):
    """See the base class."""
    if function is not modeling.gelu:
      return super().activation(product, function)
    return _gelu(product)

  def attention(self, query_layer, key_layer, value_layer, attention_mask,
                dropout_prob):
    """See the base class."""
    if attention_mask is None:
      return super().attention(query_layer, key_layer, value_layer,
                               attention_mask, dropout_prob)
    return _attention(query_layer, key_layer, value_layer, attention_mask,
                      *_key_and_rate(dropout_prob))

  def dropout_and_norm(self, output, residual, dropout_prob):
    """See the base class."""
    with modeling.layer_norm_scope(residual.shape[-1]) as (gamma, beta):
      return self._both(_dropout_and_norm(
          output, residual, gamma, beta, *_key_and_rate(dropout_prob)))

  def norm_and_dropout(self, input_tensor, dropout_prob):
    """See the base class."""
    matrix = modeling.reshape_to_matrix(input_tensor)
    with modeling.layer_norm_scope(matrix.shape[-1]) as (gamma, beta):
      normal, _ = _dropout_and_norm(
          matrix, tf.zeros_like(matrix), gamma, beta, None, 0.0)
    if dropout_prob:
      normal = _dropout(normal, *_key_and_rate(dropout_prob))
    return tf.reshape(normal, tf.shape(input_tensor))

  def _both(self, tensors):
    """Remembers the second (`compute_dtype`) beside the first (float32)."""
    full, cast = tensors
    self._casts[full.ref()] = cast
    return full


def _key_and_rate(dropout_prob):
  """(uint32 [2] or None, rate as float) of the next dropout of the graph."""
  if not dropout_prob:
    return None, 0.0
  seed = modeling.dropout_seed()
  if seed is None:
    key = tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
    return tf.bitcast(key, tf.uint32), float(dropout_prob)
  return tf.random.stateless_uniform(
      [2], seed, minval=None, maxval=None, dtype=tf.uint32), float(dropout_prob)


def _u32(number):
  return tf.constant(number, tf.uint32)


def _xor_shift(bits, count):
  return tf.bitwise.bitwise_xor(
      bits, tf.bitwise.right_shift(bits, _u32(count)))


def _dropped(tensor, key, rate):
  """Dropout; the same key drops the same elements. Any shape, float32."""
  if not rate:
    return tensor
  width = tf.shape(tensor)[-1]
  rows, columns = (tf.cast(tf.range(count), tf.uint32)
                   for count in (tf.size(tensor) // width, width))
  # The key is added to the rows: places alone would be a constant, of which XLA
  # keeps several copies with each function that it has compiled.
  starts = tf.expand_dims(rows * tf.cast(width, tf.uint32) + key[0], -1)
  bits = tf.reshape(starts + columns, tf.shape(tensor))
  bits = _xor_shift(bits, 16) * _u32(0x7feb352d) + key[1]
  bits = _xor_shift(bits, 15) * _u32(0x846ca68b)
  bits = _xor_shift(bits, 16) * _u32(0x9e3779b1)
  is_kept = bits >= _u32(round(rate * 2 ** 32))
  return tf.where(is_kept, tensor * (1.0 / (1.0 - rate)), 0.0)


@tf.custom_gradient
def _product(matrix, kernel, bias):
  """[n, W] x [W, units] + [units]."""
  def backward(grad):
    return (tf.matmul(grad, kernel, transpose_b=True),
            tf.matmul(matrix, grad, transpose_a=True), _sum_of_rows(grad))

  return tf.nn.bias_add(tf.matmul(matrix, kernel), bias), backward


@tf.custom_gradient
def _gelu(x):
  return _gelu_forward(x), lambda grad: _gelu_backward(x, grad)


@_compiled
def _gelu_forward(x):
  return tf.cast(modeling.gelu(tf.cast(x, tf.float32)), x.dtype)


@_compiled
def _gelu_backward(x, grad):
  dtype = x.dtype
  x, grad = tf.cast(x, tf.float32), tf.cast(grad, tf.float32)
  square = tf.square(x)
  tanh = tf.tanh(x * (_GELU_SCALE + _GELU_SCALE * _GELU_CUBE * square))
  slope = _GELU_SCALE + 3.0 * _GELU_SCALE * _GELU_CUBE * square
  factor = 0.5 + 0.5 * tanh + 0.5 * x * (1.0 - tf.square(tanh)) * slope
  return tf.cast(grad * factor, dtype)


def _dropout_and_norm(output, residual, gamma, beta, key, rate):
  """[n, W] in two dtypes: float32 and that of `output`."""
  @tf.custom_gradient
  def compute(output, residual, gamma, beta):
    normal, cast, mean, scale = _norm_forward(
        output, residual, gamma, beta, key, rate)

    def backward(grad, cast_grad):
      d_output, d_residual, d_gamma_rows = _norm_backward(
          output, residual, gamma, mean, scale, grad, cast_grad, key, rate)
      d_beta = _sum_of_rows(grad) + tf.cast(
          _sum_of_rows(cast_grad), tf.float32)
      return d_output, d_residual, _sum_of_rows(d_gamma_rows), d_beta

    return (normal, cast), backward

  return compute(output, residual, gamma, beta)


def _sum_of_rows(matrix):
  """[n, W] -> [W]. A product: it uses all cores and is faster than a sum."""
  ones = tf.ones([1, tf.shape(matrix)[0]], matrix.dtype)
  return tf.reshape(tf.matmul(ones, matrix), [-1])


@_compiled
def _norm_forward(output, residual, gamma, beta, key, rate):
  x = _sum_with_dropped(output, residual, key, rate)
  mean = tf.reduce_mean(x, -1, keepdims=True)  # [n, 1]
  variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
  scale = tf.math.rsqrt(variance + modeling.LAYER_NORM_EPSILON)
  normal = (x - mean) * scale * gamma + beta
  return normal, tf.cast(normal, output.dtype), mean, scale


@_compiled
def _norm_backward(output, residual, gamma, mean, scale, grad, cast_grad, key,
                   rate):
  """Gradients of output and residual, and that of gamma row by row."""
  normal = (_sum_with_dropped(output, residual, key, rate) - mean) * scale
  grad += tf.cast(cast_grad, tf.float32)
  scaled = grad * gamma
  d_sum = scale * (
      scaled - tf.reduce_mean(scaled, -1, keepdims=True) -
      normal * tf.reduce_mean(scaled * normal, -1, keepdims=True))
  return (tf.cast(_dropped(d_sum, key, rate), output.dtype), d_sum,
          grad * normal)


def _sum_with_dropped(output, residual, key, rate):
  return _dropped(tf.cast(output, tf.float32), key, rate) + residual


def _attention(query, key, value, mask, dropout_key, rate):
  """Context [B, N, F, H] of [B, N, L, H] and the mask [B, F, T]."""
  @tf.custom_gradient
  def compute(query, key, value):
    # The softmax is oneDNN's, which is faster than a compiled one.
    scores = _masked_scores(
        tf.matmul(query, key, transpose_b=True), mask, query.shape[-1])
    # Without a rank TensorFlow's cost model warns of every softmax.
    weights = tf.nn.softmax(tf.ensure_shape(scores, [None] * 4))
    dropped = _dropped_elements(weights, dropout_key, rate) if rate else weights
    context = tf.matmul(dropped, value)

    def backward(grad):
      d_scores = _scores_backward(
          weights, tf.matmul(grad, value, transpose_b=True), context, grad,
          dropout_key, rate)
      return (tf.matmul(d_scores, key),
              tf.matmul(d_scores, query, transpose_a=True),
              tf.matmul(dropped, grad, transpose_a=True))

    return context, backward

  return compute(query, key, value)


def _dropout(tensor, key, rate):
  @tf.custom_gradient
  def compute(tensor):
    return (_dropped_elements(tensor, key, rate),
            lambda grad: _dropped_elements(grad, key, rate))

  return compute(tensor)


@_compiled
def _dropped_elements(tensor, key, rate):
  return tf.cast(
      _dropped(tf.cast(tensor, tf.float32), key, rate), tensor.dtype)


@_compiled
def _masked_scores(scores, mask, size_per_head):
  bias = (1.0 - tf.cast(mask, tf.float32)) * modeling.MASKED_SCORE
  scaled = tf.cast(scores, tf.float32) * (1.0 / math.sqrt(size_per_head))
  return tf.cast(scaled + tf.expand_dims(bias, 1), scores.dtype)


@_compiled
def _scores_backward(weights, grad, context, context_grad, key, rate):
  """Gradient of the products of queries and keys, by that of the weights."""
  # A softmax's gradient takes from each row its sum of weight times gradient.
  # That of the context times its gradient is the same, and of fewer numbers
  # (Dao et al. 2022, "FlashAttention", appendix B.2).
  total = tf.reduce_sum(
      tf.cast(context, tf.float32) * tf.cast(context_grad, tf.float32), -1,
      keepdims=True)
  grad = _dropped(tf.cast(grad, tf.float32), key, rate) - total
  scale = 1.0 / math.sqrt(context.shape[-1])
  return tf.cast(tf.cast(weights, tf.float32) * grad * scale, weights.dtype)
