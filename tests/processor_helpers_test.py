"""Tests of demo/processor_helpers.py."""

import logging
import types

import numpy as np
import pytest

from demo import label_helpers
from demo import processor_helpers
import run_classifier
from tests import tfds_helpers_test

GLUE_CLASSES = {
    "cola": ["unacceptable", "acceptable"], "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"], "stsb": np.float32,
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
    "ax": ["entailment", "neutral", "contradiction"]}
GLUE_COLUMNS = {
    "cola": ["sentence"], "sst2": ["sentence"],
    "mnli": ["premise", "hypothesis"], "ax": ["premise", "hypothesis"],
    "qqp": ["question1", "question2"], "qnli": ["question", "sentence"]}


def make_args(**values):
  """Flags of the data, as a CustomProcessor takes them."""
  return types.SimpleNamespace(**{**dict.fromkeys(
      ["train_file", "dev_file", "test_file", "text_a", "text_b", "label",
       "labels", "use_tfds", "tfds_dir"]),
      **dict(regression=False, has_header="auto", output_dir="out"), **values})


def make_processor(args, label_map=None):
  """The CustomProcessor as run_classifier makes it."""
  return processor_helpers.CustomProcessor(
      args, run_classifier.InputExample, label_map)


def write(folder, **texts):
  """Writes files; returns the flags `<name>_file` of train, dev and test."""
  found = {}
  for name, text in texts.items():
    name, _, ending = name.partition("_")
    path = folder / f"{name}.{ending or 'csv'}"
    path.write_text(text, encoding="utf-8")
    found[f"{name}_file"] = str(path)
  return found


def rows_of(examples):
  return [(x.text_a, x.text_b, x.label) for x in examples]


