# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The BERT model: embeddings, transformer encoder, pooler.

Graph code: every function adds operations to the default graph and makes its
variables with `tf.compat.v1.get_variable`, so that their names are those of
Google's checkpoints (`bert/encoder/layer_0/attention/self/query/kernel`).

Letters of the shape comments, here and in the scripts:
  B batch, F from-length, T to-length, S sequence length, N attention heads,
  H size of a head, W hidden width (N * H as a rule), V vocabulary,
  P masked predictions, L labels. Activations are float32, and so is whatever
  leaves a model; with `compute_dtype` tf.bfloat16 or tf.float16 the matrix
  products of the encoder, and what lies directly between two of them, aren't.

Source: google-research/bert (commit cc7051dc); Devlin et al. 2018, "BERT";
Vaswani et al. 2017, "Attention Is All You Need", section 3.
"""

import collections
import contextlib
import copy
import json
import math
import re
from typing import List

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import is_resource_variable
from tensorflow.python.training import training_util

# Graph collection: number of the micro-batch that is being worked on, a scalar
# int64 tensor, see `dropout`.
MICRO_BATCH = "micro_batch"

# Added to the scores of masked positions before the softmax.
MASKED_SCORE = -10000.0
# Published checkpoints were trained with this epsilon. Keras' default of 1e-3
# changes their outputs (see CHANGES.md).
LAYER_NORM_EPSILON = 1e-12
# Graph collection with an entry per dropout that a seed decides.
_SEEDED_DROPOUTS = "seeded_dropouts"
# Graph collection of the seeds in use where something is computed again.
_SEED_RECORDS = "dropout_seed_records"
# The two numbers of such a seed are graph seed and dropout, micro-batch and
# step; the second ones have so many of the 64 bits.
_DROPOUT_BITS = 32
_STEP_BITS = 40


class BertConfig(object):
  """Sizes and rates of a model; the content of `bert_config.json`.

  Source: upstream symbol; see CHANGES.
  """

  def __init__(
      self, vocab_size, hidden_size=768, num_hidden_layers=12,
      num_attention_heads=12, intermediate_size=3072, hidden_act="gelu",
      hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
      max_position_embeddings=512, type_vocab_size=16, initializer_range=0.02):
    """Takes the values as they are.

    Args:
      vocab_size: int, rows of the word embedding table.
      hidden_size: int, width of the encoder and the pooler.
      num_hidden_layers: int.
      num_attention_heads: int, divides `hidden_size`.
      intermediate_size: int, width of the feed-forward layer.
      hidden_act: string (see `get_activation`) or function, activation of the
        feed-forward layer.
      hidden_dropout_prob: float, dropout rate of embeddings and layer outputs.
      attention_probs_dropout_prob: float, dropout rate of attention weights.
      max_position_embeddings: int, longest sequence in tokens.
      type_vocab_size: int, number of segment ids.
      initializer_range: float, stddev of the truncated normal initializer.
    """
    self.vocab_size, self.type_vocab_size = vocab_size, type_vocab_size
    self.max_position_embeddings = max_position_embeddings
    self.num_hidden_layers = num_hidden_layers
    self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
    self.num_attention_heads = num_attention_heads
    self.attention_probs_dropout_prob = attention_probs_dropout_prob
    self.hidden_dropout_prob = hidden_dropout_prob
    self.hidden_act = hidden_act
    self.initializer_range = initializer_range

  @classmethod
  def from_dict(cls, json_object):
    """Returns a config with the keys of a dict; unknown keys are kept too."""
    config = cls(vocab_size=None)
    config.__dict__.update(json_object)
    return config

  @classmethod
  def from_json_file(cls, json_file):
    """Reads a `bert_config.json`.

    Raises:
      ValueError: the file is not a JSON object (names file and place).
    """
    with tf.io.gfile.GFile(json_file, "rb") as reader:
      raw = reader.read()
    try:
      json_object = json.loads(raw.decode("utf-8"))
    except ValueError as error:
      raise ValueError(
          f"{json_file} is not JSON: {error}. --bert_config_file has to be "
          f"the bert_config.json of the model.") from None
    if not isinstance(json_object, dict):
      raise ValueError(
          f"{json_file} holds a JSON {type(json_object).__name__}, not an "
          f"object. --bert_config_file has to be the bert_config.json of the "
          f"model.")
    return cls.from_dict(json_object)

  def to_dict(self):
    """Returns a deep copy of the values as a dict."""
    return copy.deepcopy(self.__dict__)

  def to_json_string(self):
    """Returns the values as JSON text, keys sorted, newline at the end."""
    text = json.dumps(self.to_dict(), sort_keys=True, indent=2)
    return f"{text}\n"


class BertModel(object):
  """The encoder on a batch of token ids.

  Attributes:
    embedding_output: float32 [B, S, W], after layer norm and dropout.
    embedding_table: float32 variable [V, W], the word embeddings.
    all_encoder_layers: list of float32 [B, S, W], one per layer.
    sequence_output: float32 [B, S, W], the last layer.
    pooled_output: float32 [B, W], tanh of a dense layer on the first token.

  A small use:

    config = modeling.BertConfig(vocab_size=32000, hidden_size=512)
    model = modeling.BertModel(config, is_training=True, input_ids=ids)
    logits = tf.matmul(model.get_pooled_output(), weights)

  Source: upstream symbol; see CHANGES.
  """

  def __init__(self,
               config,
               is_training,
               input_ids,
               input_mask=None,
               token_type_ids=None,
               use_one_hot_embeddings=False,
               scope=None,
               operations=None):
    """Builds the graph.

    Args:
      config: BertConfig; a copy is used, the caller's is left alone.
      is_training: bool, False turns all dropout off.
      input_ids: int32 [B, S].
      input_mask: int32 [B, S] or None, 1 for tokens and 0 for padding; None
        means no padding.
      token_type_ids: int32 [B, S] or None, segment ids; None means all 0.
      use_one_hot_embeddings: bool, look words up by a matrix product (TPU)
        instead of a gather.
      scope: string or None, variable scope, by default "bert".
      operations: Operations or None, what the encoder is computed with; None
        means float32 throughout.

    Raises:
      ValueError: a tensor's rank or the config's sizes don't fit.
    """
    config = copy.deepcopy(config)
    operations = operations or Operations()
    if not is_training:
      config.attention_probs_dropout_prob = config.hidden_dropout_prob = 0.0

    ids_shape = get_shape_list(input_ids, expected_rank=2)  # [B, S]
    if token_type_ids is None:
      token_type_ids = tf.zeros(ids_shape, dtype=tf.int32)
    if input_mask is None:
      input_mask = tf.ones(ids_shape, dtype=tf.int32)

    with tf.compat.v1.variable_scope(scope, default_name="bert"):
      with tf.compat.v1.variable_scope("embeddings"):
        words, self.embedding_table = embedding_lookup(
            input_ids, config.vocab_size, config.hidden_size,
            config.initializer_range,
            use_one_hot_embeddings=use_one_hot_embeddings)  # [B, S, W]
        self.embedding_output = embedding_postprocessor(
            words,
            use_token_type=True,
            token_type_ids=token_type_ids,
            token_type_vocab_size=config.type_vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            initializer_range=config.initializer_range,
            dropout_prob=config.hidden_dropout_prob,
            operations=operations)  # [B, S, W]

      with tf.compat.v1.variable_scope("encoder"):
        attention_mask = create_attention_mask_from_input_mask(
            input_ids, input_mask)  # [B, S, S]
        self.all_encoder_layers = transformer_model(
            self.embedding_output, attention_mask,
            config.hidden_size, config.num_hidden_layers,
            config.num_attention_heads, config.intermediate_size,
            get_activation(config.hidden_act), config.hidden_dropout_prob,
            config.attention_probs_dropout_prob, config.initializer_range,
            do_return_all_layers=True, operations=operations)

      self.sequence_output = self.all_encoder_layers[-1]  # [B, S, W]
      with tf.compat.v1.variable_scope("pooler"):
        # Pretraining taught the first token, [CLS], to stand for the whole
        # segment (next sentence prediction).
        first_token = self.sequence_output[:, 0, :]  # [B, W]
        self.pooled_output = dense(
            first_token, config.hidden_size, tf.tanh,
            config.initializer_range, "dense", operations)  # [B, W]

  def get_pooled_output(self) -> tf.Tensor:
    """Returns float32 [B, W], one vector per row."""
    return self.pooled_output

  def get_sequence_output(self) -> tf.Tensor:
    """Returns float32 [B, S, W], the last layer."""
    return self.sequence_output

  def get_all_encoder_layers(self) -> List[tf.Tensor]:
    """Returns the list of all layers' outputs, float32 [B, S, W] each."""
    return self.all_encoder_layers

  def get_embedding_output(self) -> tf.Tensor:
    """Returns float32 [B, S, W], what enters the first layer."""
    return self.embedding_output

  def get_embedding_table(self) -> tf.Variable:
    """Returns the word embedding variable, float32 [V, W]."""
    return self.embedding_table


