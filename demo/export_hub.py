# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Makes a TensorFlow Hub module of a checkpoint's encoder.

  python -m demo.export_hub --init_checkpoint=bert_model.ckpt \
    --bert_config_file=bert_config.json --vocab_file=vocab.txt \
    --format=tf2 --output_dir=/tmp/encoder

The folder is what --bert_hub_module_handle of run_classifier_with_tfhub.py
takes, in the format of TensorFlow 1 (hub.Module) or as a SavedModel of
TensorFlow 2 (tf.saved_model.load, hub.KerasLayer). The vocabulary goes with it.
"""

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import tensorflow as tf

from demo import checkpoint_helpers
from demo import flag_helpers
from demo import hub_helpers
from demo import script_helpers
import modeling
import tokenization

FLAGS = flags.FLAGS

# What a training on a TF1 module puts before the names of its variables.
_MODULE_SCOPE = "module/"


def init_export_hub_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint whose encoder is exported, pretrained or fine-tuned.")
  flags.DEFINE_string(
      "bert_config_file", None,
      "JSON file with the model's sizes (bert_config.json).")
  flag_helpers.define_text_flags()
  flags.DEFINE_string(
      "output_dir", None, "Folder to write; it must not exist yet.")
  flags.DEFINE_enum(
      "format", "tf2", ["tf1", "tf2"],
      "tf1 for hub.Module, tf2 for SavedModels that are called.")


def export_tf1(path, bert_config, init_checkpoint, names, vocab_file,
               do_lower_case):
  """Writes an encoder in the Hub's format of TensorFlow 1.

  Args:
    path: string, folder to write.
    bert_config: modeling.BertConfig.
    init_checkpoint: string, checkpoint prefix.
    names: dict variable name -> name in the checkpoint.
    vocab_file: string.
    do_lower_case: bool.
  """
  hub = hub_helpers.import_hub()

  def module_fn(is_training):
    """Builds one of the module's graphs."""
    inputs = {
        name: tf.compat.v1.placeholder(tf.int32, [None, None], name)
        for name in ("input_ids", "input_mask", "segment_ids")}
    model = modeling.BertModel(
        bert_config, is_training, inputs["input_ids"], inputs["input_mask"],
        inputs["segment_ids"])
    hub.add_signature(hub_helpers.TOKENS, inputs, _outputs(model))
    path_tensor = tf.constant(vocab_file, name="vocab_file")
    tf.compat.v1.add_to_collection(
        tf.compat.v1.GraphKeys.ASSET_FILEPATHS, path_tensor)
    hub.add_signature(hub_helpers.TOKENIZATION_INFO, outputs={
        "vocab_file": path_tensor,
        "do_lower_case": tf.constant(do_lower_case, name="do_lower_case")})

  spec = hub.create_module_spec(module_fn, [
      (set(), {"is_training": False}),
      (set(hub_helpers.TRAIN_TAGS), {"is_training": True})])
  spec.export(path, checkpoint_path=init_checkpoint,
              name_transform_fn=names.get)


def export_tf2(path, bert_config, init_checkpoint, names, vocab_file,
               do_lower_case):
  """Writes an encoder as a SavedModel that can be trained further.

  Its variables have the names of Google's checkpoints.

  Args: see `export_tf1`.
  """
  reader = tf.train.load_checkpoint(init_checkpoint)
  variables = {name: tf.Variable(reader.get_tensor(saved), name=name)
               for name, saved in names.items()}
  encoder = _Encoder(bert_config, variables)
  encoder.vocab_file = tf.saved_model.Asset(vocab_file)
  encoder.do_lower_case = tf.Variable(
      do_lower_case, trainable=False, name="do_lower_case")
  inputs = {name: tf.TensorSpec([None, None], tf.int32, name)
            for name in ("input_word_ids", "input_mask", "input_type_ids")}
  for training in (False, True):  # Both are saved.
    encoder.__call__.get_concrete_function(inputs, training=training)
  tf.saved_model.save(encoder, path)


