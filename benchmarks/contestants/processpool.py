"""`concurrent.futures.ProcessPoolExecutor` with one worker: no router, no isolation, nothing that outlives the program."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from benchmarks.contestants.serve import serve


def square(number: int) -> int:
    return number * number


def main() -> None:
    with ProcessPoolExecutor(1) as pool:
        worker = pool.submit(os.getpid).result()

        def many(n: int) -> Iterator[int]:
            return pool.map(square, range(n))

        serve(lambda number: pool.submit(square, number).result(), many, where=lambda: {"pid": worker, "client": os.getpid()})


if __name__ == "__main__":
    main()
