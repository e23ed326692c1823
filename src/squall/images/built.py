"""What a build gives: the image, and events while it is being made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from squall.model.ids import ImageId


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image whose layers are all there.

    Attributes:
        layers: directories, lowest first. Owned by the builder: read them, never change them.
        env: the environment that a container of it begins with.
        python: path of the interpreter inside; for the process driver, on this machine.
        python_version: such as ``3.11``.
        entrypoint, cmd: of the recipe; None: not set.
    """

    id: ImageId
    layers: tuple[Path, ...]
    env: Mapping[str, str]
    workdir: str
    python: str
    python_version: str
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None


def layer_name(layer: Path) -> str:
    """The key of a layer, which is the same on each machine, by its directory here."""
    return layer.parent.name


@dataclass(frozen=True, slots=True)
class StepEvent:
    """Progress of one step. `step` counts from 1; `state` is ``hit``, ``start``, ``log`` (with `line`), ``done`` (with `seconds`) or ``failed``."""

    step: int
    steps: int
    title: str
    state: str
    line: str = ""
    seconds: float = 0.0


Progress = Callable[[StepEvent], None]


def no_progress(event: StepEvent) -> None:
    """For those who do not want to know."""