class CustomProcessorTest:

  def test_habits_of_hugging_face(self, tmp_path):
    files = write(tmp_path, train=(
        "idx,sentence1,sentence2,label\n" + "0,a,\"b, c\",yes\n" * 2 +
        "1,d,e,no\n" * 2), test_jsonl='{"sentence1": "f", "sentence2": "g"}\n')
    processor = make_processor(make_args(**files))
    train = processor.get_train_examples(None)
    assert rows_of(train) == [("a", "b, c", "yes")] * 2 + [("d", "e", "no")] * 2
    assert train[1].guid == "train-3"
    assert train[1].source == (files["train_file"], 3)
    (test,) = processor.get_test_examples(None)
    assert (test.text_a, test.text_b) == ("f", "g")
    assert processor.get_labels() == ["no", "yes"] and test.label == "no"
    assert processor.label_map() == {
        "kind": "classification", "labels": ["no", "yes"], "columns": {
            "text_a": "sentence1", "text_b": "sentence2", "label": "label"}}

  @pytest.mark.parametrize("task, labels", [
      ("SST-2", ["0", "1"]), ("STS-B", None), ("RTE", None)])
  def test_files_of_glue_are_read_as_the_task_reads_them(
      self, task, labels, shared):
    folder = shared / "data" / "glue" / task
    glue = run_classifier.find_processor(task)[1]
    processor = make_processor(make_args(
        train_file=str(folder / "train.tsv"), labels=labels,
        test_file=str(folder / "test.tsv"), regression=glue.is_regression))
    assert rows_of(processor.get_train_examples(None)) == rows_of(
        glue.get_train_examples(str(folder)))
    assert [row[:2] for row in rows_of(processor.get_test_examples(None))] == [
        row[:2] for row in rows_of(glue.get_test_examples(str(folder)))]
    assert processor.get_labels() == glue.get_labels()

  def test_columns_without_header(self, tmp_path):
    files = write(tmp_path, train_tsv="10\tx\ta\n9\tx\tb\n" * 2,
                  dev_tsv="9\tx\tc\n", test_tsv="0\tx\td\n")
    processor = make_processor(
        make_args(text_a="2", label="0", **files))
    assert rows_of(processor.get_train_examples(None)) == [
        ("a", None, "10"), ("b", None, "9")] * 2
    assert processor.get_labels() == ["9", "10"]  # As numbers.
    assert rows_of(processor.get_dev_examples(None)) == [("c", None, "9")]
    assert rows_of(processor.get_test_examples(None)) == [("d", None, "9")]
    assert processor.label_map()["columns"] == {
        "text_a": 2, "text_b": None, "label": 0}

  def test_given_labels_keep_their_order(self, tmp_path):
    files = write(tmp_path, train="text,label\na,lo \nb,hi\n")
    processor = make_processor(
        make_args(labels=["lo", "mid", "hi"], **files))
    examples = processor.get_train_examples(None)
    assert processor.get_labels() == ["lo", "mid", "hi"]
    assert [x.label for x in examples] == ["lo", "hi"]

  def test_regression(self, tmp_path):
    files = write(tmp_path, train="text,score\na,0.5\nb,3\n", test="text\nc\n")
    processor = make_processor(
        make_args(regression=True, **files))
    examples = processor.get_train_examples(None)
    assert processor.is_regression and processor.get_labels() == []
    label_helpers.check_labels(examples, [])
    assert rows_of(processor.get_test_examples(None)) == [("c", None, "0")]

  def test_label_map_stands_in_for_the_training_set(self, tmp_path):
    label_map = {"kind": "classification", "labels": ["b", "a"], "columns": {
        "text_a": "t", "text_b": "u", "label": "l"}}
    files = write(tmp_path, dev="l,u,t,text\na,1,2,3\n", test="t,u\n4,5\n")
    processor = make_processor(make_args(**files), label_map)
    assert processor.get_labels() == ["b", "a"]
    assert rows_of(processor.get_dev_examples(None)) == [("2", "1", "a")]
    assert rows_of(processor.get_test_examples(None)) == [("4", "5", "b")]
    processor = make_processor(
        make_args(text_a="text", **files), label_map)
    assert rows_of(processor.get_dev_examples(None)) == [("3", None, "a")]
    for values, message in (
        (dict(labels=["a", "b"]), "--labels=a,b: .*trained with b,a, says out/"),
        (dict(regression=True), "--regression: .*trained to classify")):
      with pytest.raises(ValueError, match=message):
        make_processor(make_args(**values), label_map)
    label_map.update(kind="regression", labels=[])
    processor = make_processor(make_args(**files), label_map)
    assert processor.is_regression and processor.get_labels() == []

  def test_training_set_tells_where_nothing_else_does(self, tmp_path):
    files = write(tmp_path, train="p,x\nq,y\np,x\nq,y\n", test="r\ns\n")
    processor = make_processor(make_args(**files))
    assert rows_of(processor.get_test_examples(None)) == [
        ("r", None, "x"), ("s", None, "x")]
    del files["train_file"]
    processor = make_processor(make_args(**files))
    with pytest.raises(ValueError, match="Which labels are there.*out has no"):
      processor.get_test_examples(None)

  @pytest.mark.parametrize("text, values, message", [
      ("text,label\na,x\nb,y\nc,z\n", {}, "3 different labels in 3 rows"),
      ("text,label\na,x\nb,x\n", {}, "every row has the label 'x'"),
      ("stuff,mark\na,x\nb,y\nc,y\nd,x\n", {}, ":1: is this a row or a header"),
      ("text\na\nb\n", {}, "which column is the label"),
      ("text,l\na,x\n", dict(label="m"), r"no column 'm' \(the labels; only a"),
      ("text,label\na,x\n", dict(labels=["x"]), "--labels=x: there have to be"),
      ("", dict(labels=["x", "x"]), "--labels=x,x: each label"),
      ("", dict(labels=["x", "y"], regression=True), "--labels=x,y: with --reg"),
      ("", dict(train_file=None), "--do_train needs --train_file")])
  def test_what_makes_no_sense_is_refused(
      self, text, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
      make_processor(make_args(**{
          **write(tmp_path, train=text), **values})).get_train_examples(None)

  def test_blank_is_no_label(self, tmp_path):
    files = write(tmp_path, train="text,label\na,x\nb, \nc,y\n")
    with pytest.raises(ValueError, match=(
        r"train.csv:3: no label in column 'label'; every row needs one")):
      make_processor(make_args(**files)).get_train_examples(None)

  def test_columns_of_the_training_set_hold_for_the_dev_set(self, tmp_path):
    files = write(tmp_path, train="Text,Label\n" + "a,x\nb,y\n" * 2,
                  dev="Label,Text\ny,c\n")
    processor = make_processor(make_args(**files))
    assert rows_of(processor.get_dev_examples(None)) == [("c", None, "y")]
    assert processor.get_labels() == ["x", "y"]

  def test_missing_value_is_named_by_its_line(self, tmp_path):
    files = write(tmp_path, dev_jsonl='{"text": "a", "label": 1}\n{"text": "b"}')
    processor = make_processor(
        make_args(labels=["0", "1"], **files))
    with pytest.raises(ValueError, match="dev.jsonl:2: no value in column 'lab"):
      processor.get_dev_examples(None)

  def test_empty_texts_and_fractions_are_warned_of(self, tmp_path, caplog):
    files = write(tmp_path, train="text,label\n,0.5\nb,1\n,0.5\nc,1\n")
    with caplog.at_level(logging.WARNING, logger="absl"):
      make_processor(
          make_args(**files)).get_train_examples(None)
    assert len(caplog.messages) == 2
    assert "2 of 4 rows have no text; the first one is" in caplog.text
    assert "train.csv:2." in caplog.text and "fractions" in caplog.text


class TfdsProcessorTest:

  def processor(self, folder, name, **values):
    args = make_args(use_tfds=name, tfds_dir=str(folder), **values)
    config = name.partition("/")[2]
    return processor_helpers.TfdsProcessor(
        args, run_classifier.InputExample, None,
        run_classifier.PROCESSORS[config]() if config else None)

  @pytest.mark.parametrize("config", sorted(GLUE_CLASSES))
  def test_glue_is_what_its_own_files_are(self, config, tmp_path):
    classes = GLUE_CLASSES[config]
    columns = GLUE_COLUMNS.get(config, ["sentence1", "sentence2"])
    texts = [f"{column} {{}}" for column in columns]
    is_regression = config == "stsb"
    known = [1.8, 0.25, 5] if is_regression else classes

    def rows(is_test):
      return [[text.format(i) for text in texts] +
              [-1 if is_test else known[i % len(known)]] for i in range(6)]

    if config == "mnli":
      splits = dict(train=0, validation_matched=0, validation_mismatched=0,
                    test_matched=1, test_mismatched=1)
    else:
      splits = dict(train=0, validation=0, test=1)
    if config == "ax":
      splits = dict(test=1)
    tfds_helpers_test.prepare(
        tmp_path, f"glue/{config}", classes, columns,
        **{name: rows(is_test) for name, is_test in splits.items()})
    processor = self.processor(tmp_path, f"glue/{config}")
    glue = run_classifier.PROCESSORS[config]()
    labels = glue.get_labels()
    assert processor.get_labels() == labels
    assert processor.is_regression == is_regression

    examples = processor.get_test_examples(None)
    label_helpers.check_labels(examples, labels)
    assert [x.guid for x in examples] == [f"test-{i}" for i in range(6)]
    if config == "ax":
      with pytest.raises(ValueError, match="no split train; it has test"):
        processor.get_train_examples(None)
      with pytest.raises(ValueError, match="no split validation; it has test"):
        processor.get_dev_examples(None)
      return
    sets = [processor.get_train_examples(None), processor.get_dev_examples(None)]
    if config == "mnli":
      sets.append(processor.mismatched_examples("dev"))
      assert len(processor.mismatched_examples("test")) == 6
    digits = config in ("cola", "sst2", "mrpc", "qqp", "wnli")
    for i, example in enumerate(sets[-1]):
      assert example.text_a == texts[0].format(i)
      assert example.text_b == (
          texts[1].format(i) if len(texts) == 2 else None)
      place = i % len(known)
      if is_regression:
        assert float(example.label) == known[place]
        assert len(example.label) <= 4  # Not 1.7999999523162842.
      else:
        assert example.label == (str(place) if digits else classes[place])
    for examples in sets:
      label_helpers.check_labels(examples, labels)

  def test_other_data_sets(self, tmp_path, caplog):
    tfds_helpers_test.prepare(
        tmp_path, "reviews", ["neg", "pos"], ["title", "body"],
        train=[("t", "good", "pos"), ("u", "bad", "neg")],
        test=[("v", "dull", "neg")])
    processor = self.processor(tmp_path, "reviews", text_a="body")
    assert rows_of(processor.get_train_examples(None)) == [
        ("good", None, "pos"), ("bad", None, "neg")]
    with caplog.at_level(logging.WARNING, logger="absl"):
      assert rows_of(processor.get_dev_examples(None)) == [
          ("dull", None, "neg")]
    assert "no validation split: the test split is evaluated" in caplog.text
    assert processor.get_labels() == ["neg", "pos"]
    assert processor.label_map()["columns"] == {
        "text_a": "body", "text_b": None, "label": "label"}
    tfds_helpers_test.prepare(tmp_path, "stars", np.float32, ["text"],
                              train=[("good", 4.5)])
    processor = self.processor(tmp_path, "stars")
    assert rows_of(processor.get_train_examples(None)) == [
        ("good", None, "4.5")]
    assert processor.is_regression and processor.get_labels() == []
