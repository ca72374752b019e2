# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Asks a model server, once or as fast as it answers, and reports.

  python -m demo.bert_client --pair "It is late." --pair "The hour is late."
  python -m demo.bert_client --question "When?" --context "It opens at nine."
  python -m demo.bert_client --task_name MRPC --data_dir glue/MRPC \
    --clients 96 --cycle 128 --save_accuracy report.json

Rows are sent as text (signatures `serve_texts` and `serve_questions` of
demo.bert_server) or as token ids (`serving_default` of any TensorFlow Serving).
"""

# Not absl and script_helpers: these load TensorFlow, 4 s and 400 MB for each of
# the many processes that clients may be.
import argparse
import contextlib
import json
import math
import os
import sys
import time

from demo import answer_scores
from demo import client_helpers

# Rows made ready by --save_rows begin with a line that says so.
_ROWS_FORMAT = "demo.bert_client rows 1"
_SIGNATURES = {"texts": "serve_texts", "questions": "serve_questions"}


def parse_arguments(arguments):
  """Parses the command line.

  Args:
    arguments: list of string.

  Returns:
    argparse.Namespace.

  Raises:
    ValueError: what is given can't work.
  """
  parser = _Parser(
      prog="python -m demo.bert_client", allow_abbrev=False,
      description="Sends rows to a model server and reports.")
  add = parser.add_argument
  add("--host", default="127.0.0.1", help="the server (default: this machine)")
  add("--port", type=int, default=8500, help="its gRPC port")
  add("--rest_port", type=int, default=8501,
      help="its REST port, which also tells the models that it has")
  add("--rest", action="store_true", help="REST instead of gRPC")
  add("--model", help="name of the model (default: the only one)")
  add("--wait", type=float, default=0.0, metavar="SECONDS",
      help="wait so long at most for a server that is starting")
  _add_source_flags(parser.add_argument_group("what is asked, one of"))
  _add_column_flags(parser.add_argument_group("columns of --data_file"))
  _add_load_flags(parser.add_argument_group("how it is sent"))
  _add_result_flags(parser.add_argument_group("what is made of the answers"))
  options = parser.parse_args(arguments)
  _check_options(options)
  return options


def _add_source_flags(group):
  """Adds the flags that name rows."""
  add = group.add_argument
  add("--pair", action="append", metavar="TEXT",
      help="a text to classify; twice for a pair")
  add("--question", help="a question, with --context")
  add("--context", help="the text that it is about")
  add("--task_name",
      help="a GLUE task, with --data_dir or a file of it as --data_file")
  add("--data_dir", help="folder of the task's .tsv files")
  add("--split", choices=["train", "dev", "test"], default="dev",
      help="which set of --data_dir (default: dev)")
  add("--data_file",
      help="a .tsv, .csv or .jsonl file, or a SQuAD JSON file")
  add("--squad", action="store_true",
      help="--data_file is a SQuAD JSON file (default: as the model tells)")
  add("--rows", metavar="FILE",
      help="rows of --save_rows, which need no TensorFlow to read")


def _add_column_flags(group):
  """Adds the flags that name columns, by the names that the scripts have."""
  for name, role in (("text_a", "first text"), ("text_b", "second text"),
                     ("label", "label")):
    group.add_argument(f"--{name}", metavar="COLUMN", help=f"name or number "
                       f"of the {role}'s (default: by the usual names)")
  group.add_argument("--has_header", choices=["auto", "yes", "no"],
                     default="auto", help="whether the first line names them")


def _add_load_flags(group):
  """Adds the flags that tell how rows are sent."""
  add = group.add_argument
  add("--cycle", type=int,
      help="requests of each client (default: each row once in all)")
  add("--clients", type=int, default=1,
      help="clients at the same time, each waits for its answer")
  add("--rate", type=float,
      help="requests per second in all, sent at random times whether or not "
      "earlier ones are answered")
  add("--seed", type=int, default=1, help="of these times")
  add("--duration", type=float, metavar="SECONDS",
      help="send nothing new after that time")
  add("--batch", type=int, default=1, help="rows of a request")
  add("--timeout_ms", type=int, default=60000,
      help="time that an answer may take")
  add("--send", choices=["text", "ids"], default="text",
      help="raw text, or token ids that the client makes with the vocabulary "
      "of --export_dir")
  add("--export_dir", help="the model's export, for --send=ids")


def _add_result_flags(group):
  """Adds the flags that tell what becomes of rows and answers."""
  add = group.add_argument
  add("--save_accuracy", metavar="FILE", help="write the report as JSON")
  add("--check", metavar="EXPORT_DIR",
      help="compare each answer with this model's offline prediction of the "
      "same row")
  add("--tolerance", type=float, default=1e-3,
      help="largest difference that --check lets pass")
  add("--no_scores", action="store_true",
      help="leave out the scores, which take a second to compute")
  add("--save_rows", metavar="FILE",
      help="write the rows for --rows, and send nothing")


class _Parser(argparse.ArgumentParser):
  """A parser whose errors are those of this project: a line, status 1."""

  def error(self, message):
    raise ValueError(f"{message}. --help lists the flags.")


def _check_options(options):
  """Raises ValueError for flags that can't work."""
  for name, least in (("clients", 1), ("batch", 1), ("timeout_ms", 1),
                      ("cycle", 1)):
    value = getattr(options, name)
    if value is not None and value < least:
      raise ValueError(f"--{name}={value} has to be {least} or more.")
  for name in ("rate", "duration", "tolerance"):
    value = getattr(options, name)
    if value is not None and not 0 < value < float("inf"):
      raise ValueError(f"--{name}={value} has to be above 0.")
  asked = [what for what, is_given in (
      ("--pair", options.pair), ("--question", options.question is not None),
      ("--rows", options.rows),
      ("--data_file or --data_dir", options.data_file or options.data_dir))
      if is_given]
  if len(asked) != 1:
    raise ValueError(
        f"{' and '.join(asked)}: only one can be asked." if asked else
        "What is to be asked? Give --pair, --question and --context, "
        "--data_file, --data_dir with --task_name, or --rows.")
  if (options.question is None) != (options.context is None):
    raise ValueError("--question and --context go together.")
  if options.pair and len(options.pair) > 2:
    raise ValueError(f"--pair is given {len(options.pair)} times, a pair has 2 "
                     f"texts.")
  if options.data_dir and options.data_file:
    raise ValueError("--data_file and --data_dir: only one can be read.")
  if (options.send == "ids") != bool(options.export_dir):
    raise ValueError("--send=ids and --export_dir go together.")
  for path in (options.save_accuracy, options.save_rows):
    folder = os.path.dirname(path or "") or "."
    if not os.access(folder, os.W_OK) or (path and os.path.isdir(path)):
      raise ValueError(f"{path} can't be written.")


