"""Whether one declaration asks for more of the machines than another: code in a container may make its functions no larger than its program declares them."""

from collections.abc import Iterator

from squall.model.options import FunctionOptions
from squall.model.resources import Gpu, Resources
from squall.model.specs import Scaling

#: What a container may not go below, unless its function's declaration does: containers of next to nothing are many containers.
USABLE = Resources()


def sizes_of(options: FunctionOptions) -> FunctionOptions:
    """Of options those alone that say how large containers are and how many there may be."""
    return FunctionOptions(
        cpu_request=options.cpu_request,
        cpu_limit=options.cpu_limit,
        memory_request_mib=options.memory_request_mib,
        memory_limit_mib=options.memory_limit_mib,
        gpus=options.gpus,
        max_containers=options.max_containers,
        buffer_containers=options.buffer_containers,
    )


def more_resources(asked: Resources, allowed: Resources) -> Iterator[str]:
    """What of `asked` lies outside of `allowed`, each in words."""
    pairs = (
        ("cpu", asked.cpu_request, asked.cpu_limit, allowed.cpu_request, allowed.cpu_limit, USABLE.cpu_request),
        ("memory", asked.memory_request_mib, asked.memory_limit_mib, allowed.memory_request_mib, allowed.memory_limit_mib, USABLE.memory_request_mib),
    )
    for name, request, limit, most, limit_most, usable in pairs:
        if request > most:
            yield f"{name}={request:g} is more than {most:g}"
        if request < (least := min(most, usable)):
            yield f"{name}={request:g} is less than {least:g}"
        if limit_most is not None and (limit is None or limit > limit_most):
            yield f"{name} has the limit {'none' if limit is None else f'{limit:g}'}, which is more than {limit_most:g}"
    for gpu in asked.gpus:
        if not any(_covers(other, gpu) for other in allowed.gpus):
            yield f"gpu={str(gpu)!r} is none of {', '.join(map(str, allowed.gpus)) or 'none'}"


def more_containers(asked: Scaling, allowed: Scaling) -> Iterator[str]:
    """What of `asked` lies above `allowed`, each in words."""
    if asked.min_containers > allowed.min_containers:
        yield f"min_containers={asked.min_containers} is more than {allowed.min_containers}"
    if asked.buffer_containers > allowed.buffer_containers:
        yield f"buffer_containers={asked.buffer_containers} is more than {allowed.buffer_containers}"
    if allowed.max_containers is not None and (asked.max_containers is None or asked.max_containers > allowed.max_containers):
        yield f"max_containers={asked.max_containers} is more than {allowed.max_containers}"


def _covers(allowed: Gpu, asked: Gpu) -> bool:
    return allowed.type in ("any", asked.type) and asked.count <= allowed.count
