"""A blocking method and its `.aio` twin as one attribute."""

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

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
