"""Stopping the server, minting tokens and collecting are the owner's, over the local socket: no token is good for them."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import SQUALL, Runner
from .test_api import Api
from .test_server import own, server_pid

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
