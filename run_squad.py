# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Fine-tunes BERT to answer questions with spans of a text: SQuAD 1.1 and 2.0.

  python run_squad.py --do_train --train_file=train-v1.1.json \
    --do_predict --do_eval --predict_file=dev-v1.1.json \
    --vocab_file=vocab.txt --bert_config_file=bert_config.json \
    --init_checkpoint=bert_model.ckpt --output_dir=/tmp/squad

The way of a question: JSON file -> SquadExample -> windows of the text, each
an InputFeatures -> tf.train.Example in a record file -> input_fn -> model_fn
-> start and end logits -> write_predictions -> scores.

Source: google-research/bert (commit cc7051dc); Habana's BERT fine-tuning
changes for devices and ranks; Rajpurkar et al. 2016 and 2018 for the data sets
and their scores.
"""

import array
import bisect
import collections
import functools
import itertools
import json
import math
import os
import random
import re
import tempfile

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from demo import checkpoint_helpers
from demo import compute_helpers
from demo import curve_helpers
from demo import estimator_helpers
from demo import evaluation_helpers
from demo import export_helpers
from demo import finetuning_helpers
from demo import flag_helpers
from demo import fused_helpers
from demo import gradient_helpers
from demo import horovod_helpers
from demo import metrics
from demo import option_helpers
from demo import padding_helpers
from demo import prediction_helpers
from demo import record_helpers
from demo import script_helpers
from demo import trial_helpers
from demo import worker_helpers
import modeling
import optimization
import tokenization

FLAGS = flags.FLAGS

_FIRST_UNIQUE_ID = 1000000000

# Examples that a worker converts at a time: many, so that the words of one
# article come to one worker, but some chunks for each.
_MAX_CHUNK_SIZE = 256
_CHUNKS_PER_WORKER = 4

# Words whose tokens each process keeps.
_KEPT_WORDS = 1 << 16

# The words of a paragraph are what stands between these signs. U+202F is one
# of them and U+00A0 is not, as in upstream.
_WORD = re.compile("[^ \t\r\n\u202f]+")

# Stands in null_odds.json for a question without any answer to weigh against.
_NO_ANSWER_ODDS = 1000000.0


def init_squad_flags():
  """Defines the script's flags: upstream's, then those added here."""
  flag_helpers.define_model_flags(max_seq_length=384)
  flag_helpers.define_text_flags()
  flag_helpers.define_training_flags()
  flag_helpers.define_fine_tuning_flags()
  flags.DEFINE_string(
      "train_file", None, "SQuAD JSON file to train on.")
  flags.DEFINE_string(
      "predict_file", None,
      "SQuAD JSON file with the questions to answer; for --do_predict alone it "
      "needs no answers.")
  flags.DEFINE_integer(
      "doc_stride", 128,
      "Tokens from the start of one window to the start of the next, where a "
      "text is too long for one.")
  flags.DEFINE_integer(
      "max_query_length", 64, "Tokens of a question; longer ones are cut.")
  flags.DEFINE_bool("do_predict", False, "Answer the questions.")
  flags.DEFINE_integer(
      "n_best_size", 20, "Answers per question in nbest_predictions.json.")
  flags.DEFINE_integer(
      "max_answer_length", 30, "Tokens of an answer at most.")
  flag_helpers.define_tpu_flags()
  flags.DEFINE_bool(
      "verbose_logging", False,
      "Log where an answer could not be found again in the original text.")
  flags.DEFINE_bool(
      "version_2_with_negative", False,
      "SQuAD 2.0: some questions have no answer in the text.")
  flags.DEFINE_float(
      "null_score_diff_threshold", 0.0,
      "With --version_2_with_negative: no answer is given where null is ahead "
      "of the best answer by more than this.")

  # Not in upstream.
  flag_helpers.define_added_training_flags()
  flag_helpers.define_export_flags()
  flag_helpers.define_record_flags()
  flag_helpers.define_padding_flags()
  flags.DEFINE_bool(
      "do_eval", False,
      "Score predictions.json against the answers in --predict_file.")
  flags.DEFINE_bool(
      "write_offsets", False,
      "Beside upstream's result files write nbest_offsets.json: the n-best "
      "answers with their place in the text, in characters.")
  flags.DEFINE_integer(
      "preprocess_workers", None,
      "Processes that convert the examples; the records are the same for any "
      "number. None takes all cores.", lower_bound=1)


class SquadExample(object):
  """A question on a text.

  Where the question has no answer in the text, both positions are -1.

  Source: upstream symbol; see CHANGES.
  """

  def __init__(self,
               qas_id,
               question_text,
               doc_tokens,
               orig_answer_text=None,
               start_position=None,
               end_position=None,
               is_impossible=False,
               context=None,
               place=None):
    """Takes the values as they are.

    Args:
      qas_id: string, unique id of the question.
      question_text: string.
      doc_tokens: list of string, the words of the text.
      orig_answer_text: string, for training.
      start_position: int, for training: first word of the answer.
      end_position: int, for training: last word of the answer.
      is_impossible: bool, for training: the text has no answer.
      context: string, for prediction: the text, so that answers can be placed
        in it.
      place: for prediction: where the question stands, for messages.
    """
    self.doc_tokens, self.context, self.place = doc_tokens, context, place
    self.qas_id, self.question_text = qas_id, question_text
    self.start_position, self.end_position = start_position, end_position
    self.orig_answer_text = orig_answer_text
    self.is_impossible = is_impossible

  def __str__(self):
    return self.__repr__()

  def __repr__(self):
    parts = [f"qas_id: {self.qas_id}", f"question_text: {self.question_text}",
             f"doc_tokens: [{' '.join(self.doc_tokens)}]"]
    if self.start_position:  # Not for 0 either, as in upstream.
      parts += [f"{name}: {getattr(self, name)}" for name in (
          "start_position", "end_position", "is_impossible")]
    return ", ".join(parts)


class InputFeatures(object):
  """One window of a text with its question, as numbers.

  Source: upstream symbol, unchanged.
  """

  def __init__(self,
               unique_id,
               example_index,
               doc_span_index,
               tokens,
               token_to_orig_map,
               token_is_max_context,
               input_ids,
               input_mask,
               segment_ids,
               start_position=None,
               end_position=None,
               is_impossible=None):
    """Takes the values as they are.

    Args:
      unique_id: int, number of the window.
      example_index: int, number of the question.
      doc_span_index: int, number of the window among those of its question.
      tokens: list of string, `[CLS] question [SEP] text [SEP]`.
      token_to_orig_map: dict from the place of a token of the text in `tokens`
        to the place of its word in the text.
      token_is_max_context: dict with the same keys: whether no other window
        has more of the text around that token.
      input_ids: list of S int, token ids, padded with 0.
      input_mask: list of S int, 1 for tokens, 0 for padding.
      segment_ids: list of S int, 1 for the text and the last [SEP], else 0.
      start_position: int or None, first token of the answer; 0 where the
        window doesn't hold all of it.
      end_position: int or None, last token of the answer.
      is_impossible: bool or None.
    """
    self.unique_id, self.example_index = unique_id, example_index
    self.doc_span_index, self.tokens = doc_span_index, tokens
    self.token_to_orig_map = token_to_orig_map
    self.token_is_max_context = token_is_max_context
    self.input_ids, self.input_mask = input_ids, input_mask
    self.segment_ids, self.is_impossible = segment_ids, is_impossible
    self.start_position, self.end_position = start_position, end_position


class AnswerFeatures(object):
  """What `write_predictions` needs of an InputFeatures, in little memory.

  Attributes:
    unique_id: int, see InputFeatures.
    example_index: int.
  """

  __slots__ = ("unique_id", "example_index", "_inv_vocab", "_first",
               "_input_ids", "_words", "_max_context")

  def __init__(self, packed, unique_id, inv_vocab):
    """Takes what a window was packed to, perhaps in another process.

    Args:
      packed: see `_Window.packed`.
      unique_id: int.
      inv_vocab: dict id -> token.
    """
    (self.example_index, self._first, self._input_ids, self._words,
     self._max_context) = packed
    self.unique_id, self._inv_vocab = unique_id, inv_vocab

  def unpack(self):
    """An InputFeatures with tokens and maps, without ids and masks."""
    return InputFeatures(
        self.unique_id, self.example_index, None,
        [self._inv_vocab[x] for x in array.array("i", self._input_ids)],
        dict(enumerate(array.array("i", self._words), self._first)),
        dict(enumerate(map(bool, self._max_context), self._first)),
        None, None, None)


class _Place(collections.namedtuple(
    "_Place", ["path", "spot", "title", "qas_id"])):
  """Where a question stands: file, path inside it, title and id."""

  def __str__(self):
    return f"{self.path}: {self.spot} ({self.title!r}, id {self.qas_id!r})"


def _walk(path):
  """The questions of a SQuAD file.

  Args:
    path: string, JSON file: {"data": [{"title", "paragraphs": [{"context",
      "qas": [{"id", "question", ...}]}]}]}.

  Yields:
    (context, qa, place): string, dict and _Place.

  Raises:
    ValueError: it is not such a file; names the path inside it.
  """
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise ValueError(f"{path} is not there: --train_file and --predict_file "
                     f"take SQuAD JSON files.")
  try:
    with tf.io.gfile.GFile(path, "rb") as reader:
      content = json.loads(reader.read().decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not UTF-8 text: byte "
                     f"{error.start}. Convert it with iconv.") from None
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not JSON: {error}.") from None
  for a, article in enumerate(_member(content, "data", list, path, "")):
    spot = f"data[{a}]"
    paragraphs = _member(article, "paragraphs", list, path, spot)
    title = article.get("title", "")
    for p, paragraph in enumerate(paragraphs):
      spot = f"data[{a}].paragraphs[{p}]"
      context = _member(paragraph, "context", str, path, spot, title)
      for q, qa in enumerate(
          _member(paragraph, "qas", list, path, spot, title)):
        inside = f"{spot}.qas[{q}]"
        _member(qa, "question", str, path, inside, title)
        yield context, qa, _Place(
            path, inside, title, _member(qa, "id", str, path, inside, title))


_KINDS = {list: "a list", str: "a text", int: "a whole number",
          bool: "true or false"}


def _member(value, key, kind, path, spot, title=None):
  """value[key], if it is there and of the right kind."""
  named = f" ({title!r})" if title else ""
  if not isinstance(value, dict):
    raise ValueError(
        f"{path}: {spot or 'the file'}{named} is {_shown(value)}, expected an "
        f"object with {key!r}: this is not a SQuAD file.")
  # type(): true is no number.
  if key not in value or type(value[key]) is not kind:
    found = (f"is {_shown(value[key])}, expected {_KINDS[kind]}"
             if key in value else "is missing")
    dot = "." if spot else ""
    raise ValueError(f"{path}: {spot}{dot}{key}{named} {found}: this is not "
                     f"a SQuAD file.")
  return value[key]


def _shown(value):
  text = json.dumps(value)
  return text if len(text) <= 40 else text[:37] + "..."


def _answers(qa, place):
  """The answers of a question, a list of dicts with a `text`."""
  if "answers" not in qa:
    return []
  answers = _member(qa, "answers", list, place.path, place.spot, place.title)
  for number, answer in enumerate(answers):
    _member(answer, "text", str, place.path, f"{place.spot}.answers[{number}]",
            place.title)
  return answers


def read_squad_examples(input_file, is_training, version_2_with_negative=False):
  """Reads the questions of a SQuAD file.

  Args:
    input_file: string, JSON file in the form of SQuAD 1.1 or 2.0.
    is_training: bool, read the answers too, of which each question then needs
      exactly one.
    version_2_with_negative: bool, questions may have no answer.

  Returns:
    List of SquadExample. A training question whose answer can't be found in
    the words of its text is left out, with a warning.

  Raises:
    ValueError: it is not such a file, an answer is missing or outside of the
      text, or the file is of the other version; names the path inside it.

  Source: upstream symbol; see CHANGES.
  """
  examples = []
  last_context = None
  for context, qa, place in _walk(input_file):
    if context is not last_context:  # Questions share their text.
      doc_tokens = _WORD.findall(context)
      starts = ([match.start() for match in _WORD.finditer(context)]
                if is_training else None)
      last_context = context
    if qa.get("is_impossible") is True and not version_2_with_negative:
      raise ValueError(
          f"{place} has no answer: this is SQuAD 2.0. Pass "
          f"--version_2_with_negative.")
    if not is_training:
      examples.append(SquadExample(
          qa["id"], qa["question"], doc_tokens, context=context, place=place))
      continue
    if version_2_with_negative and "is_impossible" not in qa:
      raise ValueError(
          f"{place} doesn't say whether it has an answer (is_impossible): this "
          f"is SQuAD 1.1. Leave --version_2_with_negative out.")
    if version_2_with_negative and _member(
        qa, "is_impossible", bool, place.path, place.spot, place.title):
      examples.append(SquadExample(
          qa["id"], qa["question"], doc_tokens, "", -1, -1, True))
      continue
    example = _training_example(context, qa, place, doc_tokens, starts)
    if example is not None:
      examples.append(example)
  return examples


def question_on(question, context):
  """A question that is in no file, to be answered.

  Args:
    question: string.
    context: string, the text that it is about.

  Returns:
    SquadExample.
  """
  return SquadExample("0", question, _WORD.findall(context), context=context)


def _training_example(context, qa, place, doc_tokens, starts):
  """The SquadExample of a question with its answer; None if not found."""
  answers = _answers(qa, place)
  if len(answers) != 1:
    raise ValueError(f"{place} has {len(answers)} answers, for training it "
                     f"needs exactly 1.")
  text = answers[0]["text"]
  offset = _member(answers[0], "answer_start", int, place.path,
                   f"{place.spot}.answers[0]", place.title)
  if not text:
    raise ValueError(f"{place}: answers[0].text is empty. Leave the question "
                     f"out.")
  last = offset + len(text) - 1
  if not 0 <= offset <= last < len(context):
    raise ValueError(
        f"{place}: answers[0].answer_start is {offset}, with which the answer "
        f"of {len(text)} characters lies outside of the text of "
        f"{len(context)}.")
  # A blank belongs to the word before it.
  start, end = (bisect.bisect_right(starts, x) - 1 for x in (offset, last))
  found = " ".join(doc_tokens[start:end + 1])
  wanted = " ".join(tokenization.whitespace_tokenize(text))
  if wanted not in found:
    logging.warning("%s: the answer %r is not at answer_start %d, where %r "
                    "stands: left out.", place, wanted, offset, found)
    return None
  return SquadExample(
      qa["id"], qa["question"], doc_tokens, text, start, end, False)


def convert_examples_to_features(examples, tokenizer, max_seq_length,
                                 doc_stride, max_query_length, is_training,
                                 output_fn):
  """Turns questions into windows of their texts, one after the other.

  Args:
    examples: iterable of SquadExample.
    tokenizer: FullTokenizer.
    max_seq_length: int, S, tokens of a window with its question.
    doc_stride: int, tokens from the start of a window to that of the next.
    max_query_length: int, tokens of a question; longer ones are cut.
    is_training: bool, set start and end positions.
    output_fn: function, called with each InputFeatures in order.

  Source: upstream symbol; see CHANGES.
  """
  unique_ids = itertools.count(_FIRST_UNIQUE_ID)
  windows = _Windows(tokenizer, max_seq_length, doc_stride, max_query_length)
  for example_index, example in enumerate(examples):
    for window in windows.of(example, example_index, is_training):
      feature = window.feature()
      feature.unique_id = next(unique_ids)
      output_fn(feature)


class _Text(object):
  """The words of a text as tokens.

  Attributes:
    words: list of string.
    pieces: list of string, the tokens.
    ids: list of int, their ids.
    word_of_piece: array of int, the place of the word of each token.
    first_pieces: list of int, the first token of each word, and the end.
  """

  def __init__(self, words, tokenize, to_ids):
    """Tokenizes the words, one by one.

    Args:
      words: list of string.
      tokenize: function of a string that returns its tokens.
      to_ids: function of tokens that returns their ids.
    """
    self.words = words
    pieces_of_words = list(map(tokenize, words))
    lengths = list(map(len, pieces_of_words))
    self.pieces = list(itertools.chain.from_iterable(pieces_of_words))
    self.ids = to_ids(self.pieces)
    self.word_of_piece = array.array("i", itertools.chain.from_iterable(
        map(itertools.repeat, range(len(words)), lengths)))
    self.first_pieces = list(itertools.accumulate(lengths, initial=0))


class _Windows(object):
  """Cuts the texts of questions into windows that the model can take."""

  _DocSpan = collections.namedtuple("DocSpan", ["start", "length"])

  def __init__(self, tokenizer, max_seq_length, doc_stride, max_query_length):
    """See `convert_examples_to_features`."""
    self._tokenizer = tokenizer
    self._tokenize_word = functools.lru_cache(_KEPT_WORDS)(tokenizer.tokenize)
    self._max_seq_length = max_seq_length
    self._doc_stride = doc_stride
    self._max_query_length = max_query_length
    self._text = None  # Of the last question: others share it.

  def of(self, example, example_index, is_training):
    """Yields the _Windows of a question."""
    to_ids = self._tokenizer.convert_tokens_to_ids
    query = self._tokenizer.tokenize(example.question_text)
    query = ["[CLS]"] + query[:self._max_query_length] + ["[SEP]"]
    query_ids = to_ids(query)
    if self._text is None or example.doc_tokens is not self._text.words:
      self._text = _Text(example.doc_tokens, self._tokenize_word, to_ids)
    text = self._text
    answer = None
    if is_training and not example.is_impossible:
      answer = _improve_answer_span(
          text.pieces, text.first_pieces[example.start_position],
          text.first_pieces[example.end_position + 1] - 1, self._tokenizer,
          example.orig_answer_text)
    spans = self._spans(len(text.pieces), self._max_seq_length - len(query) - 1)
    for number, span in enumerate(spans):
      window = _Window(
          example_index, query, query_ids, text, spans, number,
          self._max_seq_length, example.is_impossible)
      if is_training:
        window.start_position, window.end_position = _positions(
            answer, span, len(query))
      if example_index < 20:
        _log_feature(example, window.feature())
      yield window

  def _spans(self, num_pieces, max_pieces):
    """The windows of a text of `num_pieces` tokens."""
    spans = []
    start = 0
    while start < num_pieces:
      length = min(num_pieces - start, max_pieces)
      spans.append(self._DocSpan(start, length))
      if start + length == num_pieces:
        break
      start += min(length, self._doc_stride)
    return spans


class _Window(object):
  """A part of a text with its question, to be had in several forms.

  Attributes:
    start_position, end_position: see InputFeatures; None but for training.
    is_impossible: bool.
  """

  __slots__ = ("start_position", "end_position", "is_impossible",
               "_example_index", "_query", "_query_ids", "_text", "_spans",
               "_number", "_max_seq_length")

  def __init__(self, example_index, query, query_ids, text, spans, number,
               max_seq_length, is_impossible):
    """Takes the values as they are.

    Args:
      example_index: int, number of the question.
      query: list of string, `[CLS] question [SEP]`.
      query_ids: list of int, its ids.
      text: _Text.
      spans: list of (start, length), the parts that are windows.
      number: int, the place of this one among them.
      max_seq_length: int, S.
      is_impossible: bool.
    """
    self.start_position = self.end_position = None
    self.is_impossible = is_impossible
    self._example_index, self._max_seq_length = example_index, max_seq_length
    self._query, self._query_ids, self._text = query, query_ids, text
    self._spans, self._number = spans, number

  def feature(self):
    """Returns the InputFeatures, without unique_id."""
    start, length = self._spans[self._number]
    tokens = [*self._query, *self._text.pieces[start:start + length], "[SEP]"]
    places = range(len(self._query), len(self._query) + length)
    ids, mask, segments = (
        list(x) + [0] * (self._max_seq_length - len(tokens))
        for x in (self._ids(), *self._mask_and_segments()))
    return InputFeatures(
        None, self._example_index, self._number, tokens,
        dict(zip(places, self._text.word_of_piece[start:start + length])),
        dict(zip(places, map(bool, self._max_context()))), ids, mask, segments,
        self.start_position, self.end_position, self.is_impossible)

  def entries(self, is_training):
    """`_record_entries` of the feature, in less time (bytes)."""
    ids = self._ids()
    padding = self._max_seq_length - len(ids)
    mask, segments = (x + bytes(padding) for x in self._mask_and_segments())
    return b"".join([
        record_helpers.int_entry("input_ids", ids + [0] * padding),
        record_helpers.small_int_entry("input_mask", mask),
        record_helpers.small_int_entry("segment_ids", segments),
        *(_answer_entries(self) if is_training else ())])

  def packed(self):
    """What AnswerFeatures keep of it, as a tuple of ints and bytes."""
    start, length = self._spans[self._number]
    return (self._example_index, len(self._query),
            array.array("i", self._ids()).tobytes(),
            self._text.word_of_piece[start:start + length].tobytes(),
            self._max_context())

  def _ids(self):
    """The ids of all tokens; [SEP] ends the question and the text."""
    start, length = self._spans[self._number]
    return (self._query_ids + self._text.ids[start:start + length] +
            self._query_ids[-1:])

  def _mask_and_segments(self):
    """input_mask and segment_ids, without padding (bytes)."""
    num_query = len(self._query)
    num_text = self._spans[self._number].length + 1  # With [SEP].
    return (b"\1" * (num_query + num_text),
            bytes(num_query) + b"\1" * num_text)

  def _max_context(self):
    """For each token of the text: has no other window more around it?

    Returns:
      bytes, 1 or 0 for each.
    """
    spans, number = self._spans, self._number
    start, length = spans[number]
    if len(spans) == 1:
      return b"\1" * length
    end = start + length
    # Windows far away have none of these tokens.
    first = bisect.bisect_right([sum(span) for span in spans], start)
    last = bisect.bisect_left([span.start for span in spans], end)
    return bytes(_max_context(spans[first:last], number - first, start, end))


def _max_context(spans, number, first, last):
  """`_check_is_max_context` of the tokens from `first` to before `last`."""
  starts, lengths = np.array(spans).T[:, :, None]  # [windows, 1] each.
  before = np.arange(first, last) - starts
  near = np.minimum(before, lengths - 1 - before)
  scores = np.where(near >= 0, near + 0.01 * lengths, -1)
  return ((scores.argmax(axis=0) == number) & (near[number] >= 0)).tolist()


def _positions(answer, span, offset):
  """First and last token of the answer in a window; 0, 0 if not inside."""
  if answer is None:
    return 0, 0
  start, end = answer
  if start < span.start or end >= span.start + span.length:
    return 0, 0
  return start - span.start + offset, end - span.start + offset


def _log_feature(example, feature):
  """Shows how a question was converted, at debug level."""
  logging.debug(
      "Example %s, window %d\n  tokens: %s\n"
      "  token_to_orig_map: %s\n  token_is_max_context: %s\n  input_ids: %s\n"
      "  answer: %s to %s: %s", example.qas_id, feature.doc_span_index,
      " ".join(tokenization.printable_text(x) for x in feature.tokens),
      feature.token_to_orig_map, feature.token_is_max_context,
      feature.input_ids, feature.start_position, feature.end_position,
      example.orig_answer_text)


def _improve_answer_span(doc_tokens, input_start, input_end, tokenizer,
                         orig_answer_text):
  """Shrinks an answer's span to the word pieces that spell it exactly.

  SQuAD marks characters, so an answer may be a part of a word: "1895" in
  "(1895-1943)" is found among the pieces "(", "1895", "-", "1943", ")".

  Args:
    doc_tokens: list of string, word pieces of the text.
    input_start: int, first piece of the words that hold the answer.
    input_end: int, last piece of them.
    tokenizer: FullTokenizer.
    orig_answer_text: string.

  Returns:
    (start, end), ints: the first, then longest span inside that spells the
    answer, or the one that came in.

  Source: upstream symbol, unchanged.
  """
  wanted = " ".join(tokenizer.tokenize(orig_answer_text))
  for start in range(input_start, input_end + 1):
    for end in range(input_end, start - 1, -1):
      if " ".join(doc_tokens[start:end + 1]) == wanted:
        return start, end
  return input_start, input_end


def _check_is_max_context(doc_spans, cur_span_index, position):
  """Whether a window is the one that shows most text around a token.

  Windows overlap, so a token may be in several. What counts is the smaller of
  the numbers of tokens before and after it, and a little the window's length.

  Args:
    doc_spans: list of (start, length), ints.
    cur_span_index: int, the window.
    position: int, place of the token in the text.

  Returns:
    bool. Of windows that are equally good it is the first.

  Source: upstream symbol, unchanged.
  """
  return _max_context(doc_spans, cur_span_index, position, position + 1)[0]


def create_model(bert_config, is_training, input_ids, input_mask, segment_ids,
                 use_one_hot_embeddings, options=option_helpers.UPSTREAM):
  """Builds BERT with an output layer on each token.

  Args:
    bert_config: BertConfig.
    is_training: bool, turns dropout on.
    input_ids: int32 [B, S].
    input_mask: int32 [B, S].
    segment_ids: int32 [B, S].
    use_one_hot_embeddings: bool, see `modeling.embedding_lookup`.
    options: option_helpers.Options, what upstream doesn't have.

  Returns:
    (start_logits, end_logits): float32 [B, S] each.

  Source: upstream symbol; see CHANGES.
  """
  model = modeling.BertModel(
      bert_config, is_training, input_ids, input_mask, segment_ids,
      use_one_hot_embeddings,
      operations=fused_helpers.operations(options, is_training))
  sequence_output = model.get_sequence_output()  # [B, S, W]
  batch_size, seq_length, width = modeling.get_shape_list(
      sequence_output, expected_rank=3)
  weights = tf.compat.v1.get_variable(
      "cls/squad/output_weights", [2, width],
      initializer=modeling.create_initializer(0.02))
  bias = tf.compat.v1.get_variable(
      "cls/squad/output_bias", [2], initializer=tf.zeros_initializer())
  logits = tf.nn.bias_add(
      tf.matmul(tf.reshape(sequence_output, [-1, width]), weights,
                transpose_b=True), bias)  # [B*S, 2]
  start_logits, end_logits = tf.unstack(
      tf.reshape(logits, [batch_size, seq_length, 2]), axis=2)
  return (start_logits, end_logits)


def model_fn_builder(bert_config, init_checkpoint, learning_rate,
                     num_train_steps, num_warmup_steps, use_tpu,
                     use_one_hot_embeddings,
                     options=option_helpers.UPSTREAM):
  """Makes the model_fn of the Estimator.

  Args:
    bert_config: BertConfig.
    init_checkpoint: string or None, checkpoint to start from.
    learning_rate: float, peak rate.
    num_train_steps: int; None outside of training.
    num_warmup_steps: int; None outside of training.
    use_tpu: bool.
    use_one_hot_embeddings: bool, see `modeling.embedding_lookup`.
    options: option_helpers.Options, what upstream doesn't have.

  Returns:
    Function (features, labels, mode, params) -> TPUEstimatorSpec. It
    predicts `unique_ids` [B], `start_logits` and `end_logits` [B, S].

  Source: upstream symbol; see CHANGES.
  """

  def model_fn(features, labels, mode, params):
    """See the builder; labels and params are not used."""
    del labels, params
    if mode not in (tf.estimator.ModeKeys.TRAIN, tf.estimator.ModeKeys.PREDICT):
      raise ValueError(
          f"The model of run_squad trains and predicts, mode {mode!r} is "
          f"neither: scores come from the predictions.")
    is_training = mode == tf.estimator.ModeKeys.TRAIN

    def logits_of(features):
      return create_model(
          bert_config, is_training, features["input_ids"],
          features["input_mask"], features["segment_ids"],
          use_one_hot_embeddings, options)

    def scalars_of(features):
      start_logits, end_logits = logits_of(features)
      return {"loss": (
          position_loss(start_logits, features["start_positions"]) +
          position_loss(end_logits, features["end_positions"])) / 2.0}

    if is_training:
      loss = gradient_helpers.in_parts(scalars_of, features, options)["loss"]
    else:
      start_logits, end_logits = logits_of(features)
    scaffold_fn = None
    if init_checkpoint:
      scaffold_fn = checkpoint_helpers.warm_start(
          modeling.get_assignment_map_from_checkpoint, init_checkpoint, use_tpu)
    spec = tf.compat.v1.estimator.tpu.TPUEstimatorSpec
    if not is_training:
      return spec(mode=mode, scaffold_fn=scaffold_fn, predictions={
          "unique_ids": features["unique_ids"],
          "start_logits": start_logits, "end_logits": end_logits})
    train_op = optimization.create_optimizer(
        loss, learning_rate, num_train_steps, num_warmup_steps, use_tpu,
        options)
    return spec(mode=mode, loss=gradient_helpers.loss_value(loss),
                train_op=train_op,
                scaffold_fn=scaffold_fn)

  def position_loss(logits, positions):
    """Mean cross entropy of logits [B, S] at positions [B]."""
    log_probs = tf.nn.log_softmax(logits, axis=-1)
    one_hot = tf.one_hot(positions, depth=tf.shape(logits)[1])
    return -tf.reduce_mean(tf.reduce_sum(one_hot * log_probs, axis=-1))

  return model_fn


def input_fn_builder(input_file, seq_length, is_training, drop_remainder,
                     length_step=None):
  """Makes the input_fn that reads record files; see `record_helpers.dataset`.

  Args:
    input_file: string or list of strings.
    seq_length: int, S, as the records were written.
    is_training: bool.
    drop_remainder: bool, leave an incomplete last batch out.
    length_step: see `padding_helpers.length_step`.

  Returns:
    Function of params (dict with "batch_size", B) that returns a tf.data
    Dataset of dicts of int32 tensors: unique_ids [B], input_ids, input_mask,
    segment_ids [B, S] (with length_step S is that of the batch), and for
    training start_positions, end_positions [B].

  Source: upstream symbol; see CHANGES.
  """
  name_to_features = _record_features(seq_length, is_training)

  def input_fn(params):
    """See the builder."""
    return record_helpers.dataset(
        input_file, name_to_features, params, is_training, drop_remainder,
        length_step)

  return input_fn


def _record_features(seq_length, is_training):
  """The features of a record: name -> tf.io.FixedLenFeature."""
  scalars = ("unique_ids",)
  if is_training:
    scalars += ("start_positions", "end_positions")
  return {**finetuning_helpers.sequence_features(seq_length),
          **{name: tf.io.FixedLenFeature([], tf.int64) for name in scalars}}


RawResult = collections.namedtuple(
    "RawResult", ["unique_id", "start_logits", "end_logits"])

# An answer that a window proposes: tokens `start` to `end` of feature number
# `feature` of the question; 0 to 0 is "no answer".
_Candidate = collections.namedtuple(
    "_Candidate", ["feature", "start", "end", "start_logit", "end_logit"])

# An answer as text. `place` is (first word, last word, start, end) where start
# and end count characters in the words joined by blanks; None for no answer.
_Answer = collections.namedtuple(
    "_Answer", ["text", "start_logit", "end_logit", "place"])


def write_predictions(all_examples, all_features, all_results, n_best_size,
                      max_answer_length, do_lower_case, output_prediction_file,
                      output_nbest_file, output_null_log_odds_file,
                      version_2_with_negative=False, verbose_logging=False,
                      null_score_diff_threshold=0.0, output_offsets_file=None):
  """Finds the answers in the logits and writes them as JSON files.

  Args:
    all_examples: list of SquadExample.
    all_features: iterable of InputFeatures or AnswerFeatures.
    all_results: iterable of RawResult, in any order.
    n_best_size: int, answers per question.
    max_answer_length: int, tokens.
    do_lower_case: bool, as the tokenizer was made.
    output_prediction_file: string, id -> text.
    output_nbest_file: string, id -> list of text, probability, start_logit
      and end_logit, the best first.
    output_null_log_odds_file: string, id -> logits of no answer minus those of
      the best answer; written with `version_2_with_negative`.
    version_2_with_negative: bool, questions may have no answer.
    verbose_logging: bool, see `get_final_text`.
    null_score_diff_threshold: float, no answer is given where that difference
      is larger.
    output_offsets_file: string or None, the n-best answers with `start` and
      `end` in the text, characters; the examples need their `context`.

  Returns:
    List of the three dicts that were written: predictions, n-best answers,
    differences.

  Source: upstream symbol; see CHANGES.
  """
  predictions, nbest_json, null_odds, offsets = find_answers(
      script_helpers.progress_bar(all_examples, desc="Writing answers"),
      all_features, all_results, n_best_size, max_answer_length, do_lower_case,
      version_2_with_negative, verbose_logging, null_score_diff_threshold,
      with_offsets=bool(output_offsets_file))
  _write_json(output_prediction_file, predictions)
  _write_json(output_nbest_file, nbest_json)
  if version_2_with_negative:
    _write_json(output_null_log_odds_file, null_odds)
  if output_offsets_file:
    _write_json(output_offsets_file, offsets)
  return [predictions, nbest_json, null_odds]


def find_answers(all_examples, all_features, all_results, n_best_size,
                 max_answer_length, do_lower_case,
                 version_2_with_negative=False, verbose_logging=False,
                 null_score_diff_threshold=0.0, with_offsets=False):
  """Finds the answers in the logits; see `write_predictions`.

  Args:
    all_examples: see `write_predictions`, as the arguments up to the last.
    with_offsets: bool, also place the answers in the text.

  Returns:
    (predictions, nbest_json, null_odds, offsets): dicts by question id; the
    third is empty without `version_2_with_negative`, the last without
    `with_offsets`.
  """
  features_of = collections.defaultdict(list)
  for feature in all_features:
    features_of[feature.example_index].append(feature)
  result_of = {result.unique_id: result for result in all_results}

  predictions, nbest_json, null_odds, offsets = (
      collections.OrderedDict() for _ in range(4))
  for example_index, example in enumerate(all_examples):
    features = [
        feature.unpack() if isinstance(feature, AnswerFeatures) else feature
        for feature in features_of[example_index]]
    candidates, null = _candidates(
        features, result_of, n_best_size, max_answer_length,
        version_2_with_negative)
    answers = _n_best(
        candidates, null, n_best_size, functools.partial(
            _answer, example=example, features=features,
            do_lower_case=do_lower_case, verbose_logging=verbose_logging))
    probabilities = _compute_softmax(
        [answer.start_logit + answer.end_logit for answer in answers])
    nbest_json[example.qas_id] = [
        collections.OrderedDict(
            text=answer.text, probability=probability,
            start_logit=answer.start_logit, end_logit=answer.end_logit)
        for answer, probability in zip(answers, probabilities)]
    predictions[example.qas_id] = answers[0].text
    if version_2_with_negative:
      predictions[example.qas_id], null_odds[example.qas_id] = _best_or_none(
          answers, null, null_score_diff_threshold)
    if with_offsets:
      offsets[example.qas_id] = [
          dict(entry, **_offsets(answer.place, example.context))
          for entry, answer in zip(nbest_json[example.qas_id], answers)]
  return predictions, nbest_json, null_odds, offsets


def _candidates(features, result_of, n_best_size, max_answer_length, with_null):
  """All spans that could be the answer, the best first.

  Returns:
    (candidates, null): list of _Candidate, and the best "no answer" among the
    windows, which is in the list too; None without `with_null`.
  """
  candidates = []
  null = None
  for number, feature in enumerate(features):
    result = result_of[feature.unique_id]
    max_context = feature.token_is_max_context  # Its keys are the text.
    starts, ends = (
        [(index, float(logits[index]))
         for index in _get_best_indexes(logits, n_best_size)
         if index in max_context]
        for logits in (result.start_logits, result.end_logits))
    for start, start_logit in starts:
      if not max_context[start]:
        continue
      for end, end_logit in ends:
        if start <= end < start + max_answer_length:
          candidates.append(
              _Candidate(number, start, end, start_logit, end_logit))
    if with_null:
      of_window = _Candidate(number, 0, 0, float(result.start_logits[0]),
                             float(result.end_logits[0]))
      if null is None or _score(of_window) < _score(null):
        null = of_window
  if with_null:
    null = null or _Candidate(0, 0, 0, 0.0, 0.0)
    candidates.append(null)
  candidates.sort(key=_score, reverse=True)
  return candidates, null


def _score(candidate):
  return candidate.start_logit + candidate.end_logit


def _n_best(candidates, null, n_best_size, to_answer):
  """The best _Answers of a question; no text comes twice."""
  answers = collections.OrderedDict()
  for candidate in candidates:
    if len(answers) >= n_best_size:
      break
    answer = to_answer(candidate)
    answers.setdefault(answer.text, answer)
  if null is not None:  # One more than n_best_size, if need be.
    answers.setdefault("", _Answer("", null.start_logit, null.end_logit, None))
  # A text without a word gives no candidate.
  return list(answers.values()) or [_Answer("empty", 0.0, 0.0, None)]


def _answer(candidate, example, features, do_lower_case, verbose_logging):
  """The _Answer of a candidate, in the words of the text."""
  if candidate.start == 0:
    return _Answer("", candidate.start_logit, candidate.end_logit, None)
  feature = features[candidate.feature]
  pieces = feature.tokens[candidate.start:candidate.end + 1]
  pred_text = " ".join(pieces).replace(" ##", "").replace("##", "")
  first, last = (feature.token_to_orig_map[place]
                 for place in (candidate.start, candidate.end))
  orig_text = " ".join(example.doc_tokens[first:last + 1])
  start, end = _final_span(
      " ".join(pred_text.split()), orig_text, do_lower_case, verbose_logging)
  return _Answer(orig_text[start:end], candidate.start_logit,
                 candidate.end_logit, (first, last, start, end))


def _best_or_none(answers, null, threshold):
  """What to predict where there may be no answer.

  Returns:
    (text, difference): "" if null is ahead of the best answer by more than the
    threshold.
  """
  best = next((answer for answer in answers if answer.text), None)
  if best is None:
    return "", _NO_ANSWER_ODDS
  difference = _score(null) - best.start_logit - best.end_logit
  return "" if difference > threshold else best.text, difference


def _offsets(place, context):
  """Start and end of an answer in its text, in characters; None for none."""
  if place is None:
    return {"start": None, "end": None}
  first, last, start, end = place
  # Where each character of the joined words stands in the text.
  characters = []
  for match in itertools.islice(_WORD.finditer(context), first, last + 1):
    characters += range(match.start(), match.end() + 1)  # And the blank.
  return {"start": characters[start], "end": characters[end - 1] + 1}


def _write_json(path, content):
  script_helpers.write_text(path, json.dumps(content, indent=4) + "\n")


def get_final_text(pred_text, orig_text, do_lower_case, verbose_logging=False):
  """Finds an answer made of word pieces again in the original text.

  Word pieces are lower-cased, without accents, and cut at punctuation. For
  pred_text "steve smith" and orig_text "Steve Smith's" the answer is "Steve
  Smith": the text is tokenized in the same way, and where both have the same
  characters besides blanks, places can be carried over.

  Args:
    pred_text: string, joined word pieces.
    orig_text: string, the words that they come from.
    do_lower_case: bool, as the tokenizer was made.
    verbose_logging: bool, say why the whole `orig_text` was taken.

  Returns:
    string, a part of `orig_text`, or all of it where the answer isn't found.

  Source: upstream symbol; see CHANGES.
  """
  start, end = _final_span(pred_text, orig_text, do_lower_case, verbose_logging)
  return orig_text[start:end]


def _final_span(pred_text, orig_text, do_lower_case, verbose_logging):
  """`get_final_text` as (start, end) in `orig_text`."""
  everything = (0, len(orig_text))

  def give_up(why):
    if verbose_logging:
      logging.info("%s: %r in %r", why, pred_text, orig_text)
    return everything

  tok_text = " ".join(
      words for words in (
          _basic_words(word, do_lower_case) for word in orig_text.split(" "))
      if words)
  found = tok_text.find(pred_text)
  if found < 0:
    return give_up("Answer not found in the text")
  in_orig, in_tok = (
      [place for place, char in enumerate(text) if char != " "]
      for text in (orig_text, tok_text))
  if len(in_orig) != len(in_tok):
    return give_up("Tokenization changed the number of characters")
  ends = []
  for place in (found, found + len(pred_text) - 1):
    number = bisect.bisect_left(in_tok, place)
    if number == len(in_tok) or in_tok[number] != place:
      return give_up("Answer begins or ends with a blank")
    ends.append(in_orig[number])
  return ends[0], ends[1] + 1


@functools.lru_cache(maxsize=1 << 16)
def _basic_words(word, do_lower_case):
  """A word as BasicTokenizer splits it, joined by blanks."""
  return " ".join(tokenization.BasicTokenizer(do_lower_case).tokenize(word))


def _get_best_indexes(logits, n_best_size):
  """Returns the places of the largest logits, the best first (list of int).

  Source: upstream symbol, unchanged; equal logits keep their order.
  """
  order = np.argsort(-np.asarray(logits, np.float64), kind="stable")
  return order[:n_best_size].tolist()


def _compute_softmax(scores):
  """Returns the softmax of a list of float, as a list.

  Source: upstream symbol, unchanged.
  """
  if not scores:
    return []
  highest = max(scores)
  powers = [math.exp(score - highest) for score in scores]
  total = sum(powers)
  return [power / total for power in powers]


class FeatureWriter(object):
  """Writes InputFeatures to a record file.

  Each record is a tf.train.Example with int64 lists `unique_ids` (1 value),
  `input_ids`, `input_mask`, `segment_ids` (S values each), and for training
  `start_positions`, `end_positions`, `is_impossible` (1 value each).

  Attributes:
    filename: string.
    is_training: bool.
    num_features: int, written so far.

  Source: upstream symbol; see CHANGES.
  """

  def __init__(self, filename, is_training):
    """Opens the file.

    Args:
      filename: string; an earlier file is written over.
      is_training: bool.
    """
    self.is_training, self.filename = is_training, filename
    self.num_features = 0
    self._writer = tf.io.TFRecordWriter(filename)

  def process_feature(self, feature):
    """Writes an InputFeatures."""
    self.write(_record_entries(feature, self.is_training), feature.unique_id)

  def write(self, entries, unique_id):
    """Writes an InputFeatures that another process has serialized.

    Args:
      entries: bytes of `_record_entries`.
      unique_id: int.
    """
    self.num_features += 1
    self._writer.write(record_helpers.serialized_example(
        entries, record_helpers.int_entry("unique_ids", (unique_id,))))

  def close(self):
    """Finishes the file."""
    self._writer.close()


def _record_entries(feature, is_training):
  """An InputFeatures, serialized but for its unique_id (bytes)."""
  return b"".join([
      record_helpers.int_entry("input_ids", feature.input_ids),
      record_helpers.int_entry("input_mask", feature.input_mask),
      record_helpers.int_entry("segment_ids", feature.segment_ids),
      *(_answer_entries(feature) if is_training else ())])


def _answer_entries(feature):
  """The answer of an InputFeatures or _Window, serialized (list of bytes)."""
  repeated = record_helpers.repeated_int_entry
  return [repeated("start_positions", (feature.start_position,)),
          repeated("end_positions", (feature.end_position,)),
          repeated("is_impossible", (int(bool(feature.is_impossible)),))]


def validate_flags_or_throw(bert_config):
  """Refuses flags that can't work together.

  Args:
    bert_config: BertConfig.

  Raises:
    ValueError: names the flag and the way out.

  Source: upstream symbol; see CHANGES.
  """
  if reads_text(FLAGS):
    tokenization.validate_case_matches_checkpoint(
        FLAGS.do_lower_case, FLAGS.init_checkpoint)
  if not (FLAGS.do_train or FLAGS.do_predict or FLAGS.do_eval or
          FLAGS.do_export):
    raise ValueError(
        "Nothing to do: pass one or more of --do_train, --do_predict, "
        "--do_eval and --do_export.")
  for flag, file_flag in (("do_train", "train_file"),
                          ("do_predict", "predict_file"),
                          ("do_eval", "predict_file")):
    is_given = FLAGS[file_flag].value or (
        flag == "do_train" and FLAGS.train_records)
    if FLAGS[flag].value and not is_given:
      raise ValueError(f"--{flag} needs --{file_flag}, a SQuAD JSON file.")
  if not (FLAGS.do_train or FLAGS.do_predict or FLAGS.do_export):
    return  # No text is cut into windows.
  flag_helpers.check_max_seq_length(FLAGS, bert_config, smallest=5)
  if reads_text(FLAGS):
    flag_helpers.check_room_for_text(FLAGS)


def main(_):
  """Trains, answers and scores, as the flags say.

  Source: upstream symbol; see CHANGES.
  """
  tf.compat.v1.enable_resource_variables()
  _take_meta_data(FLAGS)
  with _worker_pool(FLAGS) as pool:
    horovod_helpers.start_ranks(FLAGS.use_horovod, FLAGS.cpu_only,
                                FLAGS.fp16_allreduce, FLAGS.bf16_config_path)
    compute_helpers.prepare(FLAGS)
    flag_helpers.check_input_files(FLAGS)
    bert_config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
    flag_helpers.check_bert_config(FLAGS.bert_config_file, bert_config)
    validate_flags_or_throw(bert_config)
    _check_flags(FLAGS)
    tokenizer = None
    if FLAGS.vocab_file:
      tokenizer = tokenization.FullTokenizer(
          vocab_file=FLAGS.vocab_file, do_lower_case=FLAGS.do_lower_case)
      flag_helpers.check_vocabulary(FLAGS, tokenizer.vocab, bert_config)
    script_helpers.check_output_dir(FLAGS.output_dir)
    export_helpers.check(FLAGS)
    is_scored = (evaluation_helpers.is_wanted(FLAGS) and
                 horovod_helpers.is_chief())
    answers = predict_examples = None
    if is_scored or FLAGS.do_eval and horovod_helpers.is_chief():
      answers = _read_answers(FLAGS)
    if is_scored or (
        FLAGS.do_predict and prediction_helpers.takes_part(FLAGS)):
      predict_examples = _read_predict_examples(FLAGS)
    records = _train_records(FLAGS, bert_config)
    if FLAGS.do_train or FLAGS.do_predict or FLAGS.do_export or is_scored:
      checkpoint_helpers.check_checkpoints(
          FLAGS, bert_config,
          lambda ids: create_model(bert_config, False, ids, ids, ids, False),
          modeling.get_assignment_map_from_checkpoint)
    if horovod_helpers.horovod_enabled():
      _check_ranks_agree(FLAGS, records)
    if trial_helpers.is_wanted(FLAGS):
      _try_out(FLAGS, bert_config, pool, records, predict_examples)
      return
    scorer = None
    if is_scored:
      scorer = _scorer(FLAGS, bert_config, predict_examples, answers, pool,
                       tokenizer)
    if FLAGS.do_train:
      _train(FLAGS, bert_config, pool, evaluation_helpers.within_training(
          FLAGS, _score_names(FLAGS), scorer), records)
    evaluation_helpers.evaluate_several(FLAGS, _score_names(FLAGS), scorer)
    if FLAGS.do_predict and predict_examples:
      _predict(FLAGS, bert_config, predict_examples, pool, tokenizer)
    if FLAGS.do_eval and answers and (FLAGS.do_predict or not is_scored):
      _evaluate(FLAGS, answers)
    if FLAGS.do_export and horovod_helpers.is_chief():
      _export(FLAGS, bert_config)


def reads_text(args):
  """Whether a step that the flags ask for, or none does, converts text."""
  return bool(args.do_eval or not (args.do_train or args.do_export) or
              _converts_text(args))


def _converts_text(args):
  """Whether questions are to be cut into windows."""
  return (args.do_predict or evaluation_helpers.is_wanted(args) or
          args.do_train and not args.train_records)


def _take_meta_data(args):
  """Sets the flags of the conversion to how --train_records were made."""
  if args.meta_data_file and not args.train_records:
    raise ValueError(
        f"--meta_data_file={args.meta_data_file} is of records, and there are "
        f"none: pass --train_records.")
  if args.meta_data_file:
    must_agree = ("max_seq_length", "version_2_with_negative")
    finetuning_helpers.take_flags(
        args, finetuning_helpers.read_meta_data(
            args.meta_data_file, ("bert_squad",)),
        (*must_agree, "max_query_length", "doc_stride"), must_agree)


def _train_records(args, bert_config):
  """The RecordSet to train on; None where that is text."""
  if not (args.do_train and args.train_records):
    return None
  length = args.max_seq_length
  records = finetuning_helpers.RecordSet(
      "train_records", args.train_records,
      lambda stored: _record_features(length, is_training=True),
      {"start_positions": length, "end_positions": length})
  records.check_ids(bert_config.vocab_size)
  return records


def _check_ranks_agree(args, records):
  """Refuses a run whose ranks don't work on the same."""
  files, values = {}, {}
  if records:
    values["What --train_records has to train on"] = records.content()
    files["--meta_data_file"] = args.meta_data_file
  elif args.do_train:
    files["--train_file"] = args.train_file
  if args.do_predict and prediction_helpers.is_distributed(args):
    files["--predict_file"] = args.predict_file
  script_helpers.check_ranks_agree(args, files, values)


