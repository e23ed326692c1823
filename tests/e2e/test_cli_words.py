"""Words of the command line about apps, functions and containers that are there."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import SQUALL, Runner

pytestmark = pytest.mark.root

PROGRAM = """
import squall

app = squall.App("words")
gate = squall.Queue.from_name("words-gate", create_if_missing=True)


@app.function()
def lines(n: int = 5):
    for number in range(n):
        print("line", number)
    gate.get()
    print("after")


@app.function()
def add(a: int, b: int = 1) -> int:
    return a + b


def plain():
    return 1


@app.local_entrypoint()
def forgets():
    add.remote.aio(1)


@app.local_entrypoint()
async def forgets_too():
    add.remote.aio(1)


@app.local_entrypoint()
def undecorated():
    plain.remote()
"""


@pytest.fixture(scope="module")
def words(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Runs commands beside the program; its app is deployed."""
    runner = Runner(data, tmp_path_factory.mktemp("words"))
    runner.program("words.py", PROGRAM)
    deployed = runner("deploy", "words.py")
    assert deployed.returncode == 0, deployed.stderr
    yield runner
    runner("app", "stop", "words")


def done(runner: Runner, *argv: str) -> str:
    ran = runner(*argv)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("entrypoint", ["forgets", "forgets-too"])
def test_a_call_that_was_not_awaited_is_an_error(words: Runner, entrypoint: str) -> None:
    ran = words("run", f"words.py::{entrypoint.replace('-', '_')}")
    assert ran.returncode == 1
    assert "add.remote.aio(1)" in ran.stderr
    assert "was not awaited" in ran.stderr
    assert "RuntimeWarning" not in ran.stderr


def test_a_function_without_decorator_is_told_to_get_one(words: Runner) -> None:
    ran = words("run", "words.py::undecorated")
    assert ran.returncode == 1
    assert "plain is a plain function" in ran.stderr
    ran = words("run", "words.py::plain")
    assert ran.returncode == 1
    assert "put  @app.function()  above it" in ran.stderr


@pytest.mark.parametrize("search", [(), ("--search", "e")])
def test_the_last_lines_and_then_what_comes(words: Runner, search: tuple[str, ...]) -> None:
    import squall

    gate = squall.Queue.from_name("words-gate", create_if_missing=True)
    call = squall.Function.from_name("words", "lines").spawn()
    with words.popen("app", "logs", "words", "--follow", "--call", call.object_id) as first:
        while first.stdout.readline() != "line 4\n":
            pass
        with words.popen("app", "logs", "words", "--follow", "--tail", "2", "--call", call.object_id, *search) as logs:
            assert [logs.stdout.readline(), logs.stdout.readline()] == ["line 3\n", "line 4\n"]
            gate.put(1)
            assert logs.stdout.readline() == "after\n"
            logs.terminate()
        first.terminate()
    call.get(timeout=30)


def test_logs_end_quietly_where_nobody_reads_them(words: Runner) -> None:
    import squall

    squall.Queue.from_name("words-gate", create_if_missing=True).put(1)
    squall.Function.from_name("words", "lines").remote(100_000)
    line = f"{SQUALL} app logs words | head -n 1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", line], env=words.env, capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[1] == "141"
    assert ran.stderr == ""


@pytest.mark.parametrize("name", ["add", "words.add", "words::add", "words/add"])
def test_a_function_is_found_by_what_listings_print(words: Runner, name: str) -> None:
    assert done(words, "function", "inspect", name).splitlines()[0].split() == ["function", "add"]
    wrong = words("function", "inspect", f"{name}x")
    assert wrong.returncode == 1
    assert "squall function list" in wrong.stderr
