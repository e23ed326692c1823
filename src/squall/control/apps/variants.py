"""Functions with other options, and what can be asked and changed of functions while they run."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from squall.control.calls.live_function import LiveFunction
from squall.control.calls.pool import Pool
from squall.control.calls.router import Router
from squall.model.errors import InvalidError, NotFoundError, PermissionDeniedError, ResourceExhaustedError
from squall.model.ids import FUNCTION, AppId, CallId, FunctionId, ImageId, input_id, make_id
from squall.model.options import MARK, FunctionOptions, derive, options_of
from squall.model.specs import FunctionSpec
from squall.model.states import ContainerState, InputState
from squall.model.validation import check_function
from squall.store.contract import Store
from squall.store.rows import FunctionRow
from squall.wire.messages import TuneFunction

#: A queue up to this length is counted exactly; a million inputs would hold up the server for a tenth of a second.
COUNTED_MAX = 10_000
#: Of one app. Each has a pool, for as long as the app lives.
VARIANTS_MAX = 1_000


def check_reach(router: Router, container: str, function: str) -> None:
    """Code in a container may ask for functions of its own app only. An empty `container`: the owner, who may ask for all.

    Raises:
        PermissionDeniedError: it is another app's.
    """
    if container:
        pool = router.pool_of(container)
        if function in router.functions and (pool is None or router.functions[function].app != pool.function.app):
            raise PermissionDeniedError(f"function {function} is of another app")


async def derive_function(router: Router, store: Store, function: str, packed: bytes) -> str:
    """The id of a function's variant, made when it is not there yet. The same options give the same one, also after a restart.

    Raises:
        NotFoundError: no such function.
        InvalidError: the options are none, or do not go together with what the function has.
    """
    base = _function(router, function)
    options = options_of(packed)
    name = hashlib.sha256(packed).hexdigest()[:12]
    tag = f"{base.spec.tag}{MARK}{name}"
    known = {row.tag: row.id for row in await store.functions(AppId(base.app))}
    base = _function(router, function)  # a deployment may have changed it meanwhile
    for other in router.functions.values():
        if other.app == base.app and other.spec.tag == tag:
            return other.id
    made = known.get(tag) or FunctionId(make_id(FUNCTION, time.time_ns() // 1_000_000, os.urandom(10)))
    others = sum(other.app == base.app and MARK in other.spec.tag for other in router.functions.values())
    if others >= VARIANTS_MAX:
        raise ResourceExhaustedError(f"the app has {others} variants of its functions, the most that it can have; call with the same options again")
    live = _variant(base, made, options, name)
    check_function(live.spec)
    router.add_function(live)
    await store.save_functions([FunctionRow(made, AppId(base.app), tag, live.packed, ImageId(live.image.id), time.time())])
    return made


def _variant(base: LiveFunction, made: str, options: FunctionOptions, name: str) -> LiveFunction:
    spec = derive(base.spec, options, name)
    return dataclasses.replace(base, id=made, spec=spec, packed=msgspec.msgpack.encode(spec))


def of_version(router: Router, app: str, functions: Sequence[LiveFunction]) -> tuple[list[LiveFunction], set[str]]:
    """The variants that an app has, as they are with these functions in the place of its own; and the ids of those whose function is not among them."""
    bases = {function.spec.tag: function for function in functions}
    there, gone = [], set()
    for function in list(router.functions.values()):
        tag, mark, name = function.spec.tag.rpartition(MARK)
        if function.app != app or not mark:
            continue
        if tag in bases:
            there.append(_variant(bases[tag], function.id, msgspec.msgpack.decode(function.spec.options, type=FunctionOptions), name))
        else:
            gone.add(function.id)
    return there, gone


async def restore_variants(router: Router, store: Store, app: str, functions: Sequence[LiveFunction]) -> list[str]:
    """After a restart: the variants of an app's functions that were made before, also of a version before. Returns their ids."""
    bases = {function.spec.tag: function for function in functions}
    restored = []
    for row in await store.functions(AppId(app)):
        tag, mark, name = row.tag.rpartition(MARK)
        if mark and tag in bases and row.id not in router.functions:
            packed = msgspec.msgpack.decode(row.spec, type=FunctionSpec).options
            if packed:  # else written by a server that kept them nowhere
                router.add_function(_variant(bases[tag], row.id, msgspec.msgpack.decode(packed, type=FunctionOptions), name))
                restored.append(str(row.id))
    return restored