# ------------------------------------------------------------------ rows ---


class Rows(object):
  """What is asked.

  Attributes:
    kind: "texts" or "questions".
    task: string, the task's name; None where it isn't known.
    items: list of dict, see `client_rows.read`.
  """

  def __init__(self, task, items):
    self.task, self.items = task, items
    self.kind = "questions" if "question" in items[0] else "texts"

  def save(self, path):
    """Writes them for --rows."""
    with _finished_file(path) as writer:
      for line in ({"format": _ROWS_FORMAT, "task": self.task}, *self.items):
        writer.write(json.dumps(line, ensure_ascii=False) + "\n")

  @classmethod
  def load(cls, path):
    """Reads what `save` wrote; raises ValueError for something else."""
    try:
      with open(path, encoding="utf-8") as reader:
        head, *items = map(json.loads, reader)
      if head["format"] == _ROWS_FORMAT and items:
        return cls(head["task"], items)
    except (ValueError, KeyError, TypeError):
      pass
    raise ValueError(f"--rows={path} was not written by --save_rows: give "
                     f"other files as --data_file.")


@contextlib.contextmanager
def _finished_file(path):
  """A file to write, which gets its name when it is whole."""
  temporary = f"{path}.tmp"
  try:
    with open(temporary, "w", encoding="utf-8") as writer:
      yield writer
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.remove(temporary)
    raise


