# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The ways to ask a served model: token ids, records, or texts.

A signature has the names and types of its inputs and outputs, as that of a
SavedModel does. `serving_default`, `serve_examples` and `serve_windows` are
those of the export; the server adds `serve_texts` to classifiers and
`serve_questions` to SQuAD models, which take strings. All of them end in rows
of token ids, which are checked here, so that no request can spoil the batch
that it shares with others.
"""

import collections
import json
import threading
import time

from google.protobuf import message
import numpy as np
import tensorflow as tf

from demo import export_helpers
from demo import predictor
from demo import serving_batches
from demo import serving_errors

SERVE_QUESTIONS = "serve_questions"
_ROW_INPUTS = export_helpers.ROW_INPUTS
_ANY_ROWS = dict.fromkeys(_ROW_INPUTS, tf.TensorSpec([None, None], tf.int32))

# Requests with more are tokenized one after the other.
_MANY_CHARACTERS = 20000
_LARGE = threading.Lock()

# A tensor of a signature: tf.DType and shape, a tuple with None for a
# dimension of any size.
Spec = collections.namedtuple("Spec", ["dtype", "shape"])

# What a model can take: ids from 0 on, and tokens in a row at most.
Sizes = collections.namedtuple(
    "Sizes", ["vocab_size", "type_vocab_size", "max_length"])

# What one request may hold: rows, and characters of a text.
Limits = collections.namedtuple("Limits", ["max_rows", "max_characters"])


class Signature(object):
  """One way to ask a model.

  Attributes:
    name: string.
    inputs: dict name -> Spec.
    optional: set of names of inputs that may be left out.
    outputs: dict name -> Spec.
  """

  optional = frozenset()

  def __init__(self, name, inputs, outputs, batcher, limits):
    """Takes names and Specs, a serving_batches.Batcher, and Limits."""
    self.name = name
    self.inputs = inputs
    self.outputs = outputs
    self._batcher = batcher
    self._limits = limits

  def call(self, inputs, queue, deadline):
    """Answers a request.

    Args:
      inputs: dict name -> array, int32 or object (bytes), with the dimensions
        of `inputs`.
      queue: serving_batches.Queue.
      deadline: float, seconds since 1970, or None.

    Returns:
      (outputs, rows, batches): dict name -> array, int and float: how many
      rows of tokens that took, and runs of the model.

    Raises:
      serving_errors.RequestError: the inputs are wrong, or there is no room or
        no time.
    """
    self._check(inputs)
    rows, counts, state = self.encode(inputs, deadline)
    total = len(rows.lengths)
    if total > self._limits.max_rows:
      raise serving_errors.invalid(
          f"The request has {total} rows of tokens; {self._limits.max_rows} is "
          f"the most that is taken at once.")
    queue.enter(total)
    try:
      outputs, batches = self._batcher.run(
          rows, counts if self.pools else None, deadline)
    finally:
      queue.leave(total)
    return self.decode(outputs, counts, state), total, batches

  # Whether the rows of an item have one output.
  pools = False

  def encode(self, inputs, deadline):
    """Makes rows of the inputs; for `deadline` see `call`.

    Returns:
      (rows, counts, state): serving_batches.Rows, the number of rows of each
      item (list of int), and what `decode` has to know.
    """
    raise NotImplementedError

  def decode(self, outputs, counts, state):
    """Makes the answer of the model's outputs; dict name -> array."""
    raise NotImplementedError

  def _check(self, inputs):
    """Refuses inputs that aren't those of the signature."""
    missing = set(self.inputs) - set(inputs) - self.optional
    unknown = set(inputs) - set(self.inputs)
    if missing or unknown:
      raise serving_errors.invalid(
          f"Signature {self.name} takes the inputs "
          f"{', '.join(sorted(self.inputs))}; "
          + (f"{', '.join(sorted(missing))} is missing." if missing else
             f"{', '.join(sorted(unknown))} is unknown."))
    count = None
    for name, array in inputs.items():
      spec = self.inputs[name]
      if array.ndim != len(spec.shape) or any(
          wanted not in (None, size)
          for wanted, size in zip(spec.shape, array.shape)):
        shape = [-1 if size is None else size for size in spec.shape]
        raise serving_errors.invalid(
            f"{name} has the shape {list(array.shape)}, signature {self.name} "
            f"takes {shape} (-1: any size).")
      count = len(array) if count is None else count
      if len(array) != count:
        raise serving_errors.invalid(
            f"{name} has {len(array)} rows, another input {count}.")
    if not count:
      raise serving_errors.invalid("The request has no rows.")


