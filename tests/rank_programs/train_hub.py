"""run_classifier_with_tfhub.py; each rank saves what its variables become.

Takes the script's flags. In --output_dir, <rank>.npz then holds all variables
by name.
"""

from absl import flags
import numpy as np
import tensorflow as tf

import run_classifier_with_tfhub
from demo import horovod_helpers
from demo import script_helpers


class SaveHook(tf.estimator.SessionRunHook):
  """Saves the variables after a training."""

  def end(self, session):
    np.savez(f"{flags.FLAGS.output_dir}/{horovod_helpers.hvd_rank()}.npz",
             **session.run({var.op.name: var for var in
                            tf.compat.v1.global_variables()}))


def main(argv):
  """The script's `main`, with the hook among its own."""
  own_hooks = horovod_helpers.broadcast_hooks
  horovod_helpers.broadcast_hooks = lambda: own_hooks() + [SaveHook()]
  run_classifier_with_tfhub.main(argv)


if __name__ == "__main__":
  run_classifier_with_tfhub.init_classifier_with_tfhub_flags()
  script_helpers.run(main, [])
