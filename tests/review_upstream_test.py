"""Tests of demo/review_upstream.py and the files that it is made of."""

import ast
import functools
import html.parser
import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from demo import review_changes
from demo import review_differences
from demo import review_interface
from demo import review_report
from demo import review_upstream
from demo import review_variables
from tests import conftest

MODULES = review_interface.MODULES
FACTS = yaml.safe_load(
    (conftest.PROJECT / "demo" / "review_facts.yaml").read_text())
# Scripts of upstream's that are not written yet; with none left, which the
# tests see by themselves, the review of this tree has to end without failures.
MISSING = [name for name in MODULES
           if not (conftest.PROJECT / f"{name}.py").exists()]
MISSING_FILES = [f"{name}.py: the file is missing" for name in MISSING]


@pytest.fixture(scope="module")
def interface(shared):
  """The recorded interface, as the tool reads it."""
  return review_upstream.read_upstream(
      str(shared / "conformance" / "interface.json"))


@pytest.fixture
def tree(tmp_path):
  """A copy of this collection that a test may spoil."""
  folder = tmp_path / "tree"
  shutil.copytree(conftest.PROJECT, folder, ignore=shutil.ignore_patterns(
      ".git", ".venv", "build", "data", "__pycache__", ".*_cache",
      ".hypothesis", "habana"))
  return folder


def failures(folder, upstream):
  return review_upstream.review(str(folder), upstream, False)["failures"]


def edit(folder, name, old, new):
  text = (folder / name).read_text()
  assert text.count(old) >= 1, (name, old)
  (folder / name).write_text(text.replace(old, new, 1))


def statement(folder, name, definition):
  """(text of a file, text of a definition in it)."""
  text = (folder / name).read_text()
  (node,) = [node for node in ast.parse(text).body
             if getattr(node, "name", None) == definition]
  lines = text.splitlines(keepends=True)
  return text, "".join(lines[node.lineno - 1:node.end_lineno])


class OwnTreeTest:

  def test_nothing_fails(self, interface):
    assert failures(conftest.PROJECT, interface) == MISSING_FILES

  def test_oddities_that_are_kept_have_tests(self, interface):
    report = review_upstream.review(str(conftest.PROJECT), interface, False)
    (section,) = [section for section in report["sections"]
                  if section["title"] == "CHANGES.md"]
    kept = [row for row in section["rows"] if row["name"] == "Kept on purpose"]
    assert len(kept) > 20 and all(row["shown_by"] for row in kept)

  def test_differences_are_named(self, interface):
    report = review_upstream.review(str(conftest.PROJECT), interface, False)
    rows = {(section["title"], row["name"]): row
            for section in report["sections"] for row in section["rows"]}
    row = rows["run_squad.py", "get_final_text"]
    assert row["status"] == "changed"
    assert row["upstream"] == "get_final_text(pred_text, orig_text, "\
        "do_lower_case)"
    assert "verbose_logging=False" in row["here"]
    assert "s_final_text" in row["shown_by"]
    row = rows["run_classifier.py", "MnliProcessor.get_labels"]
    assert row["status"] == "equal" and "from TsvProcessor" in row["here"]
    assert rows["run_classifier.py", "--warmup_proportion"]["status"] == "equal"
    assert rows["run_squad.py", "--do_eval"]["status"] == "added"
    assert rows["run_squad.py", "eval_results.json"]["status"] == "added"
    row = rows["modeling.py", "gelu"]
    assert row["status"] == "differs" and "multiplied" in row["entry"]["Here"]


