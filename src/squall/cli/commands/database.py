"""`squall server migrate`, `backup` and `restore`: the database of the local server, by itself."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from squall.cli.commands.named_objects import confirm
from squall.cli.ui.existing_server import needs_server_packages, plain_errors, say
from squall.model.errors import ConflictError
from squall.wire.address import data_directory


def place() -> Path | str:
    """Where the server of this data directory keeps what it knows."""
    return os.environ.get("SQUALL_DATABASE_URL") or data_directory() / "store" / "squall.db"


def migrate() -> None:
    """Bring the schema up to date. The server does so by itself when it starts; here it can be done, and watched, before."""
    with plain_errors(), _no_server():
        from squall.store.maintenance import migrate as run

        where = place()
        if isinstance(where, Path):
            where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        before, after = run(where)
        say(f"✓ the schema is {after}" + ("" if before == after else f", and was {before}" if before else ", of a new database"))


def backup(target: Path) -> None:
    """Write the database to a file. The server may run."""
    with plain_errors():
        needs_server_packages()
        from squall.store.maintenance import backup as run

        run(place(), target.absolute())
        say(f"✓ the database is in {target} ({target.stat().st_size} bytes)")
        if not os.environ.get("SQUALL_SECRETS_KEY"):
            say(f"• without {data_directory() / 'secrets.key'} the secrets in it can't be read: keep that file, too, and elsewhere")


def restore(source: Path, *, yes: bool) -> None:
    """Put the database of a backup in place of what is there. The server must not run."""
    with plain_errors(), _no_server():
        from squall.store.maintenance import restore as run

        confirm(f"Replace the database with what is in {source}?", yes)
        run(place(), source.absolute())
        say(f"✓ the database is that of {source}")


@contextmanager
def _no_server() -> Iterator[None]:
    """
    Raises:
        ConflictError: the server of this data directory runs.
        InvalidError: only the client is installed here.
    """
    needs_server_packages()
    data = data_directory()
    data.mkdir(parents=True, exist_ok=True, mode=0o711)
    with open(os.open(data / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError("the server runs; end it first with  squall server stop") from None
        yield
