"""Contents by their hash: shipped source files and large values, one file each in a local directory."""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from squall.model.errors import DataLossError, InvalidError, NotFoundError, ResourceExhaustedError
from squall.store.beneath import sync_file_system

#: So many files are brought to disk by one syncfs(2), fewer by an fsync(2) each: the first waits for what others wrote, too.
_SYNCED_TOGETHER_MIN = 16

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobDirectory:
    """Blobs named by the SHA-256 of their content, in lower-case hex. Any number of processes may share the directory.

    A blob appears by rename, complete and synced to disk, and never changes afterwards.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        #: Files whose content was compared with their name, with what they were then.
        self._verified: dict[str, tuple[int, int]] = {}
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def missing(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Those of `digests` that are not here, each once, in their order. The others are not collected for a while.

        Raises:
            InvalidError: one is not a SHA-256 in lower-case hex.
        """
        root = f"{self._root}/"  # text, not paths: an app may ship ten thousand files
        return tuple(digest for digest in dict.fromkeys(digests) if not used(f"{root}{checked(digest)[:2]}/{digest[2:]}"))

    def put(self, digest: str, data: bytes | memoryview) -> None:
        """`put_all` of one."""
        self.put_all({digest: data})

    def put_all(self, contents: Mapping[str, bytes | memoryview]) -> None:
        """Store contents by their digests. Idempotent; blocks until all are on disk, which takes many hardly longer than one.

        Raises:
            InvalidError: a digest is not a SHA-256 in lower-case hex.
            DataLossError: one is not the digest of its content; nothing is stored.
            ResourceExhaustedError: the disk is full.
        """
        self.check(contents)
        drafts: dict[str, Path] = {}
        new = {place: data for digest, data in contents.items() if not used(place := self._place(digest))}
        together = len(new) >= _SYNCED_TOGETHER_MIN
        #: Directories that get a name: without a sync of theirs a power loss may take it back.
        named: set[Path] = set()
        try:
            for place, data in new.items():
                if not place.parent.exists():
                    place.parent.mkdir(exist_ok=True, mode=0o700)
                    named.add(self._root)
                named.add(place.parent)
                drafts[self._draft(place, data, sync=not together)] = place
            if together:
                self._sync()
            for draft, place in drafts.items():
                os.replace(draft, place)
            if together:
                self._sync()
            else:
                for folder in named:
                    sync(folder)
        except OSError as error:
            raise ResourceExhaustedError(f"can't store {sum(map(len, new.values()))} bytes in {self._root}: {error.strerror}") from error
        finally:
            for draft in drafts:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft)

    @staticmethod
    def check(contents: Mapping[str, bytes | memoryview]) -> None:
        """
        Raises:
            InvalidError, DataLossError: a digest is none, or not that of its content.
        """
        for digest, data in contents.items():
            actual = hashlib.sha256(data).hexdigest()
            if actual != checked(digest):
                raise DataLossError(f"a blob of {len(data)} bytes arrived as {actual[:12]}…, but was announced as {digest[:12]}…")

    def path(self, digest: str) -> Path:
        """The file that holds the blob. Its owner is the directory: read it, never change it. The first time its content is compared with its digest.

        Raises:
            InvalidError: `digest` is not a SHA-256 in lower-case hex.
            NotFoundError: no such blob.
            DataLossError: it was damaged. It is removed, so that whoever has it is asked for it again.
        """
        place = self._place(digest)
        try:
            if self._is_sound(digest, place):
                return place
            place.unlink(missing_ok=True)
            if self._again(digest):
                return place
            raise DataLossError(f"blob {digest[:12]}… was damaged on the disk, and is removed: run the program again, which sends it anew")
        except FileNotFoundError:
            if self._again(digest):
                return place
            raise NotFoundError(f"blob {digest[:12]}… is not stored here") from None

    def _is_sound(self, digest: str, place: Path) -> bool:
        facts = place.stat()
        mark = (facts.st_ino, facts.st_size)
        if self._verified.get(digest) != mark:
            with place.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return False
            self._verified[digest] = mark
        return True

    def _again(self, digest: str) -> bool:
        """Get it from elsewhere, where there is an elsewhere; whether it is here now."""
        return False

    def collect(self, needed: Collection[str], before: float, *, dry: bool) -> list[tuple[str, int, float]]:
        """Delete blobs that are not `needed` and were neither put nor asked for since `before` (Unix seconds): digest, bytes and last use of each.

        Unfinished ones of that age go too, and are not told. With `dry` nothing is deleted.
        """
        gone = []
        for folder in sorted(self._root.iterdir()):
            for place in sorted(folder.iterdir()):
                digest = folder.name + place.name
                facts = place.stat()
                if facts.st_mtime >= before or digest in needed:
                    continue
                if _DIGEST.fullmatch(digest):
                    gone.append((digest, facts.st_size, facts.st_mtime))
                if not dry:
                    place.unlink(missing_ok=True)
        return gone

    def _place(self, digest: str) -> Path:
        return self._root / checked(digest)[:2] / digest[2:]

    @staticmethod
    def _draft(place: Path, data: bytes | memoryview, *, sync: bool) -> str:
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=".tmp-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
        except BaseException:
            os.unlink(name)
            raise
        return name

    def _sync(self) -> None:
        """All of its file system: one call for many files and names."""
        sync(self._root, everything=True)


def sync(folder: Path, *, everything: bool = False) -> None:
    """The names in a directory are on disk when it returns; with `everything` all that is written to its file system."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        (sync_file_system if everything else os.fsync)(handle)
    finally:
        os.close(handle)


def used(place: Path | str) -> bool:
    """Note that a blob is used now; whether it is there."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True


def checked(digest: str) -> str:
    """The digest itself. It comes from a client and becomes a path: nothing but hex may pass.

    Raises:
        InvalidError: it is not a SHA-256 in lower-case hex.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidError(f"{digest[:80]!r} is not a SHA-256 in lower-case hex")
    return digest
