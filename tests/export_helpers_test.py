"""Tests of demo/export_helpers.py: what it writes is what was trained."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port

from demo import checkpoint_helpers
from demo import checkpoints
from demo import export_helpers
from demo import text_op_helpers
from demo import window_helpers
import run_classifier
import run_squad
import tokenization
from tests import conftest

HEADS = {
    "classification": {"output_weights": [3, 32], "output_bias": [3]},
    "regression": {"output_weights": [1, 32], "output_bias": [1]},
    "squad": {"cls/squad/output_weights": [2, 32],
              "cls/squad/output_bias": [2]}}


def export_flags(output_dir, **values):
  """Parsed flags of a script, as far as an export needs them."""
  return types.SimpleNamespace(**{
      **dict(output_dir=str(output_dir), export_dir=None, do_export=True,
             do_train=False, continuous_eval=False, checkpoint_path=None,
             eval_every_steps=0, max_seq_length=12, export_five_inputs=False,
             export_fixed_length=False, export_text_inputs=False), **values})


def save_model(model, kind, prefix, step=7):
  """Writes a fine-tuned checkpoint with wide random weights."""
  rng = np.random.RandomState(step)
  variables = conftest.random_variables(model.config, seed=step)
  for name, shape in HEADS[kind].items():
    shape = shape[:1] + [model.config.hidden_size] * len(shape[1:])
    variables[name] = rng.normal(0.0, 0.5, shape).astype(np.float32)
  variables["global_step"] = np.int64(step)
  checkpoints.save_checkpoint(variables, prefix)
  name_newest(prefix)


def name_newest(prefix):
  """Makes a checkpoint the newest one of its folder."""
  pathlib.Path(prefix).with_name("checkpoint").write_text(
      f'model_checkpoint_path: "{os.path.basename(prefix)}"\n')


def build_function(model, kind):
  """The function of ids that builds the model."""
  def build(input_ids, input_mask, segment_ids):
    ids = (input_ids, input_mask, segment_ids)
    if kind == "squad":
      return dict(zip(("start_logits", "end_logits"), run_squad.create_model(
          model.config, False, *ids, False)))
    is_regression = kind == "regression"
    return {"probabilities": run_classifier.create_model(
        model.config, False, *ids,
        tf.zeros(tf.shape(input_ids)[:1],
                 tf.float32 if is_regression else tf.int32),
        1 if is_regression else 3, False, is_regression=is_regression)[-1]}
  return build


def token_rows(vocab_size, length):
  """name -> int32 [3, length], rows of several lengths."""
  rng = np.random.RandomState(length)
  mask = np.arange(length) < np.array([[length], [length - 2], [3]])
  return {name: array.astype(np.int32) for name, array in (
      ("input_ids", rng.randint(0, vocab_size, [3, length]) * mask),
      ("input_mask", mask), ("segment_ids", (np.arange(length) > 4) * mask))}


def as_examples(rows):
  """The rows as serialized tf.train.Examples, with a label more."""
  def feature(values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
  return tf.constant([
      tf.train.Example(features=tf.train.Features(feature={
          "label_ids": feature([0]),
          **{name: feature(array[i]) for name, array in rows.items()}}))
      .SerializeToString() for i in range(len(rows["input_ids"]))])


def expected_outputs(build, checkpoint, all_rows):
  """What the model gives for each of some rows in a graph of its own."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    inputs = {name: tf.compat.v1.placeholder(tf.int32, [None, None])
              for name in all_rows[0]}
    outputs = build(**inputs)
    tf.compat.v1.train.Saver(tf.compat.v1.global_variables()).restore(
        session, checkpoint)
    return [session.run(outputs, {inputs[name]: rows[name] for name in rows})
            for rows in all_rows]


@pytest.fixture(scope="module")
def exported(tiny_model, tmp_path_factory):
  """kind -> (folder of its export, prefix of its checkpoint)."""
  found = {}
  for kind in HEADS:
    folder = tmp_path_factory.mktemp("exported") / kind
    folder.mkdir()
    prefix = str(folder / "model.ckpt-7")
    save_model(tiny_model, kind, prefix)
    args = export_flags(folder, doc_stride=4)
    export_helpers.check(args)
    export_helpers.export(
        args, build_function(tiny_model, kind),
        {"task": kind, "labels": ["ä", "b"]}, tiny_model.vocab_file,
        tiny_model.bert_config_file)
    (path,) = (folder / "export").iterdir()
    found[kind] = path, prefix
  return found


