"""What a new version of an app changes, in words, and what it keeps running when nobody calls."""

from collections.abc import Iterator

from squall.model.fields import Change, differences
from squall.model.specs import AppSpec, FunctionSpec, ImageSpec

NEW, CHANGED, SAME, GONE = "new", "changed", "same", "gone"


def changes(before: AppSpec | None, after: AppSpec) -> list[tuple[str, str, list[str]]]:
    """For each function in order of its tag: tag, what happens to it, and words about each difference; before them, with an empty tag, of the app itself."""
    old = {function.tag: function for function in before.functions} if before is not None else {}
    new = {function.tag: function for function in after.functions}
    rows = []
    if before is not None and (words := [change.phrase for change in differences(AppSpec, before, after)]):
        rows.append(("", CHANGED, words))
    for tag in sorted({*old, *new}):
        if tag not in new:
            rows.append((tag, GONE, ["removed: what was accepted is finished, new calls are refused"]))
        elif tag not in old or before is None:
            rows.append((tag, NEW, list(_facts(new[tag]))))
        else:
            words = _differences(before, old[tag], after, new[tag])
            rows.append((tag, CHANGED if words else SAME, words))
    return rows


def _facts(function: FunctionSpec) -> Iterator[str]:
    if function.resources.gpus:
        yield f"gpu {function.resources.gpus[0]}"
    if function.scaling.min_containers:
        yield f"min_containers {function.scaling.min_containers}"
    if function.may_deploy:
        yield "may deploy apps"


def _differences(before: AppSpec, old: FunctionSpec, after: AppSpec, new: FunctionSpec) -> list[str]:
    found = differences(FunctionSpec, old, new)
    if (steps := _steps(before.images[old.image], after.images[new.image])) is not None:
        found.insert(sum(change.isolation for change in found), Change(f"image changed ({steps[0]} of {steps[1]} steps)"))
    return [change.phrase for change in found]


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
