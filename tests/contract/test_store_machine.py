"""Hypothesis against the store: any order of accept, claim, finish, requeue and cancel gives what a dictionary gives; and it would notice a lost fence."""

import asyncio
import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from squall.model.ids import CallId, FunctionId
from squall.store.engine import ensure_schema, make_engine
from squall.store.rows import InputRow
from squall.store.sql import SqlStore
from squall.store.statements import Statements
from squall.wire.messages import OK, RAISED

CALL = CallId("fc-1")
indexes = st.integers(0, 2)
tokens = st.integers(0, 6)  # Few, so that stale ones are common.


@functools.cache
def an_empty_database() -> bytes:
    """Made once: the revisions take longer than a whole example."""
    with tempfile.TemporaryDirectory() as folder:
        ensure_schema(make_engine(Path(folder) / "store.db"))
        return (Path(folder) / "store.db").read_bytes()


class Machine(RuleBasedStateMachine):
    """The model holds (state, token, attempts, platform_retries, output) by index."""

    make_store = staticmethod(SqlStore)

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[int, tuple[str, int, int, int, bytes | None]] = {}
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        (Path(self.folder.name) / "store.db").write_bytes(an_empty_database())

    @initialize()
    def open(self) -> None:
        self.store = self.make_store(Path(self.folder.name) / "store.db")
        self.runner.run(self.store.open())

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    def run(self, awaitable: Any) -> Any:
        return self.runner.run(awaitable)

    @rule(wanted=st.lists(indexes, max_size=3), data=st.binary(max_size=3))
    def accept(self, wanted: list[int], data: bytes) -> None:
        self.run(self.store.accept([InputRow(CALL, index, FunctionId("fu-1"), data, 1.0) for index in wanted]))
        for index in wanted:
            self.model.setdefault(index, ("queued", 0, 0, 0, None))

    @rule(index=indexes, token=tokens)
    def claim(self, index: int, token: int) -> None:
        done = self.run(self.store.claim(CALL, index, token, 1.0))
        state, held, attempts, retries, _ = self.model.get(index, ("absent", 0, 0, 0, None))
        assert done == (state in ("queued", "running") and token > held)
        if done:
            self.model[index] = ("running", token, attempts + 1, retries, None)

    @rule(index=indexes, token=tokens, status=st.sampled_from([OK, RAISED]), output=st.binary(max_size=3))
    def finish(self, index: int, token: int, status: int, output: bytes) -> None:
        done = self.run(self.store.finish(CALL, index, token, status, output, 2.0, None))
        state, held, attempts, retries, _ = self.model.get(index, ("absent", 0, 0, 0, None))
        assert done == (state in ("queued", "running") and token == held)
        if done:
            self.model[index] = ("succeeded" if status == OK else "failed", held, attempts, retries, output)

    @rule(index=indexes, token=tokens, platform=st.booleans())
    def requeue(self, index: int, token: int, platform: bool) -> None:
        done = self.run(self.store.requeue(CALL, index, token, platform=platform))
        state, held, attempts, retries, _ = self.model.get(index, ("absent", 0, 0, 0, None))
        assert done == (state == "running" and token == held)
        if done:
            self.model[index] = ("queued", held, attempts, retries + platform, None)

    @rule(wanted=st.sets(indexes, max_size=2))
    def cancel(self, wanted: set[int]) -> None:
        changed = self.run(self.store.cancel_call(CALL, wanted, 2.0, None))
        assert changed == sorted(index for index, row in self.model.items() if row[0] in ("queued", "running") and (not wanted or index in wanted))
        for index in changed:
            self.model[index] = ("cancelled", *self.model[index][1:4], b"")

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.open()

    @invariant()
    def same_as_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        rows = self.run(self.store.call_inputs(CALL))
        assert {row.index: (str(row.state), row.token, row.attempts, row.platform_retries, row.output) for row in rows} == self.model
        live = sorted(row.sequence for row in rows if row.state.live)
        assert [row.sequence for row in self.run(self.store.pending(9))] == live


QUICK = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


def test_the_store_behaves_as_a_dictionary_would() -> None:
    run_state_machine_as_test(Machine, settings=QUICK)


class _Forgetful(SqlStore):
    """Planted defect: a stale worker's result is applied."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        finish = self._statements.finish
        finish._text = finish._text.replace("inputs.token = ?", "inputs.token >= ?")
        assert finish._text != Statements(self._engine.dialect).finish._text


def test_the_machine_finds_a_result_that_is_applied_with_a_stale_token() -> None:
    class Planted(Machine):
        make_store = staticmethod(_Forgetful)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Planted, settings=settings(QUICK, max_examples=300, database=None, phases=[Phase.generate], report_multiple_bugs=False))
