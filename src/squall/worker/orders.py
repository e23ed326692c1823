"""What the router asks of an agent, and what the agent tells it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from squall.images.builder import BuiltImage
from squall.model.errors import Error
from squall.model.ids import ContainerId
from squall.model.specs import FunctionSpec
from squall.runtime.contract import Bind, Exit
from squall.wire.messages import Ready, Result, Revoked, StartFailed


@dataclass(frozen=True, slots=True)
class Supplies:
    """What a container gets only when it starts: variables with the values of its secrets, which are written nowhere, and its volumes."""

    env: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """Start a container of a function. `layers` lie over the image's: source and runner. `env` is the function's own environment; `supplies` gives the rest."""

    container: ContainerId
    app: str
    app_name: str
    function: str
    spec: FunctionSpec
    packed_spec: bytes
    image: BuiltImage
    layers: tuple[Path, ...]
    functions: Mapping[str, str]
    env: Mapping[str, str] = field(default_factory=dict)
    parameters: bytes = b""
    #: Entered when it starts, left when it has ended.
    supplies: Callable[[], AbstractAsyncContextManager[Supplies]] | None = None
    devices: tuple[str, ...] = ()  #: ids of the GPUs that were reserved for it
    gpu_type: str | None = None
    node: str = ""  #: the machine that it was placed on


@dataclass(frozen=True, slots=True)
class Death:
    """How a container ended, and what its runner left: the attempt that ran last (0: none)."""

    exit: Exit
    last_token: int


class Listener(Protocol):
    """Told about one container, in order; the last is `could_not_start` or `died`. `result` comes before `died` for everything that the runner had finished."""

    def could_not_start(self, error: Error) -> None: ...

    def ready(self, message: Ready) -> None: ...

    def start_failed(self, message: StartFailed) -> None: ...

    def result(self, message: Result) -> None: ...

    def printed(self, token: int, stream: int, data: bytes) -> None: ...

    def revoked(self, message: Revoked) -> None: ...

    def died(self, death: Death) -> None: ...
