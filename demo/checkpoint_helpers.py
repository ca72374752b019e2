# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Checkpoints: whether they fit, what a model takes from them, their step."""

import json
import os
import re

from absl import logging
import tensorflow as tf

from demo import gradient_helpers
from demo import horovod_helpers
from demo import layer_helpers

# TensorFlow's checkpoint reader turns its errors into Python's, not always.
_READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)
# The first of the slots that each optimizer keeps beside a variable.
_SLOTS = {"adamw": "adam_m", "lamb": "lamb_m"}

# What the names of the scripts' variables begin with; `module` is that of a
# TensorFlow Hub module.
_MODEL_SCOPES = ("bert", "cls", "module", "output_bias", "output_weights")


def check_checkpoint(init_checkpoint, bert_config):
  """Reads an initial checkpoint through before any work is done.

  Args:
    init_checkpoint: string, checkpoint prefix.
    bert_config: BertConfig that it has to fit.

  Raises:
    ValueError: it is missing, cut short, or of another vocabulary or width.
  """
  shapes = _read_through(
      init_checkpoint, f"--init_checkpoint={init_checkpoint}")
  for name, rows, key in (
      ("bert/embeddings/word_embeddings", bert_config.vocab_size,
       "vocab_size"),
      ("bert/embeddings/position_embeddings",
       bert_config.max_position_embeddings, "max_position_embeddings")):
    if name in shapes and shapes[name] != [rows, bert_config.hidden_size]:
      raise ValueError(
          f"--init_checkpoint={init_checkpoint} does not fit "
          f"--bert_config_file: {name} has shape {shapes[name]}, {key} "
          f"and hidden_size say {[rows, bert_config.hidden_size]}. Use the "
          f"vocab.txt and bert_config.json of the same model.")


def best_dir(output_dir):
  """The folder of the best model of a run."""
  return os.path.join(output_dir, "best")


def best_prefix(output_dir, step):
  """The prefix of the best model, that of a step (int)."""
  return os.path.join(best_dir(output_dir), f"model.ckpt-{step}")


def read_json(path):
  """A JSON object of a run (dict); None where there is no whole one."""
  try:
    with tf.io.gfile.GFile(path, "r") as reader:
      return dict(json.load(reader))
  except (tf.errors.OpError, ValueError, TypeError):
    return None


def chosen_checkpoint(args):
  """The checkpoint to evaluate, predict and export with.

  Args:
    args: the parsed flags.

  Returns:
    string, prefix of --checkpoint_path or, with --eval_every_steps, of the
    best model; None for the newest in --output_dir.

  Raises:
    ValueError: --checkpoint_path is none.
  """
  path = args.checkpoint_path
  if path:
    found = (tf.train.latest_checkpoint(path)
             if tf.io.gfile.isdir(path) else path)
    if not found or not tf.io.gfile.exists(found + ".index"):
      raise ValueError(
          f"--checkpoint_path={path}: there is no checkpoint. Give a prefix, "
          f"such as {os.path.join(args.output_dir, 'model.ckpt-1000')}, or a "
          f"folder that holds one.")
    return found
  if args.eval_every_steps:
    info = read_json(os.path.join(best_dir(args.output_dir), "info.json"))
    if info:
      return best_prefix(args.output_dir, info["step"])
  return None


def check_output_checkpoint(output_dir, tvars):
  """Makes sure that a run can go on from what its output folder holds.

  TensorFlow restores a variable of another shape without a word, and leaves
  layers out that the model hasn't.

  Args:
    output_dir: string.
    tvars: list of the model's trainable variables.

  Returns:
    string, prefix of the newest checkpoint, or None.

  Raises:
    ValueError: it is damaged, or of another model.
  """
  path = tf.train.latest_checkpoint(output_dir)
  if path is None:
    return None
  _check_same_model(path, f"{path}, the newest in --output_dir,", tvars)
  return path


def _check_same_model(path, what, tvars):
  """Refuses a damaged checkpoint, or one of another model."""
  saved = _read_through(path, what)
  wanted = {var.op.name: var.shape.as_list() for var in tvars}
  layers = [name for name in saved
            if any(f"{name}/{slot}" in saved for slot in _SLOTS.values()) or
            name.startswith("bert/") and not re.search("/(adam|lamb)_", name)]
  for name in sorted(set(wanted) | set(layers)):
    if saved.get(name) != wanted.get(name):
      raise ValueError(
          f"{path} is of another model: {name} is {saved.get(name, 'missing')} "
          f"there and {wanted.get(name, 'missing')} here. Give this run "
          f"another --output_dir, or the flags of the run that wrote it.")


