"""The plain sink: containers' output to its streams, progress as lines on stderr."""

import contextlib
import sys
import threading
from typing import TextIO

from squall.sdk.output.line_streams import LineStreams
from squall.sdk.output.output import Event
from squall.wire.messages import ContainerProgress, ImageProgress, LogChunk

#: Log lines of a failing build step that are shown.
_TAIL_LINES = 20


class PrintingSink:
    """Prints as things happen, one line each, without colour and without anything that moves."""

    def __init__(self, *, stdout: TextIO | None = None, stderr: TextIO | None = None, quiet: bool = False, verbose: bool = False) -> None:
        self._err = stderr if stderr is not None else sys.stderr
        self._streams = LineStreams(stdout, stderr)
        self._quiet, self._verbose = quiet, verbose
        self._lock = threading.RLock()
        #: Containers that became ready, in order; their count is part of the summary.
        self.containers: dict[str, None] = {}
        #: Seconds spent in image steps that had to be built.
        self.image_s = 0.0
        self._shown_images: set[tuple[int, str]] = set()
        self._tails: dict[tuple[int, int], list[str]] = {}

    def event(self, message: Event) -> None:
        with self._lock:
            match message:
                case LogChunk():
                    self._log(message)
                case ImageProgress():
                    self._image(message)
                case ContainerProgress():
                    self._container(message)

    def notice(self, text: str) -> None:
        self.line(f"• {text}")

    def line(self, text: str) -> None:
        """One line of talk on stderr, not in the middle of a container's line."""
        if self._quiet:
            return
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            self._err.write(f"{text}\n")
            self._err.flush()

    def close(self) -> None:
        """Write what is still held back."""
        self._streams.close()

    def _log(self, message: LogChunk) -> None:
        self._streams.write(message.container, message.stream, message.data)

    def _image(self, message: ImageProgress) -> None:
        tail = self._tails.setdefault((message.image, message.step), [])
        match message.state:
            case "start":
                self._image_title(message)
            case "log":
                tail.append(message.line)
                del tail[:-_TAIL_LINES]
                if self._verbose:
                    self.line(f"      {self._whose(message)}{message.line}")
            case "done":
                self.image_s += message.seconds
                self._image_title(message)
                self.line(step_line(f"{self._whose(message)}{message.title}", f"{message.seconds:.1f} s"))
            case "failed":
                self._image_title(message)
                self.line(step_line(f"{self._whose(message)}{message.title}", "failed"))
                if not self._verbose:
                    for text in tail:
                        self.line(f"      {text}")
            case "note":
                self._image_title(message)
                self.notice(message.line)
            case _:  # "hit": what is there already is not worth a line; nor is "stopped", since the failure is told
                pass

    def _image_title(self, message: ImageProgress) -> None:
        key = (message.image, message.function)
        if key not in self._shown_images:
            self._shown_images.add(key)
            self.line(f"• image{f' for {message.function}' if message.function else ''}")

    def _whose(self, message: ImageProgress) -> str:
        """Images are built side by side: with several, each line says which it is about."""
        return f"{message.function} | " if len(self._shown_images) > 1 and message.function else ""

    def _container(self, message: ContainerProgress) -> None:
        if message.state == "ready":
            self.containers[message.container] = None
        elif message.state == "stopped":
            self._streams.release(message.container)
        if self._verbose:
            took = f" in {message.seconds:.2f} s" if message.seconds else ""
            self.line(f"• {message.container} of {message.function}: {message.state}{took}{f' ({message.reason})' if message.reason else ''}")


def step_line(title: str, outcome: str) -> str:
    """``    apt_install jq ......... 1.3 s``: the outcomes of all steps below each other."""
    shown = title if len(title) <= 60 else f"{title[:59]}…"
    return f"    {shown} {'.' * max(3, 40 - len(shown))} {outcome}"
