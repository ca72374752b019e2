"""Tests of demo/hub_helpers.py on good, foreign and broken modules."""

import http.server
import shutil
import sys
import tarfile
import threading
import types

import pytest
import tensorflow as tf

from demo import hub_helpers


def encode(path, is_training=False):
  """Builds a module's encoder; returns its trainable variables."""
  with tf.Graph().as_default():
    ids = tf.zeros([1, 2], tf.int32)
    hub_helpers.HubModule(str(path)).encode(is_training, ids, ids, ids)
    return tf.compat.v1.trainable_variables()


def write_tf1(path, signature, tags=()):
  """A TF1 module with one graph and one signature."""
  hub = hub_helpers.import_hub()

  def module_fn():
    names = ("input_ids", "input_mask", "segment_ids")
    inputs = {name: tf.compat.v1.placeholder(tf.int32, [None, None])
              for name in names}
    weight = tf.compat.v1.get_variable("weight", [4])
    first = tf.cast(inputs["input_ids"][:, :1], tf.float32)  # [B, 1]
    hub.add_signature(signature, inputs, {
        "pooled_output": first * weight})

  spec = hub.create_module_spec(module_fn, [(set(tags), {})])
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    module = hub.Module(spec, tags=set(tags))
    session.run(tf.compat.v1.global_variables_initializer())
    module.export(str(path), session)


def keras_encoder():
  """A model like the SavedModels of others, with a regularization loss."""
  keras = tf.keras
  inputs = {name: keras.Input([None], dtype=tf.int32, name=name)
            for name in ("input_word_ids", "input_mask", "input_type_ids")}
  words = keras.layers.Embedding(9, 4, name="word_embeddings")(
      inputs["input_word_ids"])
  words += keras.layers.Embedding(2, 4, name="type_embeddings")(
      inputs["input_type_ids"])
  words *= tf.cast(inputs["input_mask"], tf.float32)[:, :, None]
  pooled = keras.layers.Dense(4, kernel_regularizer="l2", name="pooler")(
      keras.layers.Dropout(0.1)(words)[:, 0, :])
  return keras.Model(inputs, {"pooled_output": pooled,
                              "sequence_output": words})


class OtherFunction(tf.Module):
  """Called as something else than an encoder is."""

  trainable_variables = ()  # Would not be saved otherwise.

  def __init__(self, is_trainable):
    super().__init__()
    self.weight = tf.Variable(1.0)
    if is_trainable:
      self.trainable_variables = [self.weight]

  @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
  def __call__(self, x):
    return x * self.weight


class Encoder(tf.Module):
  """A SavedModel's encoder that lacks something."""

  trainable_variables = ()

  def __init__(self):
    super().__init__()
    self.table = tf.Variable(tf.zeros([9, 4]))
    self.trainable_variables = [self.table]

  def save(self, path, dtype=tf.int32, **arguments):
    names = ("input_word_ids", "input_mask", "input_type_ids")
    self.__call__.get_concrete_function(
        {name: tf.TensorSpec([None, 8], dtype, name) for name in names},
        **arguments)
    tf.saved_model.save(self, str(path))

  @tf.function
  def __call__(self, inputs, training=False):
    words = tf.gather(self.table, inputs["input_word_ids"])
    return {"pooled_output": words, "default": words[:, 0]}


class DefaultEncoder(Encoder):

  @tf.function
  def __call__(self, inputs, training=False):
    return {"default": tf.gather(self.table, inputs["input_word_ids"])}


class ListEncoder(Encoder):

  @tf.function
  def __call__(self, inputs, training=False):
    return [tf.gather(self.table, inputs["input_word_ids"])]


class FixedEncoder(Encoder):

  @tf.function
  def __call__(self, inputs):
    return {"pooled_output": self.table[:1]}