# What is done to a copy of this collection: file, what goes, what comes, and
# what the failures then say, each once.
SPOILT = {
    "entry removed": (
        "CHANGES.md", "### run_squad.get_final_text\n", "### tests\n",
        [r"run_squad.py: get_final_text: `verbose_logging`: added, False; "
         r"CHANGES.md has no ### run_squad.get_final_text",
         r"get_final_text: its docstring says that it differs",
         r"### tests: in this section a title is module.definition"]),
    "entry without a difference": (
        "CHANGES.md", "### modeling.gelu\n", "### modeling.get_activation\n",
        [r"get_activation: its docstring says \"unchanged\"",
         r"gelu: its docstring says that it differs"]),
    "claim of a source removed": (
        "modeling.py", "section 2; see CHANGES.", "section 2.",
        [r"gelu: its docstring has no \"Source:\""]),
    "entry of nothing": (
        "CHANGES.md", "### modeling.gelu\n", "### modeling.gelo\n",
        [r"### modeling.gelo: neither upstream nor this collection has it",
         r"gelu: its docstring says that it differs"]),
    "entry twice": (
        "CHANGES.md", "### modeling.dropout\n", "### modeling.gelu\n",
        [r"### modeling.gelu: stands there twice",
         r"dropout: its docstring says that it differs"]),
    "entry in another section": (
        "CHANGES.md", "## optimization.py\n", "## modeling.py\n",
        [rf"### optimization.{name}: belongs under ## optimization.py"
         for name in ("create_optimizer", "AdamWeightDecayOptimizer")] +
        [r"### optimization, added definitions: belongs under"]),
    "name without a difference": (
        "CHANGES.md", "- Names: `source`.", "- Names: `source`, `guid`.",
        [r"InputExample: Names has `guid`, in which nothing differs"]),
    "name left out": (
        "CHANGES.md", "- Names: `context`, `place`.", "- Names: `context`.",
        [r"SquadExample: Names lacks `place`"]),
    "added definition left out": (
        "CHANGES.md", "`init_squad_flags`, `Answer", "`Answer",
        [r"run_squad, added definitions: Names lacks `init_squad_flags`"]),
    "entry without a test": (
        "CHANGES.md", "- Test: tests/modeling_test.py GeluTest.\n", "",
        [r"### modeling.gelu: has no Test"]),
    "entry with a test that is not there": (
        "CHANGES.md", "tests/modeling_test.py GeluTest.",
        "tests/modeling_test.py GeluTest.test_x.",
        [r"### modeling.gelu: Test: tests/modeling_test.py GeluTest.test_x "
         r"does not exist"]),
    "unknown bullet": (
        "CHANGES.md", "- Effect: 6e-6", "- Note: 6e-6",
        [r"under ### modeling.gelu a bullet begins with one of"]),
    "kept without a test": (
        "CHANGES.md", "alone (o_adam).", "alone.",
        [r"Kept on purpose: line \d+: does not end with its tests"]),
    "kept with an unknown family": (
        "CHANGES.md", "alone (o_adam).", "alone (o_adams).",
        [r"Kept on purpose: line \d+: 'o_adams' is neither a test"]),
    "row of a flag that is not there": (
        "CHANGES.md", "| `write_offsets` | bool, False | run_squad |",
        "| `write_offsets` | bool, False | run_classifier, run_squad |",
        [r"--write_offsets: run_classifier.py has no such added flag"]),
    "row with another default": (
        "CHANGES.md", "| `write_offsets` | bool, False |",
        "| `write_offsets` | bool, True |",
        [r"run_squad.py: --write_offsets: CHANGES.md, line \d+: the table has "
         r"bool, True; it is bool, False"]),
    "row removed": (
        "CHANGES.md", "| `do_eval` |", "| `do_evil` |",
        [r"run_squad.py: --do_eval: .*no row with `do_eval` has run_squad",
         r"--do_evil: run_squad.py has no such added flag"]),
    "argument renamed": (
        "modeling.py", "def get_activation(activation_string)",
        "def get_activation(name)",
        [r"get_activation: `activation_string`: missing here; CHANGES.md has "
         r"no ### modeling.get_activation",
         r"get_activation: `name`: added; CHANGES.md has no"]),
    "default changed": (
        "modeling.py", "def create_initializer(initializer_range=0.02)",
        "def create_initializer(initializer_range=0.2)",
        [r"create_initializer: `initializer_range`: default 0.02 upstream, 0.2 "
         r"here"]),
    "argument before upstream's": (
        "modeling.py", "def layer_norm(input_tensor, name=None)",
        "def layer_norm(input_tensor, epsilon=1e-12, name=None)",
        [r"layer_norm: Names lacks `epsilon` \(added, 1e-12, before one of"]),
    "method removed": (
        "modeling.py", "def to_json_string(self)", "def _to_json_string(self)",
        [r"BertConfig: `to_json_string`: method missing; CHANGES.md has no"]),
    "attribute renamed": (
        "modeling.py", "self.hidden_act =", "self.activation =",
        [r"BertConfig: `hidden_act`: attribute missing",
         r"BertConfig: `activation`: attribute added"]),
    "inner function with other arguments": (
        "run_squad.py", "def input_fn(params)", "def input_fn(params, more)",
        [r"input_fn_builder: Names lacks `more` \(added\)"]),
    "namedtuple with another field": (
        "run_squad.py", '"unique_id", "start_logits", "end_logits"]',
        '"unique_id", "start_logits", "ends"]',
        [r"RawResult: `end_logits`: missing here",
         r"RawResult: `ends`: added"]),
    "public definition added": (
        "tokenization.py", "def convert_by_vocab(",
        "def extra():\n  pass\n\n\ndef convert_by_vocab(",
        [r"tokenization.py: extra: CHANGES.md has no ### tokenization, added "
         r"definitions"]),
    "flag with another default": (
        "run_squad.py", '"doc_stride", 128', '"doc_stride", 64',
        [r"### run_squad, flags: Names lacks `--doc_stride` \(default 128 "
         r"upstream, 64 here\)"]),
    "flag of another type": (
        "run_squad.py", 'DEFINE_integer(\n      "n_best_size", 20',
        'DEFINE_string(\n      "n_best_size", 20',
        [r"Names lacks `--n_best_size` \(type 'integer' upstream, 'string' "
         r"here\)"]),
    "flag added": (
        "run_squad.py", "flag_helpers.define_tpu_flags()",
        'flags.DEFINE_bool("extra", True, "")\n'
        "  flag_helpers.define_tpu_flags()",
        [r"run_squad.py: --extra: .*no row with `extra` has run_squad"]),
    "required flag forgotten": (
        "run_squad.py", '["bert_config_file", "output_dir"]',
        '["bert_config_file"]',
        [r"Names lacks `--output_dir` \(required True upstream, False here\)"]),
    "unknown file written": (
        "run_squad.py", '"predictions.json"', '"answers.json"',
        [r"run_squad.py: answers.json: this run_squad.py names this file, "
         r"demo/review_facts.yaml doesn't"]),
    "file written under a path, of another kind": (
        "run_squad.py", "FLAGS = flags.FLAGS",
        'FLAGS = flags.FLAGS\n_LOGS = ("out/%s/run.jsonl", "see a.log there")',
        [r"run_squad.py: run.jsonl: this run_squad.py names this file"]),
    "input that no script reads": (
        "demo/review_facts.yaml", "inputs: [", "inputs: [old.tsv, ",
        [r"review_facts.yaml: inputs: no script names old.tsv"]),
    "float flag with a whole default": (
        "run_squad.py", '"null_score_diff_threshold", 0.0',
        '"null_score_diff_threshold", 0', []),
    "keyword-only argument": (
        "modeling.py", "def layer_norm(input_tensor, name=None)",
        "def layer_norm(input_tensor, /, *, name=None)",
        [r"layer_norm: Names lacks `/` \(added, before one of upstream's\)",
         r"layer_norm: Names lacks `\*` \(added, before one of upstream's\)"]),
    "decorators": (
        "modeling.py", "def get_activation(",
        "@tf.function\ndef get_activation(",
        [r"get_activation: `tf.function`: decorator of one side only"]),
    "decorated class with a base and an attribute": (
        "modeling.py", "class BertConfig(object):\n",
        "@final\nclass BertConfig(tf.Module, metaclass=Meta):\n  size = 1\n",
        [r"BertConfig: `final`: decorator of one side only",
         r"BertConfig: `tf.Module`: base class added",
         r"BertConfig: `metaclass=Meta`: base class added",
         r"BertConfig: `size`: class attribute added",
         r"BertConfig: its docstring has no"]),
    "function returned": (
        "modeling.py", "def get_activation(activation_string):\n",
        "def get_activation(activation_string):\n  def inner():\n    pass\n"
        "  return inner\n",
        [r"get_activation: `inner`: returned here only",
         r"get_activation: its docstring has no"]),
    "constant added": (
        "tokenization.py", "_KEPT_TEXTS = ", "KEPT = _KEPT_TEXTS = ",
        [r"tokenization.py: KEPT: CHANGES.md has no ### tokenization, added"]),
    "definitions bound again or in a statement": (
        "modeling.py", "def get_activation(", """if True:
  def extra():
    pass
gelu = abs
del dropout
import dense
BertModel.__init__ = None
setattr(BertModel, "x", 1)
def gather():
  pass
def gather():
  pass


def get_activation(""",
        [r"modeling.py:\d+: `extra` is defined inside of another",
         *(rf"modeling.py:\d+: `{name}` is there already"
           for name in ("gelu", "dropout", "dense", "gather")),
         r"modeling.py:\d+: the top level changes `BertModel.__init__`",
         r"modeling.py:\d+: the top level changes `setattr\(BertModel",
         r"modeling, added definitions: Names lacks `gather`"]),
    "method defined again": (
        "modeling.py", "  def to_json_string(self)",
        "  to_dict = None\n\n  def to_json_string(self)",
        [r"modeling.py:\d+: `to_dict` is there already",
         r"BertConfig: `to_dict`: class attribute added"]),
    "default changed later": (
        "run_squad.py", "  flag_helpers.define_tpu_flags()",
        '  FLAGS.set_default("doc_stride", 64)\n'
        "  flag_helpers.define_tpu_flags()",
        [r"run_squad.py:\d+: changes a flag after its definition"]),
    "default changed by a helper": (
        "demo/flag_helpers.py", "def define_tpu_flags():\n",
        "def define_tpu_flags():\n  flags.FLAGS.num_tpu_cores = 9\n",
        [r"^demo/flag_helpers.py:\d+: changes a flag after its definition"]),
    "value set under __main__": (
        "run_squad.py", "  init_squad_flags()\n",
        "  init_squad_flags()\n  FLAGS.doc_stride = 64\n",
        [r"the top level changes `FLAGS.doc_stride`",
         r"run_squad.py:\d+: changes a flag after its definition"]),
    "row of flags with one cell": (
        "CHANGES.md", "| `write_offsets` | bool, False | run_squad |",
        "| `write_offsets`\n| run_squad |",
        [r"CHANGES.md: line \d+: a row of flags has the columns",
         r"--write_offsets: .*no row with `write_offsets` has run_squad"]),
    "section misspelt": (
        "CHANGES.md", "## Kept on purpose", "## Kept on purposes",
        [r"CHANGES.md: there is no ## Kept on purpose$"]),
    "evidence that names nothing": (
        "tests/alike.yaml", "  embedding_lookup: m_embedding_lookup",
        "  embedding_lookup:",
        [r"embedding_lookup: '' is neither a test"]),
    "evidence for an unknown module": (
        "tests/alike.yaml", "modeling:\n",
        "modelling: {gelu: m_gelu}\nmodeling:\n",
        [r"tests/alike.yaml: modelling: no such module"]),
    "evidence twice": (
        "tests/alike.yaml", "__init__, from_dict: m_config\n",
        "__init__, from_dict: m_config\n    from_dict: m_config\n",
        [r"tests/alike.yaml: modeling: BertConfig.from_dict stands there "
         r"twice"]),
    "evidence by a whole file": (
        "tests/alike.yaml", "tests/modeling_test.py DropoutTest",
        "tests/modeling_test.py",
        [r"dropout: tests/modeling_test.py: which class of it\?"]),
    "evidence by what is never run": (
        "tests/tokenization_test.py", "class WordpieceTokenizerTest:",
        '@pytest.mark.skip(reason="x")\nclass WordpieceTokenizerTest:',
        [rf"{name}: tests/tokenization_test.py WordpieceTokenizerTest does not "
         r"exist, or is never run" for name in (
             "WordpieceTokenizer.__init__", "WordpieceTokenizer.tokenize",
             r"Kept on purpose: line \d+")]),
    "evidence of nothing": (
        "tests/alike.yaml", "  gelu: m_gelu", "  gelo: m_gelu",
        [r"tests/alike.yaml: modeling: gelo: neither upstream nor"]),
    "evidence removed": (
        "tests/alike.yaml", "  get_activation: m_activation\n", "",
        [r"modeling.py: get_activation: nothing shows that it behaves alike"]),
    "method without evidence": (
        "tests/alike.yaml", "__init__, from_dict: m_config",
        "__init__: m_config",
        [r"BertConfig.from_dict: nothing shows that it behaves alike"]),
    "evidence by a test that is not there": (
        "tests/alike.yaml", "tests/modeling_test.py DropoutTest",
        "tests/modeling_test.py DropinTest",
        [r"dropout: tests/modeling_test.py DropinTest does not exist"]),
    "evidence by an unknown family": (
        "tests/alike.yaml", "  get_shape_list: m_shapes",
        "  get_shape_list: m_shape",
        [r"get_shape_list: 'm_shape' is neither a test"]),
    "family that is not replayed": (
        "tests/conformance_test.py", '"m_activation", ', "",
        [r"get_activation: 'm_activation' is neither a test"]),
}


