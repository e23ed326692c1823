"""The suite of `squall.store.retention`, and of look-ups by the beginning of an id."""

import random
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from squall.model.ids import AppId, CallId, ContainerId, FunctionId
from squall.model.states import AppState, ContainerState, InputState
from squall.store.contract import Store
from squall.store.rows import AppRow, ContainerRow, DeploymentRow, EventRow, FunctionRow, InputRow, ScheduleRow
from squall.store.sql import SqlStore
from squall.wire.messages import OK

CALL, FUNCTION = CallId("fc-1"), FunctionId("fu-1")
ANY = 1_000


@pytest.fixture
async def store(make: Callable[[], SqlStore]) -> AsyncIterator[SqlStore]:
    store = make()
    await store.open()
    yield store
    await store.close()


async def end(store: Store, index: int, expires_at: float | None, output: bytes = b"out") -> None:
    await store.claim(CALL, index, 1, 101.0)
    assert await store.finish(CALL, index, 1, OK, output, 102.0, expires_at)


async def accepted(store: Store, count: int) -> None:
    await store.accept([InputRow(CALL, index, FUNCTION, b"args", 100.0) for index in range(count)])


async def indexes(store: Store) -> list[int]:
    return [row.index for row in await store.call_inputs(CALL)]


def a_container(name: str, app: str = "ap-1") -> ContainerRow:
    return ContainerRow(ContainerId(f"ct-{name}"), AppId(app), FUNCTION, ContainerState.STARTING, None, 100.0)


async def counts(store: Store) -> dict[str, int]:
    return {kept.kind: kept.rows for kept in await store.kept()}


# --- inputs ---


async def test_an_ended_input_keeps_its_outcome_and_not_its_arguments(store: Store) -> None:
    await accepted(store, 3)
    await end(store, 0, 900.0)
    await store.cancel_call(CALL, [1], 102.0, 900.0)
    assert [(row.data, row.output) for row in await store.call_inputs(CALL)] == [(b"", b"out"), (b"", b""), (b"args", None)]
    await store.cancel_functions([FUNCTION], 102.0, 900.0)
    assert [row.data for row in await store.call_inputs(CALL)] == [b"", b"", b""]


async def test_results_expire_in_pieces_the_oldest_first(store: Store) -> None:
    await accepted(store, 5)
    for index, expires_at in enumerate([903.0, 901.0, 902.0, 904.0]):
        await end(store, index, expires_at)
    assert await store.expire(903.0, 2) == 2
    assert [row.state for row in await store.call_inputs(CALL)][:3] == [InputState.SUCCEEDED, InputState.EXPIRED, InputState.EXPIRED]
    assert await store.expire(903.0, 2) == 1
    assert await store.expire(903.0, 2) == 0


@pytest.mark.parametrize(("before", "left"), [(899.9, [0, 1, 2, 3]), (900.0, [1, 2, 3]), (950.0, [2, 3])])
async def test_ended_inputs_go_at_their_time_and_live_ones_stay(store: Store, before: float, left: list[int]) -> None:
    await accepted(store, 4)
    await end(store, 0, 900.0)
    await store.expire(900.0, ANY)
    await end(store, 1, 950.0)  # its result is still there, and goes with it
    await end(store, 2, 951.0)
    assert await store.delete_inputs(before, ANY) == 4 - len(left)
    assert await store.delete_inputs(before, ANY) == 0
    assert await indexes(store) == left


async def test_one_piece_deletes_no_more_than_it_may(store: Store) -> None:
    await accepted(store, 6)
    for index in range(6):
        await end(store, index, 900.0 + index)
    await store.expire(901.0, ANY)
    assert await store.delete_inputs(2_000.0, 3) == 3
    assert await indexes(store) == [3, 4, 5]


async def test_an_input_that_was_deleted_may_be_accepted_again_and_gets_a_new_place(store: Store) -> None:
    await accepted(store, 1)
    await end(store, 0, 900.0)
    before = await store.input(CALL, 0)
    await store.delete_inputs(900.0, ANY)
    await accepted(store, 1)
    after = await store.input(CALL, 0)
    assert before is not None
    assert after is not None
    assert (after.state, after.sequence > before.sequence) == (InputState.QUEUED, True)


