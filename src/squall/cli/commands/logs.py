"""What containers wrote, and which of it somebody wants to see."""

import re
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from squall.model.errors import InvalidError
from squall.model.options import MARK
from squall.wire.messages import Follow, LogChunk

FollowOn = Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")]
Since = Annotated[str, typer.Option("--since", metavar="TIME", help="Only from then on: an age (10m, 2h, 1d) or a date and time.")]
Until = Annotated[str, typer.Option("--until", metavar="TIME", help="Only before then.")]
Search = Annotated[str, typer.Option("--search", "--grep", metavar="TEXT", help="Only lines with this text.")]
Tail = Annotated[int | None, typer.Option("--tail", "-n", min=0, help="Only so many of the last lines.")]
Source = Annotated[str, typer.Option("--source", "-s", metavar="STREAM", help="Only stdout, or only stderr.")]
Timestamps = Annotated[bool, typer.Option("--timestamps", help="The time before each line.")]
ShowContainer = Annotated[bool, typer.Option("--show-container-id", help="The container before each line.")]
ShowCall = Annotated[bool, typer.Option("--show-function-call-id", help="The call before each line.")]

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which output: of a function, a container or a call (by the beginnings of their ids), of a stream, of a time, and lines that hold `text`.

    `tail`: only so many of the last lines. `variants`: also of what with_options made of the function. Times are Unix times.
    """

    function: str = ""
    container: str = ""
    call: str = ""
    stream: int | None = None
    since: float | None = None
    until: float | None = None
    text: str = ""
    tail: int | None = None
    timestamps: bool = False
    variants: bool = False
    show_container: bool = False
    show_call: bool = False

    def takes(self, chunk: LogChunk) -> bool:
        """Whether it is of what is wanted, but for its text."""
        return (
            self._of_function(chunk.function)
            and chunk.container.startswith(self.container)
            and (not self.call or chunk.input.startswith(f"in-{self.call.removeprefix('fc-')}"))  # in-<call>-<index>
            and self.stream in (None, chunk.stream)
            and (self.since is None or chunk.time >= self.since)
            and (self.until is None or chunk.time < self.until)
        )

    def _of_function(self, tag: str) -> bool:
        if not self.function or tag == self.function or tag.startswith(f"{self.function}."):
            return True
        return self.variants and tag.startswith(f"{self.function}{MARK}")

    @property
    def all(self) -> bool:
        """Whether it takes all output: its last lines are then those of the log."""
        return not (self.function or self.container or self.call or self.text or self.stream or self.since or self.until)

    @property
    def by_lines(self) -> bool:
        """Whether it takes whole lines to tell; else output passes as it comes."""
        return bool(self.text) or self.tail is not None or self.timestamps or self.show_container or self.show_call


def moment(text: str, now: float) -> float:
    """``10m`` or ``2h`` ago, or a date and time such as ``2026-01-31T12:00:00``.

    Raises:
        InvalidError: neither.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip()):
        if match[2] in _UNITS:
            return now - float(match[1]) * _UNITS[match[2]]
    else:
        try:
            return datetime.fromisoformat(text.strip()).timestamp()
        except ValueError:
            pass
    raise InvalidError(f"{text!r} is neither an age such as 10m, 2h or 1d nor a time such as 2026-01-31T12:00:00")


class Lines:
    """Output of many containers as lines, each at its end; those that are wanted go to `write` as container, stream and bytes."""

    def __init__(self, wanted: Wanted, write: Any) -> None:
        self._wanted, self._write = wanted, write
        #: Of each line that is begun: when, by which call, and what there is of it.
        self._open: dict[tuple[str, int], tuple[float, str, bytes]] = {}
        self._last: deque[tuple[str, int, bytes]] = deque(maxlen=wanted.tail)
        self._past = True

    def add(self, chunk: LogChunk) -> None:
        key = (chunk.container, chunk.stream)
        call = _call_of(chunk.input)
        began, by, before = self._open.pop(key, (chunk.time, call, b""))
        *lines, rest = (before + chunk.data).split(b"\n")
        for line in lines:
            self._line(key, began, by, line + b"\n")
            began, by = chunk.time, call
        if rest:
            self._open[key] = (began, by, rest)

    def _line(self, key: tuple[str, int], at: float, call: str, line: bytes) -> None:
        if self._wanted.text and self._wanted.text not in line.decode(errors="replace"):
            return
        for shown, name in ((self._wanted.show_call, call), (self._wanted.show_container, key[0])):
            if shown:
                line = f"{name or '-'} ".encode() + line
        if self._wanted.timestamps:
            line = f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S%z} ".encode() + line
        if self._wanted.tail is None or not self._past:
            self._write(*key, line)
        else:
            self._last.append((*key, line))

    def go_on(self) -> None:
        """What was there is through: the last lines of it are written, and from now on every line is."""
        for each in self._last:
            self._write(*each)
        self._last.clear()
        self._past = False

    def close(self) -> None:
        """Lines that have no end yet, and the last ones where only those are wanted."""
        for key, (at, call, rest) in self._open.items():
            self._line(key, at, call, rest + b"\n")
        self._open.clear()
        self.go_on()


def _call_of(item: str) -> str:
    """The call of an input, whose id is ``in-<call>-<index>``."""
    return f"fc-{item.split('-')[1]}" if item.count("-") >= 2 else ""


class _NobodyReads(Exception):
    """Stdout was closed by its reader. No OSError: that would mean the connection."""


def show(*, app: str = "", container: str = "", on: bool, wanted: Wanted, replay: bool = True) -> None:
    """Write logs, each to its own stream, until there are no more (or without end, with `on`); without `replay` those from now on.

    Raises:
        BrokenPipeError: nobody reads them any more.
    """
    from squall.cli.ui.existing_server import ask
    from squall.sdk.output.line_streams import LineStreams

    streams = LineStreams()
    lines = Lines(wanted, streams.write)

    def take(message: Any) -> None:
        if not isinstance(message, LogChunk):
            return
        if not message.container:
            lines.go_on()
        elif wanted.takes(message):
            if wanted.by_lines:
                lines.add(message)
            else:
                streams.write(message.container, message.stream, message.data)
        if streams.broken:
            raise _NobodyReads

    try:
        mark, tail = on and wanted.tail is not None, wanted.tail if wanted.all else None
        ask(Follow(app=app, container=container, follow=on, replay=replay, tail=tail, mark=mark), take)
        lines.close()
    except _NobodyReads:
        raise BrokenPipeError from None
    finally:
        streams.close()


def wanted(
    *,
    function: str,
    container: str,
    call: str,
    source: str,
    since: str,
    until: str,
    search: str,
    tail: int | None,
    timestamps: bool,
    now: float | None = None,
    variants: bool = False,
    show_container: bool = False,
    show_call: bool = False,
) -> Wanted:
    """From the flags of a command.

    Raises:
        InvalidError: naming the flag.
    """
    at = time.time() if now is None else now
    if source not in ("", "stdout", "stderr"):
        raise InvalidError(f"--source {source} is neither stdout nor stderr")
    return Wanted(
        function, container, call, {"": None, "stdout": 1, "stderr": 2}[source], moment(since, at) if since else None, moment(until, at) if until else None,
        search, tail, timestamps, variants, show_container, show_call,
    )  # fmt: skip
