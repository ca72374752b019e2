"""Tests of demo/finetuning_helpers.py, and of its use in run_classifier.py."""

import json
import types

from absl import flags
import numpy as np
import pytest
import tensorflow as tf

from demo import finetuning_helpers
from demo import option_helpers
from demo import record_helpers
from demo import task_helpers
import run_classifier
import run_squad

LENGTH = 4


def feature(values):
  if isinstance(values[0], float):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))
  return record_helpers.int_feature(values)


def write(path, *numbers, **changed):
  """Writes a record for each number, its first token id.

  Args:
    path: file.
    *numbers: int.
    **changed: other values of features, or None to leave one out.
  """
  with tf.io.TFRecordWriter(str(path)) as writer:
    for number in numbers:
      values = {
          "input_ids": [number] + [1] * (LENGTH - 1),
          "input_mask": [1] * LENGTH, "segment_ids": [0] * LENGTH,
          "label_ids": [number % 2], "is_real_example": [1], **changed}
      writer.write(tf.train.Example(features=tf.train.Features(feature={
          name: feature(value) for name, value in values.items()
          if value is not None})).SerializeToString())
  return str(path)


def arguments(**values):
  """The flags of run_classifier with these values."""
  args = flags.FlagValues()
  for name, value in {
      "do_train": True, "do_eval": False, "do_predict": False,
      "train_records": None, "eval_records": None, "predict_records": None,
      "meta_data_file": None, "task_name": None, "max_seq_length": LENGTH,
      "use_tpu": False, "use_xla": False, "dynamic_padding": False,
      "distributed_predict": False,
      "version_2_with_negative": False, "doc_stride": 128,
      "eval_every_steps": 0, "output_dir": None, "data_dir": None,
      "use_tfds": None, "tfds_dir": None, "train_file": None,
      "dev_file": None, "test_file": None, "text_a": None, "text_b": None,
      "label": None, "labels": None, "regression": False,
      "has_header": "auto"}.items():
    (flags.DEFINE_bool if isinstance(value, bool) else
     flags.DEFINE_integer if isinstance(value, int) else
     flags.DEFINE_string)(name, value, "", flag_values=args)
  args(["x", *(f"--{name}={value}" for name, value in values.items())])
  return args


def record_set(value, args=None, flag="train_records", labels=("0", "1"),
               weights=False):
  """The RecordSet that run_classifier makes of these files."""
  args = args or arguments()
  setattr(args, flag, str(value))
  return finetuning_helpers.RecordProcessor(
      args, None, labels, not labels, weights)._records(flag)


def read(records, batches=None, batch_size=2, args=None, is_training=False):
  """Batches of a RecordSet's input_fn: name -> array of all rows."""
  d = records.input_fn(args or arguments(), is_training)(
      {"batch_size": batch_size})
  found = list(d.take(batches or -1).as_numpy_iterator())
  return {name: np.concatenate([batch[name] for batch in found])
          for name in found[0]}


def meta_data_file(folder, **values):
  (folder / "meta").write_text(json.dumps({
      "task_type": "bert_classification", "processor_type": "SST-2",
      "max_seq_length": LENGTH, "num_labels": 2, **values}))
  return str(folder / "meta")


def find(args):
  """(task, processor) of the flags."""
  task, make_processor = task_helpers.TaskFinder(
      args, run_classifier.PROCESSORS, run_classifier.find_processor,
      run_classifier.InputExample).find()
  return task, make_processor(None)


def find_by_meta_data(folder, meta_data=None, **values):
  """`find` of records with these meta data, and of these flags."""
  return find(arguments(
      **{"train_records": "x", "meta_data_file": meta_data_file(
          folder, **(meta_data or {})), **values}))