class IdsSignature(Signature):
  """Token ids, a row each: `serving_default`."""

  def __init__(self, name, inputs, outputs, batcher, limits, sizes):
    """Takes also Sizes."""
    super().__init__(name, inputs, outputs, batcher, limits)
    self.optional = set(inputs) - {*_ROW_INPUTS, "texts"}
    self._sizes = sizes

  def encode(self, inputs, deadline):
    del deadline
    ids, mask, segments = (inputs[name] for name in _ROW_INPUTS)
    if not ids.shape == mask.shape == segments.shape:
      raise serving_errors.invalid(
          f"The shapes of input_ids {list(ids.shape)}, input_mask "
          f"{list(mask.shape)} and segment_ids {list(segments.shape)} differ.")
    check_rows(ids, mask, segments, self._sizes)
    width = ids.shape[1]
    # What is masked counts for nothing, but has logits of its own.
    lengths = np.full([len(ids)], width, np.int32)
    if not self._batcher.token_outputs:
      lengths = _lengths(mask)
    check_length(int(lengths.max()), self._batcher.width)
    return (serving_batches.Rows(ids, mask, segments, lengths),
            self.counts(inputs), (width, inputs))

  def counts(self, inputs):
    """Rows of each item: list of int."""
    return [1] * len(inputs["input_ids"])

  def decode(self, outputs, counts, state):
    width, inputs = state
    found = {name: array[:, :width] if name in self._batcher.token_outputs
             else array for name, array in outputs.items()}
    # Google's SQuAD models give the ids of the rows back.
    return {**found, **{name: array for name, array in inputs.items()
                        if name in found}}


class WindowsSignature(IdsSignature):
  """Windows of texts as token ids: `serve_windows`."""

  pools = True

  def counts(self, inputs):
    numbers = inputs["texts"]
    begins = np.flatnonzero(np.diff(numbers)) + 1
    if (np.diff(numbers) < 0).any():
      raise serving_errors.invalid(
          "texts must not fall: the windows of a text stand together.")
    return np.diff([0, *begins, len(numbers)]).tolist()


class ExamplesSignature(Signature):
  """Serialized tf.train.Examples with token ids: `serve_examples`."""

  def __init__(self, inputs, outputs, batcher, limits, sizes, length, pools):
    """Takes also the tokens of a row (int), and if it may hold several."""
    super().__init__(export_helpers.SERVE_EXAMPLES, inputs, outputs, batcher,
                     limits)
    self._sizes, self._length, self.pools = sizes, length, pools

  def encode(self, inputs, deadline):
    del deadline
    found = [self._rows(record) for record in inputs["examples"]]
    ids, mask, segments = (np.concatenate(arrays) for arrays in zip(*found))
    check_rows(ids, mask, segments, self._sizes)
    lengths = np.full([len(ids)], self._length, np.int32)
    if not self._batcher.token_outputs:
      lengths = _lengths(mask)
    return (serving_batches.Rows(ids, mask, segments, lengths),
            [len(arrays[0]) for arrays in found], None)

  def _rows(self, record):
    """The rows of a record: three int32 arrays [n, S]."""
    try:
      feature = tf.train.Example.FromString(record).features.feature
    except message.DecodeError:
      raise serving_errors.invalid(
          "An example is not a serialized tf.train.Example.") from None
    rows = []
    for name in _ROW_INPUTS:
      values = np.array(feature[name].int64_list.value, np.int64)
      if (not len(values) or len(values) % self._length or
          (len(values) > self._length and not self.pools)):
        raise serving_errors.invalid(
            f"{name} of an example has {len(values)} values, not "
            f"{self._length}.")
      rows.append(values.reshape(-1, self._length))
    if len({len(array) for array in rows}) > 1:
      raise serving_errors.invalid("The inputs of an example differ in length.")
    ids, mask, segments = rows
    if self.pools:  # What is left of a padded batch.
      is_window = mask[:, 0] != 0
      if not is_window.any():
        raise serving_errors.invalid("An example has no window.")
      ids, mask, segments = (array[is_window] for array in rows)
    return ids, mask, segments

  def decode(self, outputs, counts, state):
    return {name: array[:, :self._length]
            if name in self._batcher.token_outputs else array
            for name, array in outputs.items()}


