"""Starting the embedded server when none answers."""

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from squall.model.errors import ConnectionError
from squall.wire.address import Address, data_directory

#: A first start creates the store and looks at the host; longer than this is a defect or a dying disk.
START_WAIT_S = 30.0


def server_log(data: Path) -> Path:
    """Where the embedded server writes what it has to say."""
    return data / "logs" / "server.log"


def spawn_server(address: Address, options: Sequence[str] = ()) -> None:
    """Start the embedded server as a background process of this user and wait until its socket is there.

    Two programs may do this at once: the server's own lock lets one of them through, and both find its socket.

    Raises:
        ConnectionError: it ended before it listened; the message has the end of its log.
    """
    assert address.path is not None
    data = data_directory()
    log = server_log(data)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ready_read, ready_write = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "squall.gateway.main", "--background", "--ready-fd", str(ready_write), *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[ready_write],
            cwd="/",
        )
    os.close(ready_write)
    try:
        _wait_ready(process, ready_read, log)
    finally:
        os.close(ready_read)


def _wait_ready(process: "subprocess.Popen[bytes]", ready: int, log: Path) -> None:
    """The process leaves the server behind and ends. The server writes 1 when it, or another one, listens, or 0 and why it can't."""
    process.wait()
    if not select.select([ready], [], [], START_WAIT_S)[0]:
        raise ConnectionError(f"the server did not listen within {START_WAIT_S:.0f} s; its log is {log}")
    said = os.read(ready, 1 << 16)
    if said.startswith(b"0"):
        raise ConnectionError(f"the local server could not start: {said[1:].decode(errors='replace')}   (its log: {log})")
    if not said:
        tail = log.read_text(errors="replace").strip().splitlines()[-8:]
        raise ConnectionError("the local server could not start:\n  " + "\n  ".join(tail) + f"\n  (its log: {log})")
