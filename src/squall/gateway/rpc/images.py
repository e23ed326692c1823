"""What the server answers to commands about images."""

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from squall.control.calls.router import Router
from squall.gateway.auth.rights import Right
from squall.gateway.rpc.operations import operation
from squall.images.builder import Builder, StepEvent
from squall.images.catalog import Failure
from squall.model.errors import InvalidError, NotFoundError
from squall.model.ids import LayerKey
from squall.model.specs import OF_ENVIRONMENT, ImageSpec
from squall.wire.messages import BuildImage, ExplainImage, ImageProgress, ImageRequest, Names, Rows

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session
    from squall.gateway.server import Server


#: What a request about images needs; of what is not here, EVERYTHING.
_RIGHTS = {"list": Right.READ, "inspect": Right.READ, "logs": Right.READ, "prune": Right.OWNER}


@operation(Right.EVERYTHING)
async def _build_image(session: "Session", request: int, command: BuildImage) -> Names:
    return Names((await _build(session, request, command.spec, command.force, command.scope),))


@operation(Right.READ)
async def _explain(session: "Session", request: int, command: ExplainImage) -> Rows:
    found = await asyncio.to_thread(session.server.apps.builder.explain, command.spec, scope=command.scope)
    return Rows(tuple({name: getattr(each, name) for name in each.__slots__} for each in found))


@operation(Right.READ, exact=lambda command: _RIGHTS.get(command.what, Right.EVERYTHING))
async def _image_request(session: "Session", request: int, command: ImageRequest) -> Rows:
    return Rows(tuple(await _request(session, command.what, command.image, command.options)))


async def _build(session: "Session", request: int, spec: ImageSpec, force: bool, scope: str) -> str:
    builder = session.server.apps.builder
    if force:
        spec = replace(spec, steps=tuple(replace(step, force=True) for step in spec.steps))

    def report(event: StepEvent) -> None:
        session.send(ImageProgress(request, 0, "", event.step, event.steps, event.title, event.state, event.line, event.seconds))

    return (await builder.ensure(spec, scope=scope, progress=report)).id


