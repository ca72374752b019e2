"""Tests of demo/bert_server.py as its clients see it: a process that serves."""

import concurrent.futures
import gzip
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1 import health_pb2_grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis import regression_pb2

from demo import export_helpers
from demo import predictor
from demo import serving_batches
from demo import serving_models
from demo import serving_signatures
from tests import conftest
from tests import export_helpers_test
from tests import served_models

pytestmark = pytest.mark.slow
LENGTH = served_models.LENGTH


def _has_ipv6():
  """Whether this machine has the loopback address of IPv6."""
  try:
    with socket.create_server(("::1", 0), family=socket.AF_INET6):
      return True
  except OSError:
    return False


@pytest.fixture(scope="module")
def exports(tiny_model, tmp_path_factory):
  """kind -> (folder of exports, prefix of the checkpoint)."""
  folder = tmp_path_factory.mktemp("served")
  found = served_models.make_exports(tiny_model, folder)
  # Another head on other weights, of the same shape.
  return {**found, **served_models.make_exports(
      tiny_model, folder, ["windows"], step=9)}


@pytest.fixture(scope="module")
def server(exports):
  """A Server of all kinds of models, by the names of their kinds."""
  with served_models.Server(
      {kind: path for kind, (path, _) in exports.items()}, "--batch=8",
      "--max_wait_ms=5", "--max_queued_rows=64",
      "--max_request_rows=40", "--max_request_bytes=100000",
      "--max_text_characters=5000", "--request_timeout_s=3") as running:
    yield running


def post(server, path, content, timeout=30):
  """(status, JSON) of a POST by REST; `content` is bytes, or becomes JSON."""
  data = content if isinstance(content, bytes) else json.dumps(
      content).encode("utf-8")
  return fetch(urllib.request.Request(server.url + path, data), timeout)


def get(server, path):
  """(status, JSON) of a GET by REST."""
  return fetch(server.url + path, 30)


def fetch(request, timeout):
  """(status, JSON) of a request."""
  try:
    with urllib.request.urlopen(request, timeout=timeout) as response:
      return response.status, json.load(response)
  except urllib.error.HTTPError as error:
    return error.code, json.load(error)


def status_of(call):
  """(name of the gRPC status, message) of a call that fails."""
  with pytest.raises(grpc.RpcError) as caught:
    call()
  return caught.value.code().name, caught.value.details()


def busy(server):
  """Seconds of a core that a server has taken."""
  text = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text()
  return sum(map(int, text.rpartition(")")[2].split()[11:13])) / (
      os.sysconf("SC_CLK_TCK"))


def offline(exports, kind, rows, signature="serving_default"):
  """What the export itself gives for rows: dict name -> array."""
  path = export_helpers.find_export(str(exports[kind][0]))
  # The loaded object owns the variables.
  loaded = tf.saved_model.load(path)
  return {name: tensor.numpy() for name, tensor in loaded.signatures[
      signature](**{key: tf.constant(array)
                    for key, array in rows.items()}).items()}


