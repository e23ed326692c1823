"""A function's pool: its queue, its containers, and which input goes where. The hot path of every call."""

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from squall.control.functions import LiveFunction
from squall.control.inputs import Input
from squall.control.members import Member
from squall.control.sizing import PoolSize
from squall.core.placement import Short
from squall.core.retry import Again, after_platform_failure, after_user_failure
from squall.model.errors import Error, FunctionTimeoutError, InternalFailure
from squall.model.options import words
from squall.model.specs import Concurrency, FunctionSpec
from squall.model.states import ContainerState, InputState
from squall.wire.messages import CANCELLED, ITEM, OK, RAISED, Output, Result, Revoke, StartFailed, Stop
from squall.worker.orders import Death

if TYPE_CHECKING:
    from squall.control.router import Router

log = logging.getLogger(__name__)

#: Inputs are sent ahead to a busy container only when they take less than this: then the wait behind others is shorter than a wake-up.
AHEAD_RUN_S = 0.0005
#: Sent ahead: at most so much expected work, and at most so many inputs.
AHEAD_WORK_S = 0.003
AHEAD_MAX = 64
#: Inputs that may wait for one function that sets no limit of its own.
PENDING_MAX = 1_000_000
#: Inputs sent ahead come back when their container has shown no result for so long.
STUCK_S = 0.05
#: User code that was told to stop and does not is ended with its container after this.
STOP_GRACE_S = 5.0
#: Exit hooks of classes may take this long (the reference's rule).
EXIT_GRACE_S = 30.0
#: After failed starts in a row the next one waits, doubling up to the second figure.
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 30.0


