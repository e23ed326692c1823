"""Calls of every kind, from a plain Python program, against a real server with real containers."""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import calling
import pytest

import squall
from squall.exception import ExecutionError, InvalidError, NotFoundError
from squall.model.ids import make_id

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def running(data: object) -> Iterator[squall.App]:
    with calling.app.run():
        yield calling.app


@pytest.fixture(autouse=True)
def _up(running: squall.App) -> None:
    """Every test here needs the app."""


def test_a_value_comes_back() -> None:
    assert calling.square.remote(7, plus=1) == 50
    assert calling.square.local(7) == 49


def test_it_runs_in_a_container() -> None:
    there = calling.where.remote()
    assert there["pid"] != 1
    assert there["pid_ns"] != os.readlink("/proc/self/ns/pid")
    assert there["local"] is False and squall.is_local() is True
    assert there["cwd"] == "/root"
    assert there["host"].startswith("ct-")


def test_ids_inside_and_outside() -> None:
    call, item = calling.ids.remote()
    assert call.startswith("fc-") and item.startswith("in-" + call[3:])
    assert squall.current_function_call_id() is None and squall.current_input_id() is None


def test_map_keeps_the_order_and_takes_several_iterables() -> None:
    assert list(calling.square.map(range(50))) == [i * i for i in range(50)]
    assert list(calling.square.map([1, 2, 3], [10, 20, 30])) == [11, 24, 39]
    assert sorted(calling.square.map(range(50), order_outputs=False)) == [i * i for i in range(50)]
    assert list(calling.square.map([1, 2], kwargs={"plus": 5})) == [6, 9]
    assert list(calling.square.starmap([(1, 2), (3, 4)])) == [3, 13]
    assert list(calling.square.map([])) == []
    calling.square.for_each(range(3))


def test_map_reads_an_endless_iterator_only_so_far_ahead() -> None:
    read = itertools.count()
    results = calling.square.map(read)
    assert list(itertools.islice(results, 2000)) == [i * i for i in range(2000)]
    results.close()
    assert next(read) <= 2000 + 1000 + 1


def test_map_of_an_iterator_that_waits_for_the_results() -> None:
    """Each input is made of the result before: nothing may be held back for company."""
    got: list[int] = []
    arrived = threading.Semaphore(1)

    def inputs() -> Iterator[int]:
        for i in range(20):
            assert arrived.acquire(timeout=20)
            yield i

    for value in calling.square.map(inputs()):
        got.append(value)
        arrived.release()
    assert got == [i * i for i in range(20)]


def test_map_of_an_iterator_that_raises() -> None:
    def inputs() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("from the caller's iterator")

    with pytest.raises(KeyError, match="from the caller's iterator"):
        list(calling.square.map(inputs()))
    assert calling.square.remote(2) == 4


def test_a_hundred_thousand_inputs() -> None:
    assert sum(1 for _ in calling.square.map(range(100_000))) == 100_000


def test_generators() -> None:
    assert list(calling.count.remote_gen(500)) == list(range(500))
    assert list(calling.count_async.remote_gen(200)) == list(range(200))
    first = calling.count.remote_gen(10**9)
    assert list(itertools.islice(first, 3)) == [0, 1, 2]
    first.close()  # stops the code in the container, which is free for the next
    assert list(calling.count.remote_gen(2)) == [0, 1]
    with pytest.raises(InvalidError, match="remote_gen"):
        calling.count.remote(3)


def test_spawn_and_get() -> None:
    call = calling.square.spawn(9)
    assert call.get(timeout=30) == 81
    assert squall.FunctionCall.from_id(call.object_id).get() == 81
    with squall.Queue.ephemeral() as gate:
        waiting = calling.take.spawn(gate)
        with pytest.raises(TimeoutError):
            waiting.get(timeout=0)
        gate.put("through")
        assert waiting.get(timeout=30) == "through"
    with pytest.raises(NotFoundError):
        squall.FunctionCall.from_id(make_id("fc", time.time_ns() // 1_000_000, os.urandom(10))).get(timeout=1)
    with pytest.raises(squall.exception.OutputExpiredError):  # its id says that it is older than results are kept
        squall.FunctionCall.from_id("fc-00000000000000000000000000000000").get(timeout=1)


def test_async_functions_and_twins() -> None:
    async def main() -> None:
        assert await calling.later.remote.aio(1) == 2
        assert await asyncio.gather(*(calling.square.remote.aio(i) for i in range(50))) == [i * i for i in range(50)]
        assert [value async for value in calling.square.map.aio(range(100))] == [i * i for i in range(100)]
        assert [value async for value in calling.count.remote_gen.aio(300)] == list(range(300))

        async def inputs():
            for i in range(5):
                yield i

        assert [value async for value in calling.square.map.aio(inputs())] == [0, 1, 4, 9, 16]
        call = await calling.square.spawn.aio(3)
        assert await call.get.aio(timeout=30) == 9
        await calling.square.for_each.aio(range(3))
        with pytest.warns(squall.exception.AsyncUsageWarning, match=r"remote\.aio"):
            assert calling.square.remote(2) == 4

    asyncio.run(main())
    assert calling.later.remote(5) == 6
    assert list(calling.later.map(range(20))) == list(range(1, 21))


def test_functions_call_functions() -> None:
    assert calling.outer.remote(3) == 9 + 1 + 4
    call = calling.outer.spawn(3)
    assert call.get(timeout=30) == 9 + 1 + 4
    (root,) = call.get_call_graph()  # also when all of it has ended
    assert (root.status.name, root.function_name, root.task_id[:3]) == ("SUCCESS", "outer", "ct-")
    assert root.children and {child.status.name for child in root.children} == {"SUCCESS"}
    assert all(child.task_id.startswith("ct-") and child.function_name == "square" for child in root.children), root.children


def test_many_threads_at_once() -> None:
    results: dict[int, int] = {}
    threads = [threading.Thread(target=lambda i=i: results.__setitem__(i, calling.square.remote(i))) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: i * i for i in range(40)}


def test_scales_out_to_its_maximum_and_no_further() -> None:
    results = list(calling.slow_square.map(range(9)))
    assert [value for value, _ in results] == [i * i for i in range(9)]
    assert 2 <= len({host for _, host in results}) <= 3


def test_large_arguments_and_results(data: Path) -> None:
    blob = os.urandom(20 << 20)
    assert calling.echo.remote(blob) == blob
    batch = [os.urandom(1 << 20) for _ in range(5)]
    assert list(calling.echo.map(batch)) == batch
    assert asyncio.run(calling.echo.remote.aio(blob)) == blob
    assert calling.echo.spawn(blob).get() == blob
    with pytest.raises(TypeError):
        calling.later.remote(blob)
    # They went through files, which are gone with their inputs, those that failed included.
    assert list((data / "parcels").iterdir()) == []


def test_calling_outside_a_run_says_how() -> None:
    from squall import App

    other = App("other")

    @other.function(serialized=True)
    def f() -> int:
        return 1

    with pytest.raises(ExecutionError, match="squall run"):
        f.remote()
    with pytest.raises(InvalidError, match=r"f\.remote"):
        f()


def test_an_unknown_method_is_refused_and_harms_no_container() -> None:
    from squall.sdk.client.client import new_call_id
    from squall.sdk.function.single_call import exchange
    from squall.wire.messages import Call

    client, function = calling.square._bound()
    with pytest.raises(NotFoundError, match="square has no method 'nope'"):
        exchange(client, Call(1, function, new_call_id(), 0, b"", "nope"))
    assert calling.square.remote(2) == 4
