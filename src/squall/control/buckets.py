"""Buckets of object stores as directories: one s3fs(1) for each bucket, shared by the containers that mount it."""

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from squall.model.errors import ConnectionError, Error, InvalidError, NotFoundError, PermissionDeniedError, UnsupportedError
from squall.model.specs import BucketMount
from squall.model.validation import check_bucket, check_region
from squall.runtime.contract import Bind
from squall.store.object_store import s3_store

log = logging.getLogger(__name__)

#: Of the store's answer, and of the mount, which asks the store again.
READY_S = 30.0
#: The last container has ended: the next one may come soon.
LINGER_S = 30.0
#: What was written is in the bucket when a file is closed, so there is little to wait for.
STOP_S = 10.0
_POLL_S = 0.01

_KEY = ("AWS_ACCESS_KEY_ID", "GOOGLE_ACCESS_KEY_ID")
_SECRET = ("AWS_SECRET_ACCESS_KEY", "GOOGLE_ACCESS_KEY_SECRET")
_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(slots=True)
class _Mounted:
    place: Path
    process: asyncio.subprocess.Process
    holders: set[str] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None


class Buckets:
    """Of one server.

    Args:
        root: holds a mount point for each.
        owner: host uid that files belong to: root in containers.
    """

    def __init__(self, root: Path, owner: int | None) -> None:
        self._root, self._owner = root, owner
        self._mounted: dict[str, _Mounted] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Unmount what a server that was killed left: the programs behind it died with it."""
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
        with contextlib.suppress(ProcessLookupError):
            mounted.process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await mounted.process.wait()
        except TimeoutError:
            mounted.process.kill()
            await mounted.process.wait()
        await _unmount(mounted.place)

    async def _mount(self, spec: BucketMount, variables: Mapping[str, str], place: Path) -> _Mounted:
        await asyncio.to_thread(_check, spec, variables)
        place.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._root.chmod(0o711)
        owner = 0 if self._owner is None else self._owner
        options = ["allow_other", "nosuid", "nodev", f"uid={owner}", f"gid={owner}", "umask=0022", "retries=3", "connect_timeout=10", "nonempty"]
        check_bucket(spec)  # once more, since what is in the store may come from an earlier version
        options.append(f"url={spec.endpoint or 'https://s3.amazonaws.com'}")
        if region := _first(variables, _REGION):
            check_region(region)
            options.append(f"endpoint={region}")
        options += ["use_path_request_style"] if spec.path_style or spec.endpoint else []
        options += ["requester_pays"] if spec.requester_pays else []
        options += ["ro"] if spec.read_only else []
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C"}
        keys = os.memfd_create("bucket")  # a file in memory that nobody else finds; never an argument or a variable, which ps shows
        try:
            os.fchmod(keys, 0o600)
            if spec.secret is None:
                options += ["public_bucket=1", "ro"]
            else:
                os.write(keys, f"{_first(variables, _KEY)}:{_first(variables, _SECRET)}\n".encode())
                options.append(f"passwd_file=/proc/self/fd/{keys}")
                if token := variables.get("AWS_SESSION_TOKEN"):  # s3fs takes one from variables alone
                    env |= {"AWSACCESSKEYID": _first(variables, _KEY), "AWSSECRETACCESSKEY": _first(variables, _SECRET), "AWSSESSIONTOKEN": token}
                    options = [option for option in options if not option.startswith("passwd_file=")] + ["use_session_token"]
            bucket = f"{spec.bucket}:/{spec.prefix.rstrip('/')}" if spec.prefix else spec.bucket
            try:
                process = await asyncio.create_subprocess_exec(
                    "setpriv", "--pdeathsig", "KILL", "s3fs", bucket, str(place), "-f", *_arguments(options), env=env, pass_fds=(keys,),
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            except FileNotFoundError as error:
                raise UnsupportedError("CloudBucketMount needs s3fs on the server's machine: apt install s3fs") from error
            await _ready(place, process, spec)
        finally:
            os.close(keys)
        return _Mounted(place, process)


def _arguments(options: Sequence[str]) -> list[str]:
    """Each as an argument of its own. s3fs splits also one argument at its commas, so nothing that has one gets there.

    Raises:
        InvalidError
    """
    for option in options:
        if "," in option or "\\" in option or not option.isprintable():
            raise InvalidError(f"{option.partition('=')[0]} of a bucket has a character that it can't have")
    return [argument for option in options for argument in ("-o", option)]


async def _ready(place: Path, process: asyncio.subprocess.Process, spec: BucketMount) -> None:
    """Wait until the mount answers.

    Raises:
        UnsupportedError: it never will.
    """
    try:
        async with asyncio.timeout(READY_S):
            while process.returncode is None:
                if os.path.ismount(place):
                    await asyncio.to_thread(os.listdir, place)  # answered only when s3fs has asked the store itself
                    return
                await asyncio.sleep(_POLL_S)
    except (TimeoutError, OSError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    await _unmount(place)
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
