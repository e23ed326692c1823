"""What an input is doing, and why it waits: the answer to `squall call show`."""

import time
from typing import TYPE_CHECKING, Any

from squall.control.inputs import Input
from squall.model.ids import input_id
from squall.model.states import ContainerState, InputState

if TYPE_CHECKING:
    from squall.control.pool import Pool
    from squall.control.router import Router


def describe(item: Input, router: "Router") -> dict[str, Any]:
    """A live input as plain values. Durations are seconds; `position` is its place in the queue, from 1."""
    now, pool, member = router.now(), item.pool, item.member
    row: dict[str, Any] = {
        "call": item.call.call,
        "index": item.index,
        "function": pool.spec.tag,
        "app": pool.function.app,
        "state": str(item.state),
        "created_at": time.time() - (now - item.created),
        "attempts": item.attempts,
        "lost": item.lost,
        "container": member.id if member is not None else None,
        "parent": item.call.parent or None,
        "position": None,
        "waits_for": None,
    }
    if item.state is InputState.QUEUED:
        row["waited_s"] = now - item.created
        row["position"] = next((place for place, other in enumerate(pool.queue, 1) if other is item), None)
        row["waits_for"] = reason(pool, now)
    elif item.state is InputState.RUNNING:
        row["queued_s"] = item.started - item.created
        row["running_s"] = now - item.started
    if member is not None:
        row["start"] = start_phases(member.created, member.ready_at, member.import_s, member.enter_s)
    return row


def reason(pool: "Pool", now: float) -> str:
    """Why the head of this pool's queue is not running, in one line."""
    live = [member for member in pool.members.values() if member.live]
    starting = [member for member in live if member.state is ContainerState.STARTING]
    most = pool.spec.scaling.max_containers
    if starting:
        oldest = min(member.created for member in starting)
        return f"a container is starting, since {now - oldest:.1f} s"
    if pool.failure is not None and now < pool.not_before:
        return f"the last container could not start; the next one is tried in {pool.not_before - now:.1f} s"
    if most is not None and len(live) >= most and _calls_itself(pool):
        return f"its own caller: {pool.spec.tag} calls itself, and all {most} containers wait for such calls (raise max_containers, or use @concurrent)"
    if most is not None and len(live) >= most:
        return f"all {most} containers are busy (max_containers={most})"
    if (short := pool.short) is not None:
        instead = f"; free now: {', '.join(short.instead)}" if short.instead else ""
        return f"{short.asked:g} {short.resource}: {short.free:g} free on the machine that has most{instead}"
    if live:
        return f"all {len(live)} containers are busy; another one would not be ready sooner"
    return "a container, which is about to be started"


def _calls_itself(pool: "Pool") -> bool:
    """Whether every running input of the pool waits for a call to the same pool: nothing of it can end by itself."""
    running = {input_id(item.call.call, item.index) for member in pool.members.values() for item in member.running.values()}
    return bool(running) and running <= {item.call.parent for item in pool.queue}


def start_phases(created: float, ready_at: float, import_s: float, enter_s: float) -> dict[str, float] | None:
    """How long a container took to become ready, in seconds; None before it was."""
    if ready_at == 0.0:
        return None
    total = ready_at - created
    return {"total_s": total, "container_s": max(0.0, total - import_s - enter_s), "import_s": import_s, "enter_s": enter_s}
