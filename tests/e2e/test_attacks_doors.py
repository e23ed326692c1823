"""Strangers at the doors: what a connection costs the server before it has shown a token."""

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from squall.wire.framing import FRAME_BYTES_MAX

from .conftest import Runner, make_data_directory, stop_server

pytestmark = pytest.mark.root


class Doors:
    def __init__(self, data: Path, tcp: int, web: int) -> None:
        self.process, self.tcp, self.web = Path("/proc") / (data / "server.lock").read_text().strip(), tcp, web

    def peak_mib(self) -> float:
        return int(next(line for line in (self.process / "status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    data, tcp, web = make_data_directory(), free_port(), free_port()
    own = Runner(data, tmp_path_factory.mktemp("doors"))
    started = own("server", "start", "--listen", f"tcp://127.0.0.1:{tcp}", "--web", f"127.0.0.1:{web}")
    assert started.returncode == 0, started.stderr
    yield Doors(data, tcp, web)
    stop_server(data)
    shutil.rmtree(data)


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
