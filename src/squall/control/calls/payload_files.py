"""The server's side of large arguments: files that clients wrote, each kept until its input has an outcome."""

import asyncio
import contextlib
import time
from pathlib import Path

from squall.wire.parcels import name_of

#: A file that no input holds is taken away at this age, seconds: its client is still writing it, or will send the call again after a restart, or is gone.
UNHELD_KEPT_S = 600.0
SWEEP_S = 60.0


class Parcels:
    """Owns `directory`, which containers can pass through and not list."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: set[str] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Make the directory and look after it from now on."""
        self.directory.mkdir(exist_ok=True)
        self.directory.chmod(0o711)
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="parcels that nobody holds")

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()

    def hold(self, data: bytes) -> None:
        """An input with these arguments is there."""
        if (name := name_of(data)) is not None:
            self._held.add(name)

    def drop(self, data: bytes) -> None:
        """The input with these arguments is done."""
        name = name_of(data)
        if name in self._held:
            self._held.remove(name)
            (self.directory / name).unlink(missing_ok=True)

    async def _sweep(self) -> None:
        while True:
            self.sweep(time.time())
            await asyncio.sleep(SWEEP_S)

    def sweep(self, now: float) -> None:
        """Take away what nobody holds."""
        for path in self.directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in self._held and now - path.stat().st_mtime > UNHELD_KEPT_S:
                    path.unlink()
