"""Messages about what stays: deployments, schedules, web addresses, tokens. `wire.messages` joins them to the protocol."""

import msgspec

from squall.model.specs import AppSpec


class PlanDeploy(msgspec.Struct, tag=180, array_like=True):
    """What deploying this would change. Answered with Rows: one for each function, with `tag`, `change` and words about it."""

    spec: AppSpec
    environment: str = "main"


class Deploy(msgspec.Struct, tag=181, array_like=True):
    """Make this the app's next version. Progress events come before the answer `Deployed`. `strategy`: ``rolling`` or ``recreate``.

    `serve`: no deployment but a run, with this app id, held by whoever attaches to it; sent again, it is changed as a deployment is.
    """

    spec: AppSpec
    environment: str = "main"
    tag: str = ""
    strategy: str = "rolling"
    serve: str = ""


class Deployed(msgspec.Struct, tag=182, array_like=True):
    app: str
    version: int
    functions: dict[str, str]  #: tag -> function id
    urls: dict[str, str]  #: tag (``Class.method`` for a method) -> the web function's URL
    took_s: float = 0.0


class Rollback(msgspec.Struct, tag=183, array_like=True):
    """Deploy an earlier version again, as a new one. `version` 0: the one before the current. Answered with Deployed.

    `again`: the current one, so that its containers are new.
    """

    app: str
    version: int = 0
    environment: str = "main"
    strategy: str = "rolling"
    again: bool = False


class History(msgspec.Struct, tag=184, array_like=True):
    """The versions of a deployed app, newest first. Answered with Rows."""

    app: str
    environment: str = "main"


class Lookup(msgspec.Struct, tag=185, array_like=True):
    """A deployed app by its name or id, with all its functions; `create`: an empty one if there is none. Answered with Found."""

    app: str
    environment: str = "main"
    create: bool = False


class Found(msgspec.Struct, tag=186, array_like=True):
    """A deployed app. `specs`: tag -> msgpack of the FunctionSpec, without what is large (source, pickled code)."""

    app: str
    name: str
    functions: dict[str, str]
    specs: dict[str, bytes]
    urls: dict[str, str]
    version: int


class RenameApp(msgspec.Struct, tag=187, array_like=True):
    app: str
    name: str
    environment: str = "main"


class ListSchedules(msgspec.Struct, tag=190, array_like=True):
    """Answered with Rows."""


class RunSchedule(msgspec.Struct, tag=191, array_like=True):
    """Run a scheduled function now, beside its schedule. Answered with Names of the call."""

    name: str  #: ``app.function``, or a function's id


class PauseSchedule(msgspec.Struct, tag=192, array_like=True):
    """No more runs by schedule until it is resumed. Answered with Names of the functions."""

    name: str
    paused: bool = True


class WebAddress(msgspec.Struct, tag=195, array_like=True):
    """Where web functions are reached: the ingress is started if it does not listen. Answered with Names of its base URL."""


class WebUrls(msgspec.Struct, tag=196, array_like=True):
    """URLs of the web functions of an app. Answered with Rows of `function` and `url`."""

    app: str  #: its id, or that of one of its functions


class CreateToken(msgspec.Struct, tag=200, array_like=True):
    """A token for the HTTP doors: `kind` is ``proxy`` (web functions that ask for it) or ``api``. Answered with Names: id and secret, shown only now."""

    kind: str
    name: str = ""


class ListTokens(msgspec.Struct, tag=201, array_like=True):
    """Answered with Rows, without secrets."""


class DeleteToken(msgspec.Struct, tag=202, array_like=True):
    token: str


#: What `gateway/rpc/deployments.py` answers.
DeployCommand = (
    PlanDeploy | Deploy | Rollback | History | Lookup | RenameApp | ListSchedules | RunSchedule | PauseSchedule
    | WebAddress | WebUrls | CreateToken | ListTokens | DeleteToken
)  # fmt: skip
