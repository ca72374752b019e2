"""What `make bench` measures: a function for each section."""

import collections
import json
import os
import subprocess
import sys

import numpy as np

from demo import checkpoints
import run_classifier
import tokenization
from tests import conftest
from tests.benchmarks import measure
from tests.benchmarks import model
from tests.benchmarks import texts
from tests.benchmarks.peers import environments

_OWN = ["-m", "tests.benchmarks.own_program"]
_COMMAND = [os.path.join(os.path.dirname(environments.__file__), "turns.py")]
# Rows of a file of mixed lengths: so many batches are a turn.
_MIXED_BATCHES = 4
# Names of rows of the tables that say who a peer is.
_PEERS = {"torch": "transformers, PyTorch", "garden": "Model Garden"}
_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}


class Settings(collections.namedtuple("Settings", [
    "folder", "quick", "sizes", "lengths", "rounds", "configurations",
    "glue_dir", "vocab_file", "squad_file", "export_dir", "data_file", "run",
    "say"])):
  """What the command says.

  Attributes:
    folder: string, for files that go afterwards.
    quick: bool, the short form.
    sizes: list of string, of model.SIZES.
    lengths: list of int, of model.BATCHES.
    rounds: int or None, turns of each contender; None takes those of the
      section.
    configurations: list of string, of model.CONFIGURATIONS.
    glue_dir, vocab_file, squad_file, export_dir, data_file: string or None.
    run: function of a measure.Group that returns its rows.
    say: function of a line, for progress.
  """

  __slots__ = ()

  def turns(self, count):
    """`rounds`, or else so many, fewer in the short form."""
    return self.rounds or (max(2, count // 2) if self.quick else count)


def _own(name, kind, env=None, **spec):
  """A contender of this project."""
  return measure.Contender(name, _OWN, dict(spec, kind=kind), env=env or {})


def _peer(environment, name, kind, size, **spec):
  """A contender that runs in the environment of a peer."""
  chosen = model.SIZES[size]
  return measure.Contender(
      f"{_PEERS[environment]}, {name}", [environments.program(environment)],
      dict(spec, kind=kind, layers=chosen.layers, width=chosen.width,
           heads=chosen.heads, vocab_size=model.VOCAB_SIZE),
      environments.python(environment), missing=environments.missing(
          environment))


def _train(settings, configuration, size, rows_file, batch, **spec):
  """A contender: our step in a configuration."""
  return _own(configuration, "train", model.CONFIGURATIONS[configuration].env,
              configuration=configuration, size=size, rows_file=rows_file,
              batch=batch, folder=settings.folder, **spec)


def _rows_file(settings, length, count, is_mixed):
  """(path of rows, how they are called in a table).

  Mixed ones are MRPC's, where it is given, cut to a length.
  """
  is_real = is_mixed and settings.glue_dir and settings.vocab_file
  name = f"{'real' if is_real else 'mixed' if is_mixed else 'full'}"
  path = os.path.join(settings.folder, f"{name}_{length}_{count}.npz")
  if not os.path.exists(path):
    rows = (_mrpc_rows(settings, length, count) if is_real else
            model.make_rows(count, length, is_mixed))
    np.savez(path, **rows)
  return path, {"real": "MRPC's rows", "mixed": "rows of mixed lengths",
                "full": "full rows"}[name]


def _mrpc_rows(settings, length, count):
  """The first rows of MRPC's training set, see `model.make_rows`."""
  tokenizer = tokenization.FullTokenizer(settings.vocab_file)
  examples = run_classifier.MrpcProcessor().get_train_examples(
      os.path.join(settings.glue_dir, "MRPC"))[:count]
  features = run_classifier.convert_examples_to_features(
      examples, ["0", "1"], length, tokenizer)
  found = {name: np.array([getattr(row, name) for row in features], np.int32)
           for name in ("input_ids", "input_mask", "segment_ids")}
  found["label_ids"] = np.array([row.label_id for row in features], np.int32)
  return found


def _vocabulary(settings):
  """The vocabulary that is given, or one that is made (path)."""
  if settings.vocab_file:
    return settings.vocab_file
  path = os.path.join(settings.folder, "vocab.txt")
  if not os.path.exists(path):
    texts.write_vocabulary(path)
  return path


def _sentences(settings, count):
  """A file of made sentences (path)."""
  path = os.path.join(settings.folder, f"sentences_{count}.txt")
  with open(path, "w", encoding="utf-8") as writer:
    writer.write("\n".join(texts.sentences(count, _vocabulary(settings))))
  return path


def _step_cases(settings):
  """Yields (size, length, batch, turns) of the training steps."""
  for size in settings.sizes:
    for length in settings.lengths:
      yield size, length, model.BATCHES[length], settings.turns(
          3 if size == "base" else 7)


def product(settings):
  """The machine's speed at matrix products, TensorFlow's and PyTorch's. The
  rows are those of the left matrix; ratios are to float32 in TensorFlow."""
  rows = []
  shapes = [(4096, 384, 1536), (4096, 1536, 384), (4096, 768, 3072)]
  for shape in shapes[:1] if settings.quick else shapes:
    contenders = [_own(f"TensorFlow, {dtype}", "product", shape=shape,
                       dtype=dtype) for dtype in _PRECISIONS.values()]
    contenders += [
        measure.Contender(
            f"PyTorch, {dtype}", [environments.program("torch")],
            dict(kind="product", shape=shape, dtype=dtype),
            environments.python("torch"), missing=environments.missing("torch"))
        for dtype in _PRECISIONS.values()]
    rows += settings.run(measure.Group(
        "[{}, {}] x [{}, {}]".format(shape[0], shape[1], *shape[1:]),
        contenders, settings.turns(9)))
  return {"rows": rows, "columns": [
      "gflops_per_s", "gflops_per_cpu_s", "cpu_ratio", "wall_ratio"]}


def train(settings):
  """Whole training steps of run_classifier.py on its records: input, dropout,
  backward, clipping, Adam. Ratios are to the first configuration. `share of
  product` is that of the speed of a matrix product [4096, W] x [W, 4W] of the
  same precision, timed in the same process after each turn, that the step
  reaches with the operations of tokens that are no padding."""
  rows = []
  for size, length, batch, rounds in _step_cases(settings):
    path, called = _rows_file(settings, length, batch, False)
    rows += settings.run(measure.Group(
        f"{size}, {batch} x {length}, {called}",
        [_train(settings, name, size, path, batch)
         for name in settings.configurations], rounds))
  size = "MiniLM" if "MiniLM" in settings.sizes else settings.sizes[0]
  path, called = _rows_file(settings, 128, 32 * _MIXED_BATCHES, True)
  rows += settings.run(measure.Group(
      f"{size}, 32 x 128, {called}",
      [_train(settings, name, size, path, 32)
       for name in settings.configurations], settings.turns(5)))
  return {"rows": rows}


def peers(settings):
  """The same training steps in other systems, in turn with ours; ratios are to
  our own. `rows of mixed lengths` (or MRPC's) are padded to the longest of a
  batch by transformers and to the full length by the Model Garden. The share
  is not known of others. Memory: of the whole process, its libraries too."""
  rows = []
  cases = [(size, length, batch, rounds, False)
           for size, length, batch, rounds in _step_cases(settings)]
  cases += [(size, 128, 32, settings.turns(5), True)
            for size in settings.sizes if size != "base"]
  for size, length, batch, rounds, is_mixed in cases:
    path, called = _rows_file(
        settings, length, batch * (_MIXED_BATCHES if is_mixed else 1), is_mixed)
    for precision in _PRECISIONS:
      contenders = [
          _train(settings, name, size, path, batch)._replace(
              name=f"here, {name}")
          for name in (precision, f"{precision}, fused",
                       *([f"{precision}, fused, unpadded"] if is_mixed else []))]
      contenders += [
          _peer(name, precision, "train", size, precision=precision,
                rows_file=path, batch=batch) for name in _PEERS]
      rows += settings.run(measure.Group(
          f"{size}, {batch} x {length}, {called}", contenders, rounds))
  return {"rows": rows}


def data(settings):
  """What goes before a step: sentences to word pieces (a tokenizer that has
  seen the words before) beside tensorflow-text's, sentences to record files,
  and the input pipeline alone, from a record file to batches of 32 x 128. The
  last table is tests/benchmarks/tokenization.py and peer_tokenizers.py."""
  count = 2000 if settings.quick else 10000
  sentences, vocabulary = _sentences(settings, count), _vocabulary(settings)
  spec = dict(sentences_file=sentences, vocab_file=vocabulary)
  rows = settings.run(measure.Group(
      f"tokenize {count} sentences", [
          _own("FullTokenizer", "tokenize", **spec),
          *(_own(f"tensorflow-text, {name}", "tokenize_in_graph",
                 tokenizer=name, **spec)
            for name in ("FastBertTokenizer", "BertTokenizer"))],
      settings.turns(5)))
  rows += settings.run(measure.Group(
      f"write records of {count} sentences", [_own(
          "run_classifier", "write_records", length=128, folder=settings.folder,
          **spec)], settings.turns(5)))
  size = "MiniLM" if "MiniLM" in settings.sizes else settings.sizes[0]
  many, _ = _rows_file(settings, 128, 4096, True)
  few, _ = _rows_file(settings, 128, 32, False)
  pipeline = settings.run(measure.Group(
      "read, parse and batch records", [
          _own("input pipeline", "read_records", rows_file=many, batch=32,
               folder=settings.folder),
          _train(settings, "fp32", size, few, 32)._replace(
              name=f"{size}, training step")], settings.turns(5)))
  if not any(row.get("missing") for row in pipeline):
    pipeline[0]["share_of_step"] = (
        pipeline[0]["cpu_ms_per_row"] / pipeline[1]["cpu_ms_per_row"])
  return {"rows": rows + pipeline, "columns": [
      "cpu_ms_per_row", "rows_per_cpu_s", "rows_per_s", "cpu_ratio",
      "share_of_step", "peak_mib"],
          "lines": _word_programs(settings, sentences, vocabulary)}


def _word_programs(settings, sentences, vocabulary):
  """What the programs of tokenization alone say, a line each."""
  folder = os.path.dirname(__file__)
  squad = [f"--squad_file={settings.squad_file}"] if settings.squad_file else []
  programs = {
      "tokenization": (
          sys.executable, ["-m", "tests.benchmarks.tokenization",
                           f"--sentences_file={sentences}"], None),
      "peer_tokenizers": (
          environments.python("torch"),
          [os.path.join(folder, "peer_tokenizers.py"),
           f"--sentences={sentences}", *squad], environments.missing("torch"))}
  lines = []
  for name, (python, arguments, missing) in programs.items():
    if not os.path.exists(os.path.join(folder, f"{name}.py")):
      missing = f"there is no tests/benchmarks/{name}.py"
    lines.append(f"{name}: " + (
        f"not measured: {missing}" if missing else _output(
            [python, *arguments, f"--vocab_file={vocabulary}"])[-1]))
  return lines


def _output(command):
  """The lines that a program prints, or one that says how it failed."""
  run = subprocess.run(
      command, cwd=conftest.PROJECT, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True, check=False,
      env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
  if run.returncode:
    last = (run.stderr.strip().splitlines() or ["no word of why"])[-1]
    return [f"not measured: {' '.join(command[1:3])} failed: {last}"]
  return run.stdout.strip().splitlines()


def start(settings):
  """How long run_classifier.py takes before it does anything: --help, and a
  training of a MiniLM-size model until its first step is logged, from texts
  and from records made before. Whole processes; a row is a run."""
  size = "MiniLM" if "MiniLM" in settings.sizes else settings.sizes[0]
  flags = _task_flags(settings, size, 256)
  python = [sys.executable]
  script = [*python, str(conftest.PROJECT / "run_classifier.py")]
  output = os.path.join(settings.folder, "start_out")
  training = [*script, *flags, "--do_train", "--train_batch_size=8",
              "--log_steps=1", f"--output_dir={output}"]
  rows = settings.run(measure.Group("run_classifier.py", [
      # Of absl's programs the status of --help is 1.
      _whole("--help", [*script, "--help"], 1, status=1),
      _whole("import tensorflow alone",
             [*python, "-c", "import tensorflow"], 1),
      _whole("to the first step", training, 1, until="step 1/",
             remove=[output])], settings.turns(5)))
  return {"rows": rows, "columns": [
      "cpu_ms_per_row", "wall_ms_per_row", "peak_mib"]}


def _whole(name, command, rows, **spec):
  """A contender that is a whole process."""
  return measure.Contender(name, _COMMAND, dict(
      spec, kind="command", command=command, rows=rows, warm_up=1))


def _task_flags(settings, size, count):
  """Flags of a model with random weights, and of a task of so many rows."""
  folder = os.path.join(settings.folder, f"task_{size}_{count}")
  vocabulary = _vocabulary(settings)
  config = model.config_of_size(model.SIZES[size])
  if not os.path.exists(folder):
    texts.write_task(folder, texts.sentences(count, vocabulary))
    with open(os.path.join(folder, "bert_config.json"), "w",
              encoding="utf-8") as writer:
      writer.write(config.to_json_string())
    checkpoints.save_checkpoint(
        conftest.random_variables(config),
        os.path.join(folder, "bert_model.ckpt"))
  return [f"--data_dir={folder}", "--task_name=SST-2",
          f"--vocab_file={vocabulary}", "--max_seq_length=128",
          f"--bert_config_file={os.path.join(folder, 'bert_config.json')}",
          f"--init_checkpoint={os.path.join(folder, 'bert_model.ckpt')}"]


def forward(settings):
  """Evaluation and prediction: the scripts' graphs on records of full rows, and
  whole runs of run_classifier.py on rows of few words, the start included."""
  size = "MiniLM" if "MiniLM" in settings.sizes else settings.sizes[0]
  path, called = _rows_file(settings, 128, 32, False)
  rows = settings.run(measure.Group(
      f"{size}, 32 x 128, {called}",
      [_own(name, "evaluate", size=size, rows_file=path, batch=32, mode=mode,
            folder=settings.folder)
       for name, mode in (("evaluation", "eval"), ("prediction", "infer"))],
      settings.turns(7)))
  count = 64 if settings.quick else 512
  script = [sys.executable, str(conftest.PROJECT / "run_classifier.py")]
  contenders = []
  for flag in ("do_eval", "do_predict"):
    output = os.path.join(settings.folder, f"out_{flag}")
    contenders.append(_whole(
        f"--{flag}", [*script, *_task_flags(settings, size, count), f"--{flag}",
                      f"--output_dir={output}"], count, remove=[output]))
  rows += settings.run(measure.Group(
      f"{size}, run_classifier.py, {count} rows", contenders,
      settings.turns(3)))
  return {"rows": rows}


def inference(settings):
  """An exported classifier and what demo.compile_model and demo.tune_int8 make
  of it, two threads each: SavedModels in TensorFlow, onnx and int8 in ONNX
  Runtime. Ratios are to the export. transformers computes logits in inference
  mode, with the same rows."""
  size = "MiniLM" if "MiniLM" in settings.sizes else settings.sizes[0]
  names = ["export", "float32", "bfloat16", "onnx", "int8"]
  if not settings.quick:
    names += ["float16", "aggressive"]
  made = measure.Worker(
      _own("models", "make_models", size=size, folder=settings.folder,
           models=names, warm_up=0),
      os.path.join(settings.folder, "models.log"), 2)
  paths = made.facts["models"]
  made.stop()
  rows = []
  for batch in (1, 8, 32):
    for is_mixed in (False, True):
      if is_mixed and (settings.quick or batch == 1):
        continue
      path, called = _rows_file(
          settings, 128, batch * (_MIXED_BATCHES if is_mixed else 1), is_mixed)
      contenders = [
          _own(name, "infer", size=size, path=paths[name], rows_file=path,
               batch=batch) for name in names]
      contenders += [_peer("torch", precision, "infer", size,
                           precision=precision, rows_file=path, batch=batch)
                     for precision in _PRECISIONS]
      rows += settings.run(measure.Group(
          f"{size}, {batch} x 128, {called}", contenders, settings.turns(9)))
  return {"rows": rows}


def memory(settings):
  """Peak memory of training steps, of the whole process: batches whole and in
  parts (--num_accumulation_steps), 6 layers of width 384, rows of 128 tokens,
  and 8 rows of 384 tokens of BERT-base."""
  rows = []
  for batch, parts in ((4, 1), (32, 1), (4, 8)):
    path, called = _rows_file(settings, 128, batch * parts, False)
    rows += settings.run(measure.Group(
        f"MiniLM, {parts} x {batch} x 128, {called}",
        [_train(settings, "fp32", "MiniLM", path, batch * parts, parts=parts,
                warm_up=1)], 2))
  if "base" in settings.sizes:
    path, called = _rows_file(settings, 384, 8, False)
    for precision in _PRECISIONS:
      contenders = [
          _train(settings, name, "base", path, 8, warm_up=1)._replace(
              name=f"here, {name}")
          for name in (precision, f"{precision}, fused",
                       f"{precision}, recomputed",
                       f"{precision}, fused, recomputed")]
      contenders += [
          _peer(name, precision, "train", "base", precision=precision,
                rows_file=path, batch=8, warm_up=1) for name in _PEERS]
      for contender in contenders:  # One by one: all would not fit together.
        rows += settings.run(measure.Group(
            f"base, 8 x 384, {called}", [contender], 1))
  return {"rows": rows, "columns": ["peak_mib", "cpu_ms_per_row"]}


def profile(settings):
  """Where the time of a training step goes: each operation's time on its
  thread, from TensorFlow's own trace of one step, by kind of operation. The
  sum is more than the step by the clock, since two threads compute."""
  tables = []
  size = "MiniLM" if "MiniLM" in settings.sizes else settings.sizes[0]
  path, called = _rows_file(settings, 128, 32, False)
  for name in ("fp32", "bf16", "bf16, fused"):
    found = json.loads(_output([
        sys.executable, "-m", "tests.benchmarks.step_profile",
        json.dumps(dict(size=size, configuration=name, rows_file=path, batch=32,
                        folder=settings.folder))])[-1])
    tables.append({
        "title": f"{size}, 32 x 128, {called}, {name}: {found['ms']:.0f} ms in "
                 f"operations, a step",
        "columns": ["operation", "count", "ms", "share"],
        "rows": [[kind, count, f"{ms:.1f}", f"{ms / found['ms']:.3f}"]
                 for kind, count, ms in found["kinds"]]})
  return {"tables": tables}


def ranks(settings):
  """Two ranks of one thread against one rank of two; see
  tests/benchmarks/scaling.py."""
  return {"lines": _output([
      sys.executable, "-m", "tests.benchmarks.scaling",
      f"--rounds={settings.turns(3)}"])}


def squad(settings):
  """Preparing a SQuAD file; see tests/benchmarks/squad_features.py."""
  vocabulary, path = _vocabulary(settings), settings.squad_file
  if not path:
    path = os.path.join(settings.folder, "squad.json")
    texts.write_questions(path, texts.sentences(2000, vocabulary))
  return {"lines": _output([
      sys.executable, "-m", "tests.benchmarks.squad_features",
      f"--squad_file={path}", f"--vocab_file={vocabulary}",
      f"--rounds={settings.turns(5)}",
      *(["--memory_questions=0"] if settings.quick else [])])}


def serving(settings):
  """demo.bert_server under load against the model alone; needs EXPORT_DIR and
  DATA_FILE; see tests/benchmarks/serving.py."""
  if not (settings.export_dir and settings.data_file):
    return {"lines": ["not measured: EXPORT_DIR=... DATA_FILE=... name the "
                      "model and the rows to send"]}
  return {"lines": _output([
      sys.executable, "-m", "tests.benchmarks.serving",
      f"--export_dir={settings.export_dir}",
      f"--data_file={settings.data_file}"])}


SECTIONS = {function.__name__: function for function in (
    product, train, peers, data, start, forward, inference, memory, profile,
    ranks, squad, serving)}
