# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Configurations of a script: files and command line, layer over layer.

A leaf of a configuration is the name of a flag of the script, in one of four
sections, or a size of the model. It has the flag's type. Names of other systems
are translated by alias_helpers.
"""

import collections
import difflib
import math
import os
import re
import types

from absl import flags
import tensorflow as tf
import yaml

from demo import alias_helpers
from demo import flag_helpers
from demo import script_helpers
import modeling

CONFIG_FOLDER = os.path.join(script_helpers.PROJECT_FOLDER, "demo", "configs")

# Flags that are in no other section stand in trainer.
_DEFAULT_SECTION = "trainer"
SECTIONS = {
    "data": (
        "data_dir", "task_name", "train_file", "dev_file", "test_file",
        "predict_file", "text_a", "text_b", "label", "labels", "regression",
        "has_header", "use_tfds", "tfds_dir", "train_records", "eval_records",
        "predict_records", "meta_data_file", "input_file", "eval_input_file",
        "max_seq_length", "max_predictions_per_seq", "max_query_length",
        "doc_stride", "max_windows", "window_pooling", "dynamic_padding",
        "version_2_with_negative"),
    "model": (
        "bert_config_file", "vocab_file", "do_lower_case", "init_checkpoint",
        "bert_hub_module_handle", "dropout_before_logits"),
    "trainer": (),
    "runtime": (
        "cpu_only", "use_horovod", "fp16_allreduce", "distributed_predict",
        "write_perf", "profile_steps", "bf16_config_path", "precision",
        "loss_scale", "use_xla", "fused_ops", "recompute_layers",
        "iterations_per_loop", "use_tpu", "tpu_name", "tpu_zone",
        "gcp_project", "master", "num_tpu_cores",
        "preprocess_workers", "num_ranks", "hosts", "restarts"),
}
_SECTION_OF = {name: section for section, names in SECTIONS.items()
               for name in names}
# A file about a model is for all scripts, also those that read no text.
_OF_ANY_SCRIPT = ("vocab_file", "do_lower_case", "dropout_before_logits")
# What says which configuration it is; the rest of the first level are sections.
_HEAD = ("experiment", "mode")
# These try a run out: what they leave is the configuration of the run itself.
_NOT_WRITTEN = ("validate_only", "compile_only")
# A later value of the first takes the place of an earlier one of the second.
_RIVALS = (("num_train_epochs", "max_steps"),
           ("warmup_proportion", "warmup_steps"),
           ("warmup_steps", "warmup_proportion"),
           ("train_batch_size", "global_batch_size"),
           ("global_batch_size", "train_batch_size"))
_MOST_LEAVES = 1000  # An alias in YAML can make many of few.
_ACTIVATIONS = ("gelu", "relu", "tanh", "linear")

_KINDS = {f"tag:yaml.org,2002:{tag}": kind for tag, kind in (
    ("str", "text"), ("timestamp", "text"), ("int", "number"),
    ("float", "number"), ("bool", "bool"), ("null", "null"), ("seq", "list"))}
_YES_AND_NO = yaml.constructor.SafeConstructor.bool_values
_NEEDED = {"bool": "true or false", "int": "a whole number",
           "float": "a number"}


class Leaf(collections.namedtuple("Leaf", ["key", "value", "kind", "origin"])):
  """A value as it is written.

  Attributes:
    key: string, the names on the way to it with dots between them.
    value: string; for kind "null" None; for "list" a list of such values.
    kind: "text", "quoted" (text that is certainly none else), "number", "bool",
      "null" or "list".
    origin: string, file and line, or what else it is from.
  """


class Setting(collections.namedtuple("Setting", ["value", "origin"])):
  """A flag's value and where it is from.

  Attributes:
    value: as the flag's parser returns it; None for none.
    origin: string.
  """


def find_config(name, flag="config_file"):
  """Returns the path of a configuration.

  Args:
    name: string, a path from here, from demo/configs, demo or the project.
    flag: string, the flag that names it.

  Raises:
    ValueError: there is none; names the nearest one that is shipped.
  """
  for folder in ("", CONFIG_FOLDER, os.path.dirname(CONFIG_FOLDER),
                 script_helpers.PROJECT_FOLDER):
    path = os.path.join(folder, name)
    if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
      return path
  shipped = [
      os.path.join(kind, file) for kind in ("experiments", "models", "int8")
      for file in sorted(os.listdir(os.path.join(CONFIG_FOLDER, kind)))]
  near = difflib.get_close_matches(
      "/".join(name.split("/")[-2:]), shipped, 1, 0.5)
  raise ValueError(
      f"--{flag}={name} is neither here nor in demo/configs."
      + (f" Did you mean {near[0]}?" if near else
         " demo/configs has some."))


def read_config(path):
  """Returns the Leafs of a YAML or JSON file (ValueError if it is none)."""
  shown = os.path.relpath(path) if os.path.isabs(path) else path
  shown = path if shown.startswith("..") else shown
  try:
    with tf.io.gfile.GFile(path, "rb") as reader:
      text = reader.read().decode("utf-8")
  except (tf.errors.OpError, UnicodeDecodeError) as error:
    raise ValueError(
        f"{shown} can't be read as UTF-8 text "
        f"({getattr(error, 'message', error)}).") from None
  return parse_config(text, shown)


def parse_config(text, origin):
  """Returns the Leafs of a YAML or JSON text.

  Args:
    text: string.
    origin: string, its file.

  Raises:
    ValueError: it is no YAML of mappings, or has a name twice.
  """
  try:
    root = yaml.compose(text, yaml.SafeLoader)
  except yaml.YAMLError as error:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    if "'\\t'" in problem:
      problem = "a tab: indent with spaces"
    raise ValueError(
        origin + (f", line {mark.line + 1}" if mark else "")
        + f": no YAML ({problem}).") from None
  if root is None:
    return []
  if not isinstance(root, yaml.MappingNode):
    raise ValueError(f"{origin}, line {root.start_mark.line + 1}: sections "
                     f"such as 'trainer:' are needed.")
  leaves = []
  for leaf in _leaves(root, "", origin, []):
    leaves.append(leaf)
    if len(leaves) > _MOST_LEAVES:
      raise ValueError(f"{leaf.origin}: more than {_MOST_LEAVES} values.")
  seen = {}
  for leaf in leaves:
    if leaf.key in seen:
      raise ValueError(f"{leaf.origin}: {leaf.key} stands there twice, first "
                       f"at {seen[leaf.key]}.")
    seen[leaf.key] = leaf.origin
  return leaves


def _leaves(mapping, prefix, origin, parents):
  """Yields the Leafs below a node; `parents`: list of the nodes above."""
  for key_node, node in mapping.value:
    where = f"{origin}, line {key_node.start_mark.line + 1}"
    if key_node.tag == "tag:yaml.org,2002:merge":
      raise ValueError(f"{where}: '<<' is not taken: write the values out.")
    if not isinstance(key_node, yaml.ScalarNode):
      raise ValueError(f"{where}: a name is needed before the colon.")
    key = f"{prefix}{key_node.value}"
    if node is mapping or any(node is parent for parent in parents):
      raise ValueError(f"{where}: {key} contains itself.")
    if isinstance(node, yaml.MappingNode):
      yield from _leaves(node, f"{key}.", origin, parents + [mapping])
    else:
      yield _leaf(key, node, where)


def _leaf(key, node, where):
  """The Leaf of a scalar or list (yaml.Node)."""
  kind = _KINDS.get(node.tag)
  if kind is None:
    raise ValueError(f"{where}: {key} is of the kind {node.tag}, which is not "
                     f"taken.")
  if kind == "list":
    return Leaf(key, _plain(node, 0, where), kind, where)
  if kind == "text" and node.style in ("'", '"'):
    kind = "quoted"
  return Leaf(key, None if kind == "null" else node.value, kind, where)


def _plain(node, depth, where):
  """A node as list, dict and string; depth: int, how far down it is."""
  if depth > 5:
    raise ValueError(f"{where}: lists within lists.")
  if isinstance(node, yaml.SequenceNode):
    return [_plain(item, depth + 1, where) for item in node.value]
  if isinstance(node, yaml.MappingNode):
    return {key.value: _plain(value, depth + 1, where)
            for key, value in node.value}
  return None if node.tag == "tag:yaml.org,2002:null" else node.value


def parse_override(text):
  """Returns the Leafs of a --params_override.

  Args:
    text: string: pairs a.b=c with commas between them, a file, or YAML or JSON
      as text.

  Raises:
    ValueError: it is none of these.
  """
  origin = "--params_override"
  if re.match(r"[\s,]*[^\s=,:{}\[\]]+\s*=", text):
    leaves = {}
    for pair in _pairs(text):
      key, _, value = pair.partition("=")
      where = f"{origin}, {key.strip()}"
      node = _scalar_or_list(value)
      leaf = (Leaf(key.strip(), value, "text", where) if node is None else
              _leaf(key.strip(), node, where))
      leaves[leaf.key] = leaf  # The last one counts, as on a command line.
    return list(leaves.values())
  if re.fullmatch(r"\S+\.(ya?ml|json)", text):
    return read_config(find_config(text, "params_override"))
  if re.fullmatch(r"[\w.,:-]*\w", text):
    raise ValueError(f"{origin}, line 1: sections such as 'trainer:' are "
                     f"needed, or pairs such as trainer.max_steps=100, not "
                     f"{text}.")
  return parse_config(text.lstrip(", \n"), origin)


def _pairs(text):
  """Yields the pairs a.b=c (string) of a text; commas at its ends are none."""
  # A comma within a value, as in labels=a,b, begins no new pair.
  parts = re.split(r",(?=\s*[\w.-]+\s*=)", text)
  while parts:
    pair, *parts = parts
    value = pair.partition("=")[2].strip()
    if value[:1] in ("'", '"', "["):
      # What is quoted may look like a pair.
      for end in range(len(parts) + 1):
        whole = ",".join([pair, *parts[:end]])
        if _scalar_or_list(whole.partition("=")[2].rstrip(", \n")) is not None:
          pair, parts = whole, parts[end:]
          break
    pair = pair.strip(", \n")
    if pair:
      yield pair


def _scalar_or_list(text):
  """A text's yaml.Node if it is a scalar or a list, else None."""
  try:
    node = yaml.compose(text, yaml.SafeLoader)
  except yaml.YAMLError:
    return None
  return None if isinstance(node, yaml.MappingNode) else node


