"""Tests of run_classifier.py: processors, features and records, the model."""

import hashlib
import types

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
import tensorflow as tf

from demo import label_helpers
from demo import option_helpers
from demo import window_helpers
import run_classifier
import tokenization

# Task -> files with a row each, as GLUE ships them, and what is read of them.
PAIR = ("a", "b")
GLUE_FILES = {
    "cola": ({"train.tsv": "gj04\t1\t\tIt is.\n", "dev.tsv": "x\t0\t*\tIs it it.\n",
              "test.tsv": "index\tsentence\n0\tIt was.\n"},
             ("It is.", None, "1"), ("It was.", None)),
    "sst2": ({"train.tsv": "sentence\tlabel\nfine \t1\n",
              "dev.tsv": "sentence\tlabel\nfine \t0\n",
              "test.tsv": "index\tsentence\n0\tdull\n"},
             ("fine ", None, "1"), ("dull", None)),
    "mrpc": ({name: "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
                    "1\t5\t6\ta\tb\n" for name in (
                        "train.tsv", "dev.tsv", "test.tsv")},
             ("a", "b", "1"), PAIR),
    "stsb": ({"train.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\t"
                           "source2\tsentence1\tsentence2\tscore\n"
                           "0\tg\tf\t2012\t1\tn\tn\ta\tb\t3.800\n",
              "dev.tsv": "index\tsentence1\tsentence2\tscore\n0\ta\tb\t5\n",
              "test.tsv": "index\tsentence1\tsentence2\n0\ta\tb\n"},
             ("a", "b", "3.800"), PAIR),
    "qqp": ({"train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
                          "7\t1\t2\ta\tb\t1\n8\t1\tcut in two\n",
             "dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
                        "7\t1\t2\ta\tb\t0\n",
             "test.tsv": "id\tquestion1\tquestion2\n0\ta\tb\n"},
            ("a", "b", "1"), PAIR),
    "qnli": ({"train.tsv": "index\tquestion\tsentence\tlabel\n"
                           "0\ta\tb\tnot_entailment\n",
              "dev.tsv": "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n",
              "test.tsv": "index\tquestion\tsentence\n0\ta\tb\n"},
             ("a", "b", "not_entailment"), PAIR),
    "rte": ({"train.tsv": "index\tsentence1\tsentence2\tlabel\n"
                          "0\ta\tb\tentailment\n",
             "dev.tsv": "index\tsentence1\tsentence2\tlabel\n"
                        "0\ta\tb\tentailment\n",
             "test.tsv": "index\tsentence1\tsentence2\n0\ta\tb\n"},
            ("a", "b", "entailment"), PAIR),
    "wnli": ({"train.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t0\n",
              "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n",
              "test.tsv": "index\tsentence1\tsentence2\n0\ta\tb\n"},
             ("a", "b", "0"), PAIR),
    "ax": ({"diagnostic.tsv": "index\tsentence1\tsentence2\n0\ta\tb\n"},
           None, PAIR),
    "mnli": ({name: "\t".join(["index"] + ["x"] * 7 + ["sentence1", "sentence2",
                                                       "label1", "gold_label"])
                    + "\n31\t" + "\t".join(["n/a"] * 7 + ["a", "b", "neutral",
                                                         "neutral"]) + "\n"
              for name in ("train.tsv", "dev_matched.tsv", "test_matched.tsv")},
             ("a", "b", "neutral"), PAIR),
}


def write_files(folder, files):
  for name, text in files.items():
    (folder / name).write_text(text, encoding="utf-8")
  return str(folder)


def make_examples(texts):
  return [run_classifier.InputExample(f"dev-{i}", a, b, label)
          for i, (a, b, label) in enumerate(texts)]


