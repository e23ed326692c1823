"""A connection for event loops: frames in, messages out, writes coalesced by loop turn."""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from squall.model.errors import Error
from squall.wire.framing import Unpacker, pack

T = TypeVar("T")


class Turn:
    """What one turn of an event loop wants to write. Reading peers flush at the end of their read, so an answer waits for no other callback.

    One per event loop, shared by its peers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.reading = False
        self._dirty: list[Peer[Any]] = []
        self._scheduled = False

    def mark(self, peer: "Peer[Any]") -> None:
        self._dirty.append(peer)
        if not self.reading and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._later)

    def _later(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for peer in dirty:
            peer.flush()


class Peer(asyncio.Protocol, Generic[T]):
    """One end of a connection. Subclasses handle messages in `received` and the end in `lost`."""

    #: The union of messages that the other side may send.
    union: Any

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.transport: asyncio.Transport | None = None
        self._unpacker: Unpacker[T] = Unpacker(self.union)
        self._out: list[bytes | bytearray] = []
        self._resumed: asyncio.Event | None = None
        self.closed = False

    # what subclasses say

    def opened(self) -> None:
        """The connection is up."""

    def received(self, message: T) -> None:
        """A message came."""
        raise NotImplementedError

    def lost(self, error: BaseException | None) -> None:
        """The connection ended; called once."""

    # what they use

    def send(self, message: msgspec.Struct) -> None:
        """Write a message in this loop turn. Dropped silently when the connection is gone: `lost` has told."""
        self.send_frame(pack(message))

    def send_frame(self, frame: bytes | bytearray) -> None:
        """As `send`, for a frame that is packed already."""
        if self.closed:
            return
        out = self._out
        if not out:
            self.turn.mark(self)
        out.append(frame)

    def flush(self) -> None:
        """Write what was sent in this turn."""
        out, self._out = self._out, []
        if out and self.transport is not None and not self.closed:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    @property
    def congested(self) -> bool:
        """The other side reads too slowly for what was sent."""
        return self._resumed is not None

    async def drain(self) -> None:
        """Wait while the other side reads too slowly for what was sent. Returns at once when the connection is gone."""
        self.flush()
        if self._resumed is not None:
            await self._resumed.wait()

    def close(self) -> None:
        """Write what is left and close. Idempotent."""
        self.flush()
        if self.transport is not None:
            self.transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.opened()

    def data_received(self, data: bytes) -> None:
        turn = self.turn
        turn.reading = True
        try:
            for message in self._unpacker.feed(data):
                self.received(message)
        except Error as error:
            self.broken(error)
        finally:
            turn.reading = False
            turn.flush()

    def broken(self, error: Error) -> None:
        """The other side sent what is no message, or what it may not send now. Ends the connection."""
        if self.transport is not None:
            self.flush()
            self.transport.close()

    def pause_writing(self) -> None:
        self._resumed = asyncio.Event()

    def resume_writing(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._out.clear()
        self.resume_writing()
        self.lost(exc)


PeerFactory = Callable[[], Peer[Any]]
