"""Simulated machines: agents that speak `wire.agent` as real ones do, and containers whose functions do what their arguments say."""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import msgspec

from squall.core.placement import Node
from squall.model.errors import ContainerStartError, Error
from squall.model.specs import FunctionSpec
from squall.runtime.contract import Exit
from squall.testing.links import TICK_S, Weather
from squall.testing.virtual import Process, VirtualLoop
from squall.wire.agent import (
    BecameReady,
    ContainerRecord,
    ContainerState,
    CouldNotStart,
    Died,
    KeepContainer,
    KillContainer,
    NodeHello,
    Order,
    Report,
    StartContainer,
    Started,
    Tell,
    ToContainer,
    Told,
    Usage,
)
from squall.wire.messages import CANCELLED, ITEM, OK, RAISED, Fault, Flight, Landed, More, Rejoin, Result, Revoke, Revoked, Run, StartFailed, Stop

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

    def not_launched(self, order: StartContainer) -> None: ...

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

    def __init__(self, machines: "Machines", hosted: "SimulatedHosted", order: StartContainer) -> None:
        self.machines, self.hosted, self.order, self.node = machines, hosted, order, machines.nodes[order.node]
        self.spec = msgspec.msgpack.decode(order.packed_spec, type=FunctionSpec)
        self.id = order.container
        #: Whose messages it reads: an agent that comes back is another one from its `rejoin` on.
        self.connected_to = hosted
        self.pid = machines.next_pid()
        self.limit = self.spec.concurrency.max_inputs
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
        if self.spec.qualname == "broken":
            self._tell(StartFailed(RAISED, b"broken import"))
            self.die(Exit(1, None), "start failed")
            return
        self.ready = True
        if not self.orphan:
            self.hosted.report_later(BecameReady(self.id, 0.01, 0.0, {}))

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
        self._tell(Revoked(taken))

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
        self._tell(Result(work.run.token, ITEM, b"%d" % work.sent))
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
        self._tell(Result(work.run.token, status, data, seconds))
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
        serial = self.limit == 1 and not any(method.is_async for method in self.spec.methods)
        token = self.last_begun if serial else 0
        self.hosted.process.later(0.0, self.hosted.container_died, exit, token)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.frozen_until = max(self.frozen_until, self.machines.loop.time() + seconds)

    def _tell(self, message: Result | Revoked | StartFailed) -> None:
        if not self.orphan:
            self.hosted.report_later(Told(self.id, message))

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

    def rejoin(self, hosted: "SimulatedHosted") -> None:
        """A new agent listens: say what there is. A frozen container does it when it thaws."""
        wait = self.frozen_until - self.machines.loop.time()
        if wait > 0:
            self.process.later(wait, self.rejoin, hosted)
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
        hosted.report_later(Told(self.id, Rejoin(tuple(flights), tuple(self.recent), self.stopping)))


class SimulatedHosted:
    """In the place of `worker.containers.managed_container.Hosted`: the agent's side of one container."""

    def __init__(self, agent: "SimulatedAgent", order: StartContainer, container: SimulatedContainer | None = None) -> None:
        """
        Args:
            container: one of an earlier agent.
        """
        self.agent, self.machines, self.process, self.order = agent, agent.machines, agent.process, order
        self.id = order.container
        self.container = container
        self.unwanted = False
        self.gone = False
        self._down = self._up = 0.0
        if container is None:
            self.process.later(0.02 + self.machines.rng.expovariate(20.0), self._launch)

    def _launch(self) -> None:
        machines = self.machines
        if self.unwanted or machines.rng.random() < machines.luck.launch_fails:
            self._end()
            machines.witness.not_launched(self.order)
            error: Error = ContainerStartError("not wanted any more" if self.unwanted else "the machine could not start it (simulated)")
            self.agent.report(CouldNotStart(self.id, Fault(0, error.code, str(error), error.details())))
            return
        self.container = SimulatedContainer(machines, self, self.order)
        self.agent.report(Started(self.id, self.container.pid))
        self.container.boot()

    # orders

    def send(self, message: Any) -> None:
        container = self.container
        if container is not None and container.process.alive and container.hosted is self:
            self._down = max(self._down + TICK_S, self.machines.loop.time() + self.machines.weather.latency_s())
            container.process.at(self._down, container.receive, self, message)

    def kill(self) -> None:
        if self.container is not None:
            self.container.die(Exit(None, 9), "killed by its server")
        else:
            self.unwanted = True

    # reports

    def report_later(self, report: Report) -> None:
        """In order, and later."""
        self._up = max(self._up + TICK_S, self.machines.loop.time() + self.machines.weather.latency_s())
        self.process.at(self._up, self._pass_on, report)

    def _pass_on(self, report: Report) -> None:
        if not self.gone:
            self.agent.report(report)

    def container_died(self, exit: Exit, last_token: int) -> None:
        """Whatever it had finished is told first."""
        self._up = max(self._up + TICK_S, self.machines.loop.time() + self.machines.rng.random() * 0.05)
        self.process.at(self._up, self._died, exit, last_token)

    def _died(self, exit: Exit, last_token: int) -> None:
        if not self.gone:
            self._end()
            self.agent.report(Died(self.id, exit.exit_code, exit.signal, exit.oom_killed, exit.memory_peak_bytes, last_token))

    def _end(self) -> None:
        self.gone = True
        self.machines.hosted.pop(self.id, None)


