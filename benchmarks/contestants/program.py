"""The functions that Squall runs in the suites; the module that its containers get."""

import os
import time
from typing import Any

import squall

app = squall.App("bench")


def place() -> dict[str, Any]:
    """Where this runs: for the validator."""
    return {"container": os.environ.get("SQUALL_CONTAINER_ID"), "pid_namespace": os.readlink("/proc/self/ns/pid"), "pid": os.getpid()}


@app.function(max_containers=1)
def square(number: int) -> Any:
    """Trivial work; a negative number asks for the place instead, so that it is the measured container that answers."""
    return number * number if number >= 0 else place()


@app.function(max_containers=1)
def queued(number: int) -> None:
    """Trivial work; a negative number holds the container, so that what is spawned after it waits."""
    if number < 0:
        time.sleep(3_600)


@app.function(max_containers=1)
def length(data: bytes) -> int:
    return len(data)


#: Deployed beside the others, and never called.
crowd = squall.App("bench-crowd")
for place_in_crowd in range(1_000):
    crowd.function(name=f"bystander_{place_in_crowd}")(square.get_raw_f())
