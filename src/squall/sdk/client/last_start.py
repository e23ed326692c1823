"""How the server of a data directory was last started by hand, and whether it was told to stop. What starts it by need does the same as that start,
so that no other kind of server takes its place, and nothing that goes on by itself starts one that was stopped."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from squall.model.errors import ConflictError

#: These may hold a password or a key, so that only their names are written down.
SECRET = frozenset({"SQUALL_DATABASE_URL", "SQUALL_SECRETS_KEY", "SQUALL_BLOBS"})
#: These are the client's, or say where the data directory is.
CLIENTS = frozenset({"SQUALL_DATA_DIR", "SQUALL_SERVER_URL", "SQUALL_TOKEN", "SQUALL_CA_FILE", "SQUALL_ENVIRONMENT", "SQUALL_TRACEBACK"})


class LastStart(msgspec.Struct, frozen=True):
    """`options` are those of the command line, `variables` those of the environment, `secret` the names of further ones."""

    options: tuple[str, ...] = ()
    variables: dict[str, str] = {}
    secret: tuple[str, ...] = ()
    #: Whether it stayed in the foreground, as a service manager wants it.
    foreground: bool = False

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What a process gets that starts the server again.

        Raises:
            ConflictError: a variable is missing here whose value was not written down.
        """
        if missing := [name for name in self.secret if not environ.get(name)]:
            raise ConflictError(
                f"the server of this data directory was started with {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not set here: "
                "start it as before, with  squall server start  (or as the service that it is); that command also starts it without"
            )
        return {**environ, **self.variables}


def last_start(data: Path) -> LastStart:
    """That of this data directory; one without options if it was never started by hand."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode(_file(data).read_bytes(), type=LastStart)
    return LastStart()


def remember(data: Path, options: Sequence[str], environ: Mapping[str, str], *, foreground: bool) -> None:
    """Write down how the server was started just now."""
    ours = {name: value for name, value in environ.items() if name.startswith("SQUALL_") and not name.startswith("SQUALL_TEST_") and name not in CLIENTS}
    said = LastStart(
        tuple(options), {name: value for name, value in ours.items() if name not in SECRET}, tuple(sorted(SECRET & ours.keys())), foreground
    )  # fmt: skip
    new = _file(data).with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(said))
    new.replace(_file(data))


def stopped_on_purpose(data: Path) -> bool:
    """Whether the server was told to stop, rather than crashed, and none has started since."""
    return _stop(data).exists()


def note_stop(data: Path) -> None:
    """The server begins to stop."""
    with contextlib.suppress(OSError):  # a full disk does not keep it from that
        _stop(data).touch(mode=0o600)


def forget_stop(data: Path) -> None:
    """A server starts."""
    _stop(data).unlink(missing_ok=True)


def _stop(data: Path) -> Path:
    return data / "stopped"


def _file(data: Path) -> Path:
    return data / "last-start.json"