class FindingsTest:

  @pytest.mark.parametrize("what", sorted(SPOILT))
  def test_each_is_found_and_nothing_else(self, what, tree, interface):
    name, old, new, expected = SPOILT[what]
    edit(tree, name, old, new)
    found = [failure for failure in failures(tree, interface)
             if failure not in MISSING_FILES]
    for pattern in expected:
      (failure,) = [x for x in found if re.search(pattern, x)] or [None]
      assert failure, (pattern, found)
      found.remove(failure)
    assert not found

  def test_shared_flag_is_found_in_each_script(self, tree, interface):
    edit(tree, "demo/flag_helpers.py", '"learning_rate", 5e-5',
         '"learning_rate", 5e-4')
    found = "\n".join(failures(tree, interface))
    for name in ("run_classifier", "run_squad"):
      assert (f"### {name}, flags: Names lacks `--learning_rate` (default "
              f"5e-05 upstream") in found

  @pytest.mark.parametrize("text, message", [
      ("gelu: [", r"tests/alike.yaml: .*line \d+"),
      ("  gelu: m_gelu\n  gelu: m_gelu\n", "'gelu' stands twice in"),
      ("x", "is missing or is no mapping"), ("modeling: x", "is no mapping")])
  def test_evidence_that_is_no_mapping(self, text, message, tree, interface):
    (tree / "tests" / "alike.yaml").write_text(text)
    assert re.search(message, "\n".join(failures(tree, interface)[:1] + [
        x for x in failures(tree, interface) if x.startswith("tests/alike")]))

  def test_other_order(self, tree, interface):
    text, moved = statement(tree, "run_squad.py", "_compute_softmax")
    rest = text.replace(moved, "")
    _, before = statement(tree, "run_squad.py", "create_model")
    (tree / "run_squad.py").write_text(
        rest.replace(before, moved + "\n\n" + before))
    (found,) = [failure for failure in failures(tree, interface)
                if failure not in MISSING_FILES]
    assert found == ("run_squad.py: _compute_softmax: stands in another place "
                     "than upstream")

  def test_definition_removed(self, tree, interface):
    text, removed = statement(tree, "run_squad.py", "_compute_softmax")
    (tree / "run_squad.py").write_text(text.replace(removed, ""))
    (found,) = [failure for failure in failures(tree, interface)
                if failure not in MISSING_FILES]
    assert found == (
        "run_squad.py: _compute_softmax: `_compute_softmax`: the definition is "
        "missing; CHANGES.md has no ### run_squad._compute_softmax")

  def test_file_removed(self, tree, interface):
    (tree / "optimization.py").unlink()
    assert [x for x in failures(tree, interface) if x not in MISSING_FILES] == [
        "optimization.py: the file is missing"]

  def test_flag_that_only_a_run_would_tell(self, tree, interface):
    edit(tree, "run_squad.py", '"doc_stride", 128', '"doc_stride", len("x")')
    with pytest.raises(ValueError, match=r"run_squad.py:\d+: what flags "
                                         r"`len\('x'\)` gives can't be told"):
      failures(tree, interface)


