"""Tests of demo/checkpoint_helpers.py."""

import types

import numpy as np
import pytest
import tensorflow as tf

from demo import checkpoint_helpers
from demo import checkpoints
import modeling


class CheckpointTest:

  def test_whole_checkpoint_passes(self, tiny_model):
    checkpoint_helpers.check_checkpoint(
        tiny_model.init_checkpoint, tiny_model.config)

  @pytest.mark.parametrize("key, name", [
      ("vocab_size", "word_embeddings"),
      ("max_position_embeddings", "position_embeddings")])
  def test_other_tables_are_refused(self, tiny_model, key, name):
    config = modeling.BertConfig.from_dict(dict(
        tiny_model.config.to_dict(), **{key: 999}))
    with pytest.raises(ValueError, match=f"{name} has shape.*999"):
      checkpoint_helpers.check_checkpoint(tiny_model.init_checkpoint, config)


class ModelVariablesTest:

  def test_slots_and_state_are_told_from_the_model(self):
    model = ["bert/a/kernel", "cls/squad/output_weights", "output_bias",
             "module/bert/b", "crf/transitions"]
    slots = ["bert/a/kernel/adam_m", "bert/a/kernel/lamb/v",
             "output_bias/adam_v", "crf/transitions/adam_m"]
    state = ["global_step", "loss_scale", "beta1_power", "accumulators/bert/a"]
    names = model + slots + state
    assert checkpoint_helpers.model_variables(names) == sorted(model)
    owners = checkpoint_helpers.slot_owners(names)
    assert sorted(owners) == sorted(slots)
    assert owners["bert/a/kernel/lamb/v"] == "bert/a/kernel"


def save_zeros(shapes, prefix):
  """Writes a checkpoint of variables (name -> shape) that are all 0."""
  checkpoints.save_checkpoint(
      {name: np.zeros(shape, np.float32) for name, shape in shapes.items()},
      prefix)


def make_variables(shapes):
  """Makes variables (name -> shape) in the default graph."""
  for name, shape in shapes.items():
    tf.compat.v1.get_variable(name, shape)
  return tf.compat.v1.trainable_variables()


class CheckOutputCheckpointTest:

  def check(self, tmp_path, saved, graph):
    save_zeros(saved, str(tmp_path / "model.ckpt-7"))
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-7"\n')
    with tf.Graph().as_default():
      return checkpoint_helpers.check_output_checkpoint(
          str(tmp_path), make_variables(graph))

  def test_nothing_there_is_none(self, tmp_path):
    assert checkpoint_helpers.check_output_checkpoint(str(tmp_path), []) is None
    assert checkpoint_helpers.steps_done(str(tmp_path)) == 0

  def test_the_same_model_passes_with_its_slots(self, tmp_path):
    assert self.check(
        tmp_path, {"bert/a": [2], "bert/a/adam_m": [2], "global_step": []},
        {"bert/a": [2]}) == str(tmp_path / "model.ckpt-7")

  @pytest.mark.parametrize("graph, message", [
      ({"bert/a": [3], "bert/b": [1]}, r"bert/a is \[2\] there and \[3\] here"),
      ({"bert/a": [2]}, r"bert/b is \[1\] there and missing here"),
      ({"bert/a": [2], "bert/b": [1], "x": [1]}, "x is missing there")])
  def test_another_model_is_refused(self, graph, message, tmp_path):
    with pytest.raises(ValueError, match=message):
      self.check(tmp_path, {"bert/a": [2], "bert/b": [1]}, graph)

  def test_trained_layer_of_any_name_that_the_model_lacks_is_refused(
      self, tmp_path):
    with pytest.raises(ValueError, match=r"m/b is \[1\] there and missing here"):
      self.check(tmp_path, {"m/a": [2], "m/b": [1], "m/b/adam_m": [1],
                            "fixed": [1]}, {"m/a": [2]})

  def test_slots_of_lamb_are_no_layers(self, tmp_path):
    self.check(tmp_path, {"bert/a": [2], "bert/a/lamb_m": [2],
                          "bert/a/lamb_v": [2]}, {"bert/a": [2]})


class CheckOptimizerStateTest:

  def check(self, tmp_path, slots, **values):
    """Of a checkpoint of a model of two layers, with such slots."""
    names = ["bert/embeddings/w", "bert/encoder/layer_0/w",
             "bert/encoder/layer_1/w", "head"]
    prefix = str(tmp_path / "model.ckpt-7")
    save_zeros({**dict.fromkeys(names + slots, [2]), "global_step": []}, prefix)
    args = types.SimpleNamespace(**{
        **dict(optimizer="adamw", freeze_layers=0, precision="fp32",
               loss_scale=None), **values})
    with tf.Graph().as_default():
      checkpoint_helpers.check_optimizer_state(
          args, make_variables(dict.fromkeys(names, [2])), prefix)

  ALL = [f"bert/{part}/w/adam_m" for part in (
      "embeddings", "encoder/layer_0", "encoder/layer_1")]

  @pytest.mark.parametrize("slots, values", [
      (ALL, {}), (ALL[2:], dict(freeze_layers=1)), (ALL, dict(freeze_layers=2)),
      ([x.replace("adam", "lamb") for x in ALL], dict(optimizer="lamb")),
      (ALL + ["optimizer/loss_scale", "optimizer/good_steps",
              "optimizer/skipped_steps"], dict(precision="fp16")),
      (ALL + ["optimizer/skipped_steps"],
       dict(precision="fp16", loss_scale="128"))])
  def test_what_was_so_before_passes(self, slots, values, tmp_path):
    self.check(tmp_path, slots, **values)

  @pytest.mark.parametrize("slots, values, message", [
      (ALL, dict(optimizer="lamb"), "--optimizer=lamb .*the state of adamw"),
      (["head/lamb_m"], {}, "--optimizer=adamw .*the state of lamb"),
      ([], {}, "the state of no optimizer"),
      (ALL[2:], {}, "--freeze_layers=0 .*bert/embeddings/w among"),
      (ALL, dict(precision="fp16"), "--precision=fp16 .*no such loss scale")])
  def test_another_training_is_refused(self, slots, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
      self.check(tmp_path, slots, **values)


class CheckWarmStartTest:

  def check(self, tmp_path, saved, graph):
    prefix = str(tmp_path / "x.ckpt")
    save_zeros(saved, prefix)
    with tf.Graph().as_default():
      tvars = make_variables(graph)
      assignment_map, _ = modeling.get_assignment_map_from_checkpoint(
          tvars, prefix)
      return checkpoint_helpers.check_warm_start(tvars, assignment_map, prefix)

  def test_tells_loaded_fresh_and_unused(self, tmp_path):
    assert self.check(tmp_path, {"a": [2], "b/adam_m": [2]},
                      {"a": [2], "head": [3]}) == (
                          ["a"], ["head"], ["b/adam_m"])

  def test_nothing_in_common_is_refused(self, tmp_path):
    with pytest.raises(ValueError, match="holds x; the model has a"):
      self.check(tmp_path, {"x": [2]}, {"a": [2]})

  def test_other_shapes_are_refused_by_name(self, tmp_path):
    with pytest.raises(ValueError, match=r"a \[3\] instead of \[2\]"):
      self.check(tmp_path, {"a": [3], "b": [1]}, {"a": [2], "b": [1]})
