"""Exports of tiny models, and a server of them in a process of its own."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from demo import export_helpers
from demo import window_helpers
import run_classifier
from tests import conftest
from tests import export_helpers_test

LABELS = {"classification": ["no", "maybe", "yes"], "regression": [],
          "squad": [], "windows": ["no", "maybe", "yes"]}
LENGTH = 24


# Flags of an export beside the length.
_VALUES = {
    "squad": dict(doc_stride=8, max_query_length=6, n_best_size=4,
                  max_answer_length=5, version_2_with_negative=True,
                  null_score_diff_threshold=0.0),
    "windows": dict(doc_stride=8, max_windows=6, window_pooling="max")}


def export(model, kind, folder, step=7, **values):
  """Exports a tiny model with wide random weights.

  Args:
    model: conftest.TinyModel.
    kind: string, key of LABELS.
    folder: path, of the checkpoint; made where it is missing.
    step: int, what the weights are drawn with.
    **values: flags of the export other than those of the kind.

  Returns:
    string, the folder of exports.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  head = "classification" if kind == "windows" else kind
  prefix = str(folder / f"model.ckpt-{step}")
  export_helpers_test.save_model(model, head, prefix, step)
  args = export_helpers_test.export_flags(folder, **{
      "max_seq_length": LENGTH, **_VALUES.get(kind, {}), **values})
  export_helpers.check(args)
  build, pool = (windows_model(model) if kind == "windows" else
                 (export_helpers_test.build_function(model, kind), None))
  export_helpers.export(
      args, build, {"task": kind, "kind": head, "labels": LABELS[kind],
                    "do_lower_case": True},
      model.vocab_file, model.bert_config_file, pool)
  return str(folder / "export")


def make_exports(model, folder, kinds=tuple(LABELS), step=7):
  """Exports several kinds of models, see `export`.

  Returns:
    Dict kind -> (folder of exports, prefix of the checkpoint).
  """
  return {kind: (export(model, kind, pathlib.Path(folder) / kind, step),
                 str(pathlib.Path(folder) / kind / f"model.ckpt-{step}"))
          for kind in kinds}


def windows_model(model):
  """Functions that build a classifier of windows and pool its outputs."""
  made = {}

  def build(input_ids, input_mask, segment_ids):
    _, _, made["logits"], probabilities = run_classifier.create_model(
        model.config, False, input_ids, input_mask, segment_ids,
        tf.zeros(tf.shape(input_ids)[:1], tf.int32), 3, False)
    return {"probabilities": probabilities}

  def pool(texts):
    return {"probabilities": tf.nn.softmax(
        window_helpers.pool(made["logits"], texts, "max"))}

  return build, pool


class Server(object):
  """`python -m demo.bert_server`, from its first answer to its end.

  Attributes:
    port: int, of gRPC.
    rest_port: int.
    url: string, of REST.
    process: subprocess.Popen.
    lines: list of string, what it has printed.
  """

  def __init__(self, models, *flags):
    """Starts it; waits until it serves.

    Args:
      models: folder of exports, or a dict of them by name.
      *flags: further flags.
    """
    if isinstance(models, dict):
      models = ",".join(f"{name}={path}" for name, path in models.items())
    self.lines = []
    self.process = subprocess.Popen(
        [sys.executable, "-m", "demo.bert_server", f"--dir={models}",
         "--port=0", "--rest_port=0", *map(str, flags)], cwd="/", text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(conftest.PROJECT)})
    self.port = self.rest_port = self.url = None
    for line in self.process.stdout:
      self.lines.append(line)
      found = re.search(r"gRPC on (\S+):(\d+), REST on (\S+)", line)
      if found:
        self.port, self.url = int(found[2]), f"http://{found[3]}"
        self.rest_port = int(found[3].rpartition(":")[2])
        break
    assert self.port, "".join(self.lines)
    # A full pipe would stop it.
    self._reader = threading.Thread(
        target=lambda: self.lines.extend(self.process.stdout), daemon=True)
    self._reader.start()
    self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
    self.stub = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self.process.poll() is None:
      self.process.kill()
      self.process.wait()

  def client_flags(self):
    """Flags by which demo.bert_client finds it."""
    return [f"--port={self.port}", f"--rest_port={self.rest_port}"]

  def stop(self, number=signal.SIGTERM, timeout=60):
    """Asks it to end; returns (exit status, all it printed)."""
    self.process.send_signal(number)
    status = self.process.wait(timeout)
    self._reader.join()
    return status, "".join(self.lines)

  def predict(self, name, inputs, signature="", timeout=60):
    """Predict of arrays by gRPC; dict name -> array."""
    response = self.stub.Predict(predict_request(name, inputs, signature),
                                 timeout)
    return {key: tf.make_ndarray(tensor)
            for key, tensor in response.outputs.items()}


def predict_request(name, inputs, signature=""):
  """PredictRequest of arrays, as any client of TensorFlow Serving makes it."""
  request = predict_pb2.PredictRequest()
  request.model_spec.name = name
  request.model_spec.signature_name = signature
  for key, array in inputs.items():
    request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
  return request


def token_rows(vocab_size, lengths, seed=1):
  """Rows of random ids, padded to the longest: dict name -> int32 [n, S]."""
  rng = np.random.RandomState(seed)
  mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
  return {name: array.astype(np.int32) for name, array in (
      ("input_ids", rng.randint(0, vocab_size, mask.shape) * mask),
      ("input_mask", mask),
      ("segment_ids", (np.arange(max(lengths)) > 2) * mask))}