class Operations(object):
  """What the encoder is computed with: its steps, each as TensorFlow has it.

  Attributes:
    compute_dtype: tf.float32, tf.bfloat16 or tf.float16, what the matrix
      products of encoder and pooler are computed in. Variables, embeddings,
      softmax, layer norm, activations and residual sums are float32.
    recomputes_layers: bool, a layer's gradient computes it again instead of
      keeping what it has computed.
    fuses_projections: bool, query, key and value are one product.

  Not in upstream, whose functions hold these steps.
  """

  fuses_projections = False

  def __init__(self, compute_dtype=tf.float32, recomputes_layers=False):
    """Takes the values as they are."""
    self.compute_dtype = compute_dtype
    self.recomputes_layers = recomputes_layers

  def to_compute_dtype(self, tensor):
    """Returns the tensor in `compute_dtype`."""
    return tf.cast(tensor, self.compute_dtype)

  def product(self, matrix, kernel, bias):
    """A matrix product and a bias.

    Args:
      matrix: [n, W].
      kernel: float32 [W, units].
      bias: float32 [units].

    Returns:
      `compute_dtype` [n, units].
    """
    product = tf.matmul(self.to_compute_dtype(matrix),
                        tf.cast(kernel, self.compute_dtype))
    return tf.nn.bias_add(product, tf.cast(bias, self.compute_dtype))

  def activation(self, product, function):
    """Applies an activation function.

    Args:
      product: `compute_dtype`, any shape.
      function: function of a tensor.

    Returns:
      float32, which the function is computed in: the gradient of gelu
      overflows in float16.
    """
    return function(tf.cast(product, tf.float32))

  def attention(self, query_layer, key_layer, value_layer, attention_mask,
                dropout_prob):
    """Softmax of the products of queries and keys, with dropout, on values.

    Args:
      query_layer: `compute_dtype` [B, N, F, H].
      key_layer: `compute_dtype` [B, N, T, H].
      value_layer: `compute_dtype` [B, N, T, H].
      attention_mask: int32 or float [B, F, T] or None, 1 where a position may
        be looked at, 0 where not.
      dropout_prob: float, dropout rate of the attention weights.

    Returns:
      `compute_dtype` [B, N, F, H].
    """
    scores = tf.cast(tf.matmul(
        query_layer, key_layer, transpose_b=True), tf.float32)  # [B, N, F, T]
    scores *= 1.0 / math.sqrt(query_layer.shape[-1])
    if attention_mask is not None:
      # A large negative number, not minus infinity: a fully masked row then
      # has an even softmax instead of NaN.
      blocked = 1.0 - tf.cast(attention_mask, tf.float32)
      scores += tf.expand_dims(blocked * MASKED_SCORE, axis=1)
    # Drops whole tokens to attend to, which looks odd and is what was
    # published.
    weights = dropout(tf.nn.softmax(scores), dropout_prob)
    return tf.matmul(self.to_compute_dtype(weights), value_layer)

  def dropout_and_norm(self, output, residual, dropout_prob):
    """Dropout, residual sum and layer norm, the end of a sub-layer.

    Args:
      output: `compute_dtype` [n, W].
      residual: float32 [n, W], what the sub-layer began with.
      dropout_prob: float.

    Returns:
      float32 [n, W].
    """
    output = dropout(tf.cast(output, tf.float32), dropout_prob)
    return layer_norm(output + residual)

  def norm_and_dropout(self, input_tensor, dropout_prob):
    """`layer_norm_and_dropout`, the end of the embeddings.

    Args:
      input_tensor: float32 [B, S, W].
      dropout_prob: float.

    Returns:
      float32 [B, S, W].
    """
    return layer_norm_and_dropout(input_tensor, dropout_prob)


