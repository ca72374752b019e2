"""Tests of demo/result_helpers.py."""

import types

import numpy as np
import pytest

from demo import result_helpers
import run_classifier
from tests import conftest


class WriteSubmissionTest:

  @pytest.mark.parametrize("task, rows, labels, name, lines", [
      ("stsb", [[-0.2], [2.71828], [7.0]], [], "STS-B.tsv",
       ["0.000", "2.718", "5.000"]),
      ("mnli_mismatched", [[.1, .7, .2], [.5, .1, .4]],
       ["contradiction", "entailment", "neutral"], "MNLI-mm.tsv",
       ["entailment", "contradiction"]),
      ("custom", [[-0.25]], [], "submission.tsv", ["-0.25"])])
  def test_form(self, task, rows, labels, name, lines, tmp_path):
    result_helpers.write_submission(
        types.SimpleNamespace(output_dir=str(tmp_path)), task,
        np.array(rows), labels)
    (path,) = tmp_path.iterdir()
    assert path.name == name
    assert path.read_text().splitlines() == ["index\tprediction"] + [
        f"{i}\t{line}" for i, line in enumerate(lines)]


class CheckFlagsTest:

  @pytest.mark.parametrize("argv, message", [
      (["--do_eval"], "--write_submission writes predictions: pass --do_pred"),
      (["--do_predict"], "GLUE has no task XNLI")])
  def test_submission_that_can_not_be(self, argv, message):
    with conftest.parsed(
        run_classifier.init_classifier_flags, "--task_name=XNLI",
        "--data_dir=d", "--write_submission", *argv) as args:
      with pytest.raises(ValueError, match=message):
        run_classifier._check_flags(args, "xnli")
