"""Figures: how one is declared, collected over rounds, and shown. The document that comes of it is the one format of all suites."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Invalid(Exception):
    """The measured path was not the one that the figure is about, so there is no figure."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a name means. `target` is at most (`lower` is better) or at least to be reached; None where only a ratio can be asked for."""

    unit: str
    target: float | None = None
    lower: bool = True


@dataclass(slots=True)
class Report:
    """Values of each round by name; Squall's and, where they have the same work, the peers'."""

    metrics: Mapping[str, Metric]
    rounds: dict[str, list[float]] = field(default_factory=dict)
    peers: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, name: str, value: float, peer: str | None = None) -> None:
        if name not in self.metrics:
            raise KeyError(f"{name} is not declared in this suite")
        target = self.rounds if peer is None else self.peers.setdefault(peer, {})
        target.setdefault(name, []).append(value)

    def document(self) -> dict[str, Any]:
        """The median of the rounds counts; `spread` is the difference of the largest and the smallest."""
        metrics = {
            name: {
                "value": _rounded(statistics.median(values)),
                "unit": self.metrics[name].unit,
                "target": self.metrics[name].target,
                "runs": len(values),
                "spread": _rounded(max(values) - min(values)),
                "lower_is_better": self.metrics[name].lower,
            }
            for name, values in sorted(self.rounds.items(), key=lambda entry: list(self.metrics).index(entry[0]))
        }
        peers = {peer: {name: _rounded(statistics.median(values)) for name, values in found.items()} for peer, found in self.peers.items()}
        return {"metrics": metrics, "peers": peers}


def table(document: Mapping[str, Any]) -> str:
    """The document for people: one line a figure, whether its target is reached, the peers beside it."""
    peers = list(document["peers"])
    lines = [["", "value", "unit", "target", "", "spread", "runs", *peers]]
    for name, metric in document["metrics"].items():
        target = metric["target"]
        mark = ""
        if target is not None:
            reached = metric["value"] <= target if metric["lower_is_better"] else metric["value"] >= target
            mark = "✓" if reached else "✗"
        bound = "" if target is None else f"{'≤' if metric['lower_is_better'] else '≥'} {target:,g}"
        beside = [f"{document['peers'][peer][name]:,g}" if name in document["peers"][peer] else "" for peer in peers]
        lines.append([name, f"{metric['value']:,g}", metric["unit"], bound, mark, f"{metric['spread']:,g}", str(metric["runs"]), *beside])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    left = {0, 2, 3, 4}
    shown = [
        "  ".join(cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    head = f"{document['suite']} at {document['commit']} on {document['machine']['summary']}"
    return "\n".join([head, *(line.rstrip() for line in shown)])


def _rounded(value: float) -> float:
    """Four figures: more would only pretend."""
    return float(f"{value:.4g}")
