"""Listings: aligned columns for people, JSON for programs."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, the row's keys that it may come from (the first that is there), and how it is written."""

    title: str
    keys: tuple[str, ...]
    text: Callable[[Any], str] = str


def show(rows: Sequence[Row], columns: Sequence[Column], *, as_json: bool, empty: str) -> None:
    """Write rows to stdout. Without any, `empty` goes to stderr: it says how to make the first one.

    JSON has every field that the server gave, under its own name and unrounded.
    """
    if as_json:
        sys.stdout.write(json.dumps([dict(row) for row in rows], indent=2, default=_plain) + "\n")
        return
    if not rows:
        sys.stderr.write(f"{empty}\n")
        return
    present = [column for column in columns if any(key in row for row in rows for key in column.keys)]
    table({column.title: [_cell(row, column) for row in rows] for column in present})


def table(columns: dict[str, list[str]]) -> None:
    """Write a table, by columns: of a long one there is one list for each column, and nothing for each row."""
    widths = [max(len(title), max(map(len, cells))) for title, cells in columns.items()]
    form = "  ".join(f"{{:{width}}}" for width in widths).format
    head, *lines = map(str.rstrip, map(form, *([title, *cells] for title, cells in columns.items())))
    sys.stdout.write("\n".join([f"\x1b[1m{head}\x1b[0m" if _colour() else head, *lines, ""]))


def show_one(row: Row, *, as_json: bool) -> None:
    """Write one thing's facts, a line each."""
    if as_json:
        sys.stdout.write(json.dumps(dict(row), indent=2, default=_plain) + "\n")
        return
    facts = [_fact(name, value) for name, value in row.items()]
    width = max((len(name) for name, _ in facts), default=0)
    for name, text in facts:
        sys.stdout.write(f"{name.ljust(width)}  " + "\n".join(map(printable, text.split("\n"))) + "\n")


def printable(text: Any) -> str:
    """On one line: line feeds and other control characters, which a terminal would obey, are shown as escapes."""
    if (plain := str(text)).isprintable():
        return plain
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in plain)


def clock(value: Any) -> str:
    """A time of the future, in this machine's zone."""
    return f"{datetime.fromtimestamp(value).astimezone():%a %d %b %H:%M:%S %Z}" if isinstance(value, int | float) else "-"


def age(since: Any) -> str:
    """How long ago a Unix time was, in the largest unit that says enough."""
    if not isinstance(since, int | float) or since <= 0:
        return "-"
    passed = max(0.0, time.time() - since)
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed >= 2 * seconds:
            return f"{passed / seconds:.0f} {unit}"
    return f"{passed:.0f} s"


def short_id(value: Any) -> str:
    """The time part of an id and 20 bits of its entropy. Any unique prefix is taken where an id is asked for."""
    return str(value)[:21]


def mebibytes(value: Any) -> str:
    return f"{value / (1 << 20):.0f} MiB" if isinstance(value, int | float) else "-"


def _fact(name: str, value: Any) -> tuple[str, str]:
    """A name and its value for people: the unit moves from the name's end to the value."""
    words = name.split("_")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if words[-1] == "at":
            return " ".join(words[:-1]), datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        if words[-1] == "s" and len(words) > 1:
            return " ".join(words[:-1]), f"{value:.0f} s"
        if words[-1] == "bytes" and len(words) > 1:
            return " ".join(words[:-1]), mebibytes(value)
    if isinstance(value, dict):
        return " ".join(words), ", ".join(f"{key.replace('_', ' ')} {number:.9g}" for key, number in value.items()) or "-"
    if isinstance(value, list | tuple):
        return " ".join(words), ", ".join(map(str, value)) or "-"
    return " ".join(words), "-" if value is None else str(value)


def _cell(row: Row, column: Column) -> str:
    for key in column.keys:
        value = row.get(key)
        if value is not None and value != "":
            return printable(column.text(value))
    return "-"


def _colour() -> bool:
    from squall.cli.ui.display import wants_colour

    return wants_colour(sys.stdout)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
