"""Calls from an event loop: one connection, many calls at a time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any

from squall.model.errors import ConnectionError, InvalidError
from squall.sdk.client.client import Client
from squall.sdk.function.map_stream import LOOK_AHEAD, refused, result_value
from squall.wire.messages import Accepted, Await, Call, Cancel, Credit, NotReady, Output, ToClient
from squall.wire.stream import Peer, Turn


class _Link(Peer[ToClient]):
    union = ToClient

    def __init__(self, turn: Turn, owner: "LoopConnection") -> None:
        super().__init__(turn)
        self.owner = owner
        self.greeted: asyncio.Future[ToClient] = turn.loop.create_future()

    def received(self, message: ToClient) -> None:
        if not self.greeted.done():
            self.greeted.set_result(message)
            return
        request = getattr(message, "request", 0)
        queue = self.owner.queues.get(request)
        if queue is not None:
            queue.put_nowait(message)

    def lost(self, error: BaseException | None) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError("the server closed the connection"))
        self.owner.lost()


class LoopConnection:
    """One event loop's calls. After the server went away, it connects again and sends what is outstanding again."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.loop = asyncio.get_running_loop()
        self.turn = Turn(self.loop)
        self.link: _Link | None = None
        self.queues: dict[int, asyncio.Queue[Any]] = {}
        self.outstanding: dict[int, Call | Await] = {}
        #: Requests that are not sent again when the connection breaks: they learn of it.
        self.asked: set[int] = set()
        self._next = 0
        self._keeper: AsyncGenerator[None, None] | None = None
        self._connecting: asyncio.Task[_Link] | None = None

    @property
    def closed(self) -> bool:
        return self.loop.is_closed()

    async def ensure_link(self) -> _Link:
        """The connection, made if there is none. Raises ConnectionError."""
        if self.link is not None and not self.link.closed:
            return self.link
        if self._connecting is None or self._connecting.done():
            self._connecting = self.loop.create_task(self._connect(), name="squall connect")
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Link:
        blocking = await asyncio.to_thread(self.client.reconnect if self.link is not None else self.client.connect)
        sock = blocking.sock
        sock.setblocking(False)
        _, link = await self.loop.create_connection(lambda: _Link(self.turn, self), sock=sock)
        link.greeted.set_result(None)  # type: ignore[arg-type]  # `connect` has greeted
        self.link = link
        if self._keeper is None:
            self._keeper = self._keep()
            await anext(self._keeper)
        return link

    async def _keep(self) -> AsyncGenerator[None, None]:
        """`asyncio.run` ends asynchronous generators before it closes the loop: the moment to close the connection, which nothing else tells us."""
        try:
            yield
        finally:
            if self.link is not None:
                self.link.close()
                await asyncio.sleep(0)

    def lost(self) -> None:
        """The connection broke: what is outstanding is sent again on a new one."""
        for request in self.asked & self.queues.keys():
            self.queues[request].put_nowait(ConnectionError("the server went away"))
        if self.outstanding and not self.loop.is_closed():
            task = self.loop.create_task(self._resend(), name="squall reconnect")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _resend(self) -> None:
        try:
            link = await self.ensure_link()
        except Exception as error:
            for queue in self.queues.values():
                queue.put_nowait(error)
            return
        for message in list(self.outstanding.values()):
            link.send(message)

    def begin(self) -> tuple[int, "asyncio.Queue[Any]"]:
        """A new request number and the queue of its answers; `end` it."""
        self._next += 1
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.queues[self._next] = queue
        return self._next, queue

    def end(self, request: int) -> None:
        self.queues.pop(request, None)
        self.outstanding.pop(request, None)
        self.asked.discard(request)

    async def send(self, message: Call | Await, *, again: bool = True) -> None:
        """Send a message whose answers go to its request's queue; sent again after a reconnect until `end`. Not `again`: then that gets a ConnectionError."""
        link = await self.ensure_link()
        if again:
            self.outstanding[message.request] = message
        else:
            self.asked.add(message.request)
        link.send(message)
        if len(self.outstanding) % 64 == 0:
            await link.drain()

    def tell(self, message: Cancel | Credit) -> None:
        """Send a message that has no answer, if there is a connection."""
        if self.link is not None:
            self.link.send(message)

    async def answer(self, message: Call | Await, queue: "asyncio.Queue[Any]") -> Output | Accepted | NotReady:
        """Send and wait for the one answer. A cancelled wait cancels the input of a Call."""
        try:
            await self.send(message)
            found = await queue.get()
        except asyncio.CancelledError:
            if isinstance(message, Call):
                self.tell(Cancel(message.call))
            raise
        finally:
            self.end(message.request)
        if isinstance(found, BaseException):
            raise found
        return found  # type: ignore[no-any-return]


async def map_aio(
    link: LoopConnection,
    function: str,
    inputs: AsyncIterator[Any],
    make_call: Callable[[int, int, Any], Call],
    call_id: str,
    *,
    ordered: bool,
    return_exceptions: bool,
) -> AsyncIterator[Any]:
    """`map_blocking` on an event loop. `make_call` takes the request number, the index and the value."""
    results: asyncio.Queue[Any] = asyncio.Queue()
    room = asyncio.Semaphore(LOOK_AHEAD)
    requests: dict[int, int] = {}
    total: int | None = None

    async def feed() -> None:
        nonlocal total
        index = 0
        try:
            async for value in inputs:
                await room.acquire()
                request, _ = link.begin()
                link.queues[request] = results
                requests[index] = request
                await link.send(make_call(request, index, value))
                index += 1
            total = index
            results.put_nowait(None)
        except Exception as error:
            results.put_nowait(error)

    feeder = asyncio.create_task(feed(), name="squall map inputs")
    held: dict[int, Output] = {}
    following = done = 0
    try:
        while total is None or done < total:
            message = await results.get()
            if isinstance(message, BaseException):
                raise message
            if not isinstance(message, Output):
                refused(message)
                continue
            request = requests.pop(message.index, None)
            if request is None:
                continue
            link.end(request)
            done += 1
            if not ordered:
                room.release()
                yield result_value(message, function, return_exceptions)
                continue
            held[message.index] = message
            while (output := held.pop(following, None)) is not None:
                following += 1
                room.release()
                yield result_value(output, function, return_exceptions)
    finally:
        feeder.cancel()
        if requests:
            link.tell(Cancel(call_id))
        for request in requests.values():
            link.end(request)


async def iterate(source: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    """Any iterable as an asynchronous one. A synchronous one is read in a thread, since it may block."""
    if isinstance(source, AsyncIterable):
        async for value in source:
            yield value
        return
    if isinstance(source, (list, tuple, range, dict, set, str)):
        for value in source:
            yield value
        return
    iterator = iter(source)
    end = object()
    while (value := await asyncio.to_thread(next, iterator, end)) is not end:
        yield value


def zipped(name: str, iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...]) -> AsyncIterator[Any]:
    """`zip` over iterables of either kind, for the method `name`."""
    if not iterables:
        raise InvalidError(f"{name}() needs at least one iterable")
    return _zipped([iterate(iterable) for iterable in iterables])


async def _zipped(iterators: list[AsyncIterator[Any]]) -> AsyncIterator[Any]:
    while True:
        values = []
        for iterator in iterators:
            try:
                values.append(await anext(iterator))
            except StopAsyncIteration:
                return
        yield tuple(values)