def gelu(x):
  """Gaussian error linear unit in its tanh form.

  Not the erf form, which `tf.nn.gelu` computes by default: the published
  weights were trained with this one.

  Args:
    x: float tensor of any shape.

  Returns:
    Tensor of the same shape and dtype.

  Source: upstream symbol; Hendrycks and Gimpel 2016, section 2; see CHANGES.
  """
  # 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), with the constants
  # gathered and without tf.pow, whose gradient takes a power again.
  scale = math.sqrt(2.0 / math.pi)
  inner = x * (scale + (scale * 0.044715) * tf.square(x))
  return x * (0.5 + 0.5 * tf.tanh(inner))


def get_activation(activation_string):
  """Finds an activation function by its name in a config.

  Args:
    activation_string: "gelu", "relu", "tanh", "linear" in any case, or
      something that is no string, which is returned as it is.

  Returns:
    A function of one tensor, or None for "linear", "" and None.

  Raises:
    ValueError: unknown name.

  Source: upstream symbol, unchanged.
  """
  if not isinstance(activation_string, str):
    return activation_string
  functions = {"": None, "linear": None, "relu": tf.nn.relu, "gelu": gelu,
               "tanh": tf.tanh}
  name = activation_string.lower()
  if name not in functions:
    raise ValueError(
        f"Unknown activation {activation_string!r} (hidden_act in "
        f"bert_config.json); known are gelu, relu, tanh and linear.")
  return functions[name]


