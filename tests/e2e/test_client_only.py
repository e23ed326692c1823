"""`pip install squall` without extras, as on a laptop whose server is elsewhere: a wheel in an environment with the client's dependencies alone."""

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from .conftest import Runner, Started
from .test_serve import PROGRAM as SITE
from .test_serve import Lines, get

ROOT = Path(__file__).parents[2]
LINE = "pip install 'squall[server]'"
#: Named apart: other files look at what there is of theirs on the same server.
SERVED = SITE.replace('squall.App("served")', 'squall.App("served-from-a-laptop")')
PROGRAM = """
import squall

app = squall.App("laptop")

@app.function()
def double(x):
    return 2 * x

@app.local_entrypoint()
def main():
    print(double.remote(21))
"""


def normal(name: str) -> str:
    """A distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_by_the_client() -> set[str]:
    """The distributions that the wheel asks for without extras, and what these ask for on this platform."""
    here = {normal(distribution.name) for distribution in importlib.metadata.distributions()}
    found: set[str] = set()
    left = ["squall"]
    while left:
        for text in importlib.metadata.requires(left.pop()) or []:
            name = normal(re.split(r"[^A-Za-z0-9._-]", text)[0])
            if "extra ==" not in text and name in here and name not in found:
                found.add(name)
                left.append(name)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `squall` of the wheel. Dependencies are links to this environment's, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("client")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--python", python, *folder.glob("*.whl")], check=True, capture_output=True
    )
    packages = next((folder / "venv/lib").glob("python3*/site-packages"))
    for name in needed_by_the_client():
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(distribution.locate_file(top)))
    absent = subprocess.run([python, "-c", "import uvloop"], capture_output=True, check=False)
    assert b"No module named 'uvloop'" in absent.stderr, "this environment is no client's"
    return folder / "venv/bin/squall"


class Laptop:
    """Runs that command, with a data directory of its own."""

    def __init__(self, command: Path, folder: Path) -> None:
        self.command, self.folder = command, folder
        self.env = {**os.environ, "SQUALL_DATA_DIR": str(folder / "data"), "NO_COLOR": "1", "COLUMNS": "200"}

    def __call__(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([self.command, *argv], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def laptop(installed: Path, tmp_path: Path) -> Laptop:
    (tmp_path / "laptop.py").write_text(PROGRAM)
    return Laptop(installed, tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "run laptop.py",
        "deploy laptop.py",
        "shell laptop.py::double",
        "image build laptop.py",
        "server start",
        "server start --foreground",
        "server migrate",
        "server backup there",
        "server restore --yes there",
        "doctor",
    ],
)
def test_what_needs_a_server_here_says_the_line_to_type(laptop: Laptop, command: str) -> None:
    done = laptop(*command.split())
    assert done.returncode == 1, done
    assert LINE in done.stderr, done
    assert "Traceback" not in done.stderr + done.stdout, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("command", ["app list", "call list", "volume list", "server stop", "gc", "--version", "--help"])
def test_what_asks_a_server_needs_none_of_its_packages(laptop: Laptop, command: str) -> None:
    done = laptop(*command.split())
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr, done


@pytest.mark.root
def test_it_runs_and_serves_programs_of_a_server_elsewhere(squall: Runner, laptop: Laptop) -> None:
    assert squall("server", "start").returncode == 0
    laptop.env["SQUALL_SERVER_URL"] = f"unix://{squall.data}/run/server.sock"
    done = laptop("run", "laptop.py")
    assert (done.returncode, done.stdout) == (0, "42\n"), done
    (laptop.folder / "served.py").write_text(SERVED % "one")
    with Started(
        [str(laptop.command), "serve", "served.py"], cwd=laptop.folder, env=laptop.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = Lines(process)
        url = lines.until(r"site +(http://\S+)")[1]
        assert get(url) == "one"
        (laptop.folder / "served.py").write_text(SERVED % "two")
        lines.until("served.py changed")
        lines.until("is served")
        assert get(url) == "two"
        process.send_signal(signal.SIGINT)
        lines.until("no longer served")
        assert process.wait(timeout=30) == 0
        lines._thread.join(5)
