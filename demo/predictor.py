# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Predictions in Python, with a model that stays in memory.

  from demo import predictor

  classify = predictor.load("/tmp/mrpc/export")
  classify(("The film was great.", "It was a good film."))
  ask = predictor.load("/tmp/squad/export")
  ask(("When does the valve open?", "The valve opens at 3 bar."))

`load` takes what --do_export or demo.compile_model wrote. Texts become tokens,
and outputs answers, by the code of run_classifier.py and run_squad.py, so that
the results are those of --do_predict. The model is loaded once; a call costs
what the model costs.
"""

import collections
import itertools
import json
import os

import numpy as np

from demo import export_helpers
from demo import runner_helpers
from demo import window_helpers
import run_classifier
import run_squad
import tokenization


def load(export_dir, batch_size=32, num_threads=0):
  """Loads a model for predictions.

  Args:
    export_dir: string, an export (the folder with saved_model.pb or
      model.onnx) or a folder of exports, of which the newest is taken.
    batch_size: int, rows that the model is given at once, at most.
    num_threads: int, see `runner_helpers.load_runner`.

  Returns:
    Predictor.

  Raises:
    ValueError: there is no export, or it doesn't say what it is for.
  """
  return Predictor(export_dir, batch_size, num_threads)


class Predictor(object):
  """Answers texts with an exported model.

  Attributes:
    path: string, folder of the export.
    info: dict, the content of its model_info.json.
    codec: TextCodec or QuestionCodec.
  """

  def __init__(self, export_dir, batch_size=32, num_threads=0):
    """See `load`."""
    if batch_size < 1:
      raise ValueError(f"batch_size={batch_size} has to be 1 or more.")
    self.path = export_helpers.find_export(export_dir)
    self.info = export_helpers.read_info(self.path)
    self.codec = make_codec(self.path, self.info)
    self._batch_size = batch_size
    self._runner = runner_helpers.load_runner(
        self.path, export_helpers.SERVE_WINDOWS if self.codec.has_windows
        else runner_helpers.DEFAULT, num_threads)

  def __call__(self, items):
    """Answers one item, or each of a list.

    Args:
      items: for a classifier a string, or a pair of them (tuple); for a SQuAD
        model a pair (question, context), or a dict with these keys; or a list
        of such items.

    Returns:
      The answer, or the list of answers in the order of the items: dicts, see
      `TextCodec.answer` and `QuestionCodec.answer`.

    Raises:
      ValueError: an item is something else; names it.
    """
    if not isinstance(items, list):
      return self([items])[0]
    return self.answers([self.codec.encode(item) for item in items])

  def answers(self, encoded, batch_size=None):
    """Answers what `codec` encoded, in batches.

    Args:
      encoded: list of Encoded.
      batch_size: int, see `load`; None for what was said there.

    Returns:
      List of the answers in their order, see `__call__`.
    """
    outputs = [None] * len(encoded)
    for batch in _batches(encoded, batch_size or self._batch_size):
      for number, output in zip(batch, self.run(
          [encoded[number].rows for number in batch])):
        outputs[number] = output
    return [self.codec.answer(item, output)
            for item, output in zip(encoded, outputs)]

  def close(self):
    """Frees the model; nothing can be asked any more."""
    self._runner.close()

  def run(self, rows_of_items):
    """Runs the model on a batch of items that `codec` encoded.

    Args:
      rows_of_items: list of lists of Row, see `Encoded`.

    Returns:
      List with the outputs of each item: dict name -> array; the first
      dimension is that of its rows, and gone where windows are pooled.
    """
    counts = [len(rows) for rows in rows_of_items]
    rows = list(itertools.chain.from_iterable(rows_of_items))
    if self.codec.has_windows:
      feed = batch_of_rows(rows, self._runner.specs)
      feed["texts"] = np.repeat(np.arange(len(counts)), counts)
      outputs = self._runner.run(feed)
      return [{name: array[number] for name, array in outputs.items()}
              for number in range(len(counts))]
    # A compiled model may take so many rows and no more.
    size = self._runner.specs["input_ids"].shape[0] or len(rows)
    parts = [self._runner.run(batch_of_rows(
        rows[start:start + size], self._runner.specs))
             for start in range(0, len(rows), size)]
    outputs = {name: [row for part in parts for row in part[name]]
               for name in self._runner.outputs}
    starts = np.cumsum([0] + counts)
    return [{name: array[start:end] for name, array in outputs.items()}
            for start, end in zip(starts, starts[1:])]


def _batches(encoded, batch_size):
  """Numbers of the items of each batch: what is of a length stays together.

  A batch has `batch_size` rows at most, or one item of more of them.
  """
  order = sorted(range(len(encoded)),
                 key=lambda number: max(map(len, encoded[number].rows[0])))
  batch, size = [], 0
  for number in order:
    rows = len(encoded[number].rows)
    if batch and size + rows > batch_size:
      yield batch
      batch, size = [], 0
    batch.append(number)
    size += rows
  if batch:
    yield batch


def batch_of_rows(rows, specs):
  """Pads rows to what a signature takes.

  Args:
    rows: list of Row; none longer than the signature's fixed length, if any.
    specs: dict name -> TensorSpec of the signature's inputs.

  Returns:
    Dict name -> int32 array for the inputs of token ids, and for `label_ids`,
    `unique_ids` and `is_real_example` where the signature has them: [B, S],
    [B]. S is that of the longest row unless the signature fixes it; B likewise.
  """
  num_rows, length = specs["input_ids"].shape
  num_rows = max(num_rows or 0, len(rows))
  length = length or max(len(row.input_ids) for row in rows)
  feed = {name: np.zeros([num_rows, length], np.int32) for name in Row._fields}
  for number, row in enumerate(rows):
    for name, values in zip(Row._fields, row):
      feed[name][number, :len(values)] = values
  for name in {"label_ids", "unique_ids"} & set(specs):
    feed[name] = np.zeros([num_rows], np.int32)
  if "is_real_example" in specs:
    feed["is_real_example"] = (np.arange(num_rows) < len(rows)).astype(np.int32)
  return feed


# What the model reads of one window: lists of int, one value for each token.
Row = collections.namedtuple("Row", ["input_ids", "input_mask", "segment_ids"])


class Encoded(collections.namedtuple("Encoded", ["rows", "state"])):
  """An item as the model takes it.

  Attributes:
    rows: list of Row, at least one.
    state: what `answer` has to know of it.
  """

  __slots__ = ()


def make_codec(path, info):
  """The codec of an export.

  Args:
    path: string, folder of the export.
    info: dict, see `export_helpers.read_info`.
  """
  tokenizer = tokenization.FullTokenizer(
      os.path.join(path, "assets", "vocab.txt"), info["do_lower_case"])
  return (QuestionCodec if info["kind"] == "squad" else TextCodec)(
      info, tokenizer)


class TextCodec(object):
  """Texts to rows, and probabilities to labels.

  Attributes:
    has_windows: bool, an item may have several rows, which the model pools.
  """

  def __init__(self, info, tokenizer):
    """Takes the model's settings (dict) and FullTokenizer."""
    self._labels = info["labels"]
    self._tokenizer = tokenizer
    self._max_seq_length = info["max_seq_length"]
    self._windows = None
    if info.get("doc_stride"):
      self._windows = window_helpers.Windows(
          info["doc_stride"], info["max_windows"])
    self.has_windows = self._windows is not None

  def encode(self, item, max_rows=None):
    """Makes the rows of a text.

    Args:
      item: string, a pair of strings, or a dict with "text_a" and perhaps
        "text_b".
      max_rows: unused; the export limits the windows of a text.

    Returns:
      Encoded.

    Raises:
      ValueError: it is something else.
    """
    del max_rows
    if isinstance(item, dict):
      known = set(item) <= {"text_a", "text_b"} and "text_a" in item
      texts = (item.get("text_a"), item.get("text_b")) if known else None
    else:
      texts = item if isinstance(item, (tuple, list)) else (item,)
    if not _are_texts(texts, (1, 2)):
      raise ValueError(f"A text or a pair of texts is expected: "
                       f"{_shown(item)}.")
    example = run_classifier.InputExample(
        None, *texts, label=self._labels[0] if self._labels else "0")
    args = (_UNLOGGED, example, self._labels, self._max_seq_length,
            self._tokenizer)
    if self._windows is None:
      features = run_classifier.convert_single_example(*args)
    else:
      features, _ = run_classifier.convert_example_to_windows(
          *args, self._windows)
    return Encoded(_rows_of(features, self._max_seq_length), None)

  def answer(self, encoded, outputs):
    """Reads the outputs.

    Args:
      encoded: Encoded.
      outputs: dict with "probabilities": float32 [1, L], or [L] of windows.

    Returns:
      Dict with "label", its "probability", and "probabilities", a dict by
      label; for a regression model with "value".
    """
    del encoded
    probabilities = np.ravel(outputs["probabilities"]).tolist()
    if not self._labels:
      return {"value": probabilities[0]}
    best = int(np.argmax(probabilities))
    return {"label": self._labels[best], "probability": probabilities[best],
            "probabilities": dict(zip(self._labels, probabilities))}


