"""GPUs for steps of builds: the same devices that containers of functions get, reserved in the same place while a step runs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from squall.core.placement import Short, place
from squall.model.errors import NotFoundError, ResourceExhaustedError
from squall.model.resources import Gpu, Resources
from squall.runtime.cdi import Edits

if TYPE_CHECKING:
    from squall.control.calls.router import Router

#: Seconds that a step waits for a device that others have. It holds one of the places for builds meanwhile, so it does not wait as long as an input does.
WAIT_S = 600.0


class Loans:
    """Lends devices of the router's nodes."""

    def __init__(self, router: "Router", edits_of: Callable[[tuple[str, ...]], Edits], wait_s: float = WAIT_S) -> None:
        """
        Args:
            edits_of: what a container needs to use these devices; reads files.
        """
        self._router, self._edits_of, self._wait_s = router, edits_of, wait_s

    @asynccontextmanager
    async def lend(self, gpus: tuple[Gpu, ...], line: Callable[[str], None]) -> AsyncIterator[Edits]:
        """What a container needs to use GPUs that are nobody else's until the end. Idle containers make room.

        Args:
            gpus: alternatives, best first; not empty.
            line: is told what is waited for.

        Raises:
            NotFoundError: no machine has them.
            ResourceExhaustedError: others had them for too long.
            ContainerStartError, UnsupportedError: containers can't be given them.
        """
        router = self._router
        need = Resources(cpu_request=0.0, memory_request_mib=0, gpus=gpus)
        deadline, came = asyncio.get_running_loop().time() + self._wait_s, asyncio.Event()
        router.room.came.add(came)
        try:
            while isinstance(placed := place(need, router.room.nodes), Short):
                if not placed.ever:
                    have = ", ".join(f"{len(devices)} × {kind}" for node in router.room.nodes for kind, devices in node.gpus.items()) or "none"
                    raise NotFoundError(f"no machine here has it; there are: {have}")
                line(f"waiting for {placed.asked:g} {placed.resource}, of which {placed.free:g} are free")
                router.room.make()
                came.clear()
                try:
                    async with asyncio.timeout_at(deadline):
                        await came.wait()
                except TimeoutError:
                    raise ResourceExhaustedError(f"it was not free within {self._wait_s:g} s") from None
            placed.take()
        finally:
            router.room.came.discard(came)
        try:
            yield await asyncio.to_thread(self._edits_of, placed.devices)
        finally:
            placed.give_back()
            router.room.given_back()