def read_rows(options, info):
  """The Rows that the flags name.

  Args:
    options: argparse.Namespace.
    info: dict, what the server says of the model; {} if it doesn't.
  """
  if options.pair:
    return Rows(None, [dict(zip(("text_a", "text_b"), options.pair))])
  if options.question is not None:
    return Rows(None, [{"question": options.question,
                        "context": options.context}])
  if options.rows:
    return Rows.load(options.rows)
  from demo import client_rows  # pylint: disable=import-outside-toplevel
  options.squad = options.squad or (
      info.get("kind") == "squad" and not options.task_name)
  return Rows(*client_rows.read(options))


# -------------------------------------------------------------- requests ---


def make_batches(protocol, model, signature, inputs, batch_size):
  """Makes the requests, each row in one; the last one begins again.

  Args:
    protocol: GrpcProtocol or RestProtocol.
    model: string.
    signature: string.
    inputs: list of lists of dict, what the server takes of each row: one dict,
      or one for each window.
    batch_size: int, rows of a request.

  Returns:
    List of client_helpers.Batch.
  """
  batches = []
  for start in range(0, len(inputs), batch_size):
    numbers = [(start + i) % len(inputs) for i in range(batch_size)]
    rows = _padded([row for number in numbers for row in inputs[number]])
    batches.append(client_helpers.Batch(
        numbers, [len(inputs[number]) for number in numbers],
        protocol.request(model, signature, rows)))
  return batches


def _padded(rows):
  """Rows of token ids brought to one length; texts as they are."""
  if not isinstance(next(iter(rows[0].values())), list):
    return rows
  length = max(len(row["input_ids"]) for row in rows)
  return [{name: ids + [0] * (length - len(ids)) for name, ids in row.items()}
          for row in rows]


def _texts_of(row):
  """What the server takes of a row as text."""
  return {name: value for name, value in row.items()
          if name not in ("id", "label", "answers")}


# --------------------------------------------------------------- answers ---


def difference(expected, answer):
  """How far an answer is from what is expected.

  Args:
    expected: dict, see `predictor.Predictor`.
    answer: dict, of the server.

  Returns:
    float: the largest difference of two probabilities (or of the values of a
    regression). Another label or answer counts as much as the offline
    prediction is ahead of it.
  """
  try:
    if "value" in expected:
      value = (answer["value"] if "value" in answer else
               answer["probabilities"][0])
      return abs(value - expected["value"])
    if "answer" in expected:
      return _answer_difference(expected, answer)
    wanted = expected["probabilities"]
    found = max(map(lambda x, y: abs(x - y), wanted.values(),
                    answer["probabilities"]))
    if len(wanted) != len(answer["probabilities"]):
      return float("inf")
    label = answer.get("label", expected["label"])
    return max(found, wanted[expected["label"]] - wanted[label])
  except (KeyError, TypeError):
    return float("inf")


def _answer_difference(expected, answer):
  """`difference` of answers to a question: of each of the n-best."""
  def by_place(nbest):
    return {(entry["text"], entry["start"] if entry["text"] else None):
            entry["probability"] for entry in nbest}

  wanted, found = by_place(expected["nbest"]), by_place(
      answer_scores.nbest_of(answer))
  differences = [abs(wanted.get(place, 0.0) - found.get(place, 0.0))
                 for place in {*wanted, *found}]
  if answer["answer"] != expected["answer"]:
    differences.append(abs(
        expected["probability"] - next(
            (entry["probability"] for entry in expected["nbest"]
             if entry["text"] == answer["answer"]), -1.0)))
  return max(differences)


def shown(answer):
  """An answer in words, for a lone question (string)."""
  if "value" in answer:
    return f"{answer['value']:.4f}"
  if "answer" in answer:
    return (f"{answer['answer'] or '(no answer)'}  "
            f"[probability {answer['probability']:.4f}]")
  probabilities = ", ".join(f"{x:.4f}" for x in answer["probabilities"])
  return f"{answer['label']}  [probabilities {probabilities}]"


# ---------------------------------------------------------------- report ---


