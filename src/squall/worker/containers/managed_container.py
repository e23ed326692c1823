"""One container on this node: its process, its socket, its output, until everything of it is gone."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from squall.model.errors import ConnectionError, RequestSizeError
from squall.model.ids import ContainerId
from squall.runner.channel import WAKE
from squall.runtime.contract import Container
from squall.wire.agent import BecameReady, ContainerRecord, Died, Report, Started, Told
from squall.wire.descriptors import scarce
from squall.wire.framing import FRAME_BYTES_MAX, pack
from squall.wire.messages import (
    PROTOCOL_VERSION,
    Boot,
    FromContainer,
    Hello,
    Print,
    Ready,
    Rejoin,
    Result,
    Revoke,
    Revoked,
    Run,
    StartFailed,
    Stop,
    ToRunner,
    Welcome,
)
from squall.wire.stream import Peer, Turn
from squall.worker.containers import container_records
from squall.worker.containers.crash_buffer import Scratch
from squall.worker.containers.pipes import OutputPipe
from squall.worker.containers.web_connections import WebLinks

log = logging.getLogger(__name__)

#: Connections of clients in one container at a time, each in a process or thread of its own; each holds two descriptors of the server's some 20,000.
CONNECTIONS_MAX = 512
#: Parts of frames that clients in one container have sent without their end: one frame of the largest size, and some.
UNFINISHED_BYTES_MAX = FRAME_BYTES_MAX + (64 << 20)
#: Without descriptors nobody can connect; it is tried again after this.
ACCEPT_PAUSE_S = 0.5
#: After its process has ended, what it wrote is still in sockets and pipes; their ends come at once unless something it started elsewhere holds them.
DRAIN_S = 2.0


class Guest(Protocol):
    """What handles the messages of a client inside the container."""

    def received(self, message: Any) -> None: ...

    def lost(self, error: BaseException | None) -> None: ...


class ContainerPeer(Peer[FromContainer]):
    """A connection from inside: the runner's, which is the first, or that of a client in user code."""

    union = FromContainer

    def __init__(self, turn: Turn, hosted: "Hosted") -> None:
        super().__init__(turn)
        self.hosted = hosted
        self.handle: Callable[[Any], None] = self._greet
        self.guest: Guest | None = None
        #: Bytes of the frame that it has begun to send.
        self._unfinished = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self is not self.hosted.peer and self._unpacker.pending != self._unfinished:
            self.hosted.unfinished += self._unpacker.pending - self._unfinished
            self._unfinished = self._unpacker.pending
            if self.hosted.unfinished > UNFINISHED_BYTES_MAX:
                self.broken(RequestSizeError(f"clients in one container may send {UNFINISHED_BYTES_MAX} bytes at a time"))

    def pause_writing(self) -> None:
        """A client that does not read its answers is asked for no more questions; a runner reads when its code lets it."""
        super().pause_writing()
        if self.guest is not None and self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.guest is not None and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def received(self, message: FromContainer) -> None:
        self.handle(message)

    def lost(self, error: BaseException | None) -> None:
        self.hosted.unfinished -= self._unfinished
        self._unfinished = 0
        self.hosted.forget(self)
        if self.guest is not None:
            self.guest.lost(error)
        elif self is self.hosted.peer:
            self.hosted.runner_gone.set()

    def _greet(self, message: FromContainer) -> None:
        if isinstance(message, Hello) and message.version == PROTOCOL_VERSION:
            if message.role == "runner":
                if self.hosted.peer is not None:  # it lost its connection to an agent that lives: something is wrong with it
                    self.hosted.kill()
                    return
                self.handle = self.hosted.from_runner
                self.hosted.greet_runner(self)
                return
            if message.role == "web" and self.transport is not None:
                self.hosted.accept_web(self)
                return
            if message.role == "client":
                self.guest = self.hosted.new_guest(self, self.hosted.id)
                self.handle = self.guest.received
                self.handle(message)
                return
        self.broken(ConnectionError("the first message of a container's connection must be a Hello"))


