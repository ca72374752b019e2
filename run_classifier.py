# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Fine-tunes BERT to classify sentences or pairs of them: the GLUE tasks, XNLI.

  python run_classifier.py --task_name=MRPC --do_train --do_eval \
    --data_dir=glue/MRPC --vocab_file=vocab.txt \
    --bert_config_file=bert_config.json --init_checkpoint=bert_model.ckpt \
    --output_dir=/tmp/mrpc

The way of a row: processor -> InputExample -> convert_single_example ->
InputFeatures -> tf.train.Example in a record file -> input_fn -> model_fn.

Source: google-research/bert (commit cc7051dc); Habana's BERT fine-tuning
changes for devices and ranks; Wang et al. 2018, "GLUE", for the tasks.
"""

import collections
import csv
import json
import os
import zlib

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from demo import checkpoint_helpers
from demo import estimator_helpers
from demo import flag_helpers
from demo import gradient_helpers
from demo import horovod_helpers
from demo import metrics
from demo import option_helpers
from demo import prediction_helpers
from demo import record_helpers
from demo import script_helpers
import modeling
import optimization
import tokenization

FLAGS = flags.FLAGS


def init_classifier_flags():
  """Defines the script's flags: upstream's, then those added here."""
  flags.DEFINE_string(
      "data_dir", None, "Folder with the task's .tsv files.")
  flags.DEFINE_string(
      "task_name", None,
      "Task: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI, AX or XNLI, "
      "in any case, with or without the hyphen.")
  flag_helpers.define_model_flags(max_seq_length=128)
  flag_helpers.define_text_flags()
  flag_helpers.define_training_flags()
  flag_helpers.define_fine_tuning_flags()
  flags.DEFINE_bool("do_eval", False, "Score the dev set.")
  flags.DEFINE_bool("do_predict", False, "Predict the test set.")
  flags.DEFINE_integer("eval_batch_size", 8, "Examples per evaluation step.")
  flag_helpers.define_tpu_flags()

  # Not in upstream.
  flag_helpers.define_run_flags()
  flag_helpers.define_optimizer_flags()
  flag_helpers.define_precision_flags()
  flag_helpers.define_evaluation_flags()
  flag_helpers.define_check_flags()
  flag_helpers.define_export_flags()
  flags.DEFINE_float(
      "dropout_before_logits", 0.1,
      "Dropout rate between the pooled output and the output layer.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_bool(
      "detailed_results", False,
      "Beside upstream's result files write eval_metrics.json (all scores of "
      "the task, a report per class, the confusion matrix) and "
      "predictions.tsv (id, label and probabilities of each row).")


class InputExample(object):
  """One row of a data set, as text.

  Source: upstream symbol; see CHANGES.
  """

  def __init__(self, guid, text_a, text_b=None, label=None, source=None):
    """Takes the values as they are.

    Args:
      guid: string, unique id of the row.
      text_a: string, the first or only sentence.
      text_b: string or None, the second sentence of a pair.
      label: string or None, the label's name; a number in words for a
        regression task.
      source: (string, int) or None, file and line that the row stands in.
    """
    self.guid, self.source = guid, source
    self.text_a, self.text_b = text_a, text_b
    self.label = label


class PaddingInputExample(object):
  """Fills the last batch up where batches must all have one size (TPU).

  It has weight 0 in every score. A class of its own, since None could also
  be a bug.

  Source: upstream symbol, unchanged.
  """


class InputFeatures(object):
  """One row of a data set, as numbers.

  Source: upstream symbol, unchanged.
  """

  def __init__(self,
               input_ids,
               input_mask,
               segment_ids,
               label_id,
               is_real_example=True):
    """Takes the values as they are.

    Args:
      input_ids: list of S int, token ids, padded with 0.
      input_mask: list of S int, 1 for tokens, 0 for padding.
      segment_ids: list of S int, 0 for the first sentence and padding, 1 for
        the second.
      label_id: int, place of the label in the task's list; float for a
        regression task.
      is_real_example: bool, False for padding examples.
    """
    self.input_ids, self.input_mask = input_ids, input_mask
    self.segment_ids = segment_ids
    self.label_id, self.is_real_example = label_id, is_real_example


class TsvRows(list):
  """The rows of a .tsv file, lists of strings, and the file's name.

  Attributes:
    path: string.
  """

  def __init__(self, rows, path):
    super().__init__(rows)
    self.path = path

  def line(self, index):
    """(file, line number from 1) of a row, for InputExample and messages."""
    return (self.path, index + 1)


class DataProcessor(object):
  """Reads the examples of a task from its folder.

  Attributes:
    is_regression: bool, whether labels are numbers instead of classes.

  Source: upstream symbol; see CHANGES.
  """

  is_regression = False

  def get_train_examples(self, data_dir):
    """Returns the list of training examples."""
    raise NotImplementedError(self._lacks("train"))

  def get_dev_examples(self, data_dir):
    """Returns the list of dev examples."""
    raise NotImplementedError(self._lacks("dev"))

  def get_test_examples(self, data_dir):
    """Returns the list of test examples; their labels mean nothing."""
    raise NotImplementedError(self._lacks("test"))

  def get_labels(self):
    """Returns the list of label names; for a regression task it is empty."""
    raise NotImplementedError(f"{type(self).__name__} has no labels.")

  def _lacks(self, split):
    flag = {"train": "do_train", "dev": "do_eval", "test": "do_predict"}[split]
    return (f"The task of {type(self).__name__} has no {split} set: leave out "
            f"--{flag}.")

  @classmethod
  def _read_tsv(cls, input_file, quotechar=None):
    """Reads a UTF-8 file of values separated by tabs.

    Args:
      input_file: string.
      quotechar: string or None; None takes quotes as ordinary characters.

    Returns:
      TsvRows. Lines end at line feeds only and carriage returns are dropped.

    Raises:
      ValueError: the file is missing or not such a file (names the line).
    """
    if not tf.io.gfile.exists(input_file):
      raise ValueError(
          f"{input_file} does not exist: --data_dir has to be the folder of "
          f"the task's .tsv files, as GLUE ships them.")
    with tf.io.gfile.GFile(input_file, "rb") as reader:
      rows = csv.reader(_decoded_lines(reader, input_file), delimiter="\t",
                        quotechar=quotechar)
      try:
        return TsvRows(rows, input_file)
      except csv.Error as error:
        raise ValueError(
            f"{input_file}:{rows.line_num}: not a line of tab-separated "
            f"values ({error}).") from error


def _decoded_lines(reader, path):
  """The lines of a binary file as str, a wrong byte named by its place."""
  for number, line in enumerate(reader, 1):
    try:
      yield line.decode("utf-8")
    except UnicodeDecodeError as error:
      raise ValueError(
          f"{path}:{number}: not UTF-8: byte 0x{line[error.start]:02x} at "
          f"column {error.start + 1}. Convert the file, for example with "
          f"iconv -f LATIN1 -t UTF-8.") from None


def _columns(lines, index, *numbers):
  """The values in some columns of a row, as text.

  Args:
    lines: TsvRows (or a plain list, as upstream's callers may pass).
    index: int, row.
    *numbers: int, columns; -1 is the last.

  Raises:
    ValueError: the row is too short (names file and line).
  """
  row = lines[index]
  needed = max(number + 1 if number >= 0 else -number for number in numbers)
  if len(row) < needed:
    path, line = _source(lines, index) or ("row", index + 1)
    raise ValueError(
        f"{path}:{line}: {len(row)} column(s), at least {needed} expected. "
        f"Each line has to be one row, its values separated by single tabs.")
  return [tokenization.convert_to_unicode(row[number]) for number in numbers]


def _source(lines, index):
  return lines.line(index) if isinstance(lines, TsvRows) else None


class TsvProcessor(DataProcessor):
  """A task of one .tsv file per set. Not in upstream.

  Attributes:
    files: dict from the set ("train", "dev", "test") to the file's name.
    set_types: dict from the set to its name in the examples' ids, where that
      is another.
    labels: tuple of label names; empty for a regression task.
  """

  files = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
  set_types = {}
  labels = ("0", "1")

  def get_train_examples(self, data_dir):
    """See base class."""
    return self._read_set(data_dir, "train")

  def get_dev_examples(self, data_dir):
    """See base class."""
    return self._read_set(data_dir, "dev")

  def get_test_examples(self, data_dir):
    """See base class."""
    return self._read_set(data_dir, "test")

  def get_labels(self):
    """See base class."""
    return list(self.labels)

  def _read_set(self, data_dir, name):
    if name not in self.files:
      raise NotImplementedError(self._lacks(name))
    lines = self._read_tsv(os.path.join(data_dir, self.files[name]))
    return self._create_examples(lines, self.set_types.get(name, name))

  def _create_examples(self, lines, set_type):
    """Makes the examples of a file's rows."""
    raise NotImplementedError


class XnliProcessor(DataProcessor):
  """XNLI, Chinese: inference between sentences of translated text.

  Source: upstream symbol, unchanged, with its quirks: training files spell
  one label "contradictory", the dev file holds all languages.
  """

  def __init__(self):
    self.language = "zh"

  def get_train_examples(self, data_dir):
    """See base class."""
    lines = self._read_tsv(os.path.join(
        data_dir, "multinli", f"multinli.train.{self.language}.tsv"))
    examples = []
    for i in range(1, len(lines)):
      text_a, text_b, label = _columns(lines, i, 0, 1, 2)
      if label == "contradictory":
        label = "contradiction"
      examples.append(InputExample(
          f"train-{i}", text_a, text_b, label, _source(lines, i)))
    return examples

  def get_dev_examples(self, data_dir):
    """See base class."""
    lines = self._read_tsv(os.path.join(data_dir, "xnli.dev.tsv"))
    examples = []
    for i in range(1, len(lines)):
      language, label, text_a, text_b = _columns(lines, i, 0, 1, 6, 7)
      if language == self.language:
        examples.append(InputExample(
            f"dev-{i}", text_a, text_b, label, _source(lines, i)))
    return examples

  def get_labels(self):
    """See base class."""
    return ["contradiction", "entailment", "neutral"]


class MnliProcessor(TsvProcessor):
  """MultiNLI, matched genres: inference between sentences.

  Source: upstream symbol, unchanged.
  """

  files = {"train": "train.tsv", "dev": "dev_matched.tsv",
           "test": "test_matched.tsv"}
  set_types = {"dev": "dev_matched"}
  labels = ("contradiction", "entailment", "neutral")

  def _create_examples(self, lines, set_type):
    """Makes examples of rows; the first is the header."""
    examples = []
    for i in range(1, len(lines)):
      number, text_a, text_b, label = _columns(lines, i, 0, 8, 9, -1)
      if set_type.startswith("test"):
        label = "contradiction"
      examples.append(InputExample(
          f"{set_type}-{number}", text_a, text_b, label, _source(lines, i)))
    return examples


class MnliMismatchedProcessor(MnliProcessor):
  """MultiNLI, the genres that the training set lacks. Not in upstream."""

  files = {"dev": "dev_mismatched.tsv", "test": "test_mismatched.tsv"}
  set_types = {"dev": "dev_mismatched", "test": "test_mismatched"}


class MrpcProcessor(TsvProcessor):
  """Microsoft's corpus of paraphrases: do two sentences say the same?

  Source: upstream symbol, unchanged.
  """

  def _create_examples(self, lines, set_type):
    """Makes examples of rows; the first is the header."""
    examples = []
    for i in range(1, len(lines)):
      label, text_a, text_b = _columns(lines, i, 0, 3, 4)
      if set_type == "test":
        label = "0"
      examples.append(InputExample(
          f"{set_type}-{i}", text_a, text_b, label, _source(lines, i)))
    return examples


class ColaProcessor(TsvProcessor):
  """The corpus of linguistic acceptability: is a sentence well formed?

  Source: upstream symbol; see CHANGES.
  """

  def _create_examples(self, lines, set_type):
    """Makes examples of rows; only a test file has a header, and two columns
    instead of source, label, mark, sentence."""
    has_header = set_type == "test" and not (
        lines and len(lines[0]) == 4 and lines[0][1] in self.get_labels())
    examples = []
    for i in range(1 if has_header else 0, len(lines)):
      if has_header:
        (text_a,), label = _columns(lines, i, 1), "0"
      else:
        label, text_a = _columns(lines, i, 1, 3)
      examples.append(InputExample(
          f"{set_type}-{i}", text_a, None, label, _source(lines, i)))
    return examples


class GlueProcessor(TsvProcessor):
  """The GLUE tasks that upstream lacks: columns are found by their names.

  The first line of each file names the columns. A test file may have labels
  or not, they are not looked at.

  Attributes:
    text_columns: tuple of one or two column names.
    label_column: string.
  """

  text_columns = ("sentence1", "sentence2")
  label_column = "label"

  def _create_examples(self, lines, set_type):
    """Makes examples of rows; the first is the header."""
    columns = self.text_columns
    if set_type != "test":
      columns += (self.label_column,)
    numbers = self._column_numbers(lines, columns)
    examples = []
    for i in range(1, len(lines)):
      if len(lines[i]) != len(lines[0]):
        if self._is_broken(lines, i, set_type):
          continue
        path, line = lines.line(i)
        raise ValueError(
            f"{path}:{line}: {len(lines[i])} column(s), but the first line "
            f"names {len(lines[0])}. Each line has to be one row, its values "
            f"separated by single tabs.")
      values = dict(zip(columns, _columns(lines, i, *numbers)))
      texts = [values[name] for name in self.text_columns] + [None]
      label = values.get(
          self.label_column, self.labels[0] if self.labels else "0")
      examples.append(InputExample(
          f"{set_type}-{i}", texts[0], texts[1], label, _source(lines, i)))
    return examples

  def _column_numbers(self, lines, names):
    """Where the named columns are, by the header."""
    # Some of GLUE's files start with a byte order mark.
    header = [name.lstrip("\ufeff") for name in lines[0]] if lines else []
    missing = [name for name in names if name not in header]
    if missing:
      raise ValueError(
          f"{lines.path}:1: no column {missing[0]!r} in the first line, which "
          f"has to name the columns; found: {', '.join(header) or 'nothing'}. "
          f"Is --data_dir the folder of --task_name?")
    return [header.index(name) for name in names]

  def _is_broken(self, lines, index, set_type):
    """Whether a row of another length is one that GLUE ships like that."""
    return False


class Sst2Processor(GlueProcessor):
  """Stanford's sentiment treebank: is a film review friendly?"""

  text_columns = ("sentence",)


class StsbProcessor(GlueProcessor):
  """The textual similarity benchmark: how alike are two sentences, 0 to 5?"""

  is_regression = True
  label_column = "score"
  labels = ()


class QqpProcessor(GlueProcessor):
  """Quora's question pairs: do two questions ask the same?"""

  text_columns = ("question1", "question2")
  label_column = "is_duplicate"

  def _is_broken(self, lines, index, set_type):
    """GLUE's files hold a few rows cut in two; all readers pass over them."""
    if set_type == "test":
      return False
    logging.warning("%s:%d: passed over, %d columns instead of %d.",
                    *lines.line(index), len(lines[index]), len(lines[0]))
    return True


class QnliProcessor(GlueProcessor):
  """Does a sentence hold the answer to a question? From SQuAD."""

  text_columns = ("question", "sentence")
  labels = ("entailment", "not_entailment")


class RteProcessor(GlueProcessor):
  """Recognizing textual entailment: does a sentence follow from another?"""

  labels = ("entailment", "not_entailment")


class WnliProcessor(GlueProcessor):
  """Winograd's schemas: is a pronoun replaced by the right noun?"""


class AxProcessor(GlueProcessor):
  """GLUE's diagnostic set, to be predicted by a model trained on MNLI."""

  files = {"test": "diagnostic.tsv"}
  labels = ("contradiction", "entailment", "neutral")


PROCESSORS = {
    "cola": ColaProcessor,
    "mnli": MnliProcessor,
    "mrpc": MrpcProcessor,
    "xnli": XnliProcessor,
    "sst2": Sst2Processor,
    "stsb": StsbProcessor,
    "qqp": QqpProcessor,
    "qnli": QnliProcessor,
    "rte": RteProcessor,
    "wnli": WnliProcessor,
    "ax": AxProcessor,
}


def find_processor(task_name):
  """Finds a task by its name in upstream's or GLUE's spelling.

  Args:
    task_name: string, such as "MRPC", "SST-2", "sts_b" or "diagnostic".

  Returns:
    (canonical name, DataProcessor): "sst2" for SST-2.

  Raises:
    ValueError: unknown name.
  """
  task = task_name.lower().replace("-", "").replace("_", "")
  task = {"diagnostic": "ax"}.get(task, task)
  if task not in PROCESSORS:
    raise ValueError(f"--task_name={task_name}: unknown task; known are "
                     f"{', '.join(sorted(PROCESSORS))}.")
  return task, PROCESSORS[task]()


def check_labels(examples, label_list):
  """Refuses an example whose label the task doesn't have.

  Args:
    examples: list of InputExample.
    label_list: list of label names; an empty one means numbers.

  Raises:
    ValueError: names file, line and label.
  """
  for example in examples:
    if not label_list:
      try:
        if np.isfinite(float(example.label)):
          continue
      except ValueError:
        pass
      expected = "a number"
    elif example.label in label_list:
      continue
    else:
      expected = f"one of {', '.join(label_list)}"
    raise ValueError(
        f"{_place(example)}: label {example.label!r}, expected {expected}.")


def _place(example):
  """file:line of an example, or its id where that is not known."""
  return "{}:{}".format(*example.source) if example.source else example.guid


def convert_single_example(ex_index, example, label_list, max_seq_length,
                           tokenizer):
  """Turns an example into padded token ids.

  One sentence becomes `[CLS] a [SEP]`, all of segment 0; a pair becomes
  `[CLS] a [SEP] b [SEP]`, where `b [SEP]` is segment 1.

  Args:
    ex_index: int, number of the example; the first few are logged.
    example: InputExample or PaddingInputExample.
    label_list: list of label names; an empty one makes the label a float.
    max_seq_length: int, S, tokens.
    tokenizer: FullTokenizer.

  Returns:
    InputFeatures.

  Raises:
    ValueError: unknown label.

  Source: upstream symbol; see CHANGES.
  """
  if isinstance(example, PaddingInputExample):
    zeros = [0] * max_seq_length
    return InputFeatures(zeros, list(zeros), list(zeros), label_id=0,
                         is_real_example=False)

  tokens_a = tokenizer.tokenize(example.text_a)
  tokens_b = tokenizer.tokenize(example.text_b) if example.text_b else []
  if tokens_b:
    _truncate_seq_pair(tokens_a, tokens_b, max_seq_length - 3)
  else:
    del tokens_a[max(max_seq_length - 2, 0):]

  tokens = ["[CLS]"] + tokens_a + ["[SEP]"]
  segment_ids = [0] * len(tokens)
  if tokens_b:
    tokens += tokens_b + ["[SEP]"]
    segment_ids += [1] * (len(tokens_b) + 1)
  input_ids = tokenizer.convert_tokens_to_ids(tokens)
  padding = [0] * (max_seq_length - len(tokens))
  if label_list:
    if example.label not in label_list:
      check_labels([example], label_list)
    label_id = label_list.index(example.label)
  else:
    label_id = float(example.label)

  features = InputFeatures(
      input_ids + padding, [1] * len(tokens) + padding, segment_ids + padding,
      label_id)
  if ex_index < 5:
    logging.debug(
        "Example %s\n  tokens: %s\n  input_ids: %s\n  segment_ids: %s\n"
        "  label: %s (%s)", example.guid,
        " ".join(tokenization.printable_text(token) for token in tokens),
        features.input_ids, features.segment_ids, example.label, label_id)
  return features


def file_based_convert_examples_to_features(
    examples, label_list, max_seq_length, tokenizer, output_file):
  """Writes the features of examples to a record file.

  Each record is a tf.train.Example with int64 lists `input_ids`, `input_mask`
  and `segment_ids` (S values each), `label_ids` (1 value; a float list for a
  regression task) and `is_real_example` (1 value).

  Args:
    examples: list of InputExample and PaddingInputExample.
    label_list: see `convert_single_example`.
    max_seq_length: int, S.
    tokenizer: FullTokenizer.
    output_file: string; it appears when it is complete.

  Source: upstream symbol; see CHANGES.
  """
  with script_helpers.finished_file(output_file) as temporary:
    with tf.io.TFRecordWriter(temporary) as writer:
      for ex_index, example in enumerate(script_helpers.progress_bar(
          examples, desc=f"Writing {os.path.basename(output_file)}")):
        feature = convert_single_example(
            ex_index, example, label_list, max_seq_length, tokenizer)
        writer.write(_record(feature, not label_list).SerializeToString())


def _record(feature, is_regression):
  """InputFeatures as tf.train.Example."""
  ints = record_helpers.int_feature
  if is_regression:
    label = tf.train.Feature(
        float_list=tf.train.FloatList(value=[feature.label_id]))
  else:
    label = ints([feature.label_id])
  by_name = collections.OrderedDict(
      input_ids=ints(feature.input_ids),
      input_mask=ints(feature.input_mask),
      segment_ids=ints(feature.segment_ids),
      label_ids=label,
      is_real_example=ints([int(feature.is_real_example)]))
  return tf.train.Example(features=tf.train.Features(feature=by_name))


def file_based_input_fn_builder(input_file, seq_length, is_training,
                                drop_remainder, is_regression=False):
  """Makes the input_fn that reads record files; see `record_helpers.dataset`.

  Args:
    input_file: string or list of strings.
    seq_length: int, S, as the records were written.
    is_training: bool.
    drop_remainder: bool, leave an incomplete last batch out.
    is_regression: bool, labels are floats.

  Returns:
    Function of params (dict with "batch_size", B) that returns a tf.data
    Dataset of dicts of int32 tensors: input_ids, input_mask, segment_ids
    [B, S], label_ids (float32 for regression) and is_real_example [B].

  Source: upstream symbol; see CHANGES.
  """
  label_type = tf.float32 if is_regression else tf.int64
  name_to_features = {
      "input_ids": tf.io.FixedLenFeature([seq_length], tf.int64),
      "input_mask": tf.io.FixedLenFeature([seq_length], tf.int64),
      "segment_ids": tf.io.FixedLenFeature([seq_length], tf.int64),
      "label_ids": tf.io.FixedLenFeature([], label_type),
      "is_real_example": tf.io.FixedLenFeature([], tf.int64),
  }

  def input_fn(params):
    """See the builder."""
    return record_helpers.dataset(
        input_file, name_to_features, params["batch_size"], is_training,
        drop_remainder)

  return input_fn


def _truncate_seq_pair(tokens_a, tokens_b, max_length):
  """See `script_helpers.shorten_pair`.

  Source: upstream symbol, unchanged.
  """
  script_helpers.shorten_pair(tokens_a, tokens_b, max_length)


def create_model(bert_config, is_training, input_ids, input_mask, segment_ids,
                 labels, num_labels, use_one_hot_embeddings,
                 dropout_before_logits=0.1, is_regression=False,
                 options=option_helpers.UPSTREAM):
  """Builds BERT with an output layer on the pooled output.

  Args:
    bert_config: BertConfig.
    is_training: bool, turns dropout on.
    input_ids: int32 [B, S].
    input_mask: int32 [B, S].
    segment_ids: int32 [B, S].
    labels: int32 [B], classes; float32 [B] for regression.
    num_labels: int, L.
    use_one_hot_embeddings: bool, see `modeling.embedding_lookup`.
    dropout_before_logits: float, dropout rate of the pooled output.
    is_regression: bool; the loss is then the squared error of the one output
      and `probabilities` are the logits.
    options: option_helpers.Options, what upstream doesn't have.

  Returns:
    (loss, per_example_loss, logits, probabilities): float32 scalar, [B],
    [B, L], [B, L].

  Source: upstream symbol; see CHANGES.
  """
  model = modeling.BertModel(
      bert_config, is_training, input_ids, input_mask, segment_ids,
      use_one_hot_embeddings)
  # For labels of single tokens, take model.get_sequence_output() instead.
  output_layer = model.get_pooled_output()  # [B, W]
  return add_output_layer(output_layer, is_training, labels, num_labels,
                          dropout_before_logits, is_regression, options)


def add_output_layer(output_layer, is_training, labels, num_labels,
                     dropout_before_logits, is_regression,
                     options=option_helpers.UPSTREAM):
  """The part of `create_model` that follows the encoder, for any encoder.

  Args:
    output_layer: float32 [B, W], the pooled output.
    is_training: see `create_model`, as the other arguments and what it returns.
  """
  output_weights = tf.compat.v1.get_variable(
      "output_weights", [num_labels, output_layer.shape[-1]],
      initializer=modeling.create_initializer(0.02))
  output_bias = tf.compat.v1.get_variable(
      "output_bias", [num_labels], initializer=tf.zeros_initializer())

  with tf.compat.v1.variable_scope("loss"):
    if is_training:
      output_layer = modeling.dropout(output_layer, dropout_before_logits)
    logits = tf.nn.bias_add(
        tf.matmul(output_layer, output_weights, transpose_b=True),
        output_bias)  # [B, L]
    if is_regression:
      probabilities = logits
      per_example_loss = tf.square(
          tf.squeeze(logits, axis=-1) - labels)  # [B]
    else:
      probabilities = tf.nn.softmax(logits, axis=-1)
      log_probs = tf.nn.log_softmax(logits, axis=-1)
      one_hot_labels = tf.one_hot(labels, depth=num_labels)
      per_example_loss = -tf.reduce_sum(
          one_hot_labels * log_probs, axis=-1)  # [B]
    loss = tf.reduce_mean(per_example_loss)
  return (loss, per_example_loss, logits, probabilities)


def model_fn_builder(bert_config, num_labels, init_checkpoint, learning_rate,
                     num_train_steps, num_warmup_steps, use_tpu,
                     use_one_hot_embeddings, dropout_before_logits=0.1,
                     is_regression=False, options=option_helpers.UPSTREAM):
  """Makes the model_fn of the Estimator.

  Args:
    bert_config: BertConfig.
    num_labels: int, L.
    init_checkpoint: string or None, checkpoint to start from.
    learning_rate: float, peak rate.
    num_train_steps: int; None outside of training.
    num_warmup_steps: int; None outside of training.
    use_tpu: bool.
    use_one_hot_embeddings: bool, see `modeling.embedding_lookup`.
    dropout_before_logits: float, see `create_model`.
    is_regression: bool, see `create_model`.
    options: option_helpers.Options, what upstream doesn't have.

  Returns:
    Function (features, labels, mode, params) -> TPUEstimatorSpec. It
    predicts `probabilities` [B, L] (for regression: the value [B, 1]) and
    evaluates `eval_accuracy` (not for regression) and `eval_loss`.

  Source: upstream symbol; see CHANGES.
  """

  def model_fn(features, labels, mode, params):
    """See the builder; labels and params are not used."""
    del labels, params

    def outputs_of(features):
      return create_model(
          bert_config, mode == tf.estimator.ModeKeys.TRAIN,
          features["input_ids"], features["input_mask"],
          features["segment_ids"], features["label_ids"], num_labels,
          use_one_hot_embeddings, dropout_before_logits, is_regression, options)

    outputs = model_outputs(mode, features, outputs_of, options)
    scaffold_fn = None
    if init_checkpoint:
      scaffold_fn = checkpoint_helpers.warm_start(
          modeling.get_assignment_map_from_checkpoint, init_checkpoint, use_tpu)
    return estimator_spec(
        mode, features, outputs, learning_rate, num_train_steps,
        num_warmup_steps, use_tpu, is_regression, scaffold_fn, options)

  return model_fn


def model_outputs(mode, features, outputs_of, options):
  """The outputs that `estimator_spec` needs, whatever the encoder.

  Args:
    mode: tf.estimator.ModeKeys.
    features: dict, see `input_fn_builder`; for training the rows of all the
      batches of an update.
    outputs_of: function of features that returns what `create_model` does.
    options: option_helpers.Options.

  Returns:
    What `outputs_of` returns; for training the loss alone, in a tuple.
  """
  if mode != tf.estimator.ModeKeys.TRAIN:
    return outputs_of(features)
  scalars = gradient_helpers.in_parts(
      lambda part: {"loss": outputs_of(part)[0]}, features, options)
  return (scalars["loss"],)


def estimator_spec(mode, features, outputs, learning_rate, num_train_steps,
                   num_warmup_steps, use_tpu, is_regression, scaffold_fn=None,
                   options=option_helpers.UPSTREAM):
  """What a model_fn returns, whatever the encoder of its model.

  Args:
    mode: tf.estimator.ModeKeys.
    features: dict, see `input_fn_builder`; padding examples have
      `is_real_example` 0.
    outputs: what `model_outputs` returns.
    learning_rate: see `model_fn_builder`, as the next four arguments.
    scaffold_fn: function or None, see `checkpoint_helpers.warm_start`.
    options: option_helpers.Options, what upstream doesn't have.

  Returns:
    TPUEstimatorSpec.
  """
  spec = tf.compat.v1.estimator.tpu.TPUEstimatorSpec
  if mode == tf.estimator.ModeKeys.TRAIN:
    loss = gradient_helpers.loss_value(outputs[0])
    # The scope "loss" of create_model makes the Estimator call its curve
    # "loss_1", unless it is within a loop; that of the evaluation is called
    # "loss".
    if tf.compat.v1.get_default_graph().unique_name(
        "loss", mark_as_used=False) != "loss":
      tf.compat.v1.add_to_collection(
          tf.compat.v1.GraphKeys.SUMMARIES,
          tf.raw_ops.ScalarSummary(tags="loss", values=loss))
    train_op = optimization.create_optimizer(
        outputs[0], learning_rate, num_train_steps, num_warmup_steps, use_tpu,
        options)
    return spec(mode=mode, loss=loss, train_op=train_op,
                scaffold_fn=scaffold_fn)
  loss, per_example_loss, logits, probabilities = outputs
  label_ids = features["label_ids"]
  if mode == tf.estimator.ModeKeys.PREDICT:
    return spec(mode=mode, predictions={"probabilities": probabilities},
                scaffold_fn=scaffold_fn)

  def metric_fn(per_example_loss, label_ids, logits, is_real_example):
    """Means over the evaluation, padding examples left out."""
    eval_metrics = {"eval_loss": tf.compat.v1.metrics.mean(
        values=per_example_loss, weights=is_real_example)}
    if not is_regression:
      eval_metrics["eval_accuracy"] = tf.compat.v1.metrics.accuracy(
          labels=label_ids, weights=is_real_example,
          predictions=tf.argmax(logits, axis=-1, output_type=tf.int32))
    return eval_metrics

  is_real_example = tf.cast(
      features.get("is_real_example", tf.ones_like(label_ids)), tf.float32)
  prediction_helpers.show_to_eval_hook(
      probabilities=probabilities, label_ids=label_ids,
      is_real_example=is_real_example)
  return spec(mode=mode, loss=loss, scaffold_fn=scaffold_fn,
              eval_metrics=(metric_fn, [
                  per_example_loss, label_ids, logits, is_real_example]))


def input_fn_builder(features, seq_length, is_training, drop_remainder):
  """Makes an input_fn of features in memory; the script doesn't use it.

  Args:
    features: list of InputFeatures.
    seq_length: int, S.
    is_training: bool, repeat without end and shuffle.
    drop_remainder: bool, leave an incomplete last batch out.

  Returns:
    Function of params (dict with "batch_size", B) that returns a tf.data
    Dataset of dicts of int32 tensors: input_ids, input_mask, segment_ids
    [B, S] and label_ids [B].

  Source: upstream symbol, unchanged.
  """
  def column(name, *shape):
    return np.reshape(
        np.array([getattr(feature, name) for feature in features], np.int32),
        (len(features),) + shape)

  arrays = {"input_ids": column("input_ids", seq_length),
            "input_mask": column("input_mask", seq_length),
            "segment_ids": column("segment_ids", seq_length),
            "label_ids": column("label_id")}

  def input_fn(params):
    """See the builder."""
    d = tf.data.Dataset.from_tensor_slices(arrays)
    if is_training:
      d = d.repeat().shuffle(buffer_size=100)
    return d.batch(params["batch_size"], drop_remainder=drop_remainder)

  return input_fn


def convert_examples_to_features(examples, label_list, max_seq_length,
                                 tokenizer):
  """Returns the InputFeatures of examples; see `convert_single_example`.

  Source: upstream symbol, unchanged; the script doesn't use it.
  """
  return [
      convert_single_example(ex_index, example, label_list, max_seq_length,
                             tokenizer)
      for ex_index, example in enumerate(examples)]


def main(_):
  """Trains, evaluates and predicts, as the flags say.

  Source: upstream symbol; see CHANGES.
  """
  run_task(FLAGS, CheckpointModel)


class CheckpointModel(object):
  """What `run_task` has to know of the model that the flags name.

  Attributes:
    files: dict name -> path, those that ranks have to agree on, beside the
      files of the flags.
  """

  files = {}

  def __init__(self, args):
    """Reads the config.

    Args:
      args: the parsed flags.

    Raises:
      ValueError: a file is missing or doesn't fit the flags.
    """
    self._args = args
    flag_helpers.check_input_files(args)
    self._bert_config = modeling.BertConfig.from_json_file(
        args.bert_config_file)
    tokenization.validate_case_matches_checkpoint(
        args.do_lower_case, args.init_checkpoint)
    flag_helpers.check_bert_config(args.bert_config_file, self._bert_config)
    flag_helpers.check_max_seq_length(args, self._bert_config, smallest=3)

  def tokenizer(self):
    """Returns the FullTokenizer; raises ValueError if it doesn't fit."""
    tokenizer = tokenization.FullTokenizer(
        self._args.vocab_file, self._args.do_lower_case)
    flag_helpers.check_vocabulary(
        self._args, tokenizer.vocab, self._bert_config)
    return tokenizer

  def check_checkpoints(self, num_labels):
    """Refuses checkpoints that don't fit (ValueError)."""
    checkpoint_helpers.check_checkpoints(
        self._args, self._bert_config,
        lambda ids: create_model(
            self._bert_config, False, ids, ids, ids, tf.zeros([1], tf.int32),
            num_labels, False),
        modeling.get_assignment_map_from_checkpoint)

  def model_fn(self, num_labels, num_train_steps, num_warmup_steps,
               is_regression):
    """Returns the model_fn; see `model_fn_builder`."""
    args = self._args
    return model_fn_builder(
        self._bert_config, num_labels, args.init_checkpoint,
        estimator_helpers.effective_learning_rate(args), num_train_steps,
        num_warmup_steps, args.use_tpu, use_one_hot_embeddings=args.use_tpu,
        dropout_before_logits=args.dropout_before_logits,
        is_regression=is_regression,
        options=option_helpers.from_flags(args))


def run_task(args, make_model):
  """Trains, evaluates and predicts a task with some model.

  Args:
    args: the parsed flags, those of `init_classifier_flags`.
    make_model: function of the flags that returns a CheckpointModel or an
      object of the same methods.
  """
  tf.compat.v1.enable_resource_variables()
  horovod_helpers.start_ranks(args.use_horovod, args.cpu_only,
                              args.fp16_allreduce, args.bf16_config_path)
  task, processor = find_processor(args.task_name)
  _check_flags(args)
  model = make_model(args)
  script_helpers.check_output_dir(args.output_dir)

  tokenizer = model.tokenizer()
  train_examples, dev_sets, test_sets = _read_examples(args, task, processor)
  label_list = processor.get_labels()
  num_labels = 1 if processor.is_regression else len(label_list)
  model.check_checkpoints(num_labels)

  num_train_steps = num_warmup_steps = None
  if args.do_train:
    num_train_steps, num_warmup_steps = estimator_helpers.training_steps(
        len(train_examples), args)
  if horovod_helpers.horovod_enabled():
    _check_ranks_agree(args, model.files, train_examples, dev_sets, test_sets)
  model_fn = model.model_fn(num_labels, num_train_steps, num_warmup_steps,
                            processor.is_regression)
  estimator = estimator_helpers.make_estimator(
      args, model_fn, eval_batch_size=args.eval_batch_size)
  if args.do_train:
    _train(args, estimator, train_examples, label_list, tokenizer,
           num_train_steps)
  if not prediction_helpers.takes_part(args):
    return
  if args.do_eval:
    _evaluate(args, estimator, model_fn, task, dev_sets, label_list, tokenizer)
  if args.do_predict:
    _predict(args, estimator, test_sets, label_list, tokenizer)


def _check_ranks_agree(args, files, train_examples, dev_sets, test_sets):
  """Refuses a run whose ranks don't work on the same."""
  compared = {"train on": train_examples}
  if prediction_helpers.is_distributed(args):
    for suffix in ("", "_mismatched"):
      compared[f"evaluate{suffix}"] = dev_sets.get(suffix)
      compared[f"predict{suffix}"] = test_sets.get(suffix)
  script_helpers.check_ranks_agree(args, files, {
      f"What --data_dir has to {what}": _fingerprint(examples)
      for what, examples in compared.items()})


def _fingerprint(examples):
  """Number and checksum of examples (string); None counts as no examples."""
  content = "\0".join(f"{x.guid}\0{x.text_a}\0{x.text_b}\0{x.label}"
                      for x in examples or [])
  checksum = zlib.crc32(content.encode("utf-8", "surrogatepass"))
  return f"{len(examples or [])} examples, checksum {checksum:08x}"


def _check_flags(args):
  """Refuses what can't work before anything is read."""
  if not (args.do_train or args.do_eval or args.do_predict):
    raise ValueError(
        "Nothing to do: pass one or more of --do_train, --do_eval and "
        "--do_predict.")
  flag_helpers.check_training_flags(args)
  if args.dropout_before_logits == 1.0:
    raise ValueError("--dropout_before_logits=1.0 would drop all: it has to "
                     "be below 1.")


def _read_examples(args, task, processor):
  """Reads what the flags ask for.

  Returns:
    (train_examples, dev_sets, test_sets): a list or None, and dicts from the
    suffix of the result files ("" or "_mismatched") to a list.
  """
  train_examples = None
  dev_sets, test_sets = {}, {}
  if args.do_train:
    train_examples = processor.get_train_examples(args.data_dir)
  takes_part = prediction_helpers.takes_part(args)
  do_eval = args.do_eval and takes_part
  do_predict = args.do_predict and takes_part
  if do_eval:
    dev_sets[""] = processor.get_dev_examples(args.data_dir)
  if do_predict:
    test_sets[""] = processor.get_test_examples(args.data_dir)
  if task == "mnli":
    mismatched = MnliMismatchedProcessor()
    for wanted, sets, file_name, read in (
        (do_eval, dev_sets, "dev_mismatched.tsv",
         mismatched.get_dev_examples),
        (do_predict, test_sets, "test_mismatched.tsv",
         mismatched.get_test_examples)):
      if wanted and tf.io.gfile.exists(os.path.join(args.data_dir, file_name)):
        sets["_mismatched"] = read(args.data_dir)
  for flag, examples in (("do_train", train_examples),
                         ("do_eval", dev_sets.get("")),
                         ("do_predict", test_sets.get(""))):
    if examples is not None and not examples:
      raise ValueError(
          f"--{flag}: the file of task {task} in --data_dir={args.data_dir} "
          f"holds no example.")
  for examples in [train_examples or []] + list(dev_sets.values()):
    check_labels(examples, processor.get_labels())
  return train_examples, dev_sets, test_sets


def _train(args, estimator, train_examples, label_list, tokenizer,
           num_train_steps):
  """Converts this rank's part of the examples and trains."""
  train_file = os.path.join(args.output_dir, "train.tf_record")
  start, end = horovod_helpers.example_slice(len(train_examples))
  file_based_convert_examples_to_features(
      train_examples[start:end], label_list, args.max_seq_length, tokenizer,
      horovod_helpers.record_file(train_file))
  horovod_helpers.barrier()

  estimator_helpers.train(
      args, estimator,
      file_based_input_fn_builder(
          input_file=horovod_helpers.server_record_files(train_file),
          seq_length=args.max_seq_length,
          is_training=True,
          drop_remainder=True,
          is_regression=not label_list),
      len(train_examples), num_train_steps, optimization.LEARNING_RATE,
      first_synapse_step=30)


def _test_input_fn(args, examples, label_list, tokenizer, batch_size, path):
  """Writes and reads the examples that this rank evaluates or predicts.

  They are filled up to whole batches where the device needs that.

  Args:
    args: the parsed flags.
    examples: list of InputExample, those of all ranks.
    label_list: list of string.
    tokenizer: FullTokenizer.
    batch_size: int.
    path: string, the record file of a run of one rank.

  Returns:
    The input_fn.
  """
  missing = -len(examples) % batch_size if args.use_tpu else 0
  padded = examples + [PaddingInputExample() for _ in range(missing)]
  own = [example for index, example in enumerate(padded)
         if prediction_helpers.is_own_row(args, index, batch_size)]
  record_file = prediction_helpers.record_file(args, path)
  file_based_convert_examples_to_features(
      own, label_list, args.max_seq_length, tokenizer, record_file)
  return file_based_input_fn_builder(
      input_file=record_file,
      seq_length=args.max_seq_length,
      is_training=False,
      drop_remainder=args.use_tpu,
      is_regression=not label_list)


def _evaluate(args, estimator, model_fn, task, dev_sets, label_list, tokenizer):
  """Scores the dev set(s) and writes the results."""
  report = {}
  for suffix, examples in dev_sets.items():
    input_fn = _test_input_fn(
        args, examples, label_list, tokenizer, args.eval_batch_size,
        os.path.join(args.output_dir, f"eval{suffix}.tf_record"))
    logging.info("***** Running evaluation%s *****", suffix.replace("_", " "))
    logging.info("  Num examples = %d", len(examples))
    logging.info("  Batch size = %d", args.eval_batch_size)
    name = suffix.lstrip("_") or None
    result, outputs = prediction_helpers.evaluate(
        args, estimator, model_fn, input_fn, len(examples), name)
    if result is None:
      continue
    scores, classes = _scores(task, label_list, outputs)
    if not label_list:
      result.update(eval_pearson=scores["pearson"],
                    eval_spearman=scores["spearman"])
    prediction_helpers.write_eval_results(
        os.path.join(args.output_dir, f"eval_results{suffix}.txt"), result,
        f"Eval results{suffix.replace('_', ' ')}")
    for metric, value in scores.items():
      logging.info("  %s = %.4f", metric, value)
    step = int(result["global_step"])
    prediction_helpers.write_summary(
        estimator.eval_dir(name),
        {f"eval_{metric}": value for metric, value in scores.items()}, step)
    report[name or "dev"] = {
        "examples": len(examples), "scores": scores,
        "loss": float(result["eval_loss"]), **classes}
  if args.detailed_results and report:
    script_helpers.write_text(
        os.path.join(args.output_dir, "eval_metrics.json"),
        json.dumps({"task": task, "global_step": step, "sets": report},
                   indent=2) + "\n")


def _scores(task, label_list, outputs):
  """The task's scores and the report per class, from all rows' outputs."""
  real = outputs["is_real_example"] > 0
  label_ids = outputs["label_ids"][real]
  probabilities = outputs["probabilities"][real]
  if not label_list:
    return metrics.regression_scores(label_ids, probabilities[:, 0]), {}
  predicted_ids = np.argmax(probabilities, axis=-1)
  return (metrics.classification_scores(task, label_ids, predicted_ids),
          metrics.class_report(label_ids, predicted_ids, label_list))


def _predict(args, estimator, test_sets, label_list, tokenizer):
  """Predicts the test set(s) and writes a row per example."""
  for suffix, examples in test_sets.items():
    input_fn = _test_input_fn(
        args, examples, label_list, tokenizer, args.predict_batch_size,
        os.path.join(args.output_dir, f"predict{suffix}.tf_record"))
    logging.info("***** Running prediction%s *****", suffix.replace("_", " "))
    logging.info("  Num examples = %d", len(examples))
    logging.info("  Batch size = %d", args.predict_batch_size)
    results = prediction_helpers.predict(
        args, estimator, input_fn, len(examples), "examples", log_every=1000,
        name=suffix.lstrip("_"))
    if results is None:
      continue
    rows = [row["probabilities"] for row in results[:len(examples)]]
    assert len(rows) == len(examples)
    path = os.path.join(args.output_dir, f"test_results{suffix}.tsv")
    script_helpers.write_text(path, "".join(
        "\t".join(str(value) for value in row) + "\n" for row in rows))
    logging.info("Predictions: %s", path)
    if args.detailed_results:
      _write_predictions(args, suffix, examples, rows, label_list)


def _write_predictions(args, suffix, examples, rows, label_list):
  """predictions.tsv: row number, id, label, a probability per label."""
  if label_list:
    header = ["label"] + [f"probability_{name}" for name in label_list]
    values = [[label_list[int(np.argmax(row))]] + [str(p) for p in row]
              for row in rows]
  else:
    header = ["value"]
    values = [[str(row[0])] for row in rows]
  lines = [["index", "id"] + header]
  lines += [[str(index), example.guid] + row
            for index, (example, row) in enumerate(zip(examples, values))]
  path = os.path.join(args.output_dir, f"predictions{suffix}.tsv")
  script_helpers.write_text(
      path, "".join("\t".join(line) + "\n" for line in lines))
  logging.info("Predictions with labels: %s", path)


if __name__ == "__main__":
  init_classifier_flags()
  script_helpers.run(main, ["data_dir", "task_name", "vocab_file",
                            "bert_config_file", "output_dir"])
