"""The life of a call as lists: events in, whole lists of commands out, each with the story that it tells."""

from typing import Any

import pytest

from squall.core.calls import dispatch, endings, outcomes
from squall.core.calls.commands import (
    AttemptFailed,
    AwaitStore,
    Begin,
    Changed,
    Command,
    Drop,
    End,
    Fail,
    Forget,
    Halt,
    HandOver,
    Kill,
    LookAgain,
    Requeued,
    Rescale,
    RetryLater,
    Shutdown,
    TakeBack,
    Watch,
)
from squall.core.calls.state import SESSIONS_MAX, CallContainer, Calls, Input, StorePressure, Story, longest_running_s
from squall.core.calls.validation import validate
from squall.core.retry import PLATFORM_RETRIES_MAX
from squall.model.errors import ContainerExitedError, FunctionTimeoutError, GeneratorInterruptedError, InternalFailure
from squall.model.specs import Concurrency, FunctionSpec, MethodSpec, RetryPolicy, Scaling, Web
from squall.model.states import ContainerState, InputState
from squall.wire.messages import CANCELLED, DURABLE, LIVE, OK, RAISED, Call


class Bench:
    """One machine, its clock, and short words for events."""

    def __init__(self, **spec: Any) -> None:
        self.pressure = StorePressure(10)
        self.story = Story()
        self.tokens = 0
        self.now = 100.0
        self.calls = Calls(FunctionSpec("f", "m", "f", 0, **spec), next_token=self._token, pressure=self.pressure, story=self.story)

    def _token(self) -> int:
        self.tokens += 1
        return self.tokens

    def take(self) -> list[Command]:
        """The commands since the last look; the state has to be sound."""
        validate(self.calls)
        commands = list(self.calls.commands)
        self.calls.commands.clear()
        return commands

    def input(self, name: str, **call: Any) -> Input:
        return Input(Call(0, "fu-1", f"fc-{name}", 0, b"", hold=call.pop("hold", LIVE), **call), self.now)

    def submit(self, name: str, **call: Any) -> Input:
        item = self.input(name, **call)
        dispatch.submit(self.calls, item, self.now)
        return item

    def container(self, name: str, *, ready: bool = True) -> CallContainer:
        container = CallContainer(name, self.now)
        dispatch.add(self.calls, container)
        if ready:
            outcomes.ready(self.calls, container, self.now)
        return container

    def result(self, container: CallContainer, item: Input, status: int = OK, seconds: float = 1.0) -> None:
        outcomes.result(self.calls, container, item.token, status, b"v", seconds, self.now)


def test_a_call_from_its_arrival_to_its_end() -> None:
    bench = Bench()
    item = bench.submit("a")
    assert bench.take() == [Rescale()]  # nobody is there to run it
    one = bench.container("ta-1")
    assert bench.take() == [Watch(), Changed(one), Watch(), Begin(item, one)]
    assert (item.state, item.token, item.attempts) == (InputState.RUNNING, 1, 1)
    bench.now += 2
    bench.result(one, item, seconds=2.0)
    assert bench.take() == [End(item, OK, b"v"), LookAgain(bench.now + 60.0)]
    assert item.state is InputState.SUCCEEDED
    again = bench.submit("b")  # the free container gets it at once, and the pool's size is not looked at
    assert bench.take() == [Watch(), Begin(again, one)]


def test_a_stale_token_has_no_effect() -> None:
    bench = Bench()
    one, item = bench.container("ta-1"), bench.submit("a")
    bench.take()
    outcomes.result(bench.calls, one, item.token + 7, OK, b"", 0.0, bench.now)
    assert bench.take() == []
    assert item.state is InputState.RUNNING


def test_the_container_freed_last_is_taken_first() -> None:
    bench = Bench()
    one, two = bench.container("ta-1"), bench.container("ta-2")
    bench.take()
    item = bench.submit("a")
    assert Begin(item, two) in bench.take()
    other = bench.submit("b")
    assert Begin(other, one) in bench.take()


def test_quick_inputs_are_sent_ahead_and_those_of_containers_are_not() -> None:
    bench = Bench()
    one, first = bench.container("ta-1"), bench.submit("a")
    bench.result(one, first, seconds=0.0001)
    running = bench.submit("b")
    bench.take()
    ahead = bench.submit("c")
    assert bench.take() == [Begin(ahead, one)]
    inside = bench.submit("d", parent="in-1")  # the container that asks may be the one that would have to run it
    assert bench.take() == [Rescale()]
    assert list(one.running.values()) == [running, ahead]
    assert list(bench.calls.queue) == [inside]


