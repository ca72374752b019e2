"""The house: what upstream defines is there in its order, who imports whom,
and no name of TensorFlow 1 is left."""

import ast
import json
import re

import pytest

from tests import conftest

PROJECT = conftest.PROJECT
SCRIPTS_MAY_IMPORT = {
    "tokenization", "modeling", "optimization", "demo.metrics", "habana"} | {
        f"demo.{path.stem}" for path in PROJECT.glob("demo/*_helpers.py")}
# File or folder -> what it may import of this project.
MAY_IMPORT = {
    "tokenization.py": set(),
    "modeling.py": set(),
    "optimization.py": {
        "demo.gradient_helpers", "demo.horovod_helpers", "demo.layer_helpers",
        "demo.option_helpers"},
    "run_classifier.py": SCRIPTS_MAY_IMPORT,
    "run_classifier_with_tfhub.py": SCRIPTS_MAY_IMPORT | {
        "demo.hub_helpers", "run_classifier"},
    "run_squad.py": SCRIPTS_MAY_IMPORT,
    "run_pretraining.py": SCRIPTS_MAY_IMPORT,
    "extract_features.py": SCRIPTS_MAY_IMPORT,
    "create_pretraining_data.py": {
        "tokenization", "demo.flag_helpers", "demo.horovod_helpers",
        "demo.record_helpers", "demo.script_helpers", "demo.start_helpers",
        "demo.worker_helpers"},
    "demo/start_helpers.py": set(),
    "demo/perf_helpers.py": set(),
    "demo/option_helpers.py": set(),
    "demo/padding_helpers.py": set(),
    "demo/xla_helpers.py": set(),
    "demo/layer_helpers.py": set(),
    "demo/gradient_helpers.py": {"demo.layer_helpers", "modeling"},
    "demo/flag_helpers.py": {"demo.option_helpers", "demo.perf_helpers"},
    "demo/horovod_helpers.py": {"habana", "demo.perf_helpers"},
    "demo/script_helpers.py": {
        "demo.checkpoint_helpers", "demo.horovod_helpers"},
    "demo/record_helpers.py": {
        "demo.horovod_helpers", "demo.padding_helpers", "demo.script_helpers"},
    "demo/table_helpers.py": {"demo.script_helpers"},
    "demo/tfds_helpers.py": {"demo.table_helpers"},
    "demo/finetuning_helpers.py": {
        "demo.horovod_helpers", "demo.padding_helpers",
        "demo.prediction_helpers", "demo.record_helpers"},
    "demo/label_helpers.py": {
        "demo.finetuning_helpers", "demo.horovod_helpers",
        "demo.script_helpers"},
    "demo/processor_helpers.py": {
        "demo.label_helpers", "demo.table_helpers", "demo.tfds_helpers"},
    "demo/task_helpers.py": {
        "demo.finetuning_helpers", "demo.processor_helpers"},
    "demo/result_helpers.py": {
        "demo.finetuning_helpers", "demo.script_helpers",
        "demo.table_helpers"},
    "demo/window_helpers.py": set(),
    "demo/worker_helpers.py": set(),
    "demo/checkpoint_helpers.py": {
        "demo.gradient_helpers", "demo.horovod_helpers", "demo.layer_helpers"},
    "demo/estimator_helpers.py": {
        "demo.checkpoint_helpers", "demo.gradient_helpers",
        "demo.horovod_helpers", "demo.padding_helpers", "demo.perf_helpers",
        "demo.record_helpers", "demo.script_helpers", "demo.xla_helpers"},
    "demo/prediction_helpers.py": {
        "demo.checkpoint_helpers", "demo.estimator_helpers",
        "demo.horovod_helpers", "demo.record_helpers", "demo.script_helpers"},
    "demo/evaluation_helpers.py": {
        "demo.checkpoint_helpers", "demo.curve_helpers",
        "demo.horovod_helpers", "demo.prediction_helpers",
        "demo.record_helpers", "demo.script_helpers"},
    "demo/export_helpers.py": {
        "demo.checkpoint_helpers", "demo.horovod_helpers",
        "demo.script_helpers", "demo.text_op_helpers", "demo.window_helpers"},
    "demo/text_op_helpers.py": {"tokenization"},
    "demo/runner_helpers.py": {"demo.export_helpers"},
    "demo/compile_graph.py": set(),
    "demo/compile_reader.py": {"demo.export_helpers"},
    "demo/compile_onnx.py": {
        "demo.export_helpers", "demo.horovod_helpers", "demo.runner_helpers",
        "demo.script_helpers"},
    "demo/compile_check.py": {"demo.predictor", "demo.runner_helpers"},
    "demo/compile_model.py": {
        "demo.compile_check", "demo.compile_graph", "demo.compile_onnx",
        "demo.compile_reader", "demo.export_helpers", "demo.start_helpers",
        "demo.script_helpers", "demo.text_op_helpers", "demo.window_helpers"},
    "demo/trial_helpers.py": {
        "demo.horovod_helpers", "demo.record_helpers", "demo.xla_helpers"},
    "demo/download.py": set(),
    "demo/hub_helpers.py": {"demo.flag_helpers", "demo.horovod_helpers"},
    "demo/curve_helpers.py": {"demo.script_helpers"},
    "demo/runs.py": {
        "demo.curve_helpers", "demo.start_helpers", "demo.runs_reader",
        "demo.runs_report", "demo.script_helpers"},
    "demo/runs_reader.py": {"demo.curve_helpers"},
    "demo/runs_report.py": {"demo.curve_helpers"},
    "demo/hf_checkpoints.py": {
        "modeling", "tokenization", "demo.flag_helpers", "demo.script_helpers"},
    "demo/checkpoint_report.py": {
        "demo.checkpoint_helpers", "demo.hf_checkpoints"},
    "demo/checkpoints.py": {
        "modeling", "demo.checkpoint_helpers", "demo.checkpoint_report",
        "demo.flag_helpers", "demo.start_helpers", "demo.hf_checkpoints",
        "demo.script_helpers"},
    "demo/launch.py": set(),
    "demo/latency_helpers.py": set(),
    "demo/client_helpers.py": {"demo.latency_helpers"},
    "demo/client_rows.py": {
        "demo.export_helpers", "demo.predictor", "demo.table_helpers",
        "demo.task_helpers", "run_classifier", "run_squad"},
    "demo/answer_scores.py": {"demo.metrics"},
    "demo/bert_client.py": {
        "demo.answer_scores", "demo.client_helpers", "demo.client_rows"},
    "demo/predictor.py": {
        "demo.export_helpers", "demo.runner_helpers", "demo.window_helpers",
        "run_classifier", "run_squad", "tokenization"},
    "demo/serving_errors.py": set(),
    "demo/serving_graphs.py": {
        "demo.export_helpers", "demo.runner_helpers", "demo.serving_batches"},
    "demo/serving_batches.py": {"demo.export_helpers", "demo.serving_errors"},
    "demo/serving_signatures.py": {
        "demo.export_helpers", "demo.predictor", "demo.serving_batches",
        "demo.serving_errors"},
    "demo/serving_models.py": {
        "demo.compile_check", "demo.export_helpers", "demo.predictor",
        "demo.serving_batches", "demo.serving_errors", "demo.serving_graphs",
        "demo.serving_signatures"},
    "demo/serving_stats.py": {"demo.latency_helpers"},
    "demo/serving_dispatch.py": {"demo.serving_errors"},
    "demo/serving_messages.py": {"demo.serving_errors"},
    "demo/serving_grpc.py": {
        "demo.export_helpers", "demo.serving_errors", "demo.serving_messages"},
    "demo/serving_rest.py": {
        "demo.export_helpers", "demo.serving_errors", "demo.serving_messages"},
    "demo/bert_server.py": {
        "demo.start_helpers", "demo.script_helpers", "demo.serving_batches",
        "demo.serving_dispatch", "demo.serving_grpc", "demo.serving_models",
        "demo.serving_rest", "demo.serving_signatures", "demo.serving_stats"},
    "demo/offline_speed.py": {
        "demo.answer_scores", "demo.bert_client", "demo.client_rows",
        "demo.compile_check", "demo.start_helpers", "demo.latency_helpers",
        "demo.predictor", "demo.script_helpers", "demo.serving_models"},
    "demo/int8_config.py": {"demo.config_helpers"},
    "demo/int8_search.py": {"demo.script_helpers"},
    "demo/int8_task.py": {
        "demo.answer_scores", "demo.client_rows", "demo.latency_helpers",
        "demo.predictor",
        "run_classifier", "tokenization"},
    "demo/int8_report.py": {"demo.curve_helpers", "demo.script_helpers"},
    "demo/int8_backends.py": {
        "demo.compile_graph", "demo.compile_model", "demo.int8_config",
        "demo.predictor"},
    "demo/int8_onnx.py": {
        "demo.compile_model", "demo.compile_onnx", "demo.export_helpers",
        "demo.int8_backends", "demo.int8_config", "demo.runner_helpers"},
    "demo/int8_tensorflow.py": {
        "demo.compile_graph", "demo.compile_model", "demo.export_helpers",
        "demo.horovod_helpers", "demo.int8_backends", "demo.int8_config",
        "demo.script_helpers"},
    "demo/tune_int8.py": {
        "demo.compile_check", "demo.compile_model", "demo.compile_reader",
        "demo.config_helpers", "demo.export_helpers", "demo.start_helpers",
        "demo.int8_backends", "demo.int8_config", "demo.int8_onnx",
        "demo.int8_report", "demo.int8_search", "demo.int8_task",
        "demo.int8_tensorflow", "demo.predictor", "demo.script_helpers"},
    "demo/serve_steps.py": {"demo.launch"},
    "demo/serve_demo.py": {
        "demo.compile_check", "demo.estimator_helpers", "demo.export_helpers",
        "demo.start_helpers", "demo.quickstart", "demo.script_helpers",
        "demo.serve_steps"},
    "demo/alias_helpers.py": set(),
    "demo/config_helpers.py": {
        "demo.alias_helpers", "demo.flag_helpers", "demo.script_helpers",
        "modeling"},
    "demo/seed_helpers.py": {"demo.curve_helpers", "demo.script_helpers"},
    "demo/tfds_params.py": {
        "demo.tfds_helpers", "run_classifier", "tokenization"},
    "demo/train.py": {
        "demo.config_helpers", "demo.horovod_helpers", "demo.script_helpers",
        "demo.seed_helpers", "demo.start_helpers", "demo.task_helpers",
        "habana",
        "run_classifier_with_tfhub", "run_pretraining", "run_squad"},
    "demo/review_interface.py": set(),
    "demo/review_changes.py": set(),
    "demo/review_differences.py": set(),
    "demo/review_report.py": set(),
    "demo/review_variables.py": {"modeling"},
    "demo/review_upstream.py": {
        "demo.review_changes", "demo.review_differences",
        "demo.review_interface", "demo.review_report", "demo.review_variables"},
    "demo/metrics.py": set(),
    "habana": {"habana"},
}
# Arrows go down this list: a script may import a *_helpers, no tool.
TOOLS = {"demo.answer_scores", "demo.bert_client", "demo.bert_server",
         "demo.checkpoint_report", "demo.checkpoints", "demo.client_rows", "demo.compile_check",
         "demo.compile_graph", "demo.compile_model", "demo.compile_onnx",
         "demo.compile_reader",
         "demo.create_finetuning_data", "demo.download", "demo.export_hub",
         "demo.hf_checkpoints", "demo.int8_backends", "demo.int8_config",
         "demo.int8_onnx", "demo.int8_report", "demo.int8_search",
         "demo.int8_task", "demo.int8_tensorflow", "demo.tune_int8",
         "demo.launch", "demo.offline_speed",
         "demo.predictor", "demo.quickstart",
         "demo.review_changes", "demo.review_differences",
         "demo.review_interface", "demo.review_report", "demo.review_upstream",
         "demo.review_variables", "demo.runs", "demo.runs_reader",
         "demo.runs_report", "demo.serve_demo", "demo.serve_steps",
         "demo.serving_batches", "demo.serving_dispatch",
         "demo.serving_errors", "demo.serving_graphs", "demo.serving_grpc",
         "demo.serving_messages",
         "demo.serving_models", "demo.serving_rest", "demo.serving_signatures",
         "demo.serving_stats", "demo.tfds_params", "demo.train"}
