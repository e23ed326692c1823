"""Overlay roots out of layer directories, as detached mounts, for any number of layers that the kernel takes (500).

A detached mount is a descriptor: it can be attached at a path, sent to another process, or closed, which takes it away. So nothing is left behind when a
process dies between making a mount and putting it to use.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from squall.runtime import kernel

#: Layers that an overlay can have (OVL_MAX_STACK in fs/overlayfs/params.h).
LAYERS_MAX = 500


def overlay(layers: Sequence[Path], upper: Path, work: Path, *, volatile: bool) -> int:
    """A detached overlay mount; the caller owns the descriptor.

    Args:
        layers: directories, lowest first.
        upper: takes the writes. On one real file system with `work`, which must be empty at first and is the kernel's.
        volatile: do not sync `upper` when the mount goes; only for an `upper` that is thrown away, and it can't be mounted a second time.

    Raises:
        OSError: with what the kernel said.
    """
    context = kernel.fsopen("overlay")
    try:
        try:
            for layer in reversed(layers):
                kernel.fsconfig(context, "lowerdir+", str(layer))
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            return _overlay_before_6_5(layers, upper, work, volatile)  # "lowerdir+" came with Linux 6.5
        kernel.fsconfig(context, "upperdir", str(upper))
        kernel.fsconfig(context, "workdir", str(work))
        if volatile:
            kernel.fsconfig(context, "volatile")
        return kernel.fsmount(context)
    except OSError as e:
        said = kernel.fsmessages(context)
        cause = said or (f"{e.strerror}: {e.filename}" if e.filename else e.strerror)
        raise OSError(e.errno, f"overlay of {len(layers)} layers at {upper}: {cause}") from e
    finally:
        os.close(context)


def _overlay_before_6_5(layers: Sequence[Path], upper: Path, work: Path, volatile: bool) -> int:
    """The same by mount(2), whose options must fit in one page: layers are named by short paths of descriptors. Mounted at `work`'s sibling for a moment."""
    at = work.with_name(work.name + ".mnt")
    at.mkdir(exist_ok=True)
    lower = [os.open(layer, os.O_PATH | os.O_CLOEXEC) for layer in reversed(layers)]
    # In a thread /proc/self is the process, which shares its descriptors.
    names = [f"/proc/self/fd/{fd}" for fd in lower]
    options = f"lowerdir={':'.join(names)},upperdir={_escaped(upper)},workdir={_escaped(work)}" + (",volatile" if volatile else "")
    try:
        kernel.mount("overlay", str(at), "overlay", kernel.MS_NODEV, options)
        try:
            return kernel.open_tree(str(at))
        finally:
            kernel.umount(str(at), kernel.MNT_DETACH)
    finally:
        for fd in lower:
            os.close(fd)
        at.rmdir()


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def attach(mount: int, target: Path) -> None:
    """Put a detached mount at a directory of the file tree. The descriptor stays the caller's."""
    kernel.move_mount(mount, str(target))


def detach(target: Path) -> bool:
    """Take away whatever is mounted at `target`, once it is no longer in use. False if nothing is."""
    try:
        kernel.umount(str(target), kernel.MNT_DETACH)
    except OSError as e:
        if e.errno in (errno.EINVAL, errno.ENOENT):
            return False
        raise
    return True
