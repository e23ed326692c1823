"""A function's pool: feeds what happens to its machine (`core.calls`), and carries out what that commands. The hot path of every call."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from squall.control.calls.history import error_of
from squall.control.calls.input import RoutedInput
from squall.control.calls.live_function import LiveFunction
from squall.control.calls.pool_container import Member
from squall.control.calls.pool_scaler import PoolSize
from squall.core.calls import commands, dispatch, endings, outcomes
from squall.core.calls.state import Calls
from squall.core.placement import Short
from squall.model.errors import Error
from squall.model.specs import FunctionSpec, Scaling
from squall.wire.agent import Died
from squall.wire.messages import ITEM, Output, Result, Revoke, StartFailed, Stop

if TYPE_CHECKING:
    from squall.control.calls.router import Router


class Pool:
    """Containers of one function (of one set of class parameters) and the inputs that wait for them."""

    def __init__(self, router: "Router", function: LiveFunction, parameters: bytes = b"") -> None:
        self.router, self.function, self.parameters = router, function, parameters
        calls = self.calls = Calls(function.spec, next_token=router.next_token, pressure=router.spawned.pressure, story=router.story)
        self.members: dict[str, Member] = calls.containers
        self.queue, self.delayed, self.limit, self.web = calls.queue, calls.delayed, calls.limit, calls.web
        self.methods = frozenset(method.name for method in function.spec.methods)
        self.short: Short | None = None
        self.failure: Error | StartFailed | None = None
        #: A newer version of the function: its pool (None: there is no such function any more, or no newer version).
        self.successor: Pool | None = None
        #: Set when a container has become ready or has failed to.
        self.started = asyncio.Event()
        self._carrying_out = False
        size: PoolSize = PoolSize(self)
        self.rescale, self.look_again, self.grow = size.rescale, size.look_again, size.grow

    @property
    def spec(self) -> FunctionSpec:
        return self.calls.spec

    @property
    def unused(self) -> bool:
        """Nothing is in it, nothing is kept warm for it, and no setting of its own would be lost with it."""
        calls = self.calls
        return not (calls.containers or calls.queue or calls.delayed or calls.spec.scaling.min_containers) and calls.spec is self.function.spec

    def tune(self, scaling: Scaling) -> None:
        """Change how many containers there are, until the next version."""
        self.calls.spec = msgspec.structs.replace(self.calls.spec, scaling=scaling)
        self.rescale()

    # events

    def submit(self, item: RoutedInput) -> None:
        """Run it now if a container has room, else queue it."""
        dispatch.submit(self.calls, item, self.router.now())
        self.carry_out()

    def result(self, member: Member, message: Result) -> None:
        """A result, or an item of a generator."""
        if message.status == ITEM:
            item = outcomes.item_sent(self.calls, member, message.token)
            if isinstance(item, RoutedInput) and item.caller is not None:
                item.delivered += 1
                item.caller.send(Output(item.request, ITEM, message.data, item.index))
        else:
            outcomes.result(self.calls, member, message.token, message.status, message.data, message.seconds, self.router.now())
        self.carry_out()

    def feed(self, event: Callable[..., Any], *facts: Any, **more: Any) -> Any:
        """Any other event of `core.calls`: its function, called with the machine, these facts, and the time by name where it takes one."""
        answer = event(self.calls, *facts, **more)
        self.carry_out()
        return answer

    def start_failed(self, member: Member, error: Error | StartFailed) -> None:
        """It never became ready: what waits gets the error, unless another container can serve it."""
        now = self.router.now()
        if not member.end_reason:
            self.failure = error
            self.started.set()
        outcome = (error.status, error.data) if isinstance(error, StartFailed) else error
        outcomes.end_waiting(self.calls, outcomes.start_failed(self.calls, member, now), outcome, now)
        self.carry_out()

    def died(self, member: Member, death: Died) -> None:
        """A ready container ended."""
        outcomes.died(self.calls, member, _reason(death), member.explain(death), death.last_token, self.router.now())
        self.carry_out()

    def cancel(self, item: RoutedInput, error: Error | None = None) -> None:
        """Stop an input; see `endings.cancel`."""
        endings.cancel(self.calls, item, self.router.now(), error)
        self.carry_out()

    def check(self, now: float) -> bool:
        """Look after timeouts and stuck containers; see `endings.check`."""
        watched = endings.check(self.calls, now)
        self.carry_out()
        return watched

    def join(self, member: Member) -> None:
        """It is one of this pool's containers from now on, until its machine forgets it."""
        self.router.members[member.id] = member
        dispatch.add(self.calls, member)
        self.carry_out()

    def dismiss(self, member: Member, reason: str, grace_s: float = endings.EXIT_GRACE_S) -> None:
        """End a container on purpose; see `endings.end_container`."""
        endings.end_container(self.calls, member, reason, grace_s)
        self.carry_out()

    def retire(self, successor: "Pool | None") -> None:
        """A new version has come. What waits goes to it; what runs ends here, and each container with its last input."""
        self.successor = successor
        endings.replace(self.calls, has_successor=successor is not None)
        self.carry_out()

    def close(self, reason: str, *, keep: bool = False) -> None:
        """The app ends; see `endings.close`."""
        endings.close(self.calls, self.router.now(), reason, keep=keep)
        self.carry_out()

    # commands

    def carry_out(self) -> None:
        """Do what the machine commands, in its order. What that leads to at once comes after it."""
        pending = self.calls.commands
        if self._carrying_out or not pending:
            return
        self._carrying_out = True
        try:
            for command in pending:  # it grows meanwhile
                _ACTIONS[type(command)](self, command)
        finally:
            pending.clear()
            self._carrying_out = False


