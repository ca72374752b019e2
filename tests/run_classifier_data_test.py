"""Tests of run_classifier.py on own files and TensorFlow Datasets."""

import contextlib
import json
import logging
import types

from absl import flags
import numpy as np
import pytest

from demo import metrics
import run_classifier
from tests import conftest
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


@contextlib.contextmanager
def parsed(*argv):
  """Defines and parses the script's flags, and takes them back."""
  before = set(flags.FLAGS)
  run_classifier.init_classifier_flags()
  defined = set(flags.FLAGS) - before
  try:
    flags.FLAGS(["run_classifier.py", *map(str, argv)])
    yield flags.FLAGS
  finally:
    for name in defined:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def run(*argv):
  """The script's `main` in this process."""
  with parsed("--cpu_only", *argv):
    run_classifier.main(None)


class CustomProcessorTest:

  def test_habits_of_hugging_face(self, tmp_path):
    files = write(tmp_path, train=(
        "idx,sentence1,sentence2,label\n" + "0,a,\"b, c\",yes\n" * 2 +
        "1,d,e,no\n" * 2), test_jsonl='{"sentence1": "f", "sentence2": "g"}\n')
    processor = run_classifier.CustomProcessor(make_args(**files))
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
    processor = run_classifier.CustomProcessor(make_args(
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
    processor = run_classifier.CustomProcessor(
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
    processor = run_classifier.CustomProcessor(
        make_args(labels=["lo", "mid", "hi"], **files))
    examples = processor.get_train_examples(None)
    assert processor.get_labels() == ["lo", "mid", "hi"]
    assert [x.label for x in examples] == ["lo", "hi"]

  def test_regression(self, tmp_path):
    files = write(tmp_path, train="text,score\na,0.5\nb,3\n", test="text\nc\n")
    processor = run_classifier.CustomProcessor(
        make_args(regression=True, **files))
    examples = processor.get_train_examples(None)
    assert processor.is_regression and processor.get_labels() == []
    run_classifier.check_labels(examples, [])
    assert rows_of(processor.get_test_examples(None)) == [("c", None, "0")]

  def test_label_map_stands_in_for_the_training_set(self, tmp_path):
    label_map = {"kind": "classification", "labels": ["b", "a"], "columns": {
        "text_a": "t", "text_b": "u", "label": "l"}}
    files = write(tmp_path, dev="l,u,t,text\na,1,2,3\n", test="t,u\n4,5\n")
    processor = run_classifier.CustomProcessor(make_args(**files), label_map)
    assert processor.get_labels() == ["b", "a"]
    assert rows_of(processor.get_dev_examples(None)) == [("2", "1", "a")]
    assert rows_of(processor.get_test_examples(None)) == [("4", "5", "b")]
    processor = run_classifier.CustomProcessor(
        make_args(text_a="text", **files), label_map)
    assert rows_of(processor.get_dev_examples(None)) == [("3", None, "a")]
    for values, message in (
        (dict(labels=["a", "b"]), "--labels=a,b: .*trained with b,a, says out/"),
        (dict(regression=True), "--regression: .*trained to classify")):
      with pytest.raises(ValueError, match=message):
        run_classifier.CustomProcessor(make_args(**values), label_map)
    label_map.update(kind="regression", labels=[])
    processor = run_classifier.CustomProcessor(make_args(**files), label_map)
    assert processor.is_regression and processor.get_labels() == []

  def test_training_set_tells_where_nothing_else_does(self, tmp_path):
    files = write(tmp_path, train="p,x\nq,y\np,x\nq,y\n", test="r\ns\n")
    processor = run_classifier.CustomProcessor(make_args(**files))
    assert rows_of(processor.get_test_examples(None)) == [
        ("r", None, "x"), ("s", None, "x")]
    del files["train_file"]
    processor = run_classifier.CustomProcessor(make_args(**files))
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
      run_classifier.CustomProcessor(make_args(**{
          **write(tmp_path, train=text), **values})).get_train_examples(None)

  def test_missing_value_is_named_by_its_line(self, tmp_path):
    files = write(tmp_path, dev_jsonl='{"text": "a", "label": 1}\n{"text": "b"}')
    processor = run_classifier.CustomProcessor(
        make_args(labels=["0", "1"], **files))
    with pytest.raises(ValueError, match="dev.jsonl:2: no value in column 'lab"):
      processor.get_dev_examples(None)

  def test_empty_texts_and_fractions_are_warned_of(self, tmp_path, caplog):
    files = write(tmp_path, train="text,label\n,0.5\nb,1\n,0.5\nc,1\n")
    with caplog.at_level(logging.WARNING, logger="absl"):
      run_classifier.CustomProcessor(
          make_args(**files)).get_train_examples(None)
    assert len(caplog.messages) == 2
    assert "2 of 4 rows have no text; the first one is" in caplog.text
    assert "train.csv:2." in caplog.text and "fractions" in caplog.text


class ReadLabelMapTest:

  def test_none_without_a_file(self, tmp_path):
    assert run_classifier.read_label_map(str(tmp_path)) is None

  @pytest.mark.parametrize("text", [
      "{", "[]", "{}", '{"kind": "classification", "labels": ["a"], "columns": '
      '{"text_a": 0, "text_b": null, "label": 1}}'])
  def test_damaged_file_is_refused(self, text, tmp_path):
    (tmp_path / "label_map.json").write_text(text)
    with pytest.raises(ValueError, match="label_map.json is damaged"):
      run_classifier.read_label_map(str(tmp_path))


class TfdsProcessorTest:

  def processor(self, folder, name, **values):
    args = make_args(use_tfds=name, tfds_dir=str(folder), **values)
    config = name.partition("/")[2]
    return run_classifier.TfdsProcessor(
        args, None, run_classifier.PROCESSORS[config]() if config else None)

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
    run_classifier.check_labels(examples, labels)
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
      run_classifier.check_labels(examples, labels)

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


class CheckTrainedLabelsTest:

  def check(self, trained, found):
    run_classifier._check_trained_labels(
        types.SimpleNamespace(output_dir="out"),
        trained and {"labels": trained}, found)

  def test_the_same_or_without_names(self):
    self.check(None, ["a", "b"])
    self.check(["a", "b"], ["a", "b"])
    self.check(["0", "1"], ["a", "b"])
    self.check(["a", "b"], ["0", "1"])
    run_classifier._check_trained_labels(None, {"labels": []}, [])

  @pytest.mark.parametrize("trained, found, message", [
      (["b", "a"], ["a", "b"], "b, a; here they are a, b"),
      (["0", "1"], ["a", "b", "c"], "0, 1; here they are a, b, c"),
      (["a", "b"], [], "a, b; here they are numbers")])
  def test_others_are_refused(self, trained, found, message):
    with pytest.raises(ValueError, match=f"--output_dir=out: .*{message}"):
      self.check(trained, found)


class FindTaskTest:

  @pytest.mark.parametrize("argv, message", [
      (["--task_name=sst2", "--do_export", "--do_eval"],
       "--task_name=sst2 needs --data_dir"),
      (["--task_name=sst2", "--data_dir=d", "--train_file=x.csv"],
       "--train_file: not used with --task_name=sst2"),
      (["--task_name=sst2", "--data_dir=d", "--tfds_dir=x"], "--tfds_dir: not"),
      (["--task_name=custom", "--tfds_dir=x"], "--tfds_dir: not used"),
      (["--data_dir=d"], "--task_name has to be given"),
      (["--use_tfds=glue/sst2", "--task_name=rte"], "are different tasks"),
      (["--use_tfds=imdb_reviews", "--task_name=rte"], "is not of this task"),
      (["--use_tfds=glue"], "one of glue/cola, glue/mnli"),
      (["--use_tfds=glue/xnli"], "one of glue/cola"),
      (["--use_tfds=glue/sst2", "--labels=a,b"], "--labels: not used with"),
      (["--use_tfds=imdb_reviews", "--dev_file=x"], "--dev_file: not used")])
  def test_flags_that_do_not_go_together(self, argv, message):
    with parsed(*argv) as args, pytest.raises(ValueError, match=message):
      run_classifier._find_task(args)

  @pytest.mark.parametrize("argv, task", [
      (["--use_tfds=glue/sst2"], "sst2"),
      (["--use_tfds=glue/sst2:2.0.0", "--task_name=SST-2"], "sst2"),
      (["--use_tfds=imdb_reviews"], "custom"),
      (["--task_name=Custom", "--train_file=x"], "custom"),
      (["--task_name=STS-B", "--data_dir=d"], "stsb"),
      (["--task_name=STS-B", "--do_export"], "stsb")])
  def test_task(self, argv, task):
    with parsed(*argv) as args:
      assert run_classifier._find_task(args)[0] == task

  @pytest.mark.parametrize("argv, message", [
      (["--do_eval"], "--write_submission writes predictions: pass --do_pred"),
      (["--do_predict"], "GLUE has no task XNLI")])
  def test_submission_that_can_not_be(self, argv, message):
    with parsed("--task_name=XNLI", "--data_dir=d", "--write_submission",
                *argv) as args, pytest.raises(ValueError, match=message):
      run_classifier._check_flags(args, "xnli")


class WriteSubmissionTest:

  @pytest.mark.parametrize("task, rows, labels, name, lines", [
      ("stsb", [[-0.2], [2.71828], [7.0]], [], "STS-B.tsv",
       ["0.000", "2.718", "5.000"]),
      ("mnli_mismatched", [[.1, .7, .2], [.5, .1, .4]],
       ["contradiction", "entailment", "neutral"], "MNLI-mm.tsv",
       ["entailment", "contradiction"]),
      ("custom", [[-0.25]], [], "submission.tsv", ["-0.25"])])
  def test_form(self, task, rows, labels, name, lines, tmp_path):
    run_classifier._write_submission(
        types.SimpleNamespace(output_dir=str(tmp_path)), task,
        np.array(rows), labels)
    (path,) = tmp_path.iterdir()
    assert path.name == name
    assert path.read_text().splitlines() == ["index\tprediction"] + [
        f"{i}\t{line}" for i, line in enumerate(lines)]


@pytest.mark.slow
class WholeRunTest:

  @pytest.fixture(scope="class")
  def trained(self, tiny_model, tmp_path_factory):
    """Flags, output folder and test texts of a trained model."""
    folder = tmp_path_factory.mktemp("custom")
    names = {"0": "neg", "1": "pos"}
    for name, count, seed in (("train", 256, 1), ("dev", 50, 2)):
      (folder / f"{name}.jsonl").write_text("".join(
          json.dumps({"label": names[label], "sentence": text}) + "\n"
          for text, label in conftest.sentiment_rows(count, seed)))
    texts = [text for text, _ in conftest.sentiment_rows(9, 3)]
    texts[4] = texts[4].replace(" ", "\n", 1).replace(" ", "\t", 1)
    (folder / "test.csv").write_text("sentence\n" + "".join(
        f'"{text}"\n' for text in texts))
    argv = ["--task_name=custom", f"--output_dir={folder}/out",
            *tiny_model.flags(max_seq_length=16)]
    run(*argv, "--do_train", "--do_eval", f"--train_file={folder}/train.jsonl",
        f"--dev_file={folder}/dev.jsonl", "--do_predict",
        f"--test_file={folder}/test.csv", "--num_train_epochs=6",
        "--learning_rate=2e-3", "--train_batch_size=16", "--random_seed=1",
        "--detailed_results", "--write_submission")
    return argv, folder, texts

  def test_scores_and_label_map(self, trained):
    folder = trained[1] / "out"
    assert json.loads((folder / "label_map.json").read_text()) == {
        "task": "custom", "kind": "classification", "labels": ["neg", "pos"],
        "columns": {"text_a": "sentence", "text_b": None, "label": "label"}}
    dev = json.loads((folder / "eval_metrics.json").read_text())["sets"]["dev"]
    scores = dev["scores"]
    assert scores["accuracy"] > 0.8 and scores["macro_f1"] > 0.8
    assert scores["matthews_correlation"] > 0.6
    assert set(dev["per_class"]) == {"neg", "pos"}
    results = dict(line.split(" = ") for line in (
        folder / "eval_results.txt").read_text().splitlines())
    assert float(results["eval_macro_f1"]) == scores["macro_f1"]

  def test_predictions_are_joined_to_their_rows(self, trained):
    _, folder, texts = trained
    header, *lines = [line.split("\t") for line in (
        folder / "out" / "predictions.tsv").read_text().splitlines()]
    assert header == ["index", "id", "label", "probability_neg",
                      "probability_pos", "text_a", "text_b"]
    assert [line[5] for line in lines] == [
        " ".join(text.split()) for text in texts]
    assert {line[2] for line in lines} == {"neg", "pos"}
    submission = (folder / "out" / "submission.tsv").read_text().splitlines()
    assert submission == ["index\tprediction"] + [
        f"{i}\t{line[2]}" for i, line in enumerate(lines)]

  def test_predicts_and_evaluates_with_the_stored_labels(self, trained):
    argv, folder, _ = trained
    kept = {name: (folder / "out" / name).read_text() for name in (
        "test_results.tsv", "predictions.tsv", "eval_results.txt")}
    for name in kept:
      (folder / "out" / name).unlink()
    run(*argv, "--do_predict", f"--test_file={folder}/test.csv", "--do_eval",
        f"--dev_file={folder}/dev.jsonl", "--detailed_results")
    for name, text in kept.items():
      assert (folder / "out" / name).read_text() == text
    with pytest.raises(ValueError, match="--labels=pos,neg: the model was"):
      run(*argv, "--do_predict", f"--test_file={folder}/test.csv",
          "--labels=pos,neg")

  def test_exports_with_the_stored_labels(self, trained):
    argv, folder, _ = trained
    run(*argv, "--do_export")
    info = conftest.model_info(folder / "out" / "export")
    assert (info["task"], info["kind"]) == ("custom", "classification")
    assert info["labels"] == ["neg", "pos"] and info["max_seq_length"] == 16
    found = conftest.served(
        folder / "out" / "export", folder / "out" / "predict.tf_record")
    np.testing.assert_allclose(
        found["probabilities"], np.loadtxt(folder / "out" / "test_results.tsv"),
        rtol=0, atol=1e-5)

  def test_glue_from_tfds_without_task_name(self, tiny_model, tmp_path):
    rows = [(text, int(label))
            for text, label in conftest.sentiment_rows(40, 1)]
    tfds_helpers_test.prepare(
        tmp_path, "glue/sst2", ["negative", "positive"], ["sentence"],
        train=rows, validation=rows, test=[(text, -1) for text, _ in rows])
    output_dir = tmp_path / "out"
    run("--use_tfds=glue/sst2", f"--tfds_dir={tmp_path}", "--do_train",
        "--do_predict", "--num_train_epochs=1", "--train_batch_size=16",
        "--write_submission", f"--output_dir={output_dir}",
        *tiny_model.flags(max_seq_length=16))
    label_map = run_classifier.read_label_map(str(output_dir))
    assert label_map["task"] == "sst2" and label_map["labels"] == ["0", "1"]
    lines = (output_dir / "SST-2.tsv").read_text().splitlines()
    assert len(lines) == 41 and lines[40][:3] == "39\t"
    assert lines[40][3:] in ("0", "1")


class ScoresTest:

  def test_custom_task(self):
    labels, found = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    scores = metrics.classification_scores("custom", labels, found)
    assert list(scores) == ["macro_f1", "matthews_correlation", "accuracy"]
    assert scores["accuracy"] == 0.5
    # F1 of the classes: 2/3, 1/2 and 0.
    np.testing.assert_allclose(scores["macro_f1"], (2 / 3 + 1 / 2) / 3)
