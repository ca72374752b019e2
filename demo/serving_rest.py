# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""TensorFlow Serving's REST form, metrics, health, and a page to try a model.

  POST /v1/models/NAME[/versions/V]:predict, :classify, :regress
  GET  /v1/models/NAME[/versions/V], /v1/models/NAME[/versions/V]/metadata
  GET  /v1/models    all models, with what they are for
  GET  /healthz, /metrics, /monitoring/prometheus/metrics
  GET  /             the page

Every error is JSON, {"error": "..."}. Bodies are counted while they come; a
client that takes too long over its header or body is cut off.
"""

import asyncio
import base64
import binascii
import functools
import json
import os
import zlib

from absl import logging
from google.protobuf import json_format
import numpy as np
import prometheus_client
import tensorflow as tf
import tornado.httpserver
import tornado.iostream
import tornado.netutil
import tornado.web

from demo import export_helpers
from demo import serving_errors
from demo import serving_messages

_PAGE_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
_PAGE_FILES = {"": ("index.html", "text/html; charset=utf-8"),
               "page.css": ("page.css", "text/css; charset=utf-8"),
               "page.js": ("page.js", "text/javascript; charset=utf-8")}
_POLICY = ("default-src 'none'; connect-src 'self'; script-src 'self'; "
           "style-src 'self'; img-src 'self' data:; base-uri 'none'; "
           "form-action 'none'; frame-ancestors 'none'")
_MODEL = r"/v1/models/([^/:]+)(?:/versions/([^/:]+))?"


def start(store, dispatcher, stats, host, port, limits):
  """Starts listening, on the event loop that runs.

  Args:
    store: serving_models.ModelStore.
    dispatcher: serving_dispatch.Dispatcher.
    stats: serving_stats.Stats.
    host: string.
    port: int, 0 for any.
    limits: dict, "max_bytes" of a request, "max_connections",
      "timeout" (seconds for a header, a body, and an answer to be read).

  Returns:
    (server, port): Server, int.

  Raises:
    ValueError: the address can't be had.
  """
  shared = dict(store=store, dispatcher=dispatcher, stats=stats,
                max_bytes=limits["max_bytes"], timeout=limits["timeout"])
  application = tornado.web.Application([
      (_MODEL + r":(predict|classify|regress)", ModelHandler, shared),
      (_MODEL, StatusHandler, shared),
      (_MODEL + r"/metadata", MetadataHandler, shared),
      (r"/v1/models/?", ModelsHandler, shared),
      (r"/healthz", HealthHandler, shared),
      (r"(?:/monitoring/prometheus)?/metrics", MetricsHandler, shared),
      (r"/(|page\.css|page\.js)", PageHandler, shared),
  ], default_handler_class=Handler, default_handler_args=shared,
      log_function=lambda handler: None)
  try:
    sockets = tornado.netutil.bind_sockets(port, host)
  except OSError as error:
    raise ValueError(
        f"{host}:{port} can't be listened on: {error.strerror}.") from None
  server = Server(
      application, max_header_size=1 << 16, chunk_size=1 << 16,
      # Handlers count for themselves, and say 413 in words.
      max_body_size=1 << 40, idle_connection_timeout=limits["timeout"],
      body_timeout=limits["timeout"])
  server.max_connections = limits["max_connections"]
  server.add_sockets(sockets)
  return server, sockets[0].getsockname()[1]


class Server(tornado.httpserver.HTTPServer):
  """A server with a limit on open connections.

  Attributes:
    max_connections: int.
  """

  max_connections = 1 << 10

  def handle_stream(self, stream, address):
    """Takes a connection, or closes it where there are too many."""
    if len(self._connections) >= self.max_connections:
      stream.close()
      return
    super().handle_stream(stream, address)


@tornado.web.stream_request_body
class Handler(tornado.web.RequestHandler):
  """What all paths have in common; itself it is the answer to unknown ones."""

  def initialize(self, store, dispatcher, stats, max_bytes, timeout):
    """Takes what `start` makes."""
    self.store, self.dispatcher, self.stats = store, dispatcher, stats
    self._max_bytes, self._timeout = max_bytes, timeout
    self._chunks, self._received = [], 0

  def set_default_headers(self):
    self.set_header("Server", "bert_server")
    self.set_header("X-Content-Type-Options", "nosniff")

  def prepare(self):
    length = self.request.headers.get("Content-Length", "0")
    if length.isdecimal() and int(length) > self._max_bytes:
      self._refuse_size()
    elif self.dispatcher.is_stopping:
      self.set_header("Connection", "close")

  def data_received(self, chunk):
    """Keeps a part of the body."""
    self._received += len(chunk)
    if self._received > self._max_bytes:
      self._chunks.clear()
      if not self._finished:
        self._refuse_size()
    else:
      self._chunks.append(chunk)

  def _refuse_size(self):
    """Answers 413 and closes: the rest of the body is not read."""
    self.set_header("Connection", "close")
    self.fail(413, f"The request is larger than {self._max_bytes} bytes.")

  def fail(self, status, message):
    """Answers with an error."""
    self.set_status(status)
    if status in (429, 503):
      self.set_header("Retry-After", "1")
    self.finish_json({"error": message})

  def finish_json(self, content):
    """Answers with JSON."""
    self.set_header("Content-Type", "application/json; charset=utf-8")
    # Bytes are written as they are, a dict would be escaped for scripts.
    self.finish(json.dumps(content, ensure_ascii=False).encode("utf-8"))

  def write_error(self, status_code, **kwargs):
    """The answer to what is wrong by tornado's measure."""
    del kwargs
    self.fail(status_code, {
        404: f"There is nothing at {self.request.path}.",
        405: f"{self.request.path} does not take {self.request.method}.",
    }.get(status_code, self._reason))

  def log_exception(self, typ, value, tb):
    """Logs faults of the server alone."""
    if not isinstance(value, tornado.web.HTTPError):
      super().log_exception(typ, value, tb)

  def get(self, *args):
    raise tornado.web.HTTPError(404)

  post = get

  def head(self, *args):
    """As GET, of which tornado leaves out the body."""
    return self.get(*args)

  async def answer(self, work):
    """Runs a function of a Call and the deadline on a thread.

    Sends what it returns (bytes of JSON), or its error.
    """
    try:
      content = await self.dispatcher.answer("rest", work)
    except serving_errors.RequestError as error:
      self.fail(serving_errors.HTTP_STATUS[error.status], error.message)
      return
    self.set_header("Content-Type", "application/json; charset=utf-8")
    try:
      await asyncio.wait_for(
          asyncio.shield(self.finish(content)), self._timeout)
    except asyncio.TimeoutError:  # A client that does not read.
      self.request.connection.close()
    except tornado.iostream.StreamClosedError:  # One that has gone.
      pass

  def no_post(self, *args):
    raise tornado.web.HTTPError(405)


