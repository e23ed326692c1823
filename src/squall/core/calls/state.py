"""What a machine knows: its inputs, its containers, and what binds them. Every change of an input's state goes through `Calls.move`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from squall.core.calls.commands import Command
from squall.model.errors import Error
from squall.model.specs import Concurrency, FunctionSpec
from squall.model.states import ContainerState, InputState
from squall.wire.messages import DURABLE, Call

#: Inputs that may wait for one function that sets no limit of its own.
PENDING_MAX = 1_000_000
#: Inputs sent ahead to a busy container: at most so many.
AHEAD_MAX = 64
#: Sessions of web requests that are remembered, the latest ones.
SESSIONS_MAX = 10_000
#: Transitions that a story can be told of.
STORY_KEPT = 20_000


class Input:
    """One input on its way. `token` is the current attempt's; 0 while it has none.

    Who asked for it, and how a container is given it, is the business of the classes that extend this one.
    """

    __slots__ = (
        "attempts", "call", "claimed", "container", "created", "credit", "delivered", "index", "lost", "pending_error", "readopted", "started", "state",
        "token",
    )  # fmt: skip

    #: Of a web request: what it asks to stay with one container for; empty: nothing.
    session = b""

    def __init__(self, call: Call, now: float) -> None:
        self.call = call
        self.index = call.index
        self.state = InputState.QUEUED
        self.token = 0
        #: The last token that the store was told of.
        self.claimed = 0
        self.container: CallContainer | None = None
        #: Attempts begun, and those of them that the platform lost.
        self.attempts = 0
        self.lost = 0
        #: Its attempt began under a server before this one, which may have told it to stop.
        self.readopted = False
        #: On the caller's clock, seconds.
        self.created = now
        self.started = 0.0
        #: Of a generator: items that its attempt may still send, and those that its caller has had. From the first one on it isn't run again.
        self.credit = 0
        self.delivered = 0
        #: Decided while it still runs: what it ends with once its attempt has stopped.
        self.pending_error: Error | None = None

    @property
    def key(self) -> tuple[str, int]:
        return (self.call.call, self.index)

    @property
    def durable(self) -> bool:
        """The store holds it."""
        return self.call.hold == DURABLE

    @property
    def survives(self) -> bool:
        """Whether a server that is started again takes it up: from the store, or from its client, which sends it again."""
        return True

    @property
    def awaiting_resend(self) -> bool:
        """Its client has not come back since a restart, and only the client has its arguments."""
        return False


class CallContainer:
    """A container of a pool, with the inputs that it has."""

    def __init__(self, container: str, now: float) -> None:
        self.id = container
        self.state = ContainerState.STARTING
        #: Inputs by the token of their attempt, in the order in which they were given: a serial runner is at the first.
        self.running: dict[int, Input] = {}
        self.created = now
        self.ready_at = 0.0
        #: How long the code ran on its first input, and when that ended: inputs that began before it say nothing of those that follow.
        self.first_input_s = 0.0
        self.warm_at = float("inf")
        #: Since when it has had no input, and when its last result came; seconds on the caller's clock.
        self.idle_since = now
        self.last_result = now
        self.inputs_done = 0
        #: Its code wants no more inputs: it ends with those that it has begun.
        self.leaving = False
        #: Why it is ended on purpose; what it still has is run elsewhere. Empty: it is not.
        self.end_reason = ""

    @property
    def live(self) -> bool:
        """Starting or ready: it counts for the autoscaler."""
        return self.state is ContainerState.STARTING or self.state is ContainerState.READY


class StorePressure:
    """How far the store is behind with beginnings and ends of durable inputs; shared by the machines of one server."""

    def __init__(self, unwritten_max: int) -> None:
        self.unwritten = 0
        self.unwritten_max = unwritten_max

    @property
    def high(self) -> bool:
        """Durable inputs have to wait until the store has caught up."""
        return self.unwritten > self.unwritten_max


class Calls:
    """The inputs and containers of one function (of one set of class parameters).

    Args:
        spec: what the function declares.
        next_token: gives tokens that only rise, over all machines of a server.
        pressure: see there.
        story: where transitions are recorded; machines may share one.
    """

    def __init__(self, spec: FunctionSpec, *, next_token: Callable[[], int], pressure: StorePressure, story: Story) -> None:
        self.spec, self.next_token, self.pressure, self.story = spec, next_token, pressure, story
        self.commands: list[Command] = []
        self.concurrency = concurrency_of(spec)
        #: Inputs that one container works at.
        self.limit = 1 if spec.single_use else self.concurrency.max_inputs
        #: Of inputs: their timeout, and the time that they may wait in a container for the rest of their batch. Seconds.
        self.longest_s = spec.timeout_s + max((method.batching.wait_ms / 1000 for method in spec.methods if method.batching), default=0.0)
        self.web = any(method.web is not None for method in spec.methods)
        self.runs_exit_hooks = spec.is_class or self.web
        self.may_run_ahead = not spec.single_use and not any(method.is_generator or method.batching or method.web for method in spec.methods)
        #: What waits for a container, next first. Inputs that were cancelled while they waited are still in it, and passed over.
        self.queue: deque[Any] = deque()
        #: Inputs that join the queue when the time of their next attempt has come: at which.
        self.delayed: dict[Any, float] = {}
        self.containers: dict[str, Any] = {}
        #: Ready containers with room for an input, the one freed last at the end: it is taken first, so that the others idle out.
        self.free: dict[Any, None] = {}
        #: How long inputs took lately: those after their container's first, and the first ones (None: none has ended). A container of single use has no other.
        #: Which container served a session last.
        self.sessions: dict[bytes, str] = {}
        self.mean_run_s: float | None = None
        self.first_run_s: float | None = None
        self.start_s: float | None = None
        #: Inputs that a busy container may be sent ahead of time.
        self.ahead = 0
        #: Failed starts in a row, and no start before this time.
        self.failures = 0
        self.not_before = 0.0
        self.closed = False
        #: A newer version of the function has its calls, and what waits goes there; without a successor there is no such function any more.
        self.replaced = False
        self.has_successor = False

    @property
    def full(self) -> bool:
        """Whether nothing more may wait here."""
        most = self.spec.scaling.max_pending
        return len(self.queue) >= (PENDING_MAX if most is None else most)

    def move(self, item: Input, state: InputState, now: float, why: str = "") -> None:
        """The one place where an input's state changes. Without a reason it is what every call goes through, and no line of its story."""
        if why:
            self.story.add(now, item, state, why)
        item.state = state

    def take_queue(self) -> list[Any]:
        """What waits, in its order; the queue is empty then."""
        waiting = [item for item in self.queue if item.state is InputState.QUEUED]
        self.queue.clear()
        return waiting


