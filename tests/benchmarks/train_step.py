"""Training speed beside a matrix product of the same process.

  python -m tests.benchmarks.train_step [--seq_length=128] [--batch_size=32]

Times whole training steps of the classifier (MiniLM size: 6 layers, hidden
384; fp32, dropout on, clipping, Adam) in turn with a matrix product of the
model's own shape, and prints medians: CPU milliseconds per example, the share
of the product's speed that the whole step reaches, and examples per second.
CPU time counts all threads, so it holds on a busy machine better than time on
the clock; the share compares machines.
"""

import json
import os
import statistics
import time

from absl import app
from absl import flags
import tensorflow as tf

from demo import horovod_helpers
from tests.benchmarks import model

FLAGS = flags.FLAGS


def define_flags():
  flags.DEFINE_integer("seq_length", 128, "Tokens per example.")
  flags.DEFINE_integer("batch_size", 32, "Examples per step.")
  flags.DEFINE_integer("hidden_size", 384, "Width; heads are 32 or 64 wide.")
  flags.DEFINE_integer("num_hidden_layers", 6, "Layers.")
  flags.DEFINE_integer("rounds", 7, "Pairs of step and product to time.")


def timed(function):
  """(seconds on the clock, CPU seconds of all threads) of a call."""
  wall, cpu = time.perf_counter(), time.process_time()
  function()
  return time.perf_counter() - wall, time.process_time() - cpu


def flops_per_example(config, seq_length):
  """Multiplications and additions of matrix products, forward and backward."""
  width, inner = config.hidden_size, config.intermediate_size
  layer = seq_length * 2 * (4 * width * width + 2 * width * inner)
  attention = 2 * 2 * seq_length * seq_length * width
  return 3 * config.num_hidden_layers * (layer + attention)


def main(_):
  batch, length, width = FLAGS.batch_size, FLAGS.seq_length, FLAGS.hidden_size
  config = model.config_of_size(width, FLAGS.num_hidden_layers)
  with tf.Graph().as_default():
    train_op = model.train_op(config, batch, length, seed=1)
    left = tf.Variable(tf.random.normal([batch * length, width]))
    right = tf.Variable(tf.random.normal([width, 4 * width]))
    product = tf.matmul(left, right).op
    with tf.compat.v1.Session(
        config=horovod_helpers.session_config()) as session:
      session.run(tf.compat.v1.global_variables_initializer())
      for _ in range(2):
        session.run([train_op, product])
      steps, products = [], []
      for _ in range(FLAGS.rounds):
        steps.append(timed(lambda: session.run(train_op)))
        products.append(timed(
            lambda: [session.run(product) for _ in range(20)]))

  product_flops = 20 * 2 * batch * length * width * 4 * width
  step_flops = batch * flops_per_example(config, length)
  # Per round, since the machine's speed may drift.
  shares = [(step_flops / step[1]) / (product_flops / matmul[1])
            for step, matmul in zip(steps, products)]
  print(json.dumps({
      "seq_length": length, "batch_size": batch, "hidden_size": width,
      "layers": config.num_hidden_layers, "onednn": os.environ.get(
          "TF_ENABLE_ONEDNN_OPTS", "default"),
      "cpu_ms_per_example": round(
          1000 * statistics.median(s[1] for s in steps) / batch, 1),
      "examples_per_second": round(
          batch / statistics.median(s[0] for s in steps), 1),
      "product_gflops_per_cpu_second": round(statistics.median(
          product_flops / m[1] for m in products) / 1e9, 1),
      "share_of_product_speed": round(statistics.median(shares), 3),
  }, indent=2))


if __name__ == "__main__":
  define_flags()
  app.run(main)
