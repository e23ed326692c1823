"""The persistence contract of what goes with time. Control decides when; each method here does a bounded piece of the work in one transaction.

A piece takes at most `limit` rows, the oldest first, and says how many it took: fewer than `limit` means that nothing due is left. Commits are relaxed, as
those of dicts: what a loss of power undoes is due again.
"""

from typing import Protocol

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """How many rows of a kind there are, and when the oldest of them was made."""

    kind: str
    rows: int
    oldest_at: float | None


class Size(msgspec.Struct, frozen=True):
    """Bytes of the database. `free_bytes`: of these, space that deleted rows left, which the next rows use; None: the database does not say."""

    bytes: int
    free_bytes: int | None


class RetentionStore(Protocol):
    """Times are Unix seconds and come from the caller."""

    async def expire(self, now: float, limit: int) -> int:
        """Ended inputs with `expires_at` <= now become EXPIRED and lose data and output."""
        ...

    async def delete_inputs(self, before: float, limit: int) -> int:
        """Delete ended inputs with `expires_at` <= before, whether or not their outcome is still there. Live inputs stay."""
        ...

    async def delete_containers(self, before: float, limit: int) -> int:
        """Delete containers that stopped at or before."""
        ...

    async def delete_apps(self, runs_before: float, deployed_before: float, limit: int) -> int:
        """Delete apps that stopped at or before their time, with their functions, containers, versions and schedules. `runs_before`: of apps without a version.

        Containers are rows that count, and go in pieces of their own before their app does.
        """
        ...

    async def delete_deployments(self, before: float, newest: int, limit: int) -> int:
        """Delete versions made at or before, but not the `newest` of each app."""
        ...

    async def delete_events(self, before: float, limit: int) -> int:
        """Delete events of that time or earlier."""
        ...

    async def inputs_beyond(self, rows: int) -> float | None:
        """The `before` that leaves about so many EXPIRED inputs; None: there are no more."""
        ...

    async def containers_beyond(self, rows: int) -> float | None:
        """The `before` that leaves about so many stopped containers; None: there are no more."""
        ...

    async def events_beyond(self, rows: int) -> float | None:
        """The `before` that leaves about so many events; None: there are no more."""
        ...

    async def size(self) -> Size: ...

    async def kept(self) -> list[Kept]:
        """What there is. Counts, and so takes a second where there are millions of rows; other reads do not wait for it."""
        ...

    async def compact(self, limit_bytes: int) -> int:
        """Give at most so many free bytes of a SQLite file back to the file system; how many bytes are still free. 0 where the database sees to it itself."""
        ...