class Machines:
    """All machines of the world, and what runs on them. It survives the server."""

    def __init__(self, loop: VirtualLoop, rng: Random, weather: Weather, witness: Witness) -> None:
        self.loop, self.rng, self.weather, self.witness = loop, rng, weather, witness
        #: Their capacity, by name.
        self.nodes: dict[str, Node] = {}
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

    def sweep(self, node: str, keep: Callable[[ContainerRecord], bool]) -> dict[str, SimulatedContainer]:
        """A new agent finds what an earlier one left on its machine, and removes what is not wanted."""
        kept = {}
        for container in [each for each in self.containers.values() if each.order.node == node]:
            if keep(record_of(container.order)):
                kept[container.id] = container
            else:
                container.die(Exit(None, 9), "swept")
        return kept


class SimulatedAgent:
    """In the place of `worker.agent.Agent`: the agent of one machine, for one life of the server."""

    def __init__(self, machines: Machines, process: Process, node: str) -> None:
        self.machines, self.process, self.node = machines, process, node
        self.report: Callable[[Report], None] = lambda report: None
        self.kept: dict[str, SimulatedContainer] = {}

    def open(self, keep: Callable[[ContainerRecord], bool]) -> None:
        self.kept = self.machines.sweep(self.node, keep)

    def hello(self) -> NodeHello:
        return NodeHello(containers=tuple(ContainerState(name, record_of(container.order)) for name, container in self.kept.items()))

    def receive(self, order: Order) -> None:
        hosted = self.machines.hosted.get(getattr(order, "container", ""))
        match order:
            case StartContainer():
                self.machines.hosted[order.container] = SimulatedHosted(self, order)
            case KeepContainer():
                self._keep(order.container)
            case Tell():
                self.channel(order.container)(order.message)
            case KillContainer() if hosted is not None:
                hosted.kill()

    def channel(self, container: str) -> Callable[[ToContainer], None]:
        hosted = self.machines.hosted.get(container)
        return hosted.send if hosted is not None else lambda message: None

    def _keep(self, name: str) -> None:
        container = self.kept.pop(name)
        hosted = self.machines.hosted[name] = SimulatedHosted(self, container.order, container)
        if not container.process.alive:
            hosted.container_died(Exit(None, None), 0)
            return
        container.process.later(0.05 * self.machines.rng.random(), container.rejoin, hosted)
        # The death of a container is told to the agent that watches it then.
        container.hosted = hosted

    def usage(self, container: str) -> Usage | None:
        """What its inputs do is to wait."""
        return Usage(0.0, 0) if container in self.machines.containers else None

    def runnable(self) -> int:
        return 0

    def explain(self, function: str) -> list[dict[str, Any]]:
        """Nothing is copied here."""
        return []

    async def forget_app(self, app: str) -> None:
        """Nothing is kept here for apps."""

    async def close(self) -> None:
        mine = [hosted for hosted in self.machines.hosted.values() if hosted.agent is self]
        for hosted in mine:
            hosted.kill()
        while not all(hosted.gone for hosted in mine):  # noqa: ASYNC110  # virtual time costs nothing
            await asyncio.sleep(0.01)


def record_of(order: StartContainer) -> ContainerRecord:
    """What the agent writes down of a container that is ready."""
    spec = msgspec.msgpack.decode(order.packed_spec, type=FunctionSpec)
    return ContainerRecord(
        order.container, order.app, spec.tag, order.function, order.packed_spec, order.image.id, order.layers, order.parameters, order.node,
        order.gpu_type, order.devices, "",
    )  # fmt: skip


def value_of(run: Run) -> bytes:
    """What an ``ok`` input returns: only its own container can give it."""
    return f"{run.call}/{run.index}".encode()


def expected_value(call: str, index: int) -> bytes:
    return f"{call}/{index}".encode()
