"""docs/state.md, volumes.md and database.md, each followed by a reader at a shell: every example runs, and prints what it says it does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.documents import Reader, environment
from support.s3 import S3

from .conftest import SQUALL, make_data_directory, stop_server

pytestmark = pytest.mark.root

DOCS = Path(__file__).parents[2] / "docs"
#: And how many commands it has at least.
PAGES = {"state": 15, "volumes": 20, "database": 8}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    data = make_data_directory()
    s3 = S3()
    s3.make_bucket("things")
    reader = Reader(tmp_path_factory.mktemp("documents"), environment(data, SQUALL), {"https://storage.example.com": s3.url})
    yield reader
    reader.close()
    s3.stop()
    stop_server(data)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of(reader: Reader, page: str) -> None:
    assert reader.follow((DOCS / f"{page}.md").read_text()) >= PAGES[page]
