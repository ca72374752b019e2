# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Texts to token ids within a graph (--export_text_inputs), by tensorflow-text.

The steps are those of tokenization.py and of run_classifier's
`convert_single_example`, each as operations of a graph, and so are the ids.
They differ for characters that one side's edition of Unicode doesn't know yet:
65 of the first 131,072 with Python 3.11.
"""

import tensorflow as tf

import tokenization

_MAX_WORD_CHARACTERS = 200
# In no text that is left after cleaning, so the word of it is unknown.
_UNKNOWN_WORD = "\ufffd"
# Control characters but for tab and line ends, formats, NUL and U+FFFD.
_REMOVED = (r"[\x{00}-\x{08}\x{0B}\x{0C}\x{0E}-\x{1F}\x{7F}-\x{9F}\x{FFFD}"
            r"\p{Cf}]")
_IDEOGRAPHS = "[" + "".join(
    rf"\x{{{first:X}}}-\x{{{last:X}}}"
    # pylint: disable=protected-access
    for first, last in tokenization._CJK_BLOCKS) + "]"
# ASCII signs that Unicode calls symbols are punctuation too.
_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
_BLANKS = r"[ \t\r\n\p{Z}]+"


def import_text(what):
  """Imports tensorflow-text, which registers its operations.

  Args:
    what: string, names what needs it.

  Returns:
    The module tensorflow_text.

  Raises:
    ValueError: it is not installed, or for another TensorFlow.
  """
  try:
    import tensorflow_text  # pylint: disable=import-outside-toplevel
  except (ImportError, tf.errors.NotFoundError) as error:
    raise ValueError(
        f"{what} needs tensorflow-text, which can't be imported "
        f"({str(error).splitlines()[0]}): "
        f"pip install --no-deps tensorflow-text==2.15.0") from None
  return tensorflow_text


def rows_function(vocab_file, do_lower_case, max_seq_length):
  """Makes the function that turns texts into rows.

  Args:
    vocab_file: string.
    do_lower_case: bool.
    max_seq_length: int, tokens of a row at most.

  Returns:
    Function of text_a and text_b, string [B] ("" for no second text), that
    returns a dict: input_ids, input_mask and segment_ids, int32 [B, S] with S
    that of the longest row. It adds a lookup table to the default graph.
  """
  tf_text = import_text("--export_text_inputs")
  vocab = tokenization.load_vocab(vocab_file)
  table = tf.lookup.StaticHashTable(
      tf.lookup.KeyValueTensorInitializer(
          list(vocab), tf.constant(list(vocab.values()), tf.int64)),
      vocab["[UNK]"])
  pieces = tf_text.WordpieceTokenizer(
      table, unknown_token="[UNK]",
      # Bytes; longer words are replaced before.
      max_bytes_per_word=4 * _MAX_WORD_CHARACTERS)

  def tokens(texts):
    """string [B] -> ragged int64 [B, None]."""
    words = _words(tf_text, texts, do_lower_case)
    return pieces.tokenize(words).merge_dims(1, 2)

  def rows(text_a, text_b):
    """See above."""
    return _rows(tokens(text_a), tokens(text_b), max_seq_length,
                 vocab["[CLS]"], vocab["[SEP]"])

  return rows


def _words(tf_text, texts, do_lower_case):
  """Words as BasicTokenizer finds them: string [B] -> ragged [B, None]."""
  texts = tf.strings.regex_replace(texts, _REMOVED, "")
  texts = tf.strings.regex_replace(texts, f"({_IDEOGRAPHS})", r" \1 ")
  if do_lower_case:
    texts = tf.strings.lower(texts, encoding="utf-8")
    texts = tf_text.normalize_utf8(texts, "NFD")
    texts = tf.strings.regex_replace(texts, r"\p{Mn}", "")
  texts = tf.strings.regex_replace(texts, f"({_PUNCTUATION})", r" \1 ")
  words = tf.strings.split(tf.strings.regex_replace(texts, _BLANKS, " "))
  is_long = tf.strings.length(
      words.flat_values, unit="UTF8_CHAR") > _MAX_WORD_CHARACTERS
  return words.with_flat_values(
      tf.where(is_long, _UNKNOWN_WORD, words.flat_values))


def _rows(tokens_a, tokens_b, max_seq_length, cls, sep):
  """Puts tokens (ragged int64 [B, None]) between the marks."""
  lengths_a, lengths_b = _shortened(
      tokens_a.row_lengths(), tokens_b.row_lengths(), max_seq_length)
  tokens_a, tokens_b = (
      _first(tokens_a, lengths_a), _first(tokens_b, lengths_b))
  ones = tf.ones_like(lengths_a)
  has_b = tf.cast(lengths_b > 0, tf.int64)

  def marks(token, counts):
    """A ragged column with so many (0 or 1) of a token in each row."""
    return tf.RaggedTensor.from_row_lengths(
        tf.fill([tf.reduce_sum(counts)], tf.constant(token, tf.int64)), counts)

  first = tf.concat([marks(cls, ones), tokens_a, marks(sep, ones)], axis=1)
  second = tf.concat([tokens_b, marks(sep, has_b)], axis=1)
  segments = tf.concat([tf.zeros_like(first), tf.ones_like(second)], axis=1)
  ids = tf.concat([first, second], axis=1)
  return {name: tf.cast(ragged.to_tensor(), tf.int32) for name, ragged in (
      ("input_ids", ids), ("input_mask", tf.ones_like(ids)),
      ("segment_ids", segments))}


def _first(ragged, lengths):
  """The first values of each row."""
  places = tf.ragged.range(ragged.row_lengths())
  is_kept = tf.less(places.flat_values, tf.repeat(
      lengths, ragged.row_lengths()))
  return tf.ragged.boolean_mask(ragged, ragged.with_flat_values(is_kept))


def _shortened(lengths_a, lengths_b, max_seq_length):
  """The lengths that script_helpers.shorten_pair leaves, int64 [B] each.

  One text alone has [CLS] and [SEP] beside it, a pair a [SEP] more.
  """
  room = max(max_seq_length - 3, 0)
  half_a, half_b = room - room // 2, room // 2
  fits = lengths_a + lengths_b <= room
  pair_a = tf.where(
      lengths_a <= half_a, lengths_a,
      tf.where(lengths_b <= half_b, room - lengths_b, half_a))
  pair_b = tf.minimum(lengths_b, room - pair_a)
  is_pair = lengths_b > 0
  alone = tf.minimum(lengths_a, max(max_seq_length - 2, 0))
  return (tf.where(is_pair, tf.where(fits, lengths_a, pair_a), alone),
          tf.where(is_pair, tf.where(fits, lengths_b, pair_b), 0))
