"""The work of a layer of placed files: most of them are likely to be in the layer that was placed there before, and are linked from it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from squall.images.explain import files_of
from squall.images.layers import LayerStore
from squall.images.maker import Making
from squall.images.place import write_files
from squall.model.ids import LayerKey
from squall.model.specs import SourceFile

#: A layer of fewer files is written as quickly as looked up.
_LINKED_FILES_MIN = 200


class Placer:
    """Places files in drafts of a store.

    Args:
        content: digest -> the file that holds the content.
        owner: host uid and gid of what is placed; None: this process's.
    """

    def __init__(self, layers: LayerStore, content: Callable[[str], Path], owner: int | None) -> None:
        self._layers, self._content, self._owner = layers, content, owner

    async def place(self, files: tuple[SourceFile, ...], lowers: tuple[Path, ...], making: Making, *, parent: str = "", word: str = "source") -> None:
        """Put `files` into the draft, over `lowers`.

        Args:
            parent, word: key of the layer below, and first word of the title, by which an earlier version is known.

        Raises:
            InvalidError, NotFoundError: as `write_files`.
        """

        def work() -> int:
            alike = self._alike(parent, word) if len(files) >= _LINKED_FILES_MIN else None
            return write_files(making.draft.fs, files, self._content, owner=self._owner, lowers=lowers, alike=alike)

        making.size = (await asyncio.to_thread(work), len(files))

    def _alike(self, parent: str, word: str) -> tuple[Path, dict[str, str]] | None:
        """The latest layer of placed files at the same place of a chain: most of its files are likely to be the same."""
        known = [info for info in self._layers.all() if info.parent == parent and info.kind in ("Place", "source") and info.title.split(" ")[0] == word]
        return (self._layers.path(LayerKey(known[-1].key)), files_of(self._layers, LayerKey(known[-1].key))) if known else None
