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
        last_used: image id, or key of a layer -> Unix time in seconds.
        keep: images that stay whatever their age: of functions that are there, and published ones.
        keep_layers: layers that stay: of running containers.
        older_than_s: images that were asked for within it stay. Exactly this old: it goes.
        budget_bytes: remove, the longest unused first, until all layers together have at most this. None with `older_than_s` None: all that can go.
    """
    size = {info.key: info.bytes for info in layers}
    total = sum(size.values())
    gone: list[str] = []
    removed: dict[str, None] = {}
    remaining = {record.id: record for record in records}

    def unneeded() -> list[str]:
        used = {key for record in remaining.values() for key in record.layers} | set(keep_layers)
        return [info.key for info in layers if info.key not in used and info.kind not in _LOOSE]

    def stays(name: str) -> bool:
        if older_than_s is not None and now - last_used.get(name, 0.0) < older_than_s:
            return True
        return budget_bytes is not None and total - sum(size[key] for key in removed) <= budget_bytes

    # Layers by themselves: loose ones, and those of builds that failed, from which the next try goes on.
    alone = {*unneeded(), *(info.key for info in layers if info.kind in _LOOSE and info.key not in keep_layers)}
    names = [*alone, *(record.id for record in records if record.id not in keep)]
    for name in sorted(names, key=lambda name: (last_used.get(name, 0.0), name)):
        if stays(name):
            continue
        if name in alone:
            removed[name] = None
            continue
        del remaining[name]
        gone.append(name)
        removed.update(dict.fromkeys(key for key in unneeded() if key not in alone))
    return Removal(tuple(gone), tuple(LayerKey(key) for key in removed), sum(size[key] for key in removed))
