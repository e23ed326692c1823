"""Processes that a killed agent left in the middle of its work: ended before anyone looks at what they make, lest they make it after the look."""

import os
import select
import signal
from contextlib import suppress
from pathlib import Path

_END_S_MAX = 30.0


def end(arguments: bytes) -> None:
    """Kill every process whose command line contains these whole arguments, each ended by NUL, and wait for its end. Own children are left alone."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError):
            if b"\0" + arguments not in (entry / "cmdline").read_bytes():
                continue
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent != os.getpid():
                _end(int(entry.name))


def _end(pid: int) -> None:
    watch = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(watch, signal.SIGKILL)
        ended = select.poll()
        ended.register(watch, select.POLLIN)
        ended.poll(_END_S_MAX * 1000)
    finally:
        os.close(watch)
