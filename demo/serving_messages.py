# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""Between TensorFlow Serving's messages and arrays.

Source: the messages of tensorflow-serving-api 2.15.1.
"""

import math

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2

from demo import serving_errors

# Where values of a type stand in a TensorProto.
_FIELDS = {tf.int32: "int_val", tf.string: "string_val",
           tf.float32: "float_val"}


def tensor_to_array(name, tensor, signature):
  """Reads a tensor of a request.

  Args:
    name: string, the input.
    tensor: TensorProto.
    signature: serving_signatures.Signature.

  Returns:
    Array, int32, float32 or object (bytes).

  Raises:
    serving_errors.RequestError: it is not what the signature takes.
  """
  spec = signature.inputs.get(name)
  if spec is None:  # The signature says which there are.
    return np.zeros([0])
  dtype = _dtype(tensor.dtype)
  if dtype != spec.dtype:
    raise serving_errors.invalid(
        f"{name} is {dtype.name if dtype else 'of no type'}, signature "
        f"{signature.name} takes {spec.dtype.name}.")
  shape = [dim.size for dim in tensor.tensor_shape.dim]
  count = math.prod(shape)
  values = getattr(tensor, _FIELDS[spec.dtype])
  # A tensor of one value may claim any size.
  size = (len(tensor.tensor_content) // spec.dtype.size
          if tensor.tensor_content and spec.dtype != tf.string else len(values))
  if (tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0 or
      count != size):
    raise serving_errors.invalid(
        f"{name} has {size} values for the shape {shape}.")
  try:
    return tf.make_ndarray(tensor).reshape(shape)
  except (ValueError, TypeError):
    raise serving_errors.invalid(f"{name} can't be read.") from None


def array_to_tensor(array, dtype):
  """TensorProto of an array, its values in the field of their type.

  TensorFlow Serving fills that field too, and clients read it.
  """
  tensor = tensor_pb2.TensorProto(
      dtype=dtype.as_datatype_enum,
      tensor_shape=tf.TensorShape(array.shape).as_proto())
  getattr(tensor, _FIELDS[dtype]).extend(array.ravel().tolist())
  return tensor


def status_response(store, name, version=None):
  """GetModelStatusResponse of a model, or of one version of it.

  Raises:
    serving_errors.RequestError: there is none.
  """
  response = get_model_status_pb2.GetModelStatusResponse()
  kinds = get_model_status_pb2.ModelVersionStatus
  for number, state in sorted(store.states(name).items(), reverse=True):
    if version not in (None, number):
      continue
    found = response.model_version_status.add(
        version=number, state=kinds.State.Value(state.state))
    found.status.SetInParent()
    if state.error:
      found.status.error_code = grpc.StatusCode.UNKNOWN.value[0]
      found.status.error_message = state.error
  if not response.model_version_status:
    raise serving_errors.RequestError(
        "NOT_FOUND", f"Model {name} has no version {version}.")
  return response


def signature_map(model):
  """SignatureDefMap of a model, with the signatures that the server adds."""
  found = get_model_metadata_pb2.SignatureDefMap()
  for name, signature in model.signatures.items():
    definition = found.signature_def[name]
    definition.method_name = tf.saved_model.PREDICT_METHOD_NAME
    for specs, infos in ((signature.inputs, definition.inputs),
                         (signature.outputs, definition.outputs)):
      for key, spec in specs.items():
        infos[key].name = key
        infos[key].dtype = spec.dtype.as_datatype_enum
        infos[key].tensor_shape.CopyFrom(
            tf.TensorShape(spec.shape).as_proto())
  return found


def _dtype(number):
  """The tf.DType of a number, None for a number of none."""
  try:
    return tf.as_dtype(number)
  except TypeError:
    return None
