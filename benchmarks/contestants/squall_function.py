"""Squall as a contestant: one function, one container."""

import asyncio
import os
import time
from typing import Any

from benchmarks.contestants import program
from benchmarks.contestants.serve import serve

#: A window of inputs whose dispatch is timed while others wait behind them.
WINDOW = 1_000


async def _spawn(n: int) -> float:
    begin = time.perf_counter()
    calls = await asyncio.gather(*(program.square.spawn.aio(number) for number in range(n)))
    seconds = time.perf_counter() - begin
    results = await asyncio.gather(*(call.get.aio() for call in calls))
    assert results == [number * number for number in range(n)]
    return seconds


def _send(n: int) -> float:
    data = os.urandom(1 << 20)
    program.length.remote(data)  # its container may have to be started
    begin = time.perf_counter()
    for _ in range(n):
        assert program.length.remote(data) == len(data)
    return time.perf_counter() - begin


class Queue:
    """Inputs that wait behind one that holds the only container."""

    def __init__(self) -> None:
        self.holder: Any = None

    def fill(self, n: int) -> dict[str, Any]:
        while program.queued.get_current_stats().backlog:
            time.sleep(0.01)
        self.holder = program.queued.spawn(-1)
        while program.queued.get_current_stats().num_running_inputs == 0:
            time.sleep(0.01)
        program.queued.spawn_map(range(n))
        return {"backlog": program.queued.get_current_stats().backlog}

    def drain(self, windows: int) -> dict[str, Any]:
        """Let them run, and time so many windows."""
        left = program.queued.get_current_stats().backlog - WINDOW
        self.holder.cancel()
        times = []
        while program.queued.get_current_stats().backlog > left:
            time.sleep(0.001)
        begin = time.perf_counter()  # the first window has the cancellation in it
        for _ in range(windows):
            left -= WINDOW
            while program.queued.get_current_stats().backlog > max(left, 0):
                time.sleep(0.001)
            now = time.perf_counter()
            times.append(now - begin)
            begin = now
        return {"times": times}


def main() -> None:
    with program.app.run():
        client = {"client_pid_namespace": os.readlink("/proc/self/ns/pid"), "client": os.getpid()}
        queue = Queue()

        def deploy(_: int) -> dict[str, Any]:
            program.crowd.deploy()
            return {}

        serve(
            program.square.remote,
            lambda n: program.square.map(range(n)),
            where=lambda: {**program.square.remote(-1), **client},
            spawn=lambda n: asyncio.run(_spawn(n)),
            large=_send,
            other={"fill": queue.fill, "drain": queue.drain, "deploy": deploy},
        )


if __name__ == "__main__":
    main()
