# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""--do_export: SavedModels of fine-tuned models, for serving.

A SavedModel has the model of one checkpoint in fp32, without training, and two
signatures of the same outputs: `serving_default` takes token ids, rows and
lengths as they come, `serve_examples` records of --max_seq_length tokens. Where
texts are split into windows (--doc_stride) a row of the first is a window, a
record of the second a text, and a third, `serve_windows`, takes the windows of
several texts as token ids. Its folder `assets` tells a client how to make the
ones and read the others: `vocab.txt`, `bert_config.json` and `model_info.json`.

Each export is a folder of its own, named by its time in seconds: servers take
such names for versions, and load the highest one.
"""

import json
import os
import re
import tempfile
import time

from absl import logging
import tensorflow as tf

from demo import checkpoint_helpers
from demo import horovod_helpers
from demo import script_helpers
from demo import window_helpers

SERVE_EXAMPLES, SERVE_WINDOWS = "serve_examples", "serve_windows"
_SAVED_MODEL, _INFO = "saved_model.pb", "model_info.json"
_KINDS = ("classification", "regression", "squad")
_INPUTS = ("input_ids", "input_mask", "segment_ids")

# Flags that a client has to know, of the scripts that have them.
_SETTINGS = ("max_seq_length", "doc_stride", "max_query_length", "n_best_size",
             "max_answer_length", "version_2_with_negative",
             "null_score_diff_threshold", "max_windows", "window_pooling")

# What a row of the outputs stands for where texts are split into windows.
_ONE_OUTPUT_PER = {
    tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: "window",
    SERVE_EXAMPLES: "text", SERVE_WINDOWS: "text"}


def check(args):
  """Refuses an export that nothing could come of, before any work is done.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: there is no trained model, or no folder to write to.
  """
  if not (args.do_export and horovod_helpers.is_chief()):
    return
  if not (_checkpoint(args) or args.do_train or args.continuous_eval):
    raise ValueError(
        f"--do_export: --output_dir={args.output_dir} has no checkpoint of a "
        f"trained model. Pass --do_train, or name one with --checkpoint_path.")
  script_helpers.check_output_dir(_folder(args), "export_dir")


def export(args, build, info, vocab_file, bert_config_file=None,
           pool_outputs=None):
  """Writes a SavedModel, on rank 0.

  Args:
    args: the parsed flags.
    build: function of input_ids, input_mask and segment_ids (int32 [B, S])
      that builds the model and returns its outputs, a dict name -> tensor
      [B, ...].
    info: dict, what model_info.json says of the model beside the checkpoint,
      some flags and versions.
    vocab_file: string.
    bert_config_file: string; None where the model has no such file.
    pool_outputs: function that is called after `build`, of texts (int32 [R],
      see `window_helpers.pool`), and returns the outputs of the texts whose
      windows the R rows are, a dict name -> tensor [B, ...]; None where each
      row is a text.

  Raises:
    ValueError: there is no checkpoint.
  """
  checkpoint = _checkpoint(args)
  if not checkpoint:
    raise ValueError(f"--do_export: --output_dir={args.output_dir} has no "
                     f"checkpoint.")
  step = _step(checkpoint)
  info = {
      **info,
      **({"one_output_per": _ONE_OUTPUT_PER} if pool_outputs else {}),
      **{name: getattr(args, name) for name in _SETTINGS
         if hasattr(args, name)},
      "precision": "fp32", "checkpoint": os.path.basename(checkpoint),
      "global_step": step, "tensorflow": tf.__version__,
      "program": f"sha256 {script_helpers.program_checksum()}"}
  path = _new_version(_folder(args))
  with script_helpers.finished_folder(path) as temporary:
    with tf.Graph().as_default(), tempfile.TemporaryDirectory() as staging:
      signatures = _signatures(build, args.max_seq_length, pool_outputs)
      _add_assets(staging, info, {"vocab.txt": vocab_file,
                                  "bert_config.json": bert_config_file})
      _write(temporary, checkpoint, signatures)
  logging.info("SavedModel of %s: %s", checkpoint, path)


def _checkpoint(args):
  """Prefix of the checkpoint to export (string), None without one."""
  return (checkpoint_helpers.chosen_checkpoint(args) or
          tf.train.latest_checkpoint(args.output_dir))


def _step(checkpoint):
  """The global step (int) of a checkpoint, None if it doesn't say."""
  reader = tf.train.load_checkpoint(checkpoint)
  if not reader.has_tensor("global_step"):
    return None
  return int(reader.get_tensor("global_step"))


def _folder(args):
  """The folder of the exports."""
  return args.export_dir or os.path.join(args.output_dir, "export")


def versions(folder):
  """The exports in a folder of exports, as servers see them.

  Args:
    folder: string.

  Returns:
    List of int, ascending.
  """
  if not tf.io.gfile.isdir(folder):
    return []
  names = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
  return sorted(int(name) for name in names if name.isdecimal() and
                is_export(os.path.join(folder, name)))


def is_export(path):
  """Whether a folder holds an exported model itself."""
  return tf.io.gfile.exists(os.path.join(path, _SAVED_MODEL))


def has_info(path):
  """Whether an export says what its model is for, see `read_info`."""
  return tf.io.gfile.exists(os.path.join(path, "assets", _INFO))


def find_export(path):
  """Finds an export by its folder, or the newest of a folder of exports.

  Args:
    path: string.

  Returns:
    string, the folder with saved_model.pb.

  Raises:
    ValueError: there is none.
  """
  if is_export(path):
    return path
  found = versions(path)
  if not found:
    raise ValueError(
        f"{path} has no exported model: neither a {_SAVED_MODEL} nor a folder "
        f"<number>/{_SAVED_MODEL}. --do_export of the scripts writes one.")
  return os.path.join(path, str(found[-1]))


