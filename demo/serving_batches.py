# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Rows of many requests to one run of the model, and each answer back.

Letters of the shapes: n rows of a request, B rows of a batch, W columns that a
batch may have, L columns of the longest of its rows.
"""

import collections
import threading
import time

import numpy as np
import tensorflow as tf

from demo import export_helpers
from demo import serving_errors

# What the model reads of n rows: int32 [n, S] each. `lengths` (int32 [n]) are
# the columns of each row that count; what is right of them is left out.
Rows = collections.namedtuple(
    "Rows", ["input_ids", "input_mask", "segment_ids", "lengths"])

# How rows become batches: rows of a batch at most; milliseconds that a row
# waits for others; batches that are computed at the same time; rows that may
# wait and be computed; and sizes (ascending lists of int or None) that
# batches and their rows are padded to.
Options = collections.namedtuple(
    "Options", ["batch", "max_wait_ms", "parallel", "max_queued_rows",
                "allowed_batch_sizes", "allowed_lengths"])

# Lengths are rounded up to a multiple of this where none are named: kernels
# are prepared for each shape that is new.
_LENGTH_STEP = 8
_FOR_EVER = 1e18  # Seconds since 1970.
_INPUTS = export_helpers.ROW_INPUTS


class Queue(object):
  """How many rows a server has taken and not answered yet.

  Attributes:
    rows: int.
  """

  def __init__(self, limit):
    """Takes the largest number of rows (int)."""
    self.rows = 0
    self._limit = limit
    self._lock = threading.Lock()

  def enter(self, rows):
    """Takes rows in.

    Raises:
      serving_errors.RequestError: there is no room.
    """
    with self._lock:
      if self.rows + rows > self._limit:
        raise serving_errors.RequestError(
            "RESOURCE_EXHAUSTED",
            f"The queue is full: {self.rows} rows are waiting, {rows} more "
            f"would be over {self._limit}. Try again later.")
      self.rows += rows

  def leave(self, rows):
    """Lets rows go."""
    with self._lock:
      self.rows -= rows


class Batcher(object):
  """Runs a model on rows of many callers together.

  Attributes:
    width: int, W.
    token_outputs: set of names of outputs with a value for each token, [B, L].
  """

  def __init__(self, model, name, max_length, options, pools=False):
    """Adds the batched function to the model's graph.

    Args:
      model: serving_graphs.ModelGraph.
      name: string, a signature of it that takes token ids: `input_ids`, ...
        int32 [B, L], with `pools` also `texts`.
      max_length: int, columns that the model takes at most.
      options: Options.
      pools: bool, the signature gives an output for each text of a batch,
        whose rows have a number in common in `texts`.
    """
    self._serve, self._pools = model.signatures[name], pools
    self._specs = self._serve.inputs
    self._fixed_rows, fixed_length = self._specs["input_ids"].shape
    self._options = options
    self.width = fixed_length or min(
        max_length, (options.allowed_lengths or [max_length])[-1])
    self._lengths = ([fixed_length] if fixed_length else
                     options.allowed_lengths)
    self.max_rows = min(options.batch, self._fixed_rows or options.batch)
    self._sizes = ([self._fixed_rows] if self._fixed_rows else
                   options.allowed_batch_sizes)
    self._names = sorted(self._serve.outputs)
    self.token_outputs = {
        name for name, spec in self._serve.outputs.items()
        if spec.shape.rank == 2 and spec.shape[1] in (None, fixed_length)
        and not pools}
    self._run = self._make(model, name)
    self._next_text = 0
    self._lock = threading.Lock()

  def _make(self, model, name):
    """The batched function of arrays: see `_batched`."""
    options = self._options
    # Each caller's rows are in a batch or not: a batch may be half empty.
    batches = 2 * (options.max_queued_rows // self.max_rows + 1)
    batched = tf.nondifferentiable_batch_function(
        num_batch_threads=options.parallel, max_batch_size=self.max_rows,
        batch_timeout_micros=int(options.max_wait_ms * 1000),
        max_enqueued_batches=batches, autograph=False,
        enable_large_batch_splitting=False)(self._batched)
    # TensorFlow finds the queue by the operation's name: signatures that
    # shared one would get each other's rows.
    with model.graph.as_default(), tf.name_scope(f"queue_of_{name}"):
      fed = [tf.compat.v1.placeholder(*args) for args in (
          (tf.int32, [None, len(_INPUTS), self.width]), (tf.int32, [None, 2]),
          (tf.float64, [None]))]
      # A callable takes arrays and gives arrays, without tensors between.
      return model.session.make_callable(batched(*fed), fed)

  def _batched(self, packed, numbers, deadlines):
    """Runs the model on the rows of a batch whose time is not over.

    Args:
      packed: int32 [B, 3, W], the rows.
      numbers: int32 [B, 2], length of each and number of its text.
      deadlines: float64 [B], seconds since 1970.

    Returns:
      List of tensors: bool [B], whether a row was computed; int32 [B], the
      number of rows computed together; then the outputs [B, ...] by name,
      those of a row that was not are zero.
    """
    total = tf.shape(packed)[0]
    is_kept = deadlines > tf.timestamp()
    # A model can't run on nothing.
    is_computed = is_kept | (
        ~tf.reduce_any(is_kept) & (tf.range(total) < 1))
    places = tf.cast(tf.where(is_computed), tf.int32)  # [B', 1]
    packed = tf.gather_nd(packed, places)
    numbers = tf.gather_nd(numbers, places)
    rows = tf.shape(packed)[0]
    size = _next(self._sizes, rows, 1)
    length = tf.minimum(
        _next(self._lengths, tf.reduce_max(numbers[:, 0]), _LENGTH_STEP),
        self.width)
    packed = tf.pad(packed[:, :, :length], [[0, size - rows], [0, 0], [0, 0]])
    feed = {name: packed[:, place] for place, name in enumerate(_INPUTS)}
    self._fix_shapes(feed)
    for name in set(self._specs) - {*_INPUTS, "texts"}:  # Nothing reads them.
      is_real = tf.cast(tf.range(size) < rows, tf.int32)
      feed[name] = is_real if name == "is_real_example" else is_real * 0
    texts = None
    if self._pools:
      # Numbered from 0, in the order of the rows: see `run`.
      begins = tf.cast(
          tf.not_equal(numbers[1:, 1], numbers[:-1, 1]), tf.int32)
      texts = tf.concat([[0], tf.cumsum(begins)], 0)
      feed["texts"] = tf.pad(
          texts, [[0, size - rows]], constant_values=1 << 30)
    outputs = self._serve(**feed)
    found = [is_kept, tf.fill([total], rows)]
    for name in self._names:
      output = outputs[name]
      output = tf.gather(output, texts) if self._pools else output[:rows]
      if name in self.token_outputs:
        output = tf.pad(output, [[0, 0], [0, self.width - length]])
      found.append(tf.scatter_nd(
          places, output, tf.concat([[total], tf.shape(output)[1:]], 0)))
    return found

  def _fix_shapes(self, feed):
    """Tells the signature what it knows, which graph code can't see."""
    for name, tensor in feed.items():
      tensor.set_shape(self._specs[name].shape)

  def run(self, rows, counts=None, deadline=None):
    """Runs the model on rows, together with those of other callers.

    Args:
      rows: Rows.
      counts: list of int, rows of each text where the model pools them; None
        where each row has an output of its own.
      deadline: float, seconds since 1970 after which nobody waits any longer;
        None for never.

    Returns:
      (outputs, batches): dict name -> array [n, ...], of the texts with
      `counts`; what has a value for each token has W columns. And float, how
      many runs of the model that took: half a batch counts 0.5.

    Raises:
      serving_errors.RequestError: the queue is full, or the time over.
    """
    total = len(rows.lengths)
    packed = np.zeros([total, len(_INPUTS), self.width], np.int32)
    columns = min(rows.input_ids.shape[1], self.width)
    for place, name in enumerate(_INPUTS):
      packed[:, place, :columns] = getattr(rows, name)[:, :columns]
    numbers = np.zeros([total, 2], np.int32)
    numbers[:, 0] = rows.lengths
    if counts is not None:
      numbers[:, 1] = np.repeat(self._numbers(len(counts)), counts)
    deadlines = np.full([total], deadline or _FOR_EVER)
    found = [self._chunk(packed[start:end], numbers[start:end],
                         deadlines[start:end])
             for start, end in self._chunks(counts or [1] * total)]
    kept, together, *outputs = (
        np.concatenate(arrays) if len(found) > 1 else arrays[0]
        for arrays in zip(*found))
    if not kept.all():
      raise serving_errors.RequestError(
          "DEADLINE_EXCEEDED", "The request's time was over before its turn.")
    if counts is not None:  # Each row has the output of its text.
      firsts = np.cumsum([0] + counts[:-1])
      outputs = [array[firsts] for array in outputs]
    return dict(zip(self._names, outputs)), float(np.sum(1.0 / together))

  def _numbers(self, count):
    """Numbers for texts that no other text in the queue has."""
    with self._lock:
      start = self._next_text
      self._next_text = (start + count) % (1 << 30)
    return np.arange(start, start + count, dtype=np.int32)

  def _chunks(self, counts):
    """Parts of a request that fit into a batch, none with half a text.

    Args:
      counts: list of int, rows of each text.

    Yields:
      (start, end), int.
    """
    start = end = 0
    for count in counts:
      if count > self.max_rows:
        raise serving_errors.invalid(
            f"A text has {count} windows: the server takes {self.max_rows}.")
      if end > start and end + count - start > self.max_rows:
        yield start, end
        start = end
      end += count
    yield start, end

  def _chunk(self, packed, numbers, deadlines):
    """Waits for the batch that some rows are in; arrays, see `_batched`."""
    try:
      return self._run(packed, numbers, deadlines)
    except tf.errors.UnavailableError as error:  # The queue of the operation.
      raise serving_errors.RequestError(
          "RESOURCE_EXHAUSTED", "The queue is full. Try again later."
          ) from error

  def warm_up(self):
    """Runs the model once in each of some shapes, so that no caller waits."""
    lengths = sorted({self.width, *(self._lengths or [_LENGTH_STEP])})
    for length in lengths:
      for count in {1, self.max_rows}:
        ones = np.ones([count, length], np.int32)
        self.run(Rows(ones, ones, np.zeros_like(ones),
                      np.full([count], length, np.int32)),
                 [1] * count if self._pools else None, time.time() + 3600)


def _next(allowed, size, step):
  """The smallest allowed size (int32 scalar) of at least `size`.

  Args:
    allowed: ascending list of int; None for all multiples of `step` (int).
    size: int32 scalar tensor.
  """
  if allowed is None:
    return (size + step - 1) // step * step
  allowed = tf.constant(allowed, tf.int32)
  return tf.reduce_min(tf.boolean_mask(
      allowed, allowed >= tf.minimum(size, allowed[-1])))
