# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What a script does first, so that it starts quickly.

A script that only shows its flags loads no library. TensorFlow takes seconds
to import, and nothing of it is in a help text, but a script imports it first
of all and derives classes from it. So where the help is all that is asked for,
stand-ins take the place of the libraries: modules whose names do nothing and
can be derived from, as documentation tools have them. Every other run, and
every program that imports a script, gets the libraries themselves.
"""

import gc
import importlib.abc
import importlib.machinery
import os
import sys
import types

_HELP = {f"{dashes}{word}" for dashes in ("-", "--")
         for word in ("help", "helpshort", "?")}
_PROJECT_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


# New objects after which Python looks for garbage in cycles, and such looks at
# the new ones between two at older ones. By default it is 700 and 10: of the
# half million objects of an import of TensorFlow, and of those of a graph, all
# of which stay, the looks take a fifth of the time.
_GARBAGE_THRESHOLDS = (100_000, 10)


def prepare(name):
  """Makes the process ready, if the caller is its main program.

  Python looks for garbage less often. Where the only argument asks for the
  help, the libraries are left out: absl shows it and ends the process then,
  whatever flags there are. `--helpfull` lists the flags of the libraries too,
  and so needs them.

  Args:
    name: string, the caller's `__name__`.
  """
  if name != "__main__":
    return
  gc.set_threshold(*_GARBAGE_THRESHOLDS)
  if len(sys.argv) == 2 and sys.argv[1] in _HELP:
    sys.meta_path.insert(0, _StandInFinder())


class _StandIn(type):
  """A class that has every attribute and can be called and derived from."""

  def __getattr__(cls, name):
    return _stand_in(name)

  def __call__(cls, *args, **kwargs):
    return cls


def _stand_in(name):
  # Python and its modules look for special names to learn what a thing is.
  if name.startswith("__"):
    raise AttributeError(name)
  return _StandIn(name, (), {})


class _StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Finds a stand-in for each module but absl's, Python's and the project's."""

  def find_spec(self, fullname, path, target=None):
    """See base class."""
    top = fullname.split(".")[0]
    is_needed = top == "absl" or top in sys.stdlib_module_names or any(
        os.path.exists(os.path.join(_PROJECT_FOLDER, top + ending))
        for ending in ("", ".py"))
    return None if is_needed else importlib.machinery.ModuleSpec(
        fullname, self, is_package=True)

  def create_module(self, spec):
    """See base class."""
    module = types.ModuleType(spec.name)
    module.__getattr__ = _stand_in
    return module

  def exec_module(self, module):
    """See base class: there is nothing to execute."""
