"""The commands of the SDK and the command line in HTTP: each message of the wire's table as an operation with a JSON body."""

from typing import TYPE_CHECKING, Any, cast

import msgspec

from squall.gateway.auth.rights import Right, need
from squall.gateway.rpc import dispatch
from squall.gateway.rpc.operations import TABLE, Operation
from squall.gateway.rpc.session import Session
from squall.model.errors import InvalidError, NotFoundError
from squall.wire import messages
from squall.wire.stream import Peer

if TYPE_CHECKING:
    from squall.gateway.server import Server

COMMANDS = {row.name: row for row in TABLE.values() if not row.lasting}


class _Collecting:
    """In the place of a connection: keeps what the server sends on the way to its answer."""

    congested = False
    transport = None

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)

    async def drain(self) -> None:
        return None

    def close(self) -> None:
        return None


def find(name: str) -> Operation:
    """The command of that name.

    Raises:
        NotFoundError: there is none.
    """
    if name not in COMMANDS:
        raise NotFoundError(f"there is no command {name!r}; /api/v1/openapi.json has them all")
    return COMMANDS[name]


async def run(server: "Server", name: str, body: dict[str, Any], right: Right) -> dict[str, Any]:
    """Do one, and its answer's fields; what came on the way to it, such as the progress of a build, is under ``events``.

    Objects without a name that it makes live as long as it runs.

    Raises:
        NotFoundError: no such command.
        PermissionDeniedError: the right is not enough for it.
        InvalidError: its fields are not like that.
        Error: the refusal.
    """
    row = find(name)
    need(name, row.right, right)  # before a word about the fields
    command = _command(row.request, body)
    if isinstance(command, messages.StartApp) and not command.detach:
        raise InvalidError("an app that is started by one request has no client that holds it: say detach")
    peer = _Collecting()
    session = Session(server, cast(Peer[Any], peer), right=right)
    try:
        answer = await dispatch.answer(session, 0, cast(messages.Command, command))
    finally:
        session.lost(None)
    found = _fields(answer)
    if peer.sent:
        found["events"] = [_fields(event) for event in peer.sent]
    return found


def _command(kind: type[msgspec.Struct], body: dict[str, Any]) -> msgspec.Struct:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    if unknown := sorted(set(body) - set(fields)):
        raise InvalidError(f"{kind.__name__} has no {', '.join(unknown)}; it has {', '.join(fields) or 'no fields'}")
    if missing := [name for name, field in fields.items() if field.required and name not in body]:
        raise InvalidError(f"{kind.__name__} needs {', '.join(missing)}")
    given = {}
    for name, value in body.items():
        try:
            given[name] = msgspec.convert(value, fields[name].type)
        except msgspec.ValidationError as error:
            raise InvalidError(f"{kind.__name__}.{name}: {error}") from error
    return kind(**given)


def _fields(message: Any) -> dict[str, Any]:
    return {name: msgspec.to_builtins(getattr(message, name), enc_hook=str) for name in type(message).__struct_fields__ if name != "request"}


def schemas() -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The schema of each command's body, and what these refer to, for OpenAPI."""
    template = "#/components/schemas/{name}"
    fields = {name: msgspec.structs.fields(row.request) for name, row in COMMANDS.items()}
    flat = [(name, field) for name, known in fields.items() for field in known]
    found, components = msgspec.json.schema_components([field.type for _, field in flat], ref_template=template)
    bodies: dict[str, dict[str, Any]] = {
        name: {"type": "object", "properties": {}, "required": [field.name for field in known if field.required], "additionalProperties": False}
        for name, known in fields.items()
    }
    for (name, field), schema in zip(flat, found, strict=True):
        bodies[name]["properties"][field.name] = schema
    return bodies, components
