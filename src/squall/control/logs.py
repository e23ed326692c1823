"""What containers print: kept in files of a bounded size, and passed on to whoever follows."""

import asyncio
import contextlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from squall.control.retention import GIB, positive
from squall.model.errors import SerializationError
from squall.model.resources import MIB
from squall.wire.framing import Unpacker, pack
from squall.wire.messages import LogChunk

#: A container's log is cut into so many files at least, and whole files go: so much of a full log goes at a time, and so little is read for its last lines.
SEGMENTS = 16
#: What a file costs besides its bytes.
FILE_BYTES = 4096

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


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that logs may take on the disk: of one container, of the containers of one app, and of all."""

    container: int = 64 * MIB
    app: int = 512 * MIB
    total: int = 4 * GIB


def from_environment(environ: Mapping[str, str]) -> Limits:
    """
    Raises:
        InvalidError: a variable is not a positive number.
    """
    usual = Limits()
    return Limits(
        container=int(positive(environ, "SQUALL_LOG_CONTAINER_MIB", MIB, usual.container)),
        app=int(positive(environ, "SQUALL_LOG_APP_MIB", MIB, usual.app)),
        total=int(positive(environ, "SQUALL_LOGS_MAX_GIB", GIB, usual.total)),
    )


@dataclass(slots=True, eq=False)
class Segment:
    """One file of a container's log. `offset`: bytes of the log before it, those that are not kept included."""

    app: str
    container: str
    offset: int
    path: Path
    size: int = 0
    written_at: float = 0.0


@dataclass(slots=True)
class _Log:
    segments: list[Segment] = field(default_factory=list)
    file: BinaryIO | None = None
    #: Whether its container prints no more.
    ended: bool = True
    #: Where the next frame comes.
    end: int = 0


