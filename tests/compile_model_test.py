"""Tests of demo/compile_model.py and demo/compile_*.py: a compiled model gives
what it was made of."""

import json
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

from demo import compile_check
from demo import compile_graph
from demo import compile_model
from demo import compile_reader
from demo import export_helpers
from demo import predictor
from demo import serving_batches
from demo import serving_models
from demo import serving_signatures
from demo import runner_helpers
from demo import window_helpers
import modeling
import run_classifier
import run_squad
from tests import conftest
from tests import export_helpers_test

LENGTH = 12
IDS = ("input_ids", "input_mask", "segment_ids")
# Name -> (kind, sizes that are not the tiny model's).
MODELS = {
    "gelu": ("classification", {}),
    "relu": ("regression", dict(hidden_act="relu", num_attention_heads=4,
                                intermediate_size=48)),
    "tanh": ("squad", dict(hidden_act="tanh", num_attention_heads=1,
                           num_hidden_layers=3)),
    "linear": ("classification", dict(
        hidden_act="linear", num_attention_heads=8, num_hidden_layers=1,
        type_vocab_size=3)),
    "answers": ("squad", dict(num_attention_heads=16))}


def flags(source, target, **values):
  """Parsed flags of the tool."""
  return types.SimpleNamespace(**{
      **dict(input_saved_model=str(source), output_saved_model=str(target),
             dtype="float32", batch_size=0, sequence_length=0,
             crude_gelu=False, aggressive_optimizations=False,
             format="saved_model", sample_file=None), **values})


def compiled(source, target, **values):
  """Compiles; returns (folder, content of the report)."""
  compile_model.compile_model(flags(source, target, **values))
  return str(target), json.loads(
      (pathlib.Path(target) / "compile_report.json").read_text())


