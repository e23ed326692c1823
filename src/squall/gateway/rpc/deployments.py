"""What the server answers about deployments, web functions, schedules and tokens."""

import hashlib
import os
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from squall.gateway.auth import container_permissions as permissions
from squall.gateway.auth.rights import Right
from squall.gateway.rpc.operations import operation
from squall.model.errors import InvalidError, NotFoundError
from squall.model.ids import make_id
from squall.store.rows import TokenRow
from squall.wire.deploys import (
    CreateToken,
    DeleteToken,
    Deploy,
    Deployed,
    Found,
    History,
    ListSchedules,
    ListTokens,
    Lookup,
    PauseSchedule,
    PlanDeploy,
    RenameApp,
    Rollback,
    RunSchedule,
    WebAddress,
    WebUrls,
)
from squall.wire.messages import Done, ImageProgress, Names, Rows

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session
    from squall.gateway.server import Server

#: Kinds of tokens, and what they are good for.
TOKEN_KINDS = {
    "proxy": "web functions with requires_proxy_auth=True",
    "api": "the HTTP API",
    "call": "the HTTP API: looking, and calling functions",
    "read": "the HTTP API: looking only",
}


def _progress(session: "Session", request: int) -> Callable[[ImageProgress], None]:
    """Tells the client about the images that are built."""

    def progress(event: ImageProgress) -> None:
        event.request = request
        session.send(event)

    return progress


@operation(Right.READ, container=permissions.plan)
async def _plan(session: "Session", request: int, command: PlanDeploy) -> Rows:
    return Rows(tuple(session.server.deployments.plan(command.spec, command.environment)))


@operation(Right.EVERYTHING, container=permissions.deploy)
async def _deploy(session: "Session", request: int, command: Deploy) -> Deployed:
    deployments, progress = session.server.deployments, _progress(session, request)
    if command.serve:
        deployed = await deployments.serve(command.serve, command.spec, command.environment, session, progress)
    else:
        deployed = await deployments.deploy(command.spec, command.environment, progress, tag=command.tag, strategy=command.strategy)
    return _for_client(session, deployed)


def _for_client(session: "Session", deployed: Deployed) -> Deployed:
    """With addresses that this client can open."""
    deployed.urls = session.server.web.urls(deployed.app, at=session.web_base)
    return deployed


@operation(Right.EVERYTHING, container=permissions.named_app)
async def _rollback(session: "Session", request: int, command: Rollback) -> Deployed:
    progress = _progress(session, request)
    deployed = await session.server.deployments.rollback(
        command.app, command.version, command.environment, progress, strategy=command.strategy, again=command.again
    )
    return _for_client(session, deployed)


@operation(Right.READ, container=permissions.named_app)
async def _history(session: "Session", request: int, command: History) -> Rows:
    row = await session.server.deployments.find(command.app, command.environment)
    return Rows(tuple(await session.server.deployments.history(row.id)))


@operation(Right.READ, exact=lambda command: Right.EVERYTHING if command.create else Right.READ, container=permissions.look_up)
async def _look_up(session: "Session", request: int, command: Lookup) -> Found:
    deployments = session.server.deployments
    row = deployments.named(command.app, command.environment)
    if row is None and command.create:
        row = await deployments.create(command.app, command.environment)
    return await deployments.found(row or await deployments.find(command.app, command.environment), at=session.web_base)


@operation(Right.EVERYTHING)
async def _rename(session: "Session", request: int, command: RenameApp) -> Done:
    await session.server.deployments.rename(command.app, command.name, command.environment)
    return Done()


@operation(Right.READ)
async def _schedules(session: "Session", request: int, command: ListSchedules) -> Rows:
    return Rows(tuple(session.server.schedules.rows()))


@operation(Right.EVERYTHING)
async def _run_schedule(session: "Session", request: int, command: RunSchedule) -> Names:
    schedules = session.server.schedules
    return Names((schedules.call(schedules.one(command.name)),))


@operation(Right.EVERYTHING)
async def _pause_schedule(session: "Session", request: int, command: PauseSchedule) -> Names:
    return Names(tuple(await session.server.schedules.pause(command.name, command.paused)))


@operation(Right.EVERYTHING)
async def _web_address(session: "Session", request: int, command: WebAddress) -> Names:
    base = await session.server.web.ensure_listening()
    return Names((session.web_base or session.server.web.public or base,))


@operation(Right.READ, container=permissions.always)
async def _web_urls(session: "Session", request: int, command: WebUrls) -> Rows:
    function = session.server.router.functions.get(command.app)
    urls = session.server.web.urls(function.app if function is not None else command.app, at=session.web_base)
    return Rows(tuple({"function": name, "url": url} for name, url in urls.items()))


@operation(Right.OWNER)
async def _create_token(session: "Session", request: int, command: CreateToken) -> Names:
    return Names(await create_token(session.server, command.kind, command.name))


@operation(Right.READ)
async def _list_tokens(session: "Session", request: int, command: ListTokens) -> Rows:
    return Rows(tuple(token_rows(await session.server.store.tokens())))


@operation(Right.OWNER)
async def _delete_token(session: "Session", request: int, command: DeleteToken) -> Done:
    if not await session.server.store.delete_token(command.token):
        raise NotFoundError(f"there is no token {command.token!r}; squall token list shows what there is")
    await session.server.tokens_changed()
    return Done()


async def create_token(server: "Server", kind: str, name: str) -> tuple[str, str]:
    """A new token: its id and its secret, of which only a digest is kept.

    Raises:
        InvalidError: an unknown kind.
    """
    if kind not in TOKEN_KINDS:
        raise InvalidError(f"{kind!r} is no kind of token; kinds are {', '.join(f'{kind} ({use})' for kind, use in TOKEN_KINDS.items())}")
    token_id, secret = make_id("wk" if kind == "proxy" else "ak", time.time_ns() // 1_000_000, os.urandom(10)), f"ws-{secrets.token_urlsafe(24)}"
    await server.store.save_token(TokenRow(token_id, kind, name, digest(secret), time.time()))
    await server.tokens_changed()
    await server.web.ensure_listening()
    return token_id, secret


def digest(secret: str) -> str:
    """What is kept of a secret: it has 192 random bits, so a plain hash can't be searched."""
    return hashlib.sha256(secret.encode()).hexdigest()


def token_rows(rows: list[TokenRow]) -> list[dict[str, Any]]:
    """For listings: without digests."""
    return [{"id": row.id, "kind": row.kind, "name": row.name, "created_at": row.created_at} for row in rows]
