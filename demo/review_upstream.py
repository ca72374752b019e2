# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Compares this collection with google-research/bert, definition by definition.

  python -m demo.review_upstream PATH_OR_INTERFACE
  python -m demo.review_upstream ~/bert --format html --output review.html

PATH is a checkout of upstream: a git folder, also a bare one, from which the
commit is read whatever is checked out; or a folder of plain files. An interface
is the JSON file that was recorded from it. Nothing is downloaded or run.

Bodies were written afresh, so a text diff says little. Beside each definition,
flag, variable and file of upstream stands instead what shows that it is alike
here (tests/alike.yaml), or where it differs on purpose the entry in CHANGES.md.
What has neither, and what is claimed and not so, is a failure: exit status 1.
"""

import argparse
import collections
import fnmatch
import json
import os
import re
import subprocess
import sys

import yaml

from demo import review_changes
from demo import review_differences
from demo import review_interface
from demo import review_report
from demo import review_variables

PROJECT_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMMIT = "cc7051dc592802f501e8a6f71f8fb3cf9de95dc9"
MODULES = review_interface.MODULES
_signature = review_differences.signature

_SYMBOL = re.compile(r"(\w+)\.(\w+(?:\.\w+)?)")
_OF_MODULE = re.compile(r"(\w+), (added definitions|flags)")
_ITEM_STATUS = dict(zip(review_changes.TESTED_SECTIONS,
                        ("added", "equal", "differs")))
# How a docstring says that a definition is upstream's, or isn't quite.
_UNCHANGED = re.compile(r"Source: [^.]*\bunchanged\b(?! but)")
_CHANGED = re.compile(r"Source: .*(\bunchanged but\b|see CHANGES)")

# Upstream, as it was given. `modules`: as review_interface.Project.interface;
# `files` and `file_names` are None where only an interface is there,
# `variables` (recorded checkpoint_variables.json) where it isn't.
Upstream = collections.namedtuple(
    "Upstream", ["label", "modules", "files", "file_names", "variables"])


def read_upstream(path, commit=COMMIT):
  """Reads a checkout or a recorded interface.

  Args:
    path: string, folder or JSON file.
    commit: string, what to read of a git folder.

  Returns:
    Upstream.

  Raises:
    ValueError: it is neither, or lacks the commit.
  """
  if os.path.isfile(path):
    return _recorded(path)
  if not os.path.isdir(path):
    raise ValueError(f"{path} does not exist: name a checkout of "
                     f"google-research/bert or a recorded interface.json.")
  git_dir = os.path.join(path, ".git")
  if not os.path.exists(git_dir) and os.path.isdir(
      os.path.join(path, "objects")) and os.path.isdir(
          os.path.join(path, "refs")):
    git_dir = path  # A bare one.
  if os.path.exists(git_dir):
    label = f"google-research/bert at {commit}"
    files = _git(git_dir, commit, "ls-tree", "-r", "-z", "--name-only",
                 commit).split("\0")[:-1]
    read = lambda name: (_git(git_dir, commit, "show", f"{commit}:{name}")
                         if name in files else None)
  else:
    label = f"google-research/bert in {path}"
    files = sorted(
        os.path.relpath(os.path.join(folder, name), path)
        for folder, _, names in os.walk(path) for name in names
        if "__pycache__" not in folder)
    read = _reader(path)
  project = review_interface.Project(read)
  modules = {name: project.interface(name) for name in MODULES}
  modules = {name: module for name, module in modules.items() if module}
  if not modules:
    raise ValueError(f"{path} holds none of upstream's scripts: name the "
                     f"folder with run_classifier.py.")
  return Upstream(
      label, modules, files,
      {name: project.file_names(name) for name in modules}, None)


def _recorded(path):
  try:
    with open(path, encoding="utf-8") as reader:
      content = json.load(reader)
    beside = os.path.join(os.path.dirname(path), "checkpoint_variables.json")
    variables = None
    if os.path.exists(beside):
      with open(beside, encoding="utf-8") as reader:
        variables = json.load(reader)
    return Upstream(content["source"], content["modules"], None, None,
                    variables)
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is not a recorded interface.json "
                     f"({error!r}).") from None


def _git(git_dir, commit, *command):
  """What a git command prints; reads objects only, downloads nothing."""
  try:
    run = subprocess.run(
        ["git", "--git-dir", git_dir, *command], capture_output=True,
        check=False, env={**os.environ, "GIT_NO_LAZY_FETCH": "1",
                          "GIT_TERMINAL_PROMPT": "0"})
  except FileNotFoundError:
    raise ValueError(f"{git_dir} needs git to be read, which is not "
                     f"installed; a folder of plain files does without.") from (
                         None)
  if run.returncode:
    said = run.stderr.decode("utf-8", "replace").strip().splitlines()
    raise ValueError(
        f"{git_dir} has no commit {commit} ({said[-1] if said else 'git'}): "
        f"fetch it, or pass --commit=HEAD.")
  return run.stdout.decode("utf-8", "replace")


def _reader(folder):
  """Function of a relative path that returns a file's text, None without."""
  def read(name):
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
      return None
    with open(path, encoding="utf-8") as reader:
      return reader.read()
  return read


