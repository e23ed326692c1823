"""The containers' ids among those of this machine's users: are they anybody else's, and are they recorded, so that they will be nobody's.

Whoever has a range in /etc/subuid can make a user namespace with it (newuidmap(1)), and in that be the owner of files and processes of these ids.
"""

import contextlib
import errno
import grp
import logging
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from squall.runtime.files import write_atomically
from squall.runtime.ids import ALL, IdRange

log = logging.getLogger(__name__)

#: Whose the range is in these files. Nobody may have this as a login name: it would give that user the containers' ids.
NAME = "squall-containers"
_FILES = ("subuid", "subgid")


def conflicts(etc: Path = Path("/etc"), ids: IdRange = ALL) -> list[str]:
    """Who else may have ids of the range, each in a sentence with what to do. Also looks at the users and groups that are known here."""
    found = []
    for name in _FILES:
        for owner, first, count in _entries(etc / name):
            if owner != NAME and ids.overlaps(first, count):
                found.append(f"{etc / name} gives {first} to {first + count - 1} to {owner}; give it a range that ends below {ids.first}")
    settings = _settings(etc / "login.defs")
    for kind in ("UID", "GID"):
        first, last = settings.get(f"SUB_{kind}_MIN", 0), settings.get(f"SUB_{kind}_MAX", 0)
        if ids.overlaps(first, last - first + 1):
            found.append(f"SUB_{kind}_MAX={last} in {etc / 'login.defs'} lets useradd give ids of containers to users; set it below {ids.first}")
    found += [f"the user {user.pw_name} has the id {user.pw_uid}, which is one of containers'" for user in pwd.getpwall() if user.pw_uid in ids]
    found += [f"the group {group.gr_name} has the id {group.gr_gid}, which is one of containers'" for group in grp.getgrall() if group.gr_gid in ids]
    with contextlib.suppress(KeyError):
        pwd.getpwnam(NAME)
        found.append(f"there is a user {NAME}, whose name stands for the containers' ids in {etc / 'subuid'}; rename it")
    return found


def mapped(ids: IdRange = ALL) -> bool:
    """Whether this process's user namespace has all these ids: one of a container may have fewer."""
    maps = [[tuple(map(int, line.split())) for line in Path("/proc/self", name).read_text().splitlines()] for name in ("uid_map", "gid_map")]
    return all(any(first <= ids.first and ids.end <= first + count for first, _, count in each) for each in maps)


def recorded(etc: Path = Path("/etc"), ids: IdRange = ALL) -> bool:
    """Whether the files that are there have the entry. Without a file `useradd` gives nothing to anybody."""
    return all((NAME, ids.first, ids.count) in _entries(etc / name) for name in _FILES if (etc / name).exists())


def record(etc: Path = Path("/etc"), ids: IdRange = ALL) -> None:
    """Add the entry where it is missing, so that `useradd` and `usermod` give these ids to nobody. Where /etc can't be written the log says so."""
    if recorded(etc, ids):
        return
    try:
        for name in _FILES:
            if (etc / name).exists():
                with _locked(etc / name):
                    _add(etc / name, f"{NAME}:{ids.first}:{ids.count}")
    except OSError as error:
        log.warning("the containers' ids %d to %d could not be recorded in %s: %s", ids.first, ids.end - 1, etc / "subuid", error)


def _add(file: Path, entry: str) -> None:
    kept = [line for line in file.read_text().splitlines() if not line.startswith(f"{NAME}:")]
    status = file.stat()
    write_atomically(file, "\n".join([*kept, entry]) + "\n", status.st_mode & 0o777)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """As shadow's programs lock it (lib/commonio.c): a file with the holder's pid, linked to FILE.lock, which is void when that process is gone."""
    mine, lock = file.with_name(f"{file.name}.{os.getpid()}"), file.with_name(f"{file.name}.lock")
    mine.write_bytes(f"{os.getpid()}\0".encode())
    try:
        try:
            os.link(mine, lock)
        except FileExistsError:
            holder = lock.read_bytes().rstrip(b"\0\n")
            if holder.isdigit() and Path("/proc", holder.decode()).exists():
                raise OSError(errno.EBUSY, f"the process {holder.decode()} is changing {file}") from None
            lock.unlink()
            os.link(mine, lock)
        try:
            yield
        finally:
            lock.unlink()
    finally:
        mine.unlink()


def _entries(file: Path) -> list[tuple[str, int, int]]:
    """(whose, first, count); lines that are none are left out, as shadow does."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_text(errors="replace").splitlines():
            owner, *numbers = line.strip().split(":")
            if len(numbers) == 2 and all(number.isdigit() for number in numbers):
                found.append((owner, int(numbers[0]), int(numbers[1])))
    return found


def _settings(file: Path) -> dict[str, int]:
    """The numbers of login.defs."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_text(errors="replace").splitlines():
            name, *values = line.split()[:2] or [""]
            if values and values[0].isdigit():
                found[name] = int(values[0])
    return found