class RecordSetTest:

  def test_counts_and_keeps_the_order(self, tmp_path):
    write(tmp_path / "a.1", 4, 5, 6)
    write(tmp_path / "a.2", 7, 8, example_id=[17])
    records = record_set(f"{tmp_path}/a.*")
    assert len(records) == 5 and records.max_input_id == 8
    assert records.ids == [0, 1, 2, 17, 17]
    assert records.columns["label_ids"].tolist() == [0, 1, 0, 1, 0]
    found = read(records)
    assert found["input_ids"][:, 0].tolist() == [4, 5, 6, 7, 8]
    assert found["label_ids"].dtype == np.int32 and "weight" not in found

  def test_model_gardens_variants(self, tmp_path):
    """No is_real_example, weights, whole numbers in a regression."""
    path = write(tmp_path / "a", 4, 5, is_real_example=None, weight=[0.5],
                 label_ids=[3])
    found = read(record_set(path, labels=()))
    assert found["is_real_example"].tolist() == [1, 1]
    assert found["weight"].tolist() == [0.5, 0.5]
    assert found["label_ids"].tolist() == [3.0, 3.0]
    assert found["label_ids"].dtype == np.float32
    path = write(tmp_path / "a", 4, 5, label_ids=[2.5])
    assert read(record_set(path, labels=()))["label_ids"].tolist() == [2.5] * 2

  @pytest.mark.parametrize("num_files", [1, 3, 17])
  def test_ranks_share_every_pass_out(self, num_files, tmp_path, monkeypatch):
    for i in range(num_files):
      write(tmp_path / f"{i:02}", *range(10 * i, 10 * i + 4 + i % 3))
    records = record_set(tmp_path)
    helpers = finetuning_helpers.horovod_helpers
    # What is left to shuffle is the order.
    monkeypatch.setattr(record_helpers, "shuffled", lambda d, params: d)
    monkeypatch.setattr(helpers, "hvd_size", lambda: 3)
    seen = []
    for rank in range(3):
      monkeypatch.setattr(helpers, "hvd_rank", lambda: rank)
      seen += read(records, batch_size=1, is_training=True)[
          "input_ids"][:, 0].tolist()
    assert sorted(seen) == [10 * i + j for i in range(num_files)
                            for j in range(4 + i % 3)]

  def test_training_repeats_and_shuffles_records_of_all_files(self, tmp_path):
    for i in range(3):
      write(tmp_path / str(i), *range(100 * i, 100 * i + 100))
    found = read(record_set(tmp_path), 150, batch_size=10, is_training=True)[
        "input_ids"][:, 0]
    assert sorted(set(found)) == list(range(300))
    assert {number // 100 for number in found[:20]} == {0, 1, 2}

  def test_distributed_prediction_deals_batches_out(
      self, tmp_path, monkeypatch):
    records = record_set(write(tmp_path / "a", *range(7)))
    helpers = finetuning_helpers.horovod_helpers
    monkeypatch.setattr(helpers, "hvd_size", lambda: 2)
    monkeypatch.setattr(helpers, "horovod_enabled", lambda: True)
    args = arguments(distributed_predict=True)
    seen = []
    for rank in range(2):
      monkeypatch.setattr(helpers, "hvd_rank", lambda: rank)
      seen.append(read(records, args=args)["input_ids"][:, 0].tolist())
    assert seen == [[0, 1, 4, 5], [2, 3, 6]]

  @pytest.mark.parametrize("labels", [(), ("0", "1")])
  def test_dummy_needs_no_files(self, labels):
    records = record_set("dummy", labels=labels)
    assert len(records) == 1024 and records.files == []
    found = read(records, 3, is_training=True)
    assert found["input_mask"].tolist() == [[1] * LENGTH] * 6
    assert found["is_real_example"].all() and not found["label_ids"].any()

  @pytest.mark.parametrize("make, message", [
      (lambda path: None, "there is no file"),
      (lambda path: path.write_bytes(b""), "holds no whole record"),
      (lambda path: path.write_text("no records" * 9), "is no record file of "
       "demo.create_finetuning_data"),
      (lambda path: write(path, 4, segment_ids=None),
       "its records have no segment_ids but input_ids, input_mask"),
      (lambda path: write(path, 4, label_ids=None), "have no label_ids but"),
      (lambda path: write(path, 4, label_ids=[0.5]),
       "label_ids of its records is float_list, expected int64_list"),
      (lambda path: write(path, 4, label_ids=[2]),
       "label_ids of its records has 2 to 2, 0 to 1 is possible"),
      (lambda path: write(path, 4, label_ids=[0, 1]),
       "label_ids of its records has 2 values, expected 1"),
      (lambda path: write(path, 4, input_ids=[1] * 8),
       "input_ids of its records has 8 values, --max_seq_length says 4. Pass "
       "--max_seq_length=8"),
      (lambda path: write(path, 4, input_ids=[-1] * 4), "token ids below 0"),
      (lambda path: write(path, *range(150), segment_ids=[2] * 4),
       "segment_ids of its records has 2 to 2"),
      (lambda path: path.write_bytes((write(path, *range(150)) and
                                      path.read_bytes())[:-9]),
       "is damaged, or no record file")])
  def test_wrong_files_are_refused(self, make, message, tmp_path):
    make(tmp_path / "file")
    with pytest.raises(ValueError) as error:
      record_set(tmp_path / "file")
    assert message in str(error.value) and str(tmp_path) in str(error.value)

  def test_records_that_change_on_the_way_are_refused(self, tmp_path):
    whole, short = tmp_path / "whole", tmp_path / "short"
    write(whole, *range(120))
    write(short, 5, input_ids=[1] * 3)
    (tmp_path / "both").write_bytes(whole.read_bytes() + short.read_bytes())
    for others in ("", f",{whole}"):
      with pytest.raises(ValueError, match="both: not all of its records are"):
        record_set(f"{whole},{tmp_path}/both{others}")

  def test_weights_that_the_meta_data_promise(self, tmp_path):
    with pytest.raises(ValueError, match="its records have no weight but"):
      record_set(write(tmp_path / "a", 4), weights=True)

  def test_weights_below_0_and_no_weight_at_all_are_refused(self, tmp_path):
    with pytest.raises(ValueError, match="a: its records have weights below 0"):
      record_set(write(tmp_path / "a", 4, 5, weight=[-0.5]))
    with pytest.raises(ValueError, match="--train_records: all .* weight 0"):
      record_set(write(tmp_path / "b", 4, 5, weight=[0.0]))

  def test_windows_of_records_are_refused_by_name(self, tmp_path):
    args = arguments(doc_stride=2)
    records = record_set(write(tmp_path / "a", 4, 5), args)
    processor = finetuning_helpers.RecordProcessor(
        args, None, ["0", "1"], False, False)
    found, _, _ = run_classifier._read_examples(args, "records", processor)
    assert len(found) == len(records)
    args = types.SimpleNamespace(class_weights=None, doc_stride=2)
    with pytest.raises(ValueError, match="--doc_stride=2 splits texts"):
      run_classifier._check_record_flags(args, records)

  def test_ids_of_another_vocabulary(self, tmp_path):
    records = record_set(write(tmp_path / "a", 4, 99))
    records.check_ids(100)
    with pytest.raises(ValueError, match="token ids up to 99, the model takes"):
      records.check_ids(99)

  def test_a_tpu_needs_whole_batches(self, tmp_path):
    records = record_set(write(tmp_path / "a", 4, 5, 6))
    with pytest.raises(ValueError, match="3 records don't make batches of 2"):
      read(records, args=arguments(use_tpu=True))

  def test_squads_records_and_positions(self, tmp_path):
    changed = dict(label_ids=None, unique_ids=[7], start_positions=[3],
                   end_positions=[3])
    args = arguments(train_records=write(tmp_path / "a", 4, 5, **changed))
    config = types.SimpleNamespace(vocab_size=6)
    records = run_squad._train_records(args, config)
    assert set(read(records)) == {
        "input_ids", "input_mask", "segment_ids", "unique_ids",
        "start_positions", "end_positions"}
    write(tmp_path / "a", 4, **{**changed, "end_positions": [4]})
    with pytest.raises(ValueError, match="end_positions of its records has 4"):
      run_squad._train_records(args, config)


class MetaDataTest:

  def test_sets_the_length(self, tmp_path):
    args = arguments(train_records="x", meta_data_file=meta_data_file(
        tmp_path, max_seq_length=77))
    find(args)
    assert args.max_seq_length == 77

  @pytest.mark.parametrize("meta_data, values, message", [
      ({}, dict(max_seq_length=8),
       "--max_seq_length=8, but the records were made with 4"),
      ({}, dict(meta_data_file="/nowhere/x"), "/nowhere/x can't be read"),
      (dict(task_type="bert_squad"), {},
       "of task_type 'bert_squad', this script takes bert_classification"),
      (dict(num_labels=None), {}, "num_labels is None, a whole number"),
      (dict(max_seq_length="128"), {}, "max_seq_length is '128', a whole")])
  def test_what_does_not_fit_is_refused(
      self, meta_data, values, message, tmp_path):
    with pytest.raises(ValueError) as error:
      find_by_meta_data(tmp_path, meta_data, **values)
    assert message in str(error.value)

  @pytest.mark.parametrize("content, message", [
      ("{", "is not JSON"), ("[]", "has no task_type"), ("{}", "no task_type")])
  def test_other_files_are_refused(self, content, message, tmp_path):
    (tmp_path / "x").write_text(content)
    with pytest.raises(ValueError, match=message):
      finetuning_helpers.read_meta_data(str(tmp_path / "x"), ("bert_squad",))

  @pytest.mark.parametrize("number", [None, 1])
  def test_regression_has_no_labels_whatever_is_written(self, number, tmp_path):
    content = finetuning_helpers.read_meta_data(
        meta_data_file(tmp_path, task_type="bert_regression",
                       num_labels=number), ("bert_regression",))
    assert "num_labels" not in content

  def test_squad_takes_its_windows_from_it(self, tmp_path):
    meta_data = meta_data_file(
        tmp_path, task_type="bert_squad", doc_stride=50,
        version_2_with_negative=True)
    args = arguments(train_records="x", meta_data_file=meta_data)
    run_squad._take_meta_data(args)
    assert args.doc_stride == 50 and args.version_2_with_negative
    args = arguments(train_records="x", meta_data_file=meta_data, doc_stride=60)
    run_squad._take_meta_data(args)
    assert args.doc_stride == 60  # To answer with, which windows don't bind.
    with pytest.raises(ValueError, match="Pass --version_2_with_negative=True"):
      run_squad._take_meta_data(arguments(
          train_records="x", meta_data_file=meta_data,
          version_2_with_negative=False))


class WeightTest:

  @pytest.mark.parametrize("weight, expected", [
      (None, 7.0 / 3), ([1.0, 1.0, 1.0], 7.0 / 3), ([2.0, 0.0, 1.0], 2.0)])
  def test_loss_is_the_mean_of_weighted_rows(self, weight, expected):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      each, logits = tf.constant([1.0, 2.0, 4.0]), tf.zeros([3, 2])
      features = {"label_ids": tf.constant([0, 1, 0])}
      if weight:
        features["weight"] = tf.constant(weight)
      for mode in (tf.estimator.ModeKeys.EVAL, tf.estimator.ModeKeys.TRAIN):
        outputs = run_classifier.model_outputs(
            mode, features,
            lambda _: (tf.reduce_mean(each), each, logits, logits),
            option_helpers.UPSTREAM)
        assert session.run(outputs[0]) == pytest.approx(expected)
