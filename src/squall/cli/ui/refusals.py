"""Words of Modal's command line that mean nothing here: each is refused by its name, and says what to do instead."""

from typing import NoReturn

from squall.cli.ui.existing_server import say


def refuse(what: str, instead: str) -> NoReturn:
    """Ends the process with status 2."""
    say(f"✗ {what} is not supported: {instead}")
    raise SystemExit(2)
