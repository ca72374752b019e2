# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Turns plain text into records to pretrain BERT on: masked words and pairs of
sentences.

  python create_pretraining_data.py --input_file='corpus/*.txt' \
    --vocab_file=vocab.txt --output_file=a.tf_record,b.tf_record

The text has one sentence a line and a blank line between documents. The way
of a document: lines -> word pieces -> pairs of segments, the second of which
follows the first or comes from another document -> some tokens are masked
(TrainingInstance) -> tf.train.Example in a record file.

By default all text is in memory and one generator of random numbers goes
through it, so that a seed gives upstream's records. With --streaming the text
is dealt out to blocks of a bounded size, each with its own generator.

Source: google-research/bert (commit cc7051dc); Devlin et al. 2018, "BERT:
Pre-training of Deep Bidirectional Transformers for Language Understanding",
section 3.1 and appendix A, for the two tasks.
"""

import array
import collections
import contextlib
import functools
import itertools
import math
import os
import random
import shutil
import tempfile

from demo import start_helpers

start_helpers.prepare(__name__)  # Before the libraries are imported.

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from demo import flag_helpers
from demo import horovod_helpers
from demo import record_helpers
from demo import script_helpers
from demo import worker_helpers
import tokenization

FLAGS = flags.FLAGS

# [CLS] and two [SEP], and at least one token for each segment.
_NUM_SPECIAL_TOKENS = 3
_SHORTEST_TARGET = 2

_SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[MASK]", "[UNK]")

# Draws for a document other than the one at hand.
_RANDOM_DOCUMENT_TRIES = 10

# What a worker gets at a time: characters to tokenize, instances to write.
_CHUNK_CHARACTERS = 1 << 16
_CHUNK_INSTANCES = 256

# With --streaming a longer part of a block than this is cut, so that each
# block has several documents; and the characters that wait to be dealt out.
_LONGEST_DOCUMENT = 1 / 8
_WAITING_CHARACTERS = 1 << 23


_CHECKED_AT_A_TIME = 512  # Records.


def init_pretraining_data_flags():
  """Defines the script's flags: upstream's, then those added here."""
  flags.DEFINE_string(
      "input_file", None,
      "Text to read: file names or patterns such as corpus/*.txt, separated "
      "by commas; .gz files too. One sentence a line, a blank line between "
      "documents.")
  flags.DEFINE_string(
      "output_file", None,
      "Record files to write, separated by commas; the records are dealt out "
      "to them in turn.")
  flag_helpers.define_text_flags()
  flags.DEFINE_bool(
      "do_whole_word_mask", False,
      "Mask all pieces of a word or none, instead of single pieces.")
  flags.DEFINE_integer(
      "max_seq_length", 128, "Tokens of a record; shorter ones are padded.")
  flags.DEFINE_integer(
      "max_predictions_per_seq", 20,
      "Tokens to predict in a record at most. About max_seq_length times "
      "masked_lm_prob.")
  flags.DEFINE_integer("random_seed", 12345, "Seed of everything random.")
  flags.DEFINE_integer(
      "dupe_factor", 10,
      "Passes over the text, each of which masks it differently.")
  flags.DEFINE_float(
      "masked_lm_prob", 0.15, "Share of the tokens that are to be predicted.")
  flags.DEFINE_float(
      "short_seq_prob", 0.1,
      "Share of the documents in a pass that make records of a random shorter "
      "length.")

  # Not in upstream.
  flags.DEFINE_bool(
      "gzip_compress", False, "Compress the record files with gzip.")
  flags.DEFINE_integer(
      "workers", None,
      "Processes to work with; the records are the same for any number. None "
      "takes all cores.", lower_bound=1)
  flags.DEFINE_bool(
      "streaming", False,
      "Work block by block, in memory that doesn't grow with the text and on "
      "all workers. The records are other ones than without.")
  flags.DEFINE_float(
      "streaming_block_mb", 1.0,
      "With --streaming: megabytes of text in a block, on average. A worker "
      "has one block in memory, with all its records.")


class TrainingInstance(object):
  """A pair of segments with masked tokens, as text.

  Source: upstream symbol, unchanged.
  """

  def __init__(self, tokens, segment_ids, masked_lm_positions, masked_lm_labels,
               is_random_next):
    """Takes the values as they are.

    Args:
      tokens: list of string, `[CLS] segment [SEP] segment [SEP]`, masked.
      segment_ids: list of int, 0 up to the first [SEP], 1 after it.
      masked_lm_positions: list of int, places of the tokens to predict.
      masked_lm_labels: list of string, the tokens that stood there.
      is_random_next: bool, the second segment does not follow the first.
    """
    self.tokens, self.segment_ids = tokens, segment_ids
    self.is_random_next = is_random_next
    self.masked_lm_positions = masked_lm_positions
    self.masked_lm_labels = masked_lm_labels

  def __str__(self):
    def spaced(values):
      return " ".join(tokenization.printable_text(str(x)) for x in values)

    return (f"tokens: {spaced(self.tokens)}\n"
            f"segment_ids: {spaced(self.segment_ids)}\n"
            f"is_random_next: {self.is_random_next}\n"
            f"masked_lm_positions: {spaced(self.masked_lm_positions)}\n"
            f"masked_lm_labels: {spaced(self.masked_lm_labels)}\n\n")

  def __repr__(self):
    return str(self)


def write_instance_to_example_files(instances, tokenizer, max_seq_length,
                                    max_predictions_per_seq, output_files,
                                    compress=False, workers=1):
  """Writes record files; instances are dealt out to them in turn.

  Args:
    instances: list of TrainingInstance.
    tokenizer: FullTokenizer.
    max_seq_length: int, S.
    max_predictions_per_seq: int, P.
    output_files: list of string.
    compress: bool, with gzip.
    workers: int, processes that make the records.

  Source: upstream symbol; see CHANGES.
  """
  for instance in instances[:20]:
    logging.debug("Example\n%s", instance)

  def serialize(first):
    return [
        _serialized(instance, tokenizer, max_seq_length,
                    max_predictions_per_seq)
        for instance in instances[first:first + _CHUNK_INSTANCES]]

  with contextlib.ExitStack() as stack:
    writers = itertools.cycle([
        stack.enter_context(_record_writer(path, compress))
        for path in output_files])
    # The workers are forked here and so have the instances already.
    pool = stack.enter_context(worker_helpers.WorkerPool(serialize, workers))
    progress = stack.enter_context(script_helpers.Progress(
        len(instances), "Writing", "records", log_every=100000))
    for records in pool.map(range(0, len(instances), _CHUNK_INSTANCES)):
      for record, writer in zip(records, writers):
        writer.write(record)
      progress.update(len(records))


def _record_writer(path, compress):
  """A TFRecordWriter, for a `with` statement."""
  return tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(
      compression_type=_compression(compress)))


def _compression(compress):
  return "GZIP" if compress else ""


def _serialized(instance, tokenizer, max_seq_length, max_predictions_per_seq):
  """A TrainingInstance as serialized tf.train.Example (bytes)."""
  ids = tokenizer.convert_tokens_to_ids(instance.tokens)
  labels = tokenizer.convert_tokens_to_ids(instance.masked_lm_labels)
  padding = max_seq_length - len(ids)
  assert padding >= 0
  unused = max_predictions_per_seq - len(labels)
  return record_helpers.serialized_example(
      record_helpers.int_entry("input_ids", ids + [0] * padding),
      record_helpers.repeated_int_entry(
          "input_mask", (1,) * len(ids) + (0,) * padding),
      record_helpers.repeated_int_entry(
          "segment_ids", (*instance.segment_ids, *(0,) * padding)),
      record_helpers.int_entry(
          "masked_lm_positions", instance.masked_lm_positions + [0] * unused),
      record_helpers.int_entry("masked_lm_ids", labels + [0] * unused),
      _weights_entry(len(labels), unused),
      record_helpers.repeated_int_entry(
          "next_sentence_labels", (int(instance.is_random_next),)))


def create_int_feature(values):
  """A list of ints as tf.train.Feature. Source: upstream symbol, unchanged."""
  return record_helpers.int_feature(list(values))


def create_float_feature(values):
  """A list of floats as tf.train.Feature. Source: upstream symbol, unchanged.
  """
  return tf.train.Feature(float_list=tf.train.FloatList(value=list(values)))


@functools.lru_cache(maxsize=None)
def _weights_entry(used, unused):
  """masked_lm_weights: 1.0 for each token to predict, 0.0 for padding."""
  return record_helpers.feature_entry(
      "masked_lm_weights", create_float_feature([1.0] * used + [0.0] * unused))


def create_training_instances(input_files, tokenizer, max_seq_length,
                              dupe_factor, short_seq_prob, masked_lm_prob,
                              max_predictions_per_seq, rng,
                              do_whole_word_mask=False, workers=1):
  """Reads all text and makes the instances of all passes, shuffled.

  Args:
    input_files: list of string, text files.
    tokenizer: FullTokenizer.
    max_seq_length: int, S, tokens.
    dupe_factor: int, passes over the text.
    short_seq_prob: float, share of documents with shorter instances.
    masked_lm_prob: float, share of tokens to predict.
    max_predictions_per_seq: int, P, at most so many in an instance.
    rng: random.Random.
    do_whole_word_mask: bool, mask whole words.
    workers: int, processes that tokenize.

  Returns:
    List of TrainingInstance.

  Raises:
    ValueError: there is no text, or it is not UTF-8.

  Source: upstream symbol; see CHANGES.
  """
  all_documents = _tokenized_documents(input_files, tokenizer, workers)
  if len(all_documents) == 1:
    logging.warning(
        "The text is one document, so a random next sentence can't come from "
        "another one. Put blank lines between documents.")
  instances = []
  with script_helpers.Progress(
      dupe_factor * len(all_documents), "Making instances", "documents",
      log_every=100000) as progress:
    for made in _passes(
        all_documents, tokenizer, dupe_factor, rng,
        max_seq_length=max_seq_length, short_seq_prob=short_seq_prob,
        masked_lm_prob=masked_lm_prob,
        max_predictions_per_seq=max_predictions_per_seq,
        do_whole_word_mask=do_whole_word_mask):
      instances.extend(made)
      progress.update(1)
  rng.shuffle(instances)
  return instances


def _passes(documents, tokenizer, dupe_factor, rng, **settings):
  """Shuffles documents and yields the instances of each, pass after pass."""
  rng.shuffle(documents)
  vocab_words = list(tokenizer.vocab)
  for _ in range(dupe_factor):
    for index in range(len(documents)):
      yield create_instances_from_document(
          documents, index, vocab_words=vocab_words, rng=rng, **settings)


def _tokenized_documents(input_files, tokenizer, workers):
  """All documents with their tokens, a list of lists of lists of string."""
  def tokenize(texts):
    # Ids are a fraction of the tokens' size on their way here.
    return [[array.array("i", tokenizer.convert_tokens_to_ids(tokens)).tobytes()
             for tokens in _tokenized(text, tokenizer)] for text in texts]

  documents = []
  with worker_helpers.WorkerPool(tokenize, workers) as pool:
    for packed_documents in pool.map(_chunks(_documents(input_files))):
      for packed in packed_documents:
        if packed:
          documents.append([
              tokenizer.convert_ids_to_tokens(array.array("i", sentence))
              for sentence in packed])
  return documents


def _tokenized(text, tokenizer):
  """The tokens of each line of a document; lines without any are left out."""
  return [tokens for tokens in map(tokenizer.tokenize, text.split("\n"))
          if tokens]


def _chunks(texts):
  """Puts texts together to lists for one worker at a time."""
  chunk, size = [], 0
  for text in texts:
    chunk.append(text)
    size += len(text)
    if size >= _CHUNK_CHARACTERS:
      yield chunk
      chunk, size = [], 0
  yield chunk


def _documents(input_files, longest=math.inf, text_bytes=None):
  """Reads documents one after the other.

  A document ends at a blank line and, as in upstream, not at the end of a
  file.

  Args:
    input_files: list of string.
    longest: characters, int; longer documents are cut after a line.
    text_bytes: int, `_text_bytes` of the files where it is known.

  Yields:
    string, lines joined by line ends; none is blank.

  Raises:
    ValueError: there is no text, or it is not UTF-8.
  """
  lines, size, is_empty = [], 0, True
  for line in itertools.chain(_lines(input_files, text_bytes), [""]):
    if line:
      lines.append(line)
      size += len(line)
    if lines and (not line or size > longest):
      if line:
        logging.log_first_n(
            logging.WARNING,
            "A document of more than %d characters is cut into several. Put "
            "blank lines between documents or raise --streaming_block_mb.", 1,
            longest)
      yield "\n".join(lines)
      lines, size, is_empty = [], 0, False
  if is_empty:
    raise ValueError(
        f"--input_file has no text: {_shortened(input_files)} only blank.")


def _shortened(names):
  """Names for a message: the first, and how many there are."""
  return names[0] + (f" and {len(names) - 1} more are" if names[1:] else " is")


def _lines(input_files, text_bytes):
  """The lines of all files, stripped; blank ones as ""."""
  with script_helpers.Progress(
      text_bytes or _text_bytes(input_files), "Reading", "bytes",
      log_every=1 << 26) as progress:
    previous, line = None, ""
    for path in input_files:
      if line:
        logging.log_first_n(
            logging.WARNING, "%s doesn't end with a blank line, so its last "
            "document goes on in %s.", 1, previous, path)
      for number, raw in enumerate(script_helpers.raw_lines(path), 1):
        try:
          line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
          raise ValueError(
              f"{path}:{number}: not UTF-8 text ({error.reason}). Convert it "
              f"with iconv.") from None
        # TensorFlow drops these from plain files, wherever they stand.
        line = line.replace("\r", "").strip()
        yield line
        progress.update(len(raw))
      previous = path


def _text_bytes(input_files):
  """How much text there is, compressed files unpacked."""
  return sum(
      sum(map(len, script_helpers.raw_lines(path))) if path.endswith(".gz")
      else tf.io.gfile.stat(path).length for path in input_files)


def create_instances_from_document(
    all_documents, document_index, max_seq_length, short_seq_prob,
    masked_lm_prob, max_predictions_per_seq, vocab_words, rng,
    do_whole_word_mask=False):
  """Makes the instances of one pass over a document.

  Sentences are put together until they fill an instance, and these are split
  in two at a random place. In half of the cases, and always where there is
  only one sentence, the second segment is replaced by text from another
  document; the sentences that it stood for are used for the next instance.

  Args:
    all_documents: list of documents, each a list of sentences, each a list of
      string.
    document_index: int, the document.
    max_seq_length: int, S, tokens.
    short_seq_prob: float, how often all instances get a shorter length.
    masked_lm_prob: float, share of tokens to predict.
    max_predictions_per_seq: int, P.
    vocab_words: list of string, what to draw wrong tokens from.
    rng: random.Random.
    do_whole_word_mask: bool, mask whole words.

  Returns:
    List of TrainingInstance.

  Source: upstream symbol; see CHANGES.
  """
  document = all_documents[document_index]
  max_num_tokens = max_seq_length - _NUM_SPECIAL_TOKENS
  # The model meets short texts too, though most instances are full.
  target_length = max_num_tokens
  if rng.random() < short_seq_prob:
    target_length = rng.randint(_SHORTEST_TARGET, max_num_tokens)
  instances = []
  start = 0
  while start < len(document):
    chunk = _sentences(document, start, target_length)
    split = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
    first = _joined(chunk[:split])
    is_random_next = len(chunk) == 1 or rng.random() < 0.5
    if is_random_next:
      second = _random_next(
          all_documents, document_index, target_length - len(first), rng)
      start += split
    else:
      second = _joined(chunk[split:])
      start += len(chunk)
    truncate_seq_pair(first, second, max_num_tokens, rng)
    tokens, positions, labels = create_masked_lm_predictions(
        ["[CLS]", *first, "[SEP]", *second, "[SEP]"], masked_lm_prob,
        max_predictions_per_seq, vocab_words, rng, do_whole_word_mask)
    segment_ids = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    instances.append(TrainingInstance(
        tokens, segment_ids, positions, labels, is_random_next))
  return instances


def _sentences(document, start, num_tokens):
  """The sentences from `start` on that have `num_tokens` or just more.

  It is at least one, and fewer tokens at the end of the document.
  """
  size = 0
  for end in range(start, len(document)):
    size += len(document[end])
    if size >= num_tokens:
      break
  return document[start:end + 1]


def _joined(sentences):
  return list(itertools.chain.from_iterable(sentences))


def _random_next(all_documents, document_index, num_tokens, rng):
  """Sentences from a random place of another document, as a list of tokens.

  With few documents it may be the same one.
  """
  for _ in range(_RANDOM_DOCUMENT_TRIES):
    other = rng.randint(0, len(all_documents) - 1)
    if other != document_index:
      break
  document = all_documents[other]
  return _joined(_sentences(
      document, rng.randint(0, len(document) - 1), num_tokens))


MaskedLmInstance = collections.namedtuple(
    "MaskedLmInstance", ["index", "label"])


def create_masked_lm_predictions(tokens, masked_lm_prob,
                                 max_predictions_per_seq, vocab_words, rng,
                                 do_whole_word_mask=False):
  """Chooses tokens to predict and hides most of them.

  Args:
    tokens: list of string, an instance; it is left as it is.
    masked_lm_prob: float, share of tokens to predict.
    max_predictions_per_seq: int, P.
    vocab_words: list of string, what to draw wrong tokens from.
    rng: random.Random.
    do_whole_word_mask: bool, choose all pieces of a word or none. Each piece is
      then hidden by itself, and predicted from the whole vocabulary.

  Returns:
    (output_tokens, masked_lm_positions, masked_lm_labels): the tokens with
    some replaced; the places of those to predict, in rising order; the tokens
    that stood there.

  Source: upstream symbol; see CHANGES.
  """
  candidates = _candidates(tokens, do_whole_word_mask)
  _shuffle(candidates, rng)
  wanted = max(1, int(round(len(tokens) * masked_lm_prob)))
  chosen = _first_that_fit(candidates, min(max_predictions_per_seq, wanted))
  output_tokens = list(tokens)
  for index in chosen:
    output_tokens[index] = _replacement(tokens[index], vocab_words, rng)
  masked_lms = [MaskedLmInstance(index, tokens[index])
                for index in sorted(chosen)]
  return (output_tokens, [masked.index for masked in masked_lms],
          [masked.label for masked in masked_lms])


def _candidates(tokens, do_whole_word_mask):
  """What can be masked: lists of places, each of a piece or a whole word."""
  pieces = [[index] for index, token in enumerate(tokens)
            if token not in ("[CLS]", "[SEP]")]
  if not do_whole_word_mask:
    return pieces
  words = []
  for piece in pieces:
    # Where a segment was cut inside a word, its rest counts with the word
    # before it, if there is one.
    if words and tokens[piece[0]].startswith("##"):
      words[-1] += piece
    else:
      words.append(piece)
  return words


def _shuffle(items, rng):
  """`rng.shuffle(items)`: the same draws in a third of the time."""
  draw = rng.getrandbits
  for last in range(len(items) - 1, 0, -1):
    bits = (last + 1).bit_length()
    other = draw(bits)
    while other > last:
      other = draw(bits)
    items[last], items[other] = items[other], items[last]


def _first_that_fit(candidates, num_to_predict):
  """Places of the first candidates that make no more than so many."""
  chosen = []
  for places in candidates:
    if len(chosen) == num_to_predict:
      break
    if len(chosen) + len(places) <= num_to_predict:
      chosen.extend(places)
  return chosen


def _replacement(token, vocab_words, rng):
  """What the model sees of a token to predict: in 80 % of the cases [MASK], in
  10 % the token itself, in 10 % any token."""
  if rng.random() < 0.8:
    return "[MASK]"
  return token if rng.random() < 0.5 else rng.choice(vocab_words)


def truncate_seq_pair(tokens_a, tokens_b, max_num_tokens, rng):
  """Cuts two segments, in place, until they fit together.

  Each token is taken from the segment that is longer then, the second if they
  are equal, at its start or its end.

  Args:
    tokens_a: list, the first segment.
    tokens_b: list, the second.
    max_num_tokens: int, for both.
    rng: random.Random.

  Source: upstream symbol, unchanged.
  """
  left_a, right_a, left_b, right_b = 0, len(tokens_a), 0, len(tokens_b)
  for _ in range(right_a + right_b - max_num_tokens):
    at_start = rng.random() < 0.5
    if right_a - left_a > right_b - left_b:
      left_a, right_a = left_a + at_start, right_a - (not at_start)
    else:
      left_b, right_b = left_b + at_start, right_b - (not at_start)
  tokens_a[:] = tokens_a[left_a:right_a]
  tokens_b[:] = tokens_b[left_b:right_b]


def stream_instances_to_example_files(input_files, tokenizer, output_files,
                                      dupe_factor, random_seed, block_size,
                                      compress=False, workers=1, **settings):
  """Makes and writes instances in memory that doesn't grow with the text.

  First the documents are dealt out to blocks, temporary files beside the first
  output file: of each so many documents as there are blocks, one goes to each
  block, at random. Then workers make the instances of a block, with a
  generator of its own and random next sentences from the same block, and write
  them to a file, shuffled. These are put together: block number n goes to
  output file n modulo the number of files.

  So the records depend on text, seed, block size and number of output files,
  and not on the number of workers.

  Args:
    input_files: list of string, text files.
    tokenizer: FullTokenizer.
    output_files: list of string.
    dupe_factor: int, passes over the text.
    random_seed: int.
    block_size: int, characters of a block, on average.
    compress: bool, with gzip.
    workers: int, processes that make instances.
    **settings: max_seq_length, short_seq_prob, masked_lm_prob,
      max_predictions_per_seq and do_whole_word_mask of
      `create_instances_from_document`.

  Raises:
    ValueError: there is no text, or it is not UTF-8.
  """
  num_files = len(output_files)
  text_bytes = _text_bytes(input_files)
  num_blocks = num_files * math.ceil(text_bytes / block_size / num_files)
  folder = os.path.dirname(output_files[0]) or "."
  with tempfile.TemporaryDirectory(
      prefix="create_pretraining_data_", suffix=".tmp",
      dir=folder if os.path.isdir(folder) else None) as blocks:
    longest = max(int(block_size * _LONGEST_DOCUMENT), 1)
    _deal_out(_documents(input_files, longest, text_bytes), num_blocks, blocks,
              random.Random(f"{random_seed} order of documents"))

    def make(number):
      return _make_block(
          os.path.join(blocks, str(number)), tokenizer, dupe_factor,
          random.Random(f"{random_seed} block {number}"), compress, settings)

    with worker_helpers.WorkerPool(make, workers) as pool, (
        script_helpers.Progress(num_blocks, "Making instances", "blocks",
                                log_every=10)) as progress:
      finished = pool.map(itertools.chain.from_iterable(
          range(number, num_blocks, num_files) for number in range(num_files)))
      for path in output_files:
        with tf.io.gfile.GFile(path, "wb") as writer:
          writer.write(b"")  # Makes the file.
          for part in itertools.islice(finished, num_blocks // num_files):
            with open(part, "rb") as reader:
              shutil.copyfileobj(reader, writer)
            # Not by the worker: if it is killed, the block is made again.
            os.remove(part)
            os.remove(os.path.splitext(part)[0])
            progress.update(1)


def _deal_out(documents, num_blocks, folder, rng):
  """Writes documents to the files of blocks, with a blank line between them.

  Args:
    documents: iterable of string.
    num_blocks: int.
    folder: string; the files have the blocks' numbers as their names.
    rng: random.Random.
  """
  for number in range(num_blocks):  # Some may get no document.
    open(os.path.join(folder, str(number)), "w").close()
  waiting, size = collections.defaultdict(list), 0  # By block.

  def write():
    # Closed again each time: there may be more blocks than a process may have
    # files open.
    for number, texts in waiting.items():
      with open(os.path.join(folder, str(number)), "a", encoding="utf-8",
                newline="\n") as writer:
        writer.writelines(f"{text}\n\n" for text in texts)
    waiting.clear()

  order = itertools.chain.from_iterable(
      rng.sample(range(num_blocks), num_blocks) for _ in itertools.repeat(None))
  for text, number in zip(documents, order):
    waiting[number].append(text)
    size += len(text)
    if size >= _WAITING_CHARACTERS:
      write()
      size = 0
  write()


def _make_block(path, tokenizer, dupe_factor, rng, compress, settings):
  """Makes the records of a block, in a worker process.

  Args:
    path: string, the block's text.
    tokenizer: FullTokenizer.
    dupe_factor: int.
    rng: random.Random.
    compress: bool.
    settings: dict, see `stream_instances_to_example_files`.

  Returns:
    string, the file with the records.
  """
  with open(path, encoding="utf-8", newline="\n") as reader:
    texts = reader.read().split("\n\n")
  documents = [tokens for text in texts
               if (tokens := _tokenized(text, tokenizer))]
  if len(documents) == 1:
    logging.log_first_n(
        logging.WARNING,
        "A block is one document, so a random next sentence can't come from "
        "another one. Raise --streaming_block_mb or give fewer files to "
        "--output_file.", 1)
  records = []
  for made in _passes(documents, tokenizer, dupe_factor, rng, **settings):
    records.extend(
        _serialized(instance, tokenizer, settings["max_seq_length"],
                    settings["max_predictions_per_seq"]) for instance in made)
  rng.shuffle(records)
  finished = f"{path}.records"
  with _record_writer(finished, compress) as writer:
    for record in records:
      writer.write(record)
  return finished


# What a file has: numbers of records, tokens, tokens to predict, records
# without any of these, and pairs whose second segment does not follow.
_Counts = collections.namedtuple(
    "_Counts", ["records", "tokens", "masked", "unmasked", "random_next"])


def _check_records(path, max_seq_length, max_predictions_per_seq, vocab_size,
                   compress):
  """Reads a record file back.

  Returns:
    _Counts.

  Raises:
    ValueError: there is no record, or one is not as it should be.
  """
  name_to_features = {
      **{name: tf.io.FixedLenFeature([max_seq_length], tf.int64)
         for name in ("input_ids", "input_mask", "segment_ids")},
      **{name: tf.io.FixedLenFeature([max_predictions_per_seq], tf.int64)
         for name in ("masked_lm_positions", "masked_lm_ids")},
      "masked_lm_weights": tf.io.FixedLenFeature(
          [max_predictions_per_seq], tf.float32),
      "next_sentence_labels": tf.io.FixedLenFeature([], tf.int64)}
  batches = tf.data.TFRecordDataset(path, _compression(compress)).batch(
      _CHECKED_AT_A_TIME).map(
          lambda records: tf.io.parse_example(records, name_to_features))
  counts = np.zeros(len(_Counts._fields), np.int64)
  try:
    for batch in batches.as_numpy_iterator():
      lengths = batch["input_mask"].sum(axis=1)
      is_masked = batch["masked_lm_weights"] > 0
      is_well_formed = (
          np.all(batch["masked_lm_positions"] < lengths[:, None]) and
          all(np.all((0 <= batch[name]) & (batch[name] < vocab_size))
              for name in ("input_ids", "masked_lm_ids")))
      if not is_well_formed:
        raise ValueError(
            f"{path} has a record with numbers that are out of bounds.")
      # Where only whole words are masked, one token may be less than a word.
      counts += (len(lengths), lengths.sum(), is_masked.sum(),
                 np.sum(~is_masked.any(axis=1)),
                 batch["next_sentence_labels"].sum())
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    raise ValueError(f"{path} can't be read back: {error.message}") from None
  return _Counts(*counts.tolist())


def main(_):
  """Runs the script as its flags say. Source: upstream symbol; see CHANGES."""
  args = FLAGS
  script_helpers.check_one_process()
  _check_flags(args)
  output_files = _output_files(args)
  input_files = _input_files(args, output_files)
  for folder in sorted({os.path.dirname(path) for path in output_files}):
    script_helpers.check_output_dir(folder or ".", "output_file")
  tokenizer = _make_tokenizer(args)
  workers = args.workers or horovod_helpers.share_of_cores()
  settings = dict(
      max_seq_length=args.max_seq_length, short_seq_prob=args.short_seq_prob,
      masked_lm_prob=args.masked_lm_prob,
      max_predictions_per_seq=args.max_predictions_per_seq,
      do_whole_word_mask=args.do_whole_word_mask)
  logging.info("Input files: %s", ", ".join(input_files))
  logging.info("Output files: %s", ", ".join(output_files))
  with contextlib.ExitStack() as stack:
    unfinished = [stack.enter_context(script_helpers.finished_file(path))
                  for path in output_files]
    if args.streaming:
      stream_instances_to_example_files(
          input_files, tokenizer, unfinished, args.dupe_factor,
          args.random_seed, args.streaming_block_mb * 1e6, args.gzip_compress,
          workers, **settings)
    else:
      instances = create_training_instances(
          input_files, tokenizer, dupe_factor=args.dupe_factor,
          rng=random.Random(args.random_seed), workers=workers, **settings)
      write_instance_to_example_files(
          instances, tokenizer, args.max_seq_length,
          args.max_predictions_per_seq, unfinished, args.gzip_compress, workers)
    _check_output(args, dict(zip(output_files, unfinished)), tokenizer)


def _check_flags(args):
  """Refuses values that flags can't have."""
  shortest = _NUM_SPECIAL_TOKENS + _SHORTEST_TARGET
  for name, fits, expected in (
      ("max_seq_length", args.max_seq_length >= shortest,
       f"{shortest} or more"),
      ("max_predictions_per_seq", args.max_predictions_per_seq >= 1,
       "1 or more"),
      ("dupe_factor", args.dupe_factor >= 1, "1 or more"),
      ("masked_lm_prob", 0 < args.masked_lm_prob < 1, "above 0 and below 1"),
      ("short_seq_prob", 0 <= args.short_seq_prob <= 1, "0 to 1"),
      ("streaming_block_mb", 0.001 <= args.streaming_block_mb < math.inf,
       "0.001 or more")):
    if not fits:
      raise ValueError(f"--{name}={getattr(args, name)} has to be {expected}.")


