"""Tests of run_squad.py's parts."""

import functools
import hashlib
import json
import subprocess
import sys
import types

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from demo import worker_helpers
import run_squad
from tests import conftest
import tokenization

# Letters, signs that are cut off, accents, and all kinds of blanks.
TEXTS = st.text("abz.,'-\u00e9\u0130\u00a0\u202f\u00ad\u4e2d\U0001f600 \n",
                max_size=60)


@pytest.fixture
def tokenizer(tiny_model):
  return tokenization.FullTokenizer(tiny_model.vocab_file)


def write(folder, *paragraphs, title="T"):
  """Writes a SQuAD file of (context, qas) pairs; returns its path."""
  path = folder / "x.json"
  path.write_text(json.dumps({"data": [{"title": title, "paragraphs": [
      {"context": context, "qas": qas} for context, qas in paragraphs]}]}))
  return str(path)


def question(number, *answers, **more):
  return {"id": f"q{number}", "question": "what?", "answers": [
      {"text": text, "answer_start": start} for text, start in answers],
          **more}


def converted(examples, tokenizer, is_training, length=32, stride=7, query=8):
  features = []
  run_squad.convert_examples_to_features(
      examples, tokenizer, length, stride, query, is_training, features.append)
  return features


class ReadSquadExamplesTest:

  def test_answer_words(self, tmp_path):
    path = write(tmp_path, ("  one two\u202fthree\nfour", [
        question(1, ("two", 6)), question(2, ("wo\u202fth", 7)),
        question(3, ("one", 2)), question(4, ("four", 16))]))
    examples = run_squad.read_squad_examples(path, True)
    assert examples[0].doc_tokens == ["one", "two", "three", "four"]
    assert [(e.start_position, e.end_position) for e in examples] == [
        (1, 1), (1, 2), (0, 0), (3, 3)]

  def test_answer_with_a_no_break_space_is_left_out(self, tmp_path, caplog):
    path = write(tmp_path, ("5\u00a0km away", [question(1, ("5\u00a0km", 0)),
                                               question(2, ("away", 5))]))
    examples = run_squad.read_squad_examples(path, True)
    assert [e.qas_id for e in examples] == ["q2"]
    assert examples[0].doc_tokens == ["5\u00a0km", "away"]

  def test_answer_that_is_elsewhere_is_left_out_with_its_place(
      self, tmp_path, caplog):
    path = write(tmp_path, ("one two", [question(1, ("two", 0)),
                                        question(2, ("two", 4))]))
    with caplog.at_level("WARNING"):
      examples = run_squad.read_squad_examples(path, True)
    assert [e.qas_id for e in examples] == ["q2"]
    assert "data[0].paragraphs[0].qas[0] ('T', id 'q1')" in caplog.text

  @pytest.mark.parametrize("qa,version_2,message", [
      ({"id": "q", "question": "?"}, False, "has 0 answers"),
      (question(1, ("a", 0), ("b", 2)), False, "has 2 answers"),
      (question(1, ("a", 99)), False, "answer_start is 99, with which"),
      (question(1, ("a", -1)), False, "answer_start is -1, with which"),
      (question(1, ("b c d e", 2)), False, "answer_start is 2, with which"),
      (question(1, ("a", None)), False, "answer_start ('T') is null, expected "
                                        "a whole number"),
      (question(1, ("a", True)), False, "answer_start ('T') is true"),
      (question(1, (None, 0)), False, "text ('T') is null, expected a text"),
      (question(1, ("", 0)), False, "answers[0].text is empty"),
      ({"id": "q", "question": "?", "answers": [{"text": "a"}]}, False,
       "answers[0].answer_start ('T') is missing"),
      ({"id": "q", "question": "?", "answers": 5}, False,
       "answers ('T') is 5, expected a list"),
      ({"id": "q", "question": "?", "answers": ["a"]}, False,
       'answers[0] (\'T\') is "a", expected an object'),
      (question(1, ("a", 0), is_impossible="true"), True,
       'is_impossible (\'T\') is "true", expected true or false'),
      (question(1, ("a", 0)), True, "this is SQuAD 1.1"),
      (question(1, is_impossible=True), False, "this is SQuAD 2.0"),
      (question(1, is_impossible=False), True, "has 0 answers"),
      ({"id": "q"}, False, "question ('T') is missing"),
      ({"id": 7, "question": "?"}, False, "id ('T') is 7, expected a text"),
      (3, False, "qas[0] ('T') is 3, expected an object")])
  def test_errors_name_the_place(self, qa, version_2, message, tmp_path):
    path = write(tmp_path, ("a b c", [qa]))
    with pytest.raises(ValueError) as error:
      run_squad.read_squad_examples(path, True, version_2)
    assert str(error.value).startswith(f"{path}: data[0].paragraphs[0].qas[0]")
    assert message in str(error.value)

  @pytest.mark.parametrize("content,message", [
      ("", "is not JSON"), ("[" * 100000, "is not JSON"),
      ("[" + "1" * 5000 + "]", "is not JSON"),
      ("[]", "the file is [], expected an object with 'data'"),
      ('{"data": 3}', "data is 3, expected a list"),
      ('{"data": [[]]}', "data[0] is [], expected an object"),
      ('{"data": [{"title": "T"}]}', "data[0].paragraphs is missing"),
      ('{"data": [{"title": "T", "paragraphs": [{"qas": []}]}]}',
       "data[0].paragraphs[0].context ('T') is missing"),
      ('{"data": [{"paragraphs": [{"context": "x"}]}]}',
       "data[0].paragraphs[0].qas is missing")])
  def test_other_json_is_refused(self, content, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError) as error:
      run_squad.read_squad_examples(str(path), False)
    assert message in str(error.value) and str(path) in str(error.value)

  def test_byte_order_mark_is_taken_and_other_encodings_refused(self, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"data": []}')
    assert run_squad.read_squad_examples(str(path), False) == []
    path.write_bytes(b'{"data": "\xe9"}')
    with pytest.raises(ValueError, match="not UTF-8 text: byte 10"):
      run_squad.read_squad_examples(str(path), False)


