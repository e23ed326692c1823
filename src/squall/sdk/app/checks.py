"""Checks of single parameters: each takes the parameter's name and its value, gives what the spec has of it, and says by name what is wrong."""

from collections.abc import Callable, Collection
from typing import Any

from squall.model.errors import InvalidError
from squall.model.resources import Gpu, Resources, parse_gpu

Check = Callable[[str, Any], Any]

DAY_S = 86_400


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


def counted(low: int) -> Check:
    return lambda name, value: count(name, value, low)


def lasting(low: int, high: int) -> Check:
    return lambda name, value: seconds(name, value, low, high)


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidError(f"{name}={value!r} is not True or False")
    return value


def flag_or_none(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidError(f"{name}={value!r} is not True, False or None")
    return value


def cores(name: str, cpu: object) -> tuple[float, float | None]:
    """What cpu= reserves, and its limit."""
    request, limit = _request_and_limit(name, cpu, "cores")
    return float(request), None if limit is None else float(limit)


def mebibytes(name: str, memory: object) -> tuple[int, int | None]:
    """What memory= reserves, and its limit: a single number sets none."""
    request, limit = _request_and_limit(name, memory, "MiB")
    if int(request) != request or (limit is not None and int(limit) != limit):
        raise InvalidError(f"{name}={memory!r} is not a whole number of MiB")
    return int(request), None if limit is None else int(limit)


def resources(cpu: object, memory: object, gpu: object) -> Resources:
    """What cpu=, memory= and gpu= of a build step ask for. Raises InvalidError."""
    default = Resources()
    cpu_request, cpu_limit = (default.cpu_request, None) if cpu is None else cores("cpu", cpu)
    memory_request, memory_limit = (default.memory_request_mib, None) if memory is None else mebibytes("memory", memory)
    return Resources(cpu_request, cpu_limit, memory_request, memory_limit, gpus=gpus(gpu))


def gpus(gpu: object) -> tuple[Gpu, ...]:
    """The alternatives of gpu=. Raises InvalidError."""
    if gpu is None or gpu is False or gpu == "":
        return ()
    if isinstance(gpu, list | tuple):
        if not gpu:
            raise InvalidError("gpu=[] names no GPU; leave it out, or give types in order of preference")
        return tuple(_gpu(one) for one in gpu)
    return (_gpu(gpu),)


def _gpu(gpu: object) -> Gpu:
    if isinstance(gpu, int | float):
        raise InvalidError(f'gpu={gpu!r} is not a GPU type; write gpu="any" for any of them, gpu="any:2" for two')
    return parse_gpu(str(gpu))


def networks(name: str, allowed: object) -> tuple[str, ...]:
    """IPv4 networks, as text."""
    if isinstance(allowed, str) or not isinstance(allowed, Collection):
        raise InvalidError(f'{name}={allowed!r} is not a list, such as ["203.0.113.0/24"]')
    import ipaddress

    try:
        return tuple(str(ipaddress.IPv4Network(network)) for network in allowed)
    except ValueError as error:
        raise InvalidError(f"{name}={allowed!r}: {error}; containers have IPv4 only") from error


def runtime(name: str, value: object) -> str:
    if value != "gvisor":
        raise InvalidError(f'{name}={value!r} is unknown; write {name}="gvisor", or leave it out for the server\'s default')
    return "gvisor"


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
