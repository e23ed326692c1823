"""Words of the command line about apps, functions and containers that are there."""

import json
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.waiting import wait_until

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


def test_a_shell_with_what_it_is_given(words: Runner) -> None:
    (words.folder / "note.txt").write_text("a note\n")
    (words.folder / "notes").mkdir()
    (words.folder / "notes" / "one").write_text("the first\n")
    done(words, "secret", "create", "words-secret", "WORD=hidden")
    done(words, "volume", "create", "words-volume", "--version", "2")
    flags = ["--secret", "words-secret", "--volume", "words-volume", "--add-local", "note.txt", "--add-local", "notes", "--cpu", "0.5", "--memory", "256"]
    said = done(words, "shell", *flags, "-c", "echo $WORD; cat /mnt/note.txt /mnt/notes/one; echo kept > /mnt/words-volume/it")
    assert said == "hidden\na note\nthe first\n"
    assert "it" in done(words, "volume", "ls", "words-volume").split()
    done(words, "volume", "delete", "words-volume", "--yes")
    done(words, "secret", "delete", "words-secret", "--yes")


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["shell", "words.py::add", "--gpu", "A100", "-c", "true"], "--gpu: words.py::add has what it declares"),
        (["shell", "--runtime", "vm", "-c", "true"], "runtime='vm'"),
        (["run", "--interactive", "words.py::add", "--a", "1"], "squall shell"),
        (["deploy", "--staged", "words.py"], "squall deploy --staged is not supported"),
        (["volume", "create", "words-volume", "--version", "3"], "version=3"),
        (["app", "dashboard", "words"], "squall app info words"),
        (["app", "promote", "words", "1"], "squall app rollback words 1"),
        (["function", "metrics", "words.add", "--csv"], "squall function stats words.add"),
        (["container", "logs", "ct-0", "--all", "--tail", "1"], "choose one"),
    ],
)
def test_what_can_not_be_is_refused_by_name(words: Runner, argv: list[str], word: str) -> None:
    ran = words(*argv)
    assert ran.returncode in (1, 2)
    assert word in ran.stderr


def test_a_shell_says_what_it_waits_for(words: Runner) -> None:
    with words.popen("shell", "--gpu", "H100", "-c", "true") as waiting:
        while "GPU" not in (line := waiting.stderr.readline()):
            assert line
        assert "waits for 1 H100 GPU" in line
        waiting.terminate()


def test_the_time_before_each_line(words: Runner) -> None:
    import squall

    squall.Queue.from_name("words-gate", create_if_missing=True).put(1)
    ran = words("run", "-q", "--timestamps", "words.py::lines", "--n", "1")
    assert [line.split(" ", 2)[2] for line in ran.stdout.splitlines()] == ["line 0", "after"]
    assert ran.stdout.startswith("20")


def test_a_deployment_under_another_name_whose_logs_are_shown(words: Runner) -> None:
    import squall

    with words.popen("deploy", "--name", "words-two", "--stream-logs", "--timestamps", "words.py") as deploying:
        while "is live" not in deploying.stderr.readline():
            pass
        gate = squall.Queue.from_name("words-gate", create_if_missing=True)
        lines = squall.Function.from_name("words-two", "lines")
        for _ in range(20):  # its logs are those from the moment at which they are asked for
            gate.put(1)
            lines.remote(1)
            if select.select([deploying.stdout], [], [], 0.5)[0]:
                break
        assert "line 0" in deploying.stdout.readline() or "after" in deploying.stdout.readline()
        deploying.send_signal(signal.SIGINT)
        deploying.wait(timeout=20)
    done(words, "app", "stop", "words-two")


def test_facts_and_statistics_of_an_app_and_a_function(words: Runner) -> None:
    import squall

    add = squall.Function.from_name("words", "add")
    assert list(add.map(range(7))) == list(range(1, 8))
    with pytest.raises(TypeError):
        add.remote("no number")
    info = json.loads(done(words, "app", "info", "words", "--json"))
    assert (info["name"], info["state"], info["version"]) == ("words", "deployed", 1)
    assert {row["function"] for row in info["functions"]} == {"add", "lines"}
    assert "add" in done(words, "app", "info", "words")
    stats = json.loads(done(words, "function", "stats", "words.add", "--json"))
    assert (stats["inputs"], stats["succeeded"], stats["failed"]) == (8, 7, 1)
    assert stats["ran_median_s"] <= stats["ran_p95_s"] <= stats["ran_max_s"]
    assert json.loads(done(words, "app", "stats", "words", "--json"))["inputs"] >= 8
    assert json.loads(done(words, "app", "stats", "words", "--until", "2001-01-01", "--json"))["inputs"] == 0
    calls = json.loads(done(words, "function", "calls", "words.add", "-n", "3", "--json"))
    assert [row["function"] for row in calls] == ["add"] * 3
    assert "SUCCEEDED" in done(words, "function", "calls", "words.add").upper()


