"""What the owner of a machine may set about image builds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from squall.model.errors import InvalidError
from squall.runtime.bundle import DEFAULT_IDS


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Defaults fit an embedded server.

    Attributes:
        uid_base: host uid and gid of root inside containers; files of layers belong to this range. None: this process's own (process driver).
        parallel_builds: layers that are built at the same time on this machine.
        step_timeout_s: a build step that runs longer fails.
        cache: downloads that builds share (uv's and apt's); None: `cache` beside the layers.
        registry: where `debian_slim` comes from, such as ``registry.example.org/library``, which then has ``python:X.Y-slim``; empty: it is made here.
        python_fallback: ``nearest`` takes the nearest Python where `debian_slim` can't have the wanted one; None: that is an error.
        budget_bytes: what all layers together may take; beyond it, the longest unused that nobody needs leave. None: no bound.
        ca_bundle: certificates that builds trust, where the environment names no other.
    """

    uid_base: int | None = DEFAULT_IDS.first
    parallel_builds: int = 4
    step_timeout_s: float = 3600.0
    cache: Path | None = None
    registry: str = ""
    python_fallback: str | None = None
    budget_bytes: int | None = None
    ca_bundle: Path = Path("/etc/ssl/certs/ca-certificates.crt")


DEFAULTS = ImageSettings()


def from_environment(environ: Mapping[str, str], *, containers: bool) -> ImageSettings:
    """The settings that the server's environment names: SQUALL_IMAGE_REGISTRY, SQUALL_PYTHON_FALLBACK, SQUALL_IMAGE_BUDGET_BYTES, SQUALL_BUILD_TIMEOUT_S.

    Args:
        containers: the driver has user ids of its own.

    Raises:
        InvalidError: a value that is none.
    """
    fallback = environ.get("SQUALL_PYTHON_FALLBACK") or None
    if fallback not in (None, "nearest"):
        raise InvalidError(f"SQUALL_PYTHON_FALLBACK={fallback!r}: it can only be 'nearest'")
    try:
        budget = int(environ["SQUALL_IMAGE_BUDGET_BYTES"]) if environ.get("SQUALL_IMAGE_BUDGET_BYTES") else None
        timeout = float(environ.get("SQUALL_BUILD_TIMEOUT_S") or DEFAULTS.step_timeout_s)
    except ValueError as error:
        raise InvalidError(f"SQUALL_IMAGE_BUDGET_BYTES and SQUALL_BUILD_TIMEOUT_S are numbers: {error}") from error
    return ImageSettings(
        uid_base=DEFAULT_IDS.first if containers else None,
        registry=environ.get("SQUALL_IMAGE_REGISTRY", "").rstrip("/"),
        python_fallback=fallback,
        budget_bytes=budget,
        step_timeout_s=timeout,
    )