def tune(router: Router, command: TuneFunction) -> dict[str, Any]:
    """Change the scaling of a function (of one parameter set of a class); the settings that hold now.

    Raises:
        NotFoundError: no such function.
        InvalidError: the settings contradict each other, or the parameters are too large.
        ResourceExhaustedError: there may be no more sets of parameters.
    """
    pool = router.pool_for(command.function, command.parameters)
    given = {
        "min_containers": command.min_containers,
        "max_containers": command.max_containers,
        "buffer_containers": command.buffer_containers,
        "scaledown_window_s": command.scaledown_window_s,
    }
    scaling = msgspec.structs.replace(pool.spec.scaling, **{name: value for name, value in given.items() if value is not None})
    if scaling.max_containers is not None and scaling.min_containers > scaling.max_containers:
        raise InvalidError(f"min_containers={scaling.min_containers} is more than max_containers={scaling.max_containers}")
    pool.tune(scaling)
    return {
        "min_containers": scaling.min_containers,
        "max_containers": scaling.max_containers,
        "buffer_containers": scaling.buffer_containers,
        "scaledown_window": scaling.scaledown_window_s,
        "target_concurrency": pool.spec.concurrency.target_inputs or pool.spec.concurrency.max_inputs,
    }


def status(router: Router, function: str, parameters: bytes) -> dict[str, int]:
    """What waits and what runs now. Raises NotFoundError."""
    _function(router, function)
    pool = router.known_pool(function, parameters)
    if pool is None:
        return {"queued": 0, "running": 0, "containers": 0, "headroom": 0}
    ready = [member for member in pool.members.values() if member.state is ContainerState.READY]
    return {
        "queued": _waiting(pool),
        "running": sum(len(member.running) for member in pool.members.values()),
        "containers": len(pool.members),
        "headroom": sum(max(0, pool.limit - len(member.running)) for member in ready),
    }


def _waiting(pool: Pool) -> int:
    """Inputs in its queue. Those that were cancelled there are looked for only where that takes no time to speak of; they leave it when they would be run."""
    if len(pool.queue) > COUNTED_MAX:
        return len(pool.queue)
    return sum(item.state is InputState.QUEUED for item in pool.queue)


async def list_inputs(router: Router, store: Store, call: str, *, descendants: bool) -> list[dict[str, Any]]:
    """The inputs of a call: those that are live or ended lately, and of spawned calls all. `descendants`: also what they called, as far as it is known.

    Raises:
        NotFoundError: nothing is known of the call.
    """
    found = {row.index: _row(router, call, row.index, row.function, row.state, "", row.parent) for row in await store.call_inputs(CallId(call))}
    children: dict[str, list[dict[str, Any]]] = {}
    for row in router.history.graph_rows():
        if row["call"] == call:
            found[row["index"]] = row
        elif descendants and row["parent"]:
            children.setdefault(row["parent"], []).append(row)
    for item in list(router.inputs.values()):
        one = item.call
        if one.call == call or descendants:
            container = item.member.id if item.member is not None else ""
            row = _row(router, one.call, one.index, one.function, item.state, container, one.parent)
            if one.call == call:
                found[one.index] = row
            else:
                children.setdefault(one.parent, []).append(row)
    if not found:
        raise NotFoundError(f"there is no call {call}")
    rows = [found[index] for index in sorted(found)]
    return [*rows, *_below(rows, children)]


async def may_see(router: Router, store: Store, container: str, call: str) -> bool:
    """Whether the call, on its way or ended, is of the container's own app."""
    pool = router.pool_of(container)
    if pool is None:
        return False
    own = pool.function.app
    if any(item.pool.function.app == own for item in router.inputs.of_call(call)) or own in router.history.apps_of(call):
        return True
    functions = [router.functions.get(row.function) for row in await store.call_inputs(CallId(call))]
    return any(function is not None and function.app == own for function in functions)


def _below(rows: Iterable[dict[str, Any]], children: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for row in rows:
        own = children.pop(input_id(row["call"], row["index"]), [])
        made += [*own, *_below(own, children)]
    return made


def _row(router: Router, call: str, index: int, function: str, state: InputState, container: str, parent: str) -> dict[str, Any]:
    live = router.functions.get(function)
    tag, module = (live.spec.tag, live.spec.module) if live is not None else (function, "")
    return {"call": call, "index": index, "state": str(state), "function": tag, "module": module, "container": container, "parent": parent}


def _function(router: Router, function: str) -> LiveFunction:
    found = router.functions.get(function)
    if found is None:
        raise NotFoundError(f"there is no function {function}: its app has ended")
    return found