def test_the_autoscaler_of_a_function(words: Runner) -> None:
    done(words, "function", "autoscaler", "update", "words.add", "--max-containers", "3", "--scaledown-window", "30")
    found = json.loads(done(words, "function", "autoscaler", "settings", "words.add", "--json"))
    assert (found["max_containers"], found["scaledown_window_s"]) == (3, 30)
    wrong = words("function", "autoscaler", "update", "words.add", "--min-containers", "4", "--max-containers", "3")
    assert wrong.returncode == 1
    assert "more than" in wrong.stderr


def test_variants_and_their_logs(words: Runner) -> None:
    import squall

    squall.Queue.from_name("words-gate", create_if_missing=True).put(1)
    squall.Function.from_name("words", "lines").with_options(cpu=0.2).remote(n=0)
    (variant,) = json.loads(done(words, "function", "variants", "words.lines", "--json"))
    assert variant["cpu"] == 0.2
    assert json.loads(done(words, "function", "variants", "words.add", "--json")) == []
    both, base = done(words, "function", "logs", "words.lines", "--all-variants"), done(words, "function", "logs", "words.lines")
    assert both.count("after") == base.count("after") + 1


def test_the_container_and_the_call_before_each_line(words: Runner) -> None:
    import squall

    squall.Queue.from_name("words-gate", create_if_missing=True).put(1)
    call = squall.Function.from_name("words", "lines").spawn(1)
    call.get(timeout=30)
    said = done(words, "app", "logs", "words", "--call", call.object_id, "--show-container-id", "--show-function-call-id")
    (container,) = {line.split()[0] for line in said.splitlines()}
    assert container.startswith("ct-")
    assert said == f"{container} {call.object_id} line 0\n{container} {call.object_id} after\n"


def test_new_containers_without_new_code(words: Runner) -> None:
    import squall

    add = squall.Function.from_name("words", "add")
    add.remote(1)

    def containers() -> set[str]:
        return {row["id"] for row in json.loads(done(words, "container", "list", "--app", "words", "--json")) if row["function"] == "add"}

    before, version = containers(), json.loads(done(words, "app", "info", "words", "--json"))["version"]
    assert before
    done(words, "app", "rollover", "words", "--strategy", "recreate")
    assert json.loads(done(words, "app", "info", "words", "--json"))["version"] == version + 1
    assert add.remote(1) == 2
    assert not containers() & before
    assert "rollover of" in done(words, "app", "history", "words", "--json")


def test_a_container_ends_with_what_it_runs(words: Runner) -> None:
    import squall

    gate = squall.Queue.from_name("words-gate", create_if_missing=True)
    call = squall.Function.from_name("words", "lines").spawn(1)
    with words.popen("app", "logs", "words", "--follow", "--call", call.object_id) as logs:
        assert logs.stdout.readline() == "line 0\n"
        (row,) = (row for row in json.loads(done(words, "container", "list", "--app", "words", "--json")) if row["function"] == "lines" and row["inputs"])
        done(words, "container", "stop", "--graceful", row["id"])
        gate.put(1)
        assert logs.stdout.readline() == "after\n"  # and not "line 0" of another attempt
        logs.terminate()
    call.get(timeout=30)
    assert call.get_call_graph()[0].status.name == "SUCCESS"
    wait_until(lambda: row["id"] not in {one["id"] for one in json.loads(done(words, "container", "list", "--json"))})


def test_listings_of_one_environment(words: Runner) -> None:
    assert "words" in {row["name"] for row in json.loads(done(words, "app", "list", "--env", "main", "--json"))}
    assert json.loads(done(words, "app", "list", "--env", "nowhere", "--json")) == []
    assert len(json.loads(done(words, "app", "list", "--all", "--limit", "1", "--json"))) == 1
    assert json.loads(done(words, "container", "list", "--env", "nowhere", "--json")) == []


@pytest.mark.parametrize("command", [("app", "info"), ("app", "logs"), ("container", "logs"), ("function", "info")], ids=" ".join)
def test_what_is_not_there_is_named_as_it_was_typed(words: Runner, command: tuple[str, str]) -> None:
    ran = words(*command, "nothing")
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"✗ there is no {command[0]} 'nothing'")


def test_without_a_server_a_word_about_a_function_says_so_once(own: Runner) -> None:
    ran = own("function", "info", "nothing")
    assert ran.returncode == 1
    assert ran.stderr.startswith("✗ no server answers at ")
    assert len(ran.stderr.splitlines()) == 1