class LogBook:
    """Logs of all containers: frames of LogChunk in ``<app>/<container>.log``, and as they grow ``<app>/<container>.<offset>.log``.

    The newest output is kept. Whole files go where a limit is reached: the container's oldest, the oldest of the app, or of the app that has most.
    """

    def __init__(self, directory: Path, limits: Limits | None = None) -> None:
        self.directory, self.limits = directory, limits or Limits()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._logs: dict[str, _Log] = {}
        #: Of each app, the one that was written to last at the end.
        self._segments: dict[str, OrderedDict[Segment, None]] = {}
        self._costs: dict[str, int] = {}
        self._total = 0
        self._segment_bytes = max(1, min(self.limits.container, self.limits.app, self.limits.total) // SEGMENTS)
        self._followers: list[Follower] = []
        self._take_up()

    def write(self, app: str, chunk: LogChunk) -> None:
        """Keep a chunk and pass it on."""
        container = chunk.container
        self._keep(app, chunk)
        for follower in self._followers:
            if (follower.app and follower.app == app) or (follower.container and follower.container == container):
                follower.offer(chunk)

    def close(self, container: str) -> None:
        """The container prints no more. Followers of it end when they have read what there is."""
        if (kept := self._logs.get(container)) is not None:
            _end_file(kept)
            kept.ended = True
            if not kept.segments:
                del self._logs[container]
        for follower in self._followers:
            if follower.container == container:
                follower.finish()

    def close_all(self) -> None:
        """Close every file. What is written later begins new ones."""
        for kept in self._logs.values():
            _end_file(kept)

    def finish_app(self, app: str) -> None:
        """Nothing of the app runs any more: its followers end when they have read what there is."""
        for follower in self._followers:
            if follower.app == app:
                follower.finish()

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
        """What is kept of what was written so far, and where something is not kept, a line that says how much."""
        end = 0
        for segment in self._of(container):
            async for chunk in self._read(segment):
                if segment.offset > end:
                    yield _gap(chunk, segment.offset - end)
                end = segment.offset + segment.size
                yield chunk

    async def tail(self, containers: Sequence[str], lines: int) -> AsyncIterator[LogChunk]:
        """The end of what `replay` gives of these containers, one after another, with at least so many lines. Files before it are not read."""
        wanted: list[Segment] = []
        found = 0
        for segment in (segment for container in reversed(containers) for segment in reversed(self._of(container))):
            if found > lines:  # one more: the first of them may be a part of a line
                break
            wanted.append(segment)
            async for chunk in self._read(segment):
                found += chunk.data.count(b"\n")
        for segment in reversed(wanted):
            async for chunk in self._read(segment):
                yield chunk

    def sweep(self, before: float) -> int:
        """Remove what was last written to before that time, of containers that print no more; how many files that were."""
        old = [segment for segments in self._segments.values() for segment in segments if segment.written_at < before]
        old = [segment for segment in old if self._logs[segment.container].ended]
        for segment in old:
            self._remove(segment)
        return len(old)

    def _of(self, container: str) -> list[Segment]:
        kept = self._logs.get(container)
        return [] if kept is None else list(kept.segments)

    async def _read(self, segment: Segment) -> AsyncIterator[LogChunk]:
        unpacker: Unpacker[LogChunk] = Unpacker(LogChunk)
        # Removed meanwhile; or its end was lost with the machine's power.
        with contextlib.suppress(FileNotFoundError, SerializationError), segment.path.open("rb") as file:
            while data := await asyncio.to_thread(file.read, 1 << 16):
                for chunk in unpacker.feed(data):
                    yield chunk

    # files

    def _take_up(self) -> None:
        """Files of earlier servers; those of the first versions lie beside the apps' folders."""
        found = []
        for path in (*self.directory.glob("*.log"), *self.directory.glob("*/*.log")):
            container, _, offset = path.name.removesuffix(".log").partition(".")
            status = path.stat()
            app = path.parent.name if path.parent != self.directory else ""
            found.append(Segment(app, container, int(offset or 0), path, status.st_size, status.st_mtime))
        for segment in sorted(found, key=lambda segment: (segment.written_at, segment.offset)):
            self._add(segment)
            self._charge(segment, segment.size)
        self._shed("")

    def _keep(self, app: str, chunk: LogChunk) -> None:
        frame = pack(chunk)
        if len(frame) > self._segment_bytes:
            frame = pack(msgspec.structs.replace(chunk, data=chunk.data[-self._segment_bytes :]))
        kept = self._logs.get(chunk.container)
        if kept is None:
            kept = self._logs[chunk.container] = _Log()
        kept.ended = False
        try:
            if kept.file is None or kept.segments[-1].size >= self._segment_bytes:
                self._begin(app, chunk.container, kept)
            self._append(kept, frame, chunk.time)
        except OSError:  # a full disk loses logs, not calls; the gap is told where the log is read
            _end_file(kept)
        kept.end += len(frame)
        while kept.segments and kept.end - kept.segments[0].offset > self.limits.container:
            self._remove(kept.segments[0])
        self._shed(app)

    def _begin(self, app: str, container: str, kept: _Log) -> None:
        _end_file(kept)
        folder = self.directory / app
        folder.mkdir(exist_ok=True, mode=0o700)
        path = folder / (f"{container}.{kept.end}.log" if kept.end else f"{container}.log")
        kept.file = path.open("wb", buffering=0)
        self._add(Segment(app, container, kept.end, path))

    def _append(self, kept: _Log, frame: bytearray, at: float) -> None:
        segment, file = kept.segments[-1], kept.file
        assert file is not None
        if (written := file.write(frame)) != len(frame):  # half a frame would hide what comes after it
            file.truncate(segment.size)
            raise OSError(f"{written} of {len(frame)} bytes were written")
        segment.size += len(frame)
        segment.written_at = at
        self._charge(segment, len(frame))
        self._segments[segment.app].move_to_end(segment)

    def _add(self, segment: Segment) -> None:
        kept = self._logs.setdefault(segment.container, _Log())
        kept.segments.append(segment)
        kept.end = max(kept.end, segment.offset + segment.size)
        self._segments.setdefault(segment.app, OrderedDict())[segment] = None
        self._charge(segment, FILE_BYTES)

    def _charge(self, segment: Segment, size: int) -> None:
        self._costs[segment.app] = self._costs.get(segment.app, 0) + size
        self._total += size

    def _shed(self, app: str) -> None:
        """Bring the app, and all, within their limits."""
        while app and self._costs.get(app, 0) > self.limits.app:
            self._remove(next(iter(self._segments[app])))
        while self._total > self.limits.total:
            most = max(self._costs, key=lambda each: self._costs[each])
            self._remove(next(iter(self._segments[most])))

    def _remove(self, segment: Segment) -> None:
        kept = self._logs[segment.container]
        if segment is kept.segments[-1]:
            _end_file(kept)
        kept.segments.remove(segment)
        if kept.ended and not kept.segments:
            del self._logs[segment.container]
        with contextlib.suppress(OSError):
            os.unlink(segment.path)
        self._charge(segment, -segment.size - FILE_BYTES)
        del self._segments[segment.app][segment]
        if not self._segments[segment.app]:
            del self._segments[segment.app], self._costs[segment.app]
            with contextlib.suppress(OSError):
                (self.directory / segment.app).rmdir()


def _end_file(kept: _Log) -> None:
    if kept.file is not None:
        kept.file.close()
        kept.file = None


def _gap(after: LogChunk, size: int) -> LogChunk:
    text = f"[squall: {size:,} bytes of this log from before here are not kept: logs have limits, see SQUALL_LOG_CONTAINER_MIB]\n"
    return msgspec.structs.replace(after, stream=2, data=text.encode(), input="")
