"""Tests of demo/export_hub.py: what it writes computes what the model does."""

import numpy as np
import pytest
import tensorflow as tf

from demo import checkpoints
from demo import export_hub
from demo import hub_helpers
import modeling
from tests import conftest


def inputs(vocab_size):
  """input_ids, input_mask, segment_ids of rows of several lengths."""
  rng = np.random.RandomState(0)
  mask = np.arange(12) < np.array([[12], [7], [3]])
  ids = rng.randint(0, vocab_size, [3, 12]) * mask
  segments = (np.arange(12) > 4) * mask
  return [array.astype(np.int32) for array in (ids, mask, segments)]


def in_session(build, checkpoint=None):
  """Runs what a function of no arguments builds, twice."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    fetches = build()
    session.run(tf.compat.v1.global_variables_initializer())
    if checkpoint:
      tf.compat.v1.train.Saver().restore(session, checkpoint)
    return session.run(fetches), session.run(fetches)


@pytest.fixture(scope="module")
def expected(tiny_model):
  """Pooled and sequence output of modeling.BertModel."""
  def build():
    model = modeling.BertModel(
        tiny_model.config, False,
        *map(tf.constant, inputs(tiny_model.vocab_size)))
    return model.get_pooled_output(), model.get_sequence_output()
  return in_session(build, tiny_model.init_checkpoint)[0]


class ExportTest:

  @pytest.mark.parametrize("name", ["tf1", "tf2"])
  def test_module_computes_what_the_model_does(
      self, name, hub_modules, tiny_model, expected):
    module = hub_helpers.HubModule(hub_modules[name])
    assert module.is_tf1 == (name == "tf1")
    arrays = inputs(tiny_model.vocab_size)
    found, _ = in_session(lambda: module.encode(False, *map(
        tf.constant, arrays)))
    # With Keras' epsilon in its layer norms it would be off by 1e-2.
    np.testing.assert_allclose(found, expected[0], rtol=0, atol=1e-5)
    one, other = in_session(lambda: module.encode(True, *map(
        tf.constant, arrays)))
    assert np.abs(one - other).max() > 0.01  # Dropout.

  def test_saved_model_is_what_tensorflow_and_keras_load(
      self, hub_modules, tiny_model, expected):
    ids, mask, segments = map(tf.constant, inputs(tiny_model.vocab_size))
    named = dict(input_word_ids=ids, input_mask=mask, input_type_ids=segments)
    plain = tf.saved_model.load(hub_modules["tf2"])
    layer = hub_helpers.import_hub().KerasLayer(
        hub_modules["tf2"], trainable=True)
    for encoder in (plain, layer):
      outputs = encoder(named, training=False)
      for key, array in zip(("pooled_output", "sequence_output"), expected):
        np.testing.assert_allclose(outputs[key], array, rtol=0, atol=1e-5)
    assert len(layer.trainable_weights) == len(plain.trainable_variables) == 39
    assert "bert/pooler/dense/kernel:0" in {
        var.name for var in plain.trainable_variables}
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(plain(named, training=True)["pooled_output"])
    assert None not in tape.gradient(loss, plain.trainable_variables)

  def test_tf1_variables_have_the_checkpoints_names(
      self, hub_modules, tiny_model):
    with tf.Graph().as_default():
      hub_helpers.import_hub().Module(hub_modules["tf1"], trainable=True)
      found = {var.op.name for var in tf.compat.v1.trainable_variables()}
    assert found == {f"module/{name}" for name, _ in tf.train.list_variables(
        tiny_model.init_checkpoint)}


class FindVariablesTest:

  def test_fine_tuned_checkpoints_give_their_encoder(
      self, tiny_model, tmp_path):
    """As run_classifier leaves them, and a training on a TF1 module."""
    encoder = conftest.random_variables(tiny_model.config, seed=5)
    for scope in ("", "module/"):
      saved = {"output_weights": np.ones([2, 32], np.float32),
               "global_step": np.int64(7)}
      for name, value in encoder.items():
        saved[scope + name] = value
        saved[f"{scope}{name}/adam_m"] = saved[f"{scope}{name}/adam_v"] = (
            np.zeros_like(value))
      checkpoint = str(tmp_path / f"{scope}model.ckpt-7")
      checkpoints.save_checkpoint(saved, checkpoint)
      names = export_hub.find_variables(tiny_model.config, checkpoint)
      assert names == {name: scope + name for name in encoder}
    export_hub.export(conftest.export_args(
        tiny_model, init_checkpoint=checkpoint, format="tf2",
        output_dir=str(tmp_path / "encoder")))
    variables = tf.saved_model.load(str(tmp_path / "encoder")).variables
    assert len(variables) == len(encoder)
    for var in variables:
      np.testing.assert_array_equal(var, encoder[var.name[:-2]])

  def test_config_of_another_model_is_refused(self, tiny_model):
    config = modeling.BertConfig.from_dict(
        dict(tiny_model.config.to_dict(), num_hidden_layers=3))
    with pytest.raises(ValueError, match="layer_2/.* is missing there"):
      export_hub.find_variables(config, tiny_model.init_checkpoint)


class RefusalTest:

  @pytest.mark.parametrize("changes, message", [
      (dict(vocab_file="/nowhere"), "--vocab_file=/nowhere is not there"),
      (dict(init_checkpoint="/nowhere"), "no /nowhere.index"),
      (dict(init_checkpoint="/m/cased_L-12_H-768_A-12/bert_model.ckpt"),
       "--do_lower_case=False")])
  def test_wrong_files_are_refused(
      self, changes, message, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=message):
      export_hub.export(conftest.export_args(
          tiny_model, format="tf1", output_dir=str(tmp_path / "x"), **changes))
    assert not list(tmp_path.iterdir())

  def test_output_is_not_written_over(self, tiny_model, hub_modules):
    with pytest.raises(ValueError, match="tf2 exists already"):
      export_hub.export(conftest.export_args(
          tiny_model, format="tf2", output_dir=hub_modules["tf2"]))

  def test_failed_export_leaves_nothing(
      self, tiny_model, tmp_path, monkeypatch):
    def fail(path, *args):
      del args
      tf.io.gfile.makedirs(path + "/variables")
      raise OSError("disk full")
    monkeypatch.setattr(export_hub, "export_tf2", fail)
    with pytest.raises(OSError):
      export_hub.export(conftest.export_args(
          tiny_model, format="tf2", output_dir=str(tmp_path / "x")))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
class MainTest:

  def test_writes_a_whole_folder(self, tiny_model, tmp_path):
    (tmp_path / "encoder.tmp").mkdir()  # What a killed run leaves.
    run = conftest.run_script(
        "demo.export_hub", f"--output_dir={tmp_path}/encoder", "--format=tf1",
        *tiny_model.flags(max_seq_length=None))
    assert run.returncode == 0, run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    assert "an encoder of 39 variables" in run.stdout
