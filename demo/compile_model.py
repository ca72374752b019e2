# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Makes a faster model of an exported one, and shows what it costs.

  python -m demo.compile_model --input_saved_model=/tmp/mrpc/export \
    --output_saved_model=/tmp/mrpc_bf16 --dtype=bfloat16

The weights are put into a graph that has what inference needs and no more (see
demo/compile_graph.py). The new model has the signatures and files of the old
one, so whatever takes that takes this. Before it is there, both are run on the
same rows in turn: how far the outputs are apart, and how fast each is, is
printed and kept in compile_report.json beside the model.
"""

import json
import os
import tempfile
import types

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import tensorflow as tf

from demo import compile_check
from demo import compile_graph
from demo import compile_onnx
from demo import compile_reader
from demo import export_helpers
from demo import script_helpers
from demo import text_op_helpers
from demo import window_helpers

FLAGS = flags.FLAGS

_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_REPORT = "compile_report.json"


def init_compile_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string(
      "input_saved_model", None,
      "SavedModel to compile: an export of this project (or a folder of them, "
      "of which the newest is taken), or of Google's scripts by "
      "estimator.export_saved_model.")
  flags.DEFINE_string(
      "output_saved_model", None,
      "Folder to write the new model to; it must not exist.")
  flags.DEFINE_enum(
      "dtype", "float32", list(_PRECISIONS),
      "Number format of the encoder's matrices. bfloat16 is computed in too; "
      "float16 only halves the size, as CPUs have no fast product of it. "
      "Softmax, embeddings, layer norm and output layer stay float32.")
  flags.DEFINE_integer(
      "batch_size", 0, "Rows that serving_default takes; 0: any number.",
      lower_bound=0)
  flags.DEFINE_integer(
      "sequence_length", 0,
      "Tokens of a row that serving_default takes; 0: any number, or what the "
      "input fixes.", lower_bound=0)
  flags.DEFINE_bool(
      "crude_gelu", False, "x * sigmoid(1.702 x) in place of gelu.")
  flags.DEFINE_bool(
      "aggressive_optimizations", False,
      "--crude_gelu, and with --dtype=bfloat16 layer norm and residuals in "
      "that as well.")
  flags.DEFINE_enum(
      "format", "saved_model", ["saved_model", "onnx"],
      "onnx writes model.onnx for onnxruntime, in float32.")
  flags.DEFINE_string(
      "sample_file", None,
      "Texts to compare the models on: .tsv (a text or two in a line), or "
      ".jsonl with text_a and text_b, or question and context. Random tokens "
      "by default.")


def compile_model(args):
  """Reads, rebuilds, compares and writes.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: a flag is wrong, the model can't be rebuilt, or the new one is
      not like the old one.
  """
  if tf.io.gfile.exists(args.output_saved_model):
    raise ValueError(f"--output_saved_model={args.output_saved_model} exists "
                     f"already. Remove it or name another folder.")
  if args.format == "onnx":
    compile_onnx.check_packages(args)
  source = compile_reader.Source(args.input_saved_model)
  _check_flags(args, source)
  samples = compile_check.read_samples(args.sample_file, source)
  parent = os.path.dirname(args.output_saved_model.rstrip("/")) or "."
  script_helpers.check_output_dir(parent, "output_saved_model")
  logging.info("%s: %s", source.path, _described(source.sizes))
  write = {"saved_model": write_saved_model, "onnx": write_onnx}[args.format]
  path = args.output_saved_model
  with script_helpers.finished_folder(path) as temporary:
    write(temporary, source, args)
    report = {**_settings(args, source), **compile_check.compare(
        source, temporary, samples, is_exact=args.dtype == "float32" and
        not (args.crude_gelu or args.aggressive_optimizations))}
    script_helpers.write_text(os.path.join(temporary, _REPORT),
                              json.dumps(report, indent=2) + "\n")
  for line in compile_check.lines(report):
    print(line)
  logging.info("Compiled model: %s", path)


def _described(sizes):
  """A line on a model."""
  return (f"{sizes.kind}, {sizes.layers} layers, width {sizes.width}, "
          f"{sizes.heads} heads of {sizes.head_size}, {sizes.activation}, "
          f"{sizes.vocabulary} words")


def _check_flags(args, source):
  """Refuses what doesn't fit the model."""
  sizes = source.sizes
  if ((args.crude_gelu or args.aggressive_optimizations) and
      not sizes.activation.startswith("gelu")):
    raise ValueError(f"--crude_gelu is for models with gelu; that of "
                     f"{source.path} is {sizes.activation}. Leave it out.")
  batch_size, length = source.inputs["input_ids"]
  for name, fixed in (("batch_size", batch_size), ("sequence_length", length)):
    value = getattr(args, name)
    if value and fixed and value != fixed:
      raise ValueError(f"--{name}={value}: {source.path} was exported for "
                       f"{fixed}. Leave it out.")
  needed = (source.info or {}).get("max_seq_length")
  if args.sequence_length and needed and args.sequence_length != needed and (
      set(source.signatures) - {
          tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY}):
    raise ValueError(
        f"--sequence_length={args.sequence_length}: the signatures beside "
        f"serving_default give rows of max_seq_length={needed} tokens. Pass "
        f"that or leave it out.")
  if args.sequence_length > sizes.positions:
    raise ValueError(f"--sequence_length={args.sequence_length}: this model "
                     f"takes up to {sizes.positions} tokens.")
  if args.format == "onnx" and (source.info or {}).get("one_output_per"):
    raise ValueError("--format=onnx does not work with a model of texts in "
                     "windows: it has one signature, without their pooling.")
  if args.batch_size and (source.info or {}).get("one_output_per"):
    raise ValueError(f"--batch_size={args.batch_size} does not work with a "
                     f"model of texts in windows, of which there are more or "
                     f"fewer. Leave it out.")


