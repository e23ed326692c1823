"""Pools of class parameters are limited, and unused ones are removed; an input that is on its way to one of them is still run."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from squall.control.calls import class_pools
from squall.control.calls.class_pools import Limits
from squall.control.calls.input import RoutedInput
from squall.control.calls.live_function import LiveFunction
from squall.control.calls.router import Router
from squall.core.placement import Node
from squall.model.specs import FunctionSpec, MethodSpec, Parameter, Scaling
from squall.wire.messages import Call, Cancel, Fault
from support.waiting import wait_until_async


class Session:
    gone = False

    def __init__(self) -> None:
        self.got: list[Any] = []

    def send(self, message: Any) -> None:
        self.got.append(message)


def a_router(*functions: str, window_s: float = 60.0, **limits: int) -> Router:
    """No container starts, so that inputs wait."""
    links: dict[str, Any] = {}
    router = Router(store=None, links=links, logs=SimpleNamespace(), nodes=[Node("local", 4.0, 1_000, {})], first_token=1, limits=Limits(**limits))  # type: ignore[arg-type]
    for name in functions:
        spec = FunctionSpec(
            name, "program", name, 0, is_class=True, methods=(MethodSpec("get"),), parameters=(Parameter("n", "int", required=True),),
            scaling=Scaling(scaledown_window_s=window_s),
        )  # fmt: skip
        router.held.add(name)
        router.functions[name] = LiveFunction(name, "ap-1", "app", spec, b"", None, (), {})  # type: ignore[arg-type]
    return router


def call(function: str, number: int, *, method: str = "get") -> Call:
    return Call(number, function, f"fc-{function}-{number}", 0, b"", method, parameters=msgspec.msgpack.encode({"n": number}))


def refusals(session: Session) -> list[str]:
    return [answer.message for answer in session.got if isinstance(answer, Fault)]


async def test_what_is_refused_makes_no_pool() -> None:
    router, session = a_router("One"), Session()
    router.submit(call("One", 1, method="none"), session)
    router.submit(Call(2, "One", "fc-2", 0, b"", "get", parameters=b"x" * 70_000), session)
    router.submit(Call(3, "Nobody", "fc-3", 0, b"", "get", parameters=b"x"), session)
    assert [answer.code for answer in session.got] == ["not_found", "invalid", "not_found"]
    assert "70,000 bytes" in session.got[1].message
    assert not router.pools


async def test_a_function_and_an_app_use_only_so_many_sets_of_parameters_at_a_time() -> None:
    router, session = a_router("One", "Two", function=3, app=4), Session()
    for number in range(5):
        router.submit(call("One", number), session)
    assert len(router.pools) == 3
    assert ["SQUALL_CLASS_POOLS_FUNCTION" in message for message in refusals(session)] == [True, True]
    for number in range(3):
        router.submit(call("Two", number), session)
    assert len(router.pools) == 4
    assert ["SQUALL_CLASS_POOLS_APP" in message for message in refusals(session)] == [False, False, True, True]
    router.submit(Call(9, "One", "fc-9", 0, b"", "get", parameters=call("One", 1).parameters), session)
    assert len(refusals(session)) == 4, "a set that is in use may be used on"


async def test_sets_that_nobody_uses_make_place_for_others_at_the_limit() -> None:
    router, session = a_router("One", function=2), Session()
    for number in range(2):
        router.submit(call("One", number), session)
        router.cancel(Cancel(f"fc-One-{number}"))
        pool = next(reversed(router.pools.values()))
        pool.queue.clear()  # as the next look at its size does
    router.submit(call("One", 2), session)
    assert not refusals(session)
    assert [pool.parameters for pool in router.pools.values()] == [call("One", 2).parameters]


async def test_unused_pools_are_removed_after_their_scaledown_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_pools, "SWEEP_S", 0.01)
    router, session = a_router("One", window_s=0.05), Session()
    for number in range(3):
        router.submit(call("One", number), session)
    for number in range(2):
        router.cancel(Cancel(f"fc-One-{number}"))
    await wait_until_async(lambda: len(router.pools) == 1, "the removal of two pools")
    assert len(router.class_pools) == 1
    assert next(iter(router.pools.values())).queue
    router.cancel(Cancel("fc-One-2"))
    await wait_until_async(lambda: not router.pools, "the removal of the last pool")


async def test_an_input_that_comes_when_its_pool_was_removed_goes_to_a_new_one() -> None:
    router = a_router("One")
    message = call("One", 1)
    before = router.pool_for("One", message.parameters)
    item = RoutedInput(message, before, None, router.now())
    router.remove_pool(("One", message.parameters))
    router.queue(item)
    assert item.pool is not before
    assert router.pools == {("One", message.parameters): item.pool}
    assert list(item.pool.queue) == [item]
