"""Spawns after a restart: who waits for one that is done already gets what the store has, and an attempt that died with the server costs the user no retry."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from squall.control.calls.durable_inputs import Spawned
from squall.control.calls.live_function import LiveFunction
from squall.control.calls.router import Router
from squall.core.placement import Node
from squall.model.ids import CallId, FunctionId
from squall.model.specs import FunctionSpec
from squall.model.states import InputState
from squall.store.rows import Claim, InputRow, Outcome
from squall.store.sql import SqlStore
from squall.wire.messages import DURABLE, OK, Accepted, Await, Call, Output


class Session:
    """A client that keeps what it is sent."""

    gone = False

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.answered = asyncio.Event()

    def send(self, message: Any) -> None:
        self.got.append(message)
        if isinstance(message, Output):
            self.answered.set()


def router_of(store: SqlStore, function: FunctionId) -> Router:
    router = Router(store=store, links={}, logs=SimpleNamespace(), nodes=[Node("local", 4.0, 1_000, {})], first_token=2)  # type: ignore[arg-type]
    router.functions[function] = LiveFunction(function, "ap-1", "app", FunctionSpec("f", "program", "f", 0), b"", None, (), {})  # type: ignore[arg-type]
    return router


async def answered(tmp_path: Path) -> Session:
    """What the client got that sent its spawn again and waits for it, in the same moment."""
    store = SqlStore(tmp_path / "squall.db")
    await store.open()
    try:
        call, function, now = CallId("fc-1"), FunctionId("fu-1"), time.time()
        await store.accept([InputRow(call, 0, function, b"", now)])
        await store.progress([Claim(call, 0, 1, now)], [Outcome(call, 0, 1, OK, b"value", now, now + 60.0)])
        router = router_of(store, function)
        session = Session()
        router.submit(Call(1, function, call, 0, b"", hold=DURABLE), session)
        router.waits.wait_for(Await(2, call, 0), session)
        async with asyncio.timeout(2.0):
            await session.answered.wait()
        await router.settle()
        return session
    finally:
        await store.close()


async def test_who_waits_for_a_spawn_that_is_done_already_gets_its_value(tmp_path: Path) -> None:
    assert (await answered(tmp_path)).got == [Accepted(1), Output(2, OK, b"value", 0)]


async def test_it_finds_who_is_never_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was once: who had begun to wait was forgotten."""
    monkeypatch.setattr(Spawned, "_ask_again", lambda self, item: None)
    with pytest.raises(TimeoutError):
        await answered(tmp_path)


async def test_an_attempt_that_died_with_the_server_uses_up_no_retry(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "squall.db")
    await store.open()
    try:
        call, function, now = CallId("fc-1"), FunctionId("fu-1"), time.time()
        await store.accept([InputRow(call, 0, function, b"", now)])
        await store.progress([Claim(call, 0, 1, now)], [])
        row = await store.input(call, 0)
        assert row is not None
        assert (row.state, row.attempts, row.platform_retries) == (InputState.RUNNING, 1, 0)
        router = router_of(store, function)
        router.recover(row)
        item = router.inputs[call, 0]
        assert (item.attempts, item.lost) == (1, 1)
        await router.settle()
        row = await store.input(call, 0)
        assert row is not None
        assert (row.state, row.attempts, row.platform_retries) == (InputState.QUEUED, 1, 1)  # so the server after this one knows it too
    finally:
        await store.close()
