# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Which task the flags of a classifier name, and who reads its sets.

The processors are the script's, for GLUE's own files, and those of helpers: for
own files, TensorFlow Datasets and ready records.
"""

import re

from demo import finetuning_helpers
from demo import processor_helpers

# Which records may take the place of a step's text.
RECORDS_OF_STEPS = {"do_train": "train_records", "do_eval": "eval_records",
                    "do_predict": "predict_records"}
# What text may come from besides a task's folder.
_TEXT_FLAGS = ("train_file", "dev_file", "test_file", "use_tfds")
# What describes own files.
_TABLE_FLAGS = ("train_file", "dev_file", "test_file", "text_a", "text_b",
                "label", "labels", "regression", "has_header")
# The order of TFDS's classes, where it isn't that of GLUE's own files here.
_TFDS_LABELS = dict.fromkeys(
    ("mnli", "ax"), ("entailment", "neutral", "contradiction"))


def reads_text(args):
  """Whether a step that the flags ask for, or none does, reads text."""
  asked = [step for step in RECORDS_OF_STEPS if getattr(args, step)]
  if args.do_train and args.eval_every_steps:
    asked.append("do_eval")
  if not asked:
    return not args.do_export
  return any(getattr(args, RECORDS_OF_STEPS[step]) is None for step in asked)


def _needs_data_dir(args):
  """Whether text is read from the folder of a task."""
  return reads_text(args) and not any(
      getattr(args, flag) for flag in _TEXT_FLAGS)


def _needs_task(args):
  """Whether there is nothing but --task_name to tell the task by."""
  return args.use_tfds is None and (
      args.meta_data_file is None or reads_text(args))


# Flags that upstream requires: when they still are, and what else will do.
REQUIRED_WHERE = {
    "data_dir": (_needs_data_dir, _TEXT_FLAGS + ("train_records",)),
    "task_name": (_needs_task, ("use_tfds", "meta_data_file")),
    "vocab_file": (reads_text, ("train_records",))}


def canonical(task_name):
  """The one spelling of a task's name, if it is one (string).

  Args:
    task_name: string, such as "SST-2", "sts_b" or "diagnostic".
  """
  task = task_name.lower().replace("-", "").replace("_", "")
  return {"diagnostic": "ax"}.get(task, task)


class TaskFinder(object):
  """Finds the task that the flags name."""

  def __init__(self, args, processors, find_processor, make_example):
    """Takes the flags, and what the script knows of tasks.

    Args:
      args: the parsed flags.
      processors: dict from the canonical name of a task to the class of its
        processor, for those that have files of their own.
      find_processor: function of a name in any spelling that returns the
        canonical name and the processor; raises ValueError for others.
      make_example: see `processor_helpers.CustomProcessor`.
    """
    self._args = args
    self._processors, self._find_processor = processors, find_processor
    self._make_example = make_example

  def find(self):
    """The task of the flags, and who reads its sets.

    Returns:
      (task, function of the label map that returns the processor): its
      canonical name, "custom" for data of no task of GLUE. With record files
      the task is that of the meta data if --task_name is not set, and may be
      unknown.

    Raises:
      ValueError: unknown task, flags that don't go together, or meta data that
        don't fit them.
    """
    args = self._args
    task = make_processor = meta_data = None
    if not any(getattr(args, flag) for flag in RECORDS_OF_STEPS.values()):
      if args.meta_data_file:
        raise ValueError(
            f"--meta_data_file={args.meta_data_file} is of records, and there "
            f"are none: pass --train_records, --eval_records or "
            f"--predict_records.")
      return self._of_text()
    if args.task_name or args.use_tfds:
      task, make_processor = self._of_text()
    if args.meta_data_file:
      meta_data = finetuning_helpers.read_meta_data(
          args.meta_data_file, ("bert_classification", "bert_regression"))
      finetuning_helpers.take_flags(
          args, meta_data, ("max_seq_length",), must_agree=("max_seq_length",))
      if task is None:
        task, make_processor = self._of_records(meta_data)
    return task, lambda label_map: _record_processor(
        args, make_processor and make_processor(label_map), meta_data)

  def _of_text(self):
    """`find`, by --task_name and --use_tfds."""
    args = self._args
    task = args.task_name and canonical(args.task_name)
    if args.use_tfds:
      name, _, config = args.use_tfds.partition(":")[0].partition("/")
      if name == "glue":
        return self._of_glue_in_tfds(task, config)
      if task not in (None, "custom"):
        raise ValueError(
            f"--task_name={args.task_name}: --use_tfds={args.use_tfds} is not "
            f"of this task. Leave --task_name out.")
      _refuse_flags(args, ("train_file", "dev_file", "test_file", "has_header"),
                    f"--use_tfds={args.use_tfds}")
      return "custom", lambda label_map: processor_helpers.TfdsProcessor(
          args, self._make_example, label_map)
    if task == "custom":
      _refuse_flags(args, ("tfds_dir",), "--task_name=custom")
      return "custom", lambda label_map: processor_helpers.CustomProcessor(
          args, self._make_example, label_map)
    if task is None:
      raise ValueError("--task_name has to be given.")
    task, processor = self._find_processor(args.task_name)
    _refuse_flags(args, _TABLE_FLAGS + ("tfds_dir",),
                  f"--task_name={args.task_name}")
    if args.data_dir is None and reads_text(args):
      raise ValueError(f"--task_name={args.task_name} needs --data_dir, the "
                       f"folder of the task's .tsv files.")
    return task, lambda label_map: processor

  def _of_glue_in_tfds(self, task, config):
    """`find`; `config` is what follows "glue/"."""
    args = self._args
    configs = [name for name in self._processors if name != "xnli"]
    if config not in configs:
      raise ValueError(f"--use_tfds={args.use_tfds}: one of "
                       f"{', '.join(f'glue/{name}' for name in configs)} is "
                       f"expected.")
    if task not in (None, config):
      raise ValueError(f"--task_name={args.task_name} and --use_tfds="
                       f"{args.use_tfds} are different tasks. Leave "
                       f"--task_name out.")
    _refuse_flags(args, _TABLE_FLAGS, f"--use_tfds={args.use_tfds}")
    return config, lambda label_map: processor_helpers.TfdsProcessor(
        args, self._make_example, label_map, self._processors[config]())

  def _of_records(self, meta_data):
    """The task that records were made for, and, if it is known, who reads it.
    """
    name = str(meta_data.get("processor_type", "records"))
    try:
      task, processor = self._find_processor(_task_of_tfds(meta_data) or name)
      if len(processor.get_labels()) == meta_data.get("num_labels", 0):
        return task, lambda label_map: processor
    except ValueError:
      pass  # Model Garden has other tasks.
    return name.lower(), None


def _refuse_flags(args, names, what):
  """Refuses flags that mean nothing together with `what`."""
  given = [f"--{name}" for name in names if args[name].value !=
           args[name].default]
  if given:
    raise ValueError(f"{', '.join(given)}: not used with {what}. Own files are "
                     f"--task_name=custom; leave out what doesn't belong.")


def _record_processor(args, processor, meta_data):
  """The RecordProcessor of the flags.

  Args:
    args: the parsed flags.
    processor: that of the task, or None.
    meta_data: dict, or None.
  """
  if meta_data is None:
    return finetuning_helpers.RecordProcessor(
        args, processor, processor.get_labels(), processor.is_regression,
        has_sample_weights=False)
  num_labels = meta_data.get("num_labels", 0)
  if processor is None:
    labels = [str(number) for number in range(num_labels)]
  else:
    labels = processor.get_labels()
    if len(labels) != num_labels:
      raise ValueError(
          f"--task_name={args.task_name} has {_in_words(len(labels))}, the "
          f"records of --meta_data_file={args.meta_data_file} have "
          f"{_in_words(num_labels)}. Leave --task_name out, or name the task "
          f"that they were made for.")
    labels = _TFDS_LABELS.get(_task_of_tfds(meta_data), labels)
  return finetuning_helpers.RecordProcessor(
      args, processor, labels, meta_data["task_type"] == "bert_regression",
      bool(meta_data.get("has_sample_weights")))


def _task_of_tfds(meta_data):
  """Task of GLUE that records were made of from TFDS; None for others."""
  found = re.match(r"tfds_glue/([a-z0-9]+)",
                   str(meta_data.get("processor_type")).lower())
  return found and found[1]


def _in_words(num_labels):
  return f"{num_labels} labels" if num_labels else "numbers as labels"
