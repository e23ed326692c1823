"""Requests to a web function over the ingress, beside the same app on bare uvicorn and what else serves functions, with the same client."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from benchmarks.machine import ROOT
from benchmarks.process import PEERS, ensure_peer
from benchmarks.report import Invalid, Metric, Report
from benchmarks.server import environment, server_pid, stop_server

METRICS = {
    "web_p50_ms": Metric("ms", 1.0),
    "web_p99_ms": Metric("ms"),
    "web_p99_ratio_to_p50": Metric("×", 5.0),
    "web_requests_per_s": Metric("1/s", 2_500.0, lower=False),
    "uvicorn_requests_per_s": Metric("1/s", lower=False),
    "web_ratio_to_uvicorn": Metric("×", 0.5, lower=False),
    "web_from_zero_ms": Metric("ms", 60.0),
    "websocket_idle_1000_mib": Metric("MiB", 64.0),
    "web_growth_mib": Metric("MiB", 8.0),
}

#: The same app in both places. Its answer says where it ran.
APP = """
import os

async def serve(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if scope["type"] != "http":
        return
    await receive()
    body = os.environ.get("SQUALL_CONTAINER_ID", "outside").encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
"""
PROGRAM = """
import squall
app = squall.App("benchweb")

@app.function(scaledown_window=2)
@squall.concurrent(max_inputs=100)
@squall.asgi_app()
def site():
    return serve

@app.function(scaledown_window=60)
@squall.concurrent(max_inputs=2000)
@squall.asgi_app()
def idle():
    return serve
"""
CLIENTS = 16
SOCKETS = 1000
#: By peer: what it is asked, and what its answer holds.
ASKED = {
    "litserve": (b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"x": 7}', b"49"),
    "rayserve": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"served"),
}
#: Requests before memory is looked at, more than the server remembers for listings (50,000, some 15 MiB); and after which it is looked at again.
WARM_UP, GROWTH = 60_000, 200_000


class Client(asyncio.Protocol):
    """Sends a request when the one before is answered, `count` times."""

    def __init__(self, request: bytes, count: int, done: "asyncio.Future[None]") -> None:
        self.request, self.count, self.done = request, count, done
        self.times: list[float] = []
        self.body = b""
        self._buffer = b""
        self._began = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        body = whole(self._buffer)
        if body is None:
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(Invalid(f"a request was answered with {self._buffer[:60]!r}, {body[:200]!r}"))
            return
        self.times.append(time.perf_counter() - self._began)
        self.body, self._buffer = body, b""
        if len(self.times) < self.count:
            self._send()
        else:
            self.done.set_result(None)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(Invalid(f"the server hung up after {len(self.times)} of {self.count} answers"))


def whole(answer: bytes) -> bytes | None:
    """The body of an answer; None: more of it is to come. Servers here say how long it is, or send one piece."""
    head, found, rest = answer.partition(b"\r\n\r\n")
    if (length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)) is not None:
        return rest if found and len(rest) >= int(length[1]) else None
    return b"".join(rest.split(b"\r\n")[1::2]) if rest.endswith(b"0\r\n\r\n") else None


async def load(port: int, host: str, clients: int, requests: int, request: bytes = b"") -> tuple[float, list[float], bytes]:
    """Seconds for all, seconds of each, and one answer."""
    loop = asyncio.get_running_loop()
    request = request or f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    made = [Client(request, requests // clients, loop.create_future()) for _ in range(clients)]
    began = time.perf_counter()
    for client in made:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(client.done for client in made))
    return time.perf_counter() - began, [seconds for client in made for seconds in client.times], made[0].body


@contextlib.contextmanager
def uvicorn(folder: Path) -> Iterator[int]:
    """The app on bare uvicorn, with uvloop and httptools; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "served:serve", "--port", str(port), "--log-level", "error", "--no-access-log"]
    with program("uvicorn", [*command, "--loop", "uvloop", "--http", "httptools"], port, folder):
        yield port


