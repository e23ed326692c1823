"""Functions that may change, as in `modal.experimental`."""

from collections.abc import Callable
from typing import Any

from squall.model.errors import InvalidError
from squall.runner.context import here
from squall.sdk.app.decorators import Mark, mark
from squall.sdk.client.dual_method import in_thread
from squall.sdk.context import is_local
from squall.sdk.refusals import Missing


def clustered(size: int, broadcast: bool = True, rdma: bool = False, fabric_size: int | None = None) -> Callable[[Any], Any]:
    """Start containers in groups: not supported yet; the app that has it can't run."""
    return lambda raw: mark(raw, Mark.CLUSTERED, "@squall.experimental.clustered")


def get_local_input_concurrency() -> int:
    """How many inputs this container runs at a time.

    Raises:
        InvalidError: this is no container.
    """
    if is_local():
        raise InvalidError("get_local_input_concurrency is for code in a container: here nothing runs inputs")
    return here.max_inputs


def get_local_concurrent_inputs() -> int:
    """Old spelling of `get_local_input_concurrency`."""
    return get_local_input_concurrency()


@in_thread
def stop_fetching_inputs() -> None:
    """This container gets no more inputs, and ends with those that it runs now.

    Raises:
        InvalidError: this is no container.
    """
    if is_local():
        raise InvalidError("stop_fetching_inputs is for code in a container: here nothing runs inputs")
    from squall.sdk.client.client import Client
    from squall.wire.messages import LeaveAfterInput

    Client.default().request(LeaveAfterInput())


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)

    return Missing(f"experimental.{name}")
