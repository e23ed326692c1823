"""The schema: tables, and the indexes that the store's questions need. A change needs a revision in `migrations/versions`, named by `SCHEMA_VERSION`."""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint, text

#: The revision that these tables are. A test holds it against the newest file in `migrations/versions`.
SCHEMA_VERSION = "0005"

metadata = MetaData()

#: An id that is looked up by its beginning: compared byte by byte also where a PostgreSQL sorts by the rules of a language.
Id = String().with_variant(String(collation="C"), "postgresql")

apps = Table(
    "apps",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String),
    Column("description", String, nullable=False),
    Column("environment", String, nullable=False),
    Column("state", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("stopped_at", Double),
    Column("detached", Boolean, nullable=False),
)

functions = Table(
    "functions",
    metadata,
    Column("id", String, primary_key=True),
    Column("app", String, nullable=False, index=True),
    Column("tag", String, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("image", String),
    Column("created_at", Double, nullable=False),
)

# SQLite makes an INTEGER PRIMARY KEY the row's place in the file, so accepting appends, and recovery in order reads straight on. AUTOINCREMENT keeps
# a number from being used again, which `pending(after=...)` relies on.
inputs = Table(
    "inputs",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("call", Id, nullable=False),
    Column("index", Integer, nullable=False),
    Column("function", String, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("method", String, nullable=False),
    Column("parameters", LargeBinary, nullable=False),
    Column("parent", String, nullable=False),
    Column("state", String, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("platform_retries", Integer, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("status", Integer),
    Column("output", LargeBinary),
    Column("expires_at", Double),
    UniqueConstraint("call", "index", name="uq_inputs_call_index"),
    sqlite_autoincrement=True,
)

# Partial indexes: as large as what is live or will expire, not as the history. A database uses one only for a condition that visibly implies the
# index's own, so queries write these very texts, with the words in them and not as parameters. PostgreSQL's conditions stand in the revisions only:
# naming them here would load its dialect, 25 ms of every start.
LIVE = text("state IN ('queued', 'running')")
EXPIRING = text("expires_at IS NOT NULL AND state NOT IN ('queued', 'running', 'expired')")
EXPIRED = text("expires_at IS NOT NULL AND state = 'expired'")
STANDING = text("state != 'stopped'")
STOPPED = text("state = 'stopped'")
Index("ix_inputs_live", inputs.c.sequence, inputs.c.token, sqlite_where=LIVE)
Index("ix_inputs_expires_at", inputs.c.expires_at, sqlite_where=EXPIRING)
Index("ix_inputs_expired", inputs.c.expires_at, sqlite_where=EXPIRED)
Index("ix_apps_stopped", apps.c.stopped_at, sqlite_where=STOPPED)

containers = Table(
    "containers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("app", String, nullable=False, index=True),
    Column("function", String, nullable=False),
    Column("state", String, nullable=False),
    Column("image", String),
    Column("created_at", Double, nullable=False),
    Column("ready_at", Double),
    Column("stopped_at", Double),
    Column("reason", String),
    Column("pid", Integer),
)
Index("ix_containers_live", containers.c.created_at, sqlite_where=STANDING)
Index("ix_containers_stopped", containers.c.stopped_at, sqlite_where=STOPPED)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("time", Double, nullable=False),
    Column("entity", String, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("detail", String, nullable=False),
)

history = Table(
    "history",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("time", Double, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", String, primary_key=True),
    Column("app", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("tag", String, nullable=False),
    Column("note", String, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    UniqueConstraint("app", "version", name="uq_deployments_app_version"),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", String, primary_key=True),
    Column("app", String, nullable=False, index=True),
    Column("since", Double, nullable=False),
    Column("last_at", Double),
    Column("paused", Boolean, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("created_at", Double, nullable=False),
)

objects = Table(
    "objects",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("environment", String, nullable=False),
    Column("name", String),
    Column("created_at", Double, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("used_at", Double),
    UniqueConstraint("kind", "environment", "name", name="uq_objects_name"),
)

dict_items = Table(
    "dict_items",
    metadata,
    Column("dict", String, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("touched_at", Double, nullable=False, index=True),
)

queue_items = Table(
    "queue_items",
    metadata,
    Column("queue", String, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("partition", String, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("expires_at", Double, nullable=False),
)
