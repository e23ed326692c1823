"""A connection for blocking code: one socket, no event loop."""

import contextlib
import select
import socket
import time
from collections import deque
from typing import Any, Generic, TypeVar

import msgspec

from squall.wire.framing import Unpacker, pack

T = TypeVar("T")

#: One read takes what the kernel's default unix socket buffer can hold.
READ_BYTES = 1 << 18


class BlockingConnection(Generic[T]):
    """Frames over a connected socket. One thread reads; sends of one frame are whole, so another thread may write."""

    def __init__(self, sock: socket.socket, union: Any) -> None:
        self.sock = sock
        self._unpacker: Unpacker[T] = Unpacker(union)
        self._ready: deque[T] = deque()
        # Read into one buffer again and again: an allocation of this size for each read costs more than the read.
        self._buffer = memoryview(bytearray(READ_BYTES))

    def send(self, message: msgspec.Struct) -> None:
        """Write one message; blocks while the peer does not read. Raises OSError when the peer is gone."""
        self.sock.sendall(pack(message))

    def receive(self, timeout_s: float | None = None) -> T:
        """The next message.

        Raises:
            TimeoutError: (builtin) none came in `timeout_s`; the connection stays usable.
            EOFError: the peer closed.
            OSError: the connection broke.
        """
        ready = self._ready
        if ready:
            return ready.popleft()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not ready:
            if deadline is not None and not readable(self.sock.fileno(), max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            size = self.sock.recv_into(self._buffer)
            if not size:
                raise EOFError("the peer closed the connection")
            ready.extend(self._unpacker.feed(self._buffer[:size]))
        return ready.popleft()

    @property
    def pending(self) -> bool:
        """Whether `receive` returns without waiting."""
        return bool(self._ready)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        with contextlib.suppress(OSError):
            self.sock.close()


def readable(fd: int, timeout_s: float | None) -> bool:
    """Wait until there is something to read, or the other side has closed; None waits without end. `select` takes no descriptors from 1024 on, `poll` does."""
    wait = select.poll()
    wait.register(fd, select.POLLIN)
    return bool(wait.poll(None if timeout_s is None else timeout_s * 1000))