def _check_flags(args):
  """Refuses what can't work, beyond `validate_flags_or_throw`."""
  flag_helpers.check_training_flags(args)
  trial_helpers.check_flags(args)
  if args.train_file and args.train_records:
    raise ValueError(
        f"--train_file={args.train_file} and "
        f"--train_records={args.train_records}: pass the one to train on.")
  evaluation_helpers.check_flags(args, _score_names(args))
  if evaluation_helpers.is_wanted(args) and not args.predict_file:
    raise ValueError("Evaluating checkpoints needs --predict_file, a SQuAD "
                     "JSON file with answers.")
  if args.do_eval and args.do_train and not args.do_predict:
    raise ValueError(
        "--do_eval scores predictions, and --do_train alone makes none: add "
        "--do_predict.")
  if not (_converts_text(args) or args.do_export):
    return
  for name in ("max_query_length", "n_best_size", "max_answer_length"):
    if getattr(args, name) < 1:
      raise ValueError(f"--{name}={getattr(args, name)} has to be 1 or more.")
  most = args.max_seq_length - args.max_query_length - 3
  if not 1 <= args.doc_stride <= most:
    raise ValueError(
        f"--doc_stride={args.doc_stride} has to be 1 to {most}: with "
        f"--max_seq_length={args.max_seq_length} and "
        f"--max_query_length={args.max_query_length} a window may hold no more "
        f"than {most} tokens of the text, and what lies between two windows "
        f"would be lost.")


