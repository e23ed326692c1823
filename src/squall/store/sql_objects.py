"""`objects.ObjectStore` in SQL: named objects by plain statements, dicts and queues by prepared ones."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection, Dialect, and_, delete, func, insert, select, tuple_, update

from squall.store import tables
from squall.store.objects import ObjectRow, QueueRow
from squall.store.prepared import Prepared, parameter

T = TypeVar("T")

_OBJECT = [tables.objects.c[name] for name in ObjectRow.__struct_fields__]
_ITEM = [tables.queue_items.c[name] for name in QueueRow.__struct_fields__]


def insert_for(dialect: Dialect) -> Callable[..., Any]:
    """The INSERT of this database, which knows ON CONFLICT."""
    if dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert


class ObjectStatements:
    """Prepared for one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        entries, items = tables.dict_items, tables.queue_items
        new = insert_for(dialect)(entries).values({column.name: parameter(column.name) for column in entries.columns})
        changes = {"value": new.excluded.value, "touched_at": new.excluded.touched_at}
        self.put = Prepared(new.on_conflict_do_update(index_elements=["dict", "key"], set_=changes), dialect)
        self.put_absent = Prepared(new.on_conflict_do_nothing(index_elements=["dict", "key"]), dialect)
        one = and_(entries.c.dict == parameter("dict_"), entries.c.key == parameter("key_"))
        self.remove = Prepared(delete(entries).where(one), dialect)
        self.touch = Prepared(update(entries).where(one).values(touched_at=parameter("now_")), dialect)
        self.append = Prepared(insert(items).values({column.name: parameter(column.name) for column in items.columns}), dialect)
        self.take = Prepared(delete(items).where(items.c.queue == parameter("queue_"), items.c.sequence == parameter("sequence_")), dialect)


class Ways(Protocol):
    """What the store gives this half of it."""

    _object_statements: ObjectStatements

    def _write(self, apply: Callable[[Connection], T], *, relaxed: bool = False) -> Any: ...

    async def _read(self, query: Callable[[Connection], T]) -> T: ...


