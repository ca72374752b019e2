# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Requests to a TensorFlow Serving server: gRPC and REST, many at a time.

No TensorFlow here, nor NumPy: clients are started by the dozen, on the machine
of the server. A request is made once, before the clock runs; sending it is a
write to a kept connection in one asyncio loop.
"""

import array
import asyncio
import collections
import contextlib
import http.client
import importlib
import importlib.util
import json
import math
import random
import signal
import sys
import time
import types
import urllib.parse

from demo import latency_helpers

OK = "OK"
# What REST has no status for, in words.
NO_CONNECTION, TIMEOUT = "no connection", "timeout"
# Statuses of a server that isn't there; the next try would fail at once too.
_UNREACHABLE = (NO_CONNECTION, "UNAVAILABLE")
_PAUSE_SECONDS = 0.1

_MAX_BYTES = 1 << 28  # Of a reply.
# REST has one request at a time on a connection. Beyond so many an open loop's
# requests wait in the client, and their clocks run.
_MOST_CONNECTIONS = 256


class Reply(collections.namedtuple("Reply", ["status", "body"])):
  """What came back: status (OK or what went wrong) and body.

  The body is bytes, or with an error a string, the server's message.
  """

  __slots__ = ()


# ------------------------------------------------------------- protocols ---


def _import_protos():
  """The module of TensorFlow Serving's Predict messages, without TensorFlow.

  The messages of tensors lie in the package `tensorflow`, whose __init__ loads
  all of it (4 s, 400 MB). A bare package of that name in its place lets the
  generated files alone be imported.
  """
  name = "tensorflow_serving.apis.predict_pb2"
  if "tensorflow" in sys.modules:
    return importlib.import_module(name)
  spec = importlib.util.find_spec("tensorflow")
  package = types.ModuleType("tensorflow")
  package.__path__ = list(spec.submodule_search_locations)
  sys.modules["tensorflow"] = package
  try:
    return importlib.import_module(name)
  finally:
    # The real one may still be imported.
    del sys.modules["tensorflow"]


class GrpcProtocol(object):
  """Requests of PredictionService.Predict.

  Attributes:
    name: string.
  """

  name = "gRPC"

  def __init__(self, host, port):
    """Takes the server's place; connects to nothing yet."""
    self._predict = _import_protos()
    self._address = f"{host}:{port}"

  def connection(self, timeout):
    """A connection (GrpcConnection) of its own; `timeout` in seconds."""
    return GrpcConnection(self._address, timeout)

  def request(self, model, signature, rows):
    """Makes a request.

    Args:
      model: string.
      signature: string.
      rows: list of dict input name -> string, or list of int (of one length
        for all rows).

    Returns:
      bytes.
    """
    request = self._predict.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name in rows[0]:
      values = [row[name] for row in rows]
      tensor = request.inputs[name]
      tensor.tensor_shape.dim.add().size = len(rows)
      if isinstance(values[0], str):
        tensor.dtype = _STRING
        tensor.string_val.extend(value.encode() for value in values)
      else:
        tensor.tensor_shape.dim.add().size = len(values[0])
        tensor.dtype = _INT32
        tensor.tensor_content = b"".join(
            array.array("i", value).tobytes() for value in values)
    return request.SerializeToString()

  def answers(self, body):
    """Reads a reply.

    Args:
      body: bytes.

    Returns:
      List of dict output name -> value of a row: string, number, or list of
      numbers (flat).

    Raises:
      ValueError: it is none.
    """
    try:
      outputs = self._predict.PredictResponse.FromString(body).outputs
    except Exception as error:  # protobuf's DecodeError, which has two homes.
      raise ValueError(
          f"a reply that is no PredictResponse ({error})") from None
    columns = {name: _rows_of_tensor(name, tensor)
               for name, tensor in outputs.items()}
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


# Of TensorFlow's types.proto, and array's codes of the same size.
_STRING, _INT32 = 7, 3
_NUMBERS = {1: ("f", "float_val"), 2: ("d", "double_val"),
            3: ("i", "int_val"), 9: ("q", "int64_val")}


