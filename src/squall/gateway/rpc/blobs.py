"""Contents that clients bring, named by their digests."""

import asyncio
from typing import TYPE_CHECKING

from squall.gateway.auth import container_permissions as permissions
from squall.gateway.auth.rights import Right
from squall.gateway.rpc.operations import operation
from squall.wire.messages import Done, MissingBlobs, Names, PutBlobs

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


@operation(Right.READ, container=permissions.if_it_may_deploy)
async def _missing(session: "Session", request: int, command: MissingBlobs) -> Names:
    return Names(await asyncio.to_thread(session.server.blobs.missing, command.digests))


@operation(Right.EVERYTHING, container=permissions.if_it_may_deploy)
async def _put(session: "Session", request: int, command: PutBlobs) -> Done:
    await asyncio.to_thread(session.server.blobs.put_all, command.blobs)
    return Done()
