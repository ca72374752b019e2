# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""An INT8 model of an exported one that keeps its score, found by trials.

  python -m demo.tune_int8 --config=demo/configs/int8/mrpc.yaml --mode=tune \
    --input_model=/tmp/mrpc/export --task_name=MRPC --data_dir=glue/MRPC \
    --output_model=/tmp/mrpc_int8

The fp32 model is scored on the dev set first; then INT8 models are made and
scored until one loses no more than conf.yaml allows: with each setting for the
whole model, then with more and more layers in float32. Trials stand in
history.jsonl of the workspace, so that a search that was killed goes on.
tuning_report.json and tuning.png lie beside it, whatever came of it. The model
is served and read like any export. docs/int8.md tells the rest.
"""

import json
import os
import re
import shutil

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import tqdm

from demo import compile_check
from demo import compile_model
from demo import compile_reader
from demo import config_helpers
from demo import export_helpers
from demo import int8_backends
from demo import int8_config
from demo import int8_onnx
from demo import int8_report
from demo import int8_search
from demo import int8_task
from demo import int8_tensorflow
from demo import predictor
from demo import script_helpers

FLAGS = flags.FLAGS

_BACKENDS = {
    int8_config.TENSORFLOW: int8_tensorflow.TensorFlowBackend,
    int8_config.INTEGER_OPS: int8_onnx.IntegerOpsBackend,
    int8_config.QLINEAR_OPS: int8_onnx.QLinearOpsBackend}
BATCH_SIZES = (1, 8, 32)
# Rows of the call that a trial is timed by, and calls.
_TRIAL_BATCH, _TRIAL_WARMUP, _TRIAL_CALLS = 8, 2, 7
_GOES_ON = ("What was tried stands in the history: the same command goes on "
            "with it.")


def init_tune_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string(
      "config", None, "conf.yaml of Intel's tuner; demo/configs/int8 has one "
      "for each task.")
  flags.DEFINE_enum(
      "mode", "tune", ["tune", "accuracy", "benchmark"],
      "tune makes --output_model; accuracy scores --input_model on the dev "
      "set; benchmark times it.")
  flags.DEFINE_string(
      "input_model", None, "Export of a fine-tuned model (or a folder of "
      "exports, of which the newest is taken); of accuracy and benchmark any "
      "model, INT8 too.")
  flags.DEFINE_string(
      "output_model", None, "Folder to write the INT8 model to; it must not "
      "exist.")
  flags.DEFINE_string("task_name", None, "GLUE task, or SQuAD.")
  flags.DEFINE_string(
      "data_dir", None, "Folder of the task's files, train and dev.")
  flags.DEFINE_string(
      "train_file", None, "SQuAD file to calibrate with; by default "
      "train-v1.1.json in --data_dir.")
  flags.DEFINE_string(
      "predict_file", None, "SQuAD file to score with; by default "
      "dev-v1.1.json in --data_dir.")
  flags.DEFINE_string(
      "baseline_model", None, "With --mode=benchmark, a model to compare with: "
      "both are timed in turn.")
  flags.DEFINE_integer(
      "batch_size", 32, "Rows that are scored together.", lower_bound=1)


def main(_):
  """Does what --mode says."""
  config = _config(FLAGS)
  {"tune": tune, "accuracy": print_accuracy, "benchmark": benchmark}[
      FLAGS.mode](FLAGS, config)


def _config(args):
  """The int8_config.Config of --config."""
  if args.config is None:
    if args.mode == "tune":
      raise ValueError("--mode=tune needs --config; demo/configs/int8 has one "
                       "for each task.")
    return int8_config.parse(config_helpers.parse_config(
        f"model: {{name: bert, framework: {int8_config.TENSORFLOW}}}", ""), "")
  return int8_config.read(config_helpers.find_config(args.config, "config"))


def print_accuracy(args, config):
  """Scores a model on the dev set; see --mode=accuracy."""
  model = predictor.load(args.input_model, args.batch_size, config.threads)
  task = _task(args, config, model)
  scores = task.evaluate(model).scores
  for name, value in scores.items():
    print(f"{name} = {value:.5f}")
  print(f"{task.name}: {len(task.rows)} rows; the score that is held is "
        f"{task.metric}: {scores[task.metric]:.5f}")


def _task(args, config, model):
  """The int8_task.Task of the flags."""
  if not args.task_name:
    raise ValueError(f"--mode={args.mode} needs --task_name.")
  is_squad = model.info["kind"] == "squad"
  if is_squad != args.task_name.lower().startswith("squad"):
    raise ValueError(
        f"--task_name={args.task_name}: {model.path} is a model for "
        f"{'SQuAD' if is_squad else model.info['task']}.")
  return int8_task.Task(args, config.metric, model)


def benchmark(args, config):
  """Times a model, with another one in turn if wished; see --mode=benchmark."""
  models = {}
  if args.baseline_model:
    models["baseline"] = predictor.load(
        args.baseline_model, num_threads=config.threads)
  models["model"] = predictor.load(
      args.input_model, num_threads=config.threads)
  length = min(model.info["max_seq_length"] for model in models.values())
  vocabulary = min(map(int8_task.vocabulary_size, models.values()))
  comparison = {size: int8_task.measure_speed(
      models, int8_task.random_rows(size, length, vocabulary), config.warmup,
      config.iterations) for size in BATCH_SIZES}
  for name, model in models.items():
    print(f"{name}: {model.path} ({model.info['precision']})")
  for size, found in comparison.items():
    for name, speed in found.items():
      print(f"{name}: batch of {size}, {length} tokens: latency "
            f"{speed['latency_ms']:.2f} ms, throughput "
            f"{speed['rows_per_second']:.1f} rows/s" + (
                f", {1 / speed['ratio']:.2f} times as fast"
                if name == "model" and args.baseline_model else ""))


class _Workspace(object):
  """The folder of a search, and what lies there.

  Attributes:
    path: string.
    scratch: string, a folder in it for what goes at the end.
  """

  def __init__(self, args, config):
    """Finds or makes it."""
    path = config.workspace or f"{args.output_model.rstrip('/')}.tuning"
    if config.resume:
      path = config.resume
      if os.path.basename(path) == int8_search.HISTORY:
        path = os.path.dirname(path) or "."
      if not os.path.exists(os.path.join(path, int8_search.HISTORY)):
        raise ValueError(f"tuning.workspace.resume: {config.resume} has no "
                         f"{int8_search.HISTORY} to go on with. Leave it out.")
    output = os.path.realpath(args.output_model)
    if os.path.commonpath([output, os.path.realpath(path)]) == output:
      raise ValueError(f"tuning.workspace.path: {path} would be in "
                       f"--output_model, which must not exist. Name a folder "
                       f"outside of it.")
    if os.path.exists(path) and not os.path.isdir(path):
      raise ValueError(f"tuning.workspace.path: {path} can't be the workspace: "
                       f"it is no folder. Name another one.")
    script_helpers.check_output_dir(path, "output_model")
    self.path, self.scratch = path, os.path.join(path, "scratch")

  def file(self, name):
    """The path of a file."""
    return os.path.join(self.path, name)

  def model(self, number):
    """The folder of a trial's model."""
    return self.file(f"trial_{number}")

  def keep_only(self, number):
    """Removes the models of all trials but one, or of all (None)."""
    for name in os.listdir(self.path):
      # Others' files may lie there too.
      if re.fullmatch(r"trial_\d+(\.tmp)?", name) and (
          name != f"trial_{number}"):
        shutil.rmtree(self.file(name), ignore_errors=True)


