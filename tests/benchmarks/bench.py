"""Measures speed and memory, beside others where they can be had.

  python -m tests.benchmarks.bench [--sections=train,peers] [--quick]

writes bench.json and bench.md to --output_dir, after each section; sections
that an earlier run measured there stay. docs/benchmarks.md says what each
number means.
"""

import datetime
import functools
import json
import os
import subprocess
import tempfile

from absl import app
from absl import flags

from demo import script_helpers
from tests import conftest
from tests.benchmarks import measure
from tests.benchmarks import model
from tests.benchmarks import report
from tests.benchmarks import sections

FLAGS = flags.FLAGS
_QUICK = dict(sizes=["tiny", "MiniLM"], lengths=["128"],
              configurations=["fp32", "bf16"])
_LEFT_OUT = ("ranks", "squad", "serving")  # Of the short form.


def define_flags():
  flags.DEFINE_list("sections", None, f"Of {', '.join(sections.SECTIONS)}; "
                    f"all, if not given.")
  flags.DEFINE_bool("quick", False, "A short form: fewer cases and turns.")
  flags.DEFINE_list("sizes", list(model.SIZES), "Of the models.")
  flags.DEFINE_list("lengths", [str(x) for x in model.BATCHES], "Tokens.")
  flags.DEFINE_list("configurations", None, "Of the step, with / for each "
                    "comma in a name; see model.py.")
  flags.DEFINE_integer("rounds", None, "Turns of each.", lower_bound=1)
  flags.DEFINE_integer("threads", 2, "Of each contender.", lower_bound=1)
  flags.DEFINE_string("output_dir", "build/bench", "Folder.")
  for name, what in (("glue_dir", "GLUE, for MRPC's rows"),
                     ("vocab_file", "Vocabulary"),
                     ("squad_file", "SQuAD file"),
                     ("export_dir", "Model to serve"),
                     ("data_file", "Rows to send to it")):
    flags.DEFINE_string(name, None, f"{what}.")


def chosen(flag, given, known):
  """The names of a flag.

  Args:
    flag: string.
    given: list of string.
    known: the names that there are.

  Raises:
    ValueError: one is not among them.
  """
  for name in given:
    if name not in known:
      raise ValueError(f"--{flag}: there is no {name}, but "
                       f"{', '.join(map(str, known))}.")
  return given


def make_settings(args, folder):
  """The sections.Settings of the parsed flags."""
  values = {name: getattr(args, name)
            for name in ("sizes", "lengths", "configurations")}
  if args.quick:
    for name, value in _QUICK.items():
      if not args[name].present:
        values[name] = value
  values["configurations"] = [
      name.replace("/", ",") for name in
      values["configurations"] or list(model.CONFIGURATIONS)]
  for name, known in (("sizes", model.SIZES),
                      ("lengths", list(map(str, model.BATCHES))),
                      ("configurations", model.CONFIGURATIONS)):
    chosen(name, values[name], known)
  values["lengths"] = list(map(int, values["lengths"]))
  log_file = os.path.join(args.output_dir, "bench.log")

  def say(line):
    print(line, flush=True)

  paths = {name: getattr(args, name) and os.path.abspath(getattr(args, name))
           for name in ("glue_dir", "vocab_file", "squad_file", "export_dir",
                        "data_file")}
  return sections.Settings(
      folder=folder, quick=args.quick, rounds=args.rounds, say=say,
      run=functools.partial(
          measure.run_group, start=lambda contender: measure.Worker(
              contender, log_file, args.threads), say=say), **values, **paths)


def _git(*arguments):
  """What git prints (string); "" where it has nothing to say."""
  run = subprocess.run(["git", *arguments], cwd=conftest.PROJECT,
                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                       text=True, check=False)
  return run.stdout.strip()


def commit():
  """The commit that is measured (string), and whether files differ from it."""
  name = _git("rev-parse", "--short", "HEAD") or "unknown"
  return name + (" with changes" if _git(
      "status", "--porcelain", "--untracked-files=no") else "")


def main(_):
  names = chosen("sections", FLAGS.sections or [
      name for name in sections.SECTIONS
      if not (FLAGS.quick and name in _LEFT_OUT)], sections.SECTIONS)
  os.makedirs(FLAGS.output_dir, exist_ok=True)
  path = os.path.join(FLAGS.output_dir, "bench.json")
  found = {}
  if os.path.exists(path):
    with open(path, encoding="utf-8") as reader:
      found = json.load(reader)
  with tempfile.TemporaryDirectory() as folder:
    settings = make_settings(FLAGS, folder)
    worker = measure.Worker(
        measure.Contender("machine", ["-m", "tests.benchmarks.own_program"],
                          dict(kind="machine", warm_up=0)),
        os.path.join(FLAGS.output_dir, "bench.log"), FLAGS.threads)
    machine = worker.facts
    worker.stop()
    for name in names:
      print(f"-- {name}", flush=True)
      function = sections.SECTIONS[name]
      found[name] = {
          "about": " ".join(function.__doc__.split()), "commit": commit(),
          "date": datetime.date.today().isoformat(), "machine": machine,
          **function(settings)}
      report.write(FLAGS.output_dir, {
          key: found[key] for key in sections.SECTIONS if key in found},
                   script_helpers.write_text)
  print(f"{FLAGS.output_dir}/bench.md, bench.json")


if __name__ == "__main__":
  define_flags()
  app.run(main)
