"""A container's web function: connections from the agent, each with plain HTTP/1.1, to an ASGI or WSGI app or to a port of the container."""

import asyncio
import importlib.util
import inspect
import os
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from squall.model.errors import ExecutionError
from squall.model.specs import Web
from squall.runner.asgi import HttpConnection, Lifespan
from squall.runner.context import here
from squall.wire.framing import pack
from squall.wire.messages import PROTOCOL_VERSION, Hello

#: A look at the port of a starting server; a look costs 50 us.
LOOK_S = 0.01

AsgiApp = Callable[[dict[str, Any], Callable[[], Awaitable[dict[str, Any]]], Callable[[dict[str, Any]], Awaitable[None]]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class WebMethod:
    """A web function, or one web method of a class (`name`)."""

    name: str
    body: Callable[..., Any]
    web: Web


class WebServer:
    """Serves the web function, or the web methods, of a container. Made and started on the loop on which it serves.

    Args:
        threads: how many requests of a WSGI app run at a time.
        beside: the class has other methods too; an app that can't be made is then the end of its own requests alone, and its error is told with the first.
    """

    def __init__(self, methods: Sequence[WebMethod], *, threads: int, beside: bool = False) -> None:
        self._methods, self._threads, self._beside = methods, threads, beside
        self._lifespans: list[Lifespan] = []
        self._make: Callable[[], asyncio.Protocol]
        self._opening: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Protocol] = set()
        self._port = 0

    async def start(self) -> None:
        """Ready for requests.

        Raises:
            ExecutionError: the app can't be made, or does not listen in time.
        """
        servers = [method for method in self._methods if method.web.kind == "server"]
        if servers:
            if len(self._methods) > 1:
                raise ExecutionError("a class with a @squall.web_server method can have no other web methods: a port has no names")
            await self._start_server(servers[0])
            return
        loop = asyncio.get_running_loop()
        apps: dict[str, tuple[AsgiApp, dict[str, Any] | None]] = {}
        for method in self._methods:
            try:
                app = await self._app(method)
                lifespan = Lifespan(app)
                state = await lifespan.start()
            except Exception as error:
                if not self._beside:
                    raise
                apps[method.name] = (_broken_app(error), None)
                continue
            apps[method.name] = (app, state)
            self._lifespans.append(lifespan)
        self._make = lambda: HttpConnection(apps, loop, self._connections)

    async def _app(self, method: WebMethod) -> AsgiApp:
        kind = method.web.kind
        if kind == "endpoint":
            return _endpoint_app(method.body, method.web)
        made = method.body()
        if inspect.isawaitable(made):
            made = await made
        if kind == "wsgi":
            from squall.runner.wsgi import WsgiAdapter

            return WsgiAdapter(_callable(made, "wsgi_app"), self._threads)
        return cast(AsgiApp, _callable(made, "asgi_app"))

    async def _start_server(self, method: WebMethod) -> None:
        """Run the function, which starts something that listens, and wait for that."""
        port, limit = method.web.port or 8000, method.web.startup_timeout_s
        made = method.body()
        if inspect.isawaitable(made):
            await made
        deadline = time.monotonic() + limit
        while not _listens(port):
            if time.monotonic() > deadline:
                raise ExecutionError(f"nothing listens on port {port} of the container {limit:g} s after the function has returned (startup_timeout={limit:g})")
            await asyncio.sleep(LOOK_S)
        self._port = port
        self._make = lambda: Pipe(port, self._connections)

    def open(self, count: int) -> None:
        """The agent wants more connections."""
        for _ in range(count):
            task = asyncio.get_running_loop().create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, here.socket)
            await loop.sock_sendall(sock, pack(Hello(PROTOCOL_VERSION, "web", here.container)))
            await loop.create_connection(self._make, sock=sock)
        except OSError:
            sock.close()

    async def stop(self) -> None:
        """Let the app end; requests that run were finished before."""
        for lifespan in self._lifespans:
            await lifespan.stop()


def _broken_app(error: Exception) -> AsgiApp:
    """Answers for an app that could not be made; why is in the container's log, once it is used."""
    untold = [error]

    async def answer(scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        if untold:
            traceback.print_exception(untold.pop())
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1011})
            return
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"the app could not be started"})

    return answer


def _callable(made: Any, decorator: str) -> Any:
    if not callable(made):
        raise ExecutionError(f"the function below @squall.{decorator} returned {type(made).__name__}, which is no app: it has to return one")
    return made


def _endpoint_app(body: Callable[..., Any], web: Web) -> AsgiApp:
    """A FastAPI app with the function at its root."""
    if importlib.util.find_spec("fastapi") is None:
        raise ExecutionError('@squall.fastapi_endpoint needs FastAPI in the image: image.pip_install("fastapi[standard]")')
    from fastapi import FastAPI  # type: ignore[import-not-found,unused-ignore]
    from fastapi.middleware.cors import CORSMiddleware  # type: ignore[import-not-found,unused-ignore]

    places = {} if web.docs else {"openapi_url": None, "docs_url": None, "redoc_url": None}
    app: Any = FastAPI(**places)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_credentials=True, allow_methods=["*"], allow_headers=["*"])
    app.add_api_route("/", body, methods=[web.method])
    return cast(AsgiApp, app)


def _listens(port: int) -> bool:
    for host in _hosts():
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex((host, port)) == 0:
                return True
    return False


def _hosts() -> tuple[str, ...]:
    """Where a server of the container may listen: everywhere, on the loopback, or on its own address only."""
    own = os.environ.get("SQUALL_CONTAINER_ADDRESS", "")
    return ("127.0.0.1", own) if own else ("127.0.0.1",)


class Pipe(asyncio.Protocol):
    """Bytes of one connection from the agent to the container's port and back, held back on either side when the other reads too slowly."""

    def __init__(self, port: int, connections: set[asyncio.Protocol]) -> None:
        self._port, self._connections = port, connections
        self.transport: asyncio.Transport
        self._target: _Target | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        self._eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._target is not None:
            self._target.transport.write(data)
            return
        self._early.append(data)
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self.transport.pause_reading()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for host in _hosts():
            try:
                _, self._target = await loop.create_connection(lambda: _Target(self), host, self._port)
                break
            except OSError:
                continue
        else:
            body = f"nothing listens on port {self._port} of the container any more\n".encode()
            self.transport.write(
                b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            self.transport.close()
            return
        if self.transport.is_closing():
            self._target.transport.close()
            return
        self._target.transport.write(b"".join(self._early))
        self._early.clear()
        if self._eof:
            self._target.transport.write_eof()
        self.transport.resume_reading()

    def eof_received(self) -> bool:
        self._eof = True
        if self._target is not None:
            self._target.eof()
            return True
        return self._connecting is not None

    def pause_writing(self) -> None:
        if self._target is not None:
            self._target.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._target is not None:
            self._target.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._target is not None:
            self._target.transport.close()


class _Target(asyncio.Protocol):
    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.pipe.transport.write(data)

    def eof(self) -> None:
        """The client sends no more. A server that is in the middle of an answer sees that as the client's leave, as it would without us."""
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def eof_received(self) -> bool:
        if not self.pipe.transport.is_closing() and self.pipe.transport.can_write_eof():
            self.pipe.transport.write_eof()
        return self.pipe._eof is False

    def pause_writing(self) -> None:
        self.pipe.transport.pause_reading()

    def resume_writing(self) -> None:
        self.pipe.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.pipe.transport.close()
