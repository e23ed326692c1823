"""The parameters of `@app.function`, `@app.cls`, `@app.server` and `with_options`: one row each, from which their signatures, checks and reference follow.

To add one: its type in `Parameters` (or one of its parts), its row in `TABLE`, and the field of the spec that it goes to.
"""

import enum
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypedDict, TypeVar

from squall.model.errors import InvalidError
from squall.model.specs import Schedule
from squall.sdk.app.checks import (
    DAY_S,
    Check,
    cores,
    counted,
    flag,
    flag_or_none,
    gpus,
    lasting,
    mebibytes,
    networks,
    runtime,
)
from squall.sdk.app.mounts import check_volumes
from squall.sdk.app.schedule import Cron, Period
from squall.sdk.function.retries import Retries, parse_retries
from squall.sdk.image.image import Image
from squall.sdk.storage.secret import Secret, check_variables

T = TypeVar("T")


class Takes(enum.Flag):
    """Who takes a parameter."""

    FUNCTION = enum.auto()
    CLASS = enum.auto()
    SERVER = enum.auto()
    OPTIONS = enum.auto()


_DECORATORS = Takes.FUNCTION | Takes.CLASS
_ALL = _DECORATORS | Takes.SERVER
_AND_OPTIONS = _ALL | Takes.OPTIONS


class Parameter(NamedTuple):
    """A row. `line`: in the reference. `to`: fields of the `FunctionSpec` that what `check` gives goes to, ``resources.x`` being a field of its resources.

    None is never checked where it is the default. What has no `check` is the app's, and checked there. `not_yet`, `no_effect`: values that ask for nothing;
    others are refused, or get a warning.
    """

    line: str
    check: Check | None = None
    to: tuple[str, ...] = ()
    default: Any = None
    takes: Takes = _DECORATORS
    not_yet: tuple[object, ...] | None = None
    no_effect: tuple[object, ...] | None = None


class OptionParameters(TypedDict, total=False):
    """Of `with_options`, and of all others."""

    cpu: float | tuple[float, float] | None
    memory: int | tuple[int, int] | None
    gpu: str | Sequence[str] | None
    env: Mapping[str, str | None] | None
    secrets: Collection[Secret] | None
    volumes: Mapping[str | PurePosixPath, object]
    retries: int | Retries | None
    max_containers: int | None
    buffer_containers: int | None
    scaledown_window: float | None
    timeout: float
    region: str | Sequence[str] | None
    cloud: str | None
    routing_region: str | None


class ClassParameters(OptionParameters, total=False):
    """Of `@app.cls`."""

    image: Image | None
    serialized: bool
    network_file_systems: Mapping[str | PurePosixPath, object]
    ephemeral_disk: int | None
    min_containers: int | None
    proxy: object | None
    startup_timeout: float | None
    nonpreemptible: bool
    enable_memory_snapshot: bool
    block_network: bool
    restrict_modal_access: bool
    single_use_containers: bool
    i6pn: bool | None
    include_source: bool | None
    experimental_options: Mapping[str, Any] | None
    _experimental_restrict_output: bool
    max_inputs: int | None
    max_pending: int | None
    fork: bool
    may_deploy: bool
    runtime: str | None
    outbound_cidr_allowlist: Sequence[str] | None


class FunctionParameters(ClassParameters, total=False):
    """Of `@app.function`."""

    schedule: Cron | Period | None
    name: str | None
    is_generator: bool | None


def _image(name: str, value: object) -> Image:
    if not isinstance(value, Image):
        raise InvalidError(f"{name}={value!r} is not a squall.Image")
    return value


def check_secrets(secrets: object) -> tuple[Secret, ...]:
    """The secrets of a ``secrets=`` parameter.

    Raises:
        InvalidError: not a list of `Secret`.
    """
    if secrets is None:
        return ()
    if isinstance(secrets, str) or not isinstance(secrets, Collection) or not all(isinstance(secret, Secret) for secret in secrets):
        raise InvalidError("secrets is a list of squall.Secret, for example secrets=[squall.Secret.from_dict({...})]")
    return tuple(secrets)


