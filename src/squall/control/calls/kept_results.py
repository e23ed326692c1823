"""Outcomes whose clients have lost their connections and will ask for them: few bytes in memory, more of them in files, all for a while only.

Where one is not kept, its client sends the input again, and it runs again, as after a kill of the server.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

Key = tuple[str, int]

#: Bytes of them in memory, and in files. Beyond the latter the oldest files go.
MEMORY_BYTES_MAX, FILES_BYTES_MAX = 64 << 20, 4 << 30


class KeptResults:
    """Each is there until it is taken, or for `kept_s` seconds. `directory`: where files go; None: all stay in memory."""

    def __init__(self, later: Callable[[float, Callable[[], object]], None], kept_s: float) -> None:
        self._later, self._kept_s = later, kept_s
        self.directory: Path | None = None
        self._kept: dict[Key, tuple[int, bytes | Path, int]] = {}
        #: Bytes of each file, the oldest first.
        self._files: dict[Key, int] = {}
        self._bytes = self._file_bytes = 0
        self._number = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: Key, status: int, data: bytes) -> None:
        """From now on, if there is room."""
        self._drop(key)
        where: bytes | Path = data
        if self.directory is not None and self._bytes + len(data) > MEMORY_BYTES_MAX:
            try:
                where = _written(self.directory, data)
            except OSError as error:
                log.warning("an outcome of %s is not kept for its client: %s", key[0], error)
                return
            self._files[key] = len(data)
            self._file_bytes += len(data)
        else:
            self._bytes += len(data)
        self._number += 1
        number = self._number
        self._kept[key] = (status, where, number)
        self._later(self._kept_s, lambda: self._expire(key, number))
        while self._file_bytes > FILES_BYTES_MAX:
            self._drop(next(iter(self._files)))

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
            self._file_bytes -= self._files.pop(key)
            found[1].unlink(missing_ok=True)


def _written(directory: Path, data: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix="result-", dir=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError:
        os.unlink(name)
        raise
    return Path(name)
