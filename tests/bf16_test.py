"""Tests of habana/bf16.py."""

import json
import os
import subprocess
import sys

import pytest

from habana import bf16
from tests import conftest


class SetConfigTest:

  @pytest.mark.parametrize("name", ["basic.json", "full.json"])
  def test_own_lists_fit(self, name, monkeypatch):
    monkeypatch.setenv("TF_BF16_CONVERSION", "")
    path = os.path.join(bf16.FOLDER, name)
    bf16.set_config(path)
    assert os.environ["TF_BF16_CONVERSION"] == path
    with open(path, encoding="utf-8") as reader:
      lists = json.load(reader)
    assert "MatMul" in lists["allowlist"]
    assert not {"Softmax", "Rsqrt", "ResourceApplyAdam"} & set(
        lists["allowlist"] + lists["conditional_list"])

  @pytest.mark.parametrize("content, message", [
      (None, "can't be read"), ("{", "can't be read"), ("[]", "no allowlist"),
      ('{"allowlist": []}', "no allowlist"),
      ('{"allowlist": ["MatMul"], "denylist": []}', "denylist has to be"),
      ('{"allowlist": "MatMul"}', "allowlist has to be a list")])
  def test_other_files_are_refused(self, content, message, tmp_path,
                                   monkeypatch):
    monkeypatch.delenv("TF_BF16_CONVERSION", raising=False)
    if content is not None:
      (tmp_path / "lists.json").write_text(content)
    with pytest.raises(ValueError, match=f"lists.json.*{message}"):
      bf16.set_config(str(tmp_path / "lists.json"))
    assert "TF_BF16_CONVERSION" not in os.environ

  def test_library_sees_the_lists_when_it_is_loaded(self, tmp_path):
    package = tmp_path / "habana_frameworks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tensorflow.py").write_text(
        "import os\ndef load_habana_module():\n"
        "  print('lists', os.environ['TF_BF16_CONVERSION'])\n")
    path = os.path.join(bf16.FOLDER, "basic.json")
    run = subprocess.run(
        [sys.executable, "-c",
         "from demo import horovod_helpers as h\n"
         f"h.start_ranks(False, False, bf16_config_path={path!r})"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{conftest.PROJECT}"},
        stdout=subprocess.PIPE, text=True, check=True)
    assert f"lists {path}" in run.stdout
