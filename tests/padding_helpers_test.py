"""Tests of demo/padding_helpers.py, and of --dynamic_padding in the scripts."""

import collections
import types

import numpy as np
import pytest
import tensorflow as tf

from demo import option_helpers
from demo import padding_helpers
from demo import record_helpers
from demo import window_helpers
import modeling
import run_classifier
import run_squad
import tokenization
from tests import conftest

LENGTH = 44  # No multiple of 8.
SIZE = 4  # Rows of a batch.


def texts(count, longest=LENGTH - 2, seed=1):
  """Texts of 1 to `longest` tokens, mostly short ones."""
  rng = np.random.RandomState(seed)
  return [" ".join(rng.choice(conftest.WORDS, 1 + int(
      (longest - 1) * rng.uniform() ** 3))) for _ in range(count)]


def write(tiny_model, path, rows, windows=None):
  """Writes the records of texts; the label of each is its number."""
  names = list(map(str, range(len(rows))))
  run_classifier.file_based_convert_examples_to_features(
      [run_classifier.InputExample(name, text, None, name)
       for name, text in zip(names, rows)], names, LENGTH,
      tokenization.FullTokenizer(tiny_model.vocab_file), str(path), windows)
  return str(path)


@pytest.fixture(scope="module")
def record_file(tiny_model, tmp_path_factory):
  """The records of 200 texts."""
  return write(tiny_model, tmp_path_factory.mktemp("records") / "x.tf_record",
               texts(200))


