"""``.env`` files: ``KEY=value`` lines, comments, quotes, ``export``."""

import re
from pathlib import Path

from squall.model.errors import InvalidError

_SKIPPED = re.compile(r"\s*(?:#[^\n]*)?(?:\n|\Z)")
_START = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_PLAIN = re.compile(r"[^\n]*")
_REST = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def find(start: Path, filename: str) -> Path | None:
    """The file in the directory `start` (of a file: in the one that it is in) or the nearest directory above."""
    folder = start.absolute()
    for place in (folder, *folder.parents):
        if place.is_dir() and (place / filename).is_file():
            return place / filename
    return None


def parse(text: str, where: str) -> dict[str, str]:
    """Variables and values. Single quotes keep everything as it is; in double quotes ``\\n``, ``\\t``, ``\\"`` and so on are escapes; both may span lines.

    Raises:
        InvalidError: naming the line; never showing what is on it.
    """
    values: dict[str, str] = {}
    text = text.replace("\r\n", "\n")
    place = 0
    while place < len(text):
        if (blank := _SKIPPED.match(text, place)) is not None:
            place = max(blank.end(), place + 1)
            continue
        start = _START.match(text, place)
        value: str | None = None
        if start is not None:
            value, place_after = _value(text, start.end())
            rest = _REST.match(text, place_after)
            if value is not None and rest is not None:
                values[start[1]] = value
                place = max(rest.end(), place_after + 1)
                continue
        raise InvalidError(f"{where}: line {text.count(chr(10), 0, place) + 1} is not KEY=value")
    return values


def _value(text: str, place: int) -> tuple[str | None, int]:
    """What stands after the ``=``, and where it ends; None for a quote that is not closed."""
    if (found := _SINGLE.match(text, place)) is not None:
        return found[1], found.end()
    if (found := _DOUBLE.match(text, place)) is not None:
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), found[1], flags=re.DOTALL), found.end()
    if text[place : place + 1] in ("'", '"'):
        return None, place
    found = _PLAIN.match(text, place)
    assert found is not None
    return _COMMENT.sub("", found[0]).strip(), found.end()
