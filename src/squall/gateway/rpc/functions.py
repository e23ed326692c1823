"""What the server answers about functions."""

from typing import TYPE_CHECKING

from squall.control.apps import variants
from squall.control.calls.explain import describe_functions
from squall.core.calls import dispatch
from squall.gateway.auth import container_permissions as permissions
from squall.gateway.auth.rights import Right
from squall.gateway.rpc.ids import find_id
from squall.gateway.rpc.operations import operation
from squall.model.errors import InvalidError
from squall.wire.messages import DeriveFunction, Done, FunctionStatus, LeaveAfterInput, ListFunctions, Names, Rows, TuneFunction

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


@operation(Right.READ)
async def _list(session: "Session", request: int, command: ListFunctions) -> Rows:
    app = await find_id(session, command.app, "ap") if command.app else ""
    return Rows(tuple(describe_functions(session.server.router, app, command.tag)))


@operation(Right.EVERYTHING, container=permissions.derive_function)
async def _derive(session: "Session", request: int, command: DeriveFunction) -> Names:
    server = session.server
    variants.check_reach(server.router, session.container, command.function)
    return Names((await variants.derive_function(server.router, server.store, command.function, command.options),))


@operation(Right.EVERYTHING, container=permissions.tune_function)
async def _tune(session: "Session", request: int, command: TuneFunction) -> Rows:
    variants.check_reach(session.server.router, session.container, command.function)
    return Rows((variants.tune(session.server.router, command),))


@operation(Right.READ, container=permissions.always)
async def _status(session: "Session", request: int, command: FunctionStatus) -> Rows:
    variants.check_reach(session.server.router, session.container, command.function)
    return Rows((variants.status(session.server.router, command.function, command.parameters),))


@operation(Right.EVERYTHING, container=permissions.always, lasting=True)
async def _leave(session: "Session", request: int, command: LeaveAfterInput) -> Done:
    if (pool := session.pool) is None:
        raise InvalidError("only code in a container can leave it")
    pool.feed(dispatch.leave, pool.members[session.container], session.server.router.now())
    return Done()
