"""Tests of demo/config_helpers.py."""

import json
import pathlib

from absl import flags
import pytest
import yaml

from demo import config_helpers
import modeling
import run_classifier
import run_pretraining
import run_squad
from demo import download

DEFINE = {"classifier": run_classifier.init_classifier_flags,
          "squad": run_squad.init_squad_flags,
          "pretraining": run_pretraining.init_pretraining_flags}


def configuration(*texts, script="classifier", ranks=1):
  """A Configuration of files with these texts, a.yaml, b.yaml and so on."""
  config = config_helpers.Configuration(
      script, config_helpers.flags_of(DEFINE[script]))
  for letter, text in zip("abc", texts):
    config.add(config_helpers.parse_config(text, f"{letter}.yaml"))
  config.finish(ranks)
  return config


class FlagsOfTest:

  def test_defines_nothing_for_good(self):
    before = set(flags.FLAGS)
    for script, define in DEFINE.items():
      found = config_helpers.flags_of(define)
      assert "train_batch_size" in found, script
      assert "verbosity" not in found
    assert set(flags.FLAGS) == before


class SectionsTest:

  def test_a_flag_is_in_one_section(self):
    names = [name for section in config_helpers.SECTIONS.values()
             for name in section]
    assert len(names) == len(set(names))
    assert config_helpers.section_of("learning_rate") == "trainer"


