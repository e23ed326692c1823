"""Buckets of object stores as directories: one s3fs(1) for each bucket, without rights, shared by the containers that mount it."""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from squall.control.objects.bucket_endpoints import Endpoints
from squall.model.errors import ConnectionError, Error, InvalidError, NotFoundError, PermissionDeniedError, UnsupportedError
from squall.model.specs import BucketMount
from squall.model.validation import check_bucket, check_region
from squall.runtime import confined
from squall.runtime.contract import Bind
from squall.runtime.network import NetworkPool, Slot
from squall.store.object_store import s3_store

log = logging.getLogger(__name__)

#: Of the store's answer, and of the mount, which asks the store again.
READY_S = 30.0
#: The last container has ended: the next one may come soon.
LINGER_S = 30.0
#: What was written is in the bucket when a file is closed, so there is little to wait for.
STOP_S = 10.0
#: Of what the program prints.
_SAID_BYTES = 4096

_KEY = ("AWS_ACCESS_KEY_ID", "GOOGLE_ACCESS_KEY_ID")
_SECRET = ("AWS_SECRET_ACCESS_KEY", "GOOGLE_ACCESS_KEY_SECRET")
_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(slots=True)
class _Mounted:
    place: Path
    process: asyncio.subprocess.Process
    said: asyncio.Task[str]
    slot: Slot | None = None
    holders: set[str] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None


