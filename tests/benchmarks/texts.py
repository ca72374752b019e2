"""Vocabulary and sentences where no real ones are given."""

import json
import os

import numpy as np

from tests.benchmarks import model

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SIGNS = list(".,!?'-\"():;0123456789")
_ONSETS = ["", *"bcdfghklmnprstvw", "br", "ch", "st", "th", "tr"]
_VOWELS = ["a", "e", "i", "o", "u", "ea", "ou"]


def _words(count, rng):
  """Words of one to four syllables (list of string), each once."""
  found = {}
  while len(found) < count:
    word = "".join(
        _ONSETS[rng.randint(len(_ONSETS))] + _VOWELS[rng.randint(len(_VOWELS))]
        for _ in range(rng.randint(1, 5)))
    found[word + _LETTERS[rng.randint(26)]] = True
  return list(found)


def write_vocabulary(path):
  """Writes a vocabulary of Google's size: letters, syllables, words."""
  rng = np.random.RandomState(1)
  pieces = list(_LETTERS) + [o + v for o in _ONSETS for v in _VOWELS if o]
  tokens = list(dict.fromkeys(
      _SPECIAL + _SIGNS + pieces + ["##" + x for x in pieces] +
      _words(model.VOCAB_SIZE, rng)))[:model.VOCAB_SIZE]
  with open(path, "w", encoding="utf-8") as writer:
    writer.writelines(token + "\n" for token in tokens)


def sentences(count, vocab_file, seed=1):
  """Sentences with the frequent words of a vocabulary, and such as it lacks.

  Args:
    count: int.
    vocab_file: string.
    seed: int.

  Returns:
    List of string.
  """
  rng = np.random.RandomState(seed)
  with open(vocab_file, encoding="utf-8") as reader:
    known = [token for token in reader.read().split("\n") if token.isalpha()]
  words = known + _words(2000, rng)
  ranks = np.minimum(rng.zipf(1.2, [count, 40]), len(words)) - 1
  found = []
  for row in ranks:
    chosen = [words[rank] for rank in row[:rng.randint(8, 33)]]
    chosen[len(chosen) // 2] += ","
    found.append(" ".join(chosen).capitalize() + ".")
  return found


def write_task(folder, lines):
  """Writes SST-2's three files with the same rows.

  Args:
    folder: string; it is made.
    lines: list of string.
  """
  os.makedirs(folder, exist_ok=True)
  for name in ("train", "dev"):
    with open(os.path.join(folder, f"{name}.tsv"), "w",
              encoding="utf-8") as writer:
      writer.write("sentence\tlabel\n")
      writer.writelines(f"{line}\t{number % 2}\n"
                        for number, line in enumerate(lines))
  with open(os.path.join(folder, "test.tsv"), "w", encoding="utf-8") as writer:
    writer.write("index\tsentence\n")
    writer.writelines(f"{number}\t{line}\n"
                      for number, line in enumerate(lines))


def write_questions(path, lines, per_paragraph=5):
  """Writes a SQuAD file whose texts and questions are of these sentences."""
  paragraphs = []
  for start in range(0, len(lines) - per_paragraph, per_paragraph):
    chosen = lines[start:start + per_paragraph]
    context = " ".join(chosen)
    answer = context.split()[3]
    paragraphs.append({"context": context, "qas": [
        {"id": f"{start}-{number}", "question": line[:-1] + "?",
         "answers": [{"text": answer, "answer_start": context.index(answer)}]}
        for number, line in enumerate(chosen)]})
  with open(path, "w", encoding="utf-8") as writer:
    json.dump({"version": "1.1", "data": [
        {"title": "Sentences", "paragraphs": paragraphs}]}, writer)
