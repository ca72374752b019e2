"""Tests of demo/alias_helpers.py."""

from absl import flags
import pytest

from demo import alias_helpers
from demo import config_helpers
import run_classifier_with_tfhub
import run_pretraining
import run_squad

DEFINE = {
    "classifier": run_classifier_with_tfhub.init_classifier_with_tfhub_flags,
    "squad": run_squad.init_squad_flags,
    "pretraining": run_pretraining.init_pretraining_flags}

# The classifier's file of the Model Garden, as its driver writes it out.
GARDEN = """
task:
  hub_module_url: ''
  init_checkpoint: null
  metric_type: accuracy
  model:
    num_classes: 3
    encoder:
      type: bert
      bert: {vocab_size: 30522, hidden_size: 768, num_layers: 12,
             num_attention_heads: 12, intermediate_size: 3072,
             hidden_activation: gelu, dropout_rate: 0.1,
             attention_dropout_rate: 0.1, max_position_embeddings: 512,
             type_vocab_size: 2, initializer_range: 0.02, embedding_size: null}
  train_data: {input_path: 'a*,b', global_batch_size: 32, is_training: true,
               drop_remainder: true, seq_length: 128, label_type: int}
  validation_data: {input_path: c, global_batch_size: 16, is_training: false,
                    seq_length: 128}
trainer:
  checkpoint_interval: 3000
  max_to_keep: 2
  best_checkpoint_eval_metric: cls_accuracy
  best_checkpoint_export_subdir: best_ckpt
  best_checkpoint_metric_comp: higher
  optimizer_config:
    learning_rate:
      polynomial: {decay_steps: 36813, end_learning_rate: 0.0,
                   initial_learning_rate: 3.0e-05, power: 1.0}
      type: polynomial
    optimizer:
      adamw: {weight_decay_rate: 0.01, beta_1: 0.9, epsilon: 1.0e-07,
              exclude_from_weight_decay: [LayerNorm, layer_norm, bias]}
      type: adamw
    warmup:
      polynomial: {power: 1, warmup_steps: 3681}
      type: polynomial
  steps_per_loop: 1000
  summary_interval: 500
  train_steps: 36813
  validation_interval: 6135
  validation_steps: 307
  continuous_eval_timeout: 60
  loss_upper_bound: 1000000.0
runtime: {distribution_strategy: mirrored, mixed_precision_dtype: bfloat16,
          enable_xla: false, num_gpus: 4, loss_scale: null}
"""

# A classifier's file of Cerebras.
CEREBRAS = """
train_input:
  data_processor: Sst2DataProcessor
  data_dir: ./tfds
  vocab_file: v.txt
  max_sequence_length: 72
  batch_size: 12
  shuffle: True
  do_lower: true
  invert_mask: True
eval_input: {data_processor: Sst2DataProcessor, data_dir: ./tfds,
             vocab_file: v.txt, max_sequence_length: 72, batch_size: 6}
model:
  num_cls_classes: 2
  cls_dropout_rate: 0.2
  hidden_size: 768
  vocab_size: 30522
  num_heads: 12
  filter_size: 3072
  layer_norm_epsilon: 1.0e-5
  mixed_precision: True
  boundary_casting: False
optimizer:
  optimizer_type: adamw
  weight_decay_rate: 0.01
  exclude_from_weight_decay: [LayerNorm, layer_norm, bias, Bias]
  learning_rate:
    - {scheduler: Linear, initial_learning_rate: 0.0,
       end_learning_rate: 5.0e-5, steps: 2000}
    - {scheduler: Constant, learning_rate: 5.0e-5}
  loss_scaling_factor: tf_dynamic
  grad_accum_steps: 2
runconfig:
  max_steps: 20000
  save_summary_steps: 50
  save_checkpoints_steps: 2000
  keep_checkpoint_max: 2
  tf_random_seed: 5
  throttle_secs: 0
  cs_ip: null
csconfig: {use_cbfloat16: False}
"""

