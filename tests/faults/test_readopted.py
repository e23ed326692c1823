"""The server is killed, its containers are not: they go on, and the next server takes them over with everything that they have at hand."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.conftest import Runner, make_data_directory, stop_server

pytestmark = pytest.mark.root

#: Each of its lines on stdout is JSON. The functions tell in which container they ran, and how often their code began there.
PROGRAM = r"""
import asyncio, json, os, sys, time
import squall

app = squall.App("outlives")
begun = 0

def where():
    global begun
    begun += 1
    return [os.environ["SQUALL_CONTAINER_ID"], begun]

@app.function(max_containers=1)
def serial(seconds):
    place = where()
    print("serial begins")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)
        print("serial is at it")
    return place

@app.function(max_containers=1)
@squall.concurrent(max_inputs=3)
async def together(seconds):
    place = where()
    await asyncio.sleep(seconds)
    return place

@app.function(max_containers=1)
@squall.batched(max_batch_size=2, wait_ms=2000)
def batch(seconds):
    time.sleep(max(seconds))
    return [where()] * len(seconds)

@app.cls(max_containers=1)
class Idle:
    @squall.enter()
    def enter(self):
        self.entered = where()

    @squall.method()
    def place(self):
        return self.entered

@app.function(max_containers=1)
def items(n):
    for i in range(n):
        yield i
        time.sleep(0.3)

def say(**facts):
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()

@app.local_entrypoint()
async def main(seconds: float):
    await serial.remote.aio(0), await together.remote.aio(0), await Idle().place.remote.aio()
    spawned = await serial.spawn.aio(seconds)
    short = await together.spawn.aio(0.9)  # its result finds no server
    mapped = asyncio.ensure_future(together.map.aio([seconds, seconds]).__aiter__().__anext__())
    batched = [asyncio.ensure_future(batch.remote.aio(seconds)) for _ in range(2)]
    read = []
    async def generate():
        async for item in items.remote_gen.aio(1000):
            read.append(item)
    generated = asyncio.ensure_future(generate())
    while not read:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    say(running=True)
    try:
        await generated
    except squall.exception.ServiceError as error:
        say(generator=str(error))
    placed = [await one for one in batched], await Idle().place.remote.aio()
    say(spawned=await spawned.get.aio(), short=await short.get.aio(), mapped=await mapped, batched=placed[0], idle=placed[1])
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Runner]:
    data = make_data_directory()
    runner = Runner(data, tmp_path)
    runner.program("outlives.py", PROGRAM)
    yield runner
    runner("server", "start")  # where the last one was killed, only another one ends what runs on
    stop_server(data)
    shutil.rmtree(data)


def query(own: Runner, sql: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{own.data / 'store' / 'squall.db'}?mode=ro", uri=True, timeout=30)) as connection:
        return connection.execute(sql).fetchall()


def kill_server(own: Runner) -> None:
    os.kill(int((own.data / "server.lock").read_text()), signal.SIGKILL)


def lives(pid: object) -> bool:
    """Not as a zombie: an orphan's parent may take its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_runs_goes_on_and_runs_once(own: Runner) -> None:
    with own.popen("run", "outlives.py", "--seconds", "4") as running:
        assert running.stdout is not None
        head = ""
        while (line := running.stdout.readline()) and not line.startswith('{"running'):
            head += line
        before = {container for (container,) in query(own, "select id from containers where state = 'ready'")}
        kill_server(own)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert err.count("lost the server") == 1
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert "went away" in lines[0]["generator"], lines
    said = lines[-1]
    # The second time that this code began in that container: nothing began a third time, or elsewhere.
    assert (said["spawned"][1], said["short"][1], said["idle"][1]) == (2, 2, 1), said
    assert said["mapped"][0] == said["short"][0] and said["mapped"][1] in (3, 4), said
    assert said["batched"][0] == said["batched"][1] and said["batched"][0][1] == 1, said
    assert {place[0] for place in (said["spawned"], said["short"], said["mapped"], said["idle"], said["batched"][0])} <= before
    assert (head + out).count("serial begins") == 2
    # At most 80, and less: who prints waits for the next server, and what lay in the socket when this one died is lost.
    assert (head + out).count("serial is at it") > 30
    rows = query(own, "select state, attempts, platform_retries from inputs")
    assert sorted(rows) == [("succeeded", 1, 0)] * 2
    assert {container for (container,) in query(own, "select id from containers")} == before


def test_what_nobody_comes_back_for_ends(own: Runner) -> None:
    with own.popen("run", "outlives.py", "--seconds", "600") as running:
        assert running.stdout is not None
        while (line := running.stdout.readline()) and not line.startswith('{"running'):
            pass
        containers = query(own, "select id, pid from containers where state = 'ready'")
        assert len(containers) >= 4
        running.kill()
        kill_server(own)
    assert own("server", "start").returncode == 0
    assert len(query(own, "select id from containers where state = 'ready'")) >= 4
    wait_until(lambda: query(own, "select id from containers where state <> 'stopped'") == [])
    assert {reason for (reason,) in query(own, "select distinct reason from containers")} <= {"nobody came back for it after a restart of the server", "idle"}
    assert not [pid for _, pid in containers if lives(pid)]
    states = {state for (state,) in query(own, "select state from inputs")}
    assert "cancelled" in states and not {"queued", "running"} & states
