"""`squall serve`: reload on save, errors that keep the version before, the end with the terminal. And schedules, which need no more than a deployed program."""

import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from support.waiting import BOUND_S, wait_until

from .conftest import Runner

pytestmark = pytest.mark.root

PROGRAM = """
import squall

app = squall.App("served")

@app.function()
@squall.concurrent(max_inputs=10)
@squall.asgi_app()
def site():
    async def serve(scope, receive, send):
        if scope["type"] != "lifespan":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"%s"})
    return serve
"""


class Lines:
    """What a process says on stderr, line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.seen: list[str] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self._lines.put(line)

    def until(self, pattern: str, timeout_s: float = BOUND_S) -> "re.Match[str]":
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{pattern!r} was not said; what was: {''.join(self.seen)}") from None
            self.seen.append(line)
            if found := re.search(pattern, line):
                return found


@contextmanager
def serving(squall: Runner, name: str, end: signal.Signals) -> "Iterator[tuple[subprocess.Popen[str], Lines]]":
    """``squall serve``, until this signal."""
    with squall.popen("serve", name) as process:
        lines = Lines(process)
        try:
            yield process, lines
        finally:
            process.send_signal(end)
            process.wait(timeout=30)
            lines._thread.join(5)


def get(url: str) -> str:
    parts = urlsplit(url)
    request = urllib.request.Request(f"http://127.0.0.1:{parts.port}/", headers={"Host": parts.netloc})
    with urllib.request.urlopen(request, timeout=20) as response:
        return str(response.read().decode())


def test_serve_takes_up_what_is_saved_and_ends_with_its_terminal(squall: Runner) -> None:
    squall.program("served.py", PROGRAM % "one")
    with serving(squall, "served.py", signal.SIGINT) as (process, lines):
        url = lines.until(r"site +(http://\S+)")[1]
        assert "main--served-site-dev." in url
        assert get(url) == "one"
        began = time.monotonic()
        squall.program("served.py", PROGRAM % "two")
        wait_until(lambda: get(url) == "two", "the reload")
        took = time.monotonic() - began
        squall.program("served.py", (PROGRAM % "three").replace('squall.App("served")', 'squall.App("served"'))
        lines.until("SyntaxError")
        lines.until("the version before goes on")
        assert get(url) == "two"
        squall.program("served.py", PROGRAM % "four")
        wait_until(lambda: get(url) == "four", "the second reload")
        assert took < 15.0, took  # half a second, on a machine that does nothing else
    lines.until("no longer served")
    assert process.returncode == 0
    rows = json.loads(squall("app", "list", "--all", "--json").stdout)
    assert [row["state"] for row in rows if row["name"] == "served"] == ["stopped"]


def test_serve_for_some_time(squall: Runner) -> None:
    squall.program("brief.py", (PROGRAM % "one").replace('squall.App("served")', 'squall.App("brief")'))
    done = squall("serve", "brief.py", "--timeout", "0.5")
    assert done.returncode == 0
    assert "site" in done.stderr
    assert "no longer served" in done.stderr


def test_serve_that_fails_at_first_is_tried_again_when_it_is_saved(squall: Runner) -> None:
    squall.program("late.py", "import squall\napp = squall.App('late'\n")
    with serving(squall, "late.py", signal.SIGTERM) as (_, lines):
        lines.until("fix it and save")
        squall.program("late.py", PROGRAM.replace("served", "late") % "up")
        assert get(lines.until(r"site +(http://\S+)")[1]) == "up"


SCHEDULED = """
import squall

app = squall.App("scheduled")

@app.function(schedule=squall.Period(seconds=1))
def often():
    print("tick", flush=True)

@app.function(schedule=squall.Cron("0 9 * * *", timezone="Europe/Paris"))
def daily():
    return "done"
"""


def test_schedules(squall: Runner) -> None:
    squall.program("scheduled.py", SCHEDULED)
    done = squall("deploy", "scheduled.py")
    assert done.returncode == 0, done.stderr
    assert "every 1 s → next run" in done.stderr

    def ticks() -> int:
        return squall("app", "logs", "scheduled").stdout.count("tick")

    try:
        wait_until(lambda: ticks() >= 2, "two ticks")
        rows = {row["name"]: row for row in json.loads(squall("schedule", "list", "--json").stdout)}
        assert rows["scheduled.daily"]["schedule"] == "0 9 * * * Europe/Paris"
        assert rows["scheduled.daily"]["next_at"] > time.time()
        assert rows["scheduled.often"]["last_call"].startswith("fc-")
        call = squall("schedule", "run", "daily").stdout.strip()
        from squall.sdk.function.call import FunctionCall

        before = os.environ.get("SQUALL_DATA_DIR")
        assert before == str(squall.data)
        assert FunctionCall.from_id(call).get(timeout=30) == "done"
        assert squall("schedule", "pause", "scheduled.often").returncode == 0
        rows = {row["name"]: row for row in json.loads(squall("schedule", "list", "--json").stdout)}
        assert rows["scheduled.often"]["paused"] is True
        assert rows["scheduled.often"]["next_at"] is None
        paused = json.loads(squall("schedule", "list", "--json").stdout)[1]["last_at"]
        time.sleep(1.5)  # a tick would come in this time
        assert json.loads(squall("schedule", "list", "--json").stdout)[1]["last_at"] == paused
        assert squall("schedule", "pause", "often", "--resume").returncode == 0
        wait_until(lambda: json.loads(squall("schedule", "list", "--json").stdout)[1]["last_at"] != paused)
        missing = squall("schedule", "run", "nothing")
        assert missing.returncode == 1
        assert "nothing scheduled is called 'nothing'" in missing.stderr
    finally:
        assert squall("app", "stop", "scheduled").returncode == 0
    assert json.loads(squall("schedule", "list", "--json").stdout) == []
