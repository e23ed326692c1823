"""Volumes: a directory each, below the server's data. What a container mounts is that very directory, so a write is seen everywhere at once."""

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from squall.control.objects.ephemeral_budget import measured
from squall.control.objects.quotas import Quotas
from squall.control.objects.working_copies import View
from squall.model.errors import ConflictError, NotFoundError
from squall.model.specs import VolumeMount
from squall.runtime.contract import Bind
from squall.store.beneath import clean
from squall.store.snapshots import Snapshots
from squall.store.tree import RESUMABLE, Tree

#: Beside the volumes: uploads under way, and volumes being deleted.
STAGING = ".staging"
#: Volumes that a server's database did not know, by the day on which that was found: `<day>/<id>/`. Only a person removes them.
QUARANTINE = ".quarantine"
#: An upload that was broken off can be taken up again for so long.
UPLOAD_KEPT_S = 86_400.0
_LOCK_TRIES, _LOCK_PAUSE_S = 50, 0.02


class Volumes:
    """Directories of volumes of one server. Everything blocks.

    Args:
        root: holds one directory for each volume, named by its id; snapshots, strict copies, and file systems of volumes with a quota beside them.
        owner: host uid of root in containers; None where containers have no ids of their own.
    """

    def __init__(self, root: Path, owner: int | None) -> None:
        self._root, self._owner = root, owner
        self._quotas = Quotas(root / ".quotas", root / ".mounts", owner)
        self._locks: dict[str, threading.Lock] = {}
        #: Strict copies by container and volume.
        self._views: dict[tuple[str, str], View] = {}
        #: Descriptor of the locked file in `root`; None while closed.
        self._lock: int | None = None

    def open(self, known: Collection[str]) -> list[str]:
        """Make what is needed, remove what an earlier server left unfinished, and put volumes that are not `known` into quarantine. Returns those.

        A database may be an older one, or the wrong one: what it does not know may be all that somebody has.

        Raises:
            ConflictError: another server uses the directory. Nothing was changed.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o711)
        self._claim()
        (self._root / STAGING).mkdir(mode=0o700, exist_ok=True)
        self._sweep(lambda entry: not entry.name.startswith(RESUMABLE))
        self.sweep()
        shutil.rmtree(self._root / ".views", ignore_errors=True)
        snapshots = self._root / ".snapshots"
        there = [name for folder in (self._root, snapshots) if folder.is_dir() for name in os.listdir(folder) if name.startswith("vo-")]
        left = sorted({*there, *self._quotas.all()} - set(known))
        for name in left:
            self._put_aside(name)
        return left

    @property
    def quarantine(self) -> Path:
        """Where volumes lie that the database did not know."""
        return self._root / QUARANTINE

    def close(self) -> None:
        """Unmount what is mounted, and let another server use the directory."""
        self._quotas.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _claim(self) -> None:
        lock = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(_LOCK_TRIES):  # children of a killed server have its descriptors until they execute their programs
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = lock
                return
            time.sleep(_LOCK_PAUSE_S)
        os.close(lock)
        raise ConflictError(f"another server uses the volumes in {self._root}; stop it first, or set SQUALL_VOLUMES_DIR to another directory")

    def _put_aside(self, volume: str) -> None:
        """Into quarantine, whole. Killed half-way, the next start goes on."""
        self._quotas.unmount(volume)
        day = self._root / QUARANTINE / time.strftime("%Y-%m-%d", time.gmtime())
        day.mkdir(parents=True, exist_ok=True, mode=0o700)
        place, number = day / volume, 1
        while place.exists():  # put back by hand, and unknown again
            number += 1
            place = day / f"{volume}.{number}"
        place.mkdir(mode=0o700)
        for name, part in (("files", self._root / volume), ("snapshots", self._root / ".snapshots" / volume), ("quota.ext4", self._quotas.image(volume))):
            with contextlib.suppress(FileNotFoundError):
                os.rename(part, place / name)

    def sweep(self) -> None:
        """Drop uploads that nobody has taken up again for a day."""
        self._sweep(lambda entry: time.time() - entry.stat().st_mtime > UPLOAD_KEPT_S)

    def _sweep(self, old: Callable[[os.DirEntry[str]], bool]) -> None:
        for entry in os.scandir(self._root / STAGING):
            with contextlib.suppress(FileNotFoundError):
                if not old(entry):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)

    @contextlib.contextmanager
    def busy(self, volume: str) -> Iterator[None]:
        """One snapshot, restore, or change of a strict copy at a time."""
        with self._locks.setdefault(volume, threading.Lock()):
            yield

    # volumes

    def make(self, volume: str, quota_bytes: int | None = None) -> None:
        """Make the directory. Idempotent.

        Raises:
            UnsupportedError, ResourceExhaustedError: it should have a quota, and can't.
        """
        if quota_bytes is not None:
            self._quotas.make(volume, quota_bytes)
            return
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

    def grow(self, volume: str, quota_bytes: int) -> None:
        """Raise the quota. Raises InvalidError when it is lower than before."""
        self._quotas.grow(volume, quota_bytes)

    def drop(self, volume: str) -> None:
        """Delete it with all files and snapshots. Idempotent."""
        if self._quotas.has(volume):
            self._quotas.drop(volume)
        for place in (self._root / volume, self._root / ".snapshots" / volume):
            trash = self._root / STAGING / f"trash-{volume}-{os.urandom(4).hex()}"
            try:
                os.rename(place, trash)
            except FileNotFoundError:
                continue
            shutil.rmtree(trash, ignore_errors=True)
        self._locks.pop(volume, None)

    def measured(self, volume: str) -> int:
        """Bytes of its files and snapshots."""
        return measured(self._root / volume, self._root / ".snapshots" / volume)

    def place(self, volume: str) -> Path:
        """
        Raises:
            NotFoundError: it is not there.
        """
        if volume.startswith("vo-") and "/" not in volume:
            if (place := self._root / volume).is_dir():
                return place
            if self._quotas.has(volume):
                return self._quotas.place(volume) / "files"
        raise NotFoundError(f"there is no volume {volume}; it was deleted, or it was ephemeral and has ended")

    def _staging(self, volume: str) -> Path:
        return self._quotas.place(volume) / "staging" if self._quotas.has(volume) else self._root / STAGING

    def tree(self, volume: str, within: str = ".") -> Tree:
        """Its files, or those of one directory. Raises NotFoundError."""
        return Tree(self.place(volume), self._staging(volume), self._owner, within)

    def snapshots(self, volume: str) -> Snapshots:
        """Its snapshots; to be used while `busy`. Raises NotFoundError."""
        return Snapshots(self.place(volume), self._staging(volume), self._root / ".snapshots" / volume, self._root / STAGING)

    # mounts

    def bind(self, mount: VolumeMount, container: str = "") -> Bind:
        """The mount of a volume in a container; its `sub_path` is made, if it is not there. A strict one is the container's own copy.

        Raises:
            NotFoundError: no such volume.
            InvalidError: `sub_path` leads out, or is no directory.
        """
        below = ""
        if mount.sub_path:
            below = clean(mount.sub_path)
            self.tree(mount.volume).make_folder(below)
        if not mount.strict or not container:  # a build of an image is nobody's copy
            return Bind(self.place(mount.volume), mount.path, mount.read_only, below)
        return Bind(self._view(mount.volume, container).place, mount.path, mount.read_only, below)

    def _view(self, volume: str, container: str) -> View:
        if (known := self._views.get((container, volume))) is not None:  # another directory of it is mounted there, too
            return known
        folder = self._root / ".views" / volume
        folder.mkdir(parents=True, exist_ok=True)
        # Named by the container: so its template, which other containers come from, does not have it.
        view = View(self.place(volume), self._staging(volume), folder / container, self._root / STAGING)
        for above in (folder, folder.parent):
            above.chmod(0o711)
        self._views[container, volume] = view
        with self.busy(volume):
            view.make()
        return view

    def view(self, container: str, volume: str) -> View | None:
        """The container's strict copy, if it has one; to be used while `busy`."""
        return self._views.get((container, volume))

    def is_strict(self, container: str) -> bool:
        """Whether it has a strict copy."""
        return any(holder == container for holder, _ in self._views)

    def release(self, container: str) -> None:
        """The container has ended: what it wrote into strict copies is committed, and they go."""
        for key in [key for key in self._views if key[0] == container]:
            view = self._views.pop(key)
            try:
                with self.busy(key[1]), contextlib.suppress(FileNotFoundError):  # the volume was deleted
                    view.commit()
            finally:
                view.drop()
