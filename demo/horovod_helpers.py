# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The ranks of a run: the only file that knows whether Horovod exists.

Importing it needs neither Horovod nor a device, and starts nothing. A script
calls `start_ranks` once, at the top of `main`; after that `horovod_enabled()`
tells whether there is more than one rank, and the functions here say which
part of the data is this rank's and what it may write.

Where Horovod is off, or on with a single rank, everything behaves as in one
ordinary process: rank 0 of 1.

Source: `horovod_helpers` of Habana's Model-References (release 0.13), by its
public names; see CHANGES.
"""

import importlib
import os
import socket

from absl import logging
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from habana import load_habana_module

INSTALL_HOROVOD = (
    "HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 "
    "pip install --no-build-isolation horovod==0.28.1 (or `make setup`)")

# Variables of the launchers that tell a process its place, in this order:
# Open MPI, horovodrun, Hydra (MPICH, Intel MPI).
_PLACE_VARIABLES = {
    "size": ("OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE", "PMI_SIZE"),
    "rank": ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "PMI_RANK"),
    "local_size": ("OMPI_COMM_WORLD_LOCAL_SIZE", "HOROVOD_LOCAL_SIZE",
                   "MPI_LOCALNRANKS"),
    "local_rank": ("OMPI_COMM_WORLD_LOCAL_RANK", "HOROVOD_LOCAL_RANK",
                   "MPI_LOCALRANKID"),
}


class _LazyHorovod(object):
  """Stands for the module `horovod.tensorflow`, imported at first use."""

  def __init__(self):
    self._module = None

  def __getattr__(self, name):
    # Tools that look a module over (inspect, pickle, doctest) ask for dunder
    # names; that must not start anything.
    if name.startswith("__"):
      raise AttributeError(name)
    return getattr(self.load(), name)

  def load(self):
    """Imports Horovod.

    Raises:
      ValueError: Horovod is missing or broken; says how to install it.
    """
    if self._module is None:
      try:
        self._module = importlib.import_module("horovod.tensorflow")
      except ImportError as error:
        raise ValueError(
            f"This run needs Horovod, which can't be imported ({error}). "
            f"Install it with: {INSTALL_HOROVOD}") from error
    return self._module

  @property
  def is_loaded(self):
    """Whether the module has been imported."""
    return self._module is not None


hvd = _LazyHorovod()


def hvd_init():
  """Starts Horovod and returns its module; a second call does nothing.

  Raises:
    ValueError: Horovod is missing.
  """
  module = hvd.load()
  module.init()
  return module


def horovod_enabled():
  """Whether Horovod was started and there is more than one rank."""
  return hvd.is_loaded and hvd.is_initialized() and hvd.size() > 1


def hvd_size():
  """Number of ranks (1 without Horovod)."""
  return hvd.size() if horovod_enabled() else 1


def hvd_rank():
  """This process's rank, from 0 (0 without Horovod)."""
  return hvd.rank() if horovod_enabled() else 0


def hvd_local_size():
  """Number of ranks on this server (1 without Horovod)."""
  return hvd.local_size() if horovod_enabled() else 1


def hvd_local_rank():
  """This process's number among the ranks of its server, from 0."""
  return hvd.local_rank() if horovod_enabled() else 0


def comm_size():
  """Number of processes that the launcher started; 1 without a launcher."""
  return _place("size", 1)


def comm_rank():
  """Number of this process according to the launcher, from 0."""
  return _place("rank", 0)


def comm_local_size():
  """Number of processes that the launcher started on this server."""
  return _place("local_size", 1)


def comm_local_rank():
  """Number of this process on its server according to the launcher."""
  return _place("local_rank", 0)


def _place(what, alone):
  for variable in _PLACE_VARIABLES[what]:
    value = os.environ.get(variable, "")
    if value and not value.isdigit():
      raise ValueError(f"{variable}={value} in the environment: expected a "
                       f"number. Unset it, or start with mpirun or horovodrun.")
    if value:
      return int(value)
  return alone


def start_ranks(use_horovod, cpu_only):
  """Loads the device library and starts Horovod, where asked for.

  Horovod is switched on by `--use_horovod` or by being one of several
  processes that mpirun or horovodrun started. Call it before the first graph.

  Args:
    use_horovod: bool, the flag.
    cpu_only: bool, the flag: no accelerator is used and the device library is
      not touched.

  Raises:
    ValueError: Horovod is missing, or a device library can't be loaded.
  """
  if cpu_only:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
  else:
    load_habana_module()
  if not use_horovod and comm_size() == 1:
    return
  hvd_init()
  _take_own_gpu()
  if is_chief():
    logging.info(
        "Horovod runs %d rank(s), %d on this server%s.", hvd_size(),
        hvd_local_size(), "" if use_horovod else
        ": switched on since a launcher started several processes")
  elif logging.get_verbosity() == logging.INFO:
    logging.set_verbosity(logging.WARNING)  # Rank 0 speaks.


