"""What containers tell: results, inputs that come back, starts that succeed or fail, deaths."""

from squall.core.calls.commands import AttemptFailed, Changed, End, Fail, Forget, Rescale
from squall.core.calls.dispatch import drain, refill, requeue
from squall.core.calls.endings import end_container, end_stopped, kill_container, timeout_error
from squall.core.calls.generators import after_items, interrupted
from squall.core.calls.state import AHEAD_MAX, CallContainer, Calls, Input
from squall.core.retry import Again, after_platform_failure, after_user_failure
from squall.model.errors import Error, InternalFailure
from squall.model.options import words
from squall.model.states import ContainerState, InputState
from squall.wire.messages import CANCELLED, OK, RAISED

#: Inputs are sent ahead to a busy container only when they take less than this: then the wait behind others is shorter than a wake-up.
AHEAD_RUN_S = 0.0005
#: Sent ahead: at most so much expected work.
AHEAD_WORK_S = 0.003
#: After failed starts in a row the next one waits, doubling up to the second figure.
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 30.0

_RESCALE = Rescale()
_ENDS = {OK: InputState.SUCCEEDED, CANCELLED: InputState.CANCELLED}


def item_sent(calls: Calls, container: CallContainer, token: int) -> Input | None:
    """An item of a generator has come. The input whose caller gets it; None where nobody does: the token is stale, or the container sent more than it may."""
    item = container.running.get(token)
    if item is None:
        return None
    item.credit -= 1
    if item.credit < -1 and not item.readopted:  # a runner sends one item without any; more than it may would lie in our memory
        kill_container(calls, container, "it sent more items than it was asked for")
        return None
    return item


def result(calls: Calls, container: CallContainer, token: int, status: int, data: bytes, seconds: float, now: float) -> None:
    """An attempt has ended with a status of the wire. A token that is not running in this container is stale and has no effect."""
    item = container.running.pop(token, None)
    if item is None:
        return
    container.last_result = now
    container.inputs_done += 1
    if container.inputs_done == 1:
        container.first_input_s = seconds
    first = item.started < container.warm_at and not calls.spec.single_use
    if first:
        _measure_first(calls, container, seconds, now)
    if not first or seconds < AHEAD_RUN_S:  # a quick first input is like any other
        _measure(calls, seconds)
    if container.running and calls.limit == 1:
        next(iter(container.running.values())).started = now
    if status == OK:
        calls.move(item, InputState.SUCCEEDED, now)
        calls.commands.append(End(item, OK, data))
    else:
        _ended_badly(calls, item, status, data, seconds, now)
    if container.state is not ContainerState.READY:
        return
    if calls.spec.single_use:
        end_container(calls, container, "single use")
        return
    refill(calls, container, now)


def _ended_badly(calls: Calls, item: Input, status: int, data: bytes, seconds: float, now: float) -> None:
    if item.pending_error is not None:
        failed(calls, item, item.pending_error, now)
    elif status == RAISED and _retry(calls, item, now, "its code raised an exception", (status, data)):
        pass
    elif status == CANCELLED and item.readopted and item.state is not InputState.CANCELLED:
        # An earlier server told it to stop, and took along why.
        if seconds >= calls.spec.timeout_s:
            failed(calls, item, timeout_error(calls), now)
        else:
            lost(calls, item, now, "an earlier server had told it to stop")
    else:
        _end(calls, item, status, data, now)


def _end(calls: Calls, item: Input, status: int, data: bytes, now: float) -> None:
    calls.move(item, _ENDS.get(status, InputState.FAILED), now)
    calls.commands.append(End(item, status, data))


def _measure(calls: Calls, seconds: float) -> None:
    mean = calls.mean_run_s
    mean = calls.mean_run_s = seconds if mean is None else mean + 0.1 * (seconds - mean)
    calls.ahead = min(AHEAD_MAX, int(AHEAD_WORK_S / max(mean, 1e-6))) if mean < AHEAD_RUN_S and calls.may_run_ahead else 0


def _measure_first(calls: Calls, container: CallContainer, seconds: float, now: float) -> None:
    container.warm_at = min(container.warm_at, now)
    calls.first_run_s = seconds if calls.first_run_s is None else 0.5 * (calls.first_run_s + seconds)


def _retry(calls: Calls, item: Input, now: float, why: str, outcome: Error | tuple[int, bytes]) -> bool:
    if item.delivered or item.state is InputState.CANCELLED:
        return False
    again = after_user_failure(item.attempts - item.lost, calls.spec.retries)
    if isinstance(again, Again):
        calls.commands.append(AttemptFailed(item, outcome))
        requeue(calls, item, now, why, delay_s=again.delay_s)
        return True
    return False


def failed(calls: Calls, item: Input, error: Error, now: float) -> None:
    """An attempt ended with an error of the platform's making that the user may retry (timeout, exit, out of memory)."""
    if not _retry(calls, item, now, f"its attempt ended: {error.code}", error):
        _fail(calls, item, after_items(error, item.delivered) if item.delivered else error, now)