def tune(args, config):
  """Searches, and writes the model; see --mode=tune.

  Args:
    args: the parsed flags.
    config: int8_config.Config.

  Raises:
    ValueError: a flag or the configuration is wrong, or no model holds the
      goal.
  """
  if not args.output_model:
    raise ValueError("--mode=tune needs --output_model.")
  if os.path.exists(args.output_model):
    raise ValueError(f"--output_model={args.output_model} exists already. "
                     f"Remove it or name another folder.")
  script_helpers.check_output_dir(
      os.path.dirname(args.output_model.rstrip("/")) or ".", "output_model")
  source = compile_reader.Source(args.input_model, "input_model")
  if source.info is None:
    export_helpers.read_info(source.path)  # Says what is missing.
  reference = predictor.load(source.path, args.batch_size, config.threads)
  task = _task(args, config, reference)
  if config.framework != int8_config.INTEGER_OPS:
    task.train_rows()  # Is missing now rather than after the scoring.
  workspace = _Workspace(args, config)
  _Tuning(args, config, source, reference, task, workspace).run()


class _Tuning(object):
  """One call of --mode=tune."""

  def __init__(self, args, config, source, reference, task, workspace):
    """Makes what the trials need, and scores the fp32 model."""
    self._args, self._config, self._source = args, config, source
    self._reference, self._task = reference, task
    self._workspace = workspace
    self._calibration = {}
    self._settings = {setting.name: setting
                      for setting in int8_backends.settings(config)}
    self._backend = _BACKENDS[config.framework](
        source, self._calibration_rows, workspace.scratch)
    self._check_fallbacks()
    self._expected = task.evaluate(reference)
    self._baseline = self._expected.scores[task.metric]
    self._goal = config.goal(self._baseline)
    self._rows = task.full_rows(max(BATCH_SIZES))

  def run(self):
    """Searches; writes report and model."""
    config = self._config
    layers = [layer for layer in self._backend.layers
              if layer not in config.fallbacks]
    print(f"fp32: {self._task.metric} {self._baseline:.4f} of "
          f"{len(self._task.rows)} rows; goal {self._goal:.4f}", flush=True)
    history = int8_search.History(
        self._workspace.file(int8_search.HISTORY), self._about())
    if len(history):
      print(f"{len(history)} trial(s) stand in the history.", flush=True)
    total = min(config.max_trials, len(self._settings) + 2 * len(layers))
    with tqdm.tqdm(total=1 if config.performance_only else total,
                   desc="trials", unit="trial", disable=None) as bar:
      def on_trial(trial, best, is_old):
        bar.write(int8_report.trial_line(trial, best, is_old))
        bar.update()
        self._workspace.keep_only(best and best.number)

      search = int8_search.Search(
          config, self._goal, list(self._settings), layers, self._measure,
          history, on_trial)
      winner = search.run()
    model = self._model_of(winner) if winner else None
    report = self._report(search, winner, model)
    int8_report.write(self._workspace.path, report)
    shutil.rmtree(self._workspace.scratch, ignore_errors=True)
    for line in int8_report.lines(report):
      print(line)
    logging.info("Report, picture and history: %s", self._workspace.path)
    if winner is None:
      best = max(search.trials, key=lambda trial: trial.accuracy)
      raise ValueError(
          f"No INT8 model holds {self._task.metric} {self._goal:.4f}: the best "
          f"is trial {best.number} with {best.result['score']:.4f} "
          f"({self._workspace.file(int8_report.REPORT)}). Allow more loss in "
          f"tuning.accuracy_criterion, more trials, or another "
          f"model.framework.")
    self._write_model(model, report)

  def _calibration_rows(self, count):
    """Rows to calibrate with; the same in each trial."""
    if count not in self._calibration:
      self._calibration[count] = self._task.calibration_rows(
          count, self._config.random_seed)
    return self._calibration[count]

  def _check_fallbacks(self):
    """Refuses layers in op_wise that the model lacks."""
    known = self._backend.layers + self._backend.never
    for layer in self._config.fallbacks:
      if layer not in known:
        raise ValueError(f"quantization.op_wise.{layer}: the model has no such "
                         f"linear layer, but {', '.join(known)}.")
    if set(self._backend.layers) <= set(self._config.fallbacks):
      raise ValueError("quantization.op_wise keeps all linear layers in "
                       "float32: nothing would be quantized. Leave some out.")

  def _about(self):
    """What a history is about: other values make other trials."""
    config = self._config
    return {
        "model": export_helpers.checksum(self._source.path),
        "data": self._task.checksum(),
        "quantization": {
            "framework": config.framework, **config.wise,
            "sampling_size": config.sampling_sizes,
            "fallbacks": config.fallbacks},
        "metric": self._task.metric,
        "random_seed": config.random_seed,
        "batch_size": self._args.batch_size, "threads": config.threads,
        "versions": self._backend.versions,
        "processor": compile_check.processor()}

  def _measure(self, number, setting, fallbacks):
    """Makes and measures the model of a trial; see int8_search.Search."""
    folder = self._make(number, setting, fallbacks)
    model = predictor.load(
        folder, self._args.batch_size, self._config.threads)
    outcome, scored = self._outcome(model)
    speed = int8_task.measure_speed(
        {"fp32": self._reference, "int8": model}, self._rows[:_TRIAL_BATCH],
        _TRIAL_WARMUP, _TRIAL_CALLS)
    model.close()
    return {
        "score": outcome.scores[self._task.metric], "scores": outcome.scores,
        "scored": scored,
        **int8_task.differences(self._expected.answers, outcome.answers),
        "latency_ms": speed["int8"]["latency_ms"],
        "fp32_latency_ms": speed["fp32"]["latency_ms"],
        "latency_ratio": speed["int8"]["ratio"],
        "bytes": compile_check.size(folder),
        "kernels": self._backend.kernels(folder)}

  def _outcome(self, model):
    """What a model answers to the dev set, and how it was asked.

    Where rows of a batch have to do with each other it is asked in batches and
    row by row: users do both. The lower score counts.

    Args:
      model: predictor.Predictor.

    Returns:
      (int8_task.Outcome, string).
    """
    outcomes = {f"in batches of {self._args.batch_size}":
                self._task.evaluate(model)}
    if self._backend.depends_on_batch:
      outcomes["row by row"] = self._task.evaluate(model, batch_size=1)
    scored = min(outcomes, key=lambda name: outcomes[name].scores[
        self._task.metric])
    return outcomes[scored], scored

  def _make(self, number, setting, fallbacks):
    """Writes the model of a trial; returns its folder."""
    folder = self._workspace.model(number)
    if os.path.exists(folder):
      shutil.rmtree(folder)
    with script_helpers.finished_folder(folder) as temporary:
      self._backend.quantize(
          temporary, self._settings[setting],
          tuple(sorted({*fallbacks, *self._config.fallbacks})))
    return folder

  def _model_of(self, trial):
    """The folder of a trial's model, made again if a kill took it."""
    folder = self._workspace.model(trial.number)
    if not os.path.isdir(folder):
      self._make(trial.number, trial.setting, trial.fallbacks)
    return folder

  def _report(self, search, winner, model):
    """The content of tuning_report.json."""
    config, task = self._config, self._task
    notes = []
    latencies = [trial.result["fp32_latency_ms"] for trial in search.trials]
    comparison = self._compare(model, notes) if model else None
    return {
        "task": task.name, "metric": task.metric, "name": config.name,
        "framework": config.framework, "versions": self._backend.versions,
        "processor": compile_check.processor(), "threads": config.threads,
        "input_model": self._source.path, "rows": len(task.rows),
        "length": task.length, "trial_batch": _TRIAL_BATCH,
        "criterion": (
            {"absolute": config.absolute} if config.relative is None else
            {"relative": config.relative}),
        "goal": self._goal, "objective": config.objective,
        "random_seed": config.random_seed,
        "calibration_rows": {
            str(size): len(rows) for size, rows in self._calibration.items()},
        "baseline": {
            "score": self._baseline, "scores": self._expected.scores,
            "latency_ms": sorted(latencies)[len(latencies) // 2],
            "bytes": compile_check.size(self._source.path)},
        "trials": [{"trial": trial.number, "setting": trial.setting,
                    "fallbacks": list(trial.fallbacks),
                    "meets_goal": trial.meets_goal, **trial.result}
                   for trial in search.trials],
        "winner": winner and winner.number, "stopped_by": search.stopped_by,
        "comparison": comparison, "notes": notes}

  def _compare(self, folder, notes):
    """fp32, bf16 and INT8 in turn: dict batch size -> dict model -> speeds."""
    config = self._config
    models = {"fp32": self._reference}
    dtypes = {"fp32 compiled": "float32", "bf16 compiled": "bfloat16"}
    reason = compile_check.slow_bf16(compile_check.processor())
    if reason:
      notes.append(f"No bf16 was measured: {reason}")
      del dtypes["bf16 compiled"]
    for name, dtype in dtypes.items():
      path = self._workspace.file(dtype)
      shutil.rmtree(path, ignore_errors=True)
      compile_model.write_saved_model(
          path, self._source, compile_model.settings(dtype=dtype))
      models[name] = predictor.load(path, num_threads=config.threads)
      shutil.rmtree(path)
    models["INT8"] = predictor.load(folder, num_threads=config.threads)
    return {str(size): int8_task.measure_speed(
        models, self._rows[:size], config.warmup, config.iterations)
            for size in BATCH_SIZES}

  def _write_model(self, folder, report):
    """Moves the model to --output_model, with its report."""
    path = self._args.output_model
    with script_helpers.finished_folder(path) as temporary:
      shutil.copytree(folder, temporary)
      script_helpers.write_text(
          os.path.join(temporary, int8_report.REPORT),
          json.dumps(report, indent=2) + "\n")
    self._workspace.keep_only(None)
    logging.info("INT8 model: %s", path)


if __name__ == "__main__":
  init_tune_flags()
  script_helpers.run(main, ["input_model"], _GOES_ON)