def _output_files(args):
  """The names in --output_file."""
  output_files = args.output_file.split(",")
  if "" in output_files or len(set(output_files)) < len(output_files):
    raise ValueError(f"--output_file={args.output_file} has an empty name or "
                     f"one twice: give different names, separated by commas.")
  for path in set(output_files).intersection(
      map(script_helpers.temporary_name, output_files)):
    raise ValueError(f"--output_file: {path} is the name of another one while "
                     f"it is being written. Give another name.")
  for path in output_files:
    if tf.io.gfile.isdir(path):
      raise ValueError(f"--output_file: {path} is a folder. Give the name of a "
                       f"file.")
  return output_files


def _input_files(args, output_files):
  """The files that --input_file names, those of a pattern in order."""
  input_files = []
  for pattern in args.input_file.split(","):
    if tf.io.gfile.isdir(pattern):
      raise ValueError(f"--input_file: {pattern} is a folder. Name the files "
                       f"in it, or a pattern that they fit.")
    found = [path for path in sorted(tf.io.gfile.glob(pattern))
             if not tf.io.gfile.isdir(path)]
    if not found:
      raise ValueError(f"--input_file: no file is named {pattern!r}, or fits "
                       f"that pattern.")
    input_files.extend(found)
  for path in input_files:  # They are read more than once.
    if os.path.exists(path) and not os.path.isfile(path):
      raise ValueError(f"--input_file: {path} is no regular file. Save the "
                       f"text to a file first.")
  written = output_files + [
      script_helpers.temporary_name(path) for path in output_files]
  for path in set(map(os.path.realpath, input_files)).intersection(
      map(os.path.realpath, written)):
    raise ValueError(f"--output_file would overwrite {path} of --input_file. "
                     f"Give another name.")
  return input_files