async def test_the_time_beyond_which_a_number_of_rows_lies(store: Store) -> None:
    await accepted(store, 5)
    assert await store.inputs_beyond(3) is None
    for index in range(5):
        await end(store, index, 900.0 + index)
    await store.expire(904.0, ANY)
    assert await store.inputs_beyond(5) is None
    before = await store.inputs_beyond(3)
    assert before == 901.0
    assert await store.delete_inputs(before, ANY) == 2
    assert await indexes(store) == [2, 3, 4]


# --- containers, apps, versions, events ---


async def test_stopped_containers_go_at_their_time(store: Store) -> None:
    for name in ("a", "b", "c"):
        await store.save_container(a_container(name))
    await store.set_container_state(ContainerId("ct-a"), ContainerState.STOPPED, 200.0)
    await store.set_container_state(ContainerId("ct-b"), ContainerState.STOPPED, 201.0)
    assert await store.containers_beyond(1) == 200.0
    assert await store.delete_containers(199.9, ANY) == 0
    assert await store.delete_containers(200.0, ANY) == 1
    assert [row.id for row in await store.containers()] == ["ct-b", "ct-c"]
    assert await store.delete_containers(9_000.0, ANY) == 1
    assert [row.id for row in await store.containers()] == ["ct-c"]


async def an_app(store: Store, name: str, stopped_at: float | None, *, versions: int = 0) -> None:
    await store.save_app(AppRow(AppId(name), name, "", "main", AppState.RUNNING, 100.0))
    await store.save_functions([FunctionRow(FunctionId(f"fu-{name}"), AppId(name), "f", b"", None, 100.0)])
    await store.save_container(a_container(name, name))
    await store.save_schedules([ScheduleRow(FunctionId(f"fu-{name}"), AppId(name), 100.0)])
    for number in range(1, versions + 1):
        await store.save_deployment(DeploymentRow(f"{name}:{number}", AppId(name), number, 100.0 + number, "", "", b""))
    if stopped_at is not None:
        await store.set_container_state(ContainerId(f"ct-{name}"), ContainerState.STOPPED, stopped_at)
        await store.set_app_state(AppId(name), AppState.STOPPED, stopped_at)


async def test_runs_go_sooner_than_deployed_apps_and_all_of_an_app_goes(store: Store) -> None:
    await an_app(store, "ap-run", 200.0)
    await an_app(store, "ap-later", 201.0)
    await an_app(store, "ap-deployed", 200.0, versions=2)
    await an_app(store, "ap-old", 150.0, versions=1)
    await an_app(store, "ap-live", None, versions=1)

    async def delete(runs_before: float, deployed_before: float) -> None:
        while await store.delete_apps(runs_before, deployed_before, 2) >= 2:
            pass

    await delete(199.9, 149.9)
    assert len(await store.apps()) == 5
    await delete(200.0, 150.0)
    left = ["ap-deployed", "ap-later", "ap-live"]
    assert sorted(row.id for row in await store.apps()) == left
    assert sorted(row.app for row in await store.containers()) == left
    assert sorted(row.app for row in await store.schedules()) == left
    assert [bool(await store.functions(AppId(app))) for app in ("ap-run", "ap-old", "ap-live")] == [False, False, True]
    assert [len(await store.deployments(AppId(app))) for app in ("ap-old", "ap-deployed")] == [0, 2]


async def test_versions_go_at_their_time_but_not_the_newest(store: Store) -> None:
    await an_app(store, "ap-1", None, versions=5)
    await an_app(store, "ap-2", None, versions=1)
    assert await store.delete_deployments(100.9, 2, ANY) == 0
    assert await store.delete_deployments(102.0, 2, ANY) == 2
    assert await store.delete_deployments(9_000.0, 2, ANY) == 1
    assert [row.version for row in await store.deployments(AppId("ap-1"))] == [4, 5]
    assert [row.version for row in await store.deployments(AppId("ap-2"))] == [1]


async def test_events_go_at_their_time(store: Store) -> None:
    store.record([EventRow(100.0 + number, "in-1", "failed") for number in range(5)])
    await accepted(store, 1)
    assert [await store.events_beyond(rows) for rows in (5, 4, 2)] == [None, 100.0, 102.0]
    assert await store.delete_events(99.9, 2) == 0
    assert [await store.delete_events(102.0, 2) for _ in range(3)] == [2, 1, 0]
    assert [event.time for event in await store.events("in-1")] == [103.0, 104.0]


# --- size ---


