"""`squall container exec` and `squall shell`: pipes, terminals, window sizes, Ctrl-C, statuses; in containers of all drivers."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from support.waiting import wait_until

from .conftest import SQUALL, Runner, make_data_directory, stop_server
from .terminal import Terminal

pytestmark = pytest.mark.root

PROGRAM = """
import squall

app = squall.App("entered")

volume = squall.Volume.from_name("entered", create_if_missing=True)

@app.function(min_containers=1, secrets=[squall.Secret.from_dict({"KEYWORD": "sesame"})], volumes={"/data": volume})
def f():
    pass

@app.local_entrypoint()
def main():
    pass
"""


@pytest.fixture(scope="module", params=["fork", "oci", "gvisor"])
def entered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runner, str]]:
    """A command runner with a server of its own, and a container that runs there."""
    data = make_data_directory()
    runner = Runner(data, tmp_path_factory.mktemp("entered"))
    assert runner("server", "start", "--driver", request.param).returncode == 0
    runner.program("program.py", PROGRAM)
    done = runner("deploy", "program.py")
    assert done.returncode == 0, done.stderr

    def ready() -> list[str]:
        return [row["id"] for row in json.loads(runner("container", "list", "--json").stdout) if row["state"] == "ready"]

    yield runner, wait_until(ready, "the start of a container")[0]
    began = time.monotonic()
    stop_server(data)
    assert time.monotonic() - began < 15, "something of a command in a container held the server up"
    shutil.rmtree(data)


def test_a_command_at_pipes(entered: tuple[Runner, str], request: pytest.FixtureRequest) -> None:
    squall, container = entered
    done = squall(
        "container", "exec", container, "sh", "-c", "echo out; echo err >&2; echo $KEYWORD; pwd; touch /data/x; grep CapEff /proc/self/status; exit 7"
    )
    assert (done.returncode, done.stderr) == (7, "err\n")
    assert done.stdout == "out\nsesame\n/root\nCapEff:\t0000000000000000\n"
    typed = os.urandom(3 << 20)
    copied = subprocess.run([SQUALL, "container", "exec", container, "cat"], env=squall.env, input=typed, capture_output=True, timeout=60)
    assert (copied.returncode, copied.stdout == typed) == (0, True)
    assert squall("container", "exec", container, "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    missing = squall("container", "exec", container, "no-such-command")
    assert missing.returncode == 127
    assert missing.stderr.lower().endswith("no such file or directory\n")
    gone = squall("container", "exec", "ct-00000000", "true")
    assert gone.returncode == 1
    assert "there is no container" in gone.stderr
    if "gvisor" in request.node.name:  # what is limited is the sandbox, which the command runs in
        return
    # The container's limits are the command's, too.
    limited = [line for line in squall("container", "exec", container, "cat", "/proc/1/cgroup").stdout.splitlines() if "squall" in line]
    assert limited
    own = squall("container", "exec", container, "cat", "/proc/self/cgroup").stdout.splitlines()
    limits = {line for line in limited if ":memory:" in line or ":pids:" in line} or {line for line in limited if line.startswith("0::")}
    assert limits <= set(own)


def test_a_client_that_goes_away_ends_its_command(entered: tuple[Runner, str]) -> None:
    squall, container = entered
    with squall.popen("container", "exec", container, "sh", "-c", "echo begun; exec sleep 1234") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    wait_until(lambda: "sleep" not in squall("container", "exec", container, "sh", "-c", "cat /proc/[0-9]*/comm").stdout, "the end of the command")


def test_a_shell_at_a_terminal(entered: tuple[Runner, str]) -> None:
    squall, container = entered
    terminal = Terminal(squall, "shell", container)
    terminal.type("echo $((6 * 7)) $KEYWORD $(test -t 0 && echo at a terminal)\n")  # `tty` finds no name for it under gVisor
    terminal.until("42 sesame at a terminal")
    terminal.resize(33, 101)
    terminal.type("until [ \"$(stty size)\" = '33 101' ]; do :; done; echo re''sized\n")
    terminal.until("resized")
    terminal.type("sh -c \"echo sl''eeping; exec sleep 1000\"\n")
    terminal.until("sleeping")
    terminal.type("\x03")
    terminal.type("echo interrupted $?\n")
    terminal.until("interrupted 130")
    terminal.type("exit 5\n")
    assert terminal.end() == 5


def test_a_shell_with_what_a_function_has(entered: tuple[Runner, str], request: pytest.FixtureRequest) -> None:
    squall, _ = entered
    done = squall("shell", "program.py::f", "-c", "echo $KEYWORD; echo /data/* /root/*; exit 3")
    assert (done.returncode, done.stdout) == (3, "sesame\n/data/x /root/program.py\n"), done.stderr
    if "gvisor" in request.node.name:  # the rest has nothing to do with what runs it
        return
    assert squall("shell", "-c", "python3 -c 'print(6 * 7)'").stdout == "42\n"
    assert "name a function" in squall("shell", "program.py::main", "-c", "true").stderr
    assert "there is no file" in squall("shell", "nothing.py::f", "-c", "true").stderr
    broken = squall.program("broken.py", PROGRAM + "\nif not squall.is_local():\n    raise RuntimeError('not here')\n")
    assert squall("shell", f"{broken}::f", "-c", "echo all the same").stdout == "all the same\n"
