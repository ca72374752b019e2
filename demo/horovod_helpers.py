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

import enum
import functools
import importlib
import os
import re
import socket
import threading

from absl import logging
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from demo.perf_helpers import PerfLoggingHook  # noqa: F401, for scripts
from habana import bf16
from habana import load_habana_module
from habana import synapse_logger
from habana.synapse_logger import SynapseLoggerType

INSTALL_HOROVOD = (
    "HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 "
    "pip install --no-build-isolation horovod==0.28.1 (or `make setup`)")

# Variables of the launchers that tell a process its place: Open MPI,
# horovodrun, Hydra (MPICH, Intel MPI), and Slurm's srun. The first launcher
# whose size is set is the one that counts. Slurm's are those of a step: those
# of a job are also set where nothing was started but the batch script.
_LAUNCHERS = (
    dict(size="OMPI_COMM_WORLD_SIZE", rank="OMPI_COMM_WORLD_RANK",
         local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
         local_rank="OMPI_COMM_WORLD_LOCAL_RANK"),
    dict(size="HOROVOD_SIZE", rank="HOROVOD_RANK",
         local_size="HOROVOD_LOCAL_SIZE", local_rank="HOROVOD_LOCAL_RANK"),
    dict(size="PMI_SIZE", rank="PMI_RANK", local_size="MPI_LOCALNRANKS",
         local_rank="MPI_LOCALRANKID"),
    dict(size="SLURM_STEP_NUM_TASKS", rank="SLURM_PROCID",
         local_size="SLURM_STEP_TASKS_PER_NODE", local_rank="SLURM_LOCALID"),
)

# Threads that a rank computes with, read by TensorFlow.
_THREADS_VARIABLE = "TF_NUM_INTRAOP_THREADS"
# Variables that a reader of a log wants to know.
_SHOWN_VARIABLES = (
    "MULTI_HLS_IPS", "HCL_CONFIG_PATH", "NUM_WORKERS_PER_HLS",
    "HABANA_INITIAL_WORKSPACE_SIZE_MB", "TF_ENABLE_BF16_CONVERSION",
    "TF_BF16_CONVERSION", _THREADS_VARIABLE)
# Folders and names for dumped graphs, which ranks must not share.
_PREFIX_VARIABLES = (
    "TF_RANK_PREFIX", "HBN_TF_GRAPH_PREFIX", "TF_DUMP_GRAPH_PREFIX")

# In an exception: an exchange with other ranks has failed.
_LOST_RANK = re.compile(
    r"HorovodInternalError|Horovod has been shut down|"
    r"Horovod(Allreduce|Allgather|Broadcast)")

# Of `gather_to_chief`, all ranks together.
_ITEMS_UNDER_WAY = 64

# Seconds after which a job ends whose ranks wait for each other. A rank may be
# late for a good reason, such as a large checkpoint or more text to convert.
_STALL_SECONDS = "1800"

# Where ranks compute on the CPU, what waits for other ranks must leave it to
# them: with Horovod's 1 ms between two looks at what is ready (cycle, in ms),
# and MPI waiting in a loop, two ranks of one core each lose a quarter.
_CPU_SETTINGS = {"HOROVOD_CYCLE_TIME": "20",
                 "OMPI_MCA_mpi_yield_when_idle": "1"}

# Seconds in which other ranks are told of a failure before this one ends.
_LAST_WORDS_TIMEOUT = 5.0

# Steps that HABANA_SYNAPSE_LOGGER=range records.
_SYNAPSE_STEPS = 10


class Framework(enum.Enum):
  """The forms of Horovod for TensorFlow."""
  TENSORFLOW = 0
  KERAS = 1


_MODULES = {Framework.TENSORFLOW: "horovod.tensorflow",
            Framework.KERAS: "horovod.tensorflow.keras"}


class OtherRankError(Exception):
  """Another rank failed, and has said why."""


class _LazyHorovod(object):
  """Stands for a module of Horovod, imported at first use."""

  def __init__(self):
    self._module = None

  def __getattr__(self, name):
    # Tools that look a module over (inspect, pickle, doctest) ask for dunder
    # names; that must not start anything.
    if name.startswith("__"):
      raise AttributeError(name)
    return getattr(self.load(), name)

  def load(self, framework=Framework.TENSORFLOW):
    """Imports Horovod, in the form that is asked for first.

    Raises:
      ValueError: Horovod is missing or broken; says how to install it.
    """
    if self._module is None:
      try:
        self._module = importlib.import_module(_MODULES[framework])
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


