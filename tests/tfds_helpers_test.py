"""Tests of demo/tfds_helpers.py, on data sets that they prepare themselves."""

import socket

import numpy as np
import pytest

from demo import tfds_helpers

tfds = pytest.importorskip("tensorflow_datasets")
_MNLI = ["entailment", "neutral", "contradiction"]


def prepare(folder, name, label, columns, version="1.0.0", **splits):
  """Writes a data set in TFDS's form, its rows shuffled as TFDS does.

  Args:
    folder: path.
    name: string, such as "glue/sst2".
    label: list of class names, or a NumPy type.
    columns: list of names of the text columns.
    version: string.
    **splits: split -> list of rows: texts and label (name or number).
  """
  feature = tfds.features.ClassLabel(names=label) if isinstance(
      label, list) else label
  name, _, config = name.partition("/")
  features = tfds.features.FeaturesDict({
      **{column: tfds.features.Text() for column in columns},
      "label": feature, "idx": np.int32})
  tfds.dataset_builders.store_as_tfds_dataset(
      name=name, config=config or None, version=version, data_dir=str(folder),
      features=features, split_datasets={
          split: [(i, dict(zip([*columns, "label"], row), idx=i))
                  for i, row in enumerate(rows)]
          for split, rows in splits.items()})


class PreparedDatasetTest:

  @pytest.fixture(scope="class")
  def folder(self, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "glue/mnli", _MNLI, ["premise", "hypothesis"],
            train=[(f"é {i}", f"b {i}", _MNLI[i % 3]) for i in range(20)],
            test_matched=[("a", "b", -1)])
    for version in ("1.0.0", "1.10.0", "1.9.0"):
      prepare(folder, "scores", np.float32, ["text"], version,
              train=[(version, 0.1), ("x", 5)])
    return folder

  def test_rows_as_text_in_their_own_order(self, folder):
    dataset = tfds_helpers.PreparedDataset("glue/mnli", str(folder))
    assert dataset.splits == ["test_matched", "train"]
    table = dataset.table("train")
    assert table.path == "glue/mnli train"
    by_name = [dict(zip(table.names, row)) for row in table.rows]
    assert by_name == [
        {"premise": f"é {i}", "hypothesis": f"b {i}", "label": _MNLI[i % 3],
         "idx": str(i)} for i in range(20)]
    assert table.lines == list(range(20))
    (row,) = dataset.table("test_matched").rows
    assert dict(zip(table.names, row))["label"] is None
    assert dataset.class_names("label") == _MNLI
    assert dataset.class_names("premise") is dataset.class_names("x") is None
    assert not dataset.is_fraction("label") and not dataset.is_fraction("x")

  def test_numbers_and_the_newest_version(self, folder):
    dataset = tfds_helpers.PreparedDataset("scores", str(folder))
    table = dataset.table("train")
    assert [row[table.find("text")] for row in table.rows] == ["1.10.0", "x"]
    assert [row[table.find("label")] for row in table.rows] == ["0.1", "5.0"]
    assert dataset.is_fraction("label") and not dataset.is_fraction("text")
    older = tfds_helpers.PreparedDataset("scores:1.9.0", str(folder))
    assert older.table("train").rows[0][table.find("text")] == "1.9.0"

  @pytest.mark.parametrize("name", [
      "glue/sst2", "imdb_reviews", "scores:2.0.0", "no name"])
  def test_what_is_not_prepared_is_not_fetched(
      self, name, folder, monkeypatch):
    def refuse(*args, **kwargs):
      raise AssertionError("asks the network")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(ValueError, match=rf"--use_tfds={name} is not prepared "
                       rf"in --tfds_dir={folder}.*tfds build {name} --data_dir"):
      tfds_helpers.PreparedDataset(name, str(folder))
