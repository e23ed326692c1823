"""The databases that the store's suites run over."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from squall.store.sql import SqlStore
from support.postgres import Postgres, programs


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Where it is not installed its tests are skipped, but not in CI."""
    if programs() is None and not os.environ.get("CI"):
        pytest.skip("needs PostgreSQL: apt install postgresql")
    server = Postgres()
    server.start()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SqlStore]:
    """Makes a store on the same data each time."""
    if request.param == "sqlite":
        return lambda: SqlStore(tmp_path / "store.db")
    server: Postgres = request.getfixturevalue("postgres")
    url = server.make(f"d{abs(hash(str(tmp_path)))}")
    return lambda: SqlStore(url)
