"""Squall building images, as a contestant: asked line by line, JSON in and out, with a server of its own."""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import squall

BASE = squall.Image.debian_slim("3.11")
LAYERS, LAYER_BYTES = 60, 34_000_000
FILES = 10_000


def place() -> tuple[str | None, str, int]:
    """Where this runs, and how many layers its root has."""
    with open("/proc/self/mountinfo") as mounts:
        options = next(line for line in mounts if line.split()[4] == "/").rsplit(" ", 1)[-1]
    return os.environ.get("SQUALL_CONTAINER_ID"), os.readlink("/proc/self/ns/pid"), options.count("lowerdir+") or options.count(":")


def ten_steps() -> squall.Image:
    image = BASE
    for number in range(9):
        image = image.run_commands(f"echo {number} > /{number}")
    return image


def large() -> squall.Image:
    image = BASE
    for number in range(LAYERS - 1):
        image = image.run_commands(f"mkdir -p /big && head -c {LAYER_BYTES} /dev/urandom > /big/{number}")
    return image


def noop(n: int) -> dict[str, Any]:
    """Milliseconds from asking for an image of ten steps, and for one of two gigabytes, to the answer that it is there."""
    found: dict[str, list[float]] = {"small": [], "large": []}
    images = {"small": ten_steps().build(), "large": large().build()}
    for _ in range(n):
        for name, image in images.items():
            begin = time.perf_counter()
            image.build()
            found[name].append((time.perf_counter() - begin) * 1e3)
    return found


def cold(n: int) -> dict[str, Any]:
    """Seconds for the recipe on a present base, with no download kept from before."""
    cache = Path(os.environ["SQUALL_DATA_DIR"]) / "cache"
    for name in ("uv", "apt"):
        shutil.rmtree(cache / name, ignore_errors=True)
    BASE.build()
    image = BASE.apt_install("jq", force_build=True).pip_install("numpy", "pandas", force_build=True)
    begin = time.perf_counter()
    image.build()
    return {"seconds": time.perf_counter() - begin, "id": image.object_id}


def one_file(n: int) -> dict[str, Any]:
    """Seconds until an image has ten thousand new files, and from a change of one of them to the image that has it."""
    folder, began = Path(tempfile.mkdtemp(prefix="squall-bench-")), time.time_ns()
    try:
        for number in range(FILES):
            place = folder / f"{number % 100}" / f"{number}.txt"
            place.parent.mkdir(exist_ok=True)
            place.write_text(f"content of {number} at {began}\n")
        begin = time.perf_counter()
        BASE.add_local_dir(folder, "/data", copy=True).build()
        first, seconds = time.perf_counter() - begin, []
        for turn in range(n):
            (folder / "7" / "107.txt").write_text(f"changed in turn {turn} of {os.getpid()} at {time.time_ns()}\n")
            begin = time.perf_counter()
            BASE.add_local_dir(folder, "/data", copy=True).build()
            seconds.append(time.perf_counter() - begin)
        return {"first": first, "seconds": seconds}
    finally:
        shutil.rmtree(folder)


def ten(n: int) -> dict[str, Any]:
    """Ids of ten images over one base, each with a file of its own."""
    return {"ids": [BASE.run_commands(f"echo {number} > /own").build().object_id for number in range(10)], "base": BASE.build().object_id}


def start(n: int) -> dict[str, Any]:
    """Seconds of a call that starts a container, from the base and from the large image in turns."""
    app = squall.App("bench-images")
    functions = {
        "base": app.function(image=BASE, name="base", single_use_containers=True)(place),
        "large": app.function(image=large(), name="large", single_use_containers=True)(place),
    }
    found: dict[str, Any] = {"base": [], "large": [], "places": {}}
    with app.run():
        for function in functions.values():
            function.remote()
        for _ in range(n):
            for name, function in functions.items():
                begin = time.perf_counter()
                found["places"][name] = function.remote()
                found[name].append(time.perf_counter() - begin)
    return {**found, "own": os.readlink("/proc/self/ns/pid")}


def main() -> None:
    work: dict[str, Callable[[int], dict[str, Any]]] = {"noop": noop, "cold": cold, "one_file": one_file, "ten": ten, "start": start}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(work[request["do"]](request["n"])), flush=True)


if __name__ == "__main__":
    main()
