"""CPU time that tokenization takes.

  python -m tests.benchmarks.tokenization --vocab_file=vocab.txt \
    --sentences_file=sentences.txt [--rounds=5]

The file has a sentence a line, of which the first 10,000 are taken. Prints a
line of JSON: `fresh`, CPU-seconds per 10,000 sentences of a FullTokenizer that
has seen no word before, and `again`, of the same one with the same sentences;
medians of the rounds. tests/benchmarks/peer_tokenizers.py measures another
tokenizer on the same file.
"""

import json
import statistics
import time

from absl import app
from absl import flags

import tokenization

FLAGS = flags.FLAGS
_SENTENCES = 10000


def define_flags():
  flags.DEFINE_string("vocab_file", None, "Vocabulary.", required=True)
  flags.DEFINE_string("sentences_file", None, "A sentence a line, UTF-8.",
                      required=True)
  flags.DEFINE_bool("do_lower_case", True, "As the vocabulary is.")
  flags.DEFINE_integer("rounds", 5, "Fresh tokenizers.")


def measure(tokenizer, sentences):
  """(word pieces, CPU-seconds per 10,000 sentences)."""
  start = time.process_time()
  pieces = sum(len(tokenizer.tokenize(sentence)) for sentence in sentences)
  return pieces, (time.process_time() - start) * _SENTENCES / len(sentences)


def main(_):
  with open(FLAGS.sentences_file, encoding="utf-8") as reader:
    sentences = reader.read().split("\n")[:_SENTENCES]
  seconds = {"fresh": [], "again": []}
  for _ in range(FLAGS.rounds):
    tokenizer = tokenization.FullTokenizer(
        FLAGS.vocab_file, FLAGS.do_lower_case)
    for name in seconds:
      pieces, taken = measure(tokenizer, sentences)
      seconds[name].append(taken)
  print(json.dumps({
      "sentences": len(sentences), "pieces": pieces,
      **{name: round(statistics.median(found), 4)
         for name, found in seconds.items()}}))


if __name__ == "__main__":
  define_flags()
  app.run(main)
