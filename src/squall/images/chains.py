"""Chains of layers as they lie in the store: whether one is there, the directories of a root file system, what lower layers say of higher ones."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from squall.images.layers import LayerStore
from squall.model.errors import NotFoundError
from squall.model.ids import LayerKey


class Chains:
    """Reads layers by their keys. A layer of a registry's image stands for several, which lie below its own files."""

    def __init__(self, layers: LayerStore) -> None:
        self._layers = layers

    def present(self, key: LayerKey) -> bool:
        """Whether a layer is there, and those of a registry that it stands for."""
        if not self._layers.present(key):
            return False
        info = self._layers.info(key)
        return info is not None and all(map(self._layers.present, info.below))

    def paths(self, keys: Iterable[LayerKey]) -> tuple[Path, ...]:
        """Directories of layers, with those of a registry's image in place of their one."""
        paths: list[Path] = []
        for key in keys:
            info = self._layers.info(key)
            paths += [self._layers.path(below) for below in info.below] if info is not None else ()
            paths.append(self._layers.path(key))
        return tuple(paths)

    def known(self, keys: Sequence[LayerKey]) -> tuple[dict[str, str], dict[str, str]]:
        """(facts, environment) of a chain: what a lower layer says holds until a higher one says otherwise."""
        facts: dict[str, str] = {}
        env: dict[str, str] = {}
        for key in keys:
            info = self._layers.info(key)
            if info is None:
                raise NotFoundError(f"the layer {key} was removed while an image was built on it")
            facts |= info.facts
            env |= info.env
        return facts, env

    def below(self, key: LayerKey) -> tuple[LayerKey, ...]:
        """Keys of the layers that this one stands for, lowest first."""
        info = self._layers.info(key)
        return info.below if info is not None else ()
