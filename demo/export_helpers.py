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

import hashlib
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
from demo import text_op_helpers
from demo import window_helpers

SERVE_EXAMPLES, SERVE_WINDOWS = "serve_examples", "serve_windows"
SERVE_TEXTS = "serve_texts"
# Token ids as every model takes them.
ROW_INPUTS = ("input_ids", "input_mask", "segment_ids")
# What --export_five_inputs adds: inputs that a training has and no output
# depends on.
UNREAD_INPUTS = ("label_ids", "is_real_example")
ONNX_MODEL = "model.onnx"
INFO = "model_info.json"
_SAVED_MODEL = "saved_model.pb"
_KINDS = ("classification", "regression", "squad")

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
  if args.export_text_inputs:
    _check_text_inputs(args)
  script_helpers.check_output_dir(_folder(args), "export_dir")


def _check_text_inputs(args):
  """Refuses --export_text_inputs where it can't be had."""
  for name, what, reason in (
      ("max_query_length", "SQuAD models", "answers are cut out of the text by "
       "the predictor and the server, which need its tokens"),
      ("doc_stride", "--doc_stride", "texts are split into windows by the "
       "predictor and the server")):
    if getattr(args, name, None):
      raise ValueError(f"--export_text_inputs does not work with {what}: "
                       f"{reason}. Leave it out.")
  text_op_helpers.import_text("--export_text_inputs")


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
      "text_ops": bool(args.export_text_inputs),
      "precision": "fp32", "checkpoint": os.path.basename(checkpoint),
      "global_step": step, "tensorflow": tf.__version__,
      "program": f"sha256 {script_helpers.program_checksum()}"}
  path = _new_version(_folder(args))
  with script_helpers.finished_folder(path) as temporary:
    with tf.Graph().as_default(), tempfile.TemporaryDirectory() as staging:
      text_rows = None
      if args.export_text_inputs:
        text_rows = text_op_helpers.rows_function(
            vocab_file, info["do_lower_case"], args.max_seq_length)
      signatures = make_signatures(
          build, args.max_seq_length, pool_outputs,
          [None, args.max_seq_length if args.export_fixed_length else None],
          UNREAD_INPUTS if args.export_five_inputs else (), text_rows)
      add_assets(staging, info, {"vocab.txt": vocab_file,
                                 "bert_config.json": bert_config_file})
      saver = tf.compat.v1.train.Saver(tf.compat.v1.global_variables())
      write(temporary, signatures, saver,
            lambda session: saver.restore(session, checkpoint))
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
  return sorted(
      int(name) for name in names
      if name.isdecimal() and is_export(os.path.join(folder, name)))


def is_export(path):
  """Whether a folder holds a model itself."""
  return any(tf.io.gfile.exists(os.path.join(path, name))
             for name in (_SAVED_MODEL, ONNX_MODEL))


def is_onnx(path):
  """Whether a folder holds an ONNX model."""
  return tf.io.gfile.exists(os.path.join(path, ONNX_MODEL))


def find_export(path, what=None):
  """Finds an export by its folder, or the newest of a folder of exports.

  Args:
    path: string.
    what: string, names it in an error; `path` itself by default.

  Returns:
    string, the folder with saved_model.pb, or with model.onnx.

  Raises:
    ValueError: there is none.
  """
  if is_export(path):
    return path
  found = versions(path)
  if not found:
    raise ValueError(
        f"{what or path} has no exported model: neither a {_SAVED_MODEL} nor a "
        f"folder <number>/{_SAVED_MODEL}. --do_export of the scripts writes "
        f"one.")
  return os.path.join(path, str(found[-1]))


def load_export(path):
  """Loads an export, with the operations that it may need.

  Args:
    path: string, its folder.

  Returns:
    What tf.saved_model.load returns. It owns the variables of its signatures.

  Raises:
    ValueError: the model reads texts in the graph, and tensorflow-text is not
      installed.
  """
  if has_info(path):
    import_text_ops(path, read_info(path))
  return tf.saved_model.load(path)


