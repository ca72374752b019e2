# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Trains BERT on text alone: masked words, and whether sentences follow.

  python run_pretraining.py --do_train --do_eval \
    --input_file=/tmp/corpus/*.tfrecord --output_dir=/tmp/pretrained \
    --bert_config_file=bert_config.json --init_checkpoint=bert_model.ckpt \
    --num_train_steps=1000 --num_warmup_steps=100

The records are those of create_pretraining_data.py. The way of a record:
input_fn -> model_fn -> BertModel -> get_masked_lm_output and
get_next_sentence_output -> loss.

Source: google-research/bert (commit cc7051dc); Devlin et al. 2018, "BERT",
section 3.1 and appendix A; Habana's BERT changes for devices and ranks.
"""

import collections
import itertools
import os

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import tensorflow as tf

from demo import checkpoint_helpers
from demo import compute_helpers
from demo import estimator_helpers
from demo import evaluation_helpers
from demo import flag_helpers
from demo import fused_helpers
from demo import gradient_helpers
from demo import horovod_helpers
from demo import option_helpers
from demo import prediction_helpers
from demo import record_helpers
from demo import script_helpers
from demo import trial_helpers
import modeling
import optimization

FLAGS = flags.FLAGS

# With this many files for each rank some may get one more than others.
_MANY_FILES_PER_RANK = 10
_MADE_BY = "create_pretraining_data.py"
# Keeps a batch without a masked word from 0 / 0.
_SMALL = 1e-5
_WORDS_PER_PART = "words_per_part"
# What an evaluation gives; the first tells the best checkpoint by default.
_SCORES = ("loss", "masked_lm_accuracy", "masked_lm_loss",
           "next_sentence_accuracy", "next_sentence_loss")


def init_pretraining_flags():
  """Defines the script's flags: upstream's, then those added here."""
  flag_helpers.define_model_flags(max_seq_length=128)
  flag_helpers.define_training_flags()
  flags.DEFINE_string(
      "input_file", None,
      "Record files of create_pretraining_data.py: names, patterns (*) or "
      "folders, with commas between them. They may be compressed (gzip).")
  flags.DEFINE_integer(
      "max_predictions_per_seq", 20,
      "Masked tokens of an example at most, as the records were made.")
  flags.DEFINE_bool("do_eval", False, "Score the examples.")
  flags.DEFINE_integer("eval_batch_size", 8, "Examples per evaluation step.")
  flags.DEFINE_integer(
      "num_train_steps", 100000,
      "Training steps; with several ranks the steps that one would take.")
  flags.DEFINE_integer(
      "num_warmup_steps", 10000,
      "Steps over which the learning rate rises from 0.")
  flags.DEFINE_integer("max_eval_steps", 100, "Evaluation steps.")
  flag_helpers.define_tpu_flags()

  # Not in upstream.
  flag_helpers.define_added_training_flags()
  flags.DEFINE_string(
      "eval_input_file", None,
      "Record files to evaluate on, as --input_file, which is the default: "
      "give text that the training hasn't seen.")


def model_fn_builder(bert_config, init_checkpoint, learning_rate,
                     num_train_steps, num_warmup_steps, use_tpu,
                     use_one_hot_embeddings,
                     options=option_helpers.UPSTREAM):
  """Makes the model_fn of the Estimator.

  Args:
    bert_config: BertConfig.
    init_checkpoint: string or None, checkpoint to start from.
    learning_rate: float, peak rate.
    num_train_steps: int; None outside of training.
    num_warmup_steps: int; None outside of training.
    use_tpu: bool.
    use_one_hot_embeddings: bool, see `modeling.embedding_lookup`.
    options: option_helpers.Options, what upstream doesn't have.

  Returns:
    Function (features, labels, mode, params) -> TPUEstimatorSpec. It evaluates
    `masked_lm_accuracy`, `masked_lm_loss`, `next_sentence_accuracy` and
    `next_sentence_loss`.

  Source: upstream symbol; see CHANGES.
  """

  def model_fn(features, labels, mode, params):
    """See the builder; labels and params are not used."""
    del labels, params
    modes = tf.estimator.ModeKeys
    if mode not in (modes.TRAIN, modes.EVAL):
      raise ValueError(
          f"The model of run_pretraining trains and evaluates, mode {mode!r} "
          f"is neither.")
    if mode == modes.TRAIN:
      scalars = gradient_helpers.in_parts(
          training_scalars, _with_words_per_part(features, options), options)
    else:
      words, sentences = tasks_of(features, is_training=False)
    scaffold_fn = None
    if init_checkpoint:
      scaffold_fn = checkpoint_helpers.warm_start(
          modeling.get_assignment_map_from_checkpoint, init_checkpoint, use_tpu)
    spec = tf.compat.v1.estimator.tpu.TPUEstimatorSpec
    if mode == modes.EVAL:
      return spec(mode=mode, loss=words[0] + sentences[0],
                  scaffold_fn=scaffold_fn, eval_metrics=(
                      metric_fn, outputs_of(words, sentences, features)))
    loss = scalars.pop("loss")
    if not use_tpu:
      estimator_helpers.show_in_progress(**scalars)
    train_op = optimization.create_optimizer(
        loss, learning_rate, num_train_steps, num_warmup_steps, use_tpu,
        options)
    return spec(mode=mode, loss=gradient_helpers.loss_value(loss),
                train_op=train_op, scaffold_fn=scaffold_fn)

  def tasks_of(features, is_training):
    """What the two functions for the tasks return, in a tuple."""
    model = modeling.BertModel(
        bert_config, is_training, features["input_ids"],
        features["input_mask"], features["segment_ids"],
        use_one_hot_embeddings,
        operations=fused_helpers.operations(options, is_training))
    words = get_masked_lm_output(
        bert_config, model.get_sequence_output(), model.get_embedding_table(),
        features["masked_lm_positions"], features["masked_lm_ids"],
        features["masked_lm_weights"])
    return words, get_next_sentence_output(
        bert_config, model.get_pooled_output(),
        features["next_sentence_labels"])

  def outputs_of(words, sentences, features):
    """Of each masked word and example: loss, prediction, truth, weight."""
    return (_outputs(words, features["masked_lm_ids"],
                     features["masked_lm_weights"]) +
            _outputs(sentences, features["next_sentence_labels"]))

  def training_scalars(features):
    """The loss of a batch, or of its part in an update, and what is shown."""
    words, sentences = tasks_of(features, is_training=True)
    outputs = outputs_of(words, sentences, features)
    words_loss, words_accuracy = words[0], _accuracy(*outputs[1:4])
    if _WORDS_PER_PART in features:
      # Each masked word of the update counts alike, wherever it stands.
      share = _num_words(features) / features[_WORDS_PER_PART][0]
      words_loss, words_accuracy = words_loss * share, words_accuracy * share
    return collections.OrderedDict(
        loss=words_loss + sentences[0],
        masked_lm_loss=words_loss, masked_lm_accuracy=words_accuracy,
        next_sentence_loss=sentences[0],
        next_sentence_accuracy=_accuracy(*outputs[5:8]))

  def metric_fn(*outputs):
    """Means over the evaluation, padding of the masked words left out."""
    scores = {}
    for name, (losses, predicted, truth, weights) in (
        ("masked_lm", outputs[:4]), ("next_sentence", outputs[4:])):
      scores[f"{name}_accuracy"] = tf.compat.v1.metrics.accuracy(
          labels=truth, predictions=predicted, weights=weights)
      scores[f"{name}_loss"] = tf.compat.v1.metrics.mean(
          values=losses, weights=weights)
    return scores

  return model_fn


def _with_words_per_part(features, options):
  """Features, with a row each of how many masked words parts have on average.
  """
  if options.num_accumulation_steps == 1:
    return features
  words = _num_words(features) / options.num_accumulation_steps
  return {**features, _WORDS_PER_PART: tf.fill(
      tf.shape(features["masked_lm_weights"])[:1], words)}


def _num_words(features):
  """How many masked words there are (float32 scalar), above 0."""
  return tf.reduce_sum(features["masked_lm_weights"]) + _SMALL


def _outputs(task, labels, weights=None):
  """What the scores of a task are computed from.

  Args:
    task: (loss, per_example_loss, log_probs) of one of the two outputs.
    labels: int32, any shape of n elements.
    weights: float32 of that shape; None counts all.

  Returns:
    List of loss, predicted class, true class and weight, [n] each.
  """
  _, per_example_loss, log_probs = task
  labels = tf.reshape(labels, [-1])
  return [per_example_loss,
          tf.argmax(log_probs, axis=-1, output_type=tf.int32), labels,
          tf.ones_like(labels, tf.float32) if weights is None
          else tf.reshape(weights, [-1])]


def _accuracy(predicted, truth, weights):
  """Share of a batch's predictions that are true (float32 scalar)."""
  return tf.math.divide_no_nan(
      tf.reduce_sum(weights * tf.cast(tf.equal(predicted, truth), tf.float32)),
      tf.reduce_sum(weights))


def get_masked_lm_output(bert_config, input_tensor, output_weights, positions,
                         label_ids, label_weights):
  """Predicts the masked words from the last layer.

  Args:
    bert_config: BertConfig.
    input_tensor: float32 [B, S, W].
    output_weights: float32 [V, W], the word embeddings, which the output layer
      shares.
    positions: int32 [B, P], places of the masked words.
    label_ids: int32 [B, P], the words.
    label_weights: float32 [B, P], 0.0 for padding.

  Returns:
    (loss, per_example_loss, log_probs): float32 scalar, [B * P], [B * P, V].

  Source: upstream symbol, unchanged.
  """
  with tf.compat.v1.variable_scope("cls/predictions"):
    with tf.compat.v1.variable_scope("transform"):
      hidden = modeling.layer_norm(modeling.dense(
          gather_indexes(input_tensor, positions), bert_config.hidden_size,
          modeling.get_activation(bert_config.hidden_act),
          bert_config.initializer_range, "dense"))  # [B * P, W]
    output_bias = tf.compat.v1.get_variable(
        "output_bias", [bert_config.vocab_size],
        initializer=tf.zeros_initializer())
    per_example_loss, log_probs = _cross_entropy(
        hidden, output_weights, output_bias, label_ids)
    weights = tf.reshape(label_weights, [-1])
    loss = (tf.reduce_sum(weights * per_example_loss) /
            (tf.reduce_sum(weights) + _SMALL))
  return (loss, per_example_loss, log_probs)


def get_next_sentence_output(bert_config, input_tensor, labels):
  """Predicts whether the second sentence is not the one that followed.

  Args:
    bert_config: BertConfig.
    input_tensor: float32 [B, W], the pooled output.
    labels: int32 [B, 1], 0 for the next sentence, 1 for a random one.

  Returns:
    (loss, per_example_loss, log_probs): float32 scalar, [B], [B, 2].

  Source: upstream symbol, unchanged.
  """
  with tf.compat.v1.variable_scope("cls/seq_relationship"):
    output_weights = tf.compat.v1.get_variable(
        "output_weights", [2, bert_config.hidden_size],
        initializer=modeling.create_initializer(bert_config.initializer_range))
    output_bias = tf.compat.v1.get_variable(
        "output_bias", [2], initializer=tf.zeros_initializer())
    per_example_loss, log_probs = _cross_entropy(
        input_tensor, output_weights, output_bias, labels)
    return (tf.reduce_mean(per_example_loss), per_example_loss, log_probs)


def _cross_entropy(vectors, output_weights, output_bias, labels):
  """Loss [n] and log probabilities [n, L] of a linear layer on [n, W]."""
  log_probs = tf.nn.log_softmax(tf.nn.bias_add(
      tf.matmul(vectors, output_weights, transpose_b=True), output_bias))
  one_hot = tf.one_hot(tf.reshape(labels, [-1]), log_probs.shape[-1])
  return -tf.reduce_sum(one_hot * log_probs, axis=-1), log_probs


def gather_indexes(sequence_tensor, positions):
  """Picks the vectors at some positions of each row.

  Args:
    sequence_tensor: float32 [B, S, W].
    positions: int32 [B, P].

  Returns:
    float32 [B * P, W].

  Source: upstream symbol, unchanged.
  """
  width = sequence_tensor.shape[-1]
  return tf.reshape(
      tf.gather(sequence_tensor, positions, batch_dims=1), [-1, width])


def input_fn_builder(input_files, max_seq_length, max_predictions_per_seq,
                     is_training, num_cpu_threads=4):
  """Makes an input_fn that reads record files, over and over.

  In training each rank of several reads its share (`_own_files`), from several
  files in turn, and shuffles.

  Args:
    input_files: list of string, plain or gzip.
    max_seq_length: int, S.
    max_predictions_per_seq: int, P.
    is_training: bool.
    num_cpu_threads: int, files to read from at a time in training.

  Returns:
    Function of params (dict with "batch_size", B) that returns a tf.data
    Dataset of dicts: input_ids, input_mask, segment_ids int32 [B, S];
    masked_lm_positions, masked_lm_ids int32 [B, P]; masked_lm_weights float32
    [B, P]; next_sentence_labels int32 [B, 1].

  Source: upstream symbol; see CHANGES.
  """
  name_to_features = _record_features(max_seq_length, max_predictions_per_seq)
  files, share = (
      _own_files(input_files) if is_training else (input_files, None))

  def own_records(path, compression):
    """What this rank reads of a file."""
    d = tf.data.TFRecordDataset(path, compression)
    return d.shard(*share) if share else d

  def input_fn(params):
    """See the builder."""
    d = tf.data.Dataset.from_tensor_slices(
        (files, [record_helpers.compression(path) for path in files]))
    if is_training:
      # A run with a seed reads the same records in the same order.
      is_seeded = tf.compat.v1.get_seed(None)[0] is not None
      d = d.repeat().shuffle(len(files)).interleave(
          own_records, cycle_length=min(num_cpu_threads, len(files)),
          num_parallel_calls=tf.data.AUTOTUNE, deterministic=is_seeded)
      d = record_helpers.unread(d.shuffle(buffer_size=100), params)
    else:
      # The number of steps is given, and never more than there is.
      d = d.flat_map(own_records).repeat()
    d = d.batch(params["batch_size"], drop_remainder=True)
    return d.map(lambda records: _decode_record(
        records, name_to_features)).prefetch(tf.data.AUTOTUNE)

  return input_fn


def _record_features(max_seq_length, max_predictions_per_seq):
  """The features of a record: name -> tf.io.FixedLenFeature."""
  def feature(length, dtype=tf.int64):
    return tf.io.FixedLenFeature([length], dtype)

  return {
      "input_ids": feature(max_seq_length),
      "input_mask": feature(max_seq_length),
      "segment_ids": feature(max_seq_length),
      "masked_lm_positions": feature(max_predictions_per_seq),
      "masked_lm_ids": feature(max_predictions_per_seq),
      "masked_lm_weights": feature(max_predictions_per_seq, tf.float32),
      "next_sentence_labels": feature(1)}


def _own_files(files):
  """The part of the records that this rank trains on.

  Whole files where they can be dealt out evenly, or nearly so; otherwise each
  rank reads all files and takes one record in so many as there are ranks.

  Args:
    files: list of string.

  Returns:
    (files, share): list of string, and (ranks, rank) to share the records of
    each file out by; None takes all of them.
  """
  size, rank = horovod_helpers.hvd_size(), horovod_helpers.hvd_rank()
  if len(files) % size == 0 or len(files) >= _MANY_FILES_PER_RANK * size:
    return files[rank::size], None
  return files, (size, rank)


def _decode_record(record, name_to_features):
  """Takes a record apart.

  Args:
    record: string tensor, [] or [B].
    name_to_features: dict name -> tf.io.FixedLenFeature.

  Returns:
    Dict name -> tensor, int64 cast to int32.

  Source: upstream symbol, which takes one record at a time; see CHANGES.
  """
  return record_helpers.decode(record, name_to_features)


def main(_):
  """Trains and evaluates, as the flags say.

  Source: upstream symbol; see CHANGES.
  """
  tf.compat.v1.enable_resource_variables()
  horovod_helpers.start_ranks(FLAGS.use_horovod, FLAGS.cpu_only,
                              FLAGS.fp16_allreduce, FLAGS.bf16_config_path)
  compute_helpers.prepare(FLAGS)
  flag_helpers.check_input_files(FLAGS)
  bert_config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  _check_flags(FLAGS, bert_config)
  train_files, eval_files = _input_files(FLAGS, bert_config)
  script_helpers.check_output_dir(FLAGS.output_dir)
  checkpoint_helpers.check_checkpoints(
      FLAGS, bert_config, lambda ids: _build_model(bert_config, ids),
      modeling.get_assignment_map_from_checkpoint)
  if horovod_helpers.horovod_enabled():
    script_helpers.check_ranks_agree(FLAGS, {}, {
        "What --input_file has to train on": record_helpers.sizes(train_files),
        "What there is to evaluate on": record_helpers.sizes(eval_files)
        if prediction_helpers.is_distributed(FLAGS) else ""})

  num_train_steps, num_warmup_steps = _training_steps(FLAGS)
  model_fn = model_fn_builder(
      bert_config, FLAGS.init_checkpoint,
      estimator_helpers.effective_learning_rate(FLAGS), num_train_steps,
      num_warmup_steps, FLAGS.use_tpu, use_one_hot_embeddings=FLAGS.use_tpu,
      options=option_helpers.from_flags(FLAGS))
  if trial_helpers.is_wanted(FLAGS):
    modes = tf.estimator.ModeKeys
    trial_helpers.try_out(FLAGS, [
        (mode, model_fn, input_fn_builder(
            files, FLAGS.max_seq_length, FLAGS.max_predictions_per_seq,
            mode == modes.TRAIN), batch_size)
        for mode, files, batch_size in (
            (modes.TRAIN, train_files, FLAGS.train_batch_size),
            (modes.EVAL, eval_files, FLAGS.eval_batch_size)) if files])
    return
  estimator = estimator_helpers.make_estimator(
      FLAGS, model_fn, eval_batch_size=FLAGS.eval_batch_size,
      predict_batch_size=FLAGS.eval_batch_size)
  scorer = None
  if horovod_helpers.is_chief() and evaluation_helpers.is_wanted(FLAGS):
    scorer = _scorer(FLAGS, model_fn, eval_files)
  try:
    if FLAGS.do_train:
      estimator_helpers.train(
          FLAGS, estimator,
          input_fn_builder(train_files, FLAGS.max_seq_length,
                           FLAGS.max_predictions_per_seq, is_training=True),
          None, num_train_steps, optimization.LEARNING_RATE,
          first_synapse_step=30,
          evaluation=evaluation_helpers.within_training(
              FLAGS, _SCORES, scorer))
    if FLAGS.do_eval and prediction_helpers.takes_part(FLAGS):
      evaluation_helpers.evaluate_several(FLAGS, _SCORES, scorer)
      _evaluate(FLAGS, estimator, model_fn, eval_files)
  except tf.errors.DataLossError as error:
    record_helpers.name_damaged_file(
        _own_files(train_files)[0] + eval_files, error)
    raise


def _check_flags(args, bert_config):
  """Refuses what can't work before anything is read."""
  if not (args.do_train or args.do_eval):
    raise ValueError("Nothing to do: pass --do_train, --do_eval or both.")
  flag_helpers.check_training_flags(args)
  trial_helpers.check_flags(args)
  evaluation_helpers.check_flags(args, _SCORES)
  flag_helpers.check_bert_config(args.bert_config_file, bert_config)
  flag_helpers.check_max_seq_length(args, bert_config, smallest=5)


def _input_files(args, bert_config):
  """The files to train and to evaluate on, each looked into.

  Args:
    args: the parsed flags.
    bert_config: BertConfig.

  Returns:
    (train_files, eval_files): lists of string, empty where not needed.

  Raises:
    ValueError: there is none, or one that other flags were used for.
  """
  flag = "eval_input_file" if args.eval_input_file else "input_file"

  def find(name):
    return record_helpers.find_files(name, getattr(args, name), _MADE_BY)

  train_files = find("input_file") if args.do_train else []
  eval_files = find(flag) if (
      args.do_eval and prediction_helpers.takes_part(args) or
      evaluation_helpers.is_wanted(args) and
      horovod_helpers.is_chief()) else []
  for path in sorted(set(train_files + eval_files)):
    _check_records(path, args, bert_config)
  if train_files:
    _check_share(train_files)
  return train_files, eval_files


def _check_records(path, args, bert_config):
  """Refuses a file without records, or with such as other flags make."""
  record_helpers.check_records(
      path, _record_features(args.max_seq_length, args.max_predictions_per_seq),
      _MADE_BY,
      lambda name: ("max_predictions_per_seq" if name.startswith("masked_lm_")
                    else "max_seq_length"),
      # What ids and positions have to be below.
      {"input_ids": bert_config.vocab_size,
       "masked_lm_ids": bert_config.vocab_size,
       "segment_ids": bert_config.type_vocab_size,
       "masked_lm_positions": args.max_seq_length, "next_sentence_labels": 2})


def _check_share(files):
  """Refuses to train on files of which this rank would get no record."""
  files, share = _own_files(files)
  if share:
    ranks, rank = share
    if all(next(itertools.islice(record_helpers.records(path), rank, None),
                None) is None
           for path in files):
      raise ValueError(
          f"--input_file has less than {ranks} records in each file, too few "
          f"for {ranks} ranks. Start fewer ranks or make more records.")


def _build_model(bert_config, ids):
  """The graph of the whole model on int32 ids [1, 2]."""
  model = modeling.BertModel(bert_config, False, ids)
  get_masked_lm_output(
      bert_config, model.get_sequence_output(), model.get_embedding_table(),
      ids, ids, tf.cast(ids, tf.float32))
  get_next_sentence_output(bert_config, model.get_pooled_output(), ids[:, :1])


def _training_steps(args):
  """Steps of the training and of its warm-up, of each of several ranks."""
  size = horovod_helpers.hvd_size()
  if args.max_steps:
    return args.max_steps, min(args.num_warmup_steps // size, args.max_steps)
  steps, warmup = args.num_train_steps // size, args.num_warmup_steps // size
  if not steps:
    raise ValueError(
        f"--num_train_steps={args.num_train_steps} makes less than one step "
        f"for each of {size} ranks.")
  if size > 1:
    logging.info(
        "%d steps, %d of them warm-up: --num_train_steps=%d and "
        "--num_warmup_steps=%d divided by %d ranks.", steps, warmup,
        args.num_train_steps, args.num_warmup_steps, size)
  return steps, warmup


def _eval_batches(args, files):
  """The input_fn of the first --max_eval_steps batches."""
  batches = input_fn_builder(
      files, args.max_seq_length, args.max_predictions_per_seq,
      is_training=False)
  return lambda params: batches(params).take(args.max_eval_steps)


def _scorer(args, model_fn, files):
  """The CheckpointScorer of the examples to evaluate on."""
  return evaluation_helpers.CheckpointScorer(
      model_fn, tf.estimator.ModeKeys.EVAL, {"": _eval_batches(args, files)},
      args.eval_batch_size,
      lambda name, result, outputs: {key: result[key] for key in _SCORES})


def _evaluate(args, estimator, model_fn, files):
  """Scores the examples and writes eval_results.txt."""
  batches = _eval_batches(args, files)

  def input_fn(params):
    """The batches of this rank."""
    d = batches(params)
    if prediction_helpers.is_distributed(args):
      d = d.shard(horovod_helpers.hvd_size(), horovod_helpers.hvd_rank())
    return d

  logging.info("***** Running evaluation *****")
  logging.info("  Batch size = %d", args.eval_batch_size)
  result, _ = prediction_helpers.evaluate(
      args, estimator, model_fn, input_fn,
      args.max_eval_steps * args.eval_batch_size, None)
  if result is not None:
    prediction_helpers.write_eval_results(
        os.path.join(args.output_dir, "eval_results.txt"), result,
        "Eval results")


if __name__ == "__main__":
  init_pretraining_flags()
  script_helpers.run(main, ["input_file", "bert_config_file", "output_dir"])
