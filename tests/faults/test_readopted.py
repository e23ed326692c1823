"""The server is killed, its containers are not: they go on, and the next server takes them over with everything that they have at hand."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import SQUALL, Runner, Started, make_data_directory, stop_server
from support.waiting import lives, wait_until

pytestmark = pytest.mark.root

#: Each of its lines on stdout is JSON. The functions tell in which container they ran, and how often their code began there.
PROGRAM = r"""
import asyncio, json, os, sys, time
import squall

app = squall.App("outlives")
begun = 0

def where(name):
    global begun
    begun += 1
    print(name, "begins")
    return [os.environ["SQUALL_CONTAINER_ID"], begun]

@app.function(max_containers=1)
def serial(seconds):
    place = where("serial")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)
        print("serial is at it")
    return place

@app.function(max_containers=1)
@squall.concurrent(max_inputs=3)
async def together(seconds):
    place = where("together")
    await asyncio.sleep(seconds)
    return place

@app.function(max_containers=1)
@squall.batched(max_batch_size=2, wait_ms=2000)
def batch(seconds):
    place = where("batch")
    time.sleep(max(seconds))
    return [place] * len(seconds)

@app.cls(max_containers=1)
class Idle:
    @squall.enter()
    def enter(self):
        self.entered = where("idle")

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


def all_ready(own: Runner) -> list[tuple[object, ...]]:
    """Ids and pids of the five functions' containers, once the store has them: a row is written while its container runs already."""

    def ready() -> list[tuple[object, ...]]:
        rows = query(own, "select id, pid from containers where state = 'ready'")
        return rows if len(rows) == 5 else []

    return wait_until(ready, "a row of each container")


def kill_server(own: Runner) -> None:
    os.kill(int((own.data / "server.lock").read_text()), signal.SIGKILL)


#: What is said when all of it runs: each in its container, the first calls included. What is printed and what the program says come in no order.
RUNNING = {"serial begins": 2, "together begins": 4, "batch begins": 1, "idle begins": 1, '{"running': 1}


def read_until_running(running: Started) -> str:
    """What the program said until everything in it had begun."""
    assert running.stdout is not None
    head = ""
    while any(head.count(what) < times for what, times in RUNNING.items()):
        line = running.stdout.readline()
        assert line, f"it ended: {head}"
        head += line
    return head


def test_what_runs_goes_on_and_runs_once(own: Runner) -> None:
    with own.popen("run", "outlives.py", "--seconds", "4") as running:
        head = read_until_running(running)
        before = {container for container, _ in all_ready(own)}
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
    # It went on printing. How much of it is here differs: who prints waits for the next server, and what lay in the socket when this one died is lost.
    assert "serial is at it" in out
    rows = query(own, "select state, attempts, platform_retries from inputs")
    assert sorted(rows) == [("succeeded", 1, 0)] * 2
    assert {container for (container,) in query(own, "select id from containers")} == before


def test_what_nobody_comes_back_for_ends(own: Runner) -> None:
    with own.popen("run", "outlives.py", "--seconds", "600") as running:
        read_until_running(running)
        containers = all_ready(own)
        running.kill()
        kill_server(own)
    assert own("server", "start").returncode == 0
    assert len(query(own, "select id from containers where state = 'ready'")) >= 4
    wait_until(lambda: query(own, "select id from containers where state <> 'stopped'") == [])
    assert {reason for (reason,) in query(own, "select distinct reason from containers")} <= {"nobody came back for it after a restart of the server", "idle"}
    wait_until(lambda: not any(lives(pid) for _, pid in containers), "the end of their processes")
    states = {state for (state,) in query(own, "select state from inputs")}
    assert "cancelled" in states and not {"queued", "running"} & states


LYING = r"""
import gc, os, sys
import squall
from squall.wire.messages import Flight, Rejoin

app = squall.App("lies")

@app.function(max_containers=1, min_containers=1)
def lie():
    runner = next(one for one in gc.get_objects() if type(one).__name__ == "Channel")
    if runner.report is not None:
        runner.report = lambda: Rejoin((Flight(2**64 - 1, "fc-none", 0, "", 0.1),), ())
    return os.environ["SQUALL_CONTAINER_ID"]

@app.local_entrypoint()
def main():
    print(lie.remote())
    sys.stdin.readline()
    print(lie.remote())
"""


def test_a_container_that_speaks_of_attempts_to_come_is_not_believed(own: Runner) -> None:
    """Attempts are numbered: the server would go on from the number that it says, and had none left."""
    own.program("lies.py", LYING)
    with subprocess.Popen([SQUALL, "run", "lies.py"], cwd=own.folder, env=own.env, stdin=-1, stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout is not None
        first = running.stdout.readline().strip()
        kill_server(own)
        out, err = running.communicate("\n", timeout=60)
    assert running.returncode == 0, err
    assert out.strip().startswith("ct-") and out.strip() != first
    wait_until(lambda: ("spoke of attempts that there can't have been",) in query(own, "select reason from containers"), "the reason of its end")
