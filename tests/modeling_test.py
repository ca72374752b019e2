"""Tests of modeling.py: what holds beyond the recorded numbers."""

import copy
import json

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

import modeling

CONFIG = modeling.BertConfig(
    vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=37, max_position_embeddings=20, type_vocab_size=3)


def run(build, seed=3):
  """Builds a graph and returns the values of what `build` returns."""
  with tf.Graph().as_default():
    tf.compat.v1.set_random_seed(seed)
    fetches = build()
    with tf.compat.v1.Session() as session:
      session.run(tf.compat.v1.global_variables_initializer())
      return session.run(fetches)


def numpy_layer_norm(x):
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-12)


class BertConfigTest:

  def test_json_round_trip(self, tmp_path):
    path = tmp_path / "bert_config.json"
    path.write_text(CONFIG.to_json_string())
    read = modeling.BertConfig.from_json_file(str(path))
    assert read.to_dict() == CONFIG.to_dict()
    assert json.loads(read.to_json_string())["vocab_size"] == 99

  @pytest.mark.parametrize("text", ["{", "[1, 2]", ""])
  def test_what_is_no_json_object_is_refused_by_name(self, tmp_path, text):
    path = tmp_path / "bert_config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="bert_config.json.*bert_config_file"):
      modeling.BertConfig.from_json_file(str(path))


class LayerNormTest:

  @pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 30.0])
  def test_epsilon_is_that_of_the_published_models(self, scale):
    x = np.random.RandomState(0).normal(0, scale, [5, 16]).astype(np.float32)
    y = run(lambda: modeling.layer_norm(tf.constant(x)))
    np.testing.assert_allclose(y, numpy_layer_norm(x), atol=2e-5)

  def test_frozen_graph_computes_the_same(self):
    # TF 2.15.1 with oneDNN turns Keras' layer into one of epsilon 1e-3 once
    # its weights are constants; plain operations must not be changed so.
    x = np.random.RandomState(1).normal(0, 0.01, [64, 32]).astype(np.float32)
    ids = np.random.RandomState(2).randint(0, 99, [8, 20]).astype(np.int32)
    with tf.Graph().as_default() as graph:
      tf.compat.v1.set_random_seed(4)
      x_in = tf.compat.v1.placeholder(tf.float32, [None, 32], name="x")
      ids_in = tf.compat.v1.placeholder(tf.int32, [None, 20], name="ids")
      tf.identity(modeling.layer_norm(x_in), name="y")
      model = modeling.BertModel(CONFIG, False, ids_in)
      tf.identity(model.get_pooled_output(), name="pooled")
      feed = {"x:0": x, "ids:0": ids}
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        live = session.run(["y:0", "pooled:0"], feed)
        frozen_def = tf.compat.v1.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), ["y", "pooled"])
    with tf.Graph().as_default():
      tf.import_graph_def(frozen_def, name="")
      with tf.compat.v1.Session() as session:
        frozen = session.run(["y:0", "pooled:0"], feed)
    np.testing.assert_allclose(frozen[0], live[0], atol=1e-4)
    np.testing.assert_allclose(frozen[1], live[1], atol=1e-4)
    np.testing.assert_allclose(live[0], numpy_layer_norm(x), atol=1e-4)


class GeluTest:

  def test_is_the_tanh_form(self):
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    wide = x.astype(np.float64)
    expected = 0.5 * wide * (1 + np.tanh(
        np.sqrt(2 / np.pi) * (wide + 0.044715 * wide ** 3)))
    np.testing.assert_allclose(
        run(lambda: modeling.gelu(tf.constant(x))), expected, atol=2e-6)


