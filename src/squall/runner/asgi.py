"""An ASGI server (asgi.readthedocs.io, HTTP and lifespan) for connections from the agent, which sends only requests that it has checked and written anew."""

import asyncio
import contextlib
import sys
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from squall.model.errors import ExecutionError
from squall.runner import prints
from squall.runner.context import current_input

#: A body that the app has not taken is read no further than this.
BODY_HIGH_BYTES = 256 << 10
STARTUP_S = 300.0

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
Headers = list[tuple[bytes, bytes]]
Message = dict[str, Any]


class HttpConnection(asyncio.Protocol):
    """Requests one after another. An app runs as a task; when the agent hangs up, it is cancelled."""

    def __init__(self, apps: Mapping[str, tuple[Any, dict[str, Any] | None]], loop: asyncio.AbstractEventLoop, connections: set[asyncio.Protocol]) -> None:
        #: By method, each with the state of its lifespan.
        self._apps, self.loop, self._connections = apps, loop, connections
        self.app: Any = None
        self.transport: asyncio.Transport
        self._buffer = b""
        self.cycle: Cycle | None = None
        #: Bytes of the body that are still to come; None: chunked.
        self._left: int | None = 0
        self._socket: Any = None
        self.writable: asyncio.Event | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.feed(data)
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if self.cycle is None or self.cycle.body_done:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return
            self._begin(data[:end])
            data = data[end + 4 :]
            if (talk := self._talk()) is not None:
                talk.feed(data)
                return
        if self._left is None:
            self._chunks(data)
        elif self._left or (self.cycle is not None and not self.cycle.body_done):
            self._plain(data)

    def _begin(self, head: bytes) -> None:
        lines = head.split(b"\r\n")
        method, target, _ = lines[0].split(b" ", 2)
        headers: Headers = []
        length, chunked, upgrade, call, of = 0, False, b"", "", ""
        client, scheme, prefix, host = "", "http", "", b""
        for line in lines[1:]:
            name, _, value = line.partition(b": ")
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
            elif name == b"host":
                host = value
            elif name == b"upgrade":
                upgrade = value
            elif name == b"x-squall-call":
                call, _, of = value.decode("latin-1").partition(" ")
                continue
            elif name == b"x-forwarded-for":
                client = value.partition(b",")[0].strip().decode("latin-1")
            elif name == b"x-forwarded-proto":
                scheme = value.decode("latin-1")
            elif name == b"x-forwarded-prefix":
                prefix = value.decode("latin-1")
            headers.append((name, value))
        path, _, query = target.partition(b"?")
        server, _, port = host.decode("latin-1").rpartition("]")[2].partition(":")
        if host.startswith(b"["):
            server = host.decode("latin-1").partition("]")[0][1:]
        decoded = (unquote_to_bytes(path) if b"%" in path else path).decode("utf-8", "replace")
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method.decode("latin-1"),
            "scheme": scheme,
            "path": prefix + decoded if prefix else decoded,
            "raw_path": prefix.encode() + path if prefix else path,
            "query_string": query,
            "root_path": prefix,
            "headers": headers,
            "client": (client, 0) if client else None,
            "server": (server, int(port) if port.isdigit() else (443 if scheme == "https" else 80)),
        }
        self.app, state = self._apps[of]
        if state is not None:
            scope["state"] = state.copy()
        if upgrade == b"websocket":
            from squall.runner.websocket import WebSocketCycle

            self._socket = WebSocketCycle(self, scope, call)
            return
        self._left = None if chunked else length
        cycle = self.cycle = Cycle(self, scope, call, body_done=not chunked and length == 0)
        cycle.task = self.loop.create_task(cycle.run())

    def _talk(self) -> Any:
        return self._socket

    def _plain(self, data: bytes) -> None:
        cycle = self.cycle
        assert cycle is not None
        assert self._left is not None
        part, rest = data[: self._left], data[self._left :]
        self._left -= len(part)
        self._buffer = rest
        cycle.feed(part, done=self._left == 0)

    def _chunks(self, data: bytes) -> None:
        cycle = self.cycle
        assert cycle is not None
        parts: list[bytes] = []
        done = False
        while True:
            line = data.find(b"\r\n")
            if line < 0:
                break
            size = int(data[:line], 16)
            if len(data) < line + 4 + size:
                break
            if size == 0:
                done, data = True, data[line + 4 :]
                break
            parts.append(data[line + 2 : line + 2 + size])
            data = data[line + 4 + size :]
        self._buffer = data
        if done:
            self._left = 0
        if parts or done:
            cycle.feed(b"".join(parts), done=done)

    def answered(self, cycle: "Cycle") -> None:
        """The answer is complete, and the next request may come, even if the app goes on with something in the background."""
        if self.cycle is not cycle:
            return
        if not cycle.body_done or self.transport.is_closing():
            self.transport.close()
            return
        self.cycle = None
        if self._buffer:
            data, self._buffer = self._buffer, b""
            self.data_received(data)

    def eof_received(self) -> bool:
        """The client has left. The agent waits for our end of the connection, which says that the code has stopped."""
        if self._socket is not None:
            return bool(self._socket.client_left())
        if self.cycle is not None:
            self.cycle.disconnect()
            return True
        return False

    def pause_writing(self) -> None:
        self.writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self.writable is not None:
            self.writable.set()
            self.writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.resume_writing()
        if self._socket is not None:
            self._socket.client_left()
        if self.cycle is not None:
            self.cycle.disconnect()


