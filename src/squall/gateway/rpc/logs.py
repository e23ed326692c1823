"""What containers print, as it comes and as it was."""

import time
from typing import TYPE_CHECKING

from squall.gateway.auth.rights import Right
from squall.gateway.rpc.containers import container_rows
from squall.gateway.rpc.ids import find_id
from squall.gateway.rpc.operations import operation
from squall.model.errors import InvalidError
from squall.model.ids import AppId
from squall.wire.messages import ContainerProgress, Done, Follow, LogChunk

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


@operation(Right.READ, lasting=True)
async def _follow(session: "Session", request: int, command: Follow) -> Done:
    server = session.server
    app = await find_id(session, command.app, "ap") if command.app else ""
    container = await find_id(session, command.container, "ct") if command.container else ""
    if not app and not container:
        raise InvalidError("Follow needs an app or a container")

    def on_container(event: ContainerProgress) -> None:
        event.request = request
        session.send(event)

    def deliver(chunk: LogChunk) -> bool:
        chunk.request = request
        session.send(chunk)
        return not session.peer.congested

    with server.logs.follow(deliver, app=app, container=container) as follower, server.container_events(app, on_container):
        if command.replay:
            names = [container] if container else [row.id for row in await container_rows(session, AppId(app))]
            for chunks in [server.logs.replay(name) for name in names] if command.tail is None else [server.logs.tail(names, command.tail)]:
                async for chunk in chunks:
                    deliver(chunk)
                    await session.peer.drain()
        if command.mark:
            deliver(LogChunk(0, "", "", 1, b"", time.time()))
        running = app in server.apps.live or container in server.router.members
        if command.follow and running:
            await follower.run(session.peer.drain)
    return Done()
