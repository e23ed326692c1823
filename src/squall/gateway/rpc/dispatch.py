"""What the server answers to each command."""

import asyncio
import os
import resource
import time
from typing import TYPE_CHECKING, Any

from squall.control.apps import variants
from squall.control.calls.explain import describe_functions
from squall.control.calls.history import stored
from squall.control.retrying_writes import first_row
from squall.core.calls import dispatch
from squall.gateway.auth import arrivals, container_permissions
from squall.gateway.rpc import deployments, exec, images, storage
from squall.model.errors import InvalidError, NotFoundError, PermissionDeniedError, UnimplementedError
from squall.model.ids import AppId, input_id
from squall.model.states import ContainerState
from squall.store.rows import ContainerRow
from squall.wire.deploys import CreateToken, DeleteToken, DeployCommand
from squall.wire.messages import (
    Answer,
    AppStarted,
    Attach,
    BuildImage,
    Command,
    ContainerProgress,
    DeriveFunction,
    Done,
    Exec,
    ExplainImage,
    Follow,
    FunctionStatus,
    ImageProgress,
    ImageRequest,
    LeaveAfterInput,
    ListApps,
    ListCalls,
    ListContainers,
    ListFunctions,
    ListInputs,
    LogChunk,
    MissingBlobs,
    Names,
    PutBlobs,
    Resolve,
    Rows,
    ServerStatus,
    StartApp,
    StopApp,
    StopContainer,
    StopServer,
    TuneFunction,
)
from squall.wire.state import Collect, RotateKey

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


#: For the owner alone, over the local socket: who has a token, whichever, may use the server and not end it, nor give others the right to.
OWNERS = (StopServer, CreateToken, DeleteToken, Collect, RotateKey)


async def answer(session: "Session", request: int, command: Command) -> Answer:
    """Do it.

    Raises:
        Error: the refusal, sent to the client as its class.
    """
    server = session.server
    arrivals.check(command)
    if session.container:
        await container_permissions.check(session, command)
    elif not session.owner:
        _check_not_the_owners(command)
    if storage.handles(command):
        return await storage.answer(session, request, command)
    if environment := getattr(command, "environment", ""):
        await server.state.environments.check(environment)
    if isinstance(command, DeployCommand):
        return await deployments.answer(session, request, command)
    match command:
        case StartApp():
            return await _start_app(session, request, command)
        case StopApp(app):
            await server.apps.stop(await _one(session, app, "ap"))
            return Done()
        case Attach(app):
            server.apps.hold(app, session)
            return Done()
        case MissingBlobs(digests):
            return Names(await asyncio.to_thread(server.blobs.missing, digests))
        case PutBlobs(contents):
            await asyncio.to_thread(server.blobs.put_all, contents)
            return Done()
        case Follow():
            await _follow(session, request, command)
            return Done()
        case ListApps():
            return Rows(tuple(await _apps(session)))
        case ListContainers(app, everything):
            return Rows(tuple(await _containers(session, app, everything)))
        case ListFunctions(app, tag):
            return Rows(tuple(describe_functions(server.router, await _one(session, app, "ap") if app else "", tag)))
        case StopContainer(container):
            _stop_container(session, await _one(session, container, "ct"))
            return Done()
        case ListCalls(app, call, limit):
            return Rows(tuple(await _calls(session, app, call, limit)))
        case BuildImage() | ImageRequest() | ExplainImage():
            return await images.answer(session, request, command)
        case ServerStatus():
            return Rows(({**_status(session), **await server.retention.facts()},))
        case StopServer(leave):
            server.stop(leave=leave)
            return Done()
        case Exec():
            command.container = await _one(session, command.container, "ct")
            return Rows(({"status": await exec.run(session, request, command)},))
        case DeriveFunction(function, options):
            variants.check_reach(server.router, session.container, function)
            return Names((await variants.derive_function(server.router, server.store, function, options),))
        case TuneFunction():
            variants.check_reach(server.router, session.container, command.function)
            return Rows((variants.tune(server.router, command),))
        case FunctionStatus(function, parameters):
            variants.check_reach(server.router, session.container, function)
            return Rows((variants.status(server.router, function, parameters),))
        case LeaveAfterInput():
            if (pool := session.pool) is None:
                raise InvalidError("only code in a container can leave it")
            pool.feed(dispatch.leave, pool.members[session.container], server.router.now())
            return Done()
        case ListInputs(call, descendants):
            rows = await variants.list_inputs(server.router, server.store, call, descendants=descendants)
            if session.container and not await variants.may_see(server.router, server.store, session.container, call):
                raise NotFoundError(f"there is no call {call}")  # of another app, for all that this container may know
            return Rows(tuple(rows))
        case Resolve(prefix, kind):
            return Names((await _one(session, prefix, kind),))
        case _:
            raise UnimplementedError(f"this server does not know {type(command).__name__}")


