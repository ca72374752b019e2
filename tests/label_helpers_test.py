"""Tests of demo/label_helpers.py."""

import types

import numpy as np
import pytest
from sklearn.utils import class_weight

from demo import label_helpers
import run_classifier
from tests import run_classifier_test


class CheckLabelsTest:

  def test_unknown_label_is_named_with_its_line(self, tmp_path):
    data_dir = run_classifier_test.write_files(tmp_path, {
        "train.tsv": "sentence\tlabel\nfine\t1\ndull\tbad\n"})
    examples = run_classifier.Sst2Processor().get_train_examples(data_dir)
    with pytest.raises(ValueError, match=r"train.tsv:3: label 'bad'.* 0, 1"):
      label_helpers.check_labels(examples, ["0", "1"])

  @pytest.mark.parametrize("label", ["", "three", "nan", "inf"])
  def test_regression_wants_a_finite_number(self, label):
    with pytest.raises(ValueError, match="expected a number"):
      label_helpers.check_labels(
          run_classifier_test.make_examples([("a", "b", label)]), [])


class ClassWeightsTest:

  def weights(self, value, labels=("a", "b", "c"), examples=None, smoothing=0):
    args = types.SimpleNamespace(
        class_weights=value, label_smoothing=smoothing)
    return label_helpers.class_weights(args, list(labels), examples)

  def test_numbers_in_label_order(self):
    assert self.weights("1,2.5,0") == (1.0, 2.5, 0.0)
    assert self.weights(None) is None

  def test_balanced_is_scikit_learns(self):
    labels = list("abbcccccba")
    examples = run_classifier_test.make_examples(
        [("x", None, label) for label in labels])
    assert self.weights("balanced", examples=examples) == pytest.approx(
        class_weight.compute_class_weight(
            "balanced", classes=np.array(list("abc")), y=labels))
    assert self.weights("balanced") is None  # Nothing is trained.
    with pytest.raises(ValueError, match="no training example has label 'd'"):
      self.weights("balanced", "abcd", examples)

  @pytest.mark.parametrize("value", [
      "1,2", "1,2,3,4", "1,-2,3", "1,nan,3", "1,inf,3", "1,two,3", "0,0,0", "",
      "Balanced"])
  def test_others_are_refused(self, value):
    with pytest.raises(ValueError, match=(
        f"--class_weights={value}: expected balanced or 3 numbers.* a, b, c")):
      self.weights(value)

  def test_regression_has_no_classes(self):
    for value, smoothing, flag in (("1", 0, "--class_weights=1"),
                                   (None, 0.1, "--label_smoothing=0.1")):
      with pytest.raises(ValueError, match=f"{flag}: a regression task"):
        self.weights(value, (), smoothing=smoothing)


class CheckTrainedLabelsTest:

  def check(self, trained, found):
    label_helpers.check_trained_labels(
        types.SimpleNamespace(output_dir="out"),
        trained and {"labels": trained}, found)

  def test_the_same_or_without_names(self):
    self.check(None, ["a", "b"])
    self.check(["a", "b"], ["a", "b"])
    self.check(["0", "1"], ["a", "b"])
    self.check(["a", "b"], ["0", "1"])
    label_helpers.check_trained_labels(None, {"labels": []}, [])

  @pytest.mark.parametrize("trained, found, message", [
      (["b", "a"], ["a", "b"], "b, a; here they are a, b"),
      (["0", "1"], ["a", "b", "c"], "0, 1; here they are a, b, c"),
      (["a", "b"], [], "a, b; here they are numbers")])
  def test_others_are_refused(self, trained, found, message):
    with pytest.raises(ValueError, match=f"--output_dir=out: .*{message}"):
      self.check(trained, found)


class ReadLabelMapTest:

  def test_none_without_a_file(self, tmp_path):
    assert label_helpers.read_label_map(str(tmp_path)) is None

  @pytest.mark.parametrize("text", [
      "{", "[]", "{}", "[" * 100000, *(
          '{"kind": "classification", "labels": %s, "columns": '
          '{"text_a": %s, "text_b": null, "label": 1}}' % values
          for values in (('["a"]', 0), ('"ab"', 0), ('["a", "a"]', 0),
                         ('["a", "b"]', "[0]")))])
  def test_damaged_file_is_refused(self, text, tmp_path):
    (tmp_path / "label_map.json").write_text(text)
    with pytest.raises(ValueError, match="label_map.json is damaged"):
      label_helpers.read_label_map(str(tmp_path))
