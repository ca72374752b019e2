# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Adam with weight decay and LAMB, their learning-rate schedules and the
training op.

Source: google-research/bert (commit cc7051dc); Habana's BERT fine-tuning
changes for Horovod and the update's form; Loshchilov and Hutter 2017,
"Decoupled Weight Decay Regularization", for the decay; You et al. 2020, "Large
Batch Optimization for Deep Learning: Training BERT in 76 minutes", for LAMB.
"""

import re

import tensorflow as tf

from demo import gradient_helpers
from demo import layer_helpers
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
  the ranks. Step t uses the rate of t, then the counter becomes t + 1, also
  where a loss scale skips the step. A step is an update, of however many
  batches.

  Args:
    loss: float32 scalar, or the `gradient_helpers.SplitLoss` of several
      batches.
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
      global_step, init_lr, num_train_steps, num_warmup_steps,
      options.lr_schedule)
  tf.compat.v1.add_to_collection(LEARNING_RATE, learning_rate)
  tf.compat.v1.summary.scalar("learning_rate", learning_rate)

  tvars = layer_helpers.trained_variables(options.freeze_layers)
  rate_factors = layer_helpers.rate_factors(
      [var.op.name for var in tvars], options.layerwise_lr_decay)
  # What the published models were pretrained with; only the Adam slots are
  # not in their checkpoints.
  optimizer = _OPTIMIZERS[options.optimizer](
      learning_rate, weight_decay_rate=0.01, beta_1=0.9, beta_2=0.999,
      exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
      epsilon=1e-6, rate_factors=rate_factors, is_compiled=options.fused_ops)
  adam = optimizer
  if horovod_enabled():
    optimizer = hvd.DistributedOptimizer(
        optimizer, sparse_as_dense=True, **reduction_options())
  if use_tpu:
    optimizer = tf.compat.v1.tpu.CrossShardOptimizer(optimizer)

  is_split = isinstance(loss, gradient_helpers.SplitLoss)
  scale = loss.scale if is_split else gradient_helpers.loss_scale(options)
  grads_and_vars = optimizer.compute_gradients(
      gradient_helpers.scaled(loss, scale), tvars)
  grads, tvars = zip(*grads_and_vars)
  if scale:
    grads = scale.unscaled(grads)
  # What several ranks have exchanged is dense for a whole batch too.
  norm = (loss.global_norm(grads) if is_split and not horovod_enabled()
          else None)
  if options.fused_ops:
    norm = tf.linalg.global_norm(grads) if norm is None else norm
    adam.gradient_factor = _clip_factor(norm)
  else:
    grads, norm = tf.clip_by_global_norm(grads, clip_norm=1.0, use_norm=norm)

  # The optimizer leaves the step alone, so it is raised here, before the
  # update. The update must still use the rate of the old step, and the
  # Estimator's hooks count on reading the old step too (read now and then
  # late, it seems to stand still, and they warn): hence the first edge.
  step_reads = tf.compat.v1.get_collection(_STEP_READS)
  with tf.control_dependencies([learning_rate] + step_reads):
    step_is_raised = global_step.assign(global_step + 1)
  def update():
    return optimizer.apply_gradients(
        zip(grads, tvars), global_step=global_step)

  with tf.control_dependencies([step_is_raised]):
    return scale.update_if_finite(norm, update) if scale else update()


def _clip_factor(norm):
  """What clipping to a global norm of 1 multiplies gradients by (scalar)."""
  # Infinite gradients become NaN, as tf.clip_by_global_norm has it.
  return tf.minimum(1.0 / norm, 1.0) + (norm - norm)


def _learning_rate(global_step, init_lr, num_train_steps, num_warmup_steps,
                   lr_schedule="linear"):
  """The rate of a step (float32 scalar).

  A linear warm-up, then down to 0 in a line that begins at step 0; constant; or
  down to 0 in half a cosine that begins where the warm-up ends.
  """
  rate = tf.constant(init_lr, shape=[], dtype=tf.float32)
  if lr_schedule == "linear":
    decayed = tf.compat.v1.train.polynomial_decay(
        rate, global_step, num_train_steps, end_learning_rate=0.0, power=1.0,
        cycle=False)
  elif lr_schedule == "cosine":
    decayed = tf.compat.v1.train.cosine_decay(
        rate, tf.maximum(global_step - num_warmup_steps, 0),
        max(num_train_steps - num_warmup_steps, 1))
  else:
    decayed = rate
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

  Attributes:
    gradient_factor: float32 scalar or None, what `apply_gradients` multiplies
      all gradients by.

  Source: upstream symbol; see CHANGES.
  """

  _slot_names = ("adam_m", "adam_v")

  def __init__(self,
               learning_rate,
               weight_decay_rate=0.0,
               beta_1=0.9,
               beta_2=0.999,
               epsilon=1e-6,
               exclude_from_weight_decay=None,
               name="AdamWeightDecayOptimizer",
               rate_factors=None,
               is_compiled=False):
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
      rate_factors: dict variable name -> float or None, what the learning
        rate of a variable is multiplied by; 1 where it has no entry.
      is_compiled: bool, XLA updates a variable and its slots in one pass and
        in place.
    """
    super().__init__(False, name)
    self.gradient_factor = None
    # The same code, once for all variables of a shape.
    self._assign_next = tf.function(
        self._next, jit_compile=True, autograph=False
    ) if is_compiled else self._next
    self._rate_factors = rate_factors or {}
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
      loss: float32 scalar, or SplitLoss.
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
    return list(zip(gradient_helpers.gradients_of(loss, var_list), var_list))

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
    """Assignments to one variable and its slots."""
    name = self._get_variable_name(param.name)
    m, v = self._zeros_beside(param, name, *self._slot_names)
    return self._assign_next(
        grad, param, m, v, self._rate(name), self._scalars(),
        self._do_use_weight_decay(name), self._is_excluded(name))

  def _scalars(self):
    """What all updates of a step share: dict of float32 scalars."""
    return ({} if self.gradient_factor is None else
            {"gradient_factor": self.gradient_factor})

  def _next(self, grad, param, m, v, rate, scalars, decays, is_excluded):
    """Assigns the next values of a variable and its slots."""
    del is_excluded
    next_m, next_v = self._averages(grad, m, v, scalars)
    # Equal to m / (sqrt(v) + eps) where v is far above eps squared, at most
    # sqrt(2) times as large where it isn't, and one operation cheaper.
    update = next_m * tf.math.rsqrt(next_v + self.epsilon * self.epsilon)
    if decays:
      update += self.weight_decay_rate * param
    return [param.assign(param - rate * update), m.assign(next_m),
            v.assign(next_v)]

  def _zeros_beside(self, param, param_name, *names):
    """Variables of a variable's shape, beside it, that begin with 0."""
    return [
        tf.compat.v1.get_variable(
            f"{param_name}/{slot}", dtype=tf.float32, trainable=False,
            initializer=lambda: gradient_helpers.zeros(param.shape))
        for slot in names]

  def _averages(self, grad, m, v, scalars):
    """The averages of gradients and squared gradients, with one more."""
    if "gradient_factor" in scalars:
      grad *= scalars["gradient_factor"]
    return (self.beta_1 * m + (1.0 - self.beta_1) * grad,
            self.beta_2 * v + (1.0 - self.beta_2) * tf.square(grad))

  def _rate(self, param_name):
    """The learning rate of a variable of this name (string)."""
    factor = self._rate_factors.get(param_name, 1.0)
    return self.learning_rate if factor == 1.0 else factor * self.learning_rate

  def _do_use_weight_decay(self, param_name):
    """Whether a variable of this name (string) decays."""
    return bool(self.weight_decay_rate) and not self._is_excluded(param_name)

  def _get_variable_name(self, param_name):
    """Cuts the output number off: "dense/bias:0" -> "dense/bias"."""
    return re.sub(r":\d+$", "", param_name)

  def _is_excluded(self, param_name):
    """Whether `exclude_from_weight_decay` matches a name (string)."""
    return any(re.search(pattern, param_name)
               for pattern in self.exclude_from_weight_decay or ())