def get_assignment_map_from_checkpoint(tvars, init_checkpoint):
  """Pairs a checkpoint's variables with those of the graph, by name.

  Args:
    tvars: list of variables to initialise, as a rule
      `tf.compat.v1.trainable_variables()`. They must be resource variables:
      with a name alone `init_from_checkpoint` would not find them in TF 2.
    init_checkpoint: string, checkpoint prefix (`.../bert_model.ckpt`).

  Returns:
    (assignment_map, initialized_variable_names): an OrderedDict from the name
    in the checkpoint to the graph's variable, for
    `tf.compat.v1.train.init_from_checkpoint`; and a dict whose keys are the
    names of the variables that will be loaded, with and without ":0".

  Raises:
    AssertionError: a variable is not a resource variable.

  Source: upstream symbol; see CHANGES.
  """
  by_name = collections.OrderedDict(
      (re.sub(r":\d+$", "", var.name), var) for var in tvars)
  assignment_map = collections.OrderedDict()
  initialized_variable_names = {}
  for name, _ in tf.train.list_variables(init_checkpoint):
    if name not in by_name:
      continue
    var = by_name[name]
    assert is_resource_variable(var), (
        f"{name} is a reference variable: call "
        f"tf.compat.v1.enable_resource_variables() before building the model.")
    assignment_map[name] = var
    initialized_variable_names[name] = 1
    initialized_variable_names[name + ":0"] = 1
  return (assignment_map, initialized_variable_names)


def dropout(input_tensor, dropout_prob):
  """Zeroes elements at random and scales the others up.

  In a graph with a seed and a global step, that is in a training with
  --random_seed, what is dropped depends on the seed, the step and which dropout
  of the graph it is, and on nothing else: a training that goes on from a
  checkpoint drops what it would have dropped. Whoever works through several
  micro-batches in a step, by a tf.while_loop, adds the number of the
  micro-batch (from 0) to the collection MICRO_BATCH in the body, before the
  model is built there; the last entry of the body counts.

  Args:
    input_tensor: float tensor.
    dropout_prob: float or None, probability of dropping an element (TF 1's
      `keep_prob` is one minus it). 0 and None return the tensor itself.

  Returns:
    Tensor of the same shape.

  Source: upstream symbol; `rate` instead of `keep_prob`, see CHANGES.
  """
  if not dropout_prob:
    return input_tensor
  seed = dropout_seed()
  if seed is None:
    return tf.nn.dropout(input_tensor, rate=dropout_prob)
  return tf.nn.experimental.stateless_dropout(
      input_tensor, dropout_prob, seed, rng_alg="philox")


def dropout_seed():
  """int64 [2] for the next dropout of the graph; None for TensorFlow's own."""
  records = tf.compat.v1.get_collection(_SEED_RECORDS)
  return records[-1].next(_own_seed) if records else _own_seed()


def _own_seed():
  """`dropout_seed` of a dropout that is computed once."""
  graph = tf.compat.v1.get_default_graph()
  if graph.seed is None:
    return None
  # The step as it is before the optimizer raises it.
  # pylint: disable=protected-access
  step = training_util._get_or_create_global_step_read()
  if step is None:
    return None
  place = len(graph.get_collection(_SEEDED_DROPOUTS))
  graph.add_to_collection(_SEEDED_DROPOUTS, place)
  # A loop's body has a graph of its own, but the collections of that around it.
  micro_batches = [number for number in graph.get_collection(MICRO_BATCH)
                   if number.graph is graph]
  if micro_batches:
    step += tf.cast(micro_batches[-1], tf.int64) * (1 << _STEP_BITS)
  seed = (graph.seed % 2 ** 31 << _DROPOUT_BITS) + place
  return tf.stack([tf.constant(seed, tf.int64), step])


class _SeedRecord(object):
  """The seeds of the dropouts of what is computed twice."""

  def __init__(self):
    self._seeds = []

  @contextlib.contextmanager
  def used(self):
    """Where dropouts take these seeds in turn; the first time it makes them."""
    self._num_taken = 0
    records = tf.compat.v1.get_collection_ref(_SEED_RECORDS)
    records.append(self)
    try:
      yield
    finally:
      records.remove(self)

  def next(self, make):
    """The next seed; a random one where `make` gives None."""
    if self._num_taken == len(self._seeds):
      seed = make()
      if seed is None:
        seed = tf.random.uniform([2], tf.int64.min, tf.int64.max, tf.int64)
      self._seeds.append(seed)
    self._num_taken += 1
    return self._seeds[self._num_taken - 1]


def _recomputed(layer, layer_input):
  """A layer whose gradient computes it again and keeps its input alone.

  Args:
    layer: function of a tensor that makes its variables in the scope that it
      is called in.
    layer_input: tensor.

  Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
  """
  scope = tf.compat.v1.get_variable_scope()
  seeds = _SeedRecord()

  @tf.custom_gradient
  def compute(layer_input):
    def backward(grad, variables=()):
      # Not before its gradient is there: else all layers would be kept again.
      with tf.control_dependencies([grad]):
        again = tf.identity(layer_input)
      with tf.compat.v1.variable_scope(scope, reuse=True):
        output = run(again)
      gradients = tf.gradients(output, [again, *variables], grad)
      return gradients[0], gradients[1:]

    return run(layer_input), backward

  def run(layer_input):
    # Nor are weights in the compute dtype there before they are needed.
    with seeds.used(), tf.control_dependencies([layer_input]):
      return layer(layer_input)

  return compute(layer_input)


