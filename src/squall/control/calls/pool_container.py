"""A container as a member of its function's pool: the inputs that it has, and what its agent tells of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from squall.core.calls import outcomes
from squall.core.calls.state import CallContainer, Input
from squall.core.placement import Placement
from squall.model.errors import (
    ContainerExitedError,
    ContainerKilledError,
    ContainerStartError,
    Error,
    OutOfMemoryError,
)
from squall.model.ids import ContainerId
from squall.model.options import words
from squall.model.resources import MIB
from squall.model.states import ContainerState
from squall.wire.agent import BecameReady, Died, Started, ToContainer
from squall.wire.messages import RAISED, Raised, Rejoin, Result, Revoked, StartFailed

if TYPE_CHECKING:
    from squall.control.calls.pool import Pool
    from squall.control.nodes.node_link import NodeLink

SIGKILL = 9


class Member(CallContainer):
    """Implements the `Listener` of its node's link; decisions are the pool's."""

    def __init__(self, container: ContainerId, pool: "Pool", placement: Placement, now: float) -> None:
        super().__init__(container, now)
        self.id: ContainerId = container
        self.pool, self.placement = pool, placement
        #: With the agent of the machine that it is on.
        self.link: NodeLink = pool.router.link_of(placement.node)
        #: Says something to its runner.
        self.tell: Callable[[ToContainer], None] = _to_nobody
        #: When its agent was told to start it; its process, when that runs; and the seconds of the steps of its start, when it is ready.
        self.ordered_at = now
        self.process: Started | None = None
        self.phases: dict[str, float] = {}
        #: Set when nothing of it is left.
        self.ended = asyncio.Event()
        self.import_s = 0.0
        self.enter_s = 0.0
        self.start_failure: StartFailed | None = None
        #: Why it stopped; what its row in the store says; whether that is being written.
        self.reason = ""
        self.recorded: ContainerState | None = None
        self.recording = False

    # Listener

    def could_not_start(self, error: Error) -> None:
        self.state = ContainerState.STOPPED
        self.pool.start_failed(self, error)
        self._over()

    def begun(self, process: Started) -> None:
        self.process = process

    def ready(self, ready: BecameReady) -> None:
        self.import_s, self.enter_s, self.phases = ready.import_s, ready.enter_s, ready.phases
        self.pool.started.set()
        self.pool.feed(outcomes.ready, self, self.pool.router.now())

    def start_failed(self, message: StartFailed) -> None:
        self.start_failure = message
        if self.pool.web and message.status == RAISED:
            # Who asked through the web is told nothing of the code, so its owner must find it in the log.
            with suppress(msgspec.DecodeError):
                raised = msgspec.msgpack.decode(message.data, type=Raised)
                self._log(None, 2, f"{raised.text.rstrip()}\n".encode())

    def result(self, message: Result) -> None:
        self.pool.result(self, message)

    def printed(self, token: int, stream: int, data: bytes) -> None:
        self._log(self.running.get(token), stream, data)

    def _log(self, item: Input | None, stream: int, data: bytes) -> None:
        self.pool.router.printed(self.pool, self, item, stream, data)

    def revoked(self, message: Revoked) -> None:
        self.pool.feed(outcomes.revoked, self, message.tokens, self.pool.router.now())

    def rejoined(self, message: Rejoin) -> None:
        """It is a member already: what it had was told before."""

    def died(self, death: Died) -> None:
        was = self.state
        self.state = ContainerState.STOPPED
        if was is ContainerState.STARTING:
            error = self.start_failure or self._by_entrypoint(death) or self.explain(death) or ContainerStartError("the container was lost while it started")
            self.pool.start_failed(self, error)
        else:
            self.pool.died(self, death)
        self._over()

    def _over(self) -> None:
        self.tell = _to_nobody  # ended calls are remembered with their container, and not with what its agent has had of it
        self.ended.set()

    def _by_entrypoint(self, death: Died) -> Error | None:
        code, entrypoint = death.exit_code, self.process.entrypoint if self.process is not None else ""
        if self.end_reason or code is None or death.oom_killed or not entrypoint:
            return None
        return ContainerExitedError(
            f"the image's entrypoint, {entrypoint}, ended with exit code {code} before {words(self.pool.spec.tag)} began   ({self.id})\n"
            '  It has to execute its arguments, as a script does with  exec "$@"  - or leave it out with .entrypoint([])',
            container=self.id,
            exit_code=code,
        )

    def explain(self, death: Died) -> Error | None:
        """The error of an input that ran when the container died by itself; None when the platform is at fault."""
        tag = words(self.pool.spec.tag)
        limit = self.pool.spec.resources.memory_limit_mib
        if self.end_reason:
            return None
        if death.oom_killed:
            request, peak = self.pool.spec.resources.memory_request_mib, death.memory_peak_bytes
            if not limit and peak is not None and peak <= request * MIB:
                return None  # it had no more than it was promised: others had too much
            return OutOfMemoryError(
                f"{tag} ran out of memory: {_memory_told(request, limit, peak)}   ({self.id})\n"
                f"  Raise it with @app.function(memory={_enough_mib(limit or request, peak)}), or see what grew: squall container logs {self.id}",
                container=self.id,
                limit_bytes=limit * MIB if limit else None,
                peak_bytes=peak,
            )
        if (code := death.exit_code) is not None:
            return ContainerExitedError(f"{tag} ended its container with exit code {code}   ({self.id})", container=self.id, exit_code=code)
        if death.signal is not None and (death.from_inside or death.signal != SIGKILL):
            return ContainerKilledError(
                f"{tag} was ended by signal {death.signal} ({signal_name(death.signal)})   ({self.id})", container=self.id, signal=death.signal
            )
        return None


def _memory_told(request: int, limit: int | None, peak: int | None) -> str:
    if limit:
        return f"{limit} MiB allowed" + (f", killed at {peak / MIB:.1f} MiB" if peak else "")
    used = f"had {peak / MIB:.1f} MiB" if peak else "had more"
    return f"{request} MiB asked for, and it {used} when containers had all memory of the machine that they may have together"


def _enough_mib(had: int, peak: int | None) -> int:
    """Twice what it had, or what it is known to need and a quarter."""
    return max(2 * had, round(1.25 * (peak or 0) / MIB))


def _to_nobody(message: ToContainer) -> None:
    """It is not there."""


def signal_name(number: int) -> str:
    """``SIGSEGV`` and so on."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
