"""What the server answers about containers."""

import time
from typing import TYPE_CHECKING

from squall.control.retrying_writes import first_row
from squall.core.calls import dispatch
from squall.gateway.auth.rights import Right
from squall.gateway.rpc.ids import find_id
from squall.gateway.rpc.operations import operation
from squall.model.errors import NotFoundError
from squall.model.ids import AppId
from squall.model.states import ContainerState
from squall.store.rows import ContainerRow
from squall.wire.messages import Done, ListContainers, Rows, StopContainer

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


@operation(Right.READ)
async def _list(session: "Session", request: int, command: ListContainers) -> Rows:
    server = session.server
    app = await find_id(session, command.app, "ap") if command.app else ""
    members = server.router.members
    rows = []
    for row in await container_rows(session, AppId(app) if app else None, live_only=not command.all):
        member = members.get(row.id)
        if member is None and not command.all:
            continue
        function = server.router.functions.get(row.function)
        process = member.process if member is not None else None
        used = member.link.agent.usage(member.id) if member is not None else None
        rows.append(
            {
                "id": row.id, "app": row.app, "function": function.spec.tag if function is not None else row.function,
                "state": str(member.state if member is not None else ContainerState.STOPPED), "created_at": row.created_at, "ready_at": row.ready_at,
                "stopped_at": row.stopped_at, "reason": row.reason, "inputs": len(member.running) if member is not None else 0,
                "inputs_done": member.inputs_done if member is not None else server.router.history.done.get(row.id),
                "cpu_s": used.cpu_s if used is not None else None,
                "memory_bytes": used.memory_bytes if used is not None else None, "pid": process.pid if process is not None else row.pid,
                "copy_of": process.copy_of if process is not None else None, "not_forked": process.not_forked if process is not None else None,
            }
        )  # fmt: skip
    return Rows(tuple(rows))


@operation(Right.EVERYTHING)
async def _stop(session: "Session", request: int, command: StopContainer) -> Done:
    container = await find_id(session, command.container, "ct")
    if (member := session.server.router.members.get(container)) is None:
        raise NotFoundError(f"container {container} does not run")
    if command.graceful:
        member.pool.feed(dispatch.leave, member, session.server.router.now())
    else:
        member.pool.dismiss(member, "stopped by hand")
    return Done()


async def container_rows(session: "Session", app: AppId | None = None, *, live_only: bool = False) -> list[ContainerRow]:
    """As in the store, and those whose first row is still on its way to the disk."""
    server = session.server
    rows = await server.store.containers(app, live_only=live_only)
    stored = {row.id for row in rows}
    started = time.time() - server.router.now()
    members = server.router.members.values() if app is None else server.router.members_of(app)
    return rows + [first_row(member, started + member.created) for member in members if member.recorded is None and member.id not in stored]
