"""The suite of `squall.store.contract`: it runs over every database (`conftest.make`), and anything that calls itself a store has to pass it."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from squall.model import errors
from squall.model.ids import AppId, CallId, ContainerId, FunctionId, ImageId
from squall.model.states import AppState, ContainerState, InputState
from squall.store.contract import Store
from squall.store.rows import AppRow, ContainerRow, EventRow, FunctionRow, InputRow
from squall.store.sql import SqlStore
from squall.wire.messages import CANCELLED, FAILED, OK, RAISED

CALL, FUNCTION, APP = CallId("fc-1"), FunctionId("fu-1"), AppId("ap-1")


@pytest.fixture
async def store(make: Callable[[], Store]) -> AsyncIterator[Store]:
    store = make()
    await store.open()
    yield store
    await store.close()


def an_input(index: int = 0, call: str = CALL, data: bytes = b"args", **fields: object) -> InputRow:
    return InputRow(CallId(call), index, FUNCTION, data, created_at=100.0, **fields)  # type: ignore[arg-type]


def an_app(name: str = "one", **fields: object) -> AppRow:
    given = {"description": "", "environment": "main", "state": AppState.RUNNING, "created_at": 100.0, **fields}
    return AppRow(AppId(f"ap-{name}"), name, **given)  # type: ignore[arg-type]


def a_container(name: str = "one", **fields: object) -> ContainerRow:
    given = {"app": APP, "state": ContainerState.STARTING, "image": ImageId("im-1"), "created_at": 100.0, **fields}
    return ContainerRow(ContainerId(f"ct-{name}"), function=FUNCTION, **given)  # type: ignore[arg-type]


async def state_of(store: Store, index: int = 0, call: str = CALL) -> InputState | None:
    row = await store.input(CallId(call), index)
    return None if row is None else row.state


# --- accepting ---


async def test_an_accepted_input_is_read_back_as_it_was_given(store: Store) -> None:
    given = an_input(data=b"\x00\xff", method="m", parameters=b"p", parent="in-0")
    await store.accept([given])
    row = await store.input(CALL, 0)
    assert row is not None
    assert row.sequence > 0
    assert row == InputRow(CALL, 0, FUNCTION, b"\x00\xff", 100.0, "m", b"p", "in-0", sequence=row.sequence)


async def test_an_input_that_is_known_is_left_as_it_is_in_whatever_state(store: Store) -> None:
    await store.accept([an_input(data=b"first")])
    await store.accept([an_input(data=b"again"), an_input(1)])  # A client that lost the answer sends again, with news beside it.
    await store.claim(CALL, 0, 1, 101.0)
    running = await store.input(CALL, 0)
    assert running is not None
    assert (running.data, running.state) == (b"first", InputState.RUNNING)
    await store.finish(CALL, 0, 1, OK, b"out", 102.0, None)
    await store.accept([an_input(data=b"once more")])
    row = await store.input(CALL, 0)
    assert row is not None
    assert (row.data, row.state, row.output) == (b"", InputState.SUCCEEDED, b"out")
    assert await state_of(store, 1) is InputState.QUEUED


async def test_many_inputs_are_looked_up_by_their_keys(store: Store) -> None:
    calls = [CallId(f"fc-{number}") for number in range(3)]
    await store.accept([InputRow(call, index, FUNCTION, b"", 1.0) for call in calls for index in range(400)])
    wanted = [(call, index) for call in (*calls[:2], "fc-unknown") for index in range(0, 800, 2)]
    found = {(row.call, row.index) for row in await store.known_inputs(wanted)}
    assert found == {(call, index) for call in calls[:2] for index in range(0, 400, 2)}
    assert await store.known_inputs([]) == []


async def test_accept_takes_all_or_none(store: Store) -> None:
    broken = an_input(1, data="not bytes, but beyond what the column takes \ud800")  # type: ignore[arg-type]
    with pytest.raises(Exception):  # noqa: B017 - which error a defect of the caller gives is not part of the contract.
        await store.accept([an_input(0), broken])
    assert await store.call_inputs(CALL) == []


async def test_one_bad_write_does_not_take_its_neighbours_with_it(store: Store) -> None:
    broken = an_input(0, call="fc-bad", data="\ud800")  # type: ignore[arg-type]
    results = await asyncio.gather(*(store.accept([row]) for row in (an_input(0), broken, an_input(1))), return_exceptions=True)
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
    assert [row.index for row in await store.call_inputs(CALL)] == [0, 1]


async def test_pending_gives_live_inputs_in_the_order_of_acceptance_and_in_pages(store: Store) -> None:
    await store.accept([an_input(0, call="fc-9"), an_input(0, call="fc-1")])
    await store.accept([an_input(2), an_input(1)])
    await store.claim(CallId("fc-9"), 0, 1, 101.0)  # A running input is pending too: its server may have died.
    await store.claim(CALL, 2, 2, 101.0)
    await store.finish(CALL, 2, 2, OK, b"", 102.0, None)
    first = await store.pending(2)
    rest = await store.pending(2, after=first[-1].sequence)
    assert [(row.call, row.index) for row in first + rest] == [("fc-9", 0), ("fc-1", 0), ("fc-1", 1)]
    assert await store.pending(2, after=rest[-1].sequence) == []


async def test_pending_is_answered_in_order_with_the_ends_of_inputs(store: Store) -> None:
    """Else a restarted server would take up an input whose outcome it has just delivered."""
    await store.accept([an_input(index) for index in range(2000)])
    said: list[str] = []

    async def end() -> None:
        await store.finish(CALL, 0, 0, OK, b"", 102.0, None)
        said.append("ended")

    async def look() -> None:
        said.append("shown" if any(row.index == 0 for row in await store.pending(2000)) else "not shown")

    await asyncio.gather(look(), end())
    assert said in (["shown", "ended"], ["ended", "not shown"], ["not shown", "ended"])


# --- attempts and their tokens ---


async def test_a_claim_begins_an_attempt(store: Store) -> None:
    await store.accept([an_input()])
    assert await store.claim(CALL, 0, 7, 101.0)
    row = await store.input(CALL, 0)
    assert row is not None
    assert (row.state, row.token, row.attempts, row.started_at) == (InputState.RUNNING, 7, 1, 101.0)
    assert await store.highest_token() == 7


@pytest.mark.parametrize("token", [6, 7])
async def test_a_claim_with_a_token_that_is_not_newer_has_no_effect(store: Store, token: int) -> None:
    await store.accept([an_input()])
    await store.claim(CALL, 0, 7, 101.0)
    assert not await store.claim(CALL, 0, token, 102.0)
    row = await store.input(CALL, 0)
    assert row is not None
    assert (row.token, row.attempts, row.started_at) == (7, 1, 101.0)


async def test_an_unknown_input_can_not_be_claimed_finished_or_requeued(store: Store) -> None:
    assert not await store.claim(CALL, 0, 1, 101.0)
    assert not await store.finish(CALL, 0, 0, OK, b"", 101.0, None)
    assert not await store.requeue(CALL, 0, 0, platform=True)


@pytest.mark.parametrize(
    ("status", "state"), [(OK, InputState.SUCCEEDED), (RAISED, InputState.FAILED), (FAILED, InputState.FAILED), (CANCELLED, InputState.CANCELLED)]
)
async def test_finish_keeps_the_outcome(store: Store, status: int, state: InputState) -> None:
    await store.accept([an_input()])
    await store.claim(CALL, 0, 7, 101.0)
    assert await store.finish(CALL, 0, 7, status, b"out", 102.0, 900.0)
    row = await store.input(CALL, 0)
    assert row is not None
    assert (row.state, row.status, row.output, row.finished_at, row.expires_at) == (state, status, b"out", 102.0, 900.0)


async def test_a_result_of_an_attempt_that_was_taken_over_changes_nothing(store: Store) -> None:
    await store.accept([an_input()])
    await store.claim(CALL, 0, 1, 101.0)
    assert await store.claim(CALL, 0, 2, 102.0)  # The node of attempt 1 was thought lost ...
    assert not await store.finish(CALL, 0, 1, OK, b"late", 103.0, None)  # ... and comes back.
    assert not await store.requeue(CALL, 0, 1, platform=True)
    assert await store.finish(CALL, 0, 2, OK, b"right", 104.0, None)
    row = await store.input(CALL, 0)
    assert row is not None
    assert (row.output, row.attempts, row.platform_retries) == (b"right", 2, 0)


async def test_an_ended_input_can_not_be_ended_claimed_or_requeued_again(store: Store) -> None:
    await store.accept([an_input()])
    await store.claim(CALL, 0, 1, 101.0)
    await store.finish(CALL, 0, 1, OK, b"out", 102.0, None)
    assert not await store.finish(CALL, 0, 1, FAILED, b"twice", 103.0, None)
    assert not await store.claim(CALL, 0, 2, 103.0)
    assert not await store.requeue(CALL, 0, 1, platform=False)
    row = await store.input(CALL, 0)
    assert row is not None
    assert (row.state, row.output, row.token) == (InputState.SUCCEEDED, b"out", 1)


async def test_an_input_that_was_never_claimed_ends_with_token_0(store: Store) -> None:
    await store.accept([an_input(0), an_input(1)])
    assert await store.finish(CALL, 0, 0, FAILED, b"no image", 101.0, None)
    await store.claim(CALL, 1, 1, 101.0)
    assert not await store.finish(CALL, 1, 0, FAILED, b"no image", 102.0, None)


@pytest.mark.parametrize(("platform", "retries"), [(True, 1), (False, 0)])
async def test_requeue_gives_the_input_back_with_its_place_and_its_token(store: Store, platform: bool, retries: int) -> None:
    await store.accept([an_input(0), an_input(1)])
    await store.claim(CALL, 0, 5, 101.0)
    assert await store.requeue(CALL, 0, 5, platform=platform)
    assert [row.index for row in await store.pending(9)] == [0, 1]
    row = await store.input(CALL, 0)
    assert row is not None
    assert (row.state, row.token, row.attempts, row.platform_retries) == (InputState.QUEUED, 5, 1, retries)
    assert not await store.requeue(CALL, 0, 5, platform=platform)  # It is not running.
    assert not await store.claim(CALL, 0, 5, 102.0)
    assert await store.claim(CALL, 0, 6, 102.0)


# --- cancelling and expiring ---


async def test_cancelling_a_call_ends_its_live_inputs_and_says_which(store: Store) -> None:
    await store.accept([an_input(index) for index in (3, 0, 1, 2)] + [an_input(0, call="fc-2")])
    await store.claim(CALL, 0, 1, 101.0)
    await store.finish(CALL, 0, 1, OK, b"out", 102.0, None)
    await store.claim(CALL, 1, 2, 101.0)
    assert await store.cancel_call(CALL, (), 103.0, 900.0) == [1, 2, 3]
    assert await store.cancel_call(CALL, (), 104.0, 900.0) == []
    assert not await store.finish(CALL, 1, 2, OK, b"too late", 105.0, None)
    row = await store.input(CALL, 1)
    assert row is not None
    assert (row.state, row.status, row.finished_at, row.expires_at) == (InputState.CANCELLED, CANCELLED, 103.0, 900.0)
    assert await state_of(store, 0) is InputState.SUCCEEDED
    assert await state_of(store, 0, "fc-2") is InputState.QUEUED


async def test_some_inputs_of_a_call_can_be_cancelled(store: Store) -> None:
    await store.accept([an_input(index) for index in range(4)])
    assert await store.cancel_call(CALL, [2, 0, 77], 101.0, None) == [0, 2]
    assert [row.index for row in await store.pending(9)] == [1, 3]


@pytest.mark.parametrize(("now", "expired"), [(899.9, 0), (900.0, 1), (900.1, 1)])
async def test_an_outcome_is_kept_until_just_before_its_expiry(store: Store, now: float, expired: int) -> None:
    await store.accept([an_input(0), an_input(1), an_input(2)])
    for index, expires_at in enumerate([900.0, None]):
        await store.claim(CALL, index, 1, 101.0)
        await store.finish(CALL, index, 1, OK, b"out", 102.0, expires_at)
    assert await store.expire(now, 10) == expired
    assert await store.expire(now, 10) == 0
    row = await store.input(CALL, 0)
    assert row is not None
    assert (row.state, row.output) == ((InputState.EXPIRED, None) if expired else (InputState.SUCCEEDED, b"out"))
    assert [await state_of(store, index) for index in (1, 2)] == [InputState.SUCCEEDED, InputState.QUEUED]


# --- apps, functions, containers, events ---


async def test_apps_are_saved_replaced_and_listed_oldest_first(store: Store) -> None:
    await store.save_app(an_app("b", created_at=2.0, state=AppState.DEPLOYED))
    await store.save_app(an_app("a", created_at=3.0, detached=True))
    await store.save_app(an_app("c", created_at=1.0))
    await store.save_app(an_app("c", created_at=1.0, description="new"))
    assert [row.name for row in await store.apps()] == ["c", "b", "a"]
    assert [row.name for row in await store.apps({AppState.DEPLOYED})] == ["b"]
    assert await store.apps(()) == []
    assert await store.app(AppId("ap-a")) == an_app("a", created_at=3.0, detached=True)
    assert (await store.app(AppId("ap-c"))) == an_app("c", created_at=1.0, description="new")
    assert await store.app(AppId("ap-none")) is None


async def test_a_stopped_app_stays_stopped(store: Store) -> None:
    await store.save_app(an_app())
    assert await store.set_app_state(AppId("ap-one"), AppState.DEPLOYED, 101.0)
    assert not await store.set_app_state(AppId("ap-one"), AppState.DEPLOYED, 102.0)
    assert await store.set_app_state(AppId("ap-one"), AppState.STOPPED, 103.0)
    assert not await store.set_app_state(AppId("ap-one"), AppState.RUNNING, 104.0)
    assert not await store.set_app_state(AppId("ap-one"), AppState.STOPPED, 104.0)
    assert await store.app(AppId("ap-one")) == an_app(state=AppState.STOPPED, stopped_at=103.0)
    assert not await store.set_app_state(AppId("ap-none"), AppState.STOPPED, 104.0)


async def test_functions_of_an_app_come_by_tag(store: Store) -> None:
    rows = [FunctionRow(FunctionId(f"fu-{tag}"), APP, tag, b"\x81", ImageId("im-1"), 1.0) for tag in ("g", "f")]
    await store.save_functions([*rows, FunctionRow(FunctionId("fu-x"), AppId("ap-other"), "x", b"", None, 1.0)])
    assert [row.tag for row in await store.functions(APP)] == ["f", "g"]
    assert await store.function(FunctionId("fu-g")) == rows[0]
    assert await store.function(FunctionId("fu-none")) is None


async def test_a_containers_states_carry_their_times_and_stopped_is_final(store: Store) -> None:
    one = ContainerId("ct-one")
    await store.save_container(a_container())
    assert await store.set_container_state(one, ContainerState.STARTING, 101.0, pid=42)
    assert await store.set_container_state(one, ContainerState.READY, 102.0)
    assert await store.set_container_state(one, ContainerState.READY, 103.0)
    assert await store.set_container_state(one, ContainerState.STOPPED, 104.0, reason="oom")
    assert not await store.set_container_state(one, ContainerState.READY, 105.0)
    expected = a_container(state=ContainerState.STOPPED, ready_at=102.0, stopped_at=104.0, reason="oom", pid=42)
    assert await store.containers() == [expected]
    assert not await store.set_container_state(ContainerId("ct-none"), ContainerState.STOPPED, 105.0)


async def test_containers_are_listed_by_app_and_by_life(store: Store) -> None:
    await store.save_container(a_container("b", created_at=2.0))
    await store.save_container(a_container("a", created_at=1.0, state=ContainerState.STOPPED))
    await store.save_container(a_container("c", created_at=3.0, app=AppId("ap-2")))
    assert [row.id for row in await store.containers()] == ["ct-a", "ct-b", "ct-c"]
    assert [row.id for row in await store.containers(APP)] == ["ct-a", "ct-b"]
    assert [row.id for row in await store.containers(live_only=True)] == ["ct-b", "ct-c"]
    assert [row.id for row in await store.containers(APP, live_only=True)] == ["ct-b"]


async def test_events_are_kept_in_order_with_the_next_write(store: Store) -> None:
    events = [EventRow(float(number), "ct-one", f"kind-{number}", "d") for number in range(5)]
    store.record(events[:2])
    store.record(events[2:])
    store.record([EventRow(9.0, "ct-two", "other")])
    await store.save_app(an_app())
    assert await store.events("ct-one") == events


async def test_events_reach_the_disk_without_a_write_and_at_the_end(make: Callable[[], Store]) -> None:
    store = make()
    await store.open()
    store.record([EventRow(1.0, "ct-one", "first")])
    async with asyncio.timeout(5):
        while not await store.events("ct-one"):
            await asyncio.sleep(0.01)
    store.record([EventRow(2.0, "ct-one", "last")])
    await store.close()
    again = make()
    await again.open()
    assert [event.kind for event in await again.events("ct-one")] == ["first", "last"]
    await again.close()


async def test_too_many_events_are_dropped_and_counted(store: Store) -> None:
    store.record([EventRow(1.0, "ct-one", "kind")] * 50_000)
    await store.save_app(an_app())
    kept = len(await store.events("ct-one"))
    assert 0 < kept < 50_000
    assert store.statistics().events_dropped == 50_000 - kept


# --- opening, closing, cancelling ---


async def test_everything_is_there_after_opening_again(make: Callable[[], Store]) -> None:
    store = make()
    await store.open()
    await store.accept([an_input()])
    await store.claim(CALL, 0, 3, 101.0)
    await store.close()
    again = make()
    await again.open()
    assert [row.token for row in await again.pending(9)] == [3]
    assert await again.highest_token() == 3
    await again.close()


async def test_a_closed_store_says_so_and_closing_twice_is_harmless(make: Callable[[], Store]) -> None:
    store = make()
    await store.open()
    waiting = [asyncio.ensure_future(store.accept([an_input(index)])) for index in range(100)]
    await asyncio.sleep(0)  # They are submitted, and none is committed yet.
    await store.close()
    await asyncio.gather(*waiting)  # What was submitted before is finished.
    await store.close()
    with pytest.raises(errors.ClientClosed):
        await store.accept([an_input()])
    with pytest.raises(errors.ClientClosed):
        await store.input(CALL, 0)
    store.record([EventRow(1.0, "ct-one", "kind")])


async def test_a_cancelled_writer_harms_nobody(store: Store) -> None:
    tasks = [asyncio.ensure_future(store.accept([an_input(index)])) for index in range(200)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert set(results[1::2]) == {1}
    kept = {row.index for row in await store.call_inputs(CALL)}
    assert kept >= set(range(1, 200, 2))
    assert store.statistics().queued == 0


async def test_a_thousand_spawns_at_a_time_take_few_commits(store: Store) -> None:
    before = store.statistics()
    await asyncio.gather(*(store.accept([an_input(index)]) for index in range(1_000)))
    after = store.statistics()
    assert after.writes - before.writes == 1_000
    assert after.commits - before.commits <= 20


async def test_writes_of_one_task_take_effect_in_order(store: Store) -> None:
    await store.accept([an_input()])
    results = await asyncio.gather(*(store.claim(CALL, 0, token, float(token)) for token in range(1, 200)))
    assert all(results)
    row = await store.input(CALL, 0)
    assert row is not None
    assert (row.token, row.attempts) == (199, 199)


# --- bad luck ---

_WRITER = """
import asyncio, sys
from pathlib import Path
from squall.store.rows import InputRow
from squall.store.sql import SqlStore

