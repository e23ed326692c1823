"""What programs keep between calls, in one place: opens objects, ends ephemeral ones with whoever made them, supplies containers, removes what has expired."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from squall.control.objects import ephemeral_budget
from squall.control.objects.bucket_endpoints import endpoints_of
from squall.control.objects.buckets import Buckets
from squall.control.objects.dicts import Box, Cache, MemoryDict, StoredDict
from squall.control.objects.environments import Environments
from squall.control.objects.ephemeral_budget import Ephemeral
from squall.control.objects.memory_account import OBJECT_BYTES, MemoryAccount
from squall.control.objects.named_objects import Names, new_id
from squall.control.objects.queues import QueueBox
from squall.control.objects.quotas import check_quota
from squall.control.objects.secrets import Keys, Secrets
from squall.control.objects.volumes import Volumes
from squall.model.errors import Error, InvalidError, NotFoundError, ResourceExhaustedError
from squall.model.options import words
from squall.model.specs import AppSpec, BucketMount, FunctionSpec, VolumeMount
from squall.model.states import AppState
from squall.runtime.contract import Bind
from squall.runtime.network import NetworkPool
from squall.store.beneath import clean
from squall.store.blobs import BlobDirectory
from squall.store.contract import Store
from squall.store.objects import ObjectRow
from squall.wire.state import DICT, ENVIRONMENT, LOOK_UP, QUEUE, SECRET, VOLUME
from squall.worker.orders import Supplies

log = logging.getLogger(__name__)

#: An ephemeral object whose connection broke ends after this, unless it is opened again by its id: the client may be on its way back.
LEASE_S = 20.0
#: How often what has expired is removed; entries of dicts go with `control.retention`.
SWEEP_S = 3600.0
#: An anonymous secret that no app refers to is kept this long after its last use: its app may be starting.
ANONYMOUS_KEPT_S = 3600.0
#: A blob that nothing refers to is kept this long after it was last put or asked for: the next run of its program needs it again.
BLOB_KEPT_S = 7 * 86_400.0

#: Kinds that can be ephemeral.
EPHEMERAL = (VOLUME, DICT, QUEUE)


def quota_of(row: ObjectRow) -> int | None:
    """Bytes that a volume may hold; None: as many as the disk."""
    if not row.data:
        return None
    found: int = msgspec.msgpack.decode(row.data, type=dict[str, int])["quota_bytes"]
    return found


class State:
    """Of one server.

    Args:
        data: the server's directory, with the key of secrets.
        volumes: where volumes lie; None: below `data`.
        owner: host uid of root in containers.
        environment_of: the environment of a living app.
        limits: of ephemeral volumes.
        network: of the containers, for what reaches out on their behalf.
    """

    def __init__(
        self, *, store: Store, blobs: BlobDirectory, data: Path, owner: int | None, environment_of: Callable[[str], str], volumes: Path | None = None,
        limits: ephemeral_budget.Limits | None = None, network: NetworkPool | None = None,
    ) -> None:  # fmt: skip
        self.store, self.blobs, self.environment_of = store, blobs, environment_of
        self.names = Names(store)
        self.environments = Environments(self.names)
        self.secrets = Secrets(self.names, Keys(data / "secrets.key"))
        self.volumes = Volumes(volumes or data / "volumes", owner)
        self.buckets = Buckets(data / "volumes" / ".buckets", data / "buckets", owner, endpoints_of(os.environ), network)
        self._cache = Cache()
        self._ephemeral: dict[str, Ephemeral] = {}
        #: Of owners that have ephemeral dicts or queues.
        self._accounts: dict[object, MemoryAccount] = {}
        self._limits = limits or ephemeral_budget.Limits()
        self._dicts: dict[str, Box] = {}
        self._queues: dict[str, QueueBox] = {}
        self._leases: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Take up what is there. Ephemeral volumes of an earlier server are removed; those that the database does not know are put into quarantine.

        Raises:
            ConflictError: another server uses the volumes.
        """
        rows = await self.store.objects(VOLUME)
        unknown = await asyncio.to_thread(self.volumes.open, {row.id for row in rows})
        if unknown:
            log.warning("the database does not know %s: put into %s", ", ".join(unknown), self.volumes.quarantine)
        for row in rows:
            if row.name is None:
                await self.end(row.id)
        await self.buckets.open()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="expiry of queues, blobs and uploads")

    async def close(self) -> None:
        """End ephemeral objects."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._leases:
            task.cancel()
        for object_id in list(self._ephemeral):
            await self.end(object_id)
        for queue in self._queues.values():
            queue.close()
        await self.buckets.close()
        await asyncio.to_thread(self.volumes.close)

    # objects

    async def open_object(
        self, kind: str, environment: str, name: str, mode: int, holder: object, object_id: str = "", quota_bytes: int | None = None, app: str = ""
    ) -> ObjectRow:
        """By id, by name, or (without either) a new ephemeral one that `holder` holds. `quota_bytes`: of a volume that is made now.

        Args:
            app: whose code in a container asks, if any does.

        Raises:
            NotFoundError, AlreadyExistsError, InvalidError.
            ResourceExhaustedError: the app or client has as many ephemeral volumes as it may.
            UnsupportedError: no quotas on this machine.
        """
        if quota_bytes is not None:
            check_quota(quota_bytes)
        if object_id:
            held = self._ephemeral.get(object_id)
            if held is not None and held.kind == kind:
                return ObjectRow(object_id, kind, held.environment, None, held.created_at)
            return await self.names.by_id(kind, object_id)
        environment = await self.environments.check(environment)
        if name:
            if kind == VOLUME:
                return await self._open_volume(environment, name, mode, quota_bytes)
            row, _ = await self.names.open(kind, environment, name, mode)
            return row
        if kind not in EPHEMERAL:
            raise InvalidError(f"a {kind} needs a name")
        row = ObjectRow(new_id(kind), kind, environment, None, time.time())
        held = Ephemeral(kind, environment, row.created_at, app or holder, quota_bytes, {holder})
        if kind == VOLUME:
            ephemeral_budget.check(self._ephemeral.values(), held.owner, self._limits, volumes=1, more=held.size)
        else:
            held.account = self._account(held.owner)
            held.account.charge(OBJECT_BYTES)
        self._ephemeral[row.id] = held
        if held.account is None:
            await self._make_ephemeral(row, quota_bytes)
        elif kind == DICT:
            self._dicts[row.id] = MemoryDict(held.account)
        else:
            self._queues[row.id] = QueueBox(row.id, None, held.account)
        return row

    def _account(self, owner: object) -> MemoryAccount:
        return self._accounts.setdefault(owner, MemoryAccount(self._limits.memory))

    async def _make_ephemeral(self, row: ObjectRow, quota_bytes: int | None) -> None:
        try:
            await self.store.create_object(row)  # first: after a kill the next server knows by its row that it may go
            await asyncio.to_thread(self.volumes.make, row.id, quota_bytes)
        except Error:
            await self.end(row.id)
            raise

    async def charge(self, volume: str, more: int, *, copied: bool = False) -> None:
        """Code in a container writes so much into the volume; `copied`: what is in it once more. Only ephemeral ones that such code made have a budget.

        Raises:
            ResourceExhaustedError: beyond it.
        """
        held = self._ephemeral.get(volume)
        if held is None or not held.of_container or held.quota_bytes is not None:
            return
        more += held.written if copied else 0
        try:
            ephemeral_budget.check(self._ephemeral.values(), held.owner, self._limits, more=more)
        except ResourceExhaustedError:  # some of it may have been removed, or replaced
            held.written = await asyncio.to_thread(self.volumes.measured, volume)
            ephemeral_budget.check(self._ephemeral.values(), held.owner, self._limits, more=more)
        held.written += more

    def check_mount(self, volume: str) -> None:
        """That a variant may have it.

        Raises:
            InvalidError: code in a container made it, without a quota: nothing would limit what is written there.
        """
        held = self._ephemeral.get(volume)
        if held is not None and held.of_container and held.quota_bytes is None:
            raise InvalidError(f"the ephemeral volume {volume} was made in a container, and has no quota, so it can't be mounted; use a named volume")

    async def _open_volume(self, environment: str, name: str, mode: int, quota_bytes: int | None) -> ObjectRow:
        """Its row's data is its quota, so that it is made as it was meant also by the server after one that was killed in between."""
        data = b"" if quota_bytes is None else msgspec.msgpack.encode({"quota_bytes": quota_bytes})
        row, made = await self.names.open(VOLUME, environment, name, mode, data)
        try:
            await asyncio.to_thread(self.volumes.make, row.id, quota_of(row))
        except Error:
            if made:
                await self.store.drop_object(row.id)
            raise
        return row

    async def set_quota(self, volume: str, quota_bytes: int) -> None:
        """Raise a volume's quota.

        Raises:
            InvalidError: it has none, or a larger one.
        """
        check_quota(quota_bytes)
        row = await self.names.by_id(VOLUME, volume)
        if quota_of(row) is None:
            raise InvalidError(f"the volume {row.name} was made without a quota; make one with  squall volume create NAME --quota SIZE  and copy the files")
        await asyncio.to_thread(self.volumes.grow, volume, quota_bytes)
        await self.store.set_object(volume, data=msgspec.msgpack.encode({"quota_bytes": quota_bytes}))

    def hold(self, object_id: str, holder: object) -> None:
        """Somebody needs this ephemeral object: it does not end before they do. No effect on others."""
        if (held := self._ephemeral.get(object_id)) is not None:
            held.holders.add(holder)

    def holds(self, object_id: str, holder: object, app: str = "") -> bool:
        """Whether it is an ephemeral object that this client holds, or that code of this app made: a process there has several connections."""
        held = self._ephemeral.get(object_id)
        return held is not None and (holder in held.holders or (bool(app) and held.owner == app))

    def is_ephemeral(self, object_id: str) -> bool:
        return object_id in self._ephemeral

    def release(self, holder: object) -> None:
        """A connection ended: ephemeral objects that nobody else holds end after their lease."""
        for object_id, held in self._ephemeral.items():
            if holder in held.holders:
                held.holders.discard(holder)
                if not held.holders:
                    task = asyncio.get_running_loop().create_task(self._lapse(object_id), name=f"lease of {object_id}")
                    self._leases.add(task)
                    task.add_done_callback(self._leases.discard)

    async def _lapse(self, object_id: str) -> None:
        await asyncio.sleep(LEASE_S)
        held = self._ephemeral.get(object_id)
        if held is not None and not held.holders:
            log.info("%s ends: its client left", object_id)
            await self.end(object_id)

    async def end(self, object_id: str) -> None:
        """Delete an ephemeral object, or what belongs to a named one that was dropped. Idempotent."""
        held = self._ephemeral.pop(object_id, None)
        if isinstance(box := self._dicts.pop(object_id, None), MemoryDict):
            box.close()
        self._cache.drop_dict(object_id)
        if (queue := self._queues.pop(object_id, None)) is not None:
            queue.close()
        if held is not None and held.account is not None:
            held.account.give_back(OBJECT_BYTES)
            if not held.account.used:
                self._accounts.pop(held.owner, None)
        if object_id.startswith("vo-"):
            await asyncio.to_thread(self.volumes.drop, object_id)
            await self.store.drop_object(object_id)

    async def drop(self, kind: str, environment: str, name: str, object_id: str = "") -> None:
        """Delete an object with all that it holds.

        Raises:
            NotFoundError: there is none.
        """
        if (held := self._ephemeral.get(object_id)) is not None:
            if held.kind != kind:
                raise NotFoundError(f"there is no {kind} {object_id}")
            await self.end(object_id)
            return
        if object_id:
            row = await self.names.by_id(kind, object_id)
        elif kind == ENVIRONMENT:
            row = await self.environments.find(name)
        else:
            row, _ = await self.names.open(kind, await self.environments.check(environment), name, LOOK_UP)
        if kind == ENVIRONMENT:
            for each in (SECRET, VOLUME, DICT, QUEUE):
                for below in await self.store.objects(each, name):
                    await self.store.drop_object(below.id)
                    await self.end(below.id)
            self.environments.forget(name)
        await self.store.drop_object(row.id)
        await self.end(row.id)

    async def dict_box(self, dict_id: str) -> Box:
        """Raises NotFoundError."""
        found = self._dicts.get(dict_id)
        if found is None:
            await self.names.by_id(DICT, dict_id)
            found = self._dicts.setdefault(dict_id, StoredDict(dict_id, self.store, self._cache))
        return found

    async def queue_box(self, queue_id: str) -> QueueBox:
        """Raises NotFoundError."""
        found = self._queues.get(queue_id)
        if found is None:
            await self.names.by_id(QUEUE, queue_id)
            found = self._queues.setdefault(queue_id, QueueBox(queue_id, self.store))
        return found

    # containers

    @asynccontextmanager
    async def supply(self, app: str, spec: FunctionSpec, container: str) -> AsyncIterator[Supplies]:
        """What a container of this app and function is given when it starts, for as long as it lives.

        Raises:
            NotFoundError, DataLossError: a secret or volume is not there any more, or can't be decrypted.
        """
        environment = self.environment_of(app)
        try:
            secrets = await self.secrets.resolve(spec.secrets) if spec.secrets else {}
            binds = tuple([await self._bind(mount, container) for mount in spec.volumes])
            binds += tuple([await self._bind_bucket(mount, container) for mount in spec.buckets])
        except Error as error:
            await self._release(container)
            raise type(error)(f"{words(spec.tag)} can't start: {error}") from error
        try:
            yield Supplies({"SQUALL_ENVIRONMENT": environment, "MODAL_ENVIRONMENT": environment, **secrets}, binds)
        finally:
            await self._release(container)

    async def _bind(self, mount: VolumeMount, container: str) -> Bind:
        if mount.strict or mount.sub_path:
            return await asyncio.to_thread(self.volumes.bind, mount, container)
        return self.volumes.bind(mount, container)

    async def _bind_bucket(self, mount: BucketMount, container: str) -> Bind:
        return await self.buckets.bind(mount, await self.secrets.resolve([mount.secret]) if mount.secret is not None else {}, container)

    async def _release(self, container: str) -> None:
        self.buckets.release(container)
        try:
            if self.volumes.is_strict(container):
                await asyncio.to_thread(self.volumes.release, container)
        except Exception:  # of a container that has ended: nobody else would hear of it
            log.exception("what %s wrote last into a strict volume could not be committed", container)

    async def check(self, spec: AppSpec) -> None:
        """That every secret and volume of an app is there, before anything of it is built.

        Raises:
            NotFoundError, DataLossError, InvalidError.
        """
        for function in spec.functions:
            await self.secrets.check(function.secrets)
            for mount in function.volumes:
                self.volumes.place(mount.volume)
                clean(mount.sub_path)
            await self.secrets.check([bucket.secret for bucket in function.buckets if bucket.secret is not None])

    # what goes by itself

    async def _sweep(self) -> None:
        while True:
            try:
                now = time.time()
                await self.store.queue_expire(now)
                await self.collect(dry=False)
                await asyncio.to_thread(self.volumes.sweep)
            except Error:
                log.exception("expired entries could not be removed")
            await asyncio.sleep(SWEEP_S)

    async def collect(self, *, dry: bool) -> list[dict[str, Any]]:
        """Remove blobs and anonymous secrets that no living app refers to, when they have not been used for a while; what that is, or would be."""
        now = time.time()
        secrets, blobs = await self._in_use()
        rows = []
        for row in await self.store.objects(SECRET):
            if row.name is None and row.id not in secrets and now - (row.used_at or row.created_at) > ANONYMOUS_KEPT_S:
                rows.append({"kind": "anonymous secret", "id": row.id, "created_at": row.used_at or row.created_at, "size_bytes": len(row.data)})
                if not dry:
                    await self.store.drop_object(row.id)
        gone = await asyncio.to_thread(self.blobs.collect, blobs, now - BLOB_KEPT_S, dry=dry)
        return [*rows, *({"kind": "blob", "id": digest, "created_at": used_at, "size_bytes": size} for digest, size, used_at in gone)]

    async def _in_use(self) -> tuple[set[str], set[str]]:
        """Secrets and blobs that apps which did not stop refer to, in any deployed version."""
        secrets: set[str] = set()
        blobs: set[str] = set()
        for app in await self.store.apps([AppState.RUNNING, AppState.DEPLOYED]):
            functions = [msgspec.msgpack.decode(row.spec, type=FunctionSpec) for row in await self.store.functions(app.id)]
            for version in await self.store.deployments(app.id):
                spec = msgspec.msgpack.decode(version.spec, type=AppSpec)
                functions += spec.functions
                blobs.update(file.digest for image in spec.images for step in image.steps for file in step.files)
                secrets.update(secret for image in spec.images for step in image.steps for secret in step.secrets)
            for function in functions:
                for part in (function, function.variants):
                    secrets.update(part.secrets)
                    secrets.update(bucket.secret for bucket in part.buckets if bucket.secret is not None)
                blobs.update(file.digest for file in function.source)
        return secrets, blobs