class _StringsSignature(Signature):
  """Strings, by the codec of the predictor."""

  def __init__(self, name, inputs, outputs, batcher, limits, codec):
    """Takes also a codec of demo.predictor."""
    strings = Spec(tf.string, (None,))
    super().__init__(name, dict.fromkeys(inputs, strings), outputs, batcher,
                     limits)
    self._codec = codec
    self.pools = codec.has_windows

  def items(self, inputs):
    """The items (tuples of strings) of a request."""
    columns = [[self._text(value, name) for value in inputs[name]]
               for name in self.inputs if name in inputs]
    return list(zip(*columns))

  def _text(self, value, name):
    """The string that bytes stand for."""
    try:
      text = value.decode("utf-8")
    except UnicodeDecodeError:
      raise serving_errors.invalid(f"{name} is not UTF-8.") from None
    if len(text) > self._limits.max_characters:
      raise serving_errors.invalid(
          f"{name} has {len(text)} characters; {self._limits.max_characters} "
          f"is the most that is taken.")
    return text

  def _encode_items(self, inputs, deadline):
    """The predictor.Encoded of each item, as long as somebody waits."""
    items, encoded = self.items(inputs), []
    is_large = sum(len(text) for item in items for text in item) > (
        _MANY_CHARACTERS)
    for item in items:
      left = threading.TIMEOUT_MAX if deadline is None else (
          max(0.0, deadline - time.time()))
      # Python runs one thread at a time: several large requests at once would
      # leave small ones little of it.
      if not left or (is_large and not _LARGE.acquire(timeout=left)):
        raise serving_errors.RequestError(
            "DEADLINE_EXCEEDED",
            "The request's time was over before its texts were tokenized.")
      try:
        encoded.append(self._codec.encode(item, self._limits.max_rows))
      except ValueError as error:
        raise serving_errors.invalid(error) from None
      finally:
        if is_large:
          _LARGE.release()
    return encoded

  def encode(self, inputs, deadline):
    encoded = self._encode_items(inputs, deadline)
    rows = [row for item in encoded for row in item.rows]
    lengths = np.array([len(row.input_ids) for row in rows], np.int32)
    check_length(int(lengths.max()), self._batcher.width)
    feed = predictor.batch_of_rows(rows, _ANY_ROWS)
    return (serving_batches.Rows(**feed, lengths=lengths),
            [len(item.rows) for item in encoded], encoded)

  def decode(self, outputs, counts, encoded):
    ends = np.cumsum([1] * len(counts) if self.pools else counts)
    starts = [0, *ends[:-1]]
    return self.columns([
        self._codec.answer(item, {
            name: array[start] if self.pools else array[start:end]
            for name, array in outputs.items()})
        for item, start, end in zip(encoded, starts, ends)])

  def columns(self, answers):
    """Arrays of the answers (list of dict) of the codec."""
    raise NotImplementedError


class TextsSignature(_StringsSignature):
  """A text, or two: `serve_texts` of classifiers."""

  optional = frozenset({"text_b"})

  def __init__(self, batcher, limits, codec, labels):
    """Takes also the names (list) of the labels, empty of a regression."""
    outputs = ({"probabilities": Spec(tf.float32, (None, len(labels))),
                "label": Spec(tf.string, (None,))} if labels else
               {"value": Spec(tf.float32, (None,))})
    super().__init__(export_helpers.SERVE_TEXTS, ["text_a", "text_b"], outputs,
                     batcher, limits, codec)
    self._labels = labels

  def items(self, inputs):
    """The items; an empty second text is none."""
    return [texts[:1] if texts[1:] == ("",) else texts
            for texts in super().items(inputs)]

  def columns(self, answers):
    if not self._labels:
      return {"value": np.array([answer["value"] for answer in answers],
                                np.float32)}
    return {
        "probabilities": np.array([
            [answer["probabilities"][label] for label in self._labels]
            for answer in answers], np.float32),
        "label": _strings(answer["label"] for answer in answers)}


