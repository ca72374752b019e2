# Licensed under the Apache License, Version 2.0 (see LICENSE and NOTICE).
"""What a server tells a client whose request it can't answer."""

# gRPC's status -> the one of HTTP, as TensorFlow Serving pairs them.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500}
_SHOWN_CHARACTERS = 300


class RequestError(Exception):
  """A request that gets a status instead of an answer.

  Attributes:
    status: string, a key of HTTP_STATUS.
    message: string, one line.
  """

  def __init__(self, status, message):
    """Takes the two; shortens a message that quotes much of the request."""
    assert status in HTTP_STATUS
    message = " ".join(str(message).split())
    if len(message) > _SHOWN_CHARACTERS:
      message = message[:_SHOWN_CHARACTERS] + "..."
    super().__init__(message)
    self.status = status
    self.message = message


def invalid(message):
  """RequestError of a request that can't be answered as it is."""
  return RequestError("INVALID_ARGUMENT", message)
