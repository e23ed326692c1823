"""What is ended on purpose: inputs that are cancelled or take too long, containers that are not wanted any more, whole pools."""

from squall.core.calls.commands import Drop, End, Fail, Halt, HandOver, Kill, Shutdown, TakeBack
from squall.core.calls.state import CallContainer, Calls, Input
from squall.model.errors import Error, FunctionTimeoutError
from squall.model.options import words
from squall.model.states import ContainerState, InputState
from squall.wire.messages import CANCELLED

#: Inputs sent ahead come back when their container has shown no result for so long.
STUCK_S = 0.05
#: User code that was told to stop and does not is ended with its container after this.
STOP_GRACE_S = 5.0
#: Exit hooks of classes may take this long (Modal's rule).
EXIT_GRACE_S = 30.0


def cancel(calls: Calls, item: Input, now: float, error: Error | None = None) -> None:
    """Stop an input: a queued one at once, a running one as soon as its code can be stopped. `error`: what it ends with instead of a cancellation."""
    if item.state is InputState.QUEUED:
        calls.move(item, InputState.CANCELLED, now, "cancelled while it waited")
        end_stopped(calls, item, error, now)
        return
    container, token = item.container, item.token
    if container is None or token not in container.running:
        return
    item.pending_error = error
    if error is None:
        calls.move(item, InputState.CANCELLED, now, "told to stop")
    else:
        calls.move(item, item.state, now, f"told to stop ({error.code})")
    calls.commands.append(Halt(item, container, token, STOP_GRACE_S))


def end_stopped(calls: Calls, item: Input, error: Error | None, now: float) -> None:
    """An input that was to be stopped has stopped."""
    if error is None:
        calls.commands.append(End(item, CANCELLED, b""))
    else:
        calls.move(item, InputState.FAILED, now, error.code)
        calls.commands.append(Fail(item, error))


def grace_over(calls: Calls, container: CallContainer, token: int) -> None:
    """The time of a `Halt` is over: if the code has not stopped, its container ends."""
    if token in container.running:
        kill_container(calls, container, "its input did not stop")


def end_container(calls: Calls, container: CallContainer, reason: str, grace_s: float = EXIT_GRACE_S) -> None:
    """End a container on purpose. Exit hooks of classes run; what it still had runs elsewhere. Idempotent."""
    if container.end_reason:
        return
    container.end_reason = reason
    starting = container.state is ContainerState.STARTING
    if not starting:
        container.state = ContainerState.DRAINING
    calls.free.pop(container, None)
    if calls.runs_exit_hooks and not starting and grace_s > 0:
        cancelled = tuple(token for token, item in container.running.items() if item.state is InputState.CANCELLED)
        calls.commands.append(Shutdown(container, cancelled, grace_s))
    else:
        calls.commands.append(Kill(container))


def kill_container(calls: Calls, container: CallContainer, reason: str) -> None:
    """End a ready container at once, without its exit hooks; what it has runs elsewhere. It gets nothing new until its death is told."""
    container.end_reason = container.end_reason or reason
    container.state = ContainerState.DRAINING
    calls.free.pop(container, None)
    calls.commands.append(Kill(container))


def timeout_error(calls: Calls) -> Error:
    """What an input ends with that took too long."""
    return FunctionTimeoutError(f"{words(calls.spec.tag)} ran longer than its timeout of {calls.spec.timeout_s:g} s")


def check(calls: Calls, now: float) -> bool:
    """Once in a while, while something runs: timeouts, stuck containers. Whether there is something to watch."""
    watched = False
    for container in list(calls.containers.values()):
        if container.state is ContainerState.STARTING:
            watched = True
            limit = calls.spec.startup_timeout_s or calls.spec.timeout_s
            if now - container.created > limit and not container.end_reason:
                calls.commands.append(Kill(container))
        if container.running:
            watched = True
            _check_running(calls, container, now)
    return watched


def _check_running(calls: Calls, container: CallContainer, now: float) -> None:
    running = container.running
    if len(running) > calls.limit and now - container.last_result > STUCK_S:
        container.last_result = now
        calls.commands.append(TakeBack(container, tuple(running)[calls.limit :]))
    for item in list(running.values())[: calls.limit]:
        if now - item.started > calls.longest_s and item.pending_error is None:
            cancel(calls, item, now, timeout_error(calls))


def replace(calls: Calls, *, has_successor: bool) -> None:
    """A new version has come, and gets what waits; what runs ends here, and each container with its last input. Without a successor the function has gone."""
    calls.replaced, calls.has_successor = True, has_successor
    if has_successor:
        calls.commands.extend(HandOver(item) for item in calls.take_queue())
    for container in list(calls.containers.values()):
        if not container.running and not (calls.queue and container.state is ContainerState.STARTING):
            end_container(calls, container, "replaced by a new version")


def close(calls: Calls, now: float, reason: str, *, keep: bool = False) -> None:
    """The app ends: queued inputs are cancelled, containers end. `keep`: inputs that outlive the server get no end."""
    calls.closed = True
    for item in (*calls.take_queue(), *calls.delayed):
        if item.state is InputState.QUEUED and not (keep and item.survives):
            calls.move(item, InputState.CANCELLED, now, reason)
            calls.commands.append(Drop(item))
    for container in list(calls.containers.values()):
        for item in container.running.values():
            if not (keep and item.survives):
                calls.move(item, InputState.CANCELLED, now, reason)
        end_container(calls, container, reason)
