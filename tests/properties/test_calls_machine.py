"""Hypothesis against the life of calls: each input ends once, runs in one place, and is retried as often as it may; and defects are found."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from squall.core.calls import commands, dispatch, endings, outcomes
from squall.core.calls.state import CallContainer, Calls, Input, StorePressure, Story
from squall.core.calls.validation import validate
from squall.model.errors import ContainerExitedError
from squall.model.specs import FunctionSpec, RetryPolicy
from squall.model.states import ContainerState, InputState
from squall.wire.messages import CANCELLED, DURABLE, LIVE, OK, RAISED, Call

RETRIES = 2


class Machine(RuleBasedStateMachine):
    @initialize(serial=st.booleans())
    def begin(self, serial: bool) -> None:
        self.now, self.tokens, self.number = 0.0, 0, 0
        spec = FunctionSpec("f", "m", "f", 0, retries=RetryPolicy(RETRIES), timeout_s=1000.0, single_use=not serial)
        self.calls = Calls(spec, next_token=self.token, pressure=StorePressure(1000), story=Story())
        self.inputs: list[Input] = []
        self.ended: dict[int, commands.Command] = {}
        self.raised: Counter[int] = Counter()
        self.later: list[Input] = []
        self.taken_back: list[tuple[CallContainer, tuple[int, ...]]] = []
        self.dying: dict[str, CallContainer] = {}

    def token(self) -> int:
        self.tokens += 1
        return self.tokens

    def carry_out(self) -> None:
        for command in list(self.calls.commands):
            match command:
                case commands.End() | commands.Fail() | commands.Drop():
                    assert id(command.input) not in self.ended, f"{command.input.key} ended twice"
                    self.ended[id(command.input)] = command
                    if isinstance(command, commands.End) and command.status == RAISED:
                        assert self.raised[id(command.input)] == RETRIES + 1, "it was not retried as often as it may be"
                case commands.Begin():
                    assert id(command.input) not in self.ended, f"{command.input.key} begins after its end"
                case commands.RetryLater():
                    self.later.append(command.input)
                case commands.TakeBack():
                    self.taken_back.append((command.container, command.tokens))
                case commands.Kill() | commands.Shutdown():
                    self.dying[command.container.id] = command.container
                case _:
                    pass
        self.calls.commands.clear()

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "calls"):
            validate(self.calls)

    def containers(self, state: ContainerState) -> list[CallContainer]:
        return [container for container in self.calls.containers.values() if container.state is state]

    @rule(durable=st.booleans(), inside=st.booleans())
    def submit(self, durable: bool, inside: bool) -> None:
        self.number += 1
        item = Input(Call(0, "fu", f"fc-{self.number}", 0, b"", "", DURABLE if durable else LIVE, 0, b"", "in-1" if inside else ""), self.now)
        self.inputs.append(item)
        dispatch.submit(self.calls, item, self.now)
        self.carry_out()

    @rule()
    def start(self) -> None:
        self.number += 1
        dispatch.add(self.calls, CallContainer(f"ta-{self.number}", self.now))
        self.carry_out()

    @precondition(lambda self: self.containers(ContainerState.STARTING))
    @rule(data=st.data())
    def become_ready(self, data: st.DataObject) -> None:
        outcomes.ready(self.calls, data.draw(st.sampled_from(self.containers(ContainerState.STARTING))), self.now)
        self.carry_out()

    def busy(self) -> list[CallContainer]:
        return [container for container in self.calls.containers.values() if container.running]

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), status=st.sampled_from([OK, OK, RAISED]), quick=st.booleans(), again=st.booleans())
    def finish(self, data: st.DataObject, status: int, quick: bool, again: bool) -> None:
        """The input that a container is at ends; a container may also say so twice."""
        container = data.draw(st.sampled_from(self.busy()))
        self._finish(container, status, 0.0001 if quick else 0.1, again)

    def _finish(self, container: CallContainer, status: int, seconds: float, again: bool = False) -> None:
        token, item = next(iter(container.running.items()))
        if item.state is InputState.CANCELLED:
            status = CANCELLED
        elif status == RAISED and item.pending_error is None:
            self.raised[id(item)] += 1
        for _ in range(1 + again):
            outcomes.result(self.calls, container, token, status, b"", seconds, self.now)
        self.carry_out()

    @precondition(lambda self: self.containers(ContainerState.READY))
    @rule(data=st.data(), by_itself=st.booleans())
    def die(self, data: st.DataObject, by_itself: bool) -> None:
        self._die(data.draw(st.sampled_from(self.containers(ContainerState.READY))), by_itself)

    def _die(self, container: CallContainer, by_itself: bool) -> None:
        first = next(iter(container.running.values()), None)
        error = ContainerExitedError("3", container=container.id, exit_code=3) if by_itself and not container.end_reason else None
        if first is not None and error is not None and first.state is not InputState.CANCELLED:
            self.raised[id(first)] += 1
        outcomes.died(self.calls, container, "ended", error, 0, self.now)
        self.carry_out()

    @precondition(lambda self: any(id(item) not in self.ended for item in self.inputs))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        endings.cancel(self.calls, data.draw(st.sampled_from([item for item in self.inputs if id(item) not in self.ended])), self.now)
        self.carry_out()

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        endings.check(self.calls, self.now)
        self.carry_out()

    @rule()
    def answer(self) -> None:
        """What containers were asked for comes back, and what waits for its next attempt joins the queue."""
        taken_back, self.taken_back = self.taken_back, []
        for container, tokens in taken_back:
            outcomes.revoked(self.calls, container, tokens, self.now)
        later, self.later = self.later, []
        for item in later:
            dispatch.retry_due(self.calls, item, self.now)
        self.carry_out()

    def teardown(self) -> None:
        if not hasattr(self, "calls"):
            return
        for _ in range(2000):
            if all(id(item) in self.ended for item in self.inputs):
                return
            self.answer()
            for container in list(self.dying.values()):
                if container.id in self.calls.containers:
                    self._die(container, False)
            self.dying.clear()
            if not self.containers(ContainerState.READY):
                self.start()
                outcomes.ready(self.calls, self.containers(ContainerState.STARTING)[0], self.now)
                self.carry_out()
            for container in self.busy():
                if container.running:
                    self._finish(container, RAISED, 0.1)  # so that every attempt that was miscounted shows
            self.sound()
        lost = [item.key for item in self.inputs if id(item) not in self.ended]
        raise AssertionError(f"these never ended: {lost}")


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestCalls = Machine.TestCase


def _applied_twice(real: Callable[..., Any]) -> Callable[..., Any]:
    def result(calls: Calls, container: CallContainer, token: int, *rest: Any) -> None:
        item = container.running.get(token)
        real(calls, container, token, *rest)
        if item is not None and item.state is InputState.SUCCEEDED:
            calls.commands.append(commands.End(item, OK, b""))

    return result


def _too_many(real: Callable[..., Any]) -> Callable[..., Any]:
    def refill(calls: Calls, container: CallContainer, now: float) -> None:
        real(calls, container, now)
        calls.free[container] = None

    return refill


def _blames_all(real: Callable[..., Any]) -> Callable[..., Any]:
    def run_again(calls: Calls, item: Input, now: float, why: str) -> None:
        item.attempts += 1
        real(calls, item, now, why)

    return run_again


@pytest.mark.parametrize(
    ("module", "name", "defect"),
    [
        (outcomes, "result", _applied_twice),
        (outcomes, "requeue", lambda real: lambda calls, item, now, why, **how: None),
        (outcomes, "refill", _too_many),
        (outcomes, "_run_again", _blames_all),
        (endings, "end_stopped", lambda real: lambda calls, item, error, now: None),
    ],
    ids=[
        "a result is applied twice",
        "a retry is forgotten",
        "a busy container counts as free",
        "others' deaths use up retries",
        "a cancelled input never ends",
    ],
)
def test_it_finds(module: Any, name: str, defect: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, name, defect(getattr(module, name)))
    quick = settings(max_examples=500, stateful_step_count=40, deadline=None, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
    with pytest.raises(BaseException):  # noqa: B017  Hypothesis may gather what it found
        run_state_machine_as_test(Machine, settings=quick)
