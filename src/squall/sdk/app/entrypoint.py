"""Local entrypoints: functions that run on the caller's machine while the app runs; `squall run` makes commands of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from squall.sdk.app.app import App

P = ParamSpec("P")
R = TypeVar("R")


class LocalEntrypoint(Generic[P, R]):
    """What `@app.local_entrypoint()` makes of a function. Calling it runs the function here."""

    def __init__(self, raw: Callable[P, R], app: "App", name: str) -> None:
        self.raw, self.app, self.name = raw, app, name
        self.__name__, self.__doc__ = name, raw.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.raw(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<LocalEntrypoint {self.name} of {self.app!r}>"
