"""Squall starting containers, as a contestant: asked line by line, JSON in and out, with a server of its own."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contestants import starting


def times(function: Any, n: int) -> dict[str, Any]:
    """Milliseconds of n calls, each the first and only one of its container. The first call, which makes the template, is apart."""
    begin = time.perf_counter()
    places = [function.remote()]
    first_ms = (time.perf_counter() - begin) * 1e3
    found = []
    for _ in range(n):
        time.sleep(0.1)  # what follows the end of a container is not the next one's
        begin = time.perf_counter()
        places.append(function.remote())
        found.append((time.perf_counter() - begin) * 1e3)
    return {"first_ms": first_ms, "times": found, "places": places}


def scale(n: int) -> dict[str, Any]:
    """Seconds from wanting n containers of a function that has none, until the last of n inputs has begun in the last of them."""
    begin = time.time()
    starting.slow.update_autoscaler(min_containers=n)
    found = list(starting.slow.map(range(n)))
    starting.slow.update_autoscaler(min_containers=0)
    return {"seconds": max(began for _, began in found) - begin, "places": [place for place, _ in found]}


def extra(n: int) -> dict[str, Any]:
    """MiB that the last of n containers of a function with 300 MiB of data takes, as its control group counts."""
    starting.large.update_autoscaler(min_containers=n)
    places = list(starting.large.map(range(n)))
    command = [str(Path(sys.executable).parent / "squall"), "container", "list", "--json"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    taken = sorted(row["memory_bytes"] for row in rows if row["function"] == "large" and row["memory_bytes"])
    starting.large.update_autoscaler(min_containers=0)
    return {"mib": taken[len(taken) // 2] / (1 << 20), "largest_mib": taken[-1] / (1 << 20), "places": places}


def phases(n: int) -> dict[str, Any]:
    """Milliseconds of the steps of the last n starts of `bare` as copies of its template, as the server has measured them."""
    command = [str(Path(sys.executable).parent / "squall"), "call", "list", "--json", "--limit", str(2 * n)]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found = [{"queued_s": row["queued_s"], **row["start"]} for row in rows if row["function"] == "bare" and row["start"]["copy_of"] == "function"][:n]
    names = ("queued_s", *(name for name in found[0] if name.endswith("_s") and name not in ("queued_s", "total_s")))
    others = [row["start"] for row in rows if row["function"] == "bare" and row["start"]["copy_of"] != "function"]
    return {"count": len(found), "others": others, "medians": {name: statistics.median(row[name] or 0.0 for row in found) * 1e3 for name in names}}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work: dict[str, Callable[[int], dict[str, Any]]] = {
        "bare": lambda n: times(starting.bare, n),
        "pandas": lambda n: times(starting.pandas, n),
        "torch": lambda n: times(starting.torch, n),
        "scale": scale,
        "extra": extra,
        "phases": phases,
        "where": lambda _: {"pid_namespace": os.readlink("/proc/self/ns/pid")},
    }
    with starting.app.run():
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(work[request["do"]](request["n"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
