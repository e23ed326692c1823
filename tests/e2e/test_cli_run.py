"""The installed command on real containers: what it prints where, how it ends, what is left of the run."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

EXAMPLES = Path(__file__).parents[2] / "examples"

PROGRAM = """
import sys, time
import squall

app = squall.App("cli-e2e")

@app.function()
def square(x: int) -> int:
    print("out", x)
    print("err", x, file=sys.stderr)
    return x * x

@app.function()
def count(n: int):
    yield from range(n)

@app.function()
def root(x: float) -> float:
    import math
    return math.sqrt(x)

@app.function(memory=(128, 128))
def hog() -> int:
    return len(bytearray(512 << 20))

@app.function()
def sleep(seconds: float) -> None:
    print("asleep", flush=True)
    time.sleep(seconds)

@app.function()
def lines(n: int) -> None:
    for i in range(n):
        print("line", i)

@app.local_entrypoint()
def main(n: int = 3):
    print(square.remote(n))

@app.local_entrypoint()
def fails():
    root.remote(-1)

@app.local_entrypoint()
def stubborn():
    try:
        sleep.remote(600)
    except KeyboardInterrupt:
        print("caught", flush=True)
        time.sleep(600)

@app.local_entrypoint()
def leaves(status: int):
    square.remote(1)
    sys.exit(status)
