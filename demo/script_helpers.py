# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What every script does around its own story: errors, files, bars."""

import contextlib
import gzip
import hashlib
import os
import re
import signal
import socket
import sys
import time
import traceback
import zlib

from absl import app
from absl import flags
from absl import logging
import tensorflow as tf
import tqdm

from demo import checkpoint_helpers
from demo import horovod_helpers

PROJECT_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What a user can cause. Other exceptions are bugs and keep their traceback.
_FILE_ERRORS = (
    OSError, tf.errors.NotFoundError, tf.errors.PermissionDeniedError,
    tf.errors.DataLossError, tf.errors.FailedPreconditionError,
    tf.errors.ResourceExhaustedError,
    # A network disk that does not answer.
    tf.errors.AbortedError, tf.errors.UnavailableError, tf.errors.UnknownError)

# TensorFlow's warnings that no user can do anything about. The Estimator is
# deprecated and the reason why versions are pinned.
_NOISE = ("Instructions for updating", "is deprecated. Please use",
          "includes params argument, but params are not passed",
          "Reraising captured error", "Fingerprint not found.",
          "path_and_singleprint metric")

# Signals with which a cluster takes a machine back. mpirun passes the second
# on to the ranks; after the first it gives them little time.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

# A launcher ends all ranks when the first one ends: who has something to say
# goes first.
_FAREWELL_SECONDS = 1.0

_GOES_ON = "The same command goes on from the last checkpoint."
NOTHING_FINISHED = "Files of an earlier run are as they were."

# Flags that may differ between ranks: what lies there is compared instead.
_PLACE_FLAGS = re.compile(r"_(file|dir|path|checkpoint|handle|records)$")
_HASH_BLOCK = 1 << 20  # Bytes.


def run(main, required_flags, after_stop=_GOES_ON, required_where=None):
  """Runs a script: parses flags, calls `main`, ends with an exit status.

  A wrong flag, a bad input file or a full disk ends with one line on stderr
  and status 1; `--verbosity=1` adds the traceback. Any other exception is a
  bug and is shown whole.

  Args:
    main: function of the positional arguments.
    required_flags: list of flag names without which the script can't start.
    after_stop: string, what an interrupted run leaves to its user;
      NOTHING_FINISHED where that is nothing.
    required_where: dict from further names to (function of the parsed flags
      that tells whether they are required, names of flags that make up for
      them).
  """
  flags.mark_flags_as_required(required_flags)
  for name, (is_needed, others) in (required_where or {}).items():
    _require_where(name, is_needed, others)

  def guarded_main(argv):
    _set_up_logging()
    for number in _STOP_SIGNALS:
      signal.signal(number, _stop.on_signal)
    try:
      return main(argv)
    except SystemExit:
      raise
    except BaseException as error:  # pylint: disable=broad-except
      for number in _STOP_SIGNALS:  # This is the end already.
        signal.signal(number, signal.SIG_IGN)
      status, message = _explain(error, after_stop)
      if status is None:
        raise
      return _end(message, status)
    finally:
      sys.stdout.flush()
      sys.stderr.flush()

  app.run(guarded_main)


def _require_where(name, is_needed, others):
  """Refuses a start without a flag, where it is needed."""
  # Of validators of several flags absl shows one at a time.
  flags.register_validator(
      name, lambda value: value is not None or not is_needed(flags.FLAGS),
      f"Flag --{name} must have a value other than None, or one of "
      f"--{', --'.join(others)}.")


