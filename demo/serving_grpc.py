# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""TensorFlow Serving's gRPC services.

PredictionService with Predict, Classify, Regress and GetModelMetadata,
ModelService with GetModelStatus, and gRPC's own health service. Messages are
parsed here, on the request's thread, so that one that can't be parsed gets
INVALID_ARGUMENT.

Source: the messages of tensorflow-serving-api 2.15.1.
"""

import functools
import math

from google.protobuf import any_pb2
from google.protobuf import message
import grpc
from grpc_health.v1 import health
from grpc_health.v1 import health_pb2
from grpc_health.v1 import health_pb2_grpc
import numpy as np
from tensorflow_serving.apis import classification_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import regression_pb2

from demo import export_helpers
from demo import serving_errors
from demo import serving_messages

_PREDICTION = "tensorflow.serving.PredictionService"
_MODEL = "tensorflow.serving.ModelService"
_METADATA_FIELD = "signature_def"


async def start(store, dispatcher, address, max_bytes):
  """Starts the services.

  Args:
    store: serving_models.ModelStore.
    dispatcher: serving_dispatch.Dispatcher.
    address: string, HOST:PORT, port 0 for any.
    max_bytes: int, of a request.

  Returns:
    (server, health servicer, port): grpc.aio.Server, which runs,
    health.aio.HealthServicer, and int.

  Raises:
    ValueError: the address can't be had.
  """
  server = grpc.aio.server(options=[
      ("grpc.max_receive_message_length", max_bytes),
      ("grpc.max_send_message_length", -1),
      # Two servers would share a port, and nobody would notice.
      ("grpc.so_reuseport", 0)])
  services = Services(store)
  for service, methods in (
      (_PREDICTION, {"Predict": services.predict,
                     "Classify": services.classify,
                     "Regress": services.regress,
                     "GetModelMetadata": services.metadata}),
      (_MODEL, {"GetModelStatus": services.status})):
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(
        service, {name: _handler(method, dispatcher)
                  for name, method in methods.items()})])
  healthy = health.aio.HealthServicer()
  health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
  try:
    port = server.add_insecure_port(address)
  except RuntimeError:
    port = 0
  if not port:
    raise ValueError(f"{address} can't be listened on: another program has the "
                     f"port, or the address is not of this machine.")
  await server.start()
  return server, healthy, port


async def set_health(healthy, names, is_serving):
  """Tells health checkers whether the server and its models serve."""
  status = health_pb2.HealthCheckResponse
  for name in ("", _PREDICTION, *names):
    await healthy.set(
        name, status.SERVING if is_serving else status.NOT_SERVING)


def _handler(method, dispatcher):
  """A handler of bytes that runs a method on a thread."""

  async def handle(request, context):
    timeout = context.time_remaining()
    if timeout is not None and not math.isfinite(timeout):
      timeout = None
    try:
      return await dispatcher.answer(
          "grpc", functools.partial(method, request), timeout)
    except serving_errors.RequestError as error:
      await context.abort(
          getattr(grpc.StatusCode, error.status), error.message)

  return grpc.unary_unary_rpc_method_handler(handle)


class Services(object):
  """The methods: functions of the request (bytes), a Call and the deadline.

  They return the response as bytes, see `serving_dispatch.Dispatcher.answer`.
  """

  def __init__(self, store):
    """Takes a serving_models.ModelStore."""
    self._store = store

  def predict(self, data, call, deadline):
    """Predict: tensors to tensors."""
    request = _parse(predict_pb2.PredictRequest, data)
    model = self._model(request.model_spec, call)
    signature = model.signature(request.model_spec.signature_name)
    wanted = set(request.output_filter) or set(signature.outputs)
    if not wanted <= set(signature.outputs):
      raise serving_errors.invalid(
          f"output_filter names {', '.join(wanted - set(signature.outputs))}; "
          f"signature {signature.name} has "
          f"{', '.join(sorted(signature.outputs))}.")
    inputs = {
        name: serving_messages.tensor_to_array(name, tensor, signature)
        for name, tensor in request.inputs.items()}
    outputs, call.rows, call.batches = signature.call(
        inputs, self._store.queue, deadline)
    response = predict_pb2.PredictResponse()
    _fill_spec(response.model_spec, model, signature.name)
    for name in wanted:
      response.outputs[name].CopyFrom(serving_messages.array_to_tensor(
          outputs[name], signature.outputs[name].dtype))
    return response.SerializeToString()

  def classify(self, data, call, deadline):
    """Classify: examples to labels with their scores."""
    request = _parse(classification_pb2.ClassificationRequest, data)
    model = self._model(request.model_spec, call)
    labels = model.labels()
    probabilities = self._call_examples(
        model, request.input, call, deadline)["probabilities"]
    response = classification_pb2.ClassificationResponse()
    _fill_spec(response.model_spec, model, export_helpers.SERVE_EXAMPLES)
    for row in probabilities.tolist():
      classes = response.result.classifications.add().classes
      for label, score in zip(labels, row):
        classes.add(label=label, score=score)
    return response.SerializeToString()

  def regress(self, data, call, deadline):
    """Regress: examples to numbers."""
    request = _parse(regression_pb2.RegressionRequest, data)
    model = self._model(request.model_spec, call)
    model.check_regression()
    outputs = self._call_examples(model, request.input, call, deadline)
    response = regression_pb2.RegressionResponse()
    _fill_spec(response.model_spec, model, export_helpers.SERVE_EXAMPLES)
    for value in np.ravel(next(iter(outputs.values()))).tolist():
      response.result.regressions.add(value=value)
    return response.SerializeToString()

  def metadata(self, data, call, deadline):
    """GetModelMetadata: the signatures."""
    del deadline
    request = _parse(get_model_metadata_pb2.GetModelMetadataRequest, data)
    model = self._model(request.model_spec, call)
    fields = set(request.metadata_field)
    if fields != {_METADATA_FIELD}:
      raise serving_errors.invalid(
          f"metadata_field has to be {_METADATA_FIELD!r}.")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    _fill_spec(response.model_spec, model)
    packed = any_pb2.Any()
    packed.Pack(serving_messages.signature_map(model))
    response.metadata[_METADATA_FIELD].CopyFrom(packed)
    return response.SerializeToString()

  def status(self, data, call, deadline):
    """GetModelStatus: which versions there are."""
    del deadline
    request = _parse(get_model_status_pb2.GetModelStatusRequest, data)
    found = serving_messages.status_response(
        self._store, request.model_spec.name, _version(request.model_spec))
    call.model = request.model_spec.name
    return found.SerializeToString()

  def _model(self, spec, call):
    """The model that a ModelSpec names; notes its name."""
    model = self._store.get(spec.name, _version(spec))
    call.model = model.name
    return model

  def _call_examples(self, model, given, call, deadline):
    """Runs a model on the examples of an Input."""
    kind = given.WhichOneof("kind")
    if kind is None:
      raise serving_errors.invalid("The request has no examples.")
    if kind == "example_list_with_context" and (
        given.example_list_with_context.HasField("context")):
      raise serving_errors.invalid("Examples with a context are not taken.")
    outputs, call.rows, call.batches = model.call_examples(
        getattr(given, kind).examples, self._store.queue, deadline)
    return outputs


def _parse(kind, data):
  """A message of a class (`kind`) of bytes."""
  try:
    return kind.FromString(data)
  except message.DecodeError:
    raise serving_errors.invalid(
        f"The request is not a {kind.DESCRIPTOR.name}.") from None


def _version(spec):
  """The version that a ModelSpec asks for, None for any."""
  if spec.WhichOneof("version_choice") == "version_label":
    raise serving_errors.RequestError(
        "NOT_FOUND", f"There is no version label {spec.version_label!r}.")
  return spec.version.value if spec.HasField("version") else None


def _fill_spec(spec, model, signature_name=""):
  """Says which model answered."""
  spec.name, spec.signature_name = model.name, signature_name
  spec.version.value = model.version