class Cycle:
    """One request and its answer."""

    def __init__(self, connection: HttpConnection, scope: Message, call: str, *, body_done: bool) -> None:
        self.connection, self.scope, self.call = connection, scope, call
        self.task: asyncio.Task[None] | None = None
        self.body_done = body_done
        self._body: list[bytes] = []
        self._size = 0
        self._told_done = False
        self._more: asyncio.Event | None = None
        self.left = False
        self._head: tuple[int, Headers] | None = None
        self._sent = False
        self._chunked = False
        self._expected: int | None = None
        self._complete = False

    async def run(self) -> None:
        if self.call:
            current_input.set((self.call, 0))
        connection = self.connection
        try:
            await connection.app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.left:
                raise
        except BaseException:
            if not self.left:
                traceback.print_exc(file=sys.stderr)
            if isinstance(sys.exc_info()[1], SystemExit):
                prints.flush()
                raise
        finally:
            prints.flush()
        if self.left:
            connection.transport.close()
        elif self._complete:
            pass
        elif not self._sent and not connection.transport.is_closing():
            body = b"Internal Server Error\n"
            connection.transport.write(
                b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), b"" if self.scope["method"] == "HEAD" else body)
            )
            self._complete = True
            connection.answered(self)
        else:
            # Half an answer went out: only a broken connection can say so.
            connection.transport.abort()

    def feed(self, data: bytes, *, done: bool) -> None:
        if data:
            self._body.append(data)
            self._size += len(data)
            if self._size > BODY_HIGH_BYTES:
                self.connection.transport.pause_reading()
        self.body_done = done
        if self._more is not None:
            self._more.set()

    def disconnect(self) -> None:
        if self.left:
            return
        self.left = True
        if self._more is not None:
            self._more.set()
        if self._complete or self.task is None or self.task.done():
            if self.task is None or self.task.done():
                self.connection.transport.close()
            return
        self.task.cancel()

    async def receive(self) -> Message:
        while True:
            if self.left:
                return {"type": "http.disconnect"}
            if self._body or (self.body_done and not self._told_done):
                data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body.clear()
                if self._size > BODY_HIGH_BYTES:
                    self.connection.transport.resume_reading()
                self._size = 0
                self._told_done = self.body_done
                return {"type": "http.request", "body": data, "more_body": not self.body_done}
            self._more = asyncio.Event()
            await self._more.wait()
            self._more = None

    async def send(self, message: Message) -> None:
        if self.left:
            raise OSError("the client has left")
        kind = message["type"]
        if kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("http.response.start was sent twice")
            self._head = (message["status"], list(message.get("headers", ())))
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), bool(message.get("more_body", False)))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    async def _send_body(self, body: bytes, more: bool) -> None:
        if self._head is None:
            raise RuntimeError("http.response.body was sent before http.response.start")
        if self._complete:
            raise RuntimeError("the response is complete already")
        out: list[bytes] = []
        empty = self.scope["method"] == "HEAD" or self._head[0] in (204, 304)
        if not self._sent:
            out.append(self._make_head(body, more, empty))
        if not empty:
            if self._expected is not None:
                self._expected -= len(body)
                if self._expected < 0:
                    raise RuntimeError("the response is longer than its content-length")
            if self._chunked:
                if body:
                    out += (b"%x\r\n" % len(body), body, b"\r\n")
                if not more:
                    out.append(b"0\r\n\r\n")
            elif body:
                out.append(body)
        if not more:
            if self._expected and not empty:
                raise RuntimeError("the response is shorter than its content-length")
            self._complete = True
        connection, self._sent = self.connection, True
        if out:
            connection.transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._complete:
            connection.answered(self)
        elif connection.writable is not None:
            await connection.writable.wait()

    def _make_head(self, body: bytes, more: bool, empty: bool) -> bytes:
        assert self._head is not None
        status, headers = self._head
        lines = [b"HTTP/1.1 %d %s" % (status, _REASONS.get(status, b""))]
        framed = False
        for name, value in headers:
            lower = name.lower()
            if lower == b"transfer-encoding" or lower == b"connection":
                continue
            if lower == b"content-length":
                framed = True
                self._expected = int(value)
            if b"\r" in value or b"\n" in value or b"\r" in name or b"\n" in name:
                raise RuntimeError(f"the header {name!r} has a line break in it")
            lines.append(b"%b: %b" % (name, value))
        if not framed and not empty:
            if more:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked")
            else:
                lines.append(b"content-length: %d" % len(body))
        lines.append(b"\r\n")
        return b"\r\n".join(lines)


