"""Deploying an app, and finding what is deployed."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from squall.model.errors import ExecutionError, InvalidError, NotFoundError
from squall.model.specs import SERVER, AppSpec, FunctionSpec, MethodSpec, Parameter
from squall.sdk.client.settings import environment_of
from squall.sdk.output.output import current_sink
from squall.sdk.source.sources import Shipment
from squall.wire.deploys import Deploy, Deployed, Found, Lookup, PlanDeploy, WebUrls
from squall.wire.messages import ListApps, Rows, StopApp

if TYPE_CHECKING:
    from squall.sdk.app.app import App
    from squall.sdk.client.client import Client

ROLLING, RECREATE = "rolling", "recreate"


class Deployment:
    """One deployment in its steps: the app's declarations as a value, what they change, and the change itself."""

    def __init__(self, app: "App", *, name: str | None = None, environment: str | None = None, client: "Client | None" = None) -> None:
        from squall.sdk.app.run import app_spec
        from squall.sdk.client.client import Client

        self.app = app
        self.client = client if client is not None else Client.default()
        self.environment = environment_of(environment, "main")
        self._shipment = Shipment()
        self.spec: AppSpec = app_spec(app, self._shipment, name=name, client=self.client, environment=self.environment)
        #: Path in a container -> the local file that was shipped there.
        self.places = self._shipment.places
        if not self.spec.name:
            raise InvalidError('an app needs a name to be deployed: squall.App("name"), or deploy(name="...")')

    def plan(self) -> list[dict[str, Any]]:
        """What it would change, a row for each function."""
        answer = self.client.request(PlanDeploy(self.spec, self.environment))
        assert isinstance(answer, Rows)
        return list(answer.rows)

    def apply(self, *, tag: str = "", strategy: str = ROLLING, serve: str = "", on_event: Callable[[Any], None] | None = None) -> Deployed:
        """Ship what is missing and make it the next version. When it fails, the version before goes on. `serve`: of a run with this app id instead.

        Raises:
            ImageBuildError, ContainerStartError, ConflictError, ...: why it can't serve.
        """
        self._shipment.upload(self.client)
        deployed = self.client.request(Deploy(self.spec, self.environment, tag, strategy, serve), on_event)
        assert isinstance(deployed, Deployed)
        self.app._bind(self.client, deployed.app, deployed.functions)
        return deployed


def deploy(
    app: "App", *, name: str | None = None, environment_name: str | None = None, tag: str = "", strategy: str = ROLLING, client: "Client | None" = None
) -> "App":
    """Make the app run until somebody stops it. Its functions can then be called by `Function.from_name` from any program.

    Deploying again makes the next version: its containers are ready before those of the version before drain, so no call is lost.

    Args:
        name: instead of the app's own.
        environment_name: by default that of ``SQUALL_ENVIRONMENT`` or ``MODAL_ENVIRONMENT``, else ``main``.
        tag: a word of yours for the version, for example a commit.
        strategy: ``rolling``, or ``recreate``: the old containers end first.

    Raises:
        InvalidError: the app has no name.
        ImageBuildError, ContainerStartError, ...: why the new version can't serve; the one before goes on.
    """
    sink = current_sink()
    Deployment(app, name=name, environment=environment_name, client=client).apply(tag=tag, strategy=strategy, on_event=sink.event if sink is not None else None)
    return app


async def deploy_aio(app: "App", **options: Any) -> "App":
    """`deploy` for event loops."""
    import asyncio

    return await asyncio.to_thread(lambda: deploy(app, **options))


def find(app: str, *, environment: str | None = None, client: "Client | None" = None, create: bool = False) -> Found:
    """A deployed app.

    Raises:
        NotFoundError: there is none of that name.
    """
    from squall.sdk.client.client import Client

    answer = (client if client is not None else Client.default()).request(Lookup(app, environment_of(environment, "main"), create))
    assert isinstance(answer, Found)
    return answer


def stop(app: "App", *, client: "Client | None" = None) -> None:
    """End a running or deployed app. `client`: by default the one by which it runs, or was looked up.

    Raises:
        ExecutionError: it neither runs, nor was it deployed or looked up here.
    """
    from squall.sdk.client.client import Client

    if app.app_id is None:
        raise ExecutionError(f"{app!r} does not run, and was not looked up: squall.App.lookup(name).stop()")
    (client or app._client or Client.default()).request(StopApp(app.app_id))


async def stop_aio(app: "App", *, client: "Client | None" = None) -> None:
    """As `stop`."""
    import asyncio

    await asyncio.to_thread(stop, app, client=client)


def web_url(client: "Client", function: str, name: str) -> str | None:
    """The address of the web function `name` (``Class.method`` for a method) of the app of a function; None if it is not one."""
    name = name.removesuffix(f".{SERVER}")  # a class that is a server has one address, by its own name
    answer = client.request(WebUrls(function))
    assert isinstance(answer, Rows)
    return next((str(row["url"]) for row in answer.rows if row["function"] == name), None)


def live_apps(environment: str | None, client: "Client | None" = None) -> list[dict[str, Any]]:
    """Rows of the apps of an environment that run or are deployed, the oldest first."""
    from squall.sdk.client.client import Client

    answer = (client if client is not None else Client.default()).request(ListApps())
    assert isinstance(answer, Rows)
    where = environment_of(environment, "main")
    return [row for row in answer.rows if row["environment"] == where and row["state"] != "stopped"]


def spec_of(packed: bytes) -> FunctionSpec:
    """The spec of a deployed function, from `Found.specs`."""
    return msgspec.msgpack.decode(packed, type=FunctionSpec)


class DeployedFunction(msgspec.Struct, frozen=True):
    """What a handle of a deployed function knows once it was looked up. `methods`: by name. `parameters`: of a class."""

    id: str
    methods: dict[str, MethodSpec]
    parameters: tuple[Parameter, ...]
    urls: dict[str, str]
    found_at: float


def find_function(app: str, tag: str, *, environment: str | None = None, client: "Client | None" = None) -> DeployedFunction:
    """A function or class of a deployed app.

    Raises:
        NotFoundError: no such app, or it has no such function; the message lists what it has.
    """
    found = find(app, environment=environment, client=client)
    if tag not in found.functions:
        have = ", ".join(sorted(found.functions)) or "nothing"
        raise NotFoundError(f"the app {app!r} has no {tag!r}; it has {have}")
    spec = spec_of(found.specs[tag]) if tag in found.specs else None
    methods = {method.name: method for method in spec.methods} if spec is not None else {}
    return DeployedFunction(found.functions[tag], methods, spec.parameters if spec is not None else (), found.urls, time.monotonic())
