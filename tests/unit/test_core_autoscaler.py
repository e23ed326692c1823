"""The autoscaler: whole stories first, then what holds for every demand."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from squall.core.autoscaler import Demand, Idle, plan_containers, plan_scaledown
from squall.model.specs import Concurrency, Scaling

NOTHING = Demand(queued=0, running=0, live=0, starting=0, mean_run_s=None, longest_running_s=0.0, start_s=None, grown_s=math.inf, cores=2)
ONE, FREE = Concurrency(), Scaling()


def wanted(demand: Demand, scaling: Scaling = FREE, concurrency: Concurrency = ONE) -> int:
    return plan_containers(demand, scaling, concurrency)


def test_the_story_of_a_burst() -> None:
    asked = [
        # Nobody calls.
        wanted(NOTHING),
        # A thousand inputs come at once, and nothing is known of them: as many containers as there are cores.
        wanted(replace(NOTHING, queued=1000)),
        # They take a second each, and more containers were just begun: not yet.
        wanted(replace(NOTHING, queued=998, running=2, live=2, mean_run_s=1.0, start_s=0.1, grown_s=0.01)),
        # Those are ready: twice as many.
        wanted(replace(NOTHING, queued=990, running=2, live=2, mean_run_s=1.0, start_s=0.1)),
        wanted(replace(NOTHING, queued=980, running=4, live=4, mean_run_s=1.0, start_s=0.1)),
        # Three inputs are left, all running.
        wanted(replace(NOTHING, running=3, live=8, mean_run_s=1.0, start_s=0.1)),
        # All is done.
        wanted(replace(NOTHING, live=8, mean_run_s=1.0, start_s=0.1)),
    ]
    assert asked == [0, 2, 2, 4, 8, 3, 0]


def test_a_thousand_quick_inputs_stay_in_the_container_that_is_there() -> None:
    assert wanted(replace(NOTHING, queued=1000, running=1, live=1, mean_run_s=0.0001, start_s=0.1)) == 1


def test_the_first_inputs_need_not_end_before_a_slow_pool_grows() -> None:
    assert wanted(replace(NOTHING, queued=10, running=2, live=2, longest_running_s=1.0, start_s=0.1)) == 4


def test_an_idle_container_ends_exactly_at_its_window() -> None:
    idle = (Idle("b", 2.0), Idle("a", 1.0))
    scaling = Scaling(scaledown_window_s=60.0)
    assert plan_scaledown(idle, 2, 0, scaling, 60.999) == ((), 61.0)
    assert plan_scaledown(idle, 2, 0, scaling, 61.0) == (("a",), 62.0)
    assert plan_scaledown(idle, 2, 0, scaling, 62.0) == (("a", "b"), None)
    assert plan_scaledown(idle, 2, 1, scaling, 99.0) == (("a",), None)  # the one that idled longest


@given(since=st.floats(0, 1e9), window=st.floats(0, 1e6))
def test_at_the_time_that_it_named_there_is_something_to_do(since: float, window: float) -> None:
    """By rounding, `now - since >= window` can be false at `since + window`: then the caller would look again and again."""
    scaling = Scaling(scaledown_window_s=window)
    ending, again = plan_scaledown((Idle("a", since),), 1, 0, scaling, since)
    if again is not None:
        ending, _ = plan_scaledown((Idle("a", since),), 1, 0, scaling, again)
    assert ending == ("a",)


counts = st.integers(0, 10_000)
seconds = st.floats(0, 1e4)
demands = st.builds(
    Demand,
    queued=counts,
    running=counts,
    live=counts,
    starting=counts,
    mean_run_s=st.none() | seconds,
    longest_running_s=seconds,
    start_s=st.none() | st.floats(0.001, 100),
    grown_s=seconds,
    cores=st.integers(1, 1000),
)
scalings = st.builds(
    lambda least, more, buffer: Scaling(least, None if more is None else least + more, buffer),
    st.integers(0, 5),
    st.none() | st.integers(0, 50),
    st.integers(0, 5),
)
concurrencies = st.sampled_from([Concurrency(), Concurrency(8), Concurrency(100, 20)])


@given(demands, scalings, concurrencies)
def test_it_stays_between_minimum_and_maximum(demand: Demand, scaling: Scaling, concurrency: Concurrency) -> None:
    count = plan_containers(demand, scaling, concurrency)
    assert count >= scaling.min_containers
    assert scaling.max_containers is None or count <= scaling.max_containers


@given(demands, scalings, concurrencies)
def test_without_inputs_it_is_the_minimum(demand: Demand, scaling: Scaling, concurrency: Concurrency) -> None:
    assert plan_containers(replace(demand, queued=0, running=0), scaling, concurrency) == scaling.min_containers


@given(demands, scalings, concurrencies)
def test_there_are_no_more_than_the_inputs_could_use(demand: Demand, scaling: Scaling, concurrency: Concurrency) -> None:
    useful = math.ceil((demand.queued + demand.running) / (concurrency.target_inputs or concurrency.max_inputs))
    assert plan_containers(demand, scaling, concurrency) <= max(scaling.min_containers, useful + scaling.buffer_containers)


@given(demands, concurrencies)
def test_it_at_most_doubles(demand: Demand, concurrency: Concurrency) -> None:
    assert plan_containers(demand, Scaling(), concurrency) <= max(demand.cores, 2 * demand.live, 1)


@given(demands, scalings, concurrencies)
def test_with_inputs_somebody_serves_them(demand: Demand, scaling: Scaling, concurrency: Concurrency) -> None:
    demand = replace(demand, queued=demand.queued + 1)
    assert plan_containers(demand, scaling, concurrency) >= (0 if scaling.max_containers == 0 else 1)


@given(st.lists(seconds, max_size=8), st.integers(0, 4), st.integers(0, 10), scalings, seconds)
def test_scaling_down_leaves_what_is_wanted(since: list[float], busy: int, need: int, scaling: Scaling, now: float) -> None:
    idle = tuple(Idle(str(number), at) for number, at in enumerate(since))
    live = len(idle) + busy
    ending, again = plan_scaledown(idle, live, need, scaling, now)
    assert live - len(ending) >= min(live, max(need, scaling.min_containers))
    assert len(set(ending)) == len(ending)
    assert again is None or again > now
