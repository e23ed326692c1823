"""Where there is no privilege: the same programs in plain processes, and what that can't do said before anything runs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Runner, make_data_directory, stop_server

PROGRAM = """
import os, sys
import squall

app = squall.App("plain")

@app.function()
def f(x: int) -> int:
    print("in", os.getcwd(), file=sys.stderr)
    return x + 1

@app.function()
def leave() -> None:
    os._exit(3)

@app.local_entrypoint()
def main():
    print(f.remote(1), sum(f.map(range(100))))
    try:
        leave.remote()
    except squall.exception.ContainerExitedError as error:
        print("exit", error.exit_code)
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Runner]:
    data = make_data_directory()
    (data / "layers").unlink()  # environments of this driver are not layers of the other
    runner = Runner(data, tmp_path)
    assert runner("server", "start", "--driver", "process").returncode == 0
    yield runner
    stop_server(data)
    shutil.rmtree(data)


def test_programs_run_in_processes(own: Runner) -> None:
    own.program("plain.py", PROGRAM)
    done = own("run", "plain.py")
    assert (done.returncode, done.stdout) == (0, "2 5050\nexit 3\n"), done.stderr
    (status,) = [json.loads(own("server", "status", "--json").stdout)]
    assert status["driver"] == "process"


def test_what_needs_a_container_is_refused_by_name(own: Runner) -> None:
    own.program("apt.py", PROGRAM.replace("@app.function()\ndef f", '@app.function(image=squall.Image.debian_slim().apt_install("jq"))\ndef f'))
    refused = own("run", "apt.py")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "apt_install jq" in refused.stderr and "needs containers" in refused.stderr
