# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The learning curve of a run: read from its TensorBoard files and drawn."""

import collections
import io
import json
import math
import os
import re
import warnings

from absl import logging
import tensorflow as tf

from demo import script_helpers

LEARNING_CURVE = "learning_curve.png"

# Okabe and Ito's colours (without yellow and black, which vanish on one of a
# light and a dark page, with a grey): told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
           "#808080")

# Of several scores the first of these is the main one.
_MAIN_METRICS = ("matthews_correlation", "pearson", "f1", "accuracy",
                 "masked_lm_accuracy", "exact_match")
# Numbers beside the scores that are none.
_NO_SCORE = re.compile(r"(.*_)?total|.*_thresh|global_step")
_MAX_SCORES = 6  # As many lines as one panel shows.
_MAX_TITLE = 70  # Characters.

# What a run has written to its TensorBoard files.
#   train: dict tag ("loss", "learning_rate") -> list of (step, value).
#   scores: dict name ("accuracy", "accuracy_mismatched", "loss") -> the same,
#     of evaluations.
#   last_step: int, the last step that anything is known of.
#   seconds: float or None, how long it trained, pauses left out.
#   notes: list of string, files that could not be read to the end.
Curves = collections.namedtuple(
    "Curves", "train scores last_step seconds notes")

# What one file holds, if anything: where and when it begins, when it ends.
_Part = collections.namedtuple(
    "_Part", "points first_step last_step begun ended")


def read_curves(output_dir):
  """Reads the scalars of a run, training and evaluations.

  A run that was killed goes on from its last checkpoint, in a new file: what
  was done after that checkpoint is done again, and what the files of before say
  of it is dropped. Killed at step 50 and going on from 40, it has 1 to 40 of
  the first file and 41 onwards of the second.

  Args:
    output_dir: string, a run's folder.

  Returns:
    Curves; the points of a tag are in the order of their steps.
  """
  notes = []
  training = [part for part in (
      _read_part(path, notes) for path in _event_files(output_dir)) if part]
  starts = [(part.begun, part.first_step) for part in training]
  last_steps = [
      min([part.last_step] + [step for begun, step in starts
                              if begun > part.begun]) for part in training]
  scores = {}
  for folder in _eval_folders(output_dir):
    parts = [part for part in (
        _read_part(path, notes)
        for path in _event_files(os.path.join(output_dir, folder))) if part]
    scores.update(score_names(_merged(parts, starts), folder[len("eval"):]))
  return Curves(
      _merged(training, starts), scores, max(last_steps, default=0),
      sum(part.ended - part.begun for part in training) if training else None,
      notes)


def _entries(folder):
  """Names in a folder, none if it isn't there."""
  try:
    return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder))
  except tf.errors.OpError:
    return []


def _event_files(folder):
  return [os.path.join(folder, name) for name in _entries(folder)
          if name.startswith("events.out.tfevents.")]


def _eval_folders(output_dir):
  return [name for name in _entries(output_dir)
          if re.fullmatch("eval(_.*)?", name) and
          tf.io.gfile.isdir(os.path.join(output_dir, name))]


def _read_part(path, notes):
  """Reads a file; returns a _Part, or None if nothing is in it."""
  points, begun, ended = [], None, None
  first_step = last_step = None
  try:
    for event in tf.compat.v1.train.summary_iterator(path):
      kind = event.WhichOneof("what")
      if kind == "file_version":  # Its time is cut to whole seconds.
        continue
      begun = event.wall_time if begun is None else begun
      ended = event.wall_time
      if kind not in ("summary", "session_log"):  # A graph has no step.
        continue
      first_step = event.step if first_step is None else first_step
      last_step = max(last_step or 0, event.step)
      points += [(event.step, event.wall_time, value.tag, value.simple_value)
                 for value in event.summary.value
                 if value.WhichOneof("value") == "simple_value"]
  except (tf.errors.OpError, ValueError) as error:
    # A file that is being written, or whose writer was killed, ends anywhere.
    message = getattr(error, "message", str(error))
    if not message.startswith("truncated record"):
      notes.append(f"{path} can't be read to its end "
                   f"({message.splitlines()[0]}).")
  if first_step is None:
    return None
  return _Part(points, first_step, last_step, begun, ended)


def _merged(parts, starts):
  """The points of some files as one curve per tag.

  Args:
    parts: list of _Part.
    starts: list of (time, step) at which the training began or went on.

  Returns:
    Dict tag -> list of (step, value).
  """
  newest = {}  # tag -> step -> (time, value)
  for part in parts:
    for step, written, tag, value in part.points:
      if any(step > start and written < begun for begun, start in starts):
        continue
      values = newest.setdefault(tag, {})
      if step not in values or values[step][0] <= written:
        values[step] = written, value
  return {tag: [(step, values[step][1]) for step in sorted(values)]
          for tag, values in newest.items()}


