"""Tests of demo/train.py: what a command line becomes, and a whole run."""

import json
import pathlib
import re
import shlex
import sys

from absl import flags
import pytest
import yaml

from demo import config_helpers
from demo import launch
from demo import seed_helpers
from demo import train
from tests import conftest

SIZES = "model: {vocab_size: 99, hidden_size: 24}\n"


@pytest.fixture
def resolve(tmp_path, monkeypatch):
  """Function of a command line that returns its Plan."""
  monkeypatch.chdir(tmp_path)
  before = set(flags.FLAGS)
  verbosity = flags.FLAGS["verbosity"].value
  yield lambda *argv: train.resolve(["train.py", *map(str, argv)])
  assert set(flags.FLAGS) == before
  flags.FLAGS["verbosity"].value = verbosity


@pytest.fixture
def classify(resolve, tmp_path):
  """`resolve` for a classifier with a small model; function of files, flags."""
  def of(*argv, text="", mode="train"):
    (tmp_path / "own.yaml").write_text(SIZES + text)
    return resolve("--experiment=bert/sentence_prediction", f"--mode={mode}",
                   "--config_file=own.yaml", "--output_dir=out", *argv)
  return of


def values(plan):
  """The Plan's flags, without those of the experiment."""
  return {name: setting.value for name, setting in plan.config.settings.items()
          if not setting.origin.startswith("--experiment")}


