"""The suite of `squall.store.objects`, over every database: named objects, entries of dicts, items of queues."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from squall.model.errors import ConflictError, ConnectionError, Error, InvalidError
from squall.model.ids import CallId, FunctionId
from squall.store.contract import Store
from squall.store.objects import ObjectRow, QueueRow
from squall.store.rows import InputRow
from squall.store.sql import SqlStore
from support.postgres import Postgres
from support.waiting import BOUND_S


@pytest.fixture
async def store(make: Callable[[], Store]) -> AsyncIterator[Store]:
    store = make()
    await store.open()
    yield store
    await store.close()


def an_object(name: str | None = "one", kind: str = "dict", environment: str = "main", **fields: object) -> ObjectRow:
    given = {"created_at": 100.0, **fields}
    return ObjectRow(
        str(fields.pop("id", f"{kind}-{environment}-{name}")), kind, environment, name, **{key: value for key, value in given.items() if key != "id"}
    )  # type: ignore[arg-type]


def items(*sequences: int, partition: str = "", expires_at: float = 1_000.0) -> list[QueueRow]:
    return [QueueRow("qu-1", sequence, partition, b"%d" % sequence, expires_at) for sequence in sequences]


# --- named objects ---


async def test_a_name_is_taken_once_in_its_kind_and_environment(store: Store) -> None:
    first = an_object()
    assert await store.create_object(first) == first
    assert await store.create_object(an_object(id="other")) == first
    for row in (an_object(kind="queue"), an_object(environment="dev"), an_object("two")):
        assert await store.create_object(row) == row
    assert await store.object("dict", "main", "one") == first
    assert await store.object("dict", "main", "three") is None
    assert await store.object_by_id(first.id) == first
    assert await store.object_by_id("none") is None


async def test_of_many_who_create_one_name_at_a_time_one_does(store: Store) -> None:
    rows = await asyncio.gather(*(store.create_object(an_object(id=f"di-{number}")) for number in range(50)))
    assert len({row.id for row in rows}) == 1


async def test_anonymous_objects_have_no_name_to_take(store: Store) -> None:
    for number in range(2):
        row = an_object(None, "secret", id=f"st-{number}", data=b"\x00\xff")
        assert await store.create_object(row) == row
    again = await store.create_object(an_object(None, "secret", id="st-0", data=b"new"))
    assert again.data == b"\x00\xff"


async def test_objects_are_listed_newest_first(store: Store) -> None:
    for name, created_at, environment in (("a", 1.0, "main"), ("b", 3.0, "main"), ("c", 2.0, "dev")):
        await store.create_object(an_object(name, created_at=created_at, environment=environment))
    assert [row.name for row in await store.objects("dict")] == ["b", "c", "a"]
    assert [row.name for row in await store.objects("dict", "main")] == ["b", "a"]
    assert await store.objects("queue") == []


async def test_objects_change_and_go(store: Store) -> None:
    row = an_object()
    await store.create_object(row)
    assert await store.set_object(row.id, data=b"new", used_at=5.0)
    assert await store.set_object(row.id, used_at=6.0)
    found = await store.object_by_id(row.id)
    assert found is not None
    assert (found.data, found.used_at) == (b"new", 6.0)
    assert not await store.set_object("none", data=b"")
    await store.create_object(an_object("taken"))
    assert not await store.rename_object(row.id, "taken")
    assert not await store.rename_object("none", "free")
    assert await store.rename_object(row.id, "free")
    assert await store.rename_object(row.id, "free")
    await store.dict_put(row.id, [(b"k", b"v")], 1.0)
    assert await store.drop_object(row.id)
    assert not await store.drop_object(row.id)
    assert await store.dict_len(row.id) == 0


async def test_many_are_changed_all_or_none(store: Store) -> None:
    for name in ("a", "b"):
        await store.create_object(an_object(name, data=b"old"))
    changes = [("dict-main-a", b"old", b"new"), ("dict-main-b", b"other", b"new")]
    assert not await store.set_objects(changes)
    assert {row.data for row in await store.objects("dict")} == {b"old"}
    assert await store.set_objects([(name, b"old", b"new") for name, _, _ in changes])
    assert {row.data for row in await store.objects("dict")} == {b"new"}


# --- dicts ---


async def test_entries_are_set_read_taken_and_counted(store: Store) -> None:
    assert await store.dict_put("di-1", [(b"a", b"1"), (b"\x00\xff", b"2")], 10.0) == 2
    assert await store.dict_put("di-2", [(b"a", b"other")], 10.0) == 1
    assert await store.dict_get("di-1", b"a") == (b"1", 10.0)
    assert await store.dict_get("di-1", b"none") is None
    assert await store.dict_put("di-1", [(b"a", b"new"), (b"b", b"3")], 20.0, absent=True) == 1
    assert await store.dict_get("di-1", b"a") == (b"1", 10.0)
    assert await store.dict_put("di-1", [(b"a", b"new")], 20.0) == 1
    assert await store.dict_get("di-1", b"a") == (b"new", 20.0)
    assert await store.dict_take("di-1", b"a") == b"new"
    assert await store.dict_take("di-1", b"a") is None
    assert await store.dict_len("di-1") == 2
    assert await store.dict_clear("di-1") == 2
    assert await store.dict_len("di-2") == 1


async def test_of_many_who_set_or_take_one_key_one_does(store: Store) -> None:
    put = await asyncio.gather(*(store.dict_put("di-1", [(b"k", b"%d" % number)], 1.0, absent=True) for number in range(50)))
    assert sum(put) == 1
    taken = await asyncio.gather(*(store.dict_take("di-1", b"k") for _ in range(50)))
    assert sum(value is not None for value in taken) == 1


async def test_pages_go_on_after_a_key_and_end_by_count_or_size(store: Store) -> None:
    await store.dict_put("di-1", [(b"%03d" % number, b"x" * 100) for number in range(10)], 1.0)
    first = await store.dict_page("di-1", None, 4, 1 << 20)
    assert [key for key, _ in first] == [b"000", b"001", b"002", b"003"]
    rest = await store.dict_page("di-1", first[-1][0], 100, 1 << 20)
    assert [key for key, _ in rest] == [b"%03d" % number for number in range(4, 10)]
    assert len(await store.dict_page("di-1", None, 100, 1)) == 1
    assert len(await store.dict_page("di-1", None, 100, 250)) == 3
    assert (await store.dict_page("di-1", b"008", 100, 1 << 20, values=False)) == [(b"009", b"")]


@pytest.mark.parametrize(("before", "gone"), [(9.999, 0), (10.0, 0), (10.001, 1), (30.0, 2)])
async def test_entries_expire_by_when_they_were_touched(store: Store, before: float, gone: int) -> None:
    await store.dict_put("di-1", [(b"old", b""), (b"touched", b"")], 10.0)
    await store.dict_touch("di-1", [b"touched"], 20.0)
    assert await store.dict_expire(before, 100) == gone


# --- queues ---


async def test_items_are_kept_in_their_order_until_taken(store: Store) -> None:
    await store.queue_put(items(2, 3))
    await store.queue_put(items(1, partition="p"))
    assert [row.sequence for row in await store.queue_load("qu-1")] == [1, 2, 3]
    assert (await store.queue_load("qu-1"))[0] == QueueRow("qu-1", 1, "p", b"1", 1_000.0)
    await store.queue_take("qu-1", [2, 99])
    assert [row.sequence for row in await store.queue_load("qu-1")] == [1, 3]
    assert await store.queue_clear("qu-1", "p") == 1
    assert await store.queue_clear("qu-1") == 1
    assert await store.queue_load("qu-1") == []


async def test_items_are_put_all_or_none(store: Store) -> None:
    await store.queue_put(items(1))
    with pytest.raises(Error):
        await store.queue_put(items(2, 1))
    assert [row.sequence for row in await store.queue_load("qu-1")] == [1]


@pytest.mark.parametrize(("now", "gone"), [(999.9, 0), (1_000.0, 2), (2_000.0, 3)])
async def test_a_partition_expires_with_its_last_item(store: Store, now: float, gone: int) -> None:
    await store.queue_put(items(1, 2, partition="brief"))
    await store.queue_put(items(3, partition="long", expires_at=2_000.0))
    assert await store.queue_expire(now) == gone


# --- bad luck ---

_WRITER = """
import asyncio, sys
from pathlib import Path
from squall.store.objects import QueueRow
from squall.store.sql import SqlStore

