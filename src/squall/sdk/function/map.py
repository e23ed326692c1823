"""A function run many times at once: over inputs whose values come back, and spawned."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from squall.sdk.client.client import new_call_id, warn_if_in_loop
from squall.sdk.function.call import FunctionCall
from squall.sdk.function.lazy_results import AsyncResults, Results
from squall.sdk.function.map_stream import blocking, map_blocking, zipped
from squall.wire.messages import DURABLE, Call
from squall.wire.parcels import pack_arguments
from squall.wire.values import dump_arguments

if TYPE_CHECKING:
    from squall.sdk.function.function import Function

R = TypeVar("R")


class Many(Generic[R]):
    """Of one function."""

    def __init__(self, function: "Function[..., R, Any]") -> None:
        self._function = function

    def map(
        self,
        *input_iterators: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Iterator[R]:
        """Run it once for each element of the iterables (zipped), many at a time, and yield the values.

        The iterables may be endless or asynchronous: at most 1,000 inputs are read ahead of what the caller has taken.

        Args:
            kwargs: keyword arguments for every call.
            order_outputs: yield in the order of the inputs; False: as they come.
            return_exceptions: yield an exception instead of raising it, and go on.
            wrap_returned_exceptions: accepted for programs of before; no effect.
        """
        return Results(self._starmap_over(zipped("map", input_iterators), kwargs, order_outputs, return_exceptions), f"{self._function.tag}.map")

    def starmap(
        self,
        input_iterator: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        *,
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Iterator[R]:
        """`map` over an iterable of argument tuples."""
        return Results(self._starmap_over(blocking(input_iterator), kwargs, order_outputs, return_exceptions), f"{self._function.tag}.starmap")

    def for_each(self, *input_iterators: Iterable[Any], kwargs: dict[str, Any] | None = None, ignore_exceptions: bool = False) -> None:
        """`map` whose values are dropped; with `ignore_exceptions`, failures are too."""
        for _ in self.map(*input_iterators, kwargs=kwargs, order_outputs=False, return_exceptions=ignore_exceptions):
            pass

    def _starmap_over(self, inputs: Iterator[Any], kwargs: dict[str, Any] | None, ordered: bool, return_exceptions: bool) -> Iterator[R]:
        self._function._one_result("map")
        warn_if_in_loop(f"{self._function.tag}.map")
        client, _ = self._function._bound()
        call_id = new_call_id()
        keywords = kwargs or {}

        def make_call(index: int, args: Any) -> Call:
            return self._function._call(1, call_id, index, pack_arguments(tuple(args), keywords, self._function.tag, client.parcels))

        return map_blocking(client, self._function.tag, call_id, inputs, make_call, ordered=ordered, return_exceptions=return_exceptions)

    def map_aio(
        self,
        *input_iterators: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncIterator[R]:
        from squall.sdk.function.async_calls import zipped

        return AsyncResults(
            self._starmap_over_aio(zipped("map.aio", input_iterators), kwargs, order_outputs, return_exceptions), f"{self._function.tag}.map.aio"
        )

    def starmap_aio(
        self,
        input_iterator: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        *,
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncIterator[R]:
        from squall.sdk.function.async_calls import iterate

        return AsyncResults(self._starmap_over_aio(iterate(input_iterator), kwargs, order_outputs, return_exceptions), f"{self._function.tag}.starmap.aio")

    async def for_each_aio(
        self, *input_iterators: Iterable[Any] | AsyncIterable[Any], kwargs: dict[str, Any] | None = None, ignore_exceptions: bool = False
    ) -> None:
        async for _ in self.map_aio(*input_iterators, kwargs=kwargs, order_outputs=False, return_exceptions=ignore_exceptions):
            pass

    def spawn_map(self, *input_iterators: Iterable[Any] | AsyncIterable[Any], kwargs: dict[str, Any] | None = None) -> None:
        """Start it once for each element of the iterables (zipped) and return when all inputs are in the server's store. Their values go nowhere."""
        self.spawn_call(*input_iterators, kwargs=kwargs)

    def spawn_call(self, *input_iterators: Iterable[Any] | AsyncIterable[Any], kwargs: dict[str, Any] | None = None) -> FunctionCall[R]:
        """`spawn_map` that returns the one call of all inputs: its `iter()` gives their values."""
        from squall.sdk.function.spawn_map import spawn_all

        self._function._one_result("spawn_map")
        warn_if_in_loop(f"{self._function.tag}.spawn_map")
        return self._spawned(zipped("spawn_map", input_iterators), kwargs or {}, spawn_all)

    async def spawn_map_aio(self, *input_iterators: Iterable[Any] | AsyncIterable[Any], kwargs: dict[str, Any] | None = None) -> None:
        await self.spawn_call_aio(*input_iterators, kwargs=kwargs)

    async def spawn_call_aio(self, *input_iterators: Iterable[Any] | AsyncIterable[Any], kwargs: dict[str, Any] | None = None) -> FunctionCall[R]:
        import asyncio

        from squall.sdk.function.async_calls import zipped
        from squall.sdk.function.spawn_map import spawn_all

        self._function._one_result("spawn_map.aio")
        inputs = [values async for values in zipped("spawn_map.aio", input_iterators)]
        return await asyncio.to_thread(self._spawned, iter(inputs), kwargs or {}, spawn_all)

    def _spawned(self, inputs: Iterator[Any], keywords: dict[str, Any], spawn_all: Callable[..., int]) -> FunctionCall[R]:
        client, _ = self._function._bound()
        call_id = new_call_id()

        def make_call(index: int, args: Any) -> Call:
            return self._function._call(1, call_id, index, dump_arguments(tuple(args), keywords, self._function.tag), hold=DURABLE)

        return FunctionCall(call_id, client, spawn_all(client, inputs, make_call))

    def _starmap_over_aio(self, inputs: AsyncIterator[Any], kwargs: dict[str, Any] | None, ordered: bool, return_exceptions: bool) -> AsyncIterator[R]:
        self._function._one_result("map.aio")
        client, _ = self._function._bound()
        call_id = new_call_id()
        keywords = kwargs or {}

        def make_call(request: int, index: int, args: Any) -> Call:
            return self._function._call(request, call_id, index, pack_arguments(tuple(args), keywords, self._function.tag, client.parcels))

        from squall.sdk.function.async_calls import map_aio

        return map_aio(client.loop_connection(), self._function.tag, inputs, make_call, call_id, ordered=ordered, return_exceptions=return_exceptions)
