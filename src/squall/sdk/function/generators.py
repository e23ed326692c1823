"""The items of a generator that runs in a container, as they come: credit is granted as they are taken, and who takes no more ends it."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from squall.model.errors import GeneratorInterruptedError
from squall.sdk.client.client import BROKEN, Client
from squall.sdk.function.results import value_of
from squall.sdk.function.single_call import checked
from squall.sdk.output.live_output import catch_up
from squall.wire.messages import ITEM, Call, Cancel, Credit

if TYPE_CHECKING:
    import asyncio

    from squall.sdk.function.async_calls import LoopConnection

#: Items that may be under way; half of it is granted anew each time the caller has taken as many.
GENERATOR_CREDIT = 64


def stream_blocking(client: Client, call: Call, function: str) -> Iterator[Any]:
    """Send the call at the first `next`; yield what it yields, raise what it raises.

    Raises:
        GeneratorInterruptedError: the container or the server was lost; what was yielded can't be had again.
    """
    connection = client.acquire()
    taken = 0
    finished = False
    try:
        connection.send(call)
        while True:
            output = checked(connection.receive())
            if output.status != ITEM:
                finished = True
                value_of(output, function)
                return
            catch_up()
            taken += 1
            yield value_of(output, function)
            if taken % (GENERATOR_CREDIT // 2) == 0:
                connection.send(Credit(call.call, 0, GENERATOR_CREDIT // 2))
    except BROKEN as error:
        raise _server_lost(function, taken, error) from error
    finally:
        if finished:
            client.release(connection)
        else:
            with contextlib.suppress(OSError):
                connection.send(Cancel(call.call))
            connection.close()


async def stream_aio(begin: "Callable[[], tuple[LoopConnection, int, asyncio.Queue[Any], Call]]", function: str) -> AsyncIterator[Any]:
    """The same on an event loop. `begin` runs at the first `anext`, in the loop, and gives the connection, the request's number and queue, and the call."""
    link, request, queue, call = begin()
    taken = 0
    finished = False
    try:
        await link.send(call, again=False)
        while True:
            found = await queue.get()
            if isinstance(found, BaseException):
                raise _server_lost(function, taken, found) from found
            output = checked(found)
            if output.status != ITEM:
                finished = True
                value_of(output, function)
                return
            taken += 1
            yield value_of(output, function)
            if taken % (GENERATOR_CREDIT // 2) == 0:
                link.tell(Credit(call.call, 0, GENERATOR_CREDIT // 2))
    finally:
        link.end(request)
        if not finished:
            link.tell(Cancel(call.call))


def _server_lost(function: str, taken: int, error: BaseException) -> GeneratorInterruptedError:
    message = f"the server went away after {function} had given {taken} items: {error}. A generator isn't resumed; call it again for the rest"
    return GeneratorInterruptedError(message, items_delivered=taken)