def export(model, kind, folder, build=None, pool_outputs=None, **values):
  """Exports a model with random weights; returns the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  prefix = str(folder / "model.ckpt-7")
  export_helpers_test.save_model(model, kind, prefix)
  settings = dict(max_seq_length=LENGTH)
  if kind == "squad":
    settings.update(doc_stride=4, max_query_length=4, n_best_size=4,
                    max_answer_length=5, version_2_with_negative=False,
                    null_score_diff_threshold=0.0)
  args = export_helpers_test.export_flags(folder, **{**settings, **values})
  export_helpers.check(args)
  export_helpers.export(
      args, build or export_helpers_test.build_function(model, kind),
      {"task": kind, "kind": kind, "do_lower_case": True,
       "labels": ["a", "b", "c"] if kind == "classification" else []},
      model.vocab_file, model.bert_config_file, pool_outputs)
  (path,) = (folder / "export").iterdir()
  return str(path)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
  """Name of MODELS -> (folder of its export, TinyModel)."""
  found = {}
  for name, (kind, config) in MODELS.items():
    folder = tmp_path_factory.mktemp(name)
    model = conftest.TinyModel(folder, **config)
    found[name] = export(model, kind, folder / "run"), model
  return found


def signatures(path):
  """The signatures of a SavedModel, which stays in memory."""
  model = export_helpers.load_export(path)
  serve = model.signatures
  serve.owner = model
  return serve


def assert_same(kind, rows, found, expected, atol=1e-5):
  """Outputs are the same, of answers where there is a token."""
  assert set(found) == set(expected)
  for name in expected:
    one, other = np.array(found[name]), np.array(expected[name])
    assert one.shape == other.shape
    if kind == "squad":
      real = rows["input_mask"] > 0
      assert (one[~real] == compile_graph.PADDING_LOGIT).all()
      one, other = one[real], other[real]
    assert np.ptp(other) > 0.05
    np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def tensors(rows):
  return {name: tf.constant(array) for name, array in rows.items()}


class EqualityTest:

  @pytest.mark.parametrize("name", sorted(MODELS))
  def test_each_signature_gives_what_the_export_does(
      self, name, exports, tmp_path):
    kind = MODELS[name][0]
    path, model = exports[name]
    target, report = compiled(path, tmp_path / "out")
    old, new = signatures(path), signatures(target)
    assert set(old) == set(new)
    assert report["model"]["heads"] == model.config.num_attention_heads
    assert report["model"]["layers"] == model.config.num_hidden_layers
    assert report["model"]["activation"] == model.config.hidden_act
    for length in (LENGTH, 40, 4):
      rows = export_helpers_test.token_rows(model.vocab_size, length)
      assert_same(kind, rows, new["serving_default"](**tensors(rows)),
                  old["serving_default"](**tensors(rows)))
    rows = export_helpers_test.token_rows(model.vocab_size, LENGTH)
    examples = export_helpers_test.as_examples(rows)
    assert_same(kind, rows, new["serve_examples"](examples=examples),
                old["serve_examples"](examples=examples))

  def test_masks_of_any_form(self, exports, tmp_path):
    """Gaps, a masked first token, a row without tokens, no rows."""
    for name in ("gelu", "answers"):
      path, model = exports[name]
      target, _ = compiled(path, tmp_path / name)
      old, new = (signatures(x)["serving_default"] for x in (path, target))
      rows = export_helpers_test.token_rows(model.vocab_size, LENGTH)
      rows["input_mask"] = np.array(
          [[1, 0] * 6, [0] + [1] * 11, [1] * 3 + [0] * 8 + [1]], np.int32)
      assert_same(MODELS[name][0], rows, new(**tensors(rows)),
                  old(**tensors(rows)))
      rows["input_mask"][1] = 0
      assert all(np.isfinite(x).all() for x in new(**tensors(rows)).values())
      none = {key: array[:0] for key, array in rows.items()}
      assert all(len(x) == 0 for x in new(**tensors(none)).values())

  def test_other_inputs_and_texts_are_kept(self, exports, tmp_path):
    _, model = exports["gelu"]
    path = export(model, "classification", tmp_path / "run",
                  export_five_inputs=True, export_fixed_length=True,
                  export_text_inputs=True)
    target, report = compiled(path, tmp_path / "out")
    assert report["shape"] == [None, LENGTH]
    old, new = signatures(path), signatures(target)
    assert set(old) == set(new) == {
        "serving_default", "serve_examples", "serve_texts"}
    rows = export_helpers_test.token_rows(model.vocab_size, LENGTH)
    more = {name: tf.zeros([3], tf.int32)
            for name in ("label_ids", "is_real_example")}
    specs = new["serving_default"].structured_input_signature[1]
    assert specs == old["serving_default"].structured_input_signature[1]
    assert_same("classification", rows,
                new["serving_default"](**tensors(rows), **more),
                old["serving_default"](**tensors(rows), **more))
    texts = dict(text_a=tf.constant(["the film was good", "a"]),
                 text_b=tf.constant(["", "bad food " * 9]))
    assert_same("classification", rows, new["serve_texts"](**texts),
                old["serve_texts"](**texts))

  @pytest.mark.parametrize("pooling", ["mean", "max"])
  def test_windows_are_pooled(self, pooling, exports, tmp_path):
    _, model = exports["gelu"]
    made = []

    def build(input_ids, input_mask, segment_ids):
      *_, logits, probabilities = run_classifier.create_model(
          model.config, False, input_ids, input_mask, segment_ids,
          tf.zeros(tf.shape(input_ids)[:1], tf.int32), 3, False)
      made.append(logits)
      return {"probabilities": probabilities}

    path = export(
        model, "classification", tmp_path / "run", build,
        lambda texts: {"probabilities": tf.nn.softmax(window_helpers.pool(
            made[-1], texts, pooling))},
        doc_stride=4, max_windows=3, window_pooling=pooling)
    target, _ = compiled(path, tmp_path / "out")
    items = ["good film " * 20, "bad", ("dull " * 3, "great " * 30)]
    found, expected = (predictor.load(x)(items) for x in (target, path))
    assert len({answer["label"] for answer in expected}) > 1 or (
        np.ptp([answer["probability"] for answer in expected]) > 0.01)
    for one, other in zip(found, expected):
      assert one["probabilities"] == pytest.approx(
          other["probabilities"], abs=1e-5)
    with pytest.raises(ValueError, match="--batch_size=2 does not work with"):
      compiled(path, tmp_path / "no", batch_size=2)
    with pytest.raises(ValueError, match="--format=onnx does not work with a "):
      compiled(path, tmp_path / "no", format="onnx")


@pytest.mark.slow
class GoogleTest:
  """SavedModels as Google's scripts make them, with the Neuron document."""

  @pytest.fixture(scope="class", params=["classification", "squad"])
  def exported(self, request, exports, tmp_path_factory):
    """(kind, folder, TinyModel); gelu is written with a power."""
    kind = request.param
    folder = tmp_path_factory.mktemp("google")
    model = exports["gelu"][1]
    export_helpers_test.save_model(model, kind, str(folder / "model.ckpt-7"))
    more = (["unique_ids"] if kind == "squad" else
            ["label_ids", "is_real_example"])

    def power_gelu(x):
      return x * 0.5 * (1.0 + tf.tanh(
          np.sqrt(2 / np.pi) * (x + 0.044715 * tf.pow(x, 3))))

    def model_fn(features, labels, mode):
      del labels
      ids = [features[name] for name in IDS]
      if kind == "squad":
        start, end = run_squad.create_model(model.config, False, *ids, False)
        outputs = {"unique_ids": features["unique_ids"], "start_logits": start,
                   "end_logits": end}
      else:
        outputs = {"probabilities": run_classifier.create_model(
            model.config, False, *ids, features["label_ids"], 3, False)[-1]}
      return tf.estimator.EstimatorSpec(mode, predictions=outputs)

    def receiver():
      features = {name: tf.compat.v1.placeholder(
          tf.int32, [None, LENGTH], name) for name in IDS}
      features.update({name: tf.compat.v1.placeholder(
          tf.int32, [None], name) for name in more})
      return tf.estimator.export.build_raw_serving_input_receiver_fn(
          features)()

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(modeling, "gelu", power_gelu)
      path = tf.estimator.Estimator(
          model_fn, str(folder)).export_saved_model(
              str(folder / "export"), receiver)
    return kind, path.decode(), model, more

  def test_it_is_rebuilt(self, exported, tmp_path):
    kind, path, model, more = exported
    target, report = compiled(path, tmp_path / "out")
    assert report["model"]["activation"] == "gelu"
    assert not list((tmp_path / "out").glob("assets/*"))
    rows = export_helpers_test.token_rows(model.vocab_size, LENGTH)
    extra = {name: tf.constant([7, 8, 9], tf.int32) for name in more}
    found, expected = (
        dict(signatures(x)["serving_default"](**tensors(rows), **extra))
        for x in (target, path))
    if kind == "squad":
      assert found.pop("unique_ids").numpy().tolist() == [7, 8, 9]
      expected.pop("unique_ids")
    assert_same(kind, rows, found, expected)
    with pytest.raises(ValueError, match="--sequence_length=5: .* for 12"):
      compiled(path, tmp_path / "no", sequence_length=5)
    with pytest.raises(ValueError, match="has no vocabulary in its assets"):
      compiled(path, tmp_path / "no", sample_file="x.tsv")

  def test_the_server_takes_it(self, exported):
    kind, path, model, more = exported
    served = serving_models.Model(
        "a", 1, path, serving_batches.Options(2, 0.0, 1, 64, None, None),
        serving_signatures.Limits(64, 100), 0).signature("")
    rows = export_helpers_test.token_rows(model.vocab_size, LENGTH)
    extra = {name: np.array([7, 8, 9], np.int32) for name in more}
    queue = serving_batches.Queue(64)
    found, _, _ = served.call({**rows, **extra}, queue, None)
    expected = dict(signatures(path)["serving_default"](
        **tensors({**rows, **extra})))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
      np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)
    served.call(rows, queue, None)  # Nothing reads the others.


