"""Looking for a container, for those of an app, or after what runs: none of it goes through the pools of deployed functions that nobody calls."""

from types import SimpleNamespace
from typing import Any

from squall.control.calls.live_function import LiveFunction
from squall.control.calls.pool import Pool
from squall.control.calls.pool_container import Member
from squall.control.calls.router import Router
from squall.core.placement import Node, Placement
from squall.model.ids import ContainerId
from squall.model.resources import Resources
from squall.model.specs import FunctionSpec
from squall.model.states import ContainerState


class Untouched:
    """A pool that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} of an idle function's pool was read")


def a_router() -> Router:
    links: Any = {"local": SimpleNamespace()}
    logs: Any = SimpleNamespace(close=lambda _: None)
    router = Router(store=None, links=links, logs=logs, nodes=[Node("local", 4.0, 1_000, {})], first_token=0)  # type: ignore[arg-type]
    router.pools.update({f"fu-idle-{number}": Untouched() for number in range(10)})  # type: ignore[misc]
    return router


def a_pool(router: Router, app: str) -> Pool:
    function = LiveFunction(f"fu-{app}", app, app, FunctionSpec("f", "program", "f", 0, timeout_s=10.0), b"", None, (), {})  # type: ignore[arg-type]
    pool = router.pools[function.id] = Pool(router, function)
    return pool


def a_member(pool: Pool, name: str) -> Member:
    placement = Placement(pool.router.room.nodes[0], Resources(cpu_request=0.5), None, ())
    member = Member(ContainerId(name), pool, placement, pool.router.now())
    pool.join(member)
    return member


async def test_a_container_and_those_of_an_app_are_found_without_a_look_at_idle_pools() -> None:
    router = a_router()
    pool, other = a_pool(router, "ap-1"), a_pool(router, "ap-2")
    members = [a_member(pool, "ct-1"), a_member(pool, "ct-2")]
    a_member(other, "ct-3")
    assert [router.pool_of(name) for name in ("ct-1", "ct-3", "ct-9")] == [pool, other, None]
    assert router.members_of("ap-1") == members
    assert router.room._share_of("ap-1") == 2 * router.room._share_of("ap-2")
    router.room.make()  # none idles


async def test_the_watch_looks_at_pools_that_start_or_run_something_and_at_no_others() -> None:
    router = a_router()
    pool, other = a_pool(router, "ap-1"), a_pool(router, "ap-2")
    member, idle = a_member(pool, "ct-1"), a_member(other, "ct-2")
    idle.state = ContainerState.READY
    looked: list[Pool] = []
    for each in (pool, other):
        check = each.check
        each.check = lambda now, each=each, check=check: (looked.append(each), check(now))[1]  # type: ignore[method-assign, misc]
    router.busy(pool)
    router.busy(other)
    router._watch()
    router._watch()
    assert looked == [pool, other, pool]  # the second had nothing any more
    member.state = ContainerState.READY
    router._watch()
    assert not router._watching
    router.busy(other)
    assert router._watching
