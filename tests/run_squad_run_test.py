"""Whole runs of run_squad.py by command line, on a tiny model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from demo import create_finetuning_data
from demo import predictor
from tests import conftest

pytestmark = pytest.mark.slow

SCRIPT = "run_squad.py"
TRAINING = ["--train_batch_size=16", "--learning_rate=3e-3", "--cpu_only",
            "--max_query_length=8", "--doc_stride=16", "--random_seed=3"]
RESULTS = ["predictions.json", "nbest_predictions.json"]


def load(folder, name):
  return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def trained(tiny_model, squad_dir, tmp_path_factory):
  """Output folder and log of train, predict and eval in one command."""
  output_dir = tmp_path_factory.mktemp("runs") / "trained"
  run = conftest.run_script(
      SCRIPT, "--do_train", "--do_predict", "--do_eval",
      f"--train_file={squad_dir}/train.json",
      f"--predict_file={squad_dir}/dev.json", f"--output_dir={output_dir}",
      "--num_train_epochs=8", "--save_checkpoints_steps=100", "--log_steps=50",
      "--write_offsets", "--do_export", *TRAINING, *tiny_model.flags())
  assert run.returncode == 0, run.stdout
  return output_dir, run.stdout


class TrainedTest:

  def test_model_learns(self, trained):
    scores = load(trained[0], "eval_results.json")
    assert list(scores) == ["exact_match", "f1", "total"]
    assert scores["total"] == 80 and scores["exact_match"] > 80, scores

  def test_files_are_upstreams_and_what_was_asked_for(self, trained):
    names = {path.name for path in trained[0].iterdir()}
    assert {name for name in names if not name.startswith("events")} == {
        "checkpoint", "eval", "graph.pbtxt", "train.tf_record",
        "train.tf_record.lock.json", "eval.tf_record",
        "eval.tf_record.lock.json", *RESULTS, "nbest_offsets.json",
        "eval_results.json", "export",
        # One checkpoint is kept.
        *(f"model.ckpt-240.{end}" for end in (
            "index", "meta", "data-00000-of-00001"))}

  def test_progress_and_scores_are_shown(self, trained):
    assert re.search(r"step 200/240 \(83 %\)  loss [\d.]+  learning rate",
                     trained[1]), trained[1]
    assert "Num orig examples = 80" in trained[1]
    assert re.search(r"exact_match = \d", trained[1])
    assert "fresh: cls/squad/output_bias, cls/squad/output_weights" in (
        trained[1])
    assert "deprecated" not in trained[1] and "Traceback" not in trained[1]

  def test_tensorboard_has_the_curves(self, trained):
    curves = conftest.events(trained[0])
    for tag in ("loss", "learning_rate", "examples/sec"):
      assert len(curves[tag]) >= 3, tag
    ((step, value),) = conftest.events(trained[0] / "eval")["eval_f1"]
    assert step == 240
    assert value == pytest.approx(load(trained[0], "eval_results.json")["f1"])

  def test_offsets_name_the_answers_in_the_text(self, trained, squad_dir):
    texts = {qa["id"]: paragraph["context"]
             for article in load(squad_dir, "dev.json")["data"]
             for paragraph in article["paragraphs"] for qa in paragraph["qas"]}
    offsets = load(trained[0], "nbest_offsets.json")
    nbest = load(trained[0], "nbest_predictions.json")
    assert list(offsets) == list(nbest) == list(texts)
    for qas_id, answers in offsets.items():
      for answer, plain in zip(answers, nbest[qas_id]):
        start, end = answer.pop("start"), answer.pop("end")
        assert texts[qas_id][start:end] == answer["text"]
        assert answer == plain

  def test_saved_model_gives_the_logits_of_the_answers(self, trained):
    found = conftest.served(
        trained[0] / "export", trained[0] / "eval.tf_record")
    assert set(found) == {"start_logits", "end_logits"}
    nbest = load(trained[0], "nbest_predictions.json")
    for name, key in (("start_logits", "start_logit"),
                      ("end_logits", "end_logit")):
      assert len(found[name]) == len(nbest)
      for window, answers in zip(found[name], nbest.values()):
        for answer in answers:
          assert np.abs(window - answer[key]).min() < 1e-5
    info = conftest.model_info(trained[0] / "export")
    assert info["kind"] == info["task"] == "squad"
    assert info["global_step"] == 240 and info["labels"] == []
    assert {"doc_stride", "max_query_length", "n_best_size",
            "max_answer_length", "version_2_with_negative",
            "null_score_diff_threshold"} < set(info)

  def test_predictor_gives_the_same_answers(self, trained, squad_dir):
    items = [(qa["question"], paragraph["context"])
             for article in load(squad_dir, "dev.json")["data"]
             for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    answers = predictor.load(str(trained[0] / "export"))(items)
    assert [answer["answer"] for answer in answers] == list(
        load(trained[0], "predictions.json").values())
    for answer, expected in zip(
        answers, load(trained[0], "nbest_offsets.json").values()):
      assert answer["nbest"][0] == {
          "text": expected[0]["text"], "start": expected[0]["start"],
          "end": expected[0]["end"], "probability": pytest.approx(
              expected[0]["probability"], abs=1e-4)}
      assert sum(x["probability"] for x in answer["nbest"]) == pytest.approx(1)

  def test_predict_and_eval_alone_give_the_same(
      self, trained, tiny_model, squad_dir):
    before = {name: (trained[0] / name).read_bytes()
              for name in RESULTS + ["eval_results.json"]}
    flags = [f"--predict_file={squad_dir}/dev.json",
             f"--output_dir={trained[0]}", *TRAINING,
             *tiny_model.flags(init_checkpoint=None)]
    for name in ("predictions.json", "nbest_predictions.json"):
      (trained[0] / name).unlink()
    run = conftest.run_script(
        SCRIPT, "--do_predict", "--preprocess_workers=1", *flags)
    assert run.returncode == 0, run.stdout
    assert "eval.tf_record (80 records) again" in run.stdout
    assert not (trained[0] / "eval_results.json").exists()  # Of the earlier.
    run = conftest.run_script(SCRIPT, "--do_eval", *flags)
    assert run.returncode == 0, run.stdout
    for name, content in before.items():
      assert (trained[0] / name).read_bytes() == content, name

  def test_training_again_reuses_the_records_and_says_that_all_is_done(
      self, trained, tiny_model, squad_dir):
    run = conftest.run_script(
        SCRIPT, "--do_train", f"--train_file={squad_dir}/train.json",
        "--num_train_epochs=8", f"--output_dir={trained[0]}", *TRAINING,
        *tiny_model.flags())
    assert run.returncode == 0, run.stdout
    assert "train.tf_record (480 records) again" in run.stdout
    assert "has all 240 steps already" in run.stdout

  def test_predictions_of_other_questions_are_refused(
      self, trained, tiny_model, squad_dir):
    before = (trained[0] / "eval_results.json").read_bytes()
    run = conftest.run_script(
        SCRIPT, "--do_eval", f"--predict_file={squad_dir}/train.json",
        f"--output_dir={trained[0]}", *TRAINING, *tiny_model.flags())
    assert run.returncode == 1 and "Traceback" not in run.stdout, run.stdout
    assert re.search(r"run_squad.py: error: .*predictions.json has nothing on "
                     r"480 of 480 questions, such as id '1-0-0'", run.stdout)
    assert (trained[0] / "eval_results.json").read_bytes() == before


class RecordsTest:

  def test_records_made_beforehand_train_the_same_model(
      self, trained, tiny_model, squad_dir, tmp_path):
    create_finetuning_data.create_squad(types.SimpleNamespace(
        squad_data_file=f"{squad_dir}/train.json",
        vocab_file=tiny_model.vocab_file, do_lower_case=True, max_seq_length=32,
        max_query_length=8, doc_stride=16, version_2_with_negative=False,
        train_data_output_path=f"{tmp_path}/squad.tf_record",
        eval_data_output_path=None, test_data_output_path=None,
        meta_data_file_path=f"{tmp_path}/meta"))
    assert (tmp_path / "squad.tf_record").read_bytes() == (
        trained[0] / "train.tf_record").read_bytes()
    run = conftest.run_script(
        SCRIPT, "--do_train", f"--train_records={tmp_path}/squad.tf_record",
        f"--meta_data_file={tmp_path}/meta", f"--output_dir={tmp_path}/out",
        "--num_train_epochs=8", "--log_steps=50", "--cpu_only",
        "--train_batch_size=16", "--learning_rate=3e-3", "--random_seed=3",
        *tiny_model.flags(vocab_file=None, max_seq_length=None))
    assert run.returncode == 0, run.stdout
    assert "--doc_stride=16, by --meta_data_file" in run.stdout
    assert conftest.events(tmp_path / "out")["loss"] == conftest.events(
        trained[0])["loss"]
    assert not list((tmp_path / "out").glob("*.tf_record*"))


class Version2Test:

  def test_some_questions_have_no_answer(
      self, tiny_model, squad_dir, tmp_path):
    run = conftest.run_script(
        SCRIPT, "--version_2_with_negative", "--do_train", "--do_predict",
        "--do_eval", f"--train_file={squad_dir}/train2.json",
        f"--predict_file={squad_dir}/dev2.json", f"--output_dir={tmp_path}",
        "--num_train_epochs=10", *TRAINING, *tiny_model.flags())
    assert run.returncode == 0, run.stdout
    scores = load(tmp_path, "eval_results.json")
    assert scores["HasAns_total"] == 60 and scores["NoAns_total"] == 20
    assert scores["HasAns_exact"] > 70 and scores["NoAns_exact"] > 70, scores
    assert scores["nbest_best_f1"] >= scores["best_f1"] >= 70
    odds = load(tmp_path, "null_odds.json")
    predictions = load(tmp_path, "predictions.json")
    assert list(odds) == list(predictions)
    assert all((predictions[x] == "") == (odds[x] > 0) for x in odds)
    assert any(text == "" for text in predictions.values())
    # Fewer steps than to the first periodic checkpoint: upstream's files.
    assert {path.name for path in tmp_path.glob("*.index")} == {
        "model.ckpt-0.index", "model.ckpt-400.index"}

    # A threshold above all odds: every question gets an answer.
    run = conftest.run_script(
        SCRIPT, "--version_2_with_negative", "--do_predict",
        "--null_score_diff_threshold=1e9",
        f"--predict_file={squad_dir}/dev2.json", f"--output_dir={tmp_path}",
        *TRAINING, *tiny_model.flags(init_checkpoint=None))
    assert run.returncode == 0, run.stdout
    assert all(load(tmp_path, "predictions.json").values())


class OwnQuestionsTest:

  def test_odd_questions_are_answered(self, trained, tiny_model, tmp_path):
    questions = {"data": [{"title": "Odd", "paragraphs": [
        {"context": "the film is great", "qas": []},
        {"context": "the film is great \U0001f600 \U00020000 and not dull",
         "qas": [{"id": "bmp", "question": "\U0001f600?"},
                 {"id": "long", "question": "what is it " * 40},
                 {"id": "none", "question": ""}]},
        {"context": "", "qas": [{"id": "empty", "question": "what?"}]}]}]}
    (tmp_path / "own.json").write_text(json.dumps(questions))
    for name in trained[0].glob("model.ckpt*"):
      shutil.copy(name, tmp_path)
    shutil.copy(trained[0] / "checkpoint", tmp_path)
    run = conftest.run_script(
        SCRIPT, "--do_predict", f"--predict_file={tmp_path}/own.json",
        f"--output_dir={tmp_path}", "--write_offsets", *TRAINING,
        *tiny_model.flags())
    assert run.returncode == 0, run.stdout
    predictions = load(tmp_path, "predictions.json")
    assert list(predictions) == ["bmp", "long", "none", "empty"]
    assert predictions["empty"] == "empty"  # As upstream has it.
    assert "data[0].paragraphs[2].qas[0] ('Odd', id 'empty') has an empty " in (
        run.stdout)
    context = questions["data"][0]["paragraphs"][1]["context"]
    offsets = load(tmp_path, "nbest_offsets.json")
    for answer in offsets["bmp"]:
      assert context[answer["start"]:answer["end"]] == answer["text"]
    assert offsets["empty"][0]["start"] is None


class DynamicPaddingTest:

  @pytest.fixture(scope="class")
  def mixed(self, tmp_path_factory):
    """A SQuAD file whose texts have 14 to 50 words."""
    articles = conftest.squad_articles(240, 5)
    for i, paragraph in enumerate(articles["data"][0]["paragraphs"]):
      paragraph["context"] += " hotel" * (i * 11 % 37)
    path = tmp_path_factory.mktemp("mixed") / "mixed.json"
    path.write_text(json.dumps(articles))
    return path

  def test_trains_and_answers_as_with_full_batches(
      self, tiny_model, mixed, tmp_path):
    flags = ["--do_predict", "--do_eval", f"--predict_file={mixed}",
             *TRAINING, *tiny_model.flags(max_seq_length=64)]
    run = conftest.run_script(
        SCRIPT, "--do_train", f"--train_file={mixed}", "--num_train_epochs=12",
        f"--output_dir={tmp_path}/cut", "--eval_every_steps=90",
        "--dynamic_padding", "--do_export", *flags)
    assert run.returncode == 0, run.stdout
    run = conftest.run_script(
        SCRIPT, f"--checkpoint_path={tmp_path}/cut/best",
        f"--output_dir={tmp_path}/full", *flags)
    assert run.returncode == 0, run.stdout
    scores, again = (load(tmp_path / name, "eval_results.json")
                     for name in ("cut", "full"))
    assert scores == again and scores["f1"] > 50
    best = load(tmp_path / "cut/best", "info.json")["scores"]
    assert best["f1"] == pytest.approx(scores["f1"])
    cut, full = (load(tmp_path / name, "nbest_predictions.json")
                 for name in ("cut", "full"))
    assert list(cut) == list(full)
    for qas_id, answers in full.items():
      assert cut[qas_id][0]["text"] == answers[0]["text"]
      for name in ("start_logit", "end_logit"):
        assert cut[qas_id][0][name] == pytest.approx(
            answers[0][name], abs=1e-4)
    conftest.served(tmp_path / "cut/export", tmp_path / "cut/eval.tf_record")


class KillTest:

  def test_killed_run_goes_on_and_half_records_are_not_read(
      self, tiny_model, squad_dir, tmp_path):
    command = [
        sys.executable, str(conftest.PROJECT / SCRIPT), "--do_train",
        "--do_predict", f"--train_file={squad_dir}/train.json",
        f"--predict_file={squad_dir}/dev.json", f"--output_dir={tmp_path}",
        "--num_train_epochs=30", "--save_checkpoints_steps=50",
        "--preprocess_workers=2", *TRAINING, *tiny_model.flags()]
    # What a kill while records were written leaves.
    (tmp_path / "train.tf_record.tmp").write_bytes(b"half")
    (tmp_path / "train.tf_record").write_bytes(b"of another run")
    log = tmp_path / "log.txt"
    with open(log, "w", encoding="utf-8") as writer:
      process = subprocess.Popen(command, stdout=writer, stderr=writer)
      deadline = time.monotonic() + 300
      while conftest.saved_step(tmp_path) < 100:
        assert process.poll() is None and time.monotonic() < deadline, (
            log.read_text())
        time.sleep(0.05)
      with open(f"/proc/{process.pid}/task/{process.pid}/children",
                encoding="ascii") as reader:
        workers = [int(pid) for pid in reader.read().split()]
      os.kill(process.pid, signal.SIGKILL)
      process.wait()
    assert workers
    for _ in range(100):  # Workers end with their parent.
      alive = [pid for pid in workers if os.path.exists(f"/proc/{pid}/exe")]
      if not alive:
        break
      time.sleep(0.1)
    assert not alive
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=600)
    assert run.returncode == 0, run.stdout
    assert "train.tf_record (480 records) again" in run.stdout
    assert int(re.search(r"Going on from step (\d+)", run.stdout)[1]) >= 100
    assert len(load(tmp_path, "predictions.json")) == 80
    assert not list(tmp_path.glob("*.tmp*"))


@conftest.needs_mpirun
class TwoRanksTest:

  def test_trains_on_two_ranks(self, tiny_model, squad_dir, tmp_path):
    one = tmp_path / "one"
    flags = [f"--train_file={squad_dir}/train.json", "--do_train",
             "--num_train_epochs=1", *TRAINING, *tiny_model.flags()]
    assert conftest.run_script(
        SCRIPT, *flags, f"--output_dir={one}").returncode == 0
    two = tmp_path / "two"
    run = conftest.run_script(
        SCRIPT, *flags, "--do_predict", "--do_eval", "--eval_every_steps=10",
        "--do_export",
        f"--predict_file={squad_dir}/dev.json", f"--output_dir={two}",
        launcher=[*conftest.MPIRUN, "2"])
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("***** Running training *****") == 1
    assert tf.train.latest_checkpoint(str(two)).endswith("model.ckpt-15")

    def inputs(path):
      return [tuple(tf.train.Example.FromString(record).features.feature[
          "input_ids"].int64_list.value) for record in
              tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]

    parts = [inputs(two / f"train.tf_record_{rank}") for rank in (0, 1)]
    assert list(map(len, parts)) == [240, 240]
    assert parts[0] + parts[1] == inputs(one / "train.tf_record")
    assert len(load(two, "predictions.json")) == 80
    results = load(two, "eval_results.json")
    assert results["total"] == 80
    log = load(two, "evaluations.json")
    assert [x["step"] for x in log["evaluations"]] == [10, 15]
    best = load(two, "best/info.json")
    assert results == best["scores"]
    assert conftest.model_info(two / "export")["global_step"] == best["step"]


def bad_input_cases():
  """name -> (function of (model, squad_dir, folder) -> flags, message)."""
  flag = conftest.flag_case

  def train(content):
    def make(model, squad_dir, folder):
      (folder / "x.json").write_text(content)
      return [f"--train_file={folder}/x.json"]
    return make

  def again(model, squad_dir, folder):
    data = conftest.squad_articles(8, 1)
    data["data"].append(data["data"][0])
    (folder / "x.json").write_text(json.dumps(data))
    return ["--do_predict", f"--predict_file={folder}/x.json"]

  def unlabelled(model, squad_dir, folder):
    data = conftest.squad_articles(8, 1)
    del data["data"][0]["paragraphs"][1]["qas"][2]["answers"]
    (folder / "x.json").write_text(json.dumps(data))
    return ["--do_predict", "--do_eval", f"--predict_file={folder}/x.json"]

  return {
      "padding on a TPU": (
          flag(dynamic_padding=True, use_tpu=True),
          "leave out --dynamic_padding or --use_tpu"),
      "not JSON": (train("{"), "x.json is not JSON"),
      "not SQuAD": (train('{"data": [{"paragraphs": [{"context": 3}]}]}'),
                    "x.json: data[0].paragraphs[0].context is 3, expected a "
                    "text"),
      "version 2.0 without the flag": (
          lambda model, squad_dir, folder: [
              f"--train_file={squad_dir}/train2.json"],
          "has no answer: this is SQuAD 2.0. Pass --version_2_with_negative"),
      "version 1.1 with the flag": (
          flag(version_2_with_negative="true"),
          "Leave --version_2_with_negative out"),
      "repeated ids": (again, "data[1].paragraphs[0].qas[0] ('Opinions', id "
                       "'1-0-0') has the id of"),
      "nothing to score with": (
          unlabelled, "data[0].paragraphs[1].qas[2] ('Opinions', id '1-1-2') "
          "has no answers to score with"),
      "no text": (train('{"data": [{"paragraphs": [{"context": "", "qas": ['
                        '{"id": "1", "question": "?", "answers": [{"text": '
                        '"a", "answer_start": 0}]}]}]}]}'),
                  "lies outside of the text of 0"),
      "epochs without end": (flag(num_train_epochs="inf"),
                             "--num_train_epochs=inf has to be above 0"),
      "no question": (train('{"data": []}'), "has no question"),
      "missing file": (flag(train_file="/nowhere.json"),
                       "/nowhere.json is not there"),
      "short windows": (flag(max_seq_length=11),
                        "--max_seq_length=11 leaves no room"),
      "sequence too long": (flag(max_seq_length=65),
                            "--max_seq_length=65: this model takes 5 to 64"),
      "stride too large": (flag(doc_stride=22), "--doc_stride=22 has to be 1 "
                           "to 21"),
      "stride of zero": (flag(doc_stride=0), "--doc_stride=0 has to be 1 to"),
      "eval without predict": (
          lambda model, squad_dir, folder: [
              "--do_eval", f"--predict_file={squad_dir}/dev.json"],
          "add --do_predict"),
      "no predictions": (
          lambda model, squad_dir, folder: [
              "--nodo_train", "--do_eval",
              f"--predict_file={squad_dir}/dev.json"],
          "has no predictions.json"),
      "checkpoint of a classifier": (
          flag(init_checkpoint="/nowhere/x.ckpt"), "there is no /nowhere"),
      "no file": (flag(do_predict="true"), "--do_predict needs --predict_file"),
  }


CASES = bad_input_cases()


class BadInputTest:

  @pytest.mark.parametrize("case", sorted(CASES))
  def test_one_clear_line_and_earlier_results_intact(
      self, case, tiny_model, squad_dir, tmp_path):
    make, message = CASES[case]
    conftest.assert_refused(
        SCRIPT, ["--do_train", f"--train_file={squad_dir}/train.json",
                 *TRAINING], make, message, tiny_model, squad_dir, tmp_path,
        ["train.tf_record", "nbest_predictions.json", "eval_results.json"])
