"""Servers: classes that start something that listens on a port, to which requests go as they are."""

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from squall.model.errors import InvalidError, UnsupportedError
from squall.model.specs import SERVER
from squall.runner.context import in_container
from squall.sdk.app.checks import seconds
from squall.sdk.app.declaration_checks import check_name
from squall.sdk.app.decorators import concurrent
from squall.sdk.app.function_parameters import Takes, defaults, split
from squall.sdk.app.web import web_server
from squall.sdk.client.dual_method import ThreadTwin
from squall.sdk.function.autoscaler import UNSET, given, tuned_server, tuning
from squall.sdk.function.cls import Cls
from squall.sdk.refusals import NotYet, refuse_given
from squall.sdk.types import ServerAutoscalerSettings

if TYPE_CHECKING:
    from squall.sdk.app.app import App
    from squall.sdk.client.client import Client
    from squall.sdk.function.logs import Logs

#: Requests at a time in one container where nothing is said: what listens there has limits of its own.
CONCURRENCY = 1000
#: Of Modal's decorator, what has no meaning here or is the owner's to say.
_WITHOUT_MEANING: dict[str, Any] = {"routing_region": "us-east", "compute_region": None, "proxy_regions": [], "cloud": None, "scaleup_window": None}
_NOT_YET: dict[str, Any] = {"h2_enabled": False, "proxy": None, "i6pn": None}


class Server:
    """A server of an app, made by `@app.server` or found by `from_name`."""

    info, stats, metrics = NotYet(), NotYet(), NotYet()
    sessions, from_id = NotYet(), NotYet()

    def __init__(self, cls: Any) -> None:
        self._cls = cls

    def __getattr__(self, name: str) -> Any:
        """What a container looks for in the place of the class."""
        if name.startswith("_squall_"):
            return getattr(self._cls, name)
        raise AttributeError(f"a server has no {name!r}: requests go to its get_url()")

    def __repr__(self) -> str:
        return f"<Server of {self._cls!r}>"

    @staticmethod
    def from_name(app_name: str, name: str, *, environment_name: str | None = None, client: "Client | None" = None) -> "Server":
        """A server of a deployed app; nothing is looked up before it is used."""
        return Server(Cls.from_name(app_name, name, environment_name=environment_name, client=client))

    @property
    def object_id(self) -> str | None:
        """Its ``fu-`` id, while it is known."""
        return self._cls.object_id  # type: ignore[no-any-return]

    @property
    def is_hydrated(self) -> bool:
        """Whether it is known to the server: its app runs, or it was looked up."""
        return self._cls.is_hydrated  # type: ignore[no-any-return]

    @property
    def autoscaler(self) -> "ServerAutoscaler":
        """``autoscaler.settings()`` and ``autoscaler.update(...)``."""
        return ServerAutoscaler(self)

    @property
    def logs(self) -> "Logs":
        """As `Function.logs`."""
        from squall.sdk.function.logs import Logs, of_function

        return Logs(self._cls.client, lambda: of_function(self._cls._handle.base.bound()[1]))

    @ThreadTwin
    def hydrate(self, client: "Client | None" = None) -> "Server":
        """Look it up now; itself. `client`: of the server where it is looked up. Raises NotFoundError."""
        self._cls.hydrate(client)
        return self

    @ThreadTwin
    def get_url(self) -> str | None:
        """Its address; it stays the same over versions."""
        return getattr(self._cls(), SERVER).get_web_url()  # type: ignore[no-any-return]

    @ThreadTwin
    def update_autoscaler(
        self,
        *,
        target_concurrency: float | None = None,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaleup_window: float | None = None,
        scaledown_window: float | None = None,
    ) -> ServerAutoscalerSettings:
        """Change how many containers it has, while the app runs; returns the settings that hold now. None leaves one as it is.

        Raises:
            UnsupportedError: `target_concurrency`, `scaleup_window`.
        """
        refuse_given("Server.update_autoscaler", target_concurrency=target_concurrency, scaleup_window=scaleup_window)
        client, function, packed = self._cls()._place()
        return tuned_server(client.request(tuning(function, packed, min_containers, max_containers, buffer_containers, scaledown_window)))


