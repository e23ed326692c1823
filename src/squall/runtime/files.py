"""Small helpers for files: locks, writes that are right after a crash, removal of whole trees, programs wherever they are installed."""

import asyncio
import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

_LOCK_TRIES, _LOCK_PAUSE_S = 50, 0.02  # a second; such a child needs a few milliseconds


def write_atomically(file: Path, text: str, mode: int = 0o644) -> None:
    """The file has the old content or the new one, whenever the process is killed. Not synced: it need not outlive the machine."""
    fresh = file.with_name(f".{file.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as stream:
        stream.write(text)
    os.replace(fresh, file)


async def lock_file(file: Path) -> int | None:
    """An exclusive lock, held by the returned descriptor; None when another process holds it.

    Waits for it a little: children of a killed process have its descriptors until they execute their programs.
    """
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(_LOCK_PAUSE_S)
            else:
                return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def find_program(name: str) -> str | None:
    """Its path; also where administrators' programs are, which the search path of a plain user or of `su` leaves out."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin")))


def remove_tree(folder: Path) -> None:
    """Remove a directory with all that is in it, or nothing if it is not there. Must hold no mount."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def child_names(folder: Path) -> set[str]:
    """Names in a directory; none if it is not there."""
    try:
        return {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    except FileNotFoundError:
        return set()
