# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The report of `demo.runs` as text, JSON, a picture and an HTML page."""

import base64
import collections
import html
import json

from demo import curve_helpers

# Paper and ink.
_LIGHT, _DARK = ("#ffffff", "#202020"), ("#121212", "#e0e0e0")
# Lines, for matplotlib and as a stroke-dasharray.
_DASHES = (("-", ""), ("--", "6 3"), (":", "2 2"), ("-.", "7 2 2 2"),
           ((0, (12, 3)), "13 4"))
_MAX_LABEL = 58  # Characters of a run's name in the picture.
_MAX_FAINT = 3  # Runs of which the jitter of the loss is shown too.
_WIDE, _NARROW = (8.6, 3.6), (3.6, 3.0)  # Charts of the page, 100 pixels.

# title, text, value to sort by (a number or string, None for nothing)
_Cell = collections.namedtuple("_Cell", "title text value")


def as_json(report):
  """The report as it is; see `runs.compare`."""
  return json.dumps(report, indent=2)


def terminal(report):
  """Tables of plain text: the runs, the seeds, what is damaged."""
  rows = []
  for run in report["runs"]:
    cells = _cells(run)
    params = " ".join(f"{cell.title}={cell.text}"
                      for cell in _params(run, report["differing"])
                      if cell.value is not None)
    if run["is_best"]:
      cells[0] = cells[0]._replace(text=f"{cells[0].text} *")
    rows.append(cells + [_Cell("differs", params, params)])
  lines = _aligned([[cell.title for cell in rows[0]]] +
                   [[cell.text for cell in row] for row in rows])
  if any(run["is_best"] for run in report["runs"]):
    lines += ["", "* the best of its task and score"]
  if report["groups"]:
    lines += ["", "Seeds: mean +/- standard deviation (number of runs)"]
    lines += _aligned([
        [group["name"], ", ".join(
            f"{name} {_deviation(found, '+/-')}"
            for name, found in group["scores"].items()),
         f"best: {group['best']}" if group["best"] else ""]
        for group in report["groups"]])
  notes = _notes(report)
  return "\n".join(lines + ([""] if notes else []) + notes)


def _aligned(rows):
  """Rows of text as lines; the columns that are empty throughout are left out.
  """
  columns = [column for column in zip(*rows)
             if any(column[1:]) or len(rows) == 1]
  widths = [max(map(len, column)) for column in columns]
  return ["  ".join(text.ljust(width) for text, width in zip(row, widths))
          .rstrip() for row in zip(*columns)]


def _cells(run):
  """What the tables say of a run, without its parameters."""
  best, final = run["best"], run["final"]
  best_text = best_step = ""
  if best:
    best_step = "" if best["step"] is None else f" at {best['step']}"
    best_text = f"{best['metric']} {best['score']:.4f}{best_step}"
  final_text = ", ".join(f"{name} {value:.4f}"
                         for name, value in final["scores"].items())
  if final_text and final["step"] not in (None, run["steps"]):
    final_text += f" (step {final['step']})"
  speed = run["examples_per_second"]
  return [
      _Cell("run", run["name"], run["name"]),
      _Cell("task", run["task"] or run["experiment"] or "",
            run["task"] or run["experiment"]),
      _Cell("state", run["state"], run["state"]),
      _Cell("steps", str(run["steps"]), run["steps"]),
      _Cell("best", best_text, best and best["score"]),
      _Cell("final scores", final_text, final_text or None),
      _Cell("examples/s", "" if speed is None else f"{speed:.1f}", speed),
      _Cell("time", _duration(run["seconds"]), run["seconds"])]


def _params(run, differing):
  """A cell for each parameter that is not the same in all runs."""
  ends = [key.rpartition(".")[2] for key in differing]
  cells = []
  for key, end in zip(differing, ends):
    value = run["params"].get(key)
    text = curve_helpers.printable("" if value is None else value)
    is_number = isinstance(value, (int, float)) and (
        not isinstance(value, bool))
    cells.append(_Cell(
        curve_helpers.printable(end if ends.count(end) == 1 else key), text,
        value if is_number else text or None))
  return cells


