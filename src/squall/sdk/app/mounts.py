"""What ``volumes=`` of a function takes: volumes and buckets, by the paths where they are mounted."""

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from squall.model.errors import InvalidError
from squall.model.specs import BucketMount, VolumeMount
from squall.sdk.client.client import Client, check_server
from squall.sdk.client.sync_async import talk
from squall.sdk.storage.bucket import CloudBucketMount
from squall.sdk.storage.volume import Volume

Mountable = Volume | CloudBucketMount

#: Where nothing can be mounted: what a container needs itself.
_TAKEN = ("/", "/proc", "/sys", "/dev", "/.squall", "/root", "/etc", "/usr", "/bin", "/lib", "/sbin", "/lib64", "/tmp")


def check_volumes(parameter: str, volumes: object) -> tuple[tuple[str, Mountable], ...]:
    """The volumes and buckets of ``volumes=``, or of the `parameter` of another name, by their paths.

    Raises:
        InvalidError: not a dict of paths and volumes, a path where nothing can be mounted, one volume twice.
    """
    if volumes is None:
        return ()
    if not isinstance(volumes, dict):
        raise InvalidError(f'{parameter} is a dict of paths and volumes, for example {parameter}={{"/data": squall.Volume.from_name("data")}}')
    found: dict[str, Mountable] = {}
    for path, volume in volumes.items():
        if not isinstance(path, str | PurePosixPath):
            raise InvalidError(f"{parameter}: {path!r} is not a path")
        text = os.path.normpath(str(path))
        if not text.startswith("/") or ".." in PurePosixPath(str(path)).parts or "\0" in text:
            raise InvalidError(f"{parameter}: {str(path)!r} is not an absolute path")
        text = "/" + text.lstrip("/")
        if text in _TAKEN or text.startswith(("/proc/", "/sys/", "/dev/", "/.squall/")):
            raise InvalidError(f"{parameter}: nothing can be mounted at {text!r}; take a directory of its own, for example /data")
        if not isinstance(volume, Volume | CloudBucketMount):
            raise InvalidError(f"{parameter}[{text!r}] is no squall.Volume or squall.CloudBucketMount but {type(volume).__name__}")
        if text in found:
            raise InvalidError(f"{parameter}: {text!r} is given twice")
        if isinstance(volume, Volume) and any(volume == other and volume._sub_path == other._sub_path for other in found.values() if isinstance(other, Volume)):
            raise InvalidError(f"{parameter}: {volume!r} is mounted twice; a function can mount a volume, or one directory of it, once")
        if isinstance(volume, Volume):
            volume._declared = True
        found[text] = volume
    return tuple(found.items())


def mount(volumes: Sequence[tuple[str, Mountable]], environment: str, client: Client | None = None) -> tuple[VolumeMount, ...]:
    """The volume mounts of a function's spec; volumes are looked up, and made if they may be.

    Raises:
        NotFoundError: there is no such volume.
    """
    mounts = []
    for path, volume in volumes:
        if isinstance(volume, Volume):
            check_server(repr(volume), volume._client, client)
            opened = talk(client or volume.client, volume._open(environment))
            mounts.append(VolumeMount(path, opened.id, volume._read_only, volume._strict, volume._sub_path))
    return tuple(mounts)


def mount_buckets(volumes: Sequence[tuple[str, Mountable]], environment: str, client: Client | None = None) -> tuple[BucketMount, ...]:
    """The bucket mounts of a function's spec; their secrets are looked up.

    Raises:
        NotFoundError: there is no such secret.
    """
    return tuple(bucket._spec(path, environment, client) for path, bucket in volumes if isinstance(bucket, CloudBucketMount))
