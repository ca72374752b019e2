# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Names that other systems have for what is a flag here.

The dotted names of the Model Garden's driver (task, trainer, runtime) and the
sections of Cerebras' YAML files (train_input, eval_input, model, optimizer,
runconfig). What a name stands for is one of

- a flag, a size of the model or a foreign value (`define_foreign_flags`), for
  all scripts or by script;
- Words: such a flag whose values have other names there;
- Fixed: values that are as they are here anyway, others are refused;
- a function of the Leaf that returns other Leafs;
- Refused: it would change the run, and can't be had;
- IGNORED: how the other system works; the run is the same without it.
"""

import collections
import fnmatch
import functools
import os
import re

from absl import flags

IGNORED = "ignored"


class Words(collections.namedtuple("Words", ["flag", "words"])):
  """A flag and the names of its values: dict foreign (lower case) -> own.

  A value that is not among them stays as it is.
  """


class Fixed(collections.namedtuple("Fixed", ["values", "what"])):
  """Values (list of string) that need no flag; `what` they are here."""


class Refused(collections.namedtuple("Refused", ["why"])):
  """What can't be had, and the way out."""


def define_foreign_flags(values):
  """Defines values that become flags of a script when all is known.

  Args:
    values: FlagValues to define them in.
  """
  flags.DEFINE_integer("warmup_steps", None, "", 0, flag_values=values)
  flags.DEFINE_integer("global_batch_size", None, "", 1, flag_values=values)
  flags.DEFINE_integer("num_classes", None, "", 1, flag_values=values)
  flags.DEFINE_integer("head_width", None, "", 1, flag_values=values)
  flags.DEFINE_string("tfds_folder", None, "", flag_values=values)
  flags.DEFINE_bool("cbfloat16", False, "", flag_values=values)
  flags.DEFINE_string("scale_of_fp16", None, "", flag_values=values)


_METRICS = {
    "cls_accuracy": "accuracy", "final_f1": "f1", "final_exact": "exact",
    "matthews_corrcoef": "matthews_correlation", "mean_squared_error": "loss",
    "pearson_spearman_corr": "pearson", "lm_example_loss": "masked_lm_loss"}
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "mixed_bfloat16": "bf16",
               "float16": "fp16", "mixed_float16": "fp16"}
_SCHEDULES = {"polynomial": "linear"}
_ACTIVATIONS = {"gelu_new": "gelu"}
_DATA_PROCESSORS = {"sst2dataprocessor": "SST-2", "mnlidataprocessor": "MNLI"}
_NO_DECAY = Fixed(
    ["LayerNorm,layer_norm,bias", "LayerNorm,layer_norm,bias,Bias"],
    "LayerNorm, layer_norm and bias")
_TOTAL_STEPS = {"classifier": "max_steps", "squad": "max_steps",
                "pretraining": "num_train_steps"}
_WARMUP_STEPS = {"classifier": "warmup_steps", "squad": "warmup_steps",
                 "pretraining": "num_warmup_steps"}
_ANSWERS = {name: {"squad": name} for name in (
    "doc_stride", "max_query_length", "version_2_with_negative", "n_best_size",
    "max_answer_length", "null_score_diff_threshold")}


def _heads(leaf):
  """model.cls_heads of a pretraining: the width of the head is the model's."""
  heads = leaf.value if isinstance(leaf.value, list) else []
  if len(heads) != 1 or not isinstance(heads[0], dict):
    raise ValueError(f"{leaf.origin}: {leaf.key}: one head is needed, such as "
                     f"[{{inner_dim: 768, num_classes: 2}}].")
  for name, only in (("activation", "tanh"), ("cls_token_idx", "0"),
                     ("num_classes", "2")):
    if heads[0].get(name, only) != only:
      raise ValueError(f"{leaf.origin}: {leaf.key}: {name} is "
                       f"{heads[0][name]}, here it is always {only}.")
  width = heads[0].get("inner_dim")
  return [] if width is None else [
      leaf._replace(key="head_width", value=width, kind="number")]


