# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""From a protocol's event loop to the model and back: threads, time, counts.

Requests are received by one event loop and answered on threads, which wait in
TensorFlow's batching operation without holding the interpreter's lock. A
request that was let in is answered, also while the server stops, or gets a
status that says why not.
"""

import asyncio
import concurrent.futures
import time

from absl import logging

from demo import serving_errors

_MOST_THREADS = 512


class Call(object):
  """What the thread that answers a request notes about it.

  Attributes:
    model: string, name of the model; "" before that is known.
    rows: int, rows of tokens that were computed.
    batches: float, runs of the model that took.
  """

  __slots__ = ("model", "rows", "batches")

  def __init__(self):
    self.model, self.rows, self.batches = "", 0, 0.0


class Dispatcher(object):
  """Runs requests on threads.

  Attributes:
    running: int, requests that were let in and are not answered.
    is_stopping: bool, no more are let in.
  """

  def __init__(self, stats, max_requests, timeout):
    """Makes the threads.

    Args:
      stats: serving_stats.Stats.
      max_requests: int, requests at the same time.
      timeout: float, seconds that a request may take if its client doesn't say.
    """
    self.running = 0
    self.is_stopping = False
    self._stats = stats
    self._max_requests, self._timeout = max_requests, timeout
    self._threads = concurrent.futures.ThreadPoolExecutor(
        min(max_requests, _MOST_THREADS), "request")

  async def answer(self, protocol, work, timeout=None):
    """Answers a request.

    Args:
      protocol: string, for the counts.
      work: function of a Call and of the time (float, seconds since 1970) at
        which nobody waits any longer, which returns the answer. It runs on a
        thread, to its end, also when the client has gone.
      timeout: float or None, seconds that the client waits.

    Returns:
      What `work` returns.

    Raises:
      serving_errors.RequestError: what `work` raises, or there is no room or no
        time, or the server has a fault, which it logs.
    """
    call, started, status = Call(), time.monotonic(), "OK"
    try:
      return await self._run(call, work, self._timeout if timeout is None
                             else min(timeout, self._timeout))
    except serving_errors.RequestError as error:
      status = error.status
      raise
    except asyncio.CancelledError:
      status = "CANCELLED"
      raise
    except Exception as error:  # pylint: disable=broad-except
      status = "INTERNAL"
      logging.exception("A request met a fault of the server:")
      raise serving_errors.RequestError(
          status, f"A fault of the server ({type(error).__name__}); its log "
          f"says more.") from error
    finally:
      self._stats.add(protocol, call, status, time.monotonic() - started)

  async def _run(self, call, work, timeout):
    """Runs `work` on a thread and waits for it."""
    if self.is_stopping:
      raise serving_errors.RequestError(
          "UNAVAILABLE", "The server is stopping.")
    if self.running >= self._max_requests:
      raise serving_errors.RequestError(
          "RESOURCE_EXHAUSTED",
          f"{self.running} requests are waiting, which is the most that the "
          f"server takes. Try again later.")
    self.running += 1
    future = asyncio.get_running_loop().run_in_executor(
        self._threads, work, call, time.time() + timeout)
    future.add_done_callback(self._end)
    try:
      # A client that leaves does not free the thread before it is done.
      return await asyncio.wait_for(asyncio.shield(future), timeout)
    except asyncio.TimeoutError:
      raise serving_errors.RequestError(
          "DEADLINE_EXCEEDED",
          f"The answer took longer than {timeout:.3g} seconds.") from None

  def _end(self, future):
    """Counts a request that is done; its error is told to who waits."""
    self.running -= 1
    if not future.cancelled():
      future.exception()

  async def drain(self, timeout):
    """Lets no request in, and waits until all are answered.

    Args:
      timeout: float, seconds at most.

    Returns:
      bool, all are.
    """
    self.is_stopping = True
    end = time.monotonic() + timeout
    while self.running and time.monotonic() < end:
      await asyncio.sleep(0.01)
    return not self.running