def layer_norm(input_tensor, name=None):
  """Normalises the last dimension to mean 0 and variance 1, then scales.

  Plain operations with epsilon 1e-12. Keras' LayerNormalization has the same
  variables, but TF 2.15.1 (oneDNN) computes it with epsilon 1e-3 as soon as
  its weights are constants, in every frozen graph.

  Args:
    input_tensor: float32 [..., W].
    name: string or None, scope of the variables `gamma` and `beta` [W]; None
      means "LayerNorm", numbered if taken.

  Returns:
    float32 [..., W].

  Source: upstream symbol; Ba et al. 2016, "Layer Normalization"; see CHANGES.
  """
  with layer_norm_scope(input_tensor.shape[-1], name) as (gamma, beta):
    mean, variance = tf.nn.moments(input_tensor, axes=[-1], keepdims=True)
    return tf.nn.batch_normalization(
        input_tensor, mean, variance, beta, gamma, LAYER_NORM_EPSILON)


@contextlib.contextmanager
def layer_norm_scope(width, name=None):
  """Enters the scope of a `layer_norm`; gives its gamma and beta [W]."""
  with tf.compat.v1.variable_scope(name, default_name="LayerNorm"):
    beta = tf.compat.v1.get_variable(
        "beta", [width], initializer=tf.zeros_initializer())
    gamma = tf.compat.v1.get_variable(
        "gamma", [width], initializer=tf.ones_initializer())
    yield gamma, beta


def layer_norm_and_dropout(input_tensor, dropout_prob, name=None):
  """`layer_norm`, then `dropout`; see there.

  Source: upstream symbol, unchanged.
  """
  return dropout(layer_norm(input_tensor, name), dropout_prob)


def create_initializer(initializer_range=0.02):
  """Returns a truncated normal initializer with this standard deviation.

  Source: upstream symbol, unchanged.
  """
  return tf.compat.v1.truncated_normal_initializer(0.0, initializer_range)


def embedding_lookup(
    input_ids, vocab_size, embedding_size=128, initializer_range=0.02,
    word_embedding_name="word_embeddings", use_one_hot_embeddings=False):
  """Looks up the embedding vectors of ids.

  Args:
    input_ids: int32 [B, S] or [B, S, n]; with n the n vectors of a position
      stand side by side.
    vocab_size: int, V.
    embedding_size: int, width of a vector.
    initializer_range: float, see `create_initializer`.
    word_embedding_name: string, name of the table.
    use_one_hot_embeddings: bool, matrix product instead of a gather; its
      gradient is dense, that of a gather sparse.

  Returns:
    (float32 [B, S, n * embedding_size], the table [V, embedding_size]).

  Source: upstream symbol, unchanged.
  """
  # Upstream's single column: [B, S] is treated as [B, S, 1].
  if input_ids.shape.ndims == 2:
    input_ids = tf.expand_dims(input_ids, axis=-1)
  embedding_table = tf.compat.v1.get_variable(
      word_embedding_name, [vocab_size, embedding_size],
      initializer=create_initializer(initializer_range))
  flat_ids = tf.reshape(input_ids, [-1])
  if use_one_hot_embeddings:
    output = tf.matmul(tf.one_hot(flat_ids, depth=vocab_size), embedding_table)
  else:
    output = tf.gather(embedding_table, flat_ids)
  shape = get_shape_list(input_ids)
  output = tf.reshape(output, shape[:-1] + [shape[-1] * embedding_size])
  return (output, embedding_table)


