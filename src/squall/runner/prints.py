"""stdout and stderr of user code: sent as messages, so that each line keeps its input and its place before the result."""

import io
import os
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

Sender = Callable[[int, bytes], None]


class _Tap(io.RawIOBase):
    """The raw end of `sys.stdout` or `sys.stderr`. In a forked child it writes to the descriptor, since the channel belongs to the parent."""

    def __init__(self, stream: int, send: Sender) -> None:
        self._stream, self._send, self._pid = stream, send, os.getpid()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        content = bytes(data)
        if os.getpid() == self._pid:
            self._send(self._stream, content)
        else:
            os.write(self._stream, content)
        return len(content)


def install(send: Sender, *, shared: bool = False) -> None:
    """Replace `sys.stdout` and `sys.stderr`. Programs started by user code still write to descriptors 1 and 2, which the agent reads as well.

    Args:
        shared: several inputs print at the same time, so that each needs an unfinished line of its own.
    """
    for name, stream in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(cast(Any, _Tap(stream, send)))
        text = (_SharedText if shared else io.TextIOWrapper)(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, text)


#: The input that this code runs for, by whatever names it: with `shared` streams, whose line it is.
owner: ContextVar[int] = ContextVar("squall_owner", default=0)


class _SharedText(io.TextIOWrapper):
    """Keeps an unfinished line for each input (outside of inputs, for each thread), so that one line never has the words of two."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open: dict[tuple[int, int], str] = {}
        self._lock = threading.RLock()

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        key = _key()
        line, end, rest = text.rpartition("\n")
        if not end:
            self._open[key] = self._open.get(key, "") + text
            if len(self._open[key]) > _LINE_MAX:
                self.flush()
            return len(text)
        whole = self._open.pop(key, "") + line + end
        if rest:
            self._open[key] = rest
        with self._lock:
            super().write(whole)
            super().flush()
        return len(text)

    def flush(self) -> None:
        if (unfinished := self._open.pop(_key(), "")) and not self.closed:
            with self._lock:
                super().write(unfinished)
        super().flush()


#: A line is sent in parts when it is longer than this.
_LINE_MAX = 1 << 16


def _key() -> tuple[int, int]:
    token = owner.get()
    return (token, 0) if token else (0, threading.get_ident())


def flush() -> None:
    """Send unfinished lines (with `shared` streams, of this input)."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
