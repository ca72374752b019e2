# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Starts a script on many ranks, on one server or several.

  python -m demo.launch -np 4 -- run_squad.py --do_train ...
  python -m demo.launch -np 8 -H a:4,b:4 --restarts 3 -- run_classifier.py ...

Prints the mpirun (or horovodrun) command that it makes: every rank gets its
share of the cores, as many threads, and the environment that matters. Each
rank's output goes to rank_<rank>.log; rank 0's is also shown. SIGTERM and
Ctrl-C let the ranks save a checkpoint first; a second one ends them at once.
"""

import argparse
import collections
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import psutil

# No TensorFlow here: it would take seconds, and memory for the whole run.
_PROJECT_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_GRACE_SECONDS = 60  # For a checkpoint, after a request to end.
_RESTART_SECONDS = 3

_FORWARDED = re.compile(
    r"(TF|HOROVOD|NCCL|CUDA|XLA|OMP|KMP|MKL|HABANA|HCL)_.*|PYTHON.*|"
    r"PATH|LD_LIBRARY_PATH|LD_PRELOAD|TMPDIR|BUILD_ROOT_LATEST")

# How mpirun --tag-output and horovodrun mark what a rank writes.
_TAG = re.compile(r"\[(?:\d+,)?(\d+)\]<(stdout|stderr|stddiag)>:")
# What launchers say of the rank that ended first.
_SIGNALLED = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited "
                        r"on signal (\d+)")
_NAMED = re.compile(r"Process name: (?:\[\[\d+,\d+\],)?(\d+)")
_EXIT_CODE = re.compile(r"Exit code:\s+(\d+)")
# The line with which a script begins to train.
_TRAINS = "***** Running training *****"
# Lines with which a script says no; a second start would say it again.
_REFUSAL = re.compile(
    r"\.py: error: (?!.*(?:a fault of the program|another rank ended))")


# Each launcher sets one of these for its ranks.
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "PMI_RANK")

_PR_SET_PDEATHSIG = 1  # Of Linux, sys/prctl.h.


class Host(collections.namedtuple("Host", ["name", "slots"])):
  """A server and how many ranks it takes."""


def end_with_parent():
  """In the new process: it gets SIGTERM should this program be killed."""
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def say(message):
  """Prints a line of the launcher's own."""
  print(f"launch: {message}", file=sys.stderr, flush=True)


def parse_hosts(text):
  """"a:4,b:4" -> list of Host; without a number a server takes one rank.

  Raises:
    ValueError: a part is no name with a number above 0.
  """
  hosts = []
  for part in text.split(","):
    name, _, slots = part.strip().partition(":")
    if not name or not (slots or "1").isdigit() or int(slots or 1) < 1:
      raise ValueError(f"-H {text}: {part!r} is not a server and a number of "
                       f"ranks, such as node1:4.")
    hosts.append(Host(name, int(slots or 1)))
  return hosts


def read_hostfile(path):
  """Reads lines such as "node1 slots=4"; what follows # is passed over.

  Raises:
    ValueError: it can't be read, or a line is of another form.
  """
  hosts = []
  try:
    with open(path, encoding="utf-8") as reader:
      lines = reader.read().splitlines()
  except (OSError, ValueError) as error:
    raise ValueError(f"--hostfile {path} can't be read ({error}).") from error
  for number, line in enumerate(lines, 1):
    line = line.split("#")[0].strip()
    if not line:
      continue
    found = re.fullmatch(r"([^\s:=]+)(?:(?::|\s+slots\s*=\s*)(\d+))?", line)
    if not found or int(found[2] or 1) < 1:
      raise ValueError(f"--hostfile {path}, line {number}: {line!r} is not of "
                       f"the form 'node1 slots=4'.")
    hosts.append(Host(found[1], int(found[2] or 1)))
  if not hosts:
    raise ValueError(f"--hostfile {path} names no server.")
  return hosts


def num_cores():
  """Cores that this process may use, hardware threads of one counted once."""
  cores = set()
  for cpu in os.sched_getaffinity(0):
    path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
      with open(path, encoding="ascii") as reader:
        cores.add(reader.read())
    except OSError:
      cores.add(cpu)
  return len(cores)


