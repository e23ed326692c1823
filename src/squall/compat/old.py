"""Names that earlier versions of Modal had: those that still mean something, with a warning, and those that do not, with what to do instead."""

import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from squall.model.errors import DeprecationError, InvalidError


def _warn(old: str, new: str) -> None:
    warnings.warn(f"modal.{old} is the old spelling of modal.{new}", DeprecationError, stacklevel=4)


def _stub() -> Any:
    from squall.sdk.app.app import App

    _warn("Stub", "App")
    return App


def _web_endpoint() -> Any:
    from squall.sdk.unsupported import web_endpoint

    return web_endpoint  # warns where it is used


#: Name -> gives what it stands for today.
OLD: dict[str, Callable[[], Any]] = {"Stub": _stub, "web_endpoint": _web_endpoint}


class _Removed:
    """Stands for a name whose meaning is gone. A program may import it; using it says what to do instead."""

    def __init__(self, name: str, advice: str) -> None:
        self.__message = f"modal.{name} is gone: {advice}"

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise InvalidError(self.__message)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise InvalidError(self.__message)


_FILES = "add local files to the image, with Image.add_local_dir, add_local_file or add_local_python_source"

REMOVED: dict[str, Any] = {
    name: _Removed(name, advice)
    for name, advice in {
        "Mount": _FILES,
        "create_package_mounts": _FILES,
        "SharedVolume": "use modal.Volume",
        "Conda": "use Image.micromamba",
        "build": "do it in the image with Image.run_function, or in a method with @modal.enter",
        "web_url": "use Function.get_web_url()",
        "container_app": "call functions by their own names",
        "aio_": "every method has its .aio",
    }.items()
}
