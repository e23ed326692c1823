"""What a container's runner and its agent say to each other, after Hello and Welcome. `squall.wire.messages` says how such a struct may change."""

import msgspec


class Boot(msgspec.Struct, tag=40, array_like=True):
    """What a fresh runner is: its app and function, and the app's other functions by tag."""

    container: str
    app: str
    app_name: str
    function: str
    spec: bytes  #: msgpack of FunctionSpec
    functions: dict[str, str]
    env: dict[str, str]
    parameters: bytes = b""
    sources: tuple[str, ...] = ()  #: what was shipped, for the message about a missing module
    image: str = ""
    parcels: str = ""  #: where large arguments lie (`squall.wire.parcels`), as the container sees it


class Ready(msgspec.Struct, tag=41, array_like=True):
    """Imported and entered: inputs may come."""

    import_s: float
    enter_s: float


class StartFailed(msgspec.Struct, tag=42, array_like=True):
    """Import or enter failed; the container ends. `status` and `data` as in Output."""

    status: int
    data: bytes


class Run(msgspec.Struct, tag=43, array_like=True):
    """Run an input. `token` names this attempt; a result with another token is not applied. `unwatched`: nobody may ever ask for its outcome."""

    token: int
    call: str
    index: int
    data: bytes
    method: str = ""
    credit: int = 0
    unwatched: bool = False


class Result(msgspec.Struct, tag=44, array_like=True):
    """Outcome of an attempt, or one item of its generator. `seconds`: how long the user's code ran."""

    token: int
    status: int
    data: bytes
    seconds: float = 0.0


class Stop(msgspec.Struct, tag=45, array_like=True):
    """Cancel these attempts (with a signal beside it when the runner is busy). Empty: finish what runs, run exit hooks, end."""

    tokens: tuple[int, ...] = ()


class More(msgspec.Struct, tag=46, array_like=True):
    """Credit for a generator."""

    token: int
    items: int


class Print(msgspec.Struct, tag=47, array_like=True):
    """Output of the user's code, in order with its results. `token` 0: not inside an input."""

    token: int
    stream: int
    data: bytes


class Revoke(msgspec.Struct, tag=49, array_like=True):
    """Give these attempts back unless they have begun: another container is free, or they wait behind a slow one."""

    tokens: tuple[int, ...]


class Revoked(msgspec.Struct, tag=48, array_like=True):
    """These attempts had not begun and will not."""

    tokens: tuple[int, ...]


class Flight(msgspec.Struct, array_like=True):
    """An attempt that a runner has, in a Rejoin. `seconds`: for how long its code has run; None: it has not begun."""

    token: int
    call: str
    index: int
    method: str
    seconds: float | None


class Landed(msgspec.Struct, array_like=True):
    """An attempt that ended, in a Rejoin: its outcome may not have reached anybody. Fields as in Result."""

    token: int
    call: str
    index: int
    status: int
    data: bytes
    seconds: float


class Rejoin(msgspec.Struct, tag=50, array_like=True):
    """From the runner of a container that outlived its server, after Hello and Welcome: what it has, what it has lately done, whether it is ending."""

    running: tuple[Flight, ...]
    ended: tuple[Landed, ...]
    leaving: bool = False
