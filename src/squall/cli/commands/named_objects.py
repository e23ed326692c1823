"""What the commands about secrets, volumes, dicts, queues and environments share."""

import sys
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any

import typer

from squall.model.errors import InvalidError

Env = Annotated[str | None, typer.Option("--env", "-e", metavar="NAME", help="The environment; default: SQUALL_ENVIRONMENT or MODAL_ENVIRONMENT, else main.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="No error when it is not there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def group(text: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=text, no_args_is_help=True)


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal.

    Raises:
        InvalidError: nobody is there to answer, and there is no --yes.
        SystemExit: the answer was no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidError(f"{question} Say so with --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SystemExit(1)


@lru_cache(1 << 14)
def moment(seconds: Any) -> str:
    """A Unix time, local."""
    return datetime.fromtimestamp(float(seconds)).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


@lru_cache(1 << 14)
def size(value: Any) -> str:
    """Bytes with a unit."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def listed(kind: str, env: str | None) -> list[dict[str, Any]]:
    """Rows of the named objects of an environment; none where no server runs."""
    from squall.cli.ui.existing_server import rows
    from squall.sdk.client.settings import environment_of
    from squall.wire.state import ListObjects

    return rows(ListObjects(kind, environment_of(env, "main")))