def test_inputs_behind_a_slow_one_come_back_and_go_first() -> None:
    bench = Bench()
    one, first = bench.container("ta-1"), bench.submit("a")
    bench.result(one, first, seconds=0.0001)
    bench.submit("slow")
    behind = bench.submit("behind")
    bench.take()
    bench.now += 0.1
    assert endings.check(bench.calls, bench.now)
    assert bench.take() == [TakeBack(one, (behind.token,))]
    outcomes.revoked(bench.calls, one, (behind.token,), bench.now)
    assert bench.take() == [Rescale()]
    assert (behind.state, behind.attempts, list(bench.calls.queue)) == (InputState.QUEUED, 0, [behind])


def test_an_exception_is_retried_after_its_delay_and_then_is_the_outcome() -> None:
    bench = Bench(retries=RetryPolicy(1, 5.0))
    one, item = bench.container("ta-1"), bench.submit("a")
    bench.take()
    bench.result(one, item, RAISED)
    assert bench.take() == [AttemptFailed(item, (RAISED, b"v")), RetryLater(item, 5.0), LookAgain(bench.now + 60.0)]
    bench.now += 5
    dispatch.retry_due(bench.calls, item, bench.now)
    assert bench.take() == [Watch(), Begin(item, one)]
    bench.result(one, item, RAISED)
    assert bench.take()[0] == End(item, RAISED, b"v")
    assert [line for _, line in bench.story.of("fc-a", 0)] == [
        "its code raised an exception: queued",
        "given to ta-1 again (attempt 2): running",
    ]


def test_a_lost_container_uses_up_no_retries_and_eight_losses_are_enough() -> None:
    bench = Bench()
    item = bench.submit("a", hold=DURABLE)
    for number in range(PLATFORM_RETRIES_MAX + 1):
        one = bench.container(f"ta-{number}")
        bench.take()
        outcomes.died(bench.calls, one, "lost", None, item.token, bench.now)
        commands = bench.take()
        if number < PLATFORM_RETRIES_MAX:
            assert commands == [Forget(one, "lost"), AttemptFailed(item, None), Requeued(item), Rescale(), Rescale()]
    assert isinstance(commands[1], Fail)
    assert isinstance(commands[1].error, InternalFailure)


def test_the_input_that_its_container_was_at_has_failed_and_those_behind_it_run_elsewhere() -> None:
    bench = Bench()
    one, first = bench.container("ta-1"), bench.submit("a")
    bench.result(one, first, seconds=0.0001)
    culprit, behind = bench.submit("b"), bench.submit("c")
    bench.take()
    error = ContainerExitedError("exit code 3", container="ta-1", exit_code=3)
    outcomes.died(bench.calls, one, "exit code 3", error, culprit.token, bench.now)
    assert bench.take() == [Forget(one, "exit code 3"), Rescale(), Fail(culprit, error), Rescale()]
    assert list(bench.calls.queue) == [behind]
    assert behind.attempts == 0


def test_a_container_that_names_an_attempt_that_it_never_had_blames_the_platform() -> None:
    bench = Bench(retries=RetryPolicy(3))
    one, item = bench.container("ta-1"), bench.submit("a")
    bench.take()
    outcomes.died(bench.calls, one, "exit code 3", ContainerExitedError("3", container="ta-1", exit_code=3), 999, bench.now)
    assert bench.take() == [Forget(one, "exit code 3"), AttemptFailed(item, None), Rescale(), Rescale()]
    assert item.lost == 1


def test_a_generator_that_gave_items_is_not_run_again() -> None:
    bench = Bench(methods=(MethodSpec(is_generator=True),), retries=RetryPolicy(3))
    one, item = bench.container("ta-1"), bench.submit("a")
    item.credit = 5
    assert outcomes.item_sent(bench.calls, one, item.token) is item
    item.delivered = 1
    bench.take()
    outcomes.died(bench.calls, one, "lost", None, 0, bench.now)
    commands = bench.take()
    assert isinstance(commands[1], Fail)
    assert isinstance(commands[1].error, GeneratorInterruptedError)
    assert commands[1].error.items_delivered == 1


