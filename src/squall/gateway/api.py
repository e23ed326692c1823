"""The HTTP API, `/api/v1`: what the SDK and the command line do, in plain HTTP and JSON, for those who have no Python."""

import asyncio
import base64
import hmac
import json
import os
import pickle
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import msgspec

from squall.gateway import deploys
from squall.gateway.deploys import digest
from squall.gateway.http import Headers, Inbound, Request, now_header
from squall.gateway.openapi import document
from squall.model.errors import AuthError, Error, InvalidError, NotFoundError, PermissionDeniedError, RequestSizeError, ResourceExhaustedError
from squall.model.errors import TimeoutError as SquallTimeoutError
from squall.model.ids import CALL, make_id
from squall.wire.messages import DURABLE, FAILED, LIVE, OK, RAISED, Await, Call, Cancel, Fault, LogChunk, NotReady, Output, Raised
from squall.wire.values import dump_arguments

if TYPE_CHECKING:
    from squall.gateway.ingress import Ingress
    from squall.gateway.server import Server

#: Of a request; larger arguments belong into a volume or a blob.
BODY_BYTES_MAX = 16 << 20

Answer = tuple[int, Any]
Operation = Callable[["ApiCall", dict[str, str]], Awaitable[Answer]]


class ApiCall:
    """One request to the API. Implements `http.Handler`."""

    def __init__(self, ingress: "Ingress", conn: Inbound, request: Request, target: bytes) -> None:
        self.ingress, self.conn, self.request = ingress, conn, request
        self.server: Server = ingress.server
        path, _, query = target.decode("latin-1").partition("?")
        self.path = unquote(path)
        self.query = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        self.body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._started = self._complete = False
        self._resumed: asyncio.Event | None = None

    # Handler

    def start(self) -> None:
        self._started = True
        self._begin()

    def feed(self, data: bytes) -> None:
        if len(self.body) <= BODY_BYTES_MAX:
            self.body += data

    def complete(self) -> None:
        self._complete = True
        self._begin()

    def raw(self, data: bytes) -> None:
        return None

    def client_eof(self) -> bool:
        return False

    def client_gone(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif self._resumed is not None:
            self._resumed.set()

    def write_paused(self, paused: bool) -> None:
        if paused:
            self._resumed = asyncio.Event()
        elif self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def _begin(self) -> None:
        if self._started and self._complete and self._task is None:
            self._task = self.server.loop.create_task(self._run(), name=f"api {self.path}")

    async def _run(self) -> None:
        keep = self.request.keep_alive
        try:
            status, value = await self._answer()
        except Error as error:
            status, value = status_of(error), problem(error)
        except Exception as error:
            import logging

            logging.getLogger(__name__).exception("an API request failed")
            status, value = 500, {"error": {"code": "internal", "message": f"the server failed at this request: {type(error).__name__}"}}
        if isinstance(value, AsyncIterator):
            await self._stream(value)
            self.conn.finished(self, keep=False)
            return
        kind = "application/json"
        if isinstance(value, str):
            kind, data = "text/html; charset=utf-8", value.encode()
        else:
            data = json.dumps(value, indent=2, default=str).encode() + b"\n"
        extra: Headers = [(b"www-authenticate", b"Bearer")] if status == 401 else []
        lines = [
            b"HTTP/1.1 %d " % status, b"content-type: " + kind.encode(), b"content-length: %d" % len(data), b"date: " + now_header(),
            b"cache-control: no-store", *(b"%b: %b" % pair for pair in extra), *([] if keep else [b"connection: close"]),
        ]  # fmt: skip
        self.conn.write(b"\r\n".join([*lines, b"", b"" if self.request.method == b"HEAD" else data]))
        self.conn.finished(self, keep=keep)

    async def _stream(self, events: AsyncIterator[dict[str, Any]]) -> None:
        """Server-sent events (html.spec.whatwg.org, 9.2)."""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        self.conn.write(head)
        async for event in events:
            self.conn.write(b"data: %b\n\n" % json.dumps(event, default=str).encode())
            if self._resumed is not None:
                await self._resumed.wait()

    async def _answer(self) -> Answer:
        path = self.path.rstrip("/")
        if path in ("/api", "/api/v1"):
            return 200, {"openapi": "/api/v1/openapi.json", "docs": "/api/v1/docs"}
        self._authorise()
        if len(self.body) > BODY_BYTES_MAX:
            raise RequestSizeError(f"the body is larger than {BODY_BYTES_MAX >> 20} MiB")
        method = self.request.method.decode("latin-1")
        allowed = []
        for (wanted, pattern), operation in OPERATIONS.items():
            found = match(pattern, path.removeprefix("/api/v1"))
            if found is not None:
                if wanted == method or (method == "HEAD" and wanted == "GET"):
                    return await operation(self, found)
                allowed.append(wanted)
        if allowed:
            return 405, {"error": {"code": "method_not_allowed", "message": f"{path} takes {', '.join(allowed)}"}}
        raise NotFoundError(f"there is nothing at {path}; /api/v1/docs lists what there is")

    def _authorise(self) -> None:
        """Over TCP nothing is open without a token.

        Raises:
            AuthError: none, or a wrong one.
        """
        header = self.request.header(b"authorization") or b""
        scheme, _, secret = header.decode("latin-1").partition(" ")
        given = digest(secret.strip())
        if scheme.lower() == "bearer" and any(hmac.compare_digest(known, given) for known in self.server.tokens.get("api", {}).values()):
            return
        raise AuthError("the API needs a token: squall token create; send it as  Authorization: Bearer SECRET")

    # what operations use

    def json(self) -> dict[str, Any]:
        """The body.

        Raises:
            InvalidError: not a JSON object.
        """
        if not self.body:
            return {}
        try:
            value = json.loads(bytes(self.body))
        except (ValueError, RecursionError) as error:
            raise InvalidError(f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidError("the body is not a JSON object")
        return value

    def limit(self) -> int:
        text = self.query.get("limit", "100")
        if not text.isdigit() or not 1 <= int(text) <= 10_000:
            raise InvalidError("limit is a number from 1 to 10000")
        return int(text)


class _Waiter:
    """Asks the router for one outcome."""

    gone = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[Any] = loop.create_future()

    def send(self, message: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(message)


def match(pattern: str, path: str) -> dict[str, str] | None:
    """The values of ``{name}`` in the pattern."""
    wanted, given = pattern.split("/"), path.split("/")
    if len(wanted) != len(given):
        return None
    found = {}
    for want, have in zip(wanted, given, strict=True):
        if want.startswith("{"):
            if not have:
                return None
            found[want[1:-1]] = have
        elif want != have:
            return None
    return found


def status_of(error: Error) -> int:
    """HTTP's word for an error, by who has to act next."""
    for kind, status in STATUS:
        if isinstance(error, kind):
            return status
    return 500


STATUS: tuple[tuple[type[Error], int], ...] = (
    (AuthError, 401), (PermissionDeniedError, 403), (NotFoundError, 404), (InvalidError, 400), (RequestSizeError, 413), (ResourceExhaustedError, 503),
    (SquallTimeoutError, 504),
)  # fmt: skip


def problem(error: Error) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error)}}


