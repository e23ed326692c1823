"""Room on the machines, shared between apps: who gets the next container, and who ends one for it."""

import asyncio
from itertools import islice
from typing import TYPE_CHECKING

from squall.control.calls.pool import Pool
from squall.control.calls.pool_container import Member
from squall.core.placement import CPU_OVERCOMMIT, Node, Placement, Short, place
from squall.model.resources import Resources
from squall.model.states import ContainerState

if TYPE_CHECKING:
    from squall.control.calls.router import Router

#: Pools of one app that look for room when some was given back.
WOKEN_MAX = 200


class Room:
    """The machines' cores, memory and GPUs, and the pools that wait for some."""

    def __init__(self, router: "Router", nodes: list[Node]) -> None:
        self._router, self.nodes = router, nodes
        self.cores = max(1, int(sum(node.cores for node in nodes)))
        #: Pools that wait for room, by app: a thousand of one app cost another app's look as much as one.
        self._starved: dict[str, dict[Pool, None]] = {}
        #: Set when something was given back: for those that wait for room without being a pool.
        self.came: set[asyncio.Event] = set()

    def place(self, pool: Pool) -> Placement | Short:
        """Room for one more container; idle ones of other functions make room for it, and apps that have less go first."""
        placed = place(pool.spec.resources, self.nodes)
        if isinstance(placed, Placement):
            waits_longer = self._goes_before(pool)
            if waits_longer is None:
                self._waits_no_more(pool)
                return placed
            self._waits_no_more(waits_longer)  # its turn is now: if it takes no room it waits for none, or says so again
            self._waits(pool)
            waits_longer.rescale()
            return Short(f"turn: {waits_longer.function.app_name or waits_longer.function.app} has less and waits too", 1, 0, True)
        if placed.ever:
            self._waits(pool)
            self.make(pool)
        return placed

    def _waits(self, pool: Pool) -> None:
        self._starved.setdefault(pool.function.app, {})[pool] = None

    def _waits_no_more(self, pool: Pool) -> None:
        of_app = self._starved.get(pool.function.app, {})
        of_app.pop(pool, None)
        if not of_app:
            self._starved.pop(pool.function.app, None)

    def _goes_before(self, pool: Pool) -> Pool | None:
        """A starved pool of an app that has less than this one's, if it would fit now: capacity is shared between apps, not taken by the quickest.

        Inputs that wait go before containers that are to be kept warm, whatever their apps have.
        """
        others = [pools for app, pools in self._starved.items() if app != pool.function.app]
        rivals = [first for pools in others if (first := next((other for other in pools if other.queue and not other.calls.closed), None))]
        if not rivals:
            return None
        least = min(rivals, key=lambda other: self._share_of(other.function.app))
        goes_first = not pool.queue or self._share_of(least.function.app) < self._share_of(pool.function.app)
        if goes_first and isinstance(place(least.spec.resources, self.nodes), Placement):
            return least
        return None

    def _share_of(self, app: str, more: Resources | None = None) -> float:
        """Of all cores, or of all memory, whichever is more (the dominant share). `more`: with these as well."""
        needs = [member.placement.need for member in self._router.members_of(app)]
        needs += [more] if more is not None else []
        cores = sum(node.cores for node in self.nodes) * CPU_OVERCOMMIT or 1.0
        memory = sum(node.memory_mib for node in self.nodes) or 1
        return max(sum(need.cpu_request for need in needs) / cores, sum(need.memory_request_mib for need in needs) / memory)

    def make(self, pool: Pool | None = None) -> None:
        """Dismiss the container that has idled longest; its end looks at who waits again. `pool` is asking, and keeps its own.

        One that is kept warm makes room for inputs of an app that has less, even with what it asks for. A container that is only to be kept warm takes the
        place of idle ones of its own app, and of apps that have more.
        """
        idle = [
            member
            for member in self._router.members.values()
            if member.state is ContainerState.READY and not member.running
            if (other := member.pool) is not pool and not other.queue
        ]
        shares: dict[str, float] = {}
        asking = 0.0 if pool is None else self._share_of(pool.function.app, pool.spec.resources)

        def has_more(member: Member) -> bool:
            app = member.pool.function.app
            if app not in shares:
                shares[app] = self._share_of(app)
            return shares[app] > asking

        free = [member for member in idle if len(member.pool.members) > member.pool.spec.scaling.min_containers]
        if pool is not None and not pool.queue:
            free = [member for member in free if member.pool.function.app == pool.function.app or has_more(member)]
        warm = [] if free or pool is None or not pool.queue else [member for member in idle if has_more(member)]
        if free or warm:
            oldest = min(free or warm, key=lambda member: member.idle_since)
            oldest.pool.dismiss(oldest, "made room")

    def given_back(self) -> None:
        """Something was given back: whoever waits for room looks again, apps that have least first.

        Of an app with very many pools the first ones do, which is more than there is room for; the others look by themselves.
        """
        starved, self._starved = self._starved, {}
        for app in sorted(starved, key=self._share_of):
            woken = list(islice(starved[app], WOKEN_MAX))
            for other in woken:
                other.rescale()
                if not other.queue:
                    del starved[app][other]
            waiting = {other: None for other in starved[app] if not other.calls.closed}
            if waiting:
                self._starved[app] = waiting
        for event in self.came:
            event.set()
