"""Images of registries as layer directories, by skopeo(1): pulled into a cache of blobs, each layer unpacked once, whatever images share it."""

import asyncio
import base64
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squall.images import ecr, process
from squall.images.interpreter import DEFAULT_PATH
from squall.images.layers import KEY_OWNER, Draft
from squall.images.maker import failed
from squall.images.place import like_lower, through_links
from squall.images.recipe import digest
from squall.model.errors import InvalidError
from squall.model.ids import LayerKey

#: Variables of a secret that hold credentials of a registry; those of a container's registry at Google are one JSON.
USERNAME, PASSWORD, GOOGLE = "REGISTRY_USERNAME", "REGISTRY_PASSWORD", "SERVICE_ACCOUNT_JSON"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
#: As Docker has it, a registry of this machine needs no certificate.
_LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:\d+)?$")


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image whose blobs are in the cache. `layers` are (key, blob), lowest first."""

    digest: str
    layers: tuple[tuple[LayerKey, Path], ...]
    env: Mapping[str, str]
    workdir: str
    entrypoint: tuple[str, ...] | None
    cmd: tuple[str, ...] | None


def check_reference(reference: str) -> str:
    """A reference such as ``python:3.11-slim`` or ``registry.example.org:5000/team/app@sha256:...``, without transport.

    Raises:
        InvalidError: it is not one.
    """
    name = reference.removeprefix("docker://")
    if not re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]-]*", name) or name.endswith(("/", ":", "@")) or "//" in name or ":/" in name:
        raise InvalidError(f"{reference!r} is not the name of an image in a registry, such as python:3.11-slim")
    repository = name.partition("@")[0].removeprefix(f"{host_of(name)}/")
    if (path := re.sub(r":[^/:]*$", "", repository)) != path.lower():
        raise InvalidError(f"{reference!r}: the names of images in registries are in lower case")
    return name


def architecture() -> str:
    """This machine's, as registries and Dockerfiles name it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def host_of(reference: str) -> str:
    """The registry that a reference names; Docker's own where it names none."""
    first, slash, _ = reference.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def tls_options(reference: str, side: str) -> tuple[str, ...]:
    return (f"--{side}-tls-verify=false",) if _LOOPBACK.fullmatch(host_of(reference)) else ()


async def write_credentials(place: Path, reference: str, secrets: Mapping[str, str]) -> tuple[str, ...]:
    """Put credentials into a file (an argument would show in the list of processes). Returns options for skopeo; none without credentials.

    Raises:
        InvalidError: half of them, or a key of Google's that is no JSON.
        StepFailed: AWS gives no password for its keys.
    """
    if GOOGLE in secrets:
        user, password = "_json_key", secrets[GOOGLE]  # cloud.google.com/artifact-registry/docs/docker/authentication, "Service account key"
        try:
            json.loads(password)
        except ValueError:
            raise InvalidError(f"{GOOGLE} in the secret of {reference} is not the JSON of a service account's key") from None
    elif (ecr.KEY in secrets or ecr.SECRET in secrets) and PASSWORD not in secrets:
        user, password = await ecr.login(host_of(reference), secrets)
    elif USERNAME in secrets or PASSWORD in secrets:
        if not (USERNAME in secrets and PASSWORD in secrets):
            raise InvalidError(f"the secret of {reference} needs both {USERNAME} and {PASSWORD}")
        user, password = secrets[USERNAME], secrets[PASSWORD]
    else:
        return ()
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"auths": {host_of(reference): {"auth": token}}}, file)
    return ("--authfile", str(place))


def skopeo(environ: Mapping[str, str] = os.environ) -> str:
    """Where skopeo is.

    Raises:
        InvalidError: it is not installed.
    """
    found = shutil.which("skopeo", path=environ.get("PATH", "") + ":/usr/bin")
    if found is None:
        raise InvalidError("images of registries are fetched by skopeo, which is not installed here: apt install skopeo")
    return found


def environment() -> dict[str, str]:
    """What skopeo gets of this process: where to find things, proxies, certificates; no credentials but the user's own login file."""
    kept = ("PATH", "HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
    return {name: value for name, value in os.environ.items() if name in kept or name.lower().endswith("_proxy")}


async def pull(reference: str, draft: Draft, cache: Path, secrets: Mapping[str, str], line: Callable[[str], None]) -> Pulled:
    """Fetch the blobs of an image that are not in the cache.

    Raises:
        StepFailed: the registry refuses, or has no such image.
        InvalidError: skopeo is not installed, or half of the credentials are missing.
    """
    blobs, layout = cache / "oci", draft.scratch / "layout"
    blobs.mkdir(parents=True, exist_ok=True)
    options = await write_credentials(draft.scratch / "auth.json", reference, secrets)
    tail: list[str] = []

    def hear(text: str) -> None:
        tail.append(text)
        line(text)

    argv = (
        skopeo(), "--insecure-policy", "--override-os", "linux", "--override-arch", architecture(),
        "copy", "--retry-times", "2", *options, *tls_options(reference, "src"), "--dest-shared-blob-dir", str(blobs),
        f"docker://{reference}", f"oci:{layout}:image",
    )  # fmt: skip
    code = await process.run(argv, hear, environment())
    if code != 0:
        raise failed("\n".join(tail), code, None)
    return await asyncio.to_thread(_read, layout, blobs)


async def unpack(blob: Path, draft: Draft, lowers: Sequence[Path], line: Callable[[str], None], *, owner: int) -> None:
    """Unpack one layer into a draft. Directories that the layer needs but does not have look as those below.

    Raises:
        StepFailed: the archive is damaged.
    """
    tail: list[str] = []
    argv = (sys.executable, "-I", str(Path(__file__).with_name("unpack.py")), str(draft.fs), str(owner))
    code = await process.run(argv, tail.append, {"PATH": os.environ.get("PATH", os.defpath)}, stdin=blob)
    if code != 0:
        for text in tail:
            line(text)
        raise failed("\n".join(tail), code, None)
    implied = json.loads(tail[-1])
    await asyncio.to_thread(_settle, draft.fs, implied, lowers, owner)


def _settle(root: Path, implied: Sequence[str], lowers: Sequence[Path], owner: int) -> None:
    like_lower(root, through_links(root, implied, lowers), lowers, owner)


def _read(layout: Path, blobs: Path) -> Pulled:
    index = json.loads((layout / "index.json").read_bytes())
    name = index["manifests"][0]["digest"]
    manifest = json.loads(_blob(blobs, name).read_bytes())
    config = json.loads(_blob(blobs, manifest["config"]["digest"]).read_bytes())
    layers, chain = [], ""
    for diff, layer in zip(config["rootfs"]["diff_ids"], manifest["layers"], strict=True):
        # What is below counts too: a directory that the archive only implies gets its mode from there (OCI image spec, "ChainID").
        chain = digest("oci", chain, diff, KEY_OWNER, 1)
        layers.append((LayerKey(chain), _blob(blobs, layer["digest"])))
    settings: dict[str, Any] = config.get("config") or {}
    env = dict(item.partition("=")[::2] for item in settings.get("Env") or ())
    return Pulled(
        name,
        tuple(layers),
        {"PATH": DEFAULT_PATH, "HOME": "/root", **env},
        settings.get("WorkingDir") or "",
        tuple(settings["Entrypoint"]) if settings.get("Entrypoint") else None,
        tuple(settings["Cmd"]) if settings.get("Cmd") else None,
    )


def _blob(blobs: Path, name: str) -> Path:
    algorithm, _, value = name.partition(":")
    return blobs / algorithm / value
