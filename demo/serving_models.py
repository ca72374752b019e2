# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""The models that a server has in memory, and their versions.

A folder of exports has a folder <number> for each version. The newest one is
served; when a newer one appears it is loaded and tried beside the old one,
which goes when its last request is answered. A folder with a saved_model.pb
is one version, which stays.
"""

import collections
import gc
import json
import os
import re
import threading
import time
import weakref

from absl import logging
import numpy as np
import tensorflow as tf

from demo import compile_check
from demo import export_helpers
from demo import predictor
from demo import serving_batches
from demo import serving_errors
from demo import serving_graphs
from demo import serving_signatures

_NAME = re.compile(r"[\w.-]+", re.ASCII)
_LONGEST_PAUSE = 60.0  # Seconds.
# Words of TensorFlow Serving.
LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"

# State of a version: one of the words above, and what went wrong (string) or
# None.
State = collections.namedtuple("State", ["state", "error"])


class Model(object):
  """One version of a model, loaded and ready.

  Attributes:
    name: string.
    version: int.
    path: string.
    info: dict, see `export_helpers.read_info`; empty for a model without.
    signatures: dict name -> serving_signatures.Signature.
  """

  def __init__(self, name, version, path, options, limits, threads):
    """Loads an export.

    Args:
      name: string.
      version: int.
      path: string, folder with saved_model.pb.
      options: serving_batches.Options.
      limits: serving_signatures.Limits.
      threads: int, of a run of the model; 0 for one of each core.

    Raises:
      ValueError: it is no model of this kind.
    """
    self.name, self.version, self.path = name, version, path
    self.info = (export_helpers.read_info(path)
                 if export_helpers.has_info(path) else {})
    graph = serving_graphs.ModelGraph(path, threads)
    default = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
    wanted = set(export_helpers.ROW_INPUTS)
    if default not in graph.signatures or not wanted <= set(
        graph.signatures[default].inputs):
      raise ValueError(
          f"{path} is not a BERT model to serve: its signature {default} has "
          f"to take {', '.join(export_helpers.ROW_INPUTS)}.")
    sizes = _sizes(path, graph.tables)
    batchers = {default: serving_batches.Batcher(
        graph, default, sizes.max_length, options)}
    windows = export_helpers.SERVE_WINDOWS
    if windows in graph.signatures:  # The windows of a text are in one batch.
      batchers[windows] = serving_batches.Batcher(
          graph, windows, sizes.max_length, options._replace(
              batch=max(options.batch, self.info.get("max_windows", 1))),
          pools=True)
    self.signatures = serving_signatures.make_signatures(
        self.info,
        predictor.make_codec(path, self.info) if self.info else None,
        {key: (_specs(signature.inputs), _specs(signature.outputs))
         for key, signature in graph.signatures.items()},
        batchers, sizes, limits)
    slow = (self.info.get("precision") == "bf16" and
            compile_check.slow_bf16(compile_check.processor()))
    if slow:
      logging.warning("model %s: %s", name, slow)
    for batcher in batchers.values():
      batcher.warm_up()

  def signature(self, name):
    """The signature of a name ("" for the usual one).

    Raises:
      serving_errors.RequestError: there is none.
    """
    name = name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
    if name not in self.signatures:
      raise serving_errors.invalid(
          f"Model {self.name} has no signature {name!r}; it has "
          f"{', '.join(sorted(self.signatures))}.")
    return self.signatures[name]

  def call_examples(self, examples, queue, deadline):
    """Runs the model on records with token ids, or with texts.

    Args:
      examples: list of tf.train.Example; those with a feature `text_a` (bytes)
        are texts.
      queue: serving_batches.Queue.
      deadline: float, seconds since 1970.

    Returns:
      See `serving_signatures.Signature.call`.
    """
    if not examples:
      raise serving_errors.invalid("The request has no examples.")
    if "text_a" not in examples[0].features.feature:
      signature = self.signature(export_helpers.SERVE_EXAMPLES)
      return signature.call({"examples": np.array(
          [example.SerializeToString() for example in examples], object)},
                            queue, deadline)
    signature = self.signature(export_helpers.SERVE_TEXTS)
    inputs = {}
    for name in signature.inputs:
      values = [list(example.features.feature[name].bytes_list.value)
                for example in examples if name in example.features.feature]
      if values:
        if [len(value) for value in values] != [1] * len(examples):
          raise serving_errors.invalid(
              f"Each example needs one {name}, or none has any.")
        inputs[name] = np.array([value for (value,) in values], object)
    return signature.call(inputs, queue, deadline)

  def labels(self):
    """The names of a classifier's labels, list of string.

    Raises:
      serving_errors.RequestError: it is no classifier.
    """
    if self.info.get("kind") != "classification":
      raise serving_errors.invalid(
          f"Model {self.name} is no classifier; ask for Predict.")
    return self.info["labels"]

  def check_regression(self):
    """Refuses a request for a number of another kind of model.

    Raises:
      serving_errors.RequestError: it gives no number.
    """
    if self.info.get("kind") != "regression":
      raise serving_errors.invalid(
          f"Model {self.name} gives no number; ask for Predict.")


def _specs(specs):
  """dict name -> Spec of tf.TensorSpecs."""
  return {name: serving_signatures.Spec(spec.dtype, tuple(spec.shape))
          for name, spec in specs.items()}


def _sizes(path, tables):
  """The serving_signatures.Sizes of an export.

  Args:
    path: string.
    tables: dict, see `serving_graphs.ModelGraph`.

  Raises:
    ValueError: it doesn't say.
  """
  name = os.path.join(path, "assets", "bert_config.json")
  if tf.io.gfile.exists(name):
    with tf.io.gfile.GFile(name, "r") as reader:
      config = json.load(reader)
    return serving_signatures.Sizes(
        config["vocab_size"], config["type_vocab_size"],
        config["max_position_embeddings"])
  if len(tables) < 3:
    raise ValueError(
        f"{path} has neither assets/bert_config.json nor the three tables of "
        f"embeddings: its numbers of ids and tokens are not known.")
  return serving_signatures.Sizes(
      tables["word"], tables["token_type"], tables["position"])


class ModelStore(object):
  """Models by name, each with its newest version.

  Attributes:
    queue: serving_batches.Queue, the rows of all models.
  """

  def __init__(self, folders, options, limits, threads=0):
    """Takes what to serve; loads nothing.

    Args:
      folders: dict name -> folder of exports, or of one.
      options: serving_batches.Options.
      limits: serving_signatures.Limits.
      threads: int, of a run of a model; 0 for one of each core.
    """
    self.queue = serving_batches.Queue(options.max_queued_rows)
    self._folders = folders
    self._made_with = (options, limits, threads)
    self._models = {}
    self._states = {name: {} for name in folders}
    # (name, version) that failed -> (when to try again, seconds until then).
    self._failures = {}
    self._left = []  # Functions that return a model that went, or None.
    self._lock = threading.Lock()

  def names(self):
    """Names of the models, as they were given."""
    return list(self._folders)

  def get(self, name, version=None):
    """The model of a name, to be used for one request.

    Args:
      name: string.
      version: int, or None for the newest.

    Returns:
      Model. It stays loaded as long as somebody holds it.

    Raises:
      serving_errors.RequestError: there is none.
    """
    model = self._models.get(name)
    if model is None:
      if name in self._folders:
        raise serving_errors.RequestError(
            "UNAVAILABLE", f"Model {name} is being loaded.")
      raise serving_errors.RequestError(
          "NOT_FOUND", f"There is no model {name!r}; there are "
          f"{', '.join(self._folders)}.")
    if version not in (None, model.version):
      raise serving_errors.RequestError(
          "NOT_FOUND", f"Model {name} has no version {version}; it has "
          f"{model.version}.")
    return model

  def states(self, name):
    """What became of each version of a model: dict int -> State.

    Raises:
      serving_errors.RequestError: there is no such model.
    """
    if name not in self._states:
      self.get(name)
    with self._lock:
      return dict(self._states[name])

  def load(self):
    """Loads all models.

    Raises:
      ValueError: one can't be loaded.
    """
    for name, folder in self._folders.items():
      export_helpers.find_export(folder)  # Says what is wrong with the folder.
      self._load(name, *_newest(folder))

  def refresh(self):
    """Loads what is newer than what is served.

    Of a version that can't be loaded, as when it is still being copied, the
    log says so; it is tried again after a second, two, four, up to a minute.
    """
    for name, folder in self._folders.items():
      if export_helpers.is_export(folder):
        continue
      found = export_helpers.versions(folder)
      self._forget_failures(name, found)
      if found and found[-1] > self._models[name].version:
        self._try(name, *_newest(folder))
    self._collect()

  def _try(self, name, version, path):
    """Loads a version if it is time to; notes it if that fails."""
    again, pause = self._failures.get((name, version), (0.0, 0.5))
    if time.monotonic() < again:
      return
    before = self.states(name).get(version)
    try:
      self._load(name, version, path)
    except Exception as error:  # pylint: disable=broad-except
      text = (str(error).splitlines() or [repr(error)])[0]
      if before is None or before.error != text:
        logging.error("model %s: version %d can't be loaded, %d stays: %s",
                      name, version, self._models[name].version, text)
      self._set(name, version, State(END, text))
      pause = min(2 * pause, _LONGEST_PAUSE)
      self._failures[name, version] = (time.monotonic() + pause, pause)
      self._left.append(lambda: None)

  def _forget_failures(self, name, versions):
    """Forgets versions that failed and are no longer there."""
    for key in [key for key in self._failures
                if key[0] == name and key[1] not in versions]:
      del self._failures[key]
      with self._lock:
        self._states[name].pop(key[1], None)

  def _collect(self):
    """Frees what models that went have left: circles of references.

    It stops all requests for 0.2 s, so not where there is nothing.
    """
    if self._left:
      # Those that still answer a request have their turn later.
      used = [model for model in self._left if model() is not None]
      gc.collect()
      self._left = used

  def _load(self, name, version, path):
    """Loads a version and puts it in the place of the one before."""
    if self.states(name).get(version) is None:
      self._set(name, version, State(LOADING, None))
    model = Model(name, version, path, *self._made_with)
    before = self._models.get(name)
    self._models[name] = model
    self._set(name, version, State(AVAILABLE, None))
    if before is not None:
      self._set(name, before.version, State(END, None))
      self._left.append(weakref.ref(before))
    logging.info("model %s: version %d of %s", name, version, path)

  def _set(self, name, version, state):
    """Notes a state; forgets all but the last few versions."""
    with self._lock:
      states = self._states[name]
      states[version] = state
      for old in sorted(states)[:-8]:
        del states[old]


def _newest(folder):
  """(version, path) of the export that a folder stands for."""
  path = export_helpers.find_export(folder).rstrip("/")
  name = os.path.basename(path)
  return int(name) if name.isdecimal() else 1, path


def parse_folders(values):
  """Reads the values of --dir.

  Args:
    values: list of string, NAME=FOLDER or FOLDER, which is called "bert".

  Returns:
    Dict name -> folder.

  Raises:
    ValueError: a name is wrong or there twice.
  """
  folders = {}
  for value in values:
    name, found, folder = value.partition("=")
    if not found or os.sep in name:
      name, folder = "bert", value
    if not _NAME.fullmatch(name) or not folder:
      raise ValueError(
          f"--dir={value}: NAME=FOLDER is expected, the name of letters, "
          f"digits, dots, dashes and underscores.")
    if name in folders:
      raise ValueError(f"--dir={value}: there are two models called {name}. "
                       f"Name them: --dir=one={folders[name]},two={folder}")
    folders[name] = folder
  return folders
