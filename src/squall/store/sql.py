"""The store in SQLAlchemy Core, on SQLite and PostgreSQL: what `contract.Store` promises. Writes go through the group commit of `writer`, reads have one."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Select, Table, delete, func, literal_column, select, update

from squall.model.errors import ClientClosed, ConnectionError, Error
from squall.model.ids import APP, CALL, CONTAINER, AppId, CallId, ContainerId, FunctionId
from squall.model.states import AppState, ContainerState, InputState
from squall.store import tables
from squall.store.engine import claim, ensure_schema, make_engine, sync, translated
from squall.store.rows import AppRow, Claim, ContainerRow, DeploymentRow, EventRow, FunctionRow, InputRow, Outcome, ScheduleRow, Statistics, TokenRow
from squall.store.sql_history import SqlHistory
from squall.store.sql_objects import ObjectStatements, SqlObjects
from squall.store.sql_retention import RetentionStatements, SqlRetention
from squall.store.statements import Statements
from squall.store.writer import GONE_PAUSE_S, GONE_S, Writer
from squall.wire.messages import CANCELLED, OK

T = TypeVar("T")
Row = TypeVar("Row", bound=msgspec.Struct)

#: In one query; SQLite takes 32,766 parameters (SQLITE_MAX_VARIABLE_NUMBER).
_KEYS_AT_ONCE = 500


class SqlStore(SqlObjects, SqlRetention, SqlHistory):
    """`contract.Store` on a SQLite file, or on the database of a URL. It belongs to one event loop, from `open` to `close`, and to one process."""

    def __init__(self, place: Path | str) -> None:
        self._place = place
        self._engine = make_engine(place)
        self._statements = Statements(self._engine.dialect)
        self._object_statements = ObjectStatements(self._engine.dialect)
        self._retention = RetentionStatements(self._engine.dialect)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="squall-store-reader")
        self._reading: Connection | None = None
        self._writer: Writer | None = None
        self._closing: asyncio.Future[None] | None = None
        self._clock, self._pause = monotonic, sleep

    async def open(self) -> None:
        def prepare() -> None:
            with translated(f"opening the database {self._shown}"):
                self._connect_reader()  # which claims the database: a schema is not changed under another server
                try:
                    ensure_schema(self._engine)
                except BaseException:
                    assert self._reading is not None
                    self._reading.close()
                    self._reading = None
                    raise

        await asyncio.get_running_loop().run_in_executor(self._reader, prepare)
        self._writer = Writer(self._engine.connect, self._statements.record, sync=lambda: sync(self._place))

    @property
    def _shown(self) -> str:
        """The place without a password."""
        return str(self._place) if isinstance(self._place, Path) else self._engine.url.render_as_string(hide_password=True)

    def _connect_reader(self) -> None:
        connection = self._engine.connect().execution_options(reads_only=True)
        try:
            claim(connection)
        except BaseException:
            connection.close()
            raise
        self._reading = connection

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        def release() -> None:
            if writer is not None:
                writer.join()
            if self._reading is not None:
                self._reading.close()
            self._engine.dispose()

        writer = self._writer
        if writer is not None:
            writer.close()
        await asyncio.get_running_loop().run_in_executor(self._reader, release)
        self._reader.shutdown(wait=False)

    def statistics(self) -> Statistics:
        return Statistics(0, 0, 0, 0) if self._writer is None else self._writer.statistics()

    # --- apps and functions ---

    async def save_app(self, row: AppRow) -> None:
        await self._write(lambda connection: self._statements.save(connection, tables.apps, [_values(row)]))

    async def set_app_state(self, app: AppId, state: AppState, now: float) -> bool:
        stopped_at = now if state is AppState.STOPPED else None
        values = {"id_": app, "state_": state.value, "stopped_at_": stopped_at}
        return await self._write(lambda connection: self._statements.set_app_state.run(connection, values) == 1)

    async def app(self, app: AppId) -> AppRow | None:
        return await self._first(AppRow, _select(AppRow, tables.apps).where(tables.apps.c.id == app))

    async def apps(self, states: Collection[AppState] | None = None) -> list[AppRow]:
        query = _select(AppRow, tables.apps).order_by(tables.apps.c.created_at, tables.apps.c.id)
        if states is not None:
            query = query.where(tables.apps.c.state.in_([state.value for state in states]))
        return await self._all(AppRow, query)

    async def save_functions(self, rows: Sequence[FunctionRow]) -> None:
        await self._write(lambda connection: self._statements.save(connection, tables.functions, [_values(row) for row in rows]))

    async def functions(self, app: AppId) -> list[FunctionRow]:
        return await self._all(FunctionRow, _select(FunctionRow, tables.functions).where(tables.functions.c.app == app).order_by(tables.functions.c.tag))

    async def function(self, function: FunctionId) -> FunctionRow | None:
        return await self._first(FunctionRow, _select(FunctionRow, tables.functions).where(tables.functions.c.id == function))

    async def ids_with_prefix(self, kind: str, prefix: str, limit: int) -> list[str]:
        column = {APP: tables.apps.c.id, CONTAINER: tables.containers.c.id, CALL: tables.inputs.c.call}[kind]
        # A range and not LIKE, for which SQLite uses no index.
        query = select(column).where(column >= prefix, column < prefix[:-1] + chr(ord(prefix[-1]) + 1)) if prefix else select(column)
        query = query.distinct().order_by(column).limit(limit)
        return await self._read(lambda connection: list(connection.execute(query).scalars()))

    # --- inputs ---

    async def accept(self, inputs: Sequence[InputRow]) -> int:
        values = [_values(row) for row in inputs]
        for each in values:
            del each["sequence"]
        return await self._write(lambda connection: self._statements.accept.run_many(connection, values))

    async def claim(self, call: CallId, index: int, token: int, now: float) -> bool:
        values = _claim_values(Claim(call, index, token, now))
        return await self._write(lambda connection: self._statements.claim.run(connection, values) == 1)

    async def finish(self, call: CallId, index: int, token: int, status: int, output: bytes, now: float, expires_at: float | None) -> bool:
        values = _outcome_values(Outcome(call, index, token, status, output, now, expires_at))
        return await self._write(lambda connection: self._statements.finish.run(connection, values) == 1)

    async def progress(self, claims: Sequence[Claim], outcomes: Sequence[Outcome]) -> list[bool]:
        claimed, ended = [_claim_values(each) for each in claims], [_outcome_values(each) for each in outcomes]

        def apply(connection: Connection) -> list[bool]:
            self._statements.claim.run_many(connection, claimed)
            return [self._statements.finish.run(connection, values) == 1 for values in ended]

        return await self._write(apply)

    async def requeue(self, call: CallId, index: int, token: int, *, platform: bool) -> bool:
        values = {"call_": call, "index_": index, "token_": token, "platform_": int(platform)}
        return await self._write(lambda connection: self._statements.requeue.run(connection, values) == 1)

    async def cancel_call(self, call: CallId, indexes: Collection[int], now: float, expires_at: float | None) -> list[int]:
        wanted = frozenset(indexes)

        def cancel(connection: Connection) -> list[int]:
            columns = tables.inputs.c
            live = connection.execute(select(columns.index).where(columns.call == call, tables.LIVE).order_by(columns.index)).scalars()
            changed = [index for index in live if not wanted or index in wanted]
            self._statements.cancel.run_many(connection, [{"call_": call, "index_": index, "now_": now, "expires_at_": expires_at} for index in changed])
            return changed

        return await self._write(cancel)

    async def cancel_functions(self, functions: Collection[FunctionId], now: float, expires_at: float | None) -> int:
        columns = tables.inputs.c
        change = (
            update(tables.inputs)
            .where(columns.function.in_(list(functions)), tables.LIVE)
            .values(state=InputState.CANCELLED.value, status=CANCELLED, data=b"", output=b"", finished_at=now, expires_at=expires_at)
        )
        return await self._write(lambda connection: connection.execute(change).rowcount)

    async def input(self, call: CallId, index: int) -> InputRow | None:
        return await self._first(InputRow, _select(InputRow, tables.inputs).where(tables.inputs.c.call == call, tables.inputs.c.index == index))

    async def known_inputs(self, keys: Sequence[tuple[str, int]]) -> list[InputRow]:
        # Both columns of the index are given in each query. SQLite scans the table for pairs of them.
        one, many = (0, 1) if len({call for call, _ in keys}) <= len({index for _, index in keys}) else (1, 0)
        columns = tables.inputs.c.call, tables.inputs.c.index
        groups: dict[str | int, list[str | int]] = {}
        for key in keys:
            groups.setdefault(key[one], []).append(key[many])
        found: list[InputRow] = []
        for value, others in groups.items():
            for first in range(0, len(others), _KEYS_AT_ONCE):
                wanted = columns[one] == value, columns[many].in_(others[first : first + _KEYS_AT_ONCE])
                found += await self._all(InputRow, _select(InputRow, tables.inputs).where(*wanted))
        return found

    async def call_inputs(self, call: CallId) -> list[InputRow]:
        return await self._all(InputRow, _select(InputRow, tables.inputs).where(tables.inputs.c.call == call).order_by(tables.inputs.c.index))

    async def pending(self, limit: int, after: int = 0) -> list[InputRow]:
        sequence = tables.inputs.c.sequence
        query = _select(InputRow, tables.inputs).where(tables.LIVE, sequence > after).order_by(sequence).limit(limit)
        return await self._write(lambda connection: _rows(connection, InputRow, query))

    async def highest_token(self) -> int:
        query = select(func.coalesce(func.max(tables.inputs.c.token), literal_column("0"))).where(tables.LIVE)
        return await self._read(lambda connection: int(connection.execute(query).scalar_one()))

    # --- containers and events ---

    async def save_container(self, row: ContainerRow) -> None:
        await self._write(lambda connection: self._statements.save(connection, tables.containers, [_values(row)]))

    async def set_container_state(
        self, container: ContainerId, state: ContainerState, now: float, *, reason: str | None = None, pid: int | None = None
    ) -> bool:
        values = {
            "id_": container,
            "state_": state.value,
            "ready_at_": now if state is ContainerState.READY else None,
            "stopped_at_": now if state is ContainerState.STOPPED else None,
            "reason_": reason,
            "pid_": pid,
        }
        return await self._write(lambda connection: self._statements.set_container_state.run(connection, values) == 1)

    async def containers(self, app: AppId | None = None, *, live_only: bool = False) -> list[ContainerRow]:
        query = _select(ContainerRow, tables.containers).order_by(tables.containers.c.created_at, tables.containers.c.id)
        if app is not None:
            query = query.where(tables.containers.c.app == app)
        if live_only:
            query = query.where(tables.STANDING)
        return await self._all(ContainerRow, query)

    def record(self, events: Sequence[EventRow]) -> None:
        if self._writer is not None:
            self._writer.record(events)

    async def events(self, entity: str) -> list[EventRow]:
        return await self._all(EventRow, _select(EventRow, tables.events).where(tables.events.c.entity == entity).order_by(tables.events.c.id))

    # --- deployments, schedules, tokens ---

    async def save_deployment(self, row: DeploymentRow) -> None:
        await self._write(lambda connection: self._statements.save(connection, tables.deployments, [_values(row)]))

    async def deployments(self, app: AppId) -> list[DeploymentRow]:
        return await self._all(
            DeploymentRow, _select(DeploymentRow, tables.deployments).where(tables.deployments.c.app == app).order_by(tables.deployments.c.version)
        )

    async def save_schedules(self, rows: Sequence[ScheduleRow]) -> None:
        await self._write(lambda connection: self._statements.save(connection, tables.schedules, [_values(row) for row in rows]))

    async def schedules(self) -> list[ScheduleRow]:
        return await self._all(ScheduleRow, _select(ScheduleRow, tables.schedules).order_by(tables.schedules.c.id))

    async def save_token(self, row: TokenRow) -> None:
        await self._write(lambda connection: self._statements.save(connection, tables.tokens, [_values(row)]))

    async def tokens(self) -> list[TokenRow]:
        return await self._all(TokenRow, _select(TokenRow, tables.tokens).order_by(tables.tokens.c.created_at))

    async def delete_token(self, token: str) -> bool:
        query = delete(tables.tokens).where(tables.tokens.c.id == token)
        return await self._write(lambda connection: connection.execute(query).rowcount == 1)

    # --- the two ways to the disk ---

    def _write(self, apply: Callable[[Connection], T], *, relaxed: bool = False) -> asyncio.Future[T]:
        if self._writer is None or self._closing is not None:
            raise ClientClosed("the store is not open")
        return self._writer.submit(apply, relaxed=relaxed)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        if self._reading is None or self._closing is not None:
            raise ClientClosed("the store is not open")

        def once() -> T:
            assert self._reading is not None
            if self._reading.closed:
                raise ConnectionError("the database does not answer")
            with translated("reading from the store"), self._reading.begin():
                return query(self._reading)

        def run() -> T:
            deadline = None
            while True:
                try:
                    return once()
                except ConnectionError:
                    deadline = deadline or self._clock() + GONE_S
                    if self._clock() > deadline:
                        raise
                    self._reconnect()

        return await asyncio.get_running_loop().run_in_executor(self._reader, run)

    def _reconnect(self) -> None:
        """The database went away: wait a moment, then try once."""
        assert self._reading is not None
        with suppress(Exception):
            self._reading.invalidate()
            self._reading.close()
        self._pause(GONE_PAUSE_S)
        with suppress(Error), translated("reading from the store"):
            self._connect_reader()

    async def _all(self, kind: type[Row], query: Select[Any]) -> list[Row]:
        return await self._read(lambda connection: _rows(connection, kind, query))

    async def _first(self, kind: type[Row], query: Select[Any]) -> Row | None:
        rows = await self._all(kind, query)
        return rows[0] if rows else None


def _rows(connection: Connection, kind: type[Row], query: Select[Any]) -> list[Row]:
    fields = kind.__struct_fields__
    return [msgspec.convert(dict(zip(fields, row, strict=True)), kind) for row in connection.execute(query)]


def _select(kind: type[msgspec.Struct], table: Table) -> Select[Any]:
    """The columns that make a row of this kind, in the order of its fields."""
    return select(*(table.c[name] for name in kind.__struct_fields__))


def _values(row: msgspec.Struct) -> dict[str, Any]:
    """A row as plain values by column: enums as their words, bytes as they are."""
    values: dict[str, Any] = msgspec.to_builtins(row, builtin_types=(bytes,))
    return values


def _claim_values(claim: Claim) -> dict[str, Any]:
    return {"call_": claim.call, "index_": claim.index, "token_": claim.token, "now_": claim.now}


def _outcome_values(outcome: Outcome) -> dict[str, Any]:
    status = outcome.status
    state = InputState.SUCCEEDED if status == OK else InputState.CANCELLED if status == CANCELLED else InputState.FAILED
    return {
        "call_": outcome.call, "index_": outcome.index, "token_": outcome.token, "state_": state.value, "status_": status, "output_": outcome.output,
        "now_": outcome.now, "expires_at_": outcome.expires_at,
    }  # fmt: skip
