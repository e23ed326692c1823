"""The agent's helper: a process in the containers' user namespace that makes there what only one inside can make: network namespaces and first templates.

Started by the agent with an empty environment and one socket, by the host's Python without its site packages. It ends with the agent.
"""

import json
import os
import signal
import socket
import sys

from squall.runner import template_calls as calls
from squall.runner.template_enclosure import loopback_up
from squall.runner.template_spawn import receive, spawn, tell


def main(control_fd: int, oom_score: int) -> None:
    """Never returns."""
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(oom_score))
    os.umask(0o022)
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a server that is told to end ends it in its own time
    calls.unshare(calls.CLONE_NEWUSER)
    tell(control, unshared=True)
    if control.recv(16) != b"go":  # the agent writes the id maps
        os._exit(1)
    os.setgroups([])
    os.setgid(0)
    os.setuid(0)
    calls.settle()
    try:
        while True:
            order, fds = receive(control)
            if order["kind"] == "namespace":
                _make_network(control)
            else:
                spawn(order["kind"], socket.socket(fileno=fds[0]), control, lambda order, status: None)
    except (EOFError, ConnectionError, json.JSONDecodeError):
        os._exit(0)


def _make_network(control: socket.socket) -> None:
    try:
        calls.unshare(calls.CLONE_NEWNET)
        loopback_up()
    except OSError as error:
        tell(control, error=str(error), errno=error.errno)
        return
    made = os.open("/proc/self/ns/net", os.O_RDONLY)
    tell(control, [made])
    os.close(made)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
