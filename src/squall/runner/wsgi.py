"""A WSGI app (PEP 3333) as an ASGI app: it runs in threads, its body streams in and out."""

import asyncio
import concurrent.futures
import contextvars
import io
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes


class WsgiAdapter:
    """Runs each request in a thread of its own pool."""

    def __init__(self, app: Callable[..., Iterable[bytes]], threads: int) -> None:
        self._app = app
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="squall-wsgi")

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, Any]], Any]) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("WSGI has no lifespan")
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        loop = asyncio.get_running_loop()
        work = _Work(self._app, scope, receive, send, loop)
        context = contextvars.copy_context()
        running = loop.run_in_executor(self._pool, context.run, work.run)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            work.stopped = True
            await asyncio.wait([running])
            raise


class _Work:
    """One request, in its thread."""

    def __init__(self, app: Callable[..., Iterable[bytes]], scope: dict[str, Any], receive: Any, send: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._app, self._scope, self._receive, self._send, self._loop = app, scope, receive, send, loop
        self._head: dict[str, Any] | None = None
        self._begun = False
        self.stopped = False

    def run(self) -> None:
        answer = self._app(self._environ(), self._start_response)
        try:
            waiting: bytes | None = None
            for part in answer:
                if self.stopped:
                    return
                if waiting is not None:
                    self._write(waiting, more=True)
                waiting = part
            self._write(waiting or b"", more=False)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        if exc_info is not None and self._begun:
            raise exc_info[1].with_traceback(exc_info[2])
        code = int(status.split(" ", 1)[0])
        self._head = {"type": "http.response.start", "status": code, "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]}
        return lambda data: self._write(data, more=True)

    def _write(self, data: bytes, *, more: bool) -> None:
        if self._head is None:
            raise RuntimeError("the app gave a body before it called start_response")
        if not self._begun:
            self._begun = True
            self._await(self._send(self._head))
        if data or not more:
            self._await(self._send({"type": "http.response.body", "body": data, "more_body": more}))

    def _await(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _environ(self) -> dict[str, Any]:
        scope = self._scope
        root = scope["root_path"]
        path = unquote_to_bytes(scope["raw_path"].removeprefix(root.encode())).decode("latin-1")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": scope["method"],
            "SCRIPT_NAME": root.encode().decode("latin-1"),
            "PATH_INFO": path,  # bytes in the disguise of text (PEP 3333)
            "QUERY_STRING": scope["query_string"].decode("latin-1"),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": scope["server"][0],
            "SERVER_PORT": str(scope["server"][1]),
            "REMOTE_ADDR": scope["client"][0] if scope["client"] else "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scope["scheme"],
            "wsgi.input": io.BufferedReader(_Body(self)),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        for name, value in scope["headers"]:
            if b"_" in name:  # it would pass for the header with a hyphen in its place, such as one that a proxy has checked
                continue
            key = name.decode("latin-1").upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = f"HTTP_{key}"
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]},{text}" if key in environ else text
        return environ


class _Body(io.RawIOBase):
    """The request's body, read as it comes."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._data = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._data and not self._ended:
            message = self._work._await(self._work._receive())
            self._data = message.get("body", b"")
            self._ended = not message.get("more_body", False)
        size = min(len(buffer), len(self._data))
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size
