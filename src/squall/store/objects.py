"""The persistence contract of what programs keep between calls: named objects, entries of dicts, items of queues.

The rules of `store.contract` hold, with one difference: writes to dicts and queues (`dict_…`, `queue_…`) survive the death of the server when they return, but
the last of them may be lost with the machine's power. They reach the disk with the next commit of any other kind, and at the latest after `RELAXED_S`.
Waiting for the disk each time would make a `put` three times as slow.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec


class ObjectRow(msgspec.Struct, frozen=True):
    """A secret, volume, dict, queue or environment. `name` None: anonymous. `data`: what a secret holds, encrypted. `used_at`: last use, where that is kept."""

    id: str
    kind: str
    environment: str
    name: str | None
    created_at: float
    data: bytes = b""
    used_at: float | None = None


class QueueRow(msgspec.Struct, frozen=True):
    """An item. `sequence` is its place among all items of its queue, given by the caller; lower is nearer to the front."""

    queue: str
    sequence: int
    partition: str
    value: bytes
    expires_at: float


class ObjectStore(Protocol):
    """Times are Unix seconds and come from the caller."""

    # --- named objects ---

    async def create_object(self, row: ObjectRow) -> ObjectRow:
        """Insert the row, unless its (kind, environment, name) or its id is taken. Returns the row that is there now: compare its id."""
        ...

    async def object(self, kind: str, environment: str, name: str) -> ObjectRow | None: ...

    async def object_by_id(self, object_id: str) -> ObjectRow | None: ...

    async def objects(self, kind: str, environment: str | None = None) -> list[ObjectRow]:
        """Of an environment (None: of all), newest first, anonymous ones included."""
        ...

    async def set_object(self, object_id: str, *, data: bytes | None = None, used_at: float | None = None) -> bool:
        """Set what is given. False: no such object."""
        ...

    async def set_objects(self, changes: Sequence[tuple[str, bytes, bytes]]) -> bool:
        """For each (id, old data, new data): set the data, all or none. False, no effect: one is not there with its old data."""
        ...

    async def rename_object(self, object_id: str, name: str) -> bool:
        """False, no effect: the name is taken, or there is no such object."""
        ...

    async def drop_object(self, object_id: str) -> bool:
        """Delete it with its entries and items. False: no such object."""
        ...

    # --- dicts ---

    async def dict_get(self, dict_id: str, key: bytes) -> tuple[bytes, float] | None:
        """Value, and when it was last touched."""
        ...

    async def dict_put(self, dict_id: str, items: Sequence[tuple[bytes, bytes]], now: float, *, absent: bool = False) -> int:
        """Set the keys, all or none; with `absent` only those that are not there. Returns how many were set."""
        ...

    async def dict_take(self, dict_id: str, key: bytes) -> bytes | None:
        """Remove a key and return its value."""
        ...

    async def dict_touch(self, dict_id: str, keys: Sequence[bytes], now: float) -> None: ...

    async def dict_len(self, dict_id: str) -> int: ...

    async def dict_page(self, dict_id: str, after: bytes | None, limit: int, budget: int, *, values: bool = True) -> list[tuple[bytes, bytes]]:
        """At most `limit` entries with keys above `after`, in the order of keys; beyond the first, at most `budget` bytes. Without `values` each is empty."""
        ...

    async def dict_clear(self, dict_id: str) -> int:
        """How many entries there were."""
        ...

    async def dict_expire(self, before: float, limit: int) -> int:
        """Delete at most `limit` entries that were last touched before, the oldest first. Returns how many."""
        ...

    # --- queues ---

    async def queue_load(self, queue_id: str) -> list[QueueRow]:
        """All items by sequence."""
        ...

    async def queue_put(self, rows: Sequence[QueueRow]) -> None:
        """Insert them: all or none."""
        ...

    async def queue_take(self, queue_id: str, sequences: Sequence[int]) -> None:
        """Delete these items."""
        ...

    async def queue_clear(self, queue_id: str, partition: str | None = None) -> int:
        """Delete all items of a partition, or of all of them. Returns how many."""
        ...

    async def queue_expire(self, now: float) -> int:
        """Delete the items of every partition whose last one has `expires_at` <= now. Returns how many."""
        ...
