"""Apps: from a spec to functions that can be called, and to their end."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from squall.control.apps.schedules import Schedules
from squall.control.apps.variants import restore_variants
from squall.control.apps.web_routes import WebRoute, WebRoutes
from squall.control.calls.live_function import LiveFunction
from squall.control.calls.router import Router
from squall.control.retrying_writes import ENDING_S, persist
from squall.images.builder import Builder, BuiltImage, StepEvent
from squall.model.errors import ConflictError, ConnectionError, InvalidError, NotFoundError, ResourceExhaustedError
from squall.model.ids import FUNCTION, AppId, FunctionId, ImageId, make_id
from squall.model.specs import AppSpec, FunctionSpec, build_scope
from squall.model.states import AppState, ContainerState
from squall.store.contract import Store
from squall.store.rows import AppRow, FunctionRow
from squall.wire.messages import AppStarted, ImageProgress

log = logging.getLogger(__name__)

#: A run whose client lost its connection ends when nobody takes it up again within this.
LEASE_S = 10.0

Progress = Callable[[ImageProgress], None]


class Apps:
    """All apps of one server."""

    def __init__(self, *, router: Router, store: Store, builder: Builder, web: WebRoutes | None = None, schedules: Schedules | None = None) -> None:
        self.router, self.store, self.builder = router, store, builder
        self.web = web if web is not None else WebRoutes()
        self.schedules = schedules
        #: That secrets and volumes of an app are there; raises the error that says what is not.
        self.check: Callable[[AppSpec], Awaitable[None]] = _nothing
        self.live: dict[str, AppRow] = {}
        self._functions: dict[str, dict[str, str]] = {}
        self._holders: dict[str, set[object]] = {}
        #: Functions of runs of before a restart whose clients may still come back.
        self._absent: dict[AppId, list[FunctionId]] = {}
        #: Being started now; set when that is over.
        self._starting: dict[str, asyncio.Event] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._leases: set[asyncio.Task[None]] = set()
        #: When its last holder left, on the loop's clock.
        self._released: dict[str, float] = {}
        self._closing = False

    async def start(self, app: str, spec: AppSpec, holder: object, progress: Progress, *, detach: bool, environment: str) -> AppStarted:
        """Build what is missing and make the functions callable. The same app again only attaches the holder."""
        if app in self._ending:  # it came back too late for this life of the app, and begins the next
            await asyncio.wait([self._ending[app]])
        if app in self.live:
            self.hold(app, holder)
            return AppStarted(app, self._functions[app], ())
        starting = self._starting[app] = asyncio.Event()
        try:
            return await self._start(app, spec, holder, progress, detach=detach, environment=environment)
        finally:
            starting.set()
            if self._starting.get(app) is starting:
                del self._starting[app]

    async def _start(self, app: str, spec: AppSpec, holder: object, progress: Progress, *, detach: bool, environment: str) -> AppStarted:
        known = await self.known_ids(app)
        functions = await self.build(app, spec, known, progress, environment=environment)
        now = time.time()
        row = AppRow(AppId(app), spec.name, spec.description, environment, AppState.RUNNING, now, None, detach)
        routes = self.routes_of_run(row, functions)
        await self.router.returns.wait(app)
        await self.save(row, functions)
        if self._closing:
            del self.live[app], self._functions[app]
            raise ConnectionError("the server is stopping")
        self.hold(app, holder)
        for function in functions:
            self.router.add_function(function)
        if known:
            variants = await restore_variants(self.router, self.store, app, functions)
            self.router.returns.abandon(app)
            await self.recover_inputs({*variants, *(function.id for function in functions)})
        await self.web.publish(app, routes)
        if self.schedules is not None:
            await self.schedules.publish(row, functions)
        ids = {function.spec.tag: function.id for function in functions}
        return AppStarted(app, ids, tuple(dict.fromkeys(function.image.id for function in functions)))

    async def known_ids(self, app: str) -> dict[str, str]:
        """The ids of the functions that the app ever had, by tag: a function keeps its id over restarts and versions."""
        return {row.tag: str(row.id) for row in await self.store.functions(AppId(app))}

    async def build(self, app: str, spec: AppSpec, known: Mapping[str, str], progress: Progress, *, environment: str, again: bool = True) -> list[LiveFunction]:
        """The app's functions with their images built; nothing can call them yet. `again`: what `force_build` asks for is made anew.

        Raises:
            ImageBuildError, InvalidError, NotFoundError, ResourceExhaustedError: as `Builder.ensure`.
        """
        await self.check(spec)
        images = await self._images(spec, progress, again, build_scope(environment, spec.name))
        ids = {function.tag: known.get(function.tag) or make_id(FUNCTION, time.time_ns() // 1_000_000, os.urandom(10)) for function in spec.functions}
        return [await self._function(app, spec, function, images, ids) for function in spec.functions]

    async def save(self, row: AppRow, functions: Sequence[LiveFunction]) -> None:
        """The app, with these functions, is on disk and among the living."""
        now = time.time()
        await self.store.save_app(row)
        await self.store.save_functions([FunctionRow(FunctionId(f.id), row.id, f.spec.tag, f.packed, ImageId(f.image.id), now) for f in functions])
        self.adopt(row, functions)

    def adopt(self, row: AppRow, functions: Sequence[LiveFunction]) -> None:
        """The app, which is on disk, is among the living."""
        self.live[row.id], self._functions[row.id] = row, {function.spec.tag: function.id for function in functions}

    def functions_of(self, app: str) -> Mapping[str, str]:
        """Function ids by tag."""
        return self._functions.get(app, {})

    def routes_of_run(self, row: AppRow, functions: Sequence[LiveFunction]) -> tuple[WebRoute, ...]:
        """A run's addresses end in ``-dev``; where another run of the same program has them, in a mark of its own."""
        name = row.name or "app"
        usual, own = _suffixes(row.id)
        try:
            return self.web.plan(row.id, name, row.environment, functions, suffix=usual)
        except ConflictError:
            return self.web.plan(row.id, name, row.environment, functions, suffix=own)

    async def recover_inputs(self, functions: set[str]) -> None:
        """Spawned inputs that were accepted before the server restarted."""
        after = 0
        while rows := await self.store.pending(1000, after):
            for row in rows:
                if row.function in functions:
                    self.router.recover(row)
            after = rows[-1].sequence
        for function in sorted(functions):
            self.router.waits.recovered(function)

    async def _images(self, spec: AppSpec, progress: Progress, again: bool, scope: str) -> list[BuiltImage]:
        users = ["" for _ in spec.images]
        for function in spec.functions:
            if not 0 <= function.image < len(spec.images):
                raise InvalidError(f"{function.tag} names image {function.image} of {len(spec.images)}")
            users[function.image] = users[function.image] or function.tag

        async def ensure(place: int) -> BuiltImage:
            def report(event: StepEvent) -> None:
                progress(ImageProgress(0, place, users[place], event.step, event.steps, event.title, event.state, event.line, event.seconds))

            found = None if again and any(step.force for step in spec.images[place].steps) else self.builder.peek(spec.images[place], scope=scope)
            return found if found is not None else await self.builder.ensure(spec.images[place], scope=scope, progress=report)

        return await _all([ensure(place) for place in range(len(spec.images))])

    async def _function(self, app: str, spec: AppSpec, function: FunctionSpec, images: list[BuiltImage], ids: dict[str, str]) -> LiveFunction:
        image = images[function.image]
        source = await self.builder.source_layer(function.source)
        runner = await self.builder.runner_layer(image)
        layers = (runner,) if source is None else (runner, source)
        return LiveFunction(ids[function.tag], app, spec.name or "", function, msgspec.msgpack.encode(function), image, layers, ids)

    # who holds an app

    def hold(self, app: str, holder: object) -> None:
        """A session says that it needs the app.

        Raises:
            NotFoundError: it has ended.
        """
        if app not in self.live or app in self._ending:
            raise NotFoundError(f"the app {app} has ended")
        self._holders.setdefault(app, set()).add(holder)
        self._released.pop(app, None)

    def release(self, holder: object) -> None:
        """A session's connection ended: apps that nobody holds end after their lease, unless detached."""
        for app, holders in list(self._holders.items()):
            if holder in holders:
                holders.discard(holder)
                if not holders and not self.live[app].detached:
                    loop = asyncio.get_running_loop()
                    self._released[app] = loop.time()
                    task = loop.create_task(self._lapse(app, loop.time()), name=f"lease of {app}")
                    self._leases.add(task)
                    task.add_done_callback(self._leases.discard)

    async def _lapse(self, app: str, released_at: float) -> None:
        await asyncio.sleep(LEASE_S)
        # A client that came back and left again meanwhile has a lease of its own.
        if app in self.live and self._released.get(app) == released_at:
            log.info("app %s ends: its client did not come back", app)
            try:
                await self.stop(app, "its client left")
            except ResourceExhaustedError:
                log.exception("that app %s has ended could not be written", app)

    async def stop(self, app: str, reason: str = "stopped", *, keep: bool = False) -> None:
        """End an app; returns when nothing of it runs. Idempotent, also at the same time. `keep`: only its containers; it comes back with the server.

        Raises:
            NotFoundError: no such app runs.
        """
        if app not in self.live:
            raise NotFoundError(f"no app {app} is running")
        if app not in self._ending:
            self._ending[app] = asyncio.get_running_loop().create_task(self._stop(app, reason, keep), name=f"stop {app}")
        await asyncio.shield(self._ending[app])

    async def _stop(self, app: str, reason: str, keep: bool) -> None:
        try:
            self.web.withdraw(app)
            if self.schedules is not None:
                self.schedules.withdraw(app)
            await self.router.end_app(app, reason, keep=keep)
            if not keep:
                await persist(lambda: self.store.set_app_state(AppId(app), AppState.STOPPED, time.time()), limit_s=ENDING_S)
        finally:
            del self.live[app], self._functions[app]
            self._holders.pop(app, None)
            self._released.pop(app, None)
            del self._ending[app]

    async def recover(self) -> None:
        """After a restart: clients of runs of before may come back within the lease; what they call until they have is kept waiting."""
        for container in await self.store.containers(live_only=True):
            if container.id in self.router.returns:
                continue
            await persist(partial(self.store.set_container_state, container.id, ContainerState.STOPPED, time.time(), reason="lost with its server"))
        for row in await self.store.apps([AppState.RUNNING]):
            known = await self.store.functions(row.id)
            for each in known:
                self.router.expect(each.id)
            self._absent[row.id] = [each.id for each in known]
            specs = [msgspec.msgpack.decode(each.spec, type=FunctionSpec) for each in known]
            await self.web.expect(row.id, row.name or "app", row.environment, specs, suffixes=_suffixes(row.id))
            task = asyncio.get_running_loop().create_task(self._expire(row.id), name=f"lease of {row.id}")
            self._leases.add(task)
            task.add_done_callback(self._leases.discard)

    async def _expire(self, app: AppId) -> None:
        await asyncio.sleep(LEASE_S)
        while app in self._starting:  # its client is back, and an image takes a while
            await self._starting[app].wait()
        if app not in self.live:
            await self._end_absent(app)
        self._absent.pop(app, None)

    async def _end_absent(self, app: AppId) -> None:
        """A run of an earlier server whose client has not come back: nobody will run what it had spawned."""
        functions = self._absent[app]
        self.web.withdraw(app)
        self.router.returns.abandon(app)
        for function in functions:
            self.router.unexpect(function)
        now = time.time()
        await persist(lambda: self.store.cancel_functions(functions, now, now + self.router.spawned.kept_s))
        await persist(lambda: self.store.set_app_state(app, AppState.STOPPED, now))

    async def close(self) -> None:
        """End the containers of all apps. Apps and what is not done come back with the server: runs when their clients do, within the lease."""
        self._closing = True
        for task in self._leases:
            task.cancel()
        for app in list(self.live):
            with suppress(ResourceExhaustedError):  # then the server's next life writes it
                await self.stop(app, "the server stops", keep=True)


def _suffixes(app: str) -> tuple[str, str]:
    """What addresses of a run end in: usually, and where another run of the same program has those."""
    return "-dev", f"-dev-{app[-4:]}"


async def _nothing(_: AppSpec) -> None:
    """Without state nothing can be missing."""


async def _all(works: list[Coroutine[Any, Any, BuiltImage]]) -> list[BuiltImage]:
    """The results of all; the first error itself, not a group of one, after the others were cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
