"""Tests of create_pretraining_data.py."""

import collections
import functools
import glob
import gzip
import os
import random
import signal
import subprocess
import sys
import time

from absl import flags
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest
import tensorflow as tf

import create_pretraining_data as data
from demo import script_helpers
import tokenization
from tests import conftest

SETTINGS = dict(max_seq_length=32, short_seq_prob=0.1, masked_lm_prob=0.15,
                max_predictions_per_seq=5, do_whole_word_mask=False)


def documents_of(count, seed=1, sentences=6):
  """Documents whose sentences say where they stand: d3 s0 ..."""
  rng = random.Random(seed)
  return [
      [[f"d{d}", f"s{s}"] + rng.choices(conftest.WORDS, k=rng.randint(1, 9))
       for s in range(rng.randint(1, sentences))] for d in range(count)]


def write_corpus(path, documents):
  """A text file with a blank line after each document."""
  with open(path, "w", encoding="utf-8") as writer:
    for document in documents:
      writer.writelines(" ".join(sentence) + "\n" for sentence in document)
      writer.write("\n")
  return str(path)


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
  """A vocabulary with a token for each number and word of `documents_of`."""
  path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
  path.write_text("".join(f"{token}\n" for token in (
      conftest.SPECIAL + conftest.WORDS + [f"d{n}" for n in range(400)] +
      [f"s{n}" for n in range(40)])))
  return str(path)


@pytest.fixture(scope="module")
def tokenizer(vocab_file):
  return tokenization.FullTokenizer(vocab_file)


@pytest.fixture
def run_main(monkeypatch, tmp_path, vocab_file):
  """Runs main in this process: function of flags."""

  def run(*argv, **values):
    values = {"output_file": tmp_path / "out.tf_record",
              "vocab_file": vocab_file, "workers": 1, "max_seq_length": 32,
              "max_predictions_per_seq": 5, "dupe_factor": 2, **values}
    parsed = flags.FlagValues()
    with monkeypatch.context() as patch:
      for kind in ("string", "bool", "integer", "float"):
        name = f"DEFINE_{kind}"
        patch.setattr(data.flags, name, functools.partial(
            getattr(flags, name), flag_values=parsed))
      data.init_pretraining_data_flags()
    parsed(["script", *argv,
            *(f"--{name}={value}" for name, value in values.items())])
    monkeypatch.setattr(data, "FLAGS", parsed)
    data.main(None)

  return run


def read(path, compression=""):
  """The records of a file as dicts name -> list."""
  found = []
  for record in tf.data.TFRecordDataset(
      str(path), compression).as_numpy_iterator():
    features = tf.train.Example.FromString(record).features.feature
    found.append({
        name: list(feature.int64_list.value or feature.float_list.value)
        for name, feature in features.items()})
  return found


def original_tokens(record, tokenizer):
  """The tokens of a record before they were masked, without padding."""
  ids = record["input_ids"][:sum(record["input_mask"])]
  for place, label, weight in zip(
      record["masked_lm_positions"], record["masked_lm_ids"],
      record["masked_lm_weights"]):
    if weight:
      ids[place] = label
  return tokenizer.convert_ids_to_tokens(ids)


class TrainingInstanceTest:

  def test_text(self):
    instance = data.TrainingInstance(
        ["[CLS]", "a", "[SEP]", "[MASK]", "[SEP]"], [0, 0, 0, 1, 1], [3], ["b"],
        True)
    assert str(instance) == repr(instance) == (
        "tokens: [CLS] a [SEP] [MASK] [SEP]\nsegment_ids: 0 0 0 1 1\n"
        "is_random_next: True\nmasked_lm_positions: 3\n"
        "masked_lm_labels: b\n\n")


