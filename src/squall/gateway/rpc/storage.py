"""What the server answers to commands about secrets, volumes, dicts, queues and environments."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from squall.control.objects.dicts import check_items
from squall.control.objects.ephemeral_budget import FILE_BYTES
from squall.control.objects.storage import quota_of
from squall.control.objects.volumes import Volumes
from squall.gateway.auth import container_permissions as permissions
from squall.gateway.auth.app_resources import app_of, holds, owned
from squall.gateway.auth.rights import Right
from squall.gateway.rpc.operations import operation
from squall.model.errors import ConflictError, InvalidError, NotFoundError, PermissionDeniedError
from squall.model.ids import make_id
from squall.store.beneath import clean
from squall.store.objects import ObjectRow
from squall.store.snapshots import Snapshot
from squall.store.tree import Tree
from squall.wire.messages import Done, Names, Rows
from squall.wire.state import (
    DICT,
    ENSURE,
    ENVIRONMENT,
    LOOK_UP,
    QUEUE,
    SECRET,
    VOLUME,
    Chunk,
    Collect,
    Count,
    DictDo,
    DictRead,
    DictScan,
    DictWrite,
    DropObject,
    Entries,
    ListObjects,
    Maybe,
    Opened,
    OpenObject,
    Pairs,
    PutSecret,
    QueueDo,
    QueueGet,
    QueuePeek,
    QueuePut,
    RenameObject,
    RotateKey,
    Values,
    VolumeDo,
    VolumeHistory,
    VolumeList,
    VolumeRead,
    VolumeUpload,
    VolumeWrite,
)

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


def _looking(*operations: str) -> Callable[[Any], Right]:
    """The right of a command of several operations, of which these change nothing."""
    return lambda command: Right.READ if command.op in operations else Right.EVERYTHING


# --- objects ------------------------------------------------------------------------------------------------------------------


@operation(Right.EVERYTHING, container=permissions.open_object)
async def _open(session: "Session", request: int, command: OpenObject) -> Opened:
    state = session.server.state
    kind = command.kind
    keys: tuple[str, ...] = ()
    if kind == ENVIRONMENT:
        if command.mode == LOOK_UP:
            await state.environments.check(command.name)
            row = next(row for row in await state.environments.rows() if row.name == (command.name or "main"))
        else:
            row = await state.environments.create(command.name, allow_existing=command.mode == ENSURE)
    elif kind == SECRET:
        if command.id:
            raise InvalidError("secrets are found by name")
        row, keys = await state.secrets.find(command.name, await state.environments.check(command.environment), command.required)
    else:
        # A container finds the volumes that it has; it makes none for others to find.
        mode = LOOK_UP if session.container and kind == VOLUME and not session.may_deploy else command.mode
        try:
            row = await state.open_object(kind, command.environment, command.name, mode, session, command.id, command.quota_bytes, app_of(session))
        except NotFoundError:
            if mode == command.mode:
                raise
            _own_volume(session, "", write=False)
            raise
        # Whoever deploys names volumes, and a program those of the variants that it declares; what is in them is another question.
        if kind == VOLUME and not (session.may_deploy and row.name) and all(mount.volume != row.id for mount in owned(session).volumes):
            _own_volume(session, row.id, write=False)
        state.hold(row.id, session)
    return Opened(row.id, row.kind, row.name or "", row.environment, row.created_at, keys)


@operation(Right.EVERYTHING, container=permissions.always)
async def _drop(session: "Session", request: int, command: DropObject) -> Done:
    state = session.server.state
    kind = command.kind
    if not command.name and not command.id:
        raise InvalidError("say which, by name or by id")
    if session.container and not (holds(session, command.id) or kind in (DICT, QUEUE)):
        raise PermissionDeniedError(f"code in a container may not delete a {kind}")
    try:
        if kind == VOLUME and not (command.id and state.is_ephemeral(command.id)):
            row = await state.open_object(kind, command.environment, command.name, LOOK_UP, session, command.id)
            if users := _users(session, row.id):
                raise ConflictError(f"the volume {row.name or row.id} is mounted in running containers of {', '.join(users)}; stop them first")
        elif kind == ENVIRONMENT and (apps := [app.name or app.id for app in session.server.apps.live.values() if app.environment == command.name]):
            raise ConflictError(f"apps run in the environment {command.name!r}: {', '.join(apps)}; stop them first")
        await state.drop(kind, command.environment, command.name, command.id)
        if kind == ENVIRONMENT:
            await asyncio.to_thread(session.server.apps.builder.catalog.forget_environment, command.name)
    except NotFoundError:
        if not command.allow_missing:
            raise
    return Done()


@operation(Right.READ)
async def _list(session: "Session", request: int, command: ListObjects) -> Rows:
    state = session.server.state
    if command.kind == ENVIRONMENT:
        rows = await state.environments.rows()
        return Rows(tuple({"name": row.name, "created_at": row.created_at or None} for row in rows))
    environment = await state.environments.check(command.environment) if command.environment else None
    found = [row for row in await session.server.store.objects(command.kind, environment) if row.name is not None]
    return Rows(tuple([{**_facts(row), **await _more(session, row)} for row in found]))


def _facts(row: ObjectRow) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "environment": row.environment, "created_at": row.created_at, "used_at": row.used_at}


async def _more(session: "Session", row: ObjectRow) -> dict[str, Any]:
    """What a listing says about an object besides its name."""
    state = session.server.state
    match row.kind:
        case "secret":
            try:
                _, keys = await state.secrets.find(row.name or "", row.environment)
            except Exception as error:  # one that can't be decrypted must not hide the others
                return {"keys": [], "trouble": str(error)}
            return {"keys": sorted(keys)}
        case "dict":
            return {"entries": await (await state.dict_box(row.id)).len()}
        case "queue":
            return {"items": await (await state.queue_box(row.id)).len(None)}
        case "volume":
            return {"mounted_by": _users(session, row.id), "quota_bytes": quota_of(row)}
        case _:
            return {}


@operation(Right.EVERYTHING)
async def _rename(session: "Session", request: int, command: RenameObject) -> Done:
    state = session.server.state
    if command.kind != VOLUME:
        raise InvalidError(f"a {command.kind} can't be renamed")
    await state.names.rename(command.kind, await state.environments.check(command.environment), command.old, command.new)
    return Done()


@operation(Right.EVERYTHING, container=permissions.put_secret)
async def _put_secret(session: "Session", request: int, command: PutSecret) -> Opened:
    state = session.server.state
    environment = await state.environments.check(command.environment)
    row, keys = await state.secrets.put(command.name, environment, command.values, command.mode, command.drop)
    return Opened(row.id, row.kind, row.name or "", row.environment, row.created_at, keys)


@operation(Right.OWNER)
async def _collect(session: "Session", request: int, command: Collect) -> Rows:
    return Rows(tuple(await session.server.state.collect(dry=command.dry)))


@operation(Right.OWNER)
async def _rotate(session: "Session", request: int, command: RotateKey) -> Count:
    return Count(await session.server.state.secrets.rotate())


# --- dicts and queues ---------------------------------------------------------------------------------------------------------


@operation(Right.READ, exact=lambda command: Right.EVERYTHING if command.take else Right.READ, container=permissions.always, large=True)
async def _dict_read(session: "Session", request: int, command: DictRead) -> Maybe:
    box = await session.server.state.dict_box(command.id)
    return Maybe(await (box.take(command.key) if command.take else box.get(command.key)))


@operation(Right.EVERYTHING, container=permissions.always)
async def _dict_write(session: "Session", request: int, command: DictWrite) -> Count:
    check_items(command.items)
    box = await session.server.state.dict_box(command.id)
    return Count(await box.put(command.items, absent=command.absent))


@operation(Right.READ, container=permissions.always, large=True)
async def _dict_scan(session: "Session", request: int, command: DictScan) -> Pairs:
    box = await session.server.state.dict_box(command.id)
    page = await box.page(command.after, values=command.values)
    return Pairs(tuple(page), bool(page))


@operation(Right.READ, exact=_looking("len", "has"), container=permissions.always)
async def _dict_do(session: "Session", request: int, command: DictDo) -> Count:
    box = await session.server.state.dict_box(command.id)
    match command.op:
        case "len":
            return Count(await box.len())
        case "clear":
            return Count(await box.clear())
        case "has":
            return Count(int(await box.get(command.key) is not None))
        case _:
            raise InvalidError(f"a dict has no operation {command.op!r}")


@operation(Right.EVERYTHING, container=permissions.always)
async def _queue_put(session: "Session", request: int, command: QueuePut) -> Count:
    box = await session.server.state.queue_box(command.id)
    return Count(int(await box.put(command.partition, command.values, command.timeout_s, command.ttl_s)))


@operation(Right.EVERYTHING, container=permissions.always)
async def _queue_get(session: "Session", request: int, command: QueueGet) -> Values:
    box = await session.server.state.queue_box(command.id)
    taken = await box.get(command.partition, command.n, command.timeout_s)
    if not taken and command.timeout_s is None:
        raise NotFoundError(f"the queue {command.id} was deleted")
    if session.gone and taken:
        await box.give_back(command.partition, taken)
    return Values(tuple(value for _, value in taken), taken[-1][0] if taken else 0)


@operation(Right.READ, container=permissions.always)
async def _queue_peek(session: "Session", request: int, command: QueuePeek) -> Values:
    box = await session.server.state.queue_box(command.id)
    found = await box.peek(command.partition, command.after, command.limit, command.timeout_s)
    return Values(tuple(value for _, value in found), found[-1][0] if found else command.after)


@operation(Right.READ, exact=_looking("len", "total"), container=permissions.always)
async def _queue_do(session: "Session", request: int, command: QueueDo) -> Count:
    box = await session.server.state.queue_box(command.id)
    match command.op:
        case "len":
            return Count(await box.len(command.partition))
        case "total":
            return Count(await box.len(None))
        case "clear":
            return Count(await box.clear(command.partition))
        case "clear_all":
            return Count(await box.clear(None))
        case _:
            raise InvalidError(f"a queue has no operation {command.op!r}")


# --- volumes ------------------------------------------------------------------------------------------------------------------


def _users(session: "Session", volume: str) -> list[str]:
    """Functions with running containers that have the volume."""
    pools = {member.pool for member in session.server.router.members.values()}
    return sorted({pool.spec.tag for pool in pools if any(mount.volume == volume for mount in pool.spec.volumes)})


def _own_volume(session: "Session", volume: str, *, write: bool, paths: Sequence[str] = ()) -> str:
    """The directory of the volume that the client may reach, as `clean` gives it: all of it, unless the client is in a container that mounts less.

    Args:
        paths: of several directories that are mounted, the one that these lie in.

    Raises:
        PermissionDeniedError: the client is in a container, and the volume is not mounted there, or only to be read.
    """
    if not session.container or holds(session, volume):
        return "."
    pool = session.pool
    mounts = [mount for mount in pool.spec.volumes if mount.volume == volume] if pool is not None else []
    if not mounts:
        raise PermissionDeniedError("code in a container reaches only volumes that are mounted there; add it with  @app.function(volumes={path: volume})")
    if write and not (writable := [mount for mount in mounts if not mount.read_only]):
        raise PermissionDeniedError(f"the volume at {mounts[0].path} is mounted read-only here")
    wanted = [PurePosixPath(clean(path)) for path in paths]
    folders = [clean(mount.sub_path) for mount in (writable if write else mounts)]
    return next((folder for folder in folders if all(path.is_relative_to(folder) for path in wanted)), folders[0])


def _tree(session: "Session", volume: str, paths: Sequence[str] = (), *, write: bool) -> Tree:
    within = _own_volume(session, volume, write=write, paths=paths)
    return session.server.state.volumes.tree(volume, within)


@operation(Right.READ, container=permissions.always)
async def _volume_list(session: "Session", request: int, command: VolumeList) -> Done:
    batches = _tree(session, command.id, (command.path,), write=False).entries(command.path, recursive=command.recursive)
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        session.send(Entries(request, tuple(batch)))
        await session.peer.drain()
    return Done()


@operation(Right.READ, container=permissions.always, large=True)
async def _volume_read(session: "Session", request: int, command: VolumeRead) -> Chunk:
    tree = _tree(session, command.id, (command.path,), write=False)
    chunk: Chunk = await asyncio.to_thread(tree.read, command.path, command.offset, command.size, command.version)
    return chunk


@operation(Right.EVERYTHING, container=permissions.always)
async def _volume_write(session: "Session", request: int, command: VolumeWrite) -> Done:
    tree = _tree(session, command.id, [file.path for file in command.files], write=True)
    if session.container:
        await session.server.state.charge(command.id, sum(len(file.data) + FILE_BYTES for file in command.files))
    await asyncio.to_thread(tree.write, command.files, force=command.force)
    return Done()


@operation(Right.EVERYTHING, container=permissions.always)
async def _volume_upload(session: "Session", request: int, command: VolumeUpload) -> Count:
    tree = _tree(session, command.id, (command.path,), write=True)
    if session.container:
        await session.server.state.charge(command.id, len(command.data) + FILE_BYTES)
    there = await asyncio.to_thread(
        lambda: tree.upload(
            command.upload, command.path, command.offset, command.data, last=command.last, mode=command.mode, digest=command.digest, force=command.force
        )
    )
    return Count(there)


@operation(Right.EVERYTHING, container=permissions.always)
async def _volume_do(session: "Session", request: int, command: VolumeDo) -> Done | Count | Names:
    paths = {"copy": (*command.paths, command.target), "remove": command.paths, "check": command.paths, "digests": command.paths}.get(command.op, ())
    tree = _tree(session, command.id, paths, write=command.op in ("copy", "remove"))
    if session.container and command.op == "copy":
        await session.server.state.charge(command.id, FILE_BYTES, copied=True)
    if session.container and command.op in ("commit", "reload"):
        await asyncio.to_thread(_settle_view, session.server.state.volumes, session.container, command)
    match command.op:
        case "copy":
            await asyncio.to_thread(tree.copy, command.paths, command.target, recursive=command.recursive)
        case "remove":
            await asyncio.to_thread(tree.remove, command.paths, recursive=command.recursive)
        case "commit":
            await asyncio.to_thread(tree.commit)
        case "check":
            await asyncio.to_thread(tree.check_free, command.paths)
        case "reload":
            pass  # what others wrote is seen at once
        case "uploaded":
            return Count(await asyncio.to_thread(tree.uploaded, command.paths[0] if command.paths else ""))
        case "digests":
            return Names(tuple(await asyncio.to_thread(tree.digests, command.paths)))
        case "place" | "quota" if session.container:
            raise PermissionDeniedError(f"code in a container may not ask for a volume's {command.op}")
        case "place":
            return Names((str(session.server.state.volumes.place(command.id)),))
        case "quota":
            await session.server.state.set_quota(command.id, int(command.target))
        case _:
            raise InvalidError(f"a volume has no operation {command.op!r}")
    return Done()


def _settle_view(volumes: Volumes, container: str, command: VolumeDo) -> None:
    """Commit or reload the container's strict copy, if it has one."""
    if (view := volumes.view(container, command.id)) is not None:
        with volumes.busy(command.id):
            if command.op == "commit":
                view.commit()
            else:
                view.reload()


