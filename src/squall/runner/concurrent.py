"""Inputs on an event loop: async functions as tasks, synchronous ones in threads, as many at a time as the function allows."""

import asyncio
import contextlib
import contextvars
import ctypes
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, cast

from squall.model.errors import InputCancellation
from squall.model.specs import Batching
from squall.runner import batches, prints
from squall.runner.channel import GRACE_S, WAKE, Channel, connect
from squall.runner.context import current_input, here
from squall.runner.failures import failed, pack_exception
from squall.runner.load import Service
from squall.wire.messages import (
    CANCELLED,
    ITEM,
    OK,
    RAISED,
    Flight,
    More,
    OpenWeb,
    Print,
    Rejoin,
    Result,
    Revoke,
    Revoked,
    Run,
    Stop,
    ToRunner,
)
from squall.wire.parcels import unpack
from squall.wire.stream import Peer, Turn
from squall.wire.values import dump_outcome

if TYPE_CHECKING:
    from squall.runner.web import WebServer

_END = object()


class _Work:
    """One input being run, or a batch of them. `thread` is set while synchronous user code of it runs there."""

    def __init__(self, run: Run, others: tuple[Run, ...] = ()) -> None:
        self.run = run
        #: Of a batch: the inputs that still want its result.
        self.members = [run, *others]
        self.credit = run.credit
        self.more = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.thread: int | None = None
        self.cancelled = False
        self.started = time.perf_counter()


class _Link(Peer[ToRunner]):
    union = ToRunner

    def __init__(self, turn: Turn, server: "ConcurrentServer") -> None:
        super().__init__(turn)
        self.server = server

    def received(self, message: ToRunner) -> None:
        self.server.handle(message)

    def lost(self, error: BaseException | None) -> None:
        self.server.disconnected()


