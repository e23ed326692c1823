"""Outcomes whose clients have lost their connections and will ask for them: few bytes in memory, the others in files, all for a while only."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

Key = tuple[str, int]

#: Bytes of them in memory.
MEMORY_BYTES_MAX = 64 << 20


class KeptResults:
    """Each is there until it is taken, or for `kept_s` seconds. `directory`: where files go; None: all stay in memory."""

    def __init__(self, later: Callable[[float, Callable[[], object]], None], kept_s: float) -> None:
        self._later, self._kept_s = later, kept_s
        self.directory: Path | None = None
        self._kept: dict[Key, tuple[int, bytes | Path, int]] = {}
        self._bytes = 0
        self._number = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: Key, status: int, data: bytes) -> None:
        """From now on."""
        self._drop(key)
        self._number += 1
        number = self._number
        where: bytes | Path = data
        if self.directory is not None and self._bytes + len(data) > MEMORY_BYTES_MAX:
            where = _written(self.directory, data)
        else:
            self._bytes += len(data)
        self._kept[key] = (status, where, number)
        self._later(self._kept_s, lambda: self._expire(key, number))

    def take(self, key: Key) -> tuple[int, bytes]:
        """The status and the data of one that is there; it isn't any more then."""
        status, where, _ = self._kept[key]
        data = where if isinstance(where, bytes) else where.read_bytes()
        self._drop(key)
        return status, data

    def _expire(self, key: Key, number: int) -> None:
        if key in self._kept and self._kept[key][2] == number:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is None:
            return
        if isinstance(found[1], bytes):
            self._bytes -= len(found[1])
        else:
            found[1].unlink(missing_ok=True)


def _written(directory: Path, data: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix="result-", dir=directory)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return Path(name)