@operation(Right.READ, exact=_looking("list"), container=permissions.always)
async def _volume_history(session: "Session", request: int, command: VolumeHistory) -> Rows:
    if _own_volume(session, command.id, write=command.op != "list") != ".":
        raise PermissionDeniedError("only a part of the volume is mounted here, and its snapshots are of all of it")
    if command.op == "restore" and (users := _users(session, command.id)):
        raise ConflictError(f"the volume is mounted in running containers of {', '.join(users)}; stop them first")
    if session.container and command.op in ("take", "restore"):
        await session.server.state.charge(command.id, FILE_BYTES, copied=True)
    volumes = session.server.state.volumes

    def do() -> list[Snapshot]:
        snapshots = volumes.snapshots(command.id)
        with volumes.busy(command.id):
            match command.op:
                case "list":
                    return snapshots.history()
                case "take":
                    now = time.time()
                    return [snapshots.take(make_id("sn", int(now * 1000), os.urandom(10)), now, command.note)]
                case "restore":
                    snapshots.restore(command.snapshot)
                case "delete":
                    snapshots.delete(command.snapshot)
                case _:
                    raise InvalidError(f"the history of a volume has no operation {command.op!r}")
        return []

    return Rows(tuple([msgspec.structs.asdict(snapshot) for snapshot in await asyncio.to_thread(do)]))