def import_text_ops(path, info):
  """Makes the operations known that a model with `serve_texts` has.

  Args:
    path: string, folder of the export.
    info: dict, see `read_info`.

  Raises:
    ValueError: tensorflow-text is not installed.
  """
  if info.get("text_ops"):
    text_op_helpers.import_text(f"{path}, exported with --export_text_inputs,")


def checksum(path):
  """What tells an export from another one: sha256 of all files (string).

  Args:
    path: string, its folder.
  """
  found = hashlib.sha256()
  for folder, _, names in sorted(tf.io.gfile.walk(path)):
    for name in sorted(names):
      file = os.path.join(folder, name)
      found.update(f"{os.path.relpath(file, path)} "
                   f"{script_helpers.sha256(file)}\n".encode())
  return found.hexdigest()


def has_info(path):
  """Whether a folder has a model_info.json, as exports have."""
  return tf.io.gfile.exists(os.path.join(path, "assets", INFO))


def read_info(path):
  """Reads what an export says of its model.

  Args:
    path: string, folder of an export.

  Returns:
    Dict, the content of model_info.json; see docs/checkpoints.md.

  Raises:
    ValueError: the file is missing or damaged.
  """
  name = os.path.join(path, "assets", INFO)
  try:
    with tf.io.gfile.GFile(name, "r") as reader:
      info = json.load(reader)
    is_whole = (
        info["kind"] in _KINDS and isinstance(info["do_lower_case"], bool) and
        isinstance(info["max_seq_length"], int) and
        all(isinstance(label, str) for label in info["labels"]))
  except tf.errors.NotFoundError:
    raise ValueError(
        f"{path} was not written by --do_export: it has no assets/{INFO}, "
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


def make_signatures(build, max_seq_length, pool_outputs=None,
                    shape=(None, None), unread=(), text_rows=None,
                    passed=()):
  """Builds the model for the ways to feed it.

  Args:
    build: see `export`.
    max_seq_length: int, S of the records; None for a model that reads none.
    pool_outputs: see `export`.
    shape: (B, S) of the token ids, None where they are free.
    unread: names of further inputs, int32 [B].
    text_rows: see `text_op_helpers.rows_function`; None without texts.
    passed: names of those of `unread` that are given back as outputs too.

  Returns:
    Dict name -> SignatureDef.
  """
  key = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
  signature = tf.compat.v1.saved_model.predict_signature_def
  rows, texts, sources = _sources(
      max_seq_length, pool_outputs is not None, shape, text_rows)
  # One model for all: what is fed takes the place of what it is made from.
  inputs = {name: tf.compat.v1.placeholder_with_default(
      rows[name], shape, name) if rows else tf.compat.v1.placeholder(
          tf.int32, shape, name) for name in ROW_INPUTS}
  outputs = {name: tf.identity(tensor, name)
             for name, tensor in build(**inputs).items()}
  unread = {name: tf.compat.v1.placeholder(tf.int32, shape[:1], name)
            for name in unread}
  signatures = {key: signature(
      {**inputs, **unread}, _after(unread, {
          **outputs, **{name: unread[name] for name in passed}}))}
  if pool_outputs is not None:
    texts = tf.compat.v1.placeholder_with_default(texts, shape[:1], "texts")
    pooled = {name: tf.identity(tensor, f"{name}_of_texts") for name, tensor in
              pool_outputs(window_helpers.rows_of_texts(texts)).items()}
    signatures[SERVE_WINDOWS] = signature({**inputs, "texts": texts}, pooled)
    signatures[SERVE_EXAMPLES] = signature(sources[SERVE_EXAMPLES], pooled)
    return signatures
  return {**signatures, **{
      name: signature(source, outputs) for name, source in sources.items()}}


def _after(unread, outputs):
  """Outputs that a model loaded by TensorFlow 2 has only with these inputs.

  It looks for the inputs of a signature among what its outputs come from.
  """
  if not unread:
    return outputs
  with tf.control_dependencies(list(unread.values())):
    return {name: tf.identity(tensor, f"{name}_of_five")
            for name, tensor in outputs.items()}


def _sources(max_seq_length, has_windows, shape, text_rows):
  """What token ids may be made from in the graph.

  Args: see `make_signatures`.

  Returns:
    (rows, texts, sources): dict name -> int32 [B, S], None without a source;
    for windows int32 [R], the text of each; and dict name of signature -> dict
    name -> placeholder.
  """
  if not max_seq_length:
    return None, None, {}
  if text_rows is None:
    examples = tf.compat.v1.placeholder(tf.string, shape[:1], "examples")
    rows, texts = _rows_of_examples(examples, max_seq_length, has_windows)
    return rows, texts, {SERVE_EXAMPLES: {"examples": examples}}
  # Each is empty unless it is fed.
  examples, text_a, text_b = (
      tf.compat.v1.placeholder_with_default(tf.zeros([0], tf.string), [None],
                                            name)
      for name in ("examples", "text_a", "text_b"))
  rows = tf.cond(
      tf.size(text_a) > 0,
      lambda: text_rows(text_a, text_b),
      lambda: _rows_of_examples(examples, max_seq_length, False)[0])
  if shape[1]:
    missing = shape[1] - tf.shape(rows["input_ids"])[1]
    rows = {name: tf.pad(tensor, [[0, 0], [0, missing]])
            for name, tensor in rows.items()}
  rows = {name: tf.ensure_shape(tensor, shape) for name, tensor in rows.items()}
  return rows, None, {SERVE_EXAMPLES: {"examples": examples},
                      SERVE_TEXTS: {"text_a": text_a, "text_b": text_b}}


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
        for name in ROW_INPUTS})
    return {name: tf.cast(rows[name], tf.int32) for name in ROW_INPUTS}, None
  rows = tf.io.parse_example(
      examples, window_helpers.sequence_features(ROW_INPUTS, max_seq_length))
  *rows, texts = window_helpers.unfold(
      *(tf.cast(rows[name], tf.int32) for name in ROW_INPUTS))
  # An example without a window would have no row among the outputs.
  with tf.control_dependencies([tf.debugging.assert_equal(
      tf.size(tf.unique(texts)[0]), tf.size(examples),
      "Each of the `examples` needs a window that begins with a token.")]):
    return dict(zip(ROW_INPUTS, rows)), tf.identity(texts)


