# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""conf.yaml of demo.tune_int8: the keys of Intel's tuner, checked.

Source: the schema of Intel's Low Precision Optimization Tool 1.2 (later Neural
Compressor). What this tuner can't do is refused by name, not passed over.
"""

import collections
import difflib

from demo import config_helpers

TENSORFLOW = "tensorflow"
INTEGER_OPS = "onnxrt_integerops"
QLINEAR_OPS = "onnxrt_qlinearops"
FRAMEWORKS = (TENSORFLOW, INTEGER_OPS, QLINEAR_OPS)
STATIC, DYNAMIC = "post_training_static_quant", "post_training_dynamic_quant"
_APPROACHES = {TENSORFLOW: (STATIC,), INTEGER_OPS: (DYNAMIC,),
               QLINEAR_OPS: (STATIC,)}
# What a back-end can do, in the order in which it is tried.
CAPABILITIES = {
    TENSORFLOW: {
        "weight.dtype": ("int8",), "weight.granularity": ("per_tensor",),
        "weight.scheme": ("sym",), "weight.algorithm": ("minmax",),
        "activation.dtype": ("uint8",),
        "activation.granularity": ("per_tensor",),
        "activation.scheme": ("asym",), "activation.algorithm": ("minmax",)},
    INTEGER_OPS: {
        "weight.dtype": ("int8", "uint8"),
        "weight.granularity": ("per_channel", "per_tensor"),
        "weight.scheme": ("sym", "asym"), "weight.algorithm": ("minmax",),
        "activation.dtype": ("uint8",),
        "activation.granularity": ("per_tensor",),
        "activation.scheme": ("asym",), "activation.algorithm": ("minmax",)},
    QLINEAR_OPS: {
        "weight.dtype": ("int8",),
        "weight.granularity": ("per_channel", "per_tensor"),
        "weight.scheme": ("sym",), "weight.algorithm": ("minmax",),
        "activation.dtype": ("uint8", "int8"),
        "activation.granularity": ("per_tensor",),
        "activation.scheme": ("asym", "sym"),
        "activation.algorithm": ("minmax", "percentile", "kl")},
}
# How much of the spread of activations is moved into the weights (Xiao et al.
# 2022, 2211.10438, section 4.2: alpha), tried in this order.
SMOOTH_QUANT, OFF = "recipes.smooth_quant_alpha", "off"
_ALPHAS = {TENSORFLOW: (OFF, "0.5", "0.7"), INTEGER_OPS: (OFF,),
           QLINEAR_OPS: (OFF,)}
_WISE = tuple(CAPABILITIES[TENSORFLOW])
_OP_KEYS = ("weight.dtype", "activation.dtype")
# Frameworks, strategies and keys of Intel's tuner -> why they are not here.
_ELSEWHERE = {
    "pytorch": "models are SavedModels", "pytorch_ipex": "models are "
    "SavedModels", "pytorch_fx": "models are SavedModels",
    "mxnet": "models are SavedModels"}
_STRATEGIES = ("basic",)
_OBJECTIVES = ("performance", "modelsize")


class Config(collections.namedtuple("Config", [
    "name", "framework", "sampling_sizes", "wise", "fallbacks", "metric",
    "warmup", "iterations", "threads", "relative", "absolute", "objective",
    "timeout", "max_trials", "performance_only", "random_seed", "workspace",
    "resume"])):
  """A checked conf.yaml.

  Attributes:
    name: string, of the model.
    framework: string, of FRAMEWORKS; chooses the back-end.
    sampling_sizes: tuple of int, training rows to calibrate with; each is
      tried.
    wise: dict key of CAPABILITIES, and SMOOTH_QUANT -> tuple of the values
      (string) that are tried.
    fallbacks: tuple of string, linear layers that stay float32 in each trial.
    metric: string, score to hold; None for the task's own.
    warmup: int, calls before the clock starts.
    iterations: int, calls that are measured.
    threads: int, of a call; 0 for one of each core.
    relative: float, part of the score that may be lost; or None.
    absolute: float, how much of it may be lost; or None.
    objective: string, of _OBJECTIVES: what decides between models that hold
      the goal.
    timeout: float, seconds; 0 stops at the first model that holds the goal.
    max_trials: int.
    performance_only: bool, one trial, whatever its score.
    random_seed: int, draws the rows to calibrate with.
    workspace: string, folder of history and report; None for the default.
    resume: string, folder or history to go on with; None for the workspace's.
  """

  __slots__ = ()

  def goal(self, baseline):
    """The least score that a model may have.

    Args:
      baseline: float, score of the fp32 model.
    """
    if self.relative is not None:
      # Of a negative score, which a correlation may be, less is still worse.
      return baseline - self.relative * abs(baseline)
    return baseline - self.absolute


def read(path):
  """Reads a conf.yaml.

  Args:
    path: string, a file, also of demo/configs/int8.

  Returns:
    Config.

  Raises:
    ValueError: names the file, the line and the key.
  """
  return parse(config_helpers.read_config(path), path)


def parse(leaves, path):
  """The Config of the values in a file.

  Args:
    leaves: list of config_helpers.Leaf.
    path: string, for errors about what is missing.
  """
  values = _Values(leaves)
  name = values.take("model.name", _text, None)
  framework = values.take("model.framework", _framework, None)
  if name is None or framework is None:
    missing = "name" if name is None else "framework"
    raise ValueError(f"{path}: model.{missing} is missing" + (
        "." if name is None else f": one of {', '.join(FRAMEWORKS)}."))
  for key in ("model.inputs", "model.outputs"):
    values.take(key, _refused(
        "the inputs and outputs are those of the export; leave it out"), None)
  values.take("device", _one_of(("cpu",)), "cpu")
  values.take("quantization.approach", _one_of(_APPROACHES[framework], (
      f"which is what {framework} does")), None)
  performance = "evaluation.performance."
  config = Config(
      name=name, framework=framework,
      sampling_sizes=values.take(
          "quantization.calibration.sampling_size", _numbers, (100,)),
      wise=_wise(values, framework), fallbacks=_fallbacks(values),
      metric=values.take("evaluation.accuracy.metric", _text, None),
      warmup=values.take(f"{performance}warmup", _whole(0), 5),
      # -1 are all rows elsewhere: here the clock is stopped after so many.
      iterations=values.take(f"{performance}iteration", _iterations, 20),
      threads=values.take(
          f"{performance}configs.cores_per_instance", _whole(1), 0),
      **_criterion(values),
      objective=values.take("tuning.objective", _one_of(_OBJECTIVES),
                            "performance"),
      timeout=values.take("tuning.exit_policy.timeout", _number(0), 0.0),
      max_trials=values.take("tuning.exit_policy.max_trials", _whole(1), 100),
      performance_only=values.take(
          "tuning.exit_policy.performance_only", _yes_or_no, False),
      random_seed=values.take("tuning.random_seed", _whole(0), 1978),
      workspace=values.take("tuning.workspace.path", _text, None),
      resume=values.take("tuning.workspace.resume", _text, None))
  values.take(f"{performance}configs.num_of_instance", _one_of(("1",), (
      "one model is measured at a time")), None)
  values.take("tuning.strategy.name", _one_of(_STRATEGIES, (
      "all settings, then the layers that cost most")), None)
  values.refuse_the_rest()
  return config


class _Values(object):
  """The values of a file, each of which is asked for once."""

  def __init__(self, leaves):
    self._leaves = {leaf.key: leaf for leaf in leaves}
    self._known = []

  def take(self, key, convert, default):
    """Returns a value, `convert`ed (ValueError: what is wrong with it)."""
    self._known.append(key)
    leaf = self._leaves.pop(key, None)
    if leaf is None or leaf.kind == "null":
      return default
    try:
      return convert(leaf.value)
    except ValueError as error:
      shown = f"[{', '.join(map(str, leaf.value))}]" if isinstance(
          leaf.value, list) else leaf.value
      shown = " ".join(shown.split())  # A text may have several lines.
      raise ValueError(f"{leaf.origin}: {key}: {shown}: {error}.") from None

  def below(self, prefix):
    """The keys that are not taken yet and begin so."""
    return [key for key in self._leaves if key.startswith(prefix)]

  def origin(self, key):
    """Where a value that was not taken stands."""
    return self._leaves[key].origin

  def refuse_the_rest(self):
    """Raises ValueError for the first key that nobody took."""
    for key, leaf in self._leaves.items():
      if leaf.kind == "null" and any(
          known.startswith(f"{key}.") for known in self._known):
        continue  # A section with nothing in it.
      near = difflib.get_close_matches(key, self._known, 1, 0.75)
      raise ValueError(
          f"{leaf.origin}: {key} is no setting that demo.tune_int8 has."
          + (f" Did you mean {near[0]}?" if near else
             " docs/int8.md lists them; leave it out."))


def _wise(values, framework):
  """What is tried for all layers: dict key -> values."""
  wise = {}
  for key in _WISE:
    able = CAPABILITIES[framework][key]
    wise[key] = values.take(
        f"quantization.model_wise.{key}", _some_of(able, framework), able)
  wise[SMOOTH_QUANT] = values.take(
      f"quantization.{SMOOTH_QUANT}", _alphas(_ALPHAS[framework], framework),
      _ALPHAS[framework])
  return wise


def _fallbacks(values):
  """The layers (tuple of string) that op_wise keeps in float32."""
  section = "quantization.op_wise"
  values.take(section, _refused("names of layers are needed below it"), None)
  prefix, found, origins = f"{section}.", {}, {}
  for key in values.below(prefix):
    origin = values.origin(key)
    layer, _, setting = key[len(prefix):].partition(".")
    if setting not in _OP_KEYS:
      raise ValueError(f"{origin}: {key}: of a layer {' and '.join(_OP_KEYS)} "
                       f"can be set, to fp32.")
    if values.take(key, _some_of(("fp32",), "op_wise"), None):
      found.setdefault(layer, []).append(setting)
      origins[layer] = origin
  for layer, settings in found.items():
    if len(settings) < len(_OP_KEYS):
      raise ValueError(
          f"{origins[layer]}: {prefix}{layer}.{settings[0]}: fp32: a product "
          f"has both sides in float32 or none: set {' and '.join(_OP_KEYS)}.")
  return tuple(sorted(found))


def _criterion(values):
  """The two keys of the accuracy criterion, one of which is None."""
  prefix = "tuning.accuracy_criterion."
  origins = {key: values.origin(key) for key in values.below(prefix)}
  found = {"relative": values.take(f"{prefix}relative", _share, None),
           # In the unit of the score: SQuAD's are percent.
           "absolute": values.take(f"{prefix}absolute", _number(0), None)}
  if None not in found.values():
    raise ValueError(f"{origins[f'{prefix}absolute']}: {prefix}absolute: "
                     f"{found['absolute']:g}: {prefix}relative is set as well, "
                     f"and they exclude each other: take one out.")
  if found == {"relative": None, "absolute": None}:
    found["relative"] = 0.01
  return found


def _text(value):
  if not isinstance(value, str) or not value.strip():
    raise ValueError("a text is needed")
  return value


def _framework(value):
  if isinstance(value, str) and value in _ELSEWHERE:
    raise ValueError(f"{_ELSEWHERE[value]}, for which there are "
                     f"{', '.join(FRAMEWORKS)}")
  return _one_of(FRAMEWORKS)(value)


def _one_of(allowed, why=None):
  """Function that takes one of some values alone."""
  def convert(value):
    if value not in allowed:
      raise ValueError(f"it can be {', '.join(allowed)}" + (
          f", {why}" if why else ""))
    return value
  return convert


def _some_of(allowed, who):
  """Function that takes one or some of some values, in their order."""
  def convert(value):
    wanted = value if isinstance(value, list) else [value]
    unknown = [item for item in wanted if item not in allowed]
    if unknown or not wanted:
      raise ValueError(f"{who} has {', '.join(allowed)}")
    return tuple(item for item in allowed if item in wanted)
  return convert


def _alphas(able, framework):
  """Function that takes "off" and numbers from 0 to 1, one or several."""
  def convert(value):
    wanted = value if isinstance(value, list) else [value]
    # YAML 1.1 reads off as false.
    wanted = [OFF if str(item).lower() in ("off", "false") else item
              for item in wanted]
    for item in wanted:
      if item != OFF and (len(able) == 1 or _number(0)(item) > 1):
        raise ValueError(f"{framework} has {', '.join(able)}" + (
            " or any number from 0 to 1" if len(able) > 1 else ""))
    return tuple(wanted)
  return convert


def _refused(why):
  """Function that takes nothing."""
  def convert(value):
    del value
    raise ValueError(why)
  return convert


def _whole(least):
  """Function that takes a whole number from `least`."""
  return _number(least, int, 2 ** 31, "a whole number")


def _number(least, kind=float, end=float("inf"), what="a number"):
  """Function that takes a number from `least` and below `end`."""
  def convert(value):
    try:
      number = kind(value)
    except (TypeError, ValueError):
      number = None
    if number is None or not least <= number < end:
      raise ValueError(f"{what} from {least} is needed")
    return number
  return convert


def _numbers(value):
  """[100, 500], 100 or "100, 500" -> tuple of int."""
  if isinstance(value, str):
    value = value.split(",")
  # A size that stands there twice is tried once.
  numbers = tuple(dict.fromkeys(_whole(1)(item) for item in value))
  if not numbers:
    raise ValueError("a whole number from 1 is needed")
  return numbers


def _iterations(value):
  return 20 if value == "-1" else _whole(1)(value)


def _share(value):
  """0.01 or "1%" -> float."""
  is_percent = isinstance(value, str) and value.endswith("%")
  number = _number(0)(value[:-1] if is_percent else value)
  number = number / 100 if is_percent else number
  if number >= 1:
    raise ValueError("how much may be lost is a number from 0 and below 1, "
                     "such as 0.01 or 1%")
  return number


def _yes_or_no(value):
  words = {"true": True, "yes": True, "on": True,
           "false": False, "no": False, "off": False}
  if str(value).lower() not in words:
    raise ValueError("true or false is needed")
  return words[value.lower()]
