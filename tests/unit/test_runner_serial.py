"""The runner's loop for one input at a time, on a socket pair and in this very process."""

import os
import pickle
import signal
import socket
import time

from squall.model.specs import MethodSpec
from squall.runner.channel import WAKE, Channel
from squall.runner.load import Service
from squall.runner.serial import SerialServer
from squall.wire.framing import Unpacker, pack
from squall.wire.messages import CANCELLED, FromRunner, Result, Run, Stop

_agent: socket.socket


class _StopsWhileItIsUnpacked:
    """An argument: as it is unpacked, just before the user's code runs, the agent cancels the input and sends its signal."""

    def __reduce__(self) -> object:
        return _cancel, ()


def _cancel() -> None:
    _agent.sendall(pack(Stop((7,))))
    os.kill(os.getpid(), WAKE)


def _spin(_: object) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        pass


def test_an_input_that_is_cancelled_just_before_its_code_runs_is_cancelled() -> None:
    global _agent
    _agent, theirs = socket.socketpair()
    before = signal.getsignal(WAKE)
    try:
        data = pickle.dumps(((_StopsWhileItIsUnpacked(),), {}))
        _agent.sendall(pack(Run(7, "fc-1", 0, data)) + pack(Stop(())))
        began = time.monotonic()
        channel = Channel(theirs)
        SerialServer(channel, Service({"": _spin}, {"": MethodSpec()})).serve()
        channel.flush()
        assert time.monotonic() - began < 10
        theirs.close()
        unpacker: Unpacker[FromRunner] = Unpacker(FromRunner)
        said = unpacker.feed(_agent.recv(1 << 16))
        assert [(message.token, message.status) for message in said if isinstance(message, Result)] == [(7, CANCELLED)]
    finally:
        signal.signal(WAKE, before)
        _agent.close()
        theirs.close()
