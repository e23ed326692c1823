"""What goes with time, in SQLAlchemy Core: `retention.RetentionStore`."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Delete, Double, Engine, Select, Table, and_, cast, delete, exists, func, null, or_, select, update

from squall.store import tables
from squall.store.engine import translated
from squall.store.prepared import Prepared, parameter
from squall.store.retention import Kept, Size

T = TypeVar("T")

_apps, _containers, _versions, _events, _inputs = tables.apps.c, tables.containers.c, tables.deployments.c, tables.events.c, tables.inputs.c


class RetentionStatements:
    """Those that a large history runs thousands of times, prepared for one dialect."""

    def __init__(self, dialect: Any) -> None:
        def due(condition: Any, before: str) -> Select[Any]:
            return select(_inputs.sequence).where(condition, _inputs.expires_at <= parameter(before)).order_by(_inputs.expires_at).limit(parameter("limit_"))

        change = update(tables.inputs).where(_inputs.sequence.in_(due(tables.EXPIRING, "now_")))
        self.expire = Prepared(change.values(state="expired", data=b"", output=null()), dialect)
        self.delete_inputs = [Prepared(delete(tables.inputs).where(_inputs.sequence.in_(due(each, "before_"))), dialect) for each in _ENDED]
        stopped = select(_containers.id).where(tables.STOPPED, _containers.stopped_at <= parameter("before_")).order_by(_containers.stopped_at)
        self.delete_containers = Prepared(delete(tables.containers).where(_containers.id.in_(stopped.limit(parameter("limit_")))), dialect)


#: Each with a partial index on `expires_at` of its own.
_ENDED = (tables.EXPIRED, tables.EXPIRING)


class _Ways(Protocol):
    """How a statement runs; the store gives this half of it."""

    _engine: Engine
    _retention: RetentionStatements

    def _write(self, apply: Callable[[Connection], T], *, relaxed: bool = False) -> Any: ...

    async def _read(self, query: Callable[[Connection], T]) -> T: ...


class SqlRetention:
    """Mixed into the store."""

    _engine: Engine
    _retention: RetentionStatements

    async def expire(self: _Ways, now: float, limit: int) -> int:
        values = {"now_": now, "limit_": limit}
        count: int = await self._write(lambda connection: self._retention.expire.run(connection, values), relaxed=True)
        return count

    async def delete_inputs(self: _Ways, before: float, limit: int) -> int:
        def apply(connection: Connection) -> int:
            count = 0
            for statement in self._retention.delete_inputs:
                if count < limit:
                    count += statement.run(connection, {"before_": before, "limit_": limit - count})
            return count

        deleted: int = await self._write(apply, relaxed=True)
        return deleted

    async def delete_containers(self: _Ways, before: float, limit: int) -> int:
        values = {"before_": before, "limit_": limit}
        count: int = await self._write(lambda connection: self._retention.delete_containers.run(connection, values), relaxed=True)
        return count

    async def delete_apps(self: _Ways, runs_before: float, deployed_before: float, limit: int) -> int:
        deployed = exists().where(_versions.app == _apps.id)
        over = or_(and_(~deployed, _apps.stopped_at <= runs_before), and_(deployed, _apps.stopped_at <= deployed_before))
        due = select(_apps.id).where(tables.STOPPED, over).order_by(_apps.stopped_at).limit(limit)

        def apply(connection: Connection) -> int:
            apps = list(connection.execute(due).scalars())
            boxes = select(_containers.id).where(_containers.app.in_(apps)).limit(limit)
            if count := connection.execute(delete(tables.containers).where(_containers.id.in_(boxes))).rowcount:
                return max(count, limit)  # the apps are still to come
            for table in (tables.functions, tables.deployments, tables.schedules):
                connection.execute(delete(table).where(table.c.app.in_(apps)))
            return connection.execute(delete(tables.apps).where(_apps.id.in_(apps))).rowcount

        deleted: int = await self._write(apply, relaxed=True)
        return deleted

    async def delete_deployments(self: _Ways, before: float, newest: int, limit: int) -> int:
        place = func.row_number().over(partition_by=_versions.app, order_by=_versions.version.desc()).label("place")
        ranked = select(_versions.id, _versions.created_at, place).subquery()
        due = select(ranked.c.id).where(ranked.c.place > newest, ranked.c.created_at <= before).order_by(ranked.c.created_at).limit(limit)
        return await _delete(self, delete(tables.deployments).where(_versions.id.in_(due)))

    async def delete_events(self: _Ways, before: float, limit: int) -> int:
        # They are numbered as they happen, so the oldest are the first: no more is read than is deleted.
        window = select(func.min(_events.id) + limit).scalar_subquery()
        return await _delete(self, delete(tables.events).where(_events.id < window, _events.time <= before))

    async def inputs_beyond(self: _Ways, rows: int) -> float | None:
        return await _scalar(self, select(_inputs.expires_at).where(tables.EXPIRED).order_by(_inputs.expires_at.desc()).offset(rows).limit(1))

    async def containers_beyond(self: _Ways, rows: int) -> float | None:
        return await _scalar(self, select(_containers.stopped_at).where(tables.STOPPED).order_by(_containers.stopped_at.desc()).offset(rows).limit(1))

    async def events_beyond(self: _Ways, rows: int) -> float | None:
        return await _scalar(self, select(_events.time).order_by(_events.id.desc()).offset(rows).limit(1))

    async def size(self: _Ways) -> Size:
        def read(connection: Connection) -> Size:
            if connection.dialect.name == "postgresql":
                return Size(int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()), None)
            page, count, free = (int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in ("page_size", "page_count", "freelist_count"))
            return Size(page * count, page * free)

        return await self._read(read)

    async def kept(self: _Ways) -> list[Kept]:
        def count() -> list[Kept]:
            with translated("counting rows"), self._engine.connect().execution_options(reads_only=True) as connection, connection.begin():
                return [Kept(kind, *connection.execute(query).one()) for kind, query in _COUNTS.items()]

        return await asyncio.to_thread(count)

    async def compact(self: _Ways, limit_bytes: int) -> int:
        def apply(connection: Connection) -> int:
            if connection.dialect.name == "postgresql":
                return 0
            page = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
            free = int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())
            for _ in range(min(free, max(1, limit_bytes // page))):
                connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")  # Python's driver takes one step of this statement, a page, whatever the number
            return page * int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())

        free: int = await self._write(apply, relaxed=True)
        return free


def _count(table: Table, created: Any, condition: Any = None) -> Select[Any]:
    query = select(func.count(), created).select_from(table)
    return query if condition is None else query.where(condition)


#: Of ended inputs the indexes say how many there are; when they were made would be a look at each row.
_UNKNOWN = cast(null(), Double)
_COUNTS: dict[str, Select[Any]] = {
    "live inputs": _count(tables.inputs, func.min(_inputs.created_at), tables.LIVE),
    "results": _count(tables.inputs, _UNKNOWN, tables.EXPIRING),
    "ended inputs without a result": _count(tables.inputs, _UNKNOWN, tables.EXPIRED),
    "containers": _count(tables.containers, func.min(_containers.created_at)),
    "apps": _count(tables.apps, func.min(_apps.created_at)),
    "functions": _count(tables.functions, func.min(tables.functions.c.created_at)),
    "versions": _count(tables.deployments, func.min(_versions.created_at)),
    "events": _count(tables.events, func.min(_events.time)),
}


async def _delete(store: _Ways, statement: Delete) -> int:
    count: int = await store._write(lambda connection: connection.execute(statement).rowcount, relaxed=True)
    return count


async def _scalar(store: _Ways, query: Select[Any]) -> float | None:
    return await store._read(lambda connection: connection.execute(query).scalar())
