"""Tests of demo/record_helpers.py."""

from hypothesis import given
from hypothesis import strategies as st
import pytest
import tensorflow as tf

from demo import record_helpers

NUMBERS = st.one_of(st.integers(0, 200), st.integers(-2 ** 63, 2 ** 63 - 1))


class SerializedExampleTest:

  @given(st.lists(NUMBERS, max_size=300), st.text(max_size=200))
  def test_entry_is_as_protocol_buffers_write_it(self, values, name):
    assert record_helpers.int_entry(name, values) == (
        record_helpers.feature_entry(name, record_helpers.int_feature(values)))

  @pytest.mark.parametrize("value, error", [
      (2 ** 63, OverflowError), (-2 ** 63 - 1, OverflowError),
      (0.5, TypeError), ("1", TypeError)])
  def test_what_is_no_int64_is_refused(self, value, error):
    with pytest.raises(error):
      record_helpers.int_entry("ids", [1, value])

  @given(st.lists(NUMBERS, max_size=300), st.text(max_size=200), NUMBERS)
  def test_is_what_tensorflow_reads(self, values, name, number):
    made = record_helpers.serialized_example(
        record_helpers.int_entry("a" + name, values),
        record_helpers.repeated_int_entry("mask", (1, 1, 0)),
        record_helpers.int_entry("b" + name, (number,)))
    example = tf.train.Example.FromString(made)
    assert {key: list(feature.int64_list.value)
            for key, feature in example.features.feature.items()} == {
                "a" + name: values, "mask": [1, 1, 0], "b" + name: [number]}

  def test_graph_reads_it_too(self):
    made = record_helpers.serialized_example(
        record_helpers.int_entry("ids", list(range(384))),
        record_helpers.int_entry("unique_ids", [1000000000]))
    parsed = tf.io.parse_single_example(made, {
        "ids": tf.io.FixedLenFeature([384], tf.int64),
        "unique_ids": tf.io.FixedLenFeature([], tf.int64)})
    assert parsed["ids"].numpy().tolist() == list(range(384))
    assert parsed["unique_ids"].numpy() == 1000000000


class UntunedTest:

  def test_same_data_without_the_tuning_thread(self):
    d = record_helpers.untuned(lambda params: tf.data.Dataset.range(
        params["batch_size"]))({"batch_size": 3})
    assert list(d.as_numpy_iterator()) == [0, 1, 2]
    assert d.options().autotune.enabled is False


class ReusableTest:

  @pytest.fixture
  def written(self, tmp_path):
    """(record file, function of flags -> what it is made from)."""
    (tmp_path / "in.json").write_text("data")
    path = str(tmp_path / "x.tf_record")
    with tf.io.TFRecordWriter(path) as writer:
      writer.write(b"a")
      writer.write(b"b")

    def origin(**values):
      return record_helpers.origin({"input": str(tmp_path / "in.json")}, values)

    record_helpers.write_lock(path, origin(length=8), 2)
    return path, origin

  def test_same_origin(self, written):
    path, origin = written
    assert record_helpers.reusable(path, origin(length=8)) == 2

  def test_other_flags_or_other_input(self, written, tmp_path):
    path, origin = written
    assert record_helpers.reusable(path, origin(length=9)) is None
    assert record_helpers.reusable(path, origin(length=8, more=1)) is None
    (tmp_path / "in.json").write_text("Data")
    assert record_helpers.reusable(path, origin(length=8)) is None

  def test_other_python(self, written, monkeypatch):
    path, origin = written
    monkeypatch.setattr(record_helpers.unicodedata, "unidata_version", "99")
    assert record_helpers.reusable(path, origin(length=8)) is None

  def test_flipped_bit(self, written):
    path, origin = written
    with open(path, "r+b") as file:
      file.seek(12)  # The data of the first record.
      file.write(b"c")
    assert record_helpers.reusable(path, origin(length=8)) is None

  def test_cut_missing_or_forgotten_files(self, written):
    path, origin = written
    with open(path, "r+b") as file:
      file.truncate(20)
    assert record_helpers.reusable(path, origin(length=8)) is None
    tf.io.gfile.remove(path)
    assert record_helpers.reusable(path, origin(length=8)) is None
    record_helpers.forget(path)
    assert not tf.io.gfile.exists(record_helpers.lock_file(path))
    record_helpers.forget(path)

  @pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\x00"])
  def test_damaged_lock(self, written, content):
    path, origin = written
    with open(record_helpers.lock_file(path), "w", encoding="utf-8") as writer:
      writer.write(content)
    assert record_helpers.reusable(path, origin(length=8)) is None