# --- operations --------------------------------------------------------------------------------------------------------------


async def _openapi(call: ApiCall, names: dict[str, str]) -> Answer:
    return 200, document(call.server.version)


async def _docs(call: ApiCall, names: dict[str, str]) -> Answer:
    rows = "".join(
        f"<tr><td><code>{method}</code></td><td><code>/api/v1{pattern}</code></td><td>{(operation.__doc__ or 'This page').splitlines()[0]}</td></tr>"
        for (method, pattern), operation in OPERATIONS.items()
    )
    return 200, f"<!doctype html><meta charset=utf-8><title>Squall's HTTP API</title><h1>Squall's HTTP API</h1><table>{rows}</table>"


async def _function(call: ApiCall, names: dict[str, str]) -> tuple[str, str]:
    """The id of a function of a deployed app, and its method."""
    environment = call.query.get("environment", "main")
    row = await call.server.deployments.find(names["app"], environment)
    tag, _, method = names["function"].partition(".")
    function = call.server.apps.functions_of(row.id).get(tag)
    if function is None:
        raise NotFoundError(f"the app {row.name} has no {names['function']!r}")
    live = call.server.router.functions.get(function)
    spec = next((one for one in live.spec.methods if one.name == method), None) if live is not None else None
    if spec is None:
        raise NotFoundError(f"the app {row.name} has no {names['function']!r}")
    if spec.web is not None:
        raise InvalidError(f"{names['function']} is a web function: send requests to its URL")
    if spec.is_generator:
        raise InvalidError(f"{names['function']} is a generator: HTTP can't call those yet")
    return function, method


