"""The runner's connection to its agent: readable from a signal handler, writable from any thread, never left with half a frame, no result lost in a crash."""

import mmap
import os
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

import squall
from squall.wire.framing import Unpacker, pack
from squall.wire.messages import PROTOCOL_VERSION, FromRunner, Hello, Landed, Rejoin, Result, Run, ToRunner

#: The agent sends this signal when a message waits for a runner that is busy with user code: SIGSTKFLT, which neither kernels nor programs use (signal(7)), and
#: which gVisor passes on, as it does not with real-time signals.
WAKE = 16

#: Size of the scratch that the agent shares: results of quick inputs gather there and leave together. The agent reads what is left when the container dies.
SCRATCH_BYTES = 1 << 16
#: Its head: the attempt that runs, and how many bytes of frames follow.
SCRATCH_HEAD = struct.Struct("<QQ")

READ_BYTES = 1 << 18

#: A server that was killed may come back within this; then a container that nobody comes for ends.
GRACE_S = 30.0
#: Outcomes that are kept to be told again, since a server that is killed takes some along: so many bytes of them, each counting for so many more.
RECENT_BYTES, RECENT_EACH = 1 << 18, 256


class Channel:
    """Frames over one unix socket.

    `inbox` holds messages that were read and not yet handled. `gather` keeps a frame for the next write; `send` writes it and everything gathered.

    When the agent goes away and `report` is set, what would fail waits for the next agent, is told by `report` what the runner has, and goes on.
    """

    def __init__(self, sock: socket.socket, scratch: int | None = None) -> None:
        self.sock = sock
        self.path, self.name = "", ""
        #: Says what a new agent has to know. None: the end of the connection is the end.
        self.report: Callable[[], Rejoin] | None = None
        self.recent: deque[tuple[str, int, Result]] = deque()
        self._recent_bytes = 0
        #: While nobody listens nothing that is remembered may be forgotten.
        self.connected = True
        self._scratch = mmap.mmap(-1, SCRATCH_BYTES) if scratch is None else mmap.mmap(scratch, SCRATCH_BYTES)
        self._gathered = 0
        self.token = 0
        self.pid = os.getpid()
        self.inbox: deque[ToRunner] = deque()
        self._unpacker: Unpacker[ToRunner] = Unpacker(ToRunner)
        # One buffer for all reads: an allocation of this size for each costs more than the read. The signal handler only reads where the loop does not.
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._lock = threading.Lock()
        self._wake_missed = False

    def send(self, message: FromRunner) -> None:
        """Write it now. Raises OSError when the agent is gone."""
        self._write(pack(message))

    def begin(self, token: int) -> None:
        """Note which attempt runs now, for whoever looks after a crash."""
        self.token = token
        SCRATCH_HEAD.pack_into(self._scratch, 0, token, self._gathered)

    def gather(self, message: FromRunner) -> None:
        """Write it with the next `send` or `flush`."""
        frame = pack(message)
        start = SCRATCH_HEAD.size + self._gathered
        if start + len(frame) > SCRATCH_BYTES:
            self._write(frame)
            return
        self._scratch[start : start + len(frame)] = bytes(frame)
        self._gathered += len(frame)
        SCRATCH_HEAD.pack_into(self._scratch, 0, self.token, self._gathered)

    def flush(self) -> None:
        """Write what was gathered."""
        if self._gathered:
            self._write(b"")

    def remember(self, run: Run, result: Result) -> None:
        """Keep an outcome for an agent that comes later; before it is written."""
        self.recent.append((run.call, run.index, result))
        self._recent_bytes += RECENT_EACH + len(result.data)
        while self._recent_bytes > RECENT_BYTES and self.connected:
            self._recent_bytes -= RECENT_EACH + len(self.recent.popleft()[2].data)

    def landed(self) -> tuple[Landed, ...]:
        """What is remembered."""
        return tuple(Landed(result.token, call, index, result.status, result.data, result.seconds) for call, index, result in self.recent)

    def _write(self, frame: bytes | bytearray) -> None:
        # An exception raised by the signal handler inside sendall would leave half a frame, so the handler only takes note while the lock is held.
        with self._lock:
            while True:
                try:
                    if self._gathered:
                        self.sock.sendall(self._scratch[SCRATCH_HEAD.size : SCRATCH_HEAD.size + self._gathered] + frame)
                    else:
                        self.sock.sendall(frame)
                    break
                except OSError:
                    self._rejoin()  # which tells what was gathered too
            if self._gathered:
                self._gathered = 0
                SCRATCH_HEAD.pack_into(self._scratch, 0, self.token, 0)
        if self._wake_missed:
            self._wake_missed = False
            signal.pthread_kill(threading.main_thread().ident or 0, WAKE)

    def take(self, data: bytes) -> None:
        """Bytes that were read from the socket elsewhere."""
        self.inbox.extend(self._unpacker.feed(data))

    def receive(self) -> ToRunner:
        """The next message; waits for it. Raises EOFError when the agent is gone."""
        while not self.inbox:
            self.inbox.extend(self.read())
        return self.inbox.popleft()

    def read(self) -> list[ToRunner]:
        """Wait for bytes; the messages that they complete."""
        try:
            size = self.sock.recv_into(self._buffer)
        except ConnectionResetError:
            size = 0
        if not size:
            if self.report is None:
                raise EOFError("the agent closed the connection")
            with self._lock:
                self._rejoin()
            return []
        return self._unpacker.feed(self._buffer[:size])

    def _rejoin(self) -> None:
        """With the lock held: wait for an agent, and make this its connection. Ends the process when none comes."""
        if self.report is None:
            raise ConnectionError("the agent is gone")
        deadline, pause = time.monotonic() + GRACE_S, 0.02
        while not self._try_rejoin():
            if time.monotonic() > deadline:
                os._exit(0)  # nobody waits for anything here
            time.sleep(pause)
            pause = min(0.25, 2 * pause)

    def _try_rejoin(self) -> bool:
        made = connect(self.path, self.name)
        if made is None or self.report is None:
            return False
        self.become(*made)
        try:
            self.sock.sendall(pack(self.report()))
        except OSError:  # that agent was killed too
            return False
        return True

    def become(self, sock: socket.socket, scratch: int | None) -> None:
        """Go on over a connection that `connect` made."""
        self.sock.close()
        self.sock = sock
        self._unpacker = Unpacker(ToRunner)
        self._scratch = mmap.mmap(-1, SCRATCH_BYTES) if scratch is None else mmap.mmap(scratch, SCRATCH_BYTES)
        if scratch is not None:
            os.close(scratch)
        self._gathered = 0
        SCRATCH_HEAD.pack_into(self._scratch, 0, self.token, 0)

    def pump_nowait(self) -> bool:
        """From the signal handler: move what has arrived into the inbox. False: not now, the handler will run again."""
        if not self._lock.acquire(blocking=False):
            self._wake_missed = True
            return False
        try:
            return self._pump()
        finally:
            self._lock.release()

    def _pump(self) -> bool:
        while True:
            try:
                data = self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                data = b""
            if not data:
                if not self._try_rejoin():
                    return True
                continue
            self.inbox.extend(self._unpacker.feed(data))


def connect(path: str, name: str) -> tuple[socket.socket, int | None] | None:
    """A connection to the agent, its greeting read, with the scratch that it shares; None when no agent listens."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(_ANSWER_S)
        sock.connect(path)
        sock.sendall(pack(Hello(PROTOCOL_VERSION, "runner", name, squall.__version__)))
        head, fds, _, _ = socket.recv_fds(sock, 4, 1)
        if len(head) < 4 or not sock.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL):
            raise ConnectionResetError("the agent wants no connection")
    except OSError:
        sock.close()
        return None
    sock.settimeout(None)
    return sock, (fds[0] if fds else None)


#: An agent that listens answers in milliseconds; one that starts is given this.
_ANSWER_S = 5.0
