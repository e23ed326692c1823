"""What the two surfaces say of each name: equal, different, refuses, never, or missing; with the reasons of `reasons.toml`."""

import fnmatch
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REASONS = Path(__file__).with_name("reasons.toml")
VERDICTS = ("equal", "different", "refuses", "never", "missing")
POSITIONAL = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")

Surface = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """A name, or a parameter of one as ``name(parameter=)``."""

    name: str
    verdict: str
    why: str = ""

    @property
    def is_parameter(self) -> bool:
        return self.name.endswith(")")


@dataclass(slots=True)
class Reasons:
    """The data file: pattern -> reason, by verdict; and how many may be missing."""

    given: dict[str, dict[str, str]]
    most_missing: dict[str, int]
    used: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path = REASONS) -> "Reasons":
        text = tomllib.loads(path.read_text())
        return cls({verdict: text.get(verdict, {}) for verdict in ("different", "refuses", "never")}, text["most_missing"])

    def of(self, name: str, *verdicts: str) -> tuple[str, str] | None:
        """The verdict and the reason of the longest pattern that fits. One with parentheses is of parameters, one without of names."""
        fitting = [
            (len(pattern), pattern, verdict, why)
            for verdict in verdicts
            for pattern, why in self.given[verdict].items()
            if ("(" in name) == ("(" in pattern) and fnmatch.fnmatchcase(name, pattern)
        ]
        if not fitting:
            return None
        _, pattern, verdict, why = max(fitting)
        self.used.add(pattern)
        return verdict, why

    def exactly(self, name: str, verdict: str) -> tuple[str, str] | None:
        """The reason that names it in full: of what can be used up to a point, such as a decorator whose app then can't run."""
        return self.of(name, verdict) if name in self.given[verdict] else None

    @property
    def stale(self) -> list[str]:
        """Patterns that say nothing of any name."""
        return [pattern for given in self.given.values() for pattern in given if pattern not in self.used]


def compare(reference: Surface, squall: Surface, reasons: Reasons) -> list[Row]:
    """A row for each name of Modal's, followed by those of its parameters that both have."""
    rows: list[Row] = []
    for name, theirs in reference.items():
        ours = squall.get(name)
        parameters = _parameters(name, theirs, ours, reasons) if ours is not None else []
        rows += [_name(name, theirs, ours, parameters, reasons), *parameters]
    return rows


def _name(name: str, theirs: dict[str, Any], ours: dict[str, Any] | None, parameters: list[Row], reasons: Reasons) -> Row:
    if ours is not None and ours["kind"] == "refuses":
        return Row(name, *(reasons.of(name, "never", "refuses") or ("missing", "refused, without a group in reasons.toml")))
    if ours is None:
        return Row(name, *(reasons.of(name, "never") or ("missing", "")))
    if differs := _differs(theirs, ours):
        return Row(name, *(reasons.of(name, "different", "refuses") or ("missing", differs)))
    if given := reasons.of(name, "different") or reasons.exactly(name, "refuses"):
        return Row(name, *given)
    unequal = [row for row in parameters if row.verdict != "equal"]
    if unequal:
        return Row(name, "different", "parameters below")
    return Row(name, "equal")


def _differs(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """How a name itself differs, apart from its parameters."""
    kinds = {"value": "property", "alias": ours["kind"], "manager": "property"}
    if kinds.get(theirs["kind"], theirs["kind"]) != kinds.get(ours["kind"], ours["kind"]):
        return f"is a {ours['kind']}, not a {theirs['kind']}"
    if theirs.get("aio") and not ours.get("aio"):
        return "no .aio"
    if theirs.get("value") != ours.get("value"):
        return f"is {ours.get('value')}, not {theirs['value']}"
    return ""


def _parameters(name: str, theirs: dict[str, Any], ours: dict[str, Any], reasons: Reasons) -> list[Row]:
    if theirs["kind"] not in ("function", "class") or ours["kind"] != theirs["kind"] or "parameters" not in theirs:
        return []
    if theirs["kind"] == "class" and all(kind.startswith("VAR_") for _, kind, _ in theirs["parameters"]):
        return []  # its objects are made by other names
    own = {parameter[0]: parameter for parameter in ours.get("parameters", [])}
    own_places = [parameter[0] for parameter in ours.get("parameters", []) if parameter[1] in POSITIONAL]
    rows, place = [], 0
    for parameter, kind, default in theirs["parameters"]:
        title = f"{name}({parameter}=)"
        positional = kind in POSITIONAL
        differs = ""
        if kind.startswith("VAR_"):
            differs = "" if any(one[1] == kind for one in own.values()) else f"no {'**' if 'KEY' in kind else '*'}{parameter}"
        elif parameter not in own:
            differs = "no such parameter"
        elif own[parameter][2] != default:
            differs = f"default {own[parameter][2]}, not {default}" if default is not None else f"has a default, {own[parameter][2]}"
        elif positional and (place >= len(own_places) or own_places[place] != parameter):
            differs = "not at that place"
        elif not positional and own[parameter][1] == "POSITIONAL_ONLY":
            differs = "can't be given by its name"
        place += positional
        given = reasons.of(title, "different", "refuses", "never")
        rows.append(Row(title, *given) if given else Row(title, "missing", differs) if differs else Row(title, "equal"))
    return rows
