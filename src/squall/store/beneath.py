"""Opening what lies below a directory whose content is not trusted: no ``..`` and no link leads out of it.

On Linux the kernel resolves the path (openat2(2), RESOLVE_BENEATH), so that nobody can exchange a directory for a link half-way. Elsewhere, and on kernels
before 5.6, the path is walked and no link is followed at all.
"""

import ctypes
import errno
import os
import stat
import sys

from squall.model.errors import InvalidError

_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_NAME_BYTES_MAX, _PATH_BYTES_MAX = 255, 4096
_COPY_BYTES = 1 << 24
_O_PATH = getattr(os, "O_PATH", 0)

#: Flags of a directory that is only a place to start from.
FOLDER = _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def _kernel_resolves() -> bool:
    if sys.platform != "linux":
        return False
    try:
        os.close(_openat2(-100, ".", FOLDER, 0))  # -100: AT_FDCWD
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True


def clean(path: str) -> str:
    """A path within a volume as it is used below: relative, without ``.`` and doubled slashes; the root is ``.``.

    Raises:
        InvalidError: ``..``, a NUL, or a name or path that no file system takes.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise InvalidError(f"the path {path!r} can't be written as UTF-8") from error
    if ".." in parts:
        raise InvalidError(f"the path {path!r} has a '..': paths go down from the volume's root")
    if "\0" in path:
        raise InvalidError(f"the path {path!r} has a NUL")
    if any(length > _NAME_BYTES_MAX for length in lengths) or sum(lengths) + len(parts) > _PATH_BYTES_MAX:
        raise InvalidError(f"the path {path[:80]!r}… is too long: a name has at most {_NAME_BYTES_MAX} bytes, a path {_PATH_BYTES_MAX}")
    return "/".join(parts) or "."


def open_beneath(root: int, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor of `path` below the directory `root`. Links are followed while they stay below it.

    Args:
        path: as `clean` gives it.

    Raises:
        OSError: as open(2); EXDEV where the path would lead out.
    """
    if KERNEL_RESOLVES:
        return _openat2(root, path, flags | os.O_CLOEXEC, mode)
    return _walk(root, path, flags | os.O_CLOEXEC, mode)


def _openat2(root: int, path: str, flags: int, mode: int) -> int:
    how = _How(flags, mode, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    for _ in range(8):  # EAGAIN: something was renamed meanwhile
        found: int = _libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return found
        if ctypes.get_errno() != errno.EAGAIN:
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


def _walk(root: int, path: str, flags: int, mode: int) -> int:
    *folders, last = path.split("/")
    at = os.dup(root)
    try:
        for name in folders:
            below = _no_link(name, FOLDER, 0, at)
            os.close(at)
            at = below
        return _no_link(last, flags, mode, at)
    finally:
        os.close(at)


def _no_link(name: str, flags: int, mode: int, at: int) -> int:
    """Open without following a link: one is refused, unless `flags` ask for the link itself."""
    try:
        handle = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=at)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(name, at):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name) from error
        raise
    if not flags & os.O_NOFOLLOW and stat.S_ISLNK(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return handle


def _is_link(name: str, at: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


KERNEL_RESOLVES = _kernel_resolves()


def sync_file_system(folder: int) -> None:
    """Bring everything that was written to the file system of `folder` to its disk (syncfs(2)).

    Raises:
        OSError: the disk is full or broken, as the kernel found while writing.
    """
    if sys.platform != "linux":
        os.sync()
    elif _libc.syncfs(folder):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def copy_bytes(source: int, target: int) -> None:
    """All bytes of a file into an empty one; shares the blocks where the file system can."""
    try:
        while os.copy_file_range(source, target, _COPY_BYTES):
            pass
    except OSError:  # between file systems, on old kernels
        os.ftruncate(target, 0)
        os.lseek(source, 0, os.SEEK_SET)
        os.lseek(target, 0, os.SEEK_SET)
        while os.sendfile(target, source, None, _COPY_BYTES):
            pass
