"""`modal.runner`: running and deploying an app by a function instead of its method."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squall.model.errors import UnsupportedError
from squall.sdk.app.app import App
from squall.sdk.app.deploy import ROLLING
from squall.sdk.client.dual_method import Dual, in_thread
from squall.sdk.refusals import Missing, refuse_given

if TYPE_CHECKING:
    from squall.sdk.client.client import Client

#: A terminal in a container of an app: ``squall shell``.
interactive_shell = Missing("runner.interactive_shell")


@dataclass(frozen=True, slots=True)
class DeployResult:
    """A deployed app. There are no pages of it yet."""

    app_id: str
    app_page_url: str | None
    app_logs_url: str | None
    warnings: list[str]


def _run_app(
    app: App,
    *,
    name: str | None = None,
    client: "Client | None" = None,
    detach: bool = False,
    environment_name: str | None = None,
    interactive: bool = False,
    deployment_strategy: str = ROLLING,
    stream_output: bool = True,
) -> Any:
    """As ``app.run(...)``.

    Raises:
        UnsupportedError: another `deployment_strategy`, which has no meaning for an app that runs once, or ``stream_output=False``.
    """
    if deployment_strategy != ROLLING:
        raise UnsupportedError(f"deployment_strategy={deployment_strategy!r} of run_app is not supported: nothing is replaced; leave it out")
    if not stream_output:
        raise UnsupportedError("stream_output=False of run_app is not supported: output is shown below enable_output() only; leave it out")
    return app.run(name=name, client=client, detach=detach, environment_name=environment_name, interactive=interactive)


#: ``with run_app(app):``; `run_app.aio` is the same for ``async with``.
run_app = Dual(_run_app, _run_app)


@in_thread
def deploy_app(
    app: App,
    name: str | None = None,
    *,
    environment_name: str | None = None,
    tag: str = "",
    deployment_strategy: str = ROLLING,
    client: "Client | None" = None,
    staged: bool = False,
) -> DeployResult:
    """As ``app.deploy(...)``. Raises UnsupportedError: `staged`."""
    refuse_given("deploy_app", staged=staged)
    app.deploy(name=name, environment_name=environment_name, tag=tag, strategy=deployment_strategy, client=client)
    assert app.app_id is not None
    return DeployResult(app.app_id, None, None, [])
