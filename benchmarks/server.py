"""Squall's embedded server for benchmarks: with a state directory of its own, so that the user's server and its state are left alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.process import CACHE
from benchmarks.report import Invalid
from squall.runtime.ids import DEFAULT_IDS

#: Kept between runs: the base image takes half a minute to make, and every figure here is about a cached one. A server gives
#: what lies there to the ids that containers have in its version, so that versions with different ones need different directories to be compared.
STATE = CACHE / f"state-{DEFAULT_IDS.first}"


def environment() -> dict[str, str]:
    """For a client of this server and of no other. Its database is SQLite, or the PostgreSQL that SQUALL_DATABASE_URL names (`scripts/postgres`)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SQUALL_", "MODAL_")) or name == "SQUALL_DATABASE_URL"}
    return {**kept, "SQUALL_DATA_DIR": str(STATE), "PYTHONPATH": str(ROOT)}


def server_pid() -> int | None:
    """Of the running server, None if there is none."""
    try:
        pid = int((STATE / "server.lock").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"squall.gateway.main" in command else None


def stop_server() -> None:
    """End it as SIGTERM does, and wait until it is gone. No effect without one."""
    pid = server_pid()
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while server_pid() is not None:
        if time.monotonic() > deadline:
            raise Invalid(f"the server (pid {pid}) did not end within 30 s after SIGTERM")
        time.sleep(0.01)


def forget_calls() -> None:
    """Begin with an empty store: what earlier runs left there would be measured too. Layers of images stay."""
    stop_server()
    shutil.rmtree(STATE / "store", ignore_errors=True)


def first_call_s(env: Mapping[str, str]) -> float:
    """From starting a fresh interpreter to the first value on its stdout; the value must come from a container."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.contestants.first_call"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(env), cwd=ROOT) as process:
        assert process.stdout is not None
        value = process.stdout.readline()
        seconds = time.perf_counter() - begin
        rest = process.stdout.read().split()
    if process.returncode != 0 or value.strip() != "144":
        raise Invalid(f"the first call gave {value!r} and exit status {process.returncode}")
    if len(rest) != 2 or rest[0] == "None" or rest[1] == os.readlink("/proc/self/ns/pid"):
        raise Invalid(f"the first call ran at {rest}, which is no container")
    return seconds
