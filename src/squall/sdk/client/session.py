"""A session: the connection that holds a running app, shows what it prints, and takes it up again after the server restarted."""

import contextlib
import os
import socket
import threading
import time
from typing import Any

from squall.model.errors import ConnectionError, Error, rebuild
from squall.model.ids import APP, make_id
from squall.model.specs import AppSpec
from squall.sdk.client.client import BROKEN, RECONNECT_S, Client, Connection, request_on
from squall.sdk.output import live_output
from squall.sdk.output.output import Sink
from squall.wire.blocking import readable
from squall.wire.messages import AppStarted, ContainerProgress, Fault, Follow, ImageProgress, LogChunk, Reply, Request, StartApp, StopApp

#: Request numbers on the session's connection.
_START, _FOLLOW, _STOP = 1, 2, 3

#: The longest a close waits: exit hooks may take 30 s (Modal's rule), and a bit more.
CLOSE_S = 40.0


#: A terminal that takes no output holds up no results for longer than this.
CATCH_UP_S = 1.0


class Session:
    """Made by `open`. `functions`: ids by tag. Not for use by several threads, but for its own."""

    def __init__(self, client: Client, command: StartApp, sink: Sink | None) -> None:
        self.client, self.sink = client, sink
        self.app_id = command.app
        self.functions: dict[str, str] = {}
        self.detached = command.detach
        self._command = command
        self._connection: Connection
        self._thread = threading.Thread(target=self._read, name=f"squall session {self.app_id}", daemon=True)
        self._stopped = threading.Event()
        self._followed = threading.Event()
        self._closing = False
        self._handling = False
        self._handled = threading.Condition()
        self._failure: BaseException | None = None

    @classmethod
    def open(cls, client: Client, spec: AppSpec, *, detach: bool = False, environment: str = "main", sink: Sink | None = None) -> "Session":
        """Start the app and wait until its functions can be called; progress goes to `sink`.

        Raises:
            ImageBuildError, InvalidError, ConnectionError, ...: the server's refusal.
        """
        app = make_id(APP, time.time_ns() // 1_000_000, os.urandom(10))
        session = cls(client, StartApp(spec, app, detach, environment), sink)
        session._connection = client.connect()
        try:
            session._begin()
        except BaseException:
            session._connection.close()
            raise
        session._thread.start()
        if sink is not None:
            live_output.sessions.append(session)
        return session

    def _begin(self) -> None:
        started = request_on(self._connection, self._command, self._event)
        assert isinstance(started, AppStarted)
        self.functions = started.functions
        self._connection.send(Request(_FOLLOW, Follow(app=self.app_id, replay=False)))

    def _event(self, message: Any) -> None:
        if self.sink is not None and isinstance(message, LogChunk | ImageProgress | ContainerProgress):
            self.sink.event(message)

    def _read(self) -> None:
        """The session's thread: events until the app has ended."""
        while not self._stopped.is_set():
            try:
                if not self._connection.pending:
                    with self._handled:
                        self._handling = False
                        self._handled.notify_all()
                    readable(self._connection.sock.fileno(), None)
                    self._handling = True
                message = self._connection.receive()
            except BROKEN:
                if self._stopped.is_set() or not self._again():
                    return
                continue
            if isinstance(message, Reply | Fault):
                if message.request == _STOP:
                    if isinstance(message, Fault) and message.code != "not_found":
                        self._failure = rebuild(message.code, message.message, message.details)
                    self._stopped.set()
                elif message.request == _FOLLOW:
                    self._followed.set()
                continue
            try:
                self._event(message)
            except OSError:  # stdout was closed (a pipe into `head`)
                self.sink = None

    def catch_up(self) -> None:
        """Wait until everything that the server had said before now was handled: what an input printed is shown before its value is returned."""
        if threading.current_thread() is self._thread:
            return
        deadline = time.monotonic() + CATCH_UP_S
        while (self._handling or self._readable()) and time.monotonic() < deadline and not self._stopped.is_set():
            with self._handled:
                self._handled.wait(0.0005)

    def _readable(self) -> bool:
        try:
            return readable(self._connection.sock.fileno(), 0)
        except (OSError, ValueError):
            return False

    def _again(self) -> bool:
        """The server went away: connect again, take the app up again. False when that can't be."""
        self._connection.close()
        if self.sink is not None and not self._closing:
            self.sink.notice("lost the server; connecting again ...")
        lost_at = time.monotonic()
        while True:
            try:
                self._connection = self.client.reconnect(lost_at)
                if self._closing:
                    self._connection.send(Request(_STOP, StopApp(self.app_id)))
                    return True
                self._begin()
                break
            except (Error, *BROKEN) as error:
                self._connection.close()
                if isinstance(error, (ConnectionError, *BROKEN)) and time.monotonic() - lost_at < RECONNECT_S:
                    continue  # this server was killed too
                self._failure = error if isinstance(error, Error) else ConnectionError(f"the server went away: {error}")
                if self.sink is not None and not self._closing:
                    self.sink.notice(f"the run could not be taken up again: {self._failure}")
                self._followed.set()
                self._stopped.set()
                return False
        if self.sink is not None:
            self.sink.notice("connected again; the run goes on")
        return True

    def close(self) -> None:
        """End the app (unless detached) and wait until nothing of it runs and all that it printed was shown. Idempotent."""
        if self._closing:
            return
        self._closing = True
        if self.detached:
            self._stopped.set()
            self._shut()
            return
        with contextlib.suppress(OSError):  # the reading thread connects again and asks there
            self._connection.send(Request(_STOP, StopApp(self.app_id)))
        self._followed.wait(CLOSE_S)
        self._stopped.wait(CLOSE_S)
        self._shut()

    def _shut(self) -> None:
        if self in live_output.sessions:
            live_output.sessions.remove(self)
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        if self._thread is not threading.current_thread():
            self._thread.join(1.0)
        self._connection.close()
