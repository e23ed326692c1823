"""What is said about parameters that are misspelled, and what stands for names and parameters that are not built."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from squall.model.errors import InvalidError, UnsupportedError


def unknown_message(name: str, known: Iterable[str], what: str = "@app.function") -> str:
    """For a name that no parameter has."""
    close = difflib.get_close_matches(name, [word for word in known if not word.startswith("_")], n=1, cutoff=0.6)
    return f"{what} has no parameter {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def refuse_unknown(unknown: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    """
    Raises:
        InvalidError: there is a parameter that `what` does not have.
    """
    for name in unknown:
        raise InvalidError(unknown_message(name, known, what))


def refuse_given(what: str, **given: object) -> None:
    """
    Raises:
        UnsupportedError: one of these parameters asks for something.
    """
    for name, value in given.items():
        if value:
            raise UnsupportedError(f"{name}={value!r} of {what} is not supported yet; leave it out")


class Missing:
    """A name that is not there yet. Calling it, or its `.aio`, says so; so does taking it for a value: comparing it, asking whether it is true."""

    #: `docs/modal-parity.md` counts what has it among what is refused.
    squall_refuses = True

    def __init__(self, what: str) -> None:
        self.__what = what

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(f"{self.__what} is not supported yet")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __call__
    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __int__ = __float__ = __str__ = __call__
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> "Missing":
        if name.startswith("__"):
            raise AttributeError(name)
        return self if name == "aio" else Missing(f"{self.__what}.{name}")


class NotYet:
    """An attribute of a class that Modal has and Squall does not yet: `Missing`, under its own name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        return Missing(f"{owner.__name__}.{self._name}")
