"""Simulated machines: an agent that keeps the contract of `worker.orders`, and containers whose functions do what their arguments say."""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import msgspec

from squall.model.errors import ContainerStartError
from squall.runtime.contract import Exit, Usage
from squall.testing.links import TICK_S, Weather
from squall.testing.virtual import Process, VirtualLoop
from squall.wire.messages import CANCELLED, ITEM, OK, RAISED, Boot, Flight, Landed, More, Ready, Rejoin, Result, Revoke, Revoked, Run, StartFailed, Stop
from squall.worker.containers.container_records import Record
from squall.worker.orders import Death, Listener, Order

#: As in `runner.channel`.
GRACE_S = 30.0


class Task(msgspec.Struct):
    """What an input asks of its function. `op`: ``ok``, ``raise``, ``flaky`` (raises the first `n` times), ``exit``, ``oom``, ``segfault``, ``hang``
    (until it is stopped), ``deaf`` (not even then), ``items`` (yields `n`)."""

    op: str = "ok"
    seconds: float = 0.01
    n: int = 0


class Witness(Protocol):
    """Sees what really happens in containers."""

    def note(self, kind: str, *facts: Any) -> None: ...

    def container_started(self, container: "SimulatedContainer") -> None: ...

    def container_ended(self, container: "SimulatedContainer", why: str) -> None: ...

    def not_launched(self, order: Order) -> None: ...

    def begun(self, container: "SimulatedContainer", run: Run) -> int:
        """Which execution of the input this is, from 1."""
        ...

    def ended(self, container: "SimulatedContainer", run: Run, outcome: str) -> None: ...


class Luck:
    """What goes wrong on machines now, as chances; the world changes it."""

    def __init__(self) -> None:
        self.launch_fails = 0.0
        self.start_sticks = 0.0
        self.slow_start = 0.0


class _Work:
    __slots__ = ("begun", "credit", "handle", "run", "sent", "task")

    def __init__(self, run: Run, task: Task, now: float) -> None:
        self.run, self.task, self.begun = run, task, now
        self.credit = run.credit
        self.sent = 0
        self.handle: Any = None