class DropoutTest:

  def test_prob_is_the_share_that_is_dropped(self):
    kept = run(lambda: modeling.dropout(tf.ones([100, 100]), 0.25))
    assert abs((kept == 0).mean() - 0.25) < 0.03
    np.testing.assert_allclose(kept[kept != 0], 1 / 0.75, rtol=1e-5)

  def kept(self, steps, seed=3, micro_batch=None):
    """What two dropouts of a graph keep in each of some steps."""
    with tf.Graph().as_default():
      tf.compat.v1.set_random_seed(seed)
      step = tf.compat.v1.train.get_or_create_global_step()
      if micro_batch is not None:
        tf.compat.v1.add_to_collection(
            modeling.MICRO_BATCH, tf.constant(micro_batch))
      outputs = [modeling.dropout(tf.ones([40, 50]), 0.5) for _ in range(2)]
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        found = []
        for number in steps:
          session.run(step.assign(number))
          found.append(np.stack(session.run(outputs)) != 0)
    return np.stack(found)  # [steps, 2, 40, 50]

  def test_seeded_training_drops_the_same_in_a_step_however_it_got_there(self):
    all_steps = self.kept(range(5))
    np.testing.assert_array_equal(self.kept([3, 4]), all_steps[3:])
    np.testing.assert_array_equal(
        self.kept([3], micro_batch=0), all_steps[3:4])
    assert abs(all_steps.mean() - 0.5) < 0.02
    # Steps, dropouts, seeds and micro-batches agree by chance alone.
    others = np.concatenate([
        all_steps.reshape([10, -1]), self.kept([3], seed=4).reshape([2, -1]),
        self.kept([3], micro_batch=1).reshape([2, -1])])
    agreement = np.mean(others[:, np.newaxis] == others, axis=-1)
    np.testing.assert_allclose(
        agreement[~np.eye(len(others), dtype=bool)], 0.5, atol=0.06)

  def test_loop_over_micro_batches_drops_what_each_would_alone(self):
    alone = [self.kept([3], micro_batch=number)[0, 0] for number in range(2)]
    with tf.Graph().as_default():
      tf.compat.v1.set_random_seed(3)
      step = tf.compat.v1.train.get_or_create_global_step()
      modeling.training_util._get_or_create_global_step_read()

      def body(number, kept):
        tf.compat.v1.add_to_collection(modeling.MICRO_BATCH, number)
        return number + 1, kept.write(
            number, modeling.dropout(tf.ones([40, 50]), 0.5))

      _, kept = tf.while_loop(
          lambda number, _: number < 2, body,
          [0, tf.TensorArray(tf.float32, 2)])
      after = modeling.dropout(tf.ones([40, 50]), 0.5)
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(step.assign(3))
        np.testing.assert_array_equal(session.run(kept.stack()) != 0, alone)
        np.testing.assert_array_equal(
            session.run(after) != 0, self.kept([3])[0, 1])

  @pytest.mark.parametrize("seed, has_step", [(None, True), (3, False)])
  def test_otherwise_it_is_tensorflows(self, seed, has_step):
    with tf.Graph().as_default() as graph:
      tf.compat.v1.set_random_seed(seed)
      if has_step:
        tf.compat.v1.train.get_or_create_global_step()
      before = len(graph.get_operations())
      modeling.dropout(tf.ones([3]), 0.5)
      types = [op.type for op in graph.get_operations()[before:]]
    assert "RandomUniform" in types
    assert not any(name.startswith("Stateless") for name in types)


