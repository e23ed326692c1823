"""A terminal of ours, with the installed command at it, as a user at a keyboard has one."""

import fcntl
import os
import pty
import select
import struct
import termios

from support.waiting import BOUND_S

from .conftest import SQUALL, Runner


class Terminal:
    """A terminal of ours with a command at it."""

    def __init__(self, runner: Runner, *argv: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(runner.folder)
            os.execve(SQUALL, [str(SQUALL), *argv], {**runner.env, "TERM": "xterm"})
        self.seen = ""

    def until(self, text: str) -> None:
        while text not in self.seen:
            assert select.select([self.fd], [], [], BOUND_S)[0], f"{text!r} did not come after {self.seen!r}"
            self.seen += os.read(self.fd, 4096).decode()
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self, *, hang_up: bool = False) -> int:
        """The command's exit status, once it has ended; or once the terminal was closed under it."""
        try:
            while not hang_up and os.read(self.fd, 4096):
                pass
        except OSError:
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