class ResolveTest:

  def test_what_counts_more(self, classify, tmp_path):
    text = "trainer: {learning_rate: 0.3, log_steps: 3}"
    more = tmp_path / "more.yaml"
    more.write_text("trainer: {learning_rate: 0.4}")
    rate = lambda *argv, **kw: classify(*argv, **kw).config.settings[
        "learning_rate"]
    assert rate() == (3e-5, "--experiment=bert/sentence_prediction")
    assert rate(text=text) == (0.3, "own.yaml, line 2")
    argv = ["--config_file", more]
    assert rate(*argv, text=text) == (0.4, "more.yaml, line 1")
    argv.append("--params_override=trainer.learning_rate=0.5")
    assert rate(*argv, text=text) == (
        0.5, "--params_override, trainer.learning_rate")
    argv.insert(0, "--learning_rate=0.6")
    plan = classify(*argv, text=text)
    assert plan.config.settings["learning_rate"] == (0.6, "the command line")
    assert "--learning_rate=0.6" in plan.arguments
    assert "--log_steps=3" in plan.arguments

  def test_modes_are_flags_of_the_script(self, classify, resolve):
    wanted = {
        "train": {"do_train"}, "eval": {"do_eval"}, "predict": {"do_predict"},
        "train_and_eval": {"do_train", "do_eval"},
        "eval_all": {"do_eval", "eval_all_checkpoints"},
        "continuous_eval": {"do_eval", "continuous_eval"},
        "export": {"do_export"}}
    for mode, names in wanted.items():
      plan = classify(mode=mode)
      assert {name for name, value in values(plan).items()
              if value is True} == names, mode
      assert f"mode: {mode}\n" in plan.to_yaml()
      assert "do_" not in plan.to_yaml()
    squad = resolve("--experiment=bert/squad", "-m", "eval", "-o", "x",
                    "--bert_config_file=x")
    assert {"--do_eval=True", "--do_predict=True"} <= set(squad.arguments)
    with pytest.raises(ValueError, match="--mode=predict: run_pretraining.py "
                       "can't do that"):
      resolve("--experiment=bert/pretraining", "-m", "predict", "-o", "x")

  def test_more_than_the_mode_may_be_asked_for(self, classify):
    plan = classify("--do_predict", mode="eval")
    assert plan.config.value("do_predict") and plan.config.value("do_eval")
    assert "do_predict: true" in plan.to_yaml()

  def test_evaluation_within_the_training_is_a_mode(self, classify):
    text = ("trainer: {eval_every_steps: 7, early_stopping_patience: 2, "
            "best_metric: f1}")
    names = {"eval_every_steps", "early_stopping_patience", "best_metric"}

    def found(mode, *argv, text=text):
      return {name: value for name, value in values(
          classify(*argv, text=text, mode=mode)).items() if name in names}

    assert set(found("train_and_eval")) == names
    assert found("train") == {}
    assert found("eval") == {"eval_every_steps": 7}  # best/ is evaluated.
    assert found("eval_all") == {"best_metric": "f1"}
    assert found("train", "--eval_every_steps=5") == {"eval_every_steps": 5}
    assert found("train_and_eval", text="") == {"eval_every_steps": 1000}
    assert found("train_and_eval", "--save_checkpoints_steps=9", text="") == {
        "eval_every_steps": 9}
    assert found("train_and_eval", "--eval_every_steps=0") == {
        "eval_every_steps": 0, "early_stopping_patience": 2,
        "best_metric": "f1"}

  def test_the_file_names_experiment_and_mode(self, resolve, tmp_path):
    (tmp_path / "a.yaml").write_text(
        "experiment: bert/squad\nmode: eval\n" + SIZES)
    plan = resolve("-p", "a.yaml", "-o", "x")
    assert (plan.experiment, plan.mode) == ("bert/squad", "eval")
    assert resolve("-p", "a.yaml", "-o", "x", "-m", "train").mode == "train"
    assert resolve("-p", "a.yaml", "-o", "x",
                   "--params_override=mode=train").mode == "train"
    (tmp_path / "a.yaml").write_text("mode: fly\n")
    with pytest.raises(ValueError, match="a.yaml, line 1: mode is 'fly': one "
                       "of train, eval"):
      resolve("-p", "a.yaml", "--experiment=bert/squad")
    with pytest.raises(ValueError, match="--experiment is missing"):
      resolve("-m", "train")

  @pytest.mark.parametrize("argv, message", [
      (["--lerning_rate=1"], "Did you mean: learning_rate"),
      (["--train_batch_size=many"], "train_batch_size"),
      (["--train_batch_size=0"], "--train_batch_size=0 has to be 1 or more."),
      (["--mode=fly"], "mode"), (["word"], "'word' is no flag"),
      (["--params_override=trainer.max_stepz=3"],
       "--params_override, trainer.max_stepz: trainer.max_stepz is unknown. "
       "Did you mean trainer.max_steps?"),
      (["--config_file=none.yaml"], "--config_file=none.yaml is neither here"),
      (["--bert_config_file"], "Missing value for flag"),
      (["--cs_ip", "1.2.3.4"], "--cs_ip means nothing here: there is no such "
       "machine: leave it out."),
      (["--steps=3"], "--max_steps is the number of steps in all"),
  ])
  def test_mistakes_are_one_line(self, classify, argv, message):
    with pytest.raises(ValueError) as error:
      classify(*argv)
    assert message in str(error.value) and "\n" not in str(error.value)

  def test_output_dir_and_model_are_needed(self, resolve, tmp_path):
    argv = ["--experiment=bert/squad", "--mode=train"]
    with pytest.raises(ValueError, match="Pass --output_dir"):
      resolve(*argv, "--bert_config_file=x")
    with pytest.raises(ValueError, match="--bert_config_file is needed, or a "
                       "file with the model's sizes"):
      resolve(*argv, "-o", "x")

  def test_a_given_model_counts_more_than_sizes(self, classify, tiny_model):
    plan = classify(f"--bert_config_file={tiny_model.bert_config_file}")
    assert plan.bert_config is None
    (note,) = plan.notes
    assert f"vocab_size {tiny_model.vocab_size} (not 99)" in note
    assert "hidden_size 32 (not 24)" in note
    plan = classify()
    assert json.loads(plan.bert_config)["hidden_size"] == 24
    assert "--bert_config_file=out/bert_config.json" in plan.arguments
    assert "bert_config_file" not in plan.to_yaml()

  def test_a_module_takes_the_models_place(self, classify):
    plan = classify("--params_override=task.hub_module_url=m")
    assert plan.script.endswith("run_classifier_with_tfhub.py")
    assert "--bert_hub_module_handle=m" in plan.arguments
    assert not any("bert_config" in word for word in plan.arguments)
    assert plan.notes == [
        "The sizes of the model are those of --bert_hub_module_handle."]
    assert classify().script.endswith("run_classifier.py")

  def test_checkpoint_path_is_where_a_training_begins(self, classify):
    plan = classify("--checkpoint_path=a")
    assert plan.config.value("init_checkpoint") == "a"
    assert plan.config.value("checkpoint_path") is None
    plan = classify("--checkpoint_path=a", mode="eval")
    assert plan.config.value("checkpoint_path") == "a"
    plan = classify("--checkpoint_path=a", "--init_checkpoint=b")
    assert plan.config.value("checkpoint_path") == "a"

  def test_tpu(self, classify):
    plan = classify("--tpu=name")
    assert {"--use_tpu=True", "--tpu_name=name"} <= set(plan.arguments)

  def test_a_file_of_another_experiment_is_named(self, classify, resolve):
    with pytest.raises(ValueError, match="has no flag --max_query_length. The "
                       "file is for bert/squad, but bert/sentence_prediction is "
                       "the experiment .the command line.."):
      classify("--config_file=experiments/squad_v1.yaml")
    with pytest.raises(ValueError, match="experiment .*glue_rte.yaml, line "):
      resolve("-p", "experiments/squad_v1.yaml", "-p",
              "experiments/glue_rte.yaml", "-m", "train", "-o", "x")

  def test_a_warm_up_longer_than_the_training(self, resolve, tmp_path):
    (tmp_path / "a.yaml").write_text(SIZES)
    argv = ["-p", "a.yaml", "-o", "x", "--experiment=bert/pretraining"]
    train_steps = "--params_override=trainer.train_steps=30"
    (note,) = resolve(*argv, "-m", "train", train_steps).notes
    assert "After 30 steps the 10000 of the warm-up are not over" in note
    assert not resolve(*argv, "-m", "train").notes
    assert not resolve(*argv, "-m", "eval", train_steps).notes
    assert not resolve(*argv, "-m", "train", train_steps,
                       "--num_warmup_steps=3").notes

  def test_devices_that_compile_each_length_get_one(
      self, classify, monkeypatch):
    text = "data: {dynamic_padding: true}"
    assert values(classify(text=text))["dynamic_padding"]
    plan = classify("--tpu=name", text=text)
    assert "dynamic_padding" not in values(plan)
    assert plan.notes == ["--dynamic_padding is left out: TPU compiles a "
                          "program for each length of batches."]
    with pytest.raises(ValueError, match="leave out --dynamic_padding or"):
      classify("--tpu=name", "--dynamic_padding", text=text)
    monkeypatch.setattr(train.habana, "has_library", lambda: True)
    plan = classify(text=text)
    assert "dynamic_padding" not in values(plan)
    assert "left out: Gaudi compiles" in plan.notes[0]
    assert values(classify("--dynamic_padding", text=text))["dynamic_padding"]
    assert values(classify("--cpu_only", text=text))["dynamic_padding"]

  def test_a_tpu_evaluates_at_the_end(self, classify):
    text = "trainer: {eval_every_steps: 7, early_stopping_patience: 2}"
    plan = classify("--tpu=name", text=text, mode="train_and_eval")
    assert "eval_every_steps" not in values(plan)
    assert plan.notes == ["A TPU evaluates at the end only: "
                          "early_stopping_patience, eval_every_steps left out."]
    plan = classify("--tpu=name", "--eval_every_steps=7", mode="train_and_eval")
    assert values(plan)["eval_every_steps"] == 7  # The script refuses it.

  def test_a_tpu_without_a_name(self, classify):
    strategy = "--params_override=runtime.distribution_strategy=tpu"
    message = "a TPU is asked for, and none is named: pass --tpu, or give"
    with pytest.raises(ValueError, match=f"distribution_strategy: {message}"):
      classify(strategy, "--tpu=")
    with pytest.raises(ValueError, match=f"own.yaml, line 2: {message}"):
      classify(text="runtime: {distribution_strategy: tpu}")
    assert classify(strategy, "--tpu=t").config.value("tpu_name") == "t"
    assert classify(strategy + ",runtime.master=grpc://a").config.value(
        "use_tpu")

  def test_absls_flags_reach_the_script(self, classify):
    assert "--verbosity=1" in classify("-v", "1").arguments


