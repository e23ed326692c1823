"""Under load, kill -9 of the server, of containers, of templates and of clients at random moments; then every call is accounted for.

`SQUALL_KILL_TEST_S`: for how long.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from e2e.conftest import SQUALL, Runner, make_data_directory, stop_server
from squall.gateway.wiring import Settings
from squall.store.engine import make_engine
from support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow]

DURATION_S = float(os.environ.get("SQUALL_KILL_TEST_S", "60"))

#: Says on stdout what it was promised (`spawned` lines) and, at its end, that all of it came true. `long` writes down each time that it begins.
PROGRAM = r"""
import json, sys, time
import squall

app = squall.App("killed")

@app.function(max_containers=3)
def work(i: int, seconds: float = 0.02) -> int:
    time.sleep(seconds)
    return i * 3

@app.function(max_containers=2)
async def work_async(i: int) -> int:
    import asyncio
    await asyncio.sleep(0.05)
    return i * 5

@app.function(max_containers=2)
def long(i: int) -> int:
    print(f"long {i} begins")
    time.sleep(4)
    return i * 7

def say(**facts):
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()

@app.local_entrypoint()
def main(seconds: float, first: int = 0):
    until, i, calls, longs = time.monotonic() + seconds, first, [], []
    while time.monotonic() < until:
        for _ in range(5):
            i += 1
            call = work.spawn(i)
            say(spawned=call.object_id, value=i * 3)
            calls.append((call, i * 3))
        if len(longs) < 2 or time.monotonic() - longs[-1][2] > 2.0:
            longs.append((long.spawn(i), i * 7, time.monotonic()))
            say(spawned=longs[-1][0].object_id, value=i * 7)
        i += 1
        assert work.remote(i) == i * 3
        assert work_async.remote(i) == i * 5
        assert list(work.map(range(i, i + 20))) == [x * 3 for x in range(i, i + 20)]
        say(round=i)
    calls += [(call, value) for call, value, _ in longs]
    for call, value in calls:
        assert call.get(timeout=120) == value, (call.object_id, value)
    say(all=len(calls))
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Runner]:
    data = make_data_directory()
    runner = Runner(data, tmp_path)
    runner.program("killed.py", PROGRAM)
    yield runner
    runner("server", "start")  # where the last one was killed, only another one ends what runs on
    stop_server(data)
    shutil.rmtree(data)


class Room:
    """What can be killed in a state directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.kills: Counter[str] = Counter()

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """On the database of the server: SQLite, or the PostgreSQL that SQUALL_DATABASE_URL names."""
        if url := os.environ.get("SQUALL_DATABASE_URL"):
            engine = make_engine(url)
            try:
                with engine.connect() as connection, connection.begin():
                    return [tuple(row) for row in connection.execute(text(sql))]
            finally:
                engine.dispose()
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'store' / 'squall.db'}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(sql).fetchall()

    def kill_server(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.data / "server.lock").read_text())
            if b"squall" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                self.kills["server"] += 1

    def kill_template(self, rng: random.Random) -> None:
        """One that containers are copied from. Of those of earlier servers only what their copies need is left."""
        templates = sorted(path.parent for path in (Settings(self.data).run / "containers").glob("*/is-template"))
        rng.shuffle(templates)
        for template in templates:
            with contextlib.suppress(OSError, ValueError):
                pid = int((template / "pid").read_text())
                if template.name in Path(f"/proc/{pid}/cgroup").read_text():
                    os.kill(pid, signal.SIGKILL)
                    self.kills["template"] += 1
                    return

    def kill_container(self, rng: random.Random) -> None:
        with contextlib.suppress(OSError, sqlite3.Error):
            ready = self.query("select id, pid from containers where state = 'ready' and pid is not null")
            rng.shuffle(ready)
            for container, pid in ready:
                # The number may be another process's by now; its cgroup says whose it is.
                if str(container) in Path(f"/proc/{pid}/cgroup").read_text():
                    os.kill(int(str(pid)), signal.SIGKILL)
                    self.kills["container"] += 1
                    return


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_every_call_is_accounted_for(own: Runner) -> None:
    assert own("run", "killed.py", "--seconds", "0.1").returncode == 0
    rng, room = random.Random(11), Room(own.data)
    with (own.folder / "out").open("w+") as out, (own.folder / "err").open("w+") as err:
        argv = [str(SQUALL), "run", "killed.py", "--seconds"]
        program = subprocess.Popen([*argv, str(DURATION_S)], cwd=own.folder, env=own.env, stdout=out, stderr=err)
        until = time.monotonic() + DURATION_S
        victim: subprocess.Popen[bytes] | None = None
        try:
            while time.monotonic() < until and program.poll() is None:
                time.sleep(rng.uniform(0.5, 3.0))  # the load of a while, not a wait for something
                dice = rng.random()
                if dice < 0.3:
                    room.kill_server()
                elif dice < 0.6:
                    room.kill_container(rng)
                elif dice < 0.75:
                    room.kill_template(rng)
                elif victim is None:
                    victim = subprocess.Popen(
                        [*argv, str(DURATION_S), "--first", "1000000"], cwd=own.folder, env=own.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                    )
                else:
                    victim.kill()
                    victim.wait()
                    victim, room.kills["client"] = None, room.kills["client"] + 1
            code = program.wait(timeout=DURATION_S + 240)
            assert code == 0, f"{Path(err.name).read_text()[-4000:]}\n{(own.data / 'logs' / 'server.log').read_text()[-8000:]}"
        finally:
            for each in (program, victim):
                if each is not None:
                    each.kill()
                    each.wait()
        said = lines(Path(out.name).read_text())
    spawned = {str(line["spawned"]): line["value"] for line in said if "spawned" in line}
    assert said[-1] == {"all": len(spawned)}
    assert room.kills["server"] and room.kills["container"], room.kills
    # Most of what ran when a server was killed ran on: an input of four seconds would hardly ever be done otherwise without beginning again.
    taken_over = sum(int(found) for found in re.findall(r"(\d+) go on", (own.data / "logs" / "server.log").read_text()))
    assert taken_over >= room.kills["server"], room.kills
    begins = Counter(re.findall(r"long \d+ begins", Path(out.name).read_text()))
    again = sum(times - 1 for times in begins.values())
    assert again <= room.kills["container"] + room.kills["template"], (again, len(begins), room.kills)
    # What is in the store: each spawned call once, with its outcome; those of the killed clients have an end too, when nobody has come back for them.
    own("server", "start")
    wait_until(lambda: room.query("select call from inputs where state in ('queued', 'running')") == [], f"the end of all calls, after {dict(room.kills)}")
    stop_server(own.data)
    states: dict[str, list[str]] = {}
    for call, state in room.query("select call, state from inputs"):
        states.setdefault(str(call), []).append(str(state))
    assert {call: states.get(call) for call in spawned if states.get(call) != ["succeeded"]} == {}
    assert room.query("select id, state from containers where state <> 'stopped'") == []
