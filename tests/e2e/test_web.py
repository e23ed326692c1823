"""Web functions through the ingress: every kind of app, streams, websockets, bad input and bad luck. Real containers, real sockets."""

import asyncio
import http.client
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import squall
from squall.exception import InvalidError
from support.waiting import wait_until

from .conftest import PROGRAMS, SQUALL, Runner

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def site(data: Path) -> Iterator["Site"]:
    """The program, deployed once for all tests here."""
    import os

    env = {**os.environ, "SQUALL_DATA_DIR": str(data), "NO_COLOR": "1"}
    done = subprocess.run([SQUALL, "deploy", str(PROGRAMS / "websites.py")], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    urls = dict(re.findall(r"^  (\S+) +(http://\S+)$", done.stderr, re.MULTILINE))
    yield Site(urls, env)
    subprocess.run([SQUALL, "app", "stop", "websites"], env=env, capture_output=True, timeout=60, check=True)


class Site:
    """Addresses of the program's web functions."""

    def __init__(self, urls: dict[str, str], env: dict[str, str]) -> None:
        self.urls, self.env = urls, env
        self.port = urlsplit(urls["site"]).port or 80

    def host(self, function: str) -> str:
        return urlsplit(self.urls[function]).netloc

    def get(self, function: str, path: str, body: bytes | None = None, method: str = "", headers: dict[str, str] | None = None) -> "Answer":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body=body, headers={"Host": self.host(function), **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.read(), {name.lower(): value for name, value in response.getheaders()})
        finally:
            connection.close()

    def talk(self, data: bytes, timeout_s: float = 10.0) -> bytes:
        """Send bytes as they are; everything that comes until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as raw:
            raw.sendall(data)
            received = b""
            while part := raw.recv(1 << 16):
                received += part
            return received


class Answer:
    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.status, self.body, self.headers = status, body, headers


# --- every kind --------------------------------------------------------------------------------------------------------------


def test_an_asgi_app(site: Site) -> None:
    answer = site.get("site", "/echo", b"some body")
    assert (answer.status, answer.body, answer.headers["x-method"]) == (200, b"some body", "POST")
    assert "date" in answer.headers
    assert site.get("site", "/nowhere").status == 404
    head = site.get("site", "/echo", method="HEAD")
    assert (head.status, head.body, head.headers["x-method"]) == (200, b"", "HEAD")
    assert site.get("site", "/status?204").body == b""
    scope = site.get("site", "/scope?a=%20b", headers={"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Squall-Call": "forged"}).body.decode()
    lines = scope.splitlines()
    assert lines[:5] == ["GET", "/scope", "", "a=%20b", "http"]
    assert lines[5] == "('127.0.0.1', 0)"
    assert lines[6] == "{'of': 'lifespan'}"
    assert "6.6.6.6" not in scope
    assert "forged" not in scope
    container, call = site.get("site", "/where").body.decode().split()
    assert container.startswith("ct-")
    assert call.startswith("fc-")


def test_the_path_form_is_for_clients_that_know_no_such_host(site: Site) -> None:
    label = site.host("site").partition(".")[0]
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.request("GET", f"/web/{label}/scope?x=1")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    assert lines[1:4] == [f"/web/{label}/scope", f"/web/{label}", "x=1"]


def test_a_name_of_somebody_elses_leads_nowhere(site: Site) -> None:
    """A page in a browser of this machine may let its own name lead to the loopback, and would read what a function answers there."""
    label = site.host("site").partition(".")[0]
    for path, host in (("/echo", f"{label}.evil.example:{site.port}"), (f"/web/{label}/echo", "evil.example"), (f"/web/{label}/echo", "localhost.x.example")):
        assert site.get("site", path, headers={"Host": host}).status == 421
    for host in (f"localhost:{site.port}", f"127.0.0.1:{site.port}", "[::1]:80"):
        assert site.get("site", f"/web/{label}/echo", headers={"Host": host}).status == 200


def test_a_wsgi_app(site: Site) -> None:
    answer = site.get("classic", "/a/b?c=d", b"12345", method="PUT")
    assert answer.status == 201
    assert answer.body.decode() == f"PUT |/a/b c=d 5 {site.host('classic')}"
    parts = site.get("classic", "/parts")
    assert parts.body == b"0\n1\n2\n"
    large = site.get("classic", "/", b"x" * (5 << 20))
    assert str(5 << 20) in large.body.decode()


def test_a_server_on_a_port(site: Site) -> None:
    answer = site.get("files", "/hello.txt")
    assert (answer.status, answer.body) == (200, b"hello from a server\n")
    assert "SimpleHTTP" in answer.headers["server"]
    assert site.get("files", "/none").status == 404


def test_a_class_that_is_a_server(site: Site) -> None:
    assert site.get("Listening", "/listening.txt").body == b"from a server that is a class\n"
    assert site.urls["Listening"].startswith("http://main--websites-listening.localhost")
    assert squall.Server.from_name("websites", "Listening").get_url() == site.urls["Listening"]
    assert site.get("Guarded", "/").status == 401


def test_methods_of_a_class(site: Site) -> None:
    sold = [site.get("Shop.front", "/").body for _ in range(2)]
    assert sold == [b"sold 1", b"sold 2"]
    assert squall.Cls.from_name("websites", "Shop")().total.remote() == 2


def test_a_web_function_has_an_address_and_no_remote(site: Site) -> None:
    function = squall.Function.from_name("websites", "site")
    assert function.get_web_url() == site.urls["site"]
    assert squall.Function.from_name("websites", "Shop").get_web_url() is None
    with pytest.raises(InvalidError, match="is a web function"):
        function.remote()


def test_containers_reach_web_functions_and_nothing_else_of_the_machine(site: Site) -> None:
    url, answer, api, reached = squall.Function.from_name("websites", "inside").remote(site.port)
    assert re.fullmatch(r"http://10[.\d]+:\d+/web/main--websites-classic", url)
    assert answer.startswith("GET /web/main--websites-classic|/a b 0 ")
    assert (api, reached) == (404, [])
    # One that may reach some networks only does not reach this one, and is told the address that everybody has.
    outside, refused = squall.Function.from_name("websites", "limited_inside").remote(url)
    assert outside == site.urls["classic"]
    assert "refused" in refused


# --- streams -----------------------------------------------------------------------------------------------------------------


def test_parts_arrive_when_they_are_sent(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.request("GET", "/held", headers={"Host": site.host("site")})
    response = connection.getresponse()
    assert response.readline() == b"data: 0\n"
    assert site.get("site", "/release").status == 204  # the rest waits for this, and so is not there yet
    assert response.read().count(b"data:") == 4
    connection.close()


def test_a_large_upload_and_download_pass_through_without_being_held(site: Site, data: Path) -> None:
    pid = int((data / "server.lock").read_text())

    def rss() -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) >> 10  # type: ignore[index]

    site.get("site", "/echo", b"x")
    before = rss()
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=120)
    connection.request("POST", "/count", body=(b"y" * (1 << 20) for _ in range(300)), headers={"Host": site.host("site")}, encode_chunked=True)
    assert connection.getresponse().read() == str(300 << 20).encode()
    connection.request("GET", "/large?300", headers={"Host": site.host("site")})
    response = connection.getresponse()
    size = 0
    while part := response.read(1 << 20):
        size += len(part)
    connection.close()
    assert size == 300 << 20
    assert rss() - before < 64


def test_a_slow_reader_holds_up_its_writer_and_nobody_else(site: Site, data: Path) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as raw:
        raw.sendall(b"GET /large?200 HTTP/1.1\r\nHost: %b\r\n\r\n" % site.host("site").encode())
        assert raw.recv(1000).startswith(b"HTTP/1.1 200")
        for _ in range(20):
            assert site.get("site", "/echo", b"quick").body == b"quick"
        # Nothing has read the 200 MiB, and nothing holds them.
        size = 0
        while size < 200 << 20:
            size += len(raw.recv(1 << 20))


def test_keep_alive_and_requests_sent_ahead(site: Site) -> None:
    one = b"POST /echo HTTP/1.1\r\nHost: %b\r\nContent-Length: 1\r\n\r\n" % site.host("site").encode()
    last = b"GET /status?204 HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % site.host("site").encode()
    received = site.talk(one + b"a" + one + b"b" + one + b"c" + last)
    assert [part[:1] for part in received.split(b"\r\n\r\n")[1:4]] == [b"a", b"b", b"c"]
    assert received.count(b"HTTP/1.1 200") == 3
    assert received.count(b"HTTP/1.1 204") == 1
    old = site.talk(b"GET /stream HTTP/1.0\r\nHost: %b\r\n\r\n" % site.host("site").encode())
    assert b"chunked" not in old
    assert old.endswith(b"data: 4\n\n")


# --- websockets --------------------------------------------------------------------------------------------------------------


async def test_websockets_pass_unchanged(site: Site) -> None:
    def at(path: str) -> str:
        return f"ws://{site.host('site')}{path}"

    where = {"host": "127.0.0.1", "port": site.port}
    async with connect(at("/echo"), **where, subprotocols=["one", "two"], max_size=None) as talk:  # type: ignore[list-item]
        assert talk.subprotocol == "one"
        await talk.send("hello ✓")
        assert await talk.recv() == "hello ✓"
        for size in (0, 1, 125, 126, 65_535, 65_536, 5 << 20):
            await talk.send(b"z" * size)
            assert await talk.recv() == b"z" * size
        await talk.send(["in ", "three ", "pieces"])
        assert await talk.recv() == "in three pieces"
        pong = await talk.ping(b"are you there")
        await asyncio.wait_for(pong, 5)
        await talk.close(4000, "bye")
        assert talk.close_code == 4000
    async with connect(at("/leave"), **where) as left:
        with pytest.raises(ConnectionClosed):
            await left.recv()
        assert (left.close_code, left.close_reason) == (4321, "that is all")
    async with connect(at("/raise"), **where) as raised:
        with pytest.raises(ConnectionClosed):
            await raised.recv()
        assert raised.close_code == 1011
    with pytest.raises(InvalidStatus, match="403"):
        await connect(at("/refuse"), **where)


HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_websocket_that_is_cut_ends_on_the_other_side(site: Site, squall: Runner) -> None:
    def ended() -> int:
        return squall("app", "logs", "websites").stdout.count("websocket ended 1006")

    before = ended()
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as raw:
        raw.sendall(HANDSHAKE % site.host("site").encode() + b"\x81\x81\0\0\0\0x")
        received = b""
        while not received.endswith(b"\x81\x01x"):
            received += raw.recv(1 << 16)
    wait_until(lambda: ended() > before, "the end on the other side")


def test_broken_frames_are_answered_with_the_right_code(site: Site) -> None:
    for frame, code in ((b"\x81\x05hello", 1002), (b"\xc1\x80\0\0\0\0", 1002), (b"\x81\x82\0\0\0\0\xff\xfe", 1007), (b"\x83\x80\0\0\0\0", 1002)):
        with socket.create_connection(("127.0.0.1", site.port), timeout=10) as raw:
            raw.sendall(
                b"GET /echo HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % site.host("site").encode() + frame
            )
            received = b""
            while part := raw.recv(1 << 16):
                received += part
        head, _, rest = received.partition(b"\r\n\r\n")
        assert b"101 Switching Protocols" in head
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert rest[0] == 0x88
        assert int.from_bytes(rest[2:4], "big") == code


# --- bad input ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: SITE\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: SITE\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
        (b"POST / HTTP/1.1\r\nHost: SITE\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: SITE\r\nContent-Length: 5, 5\r\n\r\nabcde", 400),
        (b"POST / HTTP/1.1\r\nHost: SITE\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: SITE\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost : SITE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: SITE\nX\x00: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: SITE\r\nX: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: SITE\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: SITE\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: SITE\r\n" + b"X: y\r\n" * 300 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: SITE\r\nX: " + b"y" * 200_000, 431),
        (b"GET / HTTP/1.1\r\nHost:\r\nHost: SITE\r\n\r\n", 400),
        (b"GET /web/main--websites-site/ HTTP/1.1\r\nHost: a b/c@d\r\n\r\n", 400),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: SITE\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\nConnection: close\r\n\r\n", 404),
        (b"POST /echo HTTP/1.1\r\nHost: nobody.localhost\r\nContent-Length: 9\r\n\r\n", 404),
    ],
)
def test_requests_that_are_refused(site: Site, request_: bytes, status: int) -> None:
    received = site.talk(request_.replace(b"SITE", site.host("site").encode()))
    assert received.startswith(b"HTTP/1.1 %d " % status), received[:200]
    assert received.count(b"HTTP/1.1") == 1


def test_the_length_of_a_body_can_not_be_taken_from_its_container(site: Site) -> None:
    """A header that Connection names is for this hop only; with its length taken away so, a body would be the container's next request."""
    before = int(site.get("site", "/seen").body.split()[2])
    hidden = f"GET /seen HTTP/1.1\r\nHost: {site.host('site')}\r\n\r\n"
    head = f"POST /echo HTTP/1.1\r\nHost: {site.host('site')}\r\nConnection: close, Content-Length, host\r\nContent-Length: {len(hidden)}\r\n\r\n"
    assert site.talk((head + hidden).encode()).endswith(hidden.encode())
    assert int(site.get("site", "/seen").body.split()[2]) == before + 2


def test_what_proxies_have_to_know(site: Site) -> None:
    """RFC 9110 and 9112, line by line, where clients and servers differ."""
    where = site.host("site").encode()

    def ask(head: bytes, body: bytes = b"", of: bytes = where) -> bytes:
        return site.talk(head.replace(b"SITE", of) + b"\r\nConnection: close\r\n\r\n" + body)

    # Every Connection header names what is for this hop only.
    seen = ask(b"GET /scope HTTP/1.1\r\nHost: SITE\r\nConnection: x-one\r\nX-One: 1\r\nConnection: keep-alive, X-Two\r\nX-Two: 2\r\nX-Three: a  \r\nX-Three: b")
    assert b"x-one" not in seen
    assert b"x-two" not in seen
    assert b"x-three=a\nx-three=b\n" in seen
    # Blanks around a value are no part of it.
    assert b"x-length: 3" in ask(b"POST /echo HTTP/1.1\r\nHost: SITE \t\r\nContent-Length: 3 ", b"abc")
    chunked = b"1\r\na\r\n0\r\nX-Trailer: t\r\n\r\n"
    assert ask(b"POST /echo HTTP/1.1\r\nHost: SITE\r\nTransfer-Encoding: Chunked", chunked).endswith(b"\r\n\r\na")
    # An offer of another protocol that nobody takes: curl and Java make it with every request.
    for framing, body in ((b"Content-Length: 3", b"abc"), (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"), (b"X: y", b"")):
        head = b"POST /echo HTTP/1.1\r\nHost: SITE\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: h2c\r\n%b\r\n\r\n" % framing
        received = ask(head.replace(b"SITE", where) + body + b"POST /echo HTTP/1.1\r\nHost: SITE\r\nContent-Length: 2", b"de")
        assert received.count(b"HTTP/1.1 200 OK") == 2, received
        assert b"x-length: %d\r\n" % (3 if body else 0) in received
        assert received.endswith(b"\r\n\r\nde")
    # The absolute form says which host is meant.
    assert b"host=%b\n" % where in ask(b"GET http://SITE/scope HTTP/1.1\r\nHost: other.example")
    assert b"('::1', 99)" in site.talk(b"GET /web/main--websites-site/scope HTTP/1.1\r\nHost: [::1]:99\r\nConnection: close\r\n\r\n")
    # Expectations are words, not spellings.
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as raw:
        raw.sendall(b"POST /echo HTTP/1.1\r\nHost: %b\r\nExpect: 100-Continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n" % where)
        assert raw.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b"abc")
        assert raw.makefile("rb").read().endswith(b"\r\n\r\nabc")
    # What is not this version of websockets, and what is refused, is said whole.
    old = site.talk(HANDSHAKE.replace(b"Version: 13", b"Version: 8") % where)
    assert old.startswith(b"HTTP/1.1 426 Upgrade Required\r\nsec-websocket-version: 13\r\n")
    assert b"\r\nconnection: close\r\n" in site.talk(HANDSHAKE.replace(b"/echo", b"/refuse") % where)
    # WSGI: bytes of paths as they are, and no header that passes for another.
    given = ask(b"GET /environ/%FF%C3%A9%2F HTTP/1.1\r\nHost: SITE\r\nX_Forwarded_For: evil\r\nX-Given: a\r\nX_Given: b", of=site.host("classic").encode())
    assert rb"('/environ/\xff\xc3\xa9/', ['HTTP_X_FORWARDED_FOR=127.0.0.1', " in given
    assert b"evil" not in given
    assert b"'HTTP_X_GIVEN=a'" in given


def test_what_servers_in_containers_may_say(site: Site) -> None:
    def told(answer: bytes) -> bytes:
        head = b"POST / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (site.host("odd").encode(), len(answer))
        return site.talk(head + answer)

    head, _, body = told(
        b"HTTP/1.1 299 As I Like\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 3\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-CASE: c\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\nX-Trailer: t\r\n\r\n"
    ).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 299 As I Like\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-CASE: c\r\ndate: ")
    assert b"X-Hop" not in head
    assert body == b"2\r\nhi\r\n0\r\n\r\n"
    early = told(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n")
    assert early.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n")
    # A body where none may be goes no further.
    answer = told(b"HTTP/1.1 204 No Content\r\nX-N: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert answer.startswith(b"HTTP/1.1 204 No Content\r\nX-N: 1\r\n")
    assert b"evil" not in answer
    for nonsense in (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ):
        assert told(nonsense).startswith(b"HTTP/1.1 502 Bad Gateway\r\n"), nonsense


def test_a_body_with_a_bad_chunk_reaches_nobody_whole(site: Site) -> None:
    before = int(site.get("site", "/seen").body.split()[2])
    received = site.talk(b"POST /echo HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n" % site.host("site").encode())
    assert b"HTTP/1.1 200" not in received
    assert int(site.get("site", "/seen").body.split()[2]) - before == 2


def test_a_head_that_does_not_end(site: Site, own_limits: Site) -> None:
    with socket.create_connection(("127.0.0.1", own_limits.port), timeout=20) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: ")
        began = time.monotonic()
        received = b""
        while part := raw.recv(1000):
            received += part
            raw.sendall(b"")
    assert received.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 5


# --- bad luck ----------------------------------------------------------------------------------------------------------------


def test_an_app_that_raises(site: Site, squall: Runner) -> None:
    assert site.get("site", "/raise").status == 500
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        site.get("site", "/raise-later")
    assert site.get("site", "/nothing").status == 500
    assert site.get("site", "/bad-header").status == 500
    said = squall("app", "logs", "websites").stderr
    assert "RuntimeError: before the answer" in said
    assert "RuntimeError: in the middle" in said


def test_a_container_that_ends_in_a_request(site: Site) -> None:
    answer = site.get("site", "/exit", b"x")
    assert answer.status == 500
    assert b"exit code 3" in answer.body
    assert site.get("site", "/echo", b"again").body == b"again"


def test_a_client_that_leaves_ends_the_work(site: Site) -> None:
    before = int(site.get("site", "/seen").body.split()[0])
    raw = socket.create_connection(("127.0.0.1", site.port), timeout=10)
    raw.sendall(b"GET /wait HTTP/1.1\r\nHost: %b\r\n\r\n" % site.host("site").encode())
    requests = int(site.get("site", "/seen").body.split()[2])
    raw.close()
    wait_until(lambda: int(site.get("site", "/seen").body.split()[0]) > before, "the end of the work")
    assert requests


def test_a_request_that_takes_too_long(site: Site) -> None:
    began = time.monotonic()
    answer = site.get("hurried", "/")
    assert answer.status == 504
    assert b"timeout of 2 s" in answer.body
    assert 1.9 < time.monotonic() - began < 15


def test_apps_that_never_start(site: Site, squall: Runner) -> None:
    assert site.get("deaf", "/").status == 500
    assert site.get("broken", "/").status == 500
    logs = squall("app", "logs", "websites")
    assert "nothing listens on port 8000" in logs.stderr
    assert "I listen to nobody" in logs.stdout
    assert "ValueError: this app can't be made" in logs.stderr


def test_a_token_where_one_is_asked_for(site: Site, squall: Runner) -> None:
    assert site.get("locked", "/").status == 401
    key, secret = squall("token", "create", "--proxy", "--name", "test").stdout.split()
    assert site.get("locked", "/", headers={"Squall-Key": key, "Squall-Secret": secret}).body == b"come in"
    assert site.get("locked", "/", headers={"Modal-Key": key, "Modal-Secret": secret}).body == b"come in"
    assert site.get("locked", "/", headers={"Squall-Key": key, "Squall-Secret": secret[:-1]}).status == 401
    assert site.get("locked", "/", headers={"Squall-Key": "", "Squall-Secret": ""}).status == 401
    assert [row["name"] for row in json.loads(squall("token", "list", "--json").stdout)] == ["test"]
    assert secret not in squall("token", "list", "--json").stdout
    assert squall("token", "delete", key).returncode == 0
    assert site.get("locked", "/", headers={"Squall-Key": key, "Squall-Secret": secret}).status == 401


def test_more_requests_than_a_function_takes(site: Site) -> None:
    assert site.get("limited", "/").body == b"one of few"
    refused = site.get("limited", "/")
    assert (refused.status, refused.headers["retry-after"]) == (429, "2")
    assert b"0.5 requests a second" in refused.body
    wait_until(lambda: site.get("limited", "/").status == 200)


#: Of a server that has few places: few requests may wait, a head has one second.
LIMITS = {"SQUALL_WEB_QUEUE": "6", "SQUALL_WEB_HEAD_S": "1"}


@pytest.fixture(scope="module")
def own_limits() -> Iterator[Site]:
    """A server of its own with the limits of `LIMITS`."""
    import os
    import shutil

    from .conftest import make_data_directory, stop_server

    data = make_data_directory()
    env = {**os.environ, "SQUALL_DATA_DIR": str(data), "NO_COLOR": "1", **LIMITS}
    done = subprocess.run([SQUALL, "deploy", str(PROGRAMS / "websites.py")], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    yield Site(dict(re.findall(r"^  (\S+) +(http://\S+)$", done.stderr, re.MULTILINE)), env)
    stop_server(data)
    shutil.rmtree(data)


def test_more_than_can_wait_is_told_to_come_back(own_limits: Site) -> None:
    assert own_limits.get("single", "/").body == b"done"
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(own_limits.get("single", "/slow"))

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200] * 7 + [503] * 3
    assert all(answer.headers.get("retry-after") for answer in answers if answer.status == 503)


def test_a_redeploy_under_load_loses_no_request(own_limits: Site, tmp_path: Path) -> None:
    """Requests of four clients on kept-alive connections while new versions come: every one is answered by a version, and none fails."""
    program = tmp_path / "rolling.py"
    text = (PROGRAMS / "websites.py").read_text()
    host = own_limits.host("site")
    stop, counts, failures = threading.Event(), [0] * 4, []

    def load(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", own_limits.port, timeout=30)
        while not stop.is_set():
            try:
                connection.request("POST", "/echo", body=b"x", headers={"Host": host})
                response = connection.getresponse()
                if (response.status, response.read()) != (200, b"x"):
                    failures.append(response.status)
                counts[number] += 1
            except Exception as error:
                failures.append(error)
                connection.close()
        connection.close()

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for version in range(4):
        program.write_text(text + f"\n# version {version}\n")
        done = subprocess.run([SQUALL, "deploy", str(program)], env=own_limits.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    wait_until(lambda: sum(counts) >= 10_000, 60)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
