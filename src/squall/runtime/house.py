"""The containers' user namespace, as the agent holds it: one for all containers of an instance, kept alive by the helper process inside."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

import squall
from squall.model.errors import ContainerStartError
from squall.runtime.ids import IdRange
from squall.runtime.proof import namespace

_ANSWER_S_MAX = 20.0  # the helper needs milliseconds; more means that the machine stands still
#: Without `site`: the helper needs nothing but the standard library, and starts in half the time.
_PROGRAM = "import sys; sys.path.append({root!r}); from squall.runtime.helper import main; main({fd}, {oom_score})"

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
    running: bool = False
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
    """Blocking; every method works from any thread. Raises OSError when the helper is gone."""

    def __init__(self, ids: IdRange, oom_score: int) -> None:
        """Start the helper, in the caller's cgroup."""
        self._lock = threading.Lock()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(_ANSWER_S_MAX)
        code = _PROGRAM.format(root=str(Path(squall.__path__[0]).parent), fd=theirs.fileno(), oom_score=oom_score)
        try:
            with theirs:
                command = [sys.executable, "-I", "-S", "-c", code]
                null = subprocess.DEVNULL
                self._process = subprocess.Popen(command, env={}, pass_fds=(theirs.fileno(),), stdin=null, stdout=null, stderr=subprocess.PIPE)
            self._receive()
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{self.pid}/{name}").write_text(f"0 {ids.first} {ids.count}")
            self.user_namespace = namespace(self.pid, "user")
            self.control.send(b"go")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def network_namespace(self) -> int:
        """A new network namespace that belongs to the containers' user namespace; the caller owns the descriptor."""
        with self._lock:
            self.send({"kind": "namespace"}, [])
            _, fds = self._receive()
        return fds[0]

    def send(self, order: Order, fds: list[int]) -> None:
        """Hand an order on; its outcome is told over the order's own status socket."""
        socket.send_fds(self.control, [json.dumps(order).encode()], fds)

    def close(self) -> None:
        """End the helper; what it made lives on. Idempotent."""
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
