"""A training of two ranks that patience ends, and whose evaluations are slow.

In --output_dir each rank leaves <rank>.txt with the step where it ended.
"""

import os
import time

from absl import flags
import tensorflow as tf

from demo import curve_helpers
from demo import estimator_helpers
from demo import evaluation_helpers
from demo import horovod_helpers
from demo import script_helpers
from tests import evaluation_helpers_test


class StepHook(tf.estimator.SessionRunHook):
  """Writes the step where the training ends."""

  def end(self, session):
    path = f"{flags.FLAGS.output_dir}/{horovod_helpers.hvd_rank()}.txt"
    script_helpers.write_text(path, str(session.run(
        tf.compat.v1.train.get_global_step())))


class SlowScorer(evaluation_helpers_test.Scorer):
  """Longer at the first checkpoint than Horovod lets ranks wait."""

  def __call__(self, path):
    if not self.calls:
      patience = float(os.environ["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"])
      end = time.monotonic() + 1.5 * patience
      while time.monotonic() < end:
        time.sleep(0.1)
        self.after_batch()
    return super().__call__(path)


def main(_):
  horovod_helpers.start_ranks(use_horovod=True, cpu_only=True)
  evaluation_helpers._WORD_SECONDS = 0.5
  # Drawing comes after the decision, and on a busy machine takes longer than
  # the few seconds that ranks may wait here.
  curve_helpers.write_learning_curve = lambda output_dir: None
  own_hooks = horovod_helpers.broadcast_hooks
  horovod_helpers.broadcast_hooks = lambda: own_hooks() + [StepHook()]
  args = evaluation_helpers_test.run_flags(
      flags.FLAGS.output_dir, early_stopping_patience=1)
  estimator_helpers.train(
      args,
      estimator_helpers.make_estimator(args, evaluation_helpers_test.model_fn),
      lambda params: tf.data.Dataset.from_tensors({"x": tf.ones([4])}).repeat(),
      4, 20, "rate", first_synapse_step=30,
      evaluation=evaluation_helpers.within_training(
          args, evaluation_helpers_test.METRICS,
          SlowScorer() if horovod_helpers.is_chief() else None))


if __name__ == "__main__":
  flags.DEFINE_string("output_dir", None, "Folder of the checkpoints.")
  script_helpers.run(main, ["output_dir"])
