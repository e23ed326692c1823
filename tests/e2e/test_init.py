"""User code is not process 1: signals to itself end it, and its orphans leave no zombies; in containers of all drivers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Runner, make_data_directory, stop_server

pytestmark = pytest.mark.root

PROGRAM = """
import os
import signal
import time

import squall

app = squall.App("init")


@app.function()
def end_itself(number):
    os.kill(os.getpid(), number)
    return "survived"


@app.function()
def who():
    return os.getpid(), os.getsid(0), os.listdir("/proc/1/fd")


@app.function()
def orphans(count):
    "Leave this many, and see each of them end. Their parent, what becomes of it when they end, and whether the program's own child is still its own."
    ended = []
    for _ in range(count):
        told, tell = os.pipe()
        wait, release = os.pipe()
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                while os.getppid() != 1:
                    time.sleep(0.001)
                os.write(tell, str(os.getpid()).encode())
                os.read(wait, 1)
            os._exit(7)
        status = os.waitstatus_to_exitcode(os.waitpid(middle, 0)[1])
        orphan = int(os.read(told, 16))
        os.write(release, b"1")
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{orphan}") and time.monotonic() < deadline:
            time.sleep(0.001)
        ended.append((status, os.path.exists(f"/proc/{orphan}")))
    return ended


@app.local_entrypoint()
def main():
    for number in (signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL):
        try:
            print(end_itself.remote(int(number)))
        except squall.exception.ContainerKilledError as error:
            print(error.signal == number, str(error).splitlines()[0].partition("   ")[0])
    print(orphans.remote(20) == [(7, False)] * 20)
    print(*who.remote())
"""


@pytest.fixture(params=["fork", "oci", "gvisor"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(make_data_directory(), tmp_path)
    assert runner("server", "start", "--driver", request.param).returncode == 0
    yield runner
    stop_server(runner.data)
    shutil.rmtree(runner.data)


def test_the_program_is_not_process_1(own: Runner) -> None:
    done = own("run", own.program("init.py", PROGRAM))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "True end_itself was ended by signal 11 (SIGSEGV)",
        "True end_itself was ended by signal 15 (SIGTERM)",
        "True end_itself was ended by signal 9 (SIGKILL)",
        "True",
    ]
    pid, session, descriptors = lines[4].split(maxsplit=2)
    assert pid == session != "1"
    assert descriptors == "[]"