class GraphTest:

  def test_products_are_fused_and_weights_are_variables(
      self, exports, tmp_path):
    path, _ = exports["gelu"]
    target, _ = compiled(path, tmp_path / "out")
    (meta_graph,) = loader_impl.parse_saved_model(target).meta_graphs
    nodes = meta_graph.graph_def.node
    # Of a layer 4, and of the last the query alone; pooler and output layer.
    assert len([x for x in nodes if x.op == "MatMul"]) == 4 + 5 + 2
    assert not [x for x in nodes if x.op in ("TruncatedNormal", "OneHot")]
    assert all(np.prod(tf.make_ndarray(x.attr["value"].tensor).shape) < 50
               for x in nodes
               if x.op == "Const" and "/Initializer/" not in x.name)
    read = tf.train.load_checkpoint(f"{target}/variables/variables").get_tensor
    old = tf.train.load_checkpoint(f"{path}/variables/variables").get_tensor
    start = "bert/encoder/layer_0/attention/self"
    for part in ("kernel", "bias"):
      np.testing.assert_allclose(
          read(f"compiled/layer_0/query_key_value/{part}"), np.concatenate([
              old(f"{start}/query/{part}") / 4, old(f"{start}/key/{part}"),
              old(f"{start}/value/{part}")], -1), rtol=1e-6)


