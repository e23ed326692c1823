"""Waiting in an event loop for what asyncio does not wait for: processes of any parent, and work that must finish though its waiter is cancelled."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass


async def finish(work: "asyncio.Future[None]") -> None:
    """Wait until the work is done, even if the caller is cancelled meanwhile; its cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError as e:
            cancelled = e
        except Exception:  # is raised by result() below
            break
    if cancelled is not None and not work.cancelled():
        work.exception()  # mark as retrieved: the caller's cancellation comes first
        raise cancelled
    work.result()


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended: with an exit code or by a signal; all None for a process of another parent. `peak_bytes` is that of its largest process."""

    code: int | None = None
    signal: int | None = None
    peak_bytes: int | None = None


class ProcessWatch:
    """Calls back once, in this loop, when a process has ended; reaps it if it is a child. Owns a process descriptor until then or until `close`.

    Where there are no process descriptors (macOS) a thread waits instead, and only children can be watched.
    """

    def __init__(self, pid: int, ended: Callable[[End], None], *, whole_group: bool = False) -> None:
        """
        Args:
            whole_group: the process leads a process group, what is left of which is killed when it ends. (Later, its number may be another's.)

        Raises:
            ProcessLookupError: there is no such process, not even as a zombie.
        """
        self._pid, self._ended, self._whole_group = pid, ended, whole_group
        self._loop = asyncio.get_running_loop()
        self._fd: int | None = None
        self._closed = False
        if hasattr(os, "pidfd_open"):
            self._fd = os.pidfd_open(pid)
            self._loop.add_reader(self._fd, self._readable)
        else:
            threading.Thread(target=self._wait_in_thread, name=f"wait for {pid}", daemon=True).start()

    def send_signal(self, number: int) -> None:
        """No effect once the process has ended; never reaches another that was given its number."""
        if self._closed:
            return
        with suppress(ProcessLookupError):
            if self._fd is None:
                os.kill(self._pid, number)
            else:
                signal.pidfd_send_signal(self._fd, number)

    def kill_group(self) -> None:
        """SIGKILL to the process group that it leads. No effect once it has ended."""
        if not self._closed:
            with suppress(ProcessLookupError, PermissionError):  # the latter on macOS, for a group of zombies
                os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Stop watching, without a call back. Idempotent."""
        self._closed = True
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _readable(self) -> None:
        assert self._fd is not None
        try:
            # Left as a zombie for now: that keeps its number, and that of its group, from being given away.
            child = os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            self._finish(End())
            return
        if child:
            if self._whole_group:
                self.kill_group()
            self._finish(_reap(self._pid))

    def _wait_in_thread(self) -> None:
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        if self._whole_group:
            self.kill_group()
        end = _reap(self._pid)
        with suppress(RuntimeError):  # the loop may be closed by now
            self._loop.call_soon_threadsafe(self._finish, end)

    def _finish(self, end: End) -> None:
        if not self._closed:
            self.close()
            self._ended(end)


def _reap(pid: int) -> End:
    _, status, used = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    peak = used.ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
    return End(code, None, peak) if code >= 0 else End(None, -code, peak)