async def main():
    place = sys.argv[1]
    store = SqlStore(place if "://" in place else Path(place))
    await store.open()
    for number in range(1_000_000):
        await store.dict_put("di-1", [(b"last", b"%d" % number)], 1.0)
        await store.queue_put([QueueRow("qu-1", number, "", b"x", 1e12)])
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 300])
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_relaxed_writes_survive_kill_9_of_the_server(request: pytest.FixtureRequest, tmp_path: Path, database: str, acknowledged: int) -> None:
    place: Path | str = tmp_path / "store.db"
    if database == "postgres":
        place = request.getfixturevalue("postgres").make(f"k{abs(hash(str(tmp_path)))}")
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(place)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledged)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
    last = max(int(line) for line in lines if line.endswith("\n"))
    async with opened(place) as store:
        found = await store.dict_get("di-1", b"last")
        assert found is not None
        assert int(found[0]) >= last
        assert len(await store.queue_load("qu-1")) >= last + 1


@contextlib.asynccontextmanager
async def opened(place: Path | str) -> AsyncIterator[Store]:
    """The database of a killed server may take a moment to notice that it is gone."""
    async with asyncio.timeout(BOUND_S):
        while True:
            store = SqlStore(place)
            try:
                await store.open()
                break
            except ConflictError:
                await store.close()
                await asyncio.sleep(0.1)
    yield store
    await store.close()


