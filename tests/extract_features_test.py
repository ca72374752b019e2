"""Tests of extract_features.py: parts, and one whole run on a tiny model."""

import inspect
import gzip
import io
import json
import re
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

import extract_features
import modeling
import run_classifier
import tokenization
from tests import conftest

SCRIPT = "extract_features.py"
LAYERS = [-1, 0]
LINES = [" ".join(conftest.WORDS[i % 7:i % 7 + 1 + 5 * i % 17])
         + (" ||| the food was good" if i % 3 == 0 else "")
         for i in range(37)] + ["", "x" * 40, "  the end ||| "]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
  return tokenization.FullTokenizer(tiny_model.vocab_file)


def features_of(lines, tokenizer, seq_length=32):
  examples = [extract_features.InputExample(i, *line.split(" ||| "), *(
      [] if " ||| " in line else [None])) for i, line in enumerate(lines)]
  return extract_features.convert_examples_to_features(
      examples, seq_length, tokenizer)


class ReadExamplesTest:

  def read(self, tmp_path, content):
    path = tmp_path / "in.txt"
    path.write_bytes(content)
    return [(x.unique_id, x.text_a, x.text_b)
            for x in extract_features.read_examples(str(path))]

  def test_sentences_and_pairs(self, tmp_path):
    assert self.read(tmp_path, b" a \r\n\nb ||| c ||| d\n||| e ||| ") == [
        (0, "a", None), (1, "", None), (2, "b ||| c", "d"), (3, "||| e |||",
                                                             None)]

  def test_compressed_lines(self, tmp_path):
    path = tmp_path / "in.txt.gz"
    path.write_bytes(gzip.compress(b"a\nb ||| c\n"))
    assert [x.text_b for x in extract_features.read_examples(str(path))] == [
        None, "c"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="in.txt.gz is damaged"):
      extract_features.read_examples(str(path))

  def test_stdin_is_read_alike(self, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(
        buffer=io.BytesIO("na\u00efve\nb ||| c".encode("utf-8"))))
    assert [(x.text_a, x.text_b) for x in extract_features.read_examples(
        "-")] == [("na\u00efve", None), ("b", "c")]

  def test_other_encodings_are_refused_with_the_line(self, tmp_path):
    with pytest.raises(ValueError, match=r"in.txt:2: not UTF-8: byte 0xef at "
                                         r"column 3"):
      self.read(tmp_path, b"good\nna\xefve\n")


class TruncateTest:

  def test_is_the_classifiers(self):
    ours, theirs = (inspect.getsource(module._truncate_seq_pair)
                    for module in (extract_features, run_classifier))
    assert ours == theirs


class InputFnTest:

  def batches(self, features, **options):
    with tf.Graph().as_default():
      dataset = extract_features.input_fn_builder(features, 32, **options)(
          {"batch_size": 3})
      batch = tf.compat.v1.data.make_one_shot_iterator(dataset).get_next()
      with tf.compat.v1.Session() as session:
        found = []
        while True:
          try:
            found.append(session.run(batch))
          except tf.errors.OutOfRangeError:
            return found

  def test_lists_are_padded_and_generators_the_same(self, tokenizer):
    features = features_of(["the film", "the film ||| was good", "", "bad"],
                           tokenizer)
    batches = self.batches(features)
    assert [b["input_ids"].shape for b in batches] == [(3, 32), (1, 32)]
    assert list(batches[0]["unique_ids"]) == [0, 1, 2]
    for name in ("input_ids", "input_mask", "input_type_ids"):
      rows = np.concatenate([b[name] for b in batches])
      assert rows.dtype == np.int32
      assert rows.tolist() == [getattr(f, name) for f in features]
    for a, b in zip(batches, self.batches(iter(features))):
      for name in a:
        np.testing.assert_array_equal(a[name], b[name])

  def test_trimmed_batches_lack_padding_only(self, tokenizer):
    features = features_of(["the film", "the film ||| was good", "", "bad"],
                           tokenizer)
    first, second = self.batches(iter(features), trim_batches=True)
    assert first["input_ids"].shape == (3, 7)
    assert second["input_ids"].shape == (1, 3)
    assert first["input_mask"].tolist() == [
        f.input_mask[:7] for f in features[:3]]


