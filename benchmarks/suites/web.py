"""Requests to a web function over the ingress, beside the same app on bare uvicorn, with the same client."""

import asyncio
import contextlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from benchmarks.report import Invalid, Metric, Report
from benchmarks.server import environment, stop_server

METRICS = {
    "web_p50_ms": Metric("ms", 1.0),
    "web_p99_ms": Metric("ms"),
    "web_requests_per_s": Metric("1/s", 2_500.0, lower=False),
    "uvicorn_requests_per_s": Metric("1/s", lower=False),
    "web_ratio_to_uvicorn": Metric("×", 0.5, lower=False),
    "web_from_zero_ms": Metric("ms", 60.0),
}

#: The same app in both places. Its answer says where it ran.
APP = """
import os

async def serve(scope, receive, send):
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
"""
CLIENTS = 16


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
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(re.search(rb"content-length: (\d+)", head)[1]):  # type: ignore[index]
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(Invalid(f"a request was answered with {head[:60]!r}"))
            return
        self.times.append(time.perf_counter() - self._began)
        self.body, self._buffer = body, b""
        if len(self.times) < self.count:
            self._send()
        else:
            self.done.set_result(None)
            self.transport.close()


async def load(port: int, host: str, clients: int, requests: int) -> tuple[float, list[float], bytes]:
    """Seconds for all, seconds of each, and one answer."""
    loop = asyncio.get_running_loop()
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
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
    with subprocess.Popen([*command, "--loop", "uvloop", "--http", "httptools"], cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while not _listens(port):
                if time.monotonic() > deadline:
                    raise Invalid("uvicorn does not listen")
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(peers: Sequence[str], quick: bool) -> Report:
    """Measure. Raises Invalid when an answer does not come from where it should."""
    import uvloop

    report, env = Report(METRICS), environment()
    rounds, requests = (2, 2_000) if quick else (5, 20_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "served.py").write_text(APP)
        (folder / "benchweb.py").write_text(PROGRAM + APP)
        try:
            squall = [str(Path(sys.executable).parent / "squall"), "deploy", "benchweb.py"]
            done = subprocess.run(squall, cwd=folder, env={**env, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=300)
            address = re.search(r"http://([\w.-]+):(\d+)", done.stderr)
            if address is None:
                raise Invalid(f"the app was not deployed: {done.stderr}")
            host, port = address[1], int(address[2])
            uvloop.run(load(port, host, 1, 1))  # Not counted: makes the template.
            with uvicorn(folder) as bare:
                for number in range(rounds):
                    print(f"• round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                    one_round(report, port, host, bare, requests)
            for _ in range(rounds):
                time.sleep(4.0)  # The container goes after two seconds without requests.
                _, times, body = uvloop.run(load(port, host, 1, 1))
                check(body)
                report.add("web_from_zero_ms", times[0] * 1e3)
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
    bare_s, bare_times, bare_body = uvloop.run(load(bare, "localhost", CLIENTS, requests))
    if bare_body != b"outside":
        raise Invalid(f"the bare server answered {bare_body!r}")
    report.add("uvicorn_requests_per_s", len(bare_times) / bare_s)
    report.add("web_ratio_to_uvicorn", (len(times) / seconds) / (len(bare_times) / bare_s))


def check(body: bytes) -> None:
    """The answer comes from a container."""
    if not body.startswith(b"ct-"):
        raise Invalid(f"the web function answered {body!r}, which is no container's id")