PRETRAINING = """
task:
  model:
    cls_heads: [{activation: tanh, cls_token_idx: 0, dropout_rate: 0.1,
                 inner_dim: 768, name: next_sentence, num_classes: 2}]
    encoder: {bert: {hidden_size: 768}}
  train_data: {input_path: a, max_predictions_per_seq: 76, seq_length: 512,
               global_batch_size: 512, use_next_sentence_label: true,
               use_v2_feature_names: true}
  validation_data: {input_path: b, max_predictions_per_seq: 76, seq_length: 512}
trainer: {train_steps: 100, validation_steps: -1, optimizer_config: {
  warmup: {polynomial: {warmup_steps: 10}}}}
"""


def configuration(text, script="classifier", ranks=1):
  """The Configuration of a file."""
  config = config_helpers.Configuration(
      script, config_helpers.flags_of(DEFINE[script]))
  config.add(config_helpers.parse_config(text, "f"))
  config.finish(ranks)
  return config


def values(config):
  """Its flags and values."""
  return {name: setting.value for name, setting in config.settings.items()}


def sizes(config):
  """Its sizes of the model."""
  return {name: setting.value for name, setting in config.sizes.items()}


class TableTest:

  def test_each_name_stands_for_something_that_is_there(self):
    foreign, own = flags.FlagValues(), flags.FlagValues()
    alias_helpers.define_foreign_flags(foreign)
    config_helpers.define_sizes(own)
    scripts = {script: {*config_helpers.flags_of(define), *foreign, *own}
               for script, define in DEFINE.items()}
    missing = []
    for key in alias_helpers.names():
      alias = alias_helpers.find(key)
      of_scripts = alias if isinstance(alias, dict) else {"any": alias}
      for script, target in of_scripts.items():
        name = getattr(target, "flag", target)
        known = scripts.get(script) or set.union(*scripts.values())
        if isinstance(name, str) and name != alias_helpers.IGNORED and (
            name not in known):
          missing.append((key, script, name))
    assert not missing

  def test_none_hides_a_name_of_our_own(self):
    for script, define in DEFINE.items():
      for name in config_helpers.flags_of(define):
        alias = alias_helpers.find(
            f"{config_helpers.section_of(name)}.{name}")
        assert alias in (None, name), (script, name)


