"""Functions for tests/e2e: what programs keep between calls."""

import os
import time

import squall

app = squall.App("stateful")
volume = squall.Volume.from_name("stateful-files", create_if_missing=True)
shared = squall.Dict.from_name("stateful-dict", create_if_missing=True)
jobs = squall.Queue.from_name("stateful-queue", create_if_missing=True)


@app.function(secrets=[squall.Secret.from_dict({"INLINE": "inline-planted-value"})], env={"PLAIN": "1"})
def variables() -> dict:
    return dict(os.environ)


@app.function(volumes={"/data": volume})
def write(name: str, text: str) -> list:
    with open(f"/data/{name}", "w") as file:
        file.write(text)
    volume.commit()
    return sorted(os.listdir("/data"))


@app.function(volumes={"/data": volume})
def read(name: str) -> str:
    volume.reload()
    with open(f"/data/{name}") as file:
        return file.read()


@app.function(volumes={"/data": volume.with_mount_options(read_only=True)})
def read_only(name: str) -> str:
    with open(f"/data/{name}", "w") as file:
        file.write("no")
    return "written"


@app.function(volumes={"/data": volume})
def run(code: str) -> object:
    """Run Python source there; what it calls `result` comes back."""
    place: dict = {"squall": squall, "volume": volume, "shared": shared, "jobs": jobs, "os": os, "time": time}
    exec(code, place)
    return place.get("result")


@app.function()
def elsewhere(code: str) -> object:
    """As `run`, without the volume."""
    place: dict = {"squall": squall, "volume": volume, "shared": shared, "jobs": jobs, "os": os, "time": time}
    exec(code, place)
    return place.get("result")


@app.function()
def produce(queue: squall.Queue, n: int) -> None:
    queue.put_many(list(range(n)))


@app.function()
def consume(queue: squall.Queue, timeout: float) -> list:
    return queue.get_many(100, timeout=timeout)
