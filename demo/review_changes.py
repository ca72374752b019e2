# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Reads CHANGES.md, and looks whether what it names as a test exists."""

import ast
import collections
import re

# Bullets of an entry. `Names` lists in backticks what differs in a signature.
BULLETS = ("Upstream", "Habana", "Here", "Why", "Effect", "Names", "Test")
# Sections whose bullets end with their tests in parentheses.
TESTED_SECTIONS = ("Added", "Kept on purpose", "Fixed on purpose")
_FLAGS_SECTION = "Flags added"
# What keeps pytest from ever running a test.
_SKIPS = re.compile(r"\bmark\.skip\b|\bmark\.skipif\((True|1)\b|"
                    r"\bunittest\.skip\b")

Entry = collections.namedtuple("Entry", ["title", "line", "section", "bullets"])
Item = collections.namedtuple("Item", ["section", "line", "text"])
FlagRow = collections.namedtuple(
    "FlagRow", ["name", "type", "default", "scripts", "line"])


class Changes(object):
  """CHANGES.md, taken apart.

  Attributes:
    entries: list of Entry, what stands under `### title`; `bullets` is a dict
      from the word before the colon to the text.
    items: list of Item, the bullets of sections that have tests in parentheses.
    flag_rows: list of FlagRow, the table of added flags.
    problems: list of strings, what is not in the form that its head describes.
    text: string, all of it.
  """

  def __init__(self, text):
    self.text = text
    self.entries, self.items, self.flag_rows = [], [], []
    self.problems = []
    section = title = None
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
      if line.startswith("## "):
        section, title = line[3:].strip(), None
      elif line.startswith("### "):
        title = line[4:].strip()
        self.entries.append(Entry(title, number, section, {}))
      elif line.startswith("- "):
        text = _whole_bullet(lines, number - 1)
        if title:
          self._add_bullet(text, number)
        elif section in TESTED_SECTIONS:
          self.items.append(Item(section, number, text))
      elif line.startswith("| `") and section == _FLAGS_SECTION:
        self._add_flag_row(line, number)
    self.problems += [
        f"there is no ## {name}" for name in (*TESTED_SECTIONS, _FLAGS_SECTION)
        if f"## {name}" not in map(str.strip, lines)]

  def _add_bullet(self, text, number):
    entry = self.entries[-1]
    name, colon, rest = text.partition(":")
    if not colon or name not in BULLETS:
      self.problems.append(
          f"line {number}: under ### {entry.title} a bullet begins with one of "
          f"{', '.join(BULLETS)} and a colon, not with {text[:30]!r}")
    elif name in entry.bullets:
      self.problems.append(
          f"line {number}: ### {entry.title} has two bullets {name!r}")
    else:
      entry.bullets[name] = rest.strip()

  def _add_flag_row(self, line, number):
    cells = [cell.strip() for cell in line.strip("|\n ").split(" | ")]
    kind, comma, default = "".join(cells[1:2]).partition(", ")
    if len(cells) != 4 or not comma:
      self.problems.append(
          f"line {number}: a row of flags has the columns flag, "
          f"`type, default`, scripts, what")
      return
    self.flag_rows.append(FlagRow(
        cells[0].strip("`"), kind, default,
        re.findall(r"\w+", cells[2]), number))


def _whole_bullet(lines, index):
  """A bullet with the lines that go on with it, as one line."""
  text = lines[index][2:]
  for line in lines[index + 1:]:
    if not line.startswith("  "):
      break
    text += " " + line.strip()
  return text.strip()


def names(text):
  """What stands in backticks."""
  return re.findall(r"`([^`]+)`", text)


def tests_in_parentheses(text):
  """The parentheses that a bullet ends with, None without."""
  found = re.search(r"\(([^()]*)\)\.?$", text)
  return found[1] if found else None


class Tests(object):
  """The tests of a project, and the families of its recorded cases.

  Attributes:
    families: set of strings.
  """

  def __init__(self, project):
    """Takes a `review_interface.Project`."""
    self._project = project
    self.families = set()
    tree = project.tree("tests.conformance_test")
    for node in tree.body if tree else []:
      if (isinstance(node, ast.Assign) and
          ast.unparse(node.targets[0]) == "FAMILIES"):
        for families in ast.literal_eval(node.value).values():
          self.families.update(families)

  def problems(self, text, whole_files=True):
    """What is wrong with a text that names tests.

    Args:
      text: string: "m_gelu, tests/modeling_test.py GeluTest, ATest.test_x",
        where names of classes belong to the file before them.
      whole_files: bool, a file may stand without a class.

    Returns:
      List of strings.
    """
    found = []
    path = None
    for part in re.split(r"[,;]\s*", text.strip().rstrip(".")):
      match = re.fullmatch(r"(tests/\w+_test\.py)?\s*([A-Z]\w*(?:\.\w+)?)?",
                           part)
      if not part or not match:
        if part not in self.families:
          found.append(f"{part!r} is neither a test (tests/x_test.py Class) "
                       f"nor a family of tests/conformance_test.py")
        continue
      path = match[1] or path
      if not path:
        found.append(f"{part}: in which file?")
      elif not (match[2] or whole_files):
        found.append(f"{part}: which class of it?")
      elif not self._has(path, match[2]):
        found.append(f"{path} {match[2] or ''}".strip() + " does not exist, "
                     "or is never run")
    return found

  def _has(self, path, name):
    """Whether a file, class ("ATest") or method ("ATest.test_x") tests."""
    tree = self._project.tree(path[:-len(".py")].replace("/", "."))
    if tree is None:
      return False
    wanted, _, method = (name or "").partition(".")
    return not _is_skipped(tree) and any(
        test.name.startswith("test_") and not _is_skipped(test) and
        method in ("", test.name)
        for node in tree.body if isinstance(node, ast.ClassDef)
        and wanted in ("", node.name) and not _is_skipped(node)
        for test in node.body if isinstance(test, ast.FunctionDef))


def _is_skipped(node):
  """Whether marks on a module, class or function skip it always."""
  marks = getattr(node, "decorator_list", []) + [
      child.value for child in node.body if isinstance(child, ast.Assign) and
      ast.unparse(child.targets[0]) == "pytestmark"]
  return any(_SKIPS.search(ast.unparse(mark)) for mark in marks)
