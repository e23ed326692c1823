"""The store's writes, each compiled once. Names of values end in ``_``, so that they never meet a column's."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Dialect, Table, and_, func, update

from squall.store import tables
from squall.store.prepared import Prepared, parameter
from squall.store.rows import EventRow
from squall.store.sql_objects import insert_for
from squall.wire.messages import CANCELLED

#: Tables whose rows are saved by their id.
_KEYED = (tables.apps, tables.functions, tables.containers, tables.deployments, tables.schedules, tables.tokens)


class Statements:
    """Prepared for one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._upserts = {table.name: Prepared(_upsert(table, dialect), dialect) for table in _KEYED}
        insert = insert_for(dialect)
        rows = tables.inputs
        one = and_(rows.c.call == parameter("call_"), rows.c.index == parameter("index_"))
        this_attempt = and_(one, rows.c.token == parameter("token_"))
        given = {column.name: parameter(column.name) for column in rows.c if column is not rows.c.sequence}
        self.accept = Prepared(insert(rows).values(given).on_conflict_do_nothing(index_elements=["call", "index"]), dialect)
        self.claim = Prepared(
            update(rows)
            .where(one, tables.LIVE, rows.c.token < parameter("token_"))
            .values(state="running", token=parameter("token_"), attempts=rows.c.attempts + 1, started_at=parameter("now_")),
            dialect,
        )
        self.finish = Prepared(
            update(rows)
            .where(this_attempt, tables.LIVE)
            .values(
                state=parameter("state_"),
                status=parameter("status_"),
                output=parameter("output_"),
                data=b"",
                finished_at=parameter("now_"),
                expires_at=parameter("expires_at_"),
            ),
            dialect,
        )
        self.requeue = Prepared(
            update(rows)
            .where(this_attempt, rows.c.state == "running")
            .values(state="queued", platform_retries=rows.c.platform_retries + parameter("platform_")),
            dialect,
        )
        self.cancel = Prepared(
            update(rows)
            .where(one, tables.LIVE)
            .values(state="cancelled", status=CANCELLED, data=b"", output=b"", finished_at=parameter("now_"), expires_at=parameter("expires_at_")),
            dialect,
        )
        apps = tables.apps
        self.set_app_state = Prepared(
            update(apps)
            .where(apps.c.id == parameter("id_"), apps.c.state != "stopped", apps.c.state != parameter("state_"))
            .values(state=parameter("state_"), stopped_at=parameter("stopped_at_")),
            dialect,
        )
        boxes = tables.containers
        self.set_container_state = Prepared(
            update(boxes)
            .where(boxes.c.id == parameter("id_"), boxes.c.state != "stopped")
            .values(
                state=parameter("state_"),
                ready_at=func.coalesce(boxes.c.ready_at, parameter("ready_at_")),
                stopped_at=parameter("stopped_at_"),
                reason=func.coalesce(parameter("reason_"), boxes.c.reason),
                pid=func.coalesce(parameter("pid_"), boxes.c.pid),
            ),
            dialect,
        )
        self._record = Prepared(insert(tables.events).values({name: parameter(name) for name in ("time", "entity", "kind", "detail")}), dialect)

    def save(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, or replace those with their ids."""
        self._upserts[table.name].run_many(connection, rows)

    def record(self, connection: Connection, events: Sequence[EventRow]) -> None:
        if events:
            self._record.run_many(connection, [msgspec.structs.asdict(event) for event in events])


def _upsert(table: Table, dialect: Dialect) -> Any:
    statement = insert_for(dialect)(table).values({column.name: parameter(column.name) for column in table.columns})
    changes = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
    return statement.on_conflict_do_update(index_elements=["id"], set_=changes)
