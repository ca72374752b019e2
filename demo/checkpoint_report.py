# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What a checkpoint holds, and what two of them differ in, in words or JSON."""

import re

import numpy as np
import tensorflow as tf

from demo import checkpoint_helpers
from demo import hf_checkpoints

_STATISTICS = ("mean", "std", "min", "max")


def describe(variables, with_statistics):
  """Reads a checkpoint through.

  Args:
    variables: checkpoints.Variables.
    with_statistics: bool, mean, standard deviation, minimum and maximum of
      what is finite.

  Returns:
    Dict that JSON takes: path, format, global_step (int or None), variables (a
    dict each), totals of the model and of all, model (sizes that follow from
    the shapes) and not_finite (names).

  Raises:
    ValueError: a value is damaged.
  """
  owners = checkpoint_helpers.slot_owners(variables.names)
  rows, global_step = [], None
  for name in variables.names:
    value = np.asarray(variables.read(name))
    rows.append(_row(name, value, owners.get(name), with_statistics))
    if name == "global_step":
      global_step = int(value)
  model = set(variables.names)
  if variables.format == "tensorflow":
    model = set(checkpoint_helpers.model_variables(variables.names))
  return {
      "path": variables.path, "format": variables.format,
      "global_step": global_step, "variables": rows,
      "totals": {"model": _total(row for row in rows if row["name"] in model),
                 "all": _total(rows)},
      "model": model_sizes(_google_shapes(variables.format, rows)),
      "not_finite": [row["name"] for row in rows if row["nan"] or row["inf"]]}


def _row(name, value, owner, with_statistics):
  """What is said of one variable."""
  is_number = value.dtype != object  # Keras' checkpoints have strings.
  if value.dtype.kind == "V":  # NumPy computes nothing in bfloat16.
    numbers = value.astype(np.float32)
  else:
    numbers = value if is_number else np.zeros([0])
  nan, inf = int(np.isnan(numbers).sum()), int(np.isinf(numbers).sum())
  row = {"name": name, "shape": list(value.shape),
         "dtype": tf.as_dtype(value.dtype).name, "size": value.size,
         "bytes": (value.nbytes if is_number else
                   sum(len(text) for text in value.flat)),
         "slot_of": owner, "nan": nan, "inf": inf}
  if with_statistics:
    if nan or inf:
      numbers = numbers[np.isfinite(numbers)]
    row.update(dict.fromkeys(_STATISTICS))
    if numbers.size:
      row.update(mean=float(numbers.mean(dtype=np.float64)),
                 std=float(numbers.std(dtype=np.float64)),
                 min=float(numbers.min()), max=float(numbers.max()))
  return row


def _total(rows):
  rows = list(rows)
  return {"variables": len(rows), "values": sum(row["size"] for row in rows),
          "bytes": sum(row["bytes"] for row in rows)}


def _google_shapes(form, rows):
  """Dict of Google's name -> shape."""
  shapes = {row["name"]: row["shape"] for row in rows}
  if form == "tensorflow":
    return shapes
  translated, _ = hf_checkpoints.translate(
      {name: np.broadcast_to(0, shape) for name, shape in shapes.items()})
  return {name: list(value.shape) for name, value in translated.items()}


def model_sizes(shapes):
  """The sizes of a BERT that can be told from its variables.

  Args:
    shapes: dict of Google's name -> list of int.

  Returns:
    Dict of bert_config.json's keys, num_labels (None without the layer) and,
    as bool, squad_head, masked_lm_head and next_sentence_head. The number of
    attention heads can't be told.
  """
  shapes = {re.sub("^module/", "", name): shape
            for name, shape in shapes.items()}

  def size(name, axis):
    return shapes[name][axis] if name in shapes else None

  layers = {match[1] for match in (
      re.match(r"bert/encoder/layer_(\d+)/", name) for name in shapes) if match}
  tables = "bert/embeddings/{}_embeddings".format
  return {
      "num_hidden_layers": len(layers),
      "hidden_size": size(tables("word"), 1),
      "intermediate_size": size(
          "bert/encoder/layer_0/intermediate/dense/kernel", 1),
      "vocab_size": size(tables("word"), 0),
      "max_position_embeddings": size(tables("position"), 0),
      "type_vocab_size": size(tables("token_type"), 0),
      "num_labels": size("output_weights", 0),
      "squad_head": "cls/squad/output_weights" in shapes,
      "masked_lm_head": "cls/predictions/output_bias" in shapes,
      "next_sentence_head": "cls/seq_relationship/output_weights" in shapes}