class Pool:
    """Containers of one function (of one set of class parameters) and the inputs that wait for them."""

    def __init__(self, router: "Router", function: LiveFunction, parameters: bytes = b"") -> None:
        self.router, self.function, self.spec, self.parameters = router, function, function.spec, parameters
        self.concurrency = at_once(self.spec)
        self.limit = 1 if self.spec.single_use else self.concurrency.max_inputs
        #: Of inputs: their timeout, and the time that they may wait in a container for the rest of their batch.
        self.longest_s = self.spec.timeout_s + max((method.batching.wait_ms / 1000 for method in self.spec.methods if method.batching), default=0.0)
        self.methods = frozenset(method.name for method in self.spec.methods)
        self.queue: deque[Input] = deque()
        #: Inputs that join the queue when the time of their next attempt has come: at which, on the router's clock.
        self.delayed: dict[Input, float] = {}
        self.members: dict[str, Member] = {}
        #: Ready members with room for an input, the one freed last at the end: it is taken first, so that the others idle out.
        self.free: dict[Member, None] = {}
        self.mean_run_s: float | None = None
        self.start_s: float | None = None
        #: Inputs that a busy member may get ahead of time.
        self.ahead = 0
        self.may_run_ahead = not self.spec.single_use and not any(method.is_generator or method.batching or method.web for method in self.spec.methods)
        self.short: Short | None = None
        self.failures = 0
        self.failure: Error | StartFailed | None = None
        self.not_before = 0.0
        self.closed = False
        #: Closed with the server: inputs that outlive it are left as they are.
        self.kept = False
        #: A newer version of the function: its pool (None: there is no such function any more). What runs here is finished here, nothing new begins.
        self.successor: Pool | None = None
        self.retired = False
        #: Set when a container has become ready or has failed to.
        self.started = asyncio.Event()
        self.web = any(method.web is not None for method in self.spec.methods)
        size = PoolSize(self)
        self.rescale, self.look_again, self.grow = size.rescale, size.look_again, size.grow

    # inputs

    @property
    def full(self) -> bool:
        """Whether nothing more may wait here."""
        most = self.spec.scaling.max_pending
        return len(self.queue) >= (PENDING_MAX if most is None else most)

    def submit(self, item: Input) -> None:
        """Run it now if a container has room, else queue it."""
        if self.successor is not None:
            item.pool = self.successor
            self.successor.submit(item)
            return
        if self.free and not (self.router.spawned.congested and item.durable):
            member, _ = self.free.popitem()
            self._assign(member, item)
            if len(member.running) < self.limit:
                self.free[member] = None
            return
        self.queue.append(item)
        # Not to a busy member when a container of ours may be waiting for it: that one might be the caller.
        if self.ahead and not item.call.parent and self._send_ahead():
            return
        self.rescale()

    def _send_ahead(self) -> bool:
        """Give the queue's head to a busy member that is quick. False when none has room."""
        room = self.limit + self.ahead
        for member in self.members.values():
            if member.state is ContainerState.READY and not member.leaving and len(member.running) < room:
                self._refill(member)
                return True
        return False

    def _assign(self, member: Member, item: Input) -> None:
        router = self.router
        token = router.next_token()
        item.token, item.member, item.state = token, member, InputState.RUNNING
        item.attempts += 1
        item.started = router.now()
        if not member.running:
            member.last_result = item.started
        member.running[token] = item
        if item.durable:
            router.spawned.claim(item)
        item.begin(member)
        router.busy(self)

    def _refill(self, member: Member) -> None:
        """After a result, or when there is room: give it what waits."""
        queue = self.queue
        room = self.limit + self.ahead
        running = member.running
        if member.leaving:
            if not running:
                self.dismiss(member, "its code wanted no more inputs")
            return
        while queue and len(running) < room:
            if len(running) >= self.limit and queue[0].call.parent:
                break
            if self.router.spawned.congested and queue[0].durable:
                self.router.spawned.pause(self)
                break
            item = queue.popleft()
            if item.state is InputState.QUEUED:
                self._assign(member, item)
        if len(running) < self.limit:
            if self.retired and not running:
                self.dismiss(member, "replaced by a new version")
                return
            self.free[member] = None
            if not running:
                # The hot path of a sequence of calls: the pool is looked at when this member may end, not after each of them.
                member.idle_since = now = self.router.now()
                self.look_again(now + self.spec.scaling.scaledown_window_s)

    def result(self, member: Member, message: Result) -> None:
        """A result, or an item of a generator. Anything with a token that is not running here is stale and has no effect."""
        item = member.running.get(message.token)
        if item is None:
            return
        status = message.status
        if status == ITEM:
            item.credit -= 1
            if item.credit < -1 and not item.readmitted:  # a runner sends one item without any; more than it may would lie in our memory
                member.dismissed = member.dismissed or "it sent more items than it was asked for"
                if member.hosted is not None:
                    member.hosted.kill()
            elif item.asker is not None:
                item.asker.send(Output(item.request, ITEM, message.data, item.index))
            return
        del member.running[message.token]
        member.last_result = now = self.router.now()
        member.inputs_done += 1
        if member.inputs_done == 1:
            member.first_input_s = message.seconds
        self._measure(message.seconds)
        if member.running and self.limit == 1:
            next(iter(member.running.values())).started = now
        if status == OK:
            self.router.end(item, OK, message.data)
        elif item.doom is not None:
            self._failed(item, item.doom)
        elif status == RAISED and self._retry(item):
            pass
        elif status == CANCELLED and item.readmitted and item.state is not InputState.CANCELLED:
            # An earlier server told it to stop, and took along why.
            if message.seconds >= self.spec.timeout_s:
                self._failed(item, self._timeout())
            else:
                self._lost(item)
        else:
            self.router.end(item, status, message.data)
        if member.state is not ContainerState.READY:
            return
        if self.spec.single_use:
            self.dismiss(member, "single use")
            return
        self._refill(member)

    def _measure(self, seconds: float) -> None:
        mean = self.mean_run_s
        mean = self.mean_run_s = seconds if mean is None else mean + 0.1 * (seconds - mean)
        self.ahead = min(AHEAD_MAX, int(AHEAD_WORK_S / max(mean, 1e-6))) if mean < AHEAD_RUN_S and self.may_run_ahead else 0

    def _retry(self, item: Input) -> bool:
        again = after_user_failure(item.attempts - item.lost, self.spec.retries)
        if isinstance(again, Again):
            self._requeue(item, again.delay_s)
            return True
        return False

    def _failed(self, item: Input, error: Error) -> None:
        """An attempt ended with an error of the platform's making that the user may retry (timeout, exit, out of memory)."""
        if not self._retry(item):
            self.router.end_with(item, error)

    def _lost(self, item: Input) -> None:
        """An attempt ended without an outcome, by the platform's fault."""
        item.lost += 1
        if isinstance(after_platform_failure(item.lost), Again):
            self._requeue(item, front=True)
        else:
            self.router.end_with(item, InternalFailure(f"{words(self.spec.tag)} was given up: its container was lost {item.lost} times"))

    def _requeue(self, item: Input, delay_s: float = 0.0, *, front: bool = False) -> None:
        item.state, item.member, item.token = InputState.QUEUED, None, 0
        item.doom = None
        item.readmitted = False
        if item.adrift:
            self.router.set_adrift(item)
            return
        if front and item.durable:
            self.router.spawned.lost(item)
        if delay_s > 0:
            self.delayed[item] = self.router.now() + delay_s
            self.router.later(delay_s, lambda: self._submit_again(item))
        elif front and self.successor is None:
            self.queue.appendleft(item)
            self.rescale()
        else:
            self.submit(item)

    def _submit_again(self, item: Input) -> None:
        self.delayed.pop(item, None)
        if item.state is InputState.QUEUED:
            self.submit(item)

    def cancel(self, item: Input, error: Error | None = None) -> None:
        """Stop an input: a queued one at once, a running one as soon as its code can be stopped. `error`: what it ends with instead of a cancellation."""
        if item.state is InputState.QUEUED:
            item.state = InputState.CANCELLED
            self._end_stopped(item, error)
            return
        member, token = item.member, item.token
        if member is None or member.hosted is None or token not in member.running:
            return
        item.doom = error
        if error is None:
            item.state = InputState.CANCELLED
        item.halt(member)
        self.router.later(STOP_GRACE_S, lambda: self._insist(member, token))

    def _end_stopped(self, item: Input, error: Error | None) -> None:
        if error is None:
            self.router.end(item, CANCELLED, b"")
        else:
            self.router.end_with(item, error)

    def _insist(self, member: Member, token: int) -> None:
        """The code did not stop: end its container."""
        item = member.running.get(token)
        if item is not None and member.hosted is not None:
            member.dismissed = member.dismissed or "its input did not stop"
            member.hosted.kill()

    def revoked(self, member: Member, tokens: tuple[int, ...]) -> None:
        """Inputs came back that had not begun: cancelled ones end, the others go to whoever is free."""
        for token in reversed(tokens):
            item = member.running.pop(token, None)
            if item is None:
                continue
            item.attempts -= 1
            if item.doom is not None or item.state is InputState.CANCELLED:
                self._end_stopped(item, item.doom)
            else:
                self._requeue(item, front=True)
        if member.leaving and member.state is ContainerState.READY:
            self._refill(member)
        self.drain_queue()

    def drain_queue(self) -> None:
        """Give what waits to members that have room."""
        for member in reversed(list(self.free)):
            if not self.queue:
                return
            self.free.pop(member, None)
            self._refill(member)

    def printed(self, member: Member, token: int, stream: int, data: bytes) -> None:
        item = member.running.get(token)
        self.router.printed(self, member, item, stream, data)

    # containers

    def retire(self, successor: "Pool | None") -> None:
        """A new version has come. What waits goes to it; what runs ends here, and each container with its last input."""
        self.retired, self.successor = True, successor
        if successor is not None:
            waiting, self.queue = self.queue, deque()
            for item in waiting:
                if item.state is InputState.QUEUED:
                    item.pool = successor
                    successor.submit(item)
        for member in list(self.members.values()):
            if not member.running and not (self.queue and member.state is ContainerState.STARTING):
                self.dismiss(member, "replaced by a new version")

    def ready(self, member: Member) -> None:
        self.started.set()
        now = self.router.now()
        member.ready_at = member.idle_since = member.last_result = now
        took = now - member.created
        self.start_s = took if self.start_s is None else 0.5 * (self.start_s + took)
        self.failures = 0
        if member.state is not ContainerState.STARTING:
            return
        member.state = ContainerState.READY
        self.router.container_changed(member)
        self._refill(member)

    def start_failed(self, member: Member, error: Error | StartFailed) -> None:
        """It never became ready. What waits gets the error, unless another member can serve it; the next start waits longer each time."""
        self._forget(member, "could not start")
        if member.dismissed:
            self.rescale()
            return
        self.failures += 1
        self.failure = error
        self.started.set()
        self.not_before = self.router.now() + min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (self.failures - 1))
        if not any(other.state is ContainerState.READY for other in self.members.values()):
            waiting, self.queue = self.queue, deque()
            for item in waiting:
                if item.state is InputState.QUEUED:
                    if isinstance(error, StartFailed):
                        self.router.end(item, error.status, error.data)
                    else:
                        self.router.end_with(item, error)
        self.rescale()

    def died(self, member: Member, death: Death) -> None:
        """A ready container ended. The input that it was at has failed, or is run again if the platform lost it; those behind it are run elsewhere."""
        self._forget(member, member.dismissed or _reason(death))
        inputs = list(member.running.values())
        member.running.clear()
        error = member.explain(death)
        # Only runners that take one input after another say which they were at; of the others, and of one that said nothing, it is the first ones.
        at_fault = {death.last_token} if death.last_token else {item.token for item in inputs[: self.limit]}
        if inputs and at_fault.isdisjoint(item.token for item in inputs):
            # It died between two inputs, or does not tell the truth. The next one was lost, which may happen to it a few times and not for ever.
            at_fault, error = {item.token for item in inputs[: self.limit]}, None
        for item in reversed(inputs):
            if item.doom is not None:
                self._failed(item, item.doom)
            elif item.state is InputState.CANCELLED:
                self.router.end(item, CANCELLED, b"")
            elif item.token not in at_fault:
                item.attempts -= 1
                self._requeue(item, front=True)
            elif error is not None:
                self._failed(item, error)
            else:
                self._lost(item)
        self.drain_queue()
        self.rescale()

    def join(self, member: Member) -> None:
        """It is one of this pool's containers from now on, until `_forget`."""
        self.members[member.id] = self.router.members[member.id] = member

    def _forget(self, member: Member, reason: str) -> None:
        self.members.pop(member.id, None)
        self.router.members.pop(member.id, None)
        self.free.pop(member, None)
        member.placement.give_back()
        self.router.container_gone(self, member, reason)

    def dismiss(self, member: Member, reason: str, grace_s: float = EXIT_GRACE_S) -> None:
        """End a container on purpose. Exit hooks of classes run; what it still had runs elsewhere."""
        if member.dismissed or member.hosted is None:
            return
        member.dismissed = reason
        starting = member.state is ContainerState.STARTING
        if not starting:
            member.state = ContainerState.DRAINING
        self.free.pop(member, None)
        hosted = member.hosted
        if (self.spec.is_class or self.web) and not starting and grace_s > 0:
            if cancelled := tuple(token for token, item in member.running.items() if item.state is InputState.CANCELLED):
                hosted.interrupt(Stop(cancelled))
            hosted.send(Stop())
            self.router.later(grace_s, hosted.kill)
        else:
            hosted.kill_soon()

    def leave(self, member: Member) -> None:
        """No more inputs for it. What lies there and has not begun goes elsewhere; it ends after the others."""
        member.leaving = True
        self.free.pop(member, None)
        if (waiting := tuple(member.running)[self.limit :]) and member.hosted is not None:
            member.hosted.interrupt(Revoke(waiting))
        if member.state is ContainerState.READY:
            self._refill(member)

    def readmit(self, member: Member, *, leaving: bool) -> None:
        """A container of before a restart is a member again, with its inputs."""
        if leaving:
            member.state, member.dismissed = ContainerState.DRAINING, "was ending when its server was restarted"
        elif self.spec.single_use and not member.running:
            self.dismiss(member, "single use")
        elif len(member.running) < self.limit:
            self._refill(member)
        self.rescale()

    def check(self, now: float) -> bool:
        """Once in a while, while something runs: timeouts, stuck containers. Whether there is something to watch."""
        watched = False
        for member in list(self.members.values()):
            if member.state is ContainerState.STARTING:
                watched = True
                limit = self.spec.startup_timeout_s or self.spec.timeout_s
                if now - member.created > limit and not member.dismissed and member.hosted is not None:
                    member.hosted.kill()
            running = member.running
            if not running:
                continue
            watched = True
            if len(running) > self.limit and now - member.last_result > STUCK_S and member.hosted is not None:
                member.last_result = now
                member.hosted.interrupt(Revoke(tuple(running)[self.limit :]))
            for item in list(running.values())[: self.limit]:
                if now - item.started > self.longest_s and item.doom is None:
                    self.cancel(item, self._timeout())
        return watched

    def _timeout(self) -> Error:
        return FunctionTimeoutError(f"{words(self.spec.tag)} ran longer than its timeout of {self.spec.timeout_s:g} s")

    def close(self, reason: str, *, keep: bool = False) -> None:
        """The app ends: queued inputs are cancelled, containers end. `keep`: inputs that outlive the server get no end."""
        self.closed, self.kept = True, keep
        waiting, self.queue = self.queue, deque()
        for item in (*waiting, *self.delayed):
            if item.state is InputState.QUEUED and not (keep and item.survives):
                self.router.drop(item)
        for member in list(self.members.values()):
            for item in list(member.running.values()):
                if not (keep and item.survives):
                    item.state = InputState.CANCELLED
            self.dismiss(member, reason)


def at_once(spec: FunctionSpec) -> Concurrency:
    """Inputs that one container may have, and that the autoscaler aims at: of a batched function, all that fit into its batches."""
    size = max((method.batching.max_batch_size for method in spec.methods if method.batching), default=1)
    one = spec.concurrency
    return one if size == 1 else Concurrency(one.max_inputs * size, (one.target_inputs or one.max_inputs) * size)


def _reason(death: Death) -> str:
    exit = death.exit
    if exit.oom_killed:
        return "out of memory"
    if exit.exit_code is not None:
        return f"exit code {exit.exit_code}"
    return f"signal {exit.signal}" if exit.signal is not None else "lost"