async def _submit(call: ApiCall, names: dict[str, str], hold: int) -> tuple[str, Any]:
    function, method = await _function(call, names)
    body = call.json()
    args, kwargs = body.get("args", []), body.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict) or set(body) - {"args", "kwargs"}:
        raise InvalidError('the body is {"args": [...], "kwargs": {...}}; both may be left out')
    call_id = make_id(CALL, time.time_ns() // 1_000_000, os.urandom(10))
    waiter = _Waiter(call.server.loop)
    call.server.router.submit(Call(1, function, call_id, 0, dump_arguments(tuple(args), kwargs, names["function"]), method, hold), waiter)
    try:
        return call_id, await waiter.answer
    except asyncio.CancelledError:
        waiter.gone = True
        if hold == LIVE:
            call.server.router.cancel(Cancel(call_id))
        raise


async def call_function(call: ApiCall, names: dict[str, str]) -> Answer:
    """Call a function of a deployed app and wait for its value."""
    call_id, message = await _submit(call, names, LIVE)
    return outcome(call_id, message)


async def spawn_function(call: ApiCall, names: dict[str, str]) -> Answer:
    """Start a call; the answer has its id as soon as it is on disk."""
    call_id, message = await _submit(call, names, DURABLE)
    if isinstance(message, Fault):
        return outcome(call_id, message)
    return 202, {"call": call_id, "result": f"/api/v1/calls/{call_id}/result"}


async def call_result(call: ApiCall, names: dict[str, str]) -> Answer:
    """The value of a call; waits at most `timeout` seconds (0 to 300) for it, and says 202 when there is none yet."""
    try:
        timeout = float(call.query.get("timeout", "0"))
    except ValueError:
        raise InvalidError("timeout is a number of seconds") from None
    if not 0 <= timeout <= 300:
        raise InvalidError("timeout is from 0 to 300 seconds")
    waiter = _Waiter(call.server.loop)
    call.server.router.wait_for(Await(1, names["call"], 0, timeout), waiter)
    message = await waiter.answer
    if isinstance(message, NotReady):
        return 202, {"call": names["call"], "state": "pending"}
    return outcome(names["call"], message)


async def cancel_call(call: ApiCall, names: dict[str, str]) -> Answer:
    """Stop a call's inputs."""
    call.server.router.cancel(Cancel(names["call"]))
    return 200, {"call": names["call"]}


async def list_calls(call: ApiCall, names: dict[str, str]) -> Answer:
    """The latest inputs, of all apps or of `app`."""
    return 200, {"calls": call.server.router.history.rows(call.server.router, app=call.query.get("app", ""), limit=call.limit())}


def outcome(call_id: str, message: Any) -> Answer:
    """An input's end as JSON. A value that JSON has no form for comes as base64 of its pickle, under `pickle`."""
    if isinstance(message, Fault):
        from squall.model.errors import rebuild

        error = rebuild(message.code, message.message, message.details)
        return status_of(error), {"call": call_id, **problem(error)}
    assert isinstance(message, Output)
    if message.status == OK:
        value, fits = plain_value(message.data)
        return 200, {"call": call_id, "value": value} if fits else {"call": call_id, "pickle": base64.b64encode(message.data).decode()}
    if message.status == RAISED:
        raised = msgspec.msgpack.decode(message.data, type=Raised)
        return 500, {"call": call_id, "error": {"code": "raised", "type": raised.type_name, "message": raised.message, "traceback": raised.text}}
    if message.status == FAILED:
        return outcome(call_id, msgspec.msgpack.decode(message.data, type=Fault))
    return 409, {"call": call_id, "error": {"code": "cancelled", "message": "the call was cancelled"}}


class _Plain(pickle.Unpickler):
    """Values without any class: what a container sends is not ours to trust, and this runs in the server."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def plain_value(data: bytes) -> tuple[Any, bool]:
    """The value, and whether JSON has a form for it."""
    import io

    try:
        value = _Plain(io.BytesIO(data)).load()
        json.dumps(value, allow_nan=False)
    except Exception:  # pickles of other things fail in many ways
        return None, False
    return value, True


async def list_apps(call: ApiCall, names: dict[str, str]) -> Answer:
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


async def app_history(call: ApiCall, names: dict[str, str]) -> Answer:
    """The versions of a deployed app, newest first."""
    row = await call.server.deployments.find(names["app"], call.query.get("environment", "main"))
    return 200, {"versions": await call.server.deployments.history(row.id)}


async def app_rollback(call: ApiCall, names: dict[str, str]) -> Answer:
    """Make an earlier version live again: `{"version": N}`, or the one before."""
    version = call.json().get("version", 0)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise InvalidError("version is a number")
    deployed = await call.server.deployments.rollback(names["app"], version, call.query.get("environment", "main"), lambda _: None)
    return 200, {"app": deployed.app, "version": deployed.version, "urls": deployed.urls}


async def app_stop(call: ApiCall, names: dict[str, str]) -> Answer:
    """Stop an app: its inputs are cancelled, its containers end."""
    row = await call.server.deployments.find(names["app"], call.query.get("environment", "main"))
    await call.server.apps.stop(row.id)
    return 200, {"app": row.id, "state": "stopped"}


async def app_logs(call: ApiCall, names: dict[str, str]) -> Answer:
    """What the app's containers print from now on, as server-sent events."""
    server = call.server
    row = await server.deployments.find(names["app"], call.query.get("environment", "main"))

    async def events() -> AsyncIterator[dict[str, Any]]:
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


async def list_containers(call: ApiCall, names: dict[str, str]) -> Answer:
    """Containers that run."""
    rows = [
        {
            "id": member.id,
            "app": pool.function.app,
            "function": pool.spec.tag,
            "state": str(member.state),
            "inputs": len(member.running),
            "done": member.inputs_done,
        }
        for pool in call.server.router.pools.values()
        for member in pool.members.values()
    ]
    return 200, {"containers": rows}


async def stop_container(call: ApiCall, names: dict[str, str]) -> Answer:
    """End a container. What it runs is tried again in another one."""
    for pool in call.server.router.pools.values():
        if (member := pool.members.get(names["container"])) is not None:
            pool.dismiss(member, "stopped by the API")
            return 200, {"container": member.id}
    raise NotFoundError(f"container {names['container']} does not run")


async def list_schedules(call: ApiCall, names: dict[str, str]) -> Answer:
    """What runs by itself, and when."""
    return 200, {"schedules": call.server.schedules.rows()}


async def run_schedule(call: ApiCall, names: dict[str, str]) -> Answer:
    """Run a scheduled function now."""
    return 202, {"call": call.server.schedules.call(call.server.schedules.one(names["schedule"]))}


async def pause_schedule(call: ApiCall, names: dict[str, str]) -> Answer:
    """Stop a schedule, or with `{"paused": false}` let it go on."""
    paused = call.json().get("paused", True)
    if not isinstance(paused, bool):
        raise InvalidError("paused is true or false")
    return 200, {"schedules": await call.server.schedules.pause(names["schedule"], paused), "paused": paused}


async def list_tokens(call: ApiCall, names: dict[str, str]) -> Answer:
    """Tokens, without their secrets."""
    return 200, {"tokens": deploys.token_rows(await call.server.store.tokens())}


async def server_status(call: ApiCall, names: dict[str, str]) -> Answer:
    """The server's facts."""
    server, statistics = call.server, call.server.router.statistics()
    return 200, {
        "version": server.version, "driver": server.driver.name, "uptime_s": time.time() - server.started_at, "containers": statistics.containers,
        "queued": statistics.queued, "running": statistics.running, "inputs_done": statistics.inputs_done,
    }  # fmt: skip


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/openapi.json"): _openapi,
    ("GET", "/docs"): _docs,
    ("GET", "/status"): server_status,
    ("POST", "/apps/{app}/functions/{function}/call"): call_function,
    ("POST", "/apps/{app}/functions/{function}/spawn"): spawn_function,
    ("GET", "/calls"): list_calls,
    ("GET", "/calls/{call}/result"): call_result,
    ("POST", "/calls/{call}/cancel"): cancel_call,
    ("GET", "/apps"): list_apps,
    ("GET", "/apps/{app}/versions"): app_history,
    ("POST", "/apps/{app}/rollback"): app_rollback,
    ("POST", "/apps/{app}/stop"): app_stop,
    ("GET", "/apps/{app}/logs"): app_logs,
    ("GET", "/containers"): list_containers,
    ("POST", "/containers/{container}/stop"): stop_container,
    ("GET", "/schedules"): list_schedules,
    ("POST", "/schedules/{schedule}/run"): run_schedule,
    ("POST", "/schedules/{schedule}/pause"): pause_schedule,
    ("GET", "/tokens"): list_tokens,
}