def make_command(options, environment):
  """Builds the launcher's command.

  Args:
    options: argparse.Namespace of `parse_arguments`.
    environment: dict, the environment of this process; what the ranks need
      is added.

  Returns:
    List of string.

  Raises:
    ValueError: the ranks don't fit the servers, or there is no launcher.
  """
  local_ranks = options.np
  if options.hosts:
    slots = sum(host.slots for host in options.hosts)
    if options.np > slots:
      raise ValueError(
          f"-np {options.np}: the servers take {slots} rank(s) in all ("
          + ", ".join(f"{host.name}:{host.slots}" for host in options.hosts)
          + ").")
    local_ranks = min(options.np, max(host.slots for host in options.hosts))
  cores = num_cores()
  threads = options.threads or max(cores // local_ranks, 1)
  for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
    if options.threads:
      environment[name] = str(threads)
    environment.setdefault(name, str(threads))
  environment.setdefault("PYTHONUNBUFFERED", "1")
  if options.interface:
    environment["NCCL_SOCKET_IFNAME"] = options.interface
  fits = threads * local_ranks <= cores
  say(f"{local_ranks} rank(s) on a server with {cores} core(s): "
      f"{environment['TF_NUM_INTRAOP_THREADS']} thread(s) each"
      f"{'' if fits else ', which share cores'}.")
  program = [sys.executable, *options.command]
  if options.gloo:
    return _horovodrun(options) + program
  return _mpirun(options, environment, threads if fits else None) + program


def _mpirun(options, environment, cores_per_rank):
  """Command of Open MPI; `cores_per_rank` is None where they are shared."""
  path = shutil.which("mpirun")
  if path is None:
    raise ValueError("There is no mpirun: install Open MPI (apt-get install "
                     "openmpi-bin libopenmpi-dev, then make setup), or pass "
                     "--gloo.")
  command = [path, "-np", str(options.np), "--tag-output"]
  if os.geteuid() == 0:
    command.append("--allow-run-as-root")
  if options.hosts:
    command += ["-H", ",".join(f"{h.name}:{h.slots}" for h in options.hosts)]
  if cores_per_rank is None:
    command += ["--oversubscribe", "--bind-to", "none"]
  elif options.bind == "none":
    command += ["--bind-to", "none"]
  else:
    command += ["--map-by", f"slot:PE={cores_per_rank}", "--bind-to", "core"]
  # A rank that waits lets others work.
  command += ["--mca", "mpi_yield_when_idle", "1"]
  if options.interface:
    for layer in ("btl", "oob"):
      command += ["--mca", f"{layer}_tcp_if_include", options.interface]
  ssh = _ssh_arguments(options)
  if ssh:
    command += ["--mca", "plm_rsh_args", ssh]
  forwarded = sorted(
      name for name in environment if _FORWARDED.fullmatch(name))
  for name in forwarded + options.forward:
    command += ["-x", name]
  return command + options.mpi_args


def _horovodrun(options):
  """Command of Horovod's launcher, which forwards the whole environment."""
  path = os.path.join(os.path.dirname(sys.executable), "horovodrun")
  if not os.path.exists(path):
    raise ValueError(f"--gloo: there is no {path}. make setup installs "
                     f"Horovod.")
  command = [path, "--gloo", "-np", str(options.np)]
  if options.hosts:
    command += ["-H", ",".join(f"{h.name}:{h.slots}" for h in options.hosts)]
  if options.interface:
    command += ["--network-interface", options.interface]
  if options.ssh_port:
    command += ["-p", str(options.ssh_port)]
  return command


def _ssh_arguments(options):
  port = f"-p {options.ssh_port}" if options.ssh_port else ""
  return " ".join(part for part in (port, options.ssh_args) if part)


class _Launcher(object):
  """Starts the ranks, takes what they write, and passes signals on.

  Attributes:
    stopped_by: int or None, the signal that asked for the end.
    failed: string or None, which rank of the last start ended first, and how.
    refused: bool, a script of the last start said why it can't run.
  """

  def __init__(self, log_dir, is_gloo):
    self._log_dir, self._is_gloo = log_dir, is_gloo
    self._process = None
    self.stopped_by = None

  def run(self, command, environment):
    """One start, to its end; returns the exit status of the command."""
    self._logs = {}
    self._begun = collections.defaultdict(str)  # (rank, stream) -> text.
    self._tails = collections.defaultdict(lambda: collections.deque(maxlen=5))
    self._failed_rank = self.failed = None
    self.refused = self._has_trained = False
    # In a session of its own, so that Ctrl-C comes here alone.
    self._process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True, preexec_fn=end_with_parent)
    try:
      if self.stopped_by is not None:  # While it was started.
        self._process.terminate()
      for line in self._process.stdout:
        self._take(line.rstrip("\n"))
      return self._process.wait()
    finally:
      for (rank, _), text in sorted(self._begun.items()):
        self._take_line(rank, text)
      for log in self._logs.values():
        log.close()
      signal.alarm(0)

  def on_signal(self, number, frame):
    """Asks the ranks to save and end; the second time, ends them."""
    del frame
    is_first, self.stopped_by = self.stopped_by is None, number
    if self._process is None or self._process.poll() is not None:
      return
    if not is_first:
      self._process.terminate()
      return
    say("The ranks are asked to save a checkpoint and end.")
    if not self._is_gloo:  # mpirun passes it on to all ranks.
      self._process.send_signal(signal.SIGUSR1)
    elif not self._signal_a_rank():
      self._process.terminate()
    signal.alarm(_GRACE_SECONDS)

  def _signal_a_rank(self):
    """Asks a rank of this server, which asks the others; False without one."""
    for process in psutil.Process(self._process.pid).children(recursive=True):
      try:
        if "HOROVOD_RANK" in process.environ():
          process.send_signal(signal.SIGUSR1)
          return True
      except psutil.Error:
        continue
    return False

  def on_alarm(self, number, frame):
    """The ranks did not end in time."""
    del number, frame
    say(f"They have not ended in {_GRACE_SECONDS} s: they are killed.")
    self._process.terminate()

  def _take(self, line):
    """Sorts a line of output, in which several ranks may have written."""
    first, *parts = _TAG.split(line)  # Rank, stream and text in turn.
    if not parts:
      self._note_end(line)
    if first.strip():
      print(first, flush=True)
    while parts:
      key, text = (int(parts[0]), parts[1]), parts[2]
      del parts[:3]
      self._begun[key] += text
      if not parts:  # The others have not come to the end of their lines.
        self._take_line(key[0], self._begun.pop(key))

  def _take_line(self, rank, text):
    """Takes a whole line of a rank."""
    if rank not in self._logs:
      path = os.path.join(self._log_dir, f"rank_{rank}.log")
      self._logs[rank] = open(path, "a", encoding="utf-8", buffering=1)
    self._logs[rank].write(text + "\n")
    self._tails[rank].append(text)
    # What stops a training on its way, such as a full disk, may pass.
    self._has_trained = self._has_trained or _TRAINS in text
    self.refused = self.refused or (
        not self._has_trained and bool(_REFUSAL.search(text)))
    if rank == 0 or ".py: error:" in text:
      print(text, flush=True)

  def _note_end(self, line):
    """Remembers what the launcher says of the first rank that ended."""
    found = _SIGNALLED.search(line)
    if found:
      number = int(found[3])
      self._failed_rank = int(found[1])
      self.failed = (
          f"rank {found[1]} on {found[2]} was ended by signal {number} "
          f"({signal.strsignal(number)})"
          + (", often for lack of memory" if number == signal.SIGKILL else ""))
    found = _NAMED.search(line)
    if found and self._failed_rank is None:
      self._failed_rank = int(found[1])
    found = _EXIT_CODE.search(line)
    if found and self.failed is None and self._failed_rank is not None:
      self.failed = f"rank {self._failed_rank} ended with status {found[1]}"

  def report(self):
    """Says which rank failed, and with what last words."""
    if self.failed is None:
      return
    path = os.path.join(self._log_dir, f"rank_{self._failed_rank}.log")
    say(f"{self.failed}. The end of {path}:")
    for text in self._tails[self._failed_rank]:
      print(f"  {text}", flush=True)


