"""How fast run_squad.py prepares its records, and in how much memory.

  python -m tests.benchmarks.squad_features --squad_file=dev-v1.1.json \
    --vocab_file=vocab.txt [--memory_questions=87599]

Reads, converts and writes the file for prediction (384/128/64), in turn with
one and with two workers, and prints medians: windows per CPU-second (all
processes) and per second, for all of it and for converting and writing alone,
which is what workers share, and how much faster two processes are than one at
plain Python on this machine, whose cores may share what they need. Then makes a training file of that many questions by
repeating --train_file's under new ids, and prints the peak memory of the
process and its workers while run_squad.py's parts read and write it; pages
that processes share count once.
"""

import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from absl import app
from absl import flags
import psutil

import run_squad
import tokenization

FLAGS = flags.FLAGS
_MEBIBYTE = 1 << 20
_UPSTREAM = 372  # Recorded once; it can't run beside this.


def define_flags():
  run_squad.init_squad_flags()
  flags.DEFINE_string("squad_file", None, "SQuAD file to convert.")
  flags.DEFINE_integer("rounds", 5, "Pairs of runs.")
  flags.DEFINE_integer(
      "memory_questions", 87599, "Questions of the training file whose memory "
      "is measured; 0 leaves that out.")
  flags.DEFINE_bool("memory_only", False, "For the benchmark itself.")


def cpu_seconds():
  """CPU time of this process and of its children that have ended."""
  times = os.times()
  return sum(times[:4])


def prepare(path, is_training, num_workers, record_file):
  """What run_squad.py does from the JSON file to the records.

  Returns:
    (windows, seconds without vocabulary, reading, and starting workers).
  """
  FLAGS.preprocess_workers = num_workers
  FLAGS.do_train, FLAGS.do_predict = is_training, not is_training
  tokenizer = tokenization.FullTokenizer(FLAGS.vocab_file)
  with run_squad._worker_pool(FLAGS) as pool:
    examples = run_squad.read_squad_examples(path, is_training)
    if is_training:
      random.Random(12345).shuffle(examples)
    start = time.perf_counter()
    count, _ = run_squad._convert(
        examples, is_training, pool, record_file,
        None if is_training else tokenizer.inv_vocab)
    seconds = time.perf_counter() - start
  return count, seconds


def plain_python():
  """A piece of work that needs nothing but a core; CPU-bound."""
  words = {}
  for number in range(1000000):
    words[number % 5000] = str(number)


def machine_scaling():
  """Speed of two processes at `plain_python`, over that of one."""
  seconds = []
  for count in (1, 2):
    processes = [multiprocessing.get_context("fork").Process(
        target=plain_python) for _ in range(count)]
    start = time.perf_counter()
    for process in processes:
      process.start()
    for process in processes:
      process.join()
    seconds.append(time.perf_counter() - start)
  return 2 * seconds[0] / seconds[1]


def repeated(path, num_questions, output_file):
  """Writes a file of that many questions, with new ids."""
  with open(path, encoding="utf-8") as reader:
    articles = json.load(reader)["data"]
  data, count = [], 0
  while count < num_questions:
    for article in articles:
      paragraphs = []
      for paragraph in article["paragraphs"]:
        qas = [dict(qa, id=f"{qa['id']}-{count + i}")
               for i, qa in enumerate(paragraph["qas"])][:num_questions - count]
        count += len(qas)
        # Another text, so that nothing is shared that wouldn't be.
        context = paragraph["context"] + f" {count}"
        paragraphs.append({"context": context, "qas": qas})
      data.append({"title": article["title"], "paragraphs": paragraphs})
  with open(output_file, "w", encoding="utf-8") as writer:
    json.dump({"version": "1.1", "data": data}, writer)
  return count


def proportional_memory(pid):
  """Bytes of a process and its children, shared pages counted once."""
  total = 0
  try:
    process = psutil.Process(pid)
    for one in [process] + process.children():
      total += one.memory_full_info().pss
  except psutil.Error:
    pass  # It has just ended.
  return total


def memory_run(folder):
  """Reads and writes the large training file; prints windows."""
  count, _ = prepare(os.path.join(folder, "large.json"), True, None,
                     os.path.join(folder, "large.tf_record"))
  print(count)


def peak_memory(folder):
  """(windows, peak bytes) of a process of its own."""
  run = subprocess.Popen(
      [sys.executable, "-m", "tests.benchmarks.squad_features", "--memory_only",
       f"--vocab_file={FLAGS.vocab_file}", f"--output_dir={folder}"],
      stdout=subprocess.PIPE, text=True)
  peak = 0
  done = threading.Event()

  def watch():
    nonlocal peak
    while not done.wait(0.2):
      peak = max(peak, proportional_memory(run.pid))

  watcher = threading.Thread(target=watch)
  watcher.start()
  windows = run.communicate()[0]
  done.set()
  watcher.join()
  return int(windows), peak


def main(_):
  if FLAGS.memory_only:
    return memory_run(FLAGS.output_dir)
  with tempfile.TemporaryDirectory() as folder:
    rates, scaling = {1: [], 2: []}, []
    for _ in range(FLAGS.rounds):
      scaling.append(machine_scaling())
      for workers in (1, 2):
        wall, cpu = time.perf_counter(), cpu_seconds()
        count, converting = prepare(FLAGS.squad_file, False, workers,
                                    os.path.join(folder, "x.tf_record"))
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        rates[workers].append((count / cpu, count / wall, count / converting))
    print(f"{count} windows of {FLAGS.squad_file}, median of {FLAGS.rounds}:")
    for workers in (1, 2):
      per_cpu, per_second, alone = map(statistics.median, zip(*rates[workers]))
      print(f"  {workers} worker(s): {per_cpu:.0f} per CPU-second, "
            f"{per_second:.0f} per second, {alone:.0f} without reading")
    print(f"  upstream: {_UPSTREAM} per CPU-second on dev-v1.1.json (TensorFlow "
          f"1.15, another machine)")
    _, whole, alone = (
        statistics.median(two[i] / one[i]
                          for one, two in zip(rates[1], rates[2]))
        for i in range(3))
    print(f"  2 workers against 1, by the clock: {whole:.2f}, {alone:.2f} "
          f"without reading (plain Python: {statistics.median(scaling):.2f})")
    if FLAGS.memory_questions:
      count = repeated(FLAGS.train_file or FLAGS.squad_file,
                       FLAGS.memory_questions,
                       os.path.join(folder, "large.json"))
      windows, peak = peak_memory(folder)
      print(f"{count} training questions, {windows} windows: peak memory "
            f"{peak / _MEBIBYTE:.0f} MiB in all processes")
  return 0


if __name__ == "__main__":
  define_flags()
  app.run(main)
