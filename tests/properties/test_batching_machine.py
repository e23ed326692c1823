"""Hypothesis against the collector of a batched function, on a virtual clock: who waits for which batch, and for how long; and defects are found."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from squall.model.specs import Batching
from squall.runner.concurrent import Collector
from squall.testing.virtual import VirtualLoop
from squall.wire.messages import Run


class Machine(RuleBasedStateMachine):
    """Also the collector's server: it lets `limit` batches run."""

    collector_type: type[Collector] = Collector

    @initialize(size=st.integers(1, 3), wait_ms=st.sampled_from([0, 100, 1000]), limit=st.integers(1, 2))
    def begin(self, size: int, wait_ms: int, limit: int) -> None:
        self.loop: asyncio.AbstractEventLoop | None = VirtualLoop()
        self.size, self.wait_s, self.limit = size, wait_ms / 1000, limit
        self.collector = self.collector_type(self, Batching(size, wait_ms))
        self.running: list[list[int]] = []
        self.came: dict[int, float] = {}
        self.known = 0

    @property
    def room(self) -> bool:
        return len(self.running) < self.limit

    def begin_batch(self, runs: list[Run]) -> None:
        assert self.loop is not None
        tokens = [run.token for run in runs]
        assert self.room, "a batch begins without room"
        assert 0 < len(tokens) <= self.size, "a batch has a wrong size"
        assert tokens == list(self.came)[: len(tokens)], "an input was overtaken, lost or begun twice"
        waited = self.loop.time() - self.came[tokens[0]]
        assert len(tokens) == self.size or waited >= self.wait_s - 1e-6, "a batch that is not full did not wait"
        for token in tokens:
            del self.came[token]
        self.running.append(tokens)

    def pass_time(self, seconds: float) -> None:
        assert self.loop is not None
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule(count=st.integers(1, 4))
    def come(self, count: int) -> None:
        assert self.loop is not None
        for _ in range(count):
            self.known += 1
            self.came[self.known] = self.loop.time()
            self.collector.add(Run(self.known, "fc-1", self.known, b""))

    @rule(seconds=st.sampled_from([0.05, 0.6, 2.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(which=st.integers(0, 9))
    def end(self, which: int) -> None:
        if self.running:
            del self.running[which % len(self.running)]
            self.collector.look()

    @rule(which=st.sets(st.integers(0, 9), min_size=1, max_size=3))
    def take_back(self, which: set[int]) -> None:
        tokens = [token for place, token in enumerate(self.came) if place in which]
        for token in tokens:
            self.came.pop(token)
        assert self.collector.take_back((*tokens, *(token for batch in self.running for token in batch))) == tokens

    @invariant()
    def nobody_waits_who_need_not(self) -> None:
        if not hasattr(self, "collector"):
            return
        assert self.loop is not None
        self.pass_time(0.0)
        assert [run.token for run in self.collector.waiting] == list(self.came), "an input was lost"
        if self.room and self.came:
            assert len(self.came) < self.size, "a full batch waits"
            assert self.loop.time() - next(iter(self.came.values())) <= self.wait_s + 1e-6, "the first input waits too long"

    def teardown(self) -> None:
        if getattr(self, "loop", None) is not None:
            assert self.loop is not None
            self.loop.close()


QUICK = settings(max_examples=80, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
#: The same examples each time, so that what is found once is found always.
FINDING = settings(QUICK, max_examples=1000, database=None, phases=[Phase.generate], report_multiple_bugs=False, derandomize=True)


def test_batches_are_what_was_asked_for() -> None:
    run_state_machine_as_test(Machine, settings=QUICK)


class _Late(Collector):
    """Waits twice as long as it may."""

    def __init__(self, server: Any, batching: Batching) -> None:
        super().__init__(server, Batching(batching.max_batch_size, 2 * batching.wait_ms))


class _Large(Collector):
    """One too many."""

    def __init__(self, server: Any, batching: Batching) -> None:
        super().__init__(server, Batching(batching.max_batch_size + 1, batching.wait_ms))


class _Forgets(Collector):
    """Who stands behind one that is taken back goes with it."""

    def take_back(self, tokens: tuple[int, ...]) -> list[int]:
        taken = super().take_back(tokens)
        if taken and self._waiting:
            self._waiting.pop()
        return taken


@pytest.mark.parametrize("defect", [_Late, _Large, _Forgets])
def test_the_machine_finds(defect: type[Collector]) -> None:
    class Planted(Machine):
        collector_type = defect

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Planted, settings=FINDING)
