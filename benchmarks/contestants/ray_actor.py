"""A Ray actor: a warm process, as a warm container is; no isolation."""

import os
from typing import Any, cast

import ray

from benchmarks.contestants.serve import serve


@ray.remote
class Squarer:
    def square(self, number: int) -> int:
        return number * number

    def place(self) -> int:
        return os.getpid()


def main() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    actor: Any = cast(Any, Squarer).remote()
    worker = ray.get(actor.place.remote())
    serve(
        lambda number: ray.get(actor.square.remote(number)),
        lambda n: ray.get([actor.square.remote(number) for number in range(n)]),
        where=lambda: {"pid": worker, "client": os.getpid()},
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
