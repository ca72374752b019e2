# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Loads the library that gives TensorFlow the Gaudi device (HPU).

Two routes, tried in this order:

1. The vendor's Python package, `habana_frameworks.tensorflow`, which knows
   where its library is (releases from 1.0 on).
2. A folder that holds both shared objects of the older releases,
   `graph_writer.so` and `habana_device.so`, looked for in the folders of
   `LD_LIBRARY_PATH`, then in `BUILD_ROOT_LATEST`, `TF_MODULES_RELEASE_BUILD`
   and `TF_MODULES_DEBUG_BUILD`, then in `/usr/lib/habanalabs`.

Source: `load_habana_module` of Habana's Model-References, both forms.
"""

import importlib.util
import os

from absl import logging
import tensorflow as tf

PACKAGE = "habana_frameworks"
LIBRARIES = ("graph_writer.so", "habana_device.so")
FOLDER_VARIABLES = (
    "BUILD_ROOT_LATEST", "TF_MODULES_RELEASE_BUILD", "TF_MODULES_DEBUG_BUILD")
VENDOR_FOLDER = "/usr/lib/habanalabs"


def load_habana_module():
  """Loads the device library, if this machine has one.

  Call it before the first graph or session. It never runs on import, and a
  script with `--cpu_only` doesn't call it.

  Returns:
    True if the library was loaded, False if there is none here, in which case
    a line in the log says so and TensorFlow goes on with the CPU or GPU.

  Raises:
    ValueError: a library is there and can't be loaded (names the file).

  Source: Habana's function of this name, which raises where no library is
  found and returns the device list; see CHANGES.
  """
  if importlib.util.find_spec(PACKAGE) is not None:
    _load_from_package()
    logging.info("Gaudi device library loaded from the %s package.", PACKAGE)
    return True
  folder = find_library_folder()
  if folder is None:
    logging.info(
        "No Gaudi device here (no %s package; no %s in %s): TensorFlow uses "
        "its own devices.", PACKAGE, LIBRARIES[1], ", ".join(search_folders()))
    return False
  for name in LIBRARIES:
    path = os.path.join(folder, name)
    try:
      tf.load_library(path)
    except (tf.errors.OpError, OSError) as error:
      raise ValueError(_cannot_load(path, error)) from error
  logging.info("Gaudi device library loaded from %s.", folder)
  return True


def has_library():
  """Whether `load_habana_module` would load one (bool)."""
  return (importlib.util.find_spec(PACKAGE) is not None or
          find_library_folder() is not None)


def search_folders():
  """Returns the folders that the second route looks into, in order."""
  folders = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
  folders += [os.environ.get(name, "") for name in FOLDER_VARIABLES]
  return [folder for folder in folders if folder] + [VENDOR_FOLDER]


def find_library_folder():
  """Returns the first folder that holds both libraries, or None."""
  for folder in search_folders():
    if all(os.path.isfile(os.path.join(folder, name)) for name in LIBRARIES):
      return folder
  return None


def _load_from_package():
  """First route; a package without its TensorFlow part is an error."""
  try:
    package = importlib.import_module(f"{PACKAGE}.tensorflow")
    package.load_habana_module()
  except Exception as error:  # pylint: disable=broad-except
    # Whatever the vendor's code raises, the user needs the same two words.
    raise ValueError(_cannot_load(f"{PACKAGE}.tensorflow", error)) from error


def _cannot_load(what, error):
  return (f"The Gaudi device library {what} is installed but can't be loaded: "
          f"{str(error).splitlines()[0] if str(error) else error!r}. Check "
          f"that it was built for TensorFlow {tf.__version__}, or pass "
          f"--cpu_only to run without the device.")