def _learning_rate(leaf):
  """Cerebras' optimizer.learning_rate: a number, or schedules one by one."""
  if not isinstance(leaf.value, list):
    return [leaf._replace(key="learning_rate")]
  try:
    steps = [(entry["scheduler"].lower(), entry) for entry in leaf.value]
    rate, found = None, []
    if len(steps) == 2 and float(steps[0][1]["initial_learning_rate"]) == 0:
      rate = steps[0][1]["end_learning_rate"]
      found.append(("warmup_steps", steps.pop(0)[1]["steps"]))
    (name, last), = steps
    at_first = last.get("learning_rate", last.get("initial_learning_rate"))
    if name == "constant":
      found.append(("lr_schedule", "constant", "text"))
    elif name != "linear" or float(last["end_learning_rate"]) != 0:
      raise ValueError
    else:
      found.append(("lr_schedule", "linear", "text"))
    if rate is not None and float(at_first) != float(rate):
      raise ValueError
    found.append(("learning_rate", at_first))
  except (AttributeError, KeyError, TypeError, ValueError):
    raise ValueError(
        f"{leaf.origin}: {leaf.key}: a Linear from 0 and then a Constant, or a "
        f"Linear to 0, can be had, alone or both. Other schedules: "
        f"trainer.lr_schedule and trainer.warmup_proportion.") from None
  return [leaf._replace(key=key, value=value, kind=(*kind, "number")[0])
          for key, value, *kind in found]


_TRAINING_INPUT = {
    "train_data.input_path": {"classifier": "train_records",
                              "squad": "train_records",
                              "pretraining": "input_file"},
    "validation_data.input_path": {"classifier": "eval_records",
                                   "squad": "predict_file",
                                   "pretraining": "eval_input_file"},
    "train_data.global_batch_size": "global_batch_size",
    "validation_data.global_batch_size": {
        "classifier": "eval_batch_size", "squad": "predict_batch_size",
        "pretraining": "eval_batch_size"},
    "train_data.seed": "random_seed",
    "train_data.tfds_name": {"classifier": "use_tfds"},
    "train_data.tfds_data_dir": {"classifier": "tfds_dir"},
}
_ANY_INPUT = {
    "vocab_file": {"classifier": "vocab_file", "squad": "vocab_file"},
    "seq_length": "max_seq_length",
    "max_predictions_per_seq": {"pretraining": "max_predictions_per_seq"},
    "lower_case": {"classifier": "do_lower_case", "squad": "do_lower_case"},
    "do_lower_case": {"classifier": "do_lower_case", "squad": "do_lower_case"},
    "tokenization": Fixed(["WordPiece"], "WordPiece"),
    "use_next_sentence_label": Fixed(["true"], "true"),
    "label_field": Fixed(["label_ids"], "label_ids"),
    **_ANSWERS,
    **dict.fromkeys((
        "is_training", "drop_remainder", "shuffle_buffer_size", "cache",
        "cycle_length", "block_length", "deterministic", "sharding", "seed",
        "prefetch_buffer_size", "enable_tf_data_service", "tf_data_service_*",
        "tfds_*", "include_example_id", "label_type", "label_name",
        "use_position_id", "use_v2_feature_names", "file_type",
        "weights", "enable_shared_tf_data_service_between_parallel_trainers",
        "apply_tf_data_service_before_batching", "trainer_id",
        "autotune_algorithm", "ram_budget"), IGNORED),
}

