"""A blocking method and its `.aio` twin as one attribute."""

import functools
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
S = TypeVar("S")


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


class ThreadTwin(Generic[S, P, R]):
    """A method that asks the server and waits; its `.aio` runs it in a thread. For what is not worth writing as a `sync_async.Talk`."""

    def __init__(self, method: Callable[Concatenate[S, P], R]) -> None:
        self._method = method
        self.__doc__, self.__name__ = method.__doc__, method.__name__

    @overload
    def __get__(self, instance: None, owner: type) -> Dual[Concatenate[S, P], R, Coroutine[Any, Any, R]]: ...
    @overload
    def __get__(self, instance: S, owner: type) -> Dual[P, R, Coroutine[Any, Any, R]]: ...
    def __get__(self, instance: S | None, owner: type) -> Any:
        return in_thread(self._method) if instance is None else in_thread(MethodType(self._method, instance))


def at_once(function: Callable[P, R]) -> Dual[P, R, Coroutine[Any, Any, R]]:
    """A function of a class that asks nobody, so that its `.aio` has nothing to wait for."""

    async def aio(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return Dual(function, aio)