def make_report(options, name, rows, tally):
  """What came of a run, as JSON will have it.

  Args:
    options: argparse.Namespace.
    name: string, the model.
    rows: Rows.
    tally: client_helpers.Tally.

  Returns:
    Dict.
  """
  seconds = max(tally.seconds, 1e-9)
  report = {
      "model": name, "protocol": "REST" if options.rest else "gRPC",
      "send": options.send, "clients": options.clients, "rate": options.rate,
      "batch": options.batch, "requests": tally.num_requests,
      "errors": {status: count for status, count in sorted(
          tally.statuses.items()) if status != client_helpers.OK},
      "messages": tally.messages, "seconds": tally.seconds,
      "requests_per_second": tally.latencies.count / seconds,
      "rows_per_second": tally.num_answers / seconds,
      "latency_ms": tally.latencies.summary(),
      "rows": len(rows.items), "rows_answered": len(tally.answers)}
  if options.check:
    largest = tally.largest_difference
    report["check"] = {
        "export_dir": options.check, "answers": tally.num_answers,
        # JSON has no infinity.
        "largest_difference": largest if math.isfinite(largest) else None,
        "tolerance": options.tolerance,
        "passed": largest <= options.tolerance,
        "worst_row": tally.worst_row}
  return report


def table(report):
  """The lines of a report for people (list of string)."""
  lines = [
      ("model", f"{report['model']}, {report['protocol']}, "
       f"{report['clients']} client(s)" + (
           f", {report['rate']:g} requests/s wanted" if report["rate"]
           else "")),
      ("requests", f"{report['requests']} of {report['batch']} row(s), "
       f"{sum(report['errors'].values())} error(s), "
       f"{report['seconds']:.2f} s"),
      *(("  " + status, f"{count}: {report['messages'][status]}")
        for status, count in report["errors"].items()),
      ("throughput", f"{report['rows_per_second']:.1f} rows/s")]
  if report["latency_ms"]["mean"] is not None:
    lines.append(("latency, ms", "  ".join(
        f"{name} {value:.2f}" for name, value in report["latency_ms"].items())))
  lines.extend((name, f"{value:.4f}")
               for name, value in report["scores"].items()
               if not name.endswith("total"))
  if report["scored_rows"]:
    lines.append(("rows scored", str(report["scored_rows"])))
  if "not_scored" in report:
    lines.append(("not scored", report["not_scored"]))
  if "check" in report:
    check = report["check"]
    largest = check["largest_difference"]
    largest = "infinite" if largest is None else f"{largest:.3g}"
    lines.append(("check", f"largest difference {largest} "
                  f"of {check['answers']} answers" + (
                      "" if check["passed"] else
                      f", at row {check['worst_row']}: more than --tolerance="
                      f"{check['tolerance']:g}")))
  width = max(len(name) for name, _ in lines)
  return [f"{name:<{width}}  {value}" for name, value in lines]


# ------------------------------------------------------------------ main ---


def find_model(options):
  """Finds the model to ask.

  Args:
    options: argparse.Namespace.

  Returns:
    (name, info): string, and dict with what the server says of the model, {}
    if it says nothing.

  Raises:
    ValueError: there is no server, or no such model.
  """
  until = time.monotonic() + options.wait
  models = client_helpers.fetch_models(options.host, options.rest_port)
  while not _are_loaded(models, options.model) and time.monotonic() < until:
    time.sleep(0.2)
    models = client_helpers.fetch_models(options.host, options.rest_port)
  if models is None:
    if options.model:
      return options.model, {}
    raise ValueError(
        f"nobody lists models on {options.host}:{options.rest_port} "
        f"(--rest_port). Start python -m demo.bert_server, or name the --model "
        f"of another server.")
  found = {model["name"]: model.get("info") or {} for model in sorted(
      models, key=lambda model: int(model.get("version") or 0))}
  if options.model is None and len(found) == 1:
    return next(iter(found.items()))
  if options.model not in found:
    raise ValueError(
        f"--model={options.model}: the server has {', '.join(found) or 'none'}."
        if options.model else
        f"which --model? The server has {', '.join(found) or 'none'}.")
  return options.model, found[options.model]


def _are_loaded(models, name):
  """Whether a list of models is there, and the one of a name ready.

  Args:
    models: see `client_helpers.fetch_models`.
    name: string; None for all of them.
  """
  return models is not None and not any(
      model.get("state") == "LOADING" for model in models
      if name in (None, model["name"]))


