"""The HTTP API, `/api/v1`: what the SDK and the command line do, in plain HTTP and JSON, for those who have no Python."""

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from squall.gateway.api.errors import problem, status_of
from squall.gateway.api.plain_values import Json
from squall.gateway.api.routes import ROUTES
from squall.gateway.auth.local_peer import is_owner
from squall.gateway.auth.rights import Right, need
from squall.gateway.ingress.connection import Headers, Inbound, Request, now_header
from squall.gateway.rpc.deployments import digest
from squall.model.errors import AuthError, Error, InvalidError, NotFoundError, RequestSizeError

if TYPE_CHECKING:
    from squall.gateway.ingress.ingress import Ingress
    from squall.gateway.server import Server

#: Of a request; larger arguments belong into a volume or a blob.
BODY_BYTES_MAX = 16 << 20

Answer = tuple[int, Any]


class ApiCall:
    """One request to the API. Implements `http.Handler`."""

    def __init__(self, ingress: "Ingress", conn: Inbound, request: Request, target: bytes) -> None:
        self.ingress, self.conn, self.request = ingress, conn, request
        self.server: Server = ingress.server
        path, _, query = target.decode("latin-1").partition("?")
        self.path = unquote(path)
        self.query = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        self.body = bytearray()
        #: What its token is good for.
        self.right = Right.READ
        #: A request that shows no token is refused, and nothing of it is kept.
        self._refusal: AuthError | None = None
        try:
            self.right = self._authorise()
        except AuthError as error:
            self._refusal = error
        self._task: asyncio.Task[None] | None = None
        self._started = self._complete = False
        self._resumed: asyncio.Event | None = None

    # Handler

    def start(self) -> None:
        self._started = True
        self._begin()

    def feed(self, data: bytes) -> None:
        if self._refusal is None and len(self.body) <= BODY_BYTES_MAX:
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

    @property
    def needs_body(self) -> bool:
        return self._task is None

    def _begin(self) -> None:
        # Who shows no token is told so at once, whatever is to come.
        if self._started and (self._complete or self._refusal is not None) and self._task is None:
            self._task = self.server.loop.create_task(self._run(), name=f"api {self.path}")

    async def _run(self) -> None:
        try:
            status, value = await self._answer()
        except Error as error:
            status, value = status_of(error), problem(error)
        except Exception as error:
            import logging

            logging.getLogger(__name__).exception("an API request failed")
            status, value = 500, {"error": {"code": "internal", "message": f"the server failed at this request: {type(error).__name__}"}}
        if isinstance(value, AsyncGenerator):
            await self._stream(value)
            self.conn.finished(self, keep=False)
            return
        keep = self.request.keep_alive and self._complete
        kind = "application/json"
        if isinstance(value, Json):
            data = value.encode() + b"\n"
        elif isinstance(value, str):
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

    async def _stream(self, events: AsyncGenerator[dict[str, Any], None]) -> None:
        """Server-sent events (html.spec.whatwg.org, 9.2)."""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        self.conn.write(head)
        try:
            async for event in events:
                name = event.pop("event", None)
                text = event.get("json") or json.dumps(event, default=str)
                self.conn.write((b"event: %b\n" % name.encode() if name else b"") + b"data: %b\n\n" % text.encode())
                if self._resumed is not None:
                    await self._resumed.wait()
        finally:
            await events.aclose()

    async def _answer(self) -> Answer:
        path = self.path.rstrip("/")
        if path in ("/api", "/api/v1"):
            return 200, {"openapi": "/api/v1/openapi.json", "docs": "/api/v1/docs"}
        if self._refusal is not None:
            raise self._refusal
        if len(self.body) > BODY_BYTES_MAX:
            raise RequestSizeError(f"the body is larger than {BODY_BYTES_MAX >> 20} MiB")
        method = self.request.method.decode("latin-1")
        allowed = []
        for (wanted, pattern), route in ROUTES.items():
            found = match(pattern, path.removeprefix("/api/v1"))
            if found is not None:
                if wanted == method or (method == "HEAD" and wanted == "GET"):
                    need(f"{wanted} {pattern}", route.right, self.right)
                    return await route.answer(self, found)
                allowed.append(wanted)
        if allowed:
            return 405, {"error": {"code": "method_not_allowed", "message": f"{path} takes {', '.join(allowed)}"}}
        raise NotFoundError(f"there is nothing at {path}; /api/v1/docs lists what there is")

    def _authorise(self) -> Right:
        """Nothing is open without a token but to the owner, over the unix socket.

        Raises:
            AuthError: no token, or a wrong one.
        """
        if self.conn.local and is_owner(self.conn.transport):
            return Right.OWNER
        if (right := right_of(self.server, self.request)) is not None:
            return right
        raise AuthError("the API needs a token: squall token create; send it as  Authorization: Bearer SECRET")

    # what routes use

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


def right_of(server: "Server", request: Request) -> Right | None:
    """What the token that a request shows is good for; None without one, and of a wrong one."""
    header = request.header(b"authorization") or b""
    scheme, _, secret = header.decode("latin-1").partition(" ")
    given = digest(secret.strip())
    if scheme.lower() == "bearer":
        for right in (Right.READ, Right.CALL, Right.EVERYTHING):
            if any(hmac.compare_digest(known, given) for known in server.tokens.get(right.kind, {}).values()):
                return right
    return None


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
