"""Simulated programs: they start an app, call its functions in every way, lose their connection, resend, cancel, vanish, and expect what was promised."""

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from squall.model.ids import APP, CALL, CLIENT, make_id
from squall.model.specs import AppSpec, FunctionSpec
from squall.testing.containers import Task
from squall.testing.ledger import Key, Ledger, Violation
from squall.testing.links import End
from squall.testing.virtual import Process, VirtualLoop
from squall.wire.messages import (
    DURABLE,
    ITEM,
    LIVE,
    PROTOCOL_VERSION,
    Accepted,
    AppStarted,
    Await,
    Call,
    Cancel,
    Credit,
    Fault,
    Hello,
    NotReady,
    Output,
    Reply,
    Request,
    StartApp,
    StopApp,
    Welcome,
)

#: As in `sdk.client`: how long a client tries to reach a server that went away.
RECONNECT_S = 60.0
#: Number of the request that starts the app.
_START = 1
#: Credit of a generator, and when more is given.
CREDIT, CREDIT_LOW = 8, 4


class Plan(msgspec.Struct):
    """What a client does. Times are seconds after its start."""

    spec: AppSpec
    tasks: list[tuple[float, int, str, list[Task]]]  #: when, which function, how (``remote``, ``map``, ``spawn``), with what
    detach: bool = False
    cancel_chance: float = 0.0
    vanish_at: float | None = None