class ServerAutoscaler:
    """``server.autoscaler``: how many containers a server has, while its app runs."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @ThreadTwin
    def settings(self) -> ServerAutoscalerSettings:
        """The settings that hold now."""
        return self._server.update_autoscaler()

    @ThreadTwin
    def update(
        self,
        *,
        target_concurrency: float | None = UNSET,
        min_containers: int | None = UNSET,
        max_containers: int | None = UNSET,
        buffer_containers: int | None = UNSET,
        scaledown_window: float = UNSET,
        scaleup_window: float | None = UNSET,
    ) -> ServerAutoscalerSettings:
        """As `Autoscaler.update`. Raises UnsupportedError: `target_concurrency`, `scaleup_window`."""
        for name, value in (("target_concurrency", target_concurrency), ("scaleup_window", scaleup_window)):
            if value != UNSET:
                raise UnsupportedError(f"{name}={value!r} of Server.autoscaler.update is not supported yet; leave it out")
        return self._server.update_autoscaler(
            min_containers=given("min_containers", min_containers),
            max_containers=given("max_containers", max_containers),
            buffer_containers=given("buffer_containers", buffer_containers),
            scaledown_window=given("scaledown_window", scaledown_window),
        )


def server(app: "App", parameters: Mapping[str, Any]) -> Callable[[type], Server]:
    """What `App.server` returns.

    Raises:
        InvalidError, UnsupportedError: naming the parameter.
    """
    options = dict(parameters)
    for name, neutral in _NOT_YET.items():
        if options.pop(name, neutral) != neutral:
            raise UnsupportedError(f"{name}= of @app.server is not supported yet")
    for name, neutral in _WITHOUT_MEANING.items():
        if (given := options.pop(name, neutral)) != neutral and given and not in_container():
            warnings.warn(f"{name}={given!r} has no effect: Squall runs on your own machines", UserWarning, stacklevel=3)
    options.pop("nonpreemptible", None)  # always so
    name, unauthenticated = options.pop("name", None), options.pop("unauthenticated", False)
    if not isinstance(unauthenticated, bool):
        raise InvalidError(f"unauthenticated={unauthenticated!r} is not True or False")
    most, target = options.pop("max_concurrency", None) or CONCURRENCY, options.pop("target_concurrency", None)
    startup_timeout, port = options.pop("startup_timeout"), options.pop("port")
    seconds("exit_grace_period", options.pop("exit_grace_period"), 0, 3600)  # what runs in a container that ends on purpose always ends by itself
    if name is not None:
        check_name("name", name)
    web = web_server(port, startup_timeout=startup_timeout, requires_proxy_auth=not unauthenticated)
    together = concurrent(max_inputs=most, target_inputs=_whole(target))
    declare = app._class_decorator(*split({**options, "startup_timeout": startup_timeout}, defaults(Takes.CLASS)), "@app.server", 5, name)

    def decorate(raw: Any) -> Server:
        if not isinstance(raw, type):
            raise InvalidError("@app.server is for classes: their @squall.enter() method starts what listens")
        setattr(raw, SERVER, web(_listens()))
        return Server(declare(together(raw)))

    return decorate


def _whole(target: object) -> int | None:
    """``target_concurrency``. Modal takes fractions too; here it is a number of requests."""
    if target is None:
        return None
    if not isinstance(target, int | float) or isinstance(target, bool) or target < 1 or target != int(target):
        raise InvalidError(f"target_concurrency={target!r} is not a whole number of 1 or more")
    return int(target)


def _listens() -> Callable[[Any], None]:
    def squall_server(self: Any) -> None:
        """What listens was started by the class."""

    return squall_server