class DocumentsTest:
  """The commands of the other systems' documents, with other paths."""

  @pytest.fixture
  def of(self, resolve):
    def make(command, **paths):
      return resolve(*shlex.split(command.format(**paths)))
    return make

  def test_model_garden_glue(self, of):
    plan = of("""
        --experiment=bert/sentence_prediction --mode=train_and_eval
        --model_dir=out --config_file=configs/models/bert_en_uncased_base.yaml
        --config_file=configs/experiments/glue_mnli_matched.yaml
        --tfhub_cache_dir=out/hub_cache --tpu=
        --params_override=runtime.distribution_strategy=mirrored,\
task.train_data.input_path=mnli_train.tf_record,\
task.validation_data.input_path=mnli_eval.tf_record,\
task.hub_module_url=https://tfhub.dev/tensorflow/bert_en_uncased_L-12/3
        """)
    assert values(plan)["train_records"] == "mnli_train.tf_record"
    assert values(plan)["eval_records"] == "mnli_eval.tf_record"
    assert values(plan)["eval_every_steps"] == 6135
    assert plan.script.endswith("run_classifier_with_tfhub.py")
    assert plan.options.tfhub_cache_dir == "out/hub_cache"

  def test_model_garden_squad(self, of):
    plan = of("""
        --experiment=bert/squad --mode=train_and_eval --model_dir=out
        --config_file=configs/models/bert_en_uncased_base.yaml
        --config_file=configs/experiments/squad_v1.1.yaml --tpu=t
        --params_override=task.train_data.input_path=train.tf_record,\
task.validation_data.input_path=dev-v1.1.json,\
task.validation_data.vocab_file=vocab.txt,\
task.init_checkpoint=bert_model.ckpt,runtime.distribution_strategy=tpu
        """)
    found = values(plan)
    assert (found["train_records"], found["predict_file"], found["vocab_file"],
            found["init_checkpoint"], found["use_tpu"], found["tpu_name"]) == (
                "train.tf_record", "dev-v1.1.json", "vocab.txt",
                "bert_model.ckpt", True, "t")
    assert (found["train_batch_size"], found["learning_rate"],
            plan.config.value("max_seq_length")) == (48, 8e-5, 384)

  def test_model_garden_pretraining(self, of):
    plan = of("""
        --experiment=bert/pretraining --mode=train_and_eval --model_dir=out
        --config_file=configs/models/bert_en_uncased_base.yaml
        --config_file=configs/experiments/wiki_books_pretrain.yaml
        --params_override=task.train_data.input_path=wiki*
        """)
    found = values(plan)
    assert (found["input_file"], found["train_batch_size"],
            found["num_train_steps"], found["max_predictions_per_seq"]) == (
                "wiki*", 512, 1000000, 76)

  def test_cerebras(self, of):
    plan = of("""
        --mode=train --params experiments/params_bert_base_sst2.yaml
        --model_dir out --checkpoint_path bert_model.ckpt --validate_only
        """)
    found = values(plan)
    assert (found["init_checkpoint"], found["output_dir"],
            found["validate_only"], found["lr_schedule"],
            found["max_steps"]) == (
                "bert_model.ckpt", "out", True, "constant", 20000)
    assert plan.experiment == "bert/sentence_prediction"
    assert "validate_only" not in plan.to_yaml()


