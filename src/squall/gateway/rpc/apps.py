"""What the server answers about apps."""

from typing import TYPE_CHECKING

from squall.gateway.auth import container_permissions as permissions
from squall.gateway.auth.rights import Right
from squall.gateway.rpc.ids import find_id
from squall.gateway.rpc.operations import operation
from squall.wire.messages import AppStarted, Attach, Done, ImageProgress, ListApps, Rows, StartApp, StopApp

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


@operation(Right.EVERYTHING)
async def _start(session: "Session", request: int, command: StartApp) -> AppStarted:
    def progress(event: ImageProgress) -> None:
        event.request = request
        session.send(event)

    return await session.server.apps.start(command.app, command.spec, session, progress, detach=command.detach, environment=command.environment)


@operation(Right.EVERYTHING, container=permissions.stop_app)
async def _stop(session: "Session", request: int, command: StopApp) -> Done:
    await session.server.apps.stop(await find_id(session, command.app, "ap"))
    return Done()


@operation(Right.EVERYTHING, lasting=True)
async def _attach(session: "Session", request: int, command: Attach) -> Done:
    session.server.apps.hold(command.app, session)
    return Done()


@operation(Right.READ)
async def _list(session: "Session", request: int, command: ListApps) -> Rows:
    server = session.server
    rows = []
    for row in await server.store.apps():
        pools = server.router.pools_of(row.id)
        rows.append(
            {
                "id": row.id, "name": row.name, "description": row.description, "state": str(row.state), "created_at": row.created_at,
                "stopped_at": row.stopped_at, "environment": row.environment,
                "containers": sum(len(pool.members) for pool in pools), "waiting": sum(len(pool.queue) for pool in pools),
            }
        )  # fmt: skip
    return Rows(tuple(rows))
