"""A container as a member of its function's pool: the inputs that it has, and what its agent tells of it."""

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
from squall.wire.messages import RAISED, Raised, Ready, Result, Revoked, StartFailed
from squall.worker.containers.managed_container import Hosted
from squall.worker.orders import Death

if TYPE_CHECKING:
    from squall.control.calls.pool import Pool

SIGKILL = 9


class Member(CallContainer):
    """Implements the agent's `Listener` for one container; decisions are the pool's."""

    def __init__(self, container: ContainerId, pool: "Pool", placement: Placement, now: float) -> None:
        super().__init__(container, now)
        self.id: ContainerId = container
        self.pool, self.placement = pool, placement
        self.hosted: Hosted | None = None
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

    def ready(self, message: Ready) -> None:
        self.import_s, self.enter_s = message.import_s, message.enter_s
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

    def died(self, death: Death) -> None:
        was = self.state
        self.state = ContainerState.STOPPED
        if was is ContainerState.STARTING:
            error = self.start_failure or self._by_entrypoint(death) or self.explain(death) or ContainerStartError("the container was lost while it started")
            self.pool.start_failed(self, error)
        else:
            self.pool.died(self, death)

    def _by_entrypoint(self, death: Death) -> Error | None:
        code, entrypoint = death.exit.exit_code, self.hosted.entrypoint if self.hosted is not None else ""
        if self.end_reason or code is None or death.exit.oom_killed or not entrypoint:
            return None
        return ContainerExitedError(
            f"the image's entrypoint, {entrypoint}, ended with exit code {code} before {words(self.pool.spec.tag)} began   ({self.id})\n"
            '  It has to execute its arguments, as a script does with  exec "$@"  - or leave it out with .entrypoint([])',
            container=self.id,
            exit_code=code,
        )

    def explain(self, death: Death) -> Error | None:
        """The error of an input that ran when the container died by itself; None when the platform is at fault."""
        exit, tag = death.exit, words(self.pool.spec.tag)
        limit = self.pool.spec.resources.memory_limit_mib
        if self.end_reason:
            return None
        if exit.oom_killed:
            allowed = f"{limit} MiB allowed" if limit else "no memory was left on the machine"
            peak = f", killed at {exit.memory_peak_bytes / MIB:.1f} MiB" if exit.memory_peak_bytes else ""
            advice = f"@app.function(memory={limit * 2})" if limit else "@app.function(memory=...)"
            return OutOfMemoryError(
                f"{tag} ran out of memory: {allowed}{peak}   ({self.id})\n  Raise it with {advice}, or see what grew: squall container logs {self.id}",
                container=self.id,
                limit_bytes=limit * MIB if limit else None,
                peak_bytes=exit.memory_peak_bytes,
            )
        if exit.exit_code is not None:
            return ContainerExitedError(f"{tag} ended its container with exit code {exit.exit_code}   ({self.id})", container=self.id, exit_code=exit.exit_code)
        if exit.signal is not None and exit.signal != SIGKILL:
            return ContainerKilledError(
                f"{tag} was ended by signal {exit.signal} ({signal_name(exit.signal)})   ({self.id})", container=self.id, signal=exit.signal
            )
        return None


def signal_name(number: int) -> str:
    """``SIGSEGV`` and so on."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
