"""Output of many containers on one pair of streams: byte for byte, as it comes, and never two of them in one line."""

import contextlib
import io
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, TextIO

#: A container that prints without line ends may make others wait for so many bytes, not more.
_HELD_BYTES_MAX = 1 << 20


class LineStreams:
    """Writes chunks of containers to stdout (1) and stderr (2).

    A container that has begun a line owns the stream until it ends the line, ends itself or is released; what others write meanwhile is held. So the
    bytes of each container arrive unchanged, and a lone container's output, progress bars too, shows at once. Where both streams are one terminal they
    have one owner.
    The program's own streams may know whether they have begun a line (`OwnStream`); then containers wait for its end as well.
    Safe to call from several threads. A closed pipe at the other end (``| head``) is remembered and the rest is dropped.
    """

    def __init__(self, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self._texts = {1: stdout if stdout is not None else sys.stdout, 2: stderr if stderr is not None else sys.stderr}
        shared = all(_is_terminal(text) for text in self._texts.values())
        self._lanes = {1: _Lane(), 2: _Lane()}
        if shared:
            self._lanes[2] = self._lanes[1]
        self._lock = threading.RLock()
        #: The reader of stdout went away.
        self.broken = False
        for stream, text in self._texts.items():
            if isinstance(text, OwnStream):
                self._lanes[stream].own.append(text)
                text.line_ended = self._own_line_ended

    def write(self, source: str, stream: int, data: bytes) -> None:
        """Write `data` of the container `source`, or hold it while another's line is open."""
        with self._lock:
            lane = self._lanes[stream]
            if lane.owner in (None, source) and not lane.program_is_in_a_line:
                self._put(lane, source, stream, data)
                if lane.owner is None:
                    self._drain(lane)
            else:
                lane.held.append((source, stream, data))
                lane.held_bytes += len(data)
                if lane.held_bytes > _HELD_BYTES_MAX:
                    self._release(lane)

    def release(self, source: str) -> None:
        """`source` has ended: its open line is not waited for."""
        with self._lock:
            for lane in self._lanes.values():
                if lane.owner == source:
                    self._release(lane)

    def close(self) -> None:
        """Write what is held."""
        with self._lock:
            for stream, lane in self._lanes.items():
                lane.own.clear()
                while lane.held:
                    self._release(lane)
                text = self._texts[stream]
                if isinstance(text, OwnStream):
                    text.line_ended = None

    @property
    def line_is_open(self) -> bool:
        """Whether the last thing that was written is a line without its end, of a container that runs or ran."""
        return any(lane.open or lane.program_is_in_a_line for lane in self._lanes.values())

    def line_was_ended(self) -> None:
        """Somebody else wrote the end of the line."""
        for lane in self._lanes.values():
            lane.open = False

    def _own_line_ended(self) -> None:
        """The program has ended its line: what waited for that is written."""
        if any(lane.held for lane in self._lanes.values()):
            with self._lock:
                for lane in self._lanes.values():
                    if lane.held and not lane.program_is_in_a_line:
                        self._drain(lane)

    def _release(self, lane: "_Lane") -> None:
        lane.owner = None
        if not lane.program_is_in_a_line or lane.held_bytes > _HELD_BYTES_MAX:
            self._drain(lane)

    def _drain(self, lane: "_Lane") -> None:
        # In order of arrival, skipping whoever has to wait for the line that one of them opened meanwhile.
        waiting, lane.held, lane.held_bytes = lane.held, [], 0
        for index, (source, stream, data) in enumerate(waiting):
            if lane.owner not in (None, source):
                lane.held.append((source, stream, data))
                lane.held_bytes += len(data)
                continue
            self._put(lane, source, stream, data)
            if lane.owner is None and lane.held:
                lane.held += waiting[index + 1 :]
                self._drain(lane)
                return

    def _put(self, lane: "_Lane", source: str, stream: int, data: bytes) -> None:
        if not data:
            return
        lane.open = not data.endswith(b"\n")
        lane.owner = source if lane.open else None
        if self.broken and stream == 1:
            return
        text = self._texts[stream]
        try:
            text.flush()  # what the user's own program printed before comes before
            raw: BinaryIO | None = getattr(text, "buffer", None)
            if raw is None:  # a notebook, or a test's capture
                text.write(data.decode("utf-8", "replace"))
            else:
                raw.write(data)
            text.flush()
        except BrokenPipeError:
            self.broken = self.broken or stream == 1


class OwnStream(io.TextIOWrapper):
    """The program's own stdout or stderr, over the same file as the stream it replaces, which knows whether a line is begun and not ended.

    A line that the program draws over (with a carriage return: progress bars) holds nobody up.
    """

    def __init__(self, text: TextIO) -> None:
        assert isinstance(text, io.TextIOWrapper)
        super().__init__(text.buffer, encoding=text.encoding, errors=text.errors, line_buffering=text.line_buffering, write_through=text.write_through)
        #: What it stands for; it would close the file when nobody has it any more.
        self.replaced = text
        self.in_a_line = False
        #: Told after each line's end.
        self.line_ended: Callable[[], None] | None = None

    def write(self, text: str, /) -> int:
        line = text.rpartition("\n")[2] if isinstance(text, str) else ""
        begins = bool(line) and "\r" not in line
        if begins:
            self.in_a_line = True  # before the writing, so that nobody who looks in between gets into the line
        written = super().write(text)
        if text and not begins:
            self.in_a_line = False
            if self.line_ended is not None:
                self.line_ended()
        return written


def own_streams() -> None:
    """Make this process's stdout and stderr know about their lines, where they are ordinary files."""
    for name in ("stdout", "stderr"):
        text = getattr(sys, name)
        if isinstance(text, io.TextIOWrapper) and not isinstance(text, OwnStream):
            setattr(sys, name, OwnStream(text))


class _Lane:
    def __init__(self) -> None:
        #: The program's own streams on it.
        self.own: list[OwnStream] = []
        #: The container whose line is open.
        self.owner: str | None = None
        #: Whether what was written last was no line's end.
        self.open = False
        #: (container, stream, data) that waits for the line's end.
        self.held: list[tuple[str, int, bytes]] = []
        self.held_bytes = 0

    @property
    def program_is_in_a_line(self) -> bool:
        return any(text.in_a_line for text in self.own)


def _is_terminal(text: TextIO) -> bool:
    with contextlib.suppress(ValueError, AttributeError):
        return text.isatty()
    return False
