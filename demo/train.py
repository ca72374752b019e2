# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Runs a script from configuration files: the driver of all trainings.

  python -m demo.train --experiment=bert/sentence_prediction \
    --mode=train_and_eval --output_dir=/tmp/mrpc \
    --config_file=experiments/glue_mrpc.yaml \
    --params_override=data.data_dir=glue/MRPC,model.vocab_file=vocab.txt \
    --bert_config_file=bert_config.json --init_checkpoint=bert_model.ckpt

Each leaf of a file is a flag of the script that the experiment runs, in one of
the sections data, model, trainer and runtime. Every flag of the script may
stand on the command line too. What counts, from least to most: the flags'
defaults, the experiment and the mode, the files in their order,
--params_override, the command line. The outcome is written to params.yaml in
--output_dir, which is a --config_file that makes the run again.
"""

import collections
import copy
import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
import tensorflow as tf

from demo import config_helpers
from demo import horovod_helpers
from demo import script_helpers
from demo import seed_helpers
from demo import task_helpers
import habana
import run_classifier_with_tfhub
import run_pretraining
import run_squad

_COMMAND_LINE = "the command line"
_HUB_FLAG = "bert_hub_module_handle"
_LAUNCH_FLAGS = ("num_ranks", "hosts", "restarts")
# A launcher ends all ranks when the first one ends: rank 0 has to say why.
_FAREWELL_SECONDS = 1.0

_MODES = {
    "train": ["do_train"], "eval": ["do_eval"], "predict": ["do_predict"],
    "train_and_eval": ["do_train", "do_eval"],
    "eval_all": ["do_eval", "eval_all_checkpoints"],
    "continuous_eval": ["do_eval", "continuous_eval"],
    "export": ["do_export"],
}
_TRAINING_MODES = ("train", "train_and_eval")
# Of these, files tell how a training with evaluation goes; other modes have no
# use for them.
_EVALUATION_FLAGS = {
    "eval_every_steps": ("train_and_eval", "eval", "predict", "export"),
    "early_stopping_patience": ("train_and_eval",),
    "best_metric": ("train_and_eval", "eval_all", "continuous_eval"),
}
# Flags of the other systems' command lines, and what to do instead.
_FOREIGN_OPTIONS = {
    "gin_file": "give its values in --params_override",
    "gin_params": "give its values in --params_override",
    "tf_data_service": "leave it out",
    "pretrain_steps": "leave it out",
    "steps": "--max_steps is the number of steps in all",
    "eval_steps": "leave it out: all of the data is evaluated",
    "device": "leave it out: a GPU is taken if there is one; --cpu_only takes "
              "none",
    "cs_ip": "there is no such machine: leave it out",
    "is_pretrained_checkpoint": "leave it out: a training takes the weights of "
                                "--checkpoint_path, and no steps",
}


class Experiment(collections.namedtuple(
    "Experiment", ["script", "file", "define_flags", "preset"])):
  """What --experiment names.

  Attributes:
    script: string, as alias_helpers calls it.
    file: string, the script.
    define_flags: function that defines its flags.
    preset: dict flag -> value.
  """


# Rates and steps are those of the Model Garden's experiments of these names,
# the batch is its squad_v1.yaml's.
EXPERIMENTS = {
    "bert/sentence_prediction": Experiment(
        "classifier", "run_classifier.py",
        run_classifier_with_tfhub.init_classifier_with_tfhub_flags,
        {"learning_rate": 3e-5}),
    "bert/squad": Experiment(
        "squad", "run_squad.py", run_squad.init_squad_flags,
        {"learning_rate": 8e-5, "train_batch_size": 48}),
    "bert/pretraining": Experiment(
        "pretraining", "run_pretraining.py",
        run_pretraining.init_pretraining_flags,
        {"learning_rate": 1e-4, "num_train_steps": 1000000}),
}


def define_driver_flags(values):
  """Defines the driver's own flags.

  Args:
    values: FlagValues to define them in.
  """
  def define(kind, *args, **kwargs):
    getattr(flags, f"DEFINE_{kind}")(*args, **kwargs, flag_values=values)

  define("enum", "experiment", None, list(EXPERIMENTS), "What to train.")
  define("enum", "mode", None, list(_MODES), "What to do.", short_name="m")
  define("multi_string", "config_file", [],
         "YAML or JSON file, also one of demo/configs by its name there. "
         "Later ones count more.", short_name="p")
  define("multi_string", "params_override", [],
         "Values that count more than the files': a.b=c,d.e=f, or a file, or "
         "YAML as text.")
  define("alias", "params", "config_file")
  define("bool", "show_config", False,
         "Print the configuration with the origin of each value, and end.")
  define("list", "seeds", None,
         "Random seeds, such as 1,2,3: train with each in a folder of its own, "
         "and report mean, standard deviation and the best.")
  define("integer", "num_ranks", None, "Start so many ranks with demo.launch.",
         lower_bound=1)
  define("string", "hosts", None,
         "With --num_ranks: servers and how many ranks each takes, a:4,b:4.")
  define("integer", "restarts", 0,
         "With --num_ranks: starts after a failure, from the last checkpoint.",
         lower_bound=0)
  define("string", "tpu", None, "As --use_tpu --tpu_name.")
  define("string", "tfhub_cache_dir", None,
         "Folder for modules of TensorFlow Hub that are downloaded.")


class Plan(collections.namedtuple("Plan", [
    "experiment", "mode", "config", "script", "arguments", "bert_config",
    "notes", "options", "head", "absl_flags", "verbosity"])):
  """A run that is resolved.

  Attributes:
    experiment: string.
    mode: string.
    config: Configuration.
    script: string, the script's file.
    arguments: list of string, its flags.
    bert_config: string, the model's file, if it has to be written; or None.
    notes: list of string, lines for the user.
    options: FlagValues, the driver's own flags.
    head: dict for `Configuration.to_yaml`.
    absl_flags: list of string, those of absl among the arguments.
    verbosity: int, absl's.
  """

  @property
  def output_dir(self):
    """Folder of the run (string)."""
    return self.config.value("output_dir")

  def to_yaml(self, with_origins=False, left_out=()):
    """The content of params.yaml (string), without the flags in left_out."""
    # What the mode sets, the line of the mode says.
    of_mode = {name for name, setting in self.config.settings.items()
               if setting.origin == f"--mode={self.mode}"
               and name not in _EVALUATION_FLAGS}
    return self.config.to_yaml(
        self.head, of_mode.union(left_out), with_origins)


def resolve(argv):
  """Makes a run of a command line.

  Args:
    argv: list of string, with the program's name.

  Returns:
    Plan.

  Raises:
    ValueError: names what can't be, with file and line or flag.
  """
  options = flags.FlagValues()
  define_driver_flags(options)
  options.set_gnu_getopt(True)
  _parse(options, argv, known_only=True)
  layers = [config_helpers.read_config(config_helpers.find_config(name))
            for name in options.config_file]
  layers += [config_helpers.parse_override(text)
             for text in options.params_override]

  name, name_origin = _head(options, layers, "experiment")
  mode, mode_origin = _head(options, layers, "mode", "runconfig.mode")
  experiment = EXPERIMENTS[name]
  script_flags = config_helpers.flags_of(experiment.define_flags)
  script_names = set(script_flags)
  command_line = _parse_command_line(argv, script_flags)
  for flag in _LAUNCH_FLAGS:
    script_flags[flag] = command_line[flag]

  config = config_helpers.Configuration(experiment.script, script_flags)
  for flag, value in experiment.preset.items():
    config.set(flag, value, f"--experiment={name}")
  for flag in _mode_flags(experiment, mode, config):
    config.set(flag, True, f"--mode={mode}")
  for layer in layers:
    _add(config, layer, name, name_origin)
  for flag in script_names | set(_LAUNCH_FLAGS):
    if command_line[flag].present:
      config.set(flag, command_line[flag].value, _COMMAND_LINE)
  if options.tpu:
    config.set("use_tpu", True, "--tpu")
    config.set("tpu_name", options.tpu, "--tpu")
  notes = []
  _fit_to_mode(config, mode, notes)
  ranks = config.value("num_ranks") or 1
  config.finish(max(ranks, horovod_helpers.comm_size()))
  if mode in _TRAINING_MODES:
    _note_endless_warmup(config, notes)
  if config.ignored:
    notes.append("Without a meaning here, and passed over: "
                 + ", ".join(sorted(set(config.ignored))) + ".")

  script = experiment.file
  if config.value(_HUB_FLAG):
    script = "run_classifier_with_tfhub.py"
    bert_config = None
    if config.sizes:
      notes.append(f"The sizes of the model are those of --{_HUB_FLAG}.")
  else:
    script_names.discard(_HUB_FLAG)
    bert_config = _bert_config(config, notes)
  if config.value("output_dir") is None:
    raise ValueError("Where to? Pass --output_dir (or --model_dir).")
  arguments = config.arguments(script_names)
  if bert_config:
    arguments.append(f"--bert_config_file={_bert_config_file(config)}")
  absl_flags = _absl_arguments(command_line)
  return Plan(
      name, mode, config, os.path.join(script_helpers.PROJECT_FOLDER, script),
      arguments + absl_flags, bert_config, notes, options,
      {"experiment": (name, name_origin), "mode": (mode, mode_origin)},
      absl_flags, command_line["verbosity"].value)


def _parse(values, argv, known_only=False):
  """Parses a command line (ValueError where absl refuses it)."""
  try:
    return values(argv, known_only=known_only)
  except flags.UnrecognizedFlagError as error:
    instead = _FOREIGN_OPTIONS.get(error.flagname)
    raise ValueError(f"--{error.flagname} means nothing here: {instead}."
                     if instead else str(error)) from None
  except flags.Error as error:
    raise ValueError(" ".join(str(error).split())) from None


def _parse_command_line(argv, script_flags):
  """Returns FlagValues with the driver's, the script's and absl's flags."""
  values = flags.FlagValues()
  define_driver_flags(values)
  for name in script_flags:
    values[name] = script_flags[name]
  for name in ("model_dir", "o"):
    flags.DEFINE_alias(name, "output_dir", flag_values=values)
  for name in flags.FLAGS:
    if name == flags.FLAGS[name].name:  # Short names come with it.
      values[name] = copy.deepcopy(flags.FLAGS[name])
  values.set_gnu_getopt(True)
  rest = _parse(values, argv)[1:]
  if rest:
    raise ValueError(f"{rest[0]!r} is no flag.")
  return values