def hvd_init(framework=Framework.TENSORFLOW):
  """Starts Horovod and returns its module; a second call does nothing.

  Args:
    framework: Framework.

  Raises:
    ValueError: Horovod is missing, or was not built for the launcher in use.
  """
  module = hvd.load(framework)
  module.init()
  if comm_size() > 1 and module.size() != comm_size():
    raise ValueError(
        f"The launcher started {comm_size()} processes, but Horovod sees "
        f"{module.size()}: it was not built for this launcher. Start with the "
        f"mpirun of the MPI that Horovod was built with (Slurm: srun "
        f"--mpi=pmix), or with horovodrun --gloo; horovodrun --check-build "
        f"shows what it was built with.")
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


def hvd_rank_prefix():
  """What sets this rank's files apart: "rank_<rank>_", "" with one rank."""
  return f"rank_{hvd_rank()}_" if horovod_enabled() else ""


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
  """What the launcher's variables say; `alone` (int) without a launcher."""
  names = next((x for x in _LAUNCHERS if os.environ.get(x["size"])), None)
  value = names and os.environ.get(names[what])
  if not value:
    return alone
  if names[what] == "SLURM_STEP_TASKS_PER_NODE":
    value = _tasks_of_node(value, os.environ.get("SLURM_NODEID", "0"))
  if not value.isdigit():
    raise ValueError(
        f"{names[what]}={value} in the environment: expected a number. Unset "
        f"it, or start with mpirun or horovodrun.")
  return int(value)


def _tasks_of_node(counts, node):
  """Slurm's "4(x2),1" for nodes 0 to 2: 4, 4 and 1 (a string of digits)."""
  expanded = []
  for count in counts.split(","):
    found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", count.strip())
    if not found:
      return counts
    expanded += [found[1]] * int(found[2] or 1)
  return expanded[int(node)] if node.isdigit() and int(node) < len(
      expanded) else counts


def start_ranks(use_horovod, cpu_only, fp16_allreduce=False,
                bf16_config_path=None):
  """Loads the device library and starts Horovod, where asked for.

  Horovod is switched on by `--use_horovod` or by being one of several
  processes that mpirun, horovodrun or srun started. Call it before the first
  graph.

  Args:
    use_horovod: bool, the flag.
    cpu_only: bool, the flag: no accelerator is used and the device library is
      not touched.
    fp16_allreduce: bool, the flag: gradients travel as float16.
    bf16_config_path: string or None, the flag.

  Raises:
    ValueError: Horovod is missing, or a device library can't be loaded.
  """
  if comm_rank() > 0 and logging.get_verbosity() == logging.INFO:
    logging.set_verbosity(logging.WARNING)  # Rank 0 speaks.
  if cpu_only:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
  else:
    if bf16_config_path:
      bf16.set_config(bf16_config_path)
    _state["has_device"] = load_habana_module()
    if not _state["has_device"] and (
        bf16_config_path or
        synapse_logger.wanted_type() != SynapseLoggerType.NONE):
      logging.warning("There is no Gaudi device here: --bf16_config_path and "
                      "%s have no effect.", synapse_logger.ENVIRONMENT_VARIABLE)
  if use_horovod or comm_size() > 1:
    _start_horovod(use_horovod, fp16_allreduce)
  if _state["has_device"]:
    synapse_logger_init()


def _start_horovod(use_horovod, fp16_allreduce):
  """Starts Horovod, and sets this process up as one rank among others."""
  # A job whose ranks wait for each other for ever would never end.
  os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", _STALL_SECONDS)
  if not _state["has_device"] and not tf.config.list_physical_devices("GPU"):
    for name, value in _CPU_SETTINGS.items():
      os.environ.setdefault(name, value)
    if comm_local_size() > 1:  # Each would take as many as there are cores.
      os.environ.setdefault(_THREADS_VARIABLE, str(share_of_cores()))
  module = hvd_init()
  _take_own_gpu()
  if fp16_allreduce:
    _state["reduction_options"] = {"compression": module.Compression.fp16}
  if horovod_enabled():
    for name in _PREFIX_VARIABLES[:2]:
      os.environ.setdefault(name, "")
    for name in _PREFIX_VARIABLES:
      if name in os.environ:
        os.environ[name] += hvd_rank_prefix()
  if is_chief():
    logging.info(
        "Horovod runs %d rank(s), %d on this server%s.", hvd_size(),
        hvd_local_size(), "" if use_horovod else
        ": switched on since a launcher started several processes")
    for name in _SHOWN_VARIABLES:
      if name in os.environ:
        logging.info("%s: %s = %s", socket.gethostname(), name,
                     os.environ[name])


# What `start_ranks` found out: whether the device library is loaded, and
# arguments of hvd.DistributedOptimizer that flags ask for.
_state = {"has_device": False, "reduction_options": {}}


def has_device():
  """Whether the device library (Gaudi's) is loaded."""
  return _state["has_device"]


def reduction_options():
  """Further arguments of `hvd.DistributedOptimizer` (dict)."""
  return _state["reduction_options"]


