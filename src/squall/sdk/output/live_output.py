"""Sessions whose events are shown: a value is returned only after what was printed before it."""

from typing import Protocol


class Shown(Protocol):
    """A session that prints."""

    def catch_up(self) -> None: ...


sessions: list[Shown] = []


def catch_up() -> None:
    """Show what was printed before now."""
    for session in sessions:
        session.catch_up()