async def _request(session: "Session", what: str, image: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    builder = session.server.apps.builder
    catalog = builder.catalog
    match what:
        case "list":
            return await asyncio.to_thread(listed, session.server)
        case "inspect":
            return await asyncio.to_thread(_inspect, session, image)
        case "logs":
            return await asyncio.to_thread(_logs, builder, image)
        case "publish":
            environment = await session.server.state.environments.check(str(options.get("environment", "")))
            found = catalog.record(image).id
            return [{"name": catalog.publish(str(options.get("name", "")), found, environment), "image": found}]
        case "unpublish":
            environment, named, name = image.rpartition(OF_ENVIRONMENT)
            return [{"name": catalog.publish(name, None, environment if named else str(options.get("environment", "")))}]
        case "shell":
            return [_shell(builder, image, failed=bool(options.get("failed")))]
        case "export":
            secrets = {str(name): str(value) for name, value in (options.get("secrets") or {}).items()}
            record = catalog.record(image)
            place = await builder.export(record.id, str(options.get("target", "")), secrets=secrets)
            return [{"image": record.id, "target": place}]
        case "prune":
            return [await _prune(session, options)]
        case _:
            raise InvalidError(f"there is no request {what!r} about images")


def _users(server: "Server") -> dict[str, list[str]]:
    """Image -> functions that run in it."""
    users: dict[str, list[str]] = {}
    for function in server.router.functions.values():
        users.setdefault(function.image.id, []).append(function.spec.tag)
    return users


def listed(server: "Server") -> list[dict[str, Any]]:
    """A row for each image, and for each build that failed. Reads files."""
    builder = server.apps.builder
    users = _users(server)
    names: dict[str, list[str]] = {}
    for name, image in builder.catalog.names().items():
        names.setdefault(image, []).append(name)
    rows: list[dict[str, Any]] = []
    for record in builder.catalog.all():
        infos = [info for key in record.layers if (info := builder.layers.info(LayerKey(key))) is not None]
        rows.append(
            {
                "id": record.id, "names": names.get(record.id, []), "recipe": " › ".join(record.steps), "layers": len(record.layers),
                "bytes": sum(info.bytes for info in infos), "built_at": record.built_at, "used_at": builder.catalog.last_used(record.id),
                "functions": sorted(users.get(record.id, [])), "state": "built",
            }
        )  # fmt: skip
    for failure in builder.catalog.failures():
        rows.append(
            {
                "id": failure.id, "names": [], "recipe": f"stopped at step {failure.step}, {failure.title}: {failure.cause}", "layers": len(failure.layers),
                "bytes": None, "built_at": failure.failed_at, "used_at": failure.failed_at, "functions": [], "state": "failed",
            }
        )  # fmt: skip
    return rows


def _inspect(session: "Session", image: str) -> list[dict[str, Any]]:
    builder = session.server.apps.builder
    record = builder.catalog.record(image)
    names = [name for name, target in builder.catalog.names().items() if target == record.id]
    layers = [
        {
            "key": info.key, "title": info.title, "kind": info.kind, "bytes": info.bytes, "files": info.files, "seconds": info.seconds,
            "built_at": info.built_at, "path": str(builder.layers.path(LayerKey(info.key))),
        }
        for info in builder.catalog.inspect(record.id)
    ]  # fmt: skip
    return [
        {
            "id": record.id, "names": names, "built_at": record.built_at, "used_at": builder.catalog.last_used(record.id), "seconds": record.seconds,
            "python": record.python, "workdir": record.workdir, "env": record.env, "entrypoint": record.entrypoint, "cmd": record.cmd,
            "functions": sorted(_users(session.server).get(record.id, [])), "bytes": sum(int(str(layer["bytes"])) for layer in layers), "layers": layers,
        }
    ]  # fmt: skip


def _logs(builder: Builder, image: str) -> list[dict[str, Any]]:
    failure = _failure(builder, image)
    if failure is not None:
        keys = [(key, info.title if (info := builder.layers.info(LayerKey(key))) is not None else key) for key in failure.layers]
        keys.append((failure.key, failure.title))
    else:
        keys = [(info.key, info.title) for info in builder.catalog.inspect(builder.catalog.record(image).id)]
    return [{"key": key, "title": title, "log": builder.log(key) or ""} for key, title in keys]


def _failure(builder: Builder, image: str) -> Failure | None:
    """The failed build that an id, or the beginning of one, means."""
    found = [failure for failure in builder.catalog.failures() if failure.id.startswith(image) and len(image) >= 5]
    if len(found) > 1:
        raise InvalidError(f"{image!r} is the beginning of {len(found)} images; write a longer one")
    return found[0] if found else None


def _shell(builder: Builder, image: str, *, failed: bool) -> dict[str, Any]:
    """What a container for looking around is made of."""
    if failed:
        failure = _failure(builder, image)
        if failure is None:
            raise NotFoundError(f"the last build of image {image} did not fail, or there is none")
        layers, env, workdir, name = failure.layers, failure.env, failure.workdir, failure.id
    else:
        record = builder.catalog.record(image)
        layers, env, workdir, name = record.layers, record.env, record.workdir, record.id
    paths = [str(builder.layers.path(LayerKey(key))) for key in layers]
    return {"image": name, "layers": paths, "env": env, "workdir": workdir}


def in_use(router: Router) -> tuple[set[str], set[str]]:
    """(images, layers) of all functions that are there, whether they run or not."""
    functions = router.functions.values()
    return {function.image.id for function in functions}, {path.parent.name for function in functions for path in (*function.image.layers, *function.layers)}


async def _prune(session: "Session", options: dict[str, Any]) -> dict[str, Any]:
    builder = session.server.apps.builder
    keep, keep_layers = in_use(session.server.router)
    older, budget = options.get("older_than_s"), options.get("budget_bytes")
    removal = await builder.prune(
        keep=keep, keep_layers=keep_layers, older_than_s=None if older is None else float(older),
        budget_bytes=None if budget is None else int(budget), try_only=bool(options.get("try_only")),
    )  # fmt: skip
    return {"images": list(removal.images), "layers": len(removal.layers), "bytes": removal.bytes}
