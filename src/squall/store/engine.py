"""Opening the database: connections set up as the contract needs them, the schema brought up to date, and the driver's errors in Squall's words."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from squall.model.errors import ConflictError, ConnectionError, DataLossError, Error, InternalError, InvalidError, ResourceExhaustedError, VersionError
from squall.store.tables import SCHEMA_VERSION

#: A second server on the same file may be finishing; longer than a commit on a slow disk takes.
BUSY_TIMEOUT_MS = 5_000

#: Key of the advisory lock that a server holds on a PostgreSQL database; any number that others are unlikely to use.
_LOCK = 0x5371_7561_6C6C
#: What pg_xact_status says of a number that no transaction has had.
_IN_THE_FUTURE = "22023"
#: A server that has lost its client sees that when it has done what it was told last.
_END_PAUSE_S = 0.05


def make_engine(place: Path | str) -> Engine:
    """An engine for a SQLite file or the URL of a database, whose every `connect` is a new connection for the thread that asks.

    Raises:
        InvalidError: a URL of another database, or its driver is not installed.
    """
    if isinstance(place, Path):
        return _sqlite(place)
    try:
        url = make_url(place)
    except ArgumentError as error:
        raise InvalidError("SQUALL_DATABASE_URL is no URL; write postgresql://USER:PASSWORD@HOST/DATABASE") from error
    if url.get_backend_name() == "sqlite" and url.database:
        return _sqlite(Path(url.database))
    if url.get_backend_name() != "postgresql":
        raise InvalidError(f"SQUALL_DATABASE_URL names {url.get_backend_name()}; there are postgresql and sqlite")
    try:
        return create_engine(url.set(drivername="postgresql+psycopg"), poolclass=NullPool)
    except ModuleNotFoundError as error:
        raise InvalidError('PostgreSQL needs its driver: pip install "squall[postgres]"') from error


def _sqlite(path: Path) -> Engine:
    """WAL: readers see the last commit and never wait for the writer. FULL: a commit is on the disk when it returns
    (sqlite.org/pragma.html#pragma_synchronous).
    """
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # Transactions begin below, not by the driver's guess from the statement.
        # The first has an effect only on a new file: it can give back to the file system what deleted rows leave.
        for pragma in ("auto_vacuum = INCREMENTAL", f"busy_timeout = {BUSY_TIMEOUT_MS}", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the lock at once: one that upgrades from reading can be refused without waiting.
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads_only") else "BEGIN IMMEDIATE")

    return engine


def claim(connection: Connection) -> None:
    """On PostgreSQL: the database is this server's until the connection ends. Two servers would hand out the same inputs. A file is guarded by its directory.

    Raises:
        ConflictError: another server has it.
    """
    if connection.dialect.name == "postgresql":
        with connection.begin():
            if not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_LOCK})").scalar():
                raise ConflictError("another Squall server uses this database")


def relax(connection: Connection, relaxed: bool) -> None:
    """Of the connection's next transactions: whether their commits return before the disk has them. Called between transactions.

    Not on PostgreSQL: with its `synchronous_commit` off, a commit is lost already when the database process dies, and not only when its machine does.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name != "postgresql":
        driver.execute(f"PRAGMA synchronous = {'NORMAL' if relaxed else 'FULL'}")


def transaction(connection: Connection) -> str | None:
    """What `committed` knows the transaction under way by; None on SQLite, where a commit that returns no answer can't be."""
    if connection.dialect.name != "postgresql":
        return None
    return str(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar())


def committed(connection: Connection, of: str) -> bool:
    """Whether a transaction of another connection, which was lost meanwhile, came to its end. Waits while that is open."""
    while True:
        with translated("asking for the end of a transaction"):
            try:
                with connection.begin():
                    state = connection.exec_driver_sql("SELECT pg_xact_status(%s::xid8)", (of,)).scalar()
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != _IN_THE_FUTURE:
                    raise
                return False  # the database crashed before it had written that there was such a transaction
        if state != "in progress":
            return bool(state == "committed")
        sleep(_END_PAUSE_S)


def sync(place: Path | str) -> None:
    """Bring what relaxed commits wrote to the disk: all of it lies in SQLite's write-ahead log. PostgreSQL has no relaxed ones."""
    if isinstance(place, str):
        return
    with suppress(FileNotFoundError):
        log = os.open(f"{place}-wal", os.O_RDONLY)
        try:
            os.fsync(log)
        finally:
            os.close(log)


def ensure_schema(engine: Engine) -> None:
    """Bring the schema to `SCHEMA_VERSION`. Alembic is imported only if there is something to do: its import takes 0.2 s.

    Raises:
        VersionError: a newer Squall wrote it.
    """
    with engine.connect() as connection, connection.begin():
        known = inspect(connection).has_table("alembic_version")
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if known else None
        if version == SCHEMA_VERSION:
            return
        from squall.store.migrate import upgrade

        if not upgrade(connection):
            raise VersionError(f"the database has schema {version}, which this version of Squall does not know: a newer one wrote it")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Errors of the driver leave as Squall's, with what was being done."""
    try:
        yield
    except DBAPIError as error:
        raise _translate(error.orig if error.orig is not None else error, doing) from error
    except sqlite3.Error as error:
        raise _translate(error, doing) from error
    except Exception as error:
        if not hasattr(error, "sqlstate"):  # what psycopg's errors have; its import would cost every start
            raise
        raise _translate(error, doing) from error


def _translate(error: BaseException, doing: str) -> Error:
    if hasattr(error, "sqlstate"):
        return _translate_postgres(error, doing)
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
        return ResourceExhaustedError(f"{doing}: no room on the disk ({error})")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return InvalidError(f"{doing}: can't be opened or written to ({error})")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return DataLossError(f"{doing}: damaged, or not a database ({error})")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return ConflictError(f"{doing}: another process has it open for writing")
    return InternalError(f"{doing}: {error}")


def _translate_postgres(error: BaseException, doing: str) -> Error:
    """By the class of its SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html); None: it does not answer."""
    state = getattr(error, "sqlstate", None) or "08"
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if state.startswith(("08", "57P")):
        return ConnectionError(f"{doing}: the database does not answer ({text})")
    if state.startswith("53"):
        return ResourceExhaustedError(f"{doing}: {text}")
    if state.startswith(("28", "3D", "42501")):
        return InvalidError(f"{doing}: {text}")
    return InternalError(f"{doing}: {text}")
