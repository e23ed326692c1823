"""Layers that are laid over an image for a function: its source files, and what a container needs of Squall itself."""

import asyncio
from functools import lru_cache, partial
from pathlib import Path

from squall.images.built import BuiltImage
from squall.images.carried import LIBRARY, Carried, give
from squall.images.causes import StepFailed
from squall.images.chains import Chains
from squall.images.layers import KEY_OWNER, LayerStore
from squall.images.maker import Maker, Making
from squall.images.placing import Placer
from squall.images.recipe import digest
from squall.images.venv import VenvShop
from squall.images.workshop import Chain, Workshop
from squall.model.errors import ImageBuildError, InvalidError
from squall.model.ids import LayerKey
from squall.model.specs import SourceFile


class FunctionLayers:
    """Makes them, each once.

    Args:
        owner: as of `Placer`; None where functions run without containers.
    """

    def __init__(self, layers: LayerStore, maker: Maker, placer: Placer, workshop: Workshop, venvs: VenvShop, owner: int | None) -> None:
        self._layers, self._maker, self._placer, self._workshop, self._venvs, self._owner = layers, maker, placer, workshop, venvs, owner
        self._chains = Chains(layers)
        self._carried: Carried | None = None

    async def source(self, files: tuple[SourceFile, ...]) -> Path | None:
        """A directory with `files` at their places, owned by root of containers; None without files. Made once for the same files.

        Raises:
            InvalidError: a path is not absolute or leaves the root.
            NotFoundError: a content was never uploaded.
        """
        if not files:
            return None
        key = _source_key(files, self._owner)
        if not self._layers.present(key):
            await self._maker.make(key, partial(self._placer.place, files, ()), parent="", title=f"source {len(files)} files", kind="source", listener=_ignore)
        return self._layers.path(key)

    async def runner(self, image: BuiltImage, *, nested: bool = False) -> Path:
        """A directory with /.squall/lib: what a container needs of Squall, compiled for the image's Python.

        Args:
            nested: a layer that is being made needs it.

        Raises:
            ImageBuildError: what it depends on could not be installed for this Python.
            InvalidError: the image has no Python.
        """
        if not image.python:
            raise InvalidError('the image has no Python, so no function can run in it: write add_python="3.11" at its base, or install one in a step')
        if self._carried is None:
            self._carried = await asyncio.to_thread(Carried)
        # Made by the image's programs, it is shared by no image that has others. So it is made in no more of the image than its Python.
        alone = self._owner is None or self._carried.fits(image.python_version)
        below = () if alone else self._with_python(tuple(LayerKey(path.parent.name) for path in image.layers))
        key = self._carried.key(image.python_version, below)
        if not self._layers.present(key):
            title = f"runner for python {image.python_version}"
            work = partial(self._carry, self._carried, image, below)
            try:
                await self._maker.make(key, work, parent="", title=title, kind="runner", listener=_ignore, nested=nested)
            except StepFailed as error:
                raise ImageBuildError(
                    f"the {title} could not be made: {error}", step=title, exit_code=error.exit_code, log_tail=error.log_tail, image=image.id
                ) from error
        return self._layers.path(key)

    def _with_python(self, layers: tuple[LayerKey, ...]) -> tuple[LayerKey, ...]:
        """The lower layers of an image, up to the last one that says where its Python is."""
        infos = [self._layers.info(key) for key in layers]
        return layers[: 1 + max((number for number, info in enumerate(infos) if info is not None and "python" in info.facts), default=len(layers) - 1)]

    async def _carry(self, carried: Carried, image: BuiltImage, below: tuple[LayerKey, ...], making: Making) -> None:
        containers = self._owner is not None
        library = making.draft.fs / LIBRARY.lstrip("/")
        # Without containers the layer is used where it lies, which is not where it is made.
        seen_at = LIBRARY if containers else str(self._layers.path(making.draft.key) / LIBRARY.lstrip("/"))
        library.mkdir(parents=True)
        await asyncio.to_thread(carried.copy_package, library)
        if carried.fits(image.python_version):
            await asyncio.to_thread(carried.copy_dependencies, library)
            await asyncio.to_thread(carried.compile, library, seen_at)
        elif not containers:
            await self._venvs.run(carried.install_command(str(library)), image.python, library, making)
        await asyncio.to_thread(give, making.draft.fs, self._owner)
        if containers and not carried.fits(image.python_version):
            facts, env = self._chains.known(below)
            chain = Chain(image.layers[: len(below)], env, "/", facts.get("python", image.python), facts.get("loader", ""))
            making.expect(await self._workshop.run(carried.install_command(LIBRARY), chain, making.draft, {}, making.line))


@lru_cache(maxsize=1024)
def _source_key(files: tuple[SourceFile, ...], owner: int | None) -> LayerKey:
    """Of files in any order: where each lies, and what is in it."""
    return LayerKey(digest("source", sorted((file.path, file.digest, file.executable) for file in files), None if owner is None else KEY_OWNER))


def _ignore(line: str) -> None:
    """Source and runner layers make no talk; their logs are kept."""