def description_text(report, with_statistics):
  """The table and the totals of `describe`, as lines (string)."""
  slots = {}
  for row in report["variables"]:
    if row["slot_of"]:
      slots.setdefault(row["slot_of"], []).append(
          row["name"][len(row["slot_of"]) + 1:])
  table = [["variable", "shape", "type", "size",
            *(_STATISTICS if with_statistics else ()), "slots"]]
  for row in report["variables"]:
    if not row["slot_of"]:
      table.append([
          row["name"], str(row["shape"]), row["dtype"], str(row["size"]),
          *(_number(row[key]) for key in _STATISTICS if with_statistics),
          " ".join(slots.get(row["name"], ()))])
  totals, step = report["totals"], report["global_step"]
  lines = [f"{report['path']} ({report['format']})", "", *_columns(table), "",
           f"model: {_total_text(totals['model'])}",
           f"with optimizer slots and the like: {_total_text(totals['all'])}",
           f"global step: {'none' if step is None else step}",
           _sizes_text(report["model"])]
  for row in report["variables"]:
    if row["nan"] or row["inf"]:
      lines.append(f"NOT FINITE: {row['name']} has {row['nan']} NaN and "
                   f"{row['inf']} infinite of {row['size']} values")
  return "\n".join(lines)


def _sizes_text(sizes):
  """`model_sizes` in a line."""
  if sizes["hidden_size"] is None:
    return "sizes: not those of a BERT"
  heads = [f"classifier of {sizes['num_labels']} labels"
           if sizes["num_labels"] else None] + [
               words for key, words in (
                   ("squad_head", "SQuAD"), ("masked_lm_head", "masked words"),
                   ("next_sentence_head", "next sentence")) if sizes[key]]
  return (f"sizes: {sizes['num_hidden_layers']} layers, hidden "
          f"{sizes['hidden_size']}, intermediate {sizes['intermediate_size']}, "
          f"vocabulary {sizes['vocab_size']}, positions "
          f"{sizes['max_position_embeddings']}, segments "
          f"{sizes['type_vocab_size']}; output layers: "
          f"{', '.join(filter(None, heads)) or 'none'}")


def compare(first, second):
  """Finds what two checkpoints differ in.

  Args:
    first, second: checkpoints.Variables, of the same names' spelling.

  Returns:
    Dict that JSON takes: paths, missing (names that the second has not), extra
    (that the first has not), shapes and values (a dict for each variable that
    differs; max_difference is None where one has NaN or infinity and the other
    has not), equal (a number) and is_equal.

  Raises:
    ValueError: a value is damaged.
  """
  shapes, values, equal = [], [], 0
  for name in sorted(set(first.names) & set(second.names)):
    a, b = np.asarray(first.read(name)), np.asarray(second.read(name))
    if a.shape != b.shape:
      shapes.append({"name": name, "first": list(a.shape),
                     "second": list(b.shape)})
      continue
    if a.dtype != object:
      a, b = a.astype(np.float64), b.astype(np.float64)
    differs = (a != b) & ((a == a) | (b == b))  # NaN is like NaN here.
    if not differs.any():
      equal += 1
      continue
    largest = (np.abs(a[differs] - b[differs]).max() if a.dtype != object
               else np.nan)
    values.append({
        "name": name, "shape": list(a.shape), "different": int(differs.sum()),
        "max_difference": float(largest) if np.isfinite(largest) else None})
  missing = sorted(set(first.names) - set(second.names))
  extra = sorted(set(second.names) - set(first.names))
  return {
      "paths": [first.path, second.path], "missing": missing, "extra": extra,
      "shapes": shapes, "values": values, "equal": equal,
      "is_equal": not (missing or extra or shapes or values)}


def comparison_text(difference):
  """The outcome of `compare`, as lines (string)."""
  lines = ["first: {}\nsecond: {}".format(*difference["paths"])]
  for title, key in (("only in the first", "missing"),
                     ("only in the second", "extra")):
    if difference[key]:
      lines += ["", f"{title} ({len(difference[key])}):", *difference[key]]
  if difference["shapes"]:
    lines += ["", "other shapes:", *_columns([
        [row["name"], str(row["first"]), str(row["second"])]
        for row in difference["shapes"]])]
  if difference["values"]:
    lines += ["", "other values:", *_columns(
        [["variable", "shape", "different", "max |difference|"]] + [
            [row["name"], str(row["shape"]), str(row["different"]),
             _number(row["max_difference"], "not finite")]
            for row in difference["values"]])]
  return "\n".join(lines + ["", f"equal: {difference['equal']} variables"])


def _number(value, none="-"):
  return none if value is None else f"{value:.4g}"


def _total_text(total):
  return (f"{total['variables']} variables, {total['values']:,} values, "
          f"{total['bytes'] / 1e6:,.1f} MB")


def _columns(table):
  """Lines of a table whose cells stand below each other."""
  widths = [max(map(len, column)) for column in zip(*table)]
  return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths))
          .rstrip() for row in table]