def _make_tokenizer(args):
  """The tokenizer, with a vocabulary that has what is needed here."""
  flag_helpers.check_input_files(args)
  tokenizer = tokenization.FullTokenizer(args.vocab_file, args.do_lower_case)
  missing = [token for token in _SPECIAL_TOKENS if token not in tokenizer.vocab]
  if missing:
    raise ValueError(f"--vocab_file={args.vocab_file} has no {missing[0]}: it "
                     f"is not a vocabulary of BERT.")
  return tokenizer


def _check_output(args, unfinished, tokenizer):
  """Reads the record files back and logs what is in them.

  Args:
    args: the parsed flags.
    unfinished: dict output file -> its name for the time being.
    tokenizer: FullTokenizer.
  """
  all_counts = []
  for path, temporary in unfinished.items():
    counts = _check_records(
        temporary, args.max_seq_length, args.max_predictions_per_seq,
        max(tokenizer.vocab.values()) + 1, args.gzip_compress)
    if not counts.records:
      raise ValueError(
          f"{path} would be empty: --input_file has too little text for "
          f"{len(unfinished)} files. Name fewer in --output_file.")
    _log_counts(path, counts)
    all_counts.append(counts)
  _log_counts("Total", _Counts(*map(sum, zip(*all_counts))))


def _log_counts(name, counts):
  logging.info(
      "%s: %d records, %d tokens, %d of them masked (%.1f %%), random next "
      "%.1f %%", name, counts.records, counts.tokens, counts.masked,
      100 * counts.masked / counts.tokens,
      100 * counts.random_next / counts.records)
  if counts.unmasked:
    logging.warning("%s: %d records have no token to predict.", name,
                    counts.unmasked)


if __name__ == "__main__":
  init_pretraining_data_flags()
  script_helpers.run(
      main, ["input_file", "output_file", "vocab_file"],
      script_helpers.NOTHING_FINISHED)
