"""What is done to a database while no server uses it, or beside one: bring its schema up to date, back it up, restore it."""

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, make_url, text
from sqlalchemy import inspect as look

from squall.model.errors import ConflictError, DataLossError, InvalidError, NotFoundError, UnsupportedError, VersionError
from squall.store.engine import claim, ensure_schema, make_engine, translated
from squall.store.tables import SCHEMA_VERSION, metadata

Place = Path | str


def migrate(place: Place) -> tuple[str | None, str]:
    """Bring the schema up to date, all or nothing; the version before (None: a new database) and after.

    Raises:
        VersionError: a newer Squall wrote it.
        ConflictError: a server uses it.
    """
    with _engine(place) as engine, translated("migrating the database"), engine.connect() as guard:  # on PostgreSQL: nobody else meanwhile
        claim(guard)
        before = version(engine)
        ensure_schema(engine)
    return before, SCHEMA_VERSION


def version(engine: Engine) -> str | None:
    """The schema's version; None of a database without one."""
    with engine.connect() as connection, connection.begin():
        if not look(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return found


def backup(place: Place, target: Path) -> None:
    """Write the database as it is at one moment to a file, while a server may use it. The file appears complete and on disk.

    Raises:
        InvalidError: there is no database, or no directory for the file.
        UnsupportedError: pg_dump(1) is missing.
        DataLossError: the database is damaged.
    """
    part = target.with_name(f"{target.name}.part")
    if not target.parent.is_dir():
        raise InvalidError(f"there is no directory {target.parent}")
    try:
        if isinstance(place, Path):
            if not place.exists():
                raise InvalidError(f"there is no database yet ({place})")
            part.unlink(missing_ok=True)
            with translated(f"backing up {place}"), contextlib.closing(sqlite3.connect(place)) as source, contextlib.closing(sqlite3.connect(part)) as copy:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
            _check(part)
        else:
            _run("pg_dump", ["--format=custom", "--no-owner", f"--file={part}"], place)
        part.chmod(0o600)
        _sync(part)
        os.replace(part, target)
        _sync(target.parent)
    finally:
        part.unlink(missing_ok=True)


def restore(place: Place, source: Path) -> None:
    """Put the database of a backup in place of what is there. No server may use it. All or nothing; an older backup is brought up to date.

    A SQLite database that was there stays beside it, with ``.before`` at the end of its name.

    Raises:
        NotFoundError, InvalidError: no such file; it is no backup of this kind of database.
        VersionError: a newer Squall wrote it.
        UnsupportedError: pg_restore(1) or psql(1) is missing.
        ConflictError: a server uses the database.
    """
    if not source.is_file():
        raise NotFoundError(f"there is no file {source}")
    if isinstance(place, str):
        if source.read_bytes()[:5] != b"PGDMP":
            raise InvalidError(f"{source} is no backup of a PostgreSQL database; squall server backup writes one")
        with _engine(place) as engine, engine.connect() as guard:
            claim(guard)
            guard.rollback()
            # All of ours goes first, tables that the backup does not know too; in one transaction with what comes.
            drop = "".join(f'DROP TABLE IF EXISTS "{name}" CASCADE;\n' for name in (*metadata.tables, "alembic_version"))
            script = drop + _run("pg_restore", ["--no-owner", "--file=-", str(source)], place)
            _run("psql", ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"], place, script)
        migrate(place)
        return
    fresh = place.with_name(f"{place.name}.restoring")
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        found = _check(source)
        if found > SCHEMA_VERSION:
            raise VersionError(f"{source} has schema {found}, which this version of Squall does not know: a newer one wrote it")
        with contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old, contextlib.closing(sqlite3.connect(fresh)) as new:
            old.backup(new)
        migrate(fresh)
        _settle(fresh)
        _sync(fresh)
        if place.exists():
            _settle(place)
            os.replace(place, place.with_name(f"{place.name}.before"))
        os.replace(fresh, place)
        _sync(place.parent)
    finally:
        for end in ("", "-wal", "-shm"):
            place.with_name(f"{fresh.name}{end}").unlink(missing_ok=True)


@contextlib.contextmanager
def _engine(place: Place) -> Iterator[Engine]:
    engine = make_engine(place)
    try:
        yield engine
    finally:
        engine.dispose()


def _check(path: Path) -> str:
    """The schema's version.

    Raises:
        DataLossError: damaged, or no database of Squall.
    """
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            said = database.execute("PRAGMA quick_check").fetchone()[0]
            (found,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.Error as error:
            raise DataLossError(f"{path} is damaged, or no database of Squall ({error})") from error
    if said != "ok":
        raise DataLossError(f"{path} is damaged: {said}")
    return str(found)


def _settle(path: Path) -> None:
    """Everything into the one file: the write-ahead log beside it would belong to another one after a rename."""
    with translated(f"closing {path}"), contextlib.closing(sqlite3.connect(path)) as database:
        busy = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise ConflictError(f"{path} is in use")


def _run(program: str, argv: list[str], url: str, given: str = "") -> str:
    """What a program of PostgreSQL says about this database. How to connect travels in variables: arguments are seen by everybody."""
    made = make_url(url)
    host = made.host or made.query.get("host")
    known = {"PGHOST": host, "PGPORT": made.port, "PGUSER": made.username, "PGPASSWORD": made.password, "PGDATABASE": made.database}
    env = {**os.environ, **{name: str(value) for name, value in known.items() if value}}
    try:
        done = subprocess.run([program, *argv], env=env, input=given, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UnsupportedError(f"{program} is not installed here: apt install postgresql-client") from error
    if done.returncode:
        raise InvalidError(f"{program}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
