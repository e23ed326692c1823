"""The system calls that Python's standard library lacks, each as one function that raises OSError. Linux only.

They go through `ctypes.CDLL`, which lets go of the interpreter lock meanwhile, so they may block in a thread.
"""

import ctypes
import os
import struct
from functools import cache

CLONE_NEWTIME, CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWNET = 0x80, 0x2000000, 0x10000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1, 0x2, 0x4, 0x8, 0x20, 0x1000, 0x4000, 0x40000, 0x2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8

#: Numbers are the same on every architecture from 424 on (the kernel's unified table, since Linux 5.1).
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_CLOEXEC, _OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _AT_FDCWD = 1, 1, 4, -100
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_PR_SET_CHILD_SUBREAPER = 36


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", path)
    return result


def _syscall(call: str, number: int, *args: int | bytes | None, path: str | None = None) -> int:
    values = [ctypes.c_long(arg) if isinstance(arg, int) else ctypes.c_char_p(arg) for arg in args]
    return _check(_libc().syscall(ctypes.c_long(number), *values), call, path)


def fsopen(kind: str) -> int:
    """A configuration context of a file system type; the caller owns the descriptor."""
    return _syscall("fsopen", _FSOPEN, kind.encode(), _CLOEXEC)


def fsconfig(context: int, key: str, value: str | None = None) -> None:
    """Set an option; without a value, a flag. A value is at most 255 bytes (fs/fsopen.c)."""
    if value is None:
        _syscall("fsconfig", _FSCONFIG, context, _FSCONFIG_SET_FLAG, key.encode(), None, 0, path=key)
    else:
        _syscall("fsconfig", _FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), value.encode(), 0, path=value)


def fsmount(context: int, attributes: int = MOUNT_ATTR_NODEV) -> int:
    """Make the configured file system and return it as a detached mount, which the caller owns: closing it takes it away.

    Args:
        attributes: MOUNT_ATTR_*; by default device nodes in it give no device.
    """
    _syscall("fsconfig(create)", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
    return _syscall("fsmount", _FSMOUNT, context, _CLOEXEC, attributes)


def fsmessages(context: int) -> str:
    """What the kernel had to say about a failed context."""
    lines = []
    while True:
        try:
            lines.append(os.read(context, 4096).decode(errors="replace").strip().removeprefix("e "))  # its level: an error
        except OSError:
            return "; ".join(lines)


def open_tree(path: str, *, recursive: bool = False) -> int:
    """A detached copy of the mount at `path`, with those below it if `recursive`; the caller owns it."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _syscall("open_tree", _OPEN_TREE, _AT_FDCWD, path.encode(), flags, path=path)


def mount_setattr(mount: int, attributes: int) -> None:
    """Set attributes (MOUNT_ATTR_*) of a detached mount and of those below it."""
    data = struct.pack("=4Q", attributes, 0, MS_PRIVATE, 0)
    _syscall("mount_setattr", _MOUNT_SETATTR, mount, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, data, len(data))


def move_mount(mount: int, target: str) -> None:
    """Attach a detached mount at a directory."""
    _syscall("move_mount", _MOVE_MOUNT, mount, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH, path=target)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(_libc().mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()), "mount", target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc().umount2(target.encode(), flags), "umount", target)


def unshare(flags: int) -> None:
    """Of the calling thread."""
    _check(_libc().unshare(flags), "unshare")


def setns(namespace: int, kind: int) -> None:
    """Of the calling thread."""
    _check(_libc().setns(namespace, kind), "setns")


def set_subreaper(on: bool) -> None:
    """While on, orphans among this process's descendants become its children, so that it learns how they ended."""
    _check(_libc().prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")