class ComputeDtypeTest:

  def build(self, compute_dtype, config=CONFIG):
    """(model, gradients of all variables) on rows with padding."""
    rng = np.random.RandomState(6)
    ids = tf.constant(rng.randint(0, config.vocab_size, [3, 16]), tf.int32)
    mask = tf.sequence_mask([16, 5, 0], 16, tf.int32)  # One row of padding.
    model = modeling.BertModel(
        config, False, ids, mask, operations=modeling.Operations(compute_dtype))
    loss = tf.reduce_sum(model.get_pooled_output()[:2, :8])
    return model, tf.gradients(loss, tf.compat.v1.trainable_variables())

  @pytest.mark.parametrize("compute_dtype", [tf.bfloat16, tf.float16])
  def test_all_but_the_products_is_float32(self, compute_dtype):
    with tf.Graph().as_default() as graph:
      model, gradients = self.build(compute_dtype)
      by_type = {}
      for op in graph.get_operations():
        if op.outputs:
          by_type.setdefault(op.type, set()).add(op.outputs[0].dtype)
      assert {var.dtype.base_dtype
              for var in tf.compat.v1.global_variables()} == {tf.float32}
    assert by_type["BatchMatMulV2"] == {compute_dtype}
    assert by_type["MatMul"] == {compute_dtype, tf.float32}  # Segment ids.
    for name in ("Softmax", "Rsqrt", "Tanh", "TanhGrad", "VarHandleOp"):
      assert compute_dtype not in by_type[name], name
    assert {gradient.dtype for gradient in gradients} == {tf.float32}
    assert isinstance(gradients[0], tf.IndexedSlices)  # Of the words.
    for output in [model.get_pooled_output(), model.get_sequence_output(),
                   model.get_embedding_output(),
                   *model.get_all_encoder_layers()]:
      assert output.dtype == tf.float32

  def test_values_are_close_to_those_of_float32(self):
    def values(dtype):
      def build():
        model, gradients = self.build(dtype)
        return [model.get_sequence_output(), model.get_pooled_output()] + [
            tf.convert_to_tensor(gradient) for gradient in gradients]
      return run(build)

    exact = values(tf.float32)
    for compute_dtype, atol in ((tf.bfloat16, 0.05), (tf.float16, 0.01)):
      found = values(compute_dtype)
      for name, a, b in zip(("sequence", "pooled"), exact, found):
        np.testing.assert_allclose(a, b, atol=atol, err_msg=name)
      for a, b in zip(exact[2:], found[2:]):
        assert np.linalg.norm(a - b) <= 2 * atol * np.linalg.norm(a) + 1e-4

  @pytest.mark.slow
  def test_published_model_is_close_to_float32(self, shared):
    folder = shared / "models" / "minilm_l6_uncased"
    config = modeling.BertConfig.from_json_file(
        str(folder / "bert_config.json"))
    outputs = {}
    for dtype in (tf.float32, tf.bfloat16, tf.float16):
      with tf.Graph().as_default():
        model = modeling.BertModel(
            config, False, tf.constant([[101, 1996, 2143, 2003, 2204, 102]]),
            operations=modeling.Operations(dtype))
        assignment_map, _ = modeling.get_assignment_map_from_checkpoint(
            tf.compat.v1.trainable_variables(), str(folder / "bert_model.ckpt"))
        tf.compat.v1.train.init_from_checkpoint(
            str(folder / "bert_model.ckpt"), assignment_map)
        with tf.compat.v1.Session() as session:
          session.run(tf.compat.v1.global_variables_initializer())
          outputs[dtype] = session.run(
              [model.get_sequence_output(), model.get_pooled_output()])
    for dtype, largest in ((tf.bfloat16, 0.05), (tf.float16, 0.03)):
      for a, b in zip(outputs[tf.float32], outputs[dtype]):
        assert np.abs(a - b).max() < largest


