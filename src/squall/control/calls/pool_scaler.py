"""How many containers a pool has: it is looked at when something has changed, and the autoscaler's answer is put into effect."""

from typing import TYPE_CHECKING

from squall.control.nodes.cpu_meter import CpuMeter
from squall.core.autoscaler import Demand, Idle, plan_containers, plan_scaledown
from squall.core.calls import outcomes
from squall.core.calls.state import longest_running_s
from squall.core.placement import Short
from squall.model.errors import ResourceExhaustedError
from squall.model.options import words
from squall.model.specs import Scaling
from squall.model.states import ContainerState, InputState

if TYPE_CHECKING:
    from squall.control.calls.pool import Pool

#: A queue that does not move is looked at again after this; of pools with class parameters, a hundred share that time.
RESCALE_S, RESCALED_TOGETHER = 0.05, 100
#: Of a function that is gone from its app: what waits is still run, and nothing stays.
_LEAVING = Scaling(scaledown_window_s=0.0)


class PoolSize:
    """Of one pool."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._due = False
        self._cpu = CpuMeter(pool.router.room.cores)
        self._grown_at = float("-inf")
        self._look_at = 0.0

    def grow(self, count: int) -> int:
        """Start so many containers without waiting for demand; how many there was room for."""
        now = self._pool.router.now()
        return sum(self._start_one(now) for _ in range(count))

    def rescale(self) -> None:
        """Look at the pool's size at the end of this loop turn."""
        pool = self._pool
        if not self._due and not pool.calls.closed and pool.successor is None:
            self._due = True
            pool.router.soon(self._scale)

    def _scale(self) -> None:
        pool = self._pool
        self._due = False
        if pool.calls.closed or pool.successor is not None:
            return
        now = pool.router.now()
        while pool.queue and pool.queue[0].state is not InputState.QUEUED:
            pool.queue.popleft()
        members = pool.members.values()
        live = [member for member in members if member.live]
        demand = Demand(
            queued=len(pool.queue),
            running=sum(len(member.running) for member in live),
            live=len(live),
            starting=sum(member.state is ContainerState.STARTING for member in live),
            mean_run_s=pool.calls.mean_run_s,
            longest_running_s=longest_running_s(pool.calls, now),
            start_s=pool.calls.start_s,
            grown_s=now - self._grown_at,
            cores=pool.router.room.cores,
            first_run_s=pool.calls.first_run_s,
            cores_each=self._cpu.cores_each(pool.members, now) if pool.queue else None,
        )
        scaling = _LEAVING if pool.calls.replaced else pool.spec.scaling
        wanted = plan_containers(demand, scaling, pool.calls.concurrency)
        if now >= pool.calls.not_before:
            for _ in range(wanted - len(live)):
                if not self._start_one(now):
                    break
        elif pool.queue or wanted > len(live):
            self.look_again(pool.calls.not_before)
        idle = tuple(Idle(member.id, member.idle_since) for member in live if member.state is ContainerState.READY and not member.running)
        ending, again = plan_scaledown(idle, len(live), wanted, scaling, now)
        for container in ending:
            pool.dismiss(pool.members[container], "idle")
        if again is not None:
            self.look_again(again)
        if pool.queue:
            shared = len(pool.router.class_pools) / RESCALED_TOGETHER if pool.parameters else 1.0
            self.look_again(now + RESCALE_S * max(1.0, shared))

    def look_again(self, at: float) -> None:
        """Rescale at that time, unless that happens earlier anyhow."""
        pool = self._pool
        now = pool.router.now()
        if now < self._look_at <= at:
            return
        self._look_at = at
        pool.router.later(max(0.0, at - now), lambda: self._look(at))

    def _look(self, at: float) -> None:
        if self._look_at == at:
            self._look_at = 0.0  # a timer may fire a millisecond early: then it would look as if it were still to come
            self.rescale()

    def _start_one(self, now: float) -> bool:
        pool = self._pool
        if pool.function.id in pool.router.held:
            return False
        placed = pool.router.room.place(pool)
        if isinstance(placed, Short):
            pool.short = placed
            if not placed.ever:
                pool.feed(outcomes.end_waiting, pool.calls.take_queue(), _too_large(pool.spec.tag, placed), now)
            return False
        pool.short = None
        placed.take()
        member = pool.router.start_container(pool, placed, now)
        pool.join(member)
        self._grown_at = now
        return True


def _too_large(tag: str, short: Short) -> ResourceExhaustedError:
    others = f" (its GPUs are {', '.join(short.instead)})" if short.instead else ""
    return ResourceExhaustedError(f"{words(tag)} asks for {short.lack}, and the largest machine here has {short.free:g}{others}: it can never start")