def test_a_generator_that_sends_more_than_it_was_asked_for_ends_with_its_container() -> None:
    bench = Bench(methods=(MethodSpec(is_generator=True),))
    one, item = bench.container("ta-1"), bench.submit("a")
    bench.take()
    assert outcomes.item_sent(bench.calls, one, item.token) is item  # one is sent without any credit
    assert outcomes.item_sent(bench.calls, one, item.token) is None
    assert bench.take() == [Kill(one)]


def test_a_timeout_stops_the_code_then_ends_the_container() -> None:
    bench = Bench(timeout_s=10.0)
    one, item = bench.container("ta-1"), bench.submit("a")
    bench.take()
    bench.now += 10.5
    endings.check(bench.calls, bench.now)
    assert bench.take() == [Halt(item, one, item.token, endings.STOP_GRACE_S)]
    endings.grace_over(bench.calls, one, item.token)
    assert bench.take() == [Kill(one)]
    outcomes.died(bench.calls, one, "signal 9", None, item.token, bench.now)
    commands = bench.take()
    assert commands[0] == Forget(one, "its input did not stop")
    assert isinstance(commands[1], Fail)
    assert isinstance(commands[1].error, FunctionTimeoutError)


def test_cancelling_what_waits_and_what_runs() -> None:
    bench = Bench()
    one, running = bench.container("ta-1"), bench.submit("a")
    queued = bench.submit("b")
    bench.take()
    endings.cancel(bench.calls, queued, bench.now)
    endings.cancel(bench.calls, running, bench.now)
    assert bench.take() == [End(queued, CANCELLED, b""), Halt(running, one, running.token, endings.STOP_GRACE_S)]
    bench.result(one, running, CANCELLED)
    assert bench.take() == [End(running, CANCELLED, b"v"), LookAgain(bench.now + 60.0)]
    assert not bench.calls.queue  # what was cancelled while it waited is passed over


def test_a_start_that_fails_ends_what_waits_and_the_next_waits_longer() -> None:
    bench = Bench()
    item = bench.submit("a")
    for wait in (0.5, 1.0, 2.0):
        one = bench.container("ta-1", ready=False)
        ending = outcomes.start_failed(bench.calls, one, bench.now)
        assert bench.calls.not_before == bench.now + wait
    assert ending == []
    other = bench.submit("b")
    one = bench.container("ta-2", ready=False)
    assert outcomes.start_failed(bench.calls, one, bench.now) == [other]
    assert item.state is InputState.QUEUED  # whoever feeds the events ends those that were returned


def test_what_waits_is_kept_when_another_container_can_serve_it() -> None:
    bench = Bench()
    bench.container("ta-1")
    bench.submit("a")
    waits = bench.submit("b")
    broken = bench.container("ta-2", ready=False)
    assert outcomes.start_failed(bench.calls, broken, bench.now) == []
    assert list(bench.calls.queue) == [waits]


def test_durable_inputs_wait_while_the_store_is_behind_and_live_ones_do_not() -> None:
    bench = Bench()
    one = bench.container("ta-1")
    bench.take()
    bench.pressure.unwritten = 11
    durable = bench.submit("a", hold=DURABLE)
    assert bench.take() == [Rescale()]
    dispatch.drain(bench.calls, bench.now)
    assert AwaitStore() in bench.take()
    live = bench.submit("b")
    assert Begin(live, one) in bench.take()
    bench.pressure.unwritten = 0
    bench.result(one, live)
    assert Begin(durable, one) in bench.take()


def test_a_new_version_takes_what_waits_and_what_runs_ends_here() -> None:
    bench = Bench()
    one, running = bench.container("ta-1"), bench.submit("a")
    waits = bench.submit("b")
    bench.take()
    endings.replace(bench.calls, has_successor=True)
    assert bench.take() == [HandOver(waits)]
    late = bench.submit("c")
    assert bench.take() == [HandOver(late)]
    bench.result(one, running)
    assert bench.take() == [End(running, OK, b"v"), Kill(one)]
    assert one.end_reason == "replaced by a new version"