class Lifespan:
    """The app's own start and end (ASGI lifespan). An app that knows nothing of it is left alone."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._inbox: deque[Message] = deque()
        self._ready = asyncio.Event()
        self._wake = asyncio.Event()
        self._answers: deque[Message] = deque()
        self._task: asyncio.Task[None] | None = None
        self._supported = True
        self._failure: BaseException | None = None

    async def start(self) -> dict[str, Any] | None:
        """The state that requests get a copy of; None where the app has no lifespan.

        Raises:
            ExecutionError: the app's startup failed.
        """
        state: dict[str, Any] = {}
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
        self._inbox.append({"type": "lifespan.startup"})
        self._wake.set()
        self._task = asyncio.get_running_loop().create_task(self._run(scope))
        await self._ready.wait()
        if not self._supported:
            return None
        answer = self._answers.popleft() if self._answers else None
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            raise ExecutionError(f"the app's startup failed: {answer.get('message', '') or self._failure or 'it did not say why'}") from self._failure
        return state

    async def _run(self, scope: Message) -> None:
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as error:
            # Apps that don't know lifespan raise at once; that is how the specification has it.
            self._failure = error
            self._supported = bool(self._answers)
        finally:
            if not self._answers:
                self._supported = False
            self._ready.set()

    async def _receive(self) -> Message:
        while not self._inbox:
            self._wake.clear()
            await self._wake.wait()
        return self._inbox.popleft()

    async def _send(self, message: Message) -> None:
        self._answers.append(message)
        self._ready.set()

    async def stop(self) -> None:
        """Tell the app, and wait for it."""
        if not self._supported or self._task is None or self._task.done():
            return
        self._ready.clear()
        self._inbox.append({"type": "lifespan.shutdown"})
        self._wake.set()
        with contextlib.suppress(Exception):
            await self._ready.wait()
        self._task.cancel()