def _take_own_gpu():
  """Gives each rank its GPU, where there are GPUs.

  Before anything runs on one: TensorFlow maps GPUs once in a process.
  """
  index = _own_gpu()
  if index is not None:
    gpus = tf.config.list_physical_devices("GPU")
    tf.config.set_visible_devices(gpus[index], "GPU")


def _own_gpu():
  """Index of this rank's GPU among those it sees, None without GPUs."""
  gpus = tf.config.list_physical_devices("GPU")
  if not horovod_enabled() or not gpus:
    return None
  if len(gpus) == 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
    return 0  # Dealt out by the launcher, as srun --gpus-per-task does.
  if hvd_local_size() > len(gpus):
    raise ValueError(
        f"{hvd_local_size()} ranks on a server of {len(gpus)} GPU(s): start "
        f"one rank per GPU (mpirun -np {len(gpus)}), or pass --cpu_only.")
  return hvd_local_rank()


def share_of_cores():
  """The CPU cores that this process may use; ranks of a server share them."""
  share = os.cpu_count() // comm_local_size()
  return max(min(len(os.sched_getaffinity(0)), share), 1)


def is_chief():
  """Whether this is rank 0, which alone saves, evaluates and reports."""
  return hvd_rank() == 0


def gather(value, name="gather"):
  """Exchanges a value among all ranks.

  Args:
    value: picklable.
    name: string; ranks exchange with those that gave the same name.

  Returns:
    List with the value of each rank, by rank.
  """
  if not horovod_enabled():
    return [value]
  with tf.device("CPU:0"):
    return hvd.allgather_object(value, name=name)


