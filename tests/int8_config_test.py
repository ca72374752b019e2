"""Tests of demo/int8_config.py and of the settings that come of a conf.yaml."""

import pathlib

import pytest
import yaml

from demo import config_helpers
from demo import int8_backends
from demo import int8_config
from demo import int8_task

SHIPPED = sorted(pathlib.Path(config_helpers.CONFIG_FOLDER).glob("int8/*"))
FRAMEWORKS = ("tensorflow", "onnxrt_integerops", "onnxrt_qlinearops")
# As Intel's document about BERT has it.
INTEL = """model:
  name: bert
  framework: pytorch

device: cpu

tuning:
  accuracy_criterion:
    relative: 0.01
  exit_policy:
    timeout: 0
    max_trials: 300
  random_seed: 9527
"""


def config(text="", framework="onnxrt_qlinearops"):
  """The Config of a file that begins with the model; `text` is from line 2."""
  whole = f"model: {{name: bert, framework: {framework}}}\n{text}"
  return int8_config.parse(
      config_helpers.parse_config(whole, "conf.yaml"), "conf.yaml")


def nested(key, value):
  """A dotted key as sections (string)."""
  names = key.split(".")
  return ": {".join(names) + f": {value}" + "}" * (len(names) - 1)


def with_value(key, value, framework="onnxrt_qlinearops"):
  """The Config of a file with one more value."""
  return config(nested(key, value), framework)


def refusal(text, framework="onnxrt_qlinearops"):
  """What is said about a file."""
  with pytest.raises(ValueError) as error:
    config(text, framework)
  message = str(error.value)
  assert len(message.splitlines()) == 1
  assert message.endswith((".", "?"))
  return message


