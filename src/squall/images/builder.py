"""From a recipe to an image that a container can be started from: layers that are there are used, the others are made."""

import asyncio
import logging
import secrets as entropy
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from squall.images import debian, export
from squall.images import steps as _steps  # noqa: F401  registers the kinds of steps
from squall.images.actions import Actions
from squall.images.built import BuiltImage, Progress, StepEvent, no_progress
from squall.images.catalog import Catalog, Failure, ImageRecord
from squall.images.causes import StepFailed
from squall.images.chains import Chains
from squall.images.dockerfile import resolve_env
from squall.images.expand import expand
from squall.images.explain import Explanation, explain
from squall.images.function_layers import FunctionLayers
from squall.images.layers import LayerStore
from squall.images.maker import Maker, Making, Work
from squall.images.placing import Placer
from squall.images.prune import Removal, plan_prune
from squall.images.recipe import (
    Copy,
    DebianBase,
    LayerPlan,
    Place,
    Plan,
    plan,
)
from squall.images.settings import DEFAULTS, ImageSettings
from squall.images.venv import VenvShop, environment, venv_plan
from squall.images.workshop import Workshop
from squall.model.errors import ImageBuildError, InvalidError, NotFoundError
from squall.model.ids import LayerKey
from squall.model.specs import ImageSpec, SourceFile
from squall.runtime.contract import Driver
from squall.store.blobs import BlobDirectory

log = logging.getLogger(__name__)

__all__ = ["Builder", "BuiltImage", "ImageRecord", "ImageSettings", "StepEvent"]


