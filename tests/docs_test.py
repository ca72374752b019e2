"""README and docs/: their commands, links and table of features."""

import re

import pytest
import yaml

from tests import conftest

PROJECT = conftest.PROJECT
DOCUMENTS = sorted([PROJECT / "README.md", *PROJECT.glob("docs/*.md")])
# Of absl.
GENERAL = {"verbosity", "helpfull", "help"}


def commands(path):
  """(script or module, flags) of each command in a document's blocks."""
  text = path.read_text(encoding="utf-8")
  for block in re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M):
    for line in block.replace("\\\n", " ").splitlines():
      found = re.search(
          r"python (?:-m (demo\.\w+)|(\w+\.py))(.*)", line.split("#")[0])
      if found:
        yield found[1] or found[2], re.findall(r"--(\w+)", found[3])


def defined_flags(program):
  """Names in the source of a script or tool, its flags among them."""
  names = set(GENERAL)
  paths = [PROJECT / "demo" / "flag_helpers.py"]
  if program.endswith(".py"):
    paths.append(PROJECT / program)
    if program == "run_classifier_with_tfhub.py":
      paths.append(PROJECT / "run_classifier.py")
  else:
    paths.append(PROJECT / (program.replace(".", "/") + ".py"))
    if program in ("demo.train", "demo.launch"):  # The scripts' flags too.
      paths += PROJECT.glob("run_*.py")
  for path in paths:
    source = path.read_text(encoding="utf-8")
    names.update(re.findall(r"\"-{0,2}(\w+)\"", source))  # Flags among them.
  return names | {f"no{name}" for name in names}


class CommandsTest:

  @pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
  def test_programs_and_flags_exist(self, path):
    found = list(commands(path))
    assert found
    for program, names in found:
      assert (PROJECT / program).exists() or (
          PROJECT / (program.replace(".", "/") + ".py")).exists(), program
      unknown = set(names) - defined_flags(program)
      assert not unknown, (program, unknown)


class LinksTest:

  @pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
  def test_files_that_are_linked_exist(self, path):
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert all((path.parent / link).exists() for link in links), links


class FeaturesTest:

  def rows(self):
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| feature | here |"):text.index("## Beside up")]
    return dict(re.findall(r"^\| ([^|*]+?) \| (yes: .*?|-) \|", table, re.M))

  def test_all_but_tagging_are_here(self):
    assert [name for name, value in self.rows().items() if value == "-"] == [
        "tagging / NER"]

  def test_each_has_a_test(self):
    evidence = yaml.safe_load(
        (PROJECT / "tests" / "features.yaml").read_text(encoding="utf-8"))
    assert set(evidence) == set(self.rows()) - {"tagging / NER"}
    for name, test in evidence.items():
      path, *classes = test.split()
      source = (PROJECT / path).read_text(encoding="utf-8")
      for wanted in classes:
        assert f"class {wanted}:" in source, (name, test)
