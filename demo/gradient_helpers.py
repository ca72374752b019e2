# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Gradients beyond `tf.gradients`: of batches in parts, of a scaled loss."""

import tensorflow as tf

from demo import layer_helpers
import modeling

# What `training_states` holds; prefix of the graph collections behind it.
LOSS_SCALE, SKIPPED_STEPS = "loss_scale", "skipped_steps"
_STATES = "training_states/"

# Of the dynamic loss scale, see `LossScale`.
_GOOD_STEPS = "good_steps"
_FIRST_VALUE, _LEAST_VALUE = 2.0 ** 15, 1.0
_STEPS_TO_DOUBLE = 2000


class SplitLoss(object):
  """The mean loss of the parts of a batch, with its gradients.

  Attributes:
    value: float32 scalar.
    scale: LossScale or None; the gradients are those of the scaled loss.
  """

  def __init__(self, value, scale, gradients, slices_norm):
    """Takes what `in_parts` has computed.

    Args:
      value: see the class, as the next one.
      scale: LossScale or None.
      gradients: list of (variable, gradient or None, is_sliced).
      slices_norm: float32 scalar, norm of all sliced gradients as they were
        before those of one row were added up, without the loss scale.
    """
    self.value, self.scale = value, scale
    self._slices_norm = slices_norm
    self._gradients = {var.ref(): grad for var, grad, _ in gradients}
    self._is_sliced = [is_sliced for _, _, is_sliced in gradients]

  def gradients(self, var_list):
    """Returns what `tf.gradients` would of the whole batch, dense."""
    return [self._gradients[var.ref()] for var in var_list]

  def global_norm(self, gradients):
    """The norm that clipping would see if the batch were one (scalar).

    One rank counts each use of a row of the embedding table as a gradient of
    its own.

    Args:
      gradients: list, those of all variables, without the loss scale.
    """
    return tf.linalg.global_norm(
        [self._slices_norm] + [
            grad for grad, is_sliced in zip(gradients, self._is_sliced)
            if not is_sliced])


def in_parts(scalars_of, features, options):
  """Computes the loss of a batch, part by part where it is to be one of many.

  With several parts their gradients are added up as they come, so that a batch
  takes no more memory than one part and a copy of the variables.

  Args:
    scalars_of: function of a dict of features that builds the model and returns
      a dict of float32 scalars, the mean "loss" among them. It is called for a
      graph of its own too, so it takes all tensors from the features.
    features: dict name -> tensor [N * B, ...], N parts of B rows.
    options: option_helpers.Options; num_accumulation_steps is N.

  Returns:
    Dict: what `scalars_of` gives for one part; for several the means, and
    "loss" is a SplitLoss.
  """
  count = options.num_accumulation_steps
  if count == 1:
    return scalars_of(features)
  parts = {name: _split(value, count) for name, value in features.items()}
  scale = loss_scale(options)
  names, shapes = _outline(scalars_of, parts, options)
  kinds = []  # Of each gradient (variable, class), known within the loop.

  def add_part(index, sums, total, squares):
    """One turn of the loop."""
    tf.compat.v1.add_to_collection(
        modeling.MICRO_BATCH, tf.cast(index, tf.int64))
    scalars = scalars_of({name: value[index] for name, value in parts.items()})
    variables = layer_helpers.trained_variables(options.freeze_layers)
    gradients = tf.gradients(scaled(scalars["loss"], scale), variables)
    kinds[:] = [(var, type(grad)) for var, grad in zip(variables, gradients)]
    for grad in gradients:
      if isinstance(grad, tf.IndexedSlices):
        squares += tf.reduce_sum(tf.square(grad.values))
    return (index + 1,
            [_add(one, grad) for one, grad in zip(sums, gradients)],
            [one + scalars[name] for one, name in zip(total, names)],
            squares)

  _, sums, total, squares = tf.while_loop(
      lambda index, *_: index < count, add_part,
      [0, [zeros(shape) for shape in shapes], [0.0] * len(names), 0.0],
      parallel_iterations=1)
  means = {name: one / count for name, one in zip(names, total)}
  gradients = [
      (var, None if kind is type(None) else one / count,
       kind is tf.IndexedSlices) for one, (var, kind) in zip(sums, kinds)]
  slices_norm = tf.sqrt(squares) / count
  if scale:  # Clipping comes after the division by it.
    slices_norm /= scale.value
  means["loss"] = SplitLoss(means["loss"], scale, gradients, slices_norm)
  return means


def zeros(shape):
  """Zeros of a tf.TensorShape, float32, that are made when they are used.

  TensorFlow would compute `tf.zeros` beforehand, and the session would keep
  them: as much memory again as a model's gradients or its optimizer's slots.
  """
  zero = tf.random.uniform([], 0, 1, tf.int32, seed=0)  # A draw of one number.
  return tf.fill(shape, tf.cast(zero, tf.float32))


def _split(value, count):
  """A tensor [N * B, ...] as [N, B, ...]; N is `count`."""
  parts = tf.reshape(
      value, tf.concat([[count, -1], tf.shape(value)[1:]], axis=0))
  rows = value.shape[0] and value.shape[0] // count
  parts.set_shape([count, rows] + value.shape[1:].as_list())
  return parts