def read_info(path):
  """Reads what an export says of its model.

  Args:
    path: string, folder of an export.

  Returns:
    Dict, the content of model_info.json; see docs/checkpoints.md.

  Raises:
    ValueError: the file is missing or damaged.
  """
  name = os.path.join(path, "assets", _INFO)
  try:
    with tf.io.gfile.GFile(name, "r") as reader:
      info = json.load(reader)
    is_whole = (
        info["kind"] in _KINDS and isinstance(info["do_lower_case"], bool) and
        isinstance(info["max_seq_length"], int) and
        all(isinstance(label, str) for label in info["labels"]))
  except tf.errors.NotFoundError:
    raise ValueError(
        f"{path} was not written by --do_export: it has no assets/{_INFO}, "
        f"which tells what the model is for.") from None
  except (ValueError, TypeError, KeyError):
    is_whole = False
  if not is_whole:
    raise ValueError(f"{name} is damaged: export the model again.")
  return info


def _new_version(folder):
  """A folder for a new export, which servers prefer to those that are there.

  Removes what a killed export left.
  """
  names = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
  for name in names:
    if re.fullmatch(r"\d+\.tmp", name):
      tf.io.gfile.rmtree(os.path.join(folder, name))
  # Two may be made in a second, and clocks be set back.
  version = max([int(time.time())] + [
      int(name) + 1 for name in names if name.isdecimal()])
  return os.path.join(folder, str(version))


def _signatures(build, max_seq_length, pool_outputs=None):
  """Builds the model for two ways to feed it, or three for windows.

  Args:
    build: see `export`.
    max_seq_length: int, S of the records.
    pool_outputs: see `export`.

  Returns:
    Dict name -> SignatureDef.
  """
  examples = tf.compat.v1.placeholder(tf.string, [None], "examples")
  rows, texts = _rows_of_examples(
      examples, max_seq_length, has_windows=pool_outputs is not None)
  # One model for all: what is fed takes the place of what records hold.
  inputs = {name: tf.compat.v1.placeholder_with_default(
      tensor, [None, None], name) for name, tensor in rows.items()}
  outputs = {name: tf.identity(tensor, name)
             for name, tensor in build(**inputs).items()}
  signature = tf.compat.v1.saved_model.predict_signature_def
  signatures = {tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY:
                    signature(inputs, outputs)}
  if pool_outputs is not None:
    texts = tf.compat.v1.placeholder_with_default(texts, [None], "texts")
    outputs = {name: tf.identity(tensor, f"{name}_of_texts") for name, tensor in
               pool_outputs(window_helpers.rows_of_texts(texts)).items()}
    signatures[SERVE_WINDOWS] = signature({**inputs, "texts": texts}, outputs)
  signatures[SERVE_EXAMPLES] = signature({"examples": examples}, outputs)
  return signatures


def _rows_of_examples(examples, max_seq_length, has_windows):
  """Reads records.

  Args:
    examples: string [B], serialized tf.train.Examples.
    max_seq_length: int, S.
    has_windows: bool, an example may hold several windows.

  Returns:
    (rows, texts): dict name -> int32 [B, S] and None; with windows [R, S] and
    int32 [R], the example of each.
  """
  if not has_windows:
    rows = tf.io.parse_example(examples, {
        name: tf.io.FixedLenFeature([max_seq_length], tf.int64)
        for name in _INPUTS})
    return {name: tf.cast(rows[name], tf.int32) for name in _INPUTS}, None
  rows = tf.io.parse_example(
      examples, window_helpers.sequence_features(_INPUTS, max_seq_length))
  *rows, texts = window_helpers.unfold(
      *(tf.cast(rows[name], tf.int32) for name in _INPUTS))
  # An example without a window would have no row among the outputs.
  with tf.control_dependencies([tf.debugging.assert_equal(
      tf.size(tf.unique(texts)[0]), tf.size(examples),
      "Each of the `examples` needs a window that begins with a token.")]):
    return dict(zip(_INPUTS, rows)), tf.identity(texts)


def _add_assets(folder, info, files):
  """Registers files with the graph, which the SavedModel then holds.

  Args:
    folder: string, where they lie under their names until it is written.
    info: dict, the content of model_info.json.
    files: dict name -> path or None.
  """
  script_helpers.write_text(
      os.path.join(folder, _INFO),
      json.dumps(info, indent=2, ensure_ascii=False) + "\n")
  for name, path in files.items():
    if path:
      tf.io.gfile.copy(path, os.path.join(folder, name))
  for name in sorted(tf.io.gfile.listdir(folder)):
    tf.compat.v1.add_to_collection(
        tf.compat.v1.GraphKeys.ASSET_FILEPATHS,
        tf.constant(os.path.join(folder, name)))


def _write(folder, checkpoint, signatures):
  """Writes the graph with a checkpoint's values.

  Args:
    folder: string; it must not exist.
    checkpoint: string, prefix.
    signatures: dict name -> SignatureDef.
  """
  graph = tf.compat.v1.get_default_graph()
  saver = tf.compat.v1.train.Saver(tf.compat.v1.global_variables())
  with tf.compat.v1.Session(
      config=horovod_helpers.session_config()) as session:
    saver.restore(session, checkpoint)
    builder = tf.compat.v1.saved_model.Builder(folder)
    builder.add_meta_graph_and_variables(
        session, [tf.saved_model.SERVING], signatures,
        assets_collection=graph.get_collection(
            tf.compat.v1.GraphKeys.ASSET_FILEPATHS),
        clear_devices=True, strip_default_attrs=True, saver=saver)
    builder.save()
