"""Tests of demo/create_finetuning_data.py: what its files hold."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from demo import create_finetuning_data
import run_classifier
import tokenization
from tests import conftest

# The place of a word is its id.
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "is",
              "good", "##s", "bad"]
OUTPUTS = ("train", "eval", "test")


def arguments(folder, outputs=("train",), **values):
  """The tool's flags, with outputs in a folder."""
  return types.SimpleNamespace(**{
      **dict(fine_tuning_task_type="classification", input_data_dir=None,
             classification_task_name="MNLI", mnli_type="matched",
             xnli_language="en", squad_data_file=None, doc_stride=128,
             max_query_length=64, version_2_with_negative=False,
             vocab_file=str(folder / "vocab.txt"), do_lower_case=True,
             max_seq_length=10, tokenization="WordPiece", sp_model_file=None,
             xlnet_format=False, translated_squad_data_folder=None,
             tfds_params=None,
             meta_data_file_path=str(folder / "meta")),
      **{f"{name}_data_output_path":
             str(folder / f"{name}.tf_record") if name in outputs else None
         for name in OUTPUTS},
      **values})


def make(args):
  """Runs the tool; returns the meta data and records by set (dicts)."""
  create_finetuning_data.create(args)
  with open(args.meta_data_file_path, encoding="utf-8") as reader:
    meta_data = reader.read()
  paths = {name: getattr(args, f"{name}_data_output_path") for name in OUTPUTS}
  return json.loads(meta_data), {
      name: read(path) for name, path in paths.items() if path}


def read(path):
  """The records of a file: name -> list of values."""
  return [{
      name: list(getattr(feature, feature.WhichOneof("kind")).value)
      for name, feature in tf.train.Example.FromString(record)
      .features.feature.items()}
          for record in tf.data.TFRecordDataset(path).as_numpy_iterator()]