class SqlObjects:
    """Mixed into the store."""

    _object_statements: ObjectStatements

    # --- named objects ---

    async def create_object(self: Ways, row: ObjectRow) -> ObjectRow:
        objects = tables.objects.c
        taken = objects.id == row.id
        if row.name is not None:
            taken |= and_(objects.kind == row.kind, objects.environment == row.environment, objects.name == row.name)

        def create(connection: Connection) -> ObjectRow:
            found = connection.execute(select(*_OBJECT).where(taken)).first()
            if found is not None:
                return _object(found)
            connection.execute(insert(tables.objects).values(msgspec.structs.asdict(row)))
            return row

        made: ObjectRow = await self._write(create)
        return made

    async def object(self: Ways, kind: str, environment: str, name: str) -> ObjectRow | None:
        objects = tables.objects.c
        query = select(*_OBJECT).where(objects.kind == kind, objects.environment == environment, objects.name == name)
        return await self._read(lambda connection: _first(connection.execute(query).first()))

    async def object_by_id(self: Ways, object_id: str) -> ObjectRow | None:
        query = select(*_OBJECT).where(tables.objects.c.id == object_id)
        return await self._read(lambda connection: _first(connection.execute(query).first()))

    async def objects(self: Ways, kind: str, environment: str | None = None) -> list[ObjectRow]:
        objects = tables.objects.c
        query = select(*_OBJECT).where(objects.kind == kind).order_by(objects.created_at.desc(), objects.id.desc())
        if environment is not None:
            query = query.where(objects.environment == environment)
        return await self._read(lambda connection: [_object(row) for row in connection.execute(query)])

    async def set_object(self: Ways, object_id: str, *, data: bytes | None = None, used_at: float | None = None) -> bool:
        values = {name: value for name, value in (("data", data), ("used_at", used_at)) if value is not None}
        if not values:
            return False
        statement = update(tables.objects).where(tables.objects.c.id == object_id).values(values)
        changed: bool = await self._write(lambda connection: connection.execute(statement).rowcount == 1)
        return changed

    async def set_objects(self: Ways, changes: Sequence[tuple[str, bytes, bytes]]) -> bool:
        objects = tables.objects.c

        def change(connection: Connection) -> bool:
            there = {row.id: row.data for row in connection.execute(select(objects.id, objects.data))}
            if any(there.get(object_id) != old for object_id, old, _ in changes):
                return False
            for object_id, _, new in changes:
                connection.execute(update(tables.objects).where(objects.id == object_id).values(data=new))
            return True

        done: bool = await self._write(change)
        return done

    async def rename_object(self: Ways, object_id: str, name: str) -> bool:
        objects = tables.objects.c

        def rename(connection: Connection) -> bool:
            row = connection.execute(select(objects.kind, objects.environment).where(objects.id == object_id)).first()
            if row is None:
                return False
            taken = select(objects.id).where(objects.kind == row.kind, objects.environment == row.environment, objects.name == name, objects.id != object_id)
            if connection.execute(taken).first() is not None:
                return False
            connection.execute(update(tables.objects).where(objects.id == object_id).values(name=name))
            return True

        done: bool = await self._write(rename)
        return done

    async def drop_object(self: Ways, object_id: str) -> bool:
        def drop(connection: Connection) -> bool:
            connection.execute(delete(tables.dict_items).where(tables.dict_items.c.dict == object_id))
            connection.execute(delete(tables.queue_items).where(tables.queue_items.c.queue == object_id))
            return connection.execute(delete(tables.objects).where(tables.objects.c.id == object_id)).rowcount == 1

        done: bool = await self._write(drop)
        return done

    # --- dicts ---

    async def dict_get(self: Ways, dict_id: str, key: bytes) -> tuple[bytes, float] | None:
        entries = tables.dict_items.c
        query = select(entries.value, entries.touched_at).where(entries.dict == dict_id, entries.key == key)

        def get(connection: Connection) -> tuple[bytes, float] | None:
            row = connection.execute(query).first()
            return None if row is None else (bytes(row.value), row.touched_at)

        return await self._read(get)

    async def dict_put(self: Ways, dict_id: str, items: Sequence[tuple[bytes, bytes]], now: float, *, absent: bool = False) -> int:
        statement = self._object_statements.put_absent if absent else self._object_statements.put
        values = [{"dict": dict_id, "key": key, "value": value, "touched_at": now} for key, value in items]
        if len(values) == 1:
            count: int = await self._write(lambda connection: statement.run(connection, values[0]), relaxed=True)
            return count
        count = await self._write(lambda connection: sum(statement.run(connection, each) for each in values), relaxed=True)
        return count

    async def dict_take(self: Ways, dict_id: str, key: bytes) -> bytes | None:
        entries = tables.dict_items.c
        query = select(entries.value).where(entries.dict == dict_id, entries.key == key)

        def take(connection: Connection) -> bytes | None:
            value = connection.execute(query).scalar()
            if value is None:
                return None
            self._object_statements.remove.run(connection, {"dict_": dict_id, "key_": key})
            return bytes(value)

        taken: bytes | None = await self._write(take, relaxed=True)
        return taken

    async def dict_touch(self: Ways, dict_id: str, keys: Sequence[bytes], now: float) -> None:
        values = [{"dict_": dict_id, "key_": key, "now_": now} for key in keys]
        await self._write(lambda connection: self._object_statements.touch.run_many(connection, values), relaxed=True)

    async def dict_len(self: Ways, dict_id: str) -> int:
        query = select(func.count()).where(tables.dict_items.c.dict == dict_id)
        return await self._read(lambda connection: int(connection.execute(query).scalar_one()))

    async def dict_page(self: Ways, dict_id: str, after: bytes | None, limit: int, budget: int, *, values: bool = True) -> list[tuple[bytes, bytes]]:
        entries = tables.dict_items.c
        query = select(entries.key, *([entries.value] if values else [])).where(entries.dict == dict_id).order_by(entries.key).limit(limit)
        if after is not None:
            query = query.where(entries.key > after)

        def page(connection: Connection) -> list[tuple[bytes, bytes]]:
            found: list[tuple[bytes, bytes]] = []
            size = 0
            for row in connection.execute(query):
                found.append((bytes(row[0]), bytes(row[1]) if values else b""))
                size += len(found[-1][0]) + len(found[-1][1])
                if size >= budget:
                    break
            return found

        return await self._read(page)

    async def dict_clear(self: Ways, dict_id: str) -> int:
        statement = delete(tables.dict_items).where(tables.dict_items.c.dict == dict_id)
        count: int = await self._write(lambda connection: connection.execute(statement).rowcount, relaxed=True)
        return count

    async def dict_expire(self: Ways, before: float, limit: int) -> int:
        entries = tables.dict_items.c
        query = select(entries.dict, entries.key).where(entries.touched_at < before).order_by(entries.touched_at).limit(limit)

        def expire(connection: Connection) -> int:
            due = [{"dict_": row.dict, "key_": row.key} for row in connection.execute(query).all()]
            return self._object_statements.remove.run_many(connection, due)

        count: int = await self._write(expire, relaxed=True)
        return count

    # --- queues ---

    async def queue_load(self: Ways, queue_id: str) -> list[QueueRow]:
        query = select(*_ITEM).where(tables.queue_items.c.queue == queue_id).order_by(tables.queue_items.c.sequence)
        return await self._read(
            lambda connection: [QueueRow(row.queue, row.sequence, row.partition, bytes(row.value), row.expires_at) for row in connection.execute(query)]
        )

    async def queue_put(self: Ways, rows: Sequence[QueueRow]) -> None:
        values = [msgspec.structs.asdict(row) for row in rows]
        await self._write(lambda connection: self._object_statements.append.run_many(connection, values), relaxed=True)

    async def queue_take(self: Ways, queue_id: str, sequences: Sequence[int]) -> None:
        values = [{"queue_": queue_id, "sequence_": sequence} for sequence in sequences]
        await self._write(lambda connection: self._object_statements.take.run_many(connection, values), relaxed=True)

    async def queue_clear(self: Ways, queue_id: str, partition: str | None = None) -> int:
        items = tables.queue_items.c
        statement = delete(tables.queue_items).where(items.queue == queue_id)
        if partition is not None:
            statement = statement.where(items.partition == partition)
        count: int = await self._write(lambda connection: connection.execute(statement).rowcount, relaxed=True)
        return count

    async def queue_expire(self: Ways, now: float) -> int:
        items = tables.queue_items.c
        due = select(items.queue, items.partition).group_by(items.queue, items.partition).having(func.max(items.expires_at) <= now)
        statement = delete(tables.queue_items).where(tuple_(items.queue, items.partition).in_(due))
        count: int = await self._write(lambda connection: connection.execute(statement).rowcount, relaxed=True)
        return count


def _object(row: Any) -> ObjectRow:
    return ObjectRow(row.id, row.kind, row.environment, row.name, row.created_at, bytes(row.data), row.used_at)


def _first(row: Any) -> ObjectRow | None:
    return None if row is None else _object(row)
