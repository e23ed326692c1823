"""The table of the HTTP API's operations, and those about apps, containers, images, schedules and the server."""

import asyncio
import html
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from squall.gateway.api import calls, command_bridge
from squall.gateway.api.openapi import document
from squall.gateway.rpc import deployments, images
from squall.model.errors import InvalidError, NotFoundError, PermissionDeniedError
from squall.wire.messages import LogChunk

if TYPE_CHECKING:
    from squall.gateway.api.api import Answer, ApiCall

Operation = Callable[["ApiCall", dict[str, str]], Awaitable["Answer"]]

#: Scopes of tokens; each opens what those before it open, too.
READ, CALL, EVERYTHING = "read", "call", "api"
SCOPES = (READ, CALL, EVERYTHING)


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
    body = call.json()
    if names["command"] == "DictRead" and body.get("take") and EVERYTHING not in call.scopes:
        raise PermissionDeniedError(f"the token is good for {call.scopes[-1]} only, and to take an entry out of a dict needs one of kind {EVERYTHING}")
    return 200, await command_bridge.run(call.server, names["command"], body, owner=call.conn.local)


def scope_of(operation: Operation, method: str, names: dict[str, str]) -> str:
    """What a token has to be good for."""
    if operation is run_command:
        return READ if names["command"] in command_bridge.READING else EVERYTHING
    if operation in (calls.call_function, calls.spawn_function, calls.cancel_call):
        return CALL
    return READ if method == "GET" else EVERYTHING


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/openapi.json"): openapi,
    ("GET", "/docs"): docs,
    ("GET", "/status"): server_status,
    ("POST", "/apps/{app}/functions/{function}/call"): calls.call_function,
    ("POST", "/apps/{app}/functions/{function}/spawn"): calls.spawn_function,
    ("GET", "/calls"): calls.list_calls,
    ("GET", "/calls/{call}/result"): calls.call_result,
    ("POST", "/calls/{call}/cancel"): calls.cancel_call,
    ("GET", "/apps"): list_apps,
    ("GET", "/apps/{app}/versions"): app_history,
    ("POST", "/apps/{app}/rollback"): app_rollback,
    ("POST", "/apps/{app}/stop"): app_stop,
    ("GET", "/apps/{app}/logs"): app_logs,
    ("GET", "/containers"): list_containers,
    ("POST", "/containers/{container}/stop"): stop_container,
    ("GET", "/images"): list_images,
    ("GET", "/schedules"): list_schedules,
    ("POST", "/schedules/{schedule}/run"): run_schedule,
    ("POST", "/schedules/{schedule}/pause"): pause_schedule,
    ("GET", "/tokens"): list_tokens,
    ("POST", "/commands/{command}"): run_command,
}
