"""The same work asked for twice at the same time is done once; each who asked hears of it from the moment of asking."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

#: Called with each line that the work prints.
Listener = Callable[[str], None]


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[None]
    listeners: list[Listener] = field(default_factory=list)


class Flights:
    """Work in progress, by key. Work ends when it is done, or when the last who asked for it is cancelled."""

    def __init__(self) -> None:
        self._flying: dict[str, _Flight] = {}

    async def join(self, key: str, work: Callable[[Listener], Coroutine[None, None, None]], listener: Listener) -> None:
        """Wait for the work under `key`, starting it if need be. Raises what the work raises. Cancelling waits until abandoned work has cleaned up."""
        flight = self._flying.get(key)
        if flight is None:
            listeners: list[Listener] = []

            def tell(line: str) -> None:
                for each in tuple(listeners):
                    try:
                        each(line)
                    except Exception:
                        # One who listens badly must not stop the work of all.
                        log.exception("a listener of %s failed", key[:8])

            flight = _Flight(asyncio.create_task(work(tell), name=f"build {key[:8]}"), listeners)
            self._flying[key] = flight
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.listeners.append(listener)
        try:
            await asyncio.shield(flight.task)
        finally:
            flight.listeners.remove(listener)
            if not flight.listeners and not flight.task.done():
                self._landed(key, flight.task)  # nobody may join what is being given up
                flight.task.cancel()
                await asyncio.wait([flight.task])

    def _landed(self, key: str, task: asyncio.Task[None]) -> None:
        if (flight := self._flying.get(key)) is not None and flight.task is task:
            del self._flying[key]
        if task.done() and not task.cancelled():
            task.exception()  # seen: those who wait get it, and when all are gone it is of no interest
