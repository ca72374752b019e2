# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""One configuration with several random seeds, and what the scores are worth.

Fine-tuning on small tasks is unstable (Devlin et al. 2018, 4.1): the score of
one seed does not tell how good a configuration is.
"""

import json
import os
import re
import statistics
import time

import tensorflow as tf

from demo import curve_helpers
from demo import script_helpers

REPORT = "seeds.json"
# The first of these is what a run without best/ is judged by.
_MAIN_SCORES = ("f1", "matthews_correlation", "pearson", "accuracy",
                "masked_lm_accuracy", "loss")
_NO_SCORE = re.compile("global_step|(.*_)?total")


def parse_seeds(words):
  """Returns the seeds (list of int) of a list of string.

  Args:
    words: list of string.

  Raises:
    ValueError: one is no number from 0 on, or stands there twice.
  """
  if not words or not all(word.strip().isdecimal() for word in words):
    raise ValueError(f"--seeds={','.join(words)}: whole numbers from 0 on are "
                     f"needed, such as 1,2,3.")
  seeds = [int(word) for word in words]
  if len(set(seeds)) < len(seeds):
    raise ValueError(f"--seeds={','.join(words)}: a seed stands there twice.")
  return seeds


def read_scores(folder):
  """What the result files of a run say.

  Args:
    folder: string, its output folder.

  Returns:
    (metric, scores): name of the score that told the best checkpoint (string or
    None) and dict name -> float. Those of a second data set have its name at
    their end (accuracy_mismatched).

  Raises:
    ValueError: there are none, or a file is damaged.
  """
  scores, metric = {}, None
  for suffix in ("", "_mismatched"):
    text = _read(os.path.join(folder, f"eval_results{suffix}.txt"))
    for line in (text or "").splitlines():
      name, _, value = line.partition(" = ")
      name = name[5:] if name.startswith("eval_") else name
      _take(scores, name + suffix, value)
  report = _load(folder, "eval_metrics.json")
  for name, found in (report or {}).get("sets", {}).items():
    suffix = "" if name == "dev" else f"_{name}"
    for score, value in {"loss": found.get("loss"), **found["scores"]}.items():
      _take(scores, score + suffix, value)
  for score, value in (_load(folder, "eval_results.json") or {}).items():
    _take(scores, score, value)
  best = _load(folder, os.path.join("best", "info.json"))
  if best:
    metric = best["metric"]
    for score, value in {**best.get("scores", {}),
                         metric: best["score"]}.items():
      _take(scores, score, value)
  if not scores:
    raise ValueError(f"{folder} has no scores: neither best/info.json nor "
                     f"eval_results.txt, eval_metrics.json or "
                     f"eval_results.json.")
  return metric, scores


def _take(scores, name, value):
  """Adds a score, if it is a number."""
  try:
    if not _NO_SCORE.match(name):
      scores[name] = float(value)
  except (TypeError, ValueError):
    pass


def _read(path):
  """A file's text; None without one."""
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path) as reader:
    return reader.read()


def _load(folder, name):
  """The object of a JSON file; None without one."""
  path = os.path.join(folder, name)
  text = _read(path)
  try:
    content = None if text is None else json.loads(text)
  except ValueError:
    content = ()
  if content is not None and not isinstance(content, dict):
    raise ValueError(f"{path} is damaged: remove it.")
  return content


def run_seeds(seeds, folder, configuration, metric, start):
  """Trains with each seed that isn't finished, and reports.

  Args:
    seeds: list of int.
    folder: string; each seed gets seed_<seed> in it, and seeds.json says what
      is finished.
    configuration: list of string, what the runs have in common.
    metric: string or None, the score that counts; the runs know their own.
    start: function of seed and output folder that trains and returns an exit
      status.

  Returns:
    int, exit status: that of the first run that failed, else 0.

  Raises:
    ValueError: the folder has seeds of another configuration, or a run left no
      scores.
  """
  report = _load(folder, REPORT) or {
      "configuration": configuration, "seeds": {}}
  if report["configuration"] != configuration:
    others = sorted(set(report["configuration"]) ^ set(configuration))
    raise ValueError(
        f"{os.path.join(folder, REPORT)} is of another configuration "
        f"({others[0].strip() if others else 'another order'}): choose another "
        f"--output_dir.")
  for seed in seeds:
    if str(seed) in report["seeds"]:
      _say(f"{_line(seed, report)} (finished before)")
      continue
    began = time.monotonic()
    seed_folder = os.path.join(folder, f"seed_{seed}")
    status = start(seed, seed_folder)
    if status:
      _say(f"seed {seed} ended with status {status}; the same command goes on "
           f"with it.")
      return status
    of_best, scores = read_scores(seed_folder)
    report["metric"] = of_best or metric or next(
        name for name in (*_MAIN_SCORES, *scores) if name in scores)
    if report["metric"] not in scores:
      raise ValueError(f"--best_metric={metric}: {seed_folder} has "
                       f"{', '.join(sorted(scores))}.")
    report["seeds"][str(seed)] = {
        "scores": scores, "folder": seed_folder,
        "seconds": round(time.monotonic() - began, 1)}
    _write(folder, report)
    _say(_line(seed, report))
  summary = summarize(report, seeds)
  _write(folder, {**report, **summary})
  print(table(report, summary, seeds), flush=True)
  return 0


def _write(folder, report):
  script_helpers.write_text(
      os.path.join(folder, REPORT), json.dumps(report, indent=2) + "\n")


def _say(message):
  print(f"train: {message}", flush=True)


def _line(seed, report):
  """What is said of a seed that is finished."""
  found, metric = report["seeds"][str(seed)], report["metric"]
  return (f"seed {seed}: {metric} {found['scores'][metric]:.4f}, "
          f"{found['seconds']:.0f} s")


def summarize(report, seeds):
  """Mean and sample standard deviation of each score, and the best seed.

  Args:
    report: dict, "metric" and "seeds" of seeds.json.
    seeds: list of int, those that count.

  Returns:
    dict: "scores" (name -> mean, standard_deviation; None of one seed) and
    "best" (seed, score, folder).
  """
  runs = {seed: report["seeds"][str(seed)] for seed in seeds}
  metric = report["metric"]
  scores = {}
  for name in next(iter(runs.values()))["scores"]:
    values = [run["scores"][name] for run in runs.values()
              if name in run["scores"]]
    scores[name] = {
        "mean": statistics.fmean(values),
        "standard_deviation":
            statistics.stdev(values) if len(values) > 1 else None}
  choose = min if curve_helpers.is_loss(metric) else max
  best = choose(runs, key=lambda seed: runs[seed]["scores"][metric])
  return {"scores": scores, "best": {
      "seed": best, "score": runs[best]["scores"][metric],
      "folder": runs[best]["folder"]}}


def table(report, summary, seeds):
  """The report as lines (string); see `summarize` for the arguments."""
  metric = report["metric"]
  names = [metric] + [name for name in summary["scores"] if name != metric]
  rows = [["seed", *names]]
  for seed in seeds:
    found = report["seeds"][str(seed)]["scores"]
    rows.append([str(seed), *(_shown(found.get(name)) for name in names)])
  for key, title in (("mean", "mean"), ("standard_deviation", "std")):
    rows.append([title, *(_shown(summary["scores"][name][key])
                          for name in names)])
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths))
           for row in rows]
  best = summary["best"]
  return "\n".join(lines) + (
      f"\nbest: seed {best['seed']}, {metric} {best['score']:.4f}, in "
      f"{best['folder']}")


def _shown(value):
  return "-" if value is None else f"{value:.4f}"