def _take_own_gpu():
  """Gives each rank the GPU of its local rank, where there are GPUs.

  Before anything runs on one: TensorFlow maps GPUs once in a process.
  """
  gpus = tf.config.list_physical_devices("GPU")
  if not horovod_enabled() or not gpus:
    return
  if hvd_local_size() > len(gpus):
    raise ValueError(
        f"{hvd_local_size()} ranks on a server of {len(gpus)} GPU(s): start "
        f"one rank per GPU (mpirun -np {len(gpus)}), or pass --cpu_only.")
  tf.config.set_visible_devices(gpus[hvd_local_rank()], "GPU")


def is_chief():
  """Whether this is rank 0, which alone saves, evaluates and reports."""
  return hvd_rank() == 0


def barrier():
  """Waits until every rank has come here."""
  if horovod_enabled():
    with tf.device("CPU:0"):
      hvd.allreduce(tf.constant(0.0), name="barrier")


def chief_value(value):
  """Returns on every rank the number (int) that rank 0 gave."""
  if not horovod_enabled():
    return value
  with tf.device("CPU:0"):
    return int(hvd.broadcast(tf.constant(value, tf.int64), 0, name="chief"))


def example_slice(num_examples):
  """The contiguous part of the training examples that this rank converts.

  Every rank gets `num_examples // size` of them, the first ranks one more
  where that leaves a remainder: 10 examples on 4 ranks are
  [0, 3) [3, 6) [6, 8) [8, 10).

  Args:
    num_examples: int.

  Returns:
    (start, end) of the slice, ints.

  Source: Habana's run_squad and run_classifier.
  """
  share, remainder = divmod(num_examples, hvd_size())
  rank = hvd_rank()
  start = rank * share + min(rank, remainder)
  return start, start + share + (1 if rank < remainder else 0)


def record_file(path):
  """The record file that this rank writes: `path`, or `path_<rank>`.

  The name carries the rank in the whole run, so that servers that share a
  disk don't write one file.

  Args:
    path: string, name for a run of one rank.
  """
  return _rank_file(path, hvd_rank())


def server_record_files(path):
  """The record files that the ranks of this server wrote, by local rank."""
  if not horovod_enabled():
    return [path]
  # Launchers may deal ranks out to servers in turn, so ask who is here.
  with tf.device("CPU:0"):
    servers = hvd.allgather_object(socket.gethostname(), name="servers")
  return [_rank_file(path, rank) for rank, server in enumerate(servers)
          if server == servers[hvd_rank()]]


def _rank_file(path, rank):
  return f"{path}_{rank}" if horovod_enabled() else path


def shard(dataset):
  """This rank's share of the records of `server_record_files`."""
  if not horovod_enabled():
    return dataset
  return dataset.shard(hvd_local_size(), hvd_local_rank())


def training_hooks():
  """Session hooks that make all ranks start from rank 0's variables."""
  return [hvd.BroadcastGlobalVariablesHook(0)] if horovod_enabled() else []


def condition_env_var(name, default=False):
  """Reads a yes-or-no environment variable.

  Args:
    name: string.
    default: bool, value where the variable is not set.

  Returns:
    bool.

  Raises:
    ValueError: the variable holds some other word.

  Source: Habana's `condition_env_var`, the same words.
  """
  words = {
      **dict.fromkeys(("1", "t", "true", "y", "yes", "enable", "enabled"),
                      True),
      **dict.fromkeys(("0", "f", "false", "n", "no", "disable", "disabled"),
                      False)}
  value = os.environ.get(name)
  if value is None:
    return default
  if value.lower() not in words:
    raise ValueError(f"{name}={value} in the environment: expected one of "
                     f"{', '.join(sorted(words))}.")
  return words[value.lower()]


def session_config():
  """The ConfigProto of training and evaluation sessions.

  Turns the ScopedAllocator on for Horovod's allreduce, which merges the
  gradients of many variables into one buffer, unless the environment variable
  TF_DISABLE_SCOPED_ALLOCATOR is true. On a GPU machine each rank gets the GPU
  of its local rank.

  Returns:
    ConfigProto, or None for the Estimator's own.

  Raises:
    ValueError: TF_DISABLE_SCOPED_ALLOCATOR holds an unknown word.

  Source: Habana's run_squad; see CHANGES.
  """
  if condition_env_var("TF_DISABLE_SCOPED_ALLOCATOR", default=False):
    return None
  # The two settings that the Estimator makes where it is given none.
  config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
  rewrite = config.graph_options.rewrite_options
  rewrite.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
  rewrite.scoped_allocator_optimization = rewriter_config_pb2.RewriterConfig.ON
  rewrite.scoped_allocator_opts.enable_op[:] = ["HorovodAllreduce"]
  if horovod_enabled() and tf.config.list_physical_devices("GPU"):
    # The same GPU as `_take_own_gpu` chose for code outside of sessions.
    config.gpu_options.visible_device_list = str(hvd_local_rank())
  return config
