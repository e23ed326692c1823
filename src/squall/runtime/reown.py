"""Gives what lies on disk for containers to the ids that containers have now, where an earlier version of Squall left it to others.

A tree says in a file whose it is, so that one look is enough at later starts. Killed at any moment it is begun again: what has been moved is not in the earlier
range any more. Only what chown(2) takes away, the set-id bits and capabilities of a program, has to be written down before.
"""

import contextlib
import logging
import os
import struct
from pathlib import Path

import msgspec

from squall.runtime.files import write_atomically
from squall.runtime.ids import DEFAULT_IDS, EARLIER_IDS, IdRange
from squall.store.beneath import sync_file_system

log = logging.getLogger(__name__)

#: In a tree: the first id of the range that its files belong to.
MARK = ".first-id"
#: In a tree: the program that is being moved.
_NOTE = ".reown"
_CAPABILITY = "security.capability"
#: Revision 3 of struct vfs_cap_data (linux/capability.h) ends with the host's id of the user that is root where the capabilities count.
_REVISION_3, _REVISION_MASK, _ROOT_ID_AT = 0x03000000, 0xFF000000, 20


class _Program(msgspec.Struct):
    path: str
    mode: int
    capability: bytes | None


def settled(root: Path, ids: IdRange = DEFAULT_IDS) -> bool:
    """Whether nothing below `root` belongs to an earlier range."""
    try:
        return (root / MARK).read_text() == f"{ids.first}\n"
    except FileNotFoundError:
        return False


def settle(root: Path, ids: IdRange = DEFAULT_IDS) -> int:
    """Make it so, and return how many files were moved. Nobody may use the tree meanwhile, and no container that has been started with the earlier range.

    Links are not followed, so that it stays below `root`. Blocks: half a second for a base image.
    """
    if settled(root, ids):
        return 0
    root.mkdir(parents=True, exist_ok=True)
    root = root.resolve()
    earlier = _earlier(root)
    _finish_program(root)
    moved = 0
    device = root.stat().st_dev
    moved += _move(root, root, str(root), None, earlier, ids)
    for folder, folders, names, handle in os.fwalk(root, follow_symlinks=False):
        for name in (*folders, *names):
            moved += _move(root, Path(folder, name), name, handle, earlier, ids)
        # What is mounted below is a tree of its own, or a bucket.
        folders[:] = [name for name in folders if os.stat(name, dir_fd=handle, follow_symlinks=False).st_dev == device]
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file_system(handle)
    finally:
        os.close(handle)
    write_atomically(root / MARK, f"{ids.first}\n", 0o600)
    if moved:
        log.info("%d files below %s were given to the containers' ids from %d on", moved, root, ids.first)
    return moved


def _earlier(root: Path) -> IdRange:
    try:
        return IdRange(int((root / MARK).read_text()))
    except FileNotFoundError:
        return EARLIER_IDS


def _move(root: Path, path: Path, name: str, handle: int | None, earlier: IdRange, ids: IdRange) -> bool:
    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
    uid, gid = (number - earlier.first + ids.first if number in earlier else number for number in (found.st_uid, found.st_gid))
    if (uid, gid) == (found.st_uid, found.st_gid):
        return False
    program = _Program(os.path.relpath(path, root), found.st_mode & 0o7777, None)
    with contextlib.suppress(OSError):
        program.capability = _shifted(os.getxattr(path, _CAPABILITY, follow_symlinks=False), earlier, ids)
    is_special = program.capability is not None or (found.st_mode & 0o6000 and os.path.isfile(path) and not os.path.islink(path))
    if is_special:
        write_atomically(root / _NOTE, msgspec.json.encode(program).decode(), 0o600)
    os.chown(name, uid, gid, dir_fd=handle, follow_symlinks=False)
    if is_special:
        _finish_program(root)
    return True


def _finish_program(root: Path) -> None:
    """Give a program that has been moved back what it had. Idempotent."""
    try:
        program = msgspec.json.decode((root / _NOTE).read_bytes(), type=_Program)
    except FileNotFoundError:
        return
    path = root / program.path
    if path.is_file() and not path.is_symlink():
        path.chmod(program.mode)
        if program.capability is not None:
            os.setxattr(path, _CAPABILITY, program.capability)
    (root / _NOTE).unlink()


def _shifted(capability: bytes, earlier: IdRange, ids: IdRange) -> bytes:
    if int.from_bytes(capability[:4], "little") & _REVISION_MASK != _REVISION_3:
        return capability
    (owner,) = struct.unpack_from("<I", capability, _ROOT_ID_AT)
    if owner not in earlier:
        return capability
    return capability[:_ROOT_ID_AT] + struct.pack("<I", owner - earlier.first + ids.first)