def _explain(error, after_stop):
  """What an exception of a script means for its end.

  Args:
    error: BaseException.
    after_stop: string, see `run`.

  Returns:
    (status, message): the exit status, None for a fault of the program in a
    process without other ranks; and the last line, None if another rank says
    it.
  """
  is_chief = horovod_helpers.is_chief()
  if isinstance(error, KeyboardInterrupt):
    return 130, f"interrupted. {after_stop}" if is_chief else None
  if isinstance(error, Stopped):
    if not error.is_agreed:
      return 128 + error.signal, horovod_helpers.on_this_rank(
          f"{error} {after_stop}")
    return 128 + error.signal, str(error) if is_chief else None
  if isinstance(error, horovod_helpers.OtherRankError):
    return 1, None
  if isinstance(error, AgreedError):
    return 1, f"error: {error}" if is_chief else None
  if isinstance(error, BrokenPipeError):  # Who read it has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE, None
  message = _user_message(error)
  if message is None and not horovod_helpers.horovod_enabled():
    return None, None
  if message is None or logging.get_verbosity() > logging.INFO:
    traceback.print_exc()
  message = horovod_helpers.last_words(
      message or f"{type(error).__name__}, a fault of the program; its "
      f"traceback stands above.")
  return 1, message and f"error: {message}"


def _end(message, status):
  """Prints a last line and returns the exit status.

  One of several ranks ends here and now: saying goodbye to the others, as
  Horovod would, may take for ever when these are at work or gone.
  """
  if message:
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
  if horovod_helpers.horovod_enabled():
    sys.stdout.flush()
    sys.stderr.flush()
    if not message:
      time.sleep(_FAREWELL_SECONDS)
    os._exit(status)  # pylint: disable=protected-access
  return status


class Stopped(BaseException):
  """The process was asked to end (SIGTERM or SIGUSR1).

  Attributes:
    signal: int.
    is_agreed: bool, all ranks end with this, rank 0 says it.
  """

  def __init__(self, number, message=None):
    """Takes the signal's number, and what all ranks agree on if they do."""
    super().__init__(
        message or f"ended by {signal.Signals(number).name}.")
    self.signal = number
    self.is_agreed = message is not None


class AgreedError(Exception):
  """What a user can cause, raised on all ranks at once; rank 0 says it."""


class _Stop(object):
  """A request to end, which a training obeys between two steps.

  Attributes:
    signal: int or None, the signal that came.
  """

  def __init__(self):
    self.signal = None
    self._is_deferred = False

  def on_signal(self, number, frame):
    """Handler of the signals."""
    del frame
    self.signal = number
    if not self._is_deferred:
      raise Stopped(number)

  @contextlib.contextmanager
  def deferred(self):
    """Within it a signal is noted, and raises nothing."""
    self._is_deferred = True
    try:
      yield self
    finally:
      self._is_deferred = False
    if self.signal is not None:
      raise Stopped(self.signal)


_stop = _Stop()


def deferred_stop():
  """A context in which SIGTERM and SIGUSR1 are noted instead of ending all.

  Gives an object with the attribute `signal` (int or None). A request that
  was noted ends the process where the context does.
  """
  return _stop.deferred()


def _user_message(error):
  """One line for an error that the user can cause; None for a bug."""
  if isinstance(error, tf.estimator.NanLossDuringTrainingError):
    return ("the loss became NaN: try a smaller --learning_rate or a longer "
            "warm-up.")
  text = getattr(error, "message", None) or str(error)
  # TensorFlow puts where it was noticed before what it is.
  found = re.match(r"Graph execution error:.*?^Node: [^\n]*\n([^\n]*)", text,
                   re.S | re.M)
  text = found[1] if found else text
  message = " ".join(text.splitlines()[:1]) or repr(error)
  if horovod_helpers.is_lost_rank(error):
    return (f"another rank ended, or can't be reached, while this one waited "
            f"for it ({message}). What it said, and the launcher's report, "
            f"tell why.")
  if isinstance(error, _FILE_ERRORS):
    if isinstance(error, tf.errors.DataLossError):
      message += (" (a damaged file; if it is a .tf_record in --output_dir, "
                  "remove it)")
    return message
  if isinstance(error, (ValueError, NotImplementedError)):
    # Raised by TensorFlow or NumPy they are as likely a bug of ours.
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    own = os.path.abspath(raised_in).startswith(PROJECT_FOLDER + os.sep)
    if own and f"{os.sep}site-packages{os.sep}" not in raised_in:
      return " ".join(str(error).split("\n"))
  return None


