"""Fixtures: a tiny model, tiny data sets, and a way to run the scripts."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

# Before TensorFlow is imported: tests use the CPU and print no banner.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow leaves oneDNN off on some processors; a frozen layer norm is to be
# right with it too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import pytest
import tensorflow as tf

import modeling
from demo import checkpoints
from demo import export_hub
from tests import forked_runs

# Ranks bound to cores would wait for what else is bound to the same ones, and
# waiting ranks would keep others from working.
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to",
          "none", "--mca", "mpi_yield_when_idle", "1", "-np"]
HOROVODRUN = [str(pathlib.Path(sys.executable).with_name("horovodrun")),
              "--gloo", "-np"]
needs_mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="no mpirun")

PROJECT = pathlib.Path(__file__).resolve().parent.parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ("the film book hotel was is very quite not and but good great bad "
         "awful lovely dull plot food room staff").split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
TINY_CONFIG = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=64, max_position_embeddings=64, type_vocab_size=2)


def shared_folder():
  """The recorded data, where this machine has it, else None."""
  for path in (os.environ.get("BERT_SHARED"), PROJECT.parent / "shared"):
    if path and (pathlib.Path(path) / "conformance").is_dir():
      return pathlib.Path(path)
  return None


@pytest.fixture(scope="session")
def shared():
  """The folder of recorded data; skips where it is absent."""
  folder = shared_folder()
  if folder is None:
    pytest.skip("no recorded data: neither $BERT_SHARED nor ../shared")
  return folder


class TinyModel(object):
  """Paths of a model with random weights: vocab, config, checkpoint."""

  def __init__(self, folder, **config):
    """`config`: values other than those of TINY_CONFIG."""
    vocab = SPECIAL + WORDS + list(LETTERS) + ["##" + x for x in LETTERS]
    self.folder = folder
    self.vocab_size = len(vocab)
    self.vocab_file = str(folder / "vocab.txt")
    self.bert_config_file = str(folder / "bert_config.json")
    self.init_checkpoint = str(folder / "bert_model.ckpt")
    (folder / "vocab.txt").write_text("".join(x + "\n" for x in vocab))
    self.config = modeling.BertConfig(
        self.vocab_size, **{**TINY_CONFIG, **config})
    (folder / "bert_config.json").write_text(self.config.to_json_string())
    checkpoints.save_checkpoint(
        random_variables(self.config), self.init_checkpoint)

  def flags(self, **overrides):
    """Command-line flags that name the model; None leaves one out."""
    values = dict(vocab_file=self.vocab_file, max_seq_length=32,
                  bert_config_file=self.bert_config_file,
                  init_checkpoint=self.init_checkpoint)
    values.update(overrides)
    return [f"--{name}={value}" for name, value in values.items()
            if value is not None]


def random_variables(config, seed=1):
  """name -> array of an encoder, drawn like its initial values but wider."""
  rng = np.random.RandomState(seed)
  with tf.Graph().as_default():
    modeling.BertModel(config, False, tf.zeros([1, 2], tf.int32))
    names = {var.op.name: var.shape.as_list()
             for var in tf.compat.v1.trainable_variables()}
  return {
      name: (np.ones(shape) if name.endswith("gamma") else
             rng.normal(0.0, 0.1, shape)).astype(np.float32)
      for name, shape in names.items()}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
  """A TinyModel that no test changes."""
  return TinyModel(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def hub_modules(tiny_model, tmp_path_factory):
  """Format of TensorFlow Hub ("tf1", "tf2") -> folder of the tiny model."""
  folder = tmp_path_factory.mktemp("hub_modules")
  found = {name: str(folder / name) for name in ("tf1", "tf2")}
  for name, path in found.items():
    export_hub.export(export_args(
        tiny_model, format=name, output_dir=path, do_lower_case=name == "tf1"))
  return found


def export_args(model, **overrides):
  """Flags of demo.export_hub for a TinyModel."""
  return types.SimpleNamespace(**{
      **dict(init_checkpoint=model.init_checkpoint, vocab_file=model.vocab_file,
             bert_config_file=model.bert_config_file, do_lower_case=True),
      **overrides})


def sentiment_rows(count, seed):
  """(sentence, label) rows that a tiny model learns: one word decides."""
  rng = np.random.RandomState(seed)
  rows = []
  for i in range(count):
    label = int(rng.randint(2))
    words = [str(rng.choice(WORDS[:12])) for _ in range(5)]
    words.insert(rng.randint(5), str(rng.choice(
        ["bad", "awful", "dull"] if label == 0 else
        ["good", "great", "lovely"])))
    rows.append((" ".join(words) + f" {i % 10}", str(label)))
  return rows


@pytest.fixture(scope="session")
def sst2_dir(tmp_path_factory):
  """An SST-2 folder: 256 training, 50 dev and 21 test rows."""
  folder = tmp_path_factory.mktemp("sst2")
  for name, count, seed in (("train", 256, 1), ("dev", 50, 2)):
    (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(
        f"{text}\t{label}\n" for text, label in sentiment_rows(count, seed)))
  (folder / "test.tsv").write_text("index\tsentence\n" + "".join(
      f"{i}\t{text}\n"
      for i, (text, _) in enumerate(sentiment_rows(21, 3))))
  return folder


def squad_articles(count, seed, version_2=False):
  """Questions that a tiny model learns: which of these words is there?

  Returns:
    dict, a SQuAD file of `count` questions, four to a paragraph; with
    `version_2` a fourth of the paragraphs has no answer.
  """
  rng = np.random.RandomState(seed)
  paragraphs = []
  for number in range(count // 4):
    words = [str(rng.choice(WORDS[:12])) for _ in range(14)]
    answer = str(rng.choice(["bad", "awful", "dull", "good", "great"]))
    place = int(rng.randint(14))
    impossible = version_2 and number % 4 == 3
    if not impossible:
      words[place] = answer
    start = len(" ".join(words[:place])) + (1 if place else 0)
    found = [] if impossible else [{"text": answer, "answer_start": start}]
    qas = [{"id": f"{seed}-{number}-{i}", "question": f"what is it {i}?",
            "answers": found} for i in range(4)]
    if version_2:
      for qa in qas:
        qa["is_impossible"] = impossible
    paragraphs.append({"context": " ".join(words), "qas": qas})
  return {"version": "2.0" if version_2 else "1.1",
          "data": [{"title": "Opinions", "paragraphs": paragraphs}]}


@pytest.fixture(scope="session")
def squad_dir(tmp_path_factory):
  """train.json and dev.json in SQuAD 1.1's form, train2 and dev2 in 2.0's."""
  folder = tmp_path_factory.mktemp("squad")
  for name, count, seed, version_2 in (
      ("train", 480, 1, False), ("dev", 80, 2, False),
      ("train2", 640, 3, True), ("dev2", 80, 4, True)):
    (folder / f"{name}.json").write_text(
        json.dumps(squad_articles(count, seed, version_2)))
  return folder


def corpus(num_documents, seed):
  """Text in which words and sentences depend on each other.

  Each document is about one thing, and what is said of a thing is the same in
  every document.

  Returns:
    string, a sentence a line, a blank line after each document.
  """
  rng = np.random.RandomState(seed)
  said = {"film": "good", "book": "dull", "hotel": "great", "plot": "bad",
          "food": "lovely", "room": "awful"}
  documents = []
  for _ in range(num_documents):
    thing = str(rng.choice(sorted(said)))
    documents.append("".join(
        f"the {thing} is {rng.choice(['very', 'quite', 'not', 'but'])} "
        f"{said[thing]} and {said[thing]}.\n"
        for _ in range(rng.randint(4, 9))))
  return "\n".join(documents)


def saved_step(folder):
  """The step that a training in this folder would go on from."""
  path = tf.train.latest_checkpoint(str(folder))
  return int(path.rsplit("-", 1)[1]) if path else 0


def events(folder):
  """tag -> [(step, value)] of a folder's TensorBoard files."""
  found = {}
  for path in sorted(pathlib.Path(folder).glob("events.out.tfevents.*")):
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      for value in event.summary.value:
        found.setdefault(value.tag, []).append(
            (event.step, value.simple_value))
  return found


