"""The functions that Squall runs in the suites; the module that its containers get."""

import os
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
def length(data: bytes) -> int:
    return len(data)