class BertModelTest:

  def test_shapes_and_variable_names(self):
    with tf.Graph().as_default():
      model = modeling.BertModel(CONFIG, True, tf.ones([2, 7], tf.int32))
      assert model.get_sequence_output().shape == [2, 7, 32]
      assert model.get_pooled_output().shape == [2, 32]
      assert len(model.get_all_encoder_layers()) == 2
      names = {var.op.name for var in tf.compat.v1.trainable_variables()}
    assert "bert/embeddings/LayerNorm/gamma" in names
    assert "bert/encoder/layer_1/attention/self/query/kernel" in names
    assert "bert/pooler/dense/bias" in names
    assert len(names) == 5 + 2 * 16 + 2

  def test_config_is_left_alone(self):
    before = copy.deepcopy(CONFIG.__dict__)
    run(lambda: modeling.BertModel(
        CONFIG, False, tf.ones([1, 3], tf.int32)).get_pooled_output())
    assert CONFIG.__dict__ == before

  @settings(max_examples=8, deadline=None)
  @given(st.integers(1, 9), st.integers(1, 10), st.integers(0, 2 ** 16))
  def test_padding_changes_nothing(self, length, padding, seed):
    ids = np.random.RandomState(seed).randint(0, 99, [3, length])
    mask = np.ones([3, length], np.int32)
    padded = np.pad(ids, [(0, 0), (0, padding)], constant_values=7)
    padded_mask = np.pad(mask, [(0, 0), (0, padding)])

    def build():
      with tf.compat.v1.variable_scope("m", reuse=tf.compat.v1.AUTO_REUSE):
        return [modeling.BertModel(
            CONFIG, False, tf.constant(i, tf.int32),
            tf.constant(m, tf.int32), scope="bert").get_sequence_output()
                for i, m in ((ids, mask), (padded, padded_mask))]

    short, long = run(build)
    np.testing.assert_allclose(long[:, :length], short, atol=2e-5)

  def test_rows_do_not_see_each_other(self):
    ids = np.random.RandomState(5).randint(0, 99, [4, 6])

    def build():
      both = modeling.BertModel(
          CONFIG, False, tf.constant(ids, tf.int32), scope="b")
      with tf.compat.v1.variable_scope(
          tf.compat.v1.get_variable_scope(), reuse=True):
        one = modeling.BertModel(
            CONFIG, False, tf.constant(ids[2:3], tf.int32), scope="b")
      return both.get_pooled_output(), one.get_pooled_output()

    both, one = run(build)
    np.testing.assert_allclose(both[2:3], one, atol=1e-5)


class AssignmentMapTest:

  def test_values_are_loaded_by_variable(self, tiny_model):
    with tf.Graph().as_default():
      modeling.BertModel(tiny_model.config, False, tf.ones([1, 3], tf.int32))
      extra = tf.compat.v1.get_variable("output_bias", [2])
      tvars = tf.compat.v1.trainable_variables()
      assignment_map, names = modeling.get_assignment_map_from_checkpoint(
          tvars, tiny_model.init_checkpoint)
      assert set(assignment_map.values()) == set(tvars) - {extra}
      assert names["bert/pooler/dense/bias"] == 1
      assert names["bert/pooler/dense/bias:0"] == 1
      tf.compat.v1.train.init_from_checkpoint(
          tiny_model.init_checkpoint, assignment_map)
      with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        for name, var in assignment_map.items():
          np.testing.assert_array_equal(
              session.run(var),
              tf.train.load_variable(tiny_model.init_checkpoint, name))

  def test_reference_variable_is_refused_with_the_way_out(self, tiny_model):
    with tf.Graph().as_default():
      var = tf.compat.v1.get_variable(
          "bert/pooler/dense/bias", [32], use_resource=False)
      with pytest.raises(AssertionError, match="enable_resource_variables"):
        modeling.get_assignment_map_from_checkpoint(
            [var], tiny_model.init_checkpoint)


class RecomputedTest:

  def test_unseeded_dropouts_drop_the_same_again(self):
    def layer(inputs):
      return modeling.dropout(modeling.dropout(inputs, 0.5), 0.5)

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      inputs = tf.ones([1000])
      output = modeling._recomputed(layer, inputs)
      (gradient,) = tf.gradients(output, inputs)
      found = [session.run([output, gradient]) for _ in range(2)]
    for output, gradient in found:
      np.testing.assert_array_equal(output, gradient)
      assert 0.15 < (output > 0).mean() < 0.35
    assert (found[0][0] != found[1][0]).any()
