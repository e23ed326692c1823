"""``x.logs``: what containers wrote, as `LogEntry`s of whole lines: of an app, a function, a server or a call."""

import heapq
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from squall.model.errors import InvalidError, NotFoundError, UnsupportedError, rebuild
from squall.sdk.app.checks import count
from squall.sdk.client.client import Client
from squall.sdk.client.dual_method import Dual
from squall.sdk.client.sync_async import Ask, Give, Stream, Talk, ask_aio, talk, talk_aio
from squall.sdk.refusals import NotYet
from squall.sdk.types import LogEntry
from squall.wire.messages import Fault, Follow, ListCalls, ListFunctions, LogChunk, Reply, Request, Rows


class Where(NamedTuple):
    """Whose output is meant: of an app; of a function (by its tag) or a call in it, where one is named. `object_id` stands in the entries."""

    app: str
    object_id: str
    function: str = ""
    call: str = ""

    def takes(self, chunk: LogChunk) -> bool:
        """Whether it is of what is meant: a class's methods and a function's variants are."""
        mine = not self.function or chunk.function == self.function or chunk.function.startswith((f"{self.function}.", f"{self.function}~"))
        return mine and (not self.call or chunk.input.startswith(f"in-{self.call.removeprefix('fc-')}"))


def of_function(function: str) -> Talk[Where]:
    """Where the function of this id is. Raises NotFoundError: it does not run."""
    answer: Rows = yield ListFunctions()
    for row in answer.rows:
        if row["id"] == function:
            return Where(row["app"], function, row["function"])
    raise NotFoundError(f"no app that runs or is deployed has the function {function}")


def of_call(call: str) -> Talk[Where]:
    """Where a call ran. Raises NotFoundError: the server knows nothing of it any more."""
    answer: Rows = yield ListCalls(call=call)
    if not answer.rows or not answer.rows[0]["app"]:
        raise NotFoundError(f"the server knows nothing of the call {call}")
    return Where(answer.rows[0]["app"], call, call=call)


class Logs:
    """``tail`` and ``fetch`` give what is there, ``stream`` what comes; each line is one entry, with its end."""

    def __init__(self, client: Client, place: Callable[[], Talk[Where]]) -> None:
        self.client, self._place = client, place
        #: ``for entry in x.logs.stream(): ...``, ``async for entry in x.logs.stream.aio(): ...``
        self.stream: Dual[..., Iterator[LogEntry], AsyncIterator[LogEntry]] = Dual(self._stream, self._stream_aio)

    @Stream
    def tail(self, entries: int = 100, *, source: str | None = None) -> Talk[None]:
        """The last entries, in the order of their times.

        Args:
            source: ``stdout`` or ``stderr``; None: both.
        """
        found = _Found(count("entries", entries, 1))
        yield from self._collect(found, _source(source))
        yield Give(found.in_order())

    @Stream
    def fetch(self, *, since: datetime | None = None, until: datetime | None = None, source: str | None = None, search_text: str = "") -> Talk[None]:
        """The entries of a time, in the order of their times.

        Args:
            since: the beginning of that time; a time without a zone is local.
            until: its end; None: now.
            search_text: only lines that hold it.
        """
        found = _Found(None, _seconds("since", since), _seconds("until", until), search_text)
        yield from self._collect(found, _source(source))
        yield Give(found.in_order())

    def _collect(self, found: "_Found", stream: int | None) -> Talk[None]:
        where = yield from self._place()
        lines = Lines(where, stream)

        def take(message: Any) -> None:
            if isinstance(message, LogChunk):
                found.extend(lines.add(message))

        yield Ask(Follow(app=where.app, follow=False), take)
        found.extend(lines.rest())

    def _stream(self, timeout: float | None = None) -> Iterator[LogEntry]:
        """Entries as they are written, until the app ends.

        Args:
            timeout: seconds without an entry after which it ends; None: without end.
        """
        where = talk(self.client, self._place())
        lines, last = Lines(where, None), time.monotonic()
        connection = self.client.connect()
        try:
            connection.send(Request(1, Follow(app=where.app, replay=False)))
            while True:
                try:
                    message: Any = connection.receive(None if timeout is None else max(0.0, last + timeout - time.monotonic()))
                except TimeoutError:
                    break
                if isinstance(message, Fault):
                    raise rebuild(message.code, message.message, message.details)
                if isinstance(message, Reply):
                    break
                for entry in lines.add(message) if isinstance(message, LogChunk) else ():
                    yield entry
                    last = time.monotonic()
        finally:
            connection.close()
        yield from lines.rest()

    async def _stream_aio(self, timeout: float | None = None) -> AsyncIterator[LogEntry]:
        import asyncio
        import contextlib

        where = await talk_aio(self.client, self._place())
        lines, last = Lines(where, None), time.monotonic()
        messages: asyncio.Queue[Any] = asyncio.Queue()
        task = asyncio.create_task(ask_aio(self.client, Follow(app=where.app, replay=False), messages.put_nowait), name="squall logs")
        task.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while True:
                try:
                    message = await asyncio.wait_for(messages.get(), None if timeout is None else max(0.0, last + timeout - time.monotonic()))
                except TimeoutError:
                    break
                if message is None:
                    await task  # raises what went wrong
                    break
                for entry in lines.add(message) if isinstance(message, LogChunk) else ():
                    yield entry
                    last = time.monotonic()
            for entry in lines.rest():
                yield entry
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class CallLogs(Logs):
    """Of a call."""

    stream = NotYet()

    def __init__(self, client: Client, place: Callable[[], Talk[Where]]) -> None:
        self.client, self._place = client, place


