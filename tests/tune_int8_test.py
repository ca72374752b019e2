"""Tests of demo/tune_int8.py and its back-ends, on real quantized models."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from demo import checkpoints
from demo import compile_reader
from demo import export_helpers
from demo import int8_config
from demo import int8_task
from demo import predictor
from demo import tune_int8
import run_classifier
from tests import conftest
from tests import export_helpers_test
from tests import served_models

SCRIPT = "demo.tune_int8"
FRAMEWORKS = int8_config.FRAMEWORKS
# What the tiny model's products are computed by.
OPERATIONS = {
    "tensorflow": {"QuantizedMatMulWithBiasAndDequantize"},
    "onnxrt_integerops": {"DynamicQuantizeMatMul", "MatMulIntegerToFloat",
                          "MatMulInteger"},
    "onnxrt_qlinearops": {"QLinearMatMul", "MatMulIntegerToFloat",
                          "QGemm"}}
LAYERS = {"layer_0/query_key_value", "layer_0/attention_output",
          "layer_0/intermediate", "layer_0/output", "layer_1/query",
          "layer_1/key_value", "layer_1/attention_output",
          "layer_1/intermediate", "layer_1/output", "pooler", "output_layer"}


def export(model, folder, task, labels, seed=7):
  """Exports a tiny model of wide random weights for a task's labels."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True)
  outputs = len(labels) or 1
  prefix = str(folder / "model.ckpt-7")
  rng = np.random.RandomState(seed)
  checkpoints.save_checkpoint({
      **conftest.random_variables(model.config, seed=seed),
      "output_weights": rng.normal(0.0, 0.5, [
          outputs, model.config.hidden_size]).astype(np.float32),
      "output_bias": np.zeros([outputs], np.float32),
      "global_step": np.int64(7)}, prefix)
  export_helpers_test.name_newest(prefix)

  def build(input_ids, input_mask, segment_ids):
    import tensorflow as tf  # pylint: disable=import-outside-toplevel
    return {"probabilities": run_classifier.create_model(
        model.config, False, input_ids, input_mask, segment_ids,
        tf.zeros(tf.shape(input_ids)[:1], tf.int32 if labels else tf.float32),
        outputs, False, is_regression=not labels)[-1]}

  args = export_helpers_test.export_flags(
      folder, max_seq_length=served_models.LENGTH)
  export_helpers.check(args)
  export_helpers.export(
      args, build, {
          "task": task, "labels": labels, "do_lower_case": True,
          "kind": "classification" if labels else "regression"},
      model.vocab_file, model.bert_config_file)
  return str(folder / "export")


@pytest.fixture(scope="module")
def sst2_export(tiny_model, tmp_path_factory):
  """A folder of exports for SST-2."""
  return export(tiny_model, tmp_path_factory.mktemp("tune") / "sst2", "sst2",
                ["0", "1"])


@pytest.fixture(scope="module")
def squad_export(tiny_model, tmp_path_factory):
  """A folder of exports for SQuAD."""
  return served_models.export(
      tiny_model, "squad", tmp_path_factory.mktemp("tune") / "squad",
      version_2_with_negative=False)


def config_file(folder, framework="onnxrt_integerops", quantization="{}",
                **tuning):
  """Writes a conf.yaml; returns its path."""
  path = pathlib.Path(folder) / "conf.yaml"
  path.write_text(
      f"model: {{name: tiny, framework: {framework}}}\n"
      f"quantization: {quantization}\n"
      "evaluation: {performance: {warmup: 1, iteration: 2}}\n"
      f"tuning: {json.dumps(tuning)}\n")
  return str(path)


def flags(exports, data_dir, folder, config, **values):
  """A command line of --mode=tune."""
  values = {**dict(
      config=config, input_model=exports, task_name="SST-2", data_dir=data_dir,
      output_model=f"{folder}/int8"), **values}
  return [f"--{name}={value}" for name, value in values.items()
          if value is not None]


def report_of(folder):
  return json.loads((pathlib.Path(folder) / "int8.tuning" /
                     "tuning_report.json").read_text())


