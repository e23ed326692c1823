"""The `process` driver: for hosts without privilege, a container is a process group of this user, and `missing` says what that does not give.

The program and its environment are taken as given; layers have no effect. Binds come into effect by name: where an argument, the working directory or a
part of an environment variable names a bind's target or something below it, it is given the source instead.

What a container leaves on the machine: a state file RUN/containers/ID.json written before its process starts, a scratch directory DATA/containers/ID, and
processes, each of which carries the container's name in its environment, so that also those that left the process group are found (on Linux).
"""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from squall.model.errors import ConflictError, ContainerStartError, InvalidError, ResourceExhaustedError
from squall.model.ids import ContainerId
from squall.model.resources import MIB
from squall.runtime.contract import Bind, Capabilities, Container, ContainerSpec, Entry, Exit, Network, Usage
from squall.runtime.files import child_names, lock_file, remove_tree, write_atomically
from squall.runtime.waiting import End, ProcessWatch, finish

_MARK = "SQUALL_PROCESS_OF"  # environment variable of all processes of a container: INSTANCE/ID
_END_S_MAX = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")
_MISSING = (
    "no isolation: programs see this machine's files, processes and network; run the server as root on Linux with runc for containers of their own",
    "image layers have no effect, so apt packages can't be installed; they need root on Linux, overlayfs and runc",
    "memory limits hold for each process alone and raise MemoryError; limits for cpu and processes, and out-of-memory reports, need root and cgroups",
)


class ProcessContainer:
    """A process group of this driver; see `Container`."""

    def __init__(self, driver: "ProcessDriver", container: ContainerId, pid: int) -> None:
        self._driver, self._id, self._pid = driver, container, pid
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._watch = ProcessWatch(pid, self._ended, whole_group=True)
        self._removal: asyncio.Task[None] | None = None

    network_s = 0.0

    @property
    def id(self) -> ContainerId:
        return self._id

    @property
    def pid(self) -> int:
        return self._pid

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    def kill(self, signal: int) -> None:
        if signal == _SIGKILL:
            self._watch.kill_group()
        else:
            self._watch.send_signal(signal)

    def usage(self) -> Usage | None:
        """Of the first process, with the cpu time of children that it has waited for."""
        fields = _stat(self._pid)
        if fields is None or self._exit.done():
            return None
        return Usage(sum(int(ticks) for ticks in fields[11:15]) / _TICKS, int(fields[21]) * resource.getpagesize())

    async def remove(self) -> None:
        if self._removal is None:
            self._removal = asyncio.create_task(self._remove(), name=f"remove container({self._id})")
        await finish(self._removal)

    def forget(self) -> None:
        """Let go of descriptors; the process goes on. Whoever waits for it is cancelled."""
        self._watch.close()
        self._exit.cancel()

    async def _remove(self) -> None:
        try:
            self.kill(_SIGKILL)
            if not self._exit.cancelled():
                await self.wait()
            await self._driver.discard(self._id)
        except BaseException:
            self._removal = None  # to be tried again
            raise

    def _ended(self, end: End) -> None:
        self._exit.set_result(Exit(end.code, end.signal, False, end.peak_bytes))


