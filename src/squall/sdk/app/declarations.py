"""What `@app.function(...)` was given, checked where the user wrote it and turned into the values of a spec."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from squall.model.errors import DeprecationError, InvalidError, UnsupportedError
from squall.model.resources import Gpu, Resources, parse_gpu
from squall.model.specs import Concurrency, RetryPolicy, Scaling, Schedule
from squall.runner.context import in_container
from squall.sdk.app.mounts import Mountable, check_volumes
from squall.sdk.app.schedule import Cron, Period
from squall.sdk.function.retries import parse_retries
from squall.sdk.image.image import Image
from squall.sdk.refusals import unknown_message
from squall.sdk.storage.secret import Secret, check_variables

_DAY_S = 86_400

#: Parameters of the reference that are not built yet -> the values that ask for nothing; any other raises UnsupportedError. Who builds one takes its line away.
NOT_YET: Mapping[str, tuple[object, ...]] = {
    "proxy": (None,),
    "restrict_modal_access": (False, None),
    "i6pn": (None, False),
    "_experimental_restrict_output": (False, None),
}

#: Parameters that choose among a cloud's places and offers -> the values that ask for nothing. Others get a warning: the user's machines are one place.
NO_EFFECT: Mapping[str, tuple[object, ...]] = {
    "cloud": (None, "auto"),
    "region": (None, "", []),
    "routing_region": (None,),
    "experimental_options": (None, {}),
}

#: Old spelling -> new one. They are accepted with a warning, because much code in the wild has them.
OLD_NAMES = {"keep_warm": "min_containers", "concurrency_limit": "max_containers", "container_idle_timeout": "scaledown_window"}

#: Parameters of earlier versions whose meaning is gone -> what to do instead.
GONE = {
    "mounts": "add local files to the image, with Image.add_local_dir, add_local_file or add_local_python_source",
    "shared_volumes": "use volumes=",
    "interactive": "it has no replacement",
    "allow_cross_region_volumes": "it has no replacement",
    "checkpointing_enabled": "write enable_memory_snapshot=",
    "_allow_background_volume_commits": "it has no replacement",
}


@dataclass(frozen=True, slots=True)
class Declaration:
    """The checked parameters of one function. `image`, `include_source` None: the app's."""

    image: Image | None
    secrets: tuple[Secret, ...]
    env: Mapping[str, str]
    resources: Resources
    scaling: Scaling
    retries: RetryPolicy | None
    timeout_s: float
    startup_timeout_s: float | None
    block_network: bool
    outbound_cidrs: tuple[str, ...] | None
    single_use: bool
    include_source: bool | None
    concurrency: Concurrency | None = None
    schedule: Schedule | None = None
    volumes: tuple[tuple[str, Mountable], ...] = ()
    fork: bool = True
    may_deploy: bool = False
    snapshot: bool = False
    runtime: str | None = None


def declare(parameters: Mapping[str, Any], unknown: Mapping[str, Any], *, stacklevel: int, what: str = "@app.function") -> Declaration:
    """Check all parameters of a function or class.

    Args:
        parameters: by their names of today, defaults included.
        unknown: what else was given: old spellings, or mistakes.
        stacklevel: of the user's line, for warnings, as seen from here.

    Raises:
        InvalidError: naming the parameter and what to write instead.
        UnsupportedError: a parameter that would have an effect which is not built yet.
    """
    p = modern(parameters, unknown, stacklevel=stacklevel + 1, what=what)
    _check_schedule(p.get("schedule"))
    warn_of_no_effect(p, stacklevel + 1)
    for name, neutral in NOT_YET.items():
        if name in p and p[name] not in neutral:
            raise UnsupportedError(f"{name}={p[name]!r} is not supported yet")
    for name in ("serialized", "block_network", "single_use_containers", "nonpreemptible", "fork", "may_deploy"):
        _check_type(name, p[name], bool, "True or False")
    for name in ("is_generator", "include_source"):
        if p.get(name) is not None:
            _check_type(name, p[name], bool, "True, False or None")
    if p["image"] is not None and not isinstance(p["image"], Image):
        raise InvalidError(f"image={p['image']!r} is not a squall.Image")
    if p["runtime"] not in (None, "gvisor"):
        raise InvalidError(f'runtime={p["runtime"]!r} is unknown; write runtime="gvisor", or leave it out for the server\'s default')
    return Declaration(
        image=p["image"],
        secrets=check_secrets(p["secrets"]),
        env={} if p["env"] is None else check_variables("env", p["env"]),
        resources=resources(p["cpu"], p["memory"], p["gpu"], p["ephemeral_disk"]),
        scaling=_scaling(p["min_containers"], p["max_containers"], p["buffer_containers"], p["scaledown_window"], p["max_pending"]),
        retries=parse_retries(p["retries"]),
        timeout_s=seconds("timeout", p["timeout"], 1, _DAY_S),
        startup_timeout_s=None if p["startup_timeout"] is None else seconds("startup_timeout", p["startup_timeout"], 1, _DAY_S),
        block_network=p["block_network"],
        outbound_cidrs=_networks(p["outbound_cidr_allowlist"], p["block_network"]),
        single_use=p["single_use_containers"],
        include_source=p["include_source"],
        concurrency=p["concurrency"],
        schedule=p["schedule"].spec if p.get("schedule") is not None else None,
        volumes=check_volumes(p["volumes"]) + check_volumes(p.get("network_file_systems")),
        fork=p["fork"],
        may_deploy=p["may_deploy"],
        snapshot=bool(p["enable_memory_snapshot"]),
        runtime=p["runtime"],
    )


