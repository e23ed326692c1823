"""Each row of the table of operations, sent with each kind of token: the owner's socket, a client's token, API tokens, code in containers, and none."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from squall.gateway.auth.rights import Right
from squall.gateway.rpc import dispatch
from squall.gateway.rpc.operations import TABLE
from squall.model.specs import AppSpec, ImageSpec
from squall.wire.address import socket_path
from squall.wire.blocking import BlockingConnection
from squall.wire.messages import PROTOCOL_VERSION, Fault, Hello, ImageRequest, Reply, Request, ToClient
from squall.wire.state import DictDo, DictRead, QueueDo, VolumeHistory

from .conftest import Runner
from .test_api import Api
from .test_server import own

pytestmark = pytest.mark.root
__all__ = ["own"]
assert dispatch.answer  # it imports the modules that fill the table

#: Repeated here by hand: a row that gets into one of these by mistake fails.
OWNERS = {"StopServer", "CreateToken", "DeleteToken", "Collect", "RotateKey"}
FROM_CONTAINERS = {
    "OpenObject", "DropObject", "DictRead", "DictWrite", "DictScan", "DictDo", "QueuePut", "QueueGet", "QueuePeek", "QueueDo", "VolumeList", "VolumeRead",
    "VolumeWrite", "VolumeUpload", "VolumeDo", "VolumeHistory", "Lookup", "WebUrls", "FunctionStatus", "ListInputs", "LeaveAfterInput", "DeriveFunction",
    "TuneFunction",
}  # fmt: skip
FROM_DEPLOYING_CONTAINERS = {"MissingBlobs", "PutBlobs", "PutSecret", "PlanDeploy", "Deploy", "Rollback", "History", "StopApp"}

EMPTY = {
    str: "", bytes: b"", int: 0, float: 0.0, bool: False, AppSpec: AppSpec(None, "", (), ()), ImageSpec: ImageSpec(()), dict[str, str]: {},
    dict[str, bytes]: {}, tuple[str, ...]: (), tuple[bytes, ...]: (),
}  # fmt: skip


def blank(kind: type[msgspec.Struct]) -> msgspec.Struct:
    """A command that is allowed or refused, and does next to nothing."""
    needed = [field for field in msgspec.structs.fields(kind) if field.required]
    return kind(**{field.name: EMPTY.get(field.type, ()) for field in needed})


#: A blank one of each row; the one that ends the server is the last.
COMMANDS = sorted((blank(row.request) for row in TABLE.values()), key=lambda command: type(command).__name__ == "StopServer")
#: Those whose fields decide what they need. Nothing of the layers is removed: other servers share them.
PARTICULAR = [
    ImageRequest("prune", options={"try_only": True}), ImageRequest("list"), ImageRequest("unpublish"), DictRead("di-0", b"", take=True),
    DictDo("di-0", "len"), DictDo("di-0", "clear"), QueueDo("qu-0", "total"), QueueDo("qu-0", "clear_all"), VolumeHistory("vo-0", "delete"),
]  # fmt: skip

PROGRAM = """
import squall
from squall.exception import Error
from squall.sdk.client.client import Client
import msgspec
from squall.wire.messages import Command

app = squall.App("asking")

def ask(packed):
    client, said = Client.default(), {}
    for each in packed:
        command = msgspec.msgpack.decode(each, type=Command)
        try:
            client.request(command)
            said[type(command).__name__] = ""
        except Error as error:
            said[type(command).__name__] = f"{error.code}: {error}"
    return said

@app.function()
def guest(packed):
    return ask(packed)

@app.function(may_deploy=True)
def deployer(packed):
    return ask(packed)
"""


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    yield number


Ask = Callable[[msgspec.Struct], str]


@contextmanager
def asking(place: str | int, token: str | None = None) -> Iterator[Ask]:
    """Sends commands over a connection; the code of the refusal, or nothing."""
    with socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET) as sock:
        sock.connect(place if isinstance(place, str) else ("127.0.0.1", place))
        yield _ask(sock, token)


def _ask(sock: socket.socket, token: str | None) -> Ask:
    connection = BlockingConnection(sock, ToClient)
    connection.send(Hello(PROTOCOL_VERSION, "client", "test", token=token))
    greeting = connection.receive(10)
    if isinstance(greeting, Fault):
        return lambda command: greeting.code

    def ask(command: msgspec.Struct) -> str:
        connection.send(Request(1, command))
        while not isinstance(answer := connection.receive(30), Reply | Fault):
            pass
        return answer.code if isinstance(answer, Fault) else ""

    return ask


def body(command: msgspec.Struct) -> dict[str, Any]:
    return {name: msgspec.to_builtins(getattr(command, name)) for name in type(command).__struct_fields__}


def test_every_command_with_every_kind_of_token(own: Runner, port: int) -> None:
    assert own("server", "start", "--listen", f"tcp://127.0.0.1:{port}", "--web", "127.0.0.1:0").returncode == 0
    secrets = {kind: own("token", "create", "--kind", kind).stdout.split()[1] for kind in ("api", "call", "read", "proxy")}
    listening = json.loads(own("server", "status", "--json").stdout)["listening"]
    api = Api(next(int(place.rpartition(":")[2]) for place in listening if place.startswith("web ")), "")

    for command in [*COMMANDS, *PARTICULAR]:
        row = TABLE[type(command)]
        for kind, given in (("api", Right.EVERYTHING), ("call", Right.CALL), ("read", Right.READ)):
            status, answer = api("POST", f"/commands/{row.name}", body(command), secret=secrets[kind])
            if row.lasting:
                assert status == 404, (row.name, kind)
            else:
                assert (status == 403) == (row.needs(command) > given), (row.name, kind, answer)
            assert status != 500, (row.name, answer)
        for nobody in ("", "wrong", secrets["proxy"]):
            assert api("POST", f"/commands/{row.name}", body(command), secret=nobody)[0] == 401, row.name

    with asking(port, own("server", "token").stdout.strip()) as client:
        for command in [*COMMANDS, *PARTICULAR]:
            refused = client(command) == "permission_denied"
            assert refused == (TABLE[type(command)].needs(command) is Right.OWNER), command
            with asking(port) as nobody_at_all:
                assert nobody_at_all(command) == "auth"
    assert {row.name for row in TABLE.values() if row.right is Right.OWNER} == OWNERS

    with asking(str(socket_path(own.data))) as owner:
        for command in [*PARTICULAR, *COMMANDS]:  # the last ends the server
            assert owner(command) not in ("permission_denied", "auth", "internal"), command


def test_every_command_from_a_container(squall: Runner, data: Any) -> None:
    import squall as public

    squall.program("asking.py", PROGRAM)
    assert squall("deploy", "asking.py").returncode == 0
    packed = [msgspec.msgpack.encode(command) for command in COMMANDS]
    try:
        guest = public.Function.from_name("asking", "guest").remote(packed)
        deployer = public.Function.from_name("asking", "deployer").remote(packed)
    finally:
        squall("app", "stop", "asking")
    for said, allowed in ((guest, FROM_CONTAINERS), (deployer, FROM_CONTAINERS | FROM_DEPLOYING_CONTAINERS)):
        refused = {name for name, why in said.items() if "may not send" in why or "may not deploy" in why}
        assert refused == {row.name for row in TABLE.values()} - allowed
        assert not [why for why in said.values() if why.startswith("internal")], said
