"""`squall server`: the local server's life."""

import contextlib
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from squall.cli.ui.existing_server import ask, needs_server_packages, plain_errors, rows, say
from squall.cli.ui.listing import show_one
from squall.model.errors import ConflictError, ConnectionError, InvalidError, NotFoundError
from squall.wire.messages import Rows, ServerStatus, StopServer

if TYPE_CHECKING:
    from squall.sdk.client.client import Client

_STOP_WAIT_S = 30.0
_POLL_S = 0.1


def start(*, foreground: bool, options: list[str]) -> None:
    """Start it in the background and say where; with `foreground` this process becomes the server. `options` are those of `squall.gateway.main`."""
    from squall.sdk.client.client import Client, ensure_server

    with plain_errors():
        if not Client.default().embedded:
            raise InvalidError("SQUALL_SERVER_URL names another server; unset it to use the local one")
        if foreground:
            needs_server_packages()
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, "-m", "squall.gateway.main", "--remember", *options])
        started = ensure_server(options)
        if not started and options:
            raise ConflictError("the local server runs already, without these options; squall server stop ends it")
        say(f"{'✓ started the local server' if started else '• the local server runs already'}  ({Client.default().address})")


def token() -> None:
    """Print the secret for clients over TCP; it is made when the server first listens there."""
    from squall.wire.address import data_directory

    with plain_errors():
        path = data_directory() / "token"
        if not path.exists():
            raise NotFoundError("there is no token yet: it is made by  squall server start --listen tcp://127.0.0.1:PORT")
        print(path.read_text().strip())


def stop() -> None:
    """Stop it and wait until it no longer listens. Not running is no error."""
    from squall.sdk.client.client import Client

    with plain_errors():
        client = Client.default()
        if client.address.path is None:
            raise InvalidError(
                f"SQUALL_SERVER_URL names {client.address}, which only its owner can stop: run  squall server stop  on that machine, as the server's user; "
                "for the local server unset SQUALL_SERVER_URL"
            )
        try:
            found = rows(ServerStatus())
            if not found:  # no server runs, as was said
                return
            ask(StopServer())
        except ConnectionError:
            if not client.embedded:
                raise
            say("• the local server does not run")
            return
        _wait_stopped(client, client.server_id)
        say(f"✓ stopped the local server  (pid {found[0]['pid']}, {found[0]['data']})")


def restart() -> None:
    """Stop it and start it as it was. What runs goes on meanwhile."""
    from squall.sdk.client.client import Client
    from squall.sdk.client.last_start import last_start
    from squall.sdk.client.launch import spawn_server
    from squall.wire.address import data_directory

    with plain_errors():
        client = Client.default()
        if not client.embedded:
            raise InvalidError("SQUALL_SERVER_URL names another server; unset it to use the local one")
        needs_server_packages()
        before = last_start(data_directory())
        before.environment(os.environ)
        try:
            ask(ServerStatus())
        except ConnectionError:
            say("• the local server did not run")
        else:
            if before.foreground:
                raise ConflictError("the local server runs in the foreground; restart it where it was started, or by its service manager")
            ask(StopServer(leave=True))
            _wait_stopped(client, client.server_id)
        with contextlib.suppress(ConnectionError):
            client.connect(start=False).close()
            return say(f"✓ restarted the local server  ({client.address})")  # by a client that waited for it
        spawn_server(client.address)
        say(f"✓ restarted the local server  ({client.address})")


def _wait_stopped(client: "Client", server: str) -> None:
    """Until this server is gone; another one may be there by then.

    Raises:
        ConnectionError: it goes on.
    """
    deadline = time.monotonic() + _STOP_WAIT_S
    while time.monotonic() < deadline:
        try:
            client.connect(start=False).close()
            if client.server_id != server:
                return
        except ConnectionError:
            if not client.embedded or _lock_is_free():
                return
        time.sleep(_POLL_S)
    raise ConnectionError(f"the server still listens after {_STOP_WAIT_S:.0f} s; squall server logs may say why")


def _lock_is_free() -> bool:
    """Whether the server's process has ended: it holds this lock to its last moment."""
    import fcntl

    from squall.wire.address import data_directory

    try:
        with (data_directory() / "server.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True


def status(*, as_json: bool) -> None:
    """Its facts. Exit status 1 when none runs."""
    with plain_errors():
        answer = ask(ServerStatus())
        assert isinstance(answer, Rows)
        show_one(answer.rows[0], as_json=as_json)


def logs(*, follow: bool, lines: int) -> None:
    """The last lines of its log, and with `follow` what comes."""
    from squall.sdk.client.launch import server_log
    from squall.wire.address import data_directory

    with plain_errors():
        _write(server_log(data_directory()), follow=follow, lines=lines)


def _write(path: Path, *, follow: bool, lines: int) -> None:
    try:
        log = path.open("rb")
    except FileNotFoundError:
        raise InvalidError(f"there is no log yet ({path}); squall server start starts the server") from None
    with log, contextlib.suppress(ValueError):
        for line in deque(log, maxlen=lines):
            sys.stdout.buffer.write(line)
        sys.stdout.flush()
        while follow:
            if data := log.read():
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            else:
                time.sleep(_POLL_S)
