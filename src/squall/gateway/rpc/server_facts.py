"""What the server answers about itself."""

import os
import resource
import time
from typing import TYPE_CHECKING, Any

from squall.gateway.auth.rights import Right
from squall.gateway.rpc.operations import operation
from squall.wire.messages import Done, Rows, ServerStatus, StopServer

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


@operation(Right.READ)
async def _answer_status(session: "Session", request: int, command: ServerStatus) -> Rows:
    return Rows(({**_status(session), **await session.server.retention.facts()},))


@operation(Right.OWNER)
async def _stop(session: "Session", request: int, command: StopServer) -> Done:
    session.server.stop(leave=command.leave)
    return Done()


def _status(session: "Session") -> dict[str, Any]:
    server = session.server
    statistics = server.router.statistics()
    return {
        "id": server.id, "version": server.version, "pid": os.getpid(), "started_at": server.started_at, "uptime_s": time.time() - server.started_at,
        "driver": server.driver.name, "data": str(server.data), "listening": list(server.listening), "apps": len(server.apps.live),
        "containers": statistics.containers, "queued": statistics.queued, "running": statistics.running, "inputs_done": statistics.inputs_done,
        "memory_max_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip
