"""Group commit: one thread that writes, and whatever was asked while a commit ran shares the next one.

A commit waits for the disk (about a millisecond on an SSD, ten on others); a thousand spawns at a time then take a handful of commits instead of a thousand.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection

from squall.model.errors import ClientClosed, ConnectionError, Error, ResourceExhaustedError
from squall.store.engine import committed, relax, transaction, translated
from squall.store.rows import EventRow, Statistics

T = TypeVar("T")

#: Writes in one transaction: so many that sharing pays, so few that the first does not wait long for the last (10 us each).
BATCH_MAX = 2_000
#: Writes that may wait. At 50,000 writes a second this is a second; more means that the disk does not keep up.
QUEUE_MAX = 50_000
#: Events that may wait, and for how long they do when no write takes them along.
EVENTS_MAX, EVENTS_DELAY_S = 20_000, 0.25
#: What a relaxed write wrote is on the disk after this, whether or not another write comes.
RELAXED_S = 0.5
#: A database that went away (PostgreSQL) is waited for so long; writes wait too. How often it is tried.
GONE_S, GONE_PAUSE_S = 60.0, 0.2


class _Write(NamedTuple):
    apply: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    relaxed: bool = False


class Writer:
    """Applies writes in the order in which they were submitted. Methods other than the thread's own are called from one event loop."""

    def __init__(self, connect: Callable[[], Connection], record: Callable[[Connection, Sequence[EventRow]], None], *, sync: Callable[[], None]) -> None:
        self._connect, self._record, self._sync = connect, record, sync
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._events: deque[EventRow] = deque()
        self._events_timer: asyncio.TimerHandle | None = None
        self._sync_timer: asyncio.TimerHandle | None = None
        self._commits = self._writes = self._dropped = 0
        self._relaxed = False
        self._closed = False
        #: A transaction whose commit has not been answered, and what it was to give and to record.
        self._doubt: tuple[str, list[Any], list[EventRow]] | None = None
        self._thread = threading.Thread(target=self._run, name="squall-store-writer", daemon=True)
        self._thread.start()

    def submit(self, apply: Callable[[Connection], T], *, relaxed: bool = False) -> asyncio.Future[T]:
        """Run `apply` within a transaction; the future resolves after its commit. A `relaxed` commit survives this process, and reaches the disk soon.

        `apply` may run twice (after a rollback; not when its commit came about and the answer was lost), so it must change nothing but the database.

        Raises:
            ResourceExhaustedError: `QUEUE_MAX` writes wait.
            ClientClosed: `close` was called.
        """
        if self._closed:
            raise ClientClosed("the store is closed")
        if self._queue.qsize() >= QUEUE_MAX:
            raise ResourceExhaustedError(f"{QUEUE_MAX} writes wait for the disk; it does not keep up")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Write(apply, future, relaxed))
        if relaxed and self._sync_timer is None:
            self._sync_timer = self._loop.call_later(RELAXED_S, self._sync_soon)
        return future

    def record(self, events: Sequence[EventRow]) -> None:
        """Take events along with the next transaction, at the latest after `EVENTS_DELAY_S`."""
        room = 0 if self._closed else max(EVENTS_MAX - len(self._events), 0)
        self._events.extend(events[:room])
        self._dropped += len(events) - len(events[:room])
        if self._events and self._events_timer is None:
            self._events_timer = self._loop.call_later(EVENTS_DELAY_S, self._flush_events)

    def statistics(self) -> Statistics:
        return Statistics(self._commits, self._writes, self._queue.qsize(), self._dropped)

    def close(self) -> None:
        """Take no more. The thread ends after what was submitted; `join` waits for it."""
        if self._closed:
            return
        self._closed = True
        if self._events_timer is not None:
            self._events_timer.cancel()
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_soon(last=True)
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread; blocks, so not on the loop."""
        self._thread.join()

    def _flush_events(self) -> None:
        self._events_timer = None
        if self._events and not self._closed:
            with suppress(ResourceExhaustedError):  # so many writes wait that one of them takes the events along
                self.submit(lambda _: None).add_done_callback(lambda done: done.cancelled() or done.exception())

    def _sync_soon(self, *, last: bool = False) -> None:
        self._sync_timer = None
        if last or not self._closed:
            self._queue.put(_Write(lambda _: self._sync(), self._loop.create_future()))

    # --- the thread ---

    def _run(self) -> None:
        ending = False
        try:
            connection = self._connect()
        except Exception as error:  # Everybody who waits learns it; nobody waits for ever.
            while not ending:
                batch, ending = self._take()
                self._deliver(batch, [error] * len(batch))
            return
        try:
            while not ending:
                batch, ending = self._take()
                if batch or self._events:
                    connection = self._apply(connection, batch)
        finally:
            connection.close()

    def _take(self) -> tuple[list[_Write], bool]:
        """Wait for a write, then take what else is there. True: nothing comes after these."""
        batch: list[_Write] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) >= BATCH_MAX:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _apply(self, connection: Connection, batch: list[_Write]) -> Connection:
        """Write the batch and tell who waits. Returns the connection to go on with: another one after the database went away and came back."""
        deadline = None
        while True:
            try:
                self._apply_once(connection, batch)
                return connection
            except ConnectionError as error:
                deadline = deadline or monotonic() + GONE_S
                if monotonic() > deadline:
                    self._doubt = None
                    self._deliver(batch, [error] * len(batch))
                    return connection
            except Exception as error:  # Not foreseen: who waits learns it, and the thread goes on.
                self._doubt = None
                self._deliver(batch, [error] * len(batch))
                return connection
            connection = self._reconnect(connection)

    def _reconnect(self, connection: Connection) -> Connection:
        """Wait a moment and try once; the closed connection itself if that fails."""
        with suppress(Exception):
            connection.invalidate()
            connection.close()
        sleep(GONE_PAUSE_S)
        self._relaxed = False
        with suppress(Error), translated("connecting"):
            return self._connect()
        return connection

    def _apply_once(self, connection: Connection, batch: list[_Write]) -> None:
        if connection.closed:
            raise ConnectionError("the database does not answer")
        if self._doubt is not None and self._came_about(connection, batch):
            return
        events = [self._events.popleft() for _ in range(len(self._events))]
        results: list[Any] = []
        try:
            self._relax(connection, bool(batch) and all(write.relaxed for write in batch))
            with translated("writing to the store"), connection.begin():
                results = [write.apply(connection) for write in batch]
                self._record(connection, events)
                if (known := transaction(connection)) is not None:
                    self._doubt = known, results, events
            self._doubt = None
        except ConnectionError:
            if self._doubt is None:
                self._events.extendleft(reversed(events))
            raise
        except Exception as error:
            self._doubt = None
            # Nothing of the batch is there. One bad write must not take the others with it, so each gets a transaction of its own.
            results = [error] if len(batch) == 1 and not events else [self._apply_alone(connection, write.apply) for write in batch]
            if events and isinstance(self._apply_alone(connection, lambda connection: self._record(connection, events)), Error):
                self._dropped += len(events)
        else:
            self._commits += 1
        self._writes += len(batch)
        self._deliver(batch, results)

    def _came_about(self, connection: Connection, batch: list[_Write]) -> bool:
        """Whether the commit that was not answered is there; then the batch is told what it gave."""
        assert self._doubt is not None
        known, results, events = self._doubt
        there = committed(connection, known)
        self._doubt = None
        if there:
            self._commits += 1
            self._writes += len(batch)
            self._deliver(batch, results)
        else:
            self._events.extendleft(reversed(events))
        return there

    def _relax(self, connection: Connection, relaxed: bool) -> None:
        if relaxed is not self._relaxed:
            with translated("writing to the store"):
                relax(connection, relaxed)
            self._relaxed = relaxed

    def _apply_alone(self, connection: Connection, apply: Callable[[Connection], Any]) -> Any:
        try:
            with translated("writing to the store"), connection.begin():
                result = apply(connection)
        except Exception as error:
            return error
        self._commits += 1
        return result

    def _deliver(self, batch: list[_Write], results: list[Any]) -> None:
        def resolve() -> None:
            for write, result in zip(batch, results, strict=True):
                if write.future.done():  # Its caller was cancelled.
                    continue
                if isinstance(result, Exception):
                    write.future.set_exception(result)
                else:
                    write.future.set_result(result)

        try:
            self._loop.call_soon_threadsafe(resolve)
        except RuntimeError:  # The loop has closed: nobody waits any more.
            return
