"""One web request as an input of its function: from the client's connection to a container and back, streaming both ways."""

from typing import TYPE_CHECKING, Any

import httptools
import msgspec

from squall.control.apps.web_routes import WebRoute
from squall.control.calls.input import RoutedInput
from squall.control.calls.pool import Pool
from squall.control.calls.pool_container import Member
from squall.core.calls.endings import STOP_GRACE_S, kill_container
from squall.gateway.ingress.connection import HEAD_BYTES_MAX, HOP_BY_HOP, REASONS, Headers, Inbound, Request, plain
from squall.model.errors import Error, FunctionTimeoutError, ImageBuildError, OutOfMemoryError, ResourceExhaustedError, rebuild
from squall.model.states import InputState
from squall.wire.messages import CANCELLED, FAILED, OK, Call, Fault, Output, Result
from squall.worker.containers.web_connections import WebLink, WebLinks

if TYPE_CHECKING:
    from squall.gateway.ingress.ingress import Ingress

#: A request up to this size is kept until its answer begins, so that it can be sent to another container when its own is lost.
REPLAY_BYTES_MAX = 64 << 10
#: How long the end of a connection waits for the news of its container's end, which says why.
REASON_WAIT_S = 0.25
#: Methods that may be sent twice (RFC 9110, section 9.2.2).
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})
#: What clients must not be able to say about themselves, unless a proxy that we trust does.
FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix", b"forwarded"})
SECRETS = frozenset({b"modal-key", b"modal-secret", b"squall-key", b"squall-secret"})
#: A client may not have these taken away as of its connection only: without its length, a body would be read as the next request.
END_TO_END = frozenset({b"content-length", b"host"})
#: For Squall's own server in the container: the call's id, and the method of a class.
CALL_HEADER = b"x-squall-call"

#: Of what a request names as its session; it is remembered.
SESSION_BYTES_MAX = 200


