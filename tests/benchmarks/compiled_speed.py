"""Speed of compiled models beside the export that they were made of.

  python -m tests.benchmarks.compiled_speed [--rounds=15] [--onnx]

A classifier of MiniLM's size (6 layers, hidden 384, 12 heads, 30522 words) with
random weights is exported and compiled with each --dtype. Then all of them are
called in turn in this process, batch by batch, so that the ratios hold on a
busy machine too. Each line is a batch: rows x tokens (mixed: 8 to 128 tokens,
padded to the longest), and of each model the median of milliseconds and of the
ratio to the export. TF_ENABLE_ONEDNN_OPTS=1 is what bfloat16 needs on some
processors.
"""

import os
import pathlib
import statistics
import tempfile
import time
import types

from absl import app
from absl import flags
import numpy as np

from demo import compile_check
from demo import compile_model
from demo import predictor
from demo import runner_helpers
from demo import script_helpers
from tests import compile_model_test
from tests import conftest
from tests.benchmarks import model

FLAGS = flags.FLAGS
BATCHES = ((1, 128), (8, 128), (32, 128), (1, "mixed"), (8, "mixed"),
           (32, "mixed"))


def define_flags():
  flags.DEFINE_integer("rounds", 15, "Calls of each model for each batch.")
  flags.DEFINE_bool("onnx", True, "Time --format=onnx too.")
  flags.DEFINE_integer("hidden_size", 384, "Width; 12 heads.")
  flags.DEFINE_integer("num_hidden_layers", 6, "Layers.")


def make_models(folder):
  """Exports and compiles; returns name -> runner."""
  config = model.config_of_size(FLAGS.hidden_size, FLAGS.num_hidden_layers)
  vocab_file = os.path.join(folder, "vocab.txt")
  words = conftest.SPECIAL + [f"w{i}" for i in range(config.vocab_size - 5)]
  script_helpers.write_text(vocab_file, "".join(x + "\n" for x in words))
  config_file = os.path.join(folder, "bert_config.json")
  script_helpers.write_text(config_file, config.to_json_string())
  export = compile_model_test.export(
      types.SimpleNamespace(config=config, vocab_file=vocab_file,
                            bert_config_file=config_file),
      "classification", pathlib.Path(folder) / "run", max_seq_length=128)
  runners = {"export": runner_helpers.load_runner(export)}
  cases = [("float32", {}), ("bfloat16", dict(dtype="bfloat16")),
           ("float16", dict(dtype="float16")),
           ("aggressive", dict(dtype="bfloat16",
                               aggressive_optimizations=True))]
  if FLAGS.onnx:
    cases.append(("onnx", dict(format="onnx")))
  for name, values in cases:
    target = os.path.join(folder, name)
    compile_model.compile_model(compile_model_test.flags(
        export, target, **values))
    runners[name] = runner_helpers.load_runner(target)
  return runners


def rows_of(count, tokens, rng):
  """Rows of random words."""
  for _ in range(count):
    length = rng.randint(8, 129) if tokens == "mixed" else tokens
    yield predictor.Row(rng.randint(1000, 30000, length).tolist(),
                        [1] * length, [0] * length)


def described(name, before, after):
  """Time and ratio of a model, from lists of seconds."""
  ratio = statistics.median(
      one / other for one, other in zip(before, after))
  return f"{name} {1000 * statistics.median(after):.1f} ms ({ratio:.2f})"


def main(_):
  rng = np.random.RandomState(0)
  print(compile_check.processor())
  with tempfile.TemporaryDirectory() as folder:
    runners = make_models(folder)
    for count, tokens in BATCHES:
      rows = list(rows_of(count, tokens, rng))
      seconds = {name: [] for name in runners}
      for _ in range(FLAGS.rounds + 1):
        for name, runner in runners.items():
          feed = predictor.batch_of_rows(rows, runner.specs)
          start = time.perf_counter()
          runner.run(feed)
          seconds[name].append(time.perf_counter() - start)
      print(f"{count} x {tokens}: " + ", ".join(
          described(name, seconds["export"][1:], taken[1:])
          for name, taken in seconds.items()), flush=True)


if __name__ == "__main__":
  define_flags()
  app.run(main)
