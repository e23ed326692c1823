"""docs/deploy.md, web.md, schedules.md and http-api.md, each followed by a reader at a shell: every example runs, and prints what it says it does."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.documents import Reader, agrees, environment, steps

from .conftest import SQUALL, Runner, make_data_directory, stop_server

pytestmark = pytest.mark.root

DOCS = Path(__file__).parents[2] / "docs"
#: And how many commands it has at least.
PAGES = {"deploy": 10, "web": 3, "schedules": 5, "http-api": 8}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """At a shell with a server of its own; the documents call its port 8484, which on this machine may be somebody else's."""
    data = make_data_directory()
    env = environment(data, SQUALL)
    folder = tmp_path_factory.mktemp("documents")
    runner = Runner(data, folder)
    assert runner("server", "start", "--web", "127.0.0.1:0").returncode == 0
    listening = json.loads(runner("server", "status", "--json").stdout)["listening"]
    port = next(place.rpartition(":")[2] for place in listening if place.startswith("web "))
    reader = Reader(folder, env, {"8484": port})
    yield reader
    reader.close()
    stop_server(data)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of(reader: Reader, page: str) -> None:
    assert reader.follow((DOCS / f"{page}.md").read_text()) >= PAGES[page]


def test_a_document_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    reader = Reader(tmp_path, dict(os.environ), {})
    try:
        assert reader.follow("```console\n$ echo one; echo two\none\n…\n$ A=5\n$ echo $A\n5\n```\n") == 3
        with pytest.raises(AssertionError, match="instead of"):
            reader.follow("```console\n$ echo one\ntwo\n```\n")
        with pytest.raises(AssertionError, match="status 1"):
            reader.follow("```console\n$ false\n```\n")
    finally:
        reader.close()
    with pytest.raises(ValueError, match="line 3: a Python block"):
        steps("\n```python\nx = 1\n```\n")
    assert not agrees("a b", "a b c")