class Story:
    """The latest transitions that are worth a line, over all machines of a server: bounded, so that the memory is, too."""

    def __init__(self, kept: int = STORY_KEPT) -> None:
        self._lines: deque[tuple[float, str, int, InputState, int, str]] = deque(maxlen=kept)

    def add(self, now: float, item: Input, state: InputState, why: str) -> None:
        self._lines.append((now, item.call.call, item.index, state, item.attempts if state is InputState.RUNNING else 0, why))

    def of(self, call: str, index: int) -> list[tuple[float, str]]:
        """What happened to an input, oldest first: when, on the caller's clock, and a sentence."""
        return [
            (now, f"{why}: {state}" if attempt == 0 else f"{why} (attempt {attempt}): {state}")
            for now, named, at, state, attempt, why in self._lines
            if (named, at) == (call, index)
        ]


def concurrency_of(spec: FunctionSpec) -> Concurrency:
    """Inputs that one container may have, and that the autoscaler aims at: of a batched function, all that fit into its batches."""
    size = max((method.batching.max_batch_size for method in spec.methods if method.batching), default=1)
    one = spec.concurrency
    return one if size == 1 else Concurrency(one.max_inputs * size, (one.target_inputs or one.max_inputs) * size)


def longest_running_s(calls: Calls, now: float) -> float:
    """How long the oldest running input has run, less what first inputs are known to take longer than others: twice that, since they vary."""
    extra_s = 0.0 if calls.first_run_s is None else 2 * max(0.0, calls.first_run_s - (calls.mean_run_s or 0.0))
    longest = 0.0
    for container in calls.containers.values():
        if container.running and container.live:
            started = next(iter(container.running.values())).started
            longest = max(longest, now - started - (extra_s if started < container.warm_at else 0.0))
    return longest
