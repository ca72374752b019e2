"""Tests of tokenization.py by example and by property."""

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
import pytest

import tokenization

VOCAB = ["[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un",
         "runn", "##ing", "low", "##est", ","]


# Text with what is treated otherwise than ASCII letters: marks, sigmas, quotes,
# blanks of all kinds, control characters, ideographs, Hangul.
TEXT = st.text(alphabet=st.one_of(
    st.characters(codec="utf-8"),
    st.characters(max_codepoint=0x24F),
    st.sampled_from("aAzZ09 .,'#\t\n\r\0\xa0\xad\u0130\u0300\u0307\u03a3\u03c3"
                    "\u1fef\u2000\u200b\u2028\u2019\u3000\u4e00\u9fff\ufffd"
                    "\uac01\uf900\U00020000")), max_size=60)


IDEOGRAPH = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df"
    "\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f]")


def plainly_split(text, do_lower_case):
  """The words of a text, character by character, as slow as it gets."""
  spread = ""
  for char in text:
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
      spread += " "
    elif char in "\0\ufffd" or category in ("Cc", "Cf"):
      pass
    elif IDEOGRAPH.match(char):
      spread += f" {char} "
    else:
      spread += char
  words = []
  for word in spread.split():
    if do_lower_case:
      word = "".join(x for x in unicodedata.normalize("NFD", word.lower())
                     if unicodedata.category(x) != "Mn")
    for char in word:
      is_sign = char.isascii() and char.isprintable() and not char.isalnum()
      if char != " " and (is_sign or unicodedata.category(char)[0] == "P"):
        char = f" {char} "
      words.append(char)
    words.append(" ")
  return "".join(words).split()


def plainly_pieces(word, vocab):
  """The pieces of a word, each tried from the whole rest on."""
  pieces, rest = [], word
  while rest:
    prefix = "##" if pieces else ""
    found = [rest[:end] for end in range(len(rest), 0, -1)
             if prefix + rest[:end] in vocab]
    if not found or len(word) > 200:
      return ["[UNK]"]
    pieces.append(prefix + found[0])
    rest = rest[len(found[0]):]
  return pieces


def make_tokenizer(folder, tokens, **kwargs):
  path = folder / "vocab.txt"
  path.write_bytes("".join(t + "\n" for t in tokens).encode("utf-8"))
  return tokenization.FullTokenizer(str(path), **kwargs)


class FullTokenizerTest:

  def test_words_become_pieces_and_ids(self, tmp_path):
    tokenizer = make_tokenizer(tmp_path, VOCAB)
    pieces = tokenizer.tokenize("UNwant\u00e9d,running")
    assert pieces == ["un", "##want", "##ed", ",", "runn", "##ing"]
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert ids == [7, 4, 5, 12, 8, 9]
    assert tokenizer.convert_ids_to_tokens(ids) == pieces

  @given(st.lists(TEXT, max_size=4), st.booleans())
  def test_kept_words_are_as_the_parts_say(self, tmp_path_factory, texts,
                                           do_lower_case):
    vocab = [*VOCAB, "a", "##a", "z", "\u03c3", "\u03c2", "\u4e00", "'", "0"]
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("vocab"), vocab,
                               do_lower_case=do_lower_case)
    for text in texts * 2:  # The second time its parts are known.
      wanted = [piece for word in plainly_split(text, do_lower_case)
                for piece in plainly_pieces(word, vocab)]
      pieces = tokenizer.tokenize(text)
      assert pieces == wanted
      pieces.clear()  # A caller's list is its own.

  def test_little_is_kept(self, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenization, "_KEPT_TEXTS", 3)
    tokenizer = make_tokenizer(tmp_path, VOCAB)
    text = "un want wa low un,want " + "un" * 30
    for _ in range(2):
      assert tokenizer.tokenize(text) == [
          "un", "want", "wa", "low", "un", ",", "want", "[UNK]"]
    for kept in (tokenizer._pieces_of_part, tokenizer._pieces_of_word):
      assert 1 <= len(kept) <= 3 and max(map(len, kept)) <= 40

  def test_unknown_token_is_a_key_error(self, tmp_path):
    with pytest.raises(KeyError):
      make_tokenizer(tmp_path, VOCAB).convert_tokens_to_ids(["xyz"])


