"""The autoscaler against a model of a machine: a map never takes more than twice the time of the best fixed number of containers."""

import math
from collections import deque
from dataclasses import dataclass, field

import pytest

from squall.core.autoscaler import Demand, cores_wanted, plan_containers
from squall.model.specs import Concurrency, Scaling

CORES = 2
#: What starting a container takes: on a core, and waiting besides.
START_CPU_S, START_WAIT_S = 0.01, 0.05
TICK_S, WINDOW_S = 0.05, 0.1
EPSILON = 1e-9

#: What an input does: seconds on a core, then seconds in which it waits.
Work = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """Inputs by the time at which they come, and what each container's first one does besides."""

    inputs: tuple[tuple[float, Work], ...]
    first: Work = (0.0, 0.0)


@dataclass
class Box:
    """A container: what is left of its start or of its input."""

    cpu_s: float = START_CPU_S
    wait_s: float = START_WAIT_S
    ready: bool = False
    done: int = 0
    started: float | None = None
    used_s: float = 0.0


@dataclass
class World:
    """Containers share the cores evenly. `fixed`: how many there are from the beginning; 0: the autoscaler decides."""

    shape: Shape
    fixed: int = 0
    measured: bool = True
    now: float = 0.0
    boxes: list[Box] = field(default_factory=list)
    mean_s: float | None = None
    first_s: float | None = None
    start_s: float | None = None
    grown: float = -math.inf
    each: float | None = None
    window: float = 0.0
    used_before: dict[int, float] = field(default_factory=dict)

    def run(self) -> float:
        """Seconds until all inputs are done."""
        coming = deque(self.shape.inputs)
        queue: deque[Work] = deque()
        self.boxes += [Box() for _ in range(self.fixed)]
        left = len(coming)
        tick = 0.0
        while True:
            while coming and coming[0][0] <= self.now + EPSILON:
                queue.append(coming.popleft()[1])
                tick = self.now
            left -= self._ended()
            if not left:
                break
            for box in self.boxes:
                if queue and box.ready and box.started is None:
                    cpu, wait = queue.popleft()
                    more = self.shape.first if box.done == 0 else (0.0, 0.0)
                    box.cpu_s, box.wait_s, box.started = cpu + more[0], wait + more[1], self.now
            if not self.fixed and self.now >= tick - EPSILON:
                tick = self.now + TICK_S
                self._scale(len(queue))
            self._pass(min(math.inf if self.fixed else tick, coming[0][0] if coming else math.inf))
        return self.now

    def _pass(self, until: float) -> None:
        """On to the next event."""
        working = [box for box in self.boxes if box.cpu_s > 0 and (not box.ready or box.started is not None)]
        waiting = [box for box in self.boxes if box.cpu_s <= 0 and box.wait_s > 0]
        rate = min(1.0, CORES / len(working)) if working else 1.0
        step = min([until - self.now, *(box.cpu_s / rate for box in working), *(box.wait_s for box in waiting)])
        self.now += step
        for box in working:
            box.cpu_s -= step * rate
            box.used_s += step * rate
            if box.cpu_s < EPSILON:
                box.cpu_s = 0.0
        for box in waiting:
            box.wait_s = box.wait_s - step if box.wait_s - step >= EPSILON else 0.0

    def _ended(self) -> int:
        """Starts and inputs that have ended; the number of the latter."""
        count = 0
        for box in self.boxes:
            if box.cpu_s or box.wait_s:
                continue
            if not box.ready:
                box.ready = True
                self.start_s = START_CPU_S + START_WAIT_S
            elif box.started is not None:
                took = self.now - box.started
                if box.done:
                    self.mean_s = took if self.mean_s is None else self.mean_s + 0.1 * (took - self.mean_s)
                else:
                    self.first_s = took if self.first_s is None else 0.5 * (self.first_s + took)
                box.done, box.started = box.done + 1, None
                count += 1
        return count

    def _scale(self, queued: int) -> None:
        self._measure()
        extra_s = 0.0 if self.first_s is None else 2 * max(0.0, self.first_s - (self.mean_s or 0.0))
        longest = max((self.now - box.started - (0.0 if box.done else extra_s) for box in self.boxes if box.started is not None), default=0.0)
        demand = Demand(
            queued=queued,
            running=sum(box.started is not None for box in self.boxes),
            live=len(self.boxes),
            starting=sum(not box.ready for box in self.boxes),
            mean_run_s=self.mean_s,
            longest_running_s=max(0.0, longest),
            start_s=self.start_s,
            grown_s=self.now - self.grown,
            cores=CORES,
            first_run_s=self.first_s,
            cores_each=self.each,
        )
        for _ in range(plan_containers(demand, Scaling(), Concurrency()) - len(self.boxes)):
            self.boxes.append(Box())
            self.grown = self.now

    def _measure(self) -> None:
        passed = self.now - self.window
        if not self.measured or passed < WINDOW_S - EPSILON:
            return
        before, self.window = self.used_before, self.now
        busy = [number for number, box in enumerate(self.boxes) if box.started is not None][-4:]
        self.used_before = {number: self.boxes[number].used_s for number in busy}
        used = [self.used_before[number] - before[number] for number in busy if number in before]
        if used:
            wanted = cores_wanted(sum(used) / len(used) / passed, sum(box.cpu_s > 0 for box in self.boxes), CORES)
            self.each = wanted if self.each is None else 0.5 * (self.each + wanted)


