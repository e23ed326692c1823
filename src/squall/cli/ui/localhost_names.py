"""Names below `localhost` mean this machine (RFC 6761), also where the C library's resolver does not know that: Debian's asks a name server for them.

The addresses of web functions are such names, and programs open them.
"""

import socket
from typing import Any

_plain = socket.getaddrinfo


def install() -> None:
    """Teach this process. Idempotent."""
    socket.getaddrinfo = _getaddrinfo


def _getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else host
    if isinstance(name, str) and name.rstrip(".").lower().endswith(".localhost"):
        host = "localhost"
    return _plain(host, *args, **kwargs)
