"""The containers' user namespace, as the agent holds it: one for all containers of an instance, kept alive by the helper process inside."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

import squall
from squall.model.errors import ContainerStartError
from squall.runtime.ids import IdRange
from squall.runtime.proof import namespace

log = logging.getLogger(__name__)

_ANSWER_S_MAX = 20.0  # the helper needs milliseconds; more means that the machine stands still
#: Without `site`: the helper needs nothing but the standard library, and starts in half the time.
_PROGRAM = "import sys; sys.path.append({root!r}); from squall.runtime.helper import main; main({fd}, {oom_score}, {owner}, {joined})"

#: Of a report: the output of an import is most of it.
_REPORT_BYTES_MAX = 1 << 18
#: Of an error's words, which end in logs and lists.
_ERROR_CHARACTERS_MAX = 2000

Order = dict[str, Any]


class Message(msgspec.Struct, frozen=True):
    """A report of the helper, a template or a copy. Each says some of it; `errno` goes with `error`."""

    role: str | None = None
    error: str | None = None
    errno: Annotated[int, msgspec.Meta(ge=0, le=4095)] | None = None
    ready: bool = False
    enclosed: bool = False
    unshared: bool = False
    obstacle: str | None = None
    import_s: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    #: What the import printed, by stream.
    output: tuple[tuple[Literal[1, 2], str], ...] = ()

    def raise_error(self) -> None:
        """Raise what it tells of, if that is an error."""
        if self.error is not None:
            raise OSError(self.errno or 0, self.error[:_ERROR_CHARACTERS_MAX])


class House:
    """Blocking; every method works from any thread. A helper that died is replaced by another one in the same user namespace, so that what the earlier one
    made there goes on to be used."""

    def __init__(self, ids: IdRange, oom_score: int, place: Callable[[int], None]) -> None:
        """Start the helper. `place` puts it, by its pid, into the cgroup where it belongs; until then it is in the caller's."""
        self._ids, self._oom_score, self._place = ids, oom_score, place
        self._lock = threading.RLock()
        #: The user namespace, which lives as long as this descriptor; -1 before there is one.
        self._namespace = -1
        try:
            self._start()
            self._namespace = os.open(f"/proc/{self.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            self.user_namespace = namespace(self.pid, "user")
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(_ANSWER_S_MAX)
        code = _PROGRAM.format(
            root=str(Path(squall.__path__[0]).parent), fd=theirs.fileno(), oom_score=self._oom_score, owner=self._ids.first, joined=self._namespace
        )
        passed = [fd for fd in (theirs.fileno(), self._namespace) if fd >= 0]
        with theirs:
            command = [sys.executable, "-I", "-S", "-c", code]
            null = subprocess.DEVNULL
            self._process = subprocess.Popen(command, env={}, pass_fds=passed, stdin=null, stdout=null, stderr=subprocess.PIPE)
        self._receive()
        if self._namespace < 0:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{self.pid}/{name}").write_text(f"0 {self._ids.first} {self._ids.count}")
        self._place(self.pid)
        self.control.send(b"go")

    @property
    def pid(self) -> int:
        return self._process.pid

    def network_namespace(self) -> int:
        """A new network namespace that belongs to the containers' user namespace; the caller owns the descriptor.

        Raises:
            OSError: the kernel refused.
            ContainerStartError: the helper ended, and so did the next one.
        """
        _, fds = self._ask({"kind": "namespace"}, [])
        return fds[0]

    def send(self, order: Order, fds: list[int]) -> None:
        """Hand an order on, which is then being carried out; its outcome is told over the order's own status socket. Raises as `network_namespace`."""
        self._ask(order, fds)

    def _ask(self, order: Order, fds: list[int]) -> tuple[Message, list[int]]:
        with self._lock:
            try:
                return self._asked(order, fds)
            except (ConnectionError, TimeoutError, ContainerStartError) as error:
                self._renew(error)
                return self._asked(order, fds)

    def _asked(self, order: Order, fds: list[int]) -> tuple[Message, list[int]]:
        socket.send_fds(self.control, [json.dumps(order).encode()], fds)
        return self._receive()

    def _renew(self, error: Exception) -> None:
        """An answer that comes too late would be taken for that to the next question, so a helper that does not answer goes, too."""
        if self._namespace < 0:
            raise error
        log.warning("the helper in the containers' user namespace is replaced: %s", error)
        self._end()
        self._start()

    def close(self) -> None:
        """End the helper; what it made lives on. Idempotent."""
        with self._lock:
            self._end()
            namespace, self._namespace = self._namespace, -1
            if namespace >= 0:
                os.close(namespace)

    def _end(self) -> None:
        if hasattr(self, "control"):
            self.control.close()
        if hasattr(self, "_process"):
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()

    def _receive(self) -> tuple[Message, list[int]]:
        message, fds = receive(self.control)
        if message is None:
            said = self._process.stderr.read().decode(errors="replace").strip() if self._process.stderr is not None else ""
            raise ContainerStartError(f"the helper in the containers' user namespace ended: {said.splitlines()[-1] if said else 'without a word'}")
        message.raise_error()
        return message, fds


def receive(status: socket.socket) -> tuple[Message | None, list[int]]:
    """The next report, and the descriptor that came with it, which is the caller's; None at the end.

    Whoever sends may be a user's code: what is no report ends the conversation.
    """
    try:
        data, fds, _, _ = socket.recv_fds(status, _REPORT_BYTES_MAX, 1)
    except ConnectionResetError:  # first of all the kernel tells, once, that the other side ended with an order unread; what it had said comes after that
        data, fds, _, _ = socket.recv_fds(status, _REPORT_BYTES_MAX, 1)
    for fd in fds:
        os.set_inheritable(fd, False)  # recv_fds takes no flags before Python 3.12
    try:
        return msgspec.json.decode(data, type=Message), list(fds)
    except (msgspec.MsgspecError, RecursionError):  # or nothing at all: the end
        for fd in fds:
            os.close(fd)
        return None, []
