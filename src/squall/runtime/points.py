"""Mount points as a lowest layer of their own: so a container's mounts need nothing from its image, and leave no trace in an upper directory that is kept."""

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from squall.runtime.bundle import SKELETON
from squall.runtime.files import remove_tree
from squall.runtime.ids import IdRange


class Points:
    """Such layers, kept: most containers of a machine have the same mount points. Works from any thread."""

    def __init__(self, folder: Path, ids: IdRange) -> None:
        self._folder, self._ids = folder, ids
        self._lock = threading.Lock()
        self._made: set[Path] = set()

    def layer(self, folders: Iterable[str], files: Iterable[str]) -> Path:
        """The layer with these mount points."""
        key = hashlib.sha256(repr((sorted(folders), sorted(files), self._ids)).encode()).hexdigest()[:16]
        layer = self._folder / key
        with self._lock:
            if layer not in self._made:
                if not layer.exists():
                    fresh = layer.with_suffix(".new")
                    remove_tree(fresh)
                    self._folder.mkdir(exist_ok=True, mode=0o700)
                    make(fresh, folders, files, self._ids)
                    fresh.rename(layer)
                self._made.add(layer)
        return layer

    def remove(self) -> None:
        """Forget and remove them; no container uses any."""
        with self._lock:
            self._made.clear()
            remove_tree(self._folder)


def make(layer: Path, folders: Iterable[str], files: Iterable[str], ids: IdRange) -> None:
    """Make the layer, with these directories and files in it (relative paths), all owned by the mapped root."""
    mapped_folder(layer, ids)
    files = set(files)
    for name in sorted({*folders, *(str(Path(file).parent) for file in files)}):
        below = Path(name)
        for folder in reversed((below, *below.parents[:-1])):
            if not (layer / folder).is_dir():
                mapped_folder(layer / folder, ids, SKELETON.get(str(folder), 0o755))
    for name in files:
        (layer / name).touch()
        os.chown(layer / name, ids.first, ids.first)


def linked_folder(folder: Path, links: Mapping[str, str], ids: IdRange) -> Path:
    """Make a layer with these symbolic links: absolute paths inside, to targets."""
    make(folder, {os.path.dirname(path).strip("/") for path in links} - {""}, (), ids)
    for path, target in links.items():
        at = folder / os.path.normpath(path).strip("/")
        at.symlink_to(target)
        os.lchown(at, ids.first, ids.first)
    return folder


def mapped_folder(folder: Path, ids: IdRange, mode: int = 0o755) -> Path:
    """Make a directory that belongs to the mapped root."""
    folder.mkdir()
    folder.chmod(mode)  # apart from the umask
    os.chown(folder, ids.first, ids.first)
    return folder
