"""Images out of the door: layer directories become the layers of an OCI image, which skopeo(1) takes wherever it can go.

The same layer gives the same archive: names are sorted, and nothing of this machine is in it. Owners are shifted back, and what overlayfs takes for a
deletion becomes a whiteout (OCI image spec, layer.md).
"""

import hashlib
import json
import os
import platform
import re
import stat
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from squall.images import process, registry
from squall.images.catalog import ImageRecord
from squall.images.maker import failed
from squall.model.errors import InvalidError

_CAPABILITY = "security.capability"
#: Transports of skopeo that make a file or a directory here, and that of registries.
_TRANSPORTS = ("oci:", "oci-archive:", "docker-archive:", "dir:", "docker://")
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def check_target(target: str) -> str:
    """The target as skopeo names it: ``oci:DIRECTORY[:TAG]``, ``docker-archive:FILE``, or the name of an image in a registry.

    Raises:
        InvalidError: none of them.
    """
    if target.startswith(_TRANSPORTS[:-1]):
        kind, _, path = target.partition(":")
        if not path.startswith("/"):
            raise InvalidError(f"{target!r}: write the whole path, {kind}:/...")
        return target
    if re.match(r"[a-z-]+:/", target) and not target.startswith("docker://"):
        raise InvalidError(f"{target!r} is no place for an image: write oci:DIR, docker-archive:FILE, or registry.example.org/name:tag")
    name = registry.check_reference(target)
    if registry.host_of(name) == "docker.io" and not name.startswith("docker.io/"):
        raise InvalidError(f"{target!r} names no registry: write registry.example.org/name:tag, or oci:DIR for a directory")
    return f"docker://{name}"


def write_layout(record: ImageRecord, layers: Sequence[tuple[str, Path]], layout: Path, *, base: int) -> None:
    """Write an OCI image layout. Blocks while everything is read.

    Args:
        layers: title and directory of each, lowest first.
        base: host id of root in containers.
    """
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    described, diffs = [], []
    for _, directory in layers:
        draft = blobs / "layer"
        with draft.open("wb") as file:
            hashed = _Hashing(file)
            pack(directory, hashed, base=base)
        name = hashed.digest.hexdigest()
        size = draft.stat().st_size
        draft.rename(blobs / name)
        diffs.append(f"sha256:{name}")
        described.append({"mediaType": _LAYER, "digest": f"sha256:{name}", "size": size})
    settings: dict[str, Any] = {"Env": [f"{name}={value}" for name, value in sorted(record.env.items())], "WorkingDir": record.workdir}
    settings |= {"Entrypoint": list(record.entrypoint)} if record.entrypoint is not None else {}
    settings |= {"Cmd": list(record.cmd)} if record.cmd is not None else {}
    config = {
        "created": "1970-01-01T00:00:00Z",
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": diffs},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": title} for title, _ in layers],
    }
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": _store(blobs, config, _CONFIG), "layers": described}
    index = {"schemaVersion": 2, "manifests": [_store(blobs, manifest, _MANIFEST) | {"annotations": {"org.opencontainers.image.ref.name": "image"}}]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


async def send(layout: Path, target: str, scratch: Path, secrets: Mapping[str, str], line: Callable[[str], None]) -> None:
    """Copy a layout to `target` (see `check_target`).

    Raises:
        StepFailed: skopeo could not.
    """
    name = target.removeprefix("docker://")
    options: tuple[str, ...] = ()
    if target.startswith("docker://"):
        options = (*await registry.write_credentials(scratch / "auth.json", name, secrets), *registry.tls_options(name, "dest"))
    tail: list[str] = []

    def hear(text: str) -> None:
        tail.append(text)
        line(text)

    argv = (registry.skopeo(), "--insecure-policy", "copy", "--retry-times", "2", *options, f"oci:{layout}:image", target)
    code = await process.run(argv, hear, registry.environment())
    if code != 0:
        raise failed("\n".join(tail), code, None)


def pack(root: Path, out: Any, *, base: int) -> None:
    """Write a layer's directory as an archive."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
        names: dict[int, str] = {}
        for path in _walk(root):
            name = str(path.relative_to(root))
            status = path.lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                archive.addfile(_entry(f"{os.path.dirname(name)}/.wh.{path.name}".lstrip("/"), status, base, tarfile.REGTYPE))
                continue
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and status.st_ino in names:
                entry = _entry(name, status, base, tarfile.LNKTYPE)
                entry.linkname = names[status.st_ino]
                archive.addfile(entry)
            elif stat.S_ISREG(status.st_mode):
                names[status.st_ino] = name
                entry = _entry(name, status, base, tarfile.REGTYPE)
                entry.size = status.st_size
                entry.pax_headers = _capability(path)
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            elif stat.S_ISLNK(status.st_mode):
                entry = _entry(name, status, base, tarfile.SYMTYPE)
                entry.linkname = os.readlink(path)
                archive.addfile(entry)
            elif stat.S_ISDIR(status.st_mode):
                archive.addfile(_entry(name, status, base, tarfile.DIRTYPE))
                if _is_opaque(path):
                    archive.addfile(_entry(f"{name}/.wh..wh..opq", status, base, tarfile.REGTYPE))
            elif stat.S_ISFIFO(status.st_mode):
                archive.addfile(_entry(name, status, base, tarfile.FIFOTYPE))


def _walk(root: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if root.name == "fs" and entry.name == ".squall":
            continue  # a mount point of builds
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


def _entry(name: str, status: os.stat_result, base: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, stat.S_IMODE(status.st_mode), int(status.st_mtime)
    # What is not of the mapped range (made by the kernel: whiteouts) is root's.
    entry.uid, entry.gid = max(0, status.st_uid - base), max(0, status.st_gid - base)
    return entry


def _capability(path: Path) -> dict[str, str]:
    try:
        value = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
    except OSError:
        return {}
    if len(value) == 24:
        (magic,) = struct.unpack("<I", value[:4])
        value = struct.pack("<I", 0x02000000 | (magic & 0xFFFFFF)) + value[4:20]
    return {f"SCHILY.xattr.{_CAPABILITY}": value.decode("utf-8", "surrogateescape")}


def _is_opaque(path: Path) -> bool:
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def _store(blobs: Path, value: Mapping[str, Any], kind: str) -> dict[str, Any]:
    data = json.dumps(value, sort_keys=True).encode()
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)
