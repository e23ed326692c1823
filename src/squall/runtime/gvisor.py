"""Containers under gVisor's runsc: the bundle of the `oci` driver, run by a kernel in user space between the container and this machine's.

What differs from runc: all processes of runsc are in the container's cgroup from their first instruction; it takes the addresses out of the network namespace,
which therefore serves no second container; and it tells the program's end by an exit code only, as a shell would. Signals to the sandbox it passes on, but for
real-time ones.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squall.model.errors import InvalidError
from squall.runtime.binds import attach
from squall.runtime.cgroups import Limits
from squall.runtime.contract import Bind, ContainerSpec, Network
from squall.runtime.files import find_program
from squall.runtime.runc import run

#: In the directory of a container: that it is one of these.
MARK = "gvisor"
#: What gVisor's kernel takes for itself and is given beyond the container's own limits: its memory, and threads for each processor and process.
OVERHEAD_BYTES, OVERHEAD_PIDS = 96 << 20, 256
#: What its processes are called: they are made by /proc/self/exe.
_COMMAND = "exe"
#: Go into the control groups whose files come before "--", then be the program.
_IN_GROUP = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 1; shift; done; shift; exec "$@"'
#: Versions before August 2024 take a network namespace for the machine's own if this has a certain file in it, which since Linux 6.11 all have (gVisor's
#: issue 10704). The process that sets up the network sees none.
_WITHOUT_SYSCTLS = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t tmpfs -o ro none /proc/sys/net && exec "$@"', "sh")


def find() -> str | None:
    """Path of runsc."""
    return find_program("runsc")


def widened(limits: Limits) -> Limits:
    """Limits of a container with what gVisor needs for itself."""
    memory = None if limits.memory_bytes is None else limits.memory_bytes + OVERHEAD_BYTES
    return Limits(limits.cpu_shares, limits.cpu_quota_us, memory, None if limits.pids is None else limits.pids + OVERHEAD_PIDS)


def adapted(bundle: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the same container for runsc, which has a /sys of its own that shows nothing of this machine, and control groups of its own."""
    kept = [mount for mount in bundle["mounts"] if not mount["destination"].startswith("/sys")]
    kept.append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "noexec", "nodev"]})
    linux = {name: value for name, value in bundle["linux"].items() if name not in ("cgroupsPath", "resources")}
    # Its inotify is its own kernel's: nothing of this machine's is used by it.
    return {name: value for name, value in bundle.items() if name != "hooks"} | {"mounts": kept, "linux": linux}


@dataclass(frozen=True, slots=True)
class Gvisor:
    """Runs containers. `state`: directory where runsc remembers its own."""

    program: str
    state: Path

    def start(self, spec: ContainerSpec, folder: Path, procs: Sequence[Path]) -> int:
        """Start the bundle in `folder`, in a thread. Returns the host pid of the sandbox, which stands for the container's first process.

        Args:
            procs: files of the container's control groups that take processes.

        Raises:
            ContainerStartError, ResourceExhaustedError: with what runsc said.
        """
        self.state.mkdir(exist_ok=True, mode=0o700)
        options = (
            *("--log", str(folder / "log"), "--log-format", "json"),
            *("--network", "none" if spec.network is Network.NONE else "sandbox"),
            "--ignore-cgroups",
            "--oci-seccomp",
            "--host-uds=open",  # the agent's socket
        )
        inside = ("sh", "-c", _IN_GROUP, "sh", *map(str, procs), "--")
        create = ("create", "--bundle", str(folder), "--pid-file", str(folder / "pid"), spec.id)
        run(spec, folder / "log", (*inside, *self.command(*options, *create)))
        run(spec, folder / "log", (*inside, *_WITHOUT_SYSCTLS, *self.command(*options, "start", spec.id)))
        return int((folder / "pid").read_text())

    def command(self, *arguments: str) -> tuple[str, ...]:
        """runsc about containers of this state."""
        return (self.program, "--root", str(self.state), *arguments)


def attach_binds(bundle: dict[str, Any], folder: Path) -> None:
    """Mount what is bound below `folder`, and have it bound from there: runsc's process for files may have no right to the paths that lead to the originals."""
    folder.mkdir(mode=0o711)
    folder.chmod(0o711)
    for number, mount in enumerate(bundle["mounts"]):
        if mount["type"] == "bind":
            target = folder / str(number)
            attach(Bind(Path(mount["source"]), mount["destination"], "ro" in mount["options"]), target)
            mount["source"] = str(target)


def orphans() -> set[int]:
    """Processes of runsc that have ended and are this process's children, since their parents have ended too: no more than that is known of them."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):
            for child in Path("/proc/self/task", task, "children").read_text().split():
                with suppress(OSError):
                    named, _, fields = Path("/proc", child, "stat").read_text().rpartition(")")
                    if named.endswith(f"({_COMMAND}") and fields.split()[0] == "Z":
                        found.add(int(child))
    return found


def helpers(state: Path, container: str) -> set[int]:
    """Host pids of what serves a sandbox beside it: the process that opens files."""
    with suppress(OSError, ValueError, KeyError):
        return {int(json.loads(_files(state, container)[0].read_text())["goferPid"])}
    return set()


def forget(state: Path, container: str) -> None:
    """Remove what runsc remembers of a container. Idempotent."""
    for file in _files(state, container):
        file.unlink(missing_ok=True)


def _files(state: Path, container: str) -> tuple[Path, Path]:
    name = f"{container}_sandbox:{container}"
    return state / f"{name}.state", state / f"{name}.lock"


def required() -> str:
    """Path of runsc.

    Raises:
        InvalidError: it is not installed.
    """
    path = find()
    if path is None:
        raise InvalidError('runtime="gvisor" needs the program runsc, which this machine does not have; install it with: apt install runsc')
    return path
