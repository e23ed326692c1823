"""Secrets, dicts, queues and leases as the server has them, over a real store and without containers."""

import asyncio
import base64
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from squall.control.objects import storage as state_module
from squall.control.objects.ephemeral_budget import Limits
from squall.control.objects.queues import QueueBox
from squall.control.objects.secrets import KEY_VARIABLE, Keys, Secrets
from squall.control.objects.storage import State
from squall.model.errors import AlreadyExistsError, ConflictError, DataLossError, InvalidError, NotFoundError, RequestSizeError, ResourceExhaustedError
from squall.model.ids import AppId, FunctionId
from squall.model.specs import FunctionSpec, SourceFile
from squall.model.states import AppState
from squall.store.blobs import BlobDirectory
from squall.store.rows import AppRow, FunctionRow
from squall.store.sql import SqlStore
from squall.wire.state import CREATE, DICT, ENSURE, LOOK_UP, MERGE, QUEUE, REFUSE, REPLACE, SECRET, VOLUME
from support.waiting import wait_until_async


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore(tmp_path / "store.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def make(store: SqlStore, tmp_path: Path) -> Callable[..., State]:
    """A state over the same data each time: what a server that starts again sees."""
    return lambda **more: State(store=store, blobs=BlobDirectory(tmp_path / "blobs"), data=tmp_path, owner=None, environment_of=lambda app: "main", **more)


@pytest.fixture
async def state(make: Callable[[], State]) -> AsyncIterator[State]:
    state = make()
    await state.open()
    yield state
    await state.close()


# --- secrets ---


async def values_of(state: State, reference: str) -> dict[str, str]:
    return await state.secrets.resolve([reference])


async def test_values_are_encrypted_and_only_resolving_gives_them(state: State, store: SqlStore, tmp_path: Path) -> None:
    row, keys = await state.secrets.put("tokens", "main", {"TOKEN": "hush-hush"}, REFUSE)
    assert keys == ("TOKEN",)
    assert await values_of(state, "main/tokens") == {"TOKEN": "hush-hush"}
    assert await values_of(state, row.id) == {"TOKEN": "hush-hush"}
    await store.set_object(row.id, used_at=1.0)  # the log of the database has every version
    for path in tmp_path.glob("store.db*"):
        assert b"hush" not in path.read_bytes()
    assert (tmp_path / "secrets.key").stat().st_mode & 0o777 == 0o600


async def test_the_same_values_look_different_each_time(state: State, store: SqlStore) -> None:
    for name in ("a", "b"):
        await state.secrets.put(name, "main", {"A": "1"}, REFUSE)
    first, second = await store.objects(SECRET)
    assert first.data != second.data


async def test_a_ciphertext_in_another_secrets_place_is_not_taken(state: State, store: SqlStore) -> None:
    """Who can write to the store must not make a function get the values of another secret."""
    one, _ = await state.secrets.put("one", "main", {"A": "1"}, REFUSE)
    two, _ = await state.secrets.put("two", "main", {"A": "2"}, REFUSE)
    rich = await store.object_by_id(one.id)
    assert rich is not None
    await store.set_object(two.id, data=rich.data)
    with pytest.raises(DataLossError, match="two"):
        await values_of(state, "main/two")
    await store.set_object(one.id, data=rich.data[:-1] + bytes([rich.data[-1] ^ 1]))
    with pytest.raises(DataLossError, match="one"):
        await values_of(state, "main/one")


async def test_the_wrong_key_says_so_and_changes_nothing(state: State, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await state.secrets.put("tokens", "main", {"A": "hush"}, REFUSE)
    before = await store.objects(SECRET)
    monkeypatch.setenv(KEY_VARIABLE, base64.urlsafe_b64encode(os.urandom(32)).decode())
    other = Secrets(state.names, Keys(tmp_path / "secrets.key"))
    with pytest.raises(DataLossError, match=KEY_VARIABLE):
        await other.resolve(["main/tokens"])
    with pytest.raises(DataLossError):
        await other.put("tokens", "main", {"B": "1"}, MERGE)
    assert await store.objects(SECRET) == before
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(InvalidError, match="32 random bytes"):
        await Secrets(state.names, Keys(tmp_path / "secrets.key")).put("x", "main", {"A": "1"}, REFUSE)


async def test_create_replace_merge(state: State) -> None:
    await state.secrets.put("s", "main", {"A": "1", "B": "1"}, REFUSE)
    with pytest.raises(AlreadyExistsError):
        await state.secrets.put("s", "main", {"A": "2"}, REFUSE)
    _, keys = await state.secrets.put("s", "main", {"B": "2", "C": "2"}, MERGE, ["A"])
    assert sorted(keys) == ["B", "C"]
    assert await values_of(state, "main/s") == {"B": "2", "C": "2"}
    await state.secrets.put("s", "main", {"D": "3"}, REPLACE)
    assert await values_of(state, "main/s") == {"D": "3"}
    with pytest.raises(NotFoundError):
        await state.secrets.put("none", "main", {"A": "1"}, MERGE)
    with pytest.raises(InvalidError, match="MISSING"):
        await state.secrets.find("s", "main", ["D", "MISSING"])
    with pytest.raises(InvalidError) as caught:
        await state.secrets.put("long", "main", {"A": "hush" * 10_000}, REFUSE)
    assert "hush" not in str(caught.value)


async def test_anonymous_secrets_are_the_same_for_the_same_values(state: State, store: SqlStore) -> None:
    one, _ = await state.secrets.put("", "main", {"A": "1", "B": "2"}, REFUSE)
    two, _ = await state.secrets.put("", "main", {"B": "2", "A": "1"}, REFUSE)
    other, _ = await state.secrets.put("", "main", {"A": "1", "B": "3"}, REFUSE)
    assert one.id == two.id != other.id
    assert hashlib.sha256(msgspec.msgpack.encode([("A", "1"), ("B", "2")])).hexdigest()[:32] not in one.id


async def test_a_rotated_key_and_one_that_was_killed_half_way(state: State, store: SqlStore, make: Callable[[], State], tmp_path: Path) -> None:
    await state.secrets.put("s", "main", {"A": "1"}, REFUSE)
    key = (tmp_path / "secrets.key").read_text()
    assert await state.secrets.rotate() == 1
    assert (tmp_path / "secrets.key").read_text() != key
    assert await values_of(state, "main/s") == {"A": "1"}
    # Killed after the new key was written, and before the store knew of it.
    keys = Keys(tmp_path / "secrets.key")
    keys.begin_rotation()
    assert await values_of(make(), "main/s") == {"A": "1"}
    # Killed after the store was changed, and before the new key took the old one's place.
    ended = Keys.end_rotation
    try:
        Keys.end_rotation = lambda self: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[assignment,method-assign]
        with pytest.raises(KeyboardInterrupt):
            await state.secrets.rotate()
    finally:
        Keys.end_rotation = ended  # type: ignore[method-assign]
    assert await values_of(make(), "main/s") == {"A": "1"}
    await state.secrets.put("late", "main", {"A": "2"}, REFUSE)
    assert await make().secrets.rotate() == 2
    assert not (tmp_path / "secrets.key.new").exists()
    assert await values_of(make(), "main/late") == {"A": "2"}


# --- leases ---


async def test_ephemeral_objects_end_after_their_holder_left(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "LEASE_S", 0.05)
    holder, other = object(), object()
    rows = [await state.open_object(kind, "", "", LOOK_UP, holder) for kind in (VOLUME, DICT, QUEUE)]
    place = tmp_path / "volumes" / rows[0].id
    assert place.is_dir()
    state.hold(rows[1].id, other)
    state.release(holder)
    await wait_until_async(lambda: not place.exists() and not state.is_ephemeral(rows[2].id), "the end of what nobody holds")
    assert state.is_ephemeral(rows[1].id)
    with pytest.raises(NotFoundError, match="ephemeral"):
        await state.queue_box(rows[2].id)


async def test_a_holder_that_comes_back_in_time_keeps_its_object(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "LEASE_S", 0.05)
    first, second = object(), object()
    row = await state.open_object(DICT, "", "", LOOK_UP, first)
    state.release(first)
    await state.open_object(DICT, "", "", LOOK_UP, second, row.id)
    state.hold(row.id, second)
    await asyncio.sleep(0.15)
    assert state.is_ephemeral(row.id)


async def test_a_server_that_starts_removes_ephemeral_volumes_and_half_uploads_of_before(make: Callable[[], State], tmp_path: Path) -> None:
    killed = make()
    await killed.open()
    row = await killed.open_object(VOLUME, "", "", LOOK_UP, object())
    named = await killed.open_object(VOLUME, "", "named", ENSURE, object())
    (tmp_path / "volumes" / named.id / "file").touch()
    (tmp_path / "volumes" / ".staging" / "ubroken").touch()
    killed.volumes.close()  # as the kernel does
    again = make()
    await again.open()
    assert not (tmp_path / "volumes" / row.id).exists()
    assert not again.volumes.quarantine.exists()
    assert (tmp_path / "volumes" / named.id / "file").exists()
    assert list((tmp_path / "volumes" / ".staging").iterdir()) == []
    await again.close()
    await killed.close()


async def test_environments_are_checked_and_empty_out(state: State) -> None:
    with pytest.raises(NotFoundError, match="squall environment create dev"):
        await state.open_object(DICT, "dev", "d", ENSURE, object())
    await state.environments.create("dev")
    row = await state.open_object(DICT, "dev", "d", CREATE, object())
    await (await state.dict_box(row.id)).put([(b"k", b"v")], absent=False)
    await state.drop("environment", "", "dev")
    with pytest.raises(NotFoundError):
        await state.dict_box(row.id)
    with pytest.raises(ConflictError):
        await state.drop("environment", "", "main")


# --- what is collected ---


async def test_what_nothing_refers_to_is_collected_when_it_is_old(state: State, store: SqlStore, tmp_path: Path) -> None:
    long_ago = time.time() - 30 * 86_400
    ids = {}
    for name, app_state in (("used", AppState.DEPLOYED), ("over", AppState.STOPPED)):
        secret, _ = await state.secrets.put("", "main", {"A": name}, REFUSE)
        digest = hashlib.sha256(name.encode()).hexdigest()
        state.blobs.put(digest, name.encode())
        ids[name] = (secret.id, digest)
        await store.save_app(AppRow(AppId(f"ap-{name}"), name, name, "main", app_state, 1.0))
        spec = FunctionSpec("f", "m", "f", 0, secrets=(secret.id,), source=(SourceFile("/root/m.py", digest, 1),))
        await store.save_functions([FunctionRow(FunctionId(f"fu-{name}"), AppId(f"ap-{name}"), "f", msgspec.msgpack.encode(spec), None, 1.0)])
        # Old only now: the state collects by itself as well, and must not find it before its app.
        await store.set_object(secret.id, used_at=long_ago)
        os.utime(state.blobs.path(digest), (long_ago, long_ago))
    fresh, _ = await state.secrets.put("", "main", {"A": "fresh"}, REFUSE)
    named, _ = await state.secrets.put("named", "main", {"A": "1"}, REFUSE)
    await store.set_object(named.id, used_at=long_ago)
    rows = await state.collect(dry=True)
    assert sorted(row["id"] for row in rows) == sorted(ids["over"])
    assert state.blobs.missing([ids["used"][1]]) == ()
    os.utime(state.blobs.path(ids["over"][1]), (long_ago, long_ago))
    assert await state.collect(dry=False) == rows
    assert state.blobs.missing([ids["over"][1], ids["used"][1]]) == (ids["over"][1],)
    assert {row.id for row in await store.objects(SECRET)} == {ids["used"][0], fresh.id, named.id}
    assert await state.collect(dry=False) == []


# --- dicts and queues ---


async def test_a_read_sees_every_write_that_returned(state: State) -> None:
    """Many writers and readers of one key: what is read is never older than what was written before the read began."""
    row = await state.open_object(DICT, "", "d", ENSURE, object())
    box = await state.dict_box(row.id)
    done = 0

    async def write() -> None:
        nonlocal done
        for number in range(1, 400):
            await box.put([(b"k", b"%d" % number)], absent=False)
            done = number
            if number % 7 == 0:
                await box.take(b"other")

    async def read() -> None:
        while done < 399:
            least = done
            value = await box.get(b"k")
            assert int(value or b"0") >= least
            await asyncio.sleep(0)

    await asyncio.gather(write(), read(), read())


async def test_limits_hold_on_the_server_too(state: State) -> None:
    row = await state.open_object(QUEUE, "", "q", ENSURE, object())
    box = await state.queue_box(row.id)
    for name, values, ttl_s, error in (
        ("", [bytes(2 << 20)], 10.0, RequestSizeError),
        ("", [b""] * 5_001, 10.0, InvalidError),
        ("x" * 65, [b""], 10.0, InvalidError),
        ("", [b""], 0.0, InvalidError),
    ):
        with pytest.raises(error):
            await box.put(name, values, 0.0, ttl_s)
    assert await box.len(None) == 0


async def test_a_named_queue_is_there_after_a_restart_and_taken_items_are_not(state: State, store: SqlStore, make: Callable[[], State]) -> None:
    row = await state.open_object(QUEUE, "", "q", ENSURE, object())
    box = await state.queue_box(row.id)
    await box.put("", [b"1", b"2", b"3"], None, 100.0)
    assert [value for _, value in await box.get("", 2, None)] == [b"1", b"2"]
    await box.put("", [b"4"], None, 100.0)
    again = await make().queue_box(row.id)
    assert [value for _, value in await again.get("", 9, None)] == [b"3", b"4"]


@pytest.mark.parametrize("durable", [True, False])
async def test_nothing_is_lost_or_doubled_between_many_who_put_and_take_and_give_up(store: SqlStore, durable: bool) -> None:
    box = QueueBox("qu-1", store if durable else None)
    taken: list[bytes] = []
    producers, each = 8, 150
    # By chance: consumers that all gave up whenever the same items came round would hand them to one another for ever.
    chance = random.Random(1)

    async def produce(producer: int) -> None:
        for number in range(0, each, 3):
            assert await box.put("", [b"%d-%d" % (producer, number + k) for k in range(3)], None, 100.0)

    async def consume() -> None:
        while len(taken) < producers * each:
            waiting = asyncio.ensure_future(box.get("", 5, 0.5))
            if chance.random() < 1 / 3:  # give up at whatever moment this is
                await asyncio.sleep(0)
                waiting.cancel()
            try:
                taken.extend(value for _, value in await waiting)
            except asyncio.CancelledError:
                continue

    await asyncio.gather(*(produce(number) for number in range(producers)), *(consume() for _ in range(6)))
    assert sorted(taken) == sorted(b"%d-%d" % (producer, number) for producer in range(producers) for number in range(each))
    assert await box.len("") == 0


async def test_who_waits_is_served_in_order_also_behind_one_who_wants_much(store: SqlStore) -> None:
    box = QueueBox("qu-1", None)
    order: list[str] = []

    async def wait(name: str, n: int) -> None:
        got = await box.get("", n, None)
        order.append(f"{name}{len(got)}")

    tasks = []
    for name, n in (("a", 1), ("b", 3), ("c", 1)):
        tasks.append(asyncio.ensure_future(wait(name, n)))
        await asyncio.sleep(0)
    await box.put("", [b""] * 5, None, 100.0)
    await asyncio.gather(*tasks)
    assert order == ["a1", "b3", "c1"]


async def test_a_large_put_is_not_overtaken_by_small_ones(store: SqlStore) -> None:
    box = QueueBox("qu-1", None)
    await box.put("", [b"x"] * 4_999, None, 100.0)
    large = asyncio.ensure_future(box.put("", [b"large"] * 10, None, 100.0))
    await asyncio.sleep(0)
    assert not await box.put("", [b"small"], 0.0, 100.0)
    await box.get("", 20, None)
    assert await large
    assert await box.put("", [b"small"], 0.0, 100.0)
    assert (await box.get("", 5_000, None))[-1][1] == b"small"


async def test_partitions_that_are_empty_take_no_memory(store: SqlStore) -> None:
    box = QueueBox("qu-1", None)
    for number in range(1_000):
        await box.put(f"p{number}", [b""], None, 100.0)
        await box.get(f"p{number}", 1, None)
        assert await box.len(f"p{number}") == 0
    assert len(box._partitions) == 0


async def test_ephemeral_dicts_and_queues_of_one_owner_share_a_limit_of_memory(make: Callable[..., State]) -> None:
    state = make(limits=Limits(memory=1 << 20))
    one, other, full = object(), object(), "SQUALL_EPHEMERAL_MEMORY_MIB"
    row = await state.open_object(DICT, "", "", ENSURE, one)
    mine = await state.dict_box(row.id)
    await mine.put([(b"a", bytes(600_000))], absent=False)
    await mine.put([(b"a", bytes(700_000))], absent=False)  # in its place
    with pytest.raises(ResourceExhaustedError, match=full):
        await mine.put([(b"b", bytes(400_000))], absent=False)
    second = await state.open_object(QUEUE, "", "", ENSURE, one)
    queue = await state.queue_box(second.id)
    with pytest.raises(ResourceExhaustedError, match=full):
        await queue.put("", [bytes(400_000)], None, 100.0)
    assert await queue.len("") == 0
    await queue.put("", [bytes(100_000)] * 2, None, 100.0)
    theirs = await state.dict_box((await state.open_object(DICT, "", "", ENSURE, other)).id)
    await theirs.put([(b"a", bytes(900_000))], absent=False)  # another's is another account
    assert await mine.take(b"a") is not None
    taken = await queue.get("", 1, None)
    await queue.put("", [bytes(700_000)], None, 100.0)
    await queue.give_back("", taken)
    assert await queue.clear(None) == 3
    await mine.put([(b"c", bytes(1_000_000))], absent=False)
    for each in (row.id, second.id):
        await state.end(each)
    assert list(state._accounts) == [other]


async def test_objects_that_hold_nothing_count_too(make: Callable[..., State]) -> None:
    state, one = make(limits=Limits(memory=1 << 20)), object()
    with pytest.raises(ResourceExhaustedError):
        for _ in range(1_000):
            await state.open_object(DICT, "", "", ENSURE, one)
