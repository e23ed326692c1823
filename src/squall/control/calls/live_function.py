"""A function as the router knows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from squall.images.builder import BuiltImage
from squall.model.specs import FunctionSpec


@dataclass(frozen=True, slots=True)
class LiveFunction:
    """A function of a running or deployed app, its image built. `layers` are laid over the image's; `functions` are the ids of the app's functions by tag."""

    id: str
    app: str
    app_name: str
    spec: FunctionSpec
    packed: bytes
    image: BuiltImage
    layers: tuple[Path, ...]
    functions: Mapping[str, str]