class ConvertTest:

  def examples(self, tmp_path, is_training):
    data = conftest.squad_articles(40, 9)
    data["data"][0]["paragraphs"].append({"context": "great " * 70, "qas": [
        {"id": "long", "question": "what is it " * 9,
         "answers": [{"text": "great", "answer_start": 6}]}]})
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    return run_squad.read_squad_examples(str(path), is_training)

  @pytest.mark.parametrize("is_training", [True, False])
  @pytest.mark.parametrize("num_workers", [1, 2, 3])
  def test_any_number_of_workers_writes_the_same_records(
      self, num_workers, is_training, tiny_model, tokenizer, tmp_path,
      monkeypatch):
    monkeypatch.setattr(run_squad, "_MAX_CHUNK_SIZE", 7)
    examples = self.examples(tmp_path, is_training)
    plain = run_squad.FeatureWriter(str(tmp_path / "plain"), is_training)
    features = converted(examples, tokenizer, is_training)
    for feature in features:
      plain.process_feature(feature)
    plain.close()
    assert plain.num_features == len(features) > len(examples)

    convert = functools.partial(
        run_squad._convert_chunk,
        settings=(tiny_model.vocab_file, True, 32, 7, 8))
    with worker_helpers.WorkerPool(convert, num_workers) as pool:
      count, answers = run_squad._convert(
          examples, is_training, pool, str(tmp_path / "pool"),
          tokenizer.inv_vocab)
    assert count == len(features)
    assert (tmp_path / "pool").read_bytes() == (
        tmp_path / "plain").read_bytes()
    assert len(answers) == len(features)
    for answer, feature in zip(answers, features):
      for name in ("unique_id", "example_index", "tokens", "token_to_orig_map",
                   "token_is_max_context"):
        assert getattr(answer.unpack(), name) == getattr(feature, name), name

  @given(words=st.integers(1, 90), query=st.integers(0, 20),
         length=st.integers(14, 60), stride=st.integers(1, 40))
  @settings(max_examples=60, deadline=None)
  def test_windows_hold_the_whole_text(self, tiny_model, words, query, length,
                                       stride):
    tokenizer = tokenization.FullTokenizer(tiny_model.vocab_file)
    stride = min(stride, length - 8 - 3)
    example = run_squad.SquadExample("q", "is " * query, ["film"] * words)
    seen = set()
    best = []
    for feature in converted([example], tokenizer, False, length, stride):
      assert len(feature.input_ids) == len(feature.segment_ids) == length
      assert len(feature.tokens) == sum(feature.input_mask) <= length
      seen.update(feature.token_to_orig_map.values())
      best += [feature.token_to_orig_map[place] for place, flag in
               feature.token_is_max_context.items() if flag]
    assert seen == set(range(words))
    assert sorted(best) == list(range(words))  # Each in one window.

  @given(spans=st.lists(
      st.tuples(st.integers(0, 30), st.integers(1, 20)), min_size=1,
      max_size=6), position=st.integers(0, 55))
  def test_most_context_is_at_the_first_best_window(self, spans, position):
    scores = {
        index: min(position - start, start + length - 1 - position) +
               0.01 * length
        for index, (start, length) in enumerate(spans)
        if start <= position < start + length}
    for index in range(len(spans)):
      assert run_squad._check_is_max_context(spans, index, position) == (
          index == max(scores, key=scores.get, default=None))

  def test_part_of_a_word_is_found(self, tokenizer):
    pieces = ["(", "a", "-", "b", ")"]
    assert run_squad._improve_answer_span(pieces, 0, 4, tokenizer, "a") == (
        1, 1)
    assert run_squad._improve_answer_span(pieces, 0, 4, tokenizer, "z") == (
        0, 4)