class CreateMaskedLmPredictionsTest:

  @settings(deadline=None)
  @given(st.lists(st.sampled_from(["a", "b", "##c", "##d"]), min_size=1,
                  max_size=60),
         st.floats(0.01, 0.99), st.integers(1, 20), st.booleans(),
         st.integers(0, 100))
  def test_what_is_predicted_is_what_stood_there(
      self, words, prob, most, whole, seed):
    tokens = ["[CLS]", *words, "[SEP]", *words[:3], "[SEP]"]
    before = list(tokens)
    output, positions, labels = data.create_masked_lm_predictions(
        tokens, prob, most, ["x", "y"], random.Random(seed), whole)
    assert tokens == before
    assert positions == sorted(set(positions))
    assert len(positions) <= min(most, max(1, round(len(tokens) * prob)))
    restored = list(output)
    for place, label in zip(positions, labels):
      assert output[place] in ("[MASK]", "x", "y", label)
      restored[place] = label
    assert restored == tokens
    assert not {"[CLS]", "[SEP]"} & set(labels)
    if not whole:
      possible = len(tokens) - 3
      assert len(positions) == min(
          most, max(1, round(len(tokens) * prob)), possible)

  def test_whole_words(self):
    tokens = ["[CLS]", "a", "##b", "##c", "d", "[SEP]", "e", "##f", "[SEP]"]
    found = set()
    for seed in range(200):
      _, positions, _ = data.create_masked_lm_predictions(
          tokens, 0.4, 20, ["x"], random.Random(seed), True)
      found.add(tuple(positions))
    # At most 4 of 9, and never a part of 1-3 or of 6-7.
    assert found == {(1, 2, 3, 4), (4, 6, 7)}

  def test_four_fifths_are_masked_and_a_tenth_is_any_token(self):
    rng = random.Random(1)
    kinds = collections.Counter()
    for _ in range(300):
      output, positions, _ = data.create_masked_lm_predictions(
          ["t"] * 100, 0.15, 20, ["x", "y", "z"], rng)
      kinds.update(output[place] for place in positions)
    total = sum(kinds.values())
    assert total == 300 * 15
    assert kinds["[MASK]"] / total == pytest.approx(0.8, abs=0.02)
    assert kinds["t"] / total == pytest.approx(0.1, abs=0.02)
    assert kinds["x"] / total == pytest.approx(0.1 / 3, abs=0.015)

  @settings(deadline=None)
  @given(st.integers(0, 300), st.integers(0, 2 ** 40))
  def test_shuffles_as_python_does(self, size, seed):
    ours, pythons = random.Random(seed), random.Random(seed)
    one, two = list(range(size)), list(range(size))
    data._shuffle(one, ours)
    pythons.shuffle(two)
    assert one == two and ours.getstate() == pythons.getstate()


