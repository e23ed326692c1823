"""Templates of this node: which there are, when one is made, and when a function is better started by importing.

    image template: the runner imported, over the layers of an image and of the runner. No user code ever runs in it, so apps share it.
    function template: a copy of it that imported a function's module, with the function's own environment, secrets and volumes. It belongs to one function of
        one app and to one set of class parameters.

A function's first container waits for its template: importing once and copying takes no longer than importing in the container, and the second is there in
milliseconds. What can't be copied is remembered with its reason, and such a function's containers are copies of the image template, which import by themselves.
"""

import asyncio
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import msgspec

from squall.images.builder import BuiltImage
from squall.model.errors import ContainerStartError, Error, ResourceExhaustedError
from squall.model.ids import ContainerId
from squall.model.resources import MIB, Resources
from squall.runtime.contract import Container, ContainerSpec, Network
from squall.runtime.lockdown import UnsafeError
from squall.runtime.template import Template, Templating
from squall.wire.messages import Boot
from squall.worker.orders import ContainerPlan

log = logging.getLogger(__name__)

#: What the interpreter of an image template is told to do; see `agent.BOOTSTRAP`.
BOOTSTRAP = (
    "import sys; sys.path.insert(0, {library!r}); from squall.runner.template import main; sys.path.remove({library!r}); sys.path.append({library!r}); main()"
)
#: Part of this machine's memory that templates may take, and how many there may be: each is two processes.
MEMORY_SHARE = 0.25
TEMPLATES_MAX = 64
#: What is remembered of function templates, also of those that ended or can't be: each set of class parameters has one.
REMEMBERED_MAX = 5_000
#: A function whose templates end by themselves is given up after so many.
DEATHS_MAX = 2


@dataclass(slots=True)
class Entry:
    """A template being made (`making` not done), there (`template`), or not possible (`reason`)."""

    app: str
    function: str = ""
    making: asyncio.Task[None] | None = None
    template: Template | None = None
    reason: str | None = None
    #: What the import printed; goes to the first container's output.
    output: tuple[tuple[int, str], ...] = ()
    import_s: float = 0.0
    deaths: int = 0
    used: int = 0
    waiting: set[object] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Copied:
    """A container started as a copy. `of`: ``function`` or ``image``; `reason`: why it had to import for itself; `output` belongs before its own."""

    container: Container
    of: str
    reason: str | None
    output: tuple[tuple[int, str], ...] = ()


#: Told what a container is about to be copied from, and why it is not its function's template, as in `Copied`.
Chosen = Callable[[str, str | None], None]


