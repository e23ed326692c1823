"""Containers that are copies of a process with the imports done: what they share, what is their own, and what can't be copied."""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import Snapped, alone, app, draw, surroundings, under_gvisor, wake_from_a_thread

import squall
from squall.model.errors import RemoteError
from squall.runtime.host import inspect_host
from support.cdi import LOOK, write_cdi
from support.waiting import lives, wait_until

from .conftest import Runner, make_data_directory, stop_server

pytestmark = [pytest.mark.root, pytest.mark.skipif(inspect_host().driver != "fork" and not os.environ.get("CI"), reason="this host can't copy templates")]


@pytest.fixture(scope="module")
def running(data: Path) -> Iterator[squall.App]:
    with app.run():
        yield app


def test_copies_share_the_import_and_draw_differently(running: squall.App) -> None:
    draws = [draw.remote() for _ in range(4)]
    assert len({found["at_import"] for found in draws}) == 1
    for kind in draws[0].keys() - {"at_import"}:
        assert len({found[kind] for found in draws}) == 4, kind


def test_a_copy_has_its_own_surroundings(running: squall.App) -> None:
    found = [surroundings.remote() for _ in range(3)]
    for one in found:
        assert one["pid"] == one["main_thread"] == 2
        assert one["tmp"] == ["written-at-import"]
        assert one["written"] == "by the import"
        assert (one["cwd"], one["colour"], one["first_in_path"]) == ("/root", "green", "/root")
        assert 48 <= one["disk_mib"] <= 68
        assert one["hostname"] == one["container"][:15]
        status = one["status"]
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0000000000000000"}
        assert (status["NoNewPrivs"], status["Seccomp"], status["NSpid"]) == ("1", "2", "2")
        assert len(one["descriptors"]) <= 7, one["descriptors"]  # streams, socket, what it shares with the agent twice, the listing
    assert len({one["container"] for one in found}) == 3


def test_fork_false_imports_in_each_container(running: squall.App) -> None:
    assert alone.remote() != alone.remote()


def test_snapshot_hooks_run_once_and_enter_hooks_each_time(running: squall.App) -> None:
    (snapped, entered), (again, later) = Snapped().both.remote(), Snapped().both.remote()
    assert snapped == again
    assert entered != later


def test_the_main_thread_of_a_copy_can_be_signalled(running: squall.App) -> None:
    wake_from_a_thread.remote()
    assert wake_from_a_thread.remote() == 1


def test_under_gvisor_a_function_is_what_it_is_elsewhere(running: squall.App) -> None:
    found = under_gvisor.remote()
    assert found["kernel"] != Path("/proc/version").read_text()
    assert (found["root"], found["colour"], found["name"]) == ("9p", "green", "127.0.0.1")
    assert isinstance(found["of_another"], float)
    call = under_gvisor.spawn(1000)
    wait_until(lambda: under_gvisor.get_current_stats().num_running_inputs == 1, "the input running")
    call.cancel()
    with pytest.raises(RemoteError, match="cancelled"):
        call.get(timeout=30)
    assert under_gvisor.remote()["container"] == found["container"], "the signal that interrupts a busy runner did not arrive, and it was replaced"


OBSTACLES = {
    "thread": ("import threading, time; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()", "thread runs"),
    "socket": ("import socket; S = socket.socket()", "a socket"),
    "epoll": ("import select; E = select.epoll()", "event loop"),
    "inotify": ("import ctypes; I = ctypes.CDLL(None).inotify_init()", "inotify"),
    "process": ("import subprocess; P = subprocess.Popen(['sleep', '1000'])", "process"),
    "pipe": ("import os; R = os.pipe()", "a pipe"),
    "file": ("F = open('/root/log', 'w')", "/root/log"),
}


