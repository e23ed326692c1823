"""What is kept when the server, a client or a container is killed at the worst moment."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.waiting import lives, wait_until

from .conftest import SQUALL, make_data_directory, stop_server

pytestmark = pytest.mark.root


class Place:
    """A state directory of its own, and programs that use it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.env = {**os.environ, "SQUALL_DATA_DIR": str(data), "NO_COLOR": "1"}

    def python(self, text: str) -> str:
        done = subprocess.run([sys.executable, "-c", text], env=self.env, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def popen(self, text: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([sys.executable, "-c", text], env=self.env, stdout=subprocess.PIPE, text=True)

    def squall(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([str(SQUALL), *argv], env=self.env, capture_output=True, text=True, timeout=100)

    @property
    def pid(self) -> int:
        return int((self.data / "server.lock").read_text())

    def kill(self) -> None:
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not lives(pid), "the end of the server")


@pytest.fixture
def place() -> Iterator[Place]:
    data = make_data_directory()
    yield Place(data)
    stop_server(data)
    shutil.rmtree(data)


@pytest.fixture(scope="module", autouse=True)
def left_behind() -> Iterator[tuple[Place, str, str]]:
    """A volume and a dict of a client that was killed before the other tests of this file: their lease is twenty seconds."""
    data = make_data_directory()
    place = Place(data)
    program = "import squall\nwith squall.Volume.ephemeral() as v, squall.Dict.ephemeral() as d:\n    print(v.object_id, d.object_id, flush=True)\n    input()"
    with subprocess.Popen([sys.executable, "-c", program], env=place.env, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as holding:
        assert holding.stdout is not None
        volume, dict_id = holding.stdout.readline().split()
        assert (place.data / "volumes" / volume).is_dir()
        holding.kill()
    yield place, volume, dict_id
    stop_server(data)
    shutil.rmtree(data)


def test_what_was_put_survives_kill_9_of_the_server(place: Place) -> None:
    """The client puts without end and says what was acknowledged; all of that is there afterwards, whole and in order."""
    program = """
import squall
d = squall.Dict.from_name("d", create_if_missing=True)
q = squall.Queue.from_name("q", create_if_missing=True)
for number in range(100_000):
    d.put("last", number)
    q.put(number, partition=str(number // 4_000))
    print(number, flush=True)
"""
    place.python("import squall; squall.Secret.objects.create('s', {'A': 'kept'})")
    with place.popen(program) as writing:
        assert writing.stdout is not None
        told = [writing.stdout.readline() for _ in range(200)]
        place.kill()
        writing.kill()
        told += writing.stdout.readlines()
    last = int([line for line in told if line.endswith("\n")][-1])
    assert last >= 199
    seen, items = place.python(
        "import squall; d = squall.Dict.from_name('d'); q = squall.Queue.from_name('q')\n"
        "print(d['last'], [n for p in range(25) for n in q.get_many(4_000, block=False, partition=str(p))])"
    ).split(" ", 1)
    assert int(seen) >= last
    found = eval(items)
    assert found == list(range(len(found)))
    assert len(found) >= last + 1
    assert "A" in place.squall("secret", "list").stdout


def test_a_blocked_get_goes_on_after_the_server_came_back(place: Place) -> None:
    place.python("import squall; squall.Queue.objects.create('q')")
    with place.popen("import squall; print('waits', flush=True); print(squall.Queue.from_name('q').get(timeout=60), flush=True)") as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waits\n"
        time.sleep(0.5)
        place.kill()
        place.python("import squall; squall.Queue.from_name('q').put('hello')")
        assert waiting.stdout.readline() == "hello\n"


def test_files_outlive_the_server_and_an_upload_that_was_cut_leaves_nothing(place: Place) -> None:
    place.python(
        "import squall, io\nv = squall.Volume.from_name('v', create_if_missing=True)\n"
        "with v.batch_upload() as batch: batch.put_file(io.BytesIO(b'kept'), 'kept')"
    )
    slow = """
import io, squall, sys
class Slow(io.RawIOBase):
    def __init__(self): self.left = 40
    def read(self, n=-1):
        self.left -= 1
        print(self.left, flush=True)
        return bytes(1 << 20) * 4 if self.left else b""
with squall.Volume.from_name("v").batch_upload() as batch:
    batch.put_file(Slow(), "cut")
"""
    with place.popen(slow) as uploading:
        assert uploading.stdout is not None
        for _ in range(12):
            uploading.stdout.readline()
        place.kill()
        uploading.kill()
    assert place.python("import squall; v = squall.Volume.from_name('v'); print([e.path for e in v.listdir('/')], *v.read_file('kept'))") == "['kept'] b'kept'"
    assert list((place.data / "volumes" / ".staging").iterdir()) == []


def test_a_container_killed_while_it_writes_and_commits_leaves_what_it_had_committed(place: Place) -> None:
    program = """
import os, squall
app = squall.App("killed")
v = squall.Volume.from_name("v", create_if_missing=True)

@app.function(volumes={"/data": v}, serialized=True, retries=0)
def write():
    for number in range(100_000):
        with open(f"/data/new-{number}", "w") as file:
            file.write(str(number) * 1000)
        os.rename(f"/data/new-{number}", f"/data/done-{number}")
        v.commit()
        print(number, flush=True)
        if number == 30:
            os.kill(os.getpid(), 11)
            os.abort()

with squall.enable_output(), app.run():
    try:
        write.remote()
    except squall.exception.RemoteError as error:
        print(type(error).__name__)
print(sorted(len(b"".join(v.read_file(e.path))) // len(str(n)) for n in range(31) for e in v.listdir(f"done-{n}")))
"""
    out = place.python(program)
    assert out.splitlines()[-1] == str([1000] * 31), out


def test_ephemeral_things_of_a_killed_client_go(left_behind: tuple[Place, str, str]) -> None:
    place, volume, dict_id = left_behind
    wait_until(lambda: not (place.data / "volumes" / volume).exists(), "the removal of the volume", timeout_s=90)
    assert place.python(f"import squall\ntry: squall.Dict.from_id({dict_id!r}).len()\nexcept squall.exception.NotFoundError: print('gone')") == "gone"