class SimulatedContainer:
    """A container with its runner. It is a process of its own: it goes on for a while when its server dies, as a real one does."""

    def __init__(self, machines: "Machines", hosted: "SimulatedHosted", order: Order, node: Any) -> None:
        self.machines, self.hosted, self.order, self.node = machines, hosted, order, node
        self.id = order.container
        #: Whose messages it reads: an agent that comes back is another one from its `rejoin` on.
        self.connected_to = hosted
        self.pid = machines.next_pid()
        self.limit = order.spec.concurrency.max_inputs
        self.process = Process(machines.loop, self.id)
        self.works: dict[int, _Work] = {}
        self.waiting: deque[Run] = deque()
        self.last_begun = 0
        self.stopping = self.orphan = False
        self.frozen_until = 0.0
        #: Came while it was frozen; a socket keeps their order.
        self.unread: deque[Any] = deque()
        self.lost_at = 0.0
        #: Its latest outcomes, for a server that comes after one that may have taken them along.
        self.recent: deque[Landed] = deque(maxlen=100)
        self.ready = False
        self.life = machines.life

    def usage(self) -> Usage:
        """What its inputs do is to wait."""
        return Usage(0.0, 0)

    # its start

    def boot(self) -> None:
        machines, rng = self.machines, self.machines.rng
        machines.containers[self.id] = self
        machines.witness.container_started(self)
        if rng.random() < machines.luck.start_sticks:
            return
        delay = 0.05 + rng.expovariate(10.0)
        if rng.random() < machines.luck.slow_start:
            delay += rng.random() * 20.0
        self.process.later(delay, self._imported)

    def _imported(self) -> None:
        if self.order.spec.qualname == "broken":
            self._tell("start_failed", StartFailed(RAISED, b"broken import"))
            self.die(Exit(1, None), "start failed")
            return
        self.ready = True
        self._tell("ready", Ready(0.01, 0.0))

    # messages

    def receive(self, agent: "SimulatedHosted", message: Any) -> None:
        """From its agent. A frozen container reads it when it thaws. What an earlier agent sent ends with that connection."""
        if agent is not self.connected_to:
            return
        self.unread.append(message)
        if len(self.unread) == 1:
            self._read()

    def _read(self) -> None:
        wait = self.frozen_until - self.machines.loop.time()
        if wait > 0:
            self.process.later(wait, self._read)
            return
        while self.unread and self.process.alive:
            self._handle(self.unread.popleft())

    def _handle(self, message: Any) -> None:
        if isinstance(message, Run):
            if len(self.works) < self.limit and not self.waiting:
                self._begin(message)
            else:
                self.waiting.append(message)
        elif isinstance(message, More):
            if (work := self.works.get(message.token)) is not None:
                starved = work.credit <= 0
                work.credit += message.items
                if starved:
                    self._yield(work)
        elif isinstance(message, Revoke):
            self._take_back(message.tokens)
        elif isinstance(message, Stop):
            if not message.tokens:
                self.stopping = True
                self._settle()
            else:
                self._take_back(message.tokens)
                for token in message.tokens:
                    if (work := self.works.get(token)) is not None and work.task.op != "deaf":
                        self._finish(work, CANCELLED, b"", "cancelled")

    def _take_back(self, tokens: tuple[int, ...]) -> None:
        taken = tuple(run.token for run in self.waiting if run.token in tokens)
        self.waiting = deque(run for run in self.waiting if run.token not in taken)
        self._tell("revoked", Revoked(taken))

    # user code

    def _begin(self, run: Run) -> None:
        work = self.works[run.token] = _Work(run, msgspec.msgpack.decode(run.data, type=Task), self.machines.loop.time())
        self.last_begun = run.token
        nth = self.machines.witness.begun(self, run)
        task = work.task
        later = self.process.later
        if task.op == "items":
            self._yield(work)
        elif task.op in ("hang", "deaf"):
            pass
        elif task.op == "raise" or (task.op == "flaky" and nth <= task.n):
            work.handle = later(task.seconds, self._finish, work, RAISED, b"raised", "raised")
        elif task.op == "exit":
            work.handle = later(task.seconds, self.die, Exit(3, None), "exit")
        elif task.op == "oom":
            work.handle = later(task.seconds, self.die, Exit(None, 9, oom_killed=True), "oom")
        elif task.op == "segfault":
            work.handle = later(task.seconds, self.die, Exit(None, 11), "segfault")
        else:
            work.handle = later(task.seconds, self._finish, work, OK, value_of(run), "ok")

    def _yield(self, work: _Work) -> None:
        if self.works.get(work.run.token) is not work or work.credit <= 0:
            return
        if work.sent == work.task.n:
            self._finish(work, OK, b"", "ok")
            return
        self._tell("result", Result(work.run.token, ITEM, b"%d" % work.sent))
        work.sent += 1
        work.credit -= 1
        work.handle = self.process.later(work.task.seconds, self._yield, work)

    def _finish(self, work: _Work, status: int, data: bytes, outcome: str) -> None:
        wait = self.frozen_until - self.machines.loop.time()
        if wait > 0:
            work.handle = self.process.later(wait, self._finish, work, status, data, outcome)
            return
        if work.handle is not None:
            work.handle.cancel()
        del self.works[work.run.token]
        self.machines.witness.ended(self, work.run, outcome)
        seconds = self.machines.loop.time() - work.begun if status == CANCELLED else work.task.seconds
        self.recent.append(Landed(work.run.token, work.run.call, work.run.index, status, data, seconds))
        self._tell("result", Result(work.run.token, status, data, seconds))
        if self.orphan and self.machines.loop.time() - self.lost_at >= GRACE_S:
            self._give_up()
            return
        while self.waiting and len(self.works) < self.limit and not (self.stopping and self.limit > 1):
            self._begin(self.waiting.popleft())
        self._settle()

    def _settle(self) -> None:
        # A serial runner reads its messages in order: what came before the Stop is run.
        if self.stopping and not self.works and (self.limit > 1 or not self.waiting):
            self.process.later(0.01, self.die, Exit(0, None), "stopped")

    # its end

    def die(self, exit: Exit, why: str) -> None:
        """The process has ended; the agent takes the rest away a moment later and tells."""
        if not self.process.alive:
            return
        for work in self.works.values():
            self.machines.witness.ended(self, work.run, f"died: {why}")
        self.works.clear()
        self.process.kill()
        del self.machines.containers[self.id]
        self.machines.witness.container_ended(self, why)
        serial = self.limit == 1 and not any(method.is_async for method in self.order.spec.methods)
        token = self.last_begun if serial else 0
        self.hosted.process.later(0.0, self.hosted.container_died, exit, token)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.frozen_until = max(self.frozen_until, self.machines.loop.time() + seconds)

    def _tell(self, what: str, message: Any) -> None:
        if not self.orphan:
            self.hosted.from_container(what, message)

    # between two servers

    def lose_server(self) -> None:
        """What runs goes on. Nobody knows of a container that is not ready."""
        self.orphan, self.lost_at = True, self.machines.loop.time()
        if not self.ready:
            self.die(Exit(0, None), "orphaned")
        else:
            self.process.later(GRACE_S, self._give_up)

    def _give_up(self) -> None:
        if self.orphan and not self.works and self.machines.loop.time() - self.lost_at >= GRACE_S:
            self.die(Exit(0, None), "orphaned")

    def rejoin(self, hosted: "SimulatedHosted", rejoined: Callable[[Rejoin], None]) -> None:
        """A new agent listens: say what there is. A frozen container does it when it thaws."""
        wait = self.frozen_until - self.machines.loop.time()
        if wait > 0:
            self.process.later(wait, self.rejoin, hosted, rejoined)
            return
        if hosted.gone or not hosted.process.alive:
            return
        self._read()  # what the old server sent comes before the end of its connection
        if not self.process.alive:
            return
        now = self.machines.loop.time()
        flights = [Flight(work.run.token, work.run.call, work.run.index, work.run.method, now - work.begun) for work in self.works.values()]
        flights += [Flight(run.token, run.call, run.index, run.method, None) for run in self.waiting]
        self.hosted, self.connected_to, self.orphan = hosted, hosted, False
        self.machines.witness.note("rejoin", self.id, len(flights), len(self.recent))
        message = Rejoin(tuple(flights), tuple(self.recent), self.stopping)
        hosted.deliver(lambda: rejoined(message))