def _is_empty_section(leaf):
  """Whether a Leaf is a section whose values are all left out.

  Args:
    leaf: Leaf.

  Raises:
    ValueError: it is a section, and has a value itself.
  """
  if leaf.key not in SECTIONS and not alias_helpers.is_section(leaf.key):
    return False
  if leaf.kind != "null":
    raise ValueError(f"{leaf.origin}: {leaf.key} is a section: names with "
                     f"values are needed below it, not {leaf.value!r}.")
  return True


def section_of(name):
  """The section (string) that a flag's name stands in."""
  return _SECTION_OF.get(name, _DEFAULT_SECTION)


def parse_value(flag, leaf):
  """A Leaf's value as the flag has it.

  Args:
    flag: absl Flag.
    leaf: Leaf.

  Returns:
    What the flag's parser makes of it; null is the flag's default.

  Raises:
    ValueError: it is of another type, or out of the flag's range.
  """
  if leaf.kind == "null":
    return flag.default
  kind = flag.flag_type()
  is_text = kind not in _NEEDED
  needed = _NEEDED.get(kind, "text")
  if leaf.kind == "list":
    fits = is_text and kind != "string enum" and all(
        isinstance(item, str) and "," not in item for item in leaf.value)
    text = ",".join(leaf.value) if fits else None
    needed = "text without commas" if is_text else needed
  else:
    text = leaf.value
    if kind == "bool" and leaf.kind == "bool":
      text = str(_YES_AND_NO[text.lower()])
    fits = {
        "bool": leaf.kind == "bool",
        # YAML takes 5e-5 for text.
        "int": leaf.kind == "number", "float": leaf.kind in ("number", "text"),
        # "yes" may be meant as true: a choice has its own words.
        "string enum": True}.get(kind, leaf.kind != "bool")
  value = None
  try:
    if fits and kind in ("int", "float"):
      fits = math.isfinite(flag.parser.convert(text))
  except (ValueError, TypeError):
    fits = False
  try:
    value = flag.parser.parse(text) if fits else None
  except ValueError as error:
    raise ValueError(
        f"{leaf.origin}: {leaf.key} is {text}: {error}.") from None
  if not fits:
    shown = leaf.value if leaf.kind != "quoted" else repr(leaf.value)
    raise ValueError(
        f"{leaf.origin}: {leaf.key} is {shown}, but {needed} is needed"
        + (": put it in quotes." if is_text and leaf.kind == "bool" else
           ", without quotes." if leaf.kind == "quoted" else "."))
  return value


