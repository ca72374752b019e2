"""Compares what this project and transformers compute with the same weights.

  python -m tests.benchmarks.transformers_outputs --python=/hf/bin/python \
    [--init_checkpoint=uncased_L-12_H-768_A-12/bert_model.ckpt] \
    [--record=tests/data/transformers_outputs.json]

takes a tiny model with each output layer, and a real checkpoint, through
`demo.checkpoints to_hf`; --python names an environment with transformers and
torch. Recorded numbers are compared in tests/checkpoints_test.py.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile

from absl import app
from absl import flags
import numpy as np
import safetensors.numpy
import tensorflow as tf

import modeling
import run_classifier
import run_pretraining
import run_squad
import tokenization
from demo import checkpoints
from tests import conftest

FLAGS = flags.FLAGS

TOLERANCE = 1e-5
LABELS = ["no", "yes", "perhaps"]
TASKS = ("encoder", "classification", "question_answering", "pretraining")
# The outputs of transformers that say all of a task.
KEPT = {"encoder": ["hidden_states", "pooler_output"],
        "classification": ["logits"],
        "question_answering": ["start_logits", "end_logits"],
        "pretraining": ["prediction_logits", "seq_relationship_logits"]}
TEXT = "The hotel was GREAT, and the fílms dull."
_VOCAB = conftest.SPECIAL + conftest.WORDS + list("abdeghs.,") + [
    "##" + letter for letter in "adehs"]


def write_tiny_model(folder, task):
  """Writes checkpoint, config and vocabulary of a seeded model.

  Its values are whole numbers divided by 10000, the same on every machine.

  Args:
    folder: string; it is made.
    task: string, whose output layer it has, one of TASKS.

  Returns:
    (modeling.BertConfig, dict name -> float32 array).
  """
  config = modeling.BertConfig(len(_VOCAB), **conftest.TINY_CONFIG)
  width = config.hidden_size
  shapes = {name: value.shape for name, value in
            conftest.random_variables(config).items()}
  transform = "cls/predictions/transform"
  shapes.update({
      "encoder": {},
      "classification": {"output_weights": [len(LABELS), width],
                         "output_bias": [len(LABELS)]},
      "question_answering": {"cls/squad/output_weights": [2, width],
                             "cls/squad/output_bias": [2]},
      "pretraining": {f"{transform}/dense/kernel": [width, width],
                      f"{transform}/dense/bias": [width],
                      f"{transform}/LayerNorm/gamma": [width],
                      f"{transform}/LayerNorm/beta": [width],
                      "cls/predictions/output_bias": [len(_VOCAB)],
                      "cls/seq_relationship/output_weights": [2, width],
                      "cls/seq_relationship/output_bias": [2]}}[task])
  rng = np.random.RandomState(6)
  variables = {
      name: (rng.randint(-3000, 3001, shapes[name]) / 10000 +
             name.endswith("gamma")).astype(np.float32)
      for name in sorted(shapes)}
  os.makedirs(folder)
  checkpoints.save_checkpoint(
      variables, os.path.join(folder, "bert_model.ckpt"))
  texts = {"bert_config.json": config.to_json_string(),
           "vocab.txt": "".join(token + "\n" for token in _VOCAB)}
  if task == "classification":
    texts["label_map.json"] = json.dumps({
        "task": "custom", "kind": "classification", "labels": LABELS,
        "columns": {"text_a": None, "text_b": None, "label": None}})
  for name, text in texts.items():
    with open(os.path.join(folder, name), "w", encoding="utf-8") as writer:
      writer.write(text)
  return config, variables


def make_inputs(vocab_size, num_rows, length):
  """Seeded ids; all rows but the first are padded, with a second segment."""
  rng = np.random.RandomState(7)
  place, row = np.arange(length)[None], np.arange(num_rows)[:, None]
  mask = place < length - 2 * row
  return {"input_ids": rng.randint(5, vocab_size, [num_rows, length]) * mask,
          "attention_mask": mask.astype(np.int64),
          "token_type_ids": ((place > length // 2 - row) & mask).astype(
              np.int64)}


def own_outputs(config, variables, inputs, task):
  """What the scripts' own graphs compute, under the names of transformers.

  Args:
    config: modeling.BertConfig.
    variables: dict name -> array.
    inputs: see `make_inputs`.
    task: string, one of TASKS.

  Returns:
    Dict name -> array. The logits of `pretraining` are logarithms of
    probabilities.
  """
  with tf.Graph().as_default():
    ids, mask, segments = (tf.constant(inputs[name], tf.int32) for name in (
        "input_ids", "attention_mask", "token_type_ids"))
    batch, length = inputs["input_ids"].shape
    if task == "classification":
      outputs = {"logits": run_classifier.create_model(
          config, False, ids, mask, segments, tf.zeros([batch], tf.int32),
          len(variables["output_bias"]), False)[2]}
    elif task == "question_answering":
      outputs = dict(zip(KEPT[task], run_squad.create_model(
          config, False, ids, mask, segments, False)))
    else:
      model = modeling.BertModel(config, False, ids, mask, segments)
      outputs = {
          "hidden_states": tf.stack(
              [model.get_embedding_output(), *model.get_all_encoder_layers()]),
          "pooler_output": model.get_pooled_output()}
      if task == "pretraining":
        places = tf.tile(tf.range(length)[None], [batch, 1])
        words = run_pretraining.get_masked_lm_output(
            config, model.get_sequence_output(), model.get_embedding_table(),
            places, tf.zeros_like(ids), tf.ones([batch, length]))[2]
        outputs = dict(zip(KEPT[task], [
            tf.reshape(words, [batch, length, -1]),
            run_pretraining.get_next_sentence_output(
                config, model.get_pooled_output(),
                tf.zeros([batch, 1], tf.int32))[2]]))
    with tf.compat.v1.Session() as session:
      for var in tf.compat.v1.global_variables():
        var.load(variables[var.op.name], session)
      return session.run(outputs)


def largest_difference(ours, theirs, task):
  """Largest absolute difference (float) over the outputs of a task."""
  largest = 0.0
  for name in KEPT[task]:
    their = np.asarray(theirs[name], np.float64)
    if task == "pretraining":
      their = their - np.log(np.exp(their).sum(-1, keepdims=True))
    assert their.shape == ours[name].shape, name
    largest = max(largest, float(np.abs(their - ours[name]).max()))
  return largest


def digest(folder):
  """A hash of all tensors of a model.safetensors, with names and shapes."""
  tensors = safetensors.numpy.load_file(
      os.path.join(folder, "model.safetensors"))
  hashed = hashlib.sha256()
  for name in sorted(tensors):
    value = tensors[name]
    hashed.update(f"{name} {value.shape} {value.dtype} ".encode())
    hashed.update(value.tobytes())
  return hashed.hexdigest()


def run_transformers(python, folder, inputs, work):
  """The outputs (dict name -> array) of the model in a folder."""
  inputs_file, outputs_file = (
      os.path.join(work, name) for name in ("inputs.npz", "outputs.npz"))
  np.savez(inputs_file, **inputs, text=TEXT)
  subprocess.run(
      [python, os.path.join(os.path.dirname(__file__),
                            "transformers_program.py"),
       folder, inputs_file, outputs_file], check=True)
  with np.load(outputs_file) as reader:
    return dict(reader)


def check(name, config, variables, task, folder, inputs, work):
  """Compares one model; returns what transformers gave.

  Raises:
    SystemExit: they differ.
  """
  theirs = run_transformers(FLAGS.python, folder, inputs, work)
  ours = own_outputs(config, variables, inputs, task)
  difference = largest_difference(ours, theirs, task)
  tokenizer = tokenization.FullTokenizer(os.path.join(folder, "vocab.txt"))
  own_ids = tokenizer.convert_tokens_to_ids(
      ["[CLS]", *tokenizer.tokenize(TEXT), "[SEP]"])
  no_place = [key for key in theirs["unexpected_keys"]
              if not key.startswith("bert.pooler.")]
  print(f"{name} {task}: largest difference {difference:.1e}; tokens "
        f"{'agree' if own_ids == theirs['text_ids'].tolist() else 'DIFFER'}; "
        f"not in the file: {theirs['missing_keys'].tolist()}, no place: "
        f"{no_place} ({', '.join(theirs['versions'])})", flush=True)
  if (difference > TOLERANCE or own_ids != theirs["text_ids"].tolist() or
      theirs["missing_keys"].size or no_place):
    sys.exit(1)
  return theirs


def main(_):
  """Checks the tiny model with each output layer, then the real one."""
  recorded = {}
  with tempfile.TemporaryDirectory() as work:
    for task in TASKS:
      source, folder = (os.path.join(work, f"{kind}_{task}")
                        for kind in ("tf", "hf"))
      config, variables = write_tiny_model(source, task)
      checkpoints.to_hf(source, folder)
      inputs = make_inputs(config.vocab_size, 3, 12)
      theirs = check("tiny", config, variables, task, folder, inputs, work)
      recorded[task] = {
          "digest": digest(folder), "versions": theirs["versions"].tolist(),
          "text_ids": theirs["text_ids"].tolist(),
          "labels": theirs["labels"].tolist(),
          "outputs": {name: np.round(theirs[name].astype(np.float64),
                                     7).tolist() for name in KEPT[task]}}
    if FLAGS.record:
      with open(FLAGS.record, "w", encoding="utf-8") as writer:
        json.dump(recorded, writer, indent=None, sort_keys=True)
        writer.write("\n")
    if FLAGS.init_checkpoint:
      folder = os.path.join(work, "real")
      checkpoints.to_hf(FLAGS.init_checkpoint, folder)
      opened = checkpoints.open_checkpoint(FLAGS.init_checkpoint)
      with open(os.path.join(folder, "config.json"),
                encoding="utf-8") as reader:
        architecture = json.load(reader)["architectures"][0]
      (task,) = [name for name in TASKS if architecture ==
                 checkpoints.hf_checkpoints.TASKS[name][0]]
      config = modeling.BertConfig.from_json_file(os.path.join(
          os.path.dirname(opened.path), "bert_config.json"))
      check(FLAGS.init_checkpoint, config,
            {name: opened.read(name) for name in opened.names}, task, folder,
            make_inputs(config.vocab_size, 8, 128), work)


if __name__ == "__main__":
  flags.DEFINE_string(
      "python", None, "Python of an environment with transformers and torch.",
      required=True)
  flags.DEFINE_string("init_checkpoint", None, "Real checkpoint to compare.")
  flags.DEFINE_string("record", None, "JSON file to write.")
  app.run(main)
