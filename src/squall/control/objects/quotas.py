"""Volumes with a quota: each is a file system of its own, in a file of that size, so that the kernel itself says when it is full."""

import logging
import os
import shutil
import subprocess
from pathlib import Path

from squall.model.errors import ConflictError, InvalidError, ResourceExhaustedError, UnsupportedError
from squall.runtime.ids import IdRange
from squall.runtime.reown import settle

log = logging.getLogger(__name__)

MIB = 1 << 20
QUOTA_MIN_BYTES, QUOTA_MAX_BYTES = MIB, 1 << 50
#: What ext4 needs for itself: a journal, and inode tables of under two per cent. The quota is what is left for files.
_OWN_BYTES, _OWN_SHARE = 24 * MIB, 0.03


def check_quota(quota_bytes: int) -> None:
    """
    Raises:
        InvalidError: below a mebibyte or beyond a pebibyte.
    """
    if not QUOTA_MIN_BYTES <= quota_bytes <= QUOTA_MAX_BYTES:
        raise InvalidError(f"a quota of {quota_bytes} bytes: it has to be between 1 MiB and 1 PiB")


class Quotas:
    """File systems of volumes with a quota.

    Args:
        images: holds the files, which take the room on the disk that is written to.
        mounts: holds a directory for each, with ``files`` (the volume) and ``staging``.
        owner: host uid of root in containers.
    """

    def __init__(self, images: Path, mounts: Path, owner: int | None) -> None:
        self._images, self._mounts, self._owner = images, mounts, owner

    def has(self, volume: str) -> bool:
        return self.image(volume).exists()

    def place(self, volume: str) -> Path:
        """The file system of a volume, mounted.

        Raises:
            UnsupportedError: this machine can't mount it.
        """
        place = self._mounts / volume
        if not os.path.ismount(place):
            place.mkdir(parents=True, exist_ok=True, mode=0o711)
            _run("mount", "-o", "loop,nosuid,nodev", "-t", "ext4", str(self.image(volume)), str(place))
            shutil.rmtree(place / "staging", ignore_errors=True)
            (place / "staging").mkdir(mode=0o700)
        if self._owner is not None:
            settle(place, IdRange(self._owner))
        return place

    def make(self, volume: str, quota_bytes: int) -> None:
        """Make it. Idempotent.

        Raises:
            UnsupportedError, ResourceExhaustedError.
        """
        image = self.image(volume)
        if not image.exists():
            self._images.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._check_room(_size(quota_bytes))
            draft = image.with_suffix(".new")
            try:
                with draft.open("wb") as file:
                    file.truncate(_size(quota_bytes))
                owner = 0 if self._owner is None else self._owner
                _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", f"root_owner={owner}:{owner},lazy_itable_init=1", str(draft))
                os.rename(draft, image)
            finally:
                draft.unlink(missing_ok=True)
        place = self.place(volume)
        place.chmod(0o711)
        files = place / "files"
        files.mkdir(mode=0o755, exist_ok=True)
        if self._owner is not None:
            os.chown(files, self._owner, self._owner)

    def grow(self, volume: str, quota_bytes: int) -> None:
        """Give it more room: at once where the kernel lets this process (CAP_SYS_RESOURCE), else only while no app that mounts it runs.

        Raises:
            InvalidError: it would shrink.
            ConflictError: it is in use, and can't grow meanwhile.
        """
        image = self.image(volume)
        size = _size(quota_bytes)
        if size < (before := image.stat().st_size):
            raise InvalidError("a quota can only be raised; for a smaller one copy the files into a new volume")
        self._check_room(size - before)
        os.truncate(image, size)
        device = _run("findmnt", "-n", "-o", "SOURCE", "--mountpoint", str(self.place(volume))).strip()
        _run("losetup", "-c", device)
        try:
            _run("resize2fs", device)
            return
        except UnsupportedError as error:
            if "Permission denied" not in str(error):
                raise
        self.unmount(volume)
        try:
            if _run("losetup", "-j", str(image)).strip():
                raise ConflictError("the volume is in use, and this server may not let it grow meanwhile; stop the apps that mount it first")
            _run("e2fsck", "-f", "-p", str(image))
            _run("resize2fs", str(image))
        finally:
            self.place(volume)

    def drop(self, volume: str) -> None:
        """Delete it. Idempotent."""
        self.unmount(volume)
        self.image(volume).unlink(missing_ok=True)

    def unmount(self, volume: str) -> None:
        """Idempotent. What a container still has of it stays until that ends."""
        place = self._mounts / volume
        if os.path.ismount(place):
            _run("umount", "-l", str(place))
        if place.exists():
            place.rmdir()

    def all(self) -> list[str]:
        """Volumes with a quota, mounted or not."""
        return [path.stem for path in self._images.glob("vo-*.ext4")] if self._images.exists() else []

    def close(self) -> None:
        """Unmount all of them; one that can't be is logged, and taken up by the next server."""
        for volume in self.all():
            try:
                self.unmount(volume)
            except (OSError, UnsupportedError, ResourceExhaustedError):
                log.exception("the volume %s could not be unmounted", volume)

    def _check_room(self, size: int) -> None:
        """The room is taken when something is written; but a quota that the disk could not hold would end in write errors below the file system."""
        if size > (free := shutil.disk_usage(self._images).free):
            raise ResourceExhaustedError(f"the disk has {free >> 20} MiB left, and the quota would need {size >> 20} MiB more")

    def image(self, volume: str) -> Path:
        """The file that holds the volume's file system."""
        return self._images / f"{volume}.ext4"


def _size(quota_bytes: int) -> int:
    size = quota_bytes + _OWN_BYTES + int(quota_bytes * _OWN_SHARE)
    return (size + MIB - 1) // MIB * MIB


def _run(*argv: str) -> str:
    env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}
    try:
        return subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout
    except FileNotFoundError as error:
        raise UnsupportedError(f"a volume with a quota needs {argv[0]} (apt install e2fsprogs util-linux)") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()
        if "No space left" in said:
            raise ResourceExhaustedError(f"no room on the disk for a volume with a quota: {said}") from error
        raise UnsupportedError(f"a volume with a quota needs root and loop devices on the server's machine; {argv[0]} says: {said}") from error
