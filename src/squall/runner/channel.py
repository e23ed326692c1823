"""The runner's connection to its agent: readable from a signal handler, writable from any thread, never left with half a frame, no result lost in a crash."""

import mmap
import os
import signal
import socket
import struct
import threading
from collections import deque

from squall.wire.framing import Unpacker, pack
from squall.wire.messages import FromRunner, ToRunner

#: The agent sends this signal when a message waits for a runner that is busy with user code: SIGSTKFLT, which neither kernels nor programs use (signal(7)), and
#: which gVisor passes on, as it does not with real-time signals.
WAKE = 16

#: Size of the scratch that the agent shares: results of quick inputs gather there and leave together. The agent reads what is left when the container dies.
SCRATCH_BYTES = 1 << 16
#: Its head: the attempt that runs, and how many bytes of frames follow.
SCRATCH_HEAD = struct.Struct("<QQ")

READ_BYTES = 1 << 18


class Channel:
    """Frames over one unix socket.

    `inbox` holds messages that were read and not yet handled. `gather` keeps a frame for the next write; `send` writes it and everything gathered.
    """

    def __init__(self, sock: socket.socket, scratch: int | None = None) -> None:
        self.sock = sock
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

    def _write(self, frame: bytes | bytearray) -> None:
        # An exception raised by the signal handler inside sendall would leave half a frame, so the handler only takes note while the lock is held.
        with self._lock:
            if self._gathered:
                frame = self._scratch[SCRATCH_HEAD.size : SCRATCH_HEAD.size + self._gathered] + frame
            self.sock.sendall(frame)
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
        size = self.sock.recv_into(self._buffer)
        if not size:
            raise EOFError("the agent closed the connection")
        return self._unpacker.feed(self._buffer[:size])

    def pump_nowait(self) -> bool:
        """From the signal handler: move what has arrived into the inbox. False: not now, the handler will run again."""
        if self._lock.locked():
            self._wake_missed = True
            return False
        while True:
            try:
                data = self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            if not data:
                return True
            self.inbox.extend(self._unpacker.feed(data))
