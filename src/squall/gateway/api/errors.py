"""Errors in HTTP: a status by who has to act next, and one form of body."""

from typing import Any

from squall.model.errors import AuthError, ConflictError, Error, InvalidError, NotFoundError, PermissionDeniedError, RequestSizeError, ResourceExhaustedError
from squall.model.errors import TimeoutError as SquallTimeoutError


def status_of(error: Error) -> int:
    """HTTP's word for an error, by who has to act next."""
    for kind, status in STATUS:
        if isinstance(error, kind):
            return status
    return 500


STATUS: tuple[tuple[type[Error], int], ...] = (
    (AuthError, 401), (PermissionDeniedError, 403), (NotFoundError, 404), (ConflictError, 409), (InvalidError, 400), (RequestSizeError, 413),
    (ResourceExhaustedError, 503), (SquallTimeoutError, 504),
)  # fmt: skip


def problem(error: Error) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error)}}
