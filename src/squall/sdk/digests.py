"""SHA-256 of local files, remembered for large files that did not change.

The memory is a file in the user's cache directory, keyed by path, size, inode and modification time. A file that was modified within the last two seconds
is never remembered: its clock may not tick between two writes (the "racy git" problem, git documentation, racy-git.txt).
"""

import contextlib
import hashlib
import os
import time
from pathlib import Path

import msgspec

#: Below this many bytes hashing costs less than looking it up.
_REMEMBERED_BYTES_MIN = 1 << 20
_RACY_S = 2.0
_ENTRIES_MAX = 20_000

#: path -> (size, inode, mtime_ns, digest)
_Memory = dict[str, tuple[int, int, int, str]]


class Digests:
    """Hashes files; `save` writes what was learnt. Not safe for use by several threads; several processes may share the file."""

    def __init__(self, memory: Path | None = None) -> None:
        self._file = memory if memory is not None else cache_directory() / "digests"
        self._memory: _Memory | None = None
        self._changed = False

    def digest(self, path: Path) -> tuple[str, os.stat_result]:
        """SHA-256 in hex and the status of the file at the time.

        Raises:
            OSError: it can't be read.
        """
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size < _REMEMBERED_BYTES_MIN:
                return hashlib.sha256(file.read()).hexdigest(), status
            memory, key = self._load(), str(path)
            known = memory.get(key)
            if known is not None and known[:3] == (status.st_size, status.st_ino, status.st_mtime_ns):
                return known[3], status
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if abs(time.time() - status.st_mtime) > _RACY_S:
            memory[key] = (status.st_size, status.st_ino, status.st_mtime_ns, found)
            self._changed = True
        return found, status

    def save(self) -> None:
        """Keep what was learnt, replacing the file in one step. A cache directory that can't be written is no error."""
        if not self._changed or self._memory is None:
            return
        entries = list(self._memory.items())[-_ENTRIES_MAX:]
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.msgpack.encode(dict(entries)))
            temporary.replace(self._file)
        self._changed = False

    def _load(self) -> _Memory:
        if self._memory is None:
            try:
                self._memory = msgspec.msgpack.decode(self._file.read_bytes(), type=_Memory)
            except (OSError, msgspec.DecodeError):
                self._memory = {}
        return self._memory


def cache_directory() -> Path:
    """Where this user keeps what can be made again (XDG Base Directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "squall"