def define_sizes(values):
  """Defines the keys of bert_config.json as flags.

  Args:
    values: FlagValues to define them in.
  """
  for name in ("vocab_size", "hidden_size", "num_hidden_layers",
               "num_attention_heads", "intermediate_size",
               "max_position_embeddings", "type_vocab_size"):
    flags.DEFINE_integer(name, None, "", lower_bound=1, flag_values=values)
  for name in ("hidden_dropout_prob", "attention_probs_dropout_prob",
               "initializer_range"):
    flags.DEFINE_float(name, None, "", lower_bound=0.0, upper_bound=1.0,
                       flag_values=values)
  flags.DEFINE_enum("hidden_act", None, _ACTIVATIONS, "", flag_values=values)


class Configuration(object):
  """The flags of a script with the origin of each.

  Attributes:
    settings: dict flag -> Setting, what was set.
    sizes: dict key of bert_config.json -> Setting.
    ignored: list of string, foreign names without a meaning here.
  """

  def __init__(self, script, flag_values):
    """Without any value.

    Args:
      script: string, "classifier", "squad" or "pretraining".
      flag_values: FlagValues, the flags that may be set.
    """
    self._script, self._flags = script, flag_values
    self._size_flags, self._foreign_flags = (
        flags.FlagValues(), flags.FlagValues())
    define_sizes(self._size_flags)
    alias_helpers.define_foreign_flags(self._foreign_flags)
    self.settings, self.sizes, self.ignored = {}, {}, []
    # Values that are no flags, but make some in the end.
    self._foreign = {}

  def set(self, name, value, origin):
    """Sets a flag to a parsed value."""
    self._store(self.settings, name, Setting(value, origin))

  def _store(self, place, name, setting):
    place[name] = setting
    for winner, loser in _RIVALS:
      if winner == name:
        self.settings.pop(loser, None)
        self._foreign.pop(loser, None)

  def add(self, leaves):
    """Adds a layer, whose values count more than earlier ones.

    Args:
      leaves: list of Leaf.

    Raises:
      ValueError: one is unknown, of a wrong type or out of range, or two
        disagree.
    """
    found = {}  # (place, name) -> (Leaf, Setting).
    for leaf in leaves:
      if leaf.key in _HEAD or _is_empty_section(leaf):
        continue
      for target in self._targets(leaf):
        name, own = target.key, target._replace(key=leaf.key)
        place, flag_values = self._place_of(name, leaf)
        setting = Setting(parse_value(flag_values[name], own), leaf.origin)
        other, same = found.setdefault(
            (id(place), name), (leaf, (place, name, setting)))
        if same[2].value != setting.value:
          raise ValueError(
              f"{leaf.origin}: {leaf.key} and {other.key} ({other.origin}) "
              f"both stand for {name} and differ.")
    names = {name: leaf for leaf, (_, name, _) in found.values()}
    for name, foreign in (("train_batch_size", "global_batch_size"),
                          ("warmup_proportion", "warmup_steps")):
      if name in names and foreign in names:
        one, other = names[name], names[foreign]
        raise ValueError(f"{other.origin}: {other.key} and {one.key} "
                         f"({one.origin}) say the same: give one of them.")
    # Other rivals of one layer stand side by side.
    for _, (place, name, setting) in found.values():
      self._store(place, name, setting)
    for _, (place, name, setting) in found.values():
      place[name] = setting

  def _targets(self, leaf):
    """Leafs of flags (key: name of flag or size) that a Leaf stands for."""
    section, _, name = leaf.key.partition(".")
    if section in SECTIONS and (
        name in self._flags and section_of(name) == section or
        section == "model" and name in self._size_flags):
      return [leaf._replace(key=name)]
    if section == "model" and name in _OF_ANY_SCRIPT:
      self.ignored.append(leaf.key)
      return []
    alias = alias_helpers.find(leaf.key)
    if alias is None:
      raise ValueError(f"{leaf.origin}: {self._unknown(leaf.key)}")
    targets = alias_helpers.translate(alias, leaf, self._script)
    if targets is None and leaf.kind != "null":
      self.ignored.append(leaf.key)
    return targets or []

  def _place_of(self, name, leaf):
    """(dict, FlagValues) that hold the values of this name."""
    for place, flag_values in ((self.settings, self._flags),
                               (self.sizes, self._size_flags),
                               (self._foreign, self._foreign_flags)):
      if name in flag_values:
        return place, flag_values
    raise ValueError(f"{leaf.origin}: {leaf.key} stands for --{name}, which "
                     f"the script of this experiment does not have.")

  def _unknown(self, key):
    """What is wrong with a name that stands for nothing (string)."""
    name = key.rpartition(".")[2]
    if name in self._flags:
      return (f"{key}: {name} belongs to the section {section_of(name)}, as "
              f"{section_of(name)}.{name}.")
    if name in self._size_flags:
      return f"{key}: {name} belongs to the section model, as model.{name}."
    if name in _SECTION_OF:
      return f"{key}: the script of this experiment has no flag --{name}."
    own = [f"{section_of(flag)}.{flag}" for flag in self._flags]
    own += [f"model.{size}" for size in self._size_flags] + list(_HEAD)
    near = difflib.get_close_matches(key, own + alias_helpers.names(), 1, 0.75)
    if not near:
      near = [full for full in own if full.endswith("." + next(iter(
          difflib.get_close_matches(
              name, [full.rpartition(".")[2] for full in own], 1)), "?"))]
    return f"{key} is unknown." + (
        f" Did you mean {near[0]}?" if near else
        f" The sections are {', '.join(SECTIONS)}.")

  def finish(self, num_ranks):
    """Makes flags of foreign values, and looks at ranges.

    Args:
      num_ranks: int, ranks of the run.

    Raises:
      ValueError: a value is out of range, or can't be translated.
    """
    alias_helpers.finish(self, self._foreign, num_ranks)
    values = {name: self.value(name) for name in self._flags}
    try:
      flag_helpers.check_training_flags(
          types.SimpleNamespace(**values))
    except ValueError as error:
      names = [name for name in re.findall(r"--(\w+)", str(error))
               if name in self.settings]
      raise ValueError("".join(
          f"{self.settings[name].origin}: " for name in names[:1])
                       + str(error)) from None

  def has_flag(self, name):
    """Whether the script has such a flag."""
    return name in self._flags

  def value(self, name):
    """The value of a flag, or its default; None for one that isn't there."""
    if name in self.settings:
      return self.settings[name].value
    return self._flags[name].default if name in self._flags else None

  def arguments(self, names):
    """Flags for a command line.

    Args:
      names: container of those that it may have.

    Returns:
      List of string; what is as by default is left out.
    """
    return [f"--{name}={_text(value)}"
            for name, (value, _) in sorted(self.settings.items())
            if name in names and value is not None
            and value != self._flags[name].default]

  def bert_config(self):
    """bert_config.json of the sizes (string); None without any.

    Raises:
      ValueError: they describe no model.
    """
    if not self.sizes:
      return None
    sizes = {name: value for name, (value, _) in self.sizes.items()
             if value is not None}
    origin = next(iter(self.sizes.values())).origin
    if "vocab_size" not in sizes:
      raise ValueError(f"{origin}: a model is described, but model.vocab_size "
                       f"is missing.")
    # BertConfig's own default, 16, fits no checkpoint that was published.
    config = modeling.BertConfig(**{"type_vocab_size": 2, **sizes})
    try:
      flag_helpers.check_bert_config("(none)", config)
    except ValueError as error:
      named = [self.sizes[name].origin for name in re.findall(
          r"\w+", str(error)) if name in self.sizes]
      raise ValueError(f"{(named or [origin])[0]}: "
                       f"{str(error).partition(': ')[2]}") from None
    return config.to_json_string()

  def to_yaml(self, head, left_out, with_origins=False):
    """The configuration as a file that makes it again.

    Args:
      head: dict of what stands before the sections: experiment and mode.
      left_out: container of flags that need not stand there.
      with_origins: bool, add the origin of each value as a comment.

    Returns:
      string.
    """
    lines = [_yaml_line(name, *setting, with_origins)
             for name, setting in head.items()]
    for section in SECTIONS:
      own = {name: setting for name, setting in sorted(self.settings.items())
             if section_of(name) == section and name not in left_out
             and name not in _NOT_WRITTEN}
      if section == "model":
        own.update(self.sizes)
      if own:
        lines.append(f"{section}:")
        lines += ["  " + _yaml_line(name, *setting, with_origins)
                  for name, setting in own.items()]
    return "\n".join(lines) + "\n"


def _text(value):
  """A flag's value for a command line (string)."""
  return ",".join(value) if isinstance(value, list) else str(value)


def _yaml_line(name, value, origin, with_origin):
  text = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True,
                        width=math.inf).strip()
  line = f"{name}: {text[1:-1]}"
  return f"{line:40s}  # {origin}" if with_origin else line


def flags_of(define):
  """Returns the flags (FlagValues) that a function defines, apart from FLAGS.

  Args:
    define: function without arguments that defines flags in FLAGS, which is
      left as it was.
  """
  before = set(flags.FLAGS)
  define()
  values = flags.FlagValues()
  for name in set(flags.FLAGS) - before:
    values[name] = flags.FLAGS[name]
    delattr(flags.FLAGS, name)
  return values
