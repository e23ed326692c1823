"""The contract of a container driver: what a container is given, what it reports when it ends, what a driver promises.

A driver keeps everything that it makes (mounts, cgroups, namespaces, directories, processes) under names derived from the container's id, so that
`sweep` can remove what a killed agent left behind. The same contract suite (`tests/contract/test_runtime.py`) runs over every driver.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from squall.model.ids import ContainerId
from squall.model.resources import Resources

if TYPE_CHECKING:
    from squall.runtime.network import NetworkPool
    from squall.runtime.template import Templating


class Network(StrEnum):
    """What a container can reach. NAT: the outside, but nothing on this machine and no other container. NONE: only its loopback."""

    NAT = "nat"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of this machine, seen in the container at `target`.

    `below`: of the directory `source` only this one in it. What leads there may be exchanged at any moment by code that is not trusted, so it is resolved when
    it is mounted, and never leads out of `source`.
    """

    source: Path
    target: str
    read_only: bool = True
    below: str = ""


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A character device of this machine, `host`, that is `path` in the container, where it has this mode."""

    path: str
    host: Path
    major: int
    minor: int
    mode: int = 0o666


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to be started.

    Attributes:
        layers: directories, lowest first; the root file system is an overlay of them. The process driver puts them into effect as far as it can.
        upper: directory that takes the container's writes and outlives it (an image step being built); mount points leave nothing in it. None: a scratch
            directory that goes with the container.
        argv: the program, found inside the container.
        env: its whole environment.
        stdout, stderr: descriptors of this process that become its 1 and 2; still owned by the caller.
        outbound: all of the outside that it can reach, with `Network.NAT`; None: everything.
        pids_max: processes and threads that it may have.
        rights: root inside keeps the few capabilities that package managers need. False: it has none.
        devices: what is in /dev besides the usual.
        links: symbolic links that the root file system has, by their paths.
        gvisor: a kernel in user space lies between it and this machine's.
    """

    id: ContainerId
    layers: tuple[Path, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stdout: int
    stderr: int
    workdir: str = "/root"
    hostname: str = "squall"
    binds: tuple[Bind, ...] = ()
    resources: Resources = Resources()
    pids_max: int = 4096
    network: Network = Network.NAT
    outbound: tuple[IPv4Network, ...] | None = None
    upper: Path | None = None
    rights: bool = True
    devices: tuple[DeviceNode, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    gvisor: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended. Exactly one of `exit_code` and `signal` is set; both None when a restarted agent could not learn it.

    Attributes:
        from_inside: the signal came from the container's own processes, or from the kernel. False: from outside, or the driver can't tell.
    """

    exit_code: int | None
    signal: int | None
    oom_killed: bool = False
    memory_peak_bytes: int | None = None
    from_inside: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a running container has used. `cpu_s` are core seconds since its start."""

    cpu_s: float
    memory_bytes: int


class Container(Protocol):
    """A started container."""

    @property
    def id(self) -> ContainerId: ...

    @property
    def pid(self) -> int:
        """Host pid of its first process: an init, where the driver isolates."""
        ...

    @property
    def network_s(self) -> float:
        """Seconds that its start waited for a network; 0 where there was one."""
        ...

    async def wait(self) -> Exit:
        """Wait until its program has ended. May be awaited by several tasks and again afterwards; cancel-safe."""
        ...

    def kill(self, signal: int) -> None:
        """Send a signal to its program. With SIGKILL every process of the container ends. No effect once it has ended."""
        ...

    def usage(self) -> Usage | None:
        """What it uses now; None once it has ended or where the driver can't tell."""
        ...

    async def remove(self) -> None:
        """End what still runs and take away mounts, cgroups, namespaces and scratch files. Idempotent, finishes when cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver gives. False means: it does not, and `missing` says in a sentence what would bring it."""

    isolation: bool
    images: bool
    limits: bool
    network: bool
    gvisor: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """How a command gets into a container: by a process of this machine's Python that runs `main` of this module of `runtime`, which is told the order.

    `order`: what concerns the container; the caller adds what concerns the command (`argv`, `env`, `workdir`, `tty`).
    """

    module: str
    order: Mapping[str, Any]


class Driver(Protocol):
    """Starts containers. `open` before anything else and `close` at the end; `close` leaves running containers alone."""

    name: str

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def templating(self) -> "Templating | None":
        """Makes containers that are copies of templates; None: all are started the long way."""
        ...

    @property
    def network(self) -> "NetworkPool | None":
        """The containers' networks, which helpers of the server may be in too; None: they share this machine's."""
        ...

    @property
    def written(self) -> Path | None:
        """A directory that has one for each container and template, by its name, with what it has written; None: they write to no place of their own."""
        ...

    def entry(self, container: Container) -> Entry | None:
        """How a command gets into a container of this driver that runs; None: it can't."""
        ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def start(self, spec: ContainerSpec) -> Container:
        """Start it. What was made is taken away again if this fails or is cancelled.

        Raises:
            InvalidError: the spec asks for what this driver can't do (`Capabilities`).
            ResourceExhaustedError: no disk, no pids, no addresses left.
            ContainerStartError: anything else, with the cause.
        """
        ...

    async def admit(self, listen: Callable[[str], Awaitable[int]]) -> str | None:
        """Let containers reach one service of this machine.

        Args:
            listen: begins to listen at the address, which only containers and this machine reach, and gives the port.

        Returns:
            Its ``HOST:PORT`` for containers; None where they share this machine's network, and reach everything anyway.
        """
        ...

    async def allow(self, networks: Sequence[IPv4Network], services: Sequence[tuple[str, int]]) -> None:
        """Let containers reach these of the private networks around this machine, which are refused otherwise, and the TCP services (name, port) there."""
        ...

    async def adopt(self, container: ContainerId) -> Container | None:
        """The handle of a container that an earlier agent started and that still runs; None if there is none."""
        ...

    async def sweep(self, keep: Callable[[ContainerId], bool]) -> list[ContainerId]:
        """Remove what is left of containers of an earlier agent of this instance, but for those that `keep` names. Returns the removed ones."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at on this host, for `squall doctor`: `ok`, what was found, and what to do if it is missing."""

    name: str
    ok: bool
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class HostReport:
    """What this host can do. `driver` is the best driver's name and `reason` says why it was chosen."""

    findings: tuple[Finding, ...]
    driver: str
    reason: str
    facts: Mapping[str, str] = field(default_factory=dict)
