"""What containers print: kept in a file each, and passed on to whoever follows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from squall.wire.framing import Unpacker, pack
from squall.wire.messages import LogChunk

#: A container's log stops growing here and says so; a program that prints without end fills no disk.
LOG_BYTES_MAX = 64 << 20

#: A follower that reads slower than its containers print is skipped over, and told, beyond this many chunks.
BACKLOG_CHUNKS = 20_000
#: And beyond so many bytes.
BACKLOG_BYTES = 64 << 20


class Follower:
    """One reader of an app's or a container's output. It gets each chunk at once, before anything that happens later, as long as it reads quickly enough."""

    def __init__(self, app: str, container: str, deliver: Callable[[LogChunk], bool]) -> None:
        self.app, self.container, self._deliver = app, container, deliver
        self._backlog: asyncio.Queue[LogChunk | None] = asyncio.Queue(BACKLOG_CHUNKS)
        self._waiting_bytes = 0
        self._direct = True
        self.skipped = 0

    def offer(self, chunk: LogChunk) -> None:
        """Pass a chunk on: now, or after those that wait already."""
        if self._direct and self._deliver(chunk):
            return
        self._direct = False
        if self._waiting_bytes + len(chunk.data) > BACKLOG_BYTES:
            self.skipped += 1
            return
        try:
            self._backlog.put_nowait(chunk)
        except asyncio.QueueFull:
            self.skipped += 1
        else:
            self._waiting_bytes += len(chunk.data)

    def finish(self) -> None:
        """Nothing more will come."""
        self._direct = False
        self._backlog.put_nowait(None)

    async def run(self, drain: Callable[[], Awaitable[None]]) -> None:
        """Deliver what could not be delivered at once; returns after `finish`. `drain` waits until the reader can take more."""
        while (chunk := await self._backlog.get()) is not None:
            self._waiting_bytes -= len(chunk.data)
            self._deliver(chunk)
            await drain()
            if self._backlog.empty():
                self._direct = True


class LogBook:
    """Logs of all containers. Files are frames of LogChunk, `<container>.log`, kept until the store forgets the container."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files: dict[str, BinaryIO] = {}
        self._sizes: dict[str, int] = {}
        self._followers: list[Follower] = []

    def write(self, app: str, chunk: LogChunk) -> None:
        """Keep a chunk and pass it on."""
        container = chunk.container
        file = self._files.get(container)
        if file is None:
            file = self._files[container] = self.path(container).open("ab", buffering=0)
            self._sizes[container] = file.tell()
        size = self._sizes[container]
        if size < LOG_BYTES_MAX:
            room = LOG_BYTES_MAX - size
            frame = pack(chunk if len(chunk.data) <= room else msgspec.structs.replace(chunk, data=chunk.data[:room]))
            self._sizes[container] = size + len(frame)
            try:
                file.write(frame)
            except OSError:  # a full disk loses logs, not calls
                self._sizes[container] = LOG_BYTES_MAX
        for follower in self._followers:
            if (follower.app and follower.app == app) or (follower.container and follower.container == container):
                follower.offer(chunk)

    def close(self, container: str) -> None:
        """The container prints no more. Followers of it end when they have read what there is."""
        if (file := self._files.pop(container, None)) is not None:
            file.close()
        self._sizes.pop(container, None)
        for follower in self._followers:
            if follower.container == container:
                follower.finish()

    def finish_app(self, app: str) -> None:
        """Nothing of the app runs any more: its followers end when they have read what there is."""
        for follower in self._followers:
            if follower.app == app:
                follower.finish()

    def path(self, container: str) -> Path:
        return self.directory / f"{container}.log"

    @contextmanager
    def follow(self, deliver: Callable[[LogChunk], bool], *, app: str = "", container: str = "") -> Iterator[Follower]:
        """Everything that is written from now on goes to `deliver`, which says False when its reader is too slow just now."""
        follower = Follower(app, container, deliver)
        self._followers.append(follower)
        try:
            yield follower
        finally:
            self._followers.remove(follower)

    async def replay(self, container: str) -> AsyncIterator[LogChunk]:
        """What was written so far."""
        path = self.path(container)
        if not path.exists():
            return
        unpacker: Unpacker[LogChunk] = Unpacker(LogChunk)
        with path.open("rb") as file:
            while data := await asyncio.to_thread(file.read, 1 << 16):
                for chunk in unpacker.feed(data):
                    yield chunk
