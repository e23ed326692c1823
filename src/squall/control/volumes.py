"""Volumes: a directory each, below the server's data. What a container mounts is that very directory, so a write is seen everywhere at once."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from squall.model.errors import NotFoundError
from squall.runtime.contract import Bind
from squall.store.tree import Tree

#: Beside the volumes: uploads under way, and volumes being deleted.
STAGING = ".staging"


class Volumes:
    """Directories of volumes of one server.

    Args:
        root: holds one directory for each volume, named by its id.
        owner: host uid of root in containers; None where containers have no ids of their own.
    """

    def __init__(self, root: Path, owner: int | None) -> None:
        self._root, self._owner = root, owner

    def open(self, known: Collection[str]) -> list[str]:
        """Make what is needed, remove what an earlier server left unfinished, and every volume that is not `known`: it was ephemeral. Returns those."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o711)
        shutil.rmtree(self._root / STAGING, ignore_errors=True)
        (self._root / STAGING).mkdir(mode=0o700)
        left = [entry.name for entry in os.scandir(self._root) if entry.name.startswith("vo-") and entry.name not in known]
        for name in left:
            shutil.rmtree(self._root / name, ignore_errors=True)
        return left

    def make(self, volume: str) -> None:
        """Make the directory. Idempotent."""
        place = self._root / volume
        if not place.exists():
            fresh = self._root / STAGING / f"new-{volume}-{os.urandom(4).hex()}"
            fresh.mkdir()
            fresh.chmod(0o755)
            if self._owner is not None:
                os.chown(fresh, self._owner, self._owner)
            try:
                os.rename(fresh, place)
            except OSError:  # made by somebody else meanwhile, and in use already
                fresh.rmdir()

    def drop(self, volume: str) -> None:
        """Delete it with all files. Idempotent."""
        trash = self._root / STAGING / f"trash-{volume}-{os.urandom(4).hex()}"
        try:
            os.rename(self._root / volume, trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    def place(self, volume: str) -> Path:
        """
        Raises:
            NotFoundError: it is not there.
        """
        place = self._root / volume
        if not volume.startswith("vo-") or "/" in volume or not place.is_dir():
            raise NotFoundError(f"there is no volume {volume}; it was deleted, or it was ephemeral and has ended")
        return place

    def tree(self, volume: str) -> Tree:
        """Its files. Raises NotFoundError."""
        return Tree(self.place(volume), self._root / STAGING, self._owner)

    def bind(self, volume: str, path: str, *, read_only: bool) -> Bind:
        """The mount of a volume in a container. Raises NotFoundError."""
        return Bind(self.place(volume), path, read_only)

    def size(self, volume: str) -> int:
        """Bytes of all files. Blocks."""
        return sum(entry.size for batch in self.tree(volume).entries("/", recursive=True) for entry in batch)
