"""What the server answers about deployments, web functions, schedules and tokens."""

import hashlib
import os
import secrets
import time
from typing import TYPE_CHECKING, Any

from squall.model.errors import InvalidError, NotFoundError
from squall.model.ids import make_id
from squall.store.rows import TokenRow
from squall.wire.deploys import (
    CreateToken,
    DeleteToken,
    Deploy,
    DeployCommand,
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
from squall.wire.messages import Answer, Done, ImageProgress, Names, Rows

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


#: What code inside a container may ask for: what is deployed, and where it is.
FROM_CONTAINERS = (Lookup, WebUrls)


async def answer(session: "Session", request: int, command: DeployCommand) -> Answer:
    """Do it.

    Raises:
        Error: the refusal.
    """
    server = session.server

    def progress(event: ImageProgress) -> None:
        event.request = request
        session.send(event)

    match command:
        case PlanDeploy(spec, environment):
            return Rows(tuple(server.deployments.plan(spec, environment)))
        case Deploy(spec, environment, _, _, serve) if serve:
            return await server.deployments.serve(serve, spec, environment, session, progress)
        case Deploy(spec, environment, tag, strategy):
            return await server.deployments.deploy(spec, environment, progress, tag=tag, strategy=strategy)
        case Rollback(app, version, environment, strategy):
            return await server.deployments.rollback(app, version, environment, progress, strategy=strategy)
        case History(app, environment):
            row = await server.deployments.find(app, environment)
            return Rows(tuple(await server.deployments.history(row.id)))
        case Lookup(app, environment, create):
            row_found = server.deployments.named(app, environment)
            if row_found is None and create:
                row_found = await server.deployments.create(app, environment)
            return await server.deployments.found(row_found or await server.deployments.find(app, environment), inside=session.inside)
        case RenameApp(app, name, environment):
            await server.deployments.rename(app, name, environment)
            return Done()
        case ListSchedules():
            return Rows(tuple(server.schedules.rows()))
        case RunSchedule(name):
            return Names((server.schedules.call(server.schedules.one(name)),))
        case PauseSchedule(name, paused):
            return Names(tuple(await server.schedules.pause(name, paused)))
        case WebAddress():
            return Names((await server.web.ensure_listening(),))
        case WebUrls(app):
            if (function := server.router.functions.get(app)) is not None:
                app = function.app
            return Rows(tuple({"function": name, "url": url} for name, url in server.web.urls(app, inside=session.inside).items()))
        case CreateToken(kind, name):
            return Names(await create_token(server, kind, name))
        case ListTokens():
            return Rows(tuple(token_rows(await server.store.tokens())))
        case DeleteToken(token):
            if not await server.store.delete_token(token):
                raise NotFoundError(f"there is no token {token!r}; squall token list shows what there is")
            await server.tokens_changed()
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