class FeaturesByLengthTest:

  def lengths(self, tokenizer, bytes_per_token, monkeypatch):
    monkeypatch.setattr(extract_features, "_WINDOW_BYTES", 1000)
    examples = [extract_features.InputExample(i, line, None)
                for i, line in enumerate(LINES)]
    features = list(extract_features._features_by_length(
        examples, 32, tokenizer, 4, bytes_per_token))
    assert sorted(f.unique_id for f in features) == list(range(len(LINES)))
    return features

  def test_one_window_is_sorted(self, tokenizer, monkeypatch):
    lengths = [len(f.tokens) for f in self.lengths(tokenizer, 0, monkeypatch)]
    assert lengths == sorted(lengths, reverse=True)

  def test_windows_are_as_large_as_their_results(self, tokenizer, monkeypatch):
    by_batch = self.lengths(tokenizer, 1000, monkeypatch)
    for start in range(0, len(by_batch), 4):
      assert sorted(f.unique_id for f in by_batch[start:start + 4]) == list(
          range(start, min(start + 4, len(LINES))))
    some = [f.unique_id // 4 for f in self.lengths(tokenizer, 10, monkeypatch)]
    assert some != sorted(some) and max(some[:4]) < 9


class NpzTest:

  def write(self, path, fail=False):
    arrays = {}
    with extract_features._npz_writer(str(path), [-1, 2, -1], 3) as write:
      for line, tokens in enumerate((["[CLS]", "a"], ["[CLS]", "b", "##c"])):
        layers = [np.random.RandomState(10 * line + i).rand(len(tokens), 3)
                  .astype(np.float32) for i in (0, 1, 0)]
        write(line, tokens, layers)
        arrays[line] = layers
        if fail:
          raise OSError("disk full")
    return arrays

  def test_arrays_have_a_row_per_token(self, tmp_path):
    arrays = self.write(tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as found:
      assert set(found) == {
          "tokens", "line_index", "lengths", "layer_-1", "layer_2"}
      assert found["tokens"].tolist() == ["[CLS]", "a", "[CLS]", "b", "##c"]
      assert found["line_index"].tolist() == [0, 0, 1, 1, 1]
      assert found["lengths"].tolist() == [2, 3]
      for name, place in (("layer_-1", 0), ("layer_2", 1)):
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(
            found[name], np.concatenate([arrays[0][place], arrays[1][place]]))
    assert [x.name for x in tmp_path.iterdir()] == ["o.npz"]

  def test_a_failure_leaves_the_earlier_file(self, tmp_path):
    (tmp_path / "o.npz").write_text("earlier")
    with pytest.raises(OSError, match="disk full"):
      self.write(tmp_path / "o.npz", fail=True)
    assert [x.name for x in tmp_path.iterdir()] == ["o.npz"]
    assert (tmp_path / "o.npz").read_text() == "earlier"


class JsonlTest:

  def test_values_are_rounded_as_upstream_does(self, tmp_path):
    path = tmp_path / "o.jsonl"
    values = np.random.RandomState(1).normal(size=(1, 1, 5000)).astype(
        np.float32) * 10.0 ** np.arange(-7, 3).repeat(500).astype(np.float32)
    with extract_features._jsonl_writer(str(path), [-1], 5000) as write:
      write(0, ["\u00e9"], list(values))
      assert not path.exists()  # Not before it is whole.
    expected = [round(float(v), 6) for v in values.reshape(-1)]
    assert path.read_text() == json.dumps(
        {"linex_index": 0, "features": [{"token": "\u00e9", "layers": [
            {"index": -1, "values": expected}]}]}) + "\n"


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
  """A run from stdin to stdout: its lines, and its log."""
  folder = tmp_path_factory.mktemp("extract")
  (folder / "in.txt").write_text("\n".join(LINES))
  process = conftest.run_script(
      SCRIPT, "--input_file=-", "--output_file=-", "--batch_size=4",
      "--layers=-1,0", "--cpu_only", *tiny_model.flags(),
      launcher=["sh", "-c",
                f'"$@" < {folder}/in.txt > {folder}/out.jsonl', "sh"])
  assert process.returncode == 0, process.stdout
  return (folder / "out.jsonl").read_text().splitlines(), process.stdout


@pytest.mark.slow
class RunTest:

  def test_lines_are_in_order_and_values_those_of_padded_batches(
      self, run, tiny_model, tokenizer):
    lines = [json.loads(line) for line in run[0]]
    assert [line["linex_index"] for line in lines] == list(range(len(LINES)))
    features = features_of([line.strip() for line in LINES], tokenizer)
    # The model as it is, on all lines at once, in their order, padded.
    with tf.Graph().as_default():
      tf.compat.v1.enable_resource_variables()
      ids, mask, types_ = (
          tf.constant([getattr(f, name) for f in features], tf.int32)
          for name in ("input_ids", "input_mask", "input_type_ids"))
      model = modeling.BertModel(tiny_model.config, False, ids, mask, types_)
      assignment_map, _ = modeling.get_assignment_map_from_checkpoint(
          tf.compat.v1.trainable_variables(), tiny_model.init_checkpoint)
      tf.compat.v1.train.init_from_checkpoint(
          tiny_model.init_checkpoint, assignment_map)
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        layers = session.run(model.get_all_encoder_layers())
    assert features[-1].tokens[-4:] == ["[UNK]"] * 3 + ["[SEP]"]  # No pair.
    for row, (feature, line) in enumerate(zip(features, lines)):
      assert [t["token"] for t in line["features"]] == feature.tokens
      for position, token in enumerate(line["features"]):
        assert [layer["index"] for layer in token["layers"]] == LAYERS
        for layer in token["layers"]:
          np.testing.assert_allclose(
              layer["values"], layers[layer["index"]][row, position], atol=3e-5)

  def test_progress_goes_to_stderr(self, run):
    assert re.search(r"40 lines, \d+ tokens in [\d.]+ s: [\d.]+ lines/s",
                     run[1]), run[1]
    assert "fresh: none" in run[1]


class BadInputTest:

  def refused(self, tiny_model, tmp_path, **flags):
    (tmp_path / "in.txt").write_text("a\n")
    args = types.SimpleNamespace(**{**dict(
        bert_config_file=tiny_model.bert_config_file, max_seq_length=32,
        batch_size=4, do_lower_case=True, init_checkpoint="m/bert_model.ckpt",
        input_file=str(tmp_path / "in.txt"), output_format="jsonl",
        output_file=str(tmp_path / "o")), **flags})
    with pytest.raises(ValueError) as error:
      extract_features._check_flags(args, tiny_model.config)
    return str(error.value)

  @pytest.mark.parametrize("flags, message", [
      (dict(batch_size=0), "--batch_size=0"),
      (dict(max_seq_length=65), "--max_seq_length=65: this model takes 3 to"),
      (dict(input_file="/none/in.txt"), "--input_file=/none/in.txt is not"),
      (dict(output_file="/none/o"), "there is no folder /none"),
      (dict(output_file="/tmp"), "--output_file=/tmp is a folder"),
      (dict(input_file=__file__, output_file=__file__), "is the input"),
      (dict(output_file="-", output_format="npz"), "--output_format=npz")])
  def test_flags(self, flags, message, tiny_model, tmp_path):
    assert message in self.refused(tiny_model, tmp_path, **flags)

  @pytest.mark.parametrize("text, message", [
      ("-1,x", "'x' is not a whole number"), ("", "'' is not"),
      ("-1,-3", "-1 to -2; there is no -3"), ("2", "there is no 2")])
  def test_layers(self, text, message):
    with pytest.raises(ValueError, match=message):
      extract_features._parse_layers(text, num_layers=2)
    assert extract_features._parse_layers("-2, 1", num_layers=2) == [-2, 1]

  def test_checkpoints(self, tiny_model):
    def config(**values):
      return modeling.BertConfig(
          tiny_model.vocab_size, **{**conftest.TINY_CONFIG, **values})
    check = extract_features._check_checkpoint
    check(tiny_model.init_checkpoint, tiny_model.config)
    for bert_config, message in (
        (config(num_hidden_layers=3), "has no bert/encoder/layer_2/attention"),
        (config(hidden_size=64), "does not fit --bert_config_file"),
        (config(intermediate_size=32), "does not fit this model")):
      with pytest.raises(ValueError, match=message):
        check(tiny_model.init_checkpoint, bert_config)
    with pytest.raises(ValueError, match="there is no /none.index"):
      check("/none", tiny_model.config)

  def test_ranks(self, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without mpirun"):
      extract_features.main(None)

  def test_other_modes_than_prediction(self, tiny_model):
    model_fn = extract_features.model_fn_builder(
        tiny_model.config, None, LAYERS, False, False)
    with pytest.raises(ValueError, match="only predicts"):
      model_fn({}, None, tf.estimator.ModeKeys.TRAIN, {})