class ShippedTest:

  def test_each_task_has_a_file(self):
    assert [path.name for path in SHIPPED] == [
        f"{task}.yaml" for task in (
            "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "squad", "sst2",
            "stsb", "wnli")]

  @pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
  def test_holds_the_score_of_its_task_as_intel_does(self, path):
    found = int8_config.read(str(path))
    assert found.metric == int8_task.MAIN_SCORES.get(path.stem, "accuracy")
    assert found.name == f"bert_{path.stem}"
    assert found.framework == "onnxrt_integerops"
    assert (found.relative, found.absolute) == (0.01, None)
    assert (found.timeout, found.max_trials) == (0, 300)
    assert found.random_seed == 9527
    assert found.sampling_sizes == (100,)
    assert (found.warmup, found.iterations) == (5, 20)
    assert path.name in config_helpers.find_config(f"int8/{path.name}")
    text = path.read_text(encoding="utf-8")
    assert f"of its {found.metric.replace('_', ' ')} may" in text

  @pytest.mark.parametrize("framework", FRAMEWORKS)
  def test_goes_with_each_framework(self, framework):
    text = SHIPPED[0].read_text(encoding="utf-8")
    leaves = config_helpers.parse_config(text.replace(
        "framework: onnxrt_integerops", f"framework: {framework}"), "a.yaml")
    assert int8_config.parse(leaves, "a.yaml").framework == framework

  def test_intels_file_lacks_nothing_but_a_framework_that_is_here(
      self, tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_text(INTEL)
    with pytest.raises(ValueError) as error:
      int8_config.read(str(path))
    assert str(error.value) == (
        f"{path}, line 3: model.framework: pytorch: models are SavedModels, "
        f"for which there are {', '.join(FRAMEWORKS)}.")
    path.write_text(INTEL.replace("pytorch", "onnxrt_integerops"))
    found = int8_config.read(str(path))
    assert found == config(
        "tuning: {random_seed: 9527, exit_policy: {max_trials: 300}}",
        "onnxrt_integerops")
    assert found.max_trials == 300


class DefaultsTest:

  def test_are_those_of_intels_tuner(self):
    found = config()
    assert found._replace(wise=None) == int8_config.Config(
        name="bert", framework="onnxrt_qlinearops", sampling_sizes=(100,),
        wise=None, fallbacks=(), metric=None, warmup=5, iterations=20,
        threads=0, relative=0.01, absolute=None, objective="performance",
        timeout=0.0, max_trials=100, performance_only=False, random_seed=1978,
        workspace=None, resume=None)
    assert found.wise == {**int8_config.CAPABILITIES["onnxrt_qlinearops"],
                          int8_config.SMOOTH_QUANT: ("off",)}

  @pytest.mark.parametrize("key", [
      "device", "quantization", "quantization.approach",
      "quantization.calibration", "quantization.calibration.sampling_size",
      "quantization.model_wise", "quantization.model_wise.weight",
      "quantization.model_wise.weight.dtype", "quantization.op_wise",
      "evaluation", "evaluation.accuracy", "evaluation.performance",
      "evaluation.performance.configs", "evaluation.performance.iteration",
      "tuning", "tuning.accuracy_criterion", "tuning.exit_policy",
      "tuning.exit_policy.timeout", "tuning.strategy", "tuning.workspace",
      "tuning.accuracy_criterion.relative"])
  @pytest.mark.parametrize("nothing", ["", "null", "~"])
  def test_nothing_is_the_default(self, key, nothing):
    assert with_value(key, nothing) == config()

  def test_nothing_about_a_layer_leaves_it_in_int8(self):
    assert with_value("quantization.op_wise.pooler.weight.dtype",
                      "") == config()


class ValueTest:

  @pytest.mark.parametrize("key, value, name, expected", [
      ("quantization.calibration.sampling_size", "100", "sampling_sizes",
       (100,)),
      ("quantization.calibration.sampling_size", "[500, 100]", "sampling_sizes",
       (500, 100)),
      ("quantization.calibration.sampling_size", "'100, 500'",
       "sampling_sizes", (100, 500)),
      ("quantization.calibration.sampling_size", "['100', 7]",
       "sampling_sizes", (100, 7)),
      ("quantization.calibration.sampling_size", "[9, 9, 3, 9]",
       "sampling_sizes", (9, 3)),
      ("evaluation.accuracy.metric", "f1", "metric", "f1"),
      ("evaluation.performance.warmup", "0", "warmup", 0),
      ("evaluation.performance.warmup", "7", "warmup", 7),
      ("evaluation.performance.iteration", "3", "iterations", 3),
      ("evaluation.performance.iteration", "-1", "iterations", 20),
      ("evaluation.performance.configs.cores_per_instance", "4", "threads", 4),
      ("tuning.accuracy_criterion.relative", "0", "relative", 0),
      ("tuning.accuracy_criterion.relative", "1%", "relative", 0.01),
      ("tuning.accuracy_criterion.relative", "'0.5%'", "relative", 0.005),
      ("tuning.accuracy_criterion.relative", "5e-3", "relative", 0.005),
      ("tuning.accuracy_criterion.relative", "0.8", "relative", 0.8),
      ("tuning.accuracy_criterion.relative", "99%", "relative", 0.99),
      ("tuning.accuracy_criterion.absolute", "0.02", "absolute", 0.02),
      ("tuning.accuracy_criterion.absolute", "2", "absolute", 2.0),
      ("tuning.objective", "performance", "objective", "performance"),
      ("tuning.objective", "modelsize", "objective", "modelsize"),
      ("tuning.exit_policy.timeout", "3600", "timeout", 3600.0),
      ("tuning.exit_policy.timeout", "0.5", "timeout", 0.5),
      ("tuning.exit_policy.max_trials", "1", "max_trials", 1),
      ("tuning.exit_policy.performance_only", "true", "performance_only",
       True),
      ("tuning.exit_policy.performance_only", "No", "performance_only",
       False),
      ("tuning.random_seed", "0", "random_seed", 0),
      ("tuning.workspace.path", "/tmp/a b", "workspace", "/tmp/a b"),
      ("tuning.workspace.resume", "old/history.jsonl", "resume",
       "old/history.jsonl")])
  def test_is_taken_and_nothing_else_changes(self, key, value, name, expected):
    changes = {name: expected}
    if name == "absolute":
      changes["relative"] = None
    assert with_value(key, value) == config()._replace(**changes)

  @pytest.mark.parametrize("key, value, framework", [
      ("device", "cpu", "tensorflow"),
      ("quantization.approach", "post_training_static_quant", "tensorflow"),
      ("quantization.approach", "post_training_static_quant",
       "onnxrt_qlinearops"),
      ("quantization.approach", "post_training_dynamic_quant",
       "onnxrt_integerops"),
      ("evaluation.performance.configs.num_of_instance", "1", "tensorflow"),
      ("tuning.strategy.name", "basic", "tensorflow")])
  def test_may_say_what_is_so_anyway(self, key, value, framework):
    assert with_value(key, value, framework) == config("", framework)

  @pytest.mark.parametrize("framework", FRAMEWORKS)
  @pytest.mark.parametrize(
      "key", sorted(int8_config.CAPABILITIES["tensorflow"]))
  def test_of_all_layers_is_any_that_the_framework_is_able_to(
      self, framework, key):
    able = int8_config.CAPABILITIES[framework][key]
    whole = f"quantization.model_wise.{key}"
    for value in able:
      found = with_value(whole, value, framework)
      assert found.wise == {**config("", framework).wise, key: (value,)}
    backwards = f"[{', '.join(reversed(able))}]"
    assert with_value(whole, backwards, framework) == config("", framework)

  def test_op_wise_keeps_layers_in_float32(self):
    both = "{weight: {dtype: fp32}, activation: {dtype: [fp32]}}"
    found = config(f"quantization: {{op_wise: {{pooler: {both}, "
                   f"layer_11/intermediate: {both}}}}}")
    assert found.fallbacks == ("layer_11/intermediate", "pooler")
    assert found == config()._replace(fallbacks=found.fallbacks)

  def test_a_file_in_json_is_one_too(self, tmp_path):
    path = tmp_path / "conf.json"
    path.write_text('{"model": {"name": "a", "framework": "tensorflow"},\n'
                    '"tuning": {"random_seed": 3}}')
    assert int8_config.read(str(path)).random_seed == 3


class RefusalTest:

  @pytest.mark.parametrize("key, value, out", [
      ("device", "gpu", "it can be cpu"),
      ("device", "[cpu]", "it can be cpu"),
      ("model.inputs", "input_ids", "leave it out"),
      ("model.outputs", "[logits]", "leave it out"),
      ("quantization.approach", "quant_aware_training",
       "it can be post_training_static_quant"),
      ("quantization.approach", "post_training_dynamic_quant",
       "it can be post_training_static_quant, which is what "
       "onnxrt_qlinearops does"),
      ("quantization.calibration.sampling_size", "0", "whole number from 1"),
      ("quantization.calibration.sampling_size", "-5", "whole number from 1"),
      ("quantization.calibration.sampling_size", "1.5", "whole number from 1"),
      ("quantization.calibration.sampling_size", "many", "whole number from 1"),
      ("quantization.calibration.sampling_size", "[]", "whole number from 1"),
      ("quantization.calibration.sampling_size", "[100, x]",
       "whole number from 1"),
      ("quantization.calibration.sampling_size", "[100, null]",
       "whole number from 1"),
      ("quantization.calibration.sampling_size", "'100,'",
       "whole number from 1"),
      ("quantization.model_wise.weight.dtype", "uint8",
       "onnxrt_qlinearops has int8"),
      ("quantization.model_wise.weight.dtype", "[int8, fp32]",
       "onnxrt_qlinearops has int8"),
      ("quantization.model_wise.weight.dtype", "[]",
       "onnxrt_qlinearops has int8"),
      ("quantization.model_wise.activation.granularity", "per_channel",
       "onnxrt_qlinearops has per_tensor"),
      ("evaluation.accuracy.metric", "[f1]", "a text is needed"),
      ("evaluation.accuracy.metric", "' '", "a text is needed"),
      ("evaluation.performance.warmup", "-1", "whole number from 0"),
      ("evaluation.performance.warmup", "few", "whole number from 0"),
      ("evaluation.performance.iteration", "0", "whole number from 1"),
      ("evaluation.performance.iteration", "-2", "whole number from 1"),
      ("evaluation.performance.configs.num_of_instance", "4", "it can be 1"),
      ("evaluation.performance.configs.cores_per_instance", "0",
       "whole number from 1"),
      ("tuning.strategy.name", "bayesian", "it can be basic"),
      ("tuning.strategy.name", "mse", "it can be basic"),
      ("tuning.accuracy_criterion.relative", "120%", "from 0 and below 1"),
      ("tuning.accuracy_criterion.relative", "100%", "from 0 and below 1"),
      ("tuning.accuracy_criterion.relative", "1", "from 0 and below 1"),
      ("tuning.accuracy_criterion.relative", "-0.01", "number from 0"),
      ("tuning.accuracy_criterion.relative", "-1%", "number from 0"),
      ("tuning.accuracy_criterion.relative", ".nan", "number from 0"),
      ("tuning.accuracy_criterion.relative", "nan", "number from 0"),
      ("tuning.accuracy_criterion.relative", "nan%", "number from 0"),
      ("tuning.accuracy_criterion.relative", "inf", "number from 0"),
      ("tuning.accuracy_criterion.relative", "little", "number from 0"),
      ("tuning.accuracy_criterion.relative", "'%'", "number from 0"),
      ("tuning.accuracy_criterion.relative", "[0.01]", "number from 0"),
      ("tuning.accuracy_criterion.absolute", "-1", "number from 0"),
      ("tuning.accuracy_criterion.absolute", "nan", "number from 0"),
      ("tuning.accuracy_criterion.absolute", "inf", "number from 0"),
      ("tuning.accuracy_criterion.absolute", "1%", "number from 0"),
      ("tuning.objective", "footprint", "it can be performance, modelsize"),
      ("tuning.exit_policy.timeout", "-1", "number from 0"),
      ("tuning.exit_policy.timeout", "inf", "number from 0"),
      ("tuning.exit_policy.timeout", "nan", "number from 0"),
      ("tuning.exit_policy.timeout", "an hour", "number from 0"),
      ("tuning.exit_policy.timeout", "[1]", "number from 0"),
      ("tuning.exit_policy.max_trials", "0", "whole number from 1"),
      ("tuning.exit_policy.max_trials", "1e2", "whole number from 1"),
      ("tuning.exit_policy.max_trials", "99999999999", "whole number from 1"),
      ("tuning.exit_policy.performance_only", "1", "true or false"),
      ("tuning.exit_policy.performance_only", "[true]", "true or false"),
      ("tuning.random_seed", "-1", "whole number from 0"),
      ("tuning.random_seed", "dice", "whole number from 0"),
      ("tuning.workspace.path", "[a]", "a text is needed"),
      ("tuning.workspace.resume", "''", "a text is needed")])
  def test_names_file_line_key_value_and_a_way_out(self, key, value, out):
    message = refusal("# A comment.\n" + nested(key, value))
    shown = value.strip("' ").replace("null", "None")
    assert message.startswith(f"conf.yaml, line 3: {key}: {shown}: ")
    assert out in message

  @pytest.mark.parametrize("framework, reason", [
      *((name, "models are SavedModels, for which there are tensorflow,")
        for name in ("pytorch", "pytorch_fx", "pytorch_ipex", "mxnet")),
      ("caffe", "it can be tensorflow, onnxrt_integerops, onnxrt_qlinearops."),
      ("[tensorflow]", "it can be tensorflow,"),
      ("TensorFlow", "it can be tensorflow,")])
  def test_of_a_framework_names_those_that_are_here(self, framework, reason):
    message = refusal("", framework)
    assert message.startswith(
        f"conf.yaml, line 1: model.framework: {framework}: {reason}")

  @pytest.mark.parametrize("framework, key, value", [
      ("tensorflow", "weight.granularity", "per_channel"),
      ("tensorflow", "activation.algorithm", "kl"),
      ("tensorflow", "activation.algorithm", "percentile"),
      ("onnxrt_integerops", "activation.algorithm", "kl"),
      ("onnxrt_qlinearops", "weight.algorithm", "kl"),
      ("onnxrt_integerops", "activation.dtype", "int8"),
      ("tensorflow", "weight.scheme", "asym")])
  def test_of_what_a_framework_lacks_says_what_it_has(
      self, framework, key, value):
    has = ", ".join(int8_config.CAPABILITIES[framework][key])
    whole = f"quantization.model_wise.{key}"
    assert refusal(nested(whole, value), framework) == (
        f"conf.yaml, line 2: {whole}: {value}: {framework} has {has}.")

  @pytest.mark.parametrize("framework, approach", [
      ("tensorflow", "post_training_static_quant"),
      ("onnxrt_qlinearops", "post_training_static_quant"),
      ("onnxrt_integerops", "post_training_dynamic_quant")])
  def test_of_an_approach_says_what_the_framework_does(
      self, framework, approach):
    other, = {"post_training_static_quant",
              "post_training_dynamic_quant"} - {approach}
    assert refusal(nested("quantization.approach", other), framework) == (
        f"conf.yaml, line 2: quantization.approach: {other}: it can be "
        f"{approach}, which is what {framework} does.")

  @pytest.mark.parametrize("text, key, out", [
      ("tuning: {random_sed: 4}", "tuning.random_sed",
       "Did you mean tuning.random_seed?"),
      ("tuning: {exit_policy: {max_trails: 4}}",
       "tuning.exit_policy.max_trails",
       "Did you mean tuning.exit_policy.max_trials?"),
      ("tuning: {random_sed: }", "tuning.random_sed",
       "Did you mean tuning.random_seed?"),
      ("version: 1.0", "version", "leave it out."),
      ("tuning: {tensorboard: true}", "tuning.tensorboard", "leave it out."),
      ("pruning: {}\ntuning: 3", "tuning", "leave it out."),
      ("tuning: {accuracy_criterion: 0.01}", "tuning.accuracy_criterion",
       "Did you mean tuning.accuracy_criterion.relative?"),
      ("graph_optimization: ", "graph_optimization", "leave it out.")])
  def test_of_an_unknown_key_names_it_or_the_one_that_was_meant(
      self, text, key, out):
    message = refusal(text)
    line = len(text.splitlines()) + 1
    assert message.startswith(
        f"conf.yaml, line {line}: {key} is no setting that demo.tune_int8 has.")
    assert message.endswith(out)

  @pytest.mark.parametrize("text, message", [
      ("tuning:\n  accuracy_criterion:\n    relative: 0.1\n    absolute: 0.5\n",
       "conf.yaml, line 5: tuning.accuracy_criterion.absolute: 0.5: "
       "tuning.accuracy_criterion.relative is set as well, and they exclude "
       "each other: take one out."),
      ("tuning:\n  random_seed: 1\n  random_seed: 1\n",
       "conf.yaml, line 4: tuning.random_seed stands there twice, first at "
       "conf.yaml, line 3."),
      ("tuning: {random_seed: 1}\ntuning: {random_seed: 2}",
       "conf.yaml, line 3: tuning.random_seed stands there twice, first at "
       "conf.yaml, line 2."),
      ("device: |\n  cpu\n  gpu\n",
       "conf.yaml, line 2: device: cpu gpu: it can be cpu."),
      ("quantization:\n  op_wise:\n    pooler:\n      weight: {dtype: fp32}\n",
       "conf.yaml, line 5: quantization.op_wise.pooler.weight.dtype: fp32: a "
       "product has both sides in float32 or none: set weight.dtype and "
       "activation.dtype."),
      ("quantization: {op_wise: {pooler: {weight: {dtype: int8}}}}",
       "conf.yaml, line 2: quantization.op_wise.pooler.weight.dtype: int8: "
       "op_wise has fp32."),
      ("quantization: {op_wise: {pooler: {weight: {granularity: fp32}}}}",
       "conf.yaml, line 2: quantization.op_wise.pooler.weight.granularity: of "
       "a layer weight.dtype and activation.dtype can be set, to fp32."),
      ("quantization: {op_wise: {pooler: fp32}}",
       "conf.yaml, line 2: quantization.op_wise.pooler: of a layer "
       "weight.dtype and activation.dtype can be set, to fp32."),
      ("quantization: {op_wise: [pooler]}",
       "conf.yaml, line 2: quantization.op_wise: [pooler]: names of layers "
       "are needed below it."),
      ("\tdevice: cpu", "conf.yaml, line 2: no YAML (a tab: indent with "
       "spaces).")])
  def test_of_what_does_not_go_together(self, text, message):
    assert refusal(text) == message

  @pytest.mark.parametrize("text, missing", [
      ("", "name"), ("model:", "name"), ("model: {framework: tensorflow}",
                                         "name"),
      ("model: {name: a}", "framework"),
      ("model: {name: a, framework: }", "framework")])
  def test_of_a_file_without_a_model(self, text, missing):
    with pytest.raises(ValueError, match=f"^a.yaml: model.{missing} is miss"):
      int8_config.parse(config_helpers.parse_config(text, "a.yaml"), "a.yaml")


class GoalTest:

  @pytest.mark.parametrize("key, value, baseline, goal", [
      ("relative", "0.01", 0.9, 0.891), ("relative", "1%", 90.0, 89.1),
      ("relative", "0", 0.7, 0.7), ("relative", "0.5", 0.0, 0.0),
      # Of a correlation below 0 less is still worse.
      ("relative", "0.1", -0.5, -0.55), ("absolute", "0.02", 0.9, 0.88),
      ("absolute", "2", 88.5, 86.5), ("absolute", "0.1", -0.5, -0.6),
      ("absolute", "0", 0.7, 0.7)])
  def test_is_the_least_score(self, key, value, baseline, goal):
    found = with_value(f"tuning.accuracy_criterion.{key}", value)
    assert found.goal(baseline) == pytest.approx(goal, abs=1e-12)
    assert found.goal(baseline) <= baseline


class SettingsTest:

  @pytest.mark.parametrize("framework, names", [
      ("tensorflow", [f"smooth_quant_alpha {alpha}"
                      for alpha in ("off", "0.5", "0.7")]),
      ("onnxrt_integerops", [
          f"weight.granularity {granularity}, weight.dtype {dtype}"
          for granularity in ("per_channel", "per_tensor")
          for dtype in ("int8", "uint8")]),
      ("onnxrt_qlinearops", [
          f"weight.granularity {granularity}, activation.dtype {dtype}, "
          f"activation.algorithm {algorithm}"
          for granularity in ("per_channel", "per_tensor")
          for dtype in ("uint8", "int8")
          for algorithm in ("minmax", "percentile", "kl")])])
  def test_are_all_that_the_file_leaves_open(self, framework, names):
    found = int8_backends.settings(config("", framework))
    assert [setting.name for setting in found] == names
    for setting in found:
      values = dict(setting.values)
      # Nothing is calibrated where activations are measured as they come.
      assert values.pop("sampling_size") == (
          0 if framework == "onnxrt_integerops" else 100)
      alpha = values.pop(int8_config.SMOOTH_QUANT)
      assert alpha == "off" or framework == "tensorflow"
      assert sorted(values) == sorted(int8_config.CAPABILITIES[framework])
      for key, value in values.items():
        assert value in int8_config.CAPABILITIES[framework][key]
        if key.endswith("scheme"):
          dtype = values[key.replace("scheme", "dtype")]
          assert (dtype, value) in (("int8", "sym"), ("uint8", "asym"))

  def test_each_size_is_one_and_has_a_name_of_its_own(self):
    text = nested("quantization.calibration.sampling_size", "[5, 9, 5]")
    found = int8_backends.settings(config(text, "tensorflow"))
    assert [setting.name for setting in found[:2]] == [
        "smooth_quant_alpha off, sampling_size 5",
        "smooth_quant_alpha off, sampling_size 9"]
    assert [setting.values["sampling_size"] for setting in found] == [
        5, 9, 5, 9, 5, 9]
    found = int8_backends.settings(config(text))
    assert len({setting.name for setting in found}) == len(found) == 24
    assert len(int8_backends.settings(config(text, "onnxrt_integerops"))) == 4

  @pytest.mark.parametrize("value, names", [
      ("off", ["the only setting"]), ("0.3", ["the only setting"]),
      ("[0.3, off]", ["smooth_quant_alpha 0.3", "smooth_quant_alpha off"])])
  def test_alphas_of_smooth_quant(self, value, names):
    text = nested("quantization.recipes.smooth_quant_alpha", value)
    found = int8_backends.settings(config(text, "tensorflow"))
    assert [setting.name for setting in found] == names

  @pytest.mark.parametrize("framework, value, message", [
      ("tensorflow", "1.5", "off, 0.5, 0.7 or any number from 0 to 1"),
      ("tensorflow", "-1", "a number from 0"),
      ("tensorflow", "much", "a number from 0"),
      ("onnxrt_integerops", "0.5", "onnxrt_integerops has off."),
      ("onnxrt_qlinearops", "0.5", "onnxrt_qlinearops has off.")])
  def test_alphas_that_there_are_not(self, framework, value, message):
    found = refusal(nested(
        "quantization.recipes.smooth_quant_alpha", value), framework)
    assert message in found and found.startswith(
        f"conf.yaml, line 2: quantization.recipes.smooth_quant_alpha: {value}")

  def test_a_type_with_another_types_scheme_leaves_none(self):
    with pytest.raises(ValueError, match="leaves no setting: int8 goes with"):
      int8_backends.settings(config(yaml.safe_dump({"quantization": {
          "model_wise": {"activation": {"dtype": "int8", "scheme": "asym"}}}})))
