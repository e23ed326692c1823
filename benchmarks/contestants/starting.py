"""The functions whose containers are started, by what their import brings; the module that the containers get."""

import importlib
import os
import sys
import time

import squall

app = squall.App("bench-start")
science = squall.Image.debian_slim().pip_install("pandas", "scipy")
#: Debian's build for processors; that of the Python package index brings gigabytes for GPUs.
learning = squall.Image.debian_slim().apt_install("python3-torch")
#: Data of the function with much of it: shared by all copies of the process that imported it.
LARGE_MIB = 300
DATA = os.urandom(LARGE_MIB << 20) if os.environ.get("BENCH_LARGE") else b""

for wanted in os.environ.get("BENCH_IMPORTS", "").split():
    importlib.import_module(wanted)

Place = tuple[str | None, str]


def place() -> Place:
    """Where this runs: for the validator."""
    return os.environ.get("SQUALL_CONTAINER_ID"), os.readlink("/proc/self/ns/pid")


@app.function(single_use_containers=True)
def bare() -> Place:
    return place()


@app.function(single_use_containers=True, image=science, env={"BENCH_IMPORTS": "pandas scipy.stats"})
def pandas() -> Place:
    assert {"pandas", "scipy"} <= set(sys.modules)
    return place()


@app.function(single_use_containers=True, image=learning, env={"BENCH_IMPORTS": "torch"})
def torch() -> Place:
    assert "torch" in sys.modules
    return place()


@app.function(max_containers=100)
def slow(_: int) -> tuple[Place, float]:
    """So long that a hundred inputs need a hundred containers; and when it began, by the clock of this machine."""
    began = time.time()
    time.sleep(4)
    return place(), began


@app.function(max_containers=10, env={"BENCH_LARGE": "1"})
def large(_: int) -> Place:
    assert len(DATA) == LARGE_MIB << 20
    time.sleep(2)
    return place()