def modern(parameters: Mapping[str, Any], unknown: Mapping[str, Any], *, stacklevel: int, what: str = "@app.function") -> dict[str, Any]:
    """The parameters with old spellings moved to the new ones, with a warning for each. ``concurrency`` is added: of `allow_concurrent_inputs`.

    Raises:
        InvalidError: a name that is neither known nor an old one, or both spellings at once.
    """
    p = dict(parameters)
    p["concurrency"] = None
    for name, value in unknown.items():
        if (new := OLD_NAMES.get(name)) is not None:
            _warn(f"{name}= is the old spelling of {new}=", stacklevel)
            if p.get(new) is not None:
                raise InvalidError(f"{name}= and {new}= are the same parameter; give only {new}=")
            p[new] = value
        elif name == "secret":
            _warn("secret= is the old spelling of secrets=[...]", stacklevel)
            p["secrets"] = [*(p["secrets"] or ()), *([] if value is None else [value])]
        elif name == "allow_concurrent_inputs":
            _warn("allow_concurrent_inputs= is the old spelling of @squall.concurrent(max_inputs=...)", stacklevel)
            if value is not None:
                p["concurrency"] = Concurrency(count(name, value, 1))
        elif name in GONE:
            if value not in (None, False, (), [], {}):
                raise InvalidError(f"{name}= of {what} is gone: {GONE[name]}")
            _warn(f"{name}= of {what} is gone; leave it out", stacklevel)
        else:
            raise InvalidError(unknown_message(name, parameters, what))
    if (max_inputs := p.pop("max_inputs", None)) is not None:
        if max_inputs != 1 or isinstance(max_inputs, bool):
            raise InvalidError(f"max_inputs={max_inputs!r}: only 1 is possible; it is the old spelling of single_use_containers=True")
        _warn("max_inputs=1 is the old spelling of single_use_containers=True", stacklevel)
        p["single_use_containers"] = True
    return p


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


def _check_schedule(schedule: object) -> None:
    if schedule is not None and not isinstance(schedule, Cron | Period):
        raise InvalidError(f"schedule={schedule!r} is neither squall.Cron(...) nor squall.Period(...)")


def resources(cpu: object, memory: object, gpu: object, disk: object = None) -> Resources:
    """What cpu=, memory=, gpu= and ephemeral_disk= ask for. Raises InvalidError."""
    default = Resources()
    cpu_request, cpu_limit = _request_and_limit("cpu", cpu, "cores") if cpu is not None else (default.cpu_request, None)
    memory_request: float = default.memory_request_mib
    memory_limit: float | None = None
    if memory is not None:
        memory_request, given = _request_and_limit("memory", memory, "MiB")
        if int(memory_request) != memory_request or (given is not None and int(given) != given):
            raise InvalidError(f"memory={memory!r} is not a whole number of MiB")
        memory_limit = memory_request if given is None else given
    return Resources(
        cpu_request=float(cpu_request),
        cpu_limit=None if cpu_limit is None else float(cpu_limit),
        memory_request_mib=int(memory_request),
        memory_limit_mib=None if memory_limit is None else int(memory_limit),
        disk_limit_mib=None if disk is None else count("ephemeral_disk", disk, 16),
        gpus=gpus(gpu),
    )


