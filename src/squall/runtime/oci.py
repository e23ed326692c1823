"""The `oci` driver: containers by runc or crun in a user namespace, on an overlay of their image's layers.

Life of a container, and what of it exists on the machine after each step. Everything is named by the container, so `sweep` finds it by looking:

    1. a network namespace leased from the pool
    2. RUN/containers/ID/          with `slot`, the number of that namespace; from here on `sweep` knows the container
    3. cgroup squall-INSTANCE/ID   in each hierarchy
    4. DATA/containers/ID/         upper and work directories of the overlay; mount points lie in DATA/points, a layer shared by containers with the same ones
    5. overlay at RUN/containers/ID/root
    6. the runtime's process, for about 20 ms; it makes the container's processes and RUN/runtime/ID, and writes RUN/containers/ID/pid

`remove` and `sweep` undo 6 to 1, each step idempotent, step 2 last. Neither asks the runtime for anything: processes are ended through the cgroup, and
what the runtime keeps is a directory.
"""

import asyncio
import errno
import json
import logging
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

from squall.model.errors import ConflictError, ContainerStartError, InvalidError, ResourceExhaustedError
from squall.model.ids import ContainerId
from squall.model.resources import MIB
from squall.runner.init import SIGNALLED
from squall.runtime import cgroups, disk, filters, gvisor, kernel, memory, mounts, points, strays
from squall.runtime.binds import attach, detach
from squall.runtime.bundle import NOFILE, config, mount_points, nofile_max
from squall.runtime.contract import Bind, Capabilities, Container, ContainerSpec, Entry, Exit, Network, Usage
from squall.runtime.files import child_names, lock_file, remove_tree
from squall.runtime.firewall import FirewallError
from squall.runtime.ids import DEFAULT_IDS, IdRange
from squall.runtime.network import NetworkPool, Slot, tag_of
from squall.runtime.process import ProcessDriver
from squall.runtime.resolver import changed_at
from squall.runtime.runc import Runc, find_runtime
from squall.runtime.template import Templating
from squall.runtime.waiting import End, ProcessWatch, finish

log = logging.getLogger(__name__)

#: Makes the container's processes, in a thread; returns the host pid of the first one.
Launch = Callable[[ContainerSpec, Slot | None], int]

_END_S_MAX = 30.0  # processes that are killed and do not end within this are stuck in the kernel
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE}
_SIGNAL_MAX = 64
OOM_SCORE = 500  # before the agent, after nobody in particular


class OciContainer:
    """A container of this driver; see `Container`."""

    def __init__(self, driver: "OciDriver", container: ContainerId, pid: int, limit_bytes: int | None = None) -> None:
        """Raises ProcessLookupError when the process is gone and was not this process's child."""
        self._driver, self._id, self._pid = driver, container, pid
        self.network_s = 0.0
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._watch = ProcessWatch(pid, self._ended)
        self._removal: asyncio.Task[None] | None = None

    @property
    def id(self) -> ContainerId:
        return self._id

    @property
    def pid(self) -> int:
        return self._pid

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    def kill(self, signal: int) -> None:
        self._watch.send_signal(signal)

    def usage(self) -> Usage | None:
        if self._exit.done():
            return None
        stats = self._driver.groups.stats(self._driver.group(self._id))
        return None if stats is None else Usage(stats.cpu_s, stats.memory_bytes)

    async def remove(self) -> None:
        if self._removal is None:
            self._removal = asyncio.create_task(self._remove(), name=f"remove container({self._id})")
        await finish(self._removal)

    def forget(self) -> None:
        """Let go of descriptors; the container goes on. Whoever waits for it is cancelled."""
        self._watch.close()
        self._exit.cancel()

    async def _remove(self) -> None:
        try:
            self.kill(signal.SIGKILL)
            if not self._exit.cancelled():
                await self.wait()  # so that its status is taken before the group and its counters go
            await self._driver.discard(self._id)
        except BaseException:
            self._removal = None  # to be tried again
            raise

    def _ended(self, end: End) -> None:
        stats = self._driver.groups.stats(self._driver.group(self._id))
        # A child that was out of memory earlier says nothing about an end in order.
        oom_killed = stats is not None and stats.oom_kills > 0 and end.code != 0
        peak_bytes = stats.memory_peak_bytes if stats else None
        if end.code is not None and SIGNALLED < end.code <= SIGNALLED + _SIGNAL_MAX:  # an init, runsc and shells say so that a signal ended the program
            self._exit.set_result(Exit(None, end.code - SIGNALLED, oom_killed, peak_bytes, from_inside=True))
        else:
            self._exit.set_result(Exit(end.code, end.signal, oom_killed, peak_bytes))