class AddTest:

  def test_types_are_those_of_the_flags(self):
    config = configuration("""
data: {task_name: 007, data_dir: }
trainer:
  learning_rate: 5e-5
  max_steps: 1_000
  best_metric: "3"
  loss_upper_bound: 7
runtime: {use_xla: yes, loss_scale: 128, precision: fp16}
""")
    found = {name: setting.value for name, setting in config.settings.items()}
    assert found == {
        "task_name": "007", "data_dir": None, "learning_rate": 5e-5,
        "max_steps": 1000, "best_metric": "3", "loss_upper_bound": 7.0,
        "use_xla": True, "loss_scale": "128", "precision": "fp16"}
    assert config.value("train_batch_size") == 32  # As by default.

  def test_later_files_count_more_and_null_is_the_default(self):
    config = configuration(
        "trainer: {learning_rate: 1.0, train_batch_size: 7, log_steps: 3}",
        "trainer:\n  learning_rate: 2.0\n  log_steps: null\n")
    assert config.settings["learning_rate"] == (2.0, "b.yaml, line 2")
    assert config.settings["train_batch_size"] == (7, "a.yaml, line 1")
    assert config.value("log_steps") == 100

  def test_later_epochs_take_the_place_of_steps(self):
    steps, epochs = "trainer: {max_steps: 9}", "trainer: {num_train_epochs: 2}"
    assert configuration(steps, epochs).value("max_steps") is None
    assert configuration(epochs, steps).value("max_steps") == 9
    both = configuration("trainer: {num_train_epochs: 2, max_steps: 9}")
    assert both.value("max_steps") == 9

  @pytest.mark.parametrize("text, message", [
      ("trainer:\n  lerning_rate: 1",
       "line 2: trainer.lerning_rate is unknown. Did you mean "
       "trainer.learning_rate?"),
      ("trainer:\n\n  max_seq_length: 1",
       "line 3: trainer.max_seq_length: max_seq_length belongs to the section "
       "data, as data.max_seq_length."),
      ("max_steps: 1", "max_steps belongs to the section trainer"),
      ("trainer: {hidden_size: 1}", "belongs to the section model"),
      ("model: {learning_rate: 1}", "belongs to the section trainer"),
      ("data: {predict_file: x}", "has no flag --predict_file"),
      ("trainer: {verbosity: 1}", "trainer.verbosity is unknown"),
      ("quux: 1", "quux is unknown. The sections are data, model"),
      ("task: {trian_data: {input_path: x}}",
       "Did you mean task.train_data.input_path?"),
      ("data: {max_seq_length: 1.5}", "is 1.5, but a whole number is needed"),
      ("data: {max_seq_length: '5'}", "is '5', but a whole number is needed"),
      ("data: {max_seq_length: [5]}", "but a whole number is needed"),
      ("trainer: {learning_rate: fast}", "is fast, but a number is needed"),
      ("trainer: {learning_rate: .nan}", "is .nan, but a number is needed"),
      ("trainer: {learning_rate: nan}", "is nan, but a number is needed"),
      ("trainer: {do_train: 1}", "is 1, but true or false is needed"),
      ("data: {task_name: no}", "text is needed: put it in quotes"),
      ("data: {data_dir: [a, 'b,c']}", "text without commas is needed"),
      ("trainer: {optimizer: adamm}", "should be one of <adamw|lamb>"),
      ("trainer: {log_steps: 0}", "trainer.log_steps is 0"),
      ("trainer:\n  train_batch_size: 0",
       "a.yaml, line 2: --train_batch_size=0 has to be 1 or more."),
      ("trainer: {learning_rate: -1}", "line 1: --learning_rate=-1.0 has to"),
      ("runtime: {profile_steps: 9}", "line 1: --profile_steps=9"),
      ("model: {hidden_act: swish}", "should be one of <gelu|relu|tanh|linear>"),
      ("model: {hidden_size: 0}", "model.hidden_size is 0"),
      ("data:\ntrainer: 3", "line 2: trainer is a section: names with values "
       "are needed below it, not '3'."),
      ("task: {train_data: x}", "task.train_data is a section"),
      ("trainer: {train_batch_size: '8'}", "is '8', but a whole number is "
       "needed, without quotes."),
      ("task: {train_data: {global_batch_size: 8}}\n"
       "trainer: {train_batch_size: 9}", "line 1: task.train_data."
       "global_batch_size and trainer.train_batch_size (a.yaml, line 2) say "
       "the same: give one of them."),
      ("trainer: {<<: {log_steps: 3}}", "line 1: '<<' is not taken"),
  ])
  def test_mistakes_are_named_with_file_and_line(self, text, message):
    with pytest.raises(ValueError) as error:
      configuration(text)
    assert str(error.value).startswith("a.yaml, line ")
    assert message in str(error.value)

  def test_a_section_may_be_empty(self):
    config = configuration(
        "data:\ntask:\n  train_data:\ntrainer:\n  # max_steps: 3\n"
        "eval_input:\nruntime: {}\n")
    assert not config.settings and not config.ignored

  def test_a_mistake_that_a_later_layer_takes_back_does_no_harm(self):
    config = configuration("trainer: {train_batch_size: 0}",
                           "trainer: {train_batch_size: 4}")
    assert config.value("train_batch_size") == 4

  def test_model_files_are_for_scripts_without_text_too(self):
    config = configuration("model: {do_lower_case: false, vocab_size: 9}",
                           script="pretraining")
    assert config.ignored == ["model.do_lower_case"]
    assert list(config.sizes) == ["vocab_size"]
    assert configuration("model: {do_lower_case: false}").arguments(
        ["do_lower_case"]) == ["--do_lower_case=False"]


