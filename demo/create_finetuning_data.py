# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Makes record files of a task's text once, to fine-tune on them often.

  python -m demo.create_finetuning_data --classification_task_name=MRPC \
    --input_data_dir=glue/MRPC --vocab_file=vocab.txt --max_seq_length=128 \
    --train_data_output_path=/tmp/mrpc_train.tf_record \
    --eval_data_output_path=/tmp/mrpc_eval.tf_record \
    --meta_data_file_path=/tmp/mrpc_meta_data

run_classifier.py and run_squad.py take them as --train_records and so on, with
--meta_data_file. Flags, records and meta data are those of Model Garden's
program of the same name, so that the records of either train in the other; the
text is read and converted by the scripts' own functions.
"""

import contextlib
import json
import os

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import tensorflow as tf

from demo import flag_helpers
from demo import label_helpers
from demo import record_helpers
from demo import script_helpers
from demo import tfds_params
import run_classifier
import run_squad
import tokenization

FLAGS = flags.FLAGS

_TASK_TYPES = ("classification", "regression", "squad")
# Model Garden's other ones.
_REFUSED_TASK_TYPES = ("retrieval", "tagging")

_OUTPUT_FLAGS = {"train": "train_data_output_path",
                 "eval": "eval_data_output_path",
                 "test": "test_data_output_path"}


def init_finetuning_data_flags():
  """Defines the tool's flags, by Model Garden's names and defaults."""
  flags.DEFINE_enum(
      "fine_tuning_task_type", "classification",
      [*_TASK_TYPES, *_REFUSED_TASK_TYPES],
      f"Kind of the task; {' and '.join(_REFUSED_TASK_TYPES)} are refused.")
  flags.DEFINE_string(
      "input_data_dir", None,
      "classification, regression: folder with the task's .tsv files, as GLUE "
      "ships them.")
  flags.DEFINE_string(
      "classification_task_name", "MNLI",
      "classification, regression: a task of GLUE, AX or XNLI, as --task_name "
      "of run_classifier.py.")
  flags.DEFINE_string(
      "tfds_params", None,
      "classification, regression: instead of a folder and a task a data set "
      "of TensorFlow Datasets that is prepared on this machine, name=value "
      "with commas between or YAML: dataset=glue/sst2,text_key=sentence.")
  flags.DEFINE_enum(
      "mnli_type", "matched", ["matched", "mismatched"],
      "MNLI: which sets to evaluate and predict.")
  flags.DEFINE_string(
      "xnli_language", "en", "XNLI: language of the rows.")
  flags.DEFINE_string(
      "squad_data_file", None, "squad: SQuAD JSON file to train on.")
  flags.DEFINE_integer(
      "doc_stride", 128,
      "squad: tokens from the start of one window to the start of the next.")
  flags.DEFINE_integer(
      "max_query_length", 64,
      "squad: tokens of a question; longer ones are cut.")
  flags.DEFINE_bool(
      "version_2_with_negative", False,
      "squad: SQuAD 2.0, some questions have no answer in the text.")
  flag_helpers.define_text_flags()
  flags.DEFINE_integer(
      "max_seq_length", 128, "Tokens of a record; shorter ones are padded.")
  flags.DEFINE_string(
      "train_data_output_path", None, "Record file of the training set.")
  flags.DEFINE_string(
      "eval_data_output_path", None, "Record file of the dev set.")
  flags.DEFINE_string(
      "test_data_output_path", None, "Record file of the test set.")
  flags.DEFINE_string(
      "meta_data_file_path", None,
      "JSON file that says how the records were made.")
  # Model Garden's, which take one value here.
  flags.DEFINE_enum(
      "tokenization", "WordPiece", ["WordPiece", "SentencePiece"],
      "SentencePiece is refused.")
  flags.DEFINE_string("sp_model_file", None, "Refused: of SentencePiece.")
  flags.DEFINE_bool("xlnet_format", False, "Refused: of XLNet.")
  flags.DEFINE_string(
      "translated_squad_data_folder", None, "Refused: of XTREME.")


def create_classification(args):
  """Writes the records of a classification or regression task.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: the text can't be read, or doesn't fit the task.
  """
  if args.tfds_params is not None:
    _create_from_tfds(args)
    return
  if not args.input_data_dir:
    raise ValueError(
        f"--fine_tuning_task_type={args.fine_tuning_task_type} needs "
        f"--input_data_dir, the folder of the task's .tsv files, or "
        f"--tfds_params.")
  task, processor = run_classifier.find_processor(
      args.classification_task_name, "classification_task_name")
  if args.fine_tuning_task_type == "regression" and not processor.is_regression:
    raise ValueError(
        f"--classification_task_name={args.classification_task_name} has "
        f"classes, no numbers: pass --fine_tuning_task_type=classification, or "
        f"--classification_task_name=STS-B.")
  if task == "xnli":
    processor.language = args.xnli_language
  test_processor = processor
  if task == "mnli" and args.mnli_type == "mismatched":
    test_processor = run_classifier.MnliMismatchedProcessor()
  readers = {"train": processor.get_train_examples,
             "eval": test_processor.get_dev_examples,
             "test": test_processor.get_test_examples}
  examples = {split: _read(args, split, readers[split], processor)
              for split, flag in _OUTPUT_FLAGS.items() if getattr(args, flag)}

  _write(args, examples, processor, args.classification_task_name.upper(),
         lambda number, example: {
             "example_id": record_helpers.int_feature([number])})


def _create_from_tfds(args):
  """`create_classification` of the task of --tfds_params."""
  processor = tfds_params.TfdsParamsProcessor(args.tfds_params)
  params = processor.params
  if args.fine_tuning_task_type == "regression" and not params.is_regression:
    raise ValueError("--fine_tuning_task_type=regression: add "
                     "is_regression=true to --tfds_params.")
  readers = {"train": processor.get_train_examples,
             "eval": processor.get_dev_examples,
             "test": processor.get_test_examples}
  examples = {split: _read(args, split, readers[split], processor)
              for split, flag in _OUTPUT_FLAGS.items() if getattr(args, flag)}

  def more_features(number, example):
    """Those of a row of a data set."""
    del number  # Rows may be left out.
    features = {"example_id": record_helpers.int_feature([example.number])}
    if params.is_regression and params.label_type == "int":
      features["label_ids"] = record_helpers.int_feature(
          [int(float(example.label))])
    if params.weight_key:
      features["weight"] = tf.train.Feature(
          float_list=tf.train.FloatList(value=[example.weight]))
    return features

  meta_data = {"label_type": params.label_type} if params.is_regression else {}
  if params.weight_key:
    meta_data["has_sample_weights"] = True
  _write(args, examples, processor, f"TFDS_{params.dataset}", more_features,
         meta_data)


def _write(args, examples, processor, processor_type, more_features,
           more_meta_data=None):
  """Writes records and meta data.

  Args:
    args: the parsed flags.
    examples: dict from the set ("train", "eval", "test") to a list of
      InputExample.
    processor: DataProcessor, the task.
    processor_type: string, what the meta data call it.
    more_features: see
      `run_classifier.file_based_convert_examples_to_features`.
    more_meta_data: dict, what the meta data say beside.
  """
  labels = processor.get_labels()
  meta_data = {
      "task_type": ("bert_regression" if processor.is_regression else
                    "bert_classification"),
      "processor_type": processor_type,
      "train_data_size": 0,
      **{f"{split}_data_size": len(found)
         for split, found in examples.items()},
      "max_seq_length": args.max_seq_length,
      **({"label_type": "float"} if processor.is_regression else
         {"num_labels": len(labels)}), **(more_meta_data or {})}
  tokenizer = _make_tokenizer(args)
  with _outputs(args, meta_data) as paths:
    for split, found in examples.items():
      run_classifier.file_based_convert_examples_to_features(
          found, labels, args.max_seq_length, tokenizer, paths[split],
          more_features=more_features)


def _read(args, split, read, processor):
  """The examples of a set, with labels that the task has."""
  try:
    examples = read(args.input_data_dir)
  except NotImplementedError:
    raise ValueError(
        f"--classification_task_name={args.classification_task_name} has no "
        f"{split} set: leave out --{_OUTPUT_FLAGS[split]}.") from None
  except ValueError as error:
    if args.tfds_params is not None:
      raise
    # In the script that reads the same text the folder's flag is another.
    raise ValueError(
        str(error).replace("--data_dir", "--input_data_dir") +
        f" It was read for --classification_task_name="
        f"{args.classification_task_name}.") from None
  if not examples:
    raise ValueError(f"--input_data_dir={args.input_data_dir}: the file of the "
                     f"{split} set holds no example.")
  label_helpers.check_labels(examples, processor.get_labels())
  return examples


def create_squad(args):
  """Writes the training records of a SQuAD file.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: it is no such file, or of the other version.
  """
  if not args.squad_data_file:
    raise ValueError("--fine_tuning_task_type=squad needs --squad_data_file, a "
                     "SQuAD JSON file.")
  for split in ("eval", "test"):
    path = getattr(args, _OUTPUT_FLAGS[split])
    if path:
      raise ValueError(
          f"--{_OUTPUT_FLAGS[split]}={path}: leave it out, run_squad.py "
          f"answers the questions of a SQuAD JSON file (--predict_file).")
  for name in ("doc_stride", "max_query_length"):
    if getattr(args, name) < 1:
      raise ValueError(f"--{name}={getattr(args, name)} has to be 1 or more.")
  flag_helpers.check_room_for_text(args)
  tokenizer = _make_tokenizer(args)
  examples = run_squad.read_squad_examples(
      args.squad_data_file, True, args.version_2_with_negative)
  run_squad.shuffle_examples(examples)
  meta_data = {
      "task_type": "bert_squad",
      "train_data_size": None,  # Windows, which are counted below.
      **{name: getattr(args, name) for name in (
          "max_seq_length", "max_query_length", "doc_stride",
          "version_2_with_negative")}}
  with _outputs(args, meta_data) as paths:
    writer = run_squad.FeatureWriter(paths["train"], is_training=True)
    run_squad.convert_examples_to_features(
        script_helpers.progress_bar(examples, desc="Converting"), tokenizer,
        args.max_seq_length, args.doc_stride, args.max_query_length, True,
        writer.process_feature)
    writer.close()
    if not writer.num_features:
      raise ValueError(f"--squad_data_file={args.squad_data_file} has no "
                       f"question with a text to learn from.")
    meta_data["train_data_size"] = writer.num_features


def _make_tokenizer(args):
  """The FullTokenizer of the flags."""
  tokenizer = tokenization.FullTokenizer(args.vocab_file, args.do_lower_case)
  flag_helpers.check_vocabulary_size(
      f"--vocab_file={args.vocab_file}", tokenizer.vocab, None, "")
  return tokenizer


@contextlib.contextmanager
def _outputs(args, meta_data):
  """Gives temporary names; all files appear when all are finished.

  Args:
    args: the parsed flags.
    meta_data: dict; what it holds in the end is written, last of all.

  Yields:
    Dict from the set ("train", "eval", "test") to the name of its file.
  """
  with contextlib.ExitStack() as stack:
    meta_data_file = stack.enter_context(
        script_helpers.finished_file(args.meta_data_file_path))
    yield {
        split: stack.enter_context(
            script_helpers.finished_file(getattr(args, flag)))
        for split, flag in _OUTPUT_FLAGS.items() if getattr(args, flag)}
    with tf.io.gfile.GFile(meta_data_file, "w") as writer:
      writer.write(json.dumps(meta_data, indent=4) + "\n")
  for split, flag in _OUTPUT_FLAGS.items():
    if getattr(args, flag):
      logging.info("%s: %d records.", getattr(args, flag),
                   meta_data[f"{split}_data_size"])


def _check_flags(args):
  """Refuses what can't work before anything is read."""
  task_type = args.fine_tuning_task_type
  for name, is_refused, instead in (
      ("fine_tuning_task_type", task_type not in _TASK_TYPES,
       f"it can be {', '.join(_TASK_TYPES)}"),
      ("tokenization", args.tokenization != "WordPiece",
       "the models of this project have a vocabulary of word pieces "
       "(--vocab_file)"),
      ("sp_model_file", args.sp_model_file is not None,
       "the models of this project have a vocabulary of word pieces "
       "(--vocab_file)"),
      ("xlnet_format", args.xlnet_format, "there is no XLNet here"),
      ("translated_squad_data_folder",
       args.translated_squad_data_folder is not None,
       "pass a single file as --squad_data_file"),
      ("tfds_params", args.tfds_params is not None and task_type == "squad",
       "SQuAD is read from --squad_data_file"),
      ("input_data_dir",
       args.tfds_params is not None and args.input_data_dir is not None,
       "with --tfds_params all is read from that data set")):
    if is_refused:
      raise ValueError(f"--{name}={getattr(args, name)} is not supported: "
                       f"{instead}.")
  if args.max_seq_length < 5:
    raise ValueError(f"--max_seq_length={args.max_seq_length} has to be 5 or "
                     f"more.")
  places = {os.path.abspath(args.meta_data_file_path): "meta_data_file_path"}
  for flag in ("squad_data_file", "vocab_file", *_OUTPUT_FLAGS.values()):
    path = getattr(args, flag)
    if path:
      other = places.setdefault(os.path.abspath(path), flag)
      if other != flag:
        raise ValueError(f"--{flag}={path} is --{other} too: each file needs a "
                         f"name of its own.")
  if not any(getattr(args, flag) for flag in _OUTPUT_FLAGS.values()):
    raise ValueError("Nothing to do: pass --train_data_output_path, or that of "
                     "another set.")
  if task_type == "squad" and not args.train_data_output_path:
    raise ValueError("--fine_tuning_task_type=squad makes training records: "
                     "pass --train_data_output_path.")


def create(args):
  """Makes the records.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: flags or files don't fit together.
  """
  _check_flags(args)
  flag_helpers.check_input_files(args)
  for flag in ("meta_data_file_path", *_OUTPUT_FLAGS.values()):
    path = getattr(args, flag)
    if path:
      script_helpers.check_output_dir(os.path.dirname(path) or ".", flag)
  if args.fine_tuning_task_type == "squad":
    create_squad(args)
  else:
    create_classification(args)


def main(_):
  """Makes the records, as the flags say."""
  script_helpers.check_one_process()
  create(FLAGS)


if __name__ == "__main__":
  init_finetuning_data_flags()
  script_helpers.run(main, ["vocab_file", "meta_data_file_path"],
                     script_helpers.NOTHING_FINISHED)
