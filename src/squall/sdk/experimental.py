"""Functions that may change, as in `modal.experimental`."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squall.model.errors import DeprecationError, Error, InvalidError
from squall.runner.context import here
from squall.sdk.app.decorators import Mark, mark
from squall.sdk.client.dual_method import in_thread
from squall.sdk.context import is_local
from squall.sdk.refusals import Missing

if TYPE_CHECKING:
    from squall.sdk.client.client import Client


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


@dataclass(frozen=True, slots=True)
class AppInfo:
    """A deployed app, and how many containers it has."""

    app_id: str
    name: str
    containers: int


@in_thread
def list_deployed_apps(environment_name: str = "", client: "Client | None" = None) -> list[AppInfo]:
    """The apps that are deployed in an environment, by default that of ``SQUALL_ENVIRONMENT`` or ``MODAL_ENVIRONMENT``, else ``main``."""
    from squall.sdk.app.deploy import live_apps

    return [AppInfo(row["id"], row["name"], row["containers"]) for row in live_apps(environment_name, client) if row["state"] == "deployed"]


@in_thread
def stop_app(name: str, *, environment_name: str | None = None, client: "Client | None" = None) -> None:
    """Old spelling of ``App.lookup(name).stop()``."""
    from squall.sdk.app.app import App

    warnings.warn("experimental.stop_app(name) is the old spelling of App.lookup(name).stop()", DeprecationError, stacklevel=3)
    App.lookup(name, environment_name=environment_name, client=client).stop()


@in_thread
def get_app_objects(app_name: str, *, environment_name: str | None = None, client: "Client | None" = None) -> dict[str, Any]:
    """The functions and classes of a deployed app, by name. Raises NotFoundError."""
    from squall.sdk.app.deploy import find, spec_of
    from squall.sdk.function.cls import Cls
    from squall.sdk.function.function import Function

    found = find(app_name, environment=environment_name, client=client)
    return {
        tag: (Cls if spec_of(packed).is_class else Function).from_name(app_name, tag, environment_name=environment_name, client=client)
        for tag, packed in found.specs.items()
    }


class IdempotencyConflict(Error):
    """Of streams, which are not supported yet; nothing raises it."""

    code = "idempotency_conflict"


#: Of Modal's, what is not built.
_FUNCTIONS = frozenset({
    "flash_forward", "flash_get_containers", "get_app_lifecycle", "get_cluster_info", "get_fabric_peers", "http_server", "image_delete",
    "list_cluster_reservations", "server_forward", "set_local_input_concurrency",
})  # fmt: skip
_CLASSES = frozenset({
    "AppLifecycle", "AppendResult", "ClusterInfo", "ClusterReservation", "ClusterReservationTask", "Entry", "OutboundPolicy", "Stream", "StreamInfo",
    "StreamToken", "StreamWriter",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return Missing(f"experimental.{name}")
    if name in _CLASSES:
        from squall.sdk.unsupported import unsupported_class

        made = globals()[name] = unsupported_class(name, __name__)
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