def test_exit_hooks_run_when_a_container_of_a_class_ends() -> None:
    bench = Bench(is_class=True)
    one, item = bench.container("ta-1"), bench.submit("a")
    endings.cancel(bench.calls, item, bench.now)
    bench.take()
    endings.end_container(bench.calls, one, "stopped")
    endings.end_container(bench.calls, one, "idle")  # the first reason counts
    assert bench.take() == [Shutdown(one, (item.token,), endings.EXIT_GRACE_S)]
    assert (one.state, one.end_reason) == (ContainerState.DRAINING, "stopped")


def test_the_end_of_an_app_cancels_what_waits() -> None:
    bench = Bench()
    one, running = bench.container("ta-1"), bench.submit("a")
    waits = bench.submit("b")
    bench.take()
    endings.close(bench.calls, bench.now, "the app was stopped")
    assert bench.take() == [Drop(waits), Kill(one)]
    assert (waits.state, running.state) == (InputState.CANCELLED, InputState.CANCELLED)
    outcomes.died(bench.calls, one, "signal 9", None, 0, bench.now)
    assert bench.take() == [Forget(one, "the app was stopped"), End(running, CANCELLED, b""), Rescale()]


def test_what_the_end_of_its_app_has_cancelled_is_not_retried() -> None:
    """As it was once: an input that had timed out just before waited in a pool that had ended."""
    bench = Bench(retries=RetryPolicy(3))
    one, item = bench.container("ta-1"), bench.submit("a")
    bench.take()
    item.pending_error = FunctionTimeoutError("too long")
    endings.close(bench.calls, bench.now, "the app was stopped")
    bench.result(one, item, RAISED)
    assert [command for command in bench.take() if isinstance(command, Fail)] == [Fail(item, item.pending_error)]
    assert (item.state, list(bench.calls.queue)) == (InputState.FAILED, [])


def test_a_container_that_becomes_ready_after_the_order_to_end_gets_nothing() -> None:
    bench = Bench()
    one = bench.container("ta-1", ready=False)
    bench.take()
    endings.end_container(bench.calls, one, "not wanted")
    outcomes.ready(bench.calls, one, bench.now)
    assert bench.take() == [Kill(one)]
    assert (one.state, list(bench.calls.free)) == (ContainerState.STARTING, [])


def test_a_container_for_one_input_ends_after_it() -> None:
    bench = Bench(single_use=True, concurrency=Concurrency(5))
    one, item = bench.container("ta-1"), bench.submit("a")
    bench.take()
    bench.result(one, item)
    assert bench.take() == [End(item, OK, b"v"), Kill(one)]


def test_code_that_wants_no_more_inputs_keeps_what_it_has_begun() -> None:
    bench = Bench()
    one, first = bench.container("ta-1"), bench.submit("a")
    bench.result(one, first, seconds=0.0001)
    running, behind = bench.submit("b"), bench.submit("c")
    bench.take()
    dispatch.leave(bench.calls, one, bench.now)
    assert bench.take() == [TakeBack(one, (behind.token,))]
    outcomes.revoked(bench.calls, one, (behind.token,), bench.now)
    bench.take()
    bench.result(one, running)
    assert bench.take() == [End(running, OK, b"v"), Kill(one)]
    assert list(bench.calls.queue) == [behind]


def test_an_attempt_of_an_earlier_server_goes_on() -> None:
    bench = Bench()
    one, item = CallContainer("ta-1", bench.now), bench.input("a")
    one.state = ContainerState.READY
    dispatch.add(bench.calls, one)
    dispatch.readopt_input(bench.calls, one, item, 77, bench.now)
    dispatch.readopt(bench.calls, one, bench.now, ending=False)
    assert bench.take() == [Watch(), Watch(), Rescale()]
    bench.result(one, item, CANCELLED, seconds=1.0)  # told to stop by that server, which took along why
    assert bench.take() == [AttemptFailed(item, None), Rescale(), Watch(), Begin(item, one)]
    assert item.lost == 1


def test_more_may_not_wait_than_the_function_allows() -> None:
    bench = Bench(scaling=Scaling(max_pending=1))
    assert not bench.calls.full
    bench.submit("a")
    assert bench.calls.full


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda bench, one, item: one.running.update({7: item}), "two places"),
        (lambda bench, one, item: setattr(item, "token", 99), "does not know it"),
        (lambda bench, one, item: setattr(item, "state", InputState.SUCCEEDED), "runs, and is"),
        (lambda bench, one, item: bench.calls.free.setdefault(one), "has no room"),
        (lambda bench, one, item: setattr(one, "state", ContainerState.STOPPED), "is a member"),
    ],
)
def test_a_state_that_contradicts_itself_is_found(broken: Any, complaint: str) -> None:
    bench = Bench()
    one, item = bench.container("ta-1"), bench.submit("a")
    bench.take()
    broken(bench, one, item)
    with pytest.raises(AssertionError, match=complaint):
        validate(bench.calls)


