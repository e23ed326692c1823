"""A blocking method and its `.aio` twin as one attribute."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")


class Dual(Generic[P, R, A]):
    """Call it to block; call its `aio` to get an awaitable (or an async iterator) of the same."""

    __slots__ = ("__wrapped__", "aio")

    def __init__(self, blocking: Callable[P, R], aio: Callable[P, A]) -> None:
        self.__wrapped__ = blocking
        self.aio = aio

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__wrapped__(*args, **kwargs)


def in_thread(blocking: Callable[P, R]) -> Dual[P, R, Coroutine[Any, Any, R]]:
    """A function of a class that asks the server and waits; its `.aio` runs it in a thread."""

    @functools.wraps(blocking)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        from squall.sdk.client.client import warn_if_in_loop

        warn_if_in_loop(blocking.__qualname__)
        return blocking(*args, **kwargs)

    async def aio(*args: P.args, **kwargs: P.kwargs) -> R:
        import asyncio

        return await asyncio.to_thread(blocking, *args, **kwargs)

    return Dual(called, aio)


def at_once(function: Callable[P, R]) -> Dual[P, R, Coroutine[Any, Any, R]]:
    """A function of a class that asks nobody, so that its `.aio` has nothing to wait for."""

    async def aio(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return Dual(function, aio)