def run(options):
  """Does what the flags say.

  Args:
    options: argparse.Namespace of `parse_arguments`.

  Returns:
    int, the exit status: 0 if all was answered, and rightly.

  Raises:
    ValueError: the flags, the files or the server don't allow it.
  """
  if options.save_rows:
    rows = read_rows(options, {})
    rows.save(options.save_rows)
    print(f"{options.save_rows}: {len(rows.items)} rows")
    return 0
  name, info = find_model(options)
  rows = read_rows(options, info)
  if info and (info.get("kind") == "squad") != (rows.kind == "questions"):
    wanted = ("questions (--question and --context, or a SQuAD file)"
              if info.get("kind") == "squad" else "texts (--pair, or a table)")
    raise ValueError(f"The model {name} takes {wanted}.")
  codec = None
  if options.send == "ids":
    from demo import client_rows  # pylint: disable=import-outside-toplevel
    codec = client_rows.Codec(options.export_dir)
  tally, stopped = _load(options, name, rows, codec)
  report = make_report(options, name, rows, tally)
  answers = tally.answers
  if codec:
    info = codec.info
    answers = {number: codec.answer(rows.items[number], outputs)
               for number, outputs in answers.items()}
  try:
    found, count = ({}, 0) if options.no_scores else answer_scores.scores(
        rows.kind, rows.task, rows.items, answers, info.get("labels") or [])
    report.update(scores=found, scored_rows=count)
  except ValueError as error:  # The rest of the report is worth having.
    report.update(scores={}, scored_rows=0, not_scored=str(error))
  _show(options, rows, answers, report)
  if stopped:
    return 128 + stopped
  is_right = not options.check or report["check"]["passed"]
  return 0 if is_right and not tally.num_errors and tally.num_answers else 1


def _load(options, name, rows, codec):
  """Sends the requests; returns (Tally, the signal that ended it or None)."""
  compare = None
  if options.check:
    if codec and rows.kind == "questions":
      raise ValueError("--check compares the answers to questions as the "
                       "server gives them: leave --send=ids out.")
    from demo import client_rows  # pylint: disable=import-outside-toplevel
    expected = client_rows.predict(options.check, rows.items)

    def compare(number, answer):
      return difference(expected[number], answer)

  protocol = (client_helpers.RestProtocol(options.host, options.rest_port)
              if options.rest else
              client_helpers.GrpcProtocol(options.host, options.port))
  if codec:
    inputs = [[window._asdict() for window in windows]
              for windows in codec.ids(rows.items)]
    signature = "serving_default"
  else:
    inputs = [[_texts_of(row)] for row in rows.items]
    signature = _SIGNATURES[rows.kind]
  batches = make_batches(protocol, name, signature, inputs, options.batch)
  tally = client_helpers.Tally(protocol, compare)
  cycle = options.cycle
  if cycle is None and options.duration is None:
    cycle = -(-len(batches) // options.clients)
  try:
    stopped = client_helpers.run_load(protocol, batches, client_helpers.Load(
        options.clients, cycle, options.duration, options.rate, options.seed,
        options.timeout_ms / 1e3), tally, options.wait)
  except ConnectionError:
    raise ValueError(
        f"nobody answers on {options.host}:"
        f"{options.rest_port if options.rest else options.port} "
        f"({protocol.name}). Is python -m demo.bert_server there, and started "
        f"with that port? --wait waits for one that starts.") from None
  return tally, stopped


def _show(options, rows, answers, report):
  """Prints answers and report, and writes the latter."""
  if len(rows.items) == 1 and answers:
    print(shown(answers[0]))
  if report["requests"] == 1 and answers and not options.check:
    print(f"answered in {report['latency_ms']['max']:.1f} ms")
  else:
    print("\n".join(table(report)), flush=True)
  if options.save_accuracy:
    with _finished_file(options.save_accuracy) as writer:
      json.dump(report, writer, indent=2)
      writer.write("\n")


def main():
  """Runs the command line."""
  try:
    sys.exit(run(parse_arguments(sys.argv[1:])))
  except (ValueError, OSError) as error:
    print(f"bert_client: error: {' '.join(str(error).split())}",
          file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:  # Before anything was sent.
    sys.exit(130)


if __name__ == "__main__":
  main()