def history_of(folder):
  path = pathlib.Path(folder) / "int8.tuning" / "history.jsonl"
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def tuned(sst2_export, sst2_dir, tmp_path_factory):
  """A search by each framework: dict framework -> (finished run, folder)."""
  found = {}
  for framework in FRAMEWORKS:
    folder = tmp_path_factory.mktemp(framework)
    config = config_file(
        folder, framework, "{calibration: {sampling_size: 20}}",
        accuracy_criterion={"relative": 0.9}, random_seed=5)
    found[framework] = conftest.run_script(
        SCRIPT, *flags(sst2_export, sst2_dir, folder, config)), folder
  return found


@pytest.mark.slow
class TuneTest:

  @pytest.mark.parametrize("framework", FRAMEWORKS)
  def test_model_is_int8_and_used_like_its_export(
      self, framework, tuned, sst2_export, sst2_dir):
    run, folder = tuned[framework]
    assert run.returncode == 0, run.stdout
    report = report_of(folder)
    assert report["winner"] == 1 and report["rows"] == 50
    (trial,) = report["trials"]
    kernels = trial["kernels"]
    never = {"output_layer"} if framework == "tensorflow" else set()
    assert set(kernels["float"]) == never
    assert set(kernels["int8"]) == LAYERS - never
    assert set(kernels["operations"]) <= OPERATIONS[framework]
    assert sum(kernels["operations"].values()) == len(LAYERS - never)
    assert report["goal"] == pytest.approx(0.1 * report["baseline"]["score"])
    assert report["framework"] == framework and report["processor"]["name"]
    assert report["versions"] and set(report["comparison"]) == {"1", "8", "32"}
    assert {"fp32", "fp32 compiled", "INT8"} <= set(report["comparison"]["8"])
    if framework == "onnxrt_integerops":
      assert report["calibration_rows"] == {}
      # The range of an activation is that of all rows of a batch.
      model = predictor.load(f"{folder}/int8")
      texts = ["good", "a dull and awful bad film", "great great"]
      assert model(texts) != [model(text) for text in texts]
    else:
      assert report["calibration_rows"] == {"20": 20}
    workspace = folder / "int8.tuning"
    assert (workspace / "tuning.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(os.listdir(workspace)) == [
        "history.jsonl", "tuning.png", "tuning_report.json"]
    assert "trial 1: " in run.stdout and "| accuracy (held) |" in run.stdout
    # The model: the same files, and answers near those of the export.
    old = predictor.load(sst2_export)
    new = predictor.load(str(folder / "int8"))
    assert sorted(os.listdir(os.path.join(old.path, "assets"))) == sorted(
        os.listdir(os.path.join(new.path, "assets")))
    assert new.info["precision"] == "int8"
    assert new.info["quantized"]["framework"] == framework
    texts = ["good film", "a dull and awful bad film", "great"]
    for one, other in zip(old(texts), new(texts)):
      assert one["probabilities"] == pytest.approx(
          other["probabilities"], abs=0.2)
      assert one["probabilities"] != other["probabilities"]
    # Answers of the report are those that the model gives.
    task_args = [f"--input_model={folder}/int8", "--mode=accuracy",
                 "--task_name=SST-2", f"--data_dir={sst2_dir}"]
    run = conftest.run_script(SCRIPT, *task_args)
    assert run.returncode == 0, run.stdout
    assert f"accuracy = {trial['scores']['accuracy']:.5f}" in run.stdout

  @pytest.mark.parametrize("framework", FRAMEWORKS)
  def test_squad(self, framework, squad_export, squad_dir, tmp_path):
    config = config_file(tmp_path, framework,
                         "{calibration: {sampling_size: 8}}",
                         exit_policy={"performance_only": True})
    run = conftest.run_script(SCRIPT, *flags(
        squad_export, None, tmp_path, config, task_name="SQuAD",
        train_file=squad_dir / "train.json",
        predict_file=squad_dir / "dev.json"))
    assert run.returncode == 0, run.stdout
    report = report_of(tmp_path)
    assert report["metric"] == "f1" and report["rows"] == 80
    assert set(report["baseline"]["scores"]) == {"exact_match", "f1"}
    assert len(report["trials"][0]["kernels"]["int8"]) >= 8
    answer = predictor.load(str(tmp_path / "int8"))(
        ("what is it?", "the film is good"))
    assert answer["nbest"]

  def test_killed_search_goes_on_to_the_same_winner(
      self, sst2_export, sst2_dir, tmp_path):
    def command(folder):
      folder.mkdir()
      return flags(sst2_export, sst2_dir, folder, config_file(
          folder, accuracy_criterion={"relative": 0.9}, objective="modelsize",
          exit_policy={"timeout": 3600}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = conftest.run_script(SCRIPT, *command(whole))
    assert run.returncode == 0, run.stdout
    argv = command(killed)
    with subprocess.Popen(
        [sys.executable, "-m", SCRIPT, *argv], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd="/",
        env={**os.environ, "PYTHONPATH": str(conftest.PROJECT)}) as process:
      until = time.monotonic() + 200
      while len(history_of(killed)) < 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
      process.send_signal(signal.SIGKILL)
    before = history_of(killed)
    assert not (killed / "int8").exists()
    run = conftest.run_script(SCRIPT, *argv)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("[from the history]") == len(before) < 4
    assert history_of(killed)[:len(before)] == before
    one, other = report_of(whole), report_of(killed)
    assert one["winner"] == other["winner"]
    for name in ("setting", "fallbacks", "score", "scores", "flips"):
      assert [trial[name] for trial in one["trials"]] == [
          trial[name] for trial in other["trials"]]
    # The second call made the winner's model again, if the kill took it.
    assert predictor.load(str(killed / "int8"))("good film") == (
        predictor.load(str(whole / "int8"))("good film"))

  def test_history_of_another_model_is_refused(
      self, sst2_export, tiny_model, sst2_dir, tmp_path):
    config = config_file(tmp_path, exit_policy={"performance_only": True})
    argv = flags(sst2_export, sst2_dir, tmp_path, config)
    assert conftest.run_script(SCRIPT, *argv).returncode == 0
    before = report_of(tmp_path)
    run = conftest.run_script(SCRIPT, *argv)
    assert run.returncode == 1 and "exists already" in run.stdout
    (tmp_path / "int8").rename(tmp_path / "first")
    other = export(tiny_model, tmp_path / "other", "sst2", ["0", "1"], 8)
    run = conftest.run_script(
        SCRIPT, *flags(other, sst2_dir, tmp_path, config))
    assert run.returncode == 1 and "Traceback" not in run.stdout
    assert "another model" in run.stdout
    assert report_of(tmp_path) == before
    # Without the history the search is about the other model, all of it.
    (tmp_path / "int8.tuning" / "history.jsonl").unlink()
    run = conftest.run_script(
        SCRIPT, *flags(other, sst2_dir, tmp_path, config))
    assert run.returncode == 0, run.stdout
    exact, int8 = (predictor.load(str(path))("good film")["probabilities"]["0"]
                   for path in (other, tmp_path / "int8"))
    assert abs(exact - int8) < 0.05

  @pytest.mark.parametrize("algorithm", ["percentile", "kl"])
  def test_rows_of_several_lengths_make_histograms(
      self, algorithm, sst2_export, sst2_dir, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dev.tsv").write_text((sst2_dir / "dev.tsv").read_text())
    (folder / "train.tsv").write_text(
        "sentence\tlabel\n" + "".join(
            f"{'good film ' * count}\t1\n" for count in range(1, 9)))
    config = config_file(
        tmp_path, "onnxrt_qlinearops",
        f"{{model_wise: {{activation: {{algorithm: {algorithm}}}}}}}",
        exit_policy={"performance_only": True})
    run = conftest.run_script(
        SCRIPT, *flags(sst2_export, folder, tmp_path, config))
    assert run.returncode == 0, run.stdout
    assert report_of(tmp_path)["calibration_rows"] == {"100": 8}
    assert "Collecting tensor data" not in run.stdout
    assert "Number of tensors" not in run.stdout


@pytest.mark.slow
class ServedTest:

  def test_answers_are_those_of_the_predictor(
      self, tuned, tiny_model):
    models = {name: f"{folder}/int8" for name, (_, folder) in tuned.items()}
    with served_models.Server(models) as server:
      for name, folder in models.items():
        model = predictor.load(folder)
        ids = served_models.token_rows(tiny_model.vocab_size, [9])
        (wanted,) = model.run([[predictor.Row(*(
            ids[key][0].tolist() for key in predictor.Row._fields))]])
        found = server.predict(name, ids)["probabilities"]
        np.testing.assert_allclose(
            found, wanted["probabilities"], rtol=0, atol=1e-6)
        found = server.predict(name, {"text_a": np.array([b"a good film"])},
                               "serve_texts")["probabilities"][0]
        np.testing.assert_allclose(
            found, list(model("a good film")["probabilities"].values()),
            rtol=0, atol=1e-6)


class UnreachableGoalTest:

  def tune(self, sst2_export, sst2_dir, folder, monkeypatch):
    monkeypatch.setattr(int8_config.Config, "goal", lambda self, score: 2.0)
    config = config_file(
        folder, "onnxrt_integerops",
        "{model_wise: {weight: {granularity: per_tensor, dtype: int8}}}",
        exit_policy={"max_trials": 13})
    with conftest.parsed(tune_int8.init_tune_flags, *flags(
        sst2_export, sst2_dir, folder, config)) as args:
      with pytest.raises(ValueError, match="No INT8 model holds accuracy"):
        tune_int8.tune(args, int8_config.read(config))
    return report_of(folder)

  def test_with_a_lower_goal_the_history_still_counts(
      self, sst2_export, sst2_dir, tmp_path):
    tuning = {"exit_policy": {"performance_only": True}}
    argv = flags(sst2_export, sst2_dir, tmp_path, config_file(
        tmp_path, accuracy_criterion={"relative": 0.5}, **tuning))
    assert conftest.run_script(SCRIPT, *argv).returncode == 0
    (tmp_path / "int8").rename(tmp_path / "first")
    config_file(tmp_path, accuracy_criterion={"relative": 0.6}, **tuning)
    run = conftest.run_script(SCRIPT, *argv)
    assert run.returncode == 0 and "[from the history]" in run.stdout

  def test_report_is_there_and_fall_backs_were_tried(
      self, sst2_export, sst2_dir, tmp_path, monkeypatch):
    report = self.tune(sst2_export, sst2_dir, tmp_path, monkeypatch)
    assert report["winner"] is None and report["comparison"] is None
    assert report["stopped_by"] == "max_trials: 13"
    assert not (tmp_path / "int8").exists()
    assert (tmp_path / "int8.tuning" / "tuning.png").exists()
    sizes = [len(trial["fallbacks"]) for trial in report["trials"]]
    assert sizes == [0] + 11 * [1] + [2]
    for trial in report["trials"]:
      # What is reported is in the graph.
      assert set(trial["kernels"]["float"]) == set(trial["fallbacks"])
      assert set(trial["kernels"]["int8"]) == LAYERS - set(trial["fallbacks"])
    # With a layer in float32 a model is larger, if the layer is no tiny one.
    assert all(trial["bytes"] > report["trials"][0]["bytes"]
               for trial in report["trials"][1:]
               if trial["fallbacks"] != ["output_layer"])
    alone = {trial["fallbacks"][0]: (trial["score"], -trial["difference"])
             for trial in report["trials"][1:12]}
    best = max(alone, key=alone.get)
    assert best in report["trials"][12]["fallbacks"]


GLUE = {
    # Header, columns of a row and what the two labels are.
    "CoLA": ("", "x\t{label}\t*\t{a}", ["0", "1"]),
    "SST-2": ("sentence\tlabel", "{a}\t{label}", ["0", "1"]),
    "MRPC": ("Quality\t1\t2\ta\tb", "{label}\t1\t2\t{a}\t{b}", ["0", "1"]),
    "STS-B": ("index\tsentence1\tsentence2\tscore",
              "{i}\t{a}\t{b}\t{value}", []),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            "{i}\t1\t2\t{a}\t{b}\t{label}", ["0", "1"]),
    "MNLI": ("\t".join("index 1 2 3 4 5 6 7 a b label".split()),
             "{i}" + "\tx" * 7 + "\t{a}\t{b}\t{label}",
             ["contradiction", "entailment", "neutral"]),
    "QNLI": ("index\tquestion\tsentence\tlabel", "{i}\t{a}\t{b}\t{label}",
             ["entailment", "not_entailment"]),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "{i}\t{a}\t{b}\t{label}",
            ["entailment", "not_entailment"]),
    "WNLI": ("index\tsentence1\tsentence2\tlabel",
             "{i}\t{a}\t{b}\t{label}", ["0", "1"]),
}
HELD = {"CoLA": "matthews_correlation", "MRPC": "f1", "QQP": "f1",
        "STS-B": "spearman"}


class AccuracyTest:

  def write(self, task, folder):
    """Writes the dev files of a task; returns its labels, in their order."""
    _, processor = run_classifier.find_processor(task)
    header, row, labels = GLUE[task]
    rows = []
    for i, (text, _) in enumerate(conftest.sentiment_rows(24, 3)):
      rows.append(row.format(
          i=i, a=text, b=text[::-1], value=i % 6,
          label=labels[i % len(labels)] if labels else None))
    names = [processor.files["dev"]]
    if task == "MNLI":
      names.append("dev_mismatched.tsv")
    for name in names:
      (folder / name).write_text("\n".join(([header] if header else []) +
                                           rows) + "\n")
    return processor.get_labels() if labels else []

  @pytest.mark.parametrize("task", sorted(GLUE))
  def test_all_tasks_have_the_right_score(self, task, tiny_model, tmp_path):
    labels = self.write(task, tmp_path)
    name = run_classifier.find_processor(task)[0]
    exports = export(tiny_model, tmp_path / "model", name, labels)
    with conftest.parsed(
        tune_int8.init_tune_flags, "--mode=accuracy", f"--task_name={task}",
        f"--input_model={exports}", f"--data_dir={tmp_path}") as args:
      config = tune_int8._config(args)  # pylint: disable=protected-access
      model = predictor.load(exports)
      rows = int8_task.Task(args, config.metric, model)
    assert rows.metric == HELD.get(task, "accuracy")
    assert len(rows.rows) == 24
    scores = rows.evaluate(model).scores
    assert rows.metric in scores
    assert ("mismatched_accuracy" in scores) == (task == "MNLI")
    if labels:
      answers = [model((row["text_a"], row["text_b"]) if "text_b" in row
                       else row["text_a"])["label"] for row in rows.rows]
      right = [row["label"] == answer
               for row, answer in zip(rows.rows, answers)]
      assert scores["accuracy"] == pytest.approx(np.mean(right))

  def test_rows_to_calibrate_with_are_of_the_training_set(
      self, sst2_export, sst2_dir):
    model = predictor.load(sst2_export)
    with conftest.parsed(
        tune_int8.init_tune_flags, "--task_name=SST-2",
        f"--data_dir={sst2_dir}") as args:
      task = int8_task.Task(args, None, model)
      rows = task.calibration_rows(40, 3)
    train = [line.split("\t")[0] for line in (
        sst2_dir / "train.tsv").read_text().splitlines()[1:]]
    known = [model.codec.encode(text).rows[0] for text in train]
    assert len(rows) == 40 and all(row in known for row in rows)
    assert rows == task.calibration_rows(40, 3)
    assert rows != task.calibration_rows(40, 4)
    assert len(task.calibration_rows(10 ** 6, 3)) == 256


class RefusalTest:

  def refused(self, tmp_path, *argv, framework="onnxrt_integerops", **values):
    run = conftest.run_script(SCRIPT, *argv, *flags(
        values.pop("exports", "/nowhere"), values.pop("data_dir", None),
        tmp_path, config_file(tmp_path, framework), **values))
    assert run.returncode == 1, run.stdout
    assert "Traceback" not in run.stdout
    assert not (tmp_path / "int8").exists()
    return run.stdout.splitlines()[-1]

  def test_no_export(self, tmp_path):
    assert "--input_model=/nowhere has no exported model" in self.refused(
        tmp_path)

  def test_model_of_another_task(
      self, sst2_export, squad_export, squad_dir, tmp_path):
    assert "a model for sst2" in self.refused(
        tmp_path, exports=sst2_export, task_name="SQuAD",
        predict_file=squad_dir / "dev.json")
    assert "a model for SQuAD" in self.refused(tmp_path, exports=squad_export)

  def test_task_with_the_same_labels(self, sst2_export, tmp_path):
    (tmp_path / "dev.tsv").write_text("Quality\t1\t2\ta\tb\n"
                                      "1\t1\t2\tgood\tbad\n")
    assert "--task_name=MRPC: " in self.refused(
        tmp_path, exports=sst2_export, task_name="MRPC", data_dir=tmp_path)

  @pytest.mark.parametrize("workspace", ["int8", "int8/tuning", "."])
  def test_workspace_and_model_in_each_other(
      self, workspace, sst2_export, sst2_dir, tmp_path):
    config = config_file(tmp_path, workspace={
        "path": str(tmp_path / workspace)}, exit_policy={
            "performance_only": True})
    run = conftest.run_script(SCRIPT, *flags(
        sst2_export, sst2_dir, tmp_path, config))
    if workspace == ".":  # It may lie in the workspace.
      assert run.returncode == 0, run.stdout
      assert export_helpers.is_export(str(tmp_path / "int8"))
      return
    assert run.returncode == 1 and "Traceback" not in run.stdout
    assert (f"tuning.workspace.path: {tmp_path / workspace} would be in "
            f"--output_model" in run.stdout)
    assert not (tmp_path / "int8").exists()

  def test_workspace_that_is_a_file(self, sst2_export, sst2_dir, tmp_path):
    (tmp_path / "file").touch()
    config = config_file(tmp_path, workspace={"path": str(tmp_path / "file")})
    run = conftest.run_script(SCRIPT, *flags(
        sst2_export, sst2_dir, tmp_path, config))
    assert run.returncode == 1 and "Traceback" not in run.stdout
    assert f"tuning.workspace.path: {tmp_path / 'file'} can't" in run.stdout

  def test_labels_of_another_task(self, sst2_export, tmp_path):
    (tmp_path / "dev.tsv").write_text(
        "index\tsentence1\tsentence2\tlabel\n0\tgood\tbad\tentailment\n")
    assert "'entailment', the model 0, 1" in self.refused(
        tmp_path, exports=sst2_export, task_name="RTE", data_dir=tmp_path)

  def test_compiled_model(self, sst2_export, sst2_dir, tmp_path):
    source = compile_reader.Source(sst2_export)
    info = {**source.info, "quantized": {"framework": "tensorflow"}}
    path = tmp_path / "quantized"
    import shutil  # pylint: disable=import-outside-toplevel
    shutil.copytree(source.path, path)
    export_helpers.write_info(
        str(path / "assets" / export_helpers.INFO), info)
    assert "is quantized already" in self.refused(
        tmp_path, exports=path, data_dir=sst2_dir)

  def test_tuning_needs_its_flags(self, sst2_export, sst2_dir, tmp_path):
    for name in ("config", "output_model", "task_name"):
      run = conftest.run_script(SCRIPT, *flags(
          sst2_export, sst2_dir, tmp_path, config_file(tmp_path),
          **{name: None}) if name != "config" else flags(
              sst2_export, sst2_dir, tmp_path, None))
      assert run.returncode == 1 and f"needs --{name}" in run.stdout

  def test_unknown_metric(self, sst2_export, sst2_dir, tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_text("model: {name: x, framework: onnxrt_integerops}\n"
                    "evaluation: {accuracy: {metric: bleu}}\n")
    run = conftest.run_script(SCRIPT, *flags(
        sst2_export, sst2_dir, tmp_path, path))
    assert run.returncode == 1
    assert "bleu is no score of sst2, which has accuracy" in run.stdout


class BenchmarkTest:

  def test_two_models_in_turn(self, sst2_export, tmp_path):
    config = config_file(tmp_path)
    run = conftest.run_script(
        SCRIPT, "--mode=benchmark", f"--input_model={sst2_export}",
        f"--baseline_model={sst2_export}", f"--config={config}")
    assert run.returncode == 0, run.stdout
    for size in (1, 8, 32):
      assert f"model: batch of {size}, {served_models.LENGTH} tokens" in (
          run.stdout)
    assert run.stdout.count("times as fast") == 3
