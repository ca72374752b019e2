"""Tests of demo/checkpoint_report.py on made-up checkpoints."""

import json

import numpy as np
import pytest
import tensorflow as tf

from demo import checkpoint_report
from demo import checkpoints


def made_up(arrays, kind="tensorflow"):
  return checkpoints.Variables(
      "made/up", kind, sorted(arrays), arrays.__getitem__)


def small_model():
  """A BERT of one layer with slots, a classifier and training state."""
  rng = np.random.RandomState(1)
  arrays = {
      "bert/embeddings/word_embeddings": rng.normal(size=[7, 4]),
      "bert/embeddings/position_embeddings": rng.normal(size=[5, 4]),
      "bert/embeddings/token_type_embeddings": rng.normal(size=[2, 4]),
      "bert/encoder/layer_0/intermediate/dense/kernel": rng.normal(
          size=[4, 16]),
      "output_weights": rng.normal(size=[3, 4])}
  for name in list(arrays):
    arrays[name] = arrays[name].astype(np.float32)
    for slot in ("adam_m", "adam_v"):
      arrays[f"{name}/{slot}"] = np.zeros_like(arrays[name])
  return {**arrays, "global_step": np.int64(12),
          "loss_scale/scale": np.float32(128)}


class DescribeTest:

  def test_totals_sizes_step_and_slots(self):
    arrays = small_model()
    report = json.loads(json.dumps(
        checkpoint_report.describe(made_up(arrays), False)))
    values = 7 * 4 + 5 * 4 + 2 * 4 + 4 * 16 + 3 * 4
    assert report["totals"] == {
        "model": {"variables": 5, "values": values, "bytes": 4 * values},
        "all": {"variables": 17, "values": 3 * values + 2,
                "bytes": 12 * values + 8 + 4}}
    assert report["global_step"] == 12
    assert report["model"] == {
        "num_hidden_layers": 1, "hidden_size": 4, "intermediate_size": 16,
        "vocab_size": 7, "max_position_embeddings": 5, "type_vocab_size": 2,
        "num_labels": 3, "squad_head": False, "masked_lm_head": False,
        "next_sentence_head": False}
    rows = {row["name"]: row for row in report["variables"]}
    assert set(rows) == set(arrays)
    assert rows["output_weights/adam_v"]["slot_of"] == "output_weights"
    assert rows["output_weights"]["slot_of"] is None
    assert "mean" not in rows["output_weights"]

    text = checkpoint_report.description_text(report, False)
    (line,) = [x for x in text.splitlines() if x.startswith("output_weights")]
    assert line.split() == ["output_weights", "[3,", "4]", "float32", "12",
                            "adam_m", "adam_v"]
    assert "global step: 12" in text and "classifier of 3 labels" in text
    assert "1 layers, hidden 4, intermediate 16, vocabulary 7" in text
    assert "NOT FINITE" not in text

  def test_statistics_are_of_what_is_finite_and_the_rest_is_named(self):
    arrays = {"bert/a": np.array([1, 2, np.nan, 6, -np.inf], np.float32),
              "bert/b": np.array([1.5, 2.5]).astype(
                  tf.bfloat16.as_numpy_dtype),
              "bert/c": np.array([np.nan], np.float32),
              "text": np.array([b"abc", b"d"], object)}
    report = checkpoint_report.describe(made_up(arrays), True)
    assert report["not_finite"] == ["bert/a", "bert/c"]
    rows = {row["name"]: row for row in report["variables"]}
    assert (rows["bert/a"]["nan"], rows["bert/a"]["inf"]) == (1, 1)
    assert (rows["bert/a"]["mean"], rows["bert/a"]["min"],
            rows["bert/a"]["max"]) == (3, 1, 6)
    assert rows["bert/a"]["std"] == pytest.approx(np.std([1, 2, 6]))
    assert rows["bert/b"]["dtype"] == "bfloat16"
    assert rows["bert/b"]["mean"] == 2
    assert rows["bert/c"]["mean"] is None
    assert (rows["text"]["dtype"], rows["text"]["bytes"]) == ("string", 4)
    text = checkpoint_report.description_text(report, True)
    assert "NOT FINITE: bert/a has 1 NaN and 1 infinite of 5 values" in text
    assert "not those of a BERT" in text


class CompareTest:

  def test_each_kind_of_difference(self):
    first = {"a": np.arange(6, dtype=np.float32), "b": np.zeros([2, 3]),
             "c": np.float32([np.nan, 1]), "d": np.float32([np.inf, 1]),
             "e": np.float32([1, np.nan]), "gone": np.zeros([1]),
             "global_step": np.int64(2)}
    second = {"a": first["a"] + np.float32([0, 0, 0.5, 0, -2, 0]),
              "b": np.zeros([3, 2]), "c": first["c"], "d": first["d"],
              "e": np.float32([1, 2]), "new": np.zeros([1]),
              "global_step": np.int64(5)}
    found = checkpoint_report.compare(made_up(first), made_up(second))
    assert found["missing"] == ["gone"] and found["extra"] == ["new"]
    assert found["shapes"] == [
        {"name": "b", "first": [2, 3], "second": [3, 2]}]
    assert [(row["name"], row["different"], row["max_difference"])
            for row in found["values"]] == [
                ("a", 2, 2.0), ("e", 1, None), ("global_step", 1, 3.0)]
    assert (found["equal"], found["is_equal"]) == (2, False)
    text = checkpoint_report.comparison_text(found)
    for part in ("only in the first (1):\ngone", "only in the second (1):\nnew",
                 "[2, 3]  [3, 2]", "not finite", "equal: 2 variables"):
      assert part in text

  def test_equal_ones(self):
    arrays = small_model()
    found = checkpoint_report.compare(made_up(arrays), made_up(arrays))
    assert found["is_equal"] and found["equal"] == len(arrays)
    assert "only in" not in checkpoint_report.comparison_text(found)