class ProcessorTest:

  @pytest.mark.parametrize("task", sorted(GLUE_FILES))
  def test_reads_the_files_that_glue_ships(self, task, tmp_path):
    files, train, test = GLUE_FILES[task]
    data_dir = write_files(tmp_path, files)
    processor = run_classifier.find_processor(task)[1]
    if train:
      (example,) = processor.get_train_examples(data_dir)
      assert (example.text_a, example.text_b, example.label) == train
      (dev,) = processor.get_dev_examples(data_dir)
      label_helpers.check_labels([example, dev], processor.get_labels())
    else:
      with pytest.raises(NotImplementedError, match="--do_train"):
        processor.get_train_examples(data_dir)
    (example,) = processor.get_test_examples(data_dir)
    assert (example.text_a, example.text_b) == test
    label_helpers.check_labels([example], processor.get_labels())

  @pytest.mark.parametrize("task", ["cola", "sst2", "stsb", "qqp", "rte"])
  def test_test_file_with_labels_gives_the_same_texts(self, task, tmp_path):
    files, train, _ = GLUE_FILES[task]
    row = files["train.tsv"] if task != "qqp" else files["dev.tsv"]
    data_dir = write_files(tmp_path, {"test.tsv": row})
    (example,) = run_classifier.find_processor(task)[1].get_test_examples(
        data_dir)
    assert (example.text_a, example.text_b) == train[:2]

  @pytest.mark.parametrize("name, task", [
      ("MRPC", "mrpc"), ("SST-2", "sst2"), ("sst_2", "sst2"), ("CoLA", "cola"),
      ("STS-B", "stsb"), ("diagnostic", "ax"), ("AX", "ax"), ("Xnli", "xnli")])
  def test_names_in_any_spelling(self, name, task):
    assert run_classifier.find_processor(name)[0] == task

  def test_base_class_has_no_sets(self):
    processor = run_classifier.DataProcessor()
    for read, flag in ((processor.get_train_examples, "--do_train"),
                       (processor.get_dev_examples, "--do_eval"),
                       (processor.get_test_examples, "--do_predict")):
      with pytest.raises(NotImplementedError, match=flag):
        read("folder")
    with pytest.raises(NotImplementedError, match="no labels"):
      processor.get_labels()

  def test_unknown_name_lists_the_known(self):
    with pytest.raises(ValueError, match="--task_name=squad.*cola.*wnli"):
      run_classifier.find_processor("squad")

  def test_row_cut_in_two_is_passed_over_in_qqp_alone(self, tmp_path):
    data_dir = write_files(tmp_path, {
        "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n1\ta\n"})
    with pytest.raises(ValueError, match=r"train.tsv:3: 2 column\(s\), but"):
      run_classifier.WnliProcessor().get_train_examples(data_dir)

  @pytest.mark.parametrize("task", [
      "CoLA", "SST-2", "MRPC", "STS-B", "QQP", "QNLI", "RTE", "WNLI", "MNLI",
      "diagnostic"])
  def test_real_files_are_read_whole(self, task, shared):
    folder = shared / "data" / "glue" / task
    processor = run_classifier.find_processor(task)[1]
    counted = 0
    for name, read in (("train", processor.get_train_examples),
                       ("dev", processor.get_dev_examples),
                       ("test", processor.get_test_examples)):
      file_name = getattr(processor, "files", {}).get(name, "")
      if not (folder / file_name).is_file():
        continue
      with open(folder / file_name, "rb") as reader:
        rows = len(reader.read().removesuffix(b"\n").split(b"\n"))
      has_header = not (task == "CoLA" and name != "test")
      examples = read(str(folder))
      assert len(examples) == rows - has_header
      label_helpers.check_labels(examples, processor.get_labels())
      assert all(example.text_a for example in examples)
      counted += 1
    assert counted


class TruncateTest:

  @given(st.lists(st.integers(), max_size=30), st.lists(st.integers(), max_size=30),
         st.integers(0, 40))
  def test_keeps_beginnings_and_takes_from_the_longer(self, a, b, length):
    short_a, short_b = list(a), list(b)
    run_classifier._truncate_seq_pair(short_a, short_b, length)
    assert len(short_a) + len(short_b) == min(len(a) + len(b), length)
    assert short_a == a[:len(short_a)] and short_b == b[:len(short_b)]
    if len(short_a) < len(a) and len(short_b) < len(b):
      assert abs(len(short_a) - len(short_b)) <= 1


