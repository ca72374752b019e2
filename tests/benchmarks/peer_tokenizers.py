"""What tests.benchmarks.tokenization and squad_features measure, elsewhere.

  PYTHON tests/benchmarks/peer_tokenizers.py --vocab_file=vocab.txt \
    --sentences=sentences.txt --squad_file=dev-v1.1.json

Runs with a Python that has Hugging Face's `tokenizers`, and needs nothing of
this project. Prints a line of JSON: CPU-seconds of `tokenizers` for 10,000
sentences, as one batch and one by one, and the windows of the SQuAD file that
it makes per CPU-second (384/128/64, one thread, ids, masks and offsets but no
records); medians of the rounds.
"""

import argparse
import json
import os
import statistics
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers  # pylint: disable=wrong-import-position

_SENTENCES = 10000
_MAX_SEQ_LENGTH, _DOC_STRIDE, _MAX_QUERY_LENGTH = 384, 128, 64
_CHUNK = 1000  # Questions of a batch.


def cpu_seconds(function):
  """CPU time of a call, and what it returned."""
  start = time.process_time()
  result = function()
  return time.process_time() - start, result


def sentence_figures(make, path):
  """CPU-seconds per 10,000 sentences."""
  with open(path, encoding="utf-8") as reader:
    sentences = reader.read().split("\n")[:_SENTENCES]
  tokenizer = make()
  each = _SENTENCES / len(sentences)
  batch, _ = cpu_seconds(
      lambda: [x.tokens for x in tokenizer.encode_batch(
          sentences, add_special_tokens=False)])
  tokenizer = make()
  single, _ = cpu_seconds(
      lambda: [tokenizer.encode(x, add_special_tokens=False).tokens
               for x in sentences])
  return {"sentences_in_a_batch": batch * each,
          "sentences_one_by_one": single * each}


def windows_of(tokenizer, path):
  """Number of windows of a SQuAD file, all of them made.

  The stride of `tokenizers` is what two windows have in common, so a question
  has its own to get windows that begin _DOC_STRIDE tokens apart.
  """
  with open(path, encoding="utf-8") as reader:
    pairs = [(qa["question"], paragraph["context"])
             for article in json.load(reader)["data"]
             for paragraph in article["paragraphs"]
             for qa in paragraph["qas"]]
  tokenizer.no_truncation()
  questions = tokenizer.encode_batch(
      [question for question, _ in pairs], add_special_tokens=False)
  by_length = {}
  for (question, context), encoded in zip(pairs, questions):
    if len(encoded) > _MAX_QUERY_LENGTH:
      question = question[:encoded.offsets[_MAX_QUERY_LENGTH - 1][1]]
    length = min(len(encoded), _MAX_QUERY_LENGTH)
    by_length.setdefault(length, []).append((question, context))
  tokenizer.enable_padding(length=_MAX_SEQ_LENGTH)
  count = 0
  for length, of_length in by_length.items():
    room = _MAX_SEQ_LENGTH - length - 3
    tokenizer.enable_truncation(
        _MAX_SEQ_LENGTH, stride=room - min(_DOC_STRIDE, room),
        strategy="only_second")
    for first in range(0, len(of_length), _CHUNK):
      for encoding in tokenizer.encode_batch(of_length[first:first + _CHUNK]):
        for window in (encoding, *encoding.overflowing):
          count += bool(window.ids and window.attention_mask and
                        window.type_ids and window.offsets)
  return count


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("--vocab_file", required=True)
  parser.add_argument("--sentences")
  parser.add_argument("--squad_file")
  parser.add_argument("--rounds", type=int, default=3)
  args = parser.parse_args()

  def make():
    return tokenizers.BertWordPieceTokenizer(args.vocab_file, lowercase=True)

  found = []
  for _ in range(args.rounds):
    figures = {}
    if args.sentences:
      figures.update(sentence_figures(make, args.sentences))
    if args.squad_file:
      taken, windows = cpu_seconds(
          lambda: windows_of(make(), args.squad_file))
      figures.update(windows=windows, windows_per_cpu_second=windows / taken)
    found.append(figures)
  print(json.dumps({
      "program": f"tokenizers {tokenizers.__version__}",
      **{name: round(statistics.median(x[name] for x in found), 4)
         for name in found[0]}}))


if __name__ == "__main__":
  main()
