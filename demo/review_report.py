# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The report of `demo.review_upstream` as text, Markdown, HTML or JSON."""

import html
import json
import os
import re
import shutil
import textwrap

# Rows are shown in this order: what needs a look comes first.
_ORDER = ("unknown", "missing upstream", "missing", "changed", "differs",
          "added", "left out", "replaced", "ported", "equal")
_SMALLEST_WIDTH = 100


def summary(report):
  """The failures and their number, as text."""
  lines = [f"FAILS  {failure}" for failure in report["failures"]]
  rows = [row for section in report["sections"] for row in section["rows"]]
  equal = sum(row["status"] == "equal" for row in rows)
  lines.append(
      f"{report['upstream']}: {len(rows)} lines compared, {equal} equal, "
      f"{len(rows) - equal} different; {len(report['failures'])} failures.")
  return "\n".join(lines)


def write(path, text):
  """Writes a report whole: under another name, then renamed."""
  temporary = f"{path}.tmp{os.getpid()}"
  try:
    with open(temporary, "w", encoding="utf-8") as writer:
      writer.write(text + "\n")
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.remove(temporary)


def _sorted_rows(section):
  """A section's rows, failures first, then differences, then equals."""
  return sorted(section["rows"], key=lambda row: (
      not row["failures"], _ORDER.index(row["status"])))


def _sides(row):
  """What a row says of both sides, as one text."""
  if not row["upstream"] or row["upstream"] == row["here"]:
    return row["here"] or row["upstream"]
  if not row["here"]:
    return row["upstream"]
  return f"{row['upstream']} -> {row['here']}"


def terminal(report):
  """Tables of plain text; signatures stand where they differ."""
  width = max(shutil.get_terminal_size().columns, _SMALLEST_WIDTH)
  lines = [f"Upstream: {report['upstream']}"]
  for section in report["sections"]:
    lines += ["", f"{section['title']}  {section['note']}".rstrip()]
    names = [len(row["name"]) for row in section["rows"]]
    first = min(max(names, default=0), 52)
    for row in section["rows"]:
      text = row["shown_by"]
      if row["kind"] not in ("definition", "method") or (
          row["status"] != "equal"):
        text = "; ".join(x for x in (_sides(row), text) if x)
      head = f"  {row['name']:{first}}  {row['status']:8}  "
      indent = " " * (first + 14)
      lines += textwrap.wrap(
          head + text, width, subsequent_indent=indent,
          break_on_hyphens=False) or [head]
      for failure in row["failures"]:
        lines += textwrap.wrap(
            f"FAILS: {failure}", width, initial_indent=indent,
            subsequent_indent=indent, break_on_hyphens=False)
  return "\n".join(lines + ["", summary(report)])


def markdown(report):
  """Tables of GitHub's Markdown, failures first."""
  def cell(text):
    return text.replace("|", "\\|")

  lines = ["# Review against upstream", "", f"{report['upstream']}: "
           f"{len(report['failures'])} failures.", ""]
  lines += [f"- **fails** {failure}" for failure in report["failures"]]
  for section in report["sections"]:
    lines += ["", f"## {section['title']}", "", section["note"], "",
              "| name | status | upstream | here | shown by |",
              "| --- | --- | --- | --- | --- |"]
    for row in _sorted_rows(section):
      status = row["status"] + "".join(
          f"; **fails**: {failure}" for failure in row["failures"])
      here = "the same" if row["here"] == row["upstream"] else row["here"]
      lines.append("| " + " | ".join(map(cell, (
          f"`{row['name']}`", status, row["upstream"], here,
          row["shown_by"]))) + " |")
  return "\n".join(lines)


def as_json(report):
  """The report as it is."""
  return json.dumps(report, indent=1)


def page(report):
  """One HTML page without anything to load: upstream left, here right."""
  failures = "".join(f"<li>{_rich(failure)}" for failure in report["failures"])
  head = (f"<section class=bad><h2>{len(report['failures'])} failures</h2>"
          f"<ul>{failures}</ul></section>" if report["failures"] else
          "<p class=good>No failures.</p>")
  sections = "".join(_section(section) for section in report["sections"])
  return (
      "<!DOCTYPE html><html lang=en><meta charset=utf-8>"
      "<meta name=viewport content='width=device-width,initial-scale=1'>"
      f"<title>Review against upstream</title><style>{_STYLE}</style>"
      f"<h1>Review against upstream</h1><p>{_rich(report['upstream'])}</p>"
      f"{head}<form><input id=text type=search placeholder='Filter by name, "
      "flag, text' aria-label=Filter><select id=kind aria-label='Which rows'>"
      "<option value=all>all</option><option value=different>differences"
      "</option><option value=fails>failures</option></select>"
      "<span id=count></span></form>"
      f"<main>{sections}</main><script>{_SCRIPT}</script></html>")


