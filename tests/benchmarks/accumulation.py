"""How much memory an update takes: whole batches, and batches in parts.

  python -m tests.benchmarks.accumulation

Each line is a process of its own, a model of 6 layers of width 512 on sequences
of 128 tokens, on the CPU. The peak counts all of the process; what TensorFlow
and the variables take stands in the line of the smallest batch.
"""

import resource
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

import modeling
import run_classifier
from demo import option_helpers

# Rows of a part, and parts of an update.
CASES = [(4, 1), (32, 1), (4, 8)]
SEQ_LENGTH, VOCAB_SIZE, UPDATES = 128, 30522, 3


def measure(rows, parts):
  """Prints peak memory and time of an update."""
  tf.compat.v1.enable_resource_variables()
  config = modeling.BertConfig(
      VOCAB_SIZE, hidden_size=512, num_hidden_layers=6, num_attention_heads=8,
      intermediate_size=2048)
  rng = np.random.RandomState(0)
  total = rows * parts
  ids = rng.randint(1, VOCAB_SIZE, (total, SEQ_LENGTH)).astype(np.int32)
  features = {"input_ids": tf.constant(ids),
              "input_mask": tf.ones_like(ids),
              "segment_ids": tf.zeros_like(ids),
              "label_ids": tf.zeros([total], tf.int32)}
  spec = run_classifier.model_fn_builder(
      config, 2, None, 1e-5, 100, 10, False, False,
      options=option_helpers.Options(num_accumulation_steps=parts))(
          features, None, tf.estimator.ModeKeys.TRAIN, {})
  with tf.compat.v1.Session() as session:
    session.run(tf.compat.v1.global_variables_initializer())
    session.run(spec.train_op)
    start = time.time()
    for _ in range(UPDATES):
      session.run(spec.train_op)
    seconds = (time.time() - start) / UPDATES
  # Of Linux, in KiB.
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
  print(f"{parts:3d} x {rows:3d} rows: peak {peak:.2f} GiB, "
        f"{seconds:.2f} s per update", flush=True)


def main():
  for case in CASES:
    subprocess.run([sys.executable, "-m", __spec__.name, *map(str, case)],
                   check=True)


if __name__ == "__main__":
  if len(sys.argv) > 1:
    with tf.Graph().as_default():
      measure(*map(int, sys.argv[1:]))
  else:
    main()
