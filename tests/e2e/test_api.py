"""The HTTP API: what the command line does, by curl. Nothing is open without a token."""

import contextlib
import http.client
import json
import re
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from squall.gateway.api.command_bridge import COMMANDS
from squall.gateway.api.routes import ROUTES

from .conftest import Runner

pytestmark = pytest.mark.root

PROGRAM = """
import squall

app = squall.App("arithmetic")

@app.function()
def add(a: int, b: int = 1) -> int:
    return a + b

@app.function()
def fail():
    raise ValueError("no such thing")

@app.function()
def odd():
    return {1, 2}

@app.function()
def bomb():
    value = ["x"]
    for _ in range(100):
        value = [value, value]
    return value

@app.function()
def generate(n: int = 1, fails: bool = False):
    yield from range(n)
    if fails:
        raise ValueError("no more")

@app.function(schedule=squall.Cron("0 9 * * *"))
def daily():
    return "done"

@app.cls()
class Counter:
    @squall.method()
    def double(self, i: int) -> int:
        return 2 * i
"""


class Api:
    def __init__(self, port: int, secret: str) -> None:
        self.port, self.secret = port, secret

    def __call__(self, method: str, path: str, body: Any = None, *, secret: str | None = None, raw: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            token = self.secret if secret is None else secret
            data = raw if raw is not None else (None if body is None else json.dumps(body).encode())
            connection.request(method, f"/api/v1{path}", body=data, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if response.headers["content-type"].startswith("application/json") else text.decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def api(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    squall = Runner(data, tmp_path_factory.mktemp("api"))
    squall.program("arithmetic.py", PROGRAM)
    done = squall("deploy", "arithmetic.py")
    assert done.returncode == 0, done.stderr
    token, secret = squall("token", "create", "--name", "tests").stdout.split()
    listening = json.loads(squall("server", "status", "--json").stdout)["listening"]
    port = next(int(place.rpartition(":")[2]) for place in listening if place.startswith("web "))
    yield Api(port, secret)
    squall("token", "delete", token)
    squall("app", "stop", "arithmetic")


def test_nothing_is_open_without_a_token(api: Api, squall: Runner) -> None:
    assert len(ROUTES) > 15
    proxy = squall("token", "create", "--proxy").stdout.split()
    for secret in ("", "wrong", api.secret[:-1], proxy[1]):
        for method, pattern in ROUTES:
            status, answer = api(method, re.sub(r"\{\w+\}", "x", pattern), {} if method == "POST" else None, secret=secret)
            assert (status, answer["error"]["code"]) == (401, "auth"), (method, pattern)
    squall("token", "delete", proxy[0])


def test_nothing_is_kept_of_who_has_no_token(api: Api, data: Path) -> None:
    def memory_mib() -> float:
        return int(Path("/proc", (data / "server.lock").read_text().strip(), "statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    before = memory_mib()
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=10))
            raw.sendall(b"POST /api/v1/commands/ListApps HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (16 << 20) + bytes(15 << 20))
        assert memory_mib() < before + 90
        raw.sendall(bytes(1 << 20))
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 401 ")


def test_calling_functions(api: Api) -> None:
    status, answer = api("POST", "/apps/arithmetic/functions/add/call", {"args": [1], "kwargs": {"b": 41}})
    assert (status, answer["value"]) == (200, 42)
    assert answer["call"].startswith("fc-")
    assert api("POST", "/apps/arithmetic/functions/Counter.double/call", {"args": [4]})[1]["value"] == 8
    status, answer = api("POST", "/apps/arithmetic/functions/fail/call")
    assert (status, answer["error"]["type"], answer["error"]["message"]) == (500, "builtins.ValueError", "no such thing")
    assert "Traceback" in answer["error"]["traceback"]
    status, answer = api("POST", "/apps/arithmetic/functions/odd/call")
    assert status == 200
    assert set(answer) == {"call", "pickle"}
    status, spawned = api("POST", "/apps/arithmetic/functions/add/spawn", {"args": [2]})
    assert status == 202
    status, answer = api("GET", f"/calls/{spawned['call']}/result?timeout=30")
    assert (status, answer["value"]) == (200, 3)
    assert any(row["call"] == spawned["call"] for row in api("GET", "/calls?limit=10")[1]["calls"])


@pytest.mark.parametrize(
    ("method", "path", "raw", "status"),
    [
        ("POST", "/apps/arithmetic/functions/nothing/call", b"", 404),
        ("POST", "/apps/nothing/functions/add/call", b"", 404),
        ("POST", "/apps/arithmetic/functions/generate/spawn", b"", 400),
        ("POST", "/commands/Nothing", b"", 404),
        ("POST", "/commands/ListCalls", b'{"limit": "x"}', 400),
        ("POST", "/commands/ListCalls", b'{"unknown": 1}', 400),
        ("POST", "/commands/History", b"{}", 400),
        ("POST", "/commands/DropObject", b'{"kind": "volume", "name": "none", "environment": "main"}', 404),
        ("POST", "/apps/arithmetic/functions/add/call", b"{", 400),
        ("POST", "/apps/arithmetic/functions/add/call", b"[1]", 400),
        ("POST", "/apps/arithmetic/functions/add/call", b'{"arguments": []}', 400),
        ("POST", "/apps/arithmetic/functions/add/call", b"[" * 100_000, 400),
        ("POST", "/apps/arithmetic/functions/add/call", b" " * (17 << 20), 413),
        ("GET", "/apps/arithmetic/functions/add/call", None, 405),
        ("GET", "/calls/fc-0/result", None, 404),
        ("GET", "/calls/fc-0/result?timeout=abc", None, 400),
        ("GET", "/calls?limit=0", None, 400),
        ("POST", "/apps/arithmetic/rollback", b'{"version": 77}', 404),
        ("POST", "/apps/arithmetic/rollback", b'{"version": "x"}', 400),
        ("POST", "/containers/ct-0/stop", b"", 404),
        ("POST", "/schedules/nothing/run", b"", 404),
        ("GET", "/nowhere", None, 404),
    ],
)
def test_what_is_wrong_is_said(api: Api, method: str, path: str, raw: bytes | None, status: int) -> None:
    found, answer = api(method, path, raw=raw)
    assert found == status, answer
    assert answer["error"]["code"]
    assert answer["error"]["message"]


def test_the_description_names_every_operation(api: Api) -> None:
    document = api("GET", "/openapi.json")[1]
    described = {(method.upper(), path.removeprefix("/api/v1")) for path, methods in document["paths"].items() for method in methods}
    assert described == set(ROUTES) - {("POST", "/commands/{command}")} | {("POST", f"/commands/{name}") for name in COMMANDS}
    ids = [entry["operationId"] for methods in document["paths"].values() for entry in methods.values()]
    assert len(ids) == len(set(ids))
    assert "/api/v1/apps/{app}/rollback" in api("GET", "/docs")[1]


def test_a_value_that_is_longer_than_any_disk_in_json_holds_nobody_up(api: Api) -> None:
    status, answer = api("POST", "/apps/arithmetic/functions/bomb/call", {})
    assert (status, set(answer)) == (200, {"call", "pickle"})


def test_items_of_a_generator_are_server_sent_events(api: Api) -> None:
    def events(path: str, body: Any) -> list[tuple[str, Any]]:
        text = api("POST", path, body)[1]
        return [(name, json.loads(value)) for name, value in re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)]

    *items, (last, value) = events("/apps/arithmetic/functions/generate/call", {"args": [200]})
    assert items == [("item", {"value": number}) for number in range(200)]
    assert last == "end"
    assert value["call"].startswith("fc-")
    *items, (last, value) = events("/apps/arithmetic/functions/generate/call", {"args": [3], "kwargs": {"fails": True}})
    assert len(items) == 3
    assert (last, value["error"]["type"], value["error"]["message"]) == ("error", "builtins.ValueError", "no more")


def test_scopes_of_tokens(api: Api, squall: Runner) -> None:
    made = {kind: squall("token", "create", "--kind", kind).stdout.split() for kind in ("read", "call")}
    call, stop = ("POST", "/apps/arithmetic/functions/add/call", {"args": [1]}), ("POST", "/containers/ct-0/stop")
    for kind, statuses in {"read": (200, 200, 403, 403, 403), "call": (200, 200, 200, 403, 403)}.items():
        secret = made[kind][1]
        found = [api(*asked, secret=secret) for asked in (("GET", "/apps"), ("POST", "/commands/ListApps"), call, stop, ("POST", "/commands/StopServer"))]
        assert tuple(status for status, _ in found) == statuses, kind
        assert api("POST", "/commands/DictRead", {"id": "di-0", "key": "", "take": True}, secret=secret)[0] == 403, "which deletes"
        assert {answer["error"]["code"] for status, answer in found if status == 403} == {"permission_denied"}
        assert "squall token create --kind api" in found[-2][1]["error"]["message"]
        assert "the server's owner alone" in found[-1][1]["error"]["message"]
    for token, _ in made.values():
        squall("token", "delete", token)
    assert api("GET", "/apps", secret=made["read"][1])[0] == 401
    assert squall("token", "create", "--kind", "wrong").returncode == 1


def test_commands_do_what_the_command_line_does(api: Api) -> None:
    assert api("POST", "/commands/OpenObject", {"kind": "queue", "name": "jobs", "environment": "main", "mode": 1})[1]["id"].startswith("qu-")
    rows = api("POST", "/commands/ListObjects", {"kind": "queue", "environment": "main"})[1]["rows"]
    assert "jobs" in [row["name"] for row in rows]
    assert api("POST", "/commands/DropObject", {"kind": "queue", "name": "jobs", "environment": "main"})[0] == 200
    built = api("POST", "/commands/BuildImage", {"spec": {"steps": [{"kind": "debian_slim", "options": {"python_version": "3.11"}}]}})[1]
    assert built["names"][0] in [row["id"] for row in api("GET", "/images")[1]["images"]]
    assert api("POST", "/commands/ServerStatus")[1]["rows"][0]["listening"]


def test_the_owner_needs_no_token_on_the_unix_socket(api: Api, squall: Runner) -> None:
    listening = json.loads(squall("server", "status", "--json").stdout)["listening"]
    path = Path(next(place for place in listening if place.startswith("http+unix://")).removeprefix("http+unix://"))
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        raw.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while part := raw.recv(1 << 16):
            received += part
    assert received.startswith(b"HTTP/1.1 200")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["driver"]


def test_apps_containers_and_schedules(api: Api, squall: Runner) -> None:
    squall.program("arithmetic.py", PROGRAM)
    apps = {row["name"]: row for row in api("GET", "/apps")[1]["apps"] if row["state"] == "deployed"}
    assert "add" in apps["arithmetic"]["functions"]
    assert apps["arithmetic"]["version"] == 1
    assert squall("deploy", "arithmetic.py").returncode == 0
    assert [row["version"] for row in api("GET", "/apps/arithmetic/versions")[1]["versions"]] == [2, 1]
    assert api("POST", "/apps/arithmetic/rollback", {})[1]["version"] == 3
    api("POST", "/apps/arithmetic/functions/add/call", {"args": [1]})
    containers = api("GET", "/containers")[1]["containers"]
    mine = next(row["id"] for row in containers if row["function"] == "add")
    assert api("POST", f"/containers/{mine}/stop")[0] == 200
    schedules = api("GET", "/schedules")[1]["schedules"]
    assert [row["name"] for row in schedules] == ["arithmetic.daily"]
    status, started = api("POST", "/schedules/daily/run")
    assert status == 202
    assert api("GET", f"/calls/{started['call']}/result?timeout=30")[1]["value"] == "done"
    assert api("POST", "/schedules/daily/pause")[1]["paused"] is True
    assert api("POST", "/schedules/daily/pause", {"paused": False})[1]["paused"] is False
    assert api("GET", "/status")[1]["driver"]
    assert api("POST", "/apps/arithmetic/stop")[1]["state"] == "stopped"
    assert api("POST", "/apps/arithmetic/functions/add/call")[0] == 404
