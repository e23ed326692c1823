"""`control.retention` on a real store: what a sweep removes, and what it leaves."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from squall.control import retention
from squall.control.retention import DAY_S, Retention, Settings, from_environment
from squall.model.errors import InvalidError
from squall.model.ids import AppId, CallId, ContainerId, FunctionId
from squall.model.states import AppState, ContainerState
from squall.store.contract import Store
from squall.store.rows import AppRow, ContainerRow, EventRow, InputRow
from squall.store.sql import SqlStore
from squall.wire.messages import OK

NOW = 1_000 * DAY_S
CALL, FUNCTION = CallId("fc-1"), FunctionId("fu-1")


@pytest.fixture
async def store(make: Callable[[], SqlStore]) -> AsyncIterator[SqlStore]:
    store = make()
    await store.open()
    yield store
    await store.close()


async def ended(store: Store, ages: list[float], output: bytes = b"out") -> None:
    """Inputs 0, 1, ... of one call, each ended so many days ago; its result is kept for a week."""
    await store.accept([InputRow(CALL, index, FUNCTION, b"args", NOW - age * DAY_S) for index, age in enumerate(ages)])
    for index, age in enumerate(ages):
        await store.claim(CALL, index, 1, NOW - age * DAY_S)
        await store.finish(CALL, index, 1, OK, output, NOW - age * DAY_S, NOW - age * DAY_S + 7 * DAY_S)


async def left(store: Store) -> dict[int, str]:
    return {row.index: str(row.state) for row in await store.call_inputs(CALL)}


async def test_a_sweep_brings_everything_within_its_time(store: Store) -> None:
    await ended(store, [29.9, 30.1, 7.1, 6.9])
    await store.accept([InputRow(CALL, 9, FUNCTION, b"args", NOW - 400 * DAY_S)])
    for name, age in (("old", 31), ("new", 29)):
        await store.save_container(ContainerRow(ContainerId(f"ct-{name}"), AppId("ap-live"), FUNCTION, ContainerState.STARTING, None, NOW - age * DAY_S))
        await store.set_container_state(ContainerId(f"ct-{name}"), ContainerState.STOPPED, NOW - age * DAY_S)
        await store.save_app(AppRow(AppId(f"ap-{name}"), None, "", "main", AppState.RUNNING, 0.0))
        await store.set_app_state(AppId(f"ap-{name}"), AppState.STOPPED, NOW - (age - 23.0) * DAY_S)
    await store.save_app(AppRow(AppId("ap-live"), None, "", "main", AppState.RUNNING, 0.0))
    store.record([EventRow(NOW - 31 * DAY_S, "in-1", "failed"), EventRow(NOW - 29 * DAY_S, "in-1", "failed")])
    await store.dict_put("di-1", [(b"old", b"")], NOW - 8 * DAY_S)
    forgotten: list[str] = []
    removed = await Retention(store, Settings(), forget=lambda: forgotten.append("recent")).sweep(NOW)
    assert removed == {
        "inputs": 1, "results": 2, "containers": 1, "apps": 1, "versions": 0, "events": 1, "dict entries": 1, "files of logs": 0,
        "pieces of history": 0, "results before their time": 0,
    }  # fmt: skip
    assert await left(store) == {0: "expired", 2: "expired", 3: "succeeded", 9: "queued"}
    assert [row.id for row in await store.containers()] == ["ct-new"]
    assert sorted(row.id for row in await store.apps()) == ["ap-live", "ap-new"]
    assert forgotten
    assert not any((await Retention(store, Settings()).sweep(NOW)).values())


async def test_no_more_rows_than_the_settings_say_stay_of_those_without_a_result(store: Store) -> None:
    await ended(store, [20.0, 19.0, 18.0, 17.0, 1.0, 0.5])
    for age in range(5):
        await store.save_container(ContainerRow(ContainerId(f"ct-{age}"), AppId("ap-live"), FUNCTION, ContainerState.STARTING, None, NOW))
        await store.set_container_state(ContainerId(f"ct-{age}"), ContainerState.STOPPED, NOW - age)
    keeping = Retention(store, Settings(history_rows=2))
    await keeping.sweep(NOW)  # results expire in this one
    await keeping.sweep(NOW)
    assert await left(store) == {2: "expired", 3: "expired", 4: "succeeded", 5: "succeeded"}
    assert sorted(row.id for row in await store.containers()) == ["ct-0", "ct-1"]


async def test_a_history_shorter_than_results_takes_no_result_before_its_time(store: Store) -> None:
    await ended(store, [8.0, 6.0])
    await Retention(store, Settings(history_s=DAY_S)).sweep(NOW)
    assert await left(store) == {1: "succeeded"}


async def test_a_sweep_goes_in_pieces_between_which_others_write(store: Store) -> None:
    await store.accept([InputRow(CALL, index, FUNCTION, b"", NOW) for index in range(3_000)])
    await store.cancel_call(CALL, (), NOW - 40 * DAY_S, NOW - 33 * DAY_S)
    sweep = asyncio.create_task(Retention(store, Settings()).sweep(NOW))
    seen = set()
    while not sweep.done():
        await store.accept([InputRow(CallId("fc-2"), len(seen), FUNCTION, b"", NOW)])
        seen.add(len(await store.call_inputs(CALL)))
    assert (await sweep)["inputs"] == 3_000
    assert len(seen) > 5, seen


async def test_a_database_that_is_too_large_loses_its_oldest_results(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqlStore(tmp_path / "store.db")
    await store.open()
    await ended(store, [6.0 - index / 100 for index in range(200)] + [0.5] * 50, os.urandom(100_000))
    full = await store.size()
    await Retention(store, Settings(database_bytes=full.bytes / 2)).sweep(NOW)
    states = await left(store)
    assert 100 < len(states) < 150, len(states)
    assert {*range(200, 250)} <= {*states}  # of the last day, whatever the size
    assert min(states) > 90  # the oldest went
    assert "SQUALL_DATABASE_MAX_GIB" in caplog.text
    size = await store.size()
    assert size.bytes < 0.8 * full.bytes  # the file itself is smaller
    await store.close()


async def test_a_failed_sweep_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "FIRST_S", 0.0)
    monkeypatch.setattr(retention, "SWEEP_S", 0.01)
    store = SqlStore(tmp_path / "store.db")
    await store.open()
    keeping = Retention(store, Settings())
    await store.close()  # every question raises now
    keeping.open()
    while caplog.text.count("old rows could not be removed") < 2:
        await asyncio.sleep(0.01)
    await keeping.close()


@pytest.mark.parametrize("text", ["0", "-1", "seven", "inf", "nan"])
def test_settings_that_are_no_positive_numbers_are_refused(text: str) -> None:
    with pytest.raises(InvalidError, match=f"SQUALL_RESULTS_DAYS='{text}'"):
        from_environment({"SQUALL_RESULTS_DAYS": text})


def test_settings_come_from_the_environment() -> None:
    given = {
        "SQUALL_RESULTS_DAYS": "0.5", "SQUALL_RUNS_DAYS": "1", "SQUALL_HISTORY_DAYS": "90", "SQUALL_HISTORY_ROWS": "10", "SQUALL_DATABASE_MAX_GIB": "2.5",
    }  # fmt: skip
    assert from_environment(given) == Settings(0.5 * DAY_S, DAY_S, 90 * DAY_S, 10, 2.5 * (1 << 30))
    assert from_environment({}) == Settings()
