"""From ``file.py::name`` or ``-m module::name`` to the thing that is to be run."""

import importlib
import importlib.util
import inspect
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import squall
from squall.cli.program.methods import Method
from squall.cli.ui import localhost_names
from squall.model.errors import InvalidError
from squall.runner import alias
from squall.sdk.app.app import App
from squall.sdk.app.entrypoint import LocalEntrypoint
from squall.sdk.function.cls import Cls
from squall.sdk.function.function import Function

#: Where the command `modal` lies.
_COMMANDS = Path(squall.__file__).parent / "compat" / "bin"


@dataclass(frozen=True, slots=True)
class Target:
    """A local entrypoint, a function or a method of a class, and its app."""

    app: App
    runs: LocalEntrypoint[..., Any] | Function[..., Any, Any] | Method

    @property
    def name(self) -> str:
        return self.runs.name if isinstance(self.runs, LocalEntrypoint) else self.runs.tag


def load(reference: str, *, as_module: bool) -> Target:
    """Import the user's module and find the target in it.

    Raises:
        UnclearTarget: several things could be meant; the message lists them.
        InvalidError: no such file, no app in it, or nothing of that name.
        BaseException: whatever the module raises while it is imported.
    """
    place, _, name = reference.partition("::")
    module = import_module(place) if as_module else import_file(place)
    return find(module, name.strip(), place)


def load_app(reference: str, *, as_module: bool) -> App:
    """The app of a program: ``file.py``, or ``file.py::name`` where it has several.

    Raises:
        InvalidError: no such file, no app in it, or no clear one.
    """
    place, _, name = reference.partition("::")
    module = import_module(place) if as_module else import_file(place)
    if name:
        found = getattr(module, name, None)
        if not isinstance(found, App):
            raise InvalidError(f"{place} has no app {name!r}")
        return found
    apps = _apps(module)
    if not apps:
        raise InvalidError(f'{place} has no app; a program has one at its top:  app = squall.App("name")')
    if len(apps) > 1 and getattr(module, "app", None) is not apps[0]:
        names = [name for name, value in vars(module).items() if isinstance(value, App)]
        raise InvalidError(f"{place} has several apps; say which:  {place}::{names[0]}")
    return apps[0]


def import_file(place: str) -> ModuleType:
    """Import a file under the name of its stem, with its directory first on the path, as ``python file.py`` has it. ``-`` is a program on stdin.

    Raises:
        InvalidError: no such file, or its name hides a module that is already in use.
    """
    _prepare()
    path = _from_stdin() if place == "-" else Path(place).absolute()
    if not path.is_file():
        hint = f"; to run a module, write  squall run -m {place}" if not place.endswith(".py") and "/" not in place else ""
        raise InvalidError(f"there is no file {place!r}{hint}")
    if path.suffix != ".py":
        raise InvalidError(f"{place!r} is not a Python file (.py)")
    name = path.stem
    if (there := sys.modules.get(name)) is not None:
        where = getattr(there, "__file__", None) or "built in"
        raise InvalidError(f"the name of {place!r} hides the module {name!r} ({where}), which is in use; rename the file")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        if "relative import" in str(error):
            raise InvalidError(f"{place!r} imports relatively, so it is part of a package: run it as a module,  {_as_module(path)}") from error
        raise
    return module


def _from_stdin() -> Path:
    """The program on stdin as a file, whose source goes to containers; gone at the end of this process."""
    import atexit
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="squall-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "stdin.py"
    path.write_bytes(sys.stdin.buffer.read())
    return path


def _as_module(path: Path) -> str:
    """How the module of a package is run: by its whole name, from the directory that holds the outermost package."""
    name, folder = path.stem, path.parent
    while True:
        name, folder = f"{folder.name}.{name}", folder.parent
        if not (folder / "__init__.py").exists():
            break
    return ("" if folder == Path.cwd() else f"cd {folder} && ") + f"squall run -m {name}"


def import_module(name: str) -> ModuleType:
    """Import a module by name, with the current directory on the path, as ``python -m`` has it.

    Raises:
        InvalidError: there is no such module.
    """
    _prepare()
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InvalidError(f"there is no module {name!r}: no {error.name!r} in this directory or on Python's path") from error
        raise


def _prepare() -> None:
    """Whatever command imports a program: addresses of web functions can be opened in it, and `modal` means the same, as a module and as a command."""
    localhost_names.install()
    if alias.wanted():
        alias.install()
        os.environ["SQUALL_PYTHON"] = sys.executable
        os.environ["PATH"] = f"{_COMMANDS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