class TruncateSeqPairTest:

  @settings(deadline=None)
  @given(st.integers(0, 30), st.integers(0, 30), st.integers(2, 40),
         st.integers(0, 100))
  def test_leaves_parts_in_a_row_of_nearly_one_length(self, a, b, most, seed):
    tokens_a, tokens_b = list(range(a)), list(range(100, 100 + b))
    data.truncate_seq_pair(tokens_a, tokens_b, most, random.Random(seed))
    assert len(tokens_a) + len(tokens_b) == min(a + b, most)
    for tokens, size in ((tokens_a, a), (tokens_b, b)):
      assert tokens == list(range(tokens[0], tokens[0] + len(tokens))) if (
          tokens) else True
      assert len(tokens) >= min(size, most // 2)


class CreateInstancesFromDocumentTest:

  def instances(self, documents, index, seed=1, **changes):
    return data.create_instances_from_document(
        documents, index, vocab_words=["x"], rng=random.Random(seed),
        **{**SETTINGS, **changes})

  def segments(self, instance):
    """The two segments, before they were masked."""
    tokens = list(instance.tokens)
    for place, label in zip(instance.masked_lm_positions,
                            instance.masked_lm_labels):
      tokens[place] = label
    cut = tokens.index("[SEP]")
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]"
    assert instance.segment_ids == [0] * (cut + 1) + [1] * (
        len(tokens) - cut - 1)
    return tokens[1:cut], tokens[cut + 1:-1]

  @settings(deadline=None)
  @given(st.integers(0, 1000), st.integers(5, 60), st.floats(0, 1))
  def test_segments_are_text_and_random_ones_come_from_elsewhere(
      self, seed, length, short):
    documents = documents_of(4, seed)
    texts = [" ".join(sum(document, [])) for document in documents]
    for instance in self.instances(
        documents, 2, seed, max_seq_length=length, short_seq_prob=short):
      first, second = self.segments(instance)
      assert first and second and len(instance.tokens) <= length
      assert " ".join(first) in texts[2]
      if not instance.is_random_next:
        assert " ".join(second) in texts[2]
      else:
        assert any(" ".join(second) in text
                   for text in texts[:2] + texts[3:])

  def test_unused_sentences_are_used_again(self):
    # Nothing is cut: all words of the document come up, with short sentences.
    document = [[f"w{i}"] for i in range(50)]
    other = [["o"]]
    for seed in range(20):
      found = []
      for instance in self.instances([document, other], 0, seed):
        first, second = self.segments(instance)
        found += first + (second if not instance.is_random_next else [])
      assert found == [f"w{i}" for i in range(50)]

  def test_half_of_the_pairs_follow_each_other(self):
    documents = documents_of(300, sentences=30)
    made = [instance for index in range(300)
            for instance in self.instances(documents, index, index)
            if len(documents[index]) > 8]
    share = sum(instance.is_random_next for instance in made) / len(made)
    assert len(made) > 1000 and 0.45 < share < 0.65

  def test_only_document_is_its_own_random_next(self):
    (instance,) = self.instances([[["a", "b"]]], 0)
    assert instance.is_random_next
    assert self.segments(instance) == (["a", "b"], ["a", "b"])


class DocumentsTest:

  def documents(self, *contents, suffix=".txt", tmp_path):
    paths = []
    for number, content in enumerate(contents):
      path = tmp_path / f"{number}{suffix}"
      opened = gzip.open if suffix.endswith(".gz") else open
      with opened(path, "wb") as writer:
        writer.write(content)
      paths.append(str(path))
    return list(data._documents(paths))

  def test_blank_lines_separate_and_files_do_not(self, tmp_path, caplog):
    assert self.documents(
        b"\n\na\r\n b \n\t\n\xc2\xa0\nc", b"d\n\ne\n", tmp_path=tmp_path) == [
            "a\nb", "c\nd", "e"]
    assert "0.txt doesn't end with a blank line" in caplog.text

  def test_compressed_text(self, tmp_path):
    assert self.documents(b"a\r\nb\n\nc", b"\nd", suffix=".gz",
                          tmp_path=tmp_path) == ["a\nb", "c", "d"]

  def test_long_documents_are_cut_if_asked_for(self, tmp_path):
    path = write_corpus(tmp_path / "x", [[["abc"]] * 7, [["x"]]])
    assert list(data._documents([path], 8)) == [
        "abc\nabc\nabc", "abc\nabc\nabc", "abc", "x"]

  def test_bytes_that_are_not_utf8(self, tmp_path):
    with pytest.raises(ValueError, match=r"0\.txt:3: not UTF-8 text"):
      self.documents(b"a\n\n\xff\n", tmp_path=tmp_path)

  def test_no_gzip_file(self, tmp_path):
    (tmp_path / "x.gz").write_bytes(b"plain")
    with pytest.raises(ValueError, match="x.gz is damaged, or no gzip file"):
      list(data._documents([str(tmp_path / "x.gz")]))

  def test_blank_files(self, tmp_path):
    with pytest.raises(ValueError, match=r"0\.txt and 1 more are only"):
      self.documents(b"\n\n", b" ", tmp_path=tmp_path)


