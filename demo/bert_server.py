# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Serves exported models: TensorFlow Serving's protocols, and a page.

  python -m demo.bert_server --dir=/tmp/mrpc/export
  python -m demo.bert_server --dir=mrpc=/tmp/mrpc/export,squad=/tmp/squad/export

gRPC's PredictionService answers on --port, its REST form and the page on
--rest_port. Requests that come together are computed together, each caller gets
its own answer. See docs/serving.md.
"""

import asyncio
import os
import resource
import signal
import sys
import time

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging

from demo import script_helpers
from demo import serving_batches
from demo import serving_dispatch
from demo import serving_grpc
from demo import serving_models
from demo import serving_rest
from demo import serving_signatures
from demo import serving_stats

FLAGS = flags.FLAGS
_FAREWELL_SECONDS = 0.3
_SPARE_FILES = 100  # File descriptors for what is no REST connection.


def init_flags():
  """Defines the flags."""
  flags.DEFINE_list(
      "dir", None,
      "Folders to serve, with commas between them: exports of --do_export or "
      "of demo.compile_model, or folders of exports, of which the newest is "
      "served and newer ones are loaded when they appear. NAME=FOLDER names a "
      "model; one without a name is called bert.")
  flags.DEFINE_string(
      "host", "127.0.0.1",
      "Address to listen on. Who can reach it can use the models: there is no "
      "password and no encryption. 0.0.0.0 is every network of the machine.")
  flags.DEFINE_integer("port", 8500, "Port of gRPC; 0 for any.")
  flags.DEFINE_integer(
      "rest_port", 8501,
      "Port of REST and of the page; 0 for any, -1 for none.")
  flags.DEFINE_integer(
      "batch", 32, "Rows that are computed together at most.", lower_bound=1)
  flags.DEFINE_float(
      "max_wait_ms", 2.0,
      "How long a row waits for others to be computed with.", lower_bound=0.0)
  flags.DEFINE_integer(
      "parallel", 1, "Batches that are computed at the same time.",
      lower_bound=1)
  flags.DEFINE_list(
      "allowed_batch_sizes", None,
      "Sizes that batches are padded to, ascending, the last one --batch. By "
      "default they are not padded.")
  flags.DEFINE_list(
      "allowed_lengths", None,
      "Numbers of tokens that the rows of a batch are padded to, ascending; "
      "longer rows are refused. By default the longest row of the batch "
      "decides, rounded up to a multiple of 8.")
  flags.DEFINE_integer(
      "max_queued_rows", 1024,
      "Rows that may wait or be computed; a request that has no room gets "
      "RESOURCE_EXHAUSTED (REST: 429).", lower_bound=1)
  flags.DEFINE_integer(
      "max_request_rows", 512, "Rows of one request at most.", lower_bound=1)
  flags.DEFINE_integer(
      "max_request_bytes", 4 << 20, "Size of a request at most.",
      lower_bound=1)
  flags.DEFINE_integer(
      "max_text_characters", 100000, "Size of a text at most.", lower_bound=1)
  flags.DEFINE_integer(
      "max_connections", 1000,
      "REST connections at most; more are closed at once.", lower_bound=1)
  flags.DEFINE_float(
      "request_timeout_s", 60.0,
      "How long a request may take, and its header and body to arrive.",
      lower_bound=0.001)
  flags.DEFINE_float(
      "poll_seconds", 5.0,
      "How often to look for newer exports; 0 for never.", lower_bound=0.0)
  flags.DEFINE_float(
      "grace_s", 30.0,
      "How long to wait, when asked to stop, for the answers that are due.",
      lower_bound=0.0)
  flags.DEFINE_integer(
      "threads", 0, "Threads that compute a batch; 0 for one of each core.",
      lower_bound=0)


def main(argv):
  """Serves until a signal comes."""
  del argv
  options, limits = _options(FLAGS), serving_signatures.Limits(
      FLAGS.max_request_rows, FLAGS.max_text_characters)
  store = serving_models.ModelStore(
      serving_models.parse_folders(FLAGS.dir), options, limits,
      FLAGS.threads)
  _raise_file_limit(FLAGS.max_connections)
  stats = serving_stats.Stats(store.queue)
  asyncio.run(_serve(FLAGS, store, stats))
  for line in stats.report():
    _say(line)


def _say(line):
  """Prints a line (string); goes on in silence where nobody reads any more."""
  try:
    print(f"bert_server: {line}", flush=True)
  except OSError:  # As after `| head -1`: what is left would fail again.
    with open(os.devnull, "wb") as nowhere:
      os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _options(args):
  """The serving_batches.Options of the flags.

  Raises:
    ValueError: a list is wrong.
  """
  sizes = _ascending(args.allowed_batch_sizes, "allowed_batch_sizes")
  if sizes and sizes[-1] != args.batch:
    raise ValueError(
        f"--allowed_batch_sizes={','.join(args.allowed_batch_sizes)} has to "
        f"end with --batch={args.batch}.")
  if args.max_request_rows > args.max_queued_rows:
    raise ValueError(
        f"--max_request_rows={args.max_request_rows} is more than "
        f"--max_queued_rows={args.max_queued_rows}: there would never be "
        f"room.")
  return serving_batches.Options(
      args.batch, args.max_wait_ms, args.parallel, args.max_queued_rows, sizes,
      _ascending(args.allowed_lengths, "allowed_lengths"))


def _ascending(values, flag):
  """A list of numbers (strings) as ascending int; None without one.

  Raises:
    ValueError: it is none.
  """
  if not values:
    return None
  if not all(value.strip().isdecimal() for value in values):
    raise ValueError(f"--{flag}={','.join(values)}: numbers are expected.")
  numbers = [int(value) for value in values]
  if numbers[0] < 1 or sorted(set(numbers)) != numbers:
    raise ValueError(f"--{flag}={','.join(values)} has to rise from 1 or more.")
  return numbers


def _raise_file_limit(connections):
  """Lets the process have a file descriptor for each connection."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = 2 * connections + _SPARE_FILES
  if soft < wanted:
    resource.setrlimit(resource.RLIMIT_NOFILE, (
        wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _address(host, port):
  """HOST:PORT, with the brackets that an address of IPv6 needs."""
  return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _serve(args, store, stats):
  """Loads, listens, and ends when a signal says so.

  Args:
    args: the parsed flags.
    store: serving_models.ModelStore.
    stats: serving_stats.Stats.
  """
  loop = asyncio.get_running_loop()
  stop = asyncio.Event()
  for number in (signal.SIGTERM, signal.SIGINT):
    loop.add_signal_handler(number, stop.set)
  dispatcher = serving_dispatch.Dispatcher(
      stats, args.max_queued_rows, args.request_timeout_s)
  grpc_server, health, port = await serving_grpc.start(
      store, dispatcher, _address(args.host, args.port),
      args.max_request_bytes)
  try:
    starting = loop.create_task(
        _start(args, dispatcher, stats, store, health, port))
    await _until(starting, stop)
    rest = starting.result()
    tasks = [loop.create_task(_report(stats, store.queue))]
    if args.poll_seconds:
      tasks.append(loop.create_task(_refresh(store, args.poll_seconds)))
    await stop.wait()
    _say("stopping; requests that were taken are answered.")
    for task in tasks:
      task.cancel()
    await _stop(args, dispatcher, grpc_server, health, store, rest)
  finally:
    # A server that is left to the garbage collector keeps the process alive.
    await grpc_server.stop(0)


async def _until(starting, stop):
  """Waits for the start, or ends the process where it is to stop before.

  Nothing was taken yet, and a load can't be interrupted.
  """
  stopping = asyncio.get_running_loop().create_task(stop.wait())
  await asyncio.wait({starting, stopping},
                     return_when=asyncio.FIRST_COMPLETED)
  if not starting.done():
    _say("stopped before the models were loaded.")
    os._exit(0)  # pylint: disable=protected-access
  stopping.cancel()


async def _start(args, dispatcher, stats, store, health, port):
  """Listens for REST, loads the models, and says so; see `_serve`.

  Args:
    health: gRPC's health servicer.
    port: int, of gRPC.

  Returns:
    serving_rest.Server, None with --rest_port=-1.
  """
  rest, where = None, ""
  if args.rest_port >= 0:
    rest, rest_port = serving_rest.start(
        store, dispatcher, stats, args.host, args.rest_port, {
            "max_bytes": args.max_request_bytes,
            "max_connections": args.max_connections,
            "timeout": args.request_timeout_s})
    where = f", REST on {_address(args.host, rest_port)}"
  await asyncio.get_running_loop().run_in_executor(None, store.load)
  await serving_grpc.set_health(health, store.names(), True)
  _say(f"gRPC on {_address(args.host, port)}{where}")
  return rest


async def _stop(args, dispatcher, grpc_server, health, store, rest):
  """Answers what was taken and ends; see `_serve`."""
  await serving_grpc.set_health(health, store.names(), False)
  if not await dispatcher.drain(args.grace_s):
    logging.warning("%d requests were not answered within --grace_s=%g.",
                    dispatcher.running, args.grace_s)
  # What comes in while a listener closes is cut off. Until then who comes is
  # told to go elsewhere.
  await asyncio.sleep(_FAREWELL_SECONDS)
  await grpc_server.stop(1.0)
  if rest:
    rest.stop()
    await serving_rest.stop(rest, 1.0)


async def _report(stats, queue):
  """Prints the throughput each second while there is any."""
  was_busy, before = False, time.monotonic()
  while True:
    await asyncio.sleep(1.0)
    now = time.monotonic()
    rate = stats.tick(now - before)
    before = now
    if rate or was_busy:
      _say(f"{rate:.0f} inferences/s, {queue.rows} rows queued")
    was_busy = bool(rate)


async def _refresh(store, seconds):
  """Looks for newer models now and then."""
  loop = asyncio.get_running_loop()
  while True:
    await asyncio.sleep(seconds)
    try:
      await loop.run_in_executor(None, store.refresh)
    except Exception as error:  # pylint: disable=broad-except
      # A disk that is away. The next look may find what this one didn't.
      logging.error("Looking for newer models failed: %s", error)


if __name__ == "__main__":
  init_flags()
  script_helpers.run(main, ["dir"], script_helpers.NOTHING_FINISHED)
