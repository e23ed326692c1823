"""The `fork` driver: what the `oci` driver does, and containers that are copies of templates, which take milliseconds to start.

All templates and their copies live in one user namespace, made at `open` and held by the agent's helper (`house`); network namespaces belong to it too, since
nobody inside could enter others. A template is named and kept like a container: directories, cgroup, network, so `sweep` finds it by looking.

What comes from what: RUN/containers/ID/template names the template that a container or a template was copied from. The pid namespaces are nested in the same
way, so a template's keeper has to live as long as anything that was copied from it, while the template itself may go at any time.

Steps of a start from a template, for 5 and 6 of `oci`:

    5. the template clones itself, while the agent makes overlay and binds as detached mounts: descriptors, so nothing is left when somebody dies
    6. the copy gets them with its order, and builds its root; it has shown its pid, which is written to RUN/containers/ID/pid
    7. the agent moves it into its cgroup meanwhile; the copy gives up its rights, says so, and waits at a gate
    8. the agent looks whether it has given them up (`lockdown`), and lets it run
"""

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from squall.model.errors import ContainerStartError, InvalidError
from squall.model.ids import ContainerId
from squall.runtime import cgroups, devices, filters, lockdown
from squall.runtime.binds import bound
from squall.runtime.bundle import NOFILE, PROC_MASKED, PROC_READ_ONLY, nofile_max
from squall.runtime.contract import Container, ContainerSpec
from squall.runtime.files import child_names, write_atomically
from squall.runtime.house import House, Order, receive
from squall.runtime.lockdown import UnsafeError
from squall.runtime.network import Slot
from squall.runtime.oci import OOM_SCORE, OciDriver, reap
from squall.runtime.proof import Namespace, Origin, UnprovenError, children_in, identity, namespace
from squall.runtime.template import COPY_S_MAX, Made, Template, Templating, begin_copy

log = logging.getLogger(__name__)

#: How groups of helpers are named.
_HOUSE = "house-"
#: Directory of a template where a copy's root is put for a moment.
_NEXT = ".squall/next"
#: What a failed start may still have to say: a report of each of its processes, and an error.
_REPORTS_MAX = 8
_SYS_ADMIN, _SETPCAP = 21, 8
#: What a template keeps, in its user namespace only: to make namespaces and mounts for copies, and to take every right from them.
_TEMPLATE_CAPABILITIES = 1 << _SYS_ADMIN | 1 << _SETPCAP