def write_events(folder, points, start=0, begun=1000.0):
  """Writes a TensorBoard file as a training or an evaluation does.

  Args:
    folder: path; it is made.
    points: dict tag -> {step: value}.
    start: int, step that the training begins at or goes on from.
    begun: float, when; each step takes a second.

  Returns:
    string, the file.
  """
  with tf.Graph().as_default():  # The writer refuses to work eagerly.
    writer = tf.compat.v1.summary.FileWriter(
        str(folder), filename_suffix=f".{begun:g}")
  writer.add_event(tf.compat.v1.Event(
      step=start, wall_time=begun, session_log=tf.compat.v1.SessionLog(
          status=tf.compat.v1.SessionLog.CHECKPOINT)))
  for step in sorted({step for values in points.values() for step in values}):
    writer.add_event(tf.compat.v1.Event(
        step=step, wall_time=begun + step - start,
        summary=tf.compat.v1.Summary(value=[
            tf.compat.v1.Summary.Value(tag=tag, simple_value=values[step])
            for tag, values in points.items() if step in values])))
  writer.close()
  (path,) = pathlib.Path(folder).glob(f"events*.{begun:g}")
  return str(path)


def served(export_dir, record_file):
  """What the only export of a folder gives for the rows of a record file.

  Its two signatures have to agree: one takes the records, the other their ids
  without the padding that all rows have.

  Returns:
    dict name -> array [rows, ...].
  """
  (path,) = pathlib.Path(export_dir).iterdir()
  signatures = tf.saved_model.load(str(path)).signatures
  records = list(tf.data.TFRecordDataset(str(record_file)).as_numpy_iterator())
  outputs = signatures["serve_examples"](examples=tf.constant(records))
  inputs = {name: tf.sparse.to_dense(ids) for name, ids in tf.io.parse_example(
      tf.constant(records), {
          name: tf.io.VarLenFeature(tf.int64)
          for name in ("input_ids", "input_mask", "segment_ids")}).items()}
  length = int(tf.reduce_max(tf.reduce_sum(inputs["input_mask"], axis=1)))
  assert length < inputs["input_mask"].shape[1]
  trimmed = signatures["serving_default"](**{
      name: tf.cast(ids[:, :length], tf.int32) for name, ids in inputs.items()})
  assert set(trimmed) == set(outputs)
  for name, array in trimmed.items():
    np.testing.assert_allclose(
        array, outputs[name][:, :array.shape[1]], rtol=0, atol=1e-5)
  return {name: tensor.numpy() for name, tensor in outputs.items()}


