"""What ephemeral objects may take: so many volumes, and so many bytes in them and in memory, of the code of one app or of one client."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from squall.control.objects.memory_account import MemoryAccount
from squall.control.retention import GIB, positive
from squall.model.errors import ResourceExhaustedError
from squall.model.resources import MIB
from squall.wire.state import VOLUME

#: What a file or folder costs besides its bytes.
FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one owner: the number of volumes, the bytes of those of an app (quotas, and what was written where there is none), and of dicts and queues."""

    volumes: int = 64
    bytes: int = 4 * GIB
    memory: int = 256 * MIB


def from_environment(environ: Mapping[str, str]) -> Limits:
    """
    Raises:
        InvalidError: a variable is not a positive number.
    """
    usual = Limits()
    return Limits(
        volumes=max(1, int(positive(environ, "SQUALL_EPHEMERAL_VOLUMES", 1, usual.volumes))),
        bytes=int(positive(environ, "SQUALL_EPHEMERAL_VOLUMES_GIB", GIB, usual.bytes)),
        memory=int(positive(environ, "SQUALL_EPHEMERAL_MEMORY_MIB", MIB, usual.memory)),
    )


@dataclass(slots=True, eq=False)
class Ephemeral:
    """An ephemeral object. `owner`: the app whose code in a container made it, or the client outside that did."""

    kind: str
    environment: str
    created_at: float
    owner: object = None
    quota_bytes: int | None = None
    holders: set[object] = field(default_factory=set)
    #: Of a volume without a quota: at most what was written into it since it was measured, and what it had then.
    written: int = 0
    #: Of a dict or queue: what its owner has of the server's memory.
    account: MemoryAccount | None = None

    @property
    def of_container(self) -> bool:
        """Whether code in a container made it."""
        return isinstance(self.owner, str)

    @property
    def size(self) -> int:
        return self.written if self.quota_bytes is None else self.quota_bytes


def check(every: Iterable[Ephemeral], owner: object, limits: Limits, *, volumes: int = 0, more: int = 0) -> None:
    """That the owner may have so many more volumes, and so many more bytes in them.

    Raises:
        ResourceExhaustedError: it may not.
    """
    mine = [each for each in every if each.kind == VOLUME and each.owner == owner]
    if len(mine) + volumes > limits.volumes:
        raise ResourceExhaustedError(
            f"there are {len(mine)} ephemeral volumes of this {_who(owner)} already; end some, or start the server with a larger SQUALL_EPHEMERAL_VOLUMES"
        )
    if isinstance(owner, str) and (had := sum(each.size for each in mine)) + more > limits.bytes:
        raise ResourceExhaustedError(
            f"ephemeral volumes that this app's code made have {had >> 20} MiB of at most {limits.bytes >> 20}, and {more:,} bytes more are "
            "asked for; use a named volume, or start the server with a larger SQUALL_EPHEMERAL_VOLUMES_GIB"
        )


def _who(owner: object) -> str:
    return "app's code" if isinstance(owner, str) else "client"


def measured(*folders: Path) -> int:
    """Bytes of all that is in these folders."""
    total = 0
    for top in folders:
        for folder, _, files in os.walk(top):
            total += FILE_BYTES
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    total += FILE_BYTES + os.lstat(os.path.join(folder, name)).st_size
    return total