class ExportTest:

  @pytest.mark.parametrize("kind", sorted(HEADS))
  def test_both_signatures_give_what_the_model_does(
      self, kind, exported, tiny_model):
    path, prefix = exported[kind]
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    serve_examples = loaded.signatures["serve_examples"]
    all_rows = [token_rows(tiny_model.vocab_size, length)
                for length in (12, 5)]  # 12 is --max_seq_length.
    for rows, expected in zip(all_rows, expected_outputs(
        build_function(tiny_model, kind), prefix, all_rows)):
      found = [serve(**{name: tf.constant(array)
                        for name, array in rows.items()})]
      if rows is all_rows[0]:
        found.append(serve_examples(examples=as_examples(rows)))
      for outputs in found:
        assert set(outputs) == set(expected)
        for name, array in expected.items():
          np.testing.assert_allclose(outputs[name], array, rtol=0, atol=1e-5)
      assert all(np.ptp(array) > 0.05 for array in expected.values())

    inputs = serve.structured_input_signature[1]
    assert {name: (spec.dtype, spec.shape.as_list())
            for name, spec in inputs.items()} == {
                name: (tf.int32, [None, None])
                for name in ("input_ids", "input_mask", "segment_ids")}
    (examples,) = serve_examples.structured_input_signature[1].values()
    assert examples.dtype == tf.string and examples.shape.as_list() == [None]
    columns = {"classification": 3, "regression": 1, "squad": None}[kind]
    assert {tuple(spec.shape) for spec in serve.structured_outputs.values()
            } == {(None, columns)}
    # No weight became a constant, and nothing of the training is there.
    assert {var.name for var in loaded.variables} == {
        f"{name}:0" for name, _ in tf.train.list_variables(prefix)
        if name != "global_step"}

  def test_assets_tell_how_to_use_it_and_survive_a_copy(
      self, exported, tiny_model, tmp_path):
    shutil.copytree(exported["squad"][0], tmp_path / "1")
    assets = tmp_path / "1" / "assets"
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    assert {pathlib.Path(asset.asset_path.numpy().decode())
            for asset in loaded.asset_paths} == set(assets.iterdir())
    for name, path in (("vocab.txt", tiny_model.vocab_file),
                       ("bert_config.json", tiny_model.bert_config_file)):
      assert (assets / name).read_bytes() == pathlib.Path(path).read_bytes()
    info = json.loads((assets / "model_info.json").read_text())
    assert len(info.pop("program")) == len("sha256 ") + 12
    assert info == {
        "task": "squad", "labels": ["ä", "b"], "max_seq_length": 12,
        "doc_stride": 4, "precision": "fp32", "checkpoint": "model.ckpt-7",
        "global_step": 7, "text_ops": False, "tensorflow": tf.__version__}


