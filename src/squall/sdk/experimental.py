"""Functions that may change, as in `modal.experimental`."""

from typing import Any, NoReturn

from squall.model.errors import UnsupportedError
from squall.sdk.later import clustered as clustered


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(f"experimental.{name} is not supported yet")

    return refuse
