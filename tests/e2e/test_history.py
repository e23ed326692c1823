"""What became of calls is known after a restart, planned or not, and says what happened: failures that were retried, web requests that failed."""

import json
import os
import signal
import sqlite3
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.waiting import lives, wait_until

from .conftest import Runner, server_pid
from .test_server import rows

pytestmark = pytest.mark.root

PROGRAM = """
import time
import squall

app = squall.App("told")

@app.function()
def plain(i):
    return i

@app.function(retries=squall.Retries(max_retries=2, initial_delay=0.0))
def shaky():
    import pathlib
    mark = pathlib.Path("/tmp/tried")
    if not mark.exists():
        mark.touch()
        raise ValueError("the first time")

@app.function()
def held(path):
    import pathlib
    print("held", flush=True)
    while not pathlib.Path(path).exists():
        time.sleep(0.02)

@app.function()
@squall.asgi_app()
def site():
    async def serve(scope, receive, send):
        await send({"type": "http.response.start", "status": 500 if scope["path"] == "/bad" else 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    return serve

@app.local_entrypoint()
def main():
    plain.remote(1)
    plain.remote(2)
    shaky.remote()

@app.local_entrypoint()
def wait(path: str):
    held.remote(path)
"""


@pytest.fixture
def own(own: Runner) -> Runner:
    own.program("told.py", PROGRAM)
    return own


def written(runner: Runner) -> int:
    """Ended inputs that are on disk."""
    with sqlite3.connect(f"file:{runner.data}/store/squall.db?mode=ro", uri=True) as database:
        return int(database.execute("SELECT COALESCE(SUM(rows), 0) FROM history").fetchone()[0])


def comparable(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["call"], row["function"], row["state"], row["attempts"], row["error"], row["container"]) for row in found]


def get(url: str) -> int:
    parts = urlsplit(url)
    request = urllib.request.Request(f"http://127.0.0.1:{parts.port}{parts.path}", headers={"Host": parts.netloc})
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=60)
    with raised.value as error:
        return error.code


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_calls_and_counts_survive_a_restart(own: Runner, how: str) -> None:
    done = own("run", "told.py::main")
    assert done.returncode == 0, done.stderr
    deployed = own("deploy", "told.py")
    url = next(word for word in (deployed.stderr + deployed.stdout).split() if word.startswith("http://"))
    assert get(f"{url}/bad") == 500
    assert get(f"{url}/absent") == 404
    before = wait_until(lambda: found if len(found := rows(own, "call", "list")) == 5 else None, "all that ended")
    assert [(row["function"], row["state"], row["error"]) for row in before[:2]] == [
        ("site", "succeeded", None),
        ("site", "failed", "answered 500 Internal Server Error"),
    ]
    (shaky,) = [row for row in before if row["function"] == "shaky"]
    assert (shaky["state"], shaky["attempts"]) == ("succeeded", 2)
    counts = {row["id"]: row["inputs_done"] for row in rows(own, "container", "list", "--all")}
    assert sum(int(str(count)) for count in counts.values()) >= 5
    if how == "killed":
        wait_until(lambda: written(own) == 5, "the history on disk")
        pid = server_pid(own)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not lives(pid), "the end of the server")
    else:
        assert own("server", "stop").returncode == 0
    assert own("server", "start").returncode == 0
    after = rows(own, "call", "list")
    assert comparable(after) == comparable(before)
    assert [row["running_s"] for row in after] == pytest.approx([row["running_s"] for row in before], abs=0.01)
    assert {row["id"]: row["inputs_done"] for row in rows(own, "container", "list", "--all")} == counts
    assert json.loads(own("server", "status", "--json").stdout)["inputs_done"] == 5
    (shown,) = json.loads(own("call", "show", str(shaky["call"]), "--json").stdout)
    assert [attempt["error"] for attempt in shown["failed_attempts"]] == ["ValueError: the first time"]


def test_a_call_that_goes_on_over_a_crash_ran_as_long_as_it_ran(own: Runner) -> None:
    mark = "/tmp/over"
    with own.popen("run", "told.py::wait", "--path", mark) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "held\n"
        (row,) = rows(own, "call", "list")
        (container,) = rows(own, "container", "list")
        pid = server_pid(own)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not lives(pid), "the end of the server")
        again = wait_until(lambda: [each for each in rows(own, "container", "list") if each["state"] == "ready"], "its return", timeout_s=60)
        assert again[0]["id"] == container["id"]
        assert own("container", "exec", str(container["id"]), "touch", mark).returncode == 0
        assert running.wait(timeout=60) == 0
    (ended,) = [each for each in rows(own, "call", "list") if each["call"] == row["call"]]
    assert ended["state"] == "succeeded"
    assert ended["running_s"] > 0.05, ended
    assert abs(float(str(ended["created_at"])) - float(str(row["created_at"]))) < 1.0
