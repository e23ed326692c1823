"""The embedded server's life: started by need, killed, stopped, asked to listen elsewhere. Each test has a state directory of its own."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support.waiting import lives, wait_until

from .conftest import SQUALL, Runner, server_pid, stop_server

pytestmark = pytest.mark.root

PROGRAM = r"""
import sys, time
import squall

app = squall.App("lives")

@app.function(max_containers=2)
def slow(i: int) -> int:
    print("at", i, flush=True)
    time.sleep(0.2)
    return i

@app.local_entrypoint()
def main(n: int = 20):
    call = slow.spawn(1000)
    sys.stdout.write(f"sum {sum(slow.map(range(n)))}\n")
    sys.stdout.write(f"spawned {call.get(timeout=60)}\n")
"""


@pytest.fixture
def own(own: Runner) -> Runner:
    own.program("lives.py", PROGRAM)
    return own


def rows(runner: Runner, *argv: str) -> list[dict[str, object]]:
    listed = runner(*argv, "--json")
    assert listed.returncode == 0, listed.stderr
    found: list[dict[str, object]] = json.loads(listed.stdout)
    return found


def test_the_first_command_starts_it_on_a_private_socket_and_nothing_else(own: Runner) -> None:
    done = own("run", "lives.py", "--n", "2")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith("at ")] == ["sum 1", "spawned 1000"]
    assert "started the local server" in done.stderr
    path = own.data / "run" / "server.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    assert f"pid={server_pid(own)}," not in listening
    assert "started the local server" not in own("run", "lives.py", "--n", "1").stderr


def test_it_goes_on_when_who_started_it_was_killed(own: Runner) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "squall.gateway.main", "--background", "--ready-fd", str(writing)]
    with (own.folder / "log").open("w+") as log:
        assert subprocess.run(command, env=own.env, pass_fds=[writing], stdout=log, stderr=log).returncode == 0
        os.close(writing)
        done = own("run", "lives.py", "--n", "1")  # waits for the one that starts
        assert done.returncode == 0, done.stderr
        assert "listening on" in Path(log.name).read_text()
        assert "can't run" not in Path(log.name).read_text()
    assert own("server", "status").returncode == 0


def test_killed_in_the_middle_the_program_goes_on(own: Runner) -> None:
    assert own("run", "lives.py", "--n", "1").returncode == 0
    with own.popen("run", "lives.py", "--n", "40") as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("at ")
        assert running.stdout.readline().startswith("at ")
        first = server_pid(own)
        os.kill(first, signal.SIGKILL)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    said = [line for line in out.splitlines() if not line.startswith("at ")]
    assert said == [f"sum {sum(range(40))}", "spawned 1000"]
    assert err.count("lost the server") == 1
    assert server_pid(own) != first


def test_stopping_it_ends_what_runs_and_leaves_nothing(own: Runner) -> None:
    with own.popen("run", "lives.py", "--n", "1000") as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("at ")
        pid = server_pid(own)
        (container, *_) = rows(own, "container", "list")
        assert own("server", "stop").returncode == 0
        wait_until(lambda: not lives(pid), "the end of the server")
        wait_until(lambda: not lives(container["pid"]), "the end of its container")
        running.kill()  # it would wait for the server to come back
    status = own("server", "status")
    assert status.returncode == 1
    assert status.stderr.startswith("✗ no server answers")


def test_a_client_that_vanishes_leaves_no_containers(own: Runner) -> None:
    with own.popen("run", "lives.py", "--n", "1000") as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("at ")
        assert rows(own, "container", "list")
        running.kill()
    wait_until(lambda: not rows(own, "container", "list"), "the end of its containers", timeout_s=90)


def test_two_first_commands_at_once_share_one_server(own: Runner) -> None:
    both = [own.popen("run", "lives.py", "--n", "3") for _ in range(2)]
    results = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], results
    assert len(rows(own, "app", "list", "--all")) == 2


def test_tcp_is_for_those_who_have_the_token(own: Runner) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert own("server", "start", "--listen", f"tcp://127.0.0.1:{port}").returncode == 0
    token = own("server", "token").stdout.strip()
    assert len(token) > 30

    def over_tcp(token: str | None) -> "subprocess.CompletedProcess[str]":
        env = {**own.env, "SQUALL_SERVER_URL": f"tcp://127.0.0.1:{port}"}
        if token is not None:
            env["SQUALL_TOKEN"] = token
        argv = [str(SQUALL), "run", "lives.py", "--n", "3"]
        return subprocess.run(argv, cwd=own.folder, env=env, capture_output=True, text=True, timeout=120)

    assert "spawned 1000" in over_tcp(token).stdout.splitlines()
    for wrong in (None, "not it"):
        refused = over_tcp(wrong)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "token" in refused.stderr and "SQUALL_TOKEN" in refused.stderr


def test_a_port_in_use_and_a_plain_port_for_everybody_are_said_plainly(own: Runner) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = own("server", "start", "--listen", f"tcp://127.0.0.1:{port}")
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}" in refused.stderr and "in use" in refused.stderr
    open_to_all = own("server", "start", "--listen", "tcp://0.0.0.0:7777")
    assert open_to_all.returncode == 1
    assert "tls://" in open_to_all.stderr


def test_a_full_disk_is_said_plainly_and_room_heals_it(own: Runner) -> None:
    small = own.data / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=711", "squall-test", small], check=True)
    try:
        for shared in ("layers", "cache"):
            (small / shared).symlink_to(os.readlink(own.data / shared))
        tight = Runner(small, own.folder)
        assert tight("run", "lives.py", "--n", "1").returncode == 0
        with (small / "ballast").open("wb") as ballast, pytest.raises(OSError, match="No space left"):
            while True:
                ballast.write(bytes(1 << 16))
                ballast.flush()
        full = tight("run", "lives.py", "--n", "1")
        assert full.returncode == 1
        assert "disk" in full.stderr and "full" in full.stderr, full.stderr
        assert "Traceback" not in full.stderr
        (small / "ballast").unlink()
        assert tight("run", "lives.py", "--n", "1").returncode == 0
    finally:
        stop_server(small)
        subprocess.run(["umount", small], check=True)