async def test_relaxed_writes_reach_the_disk_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from squall.store import sql

    synced = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = sql.sync

    def watch(place: Path | str) -> None:
        real(place)
        loop.call_soon_threadsafe(synced.set)

    monkeypatch.setattr(sql, "sync", watch)
    store = SqlStore(tmp_path / "store.db")
    await store.open()
    await store.dict_put("di-1", [(b"k", b"v")], 1.0)
    async with asyncio.timeout(BOUND_S):
        await synced.wait()
    await store.close()


async def test_two_servers_do_not_share_a_postgres(postgres: Postgres) -> None:
    url = postgres.make("shared")
    first, second = SqlStore(url), SqlStore(url)
    await first.open()
    with pytest.raises(ConflictError, match="another Squall server"):
        await second.open()
    await second.close()
    await first.close()
    async with opened(url):
        pass


@pytest.mark.parametrize(("url", "says"), [("mysql://x/y", "mysql"), ("no url", "no URL"), ("postgresql://nobody:hush@/none?host=/nowhere", "does not answer")])
async def test_urls_that_lead_nowhere(url: str, says: str) -> None:
    with pytest.raises((InvalidError, ConnectionError), match=says) as caught:
        await SqlStore(url).open()
    assert "hush" not in str(caught.value)


@pytest.mark.slow
async def test_a_database_that_goes_away_and_comes_back_loses_nothing() -> None:
    """Killed under load: calls wait, what was acknowledged is there, and everything goes on."""
    postgres = Postgres()
    postgres.start()
    try:
        store = SqlStore(postgres.make("away"))
        await store.open()
        accepted: list[int] = []

        async def spawn(worker: int) -> None:
            for number in range(worker * 10_000, worker * 10_000 + 400):
                await store.accept([InputRow(CallId("fc-1"), number, FunctionId("fu-1"), b"", 1.0)])
                accepted.append(number)

        work = asyncio.gather(*(spawn(worker) for worker in range(8)))
        while len(accepted) < 400:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(postgres.kill)
        seen = len(accepted)
        reading = asyncio.ensure_future(store.pending(1))
        await asyncio.sleep(0.5)
        assert len(accepted) <= seen + 8
        assert not reading.done()
        await asyncio.to_thread(postgres.start)
        async with asyncio.timeout(40):
            await work
            assert len(await reading) == 1
        there = {row.index for row in await store.call_inputs(CallId("fc-1"))}
        assert set(accepted) <= there
        assert len(accepted) == 8 * 400
        await store.close()
    finally:
        postgres.remove()