class UnclearTarget(InvalidError):
    """The command line does not say which of several things is to be run: wrong usage, where a name that is not there is an error."""


def find(module: ModuleType, name: str, place: str) -> Target:
    """The target called `name` in a module: ``f``, ``C.method``, or a class that has one method; ``app`` or ``app.f`` look in that app alone.

    A name is that of the declaration, or that of a variable: what ``with_options`` gave, a handle beside the plain function. Without a name the only
    entrypoint, or else the only function that is no web function.

    Raises:
        UnclearTarget: it is not clear which.
        InvalidError: there is none of that name.
    """
    apps = _apps(module)
    if not apps:
        raise InvalidError(f"{place} has no app; a program has one at its top:  app = squall.App()")
    asked = name
    head, _, rest = name.partition(".")
    if isinstance(only := getattr(module, head, None) if head else None, App):
        apps, name = [only], rest
    owners = {tag: app for app in reversed(apps) for tag in (*app.registered_entrypoints, *_callables(app))}
    entrypoints: dict[str, Any] = {tag: entrypoint for app in apps for tag, entrypoint in app.registered_entrypoints.items()}
    functions: dict[str, Any] = {tag: thing for app in apps for tag, thing in _callables(app).items()}
    plain = {tag: thing for tag, thing in functions.items() if not _answers_requests(thing)}
    if name:
        candidates = _named(name, {**entrypoints, **functions}) or (_variables(module, name) if asked == name else {})
        if not candidates:
            plainly = f" {asked} is a plain function: put  @app.function()  above it." if inspect.isfunction(getattr(module, asked, None)) else ""
            raise InvalidError(f"{place} has no {asked!r} that can be run.{plainly}{_choices(place, entrypoints, functions)}")
        what = f"several methods in {asked}"
    elif entrypoints:
        candidates, what = entrypoints, "several local entrypoints"
    elif plain:
        candidates, what = plain, "several functions and no local entrypoint"
    else:
        candidates, what = {}, "nothing that can be run but web functions" if functions else "nothing that can be run"
    if len(candidates) != 1:
        raise UnclearTarget(f"{place} has {what}.{_choices(place, candidates) if name else _choices(place, entrypoints, functions)}")
    ((tag, found),) = candidates.items()
    app: Any = owners.get(tag) or (found.cls._app if isinstance(found, Method) else found.app)
    return Target(app, found)


def _named(name: str, known: dict[str, Any]) -> dict[str, Any]:
    """What is called that, or the methods of the class that is; those that answer requests only where there is no other."""
    if name in known:
        return {name: known[name]}
    methods = {tag: thing for tag, thing in known.items() if tag.startswith(f"{name}.")}
    return {tag: thing for tag, thing in methods.items() if not _answers_requests(thing)} or methods


def _variables(module: ModuleType, name: str) -> dict[str, Any]:
    """As `_named`, for what a module has under a name of its own."""
    head, _, rest = name.partition(".")
    value = getattr(module, head, None)
    if isinstance(value, Cls) and value._app is not None:
        return _named(name, {f"{head}.{method}": Method(value, method) for method in value._methods})
    if not rest and isinstance(value, Function) and value.app is not None:
        return {head: value}
    return {}


def _answers_requests(thing: Any) -> bool:
    spec = thing.cls._methods[thing.name] if isinstance(thing, Method) else thing._method if isinstance(thing, Function) else None
    return spec is not None and spec.web is not None


def _callables(app: App) -> dict[str, Function[..., Any, Any] | Method]:
    """What can be called in containers, by name: functions, and methods of classes."""
    found: dict[str, Function[..., Any, Any] | Method] = dict(app.registered_functions)
    for tag, cls in app.registered_classes.items():
        found.update((f"{tag}.{name}", Method(cls, name)) for name in cls._methods)
    return found


def _apps(module: ModuleType) -> list[App]:
    found = {id(value): value for value in vars(module).values() if isinstance(value, App)}
    named = getattr(module, "app", None)
    return sorted(found.values(), key=lambda app: app is not named)


def _choices(place: str, *known: dict[str, Any]) -> str:
    how = "" if place.endswith(".py") else "-m "
    lines = [f"squall run {how}{place}::{tag}" for tags in known for tag in tags]
    return "".join([" Choose one:", *(f"\n  {line}" for line in lines)]) if lines else ""
