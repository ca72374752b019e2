# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Compares the runs below some folders.

  python -m demo.runs /tmp/experiments --output=runs.html

prints a table of the runs found there, finished or not, and writes runs.html,
a page that needs nothing else, and runs.png with their curves. A run is an
output folder of the scripts: what it has is shown, params.yaml or not. Folders
seed_1, seed_2 ... of the same folder are summed up as mean and deviation.
"""

import os
import re
import statistics
import time

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import app
from absl import flags
from absl import logging

from demo import curve_helpers
from demo import runs_reader
from demo import runs_report
from demo import script_helpers

FLAGS = flags.FLAGS

# Folders that belong to the run they are in.
_PARTS_OF_A_RUN = re.compile(r"eval(_.*)?|best|export|plugins|.*\.tmp")
_SEED = re.compile(r"seed_\d+")

# Parameters that say where a run lies, and what has a column of its own.
_NOT_COMPARED = re.compile(
    r"(.*\.)?(output_dir|model_dir|export_dir|task_name)")


def init_runs_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string(
      "output", "runs.html",
      "HTML file to write; the picture beside it has the same name and .png. "
      "Empty: none.")
  flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def find_runs(folders):
  """The runs at or below some folders.

  Args:
    folders: list of string.

  Returns:
    list of string, absolute paths in the order of their names and numbers.

  Raises:
    ValueError: a folder isn't there, or none holds a run.
  """
  found = set()
  for folder in folders:
    if not os.path.isdir(folder):
      raise ValueError(f"{folder} is not a folder: give folders with runs, "
                       f"such as what was the --output_dir of a training.")
    for path, inside, files in os.walk(os.path.realpath(folder)):
      is_run = any(runs_reader.MARKS.fullmatch(name) for name in files) or (
          "params.yaml" in files and not any(map(_SEED.fullmatch, inside)))
      if is_run:
        found.add(path)
      inside[:] = [name for name in inside if not name.startswith(".") and
                   not (is_run and _PARTS_OF_A_RUN.fullmatch(name))]
  if not found:
    raise ValueError(
        f"No run below {', '.join(folders)}: none of these folders has a "
        f"checkpoint, an events.out.tfevents file, params.yaml or results.")
  return sorted(found, key=_natural)


def _natural(text):
  """A key by which a/seed_2 comes before a/seed_10, and that before a_b."""
  return [[(int(part) if part.isdigit() else -1, part)
           for part in re.split(r"([0-9]+)", name)]
          for name in text.split(os.sep)]


def compare(folders, now):
  """What there is to say of all runs below some folders.

  Args:
    folders: list of string.
    now: float, seconds since the epoch.

  Returns:
    (report, curves): a dict with `runs`, `groups` and `differing`, ready for
    JSON; and a dict name of a run -> Curves.

  Raises:
    ValueError: see `find_runs`.
  """
  paths = find_runs(folders)
  root = os.path.commonpath(list(map(os.path.realpath, folders)))
  runs, curves, all_params = [], {}, []
  for path in script_helpers.progress_bar(paths, desc="Reading", unit="run"):
    run, run_curves, params = runs_reader.RunReader(path).read(now)
    relative = os.path.relpath(path, root)
    run["name"] = curve_helpers.printable(
        os.path.basename(path) if relative == "." else relative)
    runs.append(run)
    curves[run["name"]] = run_curves
    all_params.append(params)
  differing = _differing(all_params)
  for run, params in zip(runs, all_params):
    run["params"] = {key: params[key] for key in differing if key in params}
  _mark_best(runs)
  return {"runs": runs, "groups": _groups(runs, paths),
          "differing": differing}, curves


def _differing(all_params):
  """Parameters whose values are not the same in all runs that have any."""
  with_params = [params for params in all_params if params]
  keys = sorted({key for params in with_params for key in params}, key=str)
  return [key for key in keys
          if not _NOT_COMPARED.fullmatch(key) and len(
              {repr(params.get(key)) for params in with_params}) > 1]


def _mark_best(runs):
  """Marks the best of the runs that have the same task and main score."""
  for run in runs:
    others = [other for other in runs if _measure(other) == _measure(run)]
    run["is_best"] = bool(run["best"]) and len(others) > 1 and not any(
        curve_helpers.is_better(run["best"]["metric"], other["best"]["score"],
                                run["best"]["score"]) for other in others)


def _measure(run):
  """What a run is measured by; the same for runs that can be compared."""
  return run["best"] and (run["task"], run["best"]["metric"])


def _groups(runs, paths):
  """Runs that differ by their seeds, summed up.

  Args:
    runs: list of dict.
    paths: list of string, their folders.

  Returns:
    list of dict with `name`, `runs` (names), `scores` (dict name -> n, mean and
    sd, the deviation of a sample, None of one), `best` (name of a run or None).
  """
  members = {}
  for run, path in zip(runs, paths):
    if _SEED.fullmatch(os.path.basename(path)):
      members.setdefault(os.path.dirname(path), []).append(run)
  groups = []
  for group in members.values():
    values = {}
    for run in group:
      for name, value in run["final"]["scores"].items():
        values.setdefault(name, []).append(value)
      if run["best"]:
        values.setdefault(f"best {run['best']['metric']}", []).append(
            run["best"]["score"])
    # The final scores are those of the best checkpoint where that was kept.
    values = {name: found for name, found in values.items()
              if not name.startswith("best ") or
              found != values.get(name[len("best "):])}
    best = None
    for run in group:
      if run["best"] and (best is None or _measure(run) == _measure(best) and
                          curve_helpers.is_better(
                              run["best"]["metric"], run["best"]["score"],
                              best["best"]["score"])):
        best = run
    name = os.path.dirname(group[0]["name"])
    groups.append({
        "name": name or curve_helpers.printable(
            os.path.basename(os.path.dirname(group[0]["path"]))),
        "runs": [run["name"] for run in group],
        "scores": {key: {
            "n": len(found), "mean": statistics.mean(found),
            "sd": statistics.stdev(found) if len(found) > 1 else None}
                   for key, found in sorted(values.items())},
        "best": best and best["name"]})
  return groups


def main(argv):
  """Finds, prints and writes."""
  if len(argv) < 2:
    raise app.UsageError(
        "usage: python -m demo.runs FOLDER... [--output=runs.html] [--json]")
  output = FLAGS.output
  if output and not output.endswith(".html"):
    raise ValueError(f"--output={output} has to end with .html; the picture "
                     f"beside it ends with .png.")
  if output:
    script_helpers.check_output_dir(os.path.dirname(output) or ".", "output")
  report, curves = compare(argv[1:], time.time())
  print(runs_report.as_json(report) if FLAGS.json else
        runs_report.terminal(report))
  if output:
    picture = f"{output[:-len('.html')]}.png"
    curve_helpers.write_png(picture, runs_report.picture(report, curves))
    script_helpers.write_text(output, runs_report.page(report, curves))
    logging.info("Page: %s, picture: %s", output, picture)


if __name__ == "__main__":
  init_runs_flags()
  script_helpers.run(main, [], script_helpers.NOTHING_FINISHED)
