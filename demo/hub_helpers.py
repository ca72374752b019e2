# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""BERT encoders of TensorFlow Hub, in both of its formats.

Hub modules of TensorFlow 1 have a graph for training (tag "train") and one
for use, the signature `tokens` from `input_ids`, `input_mask` and
`segment_ids` to `pooled_output` and `sequence_output`, and the signature
`tokenization_info` that gives `vocab_file` and `do_lower_case`.

SavedModels of TensorFlow 2 are called with a dict of `input_word_ids`,
`input_mask` and `input_type_ids` and give a dict of the same outputs;
`vocab_file` and `do_lower_case` are attributes.

Source: the Hub's documentation of the common SavedModel APIs for text and of
the TF1 Hub format; the interface of its BERT encoders.
"""

import contextlib
import inspect
import os
import re
import tarfile

from google.protobuf import message
import tensorflow as tf

from demo import flag_helpers
from demo import horovod_helpers

INSTALL_HUB = "pip install tensorflow-hub==0.15.0 (or `make setup`)"

TOKENS = "tokens"
TOKENIZATION_INFO = "tokenization_info"
TRAIN_TAGS = frozenset(["train"])

_TF1_FILE = "tfhub_module.pb"
_TF2_FILE = "saved_model.pb"
_POOLED = "pooled_output"

# What opening or loading a module may end in: network, files, archives, and
# files that hold something else.
_LOAD_ERRORS = (
    OSError, EOFError, RuntimeError, ValueError, KeyError, tarfile.TarError,
    tf.errors.OpError, message.DecodeError)


def import_hub():
  """Returns the module tensorflow_hub, imported when it is needed first.

  Raises:
    ValueError: it is missing or broken; says how to install it.
  """
  try:
    import tensorflow_hub  # pylint: disable=import-outside-toplevel
  except ImportError as error:
    raise ValueError(
        f"This needs tensorflow-hub, which can't be imported ({error}). "
        f"Install it with: {INSTALL_HUB}") from error
  return tensorflow_hub


class HubModule(object):
  """An encoder of TensorFlow Hub.

  Attributes:
    handle: string, as the user gave it.
    path: string, the folder that it lies in.
    is_tf1: bool, the format.
  """

  def __init__(self, handle):
    """Finds a module, and downloads it if need be.

    A download goes to the folder of the environment variable TFHUB_CACHE_DIR,
    where it is found the next time.

    Args:
      handle: string, a folder or an address.

    Raises:
      ValueError: there is no module there, or it can't be reached.
    """
    hub = import_hub()
    self.handle = handle
    try:
      self.path = tf.compat.as_str(hub.resolve(handle))
    except _LOAD_ERRORS as error:
      raise self._error(
          f"can't be reached ({_first_line(error)}). Give a module's folder "
          f"or address; what is downloaded once stays in "
          f"$TFHUB_CACHE_DIR") from error
    self.is_tf1 = tf.io.gfile.exists(os.path.join(self.path, _TF1_FILE))
    if not tf.io.gfile.exists(os.path.join(self.path, _TF2_FILE)):
      raise self._error(f"is no module: {self.path} has no {_TF2_FILE}")

  def files(self):
    """The files that tell this module from another: dict name -> path."""
    names = [_TF2_FILE, "variables/variables.index"]
    folder = os.path.join(self.path, "assets")
    if tf.io.gfile.isdir(folder):
      names += [f"assets/{name}" for name in
                sorted(tf.io.gfile.listdir(folder))]
    return {f"{name} of --bert_hub_module_handle": os.path.join(self.path, name)
            for name in names}

  def encode(self, is_training, input_ids, input_mask, segment_ids):
    """Adds the encoder to the current graph, with trainable variables.

    Args:
      is_training: bool, turns dropout on.
      input_ids: int32 [B, S].
      input_mask: int32 [B, S].
      segment_ids: int32 [B, S].

    Returns:
      float32 [B, W], the pooled output.

    Raises:
      ValueError: it is no BERT encoder, or can't be loaded.
    """
    if self.is_tf1:
      tags = set(TRAIN_TAGS) if is_training else set()
      module = self._tf1_module(tags, TOKENS, (
          "input_ids", "input_mask", "segment_ids"), (_POOLED,))
      outputs = module(
          dict(input_ids=input_ids, input_mask=input_mask,
               segment_ids=segment_ids),
          signature=TOKENS, as_dict=True)
    else:
      encoder = self._tf2_model()
      try:
        outputs = encoder(
            dict(input_word_ids=input_ids, input_mask=input_mask,
                 input_type_ids=segment_ids), training=is_training)
      except (TypeError, ValueError, KeyError, IndexError) as error:
        raise self._error(
            f"is no BERT encoder: {_mismatch(encoder, error)}") from error
    return self._checked_pooled_output(outputs)

  @contextlib.contextmanager
  def usable_in_loops(self, is_needed):
    """Within it a tf.while_loop may hold the encoder.

    A module of TensorFlow 1 knows the loops of its time only.

    Args:
      is_needed: bool; otherwise nothing changes.
    """
    is_switched = (is_needed and self.is_tf1 and
                   tf.compat.v1.control_flow_v2_enabled())
    if is_switched:
      tf.compat.v1.disable_control_flow_v2()
    try:
      yield
    finally:
      if is_switched:
        tf.compat.v1.enable_control_flow_v2()

  def _checked_pooled_output(self, outputs):
    """The pooled output, if it is there and float32 [B, W]."""
    if not isinstance(outputs, dict) or _POOLED not in outputs:
      what = (f"a dict of {', '.join(sorted(map(str, outputs)))}"
              if isinstance(outputs, dict) else f"a {type(outputs).__name__}")
      raise self._error(
          f"is no BERT encoder: it gives {what}, not a dict with {_POOLED}")
    pooled = outputs[_POOLED]
    if not isinstance(pooled, tf.Tensor) or pooled.dtype != tf.float32 or (
        pooled.shape.rank != 2 or pooled.shape[1] is None):
      raise self._error(
          f"is no BERT encoder: its {_POOLED} is "
          f"{getattr(getattr(pooled, 'dtype', None), 'name', 'no tensor')} "
          f"{getattr(pooled, 'shape', '')}, not float32 (batch, width)")
    return pooled

  def tokenization_info(self):
    """The vocabulary that the encoder was trained with.

    Returns:
      (vocab_file, do_lower_case): string, path of the file, and bool.

    Raises:
      ValueError: the module doesn't have it.
    """
    with tf.Graph().as_default():
      initializer = tf.no_op()
      if self.is_tf1:
        names = ("vocab_file", "do_lower_case")
        module = self._tf1_module(set(), TOKENIZATION_INFO, (), names)
        info = module(signature=TOKENIZATION_INFO, as_dict=True)
        fetches = [info[name] for name in names]
      else:
        encoder = self._tf2_model()
        missing = [name for name in ("vocab_file", "do_lower_case")
                   if not hasattr(encoder, name)]
        if missing:
          raise self._error(
              f"does not say how to cut text into tokens: it lacks "
              f"{' and '.join(missing)}")
        if not hasattr(encoder.vocab_file, "asset_path"):
          raise self._error(
              "does not bring its vocabulary along: its vocab_file is no "
              "tf.saved_model.Asset")
        fetches = [encoder.vocab_file.asset_path,
                   tf.convert_to_tensor(encoder.do_lower_case)]
        if hasattr(encoder.do_lower_case, "initializer"):
          initializer = encoder.do_lower_case.initializer
      with tf.compat.v1.Session(
          config=horovod_helpers.session_config()) as session:
        session.run(initializer)
        vocab_file, do_lower_case = session.run(fetches)
    return tf.compat.as_str(vocab_file), bool(do_lower_case)

  def _tf1_module(self, tags, signature, inputs, outputs):
    """The hub.Module of a graph that has a signature, in the current graph."""
    hub = import_hub()
    try:
      spec = hub.load_module_spec(self.path)
      known_tags = spec.get_tags()
      has_signature = (
          tags in known_tags and
          signature in spec.get_signature_names(tags=tags) and
          set(inputs) == set(spec.get_input_info_dict(signature, tags)) and
          set(outputs) <= set(spec.get_output_info_dict(signature, tags)))
    except _LOAD_ERRORS as error:
      raise self._load_error(error) from error
    if tags not in known_tags:
      raise self._error(
          f"has no graph with the tags {sorted(tags)}, and can't be used to "
          f"{'train' if tags else 'evaluate and predict'}")
    if not has_signature:
      raise self._error(
          f"is no BERT encoder: it has no signature {signature} with inputs "
          f"{', '.join(inputs) or 'none'} and outputs {', '.join(outputs)}")
    try:
      return hub.Module(spec, trainable=True, tags=tags)
    except _LOAD_ERRORS as error:
      raise self._load_error(error) from error

  def _tf2_model(self):
    """The SavedModel, loaded into the current graph."""
    hub = import_hub()
    try:
      encoder = hub.load(self.path)
    except _LOAD_ERRORS as error:
      raise self._load_error(error) from error
    variables = getattr(encoder, "trainable_variables", None)
    if not callable(encoder) or not variables:
      raise self._error(
          "is no encoder that can be trained: the SavedModel can't be called, "
          "or has no list of trainable_variables")
    for var in variables:  # A graph that loads them counts them as fixed.
      tf.compat.v1.add_to_collection(
          tf.compat.v1.GraphKeys.TRAINABLE_VARIABLES, var)
    return encoder

  def _load_error(self, error):
    return self._error(f"can't be loaded ({_first_line(error)})")

  def _error(self, what):
    return ValueError(f"--bert_hub_module_handle={self.handle} {what}.")


def table_rows(variables, name):
  """Rows of an embedding table, found by its variable's name.

  Google's modules call it `bert/embeddings/position_embeddings`,
  `position_embedding/embeddings` and the like.

  Args:
    variables: list of variables.
    name: string, "word" or "position".

  Returns:
    int, or None where there isn't one table of such a name.
  """
  found = [var.shape[0] for var in variables
           if re.search(rf"(^|/){name}_embeddings?(/embeddings)?$",
                        var.op.name) and var.shape.ndims == 2]
  return found[0] if len(found) == 1 else None


def check_max_seq_length(args, variables, smallest):
  """Refuses a length that the module has no position embeddings for.

  Args:
    args: the parsed flags.
    variables: list of the module's variables.
    smallest: int, tokens that the script needs at least.

  Raises:
    ValueError: names the lengths that fit.
  """
  positions = table_rows(variables, "position")
  if args.max_seq_length < smallest or (
      positions is not None and args.max_seq_length > positions):
    raise ValueError(
        f"--max_seq_length={args.max_seq_length}: the model of "
        f"--bert_hub_module_handle={args.bert_hub_module_handle} takes "
        f"{smallest} {f'to {positions}' if positions else 'or more'} tokens. "
        f"Longer texts go into windows: --doc_stride.")


def check_vocabulary(args, vocab, variables):
  """Refuses a module whose vocabulary is that of another model.

  Args:
    args: the parsed flags.
    vocab: dict token -> id, what the module brings along.
    variables: list of the module's variables.

  Raises:
    ValueError: see `flag_helpers.check_vocabulary`.
  """
  flag_helpers.check_vocabulary_size(
      f"The vocabulary of --bert_hub_module_handle="
      f"{args.bert_hub_module_handle}", vocab,
      table_rows(variables, "word"), "The module is broken.")


def _mismatch(encoder, error):
  """Why a SavedModel can't be called as an encoder is."""
  function = getattr(encoder, "__call__", None)
  concrete = getattr(function, "concrete_functions", None)
  if not concrete:
    return f"calling it fails ({_first_line(error)})"
  signature = inspect.signature(function)
  if not any(parameter.name == "training" or
             parameter.kind is inspect.Parameter.VAR_KEYWORD
             for parameter in signature.parameters.values()):
    return f"it is called with {signature}, without the argument training"
  calls = []
  for one in concrete:
    args, kwargs = one.structured_input_signature
    calls.append(", ".join(
        f"{part.name} {part.dtype.name} {part.shape}"
        if isinstance(part, tf.TensorSpec) else f"{name}={part}"
        for name, value in signature.bind_partial(
            *args, **kwargs).arguments.items()
        for part in tf.nest.flatten(value)))
  return (f"it was saved to be called with {'; or with '.join(calls)}; not "
          f"with a dict of input_word_ids, input_mask and input_type_ids, all "
          f"int32 (batch, length), and training True and False")


def _first_line(error):
  text = str(getattr(error, "message", None) or error)
  return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")
