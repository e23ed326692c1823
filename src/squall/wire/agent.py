"""What the server and the agent of a node say to each other: orders one way, reports the other. `squall.wire.messages` says how such a struct may change.

Both carry names and hashes: no paths of either machine, and nothing that lives in a process. In one process the very objects are passed on, so whoever gets a
message changes nothing of it.
"""

import msgspec

from squall.wire.messages import Fault
from squall.wire.runner import More, Print, Rejoin, Result, Revoke, Revoked, Run, StartFailed, Stop


class ImageName(msgspec.Struct, array_like=True, frozen=True):
    """An image, by the names of its layers, the lowest first; the rest as in `images.built.BuiltImage`."""

    id: str
    layers: tuple[str, ...]
    env: dict[str, str]
    workdir: str
    python: str
    python_version: str
    entrypoint: tuple[str, ...] | None = None


class ContainerRecord(msgspec.Struct, frozen=True):
    """What is known of a container that is ready, kept beside it for an agent to come. `function` to `devices` as in `StartContainer`.

    `layers` are those that lie over the image's; `squall_version` is what its runner speaks.
    """

    container: str
    app: str
    tag: str
    function: str
    packed_spec: bytes
    image: str
    layers: tuple[str, ...]
    parameters: bytes
    node: str
    gpu_type: str | None
    devices: tuple[str, ...]
    squall_version: str
    import_s: float = 0.0
    enter_s: float = 0.0


class Usage(msgspec.Struct, array_like=True, frozen=True):
    """What a container has used so far, and what it uses now."""

    cpu_s: float
    memory_bytes: int


class Heartbeat(msgspec.Struct, tag=326, array_like=True, frozen=True):
    """The agent is there, and the server answers with the same: a message that was lost shows in the numbers.

    `usage`: of containers that run. `runnable`: threads on the machine that have a core or wait for one.
    """

    usage: dict[str, Usage] = {}
    runnable: int = 0


# --- orders: from the server to a node ---------------------------------------------------------------------------------------


class StartContainer(msgspec.Struct, tag=300, array_like=True, frozen=True):
    """Start a container of a function. An order for a container that is there already changes nothing.

    Answered with CouldNotStart, or with Started, later BecameReady or Told(StartFailed), and at the end Died.
    """

    container: str
    app: str
    app_name: str
    function: str
    packed_spec: bytes  #: msgpack of FunctionSpec
    image: ImageName
    layers: tuple[str, ...]  #: over the image's, the lowest first: the runner, the sources
    functions: dict[str, str]  #: ids of the app's functions by tag
    env: dict[str, str]  #: the function's own environment
    parameters: bytes = b""
    devices: tuple[str, ...] = ()  #: ids of the GPUs that were reserved for it
    gpu_type: str | None = None
    node: str = ""  #: the machine that it was placed on


class KeepContainer(msgspec.Struct, tag=301, array_like=True, frozen=True):
    """A container that an earlier agent started, and that the agent's hello has named, goes on. Its runner says what it has: Told(Rejoin)."""

    container: str


ToContainer = Run | Stop | More | Revoke


class Tell(msgspec.Struct, tag=302, array_like=True, frozen=True, gc=False):
    """Pass this on to a container's runner. Stop and Revoke of certain attempts also interrupt code that runs."""

    container: str
    message: ToContainer


class KillContainer(msgspec.Struct, tag=303, array_like=True, frozen=True):
    """End a container now; take its start back if it is on its way."""

    container: str


class PrepareImage(msgspec.Struct, tag=304, array_like=True, frozen=True):
    """Containers of this image, under these layers of a function, may be wanted soon."""

    image: ImageName
    layers: tuple[str, ...]


Order = StartContainer | KeepContainer | Tell | KillContainer | PrepareImage | Heartbeat


# --- reports: from a node to the server --------------------------------------------------------------------------------------


class Started(msgspec.Struct, tag=321, array_like=True, frozen=True):
    """A container's process runs.

    `copy_of`: ``function`` (a copy with its imports done), ``image`` (a copy that imports), None (started as a program); `not_forked` says why it is not the
    first. `entrypoint` is the program of the image that starts its runner; empty without one.
    """

    container: str
    pid: int | None = None
    network_s: float = 0.0
    copy_of: str | None = None
    not_forked: str | None = None
    entrypoint: str = ""


class BecameReady(msgspec.Struct, tag=322, array_like=True, frozen=True):
    """Imported and entered. `phases`: seconds of the steps since the agent was told to start it; empty of one that an earlier agent started."""

    container: str
    import_s: float
    enter_s: float
    phases: dict[str, float]


class CouldNotStart(msgspec.Struct, tag=323, array_like=True, frozen=True):
    """Nothing of a container that was ordered is there, nor will be."""

    container: str
    error: Fault


class Told(msgspec.Struct, tag=324, array_like=True, frozen=True, gc=False):
    """A container's runner says this, or printed it."""

    container: str
    message: Result | Print | Revoked | StartFailed | Rejoin


class Died(msgspec.Struct, tag=325, array_like=True, frozen=True):
    """A container has ended, and nothing of it is left. All that it had finished was told before.

    `exit_code` and `signal` are both None when nobody knows how. `last_token`: the attempt that ran last; 0: none. `from_inside`: the signal did not come from
    outside the container.
    """

    container: str
    exit_code: int | None = None
    signal: int | None = None
    oom_killed: bool = False
    memory_peak_bytes: int | None = None
    last_token: int = 0
    from_inside: bool = False


class InHand(msgspec.Struct, array_like=True, frozen=True):
    """An attempt that a container was given and has not ended: how many items of its generator were told, and how much credit it has had in all."""

    token: int
    items: int = 0
    credit: int = 0


class Finished(msgspec.Struct, array_like=True, frozen=True):
    """The result of an attempt, which the server may not have got, and how many items of its generator were told before."""

    result: Result
    items: int = 0


class ContainerState(msgspec.Struct, array_like=True, frozen=True):
    """A container that is there, and all that was told of it.

    Attributes:
        record: of one that an earlier agent started and that nobody has ordered to keep; what it has in hand is not known. None of others.
        process, ready, start_failed, rejoin: what it has reported.
    """

    container: str
    record: ContainerRecord | None = None
    process: Started | None = None
    ready: BecameReady | None = None
    start_failed: StartFailed | None = None
    rejoin: Rejoin | None = None
    in_hand: tuple[InHand, ...] = ()
    finished: tuple[Finished, ...] = ()


class EndedContainer(msgspec.Struct, array_like=True, frozen=True):
    """A container whose end the server may not have heard of, and what it was before."""

    end: CouldNotStart | Died
    last: ContainerState


class NodeHello(msgspec.Struct, tag=320, array_like=True, frozen=True):
    """The first report on each connection: everything that the node has.

    `generation` is what the agent obeys from now on: orders of an older one are refused. It is higher with each connection.
    """

    generation: int = 0
    containers: tuple[ContainerState, ...] = ()
    ended: tuple[EndedContainer, ...] = ()


Report = NodeHello | Started | BecameReady | CouldNotStart | Told | Died | Heartbeat


# --- between machines --------------------------------------------------------------------------------------------------------


class Envelope(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a message travels in on a connection between machines. In one process there is none.

    Attributes:
        generation: of the connection, by its NodeHello.
        number: counts the messages of one direction from 1. One that was there already is dropped, and a gap ends the connection: the next hello repairs it.
        got: the last number that came from the other side.
    """

    generation: int
    number: int
    got: int
    message: Order | Report
