"""What the agent believes about processes that templates tell it of: only what the kernel says.

A template runs users' code, so whatever it sends may be a lie: a descriptor may be of any process that it got one of, the agent included.
A process is taken for a copy only if it is a child of the agent, in the control group of what it was copied from, which nobody inside can leave or enter,
in the containers' user namespace, with the mapped root's ids.
"""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from squall.model.errors import ContainerStartError
from squall.runtime import cgroups
from squall.runtime.ids import IdRange

_NS_GET_PARENT = 0xB702

#: What tells a namespace from others as long as it lives: device and inode.
Namespace = tuple[int, int]


class UnprovenError(ContainerStartError):
    """A process is not what it was said to be. Nothing was done to it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a copy comes from.

    Attributes:
        group: path of the control group that the copied process is in.
        user_namespace: identity of the copies' user namespace, see `namespace`.
        ids: what that maps to.
        space: identity of a template's pid namespace.
    """

    groups: cgroups.Cgroups
    group: str
    user_namespace: Namespace
    ids: IdRange
    space: Namespace | None = None

    def prove(self, pidfd: int, role: str) -> int:
        """The host pid of a process that is a copy of this origin. It stays the process's number until the agent waits for it.

        Raises:
            UnprovenError: it is something else, or has ended.
        """
        try:
            # Says at once that it is a descriptor of a process, and that the process is a child of this one.
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            pid = host_pid(pidfd)
        except OSError as error:
            raise UnprovenError(f"the {role} that a template showed is no copy of it: {error.strerror}") from error
        if pid <= 0 or pid not in self.groups.members(self.group):
            raise UnprovenError(f"the {role} that a template showed is no copy of it: it is not in its control group")
        try:
            belongs = namespace(pid, "user") == self.user_namespace and _ids(pid) == {self.ids.first}
        except OSError as error:
            raise UnprovenError(f"the {role} that a template showed has ended") from error
        if not belongs:
            raise UnprovenError(f"the {role} that a template showed is not the containers' root, in their user namespace")
        return pid

    def collect(self, pidfd: int) -> None:
        """Take the exit status of a copy of a template that has ended: else it would stay a zombie. Of anything else nothing is taken."""
        with suppress(OSError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if self.space in pid_namespaces(host_pid(pidfd)):
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def children_in(space: Namespace) -> set[int]:
    """Host pids of this process's children, ended or not, that are in a pid namespace or below it."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError):  # a thread that has just ended
            for pid in map(int, Path("/proc/self/task", task, "children").read_text().split()):
                with suppress(OSError):
                    if space in pid_namespaces(pid):
                        found.add(pid)
    return found


def pid_namespaces(pid: int) -> list[Namespace]:
    """The pid namespace of a process, and those that it is nested in, from the inside out; of a process that has ended too."""
    found, fd = [], os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    while True:
        try:
            status = os.fstat(fd)
            found.append((status.st_dev, status.st_ino))
            parent = fcntl.ioctl(fd, _NS_GET_PARENT)
        except PermissionError:  # the agent's own has none that it could see
            return found
        finally:
            os.close(fd)
        fd = parent


def namespace(pid: int, kind: str) -> Namespace:
    """The namespace of this kind that a process is in."""
    found = os.stat(f"/proc/{pid}/ns/{kind}")
    return found.st_dev, found.st_ino


def identity(descriptor: int) -> Namespace:
    """Of the namespace that a descriptor is of."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def host_pid(pidfd: int) -> int:
    """The number that a process has in this pid namespace; 0 or less when it has none or is gone."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return 0


def _ids(pid: int) -> set[int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {int(number) for line in lines if line.startswith(("Uid:", "Gid:")) for number in line.split()[1:]}