class ConvertSingleExampleTest:

  @given(st.text("ab good", max_size=40), st.none() | st.text("cd bad", max_size=40),
         st.integers(5, 24))
  def test_layout(self, tiny_model, text_a, text_b, length):
    tokenizer = self.tokenizer(tiny_model)
    features = run_classifier.convert_single_example(
        9, run_classifier.InputExample("x", text_a, text_b, "1"), ["0", "1"],
        length, tokenizer)
    assert (len(features.input_ids) == len(features.input_mask)
            == len(features.segment_ids) == length)
    used = sum(features.input_mask)
    assert features.input_mask == [1] * used + [0] * (length - used)
    tokens = tokenizer.convert_ids_to_tokens(features.input_ids[:used])
    is_pair = bool(text_b and tokenizer.tokenize(text_b))
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]"
    assert tokens.count("[SEP]") == 1 + is_pair
    first = tokens.index("[SEP]") + 1
    assert features.segment_ids == (
        [0] * first + [1] * (used - first) + [0] * (length - used))
    assert features.label_id == 1

  def test_padding_example_has_no_weight(self, tiny_model):
    features = run_classifier.convert_single_example(
        9, run_classifier.PaddingInputExample(), ["0"], 5,
        self.tokenizer(tiny_model))
    assert features.input_ids == [0] * 5 and not features.is_real_example

  def test_unknown_label_is_refused(self, tiny_model):
    with pytest.raises(ValueError, match="dev-0: label 'x'"):
      run_classifier.convert_single_example(
          0, make_examples([("a", None, "x")])[0], ["0"], 5,
          self.tokenizer(tiny_model))

  _tokenizers = {}

  def tokenizer(self, model):
    if model.vocab_file not in self._tokenizers:
      self._tokenizers[model.vocab_file] = tokenization.FullTokenizer(
          model.vocab_file)
    return self._tokenizers[model.vocab_file]


class RecordTest:

  def read_back(self, path, batch_size, is_training, is_regression=False,
                limit=100):
    with tf.Graph().as_default():
      tf.compat.v1.set_random_seed(1)
      dataset = run_classifier.file_based_input_fn_builder(
          path, 8, is_training, False, is_regression)(
              {"batch_size": batch_size})
      batch = tf.compat.v1.data.make_one_shot_iterator(dataset).get_next()
      found = []
      with tf.compat.v1.Session() as session:
        while len(found) < limit:
          try:
            found.append(session.run(batch))
          except tf.errors.OutOfRangeError:
            break
    return {key: np.concatenate([b[key] for b in found]) for key in found[0]}

  def write(self, tiny_model, folder, labels, label_list):
    path = str(folder / "x.tf_record")
    run_classifier.file_based_convert_examples_to_features(
        make_examples([(f"a film {i}", None, label)
                       for i, label in enumerate(labels)]),
        label_list, 8, tokenization.FullTokenizer(tiny_model.vocab_file), path)
    return path

  def test_every_row_once_and_in_order(self, tiny_model, tmp_path):
    path = self.write(tiny_model, tmp_path, list("0110101"), ["0", "1"])
    back = self.read_back(path, 3, is_training=False)
    assert back["label_ids"].tolist() == [0, 1, 1, 0, 1, 0, 1]
    assert back["label_ids"].dtype == np.int32
    assert [x.name for x in tmp_path.iterdir()] == ["x.tf_record"]

  def test_regression_keeps_fractions(self, tiny_model, tmp_path):
    path = self.write(tiny_model, tmp_path, ["0.25", "3.8"], [])
    back = self.read_back(path, 2, is_training=False, is_regression=True)
    np.testing.assert_allclose(back["label_ids"], [0.25, 3.8], rtol=1e-6)

  def test_training_repeats_and_shuffles(self, tiny_model, tmp_path):
    path = self.write(tiny_model, tmp_path, list("0110101") * 5, ["0", "1"])
    back = self.read_back(path, 7, is_training=True, limit=20)
    in_order = [tuple(row) for row in self.read_back(
        path, 7, is_training=False)["input_ids"]]
    rows = [tuple(row) for row in back["input_ids"]]
    assert len(rows) == 140 and set(rows) == set(in_order)
    assert rows[:35] != in_order and rows[35:70] != rows[:35]

  def test_training_shuffles_in_a_buffer(self, tiny_model, tmp_path):
    names = [str(number) for number in range(300)]
    path = self.write(tiny_model, tmp_path, names, names)
    rows = self.read_back(path, 5, is_training=True, limit=40)["label_ids"]
    ahead = [row - place for place, row in enumerate(rows.tolist())]
    # A buffer of 100 rows: the one that leaves it is 99 ahead at most.
    assert 80 < max(ahead) <= 99

  def test_interrupted_writing_leaves_the_earlier_file(
      self, tiny_model, tmp_path):
    path = self.write(tiny_model, tmp_path, ["0", "1"], ["0", "1"])
    before = open(path, "rb").read()
    with pytest.raises(ValueError):
      self.write(tiny_model, tmp_path, ["0", "unknown"], ["0", "1"])
    assert open(path, "rb").read() == before
    assert [x.name for x in tmp_path.iterdir()] == ["x.tf_record"]

  @pytest.mark.parametrize("name, count, digest", [
      ("train", 3668,
       "3ef8f5552da7c62244c966212de8da36ab7693fa08b41a1085ee495df2c3451d"),
      ("dev", 408,
       "c44106d5e5b2878c9c7a6a9abc9a59e2a2382f847cdef5c1e1934dd904886802")])
  def test_real_mrpc_gives_upstreams_records(
      self, name, count, digest, shared, tmp_path):
    processor = run_classifier.MrpcProcessor()
    folder = str(shared / "data" / "glue" / "MRPC")
    examples = getattr(processor, f"get_{name}_examples")(folder)
    path = str(tmp_path / "x.tf_record")
    run_classifier.file_based_convert_examples_to_features(
        examples, processor.get_labels(), 64, tokenization.FullTokenizer(
            str(shared / "conformance" / "vocab.txt")), path)
    hasher, rows = hashlib.sha256(), 0
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
      features = tf.train.Example.FromString(record).features.feature
      for key in sorted(features):
        values = ",".join(map(str, features[key].int64_list.value))
        hasher.update(f"{key}:{values}\n".encode())
      rows += 1
    assert (rows, hasher.hexdigest()) == (count, digest)