def _score_names(args):
  """The scores of an evaluation (tuple of string), the main one first."""
  answers = {"answered": ["text"]}
  if args.version_2_with_negative:
    answers["not answered"] = []
  predictions = dict.fromkeys(answers, "text")
  nbest = {qas_id: [{"text": "text"}] for qas_id in answers}
  names = curve_helpers.score_names(_squad_scores(
      args, answers, predictions, dict.fromkeys(answers, 0.0), nbest))
  return ("f1",) + tuple(name for name in names if name != "f1")


def _squad_scores(args, answers, predictions, null_odds=None, nbest=None):
  """The scores (dict) of --version_2_with_negative or of 1.1."""
  if args.version_2_with_negative:
    return metrics.squad_v2_scores(answers, predictions, null_odds, nbest)
  return metrics.squad_scores(answers, predictions)


def _read_answers(args):
  """The true answers of --predict_file: id -> list of texts."""
  answers, places = {}, {}
  for _, qa, place in _walk(args.predict_file):
    _check_id(place, places)
    answers[qa["id"]] = [answer["text"] for answer in _answers(qa, place)]
    if "answers" not in qa:
      raise ValueError(f"{place} has no answers to score with. Leave --do_eval "
                       f"out.")
    if not (qa["answers"] or args.version_2_with_negative):
      raise ValueError(f"{place} has no answer to score with. Pass "
                       f"--version_2_with_negative if its text has none, else "
                       f"leave --do_eval out.")
  if not answers:
    raise ValueError(f"--predict_file={args.predict_file} has no question.")
  return answers


