"""What `with_options` and its kin change of a function: a new spec from an old one."""

from typing import TypeVar

import msgspec

from squall.model.errors import InvalidError
from squall.model.resources import Gpu
from squall.model.specs import Batching, BucketMount, Concurrency, FunctionSpec, RetryPolicy, VolumeMount

T = TypeVar("T")


class FunctionOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """None: as it was. `env` is laid over the function's, after the names in `unset` are gone."""

    cpu_request: float | None = None
    cpu_limit: float | None = None
    memory_request_mib: int | None = None
    memory_limit_mib: int | None = None
    gpus: tuple[Gpu, ...] | None = None
    env: dict[str, str] | None = None
    unset: tuple[str, ...] = ()
    secrets: tuple[str, ...] | None = None  #: replace the function's
    volumes: tuple[VolumeMount, ...] | None = None  #: replace the function's
    buckets: tuple[BucketMount, ...] | None = None  #: replace the function's
    retries: RetryPolicy | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window_s: float | None = None
    timeout_s: float | None = None
    concurrency: Concurrency | None = None
    batching: Batching | None = None


#: Between the tag of a function and what names a variant of it.
MARK = "~"


def words(tag: str) -> str:
    """A tag in a message: variants have no names that their users know."""
    base, mark, _ = tag.partition(MARK)
    return f"{base} with options" if mark else tag


def options_of(packed: bytes) -> FunctionOptions:
    """Raises InvalidError: they can't be read."""
    try:
        return msgspec.msgpack.decode(packed, type=FunctionOptions)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidError(f"the options of a variant can't be read: {error}") from error


def merge(earlier: FunctionOptions, later: FunctionOptions) -> FunctionOptions:
    """Both at once; the later wins."""
    changes = {name: value for name in FunctionOptions.__struct_fields__ if (value := getattr(later, name)) is not None and (value != () or name != "unset")}
    if earlier.env and later.env:
        changes["env"] = {**earlier.env, **later.env}
    return msgspec.structs.replace(earlier, **changes)


def derive(spec: FunctionSpec, options: FunctionOptions, name: str) -> FunctionSpec:
    """The spec of the variant `name` of a function.

    A variant keeps no containers warm: `min_containers` is the function's own.
    """
    resources, scaling = spec.resources, spec.scaling
    cpu_given, memory_given = options.cpu_request is not None, options.memory_request_mib is not None
    resources = msgspec.structs.replace(
        resources,
        cpu_request=_or(options.cpu_request, resources.cpu_request),
        cpu_limit=options.cpu_limit if cpu_given else resources.cpu_limit,
        memory_request_mib=_or(options.memory_request_mib, resources.memory_request_mib),
        memory_limit_mib=options.memory_limit_mib if memory_given else resources.memory_limit_mib,
        gpus=_or(options.gpus, resources.gpus),
    )
    scaling = msgspec.structs.replace(
        scaling,
        min_containers=0,
        max_containers=_or(options.max_containers, scaling.max_containers),
        buffer_containers=_or(options.buffer_containers, scaling.buffer_containers),
        scaledown_window_s=_or(options.scaledown_window_s, scaling.scaledown_window_s),
    )
    methods = spec.methods
    if options.batching is not None:
        batched = [method for method in methods if method.batching is not None] or [method for method in methods if not method.is_generator]
        methods = tuple(msgspec.structs.replace(method, batching=options.batching) if method in batched else method for method in methods)
    env = {key: value for key, value in spec.env.items() if key not in options.unset}
    return msgspec.structs.replace(
        spec,
        tag=f"{spec.tag}{MARK}{name}",
        methods=methods,
        env={**env, **(options.env or {})},
        secrets=_or(options.secrets, spec.secrets),
        volumes=_or(options.volumes, spec.volumes),
        buckets=_or(options.buckets, spec.buckets),
        resources=resources,
        scaling=scaling,
        concurrency=_or(options.concurrency, spec.concurrency),
        retries=_or(options.retries, spec.retries),
        timeout_s=_or(options.timeout_s, spec.timeout_s),
        schedule=None,
        options=msgspec.msgpack.encode(options),
    )


def _or(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value
