# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What a server counts: for Prometheus, for its own lines, and for its end."""

import threading

import prometheus_client

from demo import latency_helpers

# Seconds.
_BUCKETS = (.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)


class Stats(object):
  """Counts of requests, rows and time; threads may share it.

  Attributes:
    registry: prometheus_client.CollectorRegistry.
    rows: int, rows that were computed so far and answered in time.
  """

  def __init__(self, queue):
    """Takes the serving_batches.Queue, whose length is shown."""
    self.rows = 0
    self._lock = threading.Lock()
    self._latencies = latency_helpers.Latencies()
    self._busy_seconds = 0.0
    self._rows_before = 0
    self._errors = 0
    self.registry = prometheus_client.CollectorRegistry()
    made = dict(registry=self.registry, namespace="bert_server")
    self._requests = prometheus_client.Counter(
        "requests", "Requests, by what became of them.",
        ["model", "protocol", "status"], **made)
    self._seconds = prometheus_client.Histogram(
        "request_seconds", "Time from a request to its answer.", ["model"],
        buckets=_BUCKETS, **made)
    self._rows = prometheus_client.Counter(
        "rows", "Rows of tokens that were computed for clients.", ["model"],
        **made)
    self._batches = prometheus_client.Counter(
        "batches", "Runs of the model; rows / batches is the mean batch.",
        ["model"], **made)
    prometheus_client.Gauge(
        "queued_rows", "Rows taken and not answered yet.", **made
        ).set_function(lambda: queue.rows)

  def add(self, protocol, call, status, seconds):
    """Counts a request.

    Args:
      protocol: string.
      call: serving_dispatch.Call.
      status: string, "OK" or one of gRPC's.
      seconds: float.
    """
    self._requests.labels(call.model, protocol, status).inc()
    if status != "OK":
      with self._lock:
        self._errors += 1
      return
    if not call.rows:  # Nothing was computed.
      return
    self._seconds.labels(call.model).observe(seconds)
    self._rows.labels(call.model).inc(call.rows)
    self._batches.labels(call.model).inc(call.batches)
    self._latencies.add(seconds)
    with self._lock:
      self.rows += call.rows

  def tick(self, seconds):
    """The rate since the last tick; notes the time if there was one.

    Args:
      seconds: float, since then.

    Returns:
      float, rows per second.
    """
    with self._lock:
      rate = (self.rows - self._rows_before) / seconds
      self._rows_before = self.rows
    if rate:
      self._busy_seconds += seconds
    return rate

  def report(self):
    """Lines on all requests so far, for the end."""
    found = self._latencies.summary()
    lines = [f"{self._latencies.count} requests answered with {self.rows} "
             f"inferences, {self._errors} refused or failed"]
    if self._latencies.count:
      lines.append("latency ms: " + ", ".join(
          f"{name} {value:.1f}" for name, value in found.items()))
    if self._busy_seconds:
      rate = self._rows_before / self._busy_seconds
      lines.append(f"average throughput: {rate:.1f} inferences/s, of the "
                   f"seconds with any")
    return lines
