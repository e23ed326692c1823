"""The command line's sink: colour and one moving line on a terminal, plain lines everywhere else."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from squall.model.errors import Error
from squall.sdk.output.line_streams import OwnStream
from squall.sdk.output.plain import PrintingSink, step_line
from squall.wire.messages import ContainerProgress, ImageProgress, LogChunk

if TYPE_CHECKING:
    from squall.cli.commands.logs import Lines

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_TICK_S = 0.1
_COLOURS = {"✓": "\x1b[32m✓\x1b[0m", "✗": "\x1b[31m✗\x1b[0m", "•": "\x1b[36m•\x1b[0m"}


def wants_colour(stream: TextIO) -> bool:
    """Only on a terminal, and not where the user says no (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


#: What a call waits for is asked anew this often.
_ASK_S = 1.0


class Display(PrintingSink):
    """Progress of one `squall run`. On a terminal the step being built is one line that moves and goes away; `close` ends it."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, timestamps: bool = False) -> None:
        super().__init__(quiet=quiet, verbose=verbose)
        self._dated: Lines | None = None
        if timestamps:
            from squall.cli.commands import logs

            self._dated = logs.Lines(logs.Wanted(timestamps=True), self._streams.write)
        if isinstance(self._err, OwnStream):
            self._err = self._err.replaced  # what is written here is no line of the program's
        self._colour = wants_colour(sys.stderr)
        self._moves = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not quiet
        #: (image, step) -> (title, when it began), of steps being built; several images are built at once.
        self._steps: dict[tuple[int, int], tuple[str, float]] = {}
        self._reason: Callable[[], str | None] | None = None
        self._drawn = False
        self._ticker: threading.Thread | None = None
        self._stop = threading.Event()
        #: Seconds of the slowest container start.
        self.start_s = 0.0

    def line(self, text: str) -> None:
        if self._quiet:
            return
        with self._lock:
            self._erase()
            if self._moves and self._streams.line_is_open:
                text = f"\n{text}"
                self._streams.line_was_ended()
            if self._colour:
                for sign, coloured in _COLOURS.items():
                    text = text.replace(sign, coloured, 1) if text.lstrip("\n").startswith(sign) else text
            super().line(text)

    def error(self, text: str) -> None:
        """An error's paragraph or traceback: shown even when quiet."""
        quiet, self._quiet = self._quiet, False
        try:
            self.line(text)
        finally:
            self._quiet = quiet

    def close(self) -> None:
        self._stop.set()
        with self._lock:
            self._steps.clear()
            self._erase()
            if self._dated is not None:
                self._dated.close()
        super().close()

    def summary(self, began: float, calls: int | None) -> None:
        """The last line: how long, how many, and where the time went."""
        facts = [] if calls is None else [_plural(calls, "call")]
        if self.containers:
            facts.append(_plural(len(self.containers), "container"))
        if self.image_s >= 0.05:
            facts.append(f"image {self.image_s:.1f} s")
        if self.start_s >= 0.005:
            facts.append(f"start {self.start_s:.2f} s")
        took = time.monotonic() - began
        self.line(f"✓ done in {took:.{1 if took >= 10 else 2}f} s" + (f"  {', '.join(facts)}" if facts else ""))

    @contextlib.contextmanager
    def waiting(self, reason: Callable[[], str | None]) -> Iterator[None]:
        """While a call waits, one line says for what, and goes away."""
        if not self._moves:
            yield
            return
        self._reason = reason
        self._start_ticker()
        try:
            yield
        finally:
            with self._lock:
                self._reason = None
                self._erase()

    def _log(self, message: LogChunk) -> None:
        self._erase()
        if self._dated is not None:
            self._dated.add(message)
        else:
            super()._log(message)

    def _image(self, message: ImageProgress) -> None:
        super()._image(message)
        if not self._moves or message.state in ("hit", "note"):
            return
        if message.state in ("start", "log"):
            self._steps.setdefault((message.image, message.step), (message.title, time.monotonic()))
            self._start_ticker()
        else:
            self._steps.pop((message.image, message.step), None)

    def _container(self, message: ContainerProgress) -> None:
        if message.state == "ready":
            self.start_s = max(self.start_s, message.seconds)
        super()._container(message)

    def _start_ticker(self) -> None:
        if self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, name="squall display", daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        count = 0
        waits: str | None = None
        asked = 0.0
        while not self._stop.wait(_TICK_S):
            reason = self._reason
            if reason is not None and not self._steps and time.monotonic() - asked > _ASK_S:
                asked = time.monotonic()
                with contextlib.suppress(Error):
                    waits = reason()
            with self._lock, contextlib.suppress(OSError, ValueError):
                if self._reason is None:
                    waits = None
                if (not self._steps and waits is None) or self._streams.line_is_open:
                    continue
                self._erase()
                width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
                text = self._step() or waits or ""
                self._err.write(f"{_FRAMES[count % len(_FRAMES)]} {text}"[: max(10, width - 1)])
                self._err.flush()
                self._drawn = True
                count += 1

    def _step(self) -> str:
        """The step that takes longest of those being built; empty without any."""
        if not self._steps:
            return ""
        title, began = next(iter(self._steps.values()))
        others = f"  (and {len(self._steps) - 1} more)" if len(self._steps) > 1 else ""
        return step_line(title, f"{time.monotonic() - began:.1f} s")[2:] + others

    def _erase(self) -> None:
        if self._drawn:
            with contextlib.suppress(OSError, ValueError):
                self._err.write("\r\x1b[K")
                self._err.flush()
            self._drawn = False


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
