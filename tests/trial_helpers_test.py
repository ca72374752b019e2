"""Tests of demo/trial_helpers.py, and of its flags in the scripts."""

import types

import pytest

from demo import trial_helpers
from tests import conftest


class CheckFlagsTest:

  @pytest.mark.parametrize("flags, message", [
      (dict(validate_only=True, compile_only=True), "pass one of them"),
      (dict(validate_only=True, use_tpu=True), "leave --use_tpu out")])
  def test_what_can_not_work_is_refused(self, flags, message):
    args = types.SimpleNamespace(**{
        **dict(validate_only=False, compile_only=False, use_tpu=False),
        **flags})
    with pytest.raises(ValueError, match=message):
      trial_helpers.check_flags(args)


@pytest.mark.slow
class TryOutTest:

  def test_classifier_compiles_and_leaves_nothing(
      self, tiny_model, sst2_dir, tmp_path):
    run = conftest.run_script(
        "run_classifier.py", "--task_name=SST-2", f"--data_dir={sst2_dir}",
        "--do_train", "--do_eval", "--do_predict", "--compile_only",
        f"--output_dir={tmp_path}", *tiny_model.flags())
    assert run.returncode == 0, run.stdout
    for mode, size in (("train", 32), ("eval", 8), ("infer", 8)):
      assert f"{mode}: the graph is built, batch size {size}" in run.stdout
      assert f"{mode}: one step with compilation took" in run.stdout
    assert "fresh: output_bias, output_weights" in run.stdout
    assert "--compile_only: the run can be made" in run.stdout
    assert not list(tmp_path.iterdir())

  def test_squad_is_validated_and_leaves_nothing(
      self, tiny_model, tmp_path, tmp_path_factory):
    data = conftest.squad_articles(20, 1)
    path = tmp_path_factory.mktemp("data") / "train.json"
    path.write_text(conftest.json.dumps(data))
    run = conftest.run_script(
        "run_squad.py", "--do_train", f"--train_file={path}",
        "--do_predict", f"--predict_file={path}", "--validate_only",
        "--max_query_length=8", "--doc_stride=8", f"--output_dir={tmp_path}",
        *tiny_model.flags())
    assert run.returncode == 0, run.stdout
    assert "train: the graph is built" in run.stdout
    assert "infer: the graph is built" in run.stdout
    assert "one step" not in run.stdout
    assert not list(tmp_path.iterdir())

  def test_what_can_not_run_ends_with_status_1(
      self, tiny_model, sst2_dir, tmp_path):
    run = conftest.run_script(
        "run_classifier.py", "--task_name=SST-2", f"--data_dir={sst2_dir}",
        "--do_train", "--validate_only", f"--output_dir={tmp_path}",
        *tiny_model.flags(max_seq_length=65))
    assert run.returncode == 1 and "Traceback" not in run.stdout
    assert "this model takes 3 to 64 tokens" in run.stdout
