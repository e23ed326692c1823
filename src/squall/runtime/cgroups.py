"""Control groups, versions 1 and 2 behind one interface: limits, out-of-memory kills, peak memory, usage.

A group is named by its path below the root, for example ``squall-main/ct-0193``. A host whose controllers are in version 1 hierarchies beside an
empty version 2 tree ("hybrid") counts as version 1. Sources: the kernel's admin-guide/cgroup-v1 and admin-guide/cgroup-v2.rst.
"""

import errno
import os
import signal
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from squall.model.resources import MIB, Resources
from squall.runtime import kernel, mounts

_PERIOD_US = 100_000  # the kernel's default; shorter periods cost more switches
_QUOTA_US_MIN = 1_000  # the kernel refuses less
_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a group may use. `cpu_shares` weighs against others when cores are short: 1024 is one core. None is no limit."""

    cpu_shares: int
    cpu_quota_us: int | None
    memory_bytes: int | None
    pids: int | None

    @classmethod
    def of(cls, resources: Resources, pids_max: int | None) -> "Limits":
        quota = None if resources.cpu_limit is None else max(_QUOTA_US_MIN, round(resources.cpu_limit * _PERIOD_US))
        memory = None if resources.memory_limit_mib is None else resources.memory_limit_mib * MIB
        return cls(max(2, round(resources.cpu_request * 1024)), quota, memory, pids_max)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a group has used. `memory_peak_bytes` is None where the kernel keeps no peak (version 2 before Linux 5.19)."""

    cpu_s: float
    memory_bytes: int
    memory_peak_bytes: int | None
    oom_kills: int


class Cgroups(ABC):
    """The host's control groups. Every method blocks for less than a millisecond and works from any thread."""

    version: str

    def __init__(self, trees: tuple[Path, ...]) -> None:
        #: Every mounted hierarchy: a container runtime joins them all, so a group is removed from all.
        self.trees = trees

    @abstractmethod
    def create(self, group: str, limits: Limits) -> None:
        """Make the group with its limits, or set them anew.

        Raises:
            OSError: the host lacks a controller or does not let us.
        """

    @abstractmethod
    def set_ceiling(self, group: str, memory_bytes: int) -> None:
        """Make the group, and bound the memory of all groups below it together. Raises OSError as `create`."""

    @abstractmethod
    def stats(self, group: str) -> Stats | None:
        """None if there is no such group."""

    @abstractmethod
    def view(self, group: str) -> list[tuple[Path, str]]:
        """Host directory and container directory of what a container may see of its own group, read-only."""

    @abstractmethod
    def procs(self, group: str) -> list[Path]:
        """The files that list the group's processes and take new ones."""

    def add(self, group: str, pid: int) -> None:
        """Move a process into the group."""
        for file in self.procs(group):
            file.write_text(str(pid))

    def pids(self, group: str) -> list[int]:
        """Host pids of its processes, those of every hierarchy that it is in."""
        found: set[int] = set()
        for tree in self.trees:
            with suppress(OSError):
                found.update(int(pid) for pid in (tree / group / "cgroup.procs").read_text().split())
        return sorted(found)

    def members(self, group: str) -> set[int]:
        """The same for processes that are in all hierarchies alike, as those of containers are once they run: a tenth of the time."""
        with suppress(OSError):
            return {int(pid) for pid in self.procs(group)[0].read_text().split()}
        return set()

    def kill(self, group: str) -> None:
        """SIGKILL to every process in it now; one that forks meanwhile may escape, so callers repeat it until `remove` succeeds."""
        for pid in self.pids(group):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self, group: str) -> bool:
        """Take the group away where it exists. False while processes are still in it."""
        gone = True
        for tree in self.trees:
            try:
                (tree / group).rmdir()
            except FileNotFoundError:
                pass
            except OSError as e:
                if e.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise
                gone = False
        return gone

    def children(self, group: str) -> set[str]:
        """Names of the groups below this one, in any hierarchy."""
        return {child.name for tree in self.trees if (tree / group).is_dir() for child in (tree / group).iterdir() if child.is_dir()}


class CgroupsV1(Cgroups):
    """One hierarchy for each controller, or for a few together."""

    version = "v1"

    def __init__(self, trees: tuple[Path, ...], controllers: dict[str, Path]) -> None:
        super().__init__(trees)
        self._at = controllers

    def create(self, group: str, limits: Limits) -> None:
        folders = {name: self._at[name] / group for name in _CONTROLLERS if name in self._at}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        _write(folders["cpu"] / "cpu.shares", limits.cpu_shares)
        if limits.cpu_quota_us is not None:
            _write(folders["cpu"] / "cpu.cfs_period_us", _PERIOD_US)
            _write(folders["cpu"] / "cpu.cfs_quota_us", limits.cpu_quota_us)
        if limits.memory_bytes is not None:
            _write(folders["memory"] / "memory.limit_in_bytes", limits.memory_bytes)
            with suppress(OSError):  # absent without swap accounting
                _write(folders["memory"] / "memory.memsw.limit_in_bytes", limits.memory_bytes)
        _write(folders["pids"] / "pids.max", limits.pids)

    def set_ceiling(self, group: str, memory_bytes: int) -> None:
        folder = self._at["memory"] / group
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # absent without swap accounting; it must be above the other limit, at every moment
            _write(folder / "memory.memsw.limit_in_bytes", -1)
        _write(folder / "memory.limit_in_bytes", memory_bytes)
        with suppress(OSError):
            _write(folder / "memory.memsw.limit_in_bytes", memory_bytes)

    def stats(self, group: str) -> Stats | None:
        memory, cpu = self._at["memory"] / group, self._at.get("cpuacct", self._at["cpu"]) / group
        try:
            return Stats(
                cpu_s=int((cpu / "cpuacct.usage").read_text()) / 1e9,
                memory_bytes=int((memory / "memory.usage_in_bytes").read_text()),
                memory_peak_bytes=int((memory / "memory.max_usage_in_bytes").read_text()),
                oom_kills=_fields(memory / "memory.oom_control").get("oom_kill", 0),
            )
        except (FileNotFoundError, OSError):
            return None

    def view(self, group: str) -> list[tuple[Path, str]]:
        return [(self._at[name] / group, f"/sys/fs/cgroup/{name}") for name in _CONTROLLERS if name in self._at]

    def procs(self, group: str) -> list[Path]:
        return [self._at[name] / group / "cgroup.procs" for name in _CONTROLLERS if name in self._at]


