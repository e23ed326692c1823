"""Whether a client of the HTTP door goes on: sends its body, and reads its answer."""

import asyncio

#: A body must come this fast, looked at over each window.
BODY_RATE = 500
BODY_WINDOW_S = 30.0
#: So long nothing at all of an answer may be read.
ANSWER_WINDOW_S = 120.0


class Pace:
    """Of one connection; asked once a second."""

    __slots__ = ("_bytes", "_least", "_of", "_since", "_unread_since")

    def __init__(self) -> None:
        self._of: object = None
        self._since = self._unread_since = 0.0
        self._bytes = 0
        self._least = -1

    def body_too_slow(self, of: object, received: int, now: float, window_s: float) -> bool:
        """`of`: the request that waits for its body, None for none. `received`: bytes of the connection."""
        if of is None or self._of is not of:
            self._of, self._since, self._bytes = of, now, received
        if now - self._since < window_s:
            return False
        came, self._since, self._bytes = received - self._bytes, now, received
        return came < BODY_RATE * window_s

    def unread(self, transport: asyncio.Transport, waits: bool, now: float, window_s: float) -> bool:
        """Whether the other side has read nothing for so long. `waits`: something is due to be read."""
        size = transport.get_write_buffer_size() if waits else 0
        if not size:
            self._least = -1
        elif self._least < 0 or size < self._least:
            self._least, self._unread_since = size, now
        return self._least > 0 and now - self._unread_since > window_s
