"""Queue: first in, first out, shared by containers and programs."""

from collections.abc import Sequence
from queue import Empty, Full
from typing import Any, ClassVar, Self

from squall.model.errors import InvalidError, RequestSizeError
from squall.sdk.client.client import Client
from squall.sdk.client.settings import environment_of
from squall.sdk.client.sync_async import Give, Stream, Talk, Twin, static
from squall.sdk.storage.named_objects import EphemeralMethod, Manager, StoredObject
from squall.sdk.types import QueueInfo
from squall.wire.state import Count, DropObject, QueueDo, QueueGet, QueuePeek, QueuePut, Values
from squall.wire.values import dumps, loads

#: The reference's limits; the server holds to them too.
ITEMS_MAX, ITEM_BYTES_MAX, PARTITION_BYTES_MAX = 5_000, 1 << 20, 64
DAY_S = 86_400


class Queue(StoredObject):
    """A queue of values that can be pickled, divided into partitions that know nothing of each other.

    A partition holds at most 5,000 items of at most 1 MiB, and is dropped a day after its last `put` (`partition_ttl`). Who waits is served in order.
    """

    _kind: ClassVar[str] = "queue"
    _prefix: ClassVar[str] = "qu"
    _info: ClassVar[Any] = QueueInfo
    objects: ClassVar["Manager[Queue]"]
    ephemeral = EphemeralMethod()

    @classmethod
    def from_id(cls, queue_id: str, client: Client | None = None) -> Self:
        """The queue of an id. Raises InvalidError when it is none of a queue."""
        return cls._of_id(queue_id, client)

    @staticmethod
    def validate_partition_key(partition: str | None) -> bytes:
        """A partition's name as bytes; None is the default partition.

        Raises:
            InvalidError: not text of 1 to 64 bytes.
        """
        return _partition(partition).encode()

    @Twin
    def put(self, v: Any, block: bool = True, timeout: float | None = None, *, partition: str | None = None, partition_ttl: float = DAY_S) -> Talk[None]:
        """Append a value. With `block` it waits for room, at most `timeout` seconds.

        Raises:
            queue.Full: no room.
            SerializationError, RequestSizeError: it can't be pickled, or is larger than 1 MiB.
        """
        yield from self._put([v], block, timeout, partition, partition_ttl)

    @Twin
    def put_many(
        self, vs: Sequence[Any], block: bool = True, timeout: float | None = None, *, partition: str | None = None, partition_ttl: float = DAY_S
    ) -> Talk[None]:
        """Append values, all or none, one behind the other. Raises as `put`."""
        yield from self._put(list(vs), block, timeout, partition, partition_ttl)

    def _put(self, values: list[Any], block: bool, timeout: float | None, partition: str | None, ttl: float) -> Talk[None]:
        name, wait = _partition(partition), _wait(block, timeout)
        if not isinstance(ttl, int | float) or isinstance(ttl, bool) or ttl <= 0:
            raise InvalidError(f"partition_ttl={ttl!r} is not a number of seconds above 0")
        if len(values) > ITEMS_MAX:
            raise InvalidError(f"{len(values)} values at a time; a partition holds at most {ITEMS_MAX}")
        packed = tuple(_pack(value) for value in values)
        if packed:
            done: Count = yield QueuePut((yield from self._find()), name, packed, wait, float(ttl))
            if not done.count:
                raise Full

    @Twin
    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Talk[Any]:
        """Take the first value. With `block` it waits for one, at most `timeout` seconds; else None when there is none.

        Raises:
            queue.Empty: nothing came within `timeout`.
        """
        values = yield from self._get(1, block, timeout, partition)
        return values[0] if values else None

    @Twin
    def get_many(self, n_values: int, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Talk[list[Any]]:
        """Take up to `n_values`; waits for the first of them, not for all. Raises as `get`."""
        if not isinstance(n_values, int) or isinstance(n_values, bool) or n_values < 1:
            raise InvalidError(f"n_values={n_values!r} is not a whole number of 1 or more")
        return (yield from self._get(n_values, block, timeout, partition))

    def _get(self, n: int, block: bool, timeout: float | None, partition: str | None) -> Talk[list[Any]]:
        name, wait = _partition(partition), _wait(block, timeout)
        found: Values = yield QueueGet((yield from self._find()), name, n, wait)
        if not found.values and block:
            raise Empty
        return [loads(value, "an item of the Queue") for value in found.values]

    @Twin
    def len(self, *, partition: str | None = None, total: bool = False) -> Talk[int]:
        """How many items the partition has; with `total` all partitions together."""
        if total and partition is not None:
            raise InvalidError("give either partition= or total=True")
        count: Count = yield QueueDo((yield from self._find()), "total" if total else "len", _partition(partition))
        return count.count

    @Twin
    def clear(self, *, partition: str | None = None, all: bool = False) -> Talk[None]:
        """Drop the items of the partition; with `all` of every partition."""
        if all and partition is not None:
            raise InvalidError("give either partition= or all=True")
        yield QueueDo((yield from self._find()), "clear_all" if all else "clear", _partition(partition))

    @Stream
    def iterate(self, *, partition: str | None = None, item_poll_timeout: float = 0.0) -> Talk[None]:
        """Look at the items in order without taking them; ends when none came for `item_poll_timeout` seconds."""
        name, place = _partition(partition), 0
        while True:
            found: Values = yield QueuePeek((yield from self._find()), name, place, 100, float(item_poll_timeout))
            if not found.values:
                return
            place = found.last
            yield Give([loads(value, "an item of the Queue") for value in found.values])

    def __len__(self) -> int:
        return self.len()

    def __bool__(self) -> bool:
        return True  # a handle; asking the server for this would surprise

    @static
    def delete(name: str, *, client: Client | None = None, environment_name: str | None = None) -> Talk[None]:
        """Old spelling of `Queue.objects.delete`."""
        yield DropObject("queue", name, environment_of(environment_name))


Queue.objects = Manager(Queue)


def _partition(partition: str | None) -> str:
    if partition is None:
        return ""
    if not isinstance(partition, str) or not 1 <= len(partition.encode("utf-8", "surrogatepass")) <= PARTITION_BYTES_MAX:
        raise InvalidError(f"partition={partition!r} is not text of 1 to {PARTITION_BYTES_MAX} bytes")
    return partition


def _wait(block: bool, timeout: float | None) -> float | None:
    if not block:
        if timeout is not None:
            raise InvalidError("timeout= needs block=True")
        return 0.0
    if timeout is not None and (not isinstance(timeout, int | float) or isinstance(timeout, bool) or timeout < 0):
        raise InvalidError(f"timeout={timeout!r} is not a number of seconds")
    return timeout


def _pack(value: Any) -> bytes:
    data = dumps(value, "the value")
    if len(data) > ITEM_BYTES_MAX:
        raise RequestSizeError(f"an item of {len(data)} bytes; a Queue takes at most {ITEM_BYTES_MAX} (1 MiB); put large data into a Volume and its path here")
    return data
