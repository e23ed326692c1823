"""An event loop whose time is virtual, and processes on it that can be killed between any two callbacks."""

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any

#: Unix time at which every virtual world begins (2027-01-01 UTC).
EPOCH = 1_798_761_600.0

_process: ContextVar["Process | None"] = ContextVar("squall_simulated_process", default=None)


class Process:
    """What dies together. Everything that its code schedules, directly or through others, runs only while it lives."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.loop, self.name, self.alive = loop, name, True
        self.context: Context = copy_context()
        self.context.run(_process.set, self)
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run it as the process's own."""
        self.loop.call_soon(lambda: self.loop.create_task(work, name=self.name), context=self.context)

    def at(self, when: float, action: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """Call it at that time, if the process still lives."""
        return self.loop.call_at(when, action, *args, context=self.context)

    def later(self, delay_s: float, action: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        return self.at(self.loop.time() + delay_s, action, *args)

    def kill(self) -> None:
        """kill -9: nothing of it runs any more, not even a `finally`."""
        if self.alive:
            self.alive = False
            self.loop.bury(self)


class Deadlock(Exception):
    """Nothing is scheduled and nothing will be."""


class _Clockwork:
    """In the place of a selector: instead of waiting, it moves the clock to the next timer."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock("everything waits for something that nobody will do")
        if timeout > 0:
            self._loop.jump()
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """Time stands still while code runs, and jumps to the next timer when none is left to run. No threads and no sockets: what needs them raises."""

    _scheduled: list[asyncio.TimerHandle]
    _ready: Any

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = _Clockwork(self)
        self._clock_resolution = 1e-9
        self._graves: list[asyncio.Task[Any]] = []
        #: Callbacks run so far.
        self.steps = 0

    def time(self) -> float:
        return self._now

    def jump(self) -> None:
        """To the next timer."""
        self._now = max(self._now, self._scheduled[0].when())

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        context = copy_context() if context is None else context
        process = context.get(_process)
        if process is not None and not process.alive:
            return asyncio.Handle(callback, args, self, context)  # Nobody will run it.
        self.steps += 1
        return super().call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        context = copy_context() if context is None else context
        process = context.get(_process)
        if process is not None and not process.alive:
            return asyncio.TimerHandle(when, callback, args, self, context)
        self.steps += 1
        return super().call_at(when, callback, *args, context=context)

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> "asyncio.Task[Any]":
        task = super().create_task(coro, name=name, context=context)
        process = _process.get() if context is None else context.get(_process)
        if process is not None:
            process.tasks.add(task)
        return task

    def bury(self, process: Process) -> None:
        """Drop what a process had scheduled; its tasks are kept, unfinished, until the loop closes, so that no collector runs their `finally` in between."""
        for handle in [*self._ready, *self._scheduled]:
            if handle._context.get(_process) is process:
                handle.cancel()
        self._graves += [task for task in process.tasks if not task.done()]

    def close(self) -> None:
        if not self.is_closed():
            self._graves += asyncio.all_tasks(self)
            for task in self._graves:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(RuntimeError, ValueError):  # It refuses to end, or runs: then it is left to the collector.
                    task.get_coro().close()
            self._ready.clear()
            self._scheduled.clear()
        super().close()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("a thread would let virtual time run past it")

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        raise RuntimeError("there are no other threads in virtual time")

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class Clock:
    """The wall clock of a virtual world. `offset_s` is what somebody set it wrong by; the loop's own time is monotonic and not touched by it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.offset_s = 0.0

    def time(self) -> float:
        return EPOCH + self._loop.time() + self.offset_s


@contextmanager
def virtual_time(clock: Clock, loop: VirtualLoop, rng: Random) -> Iterator[None]:
    """Within, the process's clocks and entropy are the world's. Only for a process without other threads that look at them."""
    real = time.time, time.time_ns, time.monotonic, os.urandom
    time.time = clock.time
    time.time_ns = lambda: int(clock.time() * 1e9)
    time.monotonic = loop.time
    os.urandom = rng.randbytes
    try:
        yield
    finally:
        time.time, time.time_ns, time.monotonic, os.urandom = real
