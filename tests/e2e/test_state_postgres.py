"""A server on PostgreSQL: programs go on while it is killed and while its database is, and nothing that was accepted is lost. Backups, too."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.postgres import Postgres, programs

from .conftest import SQUALL, make_data_directory, stop_server

pytestmark = [pytest.mark.root, pytest.mark.slow]

PROGRAM = r"""
import json, os, sys, time
import squall

app = squall.App("on-postgres")
d = squall.Dict.from_name("d", create_if_missing=True)
q = squall.Queue.from_name("q", create_if_missing=True)

@app.function(serialized=True, max_containers=2, retries=0)
def work(i):
    return i * 3

def say(**facts):
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()

with app.run():
    calls, i = [], 0
    while not os.path.exists(sys.argv[1]):
        i += 1
        calls.append((work.spawn(i), i * 3))
        assert work.remote(i) == i * 3
        d.put("last", i)
        q.put(i, partition=str(i // 4000))
        say(i=i)
    assert [call.get(timeout=60) for call, _ in calls] == [value for _, value in calls]
    say(all=i)
"""


class Place:
    def __init__(self, data: Path, url: str) -> None:
        self.data = data
        self.env = {**os.environ, "SQUALL_DATA_DIR": str(data), "SQUALL_DATABASE_URL": url, "NO_COLOR": "1"}

    def squall(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([str(SQUALL), *argv], env=self.env, capture_output=True, text=True, timeout=100)

    def python(self, text: str) -> str:
        done = subprocess.run([sys.executable, "-c", text], env=self.env, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def kill_server(self) -> None:
        os.kill(int((self.data / "server.lock").read_text()), signal.SIGKILL)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    if programs() is None and not os.environ.get("CI"):
        pytest.skip("needs PostgreSQL: apt install postgresql")
    server = Postgres()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def place(postgres: Postgres) -> Iterator[Place]:
    data = make_data_directory()
    made = Place(data, postgres.make("squall"))
    yield made
    subprocess.run([str(SQUALL), "server", "stop"], env=made.env, capture_output=True, timeout=60)
    stop_server(data)
    shutil.rmtree(data)


def test_the_server_and_its_database_are_killed_under_load(place: Place, postgres: Postgres, tmp_path: Path) -> None:
    assert "0" in place.squall("server", "migrate").stderr
    stop = tmp_path / "stop"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, str(program), str(stop)], env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        last = 0

        def until(more: int) -> None:
            nonlocal last
            goal = last + more
            while last < goal:
                line = running.stdout.readline() if running.stdout is not None else ""
                assert line, running.stderr.read()[-3000:] if running.stderr is not None else ""
                last = json.loads(line)["i"]

        until(30)
        postgres.kill()
        began = time.monotonic()
        time.sleep(1.0)  # calls wait meanwhile: the database is away for a while
        postgres.start()
        until(30)
        assert time.monotonic() - began > 1.0
        place.kill_server()
        until(30)
        place.kill_server()
        postgres.kill()
        postgres.start()
        until(10)
        assert place.squall("server", "migrate").returncode == 1  # it runs
        backup = tmp_path / "backup"
        assert place.squall("server", "backup", str(backup)).returncode == 0
        at_backup = last
        until(5)
        stop.touch()
        out, err = running.communicate(timeout=90)
        assert running.returncode == 0, err[-3000:]
        total = json.loads(out.splitlines()[-1])["all"]
    look = "import squall; q = squall.Queue.from_name('q'); n = q.len(total=True)\n"
    look += "print(squall.Dict.from_name('d')['last'], n, len(set(q.get_many(5000, partition='0'))))"
    seen, items, distinct = map(int, place.python(look).split())
    assert seen == total
    assert items >= distinct == total  # a put may have happened twice when the server died, and none is lost
    # Everything is gone, and comes back from the backup.
    assert "squall server stop" in place.squall("server", "restore", "--yes", str(backup)).stderr
    assert place.squall("server", "stop").returncode == 0
    assert "Say" in place.squall("server", "restore", str(backup)).stderr
    place.env["SQUALL_DATABASE_URL"] = postgres.make("other")
    assert place.squall("server", "restore", "--yes", str(backup)).returncode == 0
    seen, items, distinct = map(int, place.python(look).split())
    assert at_backup <= seen <= total
    assert at_backup <= distinct
