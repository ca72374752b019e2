# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Adam with weight decay, its learning-rate schedule and the training op.

Source: google-research/bert (commit cc7051dc); Habana's BERT fine-tuning
changes for Horovod and the update's form; Loshchilov and Hutter 2017,
"Decoupled Weight Decay Regularization", for the decay.
"""

import re

import tensorflow as tf

from demo import option_helpers
from demo.horovod_helpers import horovod_enabled, hvd, reduction_options

# Graph collection that holds the learning rate of the step, for hooks.
LEARNING_RATE = "learning_rate"
# Where TensorFlow keeps the tensor through which its hooks read the step.
_STEP_READS = "global_step_read_op_cache"


def create_optimizer(loss, init_lr, num_train_steps, num_warmup_steps, use_tpu,
                     options=option_helpers.UPSTREAM):
  """Builds the op that does one training step.

  The rate rises linearly from 0 over the warm-up and falls linearly to 0 over
  `num_train_steps` (no jump is smoothed out: the fall counts from step 0).
  Gradients are clipped to a global norm of 1, after they were averaged over
  the ranks. Step t uses the rate of t, then the counter becomes t + 1.

  Args:
    loss: float32 scalar.
    init_lr: float, peak learning rate.
    num_train_steps: int, steps of the whole training.
    num_warmup_steps: int, steps of the warm-up; 0 for none.
    use_tpu: bool, sum gradients over TPU cores.
    options: option_helpers.Options, what upstream doesn't have.

  Returns:
    Operation: updates the variables and adds 1 to the global step.

  Source: upstream symbol; see CHANGES.
  """
  global_step = tf.compat.v1.train.get_or_create_global_step()
  learning_rate = _learning_rate(
      global_step, init_lr, num_train_steps, num_warmup_steps)
  tf.compat.v1.add_to_collection(LEARNING_RATE, learning_rate)
  tf.compat.v1.summary.scalar("learning_rate", learning_rate)

  # What the published models were pretrained with; only the Adam slots are
  # not in their checkpoints.
  optimizer = AdamWeightDecayOptimizer(
      learning_rate, weight_decay_rate=0.01, beta_1=0.9, beta_2=0.999,
      exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
      epsilon=1e-6)
  if horovod_enabled():
    optimizer = hvd.DistributedOptimizer(
        optimizer, sparse_as_dense=True, **reduction_options())
  if use_tpu:
    optimizer = tf.compat.v1.tpu.CrossShardOptimizer(optimizer)

  grads_and_vars = optimizer.compute_gradients(
      loss, tf.compat.v1.trainable_variables())
  grads, tvars = zip(*grads_and_vars)
  grads, _ = tf.clip_by_global_norm(grads, clip_norm=1.0)

  # The optimizer leaves the step alone, so it is raised here, before the
  # update. The update must still use the rate of the old step, and the
  # Estimator's hooks count on reading the old step too (read now and then
  # late, it seems to stand still, and they warn): hence the first edge.
  step_reads = tf.compat.v1.get_collection(_STEP_READS)
  with tf.control_dependencies([learning_rate] + step_reads):
    step_is_raised = global_step.assign(global_step + 1)
  with tf.control_dependencies([step_is_raised]):
    return optimizer.apply_gradients(
        zip(grads, tvars), global_step=global_step)


def _learning_rate(global_step, init_lr, num_train_steps, num_warmup_steps):
  """The rate of a step (float32 scalar): linear warm-up, linear decay to 0."""
  rate = tf.constant(init_lr, shape=[], dtype=tf.float32)
  decayed = tf.compat.v1.train.polynomial_decay(
      rate, global_step, num_train_steps, end_learning_rate=0.0, power=1.0,
      cycle=False)
  if not num_warmup_steps:
    return decayed
  step = tf.cast(global_step, tf.float32)
  warmup_steps = tf.constant(num_warmup_steps, dtype=tf.float32)
  warm = rate * (step / warmup_steps)
  return tf.where(step < warmup_steps, warm, decayed)


class AdamWeightDecayOptimizer(tf.compat.v1.train.Optimizer):
  """Adam without bias correction, with decay added to the update.

  Decay is not added to the loss: in Adam the running averages would then
  scale it, and it would not act like decay.

  Source: upstream symbol; see CHANGES.
  """

  def __init__(self,
               learning_rate,
               weight_decay_rate=0.0,
               beta_1=0.9,
               beta_2=0.999,
               epsilon=1e-6,
               exclude_from_weight_decay=None,
               name="AdamWeightDecayOptimizer"):
    """Takes the values as they are.

    Args:
      learning_rate: float or float32 scalar tensor.
      weight_decay_rate: float, share of a weight added to its update.
      beta_1: float, decay of the average of gradients.
      beta_2: float, decay of the average of squared gradients.
      epsilon: float, keeps the division finite.
      exclude_from_weight_decay: list of regular expressions or None; a
        variable whose name one of them matches anywhere does not decay.
      name: string, name of the optimizer.
    """
    super().__init__(False, name)
    self.learning_rate = learning_rate
    self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
    self.weight_decay_rate = weight_decay_rate
    self.exclude_from_weight_decay = exclude_from_weight_decay

  def compute_gradients(self,
                        loss,
                        var_list=None,
                        gate_gradients=tf.compat.v1.train.Optimizer.GATE_OP,
                        aggregation_method=None,
                        colocate_gradients_with_ops=False,
                        grad_loss=None):
    """Returns [(gradient or None, variable)]; Horovod averages what it gives.

    Args:
      loss: float32 scalar.
      var_list: list of variables.
      gate_gradients: GATE_OP, nothing else.
      aggregation_method: None, nothing else.
      colocate_gradients_with_ops: False, nothing else.
      grad_loss: None, nothing else.

    Raises:
      AssertionError: an argument that this optimizer doesn't support.

    Source: added by Habana.
    """
    assert gate_gradients == tf.compat.v1.train.Optimizer.GATE_OP, (
        "only GATE_OP is supported")
    assert aggregation_method is None, "aggregation_method is not supported"
    assert not colocate_gradients_with_ops, (
        "colocate_gradients_with_ops is not supported")
    assert grad_loss is None, "grad_loss is not supported"
    return list(zip(tf.gradients(loss, var_list), var_list))

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    """Returns the op that updates the variables.

    Args:
      grads_and_vars: iterable of (gradient or None, variable); without a
        gradient a variable gets no slots and no update.
      global_step: not used; `create_optimizer` raises the step.
      name: string or None, name of the op.
    """
    assignments = []
    for grad, param in grads_and_vars:
      if grad is None or param is None:
        continue
      assignments.extend(self._update(tf.convert_to_tensor(grad), param))
    return tf.group(*assignments, name=name)

  def _update(self, grad, param):
    """Assignments to one variable and its slots `adam_m` and `adam_v`."""
    param_name = self._get_variable_name(param.name)
    m, v = (
        tf.compat.v1.get_variable(
            f"{param_name}/{slot}", shape=param.shape.as_list(),
            dtype=tf.float32, trainable=False,
            initializer=tf.zeros_initializer())
        for slot in ("adam_m", "adam_v"))
    next_m = self.beta_1 * m + (1.0 - self.beta_1) * grad
    next_v = self.beta_2 * v + (1.0 - self.beta_2) * tf.square(grad)
    # Equal to m / (sqrt(v) + eps) where v is far above eps squared, at most
    # sqrt(2) times as large where it isn't, and one operation cheaper.
    update = next_m * tf.math.rsqrt(next_v + self.epsilon * self.epsilon)
    if self._do_use_weight_decay(param_name):
      update += self.weight_decay_rate * param
    return [param.assign(param - self.learning_rate * update),
            m.assign(next_m), v.assign(next_v)]

  def _do_use_weight_decay(self, param_name):
    """Whether a variable of this name (string) decays."""
    if not self.weight_decay_rate:
      return False
    return not any(re.search(pattern, param_name)
                   for pattern in self.exclude_from_weight_decay or ())

  def _get_variable_name(self, param_name):
    """Cuts the output number off: "dense/bias:0" -> "dense/bias"."""
    return re.sub(r":\d+$", "", param_name)
