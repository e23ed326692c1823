"""Websockets of an ASGI app: frames of RFC 6455 to messages and back. No extensions are offered, so none is negotiated."""

import asyncio
import base64
import hashlib
import struct
import sys
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any

from squall.runner import prints
from squall.runner.context import current_input

if TYPE_CHECKING:
    from squall.runner.asgi import HttpConnection

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION = b"13"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
#: As uvicorn has it.
MESSAGE_BYTES_MAX = 16 << 20
#: Bytes that the app has not received yet, before the client is read no further.
WAITING_BYTES_MAX = 1 << 20
#: Time for the peer to answer a close.
CLOSE_S = 10.0


class ProtocolError(Exception):
    """The peer broke the protocol; `code` is the close code for it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class WebSocketCycle:
    """One websocket, from its handshake to its close."""

    def __init__(self, connection: "HttpConnection", scope: dict[str, Any], call: str) -> None:
        self.connection, self.call = connection, call
        headers = scope["headers"]
        self._key = next((value for name, value in headers if name == b"sec-websocket-key"), b"")
        self._version = next((value for name, value in headers if name == b"sec-websocket-version"), b"")
        offered = b",".join(value for name, value in headers if name == b"sec-websocket-protocol")
        scope = {
            **scope,
            "type": "websocket",
            "scheme": "wss" if scope["scheme"] == "https" else "ws",
            "subprotocols": [part.strip().decode("latin-1") for part in offered.split(b",") if part.strip()],
            "extensions": {"websocket.http.response": {}},
        }
        del scope["method"]
        self._scope = scope
        self._messages: deque[dict[str, Any]] = deque([{"type": "websocket.connect"}])
        self._waiting_bytes = 0
        self._wake: asyncio.Event | None = None
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._kind = 0
        self._open = False
        self._refused: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._closed = False  # a close frame went out
        self._told = False  # the app has been told of the end
        self._left = False
        self.task = connection.loop.create_task(self._run())

    async def _run(self) -> None:
        if self.call:
            current_input.set((self.call, 0))
        transport = self.connection.transport
        if self._version != VERSION or not self._key:  # RFC 6455, section 4.2.2
            self._refuse(426 if self._key else 400, [(b"sec-websocket-version", VERSION)], b"")
            return
        failed = False
        try:
            await self.connection.app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            failed = True
        except BaseException:
            failed = True
            if not self._left:
                traceback.print_exc(file=sys.stderr)
        prints.flush()
        if self._left or transport.is_closing():
            transport.close()
        elif not self._open:
            if self._refused is None:
                self._refuse(500 if failed else 403, [], b"")
            transport.close()
        elif not self._closed:
            self._close(1011 if failed else 1000, "")
            self.connection.loop.call_later(CLOSE_S, transport.close)
        else:
            self.connection.loop.call_later(CLOSE_S, transport.close)

    # the app's side

    async def _receive(self) -> dict[str, Any]:
        while not self._messages:
            self._wake = asyncio.Event()
            await self._wake.wait()
            self._wake = None
        message = self._messages.popleft()
        size = len(message.get("text") or message.get("bytes") or "")
        if size:
            if self._waiting_bytes > WAITING_BYTES_MAX >= self._waiting_bytes - size and not self._left:
                self.connection.transport.resume_reading()
            self._waiting_bytes -= size
        return message

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.send":
            if self._closed or self._left:
                raise OSError("the websocket is closed")
            text = message.get("text")
            self._frame(TEXT, text.encode()) if text is not None else self._frame(BINARY, message.get("bytes") or b"")
            if self.connection.writable is not None:
                await self.connection.writable.wait()
        elif kind == "websocket.close":
            if not self._open:
                self._refuse(403, [], b"")
            elif not self._closed:
                self._close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.http.response.start":
            self._refused = (message["status"], list(message.get("headers", ())))
        elif kind == "websocket.http.response.body" and self._refused is not None:
            self._refuse(*self._refused, message.get("body", b""), more=bool(message.get("more_body")))

    def _accept(self, message: dict[str, Any]) -> None:
        if self._open:
            raise RuntimeError("websocket.accept was sent twice")
        self._open = True
        answer = base64.b64encode(hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest())
        lines = [b"HTTP/1.1 101 Switching Protocols", b"upgrade: websocket", b"connection: Upgrade", b"sec-websocket-accept: " + answer]
        if message.get("subprotocol"):
            lines.append(b"sec-websocket-protocol: " + message["subprotocol"].encode())
        lines += [b"%b: %b" % (name, value) for name, value in message.get("headers", ())]
        self.connection.transport.write(b"\r\n".join(lines) + b"\r\n\r\n")
        self._parse()

    def _refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, more: bool = False) -> None:
        if self._refused is None or not self._told:
            self._refused, self._told = (status, headers), True
            lines = [b"HTTP/1.1 %d " % status, b"connection: close", *(b"%b: %b" % pair for pair in headers if pair[0].lower() != b"content-length")]
            self.connection.transport.write(b"\r\n".join(lines) + b"\r\n\r\n")
        if body:
            self.connection.transport.write(body)
        if not more:
            self.connection.transport.close()

    def _tell(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        if self._wake is not None:
            self._wake.set()

    def _end(self, code: int, reason: str) -> None:
        if not self._told:
            self._told = True
            self._tell({"type": "websocket.disconnect", "code": code, "reason": reason})

    # the peer's side

    def feed(self, data: bytes) -> None:
        self._buffer += data
        if self._open:
            self._parse()
        elif len(self._buffer) > WAITING_BYTES_MAX:
            self.connection.transport.pause_reading()

    def client_left(self) -> bool:
        """The connection ended without a close, or after one. True: it stays half open until the app has ended."""
        if self._left:
            return False
        self._left = True
        self._end(1006, "")
        self.connection.resume_writing()
        if self.task.done():
            self.connection.transport.close()
            return False
        if not self._open:
            self.task.cancel()
        return True

    def _parse(self) -> None:
        try:
            while self._one_frame():
                pass
        except ProtocolError as error:
            if not self._closed:
                self._close(error.code, str(error))
            self._end(error.code, str(error))
            self.connection.transport.close()

    def _one_frame(self) -> bool:
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        first, second = buffer[0], buffer[1]
        final, kind, size, place = bool(first & 0x80), first & 0x0F, second & 0x7F, 2
        if first & 0x70:
            raise ProtocolError(1002, "reserved bits are set")
        if not second & 0x80:
            raise ProtocolError(1002, "a frame from the client is not masked")
        if size == 126:
            if len(buffer) < 4:
                return False
            size, place = int.from_bytes(buffer[2:4], "big"), 4
        elif size == 127:
            if len(buffer) < 10:
                return False
            size, place = int.from_bytes(buffer[2:10], "big"), 10
        if kind >= 8 and (size > 125 or not final):
            raise ProtocolError(1002, "a control frame is too long or in pieces")
        if size + self._parts_bytes > MESSAGE_BYTES_MAX:
            raise ProtocolError(1009, f"a message is larger than {MESSAGE_BYTES_MAX >> 20} MiB")
        if len(buffer) < place + 4 + size:
            return False
        payload = unmask(bytes(buffer[place + 4 : place + 4 + size]), bytes(buffer[place : place + 4]))
        del buffer[: place + 4 + size]
        if kind >= 8:
            return self._control(kind, payload)
        if kind not in (0, TEXT, BINARY) or (kind == 0) != bool(self._kind):
            raise ProtocolError(1002, "an unexpected kind of frame")
        self._kind = kind or self._kind
        self._parts.append(payload)
        self._parts_bytes += size
        if final:
            self._message()
        return True

    def _message(self) -> None:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        kind, self._kind, self._parts, self._parts_bytes = self._kind, 0, [], 0
        if kind == TEXT:
            try:
                message: dict[str, Any] = {"type": "websocket.receive", "text": data.decode()}
            except UnicodeDecodeError:
                raise ProtocolError(1007, "a text is not UTF-8") from None
        else:
            message = {"type": "websocket.receive", "bytes": data}
        self._waiting_bytes += len(message.get("text") or data)
        if self._waiting_bytes > WAITING_BYTES_MAX:
            self.connection.transport.pause_reading()
        self._tell(message)

    def _control(self, kind: int, payload: bytes) -> bool:
        if kind == PING:
            if not self._closed:
                self._frame(PONG, payload)
            return True
        if kind == PONG:
            return True
        if kind != CLOSE:
            raise ProtocolError(1002, "an unknown kind of frame")
        code, reason = 1005, ""
        if payload:
            if len(payload) == 1:
                raise ProtocolError(1002, "a close without a whole code")
            code = int.from_bytes(payload[:2], "big")
            if not (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) and not 3000 <= code <= 4999:
                raise ProtocolError(1002, "a close code that nobody may send")
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                raise ProtocolError(1007, "the reason of a close is not UTF-8") from None
        if not self._closed:
            self._close(code if code != 1005 else None, reason)
        self._end(code, reason)
        if self.task.done():
            self.connection.transport.close()
        else:
            self.connection.loop.call_soon(self._close_when_done)
        return False

    def _close_when_done(self) -> None:
        self.task.add_done_callback(lambda _: self.connection.transport.close())

    def _close(self, code: int | None, reason: str) -> None:
        self._closed = True
        self._frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode()[:123])

    def _frame(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | kind, size))
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x80 | kind, 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | kind, 127, size)
        self.connection.transport.write(head + payload)


def unmask(data: bytes, mask: bytes) -> bytes:
    """XOR with the mask, over and over (RFC 6455, section 5.3). As one number: a megabyte takes a millisecond, byte by byte it would take a hundred."""
    size = len(data)
    whole = int.from_bytes(data, "big") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return whole.to_bytes(size, "big")
