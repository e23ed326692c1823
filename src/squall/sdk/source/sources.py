"""Local files that travel to containers: found, named by their content, and sent when the server does not have them."""

import importlib.util
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from squall.model.errors import InvalidError, ModuleNotMountable, ResourceExhaustedError
from squall.model.specs import SourceFile
from squall.sdk.source.digests import TREE_FILES_MIN, Digests
from squall.sdk.source.patterns import NON_PYTHON_FILES, FilePatternMatcher
from squall.wire.messages import Answer, Command, MissingBlobs, Names, PutBlobs

#: Where the user's code lies in a container; first on its module path, and the working directory.
ROOT = "/root"

#: Contents travel together up to so many bytes and files: the server makes each message durable at once, which takes milliseconds however many there are.
_BATCH_BYTES, _BATCH_FILES = 4 << 20, 2_000


class Requester(Protocol):
    """The part of a client that is needed here: one request, one answer."""

    def request(self, command: Command) -> Answer: ...


class Shipment:
    """The files of one app: remembers for each content where it lies, so that it can be sent."""

    def __init__(self, digests: Digests | None = None) -> None:
        self._digests = digests if digests is not None else Digests()
        self._trees: list[Digests] = []
        #: digest -> a local file that had this content when it was hashed
        self.origins: dict[str, Path | str] = {}
        #: path in a container -> the local file, for tracebacks
        self.places: dict[str, Path] = {}

    def file(self, local: Path, remote: str) -> SourceFile:
        """`local`, to be placed at the absolute path `remote`.

        Raises:
            InvalidError: no such file, or it can't be read.
        """
        try:
            digest, status = self._digests.digest(local)
        except OSError as error:
            raise InvalidError(f"local file {str(local)!r} can't be read: {error.strerror or error}") from error
        self.origins[digest] = self.places[remote] = local
        return SourceFile(remote, digest, status.st_size, bool(status.st_mode & stat.S_IXUSR))

    def directory(self, local: Path, remote: str, ignore: Callable[[Path], bool], *, skip_hidden: bool = False) -> Iterator[SourceFile]:
        """The regular files below `local`, in order of their names, without those whose relative path `ignore` matches.

        Raises:
            InvalidError: no such directory, or a file in it can't be read.
        """
        if not local.is_dir():
            raise InvalidError(f"local directory {str(local)!r} {'is not a directory' if local.exists() else 'does not exist'}")
        below = remote.rstrip("/")
        try:
            found = list(_walk(local, ignore, skip_hidden))
            if len(found) < TREE_FILES_MIN:
                yield from (self.file(Path(entry.path), f"{below}/{relative}") for entry, relative in found)
                return
            self._trees.append(memory := Digests.of_tree(local))
            for entry, relative in found:
                path, place, status = entry.path, f"{below}/{relative}", entry.stat()
                if (digest := memory.known(path, status)) is None:
                    digest, status = memory.digest(path)
                self.origins[digest] = path
                if path.endswith(".py"):
                    self.places[place] = Path(path)
                yield SourceFile(place, digest, status.st_size, bool(status.st_mode & stat.S_IXUSR))
        except OSError as error:
            raise InvalidError(f"local directory {str(local)!r} can't be read: {error.strerror or error}: {error.filename}") from error

    def upload(self, client: Requester) -> None:
        """Send what the server does not have. Blocking; may be repeated.

        Raises:
            InvalidError: a file changed since it was hashed.
        """
        for memory in (self._digests, *self._trees):
            memory.save()
        if not self.origins:
            return
        missing = client.request(MissingBlobs(tuple(self.origins)))
        assert isinstance(missing, Names)
        batch: dict[str, bytes] = {}
        size = 0
        for digest in missing.names:
            content = self._content(digest)
            if batch and (size + len(content) > _BATCH_BYTES or len(batch) == _BATCH_FILES):
                client.request(PutBlobs(batch))
                batch, size = {}, 0
            batch[digest] = content
            size += len(content)
        if batch:
            client.request(PutBlobs(batch))

    def _content(self, digest: str) -> bytes:
        import hashlib

        path = Path(self.origins[digest])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidError(f"local file {str(path)!r} went away while it was being shipped: {error.strerror or error}") from error
        except MemoryError as error:
            raise ResourceExhaustedError(f"local file {str(path)!r} does not fit into memory") from error
        if hashlib.sha256(data).hexdigest() != digest:
            for memory in (self._digests, *self._trees):
                memory.forget(str(path))  # or else a file whose time was set back could never be shipped
            raise InvalidError(f"local file {str(path)!r} changed while it was being shipped; run it again")
        return data


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file of ``add_local_file``. Looked at only when an app runs: inside a container it is not there."""

    path: Path
    remote: str

    def collect(self, shipment: Shipment) -> Iterable[SourceFile]:
        yield shipment.file(self.path, self.remote)


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    """A tree of ``add_local_dir``."""

    path: Path
    remote: str
    ignore: Callable[[Path], bool]

    def collect(self, shipment: Shipment) -> Iterable[SourceFile]:
        return shipment.directory(self.path, self.remote, self.ignore)


@dataclass(frozen=True, slots=True)
class LocalModule:
    """A module or package of ``add_local_python_source``."""

    name: str
    ignore: Callable[[Path], bool]

    def collect(self, shipment: Shipment) -> Iterable[SourceFile]:
        """
        Raises:
            ModuleNotMountable: there is no such module here, or it has no source files.
        """
        try:
            spec = importlib.util.find_spec(self.name)
        except (ImportError, ValueError) as error:
            raise ModuleNotMountable(f"{self.name!r} can't be found here: {error}") from error
        if spec is None:
            raise ModuleNotMountable(f"{self.name!r} can't be found here; add_local_python_source takes the names of modules that can be imported")
        remote = f"{ROOT}/{self.name.replace('.', '/')}"
        if spec.submodule_search_locations is not None:
            for location in spec.submodule_search_locations:
                yield from shipment.directory(Path(location), remote, self.ignore, skip_hidden=True)
        elif spec.origin is not None and spec.origin.endswith(".py"):
            yield shipment.file(Path(spec.origin), f"{remote}.py")
        else:
            raise ModuleNotMountable(f"{self.name!r} has no Python source ({spec.origin or 'it is built in'}); install it in the image instead")


Local = LocalFile | LocalDirectory | LocalModule


def collect(locals_: Iterable[Local], shipment: Shipment) -> tuple[SourceFile, ...]:
    """The files of all, one for each place in the container: a later one wins."""
    return tuple({file.path: file for local in locals_ for file in local.collect(shipment)}.values())


def module_name(name: str) -> str | None:
    """The name by which a container can import the module called `name` here; None when it has no file (REPL, notebook, ``python -c``).

    `__main__` has the name that it was started by: of ``python -m``, else the stem of its file.
    """
    if name != "__main__":
        return name
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name != "__main__":
        return str(spec.name)
    if file is None or not os.path.isfile(file) or (stem := Path(file).stem) == "__main__":
        return None
    return stem


def module_files(name: str, shipment: Shipment) -> tuple[SourceFile, ...]:
    """Source of the imported module `name` (as its functions say): its file, or the Python files of its whole top-level package.

    Raises:
        ModuleNotMountable: it has no source file.
    """
    shown = module_name(name) or name
    location = getattr(sys.modules.get(name), "__file__", None)
    if location is None or not location.endswith(".py"):
        raise ModuleNotMountable(f"module {shown!r} has no Python source file ({location or 'it is built in'}); use serialized=True")
    file = Path(location).absolute()
    parts = shown.split(".")
    if file.name == "__init__.py":
        parts.append("__init__")
    top = file.parents[len(parts) - 2] if len(parts) > 1 else file
    if len(parts) > 1 and top.joinpath(*parts[1:]).with_suffix(".py") == file:
        return tuple(shipment.directory(top, f"{ROOT}/{parts[0]}", NON_PYTHON_FILES, skip_hidden=True))
    return (shipment.file(file, f"{ROOT}/{'/'.join(parts)}.py"),)


def _walk(root: Path, ignore: Callable[[Path], bool], skip_hidden: bool) -> "Iterator[tuple[os.DirEntry[str], str]]":
    """(file, its path below `root`), in the order of a walk with sorted names. Text instead of paths where it can be: there may be ten thousand files."""
    matcher = ignore if isinstance(ignore, FilePatternMatcher) else None
    # Only without exceptions ("!") can a matching directory be left out without looking into it.
    prunable = matcher is not None and not any(text.strip().startswith("!") for text in matcher.patterns)
    everything = matcher is not None and not matcher.patterns
    seen: set[str] = set()

    def left_out(relative: str) -> bool:
        return not everything and (matcher(relative) if matcher is not None else ignore(Path(relative)))

    def folder(place: str, below: str) -> "Iterator[tuple[os.DirEntry[str], str]]":
        if (real := os.path.realpath(place)) in seen:  # a link back into the tree
            return
        seen.add(real)
        directories = []
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            if skip_hidden and entry.name.startswith("."):
                continue
            if entry.is_dir():
                directories.append(entry)
            elif entry.is_file() and not left_out(below + entry.name):
                yield entry, below + entry.name
        for entry in directories:
            if entry.name != "__pycache__" and not (prunable and left_out(below + entry.name)):
                yield from folder(entry.path, f"{below}{entry.name}/")

    yield from folder(str(root), "")
