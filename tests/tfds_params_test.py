"""Tests of demo/tfds_params.py, on data sets that they prepare themselves."""

import re

import numpy as np
import pytest

from demo import tfds_params

tfds = pytest.importorskip("tensorflow_datasets")
NLI = ["entailment", "neutral", "contradiction"]


def prepare(folder, name, features, **splits):
  """Writes a data set in TFDS's form.

  Args:
    folder: path.
    name: string, such as "glue/mnli".
    features: dict column -> feature, list of class names, or NumPy type.
    **splits: split -> list of rows, the values in the order of the columns.
  """
  name, _, config = name.partition("/")
  tfds.dataset_builders.store_as_tfds_dataset(
      name=name, config=config or None, version="1.0.0", data_dir=str(folder),
      features=tfds.features.FeaturesDict({
          column: tfds.features.ClassLabel(names=feature)
          if isinstance(feature, list) else feature
          for column, feature in features.items()}),
      split_datasets={
          split: [(i, dict(zip(features, row))) for i, row in enumerate(rows)]
          for split, rows in splits.items()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two data sets: pairs of three classes, and reviews with numbers."""
  folder = tmp_path_factory.mktemp("tfds")
  text = tfds.features.Text()
  prepare(folder, "glue/nli",
          {"premise": text, "hypothesis": text, "label": NLI, "idx": np.int32},
          train=[(f"a {i}", f"b {i}", NLI[i % 3] if i != 4 else -1, i)
                 for i in range(20)],
          validation_matched=[("c", "d", "contradiction", 7)],
          test=[("e", "f", -1, 0), ("g", "h", -1, 1)])
  prepare(folder, "stars",
          {"review": text, "title": text, "stars": np.float32,
           "votes": np.int64, "share": np.float64},
          train=[("good", "x", 4.5, 3, 0.5), ("bad", "y", 1, 0, 2)],
          test=[("dull", "z", 2, 1, 1)])
  return folder


class ParseTest:

  def test_list_and_yaml_say_the_same(self):
    expected = tfds_params.parse(
        "dataset=snli,text_key=premise,text_b_key=hypothesis,skip_label=-1,"
        "test_split=")
    assert expected == tfds_params.TfdsParams(
        dataset="snli", data_dir="", module_import="", train_split="train",
        dev_split="validation", test_split="", text_key="premise",
        text_b_key="hypothesis", test_text_key="", label_key="label",
        test_label="", label_type="int", weight_key="", is_regression=False,
        skip_label="-1")
    for text in (
        "{dataset: snli, text_key: premise, text_b_key: hypothesis, "
        "skip_label: -1, test_split: }",
        "dataset: snli\ntext_key: premise\ntext_b_key: hypothesis\n"
        "skip_label: -1\ntest_split:\n",
        " dataset = snli, text_key=premise, text_b_key= hypothesis,"
        "skip_label=-1,test_split=,is_regression=False"):
      assert tfds_params.parse(text) == expected

  def test_version_and_slices_are_no_yaml(self):
    params = tfds_params.parse(
        "dataset=imdb_reviews:1.0.0,train_split=train[:90%],"
        "dev_split=train[90%:],is_regression=1,label_type=float")
    assert params.dataset == "imdb_reviews:1.0.0"
    assert params.dev_split == "train[90%:]" and params.is_regression is True

  def test_code_that_makes_it_is_not_needed(self, caplog):
    tfds_params.parse("dataset=x,module_import=my.datasets")
    assert "module_import=my.datasets is not used" in caplog.text

  @pytest.mark.parametrize("text, message", [
      ("dataset=x,txt_key=a", "no parameter 'txt_key'; did you mean text_key?"),
      ("{dataset: x, test_lable: 1}", "no parameter 'test_lable'; did you mean "
       "test_label? There are dataset, data_dir,"),
      ("{dataset: x, 3: 1}", "no parameter '3'"),
      ("dataset=x,dataset=y", "dataset is given twice"),
      ("glue/sst2", "'glue/sst2' is no name=value"),
      ("", "'' is no name=value"), ("text_key=a", "has to name the data set"),
      ("{dataset: [a, b]}", "dataset has to be a single value"),
      ("dataset=x,label_type=str", "label_type=str has to be int or float"),
      ("dataset=x,is_regression=2", "is_regression=2 has to be true or false"),
      ("dataset=x,label_type=float", "add is_regression=true")])
  def test_what_is_wrong_is_named(self, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
      tfds_params.parse(text)


class TfdsParamsProcessorTest:

  NLI = "dataset=glue/nli,text_key=premise,text_b_key=hypothesis"

  def make(self, folder, text):
    return tfds_params.TfdsParamsProcessor(f"{text},data_dir={folder}")

  def rows(self, examples):
    return [(x.number, x.text_a, x.text_b, x.label, x.weight)
            for x in examples]

  def test_classes_are_the_data_sets_numbers(self, folder):
    task = self.make(
        folder, self.NLI + ",skip_label=-1,dev_split=validation_matched")
    assert task.get_labels() == ["0", "1", "2"] and not task.is_regression
    assert self.rows(task.get_train_examples(None)) == [
        (i, f"a {i}", f"b {i}", str(i % 3), None) for i in range(20) if i != 4]
    assert self.rows(task.get_dev_examples(None)) == [
        (7, "c", "d", "2", None)]
    assert self.rows(task.get_test_examples(None)) == [
        (0, "e", "f", "0", None), (1, "g", "h", "0", None)]

  @pytest.mark.parametrize("test_label, expected", [
      ("neutral", "1"), ("2", "2")])
  def test_label_of_the_test_split(self, test_label, expected, folder):
    task = self.make(folder, f"{self.NLI},test_label={test_label},"
                     "test_text_key=hypothesis")
    assert self.rows(task.get_test_examples(None))[0] == (
        0, "f", "f", expected, None)

  def test_slices_and_names_of_skipped_labels(self, folder):
    task = self.make(folder, self.NLI + ",train_split=train[:10],"
                     "dev_split=train[10:],skip_label=neutral")
    numbers = [x.number for x in task.get_dev_examples(None)]
    with pytest.raises(ValueError, match="0\\]:4: the label is -1, no class"):
      task.get_train_examples(None)
    task = self.make(folder, self.NLI + ",train_split=train[:10],skip_label=-1")
    others = [x.number for x in task.get_train_examples(None)]
    assert not set(numbers) & set(others) and len(others) in (9, 10)
    assert not any(number % 3 == 1 for number in numbers)

  def test_numbers_and_weights(self, folder):
    task = self.make(folder, "dataset=stars,text_key=review,label_key=stars,"
                     "is_regression=true,label_type=float,weight_key=share,"
                     "dev_split=test,test_label=-1.5")
    assert task.get_labels() == [] and task.is_regression
    assert sorted(self.rows(task.get_train_examples(None)),
                  key=lambda row: row[1]) == [
        (pytest.approx(0, abs=1), "bad", None, "1.0", 2.0),
        (pytest.approx(0, abs=1), "good", None, "4.5", 0.5)]
    assert self.rows(task.get_dev_examples(None))[0][3:] == ("2.0", 1.0)
    assert self.rows(task.get_test_examples(None))[0][3:] == ("-1.5", 1.0)
    task = self.make(folder, "dataset=stars,text_key=review,label_key=votes,"
                     "is_regression=true")
    assert sorted(x.label for x in task.get_train_examples(None)) == ["0", "3"]

  @pytest.mark.parametrize("text, message", [
      ("dataset=glue/none", "dataset=glue/none is not prepared in data_dir="),
      ("dataset=glue/nli", "text_key=text: glue/nli has no such column; it has "
       "hypothesis, idx, label, premise."),
      (NLI + ",weight_key=premise", "weight_key=premise: the column holds "
       "text, not numbers"),
      ("dataset=stars,text_key=votes", "text_key=votes: the column holds "
       "numbers, not text"),
      ("dataset=stars,text_key=title,label_key=stars", "label_key=stars has no "
       "classes in stars. If it holds numbers to be met, add is_regression"),
      ("dataset=stars,text_key=title,label_key=stars,is_regression=yes",
       "holds fractions, which label_type=int would cut"),
      (NLI + ",test_label=3", "test_label=3 has to be one of entailment, "
       "neutral, contradiction or a number up to 2"),
      ("dataset=stars,text_key=title,label_key=votes,is_regression=yes,"
       "test_label=1.5", "test_label=1.5 has to be a whole number")])
  def test_what_the_data_set_lacks(self, text, message, folder):
    with pytest.raises(ValueError, match=re.escape(message)):
      self.make(folder, text)

  @pytest.mark.parametrize("text, message", [
      (NLI, "dev_split=validation: glue/nli has no such split; it has test, "),
      (NLI + ",dev_split=train[a:]", "dev_split=train[a:]: glue/nli has no"),
      (NLI + ",dev_split=", "dev_split is empty"),
      (NLI + ",dev_split=validation_matched,skip_label=2",
       "skip_label=2 leaves no row of glue/nli validation_matched")])
  def test_splits_that_are_not_there(self, text, message, folder):
    task = self.make(folder, text)
    with pytest.raises(ValueError, match=re.escape(message)):
      task.get_dev_examples(None)

  def test_weights_below_nothing(self, tmp_path):
    prepare(tmp_path, "odd", {"text": tfds.features.Text(), "label": NLI,
                              "weight": np.float32},
            train=[("a", "neutral", -1)])
    task = self.make(tmp_path, "dataset=odd,weight_key=weight")
    with pytest.raises(ValueError, match="odd train:0: the weight is -1.0"):
      task.get_train_examples(None)