class PredictTest:

  @pytest.mark.parametrize("kind", sorted(served_models.LABELS))
  def test_ids_give_what_the_export_gives(
      self, kind, server, exports, tiny_model):
    rows = served_models.token_rows(tiny_model.vocab_size, [9, 5, 3, 9])
    expected = offline(exports, kind, rows)
    assert any(np.ptp(array, axis=0).max() > 0.02
               for array in expected.values())
    found = server.predict(kind, rows)
    assert set(found) == set(expected)
    status, answer = post(server, f"/v1/models/{kind}:predict", {
        "instances": [{name: array[i].tolist() for name, array in rows.items()}
                      for i in range(4)]})
    assert status == 200
    status, by_column = post(server, f"/v1/models/{kind}:predict", {
        "inputs": {name: array.tolist() for name, array in rows.items()}})
    assert status == 200
    for name, array in expected.items():
      assert found[name].dtype == np.float32
      several = len(expected) > 1
      for values in (
          found[name],
          [row[name] if several else row for row in answer["predictions"]],
          by_column["outputs"][name] if several else by_column["outputs"]):
        np.testing.assert_allclose(values, array, rtol=0, atol=1e-5)

  @pytest.mark.parametrize("kind", ["classification", "squad", "windows"])
  def test_records_give_what_the_export_gives(
      self, kind, server, exports, tiny_model):
    rows = served_models.token_rows(tiny_model.vocab_size, [LENGTH, 7, 12])
    records = export_helpers_test.as_examples(rows)
    expected = offline(exports, kind, {"examples": records}, "serve_examples")
    found = server.predict(kind, {"examples": records.numpy()},
                           "serve_examples")
    for name, array in expected.items():
      np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)

  def test_windows_are_pooled_text_by_text(self, server, exports, tiny_model):
    lengths = [LENGTH, LENGTH, 9, 7, LENGTH, LENGTH, LENGTH, LENGTH, 3, 5]
    rows = served_models.token_rows(tiny_model.vocab_size, lengths)
    rows["texts"] = np.array([3, 3, 3, 5, 6, 6, 6, 6, 8, 9], np.int32)
    expected = offline(exports, "windows", rows, "serve_windows")
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
      for found in threads.map(lambda _: server.predict(
          "windows", rows, "serve_windows"), range(24)):
        np.testing.assert_allclose(
            found["probabilities"], expected["probabilities"],
            rtol=0, atol=1e-5)
    # Falling numbers would mix up texts.
    rows["texts"] = rows["texts"][::-1].copy()
    assert "must not fall" in status_of(lambda: server.predict(
        "windows", rows, "serve_windows"))[1]

  def test_texts_give_what_the_predictor_gives(self, server, exports):
    items = [("the film was good", ""), ("a", "b"), ("good " * 60, "bad"),
             ("Ünïcode \N{GRINNING FACE} film", "x" * 300), ("", "")]
    inputs = {"text_a": np.array([a.encode() for a, _ in items], object),
              "text_b": np.array([b.encode() for _, b in items], object)}
    for kind in ("classification", "windows", "regression"):
      expected = predictor.load(str(exports[kind][0]))(items)
      found = server.predict(kind, inputs, "serve_texts")
      if kind == "regression":
        assert found["value"].tolist() == pytest.approx(
            [answer["value"] for answer in expected], abs=1e-5)
        continue
      assert [label.decode() for label in found["label"]] == [
          answer["label"] for answer in expected]
      np.testing.assert_allclose(
          found["probabilities"],
          [list(answer["probabilities"].values()) for answer in expected],
          rtol=0, atol=1e-5)
    status, answer = post(server, "/v1/models/classification:predict", {
        "signature_name": "serve_texts",
        "instances": [{"text_a": "the film was good"}]})
    assert status == 200 and answer["predictions"][0]["label"] == (
        predictor.load(str(exports["classification"][0]))(
            "the film was good")["label"])

  def test_questions_give_what_the_predictor_gives(self, server, exports):
    items = [("was it good?", "The film \N{GRINNING FACE} was great, and the "
              "Hotel very good; but the food quite awful."),
             ("what was dull", "plot and food")]
    expected = predictor.load(str(exports["squad"][0]))(items)
    status, answer = post(server, "/v1/models/squad:predict", {
        "signature_name": "serve_questions",
        "instances": [{"question": q, "context": c} for q, c in items]})
    assert status == 200
    for found, wanted, (_, context) in zip(
        answer["predictions"], expected, items):
      assert found["answer"] == wanted["answer"]
      assert found["probability"] == pytest.approx(
          wanted["probability"], abs=1e-5)
      assert found["null_odds"] == pytest.approx(wanted["null_odds"], abs=1e-4)
      nbest = json.loads(found["nbest"])
      assert [entry["text"] for entry in nbest] == [
          entry["text"] for entry in wanted["nbest"]]
      if found["answer"]:
        assert context[found["start"]:found["end"]] == found["answer"]
      else:
        assert found["start"] == found["end"] == -1

  def test_requests_are_as_large_as_the_server_says(self, server, tiny_model):
    rows = served_models.token_rows(tiny_model.vocab_size, [5] * 40)
    found = server.predict("classification", rows)["probabilities"]
    one = server.predict("classification", {
        name: array[-1:] for name, array in rows.items()})["probabilities"]
    np.testing.assert_allclose(found[-1:], one, rtol=0, atol=1e-5)

  def test_outputs_may_be_chosen(self, server, tiny_model):
    request = served_models.predict_request(
        "squad", served_models.token_rows(tiny_model.vocab_size, [5]))
    request.output_filter.append("end_logits")
    response = server.stub.Predict(request, 30)
    assert list(response.outputs) == ["end_logits"]
    # What clients of TensorFlow Serving read.
    assert len(response.outputs["end_logits"].float_val) == 5
    assert response.model_spec.name == "squad"
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.version.value > 1e9
    request.output_filter.append("x")
    assert status_of(lambda: server.stub.Predict(request, 30))[0] == (
        "INVALID_ARGUMENT")


class OtherExportsTest:

  def test_compiled_fixed_and_onnx_models_give_the_same(
      self, exports, tiny_model, tmp_path):
    source = exports["classification"][0]
    models = {"plain": source, "five": served_models.export(
        tiny_model, "classification", tmp_path / "five",
        export_five_inputs=True, export_fixed_length=True)}
    for name, flags in (
        ("compiled", ["--dtype=float32"]), ("onnx", ["--format=onnx"]),
        ("fixed", ["--batch_size=3", f"--sequence_length={LENGTH}"])):
      models[name] = tmp_path / name
      run = conftest.run_script(
          "demo.compile_model", f"--input_saved_model={source}",
          f"--output_saved_model={models[name]}", *flags)
      assert run.returncode == 0, run.stdout
    items = [("good film", "bad"), ("a", ""), ("the food " * 30, "plot")] * 3
    inputs = {"text_a": np.array([a.encode() for a, _ in items], object),
              "text_b": np.array([b.encode() for _, b in items], object)}
    expected = [list(answer["probabilities"].values())
                for answer in predictor.load(source)(items)]
    rows = served_models.token_rows(tiny_model.vocab_size, [LENGTH, 5, 7, 3])
    by_ids = offline(exports, "classification", rows)["probabilities"]
    with served_models.Server(models, "--batch=8") as server, (
        concurrent.futures.ThreadPoolExecutor(6)) as threads:
      for name in models:
        np.testing.assert_allclose(
            server.predict(name, rows)["probabilities"], by_ids, rtol=0,
            atol=1e-4, err_msg=name)
        for found in threads.map(lambda _, name=name: server.predict(
            name, inputs, "serve_texts"), range(8)):
          np.testing.assert_allclose(
              found["probabilities"], expected, rtol=0, atol=1e-4,
              err_msg=name)


