"""Calls by `.aio` that a program has not awaited: nothing was called, which would go unseen."""

import contextlib
import linecache
import re
import warnings
from collections.abc import Iterator
from typing import TextIO

_NEVER = re.compile(r"coroutine '\S*aio' was never awaited")


@contextlib.contextmanager
def noticed(told: list[str]) -> Iterator[None]:
    """While it lasts, adds a sentence to `told` for each call of Squall's that was not awaited, in the place of Python's warning."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None) -> None:
        if category is RuntimeWarning and _NEVER.search(str(message)):
            source = linecache.getline(filename, lineno).strip()
            told.append(f"{filename}:{lineno}: {source}\n  was not awaited, so it did nothing. Write  await  before, in an async function; or leave out .aio")
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
