"""How containers and templates come out of a process: by cloning it into new namespaces. Both are children of the agent, which learns how they end.

    instance: one clone into all new namespaces; it is process 1 of its own pid namespace. When the agent has looked at it, it forks the program (`init`).
    template: three. A *starter* makes the namespaces and ends. A *keeper* is process 1 of the pid namespace: it makes the root file system and then only
        lives, so that the end of a template is not the end of the containers that were forked from it. The template itself is process 2, since the
        kernel lets no process 1 have siblings, which instances are.

Each reports over a status socket of its own, where it gets its order too: so it is cloned while the agent still makes its root file system. What is
unclear ends as a closed socket.
"""

import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from squall.runner import init
from squall.runner import template_calls as calls
from squall.runner import template_enclosure as enclosure
from squall.runner.template_enclosure import Order

_ALL = calls.CLONE_NEWNS | calls.CLONE_NEWUTS | calls.CLONE_NEWIPC | calls.CLONE_NEWPID

#: Descriptor of its socket, in a template that was executed and not copied.
CONTROL_FD = 3

Body = Callable[[Order, socket.socket], None]


def receive(control: socket.socket) -> tuple[Order, list[int]]:
    """The next order. Raises EOFError when the agent is gone."""
    data, fds, _, _ = socket.recv_fds(control, 1 << 20, 250)
    if not data:
        raise EOFError("the agent closed the socket")
    for fd in fds:
        os.set_inheritable(fd, False)  # recv_fds takes no flags before Python 3.12
    return json.loads(data), list(fds)


def tell(status: socket.socket, fds: list[int] | None = None, **fields: Any) -> None:
    """Report to the agent."""
    socket.send_fds(status, [json.dumps(fields).encode()], fds or [])


def words(error: OSError) -> str:
    """The message of an error without its number, which goes beside it."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


def introduce(status: socket.socket, role: str) -> None:
    """Say who this process is, by a descriptor that shows the agent its pid over there."""
    calls.raise_descriptors()
    own = os.pidfd_open(os.getpid())
    tell(status, [own], role=role)
    os.close(own)


def spawn(kind: str, status: socket.socket, control: socket.socket, body: Body) -> None:
    """Begin an instance or a template, which gets its order over the status socket, and in the end runs `body`."""
    try:
        if kind == "template":
            calls.clone_sibling(0, lambda: _guarded(status, lambda: _start_template(status, control, body)))
        else:
            calls.clone_sibling(_ALL, lambda: _guarded(status, lambda: _be_instance(status, control, body)))
    except OSError as error:
        tell(status, error=words(error), errno=error.errno)
    finally:
        status.close()


def _be_instance(status: socket.socket, control: socket.socket, body: Body) -> None:
    control.close()
    introduce(status, "instance")
    os.setsid()
    order, fds = receive(status)
    enclosure.enter_network(fds)
    enclosure.enter_root(order, fds[2:])
    enclosure.take_streams(fds)
    enclosure.hide(order)
    calls.sethostname(order["hostname"])
    _finish(order, status, body)


def _start_template(status: socket.socket, control: socket.socket, body: Body) -> None:
    control.close()
    introduce(status, "starter")
    order, fds = receive(status)  # when it is in its cgroup
    enclosure.enter_network(fds)
    calls.unshare(_ALL)
    ready, done = os.pipe()
    calls.clone_sibling(0, lambda: _guarded(status, lambda: _keep(order, fds, status, ready, done)))
    os.close(done)
    if os.read(ready, 1) != b"1":
        os._exit(1)
    os.close(ready)
    for mount in fds[2:]:
        os.close(mount)
    os.chdir("/")
    calls.clone_sibling(0, lambda: _guarded(status, lambda: _be_template(order, fds, status, body)))
    os._exit(0)


def _keep(order: Order, fds: list[int], status: socket.socket, ready: int, done: int) -> NoReturn:
    os.close(ready)
    os.setsid()
    introduce(status, "keeper")
    enclosure.enter_root(order, fds[2:])
    enclosure.take_streams(fds)
    status.close()
    # Orphans of the namespace become children of this process; ignored, they leave no zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Never ready: nobody writes there, and no signal is handled.
    nothing, _ = os.pipe()
    os.write(done, b"1")
    os.close(done)
    while True:
        os.read(nothing, 1)


def _be_template(order: Order, fds: list[int], status: socket.socket, body: Body) -> None:
    os.setsid()
    introduce(status, "template")
    enclosure.take_streams(fds)
    calls.sethostname(order["hostname"])
    _finish(order, status, body)


def _finish(order: Order, status: socket.socket, body: Body) -> None:
    enclosure.close_up(order)
    os.chdir(order["workdir"])
    if not order["argv"]:
        body(order, status)
        return
    argv, env = order["argv"], order["env"]
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, and that would be inherited
        signal.signal(number, signal.SIG_DFL)
    if order["template"]:
        if status.fileno() == CONTROL_FD:
            os.set_inheritable(CONTROL_FD, True)
        else:
            os.dup2(status.fileno(), CONTROL_FD)
    else:
        pass_gate(status)
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        raise OSError(error.errno, f"{argv[0]}: {error.strerror}") from error


def pass_gate(status: socket.socket) -> None:
    """Wait until the agent has put this process into its cgroup, and has seen that it is locked down. Returns in a child, and this process is the init."""
    tell(status, enclosed=True)
    if status.recv(16) != b"go":
        os._exit(1)  # the agent is gone
    init.enter()


def _guarded(status: socket.socket, work: Callable[[], None]) -> None:
    """In a fresh process, where nobody above could handle an exception."""
    try:
        work()
    except EOFError:
        pass  # the agent is gone, or has thought better of it
    except OSError as error:
        tell(status, error=words(error), errno=error.errno)
    except Exception as error:
        tell(status, error=f"{type(error).__name__}: {error}")
    os._exit(1)