def _request_and_limit(name: str, value: object, unit: str) -> tuple[float, float | None]:
    request, limit = value if isinstance(value, tuple | list) and len(value) == 2 else (value, None)
    for part in (request, *([limit] if isinstance(value, tuple | list) else [])):
        if not isinstance(part, int | float) or isinstance(part, bool) or not 0 < part < 1e9:
            raise InvalidError(f"{name}={value!r} is neither a number of {unit} above 0 nor a pair (request, limit) of them")
    assert isinstance(request, int | float)
    assert limit is None or isinstance(limit, int | float)
    if limit is not None and limit < request:
        raise InvalidError(f"{name}={value!r}: the limit is smaller than the request")
    return request, limit


def _networks(allowed: object, blocked: bool) -> tuple[str, ...] | None:
    if allowed is None:
        return None
    if blocked:
        raise InvalidError("block_network=True leaves nothing for outbound_cidr_allowlist= to allow; give one of them")
    if isinstance(allowed, str) or not isinstance(allowed, Collection):
        raise InvalidError(f'outbound_cidr_allowlist={allowed!r} is not a list, such as ["203.0.113.0/24"]')
    import ipaddress

    try:
        return tuple(str(ipaddress.IPv4Network(network)) for network in allowed)
    except ValueError as error:
        raise InvalidError(f"outbound_cidr_allowlist={allowed!r}: {error}; containers have IPv4 only") from error


def gpus(gpu: object) -> tuple[Gpu, ...]:
    """The alternatives of gpu=. Raises InvalidError."""
    if gpu is None or gpu is False or gpu == "":
        return ()
    if isinstance(gpu, list | tuple):
        if not gpu:
            raise InvalidError("gpu=[] names no GPU; leave it out, or give types in order of preference")
        return tuple(parse_gpu(str(one)) for one in gpu)
    if gpu is True:
        raise InvalidError('gpu=True is not a GPU type; write gpu="any" for any of them')
    return (parse_gpu(str(gpu)),)


def _scaling(min_containers: object, max_containers: object, buffer_containers: object, scaledown_window: object, max_pending: object) -> Scaling:
    low = 0 if min_containers is None else count("min_containers", min_containers, 0)
    high = None if max_containers is None else count("max_containers", max_containers, 1)
    if high is not None and low > high:
        raise InvalidError(f"min_containers={low} is more than max_containers={high}")
    spare = 0 if buffer_containers is None else count("buffer_containers", buffer_containers, 0)
    window = Scaling().scaledown_window_s if scaledown_window is None else seconds("scaledown_window", scaledown_window, 2, 3600)
    return Scaling(low, high, spare, window, None if max_pending is None else count("max_pending", max_pending, 1))


def count(name: str, value: object, low: int) -> int:
    """`value`, if it is a whole number of `low` or more. Raises InvalidError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise InvalidError(f"{name}={value!r} is not a whole number of {low} or more")
    return value


def seconds(name: str, value: object, low: int, high: int) -> float:
    """`value` as seconds, if it is in the range. Raises InvalidError."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidError(f"{name}={value!r} is not a number of seconds from {low} to {high}")
    return float(value)


def warn_of_no_effect(parameters: Mapping[str, Any], stacklevel: int) -> None:
    """Warn of each parameter that is accepted and does nothing; once, where the program was started."""
    if in_container():
        return
    for name, neutral in NO_EFFECT.items():
        if name in parameters and parameters[name] not in neutral:
            warnings.warn(f"{name}={parameters[name]!r} has no effect: Squall runs on your own machines", UserWarning, stacklevel=stacklevel)


def _check_type(name: str, value: object, kind: type, wanted: str) -> None:
    if not isinstance(value, kind):
        raise InvalidError(f"{name}={value!r} is not {wanted}")


def _warn(message: str, stacklevel: int) -> None:
    warnings.warn(message, DeprecationError, stacklevel=stacklevel + 1)
