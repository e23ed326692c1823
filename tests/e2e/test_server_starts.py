"""The server of a data directory, started by hand or by need, killed, stopped, restarted: it stays what its owner started, and no call is lost."""

import fcntl
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from squall.model.errors import ConflictError
from squall.sdk.client.last_start import last_start, remember
from support.waiting import lives, wait_until

from .conftest import Runner, free_port, server_pid
from .test_server import PROGRAM, rows
from .test_web_tls import certificate

COUNTED = """
import sys, time
import squall

app = squall.App("counted")

@app.function(max_containers=2)
def slow(i: int) -> int:
    print("at", i, flush=True)
    time.sleep(0.2)
    return i

@app.local_entrypoint()
def main(n: int = 30):
    sys.stdout.write(f"sum {sum(slow.map(range(n)))}\\n")
"""


@pytest.fixture
def own(own: Runner) -> Runner:
    own.program("lives.py", PROGRAM)
    own.program("counted.py", COUNTED)
    return own


def status(runner: Runner) -> dict[str, object]:
    (found,) = [json.loads(runner("server", "status", "--json").stdout)]
    assert isinstance(found, dict)
    return found


def killed(runner: Runner) -> int:
    pid = server_pid(runner)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not lives(pid), "the end of the server")
    return pid


@pytest.mark.root
def test_a_run_after_a_crash_starts_the_server_that_its_owner_started(own: Runner) -> None:
    certificate(own.folder, "squall.example")
    url = f"tls://127.0.0.1:{free_port()}"
    started = own("server", "start", "--listen", url, "--tls-cert", "cert.pem", "--tls-key", "key.pem")  # relative, as one types it
    assert started.returncode == 0, started.stderr
    assert url in str(status(own)["listening"])
    killed(own)
    assert own("run", "lives.py", "--n", "1").returncode == 0
    assert url in str(status(own)["listening"])
    (own.folder / "cert.pem").unlink()
    killed(own)
    refused = own("run", "lives.py", "--n", "1")
    assert refused.returncode == 1
    assert "cert.pem" in refused.stderr and "squall server start" in refused.stderr, refused.stderr
    assert own("server", "start").returncode == 0
    assert url not in str(status(own)["listening"])
    killed(own)
    assert own("run", "lives.py", "--n", "1").returncode == 0


@pytest.mark.root
def test_a_second_server_says_why_it_ends(own: Runner) -> None:
    assert own("run", "lives.py", "--n", "1").returncode == 0
    second = own("server", "start", "--foreground", "--web", "127.0.0.1:0")
    assert second.returncode == 1
    assert second.stderr.strip().splitlines() == [
        f"the server can't run: another server of {own.data} runs already (pid {server_pid(own)}); squall server stop ends it"
    ]


@pytest.mark.root
def test_a_restart_keeps_what_runs_and_the_options(own: Runner) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    assert own("server", "start", "--listen", url).returncode == 0
    with own.popen("run", "counted.py") as running:
        assert running.stdout is not None
        first = [running.stdout.readline() for _ in range(2)]
        before, containers = server_pid(own), {row["id"] for row in rows(own, "container", "list")}
        done = own("server", "restart")
        assert done.returncode == 0, done.stderr
        assert server_pid(own) != before
        assert url in str(status(own)["listening"])
        out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    lines = [*"".join(first).splitlines(), *out.splitlines()]
    assert lines[-1] == f"sum {sum(range(30))}"
    # What was printed between the two servers may not have been shown.
    assert Counter(lines[:-1]) <= Counter(f"at {i}" for i in range(30)), "something began anew"
    assert containers & {row["id"] for row in rows(own, "container", "list", "--all")}


@pytest.mark.root
def test_what_runs_when_the_server_is_stopped_is_done_when_it_starts_again(own: Runner) -> None:
    with own.popen("run", "lives.py", "--n", "30") as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("at ")
        stopped = own("server", "stop")
        assert stopped.returncode == 0, stopped.stderr
        assert subprocess.run(["pgrep", "-f", str(own.data)], capture_output=True, check=False).stdout == b"", "something goes on"
        assert running.poll() is None
        assert own("server", "status").returncode == 1, "its client must not start it again"
        assert own("server", "start").returncode == 0
        out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert [line for line in out.splitlines() if not line.startswith("at ")] == [f"sum {sum(range(30))}", "spawned 1000"]


SITE = """
import squall

app = squall.App("held")

@app.function(secrets=[squall.Secret.from_name("needed")])
@squall.asgi_app()
def site():
    async def serve(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})
    return serve
"""


def get(url: str) -> tuple[int, str]:
    """The status of a GET and its Retry-After."""
    parts = urlsplit(url)
    request = urllib.request.Request(f"http://127.0.0.1:{parts.port}/", headers={"Host": parts.netloc})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Retry-After"] or ""


@pytest.mark.root
def test_web_functions_that_are_not_taken_up_yet_are_not_unknown(own: Runner) -> None:
    own.program("held.py", SITE)
    assert own("secret", "create", "needed", "A=b").returncode == 0
    deployed = own("deploy", "held.py")
    assert deployed.returncode == 0, deployed.stderr
    url = next(word for word in (deployed.stderr + deployed.stdout).split() if word.startswith("http://"))
    assert get(url) == (200, "")
    assert own("secret", "delete", "--yes", "needed").returncode == 0  # so that the app can't be taken up for a while
    killed(own)
    assert own("server", "start").returncode == 0
    assert get(url) == (503, "1")
    assert get(url.replace("held", "unheard-of"))[0] == 404
    assert own("secret", "create", "needed", "A=b").returncode == 0
    wait_until(lambda: get(url) == (200, ""), "the app's return")


def test_variables_of_the_server_are_remembered_and_secret_ones_asked_for(tmp_path: Path) -> None:
    was = {"SQUALL_WEB_BODY_S": "5", "SQUALL_DATABASE_URL": "postgresql://u:p@h/d", "SQUALL_TOKEN": "mine", "HOME": "/root"}
    remember(tmp_path, ["--listen", "tls://h:1"], was, foreground=True)
    said = last_start(tmp_path)
    assert said.options == ("--listen", "tls://h:1")
    assert said.foreground
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "u:p" not in file.read_text()
    with pytest.raises(ConflictError, match="SQUALL_DATABASE_URL"):
        said.environment({})
    assert said.environment({"SQUALL_DATABASE_URL": "there"}) == {"SQUALL_DATABASE_URL": "there", "SQUALL_WEB_BODY_S": "5"}
    assert last_start(tmp_path / "absent").options == ()


@pytest.mark.root
def test_a_server_that_is_started_while_another_one_ends_takes_its_place(own: Runner) -> None:
    path = own.data / "server.lock"

    def comes() -> bool:
        """Whether somebody else has the lock file open, too."""
        others = (link for process in Path("/proc").iterdir() if process.name.isdigit() and int(process.name) != os.getpid() for link in opened(process))
        return str(path) in others

    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a server that closes what it has, and listens no more
        with own.popen("run", "lives.py") as running:
            wait_until(comes, "the next server")
            fcntl.flock(lock, fcntl.LOCK_UN)
            _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err


def opened(process: Path) -> list[str]:
    try:
        return [os.readlink(each) for each in (process / "fd").iterdir()]
    except OSError:
        return []