class Lines:
    """Output of many containers as entries of whole lines."""

    def __init__(self, where: Where, stream: int | None) -> None:
        self._where, self._stream = where, stream
        #: Beginnings of lines whose end has not come, by container and stream.
        self._open: dict[tuple[str, int], tuple[LogChunk, bytes]] = {}

    def add(self, chunk: LogChunk) -> list[LogEntry]:
        """The lines that end with this chunk."""
        if not self._where.takes(chunk) or self._stream not in (None, chunk.stream):
            return []
        key = (chunk.container, chunk.stream)
        first, before = self._open.pop(key, (chunk, b""))
        *lines, rest = (before + chunk.data).split(b"\n")
        if rest:
            self._open[key] = (chunk if lines else first, rest)
        return [self._entry(chunk if place else first, line + b"\n") for place, line in enumerate(lines)]

    def rest(self) -> list[LogEntry]:
        """Lines that have no end."""
        found = [self._entry(chunk, line) for chunk, line in self._open.values()]
        self._open.clear()
        return found

    def _entry(self, chunk: LogChunk, line: bytes) -> LogEntry:
        call = f"fc-{chunk.input.removeprefix('in-').rpartition('-')[0]}" if chunk.input else ""
        context = [each for each in (call, chunk.input, chunk.container) if each]
        at = datetime.fromtimestamp(chunk.time, UTC)
        return LogEntry(line.decode(errors="replace"), at, "stderr" if chunk.stream == 2 else "stdout", self._where.object_id, context)


class _Found:
    """Entries that are wanted: of a time, with a text, and only the last `most`."""

    def __init__(self, most: int | None, since: float | None = None, until: float | None = None, text: str = "") -> None:
        self._most, self._since, self._until, self._text = most, since, until, text
        self._kept: list[tuple[datetime, int, LogEntry]] = []
        self._count = 0

    def extend(self, entries: list[LogEntry]) -> None:
        for entry in entries:
            at = entry.timestamp.timestamp()
            if (self._since is None or at >= self._since) and (self._until is None or at < self._until) and self._text in entry.message:
                self._count += 1
                (heapq.heappush if self._most is None or len(self._kept) < self._most else heapq.heappushpop)(self._kept, (entry.timestamp, self._count, entry))

    def in_order(self) -> list[LogEntry]:
        return [entry for _, _, entry in sorted(self._kept, key=lambda kept: kept[:2])]


def _source(source: object) -> int | None:
    if source == "system":
        raise UnsupportedError("source='system' of logs is not supported yet: what containers wrote is 'stdout' and 'stderr'")
    if source not in (None, "stdout", "stderr"):
        raise InvalidError(f"source={source!r} is neither 'stdout' nor 'stderr'")
    return {None: None, "stdout": 1, "stderr": 2}[source]


def _seconds(name: str, moment: datetime | None) -> float | None:
    if moment is not None and not isinstance(moment, datetime):
        raise InvalidError(f"{name}={moment!r} is not a datetime")
    return None if moment is None else moment.timestamp()