def _schedule(name: str, value: object) -> Schedule:
    if not isinstance(value, Cron | Period):
        raise InvalidError(f"{name}={value!r} is neither squall.Cron(...) nor squall.Period(...)")
    return value.spec


TABLE: dict[str, Parameter] = {
    "image": Parameter("what it runs in; by default the app's, else `Image.debian_slim()`", _image, ("image",), takes=_ALL),
    "schedule": Parameter("`Cron` or `Period`: while the app is deployed, or runs, it is called by itself", _schedule, ("schedule",), takes=Takes.FUNCTION),
    "env": Parameter("environment variables; None leaves one out", check_variables, ("env",), takes=_AND_OPTIONS),
    "secrets": Parameter(
        "environment variables that are shown nowhere; later ones win", lambda name, value: check_secrets(value), ("secrets",), takes=_AND_OPTIONS
    ),
    "gpu": Parameter(
        '`"A100"`, `"H100:2"`, `"any"`, or a list in order of preference', lambda name, value: gpus(value), ("resources.gpus",), takes=_AND_OPTIONS
    ),
    "serialized": Parameter("send the function itself instead of importing its module; for functions inside others", flag, default=False, takes=_ALL),
    "volumes": Parameter(
        "volumes and buckets, by the path where each is mounted", check_volumes, ("volumes",), default={}, takes=_AND_OPTIONS
    ),
    "network_file_systems": Parameter("older spelling of `volumes`", check_volumes, ("volumes",), default={}),
    "cpu": Parameter(
        "cores that are reserved, or (reserved, limit)", cores, ("resources.cpu_request", "resources.cpu_limit"), takes=_AND_OPTIONS
    ),
    "memory": Parameter(
        "MiB that are reserved, which may be exceeded while the machine has room; or (reserved, limit)",
        mebibytes, ("resources.memory_request_mib", "resources.memory_limit_mib"), takes=_AND_OPTIONS
    ),
    "ephemeral_disk": Parameter(
        "MiB that the container may write outside of volumes, 16 at least; by default as much as the machine has", counted(16), ("resources.disk_limit_mib",),
        takes=_ALL,
    ),
    "min_containers": Parameter("keep at least so many; of a class, of the object with all defaults", counted(0), ("scaling.min_containers",), takes=_ALL),
    "max_containers": Parameter("start at most so many", counted(1), ("scaling.max_containers",), takes=_AND_OPTIONS),
    "buffer_containers": Parameter("idle ones beside the busy while there is work", counted(0), ("scaling.buffer_containers",), takes=_AND_OPTIONS),
    "scaledown_window": Parameter(
        "seconds that a container idles before it ends, 2 to 3600; by default 60", lasting(2, 3600), ("scaling.scaledown_window_s",), takes=_AND_OPTIONS
    ),
    "proxy": Parameter("not supported yet", not_yet=(None,), takes=_ALL),
    "retries": Parameter(
        "of an input whose code raises: a count, or `Retries`", lambda name, value: parse_retries(value), ("retries",), takes=_DECORATORS | Takes.OPTIONS
    ),
    "timeout": Parameter("seconds for one input, 1 to 86400", lasting(1, DAY_S), ("timeout_s",), default=300, takes=_DECORATORS | Takes.OPTIONS),
    "startup_timeout": Parameter("seconds for a container to become ready; by default `timeout`", lasting(1, DAY_S), ("startup_timeout_s",), takes=_ALL),
    "name": Parameter("of the function in the app, instead of its own", takes=Takes.FUNCTION | Takes.SERVER),
    "is_generator": Parameter("for a plain function that returns a generator", flag_or_none, takes=Takes.FUNCTION),
    "cloud": Parameter("no effect, with a warning: your machines are one place", no_effect=(None, "auto"), takes=_AND_OPTIONS),
    "region": Parameter("as `cloud`", no_effect=(None, "", []), takes=_DECORATORS | Takes.OPTIONS),
    "routing_region": Parameter("as `cloud`", no_effect=(None,), takes=_AND_OPTIONS),
    "nonpreemptible": Parameter("always so: nobody takes your own machines away", flag, default=False, takes=_ALL),
    "enable_memory_snapshot": Parameter(
        "for classes: hooks marked `@squall.enter(snap=True)` run before the copies are made, so once for all containers", flag, ("snapshot",), default=False,
        takes=_ALL,
    ),
    "block_network": Parameter("no network at all", flag, ("block_network",), default=False),
    "restrict_modal_access": Parameter(
        "code in the containers may not talk to the server: no calls, volumes' commits, dicts, queues, look-ups; what is mounted and given works", flag,
        ("restricted",), default=False,
    ),
    "single_use_containers": Parameter("a new container for each input", flag, ("single_use",), default=False),
    "i6pn": Parameter("not supported yet", not_yet=(None, False), takes=_ALL),
    "include_source": Parameter("overrides the app's", flag_or_none, ("include_source",), takes=_ALL),
    "experimental_options": Parameter("as `cloud`", no_effect=(None, {}), takes=_ALL),
    "_experimental_restrict_output": Parameter("not supported yet", not_yet=(False, None), default=False),
    "max_inputs": Parameter("1: older spelling of `single_use_containers=True`"),
    "max_pending": Parameter(
        "inputs that may wait for a container. Beyond it `remote` and `spawn` raise ResourceExhaustedError, a web request is answered 503, and a `map` can't "
        "begin; the inputs of one that has begun wait. By default a million", counted(1), ("scaling.max_pending",),
    ),
    "fork": Parameter(
        "containers may be copies of one that has imported the function's module, which starts them in milliseconds. False: each imports by itself", flag,
        ("fork",), default=True,
    ),
    "may_deploy": Parameter(
        "code in the containers may deploy apps into the environment of this one, naming the secrets and volumes there. By default it may not", flag,
        ("may_deploy",), default=False,
    ),
    "runtime": Parameter(
        '`"gvisor"`: containers have a kernel in user space between them and the machine\'s. None: the server\'s default', runtime, ("runtime",)
    ),
    "outbound_cidr_allowlist": Parameter(
        'IPv4 networks such as `"203.0.113.0/24"`: all of the outside that containers reach, besides the resolvers of names', networks, ("outbound_cidrs",)
    ),
}  # fmt: skip