def review(root, upstream, with_variables=True):
  """Compares a project with upstream.

  Args:
    root: string, its folder.
    upstream: Upstream.
    with_variables: bool, build the models and compare their variables.

  Returns:
    Dict for `review_report`, JSON all through: `upstream` (label), `sections`:
    list of {"title", "note", "rows"}, and `failures`: list of strings.
  """
  return _Review(root, upstream).report(with_variables)


class _Loader(yaml.SafeLoader):
  """Refuses a key that stands twice, of which YAML keeps the last."""

  def construct_mapping(self, node, deep=False):
    """See the base class."""
    found = super().construct_mapping(node, deep)
    if len(found) != len(node.value):
      keys = [self.construct_object(key, True) for key, _ in node.value]
      (key, _), = collections.Counter(keys).most_common(1)
      raise yaml.constructor.ConstructorError(
          None, None, f"{key!r} stands twice", node.start_mark)
    return found


def _load_yaml(text, path):
  """The mapping that a YAML file is; raises ValueError where it is none."""
  try:
    found = yaml.load(text or "", _Loader)
  except yaml.YAMLError as error:
    raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
  if not isinstance(found, dict):
    raise ValueError(f"{path} is missing or is no mapping.")
  return found


class _Review(object):
  """The comparison: makes rows, and notes in them what fails."""

  def __init__(self, root, upstream):
    read = _reader(root)
    self._root, self._upstream = root, upstream
    self._project = review_interface.Project(read)
    self._tests = review_changes.Tests(self._project)
    self._changes = review_changes.Changes(read("CHANGES.md") or "")
    self._facts = _load_yaml(
        read("demo/review_facts.yaml"), "demo/review_facts.yaml")
    self._entries = {}  # (module, symbol) -> Entry.
    self._named = collections.defaultdict(dict)  # The same -> what differs.
    self._own = {name: self._project.interface(name) for name in MODULES}
    self._sections = []
    self._failures = []
    try:
      self._alike = _load_yaml(read("tests/alike.yaml"), "tests/alike.yaml")
    except ValueError as error:  # Nothing is shown to be alike then.
      self._alike = {}
      self._failures.append(str(error))

  def report(self, with_variables):
    """See `review`."""
    self._read_entries()
    self._failures += [f"tests/alike.yaml: {name}: no such module of upstream's"
                       for name in self._alike if name not in MODULES]
    for name in MODULES:
      self._module(name)
    self._check_inputs()
    if self._upstream.files is not None:
      self._other_files()
    if with_variables:
      self._variables()
    self._changes_section()
    failures = self._failures + [
        ": ".join(dict.fromkeys([section["title"], row["name"], failure]))
        for section in self._sections for row in section["rows"]
        for failure in row["failures"]]
    return {"upstream": self._upstream.label, "sections": self._sections,
            "failures": failures}

  def _section(self, title, note=""):
    section = {"title": title, "note": note, "rows": []}
    self._sections.append(section)
    return section["rows"]

  def _row(self, rows, kind, name, status, upstream="", here="", shown_by="",
           entry=None):
    """Adds a row; returns its list of failures."""
    rows.append({
        "kind": kind, "name": name, "status": status, "upstream": upstream,
        "here": here, "shown_by": shown_by, "failures": [],
        "entry": dict(entry.bullets, title=entry.title) if entry else None})
    return rows[-1]["failures"]

  def _shown(self, text, entry, whole_files=False):
    """(text for a row, failures) of evidence and an entry's test."""
    shown = [text] if text else []
    failures = []
    if text is not None:
      failures = self._tests.problems(text, whole_files)
    if entry and entry.bullets.get("Test"):
      shown.append(f"CHANGES: {entry.bullets['Test']}")
    return "; ".join(shown), failures

  # What CHANGES.md says.

  def _read_entries(self):
    """Looks at the entries by themselves, and finds their definitions."""
    say = self._failures.append
    for problem in self._changes.problems:
      say(f"CHANGES.md: {problem}")
    for entry in self._changes.entries:
      where = f"CHANGES.md: ### {entry.title}"
      if not entry.bullets.get("Test"):
        say(f"{where}: has no Test")
      else:
        for problem in self._tests.problems(entry.bullets["Test"]):
          say(f"{where}: Test: {problem}")
      match = (_SYMBOL.fullmatch(entry.title) or
               _OF_MODULE.fullmatch(entry.title))
      module = match[1] if match else None
      if module not in MODULES:
        if entry.section in [f"{name}.py" for name in MODULES]:
          say(f"{where}: in this section a title is module.definition, "
              f"'module, added definitions' or 'module, flags'")
        continue
      if entry.section != f"{module}.py":
        say(f"{where}: belongs under ## {module}.py")
      if (module, match[2]) in self._entries:
        say(f"{where}: stands there twice")
      self._entries[module, match[2]] = entry

  def _changes_section(self):
    """The section of what concerns no single definition, and failures of
    entries and flag rows that name what isn't so."""
    say = self._failures.append
    rows = self._section("CHANGES.md")
    for entry in self._changes.entries:
      if entry not in self._entries.values():
        self._row(rows, "entry", entry.title, "differs",
                  shown_by=entry.bullets.get("Test", ""), entry=entry)
    for item in self._changes.items:
      tests = review_changes.tests_in_parentheses(item.text)
      text = item.text.replace(f" ({tests})", "")
      failures = self._row(
          rows, "entry", item.section, _ITEM_STATUS[item.section],
          upstream=text if _ITEM_STATUS[item.section] == "equal" else "",
          here=text,
          shown_by=tests or "")
      failures += [f"line {item.line}: {problem}" for problem in (
          self._tests.problems(tests) if tests else
          ["does not end with its tests in parentheses"])]
    for (module, symbol), entry in self._entries.items():
      if self._own[module] is None:
        continue  # The missing file is said already.
      where = f"CHANGES.md: ### {entry.title}"
      if not _OF_MODULE.fullmatch(entry.title) and symbol not in (
          self._symbols(self._own[module]) |
          self._symbols(self._upstream.modules.get(module))):
        say(f"{where}: neither upstream nor this collection has it")
        continue
      listed = review_changes.names(entry.bullets.get("Names", ""))
      for name in listed:
        if name not in self._named[module, symbol]:
          say(f"{where}: Names has `{name}`, in which nothing differs")
      for name, what in self._named[module, symbol].items():
        if name not in listed:
          say(f"{where}: Names lacks `{name}` ({what})")
    for row in self._changes.flag_rows:
      for script in row.scripts:
        where = f"CHANGES.md: ## Flags added, line {row.line}: --{row.name}"
        if script not in MODULES:
          say(f"{where}: {script} is no script of upstream's")
        elif self._own[script] is not None and row.name not in (
            self._added_flags(script)):
          say(f"{where}: {script}.py has no such added flag")

  def _symbols(self, module):
    """All names of a module: "f", "C" and "C.method"."""
    found = set()
    for definition in module["definitions"] if module else []:
      found.add(definition["name"])
      found.update(f"{definition['name']}.{method['name']}"
                   for method in definition.get("methods", []))
    return found

  # Definitions.

  def _module(self, name):
    """The section of a file: definitions, flags, results."""
    upstream, own = self._upstream.modules.get(name), self._own[name]
    rows = self._section(f"{name}.py")
    if upstream is None:
      self._row(rows, "file", f"{name}.py", "missing upstream").append(
          "upstream lacks the file: is that google-research/bert?")
      return
    if own is None:
      self._row(rows, "file", f"{name}.py", "missing",
                f"{len(upstream['definitions'])} definitions, "
                f"{len(upstream['flags'])} flags").append("the file is missing")
      return
    evidence = self._evidence(name)
    docstrings = self._project.docstrings(name)
    wanted = [x["name"] for x in upstream["definitions"]]
    order = [x["name"] for x in own["definitions"] if x["name"] in wanted]
    moved = review_differences.out_of_order(wanted, order)
    own_by_name = {x["name"]: x for x in own["definitions"]}
    for definition in upstream["definitions"]:
      self._definition(rows, name, definition, own_by_name, evidence,
                       definition["name"] in moved, docstrings)
    for symbol in evidence:
      if symbol not in self._symbols(own) | self._symbols(upstream):
        self._failures.append(f"tests/alike.yaml: {name}: {symbol}: neither "
                              f"upstream nor this collection has it")
    self._added_definitions(rows, name, upstream, own)
    self._failures += [text for text in self._project.tampering(name)
                       if text not in self._failures]  # Of a shared helper.
    self._flags(rows, name)
    self._outputs(rows, name)
    found = collections.Counter(
        row["status"] for row in rows if row["kind"] == "definition")
    self._sections[-1]["note"] = (
        f"{len(wanted)} definitions: " + ", ".join(
            f"{count} {status}" for status, count in sorted(found.items())) +
        f"; order {'not ' if moved else ''}kept")

  def _evidence(self, module):
    """tests/alike.yaml's lines of a module: "f" or "C.method" -> text."""
    found = {}

    def add(name, text):
      if name in found:
        self._failures.append(f"tests/alike.yaml: {module}: {name} stands "
                              f"there twice")
      found[name] = str(text or "")

    lines = self._alike.get(module, {})
    if not isinstance(lines, dict):
      self._failures.append(f"tests/alike.yaml: {module} is no mapping")
      lines = {}
    for name, value in lines.items():
      if isinstance(value, dict):
        for methods, text in value.items():
          for method in re.split(r",\s*", str(methods)):
            add(f"{name}.{method}", text)
      else:
        add(name, value)
    return found

  def _definition(self, rows, module, upstream, own_by_name, evidence, is_moved,
                  docstrings):
    """The rows of a definition of upstream and of its methods."""
    name = upstream["name"]
    own = own_by_name.get(name)
    entry = self._entries.get((module, name))
    methods = upstream.get("methods", [])
    if own is None:
      differs = {name: "the definition is missing"}
    elif own["kind"] != upstream["kind"]:
      differs = {name: f"a {own['kind']}, upstream a {upstream['kind']}"}
    elif upstream["kind"] == "class":
      differs = review_differences.class_differences(upstream, own, own_by_name)
    else:
      differs = review_differences.function_differences(upstream, own)
    same_kind = own is not None and own["kind"] == upstream["kind"]
    shown, problems = self._shown(evidence.get(name), entry)
    failures = self._row(
        rows, "definition", name,
        "missing" if own is None else _status(differs, entry),
        _signature(upstream), _signature(own) if own else "", shown, entry)
    failures += problems
    self._cover(failures, module, name, differs, entry)
    if is_moved:
      failures.append("stands in another place than upstream")
    is_shown = name in evidence or entry
    if not (methods or is_shown):
      failures.append(
          f"nothing shows that it behaves alike: name a family or test in "
          f"tests/alike.yaml, or write ### {module}.{name} into CHANGES.md")
    self._docstring_claims(failures, module, name, docstrings)
    if upstream["kind"] != "class" or not same_kind:
      return
    if methods and name in evidence:
      failures.append("tests/alike.yaml: name its methods")
    wanted = [x["name"] for x in methods]
    order = [x["name"] for x in own["methods"] if x["name"] in wanted]
    moved = review_differences.out_of_order(
        [x for x in wanted if x in order], order)
    for method in methods:
      self._method(rows, module, name, method, own_by_name, evidence,
                   method["name"] in moved, docstrings)

  def _method(self, rows, module, owner, upstream, own_by_name, evidence,
              is_moved, docstrings):
    """The row of a method that upstream has."""
    name = f"{owner}.{upstream['name']}"
    found = review_differences.find_method(own_by_name, owner, upstream["name"])
    if found is None:
      return  # The row of the class has it.
    where, own = found
    differs = review_differences.function_differences(upstream, own)
    own_entry = self._entries.get((module, name))
    entry = own_entry or self._entries.get((module, owner))
    shown, problems = self._shown(evidence.get(name), entry)
    failures = self._row(
        rows, "method", name, _status(differs, own_entry),
        _signature(upstream),
        _signature(own) + (f"  # from {where}" if where != owner else ""),
        shown, own_entry)
    failures += problems
    self._cover(failures, module, name if own_entry else owner, differs, entry)
    if is_moved:
      failures.append("stands in another place than upstream")
    if not (name in evidence or entry):
      failures.append(
          f"nothing shows that it behaves alike: name a family or test in "
          f"tests/alike.yaml, or write ### {module}.{name} into CHANGES.md")
    self._docstring_claims(failures, module, name, docstrings)

  def _cover(self, failures, module, symbol, differs, entry):
    """Asks for an entry that names what differs."""
    self._named[module, symbol].update(differs)
    if entry is None:
      failures += [
          f"`{name}`: {what}; CHANGES.md has no ### {module}.{symbol}"
          for name, what in differs.items()]

  def _docstring_claims(self, failures, module, symbol, docstrings):
    """Asks that a docstring and CHANGES.md say the same."""
    text = " ".join(docstrings.get(symbol, "").split())
    has_entry = any(
        owner == module and (name + ".").startswith(symbol + ".")
        for owner, name in self._entries)
    if _UNCHANGED.search(text) and has_entry:
      failures.append(f"its docstring says \"unchanged\", and CHANGES.md has "
                      f"### {module}.{symbol}")
    if _CHANGED.search(text) and not has_entry:
      failures.append(f"its docstring says that it differs, and CHANGES.md has "
                      f"no ### {module}.{symbol}")
    if symbol in docstrings and "." not in symbol and not (
        _UNCHANGED.search(text) or _CHANGED.search(text)):
      failures.append('its docstring has no "Source:" that says "unchanged" or '
                      '"see CHANGES"')

  def _added_definitions(self, rows, module, upstream, own):
    """Rows of public definitions and constants that upstream does not have."""
    theirs = self._symbols(upstream)
    entry = self._entries.get((module, "added definitions"))
    constants = [{"kind": "constant", "name": name}
                 for name in self._project.constants(module)
                 if name not in self._symbols(own)]
    for definition in own["definitions"] + constants:
      name = definition["name"]
      if name in theirs or name.startswith("_"):
        continue
      own_entry = self._entries.get((module, name)) or entry
      shown, _ = self._shown(None, own_entry)
      failures = self._row(rows, "definition", name, "added", "",
                           _signature(definition), shown, own_entry)
      self._named[module, "added definitions"][name] = "added"
      if entry is None:
        failures.append(f"CHANGES.md has no ### {module}, added definitions")

  # Flags.

  def _effective_flags(self, module):
    """name -> flag of an upstream script, with those of what it imports."""
    upstream = self._upstream.modules[module]
    found = {}
    for sibling in upstream["imports_of_sibling_modules"]:
      if sibling in self._upstream.modules:
        found.update(self._effective_flags(sibling))
    found.update((flag["name"], flag) for flag in upstream["flags"])
    return {name: dict(
        flag, required=name in upstream["required_when_run_as_script"])
        for name, flag in found.items()}

  def _added_flags(self, module):
    """name -> flag, what this collection has and upstream has not."""
    if module not in self._upstream.modules:
      return {}
    theirs = self._effective_flags(module)
    return {flag["name"]: flag for flag in self._own[module]["flags"]
            if flag["name"] not in theirs}

  def _flags(self, rows, module):
    """Rows of the flags of a script."""
    own = {flag["name"]: flag for flag in self._own[module]["flags"]}
    entry = self._entries.get((module, "flags"))
    for name, flag in self._effective_flags(module).items():
      here = own.get(name)
      differs = []
      if here is None:
        differs = ["missing"]
      else:
        differs = [
            f"{what} {flag[what]!r} upstream, {here[what]!r} here"
            for what in ("type", "default", "required")
            if repr(_as_flag(flag)[what]) != repr(_as_flag(here)[what])]
      failures = self._row(
          rows, "flag", f"--{name}",
          "missing" if here is None else "changed" if differs else "equal",
          _flag_text(flag), _flag_text(here) if here else "",
          self._shown(None, entry)[0] if differs else "",
          entry if differs else None)
      if differs:
        self._named[module, "flags"][f"--{name}"] = "; ".join(differs)
        if entry is None:
          failures.append(f"{'; '.join(differs)}; CHANGES.md has no "
                          f"### {module}, flags")
    rows_of = {(row.name, script): row for row in self._changes.flag_rows
               for script in row.scripts}
    for name, flag in self._added_flags(module).items():
      row = rows_of.get((name, module))
      failures = self._row(rows, "flag", f"--{name}", "added", "",
                           _flag_text(flag), "CHANGES: Flags added")
      if row is None:
        failures.append(f"CHANGES.md, table of ## Flags added: no row with "
                        f"`{name}` has {module} among its scripts")
      elif (row.type, row.default) != (flag["type"], _default_text(flag)):
        failures.append(
            f"CHANGES.md, line {row.line}: the table has {row.type}, "
            f"{row.default}; it is {flag['type']}, {_default_text(flag)}")

  # Files that are written.

  def _outputs(self, rows, module):
    """Rows of the files that a script writes."""
    outputs = self._facts["outputs"].get(module, {})
    here = self._project.file_names(module)
    theirs = (self._upstream.file_names or {}).get(module)
    for name, fact in outputs.items():
      added = bool(fact.get("added"))
      shown, problems = self._shown(
          str(fact.get("shown_by", "")), None, whole_files=True)
      failures = self._row(
          rows, "output", name, "added" if added else "equal",
          "" if added else fact["form"], fact["form"], shown)
      failures += problems
      if added and f"`{name}`" not in self._changes.text:
        failures.append(f"upstream does not write it, and CHANGES.md does not "
                        f"name `{name}`")
      if not fact.get("named_by") and not _matches(name, here):
        failures.append(f"{module}.py does not have this name in its source")
      if (theirs is not None and not added and not fact.get("named_by") and
          not _matches(name, theirs)):
        failures.append("upstream does not have this name in its source")
    known = list(outputs) + self._facts["inputs"]
    for side, found in (("upstream's", theirs or []), ("this", here)):
      for name in found:
        if not _matches(name, known):
          self._row(rows, "output", name, "unknown").append(
              f"{side} {module}.py names this file, demo/review_facts.yaml "
              f"doesn't: what is it?")

  def _check_inputs(self):
    """Looks for the names in demo/review_facts.yaml that no source has."""
    named = [name for module in MODULES if self._own[module]
             for name in self._project.file_names(module)]
    named += sum((self._upstream.file_names or {}).values(), [])
    self._failures += [
        f"demo/review_facts.yaml: inputs: no script names {name}"
        for name in self._facts["inputs"] if not _matches(name, named)]

  def _other_files(self):
    """The section of upstream's files that are not compared by definition."""
    rows = self._section("Files of upstream")
    self._failures += [
        f"demo/review_facts.yaml: files: upstream has no {name}"
        for name in self._facts["files"] if name not in self._upstream.files]
    for name in self._upstream.files:
      fact = self._facts["files"].get(name)
      if name[:-len(".py")] in MODULES and name.endswith(".py"):
        is_there = self._own[name[:-len(".py")]] is not None
        self._row(rows, "file", name, "ported" if is_there else "missing",
                  name, name if is_there else "")
      elif fact is None:
        self._row(rows, "file", name, "unknown", name).append(
            "the commit has no such file, or demo/review_facts.yaml should say "
            "what became of it")
      elif "by" in fact:
        failures = self._row(rows, "file", name, "replaced", name, fact["by"])
        if not os.path.exists(os.path.join(self._root, fact["by"])):
          failures.append(f"{fact['by']} does not exist")
      else:
        self._row(rows, "file", name, "left out", name, fact["why"])

  # Variables.

  def _variables(self):
    """The sections of checkpoint variables, one for each head."""
    facts = self._facts["variables"]
    for head, fact in facts["heads"].items():
      rows = self._section(
          f"Checkpoint variables, {head}",
          "V vocabulary, W width, I intermediate width, P positions, T token "
          f"types, L labels; shown by {fact['shown_by']}")
      if self._own[fact["module"]] is None:
        self._row(rows, "variable", head, "missing")
        continue
      said = review_variables.compare(facts, head)
      if self._upstream.variables:
        said += [f"demo/review_facts.yaml: {text}" for text in
                 review_variables.differences(
                     review_variables.recorded(self._upstream.variables[head]),
                     review_variables.expected(facts, head, facts["base"]))]
      problems = self._tests.problems(fact["shown_by"])
      without = fact.get("without_slots", [])
      for name, shape in {**facts["encoder"], **fact["variables"]}.items():
        text = (f"[{', '.join(map(str, shape))}]" +
                ("" if name in without else " and slots"))
        of_name = [x for x in said if name.replace("layer_N", "") in
                   re.sub(r"layer_\d+", "", x)]
        self._row(rows, "variable", name, "changed" if of_name else "equal",
                  text, "" if of_name else text).extend(of_name)
        said = [x for x in said if x not in of_name]
      for name, shape in facts["other"].items():
        self._row(rows, "variable", name, "equal", str(shape),
                  str(shape)).extend(said + problems)


