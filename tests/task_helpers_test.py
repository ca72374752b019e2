"""Tests of demo/task_helpers.py."""

import pytest

from demo import task_helpers
import run_classifier
from tests import conftest
from tests import finetuning_helpers_test


class FindTaskTest:

  def task(self, *argv):
    with conftest.parsed(
        run_classifier.init_classifier_flags, *argv) as args:
      return task_helpers.TaskFinder(
          args, run_classifier.PROCESSORS, run_classifier.find_processor,
          run_classifier.InputExample).find()[0]

  @pytest.mark.parametrize("argv, message", [
      (["--task_name=sst2", "--do_export", "--do_eval"],
       "--task_name=sst2 needs --data_dir"),
      (["--task_name=sst2", "--data_dir=d", "--train_file=x.csv"],
       "--train_file: not used with --task_name=sst2"),
      (["--task_name=sst2", "--data_dir=d", "--tfds_dir=x"], "--tfds_dir: not"),
      (["--task_name=custom", "--tfds_dir=x"], "--tfds_dir: not used"),
      (["--data_dir=d"], "--task_name has to be given"),
      (["--use_tfds=glue/sst2", "--task_name=rte"], "are different tasks"),
      (["--use_tfds=imdb_reviews", "--task_name=rte"], "is not of this task"),
      (["--use_tfds=glue"], "one of glue/cola, glue/mnli"),
      (["--use_tfds=glue/xnli"], "one of glue/cola"),
      (["--use_tfds=glue/sst2", "--labels=a,b"], "--labels: not used with"),
      (["--use_tfds=imdb_reviews", "--dev_file=x"], "--dev_file: not used")])
  def test_flags_that_do_not_go_together(self, argv, message):
    with pytest.raises(ValueError, match=message):
      self.task(*argv)

  @pytest.mark.parametrize("argv, task", [
      (["--use_tfds=glue/sst2"], "sst2"),
      (["--use_tfds=glue/sst2:2.0.0", "--task_name=SST-2"], "sst2"),
      (["--use_tfds=imdb_reviews"], "custom"),
      (["--task_name=Custom", "--train_file=x"], "custom"),
      (["--task_name=STS-B", "--data_dir=d"], "stsb"),
      (["--task_name=STS-B", "--do_export"], "stsb")])
  def test_task(self, argv, task):
    assert self.task(*argv) == task


class RecordTaskTest:

  def test_tells_the_task(self, tmp_path):
    task, processor = finetuning_helpers_test.find_by_meta_data(
        tmp_path, dict(processor_type="RTE", has_sample_weights=True))
    assert task == "rte" and not processor.is_regression
    assert processor.get_labels() == ["entailment", "not_entailment"]
    assert processor._has_sample_weights
    task, processor = finetuning_helpers_test.find_by_meta_data(
        tmp_path, dict(processor_type="PAWS-X", num_labels=3))
    assert (task, processor.get_labels()) == ("paws-x", ["0", "1", "2"])
    task, processor = finetuning_helpers_test.find_by_meta_data(tmp_path, dict(
        task_type="bert_regression", processor_type="STS-B", num_labels=0,
        label_type="float"))
    assert (task, processor.get_labels()) == ("stsb", [])
    assert processor.is_regression

  @pytest.mark.parametrize("name, values, task, labels", [
      ("glue/mrpc", {}, "mrpc", ["0", "1"]),
      ("glue/rte:2.0.0", {}, "rte", ["entailment", "not_entailment"]),
      ("glue/mnli", {}, "mnli", ["entailment", "neutral", "contradiction"]),
      ("glue/mnli", {"task_name": "MNLI", "data_dir": "d"}, "mnli",
       ["entailment", "neutral", "contradiction"]),
      ("snli", {}, "tfds_snli", ["0", "1", "2"])])
  def test_classes_of_tfds_keep_their_order(
      self, name, values, task, labels, tmp_path):
    found, processor = finetuning_helpers_test.find_by_meta_data(
        tmp_path, dict(processor_type=f"TFDS_{name}", num_labels=len(labels)),
        **values)
    assert (found, processor.get_labels()) == (task, labels)

  def test_task_name_wins_where_it_fits(self, tmp_path):
    task, processor = finetuning_helpers_test.find_by_meta_data(
        tmp_path, task_name="MRPC")
    assert (task, processor.get_labels()) == ("mrpc", ["0", "1"])
    task, processor = finetuning_helpers_test.find(
        finetuning_helpers_test.arguments(
            train_records="x", task_name="STS-B"))
    assert task == "stsb" and processor.is_regression

  @pytest.mark.parametrize("meta_data, values, message", [
      ({}, dict(task_name="MNLI"), "--task_name=MNLI has 3 labels, the records "
       "of --meta_data_file"),
      ({}, dict(task_name="STS-B"), "has numbers as labels, the records"),
      ({}, dict(train_records=""), "is of records, and there are none")])
  def test_what_does_not_fit_is_refused(
      self, meta_data, values, message, tmp_path):
    with pytest.raises(ValueError) as error:
      finetuning_helpers_test.find_by_meta_data(tmp_path, meta_data, **values)
    assert message in str(error.value)