def launch(options):
  """Starts the ranks, and again after a failure; returns an exit status."""
  environment = dict(os.environ)
  for item in options.set_variables:
    name, _, value = item.partition("=")
    environment[name] = value
  command = make_command(options, environment)
  print(shlex.join(command), flush=True)
  if options.dry_run:
    return 0
  os.makedirs(options.log_dir, exist_ok=True)
  launcher = _Launcher(options.log_dir, options.gloo)
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, launcher.on_signal)
  signal.signal(signal.SIGALRM, launcher.on_alarm)
  for start in range(options.restarts + 1):
    status = launcher.run(command, environment)
    if status == 0:
      return 0
    if launcher.stopped_by is None:
      launcher.report()
      if launcher.refused or start == options.restarts:
        break
      say(f"Start {start + 2} of {options.restarts + 1}, from "
          f"{_newest_checkpoint(options)}.")
      time.sleep(_RESTART_SECONDS)
    if launcher.stopped_by is not None:
      return 128 + launcher.stopped_by
  return status if 0 < status < 256 else 1


def _output_dir(command):
  """The script's --output_dir (string), or None."""
  for index, word in enumerate(command):
    found = re.fullmatch(r"--?output_dir(?:=(.*))?", word)
    if found:
      return found[1] if found[1] is not None else (
          command[index + 1] if index + 1 < len(command) else None)
  return None