def _begin(pool: Pool, command: commands.Begin) -> None:
    item: Any = command.input
    if item.durable:
        pool.router.spawned.claim(item)
    item.begin(command.container)


def _halt(pool: Pool, command: commands.Halt) -> None:
    container, token = command.container, command.token
    command.input.halt(container)  # type: ignore[attr-defined]
    pool.router.later(command.grace_s, lambda: pool.feed(endings.grace_over, container, token))


def _retry_later(pool: Pool, command: commands.RetryLater) -> None:
    item = command.input
    pool.router.later(command.delay_s, lambda: pool.feed(dispatch.retry_due, item, pool.router.now()))


def _attempt_failed(pool: Pool, command: commands.AttemptFailed) -> None:
    item: Any = command.input
    match command.outcome:
        case None:
            why = "its container was lost"
        case (status, data):
            why = error_of(status, data) or ""
        case error:
            why = f"{type(error).__name__}: {error}"
    pool.router.attempt_failed(item, why)


def _hand_over(pool: Pool, command: commands.HandOver) -> None:
    item: Any = command.input
    assert pool.successor is not None, "only what has a successor hands over"
    item.pool = pool.successor
    pool.router.queue(item)


def _shutdown(pool: Pool, command: commands.Shutdown) -> None:
    container: Any = command.container
    if command.cancelled:
        container.tell(Stop(command.cancelled))
    container.tell(Stop())
    pool.router.later(command.grace_s, partial(container.link.kill, container.id))


def _forget(pool: Pool, command: commands.Forget) -> None:
    member: Any = command.container
    pool.router.members.pop(member.id, None)
    member.placement.give_back()
    pool.router.container_gone(pool, member, command.reason)


def _requeued(pool: Pool, command: commands.Requeued) -> None:
    item: Any = command.input
    pool.router.spawned.lost(item)


def _rescale(pool: Pool, command: commands.Rescale) -> None:
    pool.rescale()


def _look_again(pool: Pool, command: commands.LookAgain) -> None:
    pool.look_again(command.at)


def _await_store(pool: Pool, command: commands.AwaitStore) -> None:
    pool.router.spawned.pause(pool)


#: What each command does. Containers are `Member`s and inputs `RoutedInput`s here; the machine knows less of them.
_ACTIONS: dict[type[commands.Command], Callable[[Pool, Any], Any]] = {
    commands.Begin: _begin,
    commands.End: lambda pool, command: pool.router.end(command.input, command.status, command.data),
    commands.Fail: lambda pool, command: pool.router.end_with(command.input, command.error),
    commands.Drop: lambda pool, command: pool.router.drop(command.input),
    commands.HandOver: _hand_over,
    commands.AwaitResend: lambda pool, command: pool.router.await_resend(command.input),
    commands.Requeued: _requeued,
    commands.AttemptFailed: _attempt_failed,
    commands.RetryLater: _retry_later,
    commands.Halt: _halt,
    commands.TakeBack: lambda pool, command: command.container.tell(Revoke(command.tokens)),
    commands.Kill: lambda pool, command: command.container.link.kill(command.container.id),
    commands.Shutdown: _shutdown,
    commands.Forget: _forget,
    commands.Changed: lambda pool, command: pool.router.container_changed(command.container),
    commands.Watch: lambda pool, command: pool.router.busy(pool),
    commands.Rescale: _rescale,
    commands.LookAgain: _look_again,
    commands.AwaitStore: _await_store,
}


def _reason(death: Died) -> str:
    if death.oom_killed:
        return "out of memory"
    if death.exit_code is not None:
        return f"exit code {death.exit_code}"
    return f"signal {death.signal}" if death.signal is not None else "lost"
