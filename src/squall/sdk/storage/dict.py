"""Dict: entries that containers and programs share."""

import io
import pickle
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from squall.model.errors import RequestSizeError, SerializationError
from squall.sdk.client.client import Client
from squall.sdk.client.settings import environment_of
from squall.sdk.client.sync_async import Give, Stream, Talk, Twin, static
from squall.sdk.storage.named_objects import EphemeralMethod, Manager, StoredObject
from squall.sdk.types import DictInfo
from squall.wire.state import Count, DictDo, DictRead, DictScan, DictWrite, DropObject, Maybe, Pairs
from squall.wire.values import dumps, loads

#: The reference's limits; the server holds to them too.
VALUE_BYTES_MAX, ENTRIES_MAX = 100 << 20, 10_000


class Dict(StoredObject):
    """A dictionary of keys and values that can be pickled, with single operations that are atomic.

    Keys are the same when they pickle to the same bytes, so ``1``, ``1.0`` and ``True`` are three keys. A named dict is kept until it is deleted, its entries
    until seven days after their last use.
    """

    _kind: ClassVar[str] = "dict"
    _prefix: ClassVar[str] = "di"
    _info: ClassVar[Any] = DictInfo
    objects: ClassVar["Manager[Dict]"]
    ephemeral = EphemeralMethod()

    @classmethod
    def from_id(cls, dict_id: str, client: Client | None = None) -> Self:
        """The dict of an id. Raises InvalidError when it is none of a dict."""
        return cls._of_id(dict_id, client)

    @Twin
    def get(self, key: Any, default: Any = None) -> Talk[Any]:
        """The value of `key`, else `default`."""
        found: Maybe = yield DictRead((yield from self._find()), pack_key(key))
        return default if found.value is None else loads(found.value, "a value of the Dict")

    @Twin
    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> Talk[bool]:
        """Set `key`. With `skip_if_exists` only if it is not there. Whether it was set.

        Raises:
            SerializationError: key or value can't be pickled.
            RequestSizeError: the value is larger than 100 MiB.
        """
        items = ((pack_key(key), _pack_value(value)),)
        count: Count = yield DictWrite((yield from self._find()), items, skip_if_exists)
        return count.count == 1

    @Twin
    def pop(self, key: Any, default: Any = ...) -> Talk[Any]:
        """Remove `key` and return its value. Raises KeyError when it is not there and no default is given."""
        found: Maybe = yield DictRead((yield from self._find()), pack_key(key), True)
        if found.value is None:
            if default is ...:
                raise KeyError(key)
            return default
        return loads(found.value, "a value of the Dict")

    @Twin
    def update(self, other: Mapping[Any, Any] | Iterable[tuple[Any, Any]] | None = None, /, **kwargs: Any) -> Talk[None]:
        """Set many keys, all or none; at most 10,000. Raises RequestSizeError."""
        items = {**dict(other or {}), **kwargs}
        if len(items) > ENTRIES_MAX:
            raise RequestSizeError(f"{len(items)} entries in one update; at most {ENTRIES_MAX} are allowed")
        if items:
            yield DictWrite((yield from self._find()), tuple((pack_key(key), _pack_value(value)) for key, value in items.items()))

    @Twin
    def contains(self, key: Any) -> Talk[bool]:
        """Whether `key` is there."""
        count: Count = yield DictDo((yield from self._find()), "has", pack_key(key))
        return count.count == 1

    @Twin
    def len(self) -> Talk[int]:
        """How many entries there are."""
        count: Count = yield DictDo((yield from self._find()), "len")
        return count.count

    @Twin
    def clear(self) -> Talk[None]:
        """Remove everything."""
        yield DictDo((yield from self._find()), "clear")

    @Stream
    def keys(self) -> Talk[None]:
        """The keys, in no order that means anything. What is changed meanwhile may be in or not."""
        yield from self._scan(lambda key, value: unpack_key(key), values=False)

    @Stream
    def values(self) -> Talk[None]:
        """The values."""
        yield from self._scan(lambda key, value: loads(value, "a value of the Dict"), values=True)

    @Stream
    def items(self) -> Talk[None]:
        """Pairs of key and value."""
        yield from self._scan(lambda key, value: (unpack_key(key), loads(value, "a value of the Dict")), values=True)

    def _scan(self, made: Any, *, values: bool) -> Talk[None]:
        after: bytes | None = None
        while True:
            page: Pairs = yield DictScan((yield from self._find()), after, values)
            if not page.pairs:
                return
            yield Give(made(key, value) for key, value in page.pairs)
            after = page.pairs[-1][0]

    # By syntax, and for event loops ``await d.__getitem__.aio(key)``.

    @Twin
    def __getitem__(self, key: Any) -> Talk[Any]:
        found: Maybe = yield DictRead((yield from self._find()), pack_key(key))
        if found.value is None:
            raise KeyError(key)
        return loads(found.value, "a value of the Dict")

    @Twin
    def __setitem__(self, key: Any, value: Any) -> Talk[None]:
        yield DictWrite((yield from self._find()), ((pack_key(key), _pack_value(value)),))

    @Twin
    def __delitem__(self, key: Any) -> Talk[None]:
        found: Maybe = yield DictRead((yield from self._find()), pack_key(key), True)
        if found.value is None:
            raise KeyError(key)

    @Twin
    def __contains__(self, key: Any) -> Talk[bool]:
        count: Count = yield DictDo((yield from self._find()), "has", pack_key(key))
        return count.count == 1

    def __len__(self) -> int:
        return self.len()

    def __bool__(self) -> bool:
        return True  # a handle; asking the server for this would surprise

    @static
    def delete(name: str, *, client: Client | None = None, environment_name: str | None = None) -> Talk[None]:
        """Old spelling of `Dict.objects.delete`."""
        yield DropObject("dict", name, environment_of(environment_name))


Dict.objects = Manager(Dict)


def pack_key(key: Any) -> bytes:
    """A key as bytes: the same for equal keys. Pickle's usual form is not, since it refers back to objects that were seen before by their identity.

    Raises:
        SerializationError: it can't be pickled.
    """
    stream = io.BytesIO()
    try:
        pickler = pickle.Pickler(stream, 5)
        pickler.fast = True  # nothing refers back
        pickler.dump(key)
    except Exception as error:  # pickling runs user code, which may raise anything
        raise SerializationError(f"the key (a {type(key).__module__}.{type(key).__qualname__}) can't be pickled: {error}") from error
    return stream.getvalue()


def unpack_key(data: bytes) -> Any:
    """The key again. Raises DeserializationError."""
    return loads(data, "a key of the Dict")


def _pack_value(value: Any) -> bytes:
    data = dumps(value, "the value")
    if len(data) > VALUE_BYTES_MAX:
        raise RequestSizeError(f"a value of {len(data)} bytes; a Dict takes at most {VALUE_BYTES_MAX} (100 MiB); put large data into a Volume")
    return data
