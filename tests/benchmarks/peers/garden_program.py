"""The TensorFlow Model Garden: its side of the measurements; see turns.py."""

import sys

import numpy as np
import official
from official.nlp import optimization
from official.nlp.modeling import models
from official.nlp.modeling import networks
import tensorflow as tf

import turns


def train(spec):
  """Fine-tuning of its BertClassifier with its AdamWeightDecay.

  All rows have the length of the file's, as its data loader gives them.
  """
  if spec["precision"] == "bf16":
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
  encoder = networks.BertEncoderV2(
      vocab_size=spec["vocab_size"], hidden_size=spec["width"],
      num_layers=spec["layers"], num_attention_heads=spec["heads"],
      inner_dim=4 * spec["width"])
  model = models.BertClassifier(
      network=encoder, num_classes=2, use_encoder_pooler=True)
  optimizer = optimization.create_optimizer(1e-5, 1000, 100)
  with np.load(spec["rows_file"]) as reader:
    rows = {name: reader[name] for name in reader}
  names = {"input_ids": "input_word_ids", "input_mask": "input_mask",
           "segment_ids": "input_type_ids"}
  count = len(rows["label_ids"])
  batches = [
      ({new: tf.constant(rows[old][start:start + spec["batch"]])
        for old, new in names.items()},
       tf.constant(rows["label_ids"][start:start + spec["batch"]]))
      for start in range(0, count, spec["batch"])]
  loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

  @tf.function
  def step(inputs, labels):
    with tf.GradientTape() as tape:
      logits = tf.cast(model(inputs, training=True), tf.float32)
      loss = loss_of(labels, logits)
    variables = model.trainable_variables
    gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), 1.0)
    optimizer.apply_gradients(zip(gradients, variables))
    return loss

  lengths = rows["input_mask"].sum(axis=1).astype(np.int64)
  width = spec["width"]
  flops = 3 * spec["layers"] * int(
      np.sum(24 * width * width * lengths + 4 * width * lengths ** 2))

  def run():
    for batch in batches:
      step(*batch).numpy()
    return {"rows": count, "tokens": int(lengths.sum()), "flops": flops}
  return turns.Case(run, {"versions": {
      "tf-models-official": official.__version__ if hasattr(
          official, "__version__") else "2.15.0",
      "tensorflow": tf.__version__}})


if __name__ == "__main__":
  sys.exit(turns.serve({"train": train}))