class QuestionsSignature(_StringsSignature):
  """A question and a text that answers it: `serve_questions` of SQuAD."""

  def __init__(self, batcher, limits, codec, has_null):
    """Takes also whether questions may have no answer (SQuAD 2.0)."""
    outputs = {"answer": Spec(tf.string, (None,)),
               "probability": Spec(tf.float32, (None,)),
               "start": Spec(tf.int32, (None,)),
               "end": Spec(tf.int32, (None,)),
               "nbest": Spec(tf.string, (None,))}
    if has_null:
      outputs["null_odds"] = Spec(tf.float32, (None,))
    super().__init__(SERVE_QUESTIONS, ["question", "context"], outputs,
                     batcher, limits, codec)

  def columns(self, answers):
    found = {
        "answer": _strings(answer["answer"] for answer in answers),
        "probability": np.array(
            [answer["probability"] for answer in answers], np.float32),
        **{name: np.array([-1 if answer[name] is None else answer[name]
                           for answer in answers], np.int32)
           for name in ("start", "end")},
        "nbest": _strings(json.dumps(answer["nbest"], ensure_ascii=False)
                          for answer in answers)}
    if "null_odds" in self.outputs:
      found["null_odds"] = np.array(
          [answer["null_odds"] for answer in answers], np.float32)
    return found


def check_rows(ids, mask, segments, sizes):
  """Refuses token ids that the model doesn't have.

  Args:
    ids: int array [n, S]; `mask` and `segments` likewise.
    sizes: Sizes.

  Raises:
    serving_errors.RequestError: a value is out of range.
  """
  for name, array, size in (
      ("input_ids", ids, sizes.vocab_size), ("input_mask", mask, 2),
      ("segment_ids", segments, sizes.type_vocab_size)):
    if array.size and (array.min() < 0 or array.max() >= size):
      wrong = array[(array < 0) | (array >= size)][0]
      raise serving_errors.invalid(
          f"{name} has the value {wrong}; the model takes 0 to {size - 1}.")


def check_length(length, width):
  """Refuses rows (of `length` tokens) that the model has no room for."""
  if length > width:
    raise serving_errors.invalid(
        f"A row has {length} tokens; the most that is served is {width}.")
  if not length:
    raise serving_errors.invalid("The rows have no tokens.")


def _lengths(mask):
  """Columns of each row up to its last token, 1 at least: int32 [n]."""
  is_token = mask[:, ::-1] != 0
  lengths = mask.shape[1] - np.argmax(is_token, axis=1) if mask.size else (
      np.zeros([len(mask)]))
  return np.where(is_token.any(axis=1), lengths, min(1, mask.shape[1])).astype(
      np.int32)


def _strings(texts):
  """Texts as an array of bytes."""
  return np.array([text.encode("utf-8", "surrogatepass") for text in texts],
                  object)


def make_signatures(info, codec, signatures, batchers, sizes, limits):
  """All ways to ask a model.

  Args:
    info: dict, see `export_helpers.read_info`; empty for a model without.
    codec: of demo.predictor, None for a model without `info`.
    signatures: dict name -> (inputs, outputs), dicts name -> Spec, of the
      SavedModel.
    batchers: dict name -> serving_batches.Batcher, for those of
      `serving_default` and `serve_windows` that there are.
    sizes: Sizes.
    limits: Limits.

  Returns:
    Dict name -> Signature.
  """
  default = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
  windows, examples = (
      export_helpers.SERVE_WINDOWS, export_helpers.SERVE_EXAMPLES)
  found = {default: IdsSignature(
      default, *_freed(*signatures[default], batchers[default]),
      batchers[default], limits, sizes)}
  has_windows = windows in signatures
  if has_windows:
    found[windows] = WindowsSignature(
        windows, *signatures[windows], batchers[windows], limits, sizes)
  batcher = batchers[windows if has_windows else default]
  if examples in signatures and info:
    found[examples] = ExamplesSignature(
        *signatures[examples], batcher, limits, sizes, info["max_seq_length"],
        has_windows)
  if codec is None:
    return found
  made = (QuestionsSignature(batcher, limits, codec,
                             info["version_2_with_negative"])
          if info["kind"] == "squad" else
          TextsSignature(batcher, limits, codec, info["labels"]))
  found[made.name] = made
  return found


def _freed(inputs, outputs, batcher):
  """Specs without the sizes that a model was compiled for: rows are padded.

  Args:
    inputs: dict name -> Spec.
    outputs: dict name -> Spec.
    batcher: serving_batches.Batcher.

  Returns:
    The two.
  """
  inputs = {name: Spec(spec.dtype, (None,) * len(spec.shape))
            for name, spec in inputs.items()}
  return inputs, {
      name: Spec(spec.dtype, (None, None) if name in batcher.token_outputs
                 else (None, *spec.shape[1:]))
      for name, spec in outputs.items()}