class OciDriver:
    """Containers of one instance; see `Driver`. Needs root, cgroups, overlayfs, nftables, and runc 1.1 or crun.

    One process at a time may have an instance open. It becomes the reaper of orphans among its descendants, for containers' exit statuses.
    """

    name = "oci"

    def __init__(
        self,
        *,
        run: Path,
        data: Path,
        instance: str,
        ids: IdRange = DEFAULT_IDS,
        runtime: str | None = None,
        groups: cgroups.Cgroups | None = None,
        ready_networks: int = 4,
    ) -> None:
        """
        Args:
            run: directory of this instance on a tmpfs, for example ``/run/squall/main``; mapped users must be able to traverse its parents.
            data: directory of this instance on a real disk, for what containers write.
            instance: a name that no other instance on this machine has, of letters, digits, ``-`` and ``_``.
            ids: what containers' ids are mapped to; layers must be owned accordingly.
            runtime: path of runc or crun; None looks for them.
            groups: the host's cgroups; None looks at them.
            ready_networks: network namespaces that are kept prepared.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", instance):
            raise InvalidError(f"instance={instance!r} must be 1 to 40 letters, digits, '-' or '_'")
        found = groups or cgroups.detect()
        if found is None:
            raise InvalidError("this host has no cgroup controllers for cpu, memory and pids")
        self.groups = found
        self.network = NetworkPool(tag=tag_of(instance), folder=run, ready=ready_networks, maker=self._network_maker())
        self._run, self._data, self._instance, self.ids = run, data, instance, ids
        self._groups_parent = f"squall-{instance}"
        self._runtime = runtime or find_runtime(found.version)
        self._nofile_max = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self._containers: dict[ContainerId, OciContainer] = {}
        self._starting: set[ContainerId] = set()
        self._threads = ThreadPoolExecutor(8, f"squall-{self.name}")
        self._points = points.Points(data / "points", ids)
        self._resolv_lock = threading.Lock()
        #: State of the host's resolvers that the containers' file was made from.
        self._resolv_of: tuple[int, ...] | None = None
        #: Descriptor of the locked file of this instance; -1 while not open.
        self._lock = -1

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(isolation=True, images=True, limits=True, network=True, gvisor=gvisor.find() is not None)

    @property
    def written(self) -> Path:
        """A directory for each container, by its name, with what it has written."""
        return self._data / "containers"

    @property
    def templating(self) -> Templating | None:
        return None

    def entry(self, container: Container) -> Entry:
        if self.is_gvisor(container.id):
            return Entry("gvisor_enter", {"runsc": self.gvisor().command(), "container": container.id})
        limit = nofile_max(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        procs = [str(path) for path in self.groups.procs(self.group(container.id))]
        filter_ = filters.container_filter().hex() if filters.library() is not None else ""
        joined = {"isolated": True, "pid": container.pid, "procs": procs}
        return Entry("enter", joined | {"filter": filter_, "capabilities": 0, "nofile": [min(NOFILE, limit), limit]})

    def group(self, container: str) -> str:
        """Path of the container's cgroup below the root of each hierarchy."""
        return f"{self._groups_parent}/{container}"

    # --- life of the driver ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """
        Raises:
            ConflictError: another process has this instance open.
            ContainerStartError: this host can't run containers, with the cause.
        """
        if self._runtime is None:
            raise ContainerStartError("no container runtime found; install one with: apt install runc")
        kernel.set_subreaper(True)
        for folder, mode in ((self._run, 0o711), (self._run / "containers", 0o711), (self._data / "containers", 0o700)):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)  # the mapped root walks through the first two, and sees nothing there
        lock = await lock_file(self._run / "lock")
        if lock is None:
            raise ConflictError(f"instance {self._instance} is in use by another process")
        try:
            self.groups.set_ceiling(self._groups_parent, memory.for_containers_mib(os.environ) * MIB)
            await self._prepare()
            await self.network.open(slot for slot in map(self._slot, child_names(self._run / "containers")) if slot is not None)
        except BaseException as e:
            os.close(lock)
            if isinstance(e, OSError | FirewallError):
                raise ContainerStartError(f"could not set up the containers' network: {e}") from e
            raise
        self._lock = lock

    async def close(self) -> None:
        """Idempotent. Containers that run go on and can be adopted by the next one who opens this instance."""
        if self._lock < 0:
            return
        for container in self._containers.values():
            container.forget()
        self._containers.clear()
        try:
            await self.network.close()
            if not child_names(self._run / "containers"):
                self._points.remove()
                for folder in (self._run / "containers", self._data / "containers", self._run / "runtime", self._run / "gvisor"):
                    with suppress(FileNotFoundError):
                        folder.rmdir()
                (self._run / "resolv.conf").unlink(missing_ok=True)
                self.groups.remove(self._groups_parent)
        finally:
            os.close(self._lock)  # the file stays: who removes a lock file may remove another's
            self._lock = -1
            self._threads.shutdown()

    async def start(self, spec: ContainerSpec) -> Container:
        if not spec.argv:
            raise InvalidError("argv is empty")
        return await self._begin(spec, self._launch)

    async def _begin(self, spec: ContainerSpec, launch: Launch) -> OciContainer:
        _check(spec)
        if spec.id in self._starting or (self._run / "containers" / spec.id).exists():
            raise InvalidError(f"container {spec.id} exists already")
        self._starting.add(spec.id)
        try:
            return await self._start(spec, launch)
        except FirewallError as e:
            raise ContainerStartError(f"container {spec.id}: {e}") from e
        except OSError as e:
            kind = ResourceExhaustedError if e.errno in _NO_ROOM else ContainerStartError
            raise kind(f"container {spec.id} could not be started: {e}") from e
        finally:
            self._starting.discard(spec.id)

    async def admit(self, listen: Callable[[str], Awaitable[int]]) -> str | None:
        if not self.capabilities.network:
            return None
        address = str(self.network.gateway)
        port = await listen(address)
        await self.network.admit(port)
        return f"{address}:{port}"

    async def allow(self, networks: Sequence[IPv4Network], services: Sequence[tuple[str, int]]) -> None:
        if self.capabilities.network:
            await self.network.allow(networks, services)

    async def adopt(self, container: ContainerId) -> Container | None:
        if container in self._containers:
            return self._containers[container]
        with suppress(OSError, ValueError):
            pid = int((self._run / "containers" / container / "pid").read_text())
            adopted = OciContainer(self, container, pid)
            # Only now, as the watch holds the very process: a number used again is not in the group.
            if pid in self.groups.pids(self.group(container)):
                self._containers[container] = adopted
                return adopted
            adopted.forget()
        return None

    async def sweep(self, keep: Callable[[ContainerId], bool]) -> list[ContainerId]:
        for state in ("runtime", "gvisor"):
            await self._in_thread(lambda state=state: strays.end(b"--root\0%b\0" % os.fsencode(self._run / state)))  # type: ignore[misc]
        if any((self._run / "containers").glob("*.json")):  # an earlier agent had the process driver
            await ProcessDriver(run=self._run, data=self._data, instance=self._instance).sweep(lambda container: False)
        found = child_names(self._run / "containers") | child_names(self._data / "containers") | child_names(self._run / "runtime")
        found |= self.groups.children(self._groups_parent)
        ours = self._ours()
        left = sorted(ContainerId(name) for name in found if name not in ours and not keep(ContainerId(name)))
        for container in left:
            await self._in_thread(lambda container=container: disk.end_strays(self._data / "containers" / container))  # type: ignore[misc]
            await self.discard(container)
        return left

    async def discard(self, container: ContainerId) -> None:
        """Undo every step of a start, in whatever state it is. Idempotent."""
        slot = self._slot(container)
        await self._in_thread(lambda: self._discard(container))
        if slot is not None:
            await self.network.release(slot, clean=self._leaves_network_clean(container))
        remove_tree(self._run / "containers" / container)
        self._containers.pop(container, None)

    def _leaves_network_clean(self, container: ContainerId) -> bool:
        """Whether nobody in this container could change its network namespace. Here root has no right over it: it belongs to the host's root.

        Of gVisor's, runsc has taken the addresses away.
        """
        return not self.is_gvisor(container)

    def is_gvisor(self, container: ContainerId) -> bool:
        return (self._run / "containers" / container / gvisor.MARK).exists()

    def gvisor(self) -> gvisor.Gvisor:
        """Raises InvalidError where there is no runsc."""
        return gvisor.Gvisor(gvisor.required(), self._run / "gvisor")

    def _network_maker(self) -> Callable[[], int] | None:
        """How network namespaces are made; see `NetworkPool`."""
        return None

    async def _prepare(self) -> None:
        """What a driver built on this one needs before the first network namespace."""

    def _strays(self, container: ContainerId) -> set[int]:
        """Further children of this process that a container which has been ended has left."""
        return set()

    def _ours(self) -> set[str]:
        """Names of what this very driver made."""
        return {*self._starting, *self._containers}

    # --- start -------------------------------------------------------------------------------------------------------------------

    async def _start(self, spec: ContainerSpec, launch: Launch) -> OciContainer:
        began = time.perf_counter()
        slot = await self.network.lease() if spec.network is Network.NAT else None
        if slot is not None and spec.outbound is not None:
            try:
                await self.network.limit(slot, spec.outbound)
            except BaseException:
                await self.network.release(slot.number)
                raise
        leased = time.perf_counter()
        launching = asyncio.get_running_loop().run_in_executor(self._threads, lambda: launch(spec, slot))
        try:
            pid = await asyncio.shield(launching)
            container = OciContainer(self, spec.id, pid)
        except BaseException:
            await finish(asyncio.create_task(self._undo(spec.id, launching, slot), name=f"undo container({spec.id})"))
            raise
        container.network_s = leased - began
        self._containers[spec.id] = container
        return container

    async def _undo(self, container: ContainerId, launch: "asyncio.Future[int]", slot: Slot | None) -> None:
        """Take away what a failed or cancelled start made, once its thread has come to an end."""
        await asyncio.wait([launch])
        pid = None if launch.cancelled() or launch.exception() else launch.result()
        await self.discard(container)
        if slot is not None:
            await self.network.release(slot.number)
        if pid is not None:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended

    def _lay_out(self, spec: ContainerSpec, slot: Slot | None, folders: tuple[str, ...] = ()) -> tuple[int, list[Bind]]:
        """Steps 2 to 4 and the overlay of step 5, detached and the caller's, in a thread. Returns what is bound besides `spec.binds`, too.

        Args:
            folders: mount points that the root file system has besides those of `spec`.
        """
        folder, scratch = self._run / "containers" / spec.id, self._data / "containers" / spec.id
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)
        if slot is not None:
            (folder / "slot").write_text(str(slot.number))
        limits = cgroups.Limits.of(spec.resources, spec.pids_max + 1)  # and its init
        self.groups.create(self.group(spec.id), gvisor.widened(limits) if spec.gvisor else limits)
        binds = self._own_binds(spec, folder)
        scratch.mkdir(mode=0o700)
        inside, files = mount_points(spec, binds)
        below = self._points.layer({*inside, *folders}, files)
        root = folder / "root"
        root.mkdir()
        limit_mib = spec.resources.disk_limit_mib
        written = scratch if limit_mib is None else disk.make(scratch, limit_mib)
        (written / "work").mkdir()
        upper = spec.upper or points.mapped_folder(written / "upper", self.ids)
        above = [points.linked_folder(scratch / "links", spec.links, self.ids)] if spec.links else []
        overlay = mounts.overlay((below, *spec.layers, *above), upper, written / "work", volatile=spec.upper is None)
        return overlay, binds + [Bind(source, target) for source, target in self.groups.view(self.group(spec.id))]

    def _launch(self, spec: ContainerSpec, slot: Slot | None) -> int:
        """Steps 2 to 6, in a thread. Returns the host pid of the container's first process."""
        folder = self._run / "containers" / spec.id
        root = folder / "root"
        overlay, binds = self._lay_out(spec, slot)
        try:
            mounts.attach(overlay, root)
        finally:
            os.close(overlay)
        bundle = config(
            self._with_paths(spec, folder / "below"),
            root=root,
            ids=self.ids,
            cgroup=self.group(spec.id),
            network=None if slot is None else slot.path,
            binds=binds,
            oom_score=OOM_SCORE,
            nofile=nofile_max(self._nofile_max),
        )
        if spec.gvisor:
            (folder / gvisor.MARK).touch()
            bundle = gvisor.adapted(bundle)
            gvisor.attach_binds(bundle, folder / "binds")
            (folder / "config.json").write_text(json.dumps(bundle))
            return self.gvisor().start(spec, folder, self.groups.procs(self.group(spec.id)))
        (folder / "config.json").write_text(json.dumps(bundle))
        assert self._runtime is not None
        return Runc(self._runtime, self._run / "runtime").start(spec, folder)

    @staticmethod
    def _with_paths(spec: ContainerSpec, folder: Path) -> ContainerSpec:
        """What is bound from below a directory is mounted in `folder`, and bound from there: the runtime would follow links in its path."""
        binds = list(spec.binds)
        for number, bind in enumerate(binds):
            if bind.below:
                folder.mkdir(exist_ok=True)
                folder.chmod(0o711)
                attach(bind, folder / str(number))
                binds[number] = Bind(folder / str(number), bind.target, bind.read_only)
        return replace(spec, binds=tuple(binds))

    def _own_binds(self, spec: ContainerSpec, folder: Path) -> list[Bind]:
        (folder / "hosts").write_text(f"127.0.0.1\tlocalhost {spec.hostname}\n")
        binds = [Bind(folder / "hosts", "/etc/hosts")]
        if spec.network is Network.NAT:
            binds.append(Bind(self._resolv_conf(), "/etc/resolv.conf"))
        return binds

    def _resolv_conf(self) -> Path:
        """One file for all containers, written in place so that those that run see a change of the host's resolvers too."""
        file = self._run / "resolv.conf"
        with self._resolv_lock:
            changed = changed_at()
            if changed == self._resolv_of:
                return file
            text = self.network.refresh_resolvers().text
            if not file.exists() or file.read_text() != text:
                file.write_text(text)
                file.chmod(0o644)
            self._resolv_of = changed
        return file

    # --- removal -----------------------------------------------------------------------------------------------------------------

    def _discard(self, container: ContainerId) -> None:
        """Undo steps 6 to 3, in a thread."""
        deadline = time.monotonic() + _END_S_MAX
        pause_s = 0.001
        # What served a sandbox has ended with it, and is a child of this process.
        killed = gvisor.helpers(self._run / "gvisor", container)
        while True:
            pids = self.groups.pids(self.group(container))
            if pids:
                killed.update(pids)
                self.groups.kill(self.group(container))
            elif self.groups.remove(self.group(container)):
                break
            if time.monotonic() > deadline:
                raise ResourceExhaustedError(f"processes of container {container} do not end: {pids}")
            time.sleep(pause_s)  # the kernel says nowhere (in version 1) when a group has become empty
            pause_s = min(pause_s * 2, 0.05)
        folder = self._run / "containers" / container
        if self.is_gvisor(container) and not self._starting - {container}:  # whose sandbox might be among them
            killed |= gvisor.orphans() - {other.pid for name, other in self._containers.items() if name != container}
        reap(killed | self._strays(container), deadline)
        for attached in ("binds", "below"):
            detach(folder / attached)
        while mounts.detach(folder / "root"):
            pass
        remove_tree(self._run / "runtime" / container)
        gvisor.forget(self._run / "gvisor", container)
        disk.remove(self._data / "containers" / container)
        remove_tree(self._data / "containers" / container)

    def _slot(self, container: str) -> int | None:
        try:
            return int((self._run / "containers" / container / "slot").read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):  # empty, if the agent was killed just then: the pool finds the namespace by itself
            return None

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work)