class CgroupsV2(Cgroups):
    """The unified hierarchy. Parents hand their controllers down and hold no processes themselves."""

    version = "v2"

    def __init__(self, root: Path) -> None:
        super().__init__((root,))
        self._root = root

    def _make(self, group: str) -> Path:
        folder = self._root
        for part in Path(group).parts:
            (folder / "cgroup.subtree_control").write_text("+cpu +memory +pids")
            folder = folder / part
            folder.mkdir(exist_ok=True)
        return folder

    def set_ceiling(self, group: str, memory_bytes: int) -> None:
        folder = self._make(group)
        _write(folder / "memory.max", memory_bytes)
        with suppress(OSError):  # absent without swap
            _write(folder / "memory.swap.max", 0)

    def create(self, group: str, limits: Limits) -> None:
        folder = self._make(group)
        # Shares 2..262144 to weight 1..10000, as the OCI runtimes do it.
        _write(folder / "cpu.weight", 1 + (min(limits.cpu_shares, 262_144) - 2) * 9999 // 262_142)
        (folder / "cpu.max").write_text(f"{'max' if limits.cpu_quota_us is None else limits.cpu_quota_us} {_PERIOD_US}")
        _write(folder / "memory.max", limits.memory_bytes)
        if limits.memory_bytes is not None:
            with suppress(OSError):  # absent without swap
                _write(folder / "memory.swap.max", 0)
        _write(folder / "memory.oom.group", 1)  # a container without one of its processes is of no use
        _write(folder / "pids.max", limits.pids)

    def stats(self, group: str) -> Stats | None:
        folder = self._root / group
        try:
            return Stats(
                cpu_s=_fields(folder / "cpu.stat")["usage_usec"] / 1e6,
                memory_bytes=int((folder / "memory.current").read_text()),
                memory_peak_bytes=int((folder / "memory.peak").read_text()) if (folder / "memory.peak").exists() else None,
                oom_kills=_fields(folder / "memory.events").get("oom_kill", 0),
            )
        except (FileNotFoundError, OSError):
            return None

    def view(self, group: str) -> list[tuple[Path, str]]:
        return [(self._root / group, "/sys/fs/cgroup")]

    def kill(self, group: str) -> None:
        try:
            (self._root / group / "cgroup.kill").write_text("1")  # Linux 5.14; leaves nobody out
        except OSError:
            super().kill(group)

    def procs(self, group: str) -> list[Path]:
        return [self._root / group / "cgroup.procs"]


def detect(mountinfo: str | None = None) -> Cgroups | None:
    """The host's control groups by its mount table; None where the controllers that limits need are not mounted."""
    trees: list[Path] = []
    controllers: dict[str, Path] = {}
    unified: Path | None = None
    for line in (Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo).splitlines():
        before, _, after = line.partition(" - ")
        point, (kind, _, options) = Path(before.split(" ")[4]), after.split(" ", 2)
        if kind == "cgroup2":
            unified = unified or point
            trees.append(point)
        elif kind == "cgroup":
            trees.append(point)
            controllers.update((option, point) for option in options.split(",") if option in _CONTROLLERS and option not in controllers)
    if {"cpu", "memory", "pids"} <= controllers.keys():
        return CgroupsV1(tuple(trees), controllers)
    if unified is not None:
        with suppress(OSError):
            if {"cpu", "memory", "pids"} <= set((unified / "cgroup.controllers").read_text().split()):
                return CgroupsV2(unified)
    return None


def favor_moves(folder: Path, name: str) -> bool:
    """Have this machine's kernel move processes between groups quickly: else the first move after a pause waits for an RCU grace period, 6 ms and more.

    It is an option of a hierarchy, so an empty one is mounted at `folder` until `end_favor`; since Linux 6.18 it then stays in force until the next boot.
    It makes forks dearer by some ten nanoseconds, and nothing else different (cgroup-v2.rst, "favordynmods"). False before Linux 6.0.
    """
    end_favor(folder)
    folder.mkdir(exist_ok=True, mode=0o700)
    try:
        kernel.mount("squall", str(folder), "cgroup", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, f"none,name={name},favordynmods")
    except OSError:
        folder.rmdir()
        return False
    return True


def end_favor(folder: Path) -> None:
    """Take that hierarchy away. Idempotent."""
    while mounts.detach(folder):
        pass
    if folder.exists():
        folder.rmdir()


def _write(file: Path, value: int | None) -> None:
    file.write_text("max" if value is None else str(value))


def _fields(file: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in file.read_text().splitlines())}
