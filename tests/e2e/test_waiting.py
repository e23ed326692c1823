"""Why a call waits, and what became of the latest: `squall call`."""

import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import SQUALL, Runner

pytestmark = pytest.mark.root

PROGRAM = """
import time
import squall

app = squall.App("waiting")

@app.function(max_containers=1, max_pending=2)
def hold(seconds: float) -> float:
    print("holding", flush=True)
    time.sleep(seconds)
    return seconds

@app.local_entrypoint()
def main():
    first = hold.spawn(600)
    second = hold.spawn(1)
    print(first.object_id, second.object_id, flush=True)
    for what, again in {"spawn": hold.spawn, "spawn again": hold.spawn, "map": lambda _: list(hold.map([1, 1, 1]))}.items():
        try:
            again(1)
        except squall.exception.ResourceExhaustedError as error:
            print(f"refused: the {what}", error, sep="\\n", flush=True)
    first.get()
"""


def test_a_call_says_where_it_is_and_why_it_waits(squall: Runner) -> None:
    squall.program("waiting.py", PROGRAM)
    with squall.popen("run", "waiting.py") as running:
        assert running.stdout is not None
        lines: list[str] = []
        while "refused: the map" not in lines or "holding" not in lines:
            lines.append(running.stdout.readline().strip())
            assert lines[-1], lines
        (first, second) = next(line for line in lines if line.startswith("fc-")).split()
        # One of the spawns was let in if the first was running by then.
        assert lines.count("2 inputs wait for hold already (max_pending=2); try again later") in (2, 3)
        (row,) = json.loads(squall("call", "show", second, "--json").stdout)
        assert (row["state"], row["position"]) == ("queued", 1)
        assert row["waits_for"] == "all 1 containers are busy (max_containers=1)"
        (held,) = json.loads(squall("call", "show", first[:30], "--json").stdout)
        assert held["state"] == "running" and held["container"].startswith("ct-")
        assert held["start"]["total_s"] > held["start"]["import_s"] > 0
        shown = squall("call", "show", second).stdout
        assert "max_containers=1" in shown and "place 1" in shown
        assert second[:20] in squall("call", "list").stdout
        cancelled = squall("call", "cancel", first)
        assert (cancelled.returncode, cancelled.stderr) == (0, f"✓ {first} is cancelled\n")
        _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "cancelled" in err
    rows = json.loads(squall("call", "list", "--json").stdout)
    assert {row["state"] for row in rows if row["call"] == first} == {"cancelled"}


def test_functions_that_wait_for_each_other_are_reported(squall: Runner) -> None:
    squall.program(
        "locked.py",
        """
import squall

app = squall.App("locked")

@app.function(max_containers=1)
def own(n: int) -> int:
    return own.remote(n - 1) if n else 0

@app.function(max_containers=1)
def ping(n: int) -> int:
    return pong.remote(n)

@app.function(max_containers=1)
def pong(n: int) -> int:
    return ping.remote(n)

@app.local_entrypoint()
def main():
    calls = own.spawn(3), ping.spawn(3)
    calls[0].get()
""",
    )
    with squall.popen("run", "locked.py") as running:
        waits: set[str] = set()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (any("its own caller" in why for why in waits) and any("deadlock" in why for why in waits)):
            waits = {row["waits_for"] or "" for row in json.loads(squall("call", "list", "--json").stdout) if row["app"] and row["state"] == "queued"}
        running.terminate()
    assert any(why.startswith("its own caller: own calls itself") for why in waits), waits
    assert any(why.startswith("a deadlock: all that runs waits for calls of its own, and this one for one of the 1 containers") for why in waits), waits


def test_an_unknown_call_is_said_to_be_unknown(squall: Runner) -> None:
    wrong = squall("call", "show", "fc-ffffffff")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("✗ there is no call 'fc-ffffffff'")


def test_on_a_terminal_one_line_says_what_a_long_call_waits_for(squall: Runner, tmp_path: Path) -> None:
    """The line is drawn over and gone at the end; here the raw bytes of the terminal are looked at."""
    squall.program(
        "slow.py",
        PROGRAM.split("@app.local_entrypoint")[0]
        + """
@app.local_entrypoint()
def main():
    hold.spawn(6)
    time.sleep(1)
    hold.remote(0)
""",
    )
    leader, follower = pty.openpty()
    process = subprocess.Popen([str(SQUALL), "run", "slow.py"], cwd=tmp_path, env=squall.env, stdout=follower, stderr=follower)
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            data = os.read(leader, 4096)
        except OSError:  # the other side has ended
            break
        seen += data
    os.close(leader)
    assert process.wait(30) == 0
    assert b"hold waits" in seen and b"max_containers=1" in seen
    assert b"hold waits" not in seen.split(b"\x1b[K")[-1], "it goes away"
