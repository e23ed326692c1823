"""One HTTP/1.1 connection from outside: strict parsing, limits, requests one after another. What becomes of a request is its handler's."""

import asyncio
import re
from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from squall.gateway.ingress.pace import Pace

if TYPE_CHECKING:
    from squall.gateway.ingress.ingress import Ingress

#: A request's head, with all its headers; nginx takes 32 KiB, Node 16.
HEAD_BYTES_MAX = 64 << 10
HEADERS_MAX = 256
TARGET_BYTES_MAX = 16 << 10
#: So long a client that was told to hang up may go on sending.
LINGER_S = 1.0
#: Requests that a client may send ahead of their answers before it is read no further.
PIPELINE_MAX = 16

Headers = list[tuple[bytes, bytes]]

#: RFC 9110, section 7.6.1: of one connection, not passed on.
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)

#: RFC 9110, section 7.2: a name or an address, and a port.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]*)?")

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Handler(Protocol):
    """One request on its way to its answer. It calls `Inbound.finished` once."""

    def start(self) -> None:
        """It is this request's turn to be answered."""
        ...

    def feed(self, data: bytes) -> None:
        """A part of the body, without its framing."""
        ...

    def complete(self) -> None:
        """The body has ended."""
        ...

    def raw(self, data: bytes) -> None:
        """After an upgrade: bytes as they are."""
        ...

    def client_gone(self) -> None:
        """The client hung up, and nobody will read an answer."""
        ...

    def client_eof(self) -> bool:
        """After an upgrade: the client sends no more. True: this side still does."""
        ...

    def write_paused(self, paused: bool) -> None:
        """The client reads too slowly."""
        ...

    @property
    def needs_body(self) -> bool:
        """Whether the client is to go on with the body: no answer has begun."""
        ...