def _duration(seconds):
  """Seconds as h:mm:ss."""
  if seconds is None:
    return ""
  minutes, seconds = divmod(int(round(seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


def _deviation(found, sign):
  """Mean, deviation and number of a score."""
  deviation = "" if found["sd"] is None else f" {sign} {found['sd']:.4f}"
  return f"{found['mean']:.4f}{deviation} ({found['n']})"


def _notes(report):
  return [note for run in report["runs"] for note in run["notes"]]


def _styles(report):
  """Name of a run -> (colour, index in _DASHES).

  The runs of a group have the same colour, and no line is there twice before
  all have been used.
  """
  family = {name: group["name"] for group in report["groups"]
            for name in group["runs"]}
  colours, used, styles = {}, collections.Counter(), {}
  for run in report["runs"]:
    name = run["name"]
    key = family.get(name, f"run {name}")
    index = colours.setdefault(key, len(colours))
    colour = curve_helpers.COLOURS[index % len(curve_helpers.COLOURS)]
    styles[name] = colour, used[colour] % len(_DASHES)
    used[colour] += 1
  return styles


class _Chart(object):
  """What is drawn together.

  Attributes:
    title: string.
    is_loss: bool, the loss of training, else a score.
    lines: list of (run, list of (step, value)).
  """

  def __init__(self, title, is_loss, lines):
    self.title, self.is_loss, self.lines = title, is_loss, lines


def _charts(report, curves):
  """The charts that there are points for: loss, and the score of each task."""
  runs = report["runs"]
  charts = [_Chart("loss of the training", True, [
      (run, curves[run["name"]].train.get("loss")) for run in runs])]
  measures = collections.Counter(
      (run["task"], run["best"]["metric"]) for run in runs if run["best"])
  for (task, metric), _ in measures.most_common():
    charts.append(_Chart(
        f"{task} {metric}" if task else metric, False, [
            (run, curves[run["name"]].scores.get(metric)) for run in runs
            if run["best"] and run["task"] == task and
            run["best"]["metric"] == metric]))
  for chart in charts:
    chart.lines = [(run, points) for run, points in chart.lines if points]
  return [chart for chart in charts if chart.lines]


def picture(report, curves):
  """The curves of all runs as one picture.

  Args:
    report: dict, see `runs.compare`.
    curves: dict name of a run -> Curves.

  Returns:
    bytes, a PNG of 1200 pixels width.
  """
  from matplotlib import figure as figures
  from matplotlib import lines as artists

  charts, styles = _charts(report, curves), _styles(report)
  shown = [run["name"] for run in report["runs"] if any(
      run is other for chart in charts for other, _ in chart.lines)]
  legend_rows = -(-len(shown) // 2)
  figure = figures.Figure(
      figsize=(12, 0.4 + 3.6 * max(len(charts), 1) + 0.24 * legend_rows),
      dpi=100, layout="constrained", facecolor=_LIGHT[0])
  if not charts:
    figure.text(0.5, 0.5, "no curves: these runs have no points of TensorBoard",
                ha="center", fontsize=14)
    return curve_helpers.as_png(figure)
  rows = figure.subplots(len(charts), 1, squeeze=False)
  for (axes,), chart in zip(rows, charts):
    _draw(axes, chart, styles, _LIGHT[1])
    axes.set_ylabel(curve_helpers.plain(chart.title), fontsize=12)
    axes.set_xlabel("training steps", fontsize=12)
  legend = figure.legend(
      [artists.Line2D([], [], color=styles[name][0], linewidth=2,
                      linestyle=_DASHES[styles[name][1]][0])
       for name in shown], ["run"] * len(shown), loc="outside lower center",
      ncols=2, fontsize=10, frameon=False, handlelength=3.5)
  # A legend drops labels that begin with an underscore.
  for text, name in zip(legend.get_texts(), shown):
    text.set_text(curve_helpers.plain(
        name if len(name) <= _MAX_LABEL else f"…{name[-_MAX_LABEL:]}"))
  return curve_helpers.as_png(figure)


def _draw(axes, chart, styles, ink):
  """Draws the curves of a _Chart; a star is the best of its kind."""
  for run, points in chart.lines:
    colour, dash = styles[run["name"]]
    steps, values = zip(*points)
    if chart.is_loss:
      if len(chart.lines) <= _MAX_FAINT:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
      _, values = zip(*curve_helpers.smoothed(points))
    axes.plot(steps, values, color=colour, linewidth=1.8,
              linestyle=_DASHES[dash][0], markersize=4,
              marker=None if chart.is_loss or len(points) > 40 else "o")
    if run["is_best"] and not chart.is_loss and run["best"]["step"] is not None:
      axes.plot([run["best"]["step"]], [run["best"]["score"]], marker="*",
                markersize=15, color=colour, markeredgecolor=ink, zorder=5)
  curve_helpers.style_axes(axes)


def page(report, curves):
  """One HTML page without anything to load.

  Args: see `picture`.

  Returns:
    string.
  """
  styles = _styles(report)
  states = collections.Counter(
      run["state"].split(",")[0].split(" at ")[0] for run in report["runs"])
  head = (f"{len(report['runs'])} runs: " + ", ".join(
      f"{count} {state}" for state, count in states.most_common()) + ".")
  notes = "".join(f"<li>{html.escape(note)}" for note in _notes(report))
  charts = "".join(_figure(chart, styles)
                   for chart in _charts(report, curves))
  legend = "".join(
      f"<li>{_swatch(*styles[run['name']])} {html.escape(run['name'])}"
      for run in report["runs"])
  return (
      "<!DOCTYPE html><html lang=en><meta charset=utf-8>"
      "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; "
      "img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
      "<meta name=viewport content='width=device-width,initial-scale=1'>"
      f"<title>Runs</title><style>{_STYLE}</style><h1>Runs</h1>"
      f"<p>{html.escape(head)}</p>"
      + (f"<section class=bad><h2>Damaged files</h2><ul>{notes}</ul></section>"
         if notes else "")
      + (f"<div id=charts>{charts}</div><ul id=legend>{legend}</ul>"
         if charts else "<p>No curves: these runs have no points of "
         "TensorBoard.</p>")
      + _groups_table(report) + _runs_table(report, styles)
      + f"<script>{_SCRIPT}</script></html>\n")


def _figure(chart, styles):
  """A chart in two sizes and two colours; the browser takes what fits."""
  def image(size, colours):
    content = base64.b64encode(_image(chart, styles, size, colours))
    return f"data:image/png;base64,{content.decode()}"

  sources = "".join(
      f"<source media='{media}' srcset='{image(size, colours)}'>"
      for media, size, colours in (
          ("(max-width:600px) and (prefers-color-scheme:dark)", _NARROW, _DARK),
          ("(max-width:600px)", _NARROW, _LIGHT),
          ("(prefers-color-scheme:dark)", _WIDE, _DARK)))
  title = html.escape(chart.title, quote=True)
  return (f"<figure><figcaption>{title}</figcaption><picture>{sources}"
          f"<img alt='{title} of {len(chart.lines)} runs against training "
          f"steps' src='{image(_WIDE, _LIGHT)}'></picture></figure>")


def _image(chart, styles, size, colours):
  """A chart as the bytes of a PNG, sharp on a screen of fine pixels."""
  from matplotlib import figure as figures

  paper, ink = colours
  figure = figures.Figure(figsize=size, layout="constrained", facecolor=paper)
  axes = figure.subplots()
  axes.set_facecolor(paper)
  _draw(axes, chart, styles, ink)
  axes.set_xlabel("training steps", color=ink, fontsize=11)
  axes.tick_params(colors=ink)
  for spine in axes.spines.values():
    spine.set_color(ink)
  return curve_helpers.as_png(figure, dpi=180)


def _swatch(colour, dash):
  return (f"<svg width=34 height=10 aria-hidden=true><line x1=1 x2=33 y1=5 y2=5"
          f" stroke='{colour}' stroke-width=3 "
          f"stroke-dasharray='{_DASHES[dash][1]}'/></svg>")


def _groups_table(report):
  if not report["groups"]:
    return ""
  names = list(dict.fromkeys(
      name for group in report["groups"] for name in group["scores"]))
  rows = [[_Cell("runs", group["name"], group["name"])] + [
      _Cell(name, _deviation(group["scores"][name], "±"),
            group["scores"][name]["mean"])
      if name in group["scores"] else _Cell(name, "", None) for name in names
  ] + [_Cell("best", group["best"] or "", group["best"])]
          for group in report["groups"]]
  return ("<h2>Seeds</h2><p>Mean ± standard deviation (number of runs).</p>"
          + _table(rows, ["" for _ in rows]))


def _runs_table(report, styles):
  rows = [_cells(run) + _params(run, report["differing"])
          for run in report["runs"]]
  marks = [_swatch(*styles[run["name"]]) +
           ("<b class=star title='the best of its task and score'>★</b>"
            if run["is_best"] else "") for run in report["runs"]]
  return "<h2>All runs</h2>" + _table(rows, marks)


def _table(rows, marks):
  """A table that can be sorted.

  Args:
    rows: list of lists of _Cell, with the same titles.
    marks: list of string, HTML before the first cell of each row.
  """
  is_there = [any(row[i].text for row in rows) for i in range(len(rows[0]))]
  rows = [[cell for cell, there in zip(row, is_there) if there]
          for row in rows]
  titles = [html.escape(cell.title) for cell in rows[0]]
  head = "".join(f"<th scope=col><button type=button>{title}</button>"
                 for title in titles)
  options = "".join(f"<option value={i}>{title}"
                    for i, title in enumerate(titles))
  body = "".join(
      "<tr>" + "".join(map(_cell, row, [mark] + [""] * len(row)))
      for row, mark in zip(rows, marks))
  label = (f"<label class=sort>Sort by <select><option value=''>{options}"
           f"</select></label>" if len(rows) > 1 else "<p></p>")
  return (f"{label}<div class=wide><table><thead><tr>{head}</thead>"
          f"<tbody>{body}</tbody></table></div>")


def _cell(cell, mark):
  value = "" if cell.value is None else html.escape(str(cell.value), quote=True)
  kind = " class=number" if isinstance(cell.value, (int, float)) else ""
  return (f"<td{kind} data-title=\"{html.escape(cell.title, quote=True)}\" "
          f"data-value=\"{value}\">{mark}<span>{html.escape(cell.text)}</span>")


_STYLE = """
:root{color-scheme:light dark;--line:#8884;--bad:#c62828;--star:#8a5a00;
--paper:#fff;--ink:#202020}
@media(prefers-color-scheme:dark){:root{--bad:#ff8a80;--star:#ffcc80;
--paper:#121212;--ink:#e0e0e0}}
*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1400px;
padding:12px;background:var(--paper);color:var(--ink)}
h1{font-size:1.4em;margin:.2em 0}h2{font-size:1.1em;margin:1.2em 0 .3em}
p{margin:4px 0}.bad{color:var(--bad);overflow-wrap:anywhere}
#charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,
540px),1fr));gap:12px}
figure{margin:8px 0}figcaption{font-weight:600}
img{width:100%;height:auto;display:block}
#legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 18px;padding:0;
margin:4px 0;font-size:.9em}
#legend li{overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:5px 9px;border-bottom:1px solid var(--line);
vertical-align:top}
.number{font-variant-numeric:tabular-nums;white-space:nowrap}
td:first-child{overflow-wrap:anywhere;min-width:18em}
td[data-title="final scores"]{min-width:13em}
td svg{margin-right:6px}.star{color:var(--star);margin-right:4px}
th button{font:inherit;font-weight:600;background:none;border:0;padding:4px 0;
color:inherit;cursor:pointer;white-space:nowrap}
th[aria-sort=ascending] button::after{content:' ▲'}
th[aria-sort=descending] button::after{content:' ▼'}
.sort{display:none}select{font:inherit;padding:6px}
@media(max-width:600px){.sort{display:block;margin:6px 0}thead{display:none}
table,tbody,tr,td{display:block}tr{border-bottom:2px solid var(--line);
padding:8px 0}td{border:0;padding:2px 0;display:flex;gap:8px}
td:not(:first-child)::before{content:attr(data-title);flex:0 0 8em;opacity:.75;
overflow-wrap:anywhere}
td span{overflow-wrap:anywhere;min-width:0;white-space:normal}
td:first-child{font-weight:600;min-width:0;align-items:baseline}
td[data-value=""]{display:none}td svg{flex:none}}
"""

# A first click sorts numbers from the largest on, text from A on; what is
# missing comes last.
_SCRIPT = """
for(const table of document.querySelectorAll('table')){
const heads=[...table.tHead.rows[0].cells],body=table.tBodies[0];
const select=table.parentNode.previousElementSibling.querySelector('select');
function sort(column,down){
const value=row=>row.cells[column].dataset.value;
const rows=[...body.rows].sort((one,other)=>{
const a=value(one),b=value(other);
if(a===''||b==='')return (a==='')-(b==='');
const order=isNaN(a)||isNaN(b)?a.localeCompare(b,undefined,{numeric:true}):a-b;
return down?-order:order});
heads.forEach((head,i)=>i===column?head.setAttribute('aria-sort',
down?'descending':'ascending'):head.removeAttribute('aria-sort'));
body.append(...rows)}
const first=column=>[...body.rows].some(row=>
row.cells[column].className==='number');
heads.forEach((head,column)=>head.firstChild.onclick=()=>{
const now=head.getAttribute('aria-sort');
sort(column,now?now==='ascending':first(column))});
if(select)select.onchange=()=>{if(select.value!=='')
sort(+select.value,first(+select.value))}}
"""
