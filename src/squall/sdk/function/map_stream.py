"""`map`: many inputs of one call over one connection, with bounded look-ahead, surviving a server that restarts."""

import contextlib
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from squall.model.errors import InvalidError, rebuild
from squall.sdk.client.client import BROKEN, Client, Connection
from squall.sdk.function.results import exception_of, value_of
from squall.sdk.output.live_output import catch_up
from squall.wire.messages import OK, Call, Cancel, Fault, Output

#: Inputs that may be sent and not yet taken by the caller (Modal's limit for `map`): an endless iterator is read only this far ahead.
LOOK_AHEAD = 1000

#: Code of the answer to a Cancel of nothing: it wakes the reader of a connection.
ECHO = "echo"

MakeCall = Callable[[int, Any], Call]


class Feeder:
    """A thread that reads the caller's iterator and sends inputs, never more than LOOK_AHEAD ahead of what was taken."""

    def __init__(self, inputs: Iterator[Any], make_call: MakeCall) -> None:
        self._inputs, self._make_call = inputs, make_call
        self._change = threading.Condition()
        self._taken = 0
        self._stopped = False
        self.connection: Connection | None = None
        self.outstanding: dict[int, Call] = {}
        self.sent = 0
        self.total: int | None = None
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._feed, name="squall map inputs", daemon=True)

    def start(self, connection: Connection) -> None:
        self.connection = connection
        self._thread.start()

    def taken(self) -> None:
        """The caller took one result."""
        self._taken += 1
        if self.sent - self._taken == LOOK_AHEAD - 1:
            with self._change:
                self._change.notify()

    def stop(self) -> None:
        """Send nothing more. Does not wait: the caller's iterator may block for ever."""
        self._stopped = True
        with self._change:
            self._change.notify()

    def resend(self, connection: Connection) -> None:
        """On a new connection, send everything that has no result yet again."""
        with self._change:
            self.connection = connection
            with contextlib.suppress(OSError):
                for call in list(self.outstanding.values()):
                    connection.send(call)
                if self.total is not None:
                    connection.send(Cancel(""))

    def _feed(self) -> None:
        index = 0
        try:
            for value in self._inputs:
                if index - self._taken >= LOOK_AHEAD:
                    with self._change:
                        self._change.wait_for(lambda: self._stopped or self.sent - self._taken < LOOK_AHEAD)
                if self._stopped:
                    return
                call = self._make_call(index, value)
                self.outstanding[index] = call
                index += 1
                self.sent = index
                self._send(call)
        except BaseException as error:  # the caller's iterator, or an argument that can't be pickled
            self.failure = error
        finally:
            self.total = index
            self._wake_reader()

    def _send(self, call: Call) -> None:
        connection = self.connection
        assert connection is not None
        with contextlib.suppress(OSError):  # the reader sees the broken connection too, reconnects, and sends this again
            connection.send(call)

    def _wake_reader(self) -> None:
        """The reader may wait for results that will not come: an echo wakes it."""
        connection = self.connection
        if connection is not None and not self._stopped:
            with contextlib.suppress(OSError):
                connection.send(Cancel(""))


def map_blocking(
    client: Client, function: str, call_id: str, inputs: Iterator[Any], make_call: MakeCall, *, ordered: bool, return_exceptions: bool
) -> Iterator[Any]:
    """The results, in the order of the inputs or as they come."""
    feeder = Feeder(inputs, make_call)
    connection = client.acquire()
    feeder.start(connection)
    held: dict[int, Output] = {}
    following = 0
    done = 0
    woken = again = False
    try:
        while not woken or feeder.total is None or done < feeder.total:
            try:
                message = connection.receive()
            except BROKEN:
                connection.close()
                connection = client.reconnect()
                again = True
                feeder.resend(connection)
                continue
            if feeder.failure is not None:
                raise feeder.failure
            if not isinstance(message, Output):
                woken = refused(message) or woken
                continue
            if feeder.outstanding.pop(message.index, None) is None:
                continue  # sent again after a reconnect, and answered twice
            done += 1
            catch_up()
            if not ordered:
                feeder.taken()
                yield result_value(message, function, return_exceptions)
                continue
            held[message.index] = message
            while (output := held.pop(following, None)) is not None:
                following += 1
                feeder.taken()
                yield result_value(output, function, return_exceptions)
    except BaseException:
        feeder.stop()
        with contextlib.suppress(OSError):
            connection.send(Cancel(call_id))
        connection.close()
        raise
    if again:  # both the feeder and the resending may have asked for an echo, and the second one is still to come
        connection.close()
    else:
        client.release(connection)


def refused(message: Any) -> bool:
    """Raise a refusal; True for the echo that a Feeder asked for."""
    if isinstance(message, Fault):
        if message.code == ECHO:
            return True
        raise rebuild(message.code, message.message, message.details)
    return False


def result_value(output: Output, function: str, return_exceptions: bool) -> Any:
    if output.status == OK or not return_exceptions:
        return value_of(output, function)
    return exception_of(output, function)


def zipped(name: str, iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...]) -> Iterator[Any]:
    if not iterables:
        raise InvalidError(f"{name}() needs at least one iterable")
    return zip(*(blocking(iterable) for iterable in iterables), strict=False)


def blocking(iterable: Iterable[Any] | AsyncIterable[Any]) -> Iterator[Any]:
    """Any iterable as a blocking one. An asynchronous one runs on an event loop of its own, in the thread that reads it."""
    if not isinstance(iterable, AsyncIterable):
        return iter(iterable)

    def read(source: AsyncIterable[Any]) -> Iterator[Any]:
        from asyncio import Runner

        iterator = source.__aiter__()
        with Runner() as runner:
            while True:
                try:
                    yield runner.run(_anext(iterator))
                except StopAsyncIteration:
                    return

    return read(iterable)


async def _anext(iterator: AsyncIterator[Any]) -> Any:
    return await iterator.__anext__()