def _section(section):
  statuses = [row["status"] for row in section["rows"]]
  is_open = any(status not in ("equal", "ported", "replaced", "left out")
                for status in statuses) or any(
                    row["failures"] for row in section["rows"])
  rows = "".join(map(_row, _sorted_rows(section)))
  return (f"<details{' open' if is_open else ''}><summary>"
          f"<h2>{_rich(section['title'])}</h2> <small>{_rich(section['note'])}"
          f"</small></summary><div class='row head'><b>upstream</b><b>here</b>"
          f"</div>{rows}</details>")


def _row(row):
  """A row: name and status over two columns, or one where they are equal."""
  entry = row["entry"] or {}
  sides = []
  for side, bullets in (("upstream", ("Upstream", "Habana")),
                        ("here", ("Here", "Why", "Effect"))):
    other = row["here" if side == "upstream" else "upstream"]
    text = (_rich(row[side]) if row["kind"] == "entry" else
            f"<code>{_marked(row[side], other)}</code>" if row[side] else "")
    text += "".join(f"<p><i>{name}</i> {_rich(entry[name])}"
                    for name in bullets if entry.get(name))
    sides.append(text)
  if row["upstream"] == row["here"] and not entry:
    columns = f"<div class=both>{sides[0]}</div>"
  else:
    columns = (f"<div data-side=upstream>{sides[0]}</div>"
               f"<div data-side=here>{sides[1]}</div>")
  said = "".join(f"<p class=bad>{_rich(failure)}"
                 for failure in row["failures"])
  shown = (f"<small class=shown>Shown by {_rich(row['shown_by'])}</small>"
           if row["shown_by"] else "")
  status = "fails" if row["failures"] else row["status"]
  return (f"<article data-status='{status}'><h3>{html.escape(row['name'])}"
          f"</h3><span class='tag {status.split()[0]}'>{status}</span>{said}"
          f"<div class=row>{columns}</div>{shown}</article>")


def _marked(text, other):
  """Escaped text in which what `other` has not is marked, if there is one."""
  words = set(re.split(r"[ (),:]+", other))
  return "".join(
      f"<mark>{html.escape(part)}</mark>"
      if other and place % 2 == 0 and part not in words else html.escape(part)
      for place, part in enumerate(re.split(r"([ (),:]+)", text)) if part)


def _rich(text):
  """Escaped text, with what stands in backticks as code."""
  return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


_STYLE = """
:root{color-scheme:light dark;--line:#8884;--bad:#c62828;--good:#2e7d32;
--new:#1565c0;--other:#8a5a00}
@media(prefers-color-scheme:dark){:root{--bad:#ff8a80;--good:#81c784;
--new:#90caf9;--other:#ffcc80}}
*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1200px;
padding:12px}
h1{font-size:1.4em;margin:.2em 0}h2{font-size:1.1em;display:inline}
h3{font:600 1em ui-monospace,monospace;display:inline;overflow-wrap:anywhere}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
form{position:sticky;top:0;background:Canvas;padding:8px 0;display:flex;gap:8px;
align-items:center;border-bottom:1px solid var(--line);z-index:1}
input,select{font:inherit;padding:6px 8px;min-width:0}input{flex:1}
summary{cursor:pointer;padding:10px 0}small{opacity:.8}
article{border-top:1px solid var(--line);padding:8px 0}
.row{display:grid;grid-template-columns:1fr 1fr;gap:16px;margin:4px 0}
.row>div{min-width:0}.both{grid-column:1/3}p{margin:4px 0}
.tag{font-size:.8em;border:1px solid;border-radius:9px;padding:0 7px;
margin-left:8px;white-space:nowrap}
.bad,.fails,.unknown,.missing{color:var(--bad)}.good,.equal{color:var(--good)}
.added{color:var(--new)}.changed,.differs,.replaced,.left{color:var(--other)}
mark{background:#fb04;color:inherit}
.shown{display:block;overflow-wrap:anywhere}
@media(max-width:600px){.row{grid-template-columns:1fr;gap:4px}
.both{grid-column:1}.head{display:none}
form{flex-wrap:wrap}input{flex-basis:100%}
[data-side]:not(:empty)::before{content:attr(data-side);font-size:.75em;
opacity:.8;display:block}}
"""

_SCRIPT = """
const text=document.getElementById('text'),kind=document.getElementById('kind');
const rows=[...document.querySelectorAll('article')];
const same=['equal','ported'];
function show(){const wanted=text.value.toLowerCase();let count=0;
for(const row of rows){const status=row.dataset.status;
const fits=(kind.value==='all'||(kind.value==='fails'?status==='fails':
!same.includes(status)))&&row.textContent.toLowerCase().includes(wanted);
row.hidden=!fits;count+=fits}
for(const part of document.querySelectorAll('details')){
const left=part.querySelector('article:not([hidden])');part.hidden=!left;
if(left&&(wanted||kind.value!=='all'))part.open=true}
document.getElementById('count').textContent=count+' of '+rows.length}
text.oninput=kind.onchange=show;
document.querySelector('form').onsubmit=()=>false;show();
"""

FORMATS = {"terminal": terminal, "md": markdown, "html": page, "json": as_json}