class ModelHandler(Handler):
  """:predict, :classify and :regress."""

  def get(self, *args):
    raise tornado.web.HTTPError(405)

  async def post(self, name, version, method):
    work = {"predict": predict, "classify": classify,
            "regress": regress}[method]
    body = b"".join(self._chunks)
    self._chunks.clear()
    coding = self.request.headers.get("Content-Encoding", "identity").lower()
    if coding == "gzip":
      try:
        body = gunzip(body, self._max_bytes)
      except serving_errors.RequestError as error:
        self.fail(413 if error.status == "RESOURCE_EXHAUSTED" else 400,
                  error.message)
        return
    elif coding != "identity":
      self.fail(415, f"Content-Encoding {coding} is not taken; gzip is.")
      return
    await self.answer(functools.partial(
        work, self.store, name, version, body))


class StatusHandler(Handler):
  """The state of a model's versions."""

  async def get(self, name, version):
    def status(call, deadline):
      del deadline
      found = serving_messages.status_response(
          self.store, name, _version(version))
      call.model = name  # Names that are no model's must not be counted.
      return _message_json(found)
    await self.answer(status)

  post = Handler.no_post


class MetadataHandler(Handler):
  """The signatures of a model."""

  async def get(self, name, version):
    def metadata(call, deadline):
      del deadline
      model = self.store.get(name, _version(version))
      call.model = model.name
      signatures = json.loads(_message_json(
          serving_messages.signature_map(model)))
      return json.dumps({
          "model_spec": {"name": model.name, "signature_name": "",
                         "version": str(model.version)},
          "metadata": {"signature_def": signatures}}).encode("utf-8")
    await self.answer(metadata)

  post = Handler.no_post


class ModelsHandler(Handler):
  """All models."""

  def get(self):
    found = []
    for name in self.store.names():
      try:
        model = self.store.get(name)
      except serving_errors.RequestError:  # It is being loaded.
        found.append({"name": name, "state": "LOADING"})
      else:
        found.append({"name": name, "version": model.version,
                      "state": "AVAILABLE", "info": model.info})
    self.finish_json({"models": found})

  post = Handler.no_post


class HealthHandler(Handler):
  """Whether requests are taken: 200 or 503."""

  def get(self):
    if self.dispatcher.is_stopping:
      self.fail(503, "The server is stopping.")
      return
    try:
      for name in self.store.names():
        self.store.get(name)
    except serving_errors.RequestError as error:
      self.fail(503, error.message)
    else:
      self.finish_json({"status": "ok"})

  post = Handler.no_post


