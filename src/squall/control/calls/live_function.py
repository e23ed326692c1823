"""A function as the router knows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from squall.images.built import BuiltImage, layer_name
from squall.model.specs import FunctionSpec
from squall.wire.agent import ImageName


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

    @property
    def image_name(self) -> ImageName:
        """As the agents of nodes know it."""
        image = self.image
        layers = tuple(map(layer_name, image.layers))
        return ImageName(image.id, layers, dict(image.env), image.workdir, image.python, image.python_version, image.entrypoint)

    @property
    def layer_names(self) -> tuple[str, ...]:
        return tuple(map(layer_name, self.layers))
