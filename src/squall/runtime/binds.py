"""What is bound into containers, as mounts: detached, or at a path for runtimes that take paths only."""

import os
from pathlib import Path

from squall.runtime import kernel, mounts
from squall.runtime.contract import Bind
from squall.runtime.files import child_names
from squall.store.beneath import FOLDER, open_beneath


def bound(bind: Bind) -> int:
    """A detached mount of it, and of what is mounted below it; the caller owns the descriptor.

    Raises:
        OSError: it is not there; EXDEV where `below` would lead out of the source.
    """
    tree = _below(bind) if bind.below else kernel.open_tree(str(bind.source), recursive=True)
    try:
        kernel.mount_setattr(tree, kernel.MOUNT_ATTR_RDONLY if bind.read_only else 0)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _below(bind: Bind) -> int:
    root = os.open(bind.source, FOLDER | os.O_NOFOLLOW)
    try:
        folder = open_beneath(root, bind.below, FOLDER)
    finally:
        os.close(root)
    try:
        return kernel.open_tree(f"/proc/self/fd/{folder}", recursive=True)
    finally:
        os.close(folder)


def attach(bind: Bind, target: Path) -> None:
    """Mount it at a path that is made for it."""
    target.mkdir() if bind.source.is_dir() else target.touch()
    tree = bound(bind)
    try:
        kernel.move_mount(tree, str(target))
    finally:
        os.close(tree)


def detach(folder: Path) -> None:
    """Take away what is mounted at names in `folder`. Idempotent."""
    for name in child_names(folder):
        while mounts.detach(folder / name):
            pass