def gather_to_chief(items):
  """Brings lists of all ranks to rank 0, a few items at a time.

  Args:
    items: list of picklables.

  Returns:
    List with the list of each rank, by rank; None on the other ranks.
  """
  lists = [[] for _ in range(hvd_size())]
  # Horovod sends what is under way to all ranks, 2 GiB at most.
  at_a_time = max(_ITEMS_UNDER_WAY // hvd_size(), 1)
  for first in range(0, max(gather(len(items))), at_a_time):
    for whole, part in zip(lists, gather(items[first:first + at_a_time])):
      if is_chief():
        whole.extend(part)
  return lists if is_chief() else None


def barrier():
  """Waits until every rank has come here.

  Raises:
    OtherRankError: one ended on its way, see `last_words`.
  """
  if any(gather(None, "barrier")):
    raise OtherRankError()


def last_words(message):
  """On a rank that can't go on: tells the ranks that wait at a barrier.

  Args:
    message: string, what happened.

  Returns:
    string, what this rank shall print; None if another rank prints the same.
  """
  if not horovod_enabled():
    return on_this_rank(message)
  messages = []  # By rank; None of one that waits at a barrier.

  def exchange():
    try:
      messages.extend(gather(message, "barrier"))
    except Exception:  # pylint: disable=broad-except
      pass  # Horovod is at its end too.

  thread = threading.Thread(target=exchange, daemon=True)
  thread.start()
  thread.join(_LAST_WORDS_TIMEOUT)
  if not messages:  # The others are at work, or gone.
    return on_this_rank(message)
  if messages.index(message) != hvd_rank():
    return None
  return message if set(messages) == {message} else on_this_rank(message)


def on_this_rank(message):
  """A message (string) that says which rank it is of, if there are several."""
  size = max(hvd_size(), comm_size())
  if size == 1:
    return message
  rank = hvd_rank() if horovod_enabled() else comm_rank()
  return f"rank {rank} of {size} on {socket.gethostname()}: {message}"


def check_agreement(values):
  """Waits for all ranks, and refuses where they were given different things.

  Args:
    values: dict name -> string, in words that tell a user what it is.

  Raises:
    ValueError: names what differs, on which rank.
    OtherRankError: see `barrier`.
  """
  barrier()
  first = {}  # name -> (rank, server, value) of the first rank that has it.
  for rank, (server, values) in enumerate(
      gather((socket.gethostname(), values))):
    for name, value in values.items():
      known = first.setdefault(name, (rank, server, value))
      if known[2] != value:
        raise ValueError(
            f"{name} differs between ranks: {known[2]} on rank {known[0]} ("
            f"{known[1]}), {value} on rank {rank} ({server}). All ranks need "
            f"the same flags, files and version of this project.")


def is_lost_rank(error):
  """Whether an exception means that another rank does not answer any more."""
  return hvd.is_loaded and bool(_LOST_RANK.search(
      f"{type(error).__name__} {error}"))


def max_of_ranks(tensor):
  """In a graph: the largest of the ranks' values of a tensor."""
  if not horovod_enabled():
    return tensor
  # Call it once in a name scope: two of a scope the ScopedAllocator would
  # merge, which Horovod's operation for CPUs can't stand.
  return hvd.allreduce(tensor, op=hvd.Max, name="max_of_ranks")


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
  """The record files that the ranks of this server wrote, by rank."""
  if not horovod_enabled():
    return [path]
  return [_rank_file(path, rank) for rank in _ranks_of_server()]


def _rank_file(path, rank):
  return f"{path}_{rank}" if horovod_enabled() else path


@functools.lru_cache(maxsize=None)
def _ranks_of_server():
  """The ranks (list of int) that share this one's disk.

  Launchers may deal ranks out to servers in turn, so all are asked who they
  are. Containers may have one name on several machines, or one machine and
  several names.
  """
  try:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as reader:
      machine = reader.read()
  except OSError:
    machine = ""
  servers = gather((socket.gethostname(), machine), "servers")
  return [rank for rank, server in enumerate(servers)
          if server == servers[hvd_rank()]]


def shard(dataset):
  """This rank's share of the records of `server_record_files`."""
  if not horovod_enabled():
    return dataset
  ranks = _ranks_of_server()
  return dataset.shard(len(ranks), ranks.index(hvd_rank()))


def is_own_batch(number):
  """Whether a batch of a distributed prediction (int, from 0) is this rank's.

  Batches are dealt out in turn, so that each is what it is with one rank.
  """
  return number % hvd_size() == hvd_rank()


def broadcast_hooks():
  """Session hooks that give all ranks the values of rank 0's variables."""
  return [hvd.BroadcastGlobalVariablesHook(0)] if horovod_enabled() else []


def synapse_logger_init():
  """Makes the Synapse logger ready, where the environment asks for it."""
  wanted = synapse_logger.wanted_type()
  if wanted != SynapseLoggerType.NONE:
    synapse_logger.init(hvd_rank(), wanted)


def synapse_logger_start(step_idx, profile_hw=False):
  """Starts a record of the Synapse logger.

  Args:
    step_idx: int, step that it starts with, for the name of its file.
    profile_hw: bool; traces of the hardware are not taken, a warning says so.
  """
  if profile_hw:
    logging.warning("The Synapse logger takes no traces of the hardware here.")
  synapse_logger.start(hvd_rank(), step_idx)


def synapse_logger_stop(profile_hw=False):
  """Stops the record; `profile_hw` as in `synapse_logger_start`."""
  del profile_hw
  synapse_logger.stop()


def synapse_logger_log(msg):
  """Puts a message (string) into the record."""
  synapse_logger.log(msg)


class SynapseLoggerHook(tf.estimator.SessionRunHook):
  """Records some steps of a training with the Synapse logger.

  Steps are counted from 0 since the training was started or resumed.

  Source: Habana's hook of this name.
  """

  def __init__(self, steps_to_log, profile_hw=False):
    """Takes the steps.

    Args:
      steps_to_log: iterable of int.
      profile_hw: bool, see `synapse_logger_start`.
    """
    self._steps = frozenset(steps_to_log)
    self._profile_hw = profile_hw
    self._step = 0

  def before_run(self, run_context):
    if self._step not in self._steps:
      return
    if self._step - 1 not in self._steps:
      synapse_logger_start(self._step, self._profile_hw)
    synapse_logger_log(f"B step {self._step}")

  def after_run(self, run_context, run_values):
    self._step += 1
    if self._step - 1 not in self._steps:
      return
    synapse_logger_log(f"E step {self._step - 1}")
    if self._step not in self._steps:
      synapse_logger_stop(self._profile_hw)

  def end(self, session):
    if self._step > 0 and {self._step - 1, self._step} <= self._steps:
      synapse_logger_stop(self._profile_hw)


def synapse_hooks(first_step):
  """The hook that HABANA_SYNAPSE_LOGGER=range asks for, in a list.

  Args:
    first_step: int, the first step that is recorded.
  """
  if not _state["has_device"] or (
      synapse_logger.wanted_type() != SynapseLoggerType.RANGE):
    return []
  end = first_step + _SYNAPSE_STEPS
  logging.info("Synapse logger: Begin: %d End: %d", first_step, end)
  return [SynapseLoggerHook(list(range(first_step, end)))]


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

  Turns the ScopedAllocator on for Horovod's allreduce, as Habana's port does,
  unless the environment variable TF_DISABLE_SCOPED_ALLOCATOR is true. It would
  merge the gradients of many variables into one buffer; those of Horovod 0.28.1
  it leaves alone, since each is in a name scope of its own. On a GPU machine
  each rank gets its own GPU.

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
  own_gpu = _own_gpu()
  if own_gpu is not None:  # As `_take_own_gpu` has it outside of sessions.
    config.gpu_options.visible_device_list = str(own_gpu)
  return config
