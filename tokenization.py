# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Text to word pieces to ids, as BERT's published vocabularies expect it.

The way of a sentence: `BasicTokenizer` cleans it and splits it into words and
single punctuation marks, `WordpieceTokenizer` splits each word into the
longest pieces that the vocabulary has, and the vocabulary turns pieces into
ids:

  "Unaffable!" -> ["unaffable", "!"] -> ["una", "##ffa", "##ble", "!"] -> ids

Source: the tokenization of google-research/bert (commit cc7051dc), and
section 4.1 of Wu et al. 2016, "Google's Neural Machine Translation System",
for word pieces.
"""

import collections
import itertools
import re
import unicodedata

import tensorflow as tf

# The names of Google's released models, which tell whether the vocabulary is
# lower-cased. A checkpoint's folder carries one of them.
_LOWER_CASED_MODELS = (
    "uncased_L-24_H-1024_A-16", "uncased_L-12_H-768_A-12",
    "multilingual_L-12_H-768_A-12", "chinese_L-12_H-768_A-12")
_CASED_MODELS = (
    "cased_L-12_H-768_A-12", "cased_L-24_H-1024_A-16",
    "multi_cased_L-12_H-768_A-12")
_MODEL_FOLDER = re.compile(r"^.*?([A-Za-z0-9_-]+)/bert_model.ckpt")

# Blocks of CJK ideographs (first, last): each character is a word of its own.
_CJK_BLOCKS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F))

# What BasicTokenizer makes of printable ASCII.
_ASCII_TOKEN = re.compile("[A-Za-z0-9]+|[^A-Za-z0-9 ]")

# Texts whose pieces a FullTokenizer keeps, and how long they may be.
_KEPT_TEXTS = 1 << 17
_KEPT_TEXT_LENGTH = 40  # Characters.


def validate_case_matches_checkpoint(do_lower_case, init_checkpoint):
  """Refuses a released checkpoint whose case does not fit `do_lower_case`.

  Only the name of the checkpoint's folder is looked at; a checkpoint under any
  other name passes.

  Args:
    do_lower_case: bool, whether the tokenizer lower-cases.
    init_checkpoint: string or None, path such as
      `.../uncased_L-12_H-768_A-12/bert_model.ckpt`.

  Raises:
    ValueError: the model is known to be of the other case.

  Source: upstream symbol; see CHANGES.
  """
  found = _MODEL_FOLDER.match(init_checkpoint) if init_checkpoint else None
  if found is None:
    return
  model = found.group(1)
  if do_lower_case and model in _CASED_MODELS:
    kept, way_out = "cased", "--do_lower_case=False"
  elif not do_lower_case and model in _LOWER_CASED_MODELS:
    kept, way_out = "lower-cased", "--do_lower_case=True"
  else:
    return
  raise ValueError(
      f"--do_lower_case={do_lower_case} does not fit "
      f"--init_checkpoint={init_checkpoint}: {model} is a {kept} model, and "
      f"with the other setting most of its vocabulary is never used. Pass "
      f"{way_out}, or move the checkpoint to a folder of another name if it "
      f"really is a model of your own.")


def convert_to_unicode(text):
  """Returns `text` as str; bytes are read as UTF-8, bad sequences dropped.

  Raises:
    ValueError: `text` is neither str nor bytes.

  Source: upstream symbol, unchanged for Python 3.
  """
  if isinstance(text, str):
    return text
  if isinstance(text, bytes):
    return text.decode("utf-8", "ignore")
  raise ValueError(f"Text has to be str or bytes, not {type(text).__name__}.")


def printable_text(text):
  """Returns `text` in the form that `print` and the logs take (str).

  Raises:
    ValueError: `text` is neither str nor bytes.

  Source: upstream symbol, unchanged for Python 3: it is `convert_to_unicode`.
  """
  return convert_to_unicode(text)


def load_vocab(vocab_file):
  """Reads a vocabulary file, one token a line.

  Surrounding whitespace is stripped; a blank line is the token "". A token
  that occurs twice keeps its first place in the order and its last index.

  Args:
    vocab_file: string, path of a UTF-8 text file.

  Returns:
    OrderedDict token -> index (the line number, from 0).

  Raises:
    ValueError: a line is not UTF-8 (names the line).

  Source: upstream symbol, unchanged but for the error.
  """
  vocab = collections.OrderedDict()
  with tf.io.gfile.GFile(vocab_file, "rb") as reader:
    # Carriage returns are dropped wherever they stand, as by upstream's reader.
    lines = reader.read().replace(b"\r", b"").split(b"\n")
  if not lines[-1]:  # What follows the last line's end is no line.
    del lines[-1]
  for index, line in enumerate(lines):
    try:
      token = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
      raise ValueError(
          f"{vocab_file}:{index + 1}: the vocabulary is not UTF-8 text "
          f"({error.reason}). Is --vocab_file the vocab.txt of the "
          f"model?") from None
    vocab[token] = index
  return vocab


def convert_by_vocab(vocab, items):
  """Looks every item up in `vocab`.

  Args:
    vocab: dict, token -> id or id -> token.
    items: iterable of its keys.

  Returns:
    List of the values, in order.

  Raises:
    KeyError: an item is not in `vocab`.

  Source: upstream symbol, unchanged.
  """
  return list(map(vocab.__getitem__, items))


def convert_tokens_to_ids(vocab, tokens):
  """Token strings to ids (list of int); see `convert_by_vocab`.

  Source: upstream symbol, unchanged.
  """
  return convert_by_vocab(vocab, tokens)


def convert_ids_to_tokens(inv_vocab, ids):
  """Ids to token strings (list of str); see `convert_by_vocab`.

  Source: upstream symbol, unchanged.
  """
  return convert_by_vocab(inv_vocab, ids)


def whitespace_tokenize(text):
  """Splits at runs of Unicode whitespace (list of str, none of them empty).

  Source: upstream symbol, unchanged.
  """
  return text.split()


class FullTokenizer(object):
  """Text to word pieces and their ids, end to end.

  Attributes:
    vocab: OrderedDict token -> id.
    inv_vocab: dict id -> token.
    basic_tokenizer: BasicTokenizer.
    wordpiece_tokenizer: WordpieceTokenizer.

  Source: upstream symbol; see CHANGES. The pieces of words that it has met are
  kept, so don't change its parts after the first use.
  """

  def __init__(self, vocab_file, do_lower_case=True):
    """Reads the vocabulary.

    Args:
      vocab_file: string, path of the vocabulary (see `load_vocab`).
      do_lower_case: bool, True for "uncased" models: lower-cases and strips
        accents.
    """
    self.vocab = load_vocab(vocab_file)
    self.inv_vocab = {index: token for token, index in self.vocab.items()}
    self.basic_tokenizer = BasicTokenizer(do_lower_case=do_lower_case)
    self.wordpiece_tokenizer = WordpieceTokenizer(vocab=self.vocab)
    # "Don't" and "don" are parts, "don", "'" and "t" are words.
    self._pieces_of_part = _Kept(self._split_part)
    self._pieces_of_word = _Kept(self._split_word)

  def tokenize(self, text):
    """Returns the word pieces of `text` (list of str)."""
    # A blank separates words whatever stands around it.
    return list(itertools.chain.from_iterable(map(
        self._pieces_of_part.__getitem__, convert_to_unicode(text).split(" "))))

  def _split_part(self, text):
    """The word pieces of a text without blanks (tuple of str)."""
    words = self.basic_tokenizer.tokenize(text)
    if len(words) == 1:
      return self._pieces_of_word[words[0]]
    return tuple(itertools.chain.from_iterable(map(
        self._pieces_of_word.__getitem__, words)))

  def _split_word(self, word):
    """The pieces of a word of the BasicTokenizer (tuple of str)."""
    return tuple(self.wordpiece_tokenizer.tokenize(word))

  def convert_tokens_to_ids(self, tokens):
    """Returns the ids of word pieces (list of int)."""
    return convert_tokens_to_ids(self.vocab, tokens)

  def convert_ids_to_tokens(self, ids):
    """Returns the word pieces of ids (list of str)."""
    return convert_ids_to_tokens(self.inv_vocab, ids)


class _Kept(dict):
  """A function's results by its argument, a text; short ones are kept.

  As a dict it is looked up in by C loops, such as `map`'s.
  """

  def __init__(self, function):
    """Takes the function of a str."""
    super().__init__()
    self._function = function

  def __missing__(self, text):
    result = self._function(text)
    if len(text) <= _KEPT_TEXT_LENGTH:
      if len(self) >= _KEPT_TEXTS:
        self.clear()
      self[text] = result
    return result


class BasicTokenizer(object):
  """Cleans text and splits it into words and single punctuation marks.

  Attributes:
    do_lower_case: bool.

  Source: upstream symbol, unchanged.
  """

  def __init__(self, do_lower_case=True):
    """See the class; `do_lower_case` also strips accents."""
    self.do_lower_case = do_lower_case

  def tokenize(self, text):
    """Splits `text`.

    Args:
      text: str, or bytes in UTF-8.

    Returns:
      List of str: words, punctuation marks and ideographs.
    """
    text = convert_to_unicode(text)
    if text.isascii() and text.isprintable():  # Most text: the same, faster.
      return _ASCII_TOKEN.findall(text.lower() if self.do_lower_case else text)
    text = self._clean_text(text)
    # Only the Chinese models know words of ideographs anyway, and the English
    # ones were trained with this step, so it is done for every language.
    text = self._tokenize_chinese_chars(text)
    if self.do_lower_case:
      text = self._run_strip_accents(text.lower())
    # Whether blanks stand between them or accents have left some behind.
    return whitespace_tokenize(" ".join(self._run_split_on_punc(text)))

  def _run_strip_accents(self, text):
    """Drops combining marks: "résumé" -> "resume"."""
    return unicodedata.normalize("NFD", text).translate(_WITHOUT_MARKS)

  def _run_split_on_punc(self, text):
    """Cuts out punctuation: "don't!" -> ["don", "'", "t", "!"].

    Args:
      text: str that `_clean_text` has made, so it has no NUL.
    """
    parts = text.translate(_PUNCTUATION_CUT_OUT).split("\0")
    return [part for part in parts if part]

  def _tokenize_chinese_chars(self, text):
    """Puts blanks around every CJK ideograph."""
    return text.translate(_IDEOGRAPHS_APART)

  def _is_chinese_char(self, cp):
    """Whether the code point (int) is a CJK ideograph.

    Hangul, Hiragana and Katakana are not: their words are separated by blanks
    or handled by the word pieces.
    """
    return _is_ideograph(chr(cp))

  def _clean_text(self, text):
    """Drops NUL, U+FFFD and control characters; whitespace becomes a blank."""
    return text.translate(_CLEANED)


class WordpieceTokenizer(object):
  """Splits words into pieces of a vocabulary, longest match first.

  Attributes:
    vocab: container of str; pieces inside a word begin with "##".
    unk_token: str, stands for a word that can't be split.
    max_input_chars_per_word: int, longer words are not tried.

  Source: upstream symbol, unchanged.
  """

  def __init__(self, vocab, unk_token="[UNK]", max_input_chars_per_word=200):
    """See the class."""
    self.max_input_chars_per_word = max_input_chars_per_word
    self.vocab, self.unk_token = vocab, unk_token
    self._measured, self._longest = 0, 0  # Pieces; characters of one.

  def tokenize(self, text):
    """Splits text that `BasicTokenizer` has cleaned.

    Args:
      text: str or bytes, words separated by whitespace.

    Returns:
      List of str: for "unaffable" the pieces "una", "##ffa", "##ble".
    """
    output = []
    for word in whitespace_tokenize(convert_to_unicode(text)):
      output.extend(self._split_word(word) or [self.unk_token])
    return output

  def _split_word(self, word):
    """The pieces of one word, or None where the vocabulary can't build it."""
    if len(word) > self.max_input_chars_per_word:
      return None
    if word in self.vocab:  # Most are.
      return [word]
    if self._measured != len(self.vocab):  # First call, or pieces came in.
      self._longest = max(map(len, self.vocab), default=0)
      self._measured = len(self.vocab)
    pieces = []
    start = 0
    while start < len(word):
      prefix = "##" if start else ""
      rest = prefix + word[start:start + self._longest]
      for end in range(len(rest), len(prefix), -1):
        piece = rest[:end]
        if piece in self.vocab:
          break
      else:
        return None
      pieces.append(piece)
      start += end - len(prefix)
    return pieces