def _absl_arguments(values):
  """Flags of absl, such as --verbosity, for the script (list of string)."""
  return [values[name].serialize() for name in flags.FLAGS
          if values[name].present and name == flags.FLAGS[name].name]


def _head(options, layers, name, *aliases):
  """The experiment or mode, and where it is from (strings)."""
  value, origin = options[name].value, _COMMAND_LINE
  known = options[name].parser.enum_values
  if value is None:
    for layer in layers:
      for leaf in layer:
        if leaf.key == name or leaf.key in aliases:
          value, origin = leaf.value, leaf.origin
  if value is None and name == "experiment" and any(
      leaf.key.startswith("train_input.") for layer in layers
      for leaf in layer):
    value, origin = known[0], "the section train_input"
  if value not in known:
    raise ValueError(
        (f"{origin}: {name} is {value!r}" if value else f"--{name} is missing")
        + f": one of {', '.join(known)} is needed.")
  return value, origin


def _add(config, layer, experiment, origin):
  """Adds a layer; a file of another experiment is named as such."""
  try:
    config.add(layer)
  except ValueError as error:
    for leaf in layer:
      if leaf.key == "experiment" and leaf.value != experiment:
        raise ValueError(
            f"{error} The file is for {leaf.value}, but {experiment} is the "
            f"experiment ({origin}).") from None
    raise


