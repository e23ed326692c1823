"""Snapshots of a volume: copies of its files as they were. What did not change since the snapshot before is one file with that, by a hard link.

Each is a directory with ``files``, ``about`` and ``marks``; it appears by rename, complete and synced to disk.
"""

import os
import re
import shutil
from pathlib import Path

import msgspec

from squall.model.errors import NotFoundError
from squall.store.beneath import sync_file_system
from squall.store.mirror import Marks, bring, changed, remove, scan, total

_ID = re.compile(r"sn-[0-9a-f]{32}")


class Snapshot(msgspec.Struct, frozen=True):
    """`created_at` Unix seconds; `bytes` of all its files together, those that it shares with another snapshot included."""

    id: str
    created_at: float
    note: str
    files: int
    bytes: int


class Snapshots:
    """Of one volume. Blocking, for threads; the caller lets one method run at a time.

    Args:
        files: the volume's directory.
        own_staging: a directory on its file system that no container sees.
        folder: where the snapshots lie; made with the first.
        staging: a directory on the file system of `folder`.
    """

    def __init__(self, files: Path, own_staging: Path, folder: Path, staging: Path) -> None:
        self._files, self._own_staging, self._folder, self._staging = files, own_staging, folder, staging

    def history(self) -> list[Snapshot]:
        """Newest first."""
        if not self._folder.exists():
            return []
        found = [msgspec.msgpack.decode(self._read(entry.name, "about"), type=Snapshot) for entry in os.scandir(self._folder)]
        return sorted(found, key=lambda snapshot: snapshot.created_at, reverse=True)

    def take(self, snapshot_id: str, now: float, note: str) -> Snapshot:
        """Copy what is there. Each file is whole; of files written meanwhile it is not said which of two states they are in.

        Raises:
            ConflictError, ResourceExhaustedError: a file is written all the time; the disk is full. Nothing is left of it.
        """
        fresh = self._staging / f"snapshot-{snapshot_id}"
        try:
            (fresh / "files").mkdir(parents=True, mode=0o700)
            marks = scan(self._files)
            before = next(iter(self.history()), None)
            reuse = None if before is None else (self._folder / before.id / "files", self._marks(before.id))
            bring(self._files, fresh / "files", marks, marks, self._staging, reuse=reuse)
            # What was written between the look and the copy has another mark: it is looked at again by the next snapshot, since its mark is kept as it was.
            snapshot = Snapshot(snapshot_id, now, note, *total(marks))
            (fresh / "about").write_bytes(msgspec.msgpack.encode(snapshot))
            (fresh / "marks").write_bytes(msgspec.msgpack.encode(marks))
            _sync(fresh)
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.rename(fresh, self._folder / snapshot_id)
            _sync(self._folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return snapshot

    def restore(self, snapshot_id: str) -> None:
        """Make the volume what it was, and bring that to the disk. Killed half-way it leaves some files restored and each whole; done again it finishes.

        Raises:
            NotFoundError: no such snapshot.
        """
        kept = self._folder / _checked(snapshot_id) / "files"
        then = self._marks(snapshot_id)
        different, gone = changed(then, scan(self._files))
        remove(self._files, [path for path in different if path not in then])
        wanted = (different & then.keys()) | gone
        copies = scan(kept)
        bring(kept, self._files, copies, wanted, self._own_staging)
        _sync(self._files)

    def delete(self, snapshot_id: str) -> None:
        """Raises NotFoundError."""
        trash = self._staging / f"trash-{_checked(snapshot_id)}"
        try:
            os.rename(self._folder / snapshot_id, trash)
        except FileNotFoundError:
            raise NotFoundError(f"there is no snapshot {snapshot_id} of this volume; squall volume history shows those there are") from None
        shutil.rmtree(trash, ignore_errors=True)

    def _marks(self, snapshot_id: str) -> Marks:
        return msgspec.msgpack.decode(self._read(snapshot_id, "marks"), type=Marks)

    def _read(self, snapshot_id: str, what: str) -> bytes:
        try:
            return (self._folder / _checked(snapshot_id) / what).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"there is no snapshot {snapshot_id} of this volume; squall volume history shows those there are") from None


def _checked(snapshot_id: str) -> str:
    if _ID.fullmatch(snapshot_id) is None:
        raise NotFoundError(f"{snapshot_id[:80]!r} is no id of a snapshot: they begin with sn-")
    return snapshot_id


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file_system(handle)
    finally:
        os.close(handle)