@pytest.fixture
def real_vocab(shared):
  return str(shared / "models" / "minilm_l6_uncased" / "vocab.txt")


class RealDataTest:

  def convert(self, path, is_training, vocab_file, record_file):
    examples = run_squad.read_squad_examples(str(path), is_training)
    if is_training:
      run_squad.random.Random(12345).shuffle(examples)
    convert = functools.partial(
        run_squad._convert_chunk,
        settings=(vocab_file, True, 384, 128, 64))
    with worker_helpers.WorkerPool(convert, 2) as pool:
      return len(examples), run_squad._convert(
          examples, is_training, pool, str(record_file))[0]

  # Recorded from upstream: keys sorted, `key:v1,v2,...\n` of each record.
  @pytest.mark.parametrize("name,is_training,count,expected", [
      ("train-v1.1-small", True, 417,
       "02f9e183c737d37b90217277a1715b33f8a7320b5e2a35eef679febd34ac01da"),
      ("dev-v1.1-small", False, 200,
       "79d7a20d7de98c9587a7809d3735313e4d452767f7d40dbb2a1f11af17e9a4ba")])
  def test_records_hash_to_upstreams(
      self, name, is_training, count, expected, shared, real_vocab,
      tmp_path):
    found = self.convert(shared / "data" / "squad" / f"{name}.json",
                         is_training, real_vocab, tmp_path / "x")
    assert found[1] == count
    digest = hashlib.sha256()
    for record in tf.data.TFRecordDataset(
        str(tmp_path / "x")).as_numpy_iterator():
      features = tf.train.Example.FromString(record).features.feature
      for key in sorted(features):
        values = ",".join(map(str, features[key].int64_list.value))
        digest.update(f"{key}:{values}\n".encode())
    assert digest.hexdigest() == expected

  @pytest.mark.parametrize("name,is_training,expected", [
      ("dev-v1.1", False, (10570, 10833)),
      ("train-v1.1-part", True, (4370, 4466))])
  def test_counts_are_upstreams(
      self, name, is_training, expected, shared, real_vocab, tmp_path):
    assert self.convert(shared / "data" / "squad" / f"{name}.json",
                        is_training, real_vocab, tmp_path / "x") == expected


class FinalTextTest:

  def test_parts_of_words(self):
    def final(pred_text, orig_text):
      return run_squad.get_final_text(pred_text, orig_text, True)

    assert final("steve smith", "Steve Smith's") == "Steve Smith"
    assert final("jose", "(Jos\u00e9),") == "Jos\u00e9"
    assert final("nothing like it", "Steve Smith's") == "Steve Smith's"
    assert final("", "Steve") == "Steve"

  @given(TEXTS, st.data())
  def test_answer_is_a_part_of_the_text(self, text, data):
    orig_text = " ".join(run_squad._WORD.findall(text))
    words = tokenization.BasicTokenizer(True).tokenize(orig_text)
    start = data.draw(st.integers(0, len(words)))
    end = data.draw(st.integers(start, len(words)))
    found = run_squad.get_final_text(
        " ".join(words[start:end]), orig_text, True)
    assert found in orig_text


class BestIndexesTest:

  @given(st.lists(st.floats(-5, 5) | st.integers(-2, 2)), st.integers(1, 9))
  def test_is_the_sorted_order(self, logits, n_best_size):
    expected = sorted(range(len(logits)), key=lambda i: -logits[i])
    assert run_squad._get_best_indexes(logits, n_best_size) == (
        expected[:n_best_size])