def _status(differs, entry):
  """A definition whose signature is upstream's may still behave otherwise."""
  return "changed" if differs else "differs" if entry else "equal"


def _flag_text(flag):
  return f"{flag['type']}, {_default_text(flag)}" + (
      ", required" if flag["required"] else "")


def _default_text(flag):
  return str(_as_flag(flag)["default"])


def _as_flag(flag):
  """A flag whose default is of its type: 1 of DEFINE_float is 1.0."""
  is_float = flag["type"] == "float" and isinstance(flag["default"], int)
  return dict(flag, default=float(flag["default"])) if is_float else flag


def _matches(name, others):
  """Whether one of the names is the same, stars standing for anything."""
  return any(fnmatch.fnmatchcase(name, other) or
             fnmatch.fnmatchcase(other, name) for other in others)


def parse_arguments(arguments):
  """The command line, as argparse's Namespace."""
  parser = argparse.ArgumentParser(
      prog="review_upstream", formatter_class=argparse.RawTextHelpFormatter,
      description=__doc__.split("\n\n", maxsplit=1)[0])
  parser.add_argument("upstream", metavar="PATH_OR_INTERFACE",
                      help="checkout of google-research/bert, or the "
                      "interface.json recorded from it")
  parser.add_argument("--commit", default=COMMIT, metavar="REV",
                      help="what to read of a git folder (cc7051dc)")
  parser.add_argument("--format", choices=sorted(review_report.FORMATS),
                      default="terminal", help="form of the report (terminal)")
  parser.add_argument("--output", metavar="FILE",
                      help="write the report there, and failures here")
  parser.add_argument("--variables", action="store_true", default=True,
                      help="compare checkpoint variables (on)")
  parser.add_argument("--novariables", dest="variables", action="store_false",
                      help="leave them out: no TensorFlow, two seconds")
  return parser.parse_args(arguments)


def main(arguments=None):
  """Runs the command line; returns the exit status."""
  options = parse_arguments(arguments)
  try:
    upstream = read_upstream(options.upstream, options.commit)
    report = review(PROJECT_FOLDER, upstream, options.variables)
    text = review_report.FORMATS[options.format](report)
    if options.output:
      review_report.write(options.output, text)
      text = review_report.summary(report)
    print(text, flush=True)
  except BrokenPipeError:  # `| head` has read enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except (ValueError, OSError) as error:
    print(f"review_upstream: error: {error}", file=sys.stderr)
    return 2
  return 1 if report["failures"] else 0


if __name__ == "__main__":
  sys.exit(main())
