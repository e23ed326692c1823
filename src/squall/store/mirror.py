"""Makes one directory tree like another, file by file: what snapshots, restores and strict mounts of volumes are made with.

Both trees may be written by untrusted code meanwhile, so everything is opened below its root. A copy shares its blocks with the original where the file system
can (reflinks), and never its inode: writing into one never changes the other.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from squall.model.errors import ConflictError
from squall.store.beneath import FOLDER, copy_bytes, open_beneath
from squall.store.tree import said

#: A file that is written while it is copied is copied again, so often.
_TRIES = 5


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What a path was: the same mark later means the same content. `ctime_ns` can't be set back by whoever writes. `goal`: of a symbolic link."""

    mode: int
    uid: int
    gid: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    goal: bytes = b""

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


#: By path relative to the root, as bytes; a directory comes before what lies in it.
Marks = dict[bytes, Mark]


def _mark(facts: os.stat_result, goal: bytes = b"") -> Mark:
    # Of a directory only the rights count: its size and times change with what lies in it.
    if stat.S_ISDIR(facts.st_mode):
        return Mark(facts.st_mode, facts.st_uid, facts.st_gid, 0, 0, 0, 0)
    return Mark(facts.st_mode, facts.st_uid, facts.st_gid, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, goal)


@contextlib.contextmanager
def _opened(root: Path) -> Iterator[int]:
    handle = os.open(root, FOLDER | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)


def scan(root: Path) -> Marks:
    """Everything below `root` but sockets, pipes and devices."""
    marks: Marks = {}
    with _opened(root) as top:
        folders = [b"."]
        while folders:
            folder = folders.pop()
            try:
                handle = open_beneath(top, os.fsdecode(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError:  # removed or exchanged since it was listed
                continue
            try:
                with os.scandir(handle) as found:
                    for item in sorted(found, key=lambda item: item.name):
                        name = os.fsencode(item.name)
                        path = name if folder == b"." else folder + b"/" + name
                        with contextlib.suppress(FileNotFoundError):
                            facts = item.stat(follow_symlinks=False)
                            if stat.S_ISDIR(facts.st_mode):
                                folders.append(path)
                            elif stat.S_ISLNK(facts.st_mode):
                                marks[path] = _mark(facts, os.fsencode(os.readlink(item.name, dir_fd=handle)))
                                continue
                            elif not stat.S_ISREG(facts.st_mode):
                                continue
                            marks[path] = _mark(facts)
            finally:
                os.close(handle)
    return marks


def bring(source: Path, target: Path, marks: Marks, paths: Collection[bytes], staging: Path, *, reuse: tuple[Path, Marks] | None = None) -> None:
    """Bring `paths` of `source`, which are as `marks` says, to `target`. Each file appears whole, by rename.

    Args:
        staging: a directory on the target's file system that nobody else sees.
        reuse: an earlier copy and the marks that its originals had; what is still the same is linked from there and not copied.

    Raises:
        ConflictError: a file is written all the time.
        ResourceExhaustedError: the disk is full.
    """
    with _opened(source) as top, _opened(target) as goal:
        for path in marks:
            if path not in paths:
                continue
            name = os.fsdecode(path)
            mark = marks[path]
            with said(name):
                folder, last = _parent(goal, name)
                try:
                    if mark.is_folder:
                        _bring_folder(folder, last, mark)
                        continue
                    _clear(folder, last, files=not mark.is_file)
                    if not mark.is_file:
                        os.symlink(mark.goal, os.fsencode(last), dir_fd=folder)
                        os.chown(last, mark.uid, mark.gid, dir_fd=folder, follow_symlinks=False)
                    elif reuse is None or reuse[1].get(path) != mark or not _link(reuse[0], name, folder, last):
                        _bring_file(top, name, mark, folder, last, staging)
                except FileNotFoundError:
                    continue  # the original was removed meanwhile
                finally:
                    os.close(folder)


def remove(root: Path, paths: Collection[bytes]) -> None:
    """Delete these, if they are there, and directories with all that is in them."""
    with _opened(root) as top:
        for path in sorted(paths):
            name = os.fsdecode(path)
            folder, _, last = name.rpartition("/")
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                handle = open_beneath(top, folder or ".", FOLDER)
                try:
                    _clear(handle, last, files=True)
                finally:
                    os.close(handle)


def changed(before: Marks, now: Marks) -> tuple[set[bytes], set[bytes]]:
    """Paths that are new or different, and paths that are gone."""
    return {path for path, mark in now.items() if before.get(path) != mark}, before.keys() - now.keys()


def total(marks: Marks) -> tuple[int, int]:
    """Files and their bytes."""
    sizes = [mark.size for mark in marks.values() if mark.is_file]
    return len(sizes), sum(sizes)


def _parent(root: int, name: str) -> tuple[int, str]:
    folder, _, last = name.rpartition("/")
    try:
        return open_beneath(root, folder or ".", FOLDER), last
    except FileNotFoundError:
        above, own = _parent(root, folder)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(own, 0o755, dir_fd=above)
        finally:
            os.close(above)
        return open_beneath(root, folder, FOLDER), last


def _bring_folder(folder: int, name: str, mark: Mark) -> None:
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(there.st_mode):
            os.unlink(name, dir_fd=folder)
            os.mkdir(name, 0o700, dir_fd=folder)
    except FileNotFoundError:
        os.mkdir(name, 0o700, dir_fd=folder)
    handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        _settle(handle, mark)
    finally:
        os.close(handle)


def _bring_file(top: int, name: str, mark: Mark, folder: int, last: str, staging: Path) -> None:
    staged = staging / f"m{os.getpid()}-{folder}-{mark.inode}"
    for _ in range(_TRIES):
        source = open_beneath(top, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            before = os.fstat(source)
            if not stat.S_ISREG(before.st_mode):
                return
            target = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                copy_bytes(source, target)
                if _mark(os.fstat(source)) == _mark(before):
                    _settle(target, _mark(before))
                    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
                    os.rename(staged, last, dst_dir_fd=folder)
                    return
            finally:
                os.close(target)
                staged.unlink(missing_ok=True)
        finally:
            os.close(source)
    raise ConflictError(f"{name!r} is written all the time; stop who writes it, and try again")


def _settle(handle: int, mark: Mark) -> None:
    os.fchown(handle, mark.uid, mark.gid)
    os.fchmod(handle, mark.mode & 0o777)


def _link(earlier: Path, name: str, folder: int, last: str) -> bool:
    try:
        os.link(earlier / name, last, dst_dir_fd=folder, follow_symlinks=False)
    except OSError:  # not there, or has all the links that it may have
        return False
    return True


def _clear(folder: int, name: str, *, files: bool) -> None:
    """Make room for something else. A plain file goes only if `files`: a rename takes its place."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(facts.st_mode):
        shutil.rmtree(name, dir_fd=folder)
    elif files or not stat.S_ISREG(facts.st_mode):
        os.unlink(name, dir_fd=folder)