TF1_NAMES = re.compile(
    r"tf\.(contrib|flags|gfile|logging|python_io|to_int32|get_variable|"
    r"variable_scope|layers|train\.Optimizer|app|placeholder|Session|"
    r"truncated_normal_initializer|parse_single_example)\b|keep_prob=|"
    r"\.shape\[[^]]*\]\.value")


def source_files():
  return sorted(
      path for path in [*PROJECT.glob("*.py"), *PROJECT.glob("demo/*.py"),
                        *PROJECT.glob("habana/*.py")])


def own_imports(path):
  """Modules of this project that a file imports."""
  own = {p.stem for p in PROJECT.glob("*.py")} | {"demo", "habana", "tests"}
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = ([f"demo.{alias.name}" for alias in node.names]
               if node.module == "demo" else [node.module])
    else:
      continue
    found.update(name for name in names if name.split(".")[0] in own)
  return found


class ImportArrowsTest:

  @pytest.mark.parametrize("place", sorted(MAY_IMPORT))
  def test_arrows_go_down(self, place):
    path = PROJECT / place
    for file in [path] if path.is_file() else sorted(path.glob("*.py")):
      found = {"habana" if name.startswith("habana") else name
               for name in own_imports(file)}
      assert found <= MAY_IMPORT[place], file

  def test_no_script_imports_a_tool_and_none_the_tests(self):
    for path in source_files():
      module = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
      found = own_imports(path)
      assert not any(name.startswith("tests") for name in found), path
      if module not in TOOLS:
        assert not found & TOOLS, path


