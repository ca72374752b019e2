"""For tests of server, client and page: exports of tiny models, and a server."""

import contextlib
import os
import re
import signal
import subprocess
import sys

from demo import export_helpers
from tests import conftest
from tests import export_helpers_test

LABELS = {"classification": ["no", "maybe", "yes"], "regression": [],
          "squad": []}
_SQUAD = dict(max_seq_length=32, doc_stride=8, max_query_length=8,
              n_best_size=5, max_answer_length=5, version_2_with_negative=False,
              null_score_diff_threshold=0.0)
_READY = re.compile(
    r"bert_server: gRPC on 127\.0\.0\.1:(\d+), REST on 127\.0\.0\.1:(\d+)")


def export(model, kind, folder, step=7, **values):
  """Exports a tiny model with random weights.

  Args:
    model: TinyModel.
    kind: string, key of LABELS.
    folder: path; it is made.
    step: int, another one gives other weights.
    **values: flags of the export.

  Returns:
    string, the folder of exports.
  """
  folder.mkdir()
  export_helpers_test.save_model(
      model, kind, str(folder / f"model.ckpt-{step}"), step)
  args = export_helpers_test.export_flags(folder, **{
      **(_SQUAD if kind == "squad" else {"max_seq_length": 24}), **values})
  export_helpers.check(args)
  export_helpers.export(
      args, export_helpers_test.build_function(model, kind),
      {"task": "squad" if kind == "squad" else "custom", "kind": kind,
       "labels": LABELS[kind], "do_lower_case": True},
      model.vocab_file, model.bert_config_file)
  return str(folder / "export")


class Server(object):
  """A server that runs.

  Attributes:
    process: subprocess.Popen.
    port: int, of gRPC.
    rest_port: int.
  """

  def __init__(self, process, port, rest_port):
    self.process, self.port, self.rest_port = process, port, rest_port

  def client_flags(self):
    """Flags by which demo.bert_client finds it."""
    return [f"--port={self.port}", f"--rest_port={self.rest_port}"]


@contextlib.contextmanager
def server(models, *flags):
  """Runs demo.bert_server as a process of its own.

  Args:
    models: dict name -> folder of exports.
    *flags: further flags.

  Yields:
    Server.
  """
  process = subprocess.Popen(
      [sys.executable, "-m", "demo.bert_server", "--dir=" + ",".join(
          f"{name}={folder}" for name, folder in models.items()),
       "--port=0", "--rest_port=0", *flags],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      cwd=conftest.PROJECT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"})
  try:
    said = []
    for line in process.stdout:
      said.append(line)
      found = _READY.match(line)
      if found:
        break
    else:
      raise AssertionError("".join(said))
    # Who reads no more would stop it when the pipe is full.
    with subprocess.Popen(["cat"], stdin=process.stdout,
                          stdout=subprocess.DEVNULL):
      try:
        yield Server(process, int(found[1]), int(found[2]))
      finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
  finally:
    process.kill()
    process.stdout.close()
