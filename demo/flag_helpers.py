# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The flags that several scripts share, and what they may hold."""

import math

from absl import flags
import tensorflow as tf

from demo import option_helpers
from demo import perf_helpers


def define_model_flags(max_seq_length):
  """Defines the flags of the model that upstream's training scripts share.

  Args:
    max_seq_length: int, the script's default.
  """
  flags.disclaim_key_flags()  # They belong to the script that calls this.
  flags.DEFINE_string(
      "bert_config_file", None,
      "JSON file with the model's sizes (bert_config.json).")
  flags.DEFINE_string(
      "output_dir", None, "Folder for checkpoints and results.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint to start from, as a rule a pretrained model "
      "(.../bert_model.ckpt).")
  flags.DEFINE_integer(
      "max_seq_length", max_seq_length,
      "Tokens that the model is given at a time; shorter examples are padded, "
      "longer ones cut (questions: the text into windows).")


def define_text_flags():
  """Defines the flags of scripts that read text."""
  flags.disclaim_key_flags()
  flags.DEFINE_string(
      "vocab_file", None, "Vocabulary that the model was trained with.")
  flags.DEFINE_bool(
      "do_lower_case", True,
      "Lower-case the text: True for uncased models, False for cased ones.")


def define_training_flags():
  """Defines the flags of training that upstream's training scripts share."""
  flags.disclaim_key_flags()
  flags.DEFINE_bool("do_train", False, "Train.")
  flags.DEFINE_integer(
      "train_batch_size", 32, "Examples per training step and rank.")
  flags.DEFINE_float("learning_rate", 5e-5, "Peak learning rate of Adam.")
  flags.DEFINE_integer(
      "save_checkpoints_steps", 1000, "Steps between two checkpoints.")


def define_fine_tuning_flags():
  """Defines the flags that upstream's two fine-tuning scripts share."""
  flags.disclaim_key_flags()
  flags.DEFINE_integer(
      "predict_batch_size", 8, "Examples per prediction step.")
  flags.DEFINE_float("num_train_epochs", 3.0, "Passes over the training data.")
  flags.DEFINE_float(
      "warmup_proportion", 0.1,
      "Share of the steps over which the learning rate rises from 0; 0.1 is "
      "10 %.")


def define_tpu_flags():
  """Defines the flags of TPU runs that upstream's scripts share."""
  flags.disclaim_key_flags()
  flags.DEFINE_integer(
      "iterations_per_loop", 1000, "Steps per call of the TPU.")
  flags.DEFINE_bool("use_tpu", False, "Run on a TPU instead of CPU or GPU.")
  flags.DEFINE_string(
      "tpu_name", None, "TPU to use: its name or a grpc://host:port address.")
  flags.DEFINE_string(
      "tpu_zone", None, "GCE zone of the TPU, where it can't be detected.")
  flags.DEFINE_string(
      "gcp_project", None, "Project of the TPU, where it can't be detected.")
  flags.DEFINE_string("master", None, "TensorFlow master address.")
  flags.DEFINE_integer("num_tpu_cores", 8, "Cores of the TPU.")


def define_run_flags():
  """Defines the flags that upstream doesn't have and every script takes."""
  flags.disclaim_key_flags()
  flags.DEFINE_bool(
      "cpu_only", False,
      "Use no accelerator: neither a GPU nor the Gaudi device library.")
  flags.DEFINE_bool(
      "use_horovod", False,
      "Train on several ranks with Horovod. On by itself when mpirun or "
      "horovodrun started more than one process.")
  flags.DEFINE_bool(
      "scale_learning_rate", True,
      "With Horovod, multiply the learning rate by the number of ranks.")
  flags.DEFINE_bool(
      "fp16_allreduce", False,
      "With Horovod, send gradients as float16: half the bytes.")
  flags.DEFINE_bool(
      "distributed_predict", False,
      "With Horovod, evaluate and predict on all ranks; the results are those "
      "of one rank.")
  flags.DEFINE_integer(
      "random_seed", None,
      "Seed of initial values, dropout and shuffling: the same seed gives the "
      "same run on the same machine. None draws anew each time.",
      lower_bound=0)
  flags.DEFINE_integer(
      "log_steps", 100,
      "Training steps between two lines of progress and two points of "
      "TensorBoard. On a terminal a bar shows every step.", lower_bound=1)
  flags.DEFINE_bool(
      "write_perf", False,
      "Write perf.json: throughput, step times and the share of time that "
      "steps waited for input. The log always has them.")
  flags.DEFINE_string(
      "profile_steps", None,
      "First and last training step of a timeline for TensorBoard: 20,30.")
  flags.DEFINE_string(
      "bf16_config_path", None,
      "Gaudi: JSON file with the operations to compute in bfloat16, such as "
      "habana/bf16_lists/basic.json.")


