"""Errors as messages."""

import msgspec

from squall.model.errors import Error
from squall.wire.messages import Fault


def fault(request: int, error: Error) -> Fault:
    """An error as the answer to a request."""
    return Fault(request, error.code, str(error), error.details())


def pack_fault(error: Error) -> bytes:
    """An error as the payload of a FAILED output."""
    return msgspec.msgpack.encode(fault(0, error))
