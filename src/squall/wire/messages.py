"""The protocol's one definition: every message between client, server and container.

Each frame holds one of these, as a msgpack array whose first element is the tag. New optional fields go at the end of a struct, so that one version back keeps
working. Field names are short words, but only their order crosses the wire.
What a runner and its agent say is defined in `squall.wire.runner`, and had from here too.
"""

from typing import Any

import msgspec

from squall.model.specs import AppSpec, ImageSpec
from squall.wire.deploys import DeployCommand, Deployed, Found
from squall.wire.runner import Boot as Boot
from squall.wire.runner import Flight as Flight
from squall.wire.runner import Landed as Landed
from squall.wire.runner import More as More
from squall.wire.runner import Print as Print
from squall.wire.runner import Ready as Ready
from squall.wire.runner import Rejoin as Rejoin
from squall.wire.runner import Result as Result
from squall.wire.runner import Revoke as Revoke
from squall.wire.runner import Revoked as Revoked
from squall.wire.runner import Run as Run
from squall.wire.runner import StartFailed as StartFailed
from squall.wire.runner import Stop as Stop
from squall.wire.state import Abandon, Entries, StateAnswer, StateCommand

PROTOCOL_VERSION = 1

#: Result of an input. ITEM is one item of a generator; the generator ends with OK (data empty) or a failure.
OK, RAISED, FAILED, CANCELLED, ITEM = 0, 1, 2, 3, 4

#: How an input is held: LIVE by the client that waits for it, DURABLE by the store.
LIVE, DURABLE = 0, 1


class Hello(msgspec.Struct, tag=1, array_like=True):
    """First frame of every connection. `role` is ``client`` or ``runner``."""

    version: int
    role: str
    name: str  #: client id, or container id
    squall_version: str = ""
    token: str | None = None


class Welcome(msgspec.Struct, tag=2, array_like=True):
    """The server's answer to Hello."""

    version: int
    server_id: str
    squall_version: str = ""
    parcels: str = ""  #: to a client of the same file system: the directory for large arguments (`squall.wire.parcels`)


# --- calls: client <-> server -------------------------------------------------------------------------------------------------


class Call(msgspec.Struct, tag=10, array_like=True):
    """Run one input. `request` is the client's number for the answer; `data` is the pickled ``(args, kwargs)``, or says where it lies (`squall.wire.parcels`).

    Sent again after a reconnect, the same (call, index) is the same input: the server answers from what it has.
    """

    request: int
    function: str
    call: str
    index: int
    data: bytes
    method: str = ""
    hold: int = LIVE
    credit: int = 0  #: generators: items that may be sent before more credit is given
    parameters: bytes = b""  #: class parameters, msgpack; each value has its own pool
    parent: str = ""  #: input that made this call, for the call graph


class Output(msgspec.Struct, tag=11, array_like=True):
    """Outcome of an input, or an item of its generator. `data`: pickled value, or for RAISED a packed `Raised`, for FAILED a packed `Fault`."""

    request: int
    status: int
    data: bytes
    index: int = 0  #: the input's index within its call (for ITEM too)


class Accepted(msgspec.Struct, tag=12, array_like=True):
    """A DURABLE input is in the store."""

    request: int


class Await(msgspec.Struct, tag=13, array_like=True):
    """Answer with the Output of an input when there is one. `timeout_s` 0 asks once; None waits without end."""

    request: int
    call: str
    index: int = 0
    timeout_s: float | None = None


class Cancel(msgspec.Struct, tag=14, array_like=True):
    """Stop the inputs of a call. `indexes` empty: all of them."""

    call: str
    indexes: tuple[int, ...] = ()
    terminate: bool = False


class Credit(msgspec.Struct, tag=15, array_like=True):
    """A generator may send `items` more."""

    call: str
    index: int
    items: int


class NotReady(msgspec.Struct, tag=16, array_like=True):
    """An Await whose timeout passed."""

    request: int


# --- requests: client <-> server ----------------------------------------------------------------------------------------------


class StartApp(msgspec.Struct, tag=100, array_like=True):
    """Build the app's images, create its functions, and hold it for this session. Progress events come before the answer `AppStarted`.

    With `app` set and already there (a reconnect), the session attaches to it instead.
    """

    spec: AppSpec
    app: str
    detach: bool = False
    environment: str = "main"


class AppStarted(msgspec.Struct, tag=101, array_like=True):
    app: str
    functions: dict[str, str]  #: tag -> function id
    images: tuple[str, ...]


