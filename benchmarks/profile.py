"""Where a warm call's time goes, hop by hop: clocks of one machine's monotonic time in the caller, the server and the function."""

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import ROOT, commit, describe
from benchmarks.report import Invalid
from benchmarks.server import STATE, environment, stop_server

CALLS, WARM_UP = 3_000, 500

#: In the order in which a call passes them: hop -> what happens between the one before and it.
HOPS = {
    "begun": "",
    "pickled": "caller: pickle",
    "call read": "caller: encode, write; kernel: the server wakes",
    "call decoded": "server: decode",
    "container chosen": "server: look up, choose a container",
    "input encoded": "server: encode",
    "function entered": "server: write; kernel: the container wakes; runner: decode, unpickle",
    "result read": "runner: pickle, encode, write; kernel: the server wakes",
    "result decoded": "server: decode",
    "outcome decided": "server: the input has ended",
    "outcome encoded": "server: encode",
    "answer read": "server: write; kernel: the caller wakes; caller: decode",
    "done": "caller: unpickle",
}


def profile() -> str:
    """The table. Raises Invalid when the calls can't be told apart."""
    stop_server()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times"
        env = {**environment(), "SQUALL_PROFILE_OUT": str(out)}
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.contestants.profiled_server"], env=env, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            _wait_for_socket(server)
            command = [sys.executable, "-m", "benchmarks.contestants.profiled_client", str(CALLS)]
            client = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        if client.returncode != 0:
            raise Invalid(f"the client ended with exit status {client.returncode}")
        times: dict[str, list[int]] = {**json.loads(client.stdout), **json.loads(out.read_text())}
    return table(spans(times))


def _wait_for_socket(server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while not any(STATE.glob("**/*.sock")):
        if server.poll() is not None or time.monotonic() > deadline:
            raise Invalid("the server did not start")
        time.sleep(0.02)


def spans(times: dict[str, list[int]]) -> dict[str, list[float]]:
    """Hop -> microseconds since the hop before, of each call after the warm-up.

    Each of a call's hops lies between its beginning and its end; what lies outside of all calls (starting, stopping) is left out.

    Raises:
        Invalid: a hop was passed twice in one call, or not at all.
    """
    found: dict[str, list[float]] = {hop: [] for hop in HOPS if HOPS[hop]}
    places = dict.fromkeys(HOPS, 0)
    for number, (begun, done) in enumerate(zip(times["begun"], times["done"], strict=True)):
        passed: list[tuple[str, int]] = []
        for hop in HOPS:
            stamps, place = times[hop], places[hop]
            while place < len(stamps) and stamps[place] < begun:
                place += 1
            if place == len(stamps) or stamps[place] > done:
                raise Invalid(f"call {number} did not pass {hop!r}")
            passed.append((hop, stamps[place]))
            places[hop] = place + 1
        if number >= WARM_UP:
            for (_, earlier), (hop, at) in zip(passed, passed[1:], strict=False):
                found[hop].append((at - earlier) / 1e3)
    return found


def table(found: dict[str, list[float]]) -> str:
    """Median and 99th percentile of each hop; medians need not add up to the median of the whole."""
    whole = [sum(call) for call in zip(*found.values(), strict=True)]
    lines = [f"a warm call at {commit()} on {describe()['summary']}; microseconds, with the clocks' own", f"{'p50':>8} {'p99':>8}"]
    for hop, values in found.items():
        lines.append(f"{_p(values, 50):8.1f} {_p(values, 99):8.1f}  {HOPS[hop]}")
    lines.append(f"{_p(whole, 50):8.1f} {_p(whole, 99):8.1f}  the whole")
    return "\n".join(lines)


def _p(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