class DocsTest:

  def test_each_command_of_the_recipes_is_taken(self, resolve, tmp_path):
    text = (conftest.PROJECT / "docs" / "training.md").read_text()
    variables = {name: str(tmp_path / name) for name in (
        "BERT", "GLUE", "SQUAD", "RECORDS", "OUT")}
    earlier = tmp_path / "OUT" / "mrpc" / "params.yaml"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("experiment: bert/sentence_prediction\n"
                       "mode: train_and_eval\n" + SIZES)
    commands = 0
    for block in re.findall(r"```\n(.*?)```", text, re.S):
      for line in block.replace("\\\n", " ").splitlines():
        for name, value in variables.items():
          line = line.replace(f"${name}", value)
        words = shlex.split(line, comments=True)
        if words[:1] and words[0].startswith("PARAMS="):
          variables["PARAMS"] = words[0].partition("=")[2]
        elif words[1:3] == ["-m", "demo.train"]:
          assert resolve(*words[3:]).arguments
          commands += 1
    assert commands >= 13


class RunTest:

  @pytest.fixture
  def scripts(self, monkeypatch):
    """The runs (list of script and arguments) that would be started."""
    started = []
    monkeypatch.setattr(train.runpy, "run_path", lambda path, run_name: (
        started.append((path, sys.argv[1:]))))
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in ("OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE", "PMI_SIZE"):
      monkeypatch.delenv(name, raising=False)
    return started

  ARGV = ["train.py", "--experiment=bert/sentence_prediction", "--mode=train",
          "--params_override=model.vocab_size=99",
          "--params_override=data:\n  task_name: sst2",
          "--max_steps=3"]

  def test_params_make_the_run_again(self, scripts, tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    assert train.main([*self.ARGV, f"--output_dir={first}"]) == 0
    text = (first / "params.yaml").read_text()
    assert text.startswith("# python -m demo.train --experiment=bert/sent")
    assert train.main(["train.py", f"--config_file={first}/params.yaml",
                       f"--output_dir={second}"]) == 0
    again = yaml.safe_load((second / "params.yaml").read_text())
    assert again["trainer"].pop("output_dir") == str(second)
    wanted = yaml.safe_load(text)
    assert wanted["trainer"].pop("output_dir") == str(first)
    assert again == wanted
    (script, one), (_, other) = scripts
    assert script.endswith("run_classifier.py")
    assert [word.replace(str(first), "X") for word in one] == [
        word.replace(str(second), "X") for word in other]
    assert (first / "bert_config.json").read_text() == (
        second / "bert_config.json").read_text()
    assert capsys.readouterr().err == ""

  def test_an_evaluation_leaves_the_trainings_params(self, scripts, tmp_path):
    argv = [*self.ARGV, f"--output_dir={tmp_path}"]
    assert train.main([*argv, "--mode=eval"]) == 0
    assert "mode: eval" in (tmp_path / "params.yaml").read_text()
    assert train.main(argv) == 0
    assert "mode: train" in (tmp_path / "params.yaml").read_text()
    assert train.main([*argv, "--mode=eval"]) == 0
    assert "mode: train" in (tmp_path / "params.yaml").read_text()
    assert "mode: eval" in (tmp_path / "params_eval.yaml").read_text()
    assert len(scripts) == 3

  def test_refuses_a_folder_with_another_model(self, scripts, tmp_path, capsys):
    argv = [*self.ARGV, f"--output_dir={tmp_path}"]
    assert train.main(argv) == 0
    before = (tmp_path / "params.yaml").read_text()
    assert train.main([*argv, "--params_override=model.vocab_size=98"]) == 1
    assert (f"train.py: error: {tmp_path}/bert_config.json describes another "
            f"model") in capsys.readouterr().err
    assert (tmp_path / "params.yaml").read_text() == before
    assert len(scripts) == 1

  def test_records_for_a_part_of_the_run(self, scripts, tmp_path, capsys):
    argv = [*self.ARGV, f"--output_dir={tmp_path}", "--params_override="
            "task.train_data.input_path=a"]
    assert train.main(argv) == 0
    assert train.main([*argv, "--mode=train_and_eval"]) == 1
    assert ("--mode=train_and_eval: --params_override, task.train_data."
            "input_path gives --train_records, but there is no --eval_records "
            "(data.eval_records, task.validation_data.input_path)."
            ) in capsys.readouterr().err
    for more in ("--eval_records=b", "--data_dir=c", "--dev_file=d"):
      assert train.main([*argv, "--mode=train_and_eval", more]) == 0
    assert train.main([*argv, "--mode=predict"]) == 1
    assert len(scripts) == 4
    assert train.main([
        "train.py", "--experiment=bert/pretraining", "--mode=train",
        "--params_override=model.vocab_size=99",
        f"--output_dir={tmp_path}/other"]) == 1
    assert ("--input_file is needed (data.input_file, task.train_data."
            "input_path)") in capsys.readouterr().err

  def test_shows_each_values_origin(self, scripts, tmp_path, capsys):
    assert train.main([*self.ARGV, f"--output_dir={tmp_path}/x",
                       "--show_config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  max_steps: 3 ") and
               line.endswith("# the command line") for line in lines)
    assert any(line.endswith("# --params_override, model.vocab_size")
               for line in lines)
    assert not scripts and not (tmp_path / "x").exists()

  def test_ranks_are_launched_with_the_scripts_flags(
      self, scripts, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(train.os, "execv", lambda _, command: (
        commands.append(command)))
    argv = [*self.ARGV, f"--output_dir={tmp_path}", "--params_override="
            "runtime.num_ranks=4,runtime.hosts='a:2,b:2',runtime.restarts=1"]
    train.main(argv)
    options = launch.parse_arguments(commands[0][3:])
    assert (options.np, options.restarts) == (4, 1)
    assert [tuple(host) for host in options.hosts] == [("a", 2), ("b", 2)]
    assert options.command[0].endswith("run_classifier.py")
    assert f"--output_dir={tmp_path}" in options.command
    assert not any("num_ranks" in word for word in options.command)
    assert "num_ranks: 4" in (tmp_path / "params.yaml").read_text()
    # A rank of a launcher starts no ranks.
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    scripts.clear()
    (tmp_path / "params.yaml").unlink()
    train.main(argv)
    assert len(commands) == 1 and len(scripts) == 1
    assert not (tmp_path / "params.yaml").exists()  # Rank 0 writes it.
    assert (tmp_path / "bert_config.json").exists()

  def test_seeds_are_runs_of_their_own(self, scripts, tmp_path, monkeypatch,
                                       capsys):
    commands = []

    def run_process(command):
      commands.append(command)
      folder = pathlib.Path(command[4].partition("=")[2])
      folder.mkdir()
      (folder / "eval_results.txt").write_text(
          f"eval_accuracy = 0.{command[5][-1]}\n")
      return 0

    monkeypatch.setattr(train, "_run_process", run_process)
    argv = [*self.ARGV, f"--output_dir={tmp_path}", "--seeds=1,2"]
    assert train.main(argv) == 1
    assert "pass --mode=train_and_eval" in capsys.readouterr().err
    assert train.main([*argv, "--mode=train_and_eval"]) == 0
    assert "best: seed 2, accuracy 0.2000" in capsys.readouterr().out
    assert [command[3:] for command in commands] == [
        [f"--config_file={tmp_path}/params.yaml",
         f"--output_dir={tmp_path}/seed_{seed}", f"--random_seed={seed}"]
        for seed in (1, 2)]
    plan = train.resolve(["train.py", *commands[0][3:]])
    assert plan.config.value("random_seed") == 1
    assert plan.config.value("detailed_results")
    assert plan.output_dir == f"{tmp_path}/seed_1"
    assert not scripts

  def test_help(self, capsys):
    assert train.main(["train.py", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--params_override" in out and "--seeds" in out


class WriteBertConfigTest:

  def test_ranks_do_not_disturb_each_other(self, tmp_path):
    plan = train.resolve([
        "train.py", "--experiment=bert/squad", "--mode=train", "--output_dir",
        str(tmp_path), "--params_override=model.vocab_size=9"])
    for _ in range(2):
      train.write_bert_config(plan)
    (name,) = [path.name for path in tmp_path.iterdir()]
    assert name == "bert_config.json"


@pytest.mark.slow
class WholeRunTest:

  def test_params_repeat_a_training_to_the_last_digit(
      self, tiny_model, sst2_dir, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({
        "model": {**sizes_of(tiny_model),
                  "vocab_file": tiny_model.vocab_file,
                  "init_checkpoint": tiny_model.init_checkpoint},
        "data": {"max_seq_length": 32, "data_dir": str(sst2_dir)},
        "trainer": {"learning_rate": 2e-3, "train_batch_size": 16,
                    "num_train_epochs": 1.0, "eval_every_steps": 8}}))
    runs = []
    for name, argv in (
        ("a", ["--config_file=experiments/glue_sst2.yaml",
               f"--config_file={config}", "--mode=train_and_eval",
               "--params_override=trainer.random_seed=3", "--cpu_only"]),
        ("b", [f"--config_file={tmp_path}/a/params.yaml"])):
      run = conftest.run_script(
          "demo.train", *argv, f"--output_dir={tmp_path / name}")
      assert run.returncode == 0, run.stdout
      runs.append(run)
    one, other = ((tmp_path / name / "eval_results.txt").read_text()
                  for name in "ab")
    assert one == other and "eval_accuracy" in one
    params = [yaml.safe_load((tmp_path / name / "params.yaml").read_text())
              for name in "ab"]
    for found in params:
      del found["trainer"]["output_dir"]
    assert params[0] == params[1]
    assert params[0]["trainer"]["eval_every_steps"] == 8
    metric, scores = seed_helpers.read_scores(str(tmp_path / "a"))
    assert metric == "accuracy"
    assert (metric, scores) == seed_helpers.read_scores(str(tmp_path / "b"))
    assert (tmp_path / "b" / "bert_config.json").exists()

  def test_the_scripts_refusals_are_its_own(self, tmp_path):
    run = conftest.run_script(
        "demo.train", "--config_file=experiments/glue_sst2.yaml",
        "--config_file=models/uncased_L-2_H-128_A-2.yaml", "--mode=train",
        f"--output_dir={tmp_path}/x", f"--data_dir={tmp_path}",
        "--vocab_file=none.txt", "--cpu_only")
    assert run.returncode == 1
    assert "run_classifier.py: error: --vocab_file=none.txt" in run.stdout
    assert "Traceback" not in run.stdout


def sizes_of(model):
  """The sizes of a TinyModel."""
  sizes = flags.FlagValues()
  config_helpers.define_sizes(sizes)
  return {name: value for name, value in model.config.to_dict().items()
          if name in sizes}
