"""Trains a tiny classifier; each rank saves what its variables become.

  python train_steps.py FOLDER RUN

The whole batch of step t is rows [8 t, 8 t + 8) of the examples, of which each
rank takes its share in order: a step means the same to any number of ranks.
FOLDER/<rank>.npz then holds variables by "<step>/<name>", and "gloo" and
"scoped_allocator" (whether they were on), "norms" (of the gradients, by step),
"merged" (how many buffers the ScopedAllocator made). Several ranks do "clipped"
again, of two batches an update and with a loss scale: under "accumulated/" the
same again, "allreduces" for both (operations in the graph, and those within its
loop), and variables after a step more, "skipped/<name>", in which the loss of
rank 1 was not finite.
"""

import sys

import numpy as np
import tensorflow as tf

import modeling
import optimization
import run_classifier
from demo import gradient_helpers
from demo import horovod_helpers
from demo import option_helpers
from tests import conftest

WHOLE_BATCH = 8
SEQ_LENGTH = 16
VOCAB_SIZE = 40  # Words come up again within a batch, and in both halves.
NUM_STEPS = 20
SAVED_STEPS = (0, 1, NUM_STEPS)
LEARNING_RATE = 1e-3
# Run -> scale of the loss, one-hot embeddings. On "clipped" clipping acts. Its
# gradients are dense: in the norm of slices, which one rank would have for the
# word embeddings, a word that comes twice counts twice, while Horovod adds up
# the two first.
RUNS = {"unclipped": (1.0, False), "clipped": (30.0, True)}


def examples():
  """Features of all steps, name -> int32 array; rows differ in length."""
  rng = np.random.RandomState(1)
  rows = WHOLE_BATCH * NUM_STEPS
  shape = (rows, SEQ_LENGTH)
  mask = np.arange(SEQ_LENGTH) < rng.randint(4, SEQ_LENGTH + 1, (rows, 1))
  arrays = {"input_ids": rng.randint(1, VOCAB_SIZE, shape) * mask,
            "input_mask": mask,
            "segment_ids": rng.randint(0, 2, shape) * mask,
            "label_ids": rng.randint(0, 2, rows)}
  return {name: array.astype(np.int32) for name, array in arrays.items()}


def allreduces(graph_def):
  """Operations of Horovod that average: in all, and in bodies of loops."""
  counts = {function.signature.name: sum(
      node.op == "HorovodAllreduce" for node in function.node_def)
      for function in graph_def.library.function}
  in_graph = sum(node.op == "HorovodAllreduce" for node in graph_def.node)
  return [in_graph + sum(counts.values()),
          sum(count for name, count in counts.items() if "while_body" in name)]


def train(loss_scale, one_hot, parts=1, start=None):
  """Trains, and returns what the file shall hold.

  Args:
    loss_scale: see RUNS, as the next one.
    one_hot: bool.
    parts: int; with several parts of a rank's rows there is a loss scale too.
    start: dict, what this has returned; variables begin as they did there.
  """
  rank, size = horovod_helpers.hvd_rank(), horovod_helpers.hvd_size()
  shares = {
      name: array.reshape(NUM_STEPS, size, WHOLE_BATCH // size,
                          *array.shape[1:])[:, rank]
      for name, array in examples().items()}
  config = modeling.BertConfig(
      VOCAB_SIZE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
      **conftest.TINY_CONFIG)
  session_config = horovod_helpers.session_config()
  found = {"norms": [], "scoped_allocator": session_config is not None}
  # Initial values differ, and rank 0's are to win.
  tf.compat.v1.set_random_seed(1 + rank)
  inputs = {name: tf.compat.v1.placeholder(tf.int32, share.shape[1:])
            for name, share in shares.items()}
  factor = tf.compat.v1.placeholder_with_default(loss_scale, [])
  options = option_helpers.UPSTREAM if parts == 1 else option_helpers.Options(
      num_accumulation_steps=parts, precision="fp16")

  features = {**inputs, "factor": tf.fill([WHOLE_BATCH // size], factor)}

  def scalars_of(features):
    return {"loss": features["factor"][0] * run_classifier.create_model(
        config, True, features["input_ids"], features["input_mask"],
        features["segment_ids"], features["label_ids"], num_labels=2,
        use_one_hot_embeddings=one_hot, dropout_before_logits=0.0)[0]}

  train_op = optimization.create_optimizer(
      gradient_helpers.in_parts(scalars_of, features, options)["loss"],
      LEARNING_RATE, 2 * NUM_STEPS, 0, False, options)
  found["allreduces"] = allreduces(
      tf.compat.v1.get_default_graph().as_graph_def())
  norm = tf.compat.v1.get_default_graph().get_tensor_by_name(
      "global_norm/global_norm:0")  # That of clip_by_global_norm.
  variables = {var.op.name: var for var in tf.compat.v1.global_variables()}
  trained = tf.compat.v1.trainable_variables()

  with tf.compat.v1.train.MonitoredTrainingSession(
      hooks=horovod_helpers.broadcast_hooks(),
      config=session_config) as session:
    if start:
      session.run([var.initializer for var in trained], {
          var.initializer.inputs[1]: start[f"0/{var.op.name}"]
          for var in trained})
    for step in range(NUM_STEPS + 1):
      if step in SAVED_STEPS:
        found.update({f"{step}/{name}": value
                      for name, value in session.run(variables).items()})
      if step < NUM_STEPS:
        metadata = tf.compat.v1.RunMetadata()
        found["norms"].append(session.run(
            [train_op, norm],
            {inputs[name]: share[step] for name, share in shares.items()},
            tf.compat.v1.RunOptions(output_partition_graphs=step == 0),
            metadata)[1])
        if step == 0:
          found["merged"] = sum(
              node.op == "_ScopedAllocator"
              for graph in metadata.partition_graphs for node in graph.node)
    if parts > 1:
      session.run(train_op, {
          factor: np.inf if rank == 1 else loss_scale,
          **{inputs[name]: share[0] for name, share in shares.items()}})
      found.update({f"skipped/{name}": value
                    for name, value in session.run(variables).items()})
  return found


def main(folder, run):
  tf.compat.v1.enable_resource_variables()
  horovod_helpers.start_ranks(use_horovod=False, cpu_only=True)
  with tf.Graph().as_default():
    found = train(*RUNS[run])
  if run == "clipped":
    assert min(found["norms"]) > 1.0, found["norms"]
  else:
    assert max(found["norms"]) < 1.0, found["norms"]
  if horovod_helpers.horovod_enabled():
    if run == "clipped":
      with tf.Graph().as_default():
        accumulated = train(*RUNS[run], parts=2, start=found)
      found.update({f"accumulated/{name}": value
                    for name, value in accumulated.items()})
    found["gloo"] = horovod_helpers.hvd.gloo_enabled()
    assert found["gloo"] != horovod_helpers.hvd.mpi_enabled()
  np.savez(f"{folder}/{horovod_helpers.hvd_rank()}.npz", **found)


if __name__ == "__main__":
  main(*sys.argv[1:])
