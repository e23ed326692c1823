"""What can stand below the decorators of an app, and what an app can be called."""

import inspect
import re
from typing import Any

from squall.model.errors import InvalidError
from squall.sdk.app.decorators import LIFECYCLE, Mark, Partial
from squall.sdk.app.entrypoint import LocalEntrypoint
from squall.sdk.context import is_local
from squall.sdk.function.cls import Cls
from squall.sdk.function.function import Function
from squall.sdk.source.sources import module_name

_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
_APP_ID = re.compile(r"ap-[0-9a-f]{32}")


class DecoratedClass(InvalidError, TypeError):
    """A class stands where a function has to. A TypeError too, as it is in Modal."""


def home(raw: Any, serialized: bool, decorator: str) -> tuple[str, bool]:
    """The name of the module by which a container can import a function or class, and whether it has to be sent by value instead.

    Raises:
        InvalidError: it is not at the top of its module and `serialized` was not asked for.
    """
    module = module_name(raw.__module__)
    serialized = serialized or module is None
    if not serialized and raw.__qualname__ != raw.__name__:
        raise InvalidError(_not_global(raw, decorator))
    return module or str(raw.__module__), serialized


def is_app_id(name: object) -> bool:
    """Whether it has the form ``ap-…`` of an id."""
    return isinstance(name, str) and _APP_ID.fullmatch(name) is not None


def check_name(parameter: str, name: object) -> None:
    """
    Raises:
        InvalidError: `name` can't be an app's.
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or is_app_id(name):
        raise InvalidError(
            f"Invalid App name: {parameter}={name!r} is not a name: letters, digits, '-', '.', '_', fewer than 64 characters, not of the form of an id"
        )


def check_function(raw: object, partial: Partial | None) -> None:
    """
    Raises:
        InvalidError: `raw` can't be an `@app.function`.
    """
    if isinstance(raw, Function):
        raise InvalidError(f"{raw!r} is decorated twice with @app.function")
    if isinstance(raw, LocalEntrypoint):
        raise InvalidError(f"{raw.name!r} is a local entrypoint: it runs here and can't be an @app.function too")
    if isinstance(raw, type | Cls):
        raise DecoratedClass(f"@app.function cannot be used on a class, and {raw.__name__!r} is one: that is @app.cls")
    if isinstance(raw, staticmethod | classmethod):
        raise InvalidError("@app.function is for global functions, not for methods of a class")
    if not inspect.isfunction(raw):
        raise InvalidError(f"@app.function is for functions, not for {raw!r}; wrap it into a def")
    if partial is not None and partial.marks & (LIFECYCLE | Mark.METHOD):
        raise InvalidError(f"{raw.__qualname__!r} has {' '.join(partial.spelled.values())}, which is for methods of a class with @app.cls")


def check_entrypoint(raw: object) -> None:
    """
    Raises:
        InvalidError: `raw` can't be a local entrypoint.
    """
    if not inspect.isfunction(raw):
        raise InvalidError(f"@app.local_entrypoint is for plain functions, not for {raw!r}")


def _not_global(raw: Any, decorator: str) -> str:
    where = raw.__qualname__.rpartition(".")[0]
    if where.endswith("<locals>"):
        return (
            f"{raw.__qualname__!r} is defined inside another function, so a container can't import it: move it to the top of its module, "
            f"or give serialized=True (a decorator below {decorator} needs functools.wraps)"
        )
    if isinstance(raw, type):
        return f"{raw.__qualname__!r} is defined inside another class: move it to the top of its module"
    return f"{raw.__qualname__!r} is a method: @app.function is for global functions, and @app.cls for classes"


def interactive(raw: Any) -> bool:
    """In a notebook a cell is run again and again: declaring twice is no mistake there."""
    return module_name(raw.__module__) is None and is_local()
