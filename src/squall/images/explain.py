"""Why a layer is there or is not: what went into each is kept beside it, and compared with what would go into it now."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from typing import Any

import msgspec

from squall.images.layers import LayerInfo, LayerStore
from squall.images.place import mark
from squall.images.recipe import Command, LayerPlan, Plan
from squall.model.ids import LayerKey
from squall.model.specs import SourceFile

#: File in a layer's directory with its inputs.
INPUTS = "inputs.json"

#: A step with less of its text in common than this is another step, not a changed one; and so many of the latest are looked at.
_ALIKE_MIN, _RIVALS_MAX = 0.4, 100

#: Names of inputs as people know them.
_WORDS = {"argv": "the command", "reference": "the image's name", "python_version": "the version of Python", "version": "the version", "release": "the Debian"}
_WORDS |= {"secrets": "the secrets", "volumes": "the volumes", "scope": "the app", "source": "the source around the function"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one step: `hit`, or why not. `key` is empty for steps without a layer."""

    step: int
    title: str
    hit: bool
    key: str
    reason: str
    bytes: int = 0
    seconds: float = 0.0


def inputs(layer: LayerPlan) -> dict[str, Any]:
    """All that makes the layer what it is, as plain values. No secret's value is among them."""
    found: dict[str, Any] = {"kind": type(layer.action).__name__} | {name: _plain(value) for name, value in layer.own.items()}
    if isinstance(layer.action, Command):
        found |= {"environment": dict(layer.metadata.env), "directory": layer.metadata.workdir or ""}
        found |= {"gpus": list(map(str, layer.action.gpus)), "binds": [" ".join(bind) for bind in layer.action.binds]}
    for item in fields(layer.action):
        value = getattr(layer.action, item.name)
        if item.name not in ("unkeyed", "library", "timeout_s", "home", "memory_mib", "cpu", "network", *found):
            found[item.name] = _plain(value)
    return found


def encode(layer: LayerPlan) -> bytes:
    return msgspec.json.encode(inputs(layer))


def files_of(store: LayerStore, key: LayerKey) -> dict[str, str]:
    """What a layer of placed files has: path -> `place.mark`. Empty where that is not known."""
    try:
        found = msgspec.json.decode((store.root / key / INPUTS).read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
    files = found.get("files")
    return files if isinstance(files, dict) else {}


def explain(plan: Plan, store: LayerStore, known: Sequence[LayerInfo]) -> list[Explanation]:
    """One entry for every layer of the plan, in order. Blocks for some reads.

    Args:
        known: all layers there are, in the order of their making.
    """
    found: list[Explanation] = []
    parent, broken = "", ""
    for layer in plan.layers:
        info = store.info(layer.key) if store.present(layer.key) else None
        if layer.forced and not broken:
            reason = "force_build is set"
        elif info is not None:
            reason = ""
        elif broken:
            reason = f"step {broken} before it is built anew"
        else:
            reason = _difference(layer, parent, store, known)
        if reason and not broken:
            broken = str(layer.step)
        size, seconds = (info.bytes, info.seconds) if info is not None else (0, 0.0)
        found.append(Explanation(layer.step, layer.title, not reason, layer.key, reason, size, seconds))
        parent = layer.key
    return found


def _difference(layer: LayerPlan, parent: str, store: LayerStore, known: Sequence[LayerInfo]) -> str:
    now = inputs(layer)
    method, _, rest = layer.title.partition(" ")
    # Of several at this place that were made by the same method, the one that is most like it, and of these the latest.
    rivals = [info for info in known if info.parent == parent and info.kind == now["kind"] and info.title.partition(" ")[0] == method]
    alike = {info.key: SequenceMatcher(None, info.title.partition(" ")[2], rest, autojunk=False).ratio() for info in rivals[-_RIVALS_MAX:]}
    rivals = [info for info in rivals if alike.get(info.key, 0.0) >= _ALIKE_MIN]
    for rival in sorted(rivals, key=lambda info: (alike[info.key], info.built_at), reverse=True):
        try:
            before = msgspec.json.decode((store.root / rival.key / INPUTS).read_bytes(), type=dict[str, Any])
        except (FileNotFoundError, msgspec.DecodeError):
            continue
        changes = list(_changes(before, msgspec.to_builtins(now)))
        if changes:
            return "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" if len(changes) > 4 else "")
        return "its layer was made by another version of Squall, or removed"
    return "never built here with this before it"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new or not (old or new):  # a field that came later says nothing where it is empty
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            kind = "file" if name in ("files", "texts") else "variable"
            yield from _mapping(kind, old, new)
        elif name == "argv" and isinstance(old, list) and isinstance(new, list):
            gone, came = [word for word in old if word not in new], [word for word in new if word not in old]
            words = [f"{sign}{_short(word)}" for sign, group in (("-", gone), ("+", came)) for word in group]
            yield f"the command changed: {' '.join(words)}" if words else "the order of the command's words changed"
        else:
            yield f"{_WORDS.get(name, name)} changed from {_short(old)} to {_short(new)}"


def _mapping(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for verb, names in (
        ("changed", [name for name in new if name in old and old[name] != new[name]]),
        ("is new", [name for name in new if name not in old]),
        ("is gone", [name for name in old if name not in new]),
    ):
        if len(names) == 1:
            yield f"{kind} {names[0]} {verb}"
        elif names:
            yield f"{len(names)} {kind}s: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} {verb.replace('is', 'are')}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and value and isinstance(value[0], SourceFile):
        return {file.path: mark(file) for file in value}
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return dict(value)
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
