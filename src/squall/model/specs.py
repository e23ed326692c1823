"""What a user declared, as values: images as recipes, functions, apps. They cross the wire and lie in the store."""

from typing import Any

import msgspec

from squall.model.resources import Resources


class SourceFile(msgspec.Struct, frozen=True, array_like=True):
    """One local file to be placed in a container: where, and the content by its hash."""

    path: str  #: absolute path in the container
    digest: str  #: SHA-256 of the content, hex
    size: int  #: bytes
    executable: bool = False


class VolumeMount(msgspec.Struct, frozen=True):
    """A volume, by its ``vo-`` id, seen in the container at `path`. `strict`: as a copy that changes by commit and reload only.

    `sub_path`: only this directory of it, relative to its root; empty: all of it.
    """

    path: str
    volume: str
    read_only: bool = False
    strict: bool = False
    sub_path: str = ""


class Step(msgspec.Struct, frozen=True):
    """One line of a recipe.

    `kind` is the builder method (``apt_install``, ``run_commands``, ``env`` ...); `args` are its arguments as plain values with a defined order.
    `files` are local files that the step brings.
    `secrets` are references to secrets (as in `FunctionSpec`) whose variables are given only while building: which ones is part of the layer's key.
    `volumes` are mounted only while building: which ones and where is part of the key, what is in them is not.
    """

    kind: str
    args: dict[str, Any] = {}
    files: tuple[SourceFile, ...] = ()
    secrets: tuple[str, ...] = ()
    force: bool = False
    volumes: tuple[VolumeMount, ...] = ()


class ImageSpec(msgspec.Struct, frozen=True):
    """A recipe: the steps from the base up. The first is the base (``debian_slim``, ``from_registry`` ...)."""

    steps: tuple[Step, ...]


#: Between the environment of a published image and its name; names of ``main`` stand alone.
OF_ENVIRONMENT = "::"


def image_name(name: str, environment: str) -> str:
    """How a recipe, and what the server keeps, names a published image: ``ENVIRONMENT::NAME``, in ``main`` ``NAME``."""
    return name if environment in ("", "main") else f"{environment}{OF_ENVIRONMENT}{name}"


def build_scope(environment: str, app: str | None) -> str:
    """For whom images are built: the app of this name; empty where it has none. Layers of steps that see what is in no key are shared within it only."""
    return f"{environment}/{app}" if app else ""


class RetryPolicy(msgspec.Struct, frozen=True):
    """Delays are seconds: initial_delay * backoff**n, at most max_delay."""

    max_retries: int = 0
    initial_delay_s: float = 1.0
    backoff: float = 1.0
    max_delay_s: float = 60.0


class Scaling(msgspec.Struct, frozen=True):
    """How many containers a function has, and inputs that may wait for one. `scaledown_window_s`: how long a container idles before it ends."""

    min_containers: int = 0
    max_containers: int | None = None
    buffer_containers: int = 0
    scaledown_window_s: float = 60.0
    max_pending: int | None = None


class Concurrency(msgspec.Struct, frozen=True):
    """Inputs that one container runs at a time; the autoscaler aims at `target_inputs`."""

    max_inputs: int = 1
    target_inputs: int | None = None


class Batching(msgspec.Struct, frozen=True):
    """Inputs are collected into lists of at most `max_batch_size`, waiting at most `wait_ms` for the list to fill."""

    max_batch_size: int
    wait_ms: int


class Parameter(msgspec.Struct, frozen=True):
    """One `squall.parameter()` of a class. `type` is ``int``, ``str``, ``bytes`` or ``bool``."""

    name: str
    type: str
    required: bool
    default: Any = None


class Schedule(msgspec.Struct, frozen=True):
    """`cron` with its `timezone`, or a period: calendar `months`, then `seconds`."""

    cron: str | None = None
    timezone: str = "UTC"
    months: int = 0
    seconds: float = 0.0


