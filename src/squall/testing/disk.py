"""The store of a simulated server: the production SQL on an in-memory database, in the loop, with a disk that is slow, full, or cut off in the middle."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from sqlalchemy import Connection

from squall.model.errors import ClientClosed, ResourceExhaustedError
from squall.store.engine import make_engine, translated
from squall.store.migrate import upgrade
from squall.store.rows import EventRow, Statistics
from squall.store.sql import SqlStore

T = TypeVar("T")

_MEMORY = Path(":memory:")


@functools.cache
def _empty_database() -> bytes:
    """Made once in a process: the revisions take longer than a whole simulated day."""
    with make_engine(_MEMORY).connect() as connection:
        with connection.begin():
            assert upgrade(connection)
        return bytes(_driver(connection).serialize())


@functools.cache
def _template() -> SqlStore:
    """Its statements take 15 ms to compile, and a simulated server lives many times."""
    return SqlStore(_MEMORY)


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


class Disk:
    """What survives a server. Delays are seconds."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.connection = make_engine(_MEMORY).connect()
        _driver(self.connection).deserialize(_empty_database())
        self.full = False
        #: Chance that a commit takes up to `slow_s_max`.
        self.slow_chance = 0.0
        self.slow_s_max = 3.0

    def commit_s(self) -> float:
        if self.slow_chance and self.rng.random() < self.slow_chance:
            return self.rng.random() * self.slow_s_max
        return 0.0004 + self.rng.random() * 0.002

    def apply(self, write: Callable[[Connection], T]) -> T:
        """One transaction."""
        if self.full:
            raise ResourceExhaustedError("writing to the store: no room on the disk (simulated)")
        with translated("writing to the store"), self.connection.begin():
            return write(self.connection)

    def close(self) -> None:
        self.connection.close()


class SimulatedStore(SqlStore):
    """`store.contract.Store` for one life of a server."""

    def __init__(self, disk: Disk) -> None:
        self.__dict__.update(_template().__dict__)
        self._disk = disk
        self._waiting: list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = []
        self._opened = self._committing = self._closed = False
        self._commits = self._writes = 0

    async def open(self) -> None:
        self._opened = True

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._commit()

    def crash(self) -> None:
        """The server dies: of the writes that waited, none, some or all had reached the disk, in their order."""
        done = self._waiting[: self._disk.rng.randint(0, len(self._waiting))]
        self._waiting.clear()
        if not self._disk.full:
            for apply, _ in done:
                self._disk.apply(apply)

    def statistics(self) -> Statistics:
        return Statistics(self._commits, self._writes, len(self._waiting), 0)

    def record(self, events: Any) -> None:
        kept: list[EventRow] = list(events)
        if self._opened and not self._closed:
            written = self._write(lambda connection: self._statements.record(connection, kept))
            written.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for events: on a full disk they are lost

    def _write(self, apply: Callable[[Connection], T], *, relaxed: bool = False) -> "asyncio.Future[T]":
        if not self._opened or self._closed:
            raise ClientClosed("the store is not open")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((apply, future))
        if not self._committing:
            self._committing = True
            loop.call_later(self._disk.commit_s(), self._commit)
        return future

    def _commit(self) -> None:
        self._committing = False
        batch, self._waiting = self._waiting, []
        self._commits += 1
        for apply, future in batch:
            self._writes += 1
            try:
                result = self._disk.apply(apply)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        if not self._opened or self._closed:
            raise ClientClosed("the store is not open")
        await asyncio.sleep(self._disk.commit_s() / 4)
        with translated("reading from the store"), self._disk.connection.begin():
            return query(self._disk.connection)
