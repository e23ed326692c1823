"""What specs and options have to be like, whoever sent them: the server checks all that arrives, and the SDK uses the same checks for people."""

import math
import re
from collections.abc import Iterable
from ipaddress import IPv4Network
from urllib.parse import urlsplit

from squall.model.errors import InvalidError
from squall.model.options import FunctionOptions, options_of
from squall.model.resources import Gpu, Resources
from squall.model.specs import AppSpec, BucketMount, Concurrency, FunctionSpec, RetryPolicy, Scaling, VolumeMount

#: Names of buckets: S3's grammar, and what older and other stores allow besides. Nothing that could be read as an option.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
_URL_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
#: Not in keys' prefixes, which become arguments of a program: control characters, and what separates options or escapes them.
_PREFIX = re.compile(r"[^\x00-\x1f\x7f,\\:\"']*")
_PATH_MAX, _PREFIX_MAX = 4096, 1024
_MOUNTS_MAX = 64
#: Far above all machines, and far below where arithmetic with it goes wrong.
_AMOUNT_MAX = 1e9
CONTAINERS_MAX = 10_000
#: Less than this is no share of a processor, and no memory, that a container could start with.
CPU_MIN, MEMORY_MIB_MIN = 0.001, 1


def check_bucket(mount: BucketMount) -> None:
    """
    Raises:
        InvalidError: naming the field.
    """
    if _BUCKET.fullmatch(mount.bucket) is None or ".." in mount.bucket:
        raise InvalidError(f"bucket_name={mount.bucket[:80]!r} is not the name of a bucket; an address goes into bucket_endpoint_url=")
    if mount.endpoint is not None:
        check_endpoint(mount.endpoint)
    prefix = mount.prefix
    if prefix and (not prefix.endswith("/") or prefix.startswith("/") or ".." in prefix.split("/")):
        raise InvalidError(f"key_prefix={prefix[:80]!r} has to end with a slash and not begin with one, for example 'data/'")
    if len(prefix) > _PREFIX_MAX or _PREFIX.fullmatch(prefix) is None:
        raise InvalidError(f"key_prefix={prefix[:80]!r} has a comma, colon, quote, backslash or control character, or is too long")
    if mount.requester_pays and mount.secret is None:
        raise InvalidError("requester_pays=True needs a secret=: somebody has to pay")
    _check_path("volumes", mount.path)