def _rows_of_tensor(name, tensor):
  """The values of each row of a TensorProto."""
  shape = [dim.size for dim in tensor.tensor_shape.dim]
  if tensor.dtype == _STRING:
    values = [value.decode("utf-8", "replace") for value in tensor.string_val]
  elif tensor.dtype in _NUMBERS:
    code, field = _NUMBERS[tensor.dtype]
    values = array.array(code)
    if tensor.tensor_content:
      values.frombytes(tensor.tensor_content)
    else:
      values.extend(getattr(tensor, field))
    values = values.tolist()
  else:
    raise ValueError(f"output {name!r} is of type {tensor.dtype}, which this "
                     f"client can't read")
  rows = shape[0] if shape else 1
  width = len(values) // rows if rows else 0
  if len(shape) <= 1 and width == 1:
    return values
  return [values[i * width:(i + 1) * width] for i in range(rows)]


class GrpcConnection(object):
  """A channel; several requests may be under way on it."""

  is_shared = True

  def __init__(self, address, timeout):
    from grpc import aio  # pylint: disable=import-outside-toplevel
    self._error, self._timeout = aio.AioRpcError, timeout
    # Channels to one address otherwise share a connection.
    self._channel = aio.insecure_channel(address, [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", _MAX_BYTES),
        ("grpc.enable_http_proxy", 0)])
    self._call = self._channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict")

  async def send(self, payload):
    """Sends a request and returns the Reply."""
    try:
      return Reply(OK, await self._call(payload, timeout=self._timeout))
    except self._error as error:
      return Reply(error.code().name, error.details())

  async def connect(self, seconds):
    """Whether the server is there, or becomes so within some seconds."""
    try:
      await asyncio.wait_for(self._channel.channel_ready(), max(seconds, 1))
    except asyncio.TimeoutError:
      return False
    return True

  async def close(self):
    await self._channel.close()


class RestProtocol(object):
  """Requests of TensorFlow Serving's REST form; see `GrpcProtocol`."""

  name = "REST"

  def __init__(self, host, port):
    self._host, self._port = host, port

  def connection(self, timeout):
    return RestConnection(self._host, self._port, timeout)

  def request(self, model, signature, rows):
    body = json.dumps({"signature_name": signature, "instances": rows}).encode()
    return (f"POST /v1/models/{urllib.parse.quote(model, safe='')}:predict "
            f"HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body

  def answers(self, body):
    try:
      rows = json.loads(body)["predictions"]
    except (ValueError, KeyError, TypeError):
      rows = None
    if not isinstance(rows, list):
      raise ValueError("a reply without predictions")
    # A lone output stands there without its name.
    return [row if isinstance(row, dict) else
            {"probabilities" if isinstance(row, list) else "value": row}
            for row in rows]


class RestConnection(object):
  """A kept HTTP connection, for one request at a time."""

  is_shared = False

  def __init__(self, host, port, timeout):
    self._host, self._port, self._timeout = host, port, timeout
    self._reader = self._writer = None

  async def send(self, payload):
    """Sends a request and returns the Reply."""
    try:
      return await asyncio.wait_for(self._exchange(payload), self._timeout)
    except asyncio.TimeoutError:
      await self.close()
      return Reply(TIMEOUT, f"no reply within {self._timeout:g} s")
    except (OSError, EOFError) as error:
      await self.close()
      return Reply(NO_CONNECTION, str(error))

  async def _exchange(self, payload):
    is_kept = self._writer is not None
    if not is_kept:
      await self._open()
    try:
      self._writer.write(payload)
      head = await self._reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError) as error:
      if not is_kept or getattr(error, "partial", b""):
        raise
      # The server has closed it in the meantime.
      await self.close()
      return await self._exchange(payload)
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {}
    for line in lines:
      name, _, value = line.partition(":")
      fields[name.strip().lower()] = value.strip()
    if "content-length" not in fields:
      raise EOFError("an HTTP reply without Content-Length")
    body = await self._reader.readexactly(int(fields["content-length"]))
    if fields.get("connection", "").lower() == "close":
      await self.close()
    status = first.split(" ")[1]
    return Reply(OK, body) if status == "200" else Reply(
        status, _message_of(body))

  async def _open(self):
    self._reader, self._writer = await asyncio.open_connection(
        self._host, self._port, limit=1 << 16)

  async def connect(self, seconds):
    """Whether the server is there, or becomes so within some seconds."""
    until = time.monotonic() + seconds
    while True:
      try:
        await self._open()
        return True
      except OSError:
        if time.monotonic() >= until:
          return False
        await asyncio.sleep(_PAUSE_SECONDS)

  async def close(self):
    writer, self._reader, self._writer = self._writer, None, None
    if writer is not None:
      writer.close()
      with contextlib.suppress(OSError):
        await writer.wait_closed()


