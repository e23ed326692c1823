"""From one version of a function to the next without losing a call: the new containers are ready before the old ones drain."""

import msgspec

from squall.control.calls.live_function import LiveFunction
from squall.control.calls.pool import Pool
from squall.control.calls.router import Router
from squall.core.calls import dispatch
from squall.model.errors import ContainerStartError, Error
from squall.model.options import words
from squall.model.states import ContainerState
from squall.wire.messages import RAISED, Fault, Raised, StartFailed


async def warm(router: Router, function: LiveFunction) -> list[Pool]:
    """Pools of the new version beside those of the old, each with a ready container for every one that the old has, as far as the machines have room.

    Nothing goes to them before `switch`. Cancelled or failed, nothing of them is left.

    Raises:
        Error: why the new version's containers don't start.
    """
    pools = []
    try:
        for old in router.pools_of_function(function.id):
            wanted = max(sum(member.live for member in old.members.values()), function.spec.scaling.min_containers if not old.parameters else 0)
            wanted = min(wanted, function.spec.scaling.max_containers or wanted)
            pool = Pool(router, function, old.parameters)
            pools.append(pool)
            router.adopt(pool)
            if pool.grow(wanted):
                await _ready(pool)
    except BaseException:
        for pool in pools:
            discard(router, pool)
        raise
    return pools


async def _ready(pool: Pool) -> None:
    """Until no container of it is on its way."""
    while any(member.state is ContainerState.STARTING for member in pool.members.values()):
        pool.started.clear()
        await pool.started.wait()
        if pool.failure is not None:
            raise reason(pool)
    if pool.failure is not None:
        raise reason(pool)


def reason(pool: Pool) -> Error:
    """Why a container of the pool did not start, as an error of whoever deploys it."""
    failure = pool.failure
    if isinstance(failure, Error):
        return failure
    text = "its container did not start"
    if isinstance(failure, StartFailed):
        if failure.status == RAISED:
            raised = msgspec.msgpack.decode(failure.data, type=Raised)
            text = raised.text.rstrip() or f"{raised.type_name}: {raised.message}"
        else:
            text = msgspec.msgpack.decode(failure.data, type=Fault).message
    return ContainerStartError(f"{words(pool.spec.tag)} does not start, so the version before goes on\n{text}")


def switch(router: Router, function: LiveFunction, pools: list[Pool]) -> None:
    """From now on calls go to the new version. What waits for the old goes over, what runs there ends there."""
    old = {pool.parameters: pool for pool in router.pools_of_function(function.id)}
    router.functions[function.id] = function
    fresh = {pool.parameters: pool for pool in pools}
    for parameters, before in old.items():
        pool = fresh.pop(parameters, None)
        if pool is None:
            pool = Pool(router, function, parameters)
        router.install(pool, before)
        before.retire(pool)
        pool.feed(dispatch.drain, router.now())
        pool.rescale()
    if not old:
        router.add_function(function)
    for pool in fresh.values():
        discard(router, pool)


async def end_earlier(router: Router, function: LiveFunction) -> None:
    """End every container of versions before, also of those that drain already. What ran there runs again, in this version.

    Requests and exit hooks of classes have the usual time to finish. Returns when none of them is left.
    """
    pools = [pool for pool in router.pools.values() if pool.function.id == function.id and pool.function is not function]
    members = [(pool, member) for pool in pools for member in pool.members.values()]
    for pool, member in members:
        pool.dismiss(member, "recreated for a new version")
    for _, member in members:
        await member.ended.wait()


def discard(router: Router, pool: Pool) -> None:
    """The new version will not come, or this pool of it is not needed."""
    pool.calls.replaced = True
    pool.close("a deployment that did not come about")
    if not pool.members:
        router.disown(pool)
