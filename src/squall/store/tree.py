"""The files of one volume, as its server handles them: every path is resolved below the volume's root, and a new content appears whole, by rename.

What lies there was written by user code, so nothing of it is trusted: links may point anywhere, directories may be exchanged at any moment.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path, PurePosixPath

import msgspec

from squall.model.errors import (
    AlreadyExistsError,
    ConflictError,
    DataLossError,
    Error,
    InvalidError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from squall.store.beneath import FOLDER, clean, copy_bytes, open_beneath, sync_file_system
from squall.wire.state import Chunk, Entry, NewFile

#: Entries in one batch of a listing: about a megabyte on the wire.
BATCH = 10_000
#: A part of a file that is read at a time.
READ_MAX = 8 << 20

#: Names of uploads in the staging directory that begin so can be taken up again, also by the next server.
RESUMABLE = "ur"

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def said(path: str) -> Iterator[None]:
    """Errors of the file system in Squall's words, about `path`."""
    try:
        yield
    except OSError as error:
        raise _translated(error, path) from error


def _translated(error: OSError, path: str) -> Error:
    match error.errno:
        case errno.ENOENT:
            return NotFoundError(f"{path!r} is not in the volume")
        case errno.EXDEV | errno.ELOOP:
            return InvalidError(f"{path!r} leads out of the volume, through a link")
        case errno.ENOTDIR:
            return InvalidError(f"{path!r} is not a directory, or goes through a file")
        case errno.EISDIR | errno.ENOTEMPTY:
            return InvalidError(f"{path!r} is a directory")
        case errno.EEXIST:
            return AlreadyExistsError(f"{path!r} is in the volume already; use force to write over it")
        case number if number in _FULL:
            return ResourceExhaustedError(f"no room on the disk for {path!r}")
        case _:
            return InvalidError(f"{path!r}: {error.strerror}")


