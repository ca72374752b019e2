"""Tests of demo/runner_helpers.py: what it runs gives what TensorFlow's own
loader gives."""

import gc
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from demo import export_helpers
from demo import runner_helpers
from tests import export_helpers_test
from tests import served_models

# Prints how many threads came with runners of 2 and of 5, after a first one.
@pytest.fixture(scope="module")
def exports(tiny_model, tmp_path_factory):
  """kind -> folder of an export; "texts" has all that flags add."""
  folder = tmp_path_factory.mktemp("runner")
  found = {kind: path for kind, (path, _) in served_models.make_exports(
      tiny_model, folder).items()}
  found["texts"] = served_models.export(
      tiny_model, "classification", folder / "texts", export_text_inputs=True,
      export_five_inputs=True, export_fixed_length=True)
  return {kind: export_helpers.find_export(path)
          for kind, path in found.items()}


class Doubled(tf.Module):
  """A model of TensorFlow 2, with a variable, a constant and a table."""

  def __init__(self):
    super().__init__()
    self.factor = tf.Variable(2.0)
    self.words = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["a", "b"], [3, 4]), 0)

  @tf.function(input_signature=[
      tf.TensorSpec([None, 3], tf.float32), tf.TensorSpec([None], tf.string)])
  def serve(self, x, word):
    return {"y": self.factor * x, "number": self.words.lookup(word)}

  @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
  def square(self, x):
    return {"z": tf.matmul(x, x)}


def shapes(specs):
  return {name: (spec.dtype, spec.shape.rank and spec.shape.as_list())
          for name, spec in specs.items()}


def assert_same_as_eager(path, signature, feed):
  """Runs both; returns the runner's outputs."""
  loaded = export_helpers.load_export(path)
  serve = loaded.signatures[signature]
  runner = runner_helpers.load_runner(path, signature)
  assert shapes(runner.specs) == shapes(serve.structured_input_signature[1])
  assert shapes(runner.outputs) == shapes(serve.structured_outputs)
  expected = serve(**{name: tf.constant(array) for name, array in feed.items()})
  found = runner.run(feed)
  assert set(found) == set(expected)
  for name, array in found.items():
    assert array.dtype == expected[name].numpy().dtype
    np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5)
  return found


class SavedModelTest:

  def rows(self, tiny_model, length=served_models.LENGTH):
    return export_helpers_test.token_rows(tiny_model.vocab_size, length)

  @pytest.mark.parametrize("kind", sorted(served_models.LABELS))
  def test_exports(self, kind, exports, tiny_model):
    for length in (served_models.LENGTH, 9):
      rows = self.rows(tiny_model, length)
      found = assert_same_as_eager(exports[kind], "serving_default", rows)
      assert all(np.ptp(array) > 0.01 for array in found.values())

  def test_sources_of_the_token_ids(self, exports, tiny_model):
    rows = self.rows(tiny_model)
    examples = export_helpers_test.as_examples(rows).numpy()
    count = len(rows["input_ids"])
    for kind, signature, feed in (
        ("squad", "serve_examples", {"examples": examples}),
        ("windows", "serve_windows", {
            **rows, "texts": np.arange(count, dtype=np.int32) // 2}),
        ("texts", "serve_examples", {"examples": examples}),
        ("texts", "serve_texts", {
            "text_a": np.array(["the film", "bad"], object),
            "text_b": np.array(["", "was good"], object)}),
        ("texts", "serving_default", {
            **rows, "label_ids": np.zeros(count, np.int32),
            "is_real_example": np.ones(count, np.int32)})):
      assert_same_as_eager(exports[kind], signature, feed)

  def test_functions_of_tensorflow_2(self, tmp_path):
    module = Doubled()
    tf.saved_model.save(module, str(tmp_path), {
        "serving_default": module.serve, "square": module.square})
    x = np.arange(6, dtype=np.float32).reshape([2, 3])
    found = assert_same_as_eager(str(tmp_path), "serving_default", {
        "x": x, "word": np.array(["b", "other"], object)})
    assert found["y"].tolist() == (2 * x).tolist()
    assert found["number"].tolist() == [4, 0]
    assert_same_as_eager(str(tmp_path), "square", {"x": x[:, :2]})

  def test_frozen_and_an_output_that_is_an_input(self, tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      ids = tf.compat.v1.placeholder_with_default(
          tf.zeros([1, 2], tf.int32), [None, 2], "other_name")
      signature = tf.compat.v1.saved_model.predict_signature_def(
          {"ids": ids}, {"ids": ids, "sum": tf.reduce_sum(
              ids * tf.constant([2, 3]), -1)})
      builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "model"))
      builder.add_meta_graph_and_variables(
          session, [tf.saved_model.SERVING], {"serving_default": signature})
      builder.save()
    runner = runner_helpers.load_runner(str(tmp_path / "model"))
    found = runner.run({"ids": [[1, 2], [5, 6], [0, 1]]})
    assert found["sum"].tolist() == [8, 28, 3]
    assert found["ids"].tolist() == [[1, 2], [5, 6], [0, 1]]

  def test_what_can_not_be_run_is_refused(self, exports, tiny_model):
    path = exports["classification"]
    with pytest.raises(ValueError, match="has no signature serve_windows"):
      runner_helpers.load_runner(path, "serve_windows")
    rows = self.rows(tiny_model)
    runner = runner_helpers.load_runner(path)
    for feed in ({"input_ids": rows["input_ids"]}, {**rows, "more": [1]}):
      with pytest.raises(ValueError, match="takes input_ids, input_mask, seg"):
        runner.run(feed)

  def test_calls_and_closed_runners_leave_nothing(self, exports, tiny_model):
    def graphs():
      gc.collect()
      return sum(isinstance(x, tf.Graph) for x in gc.get_objects())

    rows = self.rows(tiny_model)
    before = graphs()
    runner = runner_helpers.load_runner(exports["squad"])
    runner.run(rows)
    gc.collect()
    count = len(gc.get_objects())
    for _ in range(50):
      runner.run(rows)
    gc.collect()
    assert len(gc.get_objects()) < count + 20
    assert graphs() == before + 1
    runner.close()
    runner.close()
    assert graphs() == before
    with pytest.raises(ValueError, match="closed"):
      runner.run(rows)

  @pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(),
                      reason="threads can't be counted")
  def test_threads_are_those_of_its_session(self, tmp_path, monkeypatch):
    module = Doubled()
    tf.saved_model.save(module, str(tmp_path), {
        "serving_default": module.square})
    made, session = [], tf.compat.v1.Session
    monkeypatch.setattr(tf.compat.v1, "Session", lambda *args, **values: (
        made.append(values["config"]), session(*args, **values))[1])
    for count in (0, 3):
      runner_helpers.load_runner(
          str(tmp_path), num_threads=count).run({"x": [[1.0]]})
    assert [config.intra_op_parallelism_threads for config in made] == [0, 3]