class MetricsHandler(Handler):
  """What Prometheus reads."""

  def get(self):
    self.set_header("Content-Type", prometheus_client.CONTENT_TYPE_LATEST)
    self.finish(prometheus_client.generate_latest(self.stats.registry))

  post = Handler.no_post


class PageHandler(Handler):
  """The page, three files without anything from elsewhere."""

  def get(self, name):
    file, kind = _PAGE_FILES[name]
    with open(os.path.join(_PAGE_FOLDER, file), "rb") as reader:
      content = reader.read()
    self.set_header("Content-Type", kind)
    self.set_header("Content-Security-Policy", _POLICY)
    self.set_header("Referrer-Policy", "no-referrer")
    self.set_header("Cache-Control", "no-cache")
    self.finish(content)

  post = Handler.no_post


def predict(store, name, version, body, call, deadline):
  """:predict, JSON (bytes) to JSON, see `serving_dispatch.Dispatcher.answer`.

  Raises:
    serving_errors.RequestError: the request is wrong, or can't be answered.
  """
  model = store.get(name, _version(version))
  call.model = model.name
  request = _parse(body)
  signature = model.signature(_string(request, "signature_name"))
  is_by_row = "instances" in request
  if is_by_row == ("inputs" in request):
    raise serving_errors.invalid(
        "The request needs \"instances\", a list of rows, or \"inputs\", an "
        "object with a list for each input, and not both.")
  _refuse_unknown(request, {"signature_name", "instances", "inputs"})
  columns = (_columns_of_rows(request["instances"], signature) if is_by_row
             else _columns(request["inputs"], signature))
  inputs = {key: _array(key, values, signature)
            for key, values in columns.items()}
  outputs, call.rows, call.batches = signature.call(
      inputs, store.queue, deadline)
  found = {key: _values(array) for key, array in outputs.items()}
  only = next(iter(found)) if len(found) == 1 else None
  if not is_by_row:
    return _json({"outputs": found[only] if only else found})
  return _json({"predictions": found[only] if only else [
      dict(zip(found, row)) for row in zip(*found.values())]})


def classify(store, name, version, body, call, deadline):
  """:classify, see `predict`."""
  model = store.get(name, _version(version))
  call.model = model.name
  labels = model.labels()
  outputs, call.rows, call.batches = model.call_examples(
      _examples(_parse(body)), store.queue, deadline)
  return _json({"results": [
      [[label, score] for label, score in zip(labels, row)]
      for row in outputs["probabilities"].tolist()]})


def regress(store, name, version, body, call, deadline):
  """:regress, see `predict`."""
  model = store.get(name, _version(version))
  call.model = model.name
  model.check_regression()
  outputs, call.rows, call.batches = model.call_examples(
      _examples(_parse(body)), store.queue, deadline)
  return _json({"results": np.ravel(next(iter(outputs.values()))).tolist()})


def gunzip(body, max_bytes):
  """The bytes of a compressed body.

  Args:
    body: bytes.
    max_bytes: int, of the result; no more than that are ever held.

  Raises:
    serving_errors.RequestError: there are more, or `body` is not gzip.
  """
  reader = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
  try:
    found = reader.decompress(body, max_bytes + 1)
  except zlib.error:
    found = None
  if found is not None and len(found) > max_bytes:
    raise serving_errors.RequestError(
        "RESOURCE_EXHAUSTED", f"The request is larger than {max_bytes} bytes.")
  if found is None or not reader.eof or reader.unused_data:
    raise serving_errors.invalid("The request is not gzip, as it says.")
  return found


def _parse(body):
  """The object of a body (bytes)."""
  try:
    request = json.loads(body.decode("utf-8"))
  except UnicodeDecodeError:
    raise serving_errors.invalid("The request is not UTF-8.") from None
  except RecursionError:
    raise serving_errors.invalid("The request is nested too deep.") from None
  except ValueError as error:
    raise serving_errors.invalid(
        f"The request is not JSON: {error}") from None
  if not isinstance(request, dict):
    raise serving_errors.invalid("The request has to be a JSON object.")
  return request


def _refuse_unknown(request, known):
  """Refuses keys that nothing reads."""
  unknown = set(request) - known
  if unknown:
    raise serving_errors.invalid(
        f"The request has the unknown key {sorted(unknown)[0]!r}; "
        f"{', '.join(sorted(known))} are known.")


def _string(request, key):
  """A value that has to be a string; "" where it is missing."""
  value = request.get(key) or ""
  if not isinstance(value, str):
    raise serving_errors.invalid(f"{key} has to be a string.")
  return value


