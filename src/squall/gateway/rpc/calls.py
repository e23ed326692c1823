"""What the server answers about calls and their inputs."""

from typing import TYPE_CHECKING, Any

from squall.control.apps import variants
from squall.control.calls.history import stored
from squall.gateway.auth import container_permissions as permissions
from squall.gateway.auth.rights import Right
from squall.gateway.rpc.ids import NAMED_MAX, find_id
from squall.gateway.rpc.operations import operation
from squall.model.errors import InvalidError, NotFoundError
from squall.model.ids import input_id
from squall.wire.messages import ListCalls, ListInputs, Rows

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


@operation(Right.READ)
async def _list(session: "Session", request: int, command: ListCalls) -> Rows:
    return Rows(tuple(await _rows(session, command.app, command.call, command.limit)))


@operation(Right.READ, container=permissions.always)
async def _inputs(session: "Session", request: int, command: ListInputs) -> Rows:
    server, call = session.server, command.call
    rows = await variants.list_inputs(server.router, server.store, call, descendants=command.descendants)
    if session.container and not await variants.may_see(server.router, server.store, session.container, call):
        raise NotFoundError(f"there is no call {call}")  # of another app, for all that this container may know
    return Rows(tuple(rows))


async def _rows(session: "Session", app: str, call: str, limit: int) -> list[dict[str, Any]]:
    router = session.server.router
    app = await find_id(session, app, "ap") if app else ""
    if not call:
        return router.history.rows(router, app=app, limit=limit)
    known = {
        *router.inputs.calls_with_prefix(call),
        *router.history.calls(),
        *(await router.store.ids_with_prefix("fc", call, NAMED_MAX) if len(call) >= 4 else ()),
    }
    named = sorted(name for name in known if name.startswith(call)) if len(call) >= 4 else []
    if len(named) > 1 and call not in named:
        raise InvalidError(f"{call!r} is the beginning of several calls: {', '.join(named[:4])} ...; write a longer one")
    name = call if call in named or not named else named[0]
    rows = router.history.rows(router, call=name, limit=limit) or await stored(router, name)
    if not rows:
        raise NotFoundError(f"there is no call {call!r} any more; squall call list shows the latest")
    for row in rows:
        if (row["attempts"] or 0) > 1:
            events = await router.store.events(input_id(row["call"], row["index"]))
            row["failed_attempts"] = [{"at": event.time, "error": event.detail} for event in events]
    return rows
