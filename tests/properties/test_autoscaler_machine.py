"""Hypothesis against the autoscaler: whatever a pool goes through, it keeps its bounds, serves what waits, and is empty in the end; and a defect is found."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from squall.core.autoscaler import Demand, Idle, plan_containers, plan_scaledown
from squall.model.specs import Concurrency, Scaling

#: What an input takes and what a start takes in the model, seconds.
RUN_S, START_S = 1.0, 0.5


class Machine(RuleBasedStateMachine):
    """A pool in a few lines: containers are (ready at, idle since, input ends at or None)."""

    plan: Callable[[Demand, Scaling, Concurrency], int] = staticmethod(plan_containers)

    @initialize(least=st.integers(0, 2), more=st.none() | st.integers(0, 3), window=st.sampled_from([0.0, 2.0, 30.0]))
    def begin(self, least: int, more: int | None, window: float) -> None:
        self.scaling = Scaling(least, None if more is None else max(1, least + more), 0, window)
        self.now, self.queued, self.done, self.asked = 0.0, 0, 0, 0
        self.containers: dict[str, list[float | None]] = {}
        self.made, self.grown_at = 0, float("-inf")
        self.act()

    @rule(count=st.integers(1, 20))
    def call(self, count: int) -> None:
        self.queued += count
        self.asked += count
        self.act()

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.act()

    @rule(which=st.integers(0, 9))
    def lose(self, which: int) -> None:
        """A container dies; its input comes back."""
        if self.containers:
            _, _, ends = self.containers.pop(sorted(self.containers)[which % len(self.containers)])
            self.queued += ends is not None
            self.act()

    def act(self) -> None:
        """What the shell around the core does after each event."""
        for container in self.containers.values():
            if container[2] is not None and container[2] <= self.now:
                container[1], container[2] = container[2], None
                self.done += 1
            if self.queued and container[2] is None and container[0] <= self.now:  # type: ignore[operator]
                container[2] = self.now + RUN_S
                self.queued -= 1
        running = [container[2] for container in self.containers.values() if container[2] is not None]
        live = len(self.containers)
        longest = max((self.now - (ends - RUN_S) for ends in running), default=0.0)
        demand = Demand(self.queued, len(running), live, 0, RUN_S if self.done else None, longest, START_S, self.now - self.grown_at, 2)
        wanted = self.plan(demand, self.scaling, Concurrency())
        if live and wanted > live:
            assert self.queued or live < self.scaling.min_containers, "it grows without demand"
        for _ in range(wanted - live):
            self.made += 1
            self.containers[f"c{self.made}"] = [self.now + START_S, self.now + START_S, None]
            self.grown_at = self.now
        idle = tuple(Idle(name, since or 0.0) for name, (ready, since, ends) in self.containers.items() if ends is None and (ready or 0.0) <= self.now)
        ending, again = plan_scaledown(idle, len(self.containers), wanted, self.scaling, self.now)
        for name in ending:
            del self.containers[name]
        assert again is None or again > self.now, "it would be asked again and again"

    @invariant()
    def within_its_bounds(self) -> None:
        if hasattr(self, "scaling"):
            most = self.scaling.max_containers
            assert self.scaling.min_containers <= len(self.containers)
            assert most is None or len(self.containers) <= most

    @invariant()
    def what_waits_is_served(self) -> None:
        assert not getattr(self, "queued", 0) or self.containers

    def teardown(self) -> None:
        if not hasattr(self, "scaling"):
            return
        for _ in range(20_000):
            if not self.queued and self.done == self.asked and len(self.containers) == self.scaling.min_containers:
                return
            self.now += 0.25
            self.act()
        raise AssertionError(f"it does not come to rest: {self.queued} wait, {len(self.containers)} containers")


QUICK = settings(max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
#: The same examples each time, so that what is found once is found always.
FINDING = settings(QUICK, max_examples=1000, database=None, phases=[Phase.generate], report_multiple_bugs=False, derandomize=True)


def test_a_pool_keeps_its_promises() -> None:
    run_state_machine_as_test(Machine, settings=QUICK)


@pytest.mark.parametrize(
    "defect",
    [
        lambda demand, scaling, concurrency: plan_containers(demand, scaling, concurrency) + (demand.queued > 5),  # one too many, in a crowd
        lambda demand, scaling, concurrency: plan_containers(demand, scaling, concurrency) if demand.running + demand.queued != 3 else 0,
        lambda demand, scaling, concurrency: max(demand.live, plan_containers(demand, scaling, concurrency)),  # never smaller
    ],
    ids=["above the maximum", "forgets three inputs", "never shrinks"],
)
def test_the_machine_finds(defect: Callable[[Demand, Scaling, Concurrency], int]) -> None:
    class Planted(Machine):
        plan = staticmethod(defect)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Planted, settings=FINDING)
