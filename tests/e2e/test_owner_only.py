"""Stopping the server, minting tokens and collecting are the owner's, over the local socket: no token is good for them."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from squall.wire.address import socket_path

from .conftest import SQUALL, Runner, server_pid
from .test_api import Api
from .test_server import own

pytestmark = pytest.mark.root
__all__ = ["own"]

OWNERS = {
    "StopServer": {}, "CreateToken": {"kind": "api"}, "DeleteToken": {"token": "ak-0"}, "Collect": {"dry": False}, "RotateKey": {},
    "ImageRequest": {"what": "prune"},
}  # fmt: skip


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    yield number


def test_who_has_a_token_can_not_do_what_is_the_owners(own: Runner, port: int) -> None:
    probe = f"tcp://127.0.0.1:{port}"
    started = own("server", "start", "--listen", probe)
    assert started.returncode == 0, started.stderr
    pid = server_pid(own)
    remote = {**own.env, "SQUALL_SERVER_URL": probe, "SQUALL_TOKEN": own("server", "token").stdout.strip()}

    def over_tcp(*argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([str(SQUALL), *argv], env=remote, capture_output=True, text=True, timeout=60)

    assert over_tcp("app", "list").returncode == 0
    for argv in (["server", "stop"], ["token", "create"], ["gc"]):
        refused = over_tcp(*argv)
        assert refused.returncode == 1, argv
        assert "owner" in refused.stderr and "SQUALL_SERVER_URL" in refused.stderr, refused.stderr
    secret = own("token", "create", "--kind", "api").stdout.split()[1]
    listening = json.loads(own("server", "status", "--json").stdout)["listening"]
    api = Api(next(int(place.rpartition(":")[2]) for place in listening if place.startswith("web ")), secret)
    for name, body in OWNERS.items():
        status, answer = api("POST", f"/commands/{name}", body)
        assert (status, answer["error"]["code"]) == (403, "permission_denied"), name
        assert "owner" in answer["error"]["message"]
    assert Path("/proc", str(pid)).exists()
    assert own("server", "status").returncode == 0
    stopped = own("server", "stop")
    assert f"pid {pid}" in stopped.stderr + stopped.stdout
    assert str(own.data) in stopped.stderr + stopped.stdout


def test_another_user_who_may_open_the_owners_socket_is_not_the_owner(own: Runner) -> None:
    assert own("server", "start").returncode == 0
    pid = server_pid(own)
    path = socket_path(own.data)
    path.chmod(0o666)
    path.parent.chmod(0o711)
    ask = (
        "import os, socket, sys\n"
        "from squall.wire.blocking import BlockingConnection\n"
        "from squall.wire.messages import PROTOCOL_VERSION, Fault, Hello, Request, StopServer, ToClient\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1])\n"
        "connection = BlockingConnection(sock, ToClient)\n"
        "connection.send(Hello(PROTOCOL_VERSION, 'client', 'other'))\n"
        "connection.receive(10)\n"
        "connection.send(Request(1, StopServer()))\n"
        "answer = connection.receive(10)\n"
        "print(answer.code if isinstance(answer, Fault) else 'done')\n"
    )
    done = subprocess.run([sys.executable, "-c", ask, str(path)], env=own.env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "permission_denied", (done.stdout, done.stderr)

    listening = json.loads(own("server", "status", "--json").stdout)["listening"]
    web = Path(next(place for place in listening if place.startswith("http+unix://")).removeprefix("http+unix://"))
    web.chmod(0o666)
    ask = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1])\n"
        "sock.sendall(b'POST /api/v1/commands/StopServer HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 2\\r\\n\\r\\n{}')\n"
        "print(sock.recv(1000).decode().splitlines()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", ask, str(web)], env=own.env, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("HTTP/1.1 401 "), (done.stdout, done.stderr)
    assert Path("/proc", str(pid)).exists()
