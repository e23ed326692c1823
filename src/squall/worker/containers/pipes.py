"""A container's descriptors 1 and 2, read on this side: what programs write that do not go through the runner."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

#: One read; a pipe holds 64 KiB (pipe(7)).
READ_BYTES = 1 << 16


class OutputPipe:
    """A named pipe. The container holds it open for reading too, so it is not killed by SIGPIPE when the agent restarts, and waits when nobody reads."""

    def __init__(self, path: Path, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self.path = path
        self.ended = asyncio.Event()
        if not path.exists():
            os.mkfifo(path, 0o600)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)

    def writer(self) -> int:
        """A descriptor for the container, to be closed by the caller once the container has it."""
        return os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._sink(data)
        else:
            self.close()

    def close(self) -> None:
        """Read what is left and stop reading. Idempotent."""
        if self.ended.is_set():
            return
        self._loop.remove_reader(self._fd)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, READ_BYTES):
                self._sink(data)
        os.close(self._fd)
        self.ended.set()