class OtherMethodsTest:

  def test_classify_names_labels(self, server, exports, tiny_model):
    rows = served_models.token_rows(tiny_model.vocab_size, [LENGTH, 7])
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "classification"
    for record in export_helpers_test.as_examples(rows).numpy():
      request.input.example_list.examples.add().ParseFromString(record)
    found = server.stub.Classify(request, 30).result.classifications
    expected = offline(exports, "classification", rows)["probabilities"]
    assert [[c.label for c in row.classes] for row in found] == [
        ["no", "maybe", "yes"]] * 2
    np.testing.assert_allclose(
        [[c.score for c in row.classes] for row in found], expected,
        rtol=0, atol=1e-5)
    answer = predictor.load(str(exports["classification"][0]))(
        ("good film", "bad"))
    assert post(server, "/v1/models/classification:classify", {"examples": [
        {"text_a": "good film", "text_b": "bad"}]}) == (200, {"results": [[
            [label, pytest.approx(value, abs=1e-5)]
            for label, value in answer["probabilities"].items()]]})
    request.model_spec.name = "squad"
    status, text = status_of(lambda: server.stub.Classify(request, 30))
    assert status == "INVALID_ARGUMENT" and "no classifier" in text

  def test_regress_gives_numbers(self, server, exports):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "regression"
    features = request.input.example_list.examples.add().features.feature
    features["text_a"].bytes_list.value.append(b"good film")
    (found,) = server.stub.Regress(request, 30).result.regressions
    expected = predictor.load(str(exports["regression"][0]))("good film")
    assert found.value == pytest.approx(expected["value"], abs=1e-5)
    assert post(server, "/v1/models/regression:regress", {
        "examples": [{"text_a": "good film"}]}) == (
            200, {"results": [pytest.approx(expected["value"], abs=1e-5)]})

  def test_metadata_and_states(self, server):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "windows"
    request.metadata_field.append("signature_def")
    response = server.stub.GetModelMetadata(request, 30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) == {
        "serving_default", "serve_examples", "serve_windows", "serve_texts"}
    default = signatures.signature_def["serving_default"]
    assert default.method_name == "tensorflow/serving/predict"
    assert [dim.size for dim in default.inputs[
        "input_ids"].tensor_shape.dim] == [-1, -1]
    version = response.model_spec.version.value
    assert get(server, "/v1/models/windows/metadata")[1]["metadata"][
        "signature_def"]["signature_def"]["serve_texts"]["inputs"]["text_a"][
            "dtype"] == "DT_STRING"
    assert get(server, f"/v1/models/windows/versions/{version}") == (200, {
        "model_version_status": [{
            "version": str(version), "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""}}]})
    service = model_service_pb2_grpc.ModelServiceStub(server.channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "windows"
    (state,) = service.GetModelStatus(request, 30).model_version_status
    assert (state.version, state.state) == (version, 30)  # AVAILABLE

  def test_health_and_metrics(self, server, tiny_model):
    server.predict("squad", served_models.token_rows(
        tiny_model.vocab_size, [5] * 3))
    status = health_pb2_grpc.HealthStub(server.channel).Check(
        health_pb2.HealthCheckRequest(service="squad"), 30).status
    assert status == health_pb2.HealthCheckResponse.SERVING
    assert get(server, "/healthz") == (200, {"status": "ok"})
    for path in ("/metrics", "/monitoring/prometheus/metrics"):
      with urllib.request.urlopen(server.url + path, timeout=30) as response:
        text = response.read().decode()
      values = dict(line.rsplit(" ", 1) for line in text.splitlines()
                    if not line.startswith("#"))
      assert float(values['bert_server_rows_total{model="squad"}']) >= 3
      assert float(values['bert_server_requests_total{model="squad",'
                          'protocol="grpc",status="OK"}']) >= 1
      assert 0 < float(values['bert_server_batches_total{model="squad"}'])
    (entry,) = [model for model in get(server, "/v1/models")[1]["models"]
                if model["name"] == "squad"]
    assert entry["state"] == "AVAILABLE" and entry["info"]["kind"] == "squad"


class ManyClientsTest:

  def test_each_caller_gets_its_own_answer(self, server, exports, tiny_model):
    lengths = np.random.RandomState(3).randint(3, LENGTH, 200).tolist()
    rows = served_models.token_rows(tiny_model.vocab_size, lengths)
    expected = offline(exports, "classification", rows)["probabilities"]
    assert len(np.unique(expected.round(4), axis=0)) > 150

    def ask(number):
      inputs = {name: array[number:number + 1, :lengths[number]]
                for name, array in rows.items()}
      if number % 3:
        return server.predict("classification", inputs)["probabilities"][0]
      status, answer = post(server, "/v1/models/classification:predict", {
          "inputs": {name: array.tolist() for name, array in inputs.items()}})
      assert status == 200, answer
      return answer["outputs"][0]

    with concurrent.futures.ThreadPoolExecutor(24) as threads:
      found = list(threads.map(ask, range(200)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

  def test_models_do_not_mix(self, server, exports, tiny_model):
    rows = served_models.token_rows(tiny_model.vocab_size, [9])
    kinds = ["classification", "windows", "regression"] * 40
    expected = {kind: offline(exports, kind, rows)["probabilities"]
                for kind in set(kinds)}
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
      for kind, found in zip(kinds, threads.map(
          lambda kind: server.predict(kind, rows), kinds)):
        np.testing.assert_allclose(
            found["probabilities"], expected[kind], rtol=0, atol=1e-5)

  def test_full_queue_is_said_and_passes(self, exports, tiny_model):
    rows = served_models.token_rows(tiny_model.vocab_size, [9] * 4)
    with served_models.Server(
        exports['classification'][0], "--batch=64",
        "--max_queued_rows=16", "--max_request_rows=16",
        "--max_wait_ms=1500") as server, (
            concurrent.futures.ThreadPoolExecutor(12)) as threads:
      # All wait for a batch that never fills.
      calls = [threads.submit(server.predict, "bert", rows) for _ in range(4)]
      time.sleep(0.7)
      assert status_of(lambda: server.predict("bert", rows)) == (
          "RESOURCE_EXHAUSTED", "The queue is full: 16 rows are waiting, 4 "
          "more would be over 16. Try again later.")
      assert post(server, "/v1/models/bert:predict", {"inputs": {
          name: array.tolist() for name, array in rows.items()}})[0] == 429
      for call in calls:
        assert call.result()["probabilities"].shape == (4, 3)
      assert server.predict("bert", rows)["probabilities"].shape == (4, 3)

  def test_time_that_is_over_is_said_and_its_rows_not_computed(
      self, exports, tiny_model):
    rows = served_models.token_rows(tiny_model.vocab_size, [9] * 4)
    with served_models.Server(
        exports['classification'][0], "--batch=64",
        "--max_wait_ms=1000", "--request_timeout_s=0.5") as server:
      begin = time.monotonic()
      assert status_of(lambda: server.predict("bert", rows, timeout=0.2))[
          0] == "DEADLINE_EXCEEDED"
      assert time.monotonic() - begin < 0.95  # The batch waits for a second.
      assert post(server, "/v1/models/bert:predict", {"inputs": {
          name: array.tolist() for name, array in rows.items()}})[0] == 504
      time.sleep(1.5)
      with urllib.request.urlopen(server.url + "/metrics") as response:
        text = response.read().decode()
      assert "bert_server_rows_total{" not in text
      assert "bert_server_queued_rows 0.0" in text


class WrongRequestsTest:

  @pytest.mark.parametrize("change, message", [
      ({"input_ids": np.zeros([1, 5], np.int64)}, "takes int32"),
      ({"input_ids": np.zeros([1, 5], np.float32)}, "takes int32"),
      ({"input_ids": np.array([[b"a"] * 5])}, "takes int32"),
      ({"input_ids": np.zeros([5], np.int32)}, "has the shape [5]"),
      ({"input_ids": np.zeros([1, 5, 1], np.int32)}, "has the shape"),
      ({"input_ids": np.zeros([2, 5], np.int32)}, "rows, another input"),
      ({"input_ids": np.zeros([1, 6], np.int32)}, "differ"),
      ({"input_ids": np.full([1, 5], 1000, np.int32)}, "has the value 1000"),
      ({"input_ids": np.full([1, 5], -1, np.int32)}, "has the value -1"),
      ({"segment_ids": np.full([1, 5], 2, np.int32)}, "the model takes 0 to 1"),
      ({"input_mask": np.full([1, 5], 7, np.int32)}, "the model takes 0 to 1"),
      ({"x": np.zeros([1, 5], np.int32)}, "x is unknown"),
      ({"input_mask": None}, "input_mask is missing"),
      ({name: np.zeros([0, 5], np.int32) for name in (
          "input_ids", "input_mask", "segment_ids")}, "has no rows"),
      ({name: np.zeros([1, 0], np.int32) for name in (
          "input_ids", "input_mask", "segment_ids")}, "no tokens"),
      ({name: np.ones([1, 65], np.int32) for name in (
          "input_ids", "input_mask", "segment_ids")}, "A row has 65 tokens"),
      ({name: np.ones([41, 2], np.int32) for name in (
          "input_ids", "input_mask", "segment_ids")}, "41 rows of tokens"),
  ])
  def test_tensors(self, change, message, server):
    rows = {**{name: np.ones([1, 5], np.int32) for name in (
        "input_ids", "input_mask", "segment_ids")}, **change}
    rows = {name: array for name, array in rows.items() if array is not None}
    status, text = status_of(lambda: server.predict("classification", rows))
    assert status == "INVALID_ARGUMENT" and message in text

  def test_tensor_that_claims_more_than_it_has(self, server):
    request = served_models.predict_request(
        "classification", {name: np.ones([1, 5], np.int32) for name in (
            "input_ids", "input_mask", "segment_ids")})
    for change in (lambda t: t.tensor_shape.dim[0].__setattr__("size", 1 << 40),
                   lambda t: t.tensor_shape.dim[0].__setattr__("size", -1),
                   lambda t: t.__setattr__("tensor_content", b"123"),
                   lambda t: t.__setattr__("dtype", 9999),
                   lambda t: t.tensor_shape.__setattr__("unknown_rank", True)):
      wrong = type(request).FromString(request.SerializeToString())
      change(wrong.inputs["input_ids"])
      assert status_of(lambda: server.stub.Predict(wrong, 30))[0] == (
          "INVALID_ARGUMENT")

  def test_models_and_signatures_that_are_not_there(self, server):
    rows = {name: np.ones([1, 5], np.int32) for name in (
        "input_ids", "input_mask", "segment_ids")}
    status, text = status_of(lambda: server.predict("x", rows))
    assert status == "NOT_FOUND" and "there are classification" in text
    status, text = status_of(
        lambda: server.predict("squad", rows, "serve_texts"))
    assert status == "INVALID_ARGUMENT" and "serve_questions" in text
    request = served_models.predict_request("squad", rows)
    request.model_spec.version.value = 5
    assert status_of(lambda: server.stub.Predict(request, 30))[0] == "NOT_FOUND"
    request.model_spec.version_label = "stable"
    assert status_of(lambda: server.stub.Predict(request, 30))[0] == "NOT_FOUND"

  @pytest.mark.parametrize("examples", [
      [b"\xff\xff"], [b""], [tf.train.Example().SerializeToString()]])
  def test_records(self, examples, server):
    status, _ = status_of(lambda: server.predict(
        "classification", {"examples": np.array(examples, object)},
        "serve_examples"))
    assert status == "INVALID_ARGUMENT"

  def test_texts(self, server):
    for value, message in ((b"\xff\xfe", "is not UTF-8"),
                           (b"a" * 5001, "has 5001 characters")):
      status, text = status_of(lambda: server.predict(
          "classification", {"text_a": np.array([value], object)},
          "serve_texts"))
      assert status == "INVALID_ARGUMENT" and message in text

  def test_context_of_too_many_windows_is_refused_early(self, server):
    # One window every 8 tokens, 600 of them; the server takes 40 rows.
    status, text = status_of(lambda: server.predict(
        "squad", {"question": np.array([b"good?"], object),
                  "context": np.array([b". " * 2500], object)},
        "serve_questions"))
    assert status == "INVALID_ARGUMENT"
    assert "more than 40 windows" in text

  def test_texts_are_not_tokenized_for_nobody(self, server):
    words = b" ".join([b"ab" * 98] * 25)
    inputs = {"text_a": np.array([words] * 18, object)}
    before = busy(server)
    for _ in range(5):  # Linux counts hundredths of a second.
      server.predict("classification", inputs, "serve_texts")
    whole = busy(server) - before
    before = busy(server)
    for _ in range(5):
      status, _ = status_of(lambda: server.predict(
          "classification", inputs, "serve_texts", timeout=0.02))
      assert status == "DEADLINE_EXCEEDED"
      time.sleep(0.4 * whole)
    assert busy(server) - before < 0.5 * whole

  def test_bytes_that_are_no_message(self, server):
    for method in ("Predict", "Classify", "Regress", "GetModelMetadata"):
      call = server.channel.unary_unary(
          f"/tensorflow.serving.PredictionService/{method}")
      for data in (b"\xff", b"\x0a\xff\x01", b"\x0a\x7f123"):
        status, text = status_of(lambda: call(data, timeout=30))
        assert status == "INVALID_ARGUMENT" and "is not a" in text
    call = server.channel.unary_unary(
        "/tensorflow.serving.PredictionService/MultiInference")
    assert status_of(lambda: call(b"", timeout=30))[0] == "UNIMPLEMENTED"

  def test_message_that_is_too_large(self, server):
    rows = {name: np.ones([40, 5000], np.int32) for name in (
        "input_ids", "input_mask", "segment_ids")}
    assert status_of(lambda: server.predict("classification", rows))[0] == (
        "RESOURCE_EXHAUSTED")
    status, answer = post(server, "/v1/models/squad:predict", b"1" * 200000)
    assert (status, answer) == (
        413, {"error": "The request is larger than 100000 bytes."})

  @pytest.mark.parametrize("body, message", [
      (b"", "not JSON"), (b"[]", "JSON object"), (b"{", "not JSON"),
      (b"\xff", "not UTF-8"), (b"[" * 50000, "nested"),
      ({}, "instances"), ({"instances": []}, "list of rows"),
      ({"instances": [1], "inputs": 1}, "not both"),
      ({"instances": 3}, "list of rows"), ({"inputs": 3}, "an object"),
      ({"instances": [{"input_ids": [1]}, 3]}, "same inputs"),
      ({"instances": [{"input_ids": [1]}], "x": 1}, "unknown key 'x'"),
      ({"instances": [{"input_ids": [1]}]}, "is missing"),
      ({"instances": [{"input_ids": [1.5], "input_mask": [1],
                       "segment_ids": [0]}]}, "integers"),
      ({"instances": [{"input_ids": [True], "input_mask": [1],
                       "segment_ids": [0]}]}, "integers"),
      ({"instances": [{"input_ids": [1 << 40], "input_mask": [1],
                       "segment_ids": [0]}]}, "no int32"),
      ({"instances": [{"input_ids": [[1]], "input_mask": [1],
                       "segment_ids": [0]}]}, "integers"),
      ({"inputs": {"input_ids": [[1], [1, 2]], "input_mask": [[1], [1]],
                   "segment_ids": [[0], [0]]}}, "differ in length"),
      ({"signature_name": 3, "instances": [1]}, "has to be a string"),
      ({"signature_name": "serve_texts", "instances": [{"text_a": 3}]},
       "has to have strings"),
      ({"signature_name": "serve_texts", "instances": [{"text_a": "\ud800"}]},
       "surrogate"),
      ({"signature_name": "serve_examples", "instances": [{"b64": "??"}]},
       "wrong base64"),
      ({"signature_name": "x", "instances": [1]}, "no signature 'x'"),
  ])
  def test_json(self, body, message, server):
    status, answer = post(server, "/v1/models/classification:predict", body)
    assert status == 400 and message in answer["error"]
    assert "\n" not in answer["error"] and len(answer["error"]) < 400

  def test_paths_and_methods(self, server):
    assert get(server, "/x")[0] == 404
    assert post(server, "/v1/models/x:predict", {})[0] == 404
    assert post(server, "/v1/models/squad/versions/7:predict", {})[0] == 404
    assert post(server, "/v1/models/squad/versions/x:predict", {})[0] == 400
    assert get(server, "/v1/models/squad:predict")[0] == 405
    assert post(server, "/healthz", {})[0] == 405
    assert get(server, "/v1/models/squad:x")[0] == 404

  def test_head_is_as_get(self, server):
    for path, status in (("/healthz", 200), ("/", 200), ("/metrics", 200),
                         ("/v1/models/squad", 200), ("/v1/models/x", 404),
                         ("/v1/models/squad:predict", 405), ("/x", 404)):
      connection = http.client.HTTPConnection(
          "127.0.0.1", server.rest_port, timeout=30)
      connection.request("HEAD", path)
      response = connection.getresponse()
      assert response.status == status, path
      assert int(response.headers["Content-Length"]) > 0
      assert not response.read()
      connection.close()

  def test_compressed_bodies(self, server):
    plain = json.dumps({"signature_name": "serve_texts", "instances": [
        {"text_a": "good"}]}).encode()

    def ask(body, coding="gzip"):
      return fetch(urllib.request.Request(
          server.url + "/v1/models/classification:predict", body,
          {"Content-Encoding": coding}), 30)

    assert ask(gzip.compress(plain)) == post(
        server, "/v1/models/classification:predict", plain)
    assert ask(plain, "identity")[0] == 200
    assert ask(plain, "br")[0] == 415
    assert ask(gzip.compress(b" " * 10_000_000))[0] == 413
    for wrong in (plain, gzip.compress(plain)[:-3],
                  gzip.compress(plain) + b"a", b""):
      status, answer = ask(wrong)
      assert status == 400 and "not gzip" in answer["error"]

  def test_names_of_no_model_are_not_counted_one_by_one(self, server):
    assert get(server, "/v1/models/ghost")[0] == 404
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "ghost"
    assert status_of(lambda: model_service_pb2_grpc.ModelServiceStub(
        server.channel).GetModelStatus(request, 30))[0] == "NOT_FOUND"
    with urllib.request.urlopen(server.url + "/metrics") as response:
      assert b"ghost" not in response.read()


class SlowClientsTest:

  def test_clients_that_drip_are_cut_off_and_bother_nobody(self, server):
    host, port = server.url[len("http://"):].split(":")
    begins = [b"GET /healthz HTTP/1.1\r\nX-A: ",
              b"POST /v1/models/squad:predict HTTP/1.1\r\n"
              b"Content-Length: 90000\r\n\r\n{"]
    drips = []
    for number in range(200):
      drip = socket.create_connection((host, int(port)), 10)
      drip.sendall(begins[number % 2])
      drips.append(drip)
    begin, is_open = time.monotonic(), [True] * len(drips)
    while any(is_open) and time.monotonic() - begin < 20:  # The limit is 3 s.
      assert get(server, "/healthz")[0] == 200
      for number, drip in enumerate(drips):
        try:
          drip.sendall(b"a")
        except OSError:
          is_open[number] = False
      time.sleep(0.2)
    assert not any(is_open)
    for drip in drips:
      drip.close()

  def test_connections_have_a_limit(self, exports):
    with served_models.Server(
        exports['squad'][0], "--max_connections=5") as server:
      host, port = server.url[len("http://"):].split(":")
      idle = [socket.create_connection((host, int(port)), 10)
              for _ in range(5)]
      time.sleep(0.3)
      with pytest.raises((OSError, http.client.HTTPException)):
        get(server, "/healthz")
      idle.pop().close()
      time.sleep(0.3)
      assert get(server, "/healthz")[0] == 200


class AddressTest:

  @pytest.mark.skipif(not _has_ipv6(), reason="no IPv6")
  def test_ipv6(self, exports):
    with served_models.Server(
        exports["classification"][0], "--host=::1") as server:
      assert server.url.startswith("http://[::1]:")
      assert get(server, "/healthz")[0] == 200
      with grpc.insecure_channel(f"[::1]:{server.port}") as channel:
        health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), 30)


class StopTest:

  def test_output_that_nobody_reads_stops_nothing(self, exports, tmp_path):
    log = tmp_path / "log"
    with open(log, "w") as errors:
      process = subprocess.Popen(
          [sys.executable, "-m", "demo.bert_server", "--port=0",
           "--rest_port=0", f"--dir={exports['classification'][0]}"], cwd="/",
          stdout=subprocess.PIPE, stderr=errors, text=True,
          env={**os.environ, "PYTHONPATH": str(conftest.PROJECT)})
    try:
      url = "http://" + process.stdout.readline().rpartition(" ")[2].strip()
      process.stdout.close()
      for _ in range(2):
        with urllib.request.urlopen(
            url + "/v1/models/bert:predict", json.dumps({
                "signature_name": "serve_texts",
                "instances": [{"text_a": "good"}]}).encode()) as response:
          assert response.status == 200
        time.sleep(1.2)  # A line is due.
      process.terminate()
      assert process.wait(30) == 0
    finally:
      process.kill()
    assert "Traceback" not in log.read_text()

  def test_no_request_that_was_taken_is_lost(self, exports, tiny_model):
    rows = served_models.token_rows(tiny_model.vocab_size, [9] * 4)
    found, refused = [], []
    with served_models.Server(
        exports['classification'][0], "--batch=8",
        "--max_wait_ms=300") as server:
      stub_rows = {name: array.tolist() for name, array in rows.items()}

      def by_grpc():
        while True:
          try:
            found.append(server.predict("bert", rows)["probabilities"])
          except grpc.RpcError as error:
            refused.append(error.code().name)
            return

      def by_rest():
        while True:
          try:
            status, answer = post(server, "/v1/models/bert:predict",
                                  {"inputs": stub_rows})
          except urllib.error.URLError as error:  # Nobody listens.
            refused.append(type(error.reason).__name__)
            return
          if status == 503:
            refused.append("UNAVAILABLE")
            return
          assert status == 200
          found.append(np.array(answer["outputs"]))

      clients = [threading.Thread(target=target)
                 for target in (by_grpc, by_rest) for _ in range(8)]
      for client in clients:
        client.start()
      time.sleep(2)
      status, output = server.stop()
      for client in clients:
        client.join()
    assert status == 0, output
    # A connection that was never taken may be refused; none breaks off.
    assert set(refused) <= {"UNAVAILABLE", "ConnectionRefusedError"}
    assert len(refused) == 16
    assert f"{len(found)} requests answered with {4 * len(found)} inf" in output
    assert all(array.shape == (4, 3) for array in found) and len(found) > 16
    for word in ("inferences/s", "latency ms: mean", "p50", "p99",
                 "average throughput"):
      assert word in output


  def test_it_does_not_wait_for_a_load(self, exports):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "demo.bert_server", f"--port={port}",
         "--rest_port=0", f"--dir={exports['squad'][0]}"],
        cwd=conftest.PROJECT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True) as process:
      while process.poll() is None:  # It listens before it loads.
        try:
          socket.create_connection(("127.0.0.1", port), 1).close()
          break
        except OSError:
          time.sleep(0.02)
      process.terminate()
      output = process.stdout.read()
      assert process.wait() == 0, output
    assert "stopped before the models were loaded" in output
    assert "gRPC on" not in output


class ReloadTest:

  def test_looking_for_versions_costs_little(self, exports):
    with served_models.Server(
        exports["classification"][0], "--poll_seconds=0.1") as server:
      time.sleep(1.0)
      before = busy(server)
      time.sleep(2.0)
      assert busy(server) - before < 0.5

  def test_newer_version_takes_over_without_an_error(
      self, exports, tiny_model, tmp_path):
    folder = tmp_path / "models"
    old = export_helpers.find_export(str(exports["classification"][0]))
    newer, _ = served_models.make_exports(
        tiny_model, tmp_path, ["classification"], step=8)["classification"]
    newer = export_helpers.find_export(str(newer))
    shutil.copytree(old, folder / "5")
    rows = served_models.token_rows(tiny_model.vocab_size, [9] * 4)
    expected = [offline({"x": (path, None)}, "x", rows)["probabilities"]
                for path in (old, newer)]
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    with served_models.Server(
        {"a.b": folder}, "--poll_seconds=0.2") as server:
      errors, versions, is_over = [], [], threading.Event()

      def client():
        while not is_over.is_set():
          response = server.stub.Predict(
              served_models.predict_request("a.b", rows), 30)
          version = response.model_spec.version.value
          versions.append(version)
          found = tf.make_ndarray(response.outputs["probabilities"])
          if np.abs(found - expected[version == 7]).max() > 1e-5:
            errors.append(version)

      clients = [threading.Thread(target=client) for _ in range(4)]
      for thread in clients:
        thread.start()
      time.sleep(1)
      # A copy that is under way is no model yet.
      (folder / "6").mkdir()
      shutil.copy(old + "/saved_model.pb", folder / "6" / "saved_model.pb")
      time.sleep(1)
      shutil.copytree(newer, folder / "7")
      end = time.monotonic() + 60
      while 7 not in versions[-4:] and time.monotonic() < end:
        time.sleep(0.1)
      time.sleep(0.5)
      is_over.set()
      for thread in clients:
        thread.join()
      assert not errors and set(versions) == {5, 7}
      states = {entry["version"]: entry["state"] for entry in get(
          server, "/v1/models/a.b")[1]["model_version_status"]}
      assert states["5"] == "END" and states["7"] == "AVAILABLE"
      status, output = server.stop()
    assert status == 0
    assert output.count("version 6 can't be loaded, 5 stays") >= 1
    assert "model a.b: version 7 of" in output

  def test_version_that_fails_is_tried_less_and_less(
      self, exports, tiny_model, tmp_path, monkeypatch):
    shutil.copytree(export_helpers.find_export(exports["squad"][0]),
                    tmp_path / "5")
    store = serving_models.ModelStore(
        {"a": str(tmp_path)}, serving_batches.Options(
            4, 0.0, 1, 64, None, None), serving_signatures.Limits(64, 100))
    store.load()
    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "saved_model.pb").write_bytes(b"")
    now, tried = [1000.0], []
    monkeypatch.setattr(serving_models.time, "monotonic", lambda: now[0])
    load = store._load
    monkeypatch.setattr(store, "_load", lambda *args: (
        tried.append(now[0] - 1000.0), load(*args)))
    while now[0] < 1130:
      store.refresh()
      now[0] += 0.5
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123]
    assert store.states("a")[6].error
    shutil.rmtree(tmp_path / "6")
    store.refresh()
    assert list(store.states("a")) == [5]


class RefusedStartTest:

  @pytest.mark.parametrize("flags, message", [
      (["--dir=/nowhere"], "/nowhere has no exported model"),
      (["--dir=a=/x,a=/y"], "there are two models called a"),
      (["--dir=a b=/x"], "NAME=FOLDER is expected"),
      (["--dir=/x", "--allowed_batch_sizes=1,2"], "has to end with --batch=32"),
      (["--dir=/x", "--allowed_lengths=64,32"], "has to rise"),
      (["--dir=/x", "--allowed_lengths=a"], "numbers are expected"),
      (["--dir=/x", "--max_queued_rows=8"], "there would never be room"),
      (["--dir=/x", "--host=203.0.113.9"], "can't be listened on"),
  ])
  def test_flags(self, flags, message):
    run = conftest.run_script(
        "demo.bert_server", "--port=0", "--rest_port=0", *flags)
    (line,) = [line for line in run.stdout.splitlines()
               if line.startswith("bert_server.py: error: ")]
    assert run.returncode == 1 and message in line
    assert "Traceback" not in run.stdout

  def test_port_that_is_taken(self, server, exports):
    for flag in (f"--port={server.port}",
                 f"--rest_port={server.url.rsplit(':', 1)[1]}"):
      other = "--rest_port=0" if flag.startswith("--port") else "--port=0"
      run = conftest.run_script("demo.bert_server", other, flag,
                                f"--dir={exports['squad'][0]}")
      assert run.returncode == 1 and "can't be listened on" in run.stdout
      assert "Traceback" not in run.stdout

  def test_model_of_another_kind(self, tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: x + 1, input_signature=[
        tf.TensorSpec([None], tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "1"), module.f)
    run = conftest.run_script("demo.bert_server", "--port=0", "--rest_port=0",
                              f"--dir={tmp_path}")
    assert run.returncode == 1 and "is not a BERT model to serve" in run.stdout
