"""An init, both ways: in the program's memory, and as a fork. It is not process 1 here; orphans come to it as to one."""

import subprocess
import sys

import pytest

from squall.runner import init_shared

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers with an init need Linux")

#: What becomes the init is a child of this, and its own program says what it sees.
PROGRAM = """
import ctypes, os, signal, sys, threading
from squall.runner import init, init_shared
from squall.runtime import kernel

way, code = sys.argv[1:]
own = os.fork()
if own == 0:
    kernel.set_subreaper(True)
    held, _ = os.pipe()
    if way == "fork":
        init_shared.split = lambda: False
    init.enter()
    parent = os.getppid()
    assert os.getsid(0) == os.getpid() == threading.main_thread().native_id != parent
    while os.listdir(f"/proc/{parent}/fd"): pass  # it closes them meanwhile
    assert os.fstat(held)
    exec(code)
    sys.exit()
print(os.waitstatus_to_exitcode(os.waitpid(own, 0)[1]))
"""
ORPHAN = """
told, tell = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        while os.getppid() != parent: pass
        os.write(tell, str(os.getpid()).encode())
    os._exit(3)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
orphan = int(os.read(told, 16))
while os.path.exists(f"/proc/{orphan}"): pass
os._exit(11)
"""
FORWARDED = """
signal.signal(signal.SIGUSR1, lambda *_: os._exit(12))
os.kill(parent, signal.SIGUSR1)
signal.pause()
"""
THREADS = """
import multiprocessing
thread = threading.Thread(target=lambda: multiprocessing.Process(target=print).run())
thread.start(); thread.join()
assert ctypes.CDLL(None).sched_getcpu() in os.sched_getaffinity(0)
ctypes.CDLL(None)["raise"](signal.SIGTERM)
"""


@pytest.mark.parametrize("way", ["fork", pytest.param("shared", marks=pytest.mark.skipif(init_shared.prepare() is None, reason="not on this machine"))])
@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("sys.exit(5)", 5),
        ("os._exit(255)", 255),
        ("os.kill(os.getpid(), signal.SIGTERM)", 128 + 15),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9),
        ("ctypes.string_at(0)", 128 + 11),
        ("os.execv('/bin/sh', ['sh', '-c', 'exit 6'])", 6),
        (ORPHAN, 11),
        (FORWARDED, 12),
        (THREADS, 128 + 15),
    ],
    ids=["exit", "exit-255", "term", "kill", "segv", "exec", "orphan", "forwarded", "threads"],
)
def test_it_ends_as_the_program_does(way: str, code: str, ends: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, way, code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip().splitlines()[-1:], done.stderr if "Fatal" in done.stderr else "") == ([str(ends)], ""), done.stderr


@pytest.mark.skipif(init_shared.prepare() is None, reason="not on this machine")
def test_where_it_can_be_it_is_in_the_programs_memory() -> None:
    code = "ours = open(f'/proc/{parent}/statm').read(); filler = bytearray(64 << 20); sys.exit(open(f'/proc/{parent}/statm').read() == ours)"
    done = subprocess.run([sys.executable, "-c", PROGRAM, "shared", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stderr
