"""`spawn_map`: many inputs of one call, each in the server's store before the next thousand is sent."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from squall.model.errors import rebuild
from squall.sdk.client.client import BROKEN, Client
from squall.wire.messages import Accepted, Call, Fault

#: Sent before their acknowledgements are read: together they are a few commits, and neither side's buffers fill up.
BURST = 500


def spawn_all(client: Client, inputs: Iterator[Any], make_call: Callable[[int, Any], Call]) -> int:
    """Send every input and wait until all are accepted; how many there were. Bursts are sent again to a server that went away and came back.

    Raises:
        ResourceExhaustedError, ...: the server's refusal; what was accepted before stays.
    """
    connection = client.acquire()
    sent = 0
    try:
        while burst := [make_call(sent + place, value) for place, value in enumerate(islice(inputs, BURST))]:
            sent += len(burst)
            refusals: list[Any] = []
            while True:
                try:
                    for call in burst:
                        connection.send(call)
                    refusals = [answer for answer in (connection.receive() for _ in burst) if not isinstance(answer, Accepted)]
                    break
                except BROKEN:
                    connection.close()
                    connection = client.reconnect()
            for answer in refusals:
                if isinstance(answer, Fault):
                    raise rebuild(answer.code, answer.message, answer.details)
    except BaseException:
        connection.close()
        raise
    client.release(connection)
    return sent