def add_assets(folder, info, files):
  """Registers files with the graph, which the SavedModel then holds.

  Args:
    folder: string, where they lie under their names until it is written.
    info: dict, the content of model_info.json; None for none.
    files: dict name -> path or None.
  """
  if info is not None:
    write_info(os.path.join(folder, INFO), info)
  for name, path in files.items():
    if path:
      tf.io.gfile.copy(path, os.path.join(folder, name))
  for name in sorted(tf.io.gfile.listdir(folder)):
    tf.compat.v1.add_to_collection(
        tf.compat.v1.GraphKeys.ASSET_FILEPATHS,
        tf.constant(os.path.join(folder, name)))


def write_info(path, info):
  """Writes a model_info.json.

  Args:
    path: string.
    info: dict.
  """
  script_helpers.write_text(
      path, json.dumps(info, indent=2, ensure_ascii=False) + "\n")


def write(folder, signatures, saver, load):
  """Writes the default graph with its variables' values.

  Args:
    folder: string; it must not exist.
    signatures: dict name -> SignatureDef.
    saver: tf.compat.v1.train.Saver of the variables.
    load: function of a session that gives the variables their values.
  """
  graph = tf.compat.v1.get_default_graph()
  with tf.compat.v1.Session(
      config=horovod_helpers.session_config()) as session:
    load(session)
    builder = tf.compat.v1.saved_model.Builder(folder)
    builder.add_meta_graph_and_variables(
        session, [tf.saved_model.SERVING], signatures,
        assets_collection=graph.get_collection(
            tf.compat.v1.GraphKeys.ASSET_FILEPATHS),
        main_op=_table_initializer(), clear_devices=True,
        strip_default_attrs=True, saver=saver)
    builder.save()


def _table_initializer():
  """Operation that fills the graph's lookup tables; None if it has none."""
  if not tf.compat.v1.get_collection(
      tf.compat.v1.GraphKeys.TABLE_INITIALIZERS):
    return None
  return tf.compat.v1.tables_initializer()