def embedding_postprocessor(
    input_tensor, use_token_type=False, token_type_ids=None,
    token_type_vocab_size=16,
    token_type_embedding_name="token_type_embeddings",
    use_position_embeddings=True,
    position_embedding_name="position_embeddings", initializer_range=0.02,
    max_position_embeddings=512, dropout_prob=0.1, operations=None):
  """Adds segment and position embeddings, then layer norm and dropout.

  Args:
    input_tensor: float32 [B, S, W], word embeddings.
    use_token_type: bool, add segment embeddings.
    token_type_ids: int32 [B, S], needed with `use_token_type`.
    token_type_vocab_size: int, number of segment ids.
    token_type_embedding_name: string, name of that table.
    use_position_embeddings: bool, add position embeddings.
    position_embedding_name: string, name of that table.
    initializer_range: float, see `create_initializer`.
    max_position_embeddings: int, rows of the position table; S may be
      shorter, not longer.
    dropout_prob: float, dropout rate of the result.
    operations: Operations or None, see `BertModel`.

  Returns:
    float32 [B, S, W].

  Raises:
    ValueError: a rank is wrong or `token_type_ids` is missing.
    tf.errors.InvalidArgumentError: S is larger than the position table.

  Source: upstream symbol; see CHANGES.
  """
  batch_size, seq_length, width = get_shape_list(input_tensor, expected_rank=3)
  output = input_tensor

  if use_token_type:
    if token_type_ids is None:
      raise ValueError("use_token_type needs token_type_ids.")
    token_type_table = tf.compat.v1.get_variable(
        token_type_embedding_name, [token_type_vocab_size, width],
        initializer=create_initializer(initializer_range))
    # The table is tiny, so a product is faster than a gather, above all in
    # the backward pass.
    one_hot_ids = tf.one_hot(
        tf.reshape(token_type_ids, [-1]), depth=token_type_vocab_size)
    output += tf.reshape(tf.matmul(one_hot_ids, token_type_table),
                         [batch_size, seq_length, width])

  if use_position_embeddings:
    fits = tf.compat.v1.assert_less_equal(
        seq_length, max_position_embeddings,
        message="The sequence is longer than the position embeddings.")
    with tf.control_dependencies([fits]):
      position_table = tf.compat.v1.get_variable(
          position_embedding_name, [max_position_embeddings, width],
          initializer=create_initializer(initializer_range))
      # Position i is row i, so the first S rows serve every row of the batch.
      positions = tf.slice(position_table, [0, 0], [seq_length, -1])  # [S, W]
    output += tf.expand_dims(positions, axis=0)

  operations = operations or Operations()
  return operations.norm_and_dropout(output, dropout_prob)


def create_attention_mask_from_input_mask(from_tensor, to_mask):
  """Repeats a padding mask for every from-position.

  Args:
    from_tensor: [B, F] or [B, F, ...], only its shape counts.
    to_mask: int32 [B, T], 1 for tokens, 0 for padding.

  Returns:
    float32 [B, F, T].

  Raises:
    ValueError: a rank is wrong.

  Source: upstream symbol, unchanged.
  """
  from_shape = get_shape_list(from_tensor, expected_rank=[2, 3])
  batch_size, to_length = get_shape_list(to_mask, expected_rank=2)
  to_mask = tf.cast(tf.reshape(to_mask, [batch_size, 1, to_length]), tf.float32)
  # Padding may look at tokens too: what comes out there is never used.
  return tf.ones([batch_size, from_shape[1], 1], tf.float32) * to_mask


def attention_layer(
    from_tensor, to_tensor, attention_mask=None, num_attention_heads=1,
    size_per_head=512, query_act=None, key_act=None, value_act=None,
    attention_probs_dropout_prob=0.0, initializer_range=0.02,
    do_return_2d_tensor=False, batch_size=None, from_seq_length=None,
    to_seq_length=None, operations=None):
  """Multi-headed attention from one sequence to another (or to itself).

  Args:
    from_tensor: float32 [B, F, W] or [B * F, W].
    to_tensor: float32 [B, T, W] or [B * T, W], of the same rank.
    attention_mask: int32 or float [B, F, T] or None, 1 where a position may
      be looked at, 0 where not.
    num_attention_heads: int, N.
    size_per_head: int, H.
    query_act: function or None, activation of the query projection.
    key_act: function or None, activation of the key projection.
    value_act: function or None, activation of the value projection.
    attention_probs_dropout_prob: float, dropout rate of the weights.
    initializer_range: float, see `create_initializer`.
    do_return_2d_tensor: bool, return [B * F, N * H].
    batch_size: int, needed for rank 2.
    from_seq_length: int, needed for rank 2.
    to_seq_length: int, needed for rank 2.
    operations: Operations or None, see `BertModel`.

  Returns:
    [B, F, N * H], or [B * F, N * H] with `do_return_2d_tensor`, in the
    compute dtype of the operations.

  Raises:
    ValueError: ranks are wrong or differ, or a length is missing.

  Source: upstream symbol; Vaswani et al. 2017, section 3.2; see CHANGES.
  """
  from_shape = get_shape_list(from_tensor, expected_rank=[2, 3])
  to_shape = get_shape_list(to_tensor, expected_rank=[2, 3])
  if len(from_shape) != len(to_shape):
    raise ValueError(
        f"from_tensor has rank {len(from_shape)} and to_tensor rank "
        f"{len(to_shape)}; they have to be the same.")
  if len(from_shape) == 3:
    batch_size, from_seq_length = from_shape[:2]
    to_seq_length = to_shape[1]
  elif batch_size is None or from_seq_length is None or to_seq_length is None:
    raise ValueError(
        "Tensors of rank 2 need batch_size, from_seq_length and "
        "to_seq_length.")

  operations = operations or Operations()
  from_matrix = reshape_to_matrix(from_tensor)  # [B * F, W]
  to_matrix = reshape_to_matrix(to_tensor)  # [B * T, W]

  def project(matrix, activation, name, seq_length):
    """Dense layer, split into heads: [B * L, W] -> [B, N, L, H]."""
    heads = dense(matrix, num_attention_heads * size_per_head, activation,
                  initializer_range, name, operations)  # [B * L, N * H]
    heads = tf.reshape(
        operations.to_compute_dtype(heads),
        [batch_size, seq_length, num_attention_heads, size_per_head])
    return tf.transpose(heads, [0, 2, 1, 3])

  if (operations.fuses_projections and from_tensor is to_tensor and
      not (query_act or key_act or value_act)):
    query_layer, key_layer, value_layer = _project_together(
        from_matrix, [batch_size, from_seq_length], num_attention_heads,
        size_per_head, initializer_range, operations)
  else:
    query_layer = project(from_matrix, query_act, "query", from_seq_length)
    key_layer = project(to_matrix, key_act, "key", to_seq_length)
    value_layer = project(to_matrix, value_act, "value", to_seq_length)

  context_layer = operations.attention(
      query_layer, key_layer, value_layer, attention_mask,
      attention_probs_dropout_prob)  # [B, N, F, H]
  context_layer = tf.transpose(context_layer, [0, 2, 1, 3])  # [B, F, N, H]
  width = num_attention_heads * size_per_head
  if do_return_2d_tensor:
    return tf.reshape(context_layer, [batch_size * from_seq_length, width])
  return tf.reshape(context_layer, [batch_size, from_seq_length, width])