def _columns_of_rows(rows, signature):
  """Values by input: dict name -> list, of a list of rows."""
  if not isinstance(rows, list) or not rows:
    raise serving_errors.invalid("\"instances\" has to be a list of rows.")
  if len(signature.inputs) == 1 and not _is_row(rows[0]):
    return {next(iter(signature.inputs)): rows}
  names = rows[0].keys() if _is_row(rows[0]) else ()
  if not all(_is_row(row) and row.keys() == names for row in rows):
    raise serving_errors.invalid(
        "Each of \"instances\" has to be an object with the same inputs.")
  return {name: [row[name] for row in rows] for name in names}


def _is_row(value):
  """Whether a value is an object that names inputs."""
  return isinstance(value, dict) and value.keys() != {"b64"}


def _columns(inputs, signature):
  """Values by input: dict name -> list, of the value of "inputs"."""
  if _is_row(inputs):
    return inputs
  if len(signature.inputs) != 1:
    raise serving_errors.invalid(
        "\"inputs\" has to be an object with a list for each input.")
  return {next(iter(signature.inputs)): inputs}


def _array(name, values, signature):
  """The array of an input.

  Args:
    name: string.
    values: list of JSON.
    signature: serving_signatures.Signature.

  Returns:
    Array int32 or object (bytes).
  """
  spec = signature.inputs.get(name)
  if spec is None:  # The signature says which there are.
    return np.zeros([0])
  if not isinstance(values, list):
    raise serving_errors.invalid(f"{name} has to be a list.")
  if spec.dtype == tf.string:
    array = np.empty([len(values)], object)
    array[:] = [_bytes(name, value) for value in values]
    return array
  rows = values if len(spec.shape) == 2 else [values]
  if not all(isinstance(row, list) for row in rows):
    raise serving_errors.invalid(f"Each row of {name} has to be a list.")
  if len({len(row) for row in rows}) > 1:
    raise serving_errors.invalid(f"The rows of {name} differ in length.")
  if not all(_is_int(value) for row in rows for value in row):
    raise serving_errors.invalid(f"{name} has to have integers.")
  if any(not -1 << 31 <= value < 1 << 31 for row in rows for value in row):
    raise serving_errors.invalid(f"{name} has a number that is no int32.")
  array = np.array(rows, np.int32)
  return array if len(spec.shape) == 2 else array[0]


def _is_int(value):
  """Whether JSON has an integer; True is one to Python, and NumPy takes 1.5."""
  return isinstance(value, int) and not isinstance(value, bool)


def _bytes(name, value):
  """The bytes of a JSON string, or of {"b64": "..."}."""
  if isinstance(value, dict) and value.keys() == {"b64"}:
    try:
      return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError, TypeError):
      raise serving_errors.invalid(f"{name} has wrong base64.") from None
  if not isinstance(value, str):
    raise serving_errors.invalid(f"{name} has to have strings.")
  try:
    return value.encode("utf-8")
  except UnicodeEncodeError:
    raise serving_errors.invalid(
        f"{name} has half a character (a surrogate).") from None


def _examples(request):
  """The tf.train.Examples of a request for :classify or :regress."""
  _refuse_unknown(request, {"signature_name", "examples"})
  rows = request.get("examples")
  if not isinstance(rows, list) or not rows or not all(
      isinstance(row, dict) for row in rows):
    raise serving_errors.invalid("\"examples\" has to be a list of objects.")
  found = []
  for row in rows:
    example = tf.train.Example()
    for name, value in row.items():
      values = value if isinstance(value, list) else [value]
      feature = example.features.feature[name]
      if name in export_helpers.ROW_INPUTS:
        if not all(_is_int(x) and 0 <= x < 1 << 31 for x in values):
          raise serving_errors.invalid(f"{name} has to have token ids.")
        feature.int64_list.value.extend(values)
      else:
        feature.bytes_list.value.extend(_bytes(name, x) for x in values)
    found.append(example)
  return found


def _version(text):
  """The version (int) in a path, None without one."""
  if text is None:
    return None
  if not (text.isascii() and text.isdecimal() and len(text) < 19):
    raise serving_errors.invalid(f"{text!r} is no version.")
  return int(text)


def _values(array):
  """An array as lists; strings as text."""
  if array.dtype == object:
    return [value.decode("utf-8", "replace") for value in array.tolist()]
  return array.tolist()


def _json(content):
  """JSON as bytes."""
  return json.dumps(content, ensure_ascii=False).encode("utf-8")


def _message_json(found):
  """A protocol message as JSON, with the fields' own names."""
  return json_format.MessageToJson(
      found, preserving_proto_field_name=True, indent=None,
      including_default_value_fields=True).encode("utf-8")


async def stop(server, timeout):
  """Ends the connections that are left.

  Args:
    server: Server; `stop()` was called on it, so that it listens no more.
    timeout: float, seconds.
  """
  try:
    await asyncio.wait_for(server.close_all_connections(), timeout)
  except asyncio.TimeoutError:
    logging.warning("Connections are left open.")