def check_optimizer_state(args, tvars, path):
  """Refuses to go on from a checkpoint that another kind of training wrote.

  Args:
    args: the parsed flags (optimizer, freeze_layers, precision, loss_scale).
    tvars: list of the model's trainable variables.
    path: string, the checkpoint.

  Raises:
    ValueError: names the flag that is not as it was.
  """
  saved = {name for name, _ in tf.train.list_variables(path)}
  slot = _SLOTS[args.optimizer]
  found = [name for name, one in _SLOTS.items()
           if any(key.endswith(f"/{one}") for key in saved)]
  # Without a gradient, as a pooler that is not used, a head has no slots.
  missing = [
      var.op.name for var in tvars if f"{var.op.name}/{slot}" not in saved and
      layer_helpers.layer_of(var.op.name) is not None and
      not layer_helpers.is_frozen(var.op.name, args.freeze_layers)]
  if args.optimizer not in found:
    problem = (f"--optimizer={args.optimizer} can't go on from {path}, which "
               f"has the state of {found[0] if found else 'no optimizer'}")
  elif missing:
    problem = (f"--freeze_layers={args.freeze_layers} can't go on from {path}, "
               f"whose training left more layers as they were, {missing[0]} "
               f"among them")
  elif args.precision == "fp16" and not saved.issuperset(
      gradient_helpers.state_names(args.loss_scale)):
    problem = (f"--precision=fp16 can't go on from {path}, which has no such "
               f"loss scale")
  else:
    return
  raise ValueError(
      f"{problem}. Give the flags of the run that wrote it, or another "
      f"--output_dir, perhaps with this checkpoint as --init_checkpoint.")


def steps_done(output_dir):
  """The global step of the newest checkpoint (int), 0 without one."""
  return step_of(tf.train.latest_checkpoint(output_dir))


def step_of(path):
  """The global step of a checkpoint (prefix or None), 0 without one."""
  try:
    return int(tf.train.load_variable(path, "global_step")) if path else 0
  except _READ_ERRORS as error:
    logging.warning("%s can't be read (%s).", path, _first_line(error))
    return 0


def saved_steps(output_dir):
  """The checkpoints of a run that are there, the oldest first.

  Args:
    output_dir: string.

  Returns:
    List of (global step, prefix).
  """
  names = (re.fullmatch(r"(model\.ckpt-(\d+))\.index", name)
           for name in tf.io.gfile.listdir(output_dir))
  return sorted((int(name[2]), os.path.join(output_dir, name[1]))
                for name in names if name)


def _read_through(path, what):
  """Reads every value of a checkpoint; returns dict name -> shape (list)."""
  reader = open_checkpoint(path, what)
  shapes = reader.get_variable_to_shape_map()
  for name in sorted(shapes):
    read_variable(reader, name, what)
  return {name: list(shape) for name, shape in shapes.items()}


def open_checkpoint(path, what):
  """Opens a checkpoint.

  Args:
    path: string, its prefix.
    what: string, names it in messages.

  Returns:
    TensorFlow's reader.

  Raises:
    ValueError: it is missing or damaged.
  """
  try:
    return tf.train.load_checkpoint(path)
  except _READ_ERRORS as error:
    if not tf.io.gfile.glob(path + ".index"):
      message = (f"{what}: there is no {path}.index. Give the prefix of a "
                 f"TensorFlow checkpoint, such as "
                 f"uncased_L-12_H-768_A-12/bert_model.ckpt.")
    else:
      message = (f"{what} can't be opened ({_first_line(error)}). Copy or "
                 f"download it again.")
    raise ValueError(message) from error


def read_variable(reader, name, what):
  """Reads a value; TensorFlow compares it with its checksum.

  Args:
    reader: see `open_checkpoint`.
    name: string.
    what: string, names the checkpoint in messages.

  Returns:
    array.

  Raises:
    ValueError: it is damaged.
  """
  try:
    return reader.get_tensor(name)
  except _READ_ERRORS as error:
    raise ValueError(
        f"{what} is damaged: {name} can't be read ({_first_line(error)}). "
        f"Copy or download it again, or remove it.") from error


def model_variables(names):
  """Tells the model's variables from the state of its training.

  Optimizers put the name of a slot behind that of its variable, as in
  `bert/pooler/dense/bias/adam_m`.

  Args:
    names: names of all variables of a checkpoint.

  Returns:
    List of string: those of the scripts' models, and what has slots; without
    slots and without the global step.
  """
  owners = slot_owners(names)
  return sorted(
      name for name in set(names) - set(owners)
      if name.split("/")[0] in _MODEL_SCOPES or name in owners.values())


def slot_owners(names):
  """Finds the slots among the names of variables.

  Args:
    names: names of all variables of a checkpoint.

  Returns:
    Dict slot -> the variable that it belongs to.
  """
  names, owners = set(names), {}
  for name in names:
    parts = name.split("/")
    for end in range(1, len(parts)):
      if "/".join(parts[:end]) in names:
        owners[name] = "/".join(parts[:end])
        break
  return owners


def _first_line(error):
  return str(getattr(error, "message", None) or error).splitlines()[0]


