"""A limit of what a container may write: its writes go to a file system of that size, ext4 in a sparse file, which takes no more of the disk than is in it."""

import os
import subprocess
from pathlib import Path

from squall.model.errors import ContainerStartError
from squall.model.resources import MIB
from squall.runtime import mounts, strays
from squall.runtime.files import find_program

#: ext4 without a journal, since nothing of it outlives the container, and with nothing kept back for root.
_FORMAT = ("-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", "-m", "0")
#: What ext4 takes of a small file system for itself; so much more is made, that the limit is what programs may write.
_OVERHEAD_SHARE, _OVERHEAD_MIB = 0.03, 2
_WORK_S_MAX = 60.0


def make(folder: Path, limit_mib: int) -> Path:
    """A directory below `folder` that holds `limit_mib` MiB; takes some 25 ms. It goes with `remove`.

    Raises:
        ContainerStartError: this machine can't: no mkfs.ext4, no loop devices.
        OSError: the disk is full.
    """
    image, at = folder / "disk.img", folder / "disk"
    with image.open("xb") as file:
        os.truncate(file.fileno(), int(limit_mib * (1 + _OVERHEAD_SHARE) + _OVERHEAD_MIB) * MIB)
    at.mkdir()
    _run("mkfs.ext4", *_FORMAT, str(image))
    _run("mount", "-t", "ext4", "-o", "loop,nodev,noatime", str(image), str(at))
    return at


def end_strays(folder: Path) -> None:
    """End what a killed agent left at work on the disk in `folder`, so that nothing is mounted after a look at what is."""
    image = folder / "disk.img"
    if image.exists():
        strays.end(os.fsencode(image) + b"\0")


def remove(folder: Path) -> None:
    """Take it away; the file goes with the directory that it is in. Idempotent."""
    while mounts.detach(folder / "disk"):
        pass


def _run(name: str, *arguments: str) -> None:
    program = find_program(name)
    if program is None:
        raise ContainerStartError(f"ephemeral_disk= needs the program {name}, which this machine does not have; install it with: apt install e2fsprogs mount")
    done = subprocess.run((program, *arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_WORK_S_MAX, check=False)
    if done.returncode:
        raise ContainerStartError(f"no disk of limited size for ephemeral_disk=: {name}: {done.stderr.strip()}")