class Request:
    """The head of a request. `target` is as the client wrote it; names of headers are in lower case, in their order."""

    __slots__ = ("chunked", "headers", "host", "http10", "keep_alive", "length", "method", "peer", "secure", "target", "upgrade")

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.headers: Headers = []
        self.host = ""
        self.peer = ""
        self.secure = False
        self.http10 = False
        self.keep_alive = True
        self.chunked = False
        self.length: int | None = None
        #: ``websocket``, when the client wants to go on with that; other offers are declined.
        self.upgrade = b""

    def header(self, name: bytes) -> bytes | None:
        """The first of that name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def words(self, name: bytes) -> set[bytes]:
        """Of all headers of that name, which are lists; in lower case."""
        return {word.strip().lower() for key, value in self.headers if key == name for word in value.split(b",")}


class Refused(Exception):
    """The request can't be taken: a status and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Inbound(asyncio.Protocol):
    """A connection. Requests are parsed as they come; each is answered before the next one starts."""

    def __init__(self, ingress: "Ingress", *, local: bool = False, inside: bool = False) -> None:
        self.ingress = ingress
        #: Through the unix socket that only the server's owner can open.
        self.local = local
        #: From a container: for it there are web functions here, and nothing else.
        self.inside = inside
        self.transport: asyncio.Transport
        self.peer = ""
        self.secure = False
        self.parser = httptools.HttpRequestParser(self)
        self.current: Handler | None = None
        self._waiting: deque[Handler] = deque()
        #: The handler whose body is being read.
        self._reading: Handler | None = None
        self._request = Request()
        self._head_bytes = 0
        #: Bytes read since the last part of a body: framing of chunks and trailers.
        self._framing_bytes = 0
        #: When the head that is being read began, and when the last answer ended; on the loop's clock.
        self.head_since: float | None = None
        self.idle_since = 0.0
        self.paused = False
        self.lost = False
        #: Whose bytes come raw: its request asked for another protocol.
        self.tunnel: Handler | None = None
        #: The parser takes the offer of another protocol for accepted: it has skipped the body, which `_decline` will have read.
        self._declined = False
        #: What the parser reads is not the client's, but says how the rest is to be read.
        self._resuming = False
        #: No request comes after the one that was read last; what is sent behind it is dropped.
        self.last = False
        self.closing = False
        self._pauses: set[object] = set()
        self.received = 0
        self.pace = Pace()
        #: It has no place of its own: it is there for a request with a token.
        self.spare = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else ""
        self.secure = transport.get_extra_info("sslcontext") is not None
        self.head_since = self.idle_since = self.ingress.now()
        self.ingress.opened(self)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.tunnel is not None:
            self.tunnel.raw(data)
            return
        if self.closing or (self.last and self._reading is None):
            return
        if self._reading is None:
            if self._head_bytes == 0:
                self.head_since = self.ingress.now()
            self._head_bytes += len(data)
            # A head and the beginning of a body may come in one piece, so only what is no whole head is too large.
            if self._head_bytes > HEAD_BYTES_MAX and b"\r\n\r\n" not in data[: HEAD_BYTES_MAX + 4]:
                self.refuse(431, f"the headers are larger than {HEAD_BYTES_MAX >> 10} KiB")
                return
        else:
            self._framing_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except Refused as refused:
            self.refuse(refused.status, refused.text)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            cause = error.__context__
            if isinstance(cause, Refused):
                self.refuse(cause.status, cause.text)
            else:
                self.refuse(400, "this is no valid request")
        else:
            # The parser keeps an unfinished trailer, and copies it for each part that comes.
            if self._framing_bytes > HEAD_BYTES_MAX and self._reading is not None:
                self.refuse(431, f"the trailer is larger than {HEAD_BYTES_MAX >> 10} KiB")

    def eof_received(self) -> bool:
        return self.tunnel is not None and self.tunnel.client_eof()

    def pause_writing(self) -> None:
        self.paused = True
        if self.current is not None:
            self.current.write_paused(True)

    def resume_writing(self) -> None:
        self.paused = False
        if self.current is not None:
            self.current.write_paused(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.ingress.lost(self)
        handlers = [*([self.current] if self.current is not None else []), *self._waiting]
        self._waiting.clear()
        for handler in handlers:
            handler.client_gone()

    # httptools

    def on_message_begin(self) -> None:
        if not self._resuming:
            self._request = Request()

    def on_url(self, url: bytes) -> None:
        if self._resuming:
            return
        self._request.target += url
        if len(self._request.target) > TARGET_BYTES_MAX:
            raise Refused(414, f"the address is longer than {TARGET_BYTES_MAX >> 10} KiB")

    def on_header(self, name: bytes, value: bytes | None) -> None:
        request = self._request
        headers = request.headers
        if self._resuming or self._reading is not None:  # a trailer is not passed on
            return
        if len(headers) >= HEADERS_MAX:
            raise Refused(431, f"more than {HEADERS_MAX} headers")
        name = name.lower()
        value = (value or b"").rstrip(b" \t")
        headers.append((name, value))
        if name == b"host":
            if sum(key == b"host" for key, _ in headers) > 1:
                raise Refused(400, "there are two Host headers")
            if _HOST.fullmatch(value) is None:
                raise Refused(400, "the Host header is no name of a host")
            request.host = value.decode("latin-1")
        elif name == b"content-length":
            request.length = int(value) if value.isdigit() else None
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise Refused(501, "of transfer encodings only chunked is understood")
            request.chunked = True
        elif name == b"upgrade":
            request.upgrade = value.lower()

    def on_headers_complete(self) -> None:
        if self._resuming:
            return
        request, parser = self._request, self.parser
        request.method = parser.get_method()
        request.http10 = parser.get_http_version() == "1.0"
        request.keep_alive = parser.should_keep_alive()
        request.peer, request.secure = self.peer, self.secure
        if request.chunked and (request.length is not None or request.http10):
            # RFC 9112, section 6.1: what it means depends on who reads it, so it means nothing here.
            raise Refused(400, "the length of the body is said in two ways")
        if request.method == b"CONNECT":
            raise Refused(405, "this is no proxy")
        if not request.host and not request.http10:
            raise Refused(400, "the Host header is missing")
        offered = parser.should_upgrade()
        if request.upgrade != b"websocket" or not offered or request.http10 or request.method != b"GET" or request.chunked or request.length:
            # RFC 9110, section 7.8: an offer that nobody has to take. curl and Java offer h2c with any request.
            request.upgrade, self._declined = b"", offered
        self.head_since, self._head_bytes, self._framing_bytes = None, 0, 0
        handler = self._reading = self.ingress.handle(self, request)
        if not request.keep_alive:
            self.last = True
        if self.current is None:
            self.current = handler
            handler.start()
        else:
            self._waiting.append(handler)
            if len(self._waiting) >= PIPELINE_MAX:
                self.pause_reading(self)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if self._reading is not None:
            self._reading.feed(body)

    def on_message_complete(self) -> None:
        if self._declined:
            return
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.complete()

    def _upgrade(self, rest: bytes) -> None:
        """The client wants to go on in another protocol: no further request can be read from here, unless that was declined."""
        if self._declined:
            self._decline(rest)
            return
        self.tunnel = self._waiting[-1] if self._waiting else self.current
        if self.tunnel is not None and rest:
            self.tunnel.raw(rest)

    def _decline(self, rest: bytes) -> None:
        """HTTP goes on. The body is read by a new parser, behind a head that says how long it is."""
        request, self._declined, self._resuming = self._request, False, True
        self.parser = httptools.HttpRequestParser(self)
        framing = b"transfer-encoding: chunked" if request.chunked else b"content-length: %d" % (request.length or 0)
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        finally:
            self._resuming = False
        if rest:
            self.data_received(rest)

    # what the ingress asks and says

    @property
    def unfinished(self) -> bool:
        """Whether it waits for its client: there is no request, or not all of one."""
        return self.current is None or self._reading is self.current

    @property
    def uploading(self) -> Handler | None:
        """The request that gets no further because its client does not go on with the body."""
        current = self.current
        return current if current is not None and self._reading is current and not self._pauses and not self.closing and current.needs_body else None

    def give_up(self, status: int, text: str) -> None:
        """The request whose body is being read is not waited for any longer."""
        handler, self.current = self.current, None
        if handler is not None:
            handler.client_gone()
        self.refuse(status, text)

    # what handlers use

    def write(self, data: bytes) -> None:
        if not self.lost:
            self.transport.write(data)

    def pause_reading(self, reason: object) -> None:
        """Read no more of this client until every `reason` is resumed. Idempotent."""
        if not self._pauses and not self.lost and not self.transport.is_closing():
            self.transport.pause_reading()
        self._pauses.add(reason)

    def resume_reading(self, reason: object) -> None:
        self._pauses.discard(reason)
        if not self._pauses and not self.lost and not self.transport.is_closing():
            self.transport.resume_reading()

    def finished(self, handler: Handler, *, keep: bool) -> None:
        """A request was answered. `keep`: the connection can take another one."""
        if self.current is not handler:
            if handler in self._waiting:
                self._waiting.remove(handler)
            return
        self.current = None
        if self.lost:
            return
        if not keep or (self.last and not self._waiting) or self._reading is handler or self.tunnel is handler:
            self._hang_up()
            return
        self.idle_since = self.ingress.now()
        if self._waiting:
            self.current = self._waiting.popleft()
            if len(self._waiting) == PIPELINE_MAX - 1:
                self.resume_reading(self)
            self.current.start()

    def refuse(self, status: int, text: str) -> None:
        """Answer what can't be understood, and hang up: where the next request begins can't be known."""
        self.closing = True
        if self.current is not None:
            # An answer is under way; whoever sends rubbish behind it gets no second one.
            handler = self.current
            self.transport.abort()
            del handler
            return
        self.write(plain(status, text, close=True))
        self._hang_up()

    def _hang_up(self) -> None:
        """Close so that the client gets the answer: closed with bytes of it unread, the kernel would send a reset, which takes what was written along."""
        self.closing = True
        if self.transport.is_closing() or self.tunnel is not None or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self._pauses.clear()
        self.transport.resume_reading()
        self.ingress.later(LINGER_S, self.transport.close)


def plain(status: int, text: str, *, close: bool = False, extra: Headers = [], head: bool = False) -> bytes:  # noqa: B006  nobody changes it
    """A whole answer of our own."""
    body = f"{text}\n".encode()
    lines = [
        b"HTTP/1.1 %d %s" % (status, REASONS.get(status, b"")),
        b"content-type: text/plain; charset=utf-8",
        b"content-length: %d" % len(body),
        b"date: " + now_header(),
        *(b"%s: %s" % pair for pair in extra),
    ]
    if close:
        lines.append(b"connection: close")
    return b"\r\n".join([*lines, b"", b"" if head else body])


def now_header() -> bytes:
    """The time, as HTTP wants it (RFC 9110, section 5.6.7)."""
    return formatdate(usegmt=True).encode()
