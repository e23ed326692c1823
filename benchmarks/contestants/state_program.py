"""What programs keep between calls, measured from inside containers and from the host: one line of JSON in, one out."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import squall

app = squall.App("bench-state")
volume = squall.Volume.from_name("bench-state", create_if_missing=True)
entries = squall.Dict.from_name("bench-state", create_if_missing=True)
jobs = squall.Queue.from_name("bench-state", create_if_missing=True)

PART = bytes(1 << 20)
BATCH = 100


@app.function()
def dict_times(n: int) -> dict[str, Any]:
    """Seconds of each put and each get, one after another."""
    puts, gets = [], []
    for number in range(n + 50):
        begin = time.perf_counter()
        entries.put("key", number)
        between = time.perf_counter()
        value = entries.get("key")
        gets.append(time.perf_counter() - between)
        puts.append(between - begin)
        assert value == number
    return {"puts": puts[50:], "gets": gets[50:], "pid_namespace": os.readlink("/proc/self/ns/pid")}


@app.function()
def produce(n: int) -> None:
    """Items in batches, as fast as there is room."""
    for start in range(0, n, BATCH):
        jobs.put_many(list(range(start, min(n, start + BATCH))))


@app.function()
def consume(n: int) -> float:
    """Seconds from the first items to the last."""
    got = jobs.get_many(BATCH)
    begin = time.perf_counter()
    while len(got) < n:
        got += jobs.get_many(BATCH)
    seconds = time.perf_counter() - begin
    assert got == list(range(n))
    return seconds


@app.function(volumes={"/data": volume})
def inside(do: str, n: int) -> float:
    """`disk` where the volume is mounted."""
    return disk(do, "/data/large", n)


@app.function(volumes={"/data": volume})
def fill(n: int) -> None:
    """A directory with n entries."""
    os.makedirs("/data/many", exist_ok=True)
    for number in range(n):
        with open(f"/data/many/{number:06}", "w"):
            pass


def disk(do: str, path: str, n: int) -> float:
    """Seconds to write or read n MiB in a row; to the disk, and from it and not from memory."""
    begin = time.perf_counter()
    if do == "write":
        with open(path, "wb", buffering=0) as file:
            for _ in range(n):
                file.write(PART)
            os.fsync(file.fileno())
    else:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    seconds = time.perf_counter() - begin
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return seconds


def queue(n: int) -> dict[str, Any]:
    jobs.clear(all=True)
    consuming = consume.spawn(n)
    produce.remote(n)
    return {"seconds": consuming.get(timeout=120)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for kind in (squall.Volume, squall.Dict, squall.Queue):  # what a run that was cut left
        kind.objects.delete("bench-state", allow_missing=True)
    with app.run():
        here = str(Path(os.environ["SQUALL_DATA_DIR"]) / "volumes" / volume.hydrate().object_id / "large-host")
        work: dict[str, Callable[[int], dict[str, Any]]] = {
            "dict": lambda n: {**dict_times.remote(n), "client_pid_namespace": os.readlink("/proc/self/ns/pid")},
            "queue": queue,
            "inside-write": lambda n: {"seconds": inside.remote("write", n)},
            "inside-read": lambda n: {"seconds": inside.remote("read", n)},
            "host-write": lambda n: {"seconds": disk("write", here, n)},
            "host-read": lambda n: {"seconds": disk("read", here, n)},
            "fill": lambda n: {"done": fill.remote(n)},
        }
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(work[request["do"]](request["n"])), file=answers, flush=True)
    for kind in (squall.Volume, squall.Dict, squall.Queue):
        kind.objects.delete("bench-state")


if __name__ == "__main__":
    main()