def _set_up_logging():
  """Shows our own INFO lines, and TensorFlow's only from WARNING on."""
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.INFO)
  logger = tf.get_logger()
  logger.handlers.clear()  # They go to absl's handler, once.
  if logging.get_verbosity() <= logging.INFO:
    logger.setLevel("WARNING")
  for noisy in (logger, logging.get_absl_logger()):  # It writes by both.
    noisy.addFilter(lambda record: not any(
        phrase in record.getMessage() for phrase in _NOISE))


def check_ranks_agree(args, files, values):
  """Refuses a run whose ranks were given different flags, files or programs.

  Vocabulary, config, initial checkpoint and bfloat16 lists are always compared.

  Args:
    args: the parsed flags.
    files: dict name -> path; their content is compared.
    values: dict name -> string, what else has to be the same.

  Raises:
    ValueError: names what differs, and on which rank.
  """
  compared = {
      f"--{flag.name}": repr(flag.value)
      for module, defined in args.flags_by_module_dict().items()
      if not module.startswith("absl.")
      for flag in defined if not _PLACE_FLAGS.search(flag.name)}
  # The ranks of a server read each other's records.
  compared[f"--output_dir on {socket.gethostname()}"] = os.path.abspath(
      args.output_dir)
  for name, path in {
      **files,
      "--vocab_file": getattr(args, "vocab_file", None),
      "--bert_config_file": getattr(args, "bert_config_file", None),
      "--init_checkpoint": checkpoint_helpers.checksum_file(
          args.init_checkpoint),
      "--bf16_config_path": args.bf16_config_path}.items():
    compared[name] = f"sha256 {sha256(path)[:12]}" if path else "none"
  compared["The program"] = f"sha256 {program_checksum()}"
  compared["TensorFlow"] = tf.__version__
  horovod_helpers.check_agreement({**compared, **values})


def check_one_process():
  """Refuses to be one of several ranks, for scripts that know none.

  Raises:
    ValueError: a launcher started several processes.
  """
  if horovod_helpers.comm_size() > 1:
    raise ValueError(
        "This script works in one process: start it without mpirun, "
        "horovodrun or demo.launch, or each process on files of its own.")


def raw_lines(path):
  """Yields the lines (bytes, with their ends) of a text file.

  Args:
    path: string; names that end with .gz are unpacked.

  Raises:
    ValueError: a compressed file is damaged.
  """
  with tf.io.gfile.GFile(path, "rb") as reader:
    if not path.endswith(".gz"):
      yield from reader
      return
    try:
      with gzip.GzipFile(fileobj=reader) as unpacked:
        yield from unpacked
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise ValueError(
          f"{path} is damaged, or no gzip file ({error}).") from None


def program_checksum():
  """Tells one state of this project's sources from another (12 digits)."""
  digest = hashlib.sha256()
  for folder in ("", "demo", "habana"):
    folder = os.path.join(PROJECT_FOLDER, folder)
    for name in sorted(os.listdir(folder)):
      if name.endswith(".py"):
        digest.update(sha256(os.path.join(folder, name)).encode())
  return digest.hexdigest()[:12]


def sha256(path):
  """SHA-256 of a file's content, in hexadecimal digits."""
  digest = hashlib.sha256()
  with tf.io.gfile.GFile(path, "rb") as reader:
    for block in iter(lambda: reader.read(_HASH_BLOCK), b""):
      digest.update(block)
  return digest.hexdigest()


def check_output_dir(output_dir, flag="output_dir"):
  """Makes the output folder and makes sure that it can be written.

  Args:
    output_dir: string.
    flag: string, the flag that names it.

  Raises:
    ValueError: it can't be made or written.
  """
  # Several ranks may look at the same time.
  probe = os.path.join(
      output_dir, f"write_probe_{socket.gethostname()}_{os.getpid()}.tmp")
  try:
    tf.io.gfile.makedirs(output_dir)
    with tf.io.gfile.GFile(probe, "w") as writer:
      writer.write("probe")
    tf.io.gfile.remove(probe)
  except (tf.errors.OpError, OSError) as error:
    raise ValueError(
        f"--{flag}={output_dir} can't be written "
        f"({getattr(error, 'message', error)}). Choose a folder that you may "
        f"write to.") from error


