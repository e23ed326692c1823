"""`concurrent.futures.ProcessPoolExecutor` with one worker: no router, no isolation, nothing that outlives the program."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.contestants.serve import serve


def square(number: int) -> int:
    return number * number


def starts(n: int) -> dict[str, Any]:
    """Milliseconds from wanting a new process, with an interpreter of its own as containers have, to its first result, n times; and which process each was."""
    fresh, times, places = multiprocessing.get_context("spawn"), [], []
    for _ in range(n):
        begin = time.perf_counter()
        with ProcessPoolExecutor(1, fresh) as pool:
            places.append(pool.submit(os.getpid).result())
            times.append((time.perf_counter() - begin) * 1e3)
    return {"times": times, "places": places}


def main() -> None:
    with ProcessPoolExecutor(1) as pool:
        worker = pool.submit(os.getpid).result()

        def many(n: int) -> Iterator[int]:
            return pool.map(square, range(n))

        serve(
            lambda number: pool.submit(square, number).result(),
            many,
            where=lambda: {"pid": worker, "client": os.getpid()},
            other={"starts": starts},
        )


if __name__ == "__main__":
    main()
