"""Every command goes through here: who may send it, whether it can be so, then the function that its row names."""

from typing import TYPE_CHECKING

# Their functions fill the table.
from squall.gateway.auth import arrivals
from squall.gateway.rpc import apps, blobs, calls, containers, deployments, exec, functions, images, logs, server_facts, storage  # noqa: F401
from squall.gateway.rpc.operations import check_right, find
from squall.wire.messages import Answer, Command

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


async def answer(session: "Session", request: int, command: Command) -> Answer:
    """Do it.

    Raises:
        Error: the refusal, sent to the client as its class.
    """
    row = find(command)
    check_right(session, row, command)
    arrivals.check(command)
    if session.container and row.container is not None:
        await row.container(session, command)
    if (environment := getattr(command, "environment", "")) and not getattr(command, "allow_missing", False):
        await session.server.state.environments.check(environment)
    answered: Answer = await row.handler(session, request, command)
    return answered