def of(who: Takes) -> dict[str, Parameter]:
    """The rows that `who` takes."""
    return {name: row for name, row in TABLE.items() if who in row.takes}


def defaults(who: Takes) -> dict[str, Any]:
    """What holds where nothing is given; of `with_options` None, which changes nothing."""
    return {name: None if who is Takes.OPTIONS else row.default for name, row in of(who).items()}


def split(parameters: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those that are known, and the others: spellings of earlier versions, and mistakes."""
    given = {name: value for name, value in parameters.items() if name in known}
    return given, {name: value for name, value in parameters.items() if name not in known}


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Field of the spec -> its value, of the parameters that are given.

    Raises:
        InvalidError: naming the parameter.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        row = TABLE.get(name)
        if row is None or row.check is None or (value is None and row.default is None):
            continue
        result = row.check(name, value)
        if row.to == ("volumes",):  # of two parameters
            found["volumes"] = (*found.get("volumes", ()), *result)
        elif row.to:
            found.update(zip(row.to, result if len(row.to) > 1 else (result,), strict=True))
    return found


def described(who: Takes) -> Callable[[T], T]:
    """For what takes these parameters as ``**parameters``: gives it the signature that `inspect`, `help` and editors see, and their lines in its text."""

    def describe(taker: Any) -> Any:
        values = defaults(who) | ({"volumes": {}} if who is Takes.OPTIONS else {})
        named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in values.items()]
        taker.__signature__ = inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *named])
        lines = "".join(f"            {name}: {row.line}.\n" for name, row in of(who).items())
        taker.__doc__ = f"{taker.__doc__.rstrip()}\n\n        Parameters:\n{lines}        "
        return taker

    return describe