def read(path, count, step=8, is_training=True, done=0, has_windows=False,
         seed=1, size=SIZE):
  """`count` batches of the classifier's input_fn (dicts of arrays)."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    tf.compat.v1.set_random_seed(seed)
    d = run_classifier.file_based_input_fn_builder(
        path, LENGTH, is_training, is_training, has_windows=has_windows,
        length_step=step)(
            {"batch_size": size, record_helpers.BATCHES_DONE: done})
    batch = tf.compat.v1.data.make_one_shot_iterator(d).get_next()
    return [session.run(batch) for _ in range(count)]


def numbers(batches):
  """How often each record (its number) is in batches."""
  return collections.Counter(
      label for batch in batches for label in batch["label_ids"].tolist())


def length_of(batch):
  """The tokens of the longest row."""
  return int(batch["input_mask"].sum(axis=-1).max())


class LengthStepTest:

  @pytest.mark.parametrize("wanted, use_xla, length, expected", [
      (False, False, 128, None), (False, True, 128, None),
      (True, False, 128, 8), (True, True, 128, 32), (True, True, 384, 96),
      (True, True, 100, 32), (True, True, 5, 8)])
  def test_xla_compiles_four_lengths_at_most(
      self, wanted, use_xla, length, expected):
    step = padding_helpers.length_step(types.SimpleNamespace(
        dynamic_padding=wanted, use_xla=use_xla, max_seq_length=length))
    assert step == expected
    if use_xla and wanted:
      assert -(-length // step) <= 4


class CutTest:

  def cut(self, *rows, step=8, length=20):
    mask = np.array([[1] * row + [0] * (length - row) for row in rows],
                    np.int32)
    found = padding_helpers.cut(
        {"input_ids": tf.constant(mask + 4), "input_mask": tf.constant(mask),
         "segment_ids": tf.constant(mask), "label_ids": tf.range(length)}, step)
    assert found["label_ids"].shape == [length]
    (shape,) = {tuple(found[name].shape) for name in padding_helpers.SEQUENCES}
    assert shape[0] == len(rows)
    return shape[1]

  @pytest.mark.parametrize("rows, length", [
      ((3, 8), 8), ((9, 3), 16), ((16,), 16), ((17,), 20), ((20, 1), 20),
      ((0,), 8)])
  def test_multiples_of_eight_and_never_more_than_there_was(
      self, rows, length):
    assert self.cut(*rows) == length

  def test_tokens_behind_a_gap_of_the_mask_stay(self):
    mask = tf.constant([[1, 0, 0, 1, 0, 0]])
    assert padding_helpers.lengths(mask).numpy().tolist() == [4]
    assert padding_helpers.cut({"input_mask": mask}, 1)[
        "input_mask"].shape == [1, 4]


class GroupSizeTest:

  @pytest.mark.parametrize("count, size, expected", [
      (0, 32, 1), (63, 32, 1), (128, 32, 2), (3668, 32, 16), (1 << 20, 32, 16)])
  def test_half_of_the_records_at_most(self, count, size, expected):
    assert padding_helpers.group_size(count, size) == expected
    assert padding_helpers.group_size(min(
        count, padding_helpers.records_looked_at(size)), size) == expected


class TrainingBatchesTest:

  def test_all_batches_are_whole_and_as_long_as_their_longest_row(
      self, record_file):
    batches = read(record_file, 100)
    for batch in batches:
      assert len(batch["label_ids"]) == SIZE
      for name in padding_helpers.SEQUENCES:
        assert batch[name].dtype == np.int32
        assert batch[name].shape == (
            SIZE, min(-(-length_of(batch) // 8) * 8, LENGTH))
    assert len({batch["input_ids"].shape for batch in batches}) > 3

  def test_rows_are_those_that_there_were_but_for_padding(self, record_file):
    whole = {batch["label_ids"][0]: batch["input_ids"][0]
             for batch in read(record_file, 200, None, False, size=1)}
    for batch in read(record_file, 50):
      for label, ids in zip(batch["label_ids"], batch["input_ids"]):
        np.testing.assert_array_equal(ids, whole[label][:len(ids)])
        assert not whole[label][len(ids):].any()

  def test_rows_of_a_batch_are_of_like_length(self, record_file):
    padded, cut = (
        sum(batch["input_ids"].size for batch in read(record_file, 96, step, t))
        for step, t in ((None, True), (8, True)))
    real = sum(int(b["input_mask"].sum()) for b in read(record_file, 96))
    assert real < cut < 1.5 * real < 0.5 * padded

  def test_batches_come_in_any_order_of_length(self, record_file):
    lengths = [length_of(batch) for batch in read(record_file, 96)]
    signs = np.sign(np.diff(lengths))
    assert 20 < (signs > 0).sum() < 75 and 20 < (signs < 0).sum() < 75
    orders = {tuple(np.argsort(lengths[i:i + 16], kind="stable"))
              for i in range(0, 96, 16)}
    assert len(orders) == 6

  def test_every_record_comes_once_in_a_pass(self, record_file, monkeypatch):
    # Without this the passes blend where they meet, with and without cutting.
    monkeypatch.setattr(
        record_helpers, "shuffled",
        lambda d, params: record_helpers.unread(d.repeat(), params))
    size = padding_helpers.group_size(200, SIZE)
    assert size == 16
    batches = read(record_file, 25 * size)
    for first in range(0, len(batches), size):
      group = numbers(batches[first:first + size])
      assert group == numbers(read(
          record_file, size, None, done=first))
      assert max(group.values()) == 1
    # 25 groups of 64 rows are 8 passes over 200.
    assert set(numbers(batches).values()) == {8} and len(numbers(batches)) == 200

  @pytest.mark.parametrize("done", [0, 1, 15, 16, 21, 48])
  def test_a_run_that_goes_on_gets_the_batches_of_one_without_a_break(
      self, record_file, done):
    whole = read(record_file, done + 20)
    for batch, expected in zip(read(record_file, 20, done=done), whole[done:]):
      for name in expected:
        np.testing.assert_array_equal(batch[name], expected[name])
    other = read(record_file, done + 20, seed=2)
    assert [b["label_ids"].tolist() for b in other] != [
        b["label_ids"].tolist() for b in whole]

  def test_few_records(self, tiny_model, tmp_path):
    path = write(tiny_model, tmp_path / "x", texts(3))
    for batch in read(path, 5):  # More rows than records.
      assert len(batch["label_ids"]) == SIZE
    assert set(numbers(read(path, 5))) == {0, 1, 2}

  def test_texts_in_windows(self, tiny_model, tmp_path):
    rows = texts(60, longest=100)
    path = write(tiny_model, tmp_path / "x", rows,
                 window_helpers.Windows(16, 8))
    batches = read(path, 21, has_windows=True)
    assert len({batch["input_ids"].shape[2] for batch in batches}) > 2
    counts = set()
    for batch in batches:
      size, windows, length = batch["input_ids"].shape
      assert size == SIZE and length == min(
          -(-length_of(batch) // 8) * 8, LENGTH)
      counts.add(windows)
      for label, mask in zip(batch["label_ids"], batch["input_mask"]):
        tokens = len(rows[label].split())
        assert mask.sum() >= tokens + 2  # Windows overlap.
    assert max(counts) > 1


class BatchesInOrderTest:

  def test_evaluation_keeps_the_order_and_the_last_batch(self, record_file):
    cut, full = (read(record_file, 29, step, False, size=7)
                 for step in (8, None))
    assert [len(batch["label_ids"]) for batch in cut] == [7] * 28 + [4]
    for one, other in zip(cut, full):
      np.testing.assert_array_equal(one["label_ids"], other["label_ids"])
      length = one["input_ids"].shape[1]
      assert length == min(-(-length_of(other) // 8) * 8, LENGTH)
      for name in padding_helpers.SEQUENCES:
        np.testing.assert_array_equal(one[name], other[name][:, :length])
        assert not other[name][:, length:].any()
    assert sum(b["input_ids"].size for b in cut) < sum(
        b["input_ids"].size for b in full)


class SameNumbersTest:
  """What the models make of cut batches and of full ones."""

  def config(self, tiny_model):
    return modeling.BertConfig.from_dict(dict(
        tiny_model.config.to_dict(), hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.3))

  def both(self, input_fn, build):
    """What `build` makes of cut batches and of their rows at full length."""
    results, missing = [], 0
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      tf.compat.v1.set_random_seed(5)
      batch = tf.compat.v1.data.make_one_shot_iterator(
          input_fn({"batch_size": SIZE})).get_next()
      fed = {name: tf.compat.v1.placeholder(value.dtype, value.shape)
             for name, value in batch.items()}
      with tf.compat.v1.variable_scope("", reuse=tf.compat.v1.AUTO_REUSE):
        fetches = build(fed)
      session.run(tf.compat.v1.global_variables_initializer())
      variables = {var.op.name: var
                   for var in tf.compat.v1.trainable_variables()}
      session.run([  # Of a model that is built twice.
          var.assign(variables[name.replace("bert_1/", "bert/", 1)])
          for name, var in variables.items() if name.startswith("bert_1/")])
      for _ in range(8):
        cut = session.run(batch)
        full = {name: np.pad(value, [(0, 0)] * (value.ndim - 1) + [
            (0, LENGTH - value.shape[-1])])
                if name in padding_helpers.SEQUENCES else value
                for name, value in cut.items()}
        missing = max(missing, LENGTH - cut["input_ids"].shape[-1])
        results.append([
            session.run(fetches, {fed[name]: values[name] for name in fed})
            for values in (cut, full)])
    assert missing > 20
    return results

  @pytest.mark.parametrize("is_training", [True, False])
  def test_classification(self, is_training, tiny_model, record_file):
    def build(features):
      loss, each, logits, probabilities = run_classifier.create_model(
          self.config(tiny_model), is_training, features["input_ids"],
          features["input_mask"], features["segment_ids"],
          features["label_ids"] % 3, 3, False, dropout_before_logits=0.0)
      gradients = [
          tf.linalg.global_norm([grad]) for grad in tf.gradients(
              loss, tf.compat.v1.trainable_variables())]
      return [loss, each, logits, probabilities, tf.stack(gradients)]

    for cut, full in self.both(
        run_classifier.file_based_input_fn_builder(
            record_file, LENGTH, is_training, is_training, length_step=8),
        build):
      for one, other in zip(cut, full):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

  def test_windows(self, tiny_model, tmp_path):
    path = write(tiny_model, tmp_path / "x", texts(60, longest=100),
                 window_helpers.Windows(16, 8))

    def build(features):
      return run_classifier.create_model(
          self.config(tiny_model), False, features["input_ids"],
          features["input_mask"], features["segment_ids"],
          features["label_ids"] % 3, 3, False)

    for cut, full in self.both(
        run_classifier.file_based_input_fn_builder(
            path, LENGTH, True, True, has_windows=True, length_step=8),
        build):
      for one, other in zip(cut, full):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

  def squad_file(self, tiny_model, folder):
    path = str(folder / "squad")
    writer = run_squad.FeatureWriter(path, is_training=True)
    tokenizer = tokenization.FullTokenizer(tiny_model.vocab_file)
    for number, text in enumerate(texts(64, longest=30)):
      example = run_squad.SquadExample(
          qas_id=str(number), question_text="what is it",
          doc_tokens=text.split(), orig_answer_text=text.split()[-1],
          start_position=len(text.split()) - 1,
          end_position=len(text.split()) - 1)
      run_squad.convert_examples_to_features(
          [example], tokenizer, LENGTH, 16, 8, True, writer.process_feature)
    writer.close()
    return path

  def test_squad(self, tiny_model, tmp_path):
    """The logits of all positions that are left, and the loss over these."""
    path = self.squad_file(tiny_model, tmp_path)
    tf_mode = tf.estimator.ModeKeys
    model_fn = run_squad.model_fn_builder(
        self.config(tiny_model), None, 0.0, 10, 1, False, False)

    def build(features):
      tf.compat.v1.train.get_or_create_global_step()
      logits = model_fn(features, None, tf_mode.PREDICT, {}).predictions
      return [logits["start_logits"], logits["end_logits"],
              features["start_positions"], features["end_positions"],
              model_fn(features, None, tf_mode.TRAIN, {}).loss]

    for cut, full in self.both(
        run_squad.input_fn_builder(path, LENGTH, True, True, 8),
        build):
      losses = []
      for one, other, positions in zip(cut, full, cut[2:4]):
        other = other[:, :one.shape[1]]
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        powers = np.exp(other)
        losses.append(-np.log(
            powers[np.arange(SIZE), positions] / powers.sum(axis=1)).mean())
      assert cut[4] == pytest.approx(np.mean(losses), rel=1e-5)

  @pytest.mark.parametrize("parts", [1, 2])
  def test_an_update_in_parts(self, parts, tiny_model, record_file):
    def build(features):
      return run_classifier.model_outputs(
          tf.estimator.ModeKeys.TRAIN, features,
          lambda part: run_classifier.create_model(
              self.config(tiny_model), True, part["input_ids"],
              part["input_mask"], part["segment_ids"], part["label_ids"] % 3,
              3, False, dropout_before_logits=0.0),
          option_helpers.Options(num_accumulation_steps=parts))[0]

    for cut, full in self.both(
        run_classifier.file_based_input_fn_builder(
            record_file, LENGTH, True, True, length_step=8),
        lambda features: run_classifier.gradient_helpers.loss_value(
            build(features))):
      np.testing.assert_allclose(cut, full, rtol=1e-4, atol=1e-5)
