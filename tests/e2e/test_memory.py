"""memory= is a request that may be exceeded while the machine has room, (request, limit) has a limit, and containers together have a ceiling."""

import pytest

from .conftest import Runner, server_pid

pytestmark = pytest.mark.root

#: Of all containers together.
CEILING_MIB = 700
PROGRAM = """
import squall

app = squall.App("hogs")

def fill(mib):
    block = bytearray(mib << 20)
    for at in range(0, len(block), 4096):
        block[at] = 1
    return len(block) >> 20

@app.function(memory=128)
def asks(mib: int):
    return fill(mib)

@app.function(memory=(128, 200))
def bounded(mib: int):
    return fill(mib)

@app.function(memory=5000)
def large():
    return "never"

@app.local_entrypoint()
def main():
    print(asks.remote(400))
"""


@pytest.fixture
def own(own: Runner) -> Runner:
    own.extra["SQUALL_CONTAINERS_MEMORY_MIB"] = str(CEILING_MIB)
    own.program("hogs.py", PROGRAM)
    return own


def test_a_request_may_be_exceeded_a_limit_not_and_the_machine_neither(own: Runner) -> None:
    done = own("run", "hogs.py::main")
    assert (done.returncode, done.stdout) == (0, "400\n"), done.stderr
    server = server_pid(own)
    beyond_limit = own("run", "-q", "hogs.py::bounded", "--mib", "400")
    assert beyond_limit.returncode == 1
    assert beyond_limit.stderr.startswith("✗ bounded ran out of memory: 200 MiB allowed"), beyond_limit.stderr
    beyond_machine = own("run", "-q", "hogs.py::asks", "--mib", "2000")
    assert beyond_machine.returncode == 1
    assert beyond_machine.stderr.startswith("✗ asks ran out of memory: 128 MiB asked for, and it had "), beyond_machine.stderr
    assert "MiB when containers had all memory of the machine" in beyond_machine.stderr
    assert "memory=" in beyond_machine.stderr
    assert server_pid(own) == server
    again = own("run", "hogs.py::main")
    assert (again.returncode, again.stdout) == (0, "400\n"), again.stderr
    too_large = own("run", "-q", "hogs.py::large")
    assert too_large.returncode == 1
    assert "5000 MiB of memory" in too_large.stderr and str(CEILING_MIB) in too_large.stderr, too_large.stderr
