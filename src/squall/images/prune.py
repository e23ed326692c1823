"""What leaves the disk: images that nobody needs, and layers that no image needs any more. Pure: it decides, `Builder.prune` removes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from squall.images.catalog import ImageRecord
from squall.images.layers import LayerInfo
from squall.model.ids import LayerKey

#: Layers that are made beside images and found again by what they hold, not by a record; they go only by age.
_LOOSE = frozenset({"source", "runner"})


@dataclass(frozen=True, slots=True)
class Removal:
    """Images to forget and layers to remove, the least needed first; `bytes` is what that frees."""

    images: tuple[str, ...]
    layers: tuple[LayerKey, ...]
    bytes: int


def plan_prune(
    records: Sequence[ImageRecord], layers: Sequence[LayerInfo], last_used: Mapping[str, float], *, keep: Collection[str], keep_layers: Collection[str],
    now: float, older_than_s: float | None = None, budget_bytes: int | None = None,
) -> Removal:  # fmt: skip
    """What to remove.

    Args:
        last_used: image id, or key of a loose layer -> Unix time in seconds.
        keep: images that stay whatever their age: of functions that are there, and published ones.
        keep_layers: layers that stay: of running containers.
        older_than_s: images that were asked for within it stay. Exactly this old: it goes.
        budget_bytes: remove, the longest unused first, until all layers together have at most this. None with `older_than_s` None: all that can go.
    """
    size = {info.key: info.bytes for info in layers}
    total = sum(size.values())
    gone: list[str] = []
    removed: dict[str, None] = {}
    everything = older_than_s is None and budget_bytes is None
    candidates = sorted((record for record in records if record.id not in keep), key=lambda record: (last_used.get(record.id, 0.0), record.id))
    remaining = {record.id: record for record in records}

    def within_budget() -> bool:
        return budget_bytes is None or total - sum(size[key] for key in removed) <= budget_bytes

    def drop_orphans() -> None:
        used = {key for record in remaining.values() for key in record.layers} | set(keep_layers)
        for info in layers:
            if info.key not in used and info.kind not in _LOOSE and info.key not in removed:
                removed[info.key] = None

    def old(name: str) -> bool:
        return older_than_s is None or now - last_used.get(name, 0.0) >= older_than_s

    drop_orphans()
    for record in candidates:
        if not old(record.id) or (budget_bytes is not None and within_budget()):
            continue
        del remaining[record.id]
        gone.append(record.id)
        drop_orphans()
    for info in layers:
        if info.kind in _LOOSE and info.key not in keep_layers and old(info.key) and (everything or older_than_s is not None or not within_budget()):
            removed[info.key] = None
    return Removal(tuple(gone), tuple(LayerKey(key) for key in removed), sum(size[key] for key in removed))
