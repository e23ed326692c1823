"""Commands that talk to a server that is there already: asking does not start one."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from squall.cli.ui.display import wants_colour
from squall.model.errors import ConnectionError, Error, InvalidError
from squall.wire.messages import Answer, Command, ListApps, Names, Resolve, Rows

INTERRUPTED = 130
#: As a shell counts a process that SIGPIPE ended.
NOBODY_READS = 141


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Errors of Squall as one paragraph on stderr and exit status 1, Ctrl-C as status 130, a closed pipe as 141."""
    try:
        yield
        sys.stdout.flush()
    except Error as error:
        from squall.cli.ui.errors import paragraph

        say(f"✗ {paragraph(error, {})}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(NOBODY_READS) from None


def say(text: str) -> None:
    """One line of talk on stderr."""
    if wants_colour(sys.stderr):
        for sign, colour in (("✓", 32), ("✗", 31), ("•", 36)):
            if text.startswith(sign):
                text = f"\x1b[{colour}m{sign}\x1b[0m{text[1:]}"
    sys.stderr.write(f"{text}\n")


def needs_server_packages() -> None:
    """
    Raises:
        InvalidError: only the client is installed here, and the command is one of the server's machine.
    """
    from squall.sdk.client.launch import missing_server_packages

    if missing := missing_server_packages():
        raise InvalidError(missing)


def ask(command: Command, on_event: Callable[[Any], None] | None = None) -> Answer:
    """The running server's answer.

    Raises:
        ConnectionError: none is running.
        Error: it refuses.
    """
    from squall.sdk.client.client import BROKEN, Client, request_on

    connection = Client.default().connect(start=False)
    try:
        return request_on(connection, command, on_event)
    except BROKEN as error:
        raise ConnectionError(f"the server went away: {error}") from error
    finally:
        connection.close()


def rows(command: Command) -> list[dict[str, Any]]:
    """A listing. Where the embedded server is not running there is nothing to list, and stderr says so."""
    from squall.sdk.client.client import Client

    try:
        return _listed(command)
    except ConnectionError:
        if not Client.default().embedded:
            raise
        say("• no server is running; squall server start starts it, and so does squall run")
        return []


def _listed(command: Command) -> list[dict[str, Any]]:
    answer = ask(command)
    assert isinstance(answer, Rows)
    return list(answer.rows)


def resolve(text: str, prefix: str, environment: str | None = None) -> str:
    """The full id that `text` means: an id, the beginning of one (with or without its ``ap-``), or an app's name, in any environment or in this one.

    Raises:
        NotFoundError: nothing is called so.
    """
    if prefix == "ap":
        answer = ask(ListApps())
        assert isinstance(answer, Rows)
        named = [row for row in answer.rows if row.get("name") == text and environment in (None, row.get("environment"))]
        if named:
            running = [row for row in named if row.get("state") != "stopped"]
            return str((running or named)[-1]["id"])
    found = ask(Resolve(text, prefix))
    assert isinstance(found, Names)
    return found.names[0]


def find_functions(which: str, environment: str | None = None) -> list[dict[str, Any]]:
    """The functions that are called `which`: an id, a name, or an app and a name in it, as ``APP::NAME``, ``APP.NAME`` or ``APP/NAME``. An app may be its id.

    Raises:
        NotFoundError: there is none.
        ConnectionError: no server is running.
    """
    from squall.wire.messages import ListFunctions

    app, _, tag = which.rpartition("::")
    if app:
        return _listed(ListFunctions(resolve(app, "ap", environment), tag))
    every = _listed(ListFunctions())
    if environment is not None:
        here = {row["id"] for row in _listed(ListApps()) if row["environment"] == environment}
        every = [row for row in every if row["app"] in here]
    found = [row for row in every if which in (row["id"], row["function"])]
    return found or [row for row in every if which in _with_app(row)] or _listed(ListFunctions("", which))  # which says that there is none


def _with_app(row: dict[str, Any]) -> set[str]:
    return {f"{app}{sign}{row['function']}" for app in (row["app"], row["app_name"]) if app for sign in "./"}
