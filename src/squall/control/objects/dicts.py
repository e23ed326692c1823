"""Dicts: named ones in the store, with what was used last in memory; ephemeral ones in memory alone."""

import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from squall.control.objects.memory_account import MemoryAccount, entry_bytes
from squall.model.errors import RequestSizeError
from squall.store.contract import Store

#: The reference's limits.
VALUE_BYTES_MAX, ENTRIES_MAX = 100 << 20, 10_000
EXPIRY_S = 7 * 86_400.0

PAGE_ENTRIES, PAGE_BYTES = 1_000, 4 << 20

#: Values in memory for all named dicts together, and the largest of them.
CACHE_BYTES, CACHED_MAX = 64 << 20, 1 << 20
#: Reading keeps an entry alive; it is noted this coarsely.
TOUCH_S = 86_400.0


class Box(Protocol):
    """One dict. Keys and values are bytes."""

    async def get(self, key: bytes) -> bytes | None: ...

    async def take(self, key: bytes) -> bytes | None: ...

    async def put(self, items: Sequence[tuple[bytes, bytes]], *, absent: bool) -> int: ...

    async def page(self, after: bytes | None, *, values: bool) -> list[tuple[bytes, bytes]]: ...

    async def len(self) -> int: ...

    async def clear(self) -> int: ...


def check_items(items: Sequence[tuple[bytes, bytes]]) -> None:
    """
    Raises:
        RequestSizeError: a value is too large, or there are too many.
    """
    if len(items) > ENTRIES_MAX:
        raise RequestSizeError(f"{len(items)} entries in one update; at most {ENTRIES_MAX} are allowed")
    for _, value in items:
        if len(value) > VALUE_BYTES_MAX:
            raise RequestSizeError(f"a value of {len(value)} bytes; a Dict takes at most {VALUE_BYTES_MAX} (100 MiB); put large data into a Volume")


class MemoryDict:
    """An ephemeral dict, whose memory is on its owner's account."""

    def __init__(self, account: MemoryAccount) -> None:
        self._account = account
        self._items: dict[bytes, bytes] = {}
        self._sorted: list[bytes] | None = None

    async def get(self, key: bytes) -> bytes | None:
        return self._items.get(key)

    async def take(self, key: bytes) -> bytes | None:
        self._sorted = None
        value = self._items.pop(key, None)
        if value is not None:
            self._account.give_back(entry_bytes(key, value))
        return value

    async def put(self, items: Sequence[tuple[bytes, bytes]], *, absent: bool) -> int:
        new = {key: value for key, value in items if not (absent and key in self._items)}
        replaced = ((key, self._items[key]) for key in new if key in self._items)
        self._account.charge(sum(entry_bytes(*each) for each in new.items()) - sum(entry_bytes(*each) for each in replaced))
        self._items.update(new)
        self._sorted = None
        return len(new)

    async def page(self, after: bytes | None, *, values: bool) -> list[tuple[bytes, bytes]]:
        if self._sorted is None:
            self._sorted = sorted(self._items)
        start = 0 if after is None else bisect_right(self._sorted, after)
        found: list[tuple[bytes, bytes]] = []
        size = 0
        for key in self._sorted[start : start + PAGE_ENTRIES]:
            value = self._items[key] if values else b""
            found.append((key, value))
            size += len(key) + len(value)
            if size >= PAGE_BYTES:
                break
        return found

    async def len(self) -> int:
        return len(self._items)

    async def clear(self) -> int:
        return self.close()

    def close(self) -> int:
        """Drop all entries; how many there were."""
        count = len(self._items)
        self._account.give_back(sum(entry_bytes(*each) for each in self._items.items()))
        self._items.clear()
        self._sorted = None
        return count


class Cache:
    """Values of named dicts that were used last, with when they were last touched. Only the store's content, never what is not written yet."""

    def __init__(self) -> None:
        self._items: OrderedDict[tuple[str, bytes], tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    def get(self, place: tuple[str, bytes]) -> tuple[bytes, float] | None:
        found = self._items.get(place)
        if found is not None:
            self._items.move_to_end(place)
        return found

    def set(self, place: tuple[str, bytes], value: bytes, touched_at: float) -> None:
        self.drop(place)
        if len(value) <= CACHED_MAX:
            self._items[place] = (value, touched_at)
            self._bytes += len(value) + len(place[1])
            while self._bytes > CACHE_BYTES:
                self.drop(next(iter(self._items)))

    def drop(self, place: tuple[str, bytes]) -> None:
        found = self._items.pop(place, None)
        if found is not None:
            self._bytes -= len(found[0]) + len(place[1])

    def drop_dict(self, dict_id: str) -> None:
        for place in [place for place in self._items if place[0] == dict_id]:
            self.drop(place)


class StoredDict:
    """A named dict. A write is in the store when it returns, and every read from then on sees it."""

    def __init__(self, dict_id: str, store: Store, cache: Cache) -> None:
        self._id, self._store, self._cache = dict_id, store, cache
        #: Rises with every write: what was read from the store across one is not remembered.
        self._version = 0

    async def get(self, key: bytes) -> bytes | None:
        place = (self._id, key)
        found = self._cache.get(place)
        if found is None:
            version = self._version
            found = await self._store.dict_get(self._id, key)
            if found is None:
                return None
            if version == self._version:
                self._cache.set(place, *found)
        value, touched_at = found
        now = time.time()
        if now - touched_at > TOUCH_S:
            await self._store.dict_touch(self._id, [key], now)
            if self._cache.get(place) == found:
                self._cache.set(place, value, now)
        return value

    async def take(self, key: bytes) -> bytes | None:
        self._changing([key])
        try:
            return await self._store.dict_take(self._id, key)
        finally:
            self._changing([key])

    async def put(self, items: Sequence[tuple[bytes, bytes]], *, absent: bool) -> int:
        keys = [key for key, _ in items]
        self._changing(keys)
        now = time.time()
        try:
            count = await self._store.dict_put(self._id, items, now, absent=absent)
        finally:
            self._changing(keys)
        if not absent and len(items) == 1:
            self._cache.set((self._id, keys[0]), items[0][1], now)
        return count

    def _changing(self, keys: Sequence[bytes]) -> None:
        """Before a write and after it: whoever reads in between asks the store, and remembers nothing."""
        self._version += 1
        for key in keys:
            self._cache.drop((self._id, key))

    async def page(self, after: bytes | None, *, values: bool) -> list[tuple[bytes, bytes]]:
        return await self._store.dict_page(self._id, after, PAGE_ENTRIES, PAGE_BYTES, values=values)

    async def len(self) -> int:
        return await self._store.dict_len(self._id)

    async def clear(self) -> int:
        self._version += 1
        self._cache.drop_dict(self._id)
        try:
            return await self._store.dict_clear(self._id)
        finally:
            self._version += 1
            self._cache.drop_dict(self._id)