def test_the_first_input_of_each_container_is_learnt_apart() -> None:
    bench = Bench()
    for name in ("ta-1", "ta-2"):
        one = bench.container(name)
        for seconds in (3.0, 0.02, 0.02):
            item = bench.submit("a")
            bench.now += seconds
            bench.result(one, item, seconds=seconds)
    assert (bench.calls.first_run_s, bench.calls.mean_run_s) == (3.0, pytest.approx(0.02))
    bench.submit("b")
    third, cold = bench.container("ta-3"), bench.submit("c")
    bench.submit("d")  # the second container's
    bench.now += 4.0
    assert longest_running_s(bench.calls, bench.now) == pytest.approx(4.0)
    for container in list(bench.calls.containers.values()):
        if container is not third:
            bench.result(container, next(iter(container.running.values())))
    assert longest_running_s(bench.calls, bench.now) == 0.0  # a first input may take that long
    bench.now += 3.0
    assert 0.0 < longest_running_s(bench.calls, bench.now) < 2.0  # and not for ever
    assert cold.state is InputState.RUNNING


def test_inputs_that_began_beside_the_first_one_say_nothing_of_those_after_it() -> None:
    bench = Bench(concurrency=Concurrency(2))
    one, first, beside = bench.container("ta-1"), bench.submit("a"), bench.submit("b")
    bench.now += 3.0
    bench.result(one, first, seconds=3.0)
    bench.result(one, beside, seconds=3.0)
    assert bench.calls.mean_run_s is None


def test_containers_of_one_input_each_have_no_other_than_the_first() -> None:
    bench = Bench(single_use=True)
    one, item = bench.container("ta-1"), bench.submit("a")
    bench.result(one, item, seconds=3.0)
    assert (bench.calls.first_run_s, bench.calls.mean_run_s) == (None, 3.0)


def _web(limit: int = 1) -> Bench:
    return Bench(methods=(MethodSpec("f", web=Web("asgi")),), concurrency=Concurrency(limit))


def test_a_web_request_goes_to_the_container_with_the_fewest() -> None:
    bench = _web(4)
    one, two = bench.container("ta-1"), bench.container("ta-2")
    items = [bench.submit(str(number)) for number in range(4)]
    assert [item.container for item in items] == [one, two, one, two]
    bench.result(one, items[0])
    bench.result(one, items[2])
    assert [bench.submit("x").container for _ in range(2)] == [one, one]
    bench.take()


def test_of_equal_containers_a_web_request_goes_to_the_one_freed_first() -> None:
    bench = _web()
    one, two = bench.container("ta-1"), bench.container("ta-2")
    for expected in (one, two, one, two):
        item = bench.submit("a")
        assert item.container is expected
        bench.result(expected, item)
    bench.take()


def test_a_session_stays_with_its_container_while_that_has_room() -> None:
    bench = _web(2)
    one, two = bench.container("ta-1"), bench.container("ta-2")
    first, second, third = (_of_session(bench, b"s") for _ in range(3))
    assert [first.container, second.container, third.container] == [one, one, two]  # the last found no room, and the session has moved
    bench.result(one, first)
    bench.result(one, second)
    assert _of_session(bench, b"s").container is two
    bench.take()


def test_only_the_latest_sessions_are_remembered() -> None:
    bench = _web()
    one = bench.container("ta-1")
    for number in range(SESSIONS_MAX + 5):
        bench.result(one, _of_session(bench, b"%d" % number))
        bench.calls.commands.clear()
    assert len(bench.calls.sessions) == SESSIONS_MAX
    assert b"4" not in bench.calls.sessions


def _of_session(bench: Bench, session: bytes) -> Input:
    item = Session(Call(0, "fu-1", "fc-s", 0, b"", hold=LIVE), bench.now)
    item.session = session
    dispatch.submit(bench.calls, item, bench.now)
    return item


class Session(Input):
    """An input that can have a session, as a web request has."""