def shorten_pair(tokens_a, tokens_b, max_length):
  """Shortens a pair in place, always the longer one, from its end.

  A token of a short sentence is likely to say more than one of a long one.

  Args:
    tokens_a: list.
    tokens_b: list.
    max_length: int, for both together.
  """
  while tokens_a or tokens_b:
    if len(tokens_a) + len(tokens_b) <= max_length:
      break
    longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
    longer.pop()


@contextlib.contextmanager
def finished_file(path):
  """Gives a temporary name to write to, and renames it when all went well.

  A file under its real name is therefore always whole: an interrupted run
  leaves the earlier one in place. Links are followed.

  Args:
    path: string, the name in the end.

  Raises:
    ValueError: there is a device, a pipe or a folder of that name.

  Yields:
    string, a name in the same folder.
  """
  if os.path.islink(path):
    path = os.path.realpath(path)
  if os.path.exists(path) and not os.path.isfile(path):
    raise ValueError(f"{path} can't be written: something that is no file has "
                     f"that name. Give another one.")
  temporary = temporary_name(path)  # What a killed run left is written over.
  try:
    yield temporary
    tf.io.gfile.rename(temporary, path, overwrite=True)
  except BaseException:
    if tf.io.gfile.exists(temporary):
      tf.io.gfile.remove(temporary)
    raise


def temporary_name(path):
  """The name that a file of `finished_file` has before it is finished."""
  return f"{path}.tmp"


@contextlib.contextmanager
def finished_folder(path):
  """`finished_file` for a folder, which must not exist yet.

  Args:
    path: string, the name in the end.

  Yields:
    string, the name of a folder beside it that does not exist yet.
  """
  temporary = f"{path.rstrip('/')}.tmp"
  try:
    if tf.io.gfile.exists(temporary):  # What a killed run left.
      tf.io.gfile.rmtree(temporary)
    yield temporary
    tf.io.gfile.rename(temporary, path)
  except BaseException:
    if tf.io.gfile.exists(temporary):
      tf.io.gfile.rmtree(temporary)
    raise


def write_text(path, text):
  """Writes a UTF-8 text file, whole or not at all."""
  with finished_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "w") as writer:
      writer.write(text)


@contextlib.contextmanager
def quiet():
  """Within it others' libraries log warnings and errors only."""
  verbosity = logging.get_verbosity()
  try:
    logging.set_verbosity(min(verbosity, logging.WARNING))
    yield
  finally:
    logging.set_verbosity(verbosity)


def progress_bar(iterable=None, total=None, desc=None, unit="it"):
  """A tqdm bar on a terminal; elsewhere nothing is drawn."""
  return tqdm.tqdm(iterable, total=total, desc=desc, unit=unit,
                   disable=None, leave=False, dynamic_ncols=True)


class Progress(object):
  """A tqdm bar on a terminal; elsewhere a line every so often.

  Use it in a `with` statement.
  """

  def __init__(self, total, desc, unit, log_every):
    """Shows the bar, or nothing yet.

    Args:
      total: int.
      desc: string, what is going on ("Converting").
      unit: string, what is counted ("questions").
      log_every: int, how much of it there is between two lines.
    """
    self._bar = progress_bar(total=total, desc=desc, unit=f" {unit}")
    self._what = f"{desc}: %d of {total} {unit}"
    self._total, self._log_every = total, log_every
    self._done = 0

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self._bar.close()

  def update(self, count):
    """Adds to what is done, up to the total."""
    before = self._done
    self._done = min(before + count, self._total)
    self._bar.update(self._done - before)
    if self._bar.disable and (
        self._done // self._log_every > before // self._log_every):
      logging.info(self._what, self._done)
