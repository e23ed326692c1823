"""What a new version of an app changes, in words, and what it keeps running when nobody calls."""

from collections.abc import Iterator

from squall.model.resources import Resources
from squall.model.specs import AppSpec, FunctionSpec, ImageSpec

NEW, CHANGED, SAME, GONE = "new", "changed", "same", "gone"


def changes(before: AppSpec | None, after: AppSpec) -> list[tuple[str, str, list[str]]]:
    """For each function in order of its tag: tag, what happens to it, and words about each difference."""
    old = {function.tag: function for function in before.functions} if before is not None else {}
    new = {function.tag: function for function in after.functions}
    rows = []
    for tag in sorted({*old, *new}):
        if tag not in new:
            rows.append((tag, GONE, ["removed: what was accepted is finished, new calls are refused"]))
        elif tag not in old or before is None:
            rows.append((tag, NEW, list(_facts(new[tag]))))
        else:
            words = list(_differences(before, old[tag], after, new[tag]))
            rows.append((tag, CHANGED if words else SAME, words))
    return rows


def _facts(function: FunctionSpec) -> Iterator[str]:
    if function.resources.gpus:
        yield f"gpu {function.resources.gpus[0]}"
    if function.scaling.min_containers:
        yield f"min_containers {function.scaling.min_containers}"
    if function.may_deploy:
        yield "may deploy apps"


def _differences(before: AppSpec, old: FunctionSpec, after: AppSpec, new: FunctionSpec) -> Iterator[str]:
    if (steps := _steps(before.images[old.image], after.images[new.image])) is not None:
        yield f"image changed ({steps[0]} of {steps[1]} steps)"
    if old.source != new.source or old.pickled != new.pickled or (old.module, old.qualname) != (new.module, new.qualname):
        yield "code changed"
    if old.env != new.env or old.secrets != new.secrets:
        yield "environment changed"
    for name, was, now in (
        ("cpu", _cpu(old.resources), _cpu(new.resources)),
        ("memory", _memory(old.resources), _memory(new.resources)),
        ("gpu", _gpu(old.resources), _gpu(new.resources)),
        ("min_containers", str(old.scaling.min_containers), str(new.scaling.min_containers)),
        ("max_containers", str(old.scaling.max_containers or "no limit"), str(new.scaling.max_containers or "no limit")),
        ("buffer_containers", str(old.scaling.buffer_containers), str(new.scaling.buffer_containers)),
        ("scaledown_window", f"{old.scaling.scaledown_window_s:g} s", f"{new.scaling.scaledown_window_s:g} s"),
        ("max_pending", str(old.scaling.max_pending or "no limit"), str(new.scaling.max_pending or "no limit")),
        ("inputs at a time", str(old.concurrency.max_inputs), str(new.concurrency.max_inputs)),
        ("may deploy apps", ("no", "yes")[old.may_deploy], ("no", "yes")[new.may_deploy]),
        ("timeout", f"{old.timeout_s:g} s", f"{new.timeout_s:g} s"),
    ):
        if was != now:
            yield f"{name} {was} → {now}"
    if old.schedule != new.schedule:
        yield "schedule changed" if new.schedule is not None else "no schedule any more"
    if old.methods != new.methods or old.retries != new.retries:
        yield "declaration changed"


def _steps(old: ImageSpec, new: ImageSpec) -> tuple[int, int] | None:
    """How many steps have to be made anew, of how many; None: it is the same image."""
    if old == new:
        return None
    same = 0
    for mine, theirs in zip(new.steps, old.steps, strict=False):
        if mine != theirs:
            break
        same += 1
    return len(new.steps) - same, len(new.steps)


def _cpu(resources: Resources) -> str:
    return f"{resources.cpu_request:g}" if resources.cpu_limit is None else f"{resources.cpu_request:g}-{resources.cpu_limit:g}"


def _memory(resources: Resources) -> str:
    limit = resources.memory_limit_mib
    return f"{resources.memory_request_mib} MiB" if limit in (None, resources.memory_request_mib) else f"{resources.memory_request_mib}-{limit} MiB"


def _gpu(resources: Resources) -> str:
    return " or ".join(str(gpu) for gpu in resources.gpus) or "none"


def idle_cost(spec: AppSpec) -> list[tuple[str, str]]:
    """Functions that keep containers when nobody calls: tag, and what is reserved for them."""
    rows = []
    for function in spec.functions:
        count = function.scaling.min_containers
        if count:
            need = function.resources
            parts = [f"{count * need.cpu_request:g} cores", f"{count * need.memory_request_mib} MiB"]
            if need.gpus:
                parts.append(f"{count} × {need.gpus[0]}")
            rows.append((function.tag, f"{count} container{'s' if count != 1 else ''}: {', '.join(parts)}"))
    return rows