def _check_not_the_owners(command: Command) -> None:
    """
    Raises:
        PermissionDeniedError: it is for the owner of the server alone.
    """
    if isinstance(command, OWNERS) or (isinstance(command, ImageRequest) and command.what == "prune"):
        name = type(command).__name__
        raise PermissionDeniedError(
            f"{name} is for the server's owner alone, whatever the token: run the command on the server's machine, as its user, without SQUALL_SERVER_URL"
        )


async def _start_app(session: "Session", request: int, command: StartApp) -> AppStarted:
    def progress(event: ImageProgress) -> None:
        event.request = request
        session.send(event)

    return await session.server.apps.start(command.app, command.spec, session, progress, detach=command.detach, environment=command.environment)


async def _follow(session: "Session", request: int, command: Follow) -> None:
    server = session.server
    app = await _one(session, command.app, "ap") if command.app else ""
    container = await _one(session, command.container, "ct") if command.container else ""
    if not app and not container:
        raise InvalidError("Follow needs an app or a container")

    def on_container(event: ContainerProgress) -> None:
        event.request = request
        session.send(event)

    def deliver(chunk: LogChunk) -> bool:
        chunk.request = request
        session.send(chunk)
        return not session.peer.congested

    with server.logs.follow(deliver, app=app, container=container) as follower, server.container_events(app, on_container):
        if command.replay:
            names = [container] if container else [row["id"] for row in await _containers(session, app, True)]
            for chunks in [server.logs.replay(name) for name in names] if command.tail is None else [server.logs.tail(names, command.tail)]:
                async for chunk in chunks:
                    deliver(chunk)
                    await session.peer.drain()
        running = app in server.apps.live or container in server.router.members
        if command.follow and running:
            await follower.run(session.peer.drain)


async def _apps(session: "Session") -> list[dict[str, Any]]:
    server = session.server
    rows = []
    for row in await server.store.apps():
        pools = server.router.pools_of(row.id)
        rows.append(
            {
                "id": row.id, "name": row.name, "description": row.description, "state": str(row.state), "created_at": row.created_at,
                "stopped_at": row.stopped_at, "environment": row.environment,
                "containers": sum(len(pool.members) for pool in pools), "waiting": sum(len(pool.queue) for pool in pools),
            }
        )  # fmt: skip
    return rows


async def _containers(session: "Session", app: str, everything: bool) -> list[dict[str, Any]]:
    server = session.server
    app = await _one(session, app, "ap") if app else ""
    members = server.router.members
    rows = []
    for row in await _container_rows(session, AppId(app) if app else None, live_only=not everything):
        member = members.get(row.id)
        if member is None and not everything:
            continue
        function = server.router.functions.get(row.function)
        process = member.process if member is not None else None
        used = member.link.agent.usage(member.id) if member is not None else None
        rows.append(
            {
                "id": row.id, "app": row.app, "function": function.spec.tag if function is not None else row.function,
                "state": str(member.state if member is not None else ContainerState.STOPPED), "created_at": row.created_at, "ready_at": row.ready_at,
                "stopped_at": row.stopped_at, "reason": row.reason, "inputs": len(member.running) if member is not None else 0,
                "inputs_done": member.inputs_done if member is not None else None, "cpu_s": used.cpu_s if used is not None else None,
                "memory_bytes": used.memory_bytes if used is not None else None, "pid": process.pid if process is not None else row.pid,
                "copy_of": process.copy_of if process is not None else None, "not_forked": process.not_forked if process is not None else None,
            }
        )  # fmt: skip
    return rows


