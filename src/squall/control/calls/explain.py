"""What an input is doing, and why it waits: the answer to `squall call show`; and how functions start: to `squall function inspect`."""

import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from squall.control.calls.input import RoutedInput
from squall.model.errors import NotFoundError
from squall.model.ids import input_id
from squall.model.options import words
from squall.model.specs import FunctionSpec
from squall.model.states import ContainerState, InputState

if TYPE_CHECKING:
    from squall.control.calls.pool import Pool
    from squall.control.calls.pool_container import Member
    from squall.control.calls.router import Router


#: Of live inputs, for the question whether all that runs waits.
_LOOKED_AT = 100_000


def describe(item: RoutedInput, router: "Router") -> dict[str, Any]:
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
        due = pool.delayed.get(item)
        row["waits_for"] = reason(pool, now) if due is None else f"its next attempt comes in {max(0.0, due - now):.1f} s"
    elif item.state is InputState.RUNNING:
        row["queued_s"] = item.started - item.created
        row["running_s"] = now - item.started
    if member is not None:
        row["start"] = start_phases(member)
    return row


def reason(pool: "Pool", now: float) -> str:
    """Why the head of this pool's queue is not running, in one line."""
    live = [member for member in pool.members.values() if member.live]
    starting = [member for member in live if member.state is ContainerState.STARTING]
    most = pool.spec.scaling.max_containers
    if starting:
        oldest = min(member.created for member in starting)
        return f"a container is starting, since {now - oldest:.1f} s"
    if pool.failure is not None and now < pool.calls.not_before:
        return f"the last container could not start; the next one is tried in {pool.calls.not_before - now:.1f} s"
    if most is not None and len(live) >= most and _calls_itself(pool):
        return f"its own caller: {words(pool.spec.tag)} calls itself, and all {most} containers wait for such calls (raise max_containers, or use @concurrent)"
    if pool.queue and (pool.short is not None or (most is not None and len(live) >= most)) and _everything_waits(pool):
        lack = pool.short.lack if pool.short is not None else f"one of the {most} containers that {words(pool.spec.tag)} may have"
        return f"a deadlock: all that runs waits for calls of its own, and this one for {lack} (raise max_containers, or ask for less)"
    if most is not None and len(live) >= most:
        return f"all {most} containers are busy (max_containers={most})"
    if (short := pool.short) is not None:
        instead = f"; free now: {', '.join(short.instead)}" if short.instead else ""
        return f"{short.lack}: {short.free:g} free on the machine that has most{instead}"
    if live:
        return f"all {len(live)} containers are busy; another one would not be ready sooner"
    return "a container, which is about to be started"


def _calls_itself(pool: "Pool") -> bool:
    """Whether every running input of the pool waits for a call to the same pool: nothing of it can end by itself."""
    running = {input_id(item.call.call, item.index) for member in pool.members.values() for item in member.running.values()}
    return bool(running) and running <= {item.call.parent for item in pool.queue}


def _everything_waits(pool: "Pool") -> bool:
    """Whether every running input that holds what this pool lacks has made a call that is not done: then none is seen to end by itself."""
    router = pool.router
    holders = router.pools.values() if pool.short is not None else router.pools_of(pool.function.app)
    running = {input_id(item.call.call, item.index) for each in holders for member in each.members.values() for item in member.running.values()}
    parents = {item.call.parent for item in islice(router.inputs.newest(), _LOOKED_AT)}
    return bool(running) and running <= parents


def start_phases(member: "Member") -> dict[str, Any] | None:
    """How long each step of a container's start took, in seconds; None before it was ready, and of one that an earlier server started.

    `placing_s` until its machine's agent was told; `image_s` until layers, volumes and secrets were there; `template_s` until there was something to copy;
    `network_s`; `fork_s` (or runc, or a process) until its runner said hello; `import_s` and `enter_s` of the user's code in it; `first_input_s` of its
    first input, which is no part of `total_s`. `copy_of` and `not_forked` say what it was copied from, and why not from a template of its
    function.
    """
    process, phases = member.process, member.phases
    if process is None or "ready_s" not in phases:
        return None
    steps = {
        "placing_s": member.ordered_at - member.created,
        "image_s": phases["image_s"],
        "template_s": phases.get("template_s", 0.0),
        "network_s": process.network_s,
    }
    after = {"import_s": member.import_s, "enter_s": member.enter_s}
    total = steps["placing_s"] + phases["ready_s"]
    copying = max(0.0, total - sum(steps.values()) - sum(after.values()))
    return {
        "total_s": total, **steps, "fork_s": copying, **after, "first_input_s": member.first_input_s or None,
        "copy_of": process.copy_of, "not_forked": process.not_forked,
    }  # fmt: skip


def describe_functions(router: "Router", app: str, tag: str) -> list[dict[str, Any]]:
    """Functions as plain values: what they ask for, what runs, and how their containers start.

    `starts` says it in a few words. `templates` has a row for each environment and set of class parameters of which a container was wanted: is it there,
    its size, how long its import took, or why there can be none.

    Raises:
        NotFoundError: none of that tag.
    """
    rows = []
    for function in router.functions.values():
        spec = function.spec
        if (app and function.app != app) or (tag and spec.tag != tag):
            continue
        pools = [pool for pool in router.pools.values() if pool.function.id == function.id]
        resources, templates = spec.resources, [row for link in router.links.values() for row in link.agent.explain(function.id)]
        rows.append(
            {
                "function": spec.tag, "id": function.id, "app": function.app, "app_name": function.app_name, "image": function.image.id,
                "python": function.image.python_version, "runtime": spec.runtime, "fork": spec.fork and spec.runtime is None, "snapshot": spec.snapshot,
                "cpu": resources.cpu_request, "cpu_limit": resources.cpu_limit, "memory_mib": resources.memory_request_mib,
                "memory_limit_mib": resources.memory_limit_mib, "disk_limit_mib": resources.disk_limit_mib, "gpu": [str(gpu) for gpu in resources.gpus],
                "timeout_s": spec.timeout_s, "block_network": spec.block_network, "containers": sum(len(pool.members) for pool in pools),
                "waiting": sum(len(pool.queue) for pool in pools), "starts": _starts(spec, templates), "templates": templates,
                "waits_for": next((reason(pool, router.now()) for pool in pools if pool.short is not None), None),
                **_scaling(function.spec, pools),
            }
        )  # fmt: skip
    if tag and not rows:
        raise NotFoundError(f"there is no function {tag!r} in a running or deployed app; squall function list shows what there is")
    return rows


def _scaling(spec: FunctionSpec, pools: "list[Pool]") -> dict[str, Any]:
    """How many containers it has, as it was declared or changed since."""
    scaling = pools[0].spec.scaling if pools else spec.scaling
    return {
        "min_containers": scaling.min_containers, "max_containers": scaling.max_containers, "buffer_containers": scaling.buffer_containers,
        "scaledown_window_s": scaling.scaledown_window_s,
    }  # fmt: skip


def _starts(spec: FunctionSpec, templates: list[dict[str, Any]]) -> str | None:
    if spec.runtime is not None:
        return f"under {spec.runtime}"
    if not spec.fork:
        return "by importing (fork=False)"
    if not templates:
        return None
    return "as copies" if any(template["there"] for template in templates) else "by importing"
