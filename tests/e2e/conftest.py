"""A real server of our own for these tests, started as a user's first command would, and stopped at the end."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from squall.runtime.ids import DEFAULT_IDS
from squall.sdk.client.client import Client
from squall.sdk.client.launch import server_log
from support.s3 import ELSEWHERE

CACHE = Path(os.environ.get("SQUALL_TEST_CACHE", "~/.cache/squall-tests")).expanduser()
PROGRAMS = Path(__file__).parent.parent / "programs"
SQUALL = Path(sys.executable).parent / "squall"


#: Where the tests' own object stores are.
os.environ["SQUALL_BUCKET_ENDPOINTS"] = f"127.0.0.1,{ELSEWHERE}"


def make_data_directory() -> Path:
    """A fresh state directory whose image layers are those of earlier runs: a base takes half a minute to make."""
    data = Path(tempfile.mkdtemp(prefix="squall-e2e-"))
    data.chmod(0o711)
    for shared in ("layers", "cache"):
        (CACHE / f"e2e-{DEFAULT_IDS.first}" / shared).mkdir(parents=True, exist_ok=True)
        (data / shared).symlink_to(CACHE / f"e2e-{DEFAULT_IDS.first}" / shared)
    return data


def stop_server(data: Path) -> None:
    subprocess.run([SQUALL, "server", "stop"], env={**os.environ, "SQUALL_DATA_DIR": str(data)}, check=False, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def data() -> Iterator[Path]:
    """The state directory of the session's server; the server itself is started by its first client."""
    directory = make_data_directory()
    before = os.environ.get("SQUALL_DATA_DIR")
    os.environ["SQUALL_DATA_DIR"] = str(directory)
    Client._default = None
    yield directory
    stop_server(directory)
    if before is None:
        del os.environ["SQUALL_DATA_DIR"]
    else:
        os.environ["SQUALL_DATA_DIR"] = before
    Client._default = None
    shutil.rmtree(directory)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the server had to say."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("data")
    if report.failed and isinstance(folder, Path) and server_log(folder).exists():
        report.sections.append(("the end of the server's log", server_log(folder).read_text(errors="replace")[-6000:]))
    return report


@pytest.fixture(autouse=True)
def connections_closed(data: Path) -> Iterator[None]:
    """Idle connections are kept for the next call; a test gives them back."""
    yield
    Client.default().close_idle()


@pytest.fixture
def squall(data: Path, tmp_path: Path) -> Iterator["Runner"]:
    yield Runner(data, tmp_path)


class Started(subprocess.Popen[str]):
    """A command that runs; a test that fails meanwhile does not wait for it."""

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)  # type: ignore[arg-type]


class Runner:
    """Runs the installed command as a user does, in a folder of its own."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder
        #: Variables of its commands, besides this process's own.
        self.extra: dict[str, str] = {}

    @property
    def env(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if name != "CI"}
        return {**env, "SQUALL_DATA_DIR": str(self.data), "NO_COLOR": "1", "COLUMNS": "200", **self.extra}

    def __call__(self, *argv: str, timeout_s: float = 120.0, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([str(SQUALL), *argv], cwd=self.folder, env=self.env, input=stdin, capture_output=True, text=True, timeout=timeout_s)

    def popen(self, *argv: str) -> "Started":
        return Started([str(SQUALL), *argv], cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def program(self, name: str, text: str) -> str:
        """Write a program into the folder."""
        (self.folder / name).write_text(text)
        return name


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Runner]:
    """A command runner with a server, and state, of its own. A file that needs more there overrides it by one of the same name."""
    data = make_data_directory()
    yield Runner(data, tmp_path)
    stop_server(data)
    shutil.rmtree(data)


def server_pid(runner: Runner) -> int:
    """Of the server of its data directory."""
    return int((runner.data / "server.lock").read_text())


def free_port() -> int:
    """A TCP port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
