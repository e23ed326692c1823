"""Strangers at the doors: what a connection costs the server before it has shown a token."""

import contextlib
import json
import resource
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.waiting import wait_until

from squall.gateway.auth.unauthenticated import PER_ADDRESS_MAX
from squall.wire.framing import FRAME_BYTES_MAX, pack
from squall.wire.messages import PROTOCOL_VERSION, Hello

from .conftest import Runner, free_port, make_data_directory, stop_server
from .test_web_tls import certificate

pytestmark = pytest.mark.root


#: What the tests' server is told besides: few places, little patience.
LIMITS = {
    "SQUALL_WEB_QUEUE": "6",
    "SQUALL_WEB_CONNECTIONS": "150",
    "SQUALL_WEB_PER_ADDRESS": "60",
    "SQUALL_WEB_BODY_S": "2",
    "SQUALL_WEB_ANSWER_S": "2",
}

PROGRAM = """
import time

import squall

app = squall.App("doors")

@app.function()
def nap():
    time.sleep(40)

@app.function()
def lists(count):
    return [[] for _ in range(count)]

@app.function()
@squall.wsgi_app()
def single():
    def serve(environ, start_response):
        size = int(environ.get("QUERY_STRING") or 0)
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"%d" % len(body)
        for _ in range(size):
            yield bytes(1 << 20)
    return serve
"""