class QuestionCodec(object):
  """Questions on texts to rows, and logits to answers; see `TextCodec`."""

  has_windows = False  # Those of a text have logits of their own.

  def __init__(self, info, tokenizer):
    """Takes the model's settings (dict) and FullTokenizer."""
    self._info = info
    self._tokenizer = tokenizer

  def encode(self, item, max_rows=None):
    """Makes the rows of a question.

    Args:
      item: pair of strings (question, context), or a dict with these keys.
      max_rows: int or None, windows that the context may have. The work on
        many grows with their square.

    Returns:
      Encoded; its state is (SquadExample, list of InputFeatures).

    Raises:
      ValueError: it is something else, or has more windows.
    """
    if isinstance(item, dict):
      known = set(item) == {"question", "context"}
      texts = (item["question"], item["context"]) if known else None
    else:
      texts = item if isinstance(item, (tuple, list)) else None
    if not _are_texts(texts, (2,)):
      raise ValueError(f"A pair of a question and a context is expected: "
                       f"{_shown(item)}.")
    example = run_squad.question_on(*texts)
    features = []

    def keep(feature):
      if len(features) == max_rows:
        raise ValueError(f"The context has more than {max_rows} windows, "
                         f"the most that is taken.")
      features.append(feature)

    run_squad.convert_examples_to_features(
        [example], self._tokenizer, self._info["max_seq_length"],
        self._info["doc_stride"], self._info["max_query_length"], False,
        keep)
    if not features:
      raise ValueError(f"The context has no word: {_shown(item)}.")
    rows = [row for feature in features
            for row in _rows_of(feature, self._info["max_seq_length"])]
    return Encoded(rows, (example, features))

  def answer(self, encoded, outputs):
    """Finds the answer in the logits.

    Args:
      encoded: Encoded.
      outputs: dict with "start_logits" and "end_logits": float32 [rows, S].

    Returns:
      Dict with "answer", string, "" for none; its "probability" among the
      n-best; "start" and "end", its place in the context in characters, None
      for none; "nbest", a list of such dicts ("text" instead of "answer"), and
      with questions that may have no answer "null_odds", how far no answer is
      ahead, in logits.
    """
    example, features = encoded.state
    results = [
        run_squad.RawResult(feature.unique_id, start[:len(row.input_ids)],
                            end[:len(row.input_ids)])
        for feature, row, start, end in zip(
            features, encoded.rows, outputs["start_logits"],
            outputs["end_logits"])]
    info = self._info
    predictions, _, null_odds, offsets = run_squad.find_answers(
        [example], features, results, info["n_best_size"],
        info["max_answer_length"], info["do_lower_case"],
        info["version_2_with_negative"],
        null_score_diff_threshold=info["null_score_diff_threshold"],
        with_offsets=True)
    ((text, nbest),) = zip(predictions.values(), offsets.values())
    nbest = [
        {key: entry[key] for key in ("text", "probability", "start", "end")}
        for entry in nbest]
    chosen = next(entry for entry in nbest if entry["text"] == text)
    found = {"answer": text, **{key: chosen[key] for key in (
        "probability", "start", "end")}, "nbest": nbest}
    if info["version_2_with_negative"]:
      found["null_odds"] = null_odds[example.qas_id]
    return found


_UNLOGGED = 1 << 30  # Scripts log the first examples.


def _rows_of(features, max_seq_length):
  """The Rows of InputFeatures, without padding."""
  columns = (features.input_ids, features.input_mask, features.segment_ids)
  rows = []
  for start in range(0, len(features.input_ids), max_seq_length):
    length = sum(features.input_mask[start:start + max_seq_length])
    rows.append(Row(*(column[start:start + length] for column in columns)))
  return rows


def _are_texts(texts, counts):
  """Whether there are so many strings; the last may be None."""
  if texts is None or len(texts) not in counts:
    return False
  return isinstance(texts[0], str) and all(
      isinstance(text, str) or (text is None and 1 in counts)
      for text in texts[1:])


def _shown(item):
  """An item for a message."""
  text = json.dumps(item, ensure_ascii=False, default=repr)
  return text if len(text) <= 80 else text[:80] + "..."
