# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""demo.compile_model --format=onnx: the rebuilt model for onnxruntime.

It has serving_default alone, without inputs that nothing reads.
"""

import os

from absl import logging
import tensorflow as tf

from demo import export_helpers
from demo import horovod_helpers
from demo import runner_helpers
from demo import script_helpers

_OPSET = 17
_INSTALL = "pip install tf2onnx==1.17.0 onnx==1.18.0"


def check_packages(args):
  """Refuses what an ONNX model can't be, and a machine that lacks packages.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: names the flag, or the command that installs what is missing.
  """
  if args.dtype != "float32":
    raise ValueError(f"--format=onnx is written in float32: --dtype="
                     f"{args.dtype} does not work with it. Leave it out.")
  import_tf2onnx()
  runner_helpers.import_onnxruntime("--format=onnx")


def import_tf2onnx():
  """Imports tf2onnx.

  Returns:
    The module.

  Raises:
    ValueError: it or onnx is not installed.
  """
  try:
    # pylint: disable=import-outside-toplevel
    import onnx  # noqa: F401
    import tf2onnx
    import tf2onnx.optimizer
    import tf2onnx.tf_loader
  except (ImportError, AttributeError) as error:
    raise ValueError(f"--format=onnx needs tf2onnx and onnx, which can't be "
                     f"imported ({error}): {_INSTALL}") from None
  return tf2onnx


def write(folder, signatures, load):
  """Writes the model of the default graph as model.onnx.

  Args:
    folder: string; it must not exist.
    signatures: dict name -> SignatureDef; serving_default is written.
    load: function of a session that gives the variables their values.
  """
  tf2onnx = import_tf2onnx()
  signature = signatures[tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY]
  inputs = {name: x.name for name, x in signature.inputs.items()}
  outputs = {name: x.name for name, x in signature.outputs.items()}
  with tf.compat.v1.Session(
      config=horovod_helpers.session_config()) as session:
    load(session)
    graph_def = tf2onnx.tf_loader.freeze_session(
        session, input_names=list(inputs.values()),
        output_names=list(outputs.values()))
  logging.info("Converting to ONNX, opset %d.", _OPSET)
  with script_helpers.quiet():
    proto = _converted(tf2onnx, graph_def, inputs, outputs)
  tf.io.gfile.makedirs(folder)
  with tf.io.gfile.GFile(
      os.path.join(folder, export_helpers.ONNX_MODEL), "wb") as writer:
    writer.write(proto.SerializeToString())


def _converted(tf2onnx, graph_def, inputs, outputs):
  """The ONNX model of a frozen graph.

  Args:
    tf2onnx: the module.
    graph_def: GraphDef.
    inputs: dict name in the ONNX model -> name of the tensor.
    outputs: the same.

  Returns:
    onnx.ModelProto.
  """
  proto, _ = tf2onnx.convert.from_graph_def(
      graph_def, input_names=list(inputs.values()),
      output_names=list(outputs.values()), opset=_OPSET,
      tensors_to_rename={
          x: name for name, x in {**inputs, **outputs}.items()})
  return proto


def copy_assets(folder, files, info):
  """Copies the files of the old model, and writes a new model_info.json.

  Args:
    folder: string, of the new model.
    files: dict name -> path.
    info: dict, the content of model_info.json; None for none.
  """
  assets = os.path.join(folder, "assets")
  tf.io.gfile.makedirs(assets)
  for name, path in files.items():
    tf.io.gfile.copy(path, os.path.join(assets, name))
  if info is not None:
    export_helpers.write_info(os.path.join(assets, export_helpers.INFO), info)
