"""What the app of a container has: secrets, volumes and buckets of its functions, and of the variants that its program declares."""

from typing import TYPE_CHECKING

import msgspec

from squall.model.specs import Attached, BucketMount, FunctionSpec

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


def owned(session: "Session") -> Attached:
    """Of the app that the session's container is of; nothing for other clients. Buckets are without their paths: those are the variant's own affair."""
    pool = session.pool
    if pool is None:
        return Attached()
    specs = [function.spec for function in session.server.router.functions.values() if function.app == pool.function.app]
    parts: list[FunctionSpec | Attached] = [*specs, *(spec.variants for spec in specs)]
    return Attached(
        tuple(secret for part in parts for secret in part.secrets),
        tuple(mount for part in parts for mount in part.volumes),
        tuple(anywhere(bucket) for part in parts for bucket in part.buckets),
    )


def app_of(session: "Session") -> str:
    """The app whose code in a container it is, if any."""
    return session.pool.function.app if session.pool is not None else ""


def holds(session: "Session", object_id: str) -> bool:
    """Whether it, or other code of its app, has made this ephemeral object or was given it."""
    return session.server.state.holds(object_id, session, app_of(session))


def anywhere(bucket: BucketMount) -> BucketMount:
    """The bucket, wherever it is mounted."""
    return msgspec.structs.replace(bucket, path="")