"""

Squall = Any  # the fixture's runner, of tests/e2e/conftest.py


@pytest.fixture
def program(squall: Squall) -> str:
    name: str = squall.program("cli_e2e.py", PROGRAM)
    return name


def containers(squall: Squall) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(squall("container", "list", "--json").stdout)
    return found


def lines_of(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """The lines of stdout, sorted: a container's output and the call's result come on two connections, so which is first is not said."""
    return sorted(done.stdout.splitlines())


def test_each_stream_is_its_own(squall: Squall, program: str) -> None:
    done = squall("run", f"{program}::main", "--n", "7")
    assert done.returncode == 0
    assert lines_of(done) == ["49", "out 7"]
    talk = done.stderr.splitlines()
    assert "err 7" in talk
    assert talk[-1].startswith("✓ done in ")
    assert "1 container" in talk[-1]


def test_quiet(squall: Squall, program: str) -> None:
    done = squall("run", "-q", f"{program}::main")
    assert (done.returncode, lines_of(done), done.stderr) == (0, ["9", "out 3"], "err 3\n")


def test_a_function_is_a_target_too(squall: Squall, program: str) -> None:
    done = squall("run", "-q", f"{program}::square", "--x", "5")
    assert (done.returncode, lines_of(done)) == (0, ["25", "out 5"])
    done = squall("run", "-q", f"{program}::app.count", "--n", "3")
    assert (done.returncode, done.stdout) == (0, "0\n1\n2\n")


def test_as_a_module(squall: Squall, program: str) -> None:
    done = squall("run", "-q", "-m", f"{program.removesuffix('.py')}::main")
    assert (done.returncode, lines_of(done)) == (0, ["9", "out 3"])


def test_the_users_traceback(squall: Squall, program: str) -> None:
    done = squall("run", "-q", f"{program}::fails")
    assert (done.returncode, done.stdout) == (1, "")
    lines = [line for line in done.stderr.splitlines() if "~" not in line and "^" not in line]
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith('  File "cli_e2e.py", line ')
    assert lines[1].endswith(", in fails")
    assert lines[2] == "    root.remote(-1)"
    assert lines[3].startswith('  File "cli_e2e.py", line ')
    assert ", in root " in lines[3]
    assert "(in container ct-" in lines[3]
    assert lines[4] == "    return math.sqrt(x)"
    assert lines[5:] == ["ValueError: math domain error"]


def test_the_platforms_paragraph(squall: Squall, program: str) -> None:
    done = squall("run", "-q", f"{program}::hog")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("✗ hog ran out of memory: 128 MiB")
    assert "Traceback" not in done.stderr


def test_a_failing_build_step(squall: Squall) -> None:
    base = "import squall\napp = squall.App()\nimage = squall.Image.debian_slim()"
    text = f"{base}.run_commands('echo before', 'exit 7')\n@app.function(image=image)\ndef f(): ...\n"
    done = squall("run", squall.program("build_e2e.py", text))
    assert (done.returncode, done.stdout) == (1, "")
    assert "before" in done.stderr
    assert "exit code 7" in done.stderr
    assert "step 2 of 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_programs_own_exit_status(squall: Squall, program: str) -> None:
    assert squall("run", f"{program}::leaves", "--status", "5").returncode == 5


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupted_nothing_is_left(squall: Squall, program: str, number: int, status: int) -> None:
    with squall.popen("run", f"{program}::sleep", "--seconds", "600") as running:
        assert running.stdout.readline() == "asleep\n"
        running.send_signal(number)
        _, err = running.communicate(timeout=30)
    assert running.returncode == status
    assert "Traceback" not in err
    assert [row for row in containers(squall) if row["function"] == "sleep"] == []


def test_a_second_interrupt_leaves_at_once(squall: Squall, program: str) -> None:
    with squall.popen("run", f"{program}::stubborn") as running:
        assert running.stdout.readline() == "asleep\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "caught\n"
        running.send_signal(signal.SIGINT)
        running.wait(timeout=10)
    assert running.returncode == 130


def test_a_reader_that_goes_away(squall: Squall, program: str) -> None:
    command = f"{Path(sys.executable).parent / 'squall'} run -q {program}::lines --n 200000 | head -n 1"
    done = subprocess.run(command, shell=True, cwd=squall.folder, env=squall.env, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("line 0\n", "")


def test_listings_and_logs(squall: Squall, program: str) -> None:
    before = {row["id"] for row in containers(squall)}
    with squall.popen("run", f"{program}::sleep", "--seconds", "600") as running:
        assert running.stdout.readline() == "asleep\n"
        (container,) = [row for row in containers(squall) if row["id"] not in before]
        apps = {row["id"]: row for row in json.loads(squall("app", "list", "--all", "--json").stdout)}
        assert apps[container["app"]]["name"] == "cli-e2e"
        assert container["id"][:21] in squall("container", "list").stdout
        assert squall("container", "logs", container["id"]).stdout == "asleep\n"
        assert squall("app", "logs", container["app"]).stdout == "asleep\n"
        wrong = squall("container", "logs", "ct-ffff")
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert wrong.stderr.startswith("✗ ")
        stopped = squall("app", "stop", "cli-e2e")
        assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", f"✓ {container['app']} is stopped\n")
        running.communicate(timeout=60)
    assert running.returncode != 0
    assert container["id"] not in {row["id"] for row in containers(squall)}
    assert squall("app", "logs", container["app"]).stdout == "asleep\n", "logs outlive their containers"


@pytest.mark.parametrize(
    ("example", "argv", "says"),
    [
        ("generator.py", ["--limit", "10"], "2 3 5 7\nthe first prime above 1000 is 1009\n"),
        ("generator.py::primes", ["--limit", "6"], "2\n3\n5\n"),
        ("asynchronous.py", ["--n", "2"], "['ONE', 'TWO']\n['WORD 0', 'WORD 1']\n2\n1\nlift-off\n"),
        ("spawn.py", ["--rounds", "1000"], "spawned 4 calls; this program is free to do other things\n"),
    ],
)
def test_examples(squall: Squall, example: str, argv: list[str], says: str) -> None:
    done = squall("run", "-q", str(EXAMPLES / example), *argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(says)


@pytest.mark.slow
def test_hello(squall: Squall) -> None:
    """Installs numpy and jq into an image the first time."""
    done = squall("run", str(EXAMPLES / "hello.py"), "--n", "20", timeout_s=300)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(["1000000", "1000000", "2470", *["hello"] * 12])
    assert done.stderr.splitlines().count("world") == 10
