# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The Synapse logger, which records what a Gaudi device does.

The vendor's module `py_synapse_logger` lies in the Python path or in the
folder that BUILD_ROOT_LATEST names. Where it is missing a warning says so and
training goes on without it.

The environment variable HABANA_SYNAPSE_LOGGER turns the logger on: "range" for
a window of steps, "true", "t", "1", "on" or "all" from the start to the end.

Source: `horovod_helpers` of Habana's Model-References (release 0.13), by its
public names.
"""

import enum
import functools
import importlib
import os
import sys

from absl import logging

ENVIRONMENT_VARIABLE = "HABANA_SYNAPSE_LOGGER"
_CATEGORIES = "category_mask=0x3"


class SynapseLoggerType(enum.Enum):
  """What is recorded: nothing, everything, or a window of steps."""
  NONE = 0
  ALL = 1
  RANGE = 2


def wanted_type():
  """The SynapseLoggerType that the environment asks for.

  Raises:
    ValueError: HABANA_SYNAPSE_LOGGER holds an unknown word.
  """
  value = os.environ.get(ENVIRONMENT_VARIABLE, "false")
  if value.lower() == "range":
    return SynapseLoggerType.RANGE
  if value.lower() in ("true", "t", "1", "on", "all"):
    return SynapseLoggerType.ALL
  if value.lower() in ("false", "f", "0", "off", "no", "none", ""):
    return SynapseLoggerType.NONE
  raise ValueError(
      f"{ENVIRONMENT_VARIABLE}={value} in the environment: expected range, all "
      f"or false.")


@functools.lru_cache(maxsize=None)
def _module():
  """The vendor's module, or None with a warning, once."""
  folder = os.environ.get("BUILD_ROOT_LATEST")
  if folder and folder not in sys.path:
    sys.path.append(folder)
  try:
    return importlib.import_module("py_synapse_logger")
  except ImportError as error:
    logging.warning(
        "%s is set, but there is no Synapse logger here (%s): nothing is "
        "recorded. It comes with Gaudi's software; BUILD_ROOT_LATEST may name "
        "its folder.", ENVIRONMENT_VARIABLE, error)
    return None


def _command(*commands):
  for command in commands:
    if _module() is not None:
      _module().command(command)


def init(rank, logger_type):
  """Makes the logger ready; for ALL it starts to record.

  Args:
    rank: int, for the name of its file.
    logger_type: SynapseLoggerType.
  """
  _command("disable", f"file_name=worker{rank}.local.synapse_log", _CATEGORIES)
  if logger_type == SynapseLoggerType.ALL:
    _command("restart")


def start(rank, step):
  """Starts a record in a file of its own, named after rank and step (ints)."""
  _command(f"file_name=worker_{rank}_step_{step}.local.synapse_log",
           _CATEGORIES, "restart")


def stop():
  """Stops recording."""
  _command("disable")


def log(message):
  """Puts a message (string) into the record."""
  if _module() is not None:
    _module().put_log(message)