class SimulatedHosted:
    """In the place of `worker.hosted.Hosted`: the agent's side of one container, in the server's process."""

    def __init__(self, machines: "Machines", process: Process, order: Order, listener: Listener, container: SimulatedContainer | None = None) -> None:
        """
        Args:
            container: one of an earlier agent.
        """
        self.machines, self.process, self.order, self.listener = machines, process, order, listener
        self.id = order.container
        self.container = container
        self.boot = Boot(order.container, order.app, order.app_name, order.function, order.packed_spec, dict(order.functions), {})
        self.phases: dict[str, float] = {}
        self.unwanted = False
        self.entrypoint = ""
        self.gone = False
        self._down = self._up = 0.0
        if container is not None:
            return
        node = listener.placement.node  # type: ignore[attr-defined]  # the router's members know where they were placed
        delay = 0.02 + machines.rng.expovariate(20.0)
        process.later(delay, self._launch, node)

    def _launch(self, node: Any) -> None:
        machines = self.machines
        if self.unwanted or machines.rng.random() < machines.luck.launch_fails:
            self._end()
            machines.witness.not_launched(self.order)
            self.listener.could_not_start(ContainerStartError("not wanted any more" if self.unwanted else "the machine could not start it (simulated)"))
            return
        self.container = SimulatedContainer(machines, self, self.order, node)
        self.container.boot()

    # what the router calls

    def send(self, message: Any) -> None:
        container = self.container
        if container is not None and container.process.alive and container.hosted is self:
            self._down = max(self._down + TICK_S, self.machines.loop.time() + self.machines.weather.latency_s())
            container.process.at(self._down, container.receive, self, message)

    def interrupt(self, message: Any) -> None:
        self.send(message)

    def kill(self) -> None:
        if self.container is not None:
            self.container.die(Exit(None, 9), "killed by its server")

    def kill_soon(self) -> None:
        if self.container is not None:
            self.kill()
        else:
            self.unwanted = True

    # what the container does

    def from_container(self, what: str, message: Any) -> None:
        self.deliver(lambda: getattr(self.listener, what)(message))

    def deliver(self, action: Callable[[], None]) -> None:
        """In order, and later."""
        self._up = max(self._up + TICK_S, self.machines.loop.time() + self.machines.weather.latency_s())
        self.process.at(self._up, self._pass_on, action)

    def _pass_on(self, action: Callable[[], None]) -> None:
        if not self.gone:
            action()

    def container_died(self, exit: Exit, last_token: int) -> None:
        """Whatever it had finished is told first."""
        self._up = max(self._up + TICK_S, self.machines.loop.time() + self.machines.rng.random() * 0.05)
        self.process.at(self._up, self._died, exit, last_token)

    def _died(self, exit: Exit, last_token: int) -> None:
        if not self.gone:
            self._end()
            self.listener.died(Death(exit, last_token))

    def _end(self) -> None:
        self.gone = True
        self.machines.hosted.pop(self.id, None)