class StopApp(msgspec.Struct, tag=102, array_like=True):
    """End an app: its inputs are cancelled, its containers end. Answered with Done when nothing of it runs any more."""

    app: str


class Attach(msgspec.Struct, tag=103, array_like=True):
    """After a reconnect: this session holds the app again."""

    app: str


class MissingBlobs(msgspec.Struct, tag=104, array_like=True):
    """Which of these contents (SHA-256, hex) does the server not have? Answered with Names."""

    digests: tuple[str, ...]


class PutBlobs(msgspec.Struct, tag=105, array_like=True):
    """Store contents by their digests. Answered with Done when all are on disk."""

    blobs: dict[str, bytes]


class Follow(msgspec.Struct, tag=106, array_like=True):
    """Stream `LogChunk` events of an app or of one container.

    From the beginning (`replay`) or from now; until it ends (`follow`) or until what is there was sent. `tail`: of what is there, only the end
    that holds so many lines. `mark`: a chunk of no container comes where what was there has been sent.
    """

    app: str = ""
    container: str = ""
    follow: bool = True
    replay: bool = True
    tail: int | None = None
    mark: bool = False


class ListApps(msgspec.Struct, tag=107, array_like=True):
    pass


class ListContainers(msgspec.Struct, tag=108, array_like=True):
    app: str = ""
    all: bool = False


class ListFunctions(msgspec.Struct, tag=113, array_like=True):
    """Functions of running and deployed apps, those of one app, or the one of that tag in it."""

    app: str = ""
    tag: str = ""


class StopContainer(msgspec.Struct, tag=109, array_like=True):
    """`graceful`: it ends with what it runs now, and gets nothing more; else that is tried again in another one."""

    container: str
    graceful: bool = False


class ServerStatus(msgspec.Struct, tag=110, array_like=True):
    pass


class StopServer(msgspec.Struct, tag=111, array_like=True):
    """`leave`: containers go on, for a server that is started next."""

    leave: bool = False


class Resolve(msgspec.Struct, tag=112, array_like=True):
    """The full id that starts with this prefix, among apps, containers, functions, calls. Answered with Names of one."""

    prefix: str
    kind: str = ""


class DeriveFunction(msgspec.Struct, tag=160, array_like=True):
    """A variant of a function with other options (msgpack of `model.options.FunctionOptions`). Answered with Names of its id; the same options, the same id."""

    function: str
    options: bytes


class TuneFunction(msgspec.Struct, tag=161, array_like=True):
    """Change how many containers a function (one parameter set of a class) has, until its app ends. None: as it was. Answered with Rows of the settings."""

    function: str
    parameters: bytes = b""
    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window_s: float | None = None


class FunctionStatus(msgspec.Struct, tag=162, array_like=True):
    """Answered with Rows of one: ``queued``, ``running``, ``containers``, ``headroom``."""

    function: str
    parameters: bytes = b""


class LeaveAfterInput(msgspec.Struct, tag=164, array_like=True):
    """From code in a container: it ends with what it runs now, and gets nothing more. Answered with Done."""


class ListInputs(msgspec.Struct, tag=163, array_like=True):
    """The inputs of a call and, with `descendants`, of the calls that they made, as far as they are known. Answered with Rows.

    Each has ``call``, ``index``, ``state``, ``function`` (its tag), ``module``, ``container``, ``parent`` (an input id, or empty).
    """

    call: str
    descendants: bool = False


class ListCalls(msgspec.Struct, tag=170, array_like=True):
    """Inputs, live ones first, the newest first: of an app, of one call, or all. Answered with Rows."""

    app: str = ""
    call: str = ""
    limit: int = 100


class BuildImage(msgspec.Struct, tag=120, array_like=True):
    """Build an image now. `ImageProgress` events come before the answer, Names with its id."""

    spec: ImageSpec
    force: bool = False  #: every step of it again
    scope: str = ""  #: the app that it is for, by `build_scope`


class ImageRequest(msgspec.Struct, tag=121, array_like=True):
    """One question or order about images: `what` is a name that `gateway/rpc/images.py` knows, `image` an id, the beginning of one, or a published name.

    Answered with Rows.
    """

    what: str
    image: str = ""
    options: dict[str, Any] = {}


class ExplainImage(msgspec.Struct, tag=122, array_like=True):
    """What building this would do, and why. Answered with Rows, one a step."""

    spec: ImageSpec
    scope: str = ""  #: as of `BuildImage`


class Done(msgspec.Struct, tag=150, array_like=True):
    pass


class Names(msgspec.Struct, tag=151, array_like=True):
    names: tuple[str, ...]