def _check_id(place, places):
  """Refuses an id that is in `places` (id -> _Place), and adds it there."""
  if place.qas_id in places:
    raise ValueError(
        f"{place} has the id of {places[place.qas_id].spot}: answers are told "
        f"apart by their ids, so each may occur once.")
  places[place.qas_id] = place


def _read_predict_examples(args):
  """The questions of --predict_file, each id once."""
  examples = read_squad_examples(
      args.predict_file, False, args.version_2_with_negative)
  if not examples:
    raise ValueError(f"--predict_file={args.predict_file} has no question.")
  places = {}
  for example in examples:
    _check_id(example.place, places)
    if not example.doc_tokens and horovod_helpers.is_chief():
      logging.warning("%s has an empty context: there is no answer to find.",
                      example.place)
  return examples


def _worker_pool(args):
  """The processes that convert examples."""
  convert = functools.partial(
      _convert_chunk, settings=(
          args.vocab_file, args.do_lower_case, args.max_seq_length,
          args.doc_stride, args.max_query_length))
  num_workers = args.preprocess_workers or horovod_helpers.share_of_cores()
  needed = _converts_text(args)
  return worker_helpers.WorkerPool(convert, num_workers if needed else 1)


@functools.lru_cache(maxsize=1)
def _windows_of(vocab_file, do_lower_case, *settings):
  """The _Windows of a process, made when it is first given work."""
  return _Windows(tokenization.FullTokenizer(vocab_file, do_lower_case),
                  *settings)


