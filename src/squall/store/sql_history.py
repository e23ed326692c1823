"""What became of inputs, in SQLAlchemy Core: a row of the table holds many, since one is made for each input on the hot path."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, delete, insert, or_, select

from squall.store import tables

T = TypeVar("T")

_columns = tables.history.c


class _Ways(Protocol):
    """How a statement runs; the store gives this half of it."""

    def _write(self, apply: Callable[[Connection], T], *, relaxed: bool = False) -> Any: ...

    async def _read(self, query: Callable[[Connection], T]) -> T: ...


class SqlHistory:
    """Mixed into the store."""

    async def keep_history(self: _Ways, now: float, rows: int, data: bytes) -> None:
        values = {"time": now, "rows": rows, "data": data}
        await self._write(lambda connection: connection.execute(insert(tables.history).values(values)).rowcount, relaxed=True)

    async def history(self: _Ways, rows: int) -> list[bytes]:
        def read(connection: Connection) -> list[bytes]:
            found: list[bytes] = []
            left = rows
            for count, data in connection.execute(select(_columns.rows, _columns.data).order_by(_columns.id.desc())):
                found.append(data)
                left -= count
                if left <= 0:
                    break
            return found[::-1]

        return await self._read(read)

    async def trim_history(self: _Ways, rows: int, before: float) -> int:
        def apply(connection: Connection) -> int:
            left, oldest = rows, 0
            for number, count in connection.execute(select(_columns.id, _columns.rows).order_by(_columns.id.desc())):
                oldest, left = number, left - count
                if left <= 0:
                    break
            return connection.execute(delete(tables.history).where(or_(_columns.id < oldest, _columns.time <= before))).rowcount

        count: int = await self._write(apply, relaxed=True)
        return count