class _Encoder(tf.Module):
  """What is saved: called as the Hub's encoders are."""

  # Lists, which are saved; those of tf.Module are computed, and lost.
  variables = trainable_variables = regularization_losses = ()

  def __init__(self, bert_config, variables):
    super().__init__()
    self._bert_config = bert_config
    self._by_name = variables
    self.variables = self.trainable_variables = list(variables.values())
    self.regularization_losses = []  # The optimizer decays the weights.

  @tf.function(autograph=False)
  def __call__(self, inputs, training=False):
    """The encoder on a dict of int32 [B, S]."""
    with tf.compat.v1.variable_scope(
        "", custom_getter=lambda getter, name, **kwargs: self._by_name[name]):
      model = modeling.BertModel(
          self._bert_config, training, inputs["input_word_ids"],
          inputs["input_mask"], inputs["input_type_ids"], scope="bert")
    outputs = _outputs(model)
    return {**outputs, "default": outputs["pooled_output"]}


def _outputs(model):
  return {"pooled_output": model.get_pooled_output(),
          "sequence_output": model.get_sequence_output()}


def find_variables(bert_config, init_checkpoint):
  """Finds an encoder's variables in a checkpoint.

  Args:
    bert_config: modeling.BertConfig.
    init_checkpoint: string, checkpoint prefix; the names may stand below
      `module/`, as a training on a TF1 module leaves them.

  Returns:
    Dict variable name -> name in the checkpoint.

  Raises:
    ValueError: one is missing or has another shape.
  """
  with tf.Graph().as_default():
    modeling.BertModel(bert_config, False, tf.zeros([1, 2], tf.int32))
    wanted = {var.op.name: var.shape.as_list()
              for var in tf.compat.v1.trainable_variables()}
  saved = dict(tf.train.list_variables(init_checkpoint))
  names = {name: name if name in saved else _MODULE_SCOPE + name
           for name in wanted}
  for name, shape in wanted.items():
    found = saved.get(names[name], "missing")
    if found != shape:
      raise ValueError(
          f"--init_checkpoint={init_checkpoint} does not fit "
          f"--bert_config_file: {name} is {found} there, {shape} by the "
          f"config. Use the bert_config.json of the same model.")
  return names


def export(args):
  """Checks the files and writes the module.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: the output is there already, or the files don't fit together.
  """
  hub_helpers.import_hub()
  if tf.io.gfile.exists(args.output_dir):
    raise ValueError(f"--output_dir={args.output_dir} exists already. Remove "
                     f"it or name another folder.")
  flag_helpers.check_input_files(args)
  tokenization.validate_case_matches_checkpoint(
      args.do_lower_case, args.init_checkpoint)
  bert_config = modeling.BertConfig.from_json_file(args.bert_config_file)
  flag_helpers.check_bert_config(args.bert_config_file, bert_config)
  flag_helpers.check_vocabulary(
      args, tokenization.load_vocab(args.vocab_file), bert_config)
  checkpoint_helpers.check_checkpoint(args.init_checkpoint, bert_config)
  names = find_variables(bert_config, args.init_checkpoint)
  write = {"tf1": export_tf1, "tf2": export_tf2}[args.format]
  with script_helpers.finished_folder(args.output_dir) as temporary:
    write(temporary, bert_config, args.init_checkpoint, names,
          args.vocab_file, args.do_lower_case)
  logging.info(
      "%s: an encoder of %d variables, %d layers, for at most %d tokens.",
      args.output_dir, len(names), bert_config.num_hidden_layers,
      bert_config.max_position_embeddings)


def main(_):
  """Exports, as the flags say."""
  export(FLAGS)


if __name__ == "__main__":
  init_export_hub_flags()
  script_helpers.run(
      main, ["init_checkpoint", "bert_config_file", "vocab_file", "output_dir"],
      script_helpers.NOTHING_FINISHED)