# Examples for a worker: the number of the first, whether they are for training,
# and what is wanted of them: records, AnswerFeatures, or both.
_Chunk = collections.namedtuple(
    "_Chunk", ["first", "examples", "is_training", "records", "answers"])


def _convert_chunk(chunk, settings):
  """Converts the examples of a chunk, in a worker process.

  Args:
    chunk: _Chunk.
    settings: tuple, the arguments of `_windows_of`.

  Returns:
    List with a pair for each window: its record but for the unique_id, its
    packed AnswerFeatures; None for what was not wanted.
  """
  windows = _windows_of(*settings)
  return [
      (window.entries(chunk.is_training) if chunk.records else None,
       window.packed() if chunk.answers else None)
      for example_index, example in enumerate(chunk.examples, chunk.first)
      for window in windows.of(example, example_index, chunk.is_training)]


def _convert(examples, is_training, pool, record_file=None, inv_vocab=None,
             is_own=None):
  """Converts examples in the processes of a pool, in their order.

  Args:
    examples: list of SquadExample.
    is_training: bool.
    pool: WorkerPool.
    record_file: string or None, file to write.
    inv_vocab: dict id -> token; None where no AnswerFeatures are wanted.
    is_own: function of a window's number (int), whether it belongs in the
      record file; None for all.

  Returns:
    (num_features, features): int and list of AnswerFeatures, of all windows.
  """
  size = min(max(len(examples) // (pool.num_workers * _CHUNKS_PER_WORKER), 1),
             _MAX_CHUNK_SIZE)
  chunks = (
      _Chunk(first, examples[first:first + size], is_training,
             record_file is not None, inv_vocab is not None)
      for first in range(0, len(examples), size))
  writer = FeatureWriter(record_file, is_training) if record_file else None
  features = []
  num_features = 0
  with script_helpers.Progress(
      len(examples), "Converting", "questions", log_every=10000) as progress:
    for windows in pool.map(chunks):
      for entries, packed in windows:
        unique_id = _FIRST_UNIQUE_ID + num_features
        num_features += 1
        if entries is not None and (
            is_own is None or is_own(num_features - 1)):
          writer.write(entries, unique_id)
        if packed is not None:
          features.append(AnswerFeatures(packed, unique_id, inv_vocab))
      progress.update(size)
  if writer:
    writer.close()
  return num_features, features


def _write_records(args, examples, is_training, pool, record_file, origin,
                   inv_vocab=None, is_alone=False):
  """Writes the record file of examples, unless it is there already.

  Args:
    args: the parsed flags.
    examples: list of SquadExample; for training those of this rank, for
      prediction all.
    is_training: bool.
    pool: WorkerPool.
    record_file: string.
    origin: string, the JSON file that the examples come from.
    inv_vocab: dict id -> token; None where no AnswerFeatures are wanted.
    is_alone: bool, other ranks take none of them.

  Returns:
    (num_features, features), see `_convert`; without inv_vocab num_features
    may be that of this rank's file.
  """
  is_shared = not is_alone and (
      is_training or prediction_helpers.is_distributed(args))
  made_from = record_helpers.origin(
      {"input": origin, "vocab": args.vocab_file,
       "run_squad": __file__, "tokenization": tokenization.__file__,
       "record_helpers": record_helpers.__file__},
      {"is_training": is_training, "do_lower_case": args.do_lower_case,
       "max_seq_length": args.max_seq_length, "doc_stride": args.doc_stride,
       "max_query_length": args.max_query_length,
       "version_2_with_negative": args.version_2_with_negative,
       "rank": horovod_helpers.hvd_rank() if is_shared else 0,
       "ranks": horovod_helpers.hvd_size() if is_shared else 1,
       "batch_size": args.predict_batch_size
                     if is_shared and not is_training else None})
  num_records = record_helpers.reusable(record_file, made_from)
  if num_records is not None:
    if inv_vocab is None:
      return num_records, []
    return _convert(examples, is_training, pool, inv_vocab=inv_vocab)
  record_helpers.forget(record_file)

  def is_own(number):
    return is_training or is_alone or prediction_helpers.is_own_row(
        args, number, args.predict_batch_size)

  with script_helpers.finished_file(record_file) as temporary:
    num_features, features = _convert(
        examples, is_training, pool, temporary, inv_vocab, is_own)
  record_helpers.write_lock(
      record_file, made_from, sum(map(is_own, range(num_features))))
  return num_features, features


def _model_fn(args, bert_config, num_train_steps=None, num_warmup_steps=None):
  """The model_fn of the flags."""
  return model_fn_builder(
      bert_config, args.init_checkpoint,
      estimator_helpers.effective_learning_rate(args), num_train_steps,
      num_warmup_steps, args.use_tpu, use_one_hot_embeddings=args.use_tpu,
      options=option_helpers.from_flags(args))


def _make_estimator(args, bert_config, num_train_steps=None,
                    num_warmup_steps=None):
  """The Estimator of the flags' model and folders."""
  model_fn = _model_fn(args, bert_config, num_train_steps, num_warmup_steps)
  # Many ranks and large models fill a disk with more.
  return estimator_helpers.make_estimator(args, model_fn, keep_checkpoint_max=1)


def _try_out(args, bert_config, pool, records, predict_examples):
  """What --validate_only and --compile_only do with the first questions."""
  modes = tf.estimator.ModeKeys
  parts = []
  with tempfile.TemporaryDirectory() as folder:
    def add(mode, examples, batch_size, steps=(None, None)):
      is_training = mode == modes.TRAIN
      if isinstance(examples, list):
        path = os.path.join(folder, f"{mode}.tf_record")
        _convert(examples[:trial_helpers.NUM_ROWS], is_training, pool, path)
        input_fn = input_fn_builder(
            path, args.max_seq_length, is_training, is_training,
            padding_helpers.length_step(args))
      else:
        input_fn = examples.input_fn(args, is_training)
      parts.append((mode, _model_fn(args, bert_config, *steps), input_fn,
                    batch_size))

    if args.do_train:
      examples = records or _read_train_examples(args)
      add(modes.TRAIN, examples, args.train_batch_size,
          estimator_helpers.training_steps(len(examples), args))
    if predict_examples:
      add(modes.PREDICT, predict_examples, args.predict_batch_size)
    trial_helpers.try_out(args, parts)


def _read_train_examples(args):
  """The questions of --train_file."""
  examples = read_squad_examples(
      args.train_file, True, args.version_2_with_negative)
  if not examples:
    raise ValueError(f"--train_file={args.train_file} has no question.")
  return examples


def _train(args, bert_config, pool, evaluation=None, records=None):
  """Trains on ready records (RecordSet), or on those of --train_file."""
  examples = None if records else _read_train_examples(args)
  num_examples = len(records or examples)
  num_train_steps, num_warmup_steps = estimator_helpers.training_steps(
      num_examples, args)
  input_fn = (records.input_fn(args, is_training=True) if records else
              _convert_own_examples(args, pool, examples))
  del examples
  estimator_helpers.train(
      args, _make_estimator(args, bert_config, num_train_steps,
                            num_warmup_steps),
      input_fn, num_examples, num_train_steps, optimization.LEARNING_RATE,
      first_synapse_step=670, evaluation=evaluation)


def _convert_own_examples(args, pool, examples):
  """Converts this rank's part of the examples; returns the input_fn."""
  train_file = os.path.join(args.output_dir, "train.tf_record")
  shuffle_examples(examples)
  start, end = horovod_helpers.example_slice(len(examples))
  num_features, _ = _write_records(
      args, examples[start:end], True, pool,
      horovod_helpers.record_file(train_file), args.train_file)
  if not num_features:
    raise ValueError(
        f"--train_file={args.train_file} has no text to learn from"
        + (f" for rank {horovod_helpers.hvd_rank()}: start fewer ranks."
           if horovod_helpers.horovod_enabled() else "."))
  horovod_helpers.barrier()
  logging.info("%d questions make %d windows.", end - start, num_features)
  return input_fn_builder(
      input_file=horovod_helpers.server_record_files(train_file),
      seq_length=args.max_seq_length,
      is_training=True,
      drop_remainder=True,
      length_step=padding_helpers.length_step(args))


def shuffle_examples(examples):
  """Brings a list of examples into the order of training, the same always.

  The input_fn shuffles in a buffer of 100 only, and articles are longer.
  """
  random.Random(12345).shuffle(examples)


def _scorer(args, bert_config, examples, answers, pool, tokenizer):
  """The CheckpointScorer of --predict_file, on rank 0.

  Args:
    args: the parsed flags.
    bert_config: BertConfig.
    examples: list of SquadExample.
    answers: dict id -> list of true answers.
    pool: WorkerPool.
    tokenizer: FullTokenizer.
  """
  eval_file = os.path.join(args.output_dir, "eval.tf_record")
  _, features = _write_records(
      args, examples, False, pool, eval_file, args.predict_file,
      tokenizer.inv_vocab, is_alone=True)

  def score(name, result, outputs):
    """The scores of the logits of all windows."""
    del name, result
    all_results = [
        RawResult(int(unique_id), start_logits, end_logits)
        for unique_id, start_logits, end_logits in zip(
            outputs["unique_ids"], outputs["start_logits"],
            outputs["end_logits"])]
    predictions, nbest, null_odds, _ = find_answers(
        examples, features, all_results, args.n_best_size,
        args.max_answer_length, args.do_lower_case,
        args.version_2_with_negative,
        null_score_diff_threshold=args.null_score_diff_threshold)
    return _squad_scores(args, answers, predictions, null_odds, nbest)

  return evaluation_helpers.CheckpointScorer(
      _model_fn(args, bert_config), tf.estimator.ModeKeys.PREDICT,
      {"": input_fn_builder(
          input_file=eval_file, seq_length=args.max_seq_length,
          is_training=False, drop_remainder=False,
          length_step=padding_helpers.length_step(args))},
      args.predict_batch_size, score)


def _predict(args, bert_config, examples, pool, tokenizer):
  """Answers the questions and writes the result files."""
  eval_file = prediction_helpers.record_file(
      args, os.path.join(args.output_dir, "eval.tf_record"))
  is_chief = horovod_helpers.is_chief()
  num_features, features = _write_records(
      args, examples, False, pool, eval_file, args.predict_file,
      tokenizer.inv_vocab if is_chief else None)
  logging.info("***** Running predictions *****")
  logging.info("  Num orig examples = %d", len(examples))
  logging.info("  Num split examples = %d", num_features)
  logging.info("  Batch size = %d", args.predict_batch_size)
  rows = prediction_helpers.predict(
      args, _make_estimator(args, bert_config),
      input_fn_builder(
          input_file=eval_file,
          seq_length=args.max_seq_length,
          is_training=False,
          drop_remainder=False,
          length_step=padding_helpers.length_step(args)),
      num_features, "windows", log_every=1000)
  if not is_chief:
    return
  all_results = [
      RawResult(int(row["unique_ids"]), row["start_logits"], row["end_logits"])
      for row in rows]

  def path(name):
    return os.path.join(args.output_dir, name)

  # What an earlier prediction left and this one doesn't write.
  for name in ("null_odds.json", "nbest_offsets.json", "eval_results.json"):
    if tf.io.gfile.exists(path(name)):
      tf.io.gfile.remove(path(name))
  write_predictions(
      examples, features, all_results, args.n_best_size,
      args.max_answer_length, args.do_lower_case, path("predictions.json"),
      path("nbest_predictions.json"), path("null_odds.json"),
      args.version_2_with_negative, args.verbose_logging,
      args.null_score_diff_threshold,
      path("nbest_offsets.json") if args.write_offsets else None)
  logging.info("Answers: %s", path("predictions.json"))


def _evaluate(args, answers):
  """Scores predictions.json; writes eval_results.json."""
  def is_text(value):
    return isinstance(value, str)

  def is_number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)

  def is_n_best(value):
    return isinstance(value, list) and all(
        isinstance(entry, dict) and is_text(entry.get("text"))
        for entry in value)

  predictions = _read_results(args, "predictions.json", answers, is_text)
  if predictions is None:
    raise ValueError(f"--output_dir={args.output_dir} has no predictions.json: "
                     f"pass --do_predict too.")
  odds = nbest = None
  if args.version_2_with_negative:
    odds = _read_results(args, "null_odds.json", answers, is_number)
    nbest = _read_results(args, "nbest_predictions.json", answers, is_n_best)
  scores = _squad_scores(args, answers, predictions, odds, nbest)
  logging.info("***** Eval results *****")
  for name, value in scores.items():
    logging.info("  %s = %s", name, round(value, 4))
  path = os.path.join(args.output_dir, "eval_results.json")
  script_helpers.write_text(path, json.dumps(scores, indent=2) + "\n")
  prediction_helpers.write_summary(
      os.path.join(args.output_dir, "eval"),
      {f"eval_{name}": value for name, value in scores.items()},
      checkpoint_helpers.steps_done(args.output_dir))
  logging.info("Scores: %s", path)


