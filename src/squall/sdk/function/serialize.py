"""Functions that travel by value, with `serialized=True` and from notebooks."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from squall.model.errors import SerializationError
from squall.wire.values import dumps

#: As in Modal: larger ones hold data that belongs into an argument, a file or a volume.
_BYTES_MAX, _BYTES_WARN = 16 << 20, 256 << 10

#: Whether a function or class of this program is being pickled.
pickling: ContextVar[bool] = ContextVar("squall_pickling", default=False)


def pickle_function(value: Any, tag: str, module: str) -> bytes:
    """A function or class of `module` by cloudpickle, with the globals that it uses.

    Raises:
        SerializationError: something that it uses can't be pickled, or it is larger than 16 MiB.
    """
    with _by_value(module):
        token = pickling.set(True)
        try:
            data = dumps(value, f"the serialized function {tag!r}")
        finally:
            pickling.reset(token)
    if len(data) > _BYTES_MAX:
        raise SerializationError(
            f"the serialized function {tag!r} has {len(data) / (1 << 20):.1f} MiB, more than {_BYTES_MAX >> 20} MiB: it holds large globals or closures"
        )
    if len(data) > _BYTES_WARN:
        warnings.warn(f"the serialized function {tag!r} has {len(data) / 1024:.0f} KiB: it holds large globals or closures", UserWarning, stacklevel=2)
    return data


@contextlib.contextmanager
def _by_value(name: str) -> Iterator[None]:
    """What the program's own module defines travels too, since a serialized function comes without its source. What is installed is imported there."""
    import cloudpickle

    module = sys.modules.get(name)
    own = module is not None and not _installed(module) and name not in cloudpickle.list_registry_pickle_by_value()
    if own:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        if own:
            cloudpickle.unregister_pickle_by_value(module)


def _installed(module: ModuleType) -> bool:
    import sysconfig

    file = getattr(module, "__file__", None)
    return file is None or any(file.startswith(f"{place}/") for place in sysconfig.get_paths().values())


def find_global(module: str, qualname: str) -> Any:
    """What a module of this process has under that name, or None. Imports nothing: a handle that was pickled elsewhere may name what is not here."""
    from squall.sdk.source.sources import module_name

    place = sys.modules.get(module)
    if place is None and "__main__" in sys.modules and module_name("__main__") == module:
        place = sys.modules["__main__"]
    found: Any = place
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found
