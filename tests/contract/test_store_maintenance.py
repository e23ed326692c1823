"""Schemas of every release brought up to date, also when that is interrupted; backups and what comes back from them. On both databases."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from squall.model.errors import ConflictError, DataLossError, InvalidError, NotFoundError, VersionError
from squall.model.ids import CallId, FunctionId
from squall.store.engine import ensure_schema, make_engine
from squall.store.maintenance import backup, migrate, restore, version
from squall.store.migrate import config
from squall.store.objects import ObjectRow
from squall.store.rows import InputRow
from squall.store.sql import SqlStore
from squall.store.tables import SCHEMA_VERSION
from support.postgres import Postgres

REVISIONS = [path.name[:4] for path in sorted((Path(__file__).parents[2] / "src/squall/store/migrations/versions").glob("0*.py"))]

#: Something in a table that every schema has.
OLD = "INSERT INTO apps (id, name, description, environment, state, created_at, detached) VALUES ('ap-old', 'old', 'old', 'main', 'stopped', 1.0, false)"


@pytest.fixture(params=["sqlite", "postgres"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path | str]:
    """Gives an empty database of a name."""
    if request.param == "sqlite":
        return lambda name: tmp_path / f"{name}.db"
    server: Postgres = request.getfixturevalue("postgres")
    known: dict[str, str] = {}
    return lambda name: known.setdefault(name, server.make(f"{name}{abs(hash(str(tmp_path)))}"))


def at(place: Path | str, revision: str) -> None:
    """Make the database as the release with this schema did, and put something in."""
    from alembic import command

    engine = make_engine(place)
    settings = config()
    with engine.connect() as connection, connection.begin():
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)
        connection.execute(text(OLD))
    engine.dispose()


def found(place: Path | str, sql: str) -> list[tuple[object, ...]]:
    engine = make_engine(place)
    try:
        with engine.connect() as connection, connection.begin():
            return [tuple(row) for row in connection.execute(text(sql))]
    finally:
        engine.dispose()


def version_of(place: Path | str) -> str | None:
    engine = make_engine(place)
    try:
        return version(engine)
    finally:
        engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_released_schema_comes_up_to_date_with_what_is_in_it(fresh: Callable[[str], Path | str], revision: str) -> None:
    place = fresh("old")
    at(place, revision)
    assert migrate(place) == (revision, SCHEMA_VERSION)
    assert migrate(place) == (SCHEMA_VERSION, SCHEMA_VERSION)
    assert found(place, "SELECT id, name FROM apps") == [("ap-old", "old")]

    async def use() -> None:
        store = SqlStore(place)
        await store.open()
        await store.create_object(ObjectRow("vo-1", "volume", "main", "v", 1.0))
        assert [app.id for app in await store.apps()] == ["ap-old"]
        await store.close()

    asyncio.run(use())


class Interrupted(Exception):
    pass


@contextmanager
def failing(nth: int) -> Iterator[list[int]]:
    """The nth thing that a revision does fails."""
    from alembic import op

    done = [0]
    names = ("create_table", "create_index", "add_column", "batch_alter_table", "execute")
    before = {name: getattr(op, name) for name in names}

    def counted(name: str) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            done[0] += 1
            if done[0] == nth:
                raise Interrupted
            return before[name](*args, **kwargs)

        return run

    for name in names:
        setattr(op, name, counted(name))
    try:
        yield done
    finally:
        for name in names:
            setattr(op, name, before[name])


def test_a_migration_that_fails_at_any_step_leaves_the_old_schema_whole(fresh: Callable[[str], Path | str]) -> None:
    place = fresh("failing")
    at(place, "0001")
    nth = 0
    while True:
        nth += 1
        engine = make_engine(place)
        try:
            with failing(nth) as done:
                ensure_schema(engine)
            break
        except Interrupted:
            assert version(engine) == "0001"
        finally:
            engine.dispose()
    assert nth > 5
    assert done[0] == nth - 1
    assert version_of(place) == SCHEMA_VERSION
    assert found(place, "SELECT id FROM apps") == [("ap-old",)]


def test_a_migration_that_is_killed_half_way_is_done_again(fresh: Callable[[str], Path | str]) -> None:
    place = fresh("killed")
    at(place, "0001")
    program = f"""
