"""Room on the machines, shared between apps: who gets the next container, and who ends one for it."""

import asyncio
from typing import TYPE_CHECKING

from squall.control.pool import Pool
from squall.core.placement import Node, Placement, Short, place
from squall.model.states import ContainerState

if TYPE_CHECKING:
    from squall.control.router import Router


class Room:
    """The machines' cores, memory and GPUs, and the pools that wait for some."""

    def __init__(self, router: "Router", nodes: list[Node]) -> None:
        self._router, self.nodes = router, nodes
        self.cores = max(1, int(sum(node.cores for node in nodes)))
        self._starved: dict[Pool, None] = {}
        #: Set when something was given back: for those that wait for room without being a pool.
        self.came: set[asyncio.Event] = set()

    def place(self, pool: Pool) -> Placement | Short:
        """Room for one more container; idle ones of other functions make room for it, and apps that have less go first."""
        placed = place(pool.spec.resources, self.nodes)
        if isinstance(placed, Placement):
            waits_longer = self._goes_before(pool)
            if waits_longer is None:
                self._starved.pop(pool, None)
                return placed
            self._starved[pool] = None
            waits_longer.rescale()
            return Short(f"turn: {waits_longer.function.app_name or waits_longer.function.app} has less and waits too", 1, 0, True)
        if placed.ever:
            self._starved[pool] = None
            self.make(pool)
        return placed

    def _goes_before(self, pool: Pool) -> Pool | None:
        """A starved pool of an app that has fewer cores than this one's, if it would fit now: capacity is shared between apps, not taken by the quickest."""
        rivals = [other for other in self._starved if other.function.app != pool.function.app and other.queue and not other.calls.closed]
        if not rivals:
            return None
        least = min(rivals, key=lambda other: self._cores_of(other.function.app))
        if self._cores_of(least.function.app) < self._cores_of(pool.function.app) and isinstance(place(least.spec.resources, self.nodes), Placement):
            return least
        return None

    def _cores_of(self, app: str) -> float:
        return sum(member.placement.need.cpu_request for member in self._router.members_of(app))

    def make(self, pool: Pool | None = None) -> None:
        """Dismiss the container that has idled longest, if no minimum holds it; its end looks at who waits again. `pool` is asking, and keeps its own."""
        idle = [
            member
            for member in self._router.members.values()
            if member.state is ContainerState.READY and not member.running
            if (other := member.pool) is not pool and not other.queue and len(other.members) > other.spec.scaling.min_containers
        ]
        if idle:
            oldest = min(idle, key=lambda member: member.idle_since)
            oldest.pool.dismiss(oldest, "made room")

    def given_back(self) -> None:
        """Something was given back: whoever waits for room looks again, apps that have least first."""
        starved = sorted(self._starved, key=lambda other: self._cores_of(other.function.app))
        self._starved = {other: None for other in starved if other.queue and not other.calls.closed}
        for other in starved:
            other.rescale()
        for event in self.came:
            event.set()