class Doors:
    """A server's, with its ports."""

    def __init__(self, own: Runner, tcp: int, tls: int, web: int) -> None:
        self.own, self.tcp, self.tls, self.web = own, tcp, tls, web
        self.pid = int((own.data / "server.lock").read_text())
        self.process = Path("/proc") / str(self.pid)

    def peak_mib(self) -> float:
        return int(next(line for line in (self.process / "status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024

    def descriptors(self) -> int:
        return sum(1 for _ in (self.process / "fd").iterdir())


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    data, folder, tcp, tls, web = make_data_directory(), tmp_path_factory.mktemp("doors"), free_port(), free_port(), free_port()
    cert, key = certificate(folder, "squall.test")
    own = Runner(data, folder)
    own.extra = LIMITS
    listen = ("--listen", f"tcp://127.0.0.1:{tcp}", "--listen", f"tls://127.0.0.1:{tls}", "--tls-cert", str(cert), "--tls-key", str(key))
    started = own("server", "start", *listen, "--web", f"127.0.0.1:{web}")
    assert started.returncode == 0, started.stderr
    own.program("doors.py", PROGRAM)
    deployed = own("deploy", "doors.py")
    assert deployed.returncode == 0, deployed.stderr
    yield Doors(own, tcp, tls, web)
    stop_server(data)
    shutil.rmtree(data)


def crowd(port: int, count: int, address: str = "127.0.0.2") -> list[socket.socket]:
    """Connections from one address that say nothing."""
    return [socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(address, 0)) for _ in range(count)]


@contextlib.contextmanager
def closing(sockets: list[socket.socket]) -> Iterator[None]:
    try:
        yield
    finally:
        for each in sockets:
            each.close()


def pour(sock: socket.socket, piece: bytes, times: int) -> int:
    """How many pieces the other side took before it hung up."""
    for number in range(times):
        try:
            sock.sendall(piece)
        except OSError:
            return number
    return times


def test_a_trailer_that_does_not_end_is_cut(doors: Doors) -> None:
    before = doors.peak_mib()
    with socket.create_connection(("127.0.0.1", doors.web), timeout=20) as raw:
        raw.sendall(b"POST /api/v1/status HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: ")
        pour(raw, b"a" * (64 << 10), 1600)
    assert doors.peak_mib() < before + 32


def test_a_frame_without_a_token_is_small(doors: Doors) -> None:
    before = doors.peak_mib()
    with socket.create_connection(("127.0.0.1", doors.tcp), timeout=20) as raw:
        raw.sendall((FRAME_BYTES_MAX - 8).to_bytes(4, "big"))
        pour(raw, bytes(1 << 20), 200)
    assert doors.peak_mib() < before + 32


def test_a_connection_that_does_not_say_who_it_is_ends(doors: Doors) -> None:
    with socket.create_connection(("127.0.0.1", doors.tcp), timeout=15) as raw:
        began = time.monotonic()
        assert raw.recv(1) == b""
    assert 3 < time.monotonic() - began < 14


@pytest.mark.parametrize("door", ["tcp", "tls"])
def test_strangers_push_out_each_other_and_nobody_else(doors: Doors, door: str) -> None:
    before = doors.descriptors()
    strangers = crowd(getattr(doors, door), PER_ADDRESS_MAX + 40)
    with closing(strangers):
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            assert strangers[0].recv(1) == b""
        assert time.monotonic() - began < 2
        assert doors.descriptors() <= before + PER_ADDRESS_MAX + 8
        raw = socket.create_connection(("127.0.0.1", getattr(doors, door)), timeout=10, source_address=("127.0.0.2", 0))
        with unverified().wrap_socket(raw) if door == "tls" else raw as talk:
            talk.sendall(pack(Hello(PROTOCOL_VERSION, "test", (doors.own.data / "token").read_text().strip())))
            assert len(talk.recv(1 << 16)) > 4
    wait_until(lambda: doors.descriptors() <= before, timeout_s=20)


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_the_last_descriptors_are_kept_for_the_owner(doors: Doors) -> None:
    usual, before = resource.prlimit(doors.pid, resource.RLIMIT_NOFILE), doors.descriptors()
    resource.prlimit(doors.pid, resource.RLIMIT_NOFILE, (1024, usual[1]))
    strangers: list[socket.socket] = []
    try:
        with closing(strangers):
            for number in range(5):
                strangers += crowd(doors.tcp, 200, f"127.0.0.{number + 2}")
            assert 500 < doors.descriptors() < 1024 - 200
            listed = doors.own("app", "list", timeout_s=60)
            assert listed.returncode == 0, listed.stderr
    finally:
        resource.prlimit(doors.pid, resource.RLIMIT_NOFILE, usual)
    wait_until(lambda: doors.descriptors() <= before + 8, timeout_s=20)


# --- the HTTP door ------------------------------------------------------------------------------------------------------------

HEAD = b"POST /web/main--doors-single/ HTTP/1.1\r\nHost: localhost\r\n"


def web(doors: Doors, said: bytes, address: str = "127.0.0.1") -> socket.socket:
    """A connection to the HTTP door that has said this."""
    raw = socket.create_connection(("127.0.0.1", doors.web), timeout=20, source_address=(address, 0))
    raw.sendall(said)
    return raw


def answer(raw: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := raw.recv(1 << 16):
            received += part
    return received


def honest(doors: Doors, address: str = "127.0.0.1") -> bytes:
    with web(doors, HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc", address) as raw:
        return answer(raw)


def test_a_body_that_does_not_come_holds_no_place_of_the_function(doors: Doors) -> None:
    assert honest(doors).startswith(b"HTTP/1.1 200")
    with closing([web(doors, HEAD + b"Content-Length: 3\r\n\r\n", "127.0.0.2") for _ in range(30)]):
        began = time.monotonic()
        assert honest(doors).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 2


def test_the_oldest_unfinished_request_of_an_address_gives_up_its_place(doors: Doors) -> None:
    attackers = [web(doors, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", "127.0.0.2") for _ in range(70)]
    with closing(attackers):
        attackers[0].settimeout(1)
        assert answer(attackers[0]) == b""
        assert honest(doors).startswith(b"HTTP/1.1 200")
        assert honest(doors, "127.0.0.2").startswith(b"HTTP/1.1 200")


def test_a_body_has_to_come_at_some_rate(doors: Doors) -> None:
    slow = web(doors, HEAD + b"Content-Length: 100000\r\n\r\n", "127.0.0.2")
    steady = web(doors, HEAD + b"Content-Length: 9000\r\nConnection: close\r\n\r\n")
    with slow, steady:
        for _ in range(9):
            with contextlib.suppress(OSError):  # it was refused meanwhile
                slow.sendall(b"x" * 10)
            steady.sendall(b"x" * 1000)
            time.sleep(0.6)
        assert answer(slow).startswith(b"HTTP/1.1 408")
        assert answer(steady).endswith(b"9000")


def test_who_reads_nothing_of_an_answer_is_cut_off(doors: Doors) -> None:
    before = doors.descriptors()
    with web(doors, HEAD.replace(b"single/", b"single/?64") + b"Content-Length: 0\r\n\r\n", "127.0.0.2"):
        wait_until(lambda: doors.descriptors() > before, timeout_s=10)
        wait_until(lambda: doors.descriptors() <= before, timeout_s=20)


def test_who_shows_no_token_is_refused_by_the_head(doors: Doors) -> None:
    with web(doors, b"POST /api/v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n") as raw:
        raw.settimeout(1.5)
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 401")


def test_when_all_places_are_taken_a_token_still_gets_one(doors: Doors) -> None:
    made = doors.own("token", "create", "--kind", "api")
    assert made.returncode == 0, made.stderr
    shown = b"Host: localhost\r\nAuthorization: Bearer " + made.stdout.split()[-1].encode() + b"\r\n"
    with web(doors, b"POST /api/v1/apps/doors/functions/nap/spawn HTTP/1.1\r\n" + shown + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}") as raw:
        call = json.loads(answer(raw).partition(b"\r\n\r\n")[2])["call"]
    wait = b"GET /api/v1/calls/" + call.encode() + b"/result?timeout=30 HTTP/1.1\r\n" + shown + b"\r\n"
    with closing([web(doors, wait, f"127.0.0.{2 + number % 3}") for number in range(150)]):
        # All of these are whole requests, which nobody cuts off.
        status = b"GET /api/v1/status HTTP/1.1\r\nConnection: close\r\n"
        with web(doors, status + b"Host: localhost\r\n\r\n") as raw:
            assert answer(raw).startswith(b"HTTP/1.1 503")
        with web(doors, status + shown + b"\r\n") as raw:
            assert answer(raw).startswith(b"HTTP/1.1 200")


def test_a_value_of_millions_of_parts_holds_nobody_up(doors: Doors) -> None:
    made = doors.own("token", "create", "--kind", "api")
    shown = b"Host: localhost\r\nConnection: close\r\nAuthorization: Bearer " + made.stdout.split()[-1].encode() + b"\r\n"

    def call(count: int) -> socket.socket:
        body = b'{"args": [%d]}' % count
        return web(doors, b"POST /api/v1/apps/doors/functions/lists/call HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (shown, len(body), body))

    with call(3) as raw:
        assert json.loads(answer(raw).partition(b"\r\n\r\n")[2])["value"] == [[], [], []]
    before, longest = doors.peak_mib(), 0.0
    with call(4_000_000) as raw:
        raw.settimeout(0.02)
        deadline, received = time.monotonic() + 100, b""
        while not received and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                received = raw.recv(1 << 16)
            began = time.monotonic()
            assert honest(doors).startswith(b"HTTP/1.1 200")
            longest = max(longest, time.monotonic() - began)
        raw.settimeout(20)
        received += answer(raw)
    assert b'"pickle": "' in received
    assert longest < 2
    assert doors.peak_mib() < before + 250