class MainTest:

  @pytest.fixture
  def corpus(self, tmp_path):
    """Pattern of three files, 90 documents."""
    documents = documents_of(90)
    for number in range(3):
      write_corpus(tmp_path / f"text{number}.txt",
                   documents[number * 30:number * 30 + 30])
    return f"{tmp_path}/text[01].txt,{tmp_path}/text2.txt"

  def outputs(self, tmp_path, name, count=3):
    return [tmp_path / f"{name}{number}" for number in range(count)]

  def run(self, run_main, corpus, paths, *argv, **values):
    run_main(*argv, input_file=corpus, output_file=",".join(map(str, paths)),
             **values)
    return [path.read_bytes() for path in paths]

  def test_instances_are_dealt_out_in_turn(
      self, run_main, corpus, tmp_path, tokenizer):
    (one,) = self.outputs(tmp_path, "one", 1)
    three = self.outputs(tmp_path, "three")
    self.run(run_main, corpus, [one])
    self.run(run_main, corpus, three, workers=2)
    records = read(one)
    assert [read(path) for path in three] == [
        records[number::3] for number in range(3)]
    # Records were written by processes, in the order of one.
    instances = data.create_training_instances(
        [f"{tmp_path}/text{number}.txt" for number in range(3)], tokenizer,
        dupe_factor=2, rng=random.Random(12345), **SETTINGS)
    assert [original_tokens(record, tokenizer) for record in records] == [
        self.unmasked(instance) for instance in instances]

  def unmasked(self, instance):
    tokens = list(instance.tokens)
    for place, label in zip(instance.masked_lm_positions,
                            instance.masked_lm_labels):
      tokens[place] = label
    return tokens

  @pytest.mark.parametrize("mode", ["--nostreaming", "--streaming"])
  def test_any_number_of_workers_and_any_compression(
      self, mode, run_main, corpus, tmp_path):
    flag = dict(streaming_block_mb=0.002)
    one, two, packed = (
        self.outputs(tmp_path, name) for name in ("one", "two", "gzip"))
    written = self.run(run_main, corpus, one, mode, **flag)
    assert self.run(run_main, corpus, two, mode, workers=2, **flag) == written
    self.run(run_main, corpus, packed, mode, "--gzip_compress", workers=2,
             **flag)
    for path, plain in zip(packed, one):
      assert read(path, "GZIP") == read(plain)
      assert path.stat().st_size < plain.stat().st_size
    self.run(run_main, corpus, two, mode, random_seed=2, **flag)
    assert read(two[0]) != read(one[0])
    for path in sorted(tmp_path.glob("*.txt")):
      (tmp_path / f"{path.name}.gz").write_bytes(
          gzip.compress(path.read_bytes()))
    assert self.run(run_main, f"{tmp_path}/*.txt.gz", two, mode,
                    **flag) == written
    # Nothing temporary is left.
    assert len(list(tmp_path.iterdir())) == 2 * 3 + 9

  def test_words_too_long_to_be_masked_whole(
      self, run_main, tiny_model, tmp_path, caplog):
    text = write_corpus(
        tmp_path / "x.txt", [[["zzz"], ["qqq"]], [["xxx"], ["yyy"]]])
    run_main("--do_whole_word_mask", input_file=text,
             vocab_file=tiny_model.vocab_file)
    records = read(tmp_path / "out.tf_record")
    assert records and all(
        set(record["masked_lm_weights"]) == {0.0} for record in records)
    assert f"{len(records)} records have no token to predict" in caplog.text

  def test_streamed_blocks_have_all_documents_once(
      self, run_main, corpus, tmp_path, tokenizer):
    paths = self.outputs(tmp_path, "out")
    self.run(run_main, corpus, paths, "--streaming", dupe_factor=1,
             streaming_block_mb=0.002, short_seq_prob=0, max_seq_length=128)
    seen, pairs = [], 0
    places = collections.defaultdict(set)
    for number, path in enumerate(paths):
      for record in read(path):
        tokens = original_tokens(record, tokenizer)
        cut = tokens.index("[SEP]")
        (label,) = record["next_sentence_labels"]
        pairs += label
        used = tokens if not label else tokens[:cut]
        names = {token for token in used if token.startswith("d")} - {"dull"}
        # A block has whole documents; nothing was cut at this length.
        (name,) = names
        places[name].add(number)
        seen += [(name, token) for token in used if token[0] == "s" and
                 token[1:].isdigit()]
    documents = documents_of(90)
    assert sorted(seen) == sorted(
        (sentence[0], sentence[1]) for document in documents
        for sentence in document)
    assert all(len(files) == 1 for files in places.values())
    assert pairs > 30
    # Each file has documents of all parts of the text.
    for number in range(3):
      here = [int(name[1:]) for name, files in places.items()
              if files == {number}]
      assert len(here) == 30 and min(here) < 20 and max(here) > 70

  def test_block_of_a_killed_worker_is_made_again(
      self, corpus, tmp_path, vocab_file):
    parent, sentence = os.getpid(), documents_of(90)[40][0]

    class Deadly(tokenization.FullTokenizer):

      def tokenize(self, text):
        if text == " ".join(sentence) and os.getpid() != parent:
          os.kill(os.getpid(), signal.SIGKILL)
        return super().tokenize(text)

    written = []
    for workers in (1, 2):
      paths = list(map(str, self.outputs(tmp_path, "out")))
      data.stream_instances_to_example_files(
          sorted(glob.glob(f"{tmp_path}/text*")), Deadly(vocab_file), paths, 2,
          1, 2000, workers=workers, **SETTINGS)
      written.append([read(path) for path in paths])
    assert written[0] == written[1] and all(written[0])

  def test_counts_are_logged(self, run_main, corpus, tmp_path, caplog):
    paths = self.outputs(tmp_path, "out", 2)
    with caplog.at_level("INFO", "absl"):
      self.run(run_main, corpus, paths)
    records = [read(path) for path in paths]
    for name, found in (*zip(paths, records), ("Total", sum(records, []))):
      masked = sum(sum(record["masked_lm_weights"]) for record in found)
      tokens = sum(sum(record["input_mask"]) for record in found)
      pairs = sum(record["next_sentence_labels"] == [1] for record in found)
      assert (f"{name}: {len(found)} records, {tokens} tokens, {masked:.0f} of "
              f"them masked ({100 * masked / tokens:.1f} %), random next "
              f"{100 * pairs / len(found):.1f} %") in caplog.text

  def test_one_document_is_warned_of(self, run_main, tmp_path, caplog):
    corpus = write_corpus(tmp_path / "x.txt", documents_of(1))
    run_main(input_file=corpus)
    assert "The text is one document" in caplog.text
    run_main("--streaming", input_file=corpus)
    assert "A block is one document" in caplog.text


