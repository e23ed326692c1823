"""What a client inside a container may ask for: what concerns its own app, and to deploy where its function was declared with ``may_deploy=True``.

Each function here is the container's column of a row in the table of operations, and raises PermissionDeniedError.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from squall.gateway.auth.app_resources import anywhere, holds, owned
from squall.model.errors import NotFoundError, PermissionDeniedError
from squall.model.options import FunctionOptions, derive, options_of
from squall.model.sizes import more_containers, more_resources
from squall.model.specs import OF_ENVIRONMENT, AppSpec, BucketMount, FunctionSpec, VolumeMount
from squall.model.states import AppState
from squall.model.validation import lies_within
from squall.wire.deploys import Deploy, History, Lookup, PlanDeploy, Rollback
from squall.wire.messages import Command, DeriveFunction, StopApp, TuneFunction
from squall.wire.state import DICT, LOOK_UP, QUEUE, SECRET, VOLUME, OpenObject, PutSecret

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session

_AS_DECLARED = (
    "which is what the program declares; code in a container may go beyond that only where its function was declared with  @app.function(may_deploy=True);"
    " or declare the variant in the program, outside of its functions"
)


async def always(session: "Session", command: Command) -> None:
    """Whose function or object it is, is looked at where the command is answered."""


async def open_object(session: "Session", command: OpenObject) -> None:
    """Dicts, queues and volumes; secrets of its app, and with `may_deploy` those of its environment."""
    if command.kind == SECRET and command.mode == LOOK_UP:
        if f"{command.environment or 'main'}/{command.name}" not in owned(session).secrets:
            _same_environment(command.environment, _granted(session))
    elif command.kind not in (DICT, QUEUE, VOLUME):
        raise PermissionDeniedError(f"code in a container may not ask for a {command.kind}")


async def look_up(session: "Session", command: Lookup) -> None:
    """Any app that is there; to create one is to deploy."""
    if command.create and session.server.deployments.named(command.app, command.environment) is None:
        _same_environment(command.environment, _granted(session))


async def put_secret(session: "Session", command: PutSecret) -> None:
    """One that its app has already, so that nothing is stored and nothing learned; with `may_deploy` any that has no name."""
    if not command.name and session.server.state.secrets.anonymous_id(command.values) in owned(session).secrets:
        return
    own = _granted(session)
    if command.name:
        raise PermissionDeniedError("code in a container may not change a named secret; squall secret create does")
    _same_environment(command.environment, own)


async def if_it_may_deploy(session: "Session", command: Command) -> None:
    """What goes with a deployment."""
    _granted(session)


async def plan(session: "Session", command: PlanDeploy) -> None:
    """Into its own environment."""
    _same_environment(command.environment, _granted(session))


async def deploy(session: "Session", command: Deploy) -> None:
    """Into its own environment, with what is of that environment."""
    own = _granted(session)
    _same_environment(command.environment, own)
    if command.serve:
        raise PermissionDeniedError("code in a container may deploy an app, not serve one")
    await _check_spec(session, command.spec, own)


async def named_app(session: "Session", command: Rollback | History) -> None:
    """An app of its own environment."""
    own = _granted(session)
    _same_environment(command.environment, own)
    if (found := session.server.deployments.named(command.app, own)) is not None:
        _same_environment(found.environment, own)  # ids name apps of every environment


async def stop_app(session: "Session", command: StopApp) -> None:
    """A deployed app of its own environment."""
    own = _granted(session)
    row = session.server.apps.live.get(command.app)
    if row is None or row.state is not AppState.DEPLOYED:
        raise NotFoundError(f"no app {command.app} is deployed")
    _same_environment(row.environment, own)


def _granted(session: "Session") -> str:
    """The environment in which it may deploy: that of its own app."""
    pool = session.pool
    if pool is None or not pool.spec.may_deploy:
        name = pool.spec.tag if pool is not None else "the function"
        raise PermissionDeniedError(f"code in a container may not deploy or ask for secrets; declare {name} with  @app.function(may_deploy=True)  to allow it")
    return session.server.state.environment_of(pool.function.app)


def _same_environment(asked: str, own: str) -> None:
    if (asked or "main") != own:
        raise PermissionDeniedError(f"a container deploys into its own environment, {own!r}, and not into {asked or 'main'!r}")


async def _check_spec(session: "Session", spec: AppSpec, own: str) -> None:
    """That all that it names is of this environment."""
    for step in (step for image in spec.images for step in image.steps):
        await _check_named(session, step.secrets, step.volumes, (), own)
        if step.kind == "from_name":
            environment, named, _ = str(step.args.get("image", "")).rpartition(OF_ENVIRONMENT)
            _same_environment(environment if named else "main", own)
    for function in spec.functions:
        await _check_named(session, function.secrets, function.volumes, function.buckets, own)
        await _check_named(session, function.variants.secrets, function.variants.volumes, function.variants.buckets, own)


async def _check_named(session: "Session", secrets: Iterable[str], volumes: Iterable[VolumeMount], buckets: Iterable[BucketMount], own: str) -> None:
    names = session.server.state.names
    for reference in (*secrets, *(bucket.secret for bucket in buckets if bucket.secret is not None)):
        environment, named, _ = reference.partition("/")
        _same_environment(environment if named else (await names.by_id(SECRET, reference)).environment, own)
    for mount in volumes:
        session.server.state.check_mount(mount.volume)
        if not holds(session, mount.volume):
            row = await names.by_id(VOLUME, mount.volume)
            if row.name is None:
                raise PermissionDeniedError(f"the volume {row.id} is another client's ephemeral one, and no app of a container may mount it")
            _same_environment(row.environment, own)


async def derive_function(session: "Session", command: DeriveFunction) -> None:
    """A variant may have what functions of its app, and the variants that its program declares, have; more only where the container could deploy it, too."""
    options = options_of(command.options)
    own = owned(session)
    for mount in options.volumes or ():
        session.server.state.check_mount(mount.volume)
    asked = [secret for secret in options.secrets or () if secret not in own.secrets]
    others = [mount for mount in options.volumes or () if not any(lies_within(mount, mine) for mine in own.volumes) and not holds(session, mount.volume)]
    more = [bucket for bucket in options.buckets or () if anywhere(bucket) not in own.buckets]
    if asked or others or more:
        await _check_named(session, asked, others, more, _granted(session))
    if (base := session.server.router.functions.get(command.function)) is not None and not _may_deploy(session):
        _check_size(base.spec, options)


def _check_size(base: FunctionSpec, options: FunctionOptions) -> None:
    """That a variant is no larger than its function, or than one of the variants that the program declares of it."""
    asked = derive(base, options, "")
    declared = (derive(base, options_of(size), "") for size in base.variants.sizes)
    outside = [[*more_resources(asked.resources, other.resources), *more_containers(asked.scaling, other.scaling)] for other in (base, *declared)]
    if all(outside):
        raise PermissionDeniedError(f"{base.tag} with options: {outside[0][0]}, {_AS_DECLARED}")


async def tune_function(session: "Session", command: TuneFunction) -> None:
    """Within what the program declares."""
    function = session.server.router.functions.get(command.function)
    if function is None or _may_deploy(session):
        return
    declared = function.spec.scaling
    asked = msgspec.structs.replace(
        declared,
        min_containers=command.min_containers or 0,
        buffer_containers=command.buffer_containers or 0,
        max_containers=declared.max_containers if command.max_containers is None else command.max_containers,
    )
    if outside := next(more_containers(asked, declared), ""):
        raise PermissionDeniedError(f"{function.spec.tag}: {outside}, {_AS_DECLARED}")


def _may_deploy(session: "Session") -> bool:
    return session.pool is not None and session.pool.spec.may_deploy