def test_what_is_not_copied_says_why(data: Path, squall: Any) -> None:
    """In the container's row, in the function's, and in the call's."""
    ended = squall("run", squall.program("held.py", HELD))
    assert ended.returncode == 0, ended.stderr
    found, shown, call = ended.stdout.split("=====\n")
    values, containers, functions = (json.loads(line) for line in found.splitlines())
    assert values == [[42, 42]] * len(OBSTACLES)
    for name, (_, reason) in OBSTACLES.items():
        (row,) = (row for row in containers if row["function"] == name)
        assert (row["copy_of"], reason in row["not_forked"]) == ("image", True), (name, row)
        (told,) = (row["templates"] for row in functions if row["function"] == name)
        assert (told[0]["there"], told[0]["not_forked"]) == (False, row["not_forked"])
    assert "by importing" in shown and f"no template: {OBSTACLES['thread'][1]}" not in shown and "thread runs" in shown
    assert "it was no copy of its function's template: " in call and "thread runs" in call and "fork " in call
    missing = squall("function", "inspect", "not-there")
    assert (missing.returncode, "there is no function 'not-there'" in missing.stderr) == (1, True)


HELD = (
    """
import json, os, subprocess, sys
from pathlib import Path
import squall
app = squall.App("held")
held = os.environ.get("HOLD")
"""
    + "".join(f"if held == {name!r}:\n    {line}\n" for name, (line, _) in OBSTACLES.items())
    + "".join(f"@app.function(name={name!r}, env={{'HOLD': {name!r}}})\ndef f_{name}():\n    return 42\n" for name in OBSTACLES)
    + f"""
def ask(*words):
    command = [str(Path(sys.executable).parent / "squall"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

@app.local_entrypoint()
def main():
    print(json.dumps([(function.remote(), function.remote()) for function in ({", ".join(f"f_{name}" for name in OBSTACLES)})]))
    print(json.dumps(json.loads(ask("container", "list", "--json", "--app", app.app_id))))
    print(json.dumps(json.loads(ask("function", "list", "--json", "--app", app.app_id))))
    print("=====", ask("function", "inspect", f"{{app.app_id}}::thread"), sep="\\n", end="")
    calls = json.loads(ask("call", "list", "--json", "--app", app.app_id))
    print("=====", ask("call", "show", next(row["call"] for row in calls if row["function"] == "thread")), sep="\\n", end="")
"""
)


def test_the_example_of_the_document(squall: Any) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/isolation.md").read_text(), re.DOTALL)
    done = squall("run", squall.program("untrusted.py", text))
    assert (done.returncode, done.stdout) == (0, "42\n4.4.0\n"), done.stderr


def test_a_server_whose_default_is_gvisor(tmp_path: Path) -> None:
    own = Runner(make_data_directory(), tmp_path)
    try:
        assert own("server", "start", "--driver", "gvisor").returncode == 0
        program = own.program("default.py", PROGRAM.format(line="pass").replace("return 42", "print('from inside')\n    return open('/proc/version').read()"))
        ended = own("run", program)
        assert ended.returncode == 0, ended.stderr
        assert "from inside" in ended.stdout and "4.4.0" in ended.stdout  # what gVisor says it is
    finally:
        stop_server(own.data)
        shutil.rmtree(own.data)


def test_a_function_gets_the_device_that_was_reserved_for_it(tmp_path: Path) -> None:
    """By gpu=, the GPU's id, and a CDI file that has something harmless for it; each call while the other holds the other device."""
    specs = write_cdi(tmp_path / "vendor", ("simulated-A100-0", "simulated-A100-1"))
    (tmp_path / "vendor").chmod(0o755)
    own = Runner(make_data_directory(), tmp_path)
    own.extra = {"SQUALL_SIMULATED_GPUS": "A100:2", "SQUALL_CDI_DIRS": str(specs)}
    try:
        code = "\n    ".join(["global found", *LOOK.strip().splitlines(), "return found"])
        text = PROGRAM.format(line="pass").replace("return 42", code).replace("function()", "function(gpu='A100', single_use_containers=True)")
        own.program("devices.py", text.replace("print(*values)", "print(json.dumps(values))"))
        ended = own("run", "devices.py")
        assert ended.returncode == 0, ended.stderr
        values, rows = (json.loads(line) for line in ended.stdout.splitlines()[-2:])
        assert [value["devices"] for value in values] in ([["fake0", "fakes"]] * 2, [["fake0", "fakes"], ["fake1", "fakes"]])
        assert values[0]["env"] == {"FAKE_0": "here", "NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": "simulated-A100-0"}
        assert all("template may not hold" in row["not_forked"] for row in rows)
        # A step of a build has one too while it runs; what it saw stays in the layer.
        own.program("building.py", BUILDING)
        built = own("run", "building.py")
        assert built.returncode == 0, built.stderr
        seen = built.stdout.splitlines()
        # The other may have the first device at that moment.
        assert seen[-3] in ("/dev/fake0 simulated-A100-0", "/dev/fake1 simulated-A100-1")
        assert seen[-2] == "2 here here"
        assert seen[-1].startswith("ImageBuildError 2 ") and "it asks for gpu=H100, and no machine here has it; there are: 2 × A100" in seen[-1], seen
    finally:
        stop_server(own.data)
        shutil.rmtree(own.data)


