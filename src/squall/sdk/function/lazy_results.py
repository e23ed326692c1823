"""Results that run nothing before somebody asks for them, and say so when nobody did."""

import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Results:
    """What both kinds have in common: what they are of, and whether they were asked."""

    __slots__ = ("_asked", "_of")

    def __init__(self, of: str) -> None:
        self._of, self._asked = of, False

    def __del__(self) -> None:
        if not self._asked:
            warnings.warn(
                f"the results of {self._of}(...) were never consumed, so nothing was run: iterate over them, or use for_each", UserWarning, stacklevel=2
            )


class Results(_Results, Iterator[T], Generic[T]):
    """An iterator over `items`, which is started by the first step."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterator[T], of: str) -> None:
        super().__init__(of)
        self._items = items

    def __iter__(self) -> Iterator[T]:
        self._asked = True
        return self._items  # so that a loop takes no step more than over the items themselves

    def __next__(self) -> T:
        self._asked = True
        return next(self._items)

    def close(self) -> None:
        """Take no more, as of a generator."""
        self._asked = True
        if (close := getattr(self._items, "close", None)) is not None:
            close()


class AsyncResults(_Results, AsyncIterator[T], Generic[T]):
    """The same for event loops."""

    __slots__ = ("_items",)

    def __init__(self, items: AsyncIterator[T], of: str) -> None:
        super().__init__(of)
        self._items = items

    def __aiter__(self) -> AsyncIterator[T]:
        self._asked = True
        return self._items

    async def __anext__(self) -> T:
        self._asked = True
        return await anext(self._items)

    async def aclose(self) -> None:
        """Take no more, as of an async generator."""
        self._asked = True
        if (close := getattr(self._items, "aclose", None)) is not None:
            await close()
