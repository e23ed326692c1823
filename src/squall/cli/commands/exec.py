"""`squall container exec`: this terminal, or these pipes, at a command in a container."""

import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence
from typing import Any

from squall.model.errors import ConnectionError, InvalidError, rebuild
from squall.wire.messages import Exec, Fault, Reply, Request, Rows, Shown, Typed

_NUMBER = 1
_KEYS_BYTES = 1 << 16


def run(container: str, argv: Sequence[str], *, pty: bool | None) -> int:
    """Run it; its exit status. `pty` None: where both ends here are a terminal.

    Raises:
        Error: the server's refusal.
        ConnectionError: no server runs, or it went away.
    """
    from squall.sdk.client.client import BROKEN, Client

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    with_tty = terminal if pty is None else pty
    if not argv and not with_tty and sys.stdin.isatty():
        raise InvalidError("there is no terminal to type on; give a command:  squall shell FILE.py::f -c 'ls /'")
    size = shutil.get_terminal_size()
    env = {"TERM": os.environ["TERM"]} if with_tty and os.environ.get("TERM") else {}
    connection = Client.default().connect(start=False)
    keys = _Keys(connection)
    try:
        with keys.raw() if with_tty and terminal else contextlib.nullcontext():
            connection.send(Request(_NUMBER, Exec(container, tuple(argv), with_tty, size.lines, size.columns, env, typing=True)))
            keys.start()
            while True:
                message = connection.receive()
                if isinstance(message, Shown):
                    _write(message)
                elif isinstance(message, Fault):
                    raise rebuild(message.code, message.message, message.details)
                elif isinstance(message, Reply):
                    assert isinstance(message.answer, Rows)
                    return int(message.answer.rows[0]["status"])
    except BROKEN as error:
        raise ConnectionError(f"the server went away: {error}") from error
    finally:
        connection.close()


def _write(message: Shown) -> None:
    stream = sys.stdout.buffer if message.stream == 1 else sys.stderr.buffer
    stream.write(message.data)
    stream.flush()


class _Keys:
    """What is typed here, on its way to the command."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def start(self) -> None:
        """Read stdin in a thread, which nothing waits for: a read of a terminal can't be called off."""
        threading.Thread(target=self._pump, name="squall keys", daemon=True).start()

    def _pump(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(sys.stdin.fileno(), _KEYS_BYTES):
                self._send(Typed(_NUMBER, data))
            self._send(Typed(_NUMBER, end=True))

    def _send(self, typed: Typed) -> None:
        with self._lock:
            self._connection.send(typed)

    @contextlib.contextmanager
    def raw(self) -> Iterator[None]:
        """Every key goes to the command, Ctrl-C too, and it learns the size of this terminal."""
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        tty.setraw(fd, termios.TCSADRAIN)  # what was typed ahead is kept
        resized = signal.signal(signal.SIGWINCH, lambda *_: self._resized())
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, resized)
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def _resized(self) -> None:
        size = os.get_terminal_size(sys.stdin.fileno())
        with contextlib.suppress(OSError):
            # In a thread: this one may hold the lock just now.
            threading.Thread(target=self._send, args=(Typed(_NUMBER, rows=size.lines, columns=size.columns),), daemon=True).start()