class Hosted:
    """Owned by the agent. `start` makes it, `ended` is set when nothing of it is left."""

    def __init__(
        self,
        container: ContainerId,
        boot: Boot | None,
        report: Callable[[Report], None],
        directory: Path,
        turn: Turn,
        new_guest: Callable[[ContainerPeer, ContainerId], Guest],
    ) -> None:
        """
        Args:
            boot: None: the container was started by an earlier agent.
            report: told what becomes of the container, in order.
        """
        self.id, self.boot, self.report, self.directory, self.turn, self.new_guest = container, boot, report, directory, turn, new_guest
        self.peer: ContainerPeer | None = None
        self.container: Container | None = None
        #: What an agent to come would have to know of it; written down when the container is ready.
        self.record: ContainerRecord | None = None
        #: It comes from an earlier agent, and its runner has not said yet what it has.
        self.awaits_rejoin = boot is None
        #: Its environment, without that of the function; and its working directory.
        self.env: dict[str, str] = {}
        self.workdir = "/root"
        #: The demand went away while it was on its way.
        self.unwanted = False
        #: Its start, while that is on its way: cancelled when nobody wants it any more.
        self.starting: asyncio.Task[Container] | None = None
        #: What it was copied from: ``function`` (its imports done), ``image`` (it imports), None (started as a program); and why it was not the first.
        self.copy_of: str | None = None
        self.not_forked: str | None = None
        #: When the agent was told to start it, and the seconds of the steps since then.
        self._asked = time.perf_counter()
        self.phases: dict[str, float] = {}
        #: The program of the image that starts the runner; empty without one.
        self.entrypoint = ""
        #: What the runner said before it was known here which process it is: nobody could signal it yet, or name it.
        self._early: Ready | StartFailed | None = None
        self.runner_gone = asyncio.Event()
        self.ended = asyncio.Event()
        self.scratch = Scratch()
        self.web = WebLinks(self.send)
        self._server: asyncio.Task[None] | None = None
        self._listening: socket.socket | None = None
        self._sockets: dict[ContainerPeer, socket.socket] = {}
        #: Bytes of frames without their end, from all its clients.
        self.unfinished = 0
        self._told_ready = False
        self._pipes: list[OutputPipe] = []

    @property
    def socket_path(self) -> Path:
        return self.directory / "agent.sock"

    def since_asked(self) -> float:
        """Seconds since the agent was told to start it."""
        return time.perf_counter() - self._asked

    def copied(self, of: str, reason: str | None) -> None:
        """It is about to be copied from its function's template or its image's; in the latter case for this reason."""
        self.copy_of, self.not_forked = of, reason
        self.phases["template_s"] = self.since_asked() - self.phases.get("image_s", 0.0)

    # set-up, in the order of use

    def listen(self, owner: int | None) -> None:
        """Make the directory with the socket and the output pipes, or take it over. `owner`: host uid of root in the container."""
        self.directory.mkdir(parents=True, exist_ok=self.boot is None)
        self.directory.chmod(0o711)
        self.socket_path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listening = listening
        listening.bind(str(self.socket_path))
        os.chmod(self.socket_path, 0o600)
        if owner is not None:
            os.chown(self.socket_path, owner, owner)
        listening.listen(64)
        self._server = self.turn.loop.create_task(self._accept(listening), name=f"accept {self.id}")
        for stream in (1, 2):
            self._pipes.append(OutputPipe(self.directory / f"fd{stream}", self._raw_output(stream)))

    def writers(self) -> tuple[int, int]:
        """Descriptors for the container's stdout and stderr; the caller closes them."""
        return self._pipes[0].writer(), self._pipes[1].writer()

    def run(self, container: Container) -> None:
        """The process runs: watch it to its end."""
        self.container = container
        self.report(Started(self.id, container.pid, container.network_s, self.copy_of, self.not_forked, self.entrypoint))
        if self.unwanted:
            self.kill()
        if self._early is not None:
            self.from_runner(self._early)

    async def _accept(self, listening: socket.socket) -> None:
        loop = self.turn.loop
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("container %s can't connect just now: %s", self.id, error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self._sockets) >= CONNECTIONS_MAX or scarce(connection.fileno()):
                connection.close()
                continue
            # A second descriptor of the same socket: event loops take descriptors in messages from nobody, so the scratch is sent through this one.
            try:
                raw = connection.dup()
            except OSError:
                connection.close()
                continue
            peer = ContainerPeer(self.turn, self)
            self._sockets[peer] = raw
            await loop.connect_accepted_socket(lambda peer=peer: peer, connection)  # type: ignore[misc]

    def forget(self, peer: ContainerPeer) -> None:
        """Its connection has ended, or is not ours any more."""
        if (raw := self._sockets.pop(peer, None)) is not None:
            raw.close()

    def greet_runner(self, peer: ContainerPeer) -> None:
        """The runner said hello: give it its scratch and say what it is."""
        self.peer = peer
        raw = self._sockets[peer]
        socket.send_fds(raw, [pack(Welcome(PROTOCOL_VERSION, self.id))], [self.scratch.fd])
        if self.boot is not None:
            peer.send(self.boot)

    def accept_web(self, peer: ContainerPeer) -> None:
        """The connection is for web requests: it speaks HTTP from now on, and no messages."""
        self.forget(peer)
        assert peer.transport is not None
        self.web.accept(peer.transport)

    # traffic

    def send(self, message: ToRunner) -> None:
        """To the runner; dropped when it is gone. One that may be busy with user code is made to look by a signal, where that can't wait."""
        peer = self.peer
        if peer is None:
            return
        peer.send(message)
        if type(message) is not Run and (type(message) is Revoke or (type(message) is Stop and message.tokens)) and self.container is not None:
            peer.flush()
            self.container.kill(WAKE)

    def kill(self) -> None:
        """End it now; while it starts, take the start back."""
        if self.container is not None:
            self.container.kill(signal.SIGKILL)
            return
        self.unwanted = True
        if self.starting is not None:
            self.starting.cancel()

    def from_runner(self, message: Any) -> None:
        kind = type(message)
        if kind is Result or kind is Print:
            self.report(Told(self.id, message))
        elif self.container is None:
            self._early = message
        elif kind is Ready:
            if self._told_ready:
                return
            self._told_ready = True
            self._write_down(message)
            if self.phases:
                self.phases["ready_s"] = self.since_asked()
            self.report(BecameReady(self.id, message.import_s, message.enter_s, dict(self.phases)))
        elif kind is StartFailed or kind is Revoked:
            self.report(Told(self.id, message))
        elif kind is Rejoin and self.awaits_rejoin:
            self.awaits_rejoin = False
            self.report(Told(self.id, message))

    def _write_down(self, ready: Ready) -> None:
        if self.record is not None:
            record = self.record = msgspec.structs.replace(self.record, import_s=ready.import_s, enter_s=ready.enter_s)
            try:
                container_records.save(self.directory.parent, record)
            except OSError as error:  # then it ends with its server
                log.warning("container %s could not be written down: %s", self.id, error)

    def _raw_output(self, stream: int) -> Callable[[bytes], None]:
        return lambda data: self.printed(stream, data)

    def printed(self, stream: int, data: bytes) -> None:
        """Output that belongs to no input."""
        self.report(Told(self.id, Print(0, stream, data)))

    # the end

    async def watch(self) -> None:
        """Wait for the process to end, take everything that it left, take it away, and tell."""
        assert self.container is not None
        ending = await self.container.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                if self.peer is not None:
                    await self.runner_gone.wait()
                for pipe in self._pipes:
                    await pipe.ended.wait()
        token, left = self.scratch.left()
        for message in left:
            self.from_runner(message)
        await self.discard()
        self.report(Died(self.id, ending.exit_code, ending.signal, ending.oom_killed, ending.memory_peak_bytes, token, ending.from_inside))

    async def discard(self) -> None:
        """Take away the container and everything around it. Idempotent."""
        if self.ended.is_set():
            return
        if self.container is not None:
            await self.container.remove()
        if self._server is not None:
            self._server.cancel()
        self.web.close()
        if self._listening is not None:
            self._listening.close()
        for peer in list(self._sockets):
            peer.close()
            self.forget(peer)
        for pipe in self._pipes:
            pipe.close()
        container_records.forget(self.directory.parent, self.id)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.scratch.close()
        self.ended.set()