def _is_whitespace(char):
  """Whether `char` separates words: blank, tab, line ends, category Zs.

  Source: upstream symbol, unchanged.
  """
  return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char):
  """Whether `char` is of category Cc or Cf, line ends and tab excepted.

  Source: upstream symbol, unchanged.
  """
  return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char):
  """Whether `char` is punctuation: any ASCII sign that is no letter or digit
  ("$", "^" and "`" too, which Unicode calls symbols), or a category P*.

  Source: upstream symbol, unchanged.
  """
  cp = ord(char)
  if 33 <= cp <= 47 or 58 <= cp <= 64 or 91 <= cp <= 96 or 123 <= cp <= 126:
    return True
  return unicodedata.category(char).startswith("P")


def _is_ideograph(char):
  """Whether `char` stands in one of the blocks of CJK ideographs."""
  cp = ord(char)
  return any(first <= cp <= last for first, last in _CJK_BLOCKS)


class _Characters(dict):
  """A table for `str.translate` that fills itself: characters repeat."""

  def __init__(self, function):
    """Takes a function of a character that returns what to put there (str)."""
    super().__init__()
    self._function = function

  def __missing__(self, cp):
    self[cp] = replacement = self._function(chr(cp))
    return replacement


def _cleaned(char):
  if char in "\x00\ufffd" or _is_control(char):
    return ""
  return " " if _is_whitespace(char) else char


_CLEANED = _Characters(_cleaned)
_IDEOGRAPHS_APART = _Characters(
    lambda char: f" {char} " if _is_ideograph(char) else char)
_WITHOUT_MARKS = _Characters(
    lambda char: "" if unicodedata.category(char) == "Mn" else char)
_PUNCTUATION_CUT_OUT = _Characters(
    lambda char: f"\0{char}\0" if _is_punctuation(char) else char)