def score_names(results, suffix=""):
  """Results of an evaluation under the names of their scores.

  Args:
    results: dict "eval_accuracy" or "accuracy" -> anything.
    suffix: string, for the names; "_mismatched" of a second set.

  Returns:
    Dict "accuracy" -> the same; what is no score is left out.
  """
  found = {}
  # The Estimator's "loss" is a mean of batches, "eval_loss" one of examples.
  for key in sorted(results, key=lambda key: (key.startswith("eval_"), key)):
    name = key[len("eval_"):] if key.startswith("eval_") else key
    if not _NO_SCORE.fullmatch(name):
      found[name + suffix] = results[key]
  return found


def is_loss(name):
  """Whether the smaller value of a score is the better one."""
  return re.search(r"(^|_)(loss|error)(_|$)", name) is not None


def is_better(name, value, other):
  """Whether a score's value (float) is better than another one."""
  return value < other if is_loss(name) else value > other


def main_metric(names):
  """The score by which runs are compared, None if there is none.

  Args:
    names: iterable of names of scores.
  """
  names = sorted(names)
  for wanted in _MAIN_METRICS:
    if wanted in names:
      return wanted
  return next((name for name in names if not is_loss(name)),
              names[0] if names else None)


def best_point(name, points):
  """The first best of a score's points.

  Args:
    name: string, the score.
    points: list of (step, value).

  Returns:
    (step, value), or None where no value is a number.
  """
  best = None
  for step, value in points:
    if math.isfinite(value) and (
        best is None or is_better(name, value, best[1])):
      best = step, value
  return best


def kept_best(output_dir):
  """What best/info.json says of the checkpoint kept there.

  Args:
    output_dir: string, a run's folder.

  Returns:
    Dict with `step` (int), `metric` (string) and `score` (float); None without
    the file or a number in it.

  Raises:
    ValueError: the file is damaged.
  """
  path = os.path.join(output_dir, "best", "info.json")
  if not tf.io.gfile.exists(path):
    return None
  try:
    with tf.io.gfile.GFile(path, "r") as reader:
      content = json.load(reader)
    best = {"step": int(content["step"]), "metric": str(content["metric"]),
            "score": float(content["score"])}
  except (tf.errors.OpError, ValueError, TypeError, KeyError,
          OverflowError, RecursionError) as error:
    raise ValueError(f"{path} can't be read ({error!r}).") from None
  return best if math.isfinite(best["score"]) else None