class ParseConfigTest:

  @pytest.mark.parametrize("text, message", [
      ("a: {b: 1, b: 2}", "line 1: a.b stands there twice, first at f, line 1"),
      ("a:\n  b: 1\na.b: 2", "line 3: a.b stands there twice, first at f, "
       "line 2"),
      ("a: 1\nb: [", "line 2: no YAML"),
      ("a: 1\n---\nb: 2", "line 2: no YAML"),
      ("a: \x00", "no YAML"),
      ("a:\n\tb: 1", "line 2: no YAML (a tab: indent with spaces)"),
      ("- a", "line 1: sections such as 'trainer:' are needed"),
      ("? [a]\n: b", "line 1: a name is needed"),
      ("a: &a {b: *a}", "line 1: a.b contains itself"),
      ("a: &a {b: {c: *a}}", "a.b.c contains itself"),
      ("a: !!python/object/apply:os.system [echo]", "of the kind"),
      ("a: !new 3", "a is of the kind !new"),
      ("a: " + "[" * 9 + "]" * 9, "lists within lists"),
      ("a: &a {x: 1, y: 1}\nb: &b {" + ", ".join(
          f"k{i}: *a" for i in range(30)) + "}\nc: {" + ", ".join(
              f"k{i}: *b" for i in range(30)) + "}", "more than 1000 values"),
  ])
  def test_refuses_with_the_line(self, text, message):
    with pytest.raises(ValueError) as error:
      config_helpers.parse_config(text, "f")
    assert message in str(error.value)
    assert "\n" not in str(error.value)

  def test_no_value_is_computed(self):
    leaves = config_helpers.parse_config(
        "a: {b: 2001-01-01, c: 0o7, d: ~, e: ['no', no, {f: 1}]}", "f")
    assert [(leaf.key, leaf.value, leaf.kind) for leaf in leaves] == [
        ("a.b", "2001-01-01", "text"), ("a.c", "0o7", "text"),
        ("a.d", None, "null"), ("a.e", ["no", "no", {"f": "1"}], "list")]
    assert config_helpers.parse_config("", "f") == []

  def test_json_is_taken(self):
    (leaf,) = config_helpers.parse_config(
        json.dumps({"trainer": {"learning_rate": 1e-05}}, indent=2), "f")
    assert leaf[:2] == ("trainer.learning_rate", "1e-05")
    assert leaf.origin == "f, line 3"


class ParseOverrideTest:

  def test_pairs(self):
    leaves = config_helpers.parse_override(
        "a.b=1, c.d=x,y,e.f=gs://a/*.rec,g=, h.i=[1,2],k=a=b,j=a: b")
    assert [(leaf.key, leaf.value) for leaf in leaves] == [
        ("a.b", "1"), ("c.d", "x,y"), ("e.f", "gs://a/*.rec"), ("g", ""),
        ("h.i", ["1", "2"]), ("k", "a=b"), ("j", "a: b")]
    assert leaves[1].origin == "--params_override, c.d"

  def test_quotes_keep_a_value_together(self):
    leaves = config_helpers.parse_override(
        "a.b='x,y=z',c.d=\"u, v=w\",e.f=[g=h,i=j],k=it's,l=m,n='o,p=q")
    assert [(leaf.key, leaf.value) for leaf in leaves] == [
        ("a.b", "x,y=z"), ("c.d", "u, v=w"), ("e.f", ["g=h", "i=j"]),
        ("k", "it's"), ("l", "m"), ("n", "'o"), ("p", "q")]

  def test_commas_too_many(self):
    # As of PARAMS=$PARAMS,a.b=1 in a shell that has no PARAMS.
    for text in (",a.b=1", "a.b=1,", " , a.b=1 ,, c.d=2,"):
      assert config_helpers.parse_override(text)[0][:2] == ("a.b", "1")
    assert config_helpers.parse_override(",") == []

  def test_what_is_no_pair_is_named(self):
    for key in ("learning-rate", "--learning_rate"):
      (leaf,) = config_helpers.parse_override(f"{key}=3")
      assert leaf.key == key
    with pytest.raises(ValueError, match="or pairs such as trainer.max_steps="
                       "100, not trainer.log_steps:3"):
      config_helpers.parse_override("trainer.log_steps:3")
    with pytest.raises(ValueError, match="--params_override=none.yaml is nei"):
      config_helpers.parse_override("none.yaml")

  def test_text_and_files(self, tmp_path):
    for text in ("trainer: {max_steps: 5}", '{"trainer": {"max_steps": 5}}',
                 "trainer:\n  max_steps: 5"):
      (leaf,) = config_helpers.parse_override(text)
      assert leaf[:2] == ("trainer.max_steps", "5")
    path = tmp_path / "more.yaml"
    path.write_text("trainer: {max_steps: 5}")
    (leaf,) = config_helpers.parse_override(str(path))
    assert leaf.origin == f"{path}, line 1"
    with pytest.raises(ValueError, match="--params_override, line 1: sections"):
      config_helpers.parse_override("fast")