def _note_endless_warmup(config, notes):
  """A pretraining that is cut short may be all warm-up."""
  steps, warmup = (config.value("num_train_steps"),
                   config.value("num_warmup_steps"))
  if steps and warmup and warmup >= steps:
    notes.append(f"After {steps} steps the {warmup} of the warm-up are not "
                 f"over, and the rate stays below "
                 f"{config.value('learning_rate'):g}: give a smaller "
                 f"trainer.num_warmup_steps.")


def _mode_flags(experiment, mode, config):
  """The flags (string) that a mode sets (ValueError if the script has none)."""
  names = list(_MODES[mode])
  if experiment.script == "squad" and "do_eval" in names:
    names.append("do_predict")  # Answers are what is scored.
  for name in names:
    if not config.has_flag(name):
      raise ValueError(f"--mode={mode}: {experiment.file} can't do that.")
  return names


def _fit_to_mode(config, mode, notes):
  """Leaves out what the mode has no use for, and adds what it needs."""
  settings = config.settings
  for name, modes in _EVALUATION_FLAGS.items():
    if (mode not in modes and name in settings
        and settings[name].origin != _COMMAND_LINE):
      del settings[name]
  _fit_to_device(config, notes)
  if config.value("use_tpu"):
    _fit_to_tpu(config, mode, notes)
  elif mode == "train_and_eval" and "eval_every_steps" not in settings:
    config.set("eval_every_steps", config.value("save_checkpoints_steps"),
               f"--mode={mode}")
  # Cerebras' --checkpoint_path is where a training begins.
  if (mode in _TRAINING_MODES and config.value("checkpoint_path")
      and not config.value("init_checkpoint")):
    value, origin = settings.pop("checkpoint_path")
    config.set("init_checkpoint", value, origin)
    notes.append("--checkpoint_path is taken for --init_checkpoint, for this "
                 "is a training.")


