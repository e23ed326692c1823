"""Who is at the other end of the owner's unix sockets."""

import os
import socket
import struct
from typing import Any


def is_owner(transport: Any) -> bool:
    """Whether it is root or the server's own user, as the kernel says: a socket's mode keeps others out only until somebody changes it."""
    sock = transport.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid) in (0, os.geteuid())