class SourceTest:

  @pytest.mark.parametrize(
      "path", source_files(), ids=lambda p: str(p.relative_to(PROJECT)))
  def test_no_names_of_tensorflow_1_and_lines_of_80(self, path):
    for number, line in enumerate(
        path.read_text(encoding="utf-8").splitlines(), 1):
      code = line.split("#")[0]
      assert not TF1_NAMES.search(code), f"{path}:{number}: {line}"
      assert len(line) <= 80, f"{path}:{number}"


class InterfaceTest:

  def modules(self, shared):
    text = (shared / "conformance" / "interface.json").read_text()
    return {name: module for name, module in json.loads(text)["modules"].items()
            if (PROJECT / f"{name}.py").exists()}

  def test_definitions_are_in_upstreams_order(self, shared):
    modules = self.modules(shared)
    assert modules
    for name, module in modules.items():
      tree = ast.parse((PROJECT / f"{name}.py").read_text(encoding="utf-8"))
      ours = [getattr(node, "name", None) or node.targets[0].id
              for node in tree.body
              if isinstance(node, (ast.FunctionDef, ast.ClassDef)) or
              isinstance(node, ast.Assign)]  # A namedtuple, for one.
      wanted = [definition["name"] for definition in module["definitions"]]
      assert [x for x in ours if x in wanted] == wanted, name

  def test_methods_are_in_upstreams_order(self, shared):
    for name, module in self.modules(shared).items():
      tree = ast.parse((PROJECT / f"{name}.py").read_text(encoding="utf-8"))
      classes = {node.name: [m.name for m in node.body
                             if isinstance(m, ast.FunctionDef)]
                 for node in tree.body if isinstance(node, ast.ClassDef)}
      for definition in module["definitions"]:
        wanted = [m["name"] for m in definition.get("methods", [])]
        ours = classes.get(definition["name"], [])
        here = [x for x in ours if x in wanted]
        assert here == [x for x in wanted if x in here], definition["name"]

  def test_changes_name_every_symbol_that_says_see_changes(self):
    changes = (PROJECT / "CHANGES.md").read_text(encoding="utf-8")
    for path in source_files():
      for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
          text = ast.get_docstring(node) or ""
          if re.search(r"see\s+CHANGES", text, re.I):
            assert re.search(rf"^### .*\b{node.name}\b", changes, re.M), (
                f"{path.name}: {node.name}")


class DocumentTest:

  @pytest.mark.parametrize(
      "name", ["README.md", "CHANGES.md", "docs/pretraining.md",
               "docs/training.md"])
  def test_no_placeholder_is_left_and_named_files_exist(self, name):
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert not re.search(r"RESULTS_TABLE|SPEED\b|TODO|XXX", text)
    for path in re.findall(r"`((?:demo|tests|habana)/[\w./]+)`", text):
      assert (PROJECT / path).exists(), path

  def test_flags_of_this_project_are_explained_to_users(self):
    changes = (PROJECT / "CHANGES.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `(\w+)` \|", changes, re.M)
    assert len(names) >= 20
    text = "".join(path.read_text(encoding="utf-8") for path in [
        PROJECT / "README.md", *PROJECT.glob("docs/*.md")])
    assert [name for name in names if f"`--{name}`" not in text] == []


class ImportTest:

  def test_no_flag_is_defined_by_importing(self):
    for path in source_files():
      for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
          assert "DEFINE" not in ast.unparse(node.value.func), path
