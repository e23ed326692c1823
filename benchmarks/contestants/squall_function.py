"""Squall as a contestant: one function, one container."""

import asyncio
import os
import time

from benchmarks.contestants import program
from benchmarks.contestants.serve import serve


async def _spawn(n: int) -> float:
    begin = time.perf_counter()
    calls = await asyncio.gather(*(program.square.spawn.aio(number) for number in range(n)))
    seconds = time.perf_counter() - begin
    results = await asyncio.gather(*(call.get.aio() for call in calls))
    assert results == [number * number for number in range(n)]
    return seconds


def main() -> None:
    with program.app.run():
        client = {"client_pid_namespace": os.readlink("/proc/self/ns/pid"), "client": os.getpid()}
        serve(
            program.square.remote,
            lambda n: program.square.map(range(n)),
            where=lambda: {**program.square.remote(-1), **client},
            spawn=lambda n: asyncio.run(_spawn(n)),
            large=program.length.remote,
        )


if __name__ == "__main__":
    main()
