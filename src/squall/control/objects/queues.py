"""Queues: partitions in memory, waiters served in the order in which they came, named queues kept in the store as well.

A named queue's items are in the store before `put` returns and before anybody can take them. Taking is told to the store and not waited for: if the server
dies in the millisecond between, such an item is handed out again after the restart. Nothing that was put is lost by that.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from squall.control.objects.memory_account import MemoryAccount, entry_bytes
from squall.model.errors import InvalidError, RequestSizeError, ResourceExhaustedError
from squall.store.contract import Store
from squall.store.objects import QueueRow

log = logging.getLogger(__name__)

#: The reference's limits.
ITEMS_MAX, ITEM_BYTES_MAX, PARTITIONS_MAX, PARTITION_BYTES_MAX = 5_000, 1 << 20, 100_000, 64
TTL_S_MAX = 30 * 86_400.0

Item = tuple[int, bytes]


class _Getter:
    """Somebody who waits for up to `n` items; resolved with them, or with none when the time is up."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.taken: asyncio.Future[list[Item]] = asyncio.get_running_loop().create_future()


class _Putter:
    """Somebody who waits for room for `n` items; resolved with True when it is theirs, with False when the time is up."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.admitted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class _Partition:
    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        #: Room that is taken by items on their way into the store.
        self.reserved = 0
        self.getters: deque[_Getter] = deque()
        self.putters: deque[_Putter] = deque()
        self.watchers: list[asyncio.Future[None]] = []
        self.expires_at = float("inf")

    @property
    def idle(self) -> bool:
        return not (self.items or self.reserved or self.getters or self.putters or self.watchers)

    def serve(self) -> None:
        """Hand items to those who wait, first come first served; then let in who waits for room."""
        while self.items and self.getters:
            getter = self.getters.popleft()
            if not getter.taken.done():
                getter.taken.set_result([self.items.popleft() for _ in range(min(getter.n, len(self.items)))])
        self.admit()

    def admit(self) -> None:
        while self.putters:
            putter = self.putters[0]
            if putter.admitted.done():
                self.putters.popleft()
            elif len(self.items) + self.reserved + putter.n <= ITEMS_MAX:
                self.putters.popleft()
                self.reserved += putter.n
                putter.admitted.set_result(True)
            else:
                return


class QueueBox:
    """One queue. `store` None: ephemeral, in memory alone, which is on its owner's `account`.

    All methods are called from one event loop; waiting ones may be cancelled without effect.
    """

    def __init__(self, queue_id: str, store: Store | None, account: MemoryAccount | None = None) -> None:
        self._id, self._store, self._account = queue_id, store, account
        self._partitions: dict[str, _Partition] = {}
        self._next = 1
        self._loaded = store is None
        self._loading = asyncio.Lock()
        self._writes: set[asyncio.Future[None]] = set()

    async def load(self) -> None:
        """Read a named queue's items, once."""
        if self._loaded:
            return
        async with self._loading:
            if self._loaded or self._store is None:
                return
            for row in await self._store.queue_load(self._id):
                partition = self._partitions.setdefault(row.partition, _Partition())
                partition.items.append((row.sequence, row.value))
                partition.expires_at = row.expires_at
                self._next = row.sequence + 1
            self._loaded = True

    async def put(self, name: str, values: Sequence[bytes], timeout_s: float | None, ttl_s: float) -> bool:
        """Append them, all or none. False: there was no room within the timeout (seconds; None waits without end).

        Raises:
            RequestSizeError, InvalidError, ResourceExhaustedError: too large, too many, a wrong partition.
        """
        _check(name, values, ttl_s)
        await self.load()
        partition = self._partition(name)
        if not values:
            return True
        if not partition.putters and len(partition.items) + partition.reserved + len(values) <= ITEMS_MAX:
            partition.reserved += len(values)
        elif timeout_s == 0 or not await self._wait_for_room(partition, len(values), timeout_s):
            self._tidy(name, partition)
            return False
        try:
            self._charge(values)
        except ResourceExhaustedError:
            partition.reserved -= len(values)
            partition.admit()
            self._tidy(name, partition)
            raise
        expires_at = time.time() + ttl_s
        items = [(self._next + offset, value) for offset, value in enumerate(values)]
        self._next += len(values)
        writing = asyncio.ensure_future(self._append(name, partition, items, expires_at))
        self._own(writing)
        await asyncio.shield(writing)
        return True

    async def _append(self, name: str, partition: _Partition, items: list[Item], expires_at: float) -> None:
        try:
            if self._store is not None:
                await self._store.queue_put([QueueRow(self._id, sequence, name, value, expires_at) for sequence, value in items])
        except BaseException:
            partition.reserved -= len(items)
            partition.admit()
            raise
        partition.reserved -= len(items)
        partition.items.extend(items)
        partition.expires_at = expires_at
        self._partitions[name] = partition
        for watcher in partition.watchers:
            if not watcher.done():
                watcher.set_result(None)
        partition.watchers.clear()
        partition.serve()

    async def _wait_for_room(self, partition: _Partition, n: int, timeout_s: float | None) -> bool:
        putter = _Putter(n)
        partition.putters.append(putter)
        timer = None if timeout_s is None else asyncio.get_running_loop().call_later(timeout_s, _resolve, putter.admitted, False)
        try:
            return await putter.admitted
        except asyncio.CancelledError:
            if putter.admitted.done() and not putter.admitted.cancelled() and putter.admitted.result():
                partition.reserved -= n
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if putter in partition.putters:
                partition.putters.remove(putter)
            partition.admit()

    async def get(self, name: str, n: int, timeout_s: float | None) -> list[Item]:
        """Take up to `n` from the front; waits for the first, not for all. Empty: nothing came within the timeout."""
        _check(name, (), 1.0)
        if n < 1:
            raise InvalidError(f"n_values={n!r} is not 1 or more")
        await self.load()
        partition = self._partition(name)
        if partition.items and not partition.getters:
            taken = [partition.items.popleft() for _ in range(min(n, len(partition.items)))]
        elif timeout_s == 0:
            taken = []
        else:
            taken = await self._wait_for_item(partition, n, timeout_s)
        if taken:
            self._tell_taken(taken)
            partition.admit()
        self._tidy(name, partition)
        return taken

    async def _wait_for_item(self, partition: _Partition, n: int, timeout_s: float | None) -> list[Item]:
        getter = _Getter(n)
        partition.getters.append(getter)
        timer = None if timeout_s is None else asyncio.get_running_loop().call_later(timeout_s, _resolve, getter.taken, [])
        try:
            return await getter.taken
        except asyncio.CancelledError:
            if getter.taken.done() and not getter.taken.cancelled():
                partition.items.extendleft(reversed(getter.taken.result()))
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if getter in partition.getters:
                partition.getters.remove(getter)
            partition.serve()

    async def give_back(self, name: str, items: list[Item]) -> None:
        """Whoever took them is gone: they are at the front again."""
        partition = self._partition(name)
        if self._account is not None:
            self._account.take_again(sum(entry_bytes(value) for _, value in items))
        partition.items.extendleft(reversed(items))
        if self._store is not None:
            await self._store.queue_put([QueueRow(self._id, sequence, name, value, partition.expires_at) for sequence, value in items])
        partition.serve()

    async def peek(self, name: str, after: int, limit: int, timeout_s: float) -> list[Item]:
        """Items behind the place `after`, without taking them; waits for one at most `timeout_s`."""
        _check(name, (), 1.0)
        await self.load()
        partition = self._partition(name)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            found = list(islice((item for item in partition.items if item[0] > after), max(1, limit)))
            left = deadline - asyncio.get_running_loop().time()
            if found or left <= 0:
                self._tidy(name, partition)
                return found
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            partition.watchers.append(watcher)
            timer = asyncio.get_running_loop().call_later(left, _resolve, watcher, None)
            try:
                await watcher
            finally:
                timer.cancel()
                if watcher in partition.watchers:
                    partition.watchers.remove(watcher)

    async def len(self, name: str | None) -> int:
        """Of a partition, or (None) of all."""
        await self.load()
        if name is not None:
            _check(name, (), 1.0)
            partition = self._partition(name)
            self._tidy(name, partition)
            return len(partition.items)
        return sum(len(self._partition(each).items) for each in list(self._partitions))

    async def clear(self, name: str | None) -> int:
        """Drop the items of a partition, or (None) of all."""
        await self.load()
        names = list(self._partitions) if name is None else [name]
        count = 0
        for each in names:
            partition = self._partition(each)
            count += len(partition.items)
            self._give_back(partition.items)
            partition.items.clear()
            if self._store is not None:
                await self._store.queue_clear(self._id, each)
            partition.admit()
            self._tidy(each, partition)
        return count

    def close(self) -> None:
        """It was deleted: who waits gets nothing."""
        for partition in self._partitions.values():
            self._give_back(partition.items)
            for getter in partition.getters:
                _resolve(getter.taken, [])
            for putter in partition.putters:
                _resolve(putter.admitted, False)
            for watcher in partition.watchers:
                _resolve(watcher, None)

    # parts

    def _partition(self, name: str) -> _Partition:
        partition = self._partitions.get(name)
        if partition is None:
            if len(self._partitions) >= PARTITIONS_MAX:
                raise ResourceExhaustedError(f"the queue has {PARTITIONS_MAX} partitions, which is the most")
            partition = self._partitions[name] = _Partition()
        elif partition.items and partition.expires_at <= time.time():
            self._tell_taken(list(partition.items))
            partition.items.clear()
            partition.admit()
        return partition

    def _tidy(self, name: str, partition: _Partition) -> None:
        if partition.idle:
            self._partitions.pop(name, None)

    def _charge(self, values: Sequence[bytes]) -> None:
        if self._account is not None:
            self._account.charge(sum(map(entry_bytes, values)))

    def _give_back(self, items: Iterable[Item]) -> None:
        if self._account is not None:
            self._account.give_back(sum(entry_bytes(value) for _, value in items))

    def _tell_taken(self, items: list[Item]) -> None:
        self._give_back(items)
        if self._store is not None:
            self._own(asyncio.ensure_future(self._store.queue_take(self._id, [sequence for sequence, _ in items])))

    def _own(self, write: "asyncio.Future[None]") -> None:
        self._writes.add(write)
        write.add_done_callback(self._written)

    def _written(self, write: "asyncio.Future[None]") -> None:
        self._writes.discard(write)
        if not write.cancelled() and (error := write.exception()) is not None:
            log.error("a write of queue %s failed: %s", self._id, error)


def _resolve(future: "asyncio.Future[Any]", value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _check(name: str, values: Sequence[bytes], ttl_s: float) -> None:
    if len(name.encode()) > PARTITION_BYTES_MAX:
        raise InvalidError(f"the partition {name[:80]!r} is longer than {PARTITION_BYTES_MAX} bytes")
    if not 0 < ttl_s <= TTL_S_MAX:
        raise InvalidError(f"partition_ttl={ttl_s!r} is not a number of seconds from 1 to {TTL_S_MAX:.0f}")
    if len(values) > ITEMS_MAX:
        raise InvalidError(f"{len(values)} values at a time; a partition holds at most {ITEMS_MAX}")
    for value in values:
        if len(value) > ITEM_BYTES_MAX:
            raise RequestSizeError(
                f"an item of {len(value)} bytes; a Queue takes at most {ITEM_BYTES_MAX} (1 MiB); put large data into a Volume and its path here"
            )