class ReusedRecordsTest:

  ROWS = (("a film", None, "0"), ("is good", "not bad", "1"))

  @pytest.fixture
  def write(self, tiny_model, tmp_path, monkeypatch):
    """Function of what differs that returns whether records were written."""
    written = []
    convert = run_classifier.file_based_convert_examples_to_features
    monkeypatch.setattr(
        run_classifier, "file_based_convert_examples_to_features",
        lambda *args: (written.append(args), convert(*args)))

    def write(rows=self.ROWS, labels=("0", "1"), lower=True, vocab=None,
              padding=0, **flags):
      del written[:]
      tokenizer = tokenization.FullTokenizer(
          vocab or tiny_model.vocab_file, lower)
      run_classifier._write_records(
          types.SimpleNamespace(**{
              "max_seq_length": 8, "doc_stride": 0, "max_windows": 8, **flags}),
          make_examples(rows) + [run_classifier.PaddingInputExample()] * padding,
          list(labels), tokenizer, str(tmp_path / "x.tf_record"))
      return bool(written)

    return write

  def test_the_same_is_not_converted_again(self, write, tmp_path):
    assert write()
    before = (tmp_path / "x.tf_record").read_bytes()
    assert not write()
    assert (tmp_path / "x.tf_record").read_bytes() == before

  @pytest.mark.parametrize("other", [
      {"rows": ROWS[:1]}, {"rows": ROWS[::-1]}, {"labels": ("1", "0")},
      {"rows": (("a film", None, "1"), ROWS[1])},
      {"rows": (("a film", "", "0"), ROWS[1])}, {"lower": False},
      {"max_seq_length": 9}, {"doc_stride": 4}, {"padding": 2}],
      ids=lambda other: str(other))
  def test_anything_else_is(self, write, other):
    assert write()
    assert write(**other)
    assert not write(**other)
    assert write()

  def test_windows_and_vocabulary_count(self, write, tiny_model, tmp_path):
    assert write(doc_stride=4)
    assert write(doc_stride=4, max_windows=7)
    text = open(tiny_model.vocab_file, encoding="utf-8").read()
    (tmp_path / "vocab").write_text(text.replace("film", "movie"))
    assert write(doc_stride=4, max_windows=7, vocab=str(tmp_path / "vocab"))
    (tmp_path / "vocab2").write_text(text)  # The content counts.
    assert write(doc_stride=4, max_windows=7, vocab=str(tmp_path / "vocab2"))
    assert not write(doc_stride=4, max_windows=7)

  def test_interrupted_conversion_is_no_reuse(self, write, tmp_path):
    assert write()
    with pytest.raises(ValueError):
      write(rows=(("a", None, "no label"),))
    assert write()  # Nothing says any more what the file is made from.


