"""How many cores a pool's containers keep busy, measured where their driver counts it."""

from typing import TYPE_CHECKING

from squall.core.autoscaler import cores_wanted

if TYPE_CHECKING:
    from squall.control.calls.pool_container import Member

#: Between two measurements: shorter ones are too coarse to tell waiting from working.
WINDOW_S = 0.1
#: Containers that are measured, the newest of those that work: while they are at a costly first input, there is no use in more of them.
MEASURED_MAX = 4


class CpuMeter:
    """Of one pool."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._at = float("-inf")
        self._used_s: dict[str, float] = {}
        self._each: float | None = None

    def cores_each(self, members: "dict[str, Member]", now: float) -> float | None:
        """Cores that one container would use while it works, if it got them; None before that is known. Ask at least every few `WINDOW_S`."""
        passed = now - self._at
        if passed < WINDOW_S:
            return self._each
        before, self._at, self._used_s = self._used_s, now, _used(members)
        used = [self._used_s[name] - before[name] for name in self._used_s if name in before]
        if used and passed < 10 * WINDOW_S:  # after a pause, most of it was idleness
            wanted = cores_wanted(sum(used) / len(used) / passed, self._runnable(members), self._cores)
            self._each = wanted if self._each is None else 0.5 * (self._each + wanted)
        return self._each

    def _runnable(self, members: "dict[str, Member]") -> int:
        """On the machine of the newest container."""
        return next(reversed(members.values())).link.agent.runnable()


def _used(members: "dict[str, Member]") -> dict[str, float]:
    used: dict[str, float] = {}
    for member in reversed(members.values()):
        if len(used) == MEASURED_MAX:
            break
        usage = member.link.agent.usage(member.id) if member.running else None
        if usage is not None:
            used[member.id] = usage.cpu_s
    return used