class Rows(msgspec.Struct, tag=152, array_like=True):
    """A listing: plain values by name."""

    rows: tuple[dict[str, Any], ...]


# --- commands in containers, connections for web requests --------------------------------------------------------------------


class Exec(msgspec.Struct, tag=203, array_like=True):
    """Run a command in a container; `argv` empty is a shell. `Shown` events come before the answer, Rows with its ``status``; `Typed` goes the other way.

    `tty`: with a terminal of so many `rows` and `columns`. `env` is put over that of the container. `workdir` empty: the container's.
    """

    container: str
    argv: tuple[str, ...] = ()
    tty: bool = False
    rows: int = 24
    columns: int = 80
    env: dict[str, str] = {}
    workdir: str = ""
    typing: bool = False  #: stdin comes in `Typed`; else it is empty


class Typed(msgspec.Struct, tag=204, array_like=True):
    """For the command of an `Exec`: stdin, its end, or a new size of its terminal (0: as it was)."""

    request: int
    data: bytes = b""
    end: bool = False
    rows: int = 0
    columns: int = 0


class Shown(msgspec.Struct, tag=205, array_like=True):
    """What the command of an `Exec` writes. `stream` is 1 or 2; with a terminal it is 1."""

    request: int
    stream: int
    data: bytes


class OpenWeb(msgspec.Struct, tag=210, array_like=True):
    """Agent to runner: connect `count` more times as role ``web``; each such connection carries plain HTTP/1.1 to the user's web functions."""

    count: int = 1


Command = (
    StartApp
    | StopApp
    | Attach
    | MissingBlobs
    | PutBlobs
    | Follow
    | ListApps
    | ListContainers
    | ListFunctions
    | StopContainer
    | ServerStatus
    | StopServer
    | Resolve
    | ListCalls
    | DeriveFunction
    | TuneFunction
    | FunctionStatus
    | ListInputs
    | LeaveAfterInput
    | DeployCommand
    | BuildImage
    | ImageRequest
    | ExplainImage
    | Exec
    | StateCommand
)
Answer = AppStarted | Done | Names | Rows | Deployed | Found | StateAnswer


class Request(msgspec.Struct, tag=20, array_like=True):
    request: int
    command: Command


class Reply(msgspec.Struct, tag=21, array_like=True):
    request: int
    answer: Answer


class Fault(msgspec.Struct, tag=22, array_like=True):
    """A typed error of `model.errors`. `request` 0: not an answer to one request."""

    request: int
    code: str
    message: str
    details: dict[str, Any] = {}


class LogChunk(msgspec.Struct, tag=30, array_like=True):
    """Output of a container. `stream` is 1 or 2."""

    request: int
    container: str
    function: str
    stream: int
    data: bytes
    time: float
    input: str = ""


class ImageProgress(msgspec.Struct, tag=31, array_like=True):
    """State of one step of an image being built.

    `state`: ``start``, ``log``, ``hit``, ``done``, ``failed``, ``stopped`` (another failed), ``note``. `line` goes with ``log`` and ``note``,
    `seconds` with ``done``.
    """

    request: int
    image: int
    function: str
    step: int
    steps: int
    title: str
    state: str
    line: str = ""
    seconds: float = 0.0


class ContainerProgress(msgspec.Struct, tag=32, array_like=True):
    """A container of the app changed its state."""

    request: int
    container: str
    function: str
    state: str
    reason: str = ""
    seconds: float = 0.0


# --- payloads of Output ------------------------------------------------------------------------------------------------------


class Frame(msgspec.Struct, array_like=True):
    """One frame of a remote traceback, outermost first."""

    file: str
    line: int
    name: str
    source: str = ""


class Raised(msgspec.Struct, array_like=True):
    """An exception of the user's code. `pickled` is None when it can't be pickled, and `reason` says why."""

    type_name: str
    message: str
    pickled: bytes | None
    frames: tuple[Frame, ...]
    text: str  #: the traceback as Python prints it in the container
    container: str
    reason: str = ""
    cause: bytes = b""  #: a packed Raised: what it was raised from, or while handling


FromClient = Hello | Call | Await | Cancel | Credit | Request | Abandon | Typed
ToClient = Welcome | Output | Accepted | NotReady | Reply | Fault | LogChunk | ImageProgress | ContainerProgress | Entries | Shown
FromRunner = Hello | Ready | StartFailed | Result | Print | Revoked | Rejoin
ToRunner = Welcome | Boot | Run | Stop | More | Revoke | OpenWeb
FromContainer = FromRunner | FromClient
