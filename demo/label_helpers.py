# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The labels of a classifier: which there are, what an example of each counts,
and the file that says what the outputs of a trained model mean.
"""

import collections
import json
import math
import os

from absl import logging
import numpy as np
import tensorflow as tf

from demo import finetuning_helpers
from demo import horovod_helpers
from demo import script_helpers

# Beside the checkpoints: what the outputs of a model mean.
LABEL_MAP = "label_map.json"


def check_label_list(args):
  """Refuses --labels (there are some) that are no list of classes.

  Args:
    args: the parsed flags.

  Raises:
    ValueError: names the flag.
  """
  text = ",".join(args.labels)
  if args.regression:
    raise ValueError(f"--labels={text}: with --regression the labels are "
                     f"numbers, leave out one of the two.")
  if len(set(args.labels)) != len(args.labels) or not all(args.labels):
    raise ValueError(f"--labels={text}: each label has to stand there once.")
  if len(args.labels) < 2:
    raise ValueError(f"--labels={text}: there have to be two labels at least.")


def found_labels(examples):
  """The labels of a training set, sorted; numbers as numbers.

  Args:
    examples: list of `run_classifier.InputExample`; their places are known.

  Returns:
    List of string.

  Raises:
    ValueError: they don't look like classes.
  """
  counts = collections.Counter(example.label for example in examples)
  path = examples[0].source[0]
  if len(counts) < 2:
    raise ValueError(f"{path}: every row has the label {examples[0].label!r}. "
                     f"Is --label the right column?")
  if len(counts) > max(len(examples) // 2, 2):
    raise ValueError(
        f"{path}: {len(counts)} different labels in {len(examples)} rows "
        f"({', '.join(map(repr, list(counts)[:3]))} ...). Is --label the right "
        f"column? If they are numbers to be met, pass --regression; if they "
        f"are classes, list them with --labels.")
  try:
    labels = sorted(counts, key=lambda label: (float(label), label))
    if any(float(label) % 1 for label in labels):
      logging.warning("%s: the labels are fractions and taken as classes; with "
                      "--regression they are numbers.", path)
  except ValueError:
    labels = sorted(counts)
  logging.info("Labels: %s.", ", ".join(
      f"{label} ({counts[label]})" for label in labels))
  return labels


def check_labels(examples, label_list):
  """Refuses an example whose label the task doesn't have.

  Args:
    examples: list of `run_classifier.InputExample`.
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


def check_trained_labels(args, label_map, label_list):
  """Refuses a model of other labels, or of the same in another order.

  Args:
    args: the parsed flags.
    label_map: dict or None, see `saved_label_map`.
    label_list: list of string, the labels of the data.

  Raises:
    ValueError: names both.
  """
  if label_map is None or label_map["labels"] == label_list:
    return
  numbers = [str(number) for number in range(len(label_list))]
  # Records of a task that isn't known have no names.
  if numbers and numbers in (label_list, label_map["labels"]) and (
      len(label_map["labels"]) == len(numbers)):
    return
  raise ValueError(
      f"--output_dir={args.output_dir}: its model was trained with other "
      f"labels, or in another order: "
      f"{', '.join(label_map['labels']) or 'numbers'}; here they are "
      f"{', '.join(label_list) or 'numbers'}. Name the data that it was "
      f"trained for, or another --output_dir.")


def class_weights(args, label_list, train_examples):
  """What --class_weights says.

  "balanced" is scikit-learn's: examples / (labels * examples of the label).

  Args:
    args: the parsed flags.
    label_list: list of string, empty for a regression task.
    train_examples: list of `run_classifier.InputExample` or a RecordSet, None
      without a training.

  Returns:
    Tuple of float in the order of the labels, or None.

  Raises:
    ValueError: they don't fit the task.
  """
  flag = f"--class_weights={args.class_weights}"
  if not label_list:
    for name, value in (("class_weights", args.class_weights),
                        ("label_smoothing", args.label_smoothing)):
      if value:
        raise ValueError(f"--{name}={value}: a regression task has no classes; "
                         f"leave it out.")
  if args.class_weights is None:
    return None
  if args.class_weights == "balanced":
    if train_examples is None:
      return None
    counts = collections.Counter(
        (label_list[number] for number in train_examples.columns["label_ids"])
        if finetuning_helpers.is_record_set(train_examples) else
        (example.label for example in train_examples))
    missing = [label for label in label_list if not counts[label]]
    if missing:
      raise ValueError(f"{flag}: no training example has label {missing[0]!r}. "
                       f"Give numbers instead.")
    return tuple(len(train_examples) / (len(label_list) * counts[label])
                 for label in label_list)
  try:
    weights = tuple(float(number) for number in args.class_weights.split(","))
  except ValueError:
    weights = ()
  if (len(weights) != len(label_list) or not any(weights) or
      not all(0 <= weight < math.inf for weight in weights)):
    raise ValueError(
        f"{flag}: expected balanced or {len(label_list)} numbers, 0 or more "
        f"and not all 0, with commas between: those of labels "
        f"{', '.join(label_list)}.")
  return weights


def read_label_map(output_dir):
  """Reads what the outputs of a trained model mean.

  Training writes it for --task_name=custom and --use_tfds; for the other tasks
  the processor knows.

  Args:
    output_dir: string.

  Returns:
    Dict: "task", its canonical name; "kind", "classification" or "regression";
    "labels", names in the order of the outputs, none for regression; "columns",
    dict from "text_a", "text_b" and "label" to a name, a number or None. None
    without such a file.

  Raises:
    ValueError: the file is broken.
  """
  path = os.path.join(output_dir, LABEL_MAP)
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path, "r") as reader:
    text = reader.read()
  try:
    label_map = json.loads(text)
    kind, labels = label_map["kind"], label_map["labels"]
    is_whole = (kind in ("classification", "regression") and
                (len(labels) > 1) == (kind == "classification") and
                isinstance(labels, list) and
                all(isinstance(label, str) for label in labels) and
                len(set(labels)) == len(labels) and
                set(label_map["columns"]) == {"text_a", "text_b", "label"} and
                all(column is None or isinstance(column, (str, int))
                    for column in label_map["columns"].values()))
  except (ValueError, TypeError, KeyError, RecursionError):
    is_whole = False
  if not is_whole:
    raise ValueError(f"{path} is damaged: remove it, and pass --labels (or "
                     f"--regression) to evaluate and predict.")
  return label_map


def saved_label_map(args):
  """The label map of the model that goes on or is evaluated, of rank 0.

  Args:
    args: the parsed flags.

  Returns:
    See `read_label_map`, as for what it raises.
  """
  label_map = None
  if horovod_helpers.is_chief() and (
      not args.do_train or tf.train.latest_checkpoint(args.output_dir)):
    label_map = read_label_map(args.output_dir)
  horovod_helpers.barrier()
  return horovod_helpers.gather(label_map)[0]


def write_label_map(args, task, processor):
  """Rank 0 writes what `read_label_map` reads.

  Args:
    args: the parsed flags.
    task: string, its canonical name.
    processor: that of the task; if it has no method `label_map`, its labels
      are known and nothing is written.
  """
  if horovod_helpers.is_chief() and hasattr(processor, "label_map"):
    script_helpers.write_text(
        os.path.join(args.output_dir, LABEL_MAP),
        json.dumps({"task": task, **processor.label_map()}, indent=2,
                   ensure_ascii=False) + "\n")