def _message_of(body):
  """What the body of an error says (string)."""
  try:
    return str(json.loads(body)["error"])
  except (ValueError, KeyError, TypeError):
    return body[:200].decode("utf-8", "replace")


def fetch_models(host, rest_port):
  """The models of a server, by its REST port.

  Args:
    host: string.
    rest_port: int.

  Returns:
    List of dict with "name", "version", "state" and "info", see
    docs/serving.md; None if nobody answers, or a server that has no such list.
  """
  connection = http.client.HTTPConnection(host, rest_port, timeout=5)
  try:
    connection.request("GET", "/v1/models")
    reply = connection.getresponse()
    body = reply.read()
    return json.loads(body)["models"] if reply.status == 200 else None
  except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
    return None
  finally:
    connection.close()


# ------------------------------------------------------------------ load ---


class Batch(collections.namedtuple("Batch", ["numbers", "counts", "payload"])):
  """A request.

  Attributes:
    numbers: list of int, its rows.
    counts: list of int, how many rows of the reply are each one's.
    payload: bytes.
  """

  __slots__ = ()


class Tally(object):
  """What came of the requests.

  Attributes:
    latencies: Latencies, of the requests that were answered.
    statuses: Counter status -> requests.
    messages: dict status -> string, what the first such reply said.
    answers: dict number of a row -> its first answer.
    num_answers: int, rows answered.
    largest_difference: float, of `compare`.
    worst_row: int, the row that had it; None without one.
    seconds: float, how long the load went on.
  """

  def __init__(self, protocol, compare=None):
    """Takes what reads replies.

    Args:
      protocol: GrpcProtocol or RestProtocol.
      compare: function of a row's number and an answer that returns how far
        (float) it is from the right one; or None.
    """
    self._protocol, self._compare = protocol, compare
    self.latencies = latency_helpers.Latencies()
    self.statuses, self.messages = collections.Counter(), {}
    self.answers, self.num_answers = {}, 0
    self.largest_difference, self.worst_row = 0.0, None
    self.seconds = 0.0

  @property
  def num_requests(self):
    """Requests that came to an end (int)."""
    return sum(self.statuses.values())

  @property
  def num_errors(self):
    """Requests that were not answered (int)."""
    return self.num_requests - self.statuses[OK]

  def add(self, batch, reply, seconds):
    """Takes a Reply to a Batch, and how long it took."""
    if reply.status != OK:
      self._add_error(reply.status, reply.body)
      return
    try:
      rows = self._protocol.answers(reply.body)
      if len(rows) != sum(batch.counts):
        raise ValueError(f"{len(rows)} answers to {sum(batch.counts)} rows")
    except ValueError as error:
      self._add_error("unreadable", str(error))
      return
    self.statuses[OK] += 1
    self.latencies.add(seconds)
    start = 0
    for number, count in zip(batch.numbers, batch.counts):
      self._take(number, rows[start] if count == 1
                 else rows[start:start + count])
      start += count

  def _add_error(self, status, message):
    self.statuses[status] += 1
    self.messages.setdefault(status, " ".join(str(message).split()))

  def _take(self, number, answer):
    """Takes the answer of a row."""
    self.num_answers += 1
    self.answers.setdefault(number, answer)
    if self._compare is not None:
      difference = self._compare(number, answer)
      if math.isnan(difference):  # That is no small one.
        difference = math.inf
      if difference > self.largest_difference:
        self.largest_difference, self.worst_row = difference, number


class Load(collections.namedtuple("Load", [
    "clients", "cycle", "duration", "rate", "seed", "timeout"])):
  """How requests are sent.

  Attributes:
    clients: int, connections.
    cycle: int, requests of each; None for as many as the time allows.
    duration: float, seconds after which no request is sent any more; or None.
    rate: float, requests per second of all together, sent whether or not the
      earlier ones are answered; None for clients that wait for each answer.
    seed: int, of the times of the requests.
    timeout: float, seconds that an answer may take.
  """

  __slots__ = ()