class Tree:
    """Blocking, for threads. It holds no descriptor between calls.

    Args:
        root: the volume's directory.
        staging: a directory on the same file system that no container sees; what is unfinished lies there.
        owner: uid and gid of what is made; None: this process's.
        within: the one directory of the volume that may be reached, as `clean` gives it. Paths begin at the volume's root all the same.
    """

    def __init__(self, root: Path, staging: Path, owner: int | None, within: str = ".") -> None:
        self._root, self._staging, self._owner, self._within = root, staging, owner, within

    # looking

    def entries(self, path: str, *, recursive: bool) -> Iterator[list[Entry]]:
        """What lies at `path`, in batches; of a file the file itself. Names within a directory come sorted.

        Raises:
            NotFoundError, InvalidError: nothing is there, or the path leads out.
        """
        for batch in self._entries(path, recursive=recursive):
            yield batch if self._within == "." else [msgspec.structs.replace(entry, path=f"{self._within}/{entry.path}") for entry in batch]

    def _entries(self, path: str, *, recursive: bool) -> Iterator[list[Entry]]:
        start = self._clean(path)
        with self._open_root() as root, said(path):
            batch: list[Entry] = []
            found = open_beneath(root, start, os.O_PATH)
            try:
                facts = os.fstat(found)
                if not stat.S_ISDIR(facts.st_mode):
                    yield [_entry(start, facts)]
                    return
            finally:
                os.close(found)
            folders = [start]
            while folders:
                folder = folders.pop()
                below: list[str] = []
                for entry in self._folder(root, folder, optional=folder != start):
                    batch.append(entry)
                    if entry.type == "dir":
                        below.append(entry.path)
                    if len(batch) == BATCH:
                        yield batch
                        batch = []
                if recursive:
                    folders += reversed(below)
            if batch:
                yield batch

    def _folder(self, root: int, folder: str, *, optional: bool) -> list[Entry]:
        try:
            handle = open_beneath(root, folder, os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if optional else 0))
        except OSError:
            if optional:  # removed or exchanged since it was listed
                return []
            raise
        entries = []
        try:
            with os.scandir(handle) as found:
                prefix = "" if folder == "." else f"{folder}/"
                for item in found:
                    try:
                        facts = item.stat(follow_symlinks=False)
                    except FileNotFoundError:  # removed since
                        continue
                    entries.append(_entry(prefix + item.name, facts))
        finally:
            os.close(handle)
        entries.sort(key=attrgetter("path"))
        return entries

    def read(self, path: str, offset: int, size: int, version: str) -> Chunk:
        """At most `size` bytes of a file from `offset`.

        Raises:
            ConflictError: the file is another one, or another content, than that of `version`.
            NotFoundError, InvalidError: no such file, no plain file, or out of the volume.
        """
        if offset < 0 or size < 0:
            raise InvalidError(f"{path!r}: no bytes at {offset}")
        with self._open_root() as root, said(path):
            # Not blocking: a pipe that nobody writes to would hold this thread for ever.
            handle = open_beneath(root, self._clean(path), os.O_RDONLY | os.O_NONBLOCK)
            try:
                facts = os.fstat(handle)
                if stat.S_ISDIR(facts.st_mode):
                    raise InvalidError(f"{path!r} is a directory")
                if not stat.S_ISREG(facts.st_mode):
                    raise InvalidError(f"{path!r} is not a plain file")
                now = f"{facts.st_ino}.{facts.st_size}.{facts.st_mtime_ns}"
                if version and version != now:
                    raise ConflictError(f"{path!r} was changed while it was read; read it again")
                return Chunk(os.pread(handle, min(size, READ_MAX), offset), facts.st_size, now)
            finally:
                os.close(handle)

    # writing

    def make_folder(self, path: str) -> None:
        """Make a directory, with those above it; idempotent.

        Raises:
            InvalidError: it would lie outside, or something that is no directory is there.
        """
        with self._open_root() as root, said(path):
            os.close(self._make_folder(root, self._clean(path)))

    def check_free(self, paths: Sequence[str]) -> None:
        """
        Raises:
            AlreadyExistsError: something is at one of the paths.
        """
        with self._open_root() as root:
            for path in paths:
                with said(path), contextlib.suppress(FileNotFoundError):
                    os.close(open_beneath(root, self._clean(path), os.O_PATH | os.O_NOFOLLOW))
                    raise AlreadyExistsError(f"{path!r} is in the volume already; use force to write over it")

    def write(self, files: Sequence[NewFile], *, force: bool) -> None:
        """Write whole files, with the directories above them. Each appears complete, and not before; nothing is synced to disk."""
        staging = f"{self._staging}/w{os.getpid()}-{id(files):x}-"  # text, not paths: there may be ten thousand files
        with self._open_root() as root, contextlib.ExitStack() as stack:
            folders: dict[str, int] = {}
            for number, file in enumerate(files):
                folder, name = self._split(file.path)
                if folder not in folders:
                    if len(folders) > 256:
                        stack.close()
                        folders.clear()
                    with said(file.path):
                        folders[folder] = handle = self._make_folder(root, folder)
                    stack.callback(os.close, handle)
                staged = f"{staging}{number}"
                with said(file.path):
                    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    try:
                        view = memoryview(file.data)
                        while view:
                            view = view[os.write(handle, view) :]
                        self._settle(handle, file.mode)
                        self._place(staged, folders[folder], name, force=force)
                    finally:
                        os.close(handle)
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(staged)

    def upload(self, upload: str, path: str, offset: int, data: bytes, *, last: bool, mode: int | None, digest: str, force: bool) -> int:
        """A part of a large file; returns how many bytes there are now. Parts come in order; the file appears with the last.

        Raises:
            ConflictError: the part does not begin where the one before ended.
            DataLossError: the whole does not have this digest; what was uploaded is dropped.
        """
        folder, name = self._split(path)
        staged = self._staging / f"u{_name(upload)}"
        with said(path), open(os.open(staged, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as file:
            there = file.seek(0, os.SEEK_END)
            if there != offset:
                raise ConflictError(f"a part of {path!r} begins at {offset}, but {there} bytes are there")
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            if not last:
                return there + len(data)
            if digest:
                file.seek(0)
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    staged.unlink()
                    raise DataLossError(f"{path!r} did not arrive as it was sent; send it again")
            with self._open_root() as root:
                handle = self._make_folder(root, folder)
                try:
                    self._settle(file.fileno(), mode)
                    self._place(staged, handle, name, force=force)
                finally:
                    os.close(handle)
                    staged.unlink(missing_ok=True)
        return offset + len(data)

    def uploaded(self, upload: str) -> int:
        """How many bytes of a large file are there already."""
        try:
            return (self._staging / f"u{_name(upload)}").stat().st_size
        except FileNotFoundError:
            return 0

    def digests(self, paths: Sequence[str]) -> list[str]:
        """SHA-256 in hex of each; empty where there is no such file."""
        found = []
        with self._open_root() as root:
            for path in paths:
                digest = ""
                with contextlib.suppress(OSError):
                    handle = open_beneath(root, self._clean(path), os.O_RDONLY | os.O_NONBLOCK)
                    with open(handle, "rb", buffering=0) as file:
                        if stat.S_ISREG(os.fstat(handle).st_mode):
                            digest = hashlib.file_digest(file, "sha256").hexdigest()
                found.append(digest)
        return found

    def copy(self, paths: Sequence[str], target: str, *, recursive: bool) -> None:
        """As ``cp``: into `target` if it is a directory, ends with a slash, or there are several paths; else to that name."""
        goal = self._clean(target)
        with self._open_root() as root:
            into = len(paths) > 1 or target.endswith("/") or self._is_folder(root, goal)
            for path in paths:
                source = self._clean(path)
                name = source.rpartition("/")[2]
                place = f"{goal}/{name}" if into and goal != "." else name if into else goal
                if place == source or place.startswith(f"{source}/") or source == ".":
                    raise InvalidError(f"{path!r} can't be copied to itself")
                with said(path):
                    self._copy(root, source, place, recursive=recursive)

    def remove(self, paths: Sequence[str], *, recursive: bool) -> None:
        """Delete files and links; directories with everything in them if `recursive`."""
        with self._open_root() as root:
            for path in paths:
                folder, name = self._split(path)
                with said(path):
                    handle = open_beneath(root, folder, FOLDER)
                    try:
                        if stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                            if not recursive:
                                raise InvalidError(f"{path!r} is a directory; remove it with recursive=True (-r)")
                            shutil.rmtree(name, dir_fd=handle)
                        else:
                            os.unlink(name, dir_fd=handle)
                    finally:
                        os.close(handle)

    def commit(self) -> None:
        """What was written until now is on the disk when this returns."""
        with self._open_root(os.O_RDONLY | os.O_DIRECTORY) as root, said("/"):
            sync_file_system(root)

    # parts

    @contextlib.contextmanager
    def _open_root(self, flags: int = FOLDER) -> Iterator[int]:
        with said("/" if self._within == "." else self._within):
            root = os.open(self._root, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
            if self._within != ".":
                try:
                    inner = open_beneath(root, self._within, flags)
                finally:
                    os.close(root)
                root = inner
        try:
            yield root
        finally:
            os.close(root)

    def _clean(self, path: str) -> str:
        """The path below what `_open_root` opens."""
        cleaned = clean(path)
        if self._within == ".":
            return cleaned
        inside = PurePosixPath(cleaned)
        if not inside.is_relative_to(self._within):
            raise PermissionDeniedError(f"{path!r} is not in {self._within!r}, which is all of the volume that is mounted here")
        return str(inside.relative_to(self._within))

    def _split(self, path: str) -> tuple[str, str]:
        """Directory and name of something that is not the root itself."""
        cleaned = self._clean(path)
        if cleaned == ".":
            here = "the volume itself" if self._within == "." else "all that is mounted here"
            raise InvalidError(f"{path!r} is {here}; name something in it")
        folder, _, name = cleaned.rpartition("/")
        return folder or ".", name

    def _make_folder(self, root: int, folder: str) -> int:
        try:
            return open_beneath(root, folder, FOLDER)
        except FileNotFoundError:
            above, _, name = folder.rpartition("/")
        parent = self._make_folder(root, above or ".")
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=parent)
                if self._owner is not None:
                    os.chown(name, self._owner, self._owner, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
        return open_beneath(root, folder, FOLDER)

    def _settle(self, handle: int, mode: int | None) -> None:
        if self._owner is not None:
            os.fchown(handle, self._owner, self._owner)
        os.fchmod(handle, 0o644 if mode is None else mode & 0o777)

    @staticmethod
    def _place(staged: Path | str, folder: int, name: str, *, force: bool) -> None:
        if force:
            os.rename(staged, name, dst_dir_fd=folder)
        else:
            os.link(staged, name, dst_dir_fd=folder, follow_symlinks=False)

    @staticmethod
    def _is_folder(root: int, path: str) -> bool:
        try:
            os.close(open_beneath(root, path, FOLDER))
        except OSError:
            return False
        return True

    def _copy(self, root: int, source: str, place: str, *, recursive: bool) -> None:
        handle = open_beneath(root, source, os.O_RDONLY | os.O_NONBLOCK)
        try:
            facts = os.fstat(handle)
            if stat.S_ISDIR(facts.st_mode):
                if not recursive:
                    raise InvalidError(f"{source!r} is a directory; copy it with recursive=True (-r)")
                os.close(self._make_folder(root, place))
                for name in sorted(os.listdir(handle)):
                    below = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
                    if stat.S_ISLNK(below):
                        self._copy_link(root, os.readlink(name, dir_fd=handle), f"{place}/{name}")
                    elif stat.S_ISDIR(below) or stat.S_ISREG(below):
                        self._copy(root, f"{source}/{name}", f"{place}/{name}", recursive=True)
            elif stat.S_ISREG(facts.st_mode):
                self._copy_content(root, handle, facts, place)
            else:
                raise InvalidError(f"{source!r} is not a plain file")
        finally:
            os.close(handle)

    def _copy_link(self, root: int, goal: str, place: str) -> None:
        above, _, name = place.rpartition("/")
        folder = self._make_folder(root, above or ".")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.symlink(goal, name, dir_fd=folder)
            if self._owner is not None:
                os.chown(name, self._owner, self._owner, dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)

    def _copy_content(self, root: int, handle: int, facts: os.stat_result, place: str) -> None:
        above, _, name = place.rpartition("/")
        folder = self._make_folder(root, above or ".")
        staged = self._staging / f"c{os.getpid()}-{handle}-{facts.st_ino}"
        try:
            new = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                copy_bytes(handle, new)
                self._settle(new, stat.S_IMODE(facts.st_mode))
            finally:
                os.close(new)
            self._place(staged, folder, name, force=True)
        finally:
            os.close(folder)
            staged.unlink(missing_ok=True)


def _name(upload: str) -> str:
    if not upload.isalnum() or len(upload) > 64:
        raise InvalidError(f"{upload[:80]!r} is no name of an upload")
    return upload


def _entry(path: str, facts: os.stat_result) -> Entry:
    mode = facts.st_mode
    kind = _KINDS.get(stat.S_IFMT(mode), "other")
    if not path.isascii():
        try:
            path.encode()
        except UnicodeEncodeError:  # a name that is no UTF-8: shown, but it can only be reached from a container
            path = os.fsencode(path).decode("utf-8", "backslashreplace")
    return Entry(path, kind, facts.st_mtime, facts.st_size if kind == "file" else 0)