#: A step with one device, one with both, and one with a device that is not there.
BUILDING = """
import uuid
import squall
from squall.exception import ImageBuildError
base, mark = squall.Image.debian_slim("3.11"), uuid.uuid4().hex
app = squall.App("building")
one = base.dockerfile_commands(f"RUN ls -d /dev/fake[01] > /seen; echo $CUDA_VISIBLE_DEVICES >> /seen; : {mark}", gpu="A100")
both = base.run_commands(f"ls /dev/fake[01] | wc -l > /seen; echo $FAKE_0 $FAKE_1 >> /seen; : {mark}", gpu=["T4", "A100:2"])

def seen():
    return " ".join(open("/seen").read().split())

functions = [app.function(image=image, serialized=True, name=name)(seen) for image, name in ((one, "one"), (both, "both"))]

@app.local_entrypoint()
def main():
    print(*(function.remote() for function in functions), sep="\\n")
    try:
        base.run_commands("true", gpu="H100").build(app)
    except ImageBuildError as error:
        print(type(error).__name__, error.step_index, str(error).splitlines()[0])
"""

PROGRAM = """
import json, subprocess, sys
from pathlib import Path
import squall
app = squall.App("held")
if not squall.is_local():
    {line}

@app.function()
def f():
    return 42

@app.local_entrypoint()
def main():
    values = f.remote(), f.remote()
    print(*values)
    command = [str(Path(sys.executable).parent / "squall"), "container", "list", "--json"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(json.dumps([row for row in rows if row["function"] == "f"]))
"""


def test_an_import_that_raises_is_the_users_error(data: Path, squall: Any) -> None:
    program = squall.program("broken.py", PROGRAM.format(line="raise RuntimeError('no good')"))
    ended = squall("run", program)
    assert ended.returncode != 0
    assert "no good" in ended.stderr


def test_a_template_that_dies_is_replaced(running: squall.App, data: Path) -> None:
    first = draw.remote()["at_import"]
    for number in range(3):
        _kill_templates(data)
        second = draw.remote()["at_import"]
        assert second != first, number
        first = second


def _kill_templates(data: Path) -> None:
    """Every template of this server: killed as the kernel would when memory is short."""
    from squall.gateway.wiring import Settings

    folder = Settings(data).run / "containers"
    pids = []
    for mark in folder.glob("*/is-template"):
        with contextlib.suppress(FileNotFoundError):  # one that is being made, or goes
            pids.append(int((mark.parent / "pid").read_text()))
    assert pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(lives(pid) for pid in pids), "the end of the templates")


def test_an_import_that_hangs_ends_at_the_startup_timeout(data: Path, squall: Any) -> None:
    program = squall.program("hanging.py", PROGRAM.format(line="import time; time.sleep(1000)").replace("@app.function()", "@app.function(startup_timeout=1)"))
    began = time.monotonic()
    ended = squall("run", program)
    assert ended.returncode != 0
    assert time.monotonic() - began < 100, "it hung for as long as its import"


def test_an_import_that_grows_is_out_of_memory(data: Path, squall: Any) -> None:
    line = "import os; B = [bytearray(os.urandom(1 << 20)) for _ in range(400)]"
    ended = squall("run", squall.program("growing.py", PROGRAM.format(line=line).replace("@app.function()", "@app.function(memory=(64, 128))")))
    assert ended.returncode != 0
    assert "memory" in ended.stderr