def check_warm_start(tvars, assignment_map, init_checkpoint):
  """Says what a checkpoint gives to the model, and refuses what doesn't fit.

  Args:
    tvars: list of the graph's trainable variables.
    assignment_map: dict checkpoint name -> variable, of
      `modeling.get_assignment_map_from_checkpoint`.
    init_checkpoint: string, checkpoint prefix.

  Returns:
    (loaded, fresh, unused): lists of variable names, those that the
    checkpoint gives, those that keep their initial values, and those of the
    checkpoint that the model has no place for.

  Raises:
    ValueError: nothing matches, or a shape differs (names the variables).
  """
  names = {var.op.name: var for var in tvars}
  saved = dict(tf.train.list_variables(init_checkpoint))
  loaded = sorted(assignment_map)
  fresh = sorted(set(names) - set(loaded))
  unused = sorted(set(saved) - set(loaded))
  if not loaded:
    raise ValueError(
        f"--init_checkpoint={init_checkpoint} has no variable of this model. "
        f"It holds {_some(unused)}; the model has {_some(fresh)}.")
  misfits = [f"{name} {saved[name]} instead of {names[name].shape.as_list()}"
             for name in loaded
             if list(saved[name]) != names[name].shape.as_list()]
  if misfits:
    raise ValueError(
        f"--init_checkpoint={init_checkpoint} does not fit this model: "
        f"{_some(misfits)}. Check --bert_config_file and the task's labels.")
  # model_fn is called for training, evaluation and prediction; once will do.
  logging.log_first_n(
      logging.INFO,
      "Warm start from %s: %d variables loaded; fresh: %s; not used: %s.", 1,
      init_checkpoint, len(loaded), _some(fresh), _some(unused))
  return loaded, fresh, unused


def warm_start(get_assignment_map, init_checkpoint, use_tpu):
  """Takes the graph's initial values from a checkpoint that fits.

  Args:
    get_assignment_map: `modeling.get_assignment_map_from_checkpoint`.
    init_checkpoint: string, checkpoint prefix.
    use_tpu: bool.

  Returns:
    The scaffold_fn that a TPU needs for it, None elsewhere.

  Raises:
    ValueError: see `check_warm_start`.
  """
  tvars = tf.compat.v1.trainable_variables()
  assignment_map, _ = get_assignment_map(tvars, init_checkpoint)
  check_warm_start(tvars, assignment_map, init_checkpoint)

  def scaffold_fn():
    tf.compat.v1.train.init_from_checkpoint(init_checkpoint, assignment_map)
    return tf.compat.v1.train.Scaffold()

  if use_tpu:
    return scaffold_fn
  tf.compat.v1.train.init_from_checkpoint(init_checkpoint, assignment_map)
  return None


def check_checkpoints(args, bert_config, build_model, get_assignment_map):
  """Refuses checkpoints that don't fit, before the data are converted.

  Args:
    args: the parsed flags.
    bert_config: modeling.BertConfig.
    build_model: function of int32 ids [1, 2] that builds the script's model.
    get_assignment_map: `modeling.get_assignment_map_from_checkpoint`.

  Raises:
    ValueError: one doesn't fit, or there is none and no training.
  """
  # What lies in another rank's output folder, from whatever run, is not used.
  is_chief = horovod_helpers.is_chief()
  trained = None
  with tf.Graph().as_default():
    build_model(tf.zeros([1, 2], tf.int32))
    tvars = tf.compat.v1.trainable_variables()
    layer_helpers.check_layers(args, [var.op.name for var in tvars])
    if is_chief:
      trained = check_trained(args, tvars)
    if args.init_checkpoint:
      check_checkpoint(args.init_checkpoint, bert_config)
      assignment_map, _ = get_assignment_map(tvars, args.init_checkpoint)
      check_warm_start(tvars, assignment_map, args.init_checkpoint)
  if is_chief and not (trained or args.init_checkpoint or args.do_train or
                       args.continuous_eval):
    raise ValueError(
        f"There is no model to evaluate or predict with: "
        f"--output_dir={args.output_dir} has no checkpoint. Pass --do_train, "
        f"or --init_checkpoint.")


def check_trained(args, tvars):
  """Checks what a run goes on from, or evaluates and predicts with.

  Args:
    args: the parsed flags.
    tvars: list of the model's trainable variables.

  Returns:
    string, prefix of a checkpoint of the model, or None.

  Raises:
    ValueError: it is missing, damaged, or of another model.
  """
  trained = check_output_checkpoint(args.output_dir, tvars)
  if trained and args.do_train:
    check_optimizer_state(args, tvars, trained)
  if args.checkpoint_path:
    trained = chosen_checkpoint(args)
    _check_same_model(
        trained, f"--checkpoint_path={args.checkpoint_path}", tvars)
  return trained


def checksum_file(init_checkpoint):
  """The file that tells one checkpoint from another.

  Args:
    init_checkpoint: string or None, checkpoint prefix or folder.

  Returns:
    string, the index, which holds the checksums of all values (a checkpoint of
    the first format: the file itself); None without a checkpoint.
  """
  if not init_checkpoint:
    return None
  if tf.io.gfile.isdir(init_checkpoint):
    init_checkpoint = tf.train.latest_checkpoint(init_checkpoint)
  index = init_checkpoint + ".index"
  return index if tf.io.gfile.exists(index) else init_checkpoint


def _some(names):
  """The first few of a list of names, in words."""
  shown = ", ".join(names[:4]) or "none"
  return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
