"""From a function's spec to what is called: import the module, or unpickle."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from squall.model.errors import ExecutionError
from squall.model.specs import FunctionSpec, MethodSpec
from squall.wire.values import loads


@dataclass(slots=True)
class Service:
    """What a container serves. `bodies`: callable by method name (a plain function has the one method ``""``).

    `snap` and then `enter` run before the first input, `leave` after the last; where the process is a copy, `snap` ran in the original.
    `parameters` are those that the object of a class was made with.
    """

    bodies: Mapping[str, Callable[..., Any]]
    methods: Mapping[str, MethodSpec]
    enter: tuple[Callable[[], Any], ...] = ()
    leave: tuple[Callable[[], Any], ...] = ()
    snap: tuple[Callable[[], Any], ...] = ()
    parameters: bytes = b""

    @property
    def needs_loop(self) -> bool:
        """Whether something runs as a task, or is collected while something else runs."""
        return any(method.is_async or method.batching is not None for method in self.methods.values())


def load(spec: FunctionSpec, parameters: bytes, sources: tuple[str, ...]) -> Service:
    """Import (or unpickle) and take the target.

    Raises:
        whatever the user's module raises; a ModuleNotFoundError says what was shipped and how to add the missing one.
    """
    target = _find(spec, sources)
    methods = {method.name: method for method in spec.methods}
    serve = getattr(target, "_squall_serve", None)
    if serve is not None:
        bodies, snap, enter, leave = serve(msgspec.msgpack.decode(parameters) if parameters else {})
        return Service(bodies, methods, enter, leave, snap, parameters)
    raw = getattr(target, "_squall_raw", target)
    if not callable(raw):
        raise ExecutionError(f"{spec.module}.{spec.qualname} is no function but a {type(raw).__name__}")
    return Service({"": raw}, methods)


def _find(spec: FunctionSpec, sources: tuple[str, ...]) -> Any:
    if spec.pickled is not None:
        return loads(spec.pickled, f"the function {spec.tag}")
    try:
        target: Any = importlib.import_module(spec.module)
    except ModuleNotFoundError as error:
        raise _missing(error, spec, sources) from error
    for name in spec.qualname.split("."):
        if not hasattr(target, name):
            raise ExecutionError(
                f"{spec.module} has no {spec.qualname} in the container. A function has to be defined at the top of its module; "
                f"for one defined inside another function use @app.function(serialized=True)."
            )
        target = getattr(target, name)
    return target


def _missing(error: ModuleNotFoundError, spec: FunctionSpec, sources: tuple[str, ...]) -> ModuleNotFoundError:
    name = (error.name or "?").partition(".")[0]
    shipped = ", ".join(sources) or "nothing"
    mended = ModuleNotFoundError(
        f"No module named {error.name!r} in the container.\n"
        f"  Shipped with {spec.tag}: {shipped}.\n"
        f'  If it is a file or package of yours, add  image.add_local_python_source("{name}")  or put both into one package.\n'
        f'  If it is installed from an index, add  image.pip_install("{name}").',
        name=error.name,
        path=error.path,
    )
    return mended.with_traceback(error.__traceback__)