class ModelGardenTest:

  def test_a_classifiers_file(self):
    config = configuration(GARDEN)
    found = values(config)
    # 3681.5 of 36813 steps, rounded down, are 3681.
    assert int(36813 * found.pop("warmup_proportion")) == 3681
    assert found == {
        "train_records": "a*,b", "eval_records": "c", "train_batch_size": 32,
        "eval_batch_size": 16, "max_seq_length": 128, "best_metric": "accuracy",
        "save_checkpoints_steps": 3000, "keep_checkpoint_max": 2,
        "learning_rate": 3e-5, "lr_schedule": "linear", "optimizer": "adamw",
        "iterations_per_loop": 1000, "log_steps": 500, "max_steps": 36813,
        "eval_every_steps": 6135, "continuous_eval_timeout": 60,
        "loss_upper_bound": 1e6, "precision": "bf16", "use_xla": False,
        "loss_scale": None, "task_name": "custom", "labels": ["0", "1", "2"]}
    assert sizes(config) == {
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512,
        "type_vocab_size": 2, "initializer_range": 0.02}
    assert "runtime.num_gpus" in config.ignored
    assert "task.train_data.drop_remainder" in config.ignored
    assert "task.init_checkpoint" not in config.ignored  # It was empty.

  def test_a_named_task_has_labels_of_its_own(self):
    config = configuration(GARDEN + "data: {task_name: MNLI}")
    assert config.value("task_name") == "MNLI"
    assert "labels" not in config.settings
    regression = configuration("task: {model: {num_classes: 1}}")
    assert values(regression) == {"task_name": "custom", "regression": True}

  def test_the_batch_is_that_of_all_ranks(self):
    text = "task: {train_data: {global_batch_size: 32}}"
    assert values(configuration(text, ranks=4)) == {
        "train_batch_size": 8, "scale_learning_rate": False}
    with pytest.raises(ValueError, match="f, line 1: a batch of 32 can't be "
                       "shared out among 3 ranks"):
      configuration(text, ranks=3)

  def test_a_pretrainings_file(self):
    config = configuration(PRETRAINING, "pretraining")
    assert values(config) == {
        "input_file": "a", "eval_input_file": "b", "max_seq_length": 512,
        "max_predictions_per_seq": 76, "train_batch_size": 512,
        "num_train_steps": 100, "num_warmup_steps": 10}
    assert config.ignored == ["task.train_data.use_v2_feature_names"]
    document = """
model:
  cls_heads: [{activation: tanh, cls_token_idx: 0, dropout_rate: 0.1, inner_dim: 768, name: next_sentence, num_classes: 2}]
"""
    assert not values(configuration(document, "pretraining"))
    with pytest.raises(ValueError, match="inner_dim is 768, hidden_size 128"):
      configuration(document + "  hidden_size: 128", "pretraining")

  def test_questions(self):
    config = configuration("""
task:
  train_data: {input_path: a.tf_record, global_batch_size: 48}
  validation_data: {input_path: dev.json, vocab_file: v, doc_stride: 64,
                    version_2_with_negative: true, do_lower_case: false,
                    global_batch_size: 7, tokenization: WordPiece}
  n_best_size: 3
trainer: {best_checkpoint_eval_metric: final_f1}
""", "squad")
    assert values(config) == {
        "train_records": "a.tf_record", "predict_file": "dev.json",
        "vocab_file": "v", "doc_stride": 64, "version_2_with_negative": True,
        "do_lower_case": False, "predict_batch_size": 7, "n_best_size": 3,
        "train_batch_size": 48, "best_metric": "f1"}

  def test_devices(self):
    assert values(configuration("runtime: {distribution_strategy: tpu}")) == {
        "use_tpu": True}
    with pytest.raises(ValueError, match="is multi_worker_mirrored, here it is "
                       "one process; runtime.num_ranks starts more"):
      configuration("runtime: {distribution_strategy: multi_worker_mirrored}")

  @pytest.mark.parametrize("text, message", [
      ("task: {model: {encoder: {type: albert}}}", "is albert, here it is bert"),
      ("task: {model: {encoder: {bert: {norm_first: true}}}}",
       "is true, here it is false"),
      ("task: {train_data: {tokenization: SentencePiece}}", "WordPiece"),
      ("trainer: {optimizer_config: {optimizer: {type: sgd}}}",
       "should be one of <adamw|lamb>"),
      ("trainer: {optimizer_config: {learning_rate: {type: stepwise}}}",
       "should be one of <linear|constant|cosine>"),
      ("trainer: {optimizer_config: {optimizer: {adamw: {beta_2: 0.98}}}}",
       "is 0.98, here it is 0.999"),
      ("trainer: {optimizer_config: {ema: {average_decay: 0.9}}}",
       "trainer.optimizer_config.ema.average_decay: it can't be had"),
      ("trainer: {optimizer_config: {warmup: {linear: {warmup_steps: 9}}}}",
       "9 steps of warm-up need a number of steps in all"),
      ("trainer: {train_steps: 5, optimizer_config: {warmup: {linear: "
       "{warmup_steps: 9}}}}", "9 steps of warm-up are more than the 5 steps"),
      ("task: {train_data: {seq_length: 9}, validation_data: {seq_length: 8}}",
       r"both stand for max_seq_length and differ"),
      ("trainer: {train_steps: 5, max_steps: 6}", "both stand for max_steps"),
      ("task: {model: {cls_heads: []}}", "means nothing in this experiment"),
  ])
  def test_what_can_not_be_had_is_refused_by_name(self, text, message):
    with pytest.raises(ValueError, match="f, line 1: ") as error:
      configuration(text)
    assert message in str(error.value)

  def test_a_module_is_for_the_classifier(self):
    text = "task: {hub_module_url: m}"
    assert values(configuration(text)) == {"bert_hub_module_handle": "m"}
    with pytest.raises(ValueError, match="means nothing in this experiment"):
      configuration(text, "squad")


