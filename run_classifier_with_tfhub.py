# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Fine-tunes a BERT of TensorFlow Hub to classify sentences or pairs of them.

  python run_classifier_with_tfhub.py --task_name=MRPC --do_train --do_eval \
    --data_dir=glue/MRPC --bert_hub_module_handle=/models/encoder \
    --output_dir=/tmp/mrpc

The story is that of run_classifier.py; here stands what differs with a module,
which brings its weights and its vocabulary along.

Source: google-research/bert (commit cc7051dc).
"""

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import tensorflow as tf

from demo import checkpoint_helpers
from demo import estimator_helpers
from demo import horovod_helpers
from demo import hub_helpers
from demo import layer_helpers
from demo import option_helpers
from demo import script_helpers
from demo import task_helpers
from demo import window_helpers
import run_classifier
import tokenization

FLAGS = flags.FLAGS

# Flags of run_classifier whose place the module takes.
_UNUSED_FLAGS = ("bert_config_file", "vocab_file", "init_checkpoint",
                 "do_lower_case", "recompute_layers")


def init_classifier_with_tfhub_flags():
  """Defines the script's flags: those of run_classifier, and the module."""
  run_classifier.init_classifier_flags()
  flags.DEFINE_string(
      "bert_hub_module_handle", None,
      "BERT encoder of TensorFlow Hub, for TensorFlow 1 (hub.Module) or 2 "
      "(SavedModel): its folder or its address.")


def create_model(is_training, input_ids, input_mask, segment_ids, labels,
                 num_labels, bert_hub_module_handle, dropout_before_logits=0.1,
                 is_regression=False, options=option_helpers.UPSTREAM):
  """Builds the module's encoder with an output layer on the pooled output.

  Args:
    is_training: bool, turns dropout on, the module's too.
    input_ids: int32 [B, S], or [B, N, S] of texts in up to N windows.
    input_mask: int32, as input_ids.
    segment_ids: int32, as input_ids.
    labels: int32 [B], classes; float32 [B] for regression.
    num_labels: int, L.
    bert_hub_module_handle: string, folder or address.
    dropout_before_logits: float, dropout rate of the pooled output.
    is_regression: bool, see `run_classifier.create_model`.
    options: option_helpers.Options, what upstream doesn't have.

  Returns:
    (loss, per_example_loss, logits, probabilities): float32 scalar, [B],
    [B, L], [B, L].

  Raises:
    ValueError: the module can't be reached or is no BERT encoder.

  Source: upstream symbol; see CHANGES.
  """
  input_ids, input_mask, segment_ids, texts = window_helpers.unfold(
      input_ids, input_mask, segment_ids)
  module = hub_helpers.HubModule(bert_hub_module_handle)
  output_layer = module.encode(
      is_training, input_ids, input_mask, segment_ids)  # [B, W]
  return run_classifier.add_output_layer(
      output_layer, is_training, labels, num_labels, dropout_before_logits,
      is_regression, options, texts)


def model_fn_builder(num_labels, learning_rate, num_train_steps,
                     num_warmup_steps, use_tpu, bert_hub_module_handle,
                     dropout_before_logits=0.1, is_regression=False,
                     options=option_helpers.UPSTREAM):
  """Makes the model_fn of the Estimator.

  Args:
    num_labels: int, L.
    learning_rate: float, peak rate.
    num_train_steps: int; None outside of training.
    num_warmup_steps: int; None outside of training.
    use_tpu: bool.
    bert_hub_module_handle: string, folder or address.
    dropout_before_logits: float, see `create_model`.
    is_regression: bool, see `create_model`.
    options: option_helpers.Options, what upstream doesn't have.

  Returns:
    Function (features, labels, mode, params) -> TPUEstimatorSpec, as that of
    `run_classifier.model_fn_builder`.

  Source: upstream symbol; see CHANGES.
  """

  def model_fn(features, labels, mode, params):
    """See the builder; labels and params are not used."""
    del labels, params

    def outputs_of(features):
      return create_model(
          mode == tf.estimator.ModeKeys.TRAIN, features["input_ids"],
          features["input_mask"], features["segment_ids"],
          features["label_ids"], num_labels, bert_hub_module_handle,
          dropout_before_logits, is_regression, options)

    module = hub_helpers.HubModule(bert_hub_module_handle)
    with module.usable_in_loops(options.num_accumulation_steps > 1):
      outputs = run_classifier.model_outputs(
          mode, features, outputs_of, options)
    return run_classifier.estimator_spec(
        mode, features, outputs, learning_rate, num_train_steps,
        num_warmup_steps, use_tpu, is_regression, options=options)

  return model_fn