def smoothed(points):
  """A curve without its jitter: a mean that forgets.

  It goes back about a twentieth of the points, and is weighted so that it
  starts at the first of them rather than at 0.

  Args:
    points: list of (step, value).

  Returns:
    list of (step, value).
  """
  keep = 1.0 - 2.0 / (max(len(points) // 20, 1) + 1.0)
  total = weight = 0.0
  found = []
  for step, value in points:
    if math.isfinite(value):
      total = keep * total + value
      weight = keep * weight + 1.0
    found.append((step, total / weight if weight else value))
  return found


def run_name(path):
  """What a run is called: its folder, and for seed_N the folder above it."""
  path = os.path.normpath(path)
  above, name = os.path.split(path)
  if re.fullmatch(r"seed_\d+", name) and os.path.basename(above):
    name = os.path.join(os.path.basename(above), name)
  return printable(name)


def printable(text):
  """Text without line breaks and what else a table or a font can't show."""
  return "".join(c if c.isprintable() else "?" for c in str(text))


def plain(text):
  """Text in which matplotlib takes no dollar sign for the start of a formula.
  """
  return printable(text).replace("$", r"\$")


def as_png(figure, dpi=100):
  """A matplotlib Figure as the bytes of a PNG file."""
  content = io.BytesIO()
  with warnings.catch_warnings():
    # A name may have characters that the font lacks; they become boxes.
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    figure.savefig(content, format="png", dpi=dpi)
  return content.getvalue()


def write_png(path, content):
  """Writes a picture (bytes), whole or not at all."""
  with script_helpers.finished_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "wb") as writer:
      writer.write(content)


def write_learning_curve(output_dir):
  """Draws loss, learning rate and scores of a run against its steps.

  The picture is learning_curve.png in the run's folder. A training has been
  done when this is called: whatever is in the way is logged, and the run goes
  on.

  Args:
    output_dir: string, the run's folder.

  Returns:
    string, the picture's path; None if there is none.
  """
  curves = read_curves(output_dir)
  for note in curves.notes:
    logging.warning("%s", note)
  if not any(curves.train.values()) and not any(curves.scores.values()):
    logging.warning("No learning curve: %s has no points of TensorBoard yet.",
                    output_dir)
    return None
  try:
    best = kept_best(output_dir)
  except ValueError as error:
    logging.warning("%s", error)
    best = None
  path = os.path.join(output_dir, LEARNING_CURVE)
  try:
    write_png(path, as_png(learning_curve(run_name(output_dir), curves, best)))
  except ImportError as error:
    logging.warning("No learning curve: %s. `pip install matplotlib` and "
                    "`python -m demo.runs` draw it later.", error)
    return None
  except (OSError, ValueError, tf.errors.OpError) as error:
    logging.warning("No learning curve: %s can't be written (%s).", path,
                    getattr(error, "message", error))
    return None
  logging.info("Learning curve: %s", path)
  return path


def learning_curve(name, curves, best=None):
  """The picture of one run.

  Args:
    name: string, its title.
    curves: Curves.
    best: dict, see `kept_best`; None takes the best point of the main score.

  Returns:
    matplotlib Figure of 900 pixels width: a panel each for loss, learning rate
    and scores, as far as there are points.
  """
  from matplotlib import figure as figures

  losses, scores = _split_scores(curves.scores, best and best["metric"])
  if best is None:
    best = _best_of(scores or losses)
  panels = [(draw, shown) for draw, shown, is_there in (
      (lambda axes: _draw_losses(axes, curves.train, losses), losses,
       losses or "loss" in curves.train),
      (lambda axes: _draw_rate(axes, curves.train["learning_rate"]), {},
       "learning_rate" in curves.train),
      (lambda axes: _draw_scores(axes, scores), scores, scores)) if is_there]
  figure = figures.Figure(figsize=(9, 1 + 2.6 * max(len(panels), 1)), dpi=100,
                          layout="constrained")
  figure.suptitle(_title(name), fontsize=15)
  rows = figure.subplots(max(len(panels), 1), 1, sharex=True, squeeze=False)
  for (axes,), (draw, shown) in zip(rows, panels):
    draw(axes)
    style_axes(axes)
    if best:
      _mark_best(axes, best, shown)
  rows[-1][0].set_xlabel("training steps", fontsize=12)
  return figure


def _title(name):
  name = name if len(name) <= _MAX_TITLE else "…" + name[-_MAX_TITLE:]
  return plain(name)


def _split_scores(scores, metric):
  """(losses, others): dicts of the scores that share a panel.

  Args:
    scores: dict name -> points.
    metric: string, the score to show in any case, or None.
  """
  losses = {name: points for name, points in scores.items() if is_loss(name)}
  others = {name: points for name, points in scores.items()
            if name not in losses}
  first = metric if metric in others else main_metric(others)
  shown = sorted(others, key=lambda name: (name != first, name))[:_MAX_SCORES]
  return losses, {name: others[name] for name in shown}


def _best_of(scores):
  """As `kept_best`, of a run that kept none; None without two points."""
  metric = main_metric(scores)
  points = scores.get(metric, [])
  best = best_point(metric, points)
  if best is None or len(points) < 2:
    return None
  return {"step": best[0], "metric": metric, "score": best[1]}


def _draw_losses(axes, train, losses):
  if "loss" in train:
    steps, values = zip(*train["loss"])
    axes.plot(steps, values, color=COLOURS[0], alpha=0.3, linewidth=1,
              label="loss of batches")
    steps, values = zip(*smoothed(train["loss"]))
    axes.plot(steps, values, color=COLOURS[0], linewidth=2,
              label="loss, smoothed")
  _draw_points(axes, {f"{name} (evaluation)": points
                      for name, points in losses.items()}, 1)
  axes.set_ylabel("loss", fontsize=12)
  _add_legend(axes)


def _draw_rate(axes, points):
  steps, values = zip(*points)
  axes.plot(steps, values, color=COLOURS[2], linewidth=2)
  axes.set_ylabel("learning rate", fontsize=12)
  axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _draw_scores(axes, scores):
  _draw_points(axes, scores, 0)
  axes.set_ylabel("scores", fontsize=12)
  _add_legend(axes)


def _draw_points(axes, curves, first_colour):
  """Lines with a mark at each point, in different colours and marks."""
  for index, (name, points) in enumerate(curves.items()):
    steps, values = zip(*points)
    axes.plot(steps, values, label=plain(name), linewidth=2,
              color=COLOURS[(first_colour + index) % len(COLOURS)],
              marker="osD^vP"[index % 6] if len(points) <= 60 else None,
              markersize=5)


def _mark_best(axes, best, shown):
  """A line at the best step; a star where its score is among the `shown`."""
  axes.axvline(best["step"], color="black", linewidth=1, linestyle=":")
  if best["metric"] in shown:
    axes.plot([best["step"]], [best["score"]], marker="*", markersize=17,
              color="black", linestyle="none")
    axes.set_title(plain(f"★ best {best['metric']} {best['score']:.4f}, "
                         f"step {best['step']}"), loc="right", fontsize=11)


def _add_legend(axes):
  axes.legend(fontsize=10, framealpha=0.6)


def style_axes(axes):
  """What all pictures have in common: a grid, no box, numbers to read."""
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=11)
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.margins(x=0.02)