class CerebrasTest:

  def test_a_classifiers_file(self):
    config = configuration(CEREBRAS)
    found = values(config)
    assert int(20000 * found.pop("warmup_proportion")) == 2000
    assert found == {
        "task_name": "SST-2", "use_tfds": "glue/sst2", "tfds_dir": "./tfds",
        "vocab_file": "v.txt", "max_seq_length": 72, "train_batch_size": 12,
        "eval_batch_size": 6, "do_lower_case": True,
        "dropout_before_logits": 0.2, "optimizer": "adamw",
        "learning_rate": 5e-5, "lr_schedule": "constant", "precision": "fp16",
        "loss_scale": "dynamic", "num_accumulation_steps": 2,
        "max_steps": 20000, "log_steps": 50, "save_checkpoints_steps": 2000,
        "keep_checkpoint_max": 2, "random_seed": 5}
    assert sizes(config) == {
        "hidden_size": 768, "vocab_size": 30522, "num_attention_heads": 12,
        "intermediate_size": 3072}
    assert "model.layer_norm_epsilon" in config.ignored

  def test_other_sixteen_bits(self):
    config = configuration(
        CEREBRAS.replace("cbfloat16: False", "cbfloat16: True"))
    assert config.value("precision") == "bf16"
    assert config.value("loss_scale") is None  # That is for fp16.

  def test_a_folder_of_glues_own_files(self, sst2_dir):
    config = configuration(f"""
train_input: {{data_processor: Sst2DataProcessor, data_dir: '{sst2_dir}'}}""")
    assert values(config) == {"task_name": "SST-2", "data_dir": str(sst2_dir)}

  @pytest.mark.parametrize("text, rate, schedule, warmup", [
      ("1.0e-4", 1e-4, None, None),
      ("[{scheduler: Constant, learning_rate: 0.1}]", 0.1, "constant", None),
      ("[{scheduler: Linear, initial_learning_rate: 0, end_learning_rate: 0.1, "
       "steps: 10}, {scheduler: Linear, initial_learning_rate: 0.1, "
       "end_learning_rate: 0.0, steps: 90}]", 0.1, "linear", 0.105),
  ])
  def test_schedules(self, text, rate, schedule, warmup):
    config = configuration(f"optimizer: {{learning_rate: {text}}}\n"
                           f"runconfig: {{max_steps: 100}}")
    assert config.value("learning_rate") == rate
    for name, wanted in (("lr_schedule", schedule),
                         ("warmup_proportion", warmup)):
      if wanted is None:
        assert name not in config.settings
      else:
        assert config.value(name) == wanted

  @pytest.mark.parametrize("text, message", [
      ("optimizer: {learning_rate: [{scheduler: Exponential, rate: 1}]}",
       "optimizer.learning_rate: a Linear from 0 and then a Constant"),
      ("optimizer: {learning_rate: [{scheduler: Linear, initial_learning_rate: "
       "0.1, end_learning_rate: 0.05}]}", "Other schedules"),
      ("optimizer: {max_gradient_value: 3}", "a common norm of 1"),
      ("runconfig: {cs_ip: 1.2.3.4}", "runconfig.cs_ip: there is no such"),
      ("model: {pretrain_params_path: x}", "give that file before this one"),
      ("model: {position_embedding_type: fixed}", "is fixed, here it is learned"),
      ("model: {use_bias: true}", "model.use_bias is unknown"),
  ])
  def test_what_can_not_be_had_is_refused_by_name(self, text, message):
    with pytest.raises(ValueError, match="f, line 1: ") as error:
      configuration(text)
    assert message in str(error.value)
