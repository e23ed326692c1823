"""How many containers a function should have."""

import math
from dataclasses import dataclass

from squall.model.specs import Concurrency, Scaling

#: A pool doubles at most once in the time that a start takes, and never waits longer than this for its next growth: the first inputs of a container are
#: often slow (imports, caches), and a hundred containers for a few milliseconds of work help nobody.
GROWTH_S_MIN, GROWTH_S_MAX = 0.02, 0.25

#: A backlog that is done sooner than a new container is ready needs no new container. Seconds, before any start was measured.
START_GUESS_S = 0.2


#: Before anything was measured, each second that the first inputs run allows for as many containers again as there are cores.
FIRST_INPUTS_S = 1.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What a function's pool looks like at one moment.

    A container's first input is often slow (lazy imports, models, caches), so it says nothing of the inputs after it.

    Attributes:
        queued: inputs that no container has.
        running: inputs that containers have.
        live: containers that are ready or on their way; `starting` of them are on their way.
        mean_run_s: how long an input took lately, where it was not its container's first; None before such a one has ended.
        longest_running_s: how long the oldest running input has run so far; once a first input has ended, without those.
        start_s: how long a container took to become ready lately; None before the first did.
        grown_s: how long ago containers were added last; large when never.
        cores: of the machines that could be used.
        first_run_s: how long a container's first input took lately; None before one has ended.
        cores_each: cores that a container would use while it has inputs, as measured; None where it was not.
    """

    queued: int
    running: int
    live: int
    starting: int
    mean_run_s: float | None
    longest_running_s: float
    start_s: float | None
    grown_s: float
    cores: int
    first_run_s: float | None = None
    cores_each: float | None = None


def plan_containers(demand: Demand, scaling: Scaling, concurrency: Concurrency) -> int:
    """The number of containers that the pool should have now, ready and starting together; idle ones above it may end when their window has passed.

    Never above `max_containers`, never above what the inputs could use, never below `min_containers`; without inputs it is `min_containers`.
    """
    least = scaling.min_containers
    most = scaling.max_containers if scaling.max_containers is not None else math.inf
    inputs = demand.queued + demand.running
    if inputs == 0:
        return int(min(least, most))
    target = concurrency.target_inputs or concurrency.max_inputs
    useful = math.ceil(inputs / target)
    wanted = min(useful, _worthwhile(demand, target)) + scaling.buffer_containers
    return int(min(max(wanted, least), most))


def cores_wanted(used: float, runnable: int, cores: int) -> float:
    """Cores that a container would use alone, which uses so many while so many threads share the machine's cores: what it waits for a core is counted, too."""
    return used * max(1.0, runnable / cores)


def _worthwhile(demand: Demand, target: int) -> int:
    """Containers that make the backlog end sooner, given that a new one takes its start and what its first input takes longer to be of use.

    An input is expected to take the mean of the last ones, or as long as the oldest running one has taken already: so a pool of slow inputs
    grows while its first inputs still run, and a thousand quick ones stay in the container that is there.
    """
    live = max(1, demand.live)
    if demand.mean_run_s is None and demand.first_run_s is None and demand.longest_running_s == 0.0:
        return max(demand.cores, live)
    expected_s = max(demand.mean_run_s or 0.0, demand.longest_running_s)
    start_s = demand.start_s if demand.start_s is not None else START_GUESS_S
    useful_s = start_s + max(0.0, (demand.first_run_s or 0.0) - expected_s)
    # What the live ones clear while a new one becomes useful needs nobody else.
    needed = max(live, math.ceil(demand.queued * expected_s / (useful_s * target)))
    if demand.grown_s < min(GROWTH_S_MAX, max(GROWTH_S_MIN, start_s)):
        return live
    return min(needed, max(demand.cores, 2 * live), max(live, _carried(demand)))


def _carried(demand: Demand) -> int:
    """Containers that the cores can carry while all of them work: as many as there are cores if each keeps one busy, many more if they mostly wait."""
    if demand.cores_each is not None:
        # As a float, so that nothing measured is too little to divide by.
        return max(demand.cores, int(min(demand.cores / max(demand.cores_each, 1e-9), 1e9)))
    if demand.mean_run_s is None and demand.first_run_s is None:
        return int(demand.cores * (1 + demand.longest_running_s / FIRST_INPUTS_S))
    return max(demand.cores, 2 * demand.live)


@dataclass(frozen=True, slots=True)
class Idle:
    """A container without inputs, and since when (seconds on the caller's clock)."""

    container: str
    since: float


def plan_scaledown(idle: tuple[Idle, ...], live: int, wanted: int, scaling: Scaling, now: float) -> tuple[tuple[str, ...], float | None]:
    """Which idle containers end now, longest idle first, and when to look again (None: nothing to wait for).

    A container ends exactly when it has idled for `scaledown_window_s` and the pool stays at or above `wanted`, `min_containers` and the buffer.
    """
    floor = max(wanted, scaling.min_containers)
    spare = max(0, live - floor)
    ordered = sorted(idle, key=lambda item: item.since)
    window = scaling.scaledown_window_s
    # The same sum as the time to look again: `now - since >= window` may still be false at `since + window`, by rounding, and the caller would spin.
    ending = tuple(item.container for item in ordered[:spare] if now >= item.since + window)
    later = [item.since + window for item in ordered[len(ending) : spare]]
    return ending, min(later, default=None)