class WindowsTest:
  """Of a toy whose logits are the two first ids of a window, mean-pooled."""

  @pytest.fixture(scope="class")
  def signatures(self, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    save_toy(str(folder / "model.ckpt-0"), 0)
    args = export_flags(folder, max_seq_length=3)
    export_helpers.check(args)
    made = {}

    def build(input_ids, **inputs):
      del inputs
      made["y"] = tf.cast(
          input_ids[:, :2], tf.float32) + tf.compat.v1.get_variable("bias", [1])
      return made

    export_helpers.export(
        args, build, {}, tiny_model.vocab_file, pool_outputs=lambda texts: {
            "y": window_helpers.pool(made["y"], texts, "mean")})
    (path,) = (folder / "export").iterdir()
    return tf.saved_model.load(str(path)).signatures

  IDS = np.array([[1, 2, 3], [5, 6, 0], [7, 7, 7]], np.int32)

  def windows(self, signatures, texts):
    ids = tf.constant(self.IDS[:len(texts)])
    return signatures["serve_windows"](
        input_ids=ids, input_mask=tf.ones_like(ids), segment_ids=ids,
        texts=tf.constant(texts, tf.int32))["y"].numpy().tolist()

  def examples(self, signatures, *counts):
    records = []
    for count in counts:
      ids = tf.train.Feature(int64_list=tf.train.Int64List(
          value=self.IDS[:count].ravel()))
      ones = tf.train.Feature(int64_list=tf.train.Int64List(
          value=[1] * 3 * count))
      records.append(tf.train.Example(features=tf.train.Features(feature={
          "input_ids": ids, "input_mask": ones, "segment_ids": ids,
          "label_ids": ids})).SerializeToString())
    return signatures["serve_examples"](
        examples=tf.constant(records, tf.string))["y"].numpy().tolist()

  def test_texts_are_numbered_as_the_client_likes(self, signatures):
    assert signatures["serve_windows"].structured_input_signature[1][
        "texts"] == tf.TensorSpec([None], tf.int32, "texts")
    assert self.windows(signatures, [0, 0, 1]) == [[3, 4], [7, 7]]
    assert self.windows(signatures, [-4, 8, 8]) == [[1, 2], [6, 6.5]]
    assert self.windows(signatures, []) == []

  def test_records_of_several_lengths(self, signatures):
    assert self.examples(signatures, 3, 1) == [
        [pytest.approx(13 / 3), 5], [1, 2]]
    assert self.examples(signatures) == []

  def test_what_would_be_mixed_up_is_refused(self, signatures):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must not fall"):
      self.windows(signatures, [0, 1, 0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="begins with a "):
      self.examples(signatures, 2, 0)
    with pytest.raises(tf.errors.InvalidArgumentError):
      signatures["serve_windows"](
          **{name: tf.constant(self.IDS) for name in (
              "input_ids", "input_mask", "segment_ids")},
          texts=tf.constant([0, 1]))

  def test_a_row_alone_is_a_window(self, signatures):
    ids = tf.constant(self.IDS)
    found = signatures["serving_default"](
        input_ids=ids, input_mask=ids, segment_ids=ids)["y"]
    np.testing.assert_array_equal(found, self.IDS[:, :2])


def save_toy(prefix, step):
  """Writes a checkpoint of the model of `build_toy`."""
  checkpoints.save_checkpoint(
      {"bias": np.float32([step]), "global_step": np.int64(step)}, prefix)
  name_newest(prefix)


def build_toy(input_ids, **inputs):
  """A model of one variable, for what has nothing to do with BERT."""
  del inputs
  return {"y": tf.cast(input_ids, tf.float32) +
               tf.compat.v1.get_variable("bias", [1])}


class CheckpointTest:

  def test_newest_best_or_named_one_is_taken(self, tiny_model, tmp_path):
    save_toy(str(tmp_path / "model.ckpt-9"), 9)
    best = pathlib.Path(checkpoint_helpers.best_dir(str(tmp_path)))
    best.mkdir()
    save_toy(str(best / "model.ckpt-4"), 4)
    (best / "info.json").write_text('{"step": 4}')
    for step, values in (
        (9, {}), (4, {"eval_every_steps": 2}),
        (4, {"checkpoint_path": str(best / "model.ckpt-4")})):
      args = export_flags(tmp_path, **values)
      export_helpers.check(args)
      export_helpers.export(args, build_toy, {}, tiny_model.vocab_file)
      path = max((tmp_path / "export").iterdir())  # Names rise.
      names = {asset.name for asset in (path / "assets").iterdir()}
      assert names == {"vocab.txt", "model_info.json"}
      assert json.loads((path / "assets" / "model_info.json").read_text())[
          "global_step"] == step
      (bias,) = tf.saved_model.load(str(path)).variables
      assert bias.numpy() == [step]


class WholeTest:

  def test_failed_export_leaves_nothing_and_earlier_ones_are_kept(
      self, tiny_model, tmp_path, monkeypatch):
    save_toy(str(tmp_path / "model.ckpt-7"), 7)
    args = export_flags(tmp_path)
    export_helpers.check(args)
    export_helpers.export(args, build_toy, {}, tiny_model.vocab_file)
    (path,) = (tmp_path / "export").iterdir()
    before = sorted(p.read_bytes() for p in path.rglob("*") if p.is_file())
    (tmp_path / "export" / "12.tmp").mkdir()  # What a killed run leaves.

    def save(builder, as_text=False):
      del builder, as_text
      assert list((tmp_path / "export").glob("*.tmp/variables/*"))
      raise OSError("disk full")

    monkeypatch.setattr(tf.compat.v1.saved_model.Builder, "save", save)
    with pytest.raises(OSError):
      export_helpers.export(args, build_toy, {}, tiny_model.vocab_file)
    assert list((tmp_path / "export").iterdir()) == [path]
    assert before == sorted(
        p.read_bytes() for p in path.rglob("*") if p.is_file())

  def test_names_rise_though_clocks_are_set_back(
      self, tiny_model, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    args = export_flags(tmp_path, export_dir=str(folder))
    save_toy(str(tmp_path / "model.ckpt-7"), 7)
    export_helpers.check(args)
    for now in (50.9, 50.1, 20.0):
      monkeypatch.setattr(export_helpers.time, "time", lambda now=now: now)
      export_helpers.export(args, build_toy, {}, tiny_model.vocab_file)
    assert sorted(p.name for p in folder.iterdir()) == ["50", "51", "52"]


class CheckTest:

  def test_model_that_is_not_there_is_refused(self, tmp_path):
    with pytest.raises(ValueError, match="has no checkpoint of a trained"):
      export_helpers.check(export_flags(tmp_path))
    with pytest.raises(ValueError, match="--checkpoint_path=/nowhere"):
      export_helpers.check(export_flags(tmp_path, checkpoint_path="/nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--export_dir=.*file/x can't be "):
      export_helpers.check(export_flags(
          tmp_path, do_train=True, export_dir=str(tmp_path / "file" / "x")))
    assert {path.name for path in tmp_path.iterdir()} == {"file"}

  def test_nothing_is_made_without_the_flag(self, tmp_path):
    export_helpers.check(export_flags(tmp_path, do_export=False))
    assert not list(tmp_path.iterdir())


class OptionalInputsTest:

  @pytest.fixture(scope="class")
  def signatures(self, tiny_model, exported, tmp_path_factory):
    """Of the classification model with all that flags add, and that without."""
    folder = tmp_path_factory.mktemp("optional")
    path, prefix = exported["classification"]
    args = export_flags(
        folder, checkpoint_path=prefix, export_five_inputs=True,
        export_fixed_length=True, export_text_inputs=True)
    export_helpers.check(args)
    export_helpers.export(
        args, build_function(tiny_model, "classification"),
        {"kind": "classification", "labels": ["a", "b"],
         "do_lower_case": True}, tiny_model.vocab_file)
    (version,) = (folder / "export").iterdir()
    assert export_helpers.read_info(str(version))["text_ops"] is True
    return (export_helpers.load_export(str(version)).signatures,
            tf.saved_model.load(str(path)).signatures)

  def test_five_inputs_of_which_two_are_not_read(self, signatures, tiny_model):
    serve = signatures[0]["serving_default"]
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in
            serve.structured_input_signature[1].items()} == {
                **{name: (tf.int32, [None, 12]) for name in (
                    "input_ids", "input_mask", "segment_ids")},
                "label_ids": (tf.int32, [None]),
                "is_real_example": (tf.int32, [None])}
    rows = {name: tf.constant(array) for name, array in
            token_rows(tiny_model.vocab_size, 12).items()}
    expected = signatures[1]["serving_default"](**rows)["probabilities"]
    for value in (0, 77):
      more = tf.fill([3], value)
      found = serve(label_ids=more, is_real_example=more, **rows)
      np.testing.assert_allclose(
          found["probabilities"], expected, rtol=0, atol=1e-6)
    examples = as_examples({name: array.numpy()
                            for name, array in rows.items()})
    np.testing.assert_allclose(
        signatures[0]["serve_examples"](examples=examples)["probabilities"],
        expected, rtol=0, atol=1e-6)

  def test_texts_give_what_their_tokens_do(self, signatures, tiny_model):
    words = "The film was Good, naïve! ROOM staff 3.5 don't plot".split()
    rng = np.random.RandomState(0)
    pairs = [tuple(" ".join(rng.choice(words, max(rng.randint(low, 9), 0)))
                   for low in (0, -4)) for _ in range(40)]
    pairs += [("", ""), (" ", " "), ("good " * 30, "a"), ("a", "bad " * 30)]
    tokenizer = tokenization.FullTokenizer(tiny_model.vocab_file, True)
    features = [run_classifier.convert_single_example(
        9, run_classifier.InputExample("", a, b or None, "0"), ["0"], 12,
        tokenizer) for a, b in pairs]
    expected = signatures[1]["serving_default"](**{
        name: tf.constant([getattr(x, name) for x in features], tf.int32)
        for name in ("input_ids", "input_mask", "segment_ids")})
    found = signatures[0]["serve_texts"](
        text_a=tf.constant([a for a, _ in pairs]),
        text_b=tf.constant([b for _, b in pairs]))
    assert len(np.unique(expected["probabilities"].numpy()[:, 0])) > 20
    np.testing.assert_allclose(
        found["probabilities"], expected["probabilities"], rtol=0, atol=1e-6)
    short = signatures[0]["serve_texts"](
        text_a=tf.constant(["", ""]), text_b=tf.constant(["", ""]))
    np.testing.assert_allclose(
        short["probabilities"], expected["probabilities"][40:42].numpy(),
        rtol=0, atol=1e-6)

  def test_models_that_texts_do_not_fit_are_refused(self, tmp_path):
    for values, message in (
        (dict(max_query_length=64, doc_stride=128), "with SQuAD models: ans"),
        (dict(doc_stride=8), "with --doc_stride: texts are split")):
      with pytest.raises(ValueError, match=message):
        export_helpers.check(export_flags(
            tmp_path, do_train=True, export_text_inputs=True, **values))

  def test_what_is_missing_is_said_before_training(
      self, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    with pytest.raises(ValueError, match="pip install --no-deps tensorflow-te"):
      export_helpers.check(export_flags(
          tmp_path, do_train=True, export_text_inputs=True))
    assert not list(tmp_path.iterdir())


class WithoutThisProjectTest:

  PROGRAM = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
rows = {k: tf.constant(v, tf.int32) for k, v in json.load(sys.stdin).items()}
print(json.dumps(model.signatures["serving_default"](**rows)[
    "probabilities"].numpy().tolist()))
assert not {"modeling", "demo"} & set(sys.modules)
"""

  def test_a_bare_process_gets_the_same_numbers(
      self, exported, tiny_model, tmp_path):
    path = exported["classification"][0]
    rows = token_rows(tiny_model.vocab_size, 12)
    run = subprocess.run(
        [sys.executable, "-I", "-c", self.PROGRAM, str(path)],
        input=json.dumps({name: x.tolist() for name, x in rows.items()}),
        stdout=subprocess.PIPE, text=True, cwd=tmp_path, check=True, env={
            name: value for name, value in os.environ.items()
            if name != "PYTHONPATH"})
    np.testing.assert_allclose(
        json.loads(run.stdout),
        tf.saved_model.load(str(path)).signatures["serving_default"](
            **{name: tf.constant(array) for name, array in rows.items()})[
                "probabilities"], rtol=0, atol=1e-6)

  def test_saved_model_cli_lists_it(self, exported):
    run = subprocess.run(
        [str(pathlib.Path(sys.executable).with_name("saved_model_cli")), "show",
         "--dir", str(exported["squad"][0]), "--all"],
        stdout=subprocess.PIPE, text=True, check=True)
    for name in ("serving_default", "serve_examples", "start_logits",
                 "segment_ids", "shape: (-1, -1)"):
      assert name in run.stdout


class FrozenTest:

  @pytest.mark.parametrize("kind", sorted(HEADS))
  def test_constants_for_variables_change_nothing(
      self, kind, exported, tiny_model):
    assert _pywrap_util_port.IsMklEnabled()
    rows = token_rows(tiny_model.vocab_size, 12)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      signature = tf.compat.v1.saved_model.load(
          session, ["serve"], str(exported[kind][0])).signature_def[
              "serving_default"]
      feed = {signature.inputs[name].name: rows[name] for name in rows}
      names = [tensor.name for _, tensor in sorted(signature.outputs.items())]
      live = session.run(names, feed)
      frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
          session, session.graph_def, [name.split(":")[0] for name in names])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      tf.graph_util.import_graph_def(frozen, name="")
      assert not [x for x in frozen.node if x.op.startswith("Var")]
      for found, expected in zip(session.run(names, feed), live):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


class TextOpsTest:
  """Where BertTokenizer of tensorflow-text differs from the scripts."""

  @pytest.mark.parametrize("do_lower_case", [True, False])
  def test_tokens_of_odd_texts_are_the_scripts(
      self, do_lower_case, tiny_model):
    texts = ["ΣΟΦΟΣ ΑΣ. Α.Σ", "Straße Ⅷ ³ ﬁ ｶﾅ", "a\ufffdb \ufffd", "a\x00b",
             "film\x07room a\u200bb", "a\u2028b a\x85b a\u00a0b\tc\nd",
             "中文字film", "é" * 200 + " good", "a" * 200, "a" * 201 + " b",
             "É è ñ Å İ ı", "x^2 `q` — “bad” $3.50", "\u0301", "[SEP] good"]
    tokenizer = tokenization.FullTokenizer(
        tiny_model.vocab_file, do_lower_case)
    found = text_op_helpers.rows_function(
        tiny_model.vocab_file, do_lower_case, 250)(
            tf.constant(texts), tf.constant([""] * len(texts)))["input_ids"]
    for text, row in zip(texts, found.numpy().tolist()):
      tokens = ["[CLS]", *tokenizer.tokenize(text)[:248], "[SEP]"]
      ids = tokenizer.convert_tokens_to_ids(tokens)
      assert row == ids + [0] * (len(row) - len(ids)), text
