"""What the store keeps, as values. Times are Unix seconds; None is unknown or not yet."""

import msgspec

from squall.model.ids import AppId, CallId, ContainerId, FunctionId, ImageId
from squall.model.states import AppState, ContainerState, InputState


class AppRow(msgspec.Struct, frozen=True):
    """A run or a deployment. `detached`: it goes on when its client leaves."""

    id: AppId
    name: str | None
    description: str
    environment: str
    state: AppState
    created_at: float
    stopped_at: float | None = None
    detached: bool = False


class FunctionRow(msgspec.Struct, frozen=True):
    """A function of an app. `spec` is the msgpack of its `FunctionSpec`; `image` is the image it was given when the app started."""

    id: FunctionId
    app: AppId
    tag: str
    spec: bytes
    image: ImageId | None
    created_at: float


class InputRow(msgspec.Struct, frozen=True):
    """An accepted input and, once it ended, its outcome.

    `token` names the last attempt (0: none yet) and only rises. `attempts` counts claims; `platform_retries` those that were the platform's fault.
    `status` and `output` are as in the wire's `Output`. At `expires_at` the outcome is dropped. `sequence` is the order of acceptance, set by the store.
    """

    call: CallId
    index: int
    function: FunctionId
    data: bytes
    created_at: float
    method: str = ""
    parameters: bytes = b""
    parent: str = ""
    state: InputState = InputState.QUEUED
    token: int = 0
    attempts: int = 0
    platform_retries: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    status: int | None = None
    output: bytes | None = None
    expires_at: float | None = None
    sequence: int = 0


class Claim(msgspec.Struct, frozen=True):
    """The beginning of an attempt; see `Store.claim`."""

    call: CallId
    index: int
    token: int
    now: float


class Outcome(msgspec.Struct, frozen=True):
    """The end of an input; see `Store.finish`."""

    call: CallId
    index: int
    token: int
    status: int
    output: bytes
    now: float
    expires_at: float | None


class ContainerRow(msgspec.Struct, frozen=True):
    """A container, also after its end. `pid` is the host's, for an agent that comes back; `reason` says why it stopped."""

    id: ContainerId
    app: AppId
    function: FunctionId
    state: ContainerState
    image: ImageId | None
    created_at: float
    ready_at: float | None = None
    stopped_at: float | None = None
    reason: str | None = None
    pid: int | None = None


class DeploymentRow(msgspec.Struct, frozen=True):
    """One version of a deployed app; `id` is ``<app>:<version>``. `spec` is the msgpack of its `AppSpec`; `tag` is the user's word, `note` ours."""

    id: str
    app: AppId
    version: int
    created_at: float
    tag: str
    note: str
    spec: bytes


class ScheduleRow(msgspec.Struct, frozen=True):
    """When the scheduled function `id` ran last by its schedule; `since`: ticks before this are none of ours."""

    id: FunctionId
    app: AppId
    since: float
    last_at: float | None = None
    paused: bool = False


class TokenRow(msgspec.Struct, frozen=True):
    """A token of the HTTP doors: `kind` is ``api`` or ``proxy``, `digest` the SHA-256 of the secret, in hex."""

    id: str
    kind: str
    name: str
    digest: str
    created_at: float


class EventRow(msgspec.Struct, frozen=True):
    """Something that happened to `entity` (an id): the facts that cold-start times, usage and `why does it wait` are made of."""

    time: float
    entity: str
    kind: str
    detail: str = ""


class Statistics(msgspec.Struct, frozen=True):
    """A snapshot. `commits` and `writes` since opening: their ratio is what grouping saves. `queued`: writes that wait now."""

    commits: int
    writes: int
    queued: int
    events_dropped: int
