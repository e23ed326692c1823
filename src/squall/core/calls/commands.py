"""What a machine asks of whoever feeds it: each command is one thing to do outside, in the order in which they were given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from squall.model.errors import Error

if TYPE_CHECKING:
    from squall.core.calls.state import CallContainer, Input


class Command(msgspec.Struct, frozen=True, gc=False):
    """One thing to do."""


class Begin(Command, frozen=True, gc=False):
    """An attempt begins: the store is told of a durable input's token, then the container gets the input."""

    input: Input
    container: CallContainer


class End(Command, frozen=True, gc=False):
    """The input has this outcome; `status` and `data` as in the wire's `Output`."""

    input: Input
    status: int
    data: bytes


class Fail(Command, frozen=True, gc=False):
    """The input ends with an error of the platform."""

    input: Input
    error: Error


class Drop(Command, frozen=True, gc=False):
    """The app of a queued input ends; the store is told of all of them at once."""

    input: Input


class HandOver(Command, frozen=True, gc=False):
    """The input goes to the pool that has replaced this one."""

    input: Input


class AwaitResend(Command, frozen=True, gc=False):
    """The input is to be run again, with what its client will send."""

    input: Input


class Requeued(Command, frozen=True, gc=False):
    """The attempt of a durable input was lost by the platform: the store is told."""

    input: Input


class AttemptFailed(Command, frozen=True, gc=False):
    """An attempt has failed, and another one follows: with an error, with a status and data of the wire, or by the platform's fault (None)."""

    input: Input
    outcome: Error | tuple[int, bytes] | None


class RetryLater(Command, frozen=True, gc=False):
    """Feed `dispatch.retry_due` after so many seconds."""

    input: Input
    delay_s: float


class Halt(Command, frozen=True, gc=False):
    """Ask the code of an input to stop; feed `endings.grace_over` after so many seconds."""

    input: Input
    container: CallContainer
    token: int
    grace_s: float


class TakeBack(Command, frozen=True, gc=False):
    """Ask a container for inputs that it has not begun; `outcomes.revoked` tells which came back."""

    container: CallContainer
    tokens: tuple[int, ...]


class Kill(Command, frozen=True, gc=False):
    """End a container now; `outcomes.died` follows."""

    container: CallContainer


class Shutdown(Command, frozen=True, gc=False):
    """Let a container run its exit hooks, after it has stopped the cancelled inputs of these tokens; kill it after so many seconds."""

    container: CallContainer
    cancelled: tuple[int, ...]
    grace_s: float


class Forget(Command, frozen=True, gc=False):
    """A container is no member of the pool any more: its room is given back, and its end is recorded with this reason."""

    container: CallContainer
    reason: str


class Changed(Command, frozen=True, gc=False):
    """A container's state has changed: it is to be recorded."""

    container: CallContainer


class Watch(Command, frozen=True, gc=False):
    """Something runs: feed `endings.check` every now and then."""


class Rescale(Command, frozen=True, gc=False):
    """Look at the number of containers."""


class LookAgain(Command, frozen=True, gc=False):
    """Look at the number of containers at that time, unless that happens earlier anyway."""

    at: float


class AwaitStore(Command, frozen=True, gc=False):
    """Feed `dispatch.drain` when the store has caught up."""