class LoadVocabTest:

  def test_line_that_is_not_utf8_is_named(self, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[UNK]\ngood\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"vocab.txt:3: .*--vocab_file"):
      tokenization.load_vocab(str(path))

  def test_carriage_returns_and_blanks_are_stripped(self, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[UNK]\r\n good \r\n\r\nlast")
    assert list(tokenization.load_vocab(str(path)).items()) == [
        ("[UNK]", 0), ("good", 1), ("", 2), ("last", 3)]


class BasicTokenizerTest:

  @pytest.mark.parametrize("text, lower, cased", [
      (" \tHeLLo!how  \n Are yoU?  ",
       ["hello", "!", "how", "are", "you", "?"],
       ["HeLLo", "!", "how", "Are", "yoU", "?"]),
      ("H\u00e9llo", ["hello"], ["H\u00e9llo"]),
      ("ah\u535a\u63a8zz", ["ah", "\u535a", "\u63a8", "zz"],
       ["ah", "\u535a", "\u63a8", "zz"]),
      ("a\u200bb\u00adc\x00d\ufffde", ["abcde"], ["abcde"]),
      ("$5^2`~", ["$", "5", "^", "2", "`", "~"],
       ["$", "5", "^", "2", "`", "~"]),
      ("\uac00\uac01 \u3042", ["\u1100\u1161", "\u1100\u1161\u11a8", "\u3042"],
       ["\uac00\uac01", "\u3042"]),
      ("", [], []),
  ])
  def test_examples(self, text, lower, cased):
    if text.startswith("\uac00"):  # Hangul is taken apart by NFD.
      lower = ["".join(lower[:2]), lower[2]]
    assert tokenization.BasicTokenizer().tokenize(text) == lower
    assert tokenization.BasicTokenizer(False).tokenize(text) == cased

  @given(st.text(max_size=60))
  def test_tokens_hold_no_blank_and_split_to_themselves(self, text):
    tokenizer = tokenization.BasicTokenizer(do_lower_case=False)
    tokens = tokenizer.tokenize(text)
    assert all(token and not any(c.isspace() for c in token)
               for token in tokens)
    assert tokenizer.tokenize(" ".join(tokens)) == tokens
    kept = "".join(c for c in text if not c.isspace() and c not in "\x00\ufffd"
                   and unicodedata.category(c) not in ("Cc", "Cf"))
    assert "".join(tokens) == kept

  @given(st.text(alphabet=st.characters(codec="latin-1"), max_size=60))
  def test_lower_case_leaves_no_upper_case_and_no_accent(self, text):
    for token in tokenization.BasicTokenizer().tokenize(text):
      assert token == token.lower()
      assert all(unicodedata.category(c) != "Mn"
                 for c in unicodedata.normalize("NFD", token))

  @given(TEXT, st.booleans())
  def test_words_are_those_of_going_by_character(self, text, do_lower_case):
    assert tokenization.BasicTokenizer(do_lower_case).tokenize(
        text) == plainly_split(text, do_lower_case)

  @given(st.binary(max_size=60))
  def test_any_bytes_are_taken(self, raw):
    tokenization.BasicTokenizer().tokenize(raw)


class WordpieceTokenizerTest:

  def test_longest_match_first(self):
    tokenizer = tokenization.WordpieceTokenizer(set(VOCAB))
    assert tokenizer.tokenize("unwanted running") == [
        "un", "##want", "##ed", "runn", "##ing"]
    assert tokenizer.tokenize("unwantedX running") == [
        "[UNK]", "runn", "##ing"]
    assert tokenizer.tokenize("") == []

  def test_words_of_more_than_200_characters_are_not_tried(self):
    tokenizer = tokenization.WordpieceTokenizer({"a", "##a", "[UNK]"})
    assert tokenizer.tokenize("a" * 200) == ["a"] + ["##a"] * 199
    assert tokenizer.tokenize("a" * 201) == ["[UNK]"]

  @given(st.sets(st.text(alphabet="ab#", min_size=1, max_size=6), max_size=12),
         st.text(alphabet="ab#", min_size=1, max_size=14))
  def test_pieces_are_the_longest(self, stems, word):
    vocab = stems | {"##" + stem for stem in stems}
    assert tokenization.WordpieceTokenizer(vocab).tokenize(
        word) == plainly_pieces(word, vocab)

  def test_longer_pieces_may_come_in(self):
    vocab = {"a", "##a"}
    tokenizer = tokenization.WordpieceTokenizer(vocab)
    assert tokenizer.tokenize("aaaaa") == ["a"] + ["##a"] * 4
    vocab.add("##aaaa")
    assert tokenizer.tokenize("aaaaa") == ["a", "##aaaa"]


class ValidateCaseTest:

  def test_known_models_of_the_other_case_are_refused(self):
    check = tokenization.validate_case_matches_checkpoint
    check(True, "x/uncased_L-12_H-768_A-12/bert_model.ckpt")
    check(False, "x/my_cased_model/bert_model.ckpt")
    check(True, None)
    with pytest.raises(ValueError, match="--do_lower_case=True"):
      check(False, "x/uncased_L-12_H-768_A-12/bert_model.ckpt")
    with pytest.raises(ValueError, match="--do_lower_case=False"):
      check(True, "x/multi_cased_L-12_H-768_A-12/bert_model.ckpt")