class WritePredictionsTest:

  def run(self, example, tokenizer, tmp_path, logits=None, **values):
    """Dicts of the result files for one example."""
    features = converted([example], tokenizer, False)
    draw = np.random.RandomState(5)
    results = [run_squad.RawResult(
        feature.unique_id,
        *(logits or (draw.normal(size=32), draw.normal(size=32))))
               for feature in features]
    names = {name: tmp_path / name for name in ("p", "n", "o", "f")}
    values = {"n_best_size": 20, "max_answer_length": 30,
              "output_offsets_file": str(names["f"]), **values}
    run_squad.write_predictions(
        [example], features, results, do_lower_case=True,
        output_prediction_file=str(names["p"]),
        output_nbest_file=str(names["n"]),
        output_null_log_odds_file=str(names["o"]), **values)
    return {name: json.loads(path.read_text())["q"]
            for name, path in names.items() if path.exists()}

  def example(self, context):
    return run_squad.SquadExample(
        "q", "what?", run_squad._WORD.findall(context), context=context)

  @given(TEXTS)
  @settings(max_examples=40, deadline=None)
  def test_offsets_find_the_answer_in_any_text(
      self, tiny_model, tmp_path_factory, text):
    tokenizer = tokenization.FullTokenizer(tiny_model.vocab_file)
    found = self.run(self.example(text), tokenizer,
                     tmp_path_factory.mktemp("x"))
    for answer in found["f"]:
      if answer["start"] is None:
        assert answer["text"] == "empty"
        continue
      piece = text[answer["start"]:answer["end"]]
      assert " ".join(run_squad._WORD.findall(piece)) == answer["text"]

  @pytest.mark.parametrize("n_best_size,threshold,text,odds", [
      (1, 0.0, "", 1000000.0),  # Upstream fails: nothing beside "no answer".
      (2, 0.0, "", 12.0), (2, 12.0, "the", 12.0), (2, 11.9, "", 12.0)])
  def test_threshold(self, n_best_size, threshold, text, odds, tokenizer,
                     tmp_path):
    # [CLS] w ##h ##a ##t ? [SEP] the film is great [SEP]
    start, end = np.zeros(32), np.zeros(32)
    start[0] = end[0] = 9.0
    start[7] = end[7] = 3.0
    found = self.run(
        self.example("the film is great"), tokenizer, tmp_path, (start, end),
        n_best_size=n_best_size, version_2_with_negative=True,
        null_score_diff_threshold=threshold)
    assert found["p"] == text and found["o"] == pytest.approx(odds)
    assert [x["text"] for x in found["n"]] == ["", "the"][:n_best_size]

  def test_text_without_a_word(self, tokenizer, tmp_path):
    found = self.run(self.example(" \n"), tokenizer, tmp_path)
    assert found["p"] == "empty" and "o" not in found
    found = self.run(self.example(""), tokenizer, tmp_path,
                     version_2_with_negative=True)
    assert found["p"] == "" and found["o"] == 1000000.0


class TrainingTest:

  def test_steps_are_counted_by_questions(
      self, tokenizer, tmp_path, monkeypatch):
    """Of which there are fewer than windows."""
    text = "the film is great " * 20
    path = write(tmp_path, (text, [question(1, ("film", 4)),
                                   question(2, ("great", 12))]))
    examples = run_squad.read_squad_examples(path, True)
    assert len(converted(examples, tokenizer, True)) > 10
    counted = []

    def count(num_examples, args):
      counted.append(num_examples)
      raise KeyboardInterrupt  # That is all this test wants.

    monkeypatch.setattr(run_squad.estimator_helpers, "training_steps", count)
    args = types.SimpleNamespace(
        output_dir=str(tmp_path), train_file=path,
        version_2_with_negative=False)
    with pytest.raises(KeyboardInterrupt):
      run_squad._train(args, None, None)
    assert counted == [2]


class FlagsTest:

  def test_every_flag_of_upstream_and_what_is_added(self):
    program = ("import run_squad; before = set(run_squad.FLAGS); "
               "run_squad.init_squad_flags(); "
               "print(*set(run_squad.FLAGS) - before)")
    run = subprocess.run([sys.executable, "-c", program], cwd=conftest.PROJECT,
                         capture_output=True, text=True, check=True)
    # Each was defined by the function, none by importing.
    assert set(run.stdout.split()) >= {
        "cpu_only", "do_eval", "use_horovod", "write_offsets",
        "preprocess_workers", "version_2_with_negative", "doc_stride"}


class ScoreNamesTest:

  @pytest.mark.parametrize("version_2, expected", [
      (False, ("f1", "exact_match")),
      (True, ("f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1",
              "best_exact", "best_f1", "exact", "nbest_best_exact",
              "nbest_best_f1"))])
  def test_all_that_tell_a_good_model(self, version_2, expected):
    args = types.SimpleNamespace(version_2_with_negative=version_2)
    assert run_squad._score_names(args) == expected