def _project_together(matrix, sizes, num_attention_heads, size_per_head,
                      initializer_range, operations):
  """Query, key and value by one product with their kernels side by side.

  Args:
    matrix: [B * S, W].
    sizes: list, [B, S].

  Returns:
    List of three tensors [B, N, S, H].
  """
  width = num_attention_heads * size_per_head
  kernels, biases = [], []
  for name in ("query", "key", "value"):
    with _dense_scope(matrix.shape[-1], width, initializer_range,
                      name) as (kernel, bias):
      kernels.append(kernel)
      biases.append(bias)
  heads = operations.product(
      matrix, tf.concat(kernels, axis=1), tf.concat(biases, axis=0))
  heads = tf.reshape(
      heads, [*sizes, 3, num_attention_heads, size_per_head])
  return tf.unstack(tf.transpose(heads, [2, 0, 3, 1, 4]))


def transformer_model(
    input_tensor, attention_mask=None, hidden_size=768, num_hidden_layers=12,
    num_attention_heads=12, intermediate_size=3072, intermediate_act_fn=gelu,
    hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    initializer_range=0.02, do_return_all_layers=False, operations=None):
  """The encoder: self-attention and feed-forward, layer upon layer.

  Args:
    input_tensor: float32 [B, S, W].
    attention_mask: int32 or float [B, S, S] or None, see `attention_layer`.
    hidden_size: int, equal to W because of the residual connections.
    num_hidden_layers: int.
    num_attention_heads: int, divides `hidden_size`.
    intermediate_size: int, width of the feed-forward layer.
    intermediate_act_fn: function, its activation.
    hidden_dropout_prob: float, dropout rate of both sub-layers' outputs.
    attention_probs_dropout_prob: float, dropout rate of attention weights.
    initializer_range: float, see `create_initializer`.
    do_return_all_layers: bool, return every layer's output.
    operations: Operations or None, see `BertModel`.

  Returns:
    float32 [B, S, W], or with `do_return_all_layers` a list of them.

  Raises:
    ValueError: a rank or size doesn't fit.

  Source: upstream symbol; Vaswani et al. 2017, section 3.1; see CHANGES.
  """
  if hidden_size % num_attention_heads:
    raise ValueError(
        f"hidden_size {hidden_size} is not a multiple of num_attention_heads "
        f"{num_attention_heads}.")
  batch_size, seq_length, width = get_shape_list(input_tensor, expected_rank=3)
  if width != hidden_size:
    raise ValueError(
        f"The input's width {width} is not hidden_size {hidden_size}, which "
        f"the residual connections need.")

  operations = operations or Operations()
  # Matrices all the way: reshaping costs nothing on a CPU or GPU, but not on
  # every device.
  input_shape = [batch_size, seq_length, width]
  layer_output = reshape_to_matrix(input_tensor)  # [B * S, W]
  all_layer_outputs = []

  def encoder_layer(layer_input):
    """One layer, in the current scope: [B * S, W] -> [B * S, W]."""
    with tf.compat.v1.variable_scope("attention"):
      with tf.compat.v1.variable_scope("self"):
        attention_output = attention_layer(
            layer_input, layer_input, attention_mask, num_attention_heads,
            hidden_size // num_attention_heads,
            attention_probs_dropout_prob=attention_probs_dropout_prob,
            initializer_range=initializer_range, do_return_2d_tensor=True,
            batch_size=batch_size, from_seq_length=seq_length,
            to_seq_length=seq_length, operations=operations)
      with tf.compat.v1.variable_scope("output"):
        attention_output = dense(attention_output, hidden_size, None,
                                 initializer_range, "dense", operations)
        attention_output = operations.dropout_and_norm(
            attention_output, layer_input, hidden_dropout_prob)

    with tf.compat.v1.variable_scope("intermediate"):
      intermediate_output = dense(
          attention_output, intermediate_size, intermediate_act_fn,
          initializer_range, "dense",
          operations)  # [B * S, intermediate_size]

    with tf.compat.v1.variable_scope("output"):
      layer_output = dense(intermediate_output, hidden_size, None,
                           initializer_range, "dense", operations)
      return operations.dropout_and_norm(
          layer_output, attention_output, hidden_dropout_prob)

  for index in range(num_hidden_layers):
    with tf.compat.v1.variable_scope(f"layer_{index}"):
      if operations.recomputes_layers:
        layer_output = _recomputed(encoder_layer, layer_output)
      else:
        layer_output = encoder_layer(layer_output)
    all_layer_outputs.append(layer_output)

  if do_return_all_layers:
    return [reshape_from_matrix(output, input_shape)
            for output in all_layer_outputs]
  return reshape_from_matrix(layer_output, input_shape)


