"""What the owner of a machine may set about image builds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from squall.model.errors import InvalidError
from squall.runtime.ids import DEFAULT_IDS


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Defaults fit an embedded server.

    Attributes:
        uid_base: host uid and gid of root inside containers; files of layers belong to this range. None: this process's own (process driver).
        parallel_builds: layers that are built at the same time on this machine.
        step_timeout_s: a build step that runs longer fails.
        step_memory_mib: a build step that uses more is ended; None: the machine's memory is the bound.
        step_network: build steps reach the outside. Without it only what is in the caches, in the image or on this machine can be installed.
        cache: blobs of registries, and of each app what its cache mounts hold; None: `cache` beside the layers.
        registry: where `debian_slim` comes from, such as ``registry.example.org/library``, which then has ``python:X.Y-slim``; empty: it is made here.
        python_fallback: ``nearest`` takes the nearest Python where `debian_slim` and `add_python` can't have the wanted one; None: that is an error.
        budget_bytes: what all layers together may take; beyond it, the longest unused that nobody needs leave. None: no bound.
        ca_bundle: certificates that builds trust; None: those that `SSL_CERT_FILE` and its like name, or pip's settings, or the system's.
    """

    uid_base: int | None = DEFAULT_IDS.first
    parallel_builds: int = 4
    step_timeout_s: float = 3600.0
    step_memory_mib: int | None = None
    step_network: bool = True
    cache: Path | None = None
    registry: str = ""
    python_fallback: str | None = None
    budget_bytes: int | None = None
    ca_bundle: Path | None = None


DEFAULTS = ImageSettings()


def from_environment(environ: Mapping[str, str], *, containers: bool) -> ImageSettings:
    """The settings that the server's environment names: `SQUALL_IMAGE_REGISTRY`, `SQUALL_PYTHON_FALLBACK`, `SQUALL_IMAGE_BUDGET_BYTES`, and of build steps
    `SQUALL_BUILD_TIMEOUT_S`, `SQUALL_BUILD_MEMORY_MIB`, `SQUALL_BUILD_NETWORK`, `SQUALL_BUILD_PARALLEL`, `SQUALL_BUILD_CA_BUNDLE`.

    Args:
        containers: the driver has user ids of its own.

    Raises:
        InvalidError: a value that is none.
    """
    fallback, network = environ.get("SQUALL_PYTHON_FALLBACK") or None, environ.get("SQUALL_BUILD_NETWORK") or "nat"
    if fallback not in (None, "nearest"):
        raise InvalidError(f"SQUALL_PYTHON_FALLBACK={fallback!r}: it can only be 'nearest'")
    if network not in ("nat", "none"):
        raise InvalidError(f"SQUALL_BUILD_NETWORK={network!r}: it can be 'nat' or 'none'")
    bundle = Path(environ["SQUALL_BUILD_CA_BUNDLE"]) if environ.get("SQUALL_BUILD_CA_BUNDLE") else None
    if bundle is not None and not bundle.is_file():
        raise InvalidError(f"SQUALL_BUILD_CA_BUNDLE={str(bundle)!r} is no file")
    timeout = _number(environ, "SQUALL_BUILD_TIMEOUT_S", float)
    return ImageSettings(
        uid_base=DEFAULT_IDS.first if containers else None,
        parallel_builds=_number(environ, "SQUALL_BUILD_PARALLEL", int) or DEFAULTS.parallel_builds,
        step_timeout_s=DEFAULTS.step_timeout_s if timeout is None else timeout,
        step_memory_mib=_number(environ, "SQUALL_BUILD_MEMORY_MIB", int),
        step_network=network == "nat",
        registry=environ.get("SQUALL_IMAGE_REGISTRY", "").rstrip("/"),
        python_fallback=fallback,
        budget_bytes=_number(environ, "SQUALL_IMAGE_BUDGET_BYTES", int),
        ca_bundle=bundle,
    )


_Number = TypeVar("_Number", int, float)


def _number(environ: Mapping[str, str], name: str, kind: Callable[[str], _Number]) -> _Number | None:
    """A positive number; None where it is not set."""
    text = environ.get(name)
    if not text:
        return None
    try:
        value = kind(text)
    except ValueError:
        value = kind("0")
    if not 0 < value < float("inf"):
        raise InvalidError(f"{name}={text!r} is not a positive {'whole number' if kind is int else 'number'}")
    return value
