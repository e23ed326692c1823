"""What really happened in a simulated world, and whether it may have: every rule is checked when it could be broken first."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec

from squall.model.specs import FunctionSpec
from squall.testing.containers import SimulatedContainer, Task, expected_value
from squall.wire.agent import StartContainer
from squall.wire.messages import CANCELLED, DURABLE, FAILED, ITEM, OK, RAISED, Call, Fault, Output, Run

#: An input: its call and index.
Key = tuple[str, int]

#: Ends of an attempt that use up the user's retries; "died: killed", "orphaned" and the like are the platform's.
_USERS = {"raised", "died: exit", "died: oom", "died: segfault"}


class Violation(Exception):
    """A rule was broken. The seed and the tail of the trace lead to it."""


@dataclass(slots=True)
class Execution:
    """One run of an input's code in one container."""

    container: str
    token: int
    life: int
    begun_at: float
    outcome: str | None = None
    ended_at: float = 0.0


@dataclass(slots=True)
class Record:
    """An input, as its client and the containers see it. `sends` counts how often the client sent it; `outputs` what it got for that."""

    call: Call
    task: Task
    spec: FunctionSpec
    sends: int = 0
    accepted: bool = False
    refused: bool = False
    #: Its client (or app) does not want it any more, so that it may end cancelled.
    unwanted: bool = False
    #: Its client has vanished and will not ask for its outcome, but it is to be run.
    abandoned: bool = False
    outputs: list[Output] = field(default_factory=list)
    #: Items of a generator that its client has had.
    items: int = 0
    executions: list[Execution] = field(default_factory=list)

    @property
    def durable(self) -> bool:
        return self.call.hold == DURABLE