def _fit_to_device(config, notes):
  """Leaves out batches of many lengths where each length costs a compilation.

  A TPU takes none; of a Gaudi who asks for them on the command line gets them.
  """
  settings = config.settings
  if not config.value("dynamic_padding") or (
      settings["dynamic_padding"].origin == _COMMAND_LINE):
    return
  is_tpu = config.value("use_tpu")
  if is_tpu or not config.value("cpu_only") and habana.has_library():
    del settings["dynamic_padding"]
    device = "TPU" if is_tpu else "Gaudi"
    notes.append(f"--dynamic_padding is left out: {device} compiles a program "
                 f"for each length of batches.")


def _fit_to_tpu(config, mode, notes):
  """A TPU has a name, and evaluates when the training is over."""
  settings = config.settings
  # The Model Garden's strategy tpu, copied to a machine without one.
  origin = settings["use_tpu"].origin
  if (origin != _COMMAND_LINE and not config.value("tpu_name")
      and not config.value("master")):
    raise ValueError(f"{origin}: a TPU is asked for, and none is named: pass "
                     f"--tpu, or give distribution_strategy: mirrored for CPUs "
                     f"and GPUs.")
  left_out = [name for name in _EVALUATION_FLAGS if name in settings
              and settings[name].origin != _COMMAND_LINE]
  for name in left_out:
    del settings[name]
  if mode == "train_and_eval" and left_out:
    notes.append(f"A TPU evaluates at the end only: "
                 f"{', '.join(sorted(left_out))} left out.")


def _bert_config_file(config):
  return os.path.join(config.value("output_dir"), "bert_config.json")


