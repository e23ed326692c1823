"""A Ray actor: a process that keeps its state, as a container does; no isolation."""

import os
import time
from typing import Any, cast

import ray

from benchmarks.contestants.serve import serve


@ray.remote
class Squarer:
    def square(self, number: int) -> int:
        return number * number

    def place(self) -> int:
        return os.getpid()


def starts(n: int) -> dict[str, Any]:
    """Milliseconds from wanting a new actor to its first result, n times; and the process that each was."""
    times, places = [], []
    for _ in range(n):
        begin = time.perf_counter()
        actor: Any = cast(Any, Squarer).remote()
        places.append(ray.get(actor.place.remote()))
        times.append((time.perf_counter() - begin) * 1e3)
        ray.kill(actor)
    return {"times": times, "places": places}


def main() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    actor: Any = cast(Any, Squarer).remote()
    worker = ray.get(actor.place.remote())
    serve(
        lambda number: ray.get(actor.square.remote(number)),
        lambda n: ray.get([actor.square.remote(number) for number in range(n)]),
        where=lambda: {"pid": worker, "client": os.getpid()},
        other={"starts": starts},
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
