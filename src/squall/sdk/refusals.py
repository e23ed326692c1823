"""What is said about parameters that are misspelled, or that ask for what is not built."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

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