class FindConfigTest:

  def test_looks_here_and_among_those_shipped(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = config_helpers.CONFIG_FOLDER + "/experiments/glue_rte.yaml"
    for name in ("experiments/glue_rte.yaml", shipped,
                 "configs/experiments/glue_rte.yaml",
                 "demo/configs/experiments/glue_rte.yaml"):
      assert pathlib.Path(config_helpers.find_config(name)).samefile(shipped)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "glue_rte.yaml").write_text("")
    name = "experiments/glue_rte.yaml"
    assert config_helpers.find_config(name) == name
    with pytest.raises(ValueError, match="Did you mean experiments/glue_sst2"):
      config_helpers.find_config("experiments/glue_sst.yaml")
    with pytest.raises(ValueError, match="neither here nor in demo/configs"):
      config_helpers.find_config("x")

  def test_a_file_that_is_no_text(self, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="can't be read as UTF-8"):
      config_helpers.read_config(str(path))


class BertConfigTest:

  def test_sizes_make_a_model(self):
    config = configuration("model: {vocab_size: 99, hidden_size: 24}")
    made = json.loads(config.bert_config())
    # All checkpoints that were published have two segments.
    assert made == {**modeling.BertConfig(99).to_dict(), "hidden_size": 24,
                    "type_vocab_size": 2}
    assert configuration("").bert_config() is None

  @pytest.mark.parametrize("text, message", [
      ("model: {hidden_size: 24}", "model.vocab_size is missing"),
      ("model: {vocab_size: 9, hidden_size: 25}",
       "hidden_size 25 is not a multiple of num_attention_heads 12"),
  ])
  def test_refuses_half_a_model(self, text, message):
    with pytest.raises(ValueError, match=f"a.yaml, line 1: .*{message}"):
      configuration(text).bert_config()

  def test_the_place_is_that_of_the_size(self):
    with pytest.raises(ValueError, match="b.yaml, line 2: hidden_size 25 is"):
      configuration("model: {vocab_size: 9, num_attention_heads: 2}",
                    "model:\n  hidden_size: 25").bert_config()


class ToYamlTest:

  def test_makes_the_same_configuration(self):
    text = """
data: {task_name: "1e-5", data_dir: "a: # b", max_seq_length: 7}
model: {vocab_size: 9, initializer_range: 1e-3, init_checkpoint: é}
trainer: {learning_rate: 1.0e-7, best_metric: "yes", do_predict: true}
runtime: {precision: bf16, profile_steps: "1,2", bf16_config_path: null}
"""
    first = configuration(text)
    written = first.to_yaml({}, ())
    second = configuration(written)
    assert second.to_yaml({}, ()) == written
    for place in ("settings", "sizes"):
      assert ({k: v.value for k, v in getattr(first, place).items()} ==
              {k: v.value for k, v in getattr(second, place).items()})
    assert yaml.safe_load(written)["runtime"] == {
        "precision": "bf16", "profile_steps": "1,2", "bf16_config_path": None}
    shown = first.to_yaml({}, (), with_origins=True)
    assert "max_seq_length: 7" in shown and "# a.yaml, line 2" in shown
    assert yaml.safe_load(shown) == yaml.safe_load(written)

  def test_how_to_try_a_run_out_is_no_part_of_it(self):
    config = configuration("trainer: {validate_only: true, max_steps: 3}")
    assert config.to_yaml({}, ()) == "trainer:\n  max_steps: 3\n"
    assert config.arguments(["validate_only"]) == ["--validate_only=True"]


