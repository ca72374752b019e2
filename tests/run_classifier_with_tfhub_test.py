"""Tests of run_classifier_with_tfhub.py: whole runs on tiny modules."""

import contextlib
import pathlib

from absl import flags
import numpy as np
import pytest
import tensorflow as tf

import run_classifier_with_tfhub
from tests import conftest

SCRIPT = "run_classifier_with_tfhub.py"


@contextlib.contextmanager
def parsed(*argv):
  """Defines and parses the script's flags, and takes them back."""
  before = set(flags.FLAGS)
  run_classifier_with_tfhub.init_classifier_with_tfhub_flags()
  defined = set(flags.FLAGS) - before
  try:
    flags.FLAGS([SCRIPT, *argv])
    yield defined
  finally:
    for name in defined:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def run(*argv):
  """The script's `main` in this process."""
  with parsed("--task_name=sst2", "--cpu_only", "--train_batch_size=16",
              "--learning_rate=2e-3", "--max_seq_length=32", *argv):
    run_classifier_with_tfhub.main(None)


class FlagsTest:

  def test_those_of_run_classifier_and_the_module(self):
    with parsed() as defined:
      assert {"data_dir", "train_batch_size", "random_seed",
              "bert_hub_module_handle"} <= defined
      assert flags.FLAGS.bert_hub_module_handle is None


class CreateModelTest:

  def test_output_layer_is_that_of_run_classifier(self, hub_modules):
    labels = np.array([0.5, 2.0, 5.0], np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      ids = tf.constant(np.arange(12).reshape(3, 4), tf.int32)
      outputs = run_classifier_with_tfhub.create_model(
          False, ids, tf.ones_like(ids), tf.zeros_like(ids),
          tf.constant(labels), 1, hub_modules["tf1"], is_regression=True)
      names = {var.op.name for var in tf.compat.v1.trainable_variables()}
      session.run(tf.compat.v1.global_variables_initializer())
      loss, each, logits, values = session.run(outputs)
    assert len(names) == 41 and {"output_weights", "output_bias"} <= names
    np.testing.assert_allclose(each, (logits[:, 0] - labels) ** 2, rtol=1e-5)
    np.testing.assert_allclose(loss, each.mean(), rtol=1e-6)
    np.testing.assert_array_equal(values, logits)

  def test_windows_go_through_the_module_one_by_one(self, monkeypatch):
    class Module(object):
      """Gives the ids as the pooled output."""

      def __init__(self, handle):
        assert handle == "folder"

      def encode(self, is_training, input_ids, input_mask, segment_ids):
        return tf.cast(input_ids * input_mask + segment_ids, tf.float32)

    monkeypatch.setattr(
        run_classifier_with_tfhub.hub_helpers, "HubModule", Module)
    ids = np.arange(1, 19).reshape(3, 2, 3)
    mask = np.ones_like(ids)
    mask[1, 1] = 0  # The second text has one window.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      outputs = run_classifier_with_tfhub.create_model(
          False, tf.constant(ids, tf.int32), tf.constant(mask, tf.int32),
          tf.ones_like(ids, tf.int32), tf.constant([0, 1, 1]), 2, "folder")
      (weights, _) = tf.compat.v1.trainable_variables()
      session.run(tf.compat.v1.global_variables_initializer())
      logits, weights = session.run((outputs[2], weights))
    expected = (ids + 1) @ weights.T  # [B, N, L]
    expected[1, 1] = expected[1, 0]
    np.testing.assert_allclose(logits, expected.mean(axis=1), rtol=1e-5)