def source_of(name, module):
  """Source that has a recorded interface, in the ways that scripts are
  written."""
  lines = ["from __future__ import absolute_import", "import collections",
           "import os", "import tensorflow as tf"]
  lines += [f"import {sibling}" for sibling in
            module["imports_of_sibling_modules"]]
  lines += ["flags = tf.flags", "FLAGS = flags.FLAGS", "_SIZE = 2 * 4"]
  for number, flag in enumerate(module["flags"]):
    call = f"flags.DEFINE_{flag['type']}"
    default = repr(flag["default"])
    if default == "8":
      default = "_SIZE"
    lines += [
        [f'{call}("{flag["name"]}", {default}, "some " "words")'],
        [f'tf.{call}(\n    "{flag["name"]}",\n    {default},\n    "words")'],
        [f'{call}(name="{flag["name"]}", help="words", default={default})'],
    ][number % 3]

  def arguments(definition):
    return ", ".join(
        x["name"] + (f"={x['default']}" if "default" in x else "")
        for x in definition["args"])

  for definition in module["definitions"]:
    lines.append("")
    if definition["kind"] == "namedtuple":
      lines.append(f"{definition['name']} = collections.namedtuple(  # pylint\n"
                   f"    \"{definition['name']}\", {definition['fields']})")
    elif definition["kind"] == "class":
      lines.append(f"class {definition['name']}"
                   f"({', '.join(definition['bases'])}):")
      lines.append('  """Words."""')
      attributes = definition["instance_attributes"]
      for method in definition["methods"]:
        lines += [f"  @{decorator}" for decorator in method["decorators"]]
        lines.append(f"  def {method['name']}({arguments(method)}):")
        if attributes:
          first, *rest = attributes
          lines.append("    with tf.variable_scope('x'):")
          lines.append("      with tf.variable_scope('y'):")
          lines.append(f"        self.{first} = lambda x, y=1: x")
          if len(rest) > 1:
            lines.append(f"        (self.{rest[0]}, self.{rest[1]}) = 1, 2")
          lines += [f"    self.{attribute} = 1" for attribute in rest[2:]]
          lines += [f"    self.{attribute} += 1" for attribute in rest[:1]]
          attributes = []
        lines.append("    return None")
    else:
      lines.append(f"def {definition['name']}({arguments(definition)}):")
      lines.append('  """Words."""')
      closure = definition.get("returns_function")
      if closure:
        lines.append(f"  def {closure['name']}({arguments(closure)}):")
        lines.append("    def inner(x):\n      return x\n    return inner")
        lines.append(f"  return {closure['name']}")
      else:
        lines.append("  helper = lambda x: x\n  def unused():\n    pass")
  for output, fact in FACTS["outputs"].get(name, {}).items():
    if not fact.get("added") and not fact.get("named_by"):
      lines.append(f'_F = lambda: os.path.join(FLAGS.output_dir, "{output}")')
  if module["is_script"]:
    lines.append('if __name__ == "__main__":')
    lines += [f'  flags.mark_flag_as_required("{flag}")'
              for flag in module["required_when_run_as_script"]]
    lines.append("  tf.app.run()")
  return "\n".join(lines) + "\n"