def define_optimizer_flags():
  """Defines the flags of the update that upstream doesn't have."""
  flags.disclaim_key_flags()
  flags.DEFINE_enum(
      "optimizer", "adamw", ["adamw", "lamb"],
      "adamw is upstream's; lamb is for large batches.")
  flags.DEFINE_enum(
      "lr_schedule", "linear", ["linear", "constant", "cosine"],
      "How the learning rate goes on after the warm-up: down to 0 in a line, "
      "as it is, or down to 0 in half a cosine.")
  flags.DEFINE_float(
      "layerwise_lr_decay", 1.0,
      "Factor of the learning rate from each layer to the one below it: 0.8 "
      "is usual, 1 trains all layers alike.", lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_integer(
      "freeze_layers", 0,
      "Leave the embeddings and so many layers above them as they are. 0 "
      "trains all.", lower_bound=0)
  flags.DEFINE_integer(
      "num_accumulation_steps", 1,
      "Batches whose gradients are averaged for one update: as many times the "
      "batch size in the memory of one batch.", lower_bound=1)


def define_precision_flags():
  """Defines the flags of number formats and compilation."""
  flags.disclaim_key_flags()
  flags.DEFINE_enum(
      "precision", "fp32", ["fp32", "bf16", "fp16", "auto"],
      "Number format of the matrix products. Variables, softmax, layer norm, "
      "loss and update are always fp32. auto takes bf16 where a matrix product "
      "is clearly faster in it on this machine, fp32 elsewhere.")
  flags.DEFINE_string(
      "loss_scale", None,
      "With --precision=fp16: what the loss is multiplied by, a number or "
      "dynamic, which is the default.")
  flags.DEFINE_bool(
      "use_xla", False,
      "Compile the training step with XLA: a slow first step, then as a rule "
      "faster ones.")
  flags.DEFINE_bool(
      "fused_ops", False,
      "Compile what lies between the matrix products of a training step, and "
      "the update: a third less time on CPUs, the same results but for "
      "rounding and which elements a dropout drops.")
  flags.DEFINE_bool(
      "recompute_layers", False,
      "Compute each layer again for its gradients instead of keeping what it "
      "computed: a third more time, and the memory of one layer instead of "
      "all.")


def define_evaluation_flags():
  """Defines the flags of evaluation, checkpoints and the training's end."""
  flags.disclaim_key_flags()
  flags.DEFINE_integer(
      "max_steps", None,
      "Training steps of each rank in all, instead of what the number of "
      "epochs makes.", lower_bound=1)
  flags.DEFINE_integer(
      "eval_every_steps", 0,
      "Evaluate within the training after each so many steps, and keep the "
      "best checkpoint in best/. 0 doesn't.", lower_bound=0)
  flags.DEFINE_string(
      "best_metric", None,
      "Score that tells the best checkpoint; the task's main one by default.")
  flags.DEFINE_integer(
      "early_stopping_patience", 0,
      "End the training after so many evaluations without a better score. 0 "
      "doesn't.", lower_bound=0)
  flags.DEFINE_bool(
      "eval_all_checkpoints", False,
      "With --do_eval: evaluate every checkpoint in --output_dir.")
  flags.DEFINE_bool(
      "continuous_eval", False,
      "With --do_eval: evaluate each checkpoint that another process saves in "
      "--output_dir, until the last.")
  flags.DEFINE_integer(
      "continuous_eval_timeout", 3600,
      "Seconds without a new checkpoint after which --continuous_eval ends.",
      lower_bound=1)
  flags.DEFINE_integer(
      "keep_checkpoint_max", None,
      "Checkpoints to keep, the newest; by default 5, SQuAD 1.", lower_bound=1)
  flags.DEFINE_string(
      "checkpoint_path", None,
      "Checkpoint to evaluate, predict or export with. By default that of "
      "best/ with --eval_every_steps, else the newest of --output_dir.")
  flags.DEFINE_float(
      "loss_upper_bound", None,
      "End the training when the loss goes above this.", lower_bound=0.0)


def define_table_flags():
  """Defines the flags of a classifier's own data and of TFDS."""
  flags.disclaim_key_flags()
  for name, what in (("train_file", "training"), ("dev_file", "dev"),
                     ("test_file", "test")):
    flags.DEFINE_string(
        name, None,
        f"--task_name=custom: the {what} set, a .tsv, .csv or .jsonl file (or "
        f".gz of one).")
  flags.DEFINE_string(
      "text_a", None,
      "Column of the text: its name, or its number from 0. By default found by "
      "usual names (sentence1, sentence, text ...), without a header the "
      "first.")
  flags.DEFINE_string(
      "text_b", None,
      "Column of the second text of a pair. With --text_a there is none unless "
      "it is given.")
  flags.DEFINE_string(
      "label", None,
      "Column of the label; by default one called label, score or so, without "
      "a header the last. A test set needs none.")
  flags.DEFINE_list(
      "labels", None,
      "The labels in the order of their ids. By default those of the training "
      "set, sorted, and later those in label_map.json of --output_dir.")
  flags.DEFINE_bool(
      "regression", False, "The labels are numbers to be met, not classes.")
  flags.DEFINE_enum(
      "has_header", "auto", ["auto", "yes", "no"],
      "Whether the first line of a .tsv or .csv file names the columns. auto: "
      "it does if a name given by --text_a, --text_b or --label stands there, "
      "or a usual one such as sentence or label.")
  flags.DEFINE_string(
      "use_tfds", None,
      "Take the data from TensorFlow Datasets, as they are prepared on this "
      "machine: glue/sst2, imdb_reviews ... Nothing is downloaded.")
  flags.DEFINE_string(
      "tfds_dir", None,
      "Folder of TensorFlow Datasets; by default the library's own.")


def define_check_flags():
  """Defines the flags that try a run out without making it."""
  flags.disclaim_key_flags()
  flags.DEFINE_bool(
      "validate_only", False,
      "Check flags, files, checkpoint and graph, and end: exit status 0 if "
      "the run can start.")
  flags.DEFINE_bool(
      "compile_only", False,
      "Check as --validate_only does, then run one step of training and one "
      "of evaluation on synthetic data, and end.")


def define_added_training_flags():
  """Defines what upstream doesn't have and every training script takes."""
  define_run_flags()
  define_optimizer_flags()
  define_precision_flags()
  define_evaluation_flags()
  define_check_flags()


def define_export_flags():
  """Defines the flags of the export for serving."""
  flags.disclaim_key_flags()
  flags.DEFINE_bool("do_export", False, "Export a SavedModel for serving.")
  flags.DEFINE_string(
      "export_dir", None,
      "Folder of exports, each in a folder named by its time; "
      "<output_dir>/export by default.")
  flags.DEFINE_bool(
      "export_five_inputs", False,
      "With --do_export: serving_default has the inputs label_ids and "
      "is_real_example too, which nothing reads, for clients that send them.")
  flags.DEFINE_bool(
      "export_fixed_length", False,
      "With --do_export: serving_default takes rows of --max_seq_length tokens "
      "only, instead of any length.")
  flags.DEFINE_bool(
      "export_text_inputs", False,
      "With --do_export: a signature serve_texts that takes texts and splits "
      "them into tokens in the graph, with tensorflow-text. For classifiers. "
      "Loading such a model needs tensorflow-text too.")


def define_record_flags():
  """Defines the flags of training on records that are made beforehand."""
  flags.disclaim_key_flags()
  flags.DEFINE_string(
      "train_records", None,
      "Train on these record files of demo.create_finetuning_data instead of "
      "text: names, patterns (*) or folders, with commas between them; dummy "
      "makes synthetic records, to try the speed.")
  flags.DEFINE_string(
      "meta_data_file", None,
      "How the records were made: the file of "
      "demo.create_finetuning_data's --meta_data_file_path.")


def define_padding_flags():
  """Defines the flag of batches without needless padding."""
  flags.disclaim_key_flags()
  flags.DEFINE_bool(
      "dynamic_padding", False,
      "Cut each batch to its longest row, and train on batches of rows of like "
      "length. Records stay as they are.")


def check_input_files(args):
  """Refuses a config or vocabulary file that isn't there.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: names flag and file.
  """
  for name in ("bert_config_file", "vocab_file"):
    path = getattr(args, name, None)
    if path is None:
      continue
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
      raise ValueError(f"--{name}={path} is not there: give the file that came "
                       f"with the model.")


def check_training_flags(args):
  """Refuses values that the flags of training and evaluation can't have.

  Args:
    args: the parsed flags; those that the script has are looked at.

  Raises:
    ValueError: names the flag, its value and the values that it takes.
  """
  for names, fits, expected in (
      (("train_batch_size", "eval_batch_size", "predict_batch_size",
        "save_checkpoints_steps", "iterations_per_loop", "num_train_steps",
        "max_eval_steps", "max_predictions_per_seq"),
       lambda value: value >= 1, "1 or more"),
      (("num_warmup_steps",), lambda value: value >= 0, "0 or more"),
      (("learning_rate", "num_train_epochs", "loss_upper_bound"),
       lambda value: 0 < value < math.inf, "above 0"),
      (("warmup_proportion",), lambda value: 0 <= value <= 1, "0 to 1")):
    for name in names:
      value = getattr(args, name, None)
      if value is not None and not fits(value):
        raise ValueError(f"--{name}={value} has to be {expected}.")
  if args.precision in ("bf16", "fp16") and args.bf16_config_path:
    raise ValueError(
        f"--precision={args.precision} and --bf16_config_path both choose the "
        f"format of the matrix products: leave one out.")
  if args.profile_steps:
    perf_helpers.parse_profile_steps(args.profile_steps)
  if option_helpers.parse_loss_scale(args.loss_scale) and (
      args.precision != "fp16"):
    raise ValueError(f"--loss_scale={args.loss_scale} is for --precision=fp16, "
                     f"not {args.precision}. Leave it out.")
  if args.use_tpu and getattr(args, "dynamic_padding", False):
    raise ValueError(
        "--dynamic_padding makes batches of many lengths, a TPU wants all to "
        "be alike: leave out --dynamic_padding or --use_tpu.")
  if args.use_tpu:
    for name in ("num_accumulation_steps", "loss_scale"):
      if getattr(args, name) not in (1, None):
        raise ValueError(f"--{name}={getattr(args, name)} does not work with "
                         f"--use_tpu. Leave one of them out.")


def check_bert_config(path, bert_config):
  """Refuses a config that describes no model.

  Args:
    path: string, its file.
    bert_config: modeling.BertConfig.

  Raises:
    ValueError: a size is missing or no whole number above 0, or the heads
      don't divide the width.
  """
  check_model_sizes(f"--bert_config_file={path}", bert_config)


def check_model_sizes(what, bert_config):
  """See `check_bert_config`.

  Args:
    what: string, names the file with the config.
    bert_config: modeling.BertConfig.

  Raises:
    ValueError: see `check_bert_config`.
  """
  for key in ("vocab_size", "hidden_size", "num_hidden_layers",
              "num_attention_heads", "intermediate_size",
              "max_position_embeddings", "type_vocab_size"):
    value = getattr(bert_config, key)
    if not isinstance(value, int) or value < 1:
      raise ValueError(
          f"{what}: {key} is {value!r}, a whole number above 0 is needed. Use "
          f"the config of the model.")
  if bert_config.hidden_size % bert_config.num_attention_heads:
    raise ValueError(
        f"{what}: hidden_size {bert_config.hidden_size} is not a multiple of "
        f"num_attention_heads {bert_config.num_attention_heads}.")


def check_max_seq_length(args, bert_config, smallest):
  """Refuses a length that the model has no position embeddings for.

  Args:
    args: the parsed flags.
    bert_config: modeling.BertConfig.
    smallest: int, tokens that the script needs at least.

  Raises:
    ValueError: names the lengths that fit.
  """
  if not smallest <= args.max_seq_length <= bert_config.max_position_embeddings:
    way_out = " Longer texts go into windows: --doc_stride." if hasattr(
        args, "doc_stride") else ""
    raise ValueError(
        f"--max_seq_length={args.max_seq_length}: this model takes {smallest} "
        f"to {bert_config.max_position_embeddings} tokens "
        f"(max_position_embeddings in {args.bert_config_file}).{way_out}")


def check_room_for_text(args):
  """Refuses a length that a question alone may fill.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: names the smallest length.
  """
  if args.max_seq_length <= args.max_query_length + 3:
    raise ValueError(
        f"--max_seq_length={args.max_seq_length} leaves no room for the text "
        f"beside a question of --max_query_length={args.max_query_length} and "
        f"3 marks: it has to be {args.max_query_length + 4} or more.")


def check_vocabulary(args, vocab, bert_config):
  """Refuses the vocabulary of another model.

  Args:
    args: the parsed flags.
    vocab: dict token -> id.
    bert_config: modeling.BertConfig.

  Raises:
    ValueError: its size does not fit the model, or a token of BERT is missing.
  """
  check_vocabulary_size(
      f"--vocab_file={args.vocab_file}", vocab, bert_config.vocab_size,
      "Use the vocab.txt of the same model.",
      f" (vocab_size in {args.bert_config_file})")


def check_vocabulary_size(what, vocab, rows, way_out, source=""):
  """See `check_vocabulary`.

  Args:
    what: string, names the vocabulary.
    vocab: dict token -> id.
    rows: int, embeddings of the model; None if that is not known.
    way_out: string, a sentence for the user.
    source: string, where `rows` is from.

  Raises:
    ValueError: see `check_vocabulary`.
  """
  size = max(vocab.values(), default=-1) + 1
  # A larger table is usual where it was padded to a round number of rows.
  if rows is not None and not 0 <= rows - size < 128:
    raise ValueError(f"{what} has {size} tokens, but the model has {rows} "
                     f"embeddings{source}. {way_out}")
  missing = [t for t in ("[CLS]", "[SEP]", "[UNK]") if t not in vocab]
  if missing:
    raise ValueError(
        f"{what} has no {missing[0]}: it is not a vocabulary of BERT.")