async def _container_rows(session: "Session", app: AppId | None = None, *, live_only: bool = False) -> list[ContainerRow]:
    """As in the store, and those whose first row is still on its way to the disk."""
    server = session.server
    rows = await server.store.containers(app, live_only=live_only)
    stored = {row.id for row in rows}
    started = time.time() - server.router.now()
    members = server.router.members.values() if app is None else server.router.members_of(app)
    return rows + [first_row(member, started + member.created) for member in members if member.recorded is None and member.id not in stored]


async def _calls(session: "Session", app: str, call: str, limit: int) -> list[dict[str, Any]]:
    router = session.server.router
    app = await _one(session, app, "ap") if app else ""
    if not call:
        return router.history.rows(router, app=app, limit=limit)
    known = {
        *router.inputs.calls_with_prefix(call),
        *router.history.calls(),
        *(await router.store.ids_with_prefix("fc", call, _NAMED) if len(call) >= 4 else ()),
    }
    named = sorted(name for name in known if name.startswith(call)) if len(call) >= 4 else []
    if len(named) > 1 and call not in named:
        raise InvalidError(f"{call!r} is the beginning of several calls: {', '.join(named[:4])} ...; write a longer one")
    name = call if call in named or not named else named[0]
    rows = router.history.rows(router, call=name, limit=limit) or await stored(router, name)
    if not rows:
        raise NotFoundError(f"there is no call {call!r} any more; squall call list shows the latest")
    for row in rows:
        if (row["attempts"] or 0) > 1:
            events = await router.store.events(input_id(row["call"], row["index"]))
            row["failed_attempts"] = [{"at": event.time, "error": event.detail} for event in events]
    return rows


def _stop_container(session: "Session", container: str) -> None:
    if (member := session.server.router.members.get(container)) is not None:
        member.pool.dismiss(member, "stopped by hand")
        return
    raise NotFoundError(f"container {container} does not run")


def _status(session: "Session") -> dict[str, Any]:
    server = session.server
    statistics = server.router.statistics()
    return {
        "id": server.id, "version": server.version, "pid": os.getpid(), "started_at": server.started_at, "uptime_s": time.time() - server.started_at,
        "driver": server.driver.name, "data": str(server.data), "listening": list(server.listening), "apps": len(server.apps.live),
        "containers": statistics.containers, "queued": statistics.queued, "running": statistics.running, "inputs_done": statistics.inputs_done,
        "memory_max_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip


#: Ids that a message names where a beginning is that of several.
_NAMED = 5


async def _one(session: "Session", prefix: str, kind: str) -> str:
    """The id that starts with `prefix`, or of a running app of that name.

    Raises:
        NotFoundError, InvalidError: none, or several.
    """
    server = session.server
    ids: list[str] = []
    if kind in ("", "ap"):
        if prefix in server.apps.live:
            return prefix
        named = [app for app, row in server.apps.live.items() if row.name == prefix]
        if named:
            return named[-1]
    if len(prefix) >= 4:
        for each in ("ap", "ct"):
            if kind in ("", each):
                ids += await server.store.ids_with_prefix(each, prefix, _NAMED)
        # Those whose first row is still on its way to the disk.
        ids += [member.id for member in server.router.members.values() if kind in ("", "ct") and member.recorded is None]
    found = [name for name in ids if name == prefix] or [name for name in dict.fromkeys(ids) if name.startswith(prefix)]
    what = {"ap": "app", "ct": "container"}.get(kind, "object")
    if not found:
        raise NotFoundError(f"there is no {what} {prefix!r}; squall {what if kind else 'app'} list shows what there is")
    if len(found) > 1:
        raise InvalidError(f"{prefix!r} is the beginning of several ids: {', '.join(sorted(found)[:4])} ...; write a longer one")
    return found[0]