class CheckRecordsTest:

  def record(self, **changes):
    values = dict(
        input_ids=[2, 4, 3, 7, 3, 0], input_mask=[1, 1, 1, 1, 1, 0],
        segment_ids=[0, 0, 0, 1, 1, 0], masked_lm_positions=[1, 0],
        masked_lm_ids=[6, 0], masked_lm_weights=[1.0, 0.0],
        next_sentence_labels=[0])
    values.update(changes)
    return tf.train.Example(features=tf.train.Features(feature={
        name: (data.create_float_feature if name == "masked_lm_weights"
               else data.create_int_feature)(value)
        for name, value in values.items() if value is not None}))

  def check(self, tmp_path, *examples):
    path = str(tmp_path / "x.tf_record")
    with tf.io.TFRecordWriter(path) as writer:
      for example in examples:
        writer.write(example.SerializeToString())
    return data._check_records(path, 6, 2, 10, False)

  def test_counts(self, tmp_path):
    assert self.check(
        tmp_path, self.record(), self.record(next_sentence_labels=[1]),
        # Whole words: none was short enough to be predicted.
        self.record(masked_lm_weights=[0.0, 0.0])) == (3, 15, 2, 1, 1)

  @pytest.mark.parametrize("changes, reason", [
      ({"segment_ids": [0] * 5}, "can't be read back.*segment_ids"),
      ({"masked_lm_ids": None}, "can't be read back.*masked_lm_ids"),
      ({"next_sentence_labels": [0, 1]}, "can't be read back.*next_sentence"),
      ({"masked_lm_positions": [5, 0]}, "numbers that are out of bounds"),
      ({"input_ids": [2, 4, 3, 10, 3, 0]}, "numbers that are out of bounds")],
                           ids=str)
  def test_what_is_not_well_formed(self, changes, reason, tmp_path):
    with pytest.raises(ValueError, match=f"x.tf_record.*{reason}"):
      self.check(tmp_path, self.record(), self.record(**changes))

  def test_damaged_file(self, tmp_path):
    self.check(tmp_path, self.record())
    with open(tmp_path / "x.tf_record", "r+b") as file:
      file.seek(30)
      file.write(b"damage")
    with pytest.raises(ValueError, match="x.tf_record can't be read back"):
      data._check_records(str(tmp_path / "x.tf_record"), 6, 2, 10, False)