def check_endpoint(url: str) -> None:
    """Raises InvalidError: not the plain address of a store, such as ``https://storage.example.com:9000``."""
    try:
        parts = urlsplit(url)
        host, port = parts.netloc, parts.port
    except ValueError as error:
        raise InvalidError(f"bucket_endpoint_url={url[:80]!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise InvalidError(f"bucket_endpoint_url={url[:80]!r} is not an address that begins with https:// or http://")
    if port is not None:
        host = host.rpartition(":")[0]
    plain = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if len(url) > 512 or plain != url or _HOST.fullmatch(host) is None or _URL_PATH.fullmatch(parts.path) is None:
        raise InvalidError(f"bucket_endpoint_url={url[:80]!r} is not a plain address: https://HOST, with :PORT and /PATH as needed, and nothing else")


def check_region(region: str) -> None:
    """Raises InvalidError."""
    if _REGION.fullmatch(region) is None:
        raise InvalidError("AWS_REGION of a bucket's secret is not the name of a region, such as eu-central-1")


def check_volume(mount: VolumeMount) -> None:
    """
    Raises:
        InvalidError: naming the field.
    """
    _check_path("volumes", mount.path)
    if len(mount.sub_path) > _PATH_MAX or "\0" in mount.sub_path or ".." in mount.sub_path.split("/"):
        raise InvalidError(f"sub_path={mount.sub_path[:80]!r} is not a path within a volume")
    if re.fullmatch(r"vo-[0-9a-zA-Z-]{1,64}", mount.volume) is None:
        raise InvalidError(f"{mount.volume[:80]!r} is not the id of a volume")


def lies_within(mount: VolumeMount, other: VolumeMount) -> bool:
    """Whether whoever has `other` may have `mount`: the same volume, no more of it, and no writing where there was none."""
    below = parts_of(mount.sub_path)
    above = parts_of(other.sub_path)
    return mount.volume == other.volume and below[: len(above)] == above and (mount.read_only or not other.read_only)


def parts_of(sub_path: str) -> tuple[str, ...]:
    return tuple(part for part in sub_path.split("/") if part not in ("", "."))


def check_resources(resources: Resources) -> None:
    """
    Raises:
        InvalidError: naming the field.
    """
    _check_pair("cpu", resources.cpu_request, resources.cpu_limit, CPU_MIN)
    _check_pair("memory", resources.memory_request_mib, resources.memory_limit_mib, MEMORY_MIB_MIN)
    if resources.disk_limit_mib is not None:
        _check_number("ephemeral_disk", resources.disk_limit_mib, 1, _AMOUNT_MAX)
    _check_gpus(resources.gpus)


def check_scaling(scaling: Scaling) -> None:
    """
    Raises:
        InvalidError: naming the field.
    """
    check_counts(scaling.min_containers, scaling.max_containers, scaling.buffer_containers, scaling.scaledown_window_s)
    if scaling.max_pending is not None:
        _check_number("max_pending", scaling.max_pending, 0, 1e12)


def check_counts(least: int | None, most: int | None, buffer: int | None, window_s: float | None) -> None:
    """
    Raises:
        InvalidError: naming the field.
    """
    for name, value, low in (("min_containers", least, 0), ("max_containers", most, 1), ("buffer_containers", buffer, 0)):
        if value is not None:
            _check_number(name, value, low, CONTAINERS_MAX if name != "max_containers" else _AMOUNT_MAX)
    if least is not None and most is not None and least > most:
        raise InvalidError(f"min_containers={least} is more than max_containers={most}")
    if window_s is not None:
        _check_number("scaledown_window", window_s, 0, 86_400)


def check_options(options: FunctionOptions) -> None:
    """
    Raises:
        InvalidError: naming the field.
    """
    if options.cpu_request is not None or options.cpu_limit is not None:
        _check_pair("cpu", CPU_MIN if options.cpu_request is None else options.cpu_request, options.cpu_limit, CPU_MIN)
    if options.memory_request_mib is not None or options.memory_limit_mib is not None:
        _check_pair("memory", MEMORY_MIB_MIN if options.memory_request_mib is None else options.memory_request_mib, options.memory_limit_mib, MEMORY_MIB_MIN)
    _check_gpus(options.gpus or ())
    _check_mounts(options.volumes or (), options.buckets or ())
    check_counts(None, options.max_containers, options.buffer_containers, options.scaledown_window_s)
    if options.timeout_s is not None:
        _check_number("timeout", options.timeout_s, 0, 10 * 86_400)
    _check_running(options.concurrency, options.retries)
    _check_env(options.env or {})


def check_app(spec: AppSpec) -> None:
    """
    Raises:
        InvalidError: naming the function and the field.
    """
    for function in spec.functions:
        try:
            check_function(function)
        except InvalidError as error:
            raise InvalidError(f"{function.tag[:80]}: {error}") from error


def check_function(spec: FunctionSpec) -> None:
    """
    Raises:
        InvalidError: naming the field.
    """
    check_resources(spec.resources)
    check_scaling(spec.scaling)
    _check_mounts(spec.volumes, spec.buckets)
    _check_mounts((), spec.variants.buckets)
    for mount in spec.variants.volumes:
        check_volume(mount)
    for size in spec.variants.sizes:
        check_options(options_of(size))
    _check_running(spec.concurrency, spec.retries)
    _check_number("timeout", spec.timeout_s, 0, 10 * 86_400)
    if spec.startup_timeout_s is not None:
        _check_number("startup_timeout", spec.startup_timeout_s, 0, 10 * 86_400)
    if spec.runtime not in (None, "gvisor"):
        raise InvalidError(f'runtime={spec.runtime[:80]!r} is unknown; write runtime="gvisor", or leave it out for the server\'s default')
    for network in spec.outbound_cidrs or ():
        try:
            IPv4Network(network)
        except ValueError as error:
            raise InvalidError(f"outbound_cidr_allowlist: {error}; containers have IPv4 only") from error
    _check_env(spec.env)


def _check_mounts(volumes: Iterable[VolumeMount], buckets: Iterable[BucketMount]) -> None:
    volumes, buckets = tuple(volumes), tuple(buckets)
    if len(volumes) + len(buckets) > _MOUNTS_MAX:
        raise InvalidError(f"volumes: {len(volumes) + len(buckets)} mounts; a container has {_MOUNTS_MAX} at most")
    for volume in volumes:
        check_volume(volume)
    for bucket in buckets:
        check_bucket(bucket)


def _check_path(name: str, path: str) -> None:
    """A path of variants' buckets may be empty: then it is declared wherever it is mounted."""
    if path and (not path.startswith("/") or ".." in path.split("/") or "\0" in path or len(path) > _PATH_MAX):
        raise InvalidError(f"{name}: {path[:80]!r} is not an absolute path")


def _check_running(concurrency: Concurrency | None, retries: RetryPolicy | None) -> None:
    if concurrency is not None:
        _check_number("max_inputs", concurrency.max_inputs, 1, 1e6)
        if concurrency.target_inputs is not None:
            _check_number("target_inputs", concurrency.target_inputs, 1, 1e6)
    if retries is not None:
        _check_number("max_retries", retries.max_retries, 0, _AMOUNT_MAX)
        for name, value in (("initial_delay", retries.initial_delay_s), ("backoff_coefficient", retries.backoff), ("max_delay", retries.max_delay_s)):
            _check_number(name, value, 0, _AMOUNT_MAX)


def _check_env(env: dict[str, str]) -> None:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidError(f"env: {name[:80]!r} can't be a variable of an environment")


def _check_gpus(gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        _check_number("gpu", gpu.count, 1, 8)


def _check_pair(name: str, request: float, limit: float | None, low: float) -> None:
    _check_number(name, request, low, _AMOUNT_MAX)
    if limit is not None:
        _check_number(name, limit, low, _AMOUNT_MAX)
        if limit < request:
            raise InvalidError(f"{name}: the limit {limit:g} is smaller than the request {request:g}")


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidError(f"{name}={value!r} is not a number from {low:g} to {high:g}")