def _read_results(args, name, answers, fits):
  """A result file of the output folder; None without one.

  Args:
    args: the parsed flags.
    name: string, a file of question ids and values.
    answers: dict with the ids that it has to have.
    fits: function of a value, whether it is of the right kind.
  """
  path = os.path.join(args.output_dir, name)
  if not tf.io.gfile.exists(path):
    return None
  try:
    with tf.io.gfile.GFile(path, "r") as reader:
      content = json.load(reader)
  except (ValueError, RecursionError, tf.errors.OpError):
    content = None
  if not isinstance(content, dict):
    raise ValueError(f"{path} is damaged: it has to be a JSON object by "
                     f"question id. Pass --do_predict again.")
  missing = [qas_id for qas_id in answers if qas_id not in content]
  if missing:
    raise ValueError(
        f"{path} has nothing on {len(missing)} of {len(answers)} questions, "
        f"such as id {missing[0]!r}: it was made from another --predict_file. "
        f"Pass --do_predict too.")
  for qas_id in answers:
    if not fits(content[qas_id]):
      raise ValueError(f"{path} is damaged: id {qas_id!r} has "
                       f"{_shown(content[qas_id])}. Pass --do_predict again.")
  return content


def _export(args, bert_config):
  """Writes a SavedModel of the model."""
  def build(**inputs):
    """The model."""
    start_logits, end_logits = create_model(
        bert_config, False, use_one_hot_embeddings=False, **inputs)
    return {"start_logits": start_logits, "end_logits": end_logits}

  export_helpers.export(
      args, build, {"task": "squad", "kind": "squad", "labels": [],
                    "do_lower_case": args.do_lower_case},
      args.vocab_file, args.bert_config_file)


if __name__ == "__main__":
  init_squad_flags()
  script_helpers.run(main, ["bert_config_file", "output_dir"],
                     required_where={
                         "vocab_file": (reads_text, ("train_records",))})