def reap(pids: set[int], deadline: float) -> None:
    """Take the exit statuses of those that are children of this process: after a start that failed late, or if the earlier agent was itself a child.

    In any order: the first process of a pid namespace ends only when all others of it have been taken.
    """
    left = set(pids)
    while left and time.monotonic() < deadline:
        for pid in list(left):
            try:
                if os.waitpid(pid, os.WNOHANG) != (0, 0):
                    left.discard(pid)
            except ChildProcessError:
                left.discard(pid)
        if left:
            time.sleep(0.001)


def _check(spec: ContainerSpec) -> None:
    if not _NAME.fullmatch(spec.id):
        raise InvalidError(f"container id {spec.id!r} is not a plain name")
    if not spec.layers:
        raise InvalidError("layers is empty: a container needs a root file system")
    if len(spec.layers) >= mounts.LAYERS_MAX:
        raise InvalidError(f"{len(spec.layers)} layers; the kernel takes {mounts.LAYERS_MAX - 1} at most")
    if not os.path.isabs(spec.workdir):
        raise InvalidError(f"workdir={spec.workdir!r} is not absolute")
    for node in spec.devices:
        if not node.path.startswith("/dev/") or os.path.normpath(node.path) != node.path:
            raise InvalidError(f"the device {node.path} is not in /dev")
    if spec.gvisor and spec.devices:
        raise InvalidError('runtime="gvisor" and gpu= do not go together: gVisor is given no devices')
    if spec.resources.disk_limit_mib is not None and spec.upper is not None:
        raise InvalidError("a container that keeps its upper directory can have no limit of disk space")
    if spec.gvisor:
        gvisor.required()