class CreateModelTest:

  def outputs(self, config, is_training, **kwargs):
    ids = tf.constant(np.arange(12).reshape(3, 4) % config.vocab_size, tf.int32)
    return run_classifier.create_model(
        config, is_training, ids, tf.ones_like(ids), tf.zeros_like(ids),
        **kwargs, use_one_hot_embeddings=False)

  def run_twice(self, build):
    with tf.Graph().as_default():
      tf.compat.v1.set_random_seed(1)
      fetches = build()
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        return session.run(fetches), session.run(fetches)

  def test_regression_loss_is_the_squared_error(self, tiny_model):
    labels = np.array([0.5, 2.0, 5.0], np.float32)
    (loss, each, logits, values), _ = self.run_twice(lambda: self.outputs(
        tiny_model.config, False, labels=tf.constant(labels), num_labels=1,
        is_regression=True))
    np.testing.assert_allclose(each, (logits[:, 0] - labels) ** 2, rtol=1e-5)
    np.testing.assert_allclose(loss, each.mean(), rtol=1e-6)
    np.testing.assert_array_equal(values, logits)

  @pytest.mark.parametrize("rate, is_random", [(0.0, False), (0.5, True)])
  def test_dropout_before_logits(self, tiny_model, rate, is_random):
    config = type(tiny_model.config).from_dict(dict(
        tiny_model.config.to_dict(), hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0))
    first, second = self.run_twice(lambda: self.outputs(
        config, True, labels=tf.constant([0, 1, 1]), num_labels=2,
        dropout_before_logits=rate))
    assert (first[2] != second[2]).any() == is_random


