"""The name `modal` means Squall: in containers, and where `squall run` imports a program. Also where a package of that name is installed."""

import importlib
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType

#: "0" leaves the name alone. Set by `squall run --no-modal-alias`, and taken along to containers.
VARIABLE = "SQUALL_MODAL_ALIAS"

_NAME = "modal"


class _Finder:
    """First on the meta path, so that it is asked before any file is looked for. The names themselves are in `squall.compat`, imported when wanted."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name != _NAME and not name.startswith(f"{_NAME}."):
            return None
        if name != _NAME and not importlib.import_module("squall.compat").has(name.partition(".")[2]):
            return None
        return importlib.machinery.ModuleSpec(name, self, origin="squall.compat", is_package=True)  # type: ignore[arg-type]  # the protocol alone

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module: ModuleType = importlib.import_module("squall.compat").make(spec.name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def wanted() -> bool:
    """Whether the name is to be taken."""
    return os.environ.get(VARIABLE) != "0"


def install() -> None:
    """Take the name. Idempotent."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
