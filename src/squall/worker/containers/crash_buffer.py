"""Memory shared with one runner: what it had finished but not sent, and what it was at, when its container died."""

import fcntl
import mmap
import os

from squall.model.errors import Error
from squall.runner.channel import SCRATCH_BYTES, SCRATCH_HEAD
from squall.wire.framing import Unpacker
from squall.wire.messages import FromRunner

#: fcntl(2), F_ADD_SEALS: the container can neither grow nor shrink it.
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Scratch:
    """Owned by the agent; `fd` goes to the runner with the first message."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("squall-scratch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, SCRATCH_BYTES)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._map = mmap.mmap(self.fd, SCRATCH_BYTES)

    def left(self) -> tuple[int, list[FromRunner]]:
        """The attempt that ran last, and the messages that were gathered and not sent. What the container wrote there is trusted as little as its socket."""
        token, size = SCRATCH_HEAD.unpack_from(self._map, 0)
        size = min(size, SCRATCH_BYTES - SCRATCH_HEAD.size)
        unpacker: Unpacker[FromRunner] = Unpacker(FromRunner)
        try:
            return token, unpacker.feed(self._map[SCRATCH_HEAD.size : SCRATCH_HEAD.size + size])
        except Error:  # user code wrote there, by mistake or not
            return token, []

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)
