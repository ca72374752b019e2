"""Replays the cases recorded from upstream, family by family."""

import json
import subprocess
import sys

import pytest

from tests import conftest

pytestmark = pytest.mark.slow

# Group of families -> the module whose presence turns it on.
GROUPS = ["interface", "tokenization", "modeling", "optimization",
          "run_classifier", "run_squad", "extract_features"]


class ConformanceTest:

  @pytest.mark.parametrize("group", GROUPS)
  def test_every_recorded_case_passes(self, group, shared, tmp_path):
    report = tmp_path / "report.json"
    run = subprocess.run(
        [sys.executable, str(shared / "conformance" / "check_port.py"),
         str(conftest.PROJECT), "--groups", group, "--json", str(report),
         "--optimizer-form", "rsqrt"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=900)
    families = [family for family in json.loads(report.read_text())
                if family.get("status") != "missing"]
    assert families and all(f["cases"] for f in families), run.stdout
    assert all(f["passed"] == f["cases"] for f in families), run.stdout
    assert run.returncode == 0, run.stdout
