"""What a batched function gets and gives: from many callers' arguments to one call's, and from its list back to their values."""

import inspect
from collections.abc import Callable
from typing import Any

from squall.model.errors import InvalidError


def row(body: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """One caller's arguments by the names of the function's parameters.

    Raises:
        InvalidError: they do not fit the function.
    """
    try:
        return dict(inspect.signature(body).bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise InvalidError(f"{name} (a batched function) was called with arguments that do not fit: {error}") from error


def checked(made: Any, count: int, name: str) -> list[Any]:
    """What the function returned for `count` inputs.

    Raises:
        InvalidError: no list, or one of another length.
    """
    if not isinstance(made, list):
        raise InvalidError(f"the batched function {name} has to return a list with one value for each input; it returned a {type(made).__name__}")
    if len(made) != count:
        raise InvalidError(f"the batched function {name} got {count} inputs and returned {len(made)} values; it has to return one for each, in order")
    return made
