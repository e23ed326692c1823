"""The /dev and /sys of forked containers: made once for all of an instance as read-only trees of mounts, of which each container gets a copy."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from squall.runtime import kernel, mounts
from squall.runtime.bundle import SYS
from squall.runtime.contract import DeviceNode

#: Device numbers of the kernel's admin-guide/devices.txt, as OCI runtimes give them to every container.
_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}
_MOUNT_POINTS = ("pts", "shm", "mqueue")


def make(folder: Path, views: list[str]) -> None:
    """Mount the trees at `folder`/dev and `folder`/sys, in place of what an earlier agent left there.

    Args:
        views: paths below /sys where a container's view of its own cgroup goes.
    """
    remove(folder)
    dev, sys = folder / "dev", folder / "sys"
    for tree in (dev, sys):
        tree.mkdir()
        kernel.mount("squall", str(tree), "tmpfs", kernel.MS_NOSUID, "mode=755,size=1m")
        kernel.mount("none", str(tree), flags=kernel.MS_PRIVATE)
    _fill(dev)
    for path in filter(os.path.isdir, SYS):
        (folder / path.strip("/")).mkdir(parents=True)
        kernel.mount(path, str(folder / path.strip("/")), flags=kernel.MS_BIND)
    for path in views:
        (folder / path.strip("/")).mkdir(parents=True, exist_ok=True)


def dev_tree(folder: Path, more: Sequence[DeviceNode], owner: int) -> int:
    """A copy of /dev for one container, detached; the caller owns it. With `more` nodes, which are `owner`'s, it is a tree of the container's own."""
    attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC
    if not more:
        return _copy(folder / "dev", attributes)
    context = kernel.fsopen("tmpfs")
    try:
        kernel.fsconfig(context, "mode", "755")
        kernel.fsconfig(context, "size", "1m")
        tree = kernel.fsmount(context, kernel.MOUNT_ATTR_NOSUID)
    finally:
        os.close(context)
    try:
        _fill(Path(f"/proc/self/fd/{tree}"))
        for node in more:
            at = Path(f"/proc/self/fd/{tree}", node.path.removeprefix("/dev/"))
            at.parent.mkdir(parents=True, exist_ok=True)
            os.mknod(at, stat.S_IFCHR, os.makedev(node.major, node.minor))
            at.chmod(node.mode)
            os.chown(at, owner, owner)
        kernel.mount_setattr(tree, attributes)
    except BaseException:
        os.close(tree)
        raise
    return tree


def sys_tree(folder: Path) -> int:
    """The same of /sys."""
    return _copy(folder / "sys", kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC | kernel.MOUNT_ATTR_NODEV)


def remove(folder: Path) -> None:
    """Take the trees away. Idempotent."""
    for tree in (folder / "sys", folder / "dev"):
        for path in SYS:
            mounts.detach(folder / path.strip("/"))
        while mounts.detach(tree):
            pass
        if tree.exists():
            tree.rmdir()


def _fill(dev: Path) -> None:
    for name, numbers in _NODES.items():
        os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(*numbers))
        (dev / name).chmod(0o666)
    for name, target in _LINKS.items():
        (dev / name).symlink_to(target)
    for name in _MOUNT_POINTS:
        (dev / name).mkdir()


def _copy(tree: Path, attributes: int) -> int:
    copy = kernel.open_tree(str(tree), recursive=True)
    try:
        kernel.mount_setattr(copy, attributes)
    except BaseException:
        os.close(copy)
        raise
    return copy
