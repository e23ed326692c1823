"""SHA-256 of local files, remembered for those that did not change: large ones, and all of a tree of many.

A memory is a file in the user's cache directory, keyed by path, size, inode and modification time. A file that was modified within the last two seconds
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
#: A tree of fewer files is hashed as quickly as its memory is read.
TREE_FILES_MIN = 500
#: Trees that are remembered; the longest unused are forgotten. Ten thousand files take 1.5 MB.
_TREES_MAX = 32

#: path -> (size, inode, mtime_ns, digest)
_Memory = dict[str, tuple[int, int, int, str]]


class Digests:
    """Hashes files; `save` writes what was learnt. Not safe for use by several threads; several processes may share the file.

    Args:
        memory: the file.
        tree: it is that of one tree: files of any size are remembered, and only those that were asked for stay so.
    """

    def __init__(self, memory: Path | None = None, *, tree: bool = False) -> None:
        self._file = memory if memory is not None else cache_directory() / "digests"
        self._tree = tree
        self._bytes_min = 0 if tree else _REMEMBERED_BYTES_MIN
        self._memory: _Memory | None = None
        self._seen: _Memory = {}
        self._changed = False

    @classmethod
    def of_tree(cls, root: Path) -> "Digests":
        """The memory of a directory with many files."""
        return cls(cache_directory() / "trees" / hashlib.sha256(os.fsencode(root)).hexdigest()[:32], tree=True)

    def known(self, path: str, status: os.stat_result) -> str | None:
        """The digest of a file with this status, if it is remembered; nothing is read."""
        entry = self._load().get(path)
        if entry is None or entry[0] != status.st_size or entry[1] != status.st_ino or entry[2] != status.st_mtime_ns:
            return None
        self._seen[path] = entry
        return entry[3]

    def digest(self, path: Path | str) -> tuple[str, os.stat_result]:
        """SHA-256 in hex and the status of the file at the time.

        Raises:
            OSError: it can't be read.
        """
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size < self._bytes_min:
                return hashlib.sha256(file.read()).hexdigest(), status
            key = str(path)
            if (known := self.known(key, status)) is not None:
                return known, status
            # Read whole where it is small: a hashing loop of its own takes longer than the reading.
            found = hashlib.sha256(file.read()).hexdigest() if status.st_size < _REMEMBERED_BYTES_MIN else hashlib.file_digest(file, "sha256").hexdigest()
        if abs(time.time() - status.st_mtime) > _RACY_S:
            self._load()[key] = self._seen[key] = (status.st_size, status.st_ino, status.st_mtime_ns, found)
            self._changed = True
        return found, status

    def forget(self, path: str) -> None:
        """A file has another content than was remembered. Takes effect at once, for other processes too."""
        if self._load().pop(path, None) is not None:
            self._seen.pop(path, None)
            self._changed = True
            self.save()

    def save(self) -> None:
        """Keep what was learnt, replacing the file in one step. A cache directory that can't be written is no error."""
        if not self._changed or self._memory is None:
            return
        entries = self._seen.items() if self._tree else list(self._memory.items())[-_ENTRIES_MAX:]
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.msgpack.encode(dict(entries)))
            temporary.replace(self._file)
            if self._tree:
                for old in sorted(self._file.parent.iterdir(), key=lambda place: place.stat().st_mtime)[:-_TREES_MAX]:
                    old.unlink(missing_ok=True)
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
