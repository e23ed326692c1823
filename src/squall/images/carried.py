"""The runner layer: what a container needs of Squall itself, under /.squall/lib, ready for one version of Python."""

import compileall
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution
from pathlib import Path
from py_compile import PycInvalidationMode

from squall.images.recipe import PYTHON, UV, Command, digest
from squall.model.errors import InternalError
from squall.model.ids import LayerKey

#: Where it is in a container.
LIBRARY = "/.squall/lib"

#: What user code and the runner import. The rest of the package runs on the server only.
_ROOMS = ("model", "wire", "runner", "sdk", "compat")
_DEPENDENCIES = ("msgspec", "cloudpickle")


class Carried:
    """The package as it is now: read once, so that all containers of one server get the same."""

    def __init__(self) -> None:
        import squall

        self._root = Path(squall.__path__[0])
        self._files = tuple(self._walk())
        self._versions = {name: importlib.metadata.version(name) for name in _DEPENDENCIES}
        content = hashlib.sha256()
        for name in self._files:
            data = (self._root / name).read_bytes()
            content.update(f"{name}\0{len(data)}\0".encode() + data)
        self._content = content.hexdigest()

    def key(self, python_version: str, made_in: Sequence[str] = ()) -> LayerKey:
        """Key of the layer for a version of Python such as ``3.11``. `made_in`: keys of the layers whose programs made it; empty: this process did."""
        return LayerKey(digest("runner", self._content, self._versions, python_version, platform.machine(), *made_in))

    def fits(self, python_version: str) -> bool:
        """Whether the dependencies of this very process can be copied, so that nothing has to be fetched."""
        return python_version == f"{sys.version_info.major}.{sys.version_info.minor}" and all(
            _portable(importlib.metadata.distribution(name)) for name in _DEPENDENCIES
        )

    def copy_package(self, library: Path) -> None:
        """Put Squall's own files into `library`."""
        for name in self._files:
            target = library / "squall" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._root / name, target)
        information = library / f"squall-{importlib.metadata.version('squall')}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: squall\nVersion: {importlib.metadata.version('squall')}\n")

    def copy_dependencies(self, library: Path) -> None:
        """Put the dependencies of this process into `library`; only where `fits`."""
        for name in _DEPENDENCIES:
            distribution = importlib.metadata.distribution(name)
            for file in distribution.files or ():
                # Scripts lie outside (`../../bin`); bytecode is made anew.
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    target = library / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(Path(str(distribution.locate_file(file))), target)

    def install_command(self, library: str) -> Command:
        """Fetches the dependencies for the image's own Python into `library`, and compiles all that is there."""
        wanted = [f"{name}=={version}" for name, version in self._versions.items()]
        script = (
            'uv=$1 python=$2 library=$3; shift 3; "$uv" pip install --python "$python" --no-deps --target "$library" "$@" '
            '&& exec "$python" -m compileall -q --invalidation-mode unchecked-hash "$library"'
        )
        return Command(("/bin/sh", "-c", script, "runner", UV, PYTHON, library, *wanted), {"UV_COMPILE_BYTECODE": "0"}, tool="uv")

    def compile(self, library: Path, seen_at: str) -> None:
        """Bytecode for this process's version of Python. Hashes unchecked: a layer never changes, so an import need not look at the source.

        Args:
            seen_at: path of `library` in the container, for tracebacks.
        """
        done = compileall.compile_dir(
            library, quiet=1, stripdir=str(library), prependdir=seen_at, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH, force=True, maxlevels=20
        )
        if not done:
            raise InternalError(f"Squall's own files in {library} could not be compiled")

    def _walk(self) -> Iterator[str]:
        yield from sorted(path.name for path in self._root.glob("*.py"))
        for room in _ROOMS:
            for directory, names, files in os.walk(self._root / room):
                names[:] = sorted(name for name in names if name != "__pycache__")
                for name in sorted(files):
                    if name.endswith((".py", ".json", ".txt")) or name == "py.typed":
                        yield str((Path(directory) / name).relative_to(self._root))


def _portable(distribution: Distribution) -> bool:
    """Whether its files run on any common Linux: pure Python, or a manylinux wheel, not something compiled on this machine."""
    wheel = distribution.read_text("WHEEL") or ""
    return "Root-Is-Purelib: true" in wheel or "manylinux" in wheel


def give(root: Path, owner: int | None) -> None:
    """Give everything below `root` to `owner` (None: leave it), readable by all whatever the umask."""
    for directory, _, files in os.walk(root):
        for path, mode in ((directory, 0o755), *((os.path.join(directory, name), 0o644) for name in files)):
            os.chmod(path, mode)
            if owner is not None:
                os.chown(path, owner, owner)
