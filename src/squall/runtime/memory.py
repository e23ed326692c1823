"""How much memory containers may have together: the server has to survive whatever they do."""

import os
from collections.abc import Mapping
from pathlib import Path

from squall.model.errors import InvalidError
from squall.model.resources import MIB

#: Kept for the server and the machine: a sixteenth, within these bounds. A server with ten thousand calls under way takes about 200 MiB.
_KEPT_PART, _KEPT_MIB_MIN, _KEPT_MIB_MAX = 16, 256, 2_048
#: Where a limit of the server's own surroundings is seen, as that of a machine in a container.
_AROUND = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_mib() -> int:
    """What this machine has, or what the container in which the server runs may have of it."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _AROUND:
        if file.exists() and (text := file.read_text().strip()).isdigit():
            found.append(int(text))
    return min(found) // MIB


def for_containers_mib(environ: Mapping[str, str]) -> int:
    """What all containers together may have: SQUALL_CONTAINERS_MEMORY_MIB, else all but what the server needs.

    Raises:
        InvalidError: the variable is no positive number.
    """
    text = environ.get("SQUALL_CONTAINERS_MEMORY_MIB", "")
    if text and not (text.isdigit() and int(text) > 0):
        raise InvalidError(f"SQUALL_CONTAINERS_MEMORY_MIB={text!r} is not a number of MiB")
    machine = machine_mib()
    return int(text) if text else machine - min(machine // 2, max(_KEPT_MIB_MIN, min(_KEPT_MIB_MAX, machine // _KEPT_PART)))