class Builder:
    """Builds images on this machine. One for each data directory in a process; other processes may have theirs on the same directory.

    Args:
        data: holds `layers`, `images` and `cache`. On a file system that takes overlay upper directories.
        driver: runs the steps; opened by its owner, before the first build.
        now: Unix time in seconds, for records.
    """

    def __init__(self, *, data: Path, driver: Driver, blobs: BlobDirectory, settings: ImageSettings = DEFAULTS, now: Callable[[], float] = time.time) -> None:
        self._driver, self._settings, self._now = driver, settings, now
        self.layers = LayerStore(data / "layers")
        self.catalog = Catalog(data / "images", self.layers)
        cache = self._cache = settings.cache or data / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        self._maker = Maker(self.layers, settings, now)
        self._chains = Chains(self.layers)
        self._placer = Placer(self.layers, blobs.path, self._owner)
        self._venvs = VenvShop(settings, cache, blobs.path)
        workshop = Workshop(driver, settings, cache, blobs.path, now)
        self._functions = FunctionLayers(self.layers, self._maker, self._placer, workshop, self._venvs, self._owner)
        self.actions = Actions(self.layers, self._maker, self._placer, workshop, self._functions, settings, cache, blobs.path, self._owner)
        #: (images, layers) that functions and containers need; set by whoever runs them.
        self.in_use: Callable[[], tuple[Collection[str], Collection[str]]] = lambda: ((), ())
        #: Values of secrets that steps name by reference; set by whoever keeps them.
        self.resolve: Callable[[Sequence[str]], Awaitable[dict[str, str]]] = _no_secrets
        #: Layers of `force`: the key that they would have had -> what makes theirs another one, from the last `ensure`.
        self._forced: dict[LayerKey, str] = {LayerKey(key): nonce for key, nonce in self.catalog.forced().items()}

    @property
    def _owner(self) -> int | None:
        return self._settings.uid_base if self._driver.capabilities.images else None

    def peek(self, spec: ImageSpec, *, scope: str = "") -> BuiltImage | None:
        """The image if nothing of it has to be made. Two stats a layer. With `force` in the recipe: what this builder's last `ensure` made.

        Args:
            scope: as `ensure`.

        Raises:
            InvalidError, UnsupportedError: as `ensure`.
        """
        planned = self._known_plan(spec, scope)
        image = None if planned is None else self._finished(planned)
        if image is not None:
            self.catalog.used(image.id)
        return image

    def _known_plan(self, spec: ImageSpec, scope: str) -> Plan | None:
        """The plan, with the layers that the last `ensure` made where the recipe forces new ones; None where it made none."""
        missed = False

        def fresh(key: LayerKey) -> str | None:
            nonlocal missed
            missed = missed or key not in self._forced
            return self._forced.get(key)

        planned = self._plan(spec, fresh, scope)
        return None if missed else planned

    async def ensure(self, spec: ImageSpec, *, scope: str = "", secrets: Mapping[str, str] = {}, progress: Progress = no_progress) -> BuiltImage:
        """The image, with whatever of it is missing made now. The same layer is made once, however many ask for it. Cancel-safe.

        Args:
            scope: for whom it is made (`recipe.plan`): the environment and name of an app.
            secrets: values of the variables that steps name in `Step.secrets`, where these are no references (see `resolve`). The values are in no layer's
                key, and blotted out in logs.
            progress: called on the event loop, for every step that has a layer.

        Raises:
            InvalidError: the recipe is wrong, or asks for what can't be had here.
            UnsupportedError: it has a step that this version, or this driver, can't take.
            ImageBuildError: a step failed.
            ResourceExhaustedError: the disk is full.
            NotFoundError: the content of a local file was never uploaded.
        """
        began = time.perf_counter()
        nonces: dict[LayerKey, str] = {}
        planned = self._plan(spec, lambda key: nonces.setdefault(key, entropy.token_hex(8)), scope)
        if self._driver.capabilities.images:
            if (note := debian.note(spec, self._settings)) is not None:
                progress(StepEvent(1, planned.steps, planned.layers[0].title, "note", note))
            await self._ensure_layers(planned, secrets, progress)
        else:
            await self._ensure_venv(planned, secrets, progress)
        self._forced |= nonces
        self.catalog.force({str(key): nonce for key, nonce in nonces.items()})
        image = self._finished(planned)
        if image is None:
            raise NotFoundError(f"a layer of image {planned.id} was removed while the image was built")
        self._record(planned, image, spec, time.perf_counter() - began)
        await self._keep_budget(planned.id, image)
        return image

    async def source_layer(self, files: tuple[SourceFile, ...]) -> Path | None:
        """See `FunctionLayers.source`."""
        return await self._functions.source(files)

    async def runner_layer(self, image: BuiltImage) -> Path:
        """See `FunctionLayers.runner`."""
        return await self._functions.runner(image)

    async def sweep(self) -> list[str]:
        """Remove what killed builds left; returns names. After the driver's own `sweep`, which ends their containers."""
        return await self.layers.sweep()

    async def close(self) -> None:
        """Wait until what was built is on disk. Not needed for correctness: unsettled layers are known as such."""
        await self.layers.close()

    def explain(self, spec: ImageSpec, *, scope: str = "") -> list[Explanation]:
        """For each layer of a recipe, whether it is there, and why not. Blocks for reads of what is known about layers.

        Raises:
            InvalidError, UnsupportedError: as `ensure`.
        """
        planned = self._plan(spec, lambda key: None, scope)
        return explain(planned, self.layers, self.layers.all())

    async def prune(
        self, *, keep: Collection[str] = (), keep_layers: Collection[str] = (), older_than_s: float | None = None, budget_bytes: int | None = None,
        try_only: bool = False,
    ) -> Removal:  # fmt: skip
        """Remove images and layers that are not needed (see `plan_prune`). Published images stay. Builds that failed are forgotten by age.

        Args:
            try_only: only say what would go.
        """
        records = self.catalog.all()
        published = set(self.catalog.names().values())
        used = {record.id: self.catalog.last_used(record.id) for record in records}
        infos = self.layers.all()
        used |= {info.key: self.layers.last_used(LayerKey(info.key)) for info in infos}
        busy = {*keep_layers, *self._maker.busy()}
        removal = plan_prune(
            records, infos, used, keep={*keep, *published}, keep_layers=busy, now=self._now(), older_than_s=older_than_s, budget_bytes=budget_bytes
        )
        if not try_only:
            for image in removal.images:
                self.catalog.forget(image)
            for key in removal.layers:
                await self.layers.remove(key)
            for failure in self.catalog.failures():
                if budget_bytes is None and self._now() - failure.failed_at >= (older_than_s or 0.0):
                    self.catalog.forget_failure(failure.id)
                    self.layers.forget_failed(LayerKey(failure.key))
        return removal

    async def export(self, image: str, target: str, *, secrets: Mapping[str, str] = {}, line: Callable[[str], None] = lambda text: None) -> str:
        """Write an image to a directory, an archive or a registry (see `export.check_target`). Returns the target in full.

        Args:
            image: an id, the beginning of one, or a published name.
            secrets: the registry's credentials.

        Raises:
            NotFoundError: no such image.
            InvalidError: it can't go there.
            ImageBuildError: skopeo could not; the cause is the message.
        """
        place, record = export.check_target(target), self.catalog.record(image)
        if self._owner is None:
            raise InvalidError("images of the process driver are no containers' images, and can't be exported")
        if lost := [key for key in record.layers if not self.layers.present(LayerKey(key))]:
            raise NotFoundError(f"{len(lost)} layers of {record.id} were removed; build it again")
        layers = [((info.title if (info := self.layers.info(LayerKey(key))) else key), self.layers.path(LayerKey(key))) for key in record.layers]
        scratch = Path(tempfile.mkdtemp(prefix="export-", dir=self._cache))
        try:
            await asyncio.to_thread(export.write_layout, record, layers, scratch / "layout", base=self._owner)
            await export.send(scratch / "layout", place, scratch, secrets, line)
        except StepFailed as error:
            raise ImageBuildError(f"{record.id} could not be exported to {target}: {error}", log_tail=error.log_tail, image=record.id) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch)
        return place

    def log(self, key: str) -> str | None:
        """What the build of a layer printed; None if it is unknown."""
        return self.layers.log(LayerKey(key))

    def _plan(self, spec: ImageSpec, fresh: Callable[[LayerKey], str | None], scope: str) -> Plan:
        planned = plan(self._expanded(spec), fresh=fresh, pins=self.catalog.pins(spec), scope=scope)
        if self._driver.capabilities.images:
            for layer in planned.layers:
                if isinstance(layer.action, DebianBase):
                    debian.check(layer.action)
        else:
            venv_plan(planned)
        return planned

    def _expanded(self, spec: ImageSpec) -> ImageSpec:
        spec = expand(spec, self.catalog.recipe)
        return debian.provide(spec, self._settings) if self._driver.capabilities.images else spec

    # --- a chain of layers --------------------------------------------------------------------------------------------------------------

    async def _ensure_layers(self, planned: Plan, secrets: Mapping[str, str], progress: Progress) -> None:
        for layer in planned.layers:
            missing = [name for name in layer.secrets if name not in secrets and not _is_reference(name)]
            if missing and not self._chains.present(layer.key):
                raise InvalidError(f"step {layer.step} of the image, {layer.title}, needs the secret {', '.join(missing)}, which has no value")
        wanted = {layer.action.layers for layer in planned.layers if isinstance(layer.action, Copy) and not self._chains.present(layer.key)}
        stages = [stage for stage in planned.stages if tuple(layer.key for layer in stage.layers) in wanted]
        if stages:
            await together(self._ensure_layers(stage, secrets, progress) for stage in stages)
        parent = ""
        for number, layer in enumerate(planned.layers):
            given = {} if self._chains.present(layer.key) else await self._given(layer, secrets)
            work = partial(self.actions.make, layer, tuple(below.key for below in planned.layers[:number]), given)
            await self._step(planned, layer, layer.key, parent, work, given, progress)
            parent = layer.key

    async def _given(self, layer: LayerPlan, secrets: Mapping[str, str]) -> dict[str, str]:
        """The variables that a step gets. References are looked up only now, for what is made."""
        references = [name for name in layer.secrets if _is_reference(name)]
        found = await self.resolve(references) if references else {}
        return {**found, **{name: secrets[name] for name in layer.secrets if name in secrets}}

    # --- one virtual environment --------------------------------------------------------------------------------------------------------

    async def _ensure_venv(self, planned: Plan, secrets: Mapping[str, str], progress: Progress) -> None:
        key, inside, placed = venv_plan(planned)

        async def work(making: Making) -> None:
            for layer in inside:
                try:
                    await self._venvs.make(layer, making, await self._given(layer, secrets))
                except StepFailed as error:
                    error.step = (layer.step, layer.title)
                    raise

        await self._step(planned, inside[-1], key, "", work, secrets, progress)
        for layer in placed:
            assert isinstance(layer.action, Place)
            await self._step(planned, layer, layer.key, "", partial(self._placer.place, layer.action.files, ()), secrets, progress)

    # --- both ---------------------------------------------------------------------------------------------------------------------------

    async def _step(
        self,
        planned: Plan,
        layer: LayerPlan,
        key: LayerKey,
        parent: str,
        work: Work,
        secrets: Mapping[str, str],
        progress: Progress,
    ) -> None:
        tell = partial(StepEvent, layer.step, planned.steps, layer.title)
        if self._chains.present(key):
            progress(tell("hit"))
            return
        progress(tell("start"))
        began = time.perf_counter()
        try:
            await self._maker.make(
                key,
                work,
                parent=parent,
                title=layer.title,
                kind=type(layer.action).__name__,
                listener=lambda line: progress(tell("log", line)),
                secrets=secrets,
            )
        except StepFailed as error:
            progress(tell("failed"))
            number, title = error.step or (layer.step, layer.title)
            self._record_failure(planned, layer, key, str(error))
            raise ImageBuildError(
                str(error),
                step=title,
                step_index=number,
                steps=planned.steps,
                exit_code=error.exit_code,
                log_tail=error.log_tail,
                image=planned.id,
            ) from error
        except BaseException as error:
            progress(tell("stopped" if isinstance(error, asyncio.CancelledError) else "failed"))
            raise
        progress(tell("done", seconds=time.perf_counter() - began))

    def _finished(self, planned: Plan) -> BuiltImage | None:
        metadata = planned.metadata
        if not self._driver.capabilities.images:
            return self._finished_venv(planned)
        keys = tuple(layer.key for layer in planned.layers)
        if not all(map(self._chains.present, keys)):
            return None
        facts, base = self._chains.known(keys)
        entrypoint, cmd = metadata.entrypoint, metadata.cmd
        if entrypoint is None and "entrypoint" in facts:
            entrypoint = tuple(msgspec.json.decode(facts["entrypoint"]))
        if cmd is None and "cmd" in facts:
            cmd = tuple(msgspec.json.decode(facts["cmd"]))
        workdir = metadata.workdir or facts.get("workdir", "/root")
        env = resolve_env(metadata.env, base)
        return BuiltImage(planned.id, self._chains.paths(keys), env, workdir, facts.get("python", ""), facts.get("python_version", ""), entrypoint, cmd)

    def _finished_venv(self, planned: Plan) -> BuiltImage | None:
        metadata = planned.metadata
        head, _, placed = venv_plan(planned)
        keys = (head, *(layer.key for layer in placed))
        if not all(map(self.layers.present, keys)) or (info := self.layers.info(head)) is None:
            return None
        paths = tuple(self.layers.path(key) for key in keys)
        env, workdir = environment(self.layers, head, metadata.env), metadata.workdir or "/root"
        return BuiltImage(planned.id, paths[1:], env, workdir, str(paths[0] / "bin/python"), info.facts["python_version"], metadata.entrypoint, metadata.cmd)

    async def _keep_budget(self, image: str, built: BuiltImage) -> None:
        """After a build: what is over the budget leaves, but for this image and what `in_use` names."""
        if (budget := self._settings.budget_bytes) is None:
            return
        images, layers = self.in_use()
        if sum(info.bytes for info in self.layers.all()) > budget:
            kept = {path.parent.name for path in built.layers}
            removal = await self.prune(keep={*images, image}, keep_layers={*layers, *kept}, budget_bytes=budget)
            log.info("removed %d images, %d layers, %d MiB: over the budget", len(removal.images), len(removal.layers), removal.bytes >> 20)

    def _record_failure(self, planned: Plan, layer: LayerPlan, key: LayerKey, cause: str) -> None:
        if not self._driver.capabilities.images:
            return
        below = [each.key for each in planned.layers[: [each.key for each in planned.layers].index(layer.key)]]
        facts, env = self._chains.known(below)
        layers = [name for each in below for name in (*self._chains.below(each), each)]
        workdir = layer.metadata.workdir or facts.get("workdir", "/root")
        whole = resolve_env(layer.metadata.env, env)
        self.catalog.fail(Failure(planned.id, tuple(layers), key, layer.step, layer.title, cause, whole, workdir, self._now()))

    def _record(self, planned: Plan, image: BuiltImage, spec: ImageSpec, seconds: float) -> None:
        layers = [key for layer in planned.layers for key in (*self._chains.below(layer.key), layer.key)]
        record = ImageRecord(
            planned.id,
            tuple(layers),
            tuple(layer.title for layer in planned.layers),
            self._now(),
            self._expanded(spec),  # what a name means now, and where the base came from
            seconds,
            dict(image.env),
            image.workdir,
            image.python,
            image.entrypoint,
            image.cmd,
            {layer.step: layer.key for layer in planned.layers},
        )
        self.catalog.save(record)


def _is_reference(name: str) -> bool:
    """``st-...`` and ``ENVIRONMENT/NAME`` refer to secrets; anything else is the name of a variable."""
    return name.startswith("st-") or "/" in name


async def _no_secrets(references: Sequence[str]) -> dict[str, str]:
    raise NotFoundError(f"there is no secret {', '.join(references)}")


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first error itself, not a group of one, after the others were cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