def create_tokenizer_from_hub_module(bert_hub_module_handle):
  """Returns the FullTokenizer of the vocabulary that a module brings along.

  Args:
    bert_hub_module_handle: string, folder or address.

  Raises:
    ValueError: the module can't be reached or has no vocabulary.

  Source: upstream symbol; see CHANGES.
  """
  module = hub_helpers.HubModule(bert_hub_module_handle)
  vocab_file, do_lower_case = module.tokenization_info()
  return tokenization.FullTokenizer(vocab_file, do_lower_case)


class HubModel(object):
  """What `run_classifier.run_task` has to know of a module.

  Attributes:
    files: dict name -> path, those that ranks have to agree on.
    bert_config_file: None, a module has no such file.
  """

  bert_config_file = None

  def __init__(self, args):
    """Finds the module; see `hub_helpers.HubModule` for Raises.

    Args:
      args: the parsed flags.
    """
    self._args = args
    if args.precision != "fp32":
      raise ValueError(
          f"--precision={args.precision}: the matrix products of a module "
          f"can't be changed. Leave the flag out, or take run_classifier.py "
          f"with a checkpoint.")
    unused = [f"--{name}" for name in _UNUSED_FLAGS if args[name].present]
    if unused:
      logging.warning("%s: not used, the module takes its place.",
                      ", ".join(unused))
    module = hub_helpers.HubModule(args.bert_hub_module_handle)
    self._path = module.path
    self.files = module.files()

  def tokenizer(self):
    """Returns the FullTokenizer of the module's vocabulary."""
    self._tokenizer = create_tokenizer_from_hub_module(self._path)
    return self._tokenizer

  def vocab_size(self):
    """Returns how many tokens the module knows."""
    return len(self._tokenizer.vocab)

  def check_checkpoints(self, num_labels):
    """Refuses a module or checkpoint that doesn't fit (ValueError)."""
    args = self._args
    is_chief = horovod_helpers.is_chief()
    trained = None
    with tf.Graph().as_default():
      ids = tf.zeros([1, 2], tf.int32)
      create_model(args.do_train, ids, ids, ids, tf.zeros([1], tf.int32),
                   num_labels, self._path)
      tvars = tf.compat.v1.trainable_variables()
      layer_helpers.check_layers(args, [var.op.name for var in tvars])
      if is_chief:
        trained = checkpoint_helpers.check_trained(args, tvars)
    hub_helpers.check_max_seq_length(args, tvars, smallest=3)
    hub_helpers.check_vocabulary(args, self._tokenizer.vocab, tvars)
    if is_chief and not (trained or args.do_train or args.continuous_eval):
      raise ValueError(
          f"There is no model to evaluate or predict with: "
          f"--output_dir={args.output_dir} has no checkpoint. Pass --do_train: "
          f"a module has no output layer.")

  def model_fn(self, num_labels, num_train_steps, num_warmup_steps,
               is_regression, options):
    """Returns the model_fn; see `model_fn_builder`."""
    args = self._args
    return model_fn_builder(
        num_labels, estimator_helpers.effective_learning_rate(args),
        num_train_steps, num_warmup_steps, args.use_tpu, self._path,
        dropout_before_logits=args.dropout_before_logits,
        is_regression=is_regression, options=options)

  def outputs(self, num_labels, **inputs):
    """See `run_classifier.CheckpointModel`."""
    return create_model(
        False, num_labels=num_labels, bert_hub_module_handle=self._path,
        is_regression=num_labels == 1, **inputs)[-2:]

  def vocabulary(self):
    """Returns (vocab_file, do_lower_case): string and bool."""
    return hub_helpers.HubModule(self._path).tokenization_info()


def main(_):
  """Trains, evaluates and predicts, as the flags say.

  Source: upstream symbol; see CHANGES.
  """
  if FLAGS.precision == "auto":
    FLAGS.precision = "fp32"  # That of the module.
  run_classifier.run_task(FLAGS, HubModel)


if __name__ == "__main__":
  init_classifier_with_tfhub_flags()
  script_helpers.run(
      main, ["bert_hub_module_handle", "output_dir"], required_where={
          name: task_helpers.REQUIRED_WHERE[name]
          for name in ("data_dir", "task_name")})
