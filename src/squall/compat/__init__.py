"""`modal`, as programs written for it import it: Squall's own objects under Modal's names, old spellings included.

Imported by `runner.alias` when a program asks for `modal`, never by the product itself. May import the SDK.
"""

import importlib
from types import ModuleType
from typing import Any

from squall.compat.old import OLD, REMOVED
from squall.compat.submodules import SUBMODULES

#: Of Modal's client, which these names follow; programs compare it.
VERSION = "1.6.4"


def has(name: str) -> bool:
    """Whether there is a submodule of that name (without the leading ``modal.``)."""
    return name in SUBMODULES


def make(name: str) -> ModuleType:
    """The module that is imported as `name`: ``modal`` or one of its submodules."""
    return _Package(name) if "." not in name else _Submodule(name)


class _Module(ModuleType):
    """Travels by name with what mentions it, as other modules do."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return importlib.import_module, (self.__name__,)


class _Package(_Module):
    """`modal` itself: every public name of Squall, and the old ones."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "Squall, under the name of the client that it is compatible with.")
        self.__version__ = VERSION

    def __getattr__(self, name: str) -> Any:
        import squall

        if name in OLD:
            return OLD[name]()
        if name == "Error":  # the only one of the errors that stands in the package itself, too
            return squall.exception.Error
        if has(name):  # before Squall's own module of that name: this one has old names too
            return importlib.import_module(f"{self.__name__}.{name}")
        if name in squall.__all__:
            value = getattr(squall, name)
            setattr(self, name, value)
            return value
        if name in REMOVED:
            return REMOVED[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} (Squall stands for it here; squall run --no-modal-alias turns that off)")

    def __dir__(self) -> list[str]:
        import squall

        return sorted({*squall.__all__, "Error", *OLD, *SUBMODULES})

    @property
    def __all__(self) -> list[str]:
        """What ``from modal import *`` takes."""
        import squall

        return [name for name in squall.__all__ if not name.startswith("_")]


class _Submodule(_Module):
    """`modal.x`: the names of the module of Squall that has them; what it lacks comes from the package."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__squall_homes__ = SUBMODULES[name.partition(".")[2]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for home in self.__squall_homes__:
            module = importlib.import_module(home)
            # A module's own imports are no names of it: what it has from elsewhere is asked for there.
            if hasattr(module, name):
                value = getattr(module, name)
                setattr(self, name, value)
                return value
        package = importlib.import_module(self.__name__.partition(".")[0])
        try:
            return getattr(package, name)
        except AttributeError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None