class ForkDriver(OciDriver):
    """Containers of one instance, by templates where asked for; see `Driver`, and `OciDriver` for what it needs. Also libseccomp, and Linux 5.12."""

    name = "fork"

    def __init__(self, **options: Any) -> None:
        """Takes the same arguments as `OciDriver`."""
        super().__init__(**options)
        self._house: House | None = None
        self._house_group = f"{_HOUSE}{secrets.token_hex(3)}"
        self._templates: dict[ContainerId, Template] = {}
        self._taking = threading.Lock()
        #: Of the templates that this agent made.
        self._pid_namespaces: dict[str, Namespace] = {}
        #: What was copied from which template; the latter must outlive the former.
        self._origins: dict[ContainerId, ContainerId] = {}
        self._views = [target for _, target in self.groups.view("x")]

    @property
    def templating(self) -> Templating:
        return self

    # --- life of the driver --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        try:
            await super().open()
        except BaseException:
            if self._house is not None:
                self._close_house(self._house)
                self._house = None
            raise

    async def close(self) -> None:
        if self._lock < 0:
            return
        for template in list(self._templates.values()):
            await template.remove()
        if self._house is not None:
            house, self._house = self._house, None
            await self._in_thread(lambda: self._close_house(house))
        await super().close()

    def _close_house(self, house: House) -> None:
        house.close()
        self._discard(ContainerId(self._house_group))
        devices.remove(self._run)
        cgroups.end_favor(self._run / "moves")

    def _network_maker(self) -> Callable[[], int]:
        def make() -> int:
            assert self._house is not None, "the driver is open"
            return self._house.network_namespace()

        return make

    def _leaves_network_clean(self, container: ContainerId) -> bool:
        """Never: whoever was in a network namespace may have sent a descriptor of it to a template, and a template may enter all of this user namespace."""
        return False

    async def _prepare(self) -> None:
        await self._in_thread(self._open_house)

    def _open_house(self) -> None:
        filters.template_filter(), filters.container_filter()  # now, and not in the first start
        devices.make(self._run, self._views)
        cgroups.favor_moves(self._run / "moves", self._groups_parent)
        group = self.group(self._house_group)
        self.groups.create(group, cgroups.Limits(1024, None, None, None))
        try:
            self._house = House(self.ids, OOM_SCORE, lambda pid: self.groups.add(group, pid))
        except BaseException:
            self._discard(ContainerId(self._house_group))
            raise

    def _strays(self, container: ContainerId) -> set[int]:
        """What a hostile template cloned and never showed. Its pid namespace ends only when all of them have been waited for.

        Nothing that was copied from it is left by now, nor is a start from it going on.
        """
        space = self._pid_namespaces.pop(container, None)
        return set() if space is None else children_in(space)

    def _ours(self) -> set[str]:
        return {*super()._ours(), *self._templates, self._house_group}

    async def adopt(self, container: ContainerId) -> Container | None:
        adopted = await super().adopt(container)
        if adopted is not None:
            self._learn_origins(container)
        return adopted

    async def sweep(self, keep: Callable[[ContainerId], bool]) -> list[ContainerId]:
        """Templates of an earlier agent go too, but for what is left of those whose copies are kept."""
        for name in child_names(self._run / "containers"):
            if keep(ContainerId(name)):
                self._learn_origins(ContainerId(name))
        needed = set(self._origins.values())
        others = {name for name in child_names(self._run / "containers") if (self._run / "containers" / name / "is-template").exists()}
        removed = await super().sweep(lambda name: name in needed or keep(name))
        return [name for name in removed if name not in others and not name.startswith(_HOUSE)]

    async def discard(self, container: ContainerId) -> None:
        await super().discard(container)
        origin = self._origins.pop(container, None)
        if origin is not None:
            await self._release(origin)

    async def retire(self, template: Template) -> None:
        """End a template, and remove it as soon as nothing needs it."""
        if self._templates.pop(template.id, None) is not None:
            template.kill()
            await template.ended.wait()
            template.close()
            await self._in_thread(template.drop_spare)
            await self._release(template.id)

    async def _release(self, name: ContainerId) -> None:
        if name not in self._templates and name not in self._origins.values():
            await self.discard(name)

    def _learn_origins(self, name: ContainerId) -> None:
        """From what an earlier agent wrote down."""
        with suppress(FileNotFoundError):
            while name not in self._origins:
                origin = ContainerId((self._run / "containers" / name / "template").read_text())
                self._origins[name] = origin
                name = origin

    def upper(self, name: ContainerId) -> Path:
        """Where the writes of a template or container are."""
        folder = self._data / "containers" / name
        return folder / "disk" / "upper" if (folder / "disk").exists() else folder / "upper"

    def origin(self, name: str) -> Origin:
        """Of copies of a process in the control group of this template or helper."""
        assert self._house is not None, "the driver is open"
        return Origin(self.groups, self.group(name), self._house.user_namespace, self.ids, self._pid_namespaces.get(name))

    def _origin(self, template: Template | None) -> Origin:
        return self.origin(template.id if template is not None else self._house_group)

    # --- templates -----------------------------------------------------------------------------------------------------------

    async def template(self, spec: ContainerSpec, origin: Template | None = None) -> Template:
        """Make a template, as a process of `spec.argv`, or as a copy of another template when that is given.

        Raises: as `start`.
        """
        made: list[Made] = []

        def launch(spec: ContainerSpec, slot: Slot | None) -> int:
            made.append(self._make_template(spec, slot, origin))
            return made[0].pid

        try:
            container = await self._begin(spec, launch)
        except BaseException:
            if made:
                made[0].control.close()
            raise
        container.forget()
        self._containers.pop(spec.id, None)
        template = Template(self, spec, made[0])
        self._templates[spec.id] = template
        try:
            if await template.answer(COPY_S_MAX) is None:
                raise ContainerStartError(f"template {spec.id} ended as it started")
        except BaseException as error:
            await template.remove()
            if isinstance(error, TimeoutError):
                raise ContainerStartError(f"template {spec.id} did not become ready within {COPY_S_MAX:.0f} s") from error
            raise
        return template

    def _make_template(self, spec: ContainerSpec, slot: Slot | None, origin: Template | None) -> Made:
        """In a thread."""
        status, _ = self._clone("template", spec, origin)
        helpers: list[int] = []
        try:
            starter = self._introduced(spec, status, "starter", self._origin(origin))
            helpers.append(starter)
            with self._laid_out(spec, slot, (_NEXT,)) as (fds, targets):
                self.groups.add(self.group(spec.id), starter)
                at = str(self._run / "containers" / spec.id / "root") if origin is None else f"/{_NEXT}"
                # A copy of a template has its filter already.
                program = filters.template_filter() if origin is None else b""
                order = self._order(spec, targets) | {"template": True, "at": at, "filter": program.hex(), "capabilities": _TEMPLATE_CAPABILITIES}
                order["nofile"] = self._nofile(0 if origin is None else 1)
                with suppress(BrokenPipeError):
                    socket.send_fds(status, [json.dumps(order).encode()], fds)
            helpers.append(self._introduced(spec, status, "keeper", self.origin(spec.id)))
            pid = self._introduced(spec, status, "template", self.origin(spec.id))
            self._pid_namespaces[spec.id] = namespace(pid, "pid")
            os.kill(starter, signal.SIGKILL)  # it has done all of its work
            reap({starter}, time.monotonic() + COPY_S_MAX)
            helpers.remove(starter)
            write_atomically(self._run / "containers" / spec.id / "pid", str(pid))
            return Made(status, pid)
        except BaseException:
            self._end(spec, status, helpers, self._origin(origin))
            raise

    async def start_from(self, template: Template, spec: ContainerSpec) -> Container:
        """Start a container as a copy of a template. With `spec.argv` it executes that program, else it is a runner. It has no capabilities at all.

        A while later the template gets a copy ready for the next one.

        Raises: as `start`.
        """
        if spec.upper is not None:
            raise InvalidError("a container that is copied from a template keeps no upper directory")
        container = await self._begin(spec, lambda spec, slot: self._copy(template, spec, slot))
        template.need_spare()
        return container

    def kill_template(self, name: ContainerId) -> bool:
        """End its process; what was copied from it goes on. False if there is no template of that name."""
        if (template := self._templates.get(name)) is not None:
            template.kill()
        return template is not None

    def _copy(self, template: Template, spec: ContainerSpec, slot: Slot | None) -> int:
        """Steps 2 to 8, in a thread."""
        status, pid = self._clone("instance", spec, template)
        pids = [pid] if pid else []
        try:
            with self._laid_out(spec, slot) as (fds, targets), suppress(BrokenPipeError):  # it has ended, and said why
                network = identity(fds[2])
                socket.send_fds(status, [json.dumps(self._order(spec, targets)).encode()], fds)
            if not pid:
                pid = self._introduced(spec, status, "instance", self._origin(template))
                pids.append(pid)
            with self._taking:  # so that one copy is not taken for two containers
                if pid not in self.groups.members(self.group(template.id)):
                    raise UnprovenError(f"container {spec.id}: its process belongs to another container")
                self.groups.add(self.group(spec.id), pid)
            (self._run / "containers" / spec.id / "pid").write_text(str(pid))
            self._open_gate(template, spec, status, pid, network)
        except BaseException:
            self._end(spec, status, pids, self._origin(template))
            raise
        status.close()
        return pid

    def _open_gate(self, template: Template, spec: ContainerSpec, status: socket.socket, pid: int, network: Namespace) -> None:
        """Step 8: wait until the copy says that it is ready, look whether it is, and let it run."""
        try:
            message, _ = receive(status)
        except TimeoutError as error:
            raise UnsafeError(f"container {spec.id}: its copy was not ready within {COPY_S_MAX:.0f} s") from error
        if message is None:
            raise ContainerStartError(f"container {spec.id} ended as it started")
        message.raise_error()
        try:
            lockdown.check(pid, replace(self.origin(spec.id), space=self._pid_namespaces.get(template.id)), self.group(template.id), network)
        except UnsafeError as error:
            raise UnsafeError(f"container {spec.id}: the copy of its template is not locked down: {error}") from error
        with suppress(BrokenPipeError):
            status.send(b"go")
        if spec.argv and (message := receive(status)[0]) is not None:
            message.raise_error()  # there is no such program

    # --- orders --------------------------------------------------------------------------------------------------------------

    def _clone(self, kind: str, spec: ContainerSpec, origin: Template | None) -> tuple[socket.socket, int]:
        """Have a copy begun that waits for its order at the other end of the returned socket; its pid, if that is known already, else 0."""
        folder = self._run / "containers" / spec.id
        folder.mkdir()
        folder.chmod(0o711)
        if kind == "template":
            (folder / "is-template").touch()
        if origin is not None:
            self._origins[spec.id] = origin.id
            (folder / "template").write_text(origin.id)
        if kind == "instance" and origin is not None and (spare := origin.take_spare()) is not None:
            return spare
        sender = origin or self._house
        assert sender is not None, "the driver is open"
        return begin_copy(sender, kind), 0

    @contextmanager
    def _laid_out(self, spec: ContainerSpec, slot: Slot | None, folders: tuple[str, ...] = ()) -> Iterator[tuple[list[int], list[str]]]:
        """Descriptors for an order, open meanwhile, and the targets of the mounts among them."""
        assert self._house is not None, "the driver is open"
        overlay, binds = self._lay_out(spec, slot, folders)
        fds = [overlay]
        try:
            fds += [devices.dev_tree(self._run, spec.devices, self.ids.first), devices.sys_tree(self._run)]
            targets = ["", "/dev", "/sys"]
            for bind in (*binds, *spec.binds):
                fds.append(bound(bind))
                targets.append(bind.target)
            fds.insert(0, self._house.network_namespace() if slot is None else os.open(slot.path, os.O_RDONLY | os.O_CLOEXEC))
            yield [spec.stdout, spec.stderr, *fds], targets
        finally:
            for fd in fds:
                os.close(fd)

    def _order(self, spec: ContainerSpec, targets: list[str]) -> Order:
        """For an instance; see `runner.template_enclosure.Order`."""
        return {
            "template": False,
            "at": f"/{_NEXT}",
            "mounts": targets,
            "hostname": spec.hostname,
            "workdir": spec.workdir,
            "env": dict(spec.env),
            "argv": list(spec.argv),
            "masked": [f"/proc/{name}" for name in PROC_MASKED],
            "read_only": [f"/proc/{name}" for name in PROC_READ_ONLY],
            "filter": filters.container_filter().hex(),
            "capabilities": 0,
            "nofile": self._nofile(2),
        }

    def _nofile(self, steps: int) -> list[int]:
        most = nofile_max(self._nofile_max, steps)
        return [min(NOFILE, most), most]

    def _introduced(self, spec: ContainerSpec, status: socket.socket, role: str, origin: Origin) -> int:
        """Host pid of the process that says it has this role; it is a child of this very process, and a copy of this origin."""
        message, fds = receive(status)
        try:
            if message is None:
                raise ContainerStartError(f"container {spec.id}: the process that should be its {role} ended")
            message.raise_error()
            if not fds or message.role != role:
                raise ContainerStartError(f"container {spec.id}: no {role} has come of it")
            return origin.prove(fds[0], role)
        finally:
            for fd in fds:
                os.close(fd)

    def _end(self, spec: ContainerSpec, status: socket.socket, pids: list[int], origin: Origin) -> None:
        """End what a failed start has made, in a thread. Who has not been heard of ends at the end of the socket, but must be waited for."""
        status.settimeout(1.0)
        with status, suppress(OSError):
            status.shutdown(socket.SHUT_WR)
            for _ in range(_REPORTS_MAX):
                message, fds = receive(status)
                if message is None:
                    break
                for fd in fds:
                    try:
                        pids.append(_proved(fd, (origin, self.origin(spec.id))))
                    except UnprovenError as error:
                        log.warning("container %s: %s", spec.id, error)
                        origin.collect(fd)
                    finally:
                        os.close(fd)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # still a child of this process, so the number is nobody else's
        reap(set(pids), time.monotonic() + COPY_S_MAX)


def _proved(pidfd: int, origins: tuple[Origin, ...]) -> int:
    """The pid of a copy of one of them; raises as `Origin.prove`."""
    for origin in origins[:-1]:
        with suppress(UnprovenError):
            return origin.prove(pidfd, "process")
    return origins[-1].prove(pidfd, "process")
