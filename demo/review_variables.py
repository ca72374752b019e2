# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Checkpoint variables: those that upstream's models have, and the graphs'.

Upstream's stand in `variables` of demo/review_facts.yaml; those of this
collection come from its model functions in training, at small sizes that differ
from each other, so that a wrong dimension can't pass.
"""

import importlib

_SMALL = {"V": 31, "W": 8, "I": 5, "P": 11, "T": 3, "L": 7, "layers": 2}
_SLOTS = ("/adam_m", "/adam_v")


def expected(facts, head, sizes):
  """The variables of upstream's model with a head, at given sizes.

  Args:
    facts: dict, `variables` of review_facts.yaml.
    head: string, a key of `heads`.
    sizes: dict from letter to int, and `layers`.

  Returns:
    Dict of `trainable`, `optimizer_slots` and `other` (dicts name -> shape) and
    `trainable_without_slots` (sorted list).
  """
  trainable = {}
  for name, shape in {**facts["encoder"],
                      **facts["heads"][head]["variables"]}.items():
    shape = [sizes.get(size, size) for size in shape]
    layers = range(sizes["layers"]) if "layer_N" in name else [0]
    for layer in layers:
      trainable[name.replace("layer_N", f"layer_{layer}")] = shape
  without = sorted(facts["heads"][head].get("without_slots", []))
  return {
      "trainable": trainable, "trainable_without_slots": without,
      "optimizer_slots": {
          f"{name}/{slot}": shape for name, shape in trainable.items()
          if name not in without for slot in facts["slots"]},
      "other": facts["other"]}


def recorded(content):
  """One head of a recorded checkpoint_variables.json, as `expected` has it."""
  found = {kind: {name: shape for name, shape, *_ in content[kind]}
           for kind in ("trainable", "optimizer_slots", "other")}
  found["trainable_without_slots"] = sorted(content["trainable_without_slots"])
  return found


def differences(wanted, found):
  """What differs between two of those dicts, as a list of strings."""
  said = []
  for kind in ("trainable", "optimizer_slots", "other"):
    for name in sorted({**wanted[kind], **found[kind]}):
      shapes = [side[kind].get(name, "missing") for side in (wanted, found)]
      if shapes[0] != shapes[1]:
        said.append(f"{kind} {name}: {shapes[0]} upstream, {shapes[1]} here")
  if wanted["trainable_without_slots"] != found["trainable_without_slots"]:
    said.append(
        f"without slots: {wanted['trainable_without_slots']} upstream, "
        f"{found['trainable_without_slots']} here")
  return said


def of_graph(module_name):
  """The variables that a script trains and saves, at sizes `_SMALL`.

  Args:
    module_name: string, run_classifier, run_squad or run_pretraining.

  Returns:
    As `expected`.
  """
  import tensorflow as tf  # pylint: disable=import-outside-toplevel
  import modeling  # pylint: disable=import-outside-toplevel
  module = importlib.import_module(module_name)
  config = modeling.BertConfig(
      vocab_size=_SMALL["V"], hidden_size=_SMALL["W"], num_attention_heads=2,
      num_hidden_layers=_SMALL["layers"], intermediate_size=_SMALL["I"],
      max_position_embeddings=_SMALL["P"], type_vocab_size=_SMALL["T"])
  with tf.Graph().as_default():
    row, place = tf.zeros([1, 6], tf.int32), tf.zeros([1, 1], tf.int32)
    features = dict(input_ids=row, input_mask=row, segment_ids=row)
    arguments = dict(
        bert_config=config, init_checkpoint=None, learning_rate=1e-4,
        num_train_steps=10, num_warmup_steps=1, use_tpu=False,
        use_one_hot_embeddings=False)
    if module_name == "run_classifier":
      arguments["num_labels"] = _SMALL["L"]
      features["label_ids"] = place[0]
    elif module_name == "run_squad":
      features.update(start_positions=place[0], end_positions=place[0])
    else:
      features.update(
          masked_lm_positions=place, masked_lm_ids=place,
          masked_lm_weights=tf.ones([1, 1]), next_sentence_labels=place)
    tf.compat.v1.train.get_or_create_global_step()
    module.model_fn_builder(**arguments)(
        features=features, labels=None, mode=tf.estimator.ModeKeys.TRAIN,
        params={})
    shapes = {var.op.name: var.shape.as_list()
              for var in tf.compat.v1.global_variables()}
    trainable = {var.op.name for var in tf.compat.v1.trainable_variables()}
  slots = {name for name in shapes if name.endswith(_SLOTS)}
  return {
      "trainable": {name: shapes[name] for name in trainable},
      "optimizer_slots": {name: shapes[name] for name in slots},
      "other": {name: shape for name, shape in shapes.items()
                if name not in trainable | slots},
      "trainable_without_slots": sorted(
          name for name in trainable
          if not slots & {name + slot for slot in _SLOTS})}


def compare(facts, head):
  """What differs between upstream's variables and the graph's, as strings."""
  return differences(expected(facts, head, _SMALL),
                     of_graph(facts["heads"][head]["module"]))