_MODEL_GARDEN = {
    **{f"task.{key}": value for key, value in _TRAINING_INPUT.items()},
    **{f"task.*_data.{key}": value for key, value in _ANY_INPUT.items()},
    **{f"task.{key}": value for key, value in _ANSWERS.items()},
    "task.init_checkpoint": "init_checkpoint",
    "task.hub_module_url": {"classifier": "bert_hub_module_handle"},
    "task.metric_type": Words("best_metric", _METRICS),
    "task.model.num_classes": {"classifier": "num_classes"},
    "task.model.cls_heads": {"pretraining": _heads},
    "model.cls_heads": {"pretraining": _heads},
    "task.model.encoder.type": Fixed(["bert"], "bert"),
    "task.model.encoder.bert.num_layers": "num_hidden_layers",
    "task.model.encoder.bert.hidden_activation":
        Words("hidden_act", _ACTIVATIONS),
    "task.model.encoder.bert.dropout_rate": "hidden_dropout_prob",
    "task.model.encoder.bert.attention_dropout_rate":
        "attention_probs_dropout_prob",
    **{f"task.model.encoder.bert.{name}": name for name in (
        "vocab_size", "hidden_size", "num_attention_heads",
        "intermediate_size", "max_position_embeddings", "type_vocab_size",
        "initializer_range")},
    "task.model.encoder.bert.norm_first": Fixed(["false"], "false"),
    "task.model.encoder.bert.embedding_size": Refused(
        "word vectors are as wide as the layers: leave it out"),
    **dict.fromkeys((
        "task.model.encoder.bert.return_all_encoder_outputs",
        "task.model.encoder.bert.output_range",
        "task.model.use_encoder_pooler", "task.model.mlm_*", "task.name",
        "task.init_cls_pooler", "task.scale_loss",
        "task.allow_image_summary"), IGNORED),
    "task.differential_privacy*": Refused("it can't be had"),
    "trainer.train_steps": _TOTAL_STEPS,
    "trainer.validation_interval": "eval_every_steps",
    "trainer.validation_steps": {
        "classifier": IGNORED, "squad": IGNORED,
        # -1 is all of the data there.
        "pretraining": lambda leaf: [] if leaf.value == "-1" else [
            leaf._replace(key="max_eval_steps")]},
    "trainer.checkpoint_interval": "save_checkpoints_steps",
    "trainer.steps_per_loop": "iterations_per_loop",
    "trainer.summary_interval": "log_steps",
    "trainer.max_to_keep": "keep_checkpoint_max",
    "trainer.best_checkpoint_eval_metric": Words("best_metric", _METRICS),
    "trainer.best_checkpoint_metric_comp": Fixed(
        ["higher"], "higher, and lower for losses"),
    **dict.fromkeys((
        "trainer.best_checkpoint_export_subdir", "trainer.recovery_*",
        "trainer.preemption_on_demand_checkpoint", "trainer.train_tf_*",
        "trainer.eval_tf_*", "trainer.allow_tpu_summary",
        "trainer.validation_summary_subdir",
        "trainer.optimizer_config.learning_rate.*.decay_steps",
        "trainer.optimizer_config.*.name"), IGNORED),
    "trainer.optimizer_config.optimizer.type": "optimizer",
    "trainer.optimizer_config.optimizer.*.weight_decay_rate":
        Fixed(["0.01"], "0.01"),
    "trainer.optimizer_config.optimizer.*.exclude_from_weight_decay": _NO_DECAY,
    "trainer.optimizer_config.optimizer.*.include_in_weight_decay": IGNORED,
    "trainer.optimizer_config.optimizer.*.beta_1": Fixed(["0.9"], "0.9"),
    "trainer.optimizer_config.optimizer.*.beta_2": Fixed(["0.999"], "0.999"),
    # The Model Garden's default is 1e-7, and makes no difference to speak of.
    "trainer.optimizer_config.optimizer.*.epsilon":
        Fixed(["1e-6", "1e-7"], "1e-6"),
    "trainer.optimizer_config.optimizer.*.amsgrad": Fixed(["false"], "false"),
    "trainer.optimizer_config.optimizer.*.gradient_clip_norm":
        Fixed(["1"], "1"),
    "trainer.optimizer_config.optimizer.*.global_clipnorm": Fixed(["1"], "1"),
    "trainer.optimizer_config.ema*": Refused("it can't be had"),
    "trainer.optimizer_config.learning_rate.type":
        Words("lr_schedule", _SCHEDULES),
    "trainer.optimizer_config.learning_rate.*.initial_learning_rate":
        "learning_rate",
    "trainer.optimizer_config.learning_rate.constant.learning_rate":
        "learning_rate",
    "trainer.optimizer_config.learning_rate.*.end_learning_rate":
        Fixed(["0"], "0"),
    "trainer.optimizer_config.learning_rate.*.alpha": Fixed(["0"], "0"),
    "trainer.optimizer_config.learning_rate.*.power": Fixed(["1"], "1"),
    "trainer.optimizer_config.learning_rate.*.cycle": Fixed(["false"], "false"),
    "trainer.optimizer_config.learning_rate.*.offset": Fixed(["0"], "0"),
    "trainer.optimizer_config.warmup.type":
        Fixed(["linear", "polynomial"], "linear"),
    "trainer.optimizer_config.warmup.*.warmup_steps": _WARMUP_STEPS,
    "trainer.optimizer_config.warmup.*.power": Fixed(["1"], "1"),
    "trainer.optimizer_config.warmup.*.warmup_learning_rate":
        Fixed(["0"], "0"),
    "runtime.distribution_strategy": lambda leaf: (
        [leaf._replace(key="use_tpu", value="true", kind="bool")]
        if leaf.value == "tpu" else
        _check(Fixed(["mirrored", "one_device", "off", ""],
                     "one process; runtime.num_ranks starts more"), leaf)),
    "runtime.mixed_precision_dtype": Words("precision", _PRECISIONS),
    "runtime.enable_xla": "use_xla",
    "runtime.tpu": "tpu_name",
    "runtime.run_eagerly": Fixed(["false"], "false"),
    **{f"runtime.{name}": IGNORED for name in (
        "num_gpus", "all_reduce_alg", "num_packs", "worker_hosts", "task_index",
        "gpu_thread_mode", "dataset_num_private_threads",
        "per_gpu_thread_count", "tpu_enable_xla_dynamic_padder",
        "batchnorm_spatial_persistent",
        "num_cores_per_replica", "default_shard_dim", "use_tpu_mp_strategy")},
}