def _shape(args, source):
  """[B, S] of the token ids of the new model, None where they are free."""
  batch_size, length = source.inputs["input_ids"]
  return [args.batch_size or batch_size, args.sequence_length or length]


def _settings(args, source):
  """What the report says of how the model was made."""
  return {
      "input_saved_model": source.path, "format": args.format,
      "dtype": args.dtype, "crude_gelu": args.crude_gelu,
      "aggressive_optimizations": args.aggressive_optimizations,
      "shape": _shape(args, source),
      "model": {name: value for name, value in source.sizes._asdict().items()
                if name not in ("scope", "output_scope")}}


def _model(args, source, shape):
  """The InferenceModel that the flags ask for."""
  return compile_graph.InferenceModel(
      source.sizes, compile_graph.Settings(
          args.dtype, args.crude_gelu, args.aggressive_optimizations,
          # TensorFlow gains nothing by static shapes; other programs may.
          keeps_padding=args.format == "onnx" and None not in shape),
      source.read)


def settings(**values):
  """What the functions that write a model take for the parsed flags.

  Args:
    **values: flags other than float32 of free shape: dtype, batch_size,
      sequence_length, crude_gelu, aggressive_optimizations, format.

  Returns:
    types.SimpleNamespace.
  """
  return types.SimpleNamespace(**{**dict(
      dtype="float32", batch_size=0, sequence_length=0, crude_gelu=False,
      aggressive_optimizations=False, format="saved_model"), **values})


def write_saved_model(folder, source, args):
  """Writes the model as a SavedModel with the signatures of the old one.

  Args:
    folder: string; it must not exist.
    source: compile_reader.Source.
    args: the parsed flags, or `settings`.
  """
  shape = _shape(args, source)
  with tf.Graph().as_default(), tempfile.TemporaryDirectory() as staging:
    model = _model(args, source, shape)
    signatures = make_signatures(source, model, shape)
    add_assets(staging, source, new_info(args, source))
    saver = tf.compat.v1.train.Saver(tf.compat.v1.global_variables())
    export_helpers.write(folder, signatures, saver, model.load)


def make_signatures(source, model, shape, is_alone=False):
  """Builds a model for the signatures that another one has.

  Args:
    source: compile_reader.Source.
    model: compile_graph.InferenceModel.
    shape: [B, S], see `_shape`.
    is_alone: bool, leaves all but serving_default out.

  Returns:
    Dict name -> SignatureDef.
  """
  info = {} if is_alone else source.info or {}
  unread = [name for name in source.inputs if name not in (
      "input_ids", "input_mask", "segment_ids") and
            (name in source.outputs or not is_alone)]
  text_rows = pool_outputs = None
  if info.get("text_ops"):
    text_rows = text_op_helpers.rows_function(
        os.path.join(source.path, "assets", "vocab.txt"),
        info["do_lower_case"], info["max_seq_length"])
  if info.get("one_output_per"):
    pool_outputs = lambda texts: model.outputs_of(window_helpers.pool(
        model.logits, texts, info["window_pooling"]))
  signatures = export_helpers.make_signatures(
      model.build, info.get("max_seq_length"), pool_outputs, shape, unread,
      text_rows, [name for name in unread if name in source.outputs])
  return {name: signature for name, signature in signatures.items()
          if name in source.signatures}


def add_assets(folder, source, info):
  """Registers the files of the old model, with a new model_info.json.

  Args:
    folder: string, see `export_helpers.add_assets`.
    source: compile_reader.Source.
    info: dict, the content of model_info.json; None for a model without.
  """
  export_helpers.add_assets(folder, info, source.assets())


def new_info(args, source):
  """model_info.json of the new model; None where the old one has none."""
  if source.info is None:
    return None
  said = _settings(args, source)
  return {
      **source.info,
      "precision": _PRECISIONS[args.dtype], "tensorflow": tf.__version__,
      "text_ops": bool(source.info.get("text_ops")) and args.format != "onnx",
      "compiled": {name: said[name] for name in (
          "format", "dtype", "crude_gelu", "aggressive_optimizations",
          "shape")},
      "program": f"sha256 {script_helpers.program_checksum()}"}


def write_onnx(folder, source, args):
  """Writes the model for onnxruntime; see `write_saved_model`."""
  shape = _shape(args, source)
  with tf.Graph().as_default():
    model = _model(args, source, shape)
    signatures = make_signatures(source, model, shape, is_alone=True)
    compile_onnx.write(folder, signatures, model.load)
  compile_onnx.copy_assets(folder, source.assets(), new_info(args, source))


def main(_):
  """Compiles, as the flags say."""
  compile_model(FLAGS)


if __name__ == "__main__":
  init_compile_flags()
  script_helpers.run(main, ["input_saved_model", "output_saved_model"],
                     script_helpers.NOTHING_FINISHED)