class SimulatedClient:
    """One program. `dial` gives it a connection, or None while no server listens."""

    def __init__(self, loop: VirtualLoop, rng: Random, ledger: Ledger, plan: Plan, name: str, dial: Callable[[Process], End | None]) -> None:
        self.loop, self.rng, self.ledger, self.plan, self.name = loop, rng, ledger, plan, name
        self._dial = dial
        self.process = Process(loop, name)
        self.app = ""
        self.functions: dict[str, str] = {}
        self.end: End | None = None
        self.finished = False
        #: Its server is being stopped, and its run ends with it: whatever it asks for now may be refused or cancelled.
        self.ending = False
        self._requests = itertools.count(_START + 1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._keys: dict[int, Key] = {}
        self._items: dict[int, int] = {}
        self._connected = asyncio.Event()
        #: The app was started, or taken up again, over this connection.
        self._holding = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.process.start(self._guarded())

    async def _guarded(self) -> None:
        try:
            await self._run()
        except Exception as error:
            if self.ledger.broken is None:
                self.ledger.broken = Violation(f"{self.name} failed: {error!r}")

    async def _run(self) -> None:
        self.app = make_id(APP, time.time_ns() // 1_000_000, os.urandom(10))
        self._reconnect()
        await self._connected.wait()
        async with asyncio.TaskGroup() as group:
            for when, function, how, tasks in self.plan.tasks:
                group.create_task(self._do(when, self.plan.spec.functions[function], how, tasks))
        self.finished = True
        self.ledger.note("client-done", self.name)

    # what it does

    async def _do(self, when: float, spec: FunctionSpec, how: str, tasks: list[Task]) -> None:
        await asyncio.sleep(when)
        call = make_id(CALL, time.time_ns() // 1_000_000, os.urandom(10))
        hold = DURABLE if how == "spawn" else LIVE
        async with asyncio.TaskGroup() as group:
            for index, task in enumerate(tasks):
                group.create_task(self._one(spec, call, index, task, hold))
            if self.rng.random() < self.plan.cancel_chance:
                group.create_task(self._cancel_later(call, len(tasks)))

    async def _one(self, spec: FunctionSpec, call: str, index: int, task: Task, hold: int) -> None:
        key = (call, index)
        data = msgspec.msgpack.encode(task)
        credit = CREDIT if task.op == "items" else 0
        message = Call(0, self.functions[spec.tag], call, index, data, "items" if credit else "", hold, credit)
        while True:
            answer = await self._ask(message, key, spec)
            if hold == LIVE:
                if isinstance(answer, Output):
                    return
                if answer is None or (credit and answer.code == "generator_interrupted"):
                    self.ledger.records[key].unwanted = True
                    if self.end is not None:
                        self.end.send(Cancel(call, (index,)))
                    return
                if self.ending:
                    return
                if answer.code != "resource_exhausted":
                    self.ledger.fail(f"a live call was refused: {answer}", key)
            elif isinstance(answer, Accepted):
                self.ledger.records[key].accepted = True
                break
            elif self.ending:
                return
            elif answer.code != "resource_exhausted":
                self.ledger.fail(f"a spawn was refused: {answer}", key)
            await asyncio.sleep(0.5 + self.rng.random())
        pause = 0.2
        while True:
            timeout_s = self.rng.choice((None, 0.0, 1.0, 30.0))
            answer = await self._ask(Await(0, call, index, timeout_s), key, None)
            if isinstance(answer, Output):
                return
            if isinstance(answer, Fault):
                self.ledger.fail(f"an accepted input is not known any more: {answer}", key)
            await asyncio.sleep(pause + self.rng.random())
            pause = min(30.0, pause * 1.5)

    async def _cancel_later(self, call: str, count: int) -> None:
        await asyncio.sleep(self.rng.random() * 3.0)
        indexes = () if self.rng.random() < 0.5 else (self.rng.randrange(count),)
        for index in indexes or range(count):
            if (record := self.ledger.records.get((call, index))) is not None:
                record.unwanted = True
        self.ledger.note("cancel", call, indexes)
        if self.end is not None:
            self.end.send(Cancel(call, indexes, self.rng.random() < 0.3))

    async def _ask(self, message: Any, key: Key, spec: FunctionSpec | None) -> Any:
        """Send it, again after each reconnect, until it is answered."""
        number = message.request = next(self._requests)
        future = self._answers[number] = self.loop.create_future()
        self._keys[number] = key
        message = msgspec.structs.replace(message)
        try:
            while True:
                await self._connected.wait()
                end = self.end
                if end is None:
                    continue
                if spec is not None:
                    self.ledger.sent(message, spec).unwanted |= self.ending
                end.send(message)
                lost = self.loop.create_future()
                self._lost_waiters.append(lost)
                await asyncio.wait([future, lost], return_when=asyncio.FIRST_COMPLETED)
                if future.done():
                    return future.result()
                if self._items.get(number):
                    return None  # a generator isn't resumed: its caller is told how many items it has had
        finally:
            del self._answers[number]  # but not the key: another answer to it would be one too many

    # its connection

    _lost_waiters: list[asyncio.Future[None]]

    def _reconnect(self) -> None:
        self._connected.clear()
        self._holding.clear()
        waiters = getattr(self, "_lost_waiters", [])
        self._lost_waiters = []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._connecting = self.loop.create_task(self._connect(), name=f"{self.name} connects")

    async def _connect(self) -> None:
        began, pause = self.loop.time(), 0.02
        while (end := self._dial(self.process)) is None:
            if self.loop.time() - began > RECONNECT_S:
                self.ledger.fail(f"{self.name} found no server for {RECONNECT_S:g} s")
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)
        self.end = end
        welcomed, started = self.loop.create_future(), self.loop.create_future()
        self._welcomed, self._started = welcomed, started
        end.received = self._received
        end.lost = lambda error: self._lost(end)
        end.send(Hello(PROTOCOL_VERSION, "client", make_id(CLIENT, time.time_ns() // 1_000_000, os.urandom(10))))
        await welcomed
        end.send(Request(_START, StartApp(self.plan.spec, self.app, self.plan.detach)))
        if self.functions and self.rng.random() < 0.5:
            self._connected.set()  # calls have connections of their own, and do not wait for the session's
        while await started is not None:  # refused, for example by a full disk
            await asyncio.sleep(0.5 + self.rng.random())
            started = self._started = self.loop.create_future()
            end.send(Request(_START, StartApp(self.plan.spec, self.app, self.plan.detach)))
        self._holding.set()
        self._connected.set()

    def _lost(self, end: End) -> None:
        if self.end is end:
            self.ledger.note("connection-lost", self.name)
            self.end = None
            if self._connecting is not None:
                self._connecting.cancel()
            self._reconnect()

    def _received(self, message: Any) -> None:
        if isinstance(message, Welcome):
            self._welcomed.set_result(None)
            return
        if isinstance(message, Reply):
            if isinstance(message.answer, AppStarted):
                if self.functions and self.functions != message.answer.functions:
                    self.ledger.fail(f"{self.name}: its functions got other ids when it came back")
                self.functions = message.answer.functions
                self._started.set_result(None)
            elif message.request in self._answers:
                self._answers[message.request].set_result(message)
            return
        if not isinstance(message, Output | Accepted | NotReady | Fault):
            return
        key = self._keys.get(message.request)
        if isinstance(message, Fault) and message.request == _START:
            if message.code != "resource_exhausted" and not self.ending:
                self.ledger.fail(f"{self.name} was refused: {message}")
            self._started.set_result(message)
        if key is None:
            return
        if isinstance(message, Output):
            self.ledger.got(key, message)
            if message.status == ITEM:
                self._item(message.request, key)
                return
        future = self._answers.get(message.request)
        if future is not None and not future.done():
            future.set_result(message)

    def _item(self, request: int, key: Key) -> None:
        taken = self._items[request] = self._items.get(request, 0) + 1
        if taken % CREDIT_LOW == 0 and self.end is not None:
            self.end.send(Credit(key[0], key[1], CREDIT_LOW))

    # its end

    async def stop_app(self) -> None:
        """End the app as a program does that is done; called within its process."""
        number = next(self._requests)
        while True:
            await self._holding.wait()
            if self.end is None:
                continue
            future = self._answers[number] = self.loop.create_future()
            self._keys[number] = ("", 0)
            self.end.send(Request(number, StopApp(self.app)))
            lost = self.loop.create_future()
            self._lost_waiters.append(lost)
            await asyncio.wait([future, lost], return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return

    def where(self) -> str:
        """For a report: what it is at."""
        return f"connected {self._connected.is_set()}, has a connection {self.end is not None}, functions {self.functions}, {len(self._answers)} open requests"

    def unwant(self, *, spawned: bool = True) -> None:
        """Nobody wants what it had asked for any more."""
        mine = set(self.functions.values())
        for record in self.ledger.records.values():
            if record.call.function in mine and (spawned or not record.durable):
                record.unwanted = True

    def vanish(self) -> None:
        """kill -9 of the program. What a detached run had spawned goes on."""
        self.unwant(spawned=not self.plan.detach)
        for record in self.ledger.records.values():
            record.abandoned |= record.call.function in self.functions.values()
        self.ledger.note("vanish", self.name)
        self.process.kill()
        if self.end is not None:
            self.end.close()
