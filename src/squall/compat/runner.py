"""`modal.runner`: running an app by a function instead of its method."""

from typing import Any

from squall.sdk.app.app import App


def run_app(app: App, **options: Any) -> Any:
    """As ``app.run(...)``."""
    return app.run(**options)


def deploy_app(app: App, name: str | None = None, **options: Any) -> Any:
    """As ``app.deploy(...)``."""
    return app.deploy(name=name, **options)
