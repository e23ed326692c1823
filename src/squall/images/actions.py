"""What each kind of action does to the layer that is being made: a base, a pulled image, a command, placed and copied files."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from squall.images import debian, registry, standalone
from squall.images.built import BuiltImage
from squall.images.carried import give
from squall.images.causes import StepFailed
from squall.images.chains import Chains
from squall.images.copying import Place as CopyPlace
from squall.images.copying import copy
from squall.images.dockerfile import resolve_env
from squall.images.explain import INPUTS
from squall.images.explain import encode as encode_inputs
from squall.images.function_layers import FunctionLayers
from squall.images.interpreter import find
from squall.images.layers import LayerStore
from squall.images.maker import Maker, Making, failed
from squall.images.place import like_below
from squall.images.placing import Placer
from squall.images.recipe import DEBIAN_OF_PYTHON, PYTHON, AddPython, Command, Copy, DebianBase, LayerPlan, Metadata, Place, RegistryBase, Scratch, layer_key
from squall.images.settings import ImageSettings
from squall.images.workshop import Chain, Workshop
from squall.model.errors import Error, NotFoundError
from squall.model.ids import ImageId, LayerKey
from squall.model.resources import Gpu
from squall.model.specs import VolumeMount
from squall.runtime.cdi import Edits
from squall.runtime.contract import Bind


class Actions:
    """Carries out the actions of a plan, for images that containers run in.

    Args:
        content: digest -> the file that holds the content.
        cache: blobs of registries, by their digests.
    """

    def __init__(
        self, layers: LayerStore, maker: Maker, placer: Placer, workshop: Workshop, functions: FunctionLayers, settings: ImageSettings, cache: Path,
        content: Callable[[str], Path], owner: int | None,
    ) -> None:  # fmt: skip
        self._layers, self._maker, self._placer, self._workshop, self._functions = layers, maker, placer, workshop, functions
        self._settings, self._cache, self._content, self._owner = settings, cache, content, owner
        self._chains = Chains(layers)
        #: Mounts of volumes that steps name; set by whoever keeps them.
        self.mount: Callable[[VolumeMount], Bind] = _no_volume
        #: Reserves GPUs for as long as it is open, of alternatives the first that is free; set by whoever keeps them. It says through its second argument
        #: what it waits for.
        self.lend: Callable[[tuple[Gpu, ...], Callable[[str], None]], AbstractAsyncContextManager[Edits]] = _no_gpus

    async def make(self, layer: LayerPlan, below: tuple[LayerKey, ...], secrets: Mapping[str, str], making: Making) -> None:
        """Fill the draft with what `layer` is, over the layers `below`.

        Raises:
            StepFailed: it can't be made; the message is the cause.
            TimeoutError: (builtin) a command ran too long.
        """
        (making.draft.root / INPUTS).write_bytes(encode_inputs(layer))
        await self._fill(layer, below, secrets, making)

    async def _fill(self, layer: LayerPlan, below: tuple[LayerKey, ...], secrets: Mapping[str, str], making: Making) -> None:
        lowers = self._chains.paths(below)
        facts, env = self._chains.known(below)
        match layer.action:
            case DebianBase() as base:
                code = await debian.make(base, making.draft.fs, making.line, owner=self._owner)
                if code != 0:
                    raise failed("\n".join(making.tail), code, None)
                making.facts |= {"python": debian.INTERPRETER.format(version=base.python_version), "python_version": base.python_version}
                making.env |= debian.ENVIRONMENT
            case RegistryBase(reference=reference):
                await self._pull(reference, secrets, making)
            case Scratch():
                making.env |= {"PATH": debian.ENVIRONMENT["PATH"], "HOME": "/root"}
                await asyncio.to_thread(give, making.draft.fs, self._owner)
            case AddPython() as action:
                await self._add_python(action, lowers, making)
            case Command() as command:
                if PYTHON in command.argv and "python" not in facts:
                    raise StepFailed('the image has no Python: write add_python="3.11" at its base, or install one in a step before')
                known = resolve_env(layer.metadata.env, env)
                chain = Chain(lowers, known, layer.metadata.workdir or facts.get("workdir", ""), facts.get("python", ""), facts.get("loader", ""))
                if command.library:
                    image = BuiltImage(ImageId(""), lowers, known, "/", facts["python"], facts["python_version"])
                    chain = replace(chain, library=await self._functions.runner(image, nested=True))
                chain = replace(chain, volumes=tuple(map(self.mount, layer.volumes)), scope=layer.scope)
                async with self._devices(command.gpus, making.line) as devices:
                    exit = await self._workshop.run(command, replace(chain, devices=devices), making.draft, secrets, making.line)
                making.expect(exit, memory_mib=self._workshop.memory_mib(command))
            case Place(files=files):
                await self._placer.place(files, lowers, making, parent=below[-1] if below else "", word=layer.title.split(" ")[0])
            case Copy() as action:
                place = CopyPlace(making.draft.fs, lowers, self._owner or 0, layer.metadata.workdir or facts.get("workdir", "/"))
                await asyncio.to_thread(like_below, making.draft.fs, lowers, self._owner or 0)
                await asyncio.to_thread(copy, action, place, self._content, self._chains.paths(action.layers), making.draft.scratch)
        if "python" not in (facts | making.facts) and not isinstance(layer.action, Scratch):
            path = resolve_env(layer.metadata.env, {**env, **making.env}).get("PATH", "")
            found = await asyncio.to_thread(find, (*lowers, *(self._layers.path(key) for key in making.below), making.draft.fs), path)
            if found is not None:
                making.facts |= {"python": found.path, "python_version": found.version}

    @contextlib.asynccontextmanager
    async def _devices(self, gpus: tuple[Gpu, ...], line: Callable[[str], None]) -> AsyncIterator[Edits]:
        if not gpus:
            yield Edits()
            return
        async with contextlib.AsyncExitStack() as stack:
            try:
                devices = await stack.enter_async_context(self.lend(gpus, line))
            except Error as error:
                raise StepFailed(f"it asks for gpu={' or '.join(map(str, gpus))}, and {error}") from error
            yield devices

    async def _pull(self, reference: str, secrets: Mapping[str, str], making: Making) -> None:
        owner = self._owner
        assert owner is not None
        pulled = await registry.pull(reference, making.draft, self._cache, secrets, making.line)
        lowers: list[Path] = []
        for key, blob in pulled.layers:

            async def work(inner: Making, blob: Path = blob, lowers: tuple[Path, ...] = tuple(lowers)) -> None:
                await registry.unpack(blob, inner.draft, lowers, inner.line, owner=owner)

            if not self._layers.present(key):
                title = f"layer {len(lowers) + 1} of {reference}"
                await self._maker.make(key, work, parent=making.below[-1] if making.below else "", title=title, kind="oci", listener=making.line, nested=True)
            lowers.append(self._layers.path(key))
            making.below.append(key)
        await asyncio.to_thread(like_below, making.draft.fs, tuple(lowers), owner)
        making.env |= pulled.env
        making.facts["digest"] = pulled.digest
        if pulled.workdir:
            making.facts["workdir"] = pulled.workdir
        for name, words in (("entrypoint", pulled.entrypoint), ("cmd", pulled.cmd)):
            if words is not None:
                making.facts[name] = msgspec.json.encode(words).decode()

    async def _add_python(self, action: AddPython, lowers: tuple[Path, ...], making: Making) -> None:
        fs, version = making.draft.fs, action.version
        await asyncio.to_thread(like_below, fs, lowers, self._owner or 0)
        if not await standalone.fetch(action, fs, making.draft.scratch, self._settings, making.line, owner=self._owner):
            if version not in DEBIAN_OF_PYTHON and self._settings.python_fallback == "nearest":
                version = debian.nearest(version)
                making.line(f"no Python {action.version} can be had here; add_python puts in {version} instead")
            base = DebianBase(DEBIAN_OF_PYTHON.get(version), version, action.machine)
            if base.release is None:
                raise StepFailed(
                    f"no Python {version} can be had here: uv could not fetch it; available are {debian.available()}. "
                    "With SQUALL_PYTHON_FALLBACK=nearest the server takes the nearest of these"
                )
            key = layer_key(LayerKey(""), base, Metadata())
            if not self._layers.present(key):
                layer = LayerPlan(key, 1, f"debian_slim python {version}", base, Metadata(), (), False)
                work = partial(self._fill, layer, (), {})
                await self._maker.make(key, work, parent="", title=layer.title, kind="DebianBase", listener=making.line, nested=True)
            making.line(f"taking Debian's Python {version}")
            making.facts["loader"] = await asyncio.to_thread(standalone.borrow, version, self._layers.path(key), fs, owner=self._owner)
        python = await asyncio.to_thread(standalone.name_commands, version, fs, lowers, owner=self._owner)
        making.facts |= {"python": python, "python_version": ".".join(version.split(".")[:2])}


def _no_gpus(gpus: tuple[Gpu, ...], line: Callable[[str], None]) -> AbstractAsyncContextManager[Edits]:
    raise NotFoundError("this machine has none")


def _no_volume(mount: VolumeMount) -> Bind:
    raise NotFoundError(f"there is no volume {mount.volume}")
