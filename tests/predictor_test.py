"""Tests of demo/predictor.py: its answers are those of the scripts."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from demo import export_helpers
from demo import predictor
import run_classifier
import tokenization
from tests import export_helpers_test
from tests import served_models

LABELS, LENGTH = served_models.LABELS, served_models.LENGTH
CONTEXT = ("The film was great, and the Hotel very good; but the food quite "
           "awful. " * 2).strip()


@pytest.fixture(scope="module")
def exports(tiny_model, tmp_path_factory):
  """kind -> (folder of exports, prefix of the checkpoint)."""
  return served_models.make_exports(
      tiny_model, tmp_path_factory.mktemp("predictor"),
      ["classification", "regression", "squad"])


def padded_probabilities(model, kind, prefix, items):
  """What the scripts' way gives: all rows padded to the flag's length."""
  tokenizer = tokenization.FullTokenizer(model.vocab_file, True)
  label = (LABELS[kind] or ["0"])[0]
  features = [run_classifier.convert_single_example(
      9, run_classifier.InputExample("", *texts, label=label), LABELS[kind],
      LENGTH, tokenizer) for texts in items]
  rows = {name: np.array([getattr(feature, name) for feature in features],
                         np.int32)
          for name in ("input_ids", "input_mask", "segment_ids")}
  (outputs,) = export_helpers_test.expected_outputs(
      export_helpers_test.build_function(model, kind), prefix, [rows])
  return outputs["probabilities"]


class TextsTest:

  ITEMS = [("the film was good",), ("a", "b"), ("good " * 40, "bad " * 40),
           ("",), ("Lovely room!", ""), ("the staff", "was the staff awful?")]

  @pytest.mark.parametrize("kind", ["classification", "regression"])
  def test_answers_are_those_of_padded_rows_whatever_the_batches(
      self, kind, exports, tiny_model):
    path, prefix = exports[kind]
    expected = padded_probabilities(tiny_model, kind, prefix, self.ITEMS)
    assert np.ptp(expected, axis=0).max() > 0.05  # The rows are told apart.
    items = [texts[0] if len(texts) == 1 else texts for texts in self.ITEMS]
    for batch_size in (1, 4, 32):
      answers = predictor.load(str(path), batch_size)(items)
      for answer, row in zip(answers, expected):
        if kind == "regression":
          assert answer == {"value": pytest.approx(row[0], abs=1e-5)}
          continue
        best = LABELS[kind][int(np.argmax(row))]
        assert list(answer["probabilities"]) == LABELS[kind]
        np.testing.assert_allclose(
            list(answer["probabilities"].values()), row, rtol=0, atol=1e-5)
        assert answer["label"] == best
        assert answer["probability"] == answer["probabilities"][best]

  def test_encoded_items_are_answered_until_it_is_closed(self, exports):
    classify = predictor.load(str(exports["classification"][0]), 2, 1)
    items = ["the film was good", ("a", "b"), "good " * 40]
    encoded = [classify.codec.encode(item) for item in items]
    assert classify.answers(encoded) == classify(items)
    assert classify.answers([]) == []
    classify.close()
    classify.close()
    with pytest.raises(ValueError, match="closed"):
      classify.answers(encoded)

  def test_one_item_gives_one_answer(self, exports):
    classify = predictor.load(str(exports["classification"][0]))
    items = ["a good film", ("a good film", "a bad film"),
             {"text_a": "a good film", "text_b": "a bad film"}]
    single = [classify(item) for item in items]
    assert classify(items) == [
        {**answer, "probability": pytest.approx(answer["probability"]),
         "probabilities": pytest.approx(answer["probabilities"])}
        for answer in single]
    assert single[1] == single[2] != single[0]
    assert classify([]) == []

  @pytest.mark.parametrize("item", [
      3, None, ("a", "b", "c"), ("a", 3), (), {"text": "a"}, b"bytes",
      {"text_a": "a", "text_b": "b", "label": "c"}, [["a", "b", "c"]]])
  def test_what_is_no_text_is_refused(self, item, exports):
    classify = predictor.load(str(exports["classification"][0]))
    with pytest.raises(ValueError, match="A text or a pair of texts"):
      classify([item])


class QuestionsTest:

  def test_answer_is_placed_in_the_context(self, exports):
    ask = predictor.load(str(exports["squad"][0]))
    assert len(ask.codec.encode(("was it good?", CONTEXT)).rows) > 2
    found = ask([("was it good?", CONTEXT),
                 {"question": "what was awful", "context": "good food"}])
    assert len(found) == 2
    for answer, context in zip(found, (CONTEXT, "good food")):
      entries = answer["nbest"]
      assert 1 <= len(entries) <= 5 and answer["null_odds"] is not None
      assert sum(x["probability"] for x in entries) == pytest.approx(1)
      for entry in entries:
        if entry["text"]:
          assert context[entry["start"]:entry["end"]] == entry["text"]
        else:
          assert entry["start"] is None
      assert answer["answer"] in [entry["text"] for entry in entries]

  @pytest.mark.parametrize("item", [
      "a question", ("a",), ("a", None), {"question": "a"}, ("a", "b", "c")])
  def test_what_is_no_question_is_refused(self, item, exports):
    ask = predictor.load(str(exports["squad"][0]))
    with pytest.raises(ValueError, match="question and a context"):
      ask([item])

  def test_context_without_a_word_is_refused(self, exports):
    with pytest.raises(ValueError, match="no word"):
      predictor.load(str(exports["squad"][0]))(("what?", " \n"))


class BatchOfRowsTest:

  ROWS = [predictor.Row([1, 2, 3], [1, 1, 1], [0, 0, 1]),
          predictor.Row([4], [1], [0])]

  def specs(self, shape, *others):
    return {"input_ids": tf.TensorSpec(shape, tf.int32),
            **{name: tf.TensorSpec(shape[:1], tf.int32) for name in others}}

  def test_rows_are_padded_to_the_longest(self):
    feed = predictor.batch_of_rows(self.ROWS, self.specs([None, None]))
    assert {name: array.tolist() for name, array in feed.items()} == {
        "input_ids": [[1, 2, 3], [4, 0, 0]],
        "input_mask": [[1, 1, 1], [1, 0, 0]],
        "segment_ids": [[0, 0, 1], [0, 0, 0]]}

  def test_fixed_shapes_and_the_five_input_form_are_met(self):
    feed = predictor.batch_of_rows(
        self.ROWS, self.specs([3, 4], "label_ids", "is_real_example"))
    assert {name: array.shape for name, array in feed.items()} == {
        "input_ids": (3, 4), "input_mask": (3, 4), "segment_ids": (3, 4),
        "label_ids": (3,), "is_real_example": (3,)}
    assert feed["is_real_example"].tolist() == [1, 1, 0]
    assert feed["input_mask"].sum() == 4


class LoadTest:

  def test_newest_export_is_taken_and_what_is_none_refused(
      self, exports, tmp_path):
    folder = exports["classification"][0]
    (version,) = pathlib.Path(folder).iterdir()
    assert predictor.load(str(folder)).path == str(version)
    assert predictor.load(str(version)).path == str(version)
    with pytest.raises(ValueError, match="has no exported model"):
      predictor.load(str(tmp_path))
    with pytest.raises(ValueError, match="batch_size=0"):
      predictor.load(str(folder), 0)

  @pytest.mark.parametrize("text", ["", "{}", "[1]", '{"kind": "squad"}'])
  def test_damaged_description_is_refused(self, text, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ValueError, match="was not written by --do_export"):
      predictor.load(str(tmp_path))
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "model_info.json").write_text(text)
    with pytest.raises(ValueError, match="model_info.json is damaged"):
      predictor.load(str(tmp_path))

  def test_newest_is_the_highest_number_that_is_whole(self, tmp_path):
    for name in ("9", "10", "11.tmp", "x", "12"):
      (tmp_path / name).mkdir()
      if name != "12":
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
    assert export_helpers.versions(str(tmp_path)) == [9, 10]
    assert export_helpers.find_export(str(tmp_path)) == str(tmp_path / "10")
    assert export_helpers.versions(str(tmp_path / "nowhere")) == []
