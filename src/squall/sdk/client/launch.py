"""Starting the embedded server when none answers."""

import importlib.metadata
import os
import re
import select
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from squall.model.errors import ConnectionError
from squall.sdk.client.last_start import LastStart, last_start
from squall.wire.address import Address, data_directory

#: A first start creates the store and looks at the host; longer than this is a defect or a dying disk.
START_WAIT_S = 30.0


def server_log(data: Path) -> Path:
    """Where the embedded server writes what it has to say."""
    return data / "logs" / "server.log"


def missing_server_packages() -> str:
    """What to do where ``pip install squall`` brought only the client's packages; empty where the server's are all here."""
    try:
        needed = importlib.metadata.requires("squall") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source, by who knows what it needs
        return ""
    names = [match[1] for text in needed if (match := _OF_SERVER.match(text)) is not None]
    missing = sorted(name for name in names if not _is_installed(name))
    if not missing:
        return ""
    return (
        f"the packages of the server are not installed here ({', '.join(missing)}); to run a server on this machine:  pip install 'squall[server]'  "
        "To use one on another machine, set SQUALL_SERVER_URL and SQUALL_TOKEN"
    )


#: A requirement of the extra `server`, as a wheel's metadata has it: ``uvloop>=0.21; extra == 'server'``.
_OF_SERVER = re.compile(r"""([A-Za-z0-9._-]+).*;.*extra == ['"]server['"]""")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def spawn_server(address: Address, options: Sequence[str] | None = None) -> None:
    """Start the embedded server as a background process of this user and wait until its socket is there. Without options it is started as it last was by hand.

    Two programs may do this at once: the server's own lock lets one of them through, and both find its socket.

    Raises:
        ConflictError: it can't be started here as it was; the message says why.
        ConnectionError: its packages are not installed, or it ended before it listened; the message has the end of its log.
    """
    assert address.path is not None
    if missing := missing_server_packages():
        raise ConnectionError(f"no server answers at {address}, and {missing}")
    data = data_directory()
    before = LastStart() if options is not None else last_start(data)
    how = ["--remember", *options] if options is not None else list(before.options)
    environment = before.environment(os.environ)
    log = server_log(data)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ready_read, ready_write = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "squall.gateway.main", "--background", "--ready-fd", str(ready_write), *how],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[ready_write],
            cwd="/",
        )
    os.close(ready_write)
    try:
        _wait_ready(process, ready_read, log)
    except ConnectionError as error:
        if options is None and how:
            raise ConnectionError(f"{error}\n  it was to start as last time ({shlex.join(how)});  squall server start  starts it otherwise") from error
        raise
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