_CEREBRAS_INPUT = {
    "vocab_file": "vocab_file", "max_sequence_length": "max_seq_length",
    "do_lower": "do_lower_case",
    "add_special_tokens": Fixed(["true"], "true"),
    "data_processor": Words("task_name", _DATA_PROCESSORS),
    "data_dir": "tfds_folder",
    **dict.fromkeys(("shuffle", "shuffle_seed", "shuffle_buffer", "repeat",
                     "cache", "feature_rename_map", "invert_mask",
                     "disable_eval_metrics", "num_workers", "drop_last",
                     "prefetch_*", "persistent_workers"), IGNORED)}
_CEREBRAS = {
    "train_input.batch_size": "train_batch_size",
    "eval_input.batch_size": "eval_batch_size",
    "predict_input.batch_size": "predict_batch_size",
    **{f"*_input.{key}": value for key, value in _CEREBRAS_INPUT.items()},
    "model.num_cls_classes": IGNORED,
    "model.cls_dropout_rate": "dropout_before_logits",
    "model.num_heads": "num_attention_heads",
    "model.filter_size": "intermediate_size",
    "model.dropout_rate": "hidden_dropout_prob",
    "model.attention_dropout_rate": "attention_probs_dropout_prob",
    "model.encoder_nonlinearity": Words("hidden_act", _ACTIVATIONS),
    "model.num_segments": "type_vocab_size",
    "model.use_segment_embedding": Fixed(["true"], "true"),
    "model.use_position_embedding": Fixed(["true"], "true"),
    "model.position_embedding_type": Fixed(["learned"], "learned"),
    "model.mixed_precision": Words("precision",
                                   {"true": "fp16", "false": "fp32"}),
    "model.pretrain_params_path": Refused(
        "give that file before this one, as another --params"),
    **{f"model.{name}": IGNORED for name in (
        "layer_norm_epsilon", "initializer*", "disable_nsp", "boundary_casting",
        "tf_summary", "weight_initialization_seed", "dropout_seed",
        "enable_gpu_optimizations", "share_embedding_weights", "use_ffn_bias*",
        "use_projection_bias_in_attention", "attention_type", "nonlinearity",
        "mlm_*", "pooler_nonlinearity", "use_vsl", "embedding_initializer*",
        "num_cls_classes")},
    "optimizer.optimizer_type": "optimizer",
    "optimizer.weight_decay_rate": Fixed(["0.01"], "0.01"),
    "optimizer.epsilon": Fixed(["1e-6"], "1e-6"),
    "optimizer.eps": Fixed(["1e-6"], "1e-6"),
    "optimizer.beta1": Fixed(["0.9"], "0.9"),
    "optimizer.beta2": Fixed(["0.999"], "0.999"),
    "optimizer.use_bias_correction": Fixed(["false"], "false"),
    "optimizer.exclude_from_weight_decay": _NO_DECAY,
    "optimizer.max_gradient_norm": Fixed(["1"], "1"),
    "optimizer.max_gradient_value": Refused(
        "gradients are cut at a common norm of 1"),
    "optimizer.learning_rate": _learning_rate,
    "optimizer.loss_scaling_factor": Words(
        "scale_of_fp16", {"tf_dynamic": "dynamic"}),
    "optimizer.grad_accum_steps": "num_accumulation_steps",
    **{f"optimizer.{name}": IGNORED for name in (
        "log_summaries", "log_grads", "log_hists", "disable_lr_steps_reset",
        "initial_loss_scale", "steps_per_increase", "min_loss_scale",
        "max_loss_scale")},
    "runconfig.max_steps": _TOTAL_STEPS,
    "runconfig.model_dir": "output_dir",
    "runconfig.save_summary_steps": "log_steps",
    "runconfig.save_checkpoints_steps": "save_checkpoints_steps",
    "runconfig.keep_checkpoint_max": "keep_checkpoint_max",
    "runconfig.tf_random_seed": "random_seed",
    "runconfig.mode": IGNORED,
    "runconfig.cs_ip": Refused("there is no such machine: leave it out"),
    **{f"runconfig.{name}": IGNORED for name in (
        "eval_steps", "throttle_secs", "predict_steps", "log_step_count_steps",
        "enable_distributed", "multiple_workers", "num_wgt_servers",
        "num_csx", "eval_frequency", "seed")},
    "csconfig.use_cbfloat16": "cbfloat16",
    "csconfig.*": IGNORED,
}
_ALIASES = {**_MODEL_GARDEN, **_CEREBRAS}
# Where two of them fit, the longer one is meant.
_PATTERNS = sorted((key for key in _ALIASES if "*" in key), key=len,
                   reverse=True)