def git(folder, *command):
  subprocess.run(
      ["git", "-c", "user.name=x", "-c", "user.email=x@y", *command],
      cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def checkout(interface, tmp_path_factory):
  """A git folder with such sources and upstream's other files, its second
  commit empty."""
  folder = tmp_path_factory.mktemp("checkout")
  for name, module in interface.modules.items():
    (folder / f"{name}.py").write_text(source_of(name, module))
  for name in FACTS["files"]:
    (folder / name).write_text("")
  git(folder, "init", "-q")
  git(folder, "add", "-A")
  git(folder, "commit", "-qm", "one")
  git(folder, "tag", "wanted")
  git(folder, "rm", "-qr", ".")
  git(folder, "commit", "-qm", "two")
  return folder


@pytest.fixture(scope="module")
def plain(checkout, tmp_path_factory):
  """The same as a folder of plain files."""
  folder = tmp_path_factory.mktemp("plain")
  archive = subprocess.run(["git", "archive", "wanted"], cwd=checkout,
                           check=True, capture_output=True).stdout
  subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
  return folder


class ReadUpstreamTest:

  def test_a_commit_that_is_not_checked_out(self, checkout, interface):
    assert not (checkout / "modeling.py").exists()
    found = review_upstream.read_upstream(str(checkout), "wanted")
    assert found.modules == interface.modules
    assert set(found.files) == {f"{name}.py" for name in MODULES} | set(
        FACTS["files"])

  def test_bare_repository_and_plain_files(
      self, checkout, plain, interface, tmp_path):
    git(tmp_path, "clone", "-q", "--bare", str(checkout), "bare.git")
    for path in (tmp_path / "bare.git", plain):
      found = review_upstream.read_upstream(str(path), "wanted")
      assert found.modules == interface.modules
      assert found.file_names["run_squad"] == [
          "eval.tf_record", "nbest_predictions.json", "null_odds.json",
          "predictions.json", "train.tf_record"]

  def test_checkout_and_interface_give_one_review(self, plain, interface):
    sections = {}
    for upstream in (review_upstream.read_upstream(str(plain)), interface):
      report = review_upstream.review(str(conftest.PROJECT), upstream, False)
      assert [x for x in report["failures"] if x not in MISSING_FILES] == []
      sections[upstream is interface] = report["sections"]
    (others,) = [section for section in sections[False]
                 if section not in sections[True]]
    status = {row["name"]: row["status"] for row in others["rows"]}
    assert status["modeling.py"] == "ported"
    assert status["modeling_test.py"] == "replaced"
    assert status["CONTRIBUTING.md"] == "left out"

  def test_unknown_files_and_names_fail(self, plain, tmp_path):
    folder = tmp_path / "upstream"
    shutil.copytree(plain, folder)
    (folder / "new.py").write_text("")
    (folder / "sample_text.txt").unlink()
    with open(folder / "run_squad.py", "a", encoding="utf-8") as writer:
      writer.write('_F = os.path.join(FLAGS.output_dir, "more.json")\n')
    found = [x for x in failures(conftest.PROJECT,
                                 review_upstream.read_upstream(str(folder)))
             if x not in MISSING_FILES]
    assert len(found) == 3
    assert found[0].endswith("files: upstream has no sample_text.txt")
    assert found[1].startswith("run_squad.py: more.json: upstream's run_squad")
    assert found[2].startswith("Files of upstream: new.py: the commit has no")

  def test_flags_may_come_from_what_a_script_imports(self, interface):
    review = review_upstream._Review(str(conftest.PROJECT), interface)
    flags = review._effective_flags("run_classifier_with_tfhub")
    assert len(flags) == 26
    assert flags["task_name"]["required"]
    assert not flags["vocab_file"]["required"]

  @pytest.mark.parametrize("make, message", [
      (lambda folder: folder / "none", "does not exist"),
      (lambda folder: folder, "holds none of upstream's scripts"),
      (lambda folder: folder / "x.json", "is not a recorded interface.json")])
  def test_what_is_no_upstream_is_refused(self, make, message, tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match=message):
      review_upstream.read_upstream(str(make(tmp_path)))

  def test_missing_commit_is_refused_with_the_way_out(self, checkout):
    with pytest.raises(ValueError, match=r"has no commit cc7051dc.*--commit"):
      review_upstream.read_upstream(str(checkout))


class FlagReaderTest:

  def read(self, **files):
    project = review_interface.Project(
        lambda path: files.get(path[:-len(".py")].replace("/", "_")))
    return project.interface("run_squad")

  def test_functions_of_other_files_with_arguments(self):
    found = self.read(
        demo_shared='from absl import flags\nMOST = 5\n'
                    'def define(kind, most=MOST, *, prefix="a"):\n'
                    '  """Words."""\n'
                    '  for name, default in (("x", 1), ("y", most)):\n'
                    '    flags.DEFINE_integer(prefix + name, default, "w")\n'
                    '  if kind == "long":\n    pass\n'
                    'def unused():\n  flags.DEFINE_bool("z", True, "w")\n'
                    'def run(main, required):\n'
                    '  flags.mark_flags_as_required(required)\n  main()\n',
        run_squad='from demo import shared\nfrom demo.shared import run\n'
                  'def init():\n  names = ["ax"]\n'
                  '  shared.define("short")\n  shared.define(1, 2, prefix="b")\n'
                  '  return names\n'
                  'if __name__ == "__main__":\n  init()\n'
                  '  run(print, ["ax", "by"])\n')
    assert [(x["name"], x["default"], x["required"]) for x in found["flags"]
            ][:2] == [("ax", 1, True), ("ay", 5, False)]
    assert found["required_when_run_as_script"] == ["ax", "by"]

  @pytest.mark.parametrize("statement", [
      'if os.environ["X"]:\n  flags.DEFINE_bool("x", True, "w")',
      'while 1:\n  flags.DEFINE_bool("x", True, "w")',
      'flags.DEFINE_bool(os.name, True, "w")'])
  def test_what_only_a_run_would_tell_is_refused(self, statement):
    with pytest.raises(ValueError, match="run_squad.py:2: what flags"):
      self.read(run_squad="import os\n" + statement)


class DifferencesTest:

  @pytest.mark.parametrize("order, moved", [
      ("abcd", ""), ("acbd", 1), ("bcda", "a"), ("dabc", "d")])
  def test_smallest_set_that_moved(self, order, moved):
    found = review_differences.out_of_order(list("abcd"), list(order))
    assert found == set(moved) if isinstance(moved, str) else (
        len(found) == moved)


class TestsTest:

  def test_names_of_tests(self):
    tests = review_changes.Tests(review_interface.Project(
        {"tests/a_test.py": "class ATest:\n  def test_x(self):\n    pass\n"
                            "  def helper(self):\n    pass\n"
                            "class Empty:\n  pass\n",
         "tests/conformance_test.py": "FAMILIES = {'g': ['f_one']}\n"}.get))
    for text in ("f_one", "tests/a_test.py", "tests/a_test.py ATest.",
                 "f_one, tests/a_test.py ATest.test_x, ATest; f_one"):
      assert not tests.problems(text)
    assert tests.problems("tests/a_test.py", whole_files=False)
    for text in ("f_two", "ATest", "tests/b_test.py", "tests/a_test.py BTest",
                 "tests/a_test.py ATest.test_y", "tests/a_test.py Empty",
                 "tests/a_test.py ATest.helper",
                 "", "f_one,, f_one", "tests/a_test.py and more"):
      assert len(tests.problems(text)) == 1, text


  @pytest.mark.parametrize("text, runs", [
      ("class ATest:\n  MARK\n  def test_x(self):\n    pass\n", False),
      ("MARK\nclass ATest:\n  def test_x(self):\n    pass\n", False),
      ("pytestmark = [pytest.mark.slow, pytest.mark.skip]\n"
       "class ATest:\n  def test_x(self):\n    pass\n", False),
      ("class ATest:\n  @pytest.mark.skipif(no_gcc)\n  def test_x(self):\n"
       "    pass\n", True)])
  def test_skipped_ones_show_nothing(self, text, runs):
    for mark in ("@pytest.mark.skip", "@pytest.mark.skipif(True, reason='')"):
      tests = review_changes.Tests(review_interface.Project(
          {"tests/a_test.py": text.replace("MARK", mark)}.get))
      assert bool(tests.problems("tests/a_test.py ATest")) != runs
      assert bool(tests.problems("tests/a_test.py ATest.test_x")) != runs
      assert bool(tests.problems("tests/a_test.py")) != runs


class VariablesTest:

  @pytest.mark.parametrize("head", sorted(FACTS["variables"]["heads"]))
  def test_table_is_what_was_recorded(self, head, shared):
    facts = FACTS["variables"]
    recorded = review_variables.recorded(json.loads(
        (shared / "conformance" / "checkpoint_variables.json").read_text())[
            head])
    assert len(recorded["trainable"]) > 200
    assert recorded == review_variables.expected(facts, head, facts["base"])

  graph = staticmethod(functools.lru_cache(review_variables.of_graph))

  @pytest.mark.parametrize("head", sorted(FACTS["variables"]["heads"]))
  def test_graph_has_those_of_the_table(self, head, monkeypatch):
    if FACTS["variables"]["heads"][head]["module"] in MISSING:
      pytest.skip("not written yet")
    monkeypatch.setattr(review_variables, "of_graph", self.graph)
    assert not review_variables.compare(FACTS["variables"], head)

  def test_each_difference_is_said(self, interface, monkeypatch):
    monkeypatch.setattr(review_variables, "of_graph", self.graph)
    facts = json.loads(json.dumps(FACTS))["variables"]
    facts["encoder"]["bert/pooler/dense/kernel"] = ["W", "I"]
    facts["heads"]["classifier"]["variables"]["more"] = ["W"]
    found = review_variables.compare(facts, "classifier")
    for text in ("trainable bert/pooler/dense/kernel: [8, 5] upstream, [8, 8] "
                 "here", "trainable more: [8] upstream, missing here",
                 "optimizer_slots more/adam_v: [8] upstream, missing here"):
      assert text in found
    assert len(found) == 6

    # And in the report.
    monkeypatch.setattr(review_variables, "compare", lambda facts, head: found)
    review = review_upstream._Review(str(conftest.PROJECT), interface)
    review._variables()
    rows = {row["name"]: row for row in review._sections[0]["rows"]}
    assert len(rows["bert/pooler/dense/kernel"]["failures"]) == 3
    assert len(rows["global_step"]["failures"]) == 3  # Of no known variable.


class CommandTest:

  def test_needs_no_tensorflow(self, shared):
    """And says by its status whether something fails."""
    code = ("import sys; sys.modules['tensorflow'] = None; "
            "from demo import review_upstream; "
            "sys.exit(review_upstream.main())")
    run = subprocess.run(
        [sys.executable, "-c", code, "--novariables",
         str(shared / "conformance" / "interface.json")],
        cwd=conftest.PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode == (1 if MISSING else 0), run.stderr
    assert f"different; {len(MISSING)} failures." in run.stdout

  def test_reader_that_stops_is_no_error(self, shared):
    run = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -m demo.review_upstream "$1" '
         "--novariables | true; exit ${PIPESTATUS[0]}", sys.executable,
         str(shared / "conformance" / "interface.json")],
        cwd=conftest.PROJECT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1 if MISSING else 0, "")

  def test_failures_give_status_1(self, tree, shared, monkeypatch, capsys):
    monkeypatch.setattr(review_upstream, "PROJECT_FOLDER", str(tree))
    edit(tree, "modeling.py", "def gelu(x)", "def gelu(y)")
    assert review_upstream.main([
        "--novariables", str(shared / "conformance" / "interface.json")]) == 1
    assert "FAILS  CHANGES.md: ### modeling.gelu: Names lacks `y` (added)" in (
        capsys.readouterr().out)

  @pytest.mark.parametrize("form", sorted(review_report.FORMATS))
  def test_report_goes_to_a_file(self, form, shared, tmp_path, capsys):
    path = tmp_path / "report"
    path.write_text("earlier")
    status = review_upstream.main([
        str(shared / "conformance" / "interface.json"), "--novariables",
        "--format", form, "--output", str(path)])
    assert status == (1 if MISSING else 0)
    assert "lines compared" in capsys.readouterr().out
    assert "AdamWeightDecayOptimizer" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]

  def test_one_line_for_what_the_user_can_cause(self, tmp_path, capsys):
    assert review_upstream.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(
        f"review_upstream: error: {tmp_path}/none does not exist")