class ProcessDriver:
    """Process groups of one instance; see `Driver`. Works for any user on any Unix; without Linux's /proc nothing is adopted after a restart."""

    name = "process"

    def __init__(self, *, run: Path, data: Path, instance: str) -> None:
        """
        Args:
            run: directory of this instance for state that need not outlive a reboot.
            data: directory of this instance for scratch directories.
            instance: a name that no other instance of this user has.
        """
        self._run, self._data, self._instance = run, data, instance
        self._containers: dict[ContainerId, ProcessContainer] = {}
        self._lock: int | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(isolation=False, images=False, limits=False, network=False, missing=_MISSING)

    templating = None
    network = None
    written = None

    def entry(self, container: Container) -> Entry:
        """On this machine, which is where the container's processes are."""
        return Entry("enter", {"isolated": False})

    async def open(self) -> None:
        """
        Raises:
            ConflictError: another process has this instance open.
        """
        for folder in (self._run, self._run / "containers", self._data / "containers"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = await lock_file(self._run / "lock")
        if lock is None:
            raise ConflictError(f"instance {self._instance} is in use by another process")
        self._lock = lock

    async def close(self) -> None:
        """Idempotent. Containers that run go on."""
        if self._lock is None:
            return
        for container in self._containers.values():
            container.forget()
        self._containers.clear()
        with suppress(OSError):  # not while a container is in one
            (self._run / "containers").rmdir()
            (self._data / "containers").rmdir()
        os.close(self._lock)
        self._lock = None

    async def start(self, spec: ContainerSpec) -> Container:
        if not spec.argv:
            raise InvalidError("argv is empty")
        if spec.network is Network.NONE:
            raise InvalidError(f"the process driver can't take the network away; {_MISSING[0]}")
        if spec.outbound is not None:
            raise InvalidError(f"the process driver can't bound what is reached (outbound_cidr_allowlist=); {_MISSING[0]}")
        if spec.resources.gpus:
            raise InvalidError("the process driver hands out no GPUs")
        if spec.resources.disk_limit_mib is not None:
            raise InvalidError(f"the process driver has no limit of disk space (ephemeral_disk=); {_MISSING[0]}")
        if self._state(spec.id).exists():
            raise InvalidError(f"container {spec.id} exists already")
        try:
            pid = self._launch(spec)
            container = ProcessContainer(self, spec.id, pid)
        except BaseException as e:
            await self.discard(spec.id)
            if isinstance(e, BlockingIOError | MemoryError):
                raise ResourceExhaustedError(f"container {spec.id} could not be started: {e}") from e
            if isinstance(e, OSError):
                raise ContainerStartError(f"container {spec.id} could not be started: {e}") from e
            raise
        self._containers[spec.id] = container
        return container

    async def admit(self, listen: Callable[[str], Awaitable[int]]) -> str | None:
        return None

    async def allow(self, networks: Sequence[IPv4Network], services: Sequence[tuple[str, int]]) -> None:
        """Nothing: these containers share this machine's network."""

    async def adopt(self, container: ContainerId) -> Container | None:
        if container in self._containers:
            return self._containers[container]
        with suppress(OSError, ValueError, KeyError):
            state = json.loads(self._state(container).read_text())
            adopted = ProcessContainer(self, container, state["pid"])
            if state["started"] is not None and state["started"] == _started(state["pid"]):
                self._containers[container] = adopted
                return adopted
            adopted.forget()
        return None

    async def sweep(self, keep: Callable[[ContainerId], bool]) -> list[ContainerId]:
        found = {name.removesuffix(".json") for name in child_names(self._run / "containers")} | child_names(self._data / "containers")
        found |= {name for name, _ in await asyncio.to_thread(_marked, self._instance)}
        left = sorted(ContainerId(name) for name in found if name not in self._containers and not keep(ContainerId(name)))
        for container in left:
            await self.discard(container)
        return left

    async def discard(self, container: ContainerId) -> None:
        """End all processes of a container and remove its files. Idempotent."""
        await asyncio.to_thread(self._end_all, container)
        await asyncio.to_thread(remove_tree, self._data / "containers" / container)
        self._state(container).unlink(missing_ok=True)
        self._containers.pop(container, None)

    def _launch(self, spec: ContainerSpec) -> int:
        write_atomically(self._state(spec.id), json.dumps({"pid": None, "started": None}), 0o600)
        scratch = self._data / "containers" / spec.id
        scratch.mkdir(mode=0o700)
        workdir = Path(_with_sources(spec.workdir, spec.binds))
        argv = [_with_sources(argument, spec.binds) for argument in spec.argv]
        env = {name: ":".join(_with_sources(part, spec.binds) for part in value.split(":")) for name, value in spec.env.items()}
        limit = spec.resources.memory_limit_mib
        if limit is not None:  # by a shell, since code between fork and exec is not safe in a process with threads
            argv = ["/bin/sh", "-c", 'ulimit -d "$0" && exec "$@"', str(limit * MIB // 1024), *argv]
        program = subprocess.Popen(
            argv,
            env={**env, _MARK: f"{self._instance}/{spec.id}"},
            cwd=workdir if workdir.is_dir() and os.access(workdir, os.X_OK) else scratch,
            stdin=subprocess.DEVNULL,
            stdout=spec.stdout,
            stderr=spec.stderr,
            start_new_session=True,
        )
        # Waited for by a ProcessWatch, so this object must not think that it still has to.
        program.returncode = 0
        write_atomically(self._state(spec.id), json.dumps({"pid": program.pid, "started": _started(program.pid)}), 0o600)
        return program.pid

    def _state(self, container: str) -> Path:
        return self._run / "containers" / f"{container}.json"

    def _end_all(self, container: ContainerId) -> None:
        deadline = time.monotonic() + _END_S_MAX
        while pids := [pid for name, pid in _marked(self._instance) if name == container]:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ResourceExhaustedError(f"processes of container {container} do not end: {pids}")
            time.sleep(0.002)  # until the kernel has ended them; most are not our children


def _with_sources(text: str, binds: tuple[Bind, ...]) -> str:
    """`text` with the source in place of the innermost bind's target that it lies in."""
    for bind in sorted(binds, key=lambda bind: -len(bind.target)):
        target = bind.target.rstrip("/")
        if text == target or text.startswith(f"{target}/"):
            return str(bind.source / bind.below) + text[len(target) :]
    return text


def _marked(instance: str) -> list[tuple[str, int]]:
    """Container and pid of every process of this instance. A zombie's environment is empty, so it does not count."""
    found: list[tuple[str, int]] = []
    mark = f"{_MARK}={instance}/".encode()
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        if name.isdecimal():
            with suppress(OSError), open(f"/proc/{name}/environ", "rb") as environ:
                found += [(item[len(mark) :].decode(), int(name)) for item in environ.read().split(b"\0") if item.startswith(mark)]
    return found


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on: the first is field 3 of proc_pid_stat(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """When a process began, in ticks since boot: with the pid this names it for good. None outside Linux."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


_SIGKILL = int(signal.SIGKILL)