def _newest_checkpoint(options):
  """Its name, or "the beginning"."""
  output_dir = _output_dir(options.command)
  try:
    with open(os.path.join(output_dir or ".", "checkpoint"),
              encoding="utf-8") as reader:
      found = re.match(r'model_checkpoint_path: "(.*)"', reader.read())
  except OSError:
    found = None
  return os.path.basename(found[1]) if found else "the beginning"


def parse_arguments(arguments):
  """Parses the command line.

  Args:
    arguments: list of string, without the program's name.

  Returns:
    argparse.Namespace.

  Raises:
    ValueError: what is given can't work.
  """
  parser = argparse.ArgumentParser(
      prog="python -m demo.launch", formatter_class=argparse.HelpFormatter,
      description="Starts a script on many ranks.", allow_abbrev=False)
  parser.add_argument("-np", type=int, required=True, metavar="N",
                      help="ranks in all")
  where = parser.add_mutually_exclusive_group()
  where.add_argument("-H", dest="hosts", metavar="HOST:SLOTS,...",
                     help="servers and how many ranks each takes")
  where.add_argument("--hostfile", metavar="FILE",
                     help="the same as a file: lines 'node1 slots=4'")
  parser.add_argument("--restarts", type=int, default=0, metavar="K",
                      help="after a failure start again, from the last "
                      "checkpoint, up to K times")
  parser.add_argument("--dry_run", action="store_true",
                      help="print the command and do nothing")
  parser.add_argument("--gloo", action="store_true",
                      help="use horovodrun --gloo instead of mpirun")
  parser.add_argument("--log_dir", metavar="DIR",
                      help="folder of rank_<rank>.log (default: logs in the "
                      "script's --output_dir)")
  parser.add_argument("--threads", type=int, metavar="N",
                      help="threads per rank (default: its share of the cores)")
  parser.add_argument("--bind", choices=["core", "none"], default="core",
                      help="whether ranks are bound to their cores")
  parser.add_argument("--interface", metavar="NAME",
                      help="network interface between the servers")
  parser.add_argument("--ssh_port", type=int, metavar="PORT",
                      help="where sshd listens on the servers")
  parser.add_argument("--ssh_args", default="", metavar="ARGS",
                      help="further arguments of ssh, in one word (mpirun)")
  parser.add_argument("--mpi_args", default="", metavar="ARGS",
                      help="further arguments of mpirun, in one word")
  parser.add_argument("-x", dest="forward", action="append", default=[],
                      metavar="NAME[=VALUE]",
                      help="environment variable for the ranks, beside those "
                      "of TensorFlow, Horovod, NCCL, Gaudi and Python")
  parser.add_argument("command", nargs=argparse.REMAINDER,
                      metavar="-- SCRIPT FLAGS ...")
  options = parser.parse_args(arguments)
  if options.command[:1] == ["--"]:
    del options.command[0]
  if not options.command:
    raise ValueError("Name a script after --: python -m demo.launch -np 2 -- "
                     "run_squad.py ...")
  script = options.command[0]
  if not os.path.exists(script):
    own = os.path.join(_PROJECT_FOLDER, script)
    if not os.path.exists(own):
      raise ValueError(f"{script} is neither here nor in "
                       f"{_PROJECT_FOLDER}.")
    options.command[0] = own
  for name, least in (("np", 1), ("restarts", 0), ("threads", 1)):
    value = getattr(options, name)
    if value is not None and value < least:
      raise ValueError(f"{'-' if name == 'np' else '--'}{name} {value} has to "
                       f"be {least} or more.")
  if any(name in os.environ for name in _RANK_VARIABLES):
    raise ValueError("This is a rank of mpirun or horovodrun already: start "
                     "the script itself here.")
  if options.hosts:
    options.hosts = parse_hosts(options.hosts)
  elif options.hostfile:
    options.hosts = read_hostfile(options.hostfile)
  if options.gloo and (options.ssh_args or options.mpi_args):
    raise ValueError("--ssh_args and --mpi_args are for mpirun: leave --gloo "
                     "out, or put them into ~/.ssh/config.")
  options.mpi_args = shlex.split(options.mpi_args)
  options.set_variables = [item for item in options.forward if "=" in item]
  options.forward = [item.partition("=")[0] for item in options.forward]
  options.log_dir = options.log_dir or os.path.join(
      _output_dir(options.command) or ".", "logs")
  return options


def main():
  """Runs the command line."""
  try:
    sys.exit(launch(parse_arguments(sys.argv[1:])))
  except (ValueError, OSError) as error:
    print(f"launch: error: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  main()
