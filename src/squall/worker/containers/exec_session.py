"""A command in a container that runs, at its terminal or its pipes."""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import squall
from squall.model.errors import ContainerStartError, InvalidError, UnsupportedError
from squall.runtime.contract import Container, Driver

_PROGRAM = "import sys; sys.path.append({root!r}); from squall.runtime.{module} import main; main()"
#: What is on its way when the command has ended; what it left running may hold its pipes for ever.
_DRAIN_S = 0.5
_READ_BYTES = 1 << 16
#: Of what was typed and the command has not read, before no more is taken.
_TYPED_BYTES_MAX = 1 << 18


@dataclass(frozen=True, slots=True)
class Command:
    """What to run; `tty` with a terminal of so many `rows` and `columns`."""

    argv: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    tty: bool = False
    rows: int = 24
    columns: int = 80


def order(driver: Driver, container: Container, command: Command) -> tuple[str, dict[str, Any]]:
    """The module of `runtime` whose `main` runs the command, and what it is told.

    Raises:
        InvalidError: there is no command.
        UnsupportedError: the driver's containers can't be entered.
    """
    if not command.argv or not command.argv[0]:
        raise InvalidError("there is no command to run")
    entry = driver.entry(container)
    if entry is None:
        raise UnsupportedError(f"no command can be run in containers of the {driver.name} driver")
    return entry.module, {**entry.order, "argv": list(command.argv), "env": dict(command.env), "workdir": command.workdir, "tty": command.tty}


@dataclass
class Entered:
    """The running command.

    `output` gets what it writes, as stream (1 or 2; with a terminal 1) and bytes, and says whether more can be taken now; else `go_on` says when.
    `full` is told when the command reads more slowly than is typed, and when that is over.
    """

    process: subprocess.Popen[bytes]
    output: Callable[[int, bytes], bool]
    full: Callable[[bool], None]
    #: Descriptors on this side: to read from, by stream, and to write to (None: it gets no more).
    readers: dict[int, int]
    writer: int | None
    tty: bool
    _typed: bytearray = field(default_factory=bytearray)
    _eof: bool = False
    _full: bool = False
    _drained: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def start(
        cls, driver: Driver, container: Container, command: Command, output: Callable[[int, bytes], bool], full: Callable[[bool], None]
    ) -> "Entered":
        """
        Raises:
            InvalidError, UnsupportedError: as `order`.
            ContainerStartError: the container ended meanwhile.
        """
        module, told = order(driver, container, command)
        code = _PROGRAM.format(root=str(Path(squall.__path__[0]).parent), module=module)
        argv = [sys.executable, "-I", "-S", "-c", code, json.dumps(told)]
        if command.tty:
            process, ours = _with_socket(argv)
            master = await asyncio.to_thread(_take, ours)
            assert process.stderr is not None
            if master is None:
                said = (await asyncio.to_thread(process.stderr.read)).decode(errors="replace").strip().splitlines()
                process.stderr.close()
                process.wait()
                raise ContainerStartError(f"no terminal in container {container.id}: {said[-1] if said else 'it has ended'}")
            process.stderr.close()
            os.set_blocking(master, False)
            entered = cls(process, output, full, {1: master}, master, True)
            entered.resize(command.rows, command.columns)
        else:
            process, (writer, stdout, stderr) = _with_pipes(argv)
            entered = cls(process, output, full, {1: stdout, 2: stderr}, writer, False)
        entered.go_on()
        return entered

    def go_on(self) -> None:
        """Read what it writes."""
        loop = asyncio.get_running_loop()
        for stream, fd in self.readers.items():
            loop.add_reader(fd, self._read, stream)

    def _read(self, stream: int) -> None:
        fd = self.readers[stream]
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # a terminal that nobody has open any more (EIO)
            data = b""
        if data:
            if not self.output(stream, data):
                for each in self.readers.values():
                    asyncio.get_running_loop().remove_reader(each)
            return
        asyncio.get_running_loop().remove_reader(fd)
        del self.readers[stream]
        if fd != self.writer:
            os.close(fd)
        if not self.readers:
            self._drained.set()

    def type(self, data: bytes) -> None:
        """To its stdin."""
        self._typed += data
        self._flush()
        if len(self._typed) > _TYPED_BYTES_MAX and not self._full:
            self._full = True
            self.full(True)

    def end_of_input(self) -> None:
        """It reads the end of its stdin, behind what was typed."""
        self._eof = True
        self._flush()

    def _flush(self) -> None:
        if self.writer is None:
            return
        loop = asyncio.get_running_loop()
        try:
            while self._typed:
                del self._typed[: os.write(self.writer, self._typed)]
        except BlockingIOError:
            loop.add_writer(self.writer, self._flush)
            return
        except OSError:  # it has closed it
            self._typed.clear()
        loop.remove_writer(self.writer)
        if self._full:
            self._full = False
            self.full(False)
        if self._eof and not self.tty:
            fd, self.writer = self.writer, None
            os.close(fd)

    def resize(self, rows: int, columns: int) -> None:
        """Its terminal has another size now."""
        if self.tty and self.writer is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.writer, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))

    async def wait(self) -> int:
        """Its exit code, or 128 and the number of its signal. Cancelled, it is ended."""
        loop = asyncio.get_running_loop()
        watch = os.pidfd_open(self.process.pid)
        over = asyncio.Event()
        loop.add_reader(watch, over.set)
        try:
            await over.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await self._drained.wait()
            return self.process.wait()
        finally:
            loop.remove_reader(watch)
            os.close(watch)
            self._close()

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        self.process.terminate()  # it ends its child in the container first
        self.process.wait()
        fds = {*self.readers.values(), *([] if self.writer is None else [self.writer])}
        for fd in fds:
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            os.close(fd)
        self.readers, self.writer = {}, None


def _take(ours: socket.socket) -> int | None:
    """The terminal that the helper sends; None when it ends without."""
    with ours:
        ours.settimeout(20.0)
        try:
            data, fds, _, _ = socket.recv_fds(ours, 64, 1)
        except OSError:
            return None
        return fds[0] if data and fds else None


def _with_socket(argv: list[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        return subprocess.Popen(argv, env={}, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE), ours


def _with_pipes(argv: list[str]) -> tuple[subprocess.Popen[bytes], list[int]]:
    """With our ends of its stdin, stdout and stderr, which don't block."""
    process = subprocess.Popen(argv, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    fds = []
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        fds.append(os.dup(pipe.fileno()))
        os.set_blocking(fds[-1], False)
        pipe.close()
    return process, fds
