# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Tables of text: TSV, CSV and JSON Lines files, each row with its place."""

import codecs
import csv
import json
import os
import re
import sys

from absl import logging
import tensorflow as tf

from demo import script_helpers

# How data sets call their columns. Of pairs and of single texts the first
# counts that a table has; "question" is one half or all there is.
_PAIR_NAMES = (("text_a", "text_b"), ("sentence1", "sentence2"),
               ("premise", "hypothesis"), ("question1", "question2"),
               ("question", "sentence"), ("sentence_a", "sentence_b"))
_TEXT_NAMES = ("text_a", "sentence", "text", "sentence1", "question", "review",
               "content", "sentence_a")
_LABEL_NAMES = ("label", "labels", "gold_label", "score", "is_duplicate",
                "target", "class", "category")
_KNOWN_NAMES = {*(name for pair in _PAIR_NAMES for name in pair),
                *_TEXT_NAMES, *_LABEL_NAMES}

_ENDINGS = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".jsonl": "json",
            ".json": "json"}
_SURROGATES = re.compile("[\ud800-\udfff]")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What str.splitlines or a spreadsheet takes for the end of a line or column.
_BREAKS = re.compile(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")


class Table(object):
  """Rows of text.

  Attributes:
    path: string, the file, or what else the rows are from.
    names: list of string, names of the columns; None without a header.
    rows: list of lists of strings; None stands for a value that is not there.
    lines: list of int, line of the file (from 1) that each row begins in.
  """

  def __init__(self, path, names, rows, lines):
    """Takes the values as they are."""
    self.path, self.names = path, names
    self.rows, self.lines = rows, lines

  @property
  def width(self):
    """Number of columns (int)."""
    return len(self.names or self.rows[0])

  def find(self, column):
    """Place of a column.

    Args:
      column: string or int, its name, or its number from 0 (in words too).

    Returns:
      int; None if there is no such column.

    Raises:
      ValueError: several columns have that name.
    """
    names = self.names or []
    if names.count(column) > 1:
      raise ValueError(f"{self.path}: {names.count(column)} columns are called "
                       f"{column!r}: name the one by its number, from 0.")
    if column in names:
      return names.index(column)
    if _is_number(column) and int(column) < self.width:
      return int(column)
    return None

  def columns(self):
    """What columns there are, for messages (string)."""
    if self.names:
      found = ", ".join(map(repr, self.names))
    elif self.width == 1:
      found = "one without a name (0)"
    else:
      found = f"{self.width} without names (0 to {self.width - 1})"
    # Spreadsheets of many countries save so.
    first = (self.names or self.rows[0])[0] or ""
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
      if self.width == 1 and mark in first:
        return (f"{found}, and it has {name}: do they separate values? Those "
                f"of .csv are separated by commas, those of .tsv by tabs")
    return found

  def place(self, index):
    """(file, line) of a row."""
    return (self.path, self.lines[index])


def _is_number(column):
  return isinstance(column, int) or str(column).isdecimal()


def read_table(path, has_header="auto", columns=()):
  """Reads a file of rows.

  .tsv and .txt hold values separated by tabs, in which quotes mean nothing;
  .csv values separated by commas, with quotes where a value holds commas,
  quotes or line ends; .jsonl and .json an object a line. All are UTF-8, with or
  without a byte order mark, and with .gz at the end compressed. Carriage
  returns mean nothing.

  Args:
    path: string.
    has_header: "yes", "no" or "auto": whether the first line of TSV and CSV
      names the columns. "auto": it does if one of the names in `columns`, or
      one that is usual for texts or labels, stands there.
    columns: list of names (string) and numbers (int or in words) that will be
      looked for.

  Returns:
    Table of one row at least.

  Raises:
    ValueError: the file is missing, empty or broken (names the line).
  """
  name = path[:-3] if path.endswith(".gz") else path
  kind = _ENDINGS.get(os.path.splitext(name)[1].lower())
  if kind is None:
    raise ValueError(
        f"{path}: the end of the name has to tell what the file is: "
        f"{', '.join(_ENDINGS)}, each with .gz too if it is compressed.")
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise ValueError(f"{path} is not there, or no file.")
  lines = decoded_lines(script_helpers.raw_lines(path), path)
  if kind == "json":
    table = _json_table(path, lines, columns)
  else:
    read = _tsv_rows if kind == "tsv" else _csv_rows
    table = _table(path, _without_blank_lines(path, read(path, lines)), kind,
                   has_header, columns)
  if not table.rows:
    raise ValueError(f"{path} holds no row.")
  return table


def decoded_lines(lines, path):
  """Decodes UTF-8.

  Args:
    lines: lines of bytes.
    path: string, for the message.

  Yields:
    string, each line.

  Raises:
    ValueError: names line and column of the wrong byte.
  """
  for number, line in enumerate(lines, 1):
    try:
      yield line.decode("utf-8")
    except UnicodeDecodeError as error:
      # Spreadsheets call it "Unicode text".
      is_utf16 = number == 1 and line.startswith(_UTF16_MARKS)
      raise ValueError(
          f"{path}:{number}: not UTF-8: byte 0x{line[error.start]:02x} at "
          f"column {error.start + 1}. Convert the file, for example with "
          f"iconv -f {'UTF-16' if is_utf16 else 'LATIN1'} -t UTF-8."
      ) from None


def _without_mark(lines):
  """Lines without the byte order mark that the first one may begin with."""
  for number, line in enumerate(lines):
    yield line.removeprefix("\ufeff") if number == 0 else line


def _tsv_rows(path, lines):
  """Yields (line, values) of each row; a blank line has no values."""
  del path
  for number, line in enumerate(_without_mark(lines), 1):
    line = line.rstrip("\r\n")
    yield number, line.split("\t") if line else []


def _csv_rows(path, lines):
  """As `_tsv_rows`. A row may go over several lines."""
  # Long documents are longer than the reader takes by itself.
  limit = csv.field_size_limit(sys.maxsize)
  reader = csv.reader(_without_mark(lines), strict=True)
  first_line = 1
  try:
    for values in reader:
      yield first_line, values
      first_line = reader.line_num + 1
  except csv.Error as error:
    raise ValueError(
        f"{path}:{first_line}: not a row of comma-separated values ({error}). "
        f"A value with a comma, a quote or a line end has to stand in double "
        f"quotes, and a double quote in it twice.") from error
  finally:
    csv.field_size_limit(limit)


def _without_blank_lines(path, rows):
  """Passes over blank lines at the end; refuses others.

  Were they passed over too, predictions would not stand in the line of their
  text.
  """
  blank = None
  for line, values in rows:
    if not values:
      blank = blank or line
      continue
    if blank:
      raise ValueError(f"{path}:{blank}: a blank line between rows.")
    yield line, values


def _table(path, rows, kind, has_header, columns):
  """The Table of a TSV or CSV file."""
  lines, values = [], []
  for line, row in rows:
    if values and len(row) != len(values[0]):
      way_out = (
          "Values are separated by single tabs; texts with tabs or line ends "
          "need a .csv or .jsonl file." if kind == "tsv" else
          "A value with a comma in it has to stand in double quotes.")
      raise ValueError(
          f"{path}:{line}: {len(row)} column(s), but the first line has "
          f"{len(values[0])}. {way_out}")
    lines.append(line)
    values.append(row)
  if not values:
    raise ValueError(f"{path} is empty.")
  names = None
  if has_header == "yes" or (
      has_header == "auto" and _names_columns(path, values[0], columns)):
    names = [name.strip() for name in values.pop(0)]
    del lines[0]
  return Table(path, names, values, lines)


def _names_columns(path, first, columns):
  """Whether the first row is a header; see `read_table`."""
  found = {value.strip() for value in first}
  named = [column for column in columns if not _is_number(column)]
  if found & set(named) or {value.lower() for value in found} & _KNOWN_NAMES:
    return True
  if named:
    raise ValueError(
        f"{path}:1: the first line names none of the columns "
        f"{', '.join(map(repr, named))}; it has "
        f"{', '.join(repr(value[:40]) for value in first)}. If it is no "
        f"header, pass --has_header=no and give the columns by number, from 0.")
  return False


def _json_table(path, lines, columns):
  """The Table of a file with an object a line.

  Its columns are the keys of the first object, and of later ones those that
  are looked for or usual: a second text that the first row lacks is no row
  without pairs, but a mistake.
  """
  places, rows, numbers = {}, [], []
  lines = ((number, [line] if line.strip() else [])
           for number, line in enumerate(_without_mark(lines), 1))
  for number, (line,) in _without_blank_lines(path, lines):
    try:
      values = json.loads(line)
    except (ValueError, RecursionError) as error:
      values = error
    if not isinstance(values, dict):
      problem = f" ({values})" if isinstance(values, Exception) else ""
      raise ValueError(
          f"{path}:{number}: not a JSON object{problem}. Each line has to be "
          f"one; jq -c '.[]' makes such a file of a list.")
    for name in values:
      if not rows or name in columns or name.lower() in _KNOWN_NAMES:
        places.setdefault(name, len(places))
    rows.append([_json_text(values.get(name)) for name in places])
    numbers.append(number)
  if not rows:
    raise ValueError(f"{path} is empty.")
  for row in rows:  # Those before the first one that has a key.
    row.extend([None] * (len(places) - len(row)))
  return Table(path, list(places), rows, numbers)


def _json_text(value):
  """A JSON value as text that UTF-8 can hold, None for null."""
  if value is None:
    return None
  text = (value if isinstance(value, str) else
          json.dumps(value, ensure_ascii=False))
  # "\ud83d" alone is half of a character: what cut the text cut an emoji.
  return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if (
      _SURROGATES.search(text)) else text


def choose_columns(table, text_a=None, text_b=None, label=None):
  """Finds out which columns hold texts and label.

  Columns that are not given are found by names that are usual ("sentence1",
  "sentence2", "label"). In a table without names the first column is the text,
  the last one the label, and one between them the second text.

  Args:
    table: Table.
    text_a: string, int or None, name or number of the first text's column.
    text_b: the second text's. With `text_a` given, None means that there is
      none.
    label: the label's.

  Returns:
    Dict with keys "text_a", "text_b" and "label": name (string) or number (int)
    of the column, None where there is none.

  Raises:
    ValueError: a column is not there, or it can't be told which one it is.
  """
  if text_b is not None and text_a is None:
    raise ValueError("--text_b names the second text: give --text_a too.")
  given = {"text_a": text_a, "text_b": text_b, "label": label}
  chosen = {role: column_place(table, column, f"--{role}")
            for role, column in given.items() if column is not None}
  if len(set(chosen.values())) < len(chosen):
    raise ValueError(
        f"{table.path}: " + ", ".join(
            f"--{role}={column}" for role, column in given.items()
            if column is not None) + ": these are not different columns.")
  find = _by_name if table.names else _by_number
  find(table, chosen)
  return {role: _called(table, chosen.get(role)) for role in given}


def column_place(table, column, what):
  """Place (int) of a column that has to be there.

  Args:
    table: Table.
    column: string or int, name or number.
    what: string, names the column in the message.

  Raises:
    ValueError: it is not there.
  """
  place = table.find(column)
  if place is None:
    raise ValueError(f"{table.path}: no column {column!r} ({what}); there are "
                     f"{table.columns()}.")
  return place


def _called(table, place):
  """Name of a column, its number where it has none or shares it."""
  if place is None or not table.names or (
      table.names.count(table.names[place]) > 1):
    return place
  return table.names[place]


def _by_name(table, chosen):
  """Adds to `chosen` (role -> place) the columns with usual names."""
  places = {}
  for place, name in enumerate(table.names):
    if place not in chosen.values():
      places.setdefault(name.lower(), place)
  if "label" not in chosen:
    found = [places.pop(name) for name in _LABEL_NAMES if name in places]
    if found:
      chosen["label"] = found[0]
  if "text_a" in chosen:
    return
  for names in _PAIR_NAMES + tuple((name,) for name in _TEXT_NAMES):
    if all(name in places for name in names):
      chosen.update(zip(("text_a", "text_b"), (places[x] for x in names)))
      return
  if len(places) != 1:
    raise ValueError(
        f"{table.path}: which column is the text? There are "
        f"{table.columns()}: say it with --text_a, and --text_b for pairs.")
  (chosen["text_a"],) = places.values()


def _by_number(table, chosen):
  """Adds to `chosen` (role -> place) the columns of a table without names."""
  texts_known = "text_a" in chosen
  if texts_known and "label" in chosen:
    return
  rest = [place for place in range(table.width)
          if place not in chosen.values()]
  # A lone column is a text, unless the texts are known.
  if rest and "label" not in chosen and (texts_known or len(rest) > 1):
    chosen["label"] = rest.pop()
  if len(rest) > (0 if texts_known else 2):
    raise ValueError(
        f"{table.path}: {table.width} columns without names: say which are "
        f"which with --text_a, --text_b and --label, by number from 0.")
  if not texts_known:
    if not rest:
      raise ValueError(f"{table.path}: no column is left for the text.")
    chosen.update(zip(("text_a", "text_b"), rest))


def log_columns(table, columns):
  """Logs what has been read, and which columns are taken as what.

  Args:
    table: Table.
    columns: dict, see `choose_columns`.
  """
  if table.names:
    header = "columns " + ", ".join(table.names)
  else:
    header = f"{table.width} columns, no header"
  logging.info("%s: %d rows, %s; %s.", table.path, len(table.rows), header,
               ", ".join(f"{role}: {'none' if name is None else name}"
                         for role, name in columns.items()))


def one_line(text):
  """A text in which tabs and line ends have become blanks."""
  return _BREAKS.sub(" ", text)
