"""Tests of demo/latency_helpers.py."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from demo import latency_helpers

PERCENTILES = (50, 90, 95, 99)


class LatenciesTest:

  @pytest.mark.parametrize("count", [1, 2, 7, 100, 20000])
  def test_percentiles_are_within_one_percent(self, count):
    seconds = np.random.default_rng(count).lognormal(-4, 1.5, count)
    latencies = latency_helpers.Latencies()
    for value in seconds:
      latencies.add(float(value))
    found = latencies.summary()
    assert list(found) == ["mean", "p50", "p90", "p95", "p99", "max"]
    assert latencies.count == count
    assert found["mean"] == pytest.approx(1e3 * seconds.mean())
    assert found["max"] == 1e3 * seconds.max()
    for percent in PERCENTILES:
      assert found[f"p{percent}"] == pytest.approx(
          1e3 * np.percentile(seconds, percent, method="inverted_cdf"),
          rel=0.0051)

  def test_no_percentile_exceeds_the_maximum(self):
    latencies = latency_helpers.Latencies()
    for value in (0.0104, 0.0104):
      latencies.add(value)
    found = latencies.summary()
    assert found["p99"] <= found["max"] == 10.4

  def test_without_times_there_are_no_numbers(self):
    assert set(latency_helpers.Latencies().summary().values()) == {None}

  def test_memory_is_bounded_whatever_the_times(self):
    latencies = latency_helpers.Latencies()
    for value in np.random.default_rng(0).uniform(-18, 18, 20000):
      latencies.add(float(np.exp(value)))
    for value in (0.0, -1.0, 1e9):  # Clocks may be set.
      latencies.add(value)
    assert len(latencies._classes) < 2400

  def test_threads_lose_no_time(self):
    latencies = latency_helpers.Latencies()

    def work():
      for _ in range(5000):
        latencies.add(0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert latencies.count == 20000
    assert latencies.summary()["mean"] == pytest.approx(1)

  def test_import_is_light(self):
    code = ("import sys; from demo import latency_helpers; "
            "sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code],
                          check=False).returncode == 0