async def test_what_is_kept_is_counted(store: Store) -> None:
    await accepted(store, 4)
    await end(store, 0, 900.0)
    await end(store, 1, 901.0)
    await store.expire(900.0, ANY)
    await an_app(store, "ap-1", None, versions=1)
    assert await counts(store) == {
        "live inputs": 2, "results": 1, "ended inputs without a result": 1, "containers": 1, "apps": 1, "functions": 1, "versions": 1, "events": 0,
    }  # fmt: skip
    size = await store.size()
    assert size.bytes > 10_000


async def test_a_new_file_gives_back_what_deleted_rows_leave(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "store.db")
    await store.open()
    await accepted(store, 400)
    for index in range(400):
        await end(store, index, 900.0, random.Random(index).randbytes(10_000))
    full = await store.size()
    assert full.bytes > 4_000_000
    assert await store.delete_inputs(900.0, ANY) == 400
    left = await store.size()
    assert left.free_bytes is not None
    assert left.free_bytes > 3_000_000, left
    assert await store.compact(1 << 20) == left.free_bytes - (1 << 20)
    while await store.compact(1 << 20):
        pass
    assert (await store.size()).bytes < 1_000_000
    await store.close()
    assert (tmp_path / "store.db").stat().st_size < 1_000_000


# --- ids ---


async def test_ids_are_found_by_their_beginning(store: Store) -> None:
    for name in ("ap-0a1", "ap-0a2", "ap-0b1", "ap-0_", "ap-1"):
        await store.save_app(AppRow(AppId(name), None, "", "main", AppState.RUNNING, 100.0))
    await store.save_container(a_container("0a1"))
    await store.accept([InputRow(CallId(call), index, FUNCTION, b"", 100.0) for call in ("fc-0a1", "fc-0b1") for index in range(3)])
    assert await store.ids_with_prefix("ap", "ap-0a", 5) == ["ap-0a1", "ap-0a2"]
    assert await store.ids_with_prefix("ap", "ap-0", 2) == ["ap-0_", "ap-0a1"]
    assert await store.ids_with_prefix("ap", "ap-0_", 5) == ["ap-0_"]
    assert await store.ids_with_prefix("ap", "ap-2", 5) == []
    assert await store.ids_with_prefix("ct", "ct-0", 5) == ["ct-0a1"]
    assert await store.ids_with_prefix("fc", "fc-0", 5) == ["fc-0a1", "fc-0b1"]
    assert await store.ids_with_prefix("fc", "fc-0a1", 5) == ["fc-0a1"]


async def test_old_rows_and_ids_are_found_by_an_index(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "store.db")
    await store.open()
    statements = {
        "SELECT DISTINCT call FROM inputs WHERE call >= 'fc-1' AND call < 'fc-2' ORDER BY call LIMIT 5": "sqlite_autoindex_inputs_1",
        "SELECT id FROM apps WHERE id >= 'ap-1' AND id < 'ap-2' ORDER BY id LIMIT 5": "sqlite_autoindex_apps",
        store._retention.expire._text: "ix_inputs_expires_at",
        store._retention.delete_inputs[0]._text: "ix_inputs_expired",
        store._retention.delete_inputs[1]._text: "ix_inputs_expires_at",
        store._retention.delete_containers._text: "ix_containers_stopped",
    }
    for statement, index in statements.items():
        question = re.sub(r"\?", "1", statement)
        plan = await store._read(lambda connection, question=question: connection.execute(text(f"EXPLAIN QUERY PLAN {question}")).fetchall())
        assert index in str(plan), plan
        assert "SCAN" not in str(plan), plan
    await store.close()


# --- what became of inputs ---


async def test_history_is_given_newest_first_wanted_and_oldest_first_told(store: Store) -> None:
    assert await store.history(10) == []
    for number in range(5):
        await store.keep_history(100.0 + number, 2, bytes([number]))
    assert await store.history(100) == [b"\0", b"\1", b"\2", b"\3", b"\4"]
    assert await store.history(4) == [b"\3", b"\4"]
    assert await store.history(3) == [b"\3", b"\4"], "whole pieces"


async def test_history_goes_by_number_and_by_age(store: Store) -> None:
    for number in range(5):
        await store.keep_history(100.0 + number, 2, bytes([number]))
    assert await store.trim_history(8, 99.0) == 1
    assert await store.trim_history(8, 102.0) == 2, "at that time is old enough"
    assert await store.trim_history(8, 102.0) == 0
    assert await store.history(100) == [b"\3", b"\4"]
