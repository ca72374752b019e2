"""Parts of run_pretraining.py: which records are read, and by whom."""

import gzip

from absl import flags
import numpy as np
import pytest
import tensorflow as tf

from demo import record_helpers
import modeling
import run_pretraining

LENGTH, PREDICTIONS = 8, 2


def record(number, length=LENGTH, **left_out):
  """A serialized example whose first id is `number`."""
  def ints(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  features = {
      "input_ids": ints(number, *[1] * (length - 1)),
      "input_mask": ints(*[1] * length), "segment_ids": ints(*[0] * length),
      "masked_lm_positions": ints(1, 0), "masked_lm_ids": ints(3, 0),
      "masked_lm_weights": tf.train.Feature(
          float_list=tf.train.FloatList(value=[1.0, 0.0])),
      "next_sentence_labels": ints(number % 2)}
  for name in left_out:
    del features[name]
  return tf.train.Example(
      features=tf.train.Features(feature=features)).SerializeToString()


def write(path, numbers, compression=None, **kwargs):
  with tf.io.TFRecordWriter(str(path), compression) as writer:
    for number in numbers:
      writer.write(record(number, **kwargs))
  return str(path)


def read(files, batches, is_training=True, batch_size=2):
  """First ids of so many batches, as one list."""
  input_fn = run_pretraining.input_fn_builder(
      files, LENGTH, PREDICTIONS, is_training)
  found = []
  for batch in input_fn({"batch_size": batch_size}).take(batches):
    found += batch["input_ids"].numpy()[:, 0].tolist()
  return found


def parsed(**values):
  """The flags of the script with these values."""
  args = flags.FlagValues()
  for name, value in {"max_seq_length": LENGTH, "do_train": True,
                      "max_predictions_per_seq": PREDICTIONS, "do_eval": False,
                      "eval_input_file": None, "eval_every_steps": 0,
                      "eval_all_checkpoints": False, "continuous_eval": False,
                      **values}.items():
    (flags.DEFINE_bool if isinstance(value, bool) else
     flags.DEFINE_integer if isinstance(value, int) else
     flags.DEFINE_string)(name, value, "", flag_values=args)
  args.mark_as_parsed()
  return args


@pytest.fixture
def as_rank(monkeypatch):
  """Function of size and rank that makes this process that rank."""
  def become(size, rank):
    helpers = run_pretraining.horovod_helpers
    monkeypatch.setattr(helpers, "hvd_size", lambda: size)
    monkeypatch.setattr(helpers, "hvd_rank", lambda: rank)
  return become


class InputFnTest:

  def test_plain_and_compressed_files_are_read_together(self, tmp_path):
    files = [write(tmp_path / "a", range(4)),
             write(tmp_path / "b", range(4, 8), "GZIP")]
    with open(files[1], "rb") as reader:
      assert len(gzip.decompress(reader.read())) > 100
    assert read(files, 5, is_training=False) == [*range(8), 0, 1]
    assert sorted(set(read(files, 40))) == list(range(8))

  def test_a_seed_gives_the_same_order(self, tmp_path):
    files = [write(tmp_path / str(i), range(10 * i, 10 * i + 10))
             for i in range(3)]
    orders = []
    for seed, done in ((1, 0), (1, 0), (2, 0), (1, 4)):
      with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.set_random_seed(seed)
        d = run_pretraining.input_fn_builder(
            files, LENGTH, PREDICTIONS, True)(
                {"batch_size": 5, record_helpers.BATCHES_DONE: done})
        batch = tf.compat.v1.data.make_one_shot_iterator(d).get_next()
        orders.append([session.run(batch["input_ids"])[:, 0].tolist()
                       for _ in range(6)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[3][:2] == orders[0][4:]  # A run that goes on.

  @pytest.mark.parametrize("num_files", [1, 3, 4, 21])
  def test_ranks_share_the_records_out(self, num_files, as_rank, tmp_path):
    """With each number of files, whether these are dealt out or shared."""
    files = [write(tmp_path / str(i), range(10 * i, 10 * i + 6))
             for i in range(num_files)]
    seen = []
    for rank in range(2):
      as_rank(2, rank)
      own = set(read(files, 12 * num_files))
      assert not own & set(seen)
      seen += own
    assert sorted(seen) == [
        10 * i + j for i in range(num_files) for j in range(6)]


def input_files(args):
  return run_pretraining._input_files(
      args, modeling.BertConfig(100, type_vocab_size=2))


class InputFilesTest:

  def test_names_patterns_and_folders(self, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "nested").mkdir()
    files = [write(tmp_path / name, [1])
             for name in ("a.1", "a.2", "train/x", "train/y")]
    value = f"{tmp_path}/a.*,{tmp_path}/train"
    assert input_files(parsed(input_file=value)) == (
        files, [])
    assert input_files(parsed(
        input_file=value, do_eval=True, eval_input_file=files[3])) == (
            files, [files[3]])
    assert input_files(parsed(
        input_file=files[0], do_train=False, do_eval=True)) == ([], files[:1])

  @pytest.mark.parametrize("make, message", [
      (lambda path: path.write_text("no records" * 9),
       "is no record file of"),
      (lambda path: path.write_bytes(b""), "holds no whole record"),
      (lambda path: write(path, [1], length=12),
       "input_ids of its records has 12 values, --max_seq_length says 8. Pass "
       "--max_seq_length=12"),
      (lambda path: write(path, [1], segment_ids=None),
       "its records have no segment_ids but input_ids, input_mask,"),
      (lambda path: write(path, [1, 100]),
       "input_ids of its records has 1 to 100, the model takes 0 to 99. Were "
       "they made with the vocabulary of --bert_config_file"),
      (lambda path: path.write_bytes((write(path, [1, 2]) and
                                      path.read_bytes())[:-20]),
       "or damaged"),
      (lambda path: None, "there is no file")])
  def test_wrong_files_are_refused(self, make, message, tmp_path):
    make(tmp_path / "file")
    with pytest.raises(ValueError) as error:
      input_files(parsed(input_file=f"{tmp_path}/file"))
    assert message in str(error.value) and str(tmp_path) in str(error.value)

  def test_a_rank_without_records_is_refused(self, as_rank, tmp_path):
    path = write(tmp_path / "file", [1, 2])
    as_rank(3, 1)
    input_files(parsed(input_file=path))
    as_rank(3, 2)
    with pytest.raises(ValueError, match="too few for 3 ranks"):
      input_files(parsed(input_file=path))


class DamagedFileTest:

  def test_is_named(self, tmp_path):
    whole = write(tmp_path / "whole", [1])
    cut = write(tmp_path / "cut", [1, 2], "GZIP")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-20])
    error = tf.errors.DataLossError(None, None, "truncated\nand more")
    with pytest.raises(ValueError, match=r"cut is damaged \(truncated\)\."):
      record_helpers.name_damaged_file([whole, cut], error)
    record_helpers.name_damaged_file([whole], error)


class GatherIndexesTest:

  def test_picks_vectors_row_by_row(self):
    rows = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    found = run_pretraining.gather_indexes(
        tf.constant(rows), tf.constant([[3, 0], [1, 1]]))
    np.testing.assert_array_equal(found, [*rows[0][[3, 0]], *rows[1][[1, 1]]])
