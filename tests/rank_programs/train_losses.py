"""A training whose losses are given; that of rank 1 is bad at step 6.

In --output_dir the checkpoints are left, of which one is due at step 6.
"""

from absl import flags
import tensorflow as tf

from demo import estimator_helpers
from demo import horovod_helpers
from demo import script_helpers
from tests import estimator_helpers_test


def main(_):
  horovod_helpers.start_ranks(use_horovod=True, cpu_only=True)
  losses = [1.0] * 20
  losses[5] += 11.5 * horovod_helpers.hvd_rank()

  model_fn = estimator_helpers_test.model_of_losses(losses)
  args = estimator_helpers_test.run_flags(
      flags.FLAGS.output_dir, save_checkpoints_steps=3, loss_upper_bound=10.0)
  estimator_helpers.train(
      args, estimator_helpers.make_estimator(args, model_fn),
      lambda params: tf.data.Dataset.from_tensors({"x": tf.ones([4])}).repeat(),
      4, len(losses), "rate", first_synapse_step=30)


if __name__ == "__main__":
  flags.DEFINE_string("output_dir", None, "Folder of the checkpoints.")
  script_helpers.run(main, ["output_dir"])
