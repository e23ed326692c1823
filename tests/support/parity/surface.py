"""Describes the names that `import modal` gives, as JSON. Runs as a program in any environment: in one with Modal's own package, or in one with Squall.

    python surface.py        every public name, found by looking at the package
    python surface.py -      the names on stdin, looked up in Squall under Modal's name

It needs nothing but the standard library, and asks no server: handles are made by name and never used.
"""

import enum
import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

#: Special methods that a program calls by its syntax.
SYNTAX = (
    *("__getitem__", "__setitem__", "__delitem__", "__contains__", "__len__", "__iter__", "__aiter__", "__next__", "__anext__"),
    *("__enter__", "__exit__", "__call__"),
)
#: Modules with no names for programs: the command line and what serves it, and how the client works within.
WITHIN = {"cli", "serving", "token_flow", "parallel_map", "running_app", "mount"}
#: Makes a handle of a class, for members that only objects have.
SAMPLES: dict[str, Callable[[Any], Any]] = {
    "App": lambda modal: modal.App("parity"),
    "CloudBucketMount": lambda modal: modal.CloudBucketMount("b"),
    "FilePatternMatcher": lambda modal: modal.FilePatternMatcher("*"),
    "app.LocalEntrypoint": lambda modal: modal.App("parity").local_entrypoint()(find),
    "Cls": lambda modal: modal.Cls.from_name("a", "C"),
    "Dict": lambda modal: modal.Dict.from_name("d"),
    "Environment": lambda modal: modal.Environment.from_name("e"),
    "Function": lambda modal: modal.Function.from_name("a", "f"),
    "FunctionCall": lambda modal: modal.FunctionCall.from_id("fc-01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    "Image": lambda modal: modal.Image.debian_slim(),
    "NetworkFileSystem": lambda modal: modal.NetworkFileSystem.from_name("n"),
    "Proxy": lambda modal: modal.Proxy.from_name("p"),
    "Queue": lambda modal: modal.Queue.from_name("q"),
    "Sandbox": lambda modal: modal.Sandbox.from_id("sb-01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    "Secret": lambda modal: modal.Secret.from_name("s"),
    "Server": lambda modal: modal.Server.from_name("a", "S"),
    "Volume": lambda modal: modal.Volume.from_name("v"),
    "Workspace": lambda modal: modal.Workspace.from_context(),
    "config.Config": lambda modal: importlib.import_module("modal.config").config,
}
NOWHERE = object()


def describe(value: Any) -> dict[str, Any]:
    """What a program can see of a value without using it."""
    if refused(value):
        return {"kind": "refuses"}
    if inspect.isclass(value):
        described: dict[str, Any] = {"kind": "class"}
        if issubclass(value, enum.Enum):
            return described
        return described | ({} if issubclass(value, BaseException) else signature(value))
    if callable(value):
        return {"kind": "function", "aio": callable(getattr(value, "aio", None)), **signature(value)}
    return {"kind": "value"}


def refused(value: Any) -> bool:
    """Whether it is one of Squall's stand-ins for what is not built."""
    return inspect.getattr_static(value if inspect.isclass(value) else type(value), "squall_refuses", False)


def signature(value: Any) -> dict[str, Any]:
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return {}
    parameters = [one for one in found.parameters.values() if one.name not in ("self", "cls")]
    return {"parameters": [[one.name, str(one.kind.name), shown(one.default)] for one in parameters]}


def shown(default: Any) -> str | None:
    """How a default is written; None: the parameter has to be given."""
    if default is inspect.Parameter.empty:
        return None
    if isinstance(default, enum.IntEnum | float):
        default = int(default) if default == int(default) else default
    if default is ...:
        return "..."
    if isinstance(default, list | tuple | dict | set | frozenset) and not default:
        return "None"  # nothing is nothing
    return re.sub(r" object at 0x[0-9a-f]+|\bmodal(\.\w+)*\.(?=\w)", "", repr(default))


def members(cls: Any, sample: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The public members of a class of Modal, and those of the managers that it holds (`Volume.objects.create`)."""
    if issubclass(cls, BaseException):
        return
    for name in sorted({*dir(cls), *(dir(sample) if sample is not NOWHERE else ())}):
        if (name.startswith("_") and name not in SYNTAX) or not of_modal(cls, name):
            continue
        found = member(cls, sample, name)
        yield name, found
        if found["kind"] == "manager":
            held = look(cls, sample, name)
            yield from ((f"{name}.{inner}", described) for inner, described in members(type(held), held))


def member(cls: Any, sample: Any, name: str) -> dict[str, Any]:
    static = inspect.getattr_static(cls, name, NOWHERE)
    if isinstance(cls, type) and issubclass(cls, enum.Enum) and name in cls.__members__:
        return {"kind": "value", "value": repr(cls.__members__[name].value)}
    if type(static).__name__ in ("property", "classproperty", "cached_property") or static is NOWHERE:
        held = look(cls, sample, name)
        if held is not NOWHERE and re.search(r"(Manager|^_?Manager.*|Autoscaler)$", type(held).__name__):
            return {"kind": "manager"}
        if callable(held) and not inspect.isclass(held):
            return describe(held)
        return {"kind": "property"}
    if type(static).__name__ in ("member_descriptor", "getset_descriptor", "_tuplegetter"):
        return {"kind": "property"}
    held = look(cls, sample, name)
    return {"kind": "property"} if held is NOWHERE else describe(held) if callable(held) else {"kind": "property"}


def look(cls: Any, sample: Any, name: str) -> Any:
    """The value; of an object where there is one, so that methods come without their `self`."""
    for owner in (sample, cls):
        if owner is not NOWHERE:
            try:
                return getattr(owner, name)
            except Exception:  # it needs a server
                continue
    return NOWHERE


def of_modal(cls: Any, name: str) -> bool:
    """Whether Modal gives a class this member, not Python."""
    if issubclass(cls, enum.Enum) and name in SYNTAX:
        return False
    owner = next((base for base in cls.__mro__ if name in vars(base)), None)
    return owner is None or owner.__module__.partition(".")[0] in ("modal", "modal_proto")


def fields(cls: Any) -> list[str]:
    """What a class of values is made of: annotated, without a default on the class."""
    return [name for base in cls.__mro__ for name in vars(base).get("__annotations__", {}) if base.__module__.startswith("modal") and name[0] != "_"]


def sample_of(modal: Any, name: str) -> Any:
    try:
        return SAMPLES[name](modal) if name in SAMPLES else NOWHERE
    except Exception:  # the class alone is looked at
        return NOWHERE


def names(modal: Any) -> Iterator[tuple[str, Any]]:
    """Every public name: of the package, then of its modules, where it is another object than the package's."""
    top = {name: getattr(modal, name) for name in modal.__all__ if name != "__version__"}
    yield from ((name, value) for name, value in top.items() if not inspect.ismodule(value))
    for found in pkgutil.iter_modules(modal.__path__):
        if found.name.startswith("_") or found.name in WITHIN:
            continue
        module = importlib.import_module(f"modal.{found.name}")
        for name, value in sorted(vars(module).items()):
            ours = of_module(getattr(value, "__module__", None) or "", module.__name__) or (
                found.name in ("exception", "types", "config") and name in getattr(module, "__all__", ())
            )
            if name.startswith("_") or name.endswith("Manager"):  # managers are looked at where they are held
                continue
            if (inspect.isclass(value) or callable(value)) and ours:
                yield f"{found.name}.{name}", value


def of_module(home: str, module: str) -> bool:
    """Whether a name that is made in `home` is the module's. `experimental` gives names of many places; some are only what it works with."""
    if module == "modal.experimental":
        return home.startswith("modal.") and not home.startswith(("modal.exception", "modal._utils", "modal._image"))
    return home == module or home.startswith(f"{module}.")


def modal_surface() -> dict[str, dict[str, Any]]:
    import modal  # type: ignore[import-not-found, unused-ignore]

    surface: dict[str, dict[str, Any]] = {}
    public = {id(getattr(modal, name)): name for name in modal.__all__}
    for name, value in names(modal):
        if public.get(id(value), name) != name:
            surface[name] = {"kind": "alias"}
            continue
        surface[name] = describe(value)
        if inspect.isclass(value):
            surface |= {f"{name}.{field}": {"kind": "property"} for field in fields(value)}
            surface |= {f"{name}.{inner}": described for inner, described in members(value, sample_of(modal, name))}
    return surface


def squall_surface(reference: list[str]) -> dict[str, dict[str, Any]]:
    """What Squall has under these names; those that it lacks are left out."""
    from squall.runner import alias

    alias.install()
    import modal

    surface: dict[str, dict[str, Any]] = {}
    for name in reference:
        found = find(modal, name)
        if found is not None:
            surface[name] = found
    return surface


def find(modal: Any, name: str) -> dict[str, Any] | None:
    """A name of Modal's, in Squall."""
    path = name.split(".")
    value: Any = modal
    parent, sample = None, NOWHERE
    for place, word in enumerate(path):
        last = place == len(path) - 1
        if inspect.isclass(value):
            parent, sample = value, sample_of(modal, ".".join(path[:place]))
            if last:
                return member_of(parent, sample, word)
            value = look(parent, sample, word)
        elif place and not inspect.ismodule(value) and value is not NOWHERE:
            if last:
                return member_of(type(value), value, word)
            value = look(type(value), value, word)
        else:
            value = module_or_name(value, word)
        if value is NOWHERE:
            return None
        if refused(value) and not last and not inspect.isclass(value):
            return {"kind": "refuses"}
    return describe(value)


def module_or_name(owner: Any, word: str) -> Any:
    try:
        return getattr(owner, word)
    except Exception:
        pass
    try:
        return importlib.import_module(f"{owner.__name__}.{word}")
    except ImportError:
        return NOWHERE


def member_of(cls: Any, sample: Any, word: str) -> dict[str, Any] | None:
    if refused(cls):
        return {"kind": "refuses"}
    known = inspect.getattr_static(cls, word, NOWHERE) is not NOWHERE or word in fields_of(cls)
    if not known and look(cls, sample, word) is NOWHERE:
        return None
    return member(cls, sample, word)


def fields_of(cls: Any) -> set[str]:
    return {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(squall_surface(json.load(sys.stdin))))
    else:
        print(json.dumps(modal_surface()))
