"""A generator whose container, server or connection is lost ends with an error that says so: no item comes twice, and none is missing in silence."""

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import streaming

import squall
from squall.exception import ContainerExitedError, FunctionTimeoutError, GeneratorInterruptedError
from squall.sdk.client.client import Client
from squall.wire.messages import ListCalls, ListContainers, Rows
from support.waiting import wait_until

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def running(data: object) -> Iterator[squall.App]:
    with streaming.app.run():
        yield streaming.app


def kill_containers(tag: str) -> None:
    """kill -9 of all that have inputs."""
    rows = Client.default().request(ListContainers(str(streaming.app.app_id)))
    assert isinstance(rows, Rows)
    busy = [row for row in rows.rows if row["function"] == tag and row["inputs"]]
    assert busy
    for row in busy:
        os.kill(int(row["pid"]), signal.SIGKILL)


def kill_server(data: Path) -> None:
    """And wait for the next one, which the run's session starts."""
    before = (data / "server.lock").read_text()
    os.kill(int(before), signal.SIGKILL)
    wait_until(lambda: (data / "server.lock").read_text() not in ("", before), "its successor")


def test_a_generator_whose_container_is_lost_ends_with_what_was_delivered() -> None:
    had = []
    with pytest.raises(GeneratorInterruptedError, match=r"interrupted after \d+ items: its container ct-\w+ was lost") as raised:
        for item in streaming.count.remote_gen(80):
            had.append(item)
            if item == 17:
                kill_containers("count")
    assert had == list(range(len(had)))
    assert raised.value.items_delivered == len(had) >= 18
    assert not raised.value.retryable


def test_so_do_all_that_share_a_container_and_an_event_loop() -> None:
    async def take(n: int) -> list[int]:
        had: list[int] = []
        with pytest.raises(GeneratorInterruptedError) as raised:
            async for item in streaming.count_async.remote_gen.aio(n):
                had.append(item)
                if (n, item) == (200, 17):
                    await asyncio.to_thread(kill_containers, "count_async")
        assert raised.value.items_delivered == len(had)
        return had

    async def both() -> list[list[int]]:
        return await asyncio.gather(take(200), take(300))

    for had in asyncio.run(both()):
        assert had == list(range(len(had)))


def test_one_that_has_given_nothing_yet_is_run_again() -> None:
    def runs() -> bool:
        rows = Client.default().request(ListCalls(str(streaming.app.app_id)))
        assert isinstance(rows, Rows)
        return any(row["function"] == "count" and row["state"] == "running" for row in rows.rows)

    with ThreadPoolExecutor(1) as threads:
        taking = threads.submit(lambda: list(streaming.count.remote_gen(3, 1.0)))
        wait_until(runs, "the first attempt")
        kill_containers("count")
        assert taking.result(60) == [0, 1, 2]


def test_an_error_of_its_own_says_how_many_items_came_before() -> None:
    for generator, kind in [(streaming.exits, ContainerExitedError), (streaming.slow, FunctionTimeoutError)]:
        had = []
        with pytest.raises(kind, match="had given 3 items") as raised:
            for item in generator.remote_gen(3):
                had.append(item)
        assert had == [0, 1, 2]
        assert raised.value.items_delivered == 3


def test_a_server_that_is_killed_ends_it_too_and_its_successor_gives_nothing_twice(data: Path) -> None:
    async def take() -> None:
        had: list[int] = []
        with pytest.raises(GeneratorInterruptedError) as raised:
            async for item in streaming.count.remote_gen.aio(500):
                had.append(item)
                if item == 17:
                    kill_server(data)
        assert had == list(range(len(had)))
        assert raised.value.items_delivered == len(had)

    asyncio.run(take())
    had = []
    with pytest.raises(GeneratorInterruptedError, match="server went away") as raised:
        for item in streaming.count.remote_gen(500):
            had.append(item)
            if item == 17:
                kill_server(data)
    assert had == list(range(len(had)))
    assert raised.value.items_delivered == len(had)
    assert list(streaming.count.remote_gen(3)) == [0, 1, 2]
