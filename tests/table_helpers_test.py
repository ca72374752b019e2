"""Tests of demo/table_helpers.py: files of rows, and which column is what."""

import csv
import gzip
import io
import json
import logging

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from demo import table_helpers


def write(folder, name, content):
  path = folder / name
  content = content if isinstance(content, bytes) else content.encode()
  path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
  return str(path)


def table_of(names, *rows):
  return table_helpers.Table("t", names, list(rows), list(range(len(rows))))


class ReadTableTest:

  @pytest.mark.parametrize("name, content", [
      ("x.tsv", "sentence\tlabel\nGood \"one\"\t1\nbad\t0\n"),
      ("x.TXT", "\ufeffsentence\tlabel\r\nGood \"one\"\t1\r\nbad\t0"),
      ("x.csv", '\ufeffsentence,label\n"Good ""one""",1\r\nbad,0\n\n\n'),
      ("x.csv.gz", 'sentence,label\n"Good ""one""",1\nbad,0\n'),
      ("x.jsonl", '{"sentence": "Good \\"one\\"", "label": 1}\n'
                  '{"label": 0, "sentence": "bad"}\n'),
      ("x.json.gz", '\ufeff{"sentence": "Good \\"one\\"", "label": "1"}\r\n'
                    '{"sentence": "bad", "label": "0"}\n\n')])
  def test_all_kinds_give_the_same(self, name, content, tmp_path):
    table = table_helpers.read_table(write(tmp_path, name, content))
    assert table.names == ["sentence", "label"] and table.width == 2
    assert table.rows == [['Good "one"', "1"], ["bad", "0"]]
    first = 1 if "json" in name else 2
    assert table.lines == [first, first + 1]
    assert table.place(1) == (str(tmp_path / name), first + 1)

  def test_csv_fields_hold_commas_and_line_ends(self, tmp_path):
    table = table_helpers.read_table(write(
        tmp_path, "x.csv", 'text,label\n"a, b\r\nc\n\nd",1\n"e",0\n'))
    assert table.rows == [["a, b\nc\n\nd", "1"], ["e", "0"]]
    assert table.lines == [2, 6]

  @settings(max_examples=25, deadline=None)
  @given(rows=st.lists(st.tuples(
      st.text(st.characters(exclude_categories=["Cs"],
                            exclude_characters="\0\r"), max_size=9),
      st.sampled_from("01")), min_size=1, max_size=5))
  def test_what_is_written_is_read(self, rows, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    text = io.StringIO()
    csv.writer(text).writerows([("text", "label"), *rows])
    lines = "".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows)
    expected = [list(row) for row in rows]
    for name, content in (("x.csv", text.getvalue()), ("x.jsonl", lines)):
      assert table_helpers.read_table(
          write(folder, name, content)).rows == expected

  def test_long_documents_are_read(self, tmp_path):
    long = "word " * 100000
    for name, line in (("x.csv", f'"{long}",1\n'), ("x.tsv", f"{long}\t1\n")):
      path = write(tmp_path, name, line)
      assert table_helpers.read_table(path).rows == [[long, "1"]]
    assert csv.field_size_limit() == 131072

  @pytest.mark.parametrize("first, columns, has_header, is_header", [
      ("review,stars", ["review"], "auto", True),
      ("review,stars", ["text", "stars"], "auto", True),
      ("remark,stars", [], "auto", False),
      ("remark,stars", ["0", 1], "auto", False),
      ("Sentence,stars", [], "auto", True),
      ("a film,label", [], "auto", True),
      ("review,stars", [], "yes", True),
      ("sentence,label", ["0"], "no", False)])
  def test_header(self, first, columns, has_header, is_header, tmp_path):
    path = write(tmp_path, "x.csv", f"{first}\nfine,1\n")
    table = table_helpers.read_table(path, has_header, columns)
    assert table.names == (first.split(",") if is_header else None)
    assert len(table.rows) == 2 - is_header and table.width == 2

  def test_json_keeps_numbers_and_what_is_missing(self, tmp_path):
    table = table_helpers.read_table(write(
        tmp_path, "x.jsonl", '{"a": 1.50, "b": null, "c": true, "d": "é"}\n'
                             '{"a": 2, "e": 3}\n'))
    assert table.names == ["a", "b", "c", "d"]
    assert table.rows == [["1.5", None, "true", "é"], ["2", None, None, None]]

  def test_a_second_text_that_the_first_object_lacks_is_not_lost(
      self, tmp_path):
    table = table_helpers.read_table(write(
        tmp_path, "x.jsonl", '{"sentence1": "a", "label": 1}\n'
                             '{"sentence1": "b", "sentence2": "c"}\n'))
    assert table.rows == [["a", "1", None], ["b", None, "c"]]
    assert table_helpers.choose_columns(table) == {
        "text_a": "sentence1", "text_b": "sentence2", "label": "label"}
    path = write(tmp_path, "y.jsonl", '{"a": "a"}\n{"b": "c", "d": "e"}\n')
    assert table_helpers.read_table(path, columns=["b"]).rows == [
        ["a", None], [None, "c"]]

  @pytest.mark.parametrize("name, content, message", [
      ("x.xlsx", "a", "x.xlsx: the end of the name has to tell"),
      ("x.tsv", "", "x.tsv is empty"),
      ("x.jsonl", "\n", "x.jsonl is empty"),
      ("x.tsv", "sentence\tlabel\n", "x.tsv holds no row"),
      ("x.tsv", "a\t1\nb\n", r"x.tsv:2: 1 column\(s\), but the first line has 2"),
      ("x.csv", "a,1\nb, c,1\n", r"x.csv:2: 3 column\(s\).*double quotes"),
      ("x.csv", 'a,1\n"b\nc,1\n', "x.csv:2: not a row of comma-separated"),
      ("x.csv", 'a,1\n"b" c,1\n', "x.csv:2: not a row of comma-separated"),
      ("x.csv", "a,1\n\nb,1\n", "x.csv:2: a blank line between rows"),
      ("x.tsv", b"a\t1\ncaf\xe9\t1\n", "x.tsv:2: not UTF-8: byte 0xe9 at"),
      ("x.jsonl", '{"a": 1}\n{"a": \n', "x.jsonl:2: not a JSON object"),
      ("x.json", '[{"a": 1}]\n', "x.json:1: not a JSON object.*jq -c"),
      ("x.tsv", "text\tlabel\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
      ("x.tsv", "text\xe9".encode("latin-1"), "iconv -f LATIN1 -t UTF-8"),
      ("x.csv.gz", None, "is damaged, or no gzip file")])
  def test_broken_files_are_named_with_the_line(
      self, name, content, message, tmp_path):
    path = write(tmp_path, name, content or "")
    if content is None:
      (tmp_path / name).write_bytes(b"text,label\n")
    with pytest.raises(ValueError, match=message):
      table_helpers.read_table(path)

  def test_half_a_character_in_json_can_be_written_again(self, tmp_path):
    table = table_helpers.read_table(write(
        tmp_path, "x.jsonl",
        '{"text": "a \\ud83d b \\ud83d\\ude00", "label": ["\\ude00"]}\n'))
    assert table.rows == [["a \ufffd b \U0001f600", '["\ufffd"]']]

  def test_deep_json_is_refused(self, tmp_path):
    with pytest.raises(ValueError, match="x.jsonl:1: not a JSON object"):
      table_helpers.read_table(
          write(tmp_path, "x.jsonl", '{"a": ' + "[" * 100000))

  def test_missing_file_and_missing_names(self, tmp_path):
    with pytest.raises(ValueError, match="y.tsv is not there"):
      table_helpers.read_table(str(tmp_path / "y.tsv"))
    path = write(tmp_path, "x.tsv", "fine\t1\n")
    with pytest.raises(ValueError, match="x.tsv:1: the first line names none "
                                         "of the columns 'text'.*'fine'.*"
                                         "--has_header=no"):
      table_helpers.read_table(path, columns=["text", "1"])


class TableTest:

  @pytest.mark.parametrize("name, content, message", [
      ("x.csv", "text;label\nfine;1\n", "one without a name (0), and it has "
                                        "semicolons: do they separate values?"),
      ("x.csv", "text\tlabel\nfine\t1\n", "and it has tabs"),
      ("x.tsv", "text,label\nfine,1\n", "and it has commas"),
      ("x.csv", "fine\n", "one without a name (0)"),
      ("x.csv", "a,b\n", "2 without names (0 to 1)")])
  def test_columns_in_words(self, name, content, message, tmp_path):
    found = table_helpers.read_table(write(tmp_path, name, content)).columns()
    assert found.startswith(message) or found.endswith(message) or (
        message in found and message.startswith("and"))


class ChooseColumnsTest:

  @pytest.mark.parametrize("names, found", [
      (["label", "sentence"], ("sentence", None, "label")),
      (["idx", "sentence1", "sentence2", "label"],
       ("sentence1", "sentence2", "label")),
      (["idx", "hypothesis", "premise", "Label"],
       ("premise", "hypothesis", "Label")),
      (["question", "sentence", "label"], ("question", "sentence", "label")),
      (["question", "score"], ("question", None, "score")),
      (["id", "Text"], ("Text", None, None)),
      (["stuff", "target"], ("stuff", None, "target")),
      (["sentence1", "sentence1b", "label"], ("sentence1", None, "label"))])
  def test_usual_names(self, names, found):
    columns = table_helpers.choose_columns(table_of(names, ["x"] * len(names)))
    assert tuple(columns.values()) == found

  @pytest.mark.parametrize("width, found", [
      (1, (0, None, None)), (2, (0, None, 1)), (3, (0, 1, 2))])
  def test_without_names_the_label_is_last(self, width, found):
    columns = table_helpers.choose_columns(table_of(None, ["x"] * width))
    assert tuple(columns.values()) == found

  @pytest.mark.parametrize("names, given, found", [
      (["a", "b", "c"], dict(text_a="b", label="c"), ("b", None, "c")),
      (["a", "b", "c"], dict(text_a="2", text_b=0, label="1"), ("c", "a", "b")),
      (["1", "0"], dict(text_a="0", label="1"), ("0", None, "1")),
      (["a", "a", "label"], dict(text_a=1), (1, None, "label")),
      (["text", "label", "mark"], dict(label="mark"), ("text", None, "mark")),
      (["sentence1", "sentence2", "label"], dict(text_a="sentence1"),
       ("sentence1", None, "label")),
      (None, dict(label="0"), (1, 2, 0)),
      (None, dict(text_a="1", text_b="2"), (1, 2, 0)),
      (None, dict(text_a=2, label=0), (2, None, 0))])
  def test_what_is_given_counts(self, names, given, found):
    columns = table_helpers.choose_columns(
        table_of(names, ["x"] * 3 if names is None else names), **given)
    assert tuple(columns.values()) == found

  @pytest.mark.parametrize("names, width, given, message", [
      (["a", "b"], 2, dict(text_a="c"), r"no column 'c' \(--text_a\).* 'a', 'b'"),
      (["a", "b"], 2, dict(text_a="2"), r"no column '2' \(--text_a\)"),
      (["a", "b"], 2, dict(label="b", text_a="1"), "not different columns"),
      (["a", "a"], 2, dict(text_a="a"), "2 columns are called 'a'"),
      (["a", "b", "label"], 3, {}, "which column is the text"),
      (["text"], 1, dict(text_b="text"), "--text_a too"),
      (None, 4, {}, "4 columns without names: say which"),
      (None, 3, dict(text_a=0), "3 columns without names: say which"),
      (None, 1, dict(label=0), "no column is left"),
      (None, 2, dict(label="x"), r"no column 'x' \(--label\).*0 to 1")])
  def test_what_can_not_be_told_is_refused(self, names, width, given, message):
    with pytest.raises(ValueError, match=message):
      table_helpers.choose_columns(table_of(names, ["x"] * width), **given)

  def test_log_says_what_is_taken(self, caplog):
    table = table_of(["idx", "text", "label"], ["0", "x", "y"])
    with caplog.at_level(logging.INFO, logger="absl"):
      table_helpers.log_columns(table, table_helpers.choose_columns(table))
    assert caplog.messages == ["t: 1 rows, columns idx, text, label; text_a: "
                               "text, text_b: none, label: label."]


class OneLineTest:

  @settings(deadline=None)
  @given(st.text("ab \t\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029\u00a0", max_size=9))
  def test_no_reader_sees_a_break(self, text):
    line = table_helpers.one_line(text)
    assert len(line.splitlines()) <= 1 and "\t" not in line
    assert line.split() == text.split()
