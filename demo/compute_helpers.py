# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""How a run computes: --precision=auto, --fused_ops and --use_xla."""

import time

from absl import logging
import tensorflow as tf

from demo import horovod_helpers
from demo import xla_helpers

# The product that is measured: rows and widths of BERT-base's feed-forward
# layer.
_ROWS, _WIDTH, _UNITS = 512, 768, 3072
_ROUNDS = 9
# So many times as fast bf16 has to be: what is gained has to outweigh the
# conversions around the products.
_WORTHWHILE = 1.2


def prepare(args):
  """Settles the flags that depend on the machine; call it after `start_ranks`.

  --precision=auto becomes fp32 or bf16, the same on all ranks, and --fused_ops
  goes off where it doesn't work.

  Args:
    args: the parsed flags.
  """
  if args.use_xla:
    xla_helpers.allow_cpu()
  has_own_compiler = args.use_tpu or horovod_helpers.has_device()
  if args.precision == "auto":
    args.precision = "fp32" if has_own_compiler or args.bf16_config_path else (
        horovod_helpers.gather(_faster_precision())[0])
    _log("--precision=auto: %s.", args.precision)
  if args.fused_ops and has_own_compiler:
    args.fused_ops = False
    _log("--fused_ops is off: TPUs and Gaudi have compilers of their own.")


def _log(*words):
  if horovod_helpers.is_chief():
    logging.info(*words)


def _faster_precision():
  """"bf16" where matrix products are clearly faster in it, else "fp32"."""
  if not horovod_helpers.is_chief():
    return "fp32"  # Rank 0's word counts.
  seconds = product_seconds()
  _log("A matrix product takes %.1f ms in fp32 and %.1f ms in bf16.",
       1000 * seconds[tf.float32], 1000 * seconds[tf.bfloat16])
  is_worthwhile = seconds[tf.float32] > _WORTHWHILE * seconds[tf.bfloat16]
  return "bf16" if is_worthwhile else "fp32"


def product(rows, inner, columns, dtype):
  """The operation of a matrix product [rows, inner] x [inner, columns].

  Args:
    rows: int.
    inner: int.
    columns: int.
    dtype: tf.DType.
  """
  # Variables: a product of constants would be computed beforehand.
  left, right = (tf.Variable(tf.cast(tf.random.normal(shape), dtype))
                 for shape in ([rows, inner], [inner, columns]))
  return tf.matmul(left, right).op


def product_seconds():
  """Times a matrix product of a typical size, on the device of the training.

  Returns:
    Dict from tf.float32 and tf.bfloat16 to seconds, the least of several turns:
    what else the machine does comes on top of it, and not on both alike.
  """
  seconds = {tf.float32: [], tf.bfloat16: []}
  with tf.Graph().as_default():
    ops = {dtype: product(_ROWS, _WIDTH, _UNITS, dtype) for dtype in seconds}
    with tf.compat.v1.Session(
        config=horovod_helpers.session_config()) as session:
      session.run(tf.compat.v1.global_variables_initializer())
      for _ in range(_ROUNDS + 1):
        for dtype, op in ops.items():
          start = time.perf_counter()
          session.run(op)
          seconds[dtype].append(time.perf_counter() - start)
  return {dtype: min(values[1:]) for dtype, values in seconds.items()}