def _bert_config(config, notes):
  """The model's file (string) where none is given, else None."""
  path = config.value("bert_config_file")
  if path is None:
    content = config.bert_config()
    if content is None:
      raise ValueError(
          "--bert_config_file is needed, or a file with the model's sizes, "
          "such as --config_file=models/bert_en_uncased_base.yaml.")
    return content
  try:
    with tf.io.gfile.GFile(path) as reader:
      found = json.load(reader)
  except (tf.errors.OpError, ValueError):
    return None  # The script says what is wrong with it.
  others = [f"{name} {found[name]} (not {setting.value})"
            for name, setting in config.sizes.items()
            if setting.value is not None and name in found
            and found[name] != setting.value]
  if others:
    notes.append(f"--bert_config_file={path} counts, not the sizes in section "
                 f"model: {', '.join(others)}.")
  return None


def write_bert_config(plan):
  """Writes the model's file into the output folder, if there is none yet.

  Every rank does so, with the same content: none has to wait for another.

  Args:
    plan: Plan.

  Raises:
    ValueError: there is one of another model.
  """
  path = _bert_config_file(plan.config)
  if tf.io.gfile.exists(path):
    with tf.io.gfile.GFile(path) as reader:
      if reader.read() == plan.bert_config:
        return
    raise ValueError(
        f"{path} describes another model than the configuration does: choose "
        f"another --output_dir, or pass --bert_config_file={path}.")
  temporary = f"{path}.{socket.gethostname()}.{os.getpid()}.tmp"
  with tf.io.gfile.GFile(temporary, "w") as writer:
    writer.write(plan.bert_config)
  tf.io.gfile.rename(temporary, path, overwrite=True)


def write_params(plan, argv):
  """Writes params.yaml; other modes leave that of a training as it is.

  Args:
    plan: Plan.
    argv: list of string, the command line.

  Returns:
    string, the file's path.
  """
  path = os.path.join(plan.output_dir, "params.yaml")
  if plan.mode not in _TRAINING_MODES and tf.io.gfile.exists(path):
    path = os.path.join(plan.output_dir, f"params_{plan.mode}.yaml")
  command = f"python -m demo.train {shlex.join(argv[1:])}"
  script_helpers.write_text(path, (
      "".join(f"# {line}\n" for line in command.splitlines()) +
      f"# --config_file={path} makes this run again; add another "
      f"--output_dir.\n" + plan.to_yaml()))
  return path


def launch_command(plan):
  """The command (list of string) that starts the ranks of a run."""
  command = [sys.executable, "-m", "demo.launch", "-np",
             str(plan.config.value("num_ranks"))]
  if plan.config.value("hosts"):
    command += ["-H", plan.config.value("hosts")]
  if plan.config.value("restarts"):
    command += ["--restarts", str(plan.config.value("restarts"))]
  return command + ["--", plan.script, *plan.arguments]


def _check_records(plan):
  """Refuses records for a part of the run, and none for a pretraining.

  The script would ask for a folder of text, which who has records has not.

  Args:
    plan: Plan.

  Raises:
    ValueError: names what is missing.
  """
  config = plan.config
  if config.has_flag("input_file") and not config.value("input_file"):
    raise ValueError("There are no records: --input_file is needed "
                     "(data.input_file, task.train_data.input_path).")
  given = [name for name in task_helpers.RECORDS_OF_STEPS.values()
           if config.value(name)]
  if not given or any(config.value(name) for name in (
      "data_dir", "use_tfds", "train_file", "dev_file", "test_file")):
    return
  for step, name in task_helpers.RECORDS_OF_STEPS.items():
    if config.value(step) and config.has_flag(name) and not config.value(name):
      raise ValueError(
          f"--mode={plan.mode}: {config.settings[given[0]].origin} gives "
          f"--{given[0]}, but there is no --{name} (data.{name}"
          + {"eval_records": ", task.validation_data.input_path",
             "train_records": ", task.train_data.input_path"}.get(name, "")
          + ").")


