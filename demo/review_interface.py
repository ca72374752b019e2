# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What a script offers, read from its source without running it.

Definitions with their arguments, flags with their defaults, names of files:
what `demo.review_upstream` compares. The source may be of TensorFlow 1 or 2;
flags may be defined by statements or by functions of the same project.
"""

import ast
import functools
import operator
import re

# Where `python -m demo.review_upstream` looks; the order is that of a reader.
MODULES = (
    "modeling", "optimization", "tokenization", "run_classifier",
    "run_classifier_with_tfhub", "run_squad", "create_pretraining_data",
    "run_pretraining", "extract_features")

_FILE_NAME = re.compile(
    r"[\w.*-]+\.(?:jsonl?|txt|tsv|csv|tf_?record|npz|ya?ml|log|pb|html)"
    r"(?![\w.*-])")
_DEFINES_FLAG = re.compile(r"DEFINE_(\w+)")
_MARKS = re.compile(r"mark_flags?_as_required")
_TYPES = {"boolean": "bool"}
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
           ast.GeneratorExp)
_FLAG_OBJECTS = ("flags", "FLAGS")  # Upstream has no other public constant.
_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow}


@functools.lru_cache(maxsize=None)
def parse(source, path):
  """Parses a file.

  Args:
    source: string.
    path: string, for messages.

  Raises:
    ValueError: it is not Python 3.
  """
  try:
    return ast.parse(source)
  except SyntaxError as error:
    raise ValueError(f"{path}:{error.lineno}: not Python 3: "
                     f"{error.msg}.") from None


class Project(object):
  """The files of a project, parsed when they are asked for.

  Attributes:
    read: function of a path ("demo/x.py") that returns the source (string), or
      None where there is no such file.
  """

  def __init__(self, read):
    self.read = read
    self._trees = {}

  def tree(self, module):
    """The syntax tree of a module ("demo.x"); None without such a file."""
    if module not in self._trees:
      path = _path(module)
      source = self.read(path)
      self._trees[module] = None if source is None else parse(source, path)
    return self._trees[module]

  def interface(self, module):
    """What a module offers.

    Args:
      module: string, one of MODULES.

    Returns:
      Dict of `definitions`, `flags`, `imports_of_sibling_modules`,
      `required_when_run_as_script` and `is_script`; None without such a file.

    Raises:
      ValueError: a flag's name or default can't be told from the source.
    """
    tree = self.tree(module)
    if tree is None:
      return None
    flags, required = _FlagReader(self).flags(module)
    return {
        "definitions": [found for found in map(_definition, tree.body)
                        if found],
        "flags": [dict(flag, required=flag["name"] in required)
                  for flag in flags],
        "imports_of_sibling_modules": sorted(
            name for name in _imports(tree).values() if name in MODULES),
        "required_when_run_as_script": required,
        "is_script": any(isinstance(node, ast.If) and _is_main(node.test)
                         for node in tree.body)}

  def constants(self, module):
    """Public names that a module gives to values, classes excepted."""
    return [name for name, node in _bindings(self.tree(module).body)
            if isinstance(node, ast.Name) and not name.startswith("_") and
            name not in _FLAG_OBJECTS]

  def tampering(self, module):
    """What makes a definition or flag another than it seems to be.

    Returns:
      List of strings, "path:line: what": definitions that only some runs make
      or that are bound again, what the top level sets elsewhere, defaults that
      are changed later.
    """
    tree, path = self.tree(module), _path(module)
    found = []
    for owner in [tree] + [x for x in tree.body if isinstance(x, ast.ClassDef)]:
      bindings = _bindings(owner.body)
      names = [name for name, _ in bindings]
      for index, (name, node) in enumerate(bindings):
        if name in names[:index]:
          found.append((path, node, f"`{name}` is there already"))
        elif isinstance(node, _DEFINES) and node not in owner.body:
          found.append((path, node, f"`{name}` is defined inside of another "
                                    f"statement"))
    for node in _executed(tree.body):
      is_set = (isinstance(node, (ast.Attribute, ast.Subscript)) and
                not isinstance(node.ctx, ast.Load))
      if is_set or (isinstance(node, ast.Call) and
                    ast.unparse(node.func) == "setattr"):
        found.append((path, node,
                      f"the top level changes `{ast.unparse(node)}`"))
    reader = _FlagReader(self)
    reader.flags(module)
    found += [(*where, "changes a flag after its definition")
              for where in reader.altered]
    return [f"{path}:{node.lineno}: {what}" for path, node, what in found]

  def file_names(self, module):
    """The names of files in a module's strings, sorted.

    A string with blanks is a message. What is put in when it runs is a star:
    "eval_%s.txt" is "eval_*.txt". Folders before a name are left out.
    """
    names, parts = set(), set()
    for node in ast.walk(self.tree(module)):  # A string before its parts.
      if isinstance(node, ast.JoinedStr):
        parts.update(node.values)
        text = "".join(str(part.value) if isinstance(part, ast.Constant)
                       else "*" for part in node.values)
      elif (isinstance(node, ast.Constant) and isinstance(node.value, str) and
            node not in parts):
        text = re.sub(r"%[sd]|{}", "*", node.value)
      else:
        continue
      if not re.search(r"\s", text):
        names.update(_FILE_NAME.findall(text))
    return sorted(names)

  def docstrings(self, module):
    """Dict from "name" and "Class.method" to docstring ("" without one)."""
    found = {}
    for node in self.tree(module).body:
      if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        found[node.name] = ast.get_docstring(node) or ""
        for method in _methods(node):
          found[f"{node.name}.{method.name}"] = ast.get_docstring(method) or ""
    return found


def _path(module):
  return module.replace(".", "/") + ".py"


def _alters_flag(node):
  """Whether a node is `FLAGS.set_default(...)` or sets `FLAGS.x`."""
  if isinstance(node, ast.Call):
    return ast.unparse(node.func).split(".")[-1] == "set_default"
  return (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
          and re.search(r"\bFLAGS\b", ast.unparse(node.value)))


def _is_main(test):
  return ast.unparse(test) in ("__name__ == '__main__'",
                               "'__main__' == __name__")


def _imports(tree):
  """Dict from a name in a module to the module that it stands for.

  `from x import y` is taken for the module "x.y", which it may be.
  """
  found = {}
  for node in tree.body:
    if isinstance(node, ast.Import):
      for alias in node.names:
        found[alias.asname or alias.name] = alias.name
    elif isinstance(node, ast.ImportFrom) and not node.level:
      for alias in node.names:
        found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
  return found


def _executed(body):
  """The nodes that run when statements do, not what functions hold."""
  for node in body:
    yield node
    if not isinstance(node, (*_DEFINES, *_SCOPES)):
      yield from _executed(ast.iter_child_nodes(node))


def _bindings(body):
  """List of (name, node): what statements define, assign, delete, import."""
  found = []
  for node in _executed(body):
    if isinstance(node, _DEFINES):
      found.append((node.name, node))
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
      found.append((node.id, node))
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
      found += [(alias.asname or alias.name.split(".")[0], node)
                for alias in node.names]
  return found


def _methods(node):
  if not isinstance(node, ast.ClassDef):
    return []
  return [child for child in node.body if isinstance(child, ast.FunctionDef)]


def _definition(node):
  """A statement as an entry of `definitions`; None if it defines nothing."""
  if isinstance(node, ast.FunctionDef):
    found = {"kind": "function", "name": node.name, "args": _arguments(node)}
    if node.decorator_list:
      found["decorators"] = list(map(ast.unparse, node.decorator_list))
    closure = _returned_function(node)
    if closure:
      found["returns_function"] = {
          "name": closure.name, "args": _arguments(closure)}
    return found
  if isinstance(node, ast.ClassDef):
    found = {
        "kind": "class", "name": node.name,
        "bases": [ast.unparse(base) for base in node.bases + node.keywords],
        "methods": [
            {"name": method.name, "args": _arguments(method),
             "decorators": [ast.unparse(x) for x in method.decorator_list]}
            for method in _methods(node)],
        "instance_attributes": _instance_attributes(node)}
    if node.decorator_list:
      found["decorators"] = list(map(ast.unparse, node.decorator_list))
    attributes = [name for name, child in _bindings(node.body)
                  if isinstance(child, ast.Name)]
    if attributes:
      found["class_attributes"] = attributes
    return found
  if (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and
      ast.unparse(node.value.func).split(".")[-1] == "namedtuple"):
    fields = ast.literal_eval(node.value.args[1])
    if isinstance(fields, str):
      fields = fields.replace(",", " ").split()
    return {"kind": "namedtuple", "name": ast.unparse(node.targets[0]),
            "fields": list(fields)}
  return None


def _arguments(function):
  """List of {"name"[, "default"]}, defaults as `repr` has them.

  The signs `/` and `*` are arguments, too.
  """
  args = function.args
  plain = [{"name": arg.arg} for arg in args.posonlyargs + args.args]
  for argument, default in zip(reversed(plain), reversed(args.defaults)):
    argument["default"] = _default(default)
  found = plain
  if args.posonlyargs:
    found.insert(len(args.posonlyargs), {"name": "/"})
  if args.vararg or args.kwonlyargs:
    found.append({"name": f"*{args.vararg.arg if args.vararg else ''}"})
  for arg, default in zip(args.kwonlyargs, args.kw_defaults):
    found.append({"name": arg.arg})
    if default is not None:
      found[-1]["default"] = _default(default)
  if args.kwarg:
    found.append({"name": f"**{args.kwarg.arg}"})
  return found


def _default(node):
  try:
    return repr(ast.literal_eval(node))
  except ValueError:
    return ast.unparse(node)


def _returned_function(node):
  """The inner function that a function returns by its name, or None."""
  inner = {child.name: child for child in node.body
           if isinstance(child, ast.FunctionDef)}
  for child in node.body:
    if isinstance(child, ast.Return) and isinstance(child.value, ast.Name):
      return inner.get(child.value.id)
  return None


def _instance_attributes(node):
  """The attributes that methods set, in the order of the source."""
  found = []
  for method in _methods(node):
    if not method.args.args or method.args.args[0].arg != "self":
      continue
    for child in ast.walk(method):
      if (isinstance(child, ast.Attribute) and
          isinstance(child.ctx, ast.Store) and
          isinstance(child.value, ast.Name) and child.value.id == "self"):
        found.append((child.lineno, child.col_offset, child.attr))
  return list(dict.fromkeys(name for _, _, name in sorted(found)))


class _FlagReader(object):
  """Follows the statements of a script that define flags.

  Attributes:
    altered: dict whose keys are the places (path, node) where a flag gets
      another value or default.
  """

  def __init__(self, project):
    self._project = project
    self.altered = {}
    self._flags = []
    self._required = []
    self._asked = {}  # (module, function) -> whether it defines flags.

  def flags(self, module):
    """The flags of a script run by itself.

    Returns:
      (flags, required): list of {"name", "type", "default"}, list of names.
    """
    self._follow(module, self._project.tree(module).body, {})
    return self._flags, self._required

  def _follow(self, module, body, known):
    """Goes through statements; `known` is the value of local names."""
    for node in body:
      if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        try:
          known[node.targets[0].id] = self._value(module, node.value, known)
        except ValueError:
          known.pop(node.targets[0].id, None)
      if isinstance(node, (ast.FunctionDef, ast.ClassDef)) or (
          not self._concerns_flags(module, node)):
        continue
      value = getattr(node, "value", None)
      if isinstance(value, ast.Call):
        self._call(module, value, known)
      elif isinstance(node, ast.If):
        is_true = _is_main(node.test) or self._value(module, node.test, known)
        self._follow(module, node.body if is_true else node.orelse, known)
      elif isinstance(node, ast.For):
        names = [ast.unparse(name) for name in getattr(
            node.target, "elts", [node.target])]
        for item in self._value(module, node.iter, known):
          items = item if len(names) > 1 else [item]
          self._follow(module, node.body, {**known, **dict(zip(names, items))})
      else:
        raise self._unknown(module, node)

  def _call(self, module, node, known):
    """A call that may define flags."""
    name = ast.unparse(node.func).split(".")[-1]
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    kind = _DEFINES_FLAG.fullmatch(name)
    if kind:
      values = dict(zip(("name", "default"), node.args), **keywords)
      self._flags.append({
          "name": self._value(module, values["name"], known),
          "type": _TYPES.get(kind[1], kind[1]),
          "default": self._value(module, values["default"], known)})
    elif _MARKS.fullmatch(name):
      names = self._value(module, [*node.args, *keywords.values()][0], known)
      self._required += [names] if isinstance(names, str) else names
    else:
      owner, function = self._callee(module, node.func)
      args = function.args
      given = dict(zip([arg.arg for arg in args.args], node.args), **keywords)
      defaults = [*zip(reversed(args.args), reversed(args.defaults)),
                  *zip(args.kwonlyargs, args.kw_defaults)]
      local = {}
      for name, value, where, names in (
          *((arg.arg, value, owner, {}) for arg, value in defaults if value),
          *((name, value, module, known) for name, value in given.items())):
        try:
          local[name] = self._value(where, value, names)
        except ValueError:
          local.pop(name, None)  # Not needed, or else missed by who needs it.
      self._follow(owner, function.body, local)

  def _callee(self, module, func):
    """(module, FunctionDef) of a function of the project, or None."""
    name = ast.unparse(func)
    head, _, tail = name.rpartition(".")
    target = _imports(self._project.tree(module)).get(head or name)
    if head:
      owner, name = target, tail
    elif target:
      owner, _, name = target.rpartition(".")
    else:
      owner = module
    tree = self._project.tree(owner) if owner else None
    for node in tree.body if tree else []:
      if isinstance(node, ast.FunctionDef) and node.name == name:
        return owner, node
    return None

  def _concerns_flags(self, module, node):
    """Whether a statement defines flags, itself or by what it calls."""
    for child in ast.walk(node):
      if _alters_flag(child):
        self.altered[_path(module), child] = True
      if not isinstance(child, ast.Call):
        continue
      name = ast.unparse(child.func).split(".")[-1]
      if _DEFINES_FLAG.fullmatch(name) or _MARKS.fullmatch(name):
        return True
      callee = self._callee(module, child.func)
      if callee:
        key = (callee[0], callee[1].name)
        if key not in self._asked:
          self._asked[key] = False  # While it is looked at: it may recurse.
          self._asked[key] = any(
              self._concerns_flags(callee[0], inner)
              for inner in callee[1].body
              if not isinstance(inner, ast.FunctionDef))
        if self._asked[key]:
          return True
    return False

  def _value(self, module, node, known):
    """What an expression of constants and known names is."""
    try:
      return ast.literal_eval(node)
    except ValueError:
      pass
    if isinstance(node, ast.Name):
      if node.id in known:
        return known[node.id]
      for child in self._project.tree(module).body:
        if (isinstance(child, ast.Assign) and
            node.id in map(ast.unparse, child.targets)):
          return self._value(module, child.value, {})
    elif isinstance(node, ast.Attribute):
      owner = _imports(self._project.tree(module)).get(ast.unparse(node.value))
      if owner and self._project.tree(owner):
        return self._value(owner, ast.Name(node.attr, lineno=node.lineno), {})
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
      return _OPERATORS[type(node.op)](
          self._value(module, node.left, known),
          self._value(module, node.right, known))
    elif isinstance(node, (ast.List, ast.Tuple)):
      return [self._value(module, item, known) for item in node.elts]
    raise self._unknown(module, node)

  def _unknown(self, module, node):
    return ValueError(
        f"{_path(module)}:{node.lineno}: what flags "
        f"`{ast.unparse(node)[:60]}` gives can't be told without "
        f"running it: define them by plain statements.")