class LambOptimizer(AdamWeightDecayOptimizer):
  """LAMB: Adam with bias correction whose steps are as long as weights are.

  The update of a variable w is u = m' / (sqrt(v') + epsilon) + decay * w, its
  step is rate * |w| / |u| * u, and rate * u where one of the norms is 0. What
  does not decay (biases, layer norms) takes the step rate * u too, as in the
  authors' program; the paper says nothing of it.

  Source: You et al. 2020 (arXiv 1904.00962), algorithm 2, phi being the
  identity as in its experiments.
  """

  _slot_names = ("lamb_m", "lamb_v")

  def __init__(self, *args, name="LambOptimizer", **kwargs):
    """Takes what AdamWeightDecayOptimizer does."""
    super().__init__(*args, name=name, **kwargs)

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    """See the base class. Counts the updates in `optimizer/lamb_updates`."""
    updates = tf.compat.v1.get_variable(
        "optimizer/lamb_updates", [], tf.int64, trainable=False,
        initializer=tf.zeros_initializer())
    count = updates + 1
    self._bias_corrections = {
        f"correction_{number}": 1.0 - tf.pow(beta, tf.cast(count, tf.float32))
        for number, beta in ((1, self.beta_1), (2, self.beta_2))}
    return tf.group(
        super().apply_gradients(grads_and_vars, global_step),
        updates.assign(count), name=name)

  def _scalars(self):
    return {**super()._scalars(), **self._bias_corrections}

  def _next(self, grad, param, m, v, rate, scalars, decays, is_excluded):
    """See the base class."""
    next_m, next_v = self._averages(grad, m, v, scalars)
    update = (next_m / scalars["correction_1"]) / (
        tf.sqrt(next_v / scalars["correction_2"]) + self.epsilon)
    if decays:
      update += self.weight_decay_rate * param
    step = rate * update
    if not is_excluded:
      weight_norm, update_norm = tf.norm(param), tf.norm(update)
      step *= tf.where((weight_norm > 0.0) & (update_norm > 0.0),
                       weight_norm / update_norm, 1.0)
    return [param.assign(param - step), m.assign(next_m), v.assign(next_v)]


_OPTIMIZERS = {"adamw": AdamWeightDecayOptimizer, "lamb": LambOptimizer}
