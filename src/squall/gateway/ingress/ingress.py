"""The HTTP door: listens, finds the web function of a request, and holds the request until a container has it."""

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import os
import ssl
import time
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from squall.gateway.auth.unauthenticated import Strangers, TlsDoor, counted, last_descriptors
from squall.gateway.ingress.connection import Handler, Headers, Inbound, Request, now_header, plain
from squall.gateway.ingress.pace import ANSWER_WINDOW_S, BODY_RATE, BODY_WINDOW_S
from squall.gateway.ingress.places import Places
from squall.gateway.ingress.web_proxy import Exchange
from squall.gateway.rpc.deployments import digest
from squall.model.errors import Error, InvalidError, ResourceExhaustedError
from squall.model.ids import CALL, make_id
from squall.runtime.firewall import FirewallError

if TYPE_CHECKING:
    from squall.control.apps.web_routes import WebRoute
    from squall.control.calls.pool import Pool
    from squall.gateway.server import Server

log = logging.getLogger(__name__)

USUAL_PORT = 8484
#: Requests that wait for one function; beyond it the answer is 503 at once. SQUALL_WEB_QUEUE sets another number.
QUEUE_MAX = 1_000
#: Connections at a time: half of a usual limit of descriptors (20,000), since each request has two. SQUALL_WEB_CONNECTIONS sets another number.
CONNECTIONS_MAX = 8_000
#: Of one address. SQUALL_WEB_PER_ADDRESS sets another number; those of SQUALL_WEB_TRUST have no limit of their own.
PER_ADDRESS_MAX = 2_000
#: A head must be there within this (slow-loris), and a connection without a request is kept for this.
HEAD_S, IDLE_S = 20.0, 75.0
SWEEP_S = 1.0