BAD_FLAGS = {
    "max_seq_length": ("4", "--max_seq_length=4 has to be 5 or more"),
    "max_predictions_per_seq": ("0", "--max_predictions_per_seq=0 has to be 1"),
    "dupe_factor": ("0", "--dupe_factor=0 has to be 1 or more"),
    "masked_lm_prob": ("1", "--masked_lm_prob=1.0 has to be above 0 and below"),
    "short_seq_prob": ("nan", "--short_seq_prob=nan has to be 0 to 1"),
    "streaming_block_mb": ("0", "--streaming_block_mb=0.0 has to be 0.001"),
    "input_file": ("{folder}/x.txt,{folder}/y*", "y*', or fits that pattern"),
    "output_file": ("a,,b", "--output_file=a,,b has an empty name"),
    "vocab_file": ("/nowhere/vocab.txt", "--vocab_file=/nowhere/vocab.txt is"),
}


class BadInputTest:

  @pytest.fixture
  def refused(self, run_main, tmp_path):
    """Runs into an error that leaves an earlier file as it was."""
    (tmp_path / "out.tf_record").write_text("earlier")
    write_corpus(tmp_path / "x.txt", documents_of(5))

    def refused(message, *argv, **values):
      with pytest.raises(ValueError) as error:
        run_main(*argv, **{"input_file": tmp_path / "x.txt", **values})
      assert message in str(error.value)
      assert script_helpers._user_message(error.value).count("\n") == 0
      assert (tmp_path / "out.tf_record").read_text() == "earlier"
      assert not glob.glob(f"{tmp_path}/*.tmp")

    return refused

  @pytest.mark.parametrize("name", BAD_FLAGS)
  def test_flags(self, name, refused, tmp_path):
    value, message = BAD_FLAGS[name]
    refused(message, **{name: value.format(folder=tmp_path)})

  @pytest.mark.parametrize("mode", ["--nostreaming", "--streaming"])
  def test_text(self, mode, refused, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"a\n\xff\n")
    refused("bad.txt:2: not UTF-8", mode, input_file=tmp_path / "bad.txt",
            workers=2)
    (tmp_path / "bad.txt").write_bytes(b" \n")
    refused("bad.txt is only blank", mode, input_file=tmp_path / "bad.txt")
    # Not blank, but nothing is left of it.
    (tmp_path / "bad.txt").write_text("\u200b\n\n", encoding="utf-8")
    refused("too little text for 1 file", mode,
            input_file=tmp_path / "bad.txt")
    (tmp_path / "bad.txt").write_text("a\n")
    more = ",".join(f"{tmp_path}/{n}" for n in range(3))
    refused("too little text for 3 files", mode,
            input_file=tmp_path / "bad.txt", output_file=more)

  def test_output_over_input(self, refused, tmp_path):
    refused("x.txt of --input_file", output_file=tmp_path / "x.txt")
    refused("is a folder", output_file=tmp_path)
    # Names that are taken while the output is written.
    (tmp_path / "more").mkdir()
    (tmp_path / "more/y.tmp").write_text("text")
    refused("y.tmp of --input_file", input_file=tmp_path / "more/y.tmp",
            output_file=tmp_path / "more/y")
    assert (tmp_path / "more/y.tmp").read_text() == "text"
    refused("y.tmp is the name of another one",
            output_file=f"{tmp_path}/y,{tmp_path}/y.tmp")

  def test_input_that_is_no_file(self, refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused("pipe is no regular file", input_file=tmp_path / "pipe")
    refused("is a folder. Name the files", input_file=tmp_path)

  def test_ranks(self, refused, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    refused("works in one process")

  @pytest.mark.parametrize("token", ["[MASK]", "[CLS]", "[SEP]", "[UNK]"])
  def test_vocabulary(self, token, refused, vocab_file, tmp_path):
    with open(vocab_file, encoding="utf-8") as reader:
      (tmp_path / "vocab.txt").write_text(reader.read().replace(token, "x"))
    refused(f"has no {token}", vocab_file=tmp_path / "vocab.txt")


@pytest.mark.slow
class ProcessTest:

  def test_one_line_and_status_1(self, tmp_path):
    run = conftest.run_script(
        "create_pretraining_data.py", f"--input_file={tmp_path}/none",
        f"--output_file={tmp_path}/out", f"--vocab_file={tmp_path}/vocab.txt")
    assert run.returncode == 1 and "Traceback" not in run.stdout
    assert "create_pretraining_data.py: error: --input_file: no file" in (
        run.stdout)

  def test_killed_run_leaves_the_earlier_file(self, tmp_path, vocab_file):
    corpus = write_corpus(tmp_path / "x.txt", documents_of(400) * 10)
    (tmp_path / "out").write_text("earlier")
    process = subprocess.Popen(
        [sys.executable, "create_pretraining_data.py", f"--input_file={corpus}",
         f"--output_file={tmp_path}/out", f"--vocab_file={vocab_file}",
         "--workers=2", "--streaming", "--streaming_block_mb=0.1"],
        cwd=conftest.PROJECT, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True)
    try:
      deadline = time.time() + 60
      while not (tmp_path / "out.tmp").exists() and time.time() < deadline:
        time.sleep(0.02)
      process.send_signal(signal.SIGTERM)
      _, log = process.communicate(timeout=60)
    finally:
      process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert log.splitlines()[-1] == (
        "create_pretraining_data.py: ended by SIGTERM. Files of an earlier run "
        "are as they were.")
    assert sorted(os.listdir(tmp_path)) == ["out", "x.txt"]
    assert (tmp_path / "out").read_text() == "earlier"

  def test_memory_does_not_grow_with_streamed_text(self, tmp_path, vocab_file):
    program = """
import random, sys
import create_pretraining_data as data, tokenization
folder, vocab_file = sys.argv[1:]
tokenizer = tokenization.FullTokenizer(vocab_file)
settings = dict(max_seq_length=64, short_seq_prob=0.1, masked_lm_prob=0.15,
                max_predictions_per_seq=10, do_whole_word_mask=False)
def peak():  # Of this program alone, unlike getrusage.
  (line,) = [x for x in open("/proc/self/status") if x.startswith("VmHWM")]
  return int(line.split()[1]) / 1024
for name in ("small", "large"):
  data.stream_instances_to_example_files(
      [f"{folder}/{name}"], tokenizer, [f"{folder}/out"], 2, 1, 100000,
      **settings)
  print(peak())
data.create_training_instances(
    [f"{folder}/large"], tokenizer, dupe_factor=2, rng=random.Random(1),
    **settings)
print(peak())
"""
    documents = documents_of(400, sentences=30)
    write_corpus(tmp_path / "small", documents)
    write_corpus(tmp_path / "large", documents * 8)
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), vocab_file],
        cwd=conftest.PROJECT, capture_output=True, text=True, check=True)
    small, large, not_streamed = map(float, run.stdout.split())
    # In MB; what TensorFlow takes is in all of them.
    assert large - small < 8, run.stdout
    assert not_streamed - large > 20, run.stdout
