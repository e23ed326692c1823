"""Where the server is: the embedded one's socket below the XDG data directory, or what SQUALL_SERVER_URL says."""

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from squall.model.errors import InvalidError

#: sun_path holds 108 bytes with its closing zero (unix(7)); some room is left for a suffix.
SOCKET_PATH_MAX = 100


def data_directory() -> Path:
    """Where this user's embedded server keeps its state: SQUALL_DATA_DIR, or `squall` below XDG_DATA_HOME (default ~/.local/share)."""
    if chosen := os.environ.get("SQUALL_DATA_DIR"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(base) / "squall"


def socket_path(data: Path) -> Path:
    """The embedded server's socket. Below `data`, or where that is too long for a socket, in a directory of this user in /tmp."""
    path = data / "run" / "server.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path
    return _own_folder(Path("/tmp") / f"squall-{os.getuid()}") / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.sock"


def _own_folder(path: Path) -> Path:
    """Make it, or see that nobody else did before: who owns the directory decides which server is found in it, and clients trust their server.

    Raises:
        InvalidError: it is somebody else's, or open to others.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InvalidError(f"{path} is not a directory of this user alone; remove it, or set SQUALL_DATA_DIR to a shorter path")
    return path


def http_socket_path(data: Path) -> Path:
    """The embedded server's socket for HTTP, beside the other one."""
    return socket_path(data).with_suffix(".http")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address: a unix socket's `path`, or `host` and `port` (with TLS if `tls`)."""

    path: str | None = None
    host: str = ""
    port: int = 0
    tls: bool = False

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else f"{'tls' if self.tls else 'tcp'}://{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """``unix:///path``, ``tcp://127.0.0.1:PORT`` or ``tls://HOST:PORT``.

    Raises:
        InvalidError: another form, or plain TCP to an address that is not this machine's loopback.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "unix" and rest:
        return Address(path=rest)
    host, _, port = rest.rpartition(":")
    if scheme in ("tcp", "tls") and host and port.isdigit() and 0 < int(port) < 65536:
        if scheme == "tcp" and host not in ("127.0.0.1", "localhost", "[::1]"):
            raise InvalidError(f"{url} would send the token in clear: plain tcp:// is for this machine's loopback only, use tls://{rest}")
        return Address(host=host.strip("[]"), port=int(port), tls=scheme == "tls")
    raise InvalidError(f"{url!r} is no server address; write unix:///path/to/socket, tcp://127.0.0.1:PORT or tls://HOST:PORT")


def default_address() -> tuple[Address, bool]:
    """The server to talk to, and whether it is the embedded one, which may be started when it does not answer."""
    if url := os.environ.get("SQUALL_SERVER_URL"):
        return parse_address(url), False
    return Address(path=str(socket_path(data_directory()))), True
