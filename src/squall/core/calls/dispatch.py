"""Which input goes where: queueing, and giving containers what waits."""

from squall.core.calls.commands import AwaitResend, AwaitStore, Begin, HandOver, LookAgain, Requeued, Rescale, RetryLater, TakeBack, Watch
from squall.core.calls.endings import end_container
from squall.core.calls.state import SESSIONS_MAX, CallContainer, Calls, Input
from squall.model.states import ContainerState, InputState

_RESCALE = Rescale()
_WATCH = Watch()
_AWAIT_STORE = AwaitStore()


def submit(calls: Calls, item: Input, now: float) -> None:
    """Run it now if a container has room, else queue it."""
    if calls.has_successor:
        calls.commands.append(HandOver(item))
        return
    free = calls.free
    if free and not (calls.pressure.high and item.durable):
        container = _take_for_web(calls, item) if calls.web else free.popitem()[0]
        _begin(calls, container, item, now)
        if len(container.running) < calls.limit:
            free[container] = None
        return
    calls.queue.append(item)
    # Not to a busy container when a container of ours may be waiting for it: that one might be the caller.
    if calls.ahead and not item.call.parent and _send_ahead(calls, now):
        return
    calls.commands.append(_RESCALE)


def _take_for_web(calls: Calls, item: Input) -> CallContainer:
    """The free container that served this session last, else the one with the fewest requests, of equals the one that was freed first."""
    container: CallContainer | None = calls.containers.get(calls.sessions.get(item.session, "")) if item.session else None
    if container not in calls.free:
        container = min(calls.free, key=lambda free: len(free.running))
    assert container is not None, "there is a free one"
    del calls.free[container]
    return container


def _send_ahead(calls: Calls, now: float) -> bool:
    """Give the queue's head to a busy container that is quick. False when none has room."""
    room = calls.limit + calls.ahead
    for container in calls.containers.values():
        if container.state is ContainerState.READY and not container.leaving and len(container.running) < room:
            refill(calls, container, now)
            return True
    return False


def _begin(calls: Calls, container: CallContainer, item: Input, now: float) -> None:
    token = item.token = calls.next_token()
    item.container = container
    item.attempts += 1
    item.started = now
    calls.move(item, InputState.RUNNING, now, f"given to {container.id} again" if item.attempts > 1 else "")
    if not container.running:
        container.last_result = now
        calls.commands.append(_WATCH)
    container.running[token] = item
    if item.session:
        calls.sessions.pop(item.session, None)  # the latest ones stand last
        calls.sessions[item.session] = container.id
        if len(calls.sessions) > SESSIONS_MAX:
            del calls.sessions[next(iter(calls.sessions))]
    calls.commands.append(Begin(item, container))


def refill(calls: Calls, container: CallContainer, now: float) -> None:
    """After a result, or when there is room: give it what waits."""
    queue, running = calls.queue, container.running
    room = calls.limit + calls.ahead
    if container.leaving:
        if not running:
            end_container(calls, container, "its code wanted no more inputs")
        return
    while queue and len(running) < room:
        head = queue[0]
        if len(running) >= calls.limit and head.call.parent:
            break
        if calls.pressure.high and head.durable:
            calls.commands.append(_AWAIT_STORE)
            break
        queue.popleft()
        if head.state is InputState.QUEUED:
            _begin(calls, container, head, now)
    if len(running) < calls.limit:
        if calls.replaced and not running:
            end_container(calls, container, "replaced by a new version")
            return
        calls.free[container] = None
        if not running:
            # The hot path of a sequence of calls: the pool is looked at when this container may end, not after each of them.
            container.idle_since = now
            calls.commands.append(LookAgain(now + calls.spec.scaling.scaledown_window_s))


def leave(calls: Calls, container: CallContainer, now: float) -> None:
    """No more inputs for it: its code asked for that. What lies there and has not begun goes elsewhere; it ends after the others."""
    container.leaving = True
    calls.free.pop(container, None)
    if waiting := tuple(container.running)[calls.limit :]:
        calls.commands.append(TakeBack(container, waiting))
    if container.state is ContainerState.READY:
        refill(calls, container, now)


def add(calls: Calls, container: CallContainer) -> None:
    """A container that starts, or one of before a restart (then `readopt_input` and `readopt` follow), belongs to the pool."""
    calls.containers[container.id] = container
    calls.commands.append(_WATCH)


def readopt(calls: Calls, container: CallContainer, now: float, *, ending: bool) -> None:
    """A container of before a restart has all its inputs again. `ending`: it was being ended then."""
    if ending:
        container.state, container.end_reason = ContainerState.DRAINING, "was ending when its server was restarted"
    elif calls.spec.single_use and not container.running:
        end_container(calls, container, "single use")
    elif len(container.running) < calls.limit:
        refill(calls, container, now)
    calls.commands.append(_RESCALE)


def readopt_input(calls: Calls, container: CallContainer, item: Input, token: int, now: float) -> None:
    """An attempt that began under an earlier server goes on in this container."""
    item.token, item.container, item.attempts, item.readopted = token, container, 1, True
    calls.move(item, InputState.RUNNING, now, "taken over from an earlier server")
    container.running[token] = item
    calls.commands.append(_WATCH)


def drain(calls: Calls, now: float) -> None:
    """Give what waits to containers that have room."""
    for container in reversed(list(calls.free)):
        if not calls.queue:
            return
        calls.free.pop(container, None)
        refill(calls, container, now)


def requeue(calls: Calls, item: Input, now: float, why: str, *, delay_s: float = 0.0, front: bool = False) -> None:
    """An attempt ended without an outcome, and there will be another."""
    item.container, item.token = None, 0
    item.pending_error = None
    item.readopted = False
    calls.move(item, InputState.QUEUED, now, why)
    if item.awaiting_resend:
        calls.commands.append(AwaitResend(item))
        return
    if front and item.durable:
        calls.commands.append(Requeued(item))
    if delay_s > 0:
        calls.delayed[item] = now + delay_s
        calls.commands.append(RetryLater(item, delay_s))
    elif front and not calls.has_successor:
        calls.queue.appendleft(item)
        calls.commands.append(_RESCALE)
    else:
        submit(calls, item, now)


def retry_due(calls: Calls, item: Input, now: float) -> None:
    """The time of a `RetryLater` has come."""
    if calls.delayed.pop(item, None) is not None and item.state is InputState.QUEUED:
        submit(calls, item, now)
