"""A connection between two simulated processes: in order, late at times, and torn when the world wants it."""

from collections.abc import Callable
from random import Random
from typing import Any

from squall.testing.virtual import Process, VirtualLoop

#: Between two messages of one direction. Timers of the same time fire in any order, so no two may have the same.
TICK_S = 1e-7


class Weather:
    """How links behave now; the world changes it."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        #: Chance that a message is late, and by how much at most, in seconds.
        self.late_chance = 0.0
        self.late_s_max = 2.0
        #: Chances that a message between a node and its server is lost, and that it comes twice.
        self.loss_chance = self.repeat_chance = 0.0

    def latency_s(self) -> float:
        rng = self._rng
        delay = 0.00005 + rng.random() * 0.0003
        if self.late_chance and rng.random() < self.late_chance:
            delay += rng.random() * self.late_s_max
        return delay


class End:
    """One side of a link, as the code on this side sees it."""

    #: Of `wire.stream.Peer`: the other side keeps up.
    congested = False

    def __init__(self, link: "Link", process: Process) -> None:
        self._link, self.process = link, process
        self.other: End
        self.received: Callable[[Any], None] = lambda _: None
        self.lost: Callable[[BaseException | None], None] = lambda _: None
        self._last = 0.0
        self._told = False

    def send(self, message: Any) -> None:
        """To the other side, after whatever was sent before."""
        self._link.carry(self, message)

    def close(self) -> None:
        """Hang up: the other side gets what was sent, then the end."""
        self._link.hang_up(self)

    def arrive(self, when: float, action: Callable[..., None], *args: Any) -> None:
        self._last = max(self._last + TICK_S, when)
        self.process.at(self._last, action, *args)

    def tell_lost(self) -> None:
        if not self._told:
            self._told = True
            self.lost(None)


class Link:
    """Messages arrive in the order of sending. After `tear`, those under way are lost and each side learns it in its own time."""

    def __init__(self, loop: VirtualLoop, weather: Weather, near: Process, far: Process) -> None:
        self._loop, self._weather = loop, weather
        self.near, self.far = End(self, near), End(self, far)
        self.near.other, self.far.other = self.far, self.near
        self.torn = False

    def carry(self, end: End, message: Any) -> None:
        if not self.torn and end.process.alive:
            end.other.arrive(self._loop.time() + self._weather.latency_s(), self._deliver, end.other, message)

    def _deliver(self, end: End, message: Any) -> None:
        if not self.torn and not end._told:
            end.received(message)

    def hang_up(self, end: End) -> None:
        """A process closed its side or died: what it sent before still arrives."""
        if end._told:
            return
        end._told = True
        end.other.arrive(self._loop.time() + self._weather.latency_s(), end.other.tell_lost)

    def tear(self, rng: Random) -> None:
        """The network breaks it. One side may learn long after the other."""
        if self.torn:
            return
        self.torn = True
        for end in (self.near, self.far):
            end.process.later(rng.choice((0.0, 0.01, 0.5, 3.0)) * rng.random(), end.tell_lost)
