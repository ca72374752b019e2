"""Tests of demo/hf_checkpoints.py: models that transformers reads and writes."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import tensorflow as tf

from demo import checkpoints
from demo import hf_checkpoints
from tests import checkpoints_test
from tests import conftest
from tests.benchmarks import transformers_outputs

RECORDED = conftest.PROJECT / "tests" / "data" / "transformers_outputs.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  """task -> (folder of the tiny TF checkpoint, config, variables)."""
  folder = tmp_path_factory.mktemp("tf")
  return {task: (folder / task, *transformers_outputs.write_tiny_model(
      str(folder / task), task)) for task in transformers_outputs.TASKS}


class WriteModelTest:

  @pytest.mark.parametrize("task", transformers_outputs.TASKS)
  def test_outputs_are_those_of_transformers_and_the_way_back_is_exact(
      self, task, tiny, tmp_path):
    recorded = json.loads(RECORDED.read_text())[task]
    source, config, variables = tiny[task]
    checkpoints.to_hf(str(source), str(tmp_path / "hf"))
    # The recorded numbers are those of these very tensors.
    assert transformers_outputs.digest(tmp_path / "hf") == recorded["digest"]
    inputs = transformers_outputs.make_inputs(config.vocab_size, 3, 12)
    ours = transformers_outputs.own_outputs(config, variables, inputs, task)
    assert transformers_outputs.largest_difference(
        ours, recorded["outputs"], task) < transformers_outputs.TOLERANCE
    if task == "encoder":  # Another last layer would be noticed.
      ours["hidden_states"][-1] += 2e-5
      assert transformers_outputs.largest_difference(
          ours, recorded["outputs"], task) > transformers_outputs.TOLERANCE

    written = checkpoints.from_hf(str(tmp_path / "hf"), str(tmp_path / "back"))
    found = checkpoints_test.read_back(
        str(tmp_path / "back" / "bert_model.ckpt"))
    assert set(found) == set(written) == set(variables)
    for name, value in variables.items():
      assert found[name].dtype == value.dtype
      assert found[name].tobytes() == value.tobytes(), name
    names = {path.name for path in source.iterdir()}
    assert {x.name for x in (tmp_path / "back").iterdir()} == names
    assert ("label_map.json" in names) == (task == "classification")
    for name in names - {n for n in names if n.startswith("bert_model")}:
      texts = [(folder / name).read_text()
               for folder in (source, tmp_path / "back")]
      if name.endswith(".json"):
        texts = [json.loads(text) for text in texts]
      assert texts[0] == texts[1], name

  def test_files_beside_the_weights(self, tiny, tmp_path):
    source, _, _ = tiny["classification"]
    checkpoints.to_hf(str(source), str(tmp_path / "hf"))
    contents = {path.name: path for path in (tmp_path / "hf").iterdir()}
    assert set(contents) == {
        "config.json", "model.safetensors", "special_tokens_map.json",
        "tokenizer_config.json", "vocab.txt"}
    config = json.loads(contents["config.json"].read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["hidden_act"] == "gelu_new"
    assert config["layer_norm_eps"] == 1e-12
    assert config["id2label"] == {"0": "no", "1": "yes", "2": "perhaps"}
    assert config["label2id"] == {"no": 0, "yes": 1, "perhaps": 2}
    assert config["pad_token_id"] == 0
    tokenizer = json.loads(contents["tokenizer_config.json"].read_text())
    assert tokenizer["do_lower_case"] is True
    assert tokenizer["model_max_length"] == 64
    assert json.loads(contents["special_tokens_map.json"].read_text()) == {
        f"{x}_token": f"[{x.upper()}]"
        for x in ("unk", "sep", "pad", "cls", "mask")}
    assert contents["vocab.txt"].read_bytes() == (
        source / "vocab.txt").read_bytes()
    with safetensors.safe_open(contents["model.safetensors"], "np") as opened:
      assert opened.metadata() == {"format": "pt"}

  def test_slots_are_left_out_and_task_leaves_output_layers_out(
      self, tiny, tmp_path):
    source, _, variables = tiny["pretraining"]
    prefix = str(tmp_path / "model.ckpt-7")
    checkpoints.save_checkpoint({
        **{f"module/{name}" if name.startswith("bert/") else name: value
           for name, value in variables.items()},
        "cls/seq_relationship/output_bias/adam_m": np.zeros([2], np.float32),
        "global_step": np.int64(7)}, prefix)
    files = [str(source / name) for name in ("bert_config.json", "vocab.txt")]
    checkpoints.to_hf(prefix, str(tmp_path / "hf"), "encoder", *files, False)
    found = safetensors.numpy.load_file(tmp_path / "hf" / "model.safetensors")
    assert len(found) == len(tiny["encoder"][2])
    assert not [name for name in found if name.startswith(("bert.", "cls."))]
    tokenizer = json.loads(
        (tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert tokenizer["do_lower_case"] is False

  @pytest.mark.parametrize("task, change, message", [
      ("encoder", {"bert/encoder/layer_2/output/dense/bias": [32]},
       "layer_2/output/dense/bias, which bert_config.json does not ask for"),
      ("encoder", {"bert/encoder/layer_1/output/dense/bias": None},
       "nothing for bert/encoder/layer_1/output/dense/bias"),
      ("encoder", {"bert/embeddings/word_embeddings": [41, 32]},
       r"word_embeddings has shape \[41, 32\], but .* asks for"),
      ("classification", {"output_bias": [2]}, r"output_bias has shape \[2\]"),
      ("classification", {"output_weights": [4, 32], "output_bias": [4]},
       "classifier of 4 labels, but label_map.json beside it names 3"),
      ("pretraining", {"cls/predictions/output_bias": None},
       "nothing for cls/predictions/output_bias"),
      ("classification", {"cls/squad/output_weights": [2, 32],
                          "cls/squad/output_bias": [2]},
       "for classification and question_answering: say with --task"),
      ("encoder", {name: None for name in (
          "bert/embeddings/word_embeddings",)}, "not a whole BERT")])
  def test_other_checkpoints_are_refused(
      self, task, change, message, tiny, tmp_path):
    source, _, variables = tiny[task]
    variables = dict(variables)
    for name, shape in change.items():
      variables.pop(name, None)
      if shape:
        variables[name] = np.zeros(shape, np.float32)
    for path in source.iterdir():
      if not path.name.startswith("bert_model"):
        (tmp_path / path.name).write_text(path.read_text())
    prefix = str(tmp_path / "x.ckpt")
    checkpoints.save_checkpoint(variables, prefix)
    with pytest.raises(ValueError, match=message):
      checkpoints.to_hf(prefix, str(tmp_path / "hf"))
    assert not list(tmp_path.glob("hf*"))

  def test_other_files_are_refused(self, tiny, tmp_path):
    source, config, variables = tiny["encoder"]
    out = str(tmp_path / "hf")
    with pytest.raises(ValueError, match="--task=classification: .* no output "
                                         "layer for classification"):
      checkpoints.to_hf(str(source), out, "classification")
    prefix = str(tmp_path / "x.ckpt")
    checkpoints.save_checkpoint(variables, prefix)
    with pytest.raises(ValueError, match="is not there.*--bert_config_file"):
      checkpoints.to_hf(prefix, out)
    (tmp_path / "bert_config.json").write_text(
        json.dumps({**config.to_dict(), "hidden_act": "silu"}))
    with pytest.raises(ValueError, match="is not there.*--vocab_file"):
      checkpoints.to_hf(prefix, out)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="hidden_act|Unknown activation"):
      checkpoints.to_hf(prefix, out)
    with pytest.raises(ValueError, match=r"has no \[CLS\]"):
      checkpoints.to_hf(prefix, out, bert_config_file=str(
          source / "bert_config.json"))
    for text in ('{"a": 0, "b": 1}', '{"labels": "ab"}', "[" * 100000,
                 '{"labels": ["a", "a"]}'):
      (tmp_path / "label_map.json").write_text(text)
      with pytest.raises(ValueError, match="label_map.json is no label map"):
        checkpoints.to_hf(prefix, out, None, str(source / "bert_config.json"),
                          str(source / "vocab.txt"))
    assert not list(tmp_path.glob("hf*"))


def rewrite(folder, change):
  """Changes the tensors of a Hugging Face model in place."""
  path = pathlib.Path(folder) / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  change(tensors)
  safetensors.numpy.save_file(tensors, path)


def write_safetensors(path, tensors, kind):
  """A file of 16-bit floats; safetensors.numpy knows no bfloat16."""
  header, data = {}, b""
  for name, value in tensors.items():
    raw = value.tobytes()
    header[name] = {"dtype": kind, "shape": list(value.shape),
                    "data_offsets": [len(data), len(data) + len(raw)]}
    data += raw
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)


class ReadModelTest:

  @pytest.fixture(scope="class")
  def unchanged(self, tiny, tmp_path_factory):
    """A Hugging Face model with the output layers of pretraining."""
    folder = tmp_path_factory.mktemp("unchanged") / "hf"
    checkpoints.to_hf(str(tiny["pretraining"][0]), str(folder))
    return folder

  @pytest.fixture
  def source(self, unchanged, tmp_path):
    """A copy of it."""
    return shutil.copytree(unchanged, tmp_path / "hf")

  @pytest.mark.parametrize("kind", ["BF16", "F16"])
  def test_16_bit_and_sharded_files_are_read(
      self, kind, source, tiny, tmp_path):
    dtype = {"BF16": tf.bfloat16.as_numpy_dtype, "F16": np.float16}[kind]
    tensors = {name: value.astype(dtype) for name, value in
               safetensors.numpy.load_file(
                   source / "model.safetensors").items()}
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[:9],
             "model-00002-of-00002.safetensors": names[9:]}
    for file, part in files.items():
      write_safetensors(source / file, {x: tensors[x] for x in part}, kind)
    index = {"weight_map": {x: file for file, part in files.items()
                            for x in part}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    model = hf_checkpoints.read_model(str(source))
    variables = tiny["pretraining"][2]
    assert set(model.variables) == set(variables)
    for name, value in model.variables.items():
      assert value.dtype == np.float32
      np.testing.assert_array_equal(
          value, variables[name].astype(dtype).astype(np.float32))
    assert "safetensors" in checkpoints.inspect([str(source)])

    index["weight_map"]["bert.more"] = "model-00001-of-00002.safetensors"
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="bert.more is not in model-00001"):
      hf_checkpoints.read_model(str(source))
    (source / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no model-00002"):
      hf_checkpoints.read_model(str(source))
    (source / "model.safetensors.index.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no JSON object"):
      hf_checkpoints.read_model(str(source))
    (source / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": 5, "b": "c"}}')
    with pytest.raises(ValueError, match="no weight_map that names files"):
      hf_checkpoints.read_model(str(source))

  def test_copies_of_tied_weights_count_once(self, source, tiny):
    def copy(tensors):
      tensors["cls.predictions.decoder.weight"] = tensors[
          "bert.embeddings.word_embeddings.weight"].copy()
      # Some versions save the bias under its other name alone.
      tensors["cls.predictions.decoder.bias"] = tensors.pop(
          "cls.predictions.bias")
    rewrite(source, copy)
    model = hf_checkpoints.read_model(str(source))
    assert set(model.variables) == set(tiny["pretraining"][2])

    def untie(tensors):
      tensors["cls.predictions.decoder.weight"][0, 0] += 1
    rewrite(source, untie)
    with pytest.raises(ValueError, match="decoder.weight is not a copy"):
      hf_checkpoints.read_model(str(source))

  @pytest.mark.parametrize("change, message", [
      (lambda x: x.update(bert=x.pop("bert.pooler.dense.bias")), None),
      (lambda x: x.pop("cls.seq_relationship.bias"),
       "nothing for cls/seq_relationship/output_bias"),
      (lambda x: x.update({"bert.encoder.layer.2.output.dense.bias":
                           np.zeros([32], np.float32)}),
       "layer.2.output.dense.bias, which BERT has not with the 2 layers"),
      (lambda x: x.update({"bert.pooler.dense.bias": np.zeros([32], np.int8)}),
       "of type int8.*Quantized"),
      (lambda x: x.update({"embeddings.LayerNorm.gamma":
                           np.zeros([32], np.float32)}),
       "LayerNorm.weight twice")])
  def test_other_tensors(self, change, message, source):
    rewrite(source, change)
    if message is None:  # Left out, and the pooler stays fresh.
      model = hf_checkpoints.read_model(str(source))
      assert "bert/pooler/dense/bias" not in model.variables
      return
    with pytest.raises(ValueError, match=message):
      hf_checkpoints.read_model(str(source))

  @pytest.mark.parametrize("change, message", [
      ({"is_decoder": True}, "is_decoder True"),
      ({"hidden_size": "32"}, "hidden_size is '32'"),
      ({"num_hidden_layers": 10 ** 9}, "not the 1000000000 layers of config"),
      ({"num_attention_heads": 3}, "not a multiple")])
  def test_other_configs_are_refused(self, change, message, source):
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
      hf_checkpoints.read_model(str(source))

  @pytest.mark.parametrize("name, content, message", [
      ("config.json", None, "holds no config.json beside its model"),
      ("config.json", '{"a": ' + "[" * 100000, "config.json is not JSON"),
      ("vocab.txt", None, "neither vocab.txt nor tokenizer.json"),
      ("tokenizer.json", '{"model": []}', "holds no WordPiece vocabulary"),
      ("tokenizer.json", '{"model": {"vocab": "a"}}', "holds no WordPiece"),
      ("tokenizer.json", '{"model": {"vocab": {"a": "0"}}}', "no WordPiece")],
                           ids=range(6))
  def test_other_files_beside_it(self, name, content, message, source):
    if name != "config.json":
      (source / "vocab.txt").unlink()
    if content is not None:
      (source / name).write_text(content)
    elif name == "config.json":
      (source / name).unlink()
    with pytest.raises(ValueError, match=message) as caught:
      hf_checkpoints.read_model(str(source))
    assert content is not None or "not JSON" not in str(caught.value)

  @pytest.mark.parametrize("change, labels", [
      ({"id2label": {"0": 1, "1": 2, "2": 3}}, ["1", "2", "3"]),
      ({"id2label": ["a", "b", "c"]}, None),
      ({"id2label": {"0": "a", "1": "b", "2": "c"}, "architectures": 5},
       ["a", "b", "c"])])
  def test_labels_of_other_kinds(self, change, labels, tiny, tmp_path):
    checkpoints.to_hf(str(tiny["classification"][0]), str(tmp_path / "hf"))
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert hf_checkpoints.read_model(str(tmp_path / "hf")).labels == labels

  def test_output_layer_of_tokens_is_no_classifier(self, tiny, tmp_path):
    checkpoints.to_hf(str(tiny["classification"][0]), str(tmp_path / "hf"))
    path = tmp_path / "hf" / "config.json"
    path.write_text(path.read_text().replace(
        "BertForSequenceClassification", "BertForTokenClassification"))
    model = hf_checkpoints.read_model(str(tmp_path / "hf"))
    assert set(model.variables) == set(tiny["encoder"][2])
    assert model.labels is None

  def test_flipped_bits_of_the_header_are_refused(self, source):
    path = source / "model.safetensors"
    good = path.read_bytes()
    size = int.from_bytes(good[:8], "little")
    for place in (0, 8, 8 + size // 2, 7):
      bad = bytearray(good)
      bad[place] ^= 0x80
      path.write_bytes(bad)
      with pytest.raises(ValueError, match="can't be read|twice|has not"):
        hf_checkpoints.read_model(str(source))

  def test_pickles_are_not_read(self, source):
    os.rename(source / "model.safetensors", source / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safe_serialization=True"):
      hf_checkpoints.read_model(str(source))