@pytest.mark.slow
class MainTest:

  @pytest.mark.parametrize("name, scope, parts", [
      ("tf1", "module/", [6]), ("tf2", "", [2, 6])])
  def test_trains_goes_on_evaluates_and_predicts(
      self, name, scope, parts, hub_modules, sst2_dir, tiny_model, tmp_path):
    flags_of_all = [
        "--do_train", f"--data_dir={sst2_dir}", f"--output_dir={tmp_path}",
        f"--bert_hub_module_handle={hub_modules[name]}", "--log_steps=4",
        "--random_seed=1"]  # With some seeds it learns nothing.
    if name == "tf1":
      flags_of_all += ["--dynamic_padding"]
    if name == "tf2":  # The same batch, in two parts.
      flags_of_all += ["--train_batch_size=8", "--num_accumulation_steps=2"]
    for epochs in parts[:-1]:
      run(*flags_of_all, f"--num_train_epochs={epochs}")
      assert tf.train.latest_checkpoint(tmp_path).endswith(
          f"model.ckpt-{16 * epochs}")
    run(*flags_of_all, f"--num_train_epochs={parts[-1]}", "--do_eval",
        "--do_predict", "--do_export")
    steps = [step for step, _ in conftest.events(tmp_path)["loss"]]
    assert len(steps) == len(set(steps))  # None was done twice.
    found = dict(line.split(" = ") for line in (
        tmp_path / "eval_results.txt").read_text().splitlines())
    assert list(found) == ["eval_accuracy", "eval_loss", "global_step", "loss"]
    assert found["global_step"] == "96" and float(found["eval_accuracy"]) > 0.8
    rows = (tmp_path / "test_results.tsv").read_text().splitlines()
    assert len(rows) == 21 and all(len(row.split("\t")) == 2 for row in rows)

    served = conftest.served(tmp_path / "export", tmp_path / "predict.tf_record")
    np.testing.assert_allclose(
        served["probabilities"], np.loadtxt(tmp_path / "test_results.tsv"),
        rtol=0, atol=1e-5)
    assert conftest.model_info(tmp_path / "export")["do_lower_case"] == (
        name == "tf1")
    (export,) = (tmp_path / "export").iterdir()
    assert (export / "assets" / "vocab.txt").read_bytes() == pathlib.Path(
        tiny_model.vocab_file).read_bytes()
    assert {path.name for path in (export / "assets").iterdir()} == {
        "vocab.txt", "model_info.json"}

    # Every variable of the encoder was trained, from what it was.
    checkpoint = tf.train.load_checkpoint(str(tmp_path / "model.ckpt-96"))
    start = tf.train.load_checkpoint(tiny_model.init_checkpoint)
    for variable in start.get_variable_to_shape_map():
      moved = np.abs(checkpoint.get_tensor(scope + variable) -
                     start.get_tensor(variable))
      assert 0 < moved.max() < 0.5, variable

  def test_long_texts_are_served_as_predicted(
      self, hub_modules, sst2_dir, tmp_path):
    run("--do_train", "--do_predict", "--do_export", "--num_train_epochs=1",
        f"--data_dir={sst2_dir}", f"--output_dir={tmp_path}",
        f"--bert_hub_module_handle={hub_modules['tf2']}", "--max_seq_length=6",
        "--doc_stride=3")
    found, counts = conftest.served_texts(
        tmp_path / "export", tmp_path / "predict.tf_record", 6, "mean")
    assert set(counts) == {2}
    np.testing.assert_allclose(
        found, np.loadtxt(tmp_path / "test_results.tsv"), rtol=0, atol=1e-5)

  @conftest.needs_mpirun
  def test_ranks_train_the_same_variables(
      self, hub_modules, sst2_dir, tmp_path):
    process = conftest.run_script(
        "tests/rank_programs/train_hub.py", "--task_name=sst2",
        f"--data_dir={sst2_dir}", "--do_train", "--num_train_epochs=1",
        f"--bert_hub_module_handle={hub_modules['tf2']}", "--cpu_only",
        "--max_seq_length=16", f"--output_dir={tmp_path}",
        launcher=[*conftest.MPIRUN, "2"])
    assert process.returncode == 0, process.stdout
    first, second = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in (0, 1))
    assert set(first) == set(second) and first["global_step"] == 4
    trained = [name for name in first if f"{name}/adam_m" in first]
    assert len(trained) == 41
    for name in first:
      np.testing.assert_array_equal(first[name], second[name])

  def test_wrong_flags_end_with_one_line(self, hub_modules, sst2_dir, tmp_path):
    process = conftest.run_script(
        SCRIPT, "--task_name=sst2", f"--data_dir={sst2_dir}", "--do_train",
        f"--bert_hub_module_handle={hub_modules['tf1']}", "--cpu_only",
        "--vocab_file=/other/vocab.txt", "--max_seq_length=65",
        f"--output_dir={tmp_path}")
    assert process.returncode == 1 and "Traceback" not in process.stdout
    assert "--vocab_file: not used" in process.stdout
    assert (f"{SCRIPT}: error: --max_seq_length=65: the model of "
            f"--bert_hub_module_handle={hub_modules['tf1']} takes 3 to 64 "
            f"tokens. Longer texts go into windows: --doc_stride." in
            process.stdout), process.stdout
    assert not list(tmp_path.iterdir())


class BadInputTest:

  def test_module_without_a_checkpoint_does_not_predict(
      self, hub_modules, sst2_dir, tmp_path):
    with pytest.raises(ValueError, match="a module has no output layer"):
      run(f"--data_dir={sst2_dir}", "--do_predict",
          f"--bert_hub_module_handle={hub_modules['tf1']}",
          f"--output_dir={tmp_path}")
