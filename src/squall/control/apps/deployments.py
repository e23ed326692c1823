"""Deployed apps: versions, what changes between them, and their return after a restart."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from squall.control.apps import rollout, variants
from squall.control.apps.apps import Apps, Progress
from squall.control.apps.web_routes import WebRoute
from squall.control.calls.live_function import LiveFunction
from squall.control.calls.pool import Pool
from squall.control.calls.router import Router
from squall.control.objects.named_objects import check_app_name
from squall.core.cron import describe, next_due
from squall.core.deploy import changes, idle_cost
from squall.model.errors import ConflictError, Error, InvalidError, NotFoundError
from squall.model.ids import APP, AppId, make_id
from squall.model.specs import AppSpec
from squall.model.states import AppState
from squall.store.contract import Store
from squall.store.rows import AppRow, DeploymentRow
from squall.wire.deploys import Deployed, Found

log = logging.getLogger(__name__)

ROLLING, RECREATE = "rolling", "recreate"
#: An app that could not be taken up again after a restart (its image can't be built now) is tried again after this, doubling up to the second figure.
RETRY_FIRST_S, RETRY_MAX_S = 5.0, 300.0


class Deployments:
    """Deployed apps by environment and name. What a version is made of lies in the store; images are found, or made again, by their recipes."""

    def __init__(self, *, apps: Apps, router: Router, store: Store) -> None:
        self.apps, self.router, self.store = apps, router, store
        self._current: dict[str, tuple[DeploymentRow, AppSpec]] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        #: Changes of each run that is served.
        self._served: dict[str, int] = {}
        self._restoring: dict[str, asyncio.Task[None]] = {}

    # questions

    def named(self, name: str, environment: str) -> AppRow | None:
        """The deployed app of that name, or of that id."""
        for row in self.apps.live.values():
            if row.state is AppState.DEPLOYED and (row.id == name or (row.name == name and row.environment == environment)):
                return row
        return None

    async def find(self, name: str, environment: str) -> AppRow:
        """As `named`, waiting for one that is being taken up after a restart.

        Raises:
            NotFoundError: there is none.
        """
        row = self.named(name, environment)
        if row is None:
            for task in list(self._restoring.values()):
                await asyncio.wait([task], timeout=10.0)
            row = self.named(name, environment)
        if row is None:
            raise NotFoundError(f"no app {name!r} is deployed in the environment {environment!r}; squall deploy FILE deploys one")
        return row

    def version(self, app: str) -> int | None:
        current = self._current.get(app)
        return None if current is None else current[0].version

    async def history(self, app: str) -> list[dict[str, Any]]:
        """Versions, newest first."""
        rows = await self.store.deployments(AppId(app))
        now = self.version(app)
        return [
            {
                "version": row.version, "created_at": row.created_at, "tag": row.tag, "note": row.note, "current": row.version == now,
                "functions": len(msgspec.msgpack.decode(row.spec, type=AppSpec).functions),
            }
            for row in reversed(rows)
        ]  # fmt: skip

    def plan(self, spec: AppSpec, environment: str) -> list[dict[str, Any]]:
        """What a deployment of this spec would change, a row for each function, and last what it keeps running when idle."""
        name = _name_of(spec)
        row = self.named(name, environment)
        before = self._current[row.id][1] if row is not None and row.id in self._current else None
        rows: list[dict[str, Any]] = [{"function": tag, "change": kind, "words": words} for tag, kind, words in changes(before, spec)]
        now = time.time()
        for each in rows:
            function = next((function for function in spec.functions if function.tag == each["function"]), None)
            if function is not None and function.schedule is not None:
                each["schedule"] = describe(function.schedule)
                each["next_at"] = next_due(function.schedule, now, now)
        rows += [{"function": tag, "change": "idle", "words": words} for tag, words in idle_cost(spec)]
        return rows

    async def found(self, row: AppRow, *, at: str = "") -> Found:
        """All about a deployed app that a handle of it needs; `at` as in `WebRoutes.urls`."""
        specs = {}
        for tag, function_id in self.apps.functions_of(row.id).items():
            live = self.router.functions.get(function_id)
            if live is not None:
                specs[tag] = msgspec.msgpack.encode(msgspec.structs.replace(live.spec, source=(), pickled=None, env={}))
        return Found(row.id, row.name or "", dict(self.apps.functions_of(row.id)), specs, self.apps.web.urls(row.id, at=at), self.version(row.id) or 0)

    # deploying

    async def deploy(self, spec: AppSpec, environment: str, progress: Progress, *, tag: str = "", strategy: str = ROLLING, note: str = "") -> Deployed:
        """Make it the app's next version. Until it returns, and when it fails, the version before serves.

        Deployments of one app come one after another, in the order in which they were asked for.

        Raises:
            InvalidError: no name, or an unknown strategy.
            ConflictError: a web address belongs to another app.
            ImageBuildError, ContainerStartError, ...: why the new version can't serve.
        """
        name = _name_of(spec)
        if strategy not in (ROLLING, RECREATE):
            raise InvalidError(f"strategy={strategy!r} is neither {ROLLING!r} nor {RECREATE!r}")
        began = time.monotonic()
        async with self._locks.setdefault((environment, name), asyncio.Lock()):
            if name in self.apps.live:
                raise InvalidError(f"{name!r} is the id of an app, not a name")
            for task in list(self._restoring.values()):
                await asyncio.wait([task], timeout=10.0)
            before = self.named(name, environment)
            app = before.id if before is not None else AppId(make_id(APP, time.time_ns() // 1_000_000, os.urandom(10)))
            functions = await self.apps.build(app, spec, await self.apps.known_ids(app), progress, environment=environment)
            routes = self.apps.web.plan(app, name, environment, functions)
            now = time.time()
            row = AppRow(app, name, spec.description, environment, AppState.DEPLOYED, before.created_at if before is not None else now, None, True)
            pools: dict[str, list[Pool]] = {}
            gone: set[str] = set()
            new = [*functions, *variants.of_version(self.router, app, functions)[0]]
            if before is not None:
                gone = set(self.apps.functions_of(app).values()) - {function.id for function in functions}
                if strategy == ROLLING:
                    pools = await self._warm(new)
            number = 1 + max((known.version for known in await self.store.deployments(app)), default=0)
            deployment = DeploymentRow(f"{app}:{number}", app, number, now, tag, note, msgspec.msgpack.encode(spec))
            try:
                await self.apps.save(row, functions)
                await self.store.save_deployment(deployment)
            except BaseException:
                self._drop(pools)
                raise
            self._current[app] = (deployment, spec)
            held = {function.id for function in new} if before is not None and strategy == RECREATE else set()
            self.router.held |= held
            try:
                await self._switch(row, functions, new, routes, pools, gone)
                for function in new if held else ():
                    await rollout.end_earlier(self.router, function)
            finally:
                self.router.release(held)
        log.info("app(%s) %s: version %d is live", name, app, number)
        return Deployed(app, number, dict(self.apps.functions_of(app)), self.apps.web.urls(app), time.monotonic() - began)

    async def _switch(
        self,
        row: AppRow,
        functions: Sequence[LiveFunction],
        new: Sequence[LiveFunction],
        routes: tuple[WebRoute, ...],
        pools: Mapping[str, list[Pool]],
        gone: set[str],
    ) -> None:
        """From now on the app is these functions; `new` are they and their variants. Calls go over in one turn of the loop."""
        there = {function.id for function in new}
        late, baseless = variants.of_version(self.router, row.id, functions)  # while containers of the new version started, more may have been made
        for function in (*new, *(variant for variant in late if variant.id not in there)):
            rollout.switch(self.router, function, pools.get(function.id, []))
        self._retire(gone | baseless)
        await self.apps.web.publish(row.id, routes)
        if self.apps.schedules is not None:
            await self.apps.schedules.publish(row, functions)

    async def serve(self, app: str, spec: AppSpec, environment: str, holder: object, progress: Progress) -> Deployed:
        """Start a run, or change one that is there as `deploy` changes a deployment. It ends when nobody holds it any more.

        Raises:
            ImageBuildError, ContainerStartError, ...: why the new version can't serve; the one before goes on.
        """
        began = time.monotonic()
        async with self._locks.setdefault(("", app), asyncio.Lock()):
            row = self.apps.live.get(app)
            if row is None:
                started = await self.apps.start(app, spec, holder, progress, detach=False, environment=environment)
                self._served[app] = 1
                return Deployed(app, 1, started.functions, self.apps.web.urls(app), time.monotonic() - began)
            functions = await self.apps.build(app, spec, await self.apps.known_ids(app), progress, environment=row.environment)
            routes = self.apps.routes_of_run(row, functions)
            new = [*functions, *variants.of_version(self.router, app, functions)[0]]
            gone = set(self.apps.functions_of(app).values()) - {function.id for function in functions}
            pools = await self._warm(new)
            await self.apps.save(row, functions)
            await self._switch(row, functions, new, routes, pools, gone)
            self._served[app] = self._served.get(app, 0) + 1
            return Deployed(app, self._served[app], dict(self.apps.functions_of(app)), self.apps.web.urls(app), time.monotonic() - began)

    async def _warm(self, functions: Sequence[LiveFunction]) -> dict[str, list[Pool]]:
        """Ready containers of the new version of every function that has some of the old. All of them, or none and the reason."""
        tasks: dict[str, asyncio.Task[list[Pool]]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for function in functions:
                    tasks[function.id] = group.create_task(rollout.warm(self.router, function))
        except BaseExceptionGroup as failed:
            for task in tasks.values():
                if task.done() and not task.cancelled() and task.exception() is None:
                    self._drop({"": task.result()})
            raise failed.exceptions[0] from None
        return {function: task.result() for function, task in tasks.items()}

    def _drop(self, pools: Mapping[str, list[Pool]]) -> None:
        for each in pools.values():
            for pool in each:
                rollout.discard(self.router, pool)

    def _retire(self, functions: set[str]) -> None:
        """These are not in the new version: what was accepted is run, nothing more is."""
        for function in functions:
            for pool in self.router.pools_of_function(function):
                self.router.disown(pool)
                self.router.adopt(pool)
                pool.retire(None)
                if not pool.members and not pool.queue:
                    self.router.disown(pool)
            self.router.functions.pop(function, None)

    async def rollback(self, name: str, version: int, environment: str, progress: Progress, *, strategy: str = ROLLING, again: bool = False) -> Deployed:
        """Deploy an earlier version again, as a new one. 0: the one before the current; `again`: the current one. Images that are gone are made again.

        Raises:
            NotFoundError: no such version.
            ...: as `deploy`.
        """
        row = await self.find(name, environment)
        current = self.version(row.id) or 0
        earlier = {known.version: known for known in await self.store.deployments(row.id)}
        wanted = current if again else version or max((number for number in earlier if number < current), default=0)
        if wanted not in earlier:
            raise NotFoundError(f"{row.name} has no version {wanted or 'before this one'}; squall app history {row.name} shows what there is")
        if wanted == current and not again:
            raise ConflictError(f"version {wanted} of {row.name} is live already")
        spec = msgspec.msgpack.decode(earlier[wanted].spec, type=AppSpec)
        return await self.deploy(
            spec, row.environment, progress, tag=earlier[wanted].tag, strategy=strategy, note=f"{'rollover of' if again else 'rollback to'} {wanted}"
        )

    async def rename(self, name: str, new: str, environment: str) -> None:
        """Give a deployed app another name; its web addresses change with it.

        Raises:
            ConflictError: the name is taken.
        """
        check_app_name(new)
        row = await self.find(name, environment)
        async with contextlib.AsyncExitStack() as stack:
            for each in sorted({row.name or "", new}):  # no deployment under either name meanwhile; in one order, so that two renames can't wait for each other
                await stack.enter_async_context(self._locks.setdefault((row.environment, each), asyncio.Lock()))
            await self._rename(await self.find(row.id, row.environment), new)

    async def _rename(self, row: AppRow, new: str) -> None:
        if self.named(new, row.environment) is not None:
            raise ConflictError(f"an app {new!r} is deployed in the environment {row.environment!r} already")
        deployment, spec = self._current[row.id]
        renamed = msgspec.structs.replace(spec, name=new)
        live = [self.router.functions[function] for function in self.apps.functions_of(row.id).values() if function in self.router.functions]
        routes = self.apps.web.plan(row.id, new, row.environment, live)
        changed = msgspec.structs.replace(row, name=new)
        deployment = msgspec.structs.replace(deployment, spec=msgspec.msgpack.encode(renamed))
        await self.store.save_app(changed)
        await self.store.save_deployment(deployment)
        self.apps.live[row.id], self._current[row.id] = changed, (deployment, renamed)
        await self.apps.web.publish(row.id, routes)

    async def create(self, name: str, environment: str) -> AppRow:
        """The deployed app of this name, made without functions if there is none."""
        await self.deploy(AppSpec(name, name, (), ()), environment, lambda _: None)
        return await self.find(name, environment)

    # the server's life

    async def recover(self) -> None:
        """Take up what was deployed when the server last ran. Calls wait until their app is there again."""
        for row in await self.store.apps([AppState.DEPLOYED]):
            for function in (await self.apps.known_ids(row.id)).values():
                self.router.expect(function)
            if versions := await self.store.deployments(row.id):
                spec = msgspec.msgpack.decode(versions[-1].spec, type=AppSpec)
                await self.apps.web.expect(row.id, row.name or "", row.environment, spec.functions)
            self._restoring[row.id] = asyncio.get_running_loop().create_task(self._restore(row), name=f"take up {row.id}")

    async def _restore(self, row: AppRow) -> None:
        pause = RETRY_FIRST_S
        while True:
            try:
                await self._take_up(row)
                break
            except Error as error:
                log.error("app(%s) %s could not be taken up, again in %.0f s: %s", row.name, row.id, pause, error)
            except Exception:
                log.exception("app(%s) %s could not be taken up, again in %.0f s", row.name, row.id, pause)
            await asyncio.sleep(pause)
            pause = min(RETRY_MAX_S, pause * 2)
        del self._restoring[row.id]

    async def _take_up(self, row: AppRow) -> None:
        known = await self.apps.known_ids(row.id)
        versions = await self.store.deployments(row.id)
        if not versions:
            for function_id in known.values():
                self.router.unexpect(function_id)
            self.router.returns.abandon(row.id)
            await self.store.set_app_state(row.id, AppState.STOPPED, time.time())
            return
        spec = msgspec.msgpack.decode(versions[-1].spec, type=AppSpec)
        functions = await self.apps.build(row.id, spec, known, lambda _: None, environment=row.environment, again=False)
        routes = self.apps.web.plan(row.id, row.name or "", row.environment, functions)
        await self.router.returns.wait(row.id)
        self._current[row.id] = (versions[-1], spec)
        self.apps.adopt(row, functions)
        for function in functions:
            self.router.add_function(function)
        restored = await variants.restore_variants(self.router, self.store, row.id, functions)
        self.router.returns.abandon(row.id)
        there = {*restored, *(function.id for function in functions)}
        for function_id in set(known.values()) - there:
            self.router.unexpect(function_id)
        await self.apps.recover_inputs(there)
        await self.apps.web.publish(row.id, routes)
        if self.apps.schedules is not None:
            await self.apps.schedules.publish(row, functions, recovered=True)

    async def close(self) -> None:
        """Stop taking up. The apps themselves are ended by `Apps.close`."""
        tasks = list(self._restoring.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _name_of(spec: AppSpec) -> str:
    if not spec.name:
        raise InvalidError('an app needs a name to be deployed: squall.App("name"), or --name')
    return check_app_name(spec.name)
