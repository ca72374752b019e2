"""Thousands of damaged requests: each gets a status, and the server serves."""

import concurrent.futures
import http.client
import json
import random

import grpc
import numpy as np
import pytest

from tests import export_helpers_test
from tests import served_models

pytestmark = pytest.mark.slow
COUNT = 3000
# What a damaged request may get; never a fault of the server.
GRPC = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
REST = {200, 400, 404, 405, 413, 429}


@pytest.fixture(scope="module")
def server(tiny_model, tmp_path_factory):
  """A Server of a classifier and a SQuAD model."""
  exports = served_models.make_exports(
      tiny_model, tmp_path_factory.mktemp("fuzzed"),
      ["classification", "squad"])
  with served_models.Server(
      {kind: path for kind, (path, _) in exports.items()}, "--batch=16",
      "--max_wait_ms=1", "--max_request_bytes=60000",
      "--request_timeout_s=20") as running:
    yield running


@pytest.fixture(scope="module")
def rows(tiny_model):
  """Rows that are right."""
  return served_models.token_rows(tiny_model.vocab_size, [9, 5])


def damaged(data, rng):
  """Bytes with some of them changed, removed, doubled or cut off."""
  data = bytearray(data)
  for _ in range(rng.choice([1, 1, 2, 5])):
    place = rng.randrange(len(data)) if data else 0
    kind = rng.randrange(6)
    if kind == 0:
      del data[place:]
    elif kind == 1 and data:
      data[place] = rng.randrange(256)
    elif kind == 2:
      del data[place:place + rng.randrange(1, 20)]
    elif kind == 3:
      data[place:place] = data[place:place + rng.randrange(1, 20)]
    elif kind == 4:
      data[place:place] = rng.randbytes(rng.randrange(1, 9))
    elif data:
      data[place] ^= 1 << rng.randrange(8)
  return bytes(data)


# Values that a JSON value is replaced with.
ODD = [None, True, -1, 1 << 31, 1 << 70, 1.5, "", "\ud800", "a" * 3000, [], {},
       [[]], [[[1]]], {"b64": "AA=="}, {"b64": 3}, [None], "9" * 400, 1e308]


def changed(value, rng):
  """A JSON value with one of its parts replaced by an odd one."""
  if rng.random() < 0.3 or not isinstance(value, (dict, list)) or not value:
    return rng.choice(ODD)
  if isinstance(value, dict):
    key = rng.choice(list(value))
    found = dict(value)
    if rng.random() < 0.2:
      found[rng.choice(["x", "", key + "s"])] = found.pop(key)
    else:
      found[key] = changed(value[key], rng)
    return found
  place = rng.randrange(len(value))
  return [*value[:place], changed(value[place], rng), *value[place + 1:]]


def assert_serves(server, rows):
  """Two ways to ask still give the same."""
  found = server.predict("classification", rows)["probabilities"]
  records = export_helpers_test.as_examples({
      name: np.pad(array[[0, 1, 1]], [[0, 0], [0, served_models.LENGTH - 9]])
      for name, array in rows.items()}).numpy()
  np.testing.assert_allclose(server.predict(
      "classification", {"examples": records},
      "serve_examples")["probabilities"][:2], found, rtol=0, atol=1e-5)
  assert server.process.poll() is None


class FuzzTest:

  def test_grpc(self, server, rows):
    texts = {"question": np.array([b"was it good?"], object),
             "context": np.array([b"the film was good"], object)}
    seeds = [served_models.predict_request(*args).SerializeToString()
             for args in (("classification", rows), ("squad", rows),
                          ("squad", texts, "serve_questions"))]
    call = server.channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict")
    rng = random.Random(1)
    requests = [damaged(rng.choice(seeds), rng) for _ in range(COUNT)]

    def ask(data):
      try:
        call(data, timeout=60)
        return "OK"
      except grpc.RpcError as error:
        return error.code().name

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
      found = list(threads.map(ask, requests))
    assert set(found) <= GRPC, "".join(server.lines[-30:])
    assert found.count("INVALID_ARGUMENT") > COUNT / 4
    assert_serves(server, rows)

  def test_rest(self, server, rows):
    listed = {name: array.tolist() for name, array in rows.items()}
    seeds = [
        ("classification:predict", {"inputs": listed}),
        ("squad:predict", {"instances": [
            {name: values[0] for name, values in listed.items()}]}),
        ("classification:predict", {
            "signature_name": "serve_texts",
            "instances": [{"text_a": "good film", "text_b": "bad"}]}),
        ("squad:predict", {
            "signature_name": "serve_questions",
            "instances": [{"question": "was it?", "context": "it was good"}]}),
        ("classification:classify", {"examples": [{"text_a": "a film"}]})]
    rng = random.Random(2)
    requests = []
    for _ in range(COUNT):
      path, content = rng.choice(seeds)
      if rng.random() < 0.5:
        body = json.dumps(changed(content, rng)).encode("utf-8")
      else:
        body = damaged(json.dumps(content).encode("utf-8"), rng)
      requests.append((f"/v1/models/{path}", body))

    def ask_all(part):
      connection = http.client.HTTPConnection(server.url[len("http://"):],
                                              timeout=60)
      found = []
      for path, body in part:
        connection.request("POST", path, body)
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert (response.status == 200) == ("error" not in answer)
        found.append(response.status)
      return found

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
      found = sum(threads.map(
          ask_all, [requests[i::8] for i in range(8)]), [])
    assert set(found) <= REST, "".join(server.lines[-30:])
    assert found.count(400) > COUNT / 4
    assert_serves(server, rows)

  def test_bytes_that_are_no_http(self, server, rows):
    rng = random.Random(3)
    host, port = server.url[len("http://"):].split(":")
    request = (b"POST /v1/models/squad:predict HTTP/1.1\r\nHost: a\r\n"
               b"Content-Length: 2\r\n\r\n{}")
    for _ in range(COUNT // 10):
      connection = http.client.HTTPConnection(host, int(port), timeout=30)
      connection.connect()
      connection.sock.sendall(damaged(request, rng))
      connection.sock.close()
    assert_serves(server, rows)
