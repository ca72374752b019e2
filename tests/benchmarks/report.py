"""What was measured, as JSON and as tables."""

import json
import os

# Key of a row -> (title, format). A table has those that some row has.
COLUMNS = {
    "cpu_ms_per_row": ("CPU ms a row", "{:.3g}"),
    "wall_ms_per_row": ("ms a row", "{:.3g}"),
    "rows_per_s": ("rows/s", "{:.3g}"),
    "rows_per_cpu_s": ("rows per CPU-s", "{:.3g}"),
    "tokens_per_s": ("tokens/s", "{:.0f}"),
    "gflops_per_s": ("GFLOP/s", "{:.1f}"),
    "gflops_per_cpu_s": ("GFLOP per CPU-s", "{:.1f}"),
    "share": ("share of product", "{:.2f}"),
    "share_of_step": ("share of a step", "{:.4f}"),
    "cpu_ratio": ("times as fast, CPU", "{:.2f}"),
    "wall_ratio": ("times as fast, clock", "{:.2f}"),
    "peak_mib": ("peak MiB", "{:.0f}")}


def write(path, report, write_text):
  """Writes bench.json and bench.md.

  Args:
    path: string, the folder.
    report: dict section -> dict, see `section_markdown`.
    write_text: function of a path and a text.
  """
  write_text(os.path.join(path, "bench.json"),
             json.dumps(report, indent=1) + "\n")
  write_text(os.path.join(path, "bench.md"), "\n".join(
      section_markdown(name, section) for name, section in report.items()))


def section_markdown(name, section):
  """A section as Markdown.

  Args:
    name: string.
    section: dict: "about" (string), "commit", "date", "machine" (dict),
      and "rows" (list of dict: "case", "who", what COLUMNS names or "missing")
      or "tables" (list of dict: "title", "columns" (list of string), "rows"
      (list of list)) or "lines" (list of string).
  """
  lines = [f"## {name}", "", section["about"], "", _origin(section), ""]
  if section.get("rows"):
    lines += _table(*rows_table(section["rows"], section.get("columns")))
  for table in section.get("tables", []):
    lines += [table["title"], ""] + _table(table["columns"], table["rows"])
  if section.get("lines"):
    lines += ["```", *section["lines"], "```", ""]
  return "\n".join(lines)


def _origin(section):
  """Where the numbers are from, a sentence."""
  machine = section["machine"]
  processor = machine["processor"]
  versions = ", ".join(f"{key} {value}"
                       for key, value in machine["versions"].items())
  return (f"Commit {section['commit']}, {section['date']}; {processor['name']} "
          f"({machine['threads']} threads, "
          f"{'with' if processor['bf16'] else 'without'} bfloat16, oneDNN "
          f"{'on' if processor['onednn'] else 'off'}); {versions}.")


def rows_table(rows, columns=None):
  """(titles, list of list of string) of measured rows.

  Args:
    rows: list of dict, see `section_markdown`.
    columns: list of keys of COLUMNS; None: those that some row has.
  """
  columns = [key for key in columns or COLUMNS
             if any(row.get(key) is not None for row in rows)]
  titles = [COLUMNS[key][0] for key in columns] or ["result"]
  body = []
  for row in rows:
    if row.get("missing"):
      reason = " ".join(row["missing"].split()).replace("|", "/")
      cells = [f"not measured: {reason}"] + [""] * (len(titles) - 1)
    else:
      cells = ["" if row.get(key) is None else
               COLUMNS[key][1].format(row[key]) for key in columns]
    body.append([row["case"], row["who"], *cells])
  return ["case", "who", *titles], body


def _table(titles, rows):
  """Lines of a Markdown table, and an empty one."""
  def line(cells):
    return f"| {' | '.join(map(str, cells))} |"
  return [line(titles), line(["---"] * len(titles)), *map(line, rows), ""]