def dense(input_tensor, units, activation, initializer_range, name,
          operations=None):
  """Dense layer with variables `kernel` and `bias` in a scope of its own.

  Args:
    input_tensor: float tensor [n, W].
    units: int.
    activation: function of a tensor, or None.
    initializer_range: float, standard deviation of the kernel's initial values.
    name: string, the scope.
    operations: Operations or None, see `BertModel`.

  Returns:
    [n, units]; without an activation in the compute dtype of the operations.
  """
  operations = operations or Operations()
  with _dense_scope(input_tensor.shape[-1], units, initializer_range,
                    name) as (kernel, bias):
    output = operations.product(input_tensor, kernel, bias)
    return operations.activation(output, activation) if activation else output


@contextlib.contextmanager
def _dense_scope(width, units, initializer_range, name):
  """Enters the scope of a `dense`; gives kernel [W, units] and bias."""
  with tf.compat.v1.variable_scope(name):
    kernel = tf.compat.v1.get_variable(
        "kernel", [width, units],
        initializer=create_initializer(initializer_range))
    bias = tf.compat.v1.get_variable(
        "bias", [units], initializer=tf.zeros_initializer())
    yield kernel, bias


def get_shape_list(tensor, expected_rank=None, name=None):
  """Returns a tensor's shape, as numbers where they are known.

  Args:
    tensor: tensor.
    expected_rank: int, list of int or None, ranks to accept.
    name: string or None, name for the error.

  Returns:
    List with an int per static dimension and a scalar int32 tensor per
    dynamic one.

  Raises:
    ValueError: another rank.

  Source: upstream symbol, unchanged.
  """
  if expected_rank is not None:
    assert_rank(tensor, expected_rank, name)
  static = tensor.shape.as_list()
  if None not in static:
    return static
  dynamic = tf.shape(tensor)
  return [dynamic[axis] if size is None else size
          for axis, size in enumerate(static)]


def reshape_to_matrix(input_tensor):
  """Reshapes [..., W] to [n, W]; a matrix is returned as it is.

  Raises:
    ValueError: the rank is below 2.

  Source: upstream symbol, unchanged.
  """
  rank = input_tensor.shape.ndims
  if rank < 2:
    raise ValueError(
        f"A matrix needs a tensor of rank 2 at least, not {input_tensor.shape}")
  if rank == 2:
    return input_tensor
  return tf.reshape(input_tensor, [-1, input_tensor.shape[-1]])


def reshape_from_matrix(output_tensor, orig_shape_list):
  """Undoes `reshape_to_matrix`, for a matrix that may have another width.

  Args:
    output_tensor: [n, W].
    orig_shape_list: list, shape before; its last entry is not used.

  Returns:
    Tensor of `orig_shape_list` with the width of `output_tensor`.

  Source: upstream symbol, unchanged.
  """
  if len(orig_shape_list) == 2:
    return output_tensor
  width = get_shape_list(output_tensor)[-1]
  return tf.reshape(output_tensor, list(orig_shape_list[:-1]) + [width])


def assert_rank(tensor, expected_rank, name=None):
  """Raises ValueError unless the tensor has (one of) the given rank(s).

  Args:
    tensor: tensor.
    expected_rank: int or list of int.
    name: string or None, name for the error, by default the tensor's.

  Source: upstream symbol, unchanged.
  """
  accepted = np.atleast_1d(expected_rank).tolist()
  if tensor.shape.ndims not in accepted:
    raise ValueError(
        f"Tensor {name or tensor.name} has rank {tensor.shape.ndims} (shape "
        f"{tensor.shape}), expected {expected_rank}.")