class Machines:
    """All machines of the world, and what runs on them. It survives the server."""

    def __init__(self, loop: VirtualLoop, rng: Random, weather: Weather, witness: Witness) -> None:
        self.loop, self.rng, self.weather, self.witness = loop, rng, weather, witness
        self.luck = Luck()
        self.containers: dict[str, SimulatedContainer] = {}
        self.hosted: dict[str, SimulatedHosted] = {}
        #: Counts the lives of the server.
        self.life = 0
        self._pids = 1000

    def next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def server_died(self) -> None:
        """Containers lose their agent, and go on for now."""
        self.hosted.clear()
        for container in list(self.containers.values()):
            container.lose_server()

    def sweep(self, keep: Callable[[Record], bool]) -> list[tuple[Record, SimulatedContainer]]:
        """A new agent finds what an earlier one left, and removes what is not wanted."""
        kept = []
        for container in list(self.containers.values()):
            record = record_of(container.order)
            if keep(record):
                kept.append((record, container))
            else:
                container.die(Exit(None, 9), "swept")
        return kept


class SimulatedAgent:
    """In the place of `worker.agent.Agent`, for one life of the server."""

    def __init__(self, machines: Machines, process: Process) -> None:
        self.machines, self.process = machines, process
        self.kept: list[tuple[Record, SimulatedContainer]] = []

    def open(self, keep: Callable[[Record], bool]) -> None:
        self.kept = self.machines.sweep(keep)

    def take_back(self, record: Record, container: SimulatedContainer, listener: Listener, rejoined: Callable[[Rejoin], None]) -> SimulatedHosted:
        hosted = self.machines.hosted[record.container] = SimulatedHosted(self.machines, self.process, container.order, listener, container)
        if container.process.alive:
            container.process.later(0.05 * self.machines.rng.random(), container.rejoin, hosted, rejoined)
            # The death of a container is told to the agent that watches it then.
            container.hosted = hosted
        else:
            hosted.container_died(Exit(None, None), 0)
        return hosted

    @property
    def hosted(self) -> dict[str, SimulatedHosted]:
        return self.machines.hosted

    def start(self, order: Order, listener: Listener) -> SimulatedHosted:
        hosted = self.machines.hosted[order.container] = SimulatedHosted(self.machines, self.process, order, listener)
        return hosted

    def prepare(self, image: object, layers: object) -> None:
        """Nothing is made ahead here."""

    def explain(self, function: str) -> list[dict[str, Any]]:
        """Nothing is copied here."""
        return []

    async def forget_app(self, app: str) -> None:
        """Nothing is kept here for apps."""

    async def close(self) -> None:
        for hosted in list(self.hosted.values()):
            hosted.kill_soon()
        while self.hosted:  # noqa: ASYNC110  # virtual time costs nothing
            await asyncio.sleep(0.01)


def record_of(order: Order) -> Record:
    """What the agent writes down of a container that is ready."""
    return Record(
        order.container, order.app, order.spec.tag, order.function, order.packed_spec, order.image.id, tuple(map(str, order.layers)), order.parameters,
        order.node, order.gpu_type, order.devices, "",
    )  # fmt: skip


def value_of(run: Run) -> bytes:
    """What an ``ok`` input returns: only its own container can give it."""
    return f"{run.call}/{run.index}".encode()


def expected_value(call: str, index: int) -> bytes:
    return f"{call}/{index}".encode()
