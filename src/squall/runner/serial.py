"""Inputs one after another on the main thread, without an event loop: the quickest way to run a synchronous function."""

import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from squall.model.errors import InputCancellation
from squall.runner import prints
from squall.runner.channel import WAKE, Channel
from squall.runner.context import current_input, here
from squall.runner.failures import failed
from squall.runner.load import Service
from squall.wire.messages import CANCELLED, ITEM, OK, RAISED, Flight, More, Print, Rejoin, Result, Revoke, Revoked, Run, Stop
from squall.wire.parcels import unpack
from squall.wire.values import dump_outcome

#: A result may wait for the next one of the batch only while inputs take less than this: then all of the batch is done sooner than a wake-up costs.
QUICK_S = 0.0002


class SerialServer:
    """Serves one container. A Stop without tokens ends it; one with tokens, announced by the WAKE signal, interrupts the input that runs."""

    def __init__(self, channel: Channel, service: Service) -> None:
        self.channel, self.service = channel, service
        self.token = 0
        self._interruptible = False
        #: A signal came where its message could not be looked at.
        self._woken = False
        #: What runs, and since when; whether the agent has said stop.
        self._current: Run | None = None
        self._started = 0.0
        self._leaving = False

    def serve(self) -> None:
        """Until the agent says stop or is gone for good."""
        signal.signal(WAKE, self._wake)
        channel = self.channel
        channel.report = self.report
        inbox = channel.inbox
        while True:
            if not inbox:
                channel.flush()
            message = channel.receive()
            if type(message) is Run:
                slow = self._run(message)
                if slow or not inbox:
                    channel.flush()
            elif type(message) is Stop and not message.tokens:
                self._leaving = True
                return
            elif type(message) is Stop or type(message) is Revoke:
                self._take_back(message)

    def report(self) -> Rejoin:
        """For an agent that comes after the one that was killed."""
        ended = self.channel.landed()
        flights = [Flight(run.token, run.call, run.index, run.method, None) for run in self.channel.inbox if type(run) is Run]
        current = self._current
        if current is not None and not (ended and ended[-1].token == current.token):
            flights.insert(0, Flight(current.token, current.call, current.index, current.method, time.perf_counter() - self._started))
        leaving = self._leaving or any(type(message) is Stop and not message.tokens for message in self.channel.inbox)
        return Rejoin(tuple(flights), ended, leaving)

    def print(self, stream: int, data: bytes) -> None:
        """Send output of user code."""
        self.channel.send(Print(self.token, stream, data))

    def _run(self, run: Run) -> bool:
        """Run one input and gather its result; whether it was too slow for the result to wait."""
        self.token = run.token
        self.channel.begin(run.token)
        current_input.set((run.call, run.index))
        started = self._started = time.perf_counter()
        self._current = run
        method = self.service.methods[run.method]
        try:
            try:
                args, kwargs = unpack(run.data, here.parcels, "the arguments")
                self._interruptible = True
                if self._woken:
                    self._wake()
                value = self.service.bodies[run.method](*args, **kwargs)
                if method.is_generator:
                    self._drain(run, value)
                    value = None
                self._interruptible = False
                status, data = OK, dump_outcome(value, "the return value")
            finally:
                self._interruptible = False
                prints.flush()
        except InputCancellation:
            status, data = CANCELLED, b""
        except BaseException as error:
            status, data = RAISED, failed(error, run)
        seconds = time.perf_counter() - started
        result = Result(run.token, status, data, seconds)
        self.channel.remember(run, result)
        self.channel.gather(result)
        self._current = None
        self.token = 0
        return seconds > QUICK_S

    def _drain(self, run: Run, items: Iterator[Any]) -> None:
        """Send a generator's items, as many as there is credit for."""
        credit = run.credit
        for item in items:
            data = dump_outcome(item, "a yielded value")
            self.channel.send(Result(run.token, ITEM, data))
            credit -= 1
            while credit <= 0:
                credit += self._await_credit(run.token)

    def _await_credit(self, token: int) -> int:
        # Stops are seen here; the signal handler must not touch socket and inbox at the same time.
        self._interruptible = False
        inbox = self.channel.inbox
        while True:
            for message in inbox:
                if type(message) is More and message.token == token:
                    inbox.remove(message)
                    self._interruptible = True
                    return message.items
                if type(message) is Stop and token in message.tokens:
                    inbox.remove(message)
                    raise InputCancellation
            inbox.extend(self.channel.read())

    def _wake(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """The WAKE signal: a message must be seen while user code runs. Waits for that between inputs, where the loop reads by itself."""
        self._woken = not self._interruptible
        if self._woken or not self.channel.pump_nowait():
            return
        self.channel.flush()
        inbox = self.channel.inbox
        orders = [message for message in inbox if (type(message) is Stop and message.tokens) or type(message) is Revoke]
        for order in orders:
            inbox.remove(order)
            self._take_back(order)
        if any(self.token in order.tokens for order in orders if type(order) is Stop):
            raise InputCancellation

    def _take_back(self, order: Stop | Revoke) -> None:
        """Drop inputs that have not begun, and say which."""
        inbox = self.channel.inbox
        runs = [message for message in inbox if type(message) is Run and message.token in order.tokens]
        for run in runs:
            inbox.remove(run)
        self.channel.send(Revoked(tuple(run.token for run in runs)))


def exit_status(leaving: SystemExit) -> int:
    """The exit status that Python would give for this exception."""
    if leaving.code is None:
        return 0
    return leaving.code & 0xFF if isinstance(leaving.code, int) else 1