class ConcurrentServer:
    """Serves one container with at most `limit` inputs at a time; more wait their turn here."""

    def __init__(self, channel: Channel, service: Service, limit: int) -> None:
        self.channel, self.service, self.limit = channel, service, limit
        #: By the token of each input that has begun; those of a batch share one.
        self.works: dict[int, _Work] = {}
        self._begun = 0
        self.waiting: deque[Run] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.link: _Link | None = None
        self.stopping = asyncio.Event()
        self._rejoining: asyncio.Task[None] | None = None
        #: Printed while no agent was there.
        self._unsaid: deque[Print] = deque(maxlen=10_000)
        #: Serves web requests, which come by connections of their own.
        self.web: WebServer | None = None
        self._collectors = {name: Collector(self, method.batching) for name, method in service.methods.items() if method.batching is not None}
        self._thread = threading.get_ident()
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="squall-input")

    async def serve(self) -> None:
        """Until the agent says stop or is gone for good; what runs then is finished first."""
        self.loop = asyncio.get_running_loop()
        signal.signal(WAKE, lambda *_: None)  # the loop reads by itself
        await self._connect()
        await self.stopping.wait()
        if self.web is not None:
            await self.web.stop()
        tasks = [work.task for work in self.works.values() if work.task is not None]
        if tasks:
            await asyncio.wait(tasks)
        if self._rejoining is not None:
            await self._rejoining
        if self.link is not None:
            await self.link.drain()
        self.link = None  # exit hooks print without a loop
        self.channel.sock.setblocking(True)

    async def _connect(self) -> None:
        """Read and write the channel's socket in the loop."""
        assert self.loop is not None
        turn = Turn(self.loop)
        sock = socket.socket(fileno=os.dup(self.channel.sock.fileno()))
        sock.setblocking(False)
        _, self.link = await self.loop.create_connection(lambda: _Link(turn, self), sock=sock)
        for message in self.channel.inbox:
            self.handle(message)
        self.channel.inbox.clear()

    def disconnected(self) -> None:
        """The agent is gone. What runs goes on, and another agent is looked for."""
        assert self.loop is not None
        if self.link is not None:
            self.channel.connected = False
            self._rejoining = self.loop.create_task(self._rejoin(), name="look for an agent")

    async def _rejoin(self) -> None:
        assert self.loop is not None
        deadline, pause = self.loop.time() + GRACE_S, 0.02
        while True:
            made = await self.loop.run_in_executor(None, connect, self.channel.path, self.channel.name)
            if made is not None:
                self.channel.become(*made)
                with contextlib.suppress(OSError):  # that agent was killed too
                    await self._connect()
                    break
            if self.loop.time() > deadline:
                os._exit(0)  # nobody waits for anything here
            await asyncio.sleep(pause)
            pause = min(0.25, 2 * pause)
        assert self.link is not None
        self.link.send(self.report())
        self.channel.connected = True
        self._rejoining = None
        while self._unsaid:
            self.link.send(self._unsaid.popleft())

    def report(self) -> Rejoin:
        """For an agent that comes after the one that was killed."""
        now = time.perf_counter()
        works = {id(work): work for work in self.works.values()}.values()
        flights = [Flight(run.token, run.call, run.index, run.method, now - work.started) for work in works for run in work.members]
        waiting = [*self.waiting, *(run for collector in self._collectors.values() for run in collector.waiting)]
        flights += [Flight(run.token, run.call, run.index, run.method, None) for run in waiting]
        return Rejoin(tuple(flights), self.channel.landed(), self.stopping.is_set())

    def handle(self, message: ToRunner) -> None:
        if type(message) is Run:
            if (collector := self._collectors.get(message.method)) is not None:
                collector.add(message)
            elif self.room:
                self._begin(message)
            else:
                self.waiting.append(message)
        elif type(message) is More:
            if (work := self.works.get(message.token)) is not None:
                work.credit += message.items
                work.more.set()
        elif type(message) is OpenWeb:
            if self.web is not None:
                self.web.open(message.count)
        elif type(message) is Stop:
            if not message.tokens:
                self.stopping.set()
            for token in message.tokens:
                self._cancel(token)

        elif type(message) is Revoke:
            taken = [run.token for run in self.waiting if run.token in message.tokens]
            self.waiting = deque(run for run in self.waiting if run.token not in taken)
            for collector in self._collectors.values():
                taken += collector.take_back(message.tokens)
            self._send(Revoked(tuple(taken)))

    @property
    def room(self) -> bool:
        """Whether one more input, or batch, may begin."""
        return self._begun < self.limit

    def print(self, stream: int, data: bytes) -> None:
        """Send output of user code; from any thread."""
        message = Print(prints.owner.get(), stream, data)
        if self.link is None or self.loop is None:
            self.channel.send(message)
        elif threading.get_ident() == self._thread:
            self._say(message)
        else:
            self.loop.call_soon_threadsafe(self._say, message)

    def _say(self, message: Print) -> None:
        if self.link is None or self.link.closed:
            self._unsaid.append(message)
        else:
            self.link.send(message)

    def _begin(self, run: Run) -> None:
        assert self.loop is not None
        self._begun += 1
        work = self.works[run.token] = _Work(run)
        work.task = self.loop.create_task(self._run(work), name=f"input {run.call} {run.index}")

    def begin_batch(self, runs: list[Run]) -> None:
        """Run them as one."""
        assert self.loop is not None
        self._begun += 1
        work = _Work(runs[0], tuple(runs[1:]))
        self.works.update((run.token, work) for run in runs)
        work.task = self.loop.create_task(self._run_batch(work), name=f"batch of {len(runs)} from input {runs[0].call} {runs[0].index}")

    def _ended(self) -> None:
        """One input or batch is done: another may begin."""
        self._begun -= 1
        if self.waiting and self.room:
            self._begin(self.waiting.popleft())
        for collector in self._collectors.values():
            collector.look()

    def _cancel(self, token: int) -> None:
        work = self.works.get(token)
        if work is None:
            self.handle(Revoke((token,)))
            return
        if len(work.members) > 1:  # the rest of the batch goes on; this input's result is dropped
            [run] = [run for run in work.members if run.token == token]
            work.members.remove(run)
            del self.works[token]
            self._land(run, Result(token, CANCELLED, b""))
            return
        work.cancelled = True
        if work.thread is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(work.thread), ctypes.py_object(InputCancellation))
        elif work.task is not None:
            work.task.cancel()

    def _land(self, run: Run, result: Result) -> None:
        self.channel.remember(run, result)
        self._send(result)

    def _send(self, message: Result | Revoked) -> None:
        assert self.link is not None
        self.link.send(message)

    async def _run(self, work: _Work) -> None:
        run = work.run
        prints.owner.set(run.token)
        current_input.set((run.call, run.index))
        started = time.perf_counter()
        method = self.service.methods[run.method]
        body = self.service.bodies[run.method]
        try:
            args, kwargs = unpack(run.data, here.parcels, "the arguments")
            if method.is_generator:
                await self._drain(work, body, method.is_async, args, kwargs)
                value = None
            elif method.is_async:
                value = await body(*args, **kwargs)
            else:
                value = await self._in_thread(work, body, *args, **kwargs)
            status, data = OK, dump_outcome(value, "the return value")
        except (asyncio.CancelledError, InputCancellation) as error:
            status, data = (CANCELLED, b"") if work.cancelled else (RAISED, pack_exception(error))
        except BaseException as error:
            status, data = RAISED, failed(error, run)
        prints.flush()
        del self.works[run.token]
        self._land(run, Result(run.token, status, data, time.perf_counter() - started))
        self._ended()

    async def _run_batch(self, work: _Work) -> None:
        run, runs = work.run, tuple(work.members)
        prints.owner.set(run.token)
        current_input.set((run.call, run.index))
        started = time.perf_counter()
        method, body = self.service.methods[run.method], self.service.bodies[run.method]
        name = run.method or getattr(body, "__name__", "the function")
        refused: dict[int, bytes] = {}
        outcome: tuple[int, bytes] | None = None
        values: list[Any] = []
        good: list[Run] = []
        try:
            columns: dict[str, list[Any]] = {}
            for one in runs:
                try:
                    row = batches.row(body, name, *unpack(one.data, here.parcels, "the arguments"))
                except Exception as error:  # wrong arguments of one caller are no fault of the others
                    refused[one.token] = pack_exception(error)
                    continue
                good.append(one)
                for key, value in row.items():
                    columns.setdefault(key, []).append(value)
            if good:
                made = (await body(**columns)) if method.is_async else (await self._in_thread(work, body, **columns))
                values = batches.checked(made, len(good), name)
        except (asyncio.CancelledError, InputCancellation) as error:
            outcome = (CANCELLED, b"") if work.cancelled else (RAISED, pack_exception(error))
        except BaseException as error:
            outcome = RAISED, failed(error, run)
        prints.flush()
        seconds = time.perf_counter() - started
        results = dict(zip((one.token for one in good), values, strict=False))
        for one in work.members:
            del self.works[one.token]
            if one.token in refused:
                status, data = RAISED, refused[one.token]
            elif outcome is not None:
                status, data = outcome
            else:
                status, data = _packed(results[one.token])
            self._land(one, Result(one.token, status, data, seconds / len(runs)))
        self._ended()

    async def _in_thread(self, work: _Work, body: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        assert self.loop is not None
        context = contextvars.copy_context()

        def call() -> Any:
            work.thread = threading.get_ident()
            try:
                return context.run(body, *args, **kwargs)
            except StopIteration:  # can't pass through a future
                return _END
            finally:
                work.thread = None

        return await self.loop.run_in_executor(self._pool, call)

    async def _drain(self, work: _Work, body: Callable[..., Any], is_async: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        made = body(*args, **kwargs)
        if is_async:
            items = cast("AsyncIterator[Any]", made)
            async for item in items:
                await self._yield(work, item)
            return
        iterator = cast("Iterator[Any]", made)
        while (item := await self._in_thread(work, iterator.__next__)) is not _END:
            await self._yield(work, item)

    async def _yield(self, work: _Work, item: Any) -> None:
        self._send(Result(work.run.token, ITEM, dump_outcome(item, "a yielded value")))
        work.credit -= 1
        while work.credit <= 0:
            work.more.clear()
            await work.more.wait()


class Room(Protocol):
    """Where a collector's batches begin: `room` says whether one may."""

    loop: asyncio.AbstractEventLoop | None

    @property
    def room(self) -> bool: ...

    def begin_batch(self, runs: list[Run]) -> None: ...


class Collector:
    """Inputs of one batched method that have not begun. A batch begins when it is full or its first input has waited long enough, and there is room."""

    def __init__(self, server: Room, batching: Batching) -> None:
        self._server, self._batching = server, batching
        #: With the time at which each came.
        self._waiting: deque[tuple[Run, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> list[Run]:
        return [run for run, _ in self._waiting]

    def add(self, run: Run) -> None:
        assert self._server.loop is not None
        self._waiting.append((run, self._server.loop.time()))
        self.look()

    def look(self) -> None:
        """Begin what may begin."""
        loop, size, waiting = self._server.loop, self._batching.max_batch_size, self._waiting
        assert loop is not None
        while waiting and self._server.room and (len(waiting) >= size or waiting[0][1] + self._batching.wait_ms / 1000 <= loop.time()):
            self._server.begin_batch([waiting.popleft()[0] for _ in range(min(len(waiting), size))])
        due = waiting[0][1] + self._batching.wait_ms / 1000 if waiting and self._server.room else None
        if self._timer is not None and self._timer.when() != due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due is not None:
            self._timer = loop.call_at(due, self._waited)

    def take_back(self, tokens: tuple[int, ...]) -> list[int]:
        """Drop inputs that have not begun; which they were."""
        taken = [run.token for run, _ in self._waiting if run.token in tokens]
        self._waiting = deque(one for one in self._waiting if one[0].token not in taken)
        self.look()
        return taken

    def _waited(self) -> None:
        self._timer = None
        self.look()


def _packed(value: Any) -> tuple[int, bytes]:
    try:
        return OK, dump_outcome(value, "the return value")
    except Exception as error:  # pickling runs user code
        return RAISED, pack_exception(error)
