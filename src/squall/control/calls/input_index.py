"""The inputs that are on their way, found by (call, index) or all of a call. A million of them must cost little and no look-up may walk over them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from squall.control.calls.input import RoutedInput

Key = tuple[str, int]


class LiveInputs:
    """A mapping from (call id, index). Most calls have one input, which then lies in the first table by itself: 200 bytes less than a table of its own."""

    def __init__(self) -> None:
        self._calls: dict[str, RoutedInput | dict[int, RoutedInput]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: Key) -> bool:
        return self.get(key) is not None

    def __getitem__(self, key: Key) -> "RoutedInput":
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def get(self, key: Key) -> "RoutedInput | None":
        """The input, or None."""
        found = self._calls.get(key[0])
        if found is None:
            return None
        if isinstance(found, dict):
            return found.get(key[1])
        return found if found.index == key[1] else None

    def __setitem__(self, key: Key, item: "RoutedInput") -> None:
        call, index = key
        found = self._calls.get(call)
        if found is None:
            self._calls[call] = item
            self._size += 1
        elif isinstance(found, dict):
            self._size += index not in found
            found[index] = item
        elif found.index == index:
            self._calls[call] = item
        else:
            self._calls[call] = {found.index: found, index: item}
            self._size += 1

    def pop(self, key: Key, default: None = None) -> "RoutedInput | None":
        """Take it out. None when it is not there."""
        call, index = key
        found = self._calls.get(call)
        if found is None:
            return default
        if not isinstance(found, dict):
            if found.index != index:
                return default
            del self._calls[call]
            self._size -= 1
            return found
        item = found.pop(index, None)
        if item is None:
            return default
        self._size -= 1
        if not found:
            del self._calls[call]
        return item

    def __delitem__(self, key: Key) -> None:
        if self.pop(key) is None:
            raise KeyError(key)

    def of_call(self, call: str) -> "list[RoutedInput]":
        """All inputs of a call that are on their way."""
        found = self._calls.get(call)
        if found is None:
            return []
        return list(found.values()) if isinstance(found, dict) else [found]

    def calls_with_prefix(self, prefix: str) -> list[str]:
        """Ids of calls that begin with it; walks over all of them."""
        return [call for call in self._calls if call.startswith(prefix)]

    def newest(self) -> "Iterator[RoutedInput]":
        """The latest call first. Nothing may be added or taken out meanwhile."""
        for found in reversed(self._calls.values()):
            if isinstance(found, dict):
                yield from reversed(found.values())
            else:
                yield found

    def values(self) -> "list[RoutedInput]":
        """All of them."""
        return list(self.newest())

    def items(self) -> "list[tuple[Key, RoutedInput]]":
        """All of them with their keys."""
        return [((item.call.call, item.index), item) for item in self.newest()]