async def main():
    store = SqlStore(Path(sys.argv[1]) / "store.db")
    await store.open()
    async def spawn(call):
        for index in range(100_000):
            await store.accept([InputRow(call, index, "fu-1", b"args", 1.0)])
            print(call, index, flush=True)
    await asyncio.gather(*(spawn(f"fc-{number}") for number in range(20)))

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 500])
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, acknowledged: int) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledged)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
    if not lines[-1].endswith("\n"):
        lines.pop()
    store = SqlStore(tmp_path / "store.db")
    await store.open()
    there = {(row.call, row.index) for row in await store.pending(1_000_000)}
    await store.close()
    told = {(call, int(index)) for call, index in (line.split() for line in lines)}
    assert len(told) >= acknowledged
    assert told <= there


@pytest.mark.root
async def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "squall-test", str(tmp_path)], check=True)
    try:
        store = SqlStore(tmp_path / "store.db")
        await store.open()
        accepted = 0
        with pytest.raises(errors.ResourceExhaustedError, match="disk"):
            while True:
                await store.accept([an_input(0, call=f"fc-{accepted}", data=b"x" * 30_000), an_input(1, call=f"fc-{accepted}")])
                accepted += 1
        assert accepted > 0
        assert [(row.call, row.index) for row in await store.pending(10_000)] == [(f"fc-{number}", index) for number in range(accepted) for index in (0, 1)]
        subprocess.run(["mount", "-o", "remount,size=30m", str(tmp_path)], check=True)
        await store.accept([an_input(0, call=f"fc-{accepted}")])  # Room again: it goes on, in the same process.
        assert len(await store.pending(10_000)) == 2 * accepted + 1
        await store.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"a letter to my aunt" * 100)
    store = SqlStore(path)
    with pytest.raises(errors.DataLossError, match="store.db"):
        await store.open()
    await store.close()
    assert path.read_bytes() == b"a letter to my aunt" * 100


