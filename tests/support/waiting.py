"""Waits of tests: for a condition, with a bound that only a hang reaches. A shared machine may stand still for seconds."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Longer than any stall seen; a wait ends as soon as its condition holds, so a large bound costs nothing.
BOUND_S = 60.0
_PAUSE_S = 0.02


def wait_until(condition: Callable[[], T], what: str = "this", *, timeout_s: float = BOUND_S) -> T:
    """What `condition` gives, once that is true.

    Raises:
        AssertionError: it was not within `timeout_s`; names `what`.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:.0f} s"
        time.sleep(_PAUSE_S)
    return found


async def wait_until_async(condition: Callable[[], T], what: str = "this", *, timeout_s: float = BOUND_S) -> T:
    """`wait_until` that lets the loop run."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:.0f} s"
        await asyncio.sleep(_PAUSE_S)
    return found


def lives(pid: object) -> bool:
    """Whether the process runs. A zombie does not: an orphan's new parent may take its time to bury it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # gone, perhaps between the look and the read
        return False
