"""Keeps containers without `ephemeral_disk=` from filling the disk that the server's own data lies on: when it is nearly full, who has written most is ended.

A limit for every container (a file system of its own) would take 25 ms of each start; looking at the room that is left takes microseconds.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

#: What is to stay free: so much of the disk, and no more than this.
SHARE, BYTES_MAX = 0.02, 2 << 30
#: Seconds between looks, with much room and with less than ten times what is to stay free: a fast disk takes some GB/s.
_CALM_S, _NEAR_S = 1.0, 0.1


class DiskGuard:
    """Looks after the disk of `folder`, which has a directory for each container with what it writes.

    `end` ends one of them by its name, and is told how many bytes it has written; it says whether that one was there to be ended.
    """

    def __init__(self, folder: Path, end: Callable[[str, int], bool]) -> None:
        self.folder, self.end = folder, end
        self._ended: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                near = self.is_near()
                if near and (most := await asyncio.to_thread(self.most)) is not None and self.end(*most):
                    self._ended.add(most[0])
            except FileNotFoundError:
                near = False
            except OSError as error:
                log.warning("the room on the disk can't be looked at: %s", error)
                near = False
            await asyncio.sleep(_NEAR_S if near else _CALM_S)

    def is_near(self) -> bool:
        """Whether the room left is less than ten times what is to stay free."""
        return self._free() < 10 * self._kept()

    def most(self) -> tuple[str, int] | None:
        """Who has written most, and how much, if there is less room than is to stay. None if none has written as much as that: then others fill it."""
        if self._free() >= self._kept():
            return None
        self._ended &= set(os.listdir(self.folder))
        if self._ended:
            return None  # there is room again when that one is gone
        written = {name: sum(_blocks(self.folder / name)) for name in os.listdir(self.folder)}
        name = max(written, key=lambda name: written[name], default=None)
        return None if name is None or written[name] < self._kept() else (name, written[name])

    def _free(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def _kept(self) -> int:
        found = os.statvfs(self.folder)
        return min(int(found.f_blocks * found.f_frsize * SHARE), BYTES_MAX)


def _blocks(folder: Path) -> Iterator[int]:
    """Bytes that what is below takes on this very disk. What goes meanwhile counts nothing."""
    try:
        entries = list(os.scandir(folder))
        device = folder.stat().st_dev
    except OSError:
        return
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
            if found.st_dev == device:
                yield found.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    yield from _blocks(Path(entry.path))
        except OSError:
            continue