import os, signal
from alembic import op
from pathlib import Path
from squall.store.maintenance import migrate
real = op.create_index
def create_index(*args, **kwargs):
    real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
op.create_index = create_index
migrate({str(place)!r} if {isinstance(place, str)} else Path({str(place)!r}))
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert version_of(place) == "0001"
    assert migrate(place) == ("0001", SCHEMA_VERSION)
    assert found(place, "SELECT id FROM apps") == [("ap-old",)]


async def test_a_backup_is_one_moment_of_a_database_in_use(fresh: Callable[[str], Path | str], tmp_path: Path) -> None:
    place, target = fresh("used"), tmp_path / "backup"
    store = SqlStore(place)
    await store.open()
    stop = asyncio.Event()
    accepted = 0

    async def load() -> None:
        nonlocal accepted
        while not stop.is_set():
            await store.accept([InputRow(CallId(f"fc-{accepted}"), index, FunctionId("fu-1"), b"x" * 100, 1.0) for index in range(3)])
            accepted += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        while accepted < 50:
            await asyncio.sleep(0.01)
        before = accepted
        await asyncio.to_thread(backup, place, target)
        stop.set()
    if isinstance(place, str):
        with pytest.raises(ConflictError, match="another Squall server"):
            await asyncio.to_thread(restore, place, target)
    await store.close()
    other = fresh("other")
    await asyncio.to_thread(restore, other, target)
    calls = found(other, "SELECT call, count(*) FROM inputs GROUP BY call")
    assert len(calls) >= before
    assert {count for _, count in calls} == {3}  # no call is there in part
    assert target.stat().st_mode & 0o777 == 0o600
    # Over a database that has something, and an old one.
    await asyncio.to_thread(restore, place, target)
    assert len(found(place, "SELECT DISTINCT call FROM inputs")) == len(calls)
    if isinstance(place, Path):
        assert len(found(place.with_name(f"{place.name}.before"), "SELECT DISTINCT call FROM inputs")) == accepted
        assert sorted(path.name for path in tmp_path.iterdir() if "restoring" in path.name or "part" in path.name) == []
    old = fresh("aged")
    at(old, "0001")
    await asyncio.to_thread(backup, old, target)
    await asyncio.to_thread(restore, place, target)
    assert (version_of(place), found(place, "SELECT id FROM apps")) == (SCHEMA_VERSION, [("ap-old",)])


def test_what_is_no_backup_is_refused_and_changes_nothing(fresh: Callable[[str], Path | str], tmp_path: Path) -> None:
    place = fresh("kept")
    at(place, "0001")
    wrong = tmp_path / "wrong"
    wrong.write_bytes(os.urandom(5000))
    with pytest.raises((DataLossError, InvalidError)):
        restore(place, wrong)
    with pytest.raises(NotFoundError):
        restore(place, tmp_path / "nothing")
    good = tmp_path / "good"
    backup(place, good)
    content = bytearray(good.read_bytes())
    content[len(content) // 3 :] = os.urandom(len(content) - len(content) // 3)
    wrong.write_bytes(bytes(content))
    with pytest.raises((DataLossError, InvalidError)):
        restore(place, wrong)
    assert found(place, "SELECT id FROM apps") == [("ap-old",)]
    with pytest.raises(InvalidError, match="no directory"):
        backup(place, tmp_path / "none" / "x")
    engine = make_engine(place)
    with engine.connect() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    backup(place, wrong)
    with pytest.raises(VersionError, match="9999"):
        restore(fresh("target"), wrong)
    with pytest.raises(VersionError, match="9999"):
        migrate(place)
