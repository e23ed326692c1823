"""The routes of the HTTP API, and what answers those about apps, containers, images, schedules and the server."""

import asyncio
import html
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squall.gateway.api import calls, command_bridge
from squall.gateway.api.openapi import document
from squall.gateway.auth.rights import Right
from squall.gateway.rpc import deployments, images
from squall.model.errors import InvalidError, NotFoundError
from squall.wire.messages import LogChunk

if TYPE_CHECKING:
    from squall.gateway.api.api import Answer, ApiCall

Answering = Callable[["ApiCall", dict[str, str]], Awaitable["Answer"]]


async def openapi(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """This description of the API, for programs (OpenAPI 3.1)."""
    return 200, document(call.server.version)


async def docs(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """This description of the API, for people."""
    cell = "<tr><td><code>{}</code></td><td><code>{}</code></td><td>{}</td></tr>".format
    paths = document(call.server.version)["paths"]
    rows = "".join(cell(method.upper(), path, html.escape(entry["summary"])) for path, methods in paths.items() for method, entry in methods.items())
    return 200, f"<!doctype html><meta charset=utf-8><title>Squall's HTTP API</title><h1>Squall's HTTP API</h1><table>{rows}</table>"


async def list_apps(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Apps that run or ran, the latest last."""
    server = call.server
    rows = [
        {
            "id": row.id, "name": row.name, "environment": row.environment, "state": str(row.state), "created_at": row.created_at,
            "version": server.deployments.version(row.id), "functions": sorted(server.apps.functions_of(row.id)), "urls": server.web.urls(row.id),
            "containers": sum(len(pool.members) for pool in server.router.pools_of(row.id)),
        }
        for row in await server.store.apps()
    ]  # fmt: skip
    return 200, {"apps": rows}


async def app_history(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """The versions of a deployed app, newest first."""
    row = await call.server.deployments.find(names["app"], call.query.get("environment", "main"))
    return 200, {"versions": await call.server.deployments.history(row.id)}


async def app_rollback(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Make an earlier version live again: `{"version": N}`, or the one before."""
    version = call.json().get("version", 0)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise InvalidError("version is a number")
    deployed = await call.server.deployments.rollback(names["app"], version, call.query.get("environment", "main"), lambda _: None)
    return 200, {"app": deployed.app, "version": deployed.version, "urls": deployed.urls}


async def app_stop(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Stop an app: its inputs are cancelled, its containers end."""
    row = await call.server.deployments.find(names["app"], call.query.get("environment", "main"))
    await call.server.apps.stop(row.id)
    return 200, {"app": row.id, "state": "stopped"}


async def app_logs(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """What the app's containers print from now on, as server-sent events."""
    server = call.server
    row = await server.deployments.find(names["app"], call.query.get("environment", "main"))

    async def events() -> AsyncGenerator[dict[str, Any], None]:
        chunks: asyncio.Queue[LogChunk] = asyncio.Queue(10_000)

        def deliver(chunk: LogChunk) -> bool:
            if not chunks.full():
                chunks.put_nowait(chunk)
            return True

        with server.logs.follow(deliver, app=row.id):
            while row.id in server.apps.live:
                chunk = await chunks.get()
                yield {
                    "time": chunk.time, "container": chunk.container, "function": chunk.function, "stream": "stdout" if chunk.stream == 1 else "stderr",
                    "text": chunk.data.decode(errors="replace"), "input": chunk.input or None,
                }  # fmt: skip

    return 200, events()


async def list_containers(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Containers that run."""
    rows = [
        {
            "id": member.id,
            "app": member.pool.function.app,
            "function": member.pool.spec.tag,
            "state": str(member.state),
            "inputs": len(member.running),
            "done": member.inputs_done,
        }
        for member in call.server.router.members.values()
    ]
    return 200, {"containers": rows}


async def stop_container(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """End a container. What it runs is tried again in another one."""
    if (member := call.server.router.members.get(names["container"])) is not None:
        member.pool.dismiss(member, "stopped by the API")
        return 200, {"container": member.id}
    raise NotFoundError(f"container {names['container']} does not run")


async def list_schedules(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """What runs by itself, and when."""
    return 200, {"schedules": call.server.schedules.rows()}


async def run_schedule(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Run a scheduled function now."""
    return 202, {"call": call.server.schedules.call(call.server.schedules.one(names["schedule"]))}


async def pause_schedule(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Stop a schedule, or with `{"paused": false}` let it go on."""
    paused = call.json().get("paused", True)
    if not isinstance(paused, bool):
        raise InvalidError("paused is true or false")
    return 200, {"schedules": await call.server.schedules.pause(names["schedule"], paused), "paused": paused}


async def list_tokens(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Tokens, without their secrets."""
    return 200, {"tokens": deployments.token_rows(await call.server.store.tokens())}


async def server_status(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """The server's facts."""
    server, statistics = call.server, call.server.router.statistics()
    return 200, {
        "version": server.version, "driver": server.driver.name, "uptime_s": time.time() - server.started_at, "containers": statistics.containers,
        "queued": statistics.queued, "running": statistics.running, "inputs_done": statistics.inputs_done,
    }  # fmt: skip


async def list_images(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Images that were built, and builds that failed."""
    return 200, {"images": await asyncio.to_thread(images.listed, call.server)}


async def run_command(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Any command of the SDK or the command line, by the name of its message; the body has its fields."""
    return 200, await command_bridge.run(call.server, names["command"], call.json(), call.right)


@dataclass(frozen=True, slots=True)
class Route:
    """What answers, and what a token has to be good for."""

    answer: Answering
    right: Right


ROUTES: dict[tuple[str, str], Route] = {
    ("GET", "/openapi.json"): Route(openapi, Right.READ),
    ("GET", "/docs"): Route(docs, Right.READ),
    ("GET", "/status"): Route(server_status, Right.READ),
    ("POST", "/apps/{app}/functions/{function}/call"): Route(calls.call_function, Right.CALL),
    ("POST", "/apps/{app}/functions/{function}/spawn"): Route(calls.spawn_function, Right.CALL),
    ("GET", "/calls"): Route(calls.list_calls, Right.READ),
    ("GET", "/calls/{call}/result"): Route(calls.call_result, Right.READ),
    ("POST", "/calls/{call}/cancel"): Route(calls.cancel_call, Right.CALL),
    ("GET", "/apps"): Route(list_apps, Right.READ),
    ("GET", "/apps/{app}/versions"): Route(app_history, Right.READ),
    ("POST", "/apps/{app}/rollback"): Route(app_rollback, Right.EVERYTHING),
    ("POST", "/apps/{app}/stop"): Route(app_stop, Right.EVERYTHING),
    ("GET", "/apps/{app}/logs"): Route(app_logs, Right.READ),
    ("GET", "/containers"): Route(list_containers, Right.READ),
    ("POST", "/containers/{container}/stop"): Route(stop_container, Right.EVERYTHING),
    ("GET", "/images"): Route(list_images, Right.READ),
    ("GET", "/schedules"): Route(list_schedules, Right.READ),
    ("POST", "/schedules/{schedule}/run"): Route(run_schedule, Right.EVERYTHING),
    ("POST", "/schedules/{schedule}/pause"): Route(pause_schedule, Right.EVERYTHING),
    ("GET", "/tokens"): Route(list_tokens, Right.READ),
    # Each command has its own right, in the table of operations.
    ("POST", "/commands/{command}"): Route(run_command, Right.READ),
}
