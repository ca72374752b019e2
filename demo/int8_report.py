# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What demo.tune_int8 shows and leaves: lines, tables, a picture, a report."""

import json
import os

from demo import curve_helpers
from demo import script_helpers

REPORT, PICTURE = "tuning_report.json", "tuning.png"
_SIZE = (9, 5.5)  # Inches of the picture.
_BLUE, _ORANGE, _GREY = "#1f77b4", "#d95f02", "#777777"


def trial_line(trial, best, is_old=False):
  """A trial in a line (string).

  Args:
    trial: int8_search.Trial.
    best: int8_search.Trial, the best so far; None if none meets the goal.
    is_old: bool, it stood in the history.
  """
  result = trial.result
  what = trial.setting
  if trial.fallbacks:
    what += f"; float32: {_layers(trial.fallbacks)}"
  so_far = "none" if best is None else (
      f"trial {best.number} ({best.result['score']:.4f}, "
      f"{best.result['latency_ms']:.1f} ms)")
  return (f"trial {trial.number}: {what}; score {result['score']:.4f}"
          f"{'' if trial.meets_goal else ' (below the goal)'}, "
          f"{result['latency_ms']:.1f} ms"
          f"{_flips(result)}; best so far: {so_far}"
          + (" [from the history]" if is_old else ""))


def _layers(names):
  """Layers in few words."""
  if len(names) <= 3:
    return ", ".join(names)
  return f"{', '.join(names[:2])} and {len(names) - 2} more"


def _flips(result):
  if result["flips"] is None:
    return f", mean difference {result['difference']:.2g}"
  return f", {result['flips']} answer(s) changed"


def table(report):
  """The scores before and after as lines of a Markdown table."""
  yield "| score of the dev set | fp32 | INT8 | change |"
  yield "| --- | --- | --- | --- |"
  result = chosen(report)
  for name, before in report["baseline"]["scores"].items():
    if result is None:
      yield f"| {name} | {before:.4f} | - | - |"
      continue
    after = result["scores"][name]
    change = f"{100 * (after - before) / abs(before):+.2f} %" if before else "-"
    held = " (held)" if name == report["metric"] else ""
    yield f"| {name}{held} | {before:.4f} | {after:.4f} | {change} |"


def chosen(report):
  """The result (dict) of the winner, None without one."""
  return next((trial for trial in report["trials"]
               if trial["trial"] == report["winner"]), None)


def comparison_lines(comparison, length):
  """Speeds as lines of a Markdown table.

  Args:
    comparison: dict batch size -> dict model -> dict, see
      `int8_task.measure_speed`.
    length: int, tokens of a row.
  """
  models = list(next(iter(comparison.values())))
  yield (f"| rows of {length} tokens | " + " | ".join(models) + " |")
  yield "| --- |" + " --- |" * len(models)
  for batch, found in comparison.items():
    cells = []
    for name in models:
      speed = found[name]
      cells.append(f"{speed['latency_ms']:.1f} ms" + (
          "" if name == models[0] else f" ({1 / speed['ratio']:.2f}x)"))
    yield f"| batch of {batch} | {' | '.join(cells)} |"


def machine_line(report):
  """What all figures were measured on (string)."""
  computer = report["processor"]
  versions = ", ".join(f"{name} {version}" for name, version in sorted(
      report["versions"].items()))
  return (f"{report['framework']} ({versions}) on {computer['name']} "
          f"{'with' if computer['vnni'] else 'without'} VNNI, "
          f"{report['threads'] or os.cpu_count()} thread(s), oneDNN "
          f"{'on' if computer['onednn'] else 'off'}")


def lines(report):
  """The end of a search as lines to print."""
  result = chosen(report)
  yield (f"Goal: {report['metric']} of {report['goal']:.4f} or more "
         f"({_criterion(report)}; fp32 has {report['baseline']['score']:.4f}). "
         f"{len(report['trials'])} trial(s); ended by: {report['stopped_by']}.")
  yield from table(report)
  if result is not None:
    kernels = result["kernels"]
    count = len(kernels["int8"]) + len(kernels["float"])
    others = kernels["float"]
    yield (f"Trial {result['trial']}: {result['setting']}; scored "
           f"{result['scored']}. Linear layers in "
           f"INT8: {len(kernels['int8'])} of {count}" + (
               f"; in float32: {', '.join(others)}" if others else "") + ".")
    yield "Operations: " + ", ".join(
        f"{count} {name}" for name, count in sorted(
            kernels["operations"].items())) + "."
    before = report["baseline"]["bytes"]
    yield (f"Size: {before / 1e6:.1f} MB before, {result['bytes'] / 1e6:.1f} "
           f"after ({result['bytes'] / before:.2f})"
           f"{_flips(result)} in {report['rows']} rows.")
  if report.get("comparison"):
    yield from comparison_lines(report["comparison"], report["length"])
  for note in report["notes"]:
    yield note
  yield machine_line(report)


def _criterion(report):
  (kind, value), = report["criterion"].items()
  return f"{kind} {value:g}"


def write(folder, report):
  """Writes tuning_report.json and the picture.

  Args:
    folder: string.
    report: dict.
  """
  script_helpers.write_text(os.path.join(folder, REPORT),
                            json.dumps(report, indent=2) + "\n")
  curve_helpers.write_png(os.path.join(folder, PICTURE), picture(report))


def picture(report):
  """Score against latency of every trial (bytes of a PNG file)."""
  # pylint: disable-next=import-outside-toplevel
  from matplotlib import figure as figures

  figure = figures.Figure(figsize=_SIZE, layout="constrained")
  axes = figure.subplots()
  held = [trial for trial in report["trials"] if trial["meets_goal"]]
  below = [trial for trial in report["trials"] if not trial["meets_goal"]]
  for trials, colour, label in ((held, _BLUE, "holds the goal"),
                                (below, _ORANGE, "below the goal")):
    if trials:
      axes.scatter([trial["latency_ms"] for trial in trials],
                   [trial["score"] for trial in trials], color=colour,
                   label=label, zorder=3)
  baseline = report["baseline"]
  axes.scatter([baseline["latency_ms"]], [baseline["score"]], color=_GREY,
               marker="s", label="fp32", zorder=3)
  axes.axhline(report["goal"], color=_ORANGE, linestyle="--", linewidth=1,
               label=f"goal {report['goal']:.4f}")
  winner = chosen(report)
  if winner is not None:
    axes.scatter([winner["latency_ms"]], [winner["score"]], marker="*", s=320,
                 color=_BLUE, edgecolor="black",
                 label=f"taken: trial {winner['trial']}", zorder=4)
  for trial in report["trials"]:
    axes.annotate(str(trial["trial"]), (trial["latency_ms"], trial["score"]),
                  textcoords="offset points", xytext=(5, 5), fontsize=8)
  axes.set_xlim(left=0)
  axes.set_xlabel(curve_helpers.plain(
      f"ms for {report['trial_batch']} rows of {report['length']} tokens, "
      f"{report['threads'] or os.cpu_count()} thread(s) of "
      f"{report['processor']['name']}"))
  axes.set_ylabel(curve_helpers.plain(f"{report['metric']} of the dev set"))
  axes.set_title(curve_helpers.plain(
      f"{report['task']}: INT8 by {report['framework']}"))
  axes.grid(alpha=0.3)
  axes.legend(fontsize=9)
  return curve_helpers.as_png(figure)