def lost(calls: Calls, item: Input, now: float, why: str) -> None:
    """An attempt ended without an outcome, by the platform's fault."""
    item.lost += 1
    if item.delivered or isinstance(after_platform_failure(item.lost), Again):
        if not item.delivered:
            calls.commands.append(AttemptFailed(item, None))
        _run_again(calls, item, now, why)
    else:
        _fail(calls, item, InternalFailure(f"{words(calls.spec.tag)} was given up: its container was lost {item.lost} times"), now)


def _run_again(calls: Calls, item: Input, now: float, why: str) -> None:
    """At the head of the queue; a generator that has given items is not run again, since its caller would get them twice."""
    if item.delivered:
        container = item.container.id if item.container is not None else ""
        _fail(calls, item, interrupted(words(calls.spec.tag), item.delivered, container), now)
    else:
        requeue(calls, item, now, why, front=True)


def _fail(calls: Calls, item: Input, error: Error, now: float) -> None:
    calls.move(item, InputState.FAILED, now, error.code)
    calls.commands.append(Fail(item, error))


def revoked(calls: Calls, container: CallContainer, tokens: tuple[int, ...], now: float) -> None:
    """Inputs came back that had not begun: cancelled ones end, the others go to whoever is free."""
    for token in reversed(tokens):
        item = container.running.pop(token, None)
        if item is None:
            continue
        item.attempts -= 1
        if item.pending_error is not None or item.state is InputState.CANCELLED:
            end_stopped(calls, item, item.pending_error, now)
        else:
            _run_again(calls, item, now, f"{container.id} gave it back")
    if container.leaving and container.state is ContainerState.READY:
        refill(calls, container, now)
    drain(calls, now)


def ready(calls: Calls, container: CallContainer, now: float) -> None:
    """A container takes inputs from now on."""
    container.ready_at = container.idle_since = container.last_result = now
    took = now - container.created
    calls.start_s = took if calls.start_s is None else 0.5 * (calls.start_s + took)
    calls.failures = 0
    if container.state is not ContainerState.STARTING or container.end_reason:  # it was ordered to end while that was on its way
        return
    container.state = ContainerState.READY
    calls.commands.append(Changed(container))
    refill(calls, container, now)


def start_failed(calls: Calls, container: CallContainer, now: float) -> list[Input]:
    """It never became ready: the next start waits longer each time.

    Returns what is to end with its error (`end_waiting`): the inputs that wait, unless another container can serve them.
    """
    forget(calls, container, "could not start")
    ending: list[Input] = []
    if not container.end_reason:
        calls.failures += 1
        calls.not_before = now + min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (calls.failures - 1))
        if not any(other.state is ContainerState.READY for other in calls.containers.values()):
            ending = calls.take_queue()
    calls.commands.append(_RESCALE)
    return ending


def end_waiting(calls: Calls, items: list[Input], outcome: Error | tuple[int, bytes], now: float) -> None:
    """These waited, and end with an error, or with a status and data of the wire."""
    for item in items:
        if isinstance(outcome, Error):
            _fail(calls, item, outcome, now)
        else:
            _end(calls, item, *outcome, now)


def died(calls: Calls, container: CallContainer, reason: str, error: Error | None, last_token: int, now: float) -> None:
    """A ready container ended. The input that it was at has failed with `error`, or is run again if the platform lost it (None); those behind it run elsewhere.

    Args:
        last_token: the attempt that it was at, as far as that is known; 0: unknown.
    """
    forget(calls, container, container.end_reason or reason)
    inputs = list(container.running.values())
    container.running.clear()
    # Only runners that take one input after another say which they were at; of the others, and of one that said nothing, it is the first ones.
    at_fault = {last_token} if last_token else {item.token for item in inputs[: calls.limit]}
    if inputs and at_fault.isdisjoint(item.token for item in inputs):
        # It died between two inputs, or does not tell the truth. The next one was lost, which may happen to it a few times and not for ever.
        at_fault, error = {item.token for item in inputs[: calls.limit]}, None
    for item in reversed(inputs):
        if item.pending_error is not None:
            failed(calls, item, item.pending_error, now)
        elif item.state is InputState.CANCELLED:
            calls.commands.append(End(item, CANCELLED, b""))
        elif item.token not in at_fault:
            item.attempts -= 1
            _run_again(calls, item, now, f"{container.id} ended before its turn")
        elif error is not None:
            failed(calls, item, error, now)
        else:
            lost(calls, item, now, f"{container.id} was lost")
    drain(calls, now)
    calls.commands.append(_RESCALE)


def forget(calls: Calls, container: CallContainer, reason: str) -> None:
    """It is no member any more."""
    container.state = ContainerState.STOPPED
    calls.containers.pop(container.id, None)
    calls.free.pop(container, None)
    calls.commands.append(Forget(container, reason))
