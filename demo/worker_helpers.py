# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Work shared out among processes, its results in order.

Workers are forked when a `WorkerPool` is made. Make it early in `main`, before
Horovod, a device or a session has started: what these hold does not like to be
forked.
"""

import collections
from concurrent import futures
from concurrent.futures import process
import gc
import multiprocessing
import os
import signal
import threading

from absl import logging

# Items that a worker has waiting, so that none idles and memory stays small.
_WAITING_PER_WORKER = 3

_function = None


class WorkerPool(object):
  """Calls a function on many items, in several processes.

  Use it in a `with` statement, or call `close`.

  Attributes:
    num_workers: int.
  """

  def __init__(self, function, num_workers):
    """Starts the workers.

    Args:
      function: function of one picklable item; it may hold any data, since
        the workers inherit it.
      num_workers: int; with 1 everything happens in this process.
    """
    self.num_workers = num_workers
    self._function = function
    self._executor = None
    self._is_broken = False
    # What is there stays; looking through it again and again for garbage is
    # slow, and would give each worker a copy of it.
    gc.freeze()
    if num_workers > 1:
      self._executor = futures.ProcessPoolExecutor(
          num_workers, multiprocessing.get_context("fork"), _start,
          (function,))
      self._executor.submit(os.getpid)  # Forks them all.

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()

  def map(self, items):
    """Yields function(item) for each item, in the order of the items.

    Items are taken from the iterable as results are used, so neither are ever
    in memory all together.

    Where a worker was killed (out of memory, say), this process goes on alone,
    with a warning.

    Args:
      items: iterable.

    Raises:
      Exception: what the function raised.
    """
    waiting = collections.deque()  # Of (item, future).
    for item in items:
      waiting.append((item, self._submit(item)))
      if len(waiting) >= _WAITING_PER_WORKER * self.num_workers:
        yield self._result(*waiting.popleft())
    while waiting:
      yield self._result(*waiting.popleft())

  def _submit(self, item):
    """The future of an item; None if it has to be done in this process."""
    if self._executor is None:
      return None
    try:
      return self._executor.submit(_call, item)
    except process.BrokenProcessPool:
      return None

  def _result(self, item, future):
    if future is not None:
      try:
        return future.result()
      except process.BrokenProcessPool:
        if not self._is_broken:
          self._is_broken = True
          logging.warning(
              "A worker process was killed, perhaps for lack of memory. Going "
              "on with one process.")
    return self._function(item)

  def close(self):
    """Ends the workers; `map` does not work any more."""
    if self._executor is not None:
      self._executor.shutdown(cancel_futures=True)


def _start(function):
  """Runs first in each worker."""
  global _function
  _function = function
  # The parent ends the workers, and may have handlers that are not for them.
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
  """A worker whose parent was killed would wait for work for ever."""
  multiprocessing.parent_process().join()
  os._exit(1)  # pylint: disable=protected-access


def _call(item):
  return _function(item)