def find(key):
  """What a dotted name stands for, see above; None for an unknown one."""
  if key in _ALIASES:
    return _ALIASES[key]
  return next((_ALIASES[pattern] for pattern in _PATTERNS
               if fnmatch.fnmatchcase(key, pattern)), None)


def names():
  """List of the foreign names (string), without those of many forms."""
  return [key for key in _ALIASES if "*" not in key]


def is_section(key):
  """Whether other systems have names below this one (string)."""
  depth = key.count(".") + 1
  above = {".".join(name.split(".")[:depth]) for name in _ALIASES
           if name.count(".") >= depth}
  return find(key) is None and any(
      fnmatch.fnmatchcase(key, name) for name in above)


def _check(fixed, leaf):
  """Refuses what is not as it is here (ValueError); returns no Leaf."""
  value = leaf.value
  text = ",".join(map(str, value)) if isinstance(value, list) else value
  if leaf.kind == "null" or text in fixed.values or (
      leaf.kind == "bool" and text.lower() in fixed.values):
    return []
  try:
    if float(text) in [float(value) for value in fixed.values]:
      return []
  except (TypeError, ValueError):
    pass
  raise ValueError(f"{leaf.origin}: {leaf.key} is {text}, here it is "
                   f"{fixed.what}.")


def translate(alias, leaf, script):
  """Leafs of flags that a Leaf of another system stands for.

  Args:
    alias: what `find` returned.
    leaf: Leaf.
    script: string, "classifier", "squad" or "pretraining".

  Returns:
    List of Leaf; their keys are flags, sizes of the model or foreign values.
    None for what is IGNORED.

  Raises:
    ValueError: it can't be had.
  """
  if isinstance(alias, dict):
    if script not in alias:
      raise ValueError(f"{leaf.origin}: {leaf.key} means nothing in this "
                       f"experiment: leave it out.")
    alias = alias[script]
  if alias == IGNORED:
    return None
  if isinstance(alias, Refused):
    if leaf.kind == "null":
      return []
    raise ValueError(f"{leaf.origin}: {leaf.key}: {alias.why}.")
  if isinstance(alias, Fixed):
    return _check(alias, leaf)
  if leaf.kind == "null" or leaf.value == "":  # Their way of "none".
    return []
  if isinstance(alias, Words):
    value = alias.words.get(str(leaf.value).lower())
    return [leaf._replace(key=alias.flag, **(
        {} if value is None else {"value": value, "kind": "text"}))]
  if isinstance(alias, str):
    return [leaf._replace(key=alias)]
  return alias(leaf)