class HubModuleTest:

  @pytest.mark.parametrize("name", ["tf1", "tf2"])
  def test_every_variable_is_trainable_and_has_a_gradient(
      self, name, hub_modules):
    with tf.Graph().as_default():
      ids = tf.zeros([1, 2], tf.int32)
      output = hub_helpers.HubModule(hub_modules[name]).encode(
          True, ids, ids, ids)
      tvars = tf.compat.v1.trainable_variables()
      assert len(tvars) == 39
      assert None not in tf.gradients(output, tvars)
      assert hub_helpers.table_rows(tvars, "position") == 64
      assert hub_helpers.table_rows(tvars, "word") == 108

  @pytest.mark.parametrize("name", ["tf1", "tf2"])
  def test_vocabulary_comes_with_the_module(
      self, name, hub_modules, tiny_model):
    vocab_file, do_lower_case = hub_helpers.HubModule(
        hub_modules[name]).tokenization_info()
    assert vocab_file.startswith(hub_modules[name])
    assert open(vocab_file).read() == open(tiny_model.vocab_file).read()
    assert do_lower_case == (name == "tf1")  # As the fixture has it.

  def test_keras_model_of_others_is_an_encoder(self, tiny_model, tmp_path):
    model = keras_encoder()
    model.vocab_file = tf.saved_model.Asset(tiny_model.vocab_file)
    model.do_lower_case = tf.Variable(True, trainable=False)
    model.save(str(tmp_path / "encoder"), include_optimizer=False)
    tvars = encode(tmp_path / "encoder", is_training=True)
    assert {var.op.name for var in tvars} == {
        "word_embeddings/embeddings", "type_embeddings/embeddings",
        "pooler/kernel", "pooler/bias"}
    assert hub_helpers.table_rows(tvars, "word") == 9
    assert hub_helpers.table_rows(tvars, "position") is None
    assert hub_helpers.HubModule(
        str(tmp_path / "encoder")).tokenization_info()[1]

  def test_address_is_downloaded_once(self, hub_modules, tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "encoder.tar.gz", "w:gz") as archive:
      archive.add(hub_modules["tf2"], arcname=".")

    class Handler(http.server.SimpleHTTPRequestHandler):

      def __init__(self, *args):
        super().__init__(*args, directory=str(served))

      def log_message(self, *args):
        pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://localhost:{server.server_port}"
    path = hub_helpers.HubModule(f"{address}/encoder.tar.gz").path
    with pytest.raises(ValueError, match=f"{address}/x.tar.gz can't be reached"
                       r" \(HTTP Error 404"):
      hub_helpers.HubModule(f"{address}/x.tar.gz")
    server.shutdown()
    server.server_close()
    assert path.startswith(str(tmp_path / "cache"))
    assert len(encode(f"{address}/encoder.tar.gz")) == 39
    with pytest.raises(ValueError, match="can't be reached .*refused"):
      hub_helpers.HubModule(f"{address}/other.tar.gz")

  def test_missing_library_says_how_to_install_it(
      self, hub_modules, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(ValueError, match="pip install .*tensorflow-hub=="):
      hub_helpers.HubModule(hub_modules["tf1"])

  def test_what_is_no_module_is_refused(self, hub_modules, tmp_path):
    with pytest.raises(ValueError, match="/nowhere can't be reached"):
      hub_helpers.HubModule("/nowhere")
    with pytest.raises(ValueError, match="is no module: .* no saved_model.pb"):
      hub_helpers.HubModule(str(tmp_path))

  @pytest.mark.parametrize("name, damaged", [
      ("tf1", "saved_model.pb"), ("tf1", "tfhub_module.pb"),
      ("tf2", "saved_model.pb"), ("tf2", "variables/variables.index")])
  def test_damaged_module_is_refused(
      self, name, damaged, hub_modules, tmp_path):
    shutil.copytree(hub_modules[name], tmp_path / "module")
    (tmp_path / "module" / damaged).write_bytes(b"\xff\xfe damaged")
    with pytest.raises(ValueError, match="can't be loaded"):
      encode(tmp_path / "module")

  def test_modules_that_are_no_encoders_are_refused(self, tmp_path):
    write_tf1(tmp_path / "image", "default")
    with pytest.raises(ValueError, match="no signature tokens with inputs"):
      encode(tmp_path / "image")
    write_tf1(tmp_path / "frozen", "tokens")
    assert len(encode(tmp_path / "frozen")) == 1
    with pytest.raises(ValueError, match=r"no graph with the tags \['train'\]"):
      encode(tmp_path / "frozen", is_training=True)
    with pytest.raises(ValueError, match="no signature tokenization_info"):
      hub_helpers.HubModule(str(tmp_path / "frozen")).tokenization_info()
    tf.saved_model.save(OtherFunction(False), str(tmp_path / "function"))
    with pytest.raises(ValueError, match="no list of trainable_variables"):
      encode(tmp_path / "function")
    tf.saved_model.save(OtherFunction(True), str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"called with \(x\), without the "):
      encode(tmp_path / "other")
    with pytest.raises(ValueError, match="vocab_file and do_lower_case.$"):
      hub_helpers.HubModule(str(tmp_path / "other")).tokenization_info()

  @pytest.mark.parametrize("encoder, dtype, arguments, message", [
      (Encoder, tf.int32, {"training": False},
       r"pooled_output is float32 \(.*, 8, 4\), not float32 \(batch, width\)"),
      (DefaultEncoder, tf.int32, {"training": False},
       "gives a dict of default, not a dict with pooled_output"),
      (ListEncoder, tf.int32, {"training": False}, "gives a .*, not a dict"),
      (FixedEncoder, tf.int32, {},
       r"called with \(inputs\), without the argument training"),
      (Encoder, tf.int64, {"training": False},
       r"saved .* input_mask int64 \(None, 8\), .*, training=False; not with"),
      (Encoder, tf.int32, {"training": True}, "training=True; not with")])
  def test_what_a_saved_model_lacks_is_said(
      self, encoder, dtype, arguments, message, tmp_path):
    encoder().save(tmp_path / "encoder", dtype, **arguments)
    with pytest.raises(ValueError, match=message) as error:
      with tf.Graph().as_default():
        ids = tf.zeros([1, 8], tf.int32)
        hub_helpers.HubModule(str(tmp_path / "encoder")).encode(
            False, ids, ids, ids)
    assert "\n" not in str(error.value)

  def test_the_missing_part_of_the_vocabulary_is_named(
      self, tiny_model, tmp_path):
    encoder = Encoder()
    encoder.do_lower_case = tf.Variable(True)
    encoder.save(tmp_path / "encoder")
    with pytest.raises(ValueError, match="it lacks vocab_file.$"):
      hub_helpers.HubModule(str(tmp_path / "encoder")).tokenization_info()
    encoder.vocab_file = tf.Variable(tiny_model.vocab_file)
    encoder.save(tmp_path / "variable")
    with pytest.raises(ValueError, match="vocab_file is no "):
      hub_helpers.HubModule(str(tmp_path / "variable")).tokenization_info()


class CheckTest:

  @pytest.mark.parametrize("length, message", [
      (65, "takes 3 to 64 tokens"), (2, "takes 3 to 64"), (64, None)])
  def test_length_fits_the_positions(self, length, message, hub_modules):
    args = types.SimpleNamespace(
        max_seq_length=length, bert_hub_module_handle="m")
    tvars = encode(hub_modules["tf2"])
    if message is None:
      hub_helpers.check_max_seq_length(args, tvars, smallest=3)
    else:
      with pytest.raises(ValueError, match=message):
        hub_helpers.check_max_seq_length(args, tvars, smallest=3)

  def test_vocabulary_fits_the_embeddings(self, hub_modules):
    args = types.SimpleNamespace(bert_hub_module_handle="m")
    tvars = encode(hub_modules["tf1"])
    vocab = {token: i for i, token in enumerate(["[CLS]", "[SEP]", "[UNK]"])}
    hub_helpers.check_vocabulary(args, {**vocab, "x": 107}, tvars)
    with pytest.raises(ValueError, match="109 tokens, but the model has 108"):
      hub_helpers.check_vocabulary(args, {**vocab, "x": 108}, tvars)
    with pytest.raises(ValueError, match=r"has no \[UNK\]"):
      hub_helpers.check_vocabulary(
          args, {"[CLS]": 0, "[SEP]": 1, "x": 107}, tvars)