@pytest.fixture
def report():
  """A small report with all kinds of rows, and signs that need care."""
  def row(name, status, **values):
    return {"kind": "definition", "name": name, "status": status,
            "upstream": "f(a)", "here": "f(a)", "shown_by": "x_y",
            "failures": [], "entry": None, **values}

  rows = [
      row("same", "equal"),
      row("more", "changed", here="f(a, b='<|>')", entry={
          "title": "m.more", "Upstream": "reads `FLAGS`.",
          "Here": "an argument <b>."}),
      row("new", "added", upstream=""),
      row("wrong", "equal", failures=["nothing shows `it` & more"])]
  return {"upstream": "bert", "failures": ["m.py: wrong: nothing shows it"],
          "sections": [{"title": "m.py", "note": "4 definitions",
                        "rows": rows}]}


class ReportTest:

  def test_page_stands_alone_and_shows_failures_first(self, report):
    page = review_report.page(report)
    found = []
    reader = html.parser.HTMLParser()
    reader.handle_starttag = lambda tag, attributes: found.append(
        (tag, dict(attributes)))
    reader.feed(page)
    assert not any({"src", "href"} & set(attributes)
                   for _, attributes in found)
    assert "url(" not in page and "@import" not in page
    assert page.index("1 failures") < page.index("<article")
    assert re.findall(r"<h3>(\w+)", page) == ["wrong", "more", "new", "same"]
    assert "<mark>b=&#x27;&lt;|&gt;&#x27;</mark>" in page
    assert "<b>." not in page
    assert "reads <code>FLAGS</code>" in page
    assert [x["data-status"] for tag, x in found if tag == "article"] == [
        "fails", "changed", "added", "equal"]

  def test_markdown_has_a_row_for_each(self, report):
    lines = review_report.markdown(report).splitlines()
    assert lines[4] == "- **fails** m.py: wrong: nothing shows it"
    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)

  def test_terminal_shows_sides_where_they_differ(self, report):
    text = review_report.terminal(report)
    assert "f(a) -> f(a, b='<|>')" in text
    assert re.search(r"^  same +equal +x_y$", text, re.M)
    assert "FAILS: nothing shows `it` & more" in text
    assert text.endswith("bert: 4 lines compared, 2 equal, 2 different; "
                         "1 failures.")

  def test_json_is_the_report(self, report):
    assert json.loads(review_report.as_json(report)) == report
