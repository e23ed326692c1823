"""A further process in a container under gVisor, where nobody can be moved into namespaces: runsc starts it, and this program stands for it on the host.

The agent runs it as it runs `enter`, with the same descriptors: 0, 1 and 2 are those of the program, or with a terminal, its descriptor 0 is a socket over
which it sends the other side of that.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from typing import Any, NoReturn

from squall.runtime.enter import NOT_FOUND, end_with_parent

Order = dict[str, Any]
"""
    runsc: the program and its global options
    container: its id
    argv, env, workdir: of the program
    tty: whether it gets a terminal
"""


def main() -> NoReturn:
    """Ends as the program does, or by 128 and the number of its signal."""
    order: Order = json.loads(sys.argv[1])
    signals = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    end_with_parent(signal.SIGTERM)
    numbered = os.memfd_create("pid")
    described = os.memfd_create("process")
    os.write(described, json.dumps(_process(order)).encode())
    terminal = _terminal() if order["tty"] else None
    runsc = subprocess.Popen(
        (*order["runsc"], "exec", "--process", f"/proc/self/fd/{described}", "--internal-pid-file", f"/proc/self/fd/{numbered}", order["container"]),
        stdin=terminal, stdout=terminal, stderr=terminal, pass_fds=(described, numbered), start_new_session=True,
        preexec_fn=lambda: _begin(signals, terminal),
    )  # fmt: skip
    for fd in (0, 1, 2, *([] if terminal is None else [terminal])):
        os.close(fd)
    ending = False
    while runsc.poll() is None:
        if signal.sigwait(signals) == signal.SIGTERM and not ending:
            ending = True
            _kill(order, runsc, numbered)
    if runsc.returncode < 0:
        os._exit(128 - runsc.returncode)
    # Of what it could not start it has said why.
    os._exit(runsc.returncode if _pid(numbered) else NOT_FOUND)


def _process(order: Order) -> dict[str, Any]:
    """OCI runtime specification, "Process"."""
    return {
        "terminal": order["tty"],
        "user": {"uid": 0, "gid": 0},
        "args": order["argv"],
        "env": [f"{name}={value}" for name, value in order["env"].items()],
        "cwd": order["workdir"],
        "capabilities": {},
        "noNewPrivileges": True,
    }


def _begin(signals: set[signal.Signals], terminal: int | None) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    if terminal is not None:  # runsc passes Ctrl-C and new sizes on to who has the foreground inside
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def _terminal() -> int:
    """A new one; the agent gets its other side."""
    master, terminal = os.openpty()
    with socket.socket(fileno=os.dup(0)) as agent:
        socket.send_fds(agent, [b"terminal"], [master])
    os.close(master)
    return terminal


def _kill(order: Order, runsc: "subprocess.Popen[bytes]", numbered: int) -> None:
    """End the program inside, which outlives runsc otherwise."""
    while not _pid(numbered) and runsc.poll() is None:
        time.sleep(0.01)  # it is being started, and nothing tells when that is done
    null = subprocess.DEVNULL
    command = (*order["runsc"], "kill", "--pid", str(_pid(numbered)), order["container"], "KILL")
    if runsc.poll() is None and subprocess.run(command, stdin=null, stdout=null, stderr=null, check=False).returncode:
        runsc.kill()  # the container has ended, or is about to


def _pid(numbered: int) -> int:
    """What runsc has written: the number inside; 0 before."""
    return int(os.pread(numbered, 16, 0) or 0)
