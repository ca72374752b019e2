"""What the benchmarks of training steps time: a classifier on random ids."""

import numpy as np
import tensorflow as tf

import modeling
import optimization
import run_classifier


def config_of_size(hidden_size, num_hidden_layers):
  """A BertConfig with Google's vocabulary, 12 heads and 4 times the width."""
  return modeling.BertConfig(
      30522, hidden_size=hidden_size, num_hidden_layers=num_hidden_layers,
      num_attention_heads=12, intermediate_size=4 * hidden_size,
      type_vocab_size=2)


def train_op(config, batch_size, seq_length, seed):
  """A training step in the default graph: dropout on, clipping, Adam."""
  rng = np.random.RandomState(seed)
  ids = tf.constant(
      rng.randint(1000, 30000, [batch_size, seq_length]), tf.int32)
  loss, _, _, _ = run_classifier.create_model(
      config, True, ids, tf.ones_like(ids), tf.zeros_like(ids),
      tf.zeros([batch_size], tf.int32), 2, False)
  return optimization.create_optimizer(loss, 1e-5, 1000, 100, False)