class Buckets:
    """Of one server.

    Args:
        root: holds a mount point for each.
        own: holds the files of the program behind each.
        owner: host uid that files belong to: root in containers.
        endpoints: where buckets may be.
        network: of the containers; None where they have none of their own.
    """

    def __init__(self, root: Path, own: Path, owner: int | None, endpoints: Endpoints, network: NetworkPool | None) -> None:
        self._root, self._own, self._owner, self._endpoints, self._network = root, own, owner, endpoints, network
        self._mounted: dict[str, _Mounted] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Unmount what a server that was killed left: the programs behind it died with it."""
        await asyncio.to_thread(shutil.rmtree, self._own, True)
        if self._root.exists():
            for place in self._root.iterdir():
                await _unmount(place)

    async def close(self) -> None:
        """End all of them."""
        for key in list(self._mounted):
            await self._end(key)
        for task in list(self._ending):
            await task

    async def bind(self, spec: BucketMount, variables: Mapping[str, str], container: str) -> Bind:
        """The mount of a bucket in a container; `variables` are those of its secret.

        Raises:
            PermissionDeniedError, NotFoundError, ConnectionError: as the store says.
            InvalidError: the secret has no key.
            UnsupportedError: no s3fs here, or no right to mount.
        """
        key = _key(spec, variables)
        async with self._locks.setdefault(key, asyncio.Lock()):
            mounted = self._mounted.get(key)
            if mounted is not None and mounted.process.returncode is not None:
                await self._end(key)
                mounted = None
            if mounted is None:
                mounted = self._mounted[key] = await self._mount(spec, variables, self._root / key)
            if mounted.timer is not None:
                mounted.timer.cancel()
                mounted.timer = None
            mounted.holders.add(container)
        return Bind(mounted.place, spec.path, spec.read_only or spec.secret is None)

    def release(self, container: str) -> None:
        """The container has ended."""
        for key, mounted in self._mounted.items():
            if container in mounted.holders:
                mounted.holders.discard(container)
                if not mounted.holders:
                    mounted.timer = asyncio.get_running_loop().call_later(LINGER_S, self._end_soon, key)

    def _end_soon(self, key: str) -> None:
        task = asyncio.get_running_loop().create_task(self._end(key), name=f"unmount bucket {key}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, key: str) -> None:
        mounted = self._mounted.pop(key, None)
        if mounted is None:
            return
        if mounted.timer is not None:
            mounted.timer.cancel()
        await _unmount(mounted.place)  # s3fs ends when nobody has it open any more
        try:
            async with asyncio.timeout(STOP_S):
                await mounted.process.wait()
        except TimeoutError:
            pass
        await self._clear(mounted.process, mounted.slot, mounted.place)

    async def _clear(self, process: asyncio.subprocess.Process | None, slot: Slot | None, place: Path) -> None:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await _unmount(place)
        if slot is not None and self._network is not None:
            await self._network.release(slot.number)
        await asyncio.to_thread(shutil.rmtree, self._own / place.name, True)

    async def _lease(self, host: bool) -> Slot | None:
        """A network with the public internet only; None: the host's, where the owner has named an address of this machine."""
        if self._network is None or host:
            return None
        slot = await self._network.lease()
        try:
            await self._network.limit(slot, self._endpoints.reachable(), trusted=True)
        except BaseException:
            await self._network.release(slot.number)
            raise
        return slot

    async def _mount(self, spec: BucketMount, variables: Mapping[str, str], place: Path) -> _Mounted:
        url = spec.endpoint or "https://s3.amazonaws.com"
        await asyncio.to_thread(self._endpoints.check, url)
        await asyncio.to_thread(_check, spec, variables)
        place.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._root.chmod(0o711)
        owner = 0 if self._owner is None else self._owner
        options = ["allow_other", "nosuid", "nodev", f"uid={owner}", f"gid={owner}", "umask=0022", "retries=3", "connect_timeout=10", "auto_unmount"]
        check_bucket(spec)  # once more, since what is in the store may come from an earlier version
        options.append(f"url={url}")
        if region := _first(variables, _REGION):
            check_region(region)
            options.append(f"endpoint={region}")
        options += ["use_path_request_style"] if spec.path_style or spec.endpoint else []
        options += ["requester_pays"] if spec.requester_pays else []
        options += ["ro"] if spec.read_only else []
        env: dict[str, str] = {}
        keys = os.memfd_create("bucket")  # a file in memory that nobody else finds; never an argument or a variable, which ps shows
        try:
            os.fchmod(keys, 0o600)
            os.fchown(keys, confined.USER, confined.USER)
            if spec.secret is None:
                options += ["public_bucket=1", "ro"]
            else:
                os.write(keys, f"{_first(variables, _KEY)}:{_first(variables, _SECRET)}\n".encode())
                options.append(f"passwd_file=/proc/self/fd/{keys}")
                if token := variables.get("AWS_SESSION_TOKEN"):  # s3fs takes one from variables alone
                    env |= {"AWSACCESSKEYID": _first(variables, _KEY), "AWSSECRETACCESSKEY": _first(variables, _SECRET), "AWSSESSIONTOKEN": token}
                    options = [option for option in options if not option.startswith("passwd_file=")] + ["use_session_token"]
            bucket = f"{spec.bucket}:/{spec.prefix.rstrip('/')}" if spec.prefix else spec.bucket
            program = ["s3fs", bucket, confined.PLACE, "-f", *_arguments(options)]
            return await self._run(program, env, keys, place, spec, host=await asyncio.to_thread(self._endpoints.on_this_machine, url))
        finally:
            os.close(keys)

    async def _run(self, program: list[str], env: dict[str, str], keys: int, place: Path, spec: BucketMount, *, host: bool) -> _Mounted:
        if shutil.which("s3fs") is None:
            raise UnsupportedError("CloudBucketMount needs s3fs on the server's machine: apt install s3fs")
        own = self._own / place.name
        process, slot = None, await self._lease(host)
        try:
            resolvers = self._network.resolvers.text if slot is not None and self._network is not None else Path("/etc/resolv.conf").read_text()
            await asyncio.to_thread(confined.prepare, own, resolvers)
            try:
                device = confined.mount(place)
            except OSError as error:
                raise UnsupportedError(f"the server can't mount buckets: it needs /dev/fuse, and root ({error})") from error
            try:
                process = await asyncio.create_subprocess_exec(
                    *confined.argv(own, slot.path if slot is not None else None, program), env=env | confined.environment(device), pass_fds=(keys, device),
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
            finally:
                os.close(device)
            said = asyncio.create_task(_last_words(process), name=f"output of the program of bucket {spec.bucket}")
            try:
                await _ready(place, process, spec)
            except UnsupportedError:
                log.warning("the bucket %s can't be mounted; s3fs said:\n%s", spec.bucket, await said)
                raise
            return _Mounted(place, process, said, slot)
        except BaseException:
            await self._clear(process, slot, place)
            raise


def _arguments(options: Sequence[str]) -> list[str]:
    """Each as an argument of its own. s3fs splits also one argument at its commas, so nothing that has one gets there.

    Raises:
        InvalidError
    """
    for option in options:
        if "," in option or "\\" in option or not option.isprintable():
            raise InvalidError(f"{option.partition('=')[0]} of a bucket has a character that it can't have")
    return [argument for option in options for argument in ("-o", option)]


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """The end of what the program printed, once it has ended. For the server's log alone: a store may have had it say anything."""
    assert process.stderr is not None
    kept = b""
    while part := await process.stderr.read(_SAID_BYTES):
        kept = (kept + part)[-_SAID_BYTES:]
    return kept.decode(errors="replace")


async def _ready(place: Path, process: asyncio.subprocess.Process, spec: BucketMount) -> None:
    """Wait until the mount answers.

    Raises:
        UnsupportedError: it never will.
    """
    try:
        async with asyncio.timeout(READY_S):
            await asyncio.to_thread(os.listdir, place)  # answered only when s3fs has asked the store itself
            return
    except (TimeoutError, OSError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    raise UnsupportedError(
        f"the bucket {spec.bucket} answers, but s3fs can't mount it: the server's machine needs s3fs (apt install s3fs), /dev/fuse, and root "
        f"(s3fs ended with status {process.returncode})"
    )


def _check(spec: BucketMount, variables: Mapping[str, str]) -> None:
    """Ask the store once, so that what is wrong is said in its words and at once."""
    check_bucket(spec)
    if any(not _first(variables, names).isprintable() or " " in _first(variables, names) for names in (_KEY, _SECRET)) or ":" in _first(variables, _KEY):
        raise InvalidError(f"the secret for the bucket {spec.bucket} has a key with a character that no key has")
    if spec.secret is not None and not (_first(variables, _KEY) and _first(variables, _SECRET)):
        raise InvalidError(f"the secret for the bucket {spec.bucket} has no AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    store = s3_store(
        spec.bucket, endpoint=spec.endpoint, region=_first(variables, _REGION), key=_first(variables, _KEY), secret=_first(variables, _SECRET),
        token=variables.get("AWS_SESSION_TOKEN", ""), path_style=spec.path_style or spec.endpoint is not None,
    )  # fmt: skip
    try:
        store.probe(spec.prefix)
    except Error as error:
        where = f" at {spec.endpoint}" if spec.endpoint else ""
        match error:
            case PermissionDeniedError():
                raise PermissionDeniedError(f"the bucket {spec.bucket}{where} can't be read with these keys") from None
            case NotFoundError():
                raise NotFoundError(f"there is no bucket {spec.bucket}{where}") from None
            case _:
                # What the store said stays here: a container, and its log, are told nothing that a foreign server wrote.
                raise ConnectionError(f"the bucket {spec.bucket}{where} does not answer as a store does") from None


def _first(variables: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((variables[name] for name in names if variables.get(name)), "")


def _key(spec: BucketMount, variables: Mapping[str, str]) -> str:
    """The same for the same files and rights; tells nothing of the keys."""
    relevant = sorted((name, variables[name]) for name in (*_KEY, *_SECRET, *_REGION, "AWS_SESSION_TOKEN") if name in variables)
    return hashlib.sha256(msgspec.msgpack.encode([msgspec.structs.replace(spec, path=""), relevant])).hexdigest()[:24]


async def _unmount(place: Path) -> None:
    process = await asyncio.create_subprocess_exec("umount", "-l", str(place), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
    await process.wait()
    with contextlib.suppress(OSError):
        place.rmdir()
