"""Tests of tokenization.py by example and by property."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
import pytest

import tokenization

VOCAB = ["[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un",
         "runn", "##ing", "low", "##est", ","]


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

  @given(st.sets(st.text(alphabet="abc", min_size=1, max_size=3), max_size=12),
         st.text(alphabet="abc", min_size=1, max_size=12))
  def test_pieces_join_to_the_word_and_are_greedy(self, stems, word):
    vocab = stems | {"##" + stem for stem in stems}
    pieces = tokenization.WordpieceTokenizer(vocab).tokenize(word)
    if pieces == ["[UNK]"]:
      return
    assert "".join(p.removeprefix("##") for p in pieces) == word
    start = 0
    for piece in pieces:
      length = len(piece.removeprefix("##"))
      prefix = "##" if start else ""
      assert piece in vocab
      assert not any(prefix + word[start:end] in vocab
                     for end in range(start + length + 1, len(word) + 1))
      start += length


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
