"""What always holds of a machine's state. For tests: it looks at every input."""

from collections.abc import Callable

from squall.core.calls.state import AHEAD_MAX, CallContainer, Calls, Input
from squall.model.states import ContainerState, InputState


def validate(calls: Calls) -> None:
    """Raise AssertionError where the state contradicts itself."""
    seen: set[int] = set()

    def once(item: Input) -> None:
        _require(id(item) not in seen, f"{item.key} is in two places")
        seen.add(id(item))

    for item in (*calls.queue, *calls.delayed):
        if item.state is InputState.QUEUED:
            once(item)
            _require((item.container, item.token) == (None, 0), f"{item.key} waits, and has an attempt")
    for container in calls.containers.values():
        _check_container(calls, container, once)
    for container in calls.free:
        _require(calls.containers.get(container.id) is container, f"{container.id} is free, and is no member")
        _require(container.state is ContainerState.READY, f"{container.id} is free, and is {container.state}")
        _require(not (container.leaving or container.end_reason), f"{container.id} is free, and is ending")
        _require(len(container.running) < calls.limit, f"{container.id} is free, and has no room")
    if calls.free and not calls.pressure.high:
        _require(all(item.state is not InputState.QUEUED for item in calls.queue), "an input waits beside a free container")


def _check_container(calls: Calls, container: CallContainer, once: Callable[[Input], None]) -> None:
    _require(container.state is not ContainerState.STOPPED, f"{container.id} has stopped, and is a member")
    _require(len(container.running) <= calls.limit + AHEAD_MAX, f"{container.id} has {len(container.running)} inputs")
    for token, item in container.running.items():
        once(item)
        _require(item.token == token, f"{item.key} runs as attempt {token}, and does not know it")
        _require(item.container is container, f"{item.key} runs in {container.id}, and does not know it")
        _require(item.state in (InputState.RUNNING, InputState.CANCELLED), f"{item.key} runs, and is {item.state}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
