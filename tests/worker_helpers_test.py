"""Tests of demo/worker_helpers.py, with real processes."""

import os
import signal
import time

import pytest

from demo import worker_helpers


PARENT = os.getpid()


def square(item):
  if item == "bad":
    raise ValueError("data[3] is bad")
  if item == 11 and os.getpid() != PARENT:
    os.kill(os.getpid(), signal.SIGKILL)
  time.sleep(0.002 * (item % 3))  # Results come out of order.
  return item * item, os.getpid()


class WorkerPoolTest:

  @pytest.mark.parametrize("num_workers", [1, 2, 3])
  def test_results_are_in_order(self, num_workers):
    with worker_helpers.WorkerPool(square, num_workers) as pool:
      results = list(pool.map(range(11)))
      again = list(pool.map(range(5)))
    assert [value for value, _ in results] == [i * i for i in range(11)]
    assert [value for value, _ in again] == [0, 1, 4, 9, 16]
    processes = {pid for _, pid in results}
    if num_workers == 1:
      assert processes == {os.getpid()}
    else:
      assert os.getpid() not in processes and len(processes) > 1

  def test_items_are_taken_as_they_are_needed(self):
    taken = []

    def items():
      for i in range(200):
        taken.append(i)
        yield i

    with worker_helpers.WorkerPool(square, 2) as pool:
      results = pool.map(items())
      next(results)
      assert len(taken) <= 8
      results.close()

  @pytest.mark.parametrize("num_workers", [1, 2])
  def test_errors_of_the_user_come_through(self, num_workers):
    with worker_helpers.WorkerPool(square, num_workers) as pool:
      with pytest.raises(ValueError, match=r"^data\[3\] is bad$"):
        list(pool.map([1, "bad", 2]))

  def test_one_process_goes_on_where_a_worker_was_killed(self, caplog):
    with worker_helpers.WorkerPool(square, 2) as pool:
      results = list(pool.map(range(40)))
      again = list(pool.map(range(5)))
    assert [value for value, _ in results] == [i * i for i in range(40)]
    assert [value for value, _ in again] == [0, 1, 4, 9, 16]
    assert "A worker process was killed" in caplog.text