class AddOutputLayerTest:

  def losses(self, is_training, labels=(0, 2, 2, 1), **options):
    """(loss, per_example_loss, probabilities), without dropout."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      tf.compat.v1.set_random_seed(3)
      vectors = tf.constant(
          np.random.RandomState(1).normal(0, 40, [len(labels), 8]), tf.float32)
      loss, each, _, probabilities = run_classifier.add_output_layer(
          vectors, is_training, tf.constant(labels), 3, 0.0, False,
          option_helpers.Options(**options))
      session.run(tf.compat.v1.global_variables_initializer())
      return session.run((loss, each, probabilities))

  def test_class_weights_make_a_weighted_mean(self):
    labels, weights = [0, 2, 2, 1], (1.0, 0.0, 2.5)
    plain = self.losses(True)
    loss, each, probabilities = self.losses(True, class_weights=weights)
    np.testing.assert_array_equal(each, plain[1])
    assert loss == pytest.approx(sklearn_metrics.log_loss(
        labels, probabilities, labels=[0, 1, 2],
        sample_weight=[weights[label] for label in labels]), rel=1e-5)
    assert loss != pytest.approx(plain[0], rel=1e-3)

  def test_batch_without_weight_has_no_loss(self):
    assert self.losses(True, labels=(1, 1), class_weights=(1.0, 0.0, 1.0))[
        0] == 0.0

  def test_label_smoothing_spreads_the_target(self):
    loss, each, probabilities = self.losses(True, label_smoothing=0.3)
    targets = np.eye(3)[[0, 2, 2, 1]]
    expected = -np.sum(
        (0.7 * targets + 0.1) * np.log(probabilities.astype(float)), axis=1)
    np.testing.assert_allclose(each, expected, rtol=1e-5)
    assert loss == pytest.approx(each.mean(), rel=1e-6)
    assert loss == pytest.approx(
        float(tf.keras.losses.CategoricalCrossentropy(label_smoothing=0.3)(
            targets, probabilities)), rel=1e-5)

  def test_evaluation_has_the_plain_loss(self):
    plain, other = self.losses(False), self.losses(
        False, class_weights=(1.0, 2.0, 3.0), label_smoothing=0.3)
    for x, y in zip(plain, other):
      np.testing.assert_array_equal(x, y)


class WindowsTest:

  LENGTH = 8

  def batch(self, tiny_model, folder, texts, windows):
    """The records of texts, read back as one batch (dict of arrays)."""
    examples = [
        run_classifier.InputExample(f"dev-{i}", a, b, "1")
        for i, (a, b) in enumerate(texts)]
    path = str(folder / "windows.tf_record")
    run_classifier.file_based_convert_examples_to_features(
        examples, ["0", "1"], self.LENGTH,
        tokenization.FullTokenizer(tiny_model.vocab_file), path, windows)
    dataset = run_classifier.file_based_input_fn_builder(
        path, self.LENGTH, False, False, has_windows=windows is not None)(
            {"batch_size": len(texts)})
    (batch,) = dataset.as_numpy_iterator()
    with open(path, "rb") as reader:
      return batch, reader.read()

  NAMES = ("input_ids", "input_mask", "segment_ids")

  @pytest.fixture(scope="class")
  def logits(self, tiny_model):
    """Function of kind ("rows", "mean", "max") and batch: the logits."""
    config = type(tiny_model.config).from_dict(dict(
        tiny_model.config.to_dict(), num_hidden_layers=1,
        initializer_range=0.3))
    fed, found = {}, {}
    with tf.Graph().as_default() as graph:
      tf.compat.v1.set_random_seed(4)
      for kind in ("rows", "mean", "max"):
        shape = [None, self.LENGTH] if kind == "rows" else [
            None, None, self.LENGTH]
        fed[kind] = [tf.compat.v1.placeholder(tf.int32, shape)
                     for _ in self.NAMES]
        with tf.compat.v1.variable_scope("", reuse=tf.compat.v1.AUTO_REUSE):
          found[kind] = run_classifier.create_model(
              config, False, *fed[kind], tf.zeros([1], tf.int32), 2, False,
              options=option_helpers.Options(
                  window_pooling="max" if kind == "max" else "mean"))[2]
      variables = {var.op.name: var
                   for var in tf.compat.v1.trainable_variables()}
      alike = [variables[name.replace("bert_2", scope)].assign(var)
               for scope in ("bert", "bert_1")
               for name, var in variables.items() if name.startswith("bert_2")]
      initializer = tf.compat.v1.global_variables_initializer()
    session = tf.compat.v1.Session(graph=graph)
    session.run(initializer)
    session.run(alike)
    return lambda kind, batch: session.run(found[kind], {
        tensor: batch[name] for tensor, name in zip(fed[kind], self.NAMES)})

  def test_text_that_fits_gives_upstreams_record_and_logits(
      self, tiny_model, logits, tmp_path):
    texts = [("the film is good", None), ("very bad", "a 1"), ("", None)]
    usual, record = self.batch(tiny_model, tmp_path, texts, None)
    windows, same_record = self.batch(
        tiny_model, tmp_path, texts, window_helpers.Windows(3, 8))
    assert record == same_record
    assert windows["input_ids"].shape == (3, 1, self.LENGTH)
    expected = logits("rows", usual)
    for pooling in ("mean", "max"):
      np.testing.assert_array_equal(logits(pooling, windows), expected)

  def test_logits_are_those_of_the_windows_pooled(
      self, tiny_model, logits, tmp_path, caplog):
    texts = [("the film is good", None),
             ("the book was very very dull but the film was lovely", None),
             ("awful hotel", "the room is bad the staff is bad")]
    with caplog.at_level("INFO", "absl"):
      batch, _ = self.batch(
          tiny_model, tmp_path, texts, window_helpers.Windows(3, 4))
    counts = batch["input_mask"][:, :, 0].sum(axis=1).tolist()
    assert counts == [1, 3, 3]
    assert caplog.messages == ["windows.tf_record: 3 texts in 7 windows."]
    alone = [np.concatenate([
        logits("rows", {name: batch[name][text, number][None]
                        for name in self.NAMES}) for number in range(count)])
             for text, count in enumerate(counts)]
    for pooling in ("mean", "max"):
      np.testing.assert_allclose(
          logits(pooling, batch),
          [getattr(np, pooling)(rows, axis=0) for rows in alone], atol=1e-6)

  def test_what_is_cut_is_counted(self, tiny_model, tmp_path, caplog):
    with caplog.at_level("WARNING", "absl"):
      self.batch(tiny_model, tmp_path, [
          ("good " * 30, None), ("bad", None), ("bad " * 11, None)],
                 window_helpers.Windows(5, 2))
    assert caplog.messages == [
        "windows.tf_record: 1 of 3 texts have more than --max_windows=2 "
        "windows; the 19 tokens after them are left out."]