class Ledger:
    """Implements the containers' `Witness`. `check` is told by the world what the router believes."""

    def __init__(self, now: Callable[[], float], *, keep_trace: bool = False) -> None:
        self._now = now
        self._hash = hashlib.blake2b(digest_size=16)
        self.trace_tail: list[str] = []
        self._keep_all = keep_trace
        self.records: dict[Key, Record] = {}
        #: The first rule that was broken: whoever finds it may be in a task that nobody waits for.
        self.broken: Violation | None = None
        #: Containers are frozen at times: then any input may time out.
        self.freezes = False
        self.counts: Counter[str] = Counter()
        #: Containers that are there, by node and by function.
        self._cores: dict[Any, float] = defaultdict(float)
        self._memory: dict[Any, float] = defaultdict(float)
        self.failed_starts: set[str] = set()
        #: When a server was killed.
        self.kills: list[float] = []
        self.deployed_apps: set[str] = set()

    # the trace

    def note(self, kind: str, *facts: Any) -> None:
        """An event of the world, in its order."""
        line = f"{self._now():.6f} {kind} {' '.join(map(str, facts))}"
        if kind == "server-kill":
            self.kills.append(self._now())
        self._hash.update(line.encode())
        self.counts[kind] += 1
        self.trace_tail.append(line)
        if len(self.trace_tail) > 400 and not self._keep_all:
            del self.trace_tail[:200]

    def digest(self) -> str:
        return self._hash.hexdigest()

    def fail(self, rule: str, key: Key | None = None) -> NoReturn:
        story = "" if key is None else "\n" + self.story(key)
        violation = Violation(rule + story)
        self.broken = self.broken or violation
        raise violation

    def story(self, key: Key) -> str:
        """All that is known of an input."""
        record = self.records[key]
        lines = [f"input {key}: {record.task}, {'spawned' if record.durable else 'live'}, sent {record.sends}, accepted {record.accepted}"]
        lines += [f"  run {run}" for run in record.executions] + [f"  got {output.status} {output.data[:100]!r}" for output in record.outputs]
        return "\n".join(lines)

    # containers

    def container_started(self, container: SimulatedContainer) -> None:
        self.note("container", container.id, container.order.function, container.node.name)
        need = container.spec.resources
        node = container.node
        self._cores[node.name] += need.cpu_request
        self._memory[node.name] += need.memory_request_mib
        if self._memory[node.name] > node.memory_mib + 1e-6:
            self.fail(f"node {node.name} has {node.memory_mib} MiB and {self._memory[node.name]} are taken")
        if self._cores[node.name] > node.cores * 8.0 + 1e-6:
            self.fail(f"node {node.name} has {node.cores} cores and {self._cores[node.name]} are asked for")

    def container_ended(self, container: SimulatedContainer, why: str) -> None:
        self.note("container-end", container.id, why)
        need = container.spec.resources
        self._cores[container.node.name] -= need.cpu_request
        self._memory[container.node.name] -= need.memory_request_mib
        if not container.ready:
            self.failed_starts.add(container.order.function)

    def not_launched(self, order: StartContainer) -> None:
        self.note("not-launched", order.container)
        self.failed_starts.add(order.function)

    def begun(self, container: SimulatedContainer, run: Run) -> int:
        key = (run.call, run.index)
        self.note("run", *key, run.token, container.id)
        record = self.records[key]
        executions = record.executions
        if any(each.token == run.token and each.life == container.machines.life for each in executions):
            self.fail(f"attempt {run.token} began twice", key)
        executions.append(Execution(container.id, run.token, container.machines.life, self._now()))
        self._check_executions(key, record)
        if len(container.works) > container.limit:
            self.fail(f"{container.id} runs {len(container.works)} inputs at a time and may run {container.limit}", key)
        if container.spec.single_use and sum(1 for each in self._executions_of(container.id)) > 1:
            self.fail(f"{container.id} is for a single use and got a second input", key)
        return len(executions)

    def _executions_of(self, container: str) -> list[Execution]:
        return [each for record in self.records.values() for each in record.executions if each.container == container]

    def ended(self, container: SimulatedContainer, run: Run, outcome: str) -> None:
        key = (run.call, run.index)
        self.note("ran", *key, run.token, outcome)
        for each in self.records[key].executions:
            if each.token == run.token and each.container == container.id:
                each.outcome, each.ended_at = outcome, self._now()

    def _check_executions(self, key: Key, record: Record) -> None:
        """A second run of an input needs its reason: a retry that the user asked for, or a container, server or connection that was lost."""
        for each in record.executions[:-1]:
            if each.outcome is None and record.durable and not record.unwanted:
                self.fail(f"it runs again while attempt {each.token} still runs in {each.container}", key)
        lives = record.executions[-1].life
        runs = [each for each in record.executions if each.life == lives]
        allowed = 1 + (record.spec.retries.max_retries if record.spec.retries is not None else 0)
        mine = [
            each
            for each in runs[:-1]
            if each.outcome in _USERS or (each.outcome == "cancelled" and not record.unwanted and not self._stopped_before_a_kill(each))
        ]
        if len(mine) >= allowed and not (not record.durable and record.sends > 1):
            self.fail(f"retried beyond the {allowed - 1} retries that were asked for", key)
        for each in runs[:-1]:
            if each.outcome is None and not self._may_overlap(record, each):
                self.fail(f"it runs again while attempt {each.token} still runs", key)
            if each.outcome == "ok" and not (not record.durable and record.sends > 1) and not self._lost_result(each):
                self.fail(f"it ran again although attempt {each.token} had a result", key)

    def _stopped_before_a_kill(self, execution: Execution) -> bool:
        """A server that was killed may have told it to stop, for its timeout, and taken that along."""
        return any(execution.begun_at < kill < execution.ended_at + 5.0 for kill in self.kills)

    def _may_overlap(self, record: Record, execution: Execution) -> bool:
        return not record.durable and record.sends > 1

    def _lost_result(self, execution: Execution) -> bool:
        """The container was lost with its result on the way. Results of a container that died arrive before its end, so this excuses nothing yet."""
        return False

    # clients

    def sent(self, call: Call, spec: FunctionSpec) -> Record:
        key = (call.call, call.index)
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = Record(call, msgspec.msgpack.decode(call.data, type=Task), spec)
        record.sends += 1
        self.note("call", *key, call.hold, call.function)
        return record

    def got(self, key: Key, output: Output) -> None:
        """A client was given an outcome of an input that it asked for with `Call` or `Await`."""
        record = self.records[key]
        self.note("output", *key, output.status)
        if output.status == ITEM:
            if output.data != b"%d" % record.items:
                self.fail(f"item {output.data!r} came after {record.items} items", key)
            record.items += 1
            return
        record.outputs.append(output)
        if not record.durable and len(record.outputs) > record.sends:
            self.fail("a second result was delivered", key)
        if len({(each.status, each.data) for each in record.outputs}) > 1 and record.durable:
            self.fail("a spawned call was given two different results", key)
        self._check_outcome(key, record, output)

    def _check_outcome(self, key: Key, record: Record, output: Output) -> None:
        task = record.task
        if output.status == OK:
            right = b"" if task.op == "items" else expected_value(*key)
            if output.data != right or task.op not in ("ok", "flaky", "items"):
                self.fail(f"the result {output.data!r} is not that of this input", key)
            if task.op == "items" and record.items != task.n:
                self.fail(f"a generator of {task.n} items ended after {record.items}", key)
            if not any(each.outcome == "ok" for each in record.executions):
                self.fail("a result was delivered that no run has given", key)
        elif output.status == RAISED:
            broken = record.spec.qualname == "broken"
            if task.op not in ("raise", "flaky") and not broken:
                self.fail("it raised although its code does not", key)
            allowed = 1 + (record.spec.retries.max_retries if record.spec.retries is not None else 0)
            mine = sum(each.outcome in _USERS for each in record.executions)
            if mine < allowed and not broken and record.spec.concurrency.max_inputs == 1:
                self.fail(f"it was given up after {mine} of {allowed} attempts", key)
        elif output.status == CANCELLED:
            if not record.unwanted:
                self.fail("it was cancelled although nobody asked for that", key)
        elif output.status == FAILED:
            self._check_failure(key, record, msgspec.msgpack.decode(output.data, type=Fault))

    def _check_failure(self, key: Key, record: Record, error: Fault) -> None:
        op, code = record.task.op, error.code
        self.note("failed", *key, code)
        own = {"exit": "container_exited", "oom": "out_of_memory", "segfault": "container_killed"}
        if own.get(op) == code or (code == "function_timeout" and self._may_time_out(record)):
            return
        if code == "generator_interrupted" and op == "items" and record.items <= (error.details["items_delivered"] or record.task.n):
            return
        if code == "container_start" and record.call.function in self.failed_starts:
            return
        if code == "internal_failure" and sum(1 for each in record.executions if each.outcome and each.outcome.startswith("died")) > 8:
            return
        # What others in the same container did can only be blamed on all of them.
        if record.spec.concurrency.max_inputs > 1 and code in own.values():
            return
        self.fail(f"it failed with {code}: {error.message}", key)

    def _may_time_out(self, record: Record) -> bool:
        # A generator waits for credit, which takes its time on links that are slow.
        return self.freezes or record.task.op in ("hang", "deaf", "items") or record.task.seconds >= record.spec.timeout_s
