"""A template as the agent holds it: it imports, it is copied, and it keeps one copy ready, which is half of the next start."""

import asyncio
import errno
import json
import logging
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from squall.model.ids import ContainerId
from squall.runtime import cgroups
from squall.runtime.contract import Container, ContainerSpec
from squall.runtime.house import House, Message, Order, receive
from squall.runtime.proof import Origin, UnprovenError
from squall.runtime.waiting import End, ProcessWatch, finish

log = logging.getLogger(__name__)

#: A copy needs milliseconds; more means that the machine stands still.
COPY_S_MAX = 20.0
#: So long after a start, when nobody needs the processors for it any more, the next copy is made ready.
_CALM_S = 0.03
#: Of what is told about an import.
_OBSTACLE_CHARACTERS_MAX = 4000


class Keeper(Protocol):
    """The driver, as far as a template needs it."""

    groups: cgroups.Cgroups

    def group(self, container: str) -> str: ...

    def upper(self, name: ContainerId) -> Path: ...

    def origin(self, name: str) -> Origin: ...

    async def retire(self, template: "Template") -> None: ...


class Templating(Protocol):
    """The part of a driver that has templates."""

    async def template(self, spec: ContainerSpec, origin: "Template | None" = None) -> "Template":
        """Make a template, as a process of `spec.argv`, or as a copy of another template when that is given. Raises: as `Driver.start`."""
        ...

    async def start_from(self, template: "Template", spec: ContainerSpec) -> Container:
        """Start a container as a copy of a template. With `spec.argv` it executes that program, else it is a runner. It has no capabilities at all.

        Raises: as `Driver.start`.
        """
        ...

    def kill_template(self, name: ContainerId) -> bool:
        """End its process; what was copied from it goes on. False if there is no template of that name."""
        ...


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import in a template: `obstacle` is why no container may be copied from it; `output` is what the import printed, by stream."""

    obstacle: str | None
    import_s: float
    output: tuple[tuple[int, str], ...]


class Template:
    """A process that containers are copied from. `start` of the driver makes one; `ended` is set when its process is gone."""

    def __init__(self, driver: "Keeper", spec: ContainerSpec, made: "Made") -> None:
        self._driver, self.spec, self._made = driver, spec, made
        self.id = spec.id
        self.pid = made.pid
        self.ended = asyncio.Event()
        self._watch = ProcessWatch(made.pid, self._end)
        #: What it wrote to disk is seen by its copies.
        self.layers = spec.layers
        #: A copy that has been cloned and waits for its order: that is half of a start. It has nothing of a container yet.
        self._spare: socket.socket | None = None
        self._spare_due: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def send(self, order: Order, fds: list[int]) -> None:
        """Hand an order on. Raises OSError when the template is gone."""
        socket.send_fds(self._made.control, [json.dumps(order).encode()], fds)

    async def load(self, boot: bytes, timeout_s: float) -> Imported:
        """Import a user's code: `boot` is a packed `wire.messages.Boot`. If it does not succeed the template is of no more use.

        Raises:
            TimeoutError: (builtin) it took longer.
            OSError: the template ended meanwhile.
        """
        self.send({"kind": "import", "boot": boot.hex()}, [])
        message = await self.answer(timeout_s)
        if message is None:
            raise OSError(errno.EPIPE, "the template ended during the import")
        upper = self._driver.upper(self.id)
        if any(upper.iterdir()):
            self.layers = (*self.spec.layers, upper)
        return Imported(message.obstacle and message.obstacle[:_OBSTACLE_CHARACTERS_MAX], message.import_s, message.output)

    def need_spare(self) -> None:
        """Have a copy cloned for the next start, as soon as the machine has calmed down."""
        if self._spare_due is not None:
            self._spare_due.cancel()
        if self._spare is None and not self.ended.is_set():
            self._spare_due = self._loop.call_later(_CALM_S, self._make_spare)

    def _make_spare(self) -> None:
        if self._spare is None and not self.ended.is_set():
            with suppress(OSError):
                self._spare = begin_copy(self, "instance")

    def take_spare(self) -> tuple[socket.socket, int] | None:
        """The copy that is ready and its pid, from any thread; None if there is none."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        try:
            message, fds = receive(spare)
        except OSError:
            message, fds = None, []
        origin = self._driver.origin(self.id)
        for fd in fds:
            try:
                if message is not None and message.role == "instance":
                    return spare, origin.prove(fd, "copy")
            except UnprovenError as error:
                log.warning("%s: %s", self.id, error)
                origin.collect(fd)
            finally:
                os.close(fd)
        spare.close()
        return None

    def drop_spare(self) -> None:
        """In a thread: end the copy that is ready."""
        if (taken := self.take_spare()) is not None:
            taken[0].close()
            end_process(taken[1])

    async def answer(self, timeout_s: float) -> Message | None:
        loop = asyncio.get_running_loop()
        control = self._made.control
        readable = asyncio.Event()
        loop.add_reader(control, readable.set)
        try:
            async with asyncio.timeout(timeout_s):
                await readable.wait()
        finally:
            loop.remove_reader(control)
        try:
            message, fds = receive(control)
        except OSError:
            return None
        for fd in fds:
            os.close(fd)
        return message

    def memory_bytes(self) -> int:
        """What it takes by itself: pages of its copies are theirs."""
        stats = self._driver.groups.stats(self._driver.group(self.id))
        return stats.memory_bytes if stats is not None else 0

    def was_out_of_memory(self) -> bool:
        """Whether the kernel has ended one of its processes for lack of memory."""
        stats = self._driver.groups.stats(self._driver.group(self.id))
        return stats is not None and stats.oom_kills > 0

    def kill(self) -> None:
        """End its process; containers copied from it go on."""
        self._watch.send_signal(signal.SIGKILL)

    async def remove(self) -> None:
        """End it, and take everything away as soon as nothing that was copied from it is left. Idempotent, finishes when cancelled."""
        await finish(asyncio.create_task(self._driver.retire(self), name=f"remove template({self.id})"))

    def close(self) -> None:
        """Let go of descriptors. Idempotent."""
        if self._spare_due is not None:
            self._spare_due.cancel()
        self._watch.close()
        self._made.control.close()

    def _end(self, end: End) -> None:
        self.ended.set()


@dataclass(frozen=True, slots=True)
class Made:
    """A fresh template: its status socket, which is its control socket from now on, and its host pid."""

    control: socket.socket
    pid: int


def begin_copy(sender: "House | Template", kind: str) -> socket.socket:
    status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            status.settimeout(COPY_S_MAX)
            sender.send({"kind": kind}, [theirs.fileno()])
    except BaseException:
        status.close()
        raise
    return status


def end_process(pid: int) -> None:
    """Of a child of this process, which nobody else waits for."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