@pytest.mark.slow
class PrecisionTest:

  @pytest.mark.parametrize("values,tolerance", [
      (dict(dtype="bfloat16"), 0.05), (dict(dtype="float16"), 2e-3),
      (dict(crude_gelu=True), 0.05),
      (dict(dtype="bfloat16", aggressive_optimizations=True), 0.1)])
  def test_outputs_are_near_and_sizes_smaller(
      self, values, tolerance, exports, tmp_path):
    path, model = exports["gelu"]
    target, report = compiled(path, tmp_path / "out", **values)
    rows = export_helpers_test.token_rows(model.vocab_size, LENGTH)
    found, expected = (np.array(signatures(x)["serving_default"](
        **tensors(rows))["probabilities"]) for x in (target, path))
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < tolerance
    assert 0 < report["largest_difference"] < tolerance
    assert report["label_agreement"] > 0.9
    reader = tf.train.load_checkpoint(f"{target}/variables/variables")
    dtype = tf.as_dtype(values.get("dtype", "float32"))
    types_ = reader.get_variable_to_dtype_map()
    assert types_["compiled/layer_1/key_value/kernel"] == dtype
    assert types_["compiled/layer_1/output_norm/gamma"] == tf.float32
    assert types_["compiled/embeddings/word_embeddings"] == tf.float32
    info = export_helpers.read_info(target)
    assert info["precision"] == {"float32": "fp32", "bfloat16": "bf16",
                                 "float16": "fp16"}[dtype.name]
    assert info["compiled"]["dtype"] == dtype.name
    assert info["labels"] == ["a", "b", "c"]


class ShapeTest:

  def test_dimensions_are_fixed(self, exports, tmp_path):
    path, model = exports["gelu"]
    target, report = compiled(
        path, tmp_path / "out", batch_size=3, sequence_length=LENGTH)
    serve = signatures(target)["serving_default"]
    assert report["batch_size"] == 3
    assert {tuple(spec.shape) for spec in
            serve.structured_input_signature[1].values()} == {(3, LENGTH)}
    rows = export_helpers_test.token_rows(model.vocab_size, LENGTH)
    assert_same("classification", rows, serve(**tensors(rows)),
                signatures(path)["serving_default"](**tensors(rows)))
    items = ["good", "bad film", "the food was awful", "a"]
    found, expected = (predictor.load(x)(items) for x in (target, path))
    for one, other in zip(found, expected):
      assert one["probabilities"] == pytest.approx(
          other["probabilities"], abs=1e-5)