def at_once(count: int, cpu_s: float, wait_s: float = 0.0) -> tuple[tuple[float, Work], ...]:
    return ((0.0, (cpu_s, wait_s)),) * count


SHAPES = {
    "slow first input": Shape(at_once(99, 0.02), first=(3.0, 0.0)),
    "slow first input, that waits": Shape(at_once(99, 0.0, 0.02), first=(0.0, 3.0)),
    "slow first input, others wait": Shape(at_once(100, 0.005, 1.0), first=(1.0, 0.0)),
    "slow first input, long others": Shape(at_once(60, 1.0), first=(3.0, 0.0)),
    "quick": Shape(at_once(1000, 0.001)),
    "on a core": Shape(at_once(100, 0.2)),
    "long on a core": Shape(at_once(30, 5.0)),
    "mixed lengths": Shape(tuple((0.0, (0.01 if number % 5 else 1.0, 0.0)) for number in range(100))),
    "mixed, half waits": Shape(tuple((0.0, (0.02, 0.5 if number % 2 else 0.0)) for number in range(200))),
    "one long tail": Shape((*at_once(200, 0.01), (0.0, (10.0, 0.0)))),
    "one long ahead": Shape(((0.0, (10.0, 0.0)), *at_once(500, 0.01))),
    "waits": Shape(at_once(100, 0.001, 1.0)),
    "waits shortly": Shape(at_once(200, 0.001, 0.1)),
    "waits long": Shape(at_once(100, 0.001, 20.0)),
    "bursts": Shape(tuple((3.0 * burst, (0.05, 0.0)) for burst in range(5) for _ in range(40))),
    "bursts that wait": Shape(tuple((3.0 * burst, (0.002, 0.5)) for burst in range(4) for _ in range(50))),
}


def best_s(shape: Shape) -> float:
    return min(World(shape, fixed=number).run() for number in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 100))


@pytest.mark.parametrize("name", SHAPES)
def test_a_map_takes_at_most_twice_the_best_fixed_number_of_containers(name: str) -> None:
    shape = SHAPES[name]
    world = World(shape)
    took, best = world.run(), best_s(shape)
    print(f"{name}: {took:.2f} s, best {best:.2f} s, {len(world.boxes)} containers")
    assert took <= 2 * best


@pytest.mark.parametrize("name", ["slow first input", "on a core", "long on a core", "slow first input, long others"])
def test_there_are_no_more_busy_containers_than_the_cores_carry(name: str) -> None:
    world = World(SHAPES[name])
    world.run()
    assert len(world.boxes) <= CORES + 1