class ShippedTest:

  def files(self, kind):
    return sorted((pathlib.Path(config_helpers.CONFIG_FOLDER) / kind).glob("*"))

  def test_all_tasks_and_models_are_there(self):
    names = {path.stem for path in self.files("experiments")}
    assert names >= {f"glue_{task}" for task in (
        "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "mnli_matched", "qnli",
        "rte", "wnli")}
    assert names >= {f"params_bert_{size}_{task}" for size in ("base", "large")
                     for task in ("sst2", "mnli")}
    assert names >= {"squad_v1", "squad_v1.1", "squad_v2.0",
                     "wiki_books_pretrain", "pretrain_paper_phase1",
                     "pretrain_paper_phase2"}
    assert len(self.files("models")) == 34

  @pytest.mark.parametrize("kind", ["experiments", "models"])
  def test_each_is_taken_by_its_script_and_names_its_source(self, kind):
    for path in self.files(kind):
      text = path.read_text(encoding="utf-8")
      head = text[:text.index("\nexperiment:" if kind == "experiments" else
                              "\nmodel:")]
      assert all(line.startswith("#") for line in head.splitlines()), path
      assert any(source in head for source in (
          "et al.", "Model Garden", "Cerebras", "bert_config.json")), path
      assert max(map(len, text.splitlines())) <= 80, path
      leaves = config_helpers.read_config(str(path))
      scripts = {"bert/sentence_prediction": ["classifier"],
                 "bert/squad": ["squad"], "bert/pretraining": ["pretraining"],
                 None: list(DEFINE)}[yaml.safe_load(text).get("experiment")]
      for script in scripts:
        config = config_helpers.Configuration(
            script, config_helpers.flags_of(DEFINE[script]))
        config.add(leaves)
        config.finish(1)
        if config.sizes:
          made = json.loads(config.bert_config())
          assert (made["type_vocab_size"], made["initializer_range"]) == (
              2, 0.02), path
        # Where rows have many lengths.
        assert bool(config.value("dynamic_padding")) == (
            kind == "experiments" and script != "pretraining"), path
        if kind == "models":
          assert config.sizes, path
        else:
          assert not config.ignored, path

  def test_sizes_are_those_of_the_releases(self):
    made = {}
    for path in self.files("models"):
      config = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
      made[path.stem] = config
      assert config["intermediate_size"] == 4 * config["hidden_size"], path
      assert (config["max_position_embeddings"], config["type_vocab_size"],
              config["hidden_act"]) == (512, 2, "gelu"), path
    google = {item.name for item in download.CHECKPOINTS}
    miniatures = [name for name in made if name.startswith("uncased_L-")]
    assert len(miniatures) == 24 and google >= set(miniatures)
    for name in miniatures:
      layers, width, heads = (int(part.split("-")[1])
                              for part in name.split("_")[1:])
      config = made[name]
      assert (config["num_hidden_layers"], config["hidden_size"],
              config["num_attention_heads"], config["vocab_size"]) == (
                  layers, width, heads, 30522), name
    for name, vocab_size, layers in (
        ("bert_en_uncased_base", 30522, 12), ("bert_en_cased_base", 28996, 12),
        ("bert_en_uncased_large", 30522, 24),
        ("bert_en_cased_large", 28996, 24),
        ("bert_en_wwm_uncased_large", 30522, 24),
        ("bert_en_wwm_cased_large", 28996, 24),
        ("bert_multi_cased_base", 119547, 12),
        ("bert_multi_uncased_base", 105879, 12),
        ("bert_chinese_base", 21128, 12)):
      config = made[name]
      assert (config["vocab_size"], config["num_hidden_layers"]) == (
          vocab_size, layers), name
      assert config["hidden_size"] == 64 * config["num_attention_heads"] == (
          768 if layers == 12 else 1024), name
      assert config.get("do_lower_case", True) == ("_cased_" not in name), name

  def test_minilm_is_the_demos_model(self, shared):
    path = shared / "models" / "minilm_l6_uncased" / "bert_config.json"
    if not path.exists():
      pytest.skip("no recorded model")
    wanted = json.loads(path.read_text())
    config = configuration((
        pathlib.Path(config_helpers.CONFIG_FOLDER) / "models" /
        "minilm_l6_uncased.yaml").read_text(encoding="utf-8"))
    assert json.loads(config.bert_config()) == wanted

  def test_one_file_stands_under_both_of_its_names(self):
    folder = pathlib.Path(config_helpers.CONFIG_FOLDER) / "experiments"
    for one, other in (("squad_v1.1", "squad_v1"),
                       ("glue_mnli", "glue_mnli_matched")):
      assert (yaml.safe_load((folder / f"{one}.yaml").read_text()) ==
              yaml.safe_load((folder / f"{other}.yaml").read_text()))