class Exchange(RoutedInput):
    """A web request. To its pool it is an input like any other, to its connection a handler, to its container's connection the user."""

    def __init__(self, ingress: "Ingress", conn: Inbound, request: Request, route: WebRoute, pool: Pool, target: bytes, prefix: bytes, call: str) -> None:
        super().__init__(Call(0, route.function, call, 0, b"", route.method), pool, self, ingress.now())
        self.ingress, self.conn, self.request_head, self.route = ingress, conn, request, route
        self.session = (request.header(b"modal-session-id") or request.header(b"modal-routing-affinity-key") or b"")[:SESSION_BYTES_MAX]
        #: The router's `Caller`: always there, since who it asks for is told otherwise.
        self.gone = False
        self.head = self._make_head(request, target, prefix)
        #: Parts of the body, framed as they are sent on; `kept` is what was sent already and could be sent again (None: too large).
        self.pending: list[bytes] = []
        self.kept: list[bytes] | None = []
        self.kept_bytes = 0
        self.body_done = False
        #: Its turn has come; it was given to its pool, which it is when more of its body than this has come, or all.
        self.due = self.submitted = False
        self.wanted_bytes = REPLAY_BYTES_MAX if not request.chunked and (request.length or 0) <= REPLAY_BYTES_MAX else 0
        self.paused_client = False
        self.link: WebLink | None = None
        self.response: httptools.HttpResponseParser | None = None
        self.status = 0
        self.reason = b""
        self.resp_headers: Headers = []
        #: Bytes of the answer since its last part of a body: heads, framing of chunks, trailers.
        self.framing_bytes = 0
        #: A container got it; it may have done something.
        self.handed = False
        self.retried = self.reusable = False
        self.head_sent = self.send_chunked = self.bare = False
        self.done = self.link_done = self.client_left = self.tunnel = False
        self.raw_waiting: list[bytes] = []
        self.keep = request.keep_alive and not request.upgrade

    @property
    def survives(self) -> bool:
        return False

    @property
    def failure(self) -> str | None:
        return f"answered {self.status} {self.reason.decode('latin-1')}".rstrip() if self.status >= 500 else None

    def _make_head(self, request: Request, target: bytes, prefix: bytes) -> bytes:
        trusted = self.ingress.trusts(request.peer)
        lines = [b"%s %s HTTP/1.1" % (request.method, target)]
        named = request.words(b"connection") - END_TO_END
        forwarded_for = b""
        given: set[bytes] = set()
        for name, value in request.headers:
            if name in FORWARDED:
                if not trusted:
                    continue
                given.add(name)
                if name == b"x-forwarded-for":
                    forwarded_for = value + b", "
                    continue
            if name in HOP_BY_HOP or name in named or name in SECRETS or name == b"expect" or name == CALL_HEADER:
                continue
            lines.append(b"%s: %s" % (name, value))
        if not request.host:
            lines.append(b"host: localhost")
        lines.append(b"x-forwarded-for: " + forwarded_for + request.peer.encode())
        if b"x-forwarded-proto" not in given:
            lines.append(b"x-forwarded-proto: https" if request.secure else b"x-forwarded-proto: http")
        if b"x-forwarded-host" not in given:
            lines.append(b"x-forwarded-host: " + request.host.encode("latin-1"))
        if prefix:
            lines.append(b"x-forwarded-prefix: " + prefix)
        if self.route.web.kind != "server":
            lines.append(b"%s: %s %s" % (CALL_HEADER, self.call.call.encode(), self.route.method.encode()))
        if request.chunked:
            lines.append(b"transfer-encoding: chunked")
        if request.upgrade:
            lines.append(b"connection: Upgrade")
            lines.append(b"upgrade: " + request.upgrade)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # Handler: the client's side

    def start(self) -> None:
        self.due = True
        request = self.request_head
        if self.body_done or self.kept_bytes > self.wanted_bytes or not (request.chunked or request.length):
            self._submit()
        elif (request.header(b"expect") or b"").lower() == b"100-continue" and not request.http10:
            self.conn.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _submit(self) -> None:
        self.submitted = True
        self.ingress.submit(self)

    @property
    def needs_body(self) -> bool:
        return not self.head_sent and not self.done

    def feed(self, data: bytes) -> None:
        self._to_container(b"%x\r\n%b\r\n" % (len(data), data) if self.request_head.chunked else data)
        if self.due and not self.submitted and self.kept_bytes > self.wanted_bytes:
            self._submit()

    def complete(self) -> None:
        self.body_done = True
        if self.request_head.chunked:
            self._to_container(b"0\r\n\r\n")
        if self.due and not self.submitted and not self.done:
            self._submit()

    def _to_container(self, data: bytes) -> None:
        if self.done:
            return
        if self.kept is not None:
            self.kept_bytes += len(data)
            if self.kept_bytes <= REPLAY_BYTES_MAX:
                self.kept.append(data)
            elif self.link is not None:
                self.kept = None
        if self.link is not None:
            self.link.transport.write(data)
        else:
            self.pending.append(data)
            if self.kept_bytes > REPLAY_BYTES_MAX:
                self._pause_client()

    def _pause_client(self) -> None:
        if not self.paused_client:
            self.paused_client = True
            self.conn.pause_reading(self)

    def _resume_client(self) -> None:
        if self.paused_client:
            self.paused_client = False
            self.conn.resume_reading(self)

    def raw(self, data: bytes) -> None:
        if self.tunnel and self.link is not None:
            self.link.transport.write(data)
        elif not self.done:
            self.raw_waiting.append(data)
            self.kept_bytes += len(data)
            if self.kept_bytes > REPLAY_BYTES_MAX:
                self._pause_client()

    def client_eof(self) -> bool:
        if self.tunnel and self.link is not None:
            if self.link.transport.can_write_eof():
                self.link.transport.write_eof()
            return True
        return False

    def client_gone(self) -> None:
        """Nobody reads an answer: queued, it is forgotten; running, its code is told."""
        if self.done and self.state is not InputState.RUNNING:
            return
        self.client_left = self.done = True
        if not self.submitted:
            return
        if self.state is InputState.QUEUED:
            self.pool.cancel(self)
        elif self.state is InputState.RUNNING:
            self._hang_up()

    def write_paused(self, paused: bool) -> None:
        if self.link is not None and not self.link.lost:
            if paused:
                self.link.transport.pause_reading()
            else:
                self.link.transport.resume_reading()

    def turn_away(self, text: str) -> None:
        """Its pool does not take it."""
        self._answer(503, text, [(b"retry-after", b"1")])

    # Input: the pool's side

    def begin(self, member: Member) -> None:
        self.link_done = False
        if self.handed and (self.kept is None or self.head_sent or self.request_head.method not in IDEMPOTENT):
            self.ingress.soon(self._end, FAILED)
            self._answer(502, "the container was lost while it worked at this request")
            return
        self._links(member).acquire(self, fresh=self.route.web.kind == "server" and self.request_head.method not in IDEMPOTENT)

    def _links(self, member: Member) -> WebLinks:
        links = self.ingress.server.agent.web_links(member.id)
        assert links is not None, "what a container runs ends before its agent forgets it"
        return links

    def halt(self, member: Member) -> None:
        """It ran out of time, or its app ends."""
        if self.pending_error is not None:
            self._fail(self.pending_error)
        else:
            self._answer(503, "the function is stopped")
        self._hang_up()

    def send(self, message: Any) -> None:
        """The pool's last word, for what did not end by itself."""
        if self.done or not isinstance(message, Output):
            return
        if message.status == FAILED:
            try:
                fault = msgspec.msgpack.decode(message.data, type=Fault)
                self._fail(rebuild(fault.code, fault.message, fault.details))
            except msgspec.DecodeError:
                self._answer(500, "the container could not start")
        elif message.status == CANCELLED:
            self._answer(503, "the function is stopped")
        else:
            self._answer(500, "the container could not start; its log says why")

    # LinkUser: the container's side

    def link_ready(self, link: WebLink) -> None:
        if self.done:
            link.links.release(link, reusable=True)
            self._end(CANCELLED)
            return
        self.link = link
        self._resume_client()
        self.response = httptools.HttpResponseParser(self)
        if self.handed and self.kept is not None:
            link.transport.write(b"".join([self.head, *self.kept]))
        else:
            link.transport.write(b"".join([self.head, *self.pending]) if self.pending else self.head)
            if self.kept_bytes > REPLAY_BYTES_MAX:
                self.kept = None
        self.handed, self.pending = True, []
        if self.conn.paused:
            link.transport.pause_reading()

    def link_paused(self, paused: bool) -> None:
        if paused:
            self._pause_client()
        else:
            self._resume_client()

    def link_data(self, data: bytes) -> None:
        if self.tunnel:
            self.conn.write(data)
            return
        if self.response is None:  # the answer was refused; what still comes of it is dropped
            return
        self.framing_bytes += len(data)
        out: list[bytes] = []
        self.ingress.out = out
        try:
            self.response.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if out:
                self.conn.write(b"".join(out))
            self._open_tunnel(data[upgrade.args[0] :])
            return
        except (httptools.HttpParserError, httptools.HttpParserCallbackError):
            if out:
                self.conn.write(b"".join(out))
            if self.link_done:  # what comes behind a whole answer is dropped with the connection that it came by
                self.reusable = False
                self._over()
            else:
                self._bad_answer("the container answered with what is no HTTP")
            return
        if out:
            self.conn.write(out[0] if len(out) == 1 else b"".join(out))
        if self.link_done and self.link is not None:
            self._over()
        elif self.framing_bytes > HEAD_BYTES_MAX:
            self._bad_answer(f"the container answered with headers or a trailer larger than {HEAD_BYTES_MAX >> 10} KiB")

    def link_eof(self) -> bool:
        if self.tunnel:
            if not self.conn.lost and self.conn.transport.can_write_eof():
                self.conn.transport.write_eof()
                return True
            return False
        return False

    def link_lost(self) -> None:
        self.link = None
        if self.link_done or self.state is not InputState.RUNNING:
            return
        if self.client_left or self.pending_error is not None:
            self._end(CANCELLED)
        elif self.tunnel:
            self.done = True
            self.conn.finished(self, keep=False)
            self._end(OK)
        elif self.head_sent and self.bare and not self.client_left:
            # Its body ended with the connection (RFC 9112, section 6.3).
            self._finish_body()
            self._over()
        else:
            token = self.token
            self.ingress.later(REASON_WAIT_S, lambda: self._unexplained(token))

    def _unexplained(self, token: int) -> None:
        """The container is still there: it closed only this connection."""
        member = self.member
        if self.token != token or self.state is not InputState.RUNNING or member is None or token not in member.running:
            return
        if not self.head_sent and not self.retried and not self.done and self.kept is not None and self.request_head.method in IDEMPOTENT:
            self.retried = True
            self._links(member).acquire(self, fresh=True)
            return
        self._bad_answer("the container hung up before it had answered")

    # httptools, for the answer

    def on_status(self, reason: bytes) -> None:
        self.reason = reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.resp_headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.link_done:
            raise ValueError("a second answer")
        assert self.response is not None
        request = self.request_head
        status = self.status = self.response.get_status_code()
        headers, self.resp_headers = self.resp_headers, []
        self.framing_bytes = 0
        out = self.ingress.out
        if status == 101:
            if not request.upgrade:
                raise ValueError("a protocol that nobody asked for")
            lines = [b"HTTP/1.1 101 Switching Protocols"]
            lines += [b"%s: %s" % pair for pair in headers]
            out.append(b"\r\n".join(lines) + b"\r\n\r\n")
            self.head_sent = True
            return
        lines = [b"HTTP/1.1 %d %s" % (status, self.reason or REASONS.get(status, b""))]
        framed = dated = False
        named = {word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")}
        named -= END_TO_END
        for name, value in headers:
            lower = name.lower()
            if lower in HOP_BY_HOP or lower in named:
                continue
            if lower == b"content-length":
                framed = True
            elif lower == b"date":
                dated = True
            lines.append(b"%s: %s" % (name, value))
        if status < 200:
            if not request.http10:
                out.append(b"\r\n".join(lines) + b"\r\n\r\n")
            return
        empty = request.method == b"HEAD" or status in (204, 304)
        if not dated:
            lines.append(b"date: " + self.ingress.date)
        if not framed and not empty:
            chunked = any(name.lower() == b"transfer-encoding" for name, _ in headers)
            self.bare = not chunked
            if request.http10:
                self.keep = False
            else:
                self.send_chunked = True
                lines.append(b"transfer-encoding: chunked")
        if not self.body_done:
            self.keep = False
        if not self.keep:
            lines.append(b"connection: close")
        elif request.http10:
            lines.append(b"connection: keep-alive")
        out.append(b"\r\n".join(lines) + b"\r\n\r\n")
        self.head_sent = True
        # Asked now: when the message is complete, the parser has forgotten it.
        self.reusable = self.response.should_keep_alive()
        self.kept = None
        if empty:
            self.link_done = True
            if self.route.web.kind == "server":
                self.reusable = False  # servers there are that send a body all the same: it would be the beginning of the next answer

    def on_body(self, body: bytes) -> None:
        self.framing_bytes = 0
        if self.link_done:
            return
        out = self.ingress.out
        if self.send_chunked:
            out.append(b"%x\r\n" % len(body))
            out.append(body)
            out.append(b"\r\n")
        else:
            out.append(body)

    def on_message_complete(self) -> None:
        if self.status >= 200 and not self.link_done:
            self.link_done = True
            if self.send_chunked:
                self.ingress.out.append(b"0\r\n\r\n")

    # ends

    def _open_tunnel(self, rest: bytes) -> None:
        self.tunnel = True
        if rest:
            self.conn.write(rest)
        waiting, self.raw_waiting = self.raw_waiting, []
        if waiting and self.link is not None:
            self.link.transport.write(b"".join(waiting))
        self._resume_client()

    def _finish_body(self) -> None:
        self.link_done = True
        if self.send_chunked:
            self.conn.write(b"0\r\n\r\n")

    def _over(self) -> None:
        """The answer is complete."""
        link, self.link = self.link, None
        self.done = True
        if link is not None:
            link.links.release(link, reusable=self.body_done and self.reusable and not self.bare)
        self._resume_client()
        self._end(OK)
        self.conn.finished(self, keep=self.keep and self.body_done)

    def _bad_answer(self, text: str) -> None:
        self.response = None
        self._answer(502, text)
        self._hang_up()

    def _fail(self, error: Error) -> None:
        status, extra = 500, []
        if isinstance(error, FunctionTimeoutError):
            status = 504
        elif isinstance(error, ResourceExhaustedError):
            status, extra = 503, [(b"retry-after", b"5")]
        elif isinstance(error, OutOfMemoryError | ImageBuildError):
            status = 500
        self._answer(status, str(error), extra)

    def _answer(self, status: int, text: str, extra: Headers | None = None) -> None:
        """Our own answer; when the container's has begun, the connection breaks off, so that the client can't take half of it for all."""
        if self.done:
            return
        self.done = True
        if self.head_sent:
            if not self.conn.lost:
                self.conn.transport.abort()
            return
        self.keep = self.keep and self.body_done
        self.conn.write(plain(status, text, close=not self.keep, extra=extra or [], head=self.request_head.method == b"HEAD"))
        self._resume_client()
        self.conn.finished(self, keep=self.keep)

    def _hang_up(self) -> None:
        """Tell the container that nobody wants the rest. It closes the connection when its code has stopped."""
        link, token, member = self.link, self.token, self.member
        if member is None or self.state is not InputState.RUNNING:
            return
        if link is None:
            if self in (links := self._links(member))._waiting:
                links.give_up(self)
                self._end(CANCELLED)
            return
        link.transport.resume_reading()
        if link.transport.can_write_eof() and not link.transport.is_closing():
            link.transport.write_eof()
        self.ingress.later(STOP_GRACE_S, lambda: self._insist(token))

    def _insist(self, token: int) -> None:
        """Its code goes on: where it has a container to itself, that ends; elsewhere its place is taken for free."""
        member = self.member
        if self.token != token or member is None or token not in member.running:
            return
        link, self.link = self.link, None
        if link is not None:
            link.user = None
            link.transport.abort()
        if member.pool.limit == 1:
            member.pool.feed(kill_container, member, "its request did not stop")
        else:
            self._end(CANCELLED)

    def _end(self, status: int) -> None:
        """Its place in the container is free."""
        member = self.member
        if member is None or self.token not in member.running:
            return
        member.pool.result(member, Result(self.token, status, b"" if status != FAILED else _LOST, self.ingress.now() - self.started))


_LOST = msgspec.msgpack.encode(Fault(0, "internal_failure", "the container was lost while it worked at this request"))