def _outline(scalars_of, parts, options):
  """What the loop has to be given before it can be built.

  Returns:
    (names, shapes): of the scalars, and of the trained variables.
  """
  with tf.Graph().as_default():
    scalars = scalars_of({
        name: tf.compat.v1.placeholder(value.dtype, value.shape[1:])
        for name, value in parts.items()})
    return list(scalars), [
        var.shape
        for var in layer_helpers.trained_variables(options.freeze_layers)]


def _add(total, grad):
  """A sum (dense) and one gradient more."""
  if grad is None:
    return total
  if isinstance(grad, tf.IndexedSlices):
    return tf.tensor_scatter_nd_add(
        total, grad.indices[:, tf.newaxis], grad.values)
  return total + grad


def loss_value(loss):
  """The float32 scalar of a loss, which may be a SplitLoss."""
  return loss.value if isinstance(loss, SplitLoss) else loss


def gradients_of(loss, var_list):
  """`tf.gradients` of a loss, which may be a SplitLoss."""
  if isinstance(loss, SplitLoss):
    return loss.gradients(var_list)
  return tf.gradients(loss, var_list)


def loss_scale(options):
  """The LossScale that options ask for; None without."""
  if options.precision != "fp16":
    return None
  return LossScale(options.loss_scale or "dynamic")


def training_states():
  """What the current graph's training keeps beside its variables, for hooks.

  Returns:
    Dict name -> scalar tensor of the step; empty without a loss scale.
  """
  states = {name: tf.compat.v1.get_collection(_STATES + name)
            for name in (LOSS_SCALE, SKIPPED_STEPS)}
  return {name: found[-1] for name, found in states.items() if found}


def state_names(scale):
  """The variables of a loss scale, a number, "dynamic" or None for that."""
  names = [SKIPPED_STEPS]
  if scale in (None, "dynamic"):
    names += [LOSS_SCALE, _GOOD_STEPS]
  return [f"optimizer/{name}" for name in names]


def scaled(loss, scale):
  """What to take the gradients of.

  Args:
    loss: float32 scalar, or SplitLoss, which is scaled already.
    scale: LossScale or None.
  """
  if scale is None or isinstance(loss, SplitLoss):
    return loss
  return loss * scale.value


class LossScale(object):
  """Keeps small gradients of a 16-bit computation from becoming 0.

  The loss is multiplied by it, the gradients are divided by it. A step whose
  gradients are not finite changes no variable and is counted. The dynamic
  scale begins with 2^15, is doubled after 2000 good steps in a row and halved,
  down to 1, by a step that is not.

  Attributes:
    value: float32 scalar.

  Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
  """

  def __init__(self, scale):
    """Adds its variables to the graph.

    Args:
      scale: float, or "dynamic".
    """
    self._is_dynamic = scale == "dynamic"
    self._skipped = self._state(SKIPPED_STEPS, 0, tf.int64)
    if self._is_dynamic:
      self._scale = self._state(LOSS_SCALE, _FIRST_VALUE, tf.float32)
      self._good_steps = self._state(_GOOD_STEPS, 0, tf.int64)
      self.value = self._scale.read_value()
    else:
      self.value = tf.constant(scale, tf.float32)

  @staticmethod
  def _state(name, first, dtype):
    return tf.compat.v1.get_variable(
        f"optimizer/{name}", [], dtype, trainable=False,
        initializer=tf.constant_initializer(first))

  def unscaled(self, gradients):
    """Divides gradients (list of tensor, IndexedSlices or None) by it."""
    return [
        None if grad is None else
        tf.IndexedSlices(grad.values / self.value, grad.indices,
                         grad.dense_shape)
        if isinstance(grad, tf.IndexedSlices) else grad / self.value
        for grad in gradients]

  def update_if_finite(self, norm, update):
    """Updates the variables, or skips a step, and moves the scale.

    Args:
      norm: float32 scalar, norm of the gradients of all ranks, so that all
        skip alike.
      update: function that builds the op of the update.

    Returns:
      Operation.
    """
    is_finite = tf.math.is_finite(norm)

    def updated():
      with tf.control_dependencies([update()]):
        return tf.constant(True)

    skipped = self._skipped + tf.cast(~is_finite, tf.int64)
    assignments = [tf.cond(is_finite, updated, lambda: tf.constant(False)),
                   self._skipped.assign(skipped)]
    if self._is_dynamic:
      good = (self._good_steps + 1) * tf.cast(is_finite, tf.int64)
      is_due = good >= _STEPS_TO_DOUBLE
      moved = tf.where(
          is_finite, self.value * tf.where(is_due, 2.0, 1.0),
          tf.maximum(self.value / 2.0, _LEAST_VALUE))
      assignments += [self._scale.assign(moved),
                      self._good_steps.assign(good % _STEPS_TO_DOUBLE)]
    for name, state in ((LOSS_SCALE, self.value), (SKIPPED_STEPS, skipped)):
      tf.compat.v1.summary.scalar(name, state)
      tf.compat.v1.add_to_collection(_STATES + name, state)
    return tf.group(*assignments)
