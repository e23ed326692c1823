"""What an order for a container comes to on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from squall.images.built import BuiltImage
from squall.model.specs import FunctionSpec
from squall.runtime.contract import Bind
from squall.wire.agent import StartContainer


@dataclass(frozen=True, slots=True)
class Supplies:
    """What a container gets only when it starts: variables with the values of its secrets, which are written nowhere, and its volumes."""

    env: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """The order, and what its names stand for here. `layers` lie over the image's: the runner, the sources."""

    order: StartContainer
    spec: FunctionSpec
    image: BuiltImage
    layers: tuple[Path, ...]
