"""Process 1 of a container. It passes signals on to the program, collects the exit status of every orphan, and ends as the program does.

The kernel protects process 1 from every signal that it has no handler for, and gives it the orphans of the container. So the program must not be process 1:
there it would survive its own SIGTERM, and its orphans would stay zombies.

Standard library only: the agent's helper runs it in the host's Python before there is a container.
"""

import os
import signal
import threading
from contextlib import suppress

from squall.runner import init_shared

#: An init ends with this plus the number of the signal that ended the program, as shells do: no signal but SIGKILL from outside can end process 1.
SIGNALLED = 128

_ALL = signal.valid_signals()


def enter() -> None:
    """Go on in a child of this process, which has process 1's duties from now on. Returns in the child only.

    Only for a process with one thread. A signal that comes meanwhile reaches the child.

    Raises:
        OSError: the container may have no more processes.
    """
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    if not init_shared.split() and (program := os.fork()):
        try:
            _let_go()
            serve(program)
        finally:
            os._exit(1)
    os.setsid()
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # by itself only since Python 3.13
    signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def enter_if_first() -> None:
    """`enter`, in a process 1."""
    if os.getpid() == 1:
        enter()


def _let_go() -> None:
    """Close all descriptors, so that a pipe or socket that the program closes is closed."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one of the listing itself
            os.close(int(name))


def serve(program: int) -> None:
    """Never returns. All signals are blocked, so that each waits here until it is handled."""
    while True:
        number = signal.sigwait(_ALL)
        if number == signal.SIGCHLD:
            _collect(program)
        else:
            with suppress(ProcessLookupError):
                os.kill(program, number)


def _collect(program: int) -> None:
    """Take the exit status of every child that has ended. Ends with the program."""
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == 0:
            return
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else SIGNALLED - code)