@pytest.fixture
def folder(tmp_path):
  """A folder with vocab.txt and MRPC's files."""
  (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
  header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
  for name, label in (("train", "1"), ("dev", "0")):
    (tmp_path / f"{name}.tsv").write_text(
        f"{header}{label}\t1\t2\tThe film is good\tThe films bad\n"
        f"0\t3\t4\tgood\tbad\n")
  (tmp_path / "test.tsv").write_text(
      f"{header}0\t1\t2\tgood\tbad\n1\t3\t4\tbad\tgood\n2\t5\t6\tis\tis\n")
  return tmp_path


class ClassificationTest:

  def test_records_and_meta_data_are_these(self, folder):
    meta_data, records = make(arguments(
        folder, OUTPUTS, input_data_dir=str(folder),
        classification_task_name="MRPC"))
    assert meta_data == {
        "task_type": "bert_classification", "processor_type": "MRPC",
        "train_data_size": 2, "eval_data_size": 2, "test_data_size": 3,
        "max_seq_length": 10, "num_labels": 2}
    assert (folder / "meta").read_text().startswith('{\n    "task_type": ')
    # [CLS] the film is good [SEP] the film ##s bad [SEP], of which the end of
    # the second sentence is cut.
    assert records["train"] == [
        {"input_ids": [2, 5, 6, 7, 8, 3, 5, 6, 9, 3], "input_mask": [1] * 10,
         "segment_ids": [0, 0, 0, 0, 0, 0, 1, 1, 1, 1], "label_ids": [1],
         "is_real_example": [1], "example_id": [0]},
        {"input_ids": [2, 8, 3, 10, 3, 0, 0, 0, 0, 0],
         "input_mask": [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
         "segment_ids": [0, 0, 0, 1, 1, 0, 0, 0, 0, 0], "label_ids": [0],
         "is_real_example": [1], "example_id": [1]}]
    assert [x["label_ids"] for x in records["eval"]] == [[0], [0]]
    # Labels of test rows are not looked at.
    assert [(x["label_ids"], x["example_id"]) for x in records["test"]] == [
        ([0], [0]), ([0], [1]), ([0], [2])]

  @pytest.mark.parametrize("task_type", ["regression", "classification"])
  def test_numbers_are_floats(self, task_type, folder):
    (folder / "train.tsv").write_text(
        "index\tsentence1\tsentence2\tscore\n7\tgood\tbad\t3.8\n")
    meta_data, records = make(arguments(
        folder, input_data_dir=str(folder), max_seq_length=5,
        fine_tuning_task_type=task_type, classification_task_name="STS-B"))
    assert meta_data == {
        "task_type": "bert_regression", "processor_type": "STS-B",
        "train_data_size": 1, "max_seq_length": 5, "label_type": "float"}
    (record,) = records["train"]
    assert record.pop("label_ids") == [pytest.approx(3.8)]
    assert record == {
        "input_ids": [2, 8, 3, 10, 3], "input_mask": [1] * 5,
        "segment_ids": [0, 0, 0, 1, 1], "is_real_example": [1],
        "example_id": [0]}

  @pytest.mark.parametrize("mnli_type, word", [
      ("matched", "good"), ("mismatched", "bad")])
  def test_mnli_type_names_the_dev_set(self, mnli_type, word, folder):
    for name, text in (("train", "film"), ("dev_matched", "good"),
                       ("dev_mismatched", "bad")):
      (folder / f"{name}.tsv").write_text("header\n" + "\t".join(
          ["0", *["x"] * 7, text, text, "neutral"]) + "\n")
    meta_data, records = make(arguments(
        folder, ("train", "eval"), input_data_dir=str(folder),
        mnli_type=mnli_type))
    assert meta_data["num_labels"] == 3 and meta_data["eval_data_size"] == 1
    assert records["train"][0]["input_ids"][1] == VOCABULARY.index("film")
    assert records["eval"][0]["input_ids"][1] == VOCABULARY.index(word)
    assert records["eval"][0]["label_ids"] == [2]

  def test_xnli_takes_its_language(self, folder):
    (folder / "multinli").mkdir()
    (folder / "multinli" / "multinli.train.en.tsv").write_text(
        "premise\thypo\tlabel\ngood\tbad\tcontradictory\n")
    (folder / "xnli.dev.tsv").write_text("header\n" + "".join(
        "\t".join([language, "neutral", *["x"] * 4, text, text]) + "\n"
        for language, text in (("zh", "bad"), ("en", "good"))))
    meta_data, records = make(arguments(
        folder, ("train", "eval"), input_data_dir=str(folder),
        classification_task_name="xnli"))
    assert meta_data["processor_type"] == "XNLI"
    assert records["train"][0]["label_ids"] == [0]
    assert [x["input_ids"][1] for x in records["eval"]] == [8]

  def test_a_task_without_a_training_set(self, folder):
    (folder / "diagnostic.tsv").write_text(
        "index\tsentence1\tsentence2\n0\tgood\tbad\n")
    meta_data, records = make(arguments(
        folder, ("test",), input_data_dir=str(folder),
        classification_task_name="AX"))
    assert (meta_data["train_data_size"], meta_data["test_data_size"]) == (0, 1)
    assert len(records["test"]) == 1

  def test_real_mrpc_gives_the_records_of_run_classifier(
      self, shared, tmp_path):
    data_dir = str(shared / "data" / "glue" / "MRPC")
    vocab_file = str(shared / "conformance" / "vocab.txt")
    meta_data, records = make(arguments(
        tmp_path, ("eval",), input_data_dir=data_dir, max_seq_length=64,
        vocab_file=vocab_file, classification_task_name="MRPC"))
    path = str(tmp_path / "own.tf_record")
    run_classifier.file_based_convert_examples_to_features(
        run_classifier.MrpcProcessor().get_dev_examples(data_dir), ["0", "1"],
        64, tokenization.FullTokenizer(vocab_file), path)
    assert meta_data["eval_data_size"] == 408
    assert [x.pop("example_id") for x in records["eval"]] == [
        [number] for number in range(408)]
    assert records["eval"] == read(path)


class TfdsTest:

  def prepare(self, folder):
    pytest.importorskip("tensorflow_datasets")
    from tests import tfds_params_test as data
    text = data.tfds.features.Text()
    data.prepare(
        folder, "opinions",
        {"text": text, "other": text, "label": ["bad", "good"],
         "stars": np.float32, "votes": np.int64, "share": np.float32,
         "idx": np.int64},
        train=[("film", "good", "good", 2.5, 7, 0.25, 0),
               ("the film", "bad", -1, 0, 0, 1, 1),
               ("is", "is", "bad", -1, 3, 4, 2)],
        test=[("bad", "film", "good", 0, 0, 1, 0)])
    return f"dataset=opinions,data_dir={folder},dev_split=train"

  def test_records_of_classes_with_weights(self, folder):
    meta_data, records = make(arguments(
        folder, OUTPUTS, max_seq_length=5, tfds_params=self.prepare(folder) +
        ",text_b_key=other,weight_key=share,skip_label=-1"))
    assert meta_data == {
        "task_type": "bert_classification", "processor_type": "TFDS_opinions",
        "train_data_size": 2, "eval_data_size": 2, "test_data_size": 1,
        "max_seq_length": 5, "num_labels": 2, "has_sample_weights": True}
    assert records["train"] == records["eval"] == [
        {"input_ids": [2, 6, 3, 8, 3], "input_mask": [1] * 5,
         "segment_ids": [0, 0, 0, 1, 1], "label_ids": [1],
         "is_real_example": [1], "example_id": [0], "weight": [0.25]},
        {"input_ids": [2, 7, 3, 7, 3], "input_mask": [1] * 5,
         "segment_ids": [0, 0, 0, 1, 1], "label_ids": [0],
         "is_real_example": [1], "example_id": [2], "weight": [4.0]}]
    assert [x["label_ids"] for x in records["test"]] == [[0]]

  @pytest.mark.parametrize("label_type, column, kind, values", [
      ("float", "stars", "float_list", [2.5, 0, -1]),
      ("int", "votes", "int64_list", [7, 0, 3])])
  def test_records_of_numbers(self, label_type, column, kind, values, folder):
    args = arguments(
        folder, fine_tuning_task_type="regression", tfds_params=self.prepare(
            folder) + f",is_regression=true,label_type={label_type},"
        f"label_key={column}")
    meta_data, records = make(args)
    assert meta_data == {
        "task_type": "bert_regression", "processor_type": "TFDS_opinions",
        "train_data_size": 3, "max_seq_length": 10, "label_type": label_type}
    assert [x["label_ids"] for x in records["train"]] == [[x] for x in values]
    for record in tf.data.TFRecordDataset(
        args.train_data_output_path).as_numpy_iterator():
      assert tf.train.Example.FromString(record).features.feature[
          "label_ids"].WhichOneof("kind") == kind

  @pytest.mark.slow
  def test_a_classifier_trains_on_them(self, tiny_model, tmp_path):
    params = self.prepare(tmp_path) + ",skip_label=-1,weight_key=share"
    args = arguments(
        tmp_path, OUTPUTS, vocab_file=tiny_model.vocab_file, tfds_params=params)
    make(args)
    run = conftest.run_script(
        "run_classifier.py", "--do_train", "--do_eval", "--do_predict",
        "--train_batch_size=2", "--num_train_epochs=2", "--cpu_only",
        f"--train_records={args.train_data_output_path}",
        f"--eval_records={args.eval_data_output_path}",
        f"--predict_records={args.test_data_output_path}",
        f"--meta_data_file={args.meta_data_file_path}",
        f"--output_dir={tmp_path}/out",
        *tiny_model.flags(vocab_file=None, max_seq_length=None))
    assert run.returncode == 0, run.stdout
    rows = (tmp_path / "out" / "test_results.tsv").read_text().splitlines()
    assert [len(row.split("\t")) for row in rows] == [2]

  @pytest.mark.parametrize("values, message", [
      (dict(fine_tuning_task_type="regression"),
       "regression: add is_regression=true to --tfds_params"),
      (dict(input_data_dir="x"), "--input_data_dir=x is not supported: with "
       "--tfds_params all is read from that data set"),
      (dict(fine_tuning_task_type="squad", squad_data_file="x"),
       "--tfds_params=dataset=opinions,")])
  def test_flags_that_do_not_fit(self, values, message, folder):
    args = arguments(folder, tfds_params=self.prepare(folder), **values)
    with pytest.raises(ValueError, match=message):
      create_finetuning_data.create(args)
    assert not (folder / "train.tf_record").exists()


class SquadTest:

  def squad_file(self, folder, *qas):
    (folder / "squad.json").write_text(json.dumps({"data": [{"paragraphs": [
        {"context": "the film is good the film bad",
         "qas": [{"id": str(number), "question": "is the film bad", **qa}
                 for number, qa in enumerate(qas)]}]}]}))
    return str(folder / "squad.json")

  def test_records_and_meta_data_are_these(self, folder):
    meta_data, records = make(arguments(
        folder, fine_tuning_task_type="squad", max_seq_length=13, doc_stride=3,
        max_query_length=4, squad_data_file=self.squad_file(
            folder, {"answers": [{"text": "bad", "answer_start": 26}]})))
    assert meta_data == {
        "task_type": "bert_squad", "train_data_size": 2, "max_seq_length": 13,
        "max_query_length": 4, "doc_stride": 3,
        "version_2_with_negative": False}
    # [CLS] is the film bad [SEP], then 6 words of the text, then those from
    # the fourth on; only the second window holds the answer.
    assert records["train"] == [
        {"unique_ids": [1000000000],
         "input_ids": [2, 7, 5, 6, 10, 3, 5, 6, 7, 8, 5, 6, 3],
         "input_mask": [1] * 13, "segment_ids": [0] * 6 + [1] * 7,
         "start_positions": [0], "end_positions": [0], "is_impossible": [0]},
        {"unique_ids": [1000000001],
         "input_ids": [2, 7, 5, 6, 10, 3, 8, 5, 6, 10, 3, 0, 0],
         "input_mask": [1] * 11 + [0, 0],
         "segment_ids": [0] * 6 + [1] * 5 + [0, 0],
         "start_positions": [9], "end_positions": [9], "is_impossible": [0]}]

  def test_a_question_without_answer(self, folder):
    meta_data, records = make(arguments(
        folder, fine_tuning_task_type="squad", max_seq_length=16,
        max_query_length=4, version_2_with_negative=True,
        squad_data_file=self.squad_file(
            folder, {"answers": [], "is_impossible": True})))
    assert meta_data["version_2_with_negative"] is True
    assert [(x["start_positions"], x["is_impossible"])
            for x in records["train"]] == [([0], [1])]


class RefusalTest:

  @pytest.mark.parametrize("values, message", [
      (dict(fine_tuning_task_type="tagging"),
       "--fine_tuning_task_type=tagging is not supported: it can be"),
      (dict(tokenization="SentencePiece"),
       "--tokenization=SentencePiece is not supported"),
      (dict(sp_model_file="x"), "--sp_model_file=x is not supported"),
      (dict(xlnet_format=True), "--xlnet_format=True is not supported"),
      (dict(translated_squad_data_folder="x"),
       "--translated_squad_data_folder=x is not supported"),
      (dict(train_data_output_path=None), "Nothing to do"),
      (dict(input_data_dir="none"), "none/train.tsv does not exist: "
       "--input_data_dir has to be the folder"),
      (dict(classification_task_name="MNLI"),
       "It was read for --classification_task_name=MNLI."),
      (dict(classification_task_name="PAWS-X"),
       "--classification_task_name=PAWS-X: unknown task"),
      (dict(fine_tuning_task_type="regression"),
       "--classification_task_name=MRPC has classes, no numbers"),
      (dict(input_data_dir=None), "needs --input_data_dir"),
      (dict(classification_task_name="AX"),
       "--classification_task_name=AX has no train set: leave out "
       "--train_data_output_path"),
      (dict(max_seq_length=4), "--max_seq_length=4 has to be 5 or more"),
      (dict(fine_tuning_task_type="squad"), "needs --squad_data_file"),
      (dict(fine_tuning_task_type="squad", squad_data_file="x",
            test_data_output_path="y"), "--test_data_output_path=y: leave it"),
      (dict(fine_tuning_task_type="squad", squad_data_file="x"),
       "--max_seq_length=10 leaves no room for the text"),
      (dict(fine_tuning_task_type="squad", squad_data_file="x",
            doc_stride=0), "--doc_stride=0 has to be 1 or more")])
  def test_flags_that_do_not_fit(self, values, message, folder):
    args = arguments(folder, **{
        **dict(input_data_dir=str(folder), classification_task_name="MRPC"),
        **values})
    with pytest.raises(ValueError) as error:
      create_finetuning_data.create(args)
    assert message in str(error.value)
    assert not list(folder.glob("*.tf_record*"))

  @pytest.mark.parametrize("flag, name", [
      ("eval_data_output_path", "train.tf_record"),
      ("train_data_output_path", "meta"), ("test_data_output_path",
                                           "vocab.txt")])
  def test_one_name_for_two_files(self, flag, name, folder):
    args = arguments(folder, input_data_dir=str(folder),
                     classification_task_name="MRPC",
                     **{flag: str(folder / name)})
    with pytest.raises(ValueError, match="each file needs a name of its own"):
      create_finetuning_data.create(args)

  def test_files_appear_together_or_not_at_all(self, folder, monkeypatch):
    args = arguments(folder, ("train", "eval"), input_data_dir=str(folder),
                     classification_task_name="MRPC")
    make(args)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "train.tsv").write_text(
        (folder / "train.tsv").read_text() + "1\t3\t4\tthe\tthe\n")
    convert = run_classifier.convert_single_example

    def fail_late(ex_index, example, *rest):
      if example.guid == "dev-2":
        raise ValueError("no disk")
      return convert(ex_index, example, *rest)

    monkeypatch.setattr(run_classifier, "convert_single_example", fail_late)
    with pytest.raises(ValueError, match="no disk"):
      create_finetuning_data.create(args)
    before["train.tsv"] = (folder / "train.tsv").read_bytes()
    assert {path.name: path.read_bytes()
            for path in folder.iterdir()} == before

  def test_several_ranks_are_refused(self, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="works in one process"):
      create_finetuning_data.main([])