class Templates:
    """Owned by the agent. All methods are called in its loop."""

    def __init__(self, driver: Templating, *, memory_bytes: int | None = None) -> None:
        """
        Args:
            memory_bytes: what all templates together may take; None: a share of the machine's.
        """
        self.driver = driver
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.memory_bytes = int(total * MEMORY_SHARE) if memory_bytes is None else memory_bytes
        self._images: dict[str, Entry] = {}
        self._functions: dict[str, Entry] = {}
        #: Of an earlier agent's templates something may be left, as long as containers are that were copied from them.
        self._life = secrets.token_hex(3)
        self._numbers = count(1)
        self._clock = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    async def start(self, plan: ContainerPlan, spec: ContainerSpec, boot: Boot, *, library: str, chosen: Chosen = lambda of, reason: None) -> Copied | str:
        """Start a container as a copy of a template; a reason why that is not possible.

        Args:
            spec: of the container, as for a start without templates.
            boot: what its runner will be told.
            chosen: called when there is something to copy: the container may have done its work before this returns.

        Raises: as the driver's `start`; the caller's cancellation leaves a template that is being made to those who come later.
        """

        async def copy(entry: Entry, of: str, reason: str | None) -> Copied:
            assert entry.template is not None
            entry.used = next(self._clock)
            chosen(of, reason)
            return Copied(await self.driver.start_from(entry.template, replace(spec, argv=(), layers=self._layers(entry, spec))), of, reason)

        image = self._image(plan.image, plan.layers[0], spec.env, library)
        await self._made(image)
        if image.template is None:
            return image.reason or "the image template is gone"
        if not plan.spec.fork:
            return await copy(image, "image", "the function says fork=False")
        if spec.devices and not plan.spec.snapshot:
            # What an import finds out about devices has to be true in the container.
            return await copy(image, "image", "it has devices, which a template may not hold; enable_memory_snapshot=True imports without them")
        function = self._function(plan, spec, boot, image)
        await self._made(function)
        if function.template is not None:
            try:
                output, function.output = function.output, ()
                return replace(await copy(function, "function", None), output=output)
            except UnsafeError as error:
                log.warning("function template of %s: %s", plan.order.function, error)
                await self._give_up(function, f"its copies can't be trusted: {error}")
            except ContainerStartError as error:
                if not function.template.ended.is_set():
                    raise
                log.info("function template of %s ended: %s", plan.order.function, error)
                await self._lost(function)
        return await copy(image, "image", function.reason or "its template ended")

    def _layers(self, entry: Entry, spec: ContainerSpec) -> tuple[Any, ...]:
        """The container's own, and over them what the import wrote."""
        template = entry.template
        assert template is not None
        written = template.layers[len(template.spec.layers) :]
        return (*spec.layers, *written)

    # --- making --------------------------------------------------------------------------------------------------------------

    async def _made(self, entry: Entry) -> None:
        if entry.making is not None:
            waiter = object()
            entry.waiting.add(waiter)
            try:
                await asyncio.shield(entry.making)
            finally:
                entry.waiting.discard(waiter)

    def prepare(self, image: BuiltImage, runner: Path, library: str) -> None:
        """Functions of this image are about to be called: have its template made meanwhile."""
        self._image(image, runner, {"PATH": os.defpath, "HOME": "/root", "LANG": "C.UTF-8"}, library)

    def _image(self, image: BuiltImage, runner: Path, env: Mapping[str, str], library: str) -> Entry:
        layers = (*image.layers, runner)
        key = _key("image", layers, image.python)
        entry = self._images.get(key)
        gone = entry is not None and (entry.template is None or entry.template.ended.is_set())
        if entry is None or (gone and entry.making is None and entry.deaths < DEATHS_MAX):
            entry = self._images[key] = self._replacing(entry, "")
            wanted = ContainerSpec(
                id=self._name(), layers=layers, argv=(image.python, "-c", BOOTSTRAP.format(library=library)),
                env={name: env[name] for name in ("PATH", "HOME", "LANG")}, stdout=self._null, stderr=self._null,
                workdir="/", hostname="template", network=Network.NONE, rights=False,
            )  # fmt: skip
            entry.making = self._own(self._make(entry, wanted), f"image template {wanted.id}")
        entry.used = next(self._clock)
        return entry

    def _function(self, plan: ContainerPlan, spec: ContainerSpec, boot: Boot, image: Entry) -> Entry:
        order = plan.order
        binds = tuple(bind for bind in spec.binds if bind.source.name != order.container)
        key = _key(
            order.function, order.packed_spec, order.parameters, spec.layers, sorted(spec.env.items()), sorted(boot.env.items()), binds, own=order.container
        )
        entry = self._functions.get(key)
        if entry is not None and entry.template is not None and entry.template.ended.is_set():
            self._die(entry)
        if entry is None or (entry.making is None and entry.template is None and entry.reason is None):
            entry = self._functions[key] = self._replacing(entry, order.app, order.function)
            self._forget_oldest()
            limit = min(plan.spec.resources.memory_limit_mib or self.memory_bytes // MIB, self.memory_bytes // MIB)
            wanted = replace(
                spec, id=self._name(), argv=(), stdout=self._null, stderr=self._null, binds=binds, hostname="template", devices=(),
                resources=Resources(memory_limit_mib=limit, disk_limit_mib=spec.resources.disk_limit_mib), rights=False,
            )  # fmt: skip
            timeout_s = plan.spec.startup_timeout_s or plan.spec.timeout_s
            entry.making = self._own(self._make(entry, wanted, image, boot, timeout_s), f"function template {wanted.id}")
        return entry

    def _forget_oldest(self) -> None:
        """Of what there is no template of, and none is being made."""
        if len(self._functions) > REMEMBERED_MAX:
            idle = (key for key, entry in self._functions.items() if entry.template is None and entry.making is None)
            for key in list(islice(idle, REMEMBERED_MAX // 10)):
                del self._functions[key]

    def _replacing(self, old: Entry | None, app: str, function: str = "") -> Entry:
        if old is None:
            return Entry(app, function)
        if old.template is not None:
            self._own(old.template.remove(), f"remove {old.template.id}")
        return Entry(app, function, deaths=old.deaths)

    async def _make(self, entry: Entry, spec: ContainerSpec, image: Entry | None = None, boot: Boot | None = None, timeout_s: float = 0.0) -> None:
        template: Template | None = None
        try:
            template = await self.driver.template(spec, image.template if image is not None else None)
            if boot is not None:
                imported = await template.load(msgspec.msgpack.encode(boot), timeout_s)
                entry.output, entry.import_s, entry.reason = imported.output, imported.import_s, imported.obstacle
        except asyncio.CancelledError:
            entry.reason = "its app has ended"
            raise
        except TimeoutError:
            entry.reason = f"the import took longer than {timeout_s:g} s"
        except ResourceExhaustedError as error:
            entry.reason = str(error)
        except (Error, OSError) as error:
            entry.deaths += 1
            entry.reason = f"no template: {error}"
            if boot is not None and template is not None:
                entry.reason = "its template ended during the import" + (" (out of memory)" if template.was_out_of_memory() else "")
        finally:
            entry.making = None
            if template is not None and entry.reason is not None:
                entry.output = ()
                await template.remove()
        if entry.reason is None:
            entry.template, entry.used = template, next(self._clock)
            await self._make_room()
        else:
            log.info("%s: %s", spec.id, entry.reason)

    async def _lost(self, entry: Entry) -> None:
        template, entry.template = entry.template, None
        if template is not None:
            await template.remove()
        self._die(entry)

    async def _give_up(self, entry: Entry, reason: str) -> None:
        """Start no more containers from this template, nor make another."""
        template, entry.template, entry.reason = entry.template, None, reason
        if template is not None:
            await template.remove()

    def _die(self, entry: Entry) -> None:
        """A template ended by itself: the next start makes another, unless that happened too often."""
        if entry.template is not None:
            self._own(entry.template.remove(), f"remove {entry.template.id}")
        entry.template = None
        entry.deaths += 1
        if entry.deaths >= DEATHS_MAX:
            entry.reason = f"its template ended by itself {entry.deaths} times"

    async def _make_room(self) -> None:
        """End the templates that were used longest ago, until the others are within the budget. The one just made stays."""
        while True:
            there = [entry for entry in (*self._functions.values(), *self._images.values()) if entry.template is not None]
            taken = sum(entry.template.memory_bytes() for entry in there if entry.template is not None)
            if taken <= self.memory_bytes and len(there) <= TEMPLATES_MAX:
                return
            # Copies of an image template need it no more than containers do.
            candidates = sorted((entry for entry in there if not entry.waiting), key=lambda entry: entry.used)[:-2]
            if not candidates:
                return
            oldest = candidates[0]
            template, oldest.template = oldest.template, None
            log.info("template %s ends: templates take %d MiB", template.id if template else "", taken // MIB)
            if template is not None:
                await template.remove()

    # --- the end -------------------------------------------------------------------------------------------------------------

    async def forget_app(self, app: str) -> None:
        """An app ended: so do its templates, and those that are being made for it."""
        ended = [self._functions.pop(key) for key, entry in list(self._functions.items()) if entry.app == app]
        for entry in ended:
            if entry.making is not None:
                entry.making.cancel()
        for entry in ended:
            await self._end(entry)

    async def close(self) -> None:
        """End all. Idempotent."""
        for entries in (self._functions, self._images):
            for entry in list(entries.values()):
                await self._end(entry)
            entries.clear()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._null >= 0:
            os.close(self._null)
            self._null = -1

    async def _end(self, entry: Entry) -> None:
        if entry.making is not None:
            entry.making.cancel()
            with suppress(asyncio.CancelledError):
                await entry.making
        if entry.template is not None:
            await entry.template.remove()
            entry.template = None

    def explain(self, function: str) -> list[dict[str, Any]]:
        """The templates of a function, one for each environment and set of parameters: is it there, how large, how long its import took, or why not."""
        return [
            {
                "there": entry.template is not None,
                "memory_bytes": entry.template.memory_bytes() if entry.template is not None else None,
                "import_s": entry.import_s,
                "not_forked": entry.reason,
            }
            for entry in self._functions.values()
            if entry.function == function
        ]

    def statistics(self) -> dict[str, Any]:
        """Counts and memory, for the server's status."""
        there = [entry.template for entry in (*self._functions.values(), *self._images.values()) if entry.template is not None]
        return {"templates": len(there), "template_memory_bytes": sum(template.memory_bytes() for template in there)}

    def _name(self) -> ContainerId:
        return ContainerId(f"tp-{self._life}-{next(self._numbers)}")

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _key(*parts: object, own: str = "\0") -> str:
    """A name for what a template depends on. `own`: the container's id, which is in none of it that matters."""
    return hashlib.sha256(repr(parts).replace(own, "").encode()).hexdigest()