def served_texts(export_dir, record_file, length, pooling):
  """What the only export of a folder gives for texts in windows.

  Its three signatures have to agree: the records, their windows with the number
  of the text of each, and (for "mean") the windows one by one, pooled here.

  Returns:
    (array [texts, labels], list of the number of windows of each text).
  """
  (path,) = pathlib.Path(export_dir).iterdir()
  signatures = tf.saved_model.load(str(path)).signatures
  assert set(signatures) == {
      "serving_default", "serve_examples", "serve_windows"}
  records = list(tf.data.TFRecordDataset(str(record_file)).as_numpy_iterator())
  found = signatures["serve_examples"](
      examples=tf.constant(records))["probabilities"].numpy()
  counts, inputs = [], {
      "input_ids": [], "input_mask": [], "segment_ids": []}
  for record in records:
    features = tf.train.Example.FromString(record).features.feature
    for name, rows in inputs.items():
      values = features[name].int64_list.value
      rows.append(np.array(values, np.int32).reshape(-1, length))
    counts.append(len(rows[-1]))
  inputs = {name: tf.constant(np.concatenate(rows))
            for name, rows in inputs.items()}
  numbers = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
  by_windows = signatures["serve_windows"](
      texts=tf.constant(numbers), **inputs)["probabilities"]
  np.testing.assert_allclose(by_windows, found, rtol=0, atol=1e-5)
  alone = signatures["serving_default"](**inputs)["probabilities"].numpy()
  assert alone.shape == (len(numbers), found.shape[1])
  if pooling == "mean":
    is_regression = found.shape[1] == 1
    # Logits, but for a number that all labels have more.
    logits = alone if is_regression else np.log(alone)
    pooled = np.stack([logits[numbers == i].mean(axis=0)
                       for i in range(len(counts))])
    if not is_regression:
      pooled = np.exp(pooled) / np.exp(pooled).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(pooled, found, rtol=0, atol=1e-5)
  return found, counts


def model_info(export_dir):
  """model_info.json of the only export of a folder."""
  (path,) = pathlib.Path(export_dir).iterdir()
  return json.loads((path / "assets" / "model_info.json").read_text())


@contextlib.contextmanager
def parsed(define, *argv):
  """Defines and parses flags in this process, and takes them back.

  Args:
    define: function that defines a script's flags.
    *argv: flags.
  """
  before = set(flags.FLAGS)
  define()
  defined = set(flags.FLAGS) - before
  try:
    flags.FLAGS(["script", *map(str, argv)])
    yield flags.FLAGS
  finally:
    for name in defined:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


_forker = forked_runs.Forker()


def run_script(script, *flags, launcher=(), env=None, timeout=600):
  """Runs a script or module from another folder, as a user may.

  Returns:
    subprocess.CompletedProcess; stdout holds stderr too.
  """
  target = ([str(PROJECT / script)] if str(script).endswith(".py")
            else ["-m", script])
  if not launcher and not env:
    return _forker.run(
        target[-1], list(map(str, flags)), str(PROJECT), timeout)
  environment = {**os.environ, "PYTHONPATH": str(PROJECT), **(env or {})}
  return subprocess.run(
      [*launcher, sys.executable, *target, *map(str, flags)],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      env=environment, cwd="/", timeout=timeout, check=False)


def flag_case(**values):
  """For `assert_refused`: flags that need no files."""
  return lambda model, data_dir, folder: [
      f"--{name}={value}" for name, value in values.items()]


def assert_refused(script, flags, make, message, model, data_dir, folder,
                   earlier):
  """A run ends with one line, status 1, and earlier results as they were.

  Args:
    script: string.
    flags: list of flags that alone would do.
    make: function of (model, data_dir, folder) that returns the wrong flags,
      and may write files into the folder.
    message: string, a part of the line.
    model: TinyModel.
    data_dir: folder of the good data.
    folder: empty folder.
    earlier: list of names of files in the output folder.
  """
  inputs, output_dir = folder / "in", folder / "out"
  inputs.mkdir()
  output_dir.mkdir()
  for name in earlier:
    (output_dir / name).write_text(f"earlier {name}")
  run = run_script(script, f"--output_dir={output_dir}", *flags,
                   *model.flags(), *make(model, data_dir, inputs))
  assert run.returncode == 1, run.stdout
  assert "Traceback" not in run.stdout, run.stdout
  (line,) = [line for line in run.stdout.splitlines()
             if line.startswith(f"{script}: error: ")]
  assert message in line, run.stdout
  for name in earlier:
    assert (output_dir / name).read_text() == f"earlier {name}"
