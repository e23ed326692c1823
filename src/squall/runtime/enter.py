"""A further process in a container that runs: it joins the container's cgroup and namespaces, gives up every right, and executes a program there.

Also the program of the process that does so: the agent starts it in the host's Python, with the order as its argument. Its descriptors 0, 1 and 2 are those of
the program, or with a terminal, its descriptor 0 is a socket over which it sends the container's side of that.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import termios
from typing import Any, NoReturn

from squall.runner import template_calls as calls
from squall.runner.template_enclosure import close_up

#: ioctls of /dev/pts/ptmx (asm-generic/ioctls.h): unlock the terminal, its number.
_TIOCSPTLCK, _TIOCGPTN = 0x40045431, 0x80045430
_PR_SET_PDEATHSIG = 1
_NAMESPACES = calls.CLONE_NEWUSER | calls.CLONE_NEWNS | calls.CLONE_NEWUTS | calls.CLONE_NEWIPC | calls.CLONE_NEWPID | calls.CLONE_NEWNET
#: What shells say, too: it can't be executed, it is not there.
NO_PERMISSION, NOT_FOUND = 126, 127

Order = dict[str, Any]
"""
    argv, env, workdir: of the program
    tty: whether it gets a terminal
    isolated: False: the container's processes are this machine's, and there is nothing to be joined. True:
        pid: of the container's first process, on the host
        procs: files of the container's cgroups that take a process
        filter, capabilities, nofile: as in `runner.template_enclosure.Order`
"""


def main() -> NoReturn:
    """Ends as the program does, or by 128 and the number of its signal."""
    order: Order = json.loads(sys.argv[1])
    end_with_parent(signal.SIGTERM)
    groups: list[int] = []
    if order["isolated"]:
        groups = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in order["procs"]]
        process = os.pidfd_open(order["pid"])
        calls.setns(process, _NAMESPACES)
        os.close(process)
        os.setgroups([])
        os.setgid(0)
        os.setuid(0)
        end_with_parent(signal.SIGTERM)
    os.umask(0o022)
    terminal = _terminal() if order["tty"] else None
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    child = os.fork()  # only children are in the pid namespace that was joined
    if child == 0:
        _execute(order, terminal, groups)
    # Told to end, it ends the program and waits for it: an orphan of the container's pid namespace that nobody waits for would keep the container from ending.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    for fd in (0, 1, 2, *([] if terminal is None else [terminal])):
        os.close(fd)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def end_with_parent(number: int) -> None:
    """Get this signal when the parent ends. A change of rights forgets it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def _terminal() -> int:
    """A new one of the container; the agent gets its other side."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    (number,) = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, struct.pack("I", 0)))
    terminal = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)
    with socket.socket(fileno=os.dup(0)) as agent:
        socket.send_fds(agent, [b"terminal"], [master])
    os.close(master)
    return terminal


def _execute(order: Order, terminal: int | None, groups: list[int]) -> NoReturn:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        for group in groups:
            os.write(group, b"0")  # this process, whatever its number over there
        os.setsid()
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            for fd in (0, 1, 2):
                os.dup2(terminal, fd)
            os.close(terminal)
        try:
            os.chdir(order["workdir"])
        except OSError:
            os.chdir("/")
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if order["isolated"]:
            close_up(order)
        end_with_parent(signal.SIGKILL)
        os.execvpe(order["argv"][0], order["argv"], order["env"])
    except OSError as error:
        os.write(2, f"{order['argv'][0]}: {error.strerror}\n".encode())
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NO_PERMISSION)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(NO_PERMISSION)


if __name__ == "__main__":
    main()