def run_load(protocol, batches, load, tally, wait=0.0):
  """Sends requests until they are through, time is up or a signal comes.

  Args:
    protocol: GrpcProtocol or RestProtocol.
    batches: list of Batch.
    load: Load.
    tally: Tally, which takes the replies.
    wait: float, seconds to wait for the server at most.

  Returns:
    int, the signal that ended it, or None.

  Raises:
    ConnectionError: there is no server.
  """
  return asyncio.run(_run_load(protocol, batches, load, tally, wait))


async def _run_load(protocol, batches, load, tally, wait):
  """See `run_load`."""
  connections = [protocol.connection(load.timeout)
                 for _ in range(load.clients)]
  try:
    found = await asyncio.gather(*(
        connection.connect(wait) for connection in connections))
    if not all(found):
      raise ConnectionError("nobody answers")
    send = _open_loop if load.rate else _closed_loop
    begun = time.monotonic()
    work = asyncio.ensure_future(
        send(protocol, connections, batches, load, tally))
    stopped = _stop_on_signals(work)
    try:
      await work
    except asyncio.CancelledError:
      if not stopped:
        raise
    tally.seconds = time.monotonic() - begun
    return stopped[0] if stopped else None
  finally:
    for connection in connections:
      await connection.close()


def _stop_on_signals(task):
  """Cancels a task when a signal asks to end; returns the list of these."""
  stopped = []

  def stop(number):
    stopped.append(number)
    task.cancel()

  for number in (signal.SIGINT, signal.SIGTERM):
    asyncio.get_running_loop().add_signal_handler(number, stop, number)
  return stopped


async def _send(connection, batch, tally, since):
  """Sends a Batch; its time counts from `since`."""
  reply = await connection.send(batch.payload)
  tally.add(batch, reply, time.monotonic() - since)
  return reply.status


async def _closed_loop(protocol, connections, batches, load, tally):
  """Clients each of which waits for an answer before it asks again."""
  del protocol
  until = time.monotonic() + load.duration if load.duration else None

  async def client(number, connection):
    place = number * len(batches) // len(connections)
    sent = 0
    while load.cycle is None or sent < load.cycle:
      now = time.monotonic()
      if until is not None and now >= until:
        return
      status = await _send(
          connection, batches[(place + sent) % len(batches)], tally, now)
      if status in _UNREACHABLE:
        await asyncio.sleep(_PAUSE_SECONDS)
      sent += 1

  await asyncio.gather(*(
      client(number, connection)
      for number, connection in enumerate(connections)))


async def _open_loop(protocol, connections, batches, load, tally):
  """Requests at times of their own (a Poisson process).

  The time of each counts from when it was to be sent: one that waits for a
  slow server, or for this program, waited.
  """
  draw = random.Random(load.seed)
  total = load.cycle and load.cycle * load.clients
  pool = _Pool(protocol, connections, load.timeout)
  begun = planned = time.monotonic()
  tasks, sent = set(), 0
  try:
    while total is None or sent < total:
      planned += draw.expovariate(load.rate)
      if load.duration and planned - begun > load.duration:
        break
      pause = planned - time.monotonic()
      # Also when late: others have to get their turn.
      await asyncio.sleep(max(pause, 0))
      task = asyncio.ensure_future(
          pool.send(batches[sent % len(batches)], tally, planned))
      tasks.add(task)
      task.add_done_callback(tasks.discard)
      sent += 1
    await asyncio.gather(*tasks)
  finally:
    for task in tasks:
      task.cancel()
    await pool.close()


class _Pool(object):
  """Connections of an open loop; there are more when all are at work."""

  def __init__(self, protocol, connections, timeout):
    self._protocol, self._timeout = protocol, timeout
    self._free = collections.deque(connections)
    self._more = []
    self._places = asyncio.Semaphore(
        max(_MOST_CONNECTIONS, len(connections)))

  async def send(self, batch, tally, since):
    """See `_send`."""
    if self._free and self._free[0].is_shared:
      self._free.rotate()
      await _send(self._free[0], batch, tally, since)
      return
    async with self._places:
      if not self._free:
        self._more.append(self._protocol.connection(self._timeout))
        self._free.append(self._more[-1])
      connection = self._free.popleft()
      try:
        await _send(connection, batch, tally, since)
      finally:
        self._free.append(connection)

  async def close(self):
    for connection in self._more:
      await connection.close()
