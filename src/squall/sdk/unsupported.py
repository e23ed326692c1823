"""Names of Modal's that this version does not have yet. Programs can import them, and make handles by name; using one says that it is missing.

Whoever builds one of these takes its line away here.
"""

import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from squall.model.errors import DeprecationError, UnsupportedError
from squall.sdk.app.decorators import Mark, mark
from squall.sdk.app.web import fastapi_endpoint
from squall.sdk.refusals import Missing

#: Constructors that look nothing up: a program may call them at its top and use what they return elsewhere.
_LAZY = frozenset({"from_name", "from_id", "lookup", "persisted", "ephemeral", "from_context"})


class _Later(type):
    """Of the classes below: static methods that nobody has written."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in _LAZY:
            return lambda *args, **kwargs: cls._lazy(name, args)
        return Missing(f"{cls.__name__}.{name}")

    def _lazy(cls, method: str, args: tuple[Any, ...]) -> Any:
        if method in ("lookup", "persisted"):
            new = f"{cls.__name__}.from_name"
            warnings.warn(f"{cls.__name__}.{method} is the old spelling of {new}", DeprecationError, stacklevel=3)
        made: Any = object.__new__(cls)  # type: ignore[arg-type]
        made.__dict__["_squall_made"] = f"{cls.__name__}.{method}({', '.join(map(repr, args))})"
        return made


class _Thing(metaclass=_Later):
    """A handle of one can be made by name. Reading any attribute of it says that it is missing: what it would be is not known, so nothing stands for it."""

    squall_refuses = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(f"{type(self).__name__} is not supported yet")

    def __repr__(self) -> str:
        return f"<{self._squall_made}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise UnsupportedError(f"{type(self).__name__}.{name} is not supported yet ({self!r})")

    def _refuse(self, *args: Any) -> NoReturn:
        raise UnsupportedError(f"{type(self).__name__} is not supported yet ({self!r})")

    __getitem__ = __setitem__ = __delitem__ = __contains__ = __enter__ = __iter__ = __len__ = _refuse

    def __exit__(self, *_: object) -> None: ...


def unsupported_class(name: str, module: str) -> type:
    """A class of Modal's that nothing makes yet: it can be imported, for annotations; using it says that it is missing."""
    return _Later(name, (_Thing,), {"__doc__": "Not supported yet.", "__module__": module})


class ContainerProcess(_Thing):
    """A command in a sandbox."""


class StreamReader(_Thing):
    """What a command writes."""


class StreamWriter(_Thing):
    """What a command reads."""


class SidecarContainer(_Thing):
    """A container beside a sandbox's."""


class Cluster(_Thing):
    """Containers that start together."""


class Probe(_Thing):
    """How a sandbox shows that it is ready."""


class Proxy(_Thing):
    """A fixed address for what containers send."""


class Sandbox(_Thing):
    """A container for commands."""


class SandboxSnapshot(_Thing):
    """A sandbox's memory, kept."""


class SchedulerPlacement(_Thing):
    """Where containers may start."""


class Tunnel(_Thing):
    """A container's port, reached from outside."""


class Workspace(_Thing):
    """All of a user's environments."""


def web_endpoint(**parameters: Any) -> Callable[[Any], Any]:
    """Old spelling of `fastapi_endpoint`."""
    warnings.warn("@web_endpoint is the old spelling of @fastapi_endpoint", DeprecationError, stacklevel=2)
    decorate: Callable[[Any], Any] = fastapi_endpoint(**parameters)
    return decorate


def clustered(*, size: int, rdma: bool = False) -> Callable[[Any], Any]:
    """Start containers in groups: not supported yet; the app that has it can't run."""
    return lambda raw: mark(raw, Mark.CLUSTERED, "@squall.clustered")


#: Sticky sessions of a server.
sessioned = Missing("squall.sessioned")
#: What things cost.
workspace_billing_report = Missing("billing.workspace_billing_report")
#: A container's port, reached from outside.
forward = Missing("squall.forward")
#: The caller's terminal, attached to a container.
interact = Missing("squall.interact")
