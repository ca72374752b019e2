"""Trains a tiny classifier; each rank saves what its variables become.

  python train_steps.py FOLDER

The whole batch of step t is rows [t * 8, t * 8 + 8) of the examples, of which
rank r takes its share in order, so that a step is the same for any number of
ranks. FOLDER/<rank>.npz then holds, for the runs of RUNS: variables by
"<run>/<step>/<name>", the norm of each step's gradients ("<run>/norms"), the
devices' count of ScopedAllocator nodes ("<run>/scoped_allocators"), and what
carried the gradients ("gloo").
"""

import sys

import numpy as np
import tensorflow as tf

import modeling
import optimization
import run_classifier
from demo import horovod_helpers
from tests import conftest

WHOLE_BATCH = 8
SEQ_LENGTH = 16
VOCAB_SIZE = 40  # Words come up again within a batch, and in both halves.
NUM_STEPS = 20
SAVED_STEPS = (0, 1, NUM_STEPS)
LEARNING_RATE = 1e-3
# Loss scale, one-hot embeddings. Clipping leaves the first run alone. It acts
# on the second; there one rank needs a dense gradient of the word embeddings,
# since in the norm of slices repeated words count one by one, whereas Horovod
# adds them up first.
RUNS = {"unclipped": (1.0, False), "clipped": (30.0, True)}


def examples():
  """Features of all steps, name -> int32 array; lengths differ by row."""
  rng = np.random.RandomState(1)
  rows = WHOLE_BATCH * NUM_STEPS
  shape = (rows, SEQ_LENGTH)
  mask = np.arange(SEQ_LENGTH) < rng.randint(4, SEQ_LENGTH + 1, (rows, 1))
  arrays = {"input_ids": rng.randint(1, VOCAB_SIZE, shape) * mask,
            "input_mask": mask,
            "segment_ids": rng.randint(0, 2, shape) * mask,
            "label_ids": rng.randint(0, 2, rows)}
  return {name: array.astype(np.int32) for name, array in arrays.items()}


def train(loss_scale, one_hot):
  """Returns what the module's docstring names, of one run."""
  rank, size = horovod_helpers.hvd_rank(), horovod_helpers.hvd_size()
  share = WHOLE_BATCH // size
  batches = {name: array.reshape([NUM_STEPS, size, share, *array.shape[1:]])
             for name, array in examples().items()}
  config = modeling.BertConfig(
      VOCAB_SIZE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
      **conftest.TINY_CONFIG)
  found = {"norms": []}
  with tf.Graph().as_default():
    tf.compat.v1.set_random_seed(1 + rank)  # Rank 0's values shall win.
    inputs = {name: tf.compat.v1.placeholder(tf.int32, array.shape[2:])
              for name, array in batches.items()}
    loss = run_classifier.create_model(
        config, True, inputs["input_ids"], inputs["input_mask"],
        inputs["segment_ids"], inputs["label_ids"], num_labels=2,
        use_one_hot_embeddings=one_hot, dropout_before_logits=0.0)[0]
    train_op = optimization.create_optimizer(
        loss_scale * loss, LEARNING_RATE, 2 * NUM_STEPS, 0, False)
    norm = tf.compat.v1.get_default_graph().get_tensor_by_name(
        "global_norm/global_norm:0")
    variables = {var.op.name: var for var in tf.compat.v1.global_variables()}

    def save(session, step):
      for name, value in session.run(variables).items():
        found[f"{step}/{name}"] = value

    with tf.compat.v1.train.MonitoredTrainingSession(
        hooks=horovod_helpers.broadcast_hooks(),
        config=horovod_helpers.session_config()) as session:
      save(session, 0)
      for step in range(NUM_STEPS):
        metadata = tf.compat.v1.RunMetadata()
        found["norms"].append(session.run(
            [train_op, norm],
            {inputs[name]: batches[name][step, rank] for name in inputs},
            tf.compat.v1.RunOptions(output_partition_graphs=step == 0),
            metadata)[1])
        if step == 0:
          found["scoped_allocators"] = sum(
              node.op == "_ScopedAllocator"
              for graph in metadata.partition_graphs for node in graph.node)
          import collections
          print("OPS", rank, collections.Counter(n.op for g in metadata.partition_graphs for n in g.node if "oped" in n.op or "orovod" in n.op))
        if step + 1 in SAVED_STEPS:
          save(session, step + 1)
  return found


def main(folder):
  tf.compat.v1.enable_resource_variables()
  horovod_helpers.start_ranks(use_horovod=False, cpu_only=True)
  found = {f"{run}/{name}": value for run, settings in RUNS.items()
           for name, value in train(*settings).items()}
  if horovod_helpers.horovod_enabled():
    found["gloo"] = horovod_helpers.hvd.gloo_enabled()
    print("mpi", horovod_helpers.hvd.mpi_enabled())
  np.savez(f"{folder}/{horovod_helpers.hvd_rank()}.npz", **found)


if __name__ == "__main__":
  main(sys.argv[1])
