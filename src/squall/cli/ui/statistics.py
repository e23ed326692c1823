"""What many calls come to: how many of each state, and how long they took."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from squall.cli.ui.listing import Row

#: Of the latest inputs, so many are looked at.
INPUTS_MAX = 10_000


def of_inputs(rows: Sequence[Row], *, since: float | None = None, until: float | None = None) -> dict[str, Any]:
    """Of rows of ListCalls that were made in that time. Durations are seconds, of inputs that ended; None where there are none."""
    chosen = [row for row in rows if (since is None or row["created_at"] >= since) and (until is None or row["created_at"] < until)]
    states = Counter(row["state"] for row in chosen)
    ended = [row for row in chosen if row.get("ended_at") is not None]
    facts: dict[str, Any] = {"inputs": len(chosen), **dict(sorted(states.items()))}
    facts["retried"] = sum((row["attempts"] or 1) > 1 for row in chosen)
    for what, key in (("waited", "queued_s"), ("ran", "running_s")):
        values = sorted(row[key] for row in ended if row.get(key) is not None)
        for name, share in (("median", 0.5), ("p95", 0.95), ("max", 1.0)):
            facts[f"{what}_{name}_s"] = values[min(len(values) - 1, int(share * len(values)))] if values else None
    return facts