#: The method of a class that is a server (`@app.server`); in addresses and listings it goes by the name of the class.
SERVER = "squall_server"


class Web(msgspec.Struct, frozen=True):
    """A web function. `kind` is ``endpoint``, ``asgi``, ``wsgi`` or ``server``."""

    kind: str
    method: str = "GET"
    label: str | None = None
    docs: bool = False
    requires_proxy_auth: bool = False
    port: int | None = None
    startup_timeout_s: float = 5.0
    custom_domains: tuple[str, ...] = ()
    #: Requests a second, of all clients together; None: as many as come.
    rate_limit: float | None = None


class MethodSpec(msgspec.Struct, frozen=True):
    """One method of a class, or the one body of a function (then `name` is empty)."""

    name: str = ""
    is_generator: bool = False
    is_async: bool = False
    batching: Batching | None = None
    web: Web | None = None


class BucketMount(msgspec.Struct, frozen=True):
    """A bucket of an object store that speaks S3, seen in the container at `path`. `endpoint` None: that of AWS. `secret`: a reference, or None."""

    path: str
    bucket: str
    endpoint: str | None = None
    prefix: str = ""
    secret: str | None = None
    read_only: bool = False
    requester_pays: bool = False
    path_style: bool = False


class Attached(msgspec.Struct, frozen=True):
    """Secrets, volumes and buckets, as those of a `FunctionSpec`. `sizes` are options that make other containers, or more of them: msgpack of `sizes_of`."""

    secrets: tuple[str, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    buckets: tuple[BucketMount, ...] = ()
    sizes: tuple[bytes, ...] = ()


class FunctionSpec(msgspec.Struct, frozen=True):
    """A function, or a class whose methods share containers.

    Found in the container by `module` and `qualname`, imported from the shipped source; or, for ``serialized=True``, unpickled from `pickled` (cloudpickle).
    `image` is the place of the recipe in the app's list of images. `source` are the files laid over the image (the defining module or package, local files of
    ``add_local_*`` without ``copy``). `env` are plain environment variables. `secrets` are references, ``st-…`` or ``ENVIRONMENT/NAME``, never values.
    `outbound_cidrs`: IPv4 networks, all of the outside that containers can reach; None is everything.
    `runtime`: ``gvisor``, or None for the server's default.
    `variants`: what the variants have that the program declares before it runs; code in the app's containers may make these, too.
    `options`: of a variant, the msgpack of the `FunctionOptions` that make it one.
    `restricted`: code in its containers may not talk to the server.
    `may_deploy`: code in its containers may deploy apps into the environment of its own app.
    `fork`: containers may be copies of a process that imported the module. `snapshot`: hooks before a snapshot run in that process, once for all copies.
    """

    tag: str
    module: str
    qualname: str
    image: int
    methods: tuple[MethodSpec, ...] = (MethodSpec(),)
    is_class: bool = False
    parameters: tuple[Parameter, ...] = ()
    pickled: bytes | None = None
    source: tuple[SourceFile, ...] = ()
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    buckets: tuple[BucketMount, ...] = ()
    resources: Resources = Resources()
    scaling: Scaling = Scaling()
    concurrency: Concurrency = Concurrency()
    retries: RetryPolicy | None = None
    timeout_s: float = 300.0
    startup_timeout_s: float | None = None
    schedule: Schedule | None = None
    block_network: bool = False
    outbound_cidrs: tuple[str, ...] | None = None
    single_use: bool = False
    runtime: str | None = None
    fork: bool = True
    snapshot: bool = False
    may_deploy: bool = False
    restricted: bool = False
    variants: Attached = Attached()
    options: bytes = b""


class AppSpec(msgspec.Struct, frozen=True):
    """Everything an app run or a deployment consists of."""

    name: str | None
    description: str
    images: tuple[ImageSpec, ...]
    functions: tuple[FunctionSpec, ...]
