"""Which Python an image has: found in its layers, without running anything."""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from squall.images.place import resolve

_VERSIONED = re.compile(r"python(3\.\d+)$")
#: Where programs are when an image's configuration does not say.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`path` as the image's PATH names it (a virtual environment's must not be followed further); `version` such as ``3.11``."""

    path: str
    version: str


def find(layers: Sequence[Path], path: str = DEFAULT_PATH) -> Interpreter | None:
    """The first python3, else python, on the PATH of an image; None if it has none. Blocks for some lookups."""
    for name in ("python3", "python"):
        for directory in path.split(":"):
            if directory.startswith("/") and (found := _interpreter(layers, f"{directory.rstrip('/')}/{name}")) is not None:
                return found
    return None


def lookup(layers: Sequence[Path], path: str) -> tuple[Path, os.stat_result, str] | None:
    """(the file in the topmost layer that has it, its status, its path in the image) with all links followed."""
    for _ in range(40):  # what path_resolution(7) allows
        path = resolve(path, layers)
        found = top(layers, path)
        if found is None:
            return None
        here, status = found
        if not stat.S_ISLNK(status.st_mode):
            return here, status, path
        link = os.readlink(here)
        path = os.path.normpath(link if link.startswith("/") else f"{os.path.dirname(path)}/{link}")
    return None


def top(layers: Sequence[Path], path: str) -> tuple[Path, os.stat_result] | None:
    """What the image has at `path`, whose directories are no links: the topmost layer's. None where it was deleted."""
    for layer in reversed(layers):
        here = layer / path.lstrip("/")
        try:
            status = here.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return None if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0 else (here, status)
    return None


def _interpreter(layers: Sequence[Path], path: str) -> Interpreter | None:
    found = lookup(layers, path)
    if found is None or not stat.S_ISREG(found[1].st_mode) or not found[1].st_mode & 0o111:
        return None
    if (match := _VERSIONED.search(found[2])) is not None:
        return Interpreter(path, match[1])
    # Not named after its version: a launcher, or a build of one's own. Its library is beside it.
    library = os.path.join(os.path.dirname(os.path.dirname(found[2])), "lib")
    versions = {
        name for layer in layers if (layer / library.lstrip("/")).is_dir() for name in os.listdir(layer / library.lstrip("/")) if _VERSIONED.fullmatch(name)
    }
    return Interpreter(path, versions.pop()[len("python") :]) if len(versions) == 1 else None