async def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "nowhere" / "store.db")
    with pytest.raises(errors.InvalidError, match="nowhere"):
        await store.open()
    await store.close()


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    import sqlite3

    store = SqlStore(tmp_path / "store.db")
    await store.open()
    await store.close()
    with contextlib.closing(
        sqlite3.connect(tmp_path / "store.db", autocommit=True) if sys.version_info >= (3, 12) else sqlite3.connect(tmp_path / "store.db")
    ) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()
    newer = SqlStore(tmp_path / "store.db")
    with pytest.raises(errors.VersionError, match="9999"):
        await newer.open()
    await newer.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


# --- the schema ---


def test_the_revisions_make_exactly_the_tables(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from squall.store import tables
    from squall.store.engine import ensure_schema, make_engine
    from squall.store.migrate import newest

    engine = make_engine(tmp_path / "store.db")
    ensure_schema(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), tables.metadata) == []
    assert newest() == tables.SCHEMA_VERSION


async def test_opening_a_current_database_does_not_load_the_migrations(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "store.db")
    await store.open()
    await store.close()
    program = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom squall.store.sql import SqlStore\n"
        "async def main():\n    store = SqlStore(Path(sys.argv[1]))\n    await store.open()\n    await store.close()\n"
        "asyncio.run(main())\nassert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "store.db")], check=True)


async def test_recovery_and_expiry_read_an_index_and_not_the_history(tmp_path: Path) -> None:
    from sqlalchemy import text

    store = SqlStore(tmp_path / "store.db")
    await store.open()
    questions = {
        "SELECT * FROM inputs WHERE state IN ('queued', 'running') AND sequence > 5 ORDER BY sequence LIMIT 10": "ix_inputs_live",
        "SELECT max(token) FROM inputs WHERE state IN ('queued', 'running')": "ix_inputs_live",
    }
    names = re.sub(r"\?", "1", store._retention.expire._text)
    questions[names] = "ix_inputs_expires_at"
    for question, index in questions.items():
        plan = await store._read(lambda connection, question=question: connection.execute(text(f"EXPLAIN QUERY PLAN {question}")).fetchall())
        assert index in str(plan)
    await store.close()