class Ingress:
    """Of one server. It listens only when asked to, which the first web function does."""

    def __init__(self, server: "Server", where: tuple[str, int] | None, *, domain: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.server = server
        self.now, self.soon, self.later = loop.time, loop.call_soon, loop.call_later
        self._loop = loop
        self._where, self._domain, self._tls = where, domain or "localhost", tls
        self._strangers = Strangers()
        self._listening: asyncio.Server | TlsDoor | None = None
        self._local: asyncio.Server | None = None
        self._inside: asyncio.Server | None = None
        self._lock = asyncio.Lock()
        self._connections: set[Inbound] = set()
        self._queue_max = int(os.environ.get("SQUALL_WEB_QUEUE", QUEUE_MAX))
        self._places = Places(int(os.environ.get("SQUALL_WEB_CONNECTIONS", CONNECTIONS_MAX)), int(os.environ.get("SQUALL_WEB_PER_ADDRESS", PER_ADDRESS_MAX)))
        self._body_s = float(os.environ.get("SQUALL_WEB_BODY_S", BODY_WINDOW_S))
        self._answer_s = float(os.environ.get("SQUALL_WEB_ANSWER_S", ANSWER_WINDOW_S))
        self._head_s = float(os.environ.get("SQUALL_WEB_HEAD_S", HEAD_S))
        #: Reached from this machine only, and by no name that its owner gave.
        self._own_names_only = domain is None and (where is None or _loopback(where[0]))
        self._trusted = tuple(ipaddress.ip_network(text.strip()) for text in os.environ.get("SQUALL_WEB_TRUST", "").split(",") if text.strip())
        server.web.public = public_url(os.environ)
        self._public_host = urlsplit(server.web.public).hostname or ""
        self._sweeper: asyncio.TimerHandle | None = None
        #: Of web functions with a limit, by function and method.
        self._limits: dict[tuple[str, str], Bucket] = {}
        #: What the answer being parsed writes; set by the exchange that parses.
        self.out: list[bytes] = []
        self.date = now_header()
        self.closing = False

    # listening

    async def listen(self) -> str:
        """The base URL, for example ``http://localhost:8484``; listens from now on.

        Raises:
            ResourceExhaustedError: the port that was asked for is taken.
        """
        async with self._lock:
            if self._listening is None:
                self._listening = await self._bind()
                await self._listen_inside()
            host, port = self._listening.sockets[0].getsockname()[:2]
            scheme, usual = ("https", 443) if self._tls is not None else ("http", 80)
            url = f"{scheme}://{self._domain}" if port == usual else f"{scheme}://{self._domain}:{port}"
            if f"web {host}:{port}" not in self.server.listening:
                self.server.listening.append(f"web {host}:{port}")
                log.info("web functions at %s", url)
            return url

    def seen_at(self, host: str) -> str:
        """Where a client reaches it that reaches this machine at `host`; empty where the usual addresses do, or none."""
        if self.server.web.public or self._domain != "localhost" or self._own_names_only or self._listening is None:
            return ""
        port, scheme = self._listening.sockets[0].getsockname()[1], "https" if self._tls is not None else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def _listen_inside(self) -> None:
        """Also where containers reach it, who have no other way to this machine."""

        async def listen(host: str) -> int:
            for port in (int(self._listening.sockets[0].getsockname()[1]) if self._listening is not None else 0, 0):
                with contextlib.suppress(OSError):  # taken there, or listened at on every address
                    self._inside = await self._loop.create_server(lambda: Inbound(self, inside=True), host, port, backlog=1024)
                    return int(self._inside.sockets[0].getsockname()[1])
            raise ResourceExhaustedError(f"no port is free at {host}")

        try:
            if (place := await self.server.driver.admit(listen)) is not None:
                self.server.web.inside = f"http://{place}"
        except (Error, FirewallError) as error:
            log.warning("containers can't reach web functions: %s", error)

    async def listen_local(self, path: Path) -> None:
        """Also on a unix socket that only this user can open; who opens it needs no token for the API."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._local = await self._loop.create_unix_server(lambda: Inbound(self, local=True), str(path), backlog=1024)
        finally:
            os.umask(mask)
        self._sweep()
        self.server.listening.append(f"http+unix://{path}")

    async def _bind(self) -> asyncio.Server | TlsDoor:
        """At the place that was asked for; else at the one of last time, the usual one, or any that is free."""
        if self._where is not None and self._where[1]:
            try:
                return await self._listen_at(*self._where)
            except OSError as error:
                raise ResourceExhaustedError(f"web functions can't be reached at {self._where[0]}:{self._where[1]}: {error.strerror or error}") from error
        host = self._where[0] if self._where is not None else "127.0.0.1"
        remembered = self.server.data / "web.port"
        last = int(remembered.read_text()) if remembered.exists() else (0 if self._where is not None else USUAL_PORT)
        for port in dict.fromkeys((last, 0)):
            try:
                server = await self._listen_at(host, port)
            except OSError:
                continue
            _remember(remembered, server.sockets[0].getsockname()[1])
            return server
        raise ResourceExhaustedError(f"no port is free at {host} for web functions")

    async def _listen_at(self, host: str, port: int) -> asyncio.Server | TlsDoor:
        if self._tls is not None:
            return TlsDoor(host, port, self._tls, self._strangers, lambda: Inbound(self))
        return await self._loop.create_server(lambda: Inbound(self), host, port, backlog=1024)

    def stop_accepting(self) -> None:
        """The server ends: no new connection, no new request."""
        self.closing = True
        for listening in (self._listening, self._local, self._inside):
            if listening is not None:
                listening.close()

    def close(self) -> None:
        """Hang up."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for conn in list(self._connections):
            conn.transport.close()

    def opened(self, conn: Inbound) -> None:
        if not conn.local and last_descriptors(conn.transport):
            conn.transport.abort()
            return
        self._connections.add(conn)
        if self.closing or not (conn.local or self._places.take(conn, "" if self.trusts(conn.peer) else counted(conn.peer))):
            conn.refuse(503, "too many connections")

    def lost(self, conn: Inbound) -> None:
        self._connections.discard(conn)
        self._places.leave(conn)

    def _sweep(self) -> None:
        """Once a second: the date, heads and bodies that never end, answers that nobody reads, connections that nobody uses."""
        self.date = now_header()
        now = self.now()
        for conn in list(self._connections):
            if conn.pace.unread(conn.transport, conn.paused or conn.closing or conn.transport.is_closing(), now, self._answer_s):
                conn.transport.abort()
                continue
            if conn.pace.body_too_slow(conn.uploading, conn.received, now, self._body_s):
                conn.give_up(408, f"the body came slower than {BODY_RATE} bytes a second")
                continue
            if conn.current is not None or conn.tunnel is not None:
                continue
            if conn.head_since is not None and now - conn.head_since > (self._head_s if conn._head_bytes else IDLE_S):
                conn.refuse(408, f"no whole request within {self._head_s:g} s")
            elif conn.head_since is None and now - conn.idle_since > IDLE_S:
                conn.transport.close()
        self._sweeper = self.later(SWEEP_S, self._sweep)

    def trusts(self, peer: str) -> bool:
        """Whether this peer is a proxy whose X-Forwarded-* headers count (SQUALL_WEB_TRUST: its networks)."""
        return bool(self._trusted) and bool(peer) and any(ipaddress.ip_address(peer) in network for network in self._trusted)

    # requests

    def handle(self, conn: Inbound, request: Request) -> Handler:
        """Who answers it."""
        if conn.spare and not self._shows_token(request):
            return Refusal(conn, request, 503, "too many connections; some are kept for requests with a token", [(b"retry-after", b"1")])
        target, prefix = request.target, b""
        if target.startswith((b"http://", b"https://")):
            target = _origin_form(request)
        route = self.server.web.find(request.host) if request.host else None
        if route is None and target.startswith(b"/web/"):
            label, slash_, rest = target[5:].partition(b"/")
            label, question, query = label.partition(b"?")
            route = self.server.web.by_label(label.decode("latin-1"))
            prefix = b"/web/" + label
            target = b"/" + rest if slash_ else b"/" + question + query
        if route is None:
            if not conn.inside and (target == b"/api" or target.startswith(b"/api/")):
                from squall.gateway.api.api import ApiCall

                return ApiCall(self, conn, request, target)
            in_path = target[5:].partition(b"/")[0].partition(b"?")[0].decode("latin-1") if target.startswith(b"/web/") else ""
            if self.server.web.is_expected(in_path or request.host):
                return Refusal(conn, request, 503, "the function is not here yet: the server is starting", [(b"retry-after", b"1")])
            return Refusal(conn, request, 404, f"no web function is at {request.host or 'this address'}; squall app list shows what is deployed")
        if not conn.local and not conn.inside and not self._meant(request):
            return Refusal(conn, request, 421, f"{request.host} is no name of this server; --web-domain gives it one, SQUALL_WEB_TRUST a proxy in front of it")
        if route.web.requires_proxy_auth and not self.authorised(request):
            return Refusal(conn, request, 401, "this web function needs a token: squall token create --kind proxy; send it as Squall-Key and Squall-Secret")
        if route.web.rate_limit is not None and (
            wait := self._limits.setdefault((route.function, route.method), Bucket()).take(route.web.rate_limit, self.now())
        ):
            return Refusal(conn, request, 429, f"{route.name} takes {route.web.rate_limit:g} requests a second", [(b"retry-after", b"%d" % ceil(wait))])
        pool = self.server.router.web_pool(route.function)
        if pool is None or self.closing:
            return Refusal(conn, request, 503, "the function is not here just now", [(b"retry-after", b"1")])
        if (text := self._no_room(pool, route)) is not None:
            return Refusal(conn, request, 503, text, [(b"retry-after", b"1")])
        call = make_id(CALL, time.time_ns() // 1_000_000, os.urandom(10))
        return Exchange(self, conn, request, route, pool, target, prefix, call)

    def _meant(self, request: Request) -> bool:
        """Whether its Host is one of ours. On the loopback it has to be: a page in a browser here may let its own name lead here, and read answers."""
        if not self._own_names_only or not request.host or self.trusts(request.peer):
            return True
        host = request.host.lower()
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return host == self._public_host or host == "localhost" or host.endswith(".localhost") or self.server.web.is_domain(host) or _is_address(host)

    def submit(self, exchange: Exchange) -> None:
        """It is the exchange's turn: to a container now, or to the queue."""
        router = self.server.router
        pool = router.web_pool(exchange.route.function)
        text = "the function is not here just now" if pool is None or self.closing else self._no_room(pool, exchange.route)
        if pool is None or text is not None:
            exchange.turn_away(text or "")
            return
        exchange.pool = pool
        router.inputs[exchange.key] = exchange
        exchange.pool.submit(exchange)

    def _no_room(self, pool: "Pool", route: "WebRoute") -> str | None:
        """Why it takes no more requests, if so."""
        return f"{len(pool.queue)} requests wait for {route.name} already" if pool.calls.full or len(pool.queue) >= self._queue_max else None

    def _shows_token(self, request: Request) -> bool:
        """Whether it shows any that is good."""
        from squall.gateway.api.api import right_of

        return self.authorised(request) or right_of(self.server, request) is not None

    def authorised(self, request: Request) -> bool:
        """Whether it shows a proxy token."""
        key = request.header(b"squall-key") or request.header(b"modal-key") or b""
        secret = request.header(b"squall-secret") or request.header(b"modal-secret") or b""
        known = self.server.tokens.get("proxy", {}).get(key.decode("latin-1"), "")
        return hmac.compare_digest(known, digest(secret.decode("latin-1"))) and bool(known)


def public_url(environ: Mapping[str, str]) -> str:
    """What `SQUALL_PUBLIC_URL` says, without a slash at its end.

    Raises:
        InvalidError: it is no URL of HTTP.
    """
    text = environ.get("SQUALL_PUBLIC_URL", "").rstrip("/")
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
        raise InvalidError(f"SQUALL_PUBLIC_URL={text!r} is no address; write it as https://squall.example.org")
    return text


class Bucket:
    """How many requests may come now: as many as a second allows, at least one, and what time has added since (a token bucket)."""

    def __init__(self) -> None:
        self._left: float | None = None
        self._at = 0.0

    def take(self, rate: float, now: float) -> float:
        """0 when one more may come; else the seconds until then."""
        most = max(1.0, rate)
        self._left = most if self._left is None else min(most, self._left + (now - self._at) * rate)
        self._at = now
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) / rate


class Refusal:
    """A request that gets no further than here. Its body is read and dropped, so that the connection can go on."""

    def __init__(self, conn: Inbound, request: Request, status: int, text: str, extra: Headers | None = None) -> None:
        self.conn, self.request, self.status, self.text, self.extra = conn, request, status, text, extra or []

    def start(self) -> None:
        # A long body is not worth reading: then the connection ends with the answer.
        request = self.request
        keep = request.keep_alive and not request.chunked and not request.length and not request.upgrade
        self.conn.write(plain(self.status, self.text, close=not keep, extra=self.extra, head=request.method == b"HEAD"))
        self.conn._reading = None
        self.conn.finished(self, keep=keep)

    def feed(self, data: bytes) -> None:
        return None

    def complete(self) -> None:
        return None

    def raw(self, data: bytes) -> None:
        return None

    def client_gone(self) -> None:
        return None

    def client_eof(self) -> bool:
        return False

    def write_paused(self, paused: bool) -> None:
        return None

    @property
    def needs_body(self) -> bool:
        return False


def _origin_form(request: Request) -> bytes:
    """The target of a request that was written as to a proxy; the host in it counts, not that of the header (RFC 9112, section 3.2.2)."""
    authority, slash, rest = request.target.partition(b"://")[2].partition(b"/")
    authority, question, query = authority.partition(b"?")
    request.host = authority.decode("latin-1")
    request.headers = [(name, authority if name == b"host" else value) for name, value in request.headers]
    return b"/" + question + query + slash + rest if question else b"/" + rest


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _remember(path: Path, port: int) -> None:
    part = path.with_suffix(".part")
    part.write_text(str(port))
    part.replace(path)
