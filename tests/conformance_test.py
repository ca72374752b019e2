"""Replays the cases recorded from upstream, family by family."""

import json
import subprocess
import sys

import pytest

from tests import conftest

pytestmark = pytest.mark.slow

# The families of recorded cases, by the file whose definitions they call. A
# group without its file is left out; `tests/alike.yaml` names the families.
FAMILIES = {
    "tokenization": [
        "tok_strings", "tok_chars", "tok_convert", "tok_vocab", "tok_wordpiece",
        "tok_lookup", "tok_validate"],
    "modeling": [
        "m_gelu", "m_activation", "m_config", "m_attention_mask",
        "m_embedding_lookup", "m_embedding_post", "m_layer_norm",
        "m_layer_norm_names", "m_attention_layer", "m_transformer", "m_bert",
        "m_bert_grads", "m_shapes", "m_errors", "m_init", "m_initializer",
        "m_dropout", "m_train_dropout", "m_assignment", "m_ckpt_roundtrip"],
    "optimization": [
        "o_lr", "o_small", "o_adam", "o_decay_rule", "o_bert"],
    "run_classifier": [
        "c_processors", "c_read_tsv", "c_features", "c_records", "c_truncate",
        "c_input_fn", "c_create_model", "c_train_dropout", "c_model_fn",
        "c_init", "c_e2e_eval", "c_e2e_train", "c_e2e_errors",
        "ckpt_variables_classifier"],
    "run_squad": [
        "s_read", "s_features", "s_records", "s_input_fn", "s_improve",
        "s_max_context", "s_create_model", "s_model_fn", "s_init",
        "s_write_predictions", "s_final_text", "s_best_indexes", "s_softmax",
        "s_validate_flags", "s_repr", "s_e2e_predict", "s_e2e_train",
        "ckpt_variables_squad"],
    "create_pretraining_data": [
        "p_instances", "p_document", "p_masked", "p_truncate", "p_e2e"],
    "run_pretraining": [
        "r_heads", "r_model_fn", "r_init", "r_input_fn", "r_e2e_eval",
        "r_e2e_train", "ckpt_variables_pretraining"],
    "extract_features": [
        "x_read", "x_features", "x_e2e"],
}


def replayed(shared, folder, group):
  """Runs a group's cases; returns family -> its line of the report, and what
  was printed."""
  report = folder / "report.json"
  run = subprocess.run(
      [sys.executable, str(shared / "conformance" / "check_port.py"),
       str(conftest.PROJECT), "--groups", group, "--json", str(report),
       "--optimizer-form", "rsqrt"],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      check=False, timeout=900)
  found = {family["family"]: family for family in json.loads(
      report.read_text())}
  assert run.returncode == 0, run.stdout
  return found, run.stdout


def is_here(module):
  """Whether the collection has a file of upstream's."""
  return (conftest.PROJECT / f"{module}.py").exists()


class ConformanceTest:

  @pytest.mark.parametrize("group", sorted(FAMILIES))
  def test_every_recorded_case_passes(self, group, shared, tmp_path):
    if not is_here(group):
      pytest.skip(f"no {group}.py")
    found, output = replayed(shared, tmp_path, group)
    for family in FAMILIES[group]:
      assert found[family]["cases"], output
      assert found[family]["passed"] == found[family]["cases"], output

  def test_interface(self, shared, tmp_path):
    found, output = replayed(shared, tmp_path, "interface")
    for module in json.loads(
        (shared / "conformance" / "interface.json").read_text())["modules"]:
      family = found[f"interface:{module}"]
      assert family["passed"] == family["cases"], output
      # Without tensorflow_hub the script of that name can't be imported.
      assert family["cases"] or not is_here(module) or (
          family["status"] == "skipped"), output

  def test_no_family_is_forgotten(self, shared):
    recorded = json.loads(
        (shared / "conformance" / "families.json").read_text())
    assert {family["family"] for family in recorded} == {
        family for families in FAMILIES.values() for family in families}
