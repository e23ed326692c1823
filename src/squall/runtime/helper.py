"""The agent's helper: a process in the containers' user namespace that makes there what only one inside can make: network namespaces and first templates.

Started by the agent with an empty environment and one socket, by the host's Python without its site packages. It ends with the agent. When it is ended by
anybody else, the agent starts another one, which enters the user namespace that is there.
"""

import json
import os
import signal
import socket
import sys

from squall.runner import template_calls as calls
from squall.runner.template_enclosure import loopback_up
from squall.runner.template_spawn import receive, spawn, tell


def main(control_fd: int, oom_score: int, owner: int, joined: int) -> None:
    """Never returns.

    Args:
        owner: host uid that the user namespace belongs to. What the kernel counts for each user (inotify instances, for one: user_namespaces(7),
            /proc/sys/user) it counts for the namespace's owner too, who must not be the host's root therefore.
        joined: descriptor of the user namespace; -1: make it.
    """
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(oom_score))
    os.umask(0o022)
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a server that is told to end ends it in its own time
    calls.raise_descriptors()
    if joined < 0:
        calls.become_owner(owner)
        calls.unshare(calls.CLONE_NEWUSER)
    else:
        calls.setns(joined, calls.CLONE_NEWUSER)
        os.close(joined)
    tell(control, unshared=True)
    if control.recv(16) != b"go":  # the agent writes the id maps, and puts this process into its cgroup
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
                tell(control, begun=True)
    except (EOFError, ConnectionError, json.JSONDecodeError):
        os._exit(0)


def _make_network(control: socket.socket) -> None:
    try:
        calls.unshare(calls.CLONE_NEWNET)
        loopback_up()
        made = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            tell(control, [made])
        finally:
            os.close(made)
    except OSError as error:
        tell(control, error=str(error), errno=error.errno)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
