"""What a client is to be told and has not read: it waits here as values, packed one after another as the client reads, and has a budget."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from squall.control.retention import positive
from squall.wire.messages import Output
from squall.wire.stream import Peer

#: Bytes of answers that one connection may leave unread, beyond those that the kernel and the connection hold.
UNREAD_BYTES_MAX = 256 << 20
#: After an output of this size the connection is asked at once whether the client keeps up.
LARGE_BYTES = 64 << 10
#: What a message costs besides its data.
MESSAGE_BYTES = 512
#: A client that was told that it is too slow has so long to read what is left for it, in seconds.
CLOSING_S = 60.0


def from_environment(environ: Mapping[str, str]) -> int:
    """
    Raises:
        InvalidError: the variable is not a positive number.
    """
    return int(positive(environ, "SQUALL_UNREAD_MIB", 1 << 20, UNREAD_BYTES_MAX))


class Outbox:
    """Of one connection. `overflowed` is called once, when the client has left more than `most` bytes unread."""

    def __init__(self, peer: Peer[Any], most: int, overflowed: Callable[[], None]) -> None:
        self._peer, self._most, self._overflowed = peer, most, overflowed
        self._waiting: deque[Any] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._full = self._closing = False

    def send(self, message: Any) -> None:
        """Tell the client, after what waits already."""
        if self._waiting or self._peer.congested:
            self._wait(message)
            return
        self._peer.send(message)
        if type(message) is Output and len(message.data) > LARGE_BYTES:
            self._peer.flush()

    async def drain(self) -> None:
        """Wait until the client has been sent everything, or is gone."""
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._peer.drain()

    def close(self) -> None:
        """Close the connection once the client has read what is left; at the latest after a while."""
        self._closing = True
        if self._task is None:
            self._peer.close()
            return
        self._task.add_done_callback(lambda _: self._peer.close())
        self._peer.turn.loop.call_later(CLOSING_S, self.abort)

    def abort(self) -> None:
        """Drop what waits, and the connection."""
        self._waiting.clear()
        self._bytes = 0
        if self._task is not None:
            self._task.cancel()
        if self._peer.transport is not None:
            self._peer.transport.abort()

    def _wait(self, message: Any) -> None:
        if self._peer.closed or self._closing:
            return
        self._waiting.append(message)
        self._bytes += _size(message)
        if self._task is None:
            self._task = self._peer.turn.loop.create_task(self._pass_on(), name="what a client reads slowly")
        if self._bytes > self._most and not self._full:
            self._full = True
            self._overflowed()

    async def _pass_on(self) -> None:
        try:
            while self._waiting:
                await self._peer.drain()
                if self._peer.closed:
                    self._waiting.clear()
                    return
                message = self._waiting.popleft()
                self._bytes -= _size(message)
                self._peer.send(message)
                del message
                self._peer.flush()
        finally:
            self._task = None


def _size(message: Any) -> int:
    data = getattr(message, "data", b"")
    return MESSAGE_BYTES + (len(data) if isinstance(data, bytes) else 0)