def finish(config, foreign, num_ranks):
  """Makes flags of foreign values.

  Args:
    config: Configuration; its flags are set.
    foreign: dict of foreign value -> Setting.
    num_ranks: int, ranks of the run.

  Raises:
    ValueError: it can't be done.
  """
  for name, make in (("warmup_steps", _finish_warmup),
                     ("global_batch_size", functools.partial(
                         _finish_batch, num_ranks=num_ranks)),
                     ("num_classes", _finish_classes),
                     ("head_width", _finish_head),
                     ("tfds_folder", _finish_folder),
                     ("cbfloat16", _finish_cbfloat16),
                     ("scale_of_fp16", _finish_scale)):
    if name in foreign:
      make(config, *foreign[name])


def _finish_warmup(config, value, origin):
  """Steps of warm-up as a share of all steps."""
  steps = config.value("max_steps")
  if steps is None:
    raise ValueError(f"{origin}: {value} steps of warm-up need a number of "
                     f"steps in all: trainer.max_steps (or give "
                     f"trainer.warmup_proportion).")
  if value > steps:
    raise ValueError(f"{origin}: {value} steps of warm-up are more than the "
                     f"{steps} steps in all: give trainer.warmup_proportion.")
  # Half a step more, for the share of the steps is rounded down.
  share = min((value + 0.5) / steps, 1.0) if value else 0.0
  config.set("warmup_proportion", float(f"{share:.9f}"), origin)


def _finish_batch(config, value, origin, num_ranks):
  """The batch of all ranks as that of each."""
  if value % num_ranks:
    raise ValueError(f"{origin}: a batch of {value} can't be shared out among "
                     f"{num_ranks} ranks: give trainer.train_batch_size, that "
                     f"of one rank.")
  config.set("train_batch_size", value // num_ranks, origin)
  if num_ranks > 1 and "scale_learning_rate" not in config.settings:
    # The rate was chosen for the batch of all ranks.
    config.set("scale_learning_rate", False, origin)


def _finish_classes(config, value, origin):
  """The labels of records of an unnamed task are their numbers."""
  if any(config.value(name) is not None for name in (
      "task_name", "meta_data_file", "labels")):
    return
  config.set("task_name", "custom", origin)
  if value == 1:
    config.set("regression", True, origin)
  else:
    config.set("labels", [str(number) for number in range(value)], origin)


def _finish_head(config, value, origin):
  """The head of a pretraining is as wide as the model."""
  width = config.sizes.get("hidden_size")
  if width and width.value != value:
    raise ValueError(f"{origin}: cls_heads: inner_dim is {value}, hidden_size "
                     f"{width.value}: here both are the same.")


def _finish_folder(config, value, origin):
  """A folder of GLUE's own files, or else one of TensorFlow Datasets."""
  if config.value("data_dir") or config.value("use_tfds"):
    return
  if os.path.exists(os.path.join(value, "train.tsv")):
    config.set("data_dir", value, origin)
    return
  task = re.sub(r"\W", "", config.value("task_name") or "").lower()
  config.set("use_tfds", f"glue/{task}", origin)
  config.set("tfds_dir", value, origin)


def _finish_cbfloat16(config, value, origin):
  """Which 16 bits mixed precision has."""
  if value:
    config.set("precision", "bf16", origin)


def _finish_scale(config, value, origin):
  """A factor of the loss is for fp16 alone."""
  if config.value("precision") == "fp16":
    config.set("loss_scale", value, origin)