@pytest.mark.slow
class ReportTest:

  def test_numbers_are_those_of_the_two_models(self, exports, tmp_path):
    path, model = exports["answers"]
    target, report = compiled(path, tmp_path / "out", dtype="bfloat16")
    source = compile_reader.Source(path)
    rows = compile_check.read_samples(None, source).rows
    assert report["rows"] == len(rows) == 64
    assert report["model"]["heads"] == 16
    one, other = (runner_helpers.load_runner(x) for x in (path, target))
    difference, same = 0.0, []
    for row in rows:
      feed = predictor.batch_of_rows([row], one.specs)
      first, second = one.run(feed), other.run(feed)
      for name in ("start_logits", "end_logits"):
        difference = max(difference, np.abs(first[name] - second[name]).max())
        same.append(first[name].argmax() == second[name].argmax())
    assert report["largest_difference"] == pytest.approx(difference, rel=0.2)
    assert report["label_agreement"] == pytest.approx(np.mean(same), abs=0.02)
    spent = report["ms_per_batch"]
    assert 0 < report["speed_ratio"] < 100
    assert spent["input"] > 0 and spent["output"] > 0

  def test_texts_of_the_user_are_taken(self, exports, tmp_path):
    (tmp_path / "a.tsv").write_text("the film\nbad food\tgood food\n\n")
    (tmp_path / "b.jsonl").write_text(
        '{"question": "what?", "context": "the film was good"}\n')
    _, report = compiled(exports["gelu"][0], tmp_path / "1",
                         sample_file=str(tmp_path / "a.tsv"))
    assert report["rows"] == 2
    _, report = compiled(exports["answers"][0], tmp_path / "2",
                         sample_file=str(tmp_path / "b.jsonl"))
    assert report["rows_from"] == str(tmp_path / "b.jsonl")

  def test_a_model_that_is_another_one_is_not_written(
      self, exports, tmp_path, monkeypatch):
    monkeypatch.setattr(compile_graph, "_LAYER_NORM_EPSILON", 0.1)
    with pytest.raises(ValueError, match="more than rounding explains"):
      compiled(exports["gelu"][0], tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
class OnnxTest:

  @pytest.mark.parametrize("name", ["gelu", "tanh", "relu"])
  def test_it_gives_what_the_export_does(self, name, exports, tmp_path):
    path, model = exports[name]
    target, report = compiled(path, tmp_path / "out", format="onnx")
    assert sorted(os.listdir(target)) == [
        "assets", "compile_report.json", "model.onnx"]
    assert report["largest_difference"] < 1e-5
    old, new = (runner_helpers.load_runner(x) for x in (path, target))
    assert {key: spec.shape.as_list() for key, spec in new.specs.items()} == {
        key: [None, None] for key in IDS}
    for length in (LENGTH, 30):
      rows = export_helpers_test.token_rows(model.vocab_size, length)
      assert_same(MODELS[name][0], rows, new.run(rows), old.run(rows))

  def test_predictor_answers_with_it(self, exports, tmp_path):
    path, _ = exports["answers"]
    compiled(path, tmp_path / "out", format="onnx")
    item = ("what was good?", "the film was good and the food bad")
    found, expected = (predictor.load(str(x))(item)
                       for x in (tmp_path / "out", path))
    assert found["answer"] == expected["answer"]
    assert found["probability"] == pytest.approx(
        expected["probability"], abs=1e-4)
    with pytest.raises(ValueError, match="has no signature serve_windows"):
      runner_helpers.load_runner(str(tmp_path / "out"), "serve_windows")
    with pytest.raises(ValueError, match="is an ONNX model"):
      compiled(tmp_path / "out", tmp_path / "again")
    (tmp_path / "out").rename(tmp_path / "3")
    assert export_helpers.find_export(str(tmp_path)) == str(tmp_path / "3")

  def test_static_shapes_keep_their_padding(self, exports, tmp_path):
    path, model = exports["gelu"]
    target, _ = compiled(path, tmp_path / "out", format="onnx", batch_size=3,
                         sequence_length=LENGTH)
    rows = export_helpers_test.token_rows(model.vocab_size, LENGTH)
    old, new = (runner_helpers.load_runner(x) for x in (path, target))
    assert_same("classification", rows, new.run(rows), old.run(rows))
    new.close()
    new.close()
    with pytest.raises(ValueError, match="closed"):
      new.run(rows)

  @pytest.mark.parametrize("module", ["tf2onnx", "onnx", "onnxruntime"])
  def test_missing_packages_are_named(
      self, module, exports, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"pip install .*{module}"):
      compiled(exports["gelu"][0], tmp_path / "out", format="onnx")


class RefusedTest:

  @pytest.mark.parametrize("values,message", [
      (dict(sequence_length=65), "--sequence_length=65"),
      (dict(sequence_length=5), "rows of max_seq_length=12 tokens"),
      (dict(format="onnx", dtype="bfloat16"), "--dtype=bfloat16 does not work"),
      (dict(sample_file="/nowhere.tsv"), "--sample_file=/nowhere.tsv is not "),
      (dict(input_saved_model="/nowhere"), "=/nowhere has no exported model")])
  def test_flags(self, values, message, exports, tmp_path):
    with pytest.raises(ValueError, match=message):
      compiled(exports["gelu"][0], tmp_path / "out",
               **values) if "input_saved_model" not in values else (
                   compiled(values["input_saved_model"], tmp_path / "out"))
    assert not list(tmp_path.iterdir())

  def test_lines_that_are_no_texts(self, exports, tmp_path):
    for name, content in (("a.tsv", "a\tb\tc\n"), ("b.jsonl", "{\n"),
                          ("c.tsv", "")):
      (tmp_path / name).write_text(content)
      with pytest.raises(ValueError, match=f"--sample_file=.*{name}"):
        compiled(exports["gelu"][0], tmp_path / "out",
                 sample_file=str(tmp_path / name))

  def test_gelu_of_others_compiled_models_and_what_is_no_bert(
      self, exports, tmp_path):
    with pytest.raises(ValueError, match="--crude_gelu is for models with ge"):
      compiled(exports["relu"][0], tmp_path / "out", crude_gelu=True)
    target, _ = compiled(exports["gelu"][0], tmp_path / "compiled")
    with pytest.raises(ValueError, match="is compiled already"):
      compiled(target, tmp_path / "out")
    tf.saved_model.save(tf.Module(), str(tmp_path / "module"))
    with pytest.raises(ValueError, match="has no signature serving_default"):
      compiled(tmp_path / "module", tmp_path / "out")
    export_helpers_test.save_toy(str(tmp_path / "model.ckpt-1"), 1)
    args = export_helpers_test.export_flags(tmp_path)
    export_helpers.check(args)
    export_helpers.export(args, export_helpers_test.build_toy, {
        "kind": "classification", "do_lower_case": True, "labels": ["a"]},
                          exports["gelu"][1].vocab_file)
    with pytest.raises(ValueError, match="is not a BERT of this project"):
      compiled(tmp_path / "export", tmp_path / "out")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"\x07broken")
    with pytest.raises(ValueError, match="saved_model.pb can't be read"):
      compiled(tmp_path / "broken", tmp_path / "out")
    assert not (tmp_path / "out").exists()

  def test_activation_that_is_not_known(self, exports, tmp_path):
    model = exports["gelu"][1]
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(modeling, "gelu", tf.nn.elu)
      path = export(model, "classification", tmp_path / "run")
    with pytest.raises(ValueError, match="computes Elu"):
      compiled(path, tmp_path / "out")


@pytest.mark.slow
class MainTest:

  def test_command_prints_the_report_and_keeps_what_exists(
      self, exports, tmp_path):
    path, _ = exports["gelu"]
    (tmp_path / "a b").mkdir()
    target = tmp_path / "a b" / "out"
    run = conftest.run_script(
        "demo.compile_model", f"--input_saved_model={pathlib.Path(path).parent}",
        f"--output_saved_model={target}", "--dtype=bfloat16")
    assert run.returncode == 0, run.stdout
    for text in ("Largest difference: ", "Same answers: ", "times as fast",
                 "Processor: ", "2 layers, width 32, 2 heads of 16, gelu"):
      assert text in run.stdout, run.stdout
    before = {p: p.read_bytes() for p in target.rglob("*") if p.is_file()}
    for values, message in (
        ([], "exists already"), (["--dtype=int8"], "--dtype=int8")):
      run = conftest.run_script(
          "demo.compile_model", f"--input_saved_model={path}",
          f"--output_saved_model={target}", *values)
      assert run.returncode == 1 and message in run.stdout, run.stdout
      assert "Traceback" not in run.stdout
    assert before == {
        p: p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert [p.name for p in (tmp_path / "a b").iterdir()] == ["out"]