@contextlib.contextmanager
def peer(name: str, python: Path) -> Iterator[int]:
    """A peer that serves HTTP; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with program(name, [str(python), str(ROOT / "benchmarks" / "contestants" / f"{PEERS[name].module}.py"), str(port)], port, ROOT):
        yield port


@contextlib.contextmanager
def program(name: str, command: Sequence[str], port: int, folder: Path) -> Iterator[None]:
    """Runs meanwhile, and listens."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not _listens(port):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise Invalid(f"{name} does not listen")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(peers: Sequence[str], quick: bool) -> Report:
    """Measure. Raises Invalid when an answer does not come from where it should."""
    import uvloop

    report, env = Report(METRICS), environment()
    if unknown := sorted(set(peers) - set(ASKED)):
        raise Invalid(f"{', '.join(unknown)} serve no HTTP; peers here are {', '.join(ASKED)}")
    interpreters = {name: ensure_peer(name) for name in peers}
    rounds, requests = (2, 2_000) if quick else (5, 20_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "served.py").write_text(APP)
        (folder / "benchweb.py").write_text(PROGRAM + APP)
        try:
            squall = [str(Path(sys.executable).parent / "squall"), "deploy", "benchweb.py"]
            done = subprocess.run(squall, cwd=folder, env={**env, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=300)
            address = re.search(r"site +http://([\w.-]+):(\d+)", done.stderr)
            if address is None:
                raise Invalid(f"the app was not deployed: {done.stderr}")
            host, port = address[1], int(address[2])
            uvloop.run(load(port, host, 1, 1))  # Not counted: makes the template.
            for name, python in interpreters.items():
                with peer(name, python) as theirs:
                    for number in range(rounds):
                        peer_round(report, name, theirs, requests // 4, warm=number == 0)
            with uvicorn(folder) as bare:
                for number in range(rounds):
                    print(f"• round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                    one_round(report, port, host, bare, requests)
            for _ in range(rounds):
                time.sleep(4.0)  # The container goes after two seconds without requests.
                _, times, body = uvloop.run(load(port, host, 1, 1))
                check(body)
                report.add("web_from_zero_ms", times[0] * 1e3)
            report.add("websocket_idle_1000_mib", uvloop.run(idle_sockets(port, host.replace("-site", "-idle"), env)))
            uvloop.run(load(port, host, CLIENTS, WARM_UP))
            before = memory_mib(env, "site")
            seconds, times, body = uvloop.run(load(port, host, CLIENTS, GROWTH // 10 if quick else GROWTH))
            check(body)
            report.add("web_growth_mib", max(0.0, memory_mib(env, "site") - before))
        finally:
            stop_server()
    return report


def one_round(report: Report, port: int, host: str, bare: int, requests: int) -> None:
    """Both in turn, so that what else the machine does falls on both."""
    import uvloop

    _, times, body = uvloop.run(load(port, host, 1, max(500, requests // 10)))
    check(body)
    report.add("web_p50_ms", statistics.median(times) * 1e3)
    seconds, times, body = uvloop.run(load(port, host, CLIENTS, requests))
    check(body)
    report.add("web_requests_per_s", len(times) / seconds)
    report.add("web_p99_ms", statistics.quantiles(times, n=100)[98] * 1e3)
    report.add("web_p99_ratio_to_p50", statistics.quantiles(times, n=100)[98] / statistics.median(times))
    bare_s, bare_times, bare_body = uvloop.run(load(bare, "localhost", CLIENTS, requests))
    if bare_body != b"outside":
        raise Invalid(f"the bare server answered {bare_body!r}")
    report.add("uvicorn_requests_per_s", len(bare_times) / bare_s)
    report.add("web_ratio_to_uvicorn", (len(times) / seconds) / (len(bare_times) / bare_s))


def check(body: bytes) -> None:
    """The answer comes from a container."""
    if not body.startswith(b"ct-"):
        raise Invalid(f"the web function answered {body!r}, which is no container's id")


def peer_round(report: Report, name: str, port: int, requests: int, *, warm: bool) -> None:
    import uvloop

    request, wanted = ASKED[name]
    if warm:
        uvloop.run(load(port, "", 1, 200, request))
    _, times, body = uvloop.run(load(port, "", 1, max(200, requests // 10), request))
    if wanted not in body:
        raise Invalid(f"{name} answered {body!r}")
    report.add("web_p50_ms", statistics.median(times) * 1e3, name)
    seconds, times, _ = uvloop.run(load(port, "", CLIENTS, requests, request))
    report.add("web_requests_per_s", len(times) / seconds, name)
    report.add("web_p99_ms", statistics.quantiles(times, n=100)[98] * 1e3, name)


async def idle_sockets(port: int, host: str, env: Mapping[str, str]) -> float:
    """What a thousand open websockets take: in the server, and in the container."""
    handshake = (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()

    async def opened() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Invalid(f"a websocket was answered with {head[:60]!r}")
        return writer

    writers = [await opened()]
    before = memory_mib(env, "idle")
    for _ in range(SOCKETS // 50):
        writers += await asyncio.gather(*(opened() for _ in range(50)))
    taken = memory_mib(env, "idle") - before
    for writer in writers:
        writer.close()
    return taken


def memory_mib(env: Mapping[str, str], function: str) -> float:
    """Resident memory of the server and of the function's containers."""
    listed = subprocess.run([str(Path(sys.executable).parent / "squall"), "container", "list", "--json"], env=dict(env), capture_output=True, text=True)
    pids = [server_pid(), *(row["pid"] for row in json.loads(listed.stdout) if row["function"] == function)]
    if len(pids) < 2 or None in pids:
        raise Invalid(f"the server, or a container of {function}, does not run")
    return sum(int(found[1]) for pid in pids if (found := re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()))) / 1024