def _run_seeds(plan, argv):
  """Trains with each seed in a process of its own; returns an exit status."""
  seeds = seed_helpers.parse_seeds(plan.options.seeds)
  config = plan.config
  if plan.mode != "train_and_eval":
    raise ValueError(f"--seeds compares scores: pass --mode=train_and_eval, "
                     f"not {plan.mode}.")
  if config.value("validate_only") or config.value("compile_only"):
    raise ValueError("--seeds can't be combined with --validate_only and "
                     "--compile_only: try one run without it.")
  if horovod_helpers.comm_size() > 1:
    raise ValueError("--seeds starts the processes itself: leave the launcher "
                     "out, and give runtime.num_ranks.")
  if config.has_flag("detailed_results"):  # All scores of the task.
    config.set("detailed_results", True, "--seeds")
  path = write_params(plan, argv)

  def start(seed, folder):
    return _run_process([
        sys.executable, "-m", "demo.train", f"--config_file={path}",
        f"--output_dir={folder}", f"--random_seed={seed}", *plan.absl_flags])

  return seed_helpers.run_seeds(
      seeds, plan.output_dir,
      plan.to_yaml(left_out=("output_dir", "random_seed")).splitlines(),
      config.value("best_metric"), start)


def _run_process(command):
  """Runs a command, to which requests to end are passed on; its status."""
  with subprocess.Popen(command) as process:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    try:
      for number in numbers:
        # Ctrl-C reaches the process from the terminal.
        signal.signal(number, lambda number, _: (
            number == signal.SIGINT or process.send_signal(number)))
      status = process.wait()
    finally:
      for number, handler in zip(numbers, before):
        signal.signal(number, handler)
  return 128 - status if status < 0 else status


def _say(message):
  print(f"train: {message}", file=sys.stderr, flush=True)


def run(argv):
  """Runs a command line; returns an exit status, or ends as the script does.

  Args:
    argv: list of string, with the program's name.

  Raises:
    ValueError: the user's mistake.
  """
  plan = resolve(argv)
  options = plan.options
  if options.show_config:
    print(plan.to_yaml(with_origins=True), end="")
    return 0
  _check_records(plan)
  is_chief = horovod_helpers.comm_rank() == 0
  if is_chief:
    for note in plan.notes:
      _say(note)
    if plan.verbosity >= 1:
      for line in plan.to_yaml(with_origins=True).splitlines():
        _say(line)
  if options.tfhub_cache_dir:
    os.environ["TFHUB_CACHE_DIR"] = options.tfhub_cache_dir
  script_helpers.check_output_dir(plan.output_dir)
  if options.seeds is not None:
    return _run_seeds(plan, argv)
  if plan.bert_config:
    write_bert_config(plan)
  if is_chief:
    write_params(plan, argv)
  if (plan.config.value("num_ranks") or 1) > 1 and (
      horovod_helpers.comm_size() == 1):
    command = launch_command(plan)
    sys.stdout.flush()
    os.execv(command[0], command)  # The ranks need the memory.
  # As if the user had started it: its flags, checks and errors are its own.
  sys.argv = [plan.script, *plan.arguments]
  runpy.run_path(plan.script, run_name="__main__")
  return 0


def main(argv):
  """Runs the command line."""
  if any(re.fullmatch(r"--?help(short|full|xml)?", word) for word in argv):
    values = flags.FlagValues()
    define_driver_flags(values)
    print(f"{__doc__}\nFlags of its own, beside those of the scripts "
          f"(python run_classifier.py --helpfull):\n{values.get_help()}")
    return 0
  try:
    return run(argv)
  except (ValueError, OSError, tf.errors.OpError) as error:
    if horovod_helpers.comm_rank() == 0:
      message = " ".join(str(getattr(error, "message", error)).split("\n"))
      print(f"{os.path.basename(argv[0])}: error: {message}", file=sys.stderr)
    else:
      time.sleep(_FAREWELL_SECONDS)
    return 1


if __name__ == "__main__":
  sys.exit(main(sys.argv))
